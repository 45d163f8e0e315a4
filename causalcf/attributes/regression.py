"""Continuous attributes by regression on the parents, fitted in closed form or by any regressor of scikit-learn.

    mechanism         x = b(...), b maps the line onto the node's support
    LinearGaussian    a + b . pa + s u, u ~ N(0, 1)
    AdditiveNoise     m(pa) + u
    LocationScale     m(pa) + s(pa) u

m and s are regressions; the noise of the last two is distributed as the residuals: normal, or a strictly increasing, piecewise
linear map of a normal. Residuals are of rows that the regression did not see (cross-fitting), because those that it saw are too
small: V. Chernozhukov et al., "Double/Debiased Machine Learning for Treatment and Structural Parameters", Econometrics Journal
2018, https://arxiv.org/abs/1608.00060. Additive noise: P. Hoyer, D. Janzing, J. Mooij, J. Peters, B. Schölkopf, "Nonlinear causal
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
import pyro.distributions as dist
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
from causalcf.attributes.smooth import Smooth, number_columns, smooth_regressor
from causalcf.errors import DataError, StoreError
from causalcf.graph import Node
from causalcf.mechanism import Parents
from causalcf.seeds import RowGenerator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AdditiveNoise", "LinearGaussian", "LocationScale"]

Coefficients = Mapping[str, float | Sequence[float]]

_FOLDS = 5
_OUTLIER = 9.0  # times the mean square: what a residual beyond counts for in the scale
_RARE = 0.003  # of the scales at each end, which are held
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
        super().check(node, parent_nodes)
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
            line = torch.add(self.added[place][parents[name]], line)
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
    """What the mechanisms over scikit-learn share: x = b(mean + sd (m(pa) + s(pa) u)).

    Regressors see the parents standardised or one-hot, and a standardised target. Those of a user who names none are evaluated
    by `Smooth`, others by themselves.
    """

    _ROLES: tuple[str, ...]

    def __init__(self, regressors: Mapping[str, Any], spec: Mapping[str, Any] | None) -> None:
        for role, regressor in regressors.items():
            if regressor is not None and not (hasattr(regressor, "fit") and hasattr(regressor, "predict")):
                raise DataError(f"{role}={regressor!r} is no scikit-learn regressor: it takes an object with fit and predict.")
        self.regressors: dict[str, Any] = dict(regressors)
        self.fitted: dict[str, Any] = {}
        self.smooth: Smooth | None = None
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
        residual, self.fitted, smooth = target, {}, None
        if spec["parents"]:
            rows = Context(spec["parents"])(parents).numpy()
            unnamed = smooth_regressor(rows, number_columns(spec["parents"]))
            regressors = self._regressors(unnamed)
            found = self._regress(regressors, rows, target.numpy())
            roles = [role for role, regressor in regressors.items() if regressor is unnamed]
            if roles:
                smooth = Smooth.of([found.fitted.pop(role) for role in roles], spec["parents"], rows)
                spec["smooth"] = {"roles": roles, "waves": smooth.count}
            residual, self.fitted = torch.from_numpy(found.residual), found.fitted
            spec |= found.more
        self._start({**spec, "residual": NormalScore.likeliest(residual).knots})
        self.smooth = smooth

    @abstractmethod
    def _regressors(self, unnamed: Any) -> dict[str, Any]:
        """The regressor of every role, which is `unnamed` where the user names none."""

    @abstractmethod
    def _regress(self, regressors: Mapping[str, Any], rows: NDArray[np.float64], target: NDArray[np.float64]) -> _Regression:
        """Fit to rows of parents, (row, column), and a target, (row,)."""

    def _build(self, spec: Mapping[str, Any]) -> None:
        self.context = Context(spec["parents"])
        self.residual = NormalScore(**spec["residual"])
        self.mean, self.scale = float(spec["mean"]), float(spec["scale"])
        if "smooth" in spec:
            self.smooth = Smooth(spec["parents"], len(spec["smooth"]["roles"]), spec["smooth"]["waves"])

    def _location_scale(self, parents: Parents) -> tuple[Tensor | float, Tensor | float]:
        """m and s in the standardised unit."""
        if not self.context.parents:
            return 0.0, 1.0
        found: dict[str, Tensor] = {}
        if self.smooth is not None:
            found |= zip(self._fitted()["smooth"]["roles"], self.smooth(parents), strict=True)
        if self.fitted:
            rows = self.context(parents).numpy()
            found |= {role: _predicted(regressor, rows) for role, regressor in self.fitted.items()}
        return self._of_roles(found)

    @abstractmethod
    def _of_roles(self, found: Mapping[str, Tensor]) -> tuple[Tensor | float, Tensor | float]:
        """m and s, from what the regressor of every role says, (row,)."""

    def _make_prior(self) -> dist.TorchDistribution:
        return dist.TransformedDistribution(super()._make_prior(), [self.residual], validate_args=False)

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        return cast(Tensor, self.residual(super().draw_noise(generator)))

    def _noise_log_prob(self, noise: Tensor) -> Tensor:
        score, log_slope = self.residual.inverse(noise)
        return super()._noise_log_prob(score) - log_slope

    def _forward(self, noise: Tensor, parents: Parents) -> Tensor:
        m, s = self._location_scale(parents)
        return self.mean + self.scale * (m + s * noise)

    def _backward(self, flat: Tensor, parents: Parents) -> tuple[Tensor, Tensor]:
        m, s = self._location_scale(parents)
        log_slope = s.log() if isinstance(s, Tensor) else torch.full_like(self._anchor, math.log(s))
        return ((flat - self.mean) / self.scale - m) / s, log_slope + math.log(self.scale)

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

    def _regressors(self, unnamed: Any) -> dict[str, Any]:
        regressor = self.regressors["regressor"]
        return {"regressor": unnamed if regressor is None else regressor}

    def _regress(self, regressors: Mapping[str, Any], rows: NDArray[np.float64], target: NDArray[np.float64]) -> _Regression:
        m = _cross_fit(regressors["regressor"], rows, target)
        return _Regression({"regressor": m.whole}, target - m.unseen, {})

    def _of_roles(self, found: Mapping[str, Tensor]) -> tuple[Tensor | float, Tensor | float]:
        return found["regressor"], 1.0


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

    def _regressors(self, unnamed: Any) -> dict[str, Any]:
        location = unnamed if self.regressors["location"] is None else self.regressors["location"]
        return {"location": location, "scale": location if self.regressors["scale"] is None else self.regressors["scale"]}

    def _regress(self, regressors: Mapping[str, Any], rows: NDArray[np.float64], target: NDArray[np.float64]) -> _Regression:
        location, scale = regressors["location"], regressors["scale"]
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

    def _of_roles(self, found: Mapping[str, Tensor]) -> tuple[Tensor | float, Tensor | float]:
        return found["location"], found["scale"].clamp(*self._fitted()["log_scale"]).exp()


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
