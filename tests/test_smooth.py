"""The regression of a user who names none: what is asked is what was fitted."""

import numpy as np
import pytest
import torch

from causalcf.attributes.base import Context, describe_parents
from causalcf.attributes.piecewise import NormalScore
from causalcf.attributes.smooth import Smooth, number_columns, smooth_regressor
from causalcf.graph import Node
from causalcf.seeds import RowGenerator

NUMBERS = [Node(name, "continuous") for name in "abc"]
LABEL = Node("kind", "categorical", states=["x", "y", "z"])
MANY = Node("many", "categorical", states=[str(number) for number in range(40)])


def columns(n, seed=0):
    draw = RowGenerator(seed, np.arange(n, dtype=np.uint64), "smooth")
    found = {node.name: 3 + 2 * draw.normal() for node in NUMBERS}
    return found | {"kind": (3 * draw.uniform()).long(), "many": (40 * draw.uniform()).long()}


def curve(parents):
    """What is to be learned: bent, and with interactions."""
    total = sum(torch.sin(parents[name]) for name in "abc" if name in parents)
    if "a" in parents and "kind" in parents:
        total = total + parents["kind"] * parents["a"] / 4
    return total + sum(parents[name] % 3 for name in ("kind", "many") if name in parents) / 2


def learned(nodes, n=3000):
    """The regressor after its fit, `Smooth` of it, and the parents' description."""
    every = columns(n)
    parents = {node.name: every[node.name] for node in nodes}
    spec = describe_parents(nodes, parents)
    rows = Context(spec)(parents).numpy()
    fits = [smooth_regressor(rows, number_columns(spec)).fit(rows, target) for target in (curve(parents), -rows[:, 0])]
    return fits, Smooth.of(fits, spec, rows), spec, parents


@pytest.mark.parametrize(
    ("nodes", "tables", "rounding"),
    [
        ([LABEL], 1, 1e-12),
        ([LABEL, MANY], 1, 1e-12),
        (NUMBERS[:1], 1, 1e-3),
        ([NUMBERS[0], LABEL], 1, 1e-3),
        ([LABEL, NUMBERS[0], MANY, NUMBERS[1]], 4, 1e-3),  # 120 configurations by 128 x 128 points are too many
        ([NUMBERS[0], LABEL, NUMBERS[1]], 1, 0.01),
        (NUMBERS, 3, 1e-3),
    ],
    ids=lambda value: " ".join(node.name for node in value) if isinstance(value, list) else None,
)
def test_what_is_asked_is_what_was_fitted(nodes, tables, rounding):
    fits, smooth, spec, parents = learned(nodes)
    assert len(smooth.tables) == tables
    expected = np.stack([fit.predict(Context(spec)(parents).numpy()) for fit in fits])
    found = smooth(parents)
    assert found.shape == expected.shape
    within = np.abs(found.numpy() - expected).max() if rounding < 1e-6 else np.quantile(np.abs(found.numpy() - expected), 0.99)
    assert within < rounding
    alone = smooth({name: value[:7] for name, value in parents.items()})
    assert torch.allclose(alone, found[:, :7], rtol=0, atol=1e-12)
    shaped = smooth({name: value.reshape(30, 100) for name, value in parents.items()})
    assert torch.allclose(shaped.reshape(found.shape), found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nodes", [NUMBERS[:2], NUMBERS], ids=["table", "waves"])
def test_beyond_the_data_it_goes_on_as_a_line(nodes):
    _, smooth, _, parents = learned(nodes)
    line = {name: value[:5].clone() for name, value in parents.items()}
    line["a"] = torch.linspace(40, 80, 5, dtype=torch.float64)
    for name in parents:
        line[name] = line[name] if name == "a" else torch.full((5,), 3.0, dtype=torch.float64)
    assert float(smooth(line).diff(n=2).abs().max()) < 1e-9


@pytest.mark.parametrize("nodes", [NUMBERS[:2], NUMBERS], ids=["table", "waves"])
def test_it_has_derivatives(nodes):
    _, smooth, _, parents = learned(nodes)
    place = {name: value[:3].clone().requires_grad_() for name, value in parents.items()}
    smooth(place)[0].sum().backward()
    step = 1e-6
    moved = {name: value.detach() + step * (name == "a") for name, value in place.items()}
    with torch.no_grad():
        slope = (smooth(moved)[0] - smooth({name: value.detach() for name, value in place.items()})[0]) / step
    assert torch.allclose(place["a"].grad, slope, atol=1e-4)


def test_normal_residuals_make_a_line_and_skewed_ones_do_not():
    lines = 0
    for seed in range(12):
        normal = 2 * RowGenerator(seed, np.arange(2000, dtype=np.uint64), "residuals").normal()
        lines += len(NormalScore.likeliest(normal).noise) == 2
        assert len(NormalScore.likeliest(normal.exp()).noise) > 4
        assert len(NormalScore.likeliest(normal[:5]).noise) == 2
    assert lines >= 11  # a map with pieces can be better by chance


def test_residuals_that_are_hardly_spread_still_make_a_map():
    tied = torch.zeros(50, dtype=torch.float64)
    tied[10] = 1.0  # the rows without its fold are constant
    assert len(NormalScore.likeliest(tied).noise) == 2
