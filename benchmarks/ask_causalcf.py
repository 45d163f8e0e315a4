"""causalcf's answers, for `attributes.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from asking import serve
from scms import Study

# by name, because causalcf imports torch when one of its names is first used: that is no part of a fit
from causalcf import SCM, Batch, CausalGraph, LinearGaussian, Node, Shift, counterfactual, fit


def _fit(study: Study, train: pd.DataFrame, mechanisms: str) -> SCM:
    graph = CausalGraph(study.name, [Node(name, "continuous", parents=above) for name, above in study.parents.items()])
    named = {name: LinearGaussian() for name in graph.order} if mechanisms == "linear" else {}
    return fit(SCM(graph, named), Batch(graph, train), seed=0)


def _ways(study: Study, scm: SCM, factual: pd.DataFrame) -> Mapping[str, Callable[[], Mapping[str, Any]]]:
    do = {study.node: Shift(study.by) if study.by is not None else study.to}
    batch = Batch(scm.graph, factual)
    return {
        "causalcf": lambda: counterfactual(scm, batch, do).frame,
        "causalcf, Batch too": lambda: counterfactual(scm, Batch(scm.graph, factual), do).frame,
    }


if __name__ == "__main__":
    serve(_fit, _ways, lambda scm: {name: type(mechanism).__name__ for name, mechanism in scm.mechanisms.items()})
