"""What a report's runs make of images: from the cache where it holds that, computed and kept there where not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from dynconv.report.collect import FoundRun
from dynconv.report.figures.scenes import SceneViews, view
from dynconv.report.page import cache
from dynconv.report.page.analysis import Analysis, analyse
from dynconv.report.page.options import ReportOptions

Seen = Analysis | SceneViews


def analyses(runs: Sequence[FoundRun], options: ReportOptions, *, line: Callable[[str], None]) -> dict[str, Seen | str]:
    """By the run's name its analysis, of segmentation the views of scenes, or why there is none; progress goes to
    `line`.

    A cached one is kept by configuration, checkpoint and step, and taken if the checkpoint's file is the one it was
    computed from.
    """
    found: dict[str, Seen | str] = {}
    for place, run in enumerate(runs, start=1):
        try:
            what = "features" if run.metric == "accuracy" else "scenes"
            found[run.name] = _analysis(
                run, options, partial(line, f"run {place} of {len(runs)}: {what} of {run.name}")
            )
        except (ValueError, OSError) as error:
            # Other runs of the report are in no need of this one's data.
            found[run.name] = str(error)
    return found


def _analysis(run: FoundRun, options: ReportOptions, announce: Callable[[], None]) -> Seen:
    row = run.chosen(options.checkpoint)
    if row is None:
        what = "the run is not finished" if run.done is None else f"the run has no choice by {options.checkpoint}"
        raise ValueError(what)
    weights = run.folder.checkpoint(options.checkpoint)
    if not weights.is_file():
        raise ValueError(f"there is no checkpoint {weights}")
    state = weights.stat()
    stamp = f"{state.st_size}-{state.st_mtime_ns}"
    path = options.out / "cache" / f"{run.config.hash}-{options.checkpoint}-{row['step']}.npz"
    whole_images = run.metric == "accuracy"
    held: Seen | None = cache.load(Analysis, path, stamp) if whole_images else cache.load(SceneViews, path, stamp)
    if held is not None:
        return held
    announce()
    # Here: training code takes 5 s to import, and a report of runs whose analyses are kept needs none of it.
    from dynconv.engine.loaded_run import load_run

    loaded = load_run(
        run.folder.path, checkpoint=options.checkpoint, device=options.device, data_root=options.data_root
    )
    made: Seen = analyse(loaded) if whole_images else view(loaded)
    cache.save(made, path, stamp)
    return made
