"""Causal graphs: order, descendants, files, and the mistakes that people make when they write one."""

import dataclasses
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causalcf.errors import CausalCFError, GraphError
from causalcf.graph import CausalGraph, Node, graph_names, in_support, load_graph

WRONG = "thicknes"
REPOSITORY = Path(__file__).resolve().parent.parent


def number(name, *parents):
    return Node(name, "continuous", parents=parents)


@st.composite
def dags(draw):
    """A random directed acyclic graph, its nodes declared in random order."""
    size = draw(st.integers(1, 8))
    names = [f"n{place}" for place in range(size)]
    edges = [(a, b) for a in range(size) for b in range(a + 1, size) if draw(st.booleans())]
    nodes = [number(names[b], *[names[a] for a, other in edges if other == b]) for b in range(size)]
    graph = CausalGraph("random", draw(st.permutations(nodes)))
    oracle = nx.DiGraph()
    oracle.add_nodes_from(names)
    oracle.add_edges_from((names[a], names[b]) for a, b in edges)
    return graph, oracle, draw(st.lists(st.sampled_from(names), unique=True))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(dags())
def test_order_puts_every_cause_before_its_effects(case):
    graph, oracle, _ = case
    assert sorted(graph.order) == sorted(oracle.nodes)
    place = {name: number for number, name in enumerate(graph.order)}
    assert all(place[cause] < place[effect] for cause, effect in oracle.edges)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(dags())
def test_descendants_are_those_of_networkx_and_the_nodes_themselves(case):
    graph, oracle, names = case
    assert graph.descendants(names) == set(names).union(*(nx.descendants(oracle, name) for name in names))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(dags())
def test_a_graph_survives_the_way_through_plain_data(case):
    graph, _, _ = case
    again = CausalGraph.from_dict(graph.to_dict())
    assert again == graph
    assert again.order == graph.order
    assert again.to_dict() == graph.to_dict()


def test_order_keeps_the_declaration_where_the_edges_leave_it_free():
    assert CausalGraph("g", [number("z"), number("m", "a"), number("a"), number("b")]).order == ("z", "a", "m", "b")


def test_parents_come_in_the_order_in_which_they_were_declared():
    graph = CausalGraph("g", [number("a"), number("b"), number("c", "b", "a")])
    assert graph.parents("c") == ("b", "a")


def test_descendants_of_nothing_are_nothing():
    assert load_graph("morphomnist").descendants([]) == frozenset()


def test_descendants_on_the_digits_are_those_of_the_paper():
    graph = load_graph("morphomnist")
    assert graph.descendants(["thickness"]) == {"thickness", "intensity", "image"}
    assert graph.descendants(["digit"]) == {"digit", "image"}
    assert graph.attributes == ("thickness", "intensity", "digit")
    assert graph.images == ("image",)
    assert graph.layers() == [["thickness", "digit"], ["intensity"], ["image"]]


@pytest.mark.parametrize(
    ("nodes", "cycles"),
    [
        ([number("a", "a")], ["a -> a"]),
        ([number("a", "b"), number("b", "a")], ["a -> b -> a", "b -> a -> b"]),
        (
            [number("root"), number("a", "root", "c"), number("b", "a"), number("c", "b"), number("leaf", "c")],
            ["a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"],
        ),
    ],
)
def test_a_cycle_is_named_node_by_node(nodes, cycles):
    with pytest.raises(GraphError, match="cycle") as error:
        CausalGraph("loop", nodes)
    assert any(f"cycle: {cycle}." in str(error.value) for cycle in cycles)
    assert "leaf" not in str(error.value)
    assert "root" not in str(error.value)


def test_an_unknown_parent_is_an_error_that_suggests_the_near_name():
    with pytest.raises(GraphError, match=r"'finding' has a parent 'agee'.*Did you mean 'age'\? Nodes are: age, finding") as error:
        CausalGraph("toy", [number("age"), number("finding", "agee")])
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, CausalCFError)


@pytest.mark.parametrize(("ask", "about"), [("node", WRONG), ("parents", WRONG), ("without", WRONG), ("descendants", [WRONG])])
def test_a_misspelt_node_is_an_error_that_suggests_the_near_name(ask, about):
    with pytest.raises(GraphError, match=r"thicknes:.*no such node. Did you mean 'thickness'\? Nodes are: thickness, .*digit"):
        getattr(load_graph("morphomnist"), ask)(about)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Node("", "continuous"), "name is a word"),
        (lambda: Node("a", "number"), "kind 'number'. Kinds are: continuous, binary"),
        (lambda: Node("a", "continuous", parents="b"), r"give a list, \['b'\]"),
        (lambda: Node("a", "categorical"), "'a' needs at least two different states"),
        (lambda: Node("a", "categorical", states=["x", "x"]), "at least two different states"),
        (lambda: Node("a", "continuous", states=["x", "y"]), "'a' has states; only discrete nodes do"),
        (lambda: Node("a", "image"), "'a' needs shape=.channel, height, width."),
        (lambda: Node("a", "image", shape=(0, 4, 4)), "needs shape"),
        (lambda: Node("a", "continuous", support=(2, 1)), r"support=\(2, 1\)"),
        (lambda: Node("a", "continuous", support=(0, float("nan"))), "support"),
        (lambda: Node("a", "binary", support=(0, 1)), "support=.*of a continuous node"),
        (lambda: CausalGraph("g", [number("a"), number("a")]), "two nodes called 'a'"),
        (lambda: CausalGraph("g", [number("a")], bidirected=[("a", "b")]), "b: graph 'g' has no such node"),
        (lambda: CausalGraph("g", [Node("x", "image", shape=(1, 2, 2)), number("a", "x")]), "image 'x' as a parent"),
        (lambda: load_graph("morphomnist").without("thickness"), "'intensity' has a parent 'thickness'"),
    ],
)
def test_a_graph_that_makes_no_sense_is_an_error_that_names_the_node(make, words):
    with pytest.raises(GraphError, match=words):
        make()


@pytest.mark.parametrize("support", [(1,), (1, 2, 3)])
def test_a_support_that_is_no_pair_is_an_error_that_names_the_node(support):
    with pytest.raises(GraphError, match="'a'"):
        Node("a", "continuous", support=support)


def test_a_parent_named_twice_is_an_error():
    with pytest.raises(GraphError, match=r"'b'.*'a'"):
        CausalGraph("g", [number("a"), number("b", "a", "a")])


def test_a_binary_node_has_zero_and_one_unless_told():
    assert Node("a", "binary").states == (0, 1)
    assert Node("a", "binary", states=["no", "yes"]).states == ("no", "yes")


def test_leaving_a_node_out_takes_its_edges_along():
    graph = CausalGraph("g", [number("a"), number("b", "a"), number("c")], bidirected=[("b", "c")])
    assert graph.without("b").order == ("a", "c")
    assert graph.without("b").bidirected == ()


def test_leaving_out_the_image_leaves_the_original_whole():
    graph = load_graph("morphomnist")
    assert graph.without("image").order == ("thickness", "intensity", "digit")
    assert graph.images == ("image",)


@pytest.mark.parametrize("name", graph_names())
def test_every_ready_made_graph_loads_by_name_and_by_file(name):
    graph = load_graph(name)
    assert graph == load_graph(REPOSITORY / "graphs" / f"{name}.toml")
    assert graph.name == name
    assert graph.title
    assert graph.reference
    assert graph.assumes
    assert CausalGraph.from_dict(graph.to_dict()) == graph


def test_every_file_in_graphs_is_a_ready_made_graph():
    assert graph_names() == sorted(path.stem for path in (REPOSITORY / "graphs").glob("*.toml"))


def test_a_misspelt_ready_made_graph_is_an_error_that_suggests_the_near_name():
    with pytest.raises(GraphError, match=r"graph 'morphomist'. Did you mean 'morphomnist'\? Ready-made graphs are: "):
        load_graph("morphomist")


GOOD = '[[nodes]]\nname = "a"\nkind = "continuous"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[nodes]\nname = ", "is not TOML: .*line 1"),
        ("", r"at least one \[\[nodes\]\] table"),
        ("nodes = 3", r"at least one \[\[nodes\]\] table"),
        ("nodes = [3]", "node 1 of the graph"),
        ('[[nodes]]\nname = "a"\n', "node 1 of the graph needs kind"),
        (GOOD + 'parent = ["b"]\n', "node 1 of the graph does not know parent. Keys are: .*parents"),
        ('titel = "x"\n' + GOOD, "a graph does not know titel. Keys are: .*title"),
        (GOOD + 'support = ["0", "1"]\n', "'a' has support=.*give numbers"),
        (GOOD + "support = [1]\n", "'a'.*support"),
        (GOOD + 'parents = "b"\n', r"give a list, \['b'\]"),
        (GOOD + 'parents = ["b"]\n', "parent 'b' that graph 'own' does not have"),
        ('bidirected = [["a", "b"]]\n' + GOOD, "b: graph 'own' has no such node"),
        ('bidirected = [["a"]]\n' + GOOD, "bidirected"),
    ],
)
def test_a_graph_file_that_is_wrong_is_an_error_that_says_where(tmp_path, text, words):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(GraphError, match=words):
        load_graph(path)


def test_a_graph_file_that_is_not_text_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "own.toml"
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(GraphError, match=r"own\.toml"):
        load_graph(path)


def test_a_graph_file_that_is_missing_or_huge_is_an_error_that_names_it(tmp_path):
    with pytest.raises(GraphError, match=r"own\.toml.*No such file"):
        load_graph(tmp_path / "own.toml")
    (tmp_path / "own.toml").write_text("#" * 1_000_001)
    with pytest.raises(GraphError, match=r"own\.toml.*at most 1,000,000"):
        load_graph(tmp_path / "own.toml")


def test_a_graph_file_of_ones_own_is_named_after_the_file_unless_it_says(tmp_path):
    (tmp_path / "own.toml").write_text(GOOD)
    (tmp_path / "other.toml").write_text('name = "said"\nbidirected = [["a", "b"]]\n' + GOOD + GOOD.replace('"a"', '"b"'))
    assert load_graph(tmp_path / "own.toml").name == "own"
    assert load_graph(tmp_path / "other.toml").name == "said"
    assert load_graph(tmp_path / "other.toml").bidirected == (("a", "b"),)


def test_plain_data_keeps_every_field():
    nodes = [
        Node("age", "continuous", unit="year", support=(18, 100), description="at baseline"),
        Node("stage", "ordinal", parents=["age"], states=[1, 2, 3]),
        Node("scan", "image", parents=["stage", "age"], shape=(1, 8, 8)),
    ]
    graph = CausalGraph("g", nodes, bidirected=[("age", "stage")], title="t", reference="r", assumes="s")
    assert CausalGraph.from_dict(graph.to_dict()) == graph


def test_a_graph_cannot_be_changed():
    graph = load_graph("morphomnist")
    for thing, field in ((graph, "name"), (graph, "nodes"), (graph.node("digit"), "states")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, "x")
    assert all(isinstance(part, tuple) for part in (graph.nodes, graph.order, graph.bidirected, graph.parents("image")))


def test_a_graph_does_not_change_with_the_lists_that_it_was_made_of():
    parents, nodes = ["a"], [number("a")]
    nodes.append(Node("b", "continuous", parents=parents))
    graph = CausalGraph("g", nodes)
    parents.append("b")
    nodes.clear()
    assert graph.order == ("a", "b")
    assert graph.parents("b") == ("a",)


def test_a_graph_does_not_change_with_its_networkx_view():
    graph = CausalGraph("g", [number("a"), number("b")])
    with pytest.raises(nx.NetworkXError):
        graph.networkx.add_edge("a", "b")
    assert graph.descendants(["a"]) == {"a"}


def test_a_graph_prints_on_one_line():
    assert repr(load_graph("morphomnist")) == "CausalGraph('morphomnist', thickness intensity digit image)"


def test_support_is_open():
    node = Node("a", "continuous", support=(0, 1))
    assert [in_support(node, value) for value in (0.0, 0.5, 1.0, float("nan"))] == [False, True, False, False]
    assert in_support(Node("a", "continuous"), -1e300)
