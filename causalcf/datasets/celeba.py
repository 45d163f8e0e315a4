"""CelebA-HQ and CelebA as they are released: photographs of faces and 40 labels of each.

    CelebA-HQ   CelebAMask-HQ/CelebA-HQ-img/I.jpg                   I from 0, 1024x1024
                CelebAMask-HQ/CelebAMask-HQ-attribute-anno.txt      how many, the 40 names, and a line a file with -1 or 1
                CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt       I, and the file in CelebA that it was made from
                list_eval_partition.txt                             CelebA's own: file and 0 (train), 1 (valid) or 2 (test)
    CelebA      img_align_celeba/FILE.jpg                           178x218; the middle 150x150 is taken
                list_attr_celeba.txt                                as above
                list_eval_partition.txt                             as above
    either      identity_CelebA.txt                                 file and number of the person; may be missing

CelebA's files may lie in `Img/`, `Anno/` and `Eval/`, as downloaded. The split is its own, in which no person is on two sides.
Judges are trained on a part of the training split: with identity_CelebA.txt on a fifth of its people; without, on a fifth of its
photographs, so that other photographs of the same people train the model.

T. Karras, T. Aila, S. Laine, J. Lehtinen, "Progressive Growing of GANs for Improved Quality, Stability, and Variation", ICLR
2018, https://arxiv.org/abs/1710.10196; Z. Liu, P. Luo, X. Wang, X. Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015,
https://arxiv.org/abs/1411.7766; the layout of the labels: C.-H. Lee, Z. Liu, L. Wu, P. Luo, "MaskGAN", CVPR 2020,
https://arxiv.org/abs/1907.11922.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.datasets.released import SPLITS, Filtered, Released, find
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, load_graph
from causalcf.image_files import ImageFiles, read_image

__all__ = ["ATTRIBUTES", "read_celeba", "read_celebahq"]

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee",
    "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
"""The labels, in the order of the release."""


_HQ = "CelebAMask-HQ"
_GET_HQ = "It is part of CelebAMask-HQ: https://github.com/switchablenorms/CelebAMask-HQ."
_GET = "It is part of CelebA: https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html."
_PHOTOGRAPHS = ["img_align_celeba", "Img/img_align_celeba"]
_PARTITION = ["list_eval_partition.txt", "Eval/list_eval_partition.txt"]
_IDENTITIES = ["identity_CelebA.txt", "Anno/identity_CelebA.txt", f"{_HQ}/identity_CelebA.txt"]
_LABELS = {"-1": 0, "1": 1}
_CROP = 150  # pixels of the middle of an aligned photograph


def _lines(path: Path) -> Iterator[list[str]]:
    """The words of a line, one line at a time: as words, a million of them would take gigabytes."""
    try:
        with path.open(encoding="utf-8-sig") as text:
            yield from (line.split() for line in text if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no text in UTF-8: {error}. Get it again.") from error


def _by_file(path: Path, pairs: Iterable[tuple[str, str]]) -> pd.Series:
    """What the lines of a text say of every file."""
    said = pd.DataFrame(pairs, columns=["file", "value"]).drop_duplicates()
    twice = said.loc[said["file"].duplicated(), "file"]
    if len(twice):
        raise DataError(f"'{path}' has two lines of '{twice.iloc[0]}' that differ. Get it again.")
    return said.set_index("file")["value"]


def _labels(path: Path) -> pd.DataFrame:
    """The table of labels, 0 or 1 in a byte each, indexed by file."""
    files, values, odd, lines = list[str](), bytearray(), "", _lines(path)
    head = list(islice(lines, 2))
    if len(head) < 2:
        raise DataError(
            f"'{path}' has {len(head)} lines; it begins with the number of files and the labels' names. Get it again."
        )
    (count, *_), names = head
    for file, *labels in lines:
        files.append(file)
        if len(labels) == len(names) and _LABELS.keys() >= set(labels):
            values += bytes(map(_LABELS.__getitem__, labels))
        else:
            odd = odd or " ".join([file, *labels[:3]])
    if not count.isdecimal() or len(files) != int(count):
        raise DataError(f"'{path}' announces {count} files and has {len(files)} lines of them. Get it again.")
    if odd:
        raise DataError(f"'{path}' has a line that is no file with {len(names)} labels of -1 or 1: '{odd} ...'.")
    return pd.DataFrame(np.frombuffer(values, dtype=np.int8).reshape(len(files), len(names)), index=files, columns=names)


def _partition(path: Path) -> pd.Series:
    rows = list(_lines(path))
    odd = [row for row in rows if len(row) != 2 or row[1] not in ("0", "1", "2")]
    if odd:
        raise DataError(f"'{path}' has a line that is no file with 0, 1 or 2: '{' '.join(odd[0])}'.")
    return _by_file(path, [(row[0], SPLITS[int(row[1])]) for row in rows])


def _mapping(path: Path) -> pd.Series:
    """The file in CelebA that an image of CelebA-HQ was made from."""
    rows = list(_lines(path))[1:]
    odd = [row for row in rows if len(row) != 3]
    if odd or not rows:
        what = f"a line that is no number, number and file: '{' '.join(odd[0])}'" if odd else "no line of an image"
        raise DataError(f"'{path}' has {what}. Get it again. {_GET_HQ}")
    return _by_file(path, [(f"{row[0]}.jpg", row[2]) for row in rows])


def _with_people(frame: pd.DataFrame, photographs: pd.Index | pd.Series, root: Path) -> pd.DataFrame:
    """With a column `identity`, the number of the person on each of these photographs, if the file that says so is there."""
    path = next((root / name for name in _IDENTITIES if (root / name).is_file()), None)
    if path is None:
        return frame
    rows = list(_lines(path))
    odd = [row for row in rows if len(row) != 2]
    if odd:
        raise DataError(f"'{path}' has a line that is no file with a person: '{' '.join(odd[0])}'.")
    people = _by_file(path, [(row[0], row[1]) for row in rows])
    absent = [name for name in photographs if name not in people.index]
    if absent:
        raise DataError(
            f"'{path}' does not say who is on '{absent[0]}'. Get it again; or take it away, and judges and the model may be "
            "trained on the same people."
        )
    return frame.assign(identity=people[list(photographs)].to_numpy())


def _released(graph: CausalGraph, rows: Filtered, path: Path, files: ImageFiles) -> Released:
    absent = [name for name in graph.attributes if name not in rows.frame.columns]
    if absent:
        raise DataError(f"'{path}' has no label {', '.join(absent)}. Labels are: {', '.join(rows.frame.columns)}.")
    person = "identity" if "identity" in rows.frame.columns else None
    return Released(Batch(graph, rows.frame, {graph.images[0]: files}), rows.dropped, person)


def _middle(photograph: Any) -> Any:
    """The middle square of an aligned photograph."""
    width, height = photograph.size
    left, top = (width - _CROP) // 2, (height - _CROP) // 2
    return photograph.crop((left, top, left + _CROP, top + _CROP))


def read_celeba(directory: str | Path, graph: CausalGraph | str = "celebahq", *, jobs: int = 4) -> Released:
    """CelebA as it is released: the middle 150x150 pixels of an aligned photograph, scaled to the size that the graph has.

    Args:
        directory: with img_align_celeba, list_attr_celeba.txt and list_eval_partition.txt, or with Img, Anno and Eval; besides,
            identity_CelebA.txt may tell who is on a photograph.
        graph: as for `read_celebahq`.
        jobs: threads that decode.

    Returns:
        Indexed by file name, with `identity` besides where the people are known.

    Raises:
        DataError: a file is missing or has another form.
    """
    root, graph = Path(directory), load_graph(graph) if isinstance(graph, str) else graph
    path = find(root, ["list_attr_celeba.txt", "Anno/list_attr_celeba.txt"], _GET)
    images = find(root, _PHOTOGRAPHS, _GET)
    labels = _labels(path).rename_axis("file_name")
    labels["split"] = labels.index.map(_partition(find(root, _PARTITION, _GET)))
    rows = Filtered(labels)
    rows.keep("no entry in the partition", rows.frame["split"].notna())
    rows.frame = _with_people(rows.frame, rows.frame.index, root)
    read = partial(read_image, resize=True, edit=_middle, how=_GET)
    files = ImageFiles(images, rows.frame.index.to_numpy(), graph.node(graph.images[0]), read=read, jobs=jobs)
    return _released(graph, rows, path, files)


def read_celebahq(directory: str | Path, graph: CausalGraph | str = "celebahq", *, jobs: int = 4) -> Released:
    """CelebA-HQ as it is released, an image scaled to the size that the graph has; of a directory of CelebA, `read_celeba`.

    Args:
        directory: with the folder CelebAMask-HQ, and CelebA's list_eval_partition.txt (and identity_CelebA.txt) beside or in it.
        graph: over any of the 40 labels, 0 or 1, and one image; a ready-made one by name.
        jobs: threads that decode.

    Returns:
        Indexed by the number of the image, with `identity` besides where the people are known.

    Raises:
        DataError: a file is missing or has another form.
    """
    root, graph = Path(directory), load_graph(graph) if isinstance(graph, str) else graph
    if any((root / name).is_dir() for name in _PHOTOGRAPHS) and not (root / _HQ).is_dir():
        return read_celeba(root, graph, jobs=jobs)
    named = "" if root.resolve().name == _HQ else f"call this one {_HQ}, and "
    above = f"What is in it is here: {named}give the directory above, '{root.resolve().parent}'."
    home = find(root, [_HQ], above if (root / "CelebA-HQ-img").is_dir() else _GET_HQ)
    path = find(home, ["CelebAMask-HQ-attribute-anno.txt"], _GET_HQ)
    mapping = find(home, ["CelebA-HQ-to-CelebA-mapping.txt"], _GET_HQ)
    images = find(home, ["CelebA-HQ-img"], _GET_HQ)
    partition = _partition(find(root, [*_PARTITION, f"{_HQ}/list_eval_partition.txt"], _GET))
    labels = _labels(path)
    originals = _mapping(mapping)
    labels["split"] = originals.reindex(labels.index).map(partition)
    rows = Filtered(labels)
    rows.keep("no entry in the mapping to CelebA or in its partition", rows.frame["split"].notna())
    rows.frame = _with_people(rows.frame, originals[rows.frame.index], root)
    files = rows.frame.index.to_numpy()
    odd_names = [name for name in files if not Path(name).stem.isdecimal()]
    if odd_names:
        raise DataError(f"'{path}' has a line for '{odd_names[0]}': files of CelebA-HQ are called by their number. Get it again.")
    rows.frame = rows.frame.set_index(pd.Index([int(Path(name).stem) for name in files], name="image_id"))
    read = partial(read_image, resize=True, how=_GET_HQ)
    return _released(graph, rows, path, ImageFiles(images, files, graph.node(graph.images[0]), read=read, jobs=jobs))
