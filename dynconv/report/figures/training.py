"""Figures of runs, from the files in their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynconv.engine.run_folder import RunFolder, write_atomically
from dynconv.plots.training import save_trainings


def save_training_figure(folders: Sequence[RunFolder], path: Path | None = None) -> Path:
    """Draw what training.jsonl and results.jsonl of runs hold, finished or not; several beside each other.

    Args:
        folders: The runs.
        path: Image file to write; None for `RUN/training.png` of a single run.

    Returns:
        The file that was written.

    Raises:
        ValueError: A folder holds no run or damaged rows, nothing was logged yet, several runs without a path, a run
            given twice, or a path that cannot be written.
    """
    if path is None:
        if len(folders) != 1:
            raise ValueError(f"--out is missing: {len(folders)} runs go into one figure; give --out PNG")
        path = folders[0].training_figure
    names = _names(folders)
    runs = {}
    for name, folder in zip(names, folders, strict=True):
        if not folder.config.exists():
            raise ValueError(f"{folder.path} is no run folder: there is no {folder.config}")
        runs[name] = (folder.training_rows(), folder.rows())
    try:
        save_trainings(runs, path)
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written: {error}") from error
    return path


def write_beside(out: Path, text: str, suffix: str = ".csv") -> Path:
    """Write the numbers of the figure `out` beside it, into the file of its name with `suffix`, which is returned.
    ValueError where that cannot be."""
    path = out.with_suffix(suffix)
    try:
        write_atomically(path, text)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    return path


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """The runs' folder names, or whole paths where two have the same name."""
    short = [folder.path.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder.path) for folder in folders]
    if len(set(names)) != len(names):
        raise ValueError(f"runs: a run was given twice: {', '.join(names)}")
    return names
