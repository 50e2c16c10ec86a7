"""The documentation: `make docs` builds it into docs/_build/html, and any warning is an error."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import dynconv

ROOT = Path(__file__).resolve().parents[1]

project = "dynconv"
version = release = dynconv.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
highlight_language = "text"
html_theme = "furo"
html_title = f"dynconv {version}"
html_show_copyright = False

myst_heading_anchors = 4
# Headings of the notes in RESULTS.md may begin below the level that follows.
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_use_rtype = False
napoleon_use_ivar = True
# The docstrings are written for `help()`, with the backticks of Markdown.
default_role = "code"

# Pages of the repository that are pages of the site too, by the name that they have here. RESULTS.md is made from runs:
# a checkout may be without it, and then the page says so.
INCLUDED = {"benchmarks": "bench/README.md", "changelog": "CHANGELOG.md", "results": "RESULTS.md"}
# Where links of any page to these lead.
PLACES = {page: f"docs/{name}.md" for name, page in INCLUDED.items()} | {"README.md": "docs/index.md"}
LINK = re.compile(r"(\]\()(?!#|[a-z]+:)([^)\s]+)(?=[)\s])")


def read_page(app: Any, docname: str, source: list[str]) -> None:
    """Put a page of the repository in the place of its stub, and lead the links of all pages to what is here."""
    page = ROOT / INCLUDED.get(docname, f"docs/{docname}.md")
    if docname in INCLUDED and page.is_file():
        source[0] = page.read_text()

    def relocated(match: re.Match[str]) -> str:
        path, hash_mark, anchor = match[2].partition("#")
        target = (page.parent / path).resolve()
        if not target.exists():
            return match[0]
        name = target.relative_to(ROOT).as_posix()
        if name == "README.md":
            hash_mark = anchor = ""
        moved = posixpath.relpath(PLACES.get(name, name), posixpath.join("docs", posixpath.dirname(docname)))
        return f"{match[1]}{moved}{hash_mark}{anchor}"

    source[0] = LINK.sub(relocated, source[0])


def as_restructured_text(app: Any, what: str, name: str, subject: Any, options: Any, lines: list[str]) -> None:
    """Escape what docstrings mean literally, for they are plain text: the stars of products and the bars of sizes,
    outside code."""
    for number, line in enumerate(lines):
        if not line.startswith("    "):
            parts = re.split(r"(`+[^`]*`+)", line)
            parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
            lines[number] = "".join(parts)
    if what == "attribute":
        # Napoleon takes what stands before a colon in the first line for a type; an escaped space shows nothing.
        lines.insert(0, "\\ ")


def setup(app: Any) -> None:
    app.connect("source-read", read_page)
    # Before napoleon, at 500, which writes stars of its own.
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
