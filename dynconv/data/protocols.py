"""From the words of the command line to a `Protocol` with its images, decoded or ready to be."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dynconv.data import digits, embedded, folders
from dynconv.data.base import Domain, Protocol
from dynconv.data.cache import cache_root
from dynconv.data.class_choice import ClassChoice, common_only, match_classes, words
from dynconv.data.errors import DataError
from dynconv.data.files import MEMORY_LIMIT, CacheMode, Decoding, Skipped
from dynconv.data.image_sets import IMAGE_SETS, PDA_CLASSES, list_image_set
from dynconv.data.scenes.listing import SCENE_SETS, is_own
from dynconv.data.skip import without_unreadable
from dynconv.data.specs import (
    EMBEDDED,
    EXAMPLES,
    check_names,
    check_places,
    data_root_of,
    default_variant,
    known_name,
    parse_spec,
)
from dynconv.data.variants import DRAW_SEED, Choice, Role

SCENES = (
    "driving scenes, in which every pixel has a label; give a --backbone that labels pixels: erfnet-encoder, erfnet, "
    "drn26 or fcn8s"
)

# A domain, and its images that were left out.
Loaded = tuple[Domain, tuple[Skipped, ...]]

# Image files for networks of 224 x 224 are kept with a margin to crop from, the custom since AlexNet: 256 x 256.
MARGINS = {224: 256}


def load_protocol(
    spec: str | None,
    *,
    source: Sequence[str] | None = None,
    target: str | None = None,
    class_choice: ClassChoice = "same",
    data_root: Path | None = None,
    cache_dir: Path | None = None,
    image_size: int = 32,
    channels: int = 3,
    source_limit: int | None = None,
    target_limit: int | None = None,
    threads: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    cache: CacheMode = "auto",
    skip_bad: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
    divide_target: bool = False,
) -> Protocol:
    """Load a named protocol, or one made of a user's own folders.

    Args:
        spec: `SOURCE[+SOURCE...]-TARGET[@VARIANT]` of the known domains: `mnist-usps`, `mnist+usps-mnist_m`,
            `mnist-usps@adda` (2,000 MNIST and 1,800 USPS training images, drawn once and for all; measured on the
            full test sets; all variants are in `dynconv.data.variants`), `digit-five:mnist_m` (M3SDA's release and
            counts), `office31:amazon-webcam`, `office31:amazon-webcam@pda` (the target has ten of the 31
            classes), `office-home:art-real-world`, `visda2017:train-validation`, `domainnet:clipart` (the other five
            domains to this one, as in every collection; the published lists divide training and test),
            `domainnet-cleaned:real-sketch`, `pacs:photo`, `embedded:plain+textured-optical`, or `embedded:optical`.
            Exclusive with `source` and `target`.
        source: `NAME=DIR` entries: one folder per class, a folder of translated images, or a "path label" list (see
            `dynconv.data.folders`); or names of known domains, whose classes must be the same.
        target: one such entry; its images may also have no labels: a folder that holds the images themselves, or a list
            of paths.
        class_choice: Of own folders. "same": all domains have the same class names. "common": images of classes that
            not all have are left out, and counted on stderr. "partial": the target may lack classes of the sources.
        data_root: Where the publishers' files are (default: $DYNCONV_DATA).
        cache_dir: Where decoded and generated images are kept (default: $DYNCONV_CACHE or the user's cache folder).
        image_size: Side of the square images that a network sees. Image files are stored as squares of that side, and
            for 224 of 256, from which 224 x 224 are cropped.
        channels: 3, or 1 for grey.
        source_limit: At most this many training images of each source; classes keep their shares.
        target_limit: At most this many target training images, drawn without a look at their labels.
        threads: Image files decoded at a time (default: torch's number of threads).
        memory_limit: Splits of image files above so many decoded bytes are not held in memory by the cache "auto".
        cache: Where decoded image files are kept: see `Decoding`. The images are the same.
        skip_bad: Look through all image files first, leave out those that cannot be read, and name and count them on
            stderr and in `Protocol.skipped`. Otherwise the first such file is an error: here, where the images are
            decoded here, else when its turn comes. Of the digits MNIST-M consists of image files; the others come
            as a few files, in which there are none to leave out.
        on_progress: Told of the passes over image files: what is done, images done, images in all.
        divide_target: Divide the target as a source, for a bound that is trained on its labels: 80/20 by the fixed seed
            where it has no published test split, and `target_limit` keeps its classes' shares.

    Raises:
        DataError: unknown names, contradicting arguments, missing or unreadable files, classes that differ, or another
            number of images than published.
    """
    _check_numbers(image_size=image_size, source_limit=source_limit, target_limit=target_limit)
    if channels not in (1, 3):
        raise DataError(f"channels: expected 1 or 3, got {channels}")
    limits = (source_limit, target_limit)
    decoding, side = _decoding(image_size, channels, threads, memory_limit, cache, cache_dir, on_progress)
    listed = partial(_from_listing, decoding=decoding, side=side, skip_bad=skip_bad)
    published = partial(
        _from_digits, decoding=replace(decoding, size=image_size), data_root=data_root, skip_bad=skip_bad
    )
    if spec is None:
        if not source or not target:
            raise DataError(
                f"no data chosen: give a protocol ({EXAMPLES}) or both --source NAME=DIR [NAME=DIR ...] and "
                "--target NAME=DIR"
            )
        named = _named(source, target)
        listings, present = match_classes(_listings(named, class_choice, data_root), class_choice)
        name = f"{'+'.join(listing.name for listing in listings[:-1])}-{listings[-1].name}"
        loaders = [
            partial(published, known, default_variant(known), known)
            if _is_digits(known, place)
            else partial(listed, listing)
            for (known, place), listing in zip(named, listings, strict=True)
        ]
        return replace(_protocol(name, loaders, limits, divide_target), partial=present)
    if source or target:
        raise DataError("a protocol's name and --source/--target exclude each other: give one or the other")
    if class_choice != "same":
        raise DataError(
            f"--classes {class_choice} is for own folders (--source, --target): {spec} has its published classes"
        )
    sources, goal, variant = parse_spec(spec)
    if goal in SCENE_SETS:
        raise DataError(f"protocol {spec!r}: {SCENES}")
    collection, _, _ = goal.partition(":")
    if collection in IMAGE_SETS:
        domains = tuple(name.partition(":")[2] for name in (*sources, goal))
        limited = variant == "pda"
        listings = list_image_set(collection, domains, data_root_of(goal, data_root), partial=limited)
        loaders = [partial(listed, listing) for listing in listings]
        protocol = _protocol(spec, loaders, limits, divide_target)
        shared = tuple(map(protocol.classes.index, PDA_CLASSES)) if limited else None
        return replace(protocol, variant=variant, partial=shared)
    pair = f"{'+'.join(sources)}-{goal}"
    loaders = [partial(published, name, variant, pair) for name in (*sources, goal)]
    return replace(_protocol(spec, loaders, limits, divide_target), variant=variant)


def load_domain(
    spec: str,
    *,
    classes: tuple[str, ...],
    class_choice: ClassChoice = "same",
    data_root: Path | None = None,
    cache_dir: Path | None = None,
    image_size: int = 32,
    channels: int = 3,
    threads: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    cache: CacheMode = "auto",
    skip_bad: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Domain:
    """One domain to evaluate on: `NAME=DIR`, or the name of a known one (`usps`, `office31:webcam`, `embedded:plain`).

    Args:
        spec: Which domain. Image files without a published test split are one test split of all images; Digit-Five's
            are drawn as M3SDA draws them.
        classes: Classes of the network that will be evaluated. A folder may lack some and may have no other.
        class_choice: "common" leaves out the images of other classes of a folder, as training with it did.
        data_root, cache_dir, image_size, channels, threads, memory_limit, cache, skip_bad, on_progress: as in
            `load_protocol`.

    Raises:
        DataError: as `load_protocol`, or the domain has a class that `classes` lacks.
    """
    decoding, side = _decoding(image_size, channels, threads, memory_limit, cache, cache_dir, on_progress)

    def loaded(listing: folders.Listing) -> Domain:
        readable = without_unreadable(listing, decoding)[0] if skip_bad else listing
        return folders.load_listing(readable, role="target", decoding=decoding, side=side)

    if "=" not in spec:
        name = known_name(spec, "--domain", "--domain NAME=DIR")
        _check_images(name, "--domain")
        collection, _, member = name.partition(":")
        if collection in IMAGE_SETS:
            _check_known(spec, IMAGE_SETS[collection].classes, classes)
            (listing,) = list_image_set(collection, (member,), data_root_of(name, data_root))
            return loaded(listing)
        domain, _ = _digits(
            name,
            choice=Choice(name, default_variant(name), name, "target"),
            decoding=replace(decoding, size=image_size),
            data_root=data_root,
            skip_bad=skip_bad,
        )
        _check_known(spec, domain.classes, classes)
        return domain
    listing = folders.list_images(*folders.parse_assignment(spec, "--domain"))
    if class_choice == "common":
        listing = common_only(listing, classes)
    if unknown := sorted(set(listing.classes) - set(classes)):
        raise DataError(
            f"{listing.name}: {listing.place} has classes that the network does not know: {words(unknown)}; "
            f"it knows {words(classes)}"
        )
    return loaded(listing.relabelled(classes))


def _check_images(name: str, argument: str) -> None:
    if name in SCENE_SETS:
        raise DataError(f"{argument} {name}: {SCENES}")


def _check_known(spec: str, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if found != expected:
        raise DataError(f"{spec} has the classes {words(found)}; the network has {words(expected)}")


def _decoding(image_size: int, channels: int, threads: int | None, *rest: Any) -> tuple[Decoding, int | None]:
    """How images are decoded, `rest` being the last of `Decoding`'s fields, and the side of them that a network sees,
    where it is another."""
    stored = MARGINS.get(image_size, image_size)
    # Asked here, for in the thread that reads ahead torch may answer with another number.
    decoding = Decoding(stored, channels, torch.get_num_threads() if threads is None else threads, *rest)
    return decoding, None if stored == image_size else image_size


def _protocol(
    name: str,
    loaders: Sequence[Callable[[Role, int | None, bool], Loaded]],
    limits: tuple[int | None, int | None],
    divide_target: bool,
) -> Protocol:
    """A protocol of domains, the target last; each loader takes the domain's role, its limit, and whether it is divided
    by labels as a source is."""
    *sources, target = loaders
    loaded = [load("source", limits[0], True) for load in sources] + [target("target", limits[1], divide_target)]
    domains, skipped = zip(*loaded, strict=True)
    return Protocol(name, domains[:-1], domains[-1], skipped=tuple(each for rows in skipped for each in rows))


def _from_listing(
    listing: folders.Listing,
    role: Role,
    limit: int | None,
    stratified: bool,
    *,
    decoding: Decoding,
    side: int | None,
    skip_bad: bool,
) -> Loaded:
    skipped: tuple[Skipped, ...] = ()
    if skip_bad:
        listing, skipped = without_unreadable(listing, decoding)
    role = "source" if stratified else role
    options: dict[str, Any] = {"decoding": decoding, "side": side, "draw_seed": DRAW_SEED}
    return folders.load_listing(listing, role=role, limit=limit, **options), skipped


def _from_digits(
    name: str, variant: str, pair: str, role: Role, limit: int | None, stratified: bool, **options: Any
) -> Loaded:
    return _digits(name, choice=Choice(name, variant, pair, role, limit, stratified), **options)


def _digits(name: str, *, choice: Choice, decoding: Decoding, data_root: Path | None, skip_bad: bool) -> Loaded:
    """A digit domain, without the image files that cannot be read if they are to be skipped, and these."""
    cache, image_size, channels = cache_root(decoding.cache_dir), decoding.size, decoding.channels
    collection, _, member = name.partition(":")
    if collection == EMBEDDED:
        domain = embedded.load_embedded(member, cache_dir=cache, image_size=image_size, channels=channels)
        places = choice.places("train", domain.train.labels)
        return (domain if places is None else replace(domain, train=domain.train.subset(places))), ()
    root = data_root_of(name, data_root)
    skipped = digits.unreadable_images(name, root, decoding) if skip_bad else ()
    domain = digits.load_digits(
        name,
        root,
        cache_dir=cache,
        image_size=image_size,
        channels=channels,
        drawing=None if choice.whole else choice,
        without={root / name / each.path for each in skipped},
    )
    return domain, skipped


def _named(source: Sequence[str], target: str) -> list[tuple[str, Path | None]]:
    """Name and place of each entry, the target last; known domains have no place."""

    def parsed(text: str, argument: str) -> tuple[str, Path | None]:
        if "=" in text or os.sep in text:
            return folders.parse_assignment(text, argument)
        name = known_name(text, argument, f"{argument} NAME=DIR")
        _check_images(name, argument)
        return name, None

    named = [*(parsed(text, "--source") for text in source), parsed(target, "--target")]
    *names, goal = (name.rpartition(":")[2] for name, _ in named)
    check_names(names, goal, "--source/--target")
    check_places(named, "--source/--target")
    return named


def _listings(
    named: Sequence[tuple[str, Path | None]], class_choice: ClassChoice, data_root: Path | None
) -> list[folders.Listing]:
    """The files of each domain; of known digits, which are not files of images, the classes alone."""
    listings = []
    for number, (name, place) in enumerate(named, start=1):
        collection, _, member = name.rpartition(":")
        if place is not None:
            if is_own(place):
                raise DataError(f"{name}: {place} holds {SCENES}")
            listings.append(folders.list_images(name, place, labelled=number < len(named)))
        elif _is_digits(name, place):
            if class_choice != "same":
                raise DataError(f"--classes {class_choice} is for own folders: {name} has its published classes")
            listings.append(folders.Listing(member, Path(name), digits.CLASSES, (), None))
        else:
            listings += list_image_set(collection, (member,), data_root_of(name, data_root))
    return listings


def _is_digits(name: str, place: Path | None) -> bool:
    """Whether an entry of `_named` is a known set of digits."""
    return place is None and name.partition(":")[0] not in IMAGE_SETS


def _check_numbers(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise DataError(f"{name}: expected 1 or more, got {value}")
