"""Real digits, redrawn by known equations."""

import numpy as np
import pytest
from scipy import stats

import causalcf as ccf
from causalcf.datasets.morphomnist import _split, structural_intensity
from causalcf.rulers import measure_intensity, measure_thickness


def test_no_base_digit_is_in_two_splits():
    splits = [set(_split(name)) for name in ("train", "judge", "valid", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 5000
    assert len(splits[3]) == 1000


def test_attributes_match_the_published_statistics():
    frame = ccf.MorphoMNIST("test").frame(20_000)
    # the release: thickness mean 2.503, sd .632, intensity mean 158.0, sd 48.4, correlation .908; five standard errors
    assert frame["thickness"].mean() == pytest.approx(2.5, abs=5 * 0.632 / 20_000**0.5)
    assert frame["intensity"].mean() == pytest.approx(158, abs=5 * 48.4 / 20_000**0.5 + 0.5)
    assert frame["thickness"].corr(frame["intensity"]) == pytest.approx(0.908, abs=0.01)
    assert stats.kstest(frame["thickness"], stats.gamma(10, loc=0.5, scale=0.2).cdf).pvalue > 1e-3


def test_an_image_shows_the_thickness_and_intensity_it_was_drawn_at():
    data = ccf.MorphoMNIST("test")
    frame = data.frame(60)
    images = data.images(frame)
    assert images.shape == (60, 1, 32, 32)
    assert np.abs(measure_thickness(images[:, 0]) - frame["thickness"]).mean() < 0.15  # the ruler's floor, pixels
    assert np.abs(measure_intensity(images[:, 0]) - frame["intensity"]).mean() < 2.0  # grey levels; clipping at 255


def test_the_true_counterfactual_keeps_the_handwriting():
    data = ccf.MorphoMNIST("test")
    frame = data.frame(5)
    thick = frame.assign(thickness=frame["thickness"] + 1)
    before, after = data.images(frame), data.images(thick)
    assert (measure_thickness(after[:, 0]) > measure_thickness(before[:, 0]) + 0.7).all()
    again = data.images(thick.assign(thickness=frame["thickness"]))
    assert np.array_equal(again, before)


def test_a_row_is_the_same_in_any_selection():
    data = ccf.MorphoMNIST("test")
    whole, part = data.frame(30), data.frame(30).iloc[[7, 3]]
    assert np.array_equal(data.images(whole)[[7, 3]], data.images(part))


def test_intensity_follows_the_published_equation():
    assert structural_intensity(np.array([0.0]), np.array([2.5]))[0] == pytest.approx(64 + 191 / 2)


def test_an_unknown_split_is_an_error():
    with pytest.raises(ccf.DataError, match=r"no split 'holdout'.*train, judge, valid, test"):
        ccf.MorphoMNIST("holdout")
