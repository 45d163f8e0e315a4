"""Training is a function of (seed, step): resumed anywhere, it ends with the same bytes."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import causalcf as ccf
from causalcf.encoding import encode
from causalcf.image import Diffusion
from causalcf.judges import judge_quality
from causalcf.precision import rounding
from causalcf.seeds import step_generator
from causalcf.trainer import _ImageRun, _Optimiser, minibatches, train_image


@pytest.fixture(scope="module")
def rows():
    return ccf.recipe("morphomnist").batch("train", 64, 0, 1)


def small(rows, tmp_path=None, *, steps, seed=0, watch=None, minutes=1e-9):
    scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
    training = ccf.Training(steps=steps, batch_size=8, checkpoint_minutes=minutes, precision="float32")
    return ccf.fit(scm, rows, seed=seed, training=training, checkpoints=tmp_path, watch=watch)


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


def test_a_run_that_is_stopped_while_it_is_watched_ends_with_the_same_bytes(rows, tmp_path):
    def stop(scm, step):
        if step == 3:  # the average is the weights themselves at first
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(rows, tmp_path, steps=4, watch=stop)  # while the model has the averaged weights
    whole, resumed = weights(small(rows, steps=4)), weights(small(rows, tmp_path, steps=4))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


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


def test_a_run_is_not_continued_on_other_rows(rows, tmp_path):
    small(rows, tmp_path, steps=2)
    other = rows.frame.assign(intensity=rows.frame["intensity"].to_numpy()[::-1])
    with pytest.raises(ccf.StoreError, match=r"was trained on other rows than these\. Use another --out"):
        small(ccf.Batch(rows.graph, other, rows.images), tmp_path, steps=3)
    with pytest.raises(ccf.StoreError, match="was trained on other rows"):
        small(ccf.Batch(rows.graph, rows.frame, {"image": 255 - rows.images["image"]}), tmp_path, steps=3)


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
    batches = minibatches(12, 4, 0, "x")
    assert sorted(torch.cat([next(batches) for _ in range(3)]).tolist()) == list(range(12))


def test_unusual_rows_are_drawn_more_often():
    weights = torch.ones(10, dtype=torch.float64)
    weights[3] = 11.0
    batches = minibatches(10, 10, 0, "x", weights)
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


SCRIPT = """
import sys
import causalcf as ccf
import causalcf.training
from causalcf.image import Diffusion
from causalcf.trainer import _Optimiser, is_main_process
causalcf.training._ATTRIBUTE_STEPS = 20
main = is_main_process()  # as the command line asks, before anything is trained
rows = ccf.recipe("morphomnist").batch("train", 64, 0, 1)
scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
plan = ccf.Training(steps=int(sys.argv[2]), batch_size=8, checkpoint_minutes=1e-9, precision="float32")
ccf.fit(scm, rows, training=plan, checkpoints=sys.argv[1] + ".checkpoints")
if main:
    scm.save(sys.argv[1])
"""


def test_a_judge_of_few_images_is_trained_long_enough_to_read():
    drawn = ccf.phantom("celebahq", read_at=16).batch(140)
    nodes = [ccf.Node("Young", "binary"), ccf.Node("image", "image", shape=(3, 16, 16), parents=["Young"])]
    rows = ccf.Batch(ccf.CausalGraph("faces", nodes), drawn.frame[["Young"]], drawn.images)
    judges = ccf.fit_judges(rows.rows(slice(0, 40)))
    assert judge_quality(judges, rows.rows(slice(40, 140)))["Young"]["accuracy"] > 0.85


def run(tmp_path, name, steps, *, launcher=(), wait=True):
    """The script above in a process of its own, one thread."""
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, *launcher, str(tmp_path / "script.py"), str(tmp_path / name), str(steps)]
    process = subprocess.Popen(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if wait:
        told = process.communicate(timeout=240)[0].decode()
        assert process.returncode == 0, told
    return process


def test_a_killed_process_is_resumed_to_the_same_bytes(tmp_path):
    """kill -9 in the middle; the rest in a new process."""
    steps = 60
    process = run(tmp_path, "killed", steps, wait=False)
    state = tmp_path / "killed.checkpoints" / "image"

    def reached():
        return max((int(path.name.removeprefix("step-")) for path in state.glob("step-*")), default=0)

    until = time.monotonic() + 120
    while reached() < 3 and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed").exists()
    assert 0 < reached() < steps
    run(tmp_path, "killed", steps)
    run(tmp_path, "whole", steps)
    a, b = (weights(ccf.load(tmp_path / name)) for name in ("killed", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_of_wide_layers_move_as_matrices_and_all_others_by_adam(layout):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(32, 16, 3)).to(
        memory_format=layout
    )
    parameters = list(module.parameters())
    before = [p.detach().clone() for p in parameters]
    optimiser = _Optimiser(module, parameters, 1e-3)
    module(torch.randn(16, 3, 8, 8)).square().mean().backward()
    optimiser.step(1e-3)
    first, first_bias, wide, bias = ((p.detach() - old) for p, old in zip(parameters, before, strict=True))
    for moved in (first, first_bias, bias):  # the first step of Adam is the learning rate, whatever the gradient
        torch.testing.assert_close(moved.abs(), torch.full_like(moved, 1e-3), rtol=1e-2, atol=0)
    spread = torch.linalg.svdvals(wide.flatten(1))
    assert spread.min() > 0.4 * spread.max()  # every direction is moved about as far as any other
    gradient = parameters[2].grad
    assert -(wide * gradient).sum() > 0.4 * wide.norm() * gradient.norm()  # down the gradient, each weight by its own
    assert 0.3e-3 < float(wide.square().mean().sqrt()) < 1.2e-3  # about three fifths of the learning rate


def test_a_run_is_not_gone_on_from_by_another_optimiser(rows, tmp_path):
    def fit(optimiser, steps):
        scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
        plan = ccf.Training(steps=steps, batch_size=8, precision="float32", optimiser=optimiser)
        return weights(ccf.fit(scm, rows, training=plan, checkpoints=tmp_path / optimiser))

    by_muon, by_adam = fit("muon", 2), fit("adamw", 2)
    assert not all(torch.equal(by_muon[name], by_adam[name]) for name in by_muon)
    (tmp_path / "adamw").rename(tmp_path / "other")
    (tmp_path / "muon").rename(tmp_path / "adamw")
    with pytest.raises(ccf.StoreError, match=r"was trained by muon, not adamw\. Use that optimiser or another --out"):
        fit("adamw", 3)


def test_a_run_that_is_stopped_amid_an_update_ends_with_the_same_bytes(rows, tmp_path, monkeypatch):
    whole, step = small(rows, steps=6), _Optimiser.step

    def interrupted(self, rate):
        step(self, rate)
        if float(self.adam.state[self.parameters[-1]]["step"]) == 4:
            raise KeyboardInterrupt  # the weights have moved, their average and the count of steps have not

    monkeypatch.setattr(_Optimiser, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(rows, tmp_path, steps=6, minutes=5)  # no checkpoint before: what is saved is what the stop saves
    monkeypatch.undo()
    a, b = weights(whole), weights(small(rows, tmp_path, steps=6))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_looking_that_takes_longer_than_its_interval_does_not_take_all_the_time(rows, monkeypatch, tmp_path):
    looks = []

    def slow(scm, step):
        looks.append(step)
        time.sleep(0.4)

    scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
    plan = ccf.Training(steps=40, batch_size=8, checkpoint_minutes=0.3 / 60, precision="float32")
    ccf.fit(scm, rows, training=plan, checkpoints=tmp_path, watch=slow)
    assert len(looks) < 20  # and not one for every step since the first


def test_a_run_is_not_gone_on_from_under_other_settings_or_in_another_precision(rows, tmp_path):
    def fit(steps, precision="float32", **settings):
        scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5, **settings)})
        ccf.fit(scm, rows, training=ccf.Training(steps=steps, batch_size=8, precision=precision), checkpoints=tmp_path)

    fit(2)
    with pytest.raises(ccf.StoreError, match=r"was trained as .*'prediction': 'v_prediction'.*, not .*'epsilon'"):
        fit(3, prediction="epsilon")
    with pytest.raises(ccf.StoreError, match="was trained in float32, not bfloat16"):
        fit(3, "bfloat16")
    fit(3, "auto")


def test_two_processes_train_what_one_does(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run(tmp_path, "two", 6, launcher=torchrun)
    run(tmp_path, "one", 6)
    assert ccf.load(tmp_path / "two").manifest["made"]["images"]["image"]["processes"] == 2

    def state(name, step):
        found = load_file(tmp_path / f"{name}.checkpoints" / "image" / f"step-{step:07d}" / "state.safetensors")
        return {key: tensor for key, tensor in found.items() if key.startswith("weight.")}

    one, two, before = state("one", 6), state("two", 6), state("one", 5)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-3  # what is promised
    flat = [torch.cat([found[name].flatten() for name in one]) for found in (one, two, before)]
    # and far less than one step of the six moves the weights; where a gradient is nothing but rounding, Adam still moves a weight
    assert (flat[0] - flat[1]).norm() < 0.1 * (flat[0] - flat[2]).norm()


def test_a_batch_in_parts_is_the_same_batch(rows):
    def trained(**settings):
        scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
        return weights(ccf.fit(scm, rows, training=ccf.Training(steps=4, batch_size=9, precision="float32", **settings)))

    whole, parts = trained(), trained(accumulate=4)
    # sums in another order, in float32, through four Adam steps of 1e-3 of which the first ones are 1e-5
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-4


class Looking(torch.nn.Module):
    """Trains nothing and keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def training_draws(self, value, generator):
        return {"none": torch.zeros(len(value))}

    def loss(self, value, parents, *, generator):
        self.seen.append(value)
        return value.flatten(1).mean(1) + self.weight

    def validation_losses(self, value, parents, *, generator):
        return {}


@pytest.mark.parametrize("mirror", [False, True])
def test_a_mirrored_batch_is_half_of_it_as_it_is_and_half_the_other_way_round(mirror):
    looking, pixels = Looking(), torch.randn(40, 1, 4, 4)
    train_image("x", looking, pixels, {}, plan=ccf.Training(steps=3, batch_size=40, mirror=mirror, precision="float32"), seed=0)
    turned = [sum(any(torch.equal(row, other.flip(-1)) for other in pixels) for row in shown) for shown in looking.seen[-3:]]
    as_it_is = [sum(any(torch.equal(row, other) for other in pixels) for row in shown) for shown in looking.seen[-3:]]
    assert [a + b for a, b in zip(turned, as_it_is, strict=True)] == [40] * 3
    assert turned == [0] * 3 if not mirror else all(8 < count < 32 for count in turned)


def test_half_precision_is_taken_where_it_is_asked_for_and_auto_decides(rows):
    def trained(precision):
        scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
        return ccf.fit(scm, rows, training=ccf.Training(steps=3, batch_size=8, precision=precision))

    half, auto, exact = trained("bfloat16"), trained("auto"), trained("float32")
    assert any(not torch.equal(tensor, weights(exact)[name]) for name, tensor in weights(half).items())
    assert half.manifest["made"]["images"]["image"]["precision"] == "bfloat16"
    assert auto.manifest["made"]["images"]["image"]["precision"] in ("float32", "bfloat16")
    assert all(tensor.dtype == torch.float32 for tensor in weights(half).values() if tensor.is_floating_point())
    assert all(torch.isfinite(tensor).all() for tensor in weights(half).values())


def test_rounded_products_lead_training_the_same_way(rows):
    values = encode(rows)
    parents = {name: values[name] for name in rows.graph.parents("image")}

    def slopes(precision):
        scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 32), steps=5)})
        mechanism, nodes = scm.mechanisms["image"], [rows.graph.node(name) for name in parents]
        mechanism.prepare(rows.graph.node("image"), nodes, values["image"], parents)
        with rounding(precision == "bfloat16"):
            mechanism.loss(values["image"], parents, generator=step_generator(0, "image", 0)).mean().backward()
        return torch.cat([tensor.grad.flatten() for tensor in mechanism.parameters() if tensor.grad is not None])

    exact, rounded = slopes("float32"), slopes("bfloat16")
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.999


def test_the_log_has_the_loss_under_every_mask_and_forgets_what_a_resumed_run_does_again(rows, tmp_path):
    seen = []
    scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
    plan = ccf.Training(steps=2, batch_size=8, precision="float32")
    log = tmp_path / "image" / "log.jsonl"
    log.parent.mkdir()
    log.write_text(json.dumps({"step": 7}) + "\n" + '{"step": 8, "lo')
    held_out = ccf.recipe("morphomnist").batch("valid", 8)
    ccf.fit(scm, rows, training=plan, checkpoints=tmp_path, validation=held_out, watch=lambda scm, step: seen.append(step))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2]
    masks = {"all", "none", *(f"{kind} {name}" for kind in ("only", "without") for name in ("thickness", "intensity", "digit"))}
    assert set(lines[-1]["validation"]) == masks
    assert seen == [2]
    assert scm.manifest["made"]["images"]["image"]["validation"] == lines[-1]["validation"]


def test_a_tracker_is_written_to_and_an_unknown_one_is_an_error(rows, tmp_path):
    def fit(trackers, checkpoints):
        scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
        plan = ccf.Training(steps=2, batch_size=8, precision="float32", trackers=trackers)
        ccf.fit(scm, rows, training=plan, checkpoints=checkpoints, validation=rows.rows(slice(0, 4)))

    fit(["tensorboard"], tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    with pytest.raises(ccf.DataError, match="no tracker papyrus"):
        fit(["papyrus"], tmp_path)
    with pytest.raises(ccf.DataError, match="checkpoints"):
        fit(["tensorboard"], None)


def test_what_cannot_be_trained_as_asked_is_an_error(rows):
    with pytest.raises(ccf.DataError, match=r"no optimiser 'sgd'\. Give muon, adamw"):
        ccf.Training(optimiser="sgd")
    with pytest.raises(ccf.DataError, match="no precision 'half'"):
        ccf.Training(precision="half")
    scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
    with pytest.raises(ccf.DataError, match="a batch of 3 images cannot be divided"):
        ccf.fit(scm, rows, training=ccf.Training(steps=1, batch_size=3, accumulate=4))
    with pytest.raises(ccf.DataError, match="the validation batch has no images"):
        ccf.fit(scm, rows, training=ccf.Training(steps=1, batch_size=3), validation=rows.without_images())
