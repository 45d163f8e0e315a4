"""Mammograms, drawn: what density and a circular skin marker look like.

attribute       to be seen as
density         how much of the breast is bright and of what pattern: A nearly none, B patches, C most, D nearly all
circle_marker   1: a thin bright ring on the breast
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from causalcf.datasets.phantoms.painting import Easel, blend, column, smooth_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from causalcf.seeds import RowGenerator

__all__ = ["draw_breasts"]

_BRIGHT = np.array([0.1, 0.34, 0.62, 0.9], dtype=np.float32)  # share of the tissue, A to D


def draw_breasts(values: Mapping[str, NDArray[np.generic]], noise: RowGenerator, size: int) -> NDArray[np.uint8]:
    """Mammograms with the breast at the left edge, uint8 (row, 1, size, size).

    Args:
        values: a number a row: density (0 to 3 for A to D), circle_marker (0, 1), view (1 is MLO, which shows the muscle).
        noise: of everything that no attribute says: one stream a row.
        size: pixels a side.
    """
    share = column(_BRIGHT[np.asarray(values["density"]).astype(int)])
    marked, oblique = column(values["circle_marker"]), column(values["view"])
    drawn = noise.stream("breast").normal(10).numpy()
    n = [column(drawn[:, place]) for place in range(10)]
    place = noise.stream("marker").uniform(2).numpy()
    easel = Easel(size)
    x, y = easel.x, easel.y

    middle, reach, high = 0.05 * n[0] + 0.12 * oblique, 1.35 + 0.1 * n[1], 0.74 + 0.05 * n[2]
    out = np.sqrt(((x + 1) / reach) ** 2 + ((y - middle) / high) ** 2)  # 1 at the skin
    breast = easel.cover((out - 1) * high, 1.5)
    edge = np.clip((1 - out) / 0.16, 0, 1) ** 0.5  # thinner towards the skin
    fat = 66 + 5 * n[3] + 6 * smooth_noise(noise.stream("fat"), size, 14)

    coarse, fine = smooth_noise(noise.stream("coarse"), size, 6), smooth_noise(noise.stream("fine"), size, 18)
    inner = np.clip((0.86 - out) / 0.2, 0, 1)
    field = 0.75 * coarse + 0.42 * fine + 1.1 * (0.55 - out)
    wanted = 1.35 - 2.9 * share  # the level above which tissue is bright
    gland = np.clip((field - wanted) / 0.55 + 0.5, 0, 1) * inner
    tissue = fat + gland * (96 + 14 * fine + 16 * share)
    threads = np.abs(np.sin(9 * x + 5 * y * (y > middle) - 5 * y * (y <= middle) + 1.3 * coarse)) < 0.06
    tissue = tissue + 22 * threads * inner * (1 - gland)
    picture = blend(np.zeros_like(breast) + 4, breast, tissue * (0.35 + 0.65 * edge))
    rim = easel.cover(np.abs(out - 0.985) * high - 0.006, 1.5)
    picture = blend(picture, rim, 96.0, 0.7)
    nipple = easel.ellipse(reach - 1 + 0.005, middle, 0.045, 0.05)
    picture = blend(picture, nipple, 120.0, 0.9)

    muscle = easel.cover((y + 1) * 0.62 + (x + 1) * 0.8 - 0.62 - 0.06 * n[4], 4)
    picture = blend(picture, muscle * oblique, 168 + 7 * smooth_noise(noise.stream("muscle"), size, 10), 0.9)

    ring_x = column(-0.75 + 0.75 * place[:, 0])
    ring_y = middle + column(0.9 * (place[:, 1] - 0.5)) * high * 0.9
    picture = blend(picture, easel.ring(ring_x, ring_y, 0.12, 0.028) * marked, 250.0)
    picture = picture + 2.0 * smooth_noise(noise.stream("grain"), size, 48)
    return np.rint(np.clip(picture, 0, 255))[:, None].astype(np.uint8)
