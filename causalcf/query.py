"""Counterfactuals: abduct the noise of the factual rows, act, predict what the intervention reaches (rung 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causalcf.batch import Batch
from causalcf.encoding import decode, decode_column, decode_image, encode, encode_column
from causalcf.errors import DataError
from causalcf.guidance import Guidance
from causalcf.interventions import Do, resolve
from causalcf.progress import progress as show_progress
from causalcf.scm import SCM
from causalcf.seeds import RowGenerator, row_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Abduction", "Counterfactual", "abduct", "counterfactual", "reconstruct"]

_CHUNK = 64  # rows with images that are in memory as noise at a time


@dataclass(frozen=True)
class Abduction:
    """The noise that explains a batch: computed once, it answers any number of interventions.

    Attributes:
        scm: the model, with the settings it was abducted under.
        factual: the batch.
        noise: (row, *noise) by node, in model space.
    """

    scm: SCM
    factual: Batch
    noise: Mapping[str, Tensor]

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
            noise assumption of a discrete mechanism, could change it.
        why_not: the reasons, by node.
    """

    frame: pd.DataFrame
    images: Mapping[str, NDArray[np.uint8]]
    factual: Batch
    do: Mapping[str, pd.Series]
    changed: frozenset[str]
    identified: pd.Series
    why_not: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Counterfactual(rows={len(self.frame)}, do=[{', '.join(self.do)}], changed=[{', '.join(sorted(self.changed))}])"

    @property
    def batch(self) -> Batch:
        """The counterfactual as a batch, to ask further questions of."""
        return Batch(self.factual.graph, self.frame, self.images)


def _chunks(batch: Batch) -> Iterator[slice]:
    size = _CHUNK if batch.images else len(batch)
    return (slice(start, min(start + size, len(batch))) for start in range(0, len(batch), size))


def abduct(scm: SCM, batch: Batch, *, seed: int = 0, progress: bool = False) -> Abduction:
    """The noise of every row, to be reused over interventions.

    Args:
        scm: fitted.
        batch: the factual rows.
        seed: for nodes whose value does not determine their noise; a row's draw is a function of it and of its index.
        progress: show how far it is.
    """
    _check_graph(scm, batch)
    values, keys = encode(batch), row_keys(batch.frame.index)
    pieces = []
    with show_progress("abduction", len(batch), show=progress) as advance:
        for rows in _chunks(batch):
            some = {name: value[rows] for name, value in values.items()}
            pieces.append(scm.abduct(some, RowGenerator(seed, keys[rows], "abduct")))
            advance(rows.stop, "")
    return Abduction(scm, batch, {name: torch.cat([piece[name] for piece in pieces]) for name in values})


def reconstruct(abduction: Abduction) -> Batch:
    """The factual rows again, predicted from their noise under no intervention, with nothing copied: f(x, pa, pa)."""
    scm, factual = abduction.scm, abduction.factual
    pieces = [scm.predict({name: noise[rows] for name, noise in abduction.noise.items()}) for rows in _chunks(factual)]
    values = {name: torch.cat([piece[name] for piece in pieces]) for name in abduction.noise}
    return decode(scm.graph, values, factual.frame.index)


def _check_graph(scm: SCM, batch: Batch) -> None:
    if batch.graph is not scm.graph and batch.graph.to_dict() != scm.graph.to_dict():
        raise DataError(
            f"the batch was checked against graph '{batch.graph.name}', the model has graph '{scm.graph.name}'. "
            "Build the batch with Batch(scm.graph, ...)."
        )
    scm.check_fitted()


def _identified(scm: SCM, do: Do, changed: frozenset[str]) -> dict[str, str]:
    """Why the counterfactual of a node is not decided by data and graph alone, by node."""
    reasons = {}
    for a, b in scm.graph.bidirected:
        if {a, b} & changed and not {a, b} <= set(do):
            reasons[f"{a} <-> {b}"] = "a latent confounder of these two could change the answer"
    for name in scm.graph.order:
        if name in changed and name not in do and not scm.mechanisms[name].identified:
            reasons[name] = f"its noise is a draw under the assumption of {type(scm.mechanisms[name]).__name__}"
    return reasons


def counterfactual(
    scm: SCM,
    batch: Batch | Abduction,
    do: Do,
    *,
    guidance: Guidance | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Counterfactual:
    """What the rows would have been under an intervention (rung 3).

    Args:
        scm: fitted.
        batch: the factual rows, or their noise from `abduct`.
        do: by node, in the user's units; see `causalcf.interventions`.
        guidance: the rule for images; the model's own unless told.
        steps: noise levels that an image visits each way; the model's own unless told.
        seed: for nodes whose value does not determine their noise.
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
    if isinstance(batch, Abduction) and steps is not None:
        raise DataError("steps belongs to the abduction, which is done. Use abduct(scm.configured(steps=...), batch).")
    scm = (batch.scm if isinstance(batch, Abduction) else scm).configured(guidance=guidance, steps=steps)
    factual = batch.factual if isinstance(batch, Abduction) else batch
    columns = resolve(scm.graph, do, factual.frame)
    abduction = batch if isinstance(batch, Abduction) else abduct(scm, batch, seed=seed, progress=progress)
    changed = scm.graph.descendants(do)
    values = encode(factual)
    actions = {name: encode_column(scm.graph.node(name), column) for name, column in columns.items()}
    pieces = []
    with show_progress(f"prediction under do({', '.join(do)})", len(factual), show=progress) as advance:
        for rows in _chunks(factual):
            noise, action, fact = ({k: v[rows] for k, v in part.items()} for part in (abduction.noise, actions, values))
            pieces.append(scm.predict(noise, action, fact))
            advance(rows.stop, "")
    frame = factual.frame.copy()
    images = dict(factual.images)
    for name in scm.graph.order:
        if name in changed and name in values:
            value = torch.cat([piece[name] for piece in pieces])
            if name in images:
                images[name] = decode_image(value)
            else:
                column = decode_column(scm.graph.node(name), value)
                kind = frame[name].dtype if scm.graph.node(name).discrete else None  # a number may need a finer type
                if isinstance(kind, pd.CategoricalDtype):
                    new = [label for label in pd.unique(column) if label not in kind.categories]
                    kind = pd.CategoricalDtype([*kind.categories, *new], kind.ordered)  # it need not know every label
                frame[name] = pd.Series(column, index=frame.index, dtype=kind)
    why_not = _identified(scm, do, changed)
    identified = pd.Series(not why_not, index=frame.index, name="identified")
    return Counterfactual(frame, images, factual, columns, changed, identified, why_not)
