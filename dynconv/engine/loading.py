"""What is told of loading a run's images: how far it is, and which images were left out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

from dynconv.data import Skipped
from dynconv.distributed import is_main
from dynconv.engine.run_folder import RunFolder, write_atomically

# Seconds between two lines: what is read faster says nothing.
INTERVAL = 5.0


def loading_progress(line: Callable[[str], None] | None = None) -> Callable[[str, int, int], None]:
    """What to call with (what, done, total) of a pass over images; it says so every `INTERVAL` seconds.

    Args:
        line: Where a line goes; standard error by default. Of several processes the main one speaks.
    """
    began: dict[str, float] = {}
    told = line or (lambda text: print(text, file=sys.stderr))

    def progress(what: str, done: int, total: int) -> None:
        last = began.setdefault(what, time.monotonic())
        if is_main() and time.monotonic() - last >= INTERVAL:
            began[what] = time.monotonic()
            told(f"{what}: {done} of {total} images")

    return progress


def check_skipped(folder: RunFolder, skipped: Sequence[Skipped]) -> None:
    """Check that `skipped` are the images that the run in `folder` went without from its beginning, if it began.

    Raises:
        ValueError: They are others, or the record of them is damaged.
    """
    stored = read_skipped(folder)
    if stored is None:
        return
    old, new = ({(each.domain, each.path) for each in rows} for rows in (stored, skipped))
    if old == new:
        return
    changes = [f"{domain}/{path} cannot be read now" for domain, path in sorted(new - old)]
    changes += [f"{domain}/{path} can be read now" for domain, path in sorted(old - new)]
    more = f" and {len(changes) - 10} more" if len(changes) > 10 else ""
    raise ValueError(
        f"--skip-bad: the run in {folder.path} was trained on other images: {'; '.join(changes[:10])}{more}. Put the "
        "files back as they were, or start another run with another --out"
    )


def record_skipped(folder: RunFolder, skipped: Sequence[Skipped]) -> None:
    """Write the images that the run goes without to skipped.json, as a list of objects (domain, path, why)."""
    if is_main():
        write_atomically(folder.skipped, json.dumps([each._asdict() for each in skipped], indent=2) + "\n")


def read_skipped(folder: RunFolder) -> list[Skipped] | None:
    """The images that a run went without; None where it was not asked for.

    Raises:
        ValueError: The file is damaged.
    """
    if not folder.skipped.exists():
        return None
    try:
        return [Skipped(**each) for each in json.loads(folder.skipped.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{folder.skipped} is damaged: {error}; delete it: which images the run went without is then not checked"
        ) from error
