"""Rulers: what a picture of one bright stroke or object measures, by a formula.

D. C. Castro, J. Tan, B. Kainz, E. Konukoglu, B. Glocker, "Morpho-MNIST: Quantitative Assessment and Diagnostics for
Representation Learning", JMLR 2019, https://arxiv.org/abs/1809.10780, measures strokes along their medial axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["UPSCALE", "mean_width", "measure_intensity", "measure_thickness", "skeleton", "upscaled"]

UPSCALE = 4
"""Fine pixels a pixel, along either side."""


def upscaled(image: NDArray[np.uint8], deform: NDArray[np.float64] | None = None) -> NDArray[np.bool_]:
    """The stroke of a grey image, `UPSCALE` times as fine; `deform` is a 2x2 map of output to input directions."""
    size = np.array(image.shape)
    matrix = np.eye(2) if deform is None else deform
    centre_in, centre_out = (size - 1) / 2, (size * UPSCALE - 1) / 2
    matrix = matrix / UPSCALE
    fine = ndimage.affine_transform(
        image.astype(np.float64),
        matrix,
        offset=centre_in - matrix @ centre_out,
        output_shape=tuple(size * UPSCALE),
        order=3,
        prefilter=True,
    )
    return np.asarray(fine > (float(image.min()) + float(image.max())) / 2)


def skeleton(stroke: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The centre line of a stroke, and how far every fine pixel is from the background."""
    from skimage.morphology import skeletonize

    return np.asarray(skeletonize(stroke)), np.asarray(ndimage.distance_transform_edt(stroke))


def mean_width(axis: NDArray[np.bool_], distance: NDArray[np.float64]) -> float:
    """The width of a stroke, pixels, from what `skeleton` gives."""
    return float(2 * distance[axis].mean() / UPSCALE) if axis.any() else 0.0


def measure_thickness(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The ruler for thickness: mean width of the stroke along its medial axis, pixels; images (n, height, width)."""
    return np.array([mean_width(*skeleton(upscaled(image))) for image in images])


def measure_intensity(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The ruler for intensity: median grey level of the stroke, the pixels above half range; images (n, h, w)."""
    return np.array([float(np.median(image[image >= (image.min() + image.max()) / 2])) for image in images.astype(float)])
