"""Which classes the domains of a user's own images share, and what is done where they differ."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from dynconv.data.errors import DataError
from dynconv.data.folders import Listing
from dynconv.distributed import is_main

log = logging.getLogger(__name__)

ClassChoice = Literal["same", "common", "partial"]
CHOICES: tuple[ClassChoice, ...] = get_args(ClassChoice)


def match_classes(listings: Sequence[Listing], choice: ClassChoice) -> tuple[list[Listing], tuple[int, ...] | None]:
    """The domains with one set of classes, and the target's as indices into it where it lacks some (else None).

    Args:
        listings: The sources, and the target last. One without labels gets the classes that all sources have.
        choice: "same" wants the same class names everywhere. "common" keeps the classes that all domains have, and
            says how many images it left out. "partial" lets the target lack classes that all sources have.

    Raises:
        DataError: the classes do not fit the choice (it says what each domain lacks), or fewer than two are left.
    """
    if choice not in CHOICES:
        raise DataError(f"classes: expected one of {', '.join(CHOICES)}, got {choice!r}")
    *sources, target = listings
    if not target.labelled:
        # Nobody knows which of the sources' classes it has: a network tells those apart that all of them have.
        target = replace(target, classes=_common(sources))
        listings = [*sources, target]
    shared = _common(listings)
    if choice == "common":
        if len(shared) < 2:
            what = f"only {shared[0]}" if shared else "none"
            raise DataError(
                f"--classes common: the domains share {what} of their classes, expected two or more:"
                f"{_lacking(listings)}"
            )
        return [common_only(listing, shared) for listing in listings], None
    names = sources[0].classes
    if len(names) < 2:
        raise DataError(f"{sources[0].name}: {sources[0].place} has one class only ({names[0]}): expected two or more")
    fits = all(source.classes == names for source in sources)
    within = fits and set(target.classes) <= set(names)
    if choice == "same" and (not fits or target.classes != names):
        raise DataError(
            f"the classes of the domains differ:{_lacking(listings)}\nAll domains need the same class names"
            + (f"; --classes common takes the {len(shared)} that all have" if len(shared) > 1 else "")
            + ("; --classes partial lets the target lack classes" if within else "")
            + _hint(listings)
        )
    if choice == "partial" and not within:
        raise DataError(
            f"--classes partial: the sources need the same classes, and the target none beside them:"
            f"{_lacking(listings)}"
            + (f"\n--classes common takes the {len(shared)} that all have" if len(shared) > 1 else "")
            + _hint(listings)
        )
    if target.classes == names:
        return list(listings), None
    places = tuple(names.index(name) for name in target.classes)
    return [*sources, target.relabelled(names)], places


def common_only(listing: Listing, classes: tuple[str, ...]) -> Listing:
    """`listing` without the images of other classes, labels indexing `classes`; says how many were left out.

    Raises:
        DataError: no image is left of a split.
    """
    kept, left_out = listing.limited(classes)
    for split, rows in (("training", kept.train), ("test", kept.test)):
        if rows is not None and not rows:
            raise DataError(
                f"{listing.name}: {listing.place} has no {split} image of the classes {words(classes)}; it has "
                f"{words(listing.classes)}"
            )
    if left_out and is_main():
        others = [name for name in listing.classes if name not in classes]
        log.warning(
            "%s: %d images of classes that not all domains have are left out: %s", listing.name, left_out, words(others)
        )
    return kept


def words(names: Sequence[str], most: int = 12) -> str:
    """The names with commas between them, the first `most` of them."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _common(listings: Sequence[Listing]) -> tuple[str, ...]:
    return tuple(name for name in listings[0].classes if all(name in other.classes for other in listings))


def _lacking(listings: Sequence[Listing]) -> str:
    """One line per labelled domain: where it is, how many classes it has, and which of the others' it lacks."""
    lines = []
    for listing in _labelled(listings):
        others = sorted({name for other in listings for name in other.classes} - set(listing.classes))
        what = f"lacks {words(others)}" if others else "lacks none"
        lines.append(f"\n  {listing.name} ({listing.place}, {len(listing.classes)} classes) {what}")
    return "".join(lines)


def _hint(listings: Sequence[Listing]) -> str:
    """Two usual causes, where they can be seen."""
    listings = _labelled(listings)
    numbered = [listing for listing in listings if all(name.isdecimal() for name in listing.classes)]
    if numbered and len(numbered) < len(listings):
        named = next(listing for listing in listings if listing not in numbered)
        return (
            f".\nThe labels of {', '.join(listing.name for listing in numbered)} are numbers and those of {named.name} "
            f"are names ({words(named.classes, 3)}): labels are compared as words, so write the class names in the list"
        )
    plain = {frozenset(_plain(name) for name in listing.classes) for listing in listings}
    if len(plain) == 1:
        return ".\nThey differ in upper and lower case, spaces, '-' and '_' only: rename the folders or labels"
    return ""


def _labelled(listings: Sequence[Listing]) -> list[Listing]:
    return [listing for listing in listings if listing.labelled]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
