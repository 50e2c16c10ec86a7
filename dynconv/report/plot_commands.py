"""`dynconv plot`: each figure from its words. What draws is imported after the words were read: a mistyped one is
answered before the seconds that Lightning takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from dynconv.engine.options import parse_coefficients, parse_degradation, parse_plot


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

    found = save_degradation_figure(options.runs, options.oracles, options.out)
    if warning := training_warning(found):
        print(f"dynconv: {warning}", file=sys.stderr)
    Console().print(degradation_tables(found))
    for path in (options.out, options.out.with_suffix(".csv")):
        print(path)


DRAW: dict[str, Callable[[Sequence[str]], None]] = {
    "training": draw_training,
    "coefficients": draw_coefficients,
    "degradation": draw_degradation,
}
"""By the figure's name. Each prints the files that it wrote.

Raises:
    ValueError: What cannot be drawn, and why.
    SystemExit: As `parse_options`.
"""
