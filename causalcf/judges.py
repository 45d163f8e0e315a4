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
from causalcf.progress import progress as show_progress
from causalcf.seeds import step_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Judge", "NetworkJudge", "Ruler", "fit_judges"]

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
        return self._measure(images[:, 0])

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
        widths = [shape[0], 24, 48, 64, 64]
        blocks: list[nn.Module] = []
        for place, (before, after) in enumerate(itertools.pairwise(widths)):
            blocks += [nn.Conv2d(before, after, 3, stride=1 if place == 0 else 2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        out = len(self.node.states) if self.node.states else 1
        self.layers = nn.Sequential(
            *blocks, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, 96), nn.ReLU(), nn.Dropout(0.3), nn.Linear(96, out)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (row, state), or a standardised number (row, 1), from pixels in [0, 1]."""
        return cast(Tensor, self.layers(pixels))

    def __call__(self, images: Any) -> Any:
        """Labels or numbers for uint8 images; the network is in evaluation mode whenever it scores."""
        if isinstance(images, Tensor):
            return super().__call__(images)
        self.eval()
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(images))
            parts = [self.forward(part.float() / 255) for part in torch.split(pixels, 256)]
        scores = torch.cat(parts)
        if self.node.discrete:
            return decode_column(self.node, scores.argmax(1))
        return scores[:, 0].double().numpy() * self.scale + self.mean

    def save(self, directory: Path) -> None:
        """Write the judge into an existing empty directory."""
        (directory / "judge.json").write_text(json.dumps(self.config, indent=1))
        halved = {name: value.half() if value.is_floating_point() else value for name, value in self.state_dict().items()}
        save_file(halved, directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The judge that `save` wrote."""
        judge = cls(**json.loads((directory / "judge.json").read_text()))
        judge.load_state_dict(load_file(directory / "weights.safetensors"))
        return judge.eval()


def _fit(node: Node, pixels: Tensor, value: Tensor, *, epochs: int, seed: int, progress: bool) -> NetworkJudge:
    mean, scale = (0.0, 1.0) if node.discrete else (float(value.mean()), float(value.std()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = NetworkJudge(node.to_dict(), tuple(pixels.shape[1:]), mean, scale)
        size = min(128, len(pixels))
        steps = epochs * (len(pixels) // size)
        optimiser = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
        judge.train()
        with show_progress(f"judge of {node.name}", steps, show=progress) as advance:
            for step in range(steps):
                generator = step_generator(seed, f"judge/{node.name}", step)
                rows = torch.randint(0, len(pixels), (size,), generator=generator)
                # slight shifts, so that a few base images stand for more
                down, right = torch.randint(-2, 3, (2,), generator=generator).tolist()
                some = pixels[rows].float().div(255).roll((down, right), (2, 3))
                found = judge.forward(some)
                if node.discrete:
                    loss = nn.functional.cross_entropy(found, value[rows])
                else:
                    loss = nn.functional.huber_loss(found[:, 0], ((value[rows] - mean) / scale).float())
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                advance(step + 1, f"loss {float(loss.detach()):.4f}")
    return judge.eval()


def fit_judges(
    batch: Batch,
    *,
    rulers: Mapping[str, str] | None = None,
    image: str | None = None,
    epochs: int = 12,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """A judge for every parent of an image: a ruler where there is one, a network trained on this batch elsewhere.

    Args:
        batch: rows that neither the model nor the counterfactuals to be judged have seen.
        rulers: by attribute, the quantity that a `Ruler` measures.
        image: which image node; the first unless told.
        epochs: passes over the batch for every network.
        seed: of the networks' training.
        progress: show how far it is.
    """
    graph, rulers = batch.graph, dict(rulers or {})
    image = image or graph.images[0]
    pixels = torch.from_numpy(batch.images[image])
    judges: dict[str, Any] = {}
    for name in graph.parents(image):
        if name in rulers:
            judges[name] = Ruler(rulers[name])
        else:
            value = encode_column(graph.node(name), batch.frame[name])
            judges[name] = _fit(graph.node(name), pixels, value, epochs=epochs, seed=seed, progress=progress)
    return judges
