"""What every attribute mechanism shares: how it reads its parents, sizes itself on data, and is written to files."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causalcf.errors import DataError, NotFittedError
from causalcf.graph import Node
from causalcf.mechanism import Mechanism, Parents

__all__ = ["AttributeMechanism", "Context", "Perceptron", "describe_parents", "scale_of"]


def describe_parents(nodes: Sequence[Node], parents: Parents) -> list[dict[str, Any]]:
    """What a network needs to know of its parents, in order: how many states, or mean and scale."""
    spec: list[dict[str, Any]] = []
    for node in nodes:
        if node.discrete:
            spec.append({"name": node.name, "states": len(node.states or ())})
        else:
            value = parents[node.name].double()
            spec.append({"name": node.name, "mean": float(value.mean()), "scale": scale_of(value, node.name)})
    return spec


def scale_of(value: Tensor, name: str) -> float:
    """The standard deviation of a column, (row,); a constant column is an error."""
    if not value.max() > value.min():
        raise DataError(f"column '{name}' is constant: nothing can be learned from it. Remove the node or bring more rows.")
    return float(value.std())


class Context(nn.Module):
    """Parents as one row of numbers: standardised, or one-hot."""

    def __init__(self, parents: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.parents = list(parents)
        self.width = sum(parent.get("states", 1) for parent in parents)

    def forward(self, parents: Parents) -> Tensor:
        columns = [
            nn.functional.one_hot(parents[spec["name"]], spec["states"]).double()
            if "states" in spec
            else ((parents[spec["name"]] - spec["mean"]) / spec["scale"])[..., None]
            for spec in self.parents
        ]
        return torch.cat(columns, dim=-1)


class Perceptron(nn.Module):
    """A linear map plus a small network, so that what is linear extrapolates as a line; it starts at zero."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.bent = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, out))
        for layer in (self.linear, cast(nn.Linear, self.bent[2])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, context: Tensor) -> Tensor:
        return cast(Tensor, self.linear(context) + self.bent(context))


class AttributeMechanism(Mechanism):
    """What the attribute mechanisms share: a specification that `prepare` reads off the data, and their files."""

    def __init__(self, spec: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec: dict[str, Any] | None = None
        self.settings = dict(settings)
        self._anchor: Tensor
        self.register_buffer("_anchor", torch.zeros((), dtype=torch.float64), persistent=False)
        if spec is not None:
            self._start(spec)

    def _start(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._build(self.spec)
        self.double()

    @abstractmethod
    def _build(self, spec: Mapping[str, Any]) -> None:
        """Make the parameters that the specification sizes."""

    def _fitted(self) -> dict[str, Any]:
        if self.spec is None:
            raise NotFittedError(f"this {type(self).__name__} was never fitted. Call causalcf.fit(scm, batch) first.")
        return self.spec

    def save(self, directory: Path) -> None:
        record = {"spec": self._fitted(), "settings": self.settings}
        (directory / "mechanism.json").write_text(json.dumps(record, indent=1))
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        record = json.loads((directory / "mechanism.json").read_text())
        mechanism = cls(spec=record["spec"], **record["settings"])
        mechanism.load_state_dict(load_file(directory / "weights.safetensors"))
        return mechanism.eval()
