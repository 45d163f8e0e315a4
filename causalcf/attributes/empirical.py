"""The marginal distribution of a root, as the data have it: x = b(T(u)), u ~ N(0, 1), T piecewise linear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from causalcf.attributes.base import ContinuousMechanism, finite_support, scale_of, support_bijection
from causalcf.attributes.piecewise import NormalScore
from causalcf.errors import GraphError
from causalcf.graph import Node
from causalcf.mechanism import Parents

__all__ = ["Empirical"]


class Empirical(ContinuousMechanism):
    """A continuous attribute without parents, distributed as in the data; fitted in closed form.

    Args:
        spec: what `prepare` found; given when a saved mechanism is loaded.
    """

    def __init__(self, *, spec: Mapping[str, Any] | None = None) -> None:
        super().__init__(spec, {})

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        if parent_nodes:
            raise GraphError(
                f"node '{node.name}' has parents {', '.join(parent.name for parent in parent_nodes)}, and Empirical is for nodes "
                "without. Use LinearGaussian, AdditiveNoise, LocationScale or Flow."
            )
        scale_of(value, node.name)
        support = finite_support(node)
        self._start({"support": support, "marginal": NormalScore.fit(support_bijection(support).inv(value.double())).knots})

    def _build(self, spec: Mapping[str, Any]) -> None:
        self.marginal = NormalScore(**spec["marginal"])

    def _forward(self, noise: Tensor, parents: Parents) -> Tensor:
        return cast(Tensor, self.marginal(noise))

    def _backward(self, flat: Tensor, parents: Parents) -> tuple[Tensor, Tensor]:
        return self.marginal.inverse(flat)
