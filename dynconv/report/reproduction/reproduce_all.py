"""`dynconv reproduce --all`: every table that the data at hand allow, and the page of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dynconv.data import parse_spec
from dynconv.data.manifest import presence
from dynconv.data.specs import COLLECTIONS
from dynconv.engine.run_folder import write_atomically
from dynconv.models.network import weights_of
from dynconv.models.weights import imagenet_file
from dynconv.recipes import RECIPES, Recipe
from dynconv.report.reproduction.options import ReproduceOptions
from dynconv.report.reproduction.reproduce import Line, Reproduction, planned, train_and_report, within
from dynconv.report.reproduction.results_page import results_page
from dynconv.report.reproduction.runs import RecipeRun
from dynconv.report.table import counted

PAGE = "RESULTS.md"
# Below OUT, where no --keep is given: OUT may be called as the folder in it (`RUNS`) is.
KEPT = "kept"


def reproduce_all(options: ReproduceOptions, *, line: Line) -> Reproduction:
    """Train and report every table that can be, one after another, and write OUT/RESULTS.md.

    A table some of whose tasks lack their data is made of the others. All are checked before the first run begins.

    Returns:
        What was made and what could not be, with its reason and its command; of a dry run what each table would cost.

    Raises:
        ValueError: As `reproduce`, of any of the tables; or there is nothing that could be run.
        KeyboardInterrupt: The runs were interrupted; the same call goes on with them.
    """
    tables: dict[str, tuple[ReproduceOptions, Recipe, list[RecipeRun]]] = {}
    lacking: dict[str, list[str]] = {}
    for recipe in RECIPES.values():
        own = _of_one(options, recipe)
        runs, lacks = _possible(recipe, planned(own)[1], options)
        if lacks:
            lacking[recipe.name] = lacks
        if runs:
            tables[recipe.name] = (own, recipe, runs)
    if not tables:
        raise ValueError(f"no table can be run:\n{_told(lacking, options)}")
    if options.dry_run:
        return Reproduction(_plan(tables, lacking, options))
    may_start = within(options.hours)
    failed: list[str] = []
    for number, (name, (own, recipe, runs)) in enumerate(tables.items(), start=1):
        line(f"table {number} of {len(tables)}: {name} ({recipe.cost})")
        made = train_and_report(recipe, runs, own, line, may_start=may_start)
        failed += [f"{name}: {each}" for each in made.failed]
    told = _told(lacking, options)
    if not any(run.finished for _, _, runs in tables.values() for run in runs):
        if not failed:
            raise ValueError(f"no finished run under {options.folder}; {told}")
        return Reproduction(told, tuple(failed))
    page = options.folder / PAGE
    write_atomically(page, results_page(_kept(options)))
    return Reproduction(f"{told}\n\n{page}".strip(), tuple(failed))


def _of_one(options: ReproduceOptions, recipe: Recipe) -> ReproduceOptions:
    """The options of one of the tables."""
    return dataclasses.replace(
        options,
        all=False,
        table=recipe.name,
        out=options.folder / recipe.name,
        keep=_kept(options),
    )


def _kept(options: ReproduceOptions) -> Path:
    """The folder that keeps the runs in small form."""
    return options.keep or options.folder / KEPT


def _possible(
    recipe: Recipe, runs: Sequence[RecipeRun], options: ReproduceOptions
) -> tuple[list[RecipeRun], list[str]]:
    """The runs that are finished or could be trained here, and what the others lack."""
    if options.report_only:
        return list(runs), []
    left = [run for run in runs if not run.finished]
    of_all = _lacks_of_all(recipe, options) if left else []
    lacks: dict[str, set[str]] = {run.task: set() for run in left}
    for run in left:
        lacks[run.task] |= _lacks_of(recipe, run)
    could = [run for run in runs if run.finished or not (of_all or lacks[run.task])]
    return could, [*of_all, *_folded(set().union(*lacks.values()))]


def _folded(names: set[str]) -> list[str]:
    """The names in order, a collection all of whose domains are among them by its own name."""
    for prefix, members in COLLECTIONS.items():
        if (every := {f"{prefix}:{member}" for member in members}) <= names:
            names = names - every | {prefix}
    return sorted(names)


def _lacks_of_all(recipe: Recipe, options: ReproduceOptions) -> list[str]:
    if recipe.scale == "paper" and (options.device == "cpu" or not torch.cuda.is_available()):
        return ["a GPU (the paper's networks and steps)"]
    return []


def _lacks_of(recipe: Recipe, run: RecipeRun) -> set[str]:
    """The domains, translated images and weights of a run that are not there."""
    root, own = run.config.run.data_root, run.config.options
    sources, target, _ = parse_spec(run.task)
    lacks = {name for name in (*sources, target) if presence(name, root) not in ("present", "generated")}
    if recipe.stylised and not (root is not None and (root / recipe.stylised).is_dir()):
        lacks.add(f"translated images ({recipe.stylised})")
    weights = weights_of(own.backbone, own.weights)
    if weights == "imagenet" and not (file := imagenet_file(own.backbone)).exists():
        lacks.add(f"the ImageNet weights of {own.backbone} ({file})")
    elif weights not in ("none", "imagenet") and not Path(weights).is_file():
        lacks.add(f"the weights {weights}")
    return lacks


def _plan(
    tables: Mapping[str, tuple[ReproduceOptions, Recipe, list[RecipeRun]]],
    lacking: Mapping[str, Sequence[str]],
    options: ReproduceOptions,
) -> str:
    lines = []
    for name, (_, recipe, runs) in tables.items():
        left = sum(not run.finished for run in runs)
        lines += [f"{name}: {left} of {counted(len(runs), 'run')} to train", f"  the whole table: {recipe.cost}"]
    total = sum(not run.finished for _, _, runs in tables.values() for run in runs)
    return "\n".join([*lines, "", f"{counted(total, 'run')} would be trained", "", _told(lacking, options)]).rstrip()


def _told(lacking: Mapping[str, Sequence[str]], options: ReproduceOptions) -> str:
    """What was left out, each with what it lacks and the command that would run it."""
    if not lacking:
        return ""
    root = "" if options.data_root is None else f" --data-root {options.data_root}"
    by_lack: dict[str, list[str]] = {}
    for name, lacks in lacking.items():
        by_lack.setdefault(", ".join(lacks), []).append(name)
    lines = ["could not be run whole (`dynconv data list NAME` tells where a set is from):"]
    for lack, names in by_lack.items():
        lines += [f"for want of {lack}:", *(f"  dynconv reproduce {name}{root}" for name in names)]
    return "\n".join(lines)
