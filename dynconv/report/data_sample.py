"""The domains that `dynconv data sample` draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynconv.data import Domain, load_domain, load_protocol
from dynconv.data.check_names import domains_of
from dynconv.data.errors import DataError
from dynconv.data.folders import list_images, parse_assignment
from dynconv.data.manifest import published
from dynconv.data.specs import COLLECTIONS, known_domains

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


def _load(name: str, data_root: Path | None) -> Domain:
    own = "=" in name
    classes = list_images(*parse_assignment(name, "NAME=DIR")).classes if own else published(name).classes
    size = SIZES[not own and _of_digits(name)]
    return load_domain(name, classes=classes, data_root=data_root, image_size=size, memory_limit=0)


def _is_protocol(word: str) -> bool:
    return "=" not in word and word not in known_domains() and word not in COLLECTIONS


def _of_digits(name: str) -> bool:
    return published(name).classes == published("mnist").classes
