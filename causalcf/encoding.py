"""User units to model space and back: labels to codes, grey levels 0..255 to [-1, 1], numbers to float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causalcf.batch import Batch
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, Node
from causalcf.image_files import ImageFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EncodedFiles", "decode_column", "decode_image", "encode", "encode_column", "encode_image", "encode_rows"]

_KEPT = 2**29  # bytes


def encode_column(node: Node, column: Any) -> Tensor:
    """One attribute in model space, (row,): float64, or the code of each label as int64."""
    if node.discrete:
        return torch.from_numpy(_codes(node, column))
    return torch.from_numpy(np.array(column, dtype=np.float64))


def _codes(node: Node, column: Any) -> NDArray[np.int64]:
    """The place of every label among the node's states, (row,)."""
    if isinstance(column, pd.Series) and isinstance(column.dtype, pd.CategoricalDtype):
        places = _codes(node, column.cat.categories.to_numpy())
        return np.asarray(places[column.cat.codes.to_numpy()])
    labels, states = np.asarray(column), np.asarray(node.states)
    if labels.dtype.kind in "iufb" and np.array_equal(states, np.arange(len(states))):
        return labels.astype(np.int64)
    places = pd.Index(list(node.states or ()), dtype=object).get_indexer(pd.Index(labels, dtype=object))
    return np.asarray(places, dtype=np.int64)


def decode_column(node: Node, value: Tensor) -> NDArray[Any]:
    """One attribute in the user's units, (row,)."""
    if not node.discrete:
        return np.asarray(value.numpy())
    states = list(node.states or ())
    kind = object if any(isinstance(state, str) for state in states) else np.int64
    return np.asarray(np.array(states, dtype=kind)[value.numpy()])


def encode_image(pixels: NDArray[np.uint8]) -> Tensor:
    """Grey levels 0..255 to [-1, 1], float32, (row, channel, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1


class EncodedFiles:
    """Images on disk in model space: rows of them are read, and become a tensor, when they are asked for.

    What was read once is kept, as bytes, if all of them together take no more than half a gibibyte.

    Args:
        files: the images.
    """

    def __init__(self, files: ImageFiles) -> None:
        self.files, self.shape = files, torch.Size(files.shape)
        self._kept = np.empty(files.shape, dtype=np.uint8) if math.prod(files.shape) <= _KEPT else None
        self._known = np.zeros(len(files), dtype=bool)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return encode_image(self.read(rows))

    def read(self, rows: Tensor | slice) -> NDArray[np.uint8]:
        """Grey levels of some rows, (row, channel, height, width)."""
        places = np.arange(len(self))[rows if isinstance(rows, slice) else rows.numpy()]
        if self._kept is None:
            return self.files[places]
        unread = np.unique(places[~self._known[places]])
        if len(unread):
            self._kept[unread] = self.files[unread]
            self._known[unread] = True
        return self._kept[places]


def encode_rows(pixels: NDArray[np.uint8] | ImageFiles) -> Tensor | EncodedFiles:
    """Images in model space; those on disk stay there until rows of them are asked for."""
    return EncodedFiles(pixels) if isinstance(pixels, ImageFiles) else encode_image(pixels)


def decode_image(value: Tensor) -> NDArray[np.uint8]:
    """[-1, 1] to grey levels 0..255, rounded."""
    return np.asarray(((value + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())


def encode(batch: Batch) -> dict[str, Tensor]:
    """Every node that the batch holds, in model space.

    Raises:
        DataError: a row misses an attribute.
    """
    graph = batch.graph
    if batch.incomplete.any():
        missing = [name for name in graph.attributes if batch.frame[name].isna().any()]
        raise DataError(
            f"{batch.incomplete.sum()} rows miss {', '.join(missing)}: only counterfactual() infers what is missing. "
            "Drop these rows, or fill them."
        )
    values = {name: encode_column(graph.node(name), batch.frame[name]) for name in graph.attributes}
    return values | {name: encode_image(pixels) for name, pixels in batch.images.items()}


def decode(graph: CausalGraph, values: Mapping[str, Tensor], index: pd.Index) -> Batch:
    """A batch in the user's units, from values in model space."""
    frame = pd.DataFrame({name: decode_column(graph.node(name), values[name]) for name in graph.attributes}, index=index)
    return Batch(graph, frame, {name: decode_image(values[name]) for name in graph.images if name in values})
