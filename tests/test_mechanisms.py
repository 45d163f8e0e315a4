"""Continuous mechanisms against closed forms and data sets with known answers, and the suite that every mechanism passes."""

import json
import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer
from sklearn.tree import DecisionTreeRegressor

import causalcf as ccf
from causalcf import training
from causalcf.attributes.categorical import Categorical
from causalcf.attributes.empirical import Empirical
from causalcf.attributes.equation import Equation
from causalcf.attributes.flow import Flow
from causalcf.attributes.piecewise import NormalScore
from causalcf.attributes.regression import AdditiveNoise, LinearGaussian, LocationScale, read_estimator
from causalcf.errors import AbductionError, DataError, GraphError, NotFittedError, StoreError
from causalcf.graph import CausalGraph, Node
from causalcf.mechanism import Mechanism
from causalcf.seeds import RowGenerator
from causalcf.testing import ContractError, check_mechanism

INF = math.inf
# under the null hypothesis a p-value below this turns up once in ten thousand seeds; the seeds are fixed
P_VALUE = 1e-4
X = Node("x", "continuous")
AGE, SEX = Node("age", "continuous", unit="year"), Node("sex", "categorical", states=["f", "m", "other"])
BOTH = ("age", "sex")


def rows(n, seed=0, stream="test"):
    return RowGenerator(seed, np.arange(n, dtype=np.uint64), stream)


def case(names=(), support=None, n=300):
    """A node, its parents, and columns of theirs."""
    draw = rows(n, 1, "case")
    every = {"age": 50 + 10 * draw.normal(), "sex": (3 * draw.uniform()).long()}
    parents = {name: every[name] for name in names}
    flat = 0.5 * draw.normal() + (every["age"] / 20 - 2.5) * ("age" in names) + 0.3 * every["sex"] * ("sex" in names)
    low, high = support or (-INF, INF)
    if math.isfinite(low) and math.isfinite(high):
        value = low + (high - low) * torch.sigmoid(flat)
    else:
        value = low + torch.exp(flat) if math.isfinite(low) else high - torch.exp(flat) if math.isfinite(high) else 7 + 3 * flat
    return Node("x", "continuous", support=support), [{"age": AGE, "sex": SEX}[name] for name in names], value, parents


def fitted(mechanism, names=(), support=None, n=300):
    mechanism.prepare(*case(names, support, n))
    return mechanism


# ---------------------------------------------------------------------------------------------------------- the suite


class Grown(Equation):
    """x = age exp(u / 5)."""

    def forward(self, noise, parents):
        return parents["age"] * torch.exp(noise / 5)

    def inverse(self, value, parents):
        return 5 * torch.log(value / parents["age"])


SUPPORTS = [None, (0.5, 8.0), (18.0, INF), (-INF, 5.0)]
SUITE = {
    **{f"Empirical {support}": (Empirical, (), support) for support in SUPPORTS},
    **{f"LinearGaussian {support}": (LinearGaussian, BOTH, support) for support in SUPPORTS},
    "LinearGaussian, root": (LinearGaussian, (), None),
    "AdditiveNoise": (AdditiveNoise, BOTH, None),
    "AdditiveNoise, root": (AdditiveNoise, (), (0.5, 8.0)),
    "AdditiveNoise, forest": (lambda: AdditiveNoise(RandomForestRegressor(5)), ("age",), (18.0, INF)),
    "LocationScale": (LocationScale, BOTH, (0.5, 8.0)),
    "LocationScale, discrete parent": (LocationScale, ("sex",), None),
    "LocationScale, regressors": (
        lambda: LocationScale(LinearRegression(), DecisionTreeRegressor(min_samples_leaf=40)),
        BOTH,
        None,
    ),
    "Flow(bins=0)": (lambda: Flow(bins=0), BOTH, (18.0, INF)),
    "Flow": (Flow, ("age",), None),
    "Equation": (Grown, ("age",), (0.0, INF)),
}


@pytest.mark.parametrize(("make", "names", "support"), SUITE.values(), ids=SUITE.keys())
def test_every_continuous_mechanism_keeps_the_contract(make, names, support, monkeypatch):
    monkeypatch.setattr(training, "_ATTRIBUTE_STEPS", 5)  # the promises hold however little was learned
    if make is Grown:
        age = case(names)[3]["age"]
        promises = check_mechanism(Grown(), Node("x", "continuous", support=support), [AGE], age + 1, {"age": age})
    else:
        promises = check_mechanism(make(), *case(names, support))
    assert "a saved mechanism gives identical answers" in promises
    assert len(promises) == (12 if make is Grown else 13)  # a known mechanism is not tried with other parents


@pytest.mark.parametrize("names", [(), ("sex",), BOTH])
def test_a_discrete_mechanism_keeps_the_contract(names, monkeypatch):
    monkeypatch.setattr(training, "_ATTRIBUTE_STEPS", 5)
    _, parent_nodes, value, parents = case(names)
    node = Node("x", "ordinal", states=["low", "middle", "high"])
    check_mechanism(Categorical(), node, parent_nodes, (value / 5).clamp(0, 2.9).long(), parents)


class Broken(LinearGaussian):
    """A mechanism with one promise broken, to see which check speaks."""


def broken(**methods):
    return type("Broken", (LinearGaussian,), methods)()


def far(self, noise, parents, **settings):
    return 4 + (1 - 1e-8) * (LinearGaussian.predict(self, noise, parents) - 4)


def folded(self, noise, parents, **settings):  # every value has a noise, some have two
    return LinearGaussian.predict(self, torch.where(noise > 1, noise - 2, noise), parents)


def unfolded(self, value, parents, *, generator):
    noise = LinearGaussian.abduct(self, value, parents, generator=generator)
    return torch.where(noise > 1, noise + 2, noise)


def unsorted(self, generator):
    return torch.special.ndtri(generator.uniform()) * 0 + torch.linspace(-2, 2, len(generator), dtype=torch.float64)


FAULTS = {
    "an unfitted mechanism raises NotFittedError": broken(noise_prior=lambda self: dist.Normal(0.0, 1.0)),
    "fitting makes it ready": broken(draw_noise=lambda self, generator: generator.normal(2)),
    "predict undoes abduct": broken(predict=far),
    "abduct undoes predict where": broken(predict=folded, abduct=unfolded),
    "a null intervention keeps every value": broken(
        exact=False,
        predict=lambda self, noise, parents, **_: 4 + (1 - 1e-12) * (LinearGaussian.predict(self, noise, parents) - 4),
    ),
    "predicted values are possible": broken(
        prepare=lambda self, node, *rest: LinearGaussian.prepare(self, Node("x", "continuous"), *rest)
    ),
    "the loss is one number a row": broken(
        loss=lambda self, value, parents, **_: LinearGaussian.loss(self, value, parents).mean()
    ),
    "draws follow exp": broken(loss=lambda self, value, parents, **_: LinearGaussian.loss(self, value, parents) + 0.05),
    "noise follows its prior": broken(draw_noise=lambda self, generator: 1.3 * generator.normal()),
    "draws are functions of seed and row": broken(draw_noise=lambda self, generator: torch.randn(len(generator)).double()),
    "a row gets the same answer alone": broken(
        loss=lambda self, value, parents, **_: LinearGaussian.loss(self, value, parents) + 1e-9 * (len(value) > 1)
    ),
    "a saved mechanism gives identical": broken(
        save=lambda self, directory: (
            LinearGaussian.save(self, directory),
            (directory / "mechanism.json").write_text(json.dumps({"spec": {**self.spec, "scale": 1.0}, "settings": {}})),
        )
    ),
    "it works without parents": broken(
        _line=lambda self, parents: LinearGaussian._line(self, parents) + 0 * parents["age"],
    ),
}


@pytest.mark.parametrize("promise", FAULTS)
def test_the_suite_names_the_promise_that_is_broken(promise):
    with pytest.raises(ContractError, match=rf"^Broken of 'x' breaks the promise '{promise}"):
        check_mechanism(FAULTS[promise], *case(BOTH, (0.5, 8.0)))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"draw_noise": unsorted}, "draw_noise gives a row other numbers when the rows are shuffled"),
        ({"draw_noise": lambda self, g: RowGenerator(0, g.keys).normal()}, "gives the same numbers for another seed"),
        ({"predict": lambda self, u, pa, **_: LinearGaussian.predict(self, u, pa).float()}, "of torch.float32"),
        ({"save": lambda self, directory: (directory / "mechanism.pkl").write_text("")}, "save writes mechanism.pkl"),
        ({"abduct": lambda self, x, pa, **_: 1 / 0}, "ZeroDivisionError: division by zero"),
        ({"draw_noise": lambda self, g: g.normal() + 0.3}, "coordinate 0 of draw_noise does not follow noise_prior"),
    ],
)
def test_the_suite_says_what_is_wrong(fault, says):
    with pytest.raises(ContractError, match=says):
        check_mechanism(broken(**fault), *case(BOTH))


def test_the_suite_refuses_an_image_and_a_missing_parent():
    with pytest.raises(DataError, match="'x' is an image: check_mechanism is for attributes"):
        check_mechanism(LinearGaussian(), Node("x", "image", shape=(1, 8, 8)), [], torch.zeros(3), {})
    with pytest.raises(DataError, match="no column for the parents age of 'x'"):
        check_mechanism(LinearGaussian(), X, [AGE], torch.zeros(3), {})


# ------------------------------------------------------------------------------------------------------- normal scores

SAMPLES = {
    "normal": lambda g: 3 + 2 * g.normal(),
    "skewed": lambda g: torch.exp(g.normal()),
    "two humps": lambda g: torch.where(g.uniform() < 0.3, g.normal() - 4, g.normal() + 4),
    "whole numbers": lambda g: (50 + 10 * g.normal()).round(),
    "mostly zero": lambda g: torch.where(g.uniform() < 0.7, torch.zeros(len(g), dtype=torch.float64), g.uniform()),
    "two values": lambda g: (g.uniform() < 0.5).double(),
}
every_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())


@every_sample
@pytest.mark.parametrize("n", [2, 3, 30, 4000])
def test_normal_scores_are_strictly_increasing_and_come_back(sample, n):
    values = sample(rows(n, 3))
    if values.min() == values.max():
        pytest.skip("a constant column is refused before")
    scores = NormalScore.fit(values)
    noise = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    value = scores(noise)
    assert (value.diff() > 0).all()
    again, log_slope = scores.inverse(value)
    assert float((again - noise).abs().max()) < 1e-12 / 0.01  # the floor of the slope: rounding of a value grows by its inverse
    assert float((scores(again) - value).abs().max() / values.std()) < 1e-12
    # the floor: one hundredth of a standard deviation of the values for one of the noise
    assert float(log_slope.exp().min() / values.std()) >= 0.01 * (1 - 1e-9)


def test_normal_scores_give_the_distribution_of_the_sample():
    for name in ("normal", "skewed", "two humps"):
        scores = NormalScore.fit(SAMPLES[name](rows(4000, 4)))
        assert stats.ks_2samp(scores(rows(4000, 5).normal()), SAMPLES[name](rows(4000, 6))).pvalue > P_VALUE


def test_normal_scores_of_a_normal_are_next_to_a_line():
    sample = 3 + 2 * rows(20_000, 7).normal()
    noise, log_slope = NormalScore.fit(sample[:10_000]).inverse(sample[10_000:])
    found = float((-0.5 * noise**2 - log_slope).mean())
    exact = float((-0.5 * ((sample[10_000:] - 3) / 2) ** 2 - math.log(2)).mean())
    assert exact - found < 33 / 10_000  # half a nat a thousand rows for each knot would be twice what is usual


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
@settings(max_examples=50, deadline=None)
def test_normal_scores_of_any_sample_come_back(numbers):
    sample = torch.tensor(numbers, dtype=torch.float64)
    if not float(sample.std()) > 1e-9 * (1 + float(sample.abs().max())):
        return  # as good as constant
    scores = NormalScore.fit(sample)
    again, _ = scores.inverse(scores(noise := torch.linspace(-5, 5, 101, dtype=torch.float64)))
    # a number of size a loses a * 2^-53, and the slope may be a hundredth of the standard deviation
    assert float((again - noise).abs().max()) < 1e-14 * (1 + float(sample.abs().max()) / (0.01 * float(sample.std()))) * 10


# ----------------------------------------------------------------------------------------------------------- empirical


@pytest.mark.parametrize("support", SUPPORTS)
def test_an_empirical_root_is_distributed_as_the_data(support):
    mechanism = fitted(Empirical(), support=support, n=4000)
    value = mechanism.predict(mechanism.draw_noise(rows(4000, 8)), {})
    assert stats.ks_2samp(value, case(support=support, n=4000)[2]).pvalue > P_VALUE


def test_an_empirical_node_has_no_parents():
    with pytest.raises(GraphError, match=r"'x' has parents age, and Empirical is for nodes without\. Use LinearGaussian"):
        fitted(Empirical(), ("age",))


# ------------------------------------------------------------------------------------------------------ linear-Gaussian


def test_a_linear_fit_is_least_squares():
    _, _, value, parents = case(BOTH)
    mechanism = fitted(LinearGaussian(), BOTH)
    age, sex = parents["age"].numpy(), parents["sex"].numpy()
    design = np.column_stack([np.ones(300), age, sex == 1, sex == 2])
    beta, (rss,), *_ = np.linalg.lstsq(design, value.numpy())
    spec = mechanism.spec
    assert spec["coefficients"]["age"] == pytest.approx(beta[1], rel=1e-10)
    added = np.array(spec["coefficients"]["sex"])
    assert added[1:] - added[0] == pytest.approx(beta[2:], rel=1e-9)
    assert spec["intercept"] + added[0] == pytest.approx(beta[0], rel=1e-9)
    assert spec["scale"] == pytest.approx(math.sqrt(rss / (300 - 4)), rel=1e-10)


def test_collinear_parents_and_states_never_seen_do_no_harm():
    _, _, value, parents = case(BOTH)
    twice = {"age": parents["age"], "months": 12 * parents["age"], "sex": parents["sex"].clamp(max=1)}
    mechanism = LinearGaussian()
    mechanism.prepare(X, [AGE, Node("months", "continuous"), SEX], value, twice)
    once = LinearGaussian()
    once.prepare(X, [AGE, SEX], value, {"age": twice["age"], "sex": twice["sex"]})
    a, b = (m.abduct(value, twice, generator=rows(300)) for m in (mechanism, once))
    assert float((a - b).abs().max()) < 1e-9  # rounding, times the condition of the columns that are left
    assert mechanism.spec["coefficients"]["sex"][2] == pytest.approx(0, abs=1e-12)


def test_a_deterministic_line_has_little_noise_but_stays_exact():
    _, _, _, parents = case(("age",))
    mechanism = LinearGaussian()
    mechanism.prepare(X, [AGE], 3 * parents["age"] + 1, parents)
    assert 0 < mechanism.spec["scale"] < 1e-4
    up = {"age": parents["age"] + 1}
    value = mechanism.predict(mechanism.abduct(3 * parents["age"] + 1, parents, generator=rows(300)), up)
    assert float((value - 3 * parents["age"] - 4).abs().max()) < 1e-10


def known():
    return LinearGaussian(intercept=2.0, coefficients={"age": 0.3, "sex": [0.0, 1.2, -0.5]}, scale=1.5)


def test_a_known_line_answers_without_a_fit_and_exactly():
    n, noise = 1000, rows(1000, 9)
    age, sex, u = 50 + 10 * noise.normal(), (3 * noise.uniform()).long(), noise.normal()
    line = 2 + 0.3 * age + torch.tensor([0.0, 1.2, -0.5], dtype=torch.float64)[sex] + 1.5 * u
    nodes = [AGE, SEX, Node("x", "continuous", parents=BOTH), Node("y", "continuous", parents=["x"])]
    graph = CausalGraph("known", nodes)
    given = {"x": known(), "y": LinearGaussian(intercept=0.0, coefficients={"x": -2.0}, scale=0.1)}
    given |= {
        "age": LinearGaussian(intercept=50.0, coefficients={}, scale=10.0),
        "sex": Categorical(probabilities=[0.3, 0.3, 0.4]),
    }
    frame = pd.DataFrame({"age": age, "sex": np.array(SEX.states)[sex], "x": line, "y": -2 * line + 0.1 * u})
    answer = ccf.counterfactual(ccf.SCM(graph, given), ccf.Batch(graph, frame), {"age": ccf.Shift(10), "sex": "m"})
    expected = line + 3 + 1.2 - torch.tensor([0.0, 1.2, -0.5], dtype=torch.float64)[sex]
    assert np.abs(answer.frame["x"] - expected.numpy()).max() < 1e-12 * float(line.std())
    assert np.abs(answer.frame["y"] - frame["y"] + 2 * (expected - line).numpy()).max() < 1e-12 * frame["y"].std()
    assert answer.identified.all()
    assert n == len(answer.frame)


def test_a_known_line_is_left_alone_by_a_fit_and_by_saving(tmp_path):
    mechanism = known()
    before = dict(mechanism.spec)
    mechanism.prepare(*case(BOTH))
    assert mechanism.spec == before
    mechanism.save(tmp_path)
    again = LinearGaussian.load(tmp_path)
    assert again.spec == before
    again.prepare(*case(BOTH))
    assert again.spec == before


@pytest.mark.parametrize(
    ("coefficients", "says"),
    [
        ({"age": 0.3}, "the known coefficients of 'x' are for age, but its parents are age, sex"),
        ({"age": 0.3, "gender": [0, 1, 2]}, "are for age, gender, but its parents are age, sex"),
        (
            {"age": 0.3, "sex": 1.2},
            r"coefficient of 'sex' in 'x' is 1.2, but it takes 3 numbers, one a state: \('f', 'm', 'other'\)",
        ),
        ({"age": 0.3, "sex": [0, 1]}, r"is \[0.0, 1.0\], but it takes 3 numbers"),
        ({"age": [0.3, 0.4], "sex": [0, 1, 2]}, r"coefficient of 'age' in 'x' is \[0.3, 0.4\], but it takes one number"),
    ],
)
def test_known_coefficients_that_do_not_fit_the_parents_are_an_error(coefficients, says):
    mechanism = LinearGaussian(intercept=0.0, coefficients=coefficients, scale=1.0)
    with pytest.raises(DataError, match=says):
        mechanism.prepare(*case(BOTH))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"intercept": 1.0}, "a known LinearGaussian needs coefficients and scale too"),
        ({"intercept": 1.0, "coefficients": {}, "scale": 0.0}, "a scale above zero"),
        ({"intercept": math.nan, "coefficients": {}, "scale": 1.0}, "takes finite numbers"),
        ({"intercept": 1.0, "coefficients": {"age": "much"}, "scale": 1.0}, "coefficients a number, or one a state"),
        ({"intercept": 1.0, "coefficients": [0.3], "scale": 1.0}, "coefficients a number, or one a state"),
    ],
)
def test_numbers_that_make_no_line_are_an_error(given, says):
    with pytest.raises(DataError, match=says):
        LinearGaussian(**given)


@pytest.mark.parametrize("support", [(0.5, 8.0), (18.0, 18.5)])
@pytest.mark.parametrize("make", [Empirical, LinearGaussian])
def test_values_stay_inside_the_support_however_far_the_noise(make, support):
    value = fitted(make(), support=support).predict(torch.tensor([-1e3, 1e3], dtype=torch.float64), {})
    assert support[0] < value[0] < value[1] < support[1]


@pytest.mark.parametrize("make", [Empirical, LinearGaussian, AdditiveNoise, LocationScale, Flow])
def test_a_constant_column_is_an_error_that_names_it(make):
    with pytest.raises(DataError, match="column 'x' is constant"):
        make().prepare(X, [], torch.full((50,), 3.0, dtype=torch.float64), {})


# ---------------------------------------------------------------------------------------------------------- regressors


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize(
    "regressor",
    [
        HistGradientBoostingRegressor(max_iter=10),
        RandomForestRegressor(3),
        KNeighborsRegressor(20),
        make_pipeline(SplineTransformer(4), MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", max_iter=20)),
    ],
    ids=lambda regressor: type(regressor).__name__,
)
def test_a_regressor_of_scikit_learn_is_saved_and_refitted_alike(regressor, tmp_path):
    mechanism = fitted(AdditiveNoise(regressor), BOTH)
    assert not hasattr(regressor, "n_features_in_")  # the user's own object is not fitted
    _, _, value, parents = case(BOTH)
    mechanism.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".skops"}
    again = AdditiveNoise.load(tmp_path)
    noise = mechanism.abduct(value, parents, generator=rows(300))
    assert torch.equal(again.abduct(value, parents, generator=rows(300)), noise)
    again.prepare(*case(BOTH))  # seeds that were left open are set: a fit is a function of its rows
    assert torch.equal(again.abduct(value, parents, generator=rows(300)), noise)


def test_fitting_a_regressor_leaves_the_global_generators_alone():
    numpy, own = np.random.get_state()[1].copy(), torch.get_rng_state()
    fitted(AdditiveNoise(RandomForestRegressor(3)), BOTH)
    assert np.array_equal(numpy, np.random.get_state()[1])
    assert torch.equal(own, torch.get_rng_state())


def test_the_residuals_are_honest():
    # a tree that learns its rows by heart has no residuals on them, but misses others by sqrt(2) times the noise
    mechanism = fitted(AdditiveNoise(DecisionTreeRegressor()), ("age",), n=2000)
    noise = mechanism.mean + mechanism.scale * mechanism.residual(torch.linspace(-2, 2, 5, dtype=torch.float64))
    assert float(noise.diff().mean()) == pytest.approx(math.sqrt(2) * 1.5, rel=0.1)


class Doubling(RegressorMixin, BaseEstimator):
    """A regressor of a user's own."""

    def fit(self, rows, target):
        self.mean_ = float(np.mean(target))
        return self

    def predict(self, rows):
        return np.full(len(rows), self.mean_)


def test_a_foreign_regressor_fits_but_is_not_saved(tmp_path):
    mechanism = fitted(AdditiveNoise(Doubling()), ("age",))
    with pytest.raises(StoreError, match=r"the regressor holds [\w.]*Doubling, which is not part of scikit-learn"):
        mechanism.save(tmp_path)


@pytest.mark.parametrize("foreign", ["posix.system", "sklearn.utils.validation.column_or_1d", "sklearn.nothing.Here"])
def test_a_file_that_asks_for_more_than_estimators_is_not_opened(foreign, tmp_path, monkeypatch):
    mechanism = fitted(AdditiveNoise(LinearRegression()), ("age",))
    mechanism.save(tmp_path)
    import skops.io

    monkeypatch.setattr(skops.io, "get_untrusted_types", lambda **_: [foreign])
    monkeypatch.setattr(skops.io, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(StoreError, match=f"holds {foreign}, which is not part of scikit-learn"):
        AdditiveNoise.load(tmp_path)


def test_a_damaged_regressor_is_an_error(tmp_path):
    (tmp_path / "regressor.skops").write_bytes(b"no archive")
    with pytest.raises(StoreError, match=r"regressor.skops' is no file of skops"):
        read_estimator(tmp_path / "regressor.skops")


@pytest.mark.parametrize("make", [AdditiveNoise, LocationScale])
def test_what_is_no_regressor_is_an_error(make):
    with pytest.raises(DataError, match="=3 is no scikit-learn regressor: it takes an object with fit and predict"):
        make(3)


def heteroscedastic(n, seed):
    """Z ~ N(0, 1), T = .8 Z + N(0, 1), Y = sin 2T + Z / 2 + (.3 + |T| / 2) u: the columns, u, and Y as a function."""
    draw = rows(n, seed, "heteroscedastic")
    z, u = draw.normal(), draw.normal()
    t = 0.8 * z + draw.normal()

    def y(t):
        return torch.sin(2 * t) + 0.5 * z + (0.3 + 0.5 * t.abs()) * u

    return {"z": z, "t": t}, y


def test_a_spread_that_depends_on_the_parents_is_answered_right_and_seen_in_the_likelihood():
    seen, y = heteroscedastic(10_000, 20)
    later, y_later = heteroscedastic(4000, 21)
    nodes = [Node("z", "continuous"), Node("t", "continuous")]
    error, likelihood = {}, {}
    for make in (LinearGaussian, AdditiveNoise, LocationScale):
        mechanism = make()
        mechanism.prepare(Node("y", "continuous"), nodes, y(seen["t"]), seen)
        factual = y_later(later["t"])
        likelihood[make] = -float(mechanism.loss(factual, later).mean())
        noise = mechanism.abduct(factual, later, generator=rows(4000))
        answer = mechanism.predict(noise, {"z": later["z"], "t": later["t"] + 1})
        error[make] = float((answer - y_later(later["t"] + 1)).square().mean().sqrt() / y(seen["t"]).std())
    # the yardsticks: .15 is what is asked of this data set, .41 is what additive noise with boosted trees misses it by
    assert error[LocationScale] < 0.15
    assert error[LinearGaussian] > error[AdditiveNoise] > 0.3
    assert likelihood[LinearGaussian] < likelihood[AdditiveNoise] < likelihood[LocationScale]


def smooth(noise, do):
    """Eight nodes, each a smooth function of its parents and its own noise."""
    v = {}

    def put(name, value):
        v[name] = do.get(name, value)

    put("a", noise["a"])
    put("b", torch.tanh(1.5 * v["a"]) + 0.5 * noise["b"])
    put("c", 0.5 * v["a"] ** 2 - 0.3 * v["b"] + 0.6 * noise["c"])
    put("d", torch.sin(1.5 * v["b"]) + 0.4 * v["c"] + 0.5 * noise["d"])
    put("e", 0.5 * torch.log1p(torch.exp(v["c"])) * v["d"] + 0.4 * noise["e"])
    put("f", torch.cos(v["d"]) * v["a"] + 0.4 * noise["f"])
    put("g", v["e"] * torch.exp(-(v["f"] ** 2) / 2) + 0.3 * v["b"] + 0.5 * noise["g"])
    put("h", torch.sin(v["f"]) + 0.5 * v["g"] * torch.tanh(v["e"]) + 0.5 * noise["h"])
    return v


SMOOTH = {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["b", "c"], "e": ["c", "d"], "f": ["a", "d"], "g": ["b", "e", "f"]}
SMOOTH["h"] = ["e", "f", "g"]


def test_a_smooth_model_of_eight_nodes_is_answered_within_a_quarter_of_a_standard_deviation():
    graph = CausalGraph("smooth", [Node(name, "continuous", parents=parents) for name, parents in SMOOTH.items()])
    noise = [{name: rows(3000, seed, name).normal() for name in SMOOTH} for seed in (30, 31)]
    frames = [pd.DataFrame({name: value.numpy() for name, value in smooth(some, {}).items()}) for some in noise]
    scm = ccf.SCM(graph, {name: AdditiveNoise() if parents else Empirical() for name, parents in SMOOTH.items()})
    ccf.fit(scm, ccf.Batch(graph, frames[0]))
    answer = ccf.counterfactual(scm, ccf.Batch(graph, frames[1]), {"b": ccf.Shift(0.5)}).frame
    expected = smooth(noise[1], {"b": torch.tensor(frames[1]["b"]) + 0.5})
    for name in "cdefgh":
        error = answer[name] - expected[name].numpy()
        assert np.sqrt(np.mean(error**2)) / frames[0][name].std() < 0.25


# ------------------------------------------------------------------------------------------------------------ equations

PRIORS = {
    "Normal": (dist.Normal(1.0, 2.0), stats.norm(1, 2)),
    "Uniform": (dist.Uniform(-1.0, 3.0), stats.uniform(-1, 4)),
    "Exponential": (dist.Exponential(2.0), stats.expon(scale=0.5)),
    "Laplace": (dist.Laplace(0.0, 1.0), stats.laplace),
    "LogNormal": (dist.LogNormal(0.0, 0.5), stats.lognorm(0.5)),
    "Gamma": (dist.Gamma(2.0, 4.0), stats.gamma(2, scale=0.25)),
    "Beta": (dist.Beta(2.0, 3.0), stats.beta(2, 3)),
    "StudentT": (dist.StudentT(4.0, 1.0, 2.0), stats.t(4, 1, 2)),
    "Chi2": (dist.Chi2(3.0), stats.chi2(3)),
}
AGES = {"age": torch.linspace(20, 80, 500, dtype=torch.float64)}


@pytest.mark.parametrize("formula", [True, False], ids=["formula", "bisection"])
@pytest.mark.parametrize("prior", PRIORS)
def test_an_equation_keeps_the_contract_under_every_prior(prior, formula):
    def inverse(x, pa):
        return (pa["age"] / 10 - x) / 3

    mechanism = Equation(lambda u, pa: pa["age"] / 10 - 3 * u, inverse if formula else None, noise=PRIORS[prior][0])
    value = mechanism.predict(mechanism.draw_noise(rows(500)), AGES)
    promises = check_mechanism(mechanism, X, [AGE], value, AGES)
    assert "a saved mechanism gives identical answers" not in promises  # functions are code
    assert stats.kstest(mechanism.draw_noise(rows(4000)), PRIORS[prior][1].cdf).pvalue > P_VALUE


def test_the_density_of_an_equation_is_the_change_of_variables():
    mechanism = Equation(lambda u, pa: pa["age"] * torch.exp(u / 5), lambda x, pa: 5 * torch.log(x / pa["age"]))
    value = mechanism.predict(mechanism.draw_noise(rows(500)), AGES)
    expected = stats.lognorm.logpdf(value.numpy(), 0.2, scale=AGES["age"].numpy())
    assert np.abs(-mechanism.loss(value, AGES).numpy() - expected).max() < 1e-12


@pytest.mark.parametrize(
    "forward",
    [
        lambda u, pa: u + u**3,
        lambda u, pa: -torch.sinh(u),
        lambda u, pa: pa["age"] * torch.sigmoid(u),
        lambda u, pa: 1e6 + torch.exp(-u),
    ],
)
def test_bisection_finds_the_noise_to_the_last_digits(forward):
    mechanism, noise = Equation(forward), rows(500).normal()
    value = mechanism.predict(noise, AGES)
    found = mechanism.abduct(value, AGES, generator=rows(500))
    assert float((mechanism.predict(found, AGES) - value).abs().max() / value.std()) < 1e-10
    if not (value > 1e6).any():  # beside a million a small noise is lost in rounding
        assert float((found - noise).abs().max()) < 1e-10


def test_a_subclass_is_saved_by_its_name_and_opened_with_its_class(tmp_path):
    graph = CausalGraph("grown", [AGE, Node("x", "continuous", parents=["age"], support=(0, INF))])
    given = {"age": LinearGaussian(intercept=50.0, coefficients={}, scale=5.0), "x": Grown()}
    ccf.SCM(graph, given).save(tmp_path / "model")
    with pytest.raises(StoreError, match=r"the model holds a [\w.]*Grown, which is not part of causalcf"):
        ccf.load(tmp_path / "model")
    again = ccf.load(tmp_path / "model", classes=(Grown,))
    pd.testing.assert_frame_equal(again.sample(5).frame, ccf.SCM(graph, given).sample(5).frame)


class Needy(Grown):
    def __init__(self, rate):
        super().__init__()


class Rated(Grown):
    def __init__(self, rate=2.0):
        super().__init__()


def test_an_equation_that_its_files_cannot_hold_is_not_saved(tmp_path):
    with pytest.raises(StoreError, match="Write a subclass of Equation with methods forward and inverse"):
        Equation(lambda u, pa: u).save(tmp_path)
    with pytest.raises(StoreError, match="Needy takes rate, which its files do not hold"):
        Needy(2).save(tmp_path)
    with pytest.raises(StoreError, match="Rated takes rate, which"):
        Rated(3.0).save(tmp_path)
    with pytest.raises(StoreError, match="Grown takes noise, which its files do not hold"):
        Grown(noise=dist.Normal(0.0, 2.0)).save(tmp_path)
    Grown(noise=dist.Normal(0.0, 1.0)).save(tmp_path)  # is what it is without


def test_an_inverse_that_is_none_is_an_error():
    mechanism = Equation(lambda u, pa: 2 * u + pa["age"], lambda x, pa: x / 2 - pa["age"])
    with pytest.raises(AbductionError, match="does not undo its forward: 20 at position 0 comes back as 0"):
        mechanism.abduct(AGES["age"].clone(), AGES, generator=rows(500))


def test_a_value_that_the_equation_cannot_give_is_an_error():
    for inverse in (lambda x, pa: x, None):
        mechanism = Equation(lambda u, pa: u + 0 * pa["age"], inverse, noise=dist.Uniform(0.0, 1.0))
        value = torch.linspace(0.1, 0.9, 500, dtype=torch.float64)
        value[7] = 1.5
        with pytest.raises(
            AbductionError,
            match=r"1 of 500 values have no possible noise in this Equation: 1.5 at position 7|1.5 at position 7 comes back",
        ):
            mechanism.abduct(value, AGES, generator=rows(500))
        assert torch.isinf(Equation(lambda u, pa: u, lambda x, pa: x, noise=dist.Uniform(0.0, 1.0)).loss(value, AGES)[7])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Equation(), "an Equation needs its function"),
        (lambda: Grown(lambda u, pa: u), "Grown has a forward of its own: give no functions"),
        (lambda: Equation(lambda u, pa: u, noise=dist.Poisson(3.0)), "the noise of an Equation is continuous, Poisson is not"),
        (lambda: Equation(lambda u, pa: u, noise=dist.Normal(torch.zeros(2), 1.0)), "a distribution of one number a row"),
        (lambda: Equation(lambda u, pa: u, noise="normal"), "a distribution of one number a row"),
        (lambda: Equation(lambda u, pa: u, noise=dist.VonMises(0.0, 1.0)), "the prior VonMises has no quantile function"),
    ],
)
def test_an_equation_that_makes_no_sense_is_an_error(make, says):
    with pytest.raises(DataError, match=says):
        make()


def test_a_fit_leaves_an_equation_alone():
    graph = CausalGraph("grown", [AGE, Node("x", "continuous", parents=["age"])])
    scm = ccf.SCM(graph, {"age": Empirical(), "x": Grown()})
    with pytest.raises(NotFittedError, match="node 'age'"):
        scm.check_fitted()
    age = rows(200).uniform() * 60 + 20
    ccf.fit(scm, ccf.Batch(graph, pd.DataFrame({"age": age, "x": age * 1.1})))
    assert isinstance(scm.mechanisms["x"], Mechanism)
    assert float(scm.mechanisms["x"].predict(torch.zeros(1).double(), {"age": torch.ones(1).double()})) == 1.0


@pytest.mark.parametrize("inverse", [None, lambda x, pa: x.log()], ids=["bisection", "formula"])
def test_a_value_that_the_equation_cannot_give_is_impossible(inverse):
    value = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    loss = Equation(lambda u, pa: u.exp(), inverse).loss(value, {})
    assert loss.tolist() == [pytest.approx(0.5 * math.log(2 * math.pi)), INF, INF]
