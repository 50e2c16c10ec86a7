"""The figure, the table and the CSV file of a device that moves between domains (Calibrator, section 1)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table

from dynconv.engine.loaded_run import LoadedRun
from dynconv.engine.stream import Schedule, Stream, stream
from dynconv.plots.stream import save_stream
from dynconv.report.figures.training import write_beside


def save_stream_figure(runs: Sequence[LoadedRun], out: Path, schedule: Schedule) -> Stream:
    """Draw accuracy over time, and write that of every batch beside it as CSV.

    Args:
        runs: As `stream`.
        out: Image file to write; its suffix chooses the format.
        schedule: Length of the stream, and its seed.

    Returns:
        What was drawn.

    Raises:
        ValueError, DataError: As `stream`; a file that cannot be written.
    """
    found = stream(runs, schedule)
    save_stream(found.domains, {way: values.tolist() for way, values in found.accuracy.items()}, out)
    write_beside(out, stream_csv(found))
    return found


def stream_csv(found: Stream) -> str:
    """Accuracy in per cent of every batch by every way."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("batch", "domain", "way", "accuracy"))
    for place, domain in enumerate(found.domains):
        for way, values in found.accuracy.items():
            table.writerow((place + 1, domain, way, f"{100 * values[place].item():.3f}"))
    return text.getvalue()


def stream_table(found: Stream) -> Table:
    """Mean accuracy by way: over the batches of each domain, and over all."""
    # The sources first, and each in the order of its first block.
    names = sorted(dict.fromkeys(found.domains), key=lambda name: name not in found.source)
    places = {name: torch.tensor([domain == name for domain in found.domains]) for name in names}
    caption = f"in %, mean over the batches; {len(found.domains)} of them"
    table = Table(title="Accuracy on a stream that changes its domain", caption=caption)
    table.add_column("way", overflow="fold")
    for name in names:
        kind = "source, " if name in found.source else ""
        table.add_column(f"{name}\n({kind}{int(places[name].sum())} batches)", justify="right")
    table.add_column("all", justify="right")
    for way, values in found.accuracy.items():
        means = [values[where].mean().item() for where in places.values()]
        table.add_row(way, *(f"{100 * mean:.1f}" for mean in (*means, values.mean().item())))
    return table
