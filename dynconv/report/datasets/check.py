"""What `dynconv data check` prints: what was counted, and each finding as a line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dynconv.data.check import DomainCheck
from dynconv.data.findings import NOTES

# Above so many the table of classes would bury the findings; --json has them all.
MOST_CLASSES = 100
# Columns of counts that fit beside a class's name in 100 characters.
MOST_COLUMNS = 6


def check_tables(checks: Sequence[DomainCheck]) -> Group:
    """Images per split, then per class: found, and published where that differs."""
    table = Table(title="images by split", box=SIMPLE_HEAD)
    for name in ("domain", "split"):
        table.add_column(name, overflow="fold")
    for name in ("found", "published", "classes", "per class", "problems", "notes"):
        table.add_column(name, justify="right", no_wrap=True)
    for check in checks:
        first = True
        for split in check.splits or check.counts or {"all": 0}:
            table.add_row(check.name if first else "", *_row(check, split), *(_totals(check) if first else ("", "")))
            first = False
    parts: list[RenderableType] = [table]
    by_classes: dict[tuple[str, ...], list[tuple[DomainCheck, str]]] = {}
    for check in checks:
        if 0 < len(check.classes) <= MOST_CLASSES:
            by_classes.setdefault(check.classes, []).extend((check, split) for split in check.counts)
    for classes, columns in by_classes.items():
        for start in range(0, len(columns), MOST_COLUMNS):
            parts.append(_class_table(classes, columns[start : start + MOST_COLUMNS]))
    return Group(*parts)


def check_lines(checks: Sequence[DomainCheck]) -> list[str]:
    """The findings, problems first, then where to get what is not sound; empty where nothing was found."""
    problems = [line for check in checks for line in check.findings.lines(problems=True)]
    notes = [line for check in checks for line in check.findings.lines(problems=False)]
    lines = ["problems:", *(f"  {line}" for line in problems)] if problems else []
    lines += ["notes:", *(f"  {line}" for line in notes)] if notes else []
    sources: dict[str, dict[str, None]] = {}
    for check in checks:
        if not check.sound and check.how_to_get:
            sources.setdefault(check.how_to_get, {})[check.title] = None
    return lines + [f"to get {', '.join(titles)}: {how}" for how, titles in sources.items()]


def sound_lines(checks: Sequence[DomainCheck]) -> list[str]:
    """What is said where no problem was found, and of which sets that is less than it sounds."""
    lines = [f"nothing is wrong with {', '.join(check.name for check in checks)}"]
    if unknown := [check.name for check in checks if check.uncompared]:
        lines.append(
            f"not compared, for neither digests nor counts per class are published: the labels and pixels of "
            f"{', '.join(unknown)}"
        )
    return lines


def verdict(checks: Sequence[DomainCheck]) -> str | None:
    """What is wrong in a sentence; None where all is well."""
    wrong = [check for check in checks if not check.sound]
    if not wrong:
        return None
    count = sum(check.findings.problems for check in wrong)
    problems = "1 problem" if count == 1 else f"{count:,} problems"
    kinds = {kind for check in wrong for kind in check.findings.counts if kind not in NOTES}
    # --subset allows that alone.
    hint = "; fewer images than published are allowed by --subset" if kinds == {"too few images"} else ""
    return f"{problems} in {', '.join(check.name for check in wrong)} ({len(wrong)} of {len(checks)} checked){hint}"


def _row(check: DomainCheck, split: str) -> tuple[str, ...]:
    if split not in check.counts:
        return split, "-", f"{check.splits[split]:,}" if split in check.splits else "", "-", "-"
    found, counts = check.found(split), [count for count in check.counts[split].values() if count]
    published = f"{check.splits[split]:,}" if split in check.splits else ""
    spread = "-" if not counts else f"{min(counts):,}" if min(counts) == max(counts) else _spread(counts)
    return split, f"{found:,}", published, f"{len(counts)} of {len(check.classes)}", spread


def _spread(counts: Sequence[int]) -> str:
    return f"{min(counts):,} to {max(counts):,}"


def _totals(check: DomainCheck) -> tuple[Text, str]:
    problems, notes = check.findings.problems, sum(check.findings.counts.values()) - check.findings.problems
    return Text(f"{problems:,}", style="red" if problems else "green"), f"{notes:,}"


def _class_table(classes: Sequence[str], columns: Sequence[tuple[DomainCheck, str]]) -> Table:
    table = Table(title="images by class", box=SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for check, split in columns:
        table.add_column(check.name if split == "all" else f"{check.name}\n{split}", justify="right")
    for label in classes:
        table.add_row(label, *(f"{check.counts[split].get(label, 0):,}" for check, split in columns))
    return table
