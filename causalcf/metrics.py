"""Numbers from arrays: distances between images, agreement with targets, and bootstrap intervals over rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bootstrap_mean", "image_distance", "target_error"]


def image_distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """L1 distance between two images of every row, in grey levels 0..255, averaged over the pixels: (row,)."""
    return np.asarray(np.abs(a.astype(np.float64) - b).reshape(len(a), -1).mean(axis=1))


def target_error(found: NDArray[Any], target: NDArray[Any], *, discrete: bool) -> NDArray[np.float64]:
    """Per row, 1 where a label is right and 0 where not; of a number, its absolute error: (row,)."""
    if discrete:
        return np.asarray(np.asarray(found) == np.asarray(target), dtype=np.float64)
    return np.asarray(np.abs(np.asarray(found, dtype=float) - np.asarray(target, dtype=float)))


def bootstrap_mean(values: NDArray[np.float64], *, seed: int, draws: int = 1000, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over rows.

    B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    rows = len(values)
    means = generator.multinomial(rows, np.full(rows, 1 / rows), size=draws) @ values / rows
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
