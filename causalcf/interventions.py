"""What `do` accepts, in the user's units: a constant, one value a row, a function of the factual frame, a shift, a scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from causalcf.errors import DataError, GraphError
from causalcf.graph import CausalGraph, Node, in_support

__all__ = ["Do", "Scale", "Shift", "resolve"]

Do = Mapping[str, Any]
"""Per node: a number or label, one value a row, `Shift`, `Scale`, or a function of the factual frame."""


@dataclass(frozen=True)
class Shift:
    """Add this much to the factual value, in the node's unit."""

    by: float

    def __call__(self, factual: pd.Series) -> pd.Series:
        return factual + self.by


@dataclass(frozen=True)
class Scale:
    """Multiply the factual value by this."""

    by: float

    def __call__(self, factual: pd.Series) -> pd.Series:
        return factual * self.by


def _check(node: Node, column: pd.Series) -> None:
    if node.discrete:
        states = list(node.states or ())
        unknown = [value for value in pd.unique(column) if value not in states]
        if unknown:
            hint = ""
            if any(str(value) in map(str, states) for value in unknown):
                hint = f" Labels are of type {type(states[0]).__name__}."
            raise DataError(
                f"cannot set '{node.name}' to {unknown[0]!r}: it is none of its labels. "
                f"Labels are: {', '.join(map(repr, states))}.{hint}"
            )
        return
    numbers = pd.to_numeric(column, errors="coerce")
    for label, value in numbers.items():
        if not np.isfinite(value):
            raise DataError(f"cannot set '{node.name}' to {column[label]!r} (row {label}): it takes a finite number.")
        if not in_support(node, value):
            low, high = node.support or (-np.inf, np.inf)
            raise DataError(
                f"cannot set '{node.name}' to {value:g} (row {label}): outside its support ({low:g}, {high:g})"
                f"{f' {node.unit}' if node.unit else ''}. Choose a value inside, or widen the node's support."
            )


def resolve(graph: CausalGraph, do: Do, frame: pd.DataFrame) -> dict[str, pd.Series]:
    """The value that every row gets at every intervened node, checked against the graph.

    Args:
        graph: knows the nodes, their labels and supports.
        do: see the module.
        frame: the factual attributes; a shift or a function needs its columns.

    Raises:
        GraphError: `do` names something that is no node, or an image.
        DataError: a value is not finite, unknown, outside the support, or not one a row.
    """
    graph.check(do, "intervene on")
    columns = {}
    for name, action in do.items():
        node = graph.node(name)
        if node.kind == "image":
            raise GraphError(f"cannot intervene on the image '{name}': intervene on one of {', '.join(graph.attributes)}.")
        if isinstance(action, Shift | Scale):
            if node.kind != "continuous":
                raise DataError(f"cannot shift or scale the {node.kind} node '{name}'; give one of its labels.")
            value: Any = action(frame[name])
        else:
            value = action(frame) if isinstance(action, Callable) else action  # type: ignore[arg-type]
        if isinstance(value, pd.Series) and not value.index.equals(frame.index):
            raise DataError(f"the values for '{name}' have another index than the table; align them, or give an array.")
        if np.ndim(value) > 1 or (np.ndim(value) == 1 and len(value) != len(frame)):
            raise DataError(
                f"the values for '{name}' have shape {np.shape(value)}; give one value, or one for each of {len(frame)} rows."
            )
        if node.discrete:
            column = pd.Series(value, index=frame.index, name=name, dtype=object)
        else:
            column = pd.Series(value, index=frame.index, name=name)
            real = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)
            if not real or column.dtype == bool:
                raise DataError(f"cannot set the continuous node '{name}' to {column.iloc[0]!r}: it takes a number.")
            column = column.astype(float)
        _check(node, column)
        columns[name] = column
    return columns
