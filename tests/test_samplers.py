"""What an audit asks, by sampler, and how published evaluations ask."""

import numpy as np
import pandas as pd
import pytest

import causalcf as ccf
from causalcf.judges import NetworkJudge
from causalcf.presets import PRESETS, InTrainingMode
from causalcf.samplers import draw_interventions

GRAPH = ccf.CausalGraph(
    "g",
    [
        ccf.Node("age", "continuous"),
        ccf.Node("sex", "categorical", states=["f", "m", "x"]),
        ccf.Node("y", "continuous", parents=["age", "sex"]),
    ],
)


@pytest.fixture(scope="module")
def frame():
    draw = np.random.default_rng(0)
    labels = draw.choice(["f", "m", "x"], 1000, p=[0.6, 0.3, 0.1])
    return pd.DataFrame({"age": draw.normal(50, 10, 1000), "sex": labels, "y": 0.0})


def drawn(frame, sampler, seed=0):
    dos = draw_interventions(GRAPH, frame, image=None, seed=seed, sampler=sampler)
    return np.asarray(dos["age"]["age"]), np.asarray(dos["sex"]["sex"])


def test_permute_gives_every_value_once(frame):
    age, sex = drawn(frame, "permute")
    assert sorted(age) == sorted(frame["age"])
    assert sorted(sex) == sorted(frame["sex"])
    assert not np.array_equal(age, frame["age"])


def test_marginal_draws_labels_as_often_as_the_data_have_them(frame):
    age, sex = drawn(frame, "marginal")
    assert set(age) <= set(frame["age"])
    assert abs((sex == "f").mean() - (frame["sex"] == "f").mean()) < 5 * (0.24 / 1000) ** 0.5


def test_bins_always_lead_to_another_bin_of_the_range(frame):
    age, sex = drawn(frame, "bins")
    low, high = frame["age"].min(), frame["age"].max()
    place = [np.clip(np.floor((column - low) / (high - low) * 9), 0, 8) for column in (frame["age"].to_numpy(), age)]
    assert (place[0] != place[1]).all()
    assert np.bincount(place[1].astype(int), minlength=9).min() > 50  # uniform over the other bins
    assert (age >= low).all()
    assert (age <= high).all()
    assert (sex != frame["sex"]).all()


def test_flip_mirrors_numbers_and_undoes_itself(frame):
    age, sex = drawn(frame, "flip")
    assert np.argmax(age) == np.argmin(frame["age"])
    assert np.array_equal(drawn(frame.assign(age=age), "flip")[0], frame["age"])
    assert (sex != frame["sex"]).all()


@pytest.mark.parametrize("sampler", ["mixed", "marginal", "permute", "bins", "flip"])
def test_a_draw_is_a_function_of_seed_and_row(frame, sampler):
    assert np.array_equal(drawn(frame, sampler)[1], drawn(frame, sampler)[1])
    assert not np.array_equal(drawn(frame, sampler)[1], drawn(frame, sampler, seed=1)[1])


def test_an_unknown_sampler_or_preset_lists_what_there_is(frame):
    with pytest.raises(ccf.DataError, match="there is no sampler 'random'"):
        drawn(frame, "random")
    batch = ccf.Batch(GRAPH, frame.assign(y=frame["age"] + np.arange(1000) / 100))
    scm = ccf.fit(ccf.SCM(GRAPH, {"y": ccf.LinearGaussian(), "age": ccf.Empirical(), "sex": ccf.Categorical()}), batch)
    with pytest.raises(ccf.DataError, match="there is no preset 'dcfg'"):
        ccf.audit(scm, batch, preset="dcfg")
    report = ccf.audit(scm, batch, preset="axiomatic-2022")
    assert report.settings["interventions"] == "marginal"
    assert {"reversibility.1", "reversibility.10"} <= set(report.scores["measure"])
    assert ccf.audit(scm, batch, preset="axiomatic-2022", cycles=(2,)).settings["cycles"] == [2]
    with pytest.raises(ccf.DataError, match="has no shards"):
        ccf.audit(scm, batch, preset="benchmark-2024", shard=(1, 2))
    assert set(PRESETS) == {"axiomatic-2022", "benchmark-2024", "dcfg-2025"}


def test_a_judge_left_in_training_mode_reads_otherwise_and_stays_as_it_was():
    node = ccf.Node("digit", "categorical", states=list("0123456789"))
    judge = NetworkJudge(node.to_dict(), (1, 32, 32)).eval()
    images = np.random.default_rng(0).integers(0, 256, (300, 1, 32, 32), dtype=np.uint8)
    before = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
    left = InTrainingMode(judge)
    assert (left(images) == left(images)).all()
    assert (left(images) != judge(images)).any()
    assert all((before[name] == tensor).all() for name, tensor in judge.state_dict().items())
    assert not judge.training


@pytest.mark.parametrize("sampler", ["mixed", "marginal", "permute", "bins", "flip"])
def test_what_is_drawn_from_a_column_with_holes_is_an_error(frame, sampler):
    for name, hole in (("age", np.nan), ("sex", None)):
        with pytest.raises(ccf.DataError, match=f"rows miss {name}: what is drawn depends on it"):
            drawn(frame.assign(**{name: [hole, *frame[name][1:]]}), sampler)
