"""Partial evidence: the missing attributes of a row, drawn from their posterior given the ones that were observed.

    p(x_missing | x_observed)  is proportional to  prod_i p(x_i | pa_i)

The model is here a Pyro program of values, `value_program`, one sample site an attribute, so that any attribute can be
conditioned on; `SCM.program`, with its sites of noise, defines the same distribution. What a row needs is found from the graph:

method        for                                                            the draws are
observed      nothing is missing                                             the row itself
forward       missing attributes without an observed effect                  predicted from their causes, exact
enumerate     missing categories, at most 4096 combinations                  from the exact posterior
importance    missing numbers, with their missing categories enumerated      adaptive importance sampling, resampled
nuts          the same, where asked for: thousands of times as slow          a Markov chain, thinned

Missing attributes that the observed ones separate from each other are treated apart. Importance sampling starts from the model
itself and is refitted, through tempered weights, as a Student t mixed with the model, so that no weight can explode.

D. Koller, N. Friedman, "Probabilistic Graphical Models", 2009, chapter 12 (likelihood weighting); O. Cappé et al., "Population
Monte Carlo", JCGS 2004, https://doi.org/10.1198/106186004X12803; T. Hesterberg, "Weighted Average Importance Sampling and
Defensive Mixture Distributions", Technometrics 1995, https://doi.org/10.1080/00401706.1995.10484303; M. D. Hoffman,
A. Gelman, "The No-U-Turn Sampler", JMLR 2014, https://arxiv.org/abs/1111.4246.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import biject_to

from causalcf.encoding import decode_column
from causalcf.errors import AbductionError, DataError
from causalcf.graph import CausalGraph, Node
from causalcf.mechanism import Mechanism, Parents
from causalcf.scm import SCM
from causalcf.seeds import RowGenerator, philox, row_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MechanismDistribution", "Method", "Posterior", "draw_keys", "infer_missing", "value_program"]

Method = Literal["auto", "enumerate", "importance", "nuts"]
_RANK = ("observed", "forward", "enumerate", "importance", "nuts")

ENOUGH = 100.0  # effective draws: the Monte Carlo error of a posterior mean is then a tenth of the posterior's spread
_COMBINATIONS = 4096  # of missing categories that are enumerated
_MIXED = 64  # the same where each combination needs importance sampling of numbers
_AT_ONCE = 2**18  # particles that are in memory at a time
_ROUNDS = 12  # of fitting the proposal
_GOOD = 0.4  # effective share of the particles at which the proposal is no longer refitted
_TEMPERED = 0.25  # the same for the tempered weights that the next proposal is fitted on
_FREEDOM = 4  # degrees of freedom of the proposal, an even number
_DEFENSIVE = 0.1  # share of the particles that come from the model itself
_MORE = 8  # times the particles for rows whose effective draws are too few
_NUTS_WARMUP, _NUTS_SAMPLES = 200, 400


def _support(node: Node) -> constraints.Constraint:
    if node.discrete:
        return constraints.integer_interval(0, len(node.states or ()) - 1)
    low, high = node.support or (-math.inf, math.inf)
    if math.isfinite(low) and math.isfinite(high):
        return constraints.interval(low, high)
    if math.isfinite(low):
        return constraints.greater_than(low)
    return constraints.less_than(high) if math.isfinite(high) else constraints.real


class MechanismDistribution(TorchDistribution):  # type: ignore[misc]
    """p(value | parents) of an attribute, as a Pyro distribution.

    A draw is the mechanism's prediction from a draw of its noise; the log density is minus its loss, in nats.

    Args:
        node: whose kind, states and support these are.
        mechanism: fitted.
        parents: values in model space, by name, of shapes that broadcast.
        batch_shape: of the distribution; that of the parents unless told.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own attribute

    def __init__(self, node: Node, mechanism: Mechanism, parents: Parents, batch_shape: Sequence[int] | None = None) -> None:
        self.node, self.mechanism, self.parents = node, mechanism, dict(parents)
        own = broadcast_shape(*(value.shape for value in self.parents.values()))
        super().__init__(torch.Size(own if batch_shape is None else batch_shape), validate_args=False)

    @property
    def has_enumerate_support(self) -> bool:
        return self.node.discrete

    @property
    def support(self) -> constraints.Constraint:
        return _support(self.node)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> MechanismDistribution:
        return MechanismDistribution(self.node, self.mechanism, self.parents, batch_shape)

    def _flat_parents(self, shape: torch.Size) -> dict[str, Tensor]:
        """The parents as a mechanism takes them: one row a value."""
        return {name: value.expand(shape).reshape(-1) for name, value in self.parents.items()}

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = torch.Size((*sample_shape, *self.batch_shape))
        return self.predict(self.mechanism.noise_prior().sample((shape.numel(),)), shape)

    def predict(self, noise: Tensor, shape: torch.Size) -> Tensor:
        """The values, of this shape, that the noise gives: (row, *noise)."""
        with torch.no_grad():
            return self.mechanism.predict(noise, self._flat_parents(shape)).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.Size(broadcast_shape(value.shape, self.batch_shape))
        loss = self.mechanism.loss(value.expand(shape).reshape(-1), self._flat_parents(shape), generator=None)
        return -loss.reshape(shape)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        states = torch.arange(len(self.node.states or ())).reshape(-1, *(1 for _ in self.batch_shape))
        return states.expand(-1, *self.batch_shape) if expand else states


def value_program(
    scm: SCM,
    rows: int,
    *,
    particles: int | None = None,
    nodes: Sequence[str] | None = None,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The attributes as a Pyro program with one sample site each, "<name>": what `pyro.condition` needs.

    It is the joint distribution of `SCM.program`, whose sites of noise determine the values and leave nothing to condition on.

    Args:
        scm: fitted.
        rows: size of the plate "rows", the last dimension.
        particles: size of a plate "particles" before it, if any.
        nodes: attributes that are sites; all unless told.
        given: values of the other parents, which then are constants.

    Example:
        >>> import causalcf as ccf
        >>> scm = ccf.load("morphomnist")
        >>> thick = pyro.condition(value_program, {"thickness": torch.full((2,), 4.0, dtype=torch.float64)})
        >>> sorted(thick(scm, 2)), thick(scm, 2)["thickness"].tolist()
        (['digit', 'intensity', 'thickness'], [4.0, 4.0])
    """
    sites = scm.graph.attributes if nodes is None else nodes
    values = dict(given or {})
    with ExitStack() as plates:
        if particles is not None:
            plates.enter_context(pyro.plate("particles", particles, dim=-2))
        plates.enter_context(pyro.plate("rows", rows, dim=-1))
        for name in scm.graph.attributes:
            if name in sites:
                values[name] = pyro.sample(name, _distribution(scm, name, values))
    return values


def _distribution(scm: SCM, name: str, values: Mapping[str, Tensor]) -> MechanismDistribution:
    parents = {parent: values[parent] for parent in scm.graph.parents(name)}
    return MechanismDistribution(scm.graph.node(name), scm.mechanisms[name], parents)


def draw_keys(keys: NDArray[np.uint64], draws: int) -> NDArray[np.uint64]:
    """A 64-bit key for every draw of every row, (draw, row): the first draws stay what they were when more are asked for."""
    counter = np.empty((4, draws, len(keys)), dtype=np.uint64)
    counter[0] = np.arange(draws, dtype=np.uint64)[:, None]
    counter[1] = 0
    counter[2], counter[3] = keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)
    words = philox(counter.reshape(4, -1), (0x64726177, 0x6B657973))
    return np.asarray(((words[0] << np.uint64(32)) | words[1]).reshape(draws, len(keys)))


@dataclass(frozen=True)
class Posterior:
    """Completed rows: draws of the missing attributes given the observed ones, and how far to trust them.

    Attributes:
        graph: the causal graph.
        index: labels of the rows.
        observed: (row,) by attribute, whether it was given.
        values: (draw, row) by attribute, in model space; an observed value is repeated.
        probabilities: (row, state) by discrete attribute that is missing somewhere. Exact where the method is `enumerate`, or
            `forward` from observed causes; elsewhere an average over particles or draws.
        method: by row, the least exact of the methods that it needed; see the module.
        ess: (row,), effective sample size behind the draws; infinite where they come from the exact posterior.
        log_evidence: (row,), log p(observed attributes) in nats, a density where numbers were observed.
        identified: (row,), whether no latent confounder (a bidirected edge) could change the posterior.
        why_not: the reasons, by bidirected edge.
        unused: images that were given, though a parent of theirs is missing in some row: they say something about that
            parent, which is not used.
    """

    graph: CausalGraph
    index: pd.Index
    observed: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    method: NDArray[np.str_]
    ess: Tensor
    log_evidence: Tensor
    identified: Tensor
    why_not: Mapping[str, str]
    unused: tuple[str, ...]

    def __repr__(self) -> str:
        missing = [name for name, seen in self.observed.items() if not seen.all()]
        return f"Posterior(draws={self.draws}, rows={len(self.index)}, missing=[{', '.join(missing)}])"

    @property
    def draws(self) -> int:
        """How many completed rows there are for each row."""
        return len(next(iter(self.values.values())))

    @property
    def reliable(self) -> Tensor:
        """(row,), whether the effective sample size is at least 100."""
        return self.ess >= ENOUGH

    def noise(self, scm: SCM, *, seed: int = 0) -> dict[str, Tensor]:
        """The noise of every completed row, (draw * row, *noise) by attribute, draw by draw.

        A noise that an observed value determines is the same in every draw of the row only where its parents are observed too.
        """
        keys = draw_keys(row_keys(self.index), self.draws).reshape(-1)
        flat = {name: value.reshape(-1) for name, value in self.values.items()}
        return scm.abduct(flat, RowGenerator(seed, keys, "abduct"))

    def summary(self) -> pd.DataFrame:
        """What is known of every missing value, in the user's units: one line for each (row, node).

        Columns: `mean`, `sd` and the quantiles `2.5%`, `50%`, `97.5%` of numbers; `probabilities`, label by label, and the
        `most_likely` label of categories; `method` and `ess` of the row.
        """
        lines: dict[tuple[Any, str], dict[str, Any]] = {}
        for row, label in enumerate(self.index):
            for name in self.graph.attributes:
                if not self.observed[name][row]:
                    about = {"method": str(self.method[row]), "ess": float(self.ess[row])}
                    lines[label, name] = self._describe(self.graph.node(name), row) | about
        numbers, labels = ["mean", "sd", "2.5%", "50%", "97.5%"], ["most_likely", "probabilities"]
        index = pd.MultiIndex.from_tuples(list(lines), names=["row", "node"]) if lines else None
        return pd.DataFrame(list(lines.values()), index=index, columns=[*numbers, *labels, "method", "ess"])

    def _describe(self, node: Node, row: int) -> dict[str, Any]:
        if node.discrete:
            p = self.probabilities[node.name][row].tolist()
            share = dict(zip(node.states or (), p, strict=True))
            return {"most_likely": max(share, key=share.__getitem__), "probabilities": share}
        value = np.asarray(decode_column(node, self.values[node.name][:, row]), dtype=float)
        low, middle, high = np.quantile(value, [0.025, 0.5, 0.975])
        sd = value.std(ddof=1) if len(value) > 1 else math.nan
        return {"mean": value.mean(), "sd": sd, "2.5%": low, "50%": middle, "97.5%": high}


@dataclass(frozen=True)
class _Component:
    """Missing attributes that must be drawn together, and the observed effects that tell about them, both in causal order."""

    missing: tuple[str, ...]
    effects: tuple[str, ...]

    @property
    def name(self) -> str:
        return " ".join(self.missing)


@dataclass(frozen=True)
class _Plan:
    """What a pattern of missing attributes asks for."""

    components: tuple[_Component, ...]
    forward: tuple[str, ...]


def _combinations(graph: CausalGraph, names: Sequence[str]) -> int:
    return math.prod(len(graph.node(name).states or (0,)) for name in names)


def _components(graph: CausalGraph, missing: frozenset[str], drawn: frozenset[str]) -> list[_Component]:
    """The attributes to be drawn, split where the observed ones separate them: two belong together if they share a factor."""
    group = {name: name for name in drawn}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    effects = []
    for name in graph.attributes:
        inside = [member for member in (*graph.parents(name), name) if member in drawn]
        if not inside or (name in missing and name not in drawn):  # a forward node: its factor sums to one
            continue
        if name not in missing:
            effects.append(name)
        for member in inside[1:]:
            group[root(member)] = root(inside[0])
    members: dict[str, list[str]] = {}
    for name in graph.attributes:
        if name in drawn:
            members.setdefault(root(name), []).append(name)
    return [
        _Component(tuple(names), tuple(effect for effect in effects if set(names) & set(graph.parents(effect))))
        for names in members.values()
    ]


def _plan(graph: CausalGraph, missing: frozenset[str]) -> _Plan:
    """Split the missing attributes into those to be drawn from a posterior and those predicted from their causes."""
    seen = [name for name in graph.attributes if name not in missing]
    informed = frozenset(name for name in missing if graph.descendants([name]) & set(seen))
    # a category without an observed effect is enumerated with its causes while that is cheap: its probabilities are then exact
    numbers = graph.descendants([name for name in missing if not graph.node(name).discrete])
    cheap = informed | (missing - numbers)
    components = _components(graph, missing, cheap)
    for component in components:
        names = [name for name in component.missing if graph.node(name).discrete]
        if _combinations(graph, names) > (_COMBINATIONS if len(names) == len(component.missing) else _MIXED):
            components = _components(graph, missing, informed)
            break
    drawn = {name for component in components for name in component.missing}
    return _Plan(tuple(components), tuple(name for name in graph.attributes if name in missing and name not in drawn))


@dataclass(frozen=True)
class _Particles:
    """Weighted draws: values (particle, row) by missing attribute, log weights whose log-sum-exp is the log evidence."""

    values: Mapping[str, Tensor]
    log_weights: Tensor

    @property
    def log_evidence(self) -> Tensor:
        return torch.logsumexp(self.log_weights, dim=0)

    @property
    def weights(self) -> Tensor:
        return torch.softmax(self.log_weights, dim=0)

    def resample(self, draws: int, generator: RowGenerator) -> dict[str, Tensor]:
        """Equally weighted draws, (draw, row), stratified and then shuffled, so that each by itself is a draw."""
        place = generator.uniform(draws).argsort(dim=1)
        level = (place + generator.uniform(draws)) / draws
        cumulative = self.weights.cumsum(dim=0).T.contiguous()
        chosen = torch.searchsorted(cumulative / cumulative[:, -1:], level).clamp(max=len(self.weights) - 1).T
        return {name: value.gather(0, chosen) for name, value in self.values.items()}


def _effective(log_weights: Tensor) -> Tensor:
    """Effective sample size of the particles of every row, (row,); 0 where all weights are."""
    weights = torch.exp(log_weights - log_weights.max(0).values)
    return torch.nan_to_num(weights.sum(0).square() / weights.square().sum(0), nan=0.0)


def _scores(scm: SCM, nodes: Sequence[str], values: Mapping[str, Tensor], shape: torch.Size) -> dict[str, Tensor]:
    """log p(value | parents) of some attributes, (particle, row), from the trace of the conditioned program."""
    data = {name: values[name].expand(shape) for name in nodes}
    others = {name: value for name, value in values.items() if name not in data}
    with torch.no_grad():
        program = poutine.condition(value_program, data=data)
        trace = poutine.trace(program).get_trace(scm, shape[1], particles=shape[0], nodes=nodes, given=others)
        trace.compute_log_prob()
    found = {name: trace.nodes[name]["log_prob"].expand(shape) for name in nodes}
    return {name: torch.where(score.isnan(), -math.inf, score) for name, score in found.items()}  # outside the support


def _total(scores: Mapping[str, Tensor], names: Sequence[str], shape: torch.Size) -> Tensor:
    return sum((scores[name] for name in names), torch.zeros(shape, dtype=torch.float64))


def _grid(graph: CausalGraph, names: Sequence[str]) -> dict[str, Tensor]:
    """Every combination of the states of these attributes, (combination,) by name."""
    if not names:
        return {}
    codes = torch.cartesian_prod(*(torch.arange(len(graph.node(name).states or ())) for name in names))
    return dict(zip(names, codes.reshape(-1, len(names)).unbind(1), strict=True))


def _enumerate(scm: SCM, component: _Component, given: Mapping[str, Tensor], rows: int) -> _Particles:
    """Every combination of the missing categories with its probability."""
    grid = _grid(scm.graph, component.missing)
    shape = torch.Size((len(grid[component.missing[0]]), rows))
    values = {name: codes[:, None].expand(shape) for name, codes in grid.items()}
    factors = (*component.missing, *component.effects)
    return _Particles(values, _total(_scores(scm, factors, {**given, **values}, shape), factors, shape))


def _from_model(
    scm: SCM, component: _Component, given: Mapping[str, Tensor], generator: RowGenerator, particles: int
) -> dict[str, Tensor]:
    """Particles of the missing attributes as the model itself draws them, (particle, row)."""
    shape = torch.Size((particles, len(generator)))
    each = RowGenerator(generator.seed, draw_keys(generator.keys, particles).reshape(-1), generator.name)
    values = dict(given)
    for name in component.missing:
        if name not in given:
            noise = scm.mechanisms[name].draw_noise(each.stream(name))
            values[name] = _distribution(scm, name, values).predict(noise, shape)
    return {name: values[name] for name in component.missing if name not in given}


def _inside(node: Node, value: Tensor) -> Tensor:
    """A number that was rounded to an end of the open support, moved inside."""
    low, high = node.support or (-math.inf, math.inf)
    return value.clamp(math.nextafter(low, math.inf), math.nextafter(high, -math.inf))


@dataclass(frozen=True)
class _Proposal:
    """A Student t over the missing numbers, mapped onto the line: location (row, number), scale (row, number, number)."""

    loc: Tensor
    scale: Tensor

    @classmethod
    def fitted(cls, flat: Tensor, log_weights: Tensor) -> _Proposal:
        """To the mean and the covariance of weighted particles, (particle, row, number) and (particle, row)."""
        weights = torch.softmax(_temper(log_weights), dim=0)
        loc = torch.einsum("pr,prd->rd", weights, flat)
        centred = flat - loc
        spread = torch.einsum("pr,prd,pre->rde", weights, centred, centred)
        # a spread that too few particles lost is kept from zero, and a correlation from one
        floor = 1e-6 * torch.diagonal(spread, dim1=1, dim2=2) + 1e-9 * centred.square().mean(0) + 1e-24 * loc.square() + 1e-300
        return cls(loc, torch.linalg.cholesky(spread + torch.diag_embed(floor)))

    def __getitem__(self, rows: Tensor) -> _Proposal:
        return _Proposal(self.loc[rows], self.scale[rows])

    def __setitem__(self, rows: Tensor, other: _Proposal) -> None:
        self.loc[rows], self.scale[rows] = other.loc, other.scale

    def draw(self, generator: RowGenerator, particles: int) -> Tensor:
        """(particle, row, number)."""
        normal = generator.normal(particles, self.loc.shape[1])
        chi2 = -2 * torch.log(generator.uniform(particles, _FREEDOM // 2)).sum(-1)
        step = normal / torch.sqrt(chi2 / _FREEDOM)[..., None]
        return (self.loc[:, None] + torch.einsum("rde,rpe->rpd", self.scale, step)).transpose(0, 1)

    def log_prob(self, flat: Tensor) -> Tensor:
        """(particle, row)."""  # torch's own distribution imports sympy, which takes seconds
        width, whole = self.loc.shape[1], _FREEDOM + self.loc.shape[1]
        step = torch.linalg.solve_triangular(self.scale, (flat - self.loc).permute(1, 2, 0), upper=False)
        constant = math.lgamma(whole / 2) - math.lgamma(_FREEDOM / 2) - width / 2 * math.log(_FREEDOM * math.pi)
        volume = torch.diagonal(self.scale, dim1=1, dim2=2).log().sum(1)
        return constant - volume - whole / 2 * torch.log1p(step.square().sum(1).T / _FREEDOM)


def _temper(log_weights: Tensor) -> Tensor:
    """The weights to a power 1, 1/2, 1/4, ..., row by row the highest that leaves enough of the particles effective."""
    below = log_weights - log_weights.max(0).values
    enough, power = _TEMPERED * below.isfinite().sum(0), torch.ones(below.shape[1], dtype=torch.float64)
    short = torch.arange(len(power))
    while len(short):
        weights = torch.exp(power[short] * below[:, short])
        size = weights.sum(0).square() / weights.square().sum(0)
        short = short[(size < enough[short]) & (power[short] > 1e-300)]
        power[short] /= 2
    return power * below


def _importance(
    scm: SCM, component: _Component, given: Mapping[str, Tensor], generator: RowGenerator, particles: int
) -> _Particles:
    """Importance sampling of the missing numbers under every combination of the missing categories."""
    graph, rows = scm.graph, len(generator)
    labels = [name for name in component.missing if graph.node(name).discrete]
    if len(labels) == len(component.missing) or _combinations(graph, labels) > _MIXED:
        values = _from_model(scm, component, given, generator, particles)
        shape = torch.Size((particles, rows))
        scores = _scores(scm, component.effects, {**given, **values}, shape)
        return _Particles(values, _total(scores, component.effects, shape) - math.log(particles))
    grid = _grid(graph, labels)
    worlds = len(grid[labels[0]]) if labels else 1
    each = max(particles // worlds, 100)
    known = {name: value.repeat(worlds) for name, value in given.items()}  # (world * row,)
    known |= {name: codes.repeat_interleave(rows) for name, codes in grid.items()}
    inside = RowGenerator(generator.seed, draw_keys(generator.keys, worlds).reshape(-1), generator.name)
    found = _adapt(scm, component, known, inside, each)
    values = {name: known[name].expand(each, -1) if name in grid else found.values[name] for name in component.missing}
    return _Particles(
        {name: value.reshape(each * worlds, rows) for name, value in values.items()},
        found.log_weights.reshape(each * worlds, rows),
    )


def _adapt(scm: SCM, component: _Component, given: Mapping[str, Tensor], generator: RowGenerator, particles: int) -> _Particles:
    """Particles of the missing numbers from a proposal that fewer of them were fitted with; given: everything else."""
    rows, numbers = len(generator), [name for name in component.missing if name not in given]
    values = {name: torch.empty(particles, rows, dtype=torch.float64) for name in numbers}
    log_weights = torch.empty(particles, rows, dtype=torch.float64)
    proposal, hopeless = _fit(scm, component, given, generator, particles // 4)
    for some, drawn_from in ((~hopeless, proposal), (hopeless, None)):
        if some.any():
            chosen = None if drawn_from is None else drawn_from[some]
            draw = _some_rows(generator, some, "final")
            drawn, _, found = _round(scm, component, _rows(given, some), draw, particles, chosen)
            log_weights[:, some] = found
            for name in numbers:
                values[name][:, some] = drawn[name]
    return _Particles(values, log_weights)


def _fit(
    scm: SCM, component: _Component, given: Mapping[str, Tensor], generator: RowGenerator, particles: int
) -> tuple[_Proposal, Tensor]:
    """A proposal for every row, and whether not one particle of the model explained the row, so that there is none."""
    rows, width = len(generator), sum(name not in given for name in component.missing)
    fitted = _Proposal(torch.zeros(rows, width, dtype=torch.float64), torch.zeros(rows, width, width, dtype=torch.float64))
    active, hopeless = torch.arange(rows), torch.zeros(rows, dtype=torch.bool)
    for turn in range(_ROUNDS):
        draw = _some_rows(generator, active, str(turn))
        proposal = fitted[active] if turn else None
        _, flat, log_weights = _round(scm, component, _rows(given, active), draw, particles, proposal)
        size = _effective(log_weights)
        if not turn:
            hopeless = size == 0
        some = size > 0
        if some.any():
            fitted[active[some]] = _Proposal.fitted(flat[:, some], log_weights[:, some])
        active = active[some & (size < _GOOD * particles)]
        if not len(active):
            break
    return fitted, hopeless


def _rows(values: Mapping[str, Tensor], some: Tensor) -> dict[str, Tensor]:
    return {name: value[some] for name, value in values.items()}


def _some_rows(generator: RowGenerator, some: Tensor, stream: str) -> RowGenerator:
    return RowGenerator(generator.seed, generator.keys[some.numpy()], f"{generator.name}/{stream}")


def _round(
    scm: SCM,
    component: _Component,
    given: Mapping[str, Tensor],
    generator: RowGenerator,
    particles: int,
    proposal: _Proposal | None,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Particles of the missing numbers, the same on the line, (particle, row, number), and their log weights.

    They are drawn from the proposal and a share from the model, or all from the model where there is no proposal; the weight is
    the joint density over that of the mixture.
    """
    graph, share = scm.graph, particles if proposal is None else math.ceil(_DEFENSIVE * particles)
    drawn = _from_model(scm, component, given, generator, share)
    maps = {name: biject_to(_support(graph.node(name))) for name in drawn}
    if proposal is not None:
        more = proposal.draw(generator.stream("proposal"), particles - share)
        for name, y in zip(drawn, more.unbind(-1), strict=True):
            drawn[name] = torch.cat([drawn[name], _inside(graph.node(name), maps[name](y))])
    line = {name: maps[name].inv(value) for name, value in drawn.items()}
    flat, shape = torch.stack(list(line.values()), dim=-1), torch.Size((particles, len(generator)))
    factors = (*component.missing, *component.effects)
    scores = _scores(scm, factors, {**given, **drawn}, shape)
    # densities on the line: that of the values times the slope of the map
    slope = {name: maps[name].log_abs_det_jacobian(line[name], value) for name, value in drawn.items()}
    stretch = _total(slope, tuple(drawn), shape)
    density = _total(scores, tuple(drawn), shape) + stretch
    joint = _total(scores, factors, shape) + stretch
    if proposal is not None:
        part = share / particles
        density = torch.logaddexp(density + math.log(part), proposal.log_prob(flat) + math.log1p(-part))
    found = joint - density - math.log(particles)
    return drawn, flat, torch.where(found.isnan(), -math.inf, found)


def _nuts(
    scm: SCM, component: _Component, given: Mapping[str, Tensor], start: Mapping[str, Tensor], generator: RowGenerator, draws: int
) -> tuple[dict[str, Tensor], float]:
    """A chain for one row over its missing numbers, (draw, 1) by name, its categories summed out; its effective sample size."""
    from pyro.infer import MCMC, NUTS, config_enumerate
    from pyro.infer.autoguide.initialization import init_to_value
    from pyro.ops.stats import effective_sample_size

    numbers = [name for name in component.missing if not scm.graph.node(name).discrete]
    labels = [name for name in component.missing if name not in numbers]
    factors = (*component.missing, *component.effects)
    program = poutine.condition(value_program, data={name: given[name] for name in component.effects})
    others = {name: value for name, value in given.items() if name not in factors}

    def model() -> None:
        program(scm, 1, nodes=factors, given=others)

    count = max(_NUTS_SAMPLES, draws)
    _check_smooth(scm, factors, {**given, **{name: value[:, 0] for name, value in start.items()}}, numbers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.uniform() * 2**52))
        kernel = NUTS(
            config_enumerate(model, "parallel") if labels else model,
            init_strategy=init_to_value(values={name: start[name][0] for name in numbers}),
            full_mass=True,
            max_plate_nesting=1,
        )
        chain = MCMC(kernel, num_samples=count, warmup_steps=_NUTS_WARMUP, disable_progbar=True)
        chain.run()
    samples = {name: chain.get_samples()[name].detach() for name in numbers}
    size = min(float(effective_sample_size(value[None, :, 0], chain_dim=0, sample_dim=1)) for value in samples.values())
    kept = torch.linspace(0, count - 1, draws).round().long()
    return {name: value[kept] for name, value in samples.items()}, size


def _check_smooth(scm: SCM, factors: Sequence[str], values: Mapping[str, Tensor], numbers: Sequence[str]) -> None:
    """Raise an AbductionError unless the density has a derivative by every missing number."""
    place = {name: value[:1].clone().requires_grad_() if name in numbers else value[:1] for name, value in values.items()}
    for name in factors:
        if {name, *scm.graph.parents(name)} & set(numbers):
            try:
                smooth = _distribution(scm, name, place).log_prob(place[name]).requires_grad
            except RuntimeError:  # a tensor that takes part in a derivative went to numpy
                smooth = False
            if not smooth:
                kind = type(scm.mechanisms[name]).__name__
                raise AbductionError(f"'{name}' has no derivatives, being a {kind}, and NUTS needs them. Use method='auto'.")


class _Filling:
    """The rows while their missing attributes are filled in."""

    def __init__(
        self,
        scm: SCM,
        values: Mapping[str, Tensor],
        observed: Mapping[str, Tensor],
        index: pd.Index,
        draws: int,
        seed: int,
        method: Method,
    ) -> None:
        graph, rows = scm.graph, len(index)
        self.scm, self.graph, self.index, self.draws, self.seed, self.method = scm, graph, index, draws, seed, method
        self.keys = row_keys(index)
        self.given = {name: values[name] for name in graph.attributes}
        self.seen = {name: observed[name] for name in graph.attributes}
        self.values = {
            name: value.expand(draws, rows) if self.seen[name].all() else value.repeat(draws, 1)
            for name, value in self.given.items()
        }
        self.probabilities = {
            name: torch.nn.functional.one_hot(
                torch.where(self.seen[name], self.given[name], 0), len(graph.node(name).states or ())
            ).double()
            for name in graph.attributes
            if graph.node(name).discrete and not self.seen[name].all()
        }
        self.rank = np.zeros(rows, dtype=int)
        self.ess = torch.full((rows,), math.inf, dtype=torch.float64)
        self.log_evidence = torch.zeros(rows, dtype=torch.float64)
        self.identified = torch.ones(rows, dtype=torch.bool)
        self.why_not: dict[str, str] = {}

    def plan(self) -> tuple[dict[_Component, NDArray[np.int64]], dict[str, NDArray[np.int64]]]:
        """Which rows need which attributes drawn together, and which need which attributes predicted."""
        attributes = self.graph.attributes
        missing = ~torch.stack([self.seen[name] for name in attributes], dim=1).numpy()
        patterns, which = np.unique(missing, axis=0, return_inverse=True)
        together: dict[_Component, list[NDArray[np.int64]]] = {}
        forward: dict[str, list[NDArray[np.int64]]] = {}
        for number, pattern in enumerate(patterns):
            rows = np.flatnonzero(which.reshape(-1) == number)
            absent = frozenset(name for name, gone in zip(attributes, pattern, strict=True) if gone)
            plan = _plan(self.graph, absent)
            for component in plan.components:
                together.setdefault(component, []).append(rows)
            for name in plan.forward:
                forward.setdefault(name, []).append(rows)
            self._confound(absent, plan, rows)
        join = np.concatenate
        return {key: join(rows) for key, rows in together.items()}, {key: join(rows) for key, rows in forward.items()}

    def _confound(self, absent: frozenset[str], plan: _Plan, rows: NDArray[np.int64]) -> None:
        used = absent.union(*(component.effects for component in plan.components))
        for a, b in self.graph.bidirected:
            if {a, b} & used:
                self.why_not[f"{a} <-> {b}"] = (
                    "a latent confounder of these two could change what the row says of its missing values"
                )
                self.identified[rows] = False

    def weigh_observed(self) -> None:
        """The evidence of attributes that were observed together with all their causes."""
        for name in self.graph.attributes:
            whole = self.seen[name].clone()
            for parent in self.graph.parents(name):
                whole &= self.seen[parent]
            rows = whole.nonzero()[:, 0].numpy()
            if len(rows):
                some = {key: self.given[key][rows] for key in (name, *self.graph.parents(name))}
                with torch.no_grad():
                    score = _distribution(self.scm, name, some).log_prob(some[name])
                self._add_evidence(rows, score, f"the observed '{name}' is impossible given its observed causes")

    def _add_evidence(self, rows: NDArray[np.int64], score: Tensor, problem: str) -> None:
        impossible = (score.isnan() | (score == -math.inf)).nonzero()[:, 0]
        if len(impossible):
            first = self.index[rows[int(impossible[0])]]
            raise AbductionError(
                f"row {first}: {problem} ({len(impossible)} such rows). Correct the observed values, or leave them missing too."
            )
        self.log_evidence[rows] += score

    def draw(self, component: _Component, rows: NDArray[np.int64], particles: int, *, last: bool = False) -> None:
        """Fill in one component of some rows."""
        for some, found, exact in self._weighted(component, rows, particles):
            size = torch.full((len(some),), math.inf, dtype=torch.float64) if exact else _effective(found.log_weights)
            few = (size < ENOUGH).numpy()
            if few.any() and not last and self.method != "nuts":
                self.draw(component, some[few], particles * _MORE, last=True)
                keep = torch.from_numpy(np.flatnonzero(~few))
                some, size = some[~few], size[keep]
                values = {name: value[:, keep] for name, value in found.values.items()}
                found = _Particles(values, found.log_weights[:, keep])
            if len(some):
                self._keep(component, some, found, size, exact)

    def _weighted(
        self, component: _Component, rows: NDArray[np.int64], particles: int
    ) -> Iterator[tuple[NDArray[np.int64], _Particles, bool]]:
        graph = self.graph
        numbers = [name for name in component.missing if not graph.node(name).discrete]
        combinations = _combinations(graph, component.missing)
        exact = not numbers and combinations <= _COMBINATIONS and self.method != "importance"
        if self.method == "enumerate" and not exact:
            problem = f"'{numbers[0]}' is continuous" if numbers else f"they have {combinations} combinations"
            raise AbductionError(
                f"cannot enumerate the missing {', '.join(component.missing)} of row {self.index[rows[0]]}: {problem}. "
                "Use method='auto'."
            )
        size = max(1, _AT_ONCE // (combinations if exact else particles))
        for some in (rows[start : start + size] for start in range(0, len(rows), size)):
            known = self._known(component, some)
            if exact:
                yield some, _enumerate(self.scm, component, known, len(some)), True
            else:
                yield some, _importance(self.scm, component, known, self._generator(component.name, some), particles), False

    def _generator(self, stream: str, rows: NDArray[np.int64]) -> RowGenerator:
        return RowGenerator(self.seed, self.keys[rows], f"evidence/{stream}")

    def _known(self, component: _Component, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        factors = (*component.missing, *component.effects)
        needed = {*component.effects, *(parent for name in factors for parent in self.graph.parents(name))}
        return {name: self.given[name][rows] for name in needed.difference(component.missing)}

    def _keep(self, component: _Component, rows: NDArray[np.int64], found: _Particles, size: Tensor, exact: bool) -> None:
        told = f"no value of {', '.join(component.missing)} was found that explains the observed {', '.join(component.effects)}"
        self._add_evidence(rows, found.log_evidence, told)
        drawn = found.resample(self.draws, self._generator(component.name, rows).stream("resample"))
        for name, value in drawn.items():
            self.values[name][:, rows] = value
        self._count(rows, found.values, found.weights)
        if self.method == "nuts" and not exact:
            size = torch.tensor([self._chain(component, rows[place : place + 1], drawn, place) for place in range(len(rows))])
        self.ess[rows] = torch.minimum(self.ess[rows], size.double())
        kind = "enumerate" if exact else "nuts" if self.method == "nuts" else "importance"
        self.rank[rows] = np.maximum(self.rank[rows], _RANK.index(kind))

    def _count(self, rows: NDArray[np.int64], values: Mapping[str, Tensor], weights: Tensor) -> None:
        for name, value in values.items():
            if name in self.probabilities:
                states = range(self.probabilities[name].shape[1])
                self.probabilities[name][rows] = torch.stack([(weights * (value == code)).sum(0) for code in states], dim=1)

    def _chain(self, component: _Component, row: NDArray[np.int64], drawn: Mapping[str, Tensor], place: int) -> float:
        """Replace the draws of one row by those of a chain that starts at the first of them; its effective sample size."""
        known, start = self._known(component, row), {name: value[:, place : place + 1] for name, value in drawn.items()}
        generator = self._generator(component.name, row).stream("nuts")
        chain, size = _nuts(self.scm, component, known, start, generator, self.draws)
        labels = tuple(name for name in component.missing if name not in chain)
        values = chain
        if labels:  # the categories given the numbers, draw by draw
            wide = {name: value.expand(self.draws) for name, value in known.items()}
            wide |= {name: value[:, 0] for name, value in chain.items()}
            found = _enumerate(self.scm, _Component(labels, (*chain, *component.effects)), wide, self.draws)
            each = RowGenerator(self.seed, draw_keys(generator.keys, self.draws)[:, 0], f"{generator.name}/labels")
            values = chain | {name: value.T for name, value in found.resample(1, each).items()}
            self._count(row, {k: v.reshape(-1, 1) for k, v in found.values.items()}, found.weights.reshape(-1, 1) / self.draws)
        for name, value in values.items():
            self.values[name][:, row] = value
        return size

    def predict(self, name: str, rows: NDArray[np.int64]) -> None:
        """Fill in an attribute without an observed effect from its causes, draw by draw."""
        parents = {parent: self.values[parent][:, rows] for parent in self.graph.parents(name)}
        shape = torch.Size((self.draws, len(rows)))
        given = MechanismDistribution(self.graph.node(name), self.scm.mechanisms[name], parents, shape)
        each = RowGenerator(self.seed, draw_keys(self.keys[rows], self.draws).reshape(-1), f"evidence/{name}")
        self.values[name][:, rows] = given.predict(self.scm.mechanisms[name].draw_noise(each), shape)
        self.rank[rows] = np.maximum(self.rank[rows], _RANK.index("forward"))
        if name in self.probabilities:
            with torch.no_grad():
                states = [
                    given.log_prob(torch.full(shape, code)).exp().mean(0) for code in range(self.probabilities[name].shape[1])
                ]
            self.probabilities[name][rows] = torch.stack(states, dim=1)


def infer_missing(
    scm: SCM,
    values: Mapping[str, Tensor],
    observed: Mapping[str, Tensor],
    index: pd.Index,
    *,
    draws: int = 200,
    seed: int = 0,
    method: Method = "auto",
    particles: int = 500,
) -> Posterior:
    """Draws of the missing attributes of every row given its observed ones.

    A missing image is simply absent, and an image that is there does not tell about its missing parents: its likelihood is not
    used, which `Posterior.unused` says.

    Args:
        scm: fitted.
        values: (row,) by attribute, in model space; anything where it is missing.
        observed: (row,) by attribute, whether the value is known. A row may have nothing observed: its draws are the model's.
        index: labels of the rows; a row's draws are a function of its label and the seed, and of no other row.
        draws: completed rows for each row.
        seed: of the draws.
        method: `auto` enumerates missing categories and samples missing numbers by importance. `enumerate` refuses numbers,
            `importance` samples categories too. `nuts` runs a chain a row for missing numbers, which takes seconds to a minute
            each and may stay in one of several modes, which its effective sample size does not see.
        particles: of importance sampling; eight times as many for rows of which fewer than 100 are effective.

    Raises:
        AbductionError: the observed values of a row have probability zero, or cannot be enumerated where that is asked for.
        DataError: a value or mask is missing or of the wrong shape, an observed value is NaN.

    Warns:
        UserWarning: the posterior of some rows rests on fewer than 100 effective draws.

    Example:
        >>> import causalcf as ccf
        >>> scm = ccf.load("morphomnist")
        >>> nan = float("nan")
        >>> values = {"thickness": torch.tensor([nan]), "intensity": torch.tensor([180.0]), "digit": torch.tensor([3])}
        >>> values = {name: value.double() if name != "digit" else value for name, value in values.items()}
        >>> observed = {name: torch.tensor([name != "thickness"]) for name in values}
        >>> infer_missing(scm, values, observed, pd.Index(["a"]))
        Posterior(draws=200, rows=1, missing=[thickness])
    """
    _check(scm, values, observed, index, draws, method, particles)
    filling = _Filling(scm, values, observed, index, draws, seed, method)
    filling.weigh_observed()
    together, forward = filling.plan()
    for component, rows in together.items():
        filling.draw(component, rows, particles)
    for name in scm.graph.attributes:
        if name in forward:
            filling.predict(name, forward[name])
    _warn(filling)
    unused = [
        name
        for name in scm.graph.images
        if name in values and not all(bool(filling.seen[parent].all()) for parent in scm.graph.parents(name))
    ]
    return Posterior(
        scm.graph,
        index,
        filling.seen,
        filling.values,
        filling.probabilities,
        np.array(_RANK)[filling.rank],
        filling.ess,
        filling.log_evidence,
        filling.identified,
        filling.why_not,
        tuple(unused),
    )


def _check(
    scm: SCM,
    values: Mapping[str, Tensor],
    observed: Mapping[str, Tensor],
    index: pd.Index,
    draws: int,
    method: str,
    particles: int,
) -> None:
    scm.check_fitted()
    if method not in get_args(Method):
        raise DataError(f"method is one of {', '.join(get_args(Method))}, not {method!r}.")
    if draws < 1:
        raise DataError(f"cannot make {draws} draws: draws is at least 1.")
    if particles < 100:
        raise DataError(f"particles={particles} are too few: use at least 100.")
    for name in scm.graph.attributes:
        for what, tensors in (("values", values), ("observed", observed)):
            if name not in tensors:
                raise DataError(f"{what} has no '{name}'. A missing attribute has a tensor too, with observed=False in its rows.")
            if tensors[name].shape != (len(index),):
                raise DataError(
                    f"{what}['{name}'] has shape {tuple(tensors[name].shape)}; {len(index)} rows need ({len(index)},)."
                )
        if observed[name].dtype != torch.bool:
            raise DataError(f"observed['{name}'] holds {observed[name].dtype}; it takes True and False.")
        bad = (~values[name].isfinite() & observed[name]).nonzero()[:, 0].tolist()
        if bad:
            raise DataError(f"'{name}' of row {index[bad[0]]} is NaN or infinite but marked as observed ({len(bad)} such rows).")


def _warn(filling: _Filling) -> None:
    rows = (filling.ess < ENOUGH).nonzero()[:, 0].tolist()
    if rows:
        some = ", ".join(str(filling.index[row]) for row in rows[:5])
        worst = min(rows, key=lambda row: float(filling.ess[row]))
        warnings.warn(
            f"the missing values of {len(rows)} rows rest on fewer than {ENOUGH:.0f} effective draws (rows {some}"
            f"{', ...' if len(rows) > 5 else ''}; {float(filling.ess[worst]):.1f} for row {filling.index[worst]}). "
            "Use more particles, or method='nuts' if the posterior has one mode.",
            stacklevel=3,
        )
