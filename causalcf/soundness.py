"""The audit: whether the counterfactuals of a structural causal model hold.

    measure               asks                                                               ideal
    composition.m         f(., pa, pa) applied m times against x, nothing copied             0
    autoencoder           x through the autoencoder and back, where the model has one        0
    effectiveness         the judge's reading of x* against the attribute it should show     the floor
    amplification         the judge's error on x* minus its error on x                       0
    reversibility         there and back again against x                                     0
    true_error            x* against the true counterfactual image, where a study knows it   0
    noise_fit             Kolmogorov distance of the abducted noise from its prior           the floor
    image_noise           standard deviation of the abducted image noise                     1

Every number is a mean over rows with a bootstrap interval; its floor is what real images score, its ceiling what a method that
does not look scores. M. Monteiro, F. De Sousa Ribeiro, N. Pawlowski, D. C. Castro, B. Glocker, "Measuring axiomatic soundness of
counterfactual image models", ICLR 2023, https://arxiv.org/abs/2303.01274; T. Melistas et al., "Benchmarking Counterfactual Image
Generation", NeurIPS 2024, https://arxiv.org/abs/2403.20287; amplification: T. Xia et al., "Mitigating attribute amplification in
counterfactual image generation", MICCAI 2024, https://arxiv.org/abs/2403.09422.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.encoding import decode_image, encode_image
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, Node
from causalcf.guidance import Guidance
from causalcf.image import Diffusion
from causalcf.interventions import Do
from causalcf.metrics import bootstrap_mean, image_distance, target_error
from causalcf.progress import progress as show_progress
from causalcf.query import Abduction, Counterfactual, abduct, counterfactual, reconstruct, resolve_steps
from causalcf.scm import SCM
from causalcf.seeds import RowGenerator, row_keys
from causalcf.solvers import Solver

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AuditReport", "audit", "draw_interventions"]

Truth = Callable[[Counterfactual], "NDArray[np.uint8] | None"]
_SCHEMA = 1
_COLUMNS = ["measure", "do", "attribute", "value", "low", "high", "floor", "ceiling", "truth", "unit", "better", "n"]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        scores: one row a number: `measure`, `do` (the intervened node), `attribute` (what is read), `value` with its interval
            `low` to `high`, `floor` (real images), `ceiling` (a method that does not look), `truth` (the true counterfactual
            images, where known), `unit`, which direction is `better`, and `n` rows.
        checks: promises that hold bit for bit or not: `check`, `passed`, `detail`.
        settings: seed, rows, model, guidance and judges, so that the audit can be repeated.
        answers: the counterfactuals by intervened node, for pictures; not in the JSON.
        errors: by intervened node, one number a row that says how far its answer is off: against the true image where it is
            known, there and back elsewhere.
    """

    scores: pd.DataFrame
    checks: pd.DataFrame
    settings: Mapping[str, Any]
    answers: Mapping[str, Counterfactual]
    errors: Mapping[str, pd.Series]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return bool(self.checks["passed"].all())

    def __repr__(self) -> str:
        return f"AuditReport(passed={self.passed}, scores={len(self.scores)}, rows={self.settings['rows']})"

    def value(self, measure: str, do: str = "", attribute: str = "") -> float:
        """One number; `do` and `attribute` are needed where the measure has them."""
        rows = self.scores
        hits = rows[(rows["measure"] == measure) & (rows["do"] == do) & (rows["attribute"] == attribute)]
        if len(hits) != 1:
            raise DataError(
                f"the report has {len(hits)} numbers for measure='{measure}', do='{do}', attribute='{attribute}'. "
                f"Measures are: {', '.join(rows['measure'].unique())}."
            )
        return float(hits["value"].iloc[0])

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data; what is not known is null."""
        scores = self.scores.astype(object).where(self.scores.notna(), None).to_dict("records")
        return {
            "schema": _SCHEMA,
            "passed": self.passed,
            "settings": dict(self.settings),
            "checks": self.checks.to_dict("records"),
            "scores": scores,
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON, written to the path if there is one."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_html(self, path: str | Path) -> Path:
        """The report as one self-contained HTML file with pictures."""
        from causalcf.report import write_html

        return write_html(self, path)


def draw_interventions(graph: CausalGraph, frame: pd.DataFrame, *, image: str | None, seed: int) -> dict[str, Do]:
    """One intervention on each parent of the image, or without an image on each attribute that has an effect, a value a row.

    A number is drawn from the column's own marginal distribution, a label is flipped to another one, all alike; a row's value is
    a function of the seed and of its index.
    """
    generator = RowGenerator(seed, row_keys(frame.index), "audit")
    drawn: dict[str, Do] = {}
    causes = {parent for node in graph.nodes for parent in node.parents}
    for name in graph.parents(image) if image else [name for name in graph.attributes if name in causes]:
        node, chance = graph.node(name), generator.stream(name).uniform().numpy()
        if node.discrete:
            states = list(node.states or ())
            place = np.array([states.index(label) for label in frame[name]])
            other = (place + 1 + np.floor(chance * (len(states) - 1)).astype(int)) % len(states)
            drawn[name] = {name: [states[new] for new in other]}
        else:
            drawn[name] = {name: np.sort(frame[name].to_numpy(float))[np.floor(chance * len(frame)).astype(int)]}
    return drawn


class _Scores:
    """The rows of the report's table, collected."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rows: list[dict[str, Any]] = []

    def add(self, measure: str, values: NDArray[np.float64], *, do: str = "", attribute: str = "", **more: Any) -> None:
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values)).tolist()
            raise DataError(f"{measure} of '{attribute}' under do({do}) is not finite for rows {bad[:5]} of the batch.")
        low, high = bootstrap_mean(values, seed=self.seed)
        self.rows.append(
            {
                "measure": measure, "do": do, "attribute": attribute, "value": float(values.mean()), "low": low, "high": high,
                "floor": None, "ceiling": None, "truth": None, "unit": "", "better": "low", "n": len(values), **more,
            }
        )  # fmt: skip

    def table(self) -> pd.DataFrame:
        frame = pd.DataFrame(self.rows, columns=_COLUMNS)
        return frame.astype(dict.fromkeys(("value", "low", "high", "floor", "ceiling", "truth"), float))


def _check_bits(scm: SCM, abduction: Abduction, answers: Mapping[str, Counterfactual]) -> pd.DataFrame:
    """Null intervention and non-descendants, bit for bit."""
    checks = []
    nothing = counterfactual(scm, abduction, {})
    factual = abduction.factual
    same = nothing.frame.equals(factual.frame) and all(
        np.array_equal(nothing.images[name], factual.images[name]) for name in factual.images
    )
    checks.append(
        {"check": "null intervention", "passed": bool(same), "detail": "do() leaves every value as it was, bit for bit"}
    )
    for label, answer in answers.items():
        kept = [name for name in scm.graph.order if name not in answer.changed]
        same = all(
            answer.frame[name].equals(factual.frame[name])
            if name in factual.frame
            else np.array_equal(answer.images[name], factual.images[name])
            for name in kept
        )
        detail = f"{', '.join(kept) or 'nothing'} cannot be reached and is as it was, bit for bit"
        checks.append({"check": f"non-descendants of {label}", "passed": bool(same), "detail": detail})
    return pd.DataFrame(checks)


def _score_composition(
    scores: _Scores, scm: SCM, abduction: Abduction, image: str, rounds: Sequence[int], rows: int | None, seed: int
) -> None:
    factual = abduction.factual.images[image]
    if isinstance(mechanism := scm.mechanisms[image], Diffusion):
        through = mechanism.round_trip(encode_image(factual))
        if through is not None:
            distance = image_distance(decode_image(through), factual)
            scores.add("autoencoder", distance, attribute=image, floor=0.0, unit="grey level")
    ceiling = float(image_distance(factual, np.roll(factual, 1, axis=0)).mean())
    current = abduction
    for number in range(1, max(rounds) + 1):
        again = reconstruct(current)
        if number in rounds:
            distance = image_distance(again.images[image], factual[: len(again)])
            scores.add(f"composition.{number}", distance, attribute=image, floor=0.0, ceiling=ceiling, unit="grey level")
        if number == max(rounds):
            return
        if number == 1 and rows is not None:
            again = again.rows(slice(0, rows))
        current = abduct(scm, again, seed=seed)


def _score_columns(
    scores: _Scores, measure: str, label: str, nodes: Collection[str], found: pd.DataFrame, batch: Batch, other: pd.DataFrame
) -> None:
    """How far attributes are from their factual values: numbers in their unit, labels in points of rows that differ.

    Args:
        found: the values, of the first rows of the batch.
        other: what a method that does not look would give.
    """
    for name in (name for name in batch.graph.attributes if name in nodes):
        node, factual = batch.graph.node(name), batch.frame[name].iloc[: len(found)]

        def distance(column: pd.Series, node: Node = node, factual: pd.Series = factual) -> NDArray[np.float64]:
            column = column.iloc[: len(factual)]
            if node.discrete:
                return np.asarray(100.0 * (column.to_numpy() != factual.to_numpy()))
            return np.asarray(np.abs(column.to_numpy(float) - factual.to_numpy(float)))

        unit = "percent of rows" if node.discrete else node.unit or ""
        ceiling = float(distance(other[name]).mean())
        scores.add(measure, distance(found[name]), do=label, attribute=name, floor=0.0, ceiling=ceiling, unit=unit)


def _score_image(
    scores: _Scores, answer: Counterfactual, back: Counterfactual, label: str, image: str, judges: Mapping[str, Any],
    read: Mapping[str, NDArray[Any]], truth: Truth | None,
) -> pd.Series:  # fmt: skip
    """Everything about the image under one intervention; the error that ranks the rows."""
    factual, some = answer.factual.images[image], slice(0, len(back.frame))
    true = truth(answer) if truth else None
    _score_judged(scores, answer, label, image, judges, read, true)
    error = image_distance(back.images[image], factual[some])
    ceiling = float(image_distance(answer.images[image][some], factual[some]).mean())
    scores.add("reversibility", error, do=label, attribute=image, floor=0.0, ceiling=ceiling, unit="grey level")
    if true is not None:
        error = image_distance(answer.images[image], true)
        ceiling = float(image_distance(factual, true).mean())
        scores.add("true_error", error, do=label, attribute=image, floor=0.0, ceiling=ceiling, unit="grey level")
    return pd.Series(error, index=answer.frame.index[: len(error)])


def _score_noise(scores: _Scores, scm: SCM, abduction: Abduction, image: str | None) -> None:
    rows = len(abduction.factual)
    for name in scm.graph.attributes:
        mechanism = scm.mechanisms[name]
        if mechanism.identified and abduction.noise[name].dim() == 1:
            uniform = np.sort(mechanism.noise_prior().cdf(abduction.noise[name]).numpy())
            steps = np.arange(rows + 1) / rows
            distance = float(max((steps[1:] - uniform).max(), (uniform - steps[:-1]).max()))
            row: dict[str, Any] = {
                "low": None,
                "high": None,
                "floor": 0.868 / math.sqrt(rows),
            }  # the mean distance of a true sample
            scores.add("noise_fit", np.array([distance]), attribute=name, **{**row, "n": rows})
    if image is not None:
        spread = abduction.noise[image].flatten(1).double().numpy()
        scores.add("image_noise", np.sqrt((spread**2).mean(axis=1)), attribute=image, floor=1.0, better="floor")


def _score_judged(
    scores: _Scores, answer: Counterfactual, label: str, image: str, judges: Mapping[str, Any],
    read: Mapping[str, NDArray[Any]], true: NDArray[np.uint8] | None,
) -> None:  # fmt: skip
    graph, factual = answer.factual.graph, answer.factual
    for name, judge in judges.items():
        node = graph.node(name)
        wanted, had = answer.frame[name].to_numpy(), factual.frame[name].to_numpy()
        error = target_error(judge(answer.images[image]), wanted, discrete=node.discrete)
        floor = target_error(read[name], had, discrete=node.discrete)
        blind = target_error(np.roll(read[name], 1), had, discrete=node.discrete)
        truth = None if true is None else float(target_error(judge(true), wanted, discrete=node.discrete).mean())
        unit, better = ("accuracy", "high") if node.discrete else (node.unit or "", "low")
        more = {"do": label, "attribute": name}
        scores.add(
            "effectiveness",
            error,
            floor=float(floor.mean()),
            ceiling=float(blind.mean()),
            truth=truth,
            unit=unit,
            better=better,
            **more,
        )
        scale = 100.0 if node.discrete else 1.0
        unit = "point of accuracy" if node.discrete else unit
        scores.add("amplification", (error - floor) * scale, floor=0.0, unit=unit, better="zero", **more)


def _evaluations(abduction: Abduction, answers: Mapping[str, Counterfactual], image: str) -> dict[str, float]:
    """Evaluations of the network, mean of a row, by what they were for."""
    column = f"{image}.evaluations"
    found = {"abduction": abduction.diagnostics[column].mean()} if column in abduction.diagnostics else {}
    column = f"{image}.prediction_evaluations"
    found |= {f"do({label})": a.diagnostics[column].mean() for label, a in answers.items() if column in a.diagnostics}
    return {name: float(mean) for name, mean in found.items()}


def audit(
    scm: SCM,
    batch: Batch,
    *,
    interventions: Mapping[str, Do] | None = None,
    judges: Mapping[str, Any] | None = None,
    truth: Truth | None = None,
    guidance: Guidance | None = None,
    steps: int | Literal["auto"] | None = None,
    solver: Solver | None = None,
    rounds: Sequence[int] = (1, 10),
    again_rows: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> AuditReport:
    """Measure whether the counterfactuals of a model hold, on rows that it was not fitted to.

    Args:
        scm: fitted, with one image node or none.
        batch: held-out rows, with images if the model has an image node.
        interventions: by label, what to ask; see `draw_interventions` for what is asked unless told.
        judges: by attribute, a callable from images to readings; the model's own unless told.
        truth: from an answer to the true counterfactual images, or None where it is not known.
        guidance: the rule for images; the model's own unless told.
        steps: noise levels that an image visits each way, or `auto`, see `choose_steps`; the model's own unless told.
        solver: of the image, see `causalcf.solvers`; the model's own unless told.
        rounds: after how many rounds composition is measured.
        again_rows: so many rows go through the model again, there and back, and round after round; all unless told.
        seed: of the interventions, the abduction of labels, and the intervals.
        progress: show how far it is.

    Raises:
        DataError: the batch lacks the images, or has fewer than two rows.
    """
    steps = resolve_steps(scm, batch, steps, solver=solver, seed=seed)
    scm = scm.configured(guidance=guidance, steps=steps, solver=solver)
    if len(scm.graph.images) > 1:
        raise DataError(f"an audit takes one image node; graph '{scm.graph.name}' has {len(scm.graph.images)}.")
    if scm.graph.images and not batch.images:
        raise DataError(
            f"the batch has no images for '{scm.graph.images[0]}'. Pass them, or audit the attributes alone: "
            f"a model and a batch of graph.without('{scm.graph.images[0]}')."
        )
    if len(batch) < 2:
        raise DataError("an audit needs at least two rows.")
    image = next(iter(scm.graph.images), None)
    judges = dict(scm.judges if judges is None else judges)
    scm.graph.check(judges, "use a judge for")
    asked = dict(interventions or draw_interventions(scm.graph, batch.frame, image=image, seed=seed))
    scores = _Scores(seed)
    answers: dict[str, Counterfactual] = {}
    errors: dict[str, pd.Series] = {}
    with show_progress("audit", 2.0 + 2 * len(asked), show=progress) as advance:
        abduction = abduct(scm, batch, seed=seed)
        _score_noise(scores, scm, abduction, image)
        read = {name: judge(batch.images[image]) for name, judge in judges.items()} if image else {}
        for place, (label, do) in enumerate(asked.items()):
            advance(1.0 + 2 * place, f"do({label})")
            answer = answers[label] = counterfactual(scm, abduction, do)
            some = slice(0, again_rows)
            back = counterfactual(scm, answer.batch.rows(some), {name: batch.frame[name].iloc[some] for name in do}, seed=seed)
            if image is None:
                _score_columns(scores, "reversibility", label, answer.changed, back.frame, batch, answer.frame)
            else:
                errors[label] = _score_image(scores, answer, back, label, image, judges, read, truth)
        advance(1.0 + 2 * len(asked), "composition")
        if image is None:
            again = reconstruct(abduction).frame
            _score_columns(scores, "composition.1", "", scm.graph.attributes, again, batch, batch.frame.shift(1).bfill())
        else:
            _score_composition(scores, scm, abduction, image, rounds, again_rows, seed)
    mechanism: Any = scm.mechanisms[image] if image else None
    settings = {
        "seed": seed,
        "rows": len(batch),
        "graph": scm.graph.name,
        "guidance": mechanism.guidance.to_dict() if hasattr(mechanism, "guidance") else None,
        "steps": getattr(mechanism, "steps", None),
        "solver": mechanism.solver.to_dict() if hasattr(mechanism, "solver") else None,
        "precision": ("bfloat16" if mechanism.rounded else "float32") if hasattr(mechanism, "rounded") else None,
        "evaluations": _evaluations(abduction, answers, image) if image else None,
        "interventions": "given" if interventions else "numbers from their marginal, labels flipped",
        "judges": {name: getattr(judge, "__name__", type(judge).__name__) for name, judge in judges.items()},
        "intervals": "95 % percentile bootstrap over rows",
        "version": version("causalcf"),
        "model": (scm.manifest or {}).get("made", {}),
    }
    return AuditReport(scores.table(), _check_bits(scm, abduction, answers), settings, answers, errors)
