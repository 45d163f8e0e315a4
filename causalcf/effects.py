"""Effects of one attribute on another: average, individual, direct and indirect, and probabilities of causation.

    name                                         symbol   what it is
    ate                                          ATE      E[Y_t1 - Y_t0]
    ite                                          ITE      Y_t1(u) - Y_t0(u), row by row
    cate                                         CATE     E[Y_t1 - Y_t0 | a column]
    direct_effect                                NDE      E[Y_(t1, M_t0) - Y_t0], M the mediators
    indirect_effect                              NIE      E[Y_(t0, M_t1) - Y_t0]
    probability_of_necessity                     PN       P(not y under t0 | t1, y)
    probability_of_sufficiency                   PS       P(y under t1 | t0, not y)
    probability_of_necessity_and_sufficiency     PNS      P(y under t1 and not y under t0)

t1 is `treated` and t0 is `control`. Both arms are answered with the same noise, so that chance hardly enters a difference.

J. Pearl, "Causality", 2nd edition, 2009; J. Pearl, "Direct and Indirect Effects", UAI 2001, https://arxiv.org/abs/1301.2300;
J. Tian, J. Pearl, "Probabilities of causation: bounds and identification", UAI 2000, https://arxiv.org/abs/1301.3898.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from torch import Tensor

from causalcf.batch import Batch
from causalcf.encoding import encode, encode_column
from causalcf.errors import DataError, GraphError
from causalcf.graph import CausalGraph, Node
from causalcf.identify import ancestors, minimal_adjustment_set, separated
from causalcf.interventions import resolve
from causalcf.scm import SCM, check_same_graph
from causalcf.seeds import RowGenerator, row_keys
from causalcf.training import fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

__all__ = [
    "Bounds",
    "Effect",
    "ate",
    "cate",
    "causation_bounds",
    "direct_effect",
    "indirect_effect",
    "ite",
    "probability_of_necessity",
    "probability_of_necessity_and_sufficiency",
    "probability_of_sufficiency",
]

Causation = Literal["PN", "PS", "PNS"]

_DRAWS = 32  # posterior draws a row of a batch, where a row does not determine its noise
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Bounds:
    """Between what and what a probability of causation lies, whatever the noise is like.

    Attributes:
        name: `PN`, `PS` or `PNS`.
        low, high: the bounds; nothing sharper follows from the same numbers.
        assumes: what they rest on, one sentence.
    """

    name: Causation
    low: float
    high: float
    assumes: str

    @property
    def identified(self) -> bool:
        """Whether the two bounds meet."""
        return self.high - self.low <= _ROUNDING

    def __str__(self) -> str:
        return f"{self.name}: {self.low:.4g} to {self.high:.4g} ({self.assumes})"

    def to_dict(self) -> dict[str, Any]:
        """The bounds as JSON data."""
        return asdict(self) | {"identified": self.identified}


@dataclass(frozen=True)
class Effect:
    """An effect of one attribute on another.

    Attributes:
        name: `ATE`, `CATE`, `NDE`, `NIE`, `PN`, `PS` or `PNS`.
        of: what against what, for people.
        value: the effect, in `unit`.
        low, high: a 95 % interval for the number of rows or draws; it says nothing of how well the mechanisms were fitted.
            NaN where a single row leaves it open.
        n: rows or draws.
        unit: of `value`; None where it has none.
        assumes: what the value rests on, one sentence.
        why_not: where data and graph alone do not decide the value, what could change it, by edge or node.
        bounds: of a probability of causation, what holds whatever the noise is like.
    """

    name: str
    of: str
    value: float
    low: float
    high: float
    n: int
    unit: str | None
    assumes: str
    why_not: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds | None = None

    @property
    def identified(self) -> bool:
        """Whether data and graph decide the value, under `assumes`."""
        return not self.why_not

    def __str__(self) -> str:
        text = f"{self.name} of {self.of}: {self.value:.4g}{f' {self.unit}' if self.unit else ''}"
        text += f" (95 % interval {self.low:.4g} to {self.high:.4g}, n={self.n})"
        if self.bounds is not None and not self.bounds.identified:
            text += f", between {self.bounds.low:.4g} and {self.bounds.high:.4g} whatever the noise"
        if self.why_not:
            text += f"; not identified: {'; '.join(f'{name}, {reason}' for name, reason in self.why_not.items())}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """The effect as JSON data; what is not known is null."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data |= {name: None for name in ("low", "high") if math.isnan(data[name])}
        data |= {"why_not": dict(self.why_not), "bounds": self.bounds.to_dict() if self.bounds else None}
        return data | {"identified": self.identified}


# --- the question --------------------------------------------------------------------------------------------------------------


def _scored(node: Node, state: Any) -> Callable[[Tensor], Numbers]:
    """The number that an outcome in model space, (row,), stands for; an outcome without a number is an error."""
    states = list(node.states or ())
    if state is not None and state not in states:
        allowed = f"labels are: {', '.join(map(repr, states))}" if states else f"it is {node.kind} and has no labels"
        raise DataError(f"state={state!r} is no label of '{node.name}': {allowed}.")
    if not states:
        return lambda value: value.numpy().astype(float)
    if state is None and node.kind == "ordinal" and all(isinstance(state, int) for state in states):
        return lambda value: np.array(states, dtype=float)[value.numpy()]
    if state is None and node.kind != "binary":
        raise DataError(
            f"'{node.name}' is {node.kind}: say whose probability the effect is about, state={states[-1]!r} for example. "
            f"Labels are: {', '.join(map(repr, states))}."
        )
    code = states.index(state) if state is not None else 1
    return lambda value: (value.numpy() == code).astype(float)


@dataclass(frozen=True)
class _Question:
    """What is asked, checked against the graph."""

    scm: SCM
    treatment: str
    outcome: str
    treated: Any
    control: Any
    state: Any = None

    def __post_init__(self) -> None:
        graph, node = self.scm.graph, self.scm.graph.node(self.outcome)
        graph.check([self.treatment], "intervene on")
        if node.kind == "image":
            raise GraphError(
                f"the outcome '{node.name}' is an image, whose effects are no numbers: choose one of "
                f"{', '.join(graph.attributes)}, or look at counterfactual(...).images."
            )
        if self.treatment == self.outcome:
            raise GraphError(f"treatment and outcome are both '{self.outcome}': choose two different nodes.")
        for name in ("treated", "control"):
            if not isinstance(getattr(self, name), str | numbers.Real):
                raise DataError(f"{name}={getattr(self, name)!r}: an effect compares two values; give a number or a label.")
            resolve(graph, {self.treatment: getattr(self, name)}, pd.DataFrame(index=[name]))
        if self.treated == self.control:
            raise DataError(f"treated and control are both {self.treated!r}: there is nothing to compare.")
        _scored(node, self.state)  # an error here, not after the work
        self.scm.check_fitted()

    @property
    def of(self) -> str:
        event = f"={self.state}" if self.state is not None else ""
        return f"{self.treatment} on {self.outcome}{event} ({self.treated} against {self.control})"

    @property
    def score(self) -> Callable[[Tensor], Numbers]:
        return _scored(self.scm.graph.node(self.outcome), self.state)

    @property
    def unit(self) -> str | None:
        """Of the score: the node's own, or probability; the mean of labels has none."""
        node = self.scm.graph.node(self.outcome)
        if node.kind == "binary" or self.state is not None:
            return "probability"
        return node.unit

    @property
    def reaches(self) -> bool:
        return self.outcome in self.scm.graph.descendants([self.treatment])

    @property
    def between(self) -> frozenset[str]:
        """The nodes on the directed paths from the treatment to the outcome, the outcome included, the treatment not."""
        graph = self.scm.graph
        return (graph.descendants([self.treatment]) & ancestors(graph, self.outcome)) - {self.treatment}

    def noise_reasons(self) -> dict[str, str]:
        """Why what a row would have been is not decided by data and graph, by edge or node."""
        reasons = {
            f"{a} <-> {b}": "a latent confounder of these two could change the answer"
            for a, b in self.scm.graph.bidirected
            if {a, b} & self.between
        }
        for name in self.scm.graph.order:
            mechanism = self.scm.mechanisms[name]
            if name in self.between and not mechanism.identified:
                reasons[name] = f"its noise is a draw under the assumption of {type(mechanism).__name__}"
        return reasons

    def assumes(self, more: str = "") -> str:
        if not self.reaches:
            return f"the graph has no directed path from '{self.treatment}' to '{self.outcome}': the effect is exactly zero"
        return f"the graph '{self.scm.graph.name}' and its fitted mechanisms{more}"


# --- rows and their noise ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Population:
    """Rows with the noise that makes them: draws from the model, or a batch that it explains.

    Attributes:
        rows: how many.
        noise: (row, *noise) by node, as far as the question needs it.
        factual: (row,) by node; empty where there is nothing but the noise.
    """

    question: _Question
    rows: int
    noise: Mapping[str, Tensor]
    factual: Mapping[str, Tensor]

    def world(self, treatment: Any = None, held: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Every node's value where the treatment is set to this and some nodes are held at given values."""
        do = dict(held or {})
        if treatment is not None:
            node = self.question.scm.graph.node(self.question.treatment)
            column = resolve(self.question.scm.graph, {node.name: treatment}, pd.DataFrame(index=[0]))[node.name]
            do[node.name] = encode_column(node, column).expand(self.rows)
        return self.question.scm.predict(self.noise, do, self.factual)

    def score(self, treatment: Any, held: Mapping[str, Tensor] | None = None) -> Numbers:
        return self.question.score(self.world(treatment, held)[self.question.outcome])


def _populations(
    question: _Question, batch: Batch | None, n: int, seed: int, also: Collection[str] = ()
) -> Iterator[_Population]:
    """The rows to average over; a batch comes several times where a row does not determine its noise.

    Args:
        question: decides which nodes' noise is needed.
        batch, n, seed: as in `ate`.
        also: further nodes that a draw from the model needs.
    """
    scm = question.scm
    if batch is None:
        if n < 2:
            raise DataError(f"n={n} draws give no average; take at least 2.")
        generator = RowGenerator(seed, row_keys(pd.RangeIndex(n)), "sample")
        names = ancestors(scm.graph, [question.treatment, question.outcome, *also])
        noise = {name: scm.mechanisms[name].draw_noise(generator.stream(name)) for name in names}
        yield _Population(question, n, noise, {})
        return
    check_same_graph(scm, batch)
    factual, keys = encode(batch.without_images()), row_keys(batch.frame.index)
    for draw in range(1 if all(scm.mechanisms[name].identified for name in question.between) else _DRAWS):
        noise = scm.abduct(factual, RowGenerator(seed, keys, f"effects/{draw}"), question.between)
        yield _Population(question, len(batch), noise, factual)


def _mean(populations: Iterator[_Population], number: Callable[[_Population], Numbers]) -> Numbers:
    """A number a row, averaged over the posterior draws: (row, ...)."""
    total, count = number(next(populations)), 1
    for population in populations:
        total, count = total + number(population), count + 1
    if not np.isfinite(total).all():
        raise DataError(f"the outcome is not finite in rows {np.flatnonzero(~np.isfinite(total))[:5].tolist()} (by position).")
    return np.asarray(total / count)


def _interval(values: Numbers) -> tuple[float, float, float]:
    """The mean and its 95 % interval by Student's t: what a bootstrap over rows tends to, without its draws."""
    from scipy.special import stdtrit

    mean, rows = float(values.mean()), len(values)
    if rows < 2:
        return mean, math.nan, math.nan
    half = float(stdtrit(rows - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(rows)
    return mean, mean - half, mean + half


# --- latent confounders --------------------------------------------------------------------------------------------------------


def _without_causes(graph: CausalGraph, name: str) -> CausalGraph:
    """The graph where a node is set: nothing drives it any more."""
    nodes = [replace(node, parents=()) if node.name == name else node for node in graph.nodes]
    return replace(graph, nodes=nodes, bidirected=[pair for pair in graph.bidirected if name not in pair])


def _as_fitted(graph: CausalGraph, name: str, treatment: str, before: set[str]) -> bool:
    """Whether p(name | its parents), as the data have it, is also its law given all that comes before under do(treatment).

    The first half asks whether a change of the treatment's own mechanism, drawn as a further cause of it, would be seen in
    p(name | parents): A. P. Dawid, "Influence Diagrams for Causal Modelling and Inference", International Statistical Review
    2002, https://doi.org/10.1111/j.1751-5823.2002.tb00354.x. The second asks for the Markov property where the treatment is set.
    """
    parents, change = graph.parents(name), f"change of {treatment}"
    nodes = [replace(node, parents=(*node.parents, change)) if node.name == treatment else node for node in graph.nodes]
    changed = replace(graph, nodes=[*nodes, Node(change, "binary")])
    rest = before.difference(parents, [treatment])
    return separated(changed, name, change, parents) and (
        not rest or separated(_without_causes(graph, treatment), name, rest, parents)
    )


def _confounders(question: _Question, *, rows: bool, beside: Collection[str] = ()) -> dict[str, str]:
    """The bidirected edges under which the fitted mechanisms need not give the law of the outcome under do(treatment).

    p(outcome | do(treatment)) is the product of the laws of the outcome's causes, each given those before it. The fitted
    p(node | parents) must be those laws.

    Args:
        question: the treatment and the outcome.
        rows: whether what the treatment cannot reach is taken from data rather than from the model.
        beside: further nodes that the answer is conditioned on.
    """
    graph, treatment = question.scm.graph, question.treatment
    if not graph.bidirected or not question.reaches:
        return {}
    reached = graph.descendants([treatment])
    causes = ancestors(_without_causes(graph, treatment), [question.outcome, *beside]) - {treatment}
    order = sorted(causes, key=lambda name: (name in reached, graph.order.index(name)))
    reasons = {}
    for place, name in enumerate(order):
        others = [pair for pair in graph.bidirected if name not in pair]
        for a, b in [pair for pair in graph.bidirected if name in pair and (name in reached or not rows)]:
            alone = replace(graph, bidirected=[*others, (a, b)])  # every path that confounds starts with an edge at the node
            if not _as_fitted(alone, name, treatment, set(order[:place])):
                reasons[f"{a} <-> {b}"] = f"a latent confounder of these two is hidden in the fitted mechanism of '{name}'"
    return reasons


def _adjusted(question: _Question, batch: Batch, columns: Collection[str], seed: int) -> SCM:
    """A model of the outcome given the treatment and an adjustment set, fitted to the rows, without latent confounders."""
    graph, seen = question.scm.graph, batch.frame[question.treatment]
    for value in (question.treated, question.control) if graph.node(question.treatment).discrete else ():
        if not (seen == value).any():
            raise DataError(
                f"no row has {question.treatment}={value!r}: the rows are regressed on it, because a latent confounder hides in "
                "the fitted mechanisms, and tell nothing of it. Bring rows of both."
            )
    names = [*(name for name in graph.order if name in columns), question.treatment]
    nodes: list[Node] = [replace(graph.node(name), parents=()) for name in names]
    nodes.append(replace(graph.node(question.outcome), parents=tuple(names)))
    small = CausalGraph(f"{graph.name}, adjusted", nodes)
    return fit(SCM(small), Batch(small, batch.frame), seed=seed)


# --- effects -------------------------------------------------------------------------------------------------------------------


def _arms(population: _Population) -> Numbers:
    question = population.question
    return population.score(question.treated) - population.score(question.control)


def ate(
    scm: SCM,
    treatment: str,
    outcome: str,
    *,
    treated: Any,
    control: Any,
    state: Any = None,
    batch: Batch | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> Effect:
    """The average treatment effect, E[outcome | do(treated)] - E[outcome | do(control)].

    Where a latent confounder makes the fitted mechanisms the wrong ones and rows are given, the outcome is regressed on the
    treatment and an adjustment set instead, if the graph has one. Where nothing helps, the effect says so.

    Args:
        scm: fitted.
        treatment: the node that is set.
        outcome: a number, or a discrete node.
        treated: the value it is set to, in the user's units.
        control: the value that this is compared with.
        state: of a discrete outcome, the label whose probability is the outcome. A binary one has its second label, an
            ordinal one with numeric labels their mean unless told.
        batch: average over these rows' counterfactuals instead of over draws from the model; rows of the treated alone give
            the effect on the treated, unless a regression is needed, which takes rows of both. The rows must not have been
            chosen by the outcome, or by another effect of the treatment.
        n: draws, where there is no batch.
        seed: the draws are a function of it.

    Raises:
        GraphError: a name is no node, or an image.
        DataError: a value is unknown or outside the support, or the two are the same; or a regression is needed and no row has
            one of them.

    Example:
        >>> from causalcf.attributes.categorical import Categorical
        >>> graph = CausalGraph("toy", [Node("drug", "binary"), Node("cured", "binary", parents=["drug"])])
        >>> cured = Categorical(probabilities=[[0.7, 0.3], [0.4, 0.6]])  # p(no, yes) without the drug, with it
        >>> scm = SCM(graph, {"drug": Categorical(probabilities=[0.5, 0.5]), "cured": cured})
        >>> print(ate(scm, "drug", "cured", treated=1, control=0))
        ATE of drug on cured (1 against 0): 0.304 probability (95 % interval 0.295 to 0.313, n=10000)
    """
    question = _Question(scm, treatment, outcome, treated, control, state)
    reasons, more = _confounders(question, rows=batch is not None), ""
    if reasons and (columns := minimal_adjustment_set(scm.graph, treatment, outcome)) is not None:
        if batch is None:
            reasons = {edge: f"{reason}; with a batch, ate adjusts for it" for edge, reason in reasons.items()}
        else:
            question = replace(question, scm=_adjusted(question, batch, columns, seed))
            batch, reasons = Batch(question.scm.graph, batch.frame), {}
            more = f", adjusting for {{{', '.join(sorted(columns))}}} by a regression fitted to the rows"
    if batch is not None:
        more += ", over rows that were not chosen by what the treatment does"
    values = _mean(_populations(question, batch, n, seed), _arms)
    return Effect("ATE", question.of, *_interval(values), len(values), question.unit, question.assumes(more), reasons)


def ite(
    scm: SCM,
    batch: Batch,
    treatment: str,
    outcome: str,
    *,
    treated: Any,
    control: Any,
    state: Any = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The individual treatment effect of every row: its outcome under `treated` minus that under `control`.

    Args:
        scm: fitted.
        batch: the rows.
        treatment, outcome, treated, control, state: as in `ate`.
        seed: for nodes whose value does not determine their noise; the effect is then an expectation over it.

    Returns:
        The index of the batch, with columns `value` and `identified`: whether data and graph decide the row's effect. They do
        not where a latent confounder, or the noise assumption of a discrete mechanism, could change it.
    """
    question = _Question(scm, treatment, outcome, treated, control, state)
    values = _mean(_populations(question, batch, 0, seed), _arms)
    return pd.DataFrame({"value": values, "identified": not question.noise_reasons()}, index=batch.frame.index)


def _groups(batch: Batch, by: str, bins: int, smallest: int) -> dict[Hashable, NDArray[np.bool_]]:
    """The rows of every group of a column: by label, or by quantile where it holds many numbers."""
    graph, frame = batch.graph, batch.frame
    if by not in frame.columns:
        raise DataError(f"the table has no column '{by}' to group by. Its columns are: {', '.join(map(str, frame.columns))}.")
    column = frame[by]
    if column.isna().any():
        raise DataError(f"column '{by}' has {int(column.isna().sum())} missing values. Drop the rows or fill them.")
    discrete = by in graph.order and graph.node(by).discrete
    if not discrete and pd.api.types.is_numeric_dtype(column) and column.nunique() > bins:
        column = pd.qcut(column, bins, duplicates="drop")
        labels: Sequence[Any] = list(column.cat.categories)
    else:
        labels = [label for label in graph.node(by).states or () if discrete] if discrete else sorted(column.unique())
    groups = {label: np.asarray(column == label) for label in labels if (column == label).any()}
    few = {label: int(rows.sum()) for label, rows in groups.items() if rows.sum() < smallest}
    if few:
        raise DataError(
            f"of the groups by '{by}', {', '.join(f'{label} has {rows}' for label, rows in few.items())} rows, fewer than "
            f"smallest={smallest}. Take fewer bins, merge labels, or accept them with smallest={min(few.values())}."
        )
    return groups


def cate(
    scm: SCM,
    batch: Batch,
    treatment: str,
    outcome: str,
    *,
    by: str,
    treated: Any,
    control: Any,
    bins: int = 4,
    smallest: int = 20,
    state: Any = None,
    seed: int = 0,
) -> dict[Any, Effect]:
    """The average treatment effect in every group of a column: where it is larger, where smaller.

    Args:
        scm: fitted.
        batch: the rows to average over.
        treatment, outcome, treated, control, state: as in `ate`.
        by: a column of the table. Labels are groups; numbers are cut at quantiles.
        bins: how many groups numbers are cut into.
        smallest: fewer rows than this in a group are an error.
        seed: for nodes whose value does not determine their noise.

    Returns:
        An effect by label, or by interval of numbers.
    """
    question = _Question(scm, treatment, outcome, treated, control, state)
    groups = _groups(batch, by, bins, smallest)
    values = _mean(_populations(question, batch, 0, seed), _arms)
    inside = by in scm.graph.order
    reasons = _confounders(question, rows=True, beside=[by] if inside else [])
    more = "" if inside else f", and that '{by}' says nothing of the outcome beyond the graph's attributes"
    if inside and by in scm.graph.descendants([treatment]):  # what the treatment itself decides: a question about rows
        reasons |= question.noise_reasons()
    return {
        label: Effect(
            "CATE",
            f"{question.of} where {by}={label}",
            *_interval(values[rows]),
            int(rows.sum()),
            question.unit,
            question.assumes(more),
            reasons,
        )
        for label, rows in groups.items()
    }


# --- direct and indirect effects -----------------------------------------------------------------------------------------------


def _mediators(question: _Question, names: Sequence[str] | None) -> list[str]:
    graph, allowed = question.scm.graph, question.between - {question.outcome}
    if names is None:
        return [name for name in graph.order if name in allowed]
    if isinstance(names, str):
        raise GraphError(f"mediators={names!r}: give a list, [{names!r}].")
    graph.check(names, "mediate by")
    wrong = [name for name in names if name not in allowed]
    if wrong:
        listed = ", ".join(name for name in graph.order if name in allowed) or "none"
        raise GraphError(
            f"'{wrong[0]}' lies on no directed path from '{question.treatment}' to '{question.outcome}'. Nodes that do: {listed}."
        )
    return list(names)


def _nested_reasons(question: _Question, mediators: Collection[str]) -> dict[str, str]:
    """What could change a nested counterfactual: noise that is needed in the mediators' world and in the outcome's.

    C. Avin, I. Shpitser, J. Pearl, "Identifiability of Path-Specific Effects", IJCAI 2005, on recanting witnesses;
    I. Shpitser, "Counterfactual Graphical Models for Longitudinal Mediation Analysis with Unobserved Confounding", 2013,
    https://arxiv.org/abs/1205.0241, on districts.
    """
    import networkx as nx

    if not mediators:
        return {}
    graph, held = question.scm.graph, set(mediators)
    inside = graph.networkx.subgraph(question.between)
    theirs = held.union(*(nx.ancestors(inside, name) for name in held))
    its = nx.ancestors(inside.subgraph(question.between - held), question.outcome) | {question.outcome}
    causes = ancestors(_without_causes(graph, question.treatment), question.outcome) - {question.treatment}
    pairs = [pair for pair in graph.bidirected if causes.issuperset(pair)]
    reasons = {
        f"{a} <-> {b}": "a latent confounder of these two couples the mediators' world with the outcome's"
        for district in nx.connected_components(nx.Graph(pairs))
        for a, b in pairs
        if a in district and district & theirs and district & its
    }
    for name in graph.order:
        if name in theirs & its and not question.scm.mechanisms[name].identified:
            reasons[name] = f"both worlds need its noise, under the assumption of {type(question.scm.mechanisms[name]).__name__}"
    return reasons


def _natural(
    name: str,
    question: _Question,
    base: Callable[[_Population, list[str]], Numbers],
    mediators: Sequence[str] | None,
    batch: Batch | None,
    n: int,
    seed: int,
) -> Effect:
    held = _mediators(question, mediators)
    values = _mean(_populations(question, batch, n, seed), lambda population: base(population, held))
    reasons = _confounders(question, rows=batch is not None) | _nested_reasons(question, held)
    through = f", and independent noise of the outcome and the mediators {', '.join(held)}" if held else ", without mediators"
    assumes = question.assumes(through)
    return Effect(name, question.of, *_interval(values), len(values), question.unit, assumes, reasons)


def _held(population: _Population, treatment: Any, mediators: Sequence[str]) -> dict[str, Tensor]:
    """What the mediators are where the treatment is set to this."""
    world = population.world(treatment)
    return {name: world[name] for name in mediators}


def direct_effect(
    scm: SCM,
    treatment: str,
    outcome: str,
    *,
    treated: Any,
    control: Any,
    mediators: Sequence[str] | None = None,
    state: Any = None,
    batch: Batch | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> Effect:
    """The natural direct effect: the treatment changes, the mediators stay what they are under `control`.

    The total effect is the direct one minus the indirect one of the opposite change: ATE = NDE(treated, control) -
    NIE(control, treated). Pearl 2001, https://arxiv.org/abs/1301.2300.

    Args:
        scm: fitted.
        treatment, outcome, treated, control, state, batch, n, seed: as in `ate`.
        mediators: nodes on directed paths from the treatment to the outcome; all of them unless told.

    Raises:
        GraphError: a name is no node, or a mediator lies on no such path.
    """
    question = _Question(scm, treatment, outcome, treated, control, state)

    def difference(population: _Population, names: list[str]) -> Numbers:
        return population.score(treated, _held(population, control, names)) - population.score(control)

    return _natural("NDE", question, difference, mediators, batch, n, seed)


def indirect_effect(
    scm: SCM,
    treatment: str,
    outcome: str,
    *,
    treated: Any,
    control: Any,
    mediators: Sequence[str] | None = None,
    state: Any = None,
    batch: Batch | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> Effect:
    """The natural indirect effect: the treatment stays at `control`, the mediators change as if it were `treated`.

    See `direct_effect`, whose arguments and errors these are.
    """
    question = _Question(scm, treatment, outcome, treated, control, state)

    def difference(population: _Population, names: list[str]) -> Numbers:
        return population.score(control, _held(population, treated, names)) - population.score(control)

    return _natural("NIE", question, difference, mediators, batch, n, seed)


# --- probabilities of causation ------------------------------------------------------------------------------------------------


def _check_tables(joint: Numbers, experimental: Numbers | None, monotonic: bool, slack: float) -> None:
    """Raise a DataError unless some model gives these numbers."""
    if joint.shape != (2, 2) or not (joint >= 0).all() or abs(joint.sum() - 1) > _ROUNDING:
        raise DataError(f"joint={joint.tolist()}: give P(treatment=i, outcome=j) as joint[i][j], four numbers that sum to 1.")
    if experimental is None:
        return
    if experimental.shape != (2,):
        raise DataError(f"experimental={experimental.tolist()}: give (P(outcome | do(control)), P(outcome | do(treated))).")
    event = joint[:, 1].sum()
    for arm, word in enumerate(("control", "treated")):
        low, high = float(joint[arm, 1]), float(1 - joint[arm, 0])
        if not low - _ROUNDING <= experimental[arm] <= high + _ROUNDING:
            raise DataError(
                f"P(outcome | do({word}))={experimental[arm]:g} cannot be: with this joint it lies between {low:g} and {high:g}. "
                "The experiment and the observations are not of one population."
            )
    if monotonic and not experimental[0] - slack <= event <= experimental[1] + slack:
        raise DataError(
            f"the numbers contradict monotonicity: P(outcome)={event:g} would lie between P(outcome | do(control))="
            f"{experimental[0]:g} and P(outcome | do(treated))={experimental[1]:g}. Drop monotonic=True."
        )


def _closed_form(joint: Numbers, experimental: Numbers | None, monotonic: bool) -> dict[Causation, tuple[float, float]]:
    """Bounds on P(t1, y, not y under t0), P(t0, not y, y under t1) and P(y under t1, not y under t0).

    Tian & Pearl 2000, https://arxiv.org/abs/1301.3898, from an experiment and observations together.
    """
    without, only, neither, both = joint[0, 1], joint[1, 0], joint[0, 0], joint[1, 1]
    if experimental is None:
        return {"PN": (0.0, both), "PS": (0.0, neither), "PNS": (0.0, both + neither)}
    event = both + without
    control, treated = experimental
    masses: dict[Causation, tuple[float, float]] = {
        "PN": (max(0.0, event - control), min(both, 1 - control - neither)),
        "PS": (max(0.0, treated - event), min(neither, treated - both)),
        "PNS": (
            max(0.0, treated - control, event - control, treated - event),
            min(treated, 1 - control, both + neither, treated - control + only + without),
        ),
    }
    return {name: (low, low if monotonic else high) for name, (low, high) in masses.items()}


def _program(joint: Numbers, experimental: Numbers | None, monotonic: bool, target: Numbers) -> Numbers:
    """The distribution q[t, a, b] of response types that fits these numbers and has the least of target . q: (8,).

    The treatment and the outcome share a latent confounder; its states, as far as they matter, are the treatment t and the
    outcome's response type, a under treated and b under control. A. Balke, J. Pearl, "Counterfactual Probabilities:
    Computational Methods, Bounds and Applications", UAI 1994, https://arxiv.org/abs/1302.6784.
    """
    from scipy.optimize import linprog

    t, a, b = np.indices((2, 2, 2)).reshape(3, 8)
    outcome = np.where(t == 1, a, b)
    rows = [(t == arm) & (outcome == value) for arm in (0, 1) for value in (0, 1)]
    sums = joint.ravel().tolist()
    if experimental is not None:
        rows += [b == 1, a == 1]
        sums += experimental.tolist()
    most = np.where(monotonic & (a == 0) & (b == 1), 0.0, 1.0)
    ends = np.stack([np.zeros(8), most], axis=1)
    found = linprog(target, A_eq=np.array(rows, dtype=float), b_eq=sums, bounds=ends, method="highs")
    if found.status != 0:
        raise DataError(f"the linear program over response types has no answer: {found.message}")
    return np.asarray(found.x)


def _linear_program(joint: Numbers, experimental: Numbers | None, monotonic: bool) -> dict[Causation, tuple[float, float]]:
    """The same bounds, as the least and the most that any distribution of response types gives."""
    masses: dict[Causation, tuple[float, float]] = {}
    for name, target in _caused().items():
        least, most = (_program(joint, experimental, monotonic, sign * target) @ target for sign in (1, -1))
        masses[name] = (float(least), float(most))
    return masses


def _caused() -> dict[Causation, Numbers]:
    """The response types q[t, a, b] that PN, PS and PNS count: (8,)."""
    t, a, b = np.indices((2, 2, 2)).reshape(3, 8)
    caused = ((a == 1) & (b == 0)).astype(float)
    return {"PN": caused * (t == 1), "PS": caused * (t == 0), "PNS": caused}


def _conditions(joint: Numbers) -> dict[Causation, float]:
    """The probability of what PN, PS and PNS are given."""
    return {"PN": float(joint[1, 1]), "PS": float(joint[0, 0]), "PNS": 1.0}


def _bounds(name: Causation, low: float, high: float, condition: float, assumes: str) -> Bounds:
    low, high = (min(1.0, max(0.0, float(end) / condition)) for end in (low, high))
    return Bounds(name, min(low, high), max(low, high), assumes)


def causation_bounds(
    joint: Sequence[Sequence[float]] | NDArray[np.float64],
    *,
    experimental: Sequence[float] | None = None,
    monotonic: bool = False,
    method: Literal["closed form", "linear program"] = "closed form",
) -> dict[Causation, Bounds]:
    """Between what and what PN, PS and PNS lie, from observations and an experiment, without a model.

    Args:
        joint: what is observed: P(treatment=i, outcome=j) as joint[i][j], i and j 0 or 1.
        experimental: what an experiment found: (P(outcome | do(control)), P(outcome | do(treated))). Where nothing
            confounds the two, that is P(outcome | treatment), as observed.
        monotonic: the treatment never prevents the outcome; with an experiment the three are then single numbers.
        method: Tian and Pearl's formulas, or a linear program over response types; they agree.

    Returns:
        Bounds by name. PN is left out where a treated outcome never happens, PS where an untreated one always does.

    Raises:
        DataError: no population has these numbers.

    Example:
        >>> bounds = causation_bounds([[0.486, 0.014], [0.499, 0.001]], experimental=(0.014, 0.016))
        >>> print(bounds["PN"])
        PN: 1 to 1 (the observations and the experiment are of one population)
    """
    table = np.asarray(joint, dtype=float)
    trial = None if experimental is None else np.asarray(experimental, dtype=float)
    _check_tables(table, trial, monotonic, _ROUNDING)
    if method not in ("closed form", "linear program"):
        raise DataError(f"there is no method {method!r}. Methods are: 'closed form', 'linear program'.")
    masses = (_closed_form if method == "closed form" else _linear_program)(table, trial, monotonic)
    assumes = "the observations alone" if trial is None else "the observations and the experiment are of one population"
    assumes += ", the treatment never prevents the outcome" if monotonic else ""
    given = _conditions(table)
    return {name: _bounds(name, *masses[name], given[name], assumes) for name in masses if given[name] > 0}


def _event(scm: SCM, treatment: str, outcome: str, treated: Any, state: Any) -> _Question:
    """The question whether a binary treatment brings about an event."""
    cause, effect = scm.graph.node(treatment), scm.graph.node(outcome)
    if not cause.discrete or len(cause.states or ()) != 2:
        raise DataError(f"'{treatment}' is {cause.kind}: a probability of causation needs a treatment with two states.")
    if not effect.discrete:
        raise DataError(f"'{outcome}' is {effect.kind}: a probability of causation needs an event, a state of a discrete node.")
    if state is None and effect.kind != "binary":
        raise DataError(f"say which event: state=..., one of {', '.join(map(repr, effect.states or ()))}.")
    states = list(cause.states or ())
    treated = states[1] if treated is None else treated
    resolve(scm.graph, {treatment: treated}, pd.DataFrame(index=["treated"]))
    control = states[1 - states.index(treated)]
    return _Question(scm, treatment, outcome, treated, control, state)


def _responses(population: _Population) -> Numbers:
    """Which treatment a row has and how it would respond to both: one-hot, (row, treatment, under treated, under control)."""
    question, rows = population.question, np.arange(population.rows)
    node = question.scm.graph.node(question.treatment)
    code = list(node.states or ()).index(question.treated)
    taken = (population.world()[node.name].numpy() == code).astype(int)
    under = [population.score(arm).astype(int) for arm in (question.treated, question.control)]
    hot = np.zeros((population.rows, 2, 2, 2))
    hot[rows, taken, under[0], under[1]] = 1
    return hot


def _tables(hot: Numbers) -> tuple[Numbers, Numbers]:
    """The joint of treatment and outcome, and the outcome's probability under control and treated."""
    q = hot.mean(axis=0)
    return np.stack([q[0].sum(axis=0), q[1].sum(axis=1)]), np.array([q[:, :, 1].sum(), q[:, 1].sum()])


def _strata(question: _Question, names: Sequence[str], batch: Batch | None, n: int, seed: int) -> NDArray[np.int64]:
    """The number of the stratum that every row lies in: (row,)."""
    graph = question.scm.graph
    if isinstance(names, str):
        raise GraphError(f"covariates={names!r}: give a list, [{names!r}].")
    graph.check(names, "stratify by")
    wrong = [name for name in names if not graph.node(name).discrete or name in graph.descendants([question.treatment])]
    if wrong:
        raise GraphError(f"'{wrong[0]}' is no covariate here: choose discrete nodes that '{question.treatment}' does not reach.")
    values = next(_populations(question, None, n, seed, names)).world() if batch is None else encode(batch.without_images())
    codes = np.stack([values[name].numpy() for name in names], axis=1)
    labels, place, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    if counts.min() < 20:
        rare = labels[counts.argmin()]
        where = ", ".join(f"{name}={(graph.node(name).states or ())[code]}" for name, code in zip(names, rare, strict=True))
        raise DataError(f"only {counts.min()} rows have {where}: too few for bounds. Take fewer covariates or more rows.")
    return np.asarray(place.reshape(-1), dtype=np.int64)


def _causation(
    name: Causation,
    question: _Question,
    covariates: Sequence[str],
    monotonic: bool,
    batch: Batch | None,
    n: int,
    seed: int,
) -> Effect:
    confounders = _confounders(question, rows=batch is not None, beside=covariates)
    hot = _mean(_populations(question, batch, n, seed, covariates), _responses)
    place = _strata(question, covariates, batch, n, seed) if covariates else np.zeros(len(hot), dtype=np.int64)

    joint, _ = _tables(hot)
    condition = _conditions(joint)[name]
    if not condition:
        raise DataError(f"{name} of {question.of} has no meaning: none of these {len(hot)} rows meets its condition.")
    low = high = 0.0
    for stratum in np.unique(place) if question.reaches else ():  # otherwise the graph says zero
        inside = hot[place == stratum]
        table, arms = _tables(inside)
        trial = None if confounders else arms
        _check_tables(table, trial, monotonic, 3 / math.sqrt(len(inside)))
        ends = _closed_form(table, trial, monotonic)[name]
        low, high = low + len(inside) / len(hot) * ends[0], high + len(inside) / len(hot) * ends[1]
    source = f"{'the rows' if batch is not None else 'draws from the model'}: the joint of treatment and outcome"
    source += " alone" if confounders else " and the outcome under do(treatment)"
    source += f", by {', '.join(covariates)}" if covariates else ""
    source += ", the treatment never prevents the outcome" if monotonic else ""
    bounds = _bounds(name, low, high, condition, source)

    caused = hot[:, :, 1, 0] - (hot[:, :, 0, 1] if monotonic else 0)
    given = {"PN": hot[:, 1, 1, :].sum(axis=1), "PS": hot[:, 0, :, 0].sum(axis=1), "PNS": np.ones(len(hot))}[name]
    mass = {"PN": caused[:, 1], "PS": caused[:, 0], "PNS": caused.sum(axis=1)}[name]
    value = float(mass.sum() / given.sum())
    _, below, above = _interval(value + (mass - value * given) / given.mean())  # a ratio of means, linearised
    reasons = confounders | ({} if monotonic or (bounds.identified and not confounders) else question.noise_reasons())
    assumes = question.assumes(", and that the treatment never prevents the outcome" if monotonic else ", their noise included")
    return Effect(name, question.of, value, below, above, int((given > 0).sum()), "probability", assumes, reasons, bounds)


def probability_of_necessity(
    scm: SCM,
    treatment: str,
    outcome: str,
    *,
    treated: Any = None,
    state: Any = None,
    covariates: Sequence[str] = (),
    monotonic: bool = False,
    batch: Batch | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> Effect:
    """PN: of those who were treated and had the outcome, who would not have had it otherwise?

    `value` is the answer under the model's own noise, which data cannot confirm; `bounds` holds whatever the noise is like.
    Tian & Pearl 2000, https://arxiv.org/abs/1301.3898.

    Args:
        scm: fitted.
        treatment: a node with two states.
        outcome: a discrete node.
        treated: the state that may be the cause; the second unless told.
        state: the outcome that is an event; of a binary node the second unless told.
        covariates: discrete nodes that the treatment does not reach; bounds are sharper when averaged over their strata.
        monotonic: the treatment never prevents the outcome; value and bounds are then one number.
        batch, n, seed: as in `ate`.

    Raises:
        DataError: the treatment has not two states, the event is unclear, or its condition never happens.
    """
    return _causation("PN", _event(scm, treatment, outcome, treated, state), covariates, monotonic, batch, n, seed)


def probability_of_sufficiency(
    scm: SCM,
    treatment: str,
    outcome: str,
    *,
    treated: Any = None,
    state: Any = None,
    covariates: Sequence[str] = (),
    monotonic: bool = False,
    batch: Batch | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> Effect:
    """PS: of those who were not treated and had no outcome, who would have had it with the treatment?

    See `probability_of_necessity`, whose arguments and errors these are.
    """
    return _causation("PS", _event(scm, treatment, outcome, treated, state), covariates, monotonic, batch, n, seed)


def probability_of_necessity_and_sufficiency(
    scm: SCM,
    treatment: str,
    outcome: str,
    *,
    treated: Any = None,
    state: Any = None,
    covariates: Sequence[str] = (),
    monotonic: bool = False,
    batch: Batch | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> Effect:
    """PNS: who would have the outcome with the treatment and not without it?

    See `probability_of_necessity`, whose arguments and errors these are.
    """
    return _causation("PNS", _event(scm, treatment, outcome, treated, state), covariates, monotonic, batch, n, seed)
