"""What became slower or faster between two tables of `dynconv bench`.

    python -m dynconv.bench.compare BEFORE.csv AFTER.csv [--threshold 10] [--metric ratio_to_static]

Rows are joined by what they measure. The default metric is the ratio to the static convolution of the same run, so that
another machine, or another day, does not count as a change of the code. Exit code 1 where a row became slower by more
than the threshold or was refused; 2 for files that are no such tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dynconv.bench.rows import Written, identity, label, number, read_rows

Metric = Literal["ratio_to_static", "ratio_of_minima", "p50_ms", "min_ms", "peak_extra_mb"]
# Of the machine, not of the code: said where they differ and the metric does not divide them out.
_MACHINE = ("device_name", "threads", "torch")
# Peaks of small calls are pages that come and go.
_PEAK_NOISE_MB = 1.0


@dataclass(frozen=True)
class Options:
    """Compare two tables."""

    before: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BEFORE.csv")]
    """The table to compare with."""
    after: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AFTER.csv")]
    """The new table."""
    threshold: float = 10.0
    """Per cent beyond which a row changed."""
    metric: Metric = "ratio_to_static"
    """Which column. Ratios leave the machine out; peak_extra_mb compares memory, from 1 MB of difference."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < float("inf"):
            raise ValueError(f"--threshold: expected per cent, at least 0; got {self.threshold}")


@dataclass(frozen=True)
class Change:
    """One row in both tables."""

    row: Written
    before: float
    after: float

    @property
    def per_cent(self) -> float:
        return 100 * (self.after / self.before - 1) if self.before else float("inf") * (self.after > 0)

    def __str__(self) -> str:
        return f"{self.per_cent:+7.1f} %   {self.before:.4g} -> {self.after:.4g}   {label(self.row)}"


@dataclass(frozen=True)
class Comparison:
    """The joined rows that changed, and those that cannot be compared."""

    slower: list[Change]
    faster: list[Change]
    refused: list[Written]
    lost: list[Written]
    joined: int


def compare(options: Options) -> Comparison:
    """Join the tables by row and sort out what changed.

    Raises:
        ValueError: A file is no table of ours, has the same row twice, or the two have no row in common.
    """
    tables = []
    for path in (options.before, options.after):
        table: dict[tuple[str, ...], Written] = {}
        for row in read_rows(path):
            if identity(row) in table:
                raise ValueError(f"{path} has two rows of {label(row)}; compare tables of one run each")
            table[identity(row)] = row
        tables.append(table)
    before, after = tables
    slower, faster, refused, lost = [], [], [], []
    joined = 0
    for key, old in before.items():
        if old["status"] != "ok":
            continue
        new = after.get(key)
        if new is None or new["status"] == "skipped":
            lost.append(old)
            continue
        if new["status"] == "refused":
            refused.append(new)
            continue
        if old[options.metric] == "" or new[options.metric] == "":
            continue
        joined += 1
        values = number(old, options.metric, options.before), number(new, options.metric, options.after)
        change = Change(new, *values)
        if options.metric == "peak_extra_mb" and abs(change.after - change.before) < _PEAK_NOISE_MB:
            continue
        if change.per_cent > options.threshold:
            slower.append(change)
        elif change.before > change.after * (1 + options.threshold / 100):
            faster.append(change)
    if not joined and not refused:
        raise ValueError(f"{options.before} and {options.after} have no row in common that has {options.metric}")
    slower.sort(key=lambda change: -change.per_cent)
    faster.sort(key=lambda change: change.per_cent)
    return Comparison(slower, faster, refused, lost, joined)


def main(args: Sequence[str] | None = None) -> int:
    """Print what changed; 1 where something became slower or was refused, 2 for wrong use."""
    options = tyro.cli(Options, prog="python -m dynconv.bench.compare", description=__doc__, args=args)
    try:
        found = compare(options)
        first = [read_rows(path)[0] for path in (options.before, options.after)]
    except ValueError as error:
        print(f"dynconv.bench.compare: error: {error}", file=sys.stderr)
        return 2
    if options.metric in ("p50_ms", "min_ms"):
        for name in _MACHINE:
            if first[0][name] != first[1][name]:
                print(f"not the same {name}: {first[0][name]} and {first[1][name]}; times include that")
    worse, better = ("larger", "smaller") if options.metric == "peak_extra_mb" else ("slower", "faster")
    for title, changes in ((worse, found.slower), (better, found.faster)):
        if changes:
            print(f"{title} by more than {options.threshold:g} % ({options.metric}):")
            print(*(f"  {change}" for change in changes), sep="\n")
    for title, rows in (("refused now:", found.refused), (f"not in {options.after}, or skipped there:", found.lost)):
        if rows:
            print(title, *(f"  {label(row)}" for row in rows), sep="\n")
    counts = f"{len(found.slower)} {worse}, {len(found.faster)} {better}, {len(found.refused)} refused"
    print(f"{found.joined} rows compared: {counts}")
    return 1 if found.slower or found.refused else 0


if __name__ == "__main__":
    sys.exit(main())
