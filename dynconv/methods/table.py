"""The page docs/methods.md, made from the methods: `python -m dynconv.methods.table > docs/methods.md`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Sequence
from typing import Any

from dynconv.methods import METHODS, Method, MethodConfig
from dynconv.methods.adapted import AdaptedConfig
from dynconv.methods.adversarial import AdversarialConfig
from dynconv.models import input_of

HEAD = """# Methods

Made by `python -m dynconv.methods.table > docs/methods.md`; do not edit it by hand.

`dynconv train METHOD` trains each of them on the same engine, with the same data, networks, selection rules and report.
**Also**: published names of what the method is by its default or by some choice of its fields. **Images**: the sides of
the images that its networks take; the LeNets 32 or 28 (digits), the ResNets 64 and 224. **Segmentation**: it also
trains the networks that label every pixel (ERFNet, DRN-26, VGG16-FCN8s), which take scenes of any size. **Several
sources**: *union* takes them as one source whose images come in turns, *by domain* tells them apart. **Partial**: made
for targets that lack some of the source's classes; every method runs on them.
"""
EVERY_METHOD = "The fields of every method"
# Fields that many have are told once, each under a heading; the widest base comes first.
SHARED: dict[type[MethodConfig], tuple[str, str]] = {
    MethodConfig: (EVERY_METHOD, "The network, its optimiser and its batch normalisation."),
    AdversarialConfig: (
        "The fields of methods with domain discriminators",
        "The game between discriminators and features, and the images it is played on.",
    ),
    AdaptedConfig: (
        "The fields of methods that adapt a network of the target's own",
        "The steps that learn the source, the discriminators, and how far the target's network may go.",
    ),
}


def methods_page() -> str:
    """The whole page as Markdown: what each method is for, and all its fields with defaults and documentation."""
    header = ("method", "also", "images", "segmentation", "several sources", "partial", "paper")
    lines = [
        (
            f"[{name}](#{name})",
            ", ".join(kind.about.variants) or "-",
            ", ".join(map(str, image_sizes(kind.config_class))),
            _yes(kind.about.segmentation),
            kind.about.multi_source if not kind.supervised_by_target else "none: a bound, trained on target labels",
            _yes(kind.about.partial),
            kind.about.paper,
        )
        for name, kind in METHODS.items()
    ]
    parts = [HEAD, _table(header, lines)]
    parts += [_section(name, kind) for name, kind in METHODS.items()]
    for config, (title, words) in SHARED.items():
        parts.append(f"## {title}\n\n{words} A method with another default has the field in its own table.\n")
        parts.append(_fields_table(config, _own_fields(config)))
    return "\n".join(parts)


def image_sizes(config_class: type[MethodConfig]) -> list[int]:
    """The sides, ascending, of the images that the backbones which a configuration may name take; those for
    segmentation take any."""
    backbones = typing.get_args(typing.get_type_hints(config_class)["backbone"])
    inputs = [input_of(name) for name in backbones]
    return sorted({each.image_size for each in inputs if each.labels == "image"})


def field_docs(config_class: type[Any]) -> dict[str, str]:
    """The documentation under each field of a dataclass, in the order of its fields; a field that a class takes over
    from its base has the base's."""
    docs: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _docs_under(base)
    return {field.name: docs[field.name] for field in dataclasses.fields(config_class)}


def _docs_under(owner: type[Any]) -> dict[str, str]:
    """The strings that stand under the annotations in a class's own body."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    found = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for place, node in enumerate(body[:-1]):
        after = body[place + 1]
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[node.target.id] = " ".join(str(after.value.value).split())
    return found


def _section(name: str, kind: type[Method]) -> str:
    config = kind.config_class
    own = _own_fields(config)
    more = [_link(SHARED[base][0]) for base in SHARED if issubclass(config, base)]
    summary = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    lines = [f"## {name}", "", f"{kind.about.paper}.", "", summary, ""]
    if own:
        lines += ["<details><summary>Fields</summary>", "", _fields_table(config, own), "</details>", ""]
    lines += [f"Also: {', '.join(more)}.", ""]
    return "\n".join(lines)


def _own_fields(config: type[MethodConfig]) -> list[str]:
    """The fields that no shared base has, or with a default of their own."""
    shared: dict[str, Any] = {}
    for base in SHARED:
        if config is not base and issubclass(config, base):
            shared |= {field.name: field.default for field in dataclasses.fields(base)}
    fields = dataclasses.fields(config)
    return [field.name for field in fields if field.name not in shared or shared[field.name] != field.default]


def _link(title: str) -> str:
    # GitHub's name of a heading, and MyST's.
    anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    return f"[{title[0].lower()}{title[1:]}](#{anchor})"


def _fields_table(config: type[MethodConfig], names: Sequence[str]) -> str:
    docs, hints = field_docs(config), typing.get_type_hints(config)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    header = ("field", "default", "values", "what it chooses")
    lines = [
        (
            f"`{name}`",
            _value(defaults[name]),
            _values(hints[name]),
            docs[name].replace("`MethodConfig`", _link(EVERY_METHOD)),
        )
        for name in names
    ]
    return _table(header, lines)


def _values(hint: Any) -> str:
    """What a field takes."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(_value(choice) for choice in typing.get_args(hint))
    parts = [part for part in typing.get_args(hint) if part not in (type(None), Ellipsis)]
    if typing.get_origin(hint) is tuple:
        return f"several {parts[0].__name__}"
    if parts:
        return " or ".join([_values(part) for part in parts] + ["None"] * (type(None) in typing.get_args(hint)))
    return str(hint.__name__)


def _value(value: Any) -> str:
    # As on the command line and in config.yaml.
    text = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else repr(value)
    return f"`{text}`"


def _yes(value: bool) -> str:
    return "yes" if value else "-"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


if __name__ == "__main__":
    print(methods_page(), end="")
