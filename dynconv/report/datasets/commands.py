"""`dynconv data list`, `check`, `sample` and `bound`: from their words to what they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from dynconv.parsing import parse_options
from dynconv.report.datasets.options import BoundOptions, CheckOptions, ListOptions, SampleOptions, data_root_of

ACTIONS = ("list", "check", "sample", "bound")

USAGE = """usage: dynconv data list [NAME ...] | check [NAME ...] | sample NAME [NAME ...] --out PNG
       dynconv data bound SOURCE TARGET

actions:
  list     every known set and protocol: counts, classes, what of them is here, and where to get the rest
  check    files, digests, counts per split and class, every image decoded; exits with 2 where anything differs;
           --download fetches mnist, usps and svhn first where they are missing
  sample   a picture of images of each class, or of driving scenes and their label maps
  bound    how well a model of driving scenes can do whose classes come as often as the source's

NAME is a domain (usps, office31:amazon), a collection (office31), a protocol (mnist-usps@adda) or, for check and
sample, NAME=DIR: one folder per class, a "path label" list, or scenes in CamVid's layout (train, trainannot, test,
testannot, classes.txt). `dynconv data ACTION --help` tells each one's options.
"""

# Of a pipe's 80 columns, which rich assumes, the names would be folded to pieces.
_PIPE_WIDTH = 160


def run_data(action: str, args: Sequence[str]) -> str | None:
    """Run one of the actions; returns what is wrong with the data, in a sentence, or None.

    Raises:
        ValueError: wrong use, or data that is not there.
        SystemExit: With code 2 for an unknown option or a wrong value; with 0 after --help.
    """
    if action not in ACTIONS:
        raise ValueError(f"data: expected an ACTION first, one of {', '.join(ACTIONS)}; got {action!r}")
    if action == "check":
        return _check(parse_options(CheckOptions, "data check", args))
    if action == "list":
        _list(parse_options(ListOptions, "data list", args))
    elif action == "bound":
        _bound(parse_options(BoundOptions, "data bound", args))
    else:
        _sample(parse_options(SampleOptions, "data sample", args))
    return None


def _list(options: ListOptions) -> None:
    from dynconv.report.datasets.listing import list_details, list_dict, list_tables

    root = data_root_of(options.data_root)
    if options.json:
        print(json.dumps(list_dict(options.names, root)))
    else:
        _print(list_details(options.names, root) if options.names else list_tables(root))


def _check(options: CheckOptions) -> str | None:
    import torch

    from dynconv.data.check import Checking
    from dynconv.data.check_names import check_domains, domains_meant
    from dynconv.data.digits import fetch, fetchable
    from dynconv.data.manifest import presence
    from dynconv.report.datasets.check import check_lines, check_tables, sound_lines, verdict

    root = data_root_of(options.data_root)
    names = domains_meant(options.names, root)
    if (place := options.download_to) is not None:
        others = [name for name in names if "=" not in name and not fetchable(name)]
        if lacking := [name for name in others if presence(name, place) in ("missing", "partly")]:
            told = "torchvision does not have these; `dynconv data list NAME` tells where to get each"
            print(f"dynconv: --download: {', '.join(lacking)}: {told}", file=sys.stderr)
        fetch(names, place)
    with _Bars() as bars:
        how = Checking(subset=options.subset, threads=torch.get_num_threads(), on_progress=bars.show)
        checks = check_domains(names, root, how)
    problem = verdict(checks)
    if options.json:
        print(json.dumps({"sound": problem is None, "domains": [check.to_dict() for check in checks]}))
        return problem
    _print(check_tables(checks))
    for line in check_lines(checks) + (sound_lines(checks) if problem is None else []):
        print(line)
    return problem


def _sample(options: SampleOptions) -> None:
    from dynconv.plots.class_samples import save_class_samples
    from dynconv.plots.scene_samples import save_scene_samples
    from dynconv.report.datasets.sample import sampled, sampled_scenes

    root = data_root_of(options.data_root)
    if scenes := sampled_scenes(options.names, root):
        save_scene_samples(scenes, options.out, count=options.per_class, seed=options.seed)
    else:
        save_class_samples(
            sampled(options.names, root),
            options.out,
            per_class=options.per_class,
            most_classes=options.most_classes,
            seed=options.seed,
        )
    print(options.out)


def _bound(options: BoundOptions) -> None:
    import torch

    from dynconv.report.datasets.bound import bound_of, bound_tables

    with _Bars() as bars:
        found = bound_of(
            options.source,
            options.target,
            data_root_of(options.data_root),
            setting=options.classes,
            threads=torch.get_num_threads(),
            on_progress=bars.show,
        )
    if options.manifests is not None:
        if found.source.name == found.target.name:
            raise ValueError(f"--manifests: both would be {options.manifests / found.source.name}.json")
        for each in (found.source, found.target):
            each.write(options.manifests / f"{each.name}.json")
    if options.json:
        print(json.dumps(found.to_dict()))
    else:
        _print(bound_tables(found))


def _print(parts: Group) -> None:
    """Tables folded to the width there is; text unbroken, so that paths and commands can be copied."""
    console = Console()
    console = console if console.is_terminal else Console(width=_PIPE_WIDTH)
    for part in parts.renderables:
        _print_one(console, part)


def _print_one(console: Console, part: RenderableType) -> None:
    if isinstance(part, Table | Group):
        console.print(part)
    else:
        console.print(part, soft_wrap=isinstance(part, Text), highlight=False)


class _Bars:
    """A bar per domain on a terminal's standard error; nothing elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, name: str, done: int, total: int) -> None:
        """Move the bar of one domain."""
        if self._progress is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)
