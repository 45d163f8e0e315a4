"""Named studies: which data a model is fitted to, with which settings, and which judges score it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalcf.attributes.categorical import Categorical
from causalcf.attributes.flow import Flow
from causalcf.batch import Batch
from causalcf.datasets.fashion_mnist import FashionMNIST
from causalcf.datasets.morphomnist import MorphoMNIST, Split
from causalcf.datasets.readers import is_study
from causalcf.datasets.released import Released, spread
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, load_graph
from causalcf.guidance import Decoupled, parse_guidance
from causalcf.scm import SCM
from causalcf.solvers import DPMSolverPP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from causalcf.query import Counterfactual

__all__ = ["RECIPES", "Recipe", "at_size", "recipe", "recipe_for"]

_SMALL = 64  # pixels a side


def _morphomnist_batch(split: Split, rows: int, seed: int, jobs: int) -> Batch:
    data = MorphoMNIST(split, seed=seed)
    frame = data.frame(rows)
    deform = 0.0 if split in ("valid", "test") else 0.1
    return Batch(load_graph("morphomnist"), frame, {"image": data.images(frame, deform=deform, jobs=jobs)})


def _morphomnist_scm() -> SCM:
    from causalcf.image import Diffusion

    return SCM(
        load_graph("morphomnist"),
        {
            "thickness": Flow(),
            "intensity": Flow(),
            "digit": Categorical(),
            "image": Diffusion(
                channels=(32, 96, 160),
                attention=True,
                norm_num_groups=2,
                min_snr=5.0,
                steps=15,
                solver=DPMSolverPP(draw_flat=0.2),
                guidance=parse_guidance("nested:thickness=1.5,digit=2.5|thickness=1.4,intensity=1.4,digit=1.3@200-999"),
            ),
        },
    )


def _fashion_mnist_batch(split: Split, rows: int, seed: int, jobs: int) -> Batch:
    data = FashionMNIST(split)
    frame = data.frame(rows, seed=seed)
    return Batch(load_graph("fashion_mnist"), frame, {"image": data.images(frame)})


def _fashion_mnist_scm() -> SCM:
    from causalcf.image import Diffusion

    guidance = Decoupled(1.0, form="nested", weights={"garment": 2.0})
    return SCM(load_graph("fashion_mnist"), {"intensity": Flow(), "image": Diffusion(steps=30, guidance=guidance)})


def _morphomnist_truth(answer: Counterfactual) -> NDArray[np.uint8] | None:
    """Another digit in the same hand does not exist; another thickness or intensity of the same digit does."""
    return None if "digit" in answer.do else MorphoMNIST("test").images(answer.frame)


@dataclass(frozen=True)
class Recipe:
    """A study: its data, its model and how it is trained.

    Attributes:
        draw: (split, rows, seed, jobs) to a batch.
        scm: an unfitted model.
        rows: of training data.
        judge_rows: of the judges' training data, from a split of their own.
        rulers: by attribute, the quantity that a `Ruler` measures; the other judges are networks.
        judging: settings of `causalcf.fit_judges` for those.
        truth: the true counterfactual images of an answer, or None where the study's equations do not say.
        training: settings of `causalcf.Training`, but for its length.
    """

    draw: Callable[[Split, int, int, int], Batch]
    scm: Callable[[], SCM]
    rows: int
    judge_rows: int
    rulers: Mapping[str, str] = field(default_factory=dict)
    judging: Mapping[str, Any] = field(default_factory=dict)
    truth: Callable[[Counterfactual], NDArray[np.uint8] | None] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def batch(self, split: Split = "test", rows: int = 64, seed: int = 0, jobs: int = 1) -> Batch:
        """Rows of one split of the study's data, checked against its graph; `jobs` processes draw them."""
        return self.draw(split, rows, seed, jobs)


RECIPES: dict[str, Recipe] = {
    "morphomnist": Recipe(
        _morphomnist_batch,
        _morphomnist_scm,
        rows=52_000,
        judge_rows=14_400,
        rulers={"thickness": "thickness", "intensity": "intensity"},
        judging={"epochs": 16, "deform": 0.12, "contrast": 0.3},
        truth=_morphomnist_truth,
        training={"decorrelate": 0.6, "optimiser": "adamw"},  # as the shipped weights were made
    ),
    "fashion_mnist": Recipe(
        _fashion_mnist_batch,
        _fashion_mnist_scm,
        rows=48_000,
        judge_rows=10_000,
        rulers={"intensity": "intensity"},
        judging={"deform": 0.05},
        training={"decorrelate": 0.6},
    ),
}


def recipe(name: str) -> Recipe:
    """A study by name, or a DataError that lists what there is."""
    if name not in RECIPES:
        raise DataError(f"there is no study '{name}'. Studies are: {', '.join(RECIPES)}.")
    return RECIPES[name]


def at_size(graph: CausalGraph, directory: str | Path, *, size: int | None = None, small: bool = True) -> CausalGraph:
    """A graph whose image is as large as a network is to see it.

    Args:
        graph: of a study or a folder.
        directory: of the data. Those of a study are read at 64 pixels a side at most, unless the network is a large one.
        size: pixels a side, if it is told.
        small: whether the network is to be one that two cores can train.
    """
    if size is not None:
        return graph.resized(size)
    side = _side(graph) if graph.images else 0
    return graph.resized(_SMALL) if small and side > _SMALL and is_study(graph, directory) else graph


def _side(graph: CausalGraph) -> int:
    """Pixels of the longer side of a graph's image."""
    return max((graph.node(graph.images[0]).shape or (1, _SMALL, _SMALL))[1:])


def _network(graph: CausalGraph, small: bool) -> dict[str, Any]:
    """Settings of the denoiser for the size of a graph's image: what the studies before used, or what two cores can train."""
    from causalcf.image import halved

    _, height, width = graph.node(graph.images[0]).shape or (1, 32, 32)
    if not small:  # base width 64 and multipliers 1, 2, 4, 8 at 64x64; 96 and 1, 1, 2, 2, 4, 4 at 192x192
        channels = (64, 128, 256, 512) if max(height, width) <= _SMALL else (96, 96, 192, 192, 384, 384)
        return {"channels": channels, "patch": 1, "layers": 2, "attention": 16}
    common = math.gcd(height, width)
    patches = (size for size in range(1, common + 1) if common % size == 0)
    patch = min(patches, key=lambda size: abs(math.log(max(height, width) / size / 16)))  # so that the network sees about 16x16
    return {"channels": halved((48, 96, 160), common // patch), "patch": patch, "attention": True}


def recipe_for(released: Released, *, small: bool = True) -> Recipe:
    """A study of data on disk: how a model of the graph is fitted to them.

    Args:
        released: from a reader, see `causalcf.read_study`, or from a folder, see `causalcf.datasets.folder.split_folder`.
        small: a network that two cores can train; without, one of the size that the studies before used.

    Raises:
        DataError: a split has no rows.
    """
    graph = released.batch.graph

    def draw(split: Split, rows: int, seed: int, jobs: int) -> Batch:
        part = spread(released.split(split), rows)
        return part if split == "train" else part.loaded()

    def scm() -> SCM:
        from causalcf.image import Diffusion

        guidance, solver = Decoupled(1.5, form="nested"), DPMSolverPP(draw_flat=0.0)
        return SCM(graph, {graph.images[0]: Diffusion(**_network(graph, small), steps=25, solver=solver, guidance=guidance)})

    training: dict[str, Any] = {"mirror": True} if graph.name.startswith("celeba") else {}  # a face may look either way
    if small:
        training |= {"steps": 2500, "decorrelate": 0.6}
    else:
        training |= {
            "batch_size": 32 if _side(graph) > _SMALL else 128,
            "learning_rate": 1e-4,
            "ema_decay": 0.9999,
            "optimiser": "adamw",
        }
    return Recipe(
        draw,
        scm,
        rows=len(released.split("train")),
        judge_rows=min(len(released.split("judge")), 20_000),
        training=training,
    )
