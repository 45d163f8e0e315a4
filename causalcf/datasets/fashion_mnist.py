"""Fashion-MNIST, read from its released files: the garment drives how bright its photograph is, and both draw the image.

The four files are in Debian's package `dataset-fashion-mnist`: `apt-get install dataset-fashion-mnist`. The garment is the
label; the intensity is measured on the photograph, so that the audit's ruler for it has no error of its own.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017,
https://arxiv.org/abs/1708.07747.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from causalcf.datasets.idx import read_idx
from causalcf.errors import DataError
from causalcf.rulers import measure_intensity

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GARMENTS", "FashionMNIST"]

Split = Literal["train", "judge", "valid", "test"]
GARMENTS = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's package puts it
_VARIABLE = "CAUSALCF_FASHION_MNIST"
_GET = f"Install Debian's package dataset-fashion-mnist, or give the folder of its files as folder= or in {_VARIABLE}."
_SIZES: dict[Split, int] = {"train": 48_000, "judge": 10_000, "valid": 2_000}  # of the 60,000 released for training
_PADDING = 2


@cache
def _released(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Photographs (row, 28, 28) and labels of `train` or `t10k`."""

    def file(name: str) -> Path:
        plain = folder / f"{part}-{name}-ubyte"
        return plain if plain.is_file() else plain.with_name(plain.name + ".gz")

    images, labels = read_idx(file("images-idx3"), _GET), read_idx(file("labels-idx1"), _GET)
    if images.ndim != 3 or len(images) != len(labels) or labels.max(initial=0) >= len(GARMENTS):
        raise DataError(f"the files in '{folder}' are not those of the release: images {images.shape}, labels {labels.shape}.")
    return images, labels


class FashionMNIST:
    """Photographs of garments, of one split.

    Args:
        split: `train` (48,000), `judge` (10,000) and `valid` (2,000) divide the photographs released for training; `test` are
            the 10,000 released for testing.
        folder: of the released files; where Debian's package puts them unless told here or in CAUSALCF_FASHION_MNIST.

    Raises:
        DataError: the files are not there, or damaged.
    """

    def __init__(self, split: Split = "test", *, folder: str | Path | None = None) -> None:
        if split not in get_args(Split):
            raise DataError(f"no split '{split}' of fashion_mnist. Splits are: {', '.join(get_args(Split))}.")
        self.split = split
        part = "t10k" if split == "test" else "train"
        self._images, self._labels = _released(Path(folder or os.environ.get(_VARIABLE) or _FOLDER), part)

    def __repr__(self) -> str:
        return f"FashionMNIST(split={self.split!r})"

    def frame(self, n: int, *, seed: int = 0) -> pd.DataFrame:
        """Garment and intensity of n photographs, drawn without repetition; the index is their number in the released file.

        Raises:
            DataError: the split has fewer.
        """
        places = np.arange(len(self._labels))
        if self.split != "test":
            places = np.random.Generator(np.random.Philox(20190)).permutation(places)
            names = list(_SIZES)
            start = sum(_SIZES[other] for other in names[: names.index(self.split)])
            places = places[start : start + _SIZES[self.split]]
        if n > len(places):
            raise DataError(f"split '{self.split}' of fashion_mnist has {len(places)} rows, not {n}.")
        chosen = np.random.Generator(np.random.Philox(seed)).permutation(places)[:n]
        intensity = measure_intensity(self._images[chosen])
        garment = np.array(GARMENTS)[self._labels[chosen]]
        return pd.DataFrame({"garment": garment, "intensity": intensity}, index=pd.Index(chosen, name="row"))

    def images(self, frame: pd.DataFrame) -> NDArray[np.uint8]:
        """The photographs of the rows, padded to grey levels (n, 1, 32, 32)."""
        return np.pad(self._images[frame.index.to_numpy()], ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING)))[:, None]
