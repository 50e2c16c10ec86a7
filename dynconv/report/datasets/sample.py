"""The domains that `dynconv data sample` draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynconv.data import Domain, load_domain, load_protocol
from dynconv.data.check_names import domains_of
from dynconv.data.errors import DataError
from dynconv.data.folders import list_images, parse_assignment
from dynconv.data.manifest import published
from dynconv.data.scenes.listing import SCENE_SETS, SceneListing, is_own, list_own, list_scenes
from dynconv.data.specs import COLLECTIONS, data_root_of, known_domains, parse_spec

# Digits are stored at 28 or 32; photographs shown at 96 are 0.6 inches wide in the picture.
SIZES = {True: 32, False: 96}


def sampled(words: Sequence[str], data_root: Path | None) -> list[tuple[str, Domain]]:
    """Domains with what stands above each of them: its name, and its part in a protocol.

    Image files are decoded when they are asked for.

    Raises:
        DataError: what `load_domain` and `load_protocol` raise, or a protocol stands among other names.
    """
    protocols = [word for word in words if _is_protocol(word)]
    if protocols and len(words) > 1:
        raise DataError(f"a protocol is drawn alone: give {protocols[0]!r}, or domains; got {' '.join(words)}")
    if protocols:
        (word,) = protocols
        size = SIZES[_of_digits(domains_of(word)[-1])]
        protocol = load_protocol(word, data_root=data_root, image_size=size, memory_limit=0)
        parts = [(f"source {domain.name}", domain) for domain in protocol.sources]
        return [*parts, (f"target {protocol.target.name}", protocol.target)]
    names = dict.fromkeys(name for word in words for name in domains_of(word))
    return [(name.partition("=")[0], _load(name, data_root)) for name in names]


def sampled_scenes(words: Sequence[str], data_root: Path | None) -> list[tuple[str, SceneListing]]:
    """Domains of driving scenes with what stands above each of them, as `sampled` has it of other images; empty where
    none of the words means scenes.

    Raises:
        DataError: other images stand among them, files are missing, or as `sampled`.
    """
    named = {word: domains_of(word) for word in words}
    names = list(dict.fromkeys(name for each in named.values() for name in each))
    scenes = [name for name in names if _is_scenes(name)]
    if not scenes:
        return []
    if others := [name for name in names if name not in scenes]:
        raise DataError(
            f"{scenes[0]} and {others[0]}: driving scenes and images of one class are drawn in two pictures"
        )
    protocol = next((word for word in words if _is_protocol(word)), None)
    if protocol is not None and len(words) > 1:
        raise DataError(f"a protocol is drawn alone: give {protocol!r}, or domains; got {' '.join(words)}")
    setting = "default" if protocol is None else parse_spec(protocol)[2]
    listings = [
        list_own(*parse_assignment(name, "NAME=DIR"))
        if "=" in name
        else list_scenes(name, data_root_of(name, data_root), classes=setting)
        for name in scenes
    ]
    if protocol is None:
        return [(listing.name, listing) for listing in listings]
    parts = ["source"] * (len(listings) - 1) + ["target"]
    return [(f"{part} {listing.name}", listing) for part, listing in zip(parts, listings, strict=True)]


def _is_scenes(name: str) -> bool:
    return is_own(parse_assignment(name, "NAME=DIR")[1]) if "=" in name else name in SCENE_SETS


def _load(name: str, data_root: Path | None) -> Domain:
    own = "=" in name
    classes = list_images(*parse_assignment(name, "NAME=DIR")).classes if own else published(name).classes
    size = SIZES[not own and _of_digits(name)]
    return load_domain(name, classes=classes, data_root=data_root, image_size=size, memory_limit=0)


def _is_protocol(word: str) -> bool:
    return "=" not in word and word not in known_domains() and word not in COLLECTIONS


def _of_digits(name: str) -> bool:
    return published(name).classes == published("mnist").classes
