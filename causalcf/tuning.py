"""Tuning: the guidance weights with which a model's counterfactuals show best what was asked, found on a validation split.

    quantity            of an intervention and a rule                                                         bound
    error               the judges' errors on x*, in standard deviations of the attribute (a label: share of   minimised
                        rows that are wrong), mean over the image's parents
    off_target          the same, mean over the parents that must stay; how far it is above the plain rule's   `off_target`
    reversibility       there and back again against x, grey levels; how far it is above the plain rule's      `reversibility`
    evaluations         of the network a row; a setting must lower the error by some per cent to be worth more  `gain`

The plain conditional keeps both bounds by definition, so that there always is an answer, and a rule is chosen only where it is
better than no guidance at all. The search goes one setting at a time: for every form the weight of each attribute when it is
affected, then of all the invariant ones together and of each by itself, then the interval of noise levels in which the rule
holds, then rules of the user's own. A setting is kept if it lowers the error summed over the interventions, and not by next to
nothing, while each of them keeps its bounds. Abduction is done once, and an answer is asked again only if a rule differs there
from those tried before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.errors import DataError
from causalcf.guidance import Adjusted, Decoupled, Form, Guidance, Plain, Scheduled
from causalcf.image import Diffusion
from causalcf.interventions import Do
from causalcf.metrics import image_distance, target_error
from causalcf.progress import progress as show_progress
from causalcf.query import Abduction, abduct, counterfactual
from causalcf.samplers import draw_interventions
from causalcf.scm import SCM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Bench", "Score", "Tuning", "tune"]

_WEIGHTS = (1.5, 2.0, 2.5, 3.0)
_INVARIANT = (1.25, 1.5, 2.0)
_INTERVALS = ((0, 499), (0, 749), (100, 999), (200, 999))
_COLUMNS = ["stage", "rule", "do", "error", "on_target", "off_target", "reversibility", "evaluations", "kept", "feasible"]


@dataclass(frozen=True)
class Tuning:
    """What tuning found.

    Attributes:
        scm: the model with the chosen rule as its default.
        guidance: the chosen rule.
        table: one row a rule and intervention that was tried: `stage` of the search, `rule` in words, `do`, `error`, `on_target`
            and `off_target` (see the module; absolute, not above plain), `reversibility` (grey level), `evaluations` of the
            network a row, `feasible` (both bounds kept) and `kept` (part of the chosen rule).
        bounds: the accepted rise of `off_target` and of `reversibility` above the plain rule's, by intervention.
    """

    scm: SCM
    guidance: Guidance
    table: pd.DataFrame
    bounds: Mapping[str, Mapping[str, float]]

    def __repr__(self) -> str:
        return f"Tuning({self.guidance}, tried={self.table['rule'].nunique()})"

    def figure(self) -> Figure:
        """The trade-off: for every intervention, what a rule gains on target against what it costs off target, and back again."""
        from causalcf.plot import tradeoff_figure

        return tradeoff_figure(self.table, self.bounds)

    def save(self, directory: str | Path) -> dict[str, Path]:
        """Write `model`, `tuning.csv` and `tuning.png` into a directory."""
        from causalcf.plot import to_png

        out = Path(directory)
        out.mkdir(parents=True, exist_ok=True)
        paths = {name: out / name for name in ("model", "tuning.csv", "tuning.png")}
        self.scm.save(paths["model"])
        self.table.to_csv(paths["tuning.csv"], index=False)
        to_png(self.figure(), paths["tuning.png"])
        return paths


@dataclass(frozen=True)
class Score:
    """How one intervention fares under one rule; the module says what the numbers are."""

    error: float
    on_target: float
    off_target: float
    reversibility: float
    evaluations: float


class Bench:
    """Answers under one rule after another, each asked once.

    Args:
        scm: fitted, with an image of a `Diffusion` mechanism and judges.
        batch: with images; abducted once.
        dos: interventions by label.
        again_rows: so many rows go there and back.
        seed: of the abduction of labels.
    """

    def __init__(self, scm: SCM, batch: Batch, dos: Mapping[str, Do], again_rows: int, seed: int) -> None:
        self.scm, self.dos, self.again, self.seed = scm, dos, slice(0, again_rows), seed
        self.image = scm.graph.images[0]
        self.parents = scm.graph.parents(self.image)
        self.abduction: Abduction = abduct(scm, batch, seed=seed)
        self.scale = {name: 1.0 if scm.graph.node(name).discrete else float(batch.frame[name].std()) for name in self.parents}
        constant = [name for name, scale in self.scale.items() if not scale > 0]
        if constant:
            raise DataError(f"all rows have one {constant[0]}: an error in its standard deviations has no size.")
        self.known: dict[Any, Score] = {}

    def changed(self, label: str) -> frozenset[str]:
        """The image's parents that an intervention reaches."""
        return self.scm.graph.descendants(self.dos[label]).intersection(self.parents)

    def _plan(self, label: str, rule: Guidance) -> Any:
        """What tells one rule from another under an intervention: its coefficients at every level, forth and back."""
        if isinstance(rule, Adjusted):  # no weighted sum
            return label, str(rule)
        levels = cast(Diffusion, self.scm.mechanisms[self.image]).levels.timesteps
        return label, rule.by_moved, tuple(frozenset(rule.terms(self.parents, self.changed(label), t).items()) for t in levels)

    def score(self, label: str, rule: Guidance) -> Score:
        """How an intervention fares under a rule."""
        plan = self._plan(label, rule)
        if plan not in self.known:
            self.known[plan] = self._ask(label, rule)
        return self.known[plan]

    def _ask(self, label: str, rule: Guidance) -> Score:
        scm, batch = self.scm.configured(guidance=rule), self.abduction.factual
        do = self.dos[label]
        answer = counterfactual(scm, self.abduction, do, guidance=rule)
        errors = {}
        for name, judge in scm.judges.items():
            if name not in self.parents:
                continue  # the image does not show it
            discrete = scm.graph.node(name).discrete
            found = target_error(judge(answer.images[self.image]), answer.frame[name].to_numpy(), discrete=discrete)
            errors[name] = float((1 - found if discrete else found).mean()) / self.scale[name]
        undo = {name: batch.frame[name].iloc[self.again] for name in do}
        back = counterfactual(scm, answer.batch.rows(self.again), undo, seed=self.seed)
        changed = self.changed(label)
        moved = [errors[name] for name in errors if name in changed]
        still = [errors[name] for name in errors if name not in changed]
        return Score(
            error=float(np.mean(list(errors.values()))),
            on_target=float(np.mean(moved)) if moved else math.nan,
            off_target=float(np.mean(still)) if still else 0.0,
            reversibility=float(image_distance(back.images[self.image], batch.images[self.image][self.again]).mean()),
            evaluations=float(answer.diagnostics[f"{self.image}.prediction_evaluations"].mean()),
        )


class _Search:
    """The rules tried so far, and what they were found to be worth: a function of nothing but their scores.

    Args:
        score: how an intervention, by its label, fares under a rule.
        labels: of the interventions.
        bounds: as in `Tuning`.
        gain: as in `tune`.
        advance: told how many rules were tried, and of the last one.
    """

    def __init__(
        self,
        score: Callable[[str, Guidance], Score],
        labels: Sequence[str],
        bounds: Mapping[str, Mapping[str, float]],
        gain: float,
        advance: Callable[[int, str], None],
    ) -> None:
        self.score, self.labels, self.bounds, self.gain, self.advance = score, labels, bounds, gain, advance
        self.tried = 0
        self.rows: list[dict[str, Any]] = []
        self.plain = {label: score(label, Plain()) for label in labels}

    def feasible(self, label: str, score: Score) -> bool:
        plain = self.plain[label]
        return (
            score.off_target - plain.off_target <= self.bounds["off_target"][label]
            and score.reversibility - plain.reversibility <= self.bounds["reversibility"][label]
        )

    def worth(self, stage: str, rule: Guidance) -> float:
        """The error summed over the interventions; infinite where a bound is broken."""
        total = 0.0
        for label in self.labels:
            score = self.score(label, rule)
            feasible = self.feasible(label, score)
            self.rows.append({"stage": stage, "rule": str(rule), "do": label, **vars(score), "feasible": feasible})
            total += score.error if feasible else math.inf
        self.tried += 1
        self.advance(self.tried, f"{rule}: {total:.3f}")
        return total

    def best(self, stage: str, current: tuple[float, Any], others: Sequence[Any]) -> tuple[float, Any]:
        """The better of the rule so far and the others."""
        for rule in others:
            worth = self.worth(stage, rule)
            if worth < current[0] * (1 - self.gain):
                current = worth, rule
        return current

    def choose(
        self,
        parents: Sequence[str],
        *,
        forms: Sequence[Form],
        weights: Sequence[float],
        invariant: Sequence[float],
        intervals: Sequence[tuple[int, int]],
        others: Sequence[Guidance],
    ) -> Guidance:
        """The chosen rule, one setting at a time; what was tried on the way is in `rows`.

        Args:
            parents: of the image.
            forms, weights, invariant, intervals, others: as in `tune`.
        """
        start: tuple[float, Any] = (self.worth("plain", Plain()), Plain())
        chosen = start
        for form in forms:
            found: tuple[float, Any] = (start[0], Decoupled(1.0, form=form))
            if form == "paper":  # its neutral prediction is not the plain one
                found = (self.worth("weights", found[1]), found[1])
            for name in parents:
                rule = found[1]
                found = self.best("weights", found, [replace(rule, weights={**rule.weights, name: weight}) for weight in weights])
            chosen = found if found[0] < chosen[0] else chosen
        if isinstance(chosen[1], Decoupled) or invariant:
            if not isinstance(chosen[1], Decoupled):  # of the forms that are the plain conditional at weight 1
                chosen = (chosen[0], Decoupled(1.0, form=next((form for form in forms if form != "paper"), "nested")))
            rule = chosen[1]
            together = [replace(rule, invariant=weight) for weight in invariant]  # one pass for all of them
            chosen = self.best("invariant", chosen, together)
            for name in parents:
                still = dict(chosen[1].invariant) if isinstance(chosen[1].invariant, Mapping) else {}
                chosen = self.best(
                    "invariant", chosen, [replace(chosen[1], invariant={**still, name: weight}) for weight in invariant]
                )
        if isinstance(chosen[1], Decoupled):
            chosen = self.best("interval", chosen, [Scheduled(chosen[1], interval=interval) for interval in intervals])
        chosen = self.best("others", chosen, others)
        final: Guidance = chosen[1]
        if all(self.score(label, final) == self.plain[label] for label in self.labels):
            final = Plain()
        self.worth("chosen", final)
        return final


def _bounds(name: str, given: float | Mapping[str, float], dos: Mapping[str, Do]) -> dict[str, float]:
    """A bound for every intervention."""
    bounds = dict(given) if isinstance(given, Mapping) else dict.fromkeys(dos, given)
    if set(bounds) != set(dos) or not all(bound >= 0 for bound in bounds.values()):
        raise DataError(
            f"{name}={given} is no bound: give a number from 0 up, infinite for none, or one for each of {', '.join(dos)}."
        )
    return bounds


def _check_model(scm: SCM, batch: Batch) -> None:
    """That there is guidance to tune, and that its answers can be compared."""
    if len(scm.graph.images) != 1:
        raise DataError(f"tuning takes a model with one image node; graph '{scm.graph.name}' has {len(scm.graph.images)}.")
    mechanism = scm.mechanisms[scm.graph.images[0]]
    if not isinstance(mechanism, Diffusion):
        raise DataError(
            f"the image's mechanism is a {type(mechanism).__name__}, which takes no guidance: there is nothing to tune."
        )
    if scm.graph.images[0] not in batch.images:
        raise DataError(f"the batch has no images for '{scm.graph.images[0]}'. Pass them: tuning compares what the images show.")
    if not scm.judges:
        raise DataError("the model has no judges to read its images. Set scm.judges, see causalcf.fit_judges.")


def _check_rules(scm: SCM, rules: Sequence[Guidance]) -> None:
    """That rules can be asked and stored, before any is: a search takes long."""
    parents = scm.graph.parents(scm.graph.images[0])
    for rule in rules:
        scm.configured(guidance=rule)
        if rule.by_row:
            raise DataError(f"the rule {rule} has a weight a row, which no model keeps. Give one weight.")
        for t in (0, 500, 999):
            rule.terms(parents, frozenset(parents[:1]), t)


def tune(
    scm: SCM,
    batch: Batch,
    *,
    interventions: Mapping[str, Do] | None = None,
    forms: Sequence[Form] = ("nested", "anchored"),
    weights: Sequence[float] = _WEIGHTS,
    invariant: Sequence[float] = _INVARIANT,
    intervals: Sequence[tuple[int, int]] = _INTERVALS,
    others: Sequence[Guidance] = (),
    off_target: float | Mapping[str, float] = 0.02,
    reversibility: float | Mapping[str, float] = 2.0,
    gain: float = 0.02,
    again_rows: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Tuning:
    """The guidance rule that makes counterfactuals show best what was asked, within bounds on what else changes.

    Args:
        scm: fitted, with one image and judges of its attributes.
        batch: rows of a validation split: neither those that the model was fitted to, nor those that it is audited on.
        interventions: by label, what to ask; one on each parent of the image unless told, see `draw_interventions`.
        forms: of decoupled guidance, that are compared.
        weights: that are tried for an affected attribute; 1 is always among them.
        invariant: weights that are tried for an invariant attribute; 1 is always among them.
        others: rules of one's own, that are tried at the end.
        intervals: of timesteps, 0 (clean) to 999 (noise), that are tried at the end; all of them is always among them.
        off_target: how far the error of what must stay may rise above that of the plain conditional, in standard deviations
            (of a label: as a share of rows); one number, or one for every intervention by its label.
        reversibility: how far there and back may rise above that of the plain conditional, grey level; likewise.
        gain: the share of the error that a setting must take away, because most of them cost evaluations of the network.
        again_rows: so many rows go there and back.
        seed: of the interventions and of the abduction of labels.
        progress: show how far it is.

    Raises:
        DataError: the model has no image or no judges, the batch no images, or a rule cannot be asked; before any is.

    Example:
        >>> import causalcf as ccf
        >>> scm, rows = ccf.load("morphomnist"), ccf.recipe("morphomnist").batch("valid", 4)
        >>> found = ccf.tune(scm, rows, forms=["nested"], weights=[2.0], invariant=[], intervals=[], again_rows=2)
        >>> found.scm.mechanisms["image"].guidance == found.guidance
        True
    """
    _check_model(scm, batch)
    dos = dict(interventions or draw_interventions(scm.graph, batch.frame, image=scm.graph.images[0], seed=seed))
    bounds = {name: _bounds(name, given, dos) for name, given in (("off_target", off_target), ("reversibility", reversibility))}
    if not 0 <= gain < 1:
        raise DataError(f"gain={gain} is no share: it is from 0 up, and below 1.")
    one = [Decoupled(1.0, form=form) for form in forms] or [Decoupled(1.0)]
    _check_rules(scm, [*(Scheduled(one[0], interval=interval) for interval in intervals), *others])
    parents = scm.graph.parents(scm.graph.images[0])
    total = len(forms) * len(parents) * len(weights) + (1 + len(parents)) * len(invariant) + len(intervals) + len(others)
    with show_progress("tuning", total + 1.0, show=progress) as advance:
        advance(0, "abduction and the plain rule")
        bench = Bench(scm, batch, dos, again_rows, seed)
        search = _Search(bench.score, list(dos), bounds, gain, lambda tried, words: advance(min(tried, total), words))
        final = search.choose(parents, forms=forms, weights=weights, invariant=invariant, intervals=intervals, others=others)
    table = pd.DataFrame(search.rows).drop_duplicates(["stage", "rule", "do"])
    table["kept"] = table["rule"] == str(final)
    tuned = scm.configured(guidance=final)
    made = dict((scm.manifest or {}).get("made", {}))
    finite = {  # JSON has no word for infinity
        name: {label: bound if math.isfinite(bound) else None for label, bound in given.items()} for name, given in bounds.items()
    }
    record = {"rows": len(batch), "seed": seed, "rules": int(table["rule"].nunique()), **finite, "gain": gain}
    tuned.manifest = {"made": {**made, "tuning": record}}
    return Tuning(tuned, final, table[_COLUMNS].reset_index(drop=True), bounds)
