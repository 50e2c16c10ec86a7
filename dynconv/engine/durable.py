"""Files that are whole at every moment: written beside their place, brought to the disk, put in place by one rename."""

from __future__ import annotations

import os
from pathlib import Path


def temporary_of(path: Path) -> Path:
    """Where `path` is written before it takes its place; what a kill leaves there is overwritten by the next write."""
    return path.with_name(path.name + ".tmp")


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename `temporary`, whose contents are on the disk, to `path`, and wait until the folder is on the disk too."""
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk: without it a power cut can undo a rename."""
    # Windows opens no folder as a file.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
