"""The diffusion mechanism, with the shipped model on real held-out digits."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from conftest import grey_levels

import causalcf as ccf
from causalcf import query
from causalcf.encoding import encode
from causalcf.guidance import Noisy
from causalcf.image import Diffusion
from causalcf.levels import noise_from_output
from causalcf.precision import rounding
from causalcf.seeds import RowGenerator, row_keys


def counted(mechanism: Diffusion):
    """Rows that went through the network."""
    rows = []
    handle = mechanism.denoiser.unet.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    return rows, handle


def padded(rows: int) -> int:
    """Rows that go through the network for so many that are asked: passes are filled up to sixteens."""
    return -(-rows // 16) * 16


@pytest.fixture(scope="module")
def quick(shipped, digits) -> ccf.Abduction:
    """Two digits, abducted by three DDIM steps."""
    return ccf.abduct(shipped.configured(steps=3, solver=ccf.DDIM(), precision="float32"), digits.rows([0, 1]))


@pytest.fixture(scope="module")
def quick_alone(quick) -> list[ccf.Abduction]:
    """Each of them by itself."""
    return [ccf.abduct(quick.scm, quick.factual.rows([row])) for row in (0, 1)]


def evaluations(answer) -> list[int]:
    return answer.diagnostics["image.prediction_evaluations"].tolist()


def test_predict_undoes_abduct(abducted, digits):
    again = ccf.reconstruct(abducted)
    # the bound that the first release promises on 1,000 digits is 0.8 grey levels
    assert grey_levels(again.images["image"], digits.images["image"]) < 0.8
    assert np.allclose(again.frame["thickness"], digits.frame["thickness"], atol=1e-10)
    assert (again.frame["digit"].astype(str) == digits.frame["digit"]).all()


def flat(digits):
    image = torch.from_numpy(digits.images["image"]).float()
    return torch.nn.functional.max_pool2d(image, 3, 1, 1) == 0


SHARE = "the shipped model draws .2 of the noise that black hides, which keeps more of the hand: in all it is about .53"


@pytest.mark.parametrize("solver", [None, ccf.DPMSolverPP(), ccf.FixedPoint()], ids=["shipped", "second order", "fixed point"])
def test_an_abduction_says_what_share_of_the_noise_was_drawn(shipped, digits, solver):
    abducted = ccf.abduct(shipped.configured(solver=solver), digits)
    assert np.allclose(abducted.diagnostics["image.drawn"], flat(digits).float().mean((1, 2, 3)))


@pytest.mark.parametrize(
    "solver",
    [pytest.param(None, marks=pytest.mark.xfail(strict=True, reason=SHARE)), ccf.DPMSolverPP(), ccf.FixedPoint()],
    ids=["shipped", "second order", "fixed point"],
)
def test_abducted_noise_is_of_unit_size(shipped, digits, solver):
    abducted = ccf.abduct(shipped.configured(solver=solver), digits)
    assert float(abducted.noise["image"].std()) == pytest.approx(1.0, abs=0.15)


LOW = "a second-order step does not inflate the noise as Euler's does: at the shipped model's levels it is about .65"


@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        (ccf.FixedPoint(draw_flat=0.0), 30),
        pytest.param(ccf.DPMSolverPP(draw_flat=0.0), 15, marks=pytest.mark.xfail(strict=True, reason=LOW)),
        pytest.param(None, None, marks=pytest.mark.xfail(strict=True, reason="a part is drawn, the rest as above")),
    ],
    ids=["fixed point", "second order", "as shipped"],
)
def test_abducted_noise_is_of_unit_size_where_the_image_varies(shipped, digits, solver, steps):
    noise = ccf.abduct(shipped.configured(solver=solver, steps=steps), digits).noise["image"]
    image = torch.from_numpy(digits.images["image"]).float()
    close = torch.nn.functional.max_pool2d(image, 5, 1, 2) > 0
    assert float(noise[~close].std()) < 1
    assert float(noise[close & (image == 0)].std()) == pytest.approx(1.0, abs=0.15)


def test_black_amid_black_does_not_tell_its_noise_so_that_it_is_drawn(shipped, digits):
    full = shipped.configured(solver=ccf.DPMSolverPP())
    inverted = ccf.abduct(shipped.configured(solver=ccf.DPMSolverPP(draw_flat=0.0)), digits)
    one, other = (ccf.abduct(full, digits, seed=seed) for seed in (0, 1))
    assert not inverted.diagnostics["image.drawn"].any()
    assert float(inverted.noise["image"][flat(digits)].std()) < 0.5  # what solving for it leaves
    apart = (other.noise["image"] - one.noise["image"])[flat(digits)]
    assert float(apart.std()) == pytest.approx(2**0.5, abs=0.2)  # two draws that have nothing to do with each other
    for abducted in (inverted, one, other):  # any of them explains the image
        assert grey_levels(ccf.reconstruct(abducted).images["image"], digits.images["image"]) < 0.8


def test_an_answer_that_rests_on_drawn_noise_is_not_identified(shipped, abducted, digits):
    do, plain = {"digit": "3"}, ccf.Plain()
    answer = ccf.counterfactual(shipped, abducted, do, guidance=plain)
    assert list(answer.why_not) == ["image"]
    assert answer.identified.equals(answer.frame["digit"] == digits.frame["digit"])  # a row that stays what it was is identified
    inverted = ccf.counterfactual(shipped, digits, do, guidance=plain, solver=ccf.DPMSolverPP(draw_flat=0.0))
    assert inverted.identified.all()
    photographs = ccf.Batch(digits.graph, digits.frame, {"image": digits.images["image"].clip(1, 254)})
    assert ccf.counterfactual(shipped, photographs, do, guidance=plain).identified.all()  # no pixel is at an end of the scale


def test_null_intervention_is_bit_for_bit(shipped, abducted, digits):
    answer = ccf.counterfactual(shipped, abducted, {})
    assert answer.frame.equals(digits.frame)
    assert np.array_equal(answer.images["image"], digits.images["image"])
    assert not answer.changed


def test_thickness_moves_its_descendant_and_spares_the_digit(shipped, abducted, digits):
    answer = ccf.counterfactual(shipped, abducted, {"thickness": 4.5})
    assert answer.changed == {"thickness", "intensity", "image"}
    assert answer.frame["digit"].equals(digits.frame["digit"])
    assert (answer.frame["intensity"] > 230).all()  # by the known equation it is above 240 at 4.5 pixels
    found = shipped.judges["thickness"](answer.images["image"])
    assert np.abs(found - 4.5).mean() < np.abs(found - digits.frame["thickness"]).mean()


def test_intensity_leaves_its_cause_bit_for_bit(shipped, abducted, digits):
    answer = ccf.counterfactual(shipped, abducted, {"intensity": 200.0}, guidance=ccf.Plain())
    assert answer.frame["thickness"].equals(digits.frame["thickness"])
    assert answer.changed == {"intensity", "image"}


AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512" and not torch.cpu.get_capabilities().get("amx_bf16")


def alike(one: np.ndarray, other: np.ndarray, *, within: float) -> bool:
    """Bit for bit with the kernels of AVX-512; those of another machine may sum in an order that depends on the batch."""
    return np.array_equal(one, other) if AVX512 else grey_levels(one, other) < within


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_is_answered_alike_alone_and_in_any_order(shipped, digits, precision):
    scm, do = shipped.configured(precision=precision), {"digit": "3"}
    together = ccf.counterfactual(scm, digits, do)
    for rows in ([4], [5, 4, 1]):
        some = ccf.counterfactual(scm, digits.rows(rows), do)
        assert alike(together.images["image"][rows], some.images["image"], within=0.4)
        assert together.frame.iloc[rows].equals(some.frame)


@pytest.mark.parametrize(
    ("guidance", "passes"),
    [
        (ccf.Plain(), 1),
        (ccf.ClassifierFree(2.0), 2),
        (ccf.Decoupled(2.0, form="paper"), 3),
        (ccf.Decoupled(2.0, form="anchored"), 3),
        (ccf.Decoupled(2.0, form="nested"), 2),
        (ccf.Decoupled(1.0, form="anchored"), 1),
        (ccf.Decoupled(1.0, form="nested"), 1),
    ],
)
def test_every_rule_takes_the_passes_it_plans_in_one_call_a_level(shipped, abducted, guidance, passes):
    mechanism = shipped.mechanisms["image"]
    rows, handle = counted(mechanism)
    try:
        answer = ccf.counterfactual(shipped, abducted, {"digit": "3"}, guidance=guidance)
    finally:
        handle.remove()
    assert rows == [padded(6 * passes)] * mechanism.steps
    assert evaluations(answer) == [passes * mechanism.steps] * 6


@pytest.mark.parametrize("form", ["paper", "anchored", "nested"])
def test_the_batched_pass_equals_one_pass_a_mask(shipped, abducted, form):
    mechanism = shipped.mechanisms["image"].configured(
        guidance=ccf.Decoupled(2.5, form=form), solver=ccf.FixedPoint(), steps=25, precision="float32"
    )
    values = encode(abducted.factual)
    parents = {name: values[name] for name in mechanism.denoiser.names}
    changed = frozenset({"digit"})
    batched = mechanism.predict(abducted.noise["image"], parents, changed=changed)
    image, levels = abducted.noise["image"], mechanism.levels
    with torch.inference_mode():
        for level in range(len(levels), 0, -1):
            timestep = levels.timesteps[level - 1]
            output = torch.zeros_like(image)
            for shown, weight in mechanism.guidance.terms(mechanism.denoiser.names, changed, timestep).items():
                mask = torch.tensor([[name in shown for name in mechanism.denoiser.names]]).expand(6, -1)
                output = output + weight * mechanism.denoiser(image, torch.full((6,), timestep), parents, mask)
            eps = noise_from_output(image, output, levels.alphas[level], levels.sigmas[level], "v_prediction")
            scaled = image / levels.alphas[level] - levels.gap(level) * eps
            image = scaled * levels.alphas[level - 1]
    assert torch.allclose(batched, image.clamp(-1, 1), atol=2e-3)  # float32, 25 levels


def test_a_weight_a_row_is_as_each_row_alone_and_neutral_rows_take_one_pass(shipped, abducted):
    weights = [1.0, 3.0, 1.0, 2.0, 1.0, 1.0]
    mechanism = shipped.mechanisms["image"]
    rows, handle = counted(mechanism)
    try:
        together = ccf.counterfactual(shipped, abducted, {"digit": "3"}, guidance=ccf.Decoupled(weights, form="nested"))
    finally:
        handle.remove()
    assert rows == [padded(6 + 2)] * mechanism.steps
    assert evaluations(together) == [(1 if weight == 1 else 2) * mechanism.steps for weight in weights]
    for weight in (1.0, 2.0, 3.0):
        alone = ccf.counterfactual(shipped, abducted, {"digit": "3"}, guidance=ccf.Decoupled(weight, form="nested"))
        some = [row for row, own in enumerate(weights) if own == weight]
        assert alike(together.images["image"][some], alone.images["image"][some], within=0.1)


def test_a_guidance_interval_takes_one_pass_outside(shipped, abducted):
    mechanism = shipped.mechanisms["image"]
    rows, handle = counted(mechanism)
    try:
        rule = ccf.Scheduled(ccf.Decoupled(2.0, form="nested"), interval=(200, 600))
        answer = ccf.counterfactual(shipped, abducted, {"digit": "3"}, guidance=rule)
    finally:
        handle.remove()
    assert rows == [padded(6 * (2 if 200 <= t <= 600 else 1)) for t in reversed(mechanism.levels.timesteps)]
    assert evaluations(answer) == [sum(2 if 200 <= t <= 600 else 1 for t in mechanism.levels.timesteps)] * 6


@pytest.mark.parametrize("adjusted", [ccf.Projected, ccf.Rescaled, ccf.PlusPlus])
def test_an_adjusted_rule_moves_the_image_and_not_without_a_question(shipped, digits, adjusted):
    shipped = shipped.configured(solver=ccf.FixedPoint())  # CFG++ is defined for its steps
    abducted = ccf.abduct(shipped, digits)
    rule = adjusted(ccf.Decoupled(1.5, form="nested"))
    plain = ccf.counterfactual(shipped, abducted, {"digit": "3"}, guidance=ccf.Plain())
    guided = ccf.counterfactual(shipped, abducted, {"digit": "3"}, guidance=rule)
    neutral = ccf.counterfactual(shipped, abducted, {"digit": "3"}, guidance=adjusted(ccf.Decoupled(1.0, form="nested")))
    assert 0.1 < grey_levels(guided.images["image"], plain.images["image"]) < 40
    assert grey_levels(neutral.images["image"], plain.images["image"]) < 0.1


BOTH = {"intensity": 200.0, "digit": "3"}  # one group of affected parents
TWO = {"intensity": 2.0, "digit": 1.5}  # with weights by name two; thickness is invariant


@pytest.mark.parametrize(
    ("rule", "masks"),
    [
        (ccf.Projected(ccf.Decoupled(1.0, form="nested")), [1, 1, 1]),
        (ccf.Projected(ccf.Decoupled(2.0, form="nested")), [2, 2, 2]),
        (ccf.Projected(ccf.Decoupled(2.0)), [3, 3, 3]),
        (ccf.Projected(ccf.Decoupled(1.0, form="nested", weights=TWO)), [3, 3, 3]),
        (ccf.Rescaled(ccf.Decoupled(1.0, weights=TWO)), [4, 4, 4]),
        (ccf.PlusPlus(ccf.Decoupled([1.0, 1.1], form="nested")), [2, 2, 2]),  # both masks for all rows, as of any adjusted rule
        (ccf.Projected(ccf.Scheduled(ccf.Decoupled(2.0, form="nested"), interval=(0, 500))), [1, 2, 2]),
    ],
)
def test_an_adjusted_rule_evaluates_each_of_its_masks_once_a_level_and_counts_them(quick, rule, masks):
    network, seen = quick.scm.mechanisms["image"].denoiser, []
    handle = network.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[3].unique(dim=0))))
    try:
        answer = ccf.counterfactual(quick.scm, quick, BOTH, guidance=rule)
    finally:
        handle.remove()
    assert seen == masks
    assert evaluations(answer) == [sum(masks)] * 2


@pytest.mark.parametrize("adjusted", [ccf.Projected, ccf.Rescaled, ccf.PlusPlus])
def test_an_adjusted_rule_of_two_groups_in_one_pass_equals_one_pass_a_mask(quick, adjusted):
    """The image of a loop that asks for every masked prediction by itself and adds what each group gives on its own."""
    mechanism = quick.scm.mechanisms["image"].configured(guidance=adjusted(ccf.Decoupled(1.0, form="nested", weights=TWO)))
    names, levels, memories = mechanism.denoiser.names, mechanism.levels, [{}, {}]
    values = encode(quick.factual)
    parents = {name: values[name] for name in names}
    parents |= {"intensity": values["intensity"] - 40, "digit": (values["digit"] + 3) % 10}
    changed, everything = frozenset(BOTH), frozenset(names)
    batched = mechanism.predict(quick.noise["image"], parents, changed=changed)
    image = quick.noise["image"]

    def seen(shown, timestep):
        mask = torch.tensor([[name in shown for name in names]]).expand(2, -1)
        return mechanism._noise_in(image, timestep, mechanism.denoiser(image, torch.full((2,), timestep), parents, mask))

    with torch.inference_mode():
        for level in range(len(levels), 0, -1):
            timestep, alpha, sigma = levels.timesteps[level - 1], levels.alphas[level], levels.sigmas[level]
            place = Noisy(image, alpha, sigma, levels.sigmas[level - 1] / levels.alphas[level - 1])
            neutral = seen(everything, timestep)
            eps = neutral
            for memory, (name, weight) in zip(memories, TWO.items(), strict=True):
                difference = neutral - seen(everything - {name}, timestep)
                eps = eps + mechanism.guidance.contribution(neutral, difference, weight - 1, place, memory, name)
            image = levels.alphas[level - 1] * (image / alpha - levels.gap(level) * eps)
    assert torch.allclose(batched, image.clamp(-1, 1), atol=2e-3)  # float32, batches of other sizes
    with torch.inference_mode():
        plain = mechanism.configured(guidance=ccf.Plain()).predict(quick.noise["image"], parents, changed=changed)
    assert float((batched - plain).abs().mean()) > 2e-3  # it is guided at all


@pytest.mark.parametrize(
    "on_top",
    [ccf.Projected, ccf.Rescaled, ccf.PlusPlus, partial(ccf.Scheduled, interval=(0, 500))],
    ids=["projected", "rescaled", "cfg++", "scheduled"],
)
def test_a_rule_on_a_rule_answers_a_row_by_its_own_weight_as_alone(quick, quick_alone, on_top):
    """By a weight a row, and by one weight for all."""

    def answer(abducted, weight):
        rule = on_top(ccf.Decoupled(weight, form="nested"))
        return ccf.counterfactual(quick.scm, abducted, BOTH, guidance=rule).images["image"]

    by_row, by_one = answer(quick, [1.0, 1.5]), answer(quick, 1.5)
    assert not np.array_equal(by_row[0], by_one[0])
    for row, weight, together in ((0, 1.0, by_row), (0, 1.5, by_one), (1, 1.5, by_row), (1, 1.5, by_one)):
        assert alike(together[[row]], answer(quick_alone[row], weight), within=0.1)


def test_a_schedule_of_a_weight_a_row_takes_one_pass_in_rows_that_are_neutral(quick):
    rule = ccf.Scheduled(ccf.Decoupled([1.0, 2.0], form="nested"), interval=(0, 500))
    assert [t <= 500 for t in quick.scm.mechanisms["image"].levels.timesteps] == [True, True, False]
    assert evaluations(ccf.counterfactual(quick.scm, quick, BOTH, guidance=rule)) == [3, 2 + 2 + 1]


def test_interventions_of_one_question_share_one_abduction(quick):
    scm, rows, plain = quick.scm, quick.factual, ccf.Plain()
    asked = [{"thickness": 4.0}, {"digit": "3"}, BOTH]
    passes, handle = counted(scm.mechanisms["image"])
    try:
        together = ccf.counterfactual(scm, rows, asked, guidance=plain)
        assert passes == [padded(2)] * (3 + 3 * 3)  # three levels up, and three times three down
        passes.clear()
        again = ccf.counterfactual(scm, quick, asked, guidance=plain)
        assert passes == [padded(2)] * (3 * 3)
        passes.clear()
        alone = ccf.counterfactual(scm, rows, BOTH, guidance=plain)
        assert passes == [padded(2)] * (3 + 3)
    finally:
        handle.remove()
    for one, other in [*zip(together, again, strict=True), (together[2], alone)]:
        assert one.diagnostics["image.evaluations"].tolist() == evaluations(one) == [3, 3]
        assert np.array_equal(one.images["image"], other.images["image"])


def test_what_did_not_move_in_a_row_is_not_guided_there(shipped, abducted, digits):
    factual = digits.frame["digit"].astype(str).tolist()
    asked = [factual[0], *("3" if label != "3" else "5" for label in factual[1:])]
    mechanism = shipped.mechanisms["image"]
    rows, handle = counted(mechanism)
    try:
        by_row = ccf.counterfactual(
            shipped, abducted, {"digit": asked}, guidance=ccf.Decoupled(2.0, form="nested", groups="moved")
        )
    finally:
        handle.remove()
    assert sum(rows) == (padded(1) + padded(2 * 5)) * mechanism.steps  # by what moved, one prediction after another
    assert evaluations(by_row) == [mechanism.steps, *[2 * mechanism.steps] * 5]
    by_graph = ccf.counterfactual(shipped, abducted, {"digit": asked}, guidance=ccf.Decoupled(2.0, form="nested"))
    assert grey_levels(by_row.images["image"][1:], by_graph.images["image"][1:]) < 0.1
    assert grey_levels(by_row.images["image"][:1], digits.images["image"][:1]) < 1
    each = ccf.Decoupled([3.0, *[2.0] * 5], form="nested", groups="moved")  # a weight a row; in the first nothing moves
    weighed = ccf.counterfactual(shipped, abducted, {"digit": asked}, guidance=each)
    assert grey_levels(weighed.images["image"], by_row.images["image"]) < 0.1


def test_an_answer_without_images_is_not_in_doubt_because_of_them(shipped, digits):
    answer = ccf.counterfactual(shipped, digits.without_images(), {"thickness": 4.0})
    assert answer.identified.all()
    assert not answer.why_not


def test_rows_that_miss_an_attribute_take_a_weight_a_row_and_steps_that_others_need(shipped, digits, monkeypatch):
    monkeypatch.setattr("causalcf.query.CHUNK", 2)
    frame = digits.frame.iloc[:3].copy()
    frame.loc[frame.index[0], "thickness"] = None
    rows = ccf.Batch(digits.graph, frame, {"image": digits.images["image"][:3]}, missing="infer")
    quick, rule = shipped.configured(steps=5), ccf.Decoupled([1.0, 1.0, 3.0], form="nested")
    one, other = (ccf.counterfactual(quick, rows, {"digit": "3"}, guidance=g, draws=2) for g in (rule, ccf.Plain()))
    same = [np.array_equal(a, b) for a, b in zip(one.images["image"], other.images["image"], strict=True)]
    assert same == [True, True, digits.frame["digit"].iloc[2] == "3"]
    assert ccf.choose_steps(shipped, rows) == ccf.choose_steps(shipped, digits.rows([1, 2]))
    with pytest.raises(ccf.DataError, match="rows that miss no attribute, and the batch has none"):
        ccf.choose_steps(shipped, rows.rows([0]))


def test_a_hidden_parent_has_no_influence(shipped, digits):
    denoiser = shipped.mechanisms["image"].denoiser
    values = encode(digits)
    shown = torch.tensor([[True, True, False]]).expand(6, -1)
    time = torch.full((6,), 300)
    with torch.inference_mode():
        one = denoiser(values["image"], time, values, shown)
        other = denoiser(values["image"], time, {**values, "digit": (values["digit"] + 1) % 10}, shown)
        seen = denoiser(values["image"], time, {**values, "digit": (values["digit"] + 1) % 10}, torch.ones_like(shown))
        before = denoiser(values["image"], time, values, torch.ones_like(shown))
    assert torch.equal(one, other)
    assert not torch.equal(seen, before)


def test_pyro_do_agrees_with_predict_on_every_node(shipped):
    rows = 2
    generator = RowGenerator(3, row_keys(__import__("pandas").RangeIndex(rows)))
    noise = {name: m.draw_noise(generator.stream(name)) for name, m in shipped.mechanisms.items()}
    do = {"thickness": torch.tensor([1.5, 4.0], dtype=torch.float64), "digit": torch.tensor([3, 8])}
    program = pyro.condition(shipped.program, {f"{name}.noise": value for name, value in noise.items()})
    for action in ({}, {"thickness": do["thickness"]}, {"digit": do["digit"]}, do):
        expected = shipped.predict(noise, action)
        found = pyro.poutine.do(program, action)(rows)
        assert found.keys() == expected.keys()
        for name in expected:
            assert torch.equal(found[name], expected[name]), (name, action)


def test_pyro_predictive_draws_images(shipped):
    drawn = pyro.infer.Predictive(lambda: shipped.program(2), num_samples=1, return_sites=["image", "thickness"])()
    assert drawn["image"].shape[-3:] == (1, 32, 32)


def test_sample_under_an_intervention_draws_it(shipped):
    drawn = shipped.sample(3, do={"thickness": 4.0}, seed=1)
    again = shipped.sample(3, do={"thickness": 4.0}, seed=1)
    assert drawn.images["image"].shape == (3, 1, 32, 32)
    assert np.array_equal(drawn.images["image"], again.images["image"])
    assert shipped.judges["thickness"](drawn.images["image"]).mean() > 3


def test_steps_can_be_chosen_and_bad_ones_are_an_error(shipped, digits):
    with pytest.raises(ccf.AbductionError, match="steps=1001"):
        ccf.counterfactual(shipped, digits, {"thickness": 3.0}, steps=1001)
    answer = ccf.counterfactual(shipped, digits.rows([0]), {"thickness": 3.0}, steps=12)
    assert answer.images["image"].shape == (1, 1, 32, 32)


def test_an_image_that_cannot_be_halved_is_an_error():
    graph = ccf.CausalGraph("odd", [ccf.Node("a", "continuous"), ccf.Node("x", "image", ["a"], shape=(1, 30, 30))])
    frame = ccf.MorphoMNIST("test").frame(4).rename(columns={"thickness": "a"})[["a"]]
    with pytest.raises(ccf.AbductionError, match=r"30x30.*multiple of 8"):
        ccf.fit(ccf.SCM(graph, {"x": Diffusion()}), ccf.Batch(graph, frame, {"x": np.zeros((4, 1, 30, 30), np.uint8)}))


def small_run(prediction, min_snr=None):
    """A diffusion model of one parent, sized but not trained, and images of a few shades."""
    mechanism = Diffusion(channels=(8, 16), patch=1, prediction=prediction, min_snr=min_snr)
    value = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 1, 8, 8)
    parents = {"a": torch.linspace(0, 1, 6, dtype=torch.float64)}
    mechanism.prepare(ccf.Node("x", "image", ["a"], shape=(1, 8, 8)), [ccf.Node("a", "continuous")], value, parents)
    return mechanism, value, parents


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_counts_an_error_as_the_paper_says(prediction):
    mechanism, value, parents = small_run(prediction)
    weighted = small_run(prediction, min_snr=5.0)[0]
    signal = mechanism.scheduler.alphas_cumprod
    plain = mechanism.loss(value, parents, generator=torch.Generator().manual_seed(0))
    found = weighted.loss(value, parents, generator=torch.Generator().manual_seed(0)) / plain
    time = (1000 * torch.rand(6, generator=torch.Generator().manual_seed(0)).square()).long()
    ratio = signal[time] / (1 - signal[time])
    # Hang et al. 2023, section 3.4: min(SNR, 5) of x_0's error, which is SNR of epsilon's and SNR + 1 of v's
    expected = {
        "epsilon": (5 / ratio).clamp(max=1),
        "sample": ratio.clamp(max=5),
        "v_prediction": ratio.clamp(max=5) / (ratio + 1),
    }
    assert torch.allclose(found, expected[prediction], rtol=1e-4)


class Knowing(torch.nn.Module):
    """A denoiser that was told the clean image and the noise, and answers with one of the three things that may be asked."""

    def __init__(self, answer, value, noise, signal):
        super().__init__()
        self.names, self.shape, self.heard = ("a",), tuple(value.shape[1:]), []
        alpha, sigma = (share.sqrt().view(-1, 1, 1, 1) for share in (signal, 1 - signal))
        self.noisy = alpha * value + sigma * noise
        self.output = {"epsilon": noise, "sample": value, "v_prediction": alpha * noise - sigma * value}[answer]

    def forward(self, image, time, parents, shown):
        self.heard.append(image)
        return self.output


@pytest.mark.parametrize("answer", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_knows_the_answer_has_no_loss_and_another_answer_has(prediction, answer):
    mechanism, generator = Diffusion(prediction=prediction), torch.Generator().manual_seed(0)
    value, noise = 2 * torch.rand(3, 1, 8, 8, generator=generator) - 1, torch.randn(3, 1, 8, 8, generator=generator)
    time, shown = torch.tensor([100, 300, 500]), torch.ones(3, 1, dtype=torch.bool)
    network = Knowing(answer, value, noise, mechanism.scheduler.alphas_cumprod[time])
    mechanism.denoiser = network
    loss = mechanism.loss(value, {"a": torch.zeros(3)}, generator={"noise": noise, "time": time, "shown": shown})
    assert torch.allclose(network.heard[0], network.noisy, atol=1e-6)  # float32
    assert loss.shape == (3,)
    assert bool((loss < 1e-10).all() if answer == prediction else (loss > 1e-3).all())
    told = torch.cat([mechanism._noise_in(network.noisy[[row]], int(t), network.output[[row]]) for row, t in enumerate(time)])
    assert torch.allclose(told, noise, atol=1e-5) == (answer == prediction)  # what answers make of the output


def test_validation_losses_tell_what_each_mask_costs(shipped, digits):
    values = encode(digits)
    parents = {name: values[name] for name in ("thickness", "intensity", "digit")}
    mechanism = shipped.mechanisms["image"]
    losses = mechanism.validation_losses(values["image"], parents, generator=torch.Generator().manual_seed(0))
    assert list(losses)[:2] == ["all", "none"]
    assert {"only digit", "without thickness"} < losses.keys()
    assert all(loss.shape == (6,) for loss in losses.values())
    assert losses["all"].mean() < losses["none"].mean()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_what_a_network_predicts_is_kept_with_it(tmp_path, prediction):
    mechanism, _, parents = small_run(prediction)
    mechanism = mechanism.configured(precision="float32")
    mechanism.save(tmp_path)
    again = Diffusion.load(tmp_path)
    assert again.scheduler.config.prediction_type == prediction
    assert again.precision == "float32"
    noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    # saved in half precision
    assert torch.allclose(again.predict(noise, parents), mechanism.eval().predict(noise, parents), atol=0.05)


def test_diffusers_alone_loads_the_network_and_the_scheduler_of_a_saved_model(shipped, tmp_path):
    directory = shipped.save(tmp_path / "model") / "mechanisms" / "image"
    code = """if True:
        import sys, torch
        from diffusers import DDIMScheduler, UNet2DModel
        unet = UNet2DModel.from_pretrained(sys.argv[1] + "/unet", torch_dtype=torch.float32).eval()
        print(DDIMScheduler.from_pretrained(sys.argv[1] + "/scheduler").config.prediction_type, "causalcf" in sys.modules)
        generator = torch.Generator().manual_seed(0)
        image, condition = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 128, generator=generator)
        with torch.no_grad():
            torch.save(unet(image, torch.tensor([10, 500]), class_labels=condition).sample, sys.argv[2])
    """
    command = [sys.executable, "-c", code, str(directory), str(tmp_path / "output.pt")]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert told.split() == ["v_prediction", "False"]
    generator = torch.Generator().manual_seed(0)
    image, condition = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 128, generator=generator)
    with torch.no_grad():
        ours = shipped.mechanisms["image"].denoiser.unet(image, torch.tensor([10, 500]), class_labels=condition).sample
    assert torch.allclose(ours, torch.load(tmp_path / "output.pt"), atol=1e-5)  # channels-last and contiguous kernels round apart


def test_a_saved_model_does_not_say_where_it_was_loaded_from(shipped, tmp_path):
    first = shipped.save(tmp_path / "first")
    second = ccf.load(first).save(tmp_path / "second")
    for file in [*second.rglob("*.json"), *Path(ccf.__file__).parent.glob("models/**/*.json")]:
        assert "_name_or_path" not in file.read_text(), file


def test_a_model_whose_network_is_kept_as_before_says_how_to_go_on(shipped, tmp_path):
    shipped.mechanisms["image"].save(tmp_path)
    (tmp_path / "unet").rename(tmp_path / "elsewhere")
    with pytest.raises(ccf.StoreError, match=r"an older causalcf.*Fit and save the model again"):
        Diffusion.load(tmp_path)


def test_loading_a_model_leaves_the_global_random_numbers_alone(shipped, tmp_path):
    directory = shipped.save(tmp_path / "model")
    before = torch.get_rng_state()
    ccf.load(directory)
    assert torch.equal(torch.get_rng_state(), before)


SOLVERS = [
    ccf.FixedPoint(),
    ccf.Anderson(),
    ccf.DDIM(),
    ccf.Heun(),
    ccf.DPMSolverPP(),
    ccf.OBELM(),
    ccf.EDICT(),
    ccf.EditFriendly(),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_every_solver_answers_and_says_what_it_took(shipped, digits, solver):
    two = digits.rows([0, 1])
    answer = ccf.counterfactual(shipped, two, {"digit": "3"}, solver=solver, guidance=ccf.Plain())
    told = answer.diagnostics
    abducting = ["image.evaluations", "image.residual", "image.noise_std", "image.drawn"]
    assert list(told) == [*abducting, "image.prediction_evaluations"]
    assert told.index.equals(two.frame.index)
    assert (told["image.prediction_evaluations"] >= shipped.mechanisms["image"].steps).all()
    assert answer.identified.all() == solver.identified == (not told["image.drawn"].any())
    drawn = shipped.configured(solver=solver).sample(2, seed=0)
    assert drawn.images["image"].shape == (2, 1, 32, 32)


# Heun's equations are solved by the same lines as the fixed point's, and take longest
@pytest.mark.parametrize("solver", [s for s in SOLVERS if not isinstance(s, ccf.Heun)], ids=lambda solver: type(solver).__name__)
def test_noise_std_and_residual_are_those_of_each_rows_abduction(shipped, digits, solver):
    abducted = ccf.abduct(shipped.configured(solver=solver, steps=3), digits.rows([0, 1]))
    told, noise = abducted.diagnostics, abducted.noise["image"]
    first = noise[:, 0] if noise.dim() == 5 else noise  # the image at the last level; of two states, or of noise maps, the first
    assert np.allclose(told["image.noise_std"], first.numpy().reshape(2, -1).std(axis=1, ddof=1), rtol=1e-5)
    assert told["image.noise_std"].nunique() == 2
    residual = told["image.residual"]
    if isinstance(solver, ccf.FixedPoint):  # or Anderson: solves for the noise
        assert ((residual > 0) & (residual <= solver.accepted)).all()
    elif isinstance(solver, ccf.OBELM | ccf.EDICT):  # exact by construction
        assert (residual == 0).all()
    else:  # solves nothing
        assert residual.isna().all()


def test_an_abduction_that_does_not_get_to_the_accepted_residual_says_so(shipped, digits):
    strict = ccf.FixedPoint(tolerance=1e-5, iterations=1)
    with pytest.warns(UserWarning, match=r"residual of .* where 0\.0001 is accepted.*more steps"):
        told = ccf.abduct(shipped.configured(solver=strict, steps=3), digits.rows([0, 1])).diagnostics
    assert (told["image.residual"] > strict.accepted).any()


def test_an_answer_from_an_abduction_tells_what_the_abduction_took(shipped, abducted):
    told = ccf.counterfactual(shipped, abducted, {"digit": "3"}, guidance=ccf.Decoupled(2.0, form="nested")).diagnostics
    assert told["image.evaluations"].equals(abducted.diagnostics["image.evaluations"])
    assert (told["image.prediction_evaluations"] == 2 * shipped.mechanisms["image"].steps).all()
    assert ccf.counterfactual(shipped, abducted, {}).diagnostics.empty


def test_rounded_convolutions_give_the_same_images_to_a_grey_level(shipped, digits):
    exact, rounded = (shipped.configured(precision=precision) for precision in ("float32", "bfloat16"))
    one, other = (ccf.counterfactual(scm, digits, {"digit": "3"}).images["image"] for scm in (exact, rounded))
    assert 0 < grey_levels(one, other) < 1
    again = ccf.reconstruct(ccf.abduct(rounded, digits)).images["image"]
    assert grey_levels(again, digits.images["image"]) < 0.3  # what issue and README promise of either


def test_training_and_the_network_itself_are_not_rounded_and_auto_asks_the_machine(shipped, digits, monkeypatch):
    denoiser, values = shipped.mechanisms["image"].denoiser, encode(digits)
    given = values["image"].float(), torch.full((6,), 300), {name: values[name] for name in denoiser.names}
    shown = torch.ones(6, 3, dtype=torch.bool)
    with torch.no_grad():
        exact = denoiser(*given, shown)
        with rounding():
            rounded = denoiser(*given, shown)
    assert rounded.dtype == torch.float32
    error = float((rounded - exact).norm() / exact.norm())
    assert 0 < error < 8 * 2**-8  # bfloat16 rounds to 2^-8, about twenty convolutions one after another
    assert torch.equal(denoiser(*given, shown), exact)
    for able in (True, False):
        monkeypatch.setattr("causalcf.image.has_bfloat16", lambda able=able: able)
        assert Diffusion().rounded is able
        assert not Diffusion(precision="float32").rounded
    with pytest.raises(ccf.DataError, match="precision is 'half'"):
        Diffusion(precision="half")


def test_channels_are_normalised_in_as_many_groups_as_were_asked_for_also_in_a_model_that_is_saved(shipped, digits, tmp_path):
    def groups(mechanism):
        return {part.num_groups for part in mechanism.denoiser.modules() if isinstance(part, torch.nn.GroupNorm)}

    assert groups(shipped.mechanisms["image"]) == {2}
    assert groups(ccf.load("celebahq_dependent").mechanisms["image"]) == {16}  # saved before there was a choice
    together = Diffusion(channels=(16, 32), norm_num_groups=1)
    values = encode(digits)
    parents = {name: values[name] for name in digits.graph.parents("image")}
    together.prepare(digits.graph.node("image"), [digits.graph.node(name) for name in parents], values["image"], parents)
    together.save(tmp_path)
    assert groups(together) == groups(Diffusion.load(tmp_path)) == {1}


def test_auto_steps_are_the_fewest_that_give_the_images_back(shipped, digits):
    fine, coarse = (ccf.choose_steps(shipped, digits, tolerance=tolerance) for tolerance in (0.2, 3.0))
    assert coarse < fine
    fewer = query._STEPS[query._STEPS.index(fine) - 1]
    less = ccf.reconstruct(ccf.abduct(shipped.configured(steps=fewer), digits))
    assert grey_levels(less.images["image"], digits.images["image"]) > 0.2
    again = ccf.reconstruct(ccf.abduct(shipped.configured(steps=fine), digits))
    assert grey_levels(again.images["image"], digits.images["image"]) <= 0.2
    answer = ccf.counterfactual(shipped, digits, {"digit": "3"}, steps="auto", guidance=ccf.Plain())
    assert (answer.diagnostics["image.prediction_evaluations"] == ccf.choose_steps(shipped, digits)).all()
    with pytest.raises(ccf.AbductionError, match=r"the best is steps=.*larger tolerance"):
        ccf.choose_steps(shipped, digits, tolerance=0.0)
    with pytest.raises(ccf.DataError, match="has none"):
        ccf.choose_steps(shipped, digits.without_images())


def test_the_guidance_of_a_model_holds_also_for_rows_that_another_rule_abducted(shipped, abducted):
    rule, do = ccf.Decoupled(3.0, form="nested"), {"digit": "3"}
    told = ccf.counterfactual(shipped, abducted, do, guidance=rule).images["image"]
    assert np.array_equal(ccf.counterfactual(shipped.configured(guidance=rule), abducted, do).images["image"], told)
    assert not np.array_equal(ccf.counterfactual(shipped, abducted, do).images["image"], told)


def test_an_abduction_is_answered_by_a_model_that_would_have_made_it(shipped, abducted):
    for what, other in (
        ("steps", shipped.configured(steps=30)),
        ("solver", shipped.configured(solver=ccf.DDIM())),
        ("denoiser", ccf.load("morphomnist")),
        ("precision", shipped.configured(precision="float32")),
    ):
        with pytest.raises(ccf.DataError, match=rf"abducted with another {what} than this model's\. Abduct with this model"):
            ccf.counterfactual(other, abducted, {"digit": "3"})


def test_an_image_that_is_not_finite_is_an_error_that_names_its_rows(shipped, digits, monkeypatch):
    scm, three = shipped.configured(steps=2), digits.rows([0, 1, 2])
    abduction = ccf.abduct(scm, three)
    mechanism = abduction.scm.mechanisms["image"]

    def spoilt(module, given, output):
        return (torch.where(torch.arange(len(output[0])).view(-1, 1, 1, 1) == 1, torch.nan, output[0]), *output[1:])

    handle = mechanism.denoiser.unet.register_forward_hook(spoilt)
    try:
        with pytest.raises(ccf.AbductionError, match=r"the counterfactual image is not finite for rows \[1\]"):
            ccf.counterfactual(scm, abduction, {"thickness": 4.0}, guidance=ccf.Plain())
    finally:
        handle.remove()


def test_a_solver_is_chosen_before_abduction_and_kept_with_the_model(shipped, abducted, tmp_path):
    with pytest.raises(ccf.DataError, match="solver belongs to the abduction"):
        ccf.counterfactual(shipped, abducted, {"digit": "3"}, solver=ccf.DDIM())
    with pytest.raises(ccf.DataError, match=r"CFG.* DDIM steps, which Heun does not take"):
        shipped.configured(guidance=ccf.PlusPlus(ccf.Decoupled(1.1)), solver=ccf.Heun())
    saved = shipped.configured(solver=ccf.Anderson(memory=3)).save(tmp_path / "model")
    assert ccf.load(saved).mechanisms["image"].solver == ccf.Anderson(memory=3)


def test_a_mechanism_of_ones_own_on_top_of_diffusion_is_the_one_that_is_asked(shipped, digits):
    class Inverted(Diffusion):
        def predict(self, noise, parents, *, changed=frozenset()):
            return -super().predict(noise, parents, changed=changed)

    inverted = shipped.configured()
    inverted.mechanisms["image"].__class__ = Inverted
    two, do, plain = digits.rows([0, 1]), {"digit": "3"}, ccf.Plain()
    found = ccf.counterfactual(inverted, two, do, guidance=plain)
    expected = ccf.counterfactual(shipped, two, do, guidance=plain)
    assert grey_levels(255 - found.images["image"], expected.images["image"]) < 1
    assert found.diagnostics.equals(expected.diagnostics)


def test_an_audit_says_which_solver_and_how_many_evaluations(shipped, digits):
    asked = {"digit": {"digit": "3"}}
    report = ccf.audit(shipped, digits.rows([0, 1]), interventions=asked, rounds=(1,), solver=ccf.DPMSolverPP(), steps="auto")
    steps = report.settings["steps"]
    assert steps == ccf.choose_steps(shipped, digits.rows([0, 1]), solver=ccf.DPMSolverPP())
    assert report.settings["solver"] == ccf.DPMSolverPP().to_dict()
    assert report.value("evaluations", attribute="image") == steps
    assert report.value("evaluations", "digit", "image") > steps  # the shipped rule guides the digit
    with pytest.raises(ccf.DataError, match="steps is 'fast'"):
        ccf.counterfactual(shipped, digits, {"digit": "3"}, steps="fast")


STROKE = {"stroke": ["intensity", "thickness"]}


@pytest.mark.parametrize(
    "rule",
    [
        "nested:digit=2|thickness=1.2",
        "paper:2",
        "anchored:2|1.5",
        "cfg:2",
        "nested:2@100-500",
        "plain",
        pytest.param(str(ccf.Decoupled(1.5, {"digit": 1.2}, groups=STROKE, weights={"stroke": 2.0})), id="a group"),
        pytest.param(str(ccf.Decoupled(2.0, form="nested", groups={"both": ["digit", "thickness"]})), id="a group, nested"),
    ],
)
def test_the_diffusers_guider_gives_the_same_image(shipped, abducted, rule, tmp_path):
    """A loop that asks the guider for its passes and lets it combine them ends at the mechanism's own image."""
    guidance, changed = ccf.parse_guidance(rule), {"thickness", "intensity"}
    mechanism = shipped.mechanisms["image"].configured(guidance=guidance, steps=6, precision="float32")
    parents = {name: encode(abducted.factual)[name] for name in mechanism.denoiser.names}
    parents["thickness"] = parents["thickness"] + 1
    noise = abducted.noise["image"]
    wanted = mechanism.predict(noise, parents, changed=frozenset(changed))
    ccf.CausalGuider.from_rule(guidance, parents=mechanism.denoiser.names, changed=changed).save_pretrained(tmp_path)
    guider = ccf.CausalGuider.from_pretrained(tmp_path)

    def eps(image, timestep, _):
        guider.set_state(step=0, num_inference_steps=6, timestep=torch.tensor(timestep))
        batches = guider.prepare_inputs({"image": image})
        for batch in batches:
            shown = batch.shown.expand(len(image), -1)
            batch.noise_pred = mechanism.denoiser(batch.image, torch.full((len(image),), timestep), parents, shown)
        return mechanism._noise_in(image, timestep, guider(batches).pred)

    with torch.inference_mode():
        found = mechanism.solver.sample(noise, mechanism.levels, eps).clamp(-1, 1)
    # the same network in batches of other sizes: float32 rounding, on images from -1 to 1
    assert torch.allclose(found, wanted, atol=1e-3)


def test_a_guider_outside_its_steps_or_switched_off_is_one_plain_pass():
    guider = ccf.CausalGuider.from_rule(ccf.Decoupled(2.0), parents=["a", "b"], changed=["b"], start=0.5)
    guider.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(900))
    assert guider.passes() == [frozenset({"a", "b"})]
    guider.set_state(step=5, num_inference_steps=10, timestep=torch.tensor(500))
    assert guider.num_conditions == 3
    guider.disable()
    assert guider.num_conditions == 1
    early = ccf.CausalGuider.from_rule(ccf.Decoupled(2.0), parents=["a", "b"], changed=["b"], stop=0.5)
    for step, conditions in ((4, 3), (5, 1)):
        early.set_state(step=step, num_inference_steps=10, timestep=torch.tensor(500))
        assert early.num_conditions == conditions


@pytest.mark.parametrize("on_top", [ccf.Projected, ccf.PlusPlus, ccf.Rescaled])
def test_a_rule_on_a_rule_goes_by_what_moved_if_that_does(on_top):
    for groups in ("moved", "graph"):
        assert on_top(ccf.Decoupled(2.0, form="nested", groups=groups)).by_moved == (groups == "moved")


@pytest.mark.parametrize(("name", "value"), [("clip_sample", True), ("timestep_spacing", "leading"), ("beta_end", 0.03)])
def test_a_stored_scheduler_of_another_schedule_is_refused(shipped, tmp_path, name, value):
    mechanism = shipped.mechanisms["image"]
    mechanism.save(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ccf.StoreError, match=rf"has {name}={value}, and a Diffusion is trained and asked with"):
        Diffusion.load(tmp_path)


def test_a_guider_refuses_a_rule_that_is_no_weighted_sum():
    with pytest.raises(ccf.DataError, match="Projected"):
        ccf.CausalGuider.from_rule(ccf.Projected(ccf.Decoupled(2.0)), parents=["a"], changed=["a"])


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (ccf.Decoupled(2.0, groups="moved"), r"groups='moved'.*one `changed` for all rows.*groups='graph'.*Diffusion mechanism"),
        (ccf.Scheduled(ccf.Decoupled(2.0, groups="moved"), interval=(0, 9)), r"groups='moved'.*groups='graph'"),
        (ccf.Decoupled([1.0, 2.0]), r"a weight a row.*all rows alike.*a guider for each weight.*Diffusion mechanism"),
        (ccf.Decoupled(2.0, {"b": [1.0, 2.0]}), "a weight a row.*all rows alike"),
        (ccf.Scheduled(ccf.Decoupled(1.0, weights={"a": [1.0, 2.0]}), interval=(0, 9)), "a weight a row.*all rows alike"),
    ],
    ids=["moved", "moved on a schedule", "a row", "a row by name", "a row on a schedule"],
)
def test_a_guider_refuses_a_rule_that_is_another_in_every_row(rule, told):
    with pytest.raises(ccf.DataError, match=told):
        ccf.CausalGuider.from_rule(rule, parents=["a", "b"], changed=["a"])


@pytest.mark.parametrize(
    ("shape", "channels", "patch"),
    [((1, 32, 32), (32, 64, 128), 2), ((3, 64, 48), (32, 64, 128), 2), ((1, 28, 28), (32, 64), 2), ((1, 27, 27), (32,), 1)],
)
def test_an_image_of_any_size_has_a_mechanism_that_takes_it(shape, channels, patch):
    nodes = [ccf.Node("digit", "binary"), ccf.Node("image", "image", shape=shape, parents=["digit"])]
    graph = ccf.CausalGraph("any", nodes)
    mechanism = ccf.SCM(graph).mechanisms["image"]
    assert (tuple(mechanism.network["channels"]), mechanism.network["patch"]) == (channels, patch)
    batch = ccf.Batch(graph, pd.DataFrame({"digit": [0, 1]}), {"image": np.zeros((2, *shape), dtype=np.uint8)})
    values = encode(batch)
    mechanism.prepare(graph.node("image"), [graph.node("digit")], values["image"], {"digit": values["digit"]})
    assert mechanism.denoiser.shape == shape


def test_a_guider_of_what_is_no_parent_is_an_error():
    with pytest.raises(ccf.DataError, match=r"changed has digt, and none of that is a parent of the image\. Parents are: a, b"):
        ccf.CausalGuider.from_rule(ccf.Decoupled(2.0), parents=["a", "b"], changed=["digt"])
    ccf.CausalGuider.from_rule(ccf.Decoupled(2.0), parents=["a", "b"], changed=["a", "image"])  # as descendants are


@pytest.mark.parametrize(
    ("rule", "told"),
    [({"rule": "Decoupled", "groups": "moved"}, "groups='moved'"), ({"rule": "Decoupled", "weight": [1, 2]}, "a weight a row")],
)
def test_a_guider_refuses_such_a_rule_as_json_too(rule, told):
    with pytest.raises(ccf.DataError, match=told):
        ccf.CausalGuider(parents=["a", "b"], changed=["a"], rule=rule)


def test_a_diffusion_mechanism_solves_by_the_fixed_point_unless_told():
    assert Diffusion().solver == ccf.FixedPoint()


def test_a_weight_a_row_may_be_the_models_own(shipped, digits):
    weights = np.linspace(1, 2, len(digits))
    rule, do = ccf.Decoupled(1.0, form="nested", weights={"digit": weights}), {"digit": "3"}
    few = shipped.configured(steps=3)
    told, own = ccf.counterfactual(few, digits, do, guidance=rule), few.configured(guidance=rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("causalcf.query.CHUNK", 4)
        answer = ccf.counterfactual(own, digits, do)
    assert np.array_equal(answer.images["image"], told.images["image"])
    with pytest.raises(ccf.DataError, match="has a weight a row"):
        ccf.audit(few, digits, guidance=rule)
