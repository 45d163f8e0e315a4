"""A model is a directory: JSON and safetensors, and a manifest whose digests are checked whenever it is opened.

    manifest.json          schema version, package versions, how the model was made, SHA-256 and size of every file
    model.json             the graph, and the class of every mechanism and judge
    mechanisms/<node>/     what `Mechanism.save` wrote
    judges/<node>/         what the judge's `save` wrote

A directory is written beside its final name and then renamed, so that it is complete or absent. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.resources
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalcf.errors import StoreError
from causalcf.graph import CausalGraph

if TYPE_CHECKING:
    from causalcf.scm import SCM

__all__ = ["Manifest", "load", "model_names", "save", "verify", "write_directory"]

Manifest = dict[str, Any]
SCHEMA = 1
_PACKAGES = "torch", "pyro-ppl", "diffusers", "numpy", "pandas"


def _digest(path: Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def _files(directory: Path) -> dict[str, Path]:
    found = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(directory).as_posix(): path for path in found}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_directory(path: str | Path, write: Callable[[Path], None], record: Mapping[str, Any]) -> Path:
    """Fill a directory beside its final name, add the manifest, flush it to disk and rename it.

    Args:
        path: final name; a directory there is replaced once the new one is complete.
        write: fills the empty directory that it is given.
        record: further entries of the manifest.
    """
    path = Path(path).resolve()
    if path.exists() and not (path / "manifest.json").is_file() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"'{path}' exists and is no causalcf directory, so it is not replaced. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write(draft)
        manifest = {
            "schema": SCHEMA,
            "versions": {name: importlib.metadata.version(name) for name in ("causalcf", *_PACKAGES)},
            **record,
            "files": {name: _digest(file) for name, file in _files(draft).items()},
        }
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for file in [*_files(draft).values(), draft / "manifest.json", draft]:
            _sync(file)
        draft.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)) / "old"
            path.rename(old)
            draft.rename(path)
            shutil.rmtree(old.parent)
        else:
            draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync(path.parent)
    return path


def verify(directory: str | Path) -> Manifest:
    """The manifest of a directory, once every file has been found to be what was written.

    Raises:
        StoreError: a file is missing, was added or has other bytes; the file is named.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise StoreError(
            f"there is no model '{directory}': it is neither a directory nor a shipped model ({', '.join(model_names())})."
        )
    try:
        manifest: Manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        expected: dict[str, Any] = manifest["files"]
        schema = manifest["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"'{directory}' is no causalcf model: its manifest.json is missing or unreadable ({error}). Save the model again."
        ) from None
    if schema != SCHEMA:
        raise StoreError(f"'{directory}' has schema {schema}; this causalcf reads schema {SCHEMA}. Use the version that wrote it.")
    found = _files(directory)
    for name in sorted(set(expected) | set(found)):
        if name not in found:
            raise StoreError(f"'{directory}' is damaged: {name} is missing. Copy or save the model again.")
        if name not in expected:
            raise StoreError(f"'{directory}' has a file that was not saved with it: {name}. Remove it.")
        if _digest(found[name]) != expected[name]:
            raise StoreError(f"'{directory}' is damaged: {name} has other bytes than were saved. Copy or save the model again.")
    return manifest


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
    """Write a model to a directory; see the module for what is in it."""
    scm.check_fitted()
    parts = {"mechanisms": scm.mechanisms, "judges": scm.judges}

    def write(directory: Path) -> None:
        index = {kind: {name: _class_name(part) for name, part in some.items()} for kind, some in parts.items()}
        (directory / "model.json").write_text(json.dumps({"graph": scm.graph.to_dict(), **index}, indent=1))
        for kind, some in parts.items():
            for name, part in some.items():
                (directory / kind / name).mkdir(parents=True)
                part.save(directory / kind / name)

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
        source: a name out of `model_names()`, or a directory that `save` wrote.
        classes: mechanisms and judges of your own that the model holds.

    Raises:
        StoreError: the directory is missing, damaged or from another version.
    """
    from causalcf.scm import SCM

    shipped = isinstance(source, str) and source in model_names() and not Path(source).is_dir()
    directory = Path(str(_models() / str(source))) if shipped else Path(source)
    manifest = verify(directory)
    index = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    known = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in classes}
    parts: dict[str, dict[str, Any]] = {
        kind: {name: _class(path, known).load(directory / kind / name) for name, path in index[kind].items()}
        for kind in ("mechanisms", "judges")
    }
    scm = SCM(CausalGraph.from_dict(index["graph"]), parts["mechanisms"])
    scm.judges = parts["judges"]
    scm.manifest = manifest
    return scm
