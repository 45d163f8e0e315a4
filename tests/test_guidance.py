"""Guidance rules: coefficients worked out by hand, and what must hold whatever the parents and weights."""

import json

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
# sums of at most 12 terms of size up to 4, in float64: rounding is below 12 * 4 * 2.2e-16, far below this
ROUNDING = 1e-12

weights = st.floats(-4, 4).map(lambda w: round(w, 3))
forms = st.sampled_from(["paper", "anchored", "nested"])


@st.composite
def questions(draw, least=0):
    """Parents of an image, and those that an intervention moved."""
    parents = list(NAMES[: draw(st.integers(1, 5))])
    return parents, frozenset(draw(st.lists(st.sampled_from(parents), unique=True, min_size=least)))


@st.composite
def rules(draw, parents):
    return draw(
        st.one_of(
            st.just(Plain()),
            st.builds(ClassifierFree, weights),
            st.builds(Decoupled, weights, weights, forms, st.dictionaries(st.sampled_from(parents), weights)),
        )
    )


def shown(names):
    return frozenset(names)


def near(terms, expected):
    """Whether two sums of masked predictions are the same but for rounding."""
    return all(abs(terms.get(mask, 0.0) - expected.get(mask, 0.0)) < ROUNDING for mask in terms.keys() | expected.keys())


def value(terms, eps):
    return sum(coefficient * eps(mask) for mask, coefficient in terms.items())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_coefficients_sum_to_one_and_none_is_zero(data):
    parents, changed = data.draw(questions())
    terms = data.draw(rules(parents)).terms(parents, changed, 500)
    assert abs(sum(terms.values()) - 1) < ROUNDING
    assert all(terms.values())
    assert all(mask <= set(parents) for mask in terms)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_without_an_intervention_every_rule_is_one_plain_pass(data):
    parents, _ = data.draw(questions())
    assert data.draw(rules(parents)).terms(parents, frozenset(), 0) == {shown(parents): 1.0}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_the_order_of_the_parents_is_irrelevant(data):
    parents, changed = data.draw(questions())
    rule = data.draw(rules(parents))
    assert near(rule.terms(data.draw(st.permutations(parents)), changed, 0), rule.terms(parents, changed, 0))


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


def noisy(below=0.4):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    masks = EVERYTHING, REST, shown("a"), shown("")
    predicted = {mask: torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64) for mask in masks}
    return Noisy(image, 0.8, 0.6, below), predicted


def combined(rule, predicted, place, memory=None):
    return rule.combine(predicted, "abc", shown("a"), 300, place, {} if memory is None else memory)


@pytest.mark.parametrize("adjusted", [Projected, Rescaled, PlusPlus])
@pytest.mark.parametrize("form", ["anchored", "nested"])
def test_an_adjusted_rule_is_neutral_at_weight_one(adjusted, form):
    place, predicted = noisy()
    assert torch.equal(combined(adjusted(Decoupled(1.0, form=form)), predicted, place), predicted[EVERYTHING])
    assert adjusted(Decoupled(1.0, form=form)).masks("abc", shown("a"), 300) == [EVERYTHING]


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
