"""What `do` accepts, in the user's units, and what it means for every row.

    value                       every row of the node is set to
    5.0, "AP"                   this number or label
    [1.0, 2.0], a Series        one value a row
    lambda frame: ...           a function of the factual table
    Shift(10), Scale(1.2)       the factual value, moved
    dist.Normal(50, 5)          a draw of its own: a Pyro, torch or frozen scipy.stats distribution
    Policy(lambda frame: ...)   a function of the table as it is under the intervention, causes first; values or a distribution

A `Policy` is a conditional policy, the others are atomic interventions: J. Pearl, "Causality", 2nd edition, 2009, chapter 4.2.
A draw is a function of the seed, the node and the row's index, and of nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from causalcf.errors import DataError, GraphError
from causalcf.graph import CausalGraph, Node, in_support
from causalcf.seeds import RowGenerator, row_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Do", "Policy", "Scale", "Shift", "parse_do", "resolve"]

Do = Mapping[str, Any]
"""Per node: a number or label, one value a row, a function of the factual table, `Shift`, `Scale`, a distribution, `Policy`."""


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


@dataclass(frozen=True)
class Policy:
    """Set a node by what the nodes before it are under the intervention, not by what they were.

    Args:
        decide: from the table of the nodes that come before this one in `graph.order` to one value a row, a single value, or a
            distribution with one row's draw each.

    Example:
        >>> import causalcf as ccf
        >>> graph = ccf.CausalGraph.from_dict({"name": "toy", "nodes": [
        ...     {"name": "age", "kind": "continuous"}, {"name": "dose", "kind": "continuous", "parents": ["age"]}]})
        >>> columns = resolve(graph, {"age": 40, "dose": Policy(lambda frame: frame["age"] / 10)}, pd.DataFrame(index=[0]))
        >>> columns["age"].item(), isinstance(columns["dose"], Policy)
        (40.0, True)
    """

    decide: Callable[[pd.DataFrame], Any]

    def values(self, node: Node, frame: pd.DataFrame, seed: int) -> pd.Series:
        """What the node is set to, (row,), in the user's units.

        Args:
            node: the one that is set.
            frame: the nodes before it, under the intervention.
            seed: of the draws, where the policy is random.
        """
        try:
            value = self.decide(frame)
        except KeyError as error:
            raise DataError(
                f"the policy for '{node.name}' needs {error}, which it cannot see. "
                f"It sees the nodes before it: {', '.join(frame.columns) or 'none'}."
            ) from error
        return _column(node, value, frame.index, seed)


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
    numbers = column.to_numpy()
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(f"cannot set '{node.name}' to {numbers[row]!r} (row {column.index[row]}): it takes a finite number.")
    low, high = node.support or (-np.inf, np.inf)
    if not (in_support(node, numbers.min()) and in_support(node, numbers.max())):
        row = int(np.argmax((numbers <= low) | (numbers >= high)))
        raise DataError(
            f"cannot set '{node.name}' to {numbers[row]:g} (row {column.index[row]}): outside its support ({low:g}, {high:g})"
            f"{f' {node.unit}' if node.unit else ''}. Choose a value inside, or widen the node's support."
        )


def _is_distribution(value: Any) -> bool:
    return isinstance(value, torch.distributions.Distribution) or callable(getattr(value, "ppf", None))


def _draw(node: Node, distribution: Any, index: pd.Index, seed: int) -> NDArray[Any]:
    """One draw a row, by the quantile function where there is one."""
    generator = RowGenerator(seed, row_keys(index), f"do/{node.name}")
    if not isinstance(distribution, torch.distributions.Distribution):
        drawn = np.asarray(distribution.ppf(generator.uniform().numpy()))
    else:
        if distribution.event_shape or distribution.batch_shape not in ((), (1,), (len(index),)):
            raise DataError(
                f"the distribution for '{node.name}' has batch shape {tuple(distribution.batch_shape)} and event shape "
                f"{tuple(distribution.event_shape)}; give one number a draw, for all rows alike or one for each of {len(index)}."
            )
        drawn = _quantiles(distribution, generator).numpy()
    if not node.discrete:
        return np.asarray(drawn, dtype=float)
    states = list(node.states or ())
    known = np.isin(drawn, np.arange(len(states)))
    if not known.all():
        raise DataError(
            f"the distribution for '{node.name}' drew {drawn[~known][0]}: for a {node.kind} node a draw is the place of a label, "
            f"0 to {len(states) - 1}."
        )
    return np.asarray(np.array(states, dtype=object)[drawn.astype(int)])


def _quantiles(distribution: Any, generator: RowGenerator) -> torch.Tensor:
    uniform = generator.uniform()
    if getattr(distribution, "has_enumerate_support", False):
        values = distribution.enumerate_support(expand=False)
        cumulative = distribution.log_prob(values).exp().cumsum(0)
        place = (uniform > cumulative.reshape(len(values), -1).double()).sum(0)
        return torch.as_tensor(values.flatten()[place.clamp(max=len(values) - 1)])
    try:
        return torch.as_tensor(distribution.icdf(uniform))
    except NotImplementedError:
        if distribution.batch_shape.numel() > 1:
            raise DataError(
                f"torch has no quantile function of {type(distribution).__name__}, so a row's draw could not be its own. "
                "Give a frozen distribution of scipy.stats with one parameter a row."
            ) from None
        with torch.random.fork_rng(devices=[]):  # a generator a row: slow, but the row's draw is its own
            drawn = []
            for number in (uniform * 2**62).long().tolist():
                torch.manual_seed(number)
                drawn.append(float(distribution.sample()))
        return torch.tensor(drawn, dtype=torch.float64)


def _column(node: Node, value: Any, index: pd.Index, seed: int) -> pd.Series:
    """One value a row, checked against the node."""
    if _is_distribution(value):
        value = _draw(node, value, index, seed)
    if isinstance(value, pd.Series) and not value.index.equals(index):
        raise DataError(f"the values for '{node.name}' have another index than the table; align them, or give an array.")
    if np.ndim(value) > 1 or (np.ndim(value) == 1 and len(value) != len(index)):
        raise DataError(
            f"the values for '{node.name}' have shape {np.shape(value)}; give one value, or one for each of {len(index)} rows."
        )
    if node.discrete:
        column = pd.Series(value, index=index, name=node.name, dtype=object)
    else:
        column = pd.Series(value, index=index, name=node.name)
        real = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)
        if not real or column.dtype == bool:
            raise DataError(f"cannot set the continuous node '{node.name}' to {column.iloc[0]!r}: it takes a number.")
        column = column.astype(float)
    _check(node, column)
    return column


def resolve(graph: CausalGraph, do: Do, frame: pd.DataFrame, *, seed: int = 0) -> dict[str, pd.Series | Policy]:
    """The value that every row gets at every intervened node, checked against the graph; a policy stays one until it is asked.

    Args:
        graph: knows the nodes, their labels and supports.
        do: see the module.
        frame: the factual attributes; a shift or a function needs its columns.
        seed: of the draws, where a value is a distribution.

    Raises:
        GraphError: `do` names something that is no node, or an image.
        DataError: a value is not finite, unknown, outside the support, or not one a row.
    """
    if not isinstance(do, Mapping):
        raise DataError(f"do is a mapping from a node to its value, or a list of them, not {type(do).__name__}: {do!r}.")
    graph.check(do, "intervene on")
    columns: dict[str, pd.Series | Policy] = {}
    for name, action in do.items():
        node = graph.node(name)
        if node.kind == "image":
            raise GraphError(f"cannot intervene on the image '{name}': intervene on one of {', '.join(graph.attributes)}.")
        value: Any = action
        if isinstance(action, Shift | Scale):
            if node.kind != "continuous":
                raise DataError(f"cannot shift or scale the {node.kind} node '{name}'; give one of its labels.")
            value = action(frame[name])
        elif callable(action) and not isinstance(action, Policy) and not _is_distribution(action):
            value = action(frame)
        columns[name] = value if isinstance(value, Policy) else _column(node, value, frame.index, seed)
    return columns


def parse_do(graph: CausalGraph, text: str) -> dict[str, Any]:
    """An intervention that somebody typed: `T=1`, `age+=10`, `dose*=1.2`, several with commas between.

    Args:
        graph: knows the nodes and the type of their labels.
        text: NODE=VALUE, NODE+=NUMBER or NODE*=NUMBER.

    Raises:
        GraphError: there is no such node.
        DataError: the text is none of these, or the value is no label of the node.

    Example:
        >>> import causalcf as ccf
        >>> parse_do(ccf.load_graph("morphomnist"), "thickness+=1.5, digit=3")
        {'thickness': Shift(by=1.5), 'digit': '3'}
    """
    do: dict[str, Any] = {}
    for part in re.split(r",(?=[^,=]*=)", text):  # a label may hold a comma
        match = re.fullmatch(r"\s*(.+?)\s*(\+=|\*=|=)\s*(.+?)\s*", part)
        if not match:
            raise DataError(f"cannot read the intervention {part.strip()!r}. Write NODE=VALUE, NODE+=NUMBER or NODE*=NUMBER.")
        name, sign, word = match.groups()
        graph.check([name], "intervene on")
        node = graph.node(name)
        if name in do:
            raise DataError(f"the intervention {text!r} sets '{name}' twice.")
        if node.discrete and sign == "=":
            do[name] = next((state for state in node.states or () if str(state) == word), word)
        else:
            try:
                number = float(word)
            except ValueError:
                raise DataError(f"cannot set '{name}' by {part.strip()!r}: {word!r} is no number.") from None
            do[name] = {"=": number, "+=": Shift(number), "*=": Scale(number)}[sign]
    return do
