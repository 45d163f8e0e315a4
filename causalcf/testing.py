"""One suite of checks that every mechanism of an attribute passes, for those who write their own.

>>> import torch
>>> from causalcf import Equation, Node
>>> from causalcf.testing import check_mechanism
>>> class Offset(Equation):
...     def forward(self, noise, parents):
...         return 3 * parents["dose"] + noise
...
...     def inverse(self, value, parents):
...         return value - 3 * parents["dose"]
>>> dose = torch.linspace(0, 1, 100).double()
>>> nodes = Node("response", "continuous", parents=["dose"]), [Node("dose", "continuous")]
>>> promises = check_mechanism(Offset(), *nodes, 3 * dose + 0.1, {"dose": dose})
>>> promises[3]
'predict undoes abduct'
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor

from causalcf.batch import Batch
from causalcf.encoding import decode_column
from causalcf.errors import CausalCFError, DataError, GraphError, NotFittedError, StoreError
from causalcf.graph import CausalGraph, Node, in_support
from causalcf.mechanism import Mechanism, Parents
from causalcf.query import counterfactual
from causalcf.scm import SCM
from causalcf.seeds import RowGenerator
from causalcf.training import fit

__all__ = ["ContractError", "check_mechanism"]

_ROUND_TRIP = 1e-10  # of the column's standard deviation: float64, a handful of operations each way
_ROUNDING = 1e-12  # matrix products of one row and of many may add in another order
_P_VALUE = 1e-6  # a sound mechanism fails one of the suite's tests once in tens of thousands of seeds
_DRAWS = 2000
_FILES = {".json", ".safetensors", ".skops"}


class ContractError(AssertionError):
    """A mechanism does not keep a promise that every mechanism makes."""


def check_mechanism(
    mechanism: Mechanism,
    node: Node,
    parent_nodes: Sequence[Node],
    value: Tensor,
    parents: Parents,
    *,
    seed: int = 0,
) -> list[str]:
    """Fit a mechanism as `causalcf.fit` does, and check every promise that mechanisms make.

    Args:
        mechanism: of an attribute; fitted in place, unless it is a known one.
        node: the attribute.
        parent_nodes: its parents, in the order in which the node declares them.
        value: the node's column in model space, (row,): numbers as float64, or the codes of labels as int64.
        parents: the parents' columns likewise, by name.
        seed: everything random is a function of it.

    Returns:
        The promises that were checked, one sentence each.

    Raises:
        ContractError: a promise is broken; the message says which and how.
        DataError: the node is an image, or a column is missing.
    """
    if node.kind == "image":
        raise DataError(f"'{node.name}' is an image: check_mechanism is for attributes. Use causalcf.audit for images.")
    if missing := [parent.name for parent in parent_nodes if parent.name not in parents]:
        raise DataError(f"there is no column for the parents {', '.join(missing)} of '{node.name}'.")
    node = replace(node, parents=tuple(parent.name for parent in parent_nodes))
    roots = [replace(parent, parents=()) for parent in parent_nodes]
    case = _Case(mechanism, node, roots, value, {root.name: parents[root.name] for root in roots}, seed)
    checked = []
    for promise, check in _PROMISES:
        try:
            if check(case):
                checked.append(promise)
        except ContractError as error:
            raise ContractError(f"{_named(mechanism, node)} breaks the promise '{promise}': {error}") from None
        except Exception as error:
            raise ContractError(
                f"{_named(mechanism, node)} breaks the promise '{promise}': {type(error).__name__}: {error}"
            ) from error
    return checked


def _named(mechanism: Mechanism, node: Node) -> str:
    return f"{type(mechanism).__name__} of '{node.name}'"


def _broken(message: str) -> NoReturn:
    raise ContractError(message)


@dataclass
class _Case:
    """A mechanism with the data that it is checked on."""

    mechanism: Mechanism
    node: Node
    parent_nodes: list[Node]
    value: Tensor
    parents: dict[str, Tensor]
    seed: int
    unfitted: Mechanism | None = None

    def generator(self, stream: str, n: int = _DRAWS) -> RowGenerator:
        return RowGenerator(self.seed, np.arange(n, dtype=np.uint64), stream)

    def parents_of(self, place: Tensor) -> dict[str, Tensor]:
        return {name: column[place] for name, column in self.parents.items()}

    def drawn(self, stream: str, place: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Values from the model, their noise and their parents, which are those of the rows `place` of the data."""
        parents = self.parents_of(place)
        noise = self.mechanism.draw_noise(self.generator(stream, len(place)))
        return self.mechanism.predict(noise, parents), noise, parents

    def everywhere(self) -> Tensor:
        """Places of rows, as many as there are draws, over all the data."""
        return torch.arange(_DRAWS) * max(1, len(self.value) // _DRAWS) % len(self.value)

    def fixed(self) -> list[Tensor]:
        """The same place again and again, for three rows of the data; once if the rows do not differ for want of parents."""
        rows = [0, len(self.value) // 2, len(self.value) - 1] if self.parents else [0]
        return [torch.full((_DRAWS,), row) for row in rows]

    def loss(self, value: Tensor, parents: Parents) -> Tensor:
        with torch.no_grad():
            return self.mechanism.loss(value, parents, generator=self.generator("loss", len(value)))

    def check_value(self, value: Tensor, rows: int) -> None:
        """One possible value a row."""
        kind = torch.int64 if self.node.discrete else torch.float64
        if value.shape != (rows,) or value.dtype != kind:
            _broken(f"predict gives {tuple(value.shape)} of {value.dtype} for {rows} rows; it gives ({rows},) of {kind}.")
        if self.node.discrete:
            states = len(self.node.states or ())
            if value.min() < 0 or value.max() >= states:
                _broken(f"it predicts the codes {int(value.min())} to {int(value.max())}, but the node has {states} states.")
            return
        wrong = [number for number in (float(value.min()), float(value.max())) if not in_support(self.node, number)]
        if wrong or not torch.isfinite(value).all():
            _broken(
                f"it predicts {wrong[0] if wrong else float('nan'):g}, outside the support {self.node.support or 'of reals'}."
            )

    def distance(self, value: Tensor, other: Tensor) -> float:
        """The greatest difference, in standard deviations of the column; of codes, whether there is one."""
        if self.node.discrete:
            return float((value != other).any())
        return float((value - other).abs().max()) / float(self.value.std())


def _says_when_unfitted(case: _Case) -> bool:
    try:
        case.mechanism.noise_prior()
    except NotFittedError:
        case.unfitted = copy.deepcopy(case.mechanism)
        return True
    try:  # then it is known, or fitted already, and answers
        place = case.everywhere()
        case.drawn("known", place)
    except Exception as error:
        _broken(f"noise_prior answers before the fit, but predict fails: {type(error).__name__}: {error}")
    return True


def _is_fitted(case: _Case) -> bool:
    scm, batch = _model(case)
    fit(scm, batch, seed=case.seed)
    prior = case.mechanism.noise_prior()
    noise = case.mechanism.draw_noise(case.generator("shape"))
    if noise.shape != (_DRAWS, *prior.event_shape) or prior.batch_shape:
        _broken(f"draw_noise gives {tuple(noise.shape)} for {_DRAWS} rows, noise_prior one row of {tuple(prior.event_shape)}.")
    return True


def _round_trip(case: _Case) -> bool:
    places = case.everywhere()
    sampled, _, parents = case.drawn("trip", places)
    for what, value, given in (("data", case.value, case.parents), ("draws", sampled, parents)):
        noise = case.mechanism.abduct(value, given, generator=case.generator("abduct", len(value)))
        off = case.distance(case.mechanism.predict(noise, given), value)
        if not off <= _ROUND_TRIP:
            _broken(f"predict(abduct(value)) is {off:.2g} standard deviations off the {what}, more than {_ROUND_TRIP:g}.")
    return True


def _noise_comes_back(case: _Case) -> bool:
    if not case.mechanism.identified:
        return False
    value, noise, parents = case.drawn("back", case.everywhere())
    again = case.mechanism.abduct(value, parents, generator=case.generator("abduct"))
    off = (again - noise).abs().reshape(_DRAWS, -1).amax(1)
    # where a support's end, or a prior's, flattens the value, a number of it stands for a range of noise
    if not float(off.quantile(0.99)) <= 1e-6:
        _broken(f"abduct(predict(noise)) is {float(off.quantile(0.99)):.2g} off the noise; set identified = False.")
    return True


def _null(case: _Case) -> bool:
    scm, batch = _model(case)
    for do in ({}, {name: batch.frame[name].to_numpy() for name in case.parents}):
        frame = counterfactual(scm, batch, do, seed=case.seed).frame
        if not frame[case.node.name].equals(batch.frame[case.node.name]):
            rows = int((frame[case.node.name] != batch.frame[case.node.name]).sum())
            _broken(f"under do({', '.join(do)}) at their own values, {rows} of {len(frame)} rows changed.")
    return True


def _density(case: _Case) -> bool:
    for place in case.fixed():
        value, _, parents = case.drawn("density", place)
        (_check_masses if case.node.discrete else _check_density)(case, value, parents)
    return True


def _check_masses(case: _Case, value: Tensor, parents: Parents) -> None:
    from scipy import stats

    states = torch.arange(len(case.node.states or ()))
    mass = torch.exp(-case.loss(states, _repeated(parents, len(states))))
    if not abs(float(mass.sum()) - 1) < 1e-9:
        _broken(f"exp(-loss) sums to {float(mass.sum()):.12g} over the states, not to 1.")
    found = torch.bincount(value, minlength=len(states)).numpy()
    expected = (mass / mass.sum() * len(value)).numpy()
    if found[expected < 1e-9].any():
        _broken("it predicts a state whose probability is zero.")
    rare = expected < 5
    found, expected = (np.append(count[~rare], count[rare].sum()) for count in (found, expected))
    found, expected = found[expected > 0], expected[expected > 0]
    p = stats.chisquare(found, expected).pvalue if len(found) > 1 else 1.0
    if not p > _P_VALUE:
        _broken(f"of {len(value)} draws, {found.tolist()} fall where exp(-loss) expects {np.round(expected, 1).tolist()}.")


def _repeated(parents: Parents, rows: int) -> dict[str, Tensor]:
    """The parents of the first row, again and again."""
    return {name: column[:1].expand(rows) for name, column in parents.items()}


def _check_density(case: _Case, value: Tensor, parents: Parents) -> None:
    from scipy import stats

    value = value.sort().values
    parts = torch.linspace(0, 1, 9, dtype=torch.float64)[:-1]
    grid = torch.cat([(value[:-1, None] + value.diff()[:, None] * parts).reshape(-1), value[-1:]])
    density = torch.exp(-case.loss(grid, _repeated(parents, len(grid))))
    if density.shape != grid.shape or not torch.isfinite(density).all():
        _broken(f"loss gives {tuple(density.shape)} for {len(grid)} rows, or numbers that are not finite.")
    below = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(density, grid)])
    mass = float(below[-1])
    # between the least and the greatest of n draws lies all but a few n-ths
    if not abs(mass - 1) < 0.015:
        _broken(f"exp(-loss) has mass {mass:.4g} over the draws, not 1: the loss is no negative log density.")
    p = stats.kstest((below[::8] / mass).numpy(), stats.uniform.cdf).pvalue
    if not p > _P_VALUE:
        _broken(f"the draws do not follow exp(-loss): Kolmogorov-Smirnov p = {p:.2g}.")


def _prior(case: _Case) -> bool:
    value, noise, parents = case.drawn("prior", case.everywhere())
    abducted = case.mechanism.abduct(value, parents, generator=case.generator("abduct"))
    for what, found in (("draw_noise", noise), ("abduct of draws", abducted)):
        columns = found.reshape(_DRAWS, -1)
        for place, p in enumerate(_p_values(case, columns)):
            if not p > _P_VALUE:
                _broken(f"coordinate {place} of {what} does not follow noise_prior: Kolmogorov-Smirnov p = {p:.2g}.")
        for name, parent in parents.items():
            together = torch.cat([parent.double()[:, None], columns.double()], dim=1)
            worst = float(torch.corrcoef(together.T)[0, 1:].nan_to_num().abs().max())
            if not worst < 5 / math.sqrt(_DRAWS):  # the standard deviation under independence is 1 / sqrt(n)
                _broken(f"{what} has correlation {worst:.2g} with parent '{name}': noise is independent of the parents.")
    return True


def _p_values(case: _Case, columns: Tensor) -> list[float]:
    """Whether each coordinate of a noise, (row, coordinate), has its prior."""
    from scipy import stats

    prior: Any = case.mechanism.noise_prior()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        sample = prior.sample((_DRAWS,)).reshape(_DRAWS, -1)
    try:
        inner = prior.base_dist if isinstance(prior, dist.Independent) else prior
        ranks = inner.cdf(columns.reshape(_DRAWS, *prior.event_shape)).reshape(_DRAWS, -1)
        if not inner.support.is_discrete:
            return [float(stats.kstest(rank.numpy(), stats.uniform.cdf).pvalue) for rank in ranks.T]
    except (NotImplementedError, AttributeError):  # then compare with draws of the prior
        pass
    return [float(stats.ks_2samp(a.numpy(), b.numpy()).pvalue) for a, b in zip(columns.T, sample.T, strict=True)]


def _seeded(case: _Case) -> bool:
    place = case.everywhere()
    parents, value = case.parents_of(place), case.value[place]
    order = torch.from_numpy(np.random.default_rng(case.seed).permutation(_DRAWS))
    keys = np.arange(_DRAWS, dtype=np.uint64)
    draws: dict[str, Callable[[RowGenerator, Tensor], Tensor]] = {
        "draw_noise": lambda generator, rows: case.mechanism.draw_noise(generator),
        "abduct": lambda generator, rows: case.mechanism.abduct(
            value[rows], {name: column[rows] for name, column in parents.items()}, generator=generator
        ),
    }
    for name, draw in draws.items():
        before, first = torch.get_rng_state(), draw(RowGenerator(case.seed, keys), torch.arange(_DRAWS))
        if not torch.equal(first, draw(RowGenerator(case.seed, keys), torch.arange(_DRAWS))):
            _broken(f"{name} with the same seed gives other numbers.")
        if not torch.equal(before, torch.get_rng_state()):
            _broken(f"{name} uses torch's global generator; use the one that it is given.")
        shuffled = draw(RowGenerator(case.seed, keys[order.numpy()]), order)
        if not torch.allclose(shuffled, first[order], rtol=_ROUNDING, atol=_ROUNDING):
            _broken(f"{name} gives a row other numbers when the rows are shuffled.")
        if name == "draw_noise" and torch.equal(first, draw(RowGenerator(case.seed + 1, keys), order)):
            _broken("draw_noise gives the same numbers for another seed.")
    return True


def _stored(case: _Case) -> bool:
    value, noise, parents = case.drawn("stored", case.everywhere())
    with tempfile.TemporaryDirectory() as folder:
        try:
            case.mechanism.save(Path(folder))
        except StoreError:  # it says that it cannot be saved: functions of the user's, say
            return False
        foreign = [path.name for path in Path(folder).rglob("*") if path.is_file() and path.suffix not in _FILES]
        if foreign:
            _broken(f"save writes {', '.join(foreign)}; files end in {', '.join(sorted(_FILES))}.")
        again = type(case.mechanism).load(Path(folder))
    generator = case.generator
    answers = {
        "predict": (again.predict(noise, parents), value),
        "abduct": tuple(m.abduct(value, parents, generator=generator("abduct")) for m in (again, case.mechanism)),
        "loss": (replace(case, mechanism=again).loss(value, parents), case.loss(value, parents)),
    }
    for name, (loaded, saved) in answers.items():
        if not torch.equal(loaded, saved):
            _broken(f"{name} of the loaded mechanism differs from that of the saved one.")
    return True


def _rows(case: _Case) -> bool:
    value, noise, parents = case.drawn("rows", case.everywhere())
    abducted, loss = case.mechanism.abduct(value, parents, generator=case.generator("abduct")), case.loss(value, parents)
    for row in range(0, _DRAWS, _DRAWS // 20):
        some = slice(row, row + 1)
        one = {name: column[some] for name, column in parents.items()}
        alone = {
            "predict": (case.mechanism.predict(noise[some], one), value[some]),
            "abduct": (case.mechanism.abduct(value[some], one, generator=case.generator("abduct").rows(some)), abducted[some]),
            "loss": (case.loss(value[some], one), loss[some]),
        }
        for name, (found, expected) in alone.items():
            if found.shape != expected.shape or not torch.allclose(found, expected, rtol=_ROUNDING, atol=_ROUNDING):
                _broken(f"{name} gives row {row} another answer alone than among {_DRAWS} rows.")
    return True


def _in_support(case: _Case) -> bool:
    value, noise, parents = case.drawn("support", case.everywhere())
    case.check_value(value, _DRAWS)
    case.check_value(case.mechanism.predict(noise.roll(1, 0), parents), _DRAWS)
    if case.mechanism.noise_prior().support is dist.constraints.real and case.node.support:
        extreme = torch.linspace(-40, 40, _DRAWS, dtype=torch.float64)  # rounds to the ends, or would overflow
        case.check_value(case.mechanism.predict(extreme, parents), _DRAWS)
    return True


def _gradient(case: _Case) -> bool:
    loss = case.loss(case.value, case.parents)
    if loss.shape != case.value.shape:
        _broken(f"loss gives {tuple(loss.shape)} for {len(case.value)} rows; it gives one number a row.")
    learned = [parameter for parameter in case.mechanism.parameters() if parameter.requires_grad]
    if not learned:
        return True
    torch.autograd.backward(case.mechanism.loss(case.value, case.parents, generator=case.generator("loss", len(loss))).mean())
    reached = [parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()) for parameter in learned]
    for parameter in learned:
        parameter.grad = None
    if not all(reached):
        _broken(f"{reached.count(False)} of {len(learned)} parameters get no finite gradient from the loss.")
    return True


def _other_parents(case: _Case) -> bool:
    if case.unfitted is None:
        return False
    n = len(case.value)
    draw = case.generator("parents", n)
    number, label = Node("number", "continuous"), Node("label", "categorical", states=["a", "b", "c"])
    columns = {"number": 100 + 20 * draw.normal(), "label": (3 * draw.uniform()).long()}
    for nodes in ([], [number], [label], [number, label]):
        names = [node.name for node in nodes]
        node, parents = replace(case.node, parents=tuple(names)), {name: columns[name] for name in names}
        other = replace(case, mechanism=copy.deepcopy(case.unfitted), node=node, parent_nodes=nodes, parents=parents)
        try:
            other.mechanism.prepare(node, nodes, case.value, parents)
        except (DataError, GraphError):  # it says that it is not for these parents
            continue
        try:
            _round_trip(other)
        except CausalCFError as error:
            _broken(f"with the parents {names}: {error}")
    return True


_PROMISES: list[tuple[str, Callable[[_Case], bool]]] = [
    ("an unfitted mechanism raises NotFittedError", _says_when_unfitted),
    ("fitting makes it ready", _is_fitted),
    ("predicted values are possible", _in_support),
    ("predict undoes abduct", _round_trip),
    ("abduct undoes predict where the value determines the noise", _noise_comes_back),
    ("a null intervention keeps every value bit for bit", _null),
    ("draws are functions of seed and row", _seeded),
    ("noise follows its prior, independent of the parents", _prior),
    ("the loss is one number a row and trains what is trained", _gradient),
    ("draws follow exp(-loss)", _density),
    ("a row gets the same answer alone and in a batch", _rows),
    ("a saved mechanism gives identical answers", _stored),
    ("it works without parents and with parents of every kind", _other_parents),
]


def _model(case: _Case) -> tuple[SCM, Batch]:
    """The mechanism in a model whose other nodes are its parents, and the data as a batch."""
    nodes = [*case.parent_nodes, case.node]
    graph = CausalGraph("check", nodes)
    given = {name: _Given(column) for name, column in case.parents.items()}
    columns = {**case.parents, case.node.name: case.value}
    frame = pd.DataFrame({node.name: decode_column(node, columns[node.name]) for node in nodes})
    return SCM(graph, {**given, case.node.name: case.mechanism}), Batch(graph, frame)


class _Given(Mechanism):
    """A root with the values of a column, as often as they are there; its noise is their rank."""

    identified = False

    def __init__(self, column: Tensor) -> None:
        super().__init__()
        self.column: Tensor
        self.register_buffer("column", column.sort().values)

    def noise_prior(self) -> dist.TorchDistribution:
        return dist.Uniform(torch.zeros((), dtype=torch.float64), 1.0)

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        return generator.uniform()

    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        return (torch.searchsorted(self.column, value) + 0.5) / len(self.column)

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        return self.column[(noise * len(self.column)).long()]

    def loss(self, value: Tensor, parents: Parents, *, generator: Any = None) -> Tensor:
        return torch.zeros(len(value), dtype=torch.float64)

    def save(self, directory: Path) -> NoReturn:
        raise StoreError("a column given to check_mechanism is not saved.")

    @classmethod
    def load(cls, directory: Path) -> Self:
        raise StoreError("a column given to check_mechanism is not loaded.")
