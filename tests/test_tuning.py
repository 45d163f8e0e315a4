"""Tuning: the rule that it chooses keeps its bounds, is stored with the model, and nothing better was tried."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import grey_levels

import causalcf as ccf
from causalcf.cli import main
from causalcf.guidance import guidance_from_dict, parse_guidance
from causalcf.plot import tradeoff_figure
from causalcf.tuning import Bench, Score, _Search


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


def test_a_rule_is_scored_by_what_anybody_would_measure_of_it(quick, rows):
    do, rule, some = {"intensity": 220.0}, ccf.Decoupled(3.0, form="nested"), slice(0, 3)
    score = Bench(quick, rows, {"brighter": do}, 3, 0).score("brighter", rule)
    asked = quick.configured(guidance=rule)
    answer = ccf.counterfactual(asked, rows, do)
    back = ccf.counterfactual(asked, answer.batch.rows(some), {"intensity": rows.frame["intensity"].iloc[some]})
    read = {name: judge(answer.images["image"]) for name, judge in quick.judges.items()}
    wrong = {name: np.abs(read[name] - answer.frame[name]).mean() / rows.frame[name].std() for name in ("thickness", "intensity")}
    wrong["digit"] = np.mean(read["digit"] != answer.frame["digit"].to_numpy())
    assert score.on_target == pytest.approx(wrong["intensity"])
    assert score.off_target == pytest.approx((wrong["thickness"] + wrong["digit"]) / 2)
    assert score.error == pytest.approx(np.mean(list(wrong.values())))
    assert score.reversibility == pytest.approx(grey_levels(back.images["image"], rows.images["image"][some]))
    assert score.reversibility > 1.0
    assert score.evaluations == answer.diagnostics["image.prediction_evaluations"].mean()


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
        quick, rows, forms=["paper"], weights=[], invariant=[], intervals=[], off_target=0.0, reversibility=0.0, again_rows=2
    )
    assert found.guidance == ccf.Plain()
    assert "paper:1" in set(found.table["rule"])
    refused = {"paper:1": {"digit": {"error": 0.5, "off_target": 0.75}}}
    bounds = {"off_target": {"digit": 0.0}}
    assert chosen(refused, forms=["paper"], invariant=[1.5], bounds=bounds)[0] == "plain"  # nor is it gone on with
    assert chosen(refused, forms=["paper"], invariant=[1.5])[0] == "paper:1"


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


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"forms": ["nested", "anchord"]}, "anchord"),
        ({"intervals": [(500, 100)]}, "500"),
        ({"others": [ccf.PlusPlus(ccf.Decoupled(1.1))]}, "DDIM steps, which DPMSolverPP does not take"),
        ({"others": [ccf.Decoupled(2.0, weights={"digt": 2.0})]}, "digt, which is no parent of the image"),
        ({"others": [ccf.Decoupled(np.array([1.0, 2.0]))]}, "has a weight a row"),
        ({"gain": float("nan")}, "gain=nan is no share"),
    ],
)
def test_what_cannot_be_tried_is_told_before_anything_is(quick, rows, monkeypatch, asked, told):
    monkeypatch.setattr("causalcf.tuning.Bench", None)
    with pytest.raises(ccf.DataError, match=told):
        ccf.tune(quick, rows, **asked)


def test_a_place_that_cannot_be_written_to_is_told_before_the_search(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalcf.tuning.tune", None)
    (tmp_path / "t" / "model").mkdir(parents=True)
    (tmp_path / "t" / "model" / "thesis.tex").write_text("not to be lost")
    assert main(["tune", "morphomnist", "--out", str(tmp_path / "t")]) == 2
    assert "exists and is no causalcf directory" in capsys.readouterr().err


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


def chosen(scores, *, labels=("digit",), gain=0.02, bounds=None, **tried):
    """The rule that is chosen, in words, and the rows of its table, where rules fare as told and all others as the plain one.

    `scores` by rule and intervention: what is otherwise than an error of 1, of 0.25 off target, and 4 grey levels.
    """
    plain = Score(error=1.0, on_target=1.0, off_target=0.25, reversibility=4.0, evaluations=1.0)
    bounds = {name: dict.fromkeys(labels, np.inf) | (bounds or {}).get(name, {}) for name in ("off_target", "reversibility")}
    tried = {"forms": ["nested"], "weights": [], "invariant": [], "intervals": [], "others": [], **tried}

    def score(label, rule):
        return replace(plain, **scores.get(str(rule), {}).get(label, {}))

    search = _Search(score, labels, bounds, gain, lambda tried, words: None)
    rule = search.choose(["thickness", "digit"], **tried)
    assert search.rows[-1]["stage"] == "chosen"
    assert search.rows[-1]["rule"] == str(rule)
    return str(rule), pd.DataFrame(search.rows)


@pytest.mark.parametrize("forms", [["nested", "anchored", "paper"], ["paper", "anchored", "nested"]])
@pytest.mark.parametrize("best", ["nested", "anchored", "paper"])
def test_of_several_forms_the_best_is_chosen_and_gone_on_with(forms, best):
    fares = {form: 0.7 if form == best else 0.8 for form in forms}
    scores = {f"{form}:digit=2": {"digit": {"error": error}} for form, error in fares.items()}
    scores |= {f"{form}:digit=2|1.5": {"digit": {"error": error - 0.1}} for form, error in fares.items()}
    rule, table = chosen(scores, forms=forms, weights=[2.0], invariant=[1.5], intervals=[(0, 499)])
    assert rule == f"{best}:digit=2|1.5"
    assert {f"{form}:digit=2" for form in forms} <= set(table["rule"])
    assert set(table.loc[table["stage"] == "invariant", "rule"].str.partition(":")[0]) == {best}


def test_settings_are_kept_one_after_the_other_where_they_are_worth_it():
    scores = {
        "nested:thickness=2": {"digit": {"error": 0.9}},
        "nested:thickness=2,digit=2": {"digit": {"error": 0.8}},
        "nested:thickness=2,digit=3": {"digit": {"error": 0.79}},  # lower by 1.25 per cent
        "nested:thickness=2,digit=2|thickness=1.5": {"digit": {"error": 0.7}},
        "nested:thickness=2,digit=2|thickness=1.5@0-499": {"digit": {"error": 0.6}},
        "cfg:2": {"digit": {"error": 0.5}},
    }
    tried = {"weights": [2.0, 3.0], "invariant": [1.5], "intervals": [(0, 499)]}
    assert chosen(scores, **tried)[0] == "nested:thickness=2,digit=2|thickness=1.5@0-499"
    assert chosen(scores, **tried, gain=0.01)[0] == "nested:thickness=2,digit=3"
    assert chosen(scores, **tried, others=[ccf.ClassifierFree(2.0)])[0] == "cfg:2"
    assert chosen({}, **tried)[0] == "plain"


@pytest.mark.parametrize("quantity", ["off_target", "reversibility"])
def test_a_bound_takes_the_best_rule_away_and_leaves_a_weaker_one(quantity):
    plain = {"off_target": 0.25, "reversibility": 4.0}[quantity]
    scores = {
        f"nested:digit={weight:g}": {"digit": {"error": error, quantity: plain + above}}
        for weight, error, above in ((1.5, 0.9, 0.0), (2.0, 0.8, 0.5), (3.0, 0.6, 0.75))
    }
    other = {"off_target": "reversibility", "reversibility": "off_target"}[quantity]
    found = {}
    for bound in (0.0, 0.5, 1.0):
        rule, table = chosen(scores, weights=[1.5, 2.0, 3.0], bounds={quantity: {"digit": bound}, other: {"digit": 0.0}})
        found[bound] = rule
        refused = set(table.loc[~table["feasible"], "rule"])
        assert refused == {rule for rule, fares in scores.items() if fares["digit"][quantity] - plain > bound}
    assert found == {0.0: "nested:digit=1.5", 0.5: "nested:digit=2", 1.0: "nested:digit=3"}  # a bound is kept where it is reached
    assert chosen(scores, weights=[1.5, 2.0, 3.0])[0] == "nested:digit=3"


def test_a_bound_that_is_broken_under_one_intervention_refuses_the_rule_for_all():
    scores = {
        "nested:digit=2": {"digit": {"error": 0.9}, "thickness": {"error": 0.9}},
        "nested:digit=3": {"digit": {"error": 0.5}, "thickness": {"error": 0.8, "off_target": 0.75}},
    }

    def rule(**bounds):
        return chosen(scores, labels=("digit", "thickness"), weights=[2.0, 3.0], bounds={"off_target": bounds})[0]

    assert rule(digit=0.0, thickness=0.25) == "nested:digit=2"
    assert rule(digit=0.0, thickness=0.5) == "nested:digit=3"
    assert rule(digit=0.5, thickness=0.0) == "nested:digit=2"


def test_the_trade_off_picture_has_every_rule_the_bounds_and_a_star_on_the_chosen_one():
    points = {  # on target, off target, grey levels
        "digit": {"plain": (1.0, 0.1, 4.0), "nested:digit=2": (0.5, 0.11, 5.0), "anchored:digit=3": (0.4, 0.5, 9.0),
                  "paper:digit=2": (0.6, 0.3, 8.0), "cfg:2": (0.3, 0.6, 7.0)},
        "thickness": {"plain": (0.8, 0.2, 4.5), "nested:digit=2": (0.7, 0.21, 5.5), "anchored:digit=3": (0.9, 0.25, 6.0),
                      "paper:digit=2": (0.6, 0.35, 8.0), "cfg:2": (0.2, 0.4, 6.5)},
    }  # fmt: skip
    assert all(str(parse_guidance(rule)) == rule for rules in points.values() for rule in rules)
    table = pd.DataFrame(
        [(rule, do, *numbers, rule == "nested:digit=2") for do, rules in points.items() for rule, numbers in rules.items()],
        columns=["rule", "do", "on_target", "off_target", "reversibility", "kept"],
    )
    bounds = {"off_target": {"digit": 0.02, "thickness": np.inf}, "reversibility": {"digit": 2.0, "thickness": 0.5}}
    figure = tradeoff_figure(table, bounds)
    panels = [(do, quantity) for do in points for quantity in ("off_target", "reversibility")]
    names = {"plain": "plain", "nested": "nested:digit=2", "anchored": "anchored:digit=3", "paper": "paper:digit=2"}
    names |= {"other": "cfg:2", "chosen": "nested:digit=2"}
    for axes, (do, quantity) in zip(figure.axes, panels, strict=True):
        drawn = {some.get_label(): np.asarray(some.get_offsets()) for some in axes.collections}
        assert set(drawn) == set(names)
        for name, rule in names.items():
            on, *costs = points[do][rule]
            np.testing.assert_allclose(drawn[name], [(costs[quantity == "reversibility"], on)], err_msg=f"{do} {quantity} {name}")
        limits = [float(line.get_xdata()[0]) for line in axes.lines]
        bound, base = bounds[quantity][do], points[do]["plain"][1 + (quantity == "reversibility")]
        assert limits == ([pytest.approx(base + bound)] if np.isfinite(bound) else [])
        assert ("off target" if quantity == "off_target" else "grey levels") in axes.get_xlabel()
    written = [text.get_text() for text in figure.texts]
    assert [words for words in written if words.startswith("do(")] == ["do(digit)", "do(thickness)"]
    assert "chosen: nested:digit=2" in written
