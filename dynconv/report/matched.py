"""What a closed-form adaptation did to the figures of a run: before and after it."""

from __future__ import annotations

from rich.table import Table

from dynconv.engine.run_folder import RunFolder
from dynconv.engine.selection import before, main_metric
from dynconv.report.table import NO_LABELS, accuracies, measures, percent, selected_rows, without_target_labels


def matched_table(folder: RunFolder) -> Table:
    """The accuracies, of segmentation all measures, of a finished run in per cent: of the network that it began with,
    and of the matched one.

    Raises:
        ValueError: The run is not finished.
    """
    last = selected_rows(folder)["last"]
    start = before(folder.rows())
    names = accuracies(last)
    if main_metric(last) != "accuracy":
        names = [f"{where}/{metric}" for where, found in measures(last).items() for metric in found]
    words = NO_LABELS if without_target_labels(last) else "no label of the target was looked at but for these figures"
    table = Table(title=str(folder.path), caption=f"in %; {words}")
    table.add_column("images", overflow="fold")
    columns = {"after": last} if start is None else {"before": start, "after": last}
    for head in columns:
        table.add_column(head, justify="right")
    for name in names:
        cells = (percent(row[name]) for row in columns.values())
        table.add_row(name.removesuffix("/accuracy"), *cells)
    return table
