"""The audit measures what it says: on true counterfactuals it sits at its floor, and planted faults are caught."""

import copy
import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch

import causalcf as ccf
from causalcf.conditions import judge_conditions, parse_condition, read_conditions
from causalcf.measures import Measured
from causalcf.metrics import image_distance, interval, resamples, target_error
from causalcf.samplers import draw_interventions
from causalcf.scoring import AuditedRows
from causalcf.subgroups import by_subgroup, scan_subgroups

SCHEMA = json.loads((files("causalcf") / "schemas" / "audit-2.json").read_text())


@pytest.fixture(scope="module")
def report(shipped, digits):
    return ccf.audit(shipped, digits, truth=ccf.recipe("morphomnist").truth, rounds=(1, 2), again_rows=2, seed=0)


def test_the_report_has_every_measure(report):
    scores = report.scores
    assert {"composition.1", "composition.2", "effectiveness", "amplification", "reversibility.1", "true_error"} <= set(
        scores["measure"]
    )
    effect = scores[scores["measure"] == "effectiveness"]
    assert set(zip(effect["do"], effect["attribute"], strict=True)) == {
        (do, read) for do in ("thickness", "intensity", "digit") for read in ("thickness", "intensity", "digit")
    }
    assert effect["floor"].notna().all()
    judged = scores[scores["measure"].str.startswith(("effectiveness", "amplification"))]
    assert judged["ceiling"].notna().all()  # what a method scores that does not look
    of_label = judged.groupby("measure")["ceiling"].first()
    assert of_label["amplification.auroc"] < -20  # points below real images
    assert effect.loc[effect["do"] != "digit", "truth"].notna().all()
    assert set(scores.loc[scores["measure"] == "true_error", "do"]) == {
        "thickness",
        "intensity",
    }  # no other digit in the same hand
    assert ((scores["low"] <= scores["value"]) & (scores["value"] <= scores["high"]) | scores["low"].isna()).all()


def test_the_report_passes_and_serialises(report, tmp_path):
    assert report.passed
    data = json.loads(report.to_json(tmp_path / "audit.json"))
    assert data["schema"] == 2
    assert len(data["scores"]) == len(report.scores)
    assert json.loads((tmp_path / "audit.json").read_text()) == data
    jsonschema.validate(data, SCHEMA)
    assert report.value("composition.1", attribute="image") >= 0
    with pytest.raises(ccf.DataError, match="0 numbers for measure='compositon'"):
        report.value("compositon")


def test_composition_copies_nothing(shipped, digits):
    broken = copy.deepcopy(shipped)
    original = broken.mechanisms["image"].predict
    broken.mechanisms["image"].predict = lambda noise, parents, *, changed=frozenset(): (
        original(noise, parents, changed=changed) * 0.5
    )
    healthy = ccf.audit(shipped, digits.rows([0, 1]), interventions={"i": {"intensity": 150.0}}, rounds=(1,))
    damaged = ccf.audit(broken, digits.rows([0, 1]), interventions={"i": {"intensity": 150.0}}, rounds=(1,))
    assert damaged.value("composition.1", attribute="image") > 10 * healthy.value("composition.1", attribute="image")


def test_a_mechanism_that_ignores_the_intervention_is_caught_by_effectiveness(shipped, digits):
    lazy = copy.copy(shipped)
    lazy.mechanisms = {**shipped.mechanisms}
    image = copy.copy(shipped.mechanisms["image"])
    known = {name: torch.as_tensor(np.asarray(digits.frame[name], float)) for name in ("thickness", "intensity")}
    predict = image.predict

    def ignoring(noise, parents, *, changed=frozenset()):
        return predict(noise, {**parents, **{k: v[: len(noise)] for k, v in known.items()}}, changed=changed)

    image.predict = ignoring
    lazy.mechanisms["image"] = image
    do = {"thickness": {"thickness": digits.frame["thickness"].to_numpy() + 1.5}}
    healthy = ccf.audit(shipped, digits, interventions=do, rounds=(1,))
    caught = ccf.audit(lazy, digits, interventions=do, rounds=(1,))
    assert caught.value("effectiveness", "thickness", "thickness") > 1.0
    assert healthy.value("effectiveness", "thickness", "thickness") < 0.6
    composition = [r.value("composition.1", attribute="image") for r in (healthy, caught)]
    assert composition[0] == pytest.approx(composition[1], abs=0.05)


def test_interventions_are_a_function_of_seed_and_row(shipped, digits):
    graph, frame = shipped.graph, digits.frame
    one = draw_interventions(graph, frame, image="image", seed=0)
    assert np.array_equal(
        one["thickness"]["thickness"], draw_interventions(graph, frame, image="image", seed=0)["thickness"]["thickness"]
    )
    assert not np.array_equal(
        one["thickness"]["thickness"], draw_interventions(graph, frame, image="image", seed=1)["thickness"]["thickness"]
    )
    assert all(new != old for new, old in zip(one["digit"]["digit"], frame["digit"], strict=True))
    assert set(one["intensity"]["intensity"]) <= set(frame["intensity"])


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.Generator(np.random.Philox(0))
    drawn = (generator.exponential(size=(200, 1)) for _ in range(200))
    ends = [interval("mean", rows, resamples(200, seed=seed)) for seed, rows in enumerate(drawn)]
    hits = sum(low <= 1.0 <= high for low, high in ends)
    assert hits / 200 > 0.95 - 5 * (0.05 * 0.95 / 200) ** 0.5  # five standard errors below 95 %


def test_distances_are_in_grey_levels():
    a, b = np.zeros((2, 1, 4, 4), np.uint8), np.full((2, 1, 4, 4), 7, np.uint8)
    assert image_distance(a, b).tolist() == [7.0, 7.0]
    assert image_distance(b, a).tolist() == [7.0, 7.0]  # no wrap-around of unsigned numbers
    assert target_error(np.array(["1", "2"]), np.array(["1", "3"]), discrete=True).tolist() == [1.0, 0.0]
    assert target_error(np.array([1.0]), np.array([3.0]), discrete=False).tolist() == [2.0]


def test_an_audit_without_images_is_an_error(shipped, digits):
    with pytest.raises(ccf.DataError, match=r"no images for .image.. Pass them, or audit the attributes alone"):
        ccf.audit(shipped, digits.without_images())
    with pytest.raises(ccf.DataError, match="at least two rows"):
        ccf.audit(shipped, digits.rows([0]))
    with pytest.raises(ccf.GraphError, match="use a judge for tickness"):
        ccf.audit(shipped, digits, judges={"tickness": len})


def table_model(mechanisms=None, n=400):
    """age -> dose -> stage, by known equations."""
    graph = ccf.CausalGraph(
        "clinic",
        [
            ccf.Node("age", "continuous", unit="year"),
            ccf.Node("dose", "continuous", parents=["age"]),
            ccf.Node("stage", "binary", parents=["dose"]),
            ccf.Node("site", "binary"),
        ],
    )
    draw = np.random.default_rng(0)
    age = draw.normal(50, 10, n)
    dose = age / 10 + draw.normal(size=n)
    stage = (draw.uniform(size=n) < 1 / (1 + np.exp(5 - dose))).astype(int)
    frame = pd.DataFrame({"age": age, "dose": dose, "stage": stage, "site": draw.integers(0, 2, n)})
    known = {"age": ccf.Empirical(), "dose": ccf.LinearGaussian(), "stage": ccf.Categorical(), "site": ccf.Categorical()}
    batch = ccf.Batch(graph, frame)
    return ccf.fit(ccf.SCM(graph, {**known, **(mechanisms or {})}), batch), batch


def test_a_model_of_attributes_is_audited_without_images(tmp_path):
    report = ccf.audit(*table_model())
    assert report.passed
    assert list(report.answers) == ["age", "dose"]  # what has an effect
    scores = report.scores.set_index(["measure", "do", "attribute"])
    assert (scores.loc["composition.1", "value"] < 1e-9).all()
    assert (scores.loc["reversibility.1", "value"].loc[:, ["age", "dose"]] < 1e-9).all()
    assert scores.loc[("reversibility.1", "dose", "stage"), "unit"] == "percent of rows"
    assert scores.loc[("noise_fit", "", "dose"), "value"] < 0.08  # 1.36 / sqrt(400) is the 95 % point of Kolmogorov's distance
    page = report.to_html(tmp_path / "report.html").read_text()
    assert "No image was asked about" in page
    assert '"measure": "reversibility.1"' in report.to_json()


def test_a_table_audit_catches_a_mechanism_that_misses_its_noise():
    class Doubled(ccf.LinearGaussian):
        """Predicts with twice the noise that it abducted."""

        def predict(self, noise, parents, *, changed=frozenset()):
            return super().predict(2 * noise, parents, changed=changed)

    report = ccf.audit(*table_model({"dose": Doubled()}))
    scores = report.scores.set_index(["measure", "do", "attribute"])["value"]
    assert scores["composition.1", "", "dose"] > 0.5  # E|e| = .8 for a standard normal e
    assert scores["composition.1", "", "age"] < 1e-9


def test_shards_of_an_audit_merge_into_the_whole_byte_for_byte(tmp_path):
    scm, batch = table_model()
    whole = ccf.audit(scm, batch, groups="site", cycles=(1, 2))
    parts = [ccf.audit(scm, batch, groups="site", cycles=(1, 2), shard=(number, 4)) for number in (3, 1, 4, 2)]
    assert sum(len(part.factual) for part in parts) == len(batch)
    merged = ccf.merge_audits(parts)
    assert merged.to_json() == whole.to_json()
    assert merged.outside.equals(whole.outside)
    assert merged.answers["age"].frame.equals(whole.answers["age"].frame)
    stored = [ccf.load_report(ccf.save_report(part, tmp_path / str(place))) for place, part in enumerate(parts)]
    again = ccf.load_report(ccf.save_report(ccf.merge_audits(stored), tmp_path / "merged"))
    assert again.to_json() == whole.to_json()
    assert again.to_html(tmp_path / "again.html").read_text() == whole.to_html(tmp_path / "whole.html").read_text()
    assert again.outside.equals(whole.outside)
    with pytest.raises(ccf.DataError, match=r"the shards are 3/4, 4/4. Give every one of 4 once"):
        ccf.merge_audits(parts[::2])
    with pytest.raises(ccf.DataError, match="'seed' is not the same in all of them"):
        ccf.merge_audits([*parts[:3], ccf.audit(scm, batch, groups="site", cycles=(1, 2), shard=(2, 4), seed=1)])
    with pytest.raises(ccf.DataError, match="400 rows have 7 parts of 64 and cannot be divided into 8 shards"):
        ccf.audit(scm, batch, shard=(1, 8))


def test_the_trade_off_asks_everything_again_under_each_weight(shipped, tmp_path):
    batch = ccf.recipe("morphomnist").batch("test", 72, 0, 1)
    asked = {"interventions": {"digit": {"digit": "3"}}, "rounds": (1,), "again_rows": 8, "steps": 3, "weights": [3.0, 1.0]}
    report = ccf.audit(shipped, batch, **asked)
    found = report.tradeoff
    assert found["weight"].unique().tolist()[1:] == [1.0, 3.0]
    assert set(found["measure"].str.partition(".")[0]) == {"effectiveness", "amplification", "reversibility"}
    guidance = shipped.mechanisms["image"].guidance
    for weight in (1.0, 3.0):  # as if the audit itself had been under that weight, the interval and what must stay as they are
        rule = replace(guidance, inner=replace(guidance.inner, weight=weight, weights={}))
        alone = ccf.audit(shipped, batch, **{**asked, "weights": ()}, guidance=rule).scores
        some = found[found["weight"] == weight].drop(columns="weight")
        both = some.merge(alone, on=["measure", "do", "attribute", "value", "low", "high", "floor", "unit", "n"])
        assert len(both) == len(some)
    jsonschema.validate(json.loads(report.to_json()), SCHEMA)
    parts = [ccf.audit(shipped, batch, **asked, shard=(number, 2)) for number in (1, 2)]
    stored = [ccf.load_report(ccf.save_report(part, tmp_path / str(place))) for place, part in enumerate(parts)]
    merged = ccf.merge_audits(stored)
    assert merged.to_json() == report.to_json()
    page = merged.to_html(tmp_path / "report.html").read_text()
    assert "<h2>Trade-off</h2>" in page
    assert page == report.to_html(tmp_path / "again.html").read_text()


def test_a_model_without_guidance_has_no_trade_off():
    scm, batch = table_model()
    with pytest.raises(ccf.DataError, match=r"weights=\[2\.0\]: the model has no image under guidance"):
        ccf.audit(scm, batch, weights=[2.0])
    assert not ccf.audit(scm, batch, preset="dcfg-2025").weighted  # whose weights are for images


def test_conditions_decide_whether_the_audit_passes():
    scm, batch = table_model()
    kept, broken = "noise_fit dose > 0.2", "reversibility.1 do(age) stage >= 0"
    report = ccf.audit(scm, batch, fail_on=[kept, broken], by=["site"], scan=True, judges=ccf.fit_judges(batch))
    jsonschema.validate(json.loads(report.to_json()), SCHEMA)
    assert {"subgroups", "scan"} <= set(json.loads(report.to_json()))
    broken_row = json.loads(report.to_json())
    broken_row["scores"][0]["n"] = "many"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken_row, SCHEMA)
    assert not report.passed
    assert report.verdicts.set_index("check").loc[[f"not {kept}", f"not {broken}"], "passed"].tolist() == [True, False]
    assert json.loads(report.to_json())["passed"] is False
    assert ccf.audit(scm, batch, fail_on=[kept]).passed
    with pytest.raises(ccf.DataError, match=r"names no number of an audit\. Measures are: composition"):
        ccf.audit(scm, batch, fail_on=["compositon.1 > 3"])
    with pytest.raises(ccf.DataError, match=r"names no number of this audit\. Measures are: noise_fit"):
        _ = ccf.audit(scm, batch, fail_on=["realism > 3"]).passed
    with pytest.raises(ccf.DataError, match=r"'composition\.1 is 3' is no condition"):
        ccf.audit(scm, batch, fail_on=["composition.1 is 3"])


@pytest.mark.parametrize("text", ["composition > 1", "composition.10 > 1", "reversibility.invariant > 1", "reversibility.2 < 1"])
def test_a_condition_on_rounds_that_are_not_asked_is_refused_before_anything_is_measured(text, monkeypatch):
    monkeypatch.setattr("causalcf.soundness.abduct", None)  # anything measured would be a TypeError
    with pytest.raises(ccf.DataError, match=r"names no number of this audit\. Of (composition|reversibility) there is: \1\.1\."):
        ccf.audit(*table_model(), fail_on=[text])


def test_a_search_without_judges_is_an_error_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("causalcf.soundness.abduct", None)
    with pytest.raises(ccf.DataError, match=r"there is no judge\. Give judges=\.\.\., fit them .*, or leave scan out"):
        ccf.audit(*table_model(), scan=True)


def test_a_group_that_is_missing_is_an_error_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("causalcf.soundness.abduct", None)
    scm, batch = table_model()
    patient = [None, *(f"p{row % 90}" for row in range(398)), None]
    some = ccf.Batch(batch.graph, batch.frame.assign(patient=patient))
    with pytest.raises(ccf.DataError, match=r"column 'patient' has 2 missing values, .* Fill them, drop the rows"):
        ccf.audit(scm, some, groups="patient")


def test_a_place_takes_the_audit_of_the_same_part_of_the_rows_and_no_other(tmp_path):
    scm, batch = table_model()
    whole, *parts = [ccf.audit(scm, batch, shard=shard) for shard in (None, (1, 2), (2, 2))]
    for place, report in (("whole", whole), ("part", parts[0])):
        assert ccf.save_report(report, tmp_path / place) == ccf.save_report(report, tmp_path / place)
    for place, report, said in (
        ("part", parts[1], "part' holds shard 1/2 of an audit, and shard 2/2 of an audit does not replace it. Choose another"),
        ("part", whole, "part' holds shard 1/2 of an audit, and an audit of all rows does not"),
        ("whole", parts[0], "whole' holds an audit of all rows, and shard 1/2 of an audit does not"),
    ):
        with pytest.raises(ccf.StoreError, match=said):
            ccf.save_report(report, tmp_path / place)
    assert ccf.load_report(tmp_path / "part").to_json() == parts[0].to_json()


def test_a_judge_that_reads_nothing_is_told(shipped, digits, tmp_path):
    asked = {"interventions": {"digit": {"digit": "3"}}, "rounds": (1,), "again_rows": 2, "steps": 3}
    assert ccf.audit(shipped, digits, **asked).blind_judges == []

    def always(images):
        return np.array(["3"] * len(images), dtype=object)

    report = ccf.audit(shipped, digits, judges={**shipped.judges, "digit": always}, **asked)
    assert report.blind_judges == ["digit"]
    page = report.to_html(tmp_path / "report.html").read_text()
    assert "The judge of digit reads real rows no better than rows mixed up: its numbers say nothing." in page


def test_a_condition_that_is_best_at_zero_is_compared_by_size():
    scores = pd.DataFrame(
        {
            "measure": ["amplification"] * 3, "do": ["a"] * 3, "attribute": ["a", "b", "c"],
            "role": ["intervened", "affected", "invariant"], "value": [9.0, -3.0, 1.0], "unit": [""] * 3, "better": ["zero"] * 3,
        }
    )  # fmt: skip
    texts = ["amplification.off_target > 2", "amplification.invariant > 2", "amplification do(a) b < 3.5", "amplification c > 1"]
    assert [check["passed"] for check in judge_conditions(texts, scores)] == [False, True, False, True]


def test_a_number_that_the_rows_do_not_tell_is_null_and_answers_no_condition(tmp_path):
    scm, batch = table_model()
    one = batch.rows(np.flatnonzero(batch.frame["stage"] == 1)[:70])  # no AUROC without a second label

    class Judge:
        """Reads the stage off the table, with scores."""

        def __call__(self, frame):
            return frame["stage"].to_numpy()

        def scores(self, frame):
            return np.column_stack([1 - frame["stage"], frame["stage"]]).astype(float)

    given = {"judges": {"stage": Judge()}, "interventions": {"site": {"site": 1}}, "by": ["site"]}
    report = ccf.audit(scm, one, **given)
    assert np.isnan(report.value("effectiveness.auroc", "site", "stage"))
    jsonschema.validate(json.loads(report.to_json()), SCHEMA)
    page = report.to_html(tmp_path / "report.html").read_text()  # nothing to draw a scale of
    assert '"nan"' not in page
    assert report.blind_judges == []  # rows that are mixed up are as they were
    assert "reads real rows no better" not in page
    assert "Here none reads age, dose and site." in page
    with pytest.raises(
        ccf.DataError, match=r"asks for effectiveness\.auroc of 'stage' under .*, which these 70 rows do not tell"
    ):
        _ = ccf.audit(scm, one, **given, fail_on=["effectiveness.auroc < 0.9"]).passed


@pytest.mark.parametrize(
    ("text", "do", "attribute"),
    [
        ("effectiveness do(dose (mg)) age (years) < 0.9", "dose (mg)", "age (years)"),
        ("effectiveness do(f(g(x)) (y), z) a <= 1", "f(g(x)) (y), z", "a"),
        ("composition.1 dose (mg) > 1", None, "dose (mg)"),
        ("effectiveness do(a() a( > 1", "a(", "a("),
    ],
)
def test_a_condition_may_name_what_has_parentheses(text, do, attribute):
    condition = parse_condition(text)
    assert (condition.do, condition.attribute) == (do, attribute)


def test_conditions_are_read_from_a_file(tmp_path):
    path = tmp_path / "audit.toml"
    path.write_text('fail_on = ["composition.1 > 0.5"]\n')
    assert read_conditions(path) == ["composition.1 > 0.5"]
    path.write_text('fail-on = ["composition.1 > 0.5"]\n')
    with pytest.raises(ccf.DataError, match=r"holds fail-on\. It takes one entry"):
        read_conditions(path)
    with pytest.raises(ccf.DataError, match="cannot read the conditions in"):
        read_conditions(tmp_path / "absent.toml")


def test_a_subgroup_in_which_the_answers_are_worse_is_found_and_no_other():
    measured = []
    draw = np.random.default_rng(1)
    labels = {"site": draw.choice(["a", "b", "c"], 600), "sex": draw.choice(["f", "m"], 600)}
    frame = pd.DataFrame({**labels, "age": draw.normal(50, 10, 600)})
    clean, damage = draw.normal(size=600), np.where(frame["site"] == "b", 0.6, 0.0)
    for name, value in (("clean", clean), ("damaged", draw.normal(size=600) + damage)):
        measured.append(Measured("amplification", value, do="x", attribute=name, unit="point"))
    found = scan_subgroups(measured, frame, ["site", "age", "sex"], seed=0)
    assert found.loc[0, ["attribute", "subgroup"]].tolist() == ["damaged", "site b"]
    assert found.loc[0, "p"] == 0.001
    assert found.loc[0, "value"] - found.loc[0, "rest"] == pytest.approx(0.6, abs=0.25)
    assert (found.loc[found["attribute"] == "clean", "p"] > 0.05).all()
    worst = [
        scan_subgroups([Measured("amplification", draw.normal(size=600))], frame, ["site", "age", "sex"], seed=k).loc[0, "p"]
        for k in range(20)
    ]
    assert np.mean(np.array(worst) <= 0.05) <= 0.25  # 36 subgroups are looked at, and one look in twenty is to be wrong


def test_a_subgroup_that_nothing_else_explains_is_the_worst():
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"site": ["a"] * 60 + ["b"] * 40, "sex": draw.choice(["f", "m"], 100)})
    apart = np.where(frame["site"] == "a", 0.1, 0.7)  # no spread on either side
    measured = [Measured("amplification", value, attribute=name) for name, value in
                (("noisy", draw.normal(size=100) + 2 * apart), ("apart", apart), ("constant", np.full(100, 0.1)))]  # fmt: skip
    found = scan_subgroups(measured, frame, ["site", "sex"], seed=0)
    assert found.loc[:1, "attribute"].tolist() == ["apart", "apart"]
    assert set(found.loc[:1, "subgroup"]) == {"site a", "site b"}
    assert found.loc[0, "p"] == 0.001
    assert (found.loc[found["attribute"] == "constant", "p"] == 1.0).all()


def test_a_subgroup_of_few_patients_with_many_rows_each_is_not_found_by_chance():
    draw = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 15)
    frame = pd.DataFrame({"site": np.where(patient < 20, "a", "b"), "view": draw.choice(["x", "y"], 600)})
    smallest: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(20):
        alike = 3 * draw.normal(size=40)[patient] + draw.normal(size=600)  # rows of a patient are much alike
        for told in (True, False):
            groups = patient if told else None
            found = scan_subgroups([Measured("amplification", alike)], frame, ["site", "view"], seed=seed, groups=groups)
            smallest[told].append(found["p"].min())
    assert np.mean(np.array(smallest[True]) <= 0.05) <= 0.2  # one look in twenty is to be wrong; 3 standard deviations are .15
    assert np.mean(np.array(smallest[False]) <= 0.05) > 0.2  # as if there were 600 patients
    worse = alike + np.where(frame["view"] == "x", 1.0, 0.0)
    found = scan_subgroups([Measured("amplification", worse)], frame, ["site", "view"], seed=0, groups=patient)
    assert found.loc[0, "subgroup"] in ("view x", "view y")  # of which every patient has both
    assert found.loc[0, "p"] <= 0.05


def test_the_search_of_an_audit_takes_the_rows_of_a_group_together():
    scm, batch = table_model()
    some = ccf.Batch(batch.graph, batch.frame.assign(patient=np.arange(400) // 10))
    draw = np.random.default_rng(0)
    report = ccf.audit(scm, some, groups="patient", by=["site"])
    report = replace(report, measured=[Measured("amplification", draw.normal(size=400))])
    groups = some.frame["patient"].to_numpy()
    assert report.scan(["site"]).equals(scan_subgroups(report.measured, some.frame, ["site"], seed=0, groups=groups))
    assert not report.scan(["site"]).equals(scan_subgroups(report.measured, some.frame, ["site"], seed=0))


def test_quartiles_that_differ_in_late_digits_keep_names_of_their_own():
    year = pd.Series(np.linspace(20_001.0, 20_003.0, 80))
    parts = by_subgroup([Measured("true_error", np.arange(80.0))], pd.DataFrame({"year": year}), "year", seed=0)
    assert parts.sizes.tolist() == [20, 20, 20, 20]
    assert list(parts.sizes.index)[1:] == ["20001.5 to 20002", "20002 to 20002.5", "20002.5 to 20003"]


@pytest.mark.parametrize(
    ("value", "sizes"),
    [
        (np.r_[np.zeros(80), np.arange(1.0, 21)], {"0": 80, "above 0": 20}),
        (np.r_[np.arange(20.0), np.full(80, 20.0)], {"below 20": 20, "20": 80}),
        (np.r_[np.zeros(40), np.arange(1.0, 6), np.full(55, 9.0)], {"0": 40, "above 0": 60}),
    ],
)
def test_a_column_of_which_most_rows_share_a_value_has_two_groups(value, sizes):
    parts = by_subgroup([Measured("true_error", np.arange(100.0))], pd.DataFrame({"packs": value}), "packs", seed=0)
    assert parts.sizes.to_dict() == sizes


def test_one_group_alone_differs_from_no_other():
    frame = pd.DataFrame({"sex": ["f"] * 60 + ["m"] * 5})
    parts = by_subgroup([Measured("true_error", np.arange(65.0))], frame, "sex", seed=0)
    assert parts.difference().isna().all()
    assert parts.ratio().isna().all()
    assert (parts.difference("to_overall") > 0).all()


def test_groups_of_words_and_numbers_are_told():
    frame = pd.DataFrame({"stage": pd.Series(["none", 2, 1] * 30, dtype=object)})
    parts = by_subgroup([Measured("true_error", np.arange(90.0))], frame, "stage", seed=0)
    assert parts.sizes.to_dict() == {"1": 30, "2": 30, "none": 30}


def test_subgroups_speak_as_fairlearn_does():
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"sex": ["f"] * 60 + ["m"] * 30 + ["x"] * 5})
    value = np.concatenate([np.full(60, 1.0), np.full(30, 4.0), np.full(5, 9.0)])
    measured = [Measured("true_error", value, do="a", attribute="b"), Measured("amplification", -value, do="a", attribute="b")]
    parts = by_subgroup(measured, frame, "sex", seed=0)
    key = ("true_error", "a", "b")
    assert parts.overall[key] == pytest.approx(value.mean())
    assert parts.by_group.loc[key, ["f", "m"]].tolist() == [1.0, 4.0]
    assert np.isnan(parts.by_group.loc[key, "x"])
    assert parts.too_small == ["x"]
    assert parts.difference()[key] == 3.0
    assert parts.difference("to_overall")[key] == pytest.approx(4 - value.mean())
    assert parts.ratio()[key] == 0.25
    assert parts.ratio("to_overall")[key] == pytest.approx(1 / value.mean())
    assert np.isnan(parts.ratio()["amplification", "a", "b"])
    with pytest.raises(ccf.DataError, match=r"there is no column 'site' to group by\. Columns are: sex"):
        by_subgroup(measured, frame, "site", seed=0)
    many = by_subgroup(measured, frame.assign(age=draw.normal(50, 9, 95)), "age", seed=0)
    assert many.sizes.sum() == 95
    assert len(many.sizes) == 4


def test_a_comparison_is_paired_by_row():
    class Shifted(ccf.LinearGaussian):
        """Predicts half a unit too much."""

        def predict(self, noise, parents, *, changed=frozenset()):
            return super().predict(noise, parents, changed=changed) + 0.5

    (scm, batch), (other, _) = table_model(), table_model({"dose": Shifted()})
    reports = {"sound": ccf.audit(scm, batch), "shifted": ccf.audit(other, batch)}
    table = ccf.compare(reports).set_index(["measure", "do", "attribute"])
    row = table.loc[("composition.1", "", "dose")]
    assert row["report"] == "shifted"
    assert row["difference"] == pytest.approx(0.5)
    assert row["high"] - row["low"] < 1e-6  # every row differs by the same
    assert (table.loc[("composition.1", "", "age"), ["low", "high"]] == 0).all()
    with pytest.raises(ccf.DataError, match="is of other rows than the first"):
        ccf.compare([reports["sound"], ccf.audit(scm, batch.rows(slice(0, 200)))])
    with pytest.raises(ccf.DataError, match=r"asked do\(age\) for other values"):
        ccf.compare([reports["sound"], ccf.audit(scm, batch, seed=1)])
    with pytest.raises(ccf.DataError, match="two reports or more"):
        ccf.compare([reports["sound"]])


def test_a_comparison_of_few_positives_has_an_interval():
    report = ccf.audit(*table_model(n=80))
    draw, code = np.random.default_rng(0), (np.arange(80) < 2).astype(float)  # a sample without a positive in seven
    shift = draw.normal(size=80)
    scores = [np.column_stack([code, 1 - shift, shift + gain * code]) for gain in (0.0, 2.0)]
    reports = [
        replace(report, measured=[Measured("effectiveness.auroc", one, statistic="auroc", better="high")]) for one in scores
    ]
    row = ccf.compare(reports).iloc[0]
    assert row["low"] < row["difference"] < row["high"]


def test_an_audit_that_was_saved_is_compared_with_a_fresh_one(tmp_path):
    scm, batch = table_model()
    report = ccf.audit(scm, batch, interventions={"site": {"site": 1}})
    for pair in ([ccf.load_report(ccf.save_report(report, tmp_path / "a")), report], [report, ccf.load_report(tmp_path / "a")]):
        assert (ccf.compare(pair)["difference"] == 0).all()


def test_labels_that_are_words_and_numbers_are_audited_saved_and_read_back(tmp_path):
    graph = ccf.CausalGraph(
        "mixed", [ccf.Node("stage", "ordinal", states=("none", 1, 2)), ccf.Node("dose", "continuous", parents=["stage"])]
    )
    draw = np.random.default_rng(0)
    stage = draw.integers(0, 3, 120)
    frame = pd.DataFrame({"stage": np.array(["none", 1, 2], dtype=object)[stage], "dose": stage + draw.normal(size=120)})
    batch = ccf.Batch(graph, frame)
    scm = ccf.fit(ccf.SCM(graph, {"stage": ccf.Categorical(), "dose": ccf.LinearGaussian()}), batch)
    report = ccf.audit(scm, batch, judges=ccf.fit_judges(batch), by=["stage"], scan=True)
    again = ccf.load_report(ccf.save_report(report, tmp_path / "a"))
    assert again.factual.frame["stage"].tolist() == frame["stage"].tolist()
    assert list(again.answers["stage"].do["stage"]) == list(report.answers["stage"].do["stage"])
    assert again.to_json() == report.to_json()
    assert again.to_html(tmp_path / "again.html").read_text() == report.to_html(tmp_path / "report.html").read_text()


def test_a_method_that_does_not_look_scores_the_same_in_a_table_that_is_sorted():
    scm, batch = table_model()
    older = ccf.Batch(batch.graph, batch.frame.sort_values("age"))
    judges = ccf.fit_judges(batch)
    asked = {"judges": judges, "interventions": {"site": {"site": 1}}}
    ceilings = [ccf.audit(scm, one, **asked).scores.set_index(["measure", "attribute"])["ceiling"] for one in (batch, older)]
    for key in [("effectiveness", "age"), ("composition.1", "age"), ("effectiveness", "dose")]:
        assert ceilings[0][key] == pytest.approx(ceilings[1][key], rel=1e-12)


def test_another_row_is_of_another_group_where_there_is_one():
    scm, batch = table_model()
    some = ccf.Batch(batch.graph, batch.frame.assign(patient=np.repeat(np.arange(8), 50), nobody="x"))

    def others(column, part=slice(0, 400)):
        return AuditedRows(scm, some, part, {}, {}, column).others

    patient = some.frame["patient"].to_numpy()
    assert sorted(others(None)) == list(range(400))  # every row stands for another once
    assert (others(None) != np.arange(400)).all()
    assert (patient[others("patient")] != patient).all()
    assert (others("nobody") == others(None)).all()
    assert (others("patient", slice(64, 128)) == others("patient")[64:128]).all()


def test_a_judge_is_asked_while_another_cause_is_set_and_not_while_an_effect_is():
    graph = ccf.CausalGraph(
        "collider",
        [ccf.Node("T", "binary"), ccf.Node("Z", "continuous"), ccf.Node("Y", "continuous", parents=["T", "Z"])],
    )
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"T": draw.integers(0, 2, 300), "Z": draw.normal(size=300)})
    batch = ccf.Batch(graph, frame.assign(Y=4.0 * frame["T"] + frame["Z"] + draw.normal(size=300)))
    known = {"T": ccf.Categorical(), "Z": ccf.Empirical(), "Y": ccf.LinearGaussian()}
    judges = {"T": ccf.TableJudge.fit(batch, "T")}
    interventions = {"Z": {"Z": ccf.Shift(1.0)}, "Y": {"Y": 3.0}}
    report = ccf.audit(ccf.fit(ccf.SCM(graph, known), batch), batch, judges=judges, interventions=interventions)
    assert report.value("effectiveness", "Z", "T") > 0.9
    assert set(report.scores.loc[report.scores["measure"] == "effectiveness", "do"]) == {"Z"}


def test_judges_of_a_table_read_causes_off_their_effects(tmp_path):
    scm, batch = table_model(n=1500)
    judges = ccf.fit_judges(batch)
    assert set(judges) == {"age", "dose"}  # stage and site have no effect
    assert [node.name for node in judges["age"].inputs] == ["dose"]
    error = np.abs(judges["age"](batch.frame) - batch.frame["age"])
    assert error.mean() < 6.5  # age given dose has standard deviation 10 / sqrt(2), mean absolute error 5.6
    scm.judges = judges
    stored = ccf.load(scm.save(tmp_path / "clinic"))
    assert np.array_equal(stored.judges["age"](batch.frame), judges["age"](batch.frame))
    report = ccf.audit(stored, batch)
    scores = report.scores.set_index(["measure", "do", "attribute"])
    sound = scores.loc[("effectiveness", "age", "age")]
    assert abs(sound["value"] - sound["floor"]) < 0.2 * (sound["ceiling"] - sound["floor"])
    assert ("effectiveness", "dose", "age") not in scores.index  # the dose that was set no longer tells the age

    class Deaf(ccf.LinearGaussian):
        """Does not see that its parent moved."""

        def predict(self, noise, parents, *, changed=frozenset()):
            return self.kept if changed else super().predict(noise, parents, changed=changed)

    deaf, _ = table_model({"dose": Deaf()}, n=1500)
    deaf.mechanisms["dose"].kept = torch.as_tensor(batch.frame["dose"].to_numpy())
    caught = ccf.audit(
        deaf, batch, judges=judges, interventions={"age": draw_interventions(batch.graph, batch.frame, image=None, seed=0)["age"]}
    )
    assert caught.value("effectiveness", "age", "age") > 1.5 * sound["value"]


def test_a_judge_of_labels_agrees_with_scikit_learn_and_folds():
    from sklearn.linear_model import LogisticRegression

    graph = ccf.CausalGraph(
        "g", [ccf.Node("c", "categorical", states=["x", "y", "z"]), ccf.Node("n", "continuous", parents=["c"])]
    )
    draw = np.random.default_rng(0)
    labels = draw.choice(["x", "y", "z"], 500)
    batch = ccf.Batch(graph, pd.DataFrame({"c": labels, "n": draw.normal(size=500) + 2.0 * (labels == "z")}))
    judge = ccf.TableJudge.fit(batch, "c")
    columns = judge._columns(batch.frame)
    reference = LogisticRegression(C=1.0, max_iter=1000).fit(columns, labels)
    assert np.allclose(judge.scores(batch.frame), reference.predict_proba(columns), atol=1e-9)
    assert (judge(batch.frame) == reference.predict(columns)).all()
    halves = [judge.scores(batch.frame.iloc[part]) for part in (slice(0, 123), slice(123, 500))]
    assert np.array_equal(np.concatenate(halves), judge.scores(batch.frame))
    with pytest.raises(ccf.DataError, match=r"'n' has no effect in graph 'g' that a table shows"):
        ccf.TableJudge.fit(batch, "n")


def test_support_tells_which_interventions_lead_outside_the_data():
    scm, batch = table_model()
    far, near = batch.frame["age"] + 200, batch.frame["age"].to_numpy()
    report = ccf.audit(scm, batch, interventions={"far": {"age": far}, "near": {"age": near}})
    assert report.value("support", "far", "age") == 100.0
    assert report.outside["far"].all()
    scores = report.scores.set_index(["measure", "do", "attribute"])
    assert scores.loc[("support", "near", "age"), "value"] <= 2.0
    assert scores.loc[("support", "near", "age"), "floor"] == pytest.approx(1.0, abs=0.5)  # one real row in a hundred, as defined


def test_noise_of_a_graph_that_lacks_an_arrow_is_not_independent():
    (scm, batch), rows = table_model(), 400
    graph = ccf.CausalGraph("lacking", [ccf.Node("age", "continuous"), ccf.Node("dose", "continuous")])
    lacking = ccf.fit(ccf.SCM(graph, {"age": ccf.Empirical(), "dose": ccf.Empirical()}), ccf.Batch(graph, batch.frame))
    wrong = ccf.audit(lacking, ccf.Batch(graph, batch.frame), interventions={"age": {"age": ccf.Shift(1.0)}})
    right = ccf.audit(scm, batch)
    assert wrong.value("noise_independence", attribute="age, dose") > 0.5  # the correlation of age and dose is .71
    assert right.value("noise_independence", attribute="age, dose") < 4 / rows**0.5
    assert [str(one) for one in wrong.graph_check.contradicted] == ["age _||_ dose"]
    assert right.graph_check.passed


def test_an_attribute_of_the_noise_that_does_not_fit_is_named():
    scm, batch = table_model()
    older = ccf.Batch(batch.graph, batch.frame.assign(dose=batch.frame["dose"] + 1.0))  # another population
    assert ccf.audit(scm, older).value("noise_fit", attribute="dose") > 0.25
    assert ccf.audit(scm, batch).value("noise_fit", attribute="dose") < 0.08
