"""What `dynconv reproduce` lists: the tables by name, those for a CPU and those at the papers' scale."""

from __future__ import annotations

import textwrap

from dynconv.recipes import RECIPES, Recipe

_HEADS = {
    "small": "tables made for a CPU, minutes to hours:",
    "paper": "tables at the papers' scale, which want a GPU:",
}
_WIDTH = 118
_NAME = max(map(len, RECIPES)) + 4


def list_recipes() -> str:
    """A line or more for each table: its name, what it is and what it needs."""
    parts = []
    for scale, head in _HEADS.items():
        lines = [_told(recipe) for recipe in RECIPES.values() if recipe.scale == scale]
        parts.append("\n".join([head, *lines]))
    return "\n\n".join(parts)


def _told(recipe: Recipe) -> str:
    words = f"{recipe.title}; needs {recipe.needs}"
    first = f"  {recipe.name}".ljust(_NAME)
    return textwrap.fill(words, _WIDTH, initial_indent=first, subsequent_indent=" " * _NAME, break_long_words=False)
