"""A monotone map from normal scores to values, read off the quantiles of a sample.

    name     symbol                meaning
    noise    z_k = Phi^-1(p_k)     knots, in standard deviations of a normal
    value    x_k                   the sample's quantiles at p_k

Between the knots the map is a line, beyond them it goes on as one (Gaussian tails), so that the map, its inverse and its
slope are exact. With z ~ N(0, 1), the image of z has the sample's distribution: B. L. van der Waerden, "Order tests for the
two-sample problem and their power", Indagationes Mathematicae 14, 1952, calls z the normal scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

__all__ = ["NormalScore"]

_KNOTS = 32
_FLOOR = 0.01  # of the sample's standard deviation, for one of the noise: ties would be infinitely dense


class NormalScore(nn.Module):
    """A strictly increasing piecewise linear map of the line onto itself.

    Args:
        noise: the knots, increasing; at least two.
        value: where they go, increasing, one a knot.
    """

    def __init__(self, noise: Sequence[float], value: Sequence[float]) -> None:
        super().__init__()
        z, x = (torch.tensor(knots, dtype=torch.float64) for knots in (noise, value))
        self.noise: Tensor
        self.value: Tensor
        self.slope: Tensor
        self.register_buffer("noise", z, persistent=False)
        self.register_buffer("value", x, persistent=False)
        self.register_buffer("slope", x.diff() / z.diff(), persistent=False)

    @classmethod
    def fit(cls, sample: Tensor) -> Self:
        """The map under which a standard normal gets the sample's distribution.

        Args:
            sample: (row,), not constant; more rows get more knots, up to 35.
        """
        n = len(sample)
        # ten rows beyond each end, so that the tails are not the whim of one row
        end = float(torch.special.ndtri(torch.tensor(max(1e-4, min(0.1, 10 / n)), dtype=torch.float64)))
        z = torch.linspace(end, -end, 1 + min(_KNOTS, max(2, round(2 * n ** (1 / 3)))), dtype=torch.float64)
        ordered = sample.double().sort().values
        place = torch.special.ndtr(z) * (n - 1)
        below = place.long().clamp(max=n - 2)
        x = torch.lerp(ordered[below], ordered[below + 1], place - below)
        # a slope of at least the floor everywhere: lift from the left, lower from the right, and take the middle
        floor = _FLOOR * float(sample.std())
        rest = x - floor * z
        rest = (rest.cummax(0).values + rest.flip(0).cummin(0).values.flip(0)) / 2
        x = rest + floor * z
        # beyond, as steep as the last piece or as the way to the sample's extreme: a light tail by chance costs dearly
        reach = end - float(torch.special.ndtri(torch.tensor(min(0.05, 0.5 / n), dtype=torch.float64)))
        left = max(float((x[1] - x[0]) / (z[1] - z[0])), float(x[0] - ordered[0]) / reach)
        right = max(float((x[-1] - x[-2]) / (z[-1] - z[-2])), float(ordered[-1] - x[-1]) / reach)
        return cls([end - 1, *z.tolist(), 1 - end], [float(x[0]) - left, *x.tolist(), float(x[-1]) + right])

    @property
    def knots(self) -> dict[str, list[float]]:
        """The arguments that build this map again."""
        return {"noise": self.noise.tolist(), "value": self.value.tolist()}

    def forward(self, noise: Tensor) -> Tensor:
        """The values of these noises, of the same shape."""
        piece = self._piece(noise, self.noise)
        return self.value[piece] + self.slope[piece] * (noise - self.noise[piece])

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The noises of these values, and the logarithm of the map's slope there."""
        piece = self._piece(value, self.value)
        slope = self.slope[piece]
        return self.noise[piece] + (value - self.value[piece]) / slope, slope.log()

    @staticmethod
    def _piece(place: Tensor, knots: Tensor) -> Tensor:
        return torch.searchsorted(knots[1:-1].contiguous(), place.contiguous(), right=True)
