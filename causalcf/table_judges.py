"""Judges of tables: an anti-causal predictor reads a cause off its effects, as a network reads an attribute off an image.

It sees the children of the attribute and their other parents, never the attribute's own causes: what an intervention on it should
move, and what it must not. Numbers go in as cubic splines, labels one by one; scikit-learn fits a logistic or a ridge regression.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TableJudge", "effects_of"]

_KNOTS = 6
_PENALTY = 1.0


def effects_of(graph: CausalGraph, name: str) -> list[str]:
    """The children of an attribute and their other parents, none of them an image: what a judge of it may look at."""
    children = [node.name for node in graph.nodes if name in node.parents and node.kind != "image"]
    others = {parent for child in children for parent in graph.parents(child)} - {name}
    return [one for one in graph.attributes if one in children or one in others]


def _node(entry: Mapping[str, Any]) -> Node:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Node(**fields)


class TableJudge:
    """Reads one attribute off others of a table, (row,) of labels or numbers.

    Args:
        node: what it reads.
        inputs: what it looks at.
        knots: of the splines, by input that is a number.
        weights: (output, column) of the regression.
        intercept: (output,).
    """

    def __init__(
        self, node: Node, inputs: Sequence[Node], knots: Mapping[str, Sequence[float]], weights: Any, intercept: Any
    ) -> None:
        self.node, self.inputs, self.knots = node, list(inputs), dict(knots)
        self.weights, self.intercept = np.asarray(weights, dtype=np.float64), np.asarray(intercept, dtype=np.float64)

    @classmethod
    def fit(cls, batch: Batch, name: str) -> Self:
        """A judge of one attribute, fitted to rows that neither the model nor the counterfactuals saw.

        Raises:
            DataError: the attribute has no effect that a table shows.
        """
        from sklearn.linear_model import LogisticRegression, Ridge

        graph = batch.graph
        inputs = [graph.node(other) for other in effects_of(graph, name)]
        if not inputs:
            raise DataError(f"'{name}' has no effect in graph '{graph.name}' that a table shows, so that no judge can read it.")
        knots = {
            node.name: np.unique(np.quantile(batch.frame[node.name], np.linspace(0, 1, _KNOTS))).tolist()
            for node in inputs
            if not node.discrete
        }
        node = graph.node(name)
        judge = cls(node, inputs, knots, [[0.0]], [0.0])
        columns = judge._columns(batch.frame)
        if node.discrete:
            states = list(node.states or ())
            code = np.array([states.index(label) for label in batch.frame[name]])
            found = LogisticRegression(C=1 / _PENALTY, max_iter=1000).fit(columns, code)
            weights, intercept = found.coef_, found.intercept_
            if len(found.classes_) == 2:  # scikit-learn keeps the second label's score alone
                weights, intercept = np.concatenate([-weights, weights]) / 2, np.concatenate([-intercept, intercept]) / 2
            judge.weights = np.zeros((len(states), columns.shape[1]))
            judge.intercept = np.full(len(states), -np.inf)  # of a label that no row has
            judge.weights[found.classes_], judge.intercept[found.classes_] = weights, intercept
        else:
            fitted = Ridge(alpha=_PENALTY).fit(columns, batch.frame[name].to_numpy(float))
            judge.weights, judge.intercept = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
        return judge

    def _columns(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        from sklearn.preprocessing import SplineTransformer

        columns = []
        for node in self.inputs:
            if node.discrete:
                columns += [(frame[node.name] == state).to_numpy(float)[:, None] for state in node.states or ()]
                continue
            knots = np.asarray(self.knots[node.name], dtype=np.float64)[:, None]
            value = frame[node.name].to_numpy(float)[:, None]
            if len(knots) < 2:
                columns.append(value - knots[0])
            else:
                columns.append(SplineTransformer(knots=knots, degree=3, extrapolation="linear").fit(knots).transform(value))
        return np.concatenate(columns, axis=1)

    def _outputs(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        # a row's sum of products in the same order whatever its company, where a matrix product's depends on it
        return np.asarray((self._columns(frame)[:, None, :] * self.weights).sum(axis=2) + self.intercept)

    def __call__(self, frame: pd.DataFrame) -> NDArray[Any]:
        """Labels or numbers of the rows of a table."""
        outputs = self._outputs(frame)
        return np.asarray(self.node.states, dtype=object)[outputs.argmax(axis=1)] if self.node.discrete else outputs[:, 0]

    @property
    def scores(self) -> Callable[[pd.DataFrame], NDArray[np.float64]] | None:
        """From a table to the probability of every label, (row, label); None where it reads a number."""
        return self._probabilities if self.node.discrete else None

    def _probabilities(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        from scipy.special import softmax

        return np.asarray(softmax(self._outputs(frame), axis=1))

    def save(self, directory: Path) -> None:
        """Write the judge into an existing empty directory."""
        config = {
            "node": self.node.to_dict(), "inputs": [node.to_dict() for node in self.inputs], "knots": self.knots,
            "weights": self.weights.tolist(), "intercept": [None if np.isinf(one) else one for one in self.intercept.tolist()],
        }  # fmt: skip
        (directory / "judge.json").write_text(json.dumps(config, indent=1))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The judge that `save` wrote."""
        config = json.loads((directory / "judge.json").read_text())
        intercept = [-np.inf if one is None else one for one in config["intercept"]]
        inputs = [_node(entry) for entry in config["inputs"]]
        return cls(_node(config["node"]), inputs, config["knots"], config["weights"], intercept)
