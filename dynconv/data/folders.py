"""A user's own images: one folder per class, or a text file of `path label` lines; of a target also without labels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dynconv.data.base import UNLABELLED, Domain, Split
from dynconv.data.draws import stratified_draw, stratified_hold_out, uniform_draw
from dynconv.data.errors import DataError
from dynconv.data.files import Decoding, ImageFiles, kept
from dynconv.data.translated import translated_rows
from dynconv.data.unlabelled import unlabelled_images
from dynconv.data.walk import (
    SUFFIXES,
    Row,
    class_folders,
    is_image,
    is_number,
    passed_over,
    sound_rows,
    tell_passed_over,
)

# One fixed division of a set without a published test split, so that every run measures on the same images.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Listing:
    """Image files of one domain before any is opened. `test` is None where the publisher ships no test split.

    Where not `labelled`, the files are all in `train`, each with the label `UNLABELLED`.
    """

    name: str
    place: Path
    classes: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...] | None
    labelled: bool = True

    def relabelled(self, classes: tuple[str, ...]) -> Listing:
        """The same files with labels that index `classes`, which holds all of this listing's."""
        new = [classes.index(name) for name in self.classes]
        train = tuple((path, new[label]) for path, label in self.train)
        test = None if self.test is None else tuple((path, new[label]) for path, label in self.test)
        return replace(self, classes=classes, train=train, test=test)

    def limited(self, classes: tuple[str, ...]) -> tuple[Listing, int]:
        """The files of `classes` alone, with labels that index these, and how many files were left out; without labels
        all of them."""
        if not self.labelled:
            return replace(self, classes=classes), 0
        new = {self.classes.index(name): place for place, name in enumerate(classes) if name in self.classes}
        train = tuple((path, new[label]) for path, label in self.train if label in new)
        test = None if self.test is None else tuple((path, new[label]) for path, label in self.test if label in new)
        left_out = len(self.train) - len(train) + len(self.test or ()) - len(test or ())
        return replace(self, classes=classes, train=train, test=test), left_out


def parse_assignment(text: str, argument: str) -> tuple[str, Path]:
    """`NAME=DIR` to its two parts.

    Raises:
        DataError: the form is another one, or NAME could not stand in a file name or a metric's name.
    """
    name, equals, place = text.partition("=")
    if not equals or not name or not place:
        raise DataError(f"{argument}: expected NAME=DIR (or NAME=LIST.txt), got {text!r}")
    if not all(letter.isalnum() or letter in "-_." for letter in name):
        raise DataError(f"{argument}: a name has letters, digits, '-', '_' and '.' only, got {name!r}")
    return name, Path(place).expanduser()


def list_images(name: str, place: Path, *, labelled: bool = True) -> Listing:
    """Find a domain's images and classes.

    `place` is a folder with one folder per class, a folder with such folders in `train` and `test`, a folder of
    translated images (`LABEL_ID_fake_B.png`, see `dynconv.data.translated`), or a text file whose lines are
    `path label`, paths being relative to the file's folder. Classes are sorted, numerically where all are numbers.

    Where not `labelled`, the images may go without labels (`unlabelled_images`); such a listing has no classes yet.

    Raises:
        DataError: `place` is absent, holds no class, a class holds no image, a list has a malformed line, or a folder
            has more than one layout.
    """
    if not labelled and (images := unlabelled_images(name, place)) is not None:
        return Listing(name, place, (), tuple((image, UNLABELLED) for image in images), None, labelled=False)
    # Of a name that is too long pathlib raises.
    if os.path.isfile(place):
        rows = sound_rows(name, place, place.parent, lambda path, label: label)
    elif os.path.isdir(place):
        train, test = place / "train", place / "test"
        if train.is_dir() and test.is_dir():
            return _published_split(name, place, _read_classes(name, train), _read_classes(name, test))
        if train.is_dir() or test.is_dir():
            found, lacking = ("train", "test") if train.is_dir() else ("test", "train")
            raise DataError(
                f"{name}: {place} has a folder {found!r} but none called {lacking!r}: give both, or the path of the "
                f"folder that holds the classes ({place / found})"
            )
        rows = translated_rows(name, place)
        if not rows:
            return list_classes(name, place)
    else:
        raise DataError(
            f"{name}: {place} does not exist (looked from {Path.cwd()}). Expected a folder with one folder per class, "
            'or a text file of "path label" lines'
        )
    classes = sorted_classes(label for _, label in rows)
    return Listing(name, place, classes, _numbered(rows, classes), None)


def list_classes(name: str, folder: Path) -> Listing:
    """The images of `folder`, which holds one folder per class, whatever these are called.

    Raises:
        DataError: `folder` holds no class, or a class holds no image.
    """
    rows = _read_classes(name, folder)
    classes = sorted_classes(label for _, label in rows)
    return Listing(name, folder, classes, _numbered(rows, classes), None)


def _published_split(name: str, place: Path, train: list[Row], test: list[Row]) -> Listing:
    classes = sorted_classes(label for _, label in train)
    if unknown := sorted({label for _, label in test} - set(classes)):
        raise DataError(f"{name}: {place / 'test'} has classes that {place / 'train'} lacks: {', '.join(unknown)}")
    return Listing(name, place, classes, _numbered(train, classes), _numbered(test, classes))


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """The names of the classes, sorted: numerically where all are numbers."""
    names = set(labels)
    if all(is_number(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _numbered(rows: list[Row], classes: tuple[str, ...]) -> tuple[tuple[Path, int], ...]:
    number = {name: index for index, name in enumerate(classes)}
    return tuple((path, number[label]) for path, label in rows)


def _read_classes(name: str, folder: Path) -> list[Row]:
    try:
        classes, stray = class_folders(folder)
    except OSError as error:
        raise DataError(f"{name}: the folder {folder} cannot be read: {error}") from error
    if not classes:
        images = sum(is_image(path.name) for path in stray)
        raise DataError(
            f"{name}: {folder} holds no folder: expected one folder of images per class, or translated images called "
            "LABEL_ID_fake_B.png"
            + (f". Its {images} images have no labels, as a target's may: --target {name}={folder}" if images else "")
            + (f". No images by their names: {told}" if (told := passed_over(stray)) else "")
        )
    for each in classes:
        if each.error is not None:
            raise DataError(f"{name}: the folder {each.place} cannot be read: {each.error}") from each.error
        if not each.images:
            raise DataError(
                f"{name}: the class folder {each.place} holds no image ({', '.join(sorted(SUFFIXES))}). Expected "
                f"{folder}/CLASS/IMAGE: remove the folder, or give the one that holds the classes"
                + (f". No images by their names: {told}" if (told := passed_over(each.stray)) else "")
            )
    # What lies beside the class folders may be a list or a licence.
    tell_passed_over(name, folder, (file for each in classes for file in each.stray))
    return [Row(file, each.place.name) for each in classes for file in each.images]


def load_listing(
    listing: Listing,
    *,
    role: str,
    decoding: Decoding,
    side: int | None = None,
    limit: int | None = None,
    draw_seed: int = 0,
) -> Domain:
    """A listing's images as a domain, decoded now where they fit in memory (see `Decoding`).

    Without a published test split, a source is divided 80/20 by a fixed seed, class by class; a target's training and
    test split both hold all images, or without labels the training split alone. `limit` bounds the training split: a
    source keeps its classes' shares, a target is drawn without a look at labels. `side` is what a network sees of each
    square (see `Split`).

    Raises:
        DataError: an image cannot be read, too few are left for a test split, or labels are needed and not there.
    """
    if not listing.labelled and role == "source":
        raise DataError(
            f"{listing.name}: the images of {listing.place} have no labels, and are to be trained on with them; give "
            'one folder of images per class, or a list of "path label" lines'
        )
    train, test = _divide(listing, role)
    if limit is not None and limit < len(train):
        labels = torch.tensor([label for _, label in train])
        drawn = (
            stratified_draw(labels, limit, draw_seed)
            if role == "source"
            else uniform_draw(len(train), limit, draw_seed)
        )
        train = [train[index] for index in drawn.tolist()]

    def split(rows: list[tuple[Path, int]]) -> Split:
        images = kept(ImageFiles(listing.name, [path for path, _ in rows], decoding))
        return Split(images, torch.tensor([label for _, label in rows], dtype=torch.int64), side)

    if not listing.labelled:
        return Domain(listing.name, listing.classes, split(train), None)
    whole = split(test)
    if train == test:
        return Domain(listing.name, listing.classes, whole, whole)
    if set(train) <= set(test):
        # A bounded target: its training images are among those of the test split, and decoded once.
        place = {row: index for index, row in enumerate(test)}
        return Domain(listing.name, listing.classes, whole.subset(torch.tensor([place[row] for row in train])), whole)
    return Domain(listing.name, listing.classes, split(train), whole)


def _divide(listing: Listing, role: str) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    rows = list(listing.train)
    if listing.test is not None:
        return rows, list(listing.test)
    if role == "target":
        return rows, rows
    kept, held = stratified_hold_out(torch.tensor([label for _, label in rows]), SPLIT_SEED)
    if held.numel() == 0:
        raise DataError(
            f"{listing.name}: {listing.place} has one image per class: none is left for a test split; give two or more "
            "of each class, or folders train and test"
        )
    return [rows[index] for index in kept.tolist()], [rows[index] for index in held.tolist()]
