"""Training is a function of (seed, step): resumed anywhere, it ends with the same bytes."""

import json

import numpy as np
import pytest
import torch

import causalcf as ccf
from causalcf.encoding import encode
from causalcf.image import Diffusion
from causalcf.seeds import step_generator
from causalcf.training import _ImageRun, _minibatches


@pytest.fixture(scope="module")
def rows():
    return ccf.recipe("morphomnist").batch("train", 64, 0, 1)


def small(rows, tmp_path=None, *, steps, seed=0):
    scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
    training = ccf.Training(steps=steps, batch_size=8, checkpoint_minutes=1e-9)
    return ccf.fit(scm, rows, seed=seed, training=training, checkpoints=tmp_path)


@pytest.fixture(scope="module", autouse=True)
def quick_attributes():
    import causalcf.training

    before = causalcf.training._ATTRIBUTE_STEPS
    causalcf.training._ATTRIBUTE_STEPS = 20
    yield
    causalcf.training._ATTRIBUTE_STEPS = before


def weights(scm):
    return {name: tensor.clone() for name, tensor in scm.mechanisms["image"].state_dict().items()}


def test_a_stopped_run_ends_with_the_same_bytes(rows, tmp_path, monkeypatch):
    whole = small(rows, steps=8)
    step = _ImageRun.train_step

    def interrupted(self, *arguments):
        if self.step == 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(_ImageRun, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(rows, tmp_path, steps=8)
    monkeypatch.undo()
    resumed = small(rows, tmp_path, steps=8)
    a, b = weights(whole), weights(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert resumed.manifest["made"]["images"]["image"]["steps"] == 8


def test_a_damaged_checkpoint_is_passed_over(rows, tmp_path):
    small(rows, tmp_path, steps=4)
    newest = sorted((tmp_path / "image").glob("step-*"))[-1]
    (newest / "state.safetensors").write_bytes(b"damaged")
    resumed = small(rows, tmp_path, steps=5)
    assert resumed.manifest["made"]["images"]["image"]["steps"] == 5


def test_another_seed_does_not_continue_a_run(rows, tmp_path):
    small(rows, tmp_path, steps=2)
    with pytest.raises(ccf.StoreError, match="was trained with seed 0, not 1"):
        small(rows, tmp_path, steps=3, seed=1)


def test_the_loss_falls(rows):
    values = encode(rows)
    parents = {name: values[name] for name in rows.graph.parents("image")}

    def loss(scm):
        with torch.no_grad():  # the same noise, times and masks for both
            return float(scm.mechanisms["image"].loss(values["image"], parents, generator=step_generator(0, "test", 0)).mean())

    assert loss(small(rows, steps=120)) < 0.8 * loss(small(rows, steps=1))


def test_a_fitted_model_survives_saving_in_half_precision(rows, tmp_path):
    scm = small(rows, steps=3)
    scm.save(tmp_path / "model")
    again = ccf.load(tmp_path / "model")
    for name, tensor in weights(scm).items():
        assert torch.allclose(tensor, weights(again)[name], rtol=1e-3, atol=1e-6), name
    record = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert record["made"]["seed"] == 0
    assert again.mechanisms["image"].steps == 5


def test_every_row_is_seen_once_a_pass():
    batches = _minibatches(12, 4, 0, "x")
    assert sorted(torch.cat([next(batches) for _ in range(3)]).tolist()) == list(range(12))


def test_unusual_rows_are_drawn_more_often():
    weights = torch.ones(10, dtype=torch.float64)
    weights[3] = 11.0
    batches = _minibatches(10, 10, 0, "x", weights)
    drawn = torch.cat([next(batches) for _ in range(400)])
    share = float((drawn == 3).double().mean())
    assert share == pytest.approx(0.55, abs=5 * (0.55 * 0.45 / 4000) ** 0.5)


def test_bad_plans_and_missing_images_are_errors(rows):
    with pytest.raises(ccf.DataError, match="steps=-1 makes no sense"):
        ccf.Training(steps=-1)
    with pytest.raises(ccf.DataError, match="no images for image"):
        ccf.fit(ccf.SCM(rows.graph), rows.without_images())


def test_judges_read_what_they_were_trained_on():
    batch = ccf.recipe("morphomnist").batch("judge", 600, 0, 1)
    judges = ccf.fit_judges(batch, rulers={"thickness": "thickness", "intensity": "intensity"}, epochs=12)
    right = judges["digit"](batch.images["image"]) == batch.frame["digit"].to_numpy()
    assert np.mean(right) > 0.5  # chance is 0.1
    assert not judges["digit"].training
