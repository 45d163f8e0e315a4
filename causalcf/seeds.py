"""Random numbers that belong to a row: each is a function of (seed, stream, row key, draw index) and of nothing else.

So the answer for a row does not depend on the batch, the order, the shard or the worker it landed on.

The generator is Philox4x32-10, checked in the tests against its published test vectors: J. K. Salmon, M. A. Moraes,
R. O. Dror, D. E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011, https://doi.org/10.1145/2063384.2063405.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["RowGenerator", "philox", "row_keys", "step_generator"]

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85


def philox(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Philox4x32-10: four 32-bit words from a counter of four 32-bit words, shape (4, n), and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def row_keys(index: pd.Index) -> NDArray[np.uint64]:
    """A 64-bit key for every label of a DataFrame index, the same wherever the row appears."""
    from pandas.util import hash_pandas_object

    return np.asarray(hash_pandas_object(index, index=False), dtype=np.uint64)


def _key(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{stream}".encode()).digest()[:8], "little")


def step_generator(seed: int, stream: str, step: int) -> torch.Generator:
    """A torch generator that depends on (seed, stream, step) alone, so that a resumed run draws what the first would."""
    return torch.Generator().manual_seed(_key(seed, f"{stream}/{step}") >> 1)


class RowGenerator:
    """Draws for a set of rows, each from a sequence of its own.

    Example:
        >>> import pandas as pd
        >>> both = RowGenerator(0, row_keys(pd.Index(["a", "b"]))).stream("age").normal()
        >>> alone = RowGenerator(0, row_keys(pd.Index(["b"]))).stream("age").normal()
        >>> bool(both[1] == alone[0])
        True
    """

    def __init__(self, seed: int, keys: NDArray[np.uint64], stream: str = "") -> None:
        self.seed = seed
        self.keys = keys
        self.name = stream
        self._draw = 0

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"RowGenerator(seed={self.seed}, rows={len(self)}, stream={self.name!r})"

    def stream(self, name: str) -> RowGenerator:
        """An independent generator for the same rows, starting at its first draw."""
        return RowGenerator(self.seed, self.keys, f"{self.name}/{name}")

    def rows(self, select: slice) -> RowGenerator:
        """The same stream for some of the rows, starting at its first draw."""
        return RowGenerator(self.seed, self.keys[select], self.name)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform on the open interval (0, 1), float64, shape (rows, *shape); every call is the next draw."""
        count = math.prod(shape)
        blocks = (count + 1) // 2
        key = _key(self.seed, self.name)
        counter = np.empty((4, len(self.keys), blocks), dtype=np.uint64)
        counter[0] = np.arange(blocks, dtype=np.uint64)
        counter[1] = self._draw
        counter[2] = (self.keys & _LOW)[:, None]
        counter[3] = (self.keys >> _SHIFT)[:, None]
        self._draw += 1
        words = philox(counter.reshape(4, -1), (key & 0xFFFFFFFF, key >> 32))
        # 52 bits and a half: never 0, never 1, symmetric about one half
        pairs = ((words[0::2] << _SHIFT) | words[1::2]) >> np.uint64(12)
        numbers = (pairs.astype(np.float64) + 0.5) * 2.0**-52
        numbers = numbers.reshape(2, len(self.keys), blocks).transpose(1, 2, 0).reshape(len(self.keys), -1)[:, :count]
        return torch.from_numpy(np.ascontiguousarray(numbers)).reshape(len(self.keys), *shape)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal, float64, shape (rows, *shape)."""
        return torch.as_tensor(torch.special.ndtri(self.uniform(*shape)))

    def gumbel(self, *shape: int) -> torch.Tensor:
        """Standard Gumbel, float64, shape (rows, *shape)."""
        return -torch.log(-torch.log(self.uniform(*shape)))
