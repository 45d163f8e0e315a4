"""The contract that every node of a structural causal model keeps: x = f(u, pa).

    name        symbol   meaning
    value       x        the node's value, one a row: (batch,) or (batch, channel, height, width)
    parents     pa       the values of its parents, by name
    noise       u        its exogenous noise, one a row

An age, a diagnosis and a radiograph are all nodes. Two promises hold for each: `predict(abduct(x, pa), pa)` gives back x,
and `predict(u, pa)` with u drawn from `noise_prior()` is a draw from p(x | pa).

J. Pearl, "Causality", 2nd edition, 2009, section 7.1, gives the three steps abduction, action, prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pyro.distributions import TorchDistribution

    from causalcf.graph import Node
    from causalcf.guidance import Guidance
    from causalcf.precision import Precision
    from causalcf.seeds import RowGenerator
    from causalcf.solvers import Solver

__all__ = ["Mechanism", "Parents", "listening", "tell"]

Parents = Mapping[str, Tensor]
_heard: ContextVar[dict[str, Tensor] | None] = ContextVar("heard", default=None)


@contextmanager
def listening() -> Iterator[dict[str, Tensor]]:
    """What mechanisms `tell` meanwhile, by name, a number a row."""
    heard: dict[str, Tensor] = {}
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


def tell(**quantities: Tensor) -> None:
    """From inside `abduct` or `predict`: what it took, a number a row each; nobody need be listening."""
    heard = _heard.get()
    if heard is not None:
        heard.update(quantities)


class Mechanism(nn.Module, ABC):
    """How a node gets its value from its parents and its noise.

    Attributes:
        exact: whether `predict` undoes `abduct` exactly but for rounding. A row whose parents did not move then keeps its
            factual value bit for bit; a mechanism that is only accurate says False, so that its error can be seen.
        identified: whether the value determines the noise. If not, abduction is a posterior draw, and so is the answer.
    """

    exact: ClassVar[bool] = True
    identified: bool = True

    @property
    def by_moved(self) -> bool:
        """Whether `changed` of `predict` should be the parents that moved in the row, not all that the intervention reaches."""
        return False

    def check(self, node: Node, parent_nodes: Sequence[Node]) -> None:
        """Raise a DataError unless this mechanism can belong to this node with these parents."""

    @abstractmethod
    def noise_prior(self) -> TorchDistribution:
        """The distribution of one row of noise."""

    @abstractmethod
    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        """A noise that explains the value exactly under these parents: (batch, *noise)."""

    @abstractmethod
    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        """The value that this noise gives under these parents: (batch, *value).

        Args:
            noise: (batch, *noise).
            parents: a value a row for every parent.
            changed: the parents that an intervention moved, directly or through the graph; guidance needs them.
        """

    @abstractmethod
    def loss(self, value: Tensor, parents: Parents, *, generator: Any) -> Tensor:
        """What training minimises, one number a row: (batch,)."""

    @property
    def training_settings(self) -> Mapping[str, Any]:
        """What the loss and the network's shape depend on, as JSON: a run that was stopped goes on under these alone."""
        return {}

    def training_draws(self, value: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        """What `loss` draws for a batch, a row each, for a batch that is divided: `loss` then takes some rows of it as generator.

        A mechanism that has nothing to divide gives nothing, and `loss` gets a generator for every part.
        """
        return {}

    def validation_losses(self, value: Tensor, parents: Parents, *, generator: Any) -> Mapping[str, Tensor]:
        """What training logs for held-out rows, (row,) by name."""
        with torch.inference_mode():
            return {"all": self.loss(value, parents, generator=generator)}

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        """Size the mechanism for this node and these data, before training; a mechanism that is known needs nothing."""

    @abstractmethod
    def draw_noise(self, generator: RowGenerator) -> Tensor:
        """One draw from `noise_prior` for every row of the generator, reproducible row by row: (batch, *noise)."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write everything that `load` needs into an existing empty directory: JSON and safetensors."""

    @classmethod
    @abstractmethod
    def load(cls, directory: Path) -> Self:
        """The mechanism that `save` wrote."""

    def configured(
        self,
        *,
        guidance: Guidance | None = None,
        steps: int | None = None,
        solver: Solver | None = None,
        precision: Precision | None = None,
    ) -> Self:
        """This mechanism with other settings for its predictions; one that has no such settings is itself."""
        return self
