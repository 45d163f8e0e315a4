"""What every contender does alike in its own process: fit, answer, be timed. The standard library, numpy and pandas alone.

A contender is a `fit` that makes a model from a study and a table, a `ways` that names one or more callables which answer the
study's question about a table, and a `describe` that says what each node's mechanism became. `serve` does the job in the file
that the command line names and prints one JSON line a result.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scms import STUDIES, Study

__all__ = ["Describe", "Fit", "Ways", "columns", "serve"]

Fit = Callable[[Study, pd.DataFrame, str], Any]
Ways = Callable[[Study, Any, pd.DataFrame], Mapping[str, Callable[[], Mapping[str, Any]]]]
Describe = Callable[[Any], Mapping[str, str]]
_REPEATS = 20


def serve(fit: Fit, ways: Ways, describe: Describe) -> None:
    """Do the job in the file that the command line names."""
    with open(sys.argv[1]) as file:
        job = json.load(file)
    study = STUDIES[job["study"]]
    train, start = _read(job["train"])[0], time.perf_counter()
    model = fit(study, train, job["mechanisms"])
    common = {"fit_s": time.perf_counter() - start, "chosen": describe(model)}
    for path in job["factual"]:
        factual, truth = _read(path)
        for way, ask in ways(study, model, factual).items():
            seconds, cpu, answer = _time(ask, job["seconds"])
            errors = study.errors(columns(factual), columns(truth), columns(answer))
            _print(way, len(factual), seconds, cpu, errors, common)
    if job["large"]:
        _large(study, model, ways, job["large"], common)


def _large(study: Study, model: Any, ways: Ways, rows: int, common: Mapping[str, Any]) -> None:
    """One answer about very many rows: how long it takes and the most memory the process ever had, its start and fit included."""
    seed, first = 10_000, 1_000_000
    frame = pd.DataFrame(study.table(rows, seed, chunk=first).T, columns=list(study.equations), copy=False)
    for way, ask in list(ways(study, model, frame).items())[:1]:
        start, before = time.perf_counter(), time.process_time()
        answer = ask()
        seconds, cpu = time.perf_counter() - start, time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
        factual, truth = study.draw(min(first, rows), seed, truth=True)
        some = {name: np.asarray(answer[name]).reshape(-1)[:first] for name in study.affected}
        _print(way, rows, [seconds], [cpu], study.errors(factual, truth, some), {**common, "peak_gb": peak})


def _read(path: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    with np.load(path) as stored:
        tables = [{name[2:]: stored[name] for name in stored.files if name.startswith(kind)} for kind in ("x.", "y.")]
    return pd.DataFrame(tables[0]), pd.DataFrame(tables[1])


def columns(table: Mapping[str, Any] | pd.DataFrame) -> dict[str, np.ndarray]:
    """The table's columns as numpy arrays, (row,)."""
    return {str(name): np.asarray(table[name]).reshape(-1) for name in list(table)}


def _time(ask: Callable[[], Any], budget: float) -> tuple[list[float], list[float], Any]:
    """Seconds by the clock, and of the processor, of every repeat after a warm one, within a budget, twice at least."""
    answer, seconds, cpu = ask(), [], []
    while len(seconds) < 2 or (sum(seconds) < budget and len(seconds) < _REPEATS):
        answer, start, before = None, time.perf_counter(), time.process_time()
        answer = ask()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - before)
    return seconds, cpu, answer


def _print(
    way: str, rows: int, seconds: list[float], cpu: list[float], errors: Mapping[str, float], common: Mapping[str, Any]
) -> None:
    record = {"who": way, "rows": rows, "min_s": min(seconds), "median_s": statistics.median(seconds), "cpu_s": min(cpu)}
    print(json.dumps({**record, "repeats": len(seconds), "errors": errors, **common}), flush=True)
