"""A model is a directory: JSON and safetensors, and a manifest whose digests are checked whenever it is opened.

    manifest.json          schema version, package versions, how the model was made, SHA-256 and size of every file
    model.json             the graph, and the class of every mechanism and judge
    mechanisms/<node>/     what `Mechanism.save` wrote; of a `Diffusion`, `unet` and `scheduler` load with diffusers alone
    judges/<node>/         what the judge's `save` wrote

Nothing is unpickled.
"""

from __future__ import annotations

import importlib
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from causalcf.errors import StoreError
from causalcf.files import cut_short, verify, write_directory
from causalcf.graph import CausalGraph

if TYPE_CHECKING:
    from causalcf.scm import SCM

__all__ = ["load", "model_names", "save"]


def _folder(name: str) -> str:
    """A folder's name for a node, whatever the node is called."""
    return quote(name, safe="").replace(".", "%2E")


def _class_name(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _class(name: str, known: Mapping[str, type]) -> Any:
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module.startswith("causalcf."):
        raise StoreError(f"the model holds a {name}, which is not part of causalcf. Pass load(..., classes=[{attribute}]).")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise StoreError(f"the model holds a {name}, which this version of causalcf does not have.") from None


def save(scm: SCM, path: str | Path) -> Path:
    """Write a model to a directory; see the module for what is in it.

    Raises:
        StoreError: a judge cannot be saved, or the directory holds something else.
    """
    scm.check_fitted()
    parts = {"mechanisms": scm.mechanisms, "judges": scm.judges}
    mute = next((name for name, judge in scm.judges.items() if not callable(getattr(judge, "save", None))), None)
    if mute is not None:
        raise StoreError(
            f"the judge of '{mute}' cannot be saved: it has no save(). Take it out of scm.judges, and pass it to "
            "audit(judges=...) instead."
        )

    def write(directory: Path) -> None:
        index = {kind: {name: _class_name(part) for name, part in some.items()} for kind, some in parts.items()}
        (directory / "model.json").write_text(json.dumps({"graph": scm.graph.to_dict(), **index}, indent=1))
        for kind, some in parts.items():
            for name, part in some.items():
                (directory / kind / _folder(name)).mkdir(parents=True)
                part.save(directory / kind / _folder(name))

    return write_directory(path, write, {"made": (scm.manifest or {}).get("made", {})})


def _models() -> Any:
    return importlib.resources.files("causalcf") / "models"


def model_names() -> list[str]:
    """The names of the shipped models."""
    shelf = _models()
    return sorted(entry.name for entry in shelf.iterdir() if (entry / "manifest.json").is_file()) if shelf.is_dir() else []


def load(source: str | Path, *, classes: tuple[type, ...] = ()) -> SCM:
    """A model from a directory, or a shipped one by name.

    Args:
        source: a name out of `model_names()`, or a directory that `save` wrote, which comes first where it has such a name.
        classes: mechanisms and judges of your own that the model holds.

    Raises:
        StoreError: the directory is missing, damaged or from another version.
    """
    import torch

    from causalcf.scm import SCM

    shipped = isinstance(source, str) and source in model_names() and not (Path(source) / "manifest.json").is_file()
    directory = Path(str(_models() / str(source))) if shipped else Path(source)
    if not directory.is_dir():
        raise StoreError(
            f"there is no model '{source}': it is neither a directory nor a shipped model. "
            f"Shipped models are: {', '.join(model_names()) or 'none'}.{cut_short(directory)}"
        )
    manifest = verify(directory)
    index = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    known = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in classes}
    with torch.random.fork_rng(devices=[]):  # networks draw initial weights, which are replaced at once
        parts: dict[str, dict[str, Any]] = {
            kind: {name: _class(path, known).load(directory / kind / _folder(name)) for name, path in index[kind].items()}
            for kind in ("mechanisms", "judges")
        }
    scm = SCM(CausalGraph.from_dict(index["graph"]), parts["mechanisms"])
    scm.judges = parts["judges"]
    scm.manifest = manifest
    return scm
