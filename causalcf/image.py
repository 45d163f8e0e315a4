"""The diffusion mechanism of an image: inversion abducts its noise, guided sampling predicts its counterfactual.

    abduct    u = solve^-1(x; eps(.; pa))              all parents shown, no guidance
    predict   x* = solve(u; sum_S c_S eps(.; pa*, S))  the guidance's terms, in one batched pass

T. Xia, F. De Sousa Ribeiro, R. R. Rasal, A. Kori, R. Mehta, B. Glocker, "Decoupled Classifier-Free Guidance for
Counterfactual Diffusion Models", 2025, https://arxiv.org/abs/2506.14399; J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion
Probabilistic Models", NeurIPS 2020, https://arxiv.org/abs/2006.11239, for the loss.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast, get_args

import pyro.distributions as dist
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causalcf.attributes.base import describe_parents
from causalcf.autoencoder import Autoencoder
from causalcf.denoiser import AttributeSplitUNet
from causalcf.errors import AbductionError, DataError, NotFittedError, StoreError
from causalcf.graph import Node
from causalcf.guidance import Adjusted, Guidance, Noisy, Plain, PlusPlus, Shown, guidance_from_dict
from causalcf.levels import Levels, Prediction, noise_from_output
from causalcf.mechanism import Mechanism, Parents, tell
from causalcf.precision import Precision, exact_products, fastest_device, has_bfloat16, rounding
from causalcf.seeds import RowGenerator
from causalcf.solvers import FixedPoint, Solver, solver_from_dict

__all__ = ["Diffusion", "halved"]

_NEGLIGIBLE = 1e-12  # weight of a masked prediction below which it is not evaluated
_SPACING = 2.3  # the power by which levels are spaced
_PASS = 128  # rows that go through the network together, of 64x64 pixels at most: more are slower on a CPU
_PIXELS = 64 * 64  # of larger images fewer, for the memory that they take
# a pass is padded to a multiple of this: with fewer rows other kernels sum in another order, and an answer depends on its company
_MULTIPLE = 16


def _flat(image: Tensor) -> Tensor:
    """The pixels at an end of the scale, -1 or 1, whose neighbours are all at the same end, (row, channel, height, width)."""
    highest, lowest = (nn.functional.max_pool2d(signed, 3, 1, 1) for signed in (image, -image))
    return (highest == -lowest) & (image.abs() >= 1)


def _pass_of(images: Tensor) -> int:
    """How many of such images go through the network together."""
    fitting = _PASS * _PIXELS // (images.shape[-1] * images.shape[-2])
    return max(_MULTIPLE, min(_PASS, fitting) // _MULTIPLE * _MULTIPLE)


def _in_passes(images: Tensor, of: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """What a network says of images, by their places, in passes in which a row's is the same, bit for bit, in any company."""
    rows, most = len(images), _pass_of(images)
    multiple = _MULTIPLE if device.type == "cpu" else most  # a GPU has kernels of its own for many a number of rows
    padded = torch.arange(-(-rows // multiple) * multiple)
    padded[rows:] = 0
    return torch.cat([of(some).cpu() for some in torch.split(padded, most)])[:rows]


def halved(channels: Sequence[int], side: int) -> tuple[int, ...]:
    """As many of a network's levels, finest first, as a side of so many pixels can be halved for; one at least."""
    fitting = (count for count in range(len(channels), 1, -1) if side % 2 ** (count - 1) == 0)
    return tuple(channels[: next(fitting, 1)])


class Diffusion(Mechanism):
    """An image whose mechanism is a diffusion model; its value is in [-1, 1], its noise standard normal.

    Args:
        channels, patch, layers, attention, norm_num_groups: of the network, see `AttributeSplitUNet`.
        steps: noise levels visited by abduction and by prediction.
        guidance: the rule for predictions under an intervention.
        solver: of abduction and prediction, see `causalcf.solvers`; the warm-started fixed point unless told.
        hide_all: in training, the probability that all parents are hidden together.
        hide_one: in training, the probability that a parent is hidden by itself, so that every mask which guidance asks
            for is in distribution; 0 is the paper's scheme.
        min_snr: in training, weights the error by the signal-to-noise ratio, but by no more than this; 5 is usual, None is all
            alike. T. Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", ICCV 2023,
            https://arxiv.org/abs/2303.09556.
        precision: of the network's convolutions in abduction and prediction; all other arithmetic is in float32. `auto` is
            `bfloat16` where the machine has instructions for it, and `float32` elsewhere.
        prediction: what the network predicts, by diffusers' names: `v_prediction`, `epsilon` or `sample` (the clean image).
        autoencoder: trained, see `causalcf.fit_autoencoder`; the diffusion then is in its latents.
        denoiser: a trained network; given when a saved mechanism is loaded.
    """

    exact = False

    def __init__(
        self,
        *,
        channels: Sequence[int] = (32, 64, 128),
        patch: int = 2,
        layers: int = 1,
        attention: bool | int = False,
        norm_num_groups: int = 16,
        steps: int = 25,
        guidance: Guidance | None = None,
        solver: Solver | None = None,
        hide_all: float = 0.1,
        hide_one: float = 0.1,
        min_snr: float | None = None,
        precision: Precision = "auto",
        prediction: Prediction = "v_prediction",
        autoencoder: Autoencoder | None = None,
        denoiser: AttributeSplitUNet | None = None,
    ) -> None:
        super().__init__()
        self.network: dict[str, Any] = {
            "channels": list(channels),
            "patch": patch,
            "layers": layers,
            "attention": attention,
            "norm_num_groups": norm_num_groups,
        }
        self.hide_all, self.hide_one, self.min_snr = hide_all, hide_one, min_snr
        self.denoiser = denoiser
        self.autoencoder = None if autoencoder is None else autoencoder.eval().requires_grad_(False)
        self.scheduler = DDIMScheduler(
            num_train_timesteps=1000,
            beta_schedule="linear",
            clip_sample=False,
            timestep_spacing="trailing",
            prediction_type=prediction,
        )
        self._set(guidance or Plain(), steps, solver or FixedPoint(), precision)

    def _set(self, guidance: Guidance, steps: int, solver: Solver, precision: Precision) -> None:
        if isinstance(guidance, PlusPlus) and not solver.euler:
            raise DataError(
                f"CFG++ is defined for DDIM steps, which {type(solver).__name__} does not take. Use FixedPoint or DDIM."
            )
        if precision not in get_args(Precision):
            raise DataError(f"precision is '{precision}'. It is one of {', '.join(get_args(Precision))}.")
        self.guidance, self.steps, self.solver, self.precision = guidance, steps, solver, precision
        self.rounded = has_bfloat16() if precision == "auto" else precision == "bfloat16"
        self.levels = Levels.from_scheduler(self.scheduler, steps, spacing=_SPACING)
        self.identified = solver.identified

    def check(self, node: Node, parent_nodes: Sequence[Node]) -> None:
        if node.kind != "image":
            raise DataError(f"'{node.name}' is {node.kind}: Diffusion is for image nodes.")

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        shape = tuple(value.shape[1:]) if self.autoencoder is None else self.autoencoder.shape(value.shape[1:])
        kind = "image" if self.autoencoder is None else "the latent of image"
        factor = self.network["patch"] * 2 ** (len(self.network["channels"]) - 1)
        if shape[1] % factor or shape[2] % factor:
            raise AbductionError(
                f"{kind} node '{node.name}' is {shape[1]}x{shape[2]}, which this network cannot halve often enough: "
                f"pad it to a multiple of {factor}, or give Diffusion fewer levels (channels) or a smaller patch."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.denoiser = AttributeSplitUNet(describe_parents(parent_nodes, parents), shape, **self.network)

    def _fitted(self) -> AttributeSplitUNet:
        if self.denoiser is None:
            raise NotFittedError("this Diffusion was never fitted. Call causalcf.fit(scm, batch) first.")
        return self.denoiser

    def _ready(self) -> AttributeSplitUNet:
        """The fitted network, where networks are fast, as is the autoencoder; solvers and guidance stay on the CPU."""
        network = self._fitted()
        self.to(fastest_device())
        return network

    @property
    def _device(self) -> torch.device:
        return cast(torch.device, next(self._fitted().parameters()).device)

    def _encode(self, value: Tensor) -> Tensor:
        """What diffusion is of: the image itself, or its latents."""
        if self.autoencoder is None:
            return value.float()
        with torch.no_grad():
            return self.autoencoder.encode(value.float())

    def _decode(self, state: Tensor) -> Tensor:
        return (state if self.autoencoder is None else self.autoencoder.decode(state)).clamp(-1, 1)

    def _to_state(self, value: Tensor) -> Tensor:
        """As `_encode`, a row's in any company."""
        if self.autoencoder is None:
            return value.float()
        return _in_passes(value, lambda some: self._encode(value[some].to(self._device)), self._device)

    def _to_image(self, state: Tensor) -> Tensor:
        """As `_decode`, a row's in any company."""
        if self.autoencoder is None:
            return self._decode(state)
        return _in_passes(state, lambda some: self._decode(state[some].to(self._device)), self._device)

    def round_trip(self, value: Tensor) -> Tensor | None:
        """The image through the autoencoder and back, with no diffusion at all; None where there is no autoencoder."""
        if self.autoencoder is None:
            return None
        self._ready()
        with torch.inference_mode():
            return self._to_image(self._to_state(value)).clone()

    @property
    def by_moved(self) -> bool:
        return self.guidance.by_moved

    def configured(
        self,
        *,
        guidance: Guidance | None = None,
        steps: int | None = None,
        solver: Solver | None = None,
        precision: Precision | None = None,
    ) -> Self:
        other, steps = copy.copy(self), self.steps if steps is None else steps
        other._set(guidance or self.guidance, steps, solver or self.solver, precision or self.precision)
        return other

    def _noise_in(self, image: Tensor, timestep: int, output: Tensor) -> Tensor:
        """The noise prediction that the network's output, or a combination of outputs whose weights sum to 1, stands for."""
        signal = float(self.scheduler.alphas_cumprod[timestep])
        return noise_from_output(image, output, signal**0.5, (1 - signal) ** 0.5, self.scheduler.config.prediction_type)

    def noise_prior(self) -> dist.TorchDistribution:
        shape, scale = self._noise_shape(), self.solver.noise_scale()
        return cast(dist.TorchDistribution, dist.Normal(torch.zeros(shape), scale.expand(shape)).to_event(len(shape)))

    def _noise_shape(self) -> tuple[int, ...]:
        return self.solver.noise_shape(self._fitted().shape, self.steps)

    def draw_noise(self, generator: RowGenerator) -> Tensor:
        return generator.normal(*self._noise_shape()).float() * self.solver.noise_scale()

    def abduct(self, value: Tensor, parents: Parents, *, generator: RowGenerator) -> Tensor:
        denoiser = self._ready()
        everything = torch.ones(len(value), len(denoiser.names), dtype=torch.bool)

        def eps(image: Tensor, timestep: int, rows: Tensor) -> Tensor:
            given = {name: parents[name][rows] for name in denoiser.names}
            return self._noise_in(image, timestep, self._output(image, timestep, given, everything[rows]))

        with torch.inference_mode():
            state = self._to_state(value)
            flat = _flat(state) if self.autoencoder is None else None
            noise, trace = self.solver.abduct(state, self.levels, eps, generator.normal, flat)
        residual = trace.residual.max(dim=1).values
        if bool((residual > self.solver.accepted).any()):
            warnings.warn(
                f"abduction stopped at a residual of {float(residual.max()):.2g} where {self.solver.accepted:.2g} is accepted: "
                "the counterfactual may lose detail. Train longer or use more steps.",
                stacklevel=2,
            )
        first = noise[:, 0] if noise.dim() > value.dim() else noise  # a solver may keep more than the last level
        spread = first.clone().flatten(1).std(dim=1)
        tell(evaluations=trace.evaluations, residual=residual.clone(), noise_std=spread, drawn=trace.drawn.clone())
        return noise.clone()

    def predict(self, noise: Tensor, parents: Parents, *, changed: frozenset[str] = frozenset()) -> Tensor:
        tally = torch.zeros(len(noise), dtype=torch.int64)
        names, guidance, memory = self._ready().names, self.guidance, dict[Any, Tensor]()
        places = {timestep: place for place, timestep in enumerate(self.levels.timesteps)}

        def eps(image: Tensor, timestep: int, _: Tensor) -> Tensor:
            if not isinstance(guidance, Adjusted):
                terms = guidance.terms(names, changed, timestep)
                return self._noise_in(image, timestep, self._weighted_output(image, timestep, parents, terms, tally))
            masks = guidance.masks(names, changed, timestep)
            times = len(masks)
            tally.add_(times)
            given = {name: value.repeat(times) for name, value in parents.items()}
            outputs = self._outputs(image.repeat(times, 1, 1, 1), timestep, given, masks, [len(image)] * times)
            shares = torch.split(outputs, len(image))
            predicted = {mask: self._noise_in(image, timestep, share) for mask, share in zip(masks, shares, strict=True)}
            return guidance.combine(predicted, names, changed, timestep, self._noisy(image, places[timestep]), memory)

        with torch.inference_mode():
            state = self.solver.sample(noise.float(), self.levels, eps)
            image = self._to_image(state)
        finite = torch.isfinite(state).flatten(1).all(1)
        if not finite.all():
            bad = (~finite).nonzero().flatten().tolist()
            raise AbductionError(
                f"the counterfactual image is not finite for rows {bad} of the batch: guidance or the network ran off. "
                "Take lower weights, or look at the network's loss."
            )
        tell(prediction_evaluations=tally)
        return image.clone()

    def _noisy(self, image: Tensor, place: int) -> Noisy:
        alphas, sigmas = self.levels.alphas, self.levels.sigmas
        return Noisy(image, alphas[place + 1], sigmas[place + 1], sigmas[place] / alphas[place])

    def _weighted_output(
        self, image: Tensor, timestep: int, parents: Parents, terms: Mapping[Shown, Any], tally: Tensor
    ) -> Tensor:
        """The weighted sum of masked outputs: every (row, mask) with a weight is evaluated, all in one pass, and counted."""
        weights = torch.stack([torch.as_tensor(c, dtype=torch.float32).expand(len(image)) for c in terms.values()])
        term, row = (weights.abs() > _NEGLIGIBLE).nonzero(as_tuple=True)
        tally.index_add_(0, row, torch.ones_like(row))
        masks = list(terms)
        counts = [int((term == place).sum()) for place in range(len(masks))]
        outputs = self._outputs(image[row], timestep, {name: value[row] for name, value in parents.items()}, masks, counts)
        return torch.zeros_like(image).index_add_(0, row, weights[term, row].view(-1, 1, 1, 1) * outputs)

    def _outputs(self, image: Tensor, timestep: int, parents: Parents, masks: Sequence[Shown], counts: Sequence[int]) -> Tensor:
        """The network's output where the first rows show the first mask's parents, and so on; so many rows each."""
        denoiser = self._fitted()
        shown = torch.tensor([[name in mask for name in denoiser.names] for mask in masks], dtype=torch.bool)
        shown = shown.repeat_interleave(torch.tensor(counts), dim=0)
        return self._output(image, timestep, {name: parents[name] for name in denoiser.names}, shown)

    def _output(self, image: Tensor, timestep: int, parents: Parents, shown: Tensor) -> Tensor:
        """The network's output."""
        network, device = self._fitted(), self._device

        def of(some: Tensor) -> Tensor:
            given = {name: value[some].to(device) for name, value in parents.items()}
            time = torch.full((len(some),), timestep, device=device)
            return cast(Tensor, network(image[some].to(device), time, given, shown[some].to(device)))

        with rounding(self.rounded), exact_products():
            return _in_passes(image, of, device)

    @property
    def training_settings(self) -> dict[str, Any]:
        hiding = {"hide_all": self.hide_all, "hide_one": self.hide_one, "min_snr": self.min_snr}
        latents = {} if self.autoencoder is None else {"autoencoder": self.autoencoder.digest}
        return {**self.network, **hiding, "prediction": self.scheduler.config.prediction_type, **latents}

    def training_draws(self, value: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Noise, timesteps and shown parents, a row each."""
        rows, names = len(value), self._fitted().names
        # as the levels of abduction and prediction are spaced: most of them near the clean image
        time = (len(self.scheduler.alphas_cumprod) * torch.rand(rows, generator=generator).square()).long()
        noise = torch.randn(rows, *self._fitted().shape, generator=generator)
        hidden = torch.rand(rows, len(names), generator=generator) < self.hide_one
        hidden |= torch.rand(rows, 1, generator=generator) < self.hide_all
        return {"time": time, "noise": noise, "shown": ~hidden}

    def loss(self, value: Tensor, parents: Parents, *, generator: torch.Generator | Mapping[str, Tensor]) -> Tensor:
        drawn = self.training_draws(value, generator) if isinstance(generator, torch.Generator) else generator
        weight = self._weight(drawn["time"]).to(value.device)
        drawn = {key: draw.to(value.device) for key, draw in drawn.items()}
        return weight * self._error(value, parents, drawn["noise"], drawn["time"], drawn["shown"])

    def validation_losses(self, value: Tensor, parents: Parents, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The unweighted loss of every row under every kind of mask, all under the same noise, by the mask's name.

        That a parent is worth showing is what separates `only age` from `none` and `all` from `without age`.
        """
        names = self._fitted().names
        time = (len(self.scheduler.alphas_cumprod) * torch.rand(len(value), generator=generator).square()).long()
        noise = torch.randn(len(value), *self._fitted().shape, generator=generator)
        shown = {"all": set(names), "none": set()}
        if len(names) > 1:
            shown |= {f"only {name}": {name} for name in names} | {f"without {name}": set(names) - {name} for name in names}
        masks = {key: torch.tensor([name in kept for name in names], dtype=torch.bool) for key, kept in shown.items()}

        def error(mask: Tensor) -> Tensor:
            parts, device = [], self._device
            for some in torch.split(torch.arange(len(value)), _pass_of(value)):
                given = {name: column[some].to(device) for name, column in parents.items()}
                drawn = noise[some].to(device), time[some].to(device), mask.to(device).expand(len(some), -1)
                parts.append(self._error(value[some].to(device), given, *drawn).cpu())
            return torch.cat(parts).clone()

        with torch.inference_mode():
            return {key: error(mask) for key, mask in masks.items()}

    def _error(self, value: Tensor, parents: Parents, noise: Tensor, time: Tensor, shown: Tensor) -> Tensor:
        """Mean squared error of the network's output, (row,)."""
        value = self._encode(value)
        output = self._fitted()(self.scheduler.add_noise(value, noise, time), time, parents, shown).float()
        wanted = {"epsilon": noise, "sample": value, "v_prediction": self.scheduler.get_velocity(value, noise, time)}
        return cast(Tensor, (output - wanted[self.scheduler.config.prediction_type]).square().flatten(1).mean(1))

    def _weight(self, time: Tensor) -> Tensor:
        """What a row's error counts in training: 1, or with `min_snr` its signal-to-noise ratio, at most that much."""
        if self.min_snr is None:
            return torch.ones(len(time))
        signal = self.scheduler.alphas_cumprod[time]
        ratio = signal / (1 - signal)
        against = {"epsilon": ratio, "sample": 1.0, "v_prediction": ratio + 1}  # what the error is in units of that of x_0
        return cast(Tensor, ratio.clamp(max=self.min_snr) / against[self.scheduler.config.prediction_type])

    def save(self, directory: Path) -> None:
        denoiser = copy.deepcopy(self._fitted()).cpu().half()
        denoiser.save_config(directory / "denoiser")
        denoiser.unet.save_pretrained(directory / "unet")  # by itself, so that diffusers alone can load it
        own = {name: tensor for name, tensor in denoiser.state_dict().items() if not name.startswith("unet.")}
        save_file(own, directory / "denoiser" / "embeddings.safetensors")
        self.scheduler.save_pretrained(directory / "scheduler")
        if self.autoencoder is not None:
            (directory / "autoencoder").mkdir()
            self.autoencoder.save(directory / "autoencoder")
        settings = {
            "steps": self.steps,
            "solver": self.solver.to_dict(),
            "hide_all": self.hide_all,
            "hide_one": self.hide_one,
            "min_snr": self.min_snr,
            "precision": self.precision,
            "guidance": self.guidance.to_dict(),
            **self.network,
        }
        (directory / "mechanism.json").write_text(json.dumps(settings, indent=1))

    @classmethod
    def load(cls, directory: Path) -> Self:
        settings: dict[str, Any] = json.loads((directory / "mechanism.json").read_text())
        if not (directory / "unet").is_dir() or "solver" not in settings:
            raise StoreError(f"'{directory}' was written by an older causalcf, in another layout. Fit and save the model again.")
        settings["solver"] = solver_from_dict(settings["solver"])
        settings["guidance"] = guidance_from_dict(settings["guidance"])
        schedule: dict[str, Any] = json.loads((directory / "scheduler" / "scheduler_config.json").read_text())
        settings["prediction"] = schedule["prediction_type"]
        if (directory / "autoencoder").is_dir():
            settings["autoencoder"] = Autoencoder.load(directory / "autoencoder")
        denoiser = AttributeSplitUNet.from_config(AttributeSplitUNet.load_config(directory / "denoiser"))
        weights = load_file(directory / "denoiser" / "embeddings.safetensors")
        unet = load_file(directory / "unet" / "diffusion_pytorch_model.safetensors")
        denoiser.load_state_dict(weights | {f"unet.{name}": tensor for name, tensor in unet.items()})
        mechanism = cls(denoiser=denoiser, **settings).eval()
        for name, value in mechanism.scheduler.config.items():
            if not name.startswith("_") and schedule.get(name, value) != value:
                raise StoreError(
                    f"the scheduler in '{directory}' has {name}={schedule[name]}, and a Diffusion is trained and asked with "
                    f"{value}. Save the model again."
                )
        return mechanism
