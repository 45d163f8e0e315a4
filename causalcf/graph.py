"""Causal graphs: nodes with a kind, a unit and a support, directed edges, and latent confounders as bidirected edges.

A graph is written in code, as text, or in a file; what each format holds:

| from                          | back             | kinds, units, states   | title, reference | order of parents |
|-------------------------------|------------------|------------------------|------------------|------------------|
| `CausalGraph`, `from_dict`    | `to_dict`        | yes                    | yes              | yes              |
| TOML file, `load_graph`       | `to_toml`        | yes                    | yes              | yes              |
| `parse`, .txt                 | `to_text`        | yes                    | no               | yes              |
| `from_dot`, .dot, .gv         | `to_dot`         | yes                    | yes              | yes              |
| `from_gml`, .gml              | `to_gml`         | yes                    | yes              | yes              |
| `from_networkx`               | `to_networkx`    | yes                    | yes              | yes              |
| `from_pgmpy`                  | `to_pgmpy`       | yes                    | yes              | yes              |
| `from_dagitty`, .dagitty      | `to_dagitty`     | no                     | no               | yes              |
| `from_bif`, .bif              |                  | states                 | no               | yes              |
| `from_edges`                  | `to_edges`       | no                     | no               | yes              |
| `from_parents`                |                  | no                     | no               | yes              |

Where a format states no kind, a node with two states is binary, one with more is categorical, and any other is continuous,
unless the reader is told: `kinds={"sex": "binary"}`, or `nodes=[Node("scan", "image", shape=(1, 64, 64))]` for all that a kind
alone does not say.
"""

from __future__ import annotations

import difflib
import heapq
import importlib.resources
import io
import itertools
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from causalcf import formats
from causalcf.errors import GraphError
from causalcf.formats import MAX_TEXT, Sketch

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["CausalGraph", "Kind", "Node", "graph_names", "load_graph"]

Kind = Literal["continuous", "binary", "ordinal", "categorical", "image"]


def _several(value: object) -> tuple[Any, ...] | None:
    """The values of a list or the like; None for a word or a single value."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else None


@dataclass(frozen=True)
class Node:
    """One variable of a causal graph.

    Args:
        name: as in the table's column, or in `Batch.images`.
        kind: `continuous`, `binary`, `ordinal`, `categorical` or `image`.
        parents: its direct causes.
        unit: of a continuous node, for people: "year", "pixel".
        support: of a continuous node, the open interval (low, high) of possible values; None is the whole line.
        states: of a discrete node, its labels; of an ordinal one, in order. A binary node has (0, 1) unless told.
        shape: of an image node, (channel, height, width).
        description: one sentence for people.
    """

    name: str
    kind: Kind
    parents: Sequence[str] = ()
    unit: str | None = None
    support: tuple[float, float] | None = None
    states: Sequence[str | int] | None = None
    shape: tuple[int, int, int] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise GraphError(f"a node's name is a word, not {self.name!r}.")
        if self.kind not in get_args(Kind):
            raise GraphError(f"node '{self.name}' has kind '{self.kind}'. Kinds are: {', '.join(get_args(Kind))}.")
        for key in ("unit", "description"):
            if not isinstance(getattr(self, key), str | None):
                raise GraphError(f"node '{self.name}' has {key}={getattr(self, key)!r}: give words.")
        set_ = object.__setattr__
        set_(self, "parents", self._checked_parents())
        set_(self, "states", self._checked_states())
        set_(self, "support", self._checked_support())
        set_(self, "shape", self._checked_shape())

    def _checked_parents(self) -> tuple[str, ...]:
        parents = _several(self.parents)
        if parents is None or not all(isinstance(parent, str) for parent in parents):
            example = f"[{self.parents!r}]" if isinstance(self.parents, str) else "of names"
            raise GraphError(f"node '{self.name}' has parents={self.parents!r}: give a list, {example}.")
        if len(set(parents)) != len(parents):
            raise GraphError(f"node '{self.name}' names a parent twice: {', '.join(map(repr, parents))}.")
        return parents

    def _checked_states(self) -> tuple[str | int, ...] | None:
        if not self.discrete:
            if self.states is not None:
                raise GraphError(f"{self.kind} node '{self.name}' has states; only discrete nodes do.")
            return None
        if self.kind == "binary" and self.states is None:
            return (0, 1)
        states = [state.item() if hasattr(state, "item") else state for state in _several(self.states) or ()]  # of numpy
        odd = [state for state in states if not isinstance(state, str | int) or isinstance(state, bool)]
        if odd:
            raise GraphError(f"a state of '{self.name}' is {odd[0]!r}: a state is a word or a whole number; True counts as 1.")
        if len(states) < 2 or len(set(states)) != len(states):
            raise GraphError(f"{self.kind} node '{self.name}' needs at least two different states, not {self.states!r}.")
        if self.kind == "binary" and len(states) > 2:
            raise GraphError(f"binary node '{self.name}' has {len(states)} states; more than two are ordinal or categorical.")
        return tuple(states)

    def _checked_support(self) -> tuple[float, float] | None:
        if self.support is None:
            return None
        ends = _several(self.support) or ()
        numbers = len(ends) == 2 and all(isinstance(end, Real) and not isinstance(end, bool) for end in ends)
        if self.kind != "continuous" or not numbers or not ends[0] < ends[1]:
            raise GraphError(f"node '{self.name}' has support={self.support!r}: give numbers (low, high) of a continuous node.")
        return float(ends[0]), float(ends[1])

    def _checked_shape(self) -> tuple[int, int, int] | None:
        if self.kind != "image":
            if self.shape is not None:
                raise GraphError(f"{self.kind} node '{self.name}' has shape={self.shape!r}; only image nodes have a shape.")
            return None
        sides = _several(self.shape) or ()
        whole = all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides)
        if len(sides) != 3 or not whole or min(sides) < 1:
            raise GraphError(f"image node '{self.name}' needs shape=(channel, height, width), not {self.shape!r}.")
        return int(sides[0]), int(sides[1]), int(sides[2])

    @property
    def discrete(self) -> bool:
        """Whether the node takes one of its `states`."""
        return self.kind in ("binary", "ordinal", "categorical")

    def to_dict(self) -> dict[str, Any]:
        """The node as plain data, without what is empty."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if value not in (None, (), "")
        }


def _suggest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(words), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:40]) + (f", ... ({len(words)} in all)" if len(words) > 40 else "")


@dataclass(frozen=True)
class CausalGraph:
    """A directed acyclic graph over attributes and images, immutable.

    Args:
        name: one word.
        nodes: in any order; parents are named.
        bidirected: pairs of nodes that share a latent confounder.
        title, reference, assumes: for people.

    Raises:
        GraphError: a cycle (named node by node), an unknown parent, a node named twice.

    Example:
        >>> graph = CausalGraph("toy", [Node("age", "continuous"), Node("finding", "binary", parents=["age"])])
        >>> graph.order
        ('age', 'finding')
        >>> sorted(graph.descendants(["age"]))
        ['age', 'finding']
    """

    name: str
    nodes: Sequence[Node]
    bidirected: Sequence[tuple[str, str]] = ()
    title: str = ""
    reference: str = ""
    assumes: str = ""
    _by_name: dict[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key in ("name", "title", "reference", "assumes"):
            if not isinstance(getattr(self, key), str):
                raise GraphError(f"a graph's {key} is text, not {getattr(self, key)!r}.")
        by_name: dict[str, Node] = {}
        for node in self.nodes:
            if not isinstance(node, Node):
                raise GraphError(f"a node of graph '{self.name}' is {node!r}: give a Node, Node('age', 'continuous').")
            if node.name in by_name:
                raise GraphError(f"graph '{self.name}' has two nodes called '{node.name}'.")
            by_name[node.name] = node
        for node in by_name.values():
            for parent in node.parents:
                if parent not in by_name:
                    raise GraphError(
                        f"node '{node.name}' has a parent '{parent}' that graph '{self.name}' does not have."
                        f"{_suggest(parent, by_name)} Nodes are: {_listed(list(by_name))}."
                    )
                if by_name[parent].kind == "image":
                    raise GraphError(f"'{node.name}' has the image '{parent}' as a parent: an image is an effect, not a cause.")
        set_ = object.__setattr__
        set_(self, "nodes", tuple(by_name.values()))
        set_(self, "_by_name", by_name)
        set_(self, "bidirected", self._checked_bidirected())
        _ = self.order  # a cycle is an error here, not at first use

    def _checked_bidirected(self) -> tuple[tuple[str, str], ...]:
        pairs: dict[tuple[str, str], None] = {}
        entries = _several(self.bidirected)
        for entry in (self.bidirected,) if entries is None else entries:
            pair = _several(entry) or ()
            if len(pair) != 2 or not all(isinstance(name, str) for name in pair) or pair[0] == pair[1]:
                raise GraphError(f"bidirected has {entry!r}: each entry names two different nodes.")
            self.check(pair)
            if pair in pairs or pair[::-1] in pairs:
                raise GraphError(f"bidirected names the pair '{pair[0]}', '{pair[1]}' twice.")
            pairs[pair[0], pair[1]] = None
        return tuple(pairs)

    def __repr__(self) -> str:
        return f"CausalGraph({self.name!r}, {' '.join(self.order)})"

    @cached_property
    def networkx(self) -> nx.DiGraph[str]:
        """The directed edges as a networkx graph, nodes in the order of declaration."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(self._by_name)
        graph.add_edges_from((parent, node.name) for node in self.nodes for parent in node.parents)
        return nx.freeze(graph)

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        children: dict[str, list[str]] = {name: [] for name in self._by_name}
        for node in self.nodes:
            for parent in node.parents:
                children[parent].append(node.name)
        return children

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The names, causes first, otherwise in the order of declaration."""
        names = list(self._by_name)
        place = {name: number for number, name in enumerate(names)}
        waiting = {node.name: len(node.parents) for node in self.nodes}
        ready = [place[name] for name, count in waiting.items() if not count]
        order: list[str] = []
        while ready:
            name = names[heapq.heappop(ready)]
            order.append(name)
            for child in self._children[name]:
                waiting[child] -= 1
                if not waiting[child]:
                    heapq.heappush(ready, place[child])
        if len(order) < len(names):
            cycle = self._cycle({name for name, count in waiting.items() if count})
            raise GraphError(f"graph '{self.name}' has a cycle: {' -> '.join([*cycle, cycle[0]])}. Remove one of these edges.")
        return tuple(order)

    def _cycle(self, left: set[str]) -> list[str]:
        """A cycle among nodes of which each has a parent among them: against the edges until a node comes again."""
        path: dict[str, int] = {}
        name = min(left)
        while name not in path:
            path[name] = len(path)
            name = next(parent for parent in self._by_name[name].parents if parent in left)
        return list(path)[path[name] :][::-1]

    def node(self, name: str) -> Node:
        """The node of this name, or a GraphError that lists what there is."""
        self.check([name])
        return self._by_name[name]

    def check(self, names: Iterable[str], doing: str = "find") -> None:
        """Raise a GraphError unless every name is a node."""
        unknown = [name for name in names if name not in self._by_name]
        if unknown:
            raise GraphError(
                f"cannot {doing} {', '.join(map(str, unknown))}: graph '{self.name}' has no such node."
                f"{_suggest(unknown[0], self._by_name)} Nodes are: {_listed(list(self._by_name))}."
            )

    def parents(self, name: str) -> tuple[str, ...]:
        """Direct causes, in the order of declaration."""
        return tuple(self.node(name).parents)

    def descendants(self, names: str | Iterable[str]) -> frozenset[str]:
        """Everything that an intervention on `names`, one or several, can reach, the intervened nodes included."""
        found = dict.fromkeys([names] if isinstance(names, str) else names)
        self.check(found)
        stack = list(found)
        while stack:
            fresh = [child for child in self._children[stack.pop()] if child not in found]
            found |= dict.fromkeys(fresh)
            stack += fresh
        return frozenset(found)

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """Every node but the images, causes first."""
        return tuple(name for name in self.order if self._by_name[name].kind != "image")

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The image nodes, causes first."""
        return tuple(name for name in self.order if self._by_name[name].kind == "image")

    def layers(self) -> list[list[str]]:
        """The nodes by their distance from the roots, for drawing: the longest way from any of them."""
        level: dict[str, int] = {}
        for name in self.order:
            level[name] = 1 + max((level[parent] for parent in self._by_name[name].parents), default=-1)
        layers: list[list[str]] = [[] for _ in range(1 + max(level.values(), default=-1))]
        for name in self.order:
            layers[level[name]].append(name)
        return layers

    def to_dict(self) -> dict[str, Any]:
        """The graph as plain data; `from_dict` reads it back."""
        whole: dict[str, Any] = {"name": self.name}
        whole |= {key: getattr(self, key) for key in ("title", "reference", "assumes") if getattr(self, key)}
        if self.bidirected:
            whole["bidirected"] = [list(pair) for pair in self.bidirected]
        return whole | {"nodes": [node.to_dict() for node in self.nodes]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CausalGraph:
        """The graph that `to_dict` wrote, or that a TOML file holds; a key that it does not know is an error."""
        data = dict(data)
        entries = data.pop("nodes", None)
        if not isinstance(entries, list) or not entries:
            raise GraphError("a graph needs at least one [[nodes]] table with a name and a kind.")
        nodes = []
        for place, entry in enumerate(entries):
            known = set(Node.__dataclass_fields__)
            if not isinstance(entry, dict):
                raise GraphError(f"node {place + 1} of the graph is {entry!r}: it takes a table with a name and a kind.")
            wrong = sorted(set(entry) - known)
            missing = sorted({"name", "kind"} - set(entry))
            if wrong or missing:
                problem = f"does not know {', '.join(wrong)}" if wrong else f"needs {' and '.join(missing)}"
                raise GraphError(f"node {place + 1} of the graph {problem}. Keys are: {', '.join(sorted(known))}.")
            entry = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
            nodes.append(Node(**entry))
        known = {"name", "title", "reference", "assumes", "bidirected"}
        if wrong := sorted(set(data) - known):
            raise GraphError(f"a graph does not know {', '.join(wrong)}. Keys are: {', '.join(sorted(known | {'nodes'}))}.")
        return cls(name=data.pop("name", "graph"), nodes=nodes, **data)

    # From other notations

    @classmethod
    def _from_sketch(
        cls, sketch: Sketch, name: str | None, kinds: Mapping[str, Kind] | None, nodes: Iterable[Node]
    ) -> CausalGraph:
        """The graph of a sketch, with the kinds and nodes that its reader was told."""
        name = name or sketch.about.get("name") or "graph"
        kinds, told = kinds or {}, {node.name: node for node in nodes}
        for label, words in (("kinds", kinds), ("nodes", told)):
            for word in words:
                if word not in sketch.nodes:
                    raise GraphError(
                        f"{label} names '{word}', which is no node of graph '{name}'.{_suggest(word, sketch.nodes)} "
                        f"Nodes are: {_listed(list(sketch.nodes))}."
                    )
        if twice := sorted(set(kinds) & set(told)):
            raise GraphError(f"'{twice[0]}' is in kinds and in nodes: leave one out.")
        parents: dict[str, list[str]] = {word: [] for word in sketch.nodes}
        for cause, effect in sketch.edges:
            parents[effect].append(cause)
        built = [
            _merge(told[word], fields, parents[word]) if word in told else _made(word, fields, kinds.get(word), parents[word])
            for word, fields in sketch.nodes.items()
        ]
        about = {key: sketch.about[key] for key in ("title", "reference", "assumes") if key in sketch.about}
        return cls(name, built, bidirected=sketch.bidirected, **about)

    @classmethod
    def parse(
        cls, text: str, *, name: str | None = None, kinds: Mapping[str, Kind] | None = None, nodes: Iterable[Node] = ()
    ) -> CausalGraph:
        """The graph that a text in causalcf's own notation draws; see `causalcf.formats.read_text`.

        Args:
            text: statements `a -> b -> c`, `{a b} -> c`, `a <- b`, `a <-> b`, `age [continuous, unit=year]`, one a line or
                separated by semicolons.
            name: of the graph.
            kinds: of nodes for which the text states none; without, they are continuous.
            nodes: the same for all that a kind alone does not say; their parents are those of the text.

        Raises:
            GraphError: the text is not understood (with line and column), or draws no causal graph.

        Example:
            >>> graph = CausalGraph.parse("age -> finding; {age finding} -> dose; finding <-> dose", kinds={"finding": "binary"})
            >>> graph.parents("dose"), graph.node("finding").kind, graph.bidirected
            (('age', 'finding'), 'binary', (('finding', 'dose'),))
        """
        return cls._from_sketch(formats.read_text(text), name, kinds, nodes)

    @classmethod
    def from_dagitty(
        cls, text: str, *, name: str | None = None, kinds: Mapping[str, Kind] | None = None, nodes: Iterable[Node] = ()
    ) -> CausalGraph:
        """The graph of a dagitty text, `dag { ... }`, its latent nodes projected; arguments and errors as in `parse`.

        Example:
            >>> CausalGraph.from_dagitty('dag { U [latent] x [exposure] x -> y U -> {x y} }').bidirected
            (('x', 'y'),)
        """
        return cls._from_sketch(formats.read_text(text, "dagitty text"), name, kinds, nodes)

    @classmethod
    def from_dot(
        cls, text: str, *, name: str | None = None, kinds: Mapping[str, Kind] | None = None, nodes: Iterable[Node] = ()
    ) -> CausalGraph:
        """The graph of a DOT text; see `causalcf.formats.read_dot`. Arguments and errors as in `parse`."""
        return cls._from_sketch(formats.read_dot(text), name, kinds, nodes)

    @classmethod
    def from_gml(
        cls, text: str, *, name: str | None = None, kinds: Mapping[str, Kind] | None = None, nodes: Iterable[Node] = ()
    ) -> CausalGraph:
        """The graph of a GML text; see `causalcf.formats.read_gml`. Arguments and errors as in `parse`."""
        return cls._from_sketch(formats.read_gml(text), name, kinds, nodes)

    @classmethod
    def from_bif(
        cls, text: str, *, name: str | None = None, kinds: Mapping[str, Kind] | None = None, nodes: Iterable[Node] = ()
    ) -> CausalGraph:
        """The graph and the states of a BIF text; `causalcf.formats.read_bif` also gives its probabilities."""
        return cls._from_sketch(_bif_sketch(text), name, kinds, nodes)

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[str, str]],
        *,
        bidirected: Iterable[tuple[str, str]] = (),
        name: str | None = None,
        kinds: Mapping[str, Kind] | None = None,
        nodes: Iterable[Node] = (),
    ) -> CausalGraph:
        """The graph of a list of (cause, effect); a node without an edge needs `from_parents`. Arguments as in `parse`.

        Example:
            >>> CausalGraph.from_edges([("a", "b"), ("b", "c")], bidirected=[("a", "c")]).to_edges()
            [('a', 'b'), ('b', 'c')]
        """
        directed, undirected = _pairs(edges, "edges"), _pairs(bidirected, "bidirected")
        names = dict.fromkeys(itertools.chain.from_iterable([*directed, *undirected]))
        return cls._from_sketch(Sketch({word: {} for word in names}, directed, undirected), name, kinds, nodes)

    @classmethod
    def from_parents(
        cls,
        parents: Mapping[str, Iterable[str]],
        *,
        bidirected: Iterable[tuple[str, str]] = (),
        name: str | None = None,
        kinds: Mapping[str, Kind] | None = None,
        nodes: Iterable[Node] = (),
    ) -> CausalGraph:
        """The graph of a mapping from every effect to its causes; a cause that is no key is a root. Arguments as in `parse`.

        Example:
            >>> CausalGraph.from_parents({"image": ["age", "sex"]}, kinds={"sex": "binary"}).order
            ('age', 'sex', 'image')
        """
        causes = {effect: _several(some) for effect, some in parents.items()}
        for effect, some in causes.items():
            if some is None:
                raise GraphError(f"the parents of '{effect}' are {parents[effect]!r}: give a list, [{parents[effect]!r}].")
        edges = [(cause, effect) for effect, some in causes.items() for cause in some or ()]
        names = dict.fromkeys([*causes, *(cause for cause, _ in edges)])
        pairs = _pairs(bidirected, "bidirected")
        return cls._from_sketch(Sketch({word: {} for word in names}, edges, pairs), name, kinds, nodes)

    @classmethod
    def from_networkx(
        cls,
        graph: nx.DiGraph[str],
        *,
        name: str | None = None,
        kinds: Mapping[str, Kind] | None = None,
        nodes: Iterable[Node] = (),
    ) -> CausalGraph:
        """The graph of a networkx `DiGraph`; arguments as in `parse`.

        Node attributes `kind`, `unit`, `description`, `support`, `states`, `shape` are read; other attributes are not. A node
        with `latent=True` is projected, as in `causalcf.formats.project`; an edge with `type="bidirected"` or `dir="both"` is
        bidirected.

        Raises:
            GraphError: the graph is undirected, has two edges between the same nodes, or names that are no words.
        """
        return cls._from_sketch(_networkx_sketch(graph, ()), name, kinds, nodes)

    @classmethod
    def from_pgmpy(
        cls, model: Any, *, name: str | None = None, kinds: Mapping[str, Kind] | None = None, nodes: Iterable[Node] = ()
    ) -> CausalGraph:
        """The graph of a pgmpy `DAG`, `ADMG` or network; of a `DiscreteBayesianNetwork` also the states. Arguments as in `parse`.

        Latent nodes are projected, as in `causalcf.formats.project`.

        Raises:
            GraphError: the model is of another class, or a discrete network without tables, so that no states are known.
        """
        return cls._from_sketch(_pgmpy_sketch(model, {node.name for node in nodes} | set(kinds or ())), name, kinds, nodes)

    # To other notations

    def _sketch(self) -> Sketch:
        fields = ("kind", "unit", "description", "support", "states", "shape")
        nodes = {
            node.name: {key: getattr(node, key) for key in fields if getattr(node, key) not in (None, "")} for node in self.nodes
        }
        about = {key: getattr(self, key) for key in ("name", "title", "reference", "assumes") if getattr(self, key)}
        return Sketch(nodes, self.to_edges(), self.bidirected, about)

    def to_edges(self) -> list[tuple[str, str]]:
        """The directed edges as (cause, effect), those of one effect together; the others are `bidirected`."""
        return [(parent, node.name) for node in self.nodes for parent in node.parents]

    def to_text(self) -> str:
        """The graph in causalcf's own notation, which `parse` reads back; without title, reference and assumes.

        Example:
            >>> graph = CausalGraph("toy", [Node("age", "continuous", unit="year"), Node("ill", "binary", ["age"])])
            >>> print(graph.to_text(), end="")
            age [continuous, unit=year]
            ill [binary, states=(0, 1)]
            age -> ill
        """
        return formats.write_text(self._sketch())

    def to_dagitty(self) -> str:
        """The names and edges for dagitty, https://www.dagitty.net; kinds, units and states have no place in it."""
        return formats.write_dagitty(self._sketch())

    def to_dot(self) -> str:
        """The graph for Graphviz, which `from_dot` reads back; a bidirected edge is an edge with `dir=both`."""
        return formats.write_dot(self._sketch())

    def to_gml(self) -> str:
        """The graph in GML, which `from_gml` and networkx read; a bidirected edge is a latent node with two effects."""
        return formats.write_gml(self._sketch())

    def to_toml(self) -> str:
        """The graph as a file for `load_graph`."""
        return formats.write_toml(self.to_dict())

    def to_networkx(self) -> nx.DiGraph[str]:
        """A networkx graph with kinds, units and states as node attributes, which `from_networkx` reads back.

        A bidirected edge is a node with `latent=True` and two effects, so that networkx' own d-separation is right.

        Example:
            >>> graph = CausalGraph.parse("a -> b; a <-> b").to_networkx()
            >>> sorted(graph.edges)
            [('a', 'b'), ('a <-> b', 'a'), ('a <-> b', 'b')]
        """
        import networkx as nx

        sketch = self._sketch()
        graph: nx.DiGraph[str] = nx.DiGraph(**sketch.about)
        graph.add_nodes_from(_attributed(sketch))
        graph.add_edges_from(sketch.edges)
        for latent, pair in formats.latent_names(sketch).items():
            graph.add_node(latent, latent=True)
            graph.add_edges_from((latent, name) for name in pair)
        return graph

    def to_pgmpy(self) -> Any:
        """A pgmpy `DAG`, or an `ADMG` if there are bidirected edges; kinds, units and states are node attributes."""
        from pgmpy.base import ADMG, DAG

        sketch = self._sketch()
        graph = ADMG() if self.bidirected else DAG()
        graph.add_nodes_from(sketch.nodes)
        for name, fields in _attributed(sketch):
            graph.nodes[name].update(fields)
        if self.bidirected:
            graph.add_directed_edges(sketch.edges)
            graph.add_bidirected_edges(self.bidirected)
        else:
            graph.add_edges_from(sketch.edges)
        graph.graph.update(sketch.about)
        return graph

    # For people

    def draw(
        self, path: str | Path | None = None, *, intervened: Iterable[str] = (), affected: Iterable[str] | None = None
    ) -> str | None:
        """Draw the graph, causes on the left.

        Args:
            path: an .svg or .png file to write; None returns the SVG text.
            intervened: nodes that are set; their incoming edges are drawn cut.
            affected: nodes to be marked as reached by the intervention; None marks all that it can reach.

        Raises:
            GraphError: a name is no node of the graph, the path ends otherwise, or there are more than 200 nodes.
        """
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        from causalcf.drawing import arrange, draw_layout

        form = "svg" if path is None else Path(path).suffix.lower().removeprefix(".")
        if form not in ("svg", "png"):
            raise GraphError(f"cannot draw into '{path}': the name of the file ends in .svg or .png.")
        if len(self.nodes) > _MAX_DRAWN:
            raise GraphError(
                f"graph '{self.name}' has {len(self.nodes)} nodes; at most {_MAX_DRAWN} can be drawn. Draw a part of it."
            )
        intervened = list(intervened)
        self.check(intervened, "draw an intervention on")
        layout = arrange(self, intervened, self.descendants(intervened) if affected is None else list(affected))
        figure = Figure(figsize=(layout.width, layout.height), facecolor="white")
        draw_layout(figure.add_axes((0, 0, 1, 1)), layout)
        drawn = io.BytesIO()
        with rc_context({"svg.hashsalt": "causalcf"}):  # the same graph gives the same file
            figure.savefig(drawn, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
        if path is None:
            return drawn.getvalue().decode()
        Path(path).write_bytes(drawn.getvalue())
        return None

    def _repr_svg_(self) -> str | None:
        return self.draw() if len(self.nodes) <= _MAX_DRAWN else None

    def without(self, *names: str) -> CausalGraph:
        """The graph without these nodes and their edges; a node that another still needs as a parent stays an error."""
        self.check(names, "remove")
        kept = [pair for pair in self.bidirected if not set(pair) & set(names)]
        return replace(self, nodes=[node for node in self.nodes if node.name not in names], bidirected=kept)

    def resized(self, side: int) -> CausalGraph:
        """The graph with images whose longer side has so many pixels; the other side keeps its ratio."""
        if side < 1:
            raise GraphError(f"an image of {side} pixels a side makes no sense. Give 1 or more.")
        nodes = []
        for node in self.nodes:
            channels, *sides = node.shape or (1, side, side)
            height, width = (max(1, round(length * side / max(sides))) for length in sides)
            nodes.append(replace(node, shape=(channels, height, width)) if node.kind == "image" else node)
        return replace(self, nodes=nodes)


_MAX_DRAWN = 200  # nodes


def _pairs(edges: Iterable[tuple[str, str]], what: str) -> list[tuple[str, str]]:
    pairs = []
    for edge in edges:
        pair = _several(edge) or ()
        if len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise GraphError(f"{what} has {edge!r}: each entry names two nodes, ('cause', 'effect').")
        pairs.append((pair[0], pair[1]))
    return pairs


def _made(name: str, fields: Mapping[str, Any], kind: Kind | None, parents: Sequence[str]) -> Node:
    """A node of what a text states, and of the kind that its reader was told."""
    stated: Kind | None = fields.get("kind")
    if kind and stated and kind != stated:
        raise GraphError(f"node '{name}' is {stated} in the graph and {kind} in kinds: change one of them.")
    states = fields.get("states")
    usual: Kind = "continuous" if states is None else "binary" if len(states) == 2 else "categorical"
    rest = {key: value for key, value in fields.items() if key != "kind"}
    return Node(name, stated or kind or usual, parents, **rest)


def _merge(node: Node, fields: Mapping[str, Any], parents: Sequence[str]) -> Node:
    """A node that the reader was told, if it does not contradict the text."""
    if node.parents and set(node.parents) != set(parents):
        raise GraphError(
            f"node '{node.name}' has the parents {', '.join(node.parents)} in nodes and {', '.join(parents) or 'none'} "
            "in the graph. Leave them out of nodes."
        )
    for key, value in fields.items():
        if getattr(node, key) != (tuple(value) if isinstance(value, list) else value):
            raise GraphError(f"node '{node.name}' has {key} {getattr(node, key)!r} in nodes and {value!r} in the graph.")
    return replace(node, parents=node.parents or parents)


def _bif_sketch(text: str) -> Sketch:
    tables = formats.read_bif(text)
    edges = [(parent, table.name) for table in tables for parent in table.parents]
    return Sketch({table.name: {"states": table.states} for table in tables}, edges)


def _attributed(sketch: Sketch) -> list[tuple[str, dict[str, Any]]]:
    """Every node with its fields as lists and words, as files of other programs hold them."""
    return [
        (name, {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()})
        for name, fields in sketch.nodes.items()
    ]


def _both(data: Mapping[str, Any]) -> bool:
    """Whether an edge's attributes call it bidirected."""
    return data.get("type") == "bidirected" or data.get("dir") == "both"


def _networkx_sketch(graph: nx.DiGraph[str], latent: Iterable[str]) -> Sketch:
    if not getattr(graph, "is_directed", bool)():
        raise GraphError(f"a causal graph is a networkx DiGraph, not {type(graph).__name__}.")
    odd = [name for name in graph.nodes if not isinstance(name, str)]
    if odd:
        raise GraphError(f"a node is called {odd[0]!r}: names are words. networkx.relabel_nodes(graph, str) makes them so.")
    known = ("kind", "unit", "description", "support", "states", "shape")
    nodes = {name: {key: data[key] for key in known if data.get(key) is not None} for name, data in graph.nodes(data=True)}
    hidden = dict.fromkeys([*(name for name, data in graph.nodes(data=True) if data.get("latent")), *latent])
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for cause, effect, data in graph.edges(data=True):
        if _both(data):
            pairs.setdefault(frozenset((cause, effect)), (cause, effect))
    edges: list[tuple[str, str]] = []
    order = [(cause, effect) for effect in graph.nodes for cause in graph.pred[effect] if cause not in hidden]
    order += [(cause, effect) for cause in hidden for effect in graph.succ[cause]]
    for cause, effect in order:
        data = graph.get_edge_data(cause, effect)
        count = sum(not _both(one) for one in (data.values() if graph.is_multigraph() else [data]))
        if count > 1:
            raise GraphError(f"there are {count} edges '{cause} -> {effect}'. Keep one of them.")
        if count:
            edges.append((cause, effect))
    about = {key: graph.graph[key] for key in ("name", "title", "reference", "assumes") if key in graph.graph}
    return formats.project(nodes, edges, pairs.values(), hidden, about)


def _pgmpy_sketch(model: Any, told: set[str]) -> Sketch:
    from pgmpy.base import ADMG, DAG
    from pgmpy.models import DiscreteBayesianNetwork

    if not isinstance(model, ADMG | DAG):
        raise GraphError(f"a causal graph is a pgmpy DAG, ADMG or a network, not {type(model).__name__}.")
    sketch = _networkx_sketch(model, model.latents)
    if isinstance(model, DiscreteBayesianNetwork):
        states = {table.variable: table.state_names[table.variable] for table in model.cpds}
        unknown = [name for name in sketch.nodes if name not in states and name not in told]
        if unknown:
            raise GraphError(
                f"the discrete network has no table for '{unknown[0]}': add_cpds, or say what it is with nodes=[...]."
            )
        nodes = {
            name: {**fields, **({"states": states[name]} if name in states else {})} for name, fields in sketch.nodes.items()
        }
        sketch = replace(sketch, nodes=nodes)
    return sketch


def _shelves() -> list[Any]:
    """Where ready-made graphs lie: inside the installed package first, beside it in a checkout second."""
    inside = importlib.resources.files("causalcf") / "graphs"
    beside = Path(__file__).resolve().parent.parent / "graphs"
    return [shelf for shelf in (inside, beside) if shelf.is_dir()]


def graph_names() -> list[str]:
    """The names of the ready-made graphs."""
    return sorted({entry.name[:-5] for shelf in _shelves() for entry in shelf.iterdir() if entry.name.endswith(".toml")})


_READERS: dict[str, Callable[[str], Sketch]] = {
    ".bif": _bif_sketch,
    ".dagitty": formats.read_text,
    ".dot": formats.read_dot,
    ".gml": formats.read_gml,
    ".gv": formats.read_dot,
    ".txt": formats.read_text,
}


def _file_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_TEXT + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise GraphError(f"cannot read the graph file '{path}': {error.strerror}.") from error
    except UnicodeDecodeError as error:
        if len(content) <= 4 * MAX_TEXT:
            raise GraphError(f"the graph file '{path}' is not UTF-8 text ({error.reason} at byte {error.start}).") from error
        text = ""
    if len(content) > 4 * MAX_TEXT or len(text) > MAX_TEXT:
        raise GraphError(f"the graph file '{path}' is too long; at most {MAX_TEXT:,} characters are read.")
    return text


def _toml_graph(text: str, source: str | Path) -> CausalGraph:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise GraphError(f"graph '{source}' is not TOML: {error}.") from error
    except (RecursionError, ValueError) as error:  # brackets in brackets without end; a number of thousands of digits
        raise GraphError(f"graph '{source}' is not TOML that can be read: {error}.") from error
    return CausalGraph.from_dict({"name": Path(str(source)).stem, **data})


def load_graph(source: str | Path, *, kinds: Mapping[str, Kind] | None = None, nodes: Iterable[Node] = ()) -> CausalGraph:
    """A ready-made graph by name, or a graph of your own from a file.

    Args:
        source: a name from `graph_names()`, or a path that ends in .toml, .txt or .dagitty (text, see `CausalGraph.parse`), .dot
            or .gv, .gml, or .bif. The graph is called after the file unless the file says.
        kinds: of nodes for which the file states none; without, they are continuous.
        nodes: the same for all that a kind alone does not say.

    Raises:
        GraphError: there is no such graph or file, or it is not understood.

    Example:
        >>> load_graph("morphomnist").parents("image")
        ('thickness', 'intensity', 'digit')
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in _READERS:
        text = _file_text(path)
        try:
            sketch = _READERS[suffix](text)
        except GraphError as error:
            raise GraphError(f"graph file '{source}': {error}") from error
        return CausalGraph._from_sketch(sketch, sketch.about.get("name") or path.stem, kinds, nodes)
    if kinds or tuple(nodes):
        raise GraphError(f"graph '{source}' states its kinds itself: leave out kinds and nodes.")
    if suffix == ".toml":
        return _toml_graph(_file_text(path), source)
    found = [shelf / f"{source}.toml" for shelf in _shelves() if (shelf / f"{source}.toml").is_file()]
    if not found:
        raise GraphError(
            f"there is no ready-made graph '{source}'.{_suggest(str(source), graph_names())} Ready-made graphs are: "
            f"{', '.join(graph_names())}; a file of your own ends in .toml, {', '.join(sorted(_READERS))}."
        )
    return _toml_graph(found[0].read_text(encoding="utf-8"), source)


def in_support(node: Node, value: float) -> bool:
    """Whether a number lies strictly inside the node's support."""
    low, high = node.support or (-math.inf, math.inf)
    return low < value < high
