"""Effects: answers known in closed form or by enumeration, bounds that hold whatever the noise, and what is not identified."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import causalcf as ccf
from causalcf import effects, training
from causalcf.attributes.categorical import Categorical
from causalcf.attributes.equation import Equation
from causalcf.attributes.monotone import Monotone
from causalcf.attributes.response import ResponseType
from causalcf.effects import (
    ate,
    cate,
    causation_bounds,
    direct_effect,
    indirect_effect,
    ite,
    probability_of_necessity,
    probability_of_necessity_and_sufficiency,
    probability_of_sufficiency,
)
from causalcf.errors import DataError, GraphError, NotFittedError
from causalcf.graph import CausalGraph, Node

# a mean of draws is further than this many standard errors from its expectation once in 150,000 seeds; the seeds are fixed
FAR = 4.5
GRAPHS = 30  # random ones; 800 were tried once
CAUSATION = {
    "PN": probability_of_necessity,
    "PS": probability_of_sufficiency,
    "PNS": probability_of_necessity_and_sufficiency,
}


def known(f=lambda: 0.0, scale=1.0):
    """x = f(parents) + scale u, u ~ N(0, 1)."""
    return Equation(lambda u, parents: f(**parents) + scale * u, lambda x, parents: (x - f(**parents)) / scale)


def number(name, *parents, **more):
    return Node(name, "continuous", parents=parents, **more)


def binary(name, *parents):
    return Node(name, "binary", parents=parents)


def paths(interaction=0.0):
    """z confounds t -> y, m mediates it: total effect 2 + 0.5 (3 + interaction t) a unit of t, and more with interaction."""
    nodes = [number("z"), number("t", "z"), number("m", "t"), number("y", "t", "m", "z", unit="mm")]
    mechanisms = {
        "z": known(scale=2.0),
        "t": known(lambda z: z, 0.5),
        "m": known(lambda t: 0.5 * t, 1.5),
        "y": known(lambda t, m, z: 2 * t + 3 * m + 4 * z + interaction * t * m, 0.7),
    }
    return ccf.SCM(CausalGraph("paths", nodes), mechanisms)


def tables(nodes, seed, edges=()):
    """A random probability table for every node of a graph of binary nodes, none near 0 or 1."""
    draw = np.random.default_rng(seed)
    ones = {node.name: draw.uniform(0.1, 0.9, size=(2,) * len(node.parents)) for node in nodes}
    return {name: np.stack([1 - one, one], axis=-1) for name, one in ones.items()}


def discrete(nodes, seed, mechanism=Categorical, bidirected=()):
    table = tables(nodes, seed)
    return ccf.SCM(
        CausalGraph("random", nodes, bidirected), {name: mechanism(probabilities=p) for name, p in table.items()}
    ), table


def truncated(nodes, table, treatment, values):
    """P(every node) when each node sees its own value of the treatment: product of tables, as an array with a node an axis.

    Args:
        values: the treatment's value by node that has it as a parent.
    """
    names = [node.name for node in nodes]
    joint = np.ones((2,) * len(names))
    for node in nodes:
        axes = [*node.parents, node.name]
        if node.name == treatment:
            continue
        part = table[node.name]
        if treatment in node.parents:
            place = node.parents.index(treatment)
            part, axes = part.take(values[node.name], axis=place), [name for name in axes if name != treatment]
        order = sorted(axes, key=names.index)
        part = np.transpose(part, [axes.index(name) for name in order])
        joint = joint * part.reshape([2 if name in order else 1 for name in names])
    return joint.take(0, axis=names.index(treatment)) if treatment in names else joint


def mean(nodes, table, treatment, outcome, values):
    """E[outcome] of `truncated`."""
    rest = [node.name for node in nodes if node.name != treatment]
    return float(truncated(nodes, table, treatment, values).take(1, axis=rest.index(outcome)).sum())


def everyone(nodes, value, **other):
    return {node.name: value for node in nodes} | other


def close(effect, truth):
    """Whether an estimate lies within FAR standard errors of the truth."""
    return abs(effect.value - truth) <= FAR * (effect.high - effect.low) / (2 * 1.96) + 1e-12


# --- average, individual, by group ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [False, True])
def test_the_average_effect_in_a_linear_model_is_the_sum_over_paths(rows):
    scm = paths()
    batch = scm.sample(50, seed=3) if rows else None
    effect = ate(scm, "t", "y", treated=2.0, control=-1.0, batch=batch, n=50)
    assert effect.value == pytest.approx(3 * (2 + 3 * 0.5), abs=1e-9)
    assert effect.high - effect.low < 1e-9  # both arms have the same noise
    assert (effect.name, effect.unit, effect.n, effect.identified) == ("ATE", "mm", 50, True)


def test_the_average_effect_with_an_interaction_lies_in_its_interval():
    effect = ate(paths(0.7), "t", "y", treated=2.0, control=-1.0, n=20_000)
    assert close(effect, 3 * (2 + 1.5) + 0.7 * 0.5 * (4 - 1))
    assert 0.02 < effect.high - effect.low < 0.2


def test_the_interval_is_student_s_and_covers_the_truth():
    scm, truth = paths(0.7), 3 * (2 + 1.5) + 0.7 * 0.5 * (4 - 1)
    effect = ate(scm, "t", "y", treated=2.0, control=-1.0, batch=scm.sample(9))
    rows = ite(scm, scm.sample(9), "t", "y", treated=2.0, control=-1.0)["value"]
    expected = stats.ttest_1samp(rows, 0).confidence_interval()
    assert (effect.low, effect.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    found = [ate(scm, "t", "y", treated=2.0, control=-1.0, n=20, seed=seed) for seed in range(60)]
    # 57 of 60 expected; outside with probability 0.002
    assert 51 <= sum(effect.low <= truth <= effect.high for effect in found) <= 60


CLINIC = [binary("c"), binary("t", "c"), binary("m", "t", "c"), binary("k", "t", "m"), binary("y", "t", "m", "k", "c")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [False, True])
def test_effects_in_a_discrete_model_are_those_of_enumeration(seed, rows):
    mechanism = [Categorical, Monotone, ResponseType][seed % 3]
    scm, table = discrete(CLINIC, seed, mechanism)
    more = {"treated": 1, "control": 0, "batch": scm.sample(600, seed=seed + 10) if rows else None, "n": 8000}
    on, off = (mean(CLINIC, table, "t", "y", everyone(CLINIC, value)) for value in (1, 0))
    assert close(ate(scm, "t", "y", **more), on - off)
    held = mean(CLINIC, table, "t", "y", everyone(CLINIC, 0, y=1))
    assert close(direct_effect(scm, "t", "y", **more), held - off)
    moved = mean(CLINIC, table, "t", "y", everyone(CLINIC, 1, y=0))
    assert close(indirect_effect(scm, "t", "y", **more), moved - off)


def test_a_row_s_effect_is_its_own():
    graph = CausalGraph("g", [binary("sex"), number("t"), number("y", "sex", "t")])
    mechanisms = {"sex": Categorical(probabilities=[0.5, 0.5]), "t": known(), "y": known(lambda sex, t: (1 + sex) * t)}
    scm = ccf.SCM(graph, mechanisms)
    frame = scm.sample(60).frame.set_axis([f"p{row}" for row in range(60)])
    found = ite(scm, ccf.Batch(graph, frame), "t", "y", treated=3.0, control=1.0)
    np.testing.assert_allclose(found["value"], 2 * (1 + frame["sex"]), atol=1e-12)
    assert list(found.index) == list(frame.index)
    assert found["identified"].all()
    groups = cate(scm, ccf.Batch(graph, frame), "t", "y", by="sex", treated=3.0, control=1.0)
    assert list(groups) == [0, 1]
    assert [groups[sex].value for sex in (0, 1)] == pytest.approx([2, 4], abs=1e-12)
    assert [groups[sex].n for sex in (0, 1)] == frame["sex"].value_counts().sort_index().tolist()
    assert all(effect.identified for effect in groups.values())


def test_the_effect_by_bins_of_a_number_is_the_mean_in_the_bin():
    graph = CausalGraph("g", [number("z"), number("t"), number("y", "z", "t")])
    scm = ccf.SCM(graph, {"z": known(), "t": known(), "y": known(lambda z, t: z * t)})
    rows = scm.sample(200)
    found = cate(scm, rows, "t", "y", by="z", bins=5, treated=2.0, control=0.0)
    assert [effect.n for effect in found.values()] == [40] * 5
    for interval, effect in found.items():
        inside = rows.frame["z"].between(interval.left, interval.right, inclusive="right")
        assert effect.value == pytest.approx(2 * rows.frame["z"][inside].mean(), abs=1e-9)
        assert interval.left <= effect.low / 2 <= effect.high / 2 <= interval.right


def test_a_further_column_of_the_table_makes_groups_too():
    scm = paths()
    rows = scm.sample(60)
    rows = ccf.Batch(rows.graph, rows.frame.assign(site=["b", "a"] * 30, dose=np.arange(60.0)))
    found = cate(scm, rows, "t", "y", by="site", treated=1.0, control=0.0)
    assert list(found) == ["a", "b"]
    assert "'site' says nothing of the outcome beyond" in found["a"].assumes
    assert len(cate(scm, rows, "t", "y", by="dose", bins=3, treated=1.0, control=0.0)) == 3


def test_the_effect_by_a_consequence_rests_on_the_noise():
    scm, _ = discrete(CLINIC, 0)
    found = cate(scm, scm.sample(300), "t", "y", by="y", treated=1, control=0)
    assert not found[1].identified
    assert "y" in found[1].why_not
    assert cate(scm, scm.sample(300), "t", "y", by="c", treated=1, control=0)[1].identified


def test_the_effect_by_what_shares_a_latent_confounder_with_the_outcome_is_not_identified():
    scm, _ = discrete([binary("b"), binary("t"), binary("y", "t")], 0, bidirected=[("b", "y")])
    rows = scm.sample(100)
    assert list(cate(scm, rows, "t", "y", by="b", treated=1, control=0)[1].why_not) == ["b <-> y"]
    assert ate(scm, "t", "y", treated=1, control=0, batch=rows).identified


def test_an_individual_effect_on_a_category_rests_on_its_noise_and_the_average_does_not():
    scm, _ = discrete(CLINIC, 0)
    rows = scm.sample(200)
    assert not ite(scm, rows, "t", "y", treated=1, control=0)["identified"].any()
    assert ate(scm, "t", "y", treated=1, control=0, batch=rows).identified


def test_a_category_that_does_not_lie_on_the_way_does_not_blur_the_individual_effect():
    graph = CausalGraph("g", [number("t"), number("y", "t"), binary("aside", "t")])
    aside = Categorical()
    aside.prepare(graph.node("aside"), [graph.node("t")], torch.tensor([0, 1]), {"t": torch.tensor([0.0, 1.0])})
    scm = ccf.SCM(graph, {"t": known(), "y": known(lambda t: 2 * t), "aside": aside.eval()})
    assert ite(scm, scm.sample(5), "t", "y", treated=1.0, control=0.0)["identified"].all()


def test_what_a_row_did_is_what_it_would_have_done():
    scm, _ = discrete([binary("t"), binary("y", "t")], 0)
    frame = scm.sample(400).frame
    found = ite(scm, ccf.Batch(scm.graph, frame), "t", "y", treated=1, control=0)["value"]
    # with y=1 under t=1 the effect is 1 minus something, with y=0 under t=1 it is minus something
    assert (found[(frame["t"] == 1) & (frame["y"] == 1)] >= 0).all()
    assert (found[(frame["t"] == 1) & (frame["y"] == 0)] <= 0).all()


def test_a_row_s_effect_does_not_depend_on_the_rows_beside_it():
    scm, _ = discrete(CLINIC, 1)
    frame = scm.sample(40).frame
    whole = ite(scm, ccf.Batch(scm.graph, frame), "t", "y", treated=1, control=0)
    part = ite(scm, ccf.Batch(scm.graph, frame.iloc[::-3]), "t", "y", treated=1, control=0)
    pd.testing.assert_frame_equal(part, whole.loc[part.index], check_exact=True)


def test_the_seed_decides_the_answer():
    scm, _ = discrete(CLINIC, 1)
    one, again, other = (ate(scm, "t", "y", treated=1, control=0, n=500, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.value != other.value


def test_discrete_outcomes_are_a_probability_or_a_mean_of_labels():
    graph = CausalGraph("g", [binary("t"), Node("stage", "ordinal", states=[1, 2, 4], parents=["t"])])
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])
    scm = ccf.SCM(graph, {"t": Categorical(probabilities=[0.5, 0.5]), "stage": Categorical(probabilities=p)})
    total = ate(scm, "t", "stage", treated=1, control=0)
    assert close(total, (p[1] - p[0]) @ [1, 2, 4])
    assert total.unit is None
    for place, state in enumerate([1, 2, 4]):
        part = ate(scm, "t", "stage", treated=1, control=0, state=state)
        assert close(part, p[1, place] - p[0, place])
        assert (part.unit, f"stage={state}" in str(part)) == ("probability", True)


def test_an_effect_against_the_arrows_is_exactly_zero_and_says_why():
    scm, _ = discrete(CLINIC, 0)
    for batch in (None, scm.sample(30)):
        effect = ate(scm, "y", "t", treated=1, control=0, batch=batch, n=30)
        assert (effect.value, effect.low, effect.high, effect.identified) == (0, 0, 0, True)
        assert "no directed path from 'y' to 't'" in effect.assumes
    assert probability_of_necessity(scm, "y", "t", n=200).bounds.high == 0


# --- direct and indirect -------------------------------------------------------------------------------------------------------


def test_natural_effects_in_a_linear_model_with_interaction():
    more = {"treated": 2.0, "control": -1.0, "n": 20_000}
    direct, indirect = direct_effect(paths(0.7), "t", "y", **more), indirect_effect(paths(0.7), "t", "y", **more)
    assert close(direct, 3 * (2 + 0.7 * 0.5 * -1.0))
    assert indirect.value == pytest.approx(3 * 0.5 * (3 + 0.7 * -1.0), abs=1e-9)
    assert (direct.name, indirect.name, direct.identified, indirect.identified) == ("NDE", "NIE", True, True)
    assert "the mediators m" in direct.assumes


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("mediators", [None, ["k"]])
def test_the_total_effect_is_the_direct_one_minus_the_reverse_indirect_one(rows, mediators):
    scm, _ = discrete(CLINIC, 2)
    batch = scm.sample(20) if rows else None
    total = ate(scm, "t", "y", treated=1, control=0, batch=batch, n=500)
    direct = direct_effect(scm, "t", "y", treated=1, control=0, mediators=mediators, batch=batch, n=500)
    back = indirect_effect(scm, "t", "y", treated=0, control=1, mediators=mediators, batch=batch, n=500)
    assert total.value == pytest.approx(direct.value - back.value, abs=1e-12)


def test_the_effect_through_one_mediator_of_two_is_that_of_its_path():
    nodes = [number("t"), number("a", "t"), number("b", "t"), number("y", "t", "a", "b")]
    mechanisms = {
        "t": known(),
        "a": known(lambda t: 2 * t),
        "b": known(lambda t: 3 * t),
        "y": known(lambda t, a, b: t + 5 * a + 7 * b),
    }
    scm = ccf.SCM(CausalGraph("g", nodes), mechanisms)
    more = {"treated": 1.0, "control": 0.0, "n": 50}
    assert indirect_effect(scm, "t", "y", mediators=["a"], **more).value == pytest.approx(10)
    assert indirect_effect(scm, "t", "y", mediators=["b"], **more).value == pytest.approx(21)
    assert indirect_effect(scm, "t", "y", **more).value == pytest.approx(31)
    assert direct_effect(scm, "t", "y", mediators=["a"], **more).value == pytest.approx(22)
    assert direct_effect(scm, "t", "y", **more).value == pytest.approx(1)


def test_a_recanting_witness_is_named():
    scm, _ = discrete([binary("t"), binary("w", "t"), binary("s", "w"), binary("y", "w", "s")], 0)
    through = indirect_effect(scm, "t", "y", treated=1, control=0, mediators=["s"], n=100)
    assert list(through.why_not) == ["w"]
    assert "both worlds need its noise, under the assumption of Categorical" in str(through)
    assert indirect_effect(scm, "t", "y", treated=1, control=0, n=100).identified
    assert indirect_effect(scm, "t", "y", treated=1, control=0, mediators=["w"], n=100).identified


def test_a_confounded_mediator_spoils_the_natural_effects_and_not_the_total_one():
    nodes = [binary("t"), binary("m", "t"), binary("y", "t", "m")]
    scm, _ = discrete(nodes, 0, bidirected=[("m", "y")])
    assert ate(scm, "t", "y", treated=1, control=0, n=10).identified
    for effect in (direct_effect, indirect_effect):
        assert list(effect(scm, "t", "y", treated=1, control=0, n=10).why_not) == ["m <-> y"]


def test_mediator_and_outcome_may_be_confounded_through_a_covariate():
    # conditioning on c opens m <-> c <-> y; the total effect does not mind
    nodes = [binary("t"), binary("c"), binary("m", "t", "c"), binary("y", "t", "c", "m")]
    scm, _ = discrete(nodes, 0, bidirected=[("c", "m"), ("c", "y")])
    assert ate(scm, "t", "y", treated=1, control=0, n=10).identified
    assert set(direct_effect(scm, "t", "y", treated=1, control=0, n=10).why_not) == {"c <-> m", "c <-> y"}
    scm, _ = discrete(nodes, 0, bidirected=[("c", "y")])
    assert direct_effect(scm, "t", "y", treated=1, control=0, n=10).identified


# --- latent confounders --------------------------------------------------------------------------------------------------------


def random_mixed(seed):
    """A graph of four or five binary nodes with latent confounders, and the same with the latent nodes drawn."""
    draw = np.random.default_rng(seed)
    size = int(draw.integers(3, 6))
    names = [f"n{place}" for place in range(size)]
    nodes = [binary(names[b], *[names[a] for a in range(b) if draw.random() < 0.55]) for b in range(size)]
    pairs = list(itertools.combinations(names, 2))
    bidirected = [pairs[place] for place in draw.permutation(len(pairs))[: int(draw.integers(1, 4))]]
    latent = [binary(f"{a}{b}") for a, b in bidirected]
    whole = [binary(node.name, *node.parents, *[f"{a}{b}" for a, b in bidirected if node.name in (a, b)]) for node in nodes]
    treatment, outcome = names[int(draw.integers(0, size - 1))], names[-1]
    return nodes, bidirected, [*latent, *whole], treatment, outcome


def fitted(nodes, whole, table):
    """What fitting gives with all the data in the world: p(node | its parents), by name."""
    names = [node.name for node in whole]
    joint = truncated(whole, table, None, {})
    found = {}
    for node in nodes:
        axes = [*node.parents, node.name]
        drop = tuple(place for place, name in enumerate(names) if name not in axes)
        part = joint.sum(axis=drop)
        left = [name for name in names if name in axes]
        part = np.transpose(part, [left.index(name) for name in axes])
        found[node.name] = part / part.sum(axis=-1, keepdims=True)
    return found


def fitted_model(seed):
    """A random graph with latent confounders, its true tables, and the model that fitting gives."""
    nodes, bidirected, whole, treatment, outcome = random_mixed(seed)
    table = tables(whole, seed)
    model = fitted(nodes, whole, table)
    mechanisms = {name: Categorical(probabilities=p) for name, p in model.items()}
    return ccf.SCM(CausalGraph(f"seed {seed}", nodes, bidirected), mechanisms), nodes, whole, table, model, treatment, outcome


def test_an_effect_is_identified_only_where_the_fitted_mechanisms_give_the_true_one():
    right = flagged = wrong = 0
    for seed in range(GRAPHS):
        scm, nodes, whole, table, model, treatment, outcome = fitted_model(seed)
        true, ours = (
            mean(n, p, treatment, outcome, everyone(n, 1)) - mean(n, p, treatment, outcome, everyone(n, 0))
            for n, p in ((whole, table), (nodes, model))
        )
        effect = ate(scm, treatment, outcome, treated=1, control=0, n=2)
        if effect.identified:
            right += 1
            assert ours == pytest.approx(true, abs=1e-9), scm.graph.to_dict()
        else:
            flagged += 1
            wrong += abs(ours - true) > 1e-6
            assert set(effect.why_not) <= {f"{a} <-> {b}" for a, b in scm.graph.bidirected}
    assert right >= GRAPHS / 4
    assert wrong >= 0.8 * flagged >= GRAPHS / 5  # no cheap caution


def test_natural_effects_are_identified_only_where_the_fitted_mechanisms_give_the_true_ones():
    right = 0
    for seed in range(GRAPHS):
        scm, nodes, whole, table, model, treatment, outcome = fitted_model(seed)
        if direct_effect(scm, treatment, outcome, treated=1, control=0, n=2).identified:
            right += 1
            true, ours = (
                mean(n, p, treatment, outcome, everyone(n, 0, **{outcome: 1})) - mean(n, p, treatment, outcome, everyone(n, 0))
                for n, p in ((whole, table), (nodes, model))
            )
            assert ours == pytest.approx(true, abs=1e-9), scm.graph.to_dict()
    assert right >= GRAPHS / 5


def over_rows(nodes, whole, table, model, treatment, outcome, value, couple):
    """E over true rows of the model's counterfactual of the outcome, exactly: the noise abducted, the treatment set."""
    graph = CausalGraph("g", nodes)
    names = [node.name for node in nodes]
    reached = graph.descendants([treatment])
    joint = truncated(whole, table, None, {}).sum(axis=tuple(range(len(whole) - len(nodes))))
    total = 0.0
    for row in itertools.product((0, 1), repeat=len(names)):
        fact = dict(zip(names, row, strict=True))
        worlds = [(joint[row], dict(fact) | {treatment: value})]
        for node in nodes:
            if node.name in reached and node.name != treatment:
                grown = []
                for weight, world in worlds:
                    old = model[node.name][tuple(fact[name] for name in node.parents)]
                    new = model[node.name][tuple(world[name] for name in node.parents)]
                    same = all(fact[name] == world[name] for name in node.parents)
                    for state in (0, 1):
                        p = float(state == fact[node.name]) if same else couple(old, new, fact[node.name], state)
                        grown.append((weight * p, world | {node.name: state}))
                worlds = grown
        total += sum(weight for weight, world in worlds if world[outcome] == 1)
    return total


def independent(old, new, fact, state):
    return new[state]


def monotone(old, new, fact, state):
    both = min(old[1], new[1]) if fact == state == 1 else min(old[0], new[0])
    return (both if fact == state else old[fact] - min(old[fact], new[fact])) / old[fact]


def test_an_effect_over_rows_is_identified_only_where_their_counterfactuals_average_to_the_true_one():
    right = 0
    for seed in range(GRAPHS):
        scm, nodes, whole, table, model, treatment, outcome = fitted_model(seed)
        if not effects._confounders(effects._Question(scm, treatment, outcome, 1, 0), rows=True):
            right += 1
            true = mean(whole, table, treatment, outcome, everyone(whole, 1))
            for couple in (independent, monotone):
                assert over_rows(nodes, whole, table, model, treatment, outcome, 1, couple) == pytest.approx(true, abs=1e-9)
    assert right >= GRAPHS / 4


def test_rows_bring_along_what_the_treatment_cannot_reach():
    scm, _ = discrete([binary("a"), binary("b"), binary("t"), binary("y", "a", "b", "t")], 0, bidirected=[("a", "b")])
    drawn = ate(scm, "t", "y", treated=1, control=0, n=10)
    assert "a <-> b" in drawn.why_not  # the model draws the two independently
    assert ate(scm, "t", "y", treated=1, control=0, batch=scm.sample(10)).identified
    assert not effects._confounders(effects._Question(scm, "t", "y", 1, 0), rows=True)


def test_a_confounded_treatment_is_named_and_has_no_way_out():
    nodes = [binary("t"), binary("y", "t")]
    scm, _ = discrete(nodes, 0, bidirected=[("t", "y")])
    for batch in (None, scm.sample(30)):
        effect = ate(scm, "t", "y", treated=1, control=0, n=30, batch=batch)
        assert list(effect.why_not) == ["t <-> y"]
        assert "not identified: t <-> y, a latent confounder of these two is hidden in the fitted mechanism of 'y'" in str(effect)
    assert not ite(scm, scm.sample(5), "t", "y", treated=1, control=0)["identified"].any()


def test_a_latent_confounder_that_the_graph_adjusts_for_does_no_harm():
    nodes = [binary("c"), binary("t"), binary("y", "t", "c")]
    scm, _ = discrete(nodes, 0, bidirected=[("t", "c")])
    assert ate(scm, "t", "y", treated=1, control=0, n=10).identified


def test_rows_are_adjusted_where_the_fitted_mechanisms_are_confounded(monkeypatch):
    for steps in ("_ATTRIBUTE_STEPS", "_CHOICE_STEPS"):
        monkeypatch.setattr(training, steps, 60)
    draw = np.random.default_rng(0)
    latent = draw.random(4000) < 0.5
    w = np.where(draw.random(4000) < 0.95, latent, ~latent)
    t = draw.random(4000) < np.where(w, 0.8, 0.2)
    y = draw.random(4000) < 0.1 + 0.3 * t + 0.5 * latent
    frame = pd.DataFrame({"w": w.astype(int), "t": t.astype(int), "y": y.astype(int)})
    graph = CausalGraph("g", [binary("w"), binary("t", "w"), binary("y", "t")], bidirected=[("w", "y")])
    batch = ccf.Batch(graph, frame)
    p = [1 - frame.groupby("t")["y"].mean(), frame.groupby("t")["y"].mean()]
    scm = ccf.SCM(
        graph,
        {
            "w": Categorical(probabilities=[0.5, 0.5]),
            "t": Categorical(probabilities=[[0.8, 0.2], [0.2, 0.8]]),
            "y": Categorical(probabilities=np.stack(p, axis=1)),
        },
    )
    blind = ate(scm, "t", "y", treated=1, control=0)
    assert blind.value > 0.5  # association, not effect
    assert "with a batch, ate adjusts for it" in blind.why_not["w <-> y"]
    effect = ate(scm, "t", "y", treated=1, control=0, batch=batch)
    # adjusting by hand is off by its own sampling error; the network's regression is within a tenth of it
    assert effect.identified
    assert effect.value == pytest.approx(0.3, abs=0.05)
    assert "adjusting for {w} by a regression" in effect.assumes


def test_rows_of_one_arm_alone_are_no_ground_for_a_regression():
    scm, _ = discrete([binary("w"), binary("t", "w"), binary("y", "t")], 0, bidirected=[("w", "y")])
    rows = scm.sample(200).frame
    for arm in (0, 1):
        with pytest.raises(DataError, match=f"no row has t={1 - arm}: the rows are regressed on it"):
            ate(scm, "t", "y", treated=1, control=0, batch=ccf.Batch(scm.graph, rows[rows["t"] == arm]))


# --- probabilities of causation ------------------------------------------------------------------------------------------------


def random_types(draw):
    """A distribution of treatment and response type q[t, under treated, under control], with the numbers it shows."""
    q = draw.dirichlet(np.full(8, draw.choice([0.3, 1.0]))).reshape(2, 2, 2)
    joint = np.stack([q[0].sum(axis=0), q[1].sum(axis=1)])
    return q, joint, np.array([q[:, :, 1].sum(), q[:, 1].sum()])


def caused(q):
    joint = np.stack([q[0].sum(axis=0), q[1].sum(axis=1)])
    return {"PN": q[1, 1, 0] / joint[1, 1], "PS": q[0, 1, 0] / joint[0, 0], "PNS": q[:, 1, 0].sum()}


def test_the_closed_form_the_linear_program_and_the_truth_agree():
    draw = np.random.default_rng(0)
    for _ in range(15):
        q, joint, experimental = random_types(draw)
        truth = caused(q)
        for known in (None, experimental):
            closed = causation_bounds(joint, experimental=known)
            program = causation_bounds(joint, experimental=known, method="linear program")
            for name in CAUSATION:
                assert closed[name].low == pytest.approx(program[name].low, abs=1e-9)
                assert closed[name].high == pytest.approx(program[name].high, abs=1e-9)
                assert closed[name].low - 1e-9 <= truth[name] <= closed[name].high + 1e-9


def test_under_monotonicity_the_bounds_meet_at_the_truth():
    draw = np.random.default_rng(1)
    for _ in range(8):
        q, _, _ = random_types(draw)
        q[:, 0, 1] = 0
        q /= q.sum()
        joint = np.stack([q[0].sum(axis=0), q[1].sum(axis=1)])
        for method in ("closed form", "linear program"):
            found = causation_bounds(joint, experimental=(q[:, :, 1].sum(), q[:, 1].sum()), monotonic=True, method=method)
            for name, value in caused(q).items():
                assert found[name].low == pytest.approx(value, abs=1e-7)
                assert found[name].high == pytest.approx(value, abs=1e-7)


def twin_network(q):
    """PN, PS and PNS of a distribution of response types, by eliminating variables in the twin network."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination
    from pgmpy.models import DiscreteBayesianNetwork

    t, a, b = np.indices((2, 2, 2)).reshape(3, 8)

    def function(name, values):
        return TabularCPD(name, 2, np.stack([1 - values, values]).astype(float), ["u"], [8])

    network = DiscreteBayesianNetwork([("u", "t"), ("u", "y"), ("u", "on"), ("u", "off")])
    network.add_cpds(
        TabularCPD("u", 8, q.reshape(8, 1)),
        function("t", t),
        function("y", np.where(t == 1, a, b)),
        function("on", a),
        function("off", b),
    )
    ask = VariableElimination(network)
    return {
        "PN": ask.query(["off"], {"t": 1, "y": 1}, show_progress=False).values[0],
        "PS": ask.query(["on"], {"t": 0, "y": 0}, show_progress=False).values[1],
        "PNS": ask.query(["on", "off"], show_progress=False).get_value(on=1, off=0),
    }


def test_a_twin_network_lies_within_the_bounds_and_attains_them():
    draw = np.random.default_rng(2)
    for _ in range(2):
        q, joint, experimental = random_types(draw)
        bounds = causation_bounds(joint, experimental=experimental)
        for name, value in twin_network(q).items():
            assert bounds[name].low - 1e-9 <= value <= bounds[name].high + 1e-9
        for name, target in effects._caused().items():
            for sign, end in ((1, bounds[name].low), (-1, bounds[name].high)):
                extreme = np.maximum(effects._program(joint, experimental, False, sign * target), 0).reshape(2, 2, 2)
                assert twin_network(extreme / extreme.sum())[name] == pytest.approx(end, abs=1e-9)


def test_a_drug_that_an_experiment_and_survivors_choice_together_convict():
    # J. Pearl, "Causality", 2009, chapter 9, "legal responsibility from experimental and nonexperimental data": of 1000
    # each, 16 die with the drug and 14 without in the experiment, 2 and 28 where patients choose for themselves
    joint = np.array([[972, 28], [998, 2]]) / 2000
    bounds = causation_bounds(joint, experimental=(0.014, 0.016))
    assert (bounds["PN"].low, bounds["PN"].high) == pytest.approx((1, 1), abs=1e-9)
    assert bounds["PN"].identified
    alone = causation_bounds(joint)
    assert (alone["PN"].low, alone["PN"].high) == (0, 1)


def test_without_confounding_monotonicity_gives_the_excess_risk_ratio():
    # the same chapter: PN = (P(y|x) - P(y|x')) / P(y|x), PS = (P(y|x) - P(y|x')) / P(not y|x'); deaths by leukaemia with and
    # without exposure to fallout
    counts = np.array([[59_010, 16], [69_130, 30]])
    off, on = counts[:, 1] / counts.sum(axis=1)
    bounds = causation_bounds(counts / counts.sum(), experimental=(off, on), monotonic=True)
    assert bounds["PN"].low == pytest.approx((on - off) / on)
    assert bounds["PN"].low == pytest.approx(0.375, abs=1e-3)
    assert bounds["PS"].low == pytest.approx((on - off) / (1 - off))
    assert bounds["PNS"].low == pytest.approx(on - off)


TRIAL = [binary("c"), binary("t", "c"), binary("y", "t", "c")]
TRIAL_TABLES = {
    "c": np.array([0.4, 0.6]),
    "t": np.array([[0.7, 0.3], [0.2, 0.8]]),
    "y": np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.5, 0.5], [0.3, 0.7]]]),  # the treatment helps in both strata
}


def trial(mechanism):
    return ccf.SCM(CausalGraph("trial", TRIAL), {name: mechanism(probabilities=p) for name, p in TRIAL_TABLES.items()})


def trial_types(couple):
    """q[stratum, t, under treated, under control] of the trial, exactly."""
    q = np.zeros((2, 2, 2, 2))
    for c, t, a, b in itertools.product((0, 1), repeat=4):
        on, off = TRIAL_TABLES["y"][1, c], TRIAL_TABLES["y"][0, c]
        q[c, t, a, b] = TRIAL_TABLES["c"][c] * TRIAL_TABLES["t"][c, t] * off[b] * couple(off, on, b, a)
    return q


COUPLINGS = {"Monotone": (Monotone, monotone), "Gumbel": (Categorical, monotone), "ResponseType": (ResponseType, independent)}


@pytest.mark.parametrize(("mechanism", "couple"), COUPLINGS.values(), ids=COUPLINGS.keys())
def test_a_row_s_effect_is_its_expectation_over_the_noise(mechanism, couple):
    scm, q = trial(mechanism), trial_types(couple)
    frame = pd.DataFrame(list(itertools.product((0, 1), repeat=3)), columns=["c", "t", "y"])
    found = ite(scm, ccf.Batch(scm.graph, frame), "t", "y", treated=1, control=0)["value"]
    for (c, t, y), value in zip(frame.to_numpy(), found, strict=True):
        fits = q[c, t].copy()
        fits[(slice(None), 1 - y) if t == 0 else 1 - y] = 0  # what the row did is what its response type does
        truth = (fits[1, 0] - fits[0, 1]) / fits.sum()
        assert value == pytest.approx(truth, abs=FAR * 0.5 / math.sqrt(32))
        assert value == pytest.approx(truth, abs=1e-12) or 0 < abs(value) < 1  # one draw would be 0 or 1


@pytest.mark.parametrize(("mechanism", "couple"), COUPLINGS.values(), ids=COUPLINGS.keys())
@pytest.mark.parametrize("rows", [False, True])
def test_probabilities_of_causation_under_the_model_s_noise_are_those_of_enumeration(mechanism, couple, rows):
    scm, truth = trial(mechanism), caused(trial_types(couple).sum(axis=0))
    more = {"batch": scm.sample(500, seed=1) if rows else None, "n": 8000}
    for name, function in CAUSATION.items():
        effect = function(scm, "t", "y", **more)
        assert close(effect, truth[name]), name
        assert effect.bounds.low - 1e-9 <= effect.value <= effect.bounds.high + 1e-9
        assert list(effect.why_not) == ["y"]
        strata = function(scm, "t", "y", covariates=["c"], **more)
        assert effect.bounds.low - 1e-9 <= strata.bounds.low <= strata.value + 1e-9
        assert strata.value - 1e-9 <= strata.bounds.high <= effect.bounds.high + 1e-9
        assert strata.value == effect.value


def test_the_bounds_of_a_model_are_those_of_its_tables():
    q = trial_types(independent)
    scm = trial(ResponseType)
    for name, function in CAUSATION.items():
        _, joint, experimental = None, *effects._tables(q.sum(axis=0)[None])
        whole = causation_bounds(joint, experimental=experimental)[name]
        found = function(scm, "t", "y", n=40_000).bounds
        # a probability from 40,000 draws has a standard error of at most 0.0025, its ratio to P(t, y) > 0.3 three times that
        assert (found.low, found.high) == pytest.approx((whole.low, whole.high), abs=0.03)
        low = high = 0.0
        for c in (0, 1):
            weight = q[c].sum()
            part, arms = effects._tables(q[c][None] / weight)
            ends = causation_bounds(part, experimental=arms)[name]
            share = {"PN": weight * part[1, 1] / joint[1, 1], "PS": weight * part[0, 0] / joint[0, 0], "PNS": weight}[name]
            low, high = low + share * ends.low, high + share * ends.high
        found = function(scm, "t", "y", covariates=["c"], n=40_000).bounds
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
        assert high < whole.high - 0.03  # strata make the bounds sharper


def test_monotonicity_makes_one_number_of_the_bounds_and_it_is_the_value():
    truth = caused(trial_types(monotone).sum(axis=0))
    for name, function in CAUSATION.items():
        effect = function(trial(ResponseType), "t", "y", monotonic=True, n=20_000)  # whatever the model's own noise
        assert close(effect, truth[name])
        assert effect.identified
        assert effect.bounds.identified
        assert effect.bounds.low == pytest.approx(effect.value, abs=1e-9)
        assert "never prevents" in effect.assumes


def test_the_other_state_may_be_the_cause():
    scm = trial(ResponseType)
    harm = probability_of_necessity_and_sufficiency(scm, "t", "y", treated=0, n=20_000)
    assert close(harm, trial_types(independent)[:, :, 0, 1].sum())
    spared = probability_of_necessity_and_sufficiency(scm, "t", "y", state=0, n=20_000)
    assert spared.value == harm.value  # to be spared by the treatment is to be harmed by its absence


def test_a_confounded_treatment_leaves_the_bounds_of_the_observations_alone():
    scm, _ = discrete([binary("t"), binary("y", "t")], 0, bidirected=[("t", "y")])
    rows = scm.sample(400)
    effect = probability_of_necessity_and_sufficiency(scm, "t", "y", batch=rows)
    same = (rows.frame["t"] == rows.frame["y"]).mean()
    assert (effect.bounds.low, effect.bounds.high) == pytest.approx((0, same))
    assert "t <-> y" in effect.why_not
    assert "alone" in effect.bounds.assumes


# --- people --------------------------------------------------------------------------------------------------------------------


def test_an_effect_reads_as_a_line_and_survives_json():
    scm = trial(Categorical)
    effect = probability_of_necessity(scm, "t", "y", n=500)
    assert str(effect).startswith("PN of t on y (1 against 0): 0.")
    assert "whatever the noise; not identified: y, its noise is a draw under the assumption of Categorical" in str(effect)
    assert "\n" not in str(effect)
    data = json.loads(json.dumps(effect.to_dict(), allow_nan=False))
    assert data["bounds"]["low"] == effect.bounds.low
    assert (data["identified"], list(data["why_not"])) == (False, ["y"])
    one = ate(scm, "t", "y", treated=1, control=0, batch=scm.sample(1))
    assert math.isnan(one.low)
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False))["low"] is None
    assert str(effect.bounds).startswith("PN: ")


IMAGE = CausalGraph("pictures", [number("t"), Node("x", "image", parents=["t"], shape=(1, 4, 4))])
STAGES = CausalGraph("g", [binary("t"), Node("s", "ordinal", states=["low", "high", "top"], parents=["t"])])


def stages():
    p = [[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]]
    return ccf.SCM(STAGES, {"t": Categorical(probabilities=[0.5, 0.5]), "s": Categorical(probabilities=p)})


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda s: ate(s.scm, "tt", "y", treated=1, control=0), GraphError, "cannot intervene on tt.*Nodes are: c, t, y"),
        (lambda s: ate(s.scm, "t", "yy", treated=1, control=0), GraphError, "no such node"),
        (lambda s: ate(s.scm, "t", "t", treated=1, control=0), GraphError, "both 't'"),
        (lambda s: ate(s.scm, "t", "y", treated=1, control=1), DataError, "both 1: there is nothing to compare"),
        (lambda s: ate(s.scm, "t", "y", treated="1", control=0), DataError, "cannot set 't' to '1'.*Labels are of type int"),
        (lambda s: ate(s.scm, "t", "y", treated=[1, 0], control=0), DataError, r"treated=\[1, 0\].*compares two values"),
        (lambda s: ate(s.paths, "t", "y", treated=ccf.Shift(1.0), control=0.0), DataError, "compares two values"),
        (lambda s: ate(s.paths, "t", "y", treated=math.nan, control=0.0), DataError, "takes a finite number"),
        (lambda s: ate(s.paths, "t", "y", treated=1.0, control=0.0, state=1), DataError, "state=1 is no label of 'y'"),
        (lambda s: ate(s.scm, "t", "y", treated=1, control=0, state="ill"), DataError, "'ill' is no label.*0, 1"),
        (
            lambda s: ate(stages(), "t", "s", treated=1, control=0),
            DataError,
            "'s' is ordinal: say whose probability.*state='top'",
        ),
        (lambda s: ate(s.image, "t", "x", treated=1.0, control=0.0), GraphError, "outcome 'x' is an image.*choose one of t"),
        (lambda s: ate(s.image, "x", "t", treated=1.0, control=0.0), GraphError, "cannot intervene on the image 'x'"),
        (lambda s: ate(s.scm, "t", "y", treated=1, control=0, n=1), DataError, "n=1 draws"),
        (lambda s: ite(s.scm, s.other, "t", "y", treated=1, control=0), DataError, "graph 'paths', the model has graph 'trial'"),
        (lambda s: ate(s.bare, "t", "y", treated=1, control=0), NotFittedError, "node 'c'.*causalcf.fit"),
        (lambda s: cate(s.scm, s.rows, "t", "y", by="sex", treated=1, control=0), DataError, "no column 'sex'.*are: c, t, y"),
        (lambda s: cate(s.scm, s.rows, "t", "y", by="c", treated=1, control=0, smallest=999), DataError, "smallest=999"),
        (lambda s: direct_effect(s.paths, "t", "y", treated=1.0, control=0.0, mediators="m"), GraphError, r"list, \['m'\]"),
        (
            lambda s: direct_effect(s.paths, "t", "y", treated=1.0, control=0.0, mediators=["z"]),
            GraphError,
            "'z' lies on no.*: m",
        ),
        (lambda s: direct_effect(s.paths, "t", "y", treated=1.0, control=0.0, mediators=["mm"]), GraphError, "mean 'm'"),
        (lambda s: probability_of_necessity(s.paths, "t", "y"), DataError, "'t' is continuous.*two states"),
        (lambda s: probability_of_necessity(stages(), "s", "t"), DataError, "'s' is ordinal.*two states"),
        (lambda s: probability_of_necessity(stages(), "t", "s"), DataError, "say which event: state="),
        (lambda s: probability_of_necessity(s.scm, "t", "y", treated="yes"), DataError, "'yes'"),
        (lambda s: probability_of_necessity(s.scm, "t", "y", covariates="c"), GraphError, r"list, \['c'\]"),
        (lambda s: probability_of_necessity(s.scm, "c", "y", covariates=["t"]), GraphError, "'t' is no covariate"),
        (lambda s: probability_of_necessity(s.scm, "t", "y", covariates=["c"], n=30), DataError, "only .* rows have c="),
        (lambda s: probability_of_necessity(s.scm, "t", "y", batch=s.rows.rows([0])), DataError, "PN of t on y.*no meaning"),
        (lambda s: probability_of_sufficiency(s.harmful, "t", "y", monotonic=True), DataError, "contradict monotonicity"),
        (lambda s: causation_bounds([[0.5, 0.5], [0.5, 0.5]]), DataError, "four numbers that sum to 1"),
        (lambda s: causation_bounds([[0.2, 0.3], [0.4, 0.1]], experimental=[0.5]), DataError, r"experimental=\[0.5\]"),
        (lambda s: causation_bounds([[0.2, 0.3], [0.4, 0.1]], experimental=[0.2, 0.2]), DataError, "between 0.3 and 0.8"),
        (lambda s: causation_bounds([[0.2, 0.3], [0.4, 0.1]], method="lp"), DataError, "no method 'lp'"),
    ],
)
def test_a_question_that_makes_no_sense_is_an_error_that_says_so(ask, error, words):
    scm = trial(Categorical)
    harmful = ccf.SCM(
        CausalGraph("h", [binary("t"), binary("y", "t")]),
        {"t": Categorical(probabilities=[0.5, 0.5]), "y": Categorical(probabilities=[[0.2, 0.8], [0.8, 0.2]])},
    )
    frame = pd.DataFrame({"c": [0] * 40, "t": [0] * 40, "y": [0] * 40})
    things = SimpleNamespace(
        scm=scm,
        paths=paths(),
        image=ccf.SCM(IMAGE, {"t": known(), "x": known()}),
        bare=ccf.SCM(CausalGraph("trial", TRIAL)),
        other=paths().sample(3),
        rows=ccf.Batch(scm.graph, frame),
        harmful=harmful,
    )
    with pytest.raises(error, match=words):
        ask(things)


def test_an_outcome_that_is_not_finite_is_an_error():
    graph = CausalGraph("g", [number("t"), number("y", "t")])
    scm = ccf.SCM(graph, {"t": known(), "y": known(lambda t: 1 / t)})
    with pytest.raises(DataError, match=r"not finite in rows \[0, 1, 2"):
        ate(scm, "t", "y", treated=1.0, control=0.0, n=10)
