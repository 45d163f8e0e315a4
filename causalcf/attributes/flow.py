"""Continuous attributes by normalising flows, conditional on the parents.

    x = b(m + s (loc(pa) + scale(pa) T(u; pa))),  u ~ N(0, 1)

T is a monotone spline and b maps the line onto the node's support. C. Durkan, A. Bekasov, I. Murray, G. Papamakarios,
"Neural Spline Flows", NeurIPS 2019, https://arxiv.org/abs/1906.04032; H. M. Dolatabadi, S. Erfani, C. Leckie, "Invertible
Generative Modeling using Linear Rational Splines", AISTATS 2020, https://arxiv.org/abs/2001.05168.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyro.distributions.transforms as T
import torch
from torch import Tensor, nn

from causalcf.attributes.base import (
    Context,
    ContinuousMechanism,
    Perceptron,
    describe_parents,
    finite_support,
    scale_of,
    support_bijection,
)
from causalcf.graph import Node
from causalcf.mechanism import Parents

__all__ = ["Flow"]


class _ConditionalAffine(nn.Module):
    """Location and logarithm of the scale, as the context has them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.network = Perceptron(width, hidden, 2)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.network(context).unbind(-1)
        return loc, log_scale.clamp(-8, 8)


class Flow(ContinuousMechanism):
    """A continuous attribute: a conditional normalising flow, monotone in its noise.

    Args:
        bins: of the monotone spline; 0 leaves the conditional affine map alone.
        hidden: width of the conditioning networks.
        spec: what `prepare` found; given when a saved mechanism is loaded.
    """

    def __init__(self, *, bins: int = 8, hidden: int = 16, spec: Mapping[str, Any] | None = None) -> None:
        super().__init__(spec, {"bins": bins, "hidden": hidden})

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        support = finite_support(node)
        flat = support_bijection(support).inv(value.double())
        self._start(
            {
                "support": support,
                "mean": float(flat.mean()),
                "scale": scale_of(flat, node.name),
                "parents": describe_parents(parent_nodes, parents),
            }
        )

    def _build(self, spec: Mapping[str, Any]) -> None:
        bins, hidden = self.settings["bins"], self.settings["hidden"]
        self.context = Context(spec["parents"])
        width = self.context.width
        self.affine = _ConditionalAffine(width, hidden) if width else None
        self.spline: nn.Module | None = None
        if bins and width:
            self.spline = T.conditional_spline(1, width, hidden_dims=[hidden], count_bins=bins, bound=4.0)
        elif bins:
            self.spline = T.Spline(1, count_bins=bins, bound=4.0)
        self.mean, self.scale = float(spec["mean"]), float(spec["scale"])

    def _forward(self, noise: Tensor, parents: Parents) -> Tensor:
        context = self.context(parents) if self.context.width else None
        if self.spline is not None:
            noise = self._spline(context)._call(noise[..., None])[..., 0]
        if self.affine is not None:
            loc, log_scale = self.affine(context)
            noise = loc + torch.exp(log_scale) * noise
        return self.mean + self.scale * noise

    def _backward(self, flat: Tensor, parents: Parents) -> tuple[Tensor, Tensor]:
        context = self.context(parents) if self.context.width else None
        noise = (flat - self.mean) / self.scale
        log_slope = torch.full_like(self._anchor, self.scale).log()
        if self.affine is not None:
            loc, log_scale = self.affine(context)
            noise = (noise - loc) / torch.exp(log_scale)
            log_slope = log_slope + log_scale
        if self.spline is not None:
            place, spline = noise[..., None], self._spline(context)
            noise = spline._inverse(place)[..., 0]
            log_slope = log_slope + spline._cache_log_detJ.reshape(noise.shape)
        return noise, log_slope

    def _spline(self, context: Tensor | None) -> Any:
        return self.spline if context is None else cast(Any, self.spline).condition(context)
