"""`dynconv plot`: each figure from its words. What draws is imported after the words were read: a mistyped one is
answered before the seconds that Lightning takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynconv.parsing import parse_options
from dynconv.report.figures.comparison_options import (
    CurvesOptions,
    DegradationOptions,
    FineTuningOptions,
    SweepOptions,
    TrainingOptions,
)
from dynconv.report.figures.options import (
    CoefficientOptions,
    EpsilonOptions,
    FigureOptions,
    PerturbationOptions,
    PredictionOptions,
    ScenesOptions,
    SpectraOptions,
    StreamOptions,
    TradeOffOptions,
)
from dynconv.report.figures.source_or_not_options import SourceOrNotOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dynconv.report.figures.calibrated import CalibratedRun


def draw_training(options: TrainingOptions) -> None:
    """`dynconv plot training`."""
    from dynconv.engine.run_folder import RunFolder
    from dynconv.report.figures.training import save_training_figure

    print(save_training_figure([RunFolder(run) for run in options.runs], options.out))


def draw_coefficients(options: CoefficientOptions) -> None:
    """`dynconv plot coefficients`."""
    from dynconv.report.figures.coefficients import save_coefficient_figures

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


def draw_degradation(options: DegradationOptions) -> None:
    """`dynconv plot degradation`."""
    from dynconv.report.figures.degradation import training_warning
    from dynconv.report.figures.degradation_figure import degradation_tables, save_degradation_figure

    found = save_degradation_figure(options.runs, options.oracles, options.out, line=_warn)
    if warning := training_warning(found):
        _warn(warning)
    _tell(degradation_tables(found), options.out)


def draw_trade_off(options: TradeOffOptions) -> None:
    """`dynconv plot trade-off`."""
    from dynconv.report.collect import FoundRun
    from dynconv.report.figures.trade_off import measure_as_target, save_trade_off_figure, trade_off_table

    def measure(run: FoundRun) -> float:
        _warn(f"{run.name}: source images through the target's network")
        return measure_as_target(run, options.checkpoint, device=options.device, data_root=options.data_root)

    own = options.source_as == "source"
    found = save_trade_off_figure(options.runs, options.out, options.checkpoint, None if own else measure, line=_warn)
    _tell(trade_off_table(found), options.out)


def draw_epsilon(options: EpsilonOptions) -> None:
    """`dynconv plot epsilon`."""
    from dynconv.report.figures.epsilon import epsilon_table, save_epsilon_figure, save_sweep_figure

    if options.sweep:
        found = save_sweep_figure(_open(options.runs[0], options), options.out)
    else:
        found = save_epsilon_figure(options.runs, options.out, options.checkpoint, line=_warn)
    _tell(epsilon_table(found), options.out)


def draw_curves(options: CurvesOptions) -> None:
    """`dynconv plot curves`."""
    from dynconv.report.figures.curves import curves_table, save_curves_figure

    found = save_curves_figure(options.runs, options.out, options.metric, line=_warn)
    _tell(curves_table(found), options.out)


def draw_sweep(options: SweepOptions) -> None:
    """`dynconv plot sweep`."""
    from dynconv.report.figures.sweep import save_sweep_figure, sweep_table

    found = save_sweep_figure(options.runs, options.out, options.field, options.checkpoint, line=_warn)
    _tell(sweep_table(found), options.out)


def draw_fine_tuning(options: FineTuningOptions) -> None:
    """`dynconv plot fine-tuning`."""
    from dynconv.report.figures.fine_tuning_figure import fine_tuning_tables, save_fine_tuning_figure

    found = save_fine_tuning_figure(options.runs, options.out, line=_warn)
    _tell(fine_tuning_tables(found), options.out)


def draw_stream(options: StreamOptions) -> None:
    """`dynconv plot stream`."""
    from dynconv.engine.loaded_run import check_whole_images, load_run
    from dynconv.engine.stream import Schedule
    from dynconv.report.figures.stream import save_stream_figure, stream_table

    loaded = [
        load_run(run, checkpoint=options.checkpoint, device=options.device, data_root=options.data_root)
        for run in options.runs
    ]
    for run in loaded:
        check_whole_images(run, "plot stream")
    schedule = Schedule(options.blocks, options.block_batches, options.batch_size, options.seed)
    found = save_stream_figure(loaded, options.out, schedule)
    _tell(stream_table(found), options.out)


def draw_scenes(options: ScenesOptions) -> None:
    """`dynconv plot scenes`."""
    from dynconv.engine.loaded_run import LoadedRun, load_run
    from dynconv.report.figures.compared_scenes import save_comparison
    from dynconv.report.figures.scenes import save_scenes_figure

    def load(run: Path) -> LoadedRun:
        return load_run(run, checkpoint=options.checkpoint, device=options.device, data_root=options.data_root)

    if len(options.runs) == 1:
        save_scenes_figure(load(options.runs[0]), options.picture, side=options.side, count=options.images)
    else:
        save_comparison(options.runs, load, options.picture, side=options.side, count=options.images, line=_warn)
    print(options.picture)


def draw_spectra(options: SpectraOptions) -> None:
    """`dynconv plot spectra`."""
    from dynconv.report.figures.spectra import save_spectra_figure

    written = save_spectra_figure(
        _open(options.run, options),
        options.picture,
        images=options.images,
        samples=options.samples,
        radius=options.radius,
    )
    for path in written:
        print(path)


def draw_predictions(options: PredictionOptions) -> None:
    """`dynconv plot predictions`."""
    from dynconv.report.figures.prediction_panels import save_prediction_figure

    written = save_prediction_figure(
        _open(options.run, options), options.picture, images=options.images, samples=options.samples
    )
    for path in written:
        print(path)


def draw_perturbation(options: PerturbationOptions) -> None:
    """`dynconv plot perturbation`."""
    from rich.console import Console

    from dynconv.report.figures.perturbation_figure import perturbation_tables, save_perturbation_figure

    found, written = save_perturbation_figure(
        _open(options.run, options), options.picture, images=options.images, bounds=sorted(set(options.sizes))
    )
    Console().print(perturbation_tables(found))
    for path in written:
        print(path)


def draw_source_or_not(options: SourceOrNotOptions) -> None:
    """`dynconv plot source-or-not`."""
    from rich.console import Console

    from dynconv.engine.loaded_run import load_run
    from dynconv.report.figures.source_or_not import play_game
    from dynconv.report.figures.source_or_not_figure import save_source_or_not_figure, source_or_not_table
    from dynconv.report.figures.source_or_not_play import introduction, play_rounds, score_table

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
    from dynconv.engine.loaded_run import check_whole_images
    from dynconv.report.figures.calibrated import open_calibrated

    opened = open_calibrated(run, checkpoint=options.checkpoint, device=options.device, data_root=options.data_root)
    # Spectra are of images, whatever their labels.
    if options.figure != "spectra":
        check_whole_images(opened.loaded, f"plot {options.figure}{' --sweep' * (options.figure == 'epsilon')}")
    return opened


def _tell(table: RenderableType, out: Path) -> None:
    """Print what was measured, and the files that hold it: the figure and its numbers."""
    from rich.console import Console

    Console().print(table)
    for path in (out, out.with_suffix(".csv")):
        print(path)


def _warn(text: str) -> None:
    print(f"dynconv: {text}", file=sys.stderr)


FIGURES: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "training": (TrainingOptions, draw_training),
    "coefficients": (CoefficientOptions, draw_coefficients),
    "degradation": (DegradationOptions, draw_degradation),
    "trade-off": (TradeOffOptions, draw_trade_off),
    "epsilon": (EpsilonOptions, draw_epsilon),
    "curves": (CurvesOptions, draw_curves),
    "sweep": (SweepOptions, draw_sweep),
    "fine-tuning": (FineTuningOptions, draw_fine_tuning),
    "stream": (StreamOptions, draw_stream),
    "scenes": (ScenesOptions, draw_scenes),
    "spectra": (SpectraOptions, draw_spectra),
    "predictions": (PredictionOptions, draw_predictions),
    "perturbation": (PerturbationOptions, draw_perturbation),
    "source-or-not": (SourceOrNotOptions, draw_source_or_not),
}
"""By the figure's name: its options, and what draws it and prints the files that it wrote."""


def draw(figure: str, args: Sequence[str]) -> None:
    """Draw one of `FIGURES` as the words `args` after its name say.

    Raises:
        ValueError: What cannot be drawn, and why.
        SystemExit: As `parse_options`.
    """
    options, draw_figure = FIGURES[figure]
    draw_figure(parse_options(options, f"plot {figure}", args))
