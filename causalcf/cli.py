"""The command line: `causalcf demo | graphs | check | fit | tune | sample | counterfactual | effect | audit | ...`, as in Python.

Exit codes: 0 done, 1 the audit failed, 2 bad input, 3 failure at run time.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from causalcf.cli_ask import counterfactual, effect, sample
from causalcf.cli_audit import audit, card, compare, merge
from causalcf.cli_data import data
from causalcf.cli_demo import demo
from causalcf.cli_fit import fit
from causalcf.cli_options import Index, Json, Out, Resize, Rows, Seed, Table, refuse, rows_of
from causalcf.cli_reproduce import reproduce
from causalcf.errors import AbductionError, CausalCFError, DataError

__all__ = ["app", "main"]

_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    help="Counterfactual images from structural causal models, and the audit that says whether they hold.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (demo, fit, audit, reproduce, merge, compare, card, sample, counterfactual, effect):
    app.command()(_command)
app.add_typer(data, name="data", rich_help_panel=None)


def _bound(text: str) -> float | dict[str, float]:
    """`2`, or `thickness=1,digit=3`."""
    try:
        if "=" not in text:
            return float(text)
        return {name: float(value) for name, _, value in (part.partition("=") for part in text.split(","))}
    except ValueError:
        raise DataError(f"'{text}' is no bound: give a number, or NODE=NUMBER with commas between.") from None


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="A shipped model by name, or a directory.")],
    out: Out = Path("causalcf-tune"),
    n: Annotated[int, typer.Option(help="Rows of the validation split.", min=2)] = 96,
    data: Rows = None,
    index: Index = None,
    resize: Resize = False,
    forms: Annotated[list[str] | None, typer.Option("--form", help="paper, anchored or nested; again for another.")] = None,
    weights: Annotated[list[float] | None, typer.Option("--weight", help="To try for an affected attribute; again.")] = None,
    rules: Annotated[
        list[str] | None, typer.Option("--rule", help="To try besides, in the words or JSON of --guidance; again for another.")
    ] = None,
    off_target: Annotated[
        str,
        typer.Option(help="Largest rise of the error of what must stay, standard deviations, above no guidance; or NODE=..,.."),
    ] = "0.02",
    reversibility: Annotated[
        str, typer.Option(help="Largest rise of there and back, grey levels, above no guidance; or NODE=..,..")
    ] = "2",
    gain: Annotated[float, typer.Option(help="The share of the error that a setting must take away.")] = 0.02,
    steps: Annotated[int | None, typer.Option(help="Noise levels each way; the model's own unless told.", min=2)] = None,
    again_rows: Annotated[int, typer.Option(help="So many rows go there and back.", min=2)] = 32,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find the guidance weights that show best what was asked, within bounds on what else changes; store them in the model."""
    from causalcf.files import check_replaceable
    from causalcf.guidance import Form, parse_guidance
    from causalcf.store import load
    from causalcf.tuning import tune as find

    check_replaceable(out / "model", ["made"])  # not after the search

    scm = load(model).configured(steps=steps)
    if not scm.graph.images:
        raise DataError(f"model '{model}' has no image node, so that there is no guidance to tune.")
    chosen: dict[str, Any] = {"forms": cast(list[Form], forms)} if forms else {}
    chosen |= {"weights": weights} if weights else {}
    chosen |= {"others": [parse_guidance(rule) for rule in rules]} if rules else {}
    split = None if data is None else "valid"
    batch = rows_of(scm, data, own="valid", split=split, n=n, seed=seed, index=index, resize=resize).loaded()
    found = find(
        scm, batch, off_target=_bound(off_target), reversibility=_bound(reversibility), gain=gain, again_rows=again_rows,
        seed=seed, progress=not as_json, **chosen,
    )  # fmt: skip
    paths = {name: str(path) for name, path in found.save(out).items()}
    if as_json:
        table = json.loads(found.table.to_json(orient="records"))
        typer.echo(json.dumps({"guidance": found.guidance.to_dict(), "files": paths, "table": table}))
        return
    typer.echo(found)
    for path in paths.values():
        typer.echo(path)


@app.command()
def graphs(
    name: Annotated[str | None, typer.Argument(help="One graph, by name or as a file.")] = None,
    to: Annotated[str | None, typer.Option(help="Print it as text, dagitty, dot, gml or toml.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Draw it to this .svg or .png file.")] = None,
    as_json: Json = False,
) -> None:
    """List the ready-made graphs, or show one, in another format or as a picture."""
    from causalcf.graph import graph_names, load_graph

    if name is None and (to or draw):
        raise DataError("which graph? Name one, for example: causalcf graphs asia --to dot")
    if name is not None and (to or draw):
        refuse({"--json": as_json}, "with --to or --draw, which say what is printed. Leave that out.")
        graph = load_graph(name)
        writers = {word: getattr(graph, f"to_{word}") for word in ("text", "dagitty", "dot", "gml", "toml")}
        if to and to not in writers:
            raise DataError(f"there is no format '{to}'. Formats are: {', '.join(writers)}.")
        if draw:
            graph.draw(draw)
            typer.echo(str(draw), err=to is not None)
        if to:
            typer.echo(writers[to]().rstrip())
    elif as_json:
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
def check(
    graph: Annotated[str, typer.Argument(help="A ready-made graph by name, or a graph file.")],
    data: Table,
    alpha: Annotated[float, typer.Option(help="The chance of contradicting a true graph at all.")] = 0.05,
    test: Annotated[
        str, typer.Option(help="covariance, which fits all; or of pgmpy: pearsonr, fisher_z, gcm, chi_square, g_sq, pillai.")
    ] = "covariance",
    as_json: Json = False,
) -> None:
    """Test on a table what a graph implies: which independencies the data contradict, and which edges they could do without."""
    from causalcf.graph import load_graph
    from causalcf.identify import IndependenceTest
    from causalcf.identify import check as check_graph
    from causalcf.tables import read_table

    asked = load_graph(graph)
    found = check_graph(asked, read_table(data, graph=asked), alpha=alpha, test=cast(IndependenceTest, test))
    typer.echo(json.dumps(found.to_dict()) if as_json else str(found))
    if not found.passed:
        raise typer.Exit(1)


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; a traceback only with --debug."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        with warnings.catch_warnings():
            if not debug:  # a line, without the place in the code
                warnings.showwarning = lambda message, *_, **__: typer.echo(f"warning: {message}", err=True)
            code = app(arguments, standalone_mode=False)
        if code == _INTERRUPTED:
            typer.echo("Stopped.", err=True)
            return 3
        return int(code or 0)
    except (CausalCFError, OSError) as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        return 3 if isinstance(error, AbductionError) else 2
    except Exception as error:  # the outermost call: whatever went wrong, a user gets a line and an exit code, --debug the rest
        if debug:
            raise
        usage = getattr(error, "format_message", None)  # click's own usage errors
        typer.echo(f"error: {usage() if usage else f'{type(error).__name__}: {error}. Run with --debug to see where.'}", err=True)
        return 2 if usage else 3


if __name__ == "__main__":
    sys.exit(main())
