"""The public API as text: `python tests/public_api.py` writes it to tests/public_api.txt, to which a test holds it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynconv.methods import Method

SNAPSHOT = Path(__file__).with_suffix(".txt")
MODULES = (
    "dynconv",
    "dynconv.functional",
    "dynconv.nn",
    "dynconv.backends",
    "dynconv.reference",
    "dynconv.losses",
    "dynconv.metrics",
    "dynconv.models",
    "dynconv.methods",
    "dynconv.data",
    "dynconv.recipes",
)


class Bare(str):
    """Text that signatures show without quotes."""

    def __repr__(self) -> str:
        return str(self)


def public() -> Iterator[tuple[str, str, Any]]:
    """Module, name and object of all that is public."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(module.__all__):
            yield module_name, name, getattr(module, name)


def public_classes() -> set[type]:
    return {subject for _, _, subject in public() if inspect.isclass(subject)}


def shown(value: Any) -> str:
    """A default as text that is the same in every process and version."""
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return repr(value)


def signature_of(subject: Any) -> str:
    """The signature with the annotations as they are written."""
    signature = inspect.signature(subject)

    def bare(annotation: Any) -> Any:
        written = getattr(annotation, "__forward_arg__", annotation)
        return Bare(written) if isinstance(written, str) else annotation

    parameters = [
        parameter.replace(
            annotation=bare(parameter.annotation),
            default=parameter.default if parameter.default is parameter.empty else Bare(shown(parameter.default)),
        )
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=bare(signature.return_annotation)))


def own_classes(subject: type, documented: set[type]) -> list[type]:
    """The class and its bases in dynconv up to those that are public themselves."""
    covered = {base for other in documented - {subject} if issubclass(subject, other) for base in other.__mro__}
    return [base for base in subject.__mro__ if base.__module__.startswith("dynconv") and base not in covered]


def members_of(subject: type, documented: set[type]) -> dict[str, Any]:
    """Public methods and properties by name that no public base has as they are; none of what `METHODS` holds, which is
    used by the contract of `Method` alone."""
    if issubclass(subject, Method) and subject is not Method:
        return {}
    found: dict[str, Any] = {}
    for base in own_classes(subject, documented):
        for name, member in vars(base).items():
            value = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                found.setdefault(name, value)
    return dict(sorted(found.items()))


def fields_of(subject: type, documented: set[type]) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass that it or a base without a page of its own declares."""
    declared = {name for base in own_classes(subject, documented) for name in vars(base).get("__annotations__", {})}
    return [field for field in dataclasses.fields(subject) if field.name in declared]


def describe(subject: Any, name: str, documented: set[type]) -> Iterator[str]:
    if inspect.isfunction(subject):
        yield f"{name}{signature_of(subject)}"
    elif inspect.isclass(subject):
        bases = ", ".join(base.__name__ for base in subject.__bases__ if base is not object)
        if dataclasses.is_dataclass(subject):
            yield f"{name}: dataclass({bases})"
            for field in fields_of(subject, documented):
                default = field.default_factory if field.default is dataclasses.MISSING else field.default
                ending = "" if default is dataclasses.MISSING else f" = {shown(default)}"
                yield f"    .{field.name}: {field.type}{ending}"
        elif issubclass(subject, Exception):
            yield f"{name}: exception({bases})"
        else:
            yield f"{name}: class({bases}){signature_of(subject).removesuffix(' -> None')}"
        for member_name, member in members_of(subject, documented).items():
            kind = "" if isinstance(member, property) else signature_of(member)
            yield f"    .{member_name}{kind}"
    elif isinstance(subject, dict | str) or inspect.ismodule(subject):
        yield f"{name}: {type(subject).__name__}"
    elif isinstance(subject, frozenset):
        yield f"{name} = {{{', '.join(map(repr, sorted(subject)))}}}"
    else:
        yield f"{name} = {subject}"


def text() -> str:
    documented = public_classes()
    lines: list[str] = []
    module_before = ""
    for module_name, name, subject in public():
        if module_name != module_before:
            lines += ["", f"# {module_name}"] if lines else [f"# {module_name}"]
            module_before = module_name
        lines += describe(subject, name, documented)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(text())
