"""Every mechanism of an attribute keeps the contract, and the suite that says so catches one that does not."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

import causalcf as ccf
from causalcf.testing import ContractError, check_mechanism

AGE, SEX = ccf.Node("age", "continuous", unit="year"), ccf.Node("sex", "binary", states=["F", "M"])
N = 600


def columns():
    draw = np.random.default_rng(0)
    age, sex = draw.normal(50, 10, N), draw.integers(0, 2, N)
    number = 0.1 * (age - 50) + sex + draw.normal(size=N)
    label = (draw.uniform(size=N) < 1 / (1 + np.exp(-number))).astype(int) + (draw.uniform(size=N) < 0.3)
    as_tensor = {"age": torch.tensor(age), "sex": torch.tensor(sex)}
    return as_tensor, torch.tensor(number), torch.tensor(label)


class Known(ccf.Equation):
    """age / 10 + sex + noise."""

    def forward(self, noise, parents):
        return parents["age"] / 10 + parents["sex"] + noise

    def inverse(self, value, parents):
        return value - parents["age"] / 10 - parents["sex"]


NUMBERS = {
    "linear-Gaussian": (ccf.LinearGaussian, [AGE, SEX]),
    "known line": (
        lambda: ccf.LinearGaussian(intercept=1.0, coefficients={"age": 0.1, "sex": [0.0, 1.0]}, scale=0.7),
        [AGE, SEX],
    ),
    "additive noise": (ccf.AdditiveNoise, [AGE, SEX]),
    "additive noise over another regressor": (lambda: ccf.AdditiveNoise(LinearRegression()), [AGE]),
    "location-scale": (ccf.LocationScale, [AGE, SEX]),
    "affine flow": (lambda: ccf.Flow(bins=0), [AGE]),
    "spline flow": (ccf.Flow, [SEX]),
    "root flow": (ccf.Flow, []),
    "empirical": (ccf.Empirical, []),
    "equation": (Known, [AGE, SEX]),
}
LABELS = {
    f"{kind.__name__}, {model}, {'+'.join(node.name for node in parents) or 'root'}": (kind, model, parents)
    for kind in (ccf.Categorical, ccf.Monotone, ccf.ResponseType)
    for model, parents in (("table", []), ("table", [SEX]), ("network", [SEX]))
} | {
    "Categorical, network, age+sex": (ccf.Categorical, "network", [AGE, SEX]),
    "Monotone, ordered, age+sex": (ccf.Monotone, "ordered", [AGE, SEX]),
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("causalcf.training._ATTRIBUTE_STEPS", 60)


@pytest.mark.parametrize("support", [None, (-10.0, 12.0)])
@pytest.mark.parametrize("what", NUMBERS)
def test_a_number_keeps_the_contract(what, support):
    make, parent_nodes = NUMBERS[what]
    if support and what in ("known line", "equation"):
        pytest.skip("a known mechanism knows no support")
    parents, number, _ = columns()
    node = ccf.Node("x", "continuous", support=support)
    promises = check_mechanism(make(), node, parent_nodes, number, {p.name: parents[p.name] for p in parent_nodes})
    assert "predict undoes abduct" in promises


@pytest.mark.parametrize("what", LABELS)
def test_a_label_keeps_the_contract(what):
    kind, model, parent_nodes = LABELS[what]
    parents, _, label = columns()
    node = ccf.Node("x", "ordinal", states=["low", "middle", "high"])
    promises = check_mechanism(kind(model=model), node, parent_nodes, label, {p.name: parents[p.name] for p in parent_nodes})
    assert "predict undoes abduct" in promises


class Forgets(Known):
    """Its inverse forgets a parent."""

    def inverse(self, value, parents):
        return value - parents["age"] / 10


class Wanders(Known):
    """Draws its noise from another seed every time."""

    def draw_noise(self, generator):
        return torch.randn(len(generator), dtype=torch.float64)


class TooWide(Known):
    """Draws noise that is wider than its prior."""

    def draw_noise(self, generator):
        return 1.5 * super().draw_noise(generator)


class Neighbours(Known):
    """A row's value depends on the other rows."""

    def forward(self, noise, parents):
        return super().forward(noise, parents) + parents["age"].mean()

    def inverse(self, value, parents):
        return super().inverse(value - parents["age"].mean(), parents)


@pytest.mark.parametrize("faulty", [Forgets, Wanders, TooWide, Neighbours])
def test_a_broken_promise_is_named(faulty):
    parents, number, _ = columns()
    with pytest.raises(ContractError, match=f"{faulty.__name__} of 'x' breaks the promise '"):
        check_mechanism(faulty(), ccf.Node("x", "continuous"), [AGE, SEX], number, parents)
