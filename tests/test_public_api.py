"""What is public does not change unnoticed, and is documented: every parameter, every field, what is raised."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import public_api
import pytest

from dynconv.methods import Method, MethodConfig

DOCUMENTED = public_api.public_classes()


def callables(module: str) -> Iterator[tuple[str, Any]]:
    """Public functions and classes of a module, and the public methods and properties of these, by their full names."""
    for where, name, subject in public_api.public():
        if where == module and (inspect.isfunction(subject) or inspect.isclass(subject)):
            yield f"{module}.{name}", subject
        if where == module and inspect.isclass(subject):
            for member_name, member in public_api.members_of(subject, DOCUMENTED).items():
                yield f"{module}.{name}.{member_name}", member


def parsed(subject: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(subject))).body[0]


def section(text: str, title: str) -> str:
    """A section of a Google-style docstring: the indented lines below its title."""
    found = re.search(rf"^{title}:\n((?:    .*\n|\n)*)", text + "\n", re.MULTILINE)
    return found[1] if found else ""


def described_in(text: str, title: str) -> set[str]:
    """The names that a section has entries for; an entry may have several, separated by commas."""
    return {
        name.strip("* ")
        for heading in re.findall(r"^    (\S[^:\n]*(?:\n? {5,}[^:\n]*)?):", section(text, title), re.MULTILINE)
        for name in re.split(r",\s*", heading)
    }


def raised_by(node: ast.AST) -> set[str]:
    """Names of the exceptions that a function raises itself, built in or public ones."""
    raised = {
        ast.unparse(part.exc.func if isinstance(part.exc, ast.Call) else part.exc)
        for part in ast.walk(node)
        if isinstance(part, ast.Raise) and part.exc is not None
    }
    known = {each.__name__ for each in DOCUMENTED} | set(dir(builtins)) - {"NotImplementedError"}
    return raised & known


def undocumented_fields(subject: type) -> set[str]:
    """Fields of a dataclass or named tuple with neither a line of documentation below them nor an entry above."""
    if dataclasses.is_dataclass(subject):
        fields = {field.name for field in public_api.fields_of(subject, DOCUMENTED)}
    else:
        fields = set(subject._fields)  # type: ignore[attr-defined]
    documented = described_in(inspect.getdoc(subject) or "", "Attributes")
    for base in public_api.own_classes(subject, DOCUMENTED):
        body = parsed(base).body  # type: ignore[attr-defined]
        for node, after in zip(body, body[1:], strict=False):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                documented.add(ast.unparse(node.target))
    return fields - documented


def gaps(name: str, subject: Any) -> list[str]:
    """What the documentation of a public name lacks."""
    function = subject.fget if isinstance(subject, property) else subject
    text = inspect.getdoc(function)
    if inspect.isfunction(function) and not text and "." in function.__qualname__:
        text = inherited_doc(name)
    if not text:
        return ["has no docstring"]
    if inspect.isclass(subject) and (dataclasses.is_dataclass(subject) or hasattr(subject, "_fields")):
        found = [f"field {field} has no documentation" for field in sorted(undocumented_fields(subject))]
        constructor = vars(subject).get("__post_init__")
    elif inspect.isclass(subject) and issubclass(subject, Exception | Method):
        return []
    elif inspect.isclass(subject):
        constructor = vars(subject).get("__init__")
        taken = set(inspect.signature(constructor).parameters) - {"self"} if constructor else set()
        found = [f"Args do not name {each}" for each in sorted(taken - described_in(text, "Args"))]
    else:
        constructor = function
        taken = set(inspect.signature(function).parameters) - {"self", "cls"}
        # A method of one or two arguments says in its sentence what they are.
        lacking = set() if "." in function.__qualname__ and len(taken) <= 2 else taken - described_in(text, "Args")
        found = [f"Args do not name {each}" for each in sorted(lacking)]
    if constructor is not None:
        of_base = inspect.getdoc(MethodConfig) if inspect.isclass(subject) and issubclass(subject, MethodConfig) else ""
        raised = sorted(each for each in raised_by(parsed(constructor)) if each not in f"{text}{of_base}")
        found += [f"{each} is raised and not mentioned" for each in raised]
    return found


def inherited_doc(name: str) -> str | None:
    """The docstring that a method without one of its own has from a base in dynconv or torch."""
    module, class_name, member = name.rsplit(".", 2)
    subject = next(each for where, called, each in public_api.public() if (where, called) == (module, class_name))
    return inspect.getdoc(getattr(subject, member))


def test_the_public_api_is_what_the_snapshot_says() -> None:
    now, then = public_api.text(), public_api.SNAPSHOT.read_text()
    change = "\n".join(difflib.unified_diff(then.splitlines(), now.splitlines(), "snapshot", "now", lineterm="", n=0))
    assert now == then, f"the public API changed; where it should: python tests/public_api.py\n{change}"


@pytest.mark.parametrize("module", public_api.MODULES)
def test_all_that_is_public_is_documented(module: str) -> None:
    lacking = {name: found for name, each in callables(module) if (found := gaps(name, each))}
    assert not lacking, "\n".join(f"{name}: {'; '.join(found)}" for name, found in lacking.items())


def test_what_the_documentation_of_a_function_lacks_is_noticed() -> None:
    def bare(x: int) -> None: ...

    def half(x: int, y: int) -> None:
        """Does it.

        Args:
            x: A number.
        """
        raise ValueError(x)

    half.__qualname__ = bare.__qualname__ = "function"
    assert gaps("module.bare", bare) == ["has no docstring"]
    assert gaps("module.half", half) == ["Args do not name y", "ValueError is raised and not mentioned"]


@dataclasses.dataclass
class Two:
    """Two."""

    first: int
    """The first."""
    second: int


def test_a_field_without_documentation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_api, "own_classes", lambda subject, documented: [subject])
    assert gaps("module.Two", Two) == ["field second has no documentation"]
