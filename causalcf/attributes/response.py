"""Discrete attributes by response types, where the noise is a function from the parents to a state; exact counterfactuals.

    x = g_u(pa),  u one of the K^C functions from the C configurations of the parents to the K states

Every structural causal model over discrete nodes can be written so: A. Balke, J. Pearl, "Counterfactual Probabilities:
Computational Methods, Bounds and Applications", UAI 1994, https://arxiv.org/abs/1302.6784. The same paper and I. Shpitser,
J. Pearl, "What Counterfactuals Can Be Tested", UAI 2007, https://arxiv.org/abs/1206.5294, give the twin network that
`exact_counterfactual` sums over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from causalcf.attributes.probabilities import (
    DiscreteMechanism,
    ProbabilityModel,
    cut,
    edges_of,
    rows_of,
    uniform_between,
)
from causalcf.errors import AbductionError, DataError, GraphError
from causalcf.graph import CausalGraph, Node, in_support
from causalcf.mechanism import Mechanism, Parents
from causalcf.seeds import RowGenerator

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

__all__ = ["ResponseType", "exact_counterfactual"]

MOST_TYPES = 4096
_MOST_WORLDS = 2**22


def _outcome(kind: Tensor, configuration: Tensor | int, sizes: tuple[int, int]) -> Tensor:
    """The state that a type gives to a configuration: a digit of the type's number, the first configuration's the highest."""
    configurations, states = sizes
    power = torch.as_tensor(states ** np.arange(configurations - 1, -1, -1, dtype=np.int64))
    return kind // power[configuration] % states


class ResponseType(DiscreteMechanism):
    """A discrete attribute whose noise decides, for every configuration of its discrete parents, which state the unit would take.

    Without `types`, the decisions for different configurations are independent of one another. That is cross-world
    independence: what a unit does under its own parents says nothing about what it would do under others, so a
    counterfactual is a fresh draw from p(x | pa) as soon as a parent moves. `Monotone` is the other extreme.

    Args:
        model, probabilities, hidden, smoothing: see `DiscreteMechanism`.
        types: the probability of every response type, (K^C,), in place of all those. Type t gives configuration c the c-th
            digit of t written with C digits in base K, as in `itertools.product(range(K), repeat=C)`; configurations count
            with the last parent fastest, as in `itertools.product(*map(range, parent states))`. At most 4096 types.
        shape: with `types`: (*parent states, states), parents in the order in which the node declares them.

    Example:
        >>> doomed, helped, harmed, safe = 0.2, 0.5, 0.0, 0.3  # survival (no, yes) untreated and treated: 00, 01, 10, 11
        >>> mechanism = ResponseType(types=[doomed, helped, harmed, safe], shape=(2, 2))
        >>> mechanism.joint({"treated": torch.tensor([0])}, {"treated": torch.tensor([1])})
        tensor([[[0.2000, 0.5000],
                 [0.0000, 0.3000]]], dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        model: ProbabilityModel = "network",
        probabilities: ArrayLike | None = None,
        types: ArrayLike | None = None,
        shape: Sequence[int] | None = None,
        hidden: int = 16,
        smoothing: float = 0.5,
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model, probabilities=probabilities, hidden=hidden, smoothing=smoothing, spec=spec)
        if (types is None) != (shape is None):
            raise DataError("types and shape belong together: give the probability of each type and (*parent states, states).")
        if types is not None and shape is not None:
            if probabilities is not None or model != "network":
                raise DataError("types decide the probabilities. Leave out model and probabilities.")
            self._know_types(types, tuple(shape))

    def _know_types(self, types: ArrayLike, shape: tuple[int, ...]) -> None:
        if not shape or not all(isinstance(number, int) and number > 0 for number in shape) or shape[-1] < 2:
            raise DataError(f"shape={shape!r} takes whole numbers, (*parent states, states), with two states or more.")
        states, configurations = shape[-1], math.prod(shape[:-1])
        if configurations * math.log(states) > math.log(MOST_TYPES) + 1e-9:
            raise DataError(f"shape={shape} has {states}^{configurations} response types; at most {MOST_TYPES} are listed.")
        try:
            weight = np.asarray(types, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError("types takes an array of numbers, one a response type.") from None
        if weight.shape != (states**configurations,):
            raise DataError(
                f"types has shape {weight.shape}, but shape={shape} has {states**configurations} response types "
                f"({states} states to the power of {configurations} configurations of the parents)."
            )
        if not np.isfinite(weight).all() or (weight < 0).any() or abs(weight.sum() - 1) > 1e-6:
            raise DataError(f"types are probabilities: none negative, and their sum is 1, not {weight.sum():.7g}.")
        probability = torch.from_numpy(weight / weight.sum())
        kinds = torch.arange(len(weight))
        rows = [_margin(_outcome(kinds, place, (configurations, states)), probability, states) for place in range(configurations)]
        self._know(torch.stack(rows).reshape(shape), types=len(weight))
        self.weight.copy_(probability)

    def _build(self, spec: Mapping[str, Any]) -> None:
        super()._build(spec)
        self.weight: Tensor
        if "types" in spec:
            self.register_buffer("weight", torch.zeros(spec["types"]))

    @property
    def _listed(self) -> bool:
        """Whether the types have probabilities of their own."""
        return "types" in self._fitted()

    def _sizes(self) -> tuple[int, int]:
        return math.prod(self.configurations), self.states

    def check(self, node: Node, parent_nodes: Sequence[Node]) -> None:
        super().check(node, parent_nodes)
        self._check_discrete(node, parent_nodes, "a response type")

    def noise_prior(self) -> dist.TorchDistribution:
        shape = () if self._listed else self._sizes()[:1]
        low = self._anchor.new_zeros(shape)
        return cast(dist.TorchDistribution, dist.Uniform(low, low + 1).to_event(len(shape)))

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        return generator.uniform() if self._listed else generator.uniform(self._sizes()[0])

    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        with torch.no_grad():
            place = self._place(parents).expand(len(value))
            if self._listed:
                return self._abduct_type(value, place, generator.uniform())
            edges = edges_of(self.table().log())
            low, high = edges[place, value], edges[place, value + 1]
            self._check_possible(low >= high, value)
            noise = generator.uniform(len(edges))
            own = noise.gather(1, place[:, None])
            return noise.scatter(1, place[:, None], uniform_between(low[:, None], high[:, None], own))

    def _abduct_type(self, value: Tensor, place: Tensor, uniform: Tensor) -> Tensor:
        """A uniform draw from those parts of the unit interval whose type gives the value to the configuration."""
        self._check_possible(self.probability[place, value] <= 0, value)
        edges, kinds, noise = edges_of(self.weight.log()), torch.arange(len(self.weight)), torch.empty_like(uniform)
        group = place * self.states + value
        for number in torch.unique(group).tolist():
            rows = group == number
            fits = _outcome(kinds, number // self.states, self._sizes()) == number % self.states
            width = torch.where(fits, edges.diff(), 0.0)
            ends = width.cumsum(0)
            along = uniform[rows] * ends[-1]
            kind = torch.searchsorted(ends, along, right=True).clamp(max=int(width.nonzero()[-1]))
            share = ((along - (ends - width)[kind]) / width[kind]).clamp(0, 1)
            noise[rows] = uniform_between(edges[kind], edges[kind + 1], share)
        return noise

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        with torch.no_grad():
            place = self._place(parents).expand(len(noise))
            if self._listed:
                kind = torch.searchsorted(edges_of(self.weight.log())[1:-1].contiguous(), noise, right=True)
                return _outcome(kind, place, self._sizes())
            return cut(noise.gather(1, place[:, None])[:, 0], rows_of(edges_of(self.table().log()), place))

    def joint(self, parents: Parents, others: Parents) -> Tensor:
        with torch.no_grad():
            first, second = self._place(parents), self._place(others)
            if not self._listed:
                table = self.table()
                p, q = table[first], table[second]
                return torch.where((first == second)[..., None, None], torch.diag_embed(p), p[..., :, None] * q[..., None, :])
            configurations, states = self._sizes()
            pairs, which = torch.unique(first * configurations + second, return_inverse=True)
            kinds, joints = torch.arange(len(self.weight)), []
            for pair in pairs.tolist():
                one, other = (_outcome(kinds, place, (configurations, states)) for place in divmod(pair, configurations))
                joints.append(_margin(one * states + other, self.weight, states * states).reshape(states, states))
            return torch.stack(joints)[which]

    def response_types(self) -> tuple[Tensor, Tensor]:
        configurations, states = self._sizes()
        if configurations * math.log(states) > math.log(MOST_TYPES) + 1e-9:
            raise DataError(
                f"{states} states and {configurations} configurations of the parents make {states}^{configurations} response "
                f"types; at most {MOST_TYPES} are listed. Use joint(parents, others), which needs no list."
            )
        kinds = torch.arange(states**configurations)
        outcomes = torch.stack([_outcome(kinds, place, (configurations, states)) for place in range(configurations)], dim=1)
        if self._listed:
            return outcomes, self.weight
        return outcomes, self.table()[torch.arange(configurations), outcomes].prod(1)


def _margin(outcome: Tensor, weight: Tensor, states: int) -> Tensor:
    return torch.bincount(outcome, weights=weight, minlength=states)


@dataclass(frozen=True)
class _Worlds:
    """Every pair of a factual and a counterfactual world that is still possible: codes or numbers by node, (pair,)."""

    factual: dict[str, Tensor]
    other: dict[str, Tensor]
    weight: Tensor

    def check_room(self, alternatives: int) -> None:
        """Raise a DataError if every pair times so many alternatives would be too much."""
        if len(self.weight) * alternatives > _MOST_WORLDS:
            raise DataError(
                f"the exact answer sums over {len(self.weight) * alternatives} pairs of worlds, more than {_MOST_WORLDS}. "
                "Observe more nodes, ask about fewer, or draw from causalcf.counterfactual."
            )

    def grown(self, probability: Tensor, factual: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> _Worlds:
        """Each pair times each alternative that is possible.

        Args:
            probability: (pair, alternative).
            factual: the value of a new node in each alternative, (alternative,).
            other: the same in the counterfactual world.
        """
        weight = self.weight[:, None] * probability
        pair, choice = (weight > 0).nonzero(as_tuple=True)

        def both(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[pair] for name, value in old.items()} | {name: value[choice] for name, value in new.items()}

        return _Worlds(both(self.factual, factual), both(self.other, other), weight[pair, choice])

    def kept(self, factual: set[str], other: set[str]) -> _Worlds:
        """The pairs with only these nodes; those that then look alike are one, with their weights added."""
        before, after = (
            {k: v for k, v in old.items() if k in names} for old, names in ((self.factual, factual), (self.other, other))
        )
        columns = [*before.values(), *after.values()]
        if not columns or len(columns) == len(self.factual) + len(self.other):
            return self if columns else _Worlds({}, {}, self.weight.sum(0, keepdim=True))
        unique, which = torch.unique(torch.stack([column.double() for column in columns], 1), dim=0, return_inverse=True)
        values = [column.to(old.dtype) for column, old in zip(unique.T, columns, strict=True)]
        weight = _margin(which, self.weight, len(unique))
        return _Worlds(dict(zip(before, values, strict=False)), dict(zip(after, values[len(before) :], strict=True)), weight)


@dataclass(frozen=True)
class _Question:
    """A question to the twin network: what was seen and what is set, a code or number for each node, (1,); whom it is about."""

    graph: CausalGraph
    mechanisms: Mapping[str, Mechanism]
    seen: Mapping[str, Tensor]
    do: Mapping[str, Tensor]
    wanted: Sequence[str]

    def worlds(self) -> _Worlds:
        """All pairs of worlds, causes first; a node is in the factual world, in the counterfactual one, in both or in neither."""
        order, reached = self.graph.order, self.graph.descendants(self.do)
        in_factual, in_other = self._ancestors(self.seen, ()), self._ancestors(self.wanted, self.do)
        worlds = _Worlds({}, {}, torch.ones(1, dtype=torch.float64))
        for place, name in enumerate(order):
            first, second = name in in_factual, name in in_other
            if name in self.do:
                worlds = self._one(name, worlds, first, False) if first else worlds
                worlds = worlds.grown(torch.ones(1, 1), {}, {name: self.do[name]}) if second else worlds
            elif first and second and name in reached:
                worlds = self._two(name, worlds)
            elif first or second:
                worlds = self._one(name, worlds, first, second)
            causes = {child: self.graph.parents(child) for child in order[place + 1 :]}
            worlds = worlds.kept(
                {cause for child in causes if child in in_factual for cause in causes[child]},
                {cause for child in causes if child in in_other and child not in self.do for cause in causes[child]}
                | set(self.wanted),
            )
        return worlds

    def _ancestors(self, names: Iterable[str], cut_off: Iterable[str]) -> set[str]:
        """The nodes and whatever they descend from, in the graph where the edges into some nodes are cut."""
        found, waiting = set[str](), list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(() if name in cut_off else self.graph.parents(name))
        return found

    def _parents(self, name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {parent: values[parent] for parent in self.graph.parents(name)}

    def _mechanism(self, name: str) -> DiscreteMechanism:
        mechanism = self.mechanisms[name]
        if not isinstance(mechanism, DiscreteMechanism):
            raise DataError(
                f"the exact answer sums over the states of '{name}', which is {self.graph.node(name).kind}, a "
                f"{type(mechanism).__name__}: it needs Categorical, Monotone or ResponseType. "
                f"{'D' if name in self.seen else f'Observe {name!r}, or d'}raw from causalcf.counterfactual."
            )
        mechanism.check(self.graph.node(name), [self.graph.node(parent) for parent in self.graph.parents(name)])
        return mechanism

    def _one(self, name: str, worlds: _Worlds, factual: bool, other: bool) -> _Worlds:
        """The worlds with a node that is in one of the two, or has the same value in both."""
        parents = self._parents(name, worlds.factual if factual else worlds.other)
        with torch.no_grad():
            if factual and name in self.seen:
                value, rows = self.seen[name], len(worlds.weight)
                probability = torch.exp(-self.mechanisms[name].loss(value.expand(rows), parents, generator=None))[:, None]
            else:
                mechanism = self._mechanism(name)
                value = torch.arange(mechanism.states)
                worlds.check_room(len(value))
                probability = mechanism.log_probabilities(parents).exp().reshape(-1, len(value))
        return worlds.grown(probability, {name: value} if factual else {}, {name: value} if other else {})

    def _two(self, name: str, worlds: _Worlds) -> _Worlds:
        """The worlds with a node whose two values differ, but share their noise."""
        mechanism = self._mechanism(name)
        codes = torch.arange(mechanism.states)
        worlds.check_room(len(codes) ** 2)
        rows = self.seen.get(name, codes)
        joint = mechanism.joint(self._parents(name, worlds.factual), self._parents(name, worlds.other))
        pairs = torch.cartesian_prod(rows, codes)
        return worlds.grown(joint[..., rows, :].reshape(-1, len(pairs)), {name: pairs[:, 0]}, {name: pairs[:, 1]})


def _number(node: Node, label: Any, doing: str) -> Tensor:
    """A label's code or a number, (1,)."""
    if np.ndim(label):
        raise DataError(f"cannot {doing} '{node.name}' as {label!r}: the exact answer takes one label or number.")
    if not node.discrete:
        try:
            number = float(label)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"cannot {doing} '{node.name}' as {label!r}: it takes a finite number.")
        if not in_support(node, number):
            raise DataError(f"cannot {doing} '{node.name}' as {label!r}: outside its support {node.support}.")
        return torch.tensor([number], dtype=torch.float64)
    states = list(node.states or ())
    if label not in states:
        raise DataError(
            f"cannot {doing} '{node.name}' as {label!r}: it is none of its labels. Labels are: {', '.join(map(repr, states))}."
        )
    return torch.tensor([states.index(label)])


def exact_counterfactual(
    graph: CausalGraph,
    mechanisms: Mapping[str, Mechanism],
    factual: Mapping[str, Any],
    do: Mapping[str, Any],
    *,
    nodes: Sequence[str] | None = None,
) -> pd.Series:
    """The distribution of nodes of one unit under an intervention, given what was observed of it: no draw, no approximation.

    Sums over the twin network, whose factual and counterfactual halves share their noise. A node needs no more than the joint
    distribution of its two values under its two sets of parents, `DiscreteMechanism.joint`. As everywhere, the answer rests
    on the mechanisms' assumption about the noise; a latent confounder (a bidirected edge) is not in it.

    Args:
        graph: of the mechanisms.
        mechanisms: by node; of the nodes that are summed over, discrete ones.
        factual: what was observed, by node, in the user's units: all attributes, some, or none.
        do: one label or number for each intervened node; with none, the answer is a conditional probability.
        nodes: whose joint distribution; discrete. Every discrete node that the intervention reaches unless told.

    Returns:
        A probability for each label, or each combination of labels in a MultiIndex, zeros included.

    Raises:
        GraphError: a name is no node.
        DataError: a label is unknown, a node that has to be summed over is not discrete, or the sum is too large.
        AbductionError: what was observed has probability zero.

    Example:
        >>> from causalcf.attributes.monotone import Monotone
        >>> graph = CausalGraph("trial", [Node("treated", "binary"), Node("survived", "binary", parents=["treated"])])
        >>> mechanisms = {"treated": Monotone(probabilities=[0.5, 0.5]),
        ...               "survived": Monotone(probabilities=[[0.7, 0.3], [0.4, 0.6]])}
        >>> exact_counterfactual(graph, mechanisms, {"treated": 1, "survived": 1}, {"treated": 0}).round(6).to_dict()
        {0: 0.5, 1: 0.5}
    """
    graph.check(factual, "observe")
    graph.check(do, "intervene on")
    reached = graph.descendants(do)
    wanted = list(nodes if nodes is not None else (n for n in graph.order if n in reached - set(do) and graph.node(n).discrete))
    graph.check(wanted, "answer for")
    if not wanted or len(set(wanted)) != len(wanted) or not all(graph.node(name).discrete for name in wanted):
        raise GraphError(f"nodes takes the names of discrete nodes, each once, not {wanted}.")
    size = math.prod(len(graph.node(name).states or ()) for name in wanted)
    if size > _MOST_WORLDS:
        raise DataError(f"the answer has {size} combinations of labels, more than {_MOST_WORLDS}. Ask about fewer nodes.")
    seen = {name: _number(graph.node(name), label, "observe") for name, label in factual.items()}
    set_to = {name: _number(graph.node(name), label, "set") for name, label in do.items()}
    worlds = _Question(graph, mechanisms, seen, set_to, wanted).worlds()
    if not worlds.weight.sum() > 0:
        raise AbductionError(f"{dict(factual)} has probability zero under the model. Correct it, or the model's probabilities.")
    return _distribution(graph, wanted, worlds)


def _distribution(graph: CausalGraph, nodes: Sequence[str], worlds: _Worlds) -> pd.Series:
    """The counterfactual distribution of the nodes, by label."""
    import pandas as pd

    labels = [list(graph.node(name).states or ()) for name in nodes]
    place = torch.zeros((), dtype=torch.int64)
    for name, states in zip(nodes, labels, strict=True):
        place = place * len(states) + worlds.other[name]
    total = _margin(place, worlds.weight / worlds.weight.sum(), math.prod(map(len, labels)))
    index = pd.MultiIndex.from_product(labels, names=nodes) if len(nodes) > 1 else pd.Index(labels[0], name=nodes[0])
    return pd.Series(total.numpy(), index=index, name="probability")
