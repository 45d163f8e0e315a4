"""How exactly is calculated: convolutions in bfloat16, products without rounding, and sums that are the same in any company.

Of convolutions in bfloat16 the factors have 8 significant bits instead of 24, everything between them stays float32.

Where the machine multiplies bfloat16 in hardware this is faster, forth and back. `torch.autocast` is about as fast, more so on
one thread (`benchmarks/images.py --only limits`), but also rounds what normalisation and attention are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

__all__ = ["Precision", "exact_products", "fastest_device", "has_bfloat16", "make_roundable", "rounding", "row_sum"]

Precision = Literal["auto", "float32", "bfloat16"]
"""Of a network's multiplications; `auto` decides by the machine."""
_rounded: ContextVar[bool] = ContextVar("rounded", default=False)


def fastest_device() -> torch.device:
    """Where networks of images are fast: a GPU that torch reaches as CUDA (the current one of several), or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware; without that it is slower than float32."""
    if fastest_device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@contextmanager
def rounding(wanted: bool = True) -> Iterator[None]:
    """Within, roundable convolutions round the factors of their products to bfloat16."""
    before = _rounded.set(wanted)
    try:
        yield
    finally:
        _rounded.reset(before)


@contextmanager
def exact_products() -> Iterator[None]:
    """Within, a GPU neither rounds the factors of float32 convolutions nor chooses among kernels by chance."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def row_sum(images: Tensor) -> Tensor:
    """Sum over the pixels of every row, (row,), the same bit for bit whatever other rows are there.

    torch divides a long sum among its threads where it has few sums to make, so it is made of short ones.
    """
    return images.sum(dim=-1).flatten(1).sum(dim=1)


class _Convolution(nn.Conv2d):
    """A convolution whose factors can be rounded to bfloat16; what it gives is float32 either way."""

    def forward(self, input: Tensor) -> Tensor:
        if not _rounded.get():
            return super().forward(input)
        bias = None if self.bias is None else self.bias.bfloat16()
        return cast(Tensor, self._conv_forward(input.bfloat16(), self.weight.bfloat16(), bias).float())


def make_roundable(network: nn.Module) -> None:
    """Let the convolutions of a diffusers network be rounded, but for the first and the last, which see and give images."""
    ends = {module for name, module in network.named_modules() if name.rpartition(".")[2] in ("conv_in", "conv_out")}
    for module in network.modules():
        if type(module) is nn.Conv2d and module not in ends:
            module.__class__ = _Convolution
