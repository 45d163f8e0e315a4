"""The commands that audit: `causalcf audit | merge | compare | card`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causalcf.cli_options import (
    Index,
    Json,
    Out,
    Resize,
    Rows,
    Rule,
    Seed,
    SolverName,
    Split,
    Steps,
    TableOut,
    read_guidance,
    read_solver,
    read_steps,
    refuse_of_images,
    rows_of,
)
from causalcf.errors import DataError

if TYPE_CHECKING:
    from causalcf.soundness import AuditReport

__all__ = ["audit", "audit_model", "card", "compare", "merge"]


def _print_report(report: AuditReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from causalcf.report import summary_rows

    header, *rows = summary_rows(report)
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    # a name in brackets is a name
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)
    console.print(table)
    for name in report.blind_judges:
        console.print(f"NOTE  the judge of {name} reads real rows no better than rows mixed up: its numbers say nothing")
    for check in report.verdicts.to_dict("records"):
        console.print(f"{'PASS' if check['passed'] else 'FAIL'}  {check['check']}: {check['detail']}", highlight=False)


def _check_out(out: Path, shard: tuple[int, int] | None = None) -> None:
    """Refuse, before anything is measured, an --out that cannot be written to or holds something else than such an audit."""
    from causalcf.archive import check_place
    from causalcf.files import stored_at

    place = out.resolve()
    around = list(place.parents) if shard else [place, *place.parents]
    taken = next((directory for directory in around if stored_at(directory)), None)
    if taken:
        raise DataError(f"'{taken}' is a model or another causalcf directory. Choose another --out, outside it.")
    check_place(place if shard else place / "evidence", shard)
    try:
        with tempfile.TemporaryFile(dir=next(directory for directory in around if directory.exists())):
            pass
    except OSError as error:
        raise DataError(f"cannot write to '{out}': {error.strerror}. Choose another --out.") from error


def _write_report(report: AuditReport, out: Path, *, picture: bool = True) -> dict[str, str]:
    """Write a report, first its evidence, so that nothing is lost if a condition turns out to have no answer."""
    from causalcf.archive import save_report
    from causalcf.plot import counterfactual_figure, to_png

    names = [*(["counterfactuals.png"] if picture else []), "audit.json", "report.html"]
    paths = {name: out / name for name in names}
    evidence = save_report(report, out / "evidence")
    for path in paths.values():
        path.unlink(missing_ok=True)  # of an audit before
    if picture:
        to_png(
            counterfactual_figure({f"do({name})": answer for name, answer in report.answers.items()}),
            paths["counterfactuals.png"],
        )
    try:
        report.to_json(paths["audit.json"])
    except DataError as error:
        raise DataError(f"{error} What was measured is kept in '{evidence}', see causalcf.load_report.") from None
    report.to_html(paths["report.html"])
    paths["evidence"] = out / "evidence"
    return {name: str(path) for name, path in paths.items()}


def _finish(report: AuditReport, out: Path, as_json: bool, seconds: float) -> None:
    """Write and print a report; the exit code says whether it passed."""
    paths = _write_report(report, out, picture=any(answer.images for answer in report.answers.values()))
    if as_json:
        typer.echo(json.dumps({**report.to_dict(), "files": paths, "seconds": seconds}))
    else:
        _print_report(report)
        for path in paths.values():
            typer.echo(path)
        typer.echo(f"{report.settings['rows']} rows in {seconds} s")
    if not report.passed:
        raise typer.Exit(1)


def audit_model(
    model: str, rows: int, out: Path, seed: int, as_json: bool, *, steps: str | None = None, solver: str | None = None,
    data: Path | None = None, index: str | None = None, resize: bool = False, split: str | None = None, shard: str | None = None,
    asked: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Audit a model on the rows that the options of `causalcf audit` name; write and print what was found.

    Args:
        model, out, seed, as_json, steps, solver, data, index, resize, split, shard: as those options.
        rows: at most so many.
        asked: of `causalcf.audit` besides.
    """
    from causalcf import soundness
    from causalcf.archive import save_report
    from causalcf.recipes import RECIPES
    from causalcf.store import load

    start, part = time.monotonic(), _shard(shard)
    _check_out(out, part)
    scm = load(model)
    refuse_of_images(scm, model, guidance=(asked or {}).get("guidance"), solver=solver, steps=steps)
    batch = rows_of(scm, data, split=split, n=rows, index=index, resize=resize)
    truth = RECIPES[scm.graph.name].truth if data is None else None
    report = soundness.audit(
        scm,
        batch,
        truth=truth,
        steps=read_steps(steps),
        solver=read_solver(solver),
        shard=part,
        seed=seed,
        progress=not as_json,
        **(asked or {}),
    )
    seconds = round(time.monotonic() - start, 1)
    if part is None:
        _finish(report, out, as_json, seconds)
        return
    path = save_report(report, out)
    told = {"shard": report.settings["shard"], "rows": len(report.factual), "evidence": str(path), "seconds": seconds}
    typer.echo(json.dumps(told) if as_json else f"{path}: shard {shard}, {len(report.factual)} rows in {seconds} s")


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise DataError(f"'{text}' is no shard: write it as 1/4.")
    return int(number), int(count)


def audit(
    model: Annotated[str, typer.Argument(help="A shipped model by name, or a directory.")],
    out: Out = Path("causalcf-audit"),
    n: Annotated[int, typer.Option(help="Held-out rows, of the study or of --data.", min=2)] = 256,
    data: Rows = None,
    index: Index = None,
    resize: Resize = False,
    split: Split = None,
    guidance: Rule = None,
    steps: Steps = None,
    solver: SolverName = None,
    again_rows: Annotated[
        int | None, typer.Option(help="So many rows go there and back, and round after round; all unless told.", min=2)
    ] = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="A guidance weight to ask everything under, for the trade-off curve; again.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Ask and score as a published evaluation: axiomatic-2022, benchmark-2024, dcfg-2025.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="How interventions are drawn: mixed, marginal, permute, bins or flip.")
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="A column, such as the patient: intervals draw its groups as a whole, and --scan tests by them."),
    ] = None,
    by: Annotated[list[str] | None, typer.Option(help="A column by whose groups every number is shown; again.")] = None,
    scan: Annotated[bool, typer.Option("--scan", help="Search the subgroups for the worst amplification.")] = False,
    fail_on: Annotated[
        list[str] | None, typer.Option(help="A condition under which the audit fails: 'composition.1 > 0.5'; again.")
    ] = None,
    conditions: Annotated[
        Path | None, typer.Option(help='A file of such conditions, audit.toml: fail_on = ["composition.1 > 0.5"].')
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Only part K of N of the rows, as K/N; --out then gets what causalcf merge reads.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Audit a model on held-out rows: composition, effectiveness, amplification, reversibility, true error."""
    from causalcf.conditions import read_conditions

    asked = {
        "guidance": read_guidance(guidance), "again_rows": again_rows, "weights": weight or (), "preset": preset,
        "sampler": sampler, "groups": groups,
        "by": by or (), "scan": scan, "fail_on": [*(read_conditions(conditions) if conditions else []), *(fail_on or [])],
    }  # fmt: skip
    audit_model(
        model, n, out, seed, as_json, steps=steps, solver=solver, data=data, index=index, resize=resize, split=split, shard=shard,
        asked=asked,
    )  # fmt: skip


def merge(
    shards: Annotated[list[Path], typer.Argument(help="What every `causalcf audit --shard K/N` wrote.")],
    out: Out = Path("causalcf-audit"),
    as_json: Json = False,
) -> None:
    """Put the shards of an audit together: the same, byte for byte, as the audit of all rows at once."""
    from causalcf.archive import load_report
    from causalcf.soundness import merge_audits

    start = time.monotonic()
    _check_out(out)
    report = merge_audits([load_report(shard) for shard in shards])
    _finish(report, out, as_json, round(time.monotonic() - start, 1))


def compare(
    audits: Annotated[list[Path], typer.Argument(help="The `evidence` folders of two audits or more; the first is the base.")],
    out: TableOut = None,
    as_json: Json = False,
) -> None:
    """Compare audits of the same rows: differences from the first, paired by row, with their intervals."""
    from causalcf.archive import load_report
    from causalcf.comparing import compare as compare_reports
    from causalcf.tables import write_table

    table = compare_reports({str(path): load_report(path) for path in audits})
    if out is not None:
        write_table(table, out)
    if as_json:
        typer.echo(json.dumps(json.loads(table.to_json(orient="records", double_precision=15))))
    else:
        shown = table[["measure", "do", "attribute", "report", "first", "value", "difference", "low", "high", "unit"]]
        typer.echo(shown.to_string(index=False, float_format=lambda number: f"{number:.4g}"))


def card(
    model: Annotated[str, typer.Argument(help="A shipped model by name, or a directory.")],
    audits: Annotated[
        list[Path] | None, typer.Option("--audit", help="An audit of it: audit.json, or its folder; again.")
    ] = None,
    about: Annotated[
        Path | None, typer.Option(help='A TOML file of headings and paragraphs: intended_use = "...". Numbers by name alone.')
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The Markdown file to write.")] = Path("card.md"),
    as_json: Json = False,
) -> None:
    """Write a model card whose every number names the run that it comes from."""
    from causalcf.card import model_card, read_about, read_audit
    from causalcf.store import load

    text = model_card(load(model), [read_audit(path) for path in audits or []], read_about(about) if about else None)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write '{out}': {error.strerror}. Choose another --out.") from error
    typer.echo(json.dumps({"card": str(out), "characters": len(text)}) if as_json else str(out))
