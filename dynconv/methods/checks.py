"""Checks of configuration fields: each failure names the field, what was given and what is expected."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import TYPE_CHECKING, Any, Literal

from dynconv.models import input_of

if TYPE_CHECKING:
    from dynconv.methods.base import Method
    from dynconv.methods.config import MethodConfig


def check_types(config: Any) -> None:
    """Hold every field of a dataclass against its annotation: a Literal, int or float (or None beside it), bool, str,
    or a tuple of texts, ints or floats. Values come from files as well as from a typed command line. A whole number for
    a float becomes one, for a file brings a float back and the two are to be the same configuration.

    Raises:
        ValueError: For a value that is none of a Literal's, or a number that is not finite.
        TypeError: For a value of another type.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        hint, value = hints[field.name], getattr(config, field.name)
        choices = _choices(hint)
        if choices:
            if not any(value == choice and type(value) is type(choice) for choice in choices):
                wanted = ", ".join(map(repr, choices))
                raise ValueError(f"{field.name}: expected one of {wanted}, got {value!r}")
        elif hint is bool:
            if not isinstance(value, bool):
                raise TypeError(f"{field.name}: expected true or false, got {value!r}")
        elif value is None and type(None) in typing.get_args(hint):
            continue
        elif float in (hint, *typing.get_args(hint)) and typing.get_origin(hint) is not tuple:
            _require_finite(field.name, value)
            # The dataclasses are frozen.
            object.__setattr__(config, field.name, float(value))
        elif hint == tuple[float, ...]:
            _require(field.name, value, tuple, "a tuple of numbers")
            for element in value:
                _require_finite(field.name, element)
            object.__setattr__(config, field.name, tuple(map(float, value)))
        elif hint == tuple[int, ...]:
            _require(field.name, value, tuple, "a tuple of integers")
            for element in value:
                _require(field.name, element, int, "integers")
        elif hint == tuple[str, ...]:
            _require(field.name, value, tuple, "a tuple of texts")
            for element in value:
                _require(field.name, element, str, "texts")
        else:
            kind = str if str in (hint, *typing.get_args(hint)) else int
            _require(field.name, value, kind, "a text" if kind is str else "an integer")


def check_range(config: Any, names: tuple[str, ...], *, least: float = -math.inf, above: float = -math.inf) -> None:
    """Raise a ValueError unless every named field that is not None is >= `least` and > `above`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and (value < least or value <= above):
            wanted = f"at least {least:g}" if math.isinf(above) else f"more than {above:g}"
            raise ValueError(f"{name}: expected {wanted}, got {value}")


def check_unused(config: Any, names: tuple[str, ...], choice: str, remedy: str) -> None:
    """Raise a ValueError for a named field that is not at its class's default although `choice` never reads it."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        value, default = getattr(config, name), defaults[name]
        if value != default:
            raise ValueError(f"{name}: {value} contradicts {choice}; {remedy} or leave {name} at {default}")


def labels_pixels(config: MethodConfig) -> bool:
    """Whether the backbone of `config` is for segmentation."""
    return input_of(config.backbone).labels == "pixel"


def check_segmentation(method: type[Method], config: MethodConfig) -> None:
    """Raise a ValueError where the backbone of `config` labels every pixel and `method` only whole images."""
    if method.about.segmentation or not labels_pixels(config):
        return
    from dynconv.methods import METHODS

    able = ", ".join(name for name, kind in METHODS.items() if kind.about.segmentation)
    raise ValueError(
        f"backbone: {config.backbone} labels every pixel, and {method.__name__} is for labels of whole images; the "
        f"methods for label maps are {able}"
    )


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values a Literal, or a union of one with None, allows; none for any other annotation."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        choices = tuple(choice for part in typing.get_args(hint) for choice in _choices(part))
        return (*choices, None) if choices else ()
    return ()


def _require(name: str, value: Any, kind: type | tuple[type, ...], words: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name}: expected {words}, got {value!r}")


def _require_finite(name: str, value: Any) -> None:
    _require(name, value, (int, float), "a number")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
