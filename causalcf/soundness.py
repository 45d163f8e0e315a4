"""The audit: whether the counterfactuals of a structural causal model hold.

    measure               asks                                                                       ideal
    composition.m         f(., pa, pa) applied m times against x, nothing copied                     0
    autoencoder           x through the autoencoder and back, where the model has one                0
    effectiveness         the judge's reading of x* against the attribute it should show             the floor
    effectiveness.auroc   the same, by the judge's scores of the labels                              the floor
    effectiveness.f1      the same, F1 of the labels                                                 the floor
    amplification         the judge's error on x* minus its error on x                               0
    amplification.auroc   the judge's AUROC on x* minus its AUROC on x, in points                    0
    reversibility.m       there and back m times against x                                           0
    true_error            x* against the true counterfactual, where a study knows it                 0
    minimality            counterfactual latent divergence of x* from x                              low
    realism               Frechet distance of x* from x in the features of a judge                   the floor
    noise_fit             Kolmogorov distance of the abducted noise from its prior                   the floor
    noise_independence    absolute correlation of the abducted noise of two nodes                    the floor
    image_noise           root mean square of the abducted image noise                               1
    support               interventions whose attributes are like no row's of the data               the floor
    evaluations           passes of the image's network                                              low

Every number is a statistic of rows with an interval; its floor is what real images score, its ceiling what a method that
does not look scores, its truth what the true counterfactuals score.

M. Monteiro, F. De Sousa Ribeiro, N. Pawlowski, D. C. Castro, B. Glocker, "Measuring axiomatic soundness of counterfactual image
models", ICLR 2023, https://arxiv.org/abs/2303.01274; T. Melistas et al., "Benchmarking Counterfactual Image Generation", NeurIPS
2024, https://arxiv.org/abs/2403.20287; amplification: T. Xia et al., "Mitigating attribute amplification in counterfactual image
generation", MICCAI 2024, https://arxiv.org/abs/2403.09422; minimality: P. Sanchez, S. A. Tsaftaris, "Diffusion Causal Models for
Counterfactual Estimation", CLeaR 2022, https://arxiv.org/abs/2202.10166.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.conditions import check_conditions, judge_conditions
from causalcf.errors import DataError
from causalcf.guidance import Guidance
from causalcf.identify import GraphCheck, check
from causalcf.interventions import Do, resolve
from causalcf.measures import Measured, concatenate, score_table
from causalcf.metrics import check_column, check_groups
from causalcf.presets import Preset, left_in_training_mode
from causalcf.presets import preset as find_preset
from causalcf.progress import progress as show_progress
from causalcf.query import CHUNK, Abduction, Counterfactual, abduct, counterfactual, resolve_steps
from causalcf.samplers import Sampler, draw_interventions
from causalcf.scm import SCM
from causalcf.scoring import (
    AuditedRows,
    Distance,
    score_back,
    score_composition,
    score_evaluations,
    score_judged,
    score_noise,
    score_support,
    score_truth,
)
from causalcf.solvers import Solver
from causalcf.subgroups import Subgroups, by_subgroup, scan_subgroups
from causalcf.tradeoff import check_weights, score_weights, tradeoff_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AuditReport", "audit", "merge_audits"]

Truth = Callable[[Counterfactual], "NDArray[np.uint8] | pd.DataFrame | None"]
_SCHEMA = 2


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON data; what is not known is null."""
    return [dict(row) for row in table.astype(object).where(table.notna(), None).to_dict("records")]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        measured: the evidence, row by row.
        checks: promises that hold bit for bit or not: `check`, `passed`, `detail`.
        settings: seed, rows, model, guidance and judges, so that the audit can be repeated.
        factual: the rows that were asked about.
        answers: the counterfactuals by intervention, for pictures; not in the JSON.
        errors: by intervention, one number a row that says how far its answer is off: against the true image where it is known,
            there and back elsewhere.
        outside: by intervention, whether the row's attributes are like no row's of the data, (row, intervention).
        weighted: the evidence under other weights of guidance.
    """

    measured: Sequence[Measured]
    checks: pd.DataFrame
    settings: Mapping[str, Any]
    factual: Batch
    answers: Mapping[str, Counterfactual]
    errors: Mapping[str, pd.Series]
    outside: pd.DataFrame
    weighted: Sequence[Measured] = ()

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row a number.

        Columns: `measure`, `do` (the intervention), `attribute` (what is read), `role` of the attribute under the intervention,
        `value` with its interval `low` to `high`, `floor` (real images), `ceiling` (a method that does not look), `truth` (the
        true counterfactual images, where known), `unit`, which direction is `better`, and `n` rows.
        """
        return score_table(self.measured, seed=self.settings["seed"], groups=self.groups)

    @property
    def groups(self) -> NDArray[Any] | None:
        """Of every row what the bootstrap draws as a whole, (row,); None where that is the row."""
        column = self.settings.get("groups")
        return None if column is None else self.factual.frame[column].to_numpy()

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """The checks, and the conditions of `fail_on`: `check`, `passed`, `detail`."""
        conditions = judge_conditions(self.settings.get("fail_on", []), self.scores)
        return pd.concat([self.checks, pd.DataFrame(conditions, columns=self.checks.columns)], ignore_index=True)

    @property
    def passed(self) -> bool:
        """Whether every check and every condition holds."""
        return bool(self.verdicts["passed"].astype(bool).all())

    @cached_property
    def tradeoff(self) -> pd.DataFrame:
        """Effectiveness, amplification and reversibility by guidance `weight`, NaN for the model's own rule; as `scores`."""
        return tradeoff_table(self.measured, self.weighted, seed=self.settings["seed"], groups=self.groups)

    @property
    def blind_judges(self) -> list[str]:
        """The attributes whose judge reads real rows no better than rows mixed up, so that its numbers say nothing.

        Where all rows have the same value, mixing them up shows nothing of the judge.
        """
        rows = self.scores[self.scores["measure"] == "effectiveness"].drop_duplicates("attribute")
        gain = (rows["ceiling"] - rows["floor"]).where(rows["better"] == "low", rows["floor"] - rows["ceiling"])
        blind = map(str, rows.loc[gain <= 0, "attribute"])
        return [name for name in blind if self.factual.frame[name].nunique() > 1]

    @cached_property
    def graph_check(self) -> GraphCheck:
        """What the factual rows say about the graph: which independencies that it implies they contradict."""
        return check(self.factual.graph, self.factual)

    @cached_property
    def subgroups(self) -> Mapping[str, Subgroups]:
        """Every number by the groups of the columns that the audit was asked for."""
        return {column: self.by(column) for column in self.settings.get("by", [])}

    @cached_property
    def searched(self) -> pd.DataFrame | None:
        """What `scan` finds, if the audit was asked to search."""
        return self.scan(self.settings.get("by")) if self.settings.get("scan") else None

    def by(self, column: str, *, smallest: int = 20) -> Subgroups:
        """Every number by the groups of a column of the batch; see `causalcf.subgroups`.

        Args:
            column: of labels, or of numbers, which are cut at their quartiles.
            smallest: rows below which a group gets no number.
        """
        return by_subgroup(
            self.measured, self.factual.frame, column, seed=self.settings["seed"], smallest=smallest, groups=self.groups
        )

    def scan(self, columns: Sequence[str] | None = None, *, smallest: int = 20) -> pd.DataFrame:
        """The subgroups whose attributes are amplified otherwise than those of the rest, worst first.

        Args:
            columns: whose groups, alone and two by two; all of the graph's attributes unless told.
            smallest: rows below which a subgroup is not looked at.
        """
        names = list(self.factual.graph.attributes) if columns is None else list(columns)
        return scan_subgroups(
            self.measured, self.factual.frame, names, seed=self.settings["seed"], smallest=smallest, groups=self.groups
        )

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
        """The report as JSON data, as `schemas/audit-2.json` in the package describes it; what is not known is null."""
        found = {
            "schema": _SCHEMA,
            "passed": self.passed,
            "settings": dict(self.settings),
            "checks": self.verdicts.to_dict("records"),
            "graph_check": self.graph_check.to_dict(),
            "scores": _records(self.scores),
        }
        if self.subgroups:
            found["subgroups"] = {column: parts.to_dict() for column, parts in self.subgroups.items()}
        if self.searched is not None:
            found["scan"] = _records(self.searched)
        if self.weighted:
            found["tradeoff"] = _records(self.tradeoff)
        return found

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


# ------------------------------------------------------------------ promises that hold bit for bit


def _same(answer: Counterfactual | Batch, factual: Batch, name: str) -> bool:
    if name in factual.frame:
        return bool(answer.frame[name].equals(factual.frame[name]))
    return bool(np.array_equal(answer.images[name], factual.images[name]))


def _check_bits(scm: SCM, abduction: Abduction, answers: Mapping[str, Counterfactual]) -> pd.DataFrame:
    """Null intervention and non-descendants, bit for bit."""
    nothing, factual = counterfactual(scm, abduction, {}), abduction.factual
    names = [*scm.graph.attributes, *factual.images]
    same = all(_same(nothing, factual, name) for name in names)
    checks = [{"check": "null intervention", "passed": same, "detail": "do() leaves every value as it was, bit for bit"}]
    for label, answer in answers.items():
        kept = [name for name in scm.graph.order if name not in answer.changed]
        same = all(_same(answer, factual, name) for name in kept)
        detail = f"{', '.join(kept)} cannot be reached and is as it was, bit for bit" if kept else "every node can be reached"
        checks.append({"check": f"non-descendants of {label}", "passed": same, "detail": detail})
    return pd.DataFrame(checks)


# ------------------------------------------------------------------ the audit


def _part(rows: int, shard: tuple[int, int] | None) -> slice:
    """The rows of a shard, which begins where a part of the batch that is in memory at a time does."""
    if shard is None:
        return slice(0, rows)
    number, count = shard
    if not 1 <= number <= count:
        raise DataError(f"shard {number}/{count} makes no sense: give (number, count) with 1 <= number <= count.")
    parts = -(-rows // CHUNK)
    if count > parts:
        raise DataError(f"{rows} rows have {parts} parts of {CHUNK} and cannot be divided into {count} shards. Use fewer.")
    start, stop = (CHUNK * (parts * place // count) for place in (number - 1, number))
    return slice(start, min(stop, rows))


def _settings(scm: SCM, judges: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    mechanism: Any = scm.mechanisms[scm.graph.images[0]] if scm.graph.images else None
    return {
        **given,
        "graph": scm.graph.name,
        "guidance": mechanism.guidance.to_dict() if hasattr(mechanism, "guidance") else None,
        "steps": getattr(mechanism, "steps", None),
        "solver": mechanism.solver.to_dict() if hasattr(mechanism, "solver") else None,
        "precision": ("bfloat16" if mechanism.rounded else "float32") if hasattr(mechanism, "rounded") else None,
        "judges": {name: getattr(judge, "__name__", type(judge).__name__) for name, judge in judges.items()},
        "version": version("causalcf"),
        "model": (scm.manifest or {}).get("made", {}),
    }


def _check_asked(scm: SCM, batch: Batch, by: Sequence[str], groups: str | None) -> None:
    graph = scm.graph
    if len(graph.images) > 1:
        raise DataError(f"an audit takes one image node; graph '{graph.name}' has {len(graph.images)}.")
    if graph.images and not batch.images:
        raise DataError(
            f"the batch has no images for '{graph.images[0]}'. Pass them, or audit the attributes alone: "
            f"a model and a batch of graph.without('{graph.images[0]}')."
        )
    if len(batch) < 2:
        raise DataError("an audit needs at least two rows.")
    for name in by:
        check_column(batch.frame, name)
    if groups:
        check_groups(batch.frame, groups)


def audit(
    scm: SCM,
    batch: Batch,
    *,
    interventions: Mapping[str, Do] | None = None,
    preset: str | None = None,
    sampler: Sampler | None = None,
    judges: Mapping[str, Any] | None = None,
    truth: Truth | None = None,
    distances: Mapping[str, Distance] | None = None,
    guidance: Guidance | None = None,
    steps: int | Literal["auto"] | None = None,
    solver: Solver | None = None,
    rounds: Sequence[int] | None = None,
    cycles: Sequence[int] | None = None,
    again_rows: int | None = None,
    weights: Sequence[float] = (),
    groups: str | None = None,
    by: Sequence[str] = (),
    scan: bool = False,
    fail_on: Sequence[str] = (),
    shard: tuple[int, int] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> AuditReport:
    """Measure whether the counterfactuals of a model hold, on rows that it was not fitted to.

    Args:
        scm: fitted, with one image node or none.
        batch: held-out rows, with images if the model has an image node.
        interventions: by label, what to ask.
        preset: how a published evaluation asks and scores, see `causalcf.presets`; what is told besides goes before it.
        sampler: how interventions are drawn where none are given, see `causalcf.samplers`; `mixed` unless told.
        judges: by attribute, a callable from images (without an image, from the table of attributes) to one number or label a
            row; the model's own unless told. A judge with `scores(images)`, (row, label), is also asked for AUROC, one with
            `features(images)`, (row, feature), for realism.
        truth: from an answer to the true counterfactual images (without an image, to their table), or None where not known.
        distances: further distances between images beside L1, such as LPIPS with weights of yours: by name, a function of two
            batches of images to one number a row. Composition, reversibility and true error are told by each.
        guidance: the rule for images; the model's own unless told.
        steps: noise levels that an image visits each way, or `auto`, see `choose_steps`; the model's own unless told.
        solver: of the image, see `causalcf.solvers`; the model's own unless told.
        rounds: after how many rounds composition is measured; 1 and 10 unless told.
        cycles: after how many times there and back reversibility is measured; 1 unless told.
        again_rows: so many rows go through the model again, there and back, and round after round; all unless told.
        weights: of guidance, under each of which everything is asked again for the trade-off curve: one weight for all that an
            intervention reaches, in the form of the model's own rule.
        groups: a column of the batch, such as the patient of an image: intervals draw its groups as a whole, and the search of
            subgroups tests by them.
        by: columns by whose groups the report shows every number.
        scan: search the subgroups of these columns (of all attributes without) for the worst amplification.
        fail_on: conditions under which the audit does not pass, see `causalcf.conditions`.
        shard: (number, count): only the rows of this part, of a batch that is given whole; see `merge_audits`.
        seed: of the interventions, the abduction of labels, and the intervals.
        progress: show how far it is.

    Raises:
        DataError: the batch lacks the images, has fewer than two rows, does not say every row's group, or a condition cannot be
            read or asks for what is not measured.
    """
    _check_asked(scm, batch, by, groups)
    batch = batch.loaded()
    steps = resolve_steps(scm, batch, steps, solver=solver, seed=seed)
    scm = scm.configured(guidance=guidance, steps=steps, solver=solver)
    if guidance is not None:
        guidance.to_dict()  # an audit can be repeated: a weight a row is an error here, not at the end
    image = next(iter(scm.graph.images), None)
    protocol = Preset("mixed", (1, 10), (1,)) if preset is None else find_preset(preset)
    sampler, rounds, cycles = sampler or protocol.sampler, rounds or protocol.rounds, cycles or protocol.cycles
    judges = dict(scm.judges if judges is None else judges)
    scm.graph.check(judges, "use a judge for")
    if scan and not judges:
        raise DataError(
            "scan searches for subgroups that judges read otherwise than the rest, and there is no judge. Give judges=..., fit "
            "them (scm.judges = causalcf.fit_judges(rows)), or leave scan out."
        )
    weights = check_weights(scm, weights, protocol.weights)
    if protocol.training_mode:
        if shard is not None:
            raise DataError(f"preset '{preset}' scores a row by its company, so that an audit with it has no shards.")
        judges = left_in_training_mode(judges, seed)
    part = _part(len(batch), shard)
    drawn = interventions or draw_interventions(scm.graph, batch.frame, image=image, seed=seed, sampler=sampler)
    asked = {label: resolve(scm.graph, do, batch.frame, seed=seed) for label, do in drawn.items()}
    taken = {"composition": (1,) if image is None else rounds, "reversibility": cycles}
    check_conditions(fail_on, asked, [*scm.graph.order, *(f"{image} by {name}" for name in distances or ())], taken)
    rows = AuditedRows(scm, batch, part, judges, distances or {}, groups)
    measured, weighted = list[Measured](), list[Measured]()
    answers: dict[str, Counterfactual] = {}
    errors: dict[str, pd.Series] = {}
    outside: dict[str, NDArray[np.bool_]] = {}
    with show_progress("audit", 2.0 + 2 * len(asked), show=progress) as advance:
        abduction = abduct(scm, rows.batch, seed=seed)
        measured += score_noise(scm, rows, abduction) + score_evaluations(rows, abduction.diagnostics, "")
        for place, (label, columns) in enumerate(asked.items()):
            advance(1.0 + 2 * place, f"do({label})")
            do = {name: value.iloc[part] if isinstance(value, pd.Series) else value for name, value in columns.items()}
            answer = answers[label] = counterfactual(scm, abduction, do)
            true = truth(answer) if truth else None
            support, outside[label] = score_support(rows, answer, label)
            back = score_back(scm, rows, answer, label, cycles, again_rows, seed)
            far = score_truth(rows, answer, label, true)
            measured += [*score_judged(rows, answer, label, true), *back, *far, support]
            measured += score_evaluations(rows, answer.diagnostics, label)
            weighted += score_weights(scm, rows, abduction, do, label, weights, again_rows, seed)
            if image is not None:
                error = (far or back)[0].value[:, 0]
                errors[label] = pd.Series(error, index=answer.frame.index[: len(error)])
        advance(1.0 + 2 * len(asked), "composition")
        measured += score_composition(scm, rows, abduction, rounds, again_rows, seed)
    settings = _settings(
        scm, judges, seed=seed, rows=len(batch), interventions="given" if interventions else sampler, groups=groups,
        rounds=list(rounds), cycles=list(cycles), again_rows=again_rows,
        intervals=f"95 % percentile bootstrap over {groups or 'rows'}, exact of a share to which all agree",
    )  # fmt: skip
    told = {"preset": preset, "weights": weights, "by": list(by), "scan": scan, "fail_on": list(fail_on)}
    settings |= {name: value for name, value in told.items() if value}
    if shard is not None:
        settings["shard"] = list(shard)
    flags = pd.DataFrame(outside, index=rows.batch.frame.index)
    return AuditReport(measured, _check_bits(scm, abduction, answers), settings, rows.batch, answers, errors, flags, weighted)


def _join_answers(parts: Sequence[Counterfactual], factual: Batch) -> Counterfactual:
    first = parts[0]
    return replace(
        first,
        frame=pd.concat([part.frame for part in parts]),
        images={name: np.concatenate([part.images[name] for part in parts]) for name in first.images},
        factual=factual,
        do={name: pd.concat([part.do[name] for part in parts]) for name in first.do},
        identified=pd.concat([part.identified for part in parts]),
        diagnostics=pd.concat([part.diagnostics for part in parts]),
    )


def merge_audits(reports: Sequence[AuditReport]) -> AuditReport:
    """The audit of the whole from those of its shards, in any order; the same, byte for byte, as of the whole at once.

    Args:
        reports: of `audit(..., shard=(k, n))` for every k, otherwise asked alike.

    Raises:
        DataError: a shard is missing or there twice, or two were asked differently.
    """
    if not reports or any("shard" not in report.settings for report in reports):
        raise DataError("merge_audits takes the reports of audit(..., shard=(number, count)).")
    parts = sorted(reports, key=lambda report: report.settings["shard"])
    count = parts[0].settings["shard"][1]
    if [report.settings["shard"] for report in parts] != [[number, count] for number in range(1, count + 1)]:
        found = ", ".join("{}/{}".format(*report.settings["shard"]) for report in parts)
        raise DataError(f"the shards are {found}. Give every one of {count} once.")
    settings = [{name: value for name, value in report.settings.items() if name != "shard"} for report in parts]
    for name in settings[0]:
        if any(other.get(name) != settings[0][name] for other in settings[1:]):
            raise DataError(f"the shards were asked differently: '{name}' is not the same in all of them.")
    first = parts[0]
    images = {name: np.concatenate([part.factual.images[name] for part in parts]) for name in first.factual.images}
    factual = Batch(first.factual.graph, pd.concat([part.factual.frame for part in parts]), images)
    return AuditReport(
        concatenate([part.measured for part in parts]),
        first.checks.assign(passed=np.logical_and.reduce([part.checks["passed"] for part in parts])),
        settings[0],
        factual,
        {label: _join_answers([part.answers[label] for part in parts], factual) for label in first.answers},
        {label: pd.concat([part.errors[label] for part in parts]) for label in first.errors},
        pd.concat([part.outside for part in parts]),
        concatenate([part.weighted for part in parts]),
    )
