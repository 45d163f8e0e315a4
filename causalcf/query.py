"""Counterfactuals: abduct the noise of the factual rows, act, predict what the intervention reaches (rung 3)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causalcf.batch import Batch
from causalcf.encoding import decode, decode_column, decode_image, encode_column, encode_image
from causalcf.errors import AbductionError, DataError
from causalcf.evidence import Posterior, infer_missing
from causalcf.guidance import Guidance
from causalcf.interventions import Do, Policy, resolve
from causalcf.metrics import image_distance
from causalcf.progress import progress as show_progress
from causalcf.scm import SCM, check_graph
from causalcf.seeds import RowGenerator, row_keys
from causalcf.solvers import Solver
from causalcf.tables import write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Abduction", "Counterfactual", "abduct", "choose_steps", "counterfactual", "reconstruct"]

CHUNK, _TABLE_ROWS = 64, 65_536  # rows that are in memory in model space at a time, with images and without
_STEPS = (10, 15, 20, 25, 30, 40, 50)  # counts of noise levels that `choose_steps` tries


@dataclass(frozen=True)
class Abduction:
    """The noise that explains a batch: computed once, it answers any number of interventions.

    Attributes:
        scm: the model, with the settings it was abducted under.
        factual: the batch.
        noise: (row, *noise) by node, in model space.
        diagnostics: see `Counterfactual`.
    """

    scm: SCM
    factual: Batch
    noise: Mapping[str, Tensor]
    diagnostics: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __repr__(self) -> str:
        return f"Abduction({self.factual!r}, nodes=[{', '.join(self.noise)}])"


@dataclass(frozen=True)
class Counterfactual:
    """The answer to: what would these rows have been, had `do` been so?

    Attributes:
        frame: counterfactual attributes in the user's units, the factual index and further columns kept.
        images: counterfactual images, uint8, (row, channel, height, width).
        factual: the batch that was asked about.
        do: the value that every row got at every intervened node.
        changed: the nodes that the intervention reaches, the intervened ones included.
        identified: whether the row's answer is decided by the data and the graph. It is not where a latent confounder, or the
            noise assumption of a discrete mechanism, could change it. A row that the intervention leaves as it was is: what
            happened is what would have happened.
        why_not: the reasons, by node or bidirected edge.
        draws: where rows missed attributes, their completed and counterfactual rows, one a draw from the posterior given what
            was observed, indexed by (draw, row). In `frame` such a row has the mean of its draws, or the most frequent label; its
            image is that of the first draw.
        inferred: what is known of every missing factual value, see `causalcf.evidence.Posterior.summary`.
        diagnostics: what the image took, a row each: `image.evaluations` of the network in abduction, the largest
            `image.residual` of its equations (in units of the noise; NaN where the solver solves none), `image.noise_std`, the
            standard deviation of its noise, ideally 1, `image.drawn`, the share of its pixels whose noise is a draw because
            they are flat, and `image.prediction_evaluations`. Without an image no columns.
    """

    frame: pd.DataFrame
    images: Mapping[str, NDArray[np.uint8]]
    factual: Batch
    do: Mapping[str, pd.Series]
    changed: frozenset[str]
    identified: pd.Series
    why_not: Mapping[str, str]
    draws: pd.DataFrame | None = None
    inferred: pd.DataFrame | None = None
    diagnostics: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __repr__(self) -> str:
        return f"Counterfactual(rows={len(self.frame)}, do=[{', '.join(self.do)}], changed=[{', '.join(sorted(self.changed))}])"

    @property
    def batch(self) -> Batch:
        """The counterfactual as a batch, to ask further questions of."""
        return Batch(self.factual.graph, self.frame, self.images)

    def to_folder(self, directory: str | Path, *, image: str | None = None) -> Path:
        """Write the images as PNG files, `00000.png` and so on, and the attributes as `metadata.csv`: what `read_folder` reads.

        Args:
            directory: made if it is not there.
            image: the image node; the only one unless told.

        Returns:
            The directory. The table has the factual rows' names in its first column, `factual` if they were file names.

        Raises:
            DataError: there are no images, or the directory cannot be written to.
        """
        from PIL import Image

        name = image or next(iter(self.images), "")
        if name not in self.images:
            raise DataError(f"there are no counterfactual images{f' of {name}' if name else ''}: the batch came without.")
        directory, index = Path(directory), self.frame.index
        files = [f"{place:05d}.png" for place in range(len(self.frame))]
        key = "factual" if index.name in (None, "file_name") else index.name
        frame = self.frame.drop(columns=["file_name", key], errors="ignore").assign(identified=self.identified)
        frame.insert(0, "file_name", files)
        frame.index = index.rename(key)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for file, pixels in zip(files, self.images[name], strict=True):
                Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(directory / file)
        except OSError as error:
            raise DataError(f"cannot write to '{directory}': {error.strerror}. Choose another directory.") from error
        write_table(frame, directory / "metadata.csv")
        return directory


def _chunks(batch: Batch) -> Iterator[slice]:
    size = CHUNK if batch.images else _TABLE_ROWS
    return (slice(start, min(start + size, len(batch))) for start in range(0, len(batch), size))


class _Columns:
    """The nodes that a batch holds, in model space, some rows at a time."""

    def __init__(self, batch: Batch, names: Collection[str] | None = None) -> None:
        graph = batch.graph
        wanted = [name for name in graph.order if names is None or name in names]
        self.nodes = [graph.node(name) for name in wanted if graph.node(name).kind != "image"]
        self.columns = {node.name: batch.frame[node.name] for node in self.nodes}
        self.plain = {  # numbers skip the table for every chunk but the first
            node.name: self.columns[node.name].to_numpy(np.float64) for node in self.nodes if not node.discrete
        }
        self.images = {name: batch.images[name] for name in wanted if name in batch.images}

    def rows(self, rows: slice) -> dict[str, Tensor]:
        values = {
            node.name: encode_column(node, self.columns[node.name].iloc[rows] if node.discrete else self.plain[node.name][rows])
            for node in self.nodes
        }
        return values | {name: encode_image(pixels[rows]) for name, pixels in self.images.items()}


def _generator(batch: Batch, rows: slice, seed: int) -> RowGenerator:
    return RowGenerator(seed, row_keys(batch.frame.index[rows]), "abduct")


def abduct(scm: SCM, batch: Batch, *, seed: int = 0, progress: bool = False) -> Abduction:
    """The noise of every row, to be reused over interventions.

    Args:
        scm: fitted.
        batch: the factual rows.
        seed: for nodes whose value does not determine their noise; a row's draw is a function of it and of its index.
        progress: show how far it is.

    Raises:
        DataError: a row misses an attribute; `counterfactual` infers it.
    """
    check_graph(scm, batch)
    if batch.incomplete.any():
        raise DataError(
            f"{batch.incomplete.sum()} rows miss an attribute: their noise is not one but a distribution. "
            "Ask counterfactual(), which draws from it, or drop the rows."
        )
    pieces, columns, told = [], _Columns(batch), _Told()
    with show_progress("abduction", len(batch), show=progress) as advance:
        for rows in _chunks(batch):
            pieces.append(scm.abduct(columns.rows(rows), _generator(batch, rows, seed), trace=told.next()))
            advance(rows.stop, "")
    noise = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    return Abduction(scm, batch, noise, told.frame(batch.frame.index))


def choose_steps(
    scm: SCM, batch: Batch, *, tolerance: float = 0.5, rows: int = 32, solver: Solver | None = None, seed: int = 0
) -> int:
    """The fewest noise levels with which images come back from their noise as they were; what `steps="auto"` asks.

    Tried are 10, 15, 20, 25, 30, 40 and 50.

    Args:
        scm: fitted, with an image node.
        batch: with images; the first rows of it that miss no attribute are tried.
        tolerance: the largest accepted mean absolute difference, grey level.
        rows: how many are tried.
        solver: of the image; the model's own unless told.
        seed: of the abduction.

    Raises:
        AbductionError: no count of levels is good enough; the best one is named.
    """
    if not batch.images:
        raise DataError("steps='auto' tries the images of the batch, and it has none.")
    if batch.incomplete.all():
        raise DataError("steps='auto' tries rows that miss no attribute, and the batch has none. Say how many steps.")
    some = batch.rows(np.flatnonzero(~batch.incomplete)[:rows])
    found: dict[int, float] = {}
    for steps in _STEPS:
        again = reconstruct(abduct(scm.configured(steps=steps, solver=solver), some, seed=seed))
        found[steps] = max(float(image_distance(again.images[name], some.images[name]).mean()) for name in some.images)
        if found[steps] <= tolerance:
            return steps
    best = min(found, key=lambda steps: found[steps])
    raise AbductionError(
        f"no count of levels up to {max(_STEPS)} gives the images back to {tolerance:g} grey levels; the best is steps={best}, "
        f"with {found[best]:.2f}. Allow choose_steps a larger tolerance, or train longer."
    )


def resolve_steps(scm: SCM, batch: Batch, steps: int | Literal["auto"] | None, *, solver: Solver | None, seed: int) -> int | None:
    """The count of noise levels that `steps` asks for; None is the model's own."""
    if not isinstance(steps, str):
        return steps
    if steps != "auto":
        raise DataError(f"steps is '{steps}': it is a number of noise levels, or auto.")
    return choose_steps(scm, batch, solver=solver, seed=seed)


def reconstruct(abduction: Abduction) -> Batch:
    """The factual rows again, predicted from their noise under no intervention, with nothing copied: f(x, pa, pa)."""
    scm, factual = abduction.scm, abduction.factual
    pieces = [scm.predict({name: noise[rows] for name, noise in abduction.noise.items()}) for rows in _chunks(factual)]
    values = {name: torch.cat([piece[name] for piece in pieces]) for name in abduction.noise}
    return decode(scm.graph, values, factual.frame.index)


def _doubts(scm: SCM, do: Collection[str], predicted: Collection[str]) -> dict[str, tuple[str, frozenset[str]]]:
    """Why an answer may not be decided by data and graph alone, and which nodes must have moved in a row for that."""
    doubts, changed = {}, scm.graph.descendants(do)
    for a, b in scm.graph.bidirected:
        if {a, b}.intersection(predicted):  # by a mechanism that may hide the confounder
            doubts[f"{a} <-> {b}"] = ("a latent confounder of these two could change the answer", frozenset(do))
    for name in scm.graph.order:
        if name in predicted and not scm.mechanisms[name].identified:
            reason = f"its noise is a draw under the assumption of {type(scm.mechanisms[name]).__name__}"
            doubts[name] = (reason, changed.intersection(scm.graph.parents(name)))
    return doubts


class _Told:
    """What mechanisms tell of every row, while its chunks come in."""

    def __init__(self) -> None:
        self.pieces: list[dict[str, Tensor]] = []

    def next(self) -> dict[str, Tensor]:
        self.pieces.append({})
        return self.pieces[-1]

    def frame(self, index: pd.Index) -> pd.DataFrame:
        names = self.pieces[0] if self.pieces else {}
        columns = {name: torch.cat([piece[name] for piece in self.pieces]).numpy() for name in names}
        return pd.DataFrame(columns, index=index)


class _Answer:
    """One scenario while its chunks come in."""

    def __init__(
        self, scm: SCM, factual: Batch, do: Do, guidance: Guidance | None, seed: int, noise: Mapping[str, Tensor] | None
    ) -> None:
        self.scm, self.factual, self.guidance, self.seed = scm, factual, guidance, seed
        self.do = self._settled(resolve(scm.graph, do, factual.frame, seed=seed), noise)
        self.changed = scm.graph.descendants(do)
        self.doubts = _doubts(scm, self.do, self.predicted)
        self.undecided = {name: np.zeros(len(factual), dtype=bool) for name in self.doubts}
        self.columns: dict[str, NDArray[np.generic]] = {}
        self.told = _Told()

    def _settled(self, columns: Mapping[str, pd.Series | Policy], noise: Mapping[str, Tensor] | None) -> dict[str, pd.Series]:
        """A policy sees all rows together, so that their attributes are abducted and predicted for it first."""
        fact = dict[str, Tensor]()
        if any(isinstance(column, Policy) for column in columns.values()):
            everything = slice(0, len(self.factual))
            fact = _Columns(self.factual.without_images()).rows(everything)
            if noise is None:
                generator = _generator(self.factual, everything, self.seed)
                noise = self.scm.abduct(fact, generator, self.scm.graph.descendants(columns))
            noise = {name: noise[name] for name in fact if name in noise}
        return self.scm.settled(columns, noise or {}, fact, self.factual.frame.index, self.seed)

    @property
    def predicted(self) -> set[str]:
        """The nodes whose noise the answer needs."""
        return {name for name in self.changed if name not in self.do and self._known(name)}

    def _known(self, name: str) -> bool:
        return name in self.factual.images or self.scm.graph.node(name).kind != "image"

    def add(self, noise: Mapping[str, Tensor], fact: Mapping[str, Tensor], rows: slice) -> None:
        actions = self.scm.actions(self.do, self.factual.frame.index, rows, self.seed)
        scm = self.scm
        if self.guidance is not None:  # it may have a weight a row
            scm = scm.configured(guidance=self.guidance.rows(rows, len(self.factual)))
        values = scm.predict(noise, actions, fact, trace=self.told.next())
        for name in self.changed:
            if name in values:
                node = self.scm.graph.node(name)
                piece = decode_image(values[name]) if node.kind == "image" else decode_column(node, values[name])
                if name not in self.columns:
                    self.columns[name] = np.empty((len(self.factual), *piece.shape[1:]), dtype=piece.dtype)
                self.columns[name][rows] = piece
        for doubt, (_, nodes) in self.doubts.items():
            for name in nodes:
                self.undecided[doubt][rows] |= (values[name] != fact[name]).numpy()

    def finish(self, abduction: pd.DataFrame) -> Counterfactual:
        images: dict[str, Any] = {name: self.columns.get(name, pixels) for name, pixels in self.factual.images.items()}
        new = {name: self._series(name) for name in self.columns if name not in images}
        old = {name: self.factual.frame[name] for name in self.factual.frame if name not in new}
        # pandas copies what is changed later, so that the columns that are as they were can be shared
        frame = pd.DataFrame({**dict.fromkeys(self.factual.frame), **old, **new}, index=self.factual.frame.index, copy=False)
        for doubt, rows in self.undecided.items():
            if f"{doubt}.drawn" in abduction:  # a mechanism that draws noise only where a value does not tell it
                rows &= abduction[f"{doubt}.drawn"].to_numpy() > 0
        why_not = {doubt: reason for doubt, (reason, _) in self.doubts.items() if self.undecided[doubt].any()}
        doubtful = np.logical_or.reduce(list(self.undecided.values())) if self.undecided else np.zeros(len(frame), dtype=bool)
        identified = pd.Series(~doubtful, index=frame.index, name="identified")
        images_reached = [name for name in images if name in self.changed]
        kept = [name for name in abduction if name.rpartition(".")[0] in images_reached]
        told = pd.concat([abduction[kept], self.told.frame(frame.index)], axis=1)
        return Counterfactual(frame, images, self.factual, self.do, self.changed, identified, why_not, diagnostics=told)

    def _series(self, name: str) -> pd.Series | NDArray[np.generic]:
        column = self.columns[name]
        if not self.scm.graph.node(name).discrete:
            return column
        kind = self.factual.frame[name].dtype
        if isinstance(kind, pd.CategoricalDtype):
            new = [label for label in pd.unique(column) if label not in kind.categories]
            kind = pd.CategoricalDtype([*kind.categories, *new], kind.ordered)  # it need not know every label
        return pd.Series(column, index=self.factual.frame.index, dtype=kind)


@overload
def counterfactual(
    scm: SCM, batch: Batch | Abduction, do: Do, *, guidance: Guidance | None = None,
    steps: int | Literal["auto"] | None = None, solver: Solver | None = None,
    draws: int = 200, seed: int = 0, progress: bool = False,
) -> Counterfactual: ...  # fmt: skip


@overload
def counterfactual(
    scm: SCM, batch: Batch | Abduction, do: Sequence[Do], *, guidance: Guidance | None = None,
    steps: int | Literal["auto"] | None = None, solver: Solver | None = None,
    draws: int = 200, seed: int = 0, progress: bool = False,
) -> list[Counterfactual]: ...  # fmt: skip


def counterfactual(
    scm: SCM,
    batch: Batch | Abduction,
    do: Do | Sequence[Do],
    *,
    guidance: Guidance | None = None,
    steps: int | Literal["auto"] | None = None,
    solver: Solver | None = None,
    draws: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> Counterfactual | list[Counterfactual]:
    """What the rows would have been under an intervention (rung 3).

    Args:
        scm: fitted.
        batch: the factual rows, or their noise from `abduct`.
        do: by node, in the user's units; see `causalcf.interventions`. A list of interventions is answered with a list: all
            share the noise, which is abducted once.
        guidance: the rule for images; the model's own unless told.
        steps: noise levels that an image visits each way; the model's own unless told. `auto` takes the fewest that give images
            of the batch back to half a grey level, see `choose_steps`.
        solver: of the image, see `causalcf.solvers`; the model's own unless told.
        draws: of a row that misses attributes, from their posterior given the others.
        seed: for nodes whose value does not determine their noise, and for interventions that are drawn.
        progress: show how far it is.

    Raises:
        GraphError: `do` names something that is no node, or an image.
        DataError: a value is unknown, outside the support, or not one a row.

    Example:
        >>> import causalcf as ccf
        >>> scm = ccf.load("morphomnist")
        >>> rows = ccf.recipe("morphomnist").batch("test", 2, 0, 1)
        >>> ccf.counterfactual(scm, rows, do={"thickness": 4.0}).frame["thickness"].tolist()
        [4.0, 4.0]
    """
    if isinstance(batch, Abduction):
        for name, given in (("steps", steps), ("solver", solver)):
            if given is not None:
                raise DataError(f"{name} belongs to the abduction, which is done. Use abduct(scm.configured({name}=...), batch).")
        if scm is not batch.scm:  # guidance is no part of the abduction, all else of the model is
            _check_abducts_alike(scm, batch)
            own = (getattr(scm.mechanisms[name], "guidance", None) for name in scm.graph.images)
            guidance = next(own, None) if guidance is None else guidance
        scm, factual = batch.scm, batch.factual
    else:
        factual = batch
    steps = resolve_steps(scm, factual, steps, solver=solver, seed=seed)
    scm = scm.configured(guidance=guidance, steps=steps, solver=solver)
    check_graph(scm, factual)
    if guidance is None and factual.images and len(scm.graph.images) == 1:  # the model's own may have a weight a row, too
        guidance = getattr(scm.mechanisms[scm.graph.images[0]], "guidance", None)
    if factual.incomplete.any():
        found = _partial(scm, factual, [do] if isinstance(do, Mapping) else do, guidance, draws, seed, progress)
        return found[0] if isinstance(do, Mapping) else found
    abducted = batch.noise if isinstance(batch, Abduction) else None
    scenarios = [do] if isinstance(do, Mapping) else do
    answers = [_Answer(scm, factual, scenario, guidance, seed, abducted) for scenario in scenarios]
    nodes = set().union(*(answer.predicted for answer in answers))
    parents = {parent for name in nodes for parent in scm.graph.parents(name)}
    columns = _Columns(factual, nodes.union(parents, *(answer.do for answer in answers)))
    told = _Told()
    with show_progress("counterfactuals", len(factual), show=progress) as advance:
        for rows in _chunks(factual):
            fact = columns.rows(rows)
            if isinstance(batch, Abduction):
                noise = {name: batch.noise[name][rows] for name in nodes}
            else:
                noise = scm.abduct(fact, _generator(factual, rows, seed), nodes, trace=told.next())
            for answer in answers:
                answer.add(noise, fact, rows)
            advance(rows.stop, "")
    diagnostics = batch.diagnostics if isinstance(batch, Abduction) else told.frame(factual.frame.index)
    finished = [answer.finish(diagnostics) for answer in answers]
    return finished[0] if isinstance(do, Mapping) else finished


def _check_abducts_alike(scm: SCM, abduction: Abduction) -> None:
    """That a model would have abducted the images as another did, whose abduction it is given."""
    for name in scm.graph.images:
        asked, made = scm.mechanisms[name], abduction.scm.mechanisms.get(name)
        for what in ("denoiser", "solver", "steps", "precision"):
            if getattr(asked, what, None) != getattr(made, what, None):
                raise DataError(
                    f"the noise of '{name}' was abducted with another {what} than this model's. Abduct with this model, "
                    "abduct(scm, batch), or ask the one that did."
                )


def _partial(
    scm: SCM, batch: Batch, scenarios: Sequence[Do], guidance: Guidance | None, draws: int, seed: int, progress: bool
) -> list[Counterfactual]:
    """The answers for a batch in which some rows miss attributes."""
    places = np.flatnonzero(batch.incomplete)
    some = batch.rows(places).frame
    nodes = {name: batch.graph.node(name) for name in batch.graph.attributes}
    observed = {name: torch.tensor(some[name].notna().to_numpy()) for name in nodes}
    values = {  # anything will do where a value is missing
        name: encode_column(node, some[name].astype(object).fillna((node.states or (0.0,))[0])) for name, node in nodes.items()
    }
    posterior = infer_missing(scm, values, observed, some.index, draws=draws, seed=seed)
    completed = pd.concat([some] * draws, keys=range(draws), names=["draw", *some.index.names])
    for name, node in nodes.items():
        completed[name] = decode_column(node, posterior.values[name].reshape(-1))
    first = batch.frame.copy()
    for name in nodes:
        column = first[name].astype(object if nodes[name].discrete else float)
        column.iloc[places] = completed[name].iloc[: len(places)]
        first[name] = column
    whole = Batch(batch.graph, first, batch.images)
    answers = counterfactual(scm, whole, scenarios, guidance=guidance, seed=seed, progress=progress)
    spread = [{name: _spread(action, batch, places, draws) for name, action in do.items()} for do in scenarios]
    drawn = counterfactual(scm, Batch(batch.graph, completed), spread, seed=seed, progress=progress)
    return [_collapsed(answer, many, batch, places, posterior) for answer, many in zip(answers, drawn, strict=True)]


def _spread(action: Any, batch: Batch, places: NDArray[np.int64], draws: int) -> Any:
    """One value a row, for some rows and every draw of them; any other action acts on the draws by itself."""
    if isinstance(action, str) or np.ndim(action) != 1 or len(action) != len(batch):
        return action
    return np.tile(np.asarray(action)[places], draws)


def _collapsed(
    answer: Counterfactual, drawn: Counterfactual, batch: Batch, places: NDArray[np.int64], posterior: Posterior
) -> Counterfactual:
    """An answer in which a row that missed attributes has the centre of its draws."""
    row = list(range(1, drawn.frame.index.nlevels))
    frame, groups = answer.frame.copy(), drawn.frame.groupby(level=row, sort=False)
    for name in batch.graph.attributes:
        if batch.graph.node(name).discrete:
            centre = groups[name].agg(lambda labels: labels.value_counts().index[0])
        else:
            centre = groups[name].mean()
        frame[name] = frame[name].where(~batch.incomplete, pd.Series(centre.to_numpy(), index=batch.frame.index[places]))
    doubtful = (~drawn.identified).groupby(level=row, sort=False).any().to_numpy()
    identified = answer.identified.copy()
    identified.iloc[places] &= ~doubtful & posterior.identified.numpy()  # the draws are without images
    return replace(
        answer,
        frame=frame,
        factual=batch,
        do={name: frame[name] for name in answer.do},
        identified=identified,
        why_not={**answer.why_not, **drawn.why_not, **posterior.why_not},
        draws=drawn.frame,
        inferred=posterior.summary(),
    )
