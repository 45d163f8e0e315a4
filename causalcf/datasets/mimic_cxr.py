"""MIMIC-CXR-JPG as it is released, with the patients of MIMIC-IV: frontal radiographs with sex, race, age and a finding.

    mimic-cxr-2.0.0-metadata.csv[.gz]     dicom_id, subject_id, study_id, ViewPosition, StudyDate
    mimic-cxr-2.0.0-chexpert.csv[.gz]     subject_id, study_id, Pleural Effusion, No Finding
    admissions.csv[.gz]                   subject_id, race (in older releases ethnicity)
    patients.csv[.gz]                     subject_id, gender, anchor_age, anchor_year
    files/pXX/pSUBJECT/sSTUDY/DICOM.jpg   XX the first two digits of the subject

The tables of MIMIC-IV may also lie in `hosp/` or `core/`. Rows are kept and labelled by the rules of the studies before: one
recorded race of White, Asian and Black; frontal views; effusion or nothing found; age from the anchor year. A folder of prepared
tables is read as well: `train.csv`, `valid.csv`, `test.csv` with `path_preproc`, `age`, `sex_label`, `race_label`, `disease`, and
`subject_id` if all of them have it.

A. Johnson et al., "MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs", 2019,
https://arxiv.org/abs/1901.07042; A. Johnson et al., "MIMIC-IV, a freely accessible electronic health record dataset", Scientific
Data 2023, https://doi.org/10.1038/s41597-022-01899-x.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.datasets.released import SPLITS, Filtered, Released, as_numbers, check_people, find, open_table, split_by
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, load_graph
from causalcf.image_files import ImageFiles, read_image

__all__ = ["read_mimic_cxr"]

_GET = "It is part of MIMIC-CXR-JPG, for credentialed users: https://physionet.org/content/mimic-cxr-jpg/."
_GET_IV = "It is part of MIMIC-IV, for credentialed users: https://physionet.org/content/mimiciv/."
_SHARES = {"train": 0.6, "valid": 0.1, "test": 0.3}  # of the patients
_SEED = 42
_RACES = {"WHITE": "White", "ASIAN": "Asian", "BLACK": "Black"}  # by the first word of what the hospital recorded
_SEXES = ("Male", "Female")
_FINDINGS = ("No Finding", "Pleural Effusion")
_OTHER = "Other"  # of prepared tables
_NEITHER = "neither pleural effusion nor no finding"


def _table(root: Path, stem: str, how: str, folders: tuple[str, ...] = ("",)) -> Path:
    return find(root, [f"{folder}{stem}{suffix}" for folder in folders for suffix in (".csv", ".csv.gz")], how)


def _race(root: Path) -> pd.Series:
    """The race of every patient for whom one only is recorded, by subject."""
    path = _table(root, "admissions", _GET_IV, ("", "hosp/", "core/"))
    table = open_table(path, ["subject_id"], _GET_IV, optional=["race", "ethnicity"], numbers=["subject_id"])
    if len(table.columns) < 2:
        raise DataError(f"'{path}' has no column race (or 'ethnicity', as older releases call it). {_GET_IV}")
    race = table.iloc[:, 1:].astype(object).bfill(axis=1).iloc[:, 0]  # the other, where one of the two is blank
    admissions = table[["subject_id"]].assign(race=race).dropna()
    words = admissions["race"].astype(str).str.upper().str.split(r"[ /]", regex=True).str[0]
    recorded = admissions.assign(race=words.map(_RACES)).drop_duplicates()
    only = recorded.drop_duplicates("subject_id", keep=False).set_index("subject_id")["race"]
    return only.dropna()


def _released(root: Path, graph: CausalGraph, jobs: int) -> Released:
    study = ["subject_id", "study_id"]
    shots = open_table(
        _table(root, "mimic-cxr-2.0.0-metadata", _GET), ["dicom_id", *study, "ViewPosition", "StudyDate"], _GET,
        numbers=[*study, "StudyDate"], key=["dicom_id"],
    )  # fmt: skip
    labels = open_table(
        _table(root, "mimic-cxr-2.0.0-chexpert", _GET), [*study, "Pleural Effusion", "No Finding"], _GET,
        numbers=study, blanks=["Pleural Effusion", "No Finding"], key=study,
    )  # fmt: skip
    patients = open_table(
        _table(root, "patients", _GET_IV, ("", "hosp/", "core/")), ["subject_id", "gender", "anchor_age", "anchor_year"], _GET_IV,
        numbers=["subject_id", "anchor_age", "anchor_year"], key=["subject_id"],
    )  # fmt: skip
    table = shots.merge(labels, on=["subject_id", "study_id"], how="left").merge(patients, on="subject_id", how="left")
    rows = Filtered(table.assign(race=table["subject_id"].map(_race(root))))
    rows.keep("no patient in MIMIC-IV", rows.frame["gender"].isin(["M", "F"]))
    rows.keep("no race, several, or another than White, Asian and Black", rows.frame["race"].notna())
    rows.keep("no frontal view (AP, PA)", rows.frame["ViewPosition"].isin(["AP", "PA"]))
    effusion, nothing = rows.frame["Pleural Effusion"] == 1, rows.frame["No Finding"] == 1
    rows.keep(_NEITHER, effusion | nothing)
    frame = rows.frame
    frame = frame.assign(
        sex=frame["gender"].map({"M": "Male", "F": "Female"}),
        age=(frame["anchor_age"] + frame["StudyDate"] // 10_000 - frame["anchor_year"]).astype(float),
        finding=np.where(frame["Pleural Effusion"] == 1, *_FINDINGS[::-1]),
        split=split_by(frame["subject_id"], _SHARES, _SEED),
    )
    rows.frame = frame
    rows.keep("age outside 0 to 120 years", frame["age"].between(0, 120, inclusive="neither"))
    frame = rows.frame
    subject, day, shot = (frame[name].astype(str) for name in ("subject_id", "study_id", "dicom_id"))
    names = "p" + subject.str[:2] + "/p" + subject + "/s" + day + "/" + shot + ".jpg"
    kept = frame.set_index("dicom_id")[["subject_id", "study_id", "race", "sex", "age", "finding", "split"]]
    batch = _batch(graph, find(root, ["files"], _GET), names.to_numpy(), kept, jobs)
    return Released(batch, rows.dropped, "subject_id", drawn=True)


def _labelled(column: pd.Series, labels: tuple[str, ...], path: Path) -> pd.Series:
    """Labels from themselves or from their places."""
    codes = {str(place): label for place, label in enumerate(labels)} | {label: label for label in labels}
    found = column.astype(str).str.removesuffix(".0").map(codes)
    if found.isna().any():
        raise DataError(f"'{path}' has {column.name} '{column[found.isna()].iloc[0]}': it is one of {', '.join(codes)}.")
    return found


def _prepared(root: Path, graph: CausalGraph, jobs: int) -> Released:
    parts = []
    for split in SPLITS:
        path = find(root, [f"{split}.csv"], "Prepared tables are train.csv, valid.csv and test.csv.")
        columns = ["path_preproc", "age", "sex_label", "race_label", "disease"]
        table = open_table(path, columns, "Name its columns so.", optional=["subject_id"], key=["path_preproc"])
        known = table.assign(
            race=_labelled(table["race_label"], tuple(_RACES.values()), path),
            sex=_labelled(table["sex_label"], _SEXES, path),
            age=as_numbers(table["age"], path),
            finding=_labelled(table["disease"], (*_FINDINGS, _OTHER), path),
            split=split,
        )
        parts.append(known.drop(columns=["sex_label", "race_label", "disease"]))
    rows = Filtered(pd.concat(parts, join="inner").rename(columns={"path_preproc": "file_name"}).set_index("file_name"))
    rows.keep(_NEITHER, rows.frame["finding"] != _OTHER)
    person = "subject_id" if "subject_id" in rows.frame.columns else None
    if person:
        check_people(rows.frame, person, "Correct the tables, or leave the column out if it does not say who a row is of.")
    names = rows.frame.index.astype(str).to_numpy()
    return Released(_batch(graph, root, names, rows.frame, jobs, how=""), rows.dropped, person)


def _batch(graph: CausalGraph, images: Path, names: np.ndarray, frame: pd.DataFrame, jobs: int, how: str = _GET) -> Batch:
    files = ImageFiles(images, names, graph.node(graph.images[0]), read=partial(read_image, resize=True, how=how), jobs=jobs)
    return Batch(graph, frame, {graph.images[0]: files})


def read_mimic_cxr(directory: str | Path, graph: CausalGraph | str = "mimic_cxr", *, jobs: int = 4) -> Released:
    """MIMIC-CXR as it is released, an image scaled to the size that the graph has; no patient is in two splits.

    Of the patients, 60 % train, 10 % validate and 30 % test; who, is a draw of our own.

    Args:
        directory: with the tables and the folder `files`, or with prepared tables.
        graph: over race, sex, age and finding, with one image; a ready-made one by name.
        jobs: threads that decode.

    Returns:
        Indexed by dicom_id (prepared tables: by file).

    Raises:
        DataError: a file or column is missing, or no row is left.
    """
    root, graph = Path(directory), load_graph(graph) if isinstance(graph, str) else graph
    prepared = (root / "train.csv").is_file() and not list(root.glob("mimic-cxr-2.0.0-metadata.csv*"))
    return (_prepared if prepared else _released)(root, graph, jobs)
