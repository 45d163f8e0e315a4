"""Structural causal models whose equations are known, so that the error of a counterfactual is: numpy alone.

Both environments import it, causalcf's and the peers'. Every equation takes its node's noise, standard normal, then its parents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["STUDIES", "Column", "Study"]

Column = NDArray[np.float64]
Equation = Callable[..., Column]


@dataclass(frozen=True)
class Study:
    """A known structural causal model and the intervention that is asked about.

    Args:
        name: how the table calls it.
        equations: the parents of every node and its equation, causes first.
        node: the one that is intervened on.
        to: the value it is set to, or
        by: the amount it is moved by.
    """

    name: str
    equations: Mapping[str, tuple[tuple[str, ...], Equation]]
    node: str
    to: float | None = None
    by: float | None = None

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The parents of every node, causes first."""
        return {name: parents for name, (parents, _) in self.equations.items()}

    @property
    def affected(self) -> list[str]:
        """What the intervention reaches, the intervened node left out."""
        reached = {self.node}
        for name, parents in self.parents.items():
            if reached.intersection(parents):
                reached.add(name)
        return [name for name in self.equations if name in reached - {self.node}]

    def change(self, value: Column) -> Column:
        """What the intervention makes of the node's own value."""
        return np.full_like(value, self.to) if self.to is not None else value + self.by

    def draw(self, rows: int, seed: int, *, truth: bool) -> tuple[dict[str, Column], dict[str, Column]]:
        """Rows, and their true counterfactual where asked for: every column (row,)."""
        random = np.random.default_rng(seed)
        noise = {name: random.standard_normal(rows) for name in self.equations}
        return self._solve(noise, act=False), self._solve(noise, act=True) if truth else {}

    def _solve(self, noise: Mapping[str, Column], *, act: bool) -> dict[str, Column]:
        values: dict[str, Column] = {}
        for name, (parents, equation) in self.equations.items():
            value = equation(noise[name], *(values[parent] for parent in parents))
            values[name] = self.change(value) if act and name == self.node else value
        return values

    def errors(
        self, factual: Mapping[str, Column], truth: Mapping[str, Column], answer: Mapping[str, Column]
    ) -> dict[str, float]:
        """Mean absolute error of every affected node, in standard deviations of its factual values."""
        return {name: float(np.abs(answer[name] - truth[name]).mean() / factual[name].std()) for name in self.affected}

    def table(self, rows: int, seed: int, *, chunk: int = 1_000_000) -> Column:
        """Many rows in little memory, (node, row): chunk number i is drawn under seed + i."""
        table = np.empty((len(self.equations), rows))
        for place, start in enumerate(range(0, rows, chunk)):
            some, _ = self.draw(min(chunk, rows - start), seed + place, truth=False)
            for line, column in zip(table, some.values(), strict=True):
                line[start : start + chunk] = column
        return table


def _softplus(x: Column) -> Column:
    return np.logaddexp(0.0, x)


def _sigmoid(x: Column) -> Column:
    return 1 / (1 + np.exp(-x))


LINEAR = Study(
    "linear",
    {
        "a": ((), lambda u: u),
        "b": (("a",), lambda u, a: 0.8 * a + u),
        "c": (("a", "b"), lambda u, a, b: 0.5 * a - 0.7 * b + 0.5 * u),
        "d": (("b", "c"), lambda u, b, c: 1.2 * c + 0.3 * b + u),
        "e": (("c", "d"), lambda u, c, d: 0.6 * d - 0.4 * c + 0.8 * u),
    },
    node="b",
    to=1.0,
)
HETEROSCEDASTIC = Study(
    "heteroscedastic",
    {
        "z": ((), lambda u: u),
        "t": (("z",), lambda u, z: 0.8 * z + u),
        "y": (("z", "t"), lambda u, z, t: np.sin(2 * t) + 0.5 * z + (0.3 + 0.5 * np.abs(t)) * u),
    },
    node="t",
    by=1.28,
)
NONLINEAR = Study(
    "nonlinear",
    {
        "a": ((), lambda u: u),
        "b": ((), lambda u: u),
        "c": (("a", "b"), lambda u, a, b: np.sin(1.5 * a) + 0.5 * b + 0.4 * u),
        "d": (("a", "b"), lambda u, a, b: np.tanh(a) * b + 0.4 * u),
        "e": (("c", "d"), lambda u, c, d: 0.5 * c**2 - 0.5 * d + 0.5 * u),
        "f": (("c", "d"), lambda u, c, d: 2 * np.exp(-(c**2)) + 0.5 * d + (0.2 + 0.5 * _sigmoid(2 * c)) * u),
        "g": (("e", "f"), lambda u, e, f: _softplus(2 * e) * np.cos(f) + 0.4 * u),
        "h": (("f", "g"), lambda u, f, g: 0.5 * g + np.sin(2 * f) + (0.2 + 0.4 * np.tanh(g) ** 2) * u),
    },
    node="c",
    by=1.0,
)
STUDIES = {study.name: study for study in (LINEAR, HETEROSCEDASTIC, NONLINEAR)}
