"""The command that repeats the paper's experiments: `causalcf reproduce`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causalcf.cli_fit import fit_study
from causalcf.cli_options import Json, Out, refuse
from causalcf.errors import DataError

if TYPE_CHECKING:
    from causalcf.batch import Batch
    from causalcf.reproduction import Reproduction

__all__ = ["finish", "reproduce"]


_COMPARED = 8  # rows of a phantom that must be as it draws them
_APART = 2.0  # grey levels from there: another seed's are tens apart


def _truth(study: str, seed: int, rows: Batch, data: Path) -> Callable[[Any], Any]:
    """From an answer to the pictures that its attributes give, where the data are the phantom of this seed."""
    import numpy as np

    from causalcf.datasets.phantoms.studies import phantom
    from causalcf.metrics import image_distance

    (image,) = rows.graph.images
    drawn = phantom(study, seed=seed, read_at=max((rows.graph.node(image).shape or (1, 64, 64))[1:]))
    some = rows.rows(np.arange(min(_COMPARED, len(rows))))
    apart = float(image_distance(drawn.images(some.frame), some.images[image][:]).mean())
    if apart > _APART:
        raise DataError(
            f"the images in '{data}' are not those of the phantom of seed {seed}, but {apart:.0f} grey levels from them. Give "
            "the seed that they were drawn with, or leave --phantom out: of other data no true counterfactual is known."
        )
    return lambda answer: drawn.images(answer.frame)


def reproduce(
    study: Annotated[str, typer.Argument(help="celebahq, celebahq_dependent, celebahq_mouth, mimic_cxr, embed or morphomnist.")],
    out: Out,
    data: Annotated[
        Path | None, typer.Option("--data", help="The study's data as released, or a phantom of them; morphomnist needs none.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Fitted before, a directory or a shipped one; unless told OUT/model, which is fitted if it is not there."
        ),
    ] = None,
    weights: Annotated[list[float] | None, typer.Option("--weight", help="Of guidance: 1, 1.5, 2, 2.5, 3; again.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Each asks rows of its own: 0, 1, 2; again.")] = None,
    n: Annotated[int, typer.Option(help="Held-out rows a seed.", min=2)] = 64,
    again_rows: Annotated[int, typer.Option(help="So many of them go there and back.", min=2)] = 32,
    levels: Annotated[int | None, typer.Option(help="Noise levels each way; the model's own unless told.", min=2)] = None,
    groups: Annotated[
        str | None, typer.Option(help="A column, such as the patient: intervals draw its groups as a whole.")
    ] = None,
    phantom: Annotated[
        int | None,
        typer.Option(help="The data are the phantom of this seed: compare with the true counterfactual images.", min=0),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps, where a model is fitted.")] = None,
    paper_size: Annotated[
        bool, typer.Option("--paper-size", help="Images and network as large as in the paper, where a model is fitted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Repeat the experiments of the paper of decoupled guidance on a study: one command from the data to figures and tables.

    OUT has the results of the seeds that are through while others still run.
    """
    from causalcf.datasets.phantoms.studies import phantom as find_phantom
    from causalcf.datasets.readers import held_out
    from causalcf.recipes import recipe
    from causalcf.reproduction import reproduce as experiments
    from causalcf.store import load

    start = time.monotonic()
    if data is None and study != "morphomnist":
        raise DataError(f"where are the data of {study}? Give --data; causalcf data phantom draws a look-alike.")
    if data is None:
        refuse({"--phantom": phantom}, "without --data: the rows are no phantom's. Give the phantom, or leave that out.")
    if phantom is not None:
        find_phantom(study, seed=phantom)  # before anything is fitted
    source = model or str(out / "model")
    if model is not None:
        refuse({"--steps": steps, "--paper-size": paper_size}, "with --model, which is fitted. Leave one of the two out.")
    elif not (out / "model").is_dir():
        asked: dict[str, Any] = {"steps": steps} if steps else {}
        fit_study(study, data, out / "model", asked, paper_size=paper_size, show=not as_json)
    scm = load(source)
    if scm.graph.name != study:
        raise DataError(f"'{source}' is a model of {scm.graph.name}, not of {study}. Give another --model, or that study.")
    if model is None:
        made = (scm.manifest or {}).get("made", {})
        fitted = [made.get("images", {}).get(scm.graph.images[0], {}).get("steps"), "--paper-size" in made.get("command", "")]
        asked_otherwise = {"--steps": steps not in (None, fitted[0]), "--paper-size": paper_size and not fitted[1]}
        refuse(asked_otherwise, f"to '{source}', which was fitted otherwise. Leave that out, or give another --out.")
    if data is None:
        rows, truth = recipe(study).batch("test", min(n * len(seeds or range(3)), 1000), 0, 1), recipe(study).truth
    else:
        rows = held_out(scm, data, split="test")
        truth = None if phantom is None else _truth(study, phantom, rows, data)
    asked_of: dict[str, Any] = {"weights": weights} if weights else {}
    asked_of |= {"seeds": seeds} if seeds else {}

    def keep(so_far: Reproduction) -> None:
        so_far.save(out)

    found = experiments(
        scm, rows, rows=n, again_rows=again_rows, steps=levels, groups=groups, truth=truth, study=study,
        progress=not as_json, watch=keep, **asked_of,
    )  # fmt: skip
    finish(found, out, as_json, start)


def finish(found: Reproduction, out: Path, as_json: bool, start: float) -> None:
    """Write what the experiments gave, and print it; `start` is when they began, by the monotonic clock."""
    paths = {name: str(path) for name, path in found.save(out).items()}
    seconds = round(time.monotonic() - start, 1)
    if as_json:
        typer.echo(json.dumps({**found.to_dict(), "files": paths, "seconds": seconds}))
        return
    typer.echo(found)
    for path in paths.values():
        typer.echo(path)
    typer.echo(f"{found.settings['rows']} rows in {seconds} s")
