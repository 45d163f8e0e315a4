"""The readers of released data sets by the name of their study, and what a look at a directory tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.datasets.celeba import read_celeba, read_celebahq
from causalcf.datasets.embed import read_embed
from causalcf.datasets.folder import is_folder, split_folder
from causalcf.datasets.mimic_cxr import read_mimic_cxr
from causalcf.datasets.morphomnist_release import read_morphomnist
from causalcf.datasets.released import Released
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, load_graph
from causalcf.image_files import ImageFiles

if TYPE_CHECKING:
    from causalcf.scm import SCM

__all__ = ["READERS", "check_data", "held_out", "is_study", "open_data", "read_study"]

READERS: dict[str, Callable[..., Released]] = {
    "celebahq": read_celebahq,
    "celebahq_dependent": read_celebahq,
    "celebahq_mouth": read_celebahq,
    "celeba": read_celeba,
    "mimic_cxr": read_mimic_cxr,
    "embed": read_embed,
    "morphomnist": read_morphomnist,
}
_LOOKED_AT = 16  # images of every split that are decoded
_FITTED = ("train", "judge", "valid")  # the splits that fitting needs


def read_study(study: str, directory: str | Path, graph: CausalGraph | None = None, *, jobs: int = 4) -> Released:
    """A study's data as they are released.

    Args:
        study: `celebahq`, `celebahq_dependent`, `celebahq_mouth`, `celeba`, `mimic_cxr`, `embed` or `morphomnist`.
        directory: where they are.
        graph: instead of the study's ready-made one, for instance at another size.
        jobs: threads that decode.

    Raises:
        DataError: there is no such study, or a file or column is missing.
    """
    if study not in READERS:
        raise DataError(f"there is no reader for '{study}'. Readers are: {', '.join(READERS)}.")
    if not Path(directory).is_dir():
        raise DataError(f"there is no directory '{directory}'.")
    return READERS[study](directory, graph or load_graph("celebahq" if study == "celeba" else study), jobs=jobs)


def is_study(graph: CausalGraph, directory: str | Path) -> bool:
    """Whether a directory has a study's data as released, and not a folder of images with its table."""
    return _is_released(graph.name, directory)


def _is_released(study: str, directory: str | Path) -> bool:
    return study in READERS and not is_folder(directory)


def _refuse_of_folder(study: str, directory: str | Path, asked: object) -> None:
    """Refuse what only the rows of a folder are asked with."""
    if asked:
        raise DataError(
            f"'{directory}' is {study} as released, which says itself what a row is called, who it is of and how it is scaled. "
            "Leave index, person and resize (--index, --person, --resize) out."
        )


def open_data(
    graph: CausalGraph,
    directory: str | Path,
    *,
    index: str | None = None,
    person: str | None = None,
    resize: bool = False,
    missing: Literal["refuse", "infer"] = "refuse",
) -> Released:
    """The data in a directory in splits: a folder of images with its table, or a study's data as released.

    Args:
        graph: whose name tells the study, if there is no `metadata` table in the directory.
        directory: where they are.
        index, person, resize, missing: of a folder, see `causalcf.datasets.folder.split_folder`.

    Raises:
        DataError: it is neither, or something in it is missing or damaged.
    """
    if is_study(graph, directory):
        _refuse_of_folder(graph.name, directory, index or person)
        return read_study(graph.name, directory, graph)
    return split_folder(directory, graph, index=index or "file_name", person=person, resize=resize, missing=missing)


def held_out(
    scm: SCM,
    directory: str | Path,
    *,
    split: str | None = None,
    index: str | None = None,
    resize: bool = False,
    missing: Literal["refuse", "infer"] = "refuse",
) -> Batch:
    """The rows of a directory that a model was not fitted to, dealt out as they were for fitting; images stay on disk.

    Args:
        scm: fitted by `causalcf fit --data`, whose manifest says how the data were read, or to other data.
        directory: a folder of images with its table, or a study's data as released.
        split: `test`, `valid`, `train`, `judge` or `all`. Unless told `test`; or all rows, if the data have no splits of their
            own and the model was not fitted to them.
        index: of a folder, the column that names a row; as in fitting unless told.
        resize: of a folder, crop and scale images of another size; as in fitting unless told.
        missing: of a folder, what is done about missing attributes, see `causalcf.Batch`.

    Raises:
        DataError: something in the directory is missing or damaged, there is no such split, or the rows would be dealt out
            otherwise than for fitting, as others are among them.
    """
    made: dict[str, Any] = (scm.manifest or {}).get("made", {}).get("data") or {}
    released = open_data(
        scm.graph,
        directory,
        index=index or made.get("index"),
        person=made.get("person"),
        resize=resize or bool(made.get("resize")),
        missing=missing,
    )
    part = split or ("test" if made.get("dealt") or not released.dealt else "all")
    if part == "all":
        return released.batch
    if released.drawn and made.get("people", released.people) != released.people:
        raise DataError(
            f"the {'people' if released.person else 'rows'} in '{directory}' are not those that were dealt out when the model "
            "was fitted, so that who was held out is not known. Give the table a column 'split' (train, valid, test); or, if the "
            "model was fitted to none of them, ask for all (split='all', --split all)."
        )
    return released.split(part)


def _tell_missing(images: ImageFiles, absent: Sequence[str]) -> str:
    """How many images are not there, and how they can be got."""
    try:
        images.read(images.root / absent[0], images.node)
    except DataError as error:
        return f"{len(absent)} of {len(images)} images are missing: {error} Or take their rows out of the table."
    return f"{len(absent)} of {len(images)} images were missing, and some of them have come since. Look again."


def _has_rows(found: Released, split: str) -> bool:
    try:
        return bool(len(found.split(split)))
    except DataError:
        return False


def check_data(
    study: str, directory: str | Path, *, every: bool = False, person: str | None = None, resize: bool = False
) -> dict[str, Any]:
    """What is in a directory of data: rows by split, what filters dropped, how attributes are distributed, what is missing.

    Of the images that are there the first of every split, and as many from all over it, are decoded.

    Args:
        study: its name; or a graph, by name or as a file, where the directory is a folder of images with its table.
        directory: where the data are.
        every: decode every image.
        person, resize: of a folder, see `causalcf.datasets.folder.split_folder`.

    Raises:
        DataError: a file or a column is missing, or an image is damaged.
    """
    if _is_released(study, directory):
        _refuse_of_folder(study, directory, person or resize)
        found = read_study(study, directory)
    else:
        found = split_folder(directory, load_graph(study), person=person, resize=resize)
    graph, frame = found.batch.graph, found.batch.frame
    images = found.batch.images[graph.images[0]]
    absent = images.missing() if isinstance(images, ImageFiles) else []
    there = ~pd.Index(images.names).isin(absent) if absent else np.ones(len(frame), dtype=bool)
    seen = 0
    for split in frame.loc[there, "split"].unique():
        part = found.batch.rows(np.flatnonzero((frame["split"] == split) & there))
        places = np.unique(np.r_[: min(_LOOKED_AT, len(part)), np.linspace(0, len(part) - 1, _LOOKED_AT).astype(int)])
        for some in np.array_split(np.arange(len(part)), -(-len(part) // 256)) if every else [places]:
            seen += len(part.images[graph.images[0]][some])
    attributes: dict[str, Any] = {}
    for name in graph.attributes:
        column = frame[name]
        if graph.node(name).discrete:
            attributes[name] = {str(state): int((column == state).sum()) for state in graph.node(name).states or ()}
        else:
            attributes[name] = {"mean": float(column.mean()), "least": float(column.min()), "most": float(column.max())}
    splits = {str(name): int(count) for name, count in frame["split"].value_counts().items()}
    return {"study": study, "splits": splits, "dropped": dict(found.dropped), "attributes": attributes, "images": len(frame),
            "images_decoded": seen, "images_missing": len(absent), "missing": _tell_missing(images, absent) if absent else None,
            "splits_lacking": [name for name in _FITTED if not _has_rows(found, name)]}  # fmt: skip
