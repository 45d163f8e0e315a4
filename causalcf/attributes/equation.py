"""Continuous attributes whose structural equation is known: x = f(u, pa), f strictly monotone in u, u from any prior.

The density needs nothing more: p(x | pa) = p(u) / |df / du| at the u that gives x, the derivative by autograd.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import pyro.distributions as dist
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from causalcf.errors import AbductionError, DataError, StoreError
from causalcf.graph import Node
from causalcf.mechanism import Mechanism, Parents
from causalcf.seeds import RowGenerator

__all__ = ["Equation"]

Function = Callable[[Tensor, Parents], Tensor]

_TOLERANCE = 1e-6  # relative: an inverse further off than this is another function's
_DOUBLINGS, _HALVINGS = 64, 200


class Equation(Mechanism):
    """A continuous attribute with a known structural equation. It needs no fit, and fitting leaves it alone.

    Give functions, or write a subclass with methods `forward(noise, parents)` and, if there is a formula, `inverse(value,
    parents)`; a subclass can be saved. Both work on tensors, (batch,), in torch; a discrete parent comes as the number of its
    state, counted from 0. Without an inverse the noise is found by bisection, to the last digit and some hundred times as slow.

    Args:
        forward: the value of a noise under these parents, strictly monotone in the noise.
        inverse: the noise of a value under these parents.
        noise: its prior, one number a row: a continuous distribution of torch or Pyro. Numbers such as 0.1 are only
            float32 in it unless given as float64 tensors.

    Raises:
        DataError: the prior is not a continuous distribution of one number, or has no quantile function.

    Example:
        >>> import pyro.distributions as dist
        >>> growth = Equation(lambda u, pa: pa["age"] * torch.exp(u), lambda x, pa: torch.log(x / pa["age"]))
        >>> growth.predict(torch.zeros(1).double(), {"age": torch.tensor([30.0]).double()})
        tensor([30.], dtype=torch.float64)
        >>> class Decay(Equation):
        ...     prior = dist.Exponential(2.0)
        ...
        ...     def forward(self, noise, parents):
        ...         return parents["dose"] - noise
        ...
        ...     def inverse(self, value, parents):
        ...         return parents["dose"] - value
        >>> Decay()
        Decay(Exponential)
    """

    prior: dist.TorchDistribution = dist.Normal(0.0, 1.0)
    """The prior of the noise; a subclass may set another."""

    def __init__(
        self, forward: Function | None = None, inverse: Function | None = None, *, noise: dist.TorchDistribution | None = None
    ) -> None:
        super().__init__()
        own = type(self).forward is not Equation.forward
        if own == (forward is not None):
            raise DataError(
                f"{type(self).__name__} has a forward of its own: give no functions."
                if own
                else "an Equation needs its function: Equation(forward, inverse), or a subclass with a method forward."
            )
        self._functions = (forward, inverse)
        self._prior = _double(noise if noise is not None else self.prior)
        self._middle = float(_quantile(self._prior, torch.full((1,), 0.5, dtype=torch.float64)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._prior).__name__})"

    def forward(self, noise: Tensor, parents: Parents) -> Tensor:
        """The value of a noise under these parents, (batch,)."""
        return cast(Function, self._functions[0])(noise, parents)

    def inverse(self, value: Tensor, parents: Parents) -> Tensor:
        """The noise of a value under these parents, (batch,); by bisection if there is no formula."""
        formula = self._functions[1]
        return self._bisect(value, parents) if formula is None else formula(value, parents)

    def check(self, node: Node, parent_nodes: Sequence[Node]) -> None:
        if node.discrete:
            raise DataError(f"'{node.name}' is {node.kind}: an Equation is for continuous nodes. Use Categorical for labels.")

    def noise_prior(self) -> dist.TorchDistribution:
        return self._prior

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        return _quantile(self._prior, generator.uniform())

    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        with torch.no_grad():
            noise = self.inverse(value, parents)
            self._check_noise(noise, value, parents)
            return noise

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        with torch.no_grad():
            return self.forward(noise, parents)

    def loss(self, value: Tensor, parents: Parents, *, generator: Any = None) -> Tensor:
        differentiable = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        noise = self.inverse(value, parents)
        with torch.enable_grad():
            place = noise if noise.requires_grad else noise.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.forward(place, parents).sum(), place, create_graph=differentiable)
        low, high = self._ends()
        with torch.no_grad():  # a value that the equation cannot give has no noise
            off = (self.forward(noise, parents) - value).abs() > _TOLERANCE * (value.abs() + value.abs().mean())
            inside = (noise > low) & (noise < high) & (slope != 0) & ~off
        log_density = self._prior.log_prob(torch.where(inside, noise, self._middle))
        return torch.where(inside, slope.abs().log() - log_density, torch.inf)

    def save(self, directory: Path) -> None:
        if type(self) is Equation:
            raise StoreError(
                "an Equation made of functions cannot be saved: functions are code. Write a subclass of Equation with methods "
                "forward and inverse, save the model with that, and open it with load(..., classes=[YourEquation])."
            )
        own = inspect.signature(type(self)).parameters.keys() - inspect.signature(Equation).parameters.keys()
        if own or not _same(self._prior, type(self)()._prior):
            raise StoreError(
                f"{type(self).__name__} takes {', '.join(sorted(own)) or 'noise'}, which its files do not hold. "
                "Give it no arguments and its prior as the attribute `prior`, or a save and a load of its own."
            )
        (directory / "mechanism.json").write_text(json.dumps({"equation": type(self).__name__}))
        if tensors := {name: tensor.contiguous() for name, tensor in self.state_dict().items()}:
            save_file(tensors, directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        mechanism = cls()
        if (directory / "weights.safetensors").is_file():
            mechanism.load_state_dict(load_file(directory / "weights.safetensors"))
        return mechanism.eval()

    def _ends(self) -> tuple[float, float]:
        """The open interval of possible noises."""
        support = self._prior.support
        return float(getattr(support, "lower_bound", -torch.inf)), float(getattr(support, "upper_bound", torch.inf))

    def _check_noise(self, noise: Tensor, value: Tensor, parents: Parents) -> None:
        """Raise an AbductionError unless this noise is possible and gives the value back."""
        if noise.shape != value.shape:
            raise AbductionError(
                f"the inverse of this {type(self).__name__} gives {tuple(noise.shape)} for {tuple(value.shape)}."
            )
        low, high = self._ends()
        slack = _TOLERANCE * (1 + noise.abs())
        impossible = ~((noise > low - slack) & (noise < high + slack))
        if impossible.any():
            row = int(impossible.nonzero()[0])
            raise AbductionError(
                f"{int(impossible.sum())} of {len(value)} values have no possible noise in this {type(self).__name__}: "
                f"{float(value[row]):g} at position {row} needs {float(noise[row]):g}, outside ({low:g}, {high:g}). "
                "Correct the rows, the equation or its prior."
            )
        again = self.forward(noise, parents)
        off = ~((again - value).abs() <= _TOLERANCE * (value.abs() + value.abs().mean()))
        if off.any():
            row = int(off.nonzero()[0])
            raise AbductionError(
                f"the inverse of this {type(self).__name__} does not undo its forward: {float(value[row]):g} at position {row} "
                f"comes back as {float(again[row]):g}."
            )

    def _bisect(self, value: Tensor, parents: Parents) -> Tensor:
        """The noise of a value by halving an interval until two neighbouring numbers are left, (batch,)."""
        if any(parameter.requires_grad for parameter in self.parameters()):
            raise DataError(f"{type(self).__name__} has parameters to train: that needs an inverse by formula.")
        with torch.no_grad():
            low, high = self._bracket(value, parents)
            rising = self.forward(high, parents) >= self.forward(low, parents)
            for _ in range(_HALVINGS):
                middle = low + (high - low) / 2
                if ((middle == low) | (middle == high)).all():
                    break
                above = (self.forward(middle, parents) > value) == rising
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            nearer = (self.forward(low, parents) - value).abs() <= (self.forward(high, parents) - value).abs()
            return torch.where(nearer, low, high)

    def _bracket(self, value: Tensor, parents: Parents) -> tuple[Tensor, Tensor]:
        """Noises below and above each value's, (batch,) each."""
        ends = [torch.full_like(value, end) for end in self._ends()]
        low, high = ends[0].clamp(min=-1.0), ends[1].clamp(max=1.0)
        low, high = torch.minimum(low, high - 1), torch.maximum(high, low + 1)
        low, high = torch.maximum(low, ends[0]), torch.minimum(high, ends[1])
        for _ in range(_DOUBLINGS):
            first, last = self.forward(low, parents) - value, self.forward(high, parents) - value
            outside = first * last > 0
            if not outside.any():
                break
            width = high - low
            low = torch.where(outside, torch.maximum(low - width, ends[0]), low)
            high = torch.where(outside, torch.minimum(high + width, ends[1]), high)
        return low, high


def _double(prior: dist.TorchDistribution) -> dist.TorchDistribution:
    """The same distribution with float64 parameters."""
    name = type(prior).__name__
    if not isinstance(prior, torch.distributions.Distribution) or prior.batch_shape or prior.event_shape:
        raise DataError(
            f"the prior of the noise is a distribution of one number a row, such as dist.Normal(0.0, 1.0), not {prior}."
        )
    if cast(Any, prior.support).is_discrete:
        raise DataError(f"the noise of an Equation is continuous, {name} is not. Use Categorical for discrete nodes.")
    return cast(dist.TorchDistribution, type(prior)(**{key: getattr(prior, key).double() for key in prior.arg_constraints}))


def _same(prior: dist.TorchDistribution, other: dist.TorchDistribution) -> bool:
    return type(prior) is type(other) and all(torch.equal(getattr(prior, k), getattr(other, k)) for k in prior.arg_constraints)


def _quantile(prior: dist.TorchDistribution, u: Tensor) -> Tensor:
    """The quantile function of a prior at u in (0, 1), of the same shape."""
    from scipy import special

    tail = {  # of distributions whose quantiles torch does not have
        "Gamma": lambda u: special.gammaincinv(float(prior.concentration), u) / float(prior.rate),
        "Chi2": lambda u: 2 * special.gammaincinv(float(prior.df) / 2, u),
        "Beta": lambda u: special.betaincinv(float(prior.concentration1), float(prior.concentration0), u),
        "StudentT": lambda u: special.stdtrit(float(prior.df), u) * float(prior.scale) + float(prior.loc),
    }
    name = type(prior).__name__
    if name in tail:
        return torch.from_numpy(tail[name](u.numpy()))
    try:
        return cast(Tensor, prior.icdf(u))
    except NotImplementedError:
        raise DataError(
            f"the prior {name} has no quantile function. Use Normal, Uniform, Laplace, Exponential, LogNormal, Gamma, Beta, "
            "StudentT or another with one, and put the rest into the equation."
        ) from None
