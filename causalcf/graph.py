"""Causal graphs: nodes with a kind, a unit and a support, directed edges, and latent confounders as bidirected edges."""

from __future__ import annotations

import difflib
import importlib.resources
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from causalcf.errors import GraphError

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["CausalGraph", "Kind", "Node", "graph_names", "load_graph"]

Kind = Literal["continuous", "binary", "ordinal", "categorical", "image"]


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
        if isinstance(self.parents, str):
            raise GraphError(f"node '{self.name}' has parents={self.parents!r}: give a list, [{self.parents!r}].")
        if len(set(self.parents)) != len(tuple(self.parents)):
            raise GraphError(f"node '{self.name}' names a parent twice: {', '.join(map(repr, self.parents))}.")
        set_ = object.__setattr__
        set_(self, "parents", tuple(self.parents))
        if self.kind == "binary" and self.states is None:
            set_(self, "states", (0, 1))
        if self.discrete:
            if not self.states or len(set(self.states)) != len(self.states) or len(self.states) < 2:
                raise GraphError(f"{self.kind} node '{self.name}' needs at least two different states, not {self.states!r}.")
            set_(self, "states", tuple(self.states))
        elif self.states is not None:
            raise GraphError(f"{self.kind} node '{self.name}' has states; only discrete nodes do.")
        if self.kind == "image":
            if self.shape is None or len(self.shape) != 3 or min(self.shape) < 1:
                raise GraphError(f"image node '{self.name}' needs shape=(channel, height, width), not {self.shape!r}.")
            set_(self, "shape", tuple(int(side) for side in self.shape))
        if self.support is not None:
            ends = tuple(self.support)
            numbers = len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
            if self.kind != "continuous" or not numbers or not ends[0] < ends[1]:
                raise GraphError(
                    f"node '{self.name}' has support={self.support!r}: give numbers (low, high) of a continuous node."
                )
            set_(self, "support", (float(ends[0]), float(ends[1])))

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
        by_name: dict[str, Node] = {}
        for node in self.nodes:
            if node.name in by_name:
                raise GraphError(f"graph '{self.name}' has two nodes called '{node.name}'.")
            by_name[node.name] = node
        for node in self.nodes:
            for parent in node.parents:
                if parent not in by_name:
                    raise GraphError(
                        f"node '{node.name}' has a parent '{parent}' that graph '{self.name}' does not have."
                        f"{_suggest(parent, by_name)} Nodes are: {', '.join(by_name)}."
                    )
                if by_name[parent].kind == "image":
                    raise GraphError(f"'{node.name}' has the image '{parent}' as a parent: an image is an effect, not a cause.")
        set_ = object.__setattr__
        set_(self, "nodes", tuple(self.nodes))
        set_(self, "_by_name", by_name)
        odd = [pair for pair in self.bidirected if isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1]]
        if odd:
            raise GraphError(f"bidirected has {odd[0]!r}: each entry names two different nodes.")
        set_(self, "bidirected", tuple((str(a), str(b)) for a, b in self.bidirected))
        for pair in self.bidirected:
            for name in pair:
                self.node(name)
        self.order  # noqa: B018  a cycle is an error here, not at first use

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
    def order(self) -> tuple[str, ...]:
        """The names, causes first, otherwise in the order of declaration."""
        import networkx as nx

        place = {name: number for number, name in enumerate(self._by_name)}
        try:
            return tuple(nx.lexicographical_topological_sort(self.networkx, key=place.__getitem__))
        except nx.NetworkXUnfeasible:
            cycle = [edge[0] for edge in nx.find_cycle(self.networkx)]
            raise GraphError(
                f"graph '{self.name}' has a cycle: {' -> '.join([*cycle, cycle[0]])}. Remove one of these edges."
            ) from None

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
                f"{_suggest(unknown[0], self._by_name)} Nodes are: {', '.join(self.order)}."
            )

    def parents(self, name: str) -> tuple[str, ...]:
        """Direct causes, in the order of declaration."""
        return tuple(self.node(name).parents)

    def descendants(self, names: Iterable[str]) -> frozenset[str]:
        """Everything that an intervention on `names` can reach, the intervened nodes included."""
        import networkx as nx

        names = list(names)
        self.check(names)
        return frozenset(names).union(*(nx.descendants(self.networkx, name) for name in names))

    @property
    def attributes(self) -> tuple[str, ...]:
        """Every node but the images, causes first."""
        return tuple(name for name in self.order if self._by_name[name].kind != "image")

    @property
    def images(self) -> tuple[str, ...]:
        """The image nodes, causes first."""
        return tuple(name for name in self.order if self._by_name[name].kind == "image")

    def layers(self) -> list[list[str]]:
        """The nodes by their distance from the roots, for drawing."""
        import networkx as nx

        return [sorted(layer, key=self.order.index) for layer in nx.topological_generations(self.networkx)]

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

    def without(self, *names: str) -> CausalGraph:
        """The graph without these nodes and their edges; a node that another still needs as a parent stays an error."""
        self.check(names, "remove")
        kept = [pair for pair in self.bidirected if not set(pair) & set(names)]
        return replace(self, nodes=[node for node in self.nodes if node.name not in names], bidirected=kept)


def _shelves() -> list[Any]:
    """Where ready-made graphs lie: inside the installed package first, beside it in a checkout second."""
    inside = importlib.resources.files("causalcf") / "graphs"
    beside = Path(__file__).resolve().parent.parent / "graphs"
    return [shelf for shelf in (inside, beside) if shelf.is_dir()]


def graph_names() -> list[str]:
    """The names of the ready-made graphs."""
    return sorted({entry.name[:-5] for shelf in _shelves() for entry in shelf.iterdir() if entry.name.endswith(".toml")})


def load_graph(source: str | Path) -> CausalGraph:
    """A ready-made graph by name, or a graph of your own from a TOML file.

    Example:
        >>> load_graph("morphomnist").parents("image")
        ('thickness', 'intensity', 'digit')
    """
    if str(source).endswith(".toml"):
        try:
            text = Path(source).read_text(encoding="utf-8")
        except OSError as error:
            raise GraphError(f"cannot read the graph file '{source}': {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise GraphError(f"the graph file '{source}' is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    else:
        found = [shelf / f"{source}.toml" for shelf in _shelves() if (shelf / f"{source}.toml").is_file()]
        if not found:
            raise GraphError(
                f"there is no ready-made graph '{source}'.{_suggest(str(source), graph_names())} "
                f"Ready-made graphs are: {', '.join(graph_names())}; a file of your own ends in .toml."
            )
        text = found[0].read_text(encoding="utf-8")
    if len(text) > 1_000_000:
        raise GraphError(f"graph '{source}' is {len(text)} characters long; at most 1,000,000 are read.")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise GraphError(f"graph '{source}' is not TOML: {error}.") from error
    return CausalGraph.from_dict({"name": Path(str(source)).stem, **data})


def in_support(node: Node, value: float) -> bool:
    """Whether a number lies strictly inside the node's support."""
    low, high = node.support or (-math.inf, math.inf)
    return low < value < high
