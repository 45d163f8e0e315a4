"""Causal graphs as text: own readers and writers for a documented part of each format.

| format  | what is read                                                                                              |
|---------|-----------------------------------------------------------------------------------------------------------|
| text    | `a -> b -> c`, `{a b} -> c`, `a <-> b`, `age [continuous, unit=year, support=(18, 100)]`; also `dag { ... }` |
| DOT     | `digraph`: subgraphs, chains, defaults, `dir=both`; drawing attributes are skipped, ports and HTML refused |
| GML     | one `graph [ directed 1 ... ]`; layout is skipped                                                         |
| BIF     | variables, states and complete probability tables                                                         |

Every reader takes time linear in the text, never calls itself, and refuses what it does not understand with line and column.

A latent node without causes is projected: its effects are joined by bidirected edges, each with each (T. Verma, J. Pearl,
"Equivalence and Synthesis of Causal Models", 1990, https://arxiv.org/abs/1304.1108). A latent node with causes is refused.

Formats: J. Textor et al., dagitty, https://www.dagitty.net/manual-3.x.pdf; Graphviz, https://graphviz.org/doc/info/lang.html;
M. Himsolt, "GML: A portable Graph File Format", 1997; F. Cozman, "The Interchange Format for Bayesian Networks", 1998.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html.entities import name2codepoint
from typing import TYPE_CHECKING, Any

import numpy as np

from causalcf.errors import GraphError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MAX_EDGES",
    "MAX_NODES",
    "MAX_TEXT",
    "Sketch",
    "Table",
    "project",
    "read_bif",
    "read_dot",
    "read_gml",
    "read_text",
    "write_dagitty",
    "write_dot",
    "write_gml",
    "write_text",
    "write_toml",
]

MAX_TEXT, MAX_NODES, MAX_EDGES = 1_000_000, 5_000, 50_000
_MAX_DEPTH = 100  # of subgraphs and brackets
_MAX_CELLS = 2_000_000  # of all probability tables together

_KINDS = ("continuous", "binary", "ordinal", "categorical", "image")
_WORDS = ("kind", "unit", "description")  # fields of a node that hold a word,
_TUPLES = ("support", "states", "shape")  # and that hold several values
_ABOUT = ("title", "reference", "assumes")  # fields of the graph

Pair = tuple[str, str]


@dataclass(frozen=True)
class Sketch:
    """What a text says about a graph; nothing is checked for cycles yet.

    Args:
        nodes: for every name, in the order of first mention, the fields that the text states (as of `causalcf.Node`).
        edges: (cause, effect); the causes of one effect in the order in which they were stated.
        bidirected: pairs that share a latent cause.
        about: name, title, reference and assumes, as far as stated.
    """

    nodes: Mapping[str, Mapping[str, Any]]
    edges: Sequence[Pair]
    bidirected: Sequence[Pair] = ()
    about: Mapping[str, str] = field(default_factory=dict)


def project(
    nodes: Mapping[str, Mapping[str, Any]],
    edges: Iterable[Pair],
    bidirected: Iterable[Pair],
    latent: Iterable[str],
    about: Mapping[str, str],
) -> Sketch:
    """A sketch without its latent nodes: their effects are joined by bidirected edges, each with each.

    Raises:
        GraphError: a latent node has a cause, or a latent cause of its own; there is nothing but latent nodes.
    """
    hidden = dict.fromkeys(latent)
    children: dict[str, list[str]] = {name: [] for name in hidden}
    kept: list[Pair] = []
    pairs = list(bidirected)
    for cause, effect in edges:
        if effect in hidden:
            raise GraphError(
                f"latent node '{effect}' has the cause '{cause}': only a latent node without causes is turned into a bidirected "
                f"edge. Leave '{effect}' out and draw an edge from '{cause}' to what '{effect}' causes."
            )
        if cause in hidden:
            children[cause].append(effect)
        else:
            kept.append((cause, effect))
    for pair in pairs:
        for name in pair:
            if name in hidden:
                raise GraphError(
                    f"latent node '{name}' has a bidirected edge: join what it causes with bidirected edges instead."
                )
    known = {frozenset(pair) for pair in pairs}
    for effects in children.values():
        for pair in itertools.combinations(effects, 2):
            if frozenset(pair) not in known:  # two latent causes of the same pair are one bidirected edge
                known.add(frozenset(pair))
                pairs.append(pair)
            if len(pairs) > MAX_EDGES:
                raise GraphError(
                    f"the latent nodes stand for more than {MAX_EDGES:,} bidirected edges; at most that many are read."
                )
    seen = {name: fields for name, fields in nodes.items() if name not in hidden}
    if not seen:
        raise GraphError("the text names no node" + (f" but latent ones: {', '.join(hidden)}." if hidden else "."))
    return Sketch(seen, kept, pairs, about)


# Reading, in general

_FILE = re.compile(r"\S+\.(toml|dot|gv|gml|bif|dagitty|txt)")


class _Reader:
    """The tokens of a text with their places, and the graph as far as it is read.

    A token's kind is `word`, `quoted`, `number`, `end`, or the sign itself. `fresh` says that a line break precedes it.
    """

    def __init__(self, text: str, what: str, pattern: re.Pattern[str]) -> None:
        if not isinstance(text, str):
            raise GraphError(f"a {what} is text, not {type(text).__name__}.")
        if len(text) > MAX_TEXT:
            raise GraphError(f"the {what} is {len(text):,} characters long; at most {MAX_TEXT:,} are read.")
        if _FILE.fullmatch(text.strip()):
            raise GraphError(f"'{text.strip()}' is the name of a file, not a {what}: use load_graph('{text.strip()}').")
        self.text, self.what = text, what
        self.nodes: dict[str, dict[str, Any]] = {}
        self.edges: dict[Pair, None] = {}
        self.bidirected: dict[Pair, None] = {}
        self.latent: dict[str, None] = {}
        self.about: dict[str, str] = {}
        self.kinds: list[str] = []
        self.values: list[str] = []
        self.offsets: list[int] = []
        self.fresh: list[bool] = []
        self.place = 0
        fresh = True
        for match in pattern.finditer(text):
            group, value = match.lastgroup, match[0]
            if group == "skip":
                fresh = fresh or "\n" in value
                continue
            if group == "odd":
                raise self.error(self.odd(match.start()), match.start())
            self.kinds.append(value if group == "sign" else str(group))
            self.values.append(value)
            self.offsets.append(match.start())
            self.fresh.append(fresh)
            fresh = False
        self.kinds.append("end")
        self.values.append("")
        self.offsets.append(len(text))
        self.fresh.append(True)

    def odd(self, offset: int) -> str:
        """What is wrong with a character that begins no token."""
        sign = self.text[offset]
        if sign in "\"'":
            return "the quotation that begins here does not end."
        if self.text.startswith("/*", offset):
            return "the comment that begins here does not end."
        return f"{sign!r} has no meaning here. Names with other characters than letters, digits and _ need quotes."

    def error(self, problem: str, offset: int | None = None) -> GraphError:
        """An error that says where: at the offset, or at the token that comes next."""
        offset = self.offsets[self.place] if offset is None else offset
        line, column = self.text.count("\n", 0, offset) + 1, offset - self.text.rfind("\n", 0, offset)
        return GraphError(f"cannot read the {self.what}: line {line}, column {column}: {problem}")

    def unexpected(self, wanted: str) -> GraphError:
        """An error for the token that comes next."""
        found = "the text ends" if self.kind == "end" else f"there is {self.values[self.place]!r:.60}"
        return self.error(f"{found} where {wanted} should be.")

    @property
    def kind(self) -> str:
        """What the next token is."""
        return self.kinds[self.place]

    def accept(self, sign: str) -> bool:
        """Step over the sign if it comes next."""
        if self.kinds[self.place] == sign:
            self.place += 1
            return True
        return False

    def expect(self, sign: str) -> None:
        """Step over the sign, which must come next."""
        if not self.accept(sign):
            raise self.unexpected(f"'{sign}'")

    def word(self) -> str:
        """The next token in lower case if it is an unquoted word."""
        return self.values[self.place].lower() if self.kinds[self.place] == "word" else ""

    def add_node(self, name: str, offset: int) -> None:
        """A node is mentioned."""
        if name not in self.nodes:
            if not name:
                raise self.error("a name is empty.", offset)
            if len(self.nodes) >= MAX_NODES:
                raise self.error(f"there are more than {MAX_NODES:,} nodes; at most that many are read.", offset)
            self.nodes[name] = {}

    def add_field(self, name: str, key: str, value: Any, offset: int) -> None:
        """A field of a node is stated; twice is fine if it says the same."""
        fields = self.nodes[name]
        if fields.setdefault(key, value) != value:
            raise self.error(f"node '{name}' has {key} {fields[key]!r} and now {value!r}. Remove one of them.", offset)

    def add_edge(self, arrow: str, left: str, right: str, offset: int) -> None:
        """An edge is stated."""
        pair = (right, left) if arrow == "<-" else (left, right)
        edges = self.bidirected if arrow == "<->" else self.edges
        if pair in edges or (arrow == "<->" and pair[::-1] in edges):
            shown = f"{pair[0]} {'<->' if arrow == '<->' else '->'} {pair[1]}"
            raise self.error(f"the edge '{shown}' is stated twice. Remove one of them.", offset)
        edges[pair] = None
        if len(self.edges) + len(self.bidirected) > MAX_EDGES:
            raise self.error(f"there are more than {MAX_EDGES:,} edges; at most that many are read.", offset)

    def add_edges(self, arrow: str, lefts: Sequence[str], rights: Sequence[str], offset: int) -> None:
        """Edges from each to each, the causes of one effect together."""
        if len(lefts) * len(rights) > MAX_EDGES:
            raise self.error(f"there are more than {MAX_EDGES:,} edges; at most that many are read.", offset)
        for right in rights:
            for left in lefts:
                self.add_edge(arrow, left, right, offset)

    def sketch(self) -> Sketch:
        """What was read, latent nodes projected."""
        if not self.nodes:
            raise self.error("there is no node.", 0)
        return project(self.nodes, self.edges, self.bidirected, self.latent, self.about)

    def number(self, offset: int, value: str) -> int | float:
        """A whole number where there is no point, else a float."""
        try:
            return int(value) if re.fullmatch(r"[+-]?[0-9]+", value) else float(value)
        except ValueError:
            raise self.error(f"the number {value[:20]}... has too many digits.", offset) from None

    def checked(self, name: str, key: str, value: Any, offset: int) -> Any:
        """The value of a node's field, which has the form that the field needs."""
        if key in _TUPLES and not isinstance(value, tuple):
            example = {"support": "(18, 100)", "states": "(low, high)", "shape": "(1, 64, 64)"}[key]
            raise self.error(f"{key} of '{name}' is {value!r}: write {key}={example}.", offset)
        if key in _WORDS and not isinstance(value, str):
            raise self.error(f"{key} of '{name}' is {value!r}: write a word, in quotes where it is no plain one.", offset)
        return value


_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.])"
_COMMENT = r"//[^\n]*|/\*(?:[^*]|\*(?!/))*+\*/"


# Text, and dagitty

_TEXT = re.compile(
    rf"""(?P<skip>\s+|\#[^\n]*|{_COMMENT})|(?P<sign><->|->|<-|[{{}}\[\](),;=])|(?P<number>[+-]?(?:{_NUMBER}|inf(?![\w.])))"""
    r"""|(?P<word>[\w.]+)|(?P<quoted>"(?:[^"\\\n]|\\[^\n])*+"|'(?:[^'\\\n]|\\[^\n])*+')|(?P<odd>.)""",
    re.DOTALL,
)
_ARROWS = ("->", "<-", "<->")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "'": "'"}
_ASKED = ("exposure", "outcome", "adjusted")  # dagitty's marks of a question, no part of the graph
_OTHER_GRAPHS = {
    "digraph": "this is DOT: use from_dot",
    "strict": "this is DOT: use from_dot",
    "graph": "an undirected graph is not causal",
    "network": "this is BIF: use from_bif",
    **dict.fromkeys(("pdag", "mag", "pag"), "only a dag, its edges all directed or bidirected, is a causal graph here"),
}


class _TextReader(_Reader):
    def __init__(self, text: str, what: str = "graph text") -> None:
        super().__init__(text, what, _TEXT)

    def odd(self, offset: int) -> str:
        if self.text[offset] in "-@<>":
            return "an edge is written ->, <- or <->."
        return super().odd(offset).replace("digits and _", "digits, _ and .")

    def read(self) -> Sketch:
        wrapped = self.header()
        before = ""  # what stands before a comma
        while self.kind != ("}" if wrapped else "end"):
            if self.accept(";"):
                continue
            start = self.place
            sort = self.statement(wrapped)
            if before and sort != before:
                raise self.error(
                    "a comma joins edges with edges, or names with names. Write a group, as in 'a -> {b c}', or a semicolon.",
                    self.offsets[start],
                )
            before = ""
            if self.kind == ",":
                before = sort
                self.place += 1
                if self.kind in ("end", "}", ";", ","):
                    raise self.unexpected("a statement")
            elif not wrapped and self.kind not in (";", "end") and not self.fresh[self.place]:
                raise self.unexpected("an arrow, a semicolon or a new line")
        if wrapped:
            self.place += 1
            if self.kind != "end":
                raise self.unexpected("the end")
        return self.sketch()

    def header(self) -> bool:
        """Step over `dag {` or `dag name {`, if the text begins so."""
        named = len(self.kinds) > 2 and self.kinds[1] in ("word", "quoted") and self.kinds[2] == "{"
        if len(self.kinds) < 3 or not (named or self.kinds[1] == "{"):
            return False
        if self.word() in _OTHER_GRAPHS:
            raise self.error(f"{_OTHER_GRAPHS[self.word()]}.")
        if self.word() != "dag":
            return False
        self.place += 1
        if named:
            self.about["name"] = self.name()
        self.place += 1
        return True

    def statement(self, wrapped: bool) -> str:
        """One chain of edges, or one node with its annotation; says which."""
        if wrapped and self.word() == "bb" and self.kinds[self.place + 1] == "=":  # dagitty's bounding box
            self.place += 2
            self.scalar()
            return "name"
        offset = self.offsets[self.place]
        term = self.term()
        sort = "name"
        first = term
        while self.kind in _ARROWS:
            arrow, sort = self.kind, "edge"
            self.place += 1
            offset = self.offsets[self.place]
            following = self.term()
            self.add_edges(arrow, term, following, offset)
            term = following
        if self.accept("["):
            self.options(first if sort == "name" else (), offset)
        return sort

    def term(self) -> list[str]:
        """A name, or a group of names in braces."""
        if not self.accept("{"):
            return [self.mention()]
        names: list[str] = []
        while not self.accept("}"):
            if self.kind == "{":
                raise self.error("a group inside a group: a group holds names only.")
            if self.kind in _ARROWS:
                raise self.error("an edge inside a group: a group holds names only.")
            names.append(self.mention())
            while self.kind in (",", ";"):
                self.place += 1
        if not names:
            raise self.error("a group without names.", self.offsets[self.place - 1])
        return names

    def mention(self) -> str:
        offset = self.offsets[self.place]
        name = self.name()
        self.add_node(name, offset)
        return name

    def name(self) -> str:
        if self.kind not in ("word", "quoted", "number") or self.values[self.place][0] in "+-":
            raise self.unexpected("a name")
        return str(self.scalar(plain=True))

    def scalar(self, plain: bool = False) -> str | int | float:
        """A word, a quotation or, unless `plain`, a number."""
        kind, value, offset = self.kind, self.values[self.place], self.offsets[self.place]
        if kind not in ("word", "quoted", "number"):
            raise self.unexpected("a value")
        self.place += 1
        if kind == "number" and not plain:
            return self.number(offset, value)
        if kind != "quoted" or "\\" not in value:
            return value[1:-1] if kind == "quoted" else value

        def unescape(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES:
                raise self.error(f"\\{match[1]} is no escape. Write a backslash as \\\\.", offset + 1 + match.start())
            return _ESCAPES[match[1]]

        return re.sub(r"\\(.)", unescape, value[1:-1], flags=re.DOTALL)

    def value(self) -> Any:
        """A scalar, or several in parentheses."""
        if not self.accept("("):
            return self.scalar()
        values = []
        while not self.accept(")"):
            values.append(self.scalar())
            if not self.accept(",") and self.kind != ")":
                raise self.unexpected("a comma or ')'")
        return tuple(values)

    def options(self, names: Sequence[str], edge: int) -> None:
        """An annotation in brackets, of these nodes or, without names, of an edge."""
        while not self.accept("]"):
            offset = self.offsets[self.place]
            if self.kind != "word":
                raise self.unexpected("a word")
            key = self.values[self.place]
            self.place += 1
            value = self.value() if self.accept("=") else None
            if not names:
                if key not in ("beta", "pos"):
                    raise self.error(
                        f"'{key}' is said of an edge. Annotate a node in a statement of its own: 'age [{key}]'.", offset
                    )
            else:
                self.option(names, key, value, offset)
            while self.kind in (",", ";"):
                self.place += 1

    def option(self, names: Sequence[str], key: str, value: Any, offset: int) -> None:
        if value is None and key in _KINDS:
            key, value = "kind", key
        if value is None and key == "latent":
            self.latent |= dict.fromkeys(names)
        elif (value is None and key in _ASKED) or (value is not None and key == "pos"):
            return
        elif value is not None and key in (*_WORDS, *_TUPLES):
            for name in names:
                self.add_field(name, key, self.checked(name, key, value, offset), offset)
        else:
            form = f"{key}={value!r}" if value is not None else key
            raise self.error(
                f"the annotation '{form}' is unknown. There are: {', '.join(_KINDS)}, latent, {', '.join(_ASKED)}, "
                f"and with a value {', '.join((*_WORDS, *_TUPLES))}.",
                offset,
            )


def read_text(text: str, what: str = "graph text") -> Sketch:
    """A graph in causalcf's own notation or in dagitty's.

    One statement a line, or several separated by semicolons: a chain of `->`, `<-`, `<->` between names or groups `{a b}`, or
    a name with an annotation. A name of other characters than letters, digits, `_` and `.` stands in quotes, with the escapes
    `\\\\`, `\\"`, `\\'`, `\\n`, `\\r`, `\\t`. A comma may join edges with edges or names with names. Comments are `#`, `//` and
    `/* */`. With `dag { ... }` around it, white space separates statements, as in dagitty.

    Annotations of a node: its kind, `unit=`, `description=`, `support=(low, high)`, `states=(a, b)`, `shape=(1, 64, 64)`, and
    `latent`. dagitty's `exposure`, `outcome`, `adjusted`, `pos`, `bb` and `beta` are stepped over: they are no part of a graph.

    Raises:
        GraphError: anything else, with line and column.

    Example:
        >>> sketch = read_text("{Z W} -> T -> Y; T <-> Y; Y [binary]")
        >>> sketch.edges
        [('Z', 'T'), ('W', 'T'), ('T', 'Y')]
        >>> sketch.bidirected, sketch.nodes["Y"]
        ([('T', 'Y')], {'kind': 'binary'})
    """
    return _TextReader(text, what).read()


# DOT

_DOT = re.compile(
    rf"""(?P<skip>(?:\A|\n)[^\S\n]*+\#[^\n]*|[^\S\n]+|\n|{_COMMENT})|(?P<sign>->|--|[{{}}\[\];,=:+])"""
    rf"""|(?P<number>-?{_NUMBER})|(?P<word>[^\W\d]\w*)|(?P<quoted>"(?:[^"\\]|\\.)*+")|(?P<odd>.)""",
    re.DOTALL,
)
# every attribute that Graphviz documents (https://graphviz.org/doc/info/attrs.html), less those that change an arrow
_STYLE = frozenset(
    """_background area arrowsize bb beautify bgcolor center charset class cluster clusterrank color colorscheme comment compound
    concentrate constraint damping decorate defaultdist dim dimen diredgeconstraints distortion dpi edgehref edgetarget
    edgetooltip edgeurl epsilon esep fillcolor fixedsize fontcolor fontname fontnames fontpath fontsize forcelabels gradientangle
    group head_lp headclip headhref headlabel headport headtarget headtooltip headurl height href id image imagepath imagepos
    imagescale inputscale k label label_scheme labelangle labeldistance labelfloat labelfontcolor labelfontname labelfontsize
    labelhref labeljust labelloc labeltarget labeltooltip labelurl landscape layer layerlistsep layers layerselect layersep
    layout len levels levelsgap lhead lheight linelength lp ltail lwidth margin maxiter mclimit mindist minlen mode model
    newrank nodesep nojustify normalize notranslate nslimit nslimit1 oneblock ordering orientation outputorder overlap
    overlap_scaling overlap_shrink pack packmode pad page pagedir pencolor penwidth peripheries pin pos quadtree quantum
    radius rank rankdir ranksep ratio rects regular remincross repulsiveforce resolution root rotate rotation samehead sametail
    samplepoints scale searchsize sep shape shapefile showboxes sides size skew smoothing sortv splines start style
    stylesheet tail_lp tailclip tailhref taillabel tailport tailtarget tailtooltip tailurl target tbbalance tooltip
    truecolor url vertices viewport voro_margin weight width xdotversion xlabel xlp z""".split()  # noqa: SIM905
)
_OWN = ("kind", "unit", "description", "support", "states", "image_shape", "latent")  # what DOT says of a node here
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")
_Attributes = dict[str, tuple[str, int]]  # name to value and offset


@dataclass
class _Scope:
    """A graph or subgraph that is open."""

    node: _Attributes
    edge: _Attributes
    members: dict[str, None] = field(default_factory=dict)
    chain: list[list[str]] = field(default_factory=list)
    group: bool = False  # the last of the chain is a subgraph
    waiting: bool = False  # an arrow was read, what it points to was not
    opened: int = 0


class _DotReader(_Reader):
    def __init__(self, text: str) -> None:
        super().__init__(text, "DOT text", _DOT)
        self.strict = False
        self.usual: dict[str, set[str]] = {}  # of a node, what only a default has said so far
        self.hides: dict[str, bool] = {}  # whether a node is latent, where it was said

    def odd(self, offset: int) -> str:
        if self.text[offset] == "<":
            return "'<' has no meaning here: an edge is written '->', and HTML labels are not read."
        return super().odd(offset)

    def read(self) -> Sketch:
        if self.word() == "strict":
            self.strict = True
            self.place += 1
        if self.word() != "digraph":
            raise self.error("a causal graph is a 'digraph', its edges written '->'.")
        self.place += 1
        if self.kind != "{":
            self.about["name"] = self.identifier()
        self.expect("{")
        scopes = [_Scope({}, {}, opened=self.offsets[self.place - 1])]
        while scopes:
            scope = scopes[-1]
            if self.kind == "end":
                raise self.error("the brace that begins here is not closed.", scope.opened)
            if self.kind in ("{", "word") and self.opens():
                if len(scopes) >= _MAX_DEPTH:
                    raise self.error(f"subgraphs are nested more than {_MAX_DEPTH} deep.")
                scopes.append(_Scope(dict(scope.node), dict(scope.edge), opened=self.offsets[self.place - 1]))
            elif scope.waiting and self.kind not in ("word", "quoted", "number"):
                raise self.unexpected("a name")
            elif self.accept("}"):
                scopes.pop()
                if scopes:
                    scopes[-1].members |= scope.members
                    self.operand(scopes[-1], list(scope.members), group=True)
            elif not self.accept(";"):
                self.statement(scope, outermost=len(scopes) == 1)
        if self.kind != "end":
            raise self.unexpected("the end")
        return self.sketch()

    def opens(self) -> bool:
        """Step over `{`, `subgraph {` or `subgraph name {`."""
        if self.word() == "subgraph":
            self.place += 1
            if self.kind != "{":
                self.identifier()
            self.expect("{")
            return True
        return self.accept("{")

    def statement(self, scope: _Scope, outermost: bool) -> None:
        keyword = self.word()
        if keyword in ("graph", "node", "edge") and not scope.waiting:
            self.place += 1
            if self.kind != "[":
                raise self.unexpected("'['")
            attributes = self.attributes()
            if keyword == "graph":
                self.describe(attributes, outermost)
            else:
                (scope.node if keyword == "node" else scope.edge).update(attributes)
            return
        offset = self.offsets[self.place]
        name = self.identifier()
        if self.kind == "=" and not scope.waiting:
            self.place += 1
            self.describe({name: (self.identifier(), offset)}, outermost)
            return
        if name not in self.nodes:
            self.add_node(name, offset)
            self.annotate(name, scope.node)
            self.usual[name] = {*self.nodes[name], *(("latent",) if name in self.hides else ())}
        scope.members[name] = None
        self.operand(scope, [name], group=False)

    def operand(self, scope: _Scope, names: list[str], group: bool) -> None:
        """A name or a subgraph was read: an edge to it, and what follows it."""
        offset = self.offsets[self.place - 1]
        if scope.waiting and not names:
            raise self.error("an edge to a subgraph without nodes.", offset)
        scope.chain.append(names)
        scope.waiting = False
        if self.kind == ":":
            raise self.error("ports are not read. If the colon is a part of the name, put the name in quotes.")
        if self.kind == "--":
            raise self.error("'--' is an undirected edge. Write '->', or '->' with [dir=both] for a latent common cause.")
        if self.accept("->"):
            if not names:
                raise self.error("an edge from a subgraph without nodes.", offset)
            scope.waiting = True
            return
        attributes = self.attributes() if self.kind == "[" else {}
        if len(scope.chain) > 1:
            arrow = self.arrow({**scope.edge, **attributes})
            for lefts, rights in itertools.pairwise(scope.chain):
                self.add_edges(arrow, lefts, rights, offset)
        elif group and attributes:
            raise self.error("a subgraph with attributes of its own: write them inside it, as in 'graph [...]'.", offset)
        elif attributes:
            self.annotate(names[0], attributes)
        scope.chain = []

    def add_edge(self, arrow: str, left: str, right: str, offset: int) -> None:
        known = (left, right) in (self.edges if arrow == "->" else self.bidirected)
        if not (known and self.strict):  # in a strict graph, an edge that is stated twice is one edge
            super().add_edge(arrow, left, right, offset)

    def identifier(self) -> str:
        """A word, a number or a quotation."""
        kind, value = self.kind, self.values[self.place]
        if kind not in ("word", "quoted", "number"):
            raise self.unexpected("a name")
        if self.word() in ("graph", "digraph", "node", "edge", "subgraph", "strict"):
            raise self.error(f"'{value}' is a word of DOT itself. A node of this name needs quotes.")
        self.place += 1
        if self.kind == "+":
            raise self.error("quotations joined by '+' are not read: write one.")
        if kind != "quoted":
            return value
        return re.sub(r"\\(\n|[\\\"])", lambda match: match[1].strip("\n"), value[1:-1])

    def attributes(self) -> _Attributes:
        """One or several lists in brackets."""
        found: _Attributes = {}
        while self.accept("["):
            while not self.accept("]"):
                offset = self.offsets[self.place]
                name = self.identifier()
                self.expect("=")
                found[name] = (self.identifier(), offset)
                while self.kind in (",", ";"):
                    self.place += 1
        return found

    def describe(self, attributes: _Attributes, outermost: bool) -> None:
        """Attributes of the graph."""
        for key, (value, offset) in attributes.items():
            if outermost and key in _ABOUT:
                self.about[key] = value
            elif key.lower() not in _STYLE:
                raise self.error(
                    f"the graph attribute '{key}' is unknown. There are: {', '.join(_ABOUT)}, and Graphviz' own.", offset
                )

    def annotate(self, name: str, attributes: _Attributes) -> None:
        """Attributes of a node; its own go before those of `node [...]`."""
        usual = self.usual.get(name, set())
        for key, (value, offset) in attributes.items():
            if key not in _OWN:
                if key.lower() not in _STYLE:
                    known = ", ".join(_OWN)
                    raise self.error(f"the node attribute '{key}' is unknown. There are: {known}, and Graphviz' own.", offset)
                continue
            said = key.removeprefix("image_")
            if said in usual:
                usual.remove(said)
                self.nodes[name].pop(said, None)
                if said == "latent":
                    del self.hides[name]
            if key == "latent":
                self.hide(name, value, offset)
            elif key in _WORDS:
                self.add_field(name, key, value, offset)
            else:
                self.add_field(name, said, self.checked(name, said, self.values_of(value, offset), offset), offset)

    def hide(self, name: str, value: str, offset: int) -> None:
        """A node is said to be latent, or not to be."""
        if value.lower() not in (*_TRUE, *_FALSE):
            raise self.error(f"latent={value!r}: write true or false.", offset)
        hidden = value.lower() in _TRUE
        if self.hides.setdefault(name, hidden) != hidden:
            before = "observed" if hidden else "latent"
            raise self.error(f"node '{name}' is {before} and now latent={value}. Remove one of them.", offset)
        if hidden:
            self.latent[name] = None
        else:
            self.latent.pop(name, None)

    def values_of(self, value: str, offset: int) -> Any:
        """Several values in parentheses, written as in text."""
        try:
            reader = _TextReader(value or " ")
            values = reader.value()
            if reader.kind != "end":
                raise reader.unexpected("the end")
        except GraphError:
            raise self.error(f"{value!r} is no list of values. Write one as \"(18, 100)\" or \"('a', 'b')\".", offset) from None
        return values

    def arrow(self, attributes: _Attributes) -> str:
        """What the attributes of an edge make of it."""
        arrow = "->"
        for key, (value, offset) in attributes.items():
            if key == "dir":
                if value not in ("forward", "both"):
                    raise self.error(f"dir={value}: turn the edge round, or write dir=both for a latent common cause.", offset)
                arrow = "<->" if value == "both" else "->"
            elif key in ("arrowhead", "arrowtail"):
                if "none" in value:
                    raise self.error(f"{key}={value} takes the arrow off: an edge of a causal graph has one.", offset)
            elif key.lower() not in _STYLE:
                raise self.error(f"the edge attribute '{key}' is unknown. There are: dir, and Graphviz' own.", offset)
        return arrow


def read_dot(text: str) -> Sketch:
    """A graph in Graphviz' DOT language: a `digraph`, with subgraphs, chains, defaults and comments.

    `dir=both` makes an edge bidirected, `latent=true` a node latent. Of a node, `kind`, `unit`, `description`,
    `support="(0, 1)"`, `states="('a', 'b')"` and `image_shape="(1, 64, 64)"` are read, of the graph `title`, `reference` and
    `assumes`; what Graphviz itself documents is style, which is stepped over. Ports, HTML labels, joined quotations and
    undirected edges are refused.

    Raises:
        GraphError: anything else, with line and column.

    Example:
        >>> read_dot("digraph { subgraph s { a -> b } {a b} -> c; a -> d [dir=both] }").edges
        [('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    return _DotReader(text).read()


# GML

_GML = re.compile(
    rf"""(?P<skip>(?:\A|\n)[^\S\n]*+\#[^\n]*|[^\S\n]+|\n)|(?P<sign>[\[\]])|(?P<number>[+-]?(?:{_NUMBER})|[+-]INF(?!\w))"""
    r"""|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<quoted>"[^"]*+")|(?P<odd>.)""",
    re.DOTALL,
)
_ENTITY = re.compile(r"&(?:#([0-9]{1,7})|#x([0-9A-Fa-f]{1,6})|([A-Za-z]{1,10}));")
_GML_LAYOUT = ("graphics", "LabelGraphics", "comment", "weight", "value", "width", "key")
_GML_ABOUT = ("Creator", "Version", "comment", "hierarchic", "label", "isPlanar", "id", "multigraph", "graphics")


def _unescaped(match: re.Match[str]) -> str:
    """The character that an entity stands for; what is no entity stays as it is."""
    decimal, sixteen, name = match.groups()
    code = int(decimal) if decimal else int(sixteen, 16) if sixteen else name2codepoint.get(name, -1)
    return chr(code) if 0 <= code <= 0x10FFFF else match[0]


@dataclass
class _Item:
    """A key with its value: a number, a text, or the items between brackets."""

    key: str
    offset: int
    value: Any


class _GmlReader(_Reader):
    def __init__(self, text: str) -> None:
        super().__init__(text, "GML text", _GML)

    def read(self) -> Sketch:
        graphs = [item for item in self.items() if self.known(item, ("graph",), _GML_ABOUT, "file")]
        if len(graphs) != 1 or not isinstance(graphs[0].value, list):
            raise self.error("there should be one 'graph [ ... ]'.", 0 if len(graphs) < 2 else graphs[1].offset)
        ids: dict[str | int, str] = {}
        edges: list[_Item] = []
        directed = False
        for item in graphs[0].value:
            if not self.known(item, ("directed", "node", "edge", "name", *_ABOUT), _GML_ABOUT, "graph"):
                continue
            if item.key == "directed":
                directed = item.value == 1
            elif item.key == "node":
                self.node(item, ids)
            elif item.key == "edge":
                edges.append(item)
            elif self.about.setdefault(item.key, self.text_of(item)) != item.value:
                raise self.error(f"the graph has two values for {item.key}.", item.offset)
        if not directed:
            raise self.error("a causal graph is directed: it should say 'directed 1'.", graphs[0].offset)
        for item in edges:
            self.edge(item, ids)
        return self.sketch()

    def items(self) -> list[_Item]:
        """The whole text as a tree, without recursion."""
        outermost: list[_Item] = []
        stack: list[tuple[list[_Item], int]] = [(outermost, 0)]
        while self.kind != "end":
            offset = self.offsets[self.place]
            if self.accept("]"):
                if len(stack) == 1:
                    raise self.error("a bracket is closed that was not opened.", offset)
                stack.pop()
                continue
            if self.kind != "word":
                raise self.unexpected("a key")
            item = _Item(self.values[self.place], offset, None)
            self.place += 1
            kind, value = self.kind, self.values[self.place]
            if kind == "[":
                if len(stack) >= _MAX_DEPTH:
                    raise self.error(f"brackets are nested more than {_MAX_DEPTH} deep.")
                item.value = []
                stack.append((item.value, self.offsets[self.place]))
                stack[-2][0].append(item)
            elif kind == "quoted":
                item.value = _ENTITY.sub(_unescaped, value[1:-1])
                stack[-1][0].append(item)
            elif kind == "number":
                item.value = self.number(self.offsets[self.place], value)
                stack[-1][0].append(item)
            else:
                raise self.unexpected(f"a value of '{item.key}'")
            self.place += 1
        if len(stack) > 1:
            raise self.error("the bracket that begins here is not closed.", stack[-1][1])
        return outermost

    def known(self, item: _Item, keys: Sequence[str], skipped: Sequence[str], where: str) -> bool:
        """Whether the key is of use; one that is neither of use nor layout is an error."""
        if item.key in keys:
            return True
        if item.key in skipped:
            return False
        raise self.error(f"the key '{item.key}' of a {where} is unknown. There are: {', '.join(keys)}.", item.offset)

    def text_of(self, item: _Item) -> str:
        if not isinstance(item.value, str):
            raise self.error(f"'{item.key}' takes a text in quotes.", item.offset)
        return item.value

    def identity(self, item: _Item) -> str | int:
        if not isinstance(item.value, str | int):
            raise self.error(f"'{item.key}' takes a number.", item.offset)
        return item.value

    def fields(self, item: _Item, keys: Sequence[str], where: str) -> dict[str, list[_Item]]:
        """The items between brackets by key; only a tuple's may repeat."""
        if not isinstance(item.value, list):
            raise self.error(f"'{where}' takes items in brackets.", item.offset)
        found: dict[str, list[_Item]] = {}
        for inner in item.value:
            if self.known(inner, keys, _GML_LAYOUT, where):
                found.setdefault(inner.key, []).append(inner)
                if len(found[inner.key]) > 1 and inner.key not in _TUPLES:
                    raise self.error(f"'{inner.key}' stands twice.", inner.offset)
        return found

    def node(self, item: _Item, ids: dict[str | int, str]) -> None:
        found = self.fields(item, ("id", "label", "name", "latent", *_WORDS, *_TUPLES), "node")
        missing = "id" if "id" not in found else "label" if not {"label", "name"} & set(found) else ""
        if missing:
            raise self.error(f"the node has no {missing}.", item.offset)
        name = self.text_of((found.get("label") or found["name"])[0])
        number = self.identity(found["id"][0])
        if number in ids or name in self.nodes:
            raise self.error(f"there are two nodes with id {number!r} or label '{name}'.", item.offset)
        ids[number] = name
        self.add_node(name, item.offset)
        if "latent" in found:
            if found["latent"][0].value not in (0, 1):
                raise self.error("'latent' takes 0 or 1.", found["latent"][0].offset)
            if found["latent"][0].value == 1:
                self.latent[name] = None
        for key in _WORDS:
            if key in found:
                self.add_field(name, key, self.text_of(found[key][0]), item.offset)
        for key in _TUPLES:
            if key in found:
                wrong = [inner for inner in found[key] if isinstance(inner.value, list)]
                if wrong:
                    raise self.error(f"'{key}' repeats, once a value: '{key} 1 {key} 2'.", wrong[0].offset)
                self.add_field(name, key, tuple(inner.value for inner in found[key]), item.offset)

    def edge(self, item: _Item, ids: dict[str | int, str]) -> None:
        found = self.fields(item, ("source", "target", "label"), "edge")
        ends = []
        for key in ("source", "target"):
            if key not in found:
                raise self.error(f"the edge has no {key}.", item.offset)
            end = self.identity(found[key][0])
            if end not in ids:
                raise self.error(f"the edge's {key} is {end!r}, which is no node's id.", found[key][0].offset)
            ends.append(ids[end])
        self.add_edge("->", ends[0], ends[1], item.offset)


def read_gml(text: str) -> Sketch:
    """A graph in GML: `graph [ directed 1 node [ id 0 label "a" ] edge [ source 0 target 1 ] ]`.

    A node's name is its `label`, or its `name` without one. `kind`, `unit`, `description` and, once a value, `support`, `states`
    and `shape` are read; `latent 1` marks a latent node, and stands for a bidirected edge between what it causes. Layout and
    weights are stepped over.

    Raises:
        GraphError: anything else, with line and column.

    Example:
        >>> read_gml('graph [ directed 1 node [ id 0 label "a" ] node [ id 1 label "b" ] edge [ source 0 target 1 ] ]').edges
        [('a', 'b')]
    """
    return _GmlReader(text).read()


# BIF

_BIF = re.compile(
    rf"""(?P<skip>\s+|{_COMMENT})|(?P<sign>[{{}}()\[\],;|])|(?P<quoted>"[^"\n]*+")"""
    r"""|(?P<word>(?:(?!//|/\*)[^\s{}()\[\],;|"])++)|(?P<odd>.)""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Table:
    """A discrete variable with its conditional probabilities.

    Args:
        name: of the variable.
        states: its labels.
        parents: its causes, in the order of the table's axes.
        table: P(state | parents), (first parent's states, ..., last parent's states, own states), float64.
    """

    name: str
    states: tuple[str, ...]
    parents: tuple[str, ...]
    table: NDArray[np.float64]


class _BifReader(_Reader):
    def __init__(self, text: str) -> None:
        super().__init__(text, "BIF text", _BIF)
        self.states: dict[str, tuple[str, ...]] = {}
        self.tables: dict[str, Table] = {}
        self.cells = 0

    def odd(self, offset: int) -> str:
        return super().odd(offset).split(" Names")[0]

    def read(self) -> list[Table]:
        if self.word() != "network":
            raise self.error("a BIF text begins with 'network'.")
        blocks: list[int] = []
        while self.kind != "end":
            offset, keyword = self.place, self.word()
            if keyword not in ("network", "variable", "probability") or (keyword == "network" and offset):
                raise self.unexpected("'variable' or 'probability'")
            self.place += 1
            if keyword == "variable":
                self.variable()
            elif keyword == "network":
                self.about["name"] = self.label()
                self.properties()
            else:  # a table needs the states of its parents, which may come later
                blocks.append(self.place)
                self.skip()
        for place in blocks:
            self.place = place
            self.probability()
        if missing := [name for name in self.states if name not in self.tables]:
            raise self.error(f"variable '{missing[0]}' has no probabilities. Is the text complete?", len(self.text))
        if not self.states:
            raise self.error("there is no variable.", len(self.text))
        return [self.tables[name] for name in self.states]

    def label(self) -> str:
        if self.kind not in ("word", "quoted"):
            raise self.unexpected("a name")
        value = self.values[self.place]
        self.place += 1
        return value.strip('"')

    def properties(self) -> None:
        """A block of nothing but properties, which are free text."""
        self.expect("{")
        while not self.accept("}"):
            self.property()

    def property(self) -> None:
        if self.word() != "property":
            raise self.unexpected("'property' or '}'")
        while not self.accept(";"):
            if self.kind in ("end", "{", "}"):
                raise self.unexpected("';'")
            self.place += 1

    def skip(self) -> None:
        """Step over a block, to its closing brace."""
        opened = self.offsets[self.place - 1]
        while not self.accept("}"):
            if self.kind == "end":
                raise self.error("the block that begins here is not closed. Is the text complete?", opened)
            self.place += 1

    def variable(self) -> None:
        offset = self.offsets[self.place]
        name = self.label()
        if name in self.states:
            raise self.error(f"variable '{name}' is declared twice.", offset)
        if len(self.states) >= MAX_NODES:
            raise self.error(f"there are more than {MAX_NODES:,} variables; at most that many are read.", offset)
        self.expect("{")
        states: tuple[str, ...] = ()
        while not self.accept("}"):
            if self.word() != "type":
                self.property()
                continue
            at = self.offsets[self.place]
            self.place += 1
            if self.word() != "discrete" or states:
                raise self.error(f"variable '{name}' should have one 'type discrete'.", at)
            self.place += 1
            self.expect("[")
            count = self.label()
            self.expect("]")
            states = self.labels("{", "}")
            self.expect(";")
            if not count.isdecimal() or int(count) != len(states) or len(states) < 2 or len(set(states)) != len(states):
                raise self.error(f"variable '{name}' announces {count} states and lists {', '.join(states) or 'none'}.", at)
        if not states:
            raise self.error(f"variable '{name}' has no 'type discrete [n] {{ ... }};'.", offset)
        self.states[name] = states

    def labels(self, opening: str, closing: str) -> tuple[str, ...]:
        self.expect(opening)
        found = []
        while not self.accept(closing):
            found.append(self.label())
            self.accept(",")
        return tuple(found)

    def probability(self) -> None:
        offset = self.offsets[self.place]
        self.expect("(")
        name = self.label()
        parents = []
        if not self.accept("|"):  # the format takes bars and commas for white space: the first name is the variable all the same
            self.accept(",")
        while not self.accept(")"):
            parents.append(self.label())
            self.accept(",")
        for variable in (name, *parents):
            if variable not in self.states:
                raise self.error(f"'{variable}' is no variable of the network.", offset)
        if name in self.tables:
            raise self.error(f"variable '{name}' has two probability blocks.", offset)
        if len({name, *parents}) != len(parents) + 1:
            raise self.error(f"the probabilities of '{name}' name a variable twice.", offset)
        shape = [len(self.states[parent]) for parent in parents]
        width = len(self.states[name])
        self.cells += math.prod(shape) * width
        if self.cells > _MAX_CELLS or len(parents) > 30:
            raise self.error(f"the tables hold more than {_MAX_CELLS:,} probabilities; at most that many are read.", offset)
        table = self.body(name, parents, shape, width, offset)
        missing = np.argwhere(np.isnan(table[..., 0]))
        wrong = np.argwhere(~(np.abs(table.sum(-1) - 1) <= 1e-6))
        for rows, problem in ((missing, "are missing"), (wrong, "do not sum to 1")):
            if len(rows):
                given = ", ".join(f"{parent}={self.states[parent][at]}" for parent, at in zip(parents, rows[0], strict=True))
                total = f" but to {table[tuple(rows[0])].sum():g}" if rows is wrong else ""
                raise self.error(f"the probabilities of '{name}'{f' given {given}' if given else ''} {problem}{total}.", offset)
        for parent in parents:
            self.add_edge("->", parent, name, offset)
        self.tables[name] = Table(name, self.states[name], tuple(parents), table)

    def body(self, name: str, parents: list[str], shape: list[int], width: int, offset: int) -> NDArray[np.float64]:
        """The block's rows as an array; what no row states is NaN, or the default."""
        table = np.full((*shape, width), np.nan)
        places = [{state: place for place, state in enumerate(self.states[parent])} for parent in parents]
        default: list[float] | None = None
        stated = False
        self.expect("{")
        while not self.accept("}"):
            at = self.offsets[self.place]
            if self.kind == "(":
                labels = self.labels("(", ")")
                if len(labels) != len(parents) or any(label not in place for label, place in zip(labels, places, strict=True)):
                    raise self.error(f"({', '.join(labels)}) are no states of {', '.join(parents) or 'no parents'}.", at)
                row = tuple(place[label] for label, place in zip(labels, places, strict=True))
                if stated or not np.isnan(table[row]).all():
                    raise self.error(f"the probabilities of '{name}' given ({', '.join(labels)}) stand twice.", at)
                table[row] = self.numbers(width)
            elif self.word() == "default" and default is None:
                self.place += 1
                default = self.numbers(width)
            elif self.word() == "table" and not stated and np.isnan(table).all():
                self.place += 1
                flat = np.array(self.numbers(table.size))
                # the variable itself changes slowest, its last parent fastest
                table, stated = np.ascontiguousarray(np.moveaxis(flat.reshape(width, *shape), 0, -1)), True
            else:
                self.property()
        if default is not None:
            table[np.isnan(table[..., 0])] = default
        return table

    def numbers(self, count: int) -> list[float]:
        """So many probabilities, to the semicolon."""
        found = []
        start = self.offsets[self.place]
        while not self.accept(";"):
            value = self.values[self.place]
            if self.kind != "word" or not re.fullmatch(r"\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", value):
                raise self.unexpected("a probability or ';'")
            if not float(value) <= 1 + 1e-6:
                raise self.unexpected("a probability, 0 to 1,")
            found.append(float(value))
            self.place += 1
            self.accept(",")
        if len(found) != count:
            raise self.error(f"there are {len(found)} probabilities where {count} should be.", start)
        return found


def read_bif(text: str) -> list[Table]:
    """The variables of a Bayesian network in BIF, with their probabilities, in the order of declaration.

    Rows `(a, b) 0.1, 0.9;`, `table` (the variable itself changing slowest) and `default` are read; properties are stepped over.
    Every combination of parents' states must have probabilities, and they must sum to 1 within 1e-6.

    Raises:
        GraphError: anything else, with line and column; a text that was cut off among it.

    Example:
        >>> rain, wet = read_bif('''network n { }
        ... variable wet { type discrete [2] { yes, no }; }
        ... variable rain { type discrete [2] { yes, no }; }
        ... probability ( rain ) { table 0.2, 0.8; }
        ... probability ( wet | rain ) { (yes) 0.9, 0.1; (no) 0.0, 1.0; }''')[::-1]
        >>> wet.parents, wet.table.tolist()
        (('rain',), [[0.9, 0.1], [0.0, 1.0]])
    """
    return _BifReader(text).read()


# Writing

_PLAIN = re.compile(r"[^\W\d]\w*")
_BACK = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def _quoted(word: str, mark: str = '"') -> str:
    return mark + "".join(_BACK.get(sign, f"\\{sign}" if sign == mark else sign) for sign in word) + mark


def _name(name: str) -> str:
    return name if re.fullmatch(r"[\w.]+", name) else _quoted(name)


def _scalar(value: str | float, mark: str = '"') -> str:
    """A value as the text reader reads it; a whole number without a point."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value != "inf" else _quoted(value, mark)
    return str(int(value)) if isinstance(value, int) or (abs(value) < 1e15 and value.is_integer()) else repr(value)


def _tuple(values: Iterable[str | float], mark: str = '"') -> str:
    return f"({', '.join(_scalar(value, mark) for value in values)})"


def _grouped(sketch: Sketch) -> dict[str, list[str]]:
    """The causes of every effect."""
    causes: dict[str, list[str]] = {}
    for cause, effect in sketch.edges:
        causes.setdefault(effect, []).append(cause)
    return causes


def write_text(sketch: Sketch) -> str:
    """The graph in causalcf's own notation, which `read_text` reads back; title, reference and assumes have no place in it."""
    lines = []
    for name, fields in sketch.nodes.items():
        notes = [str(fields["kind"])]
        notes += [f"{key}={_scalar(fields[key])}" for key in ("unit", "description") if key in fields]
        notes += [f"{key}={_tuple(fields[key])}" for key in _TUPLES if key in fields]
        lines.append(f"{_name(name)} [{', '.join(notes)}]")
    for effect, causes in _grouped(sketch).items():
        names = " ".join(map(_name, causes))
        lines.append(f"{f'{{{names}}}' if len(causes) > 1 else names} -> {_name(effect)}")
    lines += [f"{_name(a)} <-> {_name(b)}" for a, b in sketch.bidirected]
    return "\n".join(lines) + "\n"


def write_dagitty(sketch: Sketch) -> str:
    """The graph for dagitty (https://www.dagitty.net): names and edges, nothing else.

    Raises:
        GraphError: a name with a backslash or a control character, which dagitty cannot hold.
    """

    def name(word: str) -> str:
        if re.search(r"[\x00-\x1f\x7f\\]", word):
            raise GraphError(f"dagitty cannot hold the name {word!r}: rename the node, or write another format.")
        return word if re.fullmatch(r"[0-9A-Za-z_.]+", word) else _quoted(word)

    lines = [name(word) for word in sketch.nodes]
    lines += [f"{name(cause)} -> {name(effect)}" for effect, causes in _grouped(sketch).items() for cause in causes]
    lines += [f"{name(a)} <-> {name(b)}" for a, b in sketch.bidirected]
    return "\n".join(["dag {", *lines, "}"]) + "\n"


def _dot(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_dot(sketch: Sketch) -> str:
    """The graph in DOT, which `read_dot` reads back and Graphviz draws; a bidirected edge is dashed and has two heads."""
    lines = [f"digraph {_dot(sketch.about.get('name', 'graph'))} {{"]
    lines += [f"  {key}={_dot(sketch.about[key])};" for key in _ABOUT if key in sketch.about]
    for name, fields in sketch.nodes.items():
        notes = [f"{key}={_dot(fields[key])}" for key in _WORDS if key in fields]
        notes += [
            f"{'image_shape' if key == 'shape' else key}={_dot(_tuple(fields[key], chr(39)))}" for key in _TUPLES if key in fields
        ]
        lines.append(f"  {_dot(name)} [{', '.join(notes)}];")
    lines += [f"  {_dot(cause)} -> {_dot(effect)};" for effect, causes in _grouped(sketch).items() for cause in causes]
    lines += [f"  {_dot(a)} -> {_dot(b)} [dir=both, style=dashed];" for a, b in sketch.bidirected]
    return "\n".join([*lines, "}"]) + "\n"


def _gml(value: str | float) -> str:
    if isinstance(value, str):
        return '"' + re.sub(r'[^ -~]|[&"]', lambda match: f"&#{ord(match[0])};", value) + '"'
    if isinstance(value, float) and math.isinf(value):
        return "+INF" if value > 0 else "-INF"
    text = repr(value)
    return text if isinstance(value, int) or "." in text else text.replace("e", ".0e")  # GML knows a real by its point


def write_gml(sketch: Sketch) -> str:
    """The graph in GML, which `read_gml` reads back; a bidirected edge is a latent node with two effects.

    So written, a program that does not know of bidirected edges still sees the common cause.
    """
    ids = {name: number for number, name in enumerate(sketch.nodes)}
    lines = ["graph [", "  directed 1"]
    lines += [f"  {key} {_gml(sketch.about[key])}" for key in ("name", *_ABOUT) if key in sketch.about]
    for name, fields in sketch.nodes.items():
        notes = [f"{key} {_gml(fields[key])}" for key in _WORDS if key in fields]
        notes += [f"{key} {_gml(value)}" for key in _TUPLES if key in fields for value in fields[key]]
        lines.append(f"  node [ id {ids[name]} label {_gml(name)} {' '.join(notes)} ]")
    latent = latent_names(sketch)
    lines += [f"  node [ id {number} label {_gml(name)} latent 1 ]" for number, name in enumerate(latent, len(ids))]
    lines += [
        f"  edge [ source {ids[cause]} target {ids[effect]} ]" for effect, causes in _grouped(sketch).items() for cause in causes
    ]
    for number, pair in enumerate(latent.values(), len(ids)):
        lines += [f"  edge [ source {number} target {ids[name]} ]" for name in pair]
    return "\n".join([*lines, "]"]) + "\n"


def latent_names(sketch: Sketch) -> dict[str, Pair]:
    """A name for the latent cause behind every bidirected edge, that no node has."""
    names: dict[str, Pair] = {}
    for a, b in sketch.bidirected:
        name = f"{a} <-> {b}"
        while name in sketch.nodes or name in names:
            name += "'"
        names[name] = (a, b)
    return names


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)


def write_toml(data: Mapping[str, Any]) -> str:
    """The plain data of `CausalGraph.to_dict` as TOML."""
    lines = [f"{key} = {_toml(value)}" for key, value in data.items() if key != "nodes"]
    for node in data["nodes"]:
        lines += ["", "[[nodes]]", *(f"{key} = {_toml(value)}" for key, value in node.items())]
    return "\n".join(lines) + "\n"
