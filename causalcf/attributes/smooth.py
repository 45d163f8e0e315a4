"""The regression of a user who names none: a smooth function of all parents together, quick to fit and quicker to ask.

    f(z) = a + b . z + g(z),  g: splines of each number, and random waves of all parents, by ridge regression

The waves stand for a Gaussian kernel: A. Rahimi, B. Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007.
Unlike the kernel's own features they are well conditioned, so that a row gets the same answer alone and in a batch. The
penalty is chosen by leave-one-out cross-validation. Beyond the data g stays what it is at their end, and f goes on as a line.

What was fitted is then written down as tables on a grid, between whose points g is linear: one table over all parents if
at most two of them are numbers and their states are not too many; otherwise one a parent, and the waves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from causalcf.attributes.base import Context
from causalcf.mechanism import Parents

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Smooth", "number_columns", "smooth_regressor"]

_RARE, _ROWS_BEYOND = 0.003, 10  # of the parents at each end, where a smooth fit has too few rows to bend
_BEYOND = 0.25  # of the width between these ends: how far the waves go on
_SPLINES, _WAVES = 14, 50  # knots of a number and waves, where there are rows enough
_POINTS = (1, 512, 128)  # of a table's axis, by how many numbers it is over: at least six between two knots of the splines
_ENTRIES = 2**18  # of a table, above which the waves stay waves
_ROWS = 4096  # below which a table is read by one thread; of waves at a time, so that they stay in the processor's cache

Spec = Mapping[str, Any]


def _common(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between which values a column, (row, column), has rows enough to bend."""
    rare = min(0.1, max(_RARE, _ROWS_BEYOND / len(rows)))
    low, high = np.quantile(rows, [rare, 1 - rare], axis=0)
    stuck = low == high
    return np.where(stuck, rows.min(0), low), np.where(stuck, rows.max(0), high)


def _reach(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Beyond which values of a column, (row, column), g stays what it is there."""
    low, high = _common(rows)
    more = _BEYOND * (high - low)
    return np.maximum(low - more, rows.min(0)), np.minimum(high + more, rows.max(0))


def smooth_regressor(rows: NDArray[np.float64], numbers: Sequence[int]) -> Any:
    """The regressor, not fitted, a pipeline of scikit-learn.

    Args:
        rows: of parents, (row, column), that it is sized on.
        numbers: the columns that are numbers rather than one-hot.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.preprocessing import FunctionTransformer, SplineTransformer

    n, places = len(rows), list(numbers)
    parts: list[tuple[str, Any]] = [("line", "passthrough")]
    low, high = np.full(rows.shape[1], -np.inf), np.full(rows.shape[1], np.inf)
    if places:
        knots = np.linspace(*_common(rows[:, places]), int(np.clip(n // 50, 3, _SPLINES)))
        splines = SplineTransformer(knots=knots, extrapolation="constant", include_bias=False)
        parts.append(("splines", ColumnTransformer([("splines", splines, places)])))
        low[places], high[places] = _reach(rows[:, places])
    if waves := min(_WAVES, n // 20):
        held = FunctionTransformer(np.clip, kw_args={"a_min": low, "a_max": high})
        sampler = RBFSampler(gamma=0.5 / rows.shape[1], n_components=waves, random_state=0)
        parts.append(("waves", Pipeline([("held", held), ("waves", sampler)])))
    return Pipeline([("basis", FeatureUnion(parts)), ("ridge", RidgeCV(np.logspace(-3, 3, 12)))])


class _Fitted:
    """What a fitted `smooth_regressor` is made of."""

    def __init__(self, regressor: Any) -> None:
        basis, self.ridge = regressor["basis"], regressor["ridge"]
        self.parts = dict(basis.transformer_list)
        self.predict = regressor.predict
        self.sampler: Any = self.parts["waves"]["waves"] if "waves" in self.parts else None
        self.waves = self.sampler.n_components if self.sampler else 0
        self.straight = len(self.ridge.coef_) - self.waves

    def additive(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The function without its waves."""
        columns = [rows, *([self.parts["splines"].transform(rows)] if "splines" in self.parts else [])]
        return np.asarray(np.concatenate(columns, axis=1) @ self.ridge.coef_[: self.straight] + self.ridge.intercept_)


class _Table(nn.Module):
    """Functions of at most two numbers and some labels: lines, and what is interpolated on a grid."""

    def __init__(self, parents: Sequence[Spec], outputs: int) -> None:
        super().__init__()
        self.parents = list(parents)
        self.numbers = [parent for parent in parents if "states" not in parent]
        self.labels = [parent for parent in parents if "states" in parent]
        points = _POINTS[len(self.numbers)]
        self.lines = points if len(self.numbers) == 2 else 1  # of the table, a state
        height = self.lines * math.prod(parent["states"] for parent in self.labels)
        self.slope: Tensor
        self.low: Tensor
        self.high: Tensor
        self.table: Tensor
        self.register_buffer("slope", torch.zeros(len(self.numbers), outputs, dtype=torch.float64))
        self.register_buffer("low", torch.zeros(len(self.numbers), dtype=torch.float64))
        self.register_buffer("high", torch.ones(len(self.numbers), dtype=torch.float64))
        self.register_buffer("table", torch.zeros(1, outputs, height, points, dtype=torch.float64))

    def fill(self, functions: Sequence[Any], slopes: NDArray[np.float64], ends: NDArray[np.float64]) -> None:
        """Write functions down.

        Args:
            functions: of rows of these parents as `Context` gives them, (row, column).
            slopes: of their lines, (number, output).
            ends: between which the numbers, standardised, are on the grid, (2, number).
        """
        axes = [np.arange(parent["states"]) for parent in self.labels]
        axes += [np.linspace(low, high, self.table.shape[-1]) for low, high in ends.T]
        grid = dict(
            zip(
                [parent["name"] for parent in (*self.labels, *self.numbers)],
                (axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")),
                strict=True,
            )
        )
        rows = np.concatenate(
            [
                np.eye(parent["states"])[grid[parent["name"]]] if "states" in parent else grid[parent["name"]][:, None]
                for parent in self.parents
            ],
            axis=1,
        )
        some = np.array_split(rows, -(-len(rows) // _ROWS))
        values = np.stack([np.concatenate([function(part) for part in some]) for function in functions])
        for parent, slope in zip(self.numbers, slopes, strict=True):
            values -= slope[:, None] * grid[parent["name"]]
        mean = np.array([parent["mean"] for parent in self.numbers])
        scale = np.array([parent["scale"] for parent in self.numbers])
        self.low.copy_(torch.from_numpy(mean + scale * ends[0]))
        self.high.copy_(torch.from_numpy(mean + scale * ends[1]))
        self.slope.copy_(torch.from_numpy(slopes / scale[:, None]))
        values -= self.slope.numpy().T @ mean[:, None]
        self.table.copy_(torch.from_numpy(values).reshape(self.table.shape))

    def forward(self, parents: Parents) -> Tensor:
        first = parents[self.parents[0]["name"]]
        n, height = first.numel(), self.table.shape[-2]
        parts = torch.get_num_threads() if n >= _ROWS else 1
        each = -(-n // parts)
        place = torch.zeros(parts * each, 2, dtype=torch.float64)  # across and down the table, from -1 to 1
        down: Tensor | None = None
        for parent in self.labels:
            code = parents[parent["name"]].reshape(-1)
            down = code if down is None else down * parent["states"] + code
        numbers = [parents[parent["name"]].reshape(-1) for parent in self.numbers]
        along = [
            (number - low) * (2 / (high - low)) - 1
            for number, low, high in zip(numbers, self.low.tolist(), self.high.tolist(), strict=True)
        ]
        if numbers:
            place[:n, 0] = along[-1]
        if len(numbers) == 2:
            line = (along[0].clamp(-1, 1) + 1) * ((self.lines - 1) / 2)
            down = line if down is None else line + down * self.lines
        if down is not None:
            place[:n, 1] = down.double() * (2 / max(1, height - 1)) - 1
        found = nn.functional.grid_sample(
            self.table.expand(parts, -1, -1, -1), place.view(parts, 1, each, 2), padding_mode="border", align_corners=True
        )
        out = found.transpose(0, 1).reshape(len(self.table[0]), -1)[:, :n]
        for number, slope in zip(numbers, self.slope, strict=True):
            out = out.addr(slope, number)
        return out.reshape(-1, *first.shape)


class _Waves(nn.Module):
    """Random waves of all parents together."""

    def __init__(self, parents: Sequence[Spec], outputs: int, waves: int) -> None:
        super().__init__()
        self.context = Context(parents)
        width = self.context.width
        self.low: Tensor
        self.high: Tensor
        self.frequency: Tensor
        self.phase: Tensor
        self.amplitude: Tensor
        self.register_buffer("low", torch.full((width,), -math.inf, dtype=torch.float64))
        self.register_buffer("high", torch.full((width,), math.inf, dtype=torch.float64))
        self.register_buffer("frequency", torch.zeros(width, waves, dtype=torch.float64))
        self.register_buffer("phase", torch.zeros(waves, dtype=torch.float64))
        self.register_buffer("amplitude", torch.zeros(waves, outputs, dtype=torch.float64))

    def fill(self, fitted: Sequence[_Fitted], columns: Sequence[int], ends: NDArray[np.float64]) -> None:
        """Take the waves over; the numbers, standardised and in these columns, are held between the ends, (2, number)."""
        sampler = fitted[0].sampler
        self.low[list(columns)], self.high[list(columns)] = torch.from_numpy(ends)
        self.frequency.copy_(torch.from_numpy(sampler.random_weights_))
        self.phase.copy_(torch.from_numpy(sampler.random_offset_))
        amplitude = np.stack([one.ridge.coef_[one.straight :] for one in fitted], axis=1)
        self.amplitude.copy_(torch.from_numpy(amplitude * math.sqrt(2 / sampler.n_components)))

    def forward(self, parents: Parents) -> Tensor:
        context = self.context(parents).clamp(self.low, self.high)
        flat = context.reshape(-1, context.shape[-1])
        found = [torch.addmm(self.phase, some, self.frequency).cos() @ self.amplitude for some in flat.split(_ROWS)]
        return torch.cat(found).T.reshape(-1, *context.shape[:-1])


class Smooth(nn.Module):
    """One or more smooth functions of the same parents.

    Args:
        parents: what `describe_parents` found.
        outputs: how many functions.
        waves: how many random waves they were fitted with.
    """

    def __init__(self, parents: Sequence[Spec], outputs: int, waves: int) -> None:
        super().__init__()
        self.count = waves
        numbers = sum("states" not in parent for parent in parents)
        states = math.prod(parent.get("states", 1) for parent in parents)
        whole = numbers < len(_POINTS) and states * _POINTS[numbers] ** numbers <= _ENTRIES
        self.tables = nn.ModuleList(_Table(some, outputs) for some in ([parents] if whole else [[one] for one in parents]))
        self.waves = _Waves(parents, outputs, waves) if waves and not whole else None

    @classmethod
    def of(cls, regressors: Sequence[Any], parents: Sequence[Spec], rows: NDArray[np.float64]) -> Self:
        """The functions that `smooth_regressor` became when it was fitted to some rows of parents, (row, column)."""
        fitted = [_Fitted(regressor) for regressor in regressors]
        smooth = cls(parents, len(fitted), fitted[0].waves)
        tables = [cast(_Table, table) for table in smooth.tables]
        numbers, ends = number_columns(parents), np.stack(_reach(rows))
        slopes = np.stack([one.ridge.coef_[: rows.shape[1]] for one in fitted], axis=1)
        if len(tables) == 1 and smooth.waves is None:
            tables[0].fill([one.predict for one in fitted], slopes[numbers], ends[:, numbers])
            return smooth
        if smooth.waves is not None:
            smooth.waves.fill(fitted, numbers, ends[:, numbers])
        place = 0
        for table in tables:
            here = np.arange(place, place + Context(table.parents).width)
            own = [place] if table.numbers else []
            functions = [_part(one, rows.shape[1], here, first=place == 0) for one in fitted]
            table.fill(functions, slopes[own], ends[:, own])
            place += len(here)
        return smooth

    def forward(self, parents: Parents) -> Tensor:
        """(output, *row), from columns of the parents, (*row) each."""
        parts = self.tables if self.waves is None else [*self.tables, self.waves]
        return cast(Tensor, sum(part(parents) for part in parts))


def _part(one: _Fitted, width: int, columns: NDArray[np.int64], *, first: bool) -> Callable[..., NDArray[np.float64]]:
    """What some columns add to a function; the first of its parts holds the constant too."""
    constant = one.additive(np.zeros((1, width)))

    def function(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        every = np.zeros((len(rows), width))
        every[:, columns] = rows
        found = one.additive(every)
        return found if first else found - constant

    return function


def number_columns(parents: Sequence[Spec]) -> list[int]:
    """The columns of a `Context` that are numbers rather than one-hot."""
    starts = np.cumsum([0, *(parent.get("states", 1) for parent in parents)])
    return [int(start) for start, parent in zip(starts, parents, strict=False) if "states" not in parent]
