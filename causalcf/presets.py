"""How published evaluations ask and score, so that their numbers and an audit's line up.

    preset           interventions   composition after   there and back   judges                                weights
    axiomatic-2022   marginal        1, 10 rounds        1, 10 times      as they are                           the model's
    benchmark-2024   bins            1, 10 rounds        1 time           in training mode, 256 rows at a time  the model's
    dcfg-2025        flip            1 round             1 time           as they are                           and 1, 1.5, 2, 3

`axiomatic-2022`: M. Monteiro et al., "Measuring axiomatic soundness of counterfactual image models",
https://arxiv.org/abs/2303.01274. `benchmark-2024`: T. Melistas et al., "Benchmarking Counterfactual Image Generation",
https://arxiv.org/abs/2403.20287, whose code scores with its predictors left in training mode: dropout is on, and normalisation
follows the batch. `dcfg-2025`: T. Xia et al., "Decoupled Classifier-Free Guidance for Counterfactual Diffusion Models",
https://arxiv.org/abs/2506.14399, whose delta AUROC is `amplification.auroc`. A preset decides nothing but what this table shows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from causalcf.errors import DataError
from causalcf.samplers import Sampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PRESETS", "InTrainingMode", "Preset", "left_in_training_mode", "preset"]


@dataclass(frozen=True)
class Preset:
    """What a published evaluation fixes; see the module."""

    sampler: Sampler
    rounds: Sequence[int]
    cycles: Sequence[int]
    training_mode: bool = False
    weights: Sequence[float] = ()


PRESETS = {
    "axiomatic-2022": Preset("marginal", (1, 10), (1, 10)),
    "benchmark-2024": Preset("bins", (1, 10), (1,), training_mode=True),
    "dcfg-2025": Preset("flip", (1,), (1,), weights=(1.0, 1.5, 2.0, 3.0)),
}


def preset(name: str) -> Preset:
    """A preset by name, or a DataError that lists what there is."""
    if name not in PRESETS:
        raise DataError(f"there is no preset '{name}'. Presets are: {', '.join(PRESETS)}.")
    return PRESETS[name]


class InTrainingMode:
    """A network judge that is left in training mode, as some published code does by mistake: to reproduce its numbers.

    Args:
        judge: a `torch.nn.Module` that is a judge; it stays as it is.
        seed: of the dropout.
    """

    rows_at_once = 256

    def __init__(self, judge: Any, seed: int = 0) -> None:
        self.judge, self.seed = judge, seed
        self.__name__ = f"{type(judge).__name__} in training mode"

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        other = copy.deepcopy(self.judge).train()
        other.eval = lambda: other
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            read: NDArray[Any] = other(images)
        return read


def left_in_training_mode(judges: dict[str, Any], seed: int) -> dict[str, Any]:
    """The judges, those that are networks left in training mode."""
    return {name: InTrainingMode(judge, seed) if isinstance(judge, nn.Module) else judge for name, judge in judges.items()}
