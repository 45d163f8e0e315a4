"""What every attribute mechanism promises, and the posteriors that published code got wrong."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import causalcf as ccf
from causalcf import training
from causalcf.attributes import Categorical, Flow
from causalcf.errors import DataError, NotFittedError
from causalcf.graph import CausalGraph, Node
from causalcf.seeds import RowGenerator

INF = math.inf
# under the null hypothesis a p-value below this turns up once in ten thousand seeds; the seeds are fixed
P_VALUE = 1e-4
AGE, SEX = Node("age", "continuous", unit="year"), Node("sex", "categorical", states=["f", "m", "other"])
STATES = ["a", "b", "c", "d", "e"]


def rows(n, seed=0, stream="test"):
    return RowGenerator(seed, np.arange(n, dtype=np.uint64), stream)


def parents_of(names, n, seed=1):
    draw = rows(n, seed, "parents")
    every = {"age": 50 + 10 * draw.normal(), "sex": (3 * draw.uniform()).long()}
    return {name: every[name] for name in names}


def perturbed(mechanism, size):
    """The mechanism with random parameters, as after some training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in mechanism.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return mechanism.eval()


def flow(support=None, names=(), bins=8, n=300):
    parents = parents_of(names, n)
    low, high = support or (-INF, INF)
    centre = rows(n, 2).normal() + (0.05 * (parents["age"] - 50) if "age" in parents else 0)
    if math.isfinite(low) and math.isfinite(high):
        value = low + (high - low) * torch.sigmoid(centre)
    elif math.isfinite(low):
        value = low + torch.exp(centre)
    elif math.isfinite(high):
        value = high - torch.exp(centre)
    else:
        value = 7 + 3 * centre
    mechanism = Flow(bins=bins)
    mechanism.prepare(Node("x", "continuous", support=support, parents=names), [AGE, SEX][: len(names)], value, parents)
    return perturbed(mechanism, 0.15)


def categorical(names=(), size=1.0, n=300):
    parents = parents_of(names, n)
    value = (5 * rows(n, 2).uniform()).long()
    mechanism = Categorical()
    node = Node("x", "categorical", states=STATES, parents=names)
    mechanism.prepare(node, [AGE, SEX][: len(names)], value, parents)
    return perturbed(mechanism, size)


BOTH = ("age", "sex")
FLOWS = {
    "root": {},
    "root, affine": {"bins": 0},
    "root, bounded": {"support": (0.5, 8)},
    "parents": {"names": BOTH},
    "parents, affine": {"names": BOTH, "bins": 0},
    "parents, bounded": {"names": BOTH, "support": (64, 255)},
    "parents, bounded below": {"names": BOTH, "support": (18, INF)},
    "parents, bounded above": {"names": BOTH, "support": (-INF, 5)},
}
every_flow = pytest.mark.parametrize("settings", FLOWS.values(), ids=FLOWS.keys())
every_category = pytest.mark.parametrize("names", [(), BOTH], ids=["root", "parents"])
MECHANISMS = {**{f"Flow, {name}": (flow, settings) for name, settings in FLOWS.items()}}
MECHANISMS |= {"Categorical, root": (categorical, {}), "Categorical, parents": (categorical, {"names": BOTH})}
every_mechanism = pytest.mark.parametrize(("make", "settings"), MECHANISMS.values(), ids=MECHANISMS.keys())


def drawn(mechanism, names, n, seed=5):
    """Draws from a mechanism, with the parents and the noise that they were drawn with."""
    parents = parents_of(names, n, seed)
    noise = mechanism.draw_noise(rows(n, seed, "noise"))
    return mechanism.predict(noise, parents), parents, noise


@every_mechanism
def test_predict_undoes_abduct(make, settings):
    mechanism = make(**settings)
    value, parents, _ = drawn(mechanism, settings.get("names", ()), 2000)
    again = mechanism.predict(mechanism.abduct(value, parents, generator=rows(2000)), parents)
    if value.dtype == torch.int64:
        assert torch.equal(again, value)
    else:
        # float64, a handful of operations each way, relative to the spread of the values
        assert float((again - value).abs().max() / value.std()) < 1e-9


@every_flow
def test_abduct_undoes_predict_where_the_value_determines_the_noise(settings):
    mechanism = flow(**settings)
    value, parents, noise = drawn(mechanism, settings.get("names", ()), 2000)
    assert Flow.identified
    assert float((mechanism.abduct(value, parents, generator=rows(2000)) - noise).abs().max()) < 1e-9


def of_one_row(names, row, n):
    return {name: value[row].expand(n) for name, value in parents_of(names, 5).items()}


@every_flow
def test_a_flow_is_strictly_monotone_in_its_noise(settings):
    mechanism, noise = flow(**settings), torch.linspace(-6, 6, 500, dtype=torch.float64)
    steps = mechanism.predict(noise, of_one_row(settings.get("names", ()), 0, 500)).diff()
    assert (steps > 0).all() or (steps < 0).all()


@every_flow
def test_the_density_of_a_flow_integrates_to_one(settings):
    mechanism, noise = flow(**settings), torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    for row in range(3):
        parents = of_one_row(settings.get("names", ()), row, len(noise))
        grid = mechanism.predict(noise, parents)  # a grid that is fine where the density is high
        with torch.no_grad():
            density = torch.exp(-mechanism.loss(grid, parents, generator=None))
        # the trapezoid rule is off by the square of the grid's spacing, 1.6e-4, times a curvature of at most a thousand
        assert abs(abs(float(torch.trapezoid(density, grid))) - 1) < 1e-4


@every_flow
def test_the_density_of_a_flow_is_the_change_of_variables(settings):
    mechanism, n, step = flow(**settings), 500, 1e-6
    value, parents, noise = drawn(mechanism, settings.get("names", ()), n)
    above, below = (mechanism.predict(noise + sign * step, parents) for sign in (1, -1))
    slope = (above - below).abs() / (2 * step)
    expected = torch.from_numpy(stats.norm.logpdf(noise.numpy())) - torch.log(slope)
    with torch.no_grad():
        found = -mechanism.loss(value, parents, generator=None)
    # rounding of float64 over the step, 1e-10, more where a support's end flattens the slope; curvature times the step
    assert float((found - expected).abs().max()) < 1e-4


@every_flow
def test_values_stay_inside_the_support(settings):
    mechanism = flow(**settings)
    low, high = settings.get("support", (-INF, INF))
    value, _, _ = drawn(mechanism, settings.get("names", ()), 20_000)
    assert torch.isfinite(value).all()
    assert (value > low).all()
    assert (value < high).all()


@pytest.mark.parametrize("support", [(0.5, 8), (18, INF), (-INF, 5)])
def test_values_stay_inside_the_support_however_far_the_noise(support):
    mechanism = flow(support=support)
    value = mechanism.predict(torch.tensor([-60.0, -40.0, 40.0, 60.0], dtype=torch.float64), {})
    assert (value > support[0]).all()
    assert (value < support[1]).all()


@every_flow
def test_the_noise_of_values_from_the_model_has_its_prior_and_is_independent_of_the_parents(settings):
    mechanism, n = flow(**settings), 5000
    value, parents, _ = drawn(mechanism, settings.get("names", ()), n)
    noise = mechanism.abduct(value, parents, generator=rows(n))
    assert stats.kstest(noise.numpy(), stats.norm.cdf).pvalue > P_VALUE
    for parent in parents.values():
        # a correlation of n independent pairs has standard deviation 1 / sqrt(n)
        assert abs(float(torch.corrcoef(torch.stack([noise, parent.double()]))[0, 1])) < 5 / math.sqrt(n)


@every_mechanism
def test_the_noise_that_is_drawn_has_the_prior(make, settings):
    mechanism = make(**settings)
    prior = mechanism.noise_prior()
    noise = mechanism.draw_noise(rows(5000))
    assert noise.shape == (5000, *prior.event_shape)
    assert noise.dtype == prior.sample().dtype == torch.float64
    law = stats.norm if make is flow else stats.gumbel_r
    assert stats.kstest(noise.numpy().ravel(), law.cdf).pvalue > P_VALUE


@every_mechanism
def test_a_row_gets_the_same_answer_alone_and_in_a_batch(make, settings):
    mechanism, n = make(**settings), 40
    value, parents, noise = drawn(mechanism, settings.get("names", ()), n)
    together = mechanism.abduct(value, parents, generator=rows(n))
    for row in range(n):
        only = slice(row, row + 1)
        alone = {name: column[only] for name, column in parents.items()}
        abducted = mechanism.abduct(value[only], alone, generator=rows(n).rows(only))
        # matrix products of one row and of forty may add in another order: rounding of float64
        torch.testing.assert_close(abducted[0], together[row], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mechanism.predict(noise[only], alone)[0], value[row], rtol=1e-12, atol=1e-12)


@every_mechanism
def test_a_saved_mechanism_gives_identical_answers(make, settings, tmp_path):
    mechanism = make(**settings)
    value, parents, noise = drawn(mechanism, settings.get("names", ()), 200)
    mechanism.save(tmp_path)
    again = type(mechanism).load(tmp_path)
    assert torch.equal(again.predict(noise, parents), value)
    assert torch.equal(again.abduct(value, parents, generator=rows(200)), mechanism.abduct(value, parents, generator=rows(200)))
    assert torch.equal(again.loss(value, parents, generator=None), mechanism.loss(value, parents, generator=None))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("mechanism", [Flow(), Categorical()], ids=["Flow", "Categorical"])
def test_a_mechanism_that_was_never_fitted_says_so(mechanism, tmp_path):
    value = torch.zeros(3, dtype=torch.float64 if isinstance(mechanism, Flow) else torch.int64)
    for ask in (
        lambda: mechanism.abduct(value, {}, generator=rows(3)),
        lambda: mechanism.predict(value, {}),
        lambda: mechanism.loss(value, {}, generator=None),
        lambda: mechanism.save(tmp_path),
    ):
        with pytest.raises(NotFittedError, match=rf"this {type(mechanism).__name__} was never fitted. Call causalcf.fit"):
            ask()


@pytest.mark.parametrize("constant", [0.0, 5.0, 0.1, 37.3, -1e6])
def test_a_constant_column_is_an_error_that_names_it(constant):
    value = torch.full((1000,), constant, dtype=torch.float64)
    with pytest.raises(DataError, match="column 'x' is constant"):
        Flow().prepare(Node("x", "continuous"), [], value, {})


@pytest.mark.parametrize("mechanism", [Flow(), Categorical()], ids=["Flow", "Categorical"])
def test_a_constant_parent_is_an_error_that_names_it(mechanism):
    node = Node("x", "categorical", states=STATES) if isinstance(mechanism, Categorical) else Node("x", "continuous")
    value = torch.arange(5) if node.discrete else torch.arange(5.0)
    with pytest.raises(DataError, match="column 'age' is constant"):
        mechanism.prepare(node, [AGE], value, {"age": torch.full((5,), 40.0, dtype=torch.float64)})


def test_a_constant_column_inside_a_support_is_an_error_that_names_it():
    value = torch.full((1000,), 4.1, dtype=torch.float64)
    with pytest.raises(DataError, match="column 'x' is constant"):
        Flow().prepare(Node("x", "continuous", support=(0.5, 8)), [], value, {})


def test_building_a_mechanism_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    flow(names=BOTH)
    assert torch.equal(torch.get_rng_state(), before)


def probabilities(mechanism, parents, n):
    with torch.no_grad():
        return mechanism.log_probabilities(parents).exp().expand(n, len(STATES))


@every_category
def test_category_frequencies_are_the_softmax(names):
    mechanism, n = categorical(names), 20_000
    for row in range(3):
        parents = {name: value[row].expand(n) for name, value in parents_of(names, 5).items()}
        value = mechanism.predict(mechanism.draw_noise(rows(n)), parents)
        p = probabilities(mechanism, parents, n)[0]
        found = torch.bincount(value, minlength=len(STATES)) / n
        assert ((found - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1 / n).all()


@every_category
def test_a_null_intervention_keeps_every_category(names):
    mechanism, n = categorical(names, size=3.0), 20_000
    with torch.no_grad():
        mechanism.root.copy_(torch.tensor([0.0, -2.0, -4.0, -6.0, -9.0]))
    parents = parents_of(names, n)
    value = (5 * rows(n, 8).uniform()).long()  # improbable ones too, where a truncation at the wrong value shows
    assert float(probabilities(mechanism, parents, n).gather(1, value[:, None]).min()) < 1e-3
    assert torch.equal(mechanism.predict(mechanism.abduct(value, parents, generator=rows(n)), parents), value)


@every_category
def test_a_null_intervention_keeps_categories_that_are_next_to_impossible(names):
    mechanism, n = categorical(names), 2000
    with torch.no_grad():
        mechanism.root += torch.tensor([0.0, -30.0, -100.0, 200.0, -500.0], dtype=torch.float64)
    parents = parents_of(names, n)
    value = torch.arange(n) % 5
    assert torch.equal(mechanism.predict(mechanism.abduct(value, parents, generator=rows(n)), parents), value)


@every_category
def test_the_abducted_gumbel_noise_pooled_over_the_categories_is_its_prior(names):
    mechanism, n = categorical(names), 20_000
    parents = parents_of(names, n)
    cumulative = probabilities(mechanism, parents, n).cumsum(1)[:, :-1]
    value = (rows(n, 9).uniform(1) > cumulative).sum(1)  # x ~ p(x | pa), drawn without any Gumbel noise
    noise = mechanism.abduct(value, parents, generator=rows(n))
    for state in range(len(STATES)):
        assert stats.kstest(noise[:, state].numpy(), stats.gumbel_r.cdf).pvalue > P_VALUE
    ranks = torch.from_numpy(stats.rankdata(noise.numpy(), axis=0).T)
    off = torch.corrcoef(ranks) - torch.eye(len(STATES))
    assert float(off.abs().max()) < 5 / math.sqrt(n)  # the standard deviation of a rank correlation is 1 / sqrt(n)


def test_the_gumbel_posterior_is_that_of_rejection_sampling():
    mechanism, n = categorical(), 20_000
    prior = mechanism.draw_noise(rows(n, 10))
    value = mechanism.predict(prior, {})
    for state in range(len(STATES)):
        kept = prior[value == state]
        posterior = mechanism.abduct(torch.full((n,), state), {}, generator=rows(n, 11))
        assert len(kept) > 100
        for place in range(len(STATES)):
            assert stats.ks_2samp(kept[:, place].numpy(), posterior[:, place].numpy()).pvalue > P_VALUE


def test_a_category_that_became_more_likely_than_all_others_is_kept():
    # counterfactual stability, Oberst and Sontag 2019, definition 3: the answer can only move towards what gained more
    mechanism, n = categorical(), 2000
    for state in range(len(STATES)):
        value = torch.full((n,), state)
        noise = mechanism.abduct(value, {}, generator=rows(n))
        favoured = categorical()
        with torch.no_grad():
            favoured.root[state] += 0.7
        assert torch.equal(favoured.predict(noise, {}), value)


def test_a_category_is_a_posterior_draw_and_says_so():
    mechanism, value = categorical(), torch.zeros(50, dtype=torch.int64)
    first, again, other = (mechanism.abduct(value, {}, generator=rows(50, seed)) for seed in (0, 0, 1))
    assert not Categorical.identified
    assert torch.equal(first, again)
    assert not (first == other).any()


def test_a_fitted_linear_gaussian_model_answers_as_its_closed_form(monkeypatch):
    monkeypatch.setattr(training, "_ATTRIBUTE_STEPS", 300)
    n, noise = 4000, rows(4000, 12).normal(3).numpy()
    a = noise[:, 0]
    b = 2 + 0.8 * a + 0.5 * noise[:, 1]
    c = 1 - 1.2 * a + 0.7 * b + 0.3 * noise[:, 2]
    nodes = [Node("a", "continuous"), Node("b", "continuous", parents=["a"]), Node("c", "continuous", parents=["a", "b"])]
    graph = CausalGraph("linear", nodes)
    batch = ccf.Batch(graph, pd.DataFrame({"a": a, "b": b, "c": c}))
    scm = ccf.fit(ccf.SCM(graph, {name: Flow(bins=0) for name in "abc"}), batch)
    closed = {
        "a": ({"a": ccf.Shift(1.0)}, {"b": b + 0.8, "c": c - 1.2 + 0.7 * 0.8}),
        "b": ({"b": ccf.Shift(0.5)}, {"a": a, "c": c + 0.7 * 0.5}),
    }
    for do, answers in closed.values():
        result = ccf.counterfactual(scm, batch, do)
        assert result.identified.all()
        for name, answer in answers.items():
            error = result.frame[name].to_numpy() - answer
            sd = {"a": 1.0, "b": 0.5, "c": 0.3}[name]
            # maximum likelihood misses a regression of p parameters by sqrt(p / n) standard deviations of its noise, and the
            # network of c has 88; the shifts are one standard deviation, so that the answers stay among the data
            assert math.sqrt(np.mean(error**2)) < 10 / math.sqrt(n) * sd
