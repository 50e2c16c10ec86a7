"""Which domains the words of `dynconv data check` and `sample` mean, and a check of a user's own images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dynconv.data.check import Checking, DomainCheck, check_known, counted
from dynconv.data.check_files import note_stray, scan_classes, scan_list
from dynconv.data.check_images import ImageRow
from dynconv.data.check_scenes import check_own_scenes, check_scene_set
from dynconv.data.class_choice import words as in_words
from dynconv.data.errors import DataError
from dynconv.data.findings import Findings, Kind
from dynconv.data.folders import parse_assignment, sorted_classes
from dynconv.data.manifest import needed, presence
from dynconv.data.scenes.listing import SCENE_SETS, is_own
from dynconv.data.specs import COLLECTIONS, EMBEDDED, known_domains, parse_spec
from dynconv.data.translated import read_translated
from dynconv.data.unlabelled import unlabelled_images


def domains_meant(words: Sequence[str], data_root: Path | None) -> list[str]:
    """Known domains, and NAME=DIR as they are, each once and in order.

    Args:
        words: Domains (`usps`), collections (`office31`), protocols (`mnist-usps@adda`) or NAME=DIR; none for every
            known domain of which something lies below `data_root`.
        data_root: The folder of the data sets.

    Raises:
        DataError: a word is none of these, or there are none and nothing is there.
    """
    if not words:
        _check_root(data_root)
        present = [name for name in known_domains() if needed(name) and presence(name, data_root) != "missing"]
        if not present:
            raise DataError(
                f"no known data set lies below {data_root}; `dynconv data list NAME` tells what belongs where"
            )
        return present
    meant: dict[str, None] = {}
    for word in words:
        meant |= dict.fromkeys(domains_of(word))
    return list(meant)


def domains_of(word: str) -> tuple[str, ...]:
    """The domains that one word means: itself, the members of a collection, or the sources and target of a protocol.

    Raises:
        DataError: it is no domain, collection, protocol or NAME=DIR.
    """
    if "=" in word:
        parse_assignment(word, "NAME=DIR")
        return (word,)
    if word in known_domains():
        return (word,)
    if word in COLLECTIONS:
        return tuple(f"{word}:{member}" for member in COLLECTIONS[word])
    try:
        sources, target, _ = parse_spec(word)
    except DataError as error:
        names = [name for name in known_domains() if ":" not in name]
        raise DataError(
            f"{word!r} is no known domain ({', '.join(names)}, or PREFIX:NAME), no collection "
            f"({', '.join(COLLECTIONS)}), no NAME=DIR, and no protocol: {error}"
        ) from error
    return (*sources, target)


def check_domains(names: Sequence[str], data_root: Path | None, how: Checking) -> list[DomainCheck]:
    """Check what `domains_meant` gave, one after the other.

    Raises:
        DataError: no data root is given and one is needed, it is no folder, or a name is given to two places.
    """
    known = [name for name in names if "=" not in name]
    if any(not name.startswith(f"{EMBEDDED}:") for name in known):
        _check_root(data_root)
    given = [parse_assignment(name, "NAME=DIR")[0] for name in names if "=" in name]
    if twice := sorted(name for name, count in Counter(given).items() if count > 1):
        raise DataError(f"NAME=DIR: named twice, with another place each: {', '.join(twice)}")
    checks = [_checked(name, data_root, how) for name in names]
    own = [check for check in checks if not check.title and check.classes]
    for check in own:
        others = sorted({label for other in own for label in other.classes} - set(check.classes))
        if others:
            text = (
                f"it lacks classes that the others have: {in_words(others)}; training refuses that without --classes "
                "common or partial (with these, check the domains one by one)"
            )
            check.findings.add("other classes", text)
    return checks


def _checked(name: str, data_root: Path | None, how: Checking) -> DomainCheck:
    if "=" in name:
        return check_own_scenes(name, how) if is_own(parse_assignment(name, "NAME=DIR")[1]) else check_own(name, how)
    if name in SCENE_SETS and data_root is not None:
        return check_scene_set(name, data_root, how)
    return check_known(name, data_root, how)


def _check_root(data_root: Path | None) -> None:
    if data_root is None:
        raise DataError("no place to look: give the folder of the data sets with --data-root, or set DYNCONV_DATA")
    if not data_root.is_dir():
        raise DataError(f"the data root {data_root} is no folder (looked from {Path.cwd()})")


def check_own(word: str, how: Checking) -> DomainCheck:
    """A user's own folders, or "path label" list, or images without labels: what training would refuse, and what it
    would stop at."""
    name, place = parse_assignment(word, "NAME=DIR")
    findings, rows = Findings(name), []
    try:
        unlabelled = unlabelled_images(name, place)
    except DataError as error:
        kind: Kind = "list that lacks files" if os.path.isfile(place) else "unreadable file"
        findings.add(kind, str(error).removeprefix(f"{name}: "), file=place)
        return DomainCheck(name, "", place, {}, (), {}, findings)
    if unlabelled is not None:
        how.images(findings, [ImageRow(path, "all", "") for path in unlabelled])
        findings.add("no labels", "the images have no labels: a target's may have none, a source's need some")
        return DomainCheck(name, "", place, {}, (), {"all": {}}, findings, images={"all": len(unlabelled)})
    # Of a name that is too long pathlib raises.
    if os.path.isfile(place):
        # Whose own list it is may well repeat an image.
        rows = scan_list(findings, place, place.parent, "all", lambda path, label: label, repeated="repeated rows")
    elif not os.path.isdir(place):
        findings.add("no such data", f"{place} does not exist (looked from {Path.cwd()})", file=place)
    else:
        rows = _folder_rows(findings, place)
    how.images(findings, rows)
    classes = sorted_classes({row.label for row in rows if row.split != "test"})
    each = Counter(row.label for row in rows if row.split == "all")
    if each and max(each.values()) == 1:
        text = "there is one image per class: of a source, none would be left for a test split"
        findings.add("no test split", text)
    if len(classes) == 1:
        findings.add("missing class", f"there is one class only ({classes[0]}): expected two or more")
    for label in sorted({row.label for row in rows} - set(classes)):
        findings.add("unknown class", "the training split has no such class", split="test", label=label)
    return DomainCheck(name, "", place, {}, classes, counted(rows), findings)


def _folder_rows(findings: Findings, place: Path) -> list[ImageRow]:
    parts = [split for split in ("train", "test") if (place / split).is_dir()]
    if len(parts) == 2:
        return [row for split in parts for row in scan_classes(findings, place / split, split, ())]
    if len(parts) == 1:
        (found,), (lacking,) = parts, {"train", "test"} - set(parts)
        text = f"{place} has a folder {found!r} but none called {lacking!r}: give both, or {place / found}"
        findings.add("missing file", text, file=place / lacking)
        return scan_classes(findings, place / found, found, ())
    try:
        translated = read_translated(place)
    except DataError as error:
        findings.add("malformed layout", str(error), file=place)
        return []
    except OSError:
        # Told by the next look at it.
        translated = None
    if translated is None:
        return scan_classes(findings, place, "all", ())
    if translated.misfits:
        where = f"in {place} that are not called LABEL_ID_fake_B.png (they are not read)"
        note_stray(findings, translated.misfits, where, "all")
    return [ImageRow(row.path, "all", row.label) for row in translated.rows]
