"""Images on disk, decoded when they are asked for: PNG, JPEG, TIFF (8 or 16 bits, or numbers from 0 to 1), NPY, DICOM."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalcf.errors import DataError
from causalcf.graph import Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SUFFIXES", "ImageFiles", "read_image", "scale_image"]

# what Pillow, numpy and pydicom raise for damaged files
_DAMAGED = (OSError, ValueError, TypeError, SyntaxError, EOFError, AttributeError, struct.error)
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".dcm", ".dicom")

# ------------------------------------------------------------------ one image


def _grey_levels(array: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """An array as grey levels 0..255: bytes as they are, 16 bits divided by 257, fractions of 1 multiplied by 255."""
    if array.dtype == np.uint8:
        return array.view(np.uint8)
    if array.dtype == np.uint16:
        return np.rint(array.astype(np.float64) / 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    raise DataError(f"'{path}' holds {array.dtype} numbers. An image is uint8, uint16, or numbers from 0 to 1.")


def _unreadable(path: Path, error: Exception) -> DataError:
    """What is wrong with a file, in one line: of packages that it would need, pydicom names each on a line of its own."""
    first, *rest = [line.strip() for line in str(error).splitlines()] or [repr(error)]
    told = f"{first} {'; '.join(rest)}".rstrip(" .")
    return DataError(f"cannot read the image '{path}': {told}.")


def _read_dicom(path: Path) -> NDArray[np.uint8]:
    """Grey levels as the file's own window shows them, dark to bright; without one, from the least value to the greatest.

    Colours of 8 bits are as they are.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        raise DataError(f"'{path}' is DICOM, which needs pydicom: pip install 'causalcf[medical]'.") from error
    try:
        file = pydicom.dcmread(path)
        values, ends = apply_modality_lut(file.pixel_array, file), np.array([-np.inf, np.inf])
        if file.get("VOILUTSequence"):
            values = np.rint(values).astype(np.int64)  # places in a table of grey levels
        else:
            ends = apply_voi_lut(ends, file)  # black and white of the window; infinite as they were, if there is none
        shown = np.asarray(apply_voi_lut(values, file), dtype=np.float64)
    except (*_DAMAGED, InvalidDicomError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    colours = values.dtype == np.uint8 and file.get("SamplesPerPixel") == 3
    low, high = ends if np.isfinite(ends).all() else (0, 255) if colours else (shown.min(), shown.max())
    shares = (shown - low) / (high - low) if high != low else np.zeros_like(shown)
    if file.get("PhotometricInterpretation") == "MONOCHROME1":
        shares = 1 - shares
    return np.rint(shares * 255).astype(np.uint8)


def _pillow(pixels: Any, path: Path) -> Any:
    """What Pillow opened, with 16 bits or fractions of grey scaled to 8 bits; Pillow itself would clip them."""
    from PIL import Image

    if pixels.mode == "F":
        return Image.fromarray(_grey_levels(np.asarray(pixels), path))
    if not (pixels.mode.startswith("I;16") or pixels.mode == "I"):
        return pixels
    deep = np.asarray(pixels)
    if deep.min() < 0 or deep.max() > 65535:
        raise DataError(f"'{path}' has grey levels from {deep.min()} to {deep.max()}. Write it with 8 or 16 bits.")
    return Image.fromarray(_grey_levels(deep.astype(np.uint16), path))


def _wrong_size(path: Path, found: tuple[int, int], size: tuple[int, int]) -> DataError:
    return DataError(
        f"'{path}' is {found[0]} pixels wide and {found[1]} high, but the graph's image is {size[0]} wide and {size[1]} high. "
        "Resize the files, or ask for it (resize=True, --resize)."
    )


def _open(path: Path, size: tuple[int, int] | None) -> Any:
    """The image in a file as Pillow has it; one of another width and height, if they are given, is an error."""
    from PIL import Image, ImageOps

    suffix = path.suffix.lower()
    if suffix in (".dcm", ".dicom"):
        return Image.fromarray(_read_dicom(path))
    if suffix == ".npy":
        array = _grey_levels(np.load(path), path)
        if array.ndim != 2 and not (array.ndim == 3 and {array.shape[0], array.shape[2]} & {1, 3}):
            raise DataError(
                f"'{path}' has the shape {array.shape}. An image is (height, width), or has 1 or 3 channels, first or last: "
                "write only the channels that are wanted."
            )
        if array.ndim == 3 and array.shape[0] in (1, 3):
            array = np.moveaxis(array, 0, 2)
        return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)
    with Image.open(path) as opened:
        pages = getattr(opened, "n_frames", 1) if opened.format == "TIFF" else 1
        if pages > 1:
            raise DataError(f"'{path}' has {pages} pages. An image is one: write the page that is wanted to a file of its own.")
        if size is not None and sorted(opened.size) != sorted(size):  # known before anything is decoded
            raise _wrong_size(path, opened.size, size)
        opened.load()
        return _pillow(ImageOps.exif_transpose(opened), path)  # as the camera was held


def scale_image(picture: Any, width: int, height: int) -> Any:
    """A `PIL.Image.Image` of another size: the middle of it, cropped to the ratio and scaled."""
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def read_image(
    path: str | Path, node: Node, *, resize: bool = False, edit: Callable[[Any], Any] | None = None, how: str = ""
) -> NDArray[np.uint8]:
    """One image as an image node has it, uint8 (channel, height, width).

    Args:
        path: .png, .jpg, .jpeg, .tif, .tiff, .dcm, .dicom, or .npy with (height, width), (channel, height, width) or
            (height, width, channel).
        node: an image node, of 1 channel (colours are made grey) or 3.
        resize: crop the middle to the node's shape and scale it; without, another size is an error.
        edit: of the opened image, before that: a `PIL.Image.Image` to another.
        how: an image that is missing can be got.

    Raises:
        DataError: the file is missing, damaged or of another size.
    """
    from PIL import Image

    path, (channels, height, width) = Path(path), node.shape or (1, 0, 0)
    if not path.is_file():
        raise DataError(f"there is no image '{path}'. {how}".rstrip())
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"'{path}' is no image that causalcf reads: those end in {', '.join(SUFFIXES)}.")
    try:
        opened = _open(path, None if resize or edit is not None else (width, height))
    except DataError:
        raise
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    if edit is not None:
        opened = edit(opened)
    opened = opened.convert("L" if channels == 1 else "RGB")
    if opened.size != (width, height):
        if not resize:
            raise _wrong_size(path, opened.size, (width, height))
        opened = scale_image(opened, width, height)
    pixels = np.asarray(opened)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0))


# ------------------------------------------------------------------ many


class ImageFiles:
    """Images of a node, (row, channel, height, width), that are read from disk when rows of them are asked for.

    A `Batch` holds them where it would hold an array, so that a table of a million images takes the memory of its names.

    Args:
        root: the folder that the names start from.
        names: of the files, relative to it; none may lead out of it.
        node: the image node.
        read: from path and node to pixels, uint8 (channel, height, width); `read_image` unless told.
        jobs: threads that decode.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        root: str | Path,
        names: Sequence[str] | NDArray[np.object_],
        node: Node,
        *,
        read: Callable[[Path, Node], NDArray[np.uint8]] = read_image,
        jobs: int = 4,
    ) -> None:
        self.root, self.names, self.node, self.read, self.jobs = Path(root), np.asarray(names, dtype=object), node, read, jobs

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.names), *(self.node.shape or ())

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"ImageFiles({str(self.root)!r}, {len(self)} images)"

    def _one(self, name: str) -> NDArray[np.uint8]:
        path = self.root / name
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:  # the name, which may be of a link
            raise DataError(f"'{path}' lies outside '{self.root}'. Name files inside the folder.")
        return self.read(path, self.node)

    def missing(self) -> list[str]:
        """The names of which there is no file."""
        root = str(self.root)
        return [name for name in self.names if not os.path.isfile(os.path.join(root, name))]

    def select(self, rows: Any) -> ImageFiles:
        """Some of the images, still on disk: by a slice, places, or a mask."""
        return ImageFiles(self.root, self.names[rows], self.node, read=self.read, jobs=self.jobs)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """The pixels of some of the images: by a slice, places, or a mask."""
        names = self.names[rows]
        if isinstance(names, str):
            return self._one(names)
        pixels = np.empty((len(names), *self.shape[1:]), dtype=np.uint8)
        with ThreadPoolExecutor(max(1, self.jobs)) as pool:
            for place, image in enumerate(pool.map(self._one, names)):
                pixels[place] = image
        return pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self[:]
        return pixels if dtype is None else pixels.astype(dtype)
