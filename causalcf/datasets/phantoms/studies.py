"""Phantoms: look-alikes of the studies' data sets, in their released layouts, drawn from structural causal models that are known.

    study        equations, u uniform on (0, 1) and each node's own
    celebahq     Smiling = [u < .5], Male = [u < .45], Young = [u < .7]; of celebahq_dependent also
                 No_Beard = [u >= .6 Male (.6 + .4 Young)], Bald = [u < .02 + .4 Male (1 - Young)]
    mimic_cxr    race = White, Asian, Black where u < .6, .75, 1; sex = Female where u < .48; age = 20 + 75 Beta(2.6, 1.8)^-1(u)
                 finding = effusion where u < 1 / (1 + exp((66 - age) / 9)); race, sex and age are of a patient
    embed        density = A, B, C, D where u < .1, .5, .9, 1, of a woman; circle_marker = [u < .35]

A row's noise is a function of (seed, what the row is called) alone, so that a row is the same wherever it is drawn, and its true
counterfactual is the same drawing under other values: `Phantom.true_counterfactual`. No person is in these data.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from causalcf.batch import Batch
from causalcf.datasets.celeba import ATTRIBUTES
from causalcf.datasets.phantoms.breasts import draw_breasts
from causalcf.datasets.phantoms.chests import draw_chests
from causalcf.datasets.phantoms.faces import draw_faces
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, load_graph
from causalcf.image_files import scale_image
from causalcf.interventions import Do, Policy, resolve
from causalcf.progress import progress as show_progress
from causalcf.seeds import RowGenerator, row_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PHANTOMS", "Phantom", "phantom"]

_PART = 128  # pictures that are drawn together
_ORIGINALS = "/mnt/NAS2/mammo/anon_dicom/cohort_1"  # where EMBED's tables say that DICOM files are
_VIEWS = [(side, view) for side in "LR" for view in ("CC", "MLO")]
Asked = Mapping[str, pd.Series]
Drawn = tuple[Any, "NDArray[np.uint8]"]  # what a row is called, and its picture, (channel, size, size)


@dataclass(frozen=True)
class _Form:
    """What the rows of a phantom are called: of which type, by which pattern, in words."""

    kind: type
    pattern: str
    words: str

    def check(self, ids: pd.Index | Sequence[Any], study: str) -> pd.Index:
        """The ids, if every row could be called so."""
        try:
            index = pd.Index(ids).infer_objects()
        except (TypeError, ValueError):
            raise DataError(f"ids={ids!r} is no list of what rows are called. Give one: [{ids!r}].") from None
        if not len(index):
            raise DataError(f"there are no ids. Name a row or more: those of the phantom of {study} are called {self.words}.")
        odd = [name for name in index if not isinstance(name, self.kind) or not re.fullmatch(self.pattern, str(name))]
        if odd:
            raise DataError(f"no row of the phantom of {study} is called {odd[0]!r}. Rows are called {self.words}.")
        return index


_FACE = _Form(Integral, r"[0-9]+", "by whole numbers from 0 on, as 0, 1, 2")
_CHEST = _Form(str, r"1[0-9]{7,}-5[0-9]{7,}-phantom", "PATIENT-STUDY-phantom, as '10000000-50000000-phantom'")
_BREAST = _Form(str, r"2[0-9]{7,}\.[LR]\.(CC|MLO)", "PATIENT.SIDE.VIEW, as '20000000.L.CC'")


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise DataError(f"{name}={value!r} is no whole number from {least} on. Give one.")


def _uniform(seed: int, index: pd.Index, name: str) -> NDArray[np.float64]:
    return RowGenerator(seed, row_keys(index)).stream(name).uniform().numpy()


def _labels(states: Sequence[str], ends: Sequence[float], noise: NDArray[np.float64]) -> NDArray[np.object_]:
    return np.array(list(states), dtype=object)[np.searchsorted(ends, noise, side="right")]


class _Equations:
    """Values of one node after another, each by its equation or as it was asked for."""

    def __init__(self, index: pd.Index, do: Asked) -> None:
        self.index, self.do, self.values = index, do, dict[str, Any]()

    def set(self, name: str, value: Any) -> Any:
        if name in self.do:
            value = self.do[name].infer_objects().to_numpy()
        self.values[name] = value
        return value

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.values, index=self.index)


# ------------------------------------------------------------------ faces


def _face_attributes(plain: bool, seed: int, index: pd.Index, do: Asked) -> pd.DataFrame:
    rows, u = _Equations(index, do), partial(_uniform, seed, index)
    rows.set("Smiling", (u("Smiling") < 0.5).astype(int))
    male = rows.set("Male", (u("Male") < 0.45).astype(int))
    young = rows.set("Young", (u("Young") < 0.7).astype(int))
    if plain:  # three attributes are all there is: beard and baldness are neither causes nor effects
        return rows.frame()
    rows.set("No_Beard", (u("No_Beard") >= 0.6 * male * (0.6 + 0.4 * young)).astype(int))
    rows.set("Bald", (u("Bald") < 0.02 + 0.4 * male * (1 - young)).astype(int))
    return rows.frame()


def _face_pictures(plain: bool, seed: int, frame: pd.DataFrame, size: int) -> NDArray[np.uint8]:
    names = ("Smiling", "Male", "Young", *(() if plain else ("No_Beard", "Bald")))
    labels: dict[str, Any] = {name: frame[name].to_numpy() for name in names}
    return draw_faces(labels, RowGenerator(seed, row_keys(frame.index)), size)


def _face_names(rows: int) -> pd.Index:
    return pd.RangeIndex(rows, name="image_id")


def _write_faces(directory: Path, frame: pd.DataFrame, drawn: Iterator[Drawn]) -> None:
    home = directory / "CelebAMask-HQ"
    (home / "CelebA-HQ-img").mkdir(parents=True)
    lines = [str(len(frame)), " ".join(ATTRIBUTES)]
    known = {name: 2 * frame[name].to_numpy() - 1 for name in frame}
    table = np.stack([known.get(name, np.full(len(frame), -1)) for name in ATTRIBUTES], axis=1)
    lines += [f"{row}.jpg  {' '.join(map(str, labels))}" for row, labels in zip(frame.index, table, strict=True)]
    (home / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines) + "\n")
    originals = [f"{row + 1:06d}.jpg" for row in frame.index]
    mapping = [f"{row} {row} {name}" for row, name in zip(frame.index, originals, strict=True)]
    (home / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["idx orig_idx orig_file", *mapping]) + "\n")
    ends = [int(0.8 * len(frame)), int(0.9 * len(frame))]
    split = np.searchsorted(ends, np.arange(len(frame)), side="right")
    (directory / "list_eval_partition.txt").write_text(
        "".join(f"{name} {place}\n" for name, place in zip(originals, split, strict=True))
    )
    for row, pixels in drawn:
        (home / "CelebA-HQ-img" / f"{row}.jpg").write_bytes(_jpeg(pixels))


# ------------------------------------------------------------------ chests


def _chest_attributes(seed: int, index: pd.Index, do: Asked) -> pd.DataFrame:
    rows, person = _Equations(index, do), pd.Index([str(name).split("-")[0] for name in index])
    rows.set("race", _labels(("White", "Asian", "Black"), (0.6, 0.75), _uniform(seed, person, "race")))
    rows.set("sex", np.where(_uniform(seed, person, "sex") < 0.48, "Female", "Male").astype(object))
    age = rows.set("age", np.floor(20 + 75 * stats.beta(2.6, 1.8).ppf(_uniform(seed, person, "age"))))
    effusion = _uniform(seed, index, "finding") < 1 / (1 + np.exp((66 - age) / 9))
    rows.set("finding", np.where(effusion, "Pleural Effusion", "No Finding").astype(object))
    return rows.frame()


def _chest_pictures(seed: int, frame: pd.DataFrame, size: int) -> NDArray[np.uint8]:
    values = {
        "age": frame["age"].to_numpy(float),
        "sex": (frame["sex"] == "Female").to_numpy(),
        "finding": (frame["finding"] == "Pleural Effusion").to_numpy(),
        "race": frame["race"].map({"White": 0, "Asian": 1, "Black": 2}).to_numpy(),
    }
    return draw_chests(values, RowGenerator(seed, row_keys(frame.index)), size)


def _chest_names(rows: int) -> pd.Index:
    """Two radiographs of a patient."""
    return pd.Index([f"{10_000_000 + row // 2}-{50_000_000 + row}-phantom" for row in range(rows)], name="dicom_id")


def _write_chests(directory: Path, frame: pd.DataFrame, drawn: Iterator[Drawn]) -> None:
    subject, study, _ = zip(*(name.split("-") for name in frame.index), strict=True)
    keys = pd.DataFrame({"subject_id": subject, "study_id": study}).astype(int)
    shots = keys.assign(dicom_id=frame.index, ViewPosition=np.where(np.arange(len(frame)) % 3 == 0, "AP", "PA"))
    shots.assign(StudyDate=21500615 + np.arange(len(frame)) % 2).to_csv(
        directory / "mimic-cxr-2.0.0-metadata.csv.gz", index=False
    )
    effusion = (frame["finding"] == "Pleural Effusion").to_numpy()
    found = {"No Finding": np.where(effusion, np.nan, 1.0), "Pleural Effusion": np.where(effusion, 1.0, np.nan)}
    keys.assign(**found).to_csv(directory / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False)
    people = keys.assign(gender=frame["sex"].str[0].to_numpy(), anchor_age=frame["age"].to_numpy().astype(int), anchor_year=2150)
    people = people.drop(columns="study_id").assign(race=frame["race"].str.upper().to_numpy()).drop_duplicates("subject_id")
    people.drop(columns="race").to_csv(directory / "patients.csv", index=False)
    people[["subject_id", "race"]].to_csv(directory / "admissions.csv", index=False)
    places = [f"p{person[:2]}/p{person}/s{day}/{name}.jpg" for person, day, name in zip(subject, study, frame.index, strict=True)]
    for place, (_, pixels) in zip(places, drawn, strict=True):
        path = directory / "files" / place
        path.parent.mkdir(parents=True)
        path.write_bytes(_jpeg(pixels))


# ------------------------------------------------------------------ breasts


def _breast_attributes(seed: int, index: pd.Index, do: Asked) -> pd.DataFrame:
    rows, person = _Equations(index, do), pd.Index([str(name).split(".")[0] for name in index])
    rows.set("density", _labels("ABCD", (0.1, 0.5, 0.9), _uniform(seed, person, "density")))
    rows.set("circle_marker", (_uniform(seed, index, "circle_marker") < 0.35).astype(int))
    return rows.frame()


def _breast_pictures(seed: int, frame: pd.DataFrame, size: int) -> NDArray[np.uint8]:
    values = {
        "density": frame["density"].map({state: place for place, state in enumerate("ABCD")}).to_numpy(),
        "circle_marker": frame["circle_marker"].to_numpy(),
        "view": np.array([str(name).endswith("MLO") for name in frame.index]),
    }
    return draw_breasts(values, RowGenerator(seed, row_keys(frame.index)), size)


def _breast_names(rows: int) -> pd.Index:
    """Four views of a woman."""
    views = ((row // 4, *_VIEWS[row % 4]) for row in range(rows))
    return pd.Index([f"{20_000_000 + person}.{side}.{view}" for person, side, view in views], name="image_id")


def _write_breasts(directory: Path, frame: pd.DataFrame, drawn: Iterator[Drawn]) -> None:
    from PIL import Image

    person, side, view = zip(*(name.split(".") for name in frame.index), strict=True)
    who = pd.DataFrame({"empi_anon": person, "acc_anon": person}).astype(int)
    shots = who.assign(
        anon_dicom_path=[f"{_ORIGINALS}/{patient}/{name}.dcm" for patient, name in zip(person, frame.index, strict=True)],
        FinalImageType="2D", ImageLateralityFinal=side, ViewPosition=view, spot_mag=np.nan,
    )  # fmt: skip
    shots.to_csv(directory / "EMBED_OpenData_metadata.csv", index=False)
    exams = who.assign(tissueden=frame["density"].map(dict(zip("ABCD", range(1, 5), strict=True))).to_numpy())
    exams = exams.assign(GENDER_DESC="Female", age_at_study=55.0).drop_duplicates()
    exams.to_csv(directory / "EMBED_OpenData_clinical.csv", index=False)
    paths = [f"{patient}/{name}.png" for patient, name in zip(person, frame.index, strict=True)]
    marker = frame["circle_marker"].to_numpy()
    pd.DataFrame({"image_path": paths, "circle marker": marker}).to_csv(directory / "markers.csv", index=False)
    for place, of_side, (_, pixels) in zip(paths, side, drawn, strict=True):
        path = directory / "images/png/1024x768" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        turned = pixels[0, :, ::-1] if of_side == "R" else pixels[0]  # a right breast is at the right edge, as released
        Image.fromarray(turned.astype(np.uint16) * 257).save(path)


# ------------------------------------------------------------------ all


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    image, buffer = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)), io.BytesIO()
    image.save(buffer, "JPEG", quality=97, subsampling=0)
    return buffer.getvalue()


def _from_jpeg(data: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _scaled(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A square picture (channel, size, size) as the reader scales it."""
    from PIL import Image

    if pixels.shape[-1] == side:
        return pixels
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2))
    scaled = np.asarray(scale_image(picture, side, side))
    return scaled[None] if scaled.ndim == 2 else np.moveaxis(scaled, 2, 0)


def _drawn(frame: pd.DataFrame, picture: Callable[[pd.DataFrame], NDArray[np.uint8]], jobs: int = 1) -> Iterator[Drawn]:
    """Every row, drawn some at a time, by so many processes."""
    from joblib import Parallel, delayed

    parts = [frame.iloc[start : start + _PART] for start in range(0, len(frame), _PART)]
    pictures = Parallel(n_jobs=jobs, return_as="generator")(delayed(picture)(part) for part in parts)
    for part, found in zip(parts, pictures, strict=True):
        yield from zip(part.index, found, strict=True)


@dataclass(frozen=True)
class Phantom:
    """A data set that is drawn.

    Attributes:
        graph: of the study, its images as large as the reader gives them.
        size: pixels a side of the pictures as they are drawn and written.
        seed: everything random is a function of it and of what a row is called.
    """

    graph: CausalGraph
    size: int
    seed: int
    _names: Callable[[int], pd.Index]
    _attributes: Callable[[int, pd.Index, Asked], pd.DataFrame]
    _pictures: Callable[[int, pd.DataFrame, int], NDArray[np.uint8]]
    _write: Callable[[Path, pd.DataFrame, Iterator[Drawn]], None]
    _lossy: bool
    _form: _Form

    def attributes(self, ids: pd.Index | Sequence[Any], do: Do | None = None) -> pd.DataFrame:
        """The attributes of rows by what they are called, under an intervention or without.

        Args:
            ids: of the rows, as the reader calls them.
            do: what `causalcf.counterfactual` takes, but for a `Policy`.

        Raises:
            GraphError: `do` names something that is no attribute of the study's graph.
            DataError: no row is called so, or a value is no label of its node, or outside its support.
        """
        index = self._form.check(ids, self.graph.name)
        factual = self._attributes(self.seed, index, {})
        asked = resolve(self.graph, do or {}, factual, seed=self.seed)
        policies = [name for name, value in asked.items() if isinstance(value, Policy)]
        if policies:
            raise DataError(f"a phantom does not take the policy for '{policies[0]}'. Give the values that it decides on.")
        values = {name: value for name, value in asked.items() if isinstance(value, pd.Series)}
        return self._attributes(self.seed, index, values) if values else factual

    def images(self, frame: pd.DataFrame) -> NDArray[np.uint8]:
        """The pictures of such rows as the reader gives them, uint8 (row, channel, size, size)."""
        self._form.check(frame.index, self.graph.name)
        side = max((self.graph.node(self.graph.images[0]).shape or (1, self.size))[1:])
        pictures = [pixels for _, pixels in _drawn(frame, self._picture)]
        read = [_scaled(_from_jpeg(_jpeg(pixels)) if self._lossy else pixels, side) for pixels in pictures]
        return np.stack(read)

    def _picture(self, frame: pd.DataFrame) -> NDArray[np.uint8]:
        return self._pictures(self.seed, frame, self.size)

    def batch(self, rows: int) -> Batch:
        """So many rows, in memory."""
        _check_whole("rows", rows, 1)
        frame = self.attributes(self._names(rows))
        return Batch(self.graph, frame, {self.graph.images[0]: self.images(frame)})

    def true_counterfactual(self, ids: pd.Index | Sequence[Any], do: Do) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
        """What rows would have been under an intervention: their attributes, and their pictures as the reader gives them."""
        frame = self.attributes(ids, do)
        return frame, self.images(frame)

    def write(self, directory: str | Path, rows: int, *, jobs: int = 1, progress: bool = False) -> Path:
        """Write so many rows in the layout in which the study's data are released.

        Args:
            directory: a new one.
            rows: how many.
            jobs: processes that draw.
            progress: show how far it is.

        Raises:
            DataError: the directory is there already and not empty, or there are no rows to write.
        """
        _check_whole("rows", rows, 1)
        out = Path(directory)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"'{out}' is there already. Give a new directory: a phantom is not mixed with other data.")
        out.mkdir(parents=True, exist_ok=True)
        frame = self.attributes(self._names(rows))
        with show_progress(f"drawing {self.graph.name}", rows, show=progress) as advance:

            def drawn() -> Iterator[Drawn]:
                for done, row in enumerate(_drawn(frame, self._picture, jobs), 1):
                    yield row
                    advance(done, "")

            self._write(out, frame, drawn())
        return out


_KINDS: dict[str, tuple[int, Any, Any, Any, Any, bool, _Form]] = {
    "celebahq": (64, _face_names, partial(_face_attributes, True), partial(_face_pictures, True), _write_faces, True, _FACE),
    "celebahq_dependent": (
        64, _face_names, partial(_face_attributes, False), partial(_face_pictures, False), _write_faces, True, _FACE,
    ),
    "mimic_cxr": (192, _chest_names, _chest_attributes, _chest_pictures, _write_chests, True, _CHEST),
    "embed": (192, _breast_names, _breast_attributes, _breast_pictures, _write_breasts, False, _BREAST),
}  # fmt: skip
PHANTOMS = tuple(_KINDS)


def phantom(study: str, *, seed: int = 0, size: int | None = None, read_at: int | None = None) -> Phantom:
    """The phantom of a study: `celebahq`, `celebahq_dependent`, `mimic_cxr`, `embed`.

    Args:
        study: its name, which is also its ready-made graph's.
        seed: see `Phantom`.
        size: pixels a side; the study's own unless told.
        read_at: pixels a side to which the reader scales them; as they are drawn unless told.

    Raises:
        DataError: there is no such phantom, or the seed is no whole number from 0 on.
    """
    if study not in _KINDS:
        raise DataError(f"there is no phantom of '{study}'. Phantoms are: {', '.join(PHANTOMS)}.")
    _check_whole("seed", seed, 0)
    usual, *parts = _KINDS[study]
    size = size or usual
    return Phantom(load_graph(study).resized(read_at or size), size, seed, *parts)
