"""Counterfactual images from structural causal models, and the audit that says whether they hold.

Everything public is a name of this package and is imported when it is first used, so that `import causalcf` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causalcf.archive import load_report, save_report
    from causalcf.attributes import (
        AdditiveNoise,
        Categorical,
        Empirical,
        Equation,
        Flow,
        LinearGaussian,
        LocationScale,
        Monotone,
        ResponseType,
    )
    from causalcf.autoencoder import Autoencoder
    from causalcf.batch import Batch
    from causalcf.card import model_card
    from causalcf.comparing import compare
    from causalcf.datasets.fashion_mnist import FashionMNIST
    from causalcf.datasets.folder import read_folder
    from causalcf.datasets.morphomnist import MorphoMNIST
    from causalcf.datasets.nih_chest import read_nih_chest
    from causalcf.datasets.phantoms.studies import phantom
    from causalcf.datasets.readers import held_out, read_study
    from causalcf.effects import (
        Bounds,
        Effect,
        ate,
        cate,
        causation_bounds,
        direct_effect,
        indirect_effect,
        ite,
        probability_of_necessity,
        probability_of_necessity_and_sufficiency,
        probability_of_sufficiency,
    )
    from causalcf.errors import AbductionError, CausalCFError, DataError, GraphError, NotFittedError, StoreError
    from causalcf.evidence import Posterior, infer_missing
    from causalcf.graph import CausalGraph, Node, graph_names, load_graph
    from causalcf.guidance import (
        ClassifierFree,
        Decoupled,
        Guidance,
        Plain,
        PlusPlus,
        Projected,
        Rescaled,
        Scheduled,
        parse_guidance,
    )
    from causalcf.guider import CausalGuider
    from causalcf.identify import (
        GraphCheck,
        Independence,
        adjustment_sets,
        ancestors,
        check,
        frontdoor_sets,
        identifiable,
        implied_independencies,
        is_adjustment_set,
        is_frontdoor_set,
        minimal_adjustment_set,
        minimal_adjustment_sets,
        separated,
    )
    from causalcf.image import Diffusion
    from causalcf.interventions import Policy, Scale, Shift
    from causalcf.judges import NetworkJudge, Ruler, fit_judges
    from causalcf.mechanism import Mechanism
    from causalcf.plot import counterfactual_figure, to_png
    from causalcf.query import Abduction, Counterfactual, abduct, choose_steps, counterfactual, reconstruct
    from causalcf.recipes import recipe
    from causalcf.reproduction import Reproduction, reproduce
    from causalcf.scm import SCM
    from causalcf.solvers import DDIM, EDICT, OBELM, Anderson, DPMSolverPP, EditFriendly, FixedPoint, Heun, Solver
    from causalcf.soundness import AuditReport, audit, merge_audits
    from causalcf.store import load, model_names, save
    from causalcf.subgroups import Subgroups
    from causalcf.table_judges import TableJudge
    from causalcf.tables import read_table, write_table
    from causalcf.trainer import Training
    from causalcf.training import fit, fit_autoencoder
    from causalcf.tuning import Tuning, tune

_HOME = {
    "archive": ("load_report", "save_report"),
    "attributes": (
        "AdditiveNoise",
        "Categorical",
        "Empirical",
        "Equation",
        "Flow",
        "LinearGaussian",
        "LocationScale",
        "Monotone",
        "ResponseType",
    ),
    "autoencoder": ("Autoencoder",),
    "batch": ("Batch",),
    "card": ("model_card",),
    "comparing": ("compare",),
    "datasets.fashion_mnist": ("FashionMNIST",),
    "datasets.folder": ("read_folder",),
    "datasets.morphomnist": ("MorphoMNIST",),
    "datasets.nih_chest": ("read_nih_chest",),
    "datasets.phantoms.studies": ("phantom",),
    "datasets.readers": ("held_out", "read_study"),
    "effects": (
        "Bounds",
        "Effect",
        "ate",
        "cate",
        "causation_bounds",
        "direct_effect",
        "indirect_effect",
        "ite",
        "probability_of_necessity",
        "probability_of_necessity_and_sufficiency",
        "probability_of_sufficiency",
    ),
    "errors": ("AbductionError", "CausalCFError", "DataError", "GraphError", "NotFittedError", "StoreError"),
    "evidence": ("Posterior", "infer_missing"),
    "graph": ("CausalGraph", "Node", "graph_names", "load_graph"),
    "guidance": (
        "ClassifierFree",
        "Decoupled",
        "Guidance",
        "Plain",
        "PlusPlus",
        "Projected",
        "Rescaled",
        "Scheduled",
        "parse_guidance",
    ),
    "guider": ("CausalGuider",),
    "identify": (
        "GraphCheck",
        "Independence",
        "adjustment_sets",
        "ancestors",
        "check",
        "frontdoor_sets",
        "identifiable",
        "implied_independencies",
        "is_adjustment_set",
        "is_frontdoor_set",
        "minimal_adjustment_set",
        "minimal_adjustment_sets",
        "separated",
    ),
    "image": ("Diffusion",),
    "interventions": ("Policy", "Scale", "Shift"),
    "judges": ("NetworkJudge", "Ruler", "fit_judges"),
    "mechanism": ("Mechanism",),
    "plot": ("counterfactual_figure", "to_png"),
    "query": ("Abduction", "Counterfactual", "abduct", "choose_steps", "counterfactual", "reconstruct"),
    "recipes": ("recipe",),
    "reproduction": ("Reproduction", "reproduce"),
    "scm": ("SCM",),
    "solvers": ("DDIM", "EDICT", "OBELM", "Anderson", "DPMSolverPP", "EditFriendly", "FixedPoint", "Heun", "Solver"),
    "soundness": ("AuditReport", "audit", "merge_audits"),
    "store": ("load", "model_names", "save"),
    "subgroups": ("Subgroups",),
    "table_judges": ("TableJudge",),
    "tables": ("read_table", "write_table"),
    "trainer": ("Training",),
    "training": ("fit", "fit_autoencoder"),
    "tuning": ("Tuning", "tune"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_MODULE, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("causalcf")
    if name not in _MODULE:
        raise AttributeError(f"module 'causalcf' has no attribute '{name}'")
    return getattr(importlib.import_module(f"causalcf.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
