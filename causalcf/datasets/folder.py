"""A folder of images with a table of their attributes: how users bring data of their own.

    DIR/metadata.csv    or .jsonl, .parquet: `file_name`, relative to DIR, and a column for every attribute of the graph
    DIR/...             the images: PNG, JPEG, TIFF (8 or 16 bits, or numbers from 0 to 1), NPY, DICOM

or a folder a split, `train`, `valid` and `test` or as they are called there otherwise (`training`, `val`, `dev`, `eval` and so
on, in any case), each with its own table and images.

This is the layout that Hugging Face's datasets call imagefolder, https://huggingface.co/docs/datasets/image_dataset.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd

from causalcf.batch import Batch
from causalcf.datasets.released import SPLITS, Released, check_people, split_by
from causalcf.errors import DataError
from causalcf.graph import CausalGraph
from causalcf.image_files import ImageFiles, read_image
from causalcf.metrics import check_groups
from causalcf.tables import read_table

__all__ = ["is_folder", "read_folder", "split_folder"]

_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE = "file_name"
_NAMES = {"train": "train", "training": "train", "validation": "valid", "valid": "valid", "val": "valid", "dev": "valid",
          "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}  # fmt: skip


def _tables(folder: Path) -> list[Path]:
    return [folder / name for name in _TABLES if os.path.isfile(folder / name)]  # False where one may not look


def _parts(folder: Path) -> dict[Path, str]:
    """The folders that are called as a split is, and which split each is."""
    inside = folder.iterdir() if folder.is_dir() else ()
    found = [(_NAMES[path.name.lower()], path) for path in inside if path.name.lower() in _NAMES and path.is_dir()]
    return {path: split for split, path in sorted(found, key=lambda part: (SPLITS.index(part[0]), part[1]))}


def _check_parts(folder: Path, parts: Mapping[Path, str]) -> None:
    """That in a folder without a table no other folder than those of splits has one, and of those all or none."""
    odd = sorted(path.name for path in folder.iterdir() if path not in parts and _tables(path))
    if odd:
        raise DataError(
            f"folder '{folder}' has a table in {', '.join(odd)}, which is no name of a split: those are {', '.join(_NAMES)}. "
            "Rename it, move it away, or read it alone."
        )
    bare = [path.name for path in parts if not _tables(path)]
    if bare and len(bare) < len(parts):
        raise DataError(
            f"folder '{folder}' has a table for every split but {', '.join(bare)}. Put one there, {' or '.join(_TABLES)}, or "
            "move that away."
        )


def is_folder(directory: str | Path) -> bool:
    """Whether a directory is a folder of images with its table, or has such a folder a split."""
    return bool(_tables(Path(directory))) or any(map(_tables, _parts(Path(directory))))


def _table(folder: Path, graph: CausalGraph) -> pd.DataFrame:
    """The table of a folder, `file_name` relative to that; of folders of splits theirs, one after another."""
    found = _tables(folder)
    parts = {} if found else _parts(folder)
    if not found:
        _check_parts(folder, parts)
    if any(map(_tables, parts)):
        tables = [_table(part, graph).assign(split=split) for part, split in parts.items()]
        for part, table in zip(parts, tables, strict=True):
            table[_FILE] = [f"{part.name}/{name}" for name in table[_FILE]]
        return pd.concat(tables, ignore_index=True)
    if len(found) != 1:
        what = f"has {' and '.join(path.name for path in found)}: keep one" if found else f"has none of {', '.join(_TABLES)}"
        raise DataError(f"folder '{folder}' {what}. It is a table with '{_FILE}' and a column for every attribute.")
    frame = read_table(found[0], graph=graph)
    if _FILE not in frame.columns:
        raise DataError(f"'{found[0]}' has no column '{_FILE}'. Its columns are: {', '.join(map(str, frame.columns))}.")
    if frame[_FILE].isna().any():
        raise DataError(
            f"'{found[0]}' has no {_FILE} in row {frame.index[frame[_FILE].isna()][0]}. Correct that row, or take it out."
        )
    return frame


def read_folder(
    folder: str | Path,
    graph: CausalGraph,
    *,
    index: str = _FILE,
    rows: int | None = None,
    resize: bool = False,
    jobs: int = 4,
    missing: Literal["refuse", "infer"] = "refuse",
) -> Batch:
    """The rows of a folder of images with a table, checked against a graph; an image is decoded when it is asked for.

    Args:
        folder: see the module; a folder a split.
        graph: with one image node.
        index: the column that names a row, whose random numbers are a function of it.
        rows: so many, from the first on; all unless told.
        resize: crop and scale images of another size.
        jobs: threads that decode.
        missing: what is done about missing attributes, see `causalcf.Batch`.

    Raises:
        DataError: there is no such folder, or the table does not fit the graph. A file that is missing, damaged, of another size
            or outside the folder is told when it is asked for.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder '{folder}'.")
    if len(graph.images) != 1:
        raise DataError(f"a folder has images for one image node; graph '{graph.name}' has {len(graph.images)}.")
    frame = _table(folder, graph).iloc[:rows]
    if index not in frame.columns:
        raise DataError(f"the table has no column '{index}' to name its rows. Columns: {', '.join(map(str, frame.columns))}.")
    node = graph.node(graph.images[0])
    files = ImageFiles(folder, frame[_FILE].astype(str).tolist(), node, read=partial(read_image, resize=resize), jobs=jobs)
    return Batch(graph, frame.set_index(index), {node.name: files}, missing)


def split_folder(
    folder: str | Path,
    graph: CausalGraph,
    *,
    index: str = _FILE,
    person: str | None = None,
    resize: bool = False,
    jobs: int = 4,
    missing: Literal["refuse", "infer"] = "refuse",
) -> Released:
    """The rows of a folder in splits: those of its column `split` (train, valid, test), or 70, 10 and 20 % of the people.

    Args:
        folder, graph, index, resize, jobs, missing: as for `read_folder`.
        person: the column that says who a row is of, so that nobody is in two splits; without it, or if it is the index, every
            row is of somebody else.

    Raises:
        DataError: as `read_folder`, there is no such column, it has a blank, or somebody is in two of the table's own splits.
    """
    batch = read_folder(folder, graph, index=index, resize=resize, jobs=jobs, missing=missing)
    frame = batch.frame
    person = None if person == index else person
    if person is not None and person not in frame.columns:
        raise DataError(
            f"there is no column '{person}' that says who a row is of. Columns: {', '.join(map(str, frame.columns))}."
        )
    if person is not None:
        check_groups(frame, person)
    dealt = "split" not in frame.columns
    if dealt:
        people = frame.index.to_series() if person is None else frame[person]
        frame = frame.assign(split=split_by(people, {"train": 0.7, "valid": 0.1, "test": 0.2}, 0).to_numpy())
    odd = sorted(set(map(str, frame["split"])) - set(SPLITS))
    if odd:
        raise DataError(f"the column split has '{odd[0]}'. It holds {', '.join(SPLITS)}.")
    if person is not None and not dealt:
        check_people(
            frame,
            person,
            "Correct the column split, drop it to have people dealt out, or do not say who a row is of (person, --person).",
        )
    return Released(Batch(graph, frame, batch.images, missing), {}, person, dealt, dealt)
