"""Fitting the mechanisms of a structural causal model to data, node by node; images are trained by `causalcf.trainer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from causalcf.autoencoder import Autoencoder
from causalcf.batch import Batch
from causalcf.choice import Choice, Unchosen, candidates, select
from causalcf.encoding import encode, encode_image, encode_rows
from causalcf.errors import CausalCFError, DataError
from causalcf.graph import Node
from causalcf.mechanism import Mechanism
from causalcf.progress import progress as show_progress
from causalcf.scm import SCM, check_same_graph
from causalcf.seeds import RowGenerator, step_generator
from causalcf.trainer import Training, minibatches, train_image

__all__ = ["fit", "fit_autoencoder"]

_ATTRIBUTE_STEPS = 1200
_CHOICE_STEPS, _CHOICE_ROWS = 400, 20_000  # at most, while a mechanism is chosen
_FEWEST = 20  # rows below which none is held out, and the simplest mechanism is taken


def _row_weights(scm: SCM, image: str, values: Mapping[str, Tensor], rows: int, strength: float) -> Tensor | None:
    """How often each row is drawn, see `Training.decorrelate`; None if all alike."""
    graph, total = scm.graph, torch.zeros(rows, dtype=torch.float64)
    for name in graph.parents(image):
        if graph.node(name).kind == "continuous" and graph.parents(name):
            parents = {parent: values[parent] for parent in graph.parents(name)}
            keys = RowGenerator(0, np.zeros(len(total), dtype=np.uint64))  # a continuous value determines its noise
            noise, prior = scm.mechanisms[name].abduct(values[name], parents, generator=keys), scm.mechanisms[name].noise_prior()
            if not isinstance(prior, dist.Normal):
                noise = torch.special.ndtri(prior.cdf(noise))
            total += noise.square().clamp(max=9.0) / 2
    return torch.exp(strength * total) if strength and total.any() else None


def _fit_attribute(
    node: Node,
    parent_nodes: Sequence[Node],
    mechanism: Mechanism,
    value: Tensor,
    parents: Mapping[str, Tensor],
    seed: int,
    steps: int,
) -> None:
    """Size a mechanism on its data and, unless it has a closed form, descend its loss."""
    mechanism.prepare(node, parent_nodes, value, parents)
    learned = [parameter for parameter in mechanism.parameters() if parameter.requires_grad]
    if not learned:
        return
    optimiser = torch.optim.Adam(learned, lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step, rows in enumerate(minibatches(len(value), 512, seed, node.name)):
        if step == steps:
            break
        loss = mechanism.loss(value[rows], {key: column[rows] for key, column in parents.items()}, generator=None).mean()
        if not torch.isfinite(loss):
            raise CausalCFError(
                f"the loss of node '{node.name}' became {float(loss)} at step {step}. Look for extreme values in its column."
            )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()


def _held_out(
    node: Node, parent_nodes: Sequence[Node], mechanism: Mechanism, value: Tensor, parents: Mapping[str, Tensor], seed: int
) -> Tensor | str:
    """What a candidate loses on rows that it was not fitted to, (row,), or why it cannot be fitted."""
    kept = len(value) - max(1, len(value) // 5)
    try:
        some = {key: column[:kept] for key, column in parents.items()}
        _fit_attribute(node, parent_nodes, mechanism, value[:kept], some, seed, _CHOICE_STEPS)
        with torch.no_grad():
            loss = mechanism.loss(value[kept:], {key: column[kept:] for key, column in parents.items()}, generator=None)
    except (CausalCFError, ValueError) as error:
        return str(error)
    return loss if bool(torch.isfinite(loss).all()) else "a held-out row has no likelihood under it"


def _choose(
    node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Mapping[str, Tensor], seed: int
) -> tuple[Mechanism, Choice]:
    """The candidate that predicts held-out rows best, not yet fitted to all of them."""
    order = torch.randperm(len(value), generator=step_generator(seed, f"{node.name}/choice", 0))[:_CHOICE_ROWS]
    some = {key: column[order] for key, column in parents.items()}
    found = candidates(node, parent_nodes)
    losses: dict[str, Tensor | str] = {}
    if len(found) > 1 and len(order) >= _FEWEST:
        losses = {name: _held_out(node, parent_nodes, mechanism, value[order], some, seed) for name, mechanism in found.items()}
        choice = select(node, losses, max(1, len(order) // 5))
    else:
        name, nothing = next(iter(found)), dict.fromkeys(found)
        reason = "it is the only candidate" if len(found) == 1 else f"{len(value)} rows are too few to hold some out"
        choice = Choice(name, nothing, nothing, {name: reason}, 0)
    return candidates(node, parent_nodes)[choice.chosen], choice


def _held_out_image(scm: SCM, name: str, validation: Batch | None) -> tuple[Tensor, Mapping[str, Tensor]] | None:
    if validation is None:
        return None
    if name not in validation.images:
        raise DataError(f"the validation batch has no images for '{name}'. Pass Batch(graph, frame, images={{...}}).")
    values = encode(validation)
    return values[name], {parent: values[parent] for parent in scm.graph.parents(name)}


def fit(
    scm: SCM,
    batch: Batch,
    *,
    seed: int = 0,
    training: Training | None = None,
    checkpoints: str | Path | None = None,
    validation: Batch | None = None,
    watch: Callable[[SCM, int], None] | None = None,
    progress: bool = False,
) -> SCM:
    """Fit every mechanism that has something to learn to the rows of a batch, in place.

    Args:
        scm: its mechanisms are sized and trained.
        batch: attributes for all nodes; images for the image nodes.
        seed: everything random is a function of it.
        training: of the image mechanisms; 10,000 steps unless told.
        checkpoints: a directory for the state of training and its log, `log.jsonl` for every image node. A run that finds a
            state there goes on from it.
        validation: rows that are not trained on, with images. Their loss under every mask is logged at every checkpoint; that a
            parent is worth showing is the gap between `none` and `only` it.
        watch: called at every checkpoint of an image, and at its end, with the model as it is and the step: for previews.
        progress: show how far it is.

    Returns:
        The same model, fitted.

    Raises:
        DataError: an image node has no images, or a column is constant.
    """
    check_same_graph(scm, batch)
    graph, plan = scm.graph, training or Training()
    without = [name for name in graph.images if name not in batch.images]
    if without:
        raise DataError(
            f"the batch has no images for {', '.join(without)}. Pass Batch(graph, frame, images={{'{without[0]}': pixels}})."
        )
    values = encode(batch.without_images())
    made: dict[str, Any] = {"seed": seed, "rows": len(batch), "images": {}, "choices": {}}
    attributes = [name for name in graph.order if graph.node(name).kind != "image"]
    with show_progress("attributes", len(attributes), show=progress and len(attributes) > 0) as advance:
        for place, name in enumerate(attributes):
            advance(place, name)
            node, parents = graph.node(name), {parent: values[parent] for parent in graph.parents(name)}
            parent_nodes = [graph.node(parent) for parent in parents]
            if isinstance(scm.mechanisms[name], Unchosen):
                scm.mechanisms[name], choice = _choose(node, parent_nodes, values[name], parents, seed)
                made["choices"][name] = choice.to_dict()
            _fit_attribute(node, parent_nodes, scm.mechanisms[name], values[name], parents, seed, _ATTRIBUTE_STEPS)
    for name in graph.images:
        mechanism, parents = scm.mechanisms[name], {parent: values[parent] for parent in graph.parents(name)}
        pixels = encode_rows(batch.images[name])
        mechanism.prepare(graph.node(name), [graph.node(parent) for parent in parents], cast(Tensor, pixels), parents)
        if any(parameter.requires_grad for parameter in mechanism.parameters()):
            made["images"][name] = train_image(
                name,
                mechanism,
                pixels,
                parents,
                plan=plan,
                seed=seed,
                weights=_row_weights(scm, name, values, len(batch), plan.decorrelate),
                held_out=_held_out_image(scm, name, validation),
                watch=None if watch is None else partial(watch, scm),
                checkpoints=Path(checkpoints) / name if checkpoints else None,
                show=progress,
            )
    scm.manifest = {"made": made}
    return scm


def fit_autoencoder(
    autoencoder: Autoencoder,
    batch: Batch,
    *,
    image: str | None = None,
    seed: int = 0,
    training: Training | None = None,
    checkpoints: str | Path | None = None,
    validation: Batch | None = None,
    progress: bool = False,
) -> Autoencoder:
    """Train an autoencoder on the images of a batch, in place, to be given to `Diffusion(autoencoder=...)`.

    Args:
        autoencoder: to be trained; afterwards its weights are fixed.
        batch: with images.
        image: which image node; the first unless told.
        seed: everything random is a function of it.
        training: 10,000 steps unless told.
        checkpoints: a directory for the state of training and its log. A run that finds a state there goes on from it.
        validation: rows that are not trained on; the error of their round trip is logged.
        progress: show how far it is.

    Raises:
        DataError: there are no images, or they do not fit the autoencoder.
    """
    name = image or next(iter(batch.graph.images), "image")
    if name not in batch.images:
        raise DataError(f"the batch has no images for '{name}'. Pass Batch(graph, frame, images={{...}}).")
    value = encode_rows(batch.images[name])
    autoencoder.shape(value.shape[1:])
    held_out = None if validation is None else (encode_image(validation.images[name]), dict[str, Tensor]())
    place_of = Path(checkpoints) / "autoencoder" if checkpoints else None
    train_image(
        "autoencoder", autoencoder, value, {}, plan=training or Training(), seed=seed, held_out=held_out, checkpoints=place_of,
        show=progress,
    )  # fmt: skip
    autoencoder.settle(value[slice(0, 1024)])
    return autoencoder
