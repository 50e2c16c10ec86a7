"""The options of `dynconv report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dynconv.engine.run_options import DataRoot, Device
from dynconv.parsing import parse_options


@dataclass(frozen=True)
class ReportOptions:
    """Gather finished runs in one report: OUT/report.md, OUT/report.tex and OUT/report.html, which needs no other file.

    Runs that are not finished or damaged are listed with what is missing.
    """

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ]
    """Run folders, or folders that hold run folders at any depth."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: report)")] = Path("report")
    """Folder to write: the three files, figures/, and cache/, which makes the next call quick."""
    checkpoint: Literal["last", "source-val", "label-free"] = "last"
    """Which of a run's models the summary and the figures show: the last, the one with the best accuracy on the
    held-out source images, or the one with the best label-free validator on the target's."""
    title: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(default: Report of runs)")] = (
        "Report of runs"
    )
    """Head of the report."""
    published: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]", help_behavior_hint="")] = ()
    """Tables of the papers to cite whole behind the results, by name (drt-4), or all. A name that is none is answered
    with the list of them."""
    data_root: DataRoot = None
    """Folder of the real data sets. Default: the one each run was trained with."""
    device: Device = "auto"
    """Where to compute features and predictions."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("RUN: expected at least one run folder, or a folder that holds some; got none")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out {self.out} is a file; give a folder")
        if self.published:
            # Here: the names stand beside recipes, whose import takes seconds.
            from dynconv.report.cited import check_names

            check_names(self.published)


def parse_report(args: Sequence[str]) -> ReportOptions:
    """The options that the words after `dynconv report` describe.

    Raises:
        SystemExit: With code 2 for an unknown option, a wrong value or no run; with 0 after --help.
    """
    return parse_options(ReportOptions, "report", args)
