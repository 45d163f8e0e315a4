"""Guidance: combining masked noise predictions, so that a counterfactual shows the attribute that it was asked for.

    name       symbol       meaning
    shown      S            the parents that a prediction eps(x_t, t; S) sees; the others are replaced by null tokens
    changed    A            affected parents of the image: intervened, or downstream of an intervention
    weight     w_m          of group m; 1 is the plain conditional, above 1 overshoots on purpose

Every rule is a weighted sum of masked predictions whose coefficients sum to 1:

    plain                   eps(pa)
    ClassifierFree          eps(0) + w [eps(pa) - eps(0)]
    Decoupled "paper"       eps(0) + sum_m w_m [eps(pa_m) - eps(0)]
    Decoupled "anchored"    eps(pa) + sum_m (w_m - 1) [eps(pa_m) - eps(0)]
    Decoupled "nested"      eps(pa) + sum_m (w_m - 1) [eps(pa) - eps(pa without pa_m)]

The paper's form takes the groups as independent given x_t; where they are not, its prediction at w = 1 is not eps(pa).
The anchored and the nested form are exact at w = 1 and coincide with it where its assumption holds.

J. Ho, T. Salimans, "Classifier-Free Diffusion Guidance", 2022, https://arxiv.org/abs/2207.12598; T. Xia, F. De Sousa
Ribeiro, R. R. Rasal, A. Kori, R. Mehta, B. Glocker, "Decoupled Classifier-Free Guidance for Counterfactual Diffusion
Models", 2025, https://arxiv.org/abs/2506.14399.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from causalcf.errors import DataError

__all__ = ["ClassifierFree", "Decoupled", "Form", "Guidance", "Plain", "Shown", "guidance_from_dict"]

Shown = frozenset[str]
Form = Literal["paper", "anchored", "nested"]


class Guidance(ABC):
    """A rule that says which masked predictions to combine, and how."""

    @abstractmethod
    def terms(self, parents: Sequence[str], changed: Shown, t: int) -> dict[Shown, float]:
        """The coefficient of every masked prediction; they sum to 1 and none is zero.

        Args:
            parents: of the image, all of them.
            changed: those that the intervention moved.
            t: the training timestep, so that a rule may depend on it.
        """

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON; `guidance_from_dict` reads it back."""
        return {"rule": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


def _collect(terms: Sequence[tuple[Shown, float]]) -> dict[Shown, float]:
    """Add up the coefficients of equal predictions and drop those that cancel."""
    total: defaultdict[Shown, float] = defaultdict(float)
    for shown, coefficient in terms:
        total[shown] += coefficient
    return {shown: coefficient for shown, coefficient in total.items() if abs(coefficient) > 1e-12}


def _check_weights(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise DataError(f"the guidance weight of '{name}' is {weight}: it takes a finite number, 1 being neutral.")


@dataclass(frozen=True)
class Plain(Guidance):
    """The plain conditional: all parents shown, one pass."""

    def terms(self, parents: Sequence[str], changed: Shown, t: int) -> dict[Shown, float]:
        return {frozenset(parents): 1.0}


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Classifier-free guidance: one weight for all parents, moved or not, so that it drags the invariant ones along.

    Without an intervention there is nothing to guide and the prediction is the plain conditional.
    """

    weight: float = 2.0

    def __post_init__(self) -> None:
        _check_weights({"weight": self.weight})

    def terms(self, parents: Sequence[str], changed: Shown, t: int) -> dict[Shown, float]:
        weight = self.weight if changed else 1.0
        return _collect([(frozenset(parents), weight), (frozenset(), 1 - weight)])


@dataclass(frozen=True)
class Decoupled(Guidance):
    """Decoupled classifier-free guidance: the affected and the invariant parents have weights of their own.

    The affected parents are those in the graph's descendants of the intervention. Where every parent is affected, each
    becomes a group of its own, because two groups would be classifier-free guidance again.

    Args:
        weight: of the affected parents; above 1 overshoots on purpose, 1 is neutral.
        invariant: weight of the invariant parents.
        form: see the module.
        weights: a weight for some attributes by name, each then a group of its own when it is affected; the affected
            attributes not named here keep `weight`.

    Example:
        >>> Decoupled(2.0, form="nested").terms(["age", "sex"], frozenset({"sex"}), 0) == {
        ...     frozenset({"age", "sex"}): 2.0, frozenset({"age"}): -1.0}
        True
    """

    weight: float = 2.0
    invariant: float = 1.0
    form: Form = "anchored"
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_weights({"weight": self.weight, "invariant": self.invariant, **self.weights})
        if self.form not in get_args(Form):
            raise DataError(f"guidance has no form '{self.form}'. Forms are: {', '.join(get_args(Form))}.")

    def _groups(self, parents: Sequence[str], changed: Shown) -> list[tuple[Shown, float]]:
        unknown = sorted(set(self.weights) - set(parents))
        if unknown:
            raise DataError(
                f"guidance has a weight for {', '.join(unknown)}, which is no parent of the image. "
                f"Its parents are: {', '.join(parents)}."
            )
        affected = [name for name in parents if name in changed]
        rest = [name for name in parents if name not in changed]
        groups = [(frozenset({name}), self.weights[name]) for name in affected if name in self.weights]
        others = [name for name in affected if name not in self.weights]
        if others and not rest:
            groups += [(frozenset({name}), self.weight) for name in others]
        elif others:
            groups.append((frozenset(others), self.weight))
        if rest:
            groups.append((frozenset(rest), self.invariant))
        return groups

    def terms(self, parents: Sequence[str], changed: Shown, t: int) -> dict[Shown, float]:
        everything, nothing = frozenset(parents), frozenset[str]()
        if not changed:
            return {everything: 1.0}
        groups = self._groups(parents, changed)
        if self.form == "paper":
            terms = [(nothing, 1.0)]
            for group, weight in groups:
                terms += [(group, weight), (nothing, -weight)]
        else:
            terms = [(everything, 1.0)]
            for group, weight in groups:
                more, less = (group, nothing) if self.form == "anchored" else (everything, everything - group)
                terms += [(more, weight - 1), (less, 1 - weight)]
        return _collect(terms)


def guidance_from_dict(saved: Mapping[str, Any]) -> Guidance:
    """The rule that `Guidance.to_dict` wrote."""
    rules: dict[str, type[Guidance]] = {rule.__name__: rule for rule in (Plain, ClassifierFree, Decoupled)}
    settings = dict(saved)
    name = settings.pop("rule", None)
    if name not in rules:
        raise DataError(f"no guidance rule '{name}'. Rules are: {', '.join(rules)}.")
    return rules[name](**settings)
