"""From the words of a command to its options, a dataclass that refuses what contradicts itself."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import tyro

Options = TypeVar("Options")


def check_picture(out: Path, name: str) -> None:
    """Raise a ValueError where matplotlib would not write `--out OUT`; `name` is what such a file may be called."""
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give a file such as {out / name}")
    # matplotlib's question, asked before anything is loaded.
    from matplotlib.backend_bases import FigureCanvasBase

    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if out.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(f"--out {out}: expected a suffix of {', '.join(formats)}; give a file such as {name}")


def parse_options(options: type[Options], command: str, args: Sequence[str]) -> Options:
    """The options that the words `args` after `dynconv COMMAND` describe.

    Raises:
        SystemExit: With code 2 for an unknown option, a wrong value, or a ValueError of the class `options`, which is
            told as `dynconv: error: ...`; with 0 after --help.
    """
    if any(word in ("-h", "--help") for word in args):
        # tyro leaves out of a help text the positional arguments that were given before it.
        args = ["--help"]
    try:
        # A partial, for tyro tells the ValueErrors of a class itself and puts the class's name before them.
        return tyro.cli(functools.partial(options), prog=f"dynconv {command}", args=args)
    except ValueError as error:
        print(f"dynconv: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
