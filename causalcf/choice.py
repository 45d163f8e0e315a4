"""Which mechanism an attribute gets when the user leaves it unnamed: the one that predicts held-out rows best.

Candidates go from simple to flexible, and a simpler one is preferred while it is no more than one standard error worse (the
one-standard-error rule of L. Breiman, J. Friedman, R. Olshen, C. Stone, "Classification and Regression Trees", 1984, section
3.4.3, on paired differences), or while the difference is next to nothing: flexible ones are also slow to ask. The score is the
mean log-likelihood of a held-out row in nats, in the unit of the node.

The likelihood cannot tell how the noise of a discrete node couples its states: that stays Gumbel-max unless named otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from torch import Tensor

from causalcf.attributes.categorical import Categorical
from causalcf.attributes.empirical import Empirical
from causalcf.attributes.flow import Flow
from causalcf.attributes.regression import AdditiveNoise, LinearGaussian, LocationScale
from causalcf.errors import CausalCFError, NotFittedError
from causalcf.graph import Node
from causalcf.mechanism import Mechanism

__all__ = ["Choice", "Unchosen", "candidates", "select"]

_NOTHING = 0.005  # nats a row: what a location costs that is off by a tenth of the noise's standard deviation
_CONFIGURATIONS = 256  # of discrete parents, above which a table is no candidate


def candidates(node: Node, parents: Sequence[Node]) -> dict[str, Mechanism]:
    """What an attribute may become, by name, from simple to flexible."""
    if not node.discrete:
        if not parents:
            return {"Empirical": Empirical(), "Flow": Flow()}
        return {
            "LinearGaussian": LinearGaussian(),
            "AdditiveNoise": AdditiveNoise(),
            "LocationScale": LocationScale(),
            "Flow(bins=0)": Flow(bins=0),
            "Flow": Flow(),
        }
    found: dict[str, Mechanism] = {}
    if node.kind == "ordinal" and parents:
        found["Categorical('ordered')"] = Categorical(model="ordered")
    small = math.prod(len(parent.states or ()) for parent in parents) <= _CONFIGURATIONS
    if small and all(parent.discrete for parent in parents):
        found["Categorical('table')"] = Categorical(model="table")
    if parents:
        found["Categorical('network')"] = Categorical(model="network")
    return found


@dataclass(frozen=True)
class Choice:
    """How a node got its mechanism.

    Attributes:
        chosen: the candidate's name.
        scores: by candidate, the mean log-likelihood of a held-out row, in nats; None where there is none.
        errors: by candidate, the standard error of its difference from the best one's score.
        reasons: why a candidate could not be fitted, or why there was nothing to compare.
        rows: held out.
    """

    chosen: str
    scores: Mapping[str, float | None]
    errors: Mapping[str, float | None]
    reasons: Mapping[str, str]
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain data."""
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(self).items()}


def select(node: Node, losses: Mapping[str, Tensor | str], rows: int) -> Choice:
    """The choice among candidates, given each one's negative log-likelihood of every held-out row.

    Args:
        node: to be named in an error.
        losses: by candidate, from simple to flexible: (row,), or the reason why there is none.
        rows: held out.

    Raises:
        CausalCFError: no candidate could be fitted.
    """
    good = {name: loss for name, loss in losses.items() if isinstance(loss, Tensor)}
    reasons = {name: loss for name, loss in losses.items() if isinstance(loss, str)}
    if not good:
        raise CausalCFError(
            f"no mechanism could be fitted to node '{node.name}': "
            f"{'; '.join(f'{name}: {reason}' for name, reason in reasons.items())}"
        )
    best = min(good.values(), key=lambda loss: float(loss.mean()))
    errors = {name: float((loss - best).std() / math.sqrt(rows)) for name, loss in good.items()}
    chosen = next(name for name, loss in good.items() if float((loss - best).mean()) <= max(errors[name], _NOTHING))
    scores = {name: -float(good[name].mean()) if name in good else None for name in losses}
    return Choice(chosen, scores, {name: errors.get(name) for name in losses}, reasons, rows)


class Unchosen(Mechanism):
    """The place of a mechanism that `fit` will choose."""

    def _refuse(self) -> NoReturn:
        raise NotFittedError("its mechanism was never fitted, nor chosen. Call causalcf.fit(scm, batch) first.")

    def noise_prior(self) -> NoReturn:
        self._refuse()

    def abduct(self, value: Tensor, parents: Mapping[str, Tensor], *, generator: Any) -> NoReturn:
        self._refuse()

    def predict(self, noise: Tensor, parents: Mapping[str, Tensor], *, changed: frozenset[str] = frozenset()) -> NoReturn:
        self._refuse()

    def loss(self, value: Tensor, parents: Mapping[str, Tensor], *, generator: Any = None) -> NoReturn:
        self._refuse()

    def draw_noise(self, generator: Any) -> NoReturn:
        self._refuse()

    def save(self, directory: Path) -> NoReturn:
        self._refuse()

    @classmethod
    def load(cls, directory: Path) -> Self:
        return cls()
