"""Training the mechanism of an image, or an autoencoder, through accelerate: resumable to the bit, in one process or several.

    quantity            function of                      so that
    minibatch           (seed, step)                     a run that is stopped and resumed ends where an uninterrupted one does
    noise, time, mask   (seed, step, row of the batch)   a batch that is divided, over processes or in time, is the same batch

Several processes, started by `torchrun`, each take a part of every batch and add up their gradients. What is kept is a moving
average of the weights.

The weights of layers with many channels are matrices, and Muon moves them, unless AdamW is to move all. K. Jordan et al.,
"Muon: An optimizer for hidden layers in neural networks", 2024, https://kellerjordan.github.io/posts/muon/; J. Liu et al.,
"Muon is Scalable for LLM Training", 2025, https://arxiv.org/abs/2502.16982, for the size of its steps.

accelerate, https://huggingface.co/docs/accelerate, knows the processes, the device and the trackers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causalcf.encoding import EncodedFiles, encode_image
from causalcf.errors import CausalCFError, DataError, StoreError
from causalcf.files import verify, write_directory
from causalcf.precision import Precision, fastest_device, rounding
from causalcf.progress import progress as show_progress
from causalcf.seeds import step_generator

__all__ = ["Precision", "Trainable", "Training", "is_main_process", "minibatches", "train_image"]

OptimiserName = Literal["muon", "adamw"]
_DECAY = 0.5  # the last half of a run lowers the learning rate to zero
_MANY = 16  # channels into a layer and out of it from which on Muon moves its weights
_FASTER = 3.0  # Muon's learning rate in units of AdamW's
_LOG_STEPS = 50  # between two lines of the log
_TOLD_APART = 16  # images by which rows are told from others
_MUCH_FASTER = 1.2  # what bfloat16 must gain to be taken; far from what two timings of the same differ by
_KEPT = ("optimiser", "batch_size", "learning_rate", "decorrelate", "mirror", "ema_decay")  # from a run's start to its end


@dataclass(frozen=True)
class Training:
    """How an image mechanism is trained.

    Args:
        steps: gradient steps; with `minutes` as well, whichever ends first.
        minutes: wall-clock time.
        batch_size: images a step, over all processes.
        learning_rate: at its highest.
        optimiser: `muon`, for the weights of layers with many channels, and AdamW for all else; or `adamw` for all.
        accumulate: parts in which a process takes its share of a batch, one after the other, to need less memory.
        precision: of the products in convolutions, see `causalcf.precision`; `auto` measures at the start and takes bfloat16
            where it is much faster. All else is float32.
        decorrelate: 0 takes rows as they come. Above it, rows whose attributes have an unusual noise given their own parents
            are drawn more often, with weight exp(decorrelate u^2 / 2), so that parents of the image which drive each other
            are seen apart as far as the data allow. What the image looks like given its parents stays the same; what
            interventions ask for is seen more often.
        mirror: show a random half of every batch with left and right exchanged, where that is as likely to be seen.
        ema_decay: of the moving average of the weights, which is what the model keeps.
        checkpoint_minutes: between checkpoints, where there is a directory for them.
        trackers: besides the log, by accelerate's names: `tensorboard`, `mlflow` and others, if they are installed.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    optimiser: OptimiserName = "muon"
    accumulate: int = 1
    precision: Precision = "auto"
    decorrelate: float = 0.0
    mirror: bool = False
    ema_decay: float = 0.999
    checkpoint_minutes: float = 5.0
    trackers: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            object.__setattr__(self, "steps", 10_000)
        for name in ("steps", "minutes", "batch_size", "learning_rate", "accumulate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise DataError(f"{name}={value} makes no sense: it takes a number above zero.")
        if self.precision not in get_args(Precision):
            raise DataError(f"there is no precision '{self.precision}'. Give {', '.join(get_args(Precision))}.")
        if self.optimiser not in get_args(OptimiserName):
            raise DataError(f"there is no optimiser '{self.optimiser}'. Give {', '.join(get_args(OptimiserName))}.")
        trackers = [self.trackers] if isinstance(self.trackers, str) else self.trackers
        object.__setattr__(self, "trackers", tuple(trackers))

    def done(self, step: int, seconds: float) -> float:
        """How much of the run is over, 0 to 1."""
        by_step = step / self.steps if self.steps else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return max(by_step, by_time)


def is_main_process() -> bool:
    """Whether this process is the one that writes; of several that `torchrun` started, one does."""
    from accelerate import PartialState

    return bool(PartialState(cpu=fastest_device().type == "cpu").is_main_process)  # as `_accelerator` asks: the first one counts


def minibatches(rows: int, size: int, seed: int, stream: str, weights: Tensor | None = None) -> Iterator[Tensor]:
    """Endless passes over the rows, shuffled or drawn by weight: a function of (seed, stream, place)."""
    size = min(size, rows)
    for epoch in itertools.count():
        generator = step_generator(seed, f"{stream}/epoch", epoch)
        if weights is None:
            order = torch.randperm(rows, generator=generator)
        else:
            order = torch.multinomial(weights, rows, replacement=True, generator=generator)
        yield from torch.split(order[: rows - rows % size], size)


def _ahead(value: Tensor | EncodedFiles, batches: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The places of every minibatch and its rows; those on disk are read while the minibatch before is trained on.

    The reading thread calls nothing of torch: where a second thread has used OpenMP, the first one's teams no longer wait by
    spinning, and training took half as long again.
    """
    if isinstance(value, Tensor):
        yield from ((rows, value[rows]) for rows in batches)
        return
    with ThreadPoolExecutor(1) as reader:
        rows = next(batches)
        coming = reader.submit(value.read, rows)
        for later in batches:
            here = rows, encode_image(coming.result())
            rows, coming = later, reader.submit(value.read, later)
            yield here


class _Log:
    """What happened, a JSON object a line, and the trackers that were asked for."""

    def __init__(self, accelerator: Any, path: Path | None, plan: Training, name: str, step: int) -> None:
        self.accelerator, self.path = accelerator, path if accelerator.is_main_process else None
        self.told = -1  # the step of the last line
        if self.path is not None and self.path.is_file():  # lines of steps that a killed run lost are written again
            kept = [
                line for line in self.path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step
            ]
            self.path.write_text("".join(f"{line}\n" for line in kept))
        if plan.trackers:
            plain = {key: value for key, value in asdict(plan).items() if isinstance(value, int | float | str)}
            accelerator.init_trackers(f"causalcf-{name}", config=plain)

    def tell(self, run: _ImageRun, **more: Any) -> None:
        """A line on a run, unless it would say no more than the last one; a run that was over has no loss and no rate."""
        known = {} if run.rate_before is None else {"loss": round(run.mean, 6), "rate": run.rate_before}
        if more or (known and run.step != self.told):
            self._write(run.step, seconds=round(run.seconds, 1), **known, **more)
            self.told = run.step

    def _write(self, step: int, **values: Any) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        flat = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
        nested = {f"{key}/{name}": v for key, some in values.items() if isinstance(some, Mapping) for name, v in some.items()}
        self.accelerator.log({**flat, **nested}, step=step)

    def close(self) -> None:
        """Finish the trackers, and not by end_training(), after which no second training of several processes begins."""
        for tracker in self.accelerator.trackers:
            tracker.finish()


def _accelerator(plan: Training, directory: Path | None) -> Any:
    from accelerate import Accelerator
    from accelerate.tracking import get_available_trackers

    available = [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]
    absent = [name for name in plan.trackers if name not in available]
    if absent:
        raise DataError(
            f"there is no tracker {', '.join(absent)}: it is not installed, or accelerate does not know it. "
            f"Installed are: {', '.join(available) or 'none'}. The log, as JSON lines, takes no tracker: it is written wherever "
            "there are checkpoints."
        )
    if plan.trackers and directory is None:
        raise DataError("a tracker needs a place to write to: give fit(..., checkpoints=directory).")
    return Accelerator(cpu=fastest_device().type == "cpu", log_with=list(plan.trackers) or None, project_dir=directory)


class Trainable(Protocol):
    """What can be trained here: a mechanism, or an autoencoder; see `causalcf.Mechanism` for the methods."""

    @property
    def training_settings(self) -> Mapping[str, Any]: ...
    def training_draws(self, value: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]: ...
    def loss(self, value: Tensor, parents: Mapping[str, Tensor], *, generator: Any) -> Tensor: ...
    def validation_losses(self, value: Tensor, parents: Mapping[str, Tensor], *, generator: Any) -> Mapping[str, Tensor]: ...


def _as_matrix(weight: Tensor, like: Tensor) -> Tensor:
    """A layer's weight or its gradient, (out, in, ...), as a matrix with a row an output, in the order of `like` in memory."""
    return weight.reshape(len(weight), -1) if like.is_contiguous() else weight.movedim(1, -1).reshape(len(weight), -1)


class _Optimiser:
    """Muon for the weights of layers with many channels, AdamW for all else.

    Args:
        module: what is trained.
        parameters: those of it that are.
        learning_rate: of the first step.
        name: `adamw` for AdamW alone.
    """

    def __init__(
        self, module: nn.Module, parameters: Sequence[nn.Parameter], learning_rate: float, name: OptimiserName = "muon"
    ) -> None:
        kinds = (nn.Conv2d, nn.Linear) if name == "muon" else ()
        layers = (layer.weight for layer in module.modules() if isinstance(layer, kinds))
        wide = {id(weight) for weight in layers if min(weight.shape[:2]) >= _MANY}
        self.parameters = list(parameters)
        matrices = {place: _as_matrix(p.detach(), p) for place, p in enumerate(self.parameters) if id(p) in wide}
        self.matrices = {  # of those whose memory they share, so that a step moves the weights
            place: nn.Parameter(matrix)
            for place, matrix in matrices.items()
            if matrix.data_ptr() == self.parameters[place].data_ptr()
        }
        others = [p for place, p in enumerate(self.parameters) if place not in self.matrices]
        self.adam = torch.optim.AdamW(others, lr=learning_rate, weight_decay=0.0, betas=(0.9, 0.99))
        self.muon = (
            torch.optim.Muon(self.matrices.values(), lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            if self.matrices
            else None
        )

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, learning_rate: float) -> None:
        """One step along the gradients of the parameters."""
        optimisers: list[torch.optim.Optimizer] = [self.adam, *([self.muon] if self.muon else [])]
        for place, matrix in self.matrices.items():
            gradient = self.parameters[place].grad
            matrix.grad = None if gradient is None else _as_matrix(gradient, self.parameters[place])
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * (_FASTER if optimiser is self.muon else 1.0)
            optimiser.step()

    def state(self, place: int) -> dict[str, Tensor]:
        """What is remembered of a parameter."""
        if place in self.matrices:
            return dict(cast(torch.optim.Optimizer, self.muon).state[self.matrices[place]])
        return dict(self.adam.state[self.parameters[place]])

    def restore(self, place: int, state: dict[str, Tensor]) -> None:
        device = self.parameters[place].device
        state = {key: tensor if key == "step" else tensor.to(device) for key, tensor in state.items()}
        if place in self.matrices:
            cast(torch.optim.Optimizer, self.muon).state[self.matrices[place]] = state
        else:
            self.adam.state[self.parameters[place]] = state


class _ImageRun:
    """The state of training one image mechanism: weights, moving average, optimiser, step and seconds so far."""

    def __init__(self, name: str, mechanism: Trainable, plan: Training, seed: int, accelerator: Any) -> None:
        from diffusers.training_utils import EMAModel

        self.name, self.mechanism, self.plan, self.seed, self.accelerator = name, mechanism, plan, seed, accelerator
        self.module = cast(nn.Module, mechanism).to(accelerator.device)
        self.parameters: list[nn.Parameter] = [p for p in self.module.parameters() if p.requires_grad]
        self.optimiser = _Optimiser(self.module, self.parameters, plan.learning_rate, plan.optimiser)
        self.ema = EMAModel(self.parameters, decay=plan.ema_decay, use_ema_warmup=True, power=0.75)
        self.step, self.seconds, self.whole = 0, 0.0, True  # whole: not amid an update
        self.mean = math.nan  # moving average of the loss
        self.rate_before: float | None = None  # of the last step
        self.precision = plan.precision
        self.data = ""

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        left = max(1 - self.plan.done(self.step, self.seconds), 0.0)
        return self.plan.learning_rate * min(1.0, (self.step + 1) / 100) * min(1.0, left / _DECAY)

    def _loss(self, value: Tensor, parents: Mapping[str, Tensor], generator: Any, precision: str) -> Tensor:
        device = self.accelerator.device
        parents = {key: column.to(device) for key, column in parents.items()}
        with rounding(precision == "bfloat16"):
            loss = self.mechanism.loss(value.to(device), parents, generator=generator)
        return loss.float()

    def _share(self, value: Tensor, parents: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """The losses of this process's rows of a batch, part by part."""
        count, world = len(value), self.accelerator.num_processes
        parts = torch.arange(count).tensor_split(world * self.plan.accumulate)
        generator = step_generator(self.seed, f"{self.name}/step", self.step)
        drawn = self.mechanism.training_draws(value, generator)
        first = self.accelerator.process_index * self.plan.accumulate
        for number in range(first, first + self.plan.accumulate):
            rows = parts[number]
            some: Any = {key: draw[rows] for key, draw in drawn.items()}
            if not drawn:  # a mechanism that draws by itself: a stream for every part of a divided batch
                some = generator if len(parts) == 1 else step_generator(self.seed, f"{self.name}/part {number}", self.step)
            yield self._loss(value[rows], {key: column[rows] for key, column in parents.items()}, some, self.precision)

    def train_step(self, value: Tensor, parents: Mapping[str, Tensor]) -> None:
        """One gradient step on a batch."""
        self.optimiser.zero_grad()
        if self.plan.mirror:
            turned = torch.rand(len(value), generator=step_generator(self.seed, f"{self.name}/mirror", self.step)) < 0.5
            value = torch.where(turned[:, None, None, None], value.flip(-1), value)
        total = 0.0
        for losses in self._share(value, parents):
            loss = losses.sum() / len(value)
            torch.autograd.backward(loss)
            total += float(loss.detach())
        if self.accelerator.num_processes > 1:
            total = self._add_up(total)
        if not math.isfinite(total):
            raise CausalCFError(f"the loss of node '{self.name}' became {total} at step {self.step}. Lower learning_rate.")
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.whole, self.rate_before = False, self.rate
        self.optimiser.step(self.rate_before)
        self.ema.step(self.parameters)
        self.mean = total if math.isnan(self.mean) else 0.99 * self.mean + 0.01 * total
        self.step += 1
        self.whole = True

    def _add_up(self, total: float) -> float:
        """Sum gradients and loss over the processes, in one message."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([*(grad.flatten() for grad in grads), torch.tensor([total], device=grads[0].device)])
        flat = self.accelerator.reduce(flat, reduction="sum")
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, grad in zip(self.parameters, torch.split(flat[:-1], sizes), strict=True):
            parameter.grad = grad.view_as(parameter)
        return float(flat[-1])

    def same_everywhere(self, number: float) -> float:
        """The main process's number, in every process."""
        if self.accelerator.num_processes == 1:
            return number
        from accelerate.utils import broadcast

        return float(broadcast(torch.tensor([number], dtype=torch.float64, device=self.accelerator.device)))

    def choose_precision(self, value: Tensor, parents: Mapping[str, Tensor]) -> None:
        """Settle `auto`: the fastest of two passes forth and back in either precision decides."""
        if self.precision != "auto":
            return

        def timed(precision: str) -> float:
            times = []
            for _ in range(3):  # the first one also warms up
                start = time.perf_counter()
                generator = step_generator(self.seed, f"{self.name}/timing", 0)
                torch.autograd.backward(self._loss(value, parents, generator, precision).mean())
                if self.accelerator.device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            self.optimiser.zero_grad()
            return min(times[1:])

        gain = self.same_everywhere(timed("float32") / timed("bfloat16"))
        self.precision = "bfloat16" if gain > _MUCH_FASTER else "float32"

    def save(self, directory: Path) -> None:
        if not self.accelerator.is_main_process:
            return

        def write(draft: Path) -> None:
            tensors: dict[str, Tensor] = {}
            for place, parameter in enumerate(self.parameters):
                tensors[f"weight.{place}"] = parameter.detach()
                tensors[f"ema.{place}"] = self.ema.shadow_params[place]
                for key, tensor in self.optimiser.state(place).items():
                    tensors[f"optimiser.{place}.{key}"] = tensor
            save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, draft / "state.safetensors")
            record = {"step": self.step, "seconds": self.seconds, "seed": self.seed, "ema_steps": self.ema.optimization_step}
            record |= {"precision": self.precision, "plan": asdict(self.plan), "data": self.data}
            record |= {"settings": self.mechanism.training_settings, "loss": None if math.isnan(self.mean) else self.mean}
            (draft / "run.json").write_text(json.dumps(record, indent=1))

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
            if "precision" not in record:
                raise StoreError(
                    f"'{candidate}' was written by an older causalcf. Use another --out, or the version that wrote it."
                )
            if record["seed"] != self.seed:
                raise StoreError(
                    f"'{candidate}' was trained with seed {record['seed']}, not {self.seed}. Use that seed or another --out."
                )
            if record.get("data", self.data) != self.data:
                raise StoreError(
                    f"'{candidate}' was trained on other rows than these. Use another --out, or remove it to begin again."
                )
            plan = {"optimiser": "adamw", **record["plan"]}  # before there was a choice
            for setting in _KEPT:
                before, now = plan.get(setting, getattr(self.plan, setting)), getattr(self.plan, setting)
                if before != now:
                    raise StoreError(f"'{candidate}' was trained with {setting}={before}, not {now}. Use that, or another --out.")
            if self.plan.precision not in ("auto", record["precision"]):
                raise StoreError(
                    f"'{candidate}' was trained in {record['precision']}, not {self.plan.precision}. Use that or another --out."
                )
            settings = json.loads(json.dumps(self.mechanism.training_settings))
            if record.get("settings", settings) != settings:
                raise StoreError(f"'{candidate}' was trained as {record['settings']}, not {settings}. Use another --out.")
            tensors = load_file(candidate / "state.safetensors")
            with torch.no_grad():
                for place, parameter in enumerate(self.parameters):
                    parameter.copy_(tensors[f"weight.{place}"])
                    self.ema.shadow_params[place].copy_(tensors[f"ema.{place}"])
                    prefix = f"optimiser.{place}."
                    kept = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
                    self.optimiser.restore(place, kept)
            self.ema.optimization_step = record["ema_steps"]
            self.step, self.seconds, self.precision = record["step"], record["seconds"], record["precision"]
            self.mean = math.nan if record.get("loss") is None else record["loss"]
            return True
        return False

    def look(self, held_out: tuple[Tensor, Mapping[str, Tensor]] | None, watch: Callable[[int], None] | None) -> dict[str, float]:
        """The losses on held-out rows under every mask, with the averaged weights, which `watch` may look at too."""
        if not self.accelerator.is_main_process:
            return {}
        losses: dict[str, float] = {}
        trained = [parameter.data for parameter in self.parameters]  # the optimiser holds on to these very tensors
        try:
            for parameter, average in zip(self.parameters, self.ema.shadow_params, strict=True):
                parameter.data = average.detach()
            self.module.eval()
            if held_out is not None:
                value, parents = held_out
                generator = step_generator(self.seed, f"{self.name}/validation", 0)
                found = self.mechanism.validation_losses(value, parents, generator=generator)
                losses = {mask: round(float(loss.mean()), 6) for mask, loss in found.items()}
            if watch is not None:
                watch(self.step)
        finally:
            self.module.train()
            for parameter, tensor in zip(self.parameters, trained, strict=True):
                parameter.data = tensor
        return losses


def _digest(value: Tensor | EncodedFiles, parents: Mapping[str, Tensor]) -> str:
    """What tells training rows from others: how many they are, their attributes, and some of their images."""
    some = torch.linspace(0, len(value) - 1, min(_TOLD_APART, len(value))).long()
    told = hashlib.sha256(value[some].numpy().tobytes() + str(len(value)).encode())
    for name, column in parents.items():
        told.update(name.encode() + column.numpy().tobytes())
    return told.hexdigest()


def _begin(
    name: str,
    mechanism: Trainable,
    value: Tensor | EncodedFiles,
    parents: Mapping[str, Tensor],
    plan: Training,
    seed: int,
    checkpoints: Path | None,
) -> _ImageRun:
    """A run at its first step, or where its newest checkpoint left it, with its precision settled."""
    accelerator = _accelerator(plan, checkpoints)
    parts, size = accelerator.num_processes * plan.accumulate, min(plan.batch_size, len(value))
    if size < parts:
        raise DataError(
            f"a batch of {size} images cannot be divided by {accelerator.num_processes} processes "
            f"and accumulate={plan.accumulate}. Raise batch_size."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # diffusers' own layers draw their initial weights from torch's global generator
        run = _ImageRun(name, mechanism, plan, seed, accelerator)
    run.data = _digest(value, parents)
    if checkpoints:
        checkpoints.mkdir(parents=True, exist_ok=True)
        run.resume(checkpoints)
    run.module.train()
    together = slice(0, -(-size // parts))  # what goes through the network together
    run.choose_precision(value[together], {key: column[together] for key, column in parents.items()})
    return run


def train_image(
    name: str,
    mechanism: Trainable,
    value: Tensor | EncodedFiles,
    parents: Mapping[str, Tensor],
    *,
    plan: Training,
    seed: int,
    weights: Tensor | None = None,
    held_out: tuple[Tensor, Mapping[str, Tensor]] | None = None,
    watch: Callable[[int], None] | None = None,
    checkpoints: Path | None = None,
    show: bool = False,
) -> dict[str, Any]:
    """Train a mechanism in place; what it took, for the manifest.

    Args:
        name: of the node.
        mechanism: prepared.
        value, parents: training rows, in model space.
        plan: the settings.
        seed: everything random is a function of it.
        weights: how often each row is drawn, (row,).
        held_out: rows whose losses are logged at every checkpoint.
        watch: called with the step at every checkpoint, while the mechanism has its averaged weights.
        checkpoints: where the state and the log, `log.jsonl`, are kept; without it there is neither.
        show: progress.
    """
    run = _begin(name, mechanism, value, parents, plan, seed, checkpoints)
    log = _Log(run.accelerator, checkpoints and checkpoints / "log.jsonl", plan, name, run.step)
    losses: dict[str, float] = {}

    def keep() -> None:
        nonlocal losses
        if checkpoints:
            run.save(checkpoints)
        losses = run.look(held_out, watch)
        if losses:
            log.tell(run, validation=losses)

    batches = minibatches(len(value), plan.batch_size, seed, name, weights)
    minibatch = _ahead(value, itertools.islice(batches, run.step, None))
    start, before, saved = time.monotonic(), run.seconds, run.seconds
    with show_progress(f"training {name}", 1.0, show=show and run.accelerator.is_main_process) as advance:
        try:
            while plan.done(run.step, run.seconds) < 1:
                rows, some_values = next(minibatch)
                run.train_step(some_values, {key: column[rows] for key, column in parents.items()})
                run.seconds = run.same_everywhere(before + time.monotonic() - start)
                advance(plan.done(run.step, run.seconds), f"step {run.step}, loss {run.mean:.4f}")
                if run.step % _LOG_STEPS == 0:
                    log.tell(run)
                if checkpoints and run.seconds - saved >= 60 * plan.checkpoint_minutes:
                    keep()
                    saved = run.same_everywhere(before + time.monotonic() - start)  # looking may take longer than an interval
        except BaseException:  # stopped, or failed: the next run goes on from here
            if checkpoints and run.whole and run.seconds > saved:
                run.save(checkpoints)
            raise
    keep()
    log.tell(run)
    log.close()
    run.ema.copy_to(run.parameters)
    run.module.to("cpu").eval()
    for parameter in run.parameters:
        parameter.requires_grad_(False)
    return {
        **asdict(plan),
        "precision": run.precision,
        "steps": run.step,
        "minutes": round(run.seconds / 60, 1),
        "processes": run.accelerator.num_processes,
        "loss": None if math.isnan(run.mean) else round(run.mean, 5),
        "validation": losses,
    }
