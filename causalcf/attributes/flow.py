"""Continuous attributes by normalising flows, conditional on the parents.

    x = b(m + s (loc(pa) + scale(pa) T(u; pa))),  u ~ N(0, 1)

T is a monotone spline and b maps the line onto the node's support. C. Durkan, A. Bekasov, I. Murray, G. Papamakarios,
"Neural Spline Flows", NeurIPS 2019, https://arxiv.org/abs/1906.04032; H. M. Dolatabadi, S. Erfani, C. Leckie, "Invertible
Generative Modeling using Linear Rational Splines", AISTATS 2020, https://arxiv.org/abs/2001.05168.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor, nn

from causalcf.attributes.base import AttributeMechanism, Context, Perceptron, describe_parents, scale_of
from causalcf.graph import Node
from causalcf.mechanism import Parents
from causalcf.seeds import RowGenerator

__all__ = ["Flow", "support_bijection"]


class _ConditionalAffine(ConditionalTransformModule):  # type: ignore[misc]
    """y = loc(context) + scale(context) x."""

    bijective = True

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.network = Perceptron(width, hidden, 2)

    def condition(self, context: Tensor) -> T.AffineTransform:
        loc, log_scale = self.network(context).unbind(-1)
        return T.AffineTransform(loc, torch.exp(log_scale.clamp(-8, 8)))


def support_bijection(ends: Sequence[float | None] | None) -> T.Transform:
    """A smooth increasing map from the line onto the open interval `ends`; an infinite or missing end is no bound."""
    low, high = (None if end is None or math.isinf(end) else end for end in ends or (None, None))
    if low is not None and high is not None:
        return T.ComposeTransform([T.SigmoidTransform(), T.AffineTransform(low, high - low)])
    if low is not None:
        return T.ComposeTransform([T.ExpTransform(), T.AffineTransform(low, 1.0)])
    if high is not None:
        return T.ComposeTransform([T.ExpTransform(), T.AffineTransform(high, -1.0)])
    return T.identity_transform


class Flow(AttributeMechanism):
    """A continuous attribute: a conditional normalising flow, monotone in its noise.

    Args:
        bins: of the monotone spline; 0 leaves the conditional affine map alone.
        hidden: width of the conditioning networks.
        spec: what `prepare` found; given when a saved mechanism is loaded.
    """

    def __init__(self, *, bins: int = 8, hidden: int = 16, spec: Mapping[str, Any] | None = None) -> None:
        super().__init__(spec, {"bins": bins, "hidden": hidden})

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        flat = support_bijection(node.support).inv(value.double())
        self._start(
            {
                "support": [None if math.isinf(end) else end for end in node.support] if node.support else None,
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
        low, high = spec["support"] or (None, None)
        self.inside = (  # an extreme noise rounds to an end of the support, which is not part of it
            None if low is None else math.nextafter(low, math.inf),
            None if high is None else math.nextafter(high, -math.inf),
        )
        self.standard = T.ComposeTransform([T.AffineTransform(spec["mean"], spec["scale"]), support_bijection(spec["support"])])

    def _transforms(self, parents: Parents) -> list[T.Transform]:
        self._fitted()
        chain: list[Any] = []
        context = self.context(parents) if self.context.width else None
        if self.spline is not None:
            spline = self.spline if context is None else cast(Any, self.spline).condition(context)
            chain.append(_Column(spline))
        if self.affine is not None:
            chain.append(self.affine.condition(cast(Tensor, context)))
        return [*chain, self.standard]

    def noise_prior(self) -> dist.TorchDistribution:
        self._fitted()
        return cast(dist.TorchDistribution, dist.Normal(torch.zeros_like(self._anchor), 1.0))

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        self._fitted()
        return generator.normal()

    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        with torch.no_grad():
            noise = value
            for transform in reversed(self._transforms(parents)):
                noise = transform.inv(noise)
            return noise

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        with torch.no_grad():
            value = noise
            for transform in self._transforms(parents):
                value = transform(value)
            return value if self.inside == (None, None) else value.clamp(*self.inside)

    def loss(self, value: Tensor, parents: Parents, *, generator: Any = None) -> Tensor:
        return cast(
            Tensor,
            -dist.TransformedDistribution(self.noise_prior().expand(value.shape), self._transforms(parents)).log_prob(value),
        )


class _Column(T.Transform):  # type: ignore[misc]
    """A one-dimensional Pyro transform, applied to every number of a row vector by itself."""

    domain = dist.constraints.real
    codomain = dist.constraints.real
    bijective = True

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def _call(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.inner._call(x[..., None])[..., 0])

    def _inverse(self, y: Tensor) -> Tensor:
        return cast(Tensor, self.inner._inverse(y[..., None])[..., 0])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        slope = self.inner.log_abs_det_jacobian(x[..., None], y[..., None])
        return cast(Tensor, slope[..., 0] if slope.dim() > x.dim() else slope)
