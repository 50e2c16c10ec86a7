"""What each command does with its words. All return the exit code, and import what they need themselves."""

from __future__ import annotations

import importlib
import json
import sys

from dynconv.ending import fail, is_main_process, packages_missing, train_run
from dynconv.usage import (
    BENCH_USAGE,
    INFO_USAGE,
    PLOT_USAGE,
    REPRODUCE_USAGE,
    TRAIN_USAGE,
    asks_for_help,
    show_usage,
)

FIGURES = (
    "training",
    "coefficients",
    "degradation",
    "trade-off",
    "epsilon",
    "curves",
    "sweep",
    "fine-tuning",
    "stream",
    "scenes",
    "spectra",
    "predictions",
    "perturbation",
    "source-or-not",
)
BENCHMARKS = {
    "dynamic_conv2d": "dynconv.bench.bench_dynamic_conv2d",
    "coefficients": "dynconv.bench.bench_coefficients",
    "feature_gradient_norms": "dynconv.bench.bench_feature_gradient_norms",
    "drt-step": "dynconv.bench.bench_drt_step",
    "gsda-step": "dynconv.bench.bench_gsda_step",
    "segmentation": "dynconv.bench.bench_segmentation",
    "loader": "dynconv.bench.bench_loader",
}


def run_train(args: list[str]) -> int:
    """`dynconv train`."""
    from dynconv.methods import METHODS

    if asks_for_help(args):
        lines = (f"  {name:12} {_summary(method.config_class)}" for name, method in METHODS.items())
        return show_usage(TRAIN_USAGE.format(methods="\n".join(lines)), args)
    if args[0] not in METHODS:
        return fail(f"train: expected a METHOD first, one of {', '.join(METHODS)}; got {args[0]!r}")
    from rich.console import Console

    from dynconv.engine.options import parse_train

    try:
        config = parse_train(args[0], args[1:])
    except (ValueError, TypeError) as error:
        return fail(str(error))
    # After the options were read: a mistyped one is answered before Lightning's seconds of import.
    from dynconv.engine.run_folder import RunFolder

    code, trained = train_run(config)
    if code or not is_main_process():
        return code
    from dynconv.report.figures.training import save_training_figure
    from dynconv.report.table import selection_table, validator_table

    folder = RunFolder(config.out)
    for table in (selection_table(folder), validator_table(folder)):
        if table is not None:
            Console().print(table)
    if trained:
        try:
            print(f"curves of the training: {save_training_figure([folder])}")
        except ValueError as error:
            return fail(f"the run is finished and whole, its picture is not: {error}")
    return 0


def run_match(args: list[str]) -> int:
    """`dynconv match`."""
    from rich.console import Console

    from dynconv.engine.match import match_config, parse_match

    options = parse_match(args)
    try:
        config = match_config(options)
    except (ValueError, TypeError) as error:
        return fail(str(error))
    from dynconv.engine.run_folder import RunFolder

    code, _ = train_run(config)
    if code or not is_main_process():
        return code
    from dynconv.report.matched import matched_table

    Console().print(matched_table(RunFolder(config.out)))
    return 0


def _summary(config_class: type[object]) -> str:
    return " ".join((config_class.__doc__ or "").split("\n\n")[0].split())


def run_eval(args: list[str]) -> int:
    """`dynconv eval`."""
    from rich.console import Console

    from dynconv.engine.options import EvalOptions
    from dynconv.parsing import parse_options

    options = parse_options(EvalOptions, "eval", args)
    from dynconv.engine.measure import measure_run
    from dynconv.report.table import metric_table

    try:
        metrics = measure_run(
            options.run,
            domain=options.domain,
            checkpoint=options.checkpoint,
            data_root=options.data_root,
            device=options.device,
            precision=options.precision,
        )
    except (ValueError, TypeError) as error:
        return fail(str(error))
    if options.json:
        print(json.dumps(metrics))
    else:
        Console().print(metric_table(metrics))
    return 0


def run_predict(args: list[str]) -> int:
    """`dynconv predict`."""
    from dynconv.engine.options import PredictOptions
    from dynconv.parsing import parse_options

    options = parse_options(PredictOptions, "predict", args)
    from dynconv.engine.loaded_run import load_run
    from dynconv.engine.predict import predict_images
    from dynconv.engine.predict_scenes import predict_scenes

    try:
        loaded = load_run(
            options.run, checkpoint=options.checkpoint, device=options.device, precision=options.precision
        )
        if loaded.config.network_input.labels == "pixel":
            unread, total = predict_scenes(loaded, options)
            lost = "they have no label map, but an error in predictions.json"
        else:
            unread, total = predict_images(
                loaded,
                options.images,
                options.out,
                top=options.top,
                batch_size=options.batch_size,
                image_size=options.image_size,
            )
            lost = "their rows have no class, but an error"
    except (ValueError, TypeError) as error:
        return fail(str(error))
    if unread:
        return fail(f"{unread} of {total} images could not be read: {lost}")
    return 0


def run_export(args: list[str]) -> int:
    """`dynconv export`."""
    from dynconv.engine.options import ExportOptions
    from dynconv.parsing import parse_options

    options = parse_options(ExportOptions, "export", args)
    if options.format == "onnx" and (problem := packages_missing("export")):
        return fail(problem)
    from dynconv.engine.export import export_run
    from dynconv.engine.export_calibrator import export_calibrator
    from dynconv.engine.export_stylised import export_stylised
    from dynconv.engine.loaded_run import load_run
    from dynconv.engine.loading import loading_progress
    from dynconv.engine.programs import ExportMismatch

    try:
        loaded = load_run(
            options.run,
            checkpoint=options.checkpoint,
            device="cpu",
            precision="32-true",
            data_root=options.data_root,
        )
        if options.part == "stylised":
            stylised = export_stylised(loaded, options.out, on_progress=loading_progress())
            print(stylised.folder)
            print(f"{stylised.images:,} translated images: --source NAME={stylised.folder}", file=sys.stderr)
            return 0
        if options.part == "calibrator":
            calibrator = export_calibrator(loaded, options.out, options.format, options.image_size)
            files, agreement, remarks = calibrator.files, calibrator.agreement, calibrator.overhead.lines()
        elif options.format is None:
            raise ValueError(f"--part {options.part} is written as a program: give --format torch or --format onnx")
        else:
            model = export_run(loaded, options.out, options.format, options.part, options.image_size)
            files, agreement, remarks = (model.file,), model.agreement, []
    except (ValueError, TypeError) as error:
        return fail(str(error))
    except ExportMismatch as error:
        return fail(str(error), code=1)
    print(*files, sep="\n")
    print(
        f"largest difference to the network's {agreement.of}: {agreement.difference:.2g} "
        f"(at most {agreement.tolerance:.2g})",
        *remarks,
        sep="\n",
        file=sys.stderr,
    )
    return 0


def run_data(args: list[str]) -> int:
    """`dynconv data`."""
    from dynconv.report.datasets import commands as data_commands

    if asks_for_help(args):
        return show_usage(data_commands.USAGE, args)
    try:
        problem = data_commands.run_data(args[0], args[1:])
    except (ValueError, TypeError) as error:
        return fail(str(error))
    return 0 if problem is None else fail(problem)


def run_plot(args: list[str]) -> int:
    """`dynconv plot`."""
    if asks_for_help(args):
        return show_usage(PLOT_USAGE, args)
    if args[0] not in FIGURES:
        return fail(f"plot: expected a FIGURE first, one of {', '.join(FIGURES)}; got {args[0]!r}")
    if problem := packages_missing("train"):
        return fail(problem)
    from dynconv.report.figures.commands import draw

    try:
        draw(args[0], args[1:])
    except (ValueError, TypeError) as error:
        return fail(str(error))
    return 0


def run_runs(args: list[str]) -> int:
    """`dynconv runs`."""
    from rich.console import Console

    from dynconv.engine.options import RunsOptions
    from dynconv.parsing import parse_options

    options = parse_options(RunsOptions, "runs", args)
    from dynconv.engine.runs import survey
    from dynconv.report.runs import runs_table

    try:
        found = survey(options.folder)
    except ValueError as error:
        return fail(str(error))
    if options.json:
        print(json.dumps([run.to_dict() for run in found]))
    elif not found:
        print(f"no run below {options.folder}")
    else:
        console = Console()
        # Of a pipe's 80 columns, which rich assumes, the names would be folded to pieces.
        console = console if console.is_terminal else Console(width=200)
        console.print(runs_table(found, options.folder))
    return 0


def run_report(args: list[str]) -> int:
    """`dynconv report`."""
    from dynconv.report.page.options import parse_report

    options = parse_report(args)
    from dynconv.report.page.build import make_report

    try:
        written = make_report(options, line=lambda text: print(text, file=sys.stderr))
    except ValueError as error:
        return fail(str(error))
    for path in written:
        print(path)
    return 0


def run_reproduce(args: list[str]) -> int:
    """`dynconv reproduce`."""
    if asks_for_help(args):
        from dynconv.report.reproduction.listing import list_recipes

        return show_usage(REPRODUCE_USAGE.format(tables=list_recipes()), args)
    from dynconv.report.reproduction.options import parse_reproduce
    from dynconv.report.reproduction.reproduce import reproduce
    from dynconv.report.reproduction.reproduce_all import reproduce_all

    options = parse_reproduce(args)
    try:
        made = (reproduce_all if options.all else reproduce)(options, line=lambda text: print(text, file=sys.stderr))
    except (ValueError, TypeError) as error:
        return fail(str(error))
    if made.text:
        print(made.text)
    if made.failed:
        return fail(f"not finished: {', '.join(made.failed)}; the reasons stand above", code=1)
    return 0


def run_bench(args: list[str]) -> int:
    """`dynconv bench`."""
    if args and args[0] in ("-h", "--help"):
        print(BENCH_USAGE, end="")
        return 0
    if problem := packages_missing("bench"):
        return fail(problem)
    names_operation = bool(args) and not args[0].startswith("-")
    operation = args[0] if names_operation else "dynamic_conv2d"
    if operation not in BENCHMARKS:
        return fail(f"bench: expected an OP of {', '.join(BENCHMARKS)}; got {operation!r}")
    return importlib.import_module(BENCHMARKS[operation]).main(args[1:] if names_operation else args)


def run_info(args: list[str]) -> int:
    """`dynconv info`."""
    if any(word in ("-h", "--help") for word in args):
        print(INFO_USAGE, end="")
        return 0
    if args:
        return _cost(args)
    from dynconv import info

    info.main()
    return 0


def _cost(args: list[str]) -> int:
    if problem := packages_missing("train"):
        return fail(problem)
    from rich.console import Console

    from dynconv.report.cost import cost_facts, cost_table, parse_info

    try:
        options = parse_info(args)
    except ValueError as error:
        return fail(str(error))
    from dynconv.models.cost import costs_of_kinds

    rows = costs_of_kinds(options.backbone, options.counted_classes, options.image_size)
    if options.json:
        print(json.dumps(cost_facts(options, rows)))
    else:
        Console().print(cost_table(options, rows))
    return 0
