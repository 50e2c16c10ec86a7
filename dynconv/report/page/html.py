"""A report as one HTML page that needs nothing but itself: no script, no request, images within."""

from __future__ import annotations

import base64
import re
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from PIL import Image

from dynconv.report.page.document import Figure, Report


def html(report: Report, folder: Path) -> str:
    """The text of report.html. `folder` is where it will lie, which it does not depend on."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.tests["a"] = lambda block, kind: type(block).__name__ == kind
    anchors = _Anchors()
    environment.filters["anchor"] = anchors
    environment.filters["data_uri"] = _data_uri
    environment.filters["size"] = _size
    files = resources.files("dynconv.report.page")
    template = environment.from_string((files / "page.html.jinja").read_text(encoding="utf-8"))
    style = (files / "page.css").read_text(encoding="utf-8")
    return template.render(report=report, style=style)


class _Anchors:
    """A name for each heading, the same whenever the same section asks."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def __call__(self, section: object) -> str:
        if id(section) not in self._names:
            words = re.sub(r"[^a-z0-9]+", "-", getattr(section, "title", "").lower()).strip("-") or "section"
            count = sum(re.fullmatch(rf"{words}(-\d+)?", name) is not None for name in self._names.values())
            self._names[id(section)] = f"{words}-{count + 1}" if count else words
        return self._names[id(section)]


def _data_uri(figure: Figure) -> str:
    return f"data:image/png;base64,{base64.b64encode(figure.path.read_bytes()).decode('ascii')}"


def _size(figure: Figure) -> tuple[int, int]:
    """Width and height in pixels: a page that knows them does not jump while it loads."""
    with Image.open(figure.path) as image:
        return image.size
