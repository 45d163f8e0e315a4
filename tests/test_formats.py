"""Graphs as text: what is written is read back, what is not understood is refused, and other libraries agree."""

import contextlib
import gzip
import importlib.util
import random
import time
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causalcf.errors import GraphError
from causalcf.formats import project, read_bif, read_dot, read_gml, read_text
from causalcf.graph import CausalGraph, Node

READERS = {"text": read_text, "DOT": read_dot, "GML": read_gml, "BIF": read_bif}
AWKWARD = [
    "a.b",
    "a_b",
    "x y",
    '"',
    "'",
    "\\",
    "a\\",
    "->",
    "<- Z ->",
    "{",
    "}",
    "#",
    "//",
    "/*",
    "dag",
    "graph",
    "node",
    "1",
    "1.5",
]
AWKWARD += [
    "inf",
    "-5",
    "é",
    "日本",
    "a\nb",
    "\t",
    "\r",
    "&amp;",
    "&#65;",
    "<b>",
    "image",
    "latent",
    ";",
    ",",
    "x.txt",
    "\x00",
    "$a$",
]


# Random graphs: awkward names, every kind, bidirected edges


def words(plain):
    if plain:
        return st.from_regex(r"\A[A-Za-z][A-Za-z0-9_]{0,6}\Z")
    return st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@st.composite
def nodes(draw, name, parents, plain):
    kind = draw(st.sampled_from(["continuous", "binary", "ordinal", "categorical"]))
    fields = {"unit": draw(st.none() | words(plain)), "description": draw(st.just("") | words(plain))}
    if kind == "continuous":
        ends = st.floats(-1e20, 1e20) | st.integers(-5, 5) | st.sampled_from([float("inf"), -float("inf")])
        support = sorted(draw(st.lists(ends, min_size=2, max_size=2)))
        fields["support"] = support if support[0] < support[1] else None
    else:
        state = words(plain) | st.integers(-(2**31), 2**31 - 1)
        fields["states"] = draw(st.lists(state, min_size=2, max_size=2 if kind == "binary" else 4, unique=True))
    return Node(name, kind, parents, **fields)


@st.composite
def graphs(draw, plain=False):
    names = draw(st.lists(words(plain), min_size=1, max_size=5, unique=True))
    order = [draw(nodes(name, draw(st.lists(st.sampled_from(names[:place]), unique=True)) if place else [], plain))
             for place, name in enumerate(names)]  # fmt: skip
    if draw(st.booleans()):
        order.append(Node("scan" + names[0], "image", names[:1], shape=(1, 8, 9)))
    pairs = [(a, b) for a in order for b in order if a.name < b.name]
    both = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    about = {key: draw(st.just("") | words(plain)) for key in ("title", "reference", "assumes")}
    bidirected = [(a.name, b.name)[:: draw(st.sampled_from([1, -1]))] for a, b in both]
    return CausalGraph(draw(words(plain)), draw(st.permutations(order)), bidirected=bidirected, **about)


def structure(graph):
    """Names, edges and bidirected edges, in no order."""
    return set(graph.order), set(graph.to_edges()), {frozenset(pair) for pair in graph.bidirected}


def sorted_parents(graph):
    data = graph.to_dict()
    return {**data, "nodes": [{**node, "parents": sorted(node.get("parents", []))} for node in data["nodes"]]}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(graphs())
def test_a_graph_survives_the_way_through_every_format_that_holds_all_of_it(graph):
    whole = graph.to_dict()
    assert CausalGraph.from_dot(graph.to_dot()).to_dict() == whole
    assert CausalGraph.from_gml(graph.to_gml()).to_dict() == whole
    assert CausalGraph.from_networkx(graph.to_networkx()).to_dict() == whole
    text = CausalGraph.parse(graph.to_text(), name=graph.name).to_dict()  # title and the like have no place in it
    assert text == {key: value for key, value in whole.items() if key not in ("title", "reference", "assumes")}


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_name_survives_the_way_through_every_format(name):
    state = Node("y", "binary", [name], states=[name, "other"])
    graph = CausalGraph(name, [Node(name, "continuous"), state], bidirected=[("y", name)])
    assert CausalGraph.parse(graph.to_text(), name=name) == graph
    assert CausalGraph.from_dot(graph.to_dot()) == graph
    assert CausalGraph.from_gml(graph.to_gml()) == graph
    assert CausalGraph.from_networkx(graph.to_networkx()) == graph


@settings(max_examples=40, deadline=None, derandomize=True)
@given(graphs())
def test_a_graph_survives_the_way_through_a_file(graph):
    import tomllib

    assert CausalGraph.from_dict(tomllib.loads(graph.to_toml())).to_dict() == graph.to_dict()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(graphs())
def test_dagitty_holds_names_and_edges_or_says_that_it_cannot(graph):
    if any(sign in name for name in graph.order for sign in "\\\n\r\t") or not all(map(str.isprintable, graph.order)):
        return
    again = CausalGraph.from_dagitty(graph.to_dagitty(), nodes=graph.nodes)
    assert again.nodes == graph.nodes
    assert again.bidirected == graph.bidirected


def test_dagitty_cannot_hold_a_backslash():
    with pytest.raises(GraphError, match=r"dagitty cannot hold the name 'a\\\\b'"):
        CausalGraph.from_edges([("a\\b", "c")]).to_dagitty()


# Other libraries agree


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs())
def test_networkx_reads_the_gml_that_is_written(graph):
    other = nx.parse_gml(graph.to_gml())
    assert set(other.nodes) == set(graph.to_networkx().nodes)
    assert set(other.edges) == set(graph.to_networkx().edges)
    assert sorted_parents(CausalGraph.from_networkx(other)) == sorted_parents(graph)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs())
def test_the_gml_that_networkx_writes_is_read(graph):
    text = "\n".join(nx.generate_gml(graph.to_networkx()))
    assert sorted_parents(CausalGraph.from_gml(text)) == sorted_parents(graph)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(graphs(plain=True))
def test_latent_nodes_give_the_m_separations_of_the_bidirected_edges(graph):
    """Bidirected edges are what is left of latent causes: the graph with them is separated as its latent projection is."""
    full = graph.to_networkx()
    for a, b in graph.bidirected:
        assert not nx.is_d_separator(full, {a}, {b}, set(graph.order) - {a, b})
    assert structure(CausalGraph.from_networkx(full)) == structure(graph)


def pgmpy_models():
    folder = Path(importlib.util.find_spec("pgmpy").origin).parent / "utils" / "example_models"
    return {name: gzip.decompress((folder / f"{name}.bif.gz").read_bytes()).decode() for name in ("asia", "survey")}


def test_pgmpy_reads_the_dagitty_text_that_is_written():
    from pgmpy.base import DAG

    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(graphs(plain=True))
    def agrees(graph):
        bare = CausalGraph("g", graph.nodes)  # pgmpy gives bidirected edges nodes of its own
        assert set(DAG.from_dagitty(bare.to_dagitty()).edges) == set(bare.to_edges())
        assert set(DAG.from_dagitty(bare.to_dagitty()).nodes) == set(bare.order)

    agrees()


def test_pgmpy_reads_the_same_dagitty_texts():
    from pgmpy.base import DAG

    for text in (
        'dag {\n"carry matches" -> cancer\nsmoking -> "carry matches"\nsmoking -> cancer [beta=0.5]\n}',
        "dag {\nx -> {y z}\n{y z} -> w\nx [exposure]\nw [outcome]\n}",
        "dag {\na -> b -> c\nd <- c\n}",
    ):
        other = DAG.from_dagitty(text)
        mine = read_text(text)
        assert (set(mine.nodes), set(mine.edges)) == (set(other.nodes), set(other.edges))


@pytest.mark.parametrize("name", ["asia", "survey"])
def test_pgmpy_reads_the_same_probabilities_from_the_networks_that_it_ships(name):
    from pgmpy.readwrite import BIFReader

    text = pgmpy_models()[name]
    other = BIFReader(string=text)
    tables = read_bif(text)
    assert [table.name for table in tables] == other.variable_names
    for table in tables:
        assert list(table.states) == other.variable_states[table.name]
        assert list(table.parents) == other.variable_parents[table.name]
        rows = table.table.reshape(-1, len(table.states))
        assert np.array_equal(rows.T, other.variable_cpds[table.name])
    graph = CausalGraph.from_bif(text)
    assert structure(graph)[1] == {(a, b) for a, b in other.variable_edges}


def test_the_ready_made_asia_is_the_asia_that_everybody_ships():
    from causalcf.graph import load_graph

    assert structure(load_graph("asia")) == structure(CausalGraph.from_bif(pgmpy_models()["asia"]))


def random_bif(rng, table_form):
    """A random network, its tables, and its BIF text with rows or flat tables."""
    names = [f"v{place}" for place in range(rng.integers(1, 5))]
    states = {name: [f"{name}_{place}" for place in range(rng.integers(2, 4))] for name in names}
    parents = {name: [str(p) for p in rng.permutation(names[:place])] for place, name in enumerate(names)}
    text = "network n { }\n"
    tables = {}
    for name in rng.permutation(names):
        text += f"variable {name} {{\n type discrete [ {len(states[name])} ] {{ {', '.join(states[name])} }};\n}}\n"
    for name in rng.permutation(names):
        shape = [len(states[parent]) for parent in parents[name]]
        tables[name] = rng.dirichlet(np.ones(len(states[name])), size=shape)
        given_ = f" | {', '.join(parents[name])}" if parents[name] else ""
        text += f"probability ( {name}{given_} ) {{\n"
        if table_form or not parents[name]:
            flat = np.moveaxis(tables[name], -1, 0).ravel()
            text += f" table {', '.join(map(repr, flat.tolist()))};\n"
        else:
            rows = list(np.ndindex(*shape))
            rng.shuffle(rows)
            for row in rows:
                labels = ", ".join(states[parent][at] for parent, at in zip(parents[name], row, strict=True))
                text += f" ({labels}) {', '.join(map(repr, tables[name][tuple(row)].tolist()))};\n"
        text += "}\n"
    return text, parents, tables


@pytest.mark.parametrize("table_form", [False, True])
def test_probabilities_come_with_the_axes_in_the_order_of_the_parents(table_form):
    from pgmpy.readwrite import BIFReader

    rng = np.random.default_rng(0)
    for number in range(6):
        text, parents, tables = random_bif(rng, table_form)
        found = {table.name: table for table in read_bif(text)}
        assert {name: list(table.parents) for name, table in found.items()} == parents
        assert all(np.array_equal(found[name].table, tables[name]) for name in tables)
        if number < 1:
            other = BIFReader(string=text)
            for name, table in found.items():
                rows = table.table.reshape(-1, len(table.states))
                assert np.array_equal(rows.T, other.variable_cpds[name])


def test_pydot_reads_the_dot_that_is_written():
    pydot = pytest.importorskip("pydot")

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(graphs(plain=True))
    def agrees(graph):
        (other,) = pydot.graph_from_dot_data(graph.to_dot())
        edges = {(edge.get_source().strip('"'), edge.get_destination().strip('"'), edge.get("dir")) for edge in other.get_edges()}
        expected = {(a, b, None) for a, b in graph.to_edges()} | {(a, b, "both") for a, b in graph.bidirected}
        assert edges == expected
        assert {node.get_name().strip('"') for node in other.get_nodes()} >= set(graph.order)

    agrees()


# Text


@pytest.mark.parametrize(
    ("text", "edges", "bidirected"),
    [
        ("Z -> T; T -> Y; T <-> Y", ["ZT", "TY"], ["TY"]),
        ("a -> b -> c\nd <- c", ["ab", "bc", "cd"], []),
        ("{a b} -> c", ["ac", "bc"], []),
        ("{a, b; c} -> {d e} -> f", ["ad", "bd", "cd", "ae", "be", "ce", "df", "ef"], []),
        ("a <-> {b c}", [], ["ab", "ac"]),
        ("a <- b <-> c -> d", ["ba", "cd"], ["bc"]),
        ("a -> b, b -> c", ["ab", "bc"], []),
        ("a ->\n  b\n  -> c", ["ab", "bc"], []),
        ("a -> b # -> x\n// c\n/* d -> \n e */ b -> c", ["ab", "bc"], []),
        ("dag { a -> b c <- a }", ["ab", "ac"], []),
        ("dag g {\nbb=\"0,0,1,1\"\na [exposure,pos=\"1,2\"]\nb [outcome]\na -> b [beta=0.3]\n}", ["ab"], []),
        ("U [latent]; U -> {a b}", [], ["ab"]),
        ("U [latent]; U -> {a b c}; a -> b", ["ab"], ["ab", "ac", "bc"]),
        ("U [latent]; V [latent]; U -> {a b}; V -> {a b}; a <-> b", [], ["ab"]),
        ("U [latent]; U -> a; a -> b", ["ab"], []),
    ],
)  # fmt: skip
def test_text_draws_the_graph_that_one_would_draw(text, edges, bidirected):
    sketch = read_text(text)
    assert list(sketch.edges) == [tuple(pair) for pair in edges]
    assert [tuple(pair) for pair in sketch.bidirected] == [tuple(pair) for pair in bidirected]
    assert set(sketch.nodes) == set("".join(edges + bidirected))


def test_text_names_a_lone_node():
    assert list(read_text("a; b\nc, d").nodes) == ["a", "b", "c", "d"]
    assert list(read_text("dag { a b }").nodes) == ["a", "b"]


@pytest.mark.parametrize("name", ["<- Z ->", "a b", "a;b", "a-b", "it's", 'the "x"', "a\\b", "two\nlines"])
def test_a_quoted_name_is_one_node(name):
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert read_text(f'"{quoted}" -> y').edges == [(name, "y")]


def test_text_annotates_nodes():
    sketch = read_text("""age [continuous, unit=year, support=(18, +inf), description="at baseline"]
        stage [ordinal; states=(1, 2, "3")]
        {sex smoker} [binary]
        scan [image, shape=(1, 64, 64)]""")
    assert sketch.nodes["age"] == {
        "kind": "continuous", "unit": "year", "support": (18, float("inf")), "description": "at baseline",
    }  # fmt: skip
    assert sketch.nodes["stage"] == {"kind": "ordinal", "states": (1, 2, "3")}
    assert sketch.nodes["sex"] == sketch.nodes["smoker"] == {"kind": "binary"}
    assert sketch.nodes["scan"] == {"kind": "image", "shape": (1, 64, 64)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1, column 1: there is no node"),
        ("<- Z ->", "line 1, column 1: there is '<-' where a name should be"),
        ("a b", "line 1, column 3: there is 'b' where an arrow, a semicolon or a new line"),
        ("a -> b c", "line 1, column 8: there is 'c'"),
        ("a, b -> c", "line 1, column 4: a comma joins edges with edges, or names with names"),
        ("a -> b, c", "line 1, column 9: a comma joins"),
        ("a -> b,", "the text ends where a statement should be"),
        ("a ->", "line 1, column 5: the text ends where a name"),
        ("x\na -- b", "line 2, column 3: an edge is written ->, <- or <->"),
        ("a --> b", "line 1, column 3: an edge is written"),
        ("a-b -> c", "line 1, column 2: an edge is written"),
        ("a ~ b", "'~' has no meaning here. Names with other characters"),
        ("a -> 'b", "line 1, column 6: the quotation that begins here does not end"),
        ('"a\nb" -> c', "line 1, column 1: the quotation"),
        ("a /* b", "line 1, column 3: the comment that begins here does not end"),
        ('"a\\q" -> b', r"line 1, column 3: \\q is no escape"),
        ("{a {b c}} -> d", "line 1, column 4: a group inside a group"),
        ("{a -> b} -> c", "line 1, column 4: an edge inside a group"),
        ("{} -> a", "a group without names"),
        ("a -> b; a -> b", "line 1, column 14: the edge 'a -> b' is stated twice"),
        ("a <-> b; b <-> a", "the edge 'b <-> a' is stated twice"),
        ("a [nominal]", "the annotation 'nominal' is unknown. There are: continuous, binary"),
        ("a [selected]", "the annotation 'selected' is unknown"),
        ("a [units=year]", "the annotation 'units='year'' is unknown"),
        ("a [binary, kind=ordinal]", "node 'a' has kind 'binary' and now 'ordinal'"),
        ("a [unit=1]", "unit of 'a' is 1: write a word"),
        ("a [support=1]", r"support of 'a' is 1: write support=\(18, 100\)"),
        ("a [support=(1 2)]", "line 1, column 15: there is '2' where a comma or"),
        ("a -> b [binary]", "'binary' is said of an edge. Annotate a node in a statement of its own"),
        ("dag { a -> b", "the text ends where a name should be"),
        ("dag { a } b", "there is 'b' where the end should be"),
        ("pdag { a -> b }", "only a dag"),
        ("digraph { a -> b }", "this is DOT: use from_dot"),
        ("my_graph.dot", r"is the name of a file, not a graph text: use load_graph\('my_graph.dot'\)"),
        ("U [latent]; Z -> U; U -> Y", "latent node 'U' has the cause 'Z'"),
        ("U [latent]; Z <-> U; U -> Y", "latent node 'U' has a bidirected edge"),
        ("U [latent]", "no node but latent ones: U"),
    ],
)
def test_text_that_is_not_understood_is_refused_with_its_place(text, words):
    with pytest.raises(GraphError, match=words):
        read_text(text)


# DOT


def test_dot_keeps_every_edge_of_a_subgraph():
    sketch = read_dot("""
        # a comment
        strict digraph "my graph" {
          rankdir=LR; graph [title="A title"]; node [shape=box, kind=binary]  // style and default
          subgraph cluster_0 { label="inner"; a -> b; subgraph { c -> d } -> e }
          {a b} -> {f g} -> h [color=red, style=dashed];
          a -> h; a -> h
          edge [dir=both]
          e -> h; 1.5; "q \\"x\\""
        }""")
    assert sketch.edges == [tuple(edge) for edge in ("ab", "cd", "ce", "de", "af", "bf", "ag", "bg", "fh", "gh", "ah")]
    assert sketch.bidirected == [("e", "h")]
    assert list(sketch.nodes) == [*"abcdefgh", "1.5", 'q "x"']
    assert all(fields == {"kind": "binary"} for fields in sketch.nodes.values())
    assert sketch.about == {"name": "my graph", "title": "A title"}


def test_an_edge_to_a_dot_subgraph_goes_to_all_that_is_in_it():
    sketch = read_dot("digraph { { subgraph s { x -> y } z } -> { v; subgraph { w } } }")
    assert set(sketch.edges) == {tuple(edge) for edge in ("xy", "xv", "yv", "zv", "xw", "yw", "zw")}


def test_dot_defaults_end_with_their_subgraph():
    sketch = read_dot("digraph { { node [kind=ordinal]; edge [dir=both] a -> b } c; a -> c }")
    assert [sketch.nodes[name] for name in "abc"] == [{"kind": "ordinal"}, {"kind": "ordinal"}, {}]
    assert (sketch.bidirected, sketch.edges) == ([("a", "b")], [("a", "c")])


def test_what_a_dot_node_says_of_itself_goes_before_the_default():
    sketch = read_dot("""digraph { node [kind=continuous latent=true image_shape="(1, 2, 2)"]; U; age [latent=no]
        subgraph { sex -> x } sex [kind=binary latent=false shape=box] x [latent=false image_shape="(1, 3, 3)"]
        U -> age; U -> x }""")  # fmt: skip
    assert [sketch.nodes[name]["kind"] for name in ("age", "sex", "x")] == ["continuous", "binary", "continuous"]
    assert [sketch.nodes[name]["shape"] for name in ("sex", "x")] == [(1, 2, 2), (1, 3, 3)]
    assert (sketch.bidirected, sketch.edges) == ([("age", "x")], [("sex", "x")])


def test_dot_holds_what_a_node_is():
    sketch = read_dot("""digraph { age [unit=year support="(0, inf)"]; s [states="('a b', 1)"]
        i [kind=image image_shape="(1, 2, 3)" shape=box]
        U [latent=true, style=dashed]; U -> age; U -> s }""")  # fmt: skip
    assert sketch.nodes["age"] == {"unit": "year", "support": (0, float("inf"))}
    assert sketch.nodes["s"] == {"states": ("a b", 1)}
    assert sketch.nodes["i"] == {"kind": "image", "shape": (1, 2, 3)}
    assert sketch.bidirected == [("age", "s")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("graph { a -- b }", "line 1, column 1: a causal graph is a 'digraph'"),
        ("digraph { a -- b }", "line 1, column 13: '--' is an undirected edge"),
        ("digraph { a -> b", "line 1, column 9: the brace that begins here is not closed"),
        ("digraph { a } }", "there is '}' where the end should be"),
        ("digraph { a -> ; }", "there is ';' where a name should be"),
        ("digraph { a -> {} }", "an edge to a subgraph without nodes"),
        ("digraph { a:n -> b }", "ports are not read"),
        ("digraph { a [label=<b>] }", "HTML labels are not read"),
        ('digraph { "a" + "b" }', "quotations joined by '\\+' are not read"),
        ("digraph { a.b -> c }", "line 1, column 12: '.' has no meaning here"),
        ("digraph { 2a -> c }", "line 1, column 11: '2' has no meaning here"),
        ("digraph { node -> c }", "there is '->' where '\\[' should be"),
        ("digraph { a -> node }", "'node' is a word of DOT itself"),
        ("digraph { a [kindd=binary] }", "line 1, column 14: the node attribute 'kindd' is unknown. There are: kind, unit"),
        ("digraph { a -> b [type=both] }", "the edge attribute 'type' is unknown"),
        ("digraph { titel=x; a }", "the graph attribute 'titel' is unknown. There are: title"),
        ("digraph {\na -> b [dir=back] }", "line 2, column 9: dir=back: turn the edge round"),
        ("digraph { a -> b [arrowhead=none] }", "arrowhead=none takes the arrow off"),
        ("digraph { a -> b; a -> b }", "the edge 'a -> b' is stated twice"),
        ('digraph { a [support="1, 2"] }', "'1, 2' is no list of values"),
        ("digraph { a [latent=perhaps] }", "latent='perhaps': write true or false"),
        ("digraph { node [latent=no] a [latent=yes] a [latent=no] }", "node 'a' is latent and now latent=no. Remove one"),
        ("digraph { node [kind=image] a [kind=binary] a [kind=ordinal] }", "node 'a' has kind 'binary' and now 'ordinal'"),
        ("digraph { subgraph s { a } [color=red] }", "a subgraph with attributes of its own"),
        ('digraph { "a }', "line 1, column 11: the quotation that begins here does not end"),
    ],
)
def test_dot_that_is_not_understood_is_refused_with_its_place(text, words):
    with pytest.raises(GraphError, match=words):
        read_dot(text)


# GML


def test_gml_of_other_programs_is_read():
    sketch = read_gml("""Creator "igraph version 0.10"
        Version 1
        # a comment
        graph
        [ directed 1 hierarchic 1
          node [ id 3 name "a &#65;&amp;&eacute;" graphics [ x 1.5 fill "#fff" ] ]
          node [ id "k" label "b" ]
          edge [ source 3 target "k" weight 2 graphics [ type "line" ] ]
        ]""")
    assert sketch.edges == [("a A&é", "b")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('graph [ node [ id 0 label "a" ] ]', "line 1, column 1: a causal graph is directed"),
        ('graph [ directed 0 node [ id 0 label "a" ] ]', "a causal graph is directed"),
        ("", "there should be one 'graph"),
        ("graph [ directed 1 ]", "there is no node"),
        ("graph [ directed 1", "line 1, column 7: the bracket that begins here is not closed"),
        ("graph [ ] ]", "line 1, column 11: a bracket is closed that was not opened"),
        ("graph [ directed 1 node [ id 0 ] ]", "line 1, column 20: the node has no label"),
        ('graph [ directed 1 node [ label "a" ] ]', "the node has no id"),
        ('graph [ directed 1 node [ id 0 label "a" ] node [ id 0 label "b" ] ]', "two nodes with id 0 or label 'b'"),
        ('graph [ directed 1 node [ id 0 label "a" ] node [ id 1 label "a" ] ]', "two nodes with id 1 or label 'a'"),
        (
            'graph [ directed 1 node [ id 0 label "a" ] edge [ source 0 target 1 ] ]',
            "the edge's target is 1, which is no node's id",
        ),
        ('graph [ directed 1 node [ id 0 label "a" ] edge [ source 0 ] ]', "the edge has no target"),
        ('graph [ directed 1\nnode [ id 0 label "a" knd "b" ] ]', "line 2, column 23: the key 'knd' of a node is unknown"),
        ('graph [ directed 1 node [ id 0 label "a" unit "b" unit "c" ] ]', "'unit' stands twice"),
        ('graph [ directed 1 node [ id 0 label "a" latent 2 ] ]', "'latent' takes 0 or 1"),
        ('graph [ directed 1 node [ id 0 label "a ] ]', "line 1, column 38: the quotation"),
        ("graph [ directed ]", "there is ']' where a value of 'directed' should be"),
    ],
)
def test_gml_that_is_not_understood_is_refused_with_its_place(text, words):
    with pytest.raises(GraphError, match=words):
        read_gml(text)


# BIF

VARIABLES = """network n { property author me; }
variable rain { type discrete [ 2 ] { yes, no }; property position = (73, 165); }
variable "wet grass" { type discrete[2] { "very wet" no }; }
"""
RAIN = "probability ( rain ) { table 0.2, 0.8; }\n"
WET = 'probability ( "wet grass" | rain ) { (yes) 0.9, 0.1; (no) 0.0, 1.0; }\n'


def test_bif_is_read_in_all_its_forms():
    for wet in (
        WET,
        WET.replace("|", ","),
        'probability ( "wet grass" rain ) { table 0.9 0.0 0.1 1.0; } // the variable itself changes slowest\n',
        'probability ( "wet grass" | rain ) { default 0.0, 1.0; (yes) 9e-1, .1; /* the rest */ }',
    ):
        rain, grass = read_bif(VARIABLES + wet + RAIN)
        assert (rain.name, rain.parents, rain.table.tolist()) == ("rain", (), [0.2, 0.8])
        assert (grass.name, grass.states, grass.parents) == ("wet grass", ("very wet", "no"), ("rain",))
        assert grass.table.tolist() == [[0.9, 0.1], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (VARIABLES + RAIN, "variable 'wet grass' has no probabilities. Is the text complete"),
        (VARIABLES + RAIN + WET.replace("0.9", "1.7"), "there is '1.7' where a probability, 0 to 1, should be"),
        (VARIABLES + RAIN + WET.replace("0.9", "0.8"), "of 'wet grass' given rain=yes do not sum to 1 but to 0.9"),
        (VARIABLES + RAIN + WET.replace("0.9", "nan"), "there is 'nan' where a probability"),
        (VARIABLES + RAIN + WET.replace("0.9", "-0.9"), "there is '-0.9' where a probability"),
        (VARIABLES + RAIN + WET.replace("(no) 0.0, 1.0;", ""), "of 'wet grass' given rain=no are missing"),
        (VARIABLES + RAIN + WET.replace("(no)", "(yes)"), r"given \(yes\) stand twice"),
        (VARIABLES + RAIN + WET.replace("(no)", "(maybe)"), r"line 5, column 54: \(maybe\) are no states of rain"),
        (VARIABLES + RAIN + WET.replace("(no) 0.0,", "(no)"), "there are 1 probabilities where 2 should be"),
        (VARIABLES + RAIN + WET.replace("| rain", "| snow"), "'snow' is no variable of the network"),
        (VARIABLES + RAIN + WET + RAIN, "variable 'rain' has two probability blocks"),
        (VARIABLES + RAIN + WET.replace("| rain", "| rain, rain"), "name a variable twice"),
        (VARIABLES.replace("[ 2 ]", "[ 3 ]") + RAIN + WET, "variable 'rain' announces 3 states and lists yes, no"),
        (VARIABLES.replace("discrete [", "continuous ["), "variable 'rain' should have one 'type discrete'"),
        (VARIABLES.replace('"wet grass"', "rain"), "variable 'rain' is declared twice"),
        (VARIABLES + RAIN.replace("}", ""), "the block that begins here is not closed"),
        ("variable x { }", "a BIF text begins with 'network'"),
        (VARIABLES + "x", "there is 'x' where 'variable' or 'probability' should be"),
        ("network n { }", "there is no variable"),
    ],
)
def test_bif_that_is_not_understood_is_refused_with_its_place(text, words):
    with pytest.raises(GraphError, match=words):
        read_bif(text)


def test_tables_that_a_short_text_makes_enormous_are_refused():
    states = " ".join(f"s{place}" for place in range(10))
    text = "network n { }" + "".join(f"variable v{k} {{ type discrete [10] {{ {states} }}; }}" for k in range(20))
    parents = ", ".join(f"v{k}" for k in range(1, 20))
    with pytest.raises(GraphError, match="more than 2,000,000 probabilities"):
        read_bif(text + f"probability ( v0 | {parents} ) {{ default {', '.join(['0.1'] * 10)}; }}")


# Limits


WHOLE = {
    "DOT": 'digraph "g" { graph [title="t"]; subgraph s { a -> b [dir=both]; } {a b} -> "c d" }',
    "GML": 'graph [ directed 1 node [ id 0 label "a" ] node [ id 1 label "b" ] edge [ source 0 target 1 ] ]',
    "BIF": (VARIABLES + RAIN + WET).strip(),
    "text": 'dag { a -> {b c} ; "c d" <-> a [beta=1] b [binary, unit=year] }',
}


@pytest.mark.parametrize("what", WHOLE)
def test_a_text_that_was_cut_off_is_refused_wherever_it_was_cut(what):
    READERS[what](WHOLE[what])
    for end in range(len("dag {") if what == "text" else 0, len(WHOLE[what])):  # "dag" alone is a node of that name
        with pytest.raises(GraphError):
            READERS[what](WHOLE[what][:end])


SOUP = [
    "->",
    "<-",
    "<->",
    "--",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ";",
    ",",
    "=",
    ":",
    "|",
    '"',
    "'",
    "\\",
    "\n",
    " ",
    "a",
    "b",
    "1",
    "-1",
    ".5",
]
SOUP += [
    "dag",
    "digraph",
    "subgraph",
    "node",
    "edge",
    "graph",
    "directed",
    "id",
    "label",
    "source",
    "target",
    '"a"',
    "kind",
    "latent",
]
SOUP += [
    "network",
    "variable",
    "probability",
    "type",
    "discrete",
    "table",
    "default",
    "property",
    "states",
    "support",
    "#",
    "//",
    "/*",
    "é",
]


@pytest.mark.parametrize("what", READERS)
def test_no_text_makes_a_reader_fail_otherwise_than_by_refusing_it(what):
    rng = random.Random(0)
    tokens = [WHOLE[what][start:end] for start, end in zip(range(0, 200, 4), range(4, 204, 4), strict=True)]
    for number in range(600):
        text = "".join(rng.choice(SOUP) + rng.choice(["", " "]) for _ in range(rng.randrange(1, 25)))
        if number % 2:  # a good text with something put in, or left out
            place = rng.randrange(len(WHOLE[what]))
            text = WHOLE[what][:place] + rng.choice(SOUP + tokens) + WHOLE[what][place + rng.randrange(3) :]
        with contextlib.suppress(GraphError):
            READERS[what](text)


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("nest", ["{", "[", "(", "a {", "a [", "subgraph {", "graph [", "a [b=("])
def test_deep_nesting_is_an_error(what, nest):
    for before in ("", WHOLE[what][:30]):
        with pytest.raises(GraphError):
            READERS[what](before + nest * 10_000)


@pytest.mark.parametrize("what", READERS)
def test_reading_takes_time_linear_in_the_text(what):
    """60,000 characters of whatever a pattern could stumble over take moments, where a quadratic reader takes minutes."""
    start = time.process_time()
    for piece in (
        "/*",
        '"',
        "'",
        '"\\',
        "\\",
        "#",
        "\n ",
        "\n",
        " ",
        "a ",
        "-",
        "<",
        "1",
        "1.",
        "//",
        "a;",
        "{a}",
        "a->",
        "&#",
        "(",
    ):
        for before in ("", WHOLE[what][:30]):
            with contextlib.suppress(GraphError):
                READERS[what](before + piece * (60_000 // len(piece)))
    assert time.process_time() - start < 20


def many(edges):
    rng = random.Random(0)
    found = set()
    while len(found) < edges:
        a, b = sorted(rng.sample(range(5000), 2))
        found.add((a, b))
    return sorted(found)


def test_fifty_thousand_edges_are_read_in_about_a_second():
    edges = ";".join(f"n{a}->n{b}" for a, b in many(50_000))
    for read, text in ((read_text, edges), (read_dot, f"digraph {{{edges}}}")):
        start = time.process_time()
        assert len(read(text).edges) == 50_000
        assert time.process_time() - start < 5  # 0.5 and 0.8 s where it was written


NAMES = {count: " ".join(f"n{k}" for k in range(count)) for count in (200, 300, 400, 5_001)}


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_text, "a" * 1_000_001, "1,000,001 characters long; at most 1,000,000"),
        (read_text, NAMES[5_001].replace(" ", ";"), "more than 5,000 nodes"),
        (read_text, f"{{{NAMES[300]}}} -> {{{NAMES[200].replace('n', 'm')}}}", "more than 50,000 edges"),
        (read_dot, f"digraph {{{NAMES[5_001]}}}", "more than 5,000 nodes"),
        (read_text, f"U [latent]; U -> {{{NAMES[400]}}}", "more than 50,000 bidirected edges"),
        (read_text, 3, "a graph text is text, not int"),
    ],
)  # fmt: skip
def test_what_is_too_large_is_refused(read, text, words):
    with pytest.raises(GraphError, match=words):
        read(text)


def test_latent_causes_are_projected_in_order():
    sketch = project({name: {} for name in "abUV"}, [("a", "b"), ("U", "b"), ("U", "a"), ("V", "a")], [], ["U", "V"], {})
    assert (list(sketch.nodes), sketch.edges, sketch.bidirected) == (["a", "b"], [("a", "b")], [("b", "a")])
