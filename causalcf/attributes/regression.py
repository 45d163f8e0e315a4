"""Continuous attributes by regression on the parents, fitted in closed form or by any regressor of scikit-learn.

    mechanism         x = b(...), u ~ N(0, 1), b maps the line onto the node's support
    LinearGaussian    a + b . pa + s u
    AdditiveNoise     m(pa) + T(u)
    LocationScale     m(pa) + s(pa) T(u)

m and s are regressions; T, strictly increasing and piecewise linear, gives u the distribution of the residuals. Residuals are
of rows that the regression did not see (cross-fitting), because those that it saw are too small: V. Chernozhukov et al.,
"Double/Debiased Machine Learning for Treatment and Structural Parameters", Econometrics Journal 2018,
https://arxiv.org/abs/1608.00060. Additive noise: P. Hoyer, D. Janzing, J. Mooij, J. Peters, B. Schölkopf, "Nonlinear causal
discovery with additive noise models", NeurIPS 2008. Location and scale: A. Immer et al., "On the Identifiability and
Estimation of Causal Location-Scale Noise Models", ICML 2023, https://arxiv.org/abs/2210.09054.
"""

from __future__ import annotations

import importlib
import math
import zipfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from causalcf.attributes.base import (
    Context,
    ContinuousMechanism,
    describe_parents,
    finite_support,
    scale_of,
    support_bijection,
)
from causalcf.attributes.piecewise import NormalScore
from causalcf.errors import DataError, StoreError
from causalcf.graph import Node
from causalcf.mechanism import Parents

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AdditiveNoise", "LinearGaussian", "LocationScale"]

Coefficients = Mapping[str, float | Sequence[float]]

_FOLDS = 5
_OUTLIER = 9.0  # times the mean square: what a residual beyond counts for in the scale
_RARE, _ROWS_BEYOND = 0.003, 10  # of the parents at each end, where a smooth fit has too few rows to bend
_SMALLEST = 1e-6  # of the node's standard deviation: the least noise that a fit may find, so that it stays a density


class LinearGaussian(ContinuousMechanism):
    """A continuous attribute that is linear in its parents, with normal noise: least squares in closed form, or known.

    For a node with a support, the line is the space that the support is mapped onto (the logarithm of the distance to one
    end, the logit between two), so that every value is inside.

    Args:
        intercept: of a known mechanism, in the node's unit, as the rest. A known mechanism needs no fit and fitting leaves it
            alone; its line is the node's own unit, whatever the support.
        coefficients: of a known mechanism, by parent: for a continuous one a number, for a discrete one what each of its states
            adds, in the order of the node's states.
        scale: of a known mechanism: the standard deviation of its noise.
        spec: what `prepare` found; given when a saved mechanism is loaded.

    Raises:
        DataError: some of the three known parts are missing or not finite.

    Example:
        >>> mechanism = LinearGaussian(intercept=100.0, coefficients={"age": 0.5, "sex": [0.0, 4.0]}, scale=12.0)
        >>> parents = {"age": torch.tensor([40.0, 40.0]).double(), "sex": torch.tensor([0, 1])}
        >>> mechanism.predict(torch.zeros(2).double(), parents).tolist()
        [120.0, 124.0]
    """

    def __init__(
        self,
        *,
        intercept: float | None = None,
        coefficients: Coefficients | None = None,
        scale: float | None = None,
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        given = {"intercept": intercept, "coefficients": coefficients, "scale": scale}
        super().__init__(spec if spec is not None else _known_line(given), {})

    def check(self, node: Node, parent_nodes: Sequence[Node]) -> None:
        """Raise a DataError unless this mechanism can belong to this node with these parents."""
        if self.spec is None or not self.spec["known"]:
            return
        coefficients = self.spec["coefficients"]
        if set(coefficients) != {parent.name for parent in parent_nodes}:
            raise DataError(
                f"the known coefficients of '{node.name}' are for {', '.join(coefficients) or 'no parents'}, but its parents are "
                f"{', '.join(parent.name for parent in parent_nodes) or 'none'}."
            )
        for parent in parent_nodes:
            found = coefficients[parent.name]
            listed = len(found) if isinstance(found, list) else None
            needed = len(parent.states or ()) if parent.discrete else None
            if listed != needed:
                wanted = f"{needed} numbers, one a state: {parent.states}" if parent.discrete else "one number"
                raise DataError(f"the coefficient of '{parent.name}' in '{node.name}' is {found!r}, but it takes {wanted}.")

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        self.check(node, parent_nodes)
        if self.spec is not None and self.spec["known"]:
            return
        support = finite_support(node)
        flat = support_bijection(support).inv(value.double())
        scale_of(value, node.name)
        self._start({"support": support, "known": False, **_least_squares(parent_nodes, flat, parents)})

    def _build(self, spec: Mapping[str, Any]) -> None:
        self.intercept, self.scale = float(spec["intercept"]), float(spec["scale"])
        self.slopes = {name: found for name, found in spec["coefficients"].items() if not isinstance(found, list)}
        self.added = nn.ParameterDict(
            {
                str(place): nn.Parameter(torch.tensor(found, dtype=torch.float64), requires_grad=False)
                for place, found in enumerate(spec["coefficients"].values())
                if isinstance(found, list)
            }
        )
        self.places = {name: str(place) for place, name in enumerate(spec["coefficients"]) if name not in self.slopes}

    def _line(self, parents: Parents) -> Tensor | float:
        line: Tensor | float = self.intercept
        for name, slope in self.slopes.items():
            line = torch.add(parents[name] * slope, line)
        for name, place in self.places.items():
            line = self.added[place][parents[name]].add_(line)
        return line

    def _forward(self, noise: Tensor, parents: Parents) -> Tensor:
        return noise * self.scale + self._line(parents)

    def _backward(self, flat: Tensor, parents: Parents) -> tuple[Tensor, Tensor]:
        return (flat - self._line(parents)) / self.scale, torch.full_like(self._anchor, math.log(self.scale))


def _known_line(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The specification of a mechanism whose numbers the user gives; None if none is given."""
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise DataError(f"a known LinearGaussian needs {' and '.join(missing)} too; without any of the three it is fitted.")
    try:
        intercept, scale = float(given["intercept"]), float(given["scale"])
        coefficients = {
            name: float(found) if np.ndim(found) == 0 else [float(number) for number in found]
            for name, found in given["coefficients"].items()
        }
    except (TypeError, ValueError, AttributeError):
        raise DataError(
            f"intercept and scale take numbers, coefficients a number, or one a state, by parent; not {dict(given)!r}."
        ) from None
    numbers = np.concatenate([np.atleast_1d(found) for found in (intercept, scale, *coefficients.values())])
    if not np.isfinite(numbers).all() or scale <= 0:
        raise DataError(f"a known LinearGaussian takes finite numbers and a scale above zero, not {dict(given)!r}.")
    return {"support": None, "known": True, "intercept": intercept, "coefficients": coefficients, "scale": scale}


def _least_squares(parent_nodes: Sequence[Node], flat: Tensor, parents: Parents) -> dict[str, Any]:
    """Intercept, coefficients and scale by least squares; the shortest solution where the parents are collinear."""
    described = describe_parents(parent_nodes, parents)
    mean, sd, n = float(flat.mean()), float(flat.std()), len(flat)
    design = torch.ones(n, 1, dtype=torch.float64)
    if described:
        design = torch.cat([design, Context(described)(parents)], dim=1)
    q, r = torch.linalg.qr(design)
    solved = torch.linalg.lstsq(r, (q.T @ ((flat - mean) / sd))[:, None], driver="gelsd")
    beta = solved.solution[:, 0]
    residual = (flat - mean) / sd - design @ beta
    free = max(1, n - int(solved.rank))
    intercept, coefficients, place = mean + sd * float(beta[0]), dict[str, Any](), 1
    for spec in described:
        width = spec.get("states", 1)
        found = (sd * beta[place : place + width]).tolist()
        place += width
        if "states" in spec:
            coefficients[spec["name"]] = found
        else:
            coefficients[spec["name"]] = found[0] / spec["scale"]
            intercept -= coefficients[spec["name"]] * spec["mean"]
    scale = sd * max(_SMALLEST, math.sqrt(float(residual.square().sum()) / free))
    return {"intercept": intercept, "coefficients": coefficients, "scale": scale}


class _Regression(NamedTuple):
    """What a fit found: regressors by role, the residuals of rows unseen, and what else belongs into the specification."""

    fitted: dict[str, Any]
    residual: NDArray[np.float64]
    more: dict[str, Any]


class _Regressed(ContinuousMechanism):
    """What the mechanisms over scikit-learn share: x = b(mean + sd (m(pa) + s(pa) T(u))).

    Regressors see the parents standardised or one-hot, and a standardised target.
    """

    _ROLES: tuple[str, ...]

    def __init__(self, regressors: Mapping[str, Any], spec: Mapping[str, Any] | None) -> None:
        for role, regressor in regressors.items():
            if regressor is not None and not (hasattr(regressor, "fit") and hasattr(regressor, "predict")):
                raise DataError(f"{role}={regressor!r} is no scikit-learn regressor: it takes an object with fit and predict.")
        self.regressors: dict[str, Any] = dict(regressors)
        self.fitted: dict[str, Any] = {}
        super().__init__(spec, {})

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        support = finite_support(node)
        flat = support_bijection(support).inv(value.double())
        scale_of(value, node.name)
        spec: dict[str, Any] = {
            "support": support,
            "mean": float(flat.mean()),
            "scale": float(flat.std()),
            "parents": describe_parents(parent_nodes, parents),
        }
        target = (flat - spec["mean"]) / spec["scale"]
        residual = target
        if spec["parents"]:
            found = self._regress(Context(spec["parents"])(parents).numpy(), target.numpy(), _numbers(spec["parents"]))
            self.fitted, residual = found.fitted, torch.from_numpy(found.residual)
            spec |= found.more
        self._start({**spec, "residual": NormalScore.fit(residual).knots})

    @abstractmethod
    def _regress(self, rows: NDArray[np.float64], target: NDArray[np.float64], numbers: list[int]) -> _Regression:
        """Fit to rows of parents, (row, column), of which the columns `numbers` are not one-hot, and a target, (row,)."""

    def _build(self, spec: Mapping[str, Any]) -> None:
        self.context = Context(spec["parents"])
        self.residual = NormalScore(**spec["residual"])
        self.mean, self.scale = float(spec["mean"]), float(spec["scale"])

    def _location_scale(self, parents: Parents) -> tuple[Tensor | float, Tensor | float]:
        """m and s in the standardised unit."""
        if not self.context.parents:
            return 0.0, 1.0
        return self._regressed(self.context(parents).numpy())

    @abstractmethod
    def _regressed(self, rows: NDArray[np.float64]) -> tuple[Tensor | float, Tensor | float]:
        """m and s, from rows of parents, (row, column)."""

    def _forward(self, noise: Tensor, parents: Parents) -> Tensor:
        m, s = self._location_scale(parents)
        return self.mean + self.scale * (m + s * self.residual.forward(noise))

    def _backward(self, flat: Tensor, parents: Parents) -> tuple[Tensor, Tensor]:
        m, s = self._location_scale(parents)
        noise, log_slope = self.residual.inverse(((flat - self.mean) / self.scale - m) / s)
        return noise, log_slope + math.log(self.scale) + (s.log() if isinstance(s, Tensor) else math.log(s))

    def save(self, directory: Path) -> None:
        super().save(directory)
        for role, regressor in self.fitted.items():
            write_estimator(regressor, directory / f"{role}.skops")

    @classmethod
    def load(cls, directory: Path) -> Self:
        mechanism = super().load(directory)
        for role in cls._ROLES:
            if (directory / f"{role}.skops").is_file():
                mechanism.fitted[role] = read_estimator(directory / f"{role}.skops")
                mechanism.regressors[role] = mechanism.fitted[role]
        return mechanism


class AdditiveNoise(_Regressed):
    """A continuous attribute with a regression on its parents and noise added to it.

    The noise has the same distribution under all parents. Where its spread depends on them, `LocationScale` or `Flow` can see
    it and this mechanism cannot: its counterfactuals are then off without a sign.

    Args:
        regressor: of scikit-learn, or alike; it is copied, not fitted. Unless told, a smooth one: ridge
            regression on a line, splines and random waves.
        spec: what `prepare` found; given when a saved mechanism is loaded.

    Example:
        >>> from sklearn.ensemble import RandomForestRegressor
        >>> mechanism = AdditiveNoise(RandomForestRegressor(min_samples_leaf=20))
    """

    _ROLES = ("regressor",)

    def __init__(self, regressor: Any = None, *, spec: Mapping[str, Any] | None = None) -> None:
        super().__init__({"regressor": regressor}, spec)

    def _regress(self, rows: NDArray[np.float64], target: NDArray[np.float64], numbers: list[int]) -> _Regression:
        regressor = self.regressors["regressor"]
        m = _cross_fit(regressor if regressor is not None else _smooth(rows, numbers), rows, target)
        return _Regression({"regressor": m.whole}, target - m.unseen, {})

    def _regressed(self, rows: NDArray[np.float64]) -> tuple[Tensor | float, Tensor | float]:
        return _predicted(self.fitted["regressor"], rows), 1.0


class LocationScale(_Regressed):
    """A continuous attribute whose location and spread are regressions on its parents.

    The location is fitted first. The logarithm of its absolute residuals gives a first scale, and one step of Fisher's scoring
    on their squares the scale. Then the location is fitted again, rows weighted by the inverse variance if the regressor takes
    weights.

    Args:
        location: of scikit-learn, or alike; it is copied, not fitted. Unless told, a smooth one: ridge
            regression on a line, splines and random waves.
        scale: likewise, of the logarithm of the scale; unless told, the same kind as the location.
        spec: what `prepare` found; given when a saved mechanism is loaded.
    """

    _ROLES = ("location", "scale")

    def __init__(self, location: Any = None, scale: Any = None, *, spec: Mapping[str, Any] | None = None) -> None:
        super().__init__({"location": location, "scale": scale}, spec)

    def _regress(self, rows: NDArray[np.float64], target: NDArray[np.float64], numbers: list[int]) -> _Regression:
        unnamed = _smooth(rows, numbers)
        location = self.regressors["location"] if self.regressors["location"] is not None else unnamed
        scale = self.regressors["scale"] if self.regressors["scale"] is not None else location
        residual = np.abs(target - _cross_fit(location, rows, target).unseen)
        log_residual = np.log(np.maximum(residual, max(1e-3 * float(residual.mean()), _SMALLEST)))
        log_scale, _ = _held(_cross_fit(scale, rows, log_residual).unseen)
        ratio = np.square(residual / np.exp(log_scale))
        ratio = np.minimum(ratio / ratio.mean(), _OUTLIER)
        s = _cross_fit(scale, rows, log_scale + (ratio - 1) / 2)
        log_scale, ends = _held(s.unseen)
        m = _cross_fit(location, rows, target, weight=np.exp(-2 * (log_scale - log_scale.mean())))
        residual = (target - m.unseen) / np.exp(log_scale)
        return _Regression({"location": m.whole, "scale": s.whole}, residual, {"log_scale": ends})

    def _regressed(self, rows: NDArray[np.float64]) -> tuple[Tensor | float, Tensor | float]:
        log_scale = _predicted(self.fitted["scale"], rows).clamp(*self._fitted()["log_scale"])
        return _predicted(self.fitted["location"], rows), torch.exp(log_scale)


def _held(log_scale: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[float]]:
    """The logarithm of the scale within all but its rarest values, and these ends: a scale that runs away is no scale."""
    low, high = (float(end) for end in np.quantile(log_scale, [_RARE, 1 - _RARE]))
    return log_scale.clip(low, high), [low, high]


class _CrossFit(NamedTuple):
    """A regressor fitted to all rows, and its predictions of each by one that had not seen it."""

    whole: Any
    unseen: NDArray[np.float64]


def _cross_fit(
    regressor: Any, rows: NDArray[np.float64], target: NDArray[np.float64], weight: NDArray[np.float64] | None = None
) -> _CrossFit:
    from sklearn.base import clone
    from sklearn.model_selection import KFold

    template = _seeded(regressor)
    key = _weight_key(template) if weight is not None else None

    def fitted(some: Any) -> Any:
        weights = {} if key is None or weight is None else {key: weight[some]}
        return clone(template).fit(rows[some], target[some], **weights)

    unseen = np.empty(len(target))
    for seen, left in KFold(min(_FOLDS, len(target)), shuffle=True, random_state=0).split(rows):
        unseen[left] = np.asarray(fitted(seen).predict(rows[left]), dtype=np.float64).reshape(-1)
    return _CrossFit(fitted(slice(None)), unseen)


def _predicted(regressor: Any, rows: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.asarray(regressor.predict(rows), dtype=np.float64).reshape(-1))


def _numbers(parents: Sequence[Mapping[str, Any]]) -> list[int]:
    """The columns of a `Context` that are numbers rather than one-hot."""
    starts = np.cumsum([0, *(parent.get("states", 1) for parent in parents)])
    return [int(start) for start, parent in zip(starts, parents, strict=False) if "states" not in parent]


def _smooth(rows: NDArray[np.float64], numbers: list[int]) -> Any:
    """The regressor of a user who names none: a line, splines of each number, and random waves of all parents together.

    The waves stand for a Gaussian kernel: A. Rahimi, B. Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007.
    Unlike the kernel's own features they are well conditioned, so that a row gets the same answer alone and in a batch. Where
    parents are rarer than a few rows in a thousand, the splines stay what they were. The penalty is chosen by generalised
    cross-validation.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import SplineTransformer

    n = len(rows)
    parts: list[Any] = ["passthrough"]
    if numbers:
        rare = min(0.1, max(_RARE, _ROWS_BEYOND / n))
        low, high = np.quantile(rows[:, numbers], [rare, 1 - rare], axis=0)
        stuck = low == high
        low, high = np.where(stuck, rows[:, numbers].min(0), low), np.where(stuck, rows[:, numbers].max(0), high)
        knots = np.linspace(low, high, int(np.clip(n // 50, 3, 14)))
        splines = SplineTransformer(knots=knots, extrapolation="constant", include_bias=False)
        parts.append(ColumnTransformer([("splines", splines, numbers)]))
    if waves := min(50, n // 20):
        parts.append(RBFSampler(gamma=0.5 / rows.shape[1], n_components=waves, random_state=0))
    return make_pipeline(make_union(*parts), RidgeCV(np.logspace(-3, 3, 12)))


def _seeded(regressor: Any) -> Any:
    """The regressor with every seed that it leaves open set, so that a fit is a function of its rows."""
    from sklearn.base import clone

    seeds = {name: 0 for name, value in regressor.get_params().items() if name.endswith("random_state") and value is None}
    return clone(regressor).set_params(**seeds)


def _weight_key(regressor: Any) -> str | None:
    """What `fit` calls the weights of rows, or None if it takes none."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    if isinstance(regressor, Pipeline):
        name, last = regressor.steps[-1]
        return f"{name}__sample_weight" if has_fit_parameter(last, "sample_weight") else None
    return "sample_weight" if has_fit_parameter(regressor, "sample_weight") else None


# what fitted estimators of scikit-learn hold that is no class of scikit-learn, and does nothing by being called
_HARMLESS = {
    "functools.partial",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    "scipy.interpolate._bsplines.BSpline",
    "sklearn.utils.validation.check_array",
}
_NOT_FOR_MODELS = ("sklearn.externals.", "sklearn.datasets.", "sklearn.utils._testing.")


def _strangers(types: Sequence[str]) -> list[str]:
    """The types that are neither classes of scikit-learn nor on the short list above."""
    strangers = []
    for name in types:
        module, _, attribute = name.rpartition(".")
        of_sklearn = module.startswith("sklearn.") and not name.startswith(_NOT_FOR_MODELS)
        if name not in _HARMLESS and not (of_sklearn and isinstance(_named(module, attribute), type)):
            strangers.append(name)
    return strangers


def _named(module: str, attribute: str) -> Any:
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None


def write_estimator(estimator: Any, path: Path) -> None:
    """Write a fitted estimator with skops, which runs no code of the file when it is read.

    Raises:
        StoreError: it holds something that `read_estimator` would refuse.
    """
    io, errors = (cast(Any, importlib.import_module(name)) for name in ("skops.io", "skops.io.exceptions"))
    try:
        data = io.dumps(estimator)
    except (errors.UnsupportedTypeException, TypeError, AttributeError) as error:
        raise StoreError(f"{type(estimator).__name__} cannot be written to a file: {error}") from error
    _check_types(io.get_untrusted_types(data=data), "the regressor")
    path.write_bytes(data)


def read_estimator(path: Path) -> Any:
    """The estimator of a file that `write_estimator` wrote.

    Raises:
        StoreError: the file holds a type that does not belong to scikit-learn, or is damaged.
    """
    io = cast(Any, importlib.import_module("skops.io"))
    try:
        types = io.get_untrusted_types(file=path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise StoreError(f"'{path}' is no file of skops: {error}") from error
    _check_types(types, f"'{path}'")
    return io.load(path, trusted=types)


def _check_types(types: Sequence[str], what: str) -> None:
    if strangers := _strangers(types):
        raise StoreError(
            f"{what} holds {', '.join(strangers)}, which is not part of scikit-learn: models are saved and opened without "
            "running foreign code. Use a regressor of scikit-learn, or a mechanism of your own with its own save and load."
        )
