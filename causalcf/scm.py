"""The structural causal model: a graph, one mechanism a node, and the Pyro program that they are.

J. Pearl, "Causality", 2nd edition, 2009; E. Bingham et al., "Pyro: Deep Universal Probabilistic Programming", JMLR 2019,
https://arxiv.org/abs/1810.09538.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import pandas as pd
import pyro
import torch
from torch import Tensor

from causalcf.batch import Batch
from causalcf.choice import Unchosen
from causalcf.encoding import decode, decode_column, encode_column
from causalcf.errors import DataError, GraphError, NotFittedError
from causalcf.graph import CausalGraph
from causalcf.guidance import Guidance
from causalcf.interventions import Do, Policy, resolve
from causalcf.mechanism import Mechanism, listening
from causalcf.precision import Precision
from causalcf.seeds import RowGenerator, row_keys

if TYPE_CHECKING:
    from causalcf.files import Manifest
    from causalcf.solvers import Solver

__all__ = ["SCM"]

Rule = Callable[[Mapping[str, Tensor]], Tensor]


def _default(graph: CausalGraph, name: str) -> Mechanism:
    node = graph.node(name)
    if node.kind != "image":
        return Unchosen()
    from causalcf.image import Diffusion, halved  # diffusers takes seconds to import: only where there is an image

    _, height, width = node.shape or (1, 0, 0)
    common = math.gcd(height, width)
    patch = 1 if common % 2 else 2
    return Diffusion(channels=halved((32, 64, 128), common // patch), patch=patch)


def _predict_by_moved(
    mechanism: Mechanism, noise: Tensor, parents: Mapping[str, Tensor], reached: frozenset[str], moved: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The prediction in which a row's changed parents are those that moved in it, and what it took; rows alike go together."""
    if not moved:
        with listening() as told:
            return mechanism.predict(noise, parents, changed=reached), told
    patterns, which = torch.unique(torch.stack(list(moved.values()), dim=1), dim=0, return_inverse=True)
    pieces, order, traces = [], [], []
    guidance: Guidance | None = getattr(mechanism, "guidance", None)
    for place, pattern in enumerate(patterns.tolist()):
        rows = (which == place).nonzero()[:, 0]
        changed = reached.difference(name for name, has_moved in zip(moved, pattern, strict=True) if not has_moved)
        rule = None if guidance is None else guidance.rows(rows.numpy(), len(noise))  # it may have a weight a row
        some, given = mechanism.configured(guidance=rule), {name: value[rows] for name, value in parents.items()}
        with listening() as told:
            pieces.append(some.predict(noise[rows], given, changed=changed))
        traces.append(told)
        order.append(rows)
    back = torch.cat(order).argsort()
    return torch.cat(pieces)[back], {key: torch.cat([told[key] for told in traces])[back] for key in traces[0]}


def _record(trace: dict[str, Tensor] | None, name: str, told: Mapping[str, Tensor]) -> None:
    if trace is not None:
        trace.update({f"{name}.{quantity}": tensor for quantity, tensor in told.items()})


def _is_fitted(mechanism: Mechanism) -> bool:
    try:
        mechanism.noise_prior()
    except NotFittedError:
        return False
    return True


def check_graph(scm: SCM, batch: Batch) -> None:
    """Raise a DataError unless the batch is of the model's graph, and a NotFittedError unless the model can answer."""
    check_same_graph(scm, batch)
    scm.check_fitted()


def check_same_graph(scm: SCM, batch: Batch) -> None:
    """Raise a DataError unless the batch is of the model's graph."""
    if batch.graph is not scm.graph and batch.graph.to_dict() != scm.graph.to_dict():
        raise DataError(
            f"the batch was checked against graph '{batch.graph.name}', the model has graph '{scm.graph.name}'. "
            "Build the batch with Batch(scm.graph, ...)."
        )


class SCM:
    """A structural causal model.

    Args:
        graph: the causal graph.
        mechanisms: for some or all nodes. For an attribute left out, `causalcf.fit` chooses one by held-out likelihood and
            reports it in `choices`; an image left out gets a diffusion model.

    Raises:
        GraphError: a mechanism for something that is no node.
        DataError: a mechanism cannot belong to its node, or two nodes share one.
    """

    def __init__(self, graph: CausalGraph, mechanisms: Mapping[str, Mechanism] | None = None) -> None:
        given = dict(mechanisms or {})
        graph.check(given, "use a mechanism for")
        self.graph = graph
        self.mechanisms = {name: given[name] if name in given else _default(graph, name) for name in graph.order}
        owners: dict[int, str] = {}
        for name, mechanism in given.items():
            if (first := owners.setdefault(id(mechanism), name)) != name and not _is_fitted(mechanism):
                raise DataError(f"'{first}' and '{name}' have one mechanism between them. Make one for each: fitting changes it.")
            mechanism.check(graph.node(name), [graph.node(parent) for parent in graph.parents(name)])
        self.judges: dict[str, Any] = {}
        self.manifest: Manifest | None = None

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}={type(mechanism).__name__}" for name, mechanism in self.mechanisms.items())
        return f"SCM({self.graph.name!r}, {kinds})"

    @property
    def choices(self) -> pd.DataFrame:
        """How the attributes that were left unnamed got their mechanisms: a row a node and candidate.

        Columns: `node`, `candidate`, `score` (mean log-likelihood of a held-out row, in nats), `error` (standard error of its
        difference from the best), `chosen`, and `reason` where there is no score.
        """
        made = (self.manifest or {}).get("made", {}).get("choices", {})
        rows = [
            (node, name, score, choice["errors"][name], name == choice["chosen"], choice["reasons"].get(name, ""))
            for node, choice in made.items()
            for name, score in choice["scores"].items()
        ]
        return pd.DataFrame(rows, columns=["node", "candidate", "score", "error", "chosen", "reason"])

    def configured(
        self,
        *,
        guidance: Guidance | None = None,
        steps: int | None = None,
        solver: Solver | None = None,
        precision: Precision | None = None,
    ) -> Self:
        """The same model with other settings for its predictions; the networks are shared.

        Args:
            guidance: the rule for images under an intervention.
            steps: noise levels that abduction and prediction of an image visit.
            solver: of abduction and prediction of an image.
            precision: of an image's network: `float32`, `bfloat16`, or `auto`, which is the latter where it is fast.
        """
        other = copy.copy(self)
        other.mechanisms = {
            name: mechanism.configured(guidance=guidance, steps=steps, solver=solver, precision=precision)
            for name, mechanism in self.mechanisms.items()
        }
        return other

    def _parents(self, name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        missing = [parent for parent in self.graph.parents(name) if parent not in values]
        if missing:
            raise GraphError(f"'{name}' needs the values of its parents {', '.join(missing)}.")
        return {parent: values[parent] for parent in self.graph.parents(name)}

    def abduct(
        self,
        values: Mapping[str, Tensor],
        generator: RowGenerator,
        nodes: Collection[str] | None = None,
        *,
        trace: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The noise that explains the values of the nodes, in model space.

        Args:
            values: (row, *value) by node; nodes without a value (an image that was not given) are left out.
            generator: for nodes whose value does not determine their noise.
            nodes: whose noise; all unless told.
            trace: filled with what it took, (row,) by "<name>.<quantity>".
        """
        noise: dict[str, Tensor] = {}
        for name in self.graph.order:
            if name in values and (nodes is None or name in nodes):
                parents, stream = self._parents(name, values), generator.stream(name)
                with listening() as told:
                    noise[name] = self.mechanisms[name].abduct(values[name], parents, generator=stream)
                _record(trace, name, told)
        return noise

    def predict(
        self,
        noise: Mapping[str, Tensor],
        do: Mapping[str, Tensor | Rule] | None = None,
        factual: Mapping[str, Tensor] | None = None,
        *,
        trace: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The value of every node under this noise and intervention, causes first, in model space.

        Args:
            noise: (row, *noise) by node; a node that the intervention cannot reach needs none if it has a factual value.
            do: (row,) by intervened node, or a function that gives it from the values of the nodes before.
            factual: the values that the noise was abducted from; what the intervention cannot reach then keeps its factual
                value bit for bit, and so does a row of an exact mechanism whose parents did not move.
            trace: filled with what it took, (row,) by "<name>.<quantity>".
        """
        do, factual = do or {}, factual or {}
        affected = self.graph.descendants(do)
        values: dict[str, Tensor] = {}
        for name in self.graph.order:
            if name in do:
                action = do[name]
                values[name] = action if isinstance(action, Tensor) else action(values)
            elif name not in affected and name in factual:
                values[name] = factual[name]
            elif name in noise:
                parents, mechanism = self._parents(name, values), self.mechanisms[name]
                reached = affected.intersection(parents)
                moved: dict[str, Tensor] = {}
                if mechanism.by_moved:
                    moved = {parent: values[parent] != factual[parent] for parent in sorted(reached) if parent in factual}
                values[name], told = _predict_by_moved(mechanism, noise[name], parents, reached, moved)
                _record(trace, name, told)
                if mechanism.exact and name in factual:
                    any_moved = torch.zeros(len(values[name]), dtype=torch.bool)
                    for parent in reached:
                        any_moved |= values[parent] != factual[parent]
                    if not any_moved.all():
                        values[name] = torch.where(any_moved, values[name], factual[name])
        return values

    def program(self, rows: int) -> dict[str, Tensor]:
        """The model as a Pyro program: for every node a sample site "<name>.noise" and a deterministic site "<name>".

        `pyro.poutine.do` on the deterministic sites is the intervention; its descendants, the image's guidance included,
        follow as in `predict`. In a trace, Pyro keeps under "<name>" what an intervened node would have been without the
        intervention; the program returns what it was set to.

        Example:
            >>> import causalcf as ccf, pyro
            >>> scm = ccf.load("morphomnist")
            >>> treated = pyro.poutine.do(scm.program, {"thickness": torch.full((2,), 4.0, dtype=torch.float64)})
            >>> treated(2)["thickness"].tolist()
            [4.0, 4.0]
        """
        values: dict[str, Tensor] = {}
        affected: set[str] = set()
        with pyro.plate("rows", rows):
            for name in self.graph.order:
                parents, mechanism = self._parents(name, values), self.mechanisms[name]
                noise = pyro.sample(f"{name}.noise", mechanism.noise_prior())
                changed = frozenset(affected.intersection(parents))
                predicted = mechanism.predict(noise, parents, changed=changed)
                values[name] = pyro.deterministic(name, predicted, event_dim=3 if self.graph.node(name).kind == "image" else 0)
                if changed or values[name] is not predicted:  # a handler put another value in its place
                    affected.add(name)
        return values

    def actions(
        self, columns: Mapping[str, pd.Series | Policy], index: pd.Index, rows: slice, seed: int
    ) -> dict[str, Tensor | Rule]:
        """What `interventions.resolve` returned, for some of the rows and in model space, as `predict` takes it."""
        return {
            name: self._rule(name, column, index[rows], seed)
            if isinstance(column, Policy)
            else encode_column(self.graph.node(name), column.iloc[rows])
            for name, column in columns.items()
        }

    def _rule(self, name: str, policy: Policy, index: pd.Index, seed: int) -> Rule:
        def rule(values: Mapping[str, Tensor]) -> Tensor:
            seen = {key: decode_column(self.graph.node(key), values[key]) for key in self.graph.attributes if key in values}
            return encode_column(self.graph.node(name), policy.values(self.graph.node(name), pd.DataFrame(seen, index), seed))

        return rule

    @overload
    def sample(self, n: int, *, do: Do | None = None, seed: int = 0, images: bool = True) -> Batch: ...

    @overload
    def sample(self, n: int, *, do: Sequence[Do], seed: int = 0, images: bool = True) -> list[Batch]: ...

    def sample(self, n: int, *, do: Do | Sequence[Do] | None = None, seed: int = 0, images: bool = True) -> Batch | list[Batch]:
        """n draws from the interventional distribution; without `do`, from the observational one (rung 2).

        Args:
            n: rows.
            do: see `causalcf.interventions`; a function or a shift acts on the draw without the intervention. A list of
                interventions is answered with a list of batches that share their noise.
            seed: the rows are a function of it.
            images: whether to draw the images too.

        Raises:
            GraphError: `do` names something that is no node, or an image.
            DataError: a value is unknown, outside the support, or not one a row.
        """
        self.check_fitted()
        if n < 1:
            raise DataError(f"cannot draw {n} rows: n is at least 1.")
        scenarios: list[Do] = [do or {}] if do is None or isinstance(do, Mapping) else list(do)
        index, generator = pd.RangeIndex(n), RowGenerator(seed, row_keys(pd.RangeIndex(n)), "sample")
        noise = {name: self.mechanisms[name].draw_noise(generator.stream(name)) for name in self.graph.attributes}
        frame = decode(self.graph, self.predict(noise), index).frame if any(scenarios) else pd.DataFrame(index=index)
        asked = [resolve(self.graph, scenario, frame, seed=seed) for scenario in scenarios]
        columns = [self.settled(column, noise, None, index, seed) for column in asked]
        size = 64 if images and self.graph.images else n
        pieces: list[list[dict[str, Tensor]]] = [[] for _ in scenarios]
        for rows in (slice(start, start + size) for start in range(0, n, size)):
            some = {name: drawn[rows] for name, drawn in noise.items()}
            for name in self.graph.images if images else ():
                some[name] = self.mechanisms[name].draw_noise(generator.rows(rows).stream(name))
            for found, column in zip(pieces, columns, strict=True):
                found.append(self.predict(some, self.actions(column, index, rows, seed)))
        batches = [
            decode(self.graph, {name: torch.cat([piece[name] for piece in found]) for name in found[0]}, index)
            for found in pieces
        ]
        return batches[0] if do is None or isinstance(do, Mapping) else batches

    def save(self, path: str | Path) -> Path:
        """Write the model to a directory: JSON and safetensors, with a manifest of digests."""
        from causalcf.store import save

        return save(self, path)

    def log_likelihood(self, batch: Batch) -> pd.Series:
        """log p of each row's attributes under the model, in nats; images are left out."""
        from causalcf.encoding import encode

        check_graph(self, batch)
        values = encode(batch.without_images())
        total = np.zeros(len(batch))
        for name in self.graph.attributes:
            with torch.no_grad():
                total -= self.mechanisms[name].loss(values[name], self._parents(name, values), generator=None).numpy()
        return pd.Series(total, index=batch.frame.index, name="log_likelihood")

    def settled(
        self,
        columns: Mapping[str, pd.Series | Policy],
        noise: Mapping[str, Tensor],
        factual: Mapping[str, Tensor] | None,
        index: pd.Index,
        seed: int,
    ) -> dict[str, pd.Series]:
        """What `interventions.resolve` returned, with every policy asked about all rows together.

        Args:
            columns: what it returned.
            noise: of the attributes, as `predict` takes it, all rows.
            factual: of the attributes, as `predict` takes it, all rows.
            index: the rows' names.
            seed: of policies that draw.
        """
        values: dict[str, Tensor] = {}
        if any(isinstance(column, Policy) for column in columns.values()):
            values = self.predict(noise, self.actions(columns, index, slice(None), seed), factual)
        return {
            name: pd.Series(decode_column(self.graph.node(name), values[name]), index, name=name)
            if isinstance(column, Policy)
            else column
            for name, column in columns.items()
        }

    def check_fitted(self) -> None:
        """Raise NotFittedError unless every mechanism is ready to answer."""
        for name, mechanism in self.mechanisms.items():
            try:
                mechanism.noise_prior()
            except NotFittedError as error:
                raise NotFittedError(f"node '{name}': {error}") from None
