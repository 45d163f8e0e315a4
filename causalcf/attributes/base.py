"""What every attribute mechanism shares: how it reads its parents, sizes itself on data, and is written to files."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causalcf.errors import DataError, NotFittedError
from causalcf.graph import Node
from causalcf.mechanism import Mechanism, Parents
from causalcf.seeds import RowGenerator

__all__ = [
    "AttributeMechanism",
    "Context",
    "ContinuousMechanism",
    "Perceptron",
    "describe_parents",
    "finite_support",
    "scale_of",
    "support_bijection",
]

_ROWS = 8192  # of hidden activations at a time, so that they stay in the processor's cache: twice as fast


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


def finite_support(node: Node) -> list[float | None] | None:
    """The ends of a node's support as JSON can hold them: an infinite end is None, no support is None."""
    return [None if math.isinf(end) else end for end in node.support] if node.support else None


def support_bijection(ends: Sequence[float | None] | None) -> T.Transform:
    """A smooth monotone map from the line onto the open interval `ends`; an infinite or missing end is no bound."""
    low, high = (None if end is None or math.isinf(end) else end for end in ends or (None, None))
    if low is not None and high is not None:
        return T.ComposeTransform([T.SigmoidTransform(), T.AffineTransform(low, high - low)])
    if low is not None:
        return T.ComposeTransform([T.ExpTransform(), T.AffineTransform(low, 1.0)])
    if high is not None:
        return T.ComposeTransform([T.ExpTransform(), T.AffineTransform(high, -1.0)])
    return T.identity_transform


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
        if torch.is_grad_enabled() or len(context) <= _ROWS:
            return self._call_some(context)
        return torch.cat([self._call_some(some) for some in torch.split(context, _ROWS)])

    def _call_some(self, context: Tensor) -> Tensor:
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


class ContinuousMechanism(AttributeMechanism):
    """A continuous attribute x = b(g(u, pa)), where b maps the line onto the node's support; u is normal unless told otherwise.

    A subclass says g, monotone in u, by `_forward` and `_backward`; its specification has a "support". Everything else, the
    density in the user's unit included, is here.
    """

    def check(self, node: Node, parent_nodes: Sequence[Node]) -> None:
        if node.kind != "continuous":
            raise DataError(f"'{node.name}' is {node.kind}: {type(self).__name__} is for continuous nodes.")

    def _start(self, spec: Mapping[str, Any]) -> None:
        super()._start(spec)
        low, high = spec["support"] or (None, None)
        self.bounded = low is not None or high is not None
        self.inside = (  # an extreme noise rounds to an end of the support, which is not part of it
            None if low is None else math.nextafter(low, math.inf),
            None if high is None else math.nextafter(high, -math.inf),
        )
        self.onto_support = support_bijection(spec["support"])
        self._prior = self._make_prior()

    def _make_prior(self) -> dist.TorchDistribution:
        return cast(dist.TorchDistribution, dist.Normal(torch.zeros_like(self._anchor), 1.0))

    @abstractmethod
    def _forward(self, noise: Tensor, parents: Parents) -> Tensor:
        """g(u, pa): the place on the line, (batch,)."""

    @abstractmethod
    def _backward(self, flat: Tensor, parents: Parents) -> tuple[Tensor, Tensor]:
        """The noise of a place on the line, and log |dg / du| there, both (batch,) or broadcast to it."""

    def noise_prior(self) -> dist.TorchDistribution:
        self._fitted()
        return self._prior

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        self._fitted()
        return generator.normal()

    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        self._fitted()
        with torch.no_grad():
            return self._backward(self._flat(value), parents)[0]

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        self._fitted()
        with torch.no_grad():
            flat = self._forward(noise, parents)
            return cast(Tensor, self.onto_support(flat)).clamp(*self.inside) if self.bounded else flat

    def loss(self, value: Tensor, parents: Parents, *, generator: Any = None) -> Tensor:
        self._fitted()
        flat = self._flat(value)
        noise, log_slope = self._backward(flat, parents)
        loss = log_slope - self._noise_log_prob(noise)
        return loss + self.onto_support.log_abs_det_jacobian(flat, value) if self.bounded else loss

    def _noise_log_prob(self, noise: Tensor) -> Tensor:
        return -0.5 * (noise.square() + math.log(2 * math.pi))

    def _flat(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.onto_support.inv(value)) if self.bounded else value
