"""Options that several commands share, as typer declares them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from causalcf.guidance import Guidance

__all__ = ["Dos", "Index", "Json", "Out", "Rule", "Seed", "Table", "TableOut", "read_guidance"]

Out = Annotated[Path, typer.Option("--out", help="Directory to write to.")]
Seed = Annotated[int, typer.Option(help="Everything random is a function of it.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Table = Annotated[Path, typer.Option("--data", help="A table: .csv, .tsv, .jsonl or .parquet.")]
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


def read_guidance(text: str | None) -> Guidance | None:
    """The rule that --guidance names; None is the model's own."""
    from causalcf.guidance import parse_guidance

    return None if text is None else parse_guidance(text)
