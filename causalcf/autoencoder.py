"""An autoencoder of images, for diffusion in its latents where pixels are too many: from about 128 pixels a side up.

    encode      z = (mean(x) - m) / s      the mean of diffusers' `AutoencoderKL`, every channel to mean 0 and deviation 1
    decode      x = decoder(z s + m)

Its round trip is an error that no diffusion model can undo: the audit reports it by itself, as the floor of composition. It is
trained before the diffusion model, by the same trainer, on the distance of the round trip and a slight pull of its latents to a
standard normal.

R. Rombach, A. Blattmann, D. Lorenz, P. Esser, B. Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models",
CVPR 2022, https://arxiv.org/abs/2112.10752.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causalcf.errors import DataError
from causalcf.precision import make_roundable

__all__ = ["Autoencoder"]


class Autoencoder(nn.Module):
    """diffusers' `AutoencoderKL` with latents of unit size.

    Args:
        image_channels: 1 or 3.
        channels: of its levels, finest first; every level after the first halves the sides.
        latent_channels: of the latents.
        kl: weight of the pull to a standard normal in training.
    """

    def __init__(
        self, *, image_channels: int = 1, channels: Sequence[int] = (32, 64, 128), latent_channels: int = 4, kl: float = 1e-6
    ) -> None:
        super().__init__()
        self.settings = {
            "image_channels": image_channels,
            "channels": list(channels),
            "latent_channels": latent_channels,
            "kl": kl,
        }
        self.factor, self.kl = 2 ** (len(channels) - 1), kl
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = AutoencoderKL(
                in_channels=image_channels,
                out_channels=image_channels,
                down_block_types=("DownEncoderBlock2D",) * len(channels),
                up_block_types=("UpDecoderBlock2D",) * len(channels),
                block_out_channels=tuple(channels),
                layers_per_block=1,
                latent_channels=latent_channels,
                norm_num_groups=16,
                mid_block_add_attention=False,
            )
        make_roundable(self.network)
        self.register_buffer("mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("scale", torch.ones(latent_channels, 1, 1))

    def shape(self, image: Sequence[int]) -> tuple[int, int, int]:
        """The shape of the latents of an image, (channel, height, width).

        Raises:
            DataError: the image has other channels, or sides that cannot be halved often enough.
        """
        if image[0] != self.settings["image_channels"] or image[1] % self.factor or image[2] % self.factor:
            raise DataError(
                f"an autoencoder of {self.settings['image_channels']} channels that divides sides by {self.factor} cannot take "
                f"images of shape {tuple(image)}. Pad them, or give it other channels."
            )
        return cast(int, self.settings["latent_channels"]), image[1] // self.factor, image[2] // self.factor

    def encode(self, image: Tensor) -> Tensor:
        """Latents, (row, latent channel, height, width), of images in [-1, 1]."""
        return cast(Tensor, (self.network.encode(image).latent_dist.mean - self.mean) / self.scale)

    def decode(self, latent: Tensor) -> Tensor:
        """Images, (row, channel, height, width), not clipped."""
        return cast(Tensor, self.network.decode(latent * self.scale + self.mean).sample)

    def settle(self, value: Tensor) -> None:
        """Give the latents of these images mean 0 and deviation 1 in every channel."""
        with torch.inference_mode():
            parts = [self.network.encode(part.float()).latent_dist.mean for part in torch.split(value, 32)]
        latents = torch.cat(parts).transpose(0, 1).flatten(1)
        self.mean = latents.mean(1).clone().view(-1, 1, 1)
        self.scale = latents.std(1).clamp(min=1e-6).clone().view(-1, 1, 1)

    @property
    def digest(self) -> str:
        """What tells its weights from those of another, and with them its latents."""
        found = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    @property
    def training_settings(self) -> dict[str, Any]:
        return self.settings

    def training_draws(self, value: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The noise of the latents, a row each."""
        return {"noise": torch.randn(len(value), *self.shape(value.shape[1:]), generator=generator)}

    def loss(self, value: Tensor, parents: Mapping[str, Tensor], *, generator: Any) -> Tensor:
        """What training minimises, (row,): absolute error of the round trip, and the divergence from a standard normal."""
        drawn = self.training_draws(value, generator) if isinstance(generator, torch.Generator) else generator
        latents = self.network.encode(value).latent_dist
        found = self.network.decode(latents.mean + latents.std * drawn["noise"].to(value.device)).sample
        return cast(Tensor, (found - value).abs().flatten(1).mean(1) + self.kl * latents.kl())

    def validation_losses(self, value: Tensor, parents: Mapping[str, Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """The absolute error of the round trip, in units of the image, (row,)."""
        value = value.to(self.mean.device)
        with torch.inference_mode():
            found = self.network.decode(self.network.encode(value).latent_dist.mean).sample
            return {"round trip": (found - value).abs().flatten(1).mean(1).cpu()}

    def save(self, directory: Path) -> None:
        """Write it into an existing empty directory; `network` is diffusers' own."""
        copy.deepcopy(self.network).cpu().half().save_pretrained(directory / "network")
        latents = {"mean": self.mean, "scale": self.scale}
        save_file({name: tensor.cpu().contiguous() for name, tensor in latents.items()}, directory / "latents.safetensors")
        (directory / "autoencoder.json").write_text(json.dumps(self.settings, indent=1))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The autoencoder that `save` wrote."""
        found = cls(**json.loads((directory / "autoencoder.json").read_text()))
        found.network.load_state_dict(load_file(directory / "network" / "diffusion_pytorch_model.safetensors"))
        latents = load_file(directory / "latents.safetensors")
        found.mean, found.scale = latents["mean"], latents["scale"]
        return found.eval().requires_grad_(False)
