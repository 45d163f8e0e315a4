"""The audit measures what it says: on true counterfactuals it sits at its floor, and planted faults are caught."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

import causalcf as ccf
from causalcf.metrics import bootstrap_mean, image_distance, target_error
from causalcf.soundness import draw_interventions


@pytest.fixture(scope="module")
def report(shipped, digits):
    return ccf.audit(shipped, digits, truth=ccf.recipe("morphomnist").truth, rounds=(1, 2), again_rows=2, seed=0)


def test_the_report_has_every_measure(report):
    scores = report.scores
    assert {"composition.1", "composition.2", "effectiveness", "amplification", "reversibility", "true_error"} <= set(
        scores["measure"]
    )
    effect = scores[scores["measure"] == "effectiveness"]
    assert set(zip(effect["do"], effect["attribute"], strict=True)) == {
        (do, read) for do in ("thickness", "intensity", "digit") for read in ("thickness", "intensity", "digit")
    }
    assert effect["floor"].notna().all()
    assert effect.loc[effect["do"] != "digit", "truth"].notna().all()
    assert set(scores.loc[scores["measure"] == "true_error", "do"]) == {
        "thickness",
        "intensity",
    }  # no other digit in the same hand
    assert ((scores["low"] <= scores["value"]) & (scores["value"] <= scores["high"]) | scores["low"].isna()).all()


def test_the_report_passes_and_serialises(report, tmp_path):
    assert report.passed
    data = json.loads(report.to_json(tmp_path / "audit.json"))
    assert data["schema"] == 1
    assert len(data["scores"]) == len(report.scores)
    assert json.loads((tmp_path / "audit.json").read_text()) == data
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
    hits = sum(low <= 1.0 <= high for low, high in (bootstrap_mean(generator.exponential(size=200), seed=k) for k in range(200)))
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
    assert (scores.loc["reversibility", "value"].loc[:, ["age", "dose"]] < 1e-9).all()
    assert scores.loc[("reversibility", "dose", "stage"), "unit"] == "percent of rows"
    assert scores.loc[("noise_fit", "", "dose"), "value"] < 0.08  # 1.36 / sqrt(400) is the 95 % point of Kolmogorov's distance
    page = report.to_html(tmp_path / "report.html").read_text()
    assert "No image was asked about" in page
    assert '"measure": "reversibility"' in report.to_json()


def test_a_table_audit_catches_a_mechanism_that_misses_its_noise():
    class Doubled(ccf.LinearGaussian):
        """Predicts with twice the noise that it abducted."""

        def predict(self, noise, parents, *, changed=frozenset()):
            return super().predict(2 * noise, parents, changed=changed)

    report = ccf.audit(*table_model({"dose": Doubled()}))
    scores = report.scores.set_index(["measure", "do", "attribute"])["value"]
    assert scores["composition.1", "", "dose"] > 0.5  # E|e| = .8 for a standard normal e
    assert scores["composition.1", "", "age"] < 1e-9
