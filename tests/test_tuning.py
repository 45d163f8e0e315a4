"""Tuning: the rule that it chooses keeps its bounds, is stored with the model, and nothing better was tried."""

import json

import numpy as np
import pandas as pd
import pytest

import causalcf as ccf
from causalcf.cli import main
from causalcf.guidance import guidance_from_dict
from causalcf.tuning import Bench


@pytest.fixture(scope="module")
def rows():
    return ccf.recipe("morphomnist").batch("valid", 6, 0, 1)


@pytest.fixture(scope="module")
def quick(shipped):
    """Few levels, so that a rule costs a second; what is claimed here does not depend on the images being good."""
    return shipped.configured(steps=5, guidance=ccf.Plain())


@pytest.fixture(scope="module")
def found(quick, rows):
    return ccf.tune(
        quick, rows, forms=["nested"], weights=[2.0], invariant=[1.5], intervals=[(0, 499)],
        others=[ccf.Projected(ccf.Decoupled(2.0)), ccf.Decoupled(1.1, groups={"stroke": ["thickness", "intensity"]})],
        off_target=np.inf, reversibility=np.inf, again_rows=2,
    )  # fmt: skip


def errors(table, rule):
    return table[table["rule"] == rule].drop_duplicates("do")["error"].sum()


def test_without_bounds_the_choice_is_the_least_error_that_was_tried(found):
    table = found.table
    tried = {rule: errors(table, rule) for rule in table["rule"].unique()}
    assert tried[str(found.guidance)] == pytest.approx(min(tried.values()), abs=1e-6)
    assert set(table["stage"]) == {"plain", "weights", "invariant", "interval", "others", "chosen"}
    assert (table["stage"] == "others").sum() == 2 * 3  # two rules, three interventions
    together = [rule for rule in tried if rule.endswith("|1.5")]  # one weight for all that is invariant
    assert len(together) == 1
    assert set(table["do"]) == {"thickness", "intensity", "digit"}


def test_the_error_is_what_the_judges_read(found, quick, rows):
    do = ccf.samplers.draw_interventions(rows.graph, rows.frame, image="image", seed=0)["digit"]
    answer = ccf.counterfactual(quick, rows, do)
    wrong = np.mean(quick.judges["digit"](answer.images["image"]) != answer.frame["digit"].to_numpy())
    plain = found.table[(found.table["rule"] == "plain") & (found.table["do"] == "digit")].iloc[0]
    assert plain["on_target"] == pytest.approx(wrong, abs=1e-9)


def test_the_chosen_rule_keeps_its_bounds_and_is_the_models_default(quick, rows, tmp_path):
    bounds = {"thickness": 1.0, "intensity": 1.0, "digit": 1.0}
    found = ccf.tune(
        quick, rows, forms=["anchored"], weights=[3.0], invariant=[], intervals=[], reversibility=bounds, again_rows=2
    )
    plain, kept = (
        found.table[found.table[key] == value].set_index("do") for key, value in (("stage", "plain"), ("stage", "chosen"))
    )
    assert (kept["off_target"] - plain["off_target"] <= 0.02 + 1e-9).all()
    assert (kept["reversibility"] - plain["reversibility"] <= 1.0 + 1e-9).all()
    files = found.save(tmp_path)
    loaded = ccf.load(files["model"])
    assert loaded.mechanisms["image"].guidance == found.guidance
    assert loaded.manifest["made"]["tuning"]["rows"] == len(rows)
    assert len(pd.read_csv(files["tuning.csv"])) == len(found.table)
    assert files["tuning.png"].read_bytes().startswith(b"\x89PNG")


def test_where_bounds_cannot_be_kept_nothing_is_guided(quick, rows):
    found = ccf.tune(
        quick, rows, forms=["nested"], weights=[9.0], invariant=[], intervals=[], off_target=0, reversibility=0, again_rows=2
    )
    assert not found.table[found.table["stage"] == "weights"].groupby("rule")["feasible"].all().any()
    assert found.guidance == ccf.Plain()


def test_the_papers_form_which_guides_at_weight_one_too_is_not_taken_for_no_guidance(quick, rows):
    found = ccf.tune(
        quick, rows, forms=["paper"], weights=[], invariant=[1.5], intervals=[], off_target=0.0, reversibility=0.0, again_rows=2
    )
    assert found.guidance == ccf.Plain()
    assert "paper:1" in set(found.table["rule"])


def test_no_bound_is_stored_so_that_json_can_tell_it(found):
    assert json.loads(json.dumps(found.scm.manifest, allow_nan=False))["made"]["tuning"]["off_target"]["digit"] is None


def test_a_rule_by_what_moved_is_another_than_by_the_graph(quick, rows):
    bench = Bench(quick, rows, {"digit": {"digit": rows.frame["digit"].iloc[0]}}, 1, 0)
    by_graph, by_row = (ccf.Decoupled(3.0, form="nested", groups=groups) for groups in ("graph", "moved"))
    assert bench.score("digit", by_graph) != bench.score("digit", by_row)  # in the first row nothing moves


def test_a_model_that_cannot_be_tuned_says_why(quick, rows):
    blind = quick.configured()
    blind.judges = {}
    with pytest.raises(ccf.DataError, match="no judges"):
        ccf.tune(blind, rows)
    with pytest.raises(ccf.DataError, match="no images"):
        ccf.tune(quick, ccf.Batch(rows.graph, rows.frame))
    with pytest.raises(ccf.DataError, match="off_target=-1 is no bound"):
        ccf.tune(quick, rows, off_target=-1)


def test_the_command_writes_model_picture_and_table(tmp_path, capsys):
    words = ["tune", "morphomnist", "--out", str(tmp_path / "t"), "--n", "2", "--steps", "4", "--form", "nested", "--weight", "2"]
    words += ["--rule", "cfg:2"]
    assert main([*words, "--again-rows", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["files"]) == {"model", "tuning.csv", "tuning.png"}
    assert "cfg:2" in {row["rule"] for row in told["table"]}
    assert ccf.load(told["files"]["model"]).mechanisms["image"].guidance == guidance_from_dict(told["guidance"])


def test_a_judge_of_what_the_image_does_not_show_counts_for_nothing(quick, rows):
    more = quick.configured()
    more.judges = {**quick.judges, "image": lambda images: images}
    do = {"digit": {"digit": "3"}}
    assert Bench(more, rows, do, 1, 0).score("digit", ccf.Plain()) == Bench(quick, rows, do, 1, 0).score("digit", ccf.Plain())
    with pytest.raises(ccf.DataError, match="all rows have one thickness"):
        Bench(quick, ccf.Batch(rows.graph, rows.frame.assign(thickness=2.0), rows.images), do, 1, 0)
