"""Arrays in the IDX format, in which MNIST and data sets like it are released.

Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", 1998, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from causalcf.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_idx"]


def read_idx(path: str | Path, how: str = "") -> NDArray[np.uint8]:
    """An array of bytes in the IDX format, gzipped or not.

    Args:
        path: of the file.
        how: it can be got, for the error where it is not there.

    Raises:
        DataError: the file is not there, is cut off, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file '{path}'. {how}".rstrip())
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"'{path}' is damaged: {error}. Get it again.") from None
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"'{path}' is no IDX file of bytes: it starts with {data[:4].hex(' ') or 'nothing'}.")
    shape = tuple(int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3]))
    start = 4 + 4 * len(shape)
    if len(data) - start != int(np.prod(shape, dtype=object)):
        raise DataError(f"'{path}' announces {'x'.join(map(str, shape))} bytes and holds {len(data) - start}. Get it again.")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
