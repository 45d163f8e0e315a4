"""Numbers from rows: distances between images, agreement with targets, and statistics that can be resampled.

    statistic      of the rows                                                       columns of a row
    mean           their mean                                                        1
    auroc          area under the ROC curve, of more than two labels the mean        label's code, score of every label
                   over the labels, each against the others
    auroc_gain     the AUROC of one reading minus that of another                    code, scores, code, scores
    f1             F1 of the labels, mean over the labels                            code, code read
    frechet        Frechet distance between two samples of features                  features, features
    kolmogorov     largest gap between their distribution function and a uniform's,  1 or more
                   mean over the columns
    correlation    absolute correlation                                              2

Each takes weights, so that bootstrap samples (how often each of them draws every row) go through the same formula, all at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causalcf.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "STATISTICS", "check_column", "check_groups", "drawn_apart", "group_codes", "image_distance", "interval", "resampled",
    "resamples", "target_error",
]  # fmt: skip

_DRAWS, _SLOW_DRAWS = 1000, 200  # bootstrap samples, of a mean and of a statistic that takes a pass over the rows for each

Statistic = Callable[["NDArray[np.float64]", "NDArray[np.float64]"], "NDArray[np.float64]"]
"""rows (row, column), weights (sample, row) -> (sample,)"""


def image_distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """L1 distance between two images of every row, in grey levels 0..255, averaged over the pixels: (row,)."""
    return np.asarray(np.abs(a.astype(np.float64) - b).reshape(len(a), -1).mean(axis=1))


def target_error(found: NDArray[Any], target: NDArray[Any], *, discrete: bool) -> NDArray[np.float64]:
    """Per row, 1 where a label is right and 0 where not; of a number, its absolute error: (row,)."""
    if discrete:
        return np.asarray(np.asarray(found) == np.asarray(target), dtype=np.float64)
    return np.asarray(np.abs(np.asarray(found, dtype=float) - np.asarray(target, dtype=float)))


def _mean(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(weights @ rows[:, 0] / weights.sum(axis=1))


def _area(positive: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted share of pairs of a positive and a negative in which the positive scores higher, a tie counting half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) > 0)  # of the rows whose scores tie
    here, there = (
        np.add.reduceat(np.where(which[order], weights[:, order], 0.0), starts, axis=1) for which in (positive, ~positive)
    )
    below = np.cumsum(there, axis=1) - there
    pairs = here.sum(axis=1) * there.sum(axis=1)
    wins = (here * (below + there / 2)).sum(axis=1)
    return np.asarray(np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0))


def _auroc(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    code, scores = rows[:, 0], rows[:, 1:]
    every = range(1, 2) if scores.shape[1] == 2 else range(scores.shape[1])
    labels = [label for label in every if (code == label).any() and (code != label).any()]
    if not labels:
        return np.full(len(weights), np.nan)
    areas = np.stack([_area(code == label, scores[:, label], weights) for label in labels])
    known = np.isfinite(areas)  # a sample may miss a label
    total, count = np.where(known, areas, 0.0).sum(axis=0), known.sum(axis=0)
    return np.asarray(np.divide(total, count, out=areas[0].copy(), where=count > 0))


def _auroc_gain(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    half = rows.shape[1] // 2
    return _auroc(rows[:, :half], weights) - _auroc(rows[:, half:], weights)


def _f1(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    code, read = rows.T
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for label in np.unique(code):
        right = weights @ ((code == label) & (read == label))
        there, said = weights @ (code == label), weights @ (read == label)
        total += np.divide(2 * right, there + said, out=np.zeros(len(weights)), where=there > 0)
        count += there > 0
    return np.asarray(total / count)


def _frechet(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), of the normal distributions with the samples' means and covariances.

    D. C. Dowson, B. V. Landau, "The Frechet distance between multivariate normal distributions", Journal of Multivariate
    Analysis 1982, https://doi.org/10.1016/0047-259X(82)90077-X.
    """
    first, second = np.split(rows, 2, axis=1)
    found = []
    for share in weights / weights.sum(axis=1, keepdims=True):
        means = share @ first, share @ second
        parts = zip((first, second), means, strict=True)
        spreads = [(share[:, None] * (part - mean)).T @ (part - mean) for part, mean in parts]
        values, vectors = np.linalg.eigh(spreads[0])
        root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        cross = np.sqrt(np.linalg.eigvalsh(root @ spreads[1] @ root).clip(min=0)).sum()
        found.append(((means[0] - means[1]) ** 2).sum() + np.trace(spreads[0]) + np.trace(spreads[1]) - 2 * cross)
    return np.asarray(np.maximum(found, 0.0))


def _kolmogorov(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    gaps = []
    for column in rows.T:
        order = np.argsort(column, kind="stable")
        steps = np.cumsum(weights[:, order], axis=1) / weights.sum(axis=1, keepdims=True)
        before = np.pad(steps[:, :-1], ((0, 0), (1, 0)))
        gaps.append(np.maximum((steps - column[order]).max(axis=1), (column[order] - before).max(axis=1)))
    return np.asarray(np.mean(gaps, axis=0))


def _correlation(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    share = weights / weights.sum(axis=1, keepdims=True)
    one, other = (column - (share @ column)[:, None] for column in rows.T)
    spread = (share * one**2).sum(axis=1) * (share * other**2).sum(axis=1)
    together = (share * one * other).sum(axis=1)
    return np.asarray(np.abs(np.divide(together, np.sqrt(spread), out=np.zeros(len(share)), where=spread > 0)))


STATISTICS: dict[str, Statistic] = {
    "mean": _mean,
    "auroc": _auroc,
    "auroc_gain": _auroc_gain,
    "f1": _f1,
    "frechet": _frechet,
    "kolmogorov": _kolmogorov,
    "correlation": _correlation,
}


def check_column(frame: pd.DataFrame, name: str) -> None:
    """
    Raises:
        DataError: there is no such column to group rows by.
    """
    if name not in frame:
        raise DataError(f"there is no column '{name}' to group by. Columns are: {', '.join(map(str, frame.columns))}.")


def check_groups(frame: pd.DataFrame, name: str) -> None:
    """
    Raises:
        DataError: there is no such column, or it does not say of every row which others it belongs to.
    """
    check_column(frame, name)
    blank = frame.index[frame[name].isna() | (frame[name].astype(str).str.strip() == "")]
    if len(blank):
        rows = ", ".join(map(str, blank[:5])) + (", ..." if len(blank) > 5 else "")
        raise DataError(
            f"column '{name}' has {len(blank)} missing value{'s' if len(blank) > 1 else ''}, in rows {rows}, so that it does not "
            "say which rows belong together. Fill them, drop the rows, or do not group by it."
        )


def group_codes(groups: NDArray[Any]) -> NDArray[np.int64]:
    """Of every row the number of its group, from 0, in the order of their names, which may be words and numbers: (row,)."""
    return np.asarray(pd.factorize(np.asarray(groups), sort=True)[0], dtype=np.int64)


def resamples(rows: int, *, seed: int, draws: int = _DRAWS, groups: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """How often each bootstrap sample draws every row, (draw, row).

    Args:
        rows: how many there are.
        seed: of the draws.
        draws: how many samples.
        groups: of every row the group that is drawn as a whole, as patients are of images: (row,).
    """
    generator = np.random.Generator(np.random.Philox(seed))
    if groups is None:
        return np.asarray(generator.multinomial(rows, np.full(rows, 1 / rows), size=draws))
    codes = group_codes(groups)
    count = int(codes.max()) + 1
    return np.asarray(generator.multinomial(count, np.full(count, 1 / count), size=draws)[:, codes])


def drawn_apart(samples: NDArray[np.int64]) -> int:
    """How many rows or groups of rows `resamples` draws one by one: how many columns differ, told by a random sum of each."""
    some = samples[:_SLOW_DRAWS]
    keys = np.random.Generator(np.random.Philox(0)).integers(2**62, size=len(some))
    return len(np.unique(keys @ some))


def interval(
    statistic: str, values: NDArray[np.float64], samples: NDArray[np.int64], *, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic; NaN where resampling says nothing of it.

    A row that is drawn twice makes two samples look more different than they are: the distribution of a Frechet distance is moved
    so that its middle is the value, and of a largest gap or an absolute correlation there is no interval.
    B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        statistic: a name in `STATISTICS`.
        values: (row, column).
        samples: of `resamples`; of a statistic other than the mean, the first 200.
        level: of the interval.
    """
    found = resampled(statistic, values, samples)
    if not np.isfinite(found).any():
        return math.nan, math.nan
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled(statistic: str, values: NDArray[np.float64], samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """A statistic of each bootstrap sample, (sample,), of which `interval` takes the middle."""
    if statistic in ("kolmogorov", "correlation"):
        return np.full(1, np.nan)
    some = samples if statistic == "mean" else samples[:_SLOW_DRAWS]
    found = STATISTICS[statistic](values, some.astype(np.float64))
    if statistic == "frechet":
        found = found + STATISTICS[statistic](values, np.ones((1, len(values)))) - np.median(found)
    return found
