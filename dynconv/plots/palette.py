"""Colours that stay apart for people who see fewer of them, and one way to write a figure."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The ten-colour cycle of Petroff, "Accessible Color Sequences for Data Visualization" (arXiv 2107.02270).
COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
# Shapes go on where the colours begin anew: ten colours and seven shapes tell 70 classes apart.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 110
MADE_FROM = "made from"


def colour(index: int) -> str:
    """The colour of the `index`-th of several things."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """The shape of the `index`-th of several things that share ten colours."""
    return MARKERS[index // len(COLOURS) % len(MARKERS)]


@contextlib.contextmanager
def colours() -> Iterator[None]:
    """Within the context matplotlib draws its curves in `COLOURS`."""
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context({"axes.prop_cycle": cycler(color=COLOURS)}):
        yield


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG of 256 colours; `path` is at every moment the old file or the whole new one.

    A page holds four figures for each of its runs: so two scatter plots of 1,360 points take 45 KB and not 125.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_small(buffer, path)


def write_small(picture: io.BytesIO | Path, path: Path, *, made_from: str = "") -> None:
    """Write a picture as `save_png` does; `picture` may be the file itself. `made_from` is kept in it."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    notes = PngInfo()
    notes.add_text(MADE_FROM, made_from)
    small.save(temporary, format="png", optimize=True, pnginfo=notes)
    os.replace(temporary, path)


def made_from(path: Path) -> str | None:
    """What `write_small` was told that the picture was made from; None where there is no such picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.info.get(MADE_FROM)
    except (FileNotFoundError, UnidentifiedImageError):
        return None
