"""What an audit asks: one intervention on each attribute, a value a row, drawn by a named sampler.

    sampler     a number                                              a label
    mixed       from the column's marginal distribution               another label, all alike
    marginal    from the column's marginal distribution               the same
    permute     the values dealt out anew, each given once            the same
    bins        uniform in another of nine bins of the range          another label, all alike
    flip        the value at the mirrored quantile                    another label, all alike

A row's chance is a function of the seed and of its index; what that draws depends on the column too, and for `permute` on the
other rows' chances. `bins` is the forced change of T. Melistas et al., "Benchmarking
Counterfactual Image Generation", NeurIPS 2024, https://arxiv.org/abs/2403.20287.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from causalcf.errors import DataError
from causalcf.graph import CausalGraph
from causalcf.interventions import Do
from causalcf.seeds import RowGenerator, row_keys

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Sampler", "draw_interventions"]

Sampler = Literal["mixed", "marginal", "permute", "bins", "flip"]
_BINS = 9


def _draw_number(column: NDArray[np.float64], chance: NDArray[np.float64], sampler: Sampler) -> NDArray[np.float64]:
    count, ordered = len(column), np.sort(column)
    if sampler == "flip":
        rank = np.empty(count, dtype=np.int64)
        rank[np.argsort(column, kind="stable")] = np.arange(count)
        return np.asarray(ordered[count - 1 - rank])
    if sampler == "bins":
        low, width = ordered[0], (ordered[-1] - ordered[0]) / _BINS
        here = np.clip((column - low) // width if width else np.zeros(count), 0, _BINS - 1)
        step, within = np.divmod(chance * (_BINS - 1), 1)
        return np.asarray(low + width * ((here + 1 + step) % _BINS + within))
    return np.asarray(ordered[np.floor(chance * count).astype(int)])


def draw_interventions(
    graph: CausalGraph, frame: pd.DataFrame, *, image: str | None, seed: int, sampler: Sampler = "mixed"
) -> dict[str, Do]:
    """One intervention on each parent of the image, or without an image on each attribute that has an effect, a value a row.

    Args:
        graph: the causal graph.
        frame: the factual rows.
        image: the image node, if there is one.
        seed: of the draws.
        sampler: see the table above.
    """
    if sampler not in get_args(Sampler):
        raise DataError(f"there is no sampler '{sampler}'. Samplers are: {', '.join(get_args(Sampler))}.")
    missing = [name for name in graph.attributes if frame[name].isna().any()]
    if missing:
        raise DataError(f"rows miss {', '.join(missing)}: what is drawn depends on it. Drop these rows, or fill them.")
    generator = RowGenerator(seed, row_keys(frame.index), "audit")
    drawn: dict[str, Do] = {}
    causes = {parent for node in graph.nodes for parent in node.parents}
    for name in graph.parents(image) if image else [name for name in graph.attributes if name in causes]:
        node, chance = graph.node(name), generator.stream(name).uniform().numpy()
        if sampler == "permute":
            drawn[name] = {name: frame[name].to_numpy()[np.argsort(chance, kind="stable")]}
        elif not node.discrete:
            drawn[name] = {name: _draw_number(frame[name].to_numpy(float), chance, sampler)}
        elif sampler == "marginal":
            drawn[name] = {name: np.sort(frame[name].to_numpy())[np.floor(chance * len(frame)).astype(int)]}
        else:
            states = list(node.states or ())
            place = np.array([states.index(label) for label in frame[name]])
            other = (place + 1 + np.floor(chance * (len(states) - 1)).astype(int)) % len(states)
            drawn[name] = {name: [states[new] for new in other]}
    return drawn
