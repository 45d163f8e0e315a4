"""Fitting the mechanisms of a structural causal model to data, node by node, resumable.

Every draw of the training loop is a function of (seed, step), so that a run that was stopped and resumed ends where an
uninterrupted one does.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causalcf.batch import Batch
from causalcf.choice import Choice, Unchosen, candidates, select
from causalcf.encoding import encode
from causalcf.errors import CausalCFError, DataError, StoreError
from causalcf.files import verify, write_directory
from causalcf.graph import Node
from causalcf.mechanism import Mechanism
from causalcf.progress import progress as show_progress
from causalcf.scm import SCM
from causalcf.seeds import RowGenerator, step_generator

__all__ = ["Training", "fit"]

_ATTRIBUTE_STEPS = 1200
_CHOICE_STEPS, _CHOICE_ROWS = 400, 20_000  # at most, while a mechanism is chosen
_FEWEST = 20  # rows below which none is held out, and the simplest mechanism is taken
_DECAY = 0.5  # the last half of a run lowers the learning rate to zero


@dataclass(frozen=True)
class Training:
    """How an image mechanism is trained.

    Args:
        steps: gradient steps; with `minutes` as well, whichever ends first.
        minutes: wall-clock time.
        batch_size: images a step.
        learning_rate: of AdamW, at its highest.
        decorrelate: 0 takes rows as they come. Above it, rows whose attributes have an unusual noise given their own parents
            are drawn more often, with weight exp(decorrelate u^2 / 2), so that parents of the image which drive each other
            are seen apart as far as the data allow. What the image looks like given its parents stays the same; what
            interventions ask for is seen more often.
        ema_decay: of the moving average of the weights, which is what the model keeps.
        checkpoint_minutes: between checkpoints, where there is a directory for them.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    decorrelate: float = 0.0
    ema_decay: float = 0.999
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            object.__setattr__(self, "steps", 10_000)
        for name in ("steps", "minutes", "batch_size", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise DataError(f"{name}={value} makes no sense: it takes a number above zero.")

    def done(self, step: int, seconds: float) -> float:
        """How much of the run is over, 0 to 1."""
        by_step = step / self.steps if self.steps else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return max(by_step, by_time)


def _minibatches(rows: int, size: int, seed: int, stream: str, weights: Tensor | None = None) -> Iterator[Tensor]:
    """Endless passes over the rows, shuffled or drawn by weight: a function of (seed, stream, place)."""
    size = min(size, rows)
    for epoch in itertools.count():
        generator = step_generator(seed, f"{stream}/epoch", epoch)
        if weights is None:
            order = torch.randperm(rows, generator=generator)
        else:
            order = torch.multinomial(weights, rows, replacement=True, generator=generator)
        yield from torch.split(order[: rows - rows % size], size)


def _row_weights(scm: SCM, image: str, values: Mapping[str, Tensor], strength: float) -> Tensor | None:
    """How often each row is drawn, see `Training.decorrelate`; None if all alike."""
    graph, total = scm.graph, torch.zeros(len(values[image]), dtype=torch.float64)
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
    for step, rows in enumerate(_minibatches(len(value), 512, seed, node.name)):
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


class _ImageRun:
    """The state of training one image mechanism: weights, moving average, optimiser, step and seconds so far."""

    def __init__(self, name: str, mechanism: Mechanism, plan: Training, seed: int) -> None:
        from diffusers.training_utils import EMAModel

        self.name, self.mechanism, self.plan, self.seed = name, mechanism, plan, seed
        self.parameters: list[nn.Parameter] = list(mechanism.parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=plan.learning_rate, weight_decay=0.0, betas=(0.9, 0.99))
        self.ema = EMAModel(self.parameters, decay=plan.ema_decay, use_ema_warmup=True, power=0.75)
        self.step, self.seconds = 0, 0.0

    def train_step(self, value: Tensor, parents: Mapping[str, Tensor]) -> float:
        done = self.plan.done(self.step, self.seconds)
        rate = self.plan.learning_rate * min(1.0, (self.step + 1) / 100) * min(1.0, max(1 - done, 0.0) / _DECAY)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        generator = step_generator(self.seed, f"{self.name}/step", self.step)
        loss = self.mechanism.loss(value, parents, generator=generator).mean()
        if not torch.isfinite(loss):
            raise CausalCFError(f"the loss of node '{self.name}' became {float(loss)} at step {self.step}. Lower learning_rate.")
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.ema.step(self.parameters)
        self.step += 1
        return float(loss.detach())

    def save(self, directory: Path) -> None:
        def write(draft: Path) -> None:
            tensors: dict[str, Tensor] = {}
            for place, parameter in enumerate(self.parameters):
                tensors[f"weight.{place}"] = parameter.detach()
                tensors[f"ema.{place}"] = self.ema.shadow_params[place]
                for key, tensor in self.optimiser.state[parameter].items():
                    tensors[f"optimiser.{place}.{key}"] = tensor
            save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, draft / "state.safetensors")
            record = {"step": self.step, "seconds": self.seconds, "seed": self.seed, "ema_steps": self.ema.optimization_step}
            (draft / "run.json").write_text(json.dumps({**record, "plan": asdict(self.plan)}, indent=1))

        write_directory(directory / f"step-{self.step:07d}", write, {})
        for old in sorted(directory.glob("step-*"))[:-2]:
            shutil.rmtree(old)

    def resume(self, directory: Path) -> bool:
        """Continue from the newest checkpoint that is whole; False if there is none."""
        for candidate in sorted(directory.glob("step-*"), reverse=True):
            try:
                verify(candidate)
            except StoreError:
                continue
            record = json.loads((candidate / "run.json").read_text())
            if record["seed"] != self.seed:
                raise StoreError(
                    f"'{candidate}' was trained with seed {record['seed']}, not {self.seed}. Use that seed or another --out."
                )
            tensors = load_file(candidate / "state.safetensors")
            with torch.no_grad():
                for place, parameter in enumerate(self.parameters):
                    parameter.copy_(tensors[f"weight.{place}"])
                    self.ema.shadow_params[place].copy_(tensors[f"ema.{place}"])
                    prefix = f"optimiser.{place}."
                    self.optimiser.state[parameter] = {
                        key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)
                    }
            self.ema.optimization_step = record["ema_steps"]
            self.step, self.seconds = record["step"], record["seconds"]
            return True
        return False


def _fit_image(
    name: str,
    mechanism: Mechanism,
    value: Tensor,
    parents: Mapping[str, Tensor],
    weights: Tensor | None,
    plan: Training,
    seed: int,
    checkpoints: Path | None,
    show: bool,
) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # diffusers' own layers draw their initial weights from torch's global generator
        run = _ImageRun(name, mechanism, plan, seed)
    if checkpoints:
        checkpoints.mkdir(parents=True, exist_ok=True)
        run.resume(checkpoints)
    minibatches = _minibatches(len(value), plan.batch_size, seed, name, weights)
    for _ in range(run.step):
        next(minibatches)
    mechanism.train()
    start, before, saved, mean = time.monotonic(), run.seconds, run.seconds, math.nan
    with show_progress(f"training {name}", 1.0, show=show) as advance:
        try:
            while plan.done(run.step, run.seconds) < 1:
                rows = next(minibatches)
                loss = run.train_step(value[rows], {key: column[rows] for key, column in parents.items()})
                run.seconds = before + time.monotonic() - start
                mean = loss if math.isnan(mean) else 0.99 * mean + 0.01 * loss
                advance(plan.done(run.step, run.seconds), f"step {run.step}, loss {mean:.4f}")
                if checkpoints and run.seconds - saved >= 60 * plan.checkpoint_minutes:
                    run.save(checkpoints)
                    saved = run.seconds
        finally:  # also when the run is over or interrupted: the next one goes on from here
            if checkpoints and run.seconds > saved:
                run.save(checkpoints)
    run.ema.copy_to(run.parameters)
    mechanism.eval()
    for parameter in run.parameters:
        parameter.requires_grad_(False)
    return {
        **asdict(plan),
        "steps": run.step,
        "minutes": round(run.seconds / 60, 1),
        "loss": None if math.isnan(mean) else round(mean, 5),
    }


def fit(
    scm: SCM,
    batch: Batch,
    *,
    seed: int = 0,
    training: Training | None = None,
    checkpoints: str | Path | None = None,
    progress: bool = False,
) -> SCM:
    """Fit every mechanism that has something to learn to the rows of a batch, in place.

    Args:
        scm: its mechanisms are sized and trained.
        batch: attributes for all nodes; images for the image nodes.
        seed: everything random is a function of it.
        training: of the image mechanisms; 10,000 steps unless told.
        checkpoints: a directory for the state of training. A run that finds one there goes on from it.
        progress: show how far it is.

    Returns:
        The same model, fitted.

    Raises:
        DataError: an image node has no images, or a column is constant.
    """
    graph, plan = scm.graph, training or Training()
    without = [name for name in graph.images if name not in batch.images]
    if without:
        raise DataError(
            f"the batch has no images for {', '.join(without)}. Pass Batch(graph, frame, images={{'{without[0]}': pixels}})."
        )
    values = encode(batch)
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
        mechanism.prepare(graph.node(name), [graph.node(parent) for parent in parents], values[name], parents)
        if any(parameter.requires_grad for parameter in mechanism.parameters()):
            place_of = Path(checkpoints) / name if checkpoints else None
            weights = _row_weights(scm, name, values, plan.decorrelate)
            made["images"][name] = _fit_image(name, mechanism, values[name], parents, weights, plan, seed, place_of, progress)
    scm.manifest = {"made": made}
    return scm
