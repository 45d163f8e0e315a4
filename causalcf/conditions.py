"""Conditions under which an audit fails, as a sentence of a few words.

    composition.1 > 0.5                           any number of this measure
    effectiveness do(digit) digit < 0.95          of one intervention and attribute
    amplification.off_target > 2                  of the attributes that were not intervened on

A word behind the measure says which attributes: `intervened`, `affected`, `invariant`, or `off_target` for the last two. What is
best at 0, as amplification is, is compared by its size. A condition that no number answers is an error, never a pass.
"""

from __future__ import annotations

import operator
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from causalcf.errors import DataError

__all__ = ["Condition", "check_conditions", "judge_conditions", "parse_condition", "read_conditions"]

MEASURES = (
    "composition", "autoencoder", "effectiveness", "amplification", "reversibility", "true_error", "minimality", "realism",
    "support", "evaluations", "noise_fit", "noise_independence", "image_noise",
)  # fmt: skip
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_ROLES = {
    "intervened": ("intervened",),
    "affected": ("affected",),
    "invariant": ("invariant",),
    "off_target": ("affected", "invariant"),
}
_LABEL = r"[^()]*"
for _ in range(3):  # parentheses in parentheses, as in do(dose (mg))
    _LABEL = rf"(?:[^()]|\({_LABEL}\))*"
_SENTENCE = re.compile(
    rf"\s*(?P<measure>[\w.]+)(?:,?\s+do\((?P<do>{_LABEL}|[^)]*)\))?"
    r"(?:\s+(?P<attribute>[^<>=]*?))?\s*(?P<sign>>=|<=|>|<)\s*(?P<limit>\S+)\s*"
)


@dataclass(frozen=True)
class Condition:
    """A condition, taken apart.

    Attributes:
        text: as it was written.
        measure: without the role.
        roles: of the attributes that count; empty for all.
        do, attribute: the intervention and the attribute that count; None for all.
        sign: `>`, `>=`, `<` or `<=`.
        limit: what the number is compared with.
    """

    text: str
    measure: str
    roles: tuple[str, ...]
    do: str | None
    attribute: str | None
    sign: str
    limit: float

    def matching(self, scores: pd.DataFrame) -> pd.DataFrame:
        """The numbers of a report that it is about."""
        rows = scores[scores["measure"] == self.measure]
        if self.roles:
            rows = rows[rows["role"].isin(self.roles)]
        for name, wanted in (("do", self.do), ("attribute", self.attribute)):
            rows = rows if wanted is None else rows[rows[name] == wanted]
        return rows

    def holds(self, rows: pd.DataFrame) -> pd.Series:
        """For each number, whether the condition is met."""
        value = rows["value"].where(rows["better"] != "zero", rows["value"].abs())
        return pd.Series(_COMPARE[self.sign](value, self.limit), index=rows.index)


def parse_condition(text: str) -> Condition:
    """A condition from its sentence.

    Example:
        >>> parse_condition("amplification.off_target > 2").roles
        ('affected', 'invariant')
    """
    found = _SENTENCE.fullmatch(text)
    try:
        limit = float(found["limit"]) if found else None
    except ValueError:
        limit = None
    if found is None or limit is None:
        raise DataError(
            f"'{text}' is no condition. Write: MEASURE [do(INTERVENTION)] [ATTRIBUTE] > NUMBER, with >, >=, < or <=; "
            "for example 'composition.1 > 0.5' or 'effectiveness do(digit) digit < 0.95'."
        )
    measure, _, last = found["measure"].rpartition(".")
    roles = _ROLES.get(last, ())
    return Condition(
        text.strip(), measure if roles else found["measure"], roles, found["do"], found["attribute"] or None, found["sign"], limit
    )


def read_conditions(path: str | Path) -> list[str]:
    """The conditions in a file such as `audit.toml`: `fail_on = ["composition.1 > 0.5", ...]`."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"cannot read the conditions in '{path}': {error}.") from None
    known = table.get("fail_on")
    if set(table) != {"fail_on"} or not isinstance(known, list) or not all(isinstance(one, str) for one in known):
        raise DataError(
            f"'{path}' holds {', '.join(table) or 'nothing'}. It takes one entry, fail_on = [\"composition.1 > 0.5\"]."
        )
    for text in known:
        parse_condition(text)
    return known


def check_conditions(
    texts: Sequence[str], labels: Collection[str], nodes: Collection[str], rounds: Mapping[str, Sequence[int]]
) -> None:
    """Refuse, before anything is measured, a condition that cannot be read or is about what is not asked or not there.

    Args:
        texts: the conditions.
        labels: of the interventions that are asked.
        nodes: of the graph, and what else is read by a name, as in `image by LPIPS`.
        rounds: by measure, after how many rounds it is taken, as composition is.

    Raises:
        DataError: what is unknown, and what there is.
    """
    for text in texts:
        condition = parse_condition(text)
        family = condition.measure.partition(".")[0]
        if family not in MEASURES:
            raise DataError(f"the condition '{text}' names no number of an audit. Measures are: {', '.join(MEASURES)}.")
        taken = [f"{family}.{number}" for number in rounds.get(family, ())]
        if taken and condition.measure not in taken:
            raise DataError(f"the condition '{text}' names no number of this audit. Of {family} there is: {', '.join(taken)}.")
        if condition.do is not None and condition.do not in labels:
            raise DataError(
                f"the condition '{text}' is about do({condition.do}), which is not asked. Asked: {', '.join(labels)}."
            )
        read = condition.attribute or ""
        unknown = [] if read in nodes else [name for name in read.split(", ") if name and name not in nodes]
        if unknown:
            raise DataError(f"the condition '{text}' is about '{unknown[0]}', which is no node. Nodes are: {', '.join(nodes)}.")


def judge_conditions(texts: Sequence[str], scores: pd.DataFrame) -> list[dict[str, Any]]:
    """A check a condition: passed if no number meets it.

    Raises:
        DataError: no number answers a condition; what there is is listed.
    """
    checks = []
    for text in texts:
        condition = parse_condition(text)
        rows = condition.matching(scores)
        unknown = rows[rows["value"].isna()]
        if len(unknown):
            first = unknown.iloc[0]
            raise DataError(
                f"the condition '{condition.text}' asks for {first['measure']} of '{first['attribute']}' under "
                f"do({first['do']}), which these {first['n']} rows do not tell: they lack a label, or are too few."
            )
        if rows.empty:
            measures = ", ".join(dict.fromkeys(scores["measure"]))
            asked = ", ".join(filter(None, dict.fromkeys(scores["do"])))
            raise DataError(
                f"the condition '{condition.text}' names no number of this audit. Measures are: {measures}; "
                f"interventions: {asked or 'none'}; attributes: {', '.join(filter(None, dict.fromkeys(scores['attribute'])))}."
            )
        met = rows[condition.holds(rows)]
        shown = rows if met.empty else met
        worst = shown.loc[(shown["value"].abs() if condition.sign[0] == ">" else -shown["value"]).idxmax()]
        where = " ".join(filter(None, [f"do({worst['do']})" if worst["do"] else "", str(worst["attribute"])]))
        count = f"{len(met)} of {len(rows)} numbers; " if len(rows) > 1 and len(met) else ""
        detail = f"{count}{worst['measure']} {where} is {worst['value']:.4g} {worst['unit']}".strip()
        checks.append({"check": f"not {condition.text}", "passed": met.empty, "detail": detail})
    return checks
