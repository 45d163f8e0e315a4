"""A folder of images with a table of their attributes: how users bring data of their own.

    DIR/metadata.csv    or .jsonl, .parquet: `file_name`, relative to DIR, and a column for every attribute of the graph
    DIR/...             the images: PNG, JPEG, TIFF (8 or 16 bits), NPY

This is the layout that Hugging Face's datasets call imagefolder, https://huggingface.co/docs/datasets/image_dataset.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from causalcf.batch import Batch
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, Node
from causalcf.tables import read_table

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["read_folder", "read_image"]

_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE = "file_name"


def _grey_levels(array: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """An array as grey levels 0..255: bytes as they are, 16 bits divided by 257, fractions of 1 multiplied by 255."""
    if array.dtype == np.uint8:
        return array.view(np.uint8)
    if array.dtype == np.uint16:
        return np.rint(array.astype(np.float64) / 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    raise DataError(f"'{path}' holds {array.dtype} numbers. An image is uint8, uint16, or numbers from 0 to 1.")


def _read_pillow(path: Path, channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        opened.load()
        image: Image.Image = opened
        if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits of grey; Pillow would clip them, not scale them
            deep = np.asarray(image)
            if deep.min() < 0 or deep.max() > 65535:
                raise DataError(f"'{path}' has grey levels from {deep.min()} to {deep.max()}. Write it with 8 or 16 bits.")
            image = Image.fromarray(_grey_levels(deep.astype(np.uint16), path))
        found = image.convert("L" if channels == 1 else "RGB")
        if size is not None and found.size != size:
            found = ImageOps.fit(found, size, Image.Resampling.LANCZOS)
        return np.asarray(found)


def read_image(path: str | Path, node: Node, *, resize: bool = False) -> NDArray[np.uint8]:
    """One image as an image node has it, uint8 (channel, height, width).

    Args:
        path: .png, .jpg, .jpeg, .tif, .tiff, or .npy with (height, width), (channel, height, width) or (height, width, channel).
        node: an image node, of 1 channel (colours are made grey) or 3.
        resize: crop the middle to the node's shape and scale it; without, another size is an error. Not of .npy.

    Raises:
        DataError: the file is missing, damaged or of another size.
    """
    path, (channels, height, width) = Path(path), node.shape or (1, 0, 0)
    if not path.is_file():
        raise DataError(f"there is no image '{path}'.")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy"):
        raise DataError(f"'{path}' is no image that causalcf reads: those end in .png, .jpg, .jpeg, .tif, .tiff or .npy.")
    try:
        if path.suffix.lower() == ".npy":
            pixels = _grey_levels(np.load(path), path)
        else:
            pixels = _read_pillow(path, channels, (width, height) if resize else None)
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow and numpy raise for damaged files
        raise DataError(f"cannot read the image '{path}': {str(error).splitlines()[0] if str(error) else error!r}.") from error
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and pixels.shape[0] != channels and pixels.shape[2] == channels:
        pixels = np.moveaxis(pixels, 2, 0)
    if pixels.shape != (channels, height, width):
        raise DataError(
            f"'{path}' is (channel, height, width) = {pixels.shape}, but the graph's '{node.name}' is "
            f"{(channels, height, width)}. Resize the files, or pass resize=True."
        )
    return np.ascontiguousarray(pixels)


def _table(folder: Path, graph: CausalGraph) -> pd.DataFrame:
    found = [folder / name for name in _TABLES if (folder / name).is_file()]
    if len(found) != 1:
        what = f"has {' and '.join(path.name for path in found)}: keep one" if found else f"has none of {', '.join(_TABLES)}"
        raise DataError(f"folder '{folder}' {what}. It is a table with '{_FILE}' and a column for every attribute.")
    frame = read_table(found[0], graph=graph)
    if _FILE not in frame.columns:
        raise DataError(f"'{found[0]}' has no column '{_FILE}'. Its columns are: {', '.join(map(str, frame.columns))}.")
    return frame


def read_folder(
    folder: str | Path, graph: CausalGraph, *, index: str = _FILE, rows: int | None = None, resize: bool = False, jobs: int = 4
) -> Batch:
    """The rows of a folder of images with a table, checked against a graph.

    Args:
        folder: see the module; a folder a split.
        graph: with one image node.
        index: the column that names a row, whose random numbers are a function of it.
        rows: so many, from the first on; all unless told.
        resize: crop and scale images of another size.
        jobs: threads that decode.

    Raises:
        DataError: a file is missing, damaged, of another size or outside the folder, or the table does not fit the graph.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder '{folder}'.")
    if len(graph.images) != 1:
        raise DataError(f"a folder has images for one image node; graph '{graph.name}' has {len(graph.images)}.")
    frame = _table(folder, graph).iloc[:rows]
    if index not in frame.columns:
        raise DataError(f"the table has no column '{index}' to name its rows. Columns: {', '.join(map(str, frame.columns))}.")
    node, root = graph.node(graph.images[0]), folder.resolve()
    paths = [folder / str(name) for name in frame[_FILE]]
    strays = [path for path in paths if not path.resolve().is_relative_to(root)]
    if strays:
        raise DataError(f"'{strays[0]}' lies outside '{folder}'. A {_FILE} is a path inside the folder.")
    frame = Batch(graph, frame.set_index(index)).frame  # the table's faults are told before any decoding
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        images = list(pool.map(lambda path: read_image(path, node, resize=resize), paths))
    return Batch(graph, frame, {node.name: np.stack(images)})
