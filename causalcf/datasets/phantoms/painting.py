"""Painting with formulas, many pictures at once: soft-edged shapes, curves, smooth noise.

    name     shape                   meaning
    x, y     (1, size, size)         where a pixel is, right and down, -1 to 1
    mask     (row, size, size)       how much of a pixel a shape covers, 0 to 1
    number   (row, 1, 1)             a quantity of every picture, see `column`

The edge of a shape is as wide as a pixel, so that pictures of any size are alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from causalcf.seeds import RowGenerator

    Field = NDArray[np.floating[Any]]
    Number = Field | float

__all__ = ["Easel", "blend", "column", "smooth_noise"]


def column(values: NDArray[np.generic] | torch.Tensor | float) -> Field:
    """A number a picture, (row, 1, 1), to be used beside pixels."""
    return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)


class Easel:
    """The pixels of square pictures, and shapes on them.

    Args:
        size: pixels a side.
        angle: radians by which every picture is turned, (row, 1, 1).
        right, down: how far its middle is moved.
    """

    def __init__(
        self, size: int, angle: Number = 0.0, right: Number = 0.0,
        down: Number = 0.0,
    ) -> None:  # fmt: skip
        places = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        across, along = places[None, None, :] - right, places[None, :, None] - down
        cosine, sine = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
        self.x, self.y = across * cosine + along * sine, along * cosine - across * sine
        self.pixel = np.float32(2 / size)

    def cover(self, distance: Field, soft: float = 1.0) -> Field:
        """The mask of what has a negative signed distance; `soft` is the width of its edge, pixels."""
        return np.asarray(np.clip(0.5 - distance / (soft * self.pixel), 0, 1), dtype=np.float32)

    def ellipse(
        self, x: Number, y: Number, wide: Number,
        high: Number, *, soft: float = 1.0,
    ) -> Field:  # fmt: skip
        """An ellipse with this middle and these half-axes."""
        distance = np.sqrt(((self.x - x) / wide) ** 2 + ((self.y - y) / high) ** 2) - 1
        return self.cover(distance * np.minimum(wide, high), soft)

    def box(
        self, left: Number, top: Number, right: Number,
        bottom: Number,
    ) -> Field:  # fmt: skip
        """An upright rectangle."""
        across = np.maximum(left - self.x, self.x - right)
        return self.cover(np.maximum(across, np.maximum(top - self.y, self.y - bottom)))

    def arc(
        self, x: Number, y: Number, reach: Number,
        bend: Number, thick: Number, *, soft: float = 1.0,
    ) -> Field:  # fmt: skip
        """A stroke along a parabola: its middle at (x, y), as wide as twice `reach`, its ends `bend` below the middle."""
        across = self.x - x
        curve = y + bend * (across / reach) ** 2
        slope = np.sqrt(1 + (2 * bend * across / reach**2) ** 2)
        distance = np.maximum(np.abs(self.y - curve) / slope - thick / 2, np.abs(across) - reach)
        return self.cover(distance, soft)

    def line(
        self, x0: Number, y0: Number, x1: Number,
        y1: Number, thick: Number, *, soft: float = 1.0,
    ) -> Field:  # fmt: skip
        """A straight stroke with round ends."""
        along_x, along_y = x1 - x0, y1 - y0
        share = ((self.x - x0) * along_x + (self.y - y0) * along_y) / (along_x**2 + along_y**2)
        share = np.clip(share, 0, 1)
        distance = np.hypot(self.x - x0 - share * along_x, self.y - y0 - share * along_y) - thick / 2
        return self.cover(distance, soft)

    def ring(self, x: Number, y: Number, radius: Number, thick: float) -> Field:
        """A circle's line."""
        return self.cover(np.abs(np.hypot(self.x - x, self.y - y) - radius) - thick / 2)


def blend(picture: Field, mask: Field, colour: Number, amount: float = 1.0) -> Field:
    """The picture with a colour over it where the mask is.

    Args:
        picture: (row, size, size), or (row, channel, size, size).
        mask: (row, size, size).
        colour: a number, (row, 1, 1), a field (row, size, size), or of several channels (row, channel, 1, 1).
        amount: 1 covers, less shines through.
    """
    share = amount * (mask[:, None] if picture.ndim == 4 else mask)
    return picture + share * (colour - picture)


def smooth_noise(generator: RowGenerator, size: int, cells: int) -> Field:
    """Noise that varies over a picture's size / cells, standard normal at its knots, (row, size, size)."""
    knots = generator.normal(1, cells + 1, cells + 1).float()
    field = torch.nn.functional.interpolate(knots, (size, size), mode="bicubic", align_corners=True)
    return np.asarray(field[:, 0].numpy())
