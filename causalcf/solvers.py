"""Deterministic diffusion, both ways: from noise to image (DDIM), and from image to the noise that explains it.

    name          symbol                  meaning
    alphas        alpha_i = sqrt(abar)    signal at level i; level 0 is the clean image
    sigmas        sigma_i                 noise at level i
    ratios        s_i = sigma_i/alpha_i   the time of the ordinary differential equation
    scaled        z_i = x_i/alpha_i       its state
    noise         eps                     the network's prediction, a function of (x, level)

DDIM is Euler's method in s:  z_{i-1} = z_i - (s_i - s_{i-1}) eps(alpha_i z_i, t_i).  Undoing a step means solving
z_i = z_{i-1} + (s_i - s_{i-1}) eps(alpha_i z_i, t_i) for z_i, an implicit equation: a fixed point, started from the
previous step's eps.

J. Song, C. Meng, S. Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, https://arxiv.org/abs/2010.02502; Z. Pan,
R. Gherardi, X. Xie, S. Huang, "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion", ICCV 2023,
https://arxiv.org/abs/2309.04907, for the fixed point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from causalcf.errors import AbductionError

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

__all__ = [
    "InversionTrace",
    "Levels",
    "NoisePrediction",
    "Prediction",
    "Spacing",
    "fixed_point_inversion",
    "noise_from_output",
    "sample",
]

Spacing = Literal["trailing", "quadratic"]
Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What a network predicts, by diffusers' names: the noise, v = alpha eps - sigma x_0, or the clean image x_0."""
NoisePrediction = Callable[[Tensor, int, Tensor], Tensor]
"""eps(x, timestep, rows): the noise in x, (rows, ...), where `rows` says which rows of the batch x holds."""


@dataclass(frozen=True)
class Levels:
    """The grid of noise levels that abduction and prediction share, level 0 the clean image.

    Attributes:
        timesteps: training timestep of level i at place i - 1.
        alphas, sigmas: of level i at place i, one longer.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]

    @classmethod
    def from_scheduler(cls, scheduler: DDIMScheduler, steps: int, *, spacing: Spacing = "trailing") -> Levels:
        """The levels that are visited in this many steps.

        Args:
            scheduler: its noise schedule.
            steps: how many levels there are besides the clean image.
            spacing: `trailing` is the grid of the diffusers scheduler itself; `quadratic` puts more levels near the clean image,
                where undoing a long step is ill-posed because denoising forgets.

        Raises:
            AbductionError: the scheduler clips its prediction, which cannot be undone, or the grids of the two directions
                would differ.
        """
        config = scheduler.config
        if config.clip_sample or config.thresholding:
            raise AbductionError(
                "the scheduler clips its predicted clean image (clip_sample or thresholding), which abduction cannot undo. "
                "Build it with clip_sample=False and thresholding=False."
            )
        if config.timestep_spacing != "trailing":
            raise AbductionError(
                f"the scheduler's timestep_spacing is '{config.timestep_spacing}', with which the grids of abduction and "
                "prediction differ. Build it with timestep_spacing='trailing'."
            )
        if config.prediction_type not in get_args(Prediction):
            raise AbductionError(
                f"prediction_type is '{config.prediction_type}'. Those supported are: {', '.join(get_args(Prediction))}."
            )
        total = int(config.num_train_timesteps)
        if spacing == "trailing":
            if not 1 <= steps <= total or total % steps:
                near = sorted((n for n in range(1, total + 1) if total % n == 0), key=lambda n: abs(n - steps))[:4]
                raise AbductionError(
                    f"steps={steps} does not divide the {total} timesteps of training, so that the grids of abduction and "
                    f"prediction would differ. Try one of {', '.join(map(str, sorted(near)))}."
                )
            timesteps = tuple(range(total // steps - 1, total, total // steps))
        else:
            timesteps = tuple(round((total - 1) * (level / steps) ** 2) for level in range(1, steps + 1))
            if not timesteps or len(set(timesteps)) < steps:
                raise AbductionError(f"steps={steps} is not possible with quadratic spacing of {total} timesteps. Try 10 to 50.")
        cumulative = scheduler.alphas_cumprod.double()
        signal = [1.0, *(float(cumulative[t]) for t in timesteps)]
        return cls(timesteps, tuple(a**0.5 for a in signal), tuple((1 - a) ** 0.5 for a in signal))

    def __len__(self) -> int:
        return len(self.timesteps)

    def gap(self, level: int) -> float:
        """h_i = s_i - s_{i-1}, the length of the step between level i - 1 and level i."""
        below, here = (self.sigmas[i] / self.alphas[i] for i in (level - 1, level))
        return here - below


@dataclass
class InversionTrace:
    """What abduction took and how well it solved its equations.

    Attributes:
        evaluations: rows that went through the network.
        residual: largest residual of the accepted solution, over rows, one a level: root mean square, in units of the noise.
    """

    evaluations: int = 0
    residual: list[float] = field(default_factory=list)


def noise_from_output(image: Tensor, output: Tensor, alpha: float, sigma: float, prediction: Prediction) -> Tensor:
    """The noise in x_t that a network's output stands for, (batch, ...).

    T. Salimans, J. Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022,
    https://arxiv.org/abs/2202.00512, for v.
    """
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return alpha * output + sigma * image
    return (image - alpha * output) / sigma


def sample(noise: Tensor, levels: Levels, predict: NoisePrediction) -> Tensor:
    """DDIM from noise (level N) to the clean image (level 0); one evaluation a level."""
    rows = torch.arange(len(noise))
    image = noise
    for level in range(len(levels), 0, -1):
        eps = predict(image, levels.timesteps[level - 1], rows)
        scaled = image / levels.alphas[level] - levels.gap(level) * eps
        image = scaled * levels.alphas[level - 1]
    return image


def fixed_point_inversion(
    image: Tensor,
    levels: Levels,
    predict: NoisePrediction,
    *,
    tolerance: float = 3e-3,
    iterations: int = 8,
) -> tuple[Tensor, InversionTrace]:
    """The noise from which `sample` gives back the image.

    Every level's implicit equation is solved by fixed-point iteration, warm-started by extending the line through the two
    previous levels' eps. A row stops as soon as its residual is below the tolerance; where the residual grows, its step is
    halved.

    Args:
        image: clean, (batch, ...), in [-1, 1].
        levels: the grid that prediction will use.
        predict: the noise prediction under the factual parents.
        tolerance: largest accepted change that one more iteration would make to x_i, root mean square over the pixels.
        iterations: at most so many evaluations a level and row.

    Returns:
        The noise, (batch, ...), and what it took.

    Raises:
        AbductionError: the network returned NaN or infinity; the rows are named.
    """
    trace = InversionTrace()
    scaled, eps = image, torch.zeros_like(image)
    before: Tensor | None = None
    for level in range(1, len(levels) + 1):
        timestep, alpha, gap = levels.timesteps[level - 1], levels.alphas[level], levels.gap(level)
        active = torch.arange(len(image))
        damping = image.new_ones(len(image))
        best = image.new_full((len(image),), torch.inf)
        guess = eps if before is None else 2 * eps - before
        accepted = guess.clone()
        for _ in range(iterations):
            found = predict(alpha * (scaled[active] + gap * guess[active]), timestep, active)
            trace.evaluations += len(active)
            change = alpha * gap * (found - guess[active])
            residual = change.flatten(1).square().mean(1).sqrt()
            if not torch.isfinite(residual).all():
                bad = active[~torch.isfinite(residual)].tolist()
                raise AbductionError(f"the noise prediction at timestep {timestep} is not finite for rows {bad} of the batch.")
            better = residual < best[active]
            accepted[active[better]] = found[better]
            damping[active[~better]] *= 0.5
            best[active] = torch.minimum(best[active], residual)
            step = damping[active].view(-1, *[1] * (image.dim() - 1))
            guess = guess.index_copy(0, active, torch.lerp(guess[active], found, step))
            active = active[residual > tolerance]
            if not len(active):
                break
        trace.residual.append(float(best.max()))
        before, eps = eps if level > 1 else None, accepted
        scaled = scaled + gap * eps
    return scaled * levels.alphas[-1], trace
