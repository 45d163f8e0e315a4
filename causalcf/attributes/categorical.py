"""Discrete attributes by Gumbel-max: x = argmax_k [log p_k(pa) + u_k], u_k ~ Gumbel(0, 1), abducted from the exact posterior.

M. Oberst, D. Sontag, "Counterfactual Off-Policy Evaluation with Gumbel-Max Structural Causal Models", ICML 2019,
https://arxiv.org/abs/1905.05824; C. J. Maddison, D. Tarlow, T. Minka, "A* Sampling", NeurIPS 2014,
https://arxiv.org/abs/1411.0030.
"""

from __future__ import annotations

from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalcf.attributes.probabilities import DiscreteMechanism, edges_of, threshold_types
from causalcf.errors import DataError
from causalcf.mechanism import Parents
from causalcf.seeds import RowGenerator

__all__ = ["Categorical"]


def _joint_argmax(p: Tensor, q: Tensor) -> Tensor:
    """P(argmax_k [log p_k + u_k] = j and argmax_k [log q_k + u_k] = k) for the same Gumbel u: (..., state, state).

    With e_k = exp(-u_k) ~ Exp(1) the two winners are argmin e / p and argmin e / q. Let the minima be s and r s. No e_i lies
    below s max(p_i, r q_i), so for j != k

        P(j, k) = p_j q_k int dr / h(r)^2  over  p_k / q_k < r < p_j / q_j,    h(r) = sum_i max(p_i, r q_i),

    and P(j, j) = p_j / h(p_j / q_j), as in R. Moulton, Y. Jiang, "Maximally Consistent Sampling and the Jaccard Index of
    Probability Distributions", 2018, https://arxiv.org/abs/1809.04052. Below, r = t / (1 - t), so that a zero does no harm.
    """
    t = torch.where(p + q > 0, p / (p + q), 0.5)
    h = torch.maximum(p[..., None, :] * (1 - t[..., None]), q[..., None, :] * t[..., None]).sum(-1)  # times 1 - t
    ascending, order = t.sort(dim=-1)
    at = h.gather(-1, order)
    pieces = ascending.diff() / (at[..., 1:] * at[..., :-1])  # h is linear between two neighbours
    integral = nn.functional.pad(pieces.cumsum(-1), (1, 0)).gather(-1, order.argsort(dim=-1))
    apart = p[..., :, None] * q[..., None, :] * (integral[..., :, None] - integral[..., None, :]).clamp(min=0)
    alike = torch.where(p + q > 0, p * q / (p + q), 0.0) / h
    return torch.where(torch.eye(p.shape[-1], dtype=torch.bool), torch.diag_embed(alike), apart)


class Categorical(DiscreteMechanism):
    """A discrete attribute: categories by Gumbel-max, abducted from the exact posterior.

    Treats all states alike, whatever their order: a unit leaves its state only for one that gained more (counterfactual
    stability). With two states it is the same assumption as `Monotone`. See `DiscreteMechanism` for the arguments: `model`,
    `probabilities`, `hidden`, `smoothing`.

    Example:
        >>> mechanism = Categorical(probabilities=[[0.7, 0.3], [0.4, 0.6]])
        >>> mechanism.joint({"treated": torch.tensor([0])}, {"treated": torch.tensor([1])})
        tensor([[[0.4000, 0.3000],
                 [0.0000, 0.3000]]], dtype=torch.float64)
    """

    def noise_prior(self) -> dist.TorchDistribution:
        self._fitted()
        return cast(dist.TorchDistribution, dist.Gumbel(self._anchor.new_zeros(self.states), 1.0).to_event(1))

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        self._fitted()
        return generator.gumbel(self.states)

    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        # Maddison et al. 2014, section 2: the maximum is Gumbel(logsumexp), the others are truncated at it
        with torch.no_grad():
            log_p = self.log_probabilities(parents).expand(len(value), self.states)
            never = torch.isneginf(log_p)
            self._check_possible(never.gather(1, value[:, None])[:, 0], value)
            draws = generator.gumbel(self.states + 1)
            top = draws[:, :1] + torch.logsumexp(log_p, dim=-1, keepdim=True)
            others = -torch.logaddexp(-top, -(draws[:, 1:] + log_p))
            others = torch.minimum(others, top - 1e-9 * top.abs().clamp(min=1))  # a tie by rounding would change the winner
            winner = nn.functional.one_hot(value, self.states).bool()
            noise = torch.where(winner, top, others) - log_p
            return torch.where(never, draws[:, 1:], noise)  # that an impossible state lost says nothing about its noise

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        with torch.no_grad():
            return (self.log_probabilities(parents) + noise).argmax(dim=-1)

    def joint(self, parents: Parents, others: Parents) -> Tensor:
        with torch.no_grad():
            first, second = self.log_probabilities(parents).exp(), self.log_probabilities(others).exp()
            return _joint_argmax(first, second)

    def response_types(self) -> tuple[Tensor, Tensor]:
        """As in `DiscreteMechanism`: for two states, where a Gumbel difference is a threshold, or without parents."""
        table = self.table()
        if self.states > 2 and len(table) > 1:
            raise DataError(
                f"Gumbel-max noise over {self.states} states has no finite form. Use joint(parents, others), which is exact for "
                "two configurations of the parents, or Monotone or ResponseType."
            )
        return threshold_types(edges_of(table.log()))
