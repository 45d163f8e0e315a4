"""The audit on paper: one self-contained HTML page with verdict, pictures, numbers and what they do not show, and a short table.

The page makes no outside request and forbids the browser to make one. Everything on it that comes from the user (names, labels,
settings) goes through `_tag`, which escapes whatever is not markup already.
"""

from __future__ import annotations

import base64
import importlib.metadata
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from causalcf.plot import counterfactual_figure, panel_figure, scan_figure, to_png, weight_figure
from causalcf.query import Counterfactual
from causalcf.soundness import AuditReport
from causalcf.subgroups import Subgroups
from causalcf.tradeoff import shares

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["html", "summary_rows", "write_html"]

MOST_BYTES = 2_000_000
_UNKNOWN = "–"
_FURTHER = ("effectiveness.auroc", "effectiveness.f1", "amplification.auroc")  # beside the measure of the same family
_PACKAGES = "causalcf", "torch", "pyro-ppl", "diffusers", "numpy", "pandas"
_PLURAL = {"grey level": "grey levels", "pixel": "pixels", "year": "years", "point of accuracy": "points of accuracy"}

# by measure: its question, and how the number was made
_MEASURES = {
    "composition": (
        "Does asking for nothing change nothing?",
        "The image (in a model without one, each attribute) is abducted and predicted again under its own attributes, one or "
        "more rounds in a row, with nothing copied from the original. The number is the distance between the result and the "
        "original: of an image the L1 distance averaged over the pixels, in grey levels 0 to 255; of a number in its own unit; "
        "of a label the share of rows where it differs. 0 is perfect. The ceiling is the distance to another row.",
    ),
    "autoencoder": (
        "What does the autoencoder lose by itself?",
        "The image is encoded and decoded, with no diffusion and no question in between. The number is the L1 distance from the "
        "original, averaged over the pixels, in grey levels 0 to 255; 0 is perfect. Composition cannot be better than this.",
    ),
    "effectiveness": (
        "Does the image show what it should?",
        "A judge reads the attribute off the counterfactual image. Of a number, the score is the mean absolute error against "
        "the value that the attribute has under the intervention: the requested one where it was intervened on, the structural "
        "causal model’s where it follows, the factual one elsewhere. Of a label, it is the share of rows that the judge reads as "
        "that label; of a label with scores also F1 and the area under the ROC curve, means over the labels. The floor is the "
        "same judge on the real images; the ceiling is its readings of real images given to the wrong rows; the truth column is "
        "the same judge on the true counterfactual images.",
    ),
    "amplification": (
        "Is an attribute easier or harder to read than on real images?",
        "The judge’s score on the counterfactual image minus its score on the real image of the same row: a difference in error "
        "for a number, in points of accuracy (and of AUROC) for a label. 0 is perfect. A label that is read better than on real "
        "images has been exaggerated; one that is read worse has been damaged.",
    ),
    "reversibility": (
        "Does there and back again lead home?",
        "The counterfactual is abducted anew and the intervened attribute set back to its factual value, the others following "
        "the graph. The number is the distance from the original, measured as for composition; 0 is perfect. The ceiling is how "
        "far the intervention moved it in the first place. A label’s noise is drawn anew, so that a label need not come home.",
    ),
    "true_error": (
        "How far is the image from the true counterfactual?",
        "Where the study’s own equations give the true counterfactual image: the L1 distance from it, averaged over the pixels, "
        "in grey levels 0 to 255; 0 is perfect. The ceiling is the distance of the factual image, that is, of doing nothing.",
    ),
    "minimality": (
        "Did the image change no more than it had to?",
        "Counterfactual latent divergence: log(0.2 exp P + 0.8 exp Q). P is the share of real images with the new value that are "
        "nearer to the original than the counterfactual is; Q is the share of real images with the old value that are farther. "
        "Distances are in the features of the judge, or without those in pixels. From 0 to 1, lower is better.",
    ),
    "realism": (
        "Do the images look like real ones?",
        "The Frechet distance between the counterfactual and the factual images in the features of a judge that was trained on "
        "such data. It is not the FID, whose features come from another network, and compares only with itself. The floor is "
        "half the distance between two halves of the real images.",
    ),
    "support": (
        "Does the intervention lead outside the data?",
        "The share of rows whose attributes, after the intervention, are farther from the nearest real row than all but one in a "
        "hundred real rows are from theirs, in standard deviations, among rows with the same labels. There the answer rests on "
        "the model alone. The floor is that share of the real rows.",
    ),
    "evaluations": (
        "What did it cost?",
        "Passes of the image’s network, a row: of abduction, and of prediction under each intervention.",
    ),
    "noise_fit": (
        "Does the abducted noise follow its prior?",
        "The Kolmogorov distance (largest gap between the distribution functions) of an attribute’s abducted noise from its "
        "prior, over all rows; it has no interval. The floor is the mean distance of a true sample of this size.",
    ),
    "noise_independence": (
        "Is the noise of two attributes independent?",
        "The absolute correlation of their abducted noise, each transformed to a normal distribution. A model whose graph lacks "
        "an arrow or a confounder leaves it behind. The floor is the mean of a true sample of this size.",
    ),
    "image_noise": (
        "Is the abducted image noise as wide as its prior?",
        "The root mean square over the pixels of the image noise that abduction finds. The floor is that of the prior, 1.",
    ),
}  # fmt: skip

_REFERENCES = (
    "Composition, effectiveness and reversibility: M. Monteiro, F. De Sousa Ribeiro, N. Pawlowski, D. C. Castro, B. Glocker, "
    "“Measuring axiomatic soundness of counterfactual image models”, ICLR 2023, https://arxiv.org/abs/2303.01274.",
    "The protocol: T. Melistas et al., “Benchmarking Counterfactual Image Generation”, NeurIPS 2024, "
    "https://arxiv.org/abs/2403.20287.",
    "Minimality: P. Sanchez, S. A. Tsaftaris, “Diffusion Causal Models for Counterfactual Estimation”, CLeaR 2022, "
    "https://arxiv.org/abs/2202.10166.",
    "Amplification: T. Xia et al., “Mitigating attribute amplification in counterfactual image generation”, MICCAI 2024, "
    "https://arxiv.org/abs/2403.09422.",
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1d21; --soft: #555b66; --line: #c9cdd4; --paper: #ffffff; --shade: #f4f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a9b0bb; --line: #454b56; --paper: #16181c; --shade: #20242a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .4rem; }
p, ul, dl { max-width: 50rem; margin: .6rem 0; }
li { margin: .5rem 0; }
.soft, figcaption, caption { color: var(--soft); }
.verdict { border: 2px solid var(--ink); border-left-width: .6rem; padding: .5rem 1rem; font-size: 1.1rem; max-width: none; }
.word { font-weight: 700; letter-spacing: .04em; }
.table { overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.4; font-variant-numeric: tabular-nums; min-width: 60%; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th:first-child, td:first-child { padding-left: .3rem; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: 600; }
th.number, td.number { text-align: right; white-space: nowrap; }
.scores { width: 100%; }
.scores th, .scores td { white-space: nowrap; }
.settings tbody th { width: 12rem; }
tr.fail td, tr.fail th { background: var(--shade); font-weight: 700; }
svg { display: block; }
figure { margin: 1rem 0 1.5rem; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
.panels { display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
.panels figure { flex: 1 1 26rem; max-width: 32rem; }
figcaption { font-size: .9rem; margin-top: .4rem; max-width: 50rem; }
dt { font-weight: 600; margin-top: .8rem; }
dd { margin: .1rem 0 0; }
@media print {
  :root { --ink: #000; --soft: #333; --line: #999; --paper: #fff; --shade: #eee; }
  @page { margin: 16mm 14mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3, caption { break-after: avoid; }
  figure, tr, li, .verdict { break-inside: avoid; }
  .soft { break-after: avoid; }
  .panels { display: block; }
  .panels figure { display: inline-block; width: 46%; vertical-align: top; }
  .table { overflow: visible; }
  .scores td:not(.number) { white-space: normal; }
  table { font-size: 7.5pt; }
  th, td { padding: .2rem .3rem; }
}
"""


# ------------------------------------------------------------------ numbers


class _Score(NamedTuple):
    """One row of `AuditReport.scores`; what is not known is NaN."""

    measure: str
    do: str
    attribute: str
    role: str
    value: float
    low: float
    high: float
    floor: float
    ceiling: float
    truth: float
    unit: str
    n: int

    @property
    def family(self) -> str:
        return self.measure.partition(".")[0]

    @property
    def decimals(self) -> int:
        return _decimals(self.value, self.low, self.high)

    @property
    def interval(self) -> list[float]:
        return [end for end in (self.low, self.high) if math.isfinite(end)]

    def show(self, number: float) -> str:
        """Another number of this row, with the digits that the row's value has, but at least one that is not 0."""
        least = -_place(number) if math.isfinite(number) and number else 0
        return _number(number, min(max(self.decimals, least), _decimals(number)))

    def value_and_interval(self) -> str:
        signed = self.family == "amplification"
        value, *ends = (_number(number, self.decimals, signed=signed) for number in (self.value, *self.interval))
        return f"{value} [{', '.join(ends)}]" if ends else value


def _scores(report: AuditReport) -> list[_Score]:
    return [_Score(*row) for row in report.scores[list(_Score._fields)].itertuples(index=False, name=None)]


def _place(number: float) -> int:
    """The power of ten of the first digit."""
    return math.floor(math.log10(abs(number)))


def _decimals(value: float, low: float = math.nan, high: float = math.nan) -> int:
    """Decimals for three significant digits, or for as many as the interval supports; below 0, digits before the point.

    The half-width of the interval keeps two digits if the first is a 1 or a 2, and one digit otherwise.
    """
    half = (high - low) / 2
    places = [2 - _place(value)] if math.isfinite(value) and value else []
    if math.isfinite(half) and half > 0:
        places.append((1 if half < 3 * 10.0 ** _place(half) else 0) - _place(half))
    return min(places, default=0)


def _number(number: float, decimals: int, *, signed: bool = False) -> str:
    if not math.isfinite(number):
        return _UNKNOWN
    sign = "+" if signed else "-"
    return f"{round(number, decimals):{sign}z.{max(decimals, 0)}f}"


def _with_interval(value: float, low: float, high: float) -> str:
    """A number and its interval, with the digits that it supports."""
    if not math.isfinite(value):
        return _UNKNOWN
    text, *ends = (_minus(_number(number, _decimals(value, low, high))) for number in (value, low, high))
    return f"{text} [{', '.join(ends)}]" if math.isfinite(low) else text


def _reads(score: _Score) -> str:
    return f"{score.attribute} ({score.role})" if score.role else score.attribute


def _is_shown(report: AuditReport, score: _Score) -> bool:
    """In a model with an image, its composition; that of attributes is exact but for a label whose abduction is wrong."""
    images = report.factual.images
    return score.family != "composition" or not images or score.attribute in images or score.value > 1e-6


def summary_rows(report: AuditReport) -> list[list[str]]:
    """The important numbers as text, the header first: composition, and by intervention effectiveness, reversibility, true error.

    Returns:
        Rows of `question`, `reads`, `value [95 % interval]`, `floor`, `truth`, `unit`.
    """
    rows = [["question", "reads", "value [95 % interval]", "floor", "truth", "unit"]]
    for family in ("composition", "autoencoder", "effectiveness", "reversibility", "true_error"):
        for score in _scores(report):
            if score.family == family and score.measure not in _FURTHER and _is_shown(report, score):
                question = f"{score.measure}, do({score.do})" if score.do else score.measure
                numbers = score.value_and_interval(), score.show(score.floor), score.show(score.truth)
                rows.append([question, _reads(score), *numbers, score.unit])
    return rows


# ------------------------------------------------------------------ markup


class _Html(str):
    """Text that is markup already."""

    __slots__ = ()


def _join(parts: Iterable[str], between: str = "\n") -> _Html:
    return _Html(between.join(part if isinstance(part, _Html) else escape(part) for part in parts))


def _tag(name: str, /, *inside: str, **attributes: str) -> _Html:
    """An element; whatever is not markup already is escaped. `class_` is class, `aria_label` is aria-label."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return _Html(f"<{name}{given}>") if name in ("img", "meta") else _Html(f"<{name}{given}>{_join(inside, '')}</{name}>")


def _minus(text: str) -> str:
    """A minus sign where a number has a hyphen."""
    return text.replace("-", "−")


def _table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[str] = (), class_: str = ""
) -> _Html:
    """A table whose first column names the row; the columns in `numbers` are flush right."""
    right = [{"class_": "number"} if name in set(numbers) else {} for name in header]
    head = _tag("tr", *(_tag("th", name, scope="col", **kind) for name, kind in zip(header, right, strict=True)))
    body = []
    for first, *rest in rows:
        cells = [_tag("th", first, scope="row"), *(_tag("td", cell, **kind) for cell, kind in zip(rest, right[1:], strict=True))]
        body.append(_tag("tr", *cells, **({"class_": "fail"} if "FAIL" in rest[:1] else {})))
    whole = _tag("table", _tag("caption", caption), _tag("thead", head), _tag("tbody", _join(["", *body])), class_=class_)
    return _tag("div", whole, class_="table", role="region", aria_label=caption, tabindex="0")


def _section(heading: str, *parts: str) -> _Html:
    return _tag("section", _join(["", _tag("h2", heading), *parts, ""]))


def _list(sentences: Iterable[str]) -> _Html:
    return _tag("ul", *(_tag("li", sentence) for sentence in sentences))


class _Picture(NamedTuple):
    """A figure, its alternative text, and its caption."""

    figure: Figure
    alternative: str
    caption: str

    def tag(self, dpi: int) -> _Html:
        data = base64.b64encode(to_png(self.figure, dpi=dpi)).decode()
        image = _tag("img", src=f"data:image/png;base64,{data}", alt=self.alternative)
        return _tag("figure", image, _tag("figcaption", self.caption))


# ------------------------------------------------------------------ verdict and checks


def _all(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _units(unit: str) -> str:
    return _PLURAL.get(unit, unit)


def _asked(answer: Counterfactual, name: str) -> str:
    """What the intervention asked of one node, as a clause."""
    node, values = answer.factual.graph.node(name), answer.do[name]
    if values.nunique() == 1:
        value = values.iloc[0]
        text = str(value) if node.discrete else f"{_number(value, _decimals(value))} {_units(node.unit or '')}".strip()
        return f"{name} was set to {text}"
    if node.discrete:
        other = bool((values.to_numpy() != answer.factual.frame[name].to_numpy()).all())
        return f"every row was given another {name}" if other else f"{name} was set to one of {values.nunique()} labels"
    low, high = (_number(end, _decimals(end)) for end in (float(values.min()), float(values.max())))
    return f"{name} was set to values from {low} to {high} {_units(node.unit or '')}".strip()


def _target_clause(score: _Score) -> str:
    value, floor = score.value_and_interval(), score.show(score.floor)
    if score.unit == "accuracy":
        return f"the judge reads {score.attribute} as asked with accuracy {value}, on real images with {floor}"
    return f"the judge reads {score.attribute} {value} {_units(score.unit)} off what was asked, on real images {floor} off"


def _off_target_clause(report: AuditReport, scores: Sequence[_Score]) -> str:
    """The attribute off target whose reading changes most, as a share of the way from the judge's floor to its ceiling."""
    read = {score.attribute: score for score in scores if score.measure == "effectiveness"}
    shares = {}
    for score in scores:
        if score.measure == "amplification" and score.role != "intervened":
            judged = read.get(score.attribute)
            way = abs(judged.ceiling - judged.floor) if judged else math.nan
            change = abs(score.value) / (100 if score.unit == "point of accuracy" else 1)
            shares[score] = change / way if way > 0 else change
    if not shares:
        return ""
    worst = max(shares, key=lambda score: shares[score])
    what, unit = ("accuracy", "points") if worst.unit == "point of accuracy" else ("error", _units(worst.unit))
    doubt = f", which {worst.n} rows cannot tell from 0" if worst.interval and worst.low <= 0 <= worst.high else ""
    value = f"{_minus(worst.value_and_interval())} {unit}".strip()
    return f"off target, {_reads(worst)} changes most: the judge’s {what} by {value}{doubt}"


def _sentence(report: AuditReport, do: str, answer: Counterfactual) -> _Html:
    """One intervention in one sentence."""
    scores = [score for score in _scores(report) if score.do == do]
    clauses = [_all([_asked(answer, name) for name in answer.do])]
    targets = [score for score in scores if score.measure == "effectiveness" and score.attribute in answer.do]
    unread = ["no judge reads what was asked"] if answer.images else []
    clauses += [_target_clause(score) for score in targets] or unread
    clauses.append(_off_target_clause(report, scores))
    for score in scores:
        value = f"{score.value_and_interval()} {_units(score.unit)}"
        if score.measure == "reversibility.1":
            what = "the image" if score.attribute in answer.images else score.attribute
            clauses.append(f"there and back again, {what} is {value} from the original")
        if score.measure == "true_error":
            clauses.append(f"the true counterfactual image is {value} away ({score.show(score.ceiling)} from the factual image)")
    return _join([_tag("strong", f"do({do})"), f": {'; '.join(filter(None, clauses))}."], "")


def _verdict(report: AuditReport) -> _Html:
    verdicts, conditions = report.verdicts, len(report.settings.get("fail_on", []))
    failed = [str(name) for name in verdicts.loc[~verdicts["passed"].astype(bool), "check"]]
    if failed:
        broken = f"{_count(len(failed), 'check')} of {len(verdicts)} failed"
        word, text = "FAIL", f"{broken}: {_all(failed)}. Do not use the answers."
    else:
        kept = f", and {_count(conditions, 'condition')} of the auditor {'is' if conditions == 1 else 'are'} kept"
        word, text = "PASS", f"all {len(report.checks)} checks hold, bit for bit{kept if conditions else ''}."
    box = _tag("p", _tag("span", word, class_="word"), f": {text}", class_="verdict")
    meaning = (
        "The checks ask whether anything was touched that an intervention cannot reach. How good the answers are is a matter of "
        "degree: each line gives means over the rows, with their 95 % intervals in brackets."
    )
    blind = report.blind_judges
    doubt = f"The judge of {_all(blind)} reads real rows no better than rows mixed up: its numbers say nothing." if blind else ""
    return _section(
        "Verdict",
        box,
        *([_tag("p", _tag("strong", doubt))] if doubt else []),
        _tag("p", meaning),
        _list(_sentence(report, do, answer) for do, answer in report.answers.items()),
    )


def _graph_words(report: AuditReport) -> _Html:
    """Whether the rows contradict what the graph implies; no part of the verdict, because it is a test and can be wrong."""
    found = report.graph_check
    implied = int((found.table["kind"] == "independence").sum()) if len(found.table) else 0
    if not implied:
        return _tag("p", "The graph implies no independence among its attributes: no data can contradict it.")
    parts = [f"The graph implies {implied} {'independence' if implied == 1 else 'independencies'} among its attributes."]
    if found.contradicted:
        parts.append(
            f"These rows contradict {_all(list(map(str, found.contradicted)))}: an arrow or a confounder is missing, or wrong."
        )
    else:
        parts.append(
            f"These rows contradict none (at {found.alpha:g}, corrected for their number), which does not make the graph true."
        )
    if found.untestable:
        parts.append(f"Too few rows tell about {_all(list(map(str, found.untestable)))}.")
    return _tag("p", " ".join(parts))


def _checks(report: AuditReport) -> _Html:
    rows = [
        [str(row.check), "PASS" if row.passed else "FAIL", str(row.detail)] for row in report.verdicts.itertuples(index=False)
    ]
    caption = "Promises that hold bit for bit, and conditions of the auditor"
    return _section("Checks", _table(caption, ["check", "result", "detail"], rows), _graph_words(report))


# ------------------------------------------------------------------ pictures


def _reach(answer: Counterfactual) -> tuple[str, str, str]:
    """The intervened, the affected and the invariant nodes."""
    order = answer.factual.graph.order
    intervened = [name for name in order if name in answer.do]
    affected = [name for name in order if name in answer.changed and name not in answer.do]
    invariant = [name for name in order if name not in answer.changed]
    return _all(intervened), _all(affected) or "nothing", _all(invariant) or "nothing"


def _overview(report: AuditReport) -> _Picture:
    reach = [
        f"do({do}): {intervened} intervened, {affected} affected, {invariant} invariant."
        for do, (intervened, affected, invariant) in ((do, _reach(answer)) for do, answer in report.answers.items())
    ]
    alternative = (
        "Factual images in the first row; below, for every intervention, the counterfactual images of the same rows and their "
        f"signed difference from the factual ones, with the causal graph beside them. {' '.join(reach)}"
    )
    caption = (
        "Factual images, counterfactual images and their signed difference, with the graph. The table below says which nodes "
        "an intervention reaches."
    )
    return _Picture(counterfactual_figure({f"do({do})": answer for do, answer in report.answers.items()}), alternative, caption)


def _error_meaning(report: AuditReport, do: str) -> str:
    known = any(score.measure == "true_error" and score.do == do for score in _scores(report))
    return (
        "distance from the true counterfactual image" if known else "distance from the original image after there and back again"
    )


def _extremes(report: AuditReport, do: str) -> _Picture:
    """The best, the median and the worst row of an intervention."""
    errors = report.errors[do]
    order = np.argsort(errors.to_numpy(), kind="stable")
    places = {"best": int(order[0]), "median": int(order[len(order) // 2]), "worst": int(order[-1])}
    if len(order) < 3:
        del places["median"]
    captions = [
        f"{word}: row {errors.index[place]}, {_number(errors.iloc[place], _decimals(errors.iloc[place]))} grey levels"
        for word, place in places.items()
    ]
    text = f"do({do}): {_all(list(places))} row by {_error_meaning(report, do)}."
    alternative = f"Factual image, counterfactual image and their signed difference. {text} {'; '.join(captions)}."
    return _Picture(panel_figure(report.answers[do], list(places.values()), captions), alternative, text)


def _pictures(report: AuditReport, picture: str) -> _Html:
    rows = [[f"do({do})", *_reach(answer)] for do, answer in report.answers.items()]
    reach = _table("What each intervention reaches in the graph", ["asked", "intervened", "affected", "invariant"], rows)
    doubts = [
        f"Under do({do}), {name} is not decided by data and graph alone: {reason}."
        for do, answer in report.answers.items()
        for name, reason in answer.why_not.items()
    ]
    private = _tag("p", "The pictures show rows of the data: share this page as you would share them.", class_="soft")
    return _section("Pictures", private, picture, reach, *([_list(doubts)] if doubts else []))


# ------------------------------------------------------------------ scores


def _drawing(score: _Score, low: float, high: float) -> str:
    """Value (dot), interval (line) and floor (upright stroke) on a scale from low to high."""
    if not math.isfinite(score.value):
        return _UNKNOWN
    width, height, edge = 150, 20, 6
    step = (width - 2 * edge) / (high - low if high > low else 1.0)

    def across(number: float) -> str:
        return f"{edge + (number - low) * step:.1f}"

    middle = f"{height / 2:g}"
    marks = []
    where = "no floor"
    if math.isfinite(score.floor):
        at, top, bottom = across(score.floor), "1", str(height - 1)
        marks.append(_tag("line", x1=at, x2=at, y1=top, y2=bottom, stroke="currentColor", stroke_width="1.5"))
        around = bool(score.interval) and score.low <= score.floor <= score.high
        where = "around the floor" if around else "above the floor" if score.value > score.floor else "below the floor"
    if score.interval:
        ends = {"x1": across(score.low), "x2": across(score.high), "y1": middle, "y2": middle}
        marks.append(_tag("line", **ends, stroke="currentColor", stroke_width="3", stroke_linecap="round", opacity=".45"))
    marks.append(_tag("circle", cx=across(score.value), cy=middle, r="4", fill="currentColor"))
    size = {"width": str(width), "height": str(height), "viewBox": f"0 0 {width} {height}"}
    return _tag("svg", *marks, role="img", aria_label=where, **size)


def _score_table(report: AuditReport, family: str, scores: Sequence[_Score]) -> _Html:
    scales: dict[str, list[float]] = {}
    for score in scores:
        known = [number for number in (score.value, score.low, score.high, score.floor) if math.isfinite(number)]
        scales.setdefault(score.unit, []).extend(known)
    rows = []
    units = list(scales)
    for score in sorted(scores, key=lambda score: units.index(score.unit)):
        signed = family == "amplification"
        ends = [_number(end, score.decimals, signed=signed) for end in score.interval]
        suffix = score.measure.partition(".")[2]
        rounds = f"{suffix} round{'' if suffix == '1' else 's'}" if suffix.isdecimal() else ""
        asked = ", ".join(filter(None, [f"do({score.do})" if score.do else "", rounds])) or _UNKNOWN
        cells = {
            "asked": asked,
            "read": _reads(score),
            "value": _minus(_number(score.value, score.decimals, signed=signed)),
            "95 % interval": _minus(" to ".join(ends)) or _UNKNOWN,
            "drawn": _drawing(score, min(scales[score.unit], default=0.0), max(scales[score.unit], default=0.0)),
            "floor": _minus(score.show(score.floor)),
            "ceiling": _minus(score.show(score.ceiling)),
            "truth": _minus(score.show(score.truth)),
            "unit": score.unit or _UNKNOWN,
            "n": str(score.n),
        }
        rows.append(cells)
    header = [name for name in rows[0] if any(cells[name] != _UNKNOWN for cells in rows)]
    question = _MEASURES.get(family, ("", ""))[0]
    numbers = ["value", "95 % interval", "floor", "ceiling", "truth", "n"]
    caption = f"{question} Better: {_better(report, family)}."
    body = [[cells[name] for name in header] for cells in rows]
    title = family.replace("_", " ").capitalize()
    return _join([_tag("h3", title), _table(caption, header, body, numbers=numbers, class_="scores")])


def _better(report: AuditReport, family: str) -> str:
    rows = report.scores[report.scores["measure"].str.partition(".")[0] == family]
    words = {"low": "lower", "high": "higher for accuracy", "zero": "nearer to 0", "floor": "nearer to the floor"}
    return ", ".join(words.get(str(word), str(word)) for word in sorted(rows["better"].unique(), reverse=True))


def _numbers(report: AuditReport) -> _Html:
    reading = (
        "Each value is a statistic of n rows, their mean unless its definition says otherwise. The floor is what real images "
        "score, the ceiling what a method that does not look scores, the truth what the true counterfactual images score where "
        "they are known. In the drawings the dot is the value, the thick line its interval and the upright stroke the floor; "
        "rows of a table that have the same unit share a scale. "
        f"{_UNKNOWN} is not known or not defined."
    )
    scores = [score for score in _scores(report) if _is_shown(report, score)]
    families = list(dict.fromkeys([*_MEASURES, *(score.family for score in scores)]))
    tables = ((family, [score for score in scores if score.family == family]) for family in families)
    return _section("Numbers", _tag("p", reading), *(_score_table(report, family, some) for family, some in tables if some))


# ------------------------------------------------------------------ trade-off


def _tradeoff(report: AuditReport, dpi: int) -> list[_Html]:
    """What guidance weights buy and cost; nothing where none were asked for."""
    if not report.weighted:
        return []
    table = report.tradeoff
    table = table[table["measure"].isin(["effectiveness", "reversibility.1"])]
    weights = ["own rule", *(f"{weight:g}" for weight in sorted(table["weight"].dropna().unique()))]
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in table.itertuples(index=False):
        read = f"{row.attribute} ({row.role})" if row.role else str(row.attribute)
        column = "own rule" if math.isnan(float(row.weight)) else f"{row.weight:g}"
        shown = _with_interval(float(row.value), float(row.low), float(row.high))
        lines.setdefault((str(row.measure), f"do({row.do})", read, str(row.unit)), {})[column] = shown
    body = [[*line, *(found.get(weight, _UNKNOWN) for weight in weights)] for line, found in lines.items()]
    caption = "By weight of guidance, value and 95 % interval"
    numbers = _table(caption, ["measure", "asked", "read", "unit", *weights], body, numbers=weights, class_="scores")
    reading = (
        "Everything was asked again with one weight for all that an intervention reaches. In the picture, above: where each "
        "attribute’s reading lies between what real images score (0) and what real images of other rows score (1), so that "
        "attributes of different units compare; below: how far there and back leads. Hollow marks at the left are the model’s "
        "own rule. The table has the numbers."
    )
    back = table[table["measure"] == "reversibility.1"]
    alternative = (
        f"Readings and reversibility under the weights {_all(weights[1:])} and the model’s own rule, a column of panels for "
        f"each of {_all([f'do({do})' for do in report.answers])}; the numbers are in the table below."
    )
    picture = _Picture(weight_figure(shares(table), back), alternative, "What a stronger weight buys, and what it costs.")
    return [_section("Trade-off", _tag("p", reading), *([picture.tag(dpi)] if dpi else []), numbers)]


# ------------------------------------------------------------------ subgroups


def _subgroup_table(parts: Subgroups) -> _Html:
    """What an auditor asks of a group: does the image show what it should, was anything else changed, is the way back short?"""
    families = ("effectiveness", "amplification", "reversibility", "true_error")
    keys = [key for key in parts.overall.index if key[0].partition(".")[0] in families and key[0] not in _FURTHER]
    gap, shown = parts.difference(), [name for name in parts.by_group if name not in parts.too_small]
    small = f" Groups of fewer than {parts.smallest} rows get no number: {_all(parts.too_small)}." if parts.too_small else ""
    if not shown:
        return _tag("p", f"By {parts.column} there is nothing to compare.{small}")
    rows = []
    for measure, do, attribute in keys:
        key = (measure, do, attribute)
        numbers = [_minus(_number(number, _decimals(number))) for number in (float(parts.overall[key]), float(gap[key]))]
        inside = [_with_interval(*(float(table.loc[key, name]) for table in parts.tables)) for name in shown]
        rows.append([measure, f"do({do})" if do else _UNKNOWN, attribute, numbers[0], *inside, numbers[1]])
    groups = [f"{name} (n = {parts.sizes[name]})" for name in shown]
    header = ["measure", "asked", "read", "all", *groups, "largest difference"]
    caption = f"By {parts.column}, with 95 % intervals. The largest difference is between two groups.{small}"
    return _table(caption, header, rows, numbers=["all", *groups, "largest difference"], class_="scores")


def _searched(report: AuditReport, found: pd.DataFrame) -> tuple[_Html, _Picture | None]:
    if found.empty:
        judged = any(one.measure == "amplification" for one in report.measured)
        why = "No subgroup is large enough to be looked at." if judged else "No judge reads what these interventions changed."
        return _tag("p", why), None
    told = found[found["p"] <= 0.05]
    verdict = (
        f"{_count(len(told), 'difference')} of {len(found)} that were looked at {'is' if len(told) == 1 else 'are'} larger than "
        "chance explains (p at most 0.05 after correction for all of them)."
    )
    rows = [
        [
            str(row.subgroup), f"do({row.do})", f"{row.attribute} ({row.role})" if row.role else str(row.attribute), str(row.n),
            *(_minus(_number(float(number), _decimals(float(number)), signed=True)) for number in (row.value, row.rest)),
            str(row.unit), f"{row.p:.3f}",
        ]
        for row in found.head(12).itertuples(index=False)
    ]  # fmt: skip
    header = ["subgroup", "asked", "read", "n", "in the subgroup", "in the rest", "unit", "p"]
    caption = "Where amplification differs most from the rest of the rows"
    table = _table(caption, header, rows, numbers=["n", "in the subgroup", "in the rest", "p"], class_="scores")
    worst = found.iloc[0]
    alternative = (
        f"The subgroups with the largest differences in amplification, worst first; the worst is {worst['subgroup']}, "
        f"{worst['attribute']} under do({worst['do']}), with p = {worst['p']:.3f}."
    )
    return _join([_tag("p", verdict), table]), _Picture(scan_figure(found), alternative, caption)


def _subgroups(report: AuditReport, dpi: int) -> list[_Html]:
    """By the columns that were asked for, and the search; nothing where neither was."""
    parts: list[str] = [_subgroup_table(groups) for groups in report.subgroups.values()]
    if report.searched is not None:
        table, picture = _searched(report, report.searched)
        parts += [_tag("h3", "Search for the worst subgroup"), *([picture.tag(dpi)] if picture and dpi else []), table]
    return [_section("Subgroups", *parts)] if parts else []


# ------------------------------------------------------------------ how, and how far


def _say(value: object) -> str:
    """A setting as words."""
    if isinstance(value, Mapping):
        parts = (f"{key} ({_say(part)})" if isinstance(part, Mapping) else f"{key}: {_say(part)}" for key, part in value.items())
        return ", ".join(parts) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_say, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "not recorded" if value is None else str(value)


def _how(report: AuditReport) -> _Html:
    present = {score.family for score in _scores(report)}
    terms = [
        _join([_tag("dt", name.replace("_", " ")), _tag("dd", definition)])
        for name, (_, definition) in _MEASURES.items()
        if name in present
    ]
    settings: dict[str, Any] = dict(report.settings)
    settings["training record"] = settings.pop("model", None) or None
    graph = next((answer.factual.graph for answer in report.answers.values()), None)
    if graph is not None:
        about = [part for part in (graph.title, graph.reference) if part]
        settings["graph"] = ". ".join([str(settings.get("graph", graph.name)), *about])
    settings["versions"] = {name: importlib.metadata.version(name) for name in _PACKAGES}
    rows = [[str(name), _say(value)] for name, value in settings.items()]
    intervals = (
        "An interval is the middle 95 % of the means of bootstrap samples of the rows; of a share to which all rows agree, the "
        "exact one. It says how much the number depends "
        "on which rows were drawn, not how much it would change with another training run."
    )
    return _section(
        "How each number was made",
        _tag("dl", *terms),
        _tag("p", intervals),
        _table("Settings of this audit", ["setting", "value"], rows, class_="settings"),
        _tag("h3", "References"),
        _list(_REFERENCES),
    )


def _limits(report: AuditReport) -> _Html:
    graph = next((answer.factual.graph for answer in report.answers.values()), None)
    assumes = f" This graph’s own words: “{graph.assumes}”" if graph is not None and graph.assumes else ""
    unread = []
    if graph is not None:
        judged = {score.attribute for score in _scores(report) if score.family == "effectiveness"}
        unread = [name for name in graph.attributes if name not in judged]
    read = f"Here none reads {_all(unread)}. " if unread else ""
    return _section(
        "What the audit does not show",
        _list(
            [
                "That the causal graph is right. The audit takes the graph as given: with a missing or reversed arrow every "
                f"number here can be good and every answer wrong.{assumes}",
                "That the images are true. The axioms are necessary, not sufficient: a model that changes nothing has perfect "
                "composition and reversibility. Only the true error compares with the truth, and only where a study knows it.",
                f"Anything that no judge reads. {read}A judge is a measurement with an error of its own, which the floor shows, "
                "and can be misled by images unlike those that it knows.",
                f"What happens elsewhere. The numbers hold for these {report.settings['rows']} rows and these interventions; "
                "another population, device or range of values needs its own audit.",
                "That a single answer can be relied on. The numbers are means over rows; see the worst rows above.",
                "Fitness for clinical use. Neither the model nor this report is meant for diagnosis, treatment or triage.",
            ]
        ),
    )


# ------------------------------------------------------------------ the page


def html(report: AuditReport) -> str:
    """The report as one self-contained HTML page with pictures, at most 2 MB."""
    pictured = any(answer.images for answer in report.answers.values())
    overview = _overview(report) if pictured else None
    panels = [_extremes(report, do) for do in report.answers if do in report.errors]
    verdict, checks, numbers, how, limits = (part(report) for part in (_verdict, _checks, _numbers, _how, _limits))
    name = str(report.settings.get("graph", "model"))
    rows = report.settings["rows"]
    head = _join(
        [
            _tag("meta", charset="utf-8"),
            _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            _tag(
                "meta",
                http_equiv="Content-Security-Policy",
                content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
            ),
            _tag("title", f"Counterfactual audit: {name}"),
            _tag("style", _Html(_STYLE)),
        ]
    )
    top = _tag(
        "header",
        _tag("h1", f"Counterfactual audit: {name}"),
        _tag("p", f"{rows} rows, {_count(len(report.answers), 'intervention')}. Written by causalcf.", class_="soft"),
    )
    for dpi in (110, 80, 55, 0):  # smaller pictures, and none in the end, where the page would be too long
        none = _tag("p", "The pictures are left out: with them, the page would be larger than 2 MB.")
        first = overview.tag(dpi) if overview and dpi else none if overview else _tag("p", "No image was asked about.")
        shown = [panel.tag(dpi) for panel in panels] if dpi else [none]
        extremes = [_section("Best, median and worst", _tag("div", *shown, class_="panels"))] if panels else []
        groups = [*_tradeoff(report, dpi), *_subgroups(report, dpi)]
        body = _tag("main", _join(["", verdict, checks, _pictures(report, first), numbers, *groups, *extremes, how, limits, ""]))
        page = f"<!DOCTYPE html>\n{_tag('html', _join(['', _tag('head', head), _tag('body', top, body), '']), lang='en')}\n"
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def write_html(report: AuditReport, path: str | Path) -> Path:
    """Write the report as one self-contained HTML file, at most 2 MB, and return its path."""
    path = Path(path)
    path.write_text(html(report), encoding="utf-8")
    return path
