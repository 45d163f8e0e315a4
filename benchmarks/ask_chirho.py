"""ChiRho's answers on a linear-Gaussian study, for `attributes.py`; runs in the peers' environment.

The program is the study's, with the least-squares coefficients. Its sites are affine maps of a standard normal, which is what
lets ChiRho abduct their noise exactly: `condition` on a `TransformedDistribution` under `MultiWorldCounterfactual`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from asking import serve
from chirho.counterfactual.handlers import MultiWorldCounterfactual
from chirho.indexed.ops import IndexSet, gather
from chirho.interventional.handlers import do
from chirho.observational.handlers import condition
from scms import Study

Line = tuple[float, np.ndarray, float]


def _fit(study: Study, train: pd.DataFrame, mechanisms: str) -> dict[str, Line]:
    lines = {}
    for name, parents in study.parents.items():
        design = np.column_stack([np.ones(len(train)), *(train[parent] for parent in parents)])
        weights, *_ = np.linalg.lstsq(design, train[name].to_numpy(), rcond=None)
        lines[name] = (float(weights[0]), weights[1:], float((train[name] - design @ weights).std()))
    return lines


def _program(study: Study, lines: Mapping[str, Line], rows: int) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = {}
    with pyro.plate("rows", rows, dim=-1):
        for name, parents in study.parents.items():
            start, weights, scale = lines[name]
            place = torch.tensor(start, dtype=torch.float64)
            for weight, parent in zip(weights, parents, strict=True):
                place = place + float(weight) * values[parent]
            unit = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
            values[name] = pyro.sample(name, dist.TransformedDistribution(unit, dist.transforms.AffineTransform(place, scale)))
    return values


def _ways(study: Study, lines: Mapping[str, Line], factual: pd.DataFrame) -> Mapping[str, Callable[[], Mapping[str, Any]]]:
    rows, names = len(factual), list(study.equations)
    act = torch.tensor(study.to, dtype=torch.float64)

    def ask() -> dict[str, torch.Tensor]:
        data = {name: torch.from_numpy(factual[name].to_numpy()) for name in names}
        with (
            torch.no_grad(),
            MultiWorldCounterfactual(first_available_dim=-2),
            do(actions={study.node: act}),
            condition(data=data),
        ):
            worlds = _program(study, lines, rows)
            return {name: gather(worlds[name], IndexSet(**{study.node: {1}}), event_dim=0) for name in names}

    return {"ChiRho": ask}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
    pyro.settings.set(validate_distributions_pyro=False, validate_distributions_torch=False)
    serve(_fit, _ways, lambda lines: dict.fromkeys(lines, "least squares"))
