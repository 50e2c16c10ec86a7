"""Decoded and generated images on disk: written atomically, checked when read, made again when damaged."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray[Any, Any]]


def cache_root(cache_dir: Path | str | None) -> Path:
    """`cache_dir`, else $DYNCONV_CACHE, else the user's cache folder ($XDG_CACHE_HOME or ~/.cache) / dynconv."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if named := os.environ.get("DYNCONV_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynconv"


def stamp(files: Iterable[Path]) -> str:
    """A digest of names, sizes and modification times: it changes when any of the files does."""
    digest = hashlib.sha256()
    for file in sorted(files):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def cached(root: Path, name: str, recipe: Mapping[str, object], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make()` returns, from `root/NAME-DIGEST.npz` where that file was written for the same `recipe`.

    A damaged file is reported and made again. A folder that cannot be written is reported and costs only time.
    """
    key = json.dumps(recipe, sort_keys=True)
    path = root / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if path.exists():
        try:
            return _read(path, key)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s): making it again", path, error)
    arrays = make()
    try:
        _write(path, key, arrays)
    except OSError as error:
        log.warning("%s cannot be written (%s): it will be made again next time; DYNCONV_CACHE moves it", path, error)
    return arrays


def _read(path: Path, key: str) -> Arrays:
    with np.load(path, allow_pickle=False) as stored:  # every member is read whole, which checks its CRC
        arrays = {name: stored[name] for name in stored.files}
    found = str(arrays.pop("recipe"))
    if found != key:
        raise ValueError(f"made for {found}")
    return arrays


def _write(path: Path, key: str, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            members: dict[str, Any] = {"recipe": np.array(key), **arrays}
            np.savez(file, **members)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
