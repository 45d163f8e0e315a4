"""The commands about data on disk: `causalcf data check | phantom`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from causalcf.cli_options import Json, Seed
from causalcf.errors import DataError

__all__ = ["data"]

data = typer.Typer(help="Look at a study's data on disk, or draw a look-alike of them.", no_args_is_help=True)

_MANY = 1000  # pictures from which on it pays to start processes that draw

Study = Annotated[
    str,
    typer.Argument(
        help="celebahq, celebahq_dependent, celebahq_mouth, celeba, mimic_cxr, embed or morphomnist; for a folder of your own, "
        "a graph, by name or as a file."
    ),
]
Directory = Annotated[
    Path, typer.Argument(help="Where the data are, as released; or a folder with metadata.csv (file_name and the attributes).")
]


@data.command()
def check(
    study: Study,
    directory: Directory,
    every: Annotated[bool, typer.Option("--every", help="Decode every image, not some of every split.")] = False,
    person: Annotated[str | None, typer.Option(help="Of a folder, the column that says who a row is of.")] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Of a folder, crop and scale images to the graph's size.")] = False,
    as_json: Json = False,
) -> None:
    """Say which file or column is missing and how to get it, what the filters drop, and what is in every split."""
    from causalcf.datasets.readers import check_data

    found = check_data(study, directory, every=every, person=person, resize=resize)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        _print(found)
    if found["missing"]:
        raise DataError(found["missing"])


def _print(found: Mapping[str, Any]) -> None:
    for reason, count in found["dropped"].items():
        typer.echo(f"dropped {count}: {reason}")
    typer.echo(", ".join(f"{name} {count}" for name, count in found["splits"].items()))
    for name, told in found["attributes"].items():
        words = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in told.items())
        typer.echo(f"{name}: {', '.join(words)}")
    whole = found["images_decoded"] == found["images"] - found["images_missing"]
    rest = "" if whole else ", some of every split; --every decodes all"
    typer.echo(f"decoded {found['images_decoded']} of {found['images']} images{rest}; what was looked at can be read")
    if found["images_missing"]:
        typer.echo(f"missing {found['images_missing']} of {found['images']} images")
    if found["splits_lacking"]:
        typer.echo(f"no rows of split {', '.join(found['splits_lacking'])}: causalcf fit needs them")


@data.command()
def phantom(
    study: Annotated[str, typer.Argument(help="celebahq, celebahq_dependent, mimic_cxr or embed.")],
    directory: Annotated[Path, typer.Argument(help="A new directory.")],
    n: Annotated[int, typer.Option(help="Images.", min=10)] = 1000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw a look-alike of a study's data, in their released layout, from equations that are known."""
    from joblib import cpu_count

    from causalcf.datasets.phantoms.studies import phantom as find_phantom

    start = time.monotonic()
    jobs = cpu_count() if n > _MANY else 1
    find_phantom(study, seed=seed).write(directory, n, jobs=jobs, progress=not as_json)
    seconds = round(time.monotonic() - start, 1)
    told = {"study": study, "directory": str(directory), "images": n, "seed": seed, "seconds": seconds}
    typer.echo(
        json.dumps(told) if as_json else f"{directory}: {n} images in {seconds} s. Look: causalcf data check {study} {directory}"
    )
