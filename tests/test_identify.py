"""Questions about a graph, against definitions by enumeration; and what data say about it, against answers known beforehand."""

import json
import os
import random
import sys
import time
from collections import Counter
from itertools import chain, combinations, pairwise

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from causalcf.batch import Batch
from causalcf.cli import main
from causalcf.errors import DataError, GraphError
from causalcf.graph import CausalGraph, Node, graph_names, load_graph
from causalcf.identify import (
    GraphCheck,
    Independence,
    _holm,
    adjustment_sets,
    ancestors,
    check,
    frontdoor_sets,
    identifiable,
    implied_independencies,
    is_adjustment_set,
    is_frontdoor_set,
    minimal_adjustment_set,
    minimal_adjustment_sets,
    separated,
)

# CAUSALCF_EXHAUSTIVE=10000 compares so many random graphs
GRAPHS = int(os.environ.get("CAUSALCF_EXHAUSTIVE", "300"))


def graph_of(text, kind="continuous", **nodes):
    """A graph from "a>b b>c a-c": arrows, and latent confounders as dashes."""
    parts = [part.replace(">", " > ").replace("-", " - ").split() for part in text.split()]
    parents = {name: [] for part in parts for name in part[::2]}
    for part in parts:
        if part[1:2] == [">"]:
            parents[part[2]].append(part[0])
    made = [nodes.get(name, Node(name, kind, parents=causes)) for name, causes in parents.items()]
    return CausalGraph("g", made, bidirected=[(part[0], part[2]) for part in parts if part[1:2] == ["-"]])


def powerset(names):
    return [frozenset(subset) for subset in chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))]


class Brute:
    """The definitions, word for word, by listing every path."""

    def __init__(self, graph):
        self.nodes = list(graph.order)
        self.directed = [(parent, name) for name in self.nodes for parent in graph.parents(name)]
        self.bidirected = list(graph.bidirected)
        # (from, to, arrowhead at from, arrowhead at to)
        self.steps = [(a, b, False, True) for a, b in self.directed] + [(b, a, True, False) for a, b in self.directed]
        self.steps += [(a, b, True, True) for pair in self.bidirected for a, b in (pair, pair[::-1])]
        self.reach = {name: self.below(name) for name in self.nodes}

    def below(self, name, without=()):
        found, size = {name}, 0
        while size < len(found):
            size = len(found)
            found |= {b for a, b in self.directed if a in found and b not in without}
        return frozenset(found)

    def paths(self, start, ends):
        """Every path without a repeated node, as the list of its steps."""

        def extend(path, visited):
            last = path[-1][1] if path else start
            if path and last in ends:
                yield list(path)
            for step in self.steps:
                if step[0] == last and step[1] not in visited:
                    yield from extend([*path, step], visited | {step[1]})

        yield from extend([], {start})

    def open(self, path, given):
        for before, after in pairwise(path):
            collider = before[3] and after[2]
            if collider and not self.reach[before[1]] & given:
                return False
            if not collider and before[1] in given:
                return False
        return True

    @staticmethod
    def causal(path):
        return not any(step[2] for step in path)

    def proper(self, x, y):
        return [path for start in x for path in self.paths(start, y) if not {step[1] for step in path} & x]

    def separated(self, a, b, given):
        return not any(self.open(path, given) for start in a for path in self.paths(start, b))

    def adjustment_sets(self, x, y):
        """Shpitser, VanderWeele and Robins 2010, definition 5."""
        paths = self.proper(x, y)
        between = {step[1] for path in paths if self.causal(path) for step in path}
        forbidden = set().union(*(self.below(name, without=x) for name in between))
        others = [path for path in paths if not self.causal(path)]
        candidates = powerset([name for name in self.nodes if name not in x | y])
        return {z for z in candidates if not z & forbidden and not any(self.open(path, z) for path in others)}

    def frontdoor_sets(self, x, y):
        """Pearl 2009, definition 3.3.3; for a set, the back-door paths that leave it for good."""
        causal = [{step[1] for step in path} for path in self.proper(x, y) if self.causal(path)]
        found = set()
        for z in powerset([name for name in self.nodes if name not in x | y]):
            backdoor_x = [path for path in self.proper(x, z) if path[0][2]]
            backdoor_z = [path for path in self.proper(z, y) if path[0][2]]
            if (
                all(names & z for names in causal)
                and not any(self.open(path, frozenset()) for path in backdoor_x)
                and not any(self.open(path, x) for path in backdoor_z)
            ):
                found.add(z)
        return found

    def connected(self, names):
        found, size = {min(names)}, 0
        while size < len(found):
            size = len(found)
            found |= {b for pair in self.bidirected for a, b in (pair, pair[::-1]) if a in found and b in names}
        return found == set(names)

    def drains(self, names, roots):
        """Whether every one of these names has a directed path to a root inside them."""
        found, size = set(roots), 0
        while size < len(found):
            size = len(found)
            found |= {a for a, b in self.directed if b in found and a in names}
        return found == set(names)

    def has_hedge(self, x, y):
        """Shpitser and Pearl 2006, definition 6 and theorem 4: two C-forests with the same roots, one inside the other."""
        above = {name for name in self.nodes if self.below(name, without=x) & y}
        forests = [names for names in powerset(self.nodes) if names and self.connected(names)]
        for inner in forests:
            roots = inner & above
            if inner & x or not roots or not self.drains(inner, roots):
                continue
            if any(inner < outer and outer & x and self.drains(outer, roots) for outer in forests):
                return True
        return False


def random_case(seed, *, confounded=True, many=True):
    """A random graph of two to six nodes, its nodes declared in random order, and a question about it."""
    rng = random.Random(seed)
    names = list("abcdef"[: rng.randint(2, 6)])
    dense, latent = rng.choice([0.2, 0.4, 0.6]), rng.choice([0.1, 0.3, 0.5]) if confounded else 0
    nodes = [Node(b, "continuous", parents=[a for a in names[:i] if rng.random() < dense]) for i, b in enumerate(names)]
    rng.shuffle(nodes)
    graph = CausalGraph("random", nodes, bidirected=[pair for pair in combinations(names, 2) if rng.random() < latent])
    several = many and len(names) > 3 and rng.random() < 0.4
    count = (rng.randint(1, 2), rng.randint(1, 2)) if several else (1, 1)
    drawn = rng.sample(names, sum(count))
    return graph, frozenset(drawn[: count[0]]), frozenset(drawn[count[0] :])


def test_separation_is_what_the_paths_say():
    answers = Counter()
    for seed in range(GRAPHS):
        graph, a, b = random_case(seed)
        brute = Brute(graph)
        for given in powerset([name for name in graph.order if name not in a | b]):
            found = separated(graph, a, b, given)
            assert found == brute.separated(a, b, given), (seed, given)
            answers[found] += 1
    assert min(answers[True], answers[False]) > GRAPHS / 2


def with_latents(graph):
    expanded = nx.DiGraph(graph.networkx)
    for number, (a, b) in enumerate(graph.bidirected):
        expanded.add_edges_from([(("latent", number), a), (("latent", number), b)])
    return expanded


def test_separation_agrees_with_networkx_on_larger_graphs():
    for seed in range(GRAPHS // 6):
        rng = random.Random(seed)
        names = [f"n{number}" for number in range(14)]
        nodes = [Node(b, "continuous", parents=[a for a in names[:i] if rng.random() < 0.15]) for i, b in enumerate(names)]
        graph = CausalGraph("g", nodes, bidirected=[pair for pair in combinations(names, 2) if rng.random() < 0.08])
        expanded = with_latents(graph)
        for _ in range(20):
            drawn = rng.sample(names, rng.randint(2, 8))
            a, b, given = {drawn[0]}, {drawn[1]}, set(drawn[2:])
            assert separated(graph, a, b, given) == nx.is_d_separator(expanded, a, b, given)


def test_separation_agrees_with_pgmpy():
    from pgmpy.base import ADMG

    for seed in range(GRAPHS // 6):
        graph, a, b = random_case(seed, many=False)
        other = ADMG([(parent, name) for name in graph.order for parent in graph.parents(name)], graph.bidirected)
        other.add_nodes_from(graph.order)
        for given in powerset([name for name in graph.order if name not in a | b]):
            assert separated(graph, a, b, given) == other.is_mseparated(min(a), min(b), set(given))


def test_adjustment_sets_are_those_of_the_definition():
    sizes = Counter()
    for seed in range(GRAPHS):
        graph, x, y = random_case(seed)
        truth = Brute(graph).adjustment_sets(x, y)
        found = adjustment_sets(graph, x, y)
        assert len(found) == len(set(found))
        assert set(found) == truth, seed
        for z in powerset([name for name in graph.order if name not in x | y]):
            assert is_adjustment_set(graph, x, y, z) == (z in truth)
        sizes[min(len(truth), 2)] += 1
    assert min(sizes[0], sizes[1], sizes[2]) > GRAPHS / 40


def test_minimal_adjustment_sets_are_those_without_a_smaller_one_inside():
    for seed in range(GRAPHS):
        graph, x, y = random_case(seed)
        every = Brute(graph).adjustment_sets(x, y)
        minimal = {z for z in every if not any(other < z for other in every)}
        found = minimal_adjustment_sets(graph, x, y)
        assert len(found) == len(set(found))
        assert set(found) == minimal, seed
        assert minimal_adjustment_set(graph, x, y) in (minimal or {None})


def linear_model(graph, x, seed):
    """The covariance of a random linear-Gaussian model, in the graph's order, and its total effects of `x` on every node."""
    rng = np.random.default_rng(seed)
    place = {name: number for number, name in enumerate(graph.order)}
    size = len(place)
    weights, noise = np.zeros((size, size)), np.diag(rng.uniform(0.5, 1.5, size))
    for name in graph.order:
        for parent in graph.parents(name):
            weights[place[name], place[parent]] = rng.choice([-1, 1]) * rng.uniform(0.5, 1.5)
    for a, b in graph.bidirected:
        loadings = rng.uniform(0.5, 1.5, 2)
        noise[np.ix_([place[a], place[b]], [place[a], place[b]])] += np.outer(loadings, loadings)
    mixing = np.linalg.inv(np.eye(size) - weights)
    cut = weights.copy()
    cut[[place[name] for name in x]] = 0
    return mixing @ noise @ mixing.T, np.linalg.inv(np.eye(size) - cut), place


def test_an_adjustment_set_gives_the_effect_in_every_linear_model_and_no_other_set_does():
    right, wrong = 0, []
    for seed in range(GRAPHS):
        graph, x, y = random_case(seed)
        covariance, effects, place = linear_model(graph, x, seed)
        causes = [place[name] for name in sorted(x)]
        outcomes = [place[name] for name in y]
        for z in powerset([name for name in graph.order if name not in x | y]):
            regressors = causes + [place[name] for name in z]
            slopes = np.linalg.solve(covariance[np.ix_(regressors, regressors)], covariance[np.ix_(regressors, outcomes)])
            error = np.abs(slopes[: len(x)] - effects[np.ix_(outcomes, causes)].T).max()
            if is_adjustment_set(graph, x, y, z):
                assert error < 1e-9, (seed, z)
                right += 1
            else:
                wrong.append(error > 1e-6)
    assert right > GRAPHS / 2
    # a linear model may get away with a descendant that a nonlinear one would not
    assert np.mean(wrong) > 0.9


def test_front_door_sets_are_those_of_the_definition():
    found_some = 0
    for seed in range(GRAPHS):
        graph, x, y = random_case(seed)
        truth = Brute(graph).frontdoor_sets(x, y)
        assert set(frontdoor_sets(graph, x, y)) == truth, seed
        for z in powerset([name for name in graph.order if name not in x | y]):
            assert is_frontdoor_set(graph, x, y, z) == (z in truth)
        found_some += any(truth - {frozenset()})
    assert found_some > GRAPHS / 10


def test_an_effect_is_identifiable_unless_there_is_a_hedge():
    answers = Counter()
    for seed in range(GRAPHS):
        graph, x, y = random_case(seed)
        found = identifiable(graph, x, y)
        assert found != Brute(graph).has_hedge(x, y), seed
        answers[found] += 1
    assert min(answers[True], answers[False]) > GRAPHS / 20


def test_what_an_adjustment_or_front_door_set_gives_is_identifiable():
    for seed in range(GRAPHS):
        graph, x, y = random_case(seed)
        if minimal_adjustment_set(graph, x, y) is not None or frontdoor_sets(graph, x, y):
            assert identifiable(graph, x, y), seed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("x>y", True),
        ("x>y x-y", False),  # the bow
        ("x>m m>y x-y", True),  # the front door
        ("x>m m>y x-y m-y", False),
        ("x>m m>y x-m", False),
        ("z>x x>y x-y", False),  # an instrument
        ("w>z z>x x>y w-x w-y", True),  # the napkin
        ("z>x x>y z-x z-y", False),
        ("x>y z>y x-z", True),
        ("x>y z>y x-z z-y", False),
        ("x z-x z-y y", True),
    ],
)
def test_textbook_graphs_are_identifiable_or_not(text, answer):
    assert identifiable(graph_of(text), "x", "y") is answer


@pytest.mark.parametrize(
    ("text", "x", "y", "minimal"),
    [
        ("x>y", "x", "y", [""]),
        ("z>x z>y x>y", "x", "y", ["z"]),
        ("x>m m>y", "x", "y", [""]),
        ("x>y x>c y>c", "x", "y", [""]),
        ("a>x a>m b>m b>y x>y", "x", "y", [""]),  # M-bias: m alone would open a path
        ("a>x a>m b>m b>y m>x m>y x>y", "x", "y", ["am", "bm"]),  # the butterfly
        ("x>y x-y", "x", "y", []),
        ("x>m m>y x-y", "x", "y", []),
        ("z>x z>y x>a a>w x>y w>y", "xw", "y", ["z"]),
        ("z>x z>w x>w w>y x>y", "xw", "y", [""]),
        ("z>x x>w z>y w>y", "xw", "y", ["z"]),
        ("y>x", "x", "y", []),
    ],
)
def test_textbook_adjustment_sets(text, x, y, minimal):
    found = minimal_adjustment_sets(graph_of(text), list(x), list(y))
    assert ["".join(sorted(names)) for names in found] == minimal


def test_a_mediator_and_what_it_causes_are_never_adjusted_for():
    graph = graph_of("z>x z>y x>m m>y m>d x>e")
    assert all(not names & {"m", "d"} for names in adjustment_sets(graph, "x", "y"))
    assert is_adjustment_set(graph, "x", "y", ["z", "e"])


def test_small_sets_come_first():
    found = adjustment_sets(graph_of("a>x a>y x>y b>y c>b"), "x", "y")
    assert [len(names) for names in found] == [1, 2, 2, 3]


def test_an_image_may_be_an_outcome_and_is_not_adjusted_for():
    graph = load_graph("morphomnist")
    assert adjustment_sets(graph, "intensity", "image") == [{"thickness"}, {"thickness", "digit"}]
    assert minimal_adjustment_set(graph, "thickness", "image") == set()
    aside = graph_of("a>s x>y", s=Node("s", "image", shape=(1, 2, 2), parents=["a"]))
    assert adjustment_sets(aside, "x", "y") == [set(), {"a"}]
    assert is_adjustment_set(aside, "x", "y", "s")
    assert identifiable(graph, "thickness", "image")


def ladder(rungs):
    """`rungs` back-door paths of two nodes each from x to y."""
    return graph_of(" ".join(f"p{n}>x p{n}>q{n} q{n}>y" for n in range(rungs)) + " x>y")


def test_a_graph_too_large_to_enumerate_is_an_error_that_says_what_to_ask_instead():
    graph = ladder(20)
    with pytest.raises(GraphError, match=r"40 covariates, 1,099,511,627,776 sets.*minimal_adjustment_sets"):
        adjustment_sets(graph, "x", "y")
    with pytest.raises(GraphError, match="is_frontdoor_set"):
        frontdoor_sets(graph, "x", "y")
    with pytest.raises(GraphError, match=r"more than 20 minimal adjustment sets. Use minimal_adjustment_set\."):
        minimal_adjustment_sets(graph, "x", "y", limit=20)
    assert len(minimal_adjustment_set(graph, "x", "y")) == 20
    assert len(minimal_adjustment_sets(ladder(5), "x", "y", limit=32)) == 32


def test_one_question_about_a_graph_of_thousands_of_nodes_takes_seconds():
    start = time.perf_counter()
    graph = ladder(1000)
    assert not separated(graph, "x", "y", [f"p{n}" for n in range(999)])
    assert is_adjustment_set(graph, "x", "y", [f"q{n}" for n in range(1000)])
    assert identifiable(graph, "x", "y")
    assert time.perf_counter() - start < 20


def test_ancestors_are_those_of_networkx_and_the_nodes_themselves():
    for seed in range(GRAPHS // 6):
        graph, x, _ = random_case(seed)
        assert ancestors(graph, x) == x.union(*(nx.ancestors(graph.networkx, name) for name in x))


def test_without_latent_confounders_every_missing_edge_is_one_statement_that_holds():
    for seed in range(GRAPHS):
        graph, _, _ = random_case(seed, confounded=False)
        missing = {pair for pair in combinations(graph.order, 2) if not graph.networkx.has_edge(*pair)}
        found = implied_independencies(graph)
        assert {(statement.a, statement.b) for statement in found} == missing
        assert len(found) == len(missing)
        assert all(Brute(graph).separated({s.a}, {s.b}, set(s.given)) for s in found)


def test_the_statements_of_a_graph_without_latent_confounders_imply_all_the_others():
    """In a Gaussian model: project a random covariance onto the statements, one node at a time, and test all separations."""
    for seed in range(40):
        graph, _, _ = random_case(seed, confounded=False)
        rng = np.random.default_rng(seed)
        place = {name: number for number, name in enumerate(graph.order)}
        covariance = np.zeros((len(place), len(place)))
        for name in graph.order:
            row, before = place[name], range(place[name])
            covariance[row, row] = 10 + rng.uniform()
            given = [place[s.given[i]] for s in implied_independencies(graph) if s.b == name for i in range(len(s.given))]
            apart = [place[s.a] for s in implied_independencies(graph) if s.b == name]
            slopes = rng.normal(size=row)
            slopes[[other for other in before if other in apart and other not in given]] = 0
            covariance[row, :row] = covariance[:row, row] = covariance[:row, :row] @ slopes
            covariance[row, row] += slopes @ covariance[:row, :row] @ slopes
        for a, b in combinations(graph.order, 2):
            for given in powerset([name for name in graph.order if name not in (a, b)]):
                if separated(graph, a, b, given):
                    block = [place[name] for name in (a, b, *given)]
                    assert abs(np.linalg.inv(covariance[np.ix_(block, block)])[0, 1]) < 1e-9


def test_with_latent_confounders_every_pair_that_can_be_separated_comes_with_a_minimal_set():
    inseparable = 0
    for seed in range(GRAPHS):
        graph, _, _ = random_case(seed)
        if not graph.bidirected:
            continue
        brute = Brute(graph)
        found = {(statement.a, statement.b): frozenset(statement.given) for statement in implied_independencies(graph)}
        for a, b in combinations(graph.order, 2):
            sets = [z for z in powerset([n for n in graph.order if n not in (a, b)]) if brute.separated({a}, {b}, z)]
            assert ((a, b) in found) == bool(sets), seed
            if sets:
                assert found[a, b] in sets
                assert not any(z < found[a, b] for z in sets)
            else:
                adjacent = {a, b} in [{p, n} for n in graph.order for p in graph.parents(n)] + list(map(set, graph.bidirected))
                inseparable += not adjacent
    assert inseparable  # pairs without an edge that nothing separates


def test_a_statement_reads_as_in_the_literature():
    assert str(Independence("a", "b", ("c", "d"))) == "a _||_ b | c, d"
    assert str(Independence("a", "b")) == "a _||_ b"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda g: separated(g, "x", "yy"), r"cannot separate yy: graph 'g' has no such node. Did you mean 'y'"),
        (lambda g: separated(g, "x", "y", "zz"), "cannot condition on zz"),
        (lambda g: separated(g, "x", "y", ["y"]), "'y' is in b and in given"),
        (lambda g: ancestors(g, ["q"]), "cannot find the ancestors of q"),
        (lambda g: is_adjustment_set(g, "x", "y", ["q"]), "cannot adjust for q"),
        (lambda g: is_adjustment_set(g, "x", "y", "x"), "'x' is in treatment and in z"),
        (lambda g: adjustment_sets(g, "x", "x"), "'x' is in treatment and in outcome"),
        (lambda g: minimal_adjustment_set(g, "q", "y"), "cannot take as treatment q"),
        (lambda g: minimal_adjustment_sets(g, [], "y"), "treatment names no node"),
        (lambda g: identifiable(g, "x", []), "outcome names no node"),
        (lambda g: is_frontdoor_set(g, "x", "y", "y"), "'y' is in outcome and in z"),
    ],
)
def test_a_question_that_makes_no_sense_is_an_error_that_names_the_node(ask, words):
    with pytest.raises(GraphError, match=words):
        ask(graph_of("z>x z>y x>y"))


# data


def mixed_graph():
    nodes = [
        Node("age", "continuous", unit="year"),
        Node("sex", "binary", states=["f", "m"]),
        Node("stage", "ordinal", states=[1, 2, 3], parents=["age"]),
        Node("size", "continuous", parents=["age", "sex"]),
        Node("finding", "categorical", states=["none", "mild", "severe"], parents=["stage", "sex"]),
    ]
    return CausalGraph("clinic", nodes)


def mixed_table(rows, seed):
    rng = np.random.default_rng(seed)
    age = rng.normal(60, 10, rows)
    sex = rng.integers(2, size=rows)
    stage = 1 + np.digitize((age - 60) / 10 + rng.normal(size=rows), [-0.7, 0.7])
    size = np.sin((age - 60) / 5) + sex + (1 + 0.5 * sex) * rng.normal(size=rows)
    utility = np.stack([np.zeros(rows), stage - 2 + sex, 1.5 * (stage - 2)], axis=1) + rng.gumbel(size=(rows, 3))
    finding = np.array(["none", "mild", "severe"])[utility.argmax(axis=1)]
    return pd.DataFrame({"age": age, "sex": np.array(["f", "m"])[sex], "stage": stage, "size": size, "finding": finding})


def without_edge(graph, cause, effect):
    nodes = [
        Node(n.name, n.kind, states=n.states, parents=[p for p in n.parents if (p, n.name) != (cause, effect)])
        for n in graph.nodes
    ]
    return CausalGraph("fewer", nodes, bidirected=graph.bidirected)


def with_edge(graph, cause, effect):
    nodes = [
        Node(n.name, n.kind, states=n.states, parents=[*n.parents, *([cause] if n.name == effect else [])]) for n in graph.nodes
    ]
    return CausalGraph("more", nodes, bidirected=graph.bidirected)


def test_data_do_not_contradict_the_graph_that_made_them():
    result = check(mixed_graph(), mixed_table(3000, 0))
    assert result.passed
    assert result.contradicted == result.untestable == result.unsupported_edges == []
    assert set(result.table["verdict"]) == {"holds", "supported"}
    assert len(result.table) == 5 + 5
    assert "0 of 5 implied independencies contradicted at 0.05 (Holm)." in str(result)


@pytest.mark.parametrize(
    ("cause", "effect"), [("age", "stage"), ("age", "size"), ("sex", "size"), ("stage", "finding"), ("sex", "finding")]
)
def test_data_contradict_a_graph_that_lacks_one_of_their_edges(cause, effect):
    result = check(without_edge(mixed_graph(), cause, effect), mixed_table(3000, 0))
    assert not result.passed
    assert {cause, effect} in [{statement.a, statement.b} for statement in result.contradicted]
    assert f"contradicted: {result.contradicted[0]}  (p = " in str(result)


def test_an_edge_too_many_is_not_needed_and_no_contradiction():
    result = check(with_edge(mixed_graph(), "sex", "stage"), mixed_table(3000, 0))
    assert result.passed
    assert result.unsupported_edges == [("sex", "stage")]
    assert "edge not needed: sex -> stage | age" in str(result)
    assert result.table.set_index(["a", "b"]).loc[("sex", "stage"), "verdict"] == "not supported"


def numbers(**columns):
    return pd.DataFrame(columns)


def contradicted(graph, table):
    return list(map(str, check(graph, table).contradicted))


def test_curved_confounding_and_unequal_noise_are_no_contradiction():
    rng = np.random.default_rng(0)
    z, noise = rng.normal(size=4000), rng.normal(size=(2, 4000))
    graph = graph_of("z>a z>b")
    assert contradicted(graph, numbers(z=z, a=np.sin(3 * z) + noise[0], b=np.sin(3 * z) + z**2 + noise[1])) == []
    assert contradicted(graph, numbers(z=z, a=np.exp(z) * noise[0], b=np.exp(z) * noise[1])) == []
    assert contradicted(graph, numbers(z=z, a=z + np.exp(z) * noise[0], b=z + noise[1])) == []


def test_confounders_that_act_together_are_no_contradiction():
    rng = np.random.default_rng(0)
    p, q, noise_a, noise_b = rng.normal(size=(4, 4000))
    graph = graph_of("p>a q>a p>b q>b")
    assert contradicted(graph, numbers(p=p, q=q, a=p * q + noise_a, b=p - p * q + noise_b)) == []
    skewed = numbers(p=np.exp(p), q=np.exp(q), a=np.exp(p) + np.exp(q + 0.2) + np.exp(noise_a), b=np.exp(p) + np.exp(q) + noise_b)
    assert contradicted(graph, skewed) == []


def test_states_that_hardly_ever_meet_are_no_contradiction():
    """Low and high states are common alone and, given their cause, next to impossible together."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=5000)
    table = pd.DataFrame({"z": z} | {f"s{n}": np.digitize(z + rng.normal(size=5000), [-2, -0.7, 0.7, 2]) for n in range(10)})
    states = {f"s{n}": Node(f"s{n}", "ordinal", parents=["z"], states=[0, 1, 2, 3, 4]) for n in range(10)}
    assert contradicted(graph_of(" ".join(f"z>{name}" for name in states), **states), table) == []


def test_a_dependence_without_correlation_is_seen():
    rng = np.random.default_rng(0)
    a, noise = rng.normal(size=(2, 1000))
    assert contradicted(graph_of("a b"), numbers(a=a, b=a**2 + noise)) == ["a _||_ b"]
    assert contradicted(graph_of("a b"), numbers(a=a, b=a * noise)) == ["a _||_ b"]
    assert contradicted(graph_of("a b"), numbers(a=a, b=noise)) == []


def test_a_graph_that_implies_nothing_says_that_no_data_can_contradict_it():
    table = numbers(x=[float(n) for n in range(60)], y=[float(n * n % 7) for n in range(60)])
    result = check(graph_of("x>y"), table)
    assert result.passed
    assert "implies no independence among its attributes: no data can contradict it" in str(result)


def noise_table(rows=400, names="abz", seed=0):
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(rows, len(names))), columns=list(names))


def rare(rows, count):
    column = np.zeros(rows, dtype=int)
    column[:count] = 1
    return column


ALONE = {"a": Node("a", "binary"), "b": Node("b", "binary")}


@pytest.mark.parametrize(
    ("graph", "table", "note"),
    [
        (graph_of("a b"), noise_table(49), "49 rows, 50 are needed"),
        (graph_of("a b"), noise_table().assign(a=np.nan), "0 rows, 50 are needed"),
        (graph_of("p>a q>a r>a b"), noise_table(300, "pqrab").assign(b=1.0), "'b' is constant"),
        (graph_of("z>a z>b"), noise_table().assign(a=lambda t: 2 * t["z"] + 1), "'a' is a function of what is given"),
        (
            graph_of("a b", **ALONE),
            pd.DataFrame({"a": rare(400, 24), "b": rare(400, 200)}),
            "'a' has fewer than two states with 25",
        ),
        (graph_of("a b", **ALONE), pd.DataFrame({"a": rare(400, 40), "b": rare(400, 200)[::-1]}), "expected together in 25 rows"),
    ],
)
def test_what_cannot_be_tested_is_never_a_pass(graph, table, note):
    if note.startswith("expected"):
        table = pd.DataFrame({"a": rare(400, 40), "b": rare(400, 100)[::-1]})
    result = check(graph, table)
    assert not result.passed
    assert result.contradicted == []
    assert result.untestable
    rows = result.table[result.table["verdict"] == "untestable"]
    assert rows["note"].str.contains(note, regex=False).any()
    assert rows[["statistic", "p", "p_adjusted"]].isna().all(axis=None)
    assert note in str(result)


def test_more_states_given_need_more_rows():
    z = Node("z", "categorical", states=list(range(30)))
    nodes = [z, Node("a", "continuous", parents=["z"]), Node("b", "continuous", parents=["z"])]
    table = noise_table(149).assign(z=np.arange(149) % 30)
    result = check(CausalGraph("g", nodes), table)
    assert result.table["note"][0] == "149 rows, 150 are needed with 1 nodes given"
    assert check(CausalGraph("g", nodes), pd.concat([table, table.iloc[:1]], ignore_index=True)).passed


def test_rows_with_missing_values_are_dropped_where_they_matter_and_counted():
    table = mixed_table(3000, 0).astype({"stage": object})
    table.loc[:99, "age"] = np.nan
    table.loc[50:199, "finding"] = None
    table.loc[2999, "stage"] = None
    found = check(mixed_graph(), table)
    assert found.passed
    rows = found.table.set_index(["kind", "a", "b"])
    assert rows.loc[("edge", "sex", "size"), ["rows", "dropped"]].tolist() == [2900, 100]
    assert rows.loc[("edge", "sex", "finding"), ["rows", "dropped"]].tolist() == [2849, 151]
    assert rows.loc[("independence", "age", "finding"), ["rows", "dropped"]].tolist() == [2799, 201]
    whole = check(mixed_graph(), table.dropna()).table.set_index(["kind", "a", "b"])
    assert rows.loc[("edge", "age", "stage"), "p"] != whole.loc[("edge", "age", "stage"), "p"]


def test_missing_values_change_nothing_but_the_rows():
    table = noise_table(600, "abz")
    holes = table.copy()
    holes.loc[400:, "z"] = np.nan
    graph = graph_of("z>a z>b")
    columns = ["statistic", "p", "p_adjusted", "verdict"]
    pd.testing.assert_frame_equal(check(graph, holes).table[columns], check(graph, table[:400]).table[columns])


def test_true_counts_as_one():
    table = pd.DataFrame({name: one_of(2, 200, seed) for seed, name in enumerate("ab")})
    expected = check(graph_of("a b", **ALONE), table).table
    pd.testing.assert_frame_equal(check(graph_of("a b", **ALONE), table.astype({"a": bool})).table, expected)
    assert expected["rows"].tolist() == [200]


def test_a_latent_confounder_is_no_contradiction_and_hides_its_edge():
    rng = np.random.default_rng(0)
    hidden, z, noise_a, noise_b = rng.normal(size=(4, 2000))
    a = z + hidden + noise_a
    table = numbers(z=z, a=a, b=hidden + noise_b)
    assert contradicted(graph_of("z>a b"), table) == ["a _||_ b"]
    assert contradicted(graph_of("z>a a-b"), table) == []
    result = check(graph_of("z>a a>b a-b"), table.assign(b=lambda t: t["b"] + t["a"]))
    row = result.table.set_index(["a", "b"]).loc[("a", "b")]
    assert (row["verdict"], row["note"]) == ("untestable", "a latent confounder keeps the two dependent without the edge")
    assert result.untestable == []  # an edge, not a statement of the graph


def test_images_are_left_aside_and_a_batch_will_do():
    rng = np.random.default_rng(0)
    thickness = rng.uniform(1, 6, 500)
    intensity = 64 + 190 / (1 + np.exp(-(thickness - 3 + rng.normal(size=500))))
    table = pd.DataFrame({"thickness": thickness, "intensity": intensity, "digit": rng.integers(10, size=500).astype(str)})
    graph = load_graph("morphomnist")
    result = check(graph, Batch(graph, table))
    assert set(result.table["a"]) | set(result.table["b"]) == {"thickness", "intensity", "digit"}
    assert result.contradicted == []
    pd.testing.assert_frame_equal(result.table, check(graph, table).table)


@pytest.mark.parametrize("name", graph_names())
def test_every_ready_made_graph_can_be_asked(name):
    graph = load_graph(name)
    for statement in implied_independencies(graph):
        assert separated(graph, statement.a, statement.b, statement.given)


def test_the_result_is_plain_data():
    result = check(graph_of("p>a q>a b"), noise_table(100, "pqab").assign(b=1.0))
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["passed"] is False
    assert data["untestable"] == list(map(str, result.untestable))
    assert data["tests"][0]["given"] == []
    assert [test["p"] is None for test in data["tests"]] == result.table["p"].isna().tolist()
    assert repr(result) == f"GraphCheck('g', passed=False, tests={len(result.table)}, contradicted=0)"
    assert isinstance(result, GraphCheck)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (noise_table()[["a", "z"]], r"no column b, which graph 'g' needs. Its columns are: a, z"),
        (noise_table().assign(b=np.inf), "column 'b' has 400 missing or infinite values"),
        (noise_table().assign(b="high"), "column 'b' is continuous in the graph but holds"),
        (noise_table().iloc[:0], "the table has no rows"),
        (pd.concat([noise_table(), noise_table()[["b"]]], axis=1), "two columns called 'b'"),
        (noise_table().to_numpy(), "pandas DataFrame or a Batch, not ndarray"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error_that_names_the_column(table, words):
    with pytest.raises(DataError, match=words):
        check(graph_of("z>a z>b"), table)


def test_an_unknown_label_or_a_level_that_is_none_is_an_error():
    with pytest.raises(DataError, match="column 'sex' has the unknown label 'x'"):
        check(mixed_graph(), mixed_table(100, 0).assign(sex="x"))
    with pytest.raises(DataError, match="alpha is 5; give a number between 0 and 1"):
        check(mixed_graph(), mixed_table(100, 0), alpha=5)


def test_holm_is_holm():
    nan = np.nan
    assert _holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(_holm(np.array([0.9, nan, 0.02])), [0.9, nan, 0.04])
    assert _holm(np.array([])).tolist() == []
    assert _holm(np.array([nan])).tolist() == pytest.approx([nan], nan_ok=True)


def test_on_two_binary_nodes_the_test_is_the_generalised_covariance_measure_of_pgmpy():
    from pgmpy.ci_tests import GCM

    rng = np.random.default_rng(0)
    z = rng.integers(2, size=500)
    table = pd.DataFrame({name: (rng.random(500) < 0.3 + 0.4 * z) * 1 for name in "ab"} | {"z": z})
    graph = graph_of("z>a z>b", kind="binary")
    row = check(graph, table).table.iloc[0]
    expected, _ = GCM(table).run_test("a", "b", ["z"])
    # pgmpy counts rows, this module the rows beyond the two columns of the regression
    assert row["statistic"] == pytest.approx(expected**2 * (500 - 2 - 1) / 500, rel=1e-9)


# under the null hypothesis a count beyond this quantile turns up once in ten thousand seeds
P_VALUE = 1e-4


def test_p_values_are_honest_where_the_graph_is_true():
    from scipy.stats import binom

    rng = np.random.default_rng(0)
    rows, z = 500, rng.integers(3, size=500)
    draws = {
        "plain": lambda: z + rng.normal(size=rows),
        "unequal": lambda: z + (1 + z) * rng.normal(size=rows),
        "skewed": lambda: np.exp(z / 2 + rng.normal(size=rows)),
        "binary": lambda: (z + 2 * rng.normal(size=rows) > 1) * 1,
        "ordinal": lambda: np.digitize(z + 2 * rng.normal(size=rows), [0, 2]),
    }
    table = pd.DataFrame({"z": z} | {f"{kind}{number}": draw() for kind, draw in draws.items() for number in range(12)})
    nodes = [Node("z", "categorical", states=[0, 1, 2])]
    for name in table.columns[1:]:
        kind = name.rstrip("0123456789")
        states = [0, 1, 2] if kind == "ordinal" else None
        nodes.append(Node(name, kind if kind in ("binary", "ordinal") else "continuous", parents=["z"], states=states))
    result = check(CausalGraph("g", nodes), table)
    found = result.table[result.table["kind"] == "independence"]
    assert len(found) == 60 * 59 / 2
    kinds = found[["a", "b"]].apply(lambda column: column.str.rstrip("0123456789")).agg(" ".join, axis=1)
    for level in (0.05, 0.01):
        for kind, small in (found["p"] < level).groupby(kinds):
            low, high = binom.ppf([P_VALUE, 1 - P_VALUE], len(small), level)
            assert low <= small.sum() <= high, (kind, level, small.mean())
    assert result.passed


def discrete_table(rows=2000, seed=0):
    """Three discrete nodes of which z drives the others, with labels that sort otherwise than they are declared."""
    rng = np.random.default_rng(seed)
    z = rng.integers(3, size=rows)
    a, b = (np.digitize(z - 1 + 1.5 * rng.normal(size=rows), [-0.5, 0.5]) for _ in "ab")
    words = np.array(["none", "mild", "severe"])
    return pd.DataFrame({"z": words[z], "a": words[a], "b": b, "yes": (rng.random(rows) < 0.3 + 0.2 * z) * 1})


def discrete_graph():
    words = ["none", "mild", "severe"]
    return CausalGraph(
        "g",
        [
            Node("z", "ordinal", states=words),
            Node("a", "categorical", states=words, parents=["z"]),
            Node("b", "categorical", states=[0, 1, 2, 3], parents=["z"]),  # 3 never occurs
            Node("yes", "binary", parents=["z"]),
        ],
    )


def asked_directly(name, table, row):
    """What pgmpy says of the table that a user would give it."""
    import pgmpy.ci_tests

    asked = getattr(pgmpy.ci_tests, name)(table)
    asked.run_test(row["a"], row["b"], list(row["given"]))
    return asked.statistic_, asked.p_value_, asked.effect_size_


@pytest.mark.parametrize(
    ("test", "name", "graph", "table"),
    [
        ("pearsonr", "Pearsonr", graph_of("p>a q>a p>b"), noise_table(60, "pqab").eval("a = a + p")),
        ("fisher_z", "FisherZ", graph_of("p>a q>a p>b"), noise_table(60, "pqab").eval("a = a + p")),
        ("gcm", "GCM", graph_of("p>a q>a p>b"), noise_table(60, "pqab").eval("a = a + p")),
        ("chi_square", "ChiSquare", discrete_graph(), discrete_table(8000)),
        ("g_sq", "GSq", discrete_graph(), discrete_table(8000)),
    ],
)
def test_a_test_of_pgmpy_says_what_pgmpy_says(test, name, graph, table):
    result = check(graph, table, test=test)
    assert result.untestable == []
    assert len(result.table) == 6
    for _, row in result.table.iterrows():
        expected = asked_directly(name, table, row)
        assert (row["statistic"], row["p"], row["effect"]) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert result.test == result.to_dict()["test"] == test


def test_pillai_of_numbers_and_states_says_what_pgmpy_says():
    table = discrete_table(200)[["z", "yes"]].assign(size=np.random.default_rng(1).normal(size=200))
    graph = CausalGraph(
        "g",
        [
            Node("z", "ordinal", states=["none", "mild", "severe"]),
            Node("yes", "binary", parents=["z"]),
            Node("size", "continuous", parents=["z"]),
        ],
    )
    result = check(graph, table, test="pillai")
    assert {row["given"] for _, row in result.table.iterrows()} == {(), ("z",)}
    for _, row in result.table.iterrows():
        # pgmpy takes whole numbers for measurements unless they are said to be states
        expected = asked_directly("PillaiTrace", table.astype({"yes": "category"}), row)
        assert (row["statistic"], row["p"], row["effect"]) == pytest.approx(expected, rel=1e-6)


def test_holm_corrects_the_p_values_of_pgmpy_too_and_edges_stay_apart():
    table = noise_table(200, "abcdz").eval("a = a + z")
    found = check(graph_of("z>a b c d"), table.assign(c=lambda t: t["c"] + 0.2 * t["b"]), test="pearsonr").table
    for kind, small in (("independence", "contradicted"), ("edge", "supported")):
        rows = found[found["kind"] == kind]
        assert rows["p_adjusted"].tolist() == _holm(rows["p"].to_numpy()).tolist()
        assert ((rows["p_adjusted"] <= 0.05) == (rows["verdict"] == small)).all()
    independence = found[found["kind"] == "independence"]
    assert len(independence) == 9
    assert (independence["p_adjusted"] > independence["p"]).all()
    assert (found[found["kind"] == "edge"]["p_adjusted"] == found[found["kind"] == "edge"]["p"]).all()


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("pearsonr", r"'pearsonr' is for continuous nodes, and node 'sex' is binary\. .*graph 'clinic': covariance, pillai\."),
        ("fisher_z", "for continuous nodes, and node 'sex' is binary"),
        ("gcm", "for continuous nodes, and node 'sex' is binary"),
        ("chi_square", "for discrete nodes, and node 'age' is continuous"),
        ("g_sq", "for discrete nodes, and node 'age' is continuous"),
        ("spearman", "there is no test 'spearman'. Tests are: covariance, pearsonr, fisher_z, gcm, chi_square, g_sq, pillai"),
        (None, "there is no test None"),
    ],
)
def test_a_test_that_does_not_fit_a_node_is_refused(test, words):
    with pytest.raises(DataError, match=words):
        check(mixed_graph(), mixed_table(100, 0), test=test)


def test_a_refusal_names_the_tests_that_fit():
    with pytest.raises(DataError, match=r"node 'z' is ordinal.*: covariance, chi_square, g_sq, pillai"):
        check(discrete_graph(), discrete_table(), test="gcm")
    with pytest.raises(DataError, match=r"node 'a' is continuous.*: covariance, pearsonr, fisher_z, gcm, pillai"):
        check(graph_of("a b"), noise_table(), test="g_sq")


def test_an_image_does_not_stand_in_the_way_of_a_test():
    graph = graph_of("a b a>s", s=Node("s", "image", shape=(1, 2, 2), parents=["a"]))
    assert check(graph, noise_table(), test="pearsonr").passed


def test_under_unequal_noise_partial_correlation_rejects_what_is_true_and_the_default_does_not():
    from scipy.stats import binom

    rng = np.random.default_rng(0)
    z = rng.normal(size=400)
    names = [f"n{number}" for number in range(16)]
    table = pd.DataFrame({"z": z} | {name: z * rng.normal(size=400) for name in names})
    graph = graph_of(" ".join(f"z>{name}" for name in names))
    rejected = {}
    for test in ("covariance", "gcm", "pearsonr"):
        found = check(graph, table, test=test).table
        small = found.loc[found["kind"] == "independence", "p"] < 0.05
        assert len(small) == 120
        rejected[test] = small.sum()
    most = binom.ppf(1 - P_VALUE, 120, 0.05)
    assert rejected["covariance"] <= most
    assert rejected["gcm"] <= most
    assert rejected["pearsonr"] > most
    assert check(graph, table).contradicted == []
    assert check(graph, table, test="pearsonr").contradicted


def test_a_curved_confounder_misleads_the_linear_tests_and_not_the_default():
    rng = np.random.default_rng(0)
    z, noise_a, noise_b = rng.normal(size=(3, 1000))
    table = numbers(z=z, a=np.sin(3 * z) + noise_a, b=np.sin(3 * z) + noise_b)
    graph = graph_of("z>a z>b")
    assert check(graph, table).contradicted == []
    for test in ("pearsonr", "fisher_z", "gcm"):
        assert list(map(str, check(graph, table, test=test).contradicted)) == ["a _||_ b | z"]


@pytest.mark.parametrize(
    ("test", "table", "note"),
    [
        ("pearsonr", noise_table(49), "49 rows, 50 are needed"),
        ("pearsonr", noise_table().assign(b=1.0), "'b' is constant"),
        ("gcm", noise_table().eval("a = 2 * z + 1"), "'a' is a function of what is given"),
        ("pillai", noise_table().eval("b = z"), "'b' is a function of what is given"),
    ],
)
def test_what_the_default_cannot_test_no_other_test_does(test, table, note):
    result = check(graph_of("z>a z>b"), table, test=test)
    assert not result.passed
    assert len(result.untestable) == 1
    row = result.table.iloc[0]
    assert note in row["note"].replace(" with 1 nodes given", "")
    assert np.isnan([row["statistic"], row["p"], row["p_adjusted"]]).all()


def one_of(states, rows, seed):
    return np.random.default_rng(seed).integers(states, size=rows)


def test_a_table_with_thin_cells_is_untestable():
    """Three states by three given twenty: 180 cells, so that 900 rows expect 5 in a cell, and 4,500 expect 25."""
    kinds = {"z": 20, "a": 3, "b": 3}
    nodes = [Node(n, "categorical", states=list(range(k)), parents=[] if n == "z" else ["z"]) for n, k in kinds.items()]
    graph = CausalGraph("g", nodes)
    verdicts = {}
    for rows in (600, 1600, 7000):
        table = pd.DataFrame({name: one_of(states, rows, seed) for seed, (name, states) in enumerate(kinds.items())})
        for test in ("covariance", "chi_square", "g_sq"):
            verdicts[rows, test] = (row := check(graph, table, test=test).table.iloc[0])["verdict"]
            thin = "" if row["verdict"] == "holds" else "of 180 cells of 'a' by 'b' given the rest, more than a fifth"
            assert row["note"].startswith(thin)
    assert {key for key, verdict in verdicts.items() if verdict != "holds"} == {
        (600, "chi_square"),
        (600, "g_sq"),
        (1600, "g_sq"),
    }


@pytest.mark.parametrize(
    ("of_b", "thin", "verdict"),
    [((200, 200, 400), 0, "holds"), ((100, 200, 500), 1, "holds"), ((100, 100, 600), 2, "untestable")],
)
def test_a_fifth_of_the_cells_may_be_thin_and_no_more(of_b, thin, verdict):
    alone = {name: Node(name, "categorical", states=[0, 1, 2]) for name in "ab"}
    of_a = (26, 400, 374)
    assert np.count_nonzero(np.outer(of_a, of_b) / 800 < 5) == thin  # of nine
    a = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], of_a))
    table = pd.DataFrame({"a": a, "b": np.repeat([0, 1, 2], of_b)})
    assert check(graph_of("a b", **alone), table, test="chi_square").table["verdict"].tolist() == [verdict]


def test_strata_in_which_a_node_does_not_vary_do_not_make_a_table_thin():
    z = np.repeat(np.arange(41), [400, *[10] * 40])
    table = pd.DataFrame({"z": z, "a": one_of(2, 800, 0) * (z == 0), "b": one_of(2, 800, 1)})
    nodes = [Node("z", "categorical", states=list(range(41))), *(Node(name, "binary", parents=["z"]) for name in "ab")]
    row = check(CausalGraph("g", nodes), table, test="chi_square").table.iloc[0]
    assert (row["verdict"], row["note"]) == ("holds", "")
    assert row["p"] == pytest.approx(asked_directly("ChiSquare", table, row)[1], rel=1e-9)


def test_a_rare_state_is_untestable_by_pillai():
    graph = graph_of("a b", b=Node("b", "categorical", states=[0, 1, 2]))
    table = noise_table(400, "a").assign(b=rare(400, 200) + rare(400, 24))
    assert check(graph, table).passed  # which leaves the state out
    row = check(graph, table, test="pillai").table.iloc[0]
    assert (row["verdict"], row["note"]) == ("untestable", "a state of 'b' has 24 rows, 25 are needed")


def test_combinations_of_states_that_never_occur_need_no_memory():
    """Six copies of a node with 30 states make 30 strata, not 30 ** 6."""
    z = one_of(30, 3000, 0)
    table = pd.DataFrame({f"z{n}": z for n in range(6)} | {"a": one_of(2, 3000, 1), "b": one_of(2, 3000, 2), "z": z})
    copies = {f"z{n}": Node(f"z{n}", "categorical", states=list(range(30))) for n in range(6)}
    made = {name: Node(name, "binary", parents=list(copies)) for name in "ab"}
    graph = CausalGraph("g", [*copies.values(), *made.values()])
    row = check(graph, table, test="chi_square").table.set_index(["a", "b"]).loc[("a", "b")]
    expected = asked_directly("ChiSquare", table, {"a": "a", "b": "b", "given": ["z"]})
    assert (row["statistic"], row["p"], row["effect"]) == pytest.approx(expected, rel=1e-9)


def test_names_that_pgmpy_keeps_for_itself_are_names_like_others():
    graph = graph_of("_intercept_Z>a _intercept_Z>b")
    table = noise_table().eval("a = a + z")
    plain = check(graph_of("z>a z>b"), table, test="gcm").table
    odd = check(graph, table.rename(columns={"z": "_intercept_Z"}), test="gcm").table
    assert odd["p"].tolist() == plain["p"].tolist()
    names = ["stratum", "0", "1"]
    graph = CausalGraph("g", [Node("stratum", "binary"), *(Node(name, "binary", parents=["stratum"]) for name in names[1:])])
    table = pd.DataFrame({name: one_of(2, 400, seed) for seed, name in enumerate(names)})
    row = check(graph, table, test="chi_square").table.iloc[0]
    assert row["p"] == pytest.approx(asked_directly("ChiSquare", table, row)[1], rel=1e-9)


def test_a_test_of_pgmpy_drops_the_rows_that_lack_a_node():
    table = noise_table(600, "abz")
    holes = table.copy()
    holes.loc[400:, "z"] = np.nan
    row = check(graph_of("z>a z>b"), holes, test="pearsonr").table.iloc[0]
    assert (row["rows"], row["dropped"]) == (400, 200)
    assert row["p"] == pytest.approx(asked_directly("Pearsonr", table[:400], row)[1], rel=1e-9)


def test_the_print_says_who_tested_and_in_what_the_effect_is_measured():
    table = noise_table(2000).eval("b = b + 20 * a")
    text = str(check(graph_of("a b"), table, test="pearsonr"))
    assert "1 of 1 implied independencies contradicted at 0.05 (Holm; pearsonr of pgmpy)." in text
    assert "(p < 1e-12, partial correlation 1.00, 2,000 rows)" in text
    states = (table > 0).astype(int)
    assert "Cramér's V 0.9" in str(check(graph_of("a b", **ALONE), states, test="chi_square"))
    table = table[:100].assign(b=states["b"])
    graph = graph_of("a b", b=ALONE["b"])
    assert "partial eta squared 0." in str(check(graph, table, test="pillai"))


def test_the_default_does_without_pgmpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pgmpy.ci_tests", None)
    assert check(graph_of("a b"), noise_table()).passed
    with pytest.raises(ImportError):
        check(graph_of("a b"), noise_table(), test="pearsonr")


def test_the_command_line_takes_a_test(tmp_path, capsys):
    graph, table = tmp_path / "g.dot", tmp_path / "t.csv"
    graph.write_text("digraph { z -> a; z -> b }")
    noise_table().eval("a = a + z").to_csv(table, index=False)
    command = ["check", str(graph), "--data", str(table)]
    assert main([*command, "--test", "gcm"]) == 0
    assert "(Holm; gcm of pgmpy)" in capsys.readouterr().out
    assert main([*command, "--test", "pearsonr", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["test"] == "pearsonr"
    expected = check(graph_of("z>a z>b"), pd.read_csv(table), test="pearsonr").table["p"].tolist()
    assert [test["p"] for test in said["tests"]] == pytest.approx(expected)
    for name, words in (("chi_square", "node 'z' is continuous"), ("pearson", "there is no test 'pearson'")):
        assert main([*command, "--test", name]) == 2
        assert words in capsys.readouterr().err


def test_a_hundred_thousand_rows_of_a_study_take_seconds():
    rng = np.random.default_rng(0)
    rows, causes = 100_000, ("age", "sex", "view")
    age, sex, view = rng.normal(50, 15, rows), rng.integers(2, size=rows), rng.integers(2, size=rows)
    nodes = [Node("age", "continuous"), Node("sex", "binary"), Node("view", "binary", parents=["age"])]
    view = (rng.random(rows) < 1 / (1 + np.exp(-(age - 50) / 15))) * 1
    table = {"age": age, "sex": sex, "view": view}
    for number in range(8):
        logit = -3 + 0.02 * (age - 50) + 0.3 * sex + 0.5 * view
        table[f"finding{number}"] = (rng.random(rows) < 1 / (1 + np.exp(-logit))) * 1
        nodes.append(Node(f"finding{number}", "binary", parents=causes))
    start = time.perf_counter()
    result = check(CausalGraph("study", nodes), pd.DataFrame(table))
    assert time.perf_counter() - start < 60
    assert result.passed
    assert result.unsupported_edges == []


def test_a_balanced_column_of_two_numbers_is_tested_as_any_other():
    draw = np.random.default_rng(0)
    arm = np.array([0.0, 1.0] * 100)
    graph = CausalGraph("apart", [Node("arm", "continuous"), Node("y", "continuous")])
    assert check(graph, Batch(graph, pd.DataFrame({"arm": arm, "y": draw.normal(size=200)}))).passed
    assert not check(graph, Batch(graph, pd.DataFrame({"arm": arm, "y": draw.normal(size=200) + arm}))).passed
