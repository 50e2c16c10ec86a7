"""Driving scenes held against what is published: every image and label map opened, and the two against each other."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynconv.data.check import Checking, Counts, DomainCheck
from dynconv.data.check_images import Seen, digest_of, note_copies
from dynconv.data.errors import DataError
from dynconv.data.findings import Findings, Kind
from dynconv.data.folders import parse_assignment
from dynconv.data.manifest import published
from dynconv.data.scenes.listing import SCENE_SETS, SceneListing, expected_counts, list_own, list_scenes
from dynconv.data.scenes.reading import Scene, SceneError, read_scene
from dynconv.data.threads import reading_pool

# Scenes handed to the threads at a time, between two movements of a progress bar.
_CHUNK = 64
# Of many sizes the most frequent are told.
_TOLD = 4


class _Look(NamedTuple):
    """What was seen of a scene."""

    kind: Kind | None
    """What is wrong with it, if something is."""
    why: str
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    present: np.ndarray[Any, Any] = np.empty(0, bool)
    """bool (C,): the classes that its label map shows."""


def check_scene_set(name: str, root: Path, how: Checking) -> DomainCheck:
    """A known set of driving scenes held against its published facts, in its default classes."""
    facts, findings, known = published(name, root), Findings(name), SCENE_SETS[name]
    checked = partial(DomainCheck, name, facts.title, root, how_to_get=facts.how_to_get, uncompared=True)
    try:
        listing = list_scenes(name, root, tell=False)
    except DataError as error:
        # Its first line; the rest tells how to get the set, which is told for every set that is not sound.
        kind: Kind = "malformed layout" if (root / known.folder).exists() else "no such data"
        findings.add(kind, _words(name, error))
        return checked(facts.splits, facts.classes, {}, findings)
    images, counts = _look_through(findings, listing, how, known.size)
    expected = expected_counts(known, listing)
    for split, found in images.items():
        _compare(findings, split, found, expected[split], how.subset)
        for label in facts.classes if found >= expected[split] else ():
            if not counts[split].get(label):
                findings.add("missing class", "no label map shows this class", split=split, label=label)
    return checked(expected, facts.classes, counts, findings, images=images)


def check_own_scenes(word: str, how: Checking) -> DomainCheck:
    """A user's own scenes in CamVid's layout, NAME=DIR."""
    name, place = parse_assignment(word, "NAME=DIR")
    findings = Findings(name)
    try:
        listing = list_own(name, place)
    except DataError as error:
        findings.add("malformed layout", _words(name, error), file=place)
        return DomainCheck(name, "", place, {}, (), {}, findings)
    images, counts = _look_through(findings, listing, how, None)
    return DomainCheck(name, "", place, {}, listing.classes, counts, findings, images=images)


def _look_through(
    findings: Findings, listing: SceneListing, how: Checking, size: tuple[int, int] | None
) -> tuple[dict[str, int], Counts]:
    """Scenes by split, and by split and class those that show it; what is wrong with each goes to `findings`.

    `size` is what most of the published images have; others are noted, and without it several sizes are.
    """
    rows = [(split, scene) for split in listing.counts() for scene in _scenes(listing, split)]
    counts = {split: np.zeros(len(listing.classes), dtype=np.int64) for split in listing.counts()}
    seen, sizes = [], Counter[tuple[int, int]]()
    with reading_pool(max(1, how.threads), "check") as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            looks = pool.map(partial(_look, listing), (scene for _, scene in chunk))
            for (split, scene), look in zip(chunk, looks, strict=True):
                if look.kind is not None:
                    findings.add(look.kind, look.why, split=split, file=str(scene.image))
                    continue
                counts[split] += look.present
                sizes[look.size] += 1
                seen.append(Seen(look.digest, split, "", str(scene.image)))
            how.on_progress(findings.domain, start + len(chunk), len(rows))
    note_copies(findings, seen)
    if len(sizes) > 1 or (size is not None and set(sizes) - {size}):
        told = ", ".join(f"{count:,} of {width} x {height}" for (height, width), count in sizes.most_common(_TOLD))
        told += f" and {len(sizes) - _TOLD} more sizes" * (len(sizes) > _TOLD)
        most = "" if size is None else f"; most of the published ones have {size[1]} x {size[0]}"
        findings.add("other sizes", f"the images' sizes: {told}{most}")
    shown = {
        split: {label: int(count) for label, count in zip(listing.classes, each, strict=True) if count}
        for split, each in counts.items()
    }
    return listing.counts(), shown


def _scenes(listing: SceneListing, split: str) -> tuple[Scene, ...]:
    return (listing.test or ()) if split == "test" else listing.train


def _look(listing: SceneListing, scene: Scene) -> _Look:
    try:
        pixels = read_scene(scene, listing.name, listing.labels)
    except DataError as error:
        kind: Kind = error.kind if isinstance(error, SceneError) else "unreadable image"
        return _Look(kind, _words(listing.name, error))
    indices = np.bincount(pixels[..., 3].ravel(), minlength=len(listing.classes))[: len(listing.classes)]
    digest = digest_of(np.ascontiguousarray(pixels[..., :3]))
    return _Look(None, "", digest, pixels.shape[:2], indices > 0)


def _compare(findings: Findings, split: str, found: int, expected: int, subset: bool) -> None:
    if found < expected and subset:
        findings.add("subset", f"{found:,} of {expected:,} images: a subset", split=split)
    elif found != expected:
        kind: Kind = "too few images" if found < expected else "too many images"
        findings.add(kind, f"expected {expected:,} images, found {found:,}", split=split)


def _words(name: str, error: DataError) -> str:
    return str(error).partition("\n")[0].removeprefix(f"{name}: ")
