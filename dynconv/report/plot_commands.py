"""`dynconv plot`: each figure from its words. What draws is imported after the words were read: a mistyped one is
answered before the seconds that Lightning takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynconv.engine.comparison_options import parse_curves, parse_sweep
from dynconv.engine.options import parse_coefficients, parse_degradation, parse_plot
from dynconv.engine.plot_options import (
    FigureOptions,
    parse_epsilon,
    parse_fine_tuning,
    parse_perturbation,
    parse_predictions,
    parse_scenes,
    parse_spectra,
    parse_stream,
    parse_trade_off,
)
from dynconv.engine.source_or_not_options import parse_source_or_not

if TYPE_CHECKING:
    from dynconv.report.calibrated import CalibratedRun


def draw_training(args: Sequence[str]) -> None:
    """`dynconv plot training`."""
    options = parse_plot(args)
    from dynconv.engine.run_folder import RunFolder
    from dynconv.report.figures import save_training_figure

    print(save_training_figure([RunFolder(run) for run in options.runs], options.out))


def draw_coefficients(args: Sequence[str]) -> None:
    """`dynconv plot coefficients`."""
    options = parse_coefficients(args)
    from dynconv.report.coefficients import save_coefficient_figures

    for run in options.runs:
        written = save_coefficient_figures(
            run,
            options.out,
            points=options.points,
            checkpoint=options.checkpoint,
            device=options.device,
            data_root=options.data_root,
        )
        for path in written:
            print(path, flush=True)


def draw_degradation(args: Sequence[str]) -> None:
    """`dynconv plot degradation`."""
    options = parse_degradation(args)
    from rich.console import Console

    from dynconv.report.degradation import training_warning
    from dynconv.report.degradation_figure import degradation_tables, save_degradation_figure

    found = save_degradation_figure(options.runs, options.oracles, options.out, line=_warn)
    if warning := training_warning(found):
        _warn(warning)
    Console().print(degradation_tables(found))
    for path in (options.out, options.out.with_suffix(".csv")):
        print(path)


def draw_trade_off(args: Sequence[str]) -> None:
    """`dynconv plot trade-off`."""
    options = parse_trade_off(args)
    from rich.console import Console

    from dynconv.report.collect import FoundRun
    from dynconv.report.trade_off import measure_as_target, save_trade_off_figure, trade_off_table

    def measure(run: FoundRun) -> float:
        _warn(f"{run.name}: source images through the target's network")
        return measure_as_target(run, options.checkpoint, device=options.device, data_root=options.data_root)

    own = options.source_as == "source"
    found = save_trade_off_figure(options.runs, options.out, options.checkpoint, None if own else measure, line=_warn)
    Console().print(trade_off_table(found))
    for path in (options.out, options.out.with_suffix(".csv")):
        print(path)


def draw_epsilon(args: Sequence[str]) -> None:
    """`dynconv plot epsilon`."""
    options = parse_epsilon(args)
    from rich.console import Console

    from dynconv.report.epsilon import epsilon_table, save_epsilon_figure, save_sweep_figure

    if options.sweep:
        found = save_sweep_figure(_open(options.runs[0], options), options.out)
    else:
        found = save_epsilon_figure(options.runs, options.out, options.checkpoint, line=_warn)
    Console().print(epsilon_table(found))
    for path in (options.out, options.out.with_suffix(".csv")):
        print(path)


def draw_curves(args: Sequence[str]) -> None:
    """`dynconv plot curves`."""
    options = parse_curves(args)
    from rich.console import Console

    from dynconv.report.curves import curves_table, save_curves_figure

    found = save_curves_figure(options.runs, options.out, options.metric, line=_warn)
    Console().print(curves_table(found))
    for path in (options.out, options.out.with_suffix(".csv")):
        print(path)


def draw_sweep(args: Sequence[str]) -> None:
    """`dynconv plot sweep`."""
    options = parse_sweep(args)
    from rich.console import Console

    from dynconv.report.sweep import save_sweep_figure, sweep_table

    found = save_sweep_figure(options.runs, options.out, options.field, options.checkpoint, line=_warn)
    Console().print(sweep_table(found))
    for path in (options.out, options.out.with_suffix(".csv")):
        print(path)


def draw_fine_tuning(args: Sequence[str]) -> None:
    """`dynconv plot fine-tuning`."""
    options = parse_fine_tuning(args)
    from rich.console import Console

    from dynconv.report.fine_tuning import fine_tuning_tables, save_fine_tuning_figure

    found = save_fine_tuning_figure(options.runs, options.out, line=_warn)
    Console().print(fine_tuning_tables(found))
    for path in (options.out, options.out.with_suffix(".csv")):
        print(path)


def draw_stream(args: Sequence[str]) -> None:
    """`dynconv plot stream`."""
    options = parse_stream(args)
    from rich.console import Console

    from dynconv.engine.inspect import check_whole_images, load_run
    from dynconv.engine.stream import Schedule
    from dynconv.report.stream import save_stream_figure, stream_table

    loaded = [
        load_run(run, checkpoint=options.checkpoint, device=options.device, data_root=options.data_root)
        for run in options.runs
    ]
    for run in loaded:
        check_whole_images(run, "plot stream")
    schedule = Schedule(options.blocks, options.block_batches, options.batch_size, options.seed)
    found = save_stream_figure(loaded, options.out, schedule)
    Console().print(stream_table(found))
    for path in (options.out, options.out.with_suffix(".csv")):
        print(path)


def draw_scenes(args: Sequence[str]) -> None:
    """`dynconv plot scenes`."""
    options = parse_scenes(args)
    from dynconv.engine.inspect import LoadedRun, load_run
    from dynconv.report.compared_scenes import save_comparison
    from dynconv.report.scenes import save_scenes_figure

    def load(run: Path) -> LoadedRun:
        return load_run(run, checkpoint=options.checkpoint, device=options.device, data_root=options.data_root)

    if len(options.runs) == 1:
        save_scenes_figure(load(options.runs[0]), options.picture, side=options.side, count=options.images)
    else:
        save_comparison(options.runs, load, options.picture, side=options.side, count=options.images, line=_warn)
    print(options.picture)


def draw_spectra(args: Sequence[str]) -> None:
    """`dynconv plot spectra`."""
    options = parse_spectra(args)
    from dynconv.report.spectra import save_spectra_figure

    written = save_spectra_figure(
        _open(options.run, options),
        options.picture,
        images=options.images,
        samples=options.samples,
        radius=options.radius,
    )
    for path in written:
        print(path)


def draw_predictions(args: Sequence[str]) -> None:
    """`dynconv plot predictions`."""
    options = parse_predictions(args)
    from dynconv.report.prediction_panels import save_prediction_figure

    written = save_prediction_figure(
        _open(options.run, options), options.picture, images=options.images, samples=options.samples
    )
    for path in written:
        print(path)


def draw_perturbation(args: Sequence[str]) -> None:
    """`dynconv plot perturbation`."""
    options = parse_perturbation(args)
    from rich.console import Console

    from dynconv.report.perturbation_figure import perturbation_tables, save_perturbation_figure

    found, written = save_perturbation_figure(
        _open(options.run, options), options.picture, images=options.images, bounds=sorted(set(options.sizes))
    )
    Console().print(perturbation_tables(found))
    for path in written:
        print(path)


def draw_source_or_not(args: Sequence[str]) -> None:
    """`dynconv plot source-or-not`."""
    options = parse_source_or_not(args)
    from rich.console import Console

    from dynconv.engine.inspect import load_run
    from dynconv.report.source_or_not import play_game
    from dynconv.report.source_or_not_figure import save_source_or_not_figure, source_or_not_table
    from dynconv.report.source_or_not_play import introduction, play_rounds, score_table

    loaded = load_run(options.run, checkpoint=options.checkpoint, device=options.device, data_root=options.data_root)
    game = play_game(
        loaded, images=options.images, units=options.units, seed=options.seed, whose=options.network, line=_warn
    )
    console = Console()
    if options.play:
        console.print(introduction(game), markup=False, highlight=False)
        console.print(score_table(play_rounds(game.rounds(options.rounds, options.seed), console)))
        return
    written = save_source_or_not_figure(game, options.picture, rounds=options.rounds, seed=options.seed)
    console.print(source_or_not_table(game))
    for path in written:
        print(path)


def _open(run: Path, options: FigureOptions) -> CalibratedRun:
    from dynconv.engine.inspect import check_whole_images
    from dynconv.report.calibrated import open_calibrated

    opened = open_calibrated(run, checkpoint=options.checkpoint, device=options.device, data_root=options.data_root)
    # Spectra are of images, whatever their labels.
    if options.figure != "spectra":
        check_whole_images(opened.loaded, f"plot {options.figure}{' --sweep' * (options.figure == 'epsilon')}")
    return opened


def _warn(text: str) -> None:
    print(f"dynconv: {text}", file=sys.stderr)


DRAW: dict[str, Callable[[Sequence[str]], None]] = {
    "training": draw_training,
    "coefficients": draw_coefficients,
    "degradation": draw_degradation,
    "trade-off": draw_trade_off,
    "epsilon": draw_epsilon,
    "curves": draw_curves,
    "sweep": draw_sweep,
    "fine-tuning": draw_fine_tuning,
    "stream": draw_stream,
    "scenes": draw_scenes,
    "spectra": draw_spectra,
    "predictions": draw_predictions,
    "perturbation": draw_perturbation,
    "source-or-not": draw_source_or_not,
}
"""By the figure's name. Each prints the files that it wrote.

Raises:
    ValueError: What cannot be drawn, and why.
    SystemExit: As `parse_options`.
"""
