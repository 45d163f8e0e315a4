"""The errors that causalcf raises: each names the thing, the value and the way out."""

__all__ = ["AbductionError", "CausalCFError", "DataError", "GraphError", "NotFittedError", "StoreError"]


class CausalCFError(Exception):
    """Base of every error that causalcf raises on purpose."""


class GraphError(CausalCFError, ValueError):
    """A causal graph, or a question put to it, makes no sense: a cycle, an unknown node, a missing parent."""


class DataError(CausalCFError, ValueError):
    """A table, an image or an intervention does not fit the graph: a NaN, an unknown label, a wrong size."""


class AbductionError(CausalCFError, RuntimeError):
    """No noise that explains the observed values could be found, or the settings make finding it impossible."""


class NotFittedError(CausalCFError, RuntimeError):
    """A mechanism was asked for an answer before it was fitted."""


class StoreError(CausalCFError, OSError):
    """A saved model is missing, damaged or written by an incompatible version."""
