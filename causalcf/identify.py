"""Questions about a graph: what it separates, what to adjust for, whether an effect can be had, and whether data contradict it.

A `CausalGraph` with bidirected edges is an acyclic directed mixed graph: each bidirected edge is a latent confounder.

| here | in the papers |
|---|---|
| `separated(graph, a, b, given)` | (A ⊥ B &#124; Z), d-separation; with bidirected edges m-separation |
| forbidden | Forb(X, Y), descendants of what lies on a proper causal path |
| the back-door graph | the graph without the first edge of every proper causal path |
| district | c-component |

T. Richardson, "Markov Properties for Acyclic Directed Mixed Graphs", 2003, https://doi.org/10.1111/1467-9469.00323.
I. Shpitser, T. VanderWeele, J. Robins, "On the Validity of Covariate Adjustment for Estimating Causal Effects", UAI 2010,
https://arxiv.org/abs/1203.3515.
E. Perković, J. Textor, M. Kalisch, M. Maathuis, "Complete Graphical Characterization and Construction of Adjustment Sets in
Markov Equivalence Classes of Ancestral Graphs", JMLR 2018, https://jmlr.org/papers/v18/16-319.html.
B. van der Zander, M. Liśkiewicz, J. Textor, "Separators and adjustment sets in causal graphs: Complete criteria and an
algorithmic framework", Artificial Intelligence 2019, https://doi.org/10.1016/j.artint.2018.12.006.
J. Pearl, "Causality", 2009, section 3.3.2 (front door). J. Tian, J. Pearl, "On the Identification of Causal Effects", 2003.
I. Shpitser, J. Pearl, "Identification of Joint Interventional Distributions in Recursive Semi-Markovian Causal Models", 2006.
Y. Huang, M. Valtorta, "Identifiability in Causal Bayesian Networks: A Sound and Complete Algorithm", AAAI 2006.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.errors import DataError, GraphError
from causalcf.graph import CausalGraph, Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "GraphCheck",
    "Independence",
    "IndependenceTest",
    "adjustment_sets",
    "ancestors",
    "check",
    "frontdoor_sets",
    "identifiable",
    "implied_independencies",
    "is_adjustment_set",
    "is_frontdoor_set",
    "minimal_adjustment_set",
    "minimal_adjustment_sets",
    "separated",
]

Names = str | Iterable[str]
Verdict = Literal["holds", "contradicted", "supported", "not supported", "untestable"]
IndependenceTest = Literal["covariance", "pearsonr", "fisher_z", "gcm", "chi_square", "g_sq", "pillai"]

_MOST_CANDIDATES = 15  # 2 ** 15 sets take seconds


@dataclass(frozen=True)
class _Mixed:
    """A mixed graph that is cheap to cut: its names, directed and bidirected edges."""

    names: tuple[str, ...]
    directed: frozenset[tuple[str, str]]
    bidirected: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, graph: CausalGraph) -> _Mixed:
        directed = frozenset((parent, node.name) for node in graph.nodes for parent in node.parents)
        return cls(graph.order, directed, frozenset(graph.bidirected))

    def _neighbours(self, edges: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {name: set() for name in self.names}
        for start, end in edges:
            found[start].add(end)
        return found

    @cached_property
    def children(self) -> dict[str, set[str]]:
        return self._neighbours(self.directed)

    @cached_property
    def parents(self) -> dict[str, set[str]]:
        return self._neighbours((effect, cause) for cause, effect in self.directed)

    @cached_property
    def spouses(self) -> dict[str, set[str]]:
        return self._neighbours(pair for a, b in self.bidirected for pair in ((a, b), (b, a)))

    def inside(self, names: frozenset[str]) -> _Mixed:
        """The graph on these names alone."""
        return _Mixed(
            tuple(name for name in self.names if name in names),
            frozenset(edge for edge in self.directed if names.issuperset(edge)),
            frozenset(pair for pair in self.bidirected if names.issuperset(pair)),
        )

    def without_edges_out_of(self, names: frozenset[str]) -> _Mixed:
        return replace(self, directed=frozenset(edge for edge in self.directed if edge[0] not in names))

    def ancestors(self, names: Iterable[str]) -> frozenset[str]:
        return _closure(names, self.parents)

    def descendants(self, names: Iterable[str]) -> frozenset[str]:
        return _closure(names, self.children)

    def district(self, name: str) -> frozenset[str]:
        return _closure([name], self.spouses)

    def districts(self) -> Iterator[frozenset[str]]:
        left = set(self.names)
        for name in self.names:
            if name in left:
                district = self.district(name)
                left -= district
                yield district

    def adjacent(self, a: str, b: str) -> bool:
        return b in self.children[a] or b in self.parents[a] or b in self.spouses[a]

    def separated(self, a: Iterable[str], b: frozenset[str], given: frozenset[str]) -> bool:
        """Whether no walk from `a` to `b` is open: every collider an ancestor of `given`, every other node outside it.

        Linear in the edges: a node is entered at most once by an arrowhead and once by a tail.
        """
        opened = self.ancestors(given)
        stack = [(name, False) for name in a]
        seen = set(stack)
        while stack:
            name, by_head = stack.pop()
            if name in b:
                return False
            steps: list[tuple[str, bool]] = []
            if name not in given:
                steps += [(child, True) for child in self.children[name]]
            if name in opened if by_head else name not in given:
                steps += [(parent, False) for parent in self.parents[name]]
                steps += [(spouse, True) for spouse in self.spouses[name]]
            fresh = [step for step in steps if step not in seen]
            seen.update(fresh)
            stack += fresh
        return True

    def minimal_separator(self, a: frozenset[str], b: frozenset[str], allowed: frozenset[str]) -> frozenset[str] | None:
        """A subset of `allowed` that separates and has no smaller separating part; None where no subset of `allowed` does.

        Among ancestors of `a` and `b` more conditioning never opens a path, so that one pass of removals is enough, and if
        any subset separates, the allowed ancestors do (van der Zander et al. 2019).
        """
        kept = allowed & self.ancestors(a | b)
        if not self.separated(a, b, kept):
            return None
        for name in self.names:
            if name in kept and self.separated(a, b, kept - {name}):
                kept -= {name}
        return kept

    def minimal_separators(
        self, a: frozenset[str], b: frozenset[str], allowed: frozenset[str], needed: frozenset[str] = frozenset()
    ) -> Iterator[frozenset[str]]:
        """Every minimal separator that holds `needed` and lies in `allowed`, once.

        A minimal separator other than the one found lacks at least one of its members: branch on the first that it lacks.
        """
        found = self.minimal_separator(a, b, allowed)
        if found is None:
            return
        if needed <= found:
            yield found
        for name in sorted(found - needed):
            yield from self.minimal_separators(a, b, allowed - {name}, needed)
            needed |= {name}


def _closure(names: Iterable[str], neighbours: Mapping[str, set[str]]) -> frozenset[str]:
    found = set(names)
    stack = list(found)
    while stack:
        fresh = neighbours[stack.pop()] - found
        found |= fresh
        stack += fresh
    return frozenset(found)


def _names(graph: CausalGraph, names: Names, doing: str) -> frozenset[str]:
    listed = [names] if isinstance(names, str) else list(names)
    graph.check(listed, doing)
    return frozenset(listed)


def _apart(**groups: frozenset[str]) -> None:
    for (name, group), (other, others) in combinations(groups.items(), 2):
        if both := group & others:
            raise GraphError(f"'{min(both)}' is in {name} and in {other}: leave it out of one of them.")


def _question(graph: CausalGraph, treatment: Names, outcome: Names) -> tuple[frozenset[str], frozenset[str]]:
    x = _names(graph, treatment, "take as treatment")
    y = _names(graph, outcome, "take as outcome")
    for role, names in (("treatment", x), ("outcome", y)):
        if not names:
            raise GraphError(f"{role} names no node. Nodes are: {', '.join(graph.order)}.")
    _apart(treatment=x, outcome=y)
    return x, y


def _sorted(graph: CausalGraph, sets: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    place = {name: number for number, name in enumerate(graph.order)}
    return sorted(sets, key=lambda names: (len(names), sorted(place[name] for name in names)))


def _subsets(graph: CausalGraph, names: frozenset[str], instead: str) -> Iterator[frozenset[str]]:
    if len(names) > _MOST_CANDIDATES:
        raise GraphError(
            f"graph '{graph.name}' leaves {len(names)} covariates, {2 ** len(names):,} sets; at most {_MOST_CANDIDATES} "
            f"covariates are tried. {instead}"
        )
    listed = [name for name in graph.order if name in names]
    for size in range(len(listed) + 1):
        yield from map(frozenset, combinations(listed, size))


def ancestors(graph: CausalGraph, names: Names) -> frozenset[str]:
    """Everything that can reach `names` along the arrows, the names themselves included.

    Example:
        >>> from causalcf.graph import load_graph
        >>> sorted(ancestors(load_graph("morphomnist"), "intensity"))
        ['intensity', 'thickness']
    """
    return _Mixed.of(graph).ancestors(_names(graph, names, "find the ancestors of"))


def separated(graph: CausalGraph, a: Names, b: Names, given: Names = ()) -> bool:
    """Whether the graph says that `a` and `b` are independent given `given`: d-separation, with latent confounders m-separation.

    Linear in the number of edges.

    Args:
        graph: the graph; a bidirected edge is a latent confounder.
        a: a name or several.
        b: a name or several.
        given: what is conditioned on.

    Raises:
        GraphError: an unknown name, or a name in two of the three.

    Example:
        >>> from causalcf.graph import load_graph
        >>> graph = load_graph("morphomnist")
        >>> separated(graph, "digit", "intensity"), separated(graph, "digit", "intensity", given="image")
        (True, False)
    """
    groups = {"a": _names(graph, a, "separate"), "b": _names(graph, b, "separate"), "given": _names(graph, given, "condition on")}
    _apart(**groups)
    return _Mixed.of(graph).separated(groups["a"], groups["b"], groups["given"])


@dataclass(frozen=True)
class Independence:
    """A statement: `a` is independent of `b` given `given`.

    Example:
        >>> print(Independence("scar", "age", ("sex", "view")))
        scar _||_ age | sex, view
    """

    a: str
    b: str
    given: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.a} _||_ {self.b}" + (f" | {', '.join(self.given)}" if self.given else "")


def implied_independencies(graph: CausalGraph) -> list[Independence]:
    """What the graph says about data, one statement for every pair without an edge that can be separated.

    Without latent confounders each node is independent of each earlier one given its parents (the ordered pairwise Markov
    property): together they imply all the others. With them a pair comes with a minimal separating set; two nodes
    without an edge that nothing separates yield no statement.

    Example:
        >>> from causalcf.graph import load_graph
        >>> for statement in implied_independencies(load_graph("morphomnist")):
        ...     print(statement)
        thickness _||_ digit
        intensity _||_ digit
    """
    mixed = _Mixed.of(graph)
    found = []
    for a, b in combinations(graph.order, 2):
        if mixed.adjacent(a, b):
            continue
        if graph.bidirected:
            given = mixed.minimal_separator(frozenset([a]), frozenset([b]), frozenset(graph.order) - {a, b})
        else:
            given = frozenset(mixed.parents[b])
        if given is not None:
            found.append(Independence(a, b, tuple(name for name in graph.order if name in given)))
    return found


def _adjustment(graph: CausalGraph, x: frozenset[str], y: frozenset[str]) -> tuple[_Mixed, frozenset[str]]:
    """The proper back-door graph, and what may not be adjusted for (Perković et al. 2018, definitions 7 and 14)."""
    mixed = _Mixed.of(graph)
    on_causal_paths = mixed.descendants(x) & mixed.without_edges_out_of(x).ancestors(y)
    first = {(cause, effect) for cause, effect in mixed.directed if cause in x and effect in on_causal_paths}
    return replace(mixed, directed=mixed.directed - first), mixed.descendants(on_causal_paths)


def is_adjustment_set(graph: CausalGraph, treatment: Names, outcome: Names, z: Names) -> bool:
    """Whether adjusting for `z` gives the effect of `treatment` on `outcome`, by the complete adjustment criterion.

    That is: no member of `z` descends from a node on a causal path from treatment to outcome (treatment itself left out), and
    `z` blocks every other path that leaves the treatment for good. Sound and complete: where it says no, there is a
    model with this graph in which adjusting for `z` is wrong. More general than the back-door criterion.

    Args:
        graph: the graph; a bidirected edge is a latent confounder.
        treatment: a name or several.
        outcome: a name or several.
        z: what is adjusted for; `()` is nothing.

    Example:
        >>> from causalcf.graph import Node
        >>> graph = CausalGraph("g", [Node("age", "continuous"), Node("dose", "continuous", parents=["age"]),
        ...                           Node("scar", "continuous", parents=["age", "dose"])])
        >>> is_adjustment_set(graph, "dose", "scar", "age"), is_adjustment_set(graph, "dose", "scar", ())
        (True, False)
    """
    x, y = _question(graph, treatment, outcome)
    names = _names(graph, z, "adjust for")
    _apart(treatment=x, outcome=y, z=names)
    backdoor, forbidden = _adjustment(graph, x, y)
    return not names & forbidden and backdoor.separated(x, y, names)


def adjustment_sets(graph: CausalGraph, treatment: Names, outcome: Names) -> list[frozenset[str]]:
    """Every set of attributes that `is_adjustment_set` accepts, small ones first; an empty list where there is none.

    Images are not tried: no table holds them.

    Raises:
        GraphError: more than 15 covariates could be adjusted for.
    """
    x, y = _question(graph, treatment, outcome)
    backdoor, forbidden = _adjustment(graph, x, y)
    candidates = frozenset(graph.attributes) - x - y - forbidden
    subsets = _subsets(graph, candidates, "Use minimal_adjustment_sets, or ask is_adjustment_set about one.")
    return [names for names in subsets if backdoor.separated(x, y, names)]


def minimal_adjustment_sets(graph: CausalGraph, treatment: Names, outcome: Names, *, limit: int = 1000) -> list[frozenset[str]]:
    """Every adjustment set of which no part is one, small ones first; an empty list where there is none.

    Args:
        graph: the graph; a bidirected edge is a latent confounder.
        treatment: a name or several.
        outcome: a name or several.
        limit: more sets than this are an error; `minimal_adjustment_set` finds one in any graph.

    Example:
        >>> from causalcf.graph import Node
        >>> graph = CausalGraph("g", [Node("u", "continuous"), Node("v", "continuous", parents=["u"]),
        ...                           Node("dose", "continuous", parents=["u"]),
        ...                           Node("scar", "continuous", parents=["v", "dose"])])
        >>> [sorted(names) for names in minimal_adjustment_sets(graph, "dose", "scar")]
        [['u'], ['v']]
    """
    x, y = _question(graph, treatment, outcome)
    backdoor, forbidden = _adjustment(graph, x, y)
    found: list[frozenset[str]] = []
    for names in backdoor.minimal_separators(x, y, frozenset(graph.order) - x - y - forbidden):
        if len(found) == limit:
            raise GraphError(f"graph '{graph.name}' has more than {limit} minimal adjustment sets. Use minimal_adjustment_set.")
        found.append(names)
    return _sorted(graph, found)


def minimal_adjustment_set(graph: CausalGraph, treatment: Names, outcome: Names) -> frozenset[str] | None:
    """An adjustment set of which no part is one, in polynomial time; None where no set is.

    None does not mean that the effect cannot be had: ask `frontdoor_sets` and `identifiable`.
    """
    x, y = _question(graph, treatment, outcome)
    backdoor, forbidden = _adjustment(graph, x, y)
    return backdoor.minimal_separator(x, y, frozenset(graph.order) - x - y - forbidden)


class _Frontdoor:
    """Pearl's front-door criterion for one question, to be asked about many sets."""

    def __init__(self, graph: CausalGraph, x: frozenset[str], y: frozenset[str]) -> None:
        self.mixed, self.x, self.y = _Mixed.of(graph), x, y
        self.no_effect_of_x = self.mixed.without_edges_out_of(x)

    def accepts(self, z: frozenset[str]) -> bool:
        left = frozenset(self.mixed.names) - z
        intercepted = not self.mixed.inside(left).descendants(self.x) & self.y
        return (
            intercepted
            and self.no_effect_of_x.separated(self.x, z, frozenset())
            and self.mixed.without_edges_out_of(z).separated(z, self.y, self.x)
        )


def is_frontdoor_set(graph: CausalGraph, treatment: Names, outcome: Names, z: Names) -> bool:
    """Whether `z` meets Pearl's front-door criterion.

    That is: `z` intercepts every directed path from treatment to outcome, no back-door path from treatment to `z` is open,
    and the treatment blocks every back-door path from `z` to the outcome. The effect is then the sum over z of P(z | x) times
    the sum over x' of P(y | x', z) P(x').

    Example:
        >>> from causalcf.graph import Node
        >>> graph = CausalGraph("g", [Node("dose", "continuous"), Node("tar", "continuous", parents=["dose"]),
        ...                           Node("scar", "continuous", parents=["tar"])], bidirected=[("dose", "scar")])
        >>> is_frontdoor_set(graph, "dose", "scar", "tar")
        True
    """
    x, y = _question(graph, treatment, outcome)
    names = _names(graph, z, "use as a front door")
    _apart(treatment=x, outcome=y, z=names)
    return _Frontdoor(graph, x, y).accepts(names)


def frontdoor_sets(graph: CausalGraph, treatment: Names, outcome: Names) -> list[frozenset[str]]:
    """Every set of attributes that `is_frontdoor_set` accepts, small ones first; an empty list where there is none.

    Raises:
        GraphError: more than 15 attributes besides treatment and outcome.
    """
    x, y = _question(graph, treatment, outcome)
    candidates = frozenset(graph.attributes) - x - y
    frontdoor = _Frontdoor(graph, x, y)
    return [names for names in _subsets(graph, candidates, "Ask is_frontdoor_set about one.") if frontdoor.accepts(names)]


def identifiable(graph: CausalGraph, treatment: Names, outcome: Names) -> bool:
    """Whether P(outcome | do(treatment)) is a function of the observed distribution and the graph.

    Complete (Tian and Pearl 2003; Shpitser and Pearl 2006; Huang and Valtorta 2006): where it says no, two models with this graph
    agree on all data and differ in the effect. It concerns effects; a counterfactual asks for more.

    Example:
        >>> from causalcf.graph import Node
        >>> nodes = [Node("dose", "continuous"), Node("scar", "continuous", parents=["dose"])]
        >>> identifiable(CausalGraph("g", nodes), "dose", "scar")
        True
        >>> identifiable(CausalGraph("g", nodes, bidirected=[("dose", "scar")]), "dose", "scar")
        False
    """
    x, y = _question(graph, treatment, outcome)
    mixed = _Mixed.of(graph)
    rest = mixed.inside(frozenset(graph.order) - x)
    wanted = rest.inside(rest.ancestors(y))
    return all(_identify(district, mixed.district(min(district)), mixed) for district in wanted.districts())


def _identify(wanted: frozenset[str], known: frozenset[str], mixed: _Mixed) -> bool:
    """Whether Q[wanted] follows from Q[known], districts both (Tian and Pearl 2003, figure 7)."""
    if wanted == known:
        return True
    inside = mixed.inside(known)
    closed = inside.ancestors(wanted)
    if closed in (wanted, known):
        return closed == wanted
    return _identify(wanted, inside.inside(closed).district(min(wanted)), mixed)


@dataclass(frozen=True, eq=False)
class GraphCheck:
    """What data say about a graph; `print` it, or read `table`.

    Args:
        graph: the graph that was checked.
        table: a row a test: kind (`independence` or `edge`), a, b, given, statistic (F; of a test of pgmpy's, its own), p,
            p_adjusted (Holm, independencies and edges apart), effect (0..1: the largest partial correlation; of chi_square and
            g_sq Cramér's V, of pillai partial eta squared), rows used, rows dropped for a missing value, verdict, note (why it
            could not be tested).
        alpha: the chance of contradicting a true graph at all.
        test: what was asked.
    """

    graph: CausalGraph
    table: pd.DataFrame
    alpha: float
    test: IndependenceTest = "covariance"

    def _statements(self, verdict: Verdict) -> list[Independence]:
        rows = self.table[(self.table["kind"] == "independence") & (self.table["verdict"] == verdict)]
        return [Independence(a, b, given) for a, b, given in zip(rows["a"], rows["b"], rows["given"], strict=True)]

    @property
    def contradicted(self) -> list[Independence]:
        """What the graph implies and the data deny: an edge or a latent confounder is missing between the two, or is wrong."""
        return self._statements("contradicted")

    @property
    def untestable(self) -> list[Independence]:
        """What the graph implies and these data cannot test."""
        return self._statements("untestable")

    @property
    def unsupported_edges(self) -> list[tuple[str, str]]:
        """Edges (cause, effect) without which the data could do. No contradiction: the sample may be too small to see them."""
        rows = self.table[self.table["verdict"] == "not supported"]
        return list(zip(rows["a"], rows["b"], strict=True))

    @property
    def passed(self) -> bool:
        """Whether everything that the graph implies was tested and nothing was contradicted. It does not make the graph true."""
        return not self.contradicted and not self.untestable

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data for JSON; what could not be computed is None."""
        return {
            "graph": self.graph.name,
            "alpha": self.alpha,
            "test": self.test,
            "passed": self.passed,
            "contradicted": list(map(str, self.contradicted)),
            "untestable": list(map(str, self.untestable)),
            "unsupported_edges": [list(edge) for edge in self.unsupported_edges],
            "tests": [{key: _plain(value) for key, value in row.items()} for row in self.table.to_dict("records")],
        }

    def __repr__(self) -> str:
        count = len(self.contradicted)
        return f"GraphCheck({self.graph.name!r}, passed={self.passed}, tests={len(self.table)}, contradicted={count})"

    def __str__(self) -> str:
        implied = self.table[self.table["kind"] == "independence"]
        lines = [
            f"graph '{self.graph.name}': {len(self.contradicted)} of {len(implied)} implied independencies contradicted at "
            f"{self.alpha:g} (Holm{'' if self.test == 'covariance' else f'; {self.test} of pgmpy'})"
            + (f", {len(self.untestable)} not testable." if self.untestable else ".")
        ]
        if implied.empty:
            lines = [f"graph '{self.graph.name}' implies no independence among its attributes: no data can contradict it."]
        for verdict, word in (
            ("contradicted", "contradicted"),
            ("untestable", "not testable"),
            ("not supported", "edge not needed"),
        ):
            rows = self.table[self.table["verdict"] == verdict].sort_values("effect", ascending=False, kind="stable")
            lines += [f"  {word}: {_sentence(row, self.test)}" for _, row in rows[:_SHOWN_ROWS].iterrows()]
            if len(rows) > _SHOWN_ROWS:
                lines.append(f"  {word}: {len(rows) - _SHOWN_ROWS} more, in `table`")
        if self.contradicted:
            lines.append(
                "  A contradiction: an edge or a latent confounder between the two is missing, or another edge is wrong."
            )
        if self.unsupported_edges:
            lines.append("  An edge not needed is no contradiction: the effect may be absent, or too small for these rows.")
        return "\n".join(lines)


def _sentence(row: pd.Series, test: IndependenceTest) -> str:
    if row["kind"] == "edge":
        what = f"{row['a']} -> {row['b']}" + (f" | {', '.join(row['given'])}" if row["given"] else "")
    else:
        what = str(Independence(row["a"], row["b"], row["given"]))
    if row["note"]:
        return f"{what}: {row['note']}"
    own = test == "covariance"
    effect = "partial correlation" if own else _PGMPY[test].effect
    smallest = "p < 1e-300" if own else "p < 1e-12"  # pgmpy takes some tails as 1 - cdf
    p = f"p = {row['p_adjusted']:.2g}" if row["p_adjusted"] else smallest
    return f"{what}  ({p}, {effect} {row['effect']:.2f}, {row['rows']:,} rows)"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def check(
    graph: CausalGraph, table: pd.DataFrame | Batch, *, alpha: float = 0.05, test: IndependenceTest = "covariance"
) -> GraphCheck:
    """Test on data what the graph implies, and whether its edges are needed.

    Every implied independence among the attributes is tested; Holm's correction holds the chance of contradicting a true graph at
    all to `alpha`. Every edge is tested too, given the other parents of its effect: one that the data can do without is "not
    supported", which is no contradiction. A pass does not prove a graph: others imply the same.

    The default test serves every kind of node. It is our form of the generalised covariance measure: both nodes are regressed on
    curves, states and pairwise products of what is given, and the residuals may not covary. Of a number the size of the residual
    is tested along, so that U-shapes and changes of spread are seen; of a category, every state that has enough rows. It allows
    for unequal noise, where partial correlation does not. It cannot see a dependence that changes its sign with what is given and
    averages to zero. Where three or more given nodes act together in ways that no sum of pairwise products follows, very many
    rows may show a dependence that is not there: look at `effect`. Rows must be independent of each other: several rows of one
    patient make p-values too small. A test with too few rows or too rare states is "untestable".

    The other tests are pgmpy's, by its names, for comparison with what others publish:

    | test | nodes | sound where |
    |---|---|---|
    | `pearsonr`, `fisher_z` | continuous | everything is linear and the noise equal |
    | `gcm` | continuous | everything is linear |
    | `chi_square`, `g_sq` | discrete | four cells in five are expected in 5 rows, or 25 for `g_sq`; else "untestable" |
    | `pillai` | any | nothing continuous is given; it grows forests, which takes its time |

    They are not the default, because outside those conditions they reject what is true: `pearsonr` and `fisher_z` under unequal
    noise, and with `gcm` where a confounder acts in curves. Within strata of two states by two, `chi_square` and `g_sq` correct
    for continuity, so that they overlook weak dependence. What the default test calls "untestable" is so for all, and a state
    of fewer than 25 rows is for `pillai`.

    R. Shah, J. Peters, "The Hardness of Conditional Independence Testing and the Generalised Covariance Measure", Annals of
    Statistics 2020, https://arxiv.org/abs/1804.07203. S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    W. Cochran, "Some Methods for Strengthening the Common chi-squared Tests", Biometrics 1954, https://doi.org/10.2307/3001616.
    A. Ankan, J. Textor, "pgmpy: A Python Toolkit for Bayesian Networks", JMLR 2024, https://jmlr.org/papers/v25/23-0487.html.

    Args:
        graph: the graph; its image nodes are left aside.
        table: a column for every attribute, or a `Batch`. Missing values are allowed: a test drops the rows that
            lack one of its nodes, and counts them.
        alpha: between 0 and 1.
        test: ours, or one of pgmpy's.

    Raises:
        DataError: a column is missing or does not fit its node, or a node does not fit the test.

    Example:
        >>> from causalcf.graph import Node
        >>> z, noise = np.random.default_rng(0).normal(size=(2, 400))
        >>> graph = CausalGraph("g", [Node("a", "continuous"), Node("b", "continuous")])
        >>> print(check(graph, pd.DataFrame({"a": z, "b": noise})))
        graph 'g': 0 of 1 implied independencies contradicted at 0.05 (Holm).
    """
    if not 0 < alpha < 1:
        raise DataError(f"alpha is {alpha!r}; give a number between 0 and 1.")
    graph = graph.without(*graph.images)
    questions = [_Question("independence", statement) for statement in implied_independencies(graph)]
    questions += [_edge_question(graph, cause, effect) for effect in graph.order for cause in graph.parents(effect)]
    _refuse_misfits(graph, questions, test)
    data = _Data(graph, table.frame if isinstance(table, Batch) else table, test)
    return GraphCheck(graph, _answers(data, questions, alpha), alpha, test)


def _fits(test: IndependenceTest, node: Node) -> bool:
    return test == "covariance" or _PGMPY[test].takes in ("any", "discrete" if node.discrete else "continuous")


def _refuse_misfits(graph: CausalGraph, questions: Iterable[_Question], test: IndependenceTest) -> None:
    tests = get_args(IndependenceTest)
    if test not in tests:
        raise DataError(f"there is no test {test!r}. Tests are: {', '.join(tests)}.")
    asked = [question.statement for question in questions if not question.note]
    names = {name for statement in asked for name in (statement.a, statement.b, *statement.given)}
    nodes = [graph.node(name) for name in graph.order if name in names]
    for node in nodes:
        if not _fits(test, node):
            fitting = ", ".join(other for other in tests if all(_fits(other, node) for node in nodes))
            raise DataError(
                f"test '{test}' is for {_PGMPY[test].takes} nodes, and node '{node.name}' is {node.kind}. "
                f"Tests that fit all nodes of graph '{graph.name}': {fitting}."
            )


@dataclass(frozen=True)
class _Question:
    """A statement to test; `note` says why it cannot be."""

    kind: Literal["independence", "edge"]
    statement: Independence
    note: str = ""


@dataclass(frozen=True)
class _Answer:
    statistic: float = float("nan")
    p: float = float("nan")
    effect: float = float("nan")
    rows: int = 0
    dropped: int = 0
    note: str = ""


def _edge_question(graph: CausalGraph, cause: str, effect: str) -> _Question:
    """What would hold without the edge: given the effect's other parents, or else a minimal separating set."""
    mixed = _Mixed.of(graph)
    mixed = replace(mixed, directed=mixed.directed - {(cause, effect)})
    a, b = frozenset([cause]), frozenset([effect])
    given: frozenset[str] | None = frozenset(mixed.parents[effect])
    if not mixed.separated(a, b, frozenset(mixed.parents[effect])):
        given = mixed.minimal_separator(a, b, frozenset(graph.order) - a - b)
    if given is None:
        return _Question("edge", Independence(cause, effect), "a latent confounder keeps the two dependent without the edge")
    return _Question("edge", Independence(cause, effect, tuple(name for name in graph.order if name in given)))


def _answers(data: _Data, questions: Sequence[_Question], alpha: float) -> pd.DataFrame:
    answers = {question: _Answer(note=question.note) for question in questions if question.note}
    # one regression serves every question with the same `given` and the same rows
    groups: dict[tuple[tuple[str, ...], frozenset[str]], list[_Question]] = {}
    for question in questions:
        if not question.note:
            groups.setdefault((question.statement.given, data.gaps(question.statement)), []).append(question)
    for (given, gaps), group in groups.items():
        pairs = [(question.statement.a, question.statement.b) for question in group]
        answers.update(zip(group, data.test(pairs, given, gaps), strict=True))
    rows = []
    for kind, small, large in (("independence", "contradicted", "holds"), ("edge", "supported", "not supported")):
        asked = [question for question in questions if question.kind == kind]
        adjusted = _holm(np.array([answers[question].p for question in asked]))
        for question, p in zip(asked, adjusted, strict=True):
            verdict = "untestable" if np.isnan(p) else small if p <= alpha else large
            whole = vars(question) | vars(question.statement) | vars(answers[question])
            rows.append([(whole | {"p_adjusted": p, "verdict": verdict})[column] for column in _COLUMNS])
    return pd.DataFrame(rows, columns=_COLUMNS)


def _holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's adjusted p-values; NaN stays NaN and does not count."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


class _Data:
    """The columns of a table as numbers and codes, and the test of conditional independence on them."""

    def __init__(self, graph: CausalGraph, frame: pd.DataFrame, test: IndependenceTest) -> None:
        if not isinstance(frame, pd.DataFrame):
            raise DataError(f"the table is a pandas DataFrame or a Batch, not {type(frame).__name__}.")
        Batch(graph, frame, missing="infer")  # checks the columns
        self.foreign = None if test == "covariance" else _PGMPY[test]
        self.nodes = {name: graph.node(name) for name in graph.attributes}
        self.columns = {name: _numbers(node, frame[name]) for name, node in self.nodes.items()}
        self.incomplete = frozenset(name for name, column in self.columns.items() if np.isnan(column).any())

    def gaps(self, statement: Independence) -> frozenset[str]:
        """Which of the statement's columns have missing values."""
        return self.incomplete & {statement.a, statement.b, *statement.given}

    def test(self, pairs: Sequence[tuple[str, str]], given: Sequence[str], gaps: frozenset[str]) -> list[_Answer]:
        """Test pairs that share what is given and the rows that are whole."""
        whole = ~np.any([np.isnan(self.columns[name]) for name in sorted(gaps)], axis=0) if gaps else slice(None)
        columns = {name: self.columns[name][whole] for name in {*given, *(name for pair in pairs for name in pair)}}
        rows = len(next(iter(columns.values())))
        dropped = len(self.columns[pairs[0][0]]) - rows
        fewest = max(_FEWEST_ROWS, 5 * _least_width([self.nodes[name] for name in given]))
        if rows < fewest:
            note = f"{rows} rows, {fewest} are needed" + (f" with {len(given)} nodes given" if given else "")
            return [_Answer(rows=rows, dropped=dropped, note=note) for _ in pairs]
        basis = _basis([(self.nodes[name], columns[name]) for name in given], rows)
        shown = {name: _shown(self.nodes[name], columns[name], basis) for name in {name for pair in pairs for name in pair}}
        answers = [_covariance_test(shown[a], shown[b], rows - basis.shape[1]) for a, b in pairs]
        if self.foreign is not None:
            asked = _Asked(self.foreign, {name: (self.nodes[name], column) for name, column in columns.items()}, given)
            answers = [answer if answer.note else asked.answer(a, b) for answer, (a, b) in zip(answers, pairs, strict=True)]
        return [replace(answer, rows=rows, dropped=dropped) for answer in answers]


_COLUMNS = ["kind", "a", "b", "given", "statistic", "p", "p_adjusted", "effect", "rows", "dropped", "verdict", "note"]
_SHOWN_ROWS = 10  # of a verdict, in print, the strongest first
_FEWEST_ROWS = 50
_RARE = 25  # a state, or a pair of states, expected in fewer rows has no normal mean
_WIDEST = 64  # columns of a regression
_CHUNK = 65_536  # rows at a time, so that memory does not grow with rows times pairs of states
_MOST_BUMPS = 16  # of a curve, beside its cubic
_DETERMINED = 1e-6  # of a variance, what rounding leaves
_THIN = 0.2  # of the cells of a table may be expected in few rows (Cochran 1954)


@dataclass(frozen=True)
class _PgmpyTest:
    """A class of `pgmpy.ci_tests`: the nodes that it takes, what its effect is, and the rows that its cells need.

    Left out are those of the same value (log_likelihood) or hardly another (power_divergence, wilks_lambda, hotelling_lawley),
    infinite at an empty cell (modified_log_likelihood), with a bound for a p-value (roys_largest_root), of the opposite
    hypothesis (pearsonr_equivalence), without a seed (generalized_cov) and without data (independence_match).
    """

    name: str
    takes: Literal["continuous", "discrete", "any"]
    effect: str
    cell: int = 0


_PGMPY: dict[str, _PgmpyTest] = {
    "pearsonr": _PgmpyTest("Pearsonr", "continuous", "partial correlation"),
    "fisher_z": _PgmpyTest("FisherZ", "continuous", "partial correlation"),
    "gcm": _PgmpyTest("GCM", "continuous", "partial correlation"),
    "chi_square": _PgmpyTest("ChiSquare", "discrete", "Cramér's V", cell=5),
    "g_sq": _PgmpyTest("GSq", "discrete", "Cramér's V", cell=25),
    "pillai": _PgmpyTest("PillaiTrace", "any", "partial eta squared"),
}


def _numbers(node: Node, column: pd.Series) -> NDArray[np.float64]:
    """A number as it is, a state as its place, missing as NaN."""
    if not node.discrete:
        return np.asarray(column.to_numpy(dtype=float, na_value=np.nan))
    place = {state: float(number) for number, state in enumerate(node.states or ())}
    # the dictionary's own look-up, for which True is 1; pandas would match it to nothing
    return np.asarray(column.astype(object).map(place.get).to_numpy(dtype=float, na_value=np.nan))


def _least_width(nodes: Sequence[Node]) -> int:
    return 1 + sum(len(node.states) - 1 if node.states else 1 for node in nodes)


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with mean 0 and variance 1; a constant one becomes 0."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    varies = spread > 1e-12 * np.abs(values).max(axis=0, initial=0.0)
    return np.asarray(np.divide(centred, spread, out=np.zeros_like(centred), where=varies))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks in (0, 1), ties in the middle."""
    return np.asarray((pd.Series(values).rank().to_numpy() - 0.5) / len(values))


def _scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normal scores: what a standard normal has at these ranks, so that no outlier has leverage."""
    from scipy.special import ndtri

    return np.asarray(ndtri(_ranks(values)))


def _indicators(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """One column a code that occurs, but for the first: (row, code)."""
    return np.asarray(codes[:, None] == np.unique(codes)[None, 1:], dtype=np.float64)


def _cells(states: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The combinations of states that occur, numbered; of too many, a coarser set."""
    cells = states[0]
    for codes in states[1:]:
        cells = pd.factorize(cells * (codes.max() + 1) + codes)[0].astype(np.float64)
        if cells.max() >= _WIDEST:
            break
    return cells


def _basis(given: Sequence[tuple[Node, NDArray[np.float64]]], rows: int) -> NDArray[np.float64]:
    """Orthonormal columns that span the regressions on what is given: (row, column).

    Numbers and states first, whatever their number; then curves, products, crossed states and finer curves, while they fit.
    """
    numbers = [values for node, values in given if not node.discrete]
    states = [codes for node, codes in given if node.discrete]
    scores = [_scores(values) for values in numbers]
    dummies = [_indicators(codes) for codes in states]
    blocks = [np.ones((rows, 1)), *(values[:, None] for values in numbers), *dummies]
    width = sum(block.shape[1] for block in blocks)
    for block in _refinements(scores, states, dummies):
        if width + block.shape[1] <= min(_WIDEST, rows // 10):
            blocks.append(block)
            width += block.shape[1]
    columns = _standard(np.concatenate(blocks, axis=1))
    columns[:, 0] = 1.0
    sizes, directions = np.linalg.eigh(columns.T @ columns / rows)
    kept = sizes > 1e-9 * sizes[-1]
    return np.asarray(columns @ (directions[:, kept] / np.sqrt(rows * sizes[kept])))


def _refinements(
    scores: Sequence[NDArray[np.float64]], states: Sequence[NDArray[np.float64]], dummies: Sequence[NDArray[np.float64]]
) -> Iterator[NDArray[np.float64]]:
    """What makes a regression more than linear, the most important first."""
    yield from (np.stack([score, score**2, score**3], axis=1) for score in scores)
    yield from ((one * other)[:, None] for one, other in combinations(scores, 2))
    yield from (score[:, None] * dummy for score in scores for dummy in dummies)
    if len(states) > 1 and (cells := _cells(states)).max() < _WIDEST:
        yield _indicators(cells)
    count = min(_MOST_BUMPS, min(len(scores[0]) // 20, 40) // len(scores)) if scores else 0
    if count > 1:
        centres, width = np.linspace(-2.4, 2.4, count, retstep=True)
        yield from (np.exp(-0.5 * ((score[:, None] - centres) / width) ** 2) for score in scores)
    yield from (score[:, None] ** 2 * dummy for score in scores for dummy in dummies)


@dataclass(frozen=True)
class _Shown:
    """What a test sees of a node: residuals (row, feature) and, of states, their fitted shares, alike."""

    name: str
    residuals: NDArray[np.float64]
    fitted: NDArray[np.float64] | None = None
    note: str = ""


def _shown(node: Node, values: NDArray[np.float64], basis: NDArray[np.float64]) -> _Shown:
    if not node.discrete:
        return _shown_number(node, values, basis)
    codes, counts = np.unique(values, return_counts=True)
    seen = codes[(counts >= _RARE) & (np.arange(len(codes)) != np.argmax(counts))]
    features = (values[:, None] == seen[None]).astype(np.float64)
    if not len(seen):
        return _Shown(node.name, features, note=f"'{node.name}' has fewer than two states with {_RARE} rows")
    fitted = basis @ (basis.T @ features)
    free = ((features - fitted) ** 2).mean(axis=0) > _DETERMINED * features.var(axis=0)
    note = "" if free.any() else f"'{node.name}' is a function of what is given"
    return _Shown(node.name, (features - fitted)[:, free], fitted[:, free], note)


def _shown_number(node: Node, values: NDArray[np.float64], basis: NDArray[np.float64]) -> _Shown:
    """The residual, and how far from the middle its rank lies: free of `given` wherever noise is only added."""
    feature = _standard(values[:, None])
    if not feature.any():
        return _Shown(node.name, feature, note=f"'{node.name}' is constant")
    residual = feature - basis @ (basis.T @ feature)
    if residual.var() < _DETERMINED:
        return _Shown(node.name, residual, note=f"'{node.name}' is a function of what is given")
    distance = _standard(np.abs(_ranks(residual[:, 0])[:, None] - 0.5) ** 2)
    left = distance - basis @ (basis.T @ distance)
    if left.var() < _DETERMINED:  # two values, each in half of the rows, are equally far from the middle
        return _Shown(node.name, residual)
    return _Shown(node.name, np.concatenate([residual, left], axis=1))


def _covariance_test(a: _Shown, b: _Shown, freedom: int) -> _Answer:
    """Hotelling's test that the products of the residuals have mean 0 (Shah and Peters 2020, for several features)."""
    from scipy.special import fdtrc

    if a.note or b.note:
        return _Answer(note=a.note or b.note)
    rows = len(a.residuals)
    first, second = (index.ravel() for index in np.indices((a.residuals.shape[1], b.residuals.shape[1])))
    if a.fitted is not None and b.fitted is not None:
        seen = (a.fitted.T @ b.fitted)[first, second] >= _RARE
        first, second = first[seen], second[seen]
    if not len(first):
        return _Answer(note=f"no states of '{a.name}' and '{b.name}' are expected together in {_RARE} rows")
    spread = np.sqrt(a.residuals.var(axis=0)[first] * b.residuals.var(axis=0)[second])
    total, squares = np.zeros(len(first)), np.zeros((len(first), len(first)))
    for start in range(0, rows, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        products = a.residuals[chunk][:, first] * b.residuals[chunk][:, second] / spread
        total += products.sum(axis=0)
        squares += products.T @ products
    mean = total / rows
    sizes, directions = np.linalg.eigh(squares / rows - np.outer(mean, mean))
    kept = sizes > 1e-9 * sizes[-1]
    count = int(kept.sum())
    if count >= freedom:
        return _Answer(note=f"{rows} rows for {count} comparisons")
    distance = float(((mean @ directions[:, kept]) ** 2 / sizes[kept]).sum())
    statistic = (freedom - count) / count * distance
    return _Answer(statistic, float(fdtrc(count, freedom - count, statistic)), float(min(1.0, np.abs(mean).max())))


class _Asked:
    """A test of pgmpy's on whole rows and what is given."""

    def __init__(self, test: _PgmpyTest, columns: Mapping[str, tuple[Node, NDArray[np.float64]]], given: Sequence[str]) -> None:
        import pgmpy.ci_tests

        self.test, self.columns = test, columns
        # pgmpy names columns of its own, and takes whole numbers for measurements and bools for masks
        self.place = {name: str(number) for number, name in enumerate(columns)}
        frame = pd.DataFrame(
            {self.place[name]: _labels(values) if node.discrete else values for name, (node, values) in columns.items()}
        )
        self.given = [self.place[name] for name in given]
        self.strata = _strata([columns[name][1] for name in given], len(frame)) if test.cell else None
        if self.strata is not None:
            # pgmpy's table has a layer for every combination, this one for those that occur: the others add nothing
            self.given = ["stratum"]
            frame["stratum"] = self.strata
        self.asked = getattr(pgmpy.ci_tests, test.name)(frame)

    def answer(self, a: str, b: str) -> _Answer:
        if note := self._note(a, b):
            return _Answer(note=note)
        with np.errstate(divide="ignore", invalid="ignore"):  # of a perfect correlation
            statistic, p = map(float, self.asked.run_test(self.place[a], self.place[b], self.given))
        if np.isnan(p):
            return _Answer(note=f"{self.test.name} of pgmpy gives no p-value")
        return _Answer(statistic, p, float(min(1.0, self.asked.effect_size_)))

    def _note(self, a: str, b: str) -> str:
        """Why these rows are too few; empty where they are not."""
        if self.strata is not None:
            return _thin(a, b, self.columns[a][1], self.columns[b][1], self.strata, self.test.cell)
        for name in (a, b):
            node, values = self.columns[name]
            rare = np.unique(values, return_counts=True)[1].min()
            if node.discrete and rare < _RARE:
                return f"a state of '{name}' has {rare} rows, {_RARE} are needed"
        return ""


def _labels(codes: NDArray[np.float64]) -> pd.Categorical:
    return pd.Categorical(codes.astype(int).astype(str))


def _strata(given: Sequence[NDArray[np.float64]], rows: int) -> NDArray[np.int64]:
    """The combinations of states that occur, numbered, every one of them."""
    strata = np.zeros(rows, dtype=np.int64)
    for codes in given:
        strata = pd.factorize(strata * (int(codes.max()) + 1) + codes.astype(np.int64))[0].astype(np.int64)
    return strata


def _thin(a: str, b: str, first: NDArray[np.float64], second: NDArray[np.float64], strata: NDArray[np.int64], least: int) -> str:
    """Why a table of `a` by `b` in every stratum does not bear a chi-squared statistic; empty where it does."""
    counts = [_counts(codes.astype(np.int64), strata) for codes in (first, second)]
    bearing = np.all([(count > 0).sum(axis=1) > 1 for count in counts], axis=0)
    if not bearing.any():
        return f"'{a}' or '{b}' is a function of what is given"
    by_a, by_b = (count[bearing] for count in counts)
    rows = by_a.sum(axis=1)
    cells = int(((by_a > 0).sum(axis=1) * (by_b > 0).sum(axis=1)).sum())
    # first what follows from sums alone: with too many strata, the table itself would not fit into memory
    enough = (1 - _THIN) * least * cells <= rows.sum()
    if enough:
        expected = by_a[:, :, None] * by_b[:, None, :] / rows[:, None, None]
        enough = np.count_nonzero((expected > 0) & (expected < least)) <= _THIN * cells
    if enough:
        return ""
    return f"of {cells} cells of '{a}' by '{b}' given the rest, more than a fifth are expected in fewer than {least} rows"


def _counts(codes: NDArray[np.int64], strata: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of every state: (stratum, state)."""
    states = int(codes.max()) + 1
    shape = (int(strata.max()) + 1, states)
    return np.bincount(strata * states + codes, minlength=shape[0] * shape[1]).reshape(shape)
