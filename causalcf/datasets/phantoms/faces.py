"""Faces, drawn: what the labels of CelebA that the ready-made graphs use look like.

label            to be seen as
Smiling          a wide mouth with its corners up and teeth, cheeks raised; else a short straight one
Male             short hair, a broad jaw, heavy brows; else long hair, a narrow jaw, red lips
Young            hair of a colour, smooth skin; else grey hair, lines on forehead and cheeks
No_Beard         0: chin and cheeks in the colour of the hair
Bald             1: no hair on top
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from causalcf.datasets.phantoms.painting import Easel, blend, column, smooth_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from causalcf.datasets.phantoms.painting import Field
    from causalcf.seeds import RowGenerator

__all__ = ["draw_faces"]

_SKINS = np.array([[250, 218, 196], [232, 184, 150], [196, 144, 108], [140, 94, 66], [92, 60, 44]], dtype=np.float32)
_HAIRS = np.array([[34, 26, 24], [78, 50, 32], [140, 92, 50], [206, 166, 96], [150, 64, 36]], dtype=np.float32)
_GREYS = np.array([[150, 148, 146], [196, 195, 194], [228, 227, 225]], dtype=np.float32)
_FLUSH = np.array([1.05, 0.86, 0.84], dtype=np.float32)[:, None, None]
_IRISES = np.array([[70, 44, 28], [92, 112, 70], [70, 104, 148]], dtype=np.float32)


def _picked(palette: NDArray[np.float32], place: NDArray[np.float32]) -> NDArray[np.float32]:
    """A colour between two neighbours of a palette for every picture, (row, 3, 1, 1); `place` from 0 to 1."""
    at = np.clip(place.reshape(-1), 0, 1) * (len(palette) - 1)
    low = np.minimum(at.astype(int), len(palette) - 2)
    share = (at - low)[:, None]
    return np.asarray((palette[low] * (1 - share) + palette[low + 1] * share)[:, :, None, None], dtype=np.float32)


def draw_faces(labels: Mapping[str, NDArray[np.generic]], noise: RowGenerator, size: int) -> NDArray[np.uint8]:
    """Portraits, uint8 (row, 3, size, size).

    Args:
        labels: 0 or 1 a row: Smiling, Male, Young, and if there, No_Beard and Bald.
        noise: of everything that no label says: one stream a row.
        size: pixels a side.
    """
    given = {name: column(values) for name, values in labels.items()}
    smiles, male, young = given["Smiling"], given["Male"], given["Young"]
    beard, bald = 1 - given.get("No_Beard", column(np.ones(len(smiles)))), given.get("Bald", column(np.zeros(len(smiles))))
    drawn = noise.stream("face").normal(20).numpy()
    n = [column(drawn[:, place]) for place in range(20)]
    chance = noise.stream("palette").uniform(8).numpy().astype(np.float32)

    skin = _picked(_SKINS, chance[:, 0])
    old = (1 - young)[:, None]
    hair = _picked(_HAIRS, chance[:, 1] * (1 - 0.9 * chance[:, 0])) * (1 - old) + _picked(_GREYS, chance[:, 2]) * old
    iris, cloth, wall = _picked(_IRISES, chance[:, 3]), 40 + 190 * chance[:, 4:7], 60 + 170 * chance[:, 5:8]
    easel = Easel(size, 0.07 * n[0], 0.05 * n[1], 0.05 + 0.03 * n[2])
    wide, high = 0.47 + 0.03 * n[3], 0.62 + 0.03 * n[4]

    rows = len(smiles)
    shade = 1 + 0.12 * n[5] * easel.x + 0.1 * n[6] * easel.y
    picture: Field = np.ones((rows, 3, size, size), dtype=np.float32) * wall[:, ::-1, None, None] * shade[:, None]

    long = 1 - male
    back = easel.ellipse(0, -0.02 + 0.28 * long, wide + 0.12 + 0.03 * n[7], high + 0.12 + 0.34 * long)
    picture = blend(picture, back * (1 - bald), hair * 0.8)
    picture = blend(picture, easel.ellipse(0, 1.28, 0.86 + 0.1 * male, 0.5), cloth[:, :, None, None])
    picture = blend(picture, easel.box(-0.2 - 0.05 * male, 0.3, 0.2 + 0.05 * male, 0.88), skin * 0.82)

    jaw = easel.ellipse(0, 0.2, (wide - 0.03) * (0.8 + 0.17 * male), high - 0.06)
    head = np.maximum(easel.ellipse(0, -0.1, wide, high - 0.08), jaw)
    light = (1 + 0.1 * n[5] * easel.x - 0.06 * easel.y)[:, None]
    for side in (-1, 1):
        picture = blend(picture, easel.ellipse(side * wide, 0.02, 0.075, 0.13), skin * 0.88)
    picture = blend(picture, head, skin * light)

    # what hair leaves of the forehead
    hairline = -0.36 + 0.03 * n[8]
    top = easel.ellipse(0, -0.14, wide + 0.03, high - 0.03) * easel.cover(easel.y - hairline - 0.18 * (easel.x / 0.5) ** 2, 2.0)
    picture = blend(picture, top * (1 - bald), hair)
    picture = blend(picture, easel.ellipse(-0.12, -0.5, 0.16, 0.07, soft=4.0) * bald, 255.0, 0.25)

    stubble = head * easel.cover(0.2 - 0.24 * (easel.x / 0.45) ** 2 - easel.y, 2.0)
    stubble = stubble * (1 - easel.ellipse(0, 0.3, 0.19, 0.075))
    picture = blend(picture, stubble * beard, hair * 0.85, 0.9)

    eye_y = -0.06 + 0.01 * n[9] - 0.01 * smiles
    apart = 0.2 + 0.012 * n[10]
    for side in (-1, 1):
        at = side * apart
        picture = blend(picture, easel.ellipse(at, eye_y, 0.095, 0.052 - 0.012 * smiles), 246.0)
        look = at + 0.02 * n[11]
        picture = blend(picture, easel.ellipse(look, eye_y, 0.043, 0.046 - 0.01 * smiles), iris)
        picture = blend(picture, easel.ellipse(look, eye_y, 0.02, 0.022), 12.0)
        picture = blend(picture, easel.arc(at, eye_y - 0.055 + 0.012 * smiles, 0.1, 0.045, 0.018), skin * 0.4, 0.8)
        brow = easel.arc(at, eye_y - 0.155 + 0.01 * n[12], 0.13, 0.045, 0.026 + 0.03 * male)
        picture = blend(picture, brow, hair * 0.75, 0.9)
        # lines of age: beside the mouth, under the eyes
        line = easel.line(side * 0.15, 0.16, side * (0.23 + 0.02 * smiles), 0.3, 0.022)
        picture = blend(picture, line * (1 - young), skin * 0.6, 0.8)
        picture = blend(picture, easel.arc(at, eye_y + 0.1, 0.09, -0.03, 0.018) * (1 - young), skin * 0.62, 0.8)
        picture = blend(picture, easel.ellipse(side * 0.27, 0.17, 0.1, 0.075, soft=3.0) * smiles, skin * _FLUSH, 0.45)
    for level in (-0.26, -0.19):
        picture = blend(picture, easel.arc(0, level, 0.2, 0.02, 0.016) * (1 - young) * head, skin * 0.62, 0.75)

    picture = blend(picture, easel.line(0.01, 0.0, 0.03 * n[13], 0.13, 0.02), skin * 0.76, 0.6)
    picture = blend(picture, easel.arc(0, 0.16, 0.065 + 0.012 * male, -0.03, 0.024), skin * 0.62, 0.8)

    red = np.array([176, 60, 66], dtype=np.float32)[None, :, None, None]
    lips = skin * 0.66 * male[:, None] + (0.35 * skin * 0.7 + 0.65 * red) * (1 - male)[:, None]
    reach, bend, mouth = 0.13 + 0.075 * smiles + 0.008 * n[14], -0.095 * smiles + 0.008 * n[15], 0.31 + 0.03 * smiles
    picture = blend(picture, easel.arc(0, mouth, reach, bend, 0.05 + 0.065 * smiles + 0.016 * (1 - male)), lips)
    teeth = easel.arc(0, mouth - 0.005, reach - 0.045, bend * 0.62, 0.052)
    picture = blend(picture, teeth * smiles, 250.0)
    picture = blend(picture, easel.arc(0, mouth, reach, bend, 0.014) * (1 - smiles), skin * 0.35, 0.7)

    grain = smooth_noise(noise.stream("grain"), size, 16)[:, None]
    picture = picture * (1 + 0.05 * column(drawn[:, 16])[:, None]) + 3.0 * grain
    return np.asarray(np.rint(np.clip(picture, 0, 255)), dtype=np.uint8)
