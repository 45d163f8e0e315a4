"""Directories that are complete or absent: written beside their final name, then renamed, with a digest of every file.

manifest.json    schema version, package versions, what the writer adds, SHA-256 and size of every file, and of itself
"""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from causalcf.errors import StoreError

__all__ = ["Manifest", "check_replaceable", "cut_short", "stored_at", "verify", "write_directory"]

Manifest = dict[str, Any]
SCHEMA = 1
_PACKAGES = "causalcf", "torch", "pyro-ppl", "diffusers", "numpy", "pandas"
_OWN = {"schema", "versions", "files", "digest"}  # the entries of a manifest that are not its writer's
_KINDS = {"made": "a model", "audit": "an audit"}  # by an entry of the writer


def _digest(path: Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def _files(directory: Path) -> dict[str, Path]:
    manifest = directory / "manifest.json"
    found = (path for path in sorted(directory.rglob("*")) if path.is_file() and path != manifest)
    return {path.relative_to(directory).as_posix(): path for path in found}


def _own_digest(manifest: Manifest) -> str:
    """The digest of everything in a manifest but itself."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _text(manifest: Manifest) -> str:
    return json.dumps(manifest, indent=1)


def stored_at(path: str | Path) -> Manifest | None:
    """The manifest of a directory that `write_directory` wrote, unverified; None of anything else."""
    try:
        manifest: Manifest = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
        return manifest if "causalcf" in manifest["versions"] and "files" in manifest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _kind(entries: Collection[str]) -> str:
    return next((kind for entry, kind in _KINDS.items() if entry in entries), "another causalcf directory")


def check_replaceable(path: str | Path, record: Collection[str]) -> Manifest | None:
    """The manifest of the directory that a new one would replace; None where there is nothing, or an empty directory.

    Args:
        path: final name.
        record: the entries that the manifest of the new one is to have besides its own.

    Raises:
        StoreError: something is there that is no such directory.
    """
    path, found = Path(path), stored_at(path)
    if found is None:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise StoreError(
                f"'{path}' exists and is no causalcf directory, so it is not replaced. Choose another name or --out."
            )
    elif set(found) - _OWN != set(record):
        raise StoreError(f"'{path}' holds {_kind(found)}, and {_kind(record)} does not replace it. Choose another name or --out.")
    return found


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_directory(path: str | Path, write: Callable[[Path], None], record: Mapping[str, Any]) -> Path:
    """Fill a directory beside its final name, add the manifest, flush it to disk and rename it.

    Args:
        path: final name; a directory of the same kind there is replaced once the new one is complete.
        write: fills the empty directory that it is given.
        record: further entries of the manifest; their names tell the kind.
    """
    path = Path(path).resolve()
    check_replaceable(path, record)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write(draft)
        manifest: Manifest = {
            "schema": SCHEMA,
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
            **record,
            "files": {name: _digest(file) for name, file in _files(draft).items()},
        }
        manifest["digest"] = _own_digest(manifest)
        (draft / "manifest.json").write_bytes(_text(manifest).encode())
        for file in [*_files(draft).values(), draft / "manifest.json", draft]:
            _sync(file)
        draft.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)) / "old"
            path.rename(old)
            try:
                draft.rename(path)
            except BaseException:
                old.rename(path)
                raise
            finally:
                shutil.rmtree(old.parent)
        else:
            draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync(path.parent)
    return path


def cut_short(directory: Path) -> str:
    """A sentence on the complete copies that a writer left which was killed between its two renames; empty if there is none."""
    directory = directory.resolve()
    beside = directory.parent.glob(f".{glob.escape(directory.name)}-*")
    whole = [str(place) for draft in sorted(beside) for place in (draft, draft / "old") if stored_at(place) is not None]
    return f" A write was cut short; rename one of the complete copies to it: {', '.join(whole)}." if whole else ""


def verify(directory: str | Path) -> Manifest:
    """The manifest of a directory, once every file has been found to be what was written.

    Raises:
        StoreError: a file is missing, was added or has other bytes; the file is named.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise StoreError(f"there is no directory '{directory}'.{cut_short(directory)}")
    try:
        text = (directory / "manifest.json").read_bytes().decode()
        manifest: Manifest = json.loads(text)
        expected: dict[str, Any] = manifest["files"]
        schema = manifest["schema"]
        if not isinstance(expected, dict):
            raise TypeError("'files' is no table")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"'{directory}' is no causalcf directory: its manifest.json is missing or unreadable ({error}). Save it again."
        ) from None
    if schema != SCHEMA:
        raise StoreError(
            f"'{directory}' has schema {schema}; this causalcf reads schema {SCHEMA}. Use the version that wrote it."
        )
    if manifest.get("digest") != _own_digest(manifest) or text != _text(manifest):
        raise StoreError(f"'{directory}' is damaged: manifest.json has other contents than were saved. Copy or save it again.")
    found = _files(directory)
    for name in sorted(set(expected) | set(found)):
        if name not in found:
            raise StoreError(f"'{directory}' is damaged: {name} is missing. Copy or save it again.")
        if name not in expected:
            raise StoreError(f"'{directory}' has a file that was not saved with it: {name}. Remove it.")
        if _digest(found[name]) != expected[name]:
            raise StoreError(f"'{directory}' is damaged: {name} has other bytes than were saved. Copy or save it again.")
    return manifest
