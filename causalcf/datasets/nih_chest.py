"""The table of NIH ChestX-ray14: age, sex, view position and the findings mined from the reports of 112,120 radiographs.

The file is `Data_Entry_2017_v2020.csv` of the release; the wheel of the package torchxrayvision carries a copy of it, gzipped:
`pip download --no-deps torchxrayvision`. Nothing of that package is imported.

X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. Summers, "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on
Weakly-Supervised Classification and Localization of Common Thorax Diseases", CVPR 2017, https://arxiv.org/abs/1705.02315; the
package: J. P. Cohen et al., "TorchXRayVision: A library of chest X-ray datasets and models", MIDL 2022,
https://arxiv.org/abs/2111.00595.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pandas as pd

from causalcf.errors import DataError

__all__ = ["FINDINGS", "read_nih_chest"]

_FILE = "Data_Entry_2017_v2020.csv"
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia", "Infiltration",
    "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
_COLUMNS = {
    "Image Index": "image",
    "Patient ID": "patient",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "View Position": "view",
}


def read_nih_chest(path: str | Path) -> pd.DataFrame:
    """The released table in the columns of the ready-made graph `nih_chest`, one row a radiograph.

    Args:
        path: `Data_Entry_2017_v2020.csv`, the same gzipped, the torchxrayvision wheel, or a folder with any of them.

    Returns:
        Indexed by the image's file name: `patient`, `age` in years, `sex` (F, M), `view` (AP, PA) and a column of 0 and 1 for
        each of the 14 findings, in lower case.

    Raises:
        DataError: the file is not there, or has other columns.
    """
    table = pd.read_csv(_open(Path(path)), usecols=lambda name: name in (*_COLUMNS, "Finding Labels"))
    absent = [name for name in (*_COLUMNS, "Finding Labels") if name not in table.columns]
    if absent:
        raise DataError(f"'{path}' has no column {', '.join(absent)}: it is not the released {_FILE}.")
    found = table["Finding Labels"].str.get_dummies("|")
    unknown = sorted(set(found.columns) - {*FINDINGS, "No Finding"})
    if unknown:
        raise DataError(f"'{path}' has findings that the release does not have: {', '.join(unknown)}.")
    findings = found.reindex(columns=list(FINDINGS), fill_value=0).rename(columns=str.lower)
    return pd.concat([table[list(_COLUMNS)].rename(columns=_COLUMNS), findings], axis=1).set_index("image")


def _open(path: Path) -> io.BufferedIOBase:
    if path.is_dir():
        places = [*sorted(path.glob(f"{_FILE}*")), *sorted(path.glob("torchxrayvision-*.whl"))]
        if not places:
            raise DataError(
                f"there is neither {_FILE} nor a torchxrayvision wheel in '{path}'. "
                "Get one with: pip download --no-deps torchxrayvision"
            )
        path = places[0]
    if not path.is_file():
        raise DataError(f"there is no file '{path}'. Get one with: pip download --no-deps torchxrayvision")
    data = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            inside = [name for name in wheel.namelist() if name.endswith(f"{_FILE}.gz")]
            if not inside:
                raise DataError(f"the wheel '{path}' does not hold {_FILE}.gz.")
            data = wheel.read(inside[0])
    if data[:2] == b"\x1f\x8b":
        import gzip

        data = gzip.decompress(data)
    return io.BytesIO(data)
