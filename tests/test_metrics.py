"""Statistics of weighted rows: against libraries and closed forms, and under resampling."""

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, stats
from sklearn.metrics import f1_score, roc_auc_score

from causalcf.errors import DataError
from causalcf.measures import Measured
from causalcf.metrics import STATISTICS, check_groups, interval, resamples


@pytest.fixture
def drawn():
    return np.random.default_rng(0)


@pytest.mark.parametrize("labels", [2, 5])
def test_auroc_and_f1_agree_with_scikit_learn_for_any_weights_and_ties(drawn, labels):
    code = drawn.integers(0, labels, 200)
    scores = np.round(drawn.dirichlet(np.ones(labels), 200) + 0.3 * np.eye(labels)[code], 1)  # many scores tie
    weights = drawn.integers(0, 4, (3, 200)).astype(float)
    read = scores.argmax(1)
    areas = STATISTICS["auroc"](np.column_stack([code, scores]), weights)
    f1 = STATISTICS["f1"](np.column_stack([code, read]), weights)
    for weight, area, one in zip(weights, areas, f1, strict=True):
        each = [roc_auc_score(code == k, scores[:, k], sample_weight=weight) for k in range(labels)]
        assert area == pytest.approx(each[1] if labels == 2 else np.mean(each))
        assert one == pytest.approx(f1_score(code, read, average="macro", sample_weight=weight))


def test_frechet_distance_agrees_with_its_definition(drawn):
    one, other = drawn.normal(size=(300, 4)), drawn.normal(0.5, 2, size=(300, 4))
    spreads = [np.cov(part.T, ddof=0) for part in (one, other)]
    root = linalg.sqrtm(spreads[0] @ spreads[1]).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(spreads[0] + spreads[1] - 2 * root)
    assert STATISTICS["frechet"](np.concatenate([one, other], axis=1), np.ones((1, 300)))[0] == pytest.approx(expected)
    assert STATISTICS["frechet"](np.concatenate([one, one], axis=1), np.ones((1, 300)))[0] == pytest.approx(0, abs=1e-9)


def test_kolmogorov_and_correlation_agree_with_scipy(drawn):
    uniform, other = drawn.uniform(size=(2, 100))
    ones = np.ones((1, 100))
    assert STATISTICS["kolmogorov"](uniform[:, None], ones)[0] == pytest.approx(stats.kstest(uniform, "uniform").statistic)
    pair = np.stack([uniform, other], axis=1)
    assert STATISTICS["correlation"](pair, ones)[0] == pytest.approx(abs(stats.pearsonr(uniform, other).statistic))


@pytest.mark.parametrize("name", ["mean", "auroc", "f1", "frechet", "kolmogorov", "correlation"])
def test_a_weight_counts_a_row_so_many_times(drawn, name):
    code = drawn.integers(0, 2, 60)
    rows = {
        "mean": drawn.normal(size=(60, 1)),
        "auroc": np.column_stack([code, drawn.uniform(size=(60, 2))]),
        "f1": np.column_stack([code, drawn.integers(0, 2, 60)]),
        "frechet": drawn.normal(size=(60, 6)),
        "kolmogorov": drawn.uniform(size=(60, 1)),
        "correlation": drawn.normal(size=(60, 2)),
    }[name]
    times = drawn.integers(0, 3, 60)
    repeated = np.repeat(rows, times, axis=0)
    weighted = STATISTICS[name](rows, times[None].astype(float))
    assert weighted == pytest.approx(STATISTICS[name](repeated, np.ones((1, len(repeated)))))


def test_groups_are_drawn_the_same_whatever_they_are_called():
    numbers = np.array([3, 1, 2, 3, 1, 10])
    mixed = np.array(["b", 1, "a", "b", 1, "c"], dtype=object)  # in the same order: numbers before words
    assert np.array_equal(resamples(6, seed=0, groups=numbers), resamples(6, seed=0, groups=mixed))


def test_groups_are_drawn_as_a_whole_and_widen_the_interval_as_they_should(drawn):
    groups = np.repeat(np.arange(50), 8)
    samples = resamples(400, seed=0, groups=groups)
    assert (samples.reshape(-1, 50, 8) == samples.reshape(-1, 50, 8)[:, :, :1]).all()
    values = np.repeat(drawn.normal(size=50), 8)[:, None]  # eight equal rows a group tell no more than one
    low, high = interval("mean", values, samples)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 50**0.5, rel=0.15)
    low, high = interval("mean", values, resamples(400, seed=0))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 400**0.5, rel=0.15)


@pytest.mark.parametrize(
    ("unit", "value", "scale"), [("accuracy", 1.0, 1.0), ("accuracy", 0.0, 1.0), ("percent of rows", 1.0, 100.0)]
)
def test_where_all_rows_are_right_the_interval_is_the_exact_one_of_a_share(unit, value, scale):
    """A bootstrap of rows that are all alike would be certain."""
    one = Measured("effectiveness", np.full(64, value), unit=unit, scale=scale)
    exact = stats.binomtest(int(64 * value), 64).proportion_ci(method="exact")
    assert one.interval(resamples(64, seed=0)) == pytest.approx((scale * exact.low, scale * exact.high))
    people = resamples(64, seed=0, groups=np.repeat(np.arange(8), 8))  # of whom each tells once
    exact = stats.binomtest(int(8 * value), 8).proportion_ci(method="exact")
    assert one.interval(people) == pytest.approx((scale * exact.low, scale * exact.high))


def test_where_no_row_changed_a_gain_and_a_loss_are_equally_possible():
    one = Measured("amplification", np.zeros(64), unit="point of accuracy", scale=100.0)
    assert one.interval(resamples(64, seed=0)) == pytest.approx((-5.601, 5.601), abs=1e-3)  # 100 (1 - .025^(1/64))
    for unit in ("pixel", "percent of rows"):  # of a distance what it may be is not known; and what is copied is no chance
        assert Measured("composition.1", np.zeros(64), unit=unit).interval(resamples(64, seed=0)) == (0.0, 0.0)


def test_groups_are_those_of_a_column_that_names_them_all():
    rows = pd.DataFrame({"patient": ["a", " ", None], "site": [1, 2, 3]})
    check_groups(rows, "site")
    with pytest.raises(
        DataError, match=r"column 'patient' has 2 missing values, in rows 1, 2, so .* Fill them, drop the rows, or do not"
    ):
        check_groups(rows, "patient")
    with pytest.raises(DataError, match=r"no column .person. to group by\. Columns are: patient, site"):
        check_groups(rows, "person")
