"""Morpho-MNIST as DeepSCM released it: digits with the thickness and intensity that they were drawn at.

    {train,t10k}-images-idx3-ubyte[.gz]   digits, 28x28
    {train,t10k}-labels-idx1-ubyte[.gz]   which digit
    {train,t10k}-morpho.csv               index, thickness (pixels), intensity (grey level), as intended

N. Pawlowski, D. C. Castro, B. Glocker, "Deep Structural Causal Models for Tractable Counterfactual Inference", NeurIPS 2020,
https://arxiv.org/abs/2006.06485; its data: https://github.com/biomedia-mira/deepscm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.datasets.idx import read_idx
from causalcf.datasets.released import Released, as_numbers, find, open_table, split_by
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, load_graph

__all__ = ["read_morphomnist"]

_GET = "It is part of DeepSCM's data: https://github.com/biomedia-mira/deepscm."
_GET_TABLE = (
    f"{_GET} MNIST itself has none: write it with the columns index (from 0), thickness (pixels) and intensity (grey level), as "
    "causalcf.rulers measures them; or leave the directory out, and digits that causalcf has are drawn: causalcf fit morphomnist."
)
_PADDING = 2


def _part(root: Path, part: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The table and the digits of `train` or `t10k`."""
    images, labels = (
        read_idx(find(root, [f"{part}-{name}-ubyte{suffix}" for suffix in (".gz", "")], _GET), _GET)
        for name in ("images-idx3", "labels-idx1")
    )
    path = find(root, [f"{part}-morpho.csv"], _GET_TABLE)
    table = open_table(path, ["index", "thickness", "intensity"], _GET, numbers=["index"])
    if images.ndim != 3 or not len(images) == len(labels) == len(table):
        raise DataError(f"the files of {part} in '{root}' do not belong together: {images.shape}, {labels.shape}, {len(table)}.")
    order = table["index"].to_numpy()
    if not np.isin(order, np.arange(len(images))).all():
        raise DataError(f"the index of '{part}-morpho.csv' in '{root}' names digits that are not there. Get it again. {_GET}")
    frame = pd.DataFrame({name: as_numbers(table[name], path) for name in ("thickness", "intensity")})
    frame = frame.assign(digit=labels[order].astype(str))
    return frame.set_index(pd.Index([f"{part}-{row}" for row in order], name="row")), images[order]


def read_morphomnist(directory: str | Path, graph: CausalGraph | str = "morphomnist", *, jobs: int = 1) -> Released:
    """Morpho-MNIST as released, padded by two black pixels on every side; a tenth of its training rows validates.

    Args:
        directory: of the files.
        graph: over thickness, intensity and digit, with an image of 32x32; a ready-made one by name.
        jobs: not used: the digits are in memory.

    Raises:
        DataError: a file is missing, damaged, or does not belong to the others.
    """
    root, graph = Path(directory), load_graph(graph) if isinstance(graph, str) else graph
    (train, digits), (test, others) = _part(root, "train"), _part(root, "t10k")
    if digits.shape[1:] != others.shape[1:]:
        sizes = " and ".join(f"{name} {part.shape[1]}x{part.shape[2]}" for name, part in (("train", digits), ("t10k", others)))
        raise DataError(f"the digits in '{root}' are of different sizes: {sizes}. Get them again. {_GET}")
    split = split_by(train.index.to_series(), {"train": 0.9, "valid": 0.1}, 0)
    frame = pd.concat([train.assign(split=split.to_numpy()), test.assign(split="test")])
    padded = np.pad(np.concatenate([digits, others]), ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING)))[:, None]
    return Released(Batch(graph, frame, {graph.images[0]: padded}), {})
