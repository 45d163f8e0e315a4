"""The denoiser: a U-Net that predicts the noise in an image from any subset of the image's parents.

    name        symbol              meaning
    embedding   c = concat(c_i)     attribute-split embedding, one small network E_i a parent, c_i = E_i(pa_i)
    shown       S                   the parents that are shown; the block of any other is its learned null token
    forward     eps(x_t, t; S)      the predicted noise

Masking block by block, one network gives every masked prediction that decoupled guidance combines. Source: T. Xia,
F. De Sousa Ribeiro, R. R. Rasal, A. Kori, R. Mehta, B. Glocker, "Decoupled Classifier-Free Guidance for Counterfactual
Diffusion Models", 2025, https://arxiv.org/abs/2506.14399.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from causalcf.precision import make_roundable

__all__ = ["AttributeSplitUNet"]


class _NumberEmbedding(nn.Module):
    """A standardised number, lifted to sines and cosines, through a small network."""

    def __init__(self, width: int, mean: float, scale: float, frequencies: int = 4) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale
        self.register_buffer("frequencies", 2.0 ** torch.arange(frequencies) * 0.5, persistent=False)
        self.layers = nn.Sequential(nn.Linear(1 + 2 * frequencies, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, value: Tensor) -> Tensor:
        standard = ((value - self.mean) / self.scale).float()[:, None]
        angles = standard * cast(Tensor, self.frequencies)
        return cast(Tensor, self.layers(torch.cat([standard, angles.sin(), angles.cos()], dim=1)))


class AttributeSplitUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """diffusers' `UNet2DModel`, conditioned on an attribute-split embedding added to its time embedding.

    Args:
        parents: one mapping a parent, in order: `name`, and either `states` (how many) or `mean` and `scale`.
        shape: of the image, (channel, height, width).
        channels: of the U-Net, finest level first.
        patch: side of the square of pixels that is folded into channels before the U-Net; 2 is four times as fast as 1.
        layers: residual blocks a level.
        attention: self-attention at the coarsest level, or, a number, at every level of at most so many pixels a side.
        norm_num_groups: of channels, in group normalisation, if the channels can be so divided. With 1, what a channel holds is
            kept in proportion to the others, and so is the brightness of an image, of which more groups keep less.
    """

    _supports_gradient_checkpointing = False

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        parents: Sequence[Mapping[str, Any]],
        shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        patch: int = 2,
        layers: int = 1,
        attention: bool | int = False,
        norm_num_groups: int = 16,
    ) -> None:
        super().__init__()
        depth, folded = len(channels), shape[0] * patch**2
        width = channels[0] * 4
        share = [width // len(parents) + (place < width % len(parents)) for place in range(len(parents))] if parents else []
        self.names = tuple(parent["name"] for parent in parents)
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.patch = patch
        self.embeddings = nn.ModuleList(
            nn.Embedding(parent["states"], size)
            if "states" in parent
            else _NumberEmbedding(size, parent["mean"], parent["scale"])
            for parent, size in zip(parents, share, strict=True)
        )
        self.null_tokens = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in share)
        side = max(shape[1:]) // patch
        least = side // 2 ** (depth - 1) if attention is True else attention
        attended = ["Attn" if side // 2**place <= least else "" for place in range(depth)]
        self.unet = UNet2DModel(
            sample_size=(shape[1] // patch, shape[2] // patch),
            in_channels=folded,
            out_channels=folded,
            layers_per_block=layers,
            block_out_channels=tuple(channels),
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in attended),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(attended)),
            class_embed_type="identity" if parents else None,
            resnet_time_scale_shift="scale_shift",
            norm_num_groups=math.gcd(norm_num_groups, *channels),
            add_attention=bool(attention),
        )
        self.unet.to(memory_format=torch.channels_last)
        make_roundable(self.unet)

    def embed(self, parents: Mapping[str, Tensor], shown: Tensor) -> Tensor:
        """The attribute-split embedding, (batch, width).

        Args:
            parents: a value a row for every parent, (batch,).
            shown: whether each parent is shown, (batch, parent), boolean.
        """
        blocks = [
            torch.where(shown[:, place, None], embedding(parents[name]), null)
            for place, (name, embedding, null) in enumerate(zip(self.names, self.embeddings, self.null_tokens, strict=True))
        ]
        return torch.cat(blocks, dim=1)

    def forward(self, image: Tensor, time: Tensor, parents: Mapping[str, Tensor], shown: Tensor) -> Tensor:
        """The predicted noise, (batch, channel, height, width).

        Args:
            image: the noisy image x_t, (batch, channel, height, width).
            time: the training timestep of each row, (batch,).
            parents: a value a row for every parent, (batch,).
            shown: whether each parent is shown, (batch, parent), boolean.
        """
        condition = self.embed(parents, shown) if self.names else None
        folded = nn.functional.pixel_unshuffle(image, self.patch).contiguous(memory_format=torch.channels_last)
        noise = self.unet(folded, time, class_labels=condition, return_dict=False)[0]
        return nn.functional.pixel_shuffle(noise, self.patch).contiguous()
