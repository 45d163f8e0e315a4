"""Directories that are complete or absent: written beside their final name, then renamed, with a digest of every file.

manifest.json    schema version, package versions, what the writer adds, SHA-256 and size of every file
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from causalcf.errors import StoreError

__all__ = ["Manifest", "verify", "write_directory"]

Manifest = dict[str, Any]
SCHEMA = 1
_PACKAGES = "causalcf", "torch", "pyro-ppl", "diffusers", "numpy", "pandas"


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
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
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
        raise StoreError(f"there is no directory '{directory}'.")
    try:
        manifest: Manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        expected: dict[str, Any] = manifest["files"]
        schema = manifest["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"'{directory}' is no causalcf directory: its manifest.json is missing or unreadable ({error}). Save it again."
        ) from None
    if schema != SCHEMA:
        raise StoreError(
            f"'{directory}' has schema {schema}; this causalcf reads schema {SCHEMA}. Use the version that wrote it."
        )
    found = _files(directory)
    for name in sorted(set(expected) | set(found)):
        if name not in found:
            raise StoreError(f"'{directory}' is damaged: {name} is missing. Copy or save it again.")
        if name not in expected:
            raise StoreError(f"'{directory}' has a file that was not saved with it: {name}. Remove it.")
        if _digest(found[name]) != expected[name]:
            raise StoreError(f"'{directory}' is damaged: {name} has other bytes than were saved. Copy or save it again.")
    return manifest
