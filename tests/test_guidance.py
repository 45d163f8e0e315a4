"""Guidance rules: coefficients worked out by hand, and what must hold whatever the parents and weights."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from causalcf.errors import DataError
from causalcf.guidance import (
    ClassifierFree,
    Decoupled,
    Noisy,
    Plain,
    PlusPlus,
    Projected,
    Rescaled,
    Scheduled,
    guidance_from_dict,
    parse_guidance,
)
from causalcf.tradeoff import at_weight

NAMES = "abcde"
ROWS = 3
# sums of at most 12 terms of size up to 10, in float64: rounding is below 12 * 12 * 10 * 2.2e-16, far below this
ROUNDING = 1e-12

weights = st.floats(-4, 4).map(lambda w: round(w, 3))
forms = st.sampled_from(["paper", "anchored", "nested"])


@st.composite
def questions(draw, least=0):
    """Parents of an image, and those that an intervention moved."""
    parents = list(NAMES[: draw(st.integers(1, 5))])
    return parents, frozenset(draw(st.lists(st.sampled_from(parents), unique=True, min_size=least)))


@st.composite
def decoupled(draw, parents, weight=weights, form=forms, explicit=False):
    """Decoupled guidance by every kind of group; `explicit`: by some that are given."""
    order = draw(st.permutations(parents))
    first, end = sorted((draw(st.integers(int(explicit), len(order))), draw(st.integers(int(explicit), len(order)))))
    groups = {name: members for name, members in {"one": order[:first], "two": order[first:end]}.items() if members}
    named = st.dictionaries(st.sampled_from([*groups, *order[end:]]), weight)
    kind = groups if groups else draw(st.sampled_from(["graph", "moved"]))
    return Decoupled(draw(weight), draw(st.one_of(weight, named)), draw(form), draw(named), kind)


@st.composite
def schedules(draw, inner):
    factors = st.floats(0, 2).map(lambda factor: round(factor, 3))
    points = draw(st.dictionaries(st.integers(0, 999), factors, min_size=1, max_size=3))
    interval = draw(st.none() | st.tuples(st.integers(0, 999), st.integers(0, 999)).map(sorted).map(tuple))
    return Scheduled(inner, interval, sorted(points.items()))


@st.composite
def rules(draw, parents, weight=weights, form=forms, rows=False):
    """Any rule that is a weighted sum of predictions; with `rows` some of the weights are one a row."""
    if rows:
        weight = st.one_of(weight, st.lists(weight, min_size=ROWS, max_size=ROWS))
    rule = draw(st.one_of(st.just(Plain()), st.builds(ClassifierFree, weight), decoupled(parents, weight, form)))
    return rule if isinstance(rule, Plain) or draw(st.booleans()) else draw(schedules(rule))


timesteps = st.integers(0, 999)


def shown(names):
    return frozenset(names)


def near(terms, expected):
    """Whether two sums of masked predictions are the same but for rounding."""
    apart = (np.subtract(terms.get(mask, 0.0), expected.get(mask, 0.0)) for mask in terms.keys() | expected.keys())
    return all(np.abs(difference).max() < ROUNDING for difference in apart)


def value(terms, eps):
    return sum(coefficient * eps(mask) for mask, coefficient in terms.items())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_coefficients_sum_to_one_and_none_is_zero(data):
    parents, changed = data.draw(questions())
    terms = data.draw(rules(parents, rows=True)).terms(parents, changed, data.draw(timesteps))
    assert np.abs(sum(terms.values()) - 1).max() < ROUNDING
    assert all(np.any(coefficient) for coefficient in terms.values())
    assert all(mask <= set(parents) for mask in terms)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_without_an_intervention_every_rule_is_one_plain_pass(data):
    parents, _ = data.draw(questions())
    rule = data.draw(rules(parents, rows=True))
    assert rule.terms(parents, frozenset(), data.draw(timesteps)) == {shown(parents): 1.0}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_the_order_of_the_parents_is_irrelevant(data):
    parents, changed = data.draw(questions())
    rule, t = data.draw(rules(parents, rows=True)), data.draw(timesteps)
    assert near(rule.terms(data.draw(st.permutations(parents)), changed, t), rule.terms(parents, changed, t))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_the_order_of_groups_and_within_them_is_irrelevant(data):
    parents, changed = data.draw(questions(least=1))
    rule = data.draw(decoupled(parents, explicit=True))

    def shuffled(mapping):
        return {name: mapping[name] for name in data.draw(st.permutations(list(mapping)))}

    groups = {name: data.draw(st.permutations(members)) for name, members in shuffled(rule.groups).items()}
    other = replace(rule, groups=groups, weights=shuffled(rule.weights))
    assert near(other.terms(parents, changed, 0), rule.terms(parents, changed, 0))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(questions(least=1), st.sampled_from(["anchored", "nested"]), st.booleans())
def test_anchored_and_nested_are_neutral_at_weight_one(question, form, named):
    parents, changed = question
    rule = Decoupled(1.0, form=form, weights=dict.fromkeys(parents, 1.0) if named else {})
    assert rule.terms(parents, changed, 0) == {shown(parents): 1.0}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(questions(least=1))
def test_classifier_free_is_neutral_at_weight_one(question):
    assert ClassifierFree(1.0).terms(*question, 0) == {shown(question[0]): 1.0}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_weights_of_one_are_neutral_by_any_groups_and_names_in_every_row_and_on_any_schedule(data):
    parents, changed = data.draw(questions(least=1))
    rule = data.draw(rules(parents, st.just(1.0), st.sampled_from(["anchored", "nested"]), rows=True))
    terms = rule.terms(parents, changed, data.draw(timesteps))
    assert terms.keys() == {shown(parents)}
    assert np.all(terms[shown(parents)] == 1.0)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(questions(least=1))
def test_the_papers_form_at_weight_one_is_its_formula_and_not_the_conditional(question):
    parents, changed = question
    rest = shown(parents) - changed
    groups = [changed, rest] if rest else [shown(name) for name in parents]
    expected = dict.fromkeys(groups, 1.0) | ({shown(""): 1.0 - len(groups)} if len(groups) > 1 else {})
    assert near(Decoupled(1.0, form="paper").terms(parents, changed, 0), expected)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_the_forms_coincide_where_the_prediction_is_additive_over_the_groups(data):
    parents, changed = data.draw(questions(least=1))
    weight, invariant = data.draw(weights), data.draw(weights)
    named = data.draw(st.dictionaries(st.sampled_from(parents), weights))
    base = data.draw(weights)
    contribution = {name: data.draw(weights) for name in parents}

    def eps(mask):
        return base + sum(contribution[name] for name in mask)

    answers = [
        value(Decoupled(weight, invariant, form, named).terms(parents, changed, 0), eps)
        for form in ("paper", "anchored", "nested")
    ]
    # five contributions of size 4 times coefficients of size up to 5
    assert max(answers) - min(answers) < 100 * ROUNDING


def test_the_forms_differ_where_the_prediction_is_not_additive():
    def eps(mask):
        return len(mask) ** 2

    answers = {
        form: value(Decoupled(2.0, form=form).terms("abc", shown("a"), 0), eps) for form in ("paper", "anchored", "nested")
    }
    assert answers == {"paper": 6.0, "anchored": 10.0, "nested": 14.0}


@pytest.mark.parametrize(
    ("rule", "changed", "expected"),
    [
        (Plain(), "a", {"abc": 1}),
        (ClassifierFree(2.0), "a", {"abc": 2, "": -1}),
        (ClassifierFree(0.0), "a", {"": 1}),
        # eps(0) + w_A [eps(pa_A) - eps(0)] + w_I [eps(pa_I) - eps(0)]
        (Decoupled(2.0, form="paper"), "a", {"a": 2, "bc": 1, "": -2}),
        (Decoupled(2.0, form="paper"), "ab", {"ab": 2, "c": 1, "": -2}),
        (Decoupled(2.0, 0.5, form="paper"), "a", {"a": 2, "bc": 0.5, "": -1.5}),
        (Decoupled(2.0, -1.0, form="paper"), "a", {"a": 2, "bc": -1}),
        (Decoupled(2.0, form="paper"), "abc", {"a": 2, "b": 2, "c": 2, "": -5}),
        # eps(pa) + (w_A - 1) [eps(pa_A) - eps(0)] + (w_I - 1) [eps(pa_I) - eps(0)]
        (Decoupled(2.0), "a", {"abc": 1, "a": 1, "": -1}),
        (Decoupled(3.0, 0.5), "a", {"abc": 1, "a": 2, "bc": -0.5, "": -1.5}),
        (Decoupled(2.0), "abc", {"abc": 1, "a": 1, "b": 1, "c": 1, "": -3}),
        # eps(pa) + (w_A - 1) [eps(pa) - eps(pa_I)] + (w_I - 1) [eps(pa) - eps(pa_A)]
        (Decoupled(2.0, form="nested"), "a", {"abc": 2, "bc": -1}),
        (Decoupled(3.0, 0.5, form="nested"), "a", {"abc": 2.5, "bc": -2, "a": 0.5}),
        (Decoupled(2.0, form="nested"), "abc", {"abc": 4, "bc": -1, "ac": -1, "ab": -1}),
        # weights by attribute: each named one is a group of its own where it is affected
        (Decoupled(2.0, weights={"a": 4.0}, form="paper"), "ab", {"a": 4, "b": 2, "c": 1, "": -6}),
        (Decoupled(2.0, weights={"a": 4.0}), "ab", {"abc": 1, "a": 3, "b": 1, "": -4}),
        (Decoupled(2.0, weights={"a": 4.0}, form="nested"), "ab", {"abc": 5, "bc": -3, "ac": -1}),
        (Decoupled(1.0, weights={"a": 4.0}), "ab", {"abc": 1, "a": 3, "": -3}),
        (Decoupled(2.0, weights={"c": 4.0}), "ab", {"abc": 1, "ab": 1, "": -1}),
        (Decoupled(2.0, weights={"a": 3.0, "b": 4.0, "c": 5.0}), "abc", {"abc": 1, "a": 2, "b": 3, "c": 4, "": -9}),
    ],
)
def test_the_formulas_worked_out_by_hand(rule, changed, expected):
    terms = rule.terms(["a", "b", "c"], shown(changed), 0)
    assert terms == {shown(mask): float(coefficient) for mask, coefficient in expected.items()}


def test_one_parent_alone_is_classifier_free_guidance_in_every_form():
    for form in ("paper", "anchored", "nested"):
        assert Decoupled(2.0, form=form).terms(["a"], shown("a"), 0) == ClassifierFree(2.0).terms(["a"], shown("a"), 0)


def test_a_weight_for_something_that_is_no_parent_is_an_error():
    odd = Decoupled(2.0, groups={"a": ["b"]}, weights={"a": 3.0})
    with pytest.raises(DataError, match=r"a group 'a' without the parent a\. Call the group otherwise"):
        odd.terms(["a", "b"], frozenset({"b"}), 0)
    with pytest.raises(DataError, match=r"thicknes, which is no parent of the image\. Its parents are: thickness, digit"):
        Decoupled(weights={"thicknes": 2.0}).terms(["thickness", "digit"], shown(["digit"]), 0)


def test_an_unknown_form_is_an_error_that_lists_the_forms():
    with pytest.raises(DataError, match=r"no form 'anchord'\. Forms are: paper, anchored, nested"):
        Decoupled(form="anchord")


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: Decoupled(bad),
        lambda bad: Decoupled(2.0, bad),
        lambda bad: Decoupled(weights={"a": bad}),
        lambda bad: ClassifierFree(bad),
    ],
    ids=["weight", "invariant", "weights", "classifier-free"],
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_no_finite_number_is_an_error_rather_than_dropped(make, bad):
    with pytest.raises(DataError, match=r"weight|invariant"):
        make(bad).terms(["a", "b"], shown("a"), 0)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_a_rule_survives_the_way_through_json(data):
    rule = data.draw(rules(list(NAMES)))
    assert guidance_from_dict(json.loads(json.dumps(rule.to_dict()))) == rule


@pytest.mark.parametrize("saved", [{"rule": "Decopled"}, {}, {"weight": 2.0}])
def test_an_unknown_rule_is_an_error_that_lists_the_rules(saved):
    with pytest.raises(DataError, match="Rules are: Plain, ClassifierFree, Decoupled"):
        guidance_from_dict(saved)


EVERYTHING, REST = frozenset("abc"), frozenset("bc")
NESTED = Decoupled(3.0, form="nested")


def test_explicit_groups_are_affected_together():
    rule = Decoupled(2.0, invariant=0.5, form="nested", groups={"pose": ["a", "b"]}, weights={"pose": 4.0})
    assert rule.terms("abc", shown("a"), 0) == {shown("abc"): 1 + 3 - 0.5, shown("c"): -3.0, shown("ab"): 0.5}
    assert rule.terms("abc", shown("c"), 0) == {shown("abc"): 1 + 1 - 0.5, shown("ab"): -1.0, shown("c"): 0.5}


def test_an_invariant_parent_can_have_a_weight_of_its_own():
    rule = Decoupled(2.0, invariant={"b": 1.5}, form="nested")
    assert rule.terms("abc", shown("a"), 0) == {shown("abc"): 1 + 1 + 0.5, shown("bc"): -1.0, shown("ac"): -0.5}
    assert rule.terms("abc", shown("ab"), 0) == {shown("abc"): 2.0, shown("c"): -1.0}  # b is not invariant here
    assert guidance_from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    with pytest.raises(DataError, match="shoe, which is no parent"):
        Decoupled(invariant={"shoe": 2.0}).terms("abc", shown("a"), 0)


def test_a_parent_in_two_groups_or_in_none_of_the_image_is_an_error():
    with pytest.raises(DataError, match="a in two groups"):
        Decoupled(groups={"one": ["a"], "two": ["a", "b"]})
    with pytest.raises(DataError, match="shoe, which is no parent"):
        Decoupled(groups={"one": ["shoe"]}).terms("ab", shown("a"), 0)
    with pytest.raises(DataError, match="no groups 'row'"):
        Decoupled(groups="row")
    for weighed in ({"weights": {"a": 3.0}}, {"invariant": {"a": 3.0}}):
        with pytest.raises(DataError, match=r"a weight for a, which is in group 'one'"):
            Decoupled(groups={"one": ["a", "b"]}, **weighed)


def test_no_invariant_weight_by_name_is_the_neutral_one():
    assert Decoupled(2.0, {}) == Decoupled(2.0, 1.0)
    assert str(Decoupled(2.0, {})) == "anchored:2"


def test_a_weight_a_row_is_the_rule_of_each_row():
    rule = Decoupled([1.0, 2.0, 3.0], form="paper", weights={"b": [4.0, 1.0, 0.0]})
    together = rule.terms("abc", shown("ab"), 0)
    for row, (weight, b) in enumerate([(1.0, 4.0), (2.0, 1.0), (3.0, 0.0)]):
        alone = Decoupled(weight, form="paper", weights={"b": b}).terms("abc", shown("ab"), 0)
        assert near({mask: np.broadcast_to(c, 3)[row] for mask, c in together.items()}, alone)
    part = rule.rows(slice(1, 3), 3)
    assert part.weight.tolist() == [2.0, 3.0]
    assert part.weights["b"].tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match="3 values, the batch has 4 rows"):
        rule.rows(slice(0, 2), 4)
    with pytest.raises(DataError, match="cannot be stored"):
        rule.to_dict()
    with pytest.raises(DataError, match="finite numbers"):
        Decoupled([1.0, float("nan")])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_some_rows_of_a_rule_are_what_it_is_there_on_any_schedule(data):
    parents, changed = data.draw(questions(least=1))
    rule, t = data.draw(rules(parents, rows=True)), data.draw(timesteps)
    rows = np.array(data.draw(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS, unique=True)))
    together = {mask: np.broadcast_to(c, ROWS)[rows] for mask, c in rule.terms(parents, changed, t).items()}
    assert near(rule.rows(rows, ROWS).terms(parents, changed, t), together)


def test_a_schedule_holds_for_the_weight_of_each_row():
    points = [(0, 0.0), (100, 1.0)]
    rule = Scheduled(Decoupled([1.0, 2.0, 3.0], {"c": [0.5, 1.0, 2.0]}, "nested"), interval=(20, 600), points=points)
    assert rule.by_row
    assert not NESTED.by_row
    for t in (10, 25, 300, 601):
        together = rule.terms("abc", shown("a"), t)
        for row, (weight, still) in enumerate([(1.0, 0.5), (2.0, 1.0), (3.0, 2.0)]):
            alone = Scheduled(Decoupled(weight, {"c": still}, "nested"), interval=(20, 600), points=points)
            assert near({mask: np.broadcast_to(c, 3)[row] for mask, c in together.items()}, alone.terms("abc", shown("a"), t))


def test_outside_its_interval_a_rule_is_one_plain_pass():
    for inner in (NESTED, Decoupled(3.0, form="paper"), ClassifierFree(2.0)):
        rule = Scheduled(inner, interval=(200, 600))
        for t in (199, 601):
            assert rule.terms("abc", shown("a"), t) == {EVERYTHING: 1.0}
        for t in (200, 600):
            assert rule.terms("abc", shown("a"), t) == inner.terms("abc", shown("a"), t)


def test_a_schedule_scales_what_the_weight_has_above_one():
    rule = Scheduled(NESTED, points=[(0, 0.0), (100, 1.0)])
    assert near(rule.terms("abc", shown("a"), 25), Decoupled(1.5, form="nested").terms("abc", shown("a"), 25))
    assert near(rule.terms("abc", shown("a"), 900), NESTED.terms("abc", shown("a"), 900))
    with pytest.raises(DataError, match="rising timesteps"):
        Scheduled(NESTED, points=[(100, 0.0), (100, 1.0)])


def noisy(below=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    masks = EVERYTHING, REST, shown("a"), shown(""), shown("b"), shown("c"), shown("ab"), shown("ac")
    predicted = {mask: torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64) for mask in masks}
    return Noisy(image, 0.8, 0.6, below), predicted


def combined(rule, predicted, place, memory=None):
    return rule.combine(predicted, "abc", shown("a"), 300, place, {} if memory is None else memory)


@pytest.mark.parametrize("adjusted", [Projected, Rescaled, PlusPlus])
@pytest.mark.parametrize("inner", [ClassifierFree(1.0), Decoupled(1.0, form="anchored"), Decoupled(1.0, form="nested")], ids=str)
def test_an_adjusted_rule_is_neutral_at_weight_one(adjusted, inner):
    place, predicted = noisy()
    assert torch.equal(combined(adjusted(inner), predicted, place), predicted[EVERYTHING])
    assert adjusted(inner).masks("abc", shown("a"), 300) == [EVERYTHING]


@pytest.mark.parametrize(
    "switched_off",
    [
        Projected(NESTED, parallel=1.0, norm=float("inf"), momentum=0.0),
        Rescaled(NESTED, factor=0.0),
        PlusPlus(NESTED),
    ],
)
def test_an_adjustment_that_is_switched_off_is_the_rule_itself(switched_off):
    place, predicted = noisy(below=0.0)  # the last step of CFG++ has nothing to noise again
    plain = 3 * predicted[EVERYTHING] - 2 * predicted[REST]
    assert torch.allclose(combined(switched_off, predicted, place), plain, atol=1e-12)


def test_a_projected_difference_is_orthogonal_to_the_clean_image_and_short():
    place, predicted = noisy()
    guided = combined(Projected(NESTED, norm=0.5, momentum=0.0), predicted, place)
    moved = -(place.sigma / place.alpha) * (guided - predicted[EVERYTHING]) / 2  # of the clean image, for each unit of weight
    clean = (place.image - place.sigma * predicted[EVERYTHING]) / place.alpha
    assert (moved * clean).sum((1, 2, 3)).abs().max() < 1e-12
    assert moved.flatten(1).norm(dim=1).max() <= 0.5 + 1e-12


def test_momentum_adds_the_levels_before():
    place, predicted = noisy()
    settings, memory = {"parallel": 1.0, "norm": float("inf")}, {}
    rule = Projected(NESTED, momentum=-0.5, **settings)
    combined(rule, predicted, place, memory)
    second = combined(rule, predicted, place, memory)
    assert torch.allclose(second, combined(Projected(Decoupled(2.0, form="nested"), momentum=0.0, **settings), predicted, place))


def test_rescaling_in_full_keeps_the_spread_of_the_prediction():
    place, predicted = noisy()
    guided = combined(Rescaled(NESTED, factor=1.0), predicted, place)
    assert torch.allclose(guided.std((1, 2, 3)), predicted[EVERYTHING].std((1, 2, 3)))


def test_cfg_plus_plus_noises_with_the_neutral_prediction():
    place, predicted = noisy()
    here, neutral = place.sigma / place.alpha, predicted[EVERYTHING]
    guided = 3 * predicted[EVERYTHING] - 2 * predicted[REST]
    eps = combined(PlusPlus(NESTED), predicted, place)
    scaled = place.image / place.alpha
    assert torch.allclose(scaled - (here - place.below) * eps, scaled - here * guided + place.below * neutral)


def walked(rule, changed="ab", parents="abc", rows=slice(None)):
    """The guided predictions at two levels, the upper one first, and their neutral ones: (level, row, channel, height, width)."""
    levels, memory = [(300, *noisy(seed=1)), (200, *noisy(seed=2))], {}
    guided = []
    for t, place, predicted in levels:
        assert set(rule.masks(parents, shown(changed), t)) <= predicted.keys()
        some = {mask: image[rows] for mask, image in predicted.items()}
        guided.append(rule.combine(some, parents, shown(changed), t, place._replace(image=place.image[rows]), memory))
    return torch.stack(guided), torch.stack([predicted[EVERYTHING][rows] for _, _, predicted in levels])


# here a difference is about 0.75 * sqrt(2 * 16) = 4.2 long: a norm of 2 shortens it
ADJUSTED = {
    "projected": partial(Projected, norm=2.0),
    "projected by momentum alone": partial(Projected, parallel=1.0, norm=float("inf")),
    "rescaled": partial(Rescaled, factor=1.0),
    "cfg++": PlusPlus,
}
every_adjusted = pytest.mark.parametrize("adjusted", ADJUSTED.values(), ids=ADJUSTED.keys())


@every_adjusted
@pytest.mark.parametrize("form", ["anchored", "nested"])
def test_an_adjusted_rule_is_the_sum_of_what_each_group_adds_by_itself(adjusted, form):
    def added(still=1.0, **weights):
        guided, neutral = walked(adjusted(Decoupled(1.0, {"c": still}, form, weights)))
        return guided - neutral

    together = added(a=3.0, b=2.0, still=0.5)  # two affected groups and an invariant one
    apart = added(a=3.0) + added(b=2.0) + added(still=0.5)
    assert all(float(one.abs().max()) > 0.1 for one in (added(a=3.0), added(b=2.0), added(still=0.5)))
    assert torch.allclose(together, apart, atol=1e-12)


@every_adjusted
@pytest.mark.parametrize("form", ["anchored", "nested"])
def test_an_adjusted_rule_differs_from_its_whole_difference_adjusted_as_one(adjusted, form):
    rule = adjusted(Decoupled(1.0, form=form, weights={"a": 3.0, "b": 2.0}))
    by_group, as_one, memory = walked(rule)[0], [], {}
    for place, predicted in (noisy(seed=1), noisy(seed=2)):
        _, differences = rule.inner.parts("abc", shown("ab"), 0)
        assert len(differences) == 2
        whole = sum(extra * (predicted[more] - predicted[less]) for more, less, extra in differences)
        neutral = predicted[EVERYTHING]
        as_one.append(neutral + rule.contribution(neutral, whole, 1.0, place, memory, "all"))
    # to multiply by a number, as CFG++ does, and to add earlier levels are linear: only these may be done to the sum
    linear = isinstance(rule, PlusPlus) or (isinstance(rule, Projected) and rule.norm == float("inf"))
    assert torch.allclose(by_group, torch.stack(as_one), atol=1e-12 if linear else 0.1) == linear


@every_adjusted
@pytest.mark.parametrize("form", ["paper", "anchored", "nested"])
def test_the_order_of_the_groups_of_an_adjusted_rule_is_irrelevant(adjusted, form):
    weights = {"one": 3.0, "two": 1.5}
    rule = adjusted(Decoupled(1.0, form=form, groups={"one": ["a"], "two": ["b", "c"]}, weights=weights))
    other = adjusted(Decoupled(1.0, form=form, groups={"two": ["c", "b"], "one": ["a"]}, weights=weights))
    for parents in ("abc", "cab"):
        assert torch.allclose(walked(other, parents=parents)[0], walked(rule)[0], atol=1e-12)


@every_adjusted
@pytest.mark.parametrize("scheduled", [False, True])
def test_an_adjusted_rule_is_that_of_each_row_alone_with_its_own_weight(adjusted, scheduled):
    def rule(weight, named, still):
        inner = Decoupled(weight, {"c": still}, "nested", {"b": named})
        return adjusted(Scheduled(inner, points=[(100, 0.5), (300, 1.0)]) if scheduled else inner)

    each = [(1.0, 2.0, 0.5), (3.0, 1.5, 1.0)]  # neutral in one group or another
    by_row, by_one = rule(*np.transpose(each).tolist()), rule(*each[1])
    together, alike = walked(by_row)[0], walked(by_one)[0]
    for row, own in enumerate(each):
        some = slice(row, row + 1)
        for alone in (rule(*own), by_row.rows(some, 2)):
            assert torch.allclose(walked(alone, rows=some)[0], together[:, some], atol=1e-12)
        assert torch.allclose(walked(by_one, rows=some)[0], alike[:, some], atol=1e-12)


@pytest.mark.parametrize(
    "rule",
    [
        Scheduled(Decoupled(2.0, groups={"pose": ["a", "b"]}), interval=(100, 700), points=[(0, 1.0), (500, 0.5)]),
        Projected(Scheduled(NESTED, interval=(1, 2)), norm=3.0),
        Rescaled(ClassifierFree(3.0)),
        PlusPlus(Decoupled(1.1, groups="moved")),
    ],
)
def test_a_rule_on_a_rule_survives_json(rule):
    again = guidance_from_dict(json.loads(json.dumps(rule.to_dict())))
    assert again.to_dict() == rule.to_dict()
    assert again.by_moved == rule.by_moved
    assert again.terms("abc", shown("a"), 300) == rule.terms("abc", shown("a"), 300)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_a_rule_is_read_back_from_its_words(data):
    rule = data.draw(rules(list(NAMES)))
    if isinstance(rule, Decoupled | ClassifierFree):
        rule = data.draw(
            st.sampled_from([rule, Scheduled(rule, interval=(100, 700)), Projected(rule), PlusPlus(Scheduled(rule))])
        )
    assert parse_guidance(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("plain", Plain()),
        ("cfg:3", ClassifierFree(3.0)),
        ("nested", Decoupled(2.0, form="nested")),
        ("anchored:digit=2.5,thickness=1", Decoupled(1.0, weights={"digit": 2.5, "thickness": 1.0})),
        ("nested:1.5,a=2|b=1.2", Decoupled(1.5, {"b": 1.2}, form="nested", weights={"a": 2.0})),
        ("paper/moved:2|1.5", Decoupled(2.0, 1.5, form="paper", groups="moved")),
        ("cfg+++nested:1.1@0-499", PlusPlus(Scheduled(Decoupled(1.1, form="nested"), interval=(0, 499)))),
    ],
)
def test_words_mean_what_the_help_says(text, rule):
    assert parse_guidance(text) == rule


@pytest.mark.parametrize(
    "text", ["", "nested:x", "plain:2", "cfg/moved:2", "nested:2@5", "apg+plain2", "{", '{"rule": "No"}', "@0-9"]
)
def test_words_that_mean_nothing_are_an_error_that_lists_what_does(text):
    with pytest.raises(DataError, match=r"nested|Rules are"):
        parse_guidance(text)


@pytest.mark.parametrize("text", ["apg+rescale+nested:2", "apg+plain", "cfg+++apg+nested:2", "rescale+plain"])
def test_a_rule_on_top_of_one_without_groups_is_an_error_before_anything_is_asked(text):
    with pytest.raises(DataError, match=r"goes on top of classifier-free or decoupled guidance, not of (Plain|Resc|Proj)"):
        parse_guidance(text)


@pytest.mark.parametrize(
    ("rule", "at_three"),
    [
        ("nested:2|1.5@0-499", "nested:3|1.5@0-499"),
        ("apg+paper:digit=2", "apg+paper:3"),
        ("cfg:2", "cfg:3"),
        ("plain", "nested:3"),
    ],
)
def test_the_curve_of_a_rule_is_of_that_rule_at_other_weights(rule, at_three):
    assert str(at_weight(parse_guidance(rule), 3.0)) == at_three


def test_a_rule_without_words_is_json():
    rule = Decoupled(2.0, groups={"ab": ["a", "b"]})
    assert str(rule).startswith("{")
    assert parse_guidance(str(rule)) == rule


def test_a_rule_about_a_name_that_words_cannot_hold_is_told_as_json():
    for name in ("age, years", "a|b", "left@right"):
        rule = Decoupled(1.0, weights={name: 1.5}, form="nested")
        assert str(rule).startswith("{")
        assert parse_guidance(str(rule)) == rule
    with pytest.raises(DataError, match="weights has a weight a row"):
        Decoupled(1.0, weights={"age": [1.0, 2.0]}).to_dict()
