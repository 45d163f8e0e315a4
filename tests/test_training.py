"""Training is a function of (seed, step): resumed anywhere, it ends with the same bytes."""

import itertools
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import causalcf as ccf
from causalcf.encoding import encode
from causalcf.image import Diffusion
from causalcf.judges import judge_quality
from causalcf.precision import _rounded, rounding
from causalcf.seeds import step_generator
from causalcf.trainer import _MUCH_FASTER, _ImageRun, _Optimiser, minibatches, train_image


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


def prepared(rows, **settings):
    """A mechanism before its first step, as `fit` has it, and the rows in model space with their parents."""
    values = encode(rows)
    parents = {name: values[name] for name in rows.graph.parents("image")}
    mechanism = Diffusion(channels=(16, 16), steps=5, **settings)
    mechanism.prepare(rows.graph.node("image"), [rows.graph.node(name) for name in parents], values["image"], parents)
    return mechanism, values["image"], parents


def state(directory, step):
    """What a checkpoint keeps: weights, their average and the optimiser's memory, in float32."""
    return load_file(directory / f"step-{step:07d}" / "state.safetensors")


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
    assert resumed.manifest["made"]["images"]["image"]["loss"] == whole.manifest["made"]["images"]["image"]["loss"]


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
    kept = tmp_path / "killed.checkpoints" / "image"

    def reached():
        return max((int(path.name.removeprefix("step-")) for path in kept.glob("step-*")), default=0)

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
    # and not only as models are saved, in half precision
    a, b = (state(tmp_path / f"{name}.checkpoints" / "image", steps) for name in ("killed", "whole"))
    assert {key.partition(".")[0] for key in a} == {"weight", "ema", "optimiser"}
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].dtype != torch.float32 or not torch.equal(a[name], b[name])] == []


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
    with pytest.raises(ccf.StoreError, match=r"was trained with optimiser=muon, not adamw\. Use that, or another --out"):
        fit("adamw", 3)


def test_a_run_is_not_gone_on_from_under_another_plan(rows, tmp_path):
    small(rows, tmp_path, steps=1)
    for setting, value in {"batch_size": 4, "mirror": True}.items():
        plan = ccf.Training(**{"steps": 2, "batch_size": 8, "precision": "float32", setting: value})
        scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
        with pytest.raises(ccf.StoreError, match=rf"was trained with {setting}=\S+, not {value}\. Use that, or another --out"):
            ccf.fit(scm, rows, training=plan, checkpoints=tmp_path)


def test_a_run_is_not_gone_on_from_in_other_latents(rows, tmp_path):
    first, second = (ccf.Autoencoder(channels=(16, 16)) for _ in range(2))
    with torch.no_grad():
        second.network.encoder.conv_in.weight += 0.1
    plan = ccf.Training(steps=1, batch_size=8, precision="float32")

    def fit(autoencoder):
        scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), patch=1, steps=5, autoencoder=autoencoder)})
        return ccf.fit(scm, rows, training=plan, checkpoints=tmp_path)

    fit(first)
    fit(first)
    for other in (second, None):
        with pytest.raises(ccf.StoreError, match=r"was trained as \{.*'autoencoder': '[0-9a-f]{16}'"):
            fit(other)


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

    def moved(name, step):
        found = state(tmp_path / f"{name}.checkpoints" / "image", step)
        return {key: tensor for key, tensor in found.items() if key.startswith("weight.")}

    one, two, before = moved("one", 6), moved("two", 6), moved("one", 5)
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
    before = prepared(rows)[0].state_dict()
    flat = [torch.cat([found[name].flatten() for name in whole]) for found in (whole, parts, before)]
    # and far less than the four steps move the weights; where a gradient is nothing but rounding, Adam still moves a weight.
    # Parts of 3, 2, 2 and 2 rows that counted alike would be .18 apart
    assert (flat[0] - flat[1]).norm() < 0.05 * (flat[0] - flat[2]).norm()


def test_every_set_of_hidden_parents_is_as_frequent_as_promised(rows):
    drawn, count = {}, 4000
    for hide_all, hide_one in ((0.1, 0.1), (0.2, 0.3), (0.3, 0.0), (0.0, 0.3)):
        mechanism, _, parents = prepared(rows.rows(slice(0, 8)), hide_all=hide_all, hide_one=hide_one)
        shown = mechanism.training_draws(torch.zeros(count), step_generator(0, "test", 0))["shown"]
        assert shown.shape == (count, len(parents))
        drawn[hide_all, hide_one] = shown
        for hidden in itertools.product([False, True], repeat=len(parents)):
            some = sum(hidden)
            share = (1 - hide_all) * hide_one**some * (1 - hide_one) ** (len(hidden) - some) + hide_all * all(hidden)
            found = float((~shown == torch.tensor(hidden)).all(dim=1).double().mean())
            assert found == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5), (hide_all, hide_one, hidden)
    papers = drawn[0.3, 0.0].sum(dim=1)
    assert set(papers.tolist()) == {0, 3}  # all or nothing


def test_the_null_token_of_a_hidden_parent_is_learned_and_that_of_a_shown_one_has_no_say(rows, tmp_path):
    mechanism, value, parents = prepared(rows.rows(slice(0, 8)))
    tokens = mechanism.denoiser.null_tokens
    hidden = torch.zeros(8, len(parents), dtype=torch.bool)
    hidden[2:, 1] = True
    drawn = {**mechanism.training_draws(value, step_generator(0, "test", 0)), "shown": ~hidden}
    before = mechanism.loss(value, parents, generator=drawn)
    before.mean().backward()
    slopes = [0.0 if token.grad is None else float(token.grad.norm()) for token in tokens]
    assert slopes[1] > 0
    assert slopes[0] == slopes[2] == 0
    with torch.no_grad():
        tokens[1].add_(1.0)
        after = mechanism.loss(value, parents, generator=drawn)
    assert torch.equal(after[:2], before[:2])
    assert (after[2:] != before[2:]).all()

    mechanism, value, parents = prepared(rows, hide_one=0.5)
    assert not any(token.any() for token in mechanism.denoiser.null_tokens)
    plan = ccf.Training(steps=3, batch_size=8, precision="float32")
    train_image("image", mechanism, value, parents, plan=plan, seed=0, checkpoints=tmp_path)
    assert all(token.all() for token in mechanism.denoiser.null_tokens)
    kept, last = list(mechanism.parameters()), state(tmp_path, 3)  # and as of all weights, what is kept is the average
    assert all(torch.equal(weight, last[f"ema.{place}"]) for place, weight in enumerate(kept))
    assert not any(torch.equal(weight, last[f"weight.{place}"]) for place, weight in enumerate(kept))


class Looking(torch.nn.Module):
    """Trains one weight, down a slope of 1, and keeps what it is shown."""

    training_settings: ClassVar[dict] = {}

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def training_draws(self, value, generator):
        return {"none": torch.zeros(len(value))}

    def loss(self, value, parents, *, generator):
        self.seen.append(value)
        return value.flatten(1).mean(1) + self.weight

    def validation_losses(self, value, parents, *, generator):
        return {"none": self.weight.detach().expand(len(value))}


@pytest.mark.parametrize("decay", [0.999, 0.4])
def test_what_is_kept_and_looked_at_is_the_average_of_the_weights_along_the_way(decay, tmp_path):
    looking, pixels, seen, steps, highest = Looking(), torch.zeros(8, 1, 4, 4), {}, 6, 0.1
    plan = ccf.Training(
        steps=steps, batch_size=8, learning_rate=highest, checkpoint_minutes=1e-9, precision="float32", ema_decay=decay
    )

    def watch(step):
        seen[step] = looking.weight.item()

    told = train_image("x", looking, pixels, {}, plan=plan, seed=0, held_out=(pixels, {}), watch=watch, checkpoints=tmp_path)
    # where a slope does not change, Adam's step is the learning rate: a hundredth of it more every step, half a run of decay
    rates = [highest * (step + 1) / 100 * min(1, 2 * (1 - step / steps)) for step in range(steps)]
    path, average, averages = -np.cumsum(rates), 0.0, []
    for step, weight in enumerate(path, 1):  # diffusers' EMAModel with warm-up to a power of .75
        average += max(step**-0.75, 1 - decay) * (weight - average)
        averages.append(average)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert looking.weight.item() == pytest.approx(average, rel=1e-5)
    assert [seen[step] for step in range(1, steps + 1)] == pytest.approx(averages, rel=1e-5)
    assert told["validation"]["none"] == pytest.approx(average, abs=1e-6)
    assert {line["step"]: line["validation"]["none"] for line in lines} == pytest.approx(dict(enumerate(averages, 1)), abs=1e-6)
    assert {line["step"]: line["rate"] for line in lines} == pytest.approx(dict(enumerate(rates, 1)))
    assert state(tmp_path, steps)["weight.0"].item() == pytest.approx(path[-1], rel=1e-5)  # training itself goes on from these
    assert abs(average - path[-1]) > 0.1 * abs(path[-1])


class Paced(Looking):
    """Takes so many seconds for one loss after another, in float32 and in bfloat16, by a clock of its own."""

    def __init__(self, exact, rounded):
        super().__init__()
        self.now, self.seconds = 0.0, {False: iter(exact), True: iter(rounded)}

    def loss(self, value, parents, *, generator):
        self.now += next(self.seconds[_rounded.get()], 1.0)
        return super().loss(value, parents, generator=generator)


@pytest.mark.parametrize(
    ("gain", "first", "taken"), [(_MUCH_FASTER + 0.01, (0.1, 9.0), "bfloat16"), (_MUCH_FASTER - 0.01, (9.0, 0.1), "float32")]
)
def test_auto_takes_half_precision_where_the_faster_of_two_passes_is_much_faster(gain, first, taken, monkeypatch):
    paced = Paced([first[0], gain, 7.0], [first[1], 5.0, 1.0])  # the first pass warms up and does not count
    monkeypatch.setattr("causalcf.trainer.time", SimpleNamespace(perf_counter=lambda: paced.now, monotonic=time.monotonic))
    plan = ccf.Training(steps=1, batch_size=8, precision="auto")
    assert train_image("x", paced, torch.zeros(8, 1, 4, 4), {}, plan=plan, seed=0)["precision"] == taken


def test_a_run_with_checkpoints_ends_with_a_line_of_the_log_that_has_loss_and_rate(tmp_path, monkeypatch):
    monkeypatch.setattr("causalcf.trainer._LOG_STEPS", 2)

    def lines(steps):
        plan = ccf.Training(steps=steps, batch_size=8, precision="float32")
        train_image("x", Looking(), torch.zeros(8, 1, 4, 4), {}, plan=plan, seed=0, checkpoints=tmp_path / str(steps))
        return [json.loads(line) for line in (tmp_path / str(steps) / "log.jsonl").read_text().splitlines()]

    for steps, told in ((1, [1]), (4, [2, 4]), (5, [2, 4, 5])):
        found = lines(steps)
        assert [line["step"] for line in found] == told
        assert all(set(line) == {"step", "seconds", "loss", "rate"} for line in found)
        assert all(np.isfinite(line["loss"]) and 0 < line["rate"] < 1e-3 for line in found)
        assert lines(steps) == found  # nothing is left to train


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
    taken = auto.manifest["made"]["images"]["image"]["precision"]
    assert taken in ("float32", "bfloat16")
    asked = weights({"float32": exact, "bfloat16": half}[taken])  # to have measured changes nothing
    assert all(torch.equal(tensor, asked[name]) for name, tensor in weights(auto).items())
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
    assert lines[-1]["loss"] == pytest.approx(scm.manifest["made"]["images"]["image"]["loss"], abs=1e-5)  # of fewer decimals
    assert lines[-1]["rate"] == pytest.approx(2e-5)  # the second of a hundred steps up to 1e-3
    assert seen == [2]
    assert scm.manifest["made"]["images"]["image"]["validation"] == lines[-1]["validation"]


def test_a_tracker_is_written_to_and_an_unknown_one_is_an_error(rows, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def fit(trackers, checkpoints):
        scm = ccf.SCM(rows.graph, {"image": Diffusion(channels=(16, 16), steps=5)})
        plan = ccf.Training(steps=2, batch_size=8, precision="float32", trackers=trackers)
        ccf.fit(scm, rows, training=plan, checkpoints=checkpoints, validation=rows.rows(slice(0, 4)))

    fit(["tensorboard"], tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    told = EventAccumulator(str(tmp_path / "image" / "causalcf-image")).Reload()
    line = json.loads((tmp_path / "image" / "log.jsonl").read_text().splitlines()[-1])
    for name, value in {"loss": line["loss"], "rate": line["rate"], "validation/all": line["validation"]["all"]}.items():
        assert [(event.step, event.value) for event in told.Scalars(name)] == [(2, pytest.approx(value, rel=1e-6))]
    with pytest.raises(ccf.DataError, match=r"no tracker papyrus.* is written wherever there are checkpoints\."):
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
