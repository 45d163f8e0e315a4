"""The diffusion mechanism of an image: inversion abducts its noise, guided sampling predicts its counterfactual.

    abduct    u = DDIM^-1(x; eps(.; pa))              all parents shown, no guidance
    predict   x* = DDIM(u; sum_S c_S eps(.; pa*, S))  the guidance's terms, in one batched pass

T. Xia, F. De Sousa Ribeiro, R. R. Rasal, A. Kori, R. Mehta, B. Glocker, "Decoupled Classifier-Free Guidance for
Counterfactual Diffusion Models", 2025, https://arxiv.org/abs/2506.14399; J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion
Probabilistic Models", NeurIPS 2020, https://arxiv.org/abs/2006.11239, for the loss.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import pyro.distributions as dist
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from causalcf.attributes.base import describe_parents
from causalcf.denoiser import AttributeSplitUNet
from causalcf.errors import AbductionError, NotFittedError
from causalcf.graph import Node
from causalcf.guidance import Guidance, Plain, guidance_from_dict
from causalcf.mechanism import Mechanism, Parents
from causalcf.seeds import RowGenerator
from causalcf.solvers import Levels, fixed_point_inversion, sample

__all__ = ["Diffusion"]


class Diffusion(Mechanism):
    """An image whose mechanism is a diffusion model; its value is in [-1, 1], its noise standard normal.

    Args:
        channels, patch, layers, attention: of the network, see `AttributeSplitUNet`.
        steps: noise levels visited by abduction and by prediction.
        guidance: the rule for predictions under an intervention.
        tolerance: of the inversion, root mean square in units of the noise.
        hide_all: in training, the probability that all parents are hidden together.
        hide_one: in training, the probability that a parent is hidden by itself, so that every mask which guidance asks
            for is in distribution; 0 is the paper's scheme.
        denoiser: a trained network; given when a saved mechanism is loaded.
    """

    exact = False

    def __init__(
        self,
        *,
        channels: Sequence[int] = (32, 64, 128),
        patch: int = 2,
        layers: int = 1,
        attention: bool = False,
        steps: int = 25,
        guidance: Guidance | None = None,
        tolerance: float = 3e-3,
        hide_all: float = 0.1,
        hide_one: float = 0.1,
        denoiser: AttributeSplitUNet | None = None,
    ) -> None:
        super().__init__()
        self.network: dict[str, Any] = {"channels": list(channels), "patch": patch, "layers": layers, "attention": attention}
        self.tolerance, self.hide_all, self.hide_one = tolerance, hide_all, hide_one
        self.denoiser = denoiser
        self.scheduler = DDIMScheduler(
            num_train_timesteps=1000, beta_schedule="linear", clip_sample=False, timestep_spacing="trailing"
        )
        self.guidance = guidance or Plain()
        self.steps = steps
        self.levels = Levels.from_scheduler(self.scheduler, steps, spacing="quadratic")

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        shape = tuple(value.shape[1:])
        factor = self.network["patch"] * 2 ** (len(self.network["channels"]) - 1)
        if shape[1] % factor or shape[2] % factor:
            raise AbductionError(
                f"image node '{node.name}' is {shape[1]}x{shape[2]}, which this network cannot halve often enough: "
                f"pad it to a multiple of {factor}, or give Diffusion fewer channels levels or a smaller patch."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.denoiser = AttributeSplitUNet(describe_parents(parent_nodes, parents), shape, **self.network)

    def _fitted(self) -> AttributeSplitUNet:
        if self.denoiser is None:
            raise NotFittedError("this Diffusion was never fitted. Call causalcf.fit(scm, batch) first.")
        return self.denoiser

    def configured(self, *, guidance: Guidance | None = None, steps: int | None = None) -> Self:
        other = copy.copy(self)
        if guidance is not None:
            other.guidance = guidance
        if steps is not None:
            other.steps, other.levels = steps, Levels.from_scheduler(self.scheduler, steps, spacing="quadratic")
        return other

    def noise_prior(self) -> dist.TorchDistribution:
        return cast(dist.TorchDistribution, dist.Normal(torch.zeros(self._fitted().shape), 1.0).to_event(3))

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        return generator.normal(*self._fitted().shape).float()

    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        denoiser = self._fitted()
        everything = torch.ones(len(value), len(denoiser.names), dtype=torch.bool)

        def eps(image: Tensor, timestep: int, rows: Tensor) -> Tensor:
            time = torch.full((len(rows),), timestep)
            given = {name: parents[name][rows] for name in denoiser.names}
            return cast(Tensor, denoiser(image, time, given, everything[rows]))

        with torch.inference_mode():
            noise, trace = fixed_point_inversion(value.float(), self.levels, eps, tolerance=self.tolerance)
        if max(trace.residual) > 10 * self.tolerance:
            warnings.warn(
                f"abduction stopped at a residual of {max(trace.residual):.2g} (tolerance {self.tolerance:g}): the "
                "counterfactual may lose detail. Train longer or use more steps.",
                stacklevel=2,
            )
        return noise.clone()

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        denoiser = self._fitted()
        rows = len(noise)

        def eps(image: Tensor, timestep: int, _: Tensor) -> Tensor:
            terms = self.guidance.terms(denoiser.names, changed, timestep)
            masks = torch.tensor([[name in shown for name in denoiser.names] for shown in terms])
            predicted = denoiser(
                image.repeat(len(terms), 1, 1, 1),
                torch.full((rows * len(terms),), timestep),
                {name: parents[name].repeat(len(terms)) for name in denoiser.names},
                masks.repeat_interleave(rows, dim=0),
            )
            weights = predicted.new_tensor(list(terms.values())).view(-1, 1, 1, 1, 1)
            return cast(Tensor, (weights * predicted.unflatten(0, (len(terms), rows))).sum(0))

        with torch.inference_mode():
            image = sample(noise.float(), self.levels, eps)
        return image.clamp(-1, 1).clone()

    def loss(self, value: Tensor, parents: Parents, *, generator: torch.Generator) -> Tensor:
        denoiser = self._fitted()
        rows = len(value)
        time = torch.randint(0, len(self.scheduler.alphas_cumprod), (rows,), generator=generator)
        noise = torch.randn(value.shape, generator=generator)
        hidden = torch.rand(rows, len(denoiser.names), generator=generator) < self.hide_one
        hidden |= torch.rand(rows, 1, generator=generator) < self.hide_all
        noisy = self.scheduler.add_noise(value, noise, time)
        return cast(Tensor, (denoiser(noisy, time, parents, ~hidden) - noise).square().flatten(1).mean(1))

    def save(self, directory: Path) -> None:
        denoiser = copy.deepcopy(self._fitted()).half()
        denoiser.save_pretrained(directory / "denoiser")
        self.scheduler.save_pretrained(directory / "scheduler")
        settings = {
            "steps": self.steps,
            "tolerance": self.tolerance,
            "hide_all": self.hide_all,
            "hide_one": self.hide_one,
            "guidance": self.guidance.to_dict(),
            **self.network,
        }
        (directory / "mechanism.json").write_text(json.dumps(settings, indent=1))

    @classmethod
    def load(cls, directory: Path) -> Self:
        settings: dict[str, Any] = json.loads((directory / "mechanism.json").read_text())
        settings["guidance"] = guidance_from_dict(settings["guidance"])
        denoiser = AttributeSplitUNet.from_pretrained(directory / "denoiser", torch_dtype=torch.float32, low_cpu_mem_usage=False)
        denoiser.unet.to(memory_format=torch.channels_last)
        return cls(denoiser=denoiser, **settings).eval()
