"""The reader of the NIH ChestX-ray14 table, on lines in the layout of the release."""

import gzip
import zipfile

import pytest

from causalcf.datasets.nih_chest import FINDINGS, read_nih_chest
from causalcf.errors import DataError

TEXT = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height]
00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749
00000001_001.png,Cardiomegaly|Pleural_Thickening,1,1,58,M,AP,2894,2729
00000002_000.png,No Finding,0,2,80,F,PA,2500,2048
"""


def as_csv(folder):
    path = folder / "Data_Entry_2017_v2020.csv"
    path.write_text(TEXT)
    return path


def as_gzip(folder):
    path = folder / "Data_Entry_2017_v2020.csv.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    return path


def as_wheel(folder):
    path = folder / "torchxrayvision-1.5.7-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("torchxrayvision/data/Data_Entry_2017_v2020.csv.gz", gzip.compress(TEXT.encode()))
    return path


@pytest.mark.parametrize("write", [as_csv, as_gzip, as_wheel])
@pytest.mark.parametrize("folder", [False, True])
def test_the_release_is_read_wherever_it_lies(tmp_path, write, folder):
    table = read_nih_chest(tmp_path if write(tmp_path) and folder else write(tmp_path))
    assert list(table.index) == ["00000001_000.png", "00000001_001.png", "00000002_000.png"]
    assert list(table.columns) == ["patient", "age", "sex", "view", *map(str.lower, FINDINGS)]
    assert table.loc["00000001_001.png", ["age", "sex", "view"]].to_list() == [58, "M", "AP"]
    assert table["cardiomegaly"].to_list() == [1, 1, 0]
    assert table["pleural_thickening"].to_list() == [0, 1, 0]
    assert table[[name.lower() for name in FINDINGS]].to_numpy().sum() == 3


def test_mistakes_are_named(tmp_path):
    with pytest.raises(DataError, match="pip download --no-deps torchxrayvision"):
        read_nih_chest(tmp_path)
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv"):
        read_nih_chest(tmp_path / "nowhere.csv")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has no column Image Index"):
        read_nih_chest(tmp_path / "t.csv")
    (tmp_path / "u.csv").write_text(TEXT.replace("Cardiomegaly|", "Gout|"))
    with pytest.raises(DataError, match="findings that the release does not have: Gout"):
        read_nih_chest(tmp_path / "u.csv")
