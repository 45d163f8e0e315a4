"""How the rows of an audit are scored: what judges read, there and back, distances, noise and support, row by row.

The measures are listed in `causalcf.soundness`, which puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from causalcf.batch import Batch
from causalcf.encoding import decode_image, encode_image
from causalcf.errors import DataError
from causalcf.graph import Node
from causalcf.image import Diffusion
from causalcf.measures import Better, Measured, Role
from causalcf.metrics import image_distance, target_error
from causalcf.query import CHUNK, Abduction, Counterfactual, abduct, counterfactual, reconstruct
from causalcf.scm import SCM
from causalcf.seeds import RowGenerator, row_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REFERENCES = 1000  # real images at most that minimality compares distances with
_NEAR = 0.1  # the share of rows whose number counts as the same as a given one

# ------------------------------------------------------------------ what judges see


Distance = Callable[["NDArray[np.uint8]", "NDArray[np.uint8]"], "NDArray[np.float64]"]
"""two batches of images -> one number a row"""


def _by_parts(distance: Distance, images: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A distance a row, in the same parts however many rows there are."""
    parts = [slice(place, place + CHUNK) for place in range(0, len(images), CHUNK)]
    return np.concatenate([np.zeros(0), *(np.asarray(distance(images[part], target[part])) for part in parts)])


class Reading(NamedTuple):
    """What a judge reads off images, a row each."""

    values: NDArray[Any]
    scores: NDArray[np.float64] | None  # of every label
    features: NDArray[np.float64] | None


def ask_judge(judge: Any, seen: Any) -> Reading:
    """A judge's reading, in the same parts however many rows there are, so that a row's is the same to the bit."""
    size = getattr(judge, "rows_at_once", CHUNK)
    parts = [seen[place : place + size] for place in range(0, len(seen), size)]

    def ask(question: Callable[[Any], Any] | None) -> Any:
        return None if question is None else np.concatenate([np.asarray(question(part)) for part in parts])

    scores = ask(getattr(judge, "scores", None))
    values = ask(judge)
    if values.shape[:1] != (len(seen),) or values.ndim != 1:
        name = getattr(judge, "__name__", type(judge).__name__)
        raise DataError(f"the judge {name} gave {values.shape} for {len(seen)} rows. A judge gives one number or label a row.")
    return Reading(values, scores, ask(getattr(judge, "features", None)))


def _codes(node: Node, labels: Any) -> NDArray[np.float64]:
    places = {label: place for place, label in enumerate(node.states or ())}
    return np.array([places.get(label, -1) for label in labels], dtype=np.float64)


def _score_reading(
    node: Node, label: str, role: Role, read: Reading, wanted: NDArray[Any], real: Reading, had: NDArray[Any],
    other: Reading, true: Reading | None,
) -> list[Measured]:  # fmt: skip
    """Effectiveness and amplification of one attribute under one intervention.

    Args:
        node: the attribute.
        label: of the intervention.
        role: of the attribute under it.
        read: the judge's reading of the counterfactuals.
        wanted: what they should show.
        real: its reading of the factual rows.
        had: what they show.
        other: its reading of other factual rows.
        true: its reading of the true counterfactuals.
    """
    about: dict[str, Any] = {"do": label, "attribute": node.name, "role": role}
    unit = "accuracy" if node.discrete else node.unit or ""
    better: Better = "high" if node.discrete else "low"

    def error(found: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
        return target_error(found, target, discrete=node.discrete)

    value, floor, ceiling = error(read.values, wanted), error(real.values, had), error(other.values, had)
    truth = None if true is None else error(true.values, wanted)
    found = [
        Measured("effectiveness", value, floor=floor, ceiling=ceiling, truth=truth, unit=unit, better=better, **about),
        Measured(
            "amplification", value - floor, scale=100.0 if node.discrete else 1.0, floor=0.0, ceiling=ceiling - floor,
            unit="point of accuracy" if node.discrete else unit, better="zero", **about,
        ),
    ]  # fmt: skip
    if not node.discrete:
        return found
    asked, shown = _codes(node, wanted), _codes(node, had)

    def pairs(codes: NDArray[np.float64], reading: Reading) -> NDArray[np.float64]:
        return np.stack([codes, _codes(node, reading.values)], axis=1)

    def scored(codes: NDArray[np.float64], reading: Reading) -> NDArray[np.float64]:
        return np.column_stack([codes, np.asarray(reading.scores)])

    has_scores = read.scores is not None and real.scores is not None
    for statistic, rows in (("f1", pairs), ("auroc", scored)) if has_scores else (("f1", pairs),):
        found.append(
            Measured(
                f"effectiveness.{statistic}", rows(asked, read), statistic=statistic, floor=rows(shown, real),
                ceiling=rows(shown, other),
                truth=None if true is None else rows(asked, true), unit=statistic.upper(), better="high", **about,
            )
        )  # fmt: skip
    if not has_scores:
        return found
    both, blind = (np.concatenate([scored(*some), scored(shown, real)], axis=1) for some in ((asked, read), (shown, other)))
    found.append(
        Measured(
            "amplification.auroc", both, statistic="auroc_gain", scale=100.0, floor=0.0, ceiling=blind,
            unit="point of AUROC", better="zero", **about,
        )
    )  # fmt: skip
    return found


# ------------------------------------------------------------------ the rows, and what they are compared with


class AuditedRows:
    """The whole batch, the part of it that this audit is about, and what is known of the real rows.

    Args:
        scm: the model.
        whole: the batch.
        part: of it.
        judges: by attribute.
        distances: between images, beside L1.
        groups: a column of the batch, such as the patient.
    """

    def __init__(
        self, scm: SCM, whole: Batch, part: slice, judges: Mapping[str, Any], distances: Mapping[str, Distance],
        groups: str | None = None,
    ) -> None:  # fmt: skip
        self.graph, self.whole, self.part, self.judges, self.groups = scm.graph, whole, part, judges, groups
        self.distances: dict[str, Distance] = {"": image_distance, **distances}
        self.image = next(iter(scm.graph.images), None)
        self.batch = whole.rows(part)
        seen = whole.images[self.image] if self.image else whole.frame
        self.real = {name: ask_judge(judge, seen) for name, judge in judges.items()}
        self.references = min(len(whole), _REFERENCES)
        self.features = next((read.features for read in self.real.values() if read.features is not None), None)
        if self.features is None and self.image:
            self.features = whole.images[self.image].reshape(len(whole), -1) / 255
        self.parents = list(scm.graph.parents(self.image)) if self.image else list(scm.graph.attributes)

    def apart(
        self, measure: str, images: NDArray[np.uint8], target: NDArray[np.uint8], other: NDArray[np.uint8], **about: Any
    ) -> list[Measured]:
        """How far images are from what they should be, by every distance.

        Args:
            measure: its name.
            images, target: (row, channel, height, width).
            other: what a method that does not look would give.
            about: the intervention.
        """
        found = []
        for name, distance in self.distances.items():
            value, ceiling = (_by_parts(distance, some, target) for some in (images, other))
            read, unit = (f"{self.image} by {name}", name) if name else (self.image or "", "grey level")
            found.append(Measured(measure, value, attribute=read, floor=0.0, ceiling=ceiling, unit=unit, **about))
        return found

    @cached_property
    def others(self) -> NDArray[np.int64]:
        """The place of another row for each of the part, of another group where there is one.

        It is the next in an order that the names of the rows give: a table that is sorted has rows that are alike side by side.
        """
        index = self.whole.frame.index
        order = np.argsort(RowGenerator(0, row_keys(index), "other row").uniform().numpy(), kind="stable")
        group = pd.factorize(self.whole.frame[self.groups])[0][order] if self.groups else np.arange(len(index))
        last = np.flatnonzero(group != np.roll(group, -1))  # of a run of rows of one group
        if not len(last):
            last = np.arange(len(index))
        following = last[np.searchsorted(last, np.arange(len(index))) % len(last)] + 1
        found = np.empty(len(index), dtype=np.int64)
        found[order] = order[following % len(index)]
        return found[self.part]

    def first(self, count: int | None) -> slice:
        """Those of the part that are among the first rows of the whole; one where there is none, see `cut`."""
        return slice(0, max(1, self._among(count)))

    def _among(self, count: int | None) -> int:
        return len(self.batch) if count is None else max(0, min(count - self.part.start, len(self.batch)))

    def cut(self, found: list[Measured], count: int | None) -> list[Measured]:
        """What was measured on `first(count)`, without the row that stands for none: every part measures the same."""
        among = np.arange(len(self.batch)) < self._among(count)
        return [one.rows(among) for one in found]

    def reading(self, name: str, places: slice | NDArray[np.int64]) -> Reading:
        """A judge's reading of some of the real rows."""
        read = self.real[name]
        scores, features = (None if column is None else column[places] for column in (read.scores, read.features))
        return Reading(read.values[places], scores, features)

    @cached_property
    def _standard(self) -> tuple[list[str], list[str], NDArray[np.float64]]:
        numbers = [name for name in self.parents if not self.graph.node(name).discrete]
        labels = [name for name in self.parents if self.graph.node(name).discrete]
        scale = self.whole.frame[numbers].std(ddof=0).to_numpy(float)
        return numbers, labels, np.where(scale > 0, scale, 1.0)

    def nearest(self, frame: pd.DataFrame, *, but_itself: bool = False) -> NDArray[np.float64]:
        """The distance of each row from the nearest real row with its labels, in standard deviations, (row,); inf without one.

        Args:
            frame: attributes.
            but_itself: the rows are the real ones, and the nearest other one counts.
        """
        from scipy.spatial import cKDTree

        numbers, labels, scale = self._standard
        whole = self.whole.frame
        keys = [pd.Series("", index=table.index).str.cat([table[name].astype(str) for name in labels], sep="\0") if labels
                else pd.Series("", index=table.index) for table in (whole, frame)]  # fmt: skip
        distance = np.full(len(frame), np.inf)
        for key in keys[1].unique():
            real, asked = (keys[0] == key).to_numpy(), (keys[1] == key).to_numpy()
            if real.sum() > but_itself:
                if not numbers:
                    distance[asked] = 0.0
                    continue
                tree = cKDTree(whole.loc[real, numbers].to_numpy(float) / scale)
                found = tree.query(frame.loc[asked, numbers].to_numpy(float) / scale, k=2 if but_itself else 1)[0]
                distance[asked] = found[:, 1] if but_itself else found
        return distance

    @cached_property
    def alone(self) -> tuple[NDArray[np.bool_], float]:
        """The real rows that are like no other, (row,), and from which distance on: one in a hundred is."""
        distance = self.nearest(self.whole.frame, but_itself=True)
        known = distance[np.isfinite(distance)]
        limit = float(np.quantile(known, 0.99)) if len(known) else np.inf
        return distance > limit, limit

    @cached_property
    def to_references(self) -> NDArray[np.float64]:
        """Distances in features from each row to the first real rows, (row, reference)."""
        features = torch.as_tensor(np.asarray(self.features, dtype=np.float64))
        mine, reference = features[self.part], features[: self.references]
        return torch.cdist(mine, reference, compute_mode="donot_use_mm_for_euclid_dist").numpy()

    def alike(self, frame: pd.DataFrame, names: Sequence[str]) -> NDArray[np.bool_]:
        """For each row, the reference rows that have its value of these attributes: its label, or a number near to it."""
        whole, found = self.whole.frame.iloc[: self.references], np.ones((len(frame), self.references), dtype=bool)
        for name in names:
            mine, real = frame[name].to_numpy()[:, None], whole[name].to_numpy()[None, :]
            if self.graph.node(name).discrete:
                found &= mine == real
            else:
                apart = np.abs(mine.astype(float) - real.astype(float))
                found &= apart <= np.sort(apart, axis=1)[:, [int(np.ceil(_NEAR * self.references)) - 1]]
        return found


def _score_minimality(
    rows: AuditedRows, real: NDArray[np.float64], answer: Counterfactual, label: str, features: NDArray[np.float64],
    true: NDArray[np.float64] | None,
) -> Measured:  # fmt: skip
    """Counterfactual latent divergence, log(.2 exp P(S_cf <= d) + .8 exp P(S_f >= d)), d the distance of x* from x in features.

    S_cf are the distances of x from real images that show what x* should, S_f from those that show what x does: low is an image
    nearer to x than others of the new value are, and farther than others of the old value.
    """
    mine, apart = real[rows.part], rows.to_references
    places = np.arange(len(rows.whole))[rows.part]
    itself = np.arange(rows.references)[None, :] == places[:, None]
    names = list(answer.do)
    asked, had = (rows.alike(frame, names) & ~itself for frame in (answer.frame, answer.factual.frame))

    def share(which: NDArray[np.bool_], meets: NDArray[np.bool_]) -> NDArray[np.float64]:
        count = which.sum(axis=1)
        return np.where(count > 0, (which & meets).sum(axis=1) / np.maximum(count, 1), 0.5)

    def divergence(found: NDArray[np.float64]) -> NDArray[np.float64]:
        distance = np.sqrt(((found - mine) ** 2).sum(axis=1))[:, None]
        return np.asarray(np.log(0.2 * np.exp(share(asked, apart <= distance)) + 0.8 * np.exp(share(had, apart >= distance))))

    return Measured(
        "minimality", divergence(features), do=label, attribute=rows.image or "", unit="CLD",
        ceiling=divergence(real[rows.others]),
        truth=None if true is None else divergence(true),
    )  # fmt: skip


def _role(answer: Counterfactual, name: str) -> Role:
    return "intervened" if name in answer.do else "affected" if name in answer.changed else "invariant"


def score_judged(rows: AuditedRows, answer: Counterfactual, label: str, true: Any) -> list[Measured]:
    """What the judges read off the counterfactuals under one intervention, and how real they look to them."""
    found: list[Measured] = []
    seen = answer.images[rows.image] if rows.image else answer.frame
    nearest: tuple[NDArray[np.float64], NDArray[np.float64] | None] | None = None
    for name, judge in rows.judges.items():
        seen_by = (node.name for node in getattr(judge, "inputs", ()))
        if any(one in answer.do and name in rows.graph.parents(one) for one in seen_by):
            continue  # set from outside, an effect no longer tells of its cause
        read, real, other = ask_judge(judge, seen), rows.reading(name, rows.part), rows.reading(name, rows.others)
        told = None if true is None else ask_judge(judge, true)
        wanted, had = answer.frame[name].to_numpy(), rows.batch.frame[name].to_numpy()
        found += _score_reading(rows.graph.node(name), label, _role(answer, name), read, wanted, real, had, other, told)
        if read.features is not None and real.features is not None:
            nearest = nearest or (read.features, None if told is None else told.features)
            truth = None if told is None else np.concatenate([told.features, real.features], axis=1)
            found.append(
                Measured(
                    "realism", np.concatenate([read.features, real.features], axis=1), do=label, attribute=name,
                    statistic="frechet", floor=real.features, truth=truth, unit=f"FD@{name} judge", better="floor",
                )
            )  # fmt: skip
    if rows.image and rows.features is not None:
        if nearest is None:
            flat = answer.images[rows.image].reshape(len(rows.batch), -1) / 255
            nearest = flat, None if true is None else true.reshape(len(rows.batch), -1) / 255
        found.append(_score_minimality(rows, rows.features, answer, label, *nearest))
    return found


def _columns(
    rows: AuditedRows, measure: str, label: str, names: Sequence[str], found: pd.DataFrame, target: pd.DataFrame,
    other: pd.DataFrame, answer: Counterfactual | None = None,
) -> list[Measured]:  # fmt: skip
    """How far attributes are from what they should be: numbers in their unit, labels in points of rows that differ.

    Args:
        rows: of the audit.
        measure: its name.
        label: of the intervention.
        names: of the attributes.
        found: their values.
        target: what they should be.
        other: what a method that does not look would give.
        answer: for the role of each attribute.
    """
    measured = []
    for name in (name for name in rows.graph.attributes if name in names):
        node = rows.graph.node(name)

        def distance(frame: pd.DataFrame, name: str = name, discrete: bool = node.discrete) -> NDArray[np.float64]:
            error = target_error(frame[name].to_numpy(), target[name].to_numpy(), discrete=discrete)
            return 1 - error if discrete else error

        measured.append(
            Measured(
                measure, distance(found), do=label, attribute=name, role="" if answer is None else _role(answer, name),
                scale=100.0 if node.discrete else 1.0, floor=0.0, ceiling=distance(other),
                unit="percent of rows" if node.discrete else node.unit or "",
            )
        )  # fmt: skip
    return measured


# ------------------------------------------------------------------ one intervention


def score_back(
    scm: SCM, rows: AuditedRows, answer: Counterfactual, label: str, cycles: Sequence[int], again_rows: int | None, seed: int
) -> list[Measured]:
    """There and back again, so many times."""
    some, found = rows.first(again_rows), list[Measured]()
    factual, there = rows.batch.rows(some), answer.batch.rows(some)
    asked, home = ({name: frame[name] for name in answer.do} for frame in (there.frame, factual.frame))
    for cycle in range(1, max(cycles) + 1):
        back = counterfactual(scm, there, home, seed=seed)
        if cycle in cycles:
            measure = f"reversibility.{cycle}"
            if rows.image is None:
                moved = answer.frame.iloc[some]
                names = [name for name in scm.graph.attributes if name in answer.changed]
                found += _columns(rows, measure, label, names, back.frame, factual.frame, moved, answer)
            else:
                moved, real = answer.images[rows.image][some], factual.images[rows.image]
                found += rows.apart(measure, back.images[rows.image], real, moved, do=label)
        if cycle < max(cycles):
            there = counterfactual(scm, back.batch, asked, seed=seed).batch
    return rows.cut(found, again_rows)


def score_truth(rows: AuditedRows, answer: Counterfactual, label: str, true: Any) -> list[Measured]:
    """How far the counterfactuals are from the true ones, where those are known."""
    if true is None:
        return []
    if rows.image is None:
        names = [name for name in rows.graph.attributes if name in answer.changed and name in true]
        return _columns(rows, "true_error", label, names, answer.frame, true, rows.batch.frame, answer)
    return rows.apart("true_error", answer.images[rows.image], true, rows.batch.images[rows.image], do=label)


def score_support(rows: AuditedRows, answer: Counterfactual, label: str) -> tuple[Measured, NDArray[np.bool_]]:
    """The share of interventions that lead outside the data, and which: their nearest row is farther than a row's usually is."""
    real, limit = rows.alone
    outside = rows.nearest(answer.frame) > limit
    floor = real[rows.part].astype(np.float64)
    return Measured(
        "support", outside.astype(np.float64), do=label, attribute=", ".join(answer.do), scale=100.0, floor=floor,
        unit="percent of rows", better="floor",
    ), outside  # fmt: skip


# ------------------------------------------------------------------ the model by itself


def score_noise(scm: SCM, rows: AuditedRows, abduction: Abduction) -> list[Measured]:
    """Whether the abducted noise follows its prior, node by node, and is independent between nodes."""
    found: list[Measured] = []
    normal: dict[str, NDArray[np.float64]] = {}
    for name in scm.graph.attributes:
        prior, noise = scm.mechanisms[name].noise_prior(), abduction.noise[name]
        base = getattr(prior, "base_dist", prior) if noise.dim() > 1 else prior
        try:
            uniform = base.cdf(noise).double().numpy().reshape(len(noise), -1)
        except NotImplementedError:
            continue
        found.append(Measured("noise_fit", uniform, attribute=name, statistic="kolmogorov", unit="probability", better="floor"))
        if uniform.shape[1] == 1:
            clipped = torch.as_tensor(uniform[:, 0]).clamp(1e-9, 1 - 1e-9)
            normal[name] = torch.special.ndtri(clipped).numpy()
    names = list(normal)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            pair = np.stack([normal[one], normal[other]], axis=1)
            found.append(
                Measured(
                    "noise_independence", pair, attribute=f"{one}, {other}", statistic="correlation", unit="correlation",
                    better="floor",
                )
            )  # fmt: skip
    if rows.image is not None:
        spread = abduction.noise[rows.image].flatten(1).double().numpy()
        found.append(Measured("image_noise", np.sqrt((spread**2).mean(axis=1)), attribute=rows.image, floor=1.0, better="floor"))
    return found


def score_composition(
    scm: SCM, rows: AuditedRows, abduction: Abduction, rounds: Sequence[int], again_rows: int | None, seed: int
) -> list[Measured]:
    """Abducted and predicted under no intervention, so many rounds in a row."""
    if rows.image is None:
        again, factual = reconstruct(abduction).frame, rows.batch.frame
        other = rows.whole.frame.iloc[rows.others]
        return _columns(rows, "composition.1", "", scm.graph.attributes, again, factual, other)
    found, real = [], rows.batch.images[rows.image]
    if isinstance(mechanism := scm.mechanisms[rows.image], Diffusion):
        through = mechanism.round_trip(encode_image(real))
        if through is not None:
            distance = image_distance(decode_image(through), real)
            found.append(Measured("autoencoder", distance, attribute=rows.image, floor=0.0, unit="grey level"))
    other = rows.whole.images[rows.image][rows.others]
    current = abduction
    for number in range(1, max(rounds) + 1):
        again = reconstruct(current)
        if number in rounds:
            measure, count = f"composition.{number}", len(again)
            home, others = rows.batch.frame.iloc[:count], rows.whole.frame.iloc[rows.others[:count]]
            scored = rows.apart(measure, again.images[rows.image], real[:count], other[:count])
            scored += _columns(rows, measure, "", scm.graph.attributes, again.frame, home, others)
            found += scored if number == 1 else rows.cut(scored, again_rows)
        if number == max(rounds):
            break
        if number == 1:
            again = again.rows(rows.first(again_rows))
        current = abduct(scm, again, seed=seed)
    return found


def score_evaluations(rows: AuditedRows, diagnostics: pd.DataFrame, label: str) -> list[Measured]:
    """Passes of the image's network: of abduction, or of prediction under an intervention."""
    column = f"{rows.image}.{'prediction_evaluations' if label else 'evaluations'}"
    if column not in diagnostics:
        return []
    passes = diagnostics[column].to_numpy(float)
    return [Measured("evaluations", passes, do=label, attribute=rows.image or "", unit="evaluation")]
