"""DoWhy's answers, for `attributes.py`; runs in the peers' environment."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import networkx as nx
import pandas as pd
from asking import serve
from dowhy import gcm
from scms import Study


def _fit(study: Study, train: pd.DataFrame, mechanisms: str) -> gcm.InvertibleStructuralCausalModel:
    gcm.config.disable_progress_bars()
    gcm.config.set_default_n_jobs(int(os.environ.get("OMP_NUM_THREADS", "-1")))
    gcm.util.general.set_random_seed(0)
    graph = nx.DiGraph([(above, name) for name, parents in study.parents.items() for above in parents])
    graph.add_nodes_from(study.equations)
    model = gcm.InvertibleStructuralCausalModel(graph)
    if mechanisms == "automatic":
        gcm.auto.assign_causal_mechanisms(model, train)
    else:
        for name, parents in study.parents.items():
            additive = gcm.AdditiveNoiseModel(gcm.ml.create_linear_regressor()) if parents else gcm.EmpiricalDistribution()
            model.set_causal_mechanism(name, additive)
    gcm.fit(model, train)
    return model


def _ways(
    study: Study, model: gcm.InvertibleStructuralCausalModel, factual: pd.DataFrame
) -> Mapping[str, Callable[[], Mapping[str, Any]]]:
    to, by = study.to, study.by
    do = {study.node: (lambda value: value + by) if by is not None else (lambda value: to)}  # DoWhy calls it once a row
    return {"DoWhy": lambda: gcm.counterfactual_samples(model, do, observed_data=factual)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve(_fit, _ways, lambda model: {name: str(model.causal_mechanism(name)) for name in model.graph.nodes})
