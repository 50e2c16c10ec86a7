"""Which domains the words of `dynconv data check` and `sample` mean, and a check of a user's own images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynconv.data.check import Checking, DomainCheck, check_known, counted
from dynconv.data.check_files import scan_classes, scan_list
from dynconv.data.check_images import ImageRow
from dynconv.data.errors import DataError
from dynconv.data.findings import Findings
from dynconv.data.folders import parse_assignment
from dynconv.data.manifest import needed, presence
from dynconv.data.specs import COLLECTIONS, EMBEDDED, known_domains, parse_spec


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
        DataError: no data root is given and one is needed.
    """
    known = [name for name in names if "=" not in name]
    if data_root is None and any(not name.startswith(f"{EMBEDDED}:") for name in known):
        raise DataError("no place to look: give the folder of the data sets with --data-root, or set DYNCONV_DATA")
    if data_root is not None and known and not data_root.is_dir():
        raise DataError(f"the data root {data_root} is no folder (looked from {Path.cwd()})")
    checks = [check_own(name, how) if "=" in name else check_known(name, data_root, how) for name in names]
    own = [check for check in checks if not check.title and check.classes]
    for check in own:
        others = sorted({label for other in own for label in other.classes} - set(check.classes))
        if others:
            shown = ", ".join(others[:12]) + f" and {len(others) - 12} more" * (len(others) > 12)
            text = f"it lacks classes that the others have: {shown}; training then needs --classes common or partial"
            check.findings.add("other classes", text)
    return checks


def check_own(word: str, how: Checking) -> DomainCheck:
    """A user's own folders, or "path label" list: what training would refuse, and what it would stop at."""
    name, place = parse_assignment(word, "NAME=DIR")
    findings, rows = Findings(name), []
    if place.is_file():
        rows = scan_list(findings, place, place.parent, "all", lambda path, label: label)
    elif not place.is_dir():
        findings.add("no such data", f"{place} does not exist (looked from {Path.cwd()})", file=place)
    else:
        rows = _folder_rows(findings, place)
    how.images(findings, rows)
    classes = _sorted({row.label for row in rows if row.split != "test"})
    if len(classes) == 1:
        findings.add("missing class", f"there is one class only ({classes[0]}): expected two or more")
    for label in sorted({row.label for row in rows} - set(classes)):
        findings.add("unknown class", "the training split has no such class", split="test", label=label)
    return DomainCheck(name, "", place, {}, classes, counted(rows), findings)


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (int(name) if name.isdecimal() else 0, name)))


def _folder_rows(findings: Findings, place: Path) -> list[ImageRow]:
    parts = [split for split in ("train", "test") if (place / split).is_dir()]
    if len(parts) == 2:
        return [row for split in parts for row in scan_classes(findings, place / split, split, ())]
    if len(parts) == 1:
        (found,), (lacking,) = parts, {"train", "test"} - set(parts)
        text = f"{place} has a folder {found!r} but none called {lacking!r}: give both, or {place / found}"
        findings.add("missing file", text, file=place / lacking)
        return scan_classes(findings, place / found, found, ())
    rows = scan_classes(findings, place, "all", ())
    if not rows and not findings.problems:
        findings.add("missing class", f"{place} holds no folder: expected one folder of images per class", file=place)
    return rows
