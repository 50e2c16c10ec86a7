"""What takes long to compute for a report, kept in files: dataclasses of arrays, numbers, words and tuples of words."""

from __future__ import annotations

import os
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)

# Rises with every change of what is computed: it is part of what the cache asks for.
VERSION = 1


def save(made: DataclassInstance, path: Path, stamp: str) -> None:
    """Write `made` and the `stamp` of the checkpoint it is of; atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.npz")
    values: dict[str, Any] = {field.name: np.asarray(getattr(made, field.name)) for field in fields(made)}
    np.savez_compressed(temporary, **values | {"version": np.asarray(VERSION), "stamp": np.asarray(stamp)})
    os.replace(temporary, path)


def load(kind: type[T], path: Path, stamp: str) -> T | None:
    """What `save` wrote, a `kind`, or None where there is nothing that this version wrote of the checkpoint `stamp`.

    A damaged file counts as nothing: it is computed anew and written over.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as held:
            if int(held["version"]) != VERSION or str(held["stamp"]) != stamp:
                return None
            values: dict[str, Any] = {field.name: held[field.name] for field in fields(kind)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    plain = {name: value.item() for name, value in values.items() if value.ndim == 0}
    names = {name: tuple(map(str, value)) for name, value in values.items() if value.ndim and value.dtype.kind == "U"}
    return kind(**values | plain | names)
