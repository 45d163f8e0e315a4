"""Solvers: from noise to image by diffusion, and from an image to the noise that explains it.

    name          symbol                  meaning
    alphas        alpha_i = sqrt(abar)    signal at level i; level 0 is the clean image
    sigmas        sigma_i                 noise at level i
    ratios        s_i = sigma_i/alpha_i   the time of the ordinary differential equation
    scaled        z_i = x_i/alpha_i       its state:  dz/ds = eps(x)
    gap           h_i = s_i - s_{i-1}     the length of a step
    noise         eps                     the network's prediction, a function of (x, level)

    solver          prediction, level i to i - 1              abduction                                   evaluations
    FixedPoint      z_{i-1} = z_i - h_i eps_i  (Euler, DDIM)  solves that for z_i                         N | N or more
    Anderson        the same                                  the same, iterations accelerated            N | N or more
    DDIM            the same                                  guesses eps_i once, as published baselines  N | N
    Heun            with the mean of the slopes at both ends  solves that for z_i                         2 N - 1 or more each way
    DPMSolverPP     second order in log s, from two levels    the same rule upwards                       N | N
    OBELM           leapfrog, from two levels                 undone exactly                              N | N + 1
    EDICT           two coupled states                        undone exactly                              2 N | 2 N
    EditFriendly    ancestral sampling, noise maps stored     a draw of the maps that give the image      N | N - 1

Exact here means: while the same eps runs both ways, and but for rounding, which EDICT magnifies. OBELM and EDICT carry a second
state, which was found under the factual parents; an intervention does not move it, so that their counterfactuals drift.

A flat pixel, black or white amid its likes, does not tell its noise: the flow takes every noise there to black, and to solve for
it leaves next to none, with which no stroke can be drawn. Its noise at level 1 is a draw instead, from the forward process,
x_1 = alpha_1 x_0 + sigma_1 n with n standard normal: its posterior, wherever the pixel could not have been another.

J. Song, C. Meng, S. Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, https://arxiv.org/abs/2010.02502; Z. Pan,
R. Gherardi, X. Xie, S. Huang, "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion", ICCV 2023,
https://arxiv.org/abs/2309.04907, for the fixed point and its acceleration; T. Karras, M. Aittala, T. Aila, S. Laine,
"Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022, https://arxiv.org/abs/2206.00364, for Heun.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from causalcf.errors import AbductionError, DataError
from causalcf.levels import Levels
from causalcf.precision import row_sum

__all__ = [
    "DDIM",
    "EDICT",
    "OBELM",
    "SOLVERS",
    "Anderson",
    "DPMSolverPP",
    "Draw",
    "EditFriendly",
    "FixedPoint",
    "Heun",
    "InversionTrace",
    "NoisePrediction",
    "Solver",
    "solver_from_dict",
]

NoisePrediction = Callable[[Tensor, int, Tensor], Tensor]
"""eps(x, timestep, rows): the noise in x, (rows, ...), where `rows` says which rows of the batch x holds."""
Draw = Callable[..., Tensor]
"""draw(*shape): standard normal numbers, (row, *shape), each row's own."""
_PARALLEL = 1e-10  # of the Gram matrix's trace, added to it, so that parallel differences can be solved for


@dataclass
class InversionTrace:
    """What abduction took and how well it solved its equations.

    Attributes:
        evaluations: of the network, (row,).
        residual: of the accepted solution, root mean square over the pixels in units of the noise, (row, level). 0 where a
            solver is exact by construction, NaN where it solves no equation, so that nothing is known.
        drawn: share of the pixels whose noise is a draw, because the image does not determine it, (row,).
    """

    evaluations: Tensor
    residual: Tensor
    drawn: Tensor


class _Counted:
    """The noise prediction, with a count of what every row was asked for and an error where it is not finite."""

    def __init__(self, predict: NoisePrediction, rows: int) -> None:
        self.predict = predict
        self.all = torch.arange(rows)
        self.evaluations = torch.zeros(rows, dtype=torch.int64)

    def __call__(self, x: Tensor, timestep: int, rows: Tensor | None = None) -> Tensor:
        rows = self.all if rows is None else rows
        self.evaluations[rows] += 1
        eps = self.predict(x, timestep, rows)
        finite = torch.isfinite(eps).flatten(1).all(1)
        if not finite.all():
            bad = rows[~finite].tolist()
            raise AbductionError(f"the noise prediction at timestep {timestep} is not finite for rows {bad} of the batch.")
        return eps

    def trace(self, levels: Levels, residual: Tensor | float, drawn: _Drawn | None = None) -> InversionTrace:
        """What was counted, with a residual (row, level) or the same one for all."""
        share = torch.zeros(len(self.all)) if drawn is None else drawn.where.flatten(1).float().mean(dim=1)
        every = torch.as_tensor(residual).expand(len(self.all), len(levels))
        return InversionTrace(self.evaluations, every, share)


@dataclass(frozen=True)
class _Drawn:
    """Noise that is drawn instead of found: where, and what; both (row, ...)."""

    where: Tensor
    noise: Tensor

    def replace(self, eps: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        return torch.where(self.where[rows], self.noise[rows].to(eps.dtype), eps)


def _column(numbers: Tensor, like: Tensor) -> Tensor:
    """A number a row, to be multiplied with images."""
    return numbers.view(-1, *[1] * (like.dim() - 1))


class Solver(ABC):
    """How the noise of an image is found, and the image of a noise."""

    euler: ClassVar[bool] = False  # whether prediction is a DDIM step a level

    @property
    def identified(self) -> bool:
        """Whether an image determines its noise; if not, abduction is a draw."""
        return True

    @property
    def accepted(self) -> float:
        """The residual beyond which the user is warned."""
        return math.inf

    def noise_shape(self, shape: tuple[int, ...], steps: int) -> tuple[int, ...]:
        """The shape of one row's noise, for images of this shape and so many levels."""
        return shape

    def noise_scale(self) -> Tensor:
        """Standard deviation of the noise under its prior, to be broadcast over `noise_shape`."""
        return torch.ones(())

    @abstractmethod
    def abduct(
        self, image: Tensor, levels: Levels, predict: NoisePrediction, draw: Draw, flat: Tensor | None = None
    ) -> tuple[Tensor, InversionTrace]:
        """The noise from which `sample` gives back the image.

        Args:
            image: clean, (row, ...), in [-1, 1].
            levels: the grid that prediction will use.
            predict: the noise prediction under the factual parents.
            draw: random numbers, for a solver whose noise the image does not determine.
            flat: the pixels that do not tell their noise, see the module, (row, ...), boolean; none unless given.

        Returns:
            The noise, (row, *noise_shape), and what it took.

        Raises:
            AbductionError: the network returned NaN or infinity; the rows are named.
        """

    @abstractmethod
    def sample(self, noise: Tensor, levels: Levels, predict: NoisePrediction) -> Tensor:
        """The clean image of a noise, (row, ...)."""

    def to_dict(self) -> dict[str, Any]:
        """The solver as JSON; `solver_from_dict` reads it back."""
        return {"solver": type(self).__name__, **asdict(cast(Any, self))}  # every solver is a dataclass


@dataclass(frozen=True, kw_only=True)
class _Inverting(Solver):
    """A solver that finds the noise level by level.

    Args:
        draw_flat: standard deviation of the noise that is drawn for flat pixels, from 0 to 1. At 1 it is the forward process's
            own. Below, strokes that an intervention puts where the factual image is black are more like the likeliest ones:
            softer, and there and back again loses less. At 0 nothing is drawn: the noise of every pixel is inverted, which
            makes abduction a function of the image.
    """

    draw_flat: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.draw_flat <= 1:
            raise DataError(f"{type(self).__name__} has draw_flat={self.draw_flat}: it is a number from 0 to 1.")

    @property
    def identified(self) -> bool:
        return self.draw_flat == 0

    def drawn(self, image: Tensor, draw: Draw, flat: Tensor | None) -> _Drawn:
        """The noise at level 1 that is drawn."""
        if flat is None or self.identified:
            return _Drawn(torch.zeros_like(image, dtype=torch.bool), torch.zeros_like(image))
        return _Drawn(flat, self.draw_flat * draw(1, *image.shape[1:])[:, 0].to(image.dtype))


def _checked(solver: Any, **lowest: float) -> None:
    for name, low in lowest.items():
        value = getattr(solver, name)
        if not (math.isfinite(value) and value >= low):
            raise DataError(f"{type(solver).__name__} has {name}={value}: it is a number from {low:g} up.")


class _OneStep(_Inverting):
    """z_{i-1} = z_i - h_i slope(z_i); abduction solves the equation for z_i by fixed-point iteration."""

    tolerance: float
    iterations: int
    memory: int = 0

    @property
    def accepted(self) -> float:
        return 10 * self.tolerance

    @abstractmethod
    def slope(self, scaled: Tensor, level: int, levels: Levels, predict: NoisePrediction, rows: Tensor) -> Tensor:
        """By how much z falls along a step from this level down, per unit of s."""

    def sample(self, noise: Tensor, levels: Levels, predict: NoisePrediction) -> Tensor:
        rows, scaled = torch.arange(len(noise)), noise / levels.alphas[-1]
        for level in range(len(levels), 0, -1):
            scaled = scaled - levels.gap(level) * self.slope(scaled, level, levels, predict, rows)
        return scaled * levels.alphas[0]

    def abduct(
        self, image: Tensor, levels: Levels, predict: NoisePrediction, draw: Draw, flat: Tensor | None = None
    ) -> tuple[Tensor, InversionTrace]:
        counted = _Counted(predict, len(image))
        scaled, slope, before = image, torch.zeros_like(image), None
        drawn = self.drawn(image, draw, flat)
        residuals = []
        for level in range(1, len(levels) + 1):
            guess = slope if before is None else 2 * slope - before  # the line through the two previous levels
            found, residual = self._solve(scaled, guess, level, levels, counted, drawn if level == 1 else None)
            before, slope = slope if level > 1 else None, found
            scaled = scaled + levels.gap(level) * slope
            residuals.append(residual)
        return scaled * levels.alphas[-1], counted.trace(levels, torch.stack(residuals, dim=1), drawn)

    def _solve(
        self,
        scaled: Tensor,
        guess: Tensor,
        level: int,
        levels: Levels,
        predict: _Counted,
        drawn: _Drawn | None,
    ) -> tuple[Tensor, Tensor]:
        """The slope g with g = slope(z_{i-1} + h_i g), but for the pixels where it is drawn, and its residual a row.

        A row stops as soon as its residual is below the tolerance; where the residual grows, its step is halved.
        """
        alpha, gap = levels.alphas[level], levels.gap(level)
        active, damping = torch.arange(len(scaled)), scaled.new_ones(len(scaled))
        best = scaled.new_full((len(scaled),), torch.inf)
        accepted, guess = guess.clone(), guess.clone() if drawn is None else drawn.replace(guess)
        tried: list[tuple[Tensor, Tensor]] = []  # (guess, found) of earlier iterations, all rows
        for _ in range(self.iterations):
            found = self.slope(scaled[active] + gap * guess[active], level, levels, predict, active)
            found = found if drawn is None else drawn.replace(found, active)
            residual = (row_sum((alpha * gap * (found - guess[active])).square()) / scaled.shape[1:].numel()).sqrt()
            better = residual < best[active]
            accepted[active[better]] = found[better]
            damping[active[~better]] *= 0.5
            best[active] = torch.minimum(best[active], residual)
            target = _accelerated(guess[active], found, [(g[active], f[active]) for g, f in tried]) if tried else found
            target = torch.where(_column(better, found), target, found)
            if self.memory:
                tried = [*tried, (guess, guess.index_copy(0, active, found))][-self.memory :]
            step = torch.lerp(guess[active], target, _column(damping[active], found))
            guess = guess.index_copy(0, active, step)
            active = active[residual > self.tolerance]
            if not len(active):
                break
        return accepted, best


def _accelerated(guess: Tensor, found: Tensor, tried: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Anderson's next guess: the mixture of the iterations so far whose residuals cancel best, row by row."""
    residual = (found - guess).flatten(1).double()
    steps = torch.stack([residual - (f - g).flatten(1).double() for g, f in tried], dim=1)  # (row, iteration, pixel)
    moves = torch.stack([(found - f).flatten(1).double() for _, f in tried], dim=1)
    gram = steps @ steps.transpose(1, 2)
    ridge = _PARALLEL * gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-30)
    gram = gram + ridge[:, None, None] * torch.eye(len(tried), dtype=gram.dtype)
    weights: Tensor = torch.linalg.solve(gram, steps @ residual[:, :, None])
    return found - (weights * moves).sum(dim=1).view(found.shape).to(found.dtype)


@dataclass(frozen=True)
class FixedPoint(_OneStep):
    """DDIM, undone: z_i = z_{i-1} + h_i eps(alpha_i z_i) by fixed-point iteration, warm-started from the levels before.

    Args:
        tolerance: largest accepted change that one more iteration would make to x_i, root mean square over the pixels.
        iterations: at most so many evaluations a level and row.
    """

    euler: ClassVar[bool] = True
    tolerance: float = 3e-3
    iterations: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _checked(self, tolerance=0, iterations=1)

    def slope(self, scaled: Tensor, level: int, levels: Levels, predict: NoisePrediction, rows: Tensor) -> Tensor:
        return predict(levels.alphas[level] * scaled, levels.timesteps[level - 1], rows)


@dataclass(frozen=True)
class Anderson(FixedPoint):
    """The fixed point, accelerated: the next guess is a mixture of the iterations so far.

    D. G. Anderson, "Iterative Procedures for Nonlinear Integral Equations", Journal of the ACM 12, 1965,
    https://doi.org/10.1145/321296.321305.

    Args:
        tolerance, iterations: as of `FixedPoint`.
        memory: so many earlier iterations are mixed.
    """

    memory: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _checked(self, tolerance=0, iterations=1, memory=1)


@dataclass(frozen=True)
class Heun(_OneStep):
    """Heun's method, of second order: the slope is the mean of those at both ends of a step; undone by a fixed point.

    Args:
        tolerance, iterations: as of `FixedPoint`; an iteration is two evaluations, but for level 1, which is Euler's.
    """

    tolerance: float = 3e-3
    iterations: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _checked(self, tolerance=0, iterations=1)

    def slope(self, scaled: Tensor, level: int, levels: Levels, predict: NoisePrediction, rows: Tensor) -> Tensor:
        here = predict(levels.alphas[level] * scaled, levels.timesteps[level - 1], rows)
        if level == 1:  # the network knows no timestep for a clean image
            return here
        below = scaled - levels.gap(level) * here
        return (here + predict(levels.alphas[level - 1] * below, levels.timesteps[level - 2], rows)) / 2


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM both ways, as diffusers' DDIMInverseScheduler and the published baselines: what is undone is only guessed.

    Of a network that predicts v or the clean image, abduction reads the noise with alpha and sigma of the level that the network
    is told, where DDIMInverseScheduler takes those of the image, a level below: parity is with networks that predict noise.
    """

    euler: ClassVar[bool] = True

    def abduct(
        self, image: Tensor, levels: Levels, predict: NoisePrediction, draw: Draw, flat: Tensor | None = None
    ) -> tuple[Tensor, InversionTrace]:
        counted, scaled = _Counted(predict, len(image)), image
        for level in range(1, len(levels) + 1):
            eps = counted(levels.alphas[level - 1] * scaled, levels.timesteps[level - 1])
            scaled = scaled + levels.gap(level) * eps
        return scaled * levels.alphas[-1], counted.trace(levels, math.nan)

    def sample(self, noise: Tensor, levels: Levels, predict: NoisePrediction) -> Tensor:
        return FixedPoint().sample(noise, levels, predict)


@dataclass(frozen=True)
class DPMSolverPP(_Inverting):
    """DPM-Solver++ (2M), of second order from the clean images of two levels; upwards by the same rule.

    The first step up and the last one down, to and from the clean image, are DDIM's. C. Lu, Y. Zhou, F. Bao, J. Chen, C. Li,
    J. Zhu, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
    https://arxiv.org/abs/2211.01095.
    """

    def abduct(
        self, image: Tensor, levels: Levels, predict: NoisePrediction, draw: Draw, flat: Tensor | None = None
    ) -> tuple[Tensor, InversionTrace]:
        counted, drawn = _Counted(predict, len(image)), self.drawn(image, draw, flat)
        eps = drawn.replace(counted(levels.alphas[0] * image, levels.timesteps[0]))
        x = levels.alphas[1] * (image / levels.alphas[0] + levels.gap(1) * eps)
        x = self._walk(x, [*range(1, len(levels) + 1)], levels, counted, counted.all)
        return x, counted.trace(levels, math.nan, drawn)

    def sample(self, noise: Tensor, levels: Levels, predict: NoisePrediction) -> Tensor:
        rows = torch.arange(len(noise))
        x = self._walk(noise, [*range(len(levels), 0, -1)], levels, predict, rows)
        eps = predict(x, levels.timesteps[0], rows)
        return (x / levels.alphas[1] - levels.gap(1) * eps) * levels.alphas[0]

    @staticmethod
    def _walk(x: Tensor, path: list[int], levels: Levels, predict: NoisePrediction, rows: Tensor) -> Tensor:
        """From the first level of the path to the last."""
        logs = [math.inf, *(math.log(a / s) for a, s in zip(levels.alphas[1:], levels.sigmas[1:], strict=True))]
        before: tuple[Tensor, float] | None = None
        for here, there in itertools.pairwise(path):
            eps = predict(x, levels.timesteps[here - 1], rows)
            clean = (x - levels.sigmas[here] * eps) / levels.alphas[here]
            length = logs[there] - logs[here]
            mixed = clean
            if before is not None:
                mixed = clean + length / (2 * before[1]) * (clean - before[0])
            before = clean, length
            x = levels.sigmas[there] / levels.sigmas[here] * x - levels.alphas[there] * math.expm1(-length) * mixed
        return x


class _TwoStates(Solver):
    """A solver that is undone exactly because it carries two states. The noise is the state and the second one's difference.

    Its arithmetic is in float64: what undoing multiplies is rounding, too.
    """

    def noise_shape(self, shape: tuple[int, ...], steps: int) -> tuple[int, ...]:
        return (2, *shape)

    def noise_scale(self) -> Tensor:
        return torch.tensor([1.0, 1e-6]).view(2, 1, 1, 1)  # drawn from the prior, the two states agree

    @staticmethod
    def _network(predict: NoisePrediction, like: Tensor) -> NoisePrediction:
        """The prediction in the precision of the images, of states in double precision."""
        return lambda x, timestep, rows: predict(x.to(like.dtype), timestep, rows).double()


@dataclass(frozen=True)
class OBELM(_TwoStates, _Inverting):
    """O-BELM, a leapfrog of variable steps: z_{i-1} = q^2 z_{i+1} + (1 - q^2) z_i - h_i (1 + q) eps_i with q = h_i / h_{i+1}.

    Its second state is level N - 1, stored as the difference from one DDIM step down from level N. F. Wang, H. Yin, Y. Dong,
    H. Zhu, C. Zhang, H. Zhao, H. Qian, C. Li, "BELM: Bidirectional Explicit Linear Multi-step Sampler for Exact Inversion in
    Diffusion Models", NeurIPS 2024, https://arxiv.org/abs/2410.07273.
    """

    def abduct(
        self, image: Tensor, levels: Levels, predict: NoisePrediction, draw: Draw, flat: Tensor | None = None
    ) -> tuple[Tensor, InversionTrace]:
        counted = _Counted(self._network(predict, image), len(image))
        below = image.double()
        drawn = self.drawn(below, draw, flat)
        here = below + levels.gap(1) * drawn.replace(counted(levels.alphas[1] * below, levels.timesteps[0]))
        for level in range(1, len(levels)):
            ratio, eps = (
                levels.gap(level) / levels.gap(level + 1),
                counted(levels.alphas[level] * here, levels.timesteps[level - 1]),
            )
            above = (below - (1 - ratio**2) * here + levels.gap(level) * (1 + ratio) * eps) / ratio**2
            below, here = here, above
        step = levels.gap(len(levels)) * counted(levels.alphas[-1] * here, levels.timesteps[-1])
        noise = torch.stack([levels.alphas[-1] * here, levels.alphas[-2] * (below - (here - step))], dim=1)
        return noise, counted.trace(levels, 0.0, drawn)

    def sample(self, noise: Tensor, levels: Levels, predict: NoisePrediction) -> Tensor:
        rows, network = torch.arange(len(noise)), self._network(predict, noise)
        above = noise[:, 0].double() / levels.alphas[-1]
        step = levels.gap(len(levels)) * network(levels.alphas[-1] * above, levels.timesteps[-1], rows)
        here = above - step + noise[:, 1].double() / levels.alphas[-2]
        for level in range(len(levels) - 1, 0, -1):
            ratio, eps = (
                levels.gap(level) / levels.gap(level + 1),
                network(levels.alphas[level] * here, levels.timesteps[level - 1], rows),
            )
            below = ratio**2 * above + (1 - ratio**2) * here - levels.gap(level) * (1 + ratio) * eps
            above, here = here, below
        return (here * levels.alphas[0]).to(noise.dtype)


@dataclass(frozen=True)
class EDICT(_TwoStates):
    """EDICT: two states, each denoised with the noise seen in the other, then mixed.

    Undone exactly in exact arithmetic alone: a step preserves volume, so that it stretches what the states differ by as it
    shrinks the states, and mixing multiplies the difference by mixing^2 only. Errors of the predictions, as of a float32 network
    from noise that was stored, come back in the image 1,400 | 34,000 times as large with 15 levels and 24 | 310 times with 50,
    those of `OBELM` 1.5 times at most (Gaussian pixels of spread .5 | .01, levels spaced by the power 2.3).

    B. Wallace, A. Gokul, N. Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", CVPR 2023,
    https://arxiv.org/abs/2211.12446.

    Args:
        mixing: how much of itself a state keeps; 1 does not mix. Undoing multiplies what the states differ by with 1 / mixing^2
            a level.
    """

    mixing: float = 0.93

    def __post_init__(self) -> None:
        if not 0 < self.mixing <= 1:
            raise DataError(f"EDICT has mixing={self.mixing}: it is above 0 and at most 1.")

    def abduct(
        self, image: Tensor, levels: Levels, predict: NoisePrediction, draw: Draw, flat: Tensor | None = None
    ) -> tuple[Tensor, InversionTrace]:
        counted, keep = _Counted(self._network(predict, image), len(image)), self.mixing
        x = y = image.double()
        for level in range(1, len(levels) + 1):
            y = (y - (1 - keep) * x) / keep
            x = (x - (1 - keep) * y) / keep
            timestep, gap = levels.timesteps[level - 1], levels.gap(level)
            y = y + gap * counted(levels.alphas[level - 1] * x, timestep)
            x = x + gap * counted(levels.alphas[level] * y, timestep)
        return levels.alphas[-1] * torch.stack([x, y - x], dim=1), counted.trace(levels, 0.0)

    def sample(self, noise: Tensor, levels: Levels, predict: NoisePrediction) -> Tensor:
        rows, network, keep = torch.arange(len(noise)), self._network(predict, noise), self.mixing
        x = noise[:, 0].double() / levels.alphas[-1]
        y = x + noise[:, 1].double() / levels.alphas[-1]
        for level in range(len(levels), 0, -1):
            timestep, gap = levels.timesteps[level - 1], levels.gap(level)
            x = x - gap * network(levels.alphas[level] * y, timestep, rows)
            y = y - gap * network(levels.alphas[level - 1] * x, timestep, rows)
            x = keep * x + (1 - keep) * y
            y = keep * y + (1 - keep) * x
        return (x * levels.alphas[0]).to(noise.dtype)


@dataclass(frozen=True)
class EditFriendly(Solver):
    """Ancestral sampling (DDPM) with its noise maps: each level of the image is noised anew, and the maps that link them stored.

    The maps are a draw, the image does not determine them; what is under them is kept by them, changed or not. The last step
    adds no noise, so that composition is as good as the network at the first level. The noise is the image at level N and the
    maps of the steps down to levels N - 1 to 1. I. Huberman-Spiegelglas, V. Kulikov, T. Michaeli, "An Edit Friendly DDPM Noise
    Space: Inversion and Manipulations", CVPR 2024, https://arxiv.org/abs/2304.06140.
    """

    @property
    def identified(self) -> bool:
        return False

    def noise_shape(self, shape: tuple[int, ...], steps: int) -> tuple[int, ...]:
        return (steps, *shape)

    @staticmethod
    def _step(x: Tensor, eps: Tensor, level: int, levels: Levels) -> tuple[Tensor, float]:
        """Mean and standard deviation of the next level given this one."""
        alpha, sigma = levels.alphas[level], levels.sigmas[level]
        below, left = levels.alphas[level - 1], levels.sigmas[level - 1]
        spread = left / sigma * math.sqrt(1 - (alpha / below) ** 2)
        clean = (x - sigma * eps) / alpha
        return below * clean + math.sqrt(max(left**2 - spread**2, 0.0)) * eps, spread

    def abduct(
        self, image: Tensor, levels: Levels, predict: NoisePrediction, draw: Draw, flat: Tensor | None = None
    ) -> tuple[Tensor, InversionTrace]:
        counted, fresh = _Counted(predict, len(image)), draw(len(levels), *image.shape[1:]).to(image.dtype)
        x = levels.alphas[-1] * image + levels.sigmas[-1] * fresh[:, 0]
        maps = [x]
        for place, level in enumerate(range(len(levels), 1, -1), start=1):
            mean, spread = self._step(x, counted(x, levels.timesteps[level - 1]), level, levels)
            x = levels.alphas[level - 1] * image + levels.sigmas[level - 1] * fresh[:, place]
            maps.append((x - mean) / spread)
        everywhere = _Drawn(torch.ones_like(image, dtype=torch.bool), fresh)
        return torch.stack(maps, dim=1), counted.trace(levels, math.nan, everywhere)

    def sample(self, noise: Tensor, levels: Levels, predict: NoisePrediction) -> Tensor:
        rows, x = torch.arange(len(noise)), noise[:, 0]
        for place, level in enumerate(range(len(levels), 0, -1), start=1):
            mean, spread = self._step(x, predict(x, levels.timesteps[level - 1], rows), level, levels)
            x = mean if level == 1 else mean + spread * noise[:, place]
        return x


SOLVERS: dict[str, type[Solver]] = {
    solver.__name__: solver for solver in (FixedPoint, Anderson, DDIM, Heun, DPMSolverPP, OBELM, EDICT, EditFriendly)
}


def solver_from_dict(saved: Mapping[str, Any]) -> Solver:
    """The solver that `Solver.to_dict` wrote, or one by name: {"solver": "DDIM"}."""
    settings = dict(saved)
    name = settings.pop("solver", None)
    if name not in SOLVERS:
        raise DataError(f"there is no solver '{name}'. Solvers are: {', '.join(SOLVERS)}.")
    return SOLVERS[name](**settings)
