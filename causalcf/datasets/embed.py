"""EMBED as it is released: screening mammograms with density, and the labels of the skin markers on them.

    EMBED_OpenData_metadata.csv       an image a line: anon_dicom_path, empi_anon, acc_anon, FinalImageType, ImageLateralityFinal,
                                      ViewPosition, spot_mag
    EMBED_OpenData_clinical.csv       an examination a line: empi_anon, acc_anon, tissueden (1 to 4), GENDER_DESC, age_at_study
    markers.csv                       labels of markers: image_path, circle marker (0 or 1); a table of any name, looked for
                                      first among those with "marker" in it
    images/png/1024x768/PATIENT/UID.png    16 bits; where it is missing, the DICOM file at anon_dicom_path, from its cohort_N
                                           on, below `images`

The tables may also lie in `tables/`. Where the first two are absent, `EMBED_OpenData_{metadata,clinical}_reduced.csv` are read.

Kept are 2D images of women, MLO and CC views, without spot magnification, of density A to D. A breast is turned to the left.

J. Jeong et al., "The EMory BrEast imaging Dataset (EMBED): A Racially Diverse, Granular Dataset of 3.4 Million Screening and
Diagnostic Mammographic Images", Radiology: Artificial Intelligence 2023, https://doi.org/10.1148/ryai.220047; the labels of the
markers: https://github.com/biomedia-mira/mammo-artifacts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.datasets.released import Filtered, Released, find, open_table, split_by
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, Node, load_graph
from causalcf.image_files import ImageFiles, read_image
from causalcf.tables import is_table, read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_embed"]

_GET = "It is part of EMBED, for registered users: https://registry.opendata.aws/emory-breast-imaging-dataset-embed/."
_GET_MARKERS = (
    "It may have any name, and a line an image with image_path and 'circle marker', 0 or 1; labels of others: "
    "https://github.com/biomedia-mira/mammo-artifacts."
)
_PNG = "images/png/1024x768"
_MAKE = (
    "Put the DICOM files there by their paths from cohort_N on; or make PNGs of them: of UID.dcm the grey levels as its window "
    f"shows them, scaled to 1024 pixels high and 768 wide and to 16 bits, 0 to 65535, as {_PNG}/EMPI_ANON/UID.png."
)
_DENSITIES = {1: "A", 2: "B", 3: "C", 4: "D"}
_KEY = ("empi_anon", "acc_anon")  # of an exam
_NO_MARKERS = ("EMBED_OpenData_", "._")  # what tables without labels of markers start with; macOS writes the second beside a file
_SHARES = {"train": 0.675, "valid": 0.075, "test": 0.25}  # of the patients
_SEED = 33


def _to_left(mammogram: Any) -> Any:
    """The breast at the left edge: mirrored if the right half is brighter."""
    from PIL import ImageOps

    pixels = np.asarray(mammogram.convert("L"), dtype=np.float32)
    middle = pixels.shape[1] // 2
    return ImageOps.mirror(mammogram) if pixels[:, -middle:].sum() > pixels[:, :middle].sum() else mammogram


def _markers(root: Path) -> pd.Series:
    """Whether a circular marker is on an image, by the stem of its file."""
    absent = list[str]()
    homes = [home for home in (root, root / "tables") if home.is_dir()]
    files = [path for home in homes for path in home.iterdir() if path.is_file() and not path.name.startswith(_NO_MARKERS)]
    for path in sorted(filter(is_table, files), key=lambda path: ("marker" not in path.name.lower(), path.name)):
        try:
            table = read_table(path)
        except DataError as error:  # of something else, perhaps
            absent.append(str(error).rstrip("."))
            continue
        missing = [name for name in ("image_path", "circle marker") if name not in table.columns]
        if missing:
            absent.append(f"'{path}' has no column {', '.join(missing)}")
            continue
        circle = table["circle marker"]
        wrong = circle[~circle.isin([0, 1])]
        if len(wrong):
            raise DataError(f"'{path}' has circle marker '{wrong.iloc[0]}': it is 0 or 1.")
        stems = table["image_path"].map(lambda path: Path(str(path)).stem)
        labels = pd.DataFrame({"image": stems, "circle": circle.astype(int)}).drop_duplicates()
        twice = labels.loc[labels["image"].duplicated(), "image"]
        if len(twice):
            raise DataError(f"'{path}' has two lines of image '{twice.iloc[0]}' that differ in circle marker. Keep one of them.")
        return labels.set_index("image")["circle"]
    seen = f": {'; '.join(absent[:3])}" if absent else ""
    raise DataError(f"there is no table of markers in '{root}'{seen}. {_GET_MARKERS}")


def _find_table(root: Path, name: str) -> Path:
    names = [f"{folder}EMBED_OpenData_{name}{part}.csv" for part in ("", "_reduced") for folder in ("", "tables/")]
    return find(root, names, _GET)


def _file(root: Path, patient: str, dicom: str) -> str:
    """Where an image is, relative to the directory."""
    png = f"{_PNG}/{patient}/{Path(dicom).stem}.png"
    original = f"images/{re.sub(r'^.*/(?=cohort_[0-9]+/)', '', dicom).lstrip('/')}"  # the release has absolute paths
    return png if (root / png).is_file() or not (root / original).is_file() else original


def _read(path: Path, node: Node) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError(f"there is no image '{path}', and its DICOM file is not below 'images' either. {_MAKE} {_GET}")
    return read_image(path, node, resize=True, edit=_to_left)


def read_embed(directory: str | Path, graph: CausalGraph | str = "embed", *, jobs: int = 4) -> Released:
    """EMBED as it is released, an image scaled to the size that the graph has; no patient is in two splits.

    A quarter of the patients are for testing and a tenth of the others for validation; who, is a draw of our own.

    Args:
        directory: with the two tables, the labels of the markers, and the folder `images`.
        graph: over density and circle_marker, with one image; a ready-made one by name.
        jobs: threads that decode.

    Returns:
        Indexed by the image's identifier, with `patient`, `view`, `laterality` and `age` besides.

    Raises:
        DataError: a file or column is missing, or no row is left.
    """
    root, graph = Path(directory), load_graph(graph) if isinstance(graph, str) else graph
    shots = open_table(
        _find_table(root, "metadata"),
        {
            "anon_dicom_path": "dicom", "empi_anon": "patient", "acc_anon": "exam", "FinalImageType": "kind",
            "ImageLateralityFinal": "laterality", "ViewPosition": "view", "spot_mag": "spot",
        },
        _GET, numbers=_KEY, blanks=["spot_mag"], key=["anon_dicom_path"],
    )  # fmt: skip
    exams = open_table(
        _find_table(root, "clinical"),
        {"empi_anon": "patient", "acc_anon": "exam", "tissueden": "density", "GENDER_DESC": "gender", "age_at_study": "age"},
        _GET,
        numbers=_KEY,
        blanks=["tissueden"],
    )
    exams = exams.groupby(["patient", "exam"], as_index=False, sort=False).first()  # a line for every finding: what one has first
    rows = Filtered(shots.merge(exams, on=["patient", "exam"], how="left"))
    rows.keep("no 2D image", rows.frame["kind"] == "2D")
    rows.keep("not of a woman", rows.frame["gender"] == "Female")
    rows.keep("density not 1 to 4", rows.frame["density"].isin(list(_DENSITIES)))
    rows.keep("neither CC nor MLO", rows.frame["view"].isin(["CC", "MLO"]))
    rows.keep("spot magnification", rows.frame["spot"].fillna(0) != 1)
    stems = rows.frame["dicom"].map(lambda path: Path(str(path)).stem)
    rows.frame = rows.frame.assign(image_id=stems, circle_marker=stems.map(_markers(root)))
    rows.keep("no label of markers", rows.frame["circle_marker"].notna())
    frame = rows.frame.assign(
        density=rows.frame["density"].astype(int).map(_DENSITIES),
        circle_marker=rows.frame["circle_marker"].astype(int),
        split=split_by(rows.frame["patient"], _SHARES, _SEED),
    )
    names = [_file(root, str(patient), str(dicom)) for patient, dicom in zip(frame["patient"], frame["dicom"], strict=True)]
    kept = frame.set_index("image_id")[["patient", "view", "laterality", "age", "density", "circle_marker", "split"]]
    files = ImageFiles(root, names, graph.node(graph.images[0]), read=_read, jobs=jobs)
    return Released(Batch(graph, kept, {graph.images[0]: files}), rows.dropped, "patient", drawn=True)
