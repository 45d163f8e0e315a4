"""Pyro mechanisms for numbers and categories, abducted in float64.

    mechanism     noise u           value
    Flow          N(0, 1)           x = b(m + s (loc(pa) + scale(pa) T(u; pa))), an invertible map of u
    Categorical   Gumbel(0, 1)^K    x = argmax_k [log p_k(pa) + u_k]

T is a monotone spline and b maps the line onto the node's support. C. Durkan, A. Bekasov, I. Murray, G. Papamakarios,
"Neural Spline Flows", NeurIPS 2019, https://arxiv.org/abs/1906.04032; H. M. Dolatabadi, S. Erfani, C. Leckie, "Invertible
Generative Modeling using Linear Rational Splines", AISTATS 2020, https://arxiv.org/abs/2001.05168. The Gumbel-max posterior:
M. Oberst, D. Sontag, "Counterfactual Off-Policy Evaluation with Gumbel-Max Structural Causal Models", ICML 2019,
https://arxiv.org/abs/1905.05824; C. J. Maddison, D. Tarlow, T. Minka, "A* Sampling", NeurIPS 2014,
https://arxiv.org/abs/1411.0030.
"""

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
from pyro.distributions.conditional import ConditionalTransformModule
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causalcf.errors import DataError, NotFittedError
from causalcf.graph import Node
from causalcf.mechanism import Mechanism, Parents
from causalcf.seeds import RowGenerator

__all__ = ["AttributeMechanism", "Categorical", "Flow", "attribute_mechanism", "describe_parents"]


def describe_parents(nodes: Sequence[Node], parents: Parents) -> list[dict[str, Any]]:
    """What a network needs to know of its parents, in order: how many states, or mean and scale."""
    spec: list[dict[str, Any]] = []
    for node in nodes:
        if node.discrete:
            spec.append({"name": node.name, "states": len(node.states or ())})
        else:
            value = parents[node.name].double()
            spec.append({"name": node.name, "mean": float(value.mean()), "scale": _scale(value, node.name)})
    return spec


def _scale(value: Tensor, name: str) -> float:
    if not value.max() > value.min():
        raise DataError(f"column '{name}' is constant: nothing can be learned from it. Remove the node or bring more rows.")
    return float(value.std())


class _Context(nn.Module):
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


class _Perceptron(nn.Module):
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


class _ConditionalAffine(ConditionalTransformModule):  # type: ignore[misc]
    """y = loc(context) + scale(context) x."""

    bijective = True

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.network = _Perceptron(width, hidden, 2)

    def condition(self, context: Tensor) -> T.AffineTransform:
        loc, log_scale = self.network(context).unbind(-1)
        return T.AffineTransform(loc, torch.exp(log_scale.clamp(-8, 8)))


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
        flat = self._support(node.support).inv(value.double())
        self._start(
            {
                "support": [None if math.isinf(end) else end for end in node.support] if node.support else None,
                "mean": float(flat.mean()),
                "scale": _scale(flat, node.name),
                "parents": describe_parents(parent_nodes, parents),
            }
        )

    @staticmethod
    def _support(ends: Sequence[float | None] | None) -> T.Transform:
        low, high = (None if end is None or math.isinf(end) else end for end in ends or (None, None))
        if low is not None and high is not None:
            return T.ComposeTransform([T.SigmoidTransform(), T.AffineTransform(low, high - low)])
        if low is not None:
            return T.ComposeTransform([T.ExpTransform(), T.AffineTransform(low, 1.0)])
        if high is not None:
            return T.ComposeTransform([T.ExpTransform(), T.AffineTransform(high, -1.0)])
        return T.identity_transform

    def _build(self, spec: Mapping[str, Any]) -> None:
        bins, hidden = self.settings["bins"], self.settings["hidden"]
        self.context = _Context(spec["parents"])
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
        self.standard = T.ComposeTransform([T.AffineTransform(spec["mean"], spec["scale"]), self._support(spec["support"])])

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
        self.context = _Context(spec["parents"])
        self.states = int(spec["states"])
        self.root = nn.Parameter(torch.zeros(self.states))
        self.network = _Perceptron(self.context.width, self.settings["hidden"], self.states) if spec["parents"] else None

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


def attribute_mechanism(node: Node) -> AttributeMechanism:
    """The mechanism of an attribute that the user left unnamed."""
    return Categorical() if node.discrete else Flow()
