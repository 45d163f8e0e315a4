"""Frontal chest radiographs, drawn: what age, sex, a finding, and where a picture was taken look like.

attribute   to be seen as
age         a wider heart, a longer aorta with a calcified arch, paler bones, from 20 to 95 years
sex         Female: two soft shadows over the lower lungs, narrower shoulders
finding     Pleural Effusion: the lower part of one lung white, its upper edge hollow, rising to the side
race        the letter-like marker in the upper corner, and how the film was exposed: where a picture was taken, and nothing
            of a body; a shortcut of the kind that classifiers find in such data
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from causalcf.datasets.phantoms.painting import Easel, blend, column, smooth_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from causalcf.seeds import RowGenerator

__all__ = ["draw_chests"]

_RIBS = 8
_LETTERS = (  # strokes from (x, y) to (x, y) in a unit box: L, P, X
    ((0, 0, 0, 1), (0, 1, 1, 1)),
    ((0, 0, 0, 1), (0, 0, 1, 0), (1, 0, 1, 0.5), (0, 0.5, 1, 0.5)),
    ((0, 0, 1, 1), (1, 0, 0, 1)),
)


def draw_chests(values: Mapping[str, NDArray[np.generic]], noise: RowGenerator, size: int) -> NDArray[np.uint8]:
    """Radiographs, uint8 (row, 1, size, size).

    Args:
        values: a number a row: age in years, sex (1 is Female), finding (1 is Pleural Effusion), race (0, 1, 2).
        noise: of everything that no attribute says: one stream a row.
        size: pixels a side.
    """
    age = (column(values["age"]) - 60) / 20
    female, fluid, site = column(values["sex"]), column(values["finding"]), column(values["race"])
    drawn = noise.stream("chest").normal(16).numpy()
    n = [column(drawn[:, place]) for place in range(16)]
    chance = noise.stream("side").uniform(3).numpy()
    right_side = column(np.where(chance[:, 0] < 0.5, -1.0, 1.0))
    depth = column(0.25 + 0.4 * chance[:, 1])

    easel = Easel(size, 0.03 * n[0], 0.03 * n[1], 0.03 * n[2])
    x, y = easel.x, easel.y
    broad = 0.86 - 0.08 * female + 0.02 * n[3]
    body = np.maximum(easel.ellipse(0, 0.62, broad, 1.25, soft=4), easel.ellipse(0, -0.2, broad - 0.08, 0.75, soft=4))
    picture = np.zeros(body.shape, dtype=np.float32) + 12.0
    picture = blend(picture, easel.ellipse(0, -1.0, 0.24, 0.5, soft=6), 120.0)  # the neck
    picture = blend(picture, body, 158.0 + 6 * n[4])

    base = 0.42 + 0.03 * n[5]  # where the domes of the diaphragm are
    lungs = np.zeros_like(body)
    for side in (-1, 1):
        reach, low = 0.31 + 0.01 * n[6], base + 0.05 * (side < 0)
        lung = easel.ellipse(side * 0.41, -0.02, reach, 0.72, soft=5)
        lung = lung * easel.cover(y - low - 0.55 * (x - side * 0.36) ** 2 / 0.3 + 0.1, 4)
        lungs = np.maximum(lungs, lung)
    picture = blend(picture, lungs, 44.0 - 4 * age)

    # vessels, from the hilum outwards
    for side in (-1, 1):
        for place in range(4):
            end = -0.34 + 0.2 * place
            vessel = easel.line(side * 0.16, -0.02, side * 0.5, end + 0.02 * n[7 + place % 3], 0.022, soft=3)
            picture = blend(picture, vessel * lungs, 128.0, 0.4)

    pale = 0.5 - 0.12 * age  # bones lose contrast with the years
    for place in range(_RIBS):
        level = -0.66 + 0.155 * place
        for side in (-1, 1):
            rib = easel.arc(side * (0.42 + 0.012 * place), level + 0.015 * n[8], 0.4, 0.17 + 0.012 * place, 0.036, soft=2.5)
            picture = picture + rib * body * 52 * pale
    for side in (-1, 1):
        picture = picture + easel.line(side * 0.08, -0.72, side * 0.74, -0.84 + 0.02 * n[9], 0.06, soft=3) * 60 * (pale + 0.2)
    picture = picture + easel.box(-0.075, -1.2, 0.075, 1.2) * (18 + 26 * pale) * (1 - 0.3 * (np.sin(34 * y) > 0.6))

    wide = 0.24 + 0.045 * age + 0.012 * n[10]
    heart = easel.ellipse(0.1 + 0.4 * (wide - 0.24), 0.2, wide, 0.3 + 0.01 * n[11], soft=4)
    heart = np.maximum(heart, easel.ellipse(0.0, -0.14, 0.13, 0.34, soft=4))
    picture = blend(picture, heart, 196.0, 0.92)
    arch_y = -0.42 - 0.02 * age
    picture = blend(picture, easel.ellipse(0.12 + 0.02 * age, arch_y, 0.09 + 0.02 * age, 0.09, soft=3), 182.0, 0.85)
    chalk = easel.cover(np.abs(np.hypot(x - 0.12 - 0.02 * age, y - arch_y) - 0.09 - 0.02 * age) - 0.012, 1.5) * (x > 0.1)
    picture = picture + chalk * 70 * np.clip((age + 0.6) / 1.6, 0, 1)

    for side in (-1, 1):
        breast = easel.ellipse(side * 0.42, 0.28 + 0.02 * n[12], 0.3, 0.26, soft=7)
        picture = picture + 34 * female * breast * body

    # fluid: white below a hollow edge that rises towards the side of the chest
    surface = base + 0.12 - depth - 0.42 * np.clip((x * right_side - 0.2) / 0.5, 0, 1.2) ** 2
    below = easel.cover(surface - y, 6) * np.clip((x * right_side - 0.02) / 0.1, 0, 1)
    near = easel.ellipse(right_side * 0.41, 0.1, 0.36, 0.86, soft=4)
    picture = blend(picture, below * near * body * fluid, 205.0, 0.93)

    # where it was taken: a marker in the corner, and the exposure
    for code, strokes in enumerate(_LETTERS):
        for x0, y0, x1, y1 in strokes:
            stroke = easel.line(-0.9 + 0.1 * x0, -0.92 + 0.14 * y0, -0.9 + 0.1 * x1, -0.92 + 0.14 * y1, 0.03)
            picture = blend(picture, stroke * (site == code), 246.0)
    gamma = 1 + 0.22 * (site - 1) + 0.03 * n[13]
    picture = 255 * np.clip((picture + 2.5 * smooth_noise(noise.stream("grain"), size, 32)) / 255, 0, 1) ** gamma
    return np.rint(picture)[:, None].astype(np.uint8)
