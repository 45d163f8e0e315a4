"""The noise levels that abduction and prediction of an image share, and what a network's output means at one of them.

name          symbol                  meaning
alphas        alpha_i = sqrt(abar)    signal at level i; level 0 is the clean image
sigmas        sigma_i                 noise at level i
ratios        s_i = sigma_i/alpha_i   the time of the ordinary differential equation, see `causalcf.solvers`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from causalcf.errors import AbductionError

if TYPE_CHECKING:
    from diffusers import DDIMScheduler
    from torch import Tensor

__all__ = ["Levels", "Prediction", "Spacing", "noise_from_output"]

Spacing = Literal["trailing"] | float
Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What a network predicts, by diffusers' names: the noise, v = alpha eps - sigma x_0, or the clean image x_0."""


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
            spacing: `trailing` is the grid of the diffusers scheduler itself. A number is a power: level i of N is at the share
                (i / N)^power of the timesteps, so that above 1 there are more levels near the clean image, where undoing a long
                step is ill-posed because denoising forgets.

        Raises:
            AbductionError: the scheduler clips its prediction, which cannot be undone, the grids of the two directions would
                differ, or no signal is left at the last level.
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
            if not 1 <= steps <= total:
                raise AbductionError(f"steps={steps} is not possible with {total} timesteps of training. Try 10 to 50.")
            timesteps = (round((total - 1) * (1 / steps) ** spacing),)
            for level in range(2, steps + 1):  # one timestep each, also where the power would put several levels on one
                timesteps += (max(round((total - 1) * (level / steps) ** spacing), timesteps[-1] + 1),)
        cumulative = scheduler.alphas_cumprod.double()
        signal = [1.0, *(float(cumulative[t]) for t in timesteps)]
        if signal[-1] == 0:
            raise AbductionError(
                f"the scheduler leaves nothing of the image at timestep {timesteps[-1]} (rescale_betas_zero_snr or a beta of 1), "
                "so that abduction cannot reach it. Build it with rescale_betas_zero_snr=False, for training too."
            )
        return cls(timesteps, tuple(a**0.5 for a in signal), tuple((1 - a) ** 0.5 for a in signal))

    def __len__(self) -> int:
        return len(self.timesteps)

    def gap(self, level: int) -> float:
        """h_i = s_i - s_{i-1}, the length of the step between level i - 1 and level i."""
        below, here = (self.sigmas[i] / self.alphas[i] for i in (level - 1, level))
        return here - below


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
