"""The commands that ask a model: `causalcf sample | counterfactual | effect`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causalcf.cli_options import (
    Dos,
    Index,
    Json,
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
    refuse,
    refuse_of_images,
    rows_of,
)
from causalcf.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from causalcf.query import Counterfactual

__all__ = ["counterfactual", "effect", "sample"]


def sample(
    model: Annotated[str, typer.Argument(help="A shipped model by name, or a directory.")],
    out: TableOut = None,
    n: Annotated[int, typer.Option(help="Rows.", min=1)] = 1000,
    do: Dos = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw attributes from a model, under an intervention or without."""
    from causalcf.interventions import parse_do
    from causalcf.store import load

    scm = load(model)
    scenarios = {text: parse_do(scm.graph, text) for text in do or []} or {"no intervention": {}}
    batches = scm.sample(n, do=list(scenarios.values()), seed=seed, images=False)
    _write_answers({text: batch.frame for text, batch in zip(scenarios, batches, strict=True)}, {}, out, as_json)


def counterfactual(
    model: Annotated[str, typer.Argument(help="A shipped model by name, or a directory.")],
    data: Rows = None,
    do: Dos = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The table to write: .csv, .tsv, .jsonl or .parquet; or, with images, a directory for them and a picture.",
        ),
    ] = None,
    n: Annotated[int | None, typer.Option(help="Rows at most; 64 with images, and all of a table, unless told.", min=1)] = None,
    index: Index = None,
    resize: Resize = False,
    split: Split = None,
    guidance: Rule = None,
    steps: Steps = None,
    solver: SolverName = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """What rows would have been under an intervention, with their images if they have some; missing attributes are inferred."""
    from causalcf.interventions import parse_do
    from causalcf.query import counterfactual as ask
    from causalcf.store import load
    from causalcf.tables import is_table

    if not do:
        raise DataError("what should be changed? Say it with --do, for example --do 'thickness+=1'.")
    scm = load(model)
    refuse_of_images(scm, model, guidance=guidance, steps=steps, solver=solver)
    scenarios = {text: parse_do(scm.graph, text) for text in do}
    most = n or (64 if data is None or data.is_dir() else None)
    batch = rows_of(scm, data, split=split, n=most, index=index, resize=resize, missing="infer").loaded()
    asked = ask(
        scm, batch, list(scenarios.values()), guidance=read_guidance(guidance), steps=read_steps(steps),
        solver=read_solver(solver), seed=seed, progress=not as_json,
    )  # fmt: skip
    answers = dict(zip(scenarios, asked, strict=True))
    paths: list[Path] = []
    if batch.images and (out is None or not is_table(out)):
        paths = _write_images(answers, out or Path("causalcf-counterfactuals"))
        out = None
    frames = {text: answer.frame.assign(identified=answer.identified) for text, answer in answers.items()}
    why_not = {text: dict(answer.why_not) for text, answer in answers.items() if answer.why_not}
    took = asked[0].diagnostics.mean().dropna().round(4).to_dict() if batch.images else {}
    _write_answers(frames, why_not, out, as_json, factual=batch.frame, paths=paths, took=took)


def _write_images(answers: Mapping[str, Counterfactual], out: Path) -> list[Path]:
    """A folder of images for every scenario, and a picture of all; the paths."""
    from causalcf.plot import counterfactual_figure, to_png

    names = dict.fromkeys(answers, "")
    for place, text in enumerate(answers if len(answers) > 1 else ()):
        name = re.sub(r"[^\w.+*=-]+", "_", text)
        names[text] = name if name not in names.values() else f"{name}-{place + 1}"
    paths = [answer.to_folder(out / names[text]) for text, answer in answers.items()]
    to_png(counterfactual_figure({f"do({text})": answer for text, answer in answers.items()}), out / "counterfactuals.png")
    return [*paths, out / "counterfactuals.png"]


def _write_answers(
    frames: Mapping[str, pd.DataFrame], why_not: Mapping[str, Mapping[str, str]], out: Path | None, as_json: bool,
    *, factual: pd.DataFrame | None = None, paths: Sequence[Path] = (), took: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """One table, with a column `do` where there are several scenarios, and what changed in words.

    Told as well are `paths`, and what the images `took`: the means of a `Counterfactual`'s diagnostics, in the first scenario.
    """
    import pandas as pd

    from causalcf.tables import write_table

    if out is not None:
        several = [frame.assign(do=text) if len(frames) > 1 else frame for text, frame in frames.items()]
        write_table(pd.concat(several), out)
    described = {text: _describe(frame, factual) for text, frame in frames.items()}
    if as_json:
        told = {"out": str(out) if out else None, "columns": described, "why_not": why_not, "diagnostics": took or {}}
        typer.echo(json.dumps({**told, "files": [str(path) for path in paths]}))
        return
    for text, columns in described.items():
        typer.echo(text)
        for name, words in columns.items():
            typer.echo(f"  {name}: {words}")
        for name, reason in why_not.get(text, {}).items():
            typer.echo(f"  not identified: {name}, {reason}")
    if took:
        typer.echo(f"a row took: {', '.join(f'{name} {value:.4g}' for name, value in took.items())}")
    for path in paths:
        typer.echo(str(path))
    if out is not None:
        typer.echo(f"{out}: {sum(map(len, frames.values()))} rows")


def _describe(frame: pd.DataFrame, factual: pd.DataFrame | None) -> dict[str, str]:
    """What every column holds, in words, beside what it held before."""
    import pandas as pd

    words = {}
    for name, column in frame.items():
        before = factual[name] if factual is not None and name in factual else None
        if before is not None and before.equals(column):
            continue
        if pd.api.types.is_float_dtype(column):
            mean = "" if before is None else f" (was {before.mean():.4g})"
            words[str(name)] = f"mean {column.mean():.4g}{mean}, standard deviation {column.std():.4g}"
        elif column.nunique() <= 20:
            shares = column.value_counts(normalize=True, sort=False)
            mixed = pd.api.types.infer_dtype(shares.index).startswith("mixed")  # words and numbers
            shares = shares.sort_index(key=(lambda labels: labels.map(str)) if mixed else None)
            old = None if before is None else before.value_counts(normalize=True)
            was = {label: "" if old is None else f" (was {old.get(label, 0.0):.1%})" for label in shares.index}
            words[str(name)] = ", ".join(f"{label} {share:.1%}{was[label]}" for label, share in shares.items())
    return words


def effect(
    model: Annotated[str, typer.Argument(help="A shipped model by name, or a directory.")],
    treatment: Annotated[str, typer.Option(help="The node that is set.")],
    outcome: Annotated[str, typer.Option(help="The node whose change is asked for.")],
    treated: Annotated[str | None, typer.Option(help="The value it is set to.")] = None,
    control: Annotated[str | None, typer.Option(help="The value that this is compared with.")] = None,
    kind: Annotated[str, typer.Option(help="ate, cate, direct, indirect, pn, ps or pns.")] = "ate",
    by: Annotated[str | None, typer.Option(help="Of cate: the column whose groups are compared.")] = None,
    state: Annotated[str | None, typer.Option(help="Of a discrete outcome: the label whose probability is meant.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="A table: average over its rows instead of over draws.")] = None,
    index: Index = None,
    n: Annotated[int | None, typer.Option(help="Draws, where there is no table; 10,000 unless told.", min=2)] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """An effect of one attribute on another, with its interval, what it assumes, and whether data and graph decide it."""
    from causalcf import effects
    from causalcf.batch import Batch
    from causalcf.interventions import parse_do
    from causalcf.store import load
    from causalcf.tables import read_table

    refuse({"--by": by if kind != "cate" else None}, f"to {kind}: it is of cate. Leave that out.")
    refuse(
        {"--control": control if kind in ("pn", "ps", "pns") else None},
        f"to {kind}, which compares --treated with the other label. Leave that out.",
    )
    refuse({"--index": index if data is None else None}, "without --data. Give that, or leave the rest out.")
    refuse({"--n": n if data is not None else None}, "with --data, over whose rows the effect is averaged. Leave that out.")
    scm = load(model)

    def typed(node: str, text: str | None) -> Any:
        return None if text is None else parse_do(scm.graph, f"{node}={text}")[node]

    between: dict[str, Any] = {"treated": typed(treatment, treated), "control": typed(treatment, control)}
    batch = Batch(scm.graph, read_table(data, index=index, graph=scm.graph)) if data else None
    common: dict[str, Any] = {"state": typed(outcome, state), "seed": seed}
    over: dict[str, Any] = {"batch": batch, "n": n or 10_000}
    found: dict[str, effects.Effect]
    if kind == "cate":
        if batch is None or by is None:
            raise DataError("cate compares the groups of a table: give --data and --by.")
        groups = effects.cate(scm, batch, treatment, outcome, by=by, **between, **common)
        found = {f"{by} = {group}": value for group, value in groups.items()}
    elif kind in (ask_pair := {"ate": effects.ate, "direct": effects.direct_effect, "indirect": effects.indirect_effect}):
        found = {kind: ask_pair[kind](scm, treatment, outcome, **over, **between, **common)}
    elif kind in (
        causation := {
            "pn": effects.probability_of_necessity,
            "ps": effects.probability_of_sufficiency,
            "pns": effects.probability_of_necessity_and_sufficiency,
        }
    ):
        found = {kind: causation[kind](scm, treatment, outcome, treated=between["treated"], **over, **common)}
    else:
        raise DataError(f"there is no effect '{kind}'. Effects are: ate, cate, direct, indirect, pn, ps, pns.")
    if as_json:
        typer.echo(json.dumps({name: value.to_dict() for name, value in found.items()}))
    else:
        for name, answer in found.items():
            typer.echo(f"{f'{name}: ' if kind == 'cate' else ''}{answer}\n  assumes: {answer.assumes}")
