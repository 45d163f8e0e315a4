"""What was measured on every row, and the numbers that follow from it: tables, subgroups, differences, audits put together.

An audit keeps its evidence row by row. A number is a statistic of rows (see `causalcf.metrics`), so that its interval, its value
in a subgroup, its difference between two models and the audit of several shards all follow from the same evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from causalcf.errors import DataError
from causalcf.metrics import STATISTICS, drawn_apart, interval, resamples

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COLUMNS", "KINDS", "Better", "Measured", "Role", "concatenate", "score_table"]

Better = Literal["low", "high", "zero", "floor"]
Role = Literal["", "intervened", "affected", "invariant"]

COLUMNS = ["measure", "do", "attribute", "role", "value", "low", "high", "floor", "ceiling", "truth", "unit", "better", "n"]
KINDS = ("value", "floor", "ceiling", "truth")
_ENDS = {"accuracy": (0.0, 1.0), "percent of rows": (0.0, 1.0), "point of accuracy": (-1.0, 1.0)}  # of a row, by unit


@dataclass(frozen=True)
class Measured:
    """One thing that was measured on every row.

    Args:
        measure: its name, as in the table of `causalcf.soundness`.
        value: what each row gave, (row,) or (row, column of the statistic).
        do: the intervention, by its label.
        attribute: what was read.
        role: of the attribute under the intervention: `intervened` on, `affected` by it, or `invariant`.
        statistic: of the rows, a name in `causalcf.metrics.STATISTICS`.
        scale: the statistic is multiplied by it, 100 for points.
        unit: of the number.
        better: `low`, `high`, nearer to `zero`, or nearer to the `floor`.
        floor: what real images give, as `value`, or one number that is known.
        ceiling: what a method gives that does not look.
        truth: what the true counterfactual images give.
        weight: of guidance, where it is not the model's own rule that was asked.
    """

    measure: str
    value: NDArray[np.float64]
    do: str = ""
    attribute: str = ""
    role: Role = ""
    statistic: str = "mean"
    scale: float = 1.0
    unit: str = ""
    better: Better = "low"
    floor: Any = None
    ceiling: Any = None
    truth: Any = None
    weight: float | None = None

    def __post_init__(self) -> None:
        for kind in KINDS:
            given = getattr(self, kind)
            if given is None:
                continue
            rows = np.asarray(given, dtype=np.float64)
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))) if rows.ndim else np.array([])
            if len(bad):
                raise DataError(
                    f"{self.measure} of '{self.attribute}' under do({self.do}) is not finite for rows {bad[:5].tolist()} "
                    "of the batch."
                )
            object.__setattr__(self, kind, float(rows) if not rows.ndim else rows[:, None] if rows.ndim == 1 else rows)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells this measure from the others of a report."""
        return self.measure, self.do, self.attribute

    @property
    def n(self) -> int:
        return len(self.value)

    def rows(self, select: NDArray[np.bool_]) -> Measured:
        """The same of some rows; of a measure that was taken on the first rows alone, of those among them."""
        some: dict[str, Any] = {
            kind: rows[select[: len(rows)]] if isinstance(rows := getattr(self, kind), np.ndarray) else rows for kind in KINDS
        }
        return replace(self, **some)

    def number(self, kind: str = "value") -> float:
        """The statistic of the value, the floor, the ceiling or the truth; NaN where that is not known."""
        rows = getattr(self, kind)
        if rows is None:
            of_chance = {"kolmogorov": 0.868, "correlation": 0.798} if kind == "floor" else {}
            return of_chance.get(self.statistic, math.nan) / math.sqrt(self.n)  # the mean of a true sample
        if isinstance(rows, float):
            return rows
        if (kind, self.statistic) == ("floor", "frechet"):  # two halves differ by chance twice as much as two wholes would
            half = len(rows) // 2
            rows = np.concatenate([rows[: 2 * half : 2], rows[1 : 2 * half : 2]], axis=1)
            return self.scale * float(STATISTICS["frechet"](rows, np.ones((1, half)))[0]) / 2 if half else math.nan
        return self.scale * float(STATISTICS[self.statistic](rows, np.ones((1, len(rows))))[0])

    def interval(self, samples: NDArray[np.int64]) -> tuple[float, float]:
        """The 95 % interval of the value, under bootstrap samples of these rows.

        Where all labels are read right, every sample is as sure as the last. What happens in a larger share of rows than `unseen`
        would have been seen in one of these, but for one time in forty: C. J. Clopper, E. S. Pearson, "The use of confidence or
        fiducial limits illustrated in the case of the binomial", 1934, https://doi.org/10.1093/biomet/26.4.404. Not so of what
        rounds of composition leave as it was, bit for bit: that is no chance.
        """
        low, high = interval(self.statistic, self.value, samples)
        if self.unit in _ENDS and not self.measure.startswith("composition") and not np.ptp(self.value):
            unseen = 1 - 0.025 ** (1 / drawn_apart(samples))
            least, most = _ENDS[self.unit]
            low, high = low - unseen * (low - least), high + unseen * (most - high)
        return self.scale * low, self.scale * high

    def to_row(self, samples: NDArray[np.int64]) -> dict[str, Any]:
        """The row of a report's table."""
        low, high = self.interval(samples)
        numbers = {kind: self.number(kind) for kind in KINDS}
        named = {name: getattr(self, name) for name in ("measure", "do", "attribute", "role", "unit", "better", "n")}
        return {**named, **numbers, "low": low, "high": high}


class _Samples:
    """Bootstrap samples of the first n rows, drawn once for every n."""

    def __init__(self, seed: int, groups: NDArray[Any] | None) -> None:
        self.seed, self.groups = seed, groups
        self.known: dict[int, NDArray[np.int64]] = {}

    def of(self, rows: int) -> NDArray[np.int64]:
        if rows not in self.known:
            groups = None if self.groups is None else self.groups[:rows]
            self.known[rows] = resamples(rows, seed=self.seed, groups=groups)
        return self.known[rows]


def score_table(measured: Sequence[Measured], *, seed: int, groups: NDArray[Any] | None = None) -> pd.DataFrame:
    """One row a number: value, 95 % interval, floor, ceiling, truth.

    Args:
        measured: the evidence.
        seed: of the bootstrap.
        groups: of every row of the batch the group that is drawn as a whole, (row,); without, rows are drawn one by one.
    """
    samples = _Samples(seed, groups)
    return pd.DataFrame([one.to_row(samples.of(one.n)) for one in measured if one.n], columns=COLUMNS)


def concatenate(parts: Sequence[Sequence[Measured]]) -> list[Measured]:
    """The evidence of several parts of the rows, in their order."""
    first, *others = parts
    whole = []
    for place, one in enumerate(first):
        same = [one, *(other[place] for other in others)]
        if any(other.key != one.key for other in same):
            raise DataError(f"the parts do not measure the same: one has {one.key}, another {same[-1].key} in its place.")
        joined: dict[str, Any] = {}
        for kind in KINDS:
            rows = [getattr(other, kind) for other in same]
            joined[kind] = np.concatenate(rows) if isinstance(rows[0], np.ndarray) else rows[0]
        whole.append(replace(one, **joined))
    return whole
