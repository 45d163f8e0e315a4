"""Does the audit hold for everybody? Every number by subgroup, and a search for the subgroup where it is worst.

`Subgroups` speaks as fairlearn's `MetricFrame` does (`overall`, `by_group`, `difference`, `ratio`), https://fairlearn.org. The
search corrects for how often it looked: P. H. Westfall, S. S. Young, "Resampling-Based Multiple Testing", 1993, the largest
statistic over all questions under permutations of the rows. Where rows belong together, as images of a patient do, what each of
the patients adds to a difference gets a random sign instead: P. Kline, A. Santos, "A Score Based Approach to Wild Bootstrap
Inference", Journal of Econometric Methods 2012, https://doi.org/10.1515/2156-6674.1006.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from causalcf.measures import Measured, score_table
from causalcf.metrics import check_column, group_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Subgroups", "by_subgroup", "scan_subgroups"]

Method = Literal["between_groups", "to_overall"]
_KEY = ["measure", "do", "attribute"]
_BINS = 4  # quantile ranges of a column of numbers
_PERMUTATIONS = 999


@dataclass(frozen=True)
class Subgroups:
    """Every number of an audit, by the groups of a column.

    Attributes:
        column: its name.
        overall: of all rows, by (measure, do, attribute).
        by_group: a column a group; NaN where the group is smaller than `smallest`.
        low, high: the 95 % intervals of `by_group`.
        sizes: rows of every group.
        smallest: rows below which a group gets no number.
    """

    column: str
    overall: pd.Series
    by_group: pd.DataFrame
    low: pd.DataFrame
    high: pd.DataFrame
    sizes: pd.Series
    smallest: int

    @property
    def too_small(self) -> list[str]:
        """The groups that got no number."""
        return [str(name) for name in self.sizes.index[self.sizes < self.smallest]]

    def difference(self, method: Method = "between_groups") -> pd.Series:
        """The largest difference between two groups, or between a group and all rows, in the unit of the number.

        NaN where only one group has a number.
        """
        if method == "to_overall":
            return self.by_group.sub(self.overall, axis=0).abs().max(axis=1)
        return (self.by_group.max(axis=1) - self.by_group.min(axis=1)).where(self._several)

    def ratio(self, method: Method = "between_groups") -> pd.Series:
        """The smallest ratio of two groups' numbers, or of a group's and all rows', from 0 to 1.

        NaN for numbers below 0, and where only one group has a number.
        """
        positive = self.by_group.where(self.by_group >= 0)
        if method == "to_overall":
            shares = positive.div(self.overall.where(self.overall >= 0), axis=0)
            return shares.where(shares <= 1, 1 / shares).min(axis=1)
        least = positive.min(axis=1).where((positive.isna() == self.by_group.isna()).all(axis=1))
        return (least / positive.max(axis=1)).where(self._several)

    @property
    def _several(self) -> pd.Series:
        """Whether two groups or more have the number."""
        return self.by_group.notna().sum(axis=1) > 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON data: the sizes, and for every number its value overall and by group with the ends of the interval."""
        numbers = []
        for key in self.overall.index:
            groups = {
                name: [None if np.isnan(table.loc[key, name]) else float(table.loc[key, name]) for table in self.tables]
                for name in self.by_group.columns
            }
            overall = None if np.isnan(self.overall[key]) else float(self.overall[key])
            numbers.append({**dict(zip(_KEY, key, strict=True)), "overall": overall, "groups": groups})
        return {"smallest": self.smallest, "sizes": {name: int(size) for name, size in self.sizes.items()}, "numbers": numbers}

    @property
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Values by group, and the ends of their intervals."""
        return self.by_group, self.low, self.high

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {size}" for name, size in self.sizes.items())
        return f"Subgroups({self.column!r}, {sizes}; smallest={self.smallest})"


def _groups(column: pd.Series) -> Mapping[str, NDArray[np.bool_]]:
    """The rows of every label of a column, or of every quantile range of a column of many numbers, by a name."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column) and column.nunique() > _BINS:
        ranges = pd.qcut(column, _BINS, duplicates="drop")
        parts = ranges.cat.categories
        if len(parts) == 1:
            return _apart(column)
        edges = [parts[0].left, *parts.right]
        digits = next(some for some in range(4, 18) if len({f"{edge:.{some}g}" for edge in edges}) == len(edges))
        return {f"{part.left:.{digits}g} to {part.right:.{digits}g}": np.asarray(ranges == part) for part in parts}
    found = column.dropna().unique()
    try:
        labels = sorted(found)
    except TypeError:  # words and numbers
        labels = sorted(found, key=str)
    return {str(label): np.asarray(column == label) for label in labels}


def _apart(column: pd.Series) -> Mapping[str, NDArray[np.bool_]]:
    """Two groups of a column whose quartiles all are its least or its greatest value: the rows that have it, and the rest."""
    least, most = column.min(), column.max()
    if column.quantile(0.25) > least:
        return {f"below {most:g}": np.asarray(column < most), f"{most:g}": np.asarray(column == most)}
    return {f"{least:g}": np.asarray(column == least), f"above {least:g}": np.asarray(column > least)}


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    check_column(frame, name)
    return frame[name]


def by_subgroup(
    measured: Sequence[Measured],
    frame: pd.DataFrame,
    column: str,
    *,
    seed: int,
    smallest: int = 20,
    groups: NDArray[np.generic] | None = None,
) -> Subgroups:
    """Every number by the groups of a column.

    Args:
        measured: the evidence of an audit.
        frame: its factual rows.
        column: of labels, or of numbers, which are cut at their quartiles.
        seed: of the intervals.
        smallest: rows below which a group gets no number.
        groups: of every row what the bootstrap draws as a whole, such as the patient, (row,).
    """
    parts = {name: rows for name, rows in _groups(_column(frame, column)).items() if rows.any()}
    sizes = pd.Series({name: int(rows.sum()) for name, rows in parts.items()}, name="rows")
    overall = pd.Series({one.key: one.number() for one in measured if one.n}, dtype=float).rename_axis(_KEY)
    tables = {}
    for name, rows in parts.items():
        some = [part for one in measured if (part := one.rows(rows)).n >= smallest]
        tables[name] = score_table(some, seed=seed, groups=None if groups is None else groups[rows]).set_index(_KEY)
    value, low, high = (
        pd.DataFrame({name: table[kind].reindex(overall.index) for name, table in tables.items()})
        for kind in ("value", "low", "high")
    )
    return Subgroups(column, overall, value, low, high, sizes, smallest)


def _statistic(rows: NDArray[np.float64], member: NDArray[np.float64]) -> NDArray[np.float64]:
    """Welch's t of the rows inside against those outside, (group, question); infinite where nothing but the group differs."""
    rows = rows - rows.mean(axis=0)
    inside = member.sum(axis=0)[:, None]
    outside = len(rows) - inside
    first, second = member.T @ rows, member.T @ rows**2
    means = first / inside, (rows.sum(axis=0) - first) / outside
    spreads = second / inside - means[0] ** 2, ((rows**2).sum(axis=0) - second) / outside - means[1] ** 2
    error = np.sqrt(spreads[0].clip(min=0) / inside + spreads[1].clip(min=0) / outside)
    apart, rounding = means[0] - means[1], 1e-12 + 1e-6 * np.sqrt((rows**2).mean(axis=0))
    certain = np.where(np.abs(apart) > rounding, np.copysign(np.inf, apart), 0.0)
    return np.asarray(np.divide(apart, error, out=certain, where=error > rounding))


def _permuted(
    rows: NDArray[np.float64], member: NDArray[np.float64], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The size of every difference, (group, question), and of the largest under each permutation of the rows, (draw,)."""
    draws = (generator.permutation(rows) for _ in range(_PERMUTATIONS))
    return np.abs(_statistic(rows, member)), np.array([np.abs(_statistic(draw, member)).max() for draw in draws])


def _signed(
    rows: NDArray[np.float64], member: NDArray[np.float64], owners: NDArray[np.generic], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `_permuted`, of rows that belong to owners, (row,): under random signs of what each owner adds to a difference."""
    owner = group_codes(owners)
    order = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
    rounding = 1e-12 * (1 + np.abs(rows).max(axis=0)) * np.sqrt(len(rows))
    rows, member = ((part - part.mean(axis=0))[order] for part in (rows, member))
    added = (np.add.reduceat(inside[:, None] * rows, starts) for inside in member.T)  # (owner, question)
    error = np.sqrt([(one**2).sum(axis=0) for one in added])

    def size(signs: NDArray[np.float64]) -> NDArray[np.float64]:
        total = member.T @ (signs[owner[order], None] * rows)
        return np.abs(np.divide(total, error, out=np.zeros_like(error), where=error > rounding))

    draws = (generator.choice([-1.0, 1.0], len(starts)) for _ in range(_PERMUTATIONS))
    return size(np.ones(len(starts))), np.array([size(draw).max() for draw in draws])


def scan_subgroups(
    measured: Sequence[Measured],
    frame: pd.DataFrame,
    columns: Sequence[str],
    *,
    seed: int,
    smallest: int = 20,
    measure: str = "amplification",
    groups: NDArray[np.generic] | None = None,
) -> pd.DataFrame:
    """The subgroups in which an attribute is amplified otherwise than in the rest, over all interventions, worst first.

    Args:
        measured: the evidence of an audit.
        frame: its factual rows.
        columns: whose groups, alone and two by two, are looked at.
        seed: of the permutations or signs.
        smallest: rows below which neither a subgroup nor its rest is looked at.
        measure: what is compared, a mean over rows.
        groups: of every row what it belongs to, such as the patient, (row,); without, rows are taken as independent.

    Returns:
        Columns `do`, `attribute`, `role`, `subgroup`, `n`, `value` in the subgroup, `rest`, `unit`, and `p`: how often the
        largest difference of all the questions that were asked is at least so large, by chance alone.
    """
    alone = {name: _groups(_column(frame, name)) for name in columns}
    parts = {f"{name} {label}": rows for name, labels in alone.items() for label, rows in labels.items()}
    for one, other in itertools.combinations(columns, 2):
        pairs = itertools.product(alone[one].items(), alone[other].items())
        parts |= {f"{one} {a}, {other} {b}": first & second for (a, first), (b, second) in pairs}
    parts = {name: rows for name, rows in parts.items() if min(rows.sum(), (~rows).sum()) >= smallest}
    asked = [one for one in measured if one.measure == measure and one.n == len(frame)]
    found = ["do", "attribute", "role", "subgroup", "n", "value", "rest", "unit", "p"]
    if not parts or not asked:
        return pd.DataFrame(columns=found)
    rows = np.column_stack([one.scale * one.value[:, 0] for one in asked])
    member = np.column_stack(list(parts.values())).astype(np.float64)
    generator = np.random.Generator(np.random.Philox(seed))
    seen, largest = _permuted(rows, member, generator) if groups is None else _signed(rows, member, groups, generator)
    table = [
        {
            "do": one.do, "attribute": one.attribute, "role": one.role, "subgroup": name, "n": int(inside.sum()),
            "value": rows[inside, question].mean(), "rest": rows[~inside, question].mean(), "unit": one.unit,
            "p": (1 + (largest >= seen[place, question]).sum()) / (1 + _PERMUTATIONS), "size": seen[place, question],
        }
        for place, (name, inside) in enumerate(parts.items())
        for question, one in enumerate(asked)
    ]  # fmt: skip
    return pd.DataFrame(table).sort_values("size", ascending=False, kind="stable", ignore_index=True)[found]
