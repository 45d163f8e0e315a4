"""The paper's experiments: what is compared, where rules are compared, and what one command writes."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import causalcf as ccf
from causalcf.cli import main
from causalcf.graph import load_graph
from causalcf.measures import Measured
from causalcf.metrics import image_distance
from causalcf.plot import ladder_figure, reproduction_figure
from causalcf.reproduction import _again, _lines, _log_odds, _rules, _table, at_equal_target, reproduce, trade_off


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


def test_what_is_known_after_a_seed_is_told_before_the_next(found, so_far):
    (first,) = so_far
    assert first.settings == found.settings | {"seeds": [0], "rows": 4, "back": 2}
    both = first.table.merge(found.table, on=["rule", "weight", "do", "measure", "attribute"], suffixes=("", " of two"))
    means = both[both["measure"].isin(["delta_log_odds", "true_error"])]
    assert ((means["value"] >= means["least of two"] - 1e-9) & (means["value"] <= means["most of two"] + 1e-9)).all()
    assert set(first.examples) == set(found.examples)


def test_every_rule_of_the_paper_is_asked_and_the_adjusted_ones_at_the_weight_nearest_to_two():
    rules = list(_rules([1.0, 1.5, 2.5], ("paper", "anchored", "nested"), True, ["a", "b"]))
    plain = [(name, weight) for name, weight, _, alone in rules if not alone]
    assert {name for name, weight in plain if weight == 2.5} == {"CFG", "DCFG paper", "DCFG anchored", "DCFG nested"}
    assert {name: weight for name, weight in plain if "APG" in name or "CFG++" in name} == {
        "CFG, APG": 1.5, "CFG, CFG++": 1.5, "DCFG nested, APG": 1.5, "DCFG nested, CFG++": 1.5,
    }  # fmt: skip
    alone = {name: rule.weights for name, _, rule, every in rules if every}
    assert alone == {"DCFG nested, a alone": {"a": 2.5}, "DCFG nested, b alone": {"b": 2.5}}


def numbers(rule, points):
    """A table in which a weight has given readings."""
    rows = []
    for weight, target, off, back in points:
        told = {"rule": rule, "weight": weight, "do": "a"}
        rows.append({**told, "measure": "delta_log_odds", "attribute": "a", "role": "target", "value": target})
        rows.append({**told, "measure": "delta_log_odds", "attribute": "b", "role": "off target", "value": off})
        rows.append({**told, "measure": "delta_error", "attribute": "c", "role": "off target", "value": -off})
        rows.append({**told, "measure": "delta_auroc", "attribute": "b", "role": "off target", "value": 99.0})
        rows.append({**told, "measure": "reversibility", "attribute": "", "role": "", "value": back})
    return rows


def test_rules_are_compared_where_they_show_the_same():
    cfg = numbers("CFG", [(1.0, 0.0, 0.0, 1.0), (2.0, 1.0, 2.0, 3.0), (3.0, 3.0, 4.0, 9.0)])
    mine = numbers("DCFG nested", [(1.0, 0.0, 0.0, 1.0), (2.0, 0.5, 0.2, 1.5), (3.0, 2.0, -0.5, 2.0)])
    row = at_equal_target(trade_off(pd.DataFrame(cfg + mine))).iloc[0]
    assert row["target"] == 2.0  # the weaker rule's best, which the other has half-way from weight 2 to 3
    assert row["off target"] == pytest.approx(0.5)
    assert row["off target, CFG"] == pytest.approx(3.0)
    assert row["ratio"] == pytest.approx(0.5 / 3)
    assert (row["back"], row["back, CFG"]) == pytest.approx((2.0, 6.0))


def test_off_target_counts_from_the_truth_if_it_is_known():
    cfg = pd.DataFrame(numbers("CFG", [(1.0, 0.0, 0.0, 1.0), (2.0, 1.0, 2.0, 3.0)]))
    mine = pd.DataFrame(numbers("DCFG nested", [(1.0, 0.0, 0.0, 1.0), (2.0, 1.0, 2.0, 3.0)]))
    known = mine[mine["role"] == "off target"].assign(measure="excess_log_odds", value=0.25)
    row = at_equal_target(trade_off(pd.concat([cfg, mine, known]))).iloc[0]
    assert (row["off target"], row["off target, CFG"]) == (0.25, 2.0)


def test_rules_that_never_show_the_same_are_not_compared():
    cfg = numbers("CFG", [(1.0, 2.0, 0.0, 1.0), (2.0, 3.0, 2.0, 3.0)])
    mine = numbers("DCFG paper", [(1.0, 0.0, 0.0, 1.0), (2.0, 1.0, 0.2, 1.5)])
    assert at_equal_target(trade_off(pd.DataFrame(cfg + mine))).empty


def test_at_weight_one_the_rules_that_are_neutral_give_the_same_numbers(found):
    table = found.table[found.table["weight"] == 1.0]
    values = table.pivot_table(index=["do", "measure", "attribute"], columns="rule", values="value")
    assert values["CFG"].equals(values["DCFG nested"])
    assert not values["CFG"].equals(values["DCFG paper"])


def test_asked_for_what_it_has_an_image_stays_under_a_neutral_rule_and_not_under_the_papers_form(shipped, held_out):
    some = held_out.rows(slice(0, 4))
    abduction, nothing_new = ccf.abduct(shipped, some), {name: some.frame[name].to_numpy() for name in ("digit", "intensity")}
    moved = [
        image_distance(ccf.counterfactual(shipped, abduction, nothing_new, guidance=rule).images["image"], some.images["image"])
        for rule in (ccf.Decoupled(1.0, form="nested"), ccf.Decoupled(1.0, form="paper"))
    ]
    assert moved[0].mean() < 0.3  # what one round trip costs
    assert moved[1].mean() > 3 * moved[0].mean()


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


def test_the_figures_have_a_panel_for_every_intervention_and_a_row_for_every_rule(found):
    assert len(reproduction_figure(trade_off(found.table)).axes) == 2 * 4
    assert len(ladder_figure(found.examples).axes) == 3 * 4 * (1 + 3)
    with pytest.raises(ccf.DataError, match="no answer to draw"):
        ladder_figure({})


def test_one_command_writes_tables_and_figures(tmp_path, capsys):
    out = tmp_path / "r"
    asked = ["--weight", "1", "--weight", "2", "--seed", "0", "--n", "2", "--again-rows", "2", "--levels", "2", "--json"]
    assert main(["reproduce", "morphomnist", "--model", "morphomnist", "--out", str(out), *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["weights"] == [1.0, 2.0]
    assert {row["rule"] for row in told["numbers"]} >= {"CFG", "DCFG paper", "DCFG anchored", "DCFG nested", "CFG, APG"}
    assert {path.name for path in out.iterdir()} == set(told["files"])
    text = (out / "results.md").read_text()
    assert "## do(thickness)" in text
    assert "| CFG | 2 |" in text
    assert len(pd.read_csv(out / "numbers.csv")) == len(told["numbers"])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["celebahq"], "where are the data of celebahq"),
        (["morphomnist", "--phantom", "0"], "--phantom does not apply without --data"),
        (["morphomnist", "--model", "morphomnist", "--steps", "9", "--paper-size"], "--steps, --paper-size do not apply with"),
        (["embed", "--data", ".", "--model", "morphomnist"], "is a model of morphomnist, not of embed"),
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


def evidence(rule, weight, generator):
    """Four rows of two seeds each, of a label that was set, two that must stay, and the way back."""

    def measured(measure, attribute, role):
        return replace(Measured(measure, generator.normal(size=4), do="a", attribute=attribute), role=role)

    seeds = [
        [
            measured("delta_log_odds", "a", "target"), measured("delta_log_odds", "b", "off target"),
            measured("excess_log_odds", "b", "off target"), measured("excess_error", "c", "off target"),
            measured("reversibility", "", ""),
        ]
        for _ in range(2)
    ]  # fmt: skip
    return {(rule, weight, "a"): seeds}


def test_rows_that_every_seed_asks_are_drawn_as_a_whole():
    asked = evidence("CFG", 1.0, np.random.default_rng(0))
    ((key, (seed, _)),) = asked.items()
    alone, twice = {key: [seed]}, {key: [seed, seed]}
    rows, other = np.arange(4), np.arange(4, 8)
    ends = ["value", "low", "high"]
    once = _table(alone, [rows])[ends]
    assert np.allclose(_table(twice, [rows, rows])[ends], once, rtol=1e-12)  # asked twice, they tell no more
    assert not np.allclose(_table(twice, [rows, other])[ends], once, rtol=0.01)
    drawn = _again(twice, [rows, rows]), _again(alone, [rows])
    for mine, its in zip(*drawn, strict=True):
        assert mine["a", "CFG"].target == pytest.approx(its["a", "CFG"].target)


def test_results_tell_how_many_different_rows_were_asked(shipped, held_out):
    some = held_out.rows(slice(0, 3))
    found = reproduce(
        shipped, some, weights=(1.0,), forms=("nested",), adjusted=False, seeds=(0, 1), rows=3, again_rows=2, steps=2
    )
    assert (found.settings["rows"], found.settings["back"]) == (3, 2)
    told = "3 held-out rows over seeds 0, 1 (seeds share rows, which count 6 times in all), 2 of them there"
    assert told in found.to_markdown()


def test_a_sample_of_every_row_once_gives_the_numbers_of_the_table(monkeypatch):
    def once(rows, *, seed, draws, groups):
        return np.ones((draws, rows), dtype=np.int64)

    monkeypatch.setattr("causalcf.reproduction.resamples", once)
    generator, asked = np.random.default_rng(0), {}
    for rule, weight in itertools.product(("CFG", "DCFG nested"), (3.0, 1.0)):
        asked |= evidence(rule, weight, generator)
    expected = _lines(trade_off(_table(asked)))
    for key, line in _again(asked)[-1].items():
        for name in ("target", "off", "back"):
            assert getattr(line, name) == pytest.approx(getattr(expected[key], name))
    assert set(expected) == {("a", "CFG"), ("a", "DCFG nested")}
