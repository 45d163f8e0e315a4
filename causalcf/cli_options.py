"""Options that several commands share, as typer declares them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from causalcf.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from causalcf.batch import Batch
    from causalcf.guidance import Guidance
    from causalcf.scm import SCM
    from causalcf.solvers import Solver

__all__ = [
    "Dos",
    "Index",
    "Json",
    "Out",
    "Resize",
    "Rows",
    "Rule",
    "Seed",
    "SolverName",
    "Split",
    "Steps",
    "Table",
    "TableOut",
    "of_split",
    "read_guidance",
    "read_solver",
    "read_steps",
    "refuse",
    "refuse_absent",
    "refuse_of_images",
    "rows_of",
]

Out = Annotated[Path, typer.Option("--out", help="Directory to write to.")]
Seed = Annotated[int, typer.Option(help="Everything random is a function of it.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Table = Annotated[Path, typer.Option("--data", help="A table: .csv, .tsv, .jsonl or .parquet.")]
Rows = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="A folder with metadata.csv (file_name and the attributes) and images, a study's data as released, or, for a model "
        "of attributes, a table; not needed by a study that has rows of its own.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="Of --data: test, valid, train or all; test unless told, and all where a folder or table has no splits."),
]
Resize = Annotated[bool, typer.Option("--resize", help="Crop and scale images of another size.")]
Index = Annotated[
    str | None, typer.Option("--index", help="The column that names a row; Parquet's own index or the row number unless told.")
]
Dos = Annotated[
    list[str] | None,
    typer.Option(
        "--do", help="NODE=VALUE, NODE+=NUMBER or NODE*=NUMBER, several with commas between. Again for another scenario."
    ),
]
TableOut = Annotated[Path | None, typer.Option("--out", help="The table to write: .csv, .tsv, .jsonl or .parquet.")]
Rule = Annotated[
    str | None,
    typer.Option(
        help="plain, cfg:W, paper:W, anchored:W or nested:W with a weight W, or nested:digit=2.5|thickness=1.2 by name, affected "
        "before invariant. @LOW-HIGH after it is an interval of timesteps; apg+, rescale+ or cfg+++ in front adjusts it."
    ),
]

Steps = Annotated[
    str | None,
    typer.Option(help="Noise levels each way, or auto: the fewest that give images back; the model's own unless told."),
]
SolverName = Annotated[
    str | None,
    typer.Option(
        "--solver",
        help="FixedPoint, Anderson, DDIM, Heun, DPMSolverPP, OBELM, EDICT or EditFriendly; the model's own unless told.",
    ),
]


def read_steps(text: str | None) -> int | Literal["auto"] | None:
    """The count of levels that --steps names; None is the model's own."""
    return cast(Literal["auto"] | None, text) if text is None or not text.isdecimal() else int(text)


def read_solver(name: str | None) -> Solver | None:
    """The solver that --solver names; None is the model's own."""
    from causalcf.solvers import solver_from_dict

    return solver_from_dict({"solver": name}) if name else None


def read_guidance(text: str | None) -> Guidance | None:
    """The rule that --guidance names; None is the model's own."""
    from causalcf.guidance import parse_guidance

    return None if text is None else parse_guidance(text)


def refuse(options: Mapping[str, object], what: str) -> None:
    """Refuse the options that were given, if any were: None and False are of those that were not."""
    given = [name for name, value in options.items() if value is not None and value is not False]
    if given:
        raise DataError(f"{', '.join(given)} {'do' if len(given) > 1 else 'does'} not apply {what}")


def refuse_absent(data: Path) -> None:
    """Refuse a path where nothing is; of one that ends as a table does, `causalcf.read_table` says so."""
    from causalcf.tables import is_table

    if not data.exists() and not is_table(data):
        raise DataError(f"'{data}' is no table and no directory: there is no such file or directory. Correct --data.")


def refuse_of_images(scm: SCM, model: str, **options: object) -> None:
    """Refuse the options of images, by their names, where the model has none."""
    if not scm.graph.images:
        refuse({f"--{name}": value for name, value in options.items()}, f"to '{model}', a model without images. Leave that out.")


def rows_of(
    scm: SCM,
    data: Path | None,
    *,
    own: Literal["test", "valid"] = "test",
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    index: str | None = None,
    resize: bool = False,
    missing: Literal["refuse", "infer"] = "refuse",
) -> Batch:
    """The rows that --data, --split and --n name.

    Args:
        scm: which is asked about them.
        data: a directory, a table, or None for the rows that the model's study has of its own.
        own: the split of those.
        split: of a directory, see `causalcf.held_out`; of a table with a column `split`, that to which rows belong there, `test`
            unless told.
        index, resize: of a directory, see `causalcf.held_out`.
        n: so many at most: of a directory from all over it, of a table the first.
        seed: of those that a study draws.
        missing: what is done about missing attributes of a table or a folder.

    Raises:
        DataError: the study has no rows of its own, the table has no splits but one was named, an option does not apply, or as
            `causalcf.held_out`.
    """
    from causalcf.batch import Batch
    from causalcf.datasets.readers import held_out
    from causalcf.datasets.released import spread
    from causalcf.recipes import RECIPES
    from causalcf.tables import read_table

    if data is None:
        if scm.graph.name not in RECIPES:
            raise DataError(f"there are no held-out rows of '{scm.graph.name}' in causalcf. Give --data, a directory or a table.")
        refuse({"--split": split, "--index": index, "--resize": resize}, "without --data. Give that, or leave the rest out.")
        return RECIPES[scm.graph.name].batch(own, n or 64, seed, 1)
    if data.is_dir():
        return spread(held_out(scm, data, split=split, index=index, resize=resize, missing=missing), n)
    refuse_absent(data)
    frame = of_split(read_table(data, index=index, graph=scm.graph), split, data)
    refuse({"--resize": resize}, f"to '{data}', a table without images. Leave that out.")
    return Batch(scm.graph, frame.iloc[:n], missing=missing)


def of_split(frame: pd.DataFrame, split: str | None, path: Path) -> pd.DataFrame:
    """The rows of a table that its column `split` says are of a split; all of them, if it has no such column."""
    if "split" not in frame.columns:
        if split not in (None, "all"):
            raise DataError(f"'{path}' has no column 'split', and so no rows of split '{split}'. Add one, or ask for all.")
        return frame
    part = split or "test"
    found = frame if part == "all" else frame[frame["split"] == part]
    if found.empty:
        counts = ", ".join(f"{name} ({count})" for name, count in frame["split"].value_counts().items())
        raise DataError(f"'{path}' has no rows of split '{part}'. Splits are: {counts}. Name one, or all (--split).")
    return found
