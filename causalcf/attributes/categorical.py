"""Discrete attributes by Gumbel-max: x = argmax_k [log p_k(pa) + u_k], u_k ~ Gumbel(0, 1), abducted from the exact posterior.

M. Oberst, D. Sontag, "Counterfactual Off-Policy Evaluation with Gumbel-Max Structural Causal Models", ICML 2019,
https://arxiv.org/abs/1905.05824; C. J. Maddison, D. Tarlow, T. Minka, "A* Sampling", NeurIPS 2014,
https://arxiv.org/abs/1411.0030.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalcf.attributes.base import AttributeMechanism, Context, Perceptron, describe_parents
from causalcf.graph import Node
from causalcf.mechanism import Parents
from causalcf.seeds import RowGenerator

__all__ = ["Categorical"]


class Categorical(AttributeMechanism):
    """A discrete attribute: categories by Gumbel-max, abducted from the exact posterior.

    The value does not determine the noise, so abduction is a draw from p(u | x, pa).
    """

    identified = False

    def __init__(self, *, hidden: int = 16, spec: Mapping[str, Any] | None = None) -> None:
        super().__init__(spec, {"hidden": hidden})

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        self._start({"states": len(node.states or ()), "parents": describe_parents(parent_nodes, parents)})

    def _build(self, spec: Mapping[str, Any]) -> None:
        self.context = Context(spec["parents"])
        self.states = int(spec["states"])
        self.root = nn.Parameter(torch.zeros(self.states))
        self.network = Perceptron(self.context.width, self.settings["hidden"], self.states) if spec["parents"] else None

    def log_probabilities(self, parents: Parents) -> Tensor:
        """log p(x = k | pa), (batch, state), or (state,) for a root."""
        self._fitted()
        logits = self.root if self.network is None else self.root + self.network(self.context(parents))
        return torch.log_softmax(logits, dim=-1)

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
            draws = generator.gumbel(self.states + 1)
            top = draws[:, :1] + torch.logsumexp(log_p, dim=-1, keepdim=True)
            others = -torch.logaddexp(-top, -(draws[:, 1:] + log_p))
            others = torch.minimum(others, top - 1e-9 * top.abs().clamp(min=1))  # a tie by rounding would change the winner
            winner = nn.functional.one_hot(value, self.states).bool()
            return torch.where(winner, top, others) - log_p

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        with torch.no_grad():
            return (self.log_probabilities(parents) + noise).argmax(dim=-1)

    def loss(self, value: Tensor, parents: Parents, *, generator: Any = None) -> Tensor:
        log_p = self.log_probabilities(parents).expand(*value.shape, self.states)
        return -log_p.gather(-1, value[..., None])[..., 0]
