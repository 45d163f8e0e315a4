"""Random numbers belong to a row: (seed, stream, row key, draw index) and nothing else."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from causalcf.seeds import RowGenerator, philox, row_keys, step_generator

ROWS = 20_000
# under the null hypothesis a p-value below this turns up once in ten thousand seeds; the seeds are fixed
P_VALUE = 1e-4


def generator(labels, seed=0, stream="age"):
    return RowGenerator(seed, row_keys(pd.Index(labels)), stream)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    words = np.array([int(word, 16) for word in counter.split()], dtype=np.uint64)[:, None]
    low, high = (int(word, 16) for word in key.split())
    assert [f"{int(word):08x}" for word in philox(words, (low, high))[:, 0]] == expected.split()


def test_philox_works_on_many_counters_as_on_one():
    counters = np.arange(12, dtype=np.uint64).reshape(4, 3)
    together = philox(counters, (1, 2))
    for column in range(3):
        assert (philox(counters[:, [column]], (1, 2))[:, 0] == together[:, column]).all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_the_draws_of_a_row_do_not_depend_on_batch_or_order(order, size):
    whole = generator(range(12)).normal(3)
    some = order[:size]
    assert torch.equal(generator(some).normal(3), whole[some])


@pytest.mark.parametrize("labels", [["a", "b", "c"], [3, 1, 2], [0.5, 1.5, -2.0], pd.date_range("2025-01-01", periods=3)])
def test_a_row_is_known_by_its_label_whatever_its_type(labels):
    index = pd.Index(labels)
    keys = row_keys(index)
    assert len(set(keys.tolist())) == 3
    assert (row_keys(index[[2]]) == keys[[2]]).all()
    assert (row_keys(index[::-1]) == keys[::-1]).all()


def test_a_range_and_the_same_numbers_in_a_list_have_the_same_keys():
    assert (row_keys(pd.RangeIndex(5)) == row_keys(pd.Index([0, 1, 2, 3, 4]))).all()


def test_a_label_has_the_same_key_as_text_of_either_pandas_type():
    assert (row_keys(pd.Index(["a", "b"], dtype=object)) == row_keys(pd.Index(["a", "b"], dtype="str"))).all()


@pytest.mark.parametrize(
    "other",
    [generator(range(100), seed=1), generator(range(100), stream="sex"), generator(range(100, 200))],
    ids=["seed", "stream", "rows"],
)
def test_another_seed_stream_or_row_draws_other_numbers(other):
    assert not (generator(range(100)).uniform() == other.uniform()).any()


def test_each_call_is_the_next_draw_and_a_generator_built_again_repeats_it():
    numbers = generator(range(100))
    first, second = numbers.uniform(), numbers.uniform()
    assert not (first == second).any()
    again = generator(range(100))
    assert torch.equal(again.uniform(), first)
    assert torch.equal(again.uniform(), second)


def test_a_longer_draw_begins_with_the_shorter():
    assert torch.equal(generator(range(5)).uniform(7)[:, :3], generator(range(5)).uniform(3))


def test_a_stream_starts_at_its_first_draw_whatever_was_drawn_before():
    used = generator(range(5))
    used.normal(4)
    assert torch.equal(used.stream("x").normal(), generator(range(5)).stream("x").normal())


def test_streams_within_streams_are_told_apart():
    root = generator(range(50), stream="")
    names = [("a",), ("b",), ("a", "b"), ("b", "b"), ("b", "a")]
    draws = []
    for path in names:
        inner = root
        for name in path:
            inner = inner.stream(name)
        draws.append(inner.uniform())
    assert len(torch.cat(draws).unique()) == 50 * len(names)


def test_rows_of_a_generator_draw_what_they_would_together():
    whole = generator(range(10)).normal(2, 3)
    assert torch.equal(generator(range(10)).rows(slice(4, 7)).normal(2, 3), whole[4:7])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (1, 4, 4)])
@pytest.mark.parametrize("kind", ["uniform", "normal", "gumbel"])
def test_a_draw_has_one_float64_block_a_row(kind, shape):
    draw = getattr(generator(range(6)), kind)(*shape)
    assert draw.shape == (6, *shape)
    assert draw.dtype == torch.float64
    assert torch.isfinite(draw).all()


@pytest.mark.parametrize(("kind", "law"), [("uniform", stats.uniform), ("normal", stats.norm), ("gumbel", stats.gumbel_r)])
def test_draws_follow_their_law_over_rows_and_within_a_row(kind, law):
    over_rows = getattr(generator(range(ROWS)), kind)().numpy()
    within_a_row = getattr(generator([7]), kind)(ROWS)[0].numpy()
    over_draws = generator([7])
    over_draws = np.array([float(getattr(over_draws, kind)()) for _ in range(1000)])
    for draws in (over_rows, within_a_row, over_draws):
        assert stats.kstest(draws, law.cdf).pvalue > P_VALUE


def test_neighbouring_rows_draws_and_places_are_uncorrelated():
    numbers = generator(range(ROWS))
    first, second = numbers.normal(2), numbers.normal(2)
    pairs = [(first[:-1, 0], first[1:, 0]), (first[:, 0], second[:, 0]), (first[:, 0], first[:, 1])]
    for one, other in pairs:
        # a correlation of n independent pairs has standard deviation 1 / sqrt(n)
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 5 / math.sqrt(ROWS)


def test_uniform_is_never_zero_or_one():
    draws = generator([0]).uniform(1_000_000)
    assert float(draws.min()) > 0
    assert float(draws.max()) < 1


def test_drawing_leaves_the_global_generators_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    generator(range(5)).gumbel(3)
    step_generator(0, "x", 1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_a_training_step_draws_the_same_whenever_it_is_reached():
    draw = torch.rand(4, generator=step_generator(0, "image", 17))
    assert torch.equal(draw, torch.rand(4, generator=step_generator(0, "image", 17)))
    for other in (step_generator(1, "image", 17), step_generator(0, "digit", 17), step_generator(0, "image", 18)):
        assert not torch.equal(draw, torch.rand(4, generator=other))


def test_a_generator_prints_on_one_line_and_draws_nothing():
    numbers = generator(range(5))
    assert repr(numbers) == "RowGenerator(seed=0, rows=5, stream='age')"
    assert torch.equal(numbers.uniform(), generator(range(5)).uniform())
