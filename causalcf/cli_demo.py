"""The command that shows what causalcf does: `causalcf demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from causalcf.cli_audit import audit_model
from causalcf.cli_options import Json, Out, Seed
from causalcf.cli_reproduce import finish
from causalcf.errors import DataError

__all__ = ["demo"]

_FACES = "celebahq_dependent"  # the shipped model of drawn faces
_UNSEEN = 1  # added to the seed of the phantom: the model was fitted to that of seed 0
_WEIGHTS = (1.0, 2.5)
_LEVELS = 20  # of noise each way, not the model's 25: two minutes are enough of a demo
_DEPENDENT = (
    "A ratio above 1 off target is no verdict on these faces: no woman here has a beard, so that a judge reads a man wherever\n"
    "it sees one, and a rule that draws a clearer beard moves that reading more. Look at the way back, and at images.png."
)


def demo(
    out: Out = Path("causalcf-demo"),
    study: Annotated[
        str, typer.Option(help="morphomnist, real digits; or celebahq, drawn faces under both kinds of guidance.")
    ] = "morphomnist",
    n: Annotated[int | None, typer.Option(help="Held-out rows: 64 digits or 16 faces unless told.", min=2, max=1000)] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Ask counterfactuals of held-out images with a shipped model, and audit the answers.

    Digits: do(thickness), do(intensity) and do(digit). Faces: age and sex bring beard and baldness; what classifier-free and
    decoupled guidance show of what was asked, and what else they change, weight by weight.
    """
    if study == "morphomnist":
        rows = n or 64
        audit_model("morphomnist", rows, out, seed, as_json, asked={"again_rows": min(rows, 6)})
    elif study in ("celebahq", _FACES):
        _faces(out, n or 16, seed, as_json)
    else:
        raise DataError(f"there is no demo of '{study}'. Demos are: morphomnist, celebahq.")


def _faces(out: Path, rows: int, seed: int, as_json: bool) -> None:
    from causalcf.datasets.phantoms.studies import phantom
    from causalcf.reproduction import reproduce
    from causalcf.store import load

    start = time.monotonic()
    scm, drawn = load(_FACES), phantom(_FACES, seed=seed + _UNSEEN)
    found = reproduce(
        scm, drawn.batch(rows), weights=_WEIGHTS, forms=("nested",), adjusted=False, seeds=[seed], rows=rows,
        again_rows=min(rows, 16), steps=_LEVELS, truth=lambda answer: drawn.images(answer.frame), progress=not as_json,
    )  # fmt: skip
    finish(found, out, as_json, start)
    if not as_json:
        typer.echo(_DEPENDENT)
