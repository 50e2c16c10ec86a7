"""From the words of the command line to a `Protocol` with its images, decoded or ready to be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dynconv.data import digits, embedded, folders
from dynconv.data.base import Domain, Protocol, stratified_draw, uniform_draw
from dynconv.data.cache import cache_root
from dynconv.data.errors import DataError
from dynconv.data.files import MEMORY_LIMIT, Decoding
from dynconv.data.image_sets import IMAGE_SETS, PDA_CLASSES, list_image_set
from dynconv.data.specs import ADDA_COUNTS, EMBEDDED, EXAMPLES, check_names, known_domains, known_name, parse_spec

__all__ = ["known_domains", "load_domain", "load_protocol", "parse_spec"]

# Every drawing of a subset is the same in every run: the run's seed must not change which images an experiment uses.
DRAW_SEED = 0

# Image files for networks of 224 x 224 are kept with a margin to crop from, the custom since AlexNet: 256 x 256.
MARGINS = {224: 256}


def load_protocol(
    spec: str | None,
    *,
    source: Sequence[str] | None = None,
    target: str | None = None,
    data_root: Path | None = None,
    cache_dir: Path | None = None,
    image_size: int = 32,
    channels: int = 3,
    source_limit: int | None = None,
    target_limit: int | None = None,
    threads: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Protocol:
    """Load a named protocol, or one made of a user's own folders.

    Args:
        spec: `SOURCE[+SOURCE...]-TARGET[@VARIANT]` of the known domains: `mnist-usps`, `mnist+usps-mnist_m`,
            `mnist-usps@adda` (2,000 MNIST and 1,800 USPS training images, drawn once and for all; measured on the
            full test sets), `office31:amazon-webcam`, `office31:amazon-webcam@pda` (the target has ten of the 31
            classes), `office-home:art-real-world`, `visda2017:train-validation`,
            `embedded:plain+textured-optical`, or `embedded:optical` (the other four embedded domains to this one, as
            in every collection). Exclusive with `source` and `target`.
        source: `NAME=DIR` entries: one folder per class, or a "path label" list (see `dynconv.data.folders`).
        target: one such entry.
        data_root: Where the publishers' files are (default: $DYNCONV_DATA).
        cache_dir: Where decoded and generated images are kept (default: $DYNCONV_CACHE or the user's cache folder).
        image_size: Side of the square images that a network sees. Image files are stored as squares of that side, and
            for 224 of 256, from which 224 x 224 are cropped.
        channels: 3, or 1 for grey.
        source_limit: At most this many training images of each source; classes keep their shares.
        target_limit: At most this many target training images, drawn without a look at their labels.
        threads: Image files decoded at a time (default: torch's number of threads).
        memory_limit: Splits of image files above so many decoded bytes are not held in memory.

    Raises:
        DataError: unknown names, contradicting arguments, missing or unreadable files, classes that differ, or another
            number of images than published.
    """
    _check_numbers(image_size=image_size, source_limit=source_limit, target_limit=target_limit)
    if channels not in (1, 3):
        raise DataError(f"channels: expected 1 or 3, got {channels}")
    limits = (source_limit, target_limit)
    decoding, side = _decoding(image_size, channels, threads, memory_limit)
    if spec is None:
        if not source or not target:
            raise DataError(
                f"no data chosen: give a protocol ({EXAMPLES}) or both --source NAME=DIR [NAME=DIR ...] and "
                "--target NAME=DIR"
            )
        listings = _folder_listings(source, target)
        name = f"{'+'.join(listing.name for listing in listings[:-1])}-{listings[-1].name}"
        return _protocol(name, listings, decoding, side, limits)
    if source or target:
        raise DataError("a protocol's name and --source/--target exclude each other: give one or the other")
    sources, goal, variant = parse_spec(spec)
    collection, _, _ = goal.partition(":")
    if collection in IMAGE_SETS:
        domains = tuple(name.partition(":")[2] for name in (*sources, goal))
        limited = variant == "pda"
        listings = list_image_set(collection, domains, _root(goal, data_root), partial=limited)
        protocol = _protocol(spec, listings, decoding, side, limits)
        shared = tuple(map(protocol.classes.index, PDA_CLASSES)) if limited else None
        return replace(protocol, variant=variant, partial=shared)
    load = partial(_digits, data_root=data_root, cache_dir=cache_dir, image_size=image_size, channels=channels)
    loaded = [_bounded(_variant(load(name), name, variant), source_limit, stratified=True) for name in sources]
    aim = _bounded(_variant(load(goal), goal, variant), target_limit, stratified=False)
    return Protocol(spec, tuple(loaded), aim, variant)


def load_domain(
    spec: str,
    *,
    classes: tuple[str, ...],
    data_root: Path | None = None,
    cache_dir: Path | None = None,
    image_size: int = 32,
    channels: int = 3,
    threads: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Domain:
    """One domain to evaluate on: `NAME=DIR`, or the name of a known one (`usps`, `office31:webcam`, `embedded:plain`).

    Args:
        spec: Which domain. Image files without a published test split are one test split of all images.
        classes: Classes of the network that will be evaluated. A folder may lack some and may have no other.
        data_root, cache_dir, image_size, channels, threads, memory_limit: as in `load_protocol`.

    Raises:
        DataError: as `load_protocol`, or the domain has a class that `classes` lacks.
    """
    decoding, side = _decoding(image_size, channels, threads, memory_limit)
    if "=" not in spec:
        name = known_name(spec, "--domain", "--domain NAME=DIR")
        collection, _, member = name.partition(":")
        if collection in IMAGE_SETS:
            _check_known(spec, IMAGE_SETS[collection].classes, classes)
            (listing,) = list_image_set(collection, (member,), _root(name, data_root))
            return folders.load_listing(listing, role="target", decoding=decoding, side=side)
        domain = _digits(name, data_root=data_root, cache_dir=cache_dir, image_size=image_size, channels=channels)
        _check_known(spec, domain.classes, classes)
        return domain
    listing = folders.list_images(*folders.parse_assignment(spec, "--domain"))
    if unknown := sorted(set(listing.classes) - set(classes)):
        raise DataError(
            f"{listing.name}: {listing.place} has classes that the network does not know: {_words(unknown)}; "
            f"it knows {_words(classes)}"
        )
    return folders.load_listing(listing.relabelled(classes), role="target", decoding=decoding, side=side)


def _check_known(spec: str, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if found != expected:
        raise DataError(f"{spec} has the classes {_words(found)}; the network has {_words(expected)}")


def _decoding(image_size: int, channels: int, threads: int | None, memory_limit: int) -> tuple[Decoding, int | None]:
    stored = MARGINS.get(image_size, image_size)
    # Asked here, for in the thread that reads ahead torch may answer with another number.
    decoding = Decoding(stored, channels, torch.get_num_threads() if threads is None else threads, memory_limit)
    return decoding, None if stored == image_size else image_size


def _protocol(
    name: str,
    listings: Sequence[folders.Listing],
    decoding: Decoding,
    side: int | None,
    limits: tuple[int | None, int | None],
) -> Protocol:
    load = partial(folders.load_listing, decoding=decoding, side=side, draw_seed=DRAW_SEED)
    return Protocol(
        name,
        tuple(load(listing, role="source", limit=limits[0]) for listing in listings[:-1]),
        load(listings[-1], role="target", limit=limits[1]),
    )


def _digits(name: str, *, data_root: Path | None, cache_dir: Path | None, image_size: int, channels: int) -> Domain:
    cache = cache_root(cache_dir)
    collection, _, member = name.partition(":")
    if collection == EMBEDDED:
        return embedded.load_embedded(member, cache_dir=cache, image_size=image_size, channels=channels)
    root = _root(name, data_root)
    return digits.load_digits(name, root, cache_dir=cache, image_size=image_size, channels=channels)


def _root(name: str, data_root: Path | None) -> Path:
    root = data_root if data_root is not None else os.environ.get("DYNCONV_DATA")
    if not root:
        raise DataError(
            f"{name}: no place to look: give the folder of the data sets with --data-root, or set DYNCONV_DATA. "
            "Without any files, `embedded:optical` runs on the embedded domains"
        )
    if not Path(root).is_dir():
        raise DataError(f"{name}: the data root {root} is no folder (looked from {Path.cwd()})")
    return Path(root)


def _variant(domain: Domain, name: str, variant: str) -> Domain:
    if variant == "full":
        return domain
    count = ADDA_COUNTS[name]
    if len(domain.train) < count:
        raise DataError(f"{name}: the variant 'adda' draws {count} training images, there are {len(domain.train)}")
    return replace(domain, train=domain.train.subset(uniform_draw(len(domain.train), count, DRAW_SEED)))


def _bounded(domain: Domain, limit: int | None, *, stratified: bool) -> Domain:
    if limit is None or limit >= len(domain.train):
        return domain
    if stratified:
        drawn = stratified_draw(domain.train.labels, limit, DRAW_SEED)
    else:
        drawn = uniform_draw(len(domain.train), limit, DRAW_SEED)
    return replace(domain, train=domain.train.subset(drawn))


def _folder_listings(source: Sequence[str], target: str) -> list[folders.Listing]:
    assignments = [folders.parse_assignment(text, "--source") for text in source]
    goal = folders.parse_assignment(target, "--target")
    check_names([name for name, _ in assignments], goal[0], "--source/--target")
    listings = [folders.list_images(*assignment) for assignment in (*assignments, goal)]
    _check_classes(listings)
    return listings


def _check_classes(listings: Sequence[folders.Listing]) -> None:
    first = listings[0]
    if len(first.classes) < 2:
        raise DataError(f"{first.name}: {first.place} has one class only ({first.classes[0]}): expected two or more")
    for other in listings[1:]:
        lacking, extra = (
            sorted(set(first.classes) - set(other.classes)),
            sorted(set(other.classes) - set(first.classes)),
        )
        if lacking or extra:
            parts = [f"{other.name} lacks {_words(lacking)}"] * bool(lacking)
            parts += [f"{first.name} lacks {_words(extra)}"] * bool(extra)
            raise DataError(
                f"the classes of {first.name} ({first.place}) and {other.name} ({other.place}) differ: "
                f"{'; '.join(parts)}. All domains need the same class names"
            )


def _check_numbers(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise DataError(f"{name}: expected 1 or more, got {value}")


def _words(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
