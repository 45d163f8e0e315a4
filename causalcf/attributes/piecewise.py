"""A monotone map from normal scores to values, read off the quantiles of a sample.

    name     symbol                meaning
    noise    z_k = Phi^-1(p_k)     knots, in standard deviations of a normal
    value    x_k                   the sample's quantiles at p_k

Between the knots the map is a line, beyond them it goes on as one (Gaussian tails), so that the map, its inverse and its
slope are exact. With z ~ N(0, 1), the image of z has the sample's distribution: B. L. van der Waerden, "Order tests for the
two-sample problem and their power", Indagationes Mathematicae 14, 1952, calls z the normal scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from pyro.distributions import constraints
from pyro.distributions.transforms import Transform
from torch import Tensor

__all__ = ["NormalScore"]

_KNOTS = 32
_FOLDS = 5
_FLOOR = 0.01  # of the sample's standard deviation, for one of the noise: ties would be infinitely dense


def _most(rows: int) -> int:
    """Pieces that so many rows can tell."""
    return min(_KNOTS, max(2, round(2 * math.cbrt(rows))))


class NormalScore(Transform):  # type: ignore[misc]  # Pyro is untyped
    """A strictly increasing piecewise linear map of the line onto itself.

    Args:
        noise: the knots, increasing; at least two.
        value: where they go, increasing, one a knot.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, noise: Sequence[float], value: Sequence[float]) -> None:
        super().__init__()
        z, x = (torch.tensor(knots, dtype=torch.float64) for knots in (noise, value))
        self.noise, self.value, self.slope = z, x, x.diff() / z.diff()

    @classmethod
    def fit(cls, sample: Tensor, pieces: int | None = None) -> Self:
        """The map under which a standard normal gets the sample's distribution.

        Args:
            sample: (row,), not constant.
            pieces: between the ends; more for more rows, up to 32, unless told. None at all make a line.
        """
        n = len(sample)
        if pieces == 0:
            mean, sd = float(sample.double().mean()), float(sample.double().std())
            return cls([-1.0, 1.0], [mean - sd, mean + sd])
        pieces = _most(n) if pieces is None else pieces
        # ten rows beyond each end, so that the tails are not the whim of one row
        end = float(torch.special.ndtri(torch.tensor(max(1e-4, min(0.1, 10 / n)), dtype=torch.float64)))
        z = torch.linspace(end, -end, 1 + pieces, dtype=torch.float64)
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

    @classmethod
    def likeliest(cls, sample: Tensor) -> Self:
        """The map, of no pieces or some, under which rows left out are most likely: a line for a normal sample.

        Args:
            sample: (row,), not constant, in no particular order.
        """
        if len(sample) < 2 * _FOLDS:
            return cls.fit(sample, 0)
        folds, most = torch.arange(len(sample)) % _FOLDS, _most(len(sample))
        counts = [0, *(count for count in (4, 8, 16) if count < most), most]
        losses = torch.stack([cls._left_out(sample, folds, count) for count in counts])
        if not losses.isfinite().all():  # next to constant: some of the rows are not spread at all
            return cls.fit(sample, 0)
        return cls.fit(sample, counts[int(losses.mean(1).argmin())])

    @classmethod
    def _left_out(cls, sample: Tensor, folds: Tensor, pieces: int) -> Tensor:
        """What every row loses, (row,), to the map of the others."""
        loss = torch.empty(len(sample), dtype=torch.float64)
        for fold in range(int(folds.max()) + 1):
            noise, log_slope = cls.fit(sample[folds != fold], pieces).inverse(sample[folds == fold])
            loss[folds == fold] = noise.square() / 2 + log_slope
        return loss

    @property
    def knots(self) -> dict[str, list[float]]:
        """The arguments that build this map again."""
        return {"noise": self.noise.tolist(), "value": self.value.tolist()}

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The noises of these values, and the logarithm of the map's slope there."""
        piece = self._piece(value, self.value)
        slope = self.slope[piece]
        return self.noise[piece] + (value - self.value[piece]) / slope, slope.log()

    def log_abs_det_jacobian(self, noise: Tensor, value: Tensor) -> Tensor:
        """The logarithm of the map's slope at these noises."""
        return self.slope[self._piece(noise, self.noise)].log()

    def _call(self, noise: Tensor) -> Tensor:
        piece = self._piece(noise, self.noise)
        return self.value[piece] + self.slope[piece] * (noise - self.noise[piece])

    def _inverse(self, value: Tensor) -> Tensor:
        return self.inverse(value)[0]

    @staticmethod
    def _piece(place: Tensor, knots: Tensor) -> Tensor:
        return torch.searchsorted(knots[1:-1].contiguous(), place.contiguous(), right=True)
