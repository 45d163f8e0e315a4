"""The paper's experiments: what is compared, where rules are compared, and what one command writes."""

import inspect
import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import causalcf as ccf
from causalcf.cli import main
from causalcf.datasets.phantoms.studies import phantom
from causalcf.datasets.readers import read_study
from causalcf.equal_target import at_equal_target, trade_off
from causalcf.graph import load_graph
from causalcf.measures import Measured
from causalcf.metrics import image_distance
from causalcf.plot import ladder_figure
from causalcf.reproduction import KNOWN, _log_odds, _numbers, _rules, _table, reproduce
from causalcf.scoring import AuditedRows, score_judged


@pytest.fixture(scope="module")
def held_out():
    return ccf.recipe("morphomnist").batch("test", 12, 0, 1)


@pytest.fixture(scope="module")
def so_far():
    return []


@pytest.fixture(scope="module")
def found(shipped, held_out, so_far):
    """Two seeds of four digits, few levels."""
    return reproduce(
        shipped, held_out, weights=(1.0, 3.0), forms=("paper", "nested"), adjusted=False, seeds=(0, 1), rows=4, again_rows=2,
        steps=4, truth=ccf.recipe("morphomnist").truth, watch=so_far.append,
    )  # fmt: skip


def tables(text):
    """Those of `results.md`, by heading, with their cells as they are written."""
    parts = [part.splitlines() for part in text.split("\n## ")[1:]]
    lines = {part[0]: [line.strip("| ").split(" | ") for line in part if line.startswith("| ")] for part in parts}
    return {heading: pd.DataFrame(rows[1:], columns=rows[0]).set_index("rule") for heading, rows in lines.items()}


def test_log_odds_are_those_of_the_label_that_should_be_seen():
    rows = np.array([[0.0, 0.8, 0.2], [0.0, 0.25, 0.75], [1.0, 0.1, 0.9]])
    assert _log_odds(rows) == pytest.approx([np.log(4), -np.log(3), np.log(9)])


def test_what_is_off_target_is_compared_with_the_true_counterfactual_where_there_is_one(found):
    table = found.table[found.table["role"] == "off target"]
    assert set(table.loc[table["measure"].str.startswith("excess"), "do"]) == {"thickness", "intensity"}
    one = table[(table["do"] == "intensity") & (table["rule"] == "CFG") & (table["attribute"] == "thickness")]
    by_measure = one[one["weight"] == 1.0].set_index("measure")["value"]
    assert by_measure["excess_error"] == pytest.approx(by_measure["delta_error"], abs=0.3)  # the truth reads as the real image
    assert by_measure["excess_error"] != by_measure["delta_error"]


def test_what_is_known_after_a_seed_is_told_before_the_next(found, so_far, held_out):
    (first,) = so_far
    assert first.settings == found.settings | {"seeds": [0], "rows": 4, "back": 2}
    assert {do: images.shape for do, images in first.true.items()} == dict.fromkeys(["thickness", "intensity"], (4, 1, 32, 32))
    both = first.table.merge(found.table, on=["rule", "weight", "do", "measure", "attribute"], suffixes=("", " of two"))
    means = both[both["measure"].isin(["delta_log_odds", "true_error"])]
    assert ((means["value"] >= means["least of two"] - 1e-9) & (means["value"] <= means["most of two"] + 1e-9)).all()
    assert set(first.examples) == set(found.examples)
    places = held_out.frame.index.get_indexer(first.examples["digit"]["CFG", 3.0].factual.frame.index)
    assert places.tolist() != sorted(places)  # those that go back, the first, are from all over the table


def test_every_rule_of_the_paper_is_asked_and_the_adjusted_ones_at_the_weight_nearest_to_two():
    rules = list(_rules([1.0, 1.5, 2.5], ("paper", "anchored", "nested"), True, ["a", "b"]))
    plain = [(name, weight) for name, weight, _, alone in rules if not alone]
    assert {name for name, weight in plain if weight == 2.5} == {"CFG", "DCFG paper", "DCFG anchored", "DCFG nested"}
    assert {name: weight for name, weight in plain if "APG" in name or "CFG++" in name} == {
        "CFG, APG": 1.5, "CFG, CFG++": 1.5, "DCFG nested, APG": 1.5, "DCFG nested, CFG++": 1.5,
    }  # fmt: skip
    assert {rule.inner.weight for name, _, rule, _ in rules if "CFG++" in name} == {1.05}  # a tenth of what 1.5 adds
    assert [(weight, rule.inner.weight) for name, weight, rule, _ in rules if name == "no guidance, Euler"] == [(1.0, 1.0)]
    alone = {name: rule.weights for name, _, rule, every in rules if every}
    assert alone == {"DCFG nested, a alone": {"a": 2.5}, "DCFG nested, b alone": {"b": 2.5}}


def test_unless_told_weights_go_from_1_to_3_by_a_half_and_there_are_three_seeds():
    settings = {name: one.default for name, one in inspect.signature(reproduce).parameters.items()}
    assert settings["weights"] == (1.0, 1.5, 2.0, 2.5, 3.0)
    assert settings["seeds"] == (0, 1, 2)
    assert settings["forms"] == ("paper", "anchored", "nested")
    assert settings["adjusted"] is True


def evidence(rule, points, measure="delta_log_odds", rows=2):
    """What two seeds gave of `do(a)`: by weight the readings of `a`, of `b` and the number `c`, which must stay, and back.

    A reading is one number, or a number a row.
    """

    def measured(measure, attribute, role, reading):
        one = Measured(measure, np.broadcast_to(np.asarray(reading, float), (2 * rows,)), do="a", attribute=attribute)
        halves = np.split(one.value, 2)
        return [replace(one, role=role, value=half) for half in halves]

    found = {}
    kind = measure.removesuffix("_log_odds")
    for weight, target, b, c, back in points:
        parts = [
            measured(measure, "a", "target", target), measured(measure, "b", "off target", b),
            measured(f"{kind}_error", "c", "off target", c), measured("delta_auroc", "b", "off target", 99.0),
            measured("reversibility", "", "", back),
        ]  # fmt: skip
        found[rule, weight, "a"] = [list(seed) for seed in zip(*parts, strict=True)]
    return found


CFG = evidence("CFG", [(1.0, -3, 0.0, 0.0, 1), (2.0, -2, 2.0, -2.0, 3), (3.0, 0, 4.0, -4.0, 9)])


def test_rules_are_compared_where_they_show_the_same():
    mine = evidence("DCFG nested", [(1.0, -3, 0.0, 0.0, 1.0), (2.0, -2.5, 0.2, 0.2, 1.5), (3.0, -1, 0.5, -0.3, 2.0)])
    row = at_equal_target({**CFG, **mine}).iloc[0]
    assert row["target"] == -1.0  # the weaker rule's best, which the other has half-way from weight 2 to 3
    assert (row["off target"], row["off target, CFG"], row["ratio"]) == pytest.approx((0.4, 3.0, 0.4 / 3))
    assert (row["back"], row["back, CFG"], row["back ratio"]) == pytest.approx((2.0, 6.0, 1 / 3))
    assert (row["off target, no guidance"], row["back, no guidance"]) == (0.0, 1.0)
    less = evidence("CFG", [(0.5, -4, 5.0, 5.0, 7.0)])
    assert at_equal_target({**less, **CFG, **mine}).iloc[0]["back, no guidance"] == 1.0  # that of weight 1, not of the lowest
    last = {key: seeds for key, seeds in {**less, **CFG, **mine}.items() if key[1] <= 1 or key[0] != "CFG"}
    assert at_equal_target(last).iloc[0]["back, no guidance"] == 1.0
    assert np.isnan(at_equal_target({key: CFG[key] for key in list(CFG)[1:]} | mine).iloc[0]["back, no guidance"])


def test_rules_are_compared_where_they_show_what_is_true_and_not_beyond():
    """A judge reads more the more is exaggerated, and a rule is not to be blamed for what another's exaggeration costs."""
    far = evidence("DCFG nested", [(1.0, -3, 0.0, 0.0, 1.0), (2.0, 1, 0.4, 0.4, 2.0), (3.0, 5, 8.0, 8.0, 30.0)])
    further = evidence("CFG", [(1.0, -3, 0.0, 0.0, 1), (2.0, -1, 2.0, -2.0, 3), (3.0, 4, 12.0, -7.0, 8)])
    row = at_equal_target({**further, **far}).iloc[0]
    assert row["target"] == 0.0
    assert (row["off target"], row["off target, CFG"]) == pytest.approx((0.3, 3.5))  # three quarters, and a fifth, of a weight
    assert (row["back"], row["back, CFG"]) == pytest.approx((1.75, 4.0))


def test_rules_that_show_more_than_what_is_true_without_guidance_are_compared_without_it():
    shown = [(1.0, 0.5, 0.3, 0.1, 1.0), (2.0, 1.5, 2.0, 2.0, 3.0)]
    row = at_equal_target({**evidence("CFG", shown), **evidence("DCFG nested", [shown[0], (2.0, 0.7, 0.5, 0.5, 2.0)])}).iloc[0]
    assert row[["target", "off target", "ratio", "each ratio", "back ratio"]].tolist() == pytest.approx([0.5, 0.2, 1, 1, 1])


def test_images_that_move_up_and_down_cancel_in_the_average_and_not_of_each():
    away = [-1.0, 1.0, -1.0, 1.0]
    mine = evidence("DCFG nested", [(1.0, -3, 0.0, 0.0, 1.0), (2.0, 0, away, 0.5, 2.0)])
    row = at_equal_target({**CFG, **mine}).iloc[0]
    assert (row["off target"], row["each image"]) == pytest.approx((0.25, 0.75))
    assert (row["off target, CFG"], row["each image, CFG"], row["each ratio"]) == pytest.approx((4.0, 4.0, 0.75 / 4))


def test_between_weights_a_reading_that_changes_its_sign_passes_through_nothing():
    mine = evidence("DCFG nested", [(1.0, -3, -1.0, -1.0, 1.0), (2.0, 3, 1.0, 1.0, 2.0)])
    beyond = evidence("CFG", [(1.0, -3, 0.0, 0.0, 1), (2.0, 3, 2.0, 2.0, 3)])
    row = at_equal_target({**beyond, **mine}).iloc[0]
    assert (row["target"], row["off target"], row["off target, CFG"]) == pytest.approx((0.0, 0.0, 1.0))


def test_readings_count_from_the_truth_if_it_is_known():
    points = [(1.0, -3, 0.0, 0.0, 1.0), (2.0, -1, 2.0, 2.0, 3.0)]
    known = evidence("DCFG nested", [(1.0, -3, 0.0, 0.0, 1.0), (2.0, -2, 0.25, 0.25, 3.0)], "excess_log_odds")
    both = {key: [a + b for a, b in zip(known[key], one, strict=True)] for key, one in evidence("DCFG nested", points).items()}
    row = at_equal_target({**CFG, **both}).iloc[0]
    assert (row["target"], row["off target"], row["off target, CFG"]) == (-2.0, 0.25, 2.0)
    table = trade_off(_table({**CFG, **both}))
    assert table.loc[table["rule"] == "DCFG nested", ["target", "off target"]].to_numpy().tolist() == [[-3, 0], [-2, 0.25]]
    assert table.loc[table["rule"] == "CFG", "off target"].tolist() == [0, 2, 4]


def test_of_a_number_an_error_counts_against_what_is_shown():
    points = [(1.0, 3, 0.0, 0.0, 1.0), (2.0, 1, 2.0, 2.0, 3.0)]
    row = at_equal_target(evidence("CFG", points, "delta_error") | evidence("DCFG nested", points, "delta_error")).iloc[0]
    assert row["target"] == -1.0


def test_rules_that_never_show_the_same_are_named_without_numbers():
    cfg = evidence("CFG", [(1.0, -2, 0.0, 0.0, 1.0), (2.0, -1, 2.0, 2.0, 3.0)])
    mine = evidence("DCFG paper", [(1.0, -9, 0.0, 0.0, 1.0), (2.0, -8, 0.2, 0.2, 1.5)])
    (row,) = at_equal_target({**cfg, **mine}).to_dict("records")
    assert (row.pop("do"), row.pop("rule")) == ("a", "DCFG paper")
    known = {name: value for name, value in row.items() if np.isfinite(value)}
    assert known == {"off target, no guidance": 0.0, "each image, no guidance": 0.0, "back, no guidance": 1.0}


def test_an_interval_of_a_ratio_is_that_of_the_same_rows_under_both_rules():
    """Of a rule that moves every row a third as far as the other, a third is certain, whichever rows are drawn."""
    far = np.random.default_rng(0).uniform(1, 9, size=40)
    cfg = evidence("CFG", [(1.0, -3, 0.0, 0.0, 1.0), (2.0, 0, 3 * far, 3 * far, 3 * far)], rows=20)
    mine = evidence("DCFG nested", [(1.0, -3, 0.0, 0.0, 1.0), (2.0, 0, far, far, far)], rows=20)
    row = at_equal_target({**cfg, **mine}).iloc[0]
    for ratio in ("ratio", "each ratio", "back ratio"):
        assert row[[ratio, f"{ratio} low", f"{ratio} high"]].tolist() == pytest.approx([1 / 3] * 3)
    other = evidence("DCFG nested", [(1.0, -3, 0.0, 0.0, 1.0), (2.0, 0, far[::-1], far[::-1], far[::-1])], rows=20)
    row = at_equal_target({**cfg, **other}).iloc[0]
    assert row["ratio low"] < 0.32 < 1 / 3 < 0.35 < row["ratio high"]


def test_rows_of_one_person_are_drawn_together_and_the_way_back_is_of_the_rows_that_are_drawn():
    up, rows = np.repeat([1.0, 9.0], 20), 20
    cfg = evidence("CFG", [(1.0, -3, 0.0, 0.0, 1.0), (2.0, 0, 1.0, 1.0, 1.0)], rows=rows)
    mine = evidence("DCFG nested", [(1.0, -3, 0.0, 0.0, 1.0), (2.0, 0, up, up, up)], rows=rows)
    fewer = {key: [[replace(one, value=one.value[:5]) if one.measure == "reversibility" else one for one in seed]
                   for seed in seeds] for key, seeds in {**cfg, **mine}.items()}  # fmt: skip
    alone = at_equal_target(fewer).iloc[0]
    assert 3 < alone["ratio low"] < 5 < alone["ratio high"] < 7
    people = np.repeat([0, 1], rows)
    together = at_equal_target(fewer, people).iloc[0]
    for ratio in ("ratio", "back ratio"):  # five rows of each go back, and they are drawn with their person
        assert together[[ratio, f"{ratio} low", f"{ratio} high"]].tolist() == pytest.approx([5, 1, 9])


def test_at_weight_one_the_rules_that_are_neutral_give_the_same_numbers(found):
    table = found.table[found.table["weight"] == 1.0]
    values = table.pivot_table(index=["do", "measure", "attribute"], columns="rule", values="value")
    assert values["CFG"].equals(values["DCFG nested"])
    assert not values["CFG"].equals(values["DCFG paper"])


def test_asked_for_what_it_has_an_image_stays_under_a_neutral_rule_and_not_under_the_papers_form(shipped, held_out):
    some, shipped = held_out.rows(slice(0, 4)), shipped.configured(steps=30)  # at more levels a round trip costs less
    abduction, nothing_new = ccf.abduct(shipped, some), {name: some.frame[name].to_numpy() for name in ("digit", "intensity")}
    moved = [
        image_distance(ccf.counterfactual(shipped, abduction, nothing_new, guidance=rule).images["image"], some.images["image"])
        for rule in (ccf.Decoupled(1.0, form="nested"), ccf.Decoupled(1.0, form="paper"))
    ]
    assert moved[0].mean() < 0.1  # what one round trip costs
    assert moved[1].mean() > 5 * moved[0].mean()


def test_the_numbers_are_of_all_seeds_and_lie_between_those_of_each(found):
    table = found.table
    assert found.settings["rows"] == 8
    assert found.settings["back"] == 4
    means = table[table["measure"].isin(["delta_log_odds", "true_error"])]
    assert (means["least"] <= means["value"] + 1e-9).all()
    assert (means["most"] >= means["value"] - 1e-9).all()
    assert (means["n"] == 8).all()
    apart = means[(means["measure"] == "true_error") & (means["do"] == "thickness")]
    assert (apart["least"] < apart["most"]).all()  # under the plain conditional too, which is asked once a seed
    assert (table.loc[table["measure"] == "reversibility", "n"] == 4).all()
    assert set(table.loc[table["do"] == "thickness", "role"]) == {"target", "off target", ""}
    affected = table[(table["do"] == "thickness") & (table["attribute"] == "intensity")]
    assert set(affected["role"]) == {"target"}  # it follows from what was set
    assert "off target" not in set(table.loc[table["do"] == "all", "role"])
    assert set(table.loc[table["measure"] == "true_error", "do"]) == {"thickness", "intensity"}  # of a digit none is known


def one_number(table, measure, do, attribute, rule="CFG", weight=1.0):
    """The row of a number, and that there is one."""
    asked = {"measure": measure, "do": do, "attribute": attribute, "rule": rule, "weight": weight}
    (row,) = table[np.logical_and.reduce([table[name] == value for name, value in asked.items()])].to_dict("records")
    return row


def test_every_rule_tells_the_cost_of_every_intervention(found):
    table = found.table
    asked = table[["rule", "weight", "do"]].drop_duplicates()
    assert len(asked) == 3 * 2 * 4
    for measure, unit in (("composition", "grey level"), ("minimality", "CLD"), ("reversibility", "grey level")):
        some = table[table["measure"] == measure]
        assert len(some) == len(asked) == len(some.merge(asked))
        assert set(some["unit"]) == {unit}
        assert set(some["role"]) == {""}
        assert np.isfinite(some[["value", "low", "high"]]).all(axis=None)
        assert ((some["low"] <= some["value"] + 1e-9) & (some["value"] <= some["high"] + 1e-9)).all()
    assert table.loc[table["measure"] == "minimality", "value"].between(0, 1).all()  # log(.2 e^p + .8 e^q), p and q shares
    right = table[table["measure"] == "accuracy"]
    assert set(zip(right["do"], right["attribute"], right["role"], strict=True)) == {
        ("digit", "digit", "target"), ("all", "digit", "target"),
    }  # fmt: skip
    assert right["value"].between(0, 1).all()
    wrong = table[table["measure"] == "error"]
    assert set(zip(wrong["do"], wrong["attribute"], wrong["role"], strict=True)) == {
        ("thickness", "thickness", "target"), ("thickness", "intensity", "target"), ("intensity", "thickness", "off target"),
        ("intensity", "intensity", "target"), ("digit", "thickness", "off target"), ("digit", "intensity", "off target"),
        ("all", "thickness", "target"), ("all", "intensity", "target"),
    }  # fmt: skip
    assert (wrong["value"] > 0).all()
    assert (wrong["floor"] > 0).all()


def test_asked_for_what_they_have_images_move_the_same_under_every_intervention_without_guidance_and_more_with_it(found):
    still = {do: one_number(found.table, "composition", do, "")["value"] for do in ("thickness", "intensity", "digit", "all")}
    assert list(still.values()) == pytest.approx([still["digit"]] * 4, abs=0.05)
    for do, moved in still.items():
        assert 0 < moved < one_number(found.table, "reversibility", do, "")["value"]  # one way there costs less than two
        assert moved < one_number(found.table, "composition", do, "", weight=3.0)["value"]


def test_what_labels_gain_in_auroc_is_told_on_and_off_target(found):
    gains = found.table[found.table["measure"] == "delta_auroc"]
    asked = set(zip(gains["do"], gains["attribute"], gains["role"], strict=True))
    assert asked == {("thickness", "digit", "off target"), ("intensity", "digit", "off target"), ("digit", "digit", "target"),
                     ("all", "digit", "target")}  # fmt: skip
    assert len(gains) == 3 * 2 * 4
    assert gains["value"].between(-100, 100).all()
    assert set(gains["unit"]) == {"point of AUROC"}
    assert set(gains["floor"]) == {0.0}
    told = tables(found.to_markdown())
    for do, column in (("thickness", "delta_auroc, off target"), ("digit", "delta_auroc"), ("all", "delta_auroc, digit")):
        value = one_number(gains, "delta_auroc", do, "digit", "CFG", 3.0)["value"]
        rows = told[f"do({do})"]
        cell = rows.loc[rows["weight"] == "3", column]["CFG"]
        assert float(cell.split(" ")[0]) == pytest.approx(value, rel=5e-3)
        assert rows.loc["floor", column] == "0"


def test_what_must_stay_is_put_together_where_it_has_one_unit_and_told_one_by_one_where_not(found):
    told, mean = tables(found.to_markdown())["do(digit)"].set_index("weight", append=True), "error, off target"
    assert mean not in told
    for name in ("thickness", "intensity"):  # pixels, and grey levels
        one = one_number(found.table, "error", "digit", name, "CFG", 3.0)
        assert float(told.loc["CFG", "3"][f"error, {name}"].split(" ")[0]) == pytest.approx(one["value"], rel=5e-3)
    gone = [one_number(found.table, "delta_error", "digit", name, "CFG", 3.0)["value"] for name in ("thickness", "intensity")]
    assert float(told.loc["CFG", "3"]["delta_error, off target"]) == pytest.approx(np.mean(gone), rel=5e-3)


class Careless:
    """Reads a digit off a random projection of the image."""

    states = load_graph("morphomnist").node("digit").states

    def scores(self, images):
        return images.reshape(len(images), -1) / 255 @ np.random.default_rng(0).normal(size=(images[0].size, 10))

    def __call__(self, images):
        return np.array(self.states, dtype=object)[self.scores(images).argmax(axis=1)]


def gain(judge, answer):
    """Points of AUROC of the digit, the mean over the labels, counterfactual minus factual."""
    means = []
    for batch in (answer.batch, answer.factual):
        shown, scores = batch.frame["digit"].to_numpy(), judge.scores(np.asarray(batch.images["image"]))
        areas = [roc_auc_score(shown == label, scores[:, Careless.states.index(label)]) for label in set(shown)]
        means.append(np.mean(areas))
    return 100 * (means[0] - means[1])


@pytest.mark.parametrize(("do", "role"), [("thickness", "off target"), ("digit", "target")])
def test_what_a_label_gains_in_auroc_is_what_scikit_learn_gives(shipped, so_far, do, role):
    judge, answer = Careless(), so_far[0].examples[do]["CFG", 3.0]
    rows = AuditedRows(shipped, answer.factual, slice(0, 4), {"digit": judge}, {})
    (one,) = [one for one in _numbers(score_judged(rows, answer, do, None), {}) if one.measure == "delta_auroc"]
    assert (one.attribute, str(one.role)) == ("digit", role)
    assert gain(judge, answer) != 0
    assert one.number() == pytest.approx(gain(judge, answer))


def frechet(one, other):
    """Of two samples of features, by the singular values of the product of what is left without the means."""
    left = [(part - part.mean(axis=0)) / np.sqrt(len(part)) for part in (one, other)]
    cross = np.linalg.svd(left[0] @ left[1].T, compute_uv=False).sum()
    return ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum() + sum((part**2).sum() for part in left) - 2 * cross


def divergence(answer, features, name):
    """Minimality: log(.2 e^P(other rows of the new value are as near) + .8 e^P(other rows of the old value are as far))."""
    real, mine = features(answer.factual.images["image"]), features(answer.images["image"])
    had, asked = answer.factual.frame[name].to_numpy(), answer.frame[name].to_numpy()
    found = []
    for row, moved in enumerate(np.linalg.norm(mine - real, axis=1)):
        apart = np.linalg.norm(real - real[row], axis=1)
        shares = []
        for value, meets in ((asked[row], apart <= moved), (had[row], apart >= moved)):
            near = had == value if name == "digit" else np.abs(had - value) == np.abs(had - value).min()  # a tenth of 4 is 1
            near[row] = False
            shares.append(meets[near].mean() if near.any() else 0.5)
        found.append(np.log(0.2 * np.exp(shares[0]) + 0.8 * np.exp(shares[1])))
    return np.mean(found)


def test_the_numbers_of_a_seed_are_those_that_its_pictures_give(shipped, so_far):
    table, examples, judges = so_far[0].table, so_far[0].examples, shipped.judges
    features = judges["digit"].features
    for do, answers in examples.items():
        for (name, weight), answer in answers.items():
            told = partial(one_number, table, do=do, rule="CFG" if name == "no guidance" else name, weight=weight)
            shown, real = answer.images["image"], answer.factual.images["image"]
            for number in ("thickness", "intensity"):
                assert told("error", attribute=number)["value"] == pytest.approx(
                    np.abs(judges[number](shown) - answer.frame[number]).mean()
                )
            assert told("delta_auroc", attribute="digit")["value"] == pytest.approx(gain(judges["digit"], answer), abs=1e-9)
            assert told("minimality", attribute="")["value"] == pytest.approx(divergence(answer, features, do))
            if do == "digit":
                right = judges["digit"](shown) == answer.frame["digit"].to_numpy()
                assert told("accuracy", attribute="digit")["value"] == right.mean()
                realism = told("realism", attribute="digit")
                assert realism["value"] == pytest.approx(frechet(features(shown), features(real)), rel=1e-3)
                halves = features(real[::2]), features(real[1::2])
                assert realism["floor"] == pytest.approx(frechet(*halves) / 2, rel=1e-3)


def test_how_real_images_look_is_told_by_the_judge_of_each_attribute_that_is_set(found):
    real = found.table[found.table["measure"] == "realism"]
    assert set(zip(real["do"], real["attribute"], real["role"], strict=True)) == {("digit", "digit", ""), ("all", "digit", "")}
    assert len(real) == 3 * 2 * 2  # thickness and intensity are read by rulers, which see no features
    assert (real["value"] > 0).all()
    assert real["floor"].nunique() == 1  # of the same images
    told = tables(found.to_markdown())
    for do, column in (("digit", "FD@judge"), ("all", "FD@judge, digit")):
        row = one_number(real, "realism", do, "digit")
        assert float(told[f"do({do})"].loc["floor", column]) == pytest.approx(row["floor"], rel=5e-3)
        assert float(told[f"do({do})"].loc["CFG", column].iloc[0]) == pytest.approx(row["value"], rel=5e-3)
    assert "realism" not in found.to_markdown()


def test_where_all_is_set_every_judge_that_sees_features_tells_how_real_images_look():
    rows = np.random.default_rng(0).normal(size=(6, 2, 2))

    def realism(do, name):
        return Measured("realism", rows[:, 0], do=do, attribute=name, statistic="frechet", floor=rows[:, 1])

    found = [realism(do, name) for do in ("a", "all") for name in ("a", "b")]
    assert [(one.do, one.attribute) for one in _numbers(found, {})] == [("a", "a"), ("all", "a"), ("all", "b")]


@pytest.mark.parametrize(
    ("study", "do", "rule", "target", "off"),
    [
        ("celebahq", "Smiling", "DCFG", "13.1", "-1.5"),
        ("mimic_cxr", "finding", "DCFG", "18.8", "0.6"),
        ("mimic_cxr", "finding", "CFG", "–", "about ten times DCFG's"),
        ("embed", "circle_marker", "DCFG", "–", "about 0"),
    ],
)
def test_what_the_paper_reports_of_a_study_is_a_row_of_its_table(found, study, do, rule, target, off):
    assert do in load_graph(study).parents("image")
    mine = found.table[found.table["do"] == "digit"].replace("digit", do)
    told = replace(found, table=mine, settings={**found.settings, "study": study}).to_markdown()
    row = tables(told)[f"do({do})"].loc[f"the paper, {rule}"]
    assert (row["weight"], row["delta_auroc"], row["delta_auroc, off target"]) == ("–", target, off)
    assert told.count("| the paper, ") == len(KNOWN[study, do])
    assert "the paper" not in found.to_markdown()


def test_the_figures_have_a_panel_for_every_intervention_and_a_row_for_every_rule(found):
    figure, picture = found.figure(), found.picture()
    assert len(figure.axes) == 2 * 4
    assert len(picture.axes) == 3 * 4 * (1 + 3) + 2 * 4  # of two interventions the truth is known
    words = {text.get_text() for text in picture.texts}
    assert {"factual", "true counterfactual", "no guidance", "CFG, 3", "DCFG nested, 3"} <= words
    asked = found.examples["digit"]["CFG", 3.0]
    before, after = (frame["digit"].tolist() for frame in (asked.factual.frame, asked.frame))
    assert {f"{a} → {b}" for a, b in zip(before, after, strict=True)} <= words
    assert "morphomnist" in [text.get_text() for text in figure.texts]
    titles = {f"morphomnist, do({name})" for name in ("thickness", "intensity", "digit")}
    assert titles <= {text.get_text() for text in picture.texts}
    with pytest.raises(ccf.DataError, match="no answer to draw"):
        ladder_figure({})


def test_one_command_writes_tables_and_figures(tmp_path, capsys):
    out = tmp_path / "r"
    asked = ["--weight", "1", "--weight", "2", "--seed", "0", "--n", "2", "--again-rows", "2", "--levels", "2", "--json"]
    assert main(["reproduce", "morphomnist", "--model", "morphomnist", "--out", str(out), *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["weights"] == [1.0, 2.0]
    assert {row["rule"] for row in told["numbers"]} >= {"CFG", "DCFG paper", "DCFG anchored", "DCFG nested", "CFG, APG"}
    still = {rule: one_number(pd.DataFrame(told["numbers"]), "true_error", "intensity", "", rule)["value"]
             for rule in ("no guidance, Euler", "CFG", "DCFG nested")}  # fmt: skip
    assert still["no guidance, Euler"] != still["CFG"] == still["DCFG nested"]  # CFG++ is of other steps than the model's own
    assert {path.name for path in out.iterdir()} == set(told["files"])
    text = (out / "results.md").read_text()
    assert "it compares with `no guidance, Euler`" in text
    assert "## do(thickness)" in text
    assert "| CFG | 2 |" in text
    for do, rows in tables(text).items():
        if do.startswith("do("):
            assert {rule: rows.loc[rule, "weight"] for rule in ("CFG, CFG++", "DCFG nested, CFG++", "CFG, APG", "floor")} == {
                "CFG, CFG++": "2 (as 1.1)", "DCFG nested, CFG++": "2 (as 1.1)", "CFG, APG": "2", "floor": "–",
            }  # fmt: skip
    assert len(pd.read_csv(out / "numbers.csv")) == len(told["numbers"])


def test_what_a_terminal_is_told_fits_it_and_says_what_a_ratio_is(found):
    told = str(found).splitlines()
    assert max(map(len, told)) < 130
    assert "Below 1 a ratio to CFG" in str(found)
    head = next(place for place, line in enumerate(told) if line.lstrip().startswith("do "))
    assert len([line for line in told[head + 1 :] if line]) == len(found.equal)
    assert "At none of these weights" in str(replace(found, equal=found.equal.iloc[:0]))


def test_a_study_is_fitted_to_its_data_once_and_asked_of_its_held_out_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalcf.training._ATTRIBUTE_STEPS", 20)
    monkeypatch.setattr("causalcf.judges._FEWEST_STEPS", 5)
    monkeypatch.setattr("causalcf.reproduction.reproduce", partial(reproduce, forms=("nested",), adjusted=False))
    data, out = phantom("celebahq").write(tmp_path / "faces", 60), tmp_path / "r"
    command = ["reproduce", "celebahq", "--data", str(data), "--out", str(out), "--steps", "2", "--phantom", "0", "--json"]
    few = ["--n", "2", "--again-rows", "2", "--levels", "2", "--weight", "1", "--weight", "2", "--seed", "0"]
    assert main([*command, *few]) == 0
    table = pd.DataFrame(json.loads(capsys.readouterr().out)["numbers"])
    assert ccf.load(out / "model").graph.name == "celebahq"
    errors = table[table["measure"] == "true_error"]
    assert sorted(set(errors["do"])) == ["Male", "Smiling", "Young", "all"]
    assert (errors["value"] > 0).all()
    told = tables((out / "results.md").read_text())
    assert told["do(Smiling)"].loc["the paper, DCFG", "delta_auroc"] == "13.1"
    assert {"true_error", "FD@judge, Smiling", "FD@judge, Male", "FD@judge, Young"} <= set(told["do(all)"])
    assert (told["do(all)"].loc["CFG", "true_error"] != "–").all()

    asked = {}

    def experiments(scm, batch, **settings):
        asked.update(settings, batch=batch)
        raise ccf.DataError("these are the experiments")

    monkeypatch.setattr("causalcf.reproduction.reproduce", experiments)
    monkeypatch.setattr("causalcf.cli_reproduce.fit_study", None)  # the model is there
    assert main(command) == 2
    assert "these are the experiments" in capsys.readouterr().err
    held_out = read_study("celebahq", data).split("test")
    assert asked["batch"].frame.index.tolist() == held_out.frame.index.tolist() == list(range(54, 60))
    true = asked["truth"](SimpleNamespace(frame=held_out.frame))
    assert np.array_equal(true, held_out.images["image"][:])  # of what happened, the true counterfactual is the picture itself
    assert (asked["rows"], asked["again_rows"]) == (64, 32)
    assert not {"weights", "seeds"} & set(asked)  # those of `reproduce`
    command[command.index("--phantom") + 1] = "1"
    assert main(command) == 2
    assert "are not those of the phantom of seed 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["celebahq"], "where are the data of celebahq"),
        (["morphomnist", "--phantom", "0"], "--phantom does not apply without --data"),
        (["morphomnist", "--model", "morphomnist", "--steps", "9", "--paper-size"], "--steps, --paper-size do not apply with"),
        (["embed", "--data", ".", "--model", "morphomnist"], "is a model of morphomnist, not of embed"),
        (["celebahq_mouth", "--data", ".", "--phantom", "0"], "there is no phantom of 'celebahq_mouth'"),
    ],
)
def test_what_cannot_be_reproduced_is_told(tmp_path, capsys, asked, told):
    assert main(["reproduce", *asked, "--out", str(tmp_path / "r")]) == 2
    assert told in capsys.readouterr().err


def test_a_model_that_is_there_is_not_taken_for_one_that_was_fitted_otherwise(shipped, tmp_path, capsys):
    shipped.save(tmp_path / "model")
    assert main(["reproduce", "morphomnist", "--steps", "9", "--out", str(tmp_path)]) == 2
    assert "--steps does not apply to" in (told := capsys.readouterr().err)
    assert "fitted otherwise" in told


def test_a_model_that_cannot_be_compared_is_an_error(shipped, held_out):
    graph = load_graph("sprinkler")
    with pytest.raises(ccf.DataError, match="no image with a Diffusion mechanism"):
        reproduce(ccf.SCM(graph), held_out)
    with pytest.raises(ccf.DataError, match="one weight and one seed"):
        reproduce(shipped, held_out, weights=())
    bare = shipped.configured()
    bare.judges = {}
    with pytest.raises(ccf.DataError, match="no judge for thickness"):
        reproduce(bare, held_out)
    bare.judges = {**shipped.judges, "digit": lambda images: np.array(["3"] * len(images), dtype=object)}
    with pytest.raises(ccf.DataError, match=r"the judge of digit has no scores\(images\)"):
        reproduce(bare, held_out)


def test_numbers_are_scaled_by_how_they_spread_over_all_rows_whoever_is_asked(found, held_out):
    spread = held_out.frame[["thickness", "intensity"]].std()
    for do, name in (("digit", "thickness"), ("intensity", "intensity"), ("all", "intensity")):
        error, gone = (one_number(found.table, measure, do, name, weight=3.0) for measure in ("error", "delta_error"))
        assert gone["value"] * spread[name] == pytest.approx(error["value"] - error["floor"])


def test_intervals_draw_the_groups_of_a_column_as_a_whole(shipped, held_out):
    some = held_out.rows(slice(0, 6))
    some = ccf.Batch(some.graph, some.frame.assign(writer=list("aaabbb")), some.images)
    asked = {"weights": (1.0,), "forms": (), "adjusted": False, "seeds": (0,), "rows": 6, "again_rows": 4, "steps": 2}
    alone, together = (reproduce(shipped, some, **asked, groups=column) for column in (None, "writer"))
    assert together.table["value"].equals(alone.table["value"])
    error = [one_number(found.table, "error", "digit", "thickness") for found in (alone, together)]
    assert error[0]["low"] != error[1]["low"]
    assert together.settings == alone.settings | {"groups": "writer"}
    assert "over rows, which are drawn by `writer`" in together.to_markdown()
    assert "At none of these weights" in str(together)  # of one weight there is nothing to compare
    with pytest.raises(ccf.DataError, match="no column 'patient' to group by"):
        reproduce(shipped, some, **asked, groups="patient")


def test_a_ratio_has_an_interval_around_it_and_what_no_guidance_moves_beside_it(found):
    equal = found.equal.dropna(subset=["ratio", "ratio low"])
    assert len(equal)
    plain = equal["ratio"] == 1.0  # neither rule shows more than the plain conditional, where they are the same
    assert (equal["ratio low"] < equal["ratio high"])[~plain].all()
    assert (equal.loc[plain, "ratio low"] <= 1.0).all()
    off = found.table[(found.table["rule"] == "CFG") & (found.table["weight"] == 1.0) & (found.table["role"] == "off target")]
    for row in found.equal.to_dict("records"):
        here = off[off["do"] == row["do"]]
        excess = here[here["measure"].str.startswith("excess")]
        rest = excess if len(excess) else here[here["measure"].isin(["delta_log_odds", "delta_error"])]
        assert row["off target, no guidance"] == pytest.approx(rest["value"].abs().mean())


def test_rows_that_every_seed_asks_are_drawn_as_a_whole():
    drawn = np.random.default_rng(0).normal(size=(4, 4))
    ((key, (seed, _)),) = evidence("CFG", [(1.0, *np.tile(drawn, 2))], rows=4).items()
    alone, twice = {key: [seed]}, {key: [seed, seed]}
    rows, other = np.arange(4), np.arange(4, 8)
    ends = ["value", "low", "high"]
    once = _table(alone, [rows])[ends]
    assert np.allclose(_table(twice, [rows, rows])[ends], once, rtol=1e-12)  # asked twice, they tell no more
    assert not np.allclose(_table(twice, [rows, other])[ends], once, rtol=0.01)
    both = evidence("CFG", [(1.0, -3, *drawn[:3]), (2.0, 1, *drawn[1:])]) | evidence(
        "DCFG nested", [(1.0, -3, *drawn[:3]), (2.0, 0, *drawn[:3])]
    )
    again = {key: [*seeds, *seeds] for key, seeds in both.items()}
    compared = [at_equal_target(both), at_equal_target(again, np.tile(rows, 2)), at_equal_target(again)]
    numbers = [table.drop(columns=["do", "rule"]).to_numpy(float) for table in compared]
    assert np.allclose(numbers[1], numbers[0], rtol=1e-12)
    assert not np.allclose(numbers[2], numbers[0], rtol=0.01)


def test_results_tell_how_many_different_rows_were_asked(shipped, held_out):
    some = held_out.rows(slice(0, 3))
    found = reproduce(
        shipped, some, weights=(1.0,), forms=("nested",), adjusted=False, seeds=(0, 1), rows=3, again_rows=2, steps=2
    )
    assert (found.settings["rows"], found.settings["back"]) == (3, 2)
    told = "3 held-out rows over seeds 0, 1 (seeds share rows, which count 6 times in all), 2 of them there"
    assert told in found.to_markdown()
