"""Two audits of the same rows side by side: what a model, a guidance rule or a weight gains over another, paired by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from causalcf.errors import DataError
from causalcf.measures import Measured
from causalcf.metrics import resampled, resamples
from causalcf.soundness import AuditReport

__all__ = ["compare"]

_COLUMNS = ["measure", "do", "attribute", "role", "report", "value", "first", "difference", "low", "high", "unit", "better", "n"]


def _check_paired(first: AuditReport, name: str, other: AuditReport) -> None:
    if not other.factual.frame.index.equals(first.factual.frame.index):
        raise DataError(f"report '{name}' is of other rows than the first. Audit the same batch with both.")
    for label in (label for label in first.answers if label in other.answers):
        for node, asked in first.answers[label].do.items():
            # lists, because an audit that was saved has its labels back in another type of column
            if node in other.answers[label].do and list(asked) != list(other.answers[label].do[node]):
                raise DataError(f"report '{name}' asked do({label}) for other values than the first. Audit with the same seed.")


def _difference(one: Measured, first: Measured, samples: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the difference, both under the same bootstrap samples; of those that have every label."""
    mine, base = (part.scale * resampled(part.statistic, part.value, samples) for part in (one, first))
    gap = mine - base
    if not np.isfinite(gap).any():
        return float("nan"), float("nan")
    low, high = np.nanquantile(gap, [0.025, 0.975])
    return float(low), float(high)


def compare(reports: Mapping[str, AuditReport] | Sequence[AuditReport]) -> pd.DataFrame:
    """Every number of each further report against that of the first, with the interval of the difference.

    Args:
        reports: two or more audits of the same rows, interventions and seed; by name, or numbered.

    Returns:
        Columns `measure`, `do`, `attribute`, `role`, `report`, its `value`, that of the `first`, their `difference` with the 95 %
        interval `low` to `high` (both under the same bootstrap samples, so that what is common to a row cancels), `unit`,
        `better` and `n`. Numbers that only one of the two has are left out.

    Raises:
        DataError: there is nothing to compare, or the rows or interventions differ.
    """
    named = dict(reports) if isinstance(reports, Mapping) else {str(place): one for place, one in enumerate(reports, start=1)}
    if len(named) < 2:
        raise DataError("compare takes two reports or more.")
    (_, first), *others = named.items()
    known = {one.key: one for one in first.measured}
    groups, seed = first.groups, first.settings["seed"]
    rows = []
    for name, report in others:
        _check_paired(first, name, report)
        for one in report.measured:
            base = known.get(one.key)
            if base is None or base.n != one.n or not one.n:
                continue
            samples = resamples(one.n, seed=seed, groups=None if groups is None else groups[: one.n])
            low, high = _difference(one, base, samples)
            value, before = one.number(), base.number()
            about = (one.measure, one.do, one.attribute, one.role, name, value, before)
            rows.append((*about, value - before, low, high, one.unit, one.better, one.n))
    return pd.DataFrame(rows, columns=_COLUMNS)
