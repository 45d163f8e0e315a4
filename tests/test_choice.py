"""A mechanism left unnamed is the one that predicts held-out rows best, and the choice is reported."""

import numpy as np
import pandas as pd
import pytest
import torch

import causalcf as ccf
from causalcf.choice import Choice, Unchosen, candidates, select
from causalcf.errors import CausalCFError, NotFittedError

X = ccf.Node("x", "continuous")


def fitted(nodes, frame, seed=0):
    graph = ccf.CausalGraph("toy", nodes)
    return ccf.fit(ccf.SCM(graph), ccf.Batch(graph, frame), seed=seed)


@pytest.fixture(scope="module")
def rows():
    draw = np.random.default_rng(0)
    x = draw.normal(size=1500)
    e = draw.normal(size=1500)
    return pd.DataFrame(
        {
            "x": x,
            "line": 2 * x + e,
            "curve": np.sin(2 * x) + 0.3 * e,
            "spread": x + (0.1 + np.abs(x)) * e,
            "stage": 1 + (draw.uniform(size=1500) < 1 / (1 + np.exp(-x))).astype(int),
        }
    )


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        ("line", {ccf.LinearGaussian}),
        ("curve", {ccf.AdditiveNoise, ccf.LocationScale}),
        ("spread", {ccf.LocationScale, ccf.Flow}),
    ],
)
def test_the_choice_follows_the_data(rows, child, expected):
    model = fitted([X, ccf.Node(child, "continuous", parents=["x"])], rows[["x", child]])
    assert type(model.mechanisms[child]) in expected
    table = model.choices[model.choices["node"] == child].set_index("candidate")
    assert list(table.index) == list(candidates(ccf.Node(child, "continuous"), [X]))
    assert table["score"].notna().all()
    best = table["score"].max()
    assert table.loc[table["chosen"], "score"].item() >= best - max(0.005, table.loc[table["chosen"], "error"].item())


def test_the_choice_is_kept_with_the_model(rows, tmp_path):
    model = fitted([X, ccf.Node("stage", "ordinal", parents=["x"], states=[1, 2])], rows[["x", "stage"]])
    again = ccf.load(model.save(tmp_path / "m"))
    pd.testing.assert_frame_equal(again.choices, model.choices)
    assert set(again.choices["node"]) == {"x", "stage"}
    assert repr(again) == repr(model)


def test_the_choice_is_a_function_of_the_rows_and_the_seed(rows):
    nodes = [X, ccf.Node("line", "continuous", parents=["x"])]
    first, second = (fitted(nodes, rows[["x", "line"]].iloc[:300]) for _ in range(2))
    pd.testing.assert_frame_equal(first.choices, second.choices)


def test_a_named_mechanism_is_not_replaced(rows):
    graph = ccf.CausalGraph("toy", [X, ccf.Node("line", "continuous", parents=["x"])])
    named = ccf.LinearGaussian()
    model = ccf.fit(ccf.SCM(graph, {"x": ccf.Empirical(), "line": named}), ccf.Batch(graph, rows[["x", "line"]]))
    assert model.mechanisms["line"] is named
    assert model.choices.empty


def test_the_simpler_of_two_that_cannot_be_told_apart_is_taken():
    loss = torch.linspace(0, 1, 100, dtype=torch.float64)
    better = loss - 0.1 * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(50) - 0.001
    assert select(X, {"simple": loss, "flexible": better}, 100).chosen == "simple"
    assert select(X, {"simple": loss, "flexible": loss - 0.5}, 100).chosen == "flexible"


def test_a_difference_that_is_next_to_nothing_is_not_paid_for():
    loss = torch.linspace(0, 1, 100, dtype=torch.float64)  # the standard error of these differences is 0
    assert select(X, {"simple": loss, "flexible": loss - 0.004}, 100).chosen == "simple"
    assert select(X, {"simple": loss, "flexible": loss - 0.006}, 100).chosen == "flexible"


def test_a_candidate_that_cannot_be_fitted_says_why():
    choice = select(X, {"bad": "too few rows", "good": torch.ones(4)}, 4)
    assert choice == Choice("good", {"bad": None, "good": -1.0}, {"bad": None, "good": 0.0}, {"bad": "too few rows"}, 4)
    with pytest.raises(CausalCFError, match="no mechanism could be fitted to node 'x': bad: too few rows"):
        select(X, {"bad": "too few rows"}, 4)


def test_a_model_that_was_not_fitted_says_so(rows):
    graph = ccf.CausalGraph("toy", [X])
    model = ccf.SCM(graph)
    assert isinstance(model.mechanisms["x"], Unchosen)
    with pytest.raises(NotFittedError, match=r"node 'x': its mechanism was never fitted, nor chosen. Call causalcf\.fit"):
        model.sample(3)


def test_with_too_few_rows_to_hold_some_out_the_simplest_is_taken(rows):
    model = fitted([X, ccf.Node("line", "continuous", parents=["x"])], rows[["x", "line"]].iloc[:10])
    assert [type(mechanism) for mechanism in model.mechanisms.values()] == [ccf.Empirical, ccf.LinearGaussian]
    taken = model.choices[model.choices["chosen"]]
    assert taken["node"].to_list() == ["x", "line"]
    assert set(taken["reason"]) == {"10 rows are too few to hold some out"}


def test_an_only_candidate_is_reported_too(rows):
    model = fitted([ccf.Node("stage", "ordinal", states=[1, 2])], rows[["stage"]])
    assert model.choices[["node", "reason"]].to_numpy().tolist() == [["stage", "it is the only candidate"]]
