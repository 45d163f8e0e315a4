"""A batch of data, checked against a causal graph: a table of attributes in the user's units, and images beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from causalcf.errors import DataError
from causalcf.graph import CausalGraph, Node
from causalcf.image_files import ImageFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Batch"]

_MISSING = "Drop the rows, fill them, or pass missing='infer'."


def _some(rows: Sequence[object]) -> str:
    shown = ", ".join(map(str, rows[:5]))
    return shown if len(rows) <= 5 else f"{shown}, ... ({len(rows)} in all)"


def _check_number(column: pd.Series, node: Node, infer: bool) -> None:
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        raise DataError(f"column '{node.name}' is continuous in the graph but holds {column.dtype}. Convert it to numbers.")
    values = column.to_numpy(float, na_value=np.nan)
    bad = column.index[np.isinf(values) if infer else ~np.isfinite(values)]
    if len(bad):
        raise DataError(
            f"column '{node.name}' has {len(bad)} missing or infinite values (rows {_some(list(bad))}). "
            f"{'Correct them.' if infer else _MISSING}"
        )
    if node.support:
        low, high = node.support
        outside = column.index[(values <= low) | (values >= high)]
        if len(outside):
            raise DataError(
                f"column '{node.name}' has {len(outside)} values outside its support ({low:g}, {high:g})"
                f"{f' {node.unit}' if node.unit else ''}, for example {column[outside[0]]:g} (rows {_some(list(outside))}). "
                "Drop the rows, correct the unit, or widen the node's support."
            )


def _check_labels(column: pd.Series, node: Node, infer: bool) -> None:
    missing = column.index[column.isna()]
    if len(missing) and not infer:
        raise DataError(f"column '{node.name}' has {len(missing)} missing values (rows {_some(list(missing))}). {_MISSING}")
    states = set(node.states or ())
    unknown = [label.item() if hasattr(label, "item") else label for label in pd.unique(column.dropna()) if label not in states]
    # one odd entry makes a whole column of numbers text: it is the one to be told
    unknown = [label for label in unknown if str(label) not in set(map(str, states))] or unknown
    if unknown:
        allowed = ", ".join(repr(state) for state in node.states or ())
        rows = list(column.index[column.isin(unknown)])
        raise DataError(
            f"column '{node.name}' has the unknown label {_some([repr(label) for label in unknown])} (rows {_some(rows)}). "
            f"Labels are: {allowed}. Correct them, or add the label to the node's states."
        )


@dataclass(frozen=True)
class Batch:
    """Attributes and images of the same rows, checked against a graph.

    Args:
        graph: the causal graph.
        frame: one row a unit; a column for every attribute of the graph, in the user's units. Further columns are kept. The
            index identifies a row: its random numbers are a function of it.
        images: for every image node, grey levels or colours 0..255 as uint8, (row, channel, height, width); an array, or
            `ImageFiles`, which are read when they are needed.
        missing: `refuse` makes a missing attribute an error; `infer` lets it stand, and a counterfactual then draws it from its
            posterior given what was observed of the row.

    Raises:
        DataError: a column is missing, a value is NaN, unknown or outside its support, an image has the wrong size.
    """

    graph: CausalGraph
    frame: pd.DataFrame
    images: Mapping[str, Any] = field(default_factory=dict)
    missing: Literal["refuse", "infer"] = "refuse"

    def __post_init__(self) -> None:
        frame, graph = self.frame, self.graph
        if not isinstance(frame, pd.DataFrame):
            raise DataError(f"frame is a pandas DataFrame, not {type(frame).__name__}.")
        if not len(frame):
            raise DataError("the table has no rows.")
        if not frame.index.is_unique:
            twice = frame.index[frame.index.duplicated()].unique()
            raise DataError(f"the index has {len(twice)} labels more than once (rows {_some(list(twice))}); use reset_index().")
        if not frame.columns.is_unique:
            raise DataError(f"the table has two columns called '{frame.columns[frame.columns.duplicated()][0]}'.")
        if self.missing not in ("refuse", "infer"):
            raise DataError(f"missing={self.missing!r} is unknown: it takes 'refuse' or 'infer'.")
        absent = [name for name in graph.attributes if name not in frame.columns]
        if absent:
            raise DataError(
                f"the table has no column {', '.join(absent)}, which graph '{graph.name}' needs. "
                f"Its columns are: {', '.join(map(str, frame.columns))}."
            )
        for name in graph.attributes:
            node = graph.node(name)
            (_check_labels if node.discrete else _check_number)(frame[name], node, self.missing == "infer")
        graph.check(self.images, "use images for")
        wrong = [name for name in self.images if graph.node(name).kind != "image"]
        if wrong:
            raise DataError(
                f"there are images for '{wrong[0]}', which is no image node. Image nodes are: {', '.join(graph.images)}."
            )
        for name in graph.images:
            if name in self.images:
                self._check_image(graph.node(name), self.images[name])

    def _check_image(self, node: Node, pixels: object) -> None:
        expected = (len(self.frame), *(node.shape or ()))
        if not isinstance(pixels, np.ndarray | ImageFiles) or pixels.dtype != np.uint8:
            found = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise DataError(f"images['{node.name}'] holds {found}; give a uint8 array of grey levels or colours, 0..255.")
        if pixels.shape != expected:
            raise DataError(
                f"images['{node.name}'] has shape {pixels.shape}, but {len(self.frame)} rows of the graph's "
                f"{node.shape} need {expected}. Resize or pad the images, or change the node's shape."
            )

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        return f"Batch({self.graph.name!r}, rows={len(self)}, images=[{', '.join(self.images)}])"

    def rows(self, select: slice | Sequence[int] | NDArray[np.int64]) -> Batch:
        """Some of the rows, by position."""
        images = {
            name: pixels.select(select) if isinstance(pixels, ImageFiles) else pixels[select]
            for name, pixels in self.images.items()
        }
        return Batch(self.graph, self.frame.iloc[select], images, self.missing)

    def loaded(self) -> Batch:
        """The same with every image in memory."""
        return Batch(self.graph, self.frame, {name: np.asarray(pixels) for name, pixels in self.images.items()}, self.missing)

    def without_images(self) -> Batch:
        """The attributes alone."""
        return Batch(self.graph, self.frame, missing=self.missing)

    @property
    def incomplete(self) -> NDArray[np.bool_]:
        """Which rows miss an attribute, (row,)."""
        if self.missing == "refuse":
            return np.zeros(len(self), dtype=bool)
        return np.asarray(self.frame[list(self.graph.attributes)].isna().any(axis=1))
