"""Discrete attributes by a threshold: one uniform noise, cut by the cumulative probabilities of the ordered states.

    x = k  where  F_(k-1)(pa) <= u < F_k(pa),  u ~ U(0, 1),  F_k(pa) = p_0(pa) + ... + p_k(pa)

A unit keeps its rank: where the parents raise the scale for everyone, no one falls. For a binary node that is the assumption of
monotonicity, under which the probabilities of necessity and sufficiency are identified: J. Pearl, "Causality", 2nd edition,
2009, section 9.2.3; J. Tian, J. Pearl, "Probabilities of Causation: Bounds and Identification", 2000,
https://arxiv.org/abs/1301.3898.
"""

from __future__ import annotations

from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor

from causalcf.attributes.probabilities import DiscreteMechanism, cut, edges_of, threshold_types, uniform_between
from causalcf.mechanism import Parents
from causalcf.seeds import RowGenerator

__all__ = ["Monotone"]


class Monotone(DiscreteMechanism):
    """A discrete attribute by a threshold: the states in the order in which the node declares them, one uniform noise.

    See `DiscreteMechanism` for the arguments: `model`, `probabilities`, `hidden`, `smoothing`. A state that is possible but has
    a probability below 1e-12 is given that much of the unit interval.

    Example:
        >>> mechanism = Monotone(probabilities=[[0.7, 0.3], [0.4, 0.6]])  # p(no, yes) untreated, treated
        >>> mechanism.joint({"treated": torch.tensor([0])}, {"treated": torch.tensor([1])})  # no one is harmed
        tensor([[[0.4000, 0.3000],
                 [0.0000, 0.3000]]], dtype=torch.float64)
    """

    def noise_prior(self) -> dist.TorchDistribution:
        self._fitted()
        return cast(dist.TorchDistribution, dist.Uniform(self._anchor, self._anchor + 1))

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        self._fitted()
        return generator.uniform()

    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        with torch.no_grad():
            edges = self.edges(parents).expand(len(value), self.states + 1)
            low, high = (edges.gather(1, (value + side)[:, None])[:, 0] for side in (0, 1))
            self._check_possible(low >= high, value)
            return uniform_between(low, high, generator.uniform())

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        with torch.no_grad():
            return cut(noise, self.edges(parents))

    def joint(self, parents: Parents, others: Parents) -> Tensor:
        with torch.no_grad():
            first, second = self.edges(parents)[..., :, None], self.edges(others)[..., None, :]
            low = torch.maximum(first[..., :-1, :], second[..., :-1])
            high = torch.minimum(first[..., 1:, :], second[..., 1:])
            return (high - low).clamp(min=0)

    def response_types(self) -> tuple[Tensor, Tensor]:
        return threshold_types(edges_of(self.table().log()))
