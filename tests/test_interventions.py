"""What `do` accepts, and every mistake that is an error rather than an answer."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributions as dist
from scipy import stats

from causalcf.errors import CausalCFError, DataError, GraphError
from causalcf.graph import CausalGraph, Node
from causalcf.interventions import Scale, Shift, parse_do, resolve

GRAPH = CausalGraph(
    "toy",
    [
        Node("age", "continuous", unit="year", support=(18, 100)),
        Node("dose", "continuous"),
        Node("digit", "categorical", states=["0", "1", "2"]),
        Node("treated", "binary"),
        Node("stage", "ordinal", states=[1, 2, 3]),
        Node("race", "categorical", states=["White, other", "Black"]),
        Node("scan", "image", parents=["age", "digit"], shape=(1, 4, 4)),
    ],
)
INDEX = pd.Index(["p0", "p1", "p2"], name="patient")
FRAME = pd.DataFrame(
    {"age": [20, 40, 60], "dose": [0.1, 0.2, 0.3], "digit": ["0", "1", "2"], "treated": [0, 1, 0], "stage": [1, 2, 3]},
    index=INDEX,
)


def refuse(do, *words, error=DataError):
    with pytest.raises(error) as raised:
        resolve(GRAPH, do, FRAME)
    for word in words:
        assert word in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (50, [50.0, 50.0, 50.0]),
        (np.float32(50.5), [50.5, 50.5, 50.5]),
        (np.array([30, 31, 32]), [30.0, 31.0, 32.0]),
        ([30.0, 31.5, 32.0], [30.0, 31.5, 32.0]),
        (pd.Series([30.0, 31.0, 32.0], index=INDEX), [30.0, 31.0, 32.0]),
        (lambda frame: frame["age"] + 100 * frame["dose"], [30.0, 60.0, 90.0]),
        (lambda frame: frame["age"].to_numpy() + 1, [21.0, 41.0, 61.0]),
        (lambda frame: 33, [33.0, 33.0, 33.0]),
        (Shift(10), [30.0, 50.0, 70.0]),
        (Shift(-1.5), [18.5, 38.5, 58.5]),
        (Scale(1.5), [30.0, 60.0, 90.0]),
    ],
    ids=[
        "constant",
        "numpy constant",
        "array",
        "list",
        "series",
        "callable",
        "array callable",
        "constant callable",
        "shift",
        "down",
        "scale",
    ],
)
def test_a_number_can_be_set_in_every_way(action, expected):
    column = resolve(GRAPH, {"age": action}, FRAME)["age"]
    assert column.index.equals(INDEX)
    assert column.dtype == float
    assert column.to_list() == pytest.approx(expected, abs=1e-12)  # one addition and one product in float64


@pytest.mark.parametrize(
    ("node", "action", "expected"),
    [
        ("digit", "2", ["2", "2", "2"]),
        ("digit", ["2", "0", "1"], ["2", "0", "1"]),
        ("digit", pd.Series(["2", "0", "1"], index=INDEX), ["2", "0", "1"]),
        ("digit", lambda frame: np.where(frame["age"] > 30, "2", "0"), ["0", "2", "2"]),
        ("treated", 1, [1, 1, 1]),
        ("treated", lambda frame: 1 - frame["treated"], [1, 0, 1]),
        ("stage", np.array([3, 3, 1]), [3, 3, 1]),
    ],
)
def test_a_label_can_be_set_in_every_way(node, action, expected):
    column = resolve(GRAPH, {node: action}, FRAME)[node]
    assert column.index.equals(INDEX)
    assert column.to_list() == expected


def test_several_nodes_are_set_at_once_and_see_the_factual_table():
    columns = resolve(GRAPH, {"age": 50, "dose": lambda frame: frame["age"] / 100}, FRAME)
    assert list(columns) == ["age", "dose"]
    assert columns["dose"].to_list() == [0.2, 0.4, 0.6]


def test_no_intervention_sets_nothing():
    assert resolve(GRAPH, {}, FRAME) == {}


def test_the_table_is_not_changed():
    before = FRAME.copy()
    resolve(GRAPH, {"age": Shift(1), "digit": "1"}, FRAME)
    pd.testing.assert_frame_equal(FRAME, before)


def test_a_misspelt_intervention_is_an_error():
    message = refuse({"agee": 40}, "cannot intervene on agee", "graph 'toy'", "Did you mean 'age'?", error=GraphError)
    assert message.endswith("Nodes are: age, dose, digit, treated, stage, race, scan.")


def test_one_misspelt_node_among_good_ones_is_an_error():
    refuse({"age": 40, "digitt": "1"}, "digitt", "Did you mean 'digit'?", error=GraphError)


def test_an_image_cannot_be_set():
    refuse({"scan": 0.0}, "the image 'scan'", "age, dose, digit, treated, stage", error=GraphError)


def test_an_unknown_label_is_an_error_that_lists_the_labels():
    refuse({"digit": "7"}, "'digit'", "'7'", "Labels are: '0', '1', '2'")


def test_a_number_given_for_a_text_label_is_an_error_that_says_so():
    refuse({"digit": 1}, "'digit'", "1", "Labels are: '0', '1', '2'", "Labels are of type str")


def test_text_given_for_a_number_label_is_an_error_that_says_so():
    refuse({"stage": "2"}, "'stage'", "'2'", "Labels are: 1, 2, 3", "Labels are of type int")


@pytest.mark.parametrize("value", [None, np.nan, ["0", None, "1"]])
def test_a_missing_label_is_an_error(value):
    refuse({"digit": value}, "'digit'", "none of its labels")


@pytest.mark.parametrize("value", [18, 100, -5, 1e9])
def test_a_number_outside_the_support_is_an_error_that_names_it_and_the_way_out(value):
    refuse({"age": value}, "'age'", f"{value:g}", "outside its support (18, 100) year", "widen the node's support")


def test_a_shift_out_of_the_support_names_the_row():
    refuse({"age": Shift(45)}, "'age'", "105", "row p2", "(18, 100)")


@pytest.mark.parametrize("value", [np.nan, np.inf, [30.0, np.nan, 40.0], lambda frame: frame["age"] * np.nan])
@pytest.mark.parametrize("node", ["age", "dose"])
def test_a_number_that_is_missing_or_infinite_is_an_error_that_names_its_row(node, value):
    refuse({node: value}, f"'{node}'", "row p", "finite")


@pytest.mark.parametrize("value", [[30.0, 40.0], np.ones(4), np.ones((3, 1)), lambda frame: [30.0]])
@pytest.mark.parametrize("node", ["age", "digit"])
def test_values_of_the_wrong_length_are_an_error_that_names_both(node, value):
    refuse({node: value}, f"'{node}'", "shape", "3 rows")


@pytest.mark.parametrize("labels", [["p0", "p1", "other"], ["p2", "p1", "p0"], [0, 1, 2]])
def test_a_series_with_another_index_is_an_error_rather_than_aligned_or_not(labels):
    refuse({"age": pd.Series([30.0, 40.0, 50.0], index=labels)}, "'age'", "another index", "align")


@pytest.mark.parametrize(
    "value", ["40", "forty", ["30", "40", "50"], None, [30.0, "40", 50.0], pd.Series(["30", "40", "50"], index=INDEX)]
)
def test_text_for_a_number_is_an_error(value):
    refuse({"dose": value}, "'dose'", "number")


@pytest.mark.parametrize("value", [True, np.True_, [True, False, True]])
def test_a_truth_value_for_a_number_is_an_error(value):
    refuse({"dose": value}, "'dose'", "number")


@pytest.mark.parametrize("value", [True, np.True_, [True, True, True]])
def test_a_truth_value_for_a_binary_node_is_its_label(value):
    assert resolve(GRAPH, {"treated": value}, FRAME)["treated"].to_list() == [1, 1, 1]


def test_a_complex_number_is_an_error():
    refuse({"dose": 1 + 2j}, "'dose'", "number")


@pytest.mark.parametrize("action", [Shift(1), Scale(2)])
@pytest.mark.parametrize("node", ["digit", "treated", "stage"])
def test_a_label_cannot_be_shifted_or_scaled(action, node):
    refuse({node: action}, f"node '{node}'", "cannot shift or scale", "labels")


ROWS = pd.DataFrame({"age": np.linspace(20, 90, 1000), "treated": 0}, index=pd.RangeIndex(1000))


def drawn(node, action, frame=ROWS, seed=0):
    return resolve(GRAPH, {node: action}, frame, seed=seed)[node]


@pytest.mark.parametrize(
    ("distribution", "cdf"),
    [
        (dist.Normal(50.0, 5.0), stats.norm(50, 5).cdf),
        (stats.norm(50, 5), stats.norm(50, 5).cdf),
        (dist.Gamma(100.0, 2.0), stats.gamma(100, scale=0.5).cdf),  # torch has no quantile function for it
    ],
    ids=["torch", "scipy", "no quantile function"],
)
def test_a_distribution_is_drawn_for_every_row(distribution, cdf):
    column = drawn("age", distribution)
    assert stats.kstest(column, cdf).pvalue > 1e-4
    assert column.nunique() > 0.99 * len(column)  # some draws are in single precision


@pytest.mark.parametrize("distribution", [dist.Normal(50.0, 5.0), dist.Gamma(100.0, 2.0)])
def test_a_draw_is_a_function_of_the_seed_and_of_the_row_alone(distribution):
    whole, some = drawn("age", distribution), drawn("age", distribution, ROWS.iloc[::-100])
    assert whole[some.index].to_list() == some.to_list()
    assert not np.isclose(drawn("age", distribution, seed=1), whole).any()


def test_a_row_may_have_a_distribution_of_its_own():
    column = drawn("dose", dist.Normal(torch.arange(1000.0), 1e-6))
    assert np.abs(column - np.arange(1000)).max() < 1e-3


def test_labels_are_drawn_by_their_place():
    share = drawn("stage", dist.Categorical(torch.tensor([0.2, 0.0, 0.8]))).value_counts(normalize=True)
    assert share[3] == pytest.approx(0.8, abs=5 * np.sqrt(0.16 / 1000))
    assert set(share.index) == {1, 3}
    assert set(drawn("treated", dist.Bernoulli(0.5))) == {0, 1}


def test_a_distribution_that_leaves_the_support_is_an_error():
    refuse({"age": dist.Normal(150.0, 1.0)}, "cannot set 'age'", "outside its support (18, 100) year")
    refuse({"digit": dist.Poisson(50.0)}, "the place of a label, 0 to 2")
    refuse({"dose": dist.Normal(torch.zeros(2), 1.0)}, "batch shape (2,)", "for each of 3")
    refuse({"dose": dist.Gamma(torch.ones(3), 1.0)}, "no quantile function of Gamma", "scipy.stats")


def test_an_intervention_that_is_no_mapping_is_an_error():
    refuse("age", "do is a mapping")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age=40", {"age": 40.0}),
        (" age += -1.5 , treated=1", {"age": Shift(-1.5), "treated": 1}),
        ("dose*=1e-3", {"dose": Scale(0.001)}),
        ("digit=2, stage=3", {"digit": "2", "stage": 3}),
        ("race=White, other,age=40", {"race": "White, other", "age": 40.0}),
    ],
)
def test_an_intervention_can_be_typed(text, expected):
    do = parse_do(GRAPH, text)
    assert do == expected
    assert {name: type(value) for name, value in do.items()} == {name: type(value) for name, value in expected.items()}
    resolve(GRAPH, do, FRAME)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age", "cannot read the intervention 'age'. Write NODE=VALUE"),
        ("age=old", "'old' is no number"),
        ("agee=4", "Did you mean 'age'?"),
        ("age=4, age=5", "sets 'age' twice"),
        ("digit+=1", "cannot shift or scale the categorical node 'digit'"),
        ("digit=7", "'7': it is none of its labels"),
    ],
)
def test_a_typing_mistake_is_named(text, words):
    with pytest.raises(CausalCFError, match=re.escape(words)):
        resolve(GRAPH, parse_do(GRAPH, text), FRAME)
