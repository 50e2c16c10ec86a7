"""Dataclasses as the plain values of YAML and JSON, and back: names and types are checked."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal


def to_plain(value: Any) -> Any:
    """`value` with its paths as text and its tuples as lists, at every depth."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    return value


def from_plain(cls: type[Any], plain: Any, path: Path) -> Any:
    """An instance of the dataclass `cls` from the values that YAML gave for its fields.

    Raises ValueError, beginning with `path`, where that is no mapping, a name is unknown or a value has another type.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"{path}: expected a mapping for {cls.__name__}, got {type(plain).__name__}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    unknown = [k for k in plain if k not in names]
    if unknown:
        raise ValueError(f"{path}: unknown field {', '.join(map(repr, unknown))}; known: {', '.join(names)}")
    return cls(**{k: _typed(v, hints[k], f"{path}: {k}") for k, v in plain.items()})


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as YAML gave it, turned into the type `hint`; ValueError where it does not fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _typed(value, arguments[0], where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for argument in (a for a in arguments if a is not type(None)):
            try:
                return _typed(value, argument, where)
            except ValueError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f"{where} must be one of {', '.join(map(str, arguments))}, got {value!r}")
    elif origin is tuple and isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_typed(v, arguments[0], where) for v in value)
        if len(arguments) == len(value):
            return tuple(_typed(v, a, where) for v, a in zip(value, arguments, strict=True))
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, Path(where))
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is float and isinstance(value, str):
        # YAML 1.1 takes 1e-3, without a point, for a string.
        with contextlib.suppress(ValueError):
            return float(value)
    elif (hint is bool) == isinstance(value, bool) and isinstance(hint, type) and isinstance(value, hint):
        return value
    unquoted = str in (hint, *arguments) and origin is not tuple and isinstance(value, int | float)
    remedy = f", which YAML takes for no text; write it in quotes, as '{value}' is" if unquoted else ""
    raise ValueError(f"{where} expects {getattr(hint, '__name__', hint)}, got {value!r}{remedy}")
