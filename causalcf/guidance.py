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
    Scheduled               f(t) rule + (1 - f(t)) eps(pa)

The paper's form takes the groups as independent given x_t; where they are not, its prediction at w = 1 is not eps(pa).
The anchored and the nested form are exact at w = 1 and coincide with it where its assumption holds.

Read as neutral prediction plus one difference a group, eps_1 + sum_m (w_m - 1) d_m, a rule can be adjusted group by group:

    Projected (APG)         d_m without most of what is parallel to the neutral prediction, and no longer than a norm
    Rescaled                the contribution of group m keeps the standard deviation of the neutral prediction
    PlusPlus (CFG++)        guided in what is denoised, neutral in what is noised again

J. Ho, T. Salimans, "Classifier-Free Diffusion Guidance", 2022, https://arxiv.org/abs/2207.12598; T. Xia, F. De Sousa
Ribeiro, R. R. Rasal, A. Kori, R. Mehta, B. Glocker, "Decoupled Classifier-Free Guidance for Counterfactual Diffusion
Models", 2025, https://arxiv.org/abs/2506.14399.
"""

from __future__ import annotations

import itertools
import json
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast, get_args

import numpy as np
import torch

from causalcf.errors import DataError
from causalcf.precision import row_sum

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Rows = slice | NDArray[np.int64]

__all__ = [
    "Adjusted",
    "ClassifierFree",
    "Decoupled",
    "Difference",
    "Form",
    "Grouped",
    "Guidance",
    "Noisy",
    "Plain",
    "PlusPlus",
    "Projected",
    "Rescaled",
    "Scheduled",
    "Shown",
    "Weight",
    "guidance_from_dict",
    "parse_guidance",
]

Shown = frozenset[str]
Form = Literal["paper", "anchored", "nested"]
Weight = float | Sequence[float]
"""One number, or one a row of the batch that is asked about."""


class Guidance(ABC):
    """A rule that says which masked predictions to combine, and how."""

    @abstractmethod
    def terms(self, parents: Sequence[str], changed: Shown, t: int) -> dict[Shown, Any]:
        """The coefficient of every masked prediction, a number or one a row; they sum to 1 and none is zero.

        Args:
            parents: of the image, all of them.
            changed: those that the intervention moved.
            t: the training timestep, so that a rule may depend on it.
        """

    @property
    def by_moved(self) -> bool:
        """Whether `changed` should be the parents whose value moved in the row, instead of those that the graph reaches."""
        return False

    @property
    def by_row(self) -> bool:
        """Whether a weight of it, or of the rule beneath it, is one a row."""
        settings = self._settings().values()
        return any(value.by_row if isinstance(value, Guidance) else _has_rows(value) for value in settings)

    def rows(self, rows: Rows, total: int) -> Self:
        """This rule for some of the rows of a batch; itself unless it has a weight a row.

        Args:
            rows: which ones, as a slice or by their places.
            total: how many rows the batch has, which a weight a row must have too.
        """
        return self

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON; `guidance_from_dict` reads it back."""
        saved: dict[str, Any] = {"rule": type(self).__name__}
        for name, value in self._settings().items():
            if _has_rows(value):
                raise DataError(f"{name} has a weight a row: it belongs to an answer and cannot be stored with a model.")
            saved[name] = value.to_dict() if isinstance(value, Guidance) else value
        return saved

    def _settings(self) -> dict[str, Any]:
        # every rule is a dataclass, though its base class is none
        return {entry.name: getattr(self, entry.name) for entry in fields(cast(Any, self))}

    def __str__(self) -> str:
        """The rule in few words, or as JSON where there are none; `parse_guidance` reads both back."""
        words = _words(self)
        try:
            if words is not None and parse_guidance(words) == self:
                return words
        except DataError:  # a name with a comma or a bar in it
            pass
        return json.dumps(self.to_dict())


def _collect(terms: Sequence[tuple[Shown, Any]]) -> dict[Shown, Any]:
    """Add up the coefficients of equal predictions and drop those that cancel."""
    total: defaultdict[Shown, Any] = defaultdict(float)
    for shown, coefficient in terms:
        total[shown] = total[shown] + coefficient
    return {shown: coefficient for shown, coefficient in total.items() if np.any(np.abs(coefficient) > 1e-12)}


def _checked(name: str, weight: Any) -> Any:
    """A weight as a float, or as an array of one a row."""
    given = np.asarray(weight, dtype=np.float64)
    if given.ndim > 1 or not np.isfinite(given).all():
        raise DataError(f"the guidance weight of '{name}' is {weight}: it takes finite numbers, one or one a row; 1 is neutral.")
    return float(given) if given.ndim == 0 else given


def _has_rows(setting: Any) -> bool:
    """Whether a weight, or one of several by name, is one a row."""
    return any(isinstance(one, np.ndarray) for one in (setting.values() if isinstance(setting, Mapping) else [setting]))


def _some(name: str, weight: Any, rows: Rows, total: int) -> Any:
    """Some rows of a weight."""
    if not isinstance(weight, np.ndarray):
        return weight
    if len(weight) != total:
        raise DataError(f"the guidance weight of '{name}' has {len(weight)} values, the batch has {total} rows. Give one a row.")
    return weight[rows]


class Difference(NamedTuple):
    """What one group adds to the neutral prediction: extra [eps(more) - eps(less)]."""

    more: Shown
    less: Shown
    extra: Any


def _felt(differences: Sequence[Difference]) -> list[Difference]:
    """Those that add anything; the others need no pass."""
    return [difference for difference in differences if np.any(np.abs(difference.extra) > 1e-12)]


class Grouped(Guidance):
    """A rule that is a neutral prediction and one weighted difference a group."""

    @abstractmethod
    def parts(self, parents: Sequence[str], changed: Shown, t: int) -> tuple[dict[Shown, Any], list[Difference]]:
        """The neutral prediction, weights at 1, as coefficients that sum to 1; and what every group adds to it."""

    def terms(self, parents: Sequence[str], changed: Shown, t: int) -> dict[Shown, Any]:
        neutral, differences = self.parts(parents, changed, t)
        terms = list(neutral.items())
        for more, less, extra in differences:
            terms += [(more, extra), (less, -extra)]
        return _collect(terms)


def _check_inner(rule: Any) -> None:
    if not isinstance(rule.inner, Grouped):
        raise DataError(
            f"{type(rule).__name__} goes on top of classifier-free or decoupled guidance, not of {type(rule.inner).__name__}."
        )


@dataclass(frozen=True)
class Plain(Guidance):
    """The plain conditional: all parents shown, one pass."""

    def terms(self, parents: Sequence[str], changed: Shown, t: int) -> dict[Shown, Any]:
        return {frozenset(parents): 1.0}


@dataclass(frozen=True)
class ClassifierFree(Grouped):
    """Classifier-free guidance: one weight for all parents, moved or not, so that it drags the invariant ones along.

    Without an intervention there is nothing to guide and the prediction is the plain conditional.
    """

    weight: Weight = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _checked("weight", self.weight))

    def rows(self, rows: Rows, total: int) -> Self:
        return replace(self, weight=_some("weight", self.weight, rows, total))

    def parts(self, parents: Sequence[str], changed: Shown, t: int) -> tuple[dict[Shown, Any], list[Difference]]:
        everything, nothing = frozenset(parents), frozenset[str]()
        weight: Any = self.weight
        return {everything: 1.0}, _felt([Difference(everything, nothing, weight - 1)] if changed else [])


@dataclass(frozen=True)
class Decoupled(Grouped):
    """Decoupled classifier-free guidance: the affected and the invariant parents have weights of their own.

    Args:
        weight: of the affected parents; above 1 overshoots on purpose, 1 is neutral. As every weight here, one number or one a
            row.
        invariant: weight of the invariant parents; or a mapping with a weight for some of them by name, each then a group of its
            own when it is invariant, 1 for the others.
        form: see the module.
        weights: a weight for some attributes, or groups, by name. An attribute is then a group of its own when it is affected;
            the affected attributes not named here keep `weight`.
        groups: which parents are guided together. `graph`, the paper's rule: those that descend from the intervention, and the
            rest. `moved`: a parent that descends from it but whose value did not move in a row counts as invariant there. A
            mapping of names to parents: these, each affected when one of its parents is, and the others as by `graph`. Where
            every parent is affected, each is a group of its own, because two groups would be classifier-free guidance again.

    Example:
        >>> Decoupled(2.0, form="nested").terms(["age", "sex"], frozenset({"sex"}), 0) == {
        ...     frozenset({"age", "sex"}): 2.0, frozenset({"age"}): -1.0}
        True
    """

    weight: Weight = 2.0
    invariant: Weight | Mapping[str, Weight] = 1.0
    form: Form = "anchored"
    weights: Mapping[str, Weight] = field(default_factory=dict)
    groups: Literal["graph", "moved"] | Mapping[str, Sequence[str]] = "graph"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _checked("weight", self.weight))
        for name in ("invariant", "weights"):
            given = getattr(self, name)
            several = isinstance(given, Mapping)
            checked = {key: _checked(key, weight) for key, weight in given.items()} if several else _checked(name, given)
            object.__setattr__(self, name, checked)
        if isinstance(self.invariant, Mapping) and not self.invariant:
            object.__setattr__(self, "invariant", 1.0)
        if self.form not in get_args(Form):
            raise DataError(f"guidance has no form '{self.form}'. Forms are: {', '.join(get_args(Form))}.")
        if isinstance(self.groups, str):
            if self.groups not in ("graph", "moved"):
                raise DataError(f"guidance has no groups '{self.groups}'. Give graph, moved, or a mapping of names to parents.")
            return
        object.__setattr__(self, "groups", {name: list(members) for name, members in self.groups.items()})
        members = [parent for group in self._explicit.values() for parent in group]
        twice = sorted({parent for parent in members if members.count(parent) > 1})
        if twice:
            raise DataError(f"guidance has {', '.join(twice)} in two groups. A parent is in one at most.")
        named = {*self.weights, *(self.invariant if isinstance(self.invariant, Mapping) else ())}
        for name, group in self._explicit.items():
            inside = sorted(named.intersection(group) - {name})
            if inside:
                raise DataError(
                    f"guidance has a weight for {inside[0]}, which is in group '{name}'. Weigh the group by its name."
                )

    @property
    def _explicit(self) -> Mapping[str, Sequence[str]]:
        return {} if isinstance(self.groups, str) else self.groups

    @property
    def by_moved(self) -> bool:
        return self.groups == "moved"

    def rows(self, rows: Rows, total: int) -> Self:
        return replace(
            self,
            weight=_some("weight", self.weight, rows, total),
            invariant=self._some_named("invariant", rows, total),
            weights=self._some_named("weights", rows, total),
        )

    def _some_named(self, name: str, rows: Rows, total: int) -> Any:
        given = getattr(self, name)
        if not isinstance(given, Mapping):
            return _some(name, given, rows, total)
        return {key: _some(key, weight, rows, total) for key, weight in given.items()}

    def _weighted(self, parents: Sequence[str], changed: Shown) -> list[tuple[Shown, Any]]:
        """The groups and their weights."""
        members = {parent for group in self._explicit.values() for parent in group}
        still: Mapping[str, Any] = self.invariant if isinstance(self.invariant, Mapping) else {}
        others: Any = 1.0 if isinstance(self.invariant, Mapping) else self.invariant
        unknown = sorted(members.union(set(self.weights) - set(self._explicit), set(still) - set(self._explicit)) - set(parents))
        if unknown:
            raise DataError(
                f"guidance has a weight or a group for {', '.join(unknown)}, which is no parent of the image. "
                f"Its parents are: {', '.join(parents)}."
            )
        odd = sorted(name for name, group in self._explicit.items() if name in parents and name not in group)
        if odd:
            raise DataError(f"guidance has a group '{odd[0]}' without the parent {odd[0]}. Call the group otherwise.")
        found: list[tuple[Shown, Any]] = [
            (frozenset(group), self.weights.get(name, self.weight) if changed & set(group) else still.get(name, others))
            for name, group in self._explicit.items()
        ]
        affected = [name for name in parents if name in changed and name not in members]
        rest = [name for name in parents if name not in changed and name not in members]
        found += [(frozenset({name}), self.weights[name]) for name in affected if name in self.weights]
        found += [(frozenset({name}), still[name]) for name in rest if name in still]
        alone = not rest and not self._explicit
        affected = [name for name in affected if name not in self.weights]
        rest = [name for name in rest if name not in still]
        if affected:
            found += [(frozenset({name}), self.weight) for name in affected] if alone else [(frozenset(affected), self.weight)]
        if rest:
            found.append((frozenset(rest), others))
        return found

    def parts(self, parents: Sequence[str], changed: Shown, t: int) -> tuple[dict[Shown, Any], list[Difference]]:
        everything, nothing = frozenset(parents), frozenset[str]()
        if not changed:
            return {everything: 1.0}, []
        groups = self._weighted(parents, changed)
        neutral: dict[Shown, Any] = {everything: 1.0}
        if self.form == "paper":
            neutral = _collect([(nothing, 1.0 - len(groups)), *((group, 1.0) for group, _ in groups)])
        differences = [
            Difference(everything, everything - group, weight - 1)
            if self.form == "nested"
            else Difference(group, nothing, weight - 1)
            for group, weight in groups
        ]
        return neutral, _felt(differences)


@dataclass(frozen=True)
class Scheduled(Grouped):
    """A rule whose strength depends on the noise: f(t) of the rule and 1 - f(t) of the plain conditional.

    Args:
        inner: the rule.
        interval: the training timesteps, 0 (clean) to 999 (noise), between which it holds, both included; outside it there is one
            plain pass. T. Kynkäänniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality
            in Diffusion Models", NeurIPS 2024, https://arxiv.org/abs/2404.07724.
        points: f as (timestep, factor), linear between them and constant beyond; 1 everywhere unless told.
    """

    inner: Grouped
    interval: tuple[int, int] | None = None
    points: Sequence[tuple[float, float]] = ((0, 1.0),)

    def __post_init__(self) -> None:
        _check_inner(self)
        points = tuple((float(t), float(factor)) for t, factor in self.points)
        if not points or not np.isfinite(points).all() or any(a[0] >= b[0] for a, b in itertools.pairwise(points)):
            raise DataError(f"the points of a schedule are {self.points}: give (timestep, factor) with rising timesteps.")
        object.__setattr__(self, "points", points)
        if self.interval is not None:
            low, high = self.interval
            if not 0 <= low <= high:
                raise DataError(f"the interval of a schedule is {self.interval}: give a first and a last timestep, from 0 up.")
            object.__setattr__(self, "interval", (int(low), int(high)))

    @property
    def by_moved(self) -> bool:
        return self.inner.by_moved

    def rows(self, rows: Rows, total: int) -> Self:
        return replace(self, inner=self.inner.rows(rows, total))

    def factor(self, t: int) -> float:
        """f(t)."""
        if self.interval is not None and not self.interval[0] <= t <= self.interval[1]:
            return 0.0
        times, factors = zip(*self.points, strict=True)
        return float(np.interp(t, times, factors))

    def parts(self, parents: Sequence[str], changed: Shown, t: int) -> tuple[dict[Shown, Any], list[Difference]]:
        factor, plain = self.factor(t), (frozenset(parents), 1.0)
        if not factor:
            return dict([plain]), []
        neutral, differences = self.inner.parts(parents, changed, t)
        mixed = _collect([*((shown, factor * c) for shown, c in neutral.items()), (plain[0], 1 - factor)])
        return mixed, [Difference(more, less, factor * extra) for more, less, extra in differences]


class Noisy(NamedTuple):
    """A noisy image and its place among the levels.

    Attributes:
        image: x_t, (row, channel, height, width).
        alpha, sigma: signal and noise in it.
        below: sigma / alpha of the next, less noisy level.
    """

    image: Tensor
    alpha: float
    sigma: float
    below: float


class Adjusted(Guidance):
    """A rule on top of another one, not linear in the predictions, applied to the difference of every group by itself."""

    inner: Grouped

    @property
    def by_moved(self) -> bool:
        return self.inner.by_moved

    def rows(self, rows: Rows, total: int) -> Self:
        some: Self = replace(cast(Any, self), inner=self.inner.rows(rows, total))  # a dataclass, as above
        return some

    def terms(self, parents: Sequence[str], changed: Shown, t: int) -> dict[Shown, Any]:
        """The coefficients of the rule beneath, before the adjustment."""
        return self.inner.terms(parents, changed, t)

    def masks(self, parents: Sequence[str], changed: Shown, t: int) -> list[Shown]:
        """The masked predictions that `combine` needs."""
        neutral, differences = self.inner.parts(parents, changed, t)
        needed = [*neutral, *(mask for more, less, _ in differences for mask in (more, less))]
        return list(dict.fromkeys(needed))

    def combine(
        self,
        predicted: Mapping[Shown, Tensor],
        parents: Sequence[str],
        changed: Shown,
        t: int,
        noisy: Noisy,
        memory: dict[Any, Tensor],
    ) -> Tensor:
        """The guided noise prediction, (row, channel, height, width).

        Args:
            predicted: the noise predictions of `masks`.
            parents, changed, t: as in `terms`.
            noisy: what was predicted from.
            memory: empty at the first level, then what the rule left there.
        """
        coefficients, differences = self.inner.parts(parents, changed, t)
        neutral = sum((_column(c, noisy.image) * predicted[shown] for shown, c in coefficients.items()), torch.zeros(()))
        guided = neutral
        for more, less, extra in differences:
            extra = _column(extra, noisy.image)
            guided = guided + self.contribution(neutral, predicted[more] - predicted[less], extra, noisy, memory, (more, less))
        return guided

    @abstractmethod
    def contribution(
        self, neutral: Tensor, difference: Tensor, extra: Any, noisy: Noisy, memory: dict[Any, Tensor], key: Any
    ) -> Tensor:
        """What a group adds to the neutral noise prediction, in place of extra * difference."""


def _column(coefficient: Any, like: Tensor) -> Any:
    """A coefficient a row, to be multiplied with images."""
    if isinstance(coefficient, np.ndarray):
        return torch.as_tensor(coefficient, dtype=like.dtype).view(-1, *[1] * (like.dim() - 1))
    return coefficient


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of two images of every row."""
    return row_sum(a * b).view(-1, *[1] * (a.dim() - 1))


@dataclass(frozen=True)
class Projected(Adjusted):
    """Adaptive projected guidance: of a group's difference, mostly the part that is orthogonal to the neutral prediction.

    The part parallel to it oversaturates. All in terms of the predicted clean image. S. Sadat, O. Hilliges, R. M. Weber,
    "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models", ICLR 2025,
    https://arxiv.org/abs/2410.02416.

    Args:
        inner: the rule.
        parallel: how much of the parallel part is kept; 1 keeps all.
        norm: no difference is longer than this, in units of the image, -1 to 1, over all pixels; infinite for no limit.
        momentum: how much of the earlier levels' differences is added; negative pushes away from them.
    """

    inner: Grouped
    parallel: float = 0.0
    norm: float = 15.0
    momentum: float = -0.5

    def __post_init__(self) -> None:
        _check_inner(self)
        if not (self.norm > 0 and math.isfinite(self.parallel) and -1 < self.momentum < 1):
            raise DataError(
                f"projected guidance has norm={self.norm}, parallel={self.parallel}, momentum={self.momentum}: norm is above 0, "
                "parallel is finite and momentum is between -1 and 1."
            )

    def contribution(
        self, neutral: Tensor, difference: Tensor, extra: Any, noisy: Noisy, memory: dict[Any, Tensor], key: Any
    ) -> Tensor:
        scale = -noisy.sigma / noisy.alpha  # of a noise prediction to the clean image that it stands for
        step = scale * difference
        if self.momentum and key in memory:
            step = step + self.momentum * memory[key]
        memory[key] = step
        length = _inner(step, step).sqrt()
        step = step * (self.norm / length.clamp(min=1e-12)).clamp(max=1.0)
        clean = (noisy.image - noisy.sigma * neutral) / noisy.alpha
        along = _inner(step, clean) / _inner(clean, clean).clamp(min=1e-12) * clean
        kept: Tensor = extra * (step - along + self.parallel * along) / scale
        return kept


@dataclass(frozen=True)
class Rescaled(Adjusted):
    """Guidance rescale: what a group adds leaves the standard deviation of the prediction as it was.

    S. Lin, B. Liu, J. Li, X. Yang, "Common Diffusion Noise Schedules and Sample Steps Are Flawed", WACV 2024,
    https://arxiv.org/abs/2305.08891.

    Args:
        inner: the rule.
        factor: 0 is the rule as it is, 1 rescales in full.
    """

    inner: Grouped
    factor: float = 0.7

    def __post_init__(self) -> None:
        _check_inner(self)
        if not 0 <= self.factor <= 1:
            raise DataError(f"guidance rescale has factor={self.factor}: it is between 0 and 1.")

    def contribution(
        self, neutral: Tensor, difference: Tensor, extra: Any, noisy: Noisy, memory: dict[Any, Tensor], key: Any
    ) -> Tensor:
        guided = neutral + extra * difference
        dims = tuple(range(1, neutral.dim()))
        ratio = neutral.std(dims, keepdim=True) / guided.std(dims, keepdim=True).clamp(min=1e-12)
        added: Tensor = (self.factor * ratio + 1 - self.factor) * guided - neutral
        return added


@dataclass(frozen=True)
class PlusPlus(Adjusted):
    """CFG++: the guided prediction says what is denoised, the neutral one what is noised again.

    In a DDIM step z' = z - s eps_guided + s' eps_neutral with s = sigma / alpha, so a group adds s / (s - s') times as much as
    without it: weights are small here, 1.1 rather than 2. Where the paper noises with the prediction that hides everything,
    this one takes the neutral prediction, so that weights of 1 stay neutral. H. Chung, J. Kim, G. Y. Park, H. Nam, J. C. Ye,
    "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models", ICLR 2025, https://arxiv.org/abs/2406.08070.
    """

    inner: Grouped

    def __post_init__(self) -> None:
        _check_inner(self)

    def contribution(
        self, neutral: Tensor, difference: Tensor, extra: Any, noisy: Noisy, memory: dict[Any, Tensor], key: Any
    ) -> Tensor:
        here = noisy.sigma / noisy.alpha
        added: Tensor = extra * difference * (here / (here - noisy.below))
        return added


_RULES: dict[str, type[Guidance]] = {
    rule.__name__: rule for rule in (Plain, ClassifierFree, Decoupled, Scheduled, Projected, Rescaled, PlusPlus)
}


def guidance_from_dict(saved: Mapping[str, Any]) -> Guidance:
    """The rule that `Guidance.to_dict` wrote."""
    settings = dict(saved)
    name = settings.pop("rule", None)
    if name not in _RULES:
        raise DataError(f"no guidance rule '{name}'. Rules are: {', '.join(_RULES)}.")
    if "inner" in settings:
        settings["inner"] = guidance_from_dict(settings["inner"])
    return _RULES[name](**settings)


_WRAPPERS: dict[str, type[Adjusted]] = {"apg": Projected, "rescale": Rescaled, "cfg++": PlusPlus}


def _weights_words(everything: Any, named: Mapping[str, Any]) -> str:
    """`1.5`, `digit=2` or `1.5,digit=2`; empty where all is neutral."""
    words = [f"{everything!r}"] if everything != 1 else []
    return ",".join([*words, *(f"{name}={weight!r}" for name, weight in named.items())]).replace(".0,", ",").removesuffix(".0")


def _words(rule: Guidance) -> str | None:
    """What `parse_guidance` calls a rule; None where it has no word for a part of it."""
    if isinstance(rule, Adjusted):
        inner, name = _words(rule.inner), next(name for name, kind in _WRAPPERS.items() if kind is type(rule))
        return inner and f"{name}+{inner}"
    if isinstance(rule, Scheduled):
        inner = _words(rule.inner)
        return inner and rule.interval and f"{inner}@{rule.interval[0]}-{rule.interval[1]}"
    if isinstance(rule, ClassifierFree):
        return f"cfg:{_weights_words(rule.weight, {}) or 1}" if isinstance(rule.weight, float) else None
    if isinstance(rule, Decoupled):
        everything, named = (1.0, rule.invariant) if isinstance(rule.invariant, Mapping) else (rule.invariant, {})
        numbers = [rule.weight, *rule.weights.values(), everything, *named.values()]
        if not all(isinstance(number, float) for number in numbers) or not isinstance(rule.groups, str):
            return None
        still = _weights_words(everything, named)
        affected = _weights_words(rule.weight, rule.weights) or "1"
        return f"{rule.form}{'' if rule.groups == 'graph' else '/moved'}:{affected}" + (f"|{still}" if still else "")
    return "plain" if isinstance(rule, Plain) else None


def _read_weights(text: str, otherwise: float) -> tuple[float, dict[str, float]]:
    everything, named = otherwise, {}
    for part in filter(None, text.split(",")):
        name, equals, weight = part.rpartition("=")
        if equals:
            named[name.strip()] = float(weight)
        else:
            everything = float(weight)
    return everything, named


def parse_guidance(text: str) -> Guidance:
    """A rule from words, as on the command line.

    Args:
        text: `plain`; `cfg:2`; `paper:2`, `anchored:2` or `nested:2` with a weight of the affected parents, and others by name,
            `nested:1.5,digit=2`; after a bar the weights of the invariant ones, `nested:digit=2|thickness=1.2`. `nested/moved:2`
            guides what moved in the row. At the end an interval of timesteps, `nested:2@0-499`; in front `apg+`, `rescale+` or
            `cfg+++`, to adjust the rule. Or what `Guidance.to_dict` gives, as JSON.

    Raises:
        DataError: it is none of these.

    Example:
        >>> parse_guidance("nested:digit=2|thickness=1.2")
        Decoupled(weight=1.0, invariant={'thickness': 1.2}, form='nested', weights={'digit': 2.0}, groups='graph')
    """
    try:
        if text.lstrip().startswith("{"):
            return guidance_from_dict(json.loads(text))
        for name, kind in _WRAPPERS.items():
            if text.startswith(f"{name}+"):
                adjusted: Guidance = cast(Any, kind)(parse_guidance(text.removeprefix(f"{name}+")))
                return adjusted
        base, at, interval = text.partition("@")
        form, colon, weights = base.strip().partition(":")
        form, slash, moved = form.partition("/")
        if form == "plain" and not (at or colon or slash):
            return Plain()
        if form == "cfg" and not slash:
            rule: Grouped = ClassifierFree(float(weights or 2))
        elif form in get_args(Form) and moved in ("", "moved"):
            affected, _, still = weights.partition("|")
            weight, named = _read_weights(affected, 1.0 if "=" in affected or "|" in weights else 2.0)
            rest, named_rest = _read_weights(still, 1.0)
            if named_rest and rest != 1:
                raise DataError(f"guidance '{text}' has one weight for all invariant parents and others by name. Name them all.")
            groups: Any = moved or "graph"
            rule = Decoupled(weight, named_rest or rest, form=cast(Form, form), weights=named, groups=groups)
        else:
            raise ValueError(form)
        if not at:
            return rule
        low, _, high = interval.partition("-")
        return Scheduled(rule, interval=(int(low), int(high)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"no guidance '{text}'. Give plain, cfg:2, paper:2, anchored:2 or nested:2, weights by name as in "
            "nested:digit=2.5|thickness=1.2, an interval as in nested:2@0-499, or apg+, rescale+ or cfg+++ in front."
        ) from None
