"""The second real set: photographs of garments, read from the released files, through fit, counterfactual and audit."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

import causalcf as ccf
from causalcf.datasets.fashion_mnist import _FOLDER, _VARIABLE, GARMENTS
from causalcf.datasets.idx import read_idx
from causalcf.rulers import measure_intensity

FOLDER = Path(os.environ.get(_VARIABLE, _FOLDER))
needs_photographs = pytest.mark.skipif(not FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape) + array.tobytes()


def test_the_layout_of_the_release_is_read_gzipped_or_not(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx(array))
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(idx(array)))
    assert np.array_equal(read_idx(tmp_path / "plain"), array)
    assert np.array_equal(read_idx(tmp_path / "zipped.gz"), array)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is no IDX file"),
        (b"\x89PNG and so on", "is no IDX file"),
        (idx(np.zeros((2, 2), np.uint8))[:-1], "announces 2x2 bytes and holds 3"),
        (gzip.compress(idx(np.zeros((9, 9), np.uint8)), mtime=0)[:-9], "is damaged"),
    ],
    ids=["empty", "picture", "cut off", "cut off gzip"],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, data, complaint):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ccf.DataError, match=f"file' {complaint}"):
        read_idx(tmp_path / "file")


def test_files_that_are_not_there_say_how_to_get_them(tmp_path):
    with pytest.raises(ccf.DataError, match="Install Debian's package dataset-fashion-mnist"):
        ccf.FashionMNIST("test", folder=tmp_path)
    with pytest.raises(ccf.DataError, match="no split 'all'"):
        ccf.FashionMNIST("all")


@needs_photographs
def test_the_splits_share_no_photograph_and_hold_every_garment_alike():
    frames = {split: ccf.FashionMNIST(split).frame(n) for split, n in (("train", 48_000), ("judge", 10_000), ("valid", 2_000))}
    indices = np.concatenate([frame.index for frame in frames.values()])
    assert len(set(indices)) == 60_000
    test = ccf.FashionMNIST("test").frame(10_000)
    assert test["garment"].value_counts().to_dict() == dict.fromkeys(GARMENTS, 1000)
    with pytest.raises(ccf.DataError, match="has 2000 rows, not 2001"):
        ccf.FashionMNIST("valid").frame(2001)


@needs_photographs
def test_a_row_is_its_photograph_and_the_intensity_is_what_the_ruler_reads():
    data = ccf.FashionMNIST("test")
    frame = data.frame(50)
    images = data.images(frame)
    assert images.shape == (50, 1, 32, 32)
    assert np.array_equal(measure_intensity(images[:, 0]), frame["intensity"])
    assert np.array_equal(data.images(frame.iloc[[7]])[0], images[7])


@needs_photographs
def test_photographs_go_through_fit_counterfactual_and_audit(tmp_path):
    study = ccf.recipe("fashion_mnist")
    scm = ccf.fit(study.scm().configured(steps=5), study.batch("train", 256), training=ccf.Training(steps=12, batch_size=16))
    scm.judges = ccf.fit_judges(study.batch("judge", 400), rulers=study.rulers, epochs=2)
    scm.save(tmp_path / "model")
    scm, rows = ccf.load(tmp_path / "model"), study.batch("test", 6)
    answer = ccf.counterfactual(scm, rows, {"garment": "bag"})
    assert answer.changed == {"garment", "intensity", "image"}
    assert (answer.frame["garment"] == "bag").all()
    # the intensity follows its cause, by the noise that the factual one had
    moved = rows.frame["garment"] != "bag"
    assert (answer.frame["intensity"] != rows.frame["intensity"])[moved].all()
    brighter = ccf.counterfactual(scm, rows, {"intensity": 200.0})
    assert brighter.frame["garment"].equals(rows.frame["garment"])
    report = ccf.audit(scm, rows, rounds=(1,))
    assert report.passed
    assert {"garment", "intensity"} == set(report.scores.query("measure == 'effectiveness'")["attribute"])
