"""The runs of a recipe: where each lies, how far it is, and which of them it follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynconv.data import parse_spec
from dynconv.data.manifest import presence
from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.run_folder import RunFolder
from dynconv.recipes import Recipe, Row
from dynconv.report.started import started_from


@dataclass(frozen=True)
class RecipeRun:
    """A row of a recipe with one task and seed."""

    task: str
    label: str
    seed: int
    config: TrainConfig
    folder: RunFolder
    after: RecipeRun | None = None
    """The run whose pseudo labels it learns, or whose encoder and classifier it starts from."""

    @property
    def name(self) -> str:
        return f"{self.task} {self.label} {self.seed}"

    @property
    def finished(self) -> bool:
        return self.folder.read_done() is not None

    @property
    def began(self) -> bool:
        """Whether it has a checkpoint to go on from."""
        return self.folder.last.exists()

    @property
    def ready(self) -> bool:
        """Whether it could train now: one that began has its pseudo labels in its own folder, but reads the checkpoint
        that it started from again."""
        return self.after is None or self.after.finished or (self.began and self.learns_pseudo_labels)

    @property
    def learns_pseudo_labels(self) -> bool:
        return self.config.run.pseudo_labels_from is not None


def recipe_runs(
    recipe: Recipe,
    out: Path,
    *,
    seeds: int,
    tasks: Sequence[str],
    labels: Sequence[str],
    data_root: Path | None,
    device: str,
) -> list[RecipeRun]:
    """The runs of some of a recipe's tasks and rows, in OUT/TASK/ROW/seedN; the seeds come outermost, so that an
    unfinished table has whole rows."""
    rows = {row.label: row for row in recipe.rows}

    def run(seed: int, task: str, row: Row) -> RecipeRun:
        # It may also be one of those chosen, and is the same then.
        after = None if row.follows is None else run(seed, task, rows[row.follows])
        path = out / _file_name(task) / _file_name(row.label) / f"seed{seed}"
        config = recipe.config(
            task,
            row,
            seed,
            out=path.absolute(),
            data_root=data_root,
            device=device,
            after=None if after is None else after.folder.path.absolute(),
        )
        return RecipeRun(task, row.label, seed, config, RunFolder(path), after)

    return [
        run(seed, task, row) for seed in range(seeds) for task in tasks for row in recipe.rows if row.label in labels
    ]


def _file_name(text: str) -> str:
    words = "".join(letter if letter.isalnum() or letter in "+-._@=" else " " for letter in text).split()
    return "_".join(words)


def check_configurations(runs: Sequence[RecipeRun]) -> None:
    """Raise a ValueError where folders hold runs of other configurations than the recipe's."""
    other: dict[str, list[Path]] = {}
    followed = (run.after for run in runs if run.after is not None)
    for run in {run.name: run for run in (*runs, *followed)}.values():
        if found := _other_configuration(run):
            other.setdefault(found, []).append(run.folder.path)
    if not other:
        return
    lines = [f"\n  {found}\n    in {_some(paths)}" for found, paths in other.items()]
    raise ValueError(
        f"runs of another configuration than the table's (there -> here):{''.join(lines)}\n"
        "Give another --out, or move these away to train them anew."
    )


def check_order(runs: Sequence[RecipeRun]) -> None:
    """Raise a ValueError where a run that is to begin follows one that is neither finished nor to be trained."""
    chosen = {run.name for run in runs}
    lacking: dict[tuple[str, str, str], list[Path]] = {}
    for run in runs:
        if run.after is not None and run.after.name not in chosen and not run.finished and not run.ready:
            how = "learns the pseudo labels of" if run.learns_pseudo_labels else "starts from the classifier of"
            lacking.setdefault((run.label, how, run.after.label), []).append(run.after.folder.path)
    if not lacking:
        return
    lines = [
        f"\n  {label!r} {how} {after!r}, which is not finished in {_some(paths)}"
        for (label, how, after), paths in lacking.items()
    ]
    labels = " ".join(f'"{after}"' for after in dict.fromkeys(after for *_, after in lacking))
    raise ValueError(f"--rows: rows that follow others:{''.join(lines)}\nGive --rows {labels} too, or train it first.")


def check_data(runs: Sequence[RecipeRun]) -> None:
    """Raise a ValueError where nothing of a set is there that a run to be trained needs: each would fail by itself."""
    lacking: dict[str, list[str]] = {}
    left = [run for run in runs if not run.finished]
    for run in left:
        sources, target, _ = parse_spec(run.task)
        for name in (*sources, target):
            if presence(name, run.config.run.data_root) == "missing":
                lacking.setdefault(run.task, []).append(name)
    if not lacking:
        return
    root = left[0].config.run.data_root
    where = "no data root was given (--data-root DIR or DYNCONV_DATA)" if root is None else f"not below {root}"
    names = sorted({name for each in lacking.values() for name in each})
    possible = [task for task in dict.fromkeys(run.task for run in left) if task not in lacking]
    without = f"; --tasks {' '.join(possible)} can do without" if possible else ""
    raise ValueError(f"{', '.join(names)}: {where}. `dynconv data list NAME` tells where a set is from{without}")


def _other_configuration(run: RecipeRun) -> str:
    """What differs between the configuration of the run in the folder and the recipe's, or nothing."""
    file = run.folder.config
    if not file.exists():
        return f"there is no {file.name}" if run.folder.done.exists() else ""
    try:
        found = load_config(file)
    except (ValueError, TypeError) as error:
        return str(error).removeprefix(f"{file}: ")
    if run.finished and run.after is not None and not run.learns_pseudo_labels:
        found = _at_its_place(run, run.after, found)
    return "; ".join(run.config.mismatches(found.identity()))


def _at_its_place(run: RecipeRun, after: RecipeRun, found: TrainConfig) -> TrainConfig:
    """`found` with the checkpoint's present path where the recipe's folder was moved since the run finished."""
    if started_from(run.folder.path, found) != after.folder.path.absolute():
        return found
    options = dataclasses.replace(found.options, source_checkpoint=run.config.options.source_checkpoint)
    return dataclasses.replace(found, options=options)


def _some(paths: Sequence[Path], most: int = 3) -> str:
    shown = ", ".join(map(str, paths[:most]))
    return shown if len(paths) <= most else f"{shown} and {len(paths) - most} more"
