"""Judges read an attribute off an image, so that an audit can ask whether a counterfactual shows what it should.

A judge is any callable from images, uint8 (row, channel, height, width), to one number or label a row. A `Ruler` measures
by a formula; a `NetworkJudge` is an anti-causal predictor trained on a split of its own, that neither the model nor the
counterfactuals saw.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causalcf.batch import Batch
from causalcf.encoding import decode_column, encode_column
from causalcf.errors import DataError
from causalcf.graph import Node
from causalcf.metrics import target_error
from causalcf.precision import exact_products, fastest_device
from causalcf.progress import progress as show_progress
from causalcf.seeds import step_generator
from causalcf.table_judges import TableJudge, effects_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Judge", "NetworkJudge", "Ruler", "fit_judges", "judge_quality"]

_SHIFTS = (0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)  # pixels down and right over which a network's reading is averaged
_FEWEST_STEPS = 250  # of a network's training, however few its images are
_LARGE = 64  # pixels a side from which on a network halves its image at once

Judge = Callable[["NDArray[np.uint8]"], "NDArray[Any]"]
"""images, uint8 (row, channel, height, width) -> one number or label a row."""


class Ruler:
    """Measures thickness (pixels) or intensity (grey level) of a digit by a formula; nothing is trained.

    Args:
        quantity: `thickness` or `intensity`.
    """

    def __init__(self, quantity: str) -> None:
        from causalcf.rulers import measure_intensity, measure_thickness

        rulers = {"thickness": measure_thickness, "intensity": measure_intensity}
        if quantity not in rulers:
            raise DataError(f"there is no ruler for '{quantity}'. Rulers are: {', '.join(rulers)}.")
        self.quantity = quantity
        self._measure = rulers[quantity]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return self._measure(np.asarray(images)[:, 0])

    def __repr__(self) -> str:
        return f"Ruler({self.quantity!r})"

    def save(self, directory: Path) -> None:
        """Write the ruler into an existing empty directory."""
        (directory / "judge.json").write_text(json.dumps({"quantity": self.quantity}))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The ruler that `save` wrote."""
        return cls(**json.loads((directory / "judge.json").read_text()))


class NetworkJudge(nn.Module):
    """A small convolutional network, image to attribute: a label, or a number.

    Args:
        node: what it reads, as `Node.to_dict`.
        shape: of an image, (channel, height, width).
        mean, scale: of a number.
    """

    def __init__(self, node: Mapping[str, Any], shape: Sequence[int], mean: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.config = {"node": dict(node), "shape": list(shape), "mean": mean, "scale": scale}
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in node.items()}
        self.node = Node(**fields)
        self.mean, self.scale = mean, scale
        large = min(shape[1:]) >= _LARGE
        widths, strides = [shape[0], 32, 64, 64, 96, 96, 96], [2 if large else 1, 2, 1, 2, 1, 2]
        blocks: list[nn.Module] = []
        for (before, after), stride in zip(itertools.pairwise(widths), strides, strict=True):
            convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            blocks += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        out = len(self.node.states) if self.node.states else 1
        last = widths[-1] * 16
        self.body = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.4), nn.Linear(last, out))
        cast(Any, self).to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (row, state), or a standardised number (row, 1), from pixels in [0, 1]."""
        return cast(Tensor, self.head(self.body(pixels.contiguous(memory_format=torch.channels_last))))

    def __call__(self, images: Any) -> Any:
        """Labels or numbers for uint8 images; the network is in evaluation mode whenever it scores."""
        if isinstance(images, Tensor):
            return super().__call__(images)
        found = self._outputs(images, self._shifted)
        if self.node.discrete:
            return decode_column(self.node, found.argmax(1))
        return found[:, 0].double().numpy() * self.scale + self.mean

    def _shifted(self, pixels: Tensor) -> Tensor:
        """Probabilities (row, state), or a standardised number (row, 1), averaged over the image as it is and one pixel aside."""
        outputs = [self.forward(pixels.roll(shift, (2, 3))) for shift in _SHIFTS]
        return torch.stack([output.softmax(1) if self.node.discrete else output for output in outputs]).mean(0)

    def _outputs(self, images: NDArray[np.uint8], part: Callable[[Tensor], Tensor]) -> Tensor:
        device = fastest_device()
        self.to(device).eval()
        with torch.inference_mode(), exact_products():
            pixels = torch.from_numpy(np.ascontiguousarray(images))
            return torch.cat([part(some.to(device).float() / 255).cpu() for some in torch.split(pixels, 256)])

    @property
    def scores(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float64]] | None:
        """From images to the probability of every label, (row, label); None where it reads a number."""
        return (lambda images: self._outputs(images, self._shifted).double().numpy()) if self.node.discrete else None

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """What its last convolution sees, averaged over the image, (row, feature), for Frechet distances."""
        return self._outputs(images, lambda pixels: self.body(pixels).mean((2, 3))).double().numpy()

    def save(self, directory: Path) -> None:
        """Write the judge into an existing empty directory."""
        (directory / "judge.json").write_text(json.dumps(self.config, indent=1))
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in self.state_dict().items()}
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The judge that `save` wrote."""
        judge = cls(**json.loads((directory / "judge.json").read_text()))
        judge.load_state_dict(load_file(directory / "weights.safetensors"))
        return judge.eval()


def _varied(pixels: Tensor, deform: float, contrast: float, generator: torch.Generator) -> Tensor:
    """Images (row, channel, height, width), each shifted by up to two pixels and, if asked, bent and of another contrast."""
    rows, _, height, width = pixels.shape
    sides, device = torch.tensor([width, height]), pixels.device
    shift = 2 * torch.randint(-2, 3, (rows, 2, 1), generator=generator) / sides[:, None]  # sampling takes sides of length 2
    linear = torch.eye(2) + deform * torch.randn(rows, 2, 2, generator=generator)
    turned = torch.cat([linear, shift], dim=2).to(device)
    places = nn.functional.affine_grid(turned, list(pixels.shape), align_corners=False)
    if deform:
        bend = 0.5 * deform * torch.randn(rows, 2, 5, 5, generator=generator).to(device)
        places = places + nn.functional.interpolate(bend, (height, width), mode="bicubic", align_corners=True).movedim(1, 3)
    varied = nn.functional.grid_sample(pixels, places, padding_mode="border", align_corners=False)
    gain = torch.exp(contrast * torch.randn(rows, 1, 1, 1, generator=generator)).to(device)
    return (gain * varied).clamp(max=1)


def _fit(
    node: Node, pixels: Tensor, value: Tensor, *, epochs: int, deform: float, contrast: float, seed: int, progress: bool
) -> NetworkJudge:
    mean, scale = (0.0, 1.0) if node.discrete else (float(value.mean()), float(value.std()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        device = fastest_device()
        judge = NetworkJudge(node.to_dict(), tuple(pixels.shape[1:]), mean, scale).to(device)
        few = epochs * (len(pixels) // 64) < _FEWEST_STEPS  # then each image is seen more often than that anyway
        size = min(64 if few else 128, len(pixels))
        steps = max(epochs * (len(pixels) // size), _FEWEST_STEPS)
        optimiser = torch.optim.AdamW(judge.parameters(), weight_decay=2e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
        judge.train()
        with show_progress(f"judge of {node.name}", steps, show=progress) as advance:
            for step in range(steps):
                generator = step_generator(seed, f"judge/{node.name}", step)
                rows = torch.randint(0, len(pixels), (size,), generator=generator)
                found = judge.forward(_varied(pixels[rows].to(device).float().div(255), deform, contrast, generator))
                wanted = value[rows].to(device)
                if node.discrete:
                    loss = nn.functional.cross_entropy(found, wanted, label_smoothing=0.05)
                else:
                    loss = nn.functional.huber_loss(found[:, 0], ((wanted - mean) / scale).float())
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
                advance(step + 1, f"loss {float(loss.detach()):.4f}")
    return judge.cpu().eval()


def fit_judges(
    batch: Batch,
    *,
    rulers: Mapping[str, str] | None = None,
    image: str | None = None,
    epochs: int = 12,
    deform: float = 0.0,
    contrast: float = 0.0,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """A judge for every parent of an image: a ruler where there is one, a network trained on this batch elsewhere.

    Without an image, a judge for every attribute that has an effect, which reads it off its effects; see `TableJudge`.

    Args:
        batch: rows that neither the model nor the counterfactuals to be judged have seen.
        rulers: by attribute, the quantity that a `Ruler` measures.
        image: which image node; the first unless told, and none if the batch has no images.
        epochs: passes over the batch for every network; more where the batch is small.
        deform: how far each image that a network sees in training is turned, slanted, stretched and bent; 0.1 is about six
            degrees. A few images then stand for more, but nothing that this changes, such as a size, can be judged.
        contrast: standard deviation of the logarithm of the factor by which each such image's pixels are multiplied.
        seed: of the networks' training.
        progress: show how far it is.

    Raises:
        DataError: the batch has no such images, or a ruler or setting belongs to none.
    """
    graph, rulers = batch.graph, dict(rulers or {})
    readable = graph.parents(image or next(iter(batch.images), "")) if image or batch.images else ()
    odd = [name for name in rulers if name not in readable]
    if odd:
        raise DataError(
            f"there is a ruler for {', '.join(odd)}, which no image shows: rulers are for the parents of an image that the batch "
            f"has. Those are: {', '.join(readable) or 'none'}."
        )
    if image is not None and image not in batch.images:
        raise DataError(f"the batch has no images for '{image}'. Pass Batch(graph, frame, images={{'{image}': pixels}}).")
    if not batch.images:
        if deform or contrast:
            raise DataError("deform and contrast are of images, and the batch has none. Leave them out.")
        return {name: TableJudge.fit(batch, name) for name in graph.attributes if effects_of(graph, name)}
    image = image or next(iter(batch.images))
    pixels = torch.from_numpy(np.asarray(batch.images[image]))
    judges: dict[str, Any] = {}
    for name in graph.parents(image):
        if name in rulers:
            judges[name] = Ruler(rulers[name])
        else:
            value = encode_column(graph.node(name), batch.frame[name])
            judges[name] = _fit(
                graph.node(name), pixels, value, epochs=epochs, deform=deform, contrast=contrast, seed=seed, progress=progress
            )
    return judges


def judge_quality(judges: Mapping[str, Any], batch: Batch) -> dict[str, dict[str, Any]]:
    """How well judges read real rows: by attribute the `accuracy` of a label or the mean `error` of a number, and `rows`.

    Args:
        judges: by attribute, of the images if the batch has some, and else of the table.
        batch: rows that the judges were not trained on.
    """
    seen = next(iter(batch.images.values()), batch.frame)
    quality: dict[str, dict[str, Any]] = {}
    for name, judge in judges.items():
        discrete = batch.graph.node(name).discrete
        found = target_error(judge(seen), batch.frame[name].to_numpy(), discrete=discrete)
        quality[name] = {"accuracy" if discrete else "error": round(float(found.mean()), 4), "rows": len(batch)}
    return quality
