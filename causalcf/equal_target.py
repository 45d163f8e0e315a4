"""Rules of guidance where they show what was asked equally well: how far has each moved the rest, how long is the way back?

A rule that shows more of what was asked moves the rest more as well, so that rules at one weight are not comparable. Here they
are compared where both show it as well as the true counterfactual does (without one, as the real image shows what it has); what a
judge reads beyond that is exaggeration that nobody asked for. Where one of them never gets there, both are compared at the most
that the weaker shows; where both are beyond it at their lowest weight, at what they show there.

    off target     of every attribute that must stay, how far its reading is off on average, and of these numbers the mean: what
                   guidance does to the images as a whole, the kind of number that the paper tells. Images that move up and down
                   cancel.
    each image     how far the reading of one image is off, on average: nothing cancels, also not what the judge is unsure of
    back           there and back, grey levels

Readings are log odds of the label that an image should show, of a number errors in standard deviations; off counts from the true
counterfactual where it is known, else from the real image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causalcf.measures import Measured
from causalcf.metrics import resamples

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COMPARED", "EXCESS", "QUANTITIES", "Evidence", "at_equal_target", "trade_off"]

COMPARED = ("delta_log_odds", "delta_error")  # from the real image
EXCESS = ("excess_log_odds", "excess_error")  # from the true counterfactual
QUANTITIES = {"off target": "ratio", "each image": "each ratio", "back": "back ratio"}  # with the names of their ratios
_UNKNOWN = dict.fromkeys(QUANTITIES, np.nan)
_SAMPLES = 500  # of the bootstrap

Evidence = Mapping[tuple[str, float, str], Sequence[Sequence[Measured]]]
"""of every rule, weight and intervention, what each seed measured"""


@dataclass(frozen=True)
class _Line:
    """What a rule gives by rising weight, of one sample of the rows.

    Attributes:
        weight: of guidance, (weight,).
        target: the reading of what was asked, (weight,).
        off: of each attribute that must stay how far its reading is off on average, with the sign, (weight, attribute).
        each: the same of the absolute value, (weight, attribute).
        back: (weight,).
    """

    weight: NDArray[np.float64]
    target: NDArray[np.float64]
    off: NDArray[np.float64]
    each: NDArray[np.float64]
    back: NDArray[np.float64]

    def at(self, target: float) -> dict[str, float]:
        """By quantity, where the line crosses a reading of what was asked; the first crossing as weights rise."""
        for place in range(len(self.target) - 1):
            start, step = self.target[place], self.target[place + 1] - self.target[place]
            share = 0.0 if start == target else (target - start) / step if step else np.nan
            if 0 <= share <= 1:
                return self._between(place, share)
        return _UNKNOWN

    def without_guidance(self) -> dict[str, float]:
        """By quantity, at weight 1."""
        places = np.flatnonzero(self.weight[:-1] == 1), np.flatnonzero(self.weight[1:] == 1)
        return next((self._between(int(at[0]), end) for at, end in zip(places, (0.0, 1.0), strict=True) if len(at)), _UNKNOWN)

    def _between(self, place: int, share: float) -> dict[str, float]:
        """By quantity, at a share of the way from one weight to the next."""
        off, each, back = (of[place] + share * (of[place + 1] - of[place]) for of in (self.off, self.each, self.back))
        return {"off target": float(np.abs(off).mean()), "each image": float(each.mean()), "back": float(back)}


def _common(mine: _Line, other: _Line) -> float:
    """The reading of what was asked at which two rules are compared; NaN if the other never shows as little."""
    least = float(max(mine.target.min(), other.target.min()))
    target = min(float(mine.target.max()), float(other.target.max()), max(0.0, least))
    return target if target >= least else np.nan


def _compared(mine: _Line, other: _Line) -> tuple[float, dict[str, float], dict[str, float], dict[str, float]]:
    """The common reading; of both rules, the quantities there; their ratios."""
    target = _common(mine, other)
    here, there = mine.at(target), other.at(target)
    ratios = {ratio: here[name] / there[name] if there[name] else np.nan for name, ratio in QUANTITIES.items()}
    return target, here, there, ratios


def _sign(measure: str) -> float:
    """1 if more is easier to read, -1 of errors."""
    return 1.0 if measure.endswith("log_odds") else -1.0


def _means(
    parts: Sequence[Measured], samples: NDArray[np.int64], starts: NDArray[np.int64], *, size: bool = False
) -> NDArray[np.float64]:
    """Of one measure of every seed the mean in every sample, (sample,); of absolute values if `size`.

    Args:
        parts: a seed each; the rows of one that measures fewer are the first of the seed.
        samples: how often each sample draws a row, one seed after another, (sample, row).
        starts: where in them each seed begins.
    """
    rows = np.concatenate([start + np.arange(one.n) for start, one in zip(starts, parts, strict=True)])
    values, drawn = np.concatenate([one.value[:, 0] for one in parts]), samples[:, rows]
    with np.errstate(invalid="ignore"):
        return np.asarray(drawn @ (np.abs(values) if size else values) / drawn.sum(axis=1))


def _lines(evidence: Evidence, samples: NDArray[np.int64]) -> dict[tuple[str, str], list[_Line]]:
    """By intervention and rule, if there are several weights, a line for every sample."""
    points: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for (rule, weight, label), seeds in sorted(evidence.items(), key=lambda item: item[0][1]):
        measures = list(zip(*seeds, strict=True))  # of each a tuple over seeds
        known = any(parts[0].measure in EXCESS for parts in measures)
        read = [parts for parts in measures if parts[0].measure in (EXCESS if known else COMPARED)]
        asked = next((parts for parts in read if parts[0].attribute == label), None)
        rest = [parts for parts in read if str(parts[0].role) == "off target"]
        if asked is None or not rest:  # all attributes together, or nothing that must stay
            continue
        starts = np.cumsum([0, *(one.n for one in asked[:-1])])
        back = next(parts for parts in measures if parts[0].measure == "reversibility")
        point = (
            np.full(len(samples), weight),
            _sign(asked[0].measure) * _means(asked, samples, starts),
            np.stack([_means(parts, samples, starts) for parts in rest], axis=1),
            np.stack([_means(parts, samples, starts, size=True) for parts in rest], axis=1),
            _means(back, samples, starts),
        )
        points.setdefault((label, rule), []).append(point)
    return {key: _of_samples(some) for key, some in points.items() if len(some) > 1}


def _of_samples(points: Sequence[tuple[Any, ...]]) -> list[_Line]:
    """From the quantities of every weight, each with the samples first, a line for every sample."""
    by_sample = [np.stack(of, axis=1) for of in zip(*points, strict=True)]
    return [_Line(*numbers) for numbers in zip(*by_sample, strict=True)]


def at_equal_target(evidence: Evidence, groups: NDArray[np.int64] | None = None) -> pd.DataFrame:
    """Rules against classifier-free guidance where both show what was asked equally well, with 95 % intervals of the ratios.

    Quantities are interpolated between weights; intervals are of a percentile bootstrap over the rows, all rules, interventions
    and ways back from the same ones.

    Args:
        evidence: of all seeds.
        groups: of every row, one seed after another, the group that is drawn as a whole.

    Returns:
        Columns `do`, `rule`, `target`; of each quantity (see above) the rule's, classifier-free guidance's, and that of no
        guidance at all, which is the network's own; their `ratio`, from `ratio low` to `ratio high`. Where a rule does not come
        near to the other's reading, they are NaN.
    """
    rows = max(sum(max(one.n for one in seed) for seed in seeds) for seeds in evidence.values())
    lines = _lines(evidence, np.ones((1, rows), dtype=np.int64))
    again = _lines(evidence, resamples(rows, seed=0, draws=_SAMPLES, groups=groups))
    found = []
    for (label, rule), (line,) in lines.items():
        base = lines.get((label, "CFG"))
        if rule == "CFG" or base is None:
            continue
        target, here, there, ratios = _compared(line, base[0])
        samples = [_compared(*pair)[3] for pair in zip(again[label, rule], again[label, "CFG"], strict=True)]
        neutral = base[0].without_guidance()
        row = {"do": label, "rule": rule, "target": target}
        for name, ratio in QUANTITIES.items():
            spread = [sample[ratio] for sample in samples if np.isfinite(sample[ratio])]
            low, high = np.percentile(spread, [2.5, 97.5]) if spread and np.isfinite(ratios[ratio]) else (np.nan, np.nan)
            row |= {name: here[name], f"{name}, CFG": there[name], f"{name}, no guidance": neutral[name]}
            row |= {ratio: ratios[ratio], f"{ratio} low": low, f"{ratio} high": high}
        found.append(row)
    names = [
        column
        for name, ratio in QUANTITIES.items()
        for column in (name, f"{name}, CFG", f"{name}, no guidance", ratio, f"{ratio} low", f"{ratio} high")
    ]
    return pd.DataFrame(found, columns=["do", "rule", "target", *names])


def trade_off(table: pd.DataFrame) -> pd.DataFrame:
    """What a rule shows of what was asked, moves of the rest, and loses on the way back, a row an intervention, rule and weight.

    Args:
        table: of `causalcf.Reproduction`.

    Returns:
        Columns `do`, `rule`, `weight`; `target`, the reading of the attribute that was set, under `all` the mean over all; `off
        target`; `back`, with the ends of its interval, `low` and `high`.
    """
    points = []
    for (label, rule, weight), here in table.groupby(["do", "rule", "weight"], sort=False):
        read = here[here["measure"].isin(EXCESS if here["measure"].isin(EXCESS).any() else COMPARED)]
        asked = read[((read["role"] == "target") if label == "all" else (read["attribute"] == label)).to_numpy()]
        target = (asked["value"] * asked["measure"].map(_sign)).mean()
        off = read.loc[read["role"] == "off target", "value"].abs().mean()
        back = here[here["measure"] == "reversibility"].iloc[0]
        point = {"do": label, "rule": rule, "weight": weight, "target": target, "off target": off}
        points.append({**point, "back": back["value"], "low": back.get("low"), "high": back.get("high")})
    return pd.DataFrame(points)
