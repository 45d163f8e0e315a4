"""The command line: `causalcf demo | graphs | fit | audit`, the same words as the Python interface.

Exit codes: 0 done, 1 the audit failed, 2 bad input, 3 failure at run time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from causalcf.errors import AbductionError, CausalCFError, DataError

if TYPE_CHECKING:
    from causalcf.guidance import Guidance
    from causalcf.soundness import AuditReport

__all__ = ["app", "main"]

app = typer.Typer(
    help="Counterfactual images from structural causal models, and the audit that says whether they hold.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("--out", help="Directory to write to.")]
Seed = Annotated[int, typer.Option(help="Everything random is a function of it.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Rule = Annotated[
    str | None,
    typer.Option(
        help="plain, cfg:W, paper:W, anchored:W or nested:W with a weight W, or anchored:digit=2.5,thickness=1 by name."
    ),
]


def _guidance(text: str | None) -> Guidance | None:
    """The rule that a user typed: `plain`, `cfg:2`, `anchored:2`, `nested:digit=2.5`."""
    from causalcf.guidance import ClassifierFree, Decoupled, Plain

    if text is None:
        return None
    name, _, weights = text.partition(":")
    try:
        if name == "plain" and not weights:
            return Plain()
        if name == "cfg":
            return ClassifierFree(float(weights or 2))
        if name in ("paper", "anchored", "nested"):
            if "=" in weights:
                pairs = dict(pair.split("=", 1) for pair in weights.split(","))
                return Decoupled(1.0, form=cast(Any, name), weights={key: float(weight) for key, weight in pairs.items()})
            return Decoupled(float(weights or 2), form=cast(Any, name))
    except ValueError:
        pass
    raise DataError(f"no guidance '{text}'. Give plain, cfg:2, paper:2, anchored:2, nested:2 or anchored:digit=2.5,thickness=1.")


def _print_report(report: AuditReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from causalcf.report import summary_rows

    header, *rows = summary_rows(report)
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    for check in report.checks.to_dict("records"):
        console.print(f"{'PASS' if check['passed'] else 'FAIL'}  {check['check']}: {check['detail']}", highlight=False)


def _write_report(report: AuditReport, out: Path, *, picture: bool = True) -> dict[str, str]:
    from causalcf.plot import counterfactual_figure, to_png

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to '{out}': {error.strerror}. Choose another --out.") from error
    paths = {name: out / name for name in ("counterfactuals.png", "audit.json", "report.html")}
    if picture:
        to_png(
            counterfactual_figure({f"do({name})": answer for name, answer in report.answers.items()}),
            paths["counterfactuals.png"],
        )
    report.to_json(paths["audit.json"])
    report.to_html(paths["report.html"])
    return {name: str(path) for name, path in paths.items()}


def _audit(
    model: str, rows: int, out: Path, seed: int, as_json: bool, *, guidance: str | None = None, steps: int | None = None,
    again_rows: int | None = None,
) -> None:  # fmt: skip
    from causalcf.recipes import recipe
    from causalcf.soundness import audit
    from causalcf.store import load

    start = time.monotonic()
    scm = load(model)
    study = recipe(scm.graph.name)
    batch = study.batch("test", rows, 0, 1)
    report = audit(
        scm,
        batch,
        truth=study.truth,
        guidance=_guidance(guidance),
        steps=steps,
        again_rows=again_rows,
        seed=seed,
        progress=not as_json,
    )
    paths = _write_report(report, out)
    seconds = round(time.monotonic() - start, 1)
    if as_json:
        typer.echo(json.dumps({**report.to_dict(), "files": paths, "seconds": seconds}))
    else:
        _print_report(report)
        for path in paths.values():
            typer.echo(path)
        typer.echo(f"{rows} rows in {seconds} s")
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Out = Path("causalcf-demo"),
    n: Annotated[int, typer.Option(help="Held-out digits.", min=2, max=1000)] = 64,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Ask do(thickness), do(intensity) and do(digit) of held-out real digits with the shipped model, and audit the answers."""
    _audit("morphomnist", n, out, seed, as_json, again_rows=min(n, 6))


@app.command("audit")
def audit_command(
    model: Annotated[str, typer.Argument(help="A shipped model by name, or a directory.")],
    out: Out = Path("causalcf-audit"),
    n: Annotated[int, typer.Option(help="Held-out rows of the study.", min=2, max=1000)] = 256,
    guidance: Rule = None,
    steps: Annotated[int | None, typer.Option(help="Noise levels each way; the model's own unless told.")] = None,
    again_rows: Annotated[
        int | None, typer.Option(help="So many rows go there and back, and round after round; all unless told.", min=2)
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Audit a model on held-out rows: composition, effectiveness, amplification, reversibility, true error."""
    _audit(model, n, out, seed, as_json, guidance=guidance, steps=steps, again_rows=again_rows)


@app.command()
def graphs(
    name: Annotated[str | None, typer.Argument(help="One graph, by name or as a TOML file.")] = None, as_json: Json = False
) -> None:
    """List the ready-made graphs, or show one."""
    from causalcf.graph import graph_names, load_graph

    if as_json:
        names = [name] if name else graph_names()
        typer.echo(json.dumps({entry: load_graph(entry).to_dict() for entry in names}))
    elif name is None:
        for entry in graph_names():
            typer.echo(f"{entry}: {load_graph(entry).title}")
    else:
        graph = load_graph(name)
        typer.echo("\n".join(line for line in (graph.title, graph.reference, graph.assumes) if line))
        for node in graph.nodes:
            detail = [node.unit or "", f"in ({node.support[0]:g}, {node.support[1]:g})" if node.support else ""]
            detail += [", ".join(map(str, node.states or ())), "x".join(map(str, node.shape or ()))]
            parents = f" <- {', '.join(node.parents)}" if node.parents else ""
            typer.echo(f"  {node.name}{parents}: {' '.join([node.kind, *filter(None, detail)])}. {node.description}".rstrip(" ."))


@app.command()
def fit(
    study: Annotated[str, typer.Argument(help="A study by name: morphomnist.")],
    out: Out,
    minutes: Annotated[float | None, typer.Option(help="Of training the image mechanism.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Gradient steps of the image mechanism; with --minutes, whichever ends first.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Training rows; the study's own number unless told.", min=100)] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a study's whole model and its judges from the data. Stopped, it goes on from its last checkpoint when run again."""
    from causalcf.judges import fit_judges
    from causalcf.recipes import recipe
    from causalcf.training import Training
    from causalcf.training import fit as train

    chosen = recipe(study)
    plan = Training(minutes=minutes, steps=steps, **chosen.training)
    checkpoints = out.with_name(out.name + ".checkpoints")
    if not as_json:
        typer.echo(
            f"Drawing the data of {study}. Checkpoints go to {checkpoints}; run the same command again to go on from there."
        )
    batch = chosen.batch("train", rows or chosen.rows, seed, 2)
    try:
        scm = train(chosen.scm(), batch, seed=seed, training=plan, checkpoints=checkpoints, progress=not as_json)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. The state of training is in {checkpoints}; run the same command to go on.", err=True)
        raise typer.Exit(3) from None
    judge_rows = chosen.batch("judge", min(chosen.judge_rows, rows or chosen.judge_rows), seed, 2)
    scm.judges = fit_judges(judge_rows, rulers=chosen.rulers, seed=seed, progress=not as_json)
    length = f"--steps {steps}" if steps else ""
    length += f" --minutes {minutes:g}" if minutes else ""
    words = ["causalcf fit", study, "--out", out.name, length.strip(), f"--seed {seed}", f"--rows {rows}" if rows else ""]
    made = {**(scm.manifest or {})["made"], "command": " ".join(word for word in words if word)}
    scm.manifest = {"made": made}
    scm.save(out)
    size = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    if as_json:
        typer.echo(json.dumps({"model": str(out), "bytes": size, "made": made}))
    else:
        typer.echo(f"{out}: {size / 1e6:.1f} MB of weights. Audit it: causalcf audit {out}")


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; a traceback only with --debug."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        code = app(arguments, standalone_mode=False)
        return int(code or 0)
    except typer.Exit as stop:
        return stop.exit_code
    except (CausalCFError, OSError) as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        return 3 if isinstance(error, AbductionError) else 2
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        return 3
    except Exception as error:
        if debug:
            raise
        usage = getattr(error, "format_message", None)  # click's own usage errors
        typer.echo(f"error: {usage() if usage else f'{type(error).__name__}: {error}. Run with --debug to see where.'}", err=True)
        return 2 if usage else 3


if __name__ == "__main__":
    sys.exit(main())
