"""Training without the images that cannot be read: which ones they are, said aloud."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dynconv.data.errors import DataError
from dynconv.data.files import Decoding, ImageFiles, Skipped, remembered_unreadable
from dynconv.data.folders import Listing
from dynconv.distributed import is_main

log = logging.getLogger(__name__)

# The run folder lists them all.
_NAMED = 20


def without_unreadable(listing: Listing, decoding: Decoding) -> tuple[Listing, tuple[Skipped, ...]]:
    """`listing` without the images that cannot be read, and these; their number and names go to stderr.

    All files are looked through once, and remembered in the cache folder for as long as they do not change.

    Raises:
        DataError: no image of a class is left in a split that had some.
    """
    paths = list(dict.fromkeys(path for path, _ in (*listing.train, *(listing.test or ()))))
    files = ImageFiles(listing.name, paths, decoding)
    bad = {paths[place]: why for place, why in remembered_unreadable(files)}
    skipped = left_out(listing.name, listing.place, bad, len(paths))
    if not skipped:
        return listing, ()
    train = _readable(listing, listing.train, bad)
    test = None if listing.test is None else _readable(listing, listing.test, bad)
    return replace(listing, train=train, test=test), skipped


def left_out(name: str, place: Path, bad: Mapping[Path, str], total: int) -> tuple[Skipped, ...]:
    """What is left out of `total` images of a domain: `bad` files and why, which are told on stderr."""
    # Relative, for a run may go on from another data root.
    folder = place.parent if place.is_file() else place
    skipped = tuple(Skipped(name, os.path.relpath(path, folder), why) for path, why in bad.items())
    if skipped and is_main():
        more = f"\n  and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        named = "".join(f"\n  {each.why}" for each in skipped[:_NAMED])
        log.warning("%s: left out %d of %d images:%s%s", name, len(skipped), total, named, more)
    return skipped


def _readable(
    listing: Listing, rows: Sequence[tuple[Path, int]], bad: Mapping[Path, str]
) -> tuple[tuple[Path, int], ...]:
    kept = tuple(row for row in rows if row[0] not in bad)
    if not listing.labelled:
        if not kept:
            raise DataError(
                f"{listing.name}: --skip-bad would leave no image: none below {listing.place} can be read, such as "
                f"{next(iter(bad.values()))}"
            )
        return kept
    if lost := {label for _, label in rows} - {label for _, label in kept}:
        names = ", ".join(listing.classes[label] for label in sorted(lost))
        raise DataError(
            f"{listing.name}: --skip-bad would leave no image of {names}: none of them below {listing.place} can be "
            "read, such as " + next(why for path, why in bad.items() if (path, min(lost)) in rows)
        )
    return kept
