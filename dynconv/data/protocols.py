"""From the words of the command line to a `Protocol` with its images in memory."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dynconv.data import digits, embedded, folders
from dynconv.data.base import DataError, Domain, Protocol, stratified_draw, uniform_draw
from dynconv.data.cache import cache_root

EMBEDDED_PREFIX = "embedded:"

# Every drawing of a subset is the same in every run: the run's seed must not change which images an experiment uses.
DRAW_SEED = 0

# ADDA (Tzeng et al., 2017) samples this many training images of the two sets, whichever of them is the source.
ADDA_COUNTS = {"mnist": 2000, "usps": 1800}
VARIANTS = ("full", "adda")


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
) -> Protocol:
    """Load a named protocol, or one made of a user's own folders.

    Args:
        spec: `SOURCE[+SOURCE...]-TARGET[@VARIANT]` of the known domains: `mnist-usps`, `mnist+usps-mnist_m`,
            `mnist-usps@adda` (2,000 MNIST and 1,800 USPS training images, drawn once and for all; measured on the
            full test sets), `embedded:plain+textured-optical`, or `embedded:optical` (the other four embedded domains
            to this one). Exclusive with `source` and `target`.
        source: `NAME=DIR` entries: one folder per class, or a "path label" list (see `dynconv.data.folders`).
        target: one such entry.
        data_root: Where the publishers' files are (default: $DYNCONV_DATA).
        cache_dir: Where decoded and generated images are kept (default: $DYNCONV_CACHE or the user's cache folder).
        image_size: Side of the square images.
        channels: 3, or 1 for grey.
        source_limit: At most this many training images of each source; classes keep their shares.
        target_limit: At most this many target training images, drawn without a look at their labels.

    Raises:
        DataError: unknown names, contradicting arguments, missing or unreadable files, classes that differ.
    """
    _check_numbers(image_size=image_size, source_limit=source_limit, target_limit=target_limit)
    if channels not in (1, 3):
        raise DataError(f"channels: expected 1 or 3, got {channels}")
    if spec is not None:
        if source or target:
            raise DataError("a protocol's name and --source/--target exclude each other: give one or the other")
        sources, goal, variant = parse_spec(spec)
        load = partial(
            _known_domain, data_root=data_root, cache_dir=cache_dir, image_size=image_size, channels=channels
        )
        loaded = [_bounded(_variant(load(name), name, variant), source_limit, stratified=True) for name in sources]
        aim = _bounded(_variant(load(goal), goal, variant), target_limit, stratified=False)
        return Protocol(spec, tuple(loaded), aim, variant)
    if not source or not target:
        raise DataError(
            f"no data chosen: give a protocol ({_examples()}) or both --source NAME=DIR [NAME=DIR ...] and "
            "--target NAME=DIR"
        )
    return _folder_protocol(source, target, image_size, channels, source_limit, target_limit)


def load_domain(
    spec: str,
    *,
    classes: tuple[str, ...],
    data_root: Path | None = None,
    cache_dir: Path | None = None,
    image_size: int = 32,
    channels: int = 3,
) -> Domain:
    """One domain to evaluate on: `NAME=DIR`, or the name of a known one (`usps`, `embedded:plain`).

    Args:
        spec: Which domain. A folder without a published test split is one test split of all its images.
        classes: Classes of the network that will be evaluated. A folder may lack some and may have no other.
        data_root, cache_dir, image_size, channels: as in `load_protocol`.

    Raises:
        DataError: as `load_protocol`, or the domain has a class that `classes` lacks.
    """
    if "=" not in spec:
        name = _known_name(spec, "--domain", "--domain NAME=DIR")
        domain = _known_domain(name, data_root=data_root, cache_dir=cache_dir, image_size=image_size, channels=channels)
        if domain.classes != classes:
            raise DataError(f"{spec} has the classes {_words(domain.classes)}; the network has {_words(classes)}")
        return domain
    listing = folders.list_images(*folders.parse_assignment(spec, "--domain"))
    if unknown := sorted(set(listing.classes) - set(classes)):
        raise DataError(
            f"{listing.name}: {listing.place} has classes that the network does not know: {_words(unknown)}; "
            f"it knows {_words(classes)}"
        )
    return folders.load_listing(listing.relabelled(classes), role="target", image_size=image_size, channels=channels)


def known_domains() -> tuple[str, ...]:
    """Names of all domains that need no NAME=DIR."""
    return (*digits.REAL, *(EMBEDDED_PREFIX + name for name in embedded.NAMES))


def parse_spec(spec: str) -> tuple[tuple[str, ...], str, str]:
    """A protocol's name to (sources, target, variant), embedded domains with their prefix.

    Raises:
        DataError: a malformed name, an unknown domain or variant (with the known ones), or a domain named twice.
    """
    body, at, variant = spec.partition("@")
    variant = variant if at else "full"
    prefix, body = (EMBEDDED_PREFIX, body[len(EMBEDDED_PREFIX) :]) if body.startswith(EMBEDDED_PREFIX) else ("", body)
    left, dash, right = body.partition("-")
    known = partial(_known_name, where=f"protocol {spec!r}", own="--source NAME=DIR --target NAME=DIR")
    if prefix and not dash:
        goal = known(prefix + body)
        sources = tuple(prefix + name for name in embedded.NAMES if prefix + name != goal)
    elif not dash or not left or not right:
        raise DataError(f"protocol {spec!r}: expected SOURCE[+SOURCE...]-TARGET[@VARIANT], such as {_examples()}")
    else:
        sources = tuple(known(prefix + name) for name in left.split("+"))
        goal = known(prefix + right)
    _check_names(sources, goal, f"protocol {spec!r}")
    if variant not in VARIANTS:
        raise DataError(f"protocol {spec!r}: unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    if variant == "adda" and {*sources, goal} != set(ADDA_COUNTS):
        raise DataError(f"protocol {spec!r}: the variant 'adda' is defined for mnist-usps and usps-mnist only")
    return sources, goal, variant


def _known_name(name: str, where: str, own: str) -> str:
    """`name`, if it is a known domain; `where` it was given and how one's `own` images are, for the message."""
    known = known_domains()
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{where}: unknown domain {name!r}.{hint} Known: {', '.join(known)}. Your own images: {own}")


def _check_names(sources: Sequence[str], target: str, where: str) -> None:
    twice = sorted({name for name in sources if list(sources).count(name) > 1})
    if twice:
        raise DataError(f"{where}: named twice among the sources: {', '.join(twice)}")
    if target in sources:
        raise DataError(f"{where}: the target {target!r} is also a source")


def _known_domain(
    name: str, *, data_root: Path | None, cache_dir: Path | None, image_size: int, channels: int
) -> Domain:
    cache = cache_root(cache_dir)
    if name.startswith(EMBEDDED_PREFIX):
        return embedded.load_embedded(
            name.removeprefix(EMBEDDED_PREFIX), cache_dir=cache, image_size=image_size, channels=channels
        )
    root = data_root if data_root is not None else os.environ.get("DYNCONV_DATA")
    if not root:
        raise DataError(
            f"{name}: no place to look: give the folder of the data sets with --data-root, or set DYNCONV_DATA. "
            "Without any files, `embedded:optical` runs on the embedded domains"
        )
    if not Path(root).is_dir():
        raise DataError(f"{name}: the data root {root} is no folder (looked from {Path.cwd()})")
    return digits.load_digits(name, Path(root), cache_dir=cache, image_size=image_size, channels=channels)


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


def _folder_protocol(
    source: Sequence[str],
    target: str,
    image_size: int,
    channels: int,
    source_limit: int | None,
    target_limit: int | None,
) -> Protocol:
    assignments = [folders.parse_assignment(text, "--source") for text in source]
    goal = folders.parse_assignment(target, "--target")
    names = [name for name, _ in assignments]
    _check_names(names, goal[0], "--source/--target")
    listings = [folders.list_images(*assignment) for assignment in (*assignments, goal)]
    _check_classes(listings)
    load: Callable[..., Domain] = partial(
        folders.load_listing, image_size=image_size, channels=channels, draw_seed=DRAW_SEED
    )
    return Protocol(
        f"{'+'.join(names)}-{goal[0]}",
        tuple(load(listing, role="source", limit=source_limit) for listing in listings[:-1]),
        load(listings[-1], role="target", limit=target_limit),
    )


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


def _examples() -> str:
    return "mnist-usps, mnist+usps-mnist_m, mnist-usps@adda, embedded:optical"
