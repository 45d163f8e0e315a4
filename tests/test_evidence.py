"""Partial evidence: posteriors of missing attributes against brute force, Gaussian conditioning and quadrature."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from scipy import stats
from sklearn.neighbors import KNeighborsRegressor

import causalcf as ccf
from causalcf import evidence
from causalcf.attributes import AdditiveNoise, Categorical, Equation, Flow, LinearGaussian
from causalcf.errors import AbductionError, DataError, NotFittedError
from causalcf.evidence import MechanismDistribution, draw_keys, infer_missing, value_program
from causalcf.graph import CausalGraph, Node
from causalcf.scm import SCM
from causalcf.seeds import RowGenerator, row_keys

# under the null hypothesis a p-value below this turns up once in ten thousand seeds; the seeds are fixed
P_VALUE = 1e-4


def sampled(scm, rows, seed=0):
    """Rows of the model's attributes in model space."""
    generator = RowGenerator(seed, np.arange(rows, dtype=np.uint64), "data")
    return scm.predict({name: scm.mechanisms[name].draw_noise(generator.stream(name)) for name in scm.graph.attributes})


def seen(scm, rows, *missing):
    return {name: torch.full((rows,), name not in missing) for name in scm.graph.attributes}


def infer(scm, values, *missing, **settings):
    rows = len(next(iter(values.values())))
    return infer_missing(scm, values, seen(scm, rows, *missing), pd.RangeIndex(rows), **settings)


def of_one(**values):
    """One row: integers are codes of categories."""
    return {
        name: torch.tensor([value], dtype=torch.int64 if isinstance(value, int) else torch.float64)
        for name, value in values.items()
    }


# ---- discrete models


def discrete(states, edges, tables):
    """A model of categories n0, n1, ... with these tables; edges are pairs of numbers, cause first."""
    nodes, mechanisms = [], {}
    for place, count in enumerate(states):
        parents = [f"n{a}" for a, b in edges if b == place]
        nodes.append(Node(f"n{place}", "categorical", states=range(count), parents=parents))
        mechanisms[f"n{place}"] = Categorical(probabilities=tables[place])
    return SCM(CausalGraph("discrete", nodes), mechanisms)


def joint_table(states, edges, tables):
    """p(n0, n1, ...) by multiplying numbers one by one."""
    joint = np.empty(states)
    for cell in itertools.product(*map(range, states)):
        p = 1.0
        for place, code in enumerate(cell):
            p *= tables[place][(*(cell[a] for a, b in edges if b == place), code)]
        joint[cell] = p
    return joint


@st.composite
def discrete_cases(draw):
    size = draw(st.integers(1, 5))
    states = [draw(st.integers(2, 3)) for _ in range(size)]
    edges = [(a, b) for b in range(size) for a in range(b) if draw(st.booleans())]
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    tables = []
    for place, count in enumerate(states):
        shape = [states[a] for a, b in edges if b == place]
        tables.append(random.dirichlet(np.full(count, 0.5), size=shape) if shape else random.dirichlet(np.full(count, 0.5)))
    observed = np.array([[draw(st.booleans()) for _ in range(size)] for _ in range(3)])
    return states, edges, tables, observed


@settings(max_examples=15, deadline=None, derandomize=True)
@given(discrete_cases())
def test_the_posterior_of_categories_is_that_of_brute_force(case):
    states, edges, tables, observed = case
    scm, joint = discrete(states, edges, tables), joint_table(states, edges, tables)
    values = sampled(scm, len(observed))
    mask = {f"n{place}": torch.from_numpy(observed[:, place].copy()) for place in range(len(states))}
    posterior = infer_missing(scm, values, mask, pd.RangeIndex(len(observed)), draws=50)
    assert set(posterior.method) <= {"observed", "enumerate"}
    assert torch.isinf(posterior.ess).all()
    for row, told in enumerate(observed):
        cell = tuple(int(values[f"n{place}"][row]) if given else slice(None) for place, given in enumerate(told))
        slab = joint[cell]
        assert math.isclose(float(posterior.log_evidence[row]), math.log(slab.sum()), abs_tol=1e-9)
        hidden = np.flatnonzero(~told)
        for axis, place in enumerate(hidden):
            exact = slab.sum(tuple(other for other in range(len(hidden)) if other != axis)) / slab.sum()
            np.testing.assert_allclose(posterior.probabilities[f"n{place}"][row], exact, atol=1e-9)
        for place in np.flatnonzero(told):
            assert (posterior.values[f"n{place}"][:, row] == values[f"n{place}"][row]).all()


SPRINKLER = (
    [2, 2, 2, 2],  # cloudy, sprinkler, rain, wet
    [(0, 1), (0, 2), (1, 3), (2, 3)],
    [
        np.array([0.5, 0.5]),
        np.array([[0.5, 0.5], [0.9, 0.1]]),
        np.array([[0.8, 0.2], [0.2, 0.8]]),
        np.array([[[1.0, 0.0], [0.1, 0.9]], [[0.1, 0.9], [0.01, 0.99]]]),
    ],
)


def test_draws_of_categories_follow_their_joint_posterior():
    scm, joint = discrete(*SPRINKLER), joint_table(*SPRINKLER)
    n = 4000
    for method in ("enumerate", "importance"):
        found = infer(scm, of_one(n0=0, n1=0, n2=0, n3=1), "n0", "n1", "n2", draws=n, method=method, particles=10 * n)
        exact = (joint[..., 1] / joint[..., 1].sum()).ravel()
        place = 4 * found.values["n0"] + 2 * found.values["n1"] + found.values["n2"]
        counts = np.bincount(place[:, 0].numpy(), minlength=8)
        assert counts[exact == 0].sum() == 0
        # stratified draws lie closer to their expectation than independent ones, so the test is a safe one
        kept = exact > 0
        assert stats.chisquare(counts[kept], n * exact[kept]).pvalue > P_VALUE
        assert found.method[0] == method


def test_a_wet_lawn_makes_sprinkler_and_rain_dependent_and_rain_explains_the_sprinkler_away():
    scm = discrete([2, 2, 2], [(0, 2), (1, 2)], [[0.7, 0.3], [0.8, 0.2], SPRINKLER[2][3]])
    wet = infer(scm, of_one(n0=0, n1=0, n2=1), "n0", "n1")
    rained = infer(scm, of_one(n0=0, n1=1, n2=1), "n0")
    unknown = infer(scm, of_one(n0=0, n1=1, n2=1), "n0", "n2")  # rain alone says nothing about the sprinkler
    p_wet = 0.3 * 0.8 * 0.9 + 0.3 * 0.2 * 0.99 + 0.7 * 0.2 * 0.9
    assert math.isclose(float(wet.probabilities["n0"][0, 1]), (0.3 * 0.8 * 0.9 + 0.3 * 0.2 * 0.99) / p_wet, abs_tol=1e-12)
    assert math.isclose(float(rained.probabilities["n0"][0, 1]), 0.3 * 0.99 / (0.3 * 0.99 + 0.7 * 0.9), abs_tol=1e-12)
    assert math.isclose(float(unknown.probabilities["n0"][0, 1]), 0.3, abs_tol=1e-12)
    dependent = torch.corrcoef(torch.stack([wet.values["n0"][:, 0], wet.values["n1"][:, 0]]).double())[0, 1]
    assert float(dependent) < -0.3


def test_pyros_own_enumeration_gives_the_same_posterior():
    scm = discrete(*SPRINKLER)
    posterior = infer(scm, of_one(n0=0, n1=0, n2=0, n3=1), "n0", "n1", "n2")

    def log_evidence(**told):
        model = config_enumerate(pyro.condition(value_program, of_one(n3=1, **told)), "parallel")
        return -TraceEnum_ELBO(max_plate_nesting=1).loss(lambda: model(scm, 1), lambda: None)

    assert math.isclose(log_evidence(), float(posterior.log_evidence[0]), abs_tol=1e-9)
    for name in ("n0", "n1", "n2"):
        exact = [math.exp(log_evidence(**{name: code}) - log_evidence()) for code in range(2)]
        np.testing.assert_allclose(posterior.probabilities[name][0], exact, atol=1e-9)


def test_missing_categories_that_observed_ones_separate_are_enumerated_apart():
    states, pairs = [2] * 40, [(k, k + 1) for k in range(39)]  # a chain, every other link missing: 2^20 combinations
    random = np.random.default_rng(0)
    tables = [random.dirichlet([1, 1]), *(random.dirichlet([1, 1], size=2) for _ in pairs)]
    scm = discrete(states, pairs, tables)
    values, missing = sampled(scm, 2), [f"n{k}" for k in range(1, 39, 2)]
    posterior = infer(scm, values, *missing)
    assert (posterior.method == "enumerate").all()
    for k in range(1, 39, 2):
        for row in range(2):
            before, after = int(values[f"n{k - 1}"][row]), int(values[f"n{k + 1}"][row])
            exact = tables[k][before] * tables[k + 1][:, after]
            np.testing.assert_allclose(posterior.probabilities[f"n{k}"][row], exact / exact.sum(), atol=1e-12)


def test_categories_with_too_many_combinations_are_sampled_and_still_right():
    random = np.random.default_rng(1)
    links = [(k, k + 1) for k in range(13)]  # a chain of which the last is observed: 2^13 combinations of the others
    tables = [random.dirichlet([2, 2]), *(random.dirichlet([2, 2], size=2) for _ in links)]
    scm = discrete([2] * 14, links, tables)
    values = of_one(**{f"n{k}": 1 for k in range(14)})
    posterior = infer(scm, values, *[f"n{k}" for k in range(13)], particles=20_000, draws=20)
    assert posterior.method[0] == "importance"
    for place in range(13):
        before = np.linalg.multi_dot([tables[0], *tables[1 : place + 1], np.eye(2)])
        after = np.linalg.multi_dot([np.eye(2), *tables[place + 1 :], [0, 1]])
        exact = before * after / (before @ after)
        error = math.sqrt(exact[0] * exact[1] / float(posterior.ess[0]))
        assert abs(float(posterior.probabilities[f"n{place}"][0, 1]) - exact[1]) < 5 * error
    assert abs(float(posterior.log_evidence[0]) - math.log(before @ after)) < 5 / math.sqrt(float(posterior.ess[0]))
    with pytest.raises(AbductionError, match=r"cannot enumerate the missing n0, n1, .* of row 0: they have 8192 combinations"):
        infer(scm, values, *[f"n{k}" for k in range(13)], method="enumerate")


# ---- linear-Gaussian models

LINEAR = {  # intercept, scale and coefficients
    "a": (1.0, 2.0, {}),
    "b": (0.0, 1.0, {"a": 0.5}),
    "c": (3.0, 0.1, {"a": 1.0, "b": -2.0}),
    "d": (0.0, 1.0, {"c": 0.3}),
    "e": (-2.0, 0.7, {"b": 2.0, "d": 1.0}),
}


def linear(model):
    nodes = [Node(name, "continuous", parents=list(coefficients)) for name, (_, _, coefficients) in model.items()]
    mechanisms = {
        name: LinearGaussian(intercept=intercept, scale=scale, coefficients=coefficients)
        for name, (intercept, scale, coefficients) in model.items()
    }
    return SCM(CausalGraph("linear", nodes), mechanisms)


def moments(model):
    """Mean and covariance of all nodes: x = B x + c + e."""
    names = list(model)
    slopes, size = np.zeros((len(names), len(names))), len(names)
    for row, name in enumerate(names):
        for parent, slope in model[name][2].items():
            slopes[row, names.index(parent)] = slope
    total = np.linalg.inv(np.eye(size) - slopes)
    return total @ [model[name][0] for name in names], total @ np.diag([model[name][1] ** 2 for name in names]) @ total.T


def conditioned(model, values, missing):
    """Mean (missing, row), covariance of the missing nodes and log density of the observed ones, in closed form."""
    names = list(model)
    mean, covariance = moments(model)
    m, o = ([k for k, name in enumerate(names) if (name in missing) == wanted] for wanted in (True, False))
    if not o:
        return np.repeat(mean[m, None], len(values[names[0]]), 1), covariance, np.zeros(len(values[names[0]]))
    observed = np.stack([values[names[k]].numpy() for k in o])
    gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
    density = stats.multivariate_normal(mean[o], covariance[np.ix_(o, o)]).logpdf(observed.T)
    return (
        mean[m][:, None] + gain @ (observed - mean[o][:, None]),
        covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)],
        np.atleast_1d(density),
    )


def check_gaussian(model, values, missing, posterior, draws):
    """Mean, covariance and evidence against the closed form, all rows pooled as well: the bias is that of sqrt(rows) rows."""
    mean, covariance, density = conditioned(model, values, missing)
    ordered = [name for name in model if name in missing]
    found = torch.stack([posterior.values[name] for name in ordered]).numpy()  # (node, draw, row)
    sd = np.sqrt(np.diag(covariance))
    rows = found.shape[2]
    # a mean of draws that were resampled from particles errs by both
    error = np.sqrt(1 / draws + 1 / posterior.ess.numpy())
    z = (found.mean(1) - mean) / sd[:, None] / error
    assert np.abs(z).max() < 5
    assert np.abs(z.mean(1)).max() < 5 / np.sqrt(rows)
    centred = (found - mean[:, None]) / sd[:, None, None]
    correlation = np.einsum("idr,jdr->ij", centred, centred) / (draws * rows)
    assert np.abs(correlation - covariance / np.outer(sd, sd)).max() < 5 * math.sqrt(2) * error.max() / np.sqrt(rows)
    return density


@pytest.mark.parametrize("missing", [["a"], ["c"], ["e"], ["a", "b"], ["b", "e"], ["a", "c", "d"], list("abcde")], ids="".join)
def test_missing_numbers_of_a_linear_model_follow_gaussian_conditioning(missing):
    scm, rows, draws = linear(LINEAR), 30, 200
    values = sampled(scm, rows)
    posterior = infer(scm, values, *missing, draws=draws)
    density = check_gaussian(LINEAR, values, missing, posterior, draws)
    # the log of a mean of weights errs by sqrt(1 / ess - 1 / particles), here at most by sqrt(1 / ess)
    assert (np.abs(posterior.log_evidence.numpy() - density) < 5 / np.sqrt(posterior.ess.numpy()) + 1e-9).all()
    exact = not set(scm.graph.attributes) - set(missing) or missing == ["e"]
    assert (posterior.method == ("forward" if exact else "importance")).all()
    assert posterior.reliable.all()


def test_evidence_that_is_ten_thousand_times_sharper_than_the_model_keeps_the_particles_effective():
    model = {"a": (0.0, 10.0, {}), "b": (5.0, 1e-3, {"a": 1.0})}
    scm = linear(model)
    values = sampled(scm, 10)
    posterior = infer(scm, values, "a")
    check_gaussian(model, values, ["a"], posterior, 200)
    assert float(posterior.ess.min()) > 200  # of 500


def test_evidence_that_the_model_finds_next_to_impossible_is_followed_into_the_tail():
    model = {"a": (0.0, 1.0, {}), "b": (0.0, 0.5, {"a": 1.0})}
    values = of_one(a=0.0, b=20.0)  # the posterior lies at sixteen standard deviations of the prior
    posterior = infer(linear(model), values, "a")
    density = check_gaussian(model, values, ["a"], posterior, 200)
    assert abs(float(posterior.log_evidence[0]) - density[0]) < 5 / math.sqrt(float(posterior.ess[0]))


def test_a_counterfactual_of_a_row_with_a_missing_cause_follows_the_closed_form():
    """a -> b -> c, a -> c; a is missing: c under do(b) is a + u_c under the posterior of both, shifted by the slope."""
    model = {"a": (0.0, 1.0, {}), "b": (0.0, 1.0, {"a": 1.0}), "c": (0.0, 0.5, {"a": 2.0, "b": 1.0})}
    scm, draws, rows = linear(model), 1000, 10
    values = sampled(scm, rows)
    posterior = infer(scm, values, "a", draws=draws, particles=5000)
    noise = posterior.noise(scm)
    assert all(value.shape == (draws * rows,) for value in noise.values())
    do = {"b": torch.full((draws * rows,), 3.0, dtype=torch.float64)}
    answer = scm.predict(noise, do)["c"].reshape(draws, rows)
    # c - c' = b - 3 whatever a is, so the answer is certain though a is not
    torch.testing.assert_close(answer, (values["c"] - values["b"] + 3.0).expand(draws, rows), rtol=0, atol=1e-12)
    effect = scm.predict(noise, {"a": torch.zeros(draws * rows, dtype=torch.float64)})["c"].reshape(draws, rows)
    mean, covariance, _ = conditioned(model, values, ["a"])
    expected = values["c"].numpy() - 3 * mean[0]  # u_c + u_b = c - 3 a
    error = 3 * math.sqrt(covariance[0, 0]) * np.sqrt(1 / draws + 1 / posterior.ess.numpy())
    assert (np.abs(effect.mean(0).numpy() - expected) < 5 * error).all()
    assert math.isclose(float(effect.var(0).mean()), 9 * covariance[0, 0], rel_tol=5 * math.sqrt(2 / draws / rows))


def test_the_noise_of_a_completed_row_explains_it():
    scm, draws = linear(LINEAR), 20
    values = sampled(scm, 4)
    posterior = infer(scm, values, "b", "e", draws=draws)
    again = scm.predict(posterior.noise(scm))
    for name, value in posterior.values.items():
        torch.testing.assert_close(again[name].reshape(draws, 4), value, rtol=0, atol=1e-12)
    torch.testing.assert_close(again["a"].reshape(draws, 4)[7], values["a"], rtol=0, atol=1e-12)


# ---- numbers that are not Gaussian, and numbers with categories


def mixed(effect_scale=1.0):
    """group -> dose (positive), group -> score, dose -> score, score -> late."""
    nodes = [
        Node("group", "categorical", states=["x", "y", "z"]),
        Node("dose", "continuous", support=(0, math.inf), parents=["group"]),
        Node("score", "continuous", parents=["group", "dose"]),
        Node("late", "binary", parents=["group"]),
    ]
    flow = Flow(
        bins=0,
        spec={"support": [0.0, None], "mean": 0.5, "scale": 0.8, "parents": [{"name": "group", "states": 3}]},
    )
    with torch.no_grad():
        flow.affine.network.linear.weight[0] = torch.tensor([-1.0, 0.0, 1.0])
        flow.affine.network.linear.weight[1] = torch.tensor([0.3, 0.0, -0.5])
    mechanisms = {
        "group": Categorical(probabilities=[0.2, 0.5, 0.3]),
        "dose": flow.eval(),
        "score": LinearGaussian(intercept=1.0, coefficients={"group": [0.0, 2.0, -1.0], "dose": 1.5}, scale=effect_scale),
        "late": Categorical(probabilities=[[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]),
    }
    return SCM(CausalGraph("clinic", nodes), mechanisms)


def quadrature(score, late, effect_scale=1.0):
    """p(group | score, late), and the mean of dose, by the trapezoid rule on the logarithm of dose."""
    y = np.linspace(-8, 8, 20_001)
    dose, weights, means = np.exp(y), [], []
    for group, (p, shift, log_scale, added, late_p) in enumerate(
        zip([0.2, 0.5, 0.3], [-1, 0, 1], [0.3, 0, -0.5], [0, 2, -1], [0.1, 0.6, 0.8], strict=True)
    ):
        density = stats.norm(0.5 + 0.8 * shift, 0.8 * math.exp(log_scale)).pdf(y)
        density = density * stats.norm(1 + added + 1.5 * dose, effect_scale).pdf(score)
        weights.append(p * (late_p if late else 1 - late_p) * np.trapezoid(density, y))
        means.append(np.trapezoid(density * dose, y) / np.trapezoid(density, y))
        assert group < 3
    p = np.array(weights) / sum(weights)
    return p, float(p @ means), math.log(sum(weights))


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_missing_numbers_and_categories_together_agree_with_quadrature(scale):
    told = [(4.0, 1), (9.0, 0), (1.5, 1)]  # as many as there are groups, so that a mix-up of the two shows
    values = {name: value.repeat(3) for name, value in of_one(group=0, dose=1.0).items()}
    values |= {"score": torch.tensor([score for score, _ in told]).double(), "late": torch.tensor([late for _, late in told])}
    posterior = infer(mixed(scale), values, "group", "dose", draws=500, particles=6000)
    assert (posterior.method == "importance").all()
    for row, (score, late) in enumerate(told):
        p, mean, log_evidence = quadrature(score, late, scale)
        ess, dose = float(posterior.ess[row]), posterior.values["dose"][:, row]
        np.testing.assert_allclose(posterior.probabilities["group"][row], p, atol=5 * 0.5 / math.sqrt(ess))
        assert abs(float(posterior.log_evidence[row]) - log_evidence) < 5 / math.sqrt(ess)
        assert abs(float(dose.mean()) - mean) < 5 * float(dose.std()) * math.sqrt(1 / 500 + 1 / ess)
        assert (dose > 0).all()
        # what is drawn explains the score: the pair of them, not each by itself
        left = score - 1 - torch.tensor([0.0, 2.0, -1.0])[posterior.values["group"][:, row]] - 1.5 * dose
        assert float(left.abs().max()) < 5 * scale


def squared():
    """b is the square of a, nearly."""
    nodes = [Node("a", "continuous"), Node("b", "continuous", parents=["a"])]
    square = Equation(lambda u, pa: pa["a"] ** 2 + 0.1 * u, lambda x, pa: (x - pa["a"] ** 2) / 0.1)
    return SCM(CausalGraph("square", nodes), {"a": LinearGaussian(intercept=0.0, coefficients={}, scale=2.0), "b": square})


def test_a_posterior_with_two_modes_keeps_both():
    posterior = infer(squared(), of_one(a=0.0, b=4.0), "a", particles=2000)
    a, ess = posterior.values["a"][:, 0], float(posterior.ess[0])
    assert abs(float((a > 0).double().mean()) - 0.5) < 5 * 0.5 * math.sqrt(1 / 200 + 1 / ess)
    assert ((a.abs() - 2).abs() < 0.2).all()  # the sd of a is 0.1 / (2 * 2)


def test_only_the_rows_that_need_more_particles_get_them(monkeypatch):
    calls, honest = [], evidence._importance

    def spied(scm, component, given, generator, particles):
        calls.append((len(generator), particles))
        return honest(scm, component, given, generator, particles)

    monkeypatch.setattr(evidence, "_importance", spied)
    b = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0]).double()
    posterior = infer(squared(), {"a": torch.zeros(5).double(), "b": b}, "a", particles=200)
    (first, second) = calls
    assert first == (5, 200)
    assert second == (2, 1600)
    assert float(posterior.ess.min()) > 100
    assert ((posterior.values["a"].square() - b).abs() < 5 * 0.1).all()


# ---- NUTS


@pytest.mark.filterwarnings("ignore:the missing values of 1 rows")  # short chains
def test_nuts_agrees_with_gaussian_conditioning(monkeypatch):
    monkeypatch.setattr(evidence, "_NUTS_WARMUP", 50)
    monkeypatch.setattr(evidence, "_NUTS_SAMPLES", 100)
    model = {"a": (1.0, 2.0, {}), "b": (0.0, 1.0, {"a": 0.5})}
    values = sampled(linear(model), 1)
    posterior = infer(linear(model), values, "a", draws=100, method="nuts")
    assert posterior.method[0] == "nuts"
    check_gaussian(model, values, ["a"], posterior, 100)


@pytest.mark.filterwarnings("ignore:the missing values of 1 rows")
def test_nuts_sums_missing_categories_out_and_draws_them_again(monkeypatch):
    monkeypatch.setattr(evidence, "_NUTS_WARMUP", 40)
    monkeypatch.setattr(evidence, "_NUTS_SAMPLES", 60)
    state = torch.get_rng_state()
    posterior = infer(mixed(), of_one(group=0, dose=1.0, score=4.0, late=1), "group", "dose", draws=60, method="nuts")
    assert torch.equal(torch.get_rng_state(), state)
    p, mean, _ = quadrature(4.0, 1)
    dose, ess = posterior.values["dose"][:, 0], max(float(posterior.ess[0]), 10)
    assert abs(float(dose.mean()) - mean) < 5 * float(dose.std()) * math.sqrt(1 / 60 + 1 / ess)
    np.testing.assert_allclose(posterior.probabilities["group"][0], p, atol=5 * 0.5 / math.sqrt(ess))
    group = posterior.values["group"][:, 0]
    share = torch.bincount(group, minlength=3) / 60
    np.testing.assert_allclose(share, p, atol=5 * 0.5 * math.sqrt(1 / 60 + 1 / ess))
    # they were drawn given the numbers: a dose that alone would not reach the score goes with the group that adds to it
    together = torch.corrcoef(torch.stack([torch.tensor([0.0, 2.0, -1.0])[group].double(), dose]))[0, 1]
    assert float(together) < -0.5  # -0.86 by importance sampling


def test_nuts_refuses_a_mechanism_without_derivatives():
    nodes = [Node("a", "continuous"), Node("b", "continuous", parents=["a"])]
    no_formula = Equation(lambda u, pa: pa["a"] + u)  # its inverse is found by bisection
    scm = SCM(CausalGraph("steps", nodes), {"a": LinearGaussian(intercept=0.0, coefficients={}, scale=1.0), "b": no_formula})
    with pytest.raises(AbductionError, match=r"'b' has no derivatives, being a Equation, and NUTS needs them. Use method='auto'"):
        infer(scm, of_one(a=0.0, b=1.0), "a", method="nuts")
    assert infer(scm, of_one(a=0.0, b=1.0), "a").reliable.all()


def test_a_regressor_of_scikit_learn_can_be_inferred_through_but_not_by_nuts():
    nodes = [Node("a", "continuous"), Node("b", "continuous", parents=["a"])]
    draw = RowGenerator(0, np.arange(300, dtype=np.uint64), "data")
    a = draw.normal()
    frame = pd.DataFrame({"a": a, "b": torch.sin(2 * a) + 0.3 * draw.normal()})
    graph = CausalGraph("wave", nodes)
    scm = ccf.fit(
        SCM(graph, {"a": LinearGaussian(intercept=0.0, coefficients={}, scale=1.0), "b": AdditiveNoise(KNeighborsRegressor(20))}),
        ccf.Batch(graph, frame),
    )
    posterior = infer(scm, of_one(a=0.0, b=0.9), "a")
    assert abs(float(posterior.values["a"].mean()) - math.pi / 4) < 0.5
    with pytest.raises(AbductionError, match="'b' has no derivatives"):
        infer(scm, of_one(a=0.0, b=0.9), "a", method="nuts")


# ---- the Pyro program


def test_the_program_of_values_has_the_density_of_the_model():
    scm = mixed()
    values = sampled(scm, 50)
    trace = poutine.trace(pyro.condition(value_program, values)).get_trace(scm, 50)
    trace.compute_log_prob()
    total = sum(trace.nodes[name]["log_prob"] for name in scm.graph.attributes).detach().numpy()
    frame = ccf.Batch(scm.graph, pd.DataFrame({n: v if n != "group" else np.array(list("xyz"))[v] for n, v in values.items()}))
    np.testing.assert_allclose(total, scm.log_likelihood(frame), rtol=1e-12)


def test_the_programs_of_values_and_of_noise_have_the_same_distribution():
    scm, n = mixed(), 4000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        of_values, of_noise = value_program(scm, n), scm.program(n)
    for group in range(3):
        # given its category: a joint distribution, seen through a sum with an irrational weight as well
        ours, theirs = ({k: v[part["group"] == group] for k, v in part.items()} for part in (of_values, of_noise))
        for see in (lambda v: v["dose"], lambda v: v["score"], lambda v: v["score"] - math.sqrt(2) * v["dose"] + v["late"]):
            assert stats.ks_2samp(see(ours).numpy(), see(theirs).numpy()).pvalue > P_VALUE
    counts = [np.bincount(part["group"] * 2 + part["late"], minlength=6) for part in (of_values, of_noise)]
    assert stats.chi2_contingency(counts).pvalue > P_VALUE


def test_a_mechanism_is_a_pyro_distribution():
    scm = mixed()
    group = torch.tensor([0, 1, 2])
    label = MechanismDistribution(scm.graph.node("late"), scm.mechanisms["late"], {"group": group})
    number = MechanismDistribution(scm.graph.node("dose"), scm.mechanisms["dose"], {"group": group})
    assert label.has_enumerate_support
    assert not number.has_enumerate_support
    assert label.batch_shape == number.batch_shape == (3,)
    assert label.enumerate_support().tolist() == [[0, 0, 0], [1, 1, 1]]
    assert label.enumerate_support(expand=False).tolist() == [[0], [1]]
    torch.testing.assert_close(label.log_prob(label.enumerate_support()).exp().sum(0), torch.ones(3).double())
    assert number.expand((4, 3)).sample((2,)).shape == (2, 4, 3)
    assert number.support.check(number.sample((100,))).all()
    assert number.log_prob(torch.ones(5, 1).double()).shape == (5, 3)
    bounded = MechanismDistribution(Node("x", "continuous", support=(2, 5)), scm.mechanisms["dose"], {})
    assert bounded.support.check(torch.tensor([1.0, 3.0, 6.0])).tolist() == [False, True, False]
    below = MechanismDistribution(Node("x", "continuous", support=(-math.inf, 5)), scm.mechanisms["dose"], {})
    assert below.support.check(torch.tensor([-9.0, 6.0])).tolist() == [True, False]


# ---- rows and seeds


def patchy(scm, rows, seed=3):
    """Rows of the model with holes of every pattern."""
    draw = RowGenerator(seed, np.arange(rows, dtype=np.uint64), "holes").uniform(len(scm.graph.attributes))
    return sampled(scm, rows), {name: draw[:, place] > 0.4 for place, name in enumerate(scm.graph.attributes)}


@pytest.mark.parametrize("scm", [linear(LINEAR), mixed(), discrete(*SPRINKLER)], ids=["linear", "mixed", "discrete"])
def test_a_row_is_inferred_as_in_the_batch_whatever_its_neighbours(scm):
    rows, index = 12, pd.Index([f"p{row}" for row in range(12)])
    values, mask = patchy(scm, rows)
    whole = infer_missing(scm, values, mask, index, draws=30)
    order = [7, 3, 11, 0]
    part = infer_missing(
        scm, {k: v[order] for k, v in values.items()}, {k: v[order] for k, v in mask.items()}, index[order], draws=30
    )
    for name in scm.graph.attributes:
        # sums of one row and of twelve may add in another order: rounding of float64
        torch.testing.assert_close(part.values[name], whole.values[name][:, order], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(part.ess, whole.ess[order], rtol=1e-9, atol=0)
    torch.testing.assert_close(part.log_evidence, whole.log_evidence[order], rtol=1e-9, atol=1e-9)
    assert (part.method == whole.method[order]).all()


def test_chunks_do_not_change_an_answer(monkeypatch):
    scm = mixed()
    values, mask = patchy(scm, 8)
    whole = infer_missing(scm, values, mask, pd.RangeIndex(8), draws=20)
    monkeypatch.setattr(evidence, "_AT_ONCE", 1)
    again = infer_missing(scm, values, mask, pd.RangeIndex(8), draws=20)
    for name in scm.graph.attributes:
        torch.testing.assert_close(again.values[name], whole.values[name], rtol=1e-9, atol=1e-9)


def test_another_seed_gives_other_draws_and_the_same_seed_the_same():
    scm = linear(LINEAR)
    values, state = sampled(scm, 3), torch.get_rng_state()
    first, again, other = (infer(scm, values, "b", "e", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.values["b"], again.values["b"])
    assert torch.equal(first.values["e"], again.values["e"])
    assert not (first.values["b"] == other.values["b"]).any()
    assert not (first.values["e"] == other.values["e"]).any()
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_garbage_where_it_is_missing_does_not_matter():
    scm = mixed()
    values = sampled(scm, 3)
    garbage = {**values, "dose": torch.full((3,), math.nan, dtype=torch.float64), "group": torch.full((3,), -1)}
    clean, dirty = (infer(scm, some, "group", "dose") for some in (values, garbage))
    for name in scm.graph.attributes:
        assert torch.equal(clean.values[name], dirty.values[name])


def test_each_draw_by_itself_is_a_draw_from_the_posterior():
    # resampling must not sort: over many rows, the first draw alone has the right frequencies
    scm, joint, n = discrete(*SPRINKLER), joint_table(*SPRINKLER), 3000
    values = {name: value.expand(n) for name, value in of_one(n0=0, n1=0, n2=0, n3=1).items()}
    posterior = infer(scm, values, "n0", "n1", "n2", draws=4)
    exact = (joint[..., 1] / joint[..., 1].sum()).ravel()
    for draw in range(4):
        place = 4 * posterior.values["n0"] + 2 * posterior.values["n1"] + posterior.values["n2"]
        counts = np.bincount(place[draw].numpy(), minlength=8)
        assert stats.chisquare(counts[exact > 0], n * exact[exact > 0]).pvalue > P_VALUE


def test_the_keys_of_draws_are_distinct_and_do_not_depend_on_their_number():
    keys = row_keys(pd.RangeIndex(100))
    many = draw_keys(keys, 50)
    assert len(np.unique(many)) == 5000
    assert (draw_keys(keys, 20) == many[:20]).all()
    assert (draw_keys(keys[3:4], 50)[:, 0] == many[:, 3]).all()


# ---- what the result says


def test_a_complete_row_is_itself_and_its_evidence_is_its_likelihood():
    scm = linear(LINEAR)
    values = sampled(scm, 5)
    posterior = infer(scm, values, draws=3)
    assert (posterior.method == "observed").all()
    for name, value in values.items():
        assert torch.equal(posterior.values[name], value.expand(3, 5))
    likelihood = scm.log_likelihood(ccf.Batch(scm.graph, pd.DataFrame({k: v.numpy() for k, v in values.items()})))
    np.testing.assert_allclose(posterior.log_evidence, likelihood, rtol=1e-12)
    assert posterior.summary().empty


def test_a_row_with_nothing_observed_is_a_draw_from_the_model():
    scm, rows = mixed(), 2000
    posterior = infer(scm, sampled(scm, rows), *scm.graph.attributes, draws=1)
    assert torch.equal(posterior.log_evidence, torch.zeros(rows).double())
    other = sampled(scm, rows, seed=9)
    for name in ("dose", "score"):
        assert stats.ks_2samp(posterior.values[name][0].numpy(), other[name].numpy()).pvalue > P_VALUE
    assert stats.chisquare(np.bincount(posterior.values["group"][0]), rows * np.array([0.2, 0.5, 0.3])).pvalue > P_VALUE


def test_the_summary_speaks_the_users_units_and_labels():
    scm = mixed()
    values = {name: value.expand(2) for name, value in of_one(group=1, dose=2.0, score=6.0, late=1).items()}
    mask = {name: torch.ones(2, dtype=torch.bool) for name in values}
    mask["group"] = torch.tensor([False, True])
    mask["dose"] = torch.tensor([True, False])
    posterior = infer_missing(scm, values, mask, pd.Index(["ann", "bob"], name="patient"))
    summary = posterior.summary()
    assert list(summary.index) == [("ann", "group"), ("bob", "dose")]
    dose = posterior.values["dose"][:, 1].numpy()
    line = summary.loc[("bob", "dose")]
    assert [line["mean"], line["sd"]] == [dose.mean(), dose.std(ddof=1)]
    assert [line["2.5%"], line["50%"], line["97.5%"]] == list(np.quantile(dose, [0.025, 0.5, 0.975]))
    label = summary.loc[("ann", "group")]
    assert label["most_likely"] == "y"
    assert list(label["probabilities"]) == ["x", "y", "z"]
    assert math.isclose(sum(label["probabilities"].values()), 1)
    assert repr(posterior) == "Posterior(draws=200, rows=2, missing=[group, dose])"


def test_a_latent_confounder_is_said_to_matter_where_it_does():
    graph = CausalGraph(
        "confounded",
        [Node("a", "continuous"), Node("b", "continuous", parents=["a"]), Node("c", "continuous")],
        bidirected=[("b", "c")],
    )
    known = {"intercept": 0.0, "scale": 1.0}
    mechanisms = {
        "a": LinearGaussian(coefficients={}, **known),
        "b": LinearGaussian(coefficients={"a": 1.0}, **known),
        "c": LinearGaussian(coefficients={}, **known),
    }
    scm, values = SCM(graph, mechanisms), of_one(a=0.0, b=1.0, c=1.0)
    doubtful = infer(scm, values, "a")
    assert not doubtful.identified.any()
    assert list(doubtful.why_not) == ["b <-> c"]
    assert not infer(scm, values, "c").identified.any()
    assert infer(scm, values).identified.all()
    assert infer(linear(LINEAR), sampled(linear(LINEAR), 1), "a").identified.all()


def test_an_image_is_never_inferred_and_an_unused_one_is_named(shipped):
    values = of_one(thickness=3.0, intensity=180.0, digit=3)
    mask = {name: torch.tensor([name != "thickness"]) for name in values}
    index = pd.Index(["a"])
    with_image = infer_missing(shipped, {**values, "image": torch.zeros(1, 1, 28, 28)}, mask, index)
    without = infer_missing(shipped, values, mask, index)
    assert with_image.unused == ("image",)
    assert without.unused == ()
    assert set(with_image.values) == {"thickness", "intensity", "digit"}
    assert torch.equal(with_image.values["thickness"], without.values["thickness"])
    everything = {name: torch.tensor([True]) for name in values}
    assert infer_missing(shipped, {**values, "image": torch.zeros(1, 1, 28, 28)}, everything, index).unused == ()


# ---- mistakes, and answers that may mislead


def test_evidence_of_probability_zero_is_an_error_that_names_the_row():
    scm = discrete(*SPRINKLER)
    values = {name: value.expand(2).clone() for name, value in of_one(n0=0, n1=0, n2=0, n3=0).items()}
    values["n3"][1] = 1  # neither sprinkler nor rain, but wet
    index = pd.Index(["ann", "bob"])
    with pytest.raises(AbductionError, match="row bob: the observed 'n3' is impossible given its observed causes"):
        infer_missing(scm, values, seen(scm, 2, "n0"), index)
    never = discrete([2, 2], [(0, 1)], [[0.5, 0.5], [[1.0, 0.0], [1.0, 0.0]]])
    for method in ("auto", "importance"):
        with pytest.raises(AbductionError, match="row 0: no value of n0 was found that explains the observed n1"):
            infer(never, of_one(n0=0, n1=1), "n0", method=method)


def test_too_few_effective_draws_are_said():
    nodes = [Node("a", "continuous"), Node("b", "continuous", parents=["a"])]
    needles = Equation(lambda u, pa: torch.sin(300 * pa["a"]) + 1e-4 * u, lambda x, pa: (x - torch.sin(300 * pa["a"])) / 1e-4)
    scm = SCM(CausalGraph("comb", nodes), {"a": LinearGaussian(intercept=0.0, coefficients={}, scale=1.0), "b": needles})
    with pytest.warns(UserWarning, match=r"missing values of 1 rows rest on fewer than 100 effective draws \(rows 0; [\d.]+ for"):
        posterior = infer(scm, of_one(a=0.0, b=0.3), "a", particles=200)
    assert not posterior.reliable.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        infer(linear(LINEAR), sampled(linear(LINEAR), 3), "a")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "gibbs"}, "method is one of auto, enumerate, importance, nuts, not 'gibbs'"),
        ({"draws": 0}, "cannot make 0 draws: draws is at least 1"),
        ({"particles": 10}, "particles=10 are too few: use at least 100"),
        ({"values": {"a": None}}, "values has no 'a'"),
        ({"observed": {"b": None}}, "observed has no 'b'. A missing attribute has a tensor too"),
        ({"values": {"a": torch.zeros(3)}}, r"values\['a'\] has shape \(3,\); 2 rows need \(2,\)"),
        ({"observed": {"a": torch.ones(2)}}, r"observed\['a'\] holds torch.float32; it takes True and False"),
        ({"values": {"c": torch.tensor([0.0, math.nan])}}, "'c' of row y is NaN or infinite but marked as observed"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(change, words):
    scm = linear(LINEAR)
    call = {"values": dict(sampled(scm, 2)), "observed": seen(scm, 2, "b"), "draws": 5}
    for key, part in change.items():
        if isinstance(part, dict):
            merged = {**call[key], **part}
            call[key] = {name: value for name, value in merged.items() if value is not None}
        else:
            call[key] = part
    with pytest.raises(DataError, match=words):
        infer_missing(scm, call.pop("values"), call.pop("observed"), pd.Index(["x", "y"]), **call)


def test_numbers_cannot_be_enumerated():
    scm = linear(LINEAR)
    with pytest.raises(AbductionError, match=r"cannot enumerate the missing a of row 0: 'a' is continuous. Use method='auto'"):
        infer(scm, sampled(scm, 1), "a", method="enumerate")


def test_a_model_that_was_never_fitted_says_so():
    scm = SCM(CausalGraph("bare", [Node("a", "continuous")]), {"a": Flow()})
    with pytest.raises(NotFittedError, match="never fitted"):
        infer(scm, of_one(a=0.0), "a")
