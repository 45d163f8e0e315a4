"""Where torch reaches a GPU, networks of images run on it; answers are those of the CPU, and a row's in any company."""

import numpy as np
import pytest
import torch
from conftest import grey_levels

import causalcf as ccf
from causalcf.image import Diffusion
from causalcf.precision import fastest_device

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DO = {"thickness": 4.0}


def network(scm):
    return scm.mechanisms["image"].denoiser


def small():
    return ccf.SCM(ccf.load_graph("morphomnist"), {"image": Diffusion(channels=(16, 16), steps=5)})


@pytest.fixture(scope="module")
def rows():
    return ccf.recipe("morphomnist").batch("test", 40)


def test_networks_run_where_they_are_fast_and_their_answers_are_those_of_the_cpu(shipped, rows, monkeypatch):
    exact = shipped.configured(precision="float32")
    there = ccf.counterfactual(exact, rows, DO).images["image"]
    assert next(network(exact).parameters()).device.type == fastest_device().type == "cuda"
    monkeypatch.setattr("causalcf.image.fastest_device", lambda: torch.device("cpu"))
    here = ccf.counterfactual(exact, rows, DO).images["image"]
    assert next(network(exact).parameters()).device.type == "cpu"
    assert grey_levels(there, here) < 0.02


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_answer_does_not_depend_on_the_company_there(shipped, rows, precision):
    scm = shipped.configured(precision=precision)
    together = ccf.counterfactual(scm, rows, DO).images["image"]
    for some in (slice(0, 1), slice(3, 20), slice(17, 40)):
        np.testing.assert_array_equal(ccf.counterfactual(scm, rows.rows(some), DO).images["image"], together[some])


def test_training_there_goes_on_bit_for_bit_whether_or_not_it_is_looked_at(rows, tmp_path):
    plan = ccf.Training(steps=6, batch_size=8, precision="float32")
    whole = ccf.fit(small(), rows, training=plan)

    def stop(scm, step):
        ccf.counterfactual(scm, rows.rows(slice(0, 2)), DO)
        if step == 3:
            raise KeyboardInterrupt

    often = ccf.Training(steps=6, batch_size=8, precision="float32", checkpoint_minutes=0)
    with pytest.raises(KeyboardInterrupt):
        ccf.fit(small(), rows, training=often, checkpoints=tmp_path, validation=rows, watch=stop)
    resumed = ccf.fit(small(), rows, training=often, checkpoints=tmp_path, validation=rows)
    for name, tensor in network(whole).state_dict().items():
        np.testing.assert_array_equal(network(resumed).state_dict()[name].cpu(), tensor.cpu(), err_msg=name)


def test_a_model_that_answered_there_is_saved_as_any_other(shipped, rows, tmp_path):
    answer = ccf.counterfactual(shipped, rows, DO).images["image"]
    shipped.save(tmp_path / "model")
    again = ccf.load(tmp_path / "model")
    assert next(network(again).parameters()).device.type == "cpu"
    np.testing.assert_array_equal(ccf.counterfactual(again, rows, DO).images["image"], answer)


def test_a_judge_that_was_fitted_there_reads_the_same_here(rows, tmp_path, monkeypatch):
    judge = ccf.fit_judges(rows, rulers={"thickness": "thickness", "intensity": "intensity"}, epochs=1)["digit"]
    there = judge.scores(rows.images["image"])
    assert next(judge.parameters()).device.type == "cuda"
    (tmp_path / "judge").mkdir()
    judge.float().save(tmp_path / "judge")
    monkeypatch.setattr("causalcf.judges.fastest_device", lambda: torch.device("cpu"))
    np.testing.assert_allclose(judge.scores(rows.images["image"]), there, atol=1e-4)
    read = type(judge).load(tmp_path / "judge")(rows.images["image"])
    assert np.mean(read == judge(rows.images["image"])) >= 0.95
