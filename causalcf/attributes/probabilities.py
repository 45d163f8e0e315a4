"""What the discrete mechanisms share: the probabilities p_k(pa) of the states, and how a uniform noise is cut by them.

model       log p_k(pa)                                                                    fitted
network     log softmax_k [b_k + n_k(pa)], n a linear map plus a small network              by gradient
ordered     log [s(c_k - n(pa)) - s(c_(k-1) - n(pa))], s the logistic function, c rising    by gradient
table       log [(count_k + a) / (count + K a)], counted for each configuration of pa       by counting
known       the logarithm of the user's own table                                           not at all

A node without parents has the frequencies of its column, smoothed as in a table, whatever the model.

`ordered` is the proportional-odds model: P. McCullagh, "Regression Models for Ordinal Data", Journal of the Royal Statistical
Society B, 1980, https://doi.org/10.1111/j.2517-6161.1980.tb01109.x.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from causalcf.attributes.base import AttributeMechanism, Context, Perceptron, describe_parents
from causalcf.errors import AbductionError, DataError
from causalcf.graph import Node
from causalcf.mechanism import Parents

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["DiscreteMechanism", "ProbabilityModel", "cut", "edges_of", "rows_of", "threshold_types", "uniform_between"]

ProbabilityModel = Literal["network", "table", "ordered"]

MOST_CONFIGURATIONS = 4096
_NARROWEST = 2.0**-40  # a possible state keeps this much of the unit interval, so that float64 tells it from its neighbours


def edges_of(log_p: Tensor) -> Tensor:
    """Where the states cut the unit interval, (..., state + 1), from 0 to 1; an impossible state has no width."""
    width = torch.where(torch.isneginf(log_p), 0.0, log_p.exp().clamp(min=_NARROWEST))
    ends = width.cumsum(-1)
    inner = ends[..., :-1] / ends[..., -1:]
    return torch.cat([torch.zeros_like(ends[..., :1]), inner, torch.ones_like(ends[..., :1])], dim=-1)


def cut(noise: Tensor, edges: Tensor) -> Tensor:
    """The state whose part of the unit interval holds the noise: an edge belongs to the state above it."""
    return (noise[..., None] >= edges[..., 1:-1]).sum(-1)


def rows_of(table: Tensor, place: Tensor) -> Tensor:
    """table[place] for one place or many, (batch,), three times as fast."""
    return table.index_select(0, place) if place.ndim else table[place]


def uniform_between(low: Tensor, high: Tensor, uniform: Tensor) -> Tensor:
    """A uniform draw on (0, 1) moved to [low, high), rounding included."""
    return torch.minimum(low + uniform * (high - low), torch.nextafter(high, torch.zeros_like(high)))


def threshold_types(edges: Tensor) -> tuple[Tensor, Tensor]:
    """What one uniform noise does to all configurations at once: outcomes (type, configuration), probabilities (type,).

    Args:
        edges: of every configuration, (configuration, state + 1).
    """
    every = torch.unique(edges)
    return cut(every[:-1, None], edges), every.diff()


def _checked(probabilities: ArrayLike) -> Tensor:
    """The user's table, (*parent states, state), its last axis summing to one."""
    try:
        array = np.asarray(probabilities, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("probabilities takes an array of numbers of shape (*parent states, states).") from None
    if array.ndim < 1 or array.shape[-1] < 2 or 0 in array.shape:
        raise DataError(f"probabilities has shape {array.shape}: it takes (*parent states, states), with two states or more.")
    if not np.isfinite(array).all() or (array < 0).any():
        raise DataError("probabilities holds a number that is negative, missing or infinite.")
    total = array.sum(-1)
    worst = np.unravel_index(np.abs(total - 1).argmax(), total.shape)
    if abs(total[worst] - 1) > 1e-6:
        where = f" for the parents' states number {', '.join(map(str, worst))}" if worst else ""
        raise DataError(f"probabilities sums to {total[worst]:.7g}{where}, not to 1. Divide by the sum over the last axis.")
    return torch.from_numpy(array / total[..., None])


def _counted(code: Tensor, states: int, smoothing: float) -> Tensor:
    """Smoothed frequencies of the states, (state,)."""
    counts = torch.bincount(code, minlength=states).double() + smoothing
    return counts / counts.sum()


class DiscreteMechanism(AttributeMechanism):
    """A discrete attribute: probabilities of its states given the parents; a subclass says how the noise picks one.

    The value does not determine the noise, so abduction is a draw from p(u | x, pa), and what a unit would have been rests on
    the subclass's assumption about the noise: data, even from experiments, cannot tell the subclasses apart.

    Args:
        model: of the probabilities: `network` (softmax), `ordered` (proportional odds: the parents shift the whole scale) or
            `table` (a frequency for every configuration of discrete parents).
        probabilities: known, instead of a model: (*parent states, states), parents in the order in which the node declares
            them. Needs no fit, and fitting leaves it alone.
        hidden: width of the network.
        smoothing: added to every count where probabilities are counted; 0.5 is Jeffreys' prior. What was never seen stays
            possible.
        spec: what `prepare` found; given when a saved mechanism is loaded.

    Raises:
        DataError: the probabilities are none, or the settings make no sense.
    """

    identified = False

    def __init__(
        self,
        *,
        model: ProbabilityModel = "network",
        probabilities: ArrayLike | None = None,
        hidden: int = 16,
        smoothing: float = 0.5,
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        if model not in get_args(ProbabilityModel):
            raise DataError(f"model='{model}' is none of: {', '.join(get_args(ProbabilityModel))}.")
        if not (math.isfinite(smoothing) and smoothing > 0):
            raise DataError(f"smoothing={smoothing} makes no sense: it takes a number above zero.")
        super().__init__(spec, {"model": model, "hidden": hidden, "smoothing": smoothing})
        if probabilities is not None:
            if model != "network":
                raise DataError(f"model='{model}' and known probabilities exclude each other. Leave one of them out.")
            self._know(_checked(probabilities))

    def _know(self, table: Tensor, **more: Any) -> None:
        """Take a table as given, (*parent states, state)."""
        *parents, states = table.shape
        if math.prod(parents) > MOST_CONFIGURATIONS:
            raise DataError(
                f"probabilities has {math.prod(parents)} configurations of the parents; {MOST_CONFIGURATIONS} at most."
            )
        self._start({"states": states, "parents": [{"states": number} for number in parents], "known": True, **more})
        self.probability.copy_(table.reshape(-1, states))

    @property
    def _counts(self) -> bool:
        """Whether the probabilities are a table, counted or known."""
        spec = self._fitted()
        return bool(spec.get("known") or (self.settings["model"] == "table" and spec["parents"]))

    def check(self, node: Node, parent_nodes: Sequence[Node]) -> None:
        """Raise a DataError unless this mechanism can belong to this node with these parents."""
        if not node.discrete:
            raise DataError(f"'{node.name}' is {node.kind}: {type(self).__name__} is for binary, ordinal and categorical nodes.")
        spec = self.spec or {}
        if spec.get("known"):
            found = (*(parent["states"] for parent in spec["parents"]), spec["states"])
            needed = (*(len(parent.states or ()) for parent in parent_nodes), len(node.states or ()))
            if found != needed:
                parts = [f"{len(part.states or ())} for '{part.name}'" for part in (*parent_nodes, node)]
                raise DataError(
                    f"the known probabilities of '{node.name}' have shape {found}, but its parents and its own states need "
                    f"{needed}: {', '.join(parts)}. Parents come in the order in which the node declares them; they are discrete."
                )
        elif self.settings["model"] == "table":
            self._check_discrete(node, parent_nodes, "a table")
        elif self.settings["model"] == "ordered" and node.kind == "categorical":
            raise DataError(f"'{node.name}' is categorical, its states have no order. Make it ordinal, or use model='network'.")

    def _check_discrete(self, node: Node, parent_nodes: Sequence[Node], what: str) -> None:
        number = [parent.name for parent in parent_nodes if not parent.discrete]
        if number:
            raise DataError(
                f"'{node.name}' has the continuous parent '{number[0]}': {what} needs discrete parents. "
                "Use Categorical() or Monotone() with model='network'."
            )
        configurations = math.prod(len(parent.states or ()) for parent in parent_nodes)
        if configurations > MOST_CONFIGURATIONS:
            raise DataError(
                f"the parents of '{node.name}' have {configurations} configurations; {what} takes {MOST_CONFIGURATIONS} at most. "
                "Use Categorical() or Monotone() with model='network'."
            )

    def prepare(self, node: Node, parent_nodes: Sequence[Node], value: Tensor, parents: Parents) -> None:
        self.check(node, parent_nodes)
        if self.spec is not None and self.spec.get("known"):
            names = [{"name": parent.name, "states": len(parent.states or ())} for parent in parent_nodes]
            self.spec = {**self.spec, "parents": names}
            return
        self._start({"states": len(node.states or ()), "parents": describe_parents(parent_nodes, parents)})
        self._count(value, parents)

    def _build(self, spec: Mapping[str, Any]) -> None:
        self.states = int(spec["states"])
        if self._counts:
            configurations = math.prod(parent["states"] for parent in spec["parents"])
            self.probability: Tensor
            self.register_buffer("probability", torch.zeros(configurations, self.states))
            return
        self.context = Context(spec["parents"])
        self.network: Perceptron | None = None
        ordered = self.settings["model"] == "ordered" and spec["parents"]
        if spec["parents"]:
            self.network = Perceptron(self.context.width, self.settings["hidden"], 1 if ordered else self.states)
        # without parents there is nothing to train: `prepare` sets it
        self.root = nn.Parameter(torch.zeros(self.states - 1 if ordered else self.states), requires_grad=bool(spec["parents"]))

    def _count(self, value: Tensor, parents: Parents) -> None:
        """Set what counting decides: a table, the frequencies of a node without parents, or where training starts."""
        states, smoothing = self.states, self.settings["smoothing"]
        if self._counts:
            configurations = len(self.probability)
            counts = torch.bincount(self._place(parents) * states + value, minlength=configurations * states).double() + smoothing
            counts = counts.reshape(configurations, states)
            self.probability.copy_(counts / counts.sum(-1, keepdim=True))
            return
        frequency = _counted(value, states, smoothing)
        with torch.no_grad():
            if len(self.root) == states:
                self.root.copy_(frequency.log())
            else:  # the lowest cutpoint, and the logarithms of the gaps to the next ones
                cutpoints = torch.logit(frequency.cumsum(0)[:-1])
                self.root.copy_(torch.cat([cutpoints[:1], cutpoints.diff().log()]))

    def _place(self, parents: Parents) -> Tensor:
        """The number of each row's configuration of parents, (batch,), the last parent counting fastest; 0 without parents."""
        specs = self._fitted()["parents"]
        if len(specs) != len(parents):
            raise DataError(f"this {type(self).__name__} has {len(specs)} parents, but was given {', '.join(parents) or 'none'}.")
        place = torch.zeros((), dtype=torch.int64)
        for spec, (name, code) in zip(specs, parents.items(), strict=True):
            name, code = (spec["name"], parents[spec["name"]]) if "name" in spec else (name, code)
            if code.numel() and not (code.min() >= 0 and code.max() < spec["states"]):
                raise DataError(f"parent '{name}' has codes {code.min()} to {code.max()}, but {spec['states']} states are known.")
            place = place * spec["states"] + code
        return place

    def log_probabilities(self, parents: Parents) -> Tensor:
        """log p(x = k | pa), (batch, state), or (state,) without parents."""
        if self._counts:
            return rows_of(self.probability.log(), self._place(parents))
        if self.network is None:
            return torch.log_softmax(self.root, dim=-1)
        shift = self.network(self.context(parents))
        return torch.log_softmax(self.root + shift, dim=-1) if len(self.root) == self.states else self._between_cutpoints(shift)

    def _between_cutpoints(self, shift: Tensor) -> Tensor:
        """log [s(c_k - shift) - s(c_(k-1) - shift)], (batch, state), from a shift of (batch, 1)."""
        gaps = self.root[1:].exp()
        above = torch.cat([self.root[:1], self.root[:1] + gaps.cumsum(0)]) - shift
        s = nn.functional.logsigmoid
        # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)), which loses no digits in the tails
        inner = s(above[..., 1:]) + s(-above[..., :-1]) + torch.log(-torch.expm1(-gaps))
        return torch.cat([s(above[..., :1]), inner, s(-above[..., -1:])], dim=-1)

    def edges(self, parents: Parents) -> Tensor:
        """Where the states cut the unit interval, (batch, state + 1), or (state + 1,) without parents."""
        if self._counts:
            return rows_of(edges_of(self.probability.log()), self._place(parents))
        return edges_of(self.log_probabilities(parents))

    def loss(self, value: Tensor, parents: Parents, *, generator: Any = None) -> Tensor:
        log_p = self.log_probabilities(parents).expand(*value.shape, self.states)
        return -log_p.gather(-1, value[..., None])[..., 0]

    def _check_possible(self, impossible: Tensor, value: Tensor) -> None:
        """Raise an AbductionError where a value has probability zero, (batch,)."""
        if impossible.any():
            rows = impossible.nonzero()[:, 0]
            raise AbductionError(
                f"{len(rows)} of {len(value)} values are impossible under their parents, the first one state number "
                f"{int(value[rows[0]])} at position {int(rows[0])}: no noise explains them. Correct the table of probabilities "
                "or the rows."
            )

    @property
    def configurations(self) -> tuple[int, ...]:
        """How many states each parent has; a DataError names a parent that has no states."""
        number = [spec.get("name", "") for spec in self._fitted()["parents"] if "states" not in spec]
        if number:
            raise DataError(f"parent '{number[0]}' is continuous: only discrete parents have configurations to list.")
        return tuple(int(spec["states"]) for spec in self._fitted()["parents"])

    def table(self) -> Tensor:
        """p(x = k) for every configuration of discrete parents, (configuration, state), the last parent counting fastest."""
        sizes = self.configurations
        if self._counts:
            return self.probability
        if math.prod(sizes) > MOST_CONFIGURATIONS:
            raise DataError(f"the parents have {math.prod(sizes)} configurations; at most {MOST_CONFIGURATIONS} are listed.")
        codes = torch.unravel_index(torch.arange(math.prod(sizes)), sizes) if sizes else ()
        names = [spec["name"] for spec in self._fitted()["parents"]]
        with torch.no_grad():
            return self.log_probabilities(dict(zip(names, codes, strict=True))).exp().reshape(-1, self.states)

    @abstractmethod
    def joint(self, parents: Parents, others: Parents) -> Tensor:
        """P(x = j under `parents` and x = k under `others`) of one unit, whose noise is the same: (batch, j, k), exactly.

        This is all that a counterfactual needs to know of the noise, and all that can be known of it is an assumption.
        """

    @abstractmethod
    def response_types(self) -> tuple[Tensor, Tensor]:
        """The mechanism as a finite noise: each type is a function from the parents' configurations to a state.

        Returns:
            The state number for each type and configuration, (type, configuration), the last parent counting fastest, and the
            probability of each type, (type,).

        Raises:
            DataError: a parent is continuous, or the noise has no finite form.
        """
