"""An audit on disk: its evidence row by row, so that numbers, subgroups, comparisons and merging can be done again from it.

manifest.json          schema version, package versions, SHA-256 and size of every file; its `audit` has settings and checks
measured.json          what was measured: names, units, and numbers that are the same for every row
evidence.safetensors   the rows of every measure, and the images
factual.parquet        the attributes that were asked about, and which interventions lead outside the data
answer-K.parquet       counterfactual attributes of the K-th intervention, what was asked, and what it took
errors-K.parquet       how far each of its answers is off
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from causalcf.batch import Batch
from causalcf.errors import StoreError
from causalcf.files import check_replaceable, verify, write_directory
from causalcf.graph import CausalGraph
from causalcf.measures import KINDS, Measured
from causalcf.query import Counterfactual
from causalcf.soundness import AuditReport
from causalcf.tables import as_states, read_table, write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["check_place", "load_report", "save_report"]

_ASKED, _TOOK, _OUTSIDE = "do:", "diagnostics:", "outside:"


def _split(frame: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """The columns that begin with the prefix, without it."""
    names = [name for name in frame.columns if str(name).startswith(prefix)]
    return frame[names].set_axis([str(name)[len(prefix) :] for name in names], axis=1)


def _rest(frame: pd.DataFrame, *prefixes: str) -> pd.DataFrame:
    return frame[[name for name in frame.columns if not str(name).startswith(prefixes)]]


def check_place(path: str | Path, shard: Sequence[int] | None = None) -> None:
    """Refuse a place for an audit that holds anything but an audit of the same part of the rows.

    Args:
        path: of the directory.
        shard: (number, count) of the audit; None is the whole.

    Raises:
        StoreError: what is there.
    """
    there = check_replaceable(path, ["audit"])
    if there is None:
        return
    parts = there["audit"]["settings"].get("shard"), None if shard is None else list(shard)
    if parts[0] != parts[1]:
        found, asked = ("an audit of all rows" if part is None else "shard {}/{} of an audit".format(*part) for part in parts)
        raise StoreError(f"'{path}' holds {found}, and {asked} does not replace it. Choose another name or --out.")


def save_report(report: AuditReport, path: str | Path) -> Path:
    """Write an audit to a directory, complete or not at all; see the module for what is in it."""
    check_place(path, report.settings.get("shard"))

    def write(draft: Path) -> None:
        arrays: dict[str, NDArray[Any]] = {f"factual/{name}": pixels for name, pixels in report.factual.images.items()}
        plain = [field.name for field in fields(Measured) if field.name not in KINDS]
        table = []
        for place, one in enumerate([*report.measured, *report.weighted]):
            entry = {name: getattr(one, name) for name in plain}
            for kind in KINDS:
                rows = getattr(one, kind)
                if isinstance(rows, np.ndarray):
                    arrays[f"measured/{place}/{kind}"] = rows
                elif rows is not None:
                    entry[kind] = rows
            table.append(entry)
        (draft / "measured.json").write_text(json.dumps(table, indent=1))
        write_table(pd.concat([report.factual.frame, report.outside.add_prefix(_OUTSIDE)], axis=1), draft / "factual.parquet")
        for place, answer in enumerate(report.answers.values()):
            arrays |= {f"answer/{place}/{name}": pixels for name, pixels in answer.images.items()}
            asked = pd.DataFrame({f"{_ASKED}{name}": column for name, column in answer.do.items()})
            told = answer.diagnostics.add_prefix(_TOOK)
            whole = pd.concat([answer.frame, asked, told, answer.identified.rename(f"{_TOOK}identified")], axis=1)
            write_table(whole, draft / f"answer-{place}.parquet")
        for place, label in enumerate(report.answers):
            if label in report.errors:
                write_table(report.errors[label].to_frame("error"), draft / f"errors-{place}.parquet")
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft / "evidence.safetensors")

    answers = [
        {"label": label, "changed": sorted(answer.changed), "why_not": dict(answer.why_not)}
        for label, answer in report.answers.items()
    ]
    audit = {"graph": report.factual.graph.to_dict(), "settings": dict(report.settings), "answers": answers}
    return write_directory(path, write, {"audit": {**audit, "checks": report.checks.to_dict("records")}})


def load_report(path: str | Path) -> AuditReport:
    """The audit that `save_report` wrote, once every file has been found to be what was written."""
    path = Path(path)
    record = verify(path).get("audit")
    if record is None:
        raise StoreError(f"'{path}' holds no audit. An audit's evidence is in the folder 'evidence' of its --out.")
    arrays = load_file(path / "evidence.safetensors")

    def images(prefix: str) -> dict[str, NDArray[np.uint8]]:
        return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}

    measured = []
    for place, entry in enumerate(json.loads((path / "measured.json").read_text())):
        rows = {kind: arrays[f"measured/{place}/{kind}"] for kind in KINDS if f"measured/{place}/{kind}" in arrays}
        measured.append(Measured(**{**entry, **rows}))
    graph = CausalGraph.from_dict(record["graph"])
    table = read_table(path / "factual.parquet", graph=graph)
    factual = Batch(graph, _rest(table, _OUTSIDE), images("factual/"))
    answers, errors = {}, {}
    for place, answer in enumerate(record["answers"]):
        frame, label = read_table(path / f"answer-{place}.parquet", graph=graph), answer["label"]
        told, asked = _split(frame, _TOOK), as_states(_split(frame, _ASKED), graph)
        answers[label] = Counterfactual(
            _rest(frame, _ASKED, _TOOK), images(f"answer/{place}/"), factual, {name: asked[name] for name in asked},
            frozenset(answer["changed"]), told.pop("identified"), answer["why_not"], diagnostics=told,
        )  # fmt: skip
        if (path / f"errors-{place}.parquet").is_file():
            errors[label] = read_table(path / f"errors-{place}.parquet")["error"].rename(None)
    checks = pd.DataFrame(record["checks"])
    own, weighted = ([one for one in measured if (one.weight is None) == is_own] for is_own in (True, False))
    return AuditReport(own, checks, record["settings"], factual, answers, errors, _split(table, _OUTSIDE), weighted)
