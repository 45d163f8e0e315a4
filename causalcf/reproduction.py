"""The experiments of the paper of decoupled guidance, on any study: what a weight of guidance buys, and what it costs.

    measure                of rows, under an intervention, a rule and a weight                                    ideal
    delta_auroc            AUROC of the attribute's judge on x* minus on x, points; the paper's number            off target 0
    delta_log_odds         log odds that the judge gives the label that an image should show, on x* minus on x    off target 0
    delta_error            of a number: the judge's error on x* minus on x, standard deviations                   0
    excess_log_odds,       the same, on x* minus on the true counterfactual, where it is known                    0
    excess_error
    reversibility          there and back, grey levels                                                            0
    composition            x* under do(A := the value that A has) against x, grey levels: what the rule itself    0
                           does to an image that nothing was asked of
    realism                of what is set, Frechet distance of x* from x in the features of its judge, FD@judge   the floor
    minimality             counterfactual latent divergence of x* from x                                          low
    true_error             x* against the true counterfactual, grey levels, where it is known                     0

An attribute is `target` if it is set or follows from what is set, `off target` if it must stay. A judge whose AUROC is 1 on real
images hides what guidance overdoes; its log odds do not, and they are what `causalcf.equal_target` compares rules by: where two
rules show what was asked equally well, how far has each moved the rest? Where attributes are dependent, a judge of one reads it
off the others too: a woman with a beard reads as a man, also if nothing but the beard was drawn. So readings are compared with
those of the true counterfactual, if there is one.

Every rule is asked from one abduction. Seeds ask other rows, each with interventions and noise of its own; the numbers are of all
rows together, and `least` and `most` are those of single seeds. Intervals are over rows, of the one model that was asked.

T. Xia, F. De Sousa Ribeiro, R. R. Rasal, A. Kori, R. Mehta, B. Glocker, "Decoupled Classifier-Free Guidance for Counterfactual
Diffusion Models", 2025, https://arxiv.org/abs/2506.14399.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.equal_target import COMPARED, QUANTITIES, Evidence, at_equal_target, trade_off
from causalcf.errors import DataError
from causalcf.guidance import ClassifierFree, Decoupled, Form, Guidance, Plain, PlusPlus, Projected
from causalcf.image import Diffusion
from causalcf.interventions import Do
from causalcf.measures import COLUMNS, KINDS, Measured, concatenate, score_table
from causalcf.metrics import check_groups, group_codes, image_distance
from causalcf.progress import progress as show_progress
from causalcf.query import Abduction, Counterfactual, abduct, counterfactual
from causalcf.samplers import draw_interventions
from causalcf.scm import SCM
from causalcf.scoring import AuditedRows, score_back, score_judged, score_truth
from causalcf.solvers import FixedPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["KNOWN", "Reproduction", "reproduce"]

_FORMS: tuple[Form, ...] = ("paper", "anchored", "nested")
_OF_EACH = (*COMPARED, "delta_auroc")  # told of every attribute where all are set
_TOLERANCE = 1e-3  # of abduction by Euler's steps
_EULER = "no guidance, Euler"  # of which CFG++ is a guidance
_EXTRA = 0.1  # CFG++ multiplies what a weight adds by about ten at the levels that are used here, see `PlusPlus`

_AUROC, _AUROC_OFF = "delta_auroc", "delta_auroc, off target"

KNOWN: dict[tuple[str, str], dict[str, dict[str, str]]] = {
    ("celebahq", "Smiling"): {"DCFG": {_AUROC: "13.1", _AUROC_OFF: "-1.5"}},
    ("mimic_cxr", "finding"): {"DCFG": {_AUROC: "18.8", _AUROC_OFF: "0.6"}, "CFG": {_AUROC_OFF: "about ten times DCFG's"}},
    ("embed", "circle_marker"): {"DCFG": {_AUROC_OFF: "about 0"}},
}
"""What the paper reports, as summaries of it by others have it, by study and do, then by rule and column of the table."""


@dataclass(frozen=True)
class Reproduction:
    """What the experiments gave.

    Attributes:
        table: one row a number. Columns: `rule`, `weight` (of CFG++ the one that it stands for, see `reproduce`), `do` (`all`
            sets every attribute), `measure`, `attribute` (of realism, whose judge), `role` (`target`, `off target` or empty),
            `value`, its interval `low` to `high`, `floor`, `truth` (what true counterfactual images give), `least` and `most` of
            single seeds, `unit`, `n` rows.
        equal: the rules where they show what was asked equally well, see `causalcf.equal_target`.
        examples: answers by intervention, rule and weight, for the picture.
        true: by intervention the true counterfactual images of the same rows, where they are known.
        settings: study, different rows, seeds, weights, levels, groups and how the model was made.
    """

    table: pd.DataFrame
    equal: pd.DataFrame
    examples: Mapping[str, Mapping[tuple[str, float], Counterfactual]]
    true: Mapping[str, NDArray[np.uint8]]
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Reproduction({self.settings['study']!r}, numbers={len(self.table)})"

    def __str__(self) -> str:
        """Where rules show what was asked as well as classifier-free guidance does, in a table for a terminal."""
        if not self.equal["target"].notna().any():
            return "At none of these weights does another rule show what was asked as well as classifier-free guidance does."
        heads = {
            "do": "do", "rule": "rule", "off target": "moved", "off target, CFG": "CFG", "off target, no guidance": "nothing",
            "ratio": "ratio", "each ratio": "of each", "back": "back", "back, CFG": "CFG", "back ratio": "ratio",
        }  # fmt: skip
        told = _with_intervals(self.equal)[[*heads]].map(lambda entry: entry if isinstance(entry, str) else _cell(float(entry)))
        return (
            "Where a rule shows what was asked as well as classifier-free guidance (CFG): how far it moves the attributes that\n"
            "must stay, on average (log odds of their judges, of numbers standard deviations), and how far from the image there\n"
            "and back ends (grey levels). Below 1 a ratio to CFG, with its 95 % interval, says that the rule is better; that\n"
            "`of each` image lets no image that moves up make up for one that moves down; `nothing` is no guidance.\n\n"
            f"{told.set_axis([*heads.values()], axis=1).to_string(index=False)}\n"
        )

    def figure(self) -> Figure:
        """On target against off target, and there and back by weight: a column of panels for every intervention."""
        from causalcf.plot import reproduction_figure

        return reproduction_figure(trade_off(self.table), study=self.settings["study"])

    def picture(self) -> Figure:
        """The first rows under classifier-free and decoupled guidance, weight by weight, and what is true of them."""
        from causalcf.plot import ladder_figure

        return ladder_figure(self.examples, self.true, study=self.settings["study"])

    def save(self, directory: str | Path) -> dict[str, Path]:
        """Write `numbers.csv`, `equal.csv`, `results.md`, `results.json`, `tradeoff.png` and `images.png` into a directory."""
        from causalcf.plot import to_png

        out = Path(directory)
        out.mkdir(parents=True, exist_ok=True)
        names = ("numbers.csv", "equal.csv", "results.md", "results.json", "tradeoff.png", "images.png")
        paths = {name: out / name for name in names}
        self.table.to_csv(paths["numbers.csv"], index=False)
        self.equal.to_csv(paths["equal.csv"], index=False)
        paths["results.md"].write_text(self.to_markdown(), encoding="utf-8")
        paths["results.json"].write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False), encoding="utf-8")
        to_png(self.figure(), paths["tradeoff.png"])
        to_png(self.picture(), paths["images.png"])
        return paths

    def to_dict(self) -> dict[str, Any]:
        """All of it but the pictures as JSON data; what is not known is null."""
        tables = {"numbers": self.table, "equal": self.equal}
        return {
            "settings": dict(self.settings),
            **{name: some.astype(object).where(some.notna(), None).to_dict("records") for name, some in tables.items()},
        }

    def to_markdown(self) -> str:
        """The tables, with what the paper reports beside."""
        told, study = self.settings, self.settings["study"]
        asked = int(self.table["n"].max())
        shared = f" (seeds share rows, which count {asked} times in all)" if asked > told["rows"] else ""
        drawn = f", which are drawn by `{told['groups']}`" if told["groups"] else ""
        lines = [
            f"# {study}: classifier-free against decoupled guidance",
            "",
            f"{told['rows']} held-out rows over seeds {', '.join(map(str, told['seeds']))}{shared}, {told['back']} of them there "
            f"and back; {told['steps']} levels. A cell is the number with its 95 % interval over rows{drawn}, of this one model.",
            "",
            "Off target is the one attribute that must stay, or the mean over those that must, with its sign. `delta_` counts "
            "from the real image, `excess_` from the true counterfactual: above 0 a label is easier to read (`log_odds`, "
            "`auroc`), and a number is read with a larger error (`error`). The floor is what real images give, or is known; "
            "that of FD@judge is half the distance between two halves of them. CFG++ takes Euler's steps: it compares with "
            f"`{_EULER}`.",
        ]
        for label in dict.fromkeys(self.table["do"]):
            lines += ["", f"## do({label})", ""]
            known = KNOWN.get((study, label), {})
            if known:
                lines += ["The last rows are the paper's, on real images, as summaries of it by others tell.", ""]
            lines += _markdown(_wide(self.table[self.table["do"] == label], str(label), known))
        if len(self.equal):
            lines += ["", "## Where rules show what was asked equally well", ""]
            lines += [
                "All numbers are interpolated between weights at one reading of what was asked, `target`: that of the true "
                "counterfactual, or where it is not known of the real image, which is 0; where a rule never shows as much, the "
                "most that both show; where both show more at their lowest weight, what they show there. `off target` is how far "
                "the readings of what must stay are off on average, `each image` how far that of one image is; a `ratio` is that "
                "of the rule to classifier-free guidance, with its 95 % interval over rows. What no guidance at all moves is the "
                "network's own error. Without numbers are rules that never show the same.",
                "",
                *_markdown(_with_intervals(self.equal)),
            ]
        return "\n".join(lines) + "\n"


def _cell(value: float, low: float = np.nan, high: float = np.nan) -> str:
    if not np.isfinite(value):
        return "–"
    text = f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return text if not np.isfinite(low) else f"{text} [{low:.2g}, {high:.2g}]"


def _markdown(table: pd.DataFrame) -> list[str]:
    def words(entry: Any) -> str:
        return entry if isinstance(entry, str) else _cell(float(entry))

    head = [f"| {' | '.join(map(str, table.columns))} |", "|" + "---|" * len(table.columns)]
    return [*head, *(f"| {' | '.join(map(words, row))} |" for row in table.itertuples(index=False))]


def _with_intervals(equal: pd.DataFrame) -> pd.DataFrame:
    """Ratios and their intervals in one cell."""
    told = equal.drop(columns=[name for name in equal if name.endswith((" low", " high"))])
    for ratio in QUANTITIES.values():
        ends = zip(equal[ratio], equal[f"{ratio} low"], equal[f"{ratio} high"], strict=True)
        told[ratio] = [_cell(*row) for row in ends]
    return told


def _wide(table: pd.DataFrame, label: str, known: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """A row a rule and weight, a column a measure; the floor; and what is `known` from the paper, by rule."""
    by_rule = table.groupby(["rule", "weight"], sort=False)
    rows = [{"rule": rule, "weight": _strength(rule, weight), **_cells(some, label)} for (rule, weight), some in by_rule]
    first = next(some for _, some in by_rule)  # the floors of all rules are those of the same images
    rows.append({"rule": "floor", **_cells(first.assign(value=first["floor"], low=np.nan, high=np.nan), label)})
    rows += [{"rule": f"the paper, {rule}", **cells} for rule, cells in known.items()]
    return pd.DataFrame(rows).fillna("–")


def _strength(rule: str, weight: float) -> str:
    """The weight, and what was asked in its stead."""
    return f"{weight:g} (as {_plus_plus(weight):g})" if rule.endswith("CFG++") else f"{weight:g}"


def _cells(some: pd.DataFrame, label: str) -> dict[str, str]:
    """By measure; attributes that must stay are put together by their mean, if they have one unit."""
    row = {}
    for one in some[some["role"] == "target"].itertuples(index=False):
        if one.attribute == label or (label == "all" and one.measure in _OF_EACH):
            name = one.measure if one.attribute == label else f"{one.measure}, {one.attribute}"
            row[name] = _cell(one.value, one.low, one.high)
    for measure, others in some[some["role"] == "off target"].groupby("measure", sort=False):
        if others["unit"].nunique() == 1:
            row[f"{measure}, off target"] = _cell(float(others["value"].mean()))
        else:  # pixels and grey levels have no mean
            row |= {f"{measure}, {one.attribute}": _cell(one.value, one.low, one.high) for one in others.itertuples(index=False)}
    for one in some[some["role"] == ""].itertuples(index=False):
        name = "FD@judge" if one.measure == "realism" else one.measure
        row[name if one.attribute in ("", label) else f"{name}, {one.attribute}"] = _cell(one.value, one.low, one.high)
    return row


# ------------------------------------------------------------------ the rules


def _rules(
    weights: Sequence[float], forms: Sequence[Form], adjusted: bool, parents: Sequence[str]
) -> Iterator[tuple[str, float, Guidance, bool]]:
    """Name, weight, rule, and whether it is asked of all attributes together alone."""
    middle = sorted(weights, key=lambda weight: (abs(weight - 2), weight))[0]
    for weight in weights:
        yield "CFG", weight, ClassifierFree(weight), False
        for form in forms:
            yield f"DCFG {form}", weight, Decoupled(weight, form=form), False
    if not adjusted:
        return
    yield _EULER, 1.0, PlusPlus(_nested(1.0)), False
    for name, inner in (("CFG", ClassifierFree), ("DCFG nested", _nested)):
        yield f"{name}, APG", middle, Projected(inner(middle)), False
        yield f"{name}, CFG++", middle, PlusPlus(inner(_plus_plus(middle))), False
    top = max(weights)
    for name in parents:
        yield f"DCFG nested, {name} alone", top, Decoupled(1.0, form="nested", weights={name: top}), True


def _plus_plus(weight: float) -> float:
    """The weight of CFG++ that stands for another's."""
    return 1 + _EXTRA * (weight - 1)


def _nested(weight: float) -> Decoupled:
    return Decoupled(weight, form="nested")


def _neutral(rule: Guidance) -> bool:
    """Whether at weight 1 it is the plain conditional by the model's own solver, so that it need not be asked."""
    return not (isinstance(rule, PlusPlus) or (isinstance(rule, Decoupled) and rule.form == "paper"))


# ------------------------------------------------------------------ the numbers


def _log_odds(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the label that an image should show, (row,); columns are its code and the score of every label."""
    share = np.clip(rows[np.arange(len(rows)), 1 + rows[:, 0].astype(int)], 1e-6, 1 - 1e-6)
    return np.asarray(np.log(share) - np.log1p(-share))


def _numbers(found: Sequence[Measured], scale: Mapping[str, float]) -> list[Measured]:
    """Of what an audit measures, what the paper does, under its names; `scale` is the standard deviation of every number."""
    kept = []
    for one in found:
        role: Any = "" if not one.role else "off target" if one.role == "invariant" else "target"
        about: dict[str, Any] = {"do": one.do, "attribute": one.attribute, "role": role, "floor": 0.0, "better": "zero"}
        number = bool(one.attribute in scale)
        if one.measure == "amplification.auroc":
            kept.append(replace(one, measure="delta_auroc", role=role))
        elif one.measure == "effectiveness.auroc":
            read = _log_odds(one.value)
            for name, other in (("delta_log_odds", one.floor), ("excess_log_odds", one.truth)):
                if other is not None:
                    kept.append(Measured(name, read - _log_odds(other), unit="log odds", **about))
        elif one.measure == "effectiveness" and number:
            kept.append(replace(one, measure="error", role=role))
            for name, other in (("delta_error", one.floor), ("excess_error", one.truth)):
                if other is not None:
                    kept.append(Measured(name, (one.value - other) / scale[one.attribute], unit="standard deviation", **about))
        elif one.measure == "effectiveness" and role == "target":
            kept.append(replace(one, measure="accuracy", role=role))
        elif one.measure == "realism" and one.do in (one.attribute, "all"):
            kept.append(replace(one, role=""))
        elif one.measure in ("minimality", "true_error"):
            kept.append(replace(one, attribute=""))
        elif one.measure == "reversibility.1":
            kept.append(replace(one, measure="reversibility", attribute=""))
    return kept


class _Bench:
    """The rows of one seed, abducted once."""

    def __init__(
        self,
        scm: SCM,
        batch: Batch,
        seed: int,
        again_rows: int,
        truth: Callable[[Counterfactual], Any] | None,
        scale: Mapping[str, float],
    ) -> None:
        self.scm, self.batch, self.seed, self.again, self.truth, self.scale = scm, batch, seed, again_rows, truth, scale
        self.image = scm.graph.images[0]
        self.rows = AuditedRows(scm, batch, slice(0, len(batch)), scm.judges, {})
        self.abductions: dict[bool, Abduction] = {}  # by whether by Euler's steps
        single = draw_interventions(scm.graph, batch.frame, image=self.image, seed=seed)
        self.dos: dict[str, Do] = {**single, "all": {name: do[name] for name, do in single.items()}}

    def _abducted(self, rule: Guidance) -> Abduction:
        """The noise under the model's own solver, or one that the rule is defined for."""
        mechanism: Any = self.scm.mechanisms[self.image]
        euler = isinstance(rule, PlusPlus) and not mechanism.solver.euler
        if euler not in self.abductions:
            scm = self.scm.configured(solver=FixedPoint(tolerance=_TOLERANCE)) if euler else self.scm
            self.abductions[euler] = abduct(scm, self.batch, seed=self.seed)
        return self.abductions[euler]

    def ask(self, rule: Guidance, label: str) -> tuple[Counterfactual, Any, list[Measured]]:
        """The answer to an intervention under a rule, the true images if they are known, and the numbers."""
        abduction, do = self._abducted(rule), self.dos[label]
        scm = abduction.scm.configured(guidance=rule)
        answer = counterfactual(scm, abduction, do)
        true = None if self.truth is None else self.truth(answer)
        found = score_judged(self.rows, answer, label, true)
        found += score_back(scm, self.rows, answer, label, [1], self.again, self.seed)
        found += score_truth(self.rows, answer, label, true)
        noise = {name: drawn[: self.again] for name, drawn in abduction.noise.items()}
        some = self.batch.rows(slice(0, self.again))
        again = Abduction(abduction.scm, some, noise, abduction.diagnostics.iloc[: self.again])
        still = counterfactual(scm, again, {name: some.frame[name].to_numpy() for name in do}).images[self.image]
        moved = image_distance(still, some.images[self.image])
        numbers = _numbers(found, self.scale)
        return answer, true, [*numbers, Measured("composition", moved, do=label, unit="grey level", floor=0.0)]


def _repeated(groups: Sequence[NDArray[np.int64]], counts: Sequence[int]) -> NDArray[np.int64] | None:
    """The group of each of the first so many rows of every seed, one seed after another; None if every row is its own."""
    rows = np.concatenate([some[:count] for some, count in zip(groups, counts, strict=True)]) if groups else np.zeros(0, int)
    return rows if len(np.unique(rows)) < len(rows) else None


def reproduce(
    scm: SCM,
    batch: Batch,
    *,
    weights: Sequence[float] = (1.0, 1.5, 2.0, 2.5, 3.0),
    forms: Sequence[Form] = _FORMS,
    adjusted: bool = True,
    seeds: Sequence[int] = (0, 1, 2),
    rows: int = 64,
    again_rows: int = 32,
    steps: int | None = None,
    groups: str | None = None,
    truth: Callable[[Counterfactual], Any] | None = None,
    study: str | None = None,
    watch: Callable[[Reproduction], None] | None = None,
    progress: bool = False,
) -> Reproduction:
    """Ask every intervention under classifier-free and decoupled guidance at every weight, and measure what the paper measures.

    Classifier-free guidance, and the decoupled one in its three forms; APG and CFG++ on top of both at the weight nearest to 2
    (CFG++ at a tenth of what that adds to 1); one attribute set at a time, and all of them together, then also with a weight for
    each attribute alone. Abduction and prediction are those of the model, but under CFG++, which is defined for Euler's steps:
    there `FixedPoint`.

    Args:
        scm: fitted, with an image of a `Diffusion` mechanism and judges.
        batch: held-out rows with images.
        weights: of guidance; 1 is the plain conditional.
        forms: of decoupled guidance.
        adjusted: whether to ask under APG, CFG++ (with no guidance by its own steps) and single weights as well.
        seeds: each asks rows of its own, as long as there are enough.
        rows: a seed. Rows that several seeds ask, where there are not enough, count as one where intervals are drawn.
        again_rows: the first of them, of every seed, go there and back.
        steps: noise levels each way; the model's own unless told.
        groups: a column of the batch, such as the patient of an image: intervals draw its groups as a whole.
        truth: from an answer to the true counterfactual images, where they are known.
        study: by what name the paper's numbers are known; the graph's unless told.
        watch: called after every seed but the last, with what the seeds so far have given.
        progress: show how far it is.

    Raises:
        DataError: the model has no image under guidance or no judges, there are no rows, or no such groups.
    """
    graph = scm.graph
    if not graph.images or not isinstance(scm.mechanisms[graph.images[0]], Diffusion):
        raise DataError(f"graph '{graph.name}' has no image with a Diffusion mechanism, so that there is no guidance to compare.")
    parents = graph.parents(graph.images[0])
    absent = [name for name in parents if name not in scm.judges]
    if absent:
        raise DataError(f"the model has no judge for {', '.join(absent)}. Fit them: scm.judges = causalcf.fit_judges(rows).")
    silent = [name for name in parents if graph.node(name).discrete and getattr(scm.judges[name], "scores", None) is None]
    if silent:
        raise DataError(
            f"the judge of {', '.join(silent)} has no scores(images), (row, label), and rules are compared by the log odds of a "
            "label. Fit one that has: scm.judges = causalcf.fit_judges(rows)."
        )
    if not weights or not seeds:
        raise DataError("there is nothing to compare: give one weight and one seed or more.")
    if len(batch) < 2:
        raise DataError(f"{len(batch)} rows are too few to score. Give more.")
    if groups is not None:
        check_groups(batch.frame, groups)
    scm = scm.configured(steps=steps)
    weights = sorted({float(weight) for weight in weights})
    rules = list(_rules(weights, forms, adjusted, parents))
    asked = [(name, weight, rule, label) for name, weight, rule, alone in rules
             for label in (["all"] if alone else [*parents, "all"])]  # fmt: skip
    held = _Held(scm, study or graph.name, weights, min(again_rows, rows, len(batch)), groups)
    who = np.arange(len(batch)) if groups is None else group_codes(batch.frame[groups].to_numpy())
    order = np.random.Generator(np.random.Philox(0)).permutation(len(batch))
    scale = {name: float(batch.frame[name].std()) for name in parents if not graph.node(name).discrete}
    with show_progress(f"experiments on {graph.name}", len(seeds) * len(asked), show=progress) as advance:
        for number, seed in enumerate(seeds):
            places = pd.unique(np.take(order, range(number * rows, (number + 1) * rows), mode="wrap"))
            bench = _Bench(scm, batch.rows(places).loaded(), seed, again_rows, truth, scale)
            held.begin(places, who[places])
            for place, (name, weight, rule, label) in enumerate(asked):
                held.add(bench, name, weight, rule, label)
                advance(number * len(asked) + place + 1, f"seed {seed}: {name}, weight {weight:g}, do({label})")
            held.end(bench)
            if watch is not None and number + 1 < len(seeds):
                watch(held.result())
    return held.result()


class _Held:
    """What the seeds so far have given."""

    def __init__(self, scm: SCM, study: str, weights: Sequence[float], back: int, column: str | None) -> None:
        self.scm, self.study, self.weights, self.back, self.column = scm, study, weights, back, column
        self.evidence: dict[tuple[str, float, str], list[list[Measured]]] = {}
        self.examples: dict[str, dict[tuple[str, float], Counterfactual]] = {}
        self.true: dict[str, NDArray[np.uint8]] = {}
        self.seeds: list[int] = []
        self.places: list[NDArray[np.int64]] = []  # of every seed, which rows it asked
        self.groups: list[NDArray[np.int64]] = []  # of every seed, in which group each of them is drawn
        self.plain: dict[str, list[Measured]] = {}  # by intervention, of this seed

    def begin(self, places: NDArray[np.int64], groups: NDArray[np.int64]) -> None:
        """A seed asks these rows, of these groups."""
        self.places.append(places)
        self.groups.append(groups)

    def add(self, bench: _Bench, name: str, weight: float, rule: Guidance, label: str) -> None:
        """Ask one intervention under one rule, unless it is the plain conditional again."""
        neutral = weight == 1.0 and _neutral(rule)
        if neutral and label in self.plain:
            found = self.plain[label]
        else:
            answer, true, found = bench.ask(Plain() if neutral else rule, label)
            if neutral:
                self.plain[label] = found
            if not self.seeds and label != "all" and name in ("CFG", "DCFG nested"):
                self.examples.setdefault(label, {})["no guidance" if neutral else name, weight] = answer
                self.true |= {} if true is None else {label: np.asarray(true)}
        self.evidence.setdefault((name, weight, label), []).append(found)

    def end(self, bench: _Bench) -> None:
        """A seed is through."""
        self.seeds.append(bench.seed)
        self.plain = {}

    def result(self) -> Reproduction:
        table = _table(self.evidence, self.groups)
        mechanism: Any = self.scm.mechanisms[self.scm.graph.images[0]]
        rows, back = (len(np.unique(np.concatenate([some[:count] for some in self.places]))) for count in (None, self.back))
        settings = {
            "study": self.study, "rows": rows, "back": back, "seeds": list(self.seeds), "groups": self.column,
            "weights": list(self.weights), "steps": mechanism.steps, "model": (self.scm.manifest or {}).get("made", {}),
        }  # fmt: skip
        equal = at_equal_target(self.evidence, _repeated(self.groups, list(map(len, self.groups))))
        return Reproduction(table, equal, self.examples, self.true, settings)


def _row(one: Measured, groups: NDArray[np.int64] | None) -> pd.DataFrame:
    """Its number with interval; of a Frechet distance none, which would take longer than all the rest."""
    if one.statistic != "frechet":
        return score_table([one], seed=0, groups=groups)
    plain = {name: getattr(one, name) for name in ("measure", "do", "attribute", "role", "unit", "better", "n")}
    return pd.DataFrame([{**plain, **{kind: one.number(kind) for kind in KINDS}}], columns=COLUMNS)


def _table(evidence: Evidence, groups: Sequence[NDArray[np.int64]] = ()) -> pd.DataFrame:
    """The evidence of all seeds as numbers; see `Reproduction.table`. `groups` are, of every seed, those of its rows."""
    parts = []
    for (name, weight, _), found in evidence.items():
        drawn = [_repeated(groups, [one.n for one in same]) for same in zip(*found, strict=True)]
        rows = [_row(one, some) for one, some in zip(concatenate(found), drawn, strict=True)]
        part = pd.concat(rows, ignore_index=True)
        single = np.array([[one.number() for one in some] for some in found])
        parts.append(part.assign(rule=name, weight=weight, least=single.min(axis=0), most=single.max(axis=0)))
    columns = ["rule", "weight", "do", *(name for name in COLUMNS if name not in ("do", "better", "ceiling")), "least", "most"]
    return pd.concat(parts, ignore_index=True)[columns]
