"""Deterministic diffusion against a denoiser that is known in closed form.

Where pixels are Gaussian, x0 ~ N(m, c^2), the true noise prediction is

    eps(x, t) = sigma (x - alpha m) / (alpha^2 c^2 + sigma^2)

and the probability flow from x_T to x_0 is the affine map x_0 = m + c (x_T - alpha m) / sqrt(alpha^2 c^2 + sigma^2).
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from causalcf.errors import AbductionError, DataError
from causalcf.levels import Levels, noise_from_output
from causalcf.precision import row_sum
from causalcf.solvers import (
    DDIM,
    EDICT,
    OBELM,
    SOLVERS,
    Anderson,
    DPMSolverPP,
    EditFriendly,
    FixedPoint,
    Heun,
    solver_from_dict,
)

MEAN, SPREAD = 0.3, 0.5
SHAPE = 1, 4, 4


def scheduler(**settings):
    return DDIMScheduler(**{"num_train_timesteps": 1000, "clip_sample": False, "timestep_spacing": "trailing"} | settings)


CUMULATIVE = scheduler().alphas_cumprod.double()


class Gaussian:
    """The exact noise prediction for x0 ~ N(m, c^2), with a count of the rows that it was asked for."""

    def __init__(self, mean=MEAN, spread=SPREAD):
        self.mean, self.spread, self.rows = mean, spread, 0

    def __call__(self, x, timestep, rows):
        assert len(rows) == len(x)
        self.rows += len(x)
        alpha, sigma = float(CUMULATIVE[timestep]) ** 0.5, float(1 - CUMULATIVE[timestep]) ** 0.5
        return sigma * (x - alpha * self.mean) / (alpha**2 * self.spread**2 + sigma**2)

    def flow(self, noise, alpha, sigma):
        """The exact image of a noise at the level (alpha, sigma)."""
        return self.mean + self.spread * (noise - alpha * self.mean) / math.sqrt(alpha**2 * self.spread**2 + sigma**2)

    def explanation(self, image, alpha, sigma):
        """The exact noise of an image at the level (alpha, sigma): the flow, undone."""
        return alpha * self.mean + math.sqrt(alpha**2 * self.spread**2 + sigma**2) * (image - self.mean) / self.spread


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(rows, seed=0, dtype=torch.float32):
    return (MEAN + SPREAD * normal(rows, *SHAPE, seed=seed)).to(dtype)


def one_shot_inversion(image, levels, predict):
    """DDIM inversion as diffusers and the published baselines do it: the equation is not solved, but guessed once."""
    scaled, rows = image, torch.arange(len(image))
    for level in range(1, len(levels) + 1):
        eps = predict(levels.alphas[level - 1] * scaled, levels.timesteps[level - 1], rows)
        scaled = scaled + levels.gap(level) * eps
    return scaled * levels.alphas[-1]


def invert(image, levels, predict, **settings):
    return FixedPoint(**settings).abduct(image, levels, predict, lambda *shape: normal(len(image), *shape))


def rms(x):
    return float(x.double().square().mean().sqrt())


def flow_error(steps):
    levels, predict, noise = Levels.from_scheduler(scheduler(), steps), Gaussian(), normal(64, *SHAPE)
    exact = predict.flow(noise, levels.alphas[-1], levels.sigmas[-1])
    return rms(FixedPoint().sample(noise, levels, predict) - exact)


def test_sampling_converges_to_the_probability_flow_map():
    errors = {steps: flow_error(steps) for steps in (50, 100, 200, 500, 1000)}
    assert all(errors[steps] < 10 * SPREAD / steps for steps in errors)
    # Euler's method has order one: half the step, half the error; a quarter either way is left for the second order
    for steps in (50, 100, 500):
        assert 1.5 < errors[steps] / errors[2 * steps] < 2.5


def test_sampling_a_point_mass_gives_the_point():
    # c = 0: eps = (x - alpha m) / sigma, and every DDIM step is exact
    levels = Levels.from_scheduler(scheduler(), 10)
    result = FixedPoint().sample(normal(5, *SHAPE), levels, Gaussian(spread=0.0))
    assert torch.allclose(result, torch.full_like(result, MEAN), atol=1e-10)  # float64, ten steps, divided by alpha_T = .006


def test_inversion_of_a_gaussian_is_the_probability_flow_map():
    predict, image = Gaussian(), images(64)
    errors = {}
    for steps in (50, 100, 200):
        levels = Levels.from_scheduler(scheduler(), steps)
        noise, _ = invert(image, levels, predict, tolerance=1e-5, iterations=50)
        errors[steps] = rms(predict.flow(noise.double(), levels.alphas[-1], levels.sigmas[-1]) - image)
    assert all(errors[steps] < 10 * SPREAD / steps for steps in errors)
    assert 1.5 < errors[50] / errors[100] < 2.5
    assert 1.5 < errors[100] / errors[200] < 2.5


@pytest.mark.parametrize("kind", [FixedPoint, Anderson, Heun])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_sampling_undoes_inversion_to_the_tolerance(steps, kind):
    levels, predict, image = Levels.from_scheduler(scheduler(), steps), Gaussian(), images(32)
    tolerance = 1e-4
    solver = kind(tolerance=tolerance, iterations=50)
    noise, trace = abduct(solver, image, levels, predict)
    assert trace.residual.shape == (32, steps)
    assert float(trace.residual.max()) <= tolerance
    # every level adds at most its residual, which the flow to the image multiplies by c / sqrt(alpha^2 c^2 + sigma^2) <= 1
    error = rms(solver.sample(noise, levels, predict) - image)
    assert error < steps * tolerance
    guessed = one_shot_inversion(image, levels, predict)
    assert error < 0.1 * rms(FixedPoint().sample(guessed, levels, predict) - image)


def test_the_fixed_point_starts_near_its_solution(monkeypatch):
    levels, image, solve, before = grid(20, 2.0), images(8), FixedPoint._solve, []

    def from_zero(self, scaled, guess, *rest):
        return solve(self, scaled, torch.zeros_like(guess), *rest)

    def from_one_level(self, scaled, guess, level, *rest):
        found = solve(self, scaled, before[-1] if level > 1 else guess, level, *rest)
        before.append(found[0])
        return found

    for tolerance in (FixedPoint().tolerance, 1e-5):
        taken = []
        for start in (solve, from_one_level, from_zero):
            monkeypatch.setattr(FixedPoint, "_solve", start)
            _, trace = invert(image, levels, Gaussian(), tolerance=tolerance, iterations=50)
            assert float(trace.residual.max()) <= tolerance
            taken.append(trace.evaluations)
        warm, one, zero = taken
        assert (warm < zero).all()
        assert warm.sum() < 0.6 * zero.sum()
        assert warm.sum() < one.sum()  # the line through two levels leads nearer than the last of them


def test_the_default_settings_are_far_better_than_one_shot_inversion():
    levels, predict, image = Levels.from_scheduler(scheduler(), 20), Gaussian(), images(32)
    noise, _ = invert(image, levels, predict)
    guessed = one_shot_inversion(image, levels, predict)
    assert rms(FixedPoint().sample(noise, levels, predict) - image) < 0.1 * rms(
        FixedPoint().sample(guessed, levels, predict) - image
    )


def test_a_smaller_tolerance_gives_a_smaller_error():
    levels, predict, image = Levels.from_scheduler(scheduler(), 20), Gaussian(), images(32)
    errors = []
    for tolerance in (1e-2, 1e-3, 1e-4):
        noise, _ = invert(image, levels, predict, tolerance=tolerance, iterations=50)
        errors.append(rms(FixedPoint().sample(noise, levels, predict) - image))
    assert errors[0] > errors[1] > errors[2]


def test_the_noise_of_images_from_the_model_is_standard_normal():
    levels, rows = Levels.from_scheduler(scheduler(), 200), 500
    noise, _ = invert(images(rows), levels, Gaussian())
    n = noise.numel()
    # 5 standard deviations of a mean and of a standard deviation of n normals, and Euler's bias of 10 / steps
    assert abs(float(noise.mean())) < 5 / math.sqrt(n) + 10 / 200 * abs(MEAN)
    assert abs(float(noise.std()) - 1) < 5 / math.sqrt(2 * n) + 10 / 200


def test_a_row_gets_the_same_answer_alone_and_in_a_batch():
    levels, predict, image = Levels.from_scheduler(scheduler(), 20), Gaussian(), images(9)
    image[3] *= 20  # a row that needs more iterations than the others
    together, _ = invert(image, levels, predict)
    back = FixedPoint().sample(together, levels, predict)
    for row in range(len(image)):
        alone, _ = invert(image[[row]], levels, predict)
        assert torch.equal(alone[0], together[row])
        assert torch.equal(FixedPoint().sample(alone, levels, predict)[0], back[row])


def test_the_network_is_told_which_rows_it_is_given():
    levels, image = Levels.from_scheduler(scheduler(), 10), images(6)
    spreads = torch.linspace(0.2, 0.9, 6).view(-1, 1, 1, 1)

    def predict(x, timestep, rows):
        return Gaussian(spread=spreads[rows])(x, timestep, rows)

    together, _ = invert(image, levels, predict)
    for row in range(6):
        alone, _ = invert(image[[row]], levels, Gaussian(spread=spreads[[row]]))
        assert torch.equal(alone[0], together[row])


def test_evaluations_are_counted_truly():
    levels, image = Levels.from_scheduler(scheduler(), 20), images(7)
    image[2] *= 20
    predict = Gaussian()
    _, trace = invert(image, levels, predict)
    assert int(trace.evaluations.sum()) == predict.rows
    assert ((trace.evaluations >= 20) & (trace.evaluations <= 20 * 8)).all()
    assert trace.evaluations[2] == trace.evaluations.max()  # the row that needs more than the others
    predict = Gaussian()
    FixedPoint().sample(image, levels, predict)
    assert predict.rows == 7 * 20


def test_a_row_that_has_converged_is_not_evaluated_again():
    levels, image = Levels.from_scheduler(scheduler(), 10), images(4)
    seen = []

    def predict(x, timestep, rows):
        seen.append(rows.tolist())
        return Gaussian(spread=torch.tensor([0.0, 1.0, 0.0, 1.0])[rows].view(-1, 1, 1, 1))(x, timestep, rows)

    invert(image, levels, predict, tolerance=1e-6)
    assert any(rows == [0, 2] or rows == [1, 3] for rows in seen)
    assert all(rows == sorted(set(rows)) for rows in seen)


def test_one_iteration_a_level_costs_one_evaluation_a_level():
    levels, predict = Levels.from_scheduler(scheduler(), 20), Gaussian()
    _, trace = invert(images(3), levels, predict, iterations=1)
    assert predict.rows == int(trace.evaluations.sum()) == 3 * 20


def test_the_trace_reports_the_residual_of_the_accepted_solution():
    levels, image = Levels.from_scheduler(scheduler(), 5), images(3)
    tolerance = 1e-3
    noise, trace = invert(image, levels, Gaussian(), tolerance=tolerance, iterations=2)
    _, better = invert(image, levels, Gaussian(), tolerance=tolerance, iterations=50)
    assert torch.isfinite(noise).all()
    assert float(trace.residual.max()) > tolerance  # two iterations of five large steps do not suffice, and the trace says so
    assert float(better.residual.max()) <= tolerance


def test_where_the_plain_iteration_diverges_damping_still_finds_the_solution():
    steps, steep, tolerance = 10, 5, 1e-4
    levels, image = Levels.from_scheduler(scheduler(), steps), images(4)
    slope = -1.5  # of the equation's right side in z at one level: undamped, every iteration is 1.5 times further off

    def predict(x, timestep, rows):
        if timestep == levels.timesteps[steep - 1]:
            return slope * x / (levels.alphas[steep] * levels.gap(steep))
        return Gaussian()(x, timestep, rows)

    noise, trace = invert(image, levels, predict, tolerance=tolerance, iterations=50)
    assert float(trace.residual.max()) <= tolerance
    # as without the steep level, but that the step back through it multiplies what it is given by 1 - slope
    assert rms(FixedPoint().sample(noise, levels, predict) - image) < (1 - slope) * steps * tolerance


def test_inversion_keeps_the_precision_of_the_image():
    levels, predict, image = Levels.from_scheduler(scheduler(), 20), Gaussian(), images(8, dtype=torch.float64)
    noise, _ = invert(image, levels, predict, tolerance=1e-12, iterations=200)
    assert noise.dtype == torch.float64
    assert rms(FixedPoint().sample(noise, levels, predict) - image) < 20 * 1e-12  # steps * tolerance


def test_inversion_leaves_the_image_as_it_was():
    image = images(3)
    before = image.clone()
    invert(image, Levels.from_scheduler(scheduler(), 10), Gaussian())
    assert torch.equal(image, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_is_an_error_that_names_the_rows(value):
    def predict(x, timestep, rows):
        eps = Gaussian()(x, timestep, rows)
        eps[(rows == 1) | (rows == 4)] = value
        return eps

    with pytest.raises(AbductionError, match=r"timestep 99 is not finite for rows \[1, 4\]"):
        invert(images(6), Levels.from_scheduler(scheduler(), 10), predict)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clip_sample": True}, "clip_sample=False"),
        ({"thresholding": True}, "thresholding=False"),
        ({"timestep_spacing": "leading"}, "timestep_spacing is 'leading'.*timestep_spacing='trailing'"),
        ({"timestep_spacing": "linspace"}, "timestep_spacing is 'linspace'.*timestep_spacing='trailing'"),
        ({"prediction_type": "flow"}, "'flow'.*epsilon, v_prediction, sample"),
    ],
)
def test_a_scheduler_that_abduction_cannot_undo_is_refused(settings, words):
    with pytest.raises(AbductionError, match=words):
        Levels.from_scheduler(scheduler(**settings), 20)


@pytest.mark.parametrize("spacing", ["trailing", 2.3])
@pytest.mark.parametrize("settings", [{"rescale_betas_zero_snr": True}, {"trained_betas": [0.01] * 999 + [1.0]}])
def test_a_scheduler_that_leaves_nothing_of_the_image_is_refused(settings, spacing):
    with pytest.raises(AbductionError, match=r"at timestep 999 .*rescale_betas_zero_snr=False"):
        Levels.from_scheduler(scheduler(**settings), 20, spacing=spacing)


@pytest.mark.parametrize(
    ("steps", "near"), [(30, "20, 25, 40"), (3, "1, 2, 4, 5"), (999, "500, 1000"), (1001, "500, 1000"), (0, "1, 2"), (-5, "1, 2")]
)
def test_steps_that_do_not_divide_the_training_steps_are_refused_with_ones_that_do(steps, near):
    with pytest.raises(AbductionError, match=f"steps={steps} does not divide the 1000 .*Try one of .*{near}"):
        Levels.from_scheduler(scheduler(), steps)


@pytest.mark.parametrize("steps", [1, 10, 20, 50, 100, 250, 1000])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_levels_are_those_that_diffusers_visits(steps, schedule):
    ours = Levels.from_scheduler(scheduler(beta_schedule=schedule), steps)
    theirs = scheduler(beta_schedule=schedule)
    theirs.set_timesteps(steps)
    assert list(reversed(ours.timesteps)) == theirs.timesteps.tolist()
    assert len(ours) == steps
    assert ours.alphas[0] == 1.0
    assert ours.sigmas[0] == 0.0
    assert all(a**2 + s**2 == pytest.approx(1, abs=1e-12) for a, s in zip(ours.alphas, ours.sigmas, strict=True))
    assert all(ours.gap(level) > 0 for level in range(1, steps + 1))


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_sampling_is_the_ddim_loop_of_diffusers(steps):
    theirs, noise, predict = scheduler(set_alpha_to_one=True), normal(8, *SHAPE, dtype=torch.float32), Gaussian()
    rows = torch.arange(8)
    theirs.set_timesteps(steps)
    image = noise
    for timestep in theirs.timesteps.tolist():
        image = theirs.step(predict(image, timestep, rows), timestep, image, eta=0.0).prev_sample
    ours = FixedPoint().sample(noise, Levels.from_scheduler(scheduler(), steps), predict)
    # float32: every step divides by alpha, the first by alpha_T = .006, so that rounding (1.2e-7) is magnified by 1 / alpha_T
    alpha = float(CUMULATIVE[-1]) ** 0.5
    assert float((ours - image).abs().max()) < 5 * torch.finfo(torch.float32).eps / alpha


def test_the_three_predictions_stand_for_the_same_noise():
    clean, noise, alpha, sigma = normal(4, *SHAPE), normal(4, *SHAPE, seed=1), 0.8, 0.6
    image = alpha * clean + sigma * noise
    outputs = {"epsilon": noise, "sample": clean, "v_prediction": alpha * noise - sigma * clean}
    for prediction, output in outputs.items():
        assert torch.allclose(noise_from_output(image, output, alpha, sigma, prediction), noise, atol=1e-12)


EVERY = [cls() for cls in SOLVERS.values()]
EXACT = [OBELM(), EDICT()]


def abduct(solver, image, levels, predict, seed=1):
    return solver.abduct(image, levels, predict, lambda *shape: normal(len(image), *shape, seed=seed))


def grid(steps, spacing="trailing"):
    return Levels.from_scheduler(scheduler(), steps, spacing=spacing)


def shape_of(solver, steps):
    return solver.noise_shape(SHAPE, steps)


TIGHT = {"tolerance": 1e-7, "iterations": 100}


def abduction_error(solver, steps):
    """Distance of a solver's noise at the last level from the exact one, for the same image."""
    levels, predict, image = grid(steps, 2.0), Gaussian(), images(32, dtype=torch.float64)
    noise, _ = abduct(solver, image, levels, predict)
    last = noise if shape_of(solver, steps) == SHAPE else noise[:, 0]
    return rms(last - predict.explanation(image, levels.alphas[-1], levels.sigmas[-1]))


def sampling_error(solver, steps, spacing="trailing"):
    """Distance of a solver's image from the flow's exact one, for the same noise at the last level."""
    levels, predict = grid(steps, spacing), Gaussian()
    noise = normal(64, *shape_of(solver, steps)) * solver.noise_scale()
    last = noise if shape_of(solver, steps) == SHAPE else noise[:, 0]
    return rms(solver.sample(noise, levels, predict) - predict.flow(last, levels.alphas[-1], levels.sigmas[-1]))


@pytest.mark.parametrize("solver", [*EVERY], ids=lambda solver: type(solver).__name__)
def test_a_solver_is_read_back_as_it_was_written(solver):
    assert solver_from_dict(solver.to_dict()) == solver


@pytest.mark.parametrize("solver", [*EVERY], ids=lambda solver: type(solver).__name__)
def test_the_noise_has_the_shape_it_says_and_the_trace_counts_every_row(solver):
    levels, predict, image = grid(20), Gaussian(), images(5)
    noise, trace = abduct(solver, image, levels, predict)
    assert noise.shape == (5, *shape_of(solver, 20))
    assert int(trace.evaluations.sum()) == predict.rows
    assert trace.residual.shape == (5, 20)
    assert solver.sample(noise.float(), levels, predict).shape == image.shape


@pytest.mark.parametrize(
    ("solver", "up", "down"),
    [
        (DDIM(), 20, 20),
        (DPMSolverPP(), 20, 20),
        (OBELM(), 21, 20),
        (EDICT(), 40, 40),
        (EditFriendly(), 19, 20),
        (Heun(), None, 39),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_solver_evaluates_is_what_the_module_says(solver, up, down):
    levels, predict = grid(20), Gaussian()
    noise, trace = abduct(solver, images(3), levels, predict)
    assert up is None or trace.evaluations.tolist() == [up] * 3
    predict.rows = 0
    solver.sample(noise, levels, predict)
    assert predict.rows == 3 * down


@pytest.mark.parametrize(
    ("solver", "order", "spacing"),
    [
        (FixedPoint(), 1, "trailing"),
        (Anderson(), 1, "trailing"),
        (DDIM(), 1, "trailing"),
        (Heun(), 1.3, "trailing"),
        (DPMSolverPP(), 2, 2.0),
        (OBELM(), 2, "trailing"),
        (EDICT(), 1, "trailing"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sampling_converges_with_the_order_of_the_method(solver, order, spacing):
    # Heun's last step is Euler's, which costs it part of its order on this grid; DPM-Solver++'s errors happen to cancel on it
    coarse, fine = sampling_error(solver, 50, spacing), sampling_error(solver, 200, spacing)
    assert math.log(coarse / fine) / math.log(4) > order - 0.15


ABDUCTING = [
    (FixedPoint(**TIGHT), 1), (Anderson(**TIGHT), 1), (DDIM(), 1), (EDICT(), 1),
    (Heun(**TIGHT), 2), (DPMSolverPP(), 2), (OBELM(), 2),
]  # fmt: skip


@pytest.mark.parametrize(("solver", "order"), ABDUCTING, ids=lambda value: type(value).__name__)
def test_abduction_converges_to_the_exact_noise_with_the_order_of_the_method(solver, order):
    coarse, fine = abduction_error(solver, 16), abduction_error(solver, 64)
    assert math.log(coarse / fine) / math.log(4) > order - 0.25  # a dropped term costs a whole order
    assert fine < 0.05  # of noise whose standard deviation is 1


def test_abduction_of_second_order_is_closer_to_the_exact_noise_than_of_first_order():
    # not O-BELM's: what a leapfrog adds of its own swings from level to level, and dies out only with many of them
    euler = abduction_error(FixedPoint(**TIGHT), 50)
    for solver in (Heun(**TIGHT), DPMSolverPP()):
        assert abduction_error(solver, 50) < euler / 4


def test_second_order_is_closer_to_the_flow_than_first_order():
    euler = sampling_error(FixedPoint(), 50)
    for solver in (Heun(), DPMSolverPP(), OBELM()):
        assert sampling_error(solver, 50) < euler / 4


@pytest.mark.parametrize("spacing", ["trailing", 2.0])
@pytest.mark.parametrize("solver", EXACT, ids=lambda solver: type(solver).__name__)
def test_two_states_are_undone_to_rounding(solver, spacing):
    levels, predict, image = grid(20, spacing), Gaussian(), images(8, dtype=torch.float64)
    noise, trace = abduct(solver, image, levels, predict)
    # double precision, magnified by no more than what undoing EDICT's mixing does: .93^-40 = 18, and 1 / alpha_T = 157
    assert rms(solver.sample(noise, levels, predict) - image) < 1e-10
    assert not trace.residual.any()


class Erring(Gaussian):
    """The exact noise prediction and an error, another one at every call."""

    def __init__(self, size, **settings):
        super().__init__(**settings)
        self.size, self.generator = size, torch.Generator().manual_seed(0)

    def __call__(self, x, timestep, rows):
        error = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        return super().__call__(x, timestep, rows) + self.size * error


def magnified(solver, steps, spread, size=1e-7):
    """How many times as large errors of the predictions are in the image that comes back."""
    levels, image = grid(steps, 2.3), MEAN + spread * normal(32, *SHAPE)
    noise, _ = abduct(solver, image, levels, Gaussian(spread=spread))
    return rms(solver.sample(noise, levels, Erring(size, spread=spread)) - image) / size


@pytest.mark.parametrize(("spread", "few", "many"), [(0.5, 1400, 24), (0.01, 34_000, 310)])
def test_few_levels_magnify_rounding_in_edict_and_not_in_obelm(spread, few, many):
    # as EDICT says; its errors are of 512 pixels, and a quarter either way is left for another draw of them
    assert 0.75 * few < magnified(EDICT(), 15, spread) < 1.25 * few
    assert 0.75 * many < magnified(EDICT(), 50, spread) < 1.25 * many
    assert magnified(EDICT(mixing=1.0), 50, spread) > 100 * many
    assert max(magnified(OBELM(), steps, spread) for steps in (15, 50)) < 2


@pytest.mark.parametrize("solver", EXACT, ids=lambda solver: type(solver).__name__)
def test_two_states_differ_little_where_the_steps_are_small(solver):
    noise, _ = abduct(solver, images(16, dtype=torch.float64), grid(50), Gaussian())
    assert rms(noise[:, 1]) < 0.1 * rms(noise[:, 0])


def test_only_what_solves_its_equations_beats_guessing_them():
    levels, predict, image = grid(20), Gaussian(), images(32)
    errors = {}
    for solver in (DDIM(), FixedPoint(), Anderson(), Heun()):
        noise, trace = abduct(solver, image, levels, predict)
        errors[type(solver).__name__] = rms(solver.sample(noise, levels, predict) - image)
        assert bool(trace.residual.isnan().all()) == (solver == DDIM())
    assert max(errors["FixedPoint"], errors["Anderson"], errors["Heun"]) < 0.1 * errors["DDIM"]


def test_what_dpm_solver_does_upwards_comes_back_to_second_order():
    image, errors = images(32, dtype=torch.float64), {}
    for steps in (16, 64):
        levels, predict = grid(steps, 2.0), Gaussian()
        for solver in (DDIM(), DPMSolverPP()):
            noise, _ = abduct(solver, image, levels, predict)
            errors[type(solver), steps] = rms(solver.sample(noise, levels, predict) - image)
    assert errors[DPMSolverPP, 16] < 0.1 * errors[DDIM, 16]
    assert math.log(errors[DPMSolverPP, 16] / errors[DPMSolverPP, 64]) / math.log(4) > 2 - 0.15


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_ddim_inverts_predicted_noise_as_the_inverse_scheduler_of_diffusers(steps):
    theirs = DDIMInverseScheduler(num_train_timesteps=1000, clip_sample=False, timestep_spacing="trailing")
    levels, predict, image = grid(steps), Gaussian(), images(8, dtype=torch.float64)
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == list(levels.timesteps)
    noise = image
    for timestep in theirs.timesteps.tolist():
        noise = theirs.step(predict(noise, timestep, torch.arange(8)), timestep, noise).prev_sample
    ours, _ = abduct(DDIM(), image, levels, predict)
    assert float((ours - noise).abs().max()) < 10 * torch.finfo(torch.float32).eps  # their alphas and sigmas are in float32


def test_ddim_is_the_inversion_of_the_published_baselines():
    levels, predict, image = grid(20), Gaussian(), images(4)
    noise, _ = abduct(DDIM(), image, levels, predict)
    assert torch.equal(noise, one_shot_inversion(image, levels, predict))


def test_anderson_takes_fewer_evaluations_to_a_tight_tolerance():
    # the equation is linear here, with one slope for all pixels, which two iterations determine
    levels, image, tight = grid(10), images(8, dtype=torch.float64), {"tolerance": 1e-9, "iterations": 50}
    _, plain = abduct(FixedPoint(**tight), image, levels, Gaussian())
    _, accelerated = abduct(Anderson(**tight), image, levels, Gaussian())
    assert float(accelerated.residual.max()) <= 1e-9
    assert accelerated.evaluations.sum() < 0.6 * plain.evaluations.sum()


def test_a_row_is_solved_alike_alone_and_in_a_batch():
    levels, predict, image = grid(20), Gaussian(), images(5)
    image[3] *= 20
    for solver in (Anderson(), Heun(), DPMSolverPP(), OBELM(), EDICT()):
        together, _ = abduct(solver, image, levels, predict)
        for row in range(5):
            alone, _ = abduct(solver, image[[row]], levels, predict)
            assert torch.allclose(alone[0], together[row], rtol=1e-5, atol=1e-5), type(solver)


def test_the_residual_is_how_far_the_last_iteration_moved_the_noise():
    levels, image = grid(1), images(4, dtype=torch.float64)
    found = [abduct(FixedPoint(tolerance=0.0, iterations=count), image, levels, Gaussian()) for count in (1, 2, 3)]
    for (before, _), (after, trace) in itertools.pairwise(found):
        moved = (after - before).flatten(1).square().mean(1).sqrt()
        assert (moved > 1e-6).all()
        assert torch.allclose(trace.residual[:, 0], moved, rtol=1e-6)


def test_an_iteration_that_leads_away_is_not_kept():
    class RunningOff:
        """2, 1, 1.1 and 9 in turn: the third is next to its guess, and the fourth far away from it."""

        def __init__(self):
            self.answers = iter([2.0, 1.0, 1.1, 9.0])

        def __call__(self, x, timestep, rows):
            return torch.full_like(x, next(self.answers))

    class Constant:
        def __call__(self, x, timestep, rows):
            return torch.full_like(x, 1.1)

    levels, image = grid(1), images(2, dtype=torch.float64)
    ran_off, trace = abduct(FixedPoint(tolerance=0.0, iterations=4), image, levels, RunningOff())
    settled, _ = abduct(FixedPoint(tolerance=0.0, iterations=3), image, levels, Constant())
    assert torch.allclose(ran_off, settled)
    assert torch.allclose(trace.residual, torch.full_like(trace.residual, 0.1 * levels.alphas[-1] * levels.gap(1)))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_large_row_is_solved_in_as_many_steps_and_with_the_same_residual_in_any_company(two_threads):
    # 192x192: torch would divide the sum over one image among the threads, and not those over several
    levels, image = grid(2), torch.randn(8, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    together, trace = abduct(FixedPoint(iterations=3), image, levels, Gaussian())
    for row in range(8):
        alone, its = abduct(FixedPoint(iterations=3), image[[row]], levels, Gaussian())
        assert torch.equal(alone[0], together[row])
        assert torch.equal(its.residual[0], trace.residual[row])
        assert torch.equal(its.evaluations[0], trace.evaluations[row])


def test_a_sum_over_a_row_is_the_same_in_any_company(two_threads):
    images = torch.randn(7, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    for memory in (torch.contiguous_format, torch.channels_last):
        laid = images.contiguous(memory_format=memory)
        assert torch.allclose(row_sum(laid).double(), laid.double().sum((1, 2, 3)), atol=1e-2)
        assert all(torch.equal(row_sum(laid[[row]])[0], row_sum(laid)[row]) for row in range(7))


DRAWING = [
    FixedPoint(tolerance=1e-12, iterations=500), Anderson(tolerance=1e-12, iterations=500),
    Heun(tolerance=1e-12, iterations=500), DPMSolverPP(), OBELM(),
]  # fmt: skip


@pytest.mark.parametrize("spread", [1.0, 0.5])
@pytest.mark.parametrize("solver", DRAWING, ids=lambda solver: type(solver).__name__)
def test_where_an_image_cannot_be_another_its_noise_is_that_of_the_forward_process(solver, spread):
    # c = 0: the exact noise prediction is (x - alpha m) / sigma, so that x_i = alpha_i m + sigma_i n at every level, n as drawn
    levels, predict, image = grid(20), Gaussian(spread=0.0), torch.full((6, *SHAPE), MEAN, dtype=torch.float64)
    everywhere = torch.ones_like(image, dtype=torch.bool)
    solver, fresh = replace(solver, draw_flat=spread), spread * normal(6, 1, *SHAPE, seed=1)[:, 0]
    noise, trace = solver.abduct(image, levels, predict, lambda *shape: normal(6, *shape, seed=1), everywhere)
    last = noise if noise.shape == image.shape else noise[:, 0]
    assert torch.allclose(last, levels.alphas[-1] * MEAN + levels.sigmas[-1] * fresh, atol=1e-8)  # 20 levels, solved to 1e-12
    assert torch.allclose(solver.sample(noise, levels, predict), image, atol=1e-8)
    assert trace.drawn.tolist() == [1.0] * 6
    kept, trace = solver.abduct(image, levels, predict, lambda *shape: normal(6, *shape, seed=1), ~everywhere)
    assert rms(kept if kept.shape == image.shape else kept[:, 0]) < 0.1  # what inversion leaves, with no draw
    assert trace.drawn.tolist() == [0.0] * 6


@pytest.mark.parametrize("solver", DRAWING, ids=lambda solver: type(solver).__name__)
def test_noise_is_drawn_for_flat_pixels_alone_and_only_if_asked(solver):
    levels, predict, image = grid(20), Gaussian(), images(4, dtype=torch.float64)
    some = torch.zeros_like(image, dtype=torch.bool)
    some[1:3, :, :2] = True
    noise, trace = solver.abduct(image, levels, predict, lambda *shape: normal(4, *shape), some)
    without, _ = abduct(solver, image, levels, predict)
    last, before = (found if found.shape == image.shape else found[:, 0] for found in (noise, without))
    assert trace.drawn.tolist() == [0.0, 0.5, 0.5, 0.0]
    assert torch.allclose(last[~some], before[~some], atol=1e-9)  # every pixel of this denoiser is alone
    assert (last[some] != before[some]).all()
    asked = replace(solver, draw_flat=0.0)
    assert asked.identified
    assert not solver.identified
    again, trace = asked.abduct(image, levels, predict, lambda *shape: normal(4, *shape), some)
    assert torch.equal(again, without)
    assert not trace.drawn.any()


@pytest.mark.parametrize("spread", [-0.1, 1.1, math.nan])
def test_a_spread_outside_0_to_1_is_an_error(spread):
    for solver in DRAWING:
        with pytest.raises(DataError, match=r"draw_flat=.* from 0 to 1"):
            replace(solver, draw_flat=spread)


@pytest.mark.parametrize("solver", [DDIM(), EDICT()], ids=lambda solver: type(solver).__name__)
def test_published_baselines_and_exact_pairs_draw_nothing(solver):
    levels, predict, image = grid(20), Gaussian(), images(4)
    everywhere = torch.ones_like(image, dtype=torch.bool)
    noise, trace = solver.abduct(image, levels, predict, lambda *shape: normal(4, *shape), everywhere)
    assert torch.equal(noise, abduct(solver, image, levels, predict)[0])
    assert not trace.drawn.any()


@pytest.mark.parametrize("steps", [1, 10, 100, 1000])
def test_a_power_spaces_levels_with_one_timestep_each_up_to_the_last(steps):
    timesteps = grid(steps, 2.3).timesteps
    assert len(timesteps) == steps
    assert timesteps[-1] == 999
    assert all(low < high for low, high in itertools.pairwise(timesteps))


def test_edit_friendly_maps_are_a_draw_that_gives_the_image():
    levels, predict, image = grid(50, 2.0), Gaussian(), images(16)
    solver = EditFriendly()
    (one, _), (other, _) = abduct(solver, image, levels, predict, seed=1), abduct(solver, image, levels, predict, seed=2)
    assert not solver.identified
    assert not torch.allclose(one, other)
    for noise in (one, other):
        # the last step adds no noise: what is left is of the size of level 1, which the network has to denoise
        assert rms(solver.sample(noise, levels, predict) - image) < 2 * levels.sigmas[1]
        assert float(noise.std()) > 1  # larger than the sampler's own, as the paper reports


def test_edit_friendly_sampling_is_the_ancestral_sampler_of_diffusers():
    from diffusers import DDIMScheduler

    predict, steps, rows = Gaussian(), 20, torch.arange(4)
    theirs = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True)
    theirs.set_timesteps(steps)
    noise = normal(4, *shape_of(EditFriendly(), steps))
    image = noise[:, 0]
    for place, timestep in enumerate(theirs.timesteps.tolist(), start=1):
        last = place == steps
        given = {"eta": 0.0} if last else {"eta": 1.0, "variance_noise": noise[:, place]}
        image = theirs.step(predict(image, timestep, rows), timestep, image, **given).prev_sample
    assert torch.allclose(EditFriendly().sample(noise, grid(steps), predict), image, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FixedPoint(tolerance=-1), "tolerance=-1"),
        (lambda: FixedPoint(iterations=0), "iterations=0"),
        (lambda: Anderson(memory=0), "memory=0"),
        (lambda: EDICT(mixing=0), "mixing=0"),
        (lambda: solver_from_dict({"solver": "euler"}), "no solver 'euler'.*FixedPoint, Anderson, DDIM"),
    ],
)
def test_a_solver_that_makes_no_sense_is_refused(make, words):
    with pytest.raises(DataError, match=words):
        make()
