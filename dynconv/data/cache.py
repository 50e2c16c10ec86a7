"""Decoded and generated images on disk: written atomically, checked when read, made again when damaged."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

# POSIX alone has it.
fcntl: ModuleType | None = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None

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


def fingerprint(files: Iterable[Path]) -> str:
    """A digest of the paths, sizes and times of change of `files`, in their order; a missing file is a part of it."""
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
        except OSError:
            digest.update(f"{file} -\n".encode(errors="surrogateescape"))
            continue
        times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        digest.update(f"{file} {status.st_size} {times}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """A context in which, of all processes that ask for the same `path`, one is at a time; the others wait.

    The kernel releases the lock when its holder ends, however that ends. Where files cannot be locked (no fcntl, no
    folder to write in) nobody waits: what is written is whole at every moment all the same, and the last writer stays.
    """
    if fcntl is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("waiting for another process that makes %s", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("%s cannot be locked (%s): start one process at a time", path, error)
        yield
    finally:
        os.close(descriptor)


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
