"""The trade-off of guidance: what a weight buys of what was asked, and what it costs elsewhere and on the way back.

    quantity   of an attribute under an intervention and a weight                                          ideal
    share      (effectiveness - floor) / (ceiling - floor): how far its reading is on the way from what    0
               real images score to what a method that does not look scores; comparable between units
    back       reversibility.1, grey levels                                                                0

The curve of the paper of decoupled guidance: T. Xia, F. De Sousa Ribeiro, R. R. Rasal, A. Kori, R. Mehta, B. Glocker, "Decoupled
Classifier-Free Guidance for Counterfactual Diffusion Models", 2025, https://arxiv.org/abs/2506.14399.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from causalcf.errors import DataError
from causalcf.guidance import Adjusted, ClassifierFree, Decoupled, Guidance, Scheduled
from causalcf.image import Diffusion
from causalcf.measures import COLUMNS, Measured, score_table
from causalcf.query import Abduction, counterfactual
from causalcf.scoring import AuditedRows, score_back, score_judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from causalcf.scm import SCM

_SHOWN = ("effectiveness", "amplification", "reversibility")


def check_weights(scm: SCM, weights: Sequence[float], usual: Sequence[float]) -> list[float]:
    """The weights that were asked for, sorted; the usual ones where none were and the model's image takes guidance.

    Raises:
        DataError: weights were asked for, and it takes none.
    """
    guided = bool(scm.graph.images) and isinstance(scm.mechanisms[scm.graph.images[0]], Diffusion)
    if weights and not guided:
        raise DataError(
            f"weights={list(weights)}: the model has no image under guidance, so that there is no trade-off. Leave them out."
        )
    return sorted({float(weight) for weight in weights or (usual if guided else ())})


def at_weight(rule: Guidance, weight: float) -> Guidance:
    """The rule with one weight for everything that an intervention reaches; all else of it stays. Of none, the nested form."""
    if isinstance(rule, Scheduled | Adjusted):
        return cast(Guidance, replace(cast(Any, rule), inner=at_weight(rule.inner, weight)))
    if isinstance(rule, Decoupled):
        return replace(rule, weight=weight, weights={})
    return replace(rule, weight=weight) if isinstance(rule, ClassifierFree) else Decoupled(weight, form="nested")


def score_weights(
    scm: SCM,
    rows: AuditedRows,
    abduction: Abduction,
    do: Mapping[str, Any],
    label: str,
    weights: Sequence[float],
    again_rows: int | None,
    seed: int,
) -> list[Measured]:
    """What an intervention shows under one weight after another, from the same abduction."""
    found: list[Measured] = []
    for weight in weights:
        mechanism: Any = scm.mechanisms[scm.graph.images[0]]
        other = scm.configured(guidance=at_weight(mechanism.guidance, weight))
        answer = counterfactual(other, abduction, do)
        scored = score_judged(rows, answer, label, None) + score_back(other, rows, answer, label, [1], again_rows, seed)
        found += [replace(one, weight=weight) for one in scored if one.measure.startswith(_SHOWN)]
    return found


def tradeoff_table(
    measured: Sequence[Measured], weighted: Sequence[Measured], *, seed: int, groups: NDArray[Any] | None
) -> pd.DataFrame:
    """Effectiveness, amplification and reversibility by `weight`, that of the model's own rule NaN.

    Args:
        measured: the evidence under the model's own rule.
        weighted: the evidence under each weight.
        seed: of the bootstrap.
        groups: that it draws as a whole, (row,).
    """
    asked = {one.key for one in weighted}
    own = [one for one in measured if one.key in asked]
    weights = sorted({one.weight for one in weighted if one.weight is not None})
    parts = [score_table(own, seed=seed, groups=groups).assign(weight=float("nan"))]
    for weight in weights:
        some = [one for one in weighted if one.weight == weight]
        parts.append(score_table(some, seed=seed, groups=groups).assign(weight=weight))
    return pd.concat(parts, ignore_index=True)[["weight", *COLUMNS]]


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of effectiveness with `share`, `share_low` and `share_high`; those whose judge tells nothing are left out."""
    some = table[table["measure"] == "effectiveness"].copy()
    way = some["ceiling"] - some["floor"]
    for name in ("value", "low", "high"):
        some[f"share{'' if name == 'value' else f'_{name}'}"] = (some[name] - some["floor"]) / way
    return some[way.abs() > 0]
