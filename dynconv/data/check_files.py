"""Folders and lists of images, and the files of digit sets, read so that one damaged line or file hides no other."""

from __future__ import annotations

import bz2
import hashlib
import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from dynconv.data.check_images import ImageRow
from dynconv.data.findings import Findings, Kind
from dynconv.data.walk import ListProblem, class_folders, read_list

_BLOCK = 2**20


def file_digest(file: Path, like: str) -> str:
    """The digest of a file as "ALGORITHM:HEX", by the algorithm of the published one, `like`."""
    algorithm, _, _ = like.partition(":")
    digest = hashlib.new(algorithm)
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"


def check_data_files(findings: Findings, root: Path, files: Sequence[str], digests: Mapping[str, str]) -> bool:
    """Whether the files of a set (relative to `root`) are there and whole, as far as their digests and heads tell."""
    sound = True
    for name in files:
        file = root / name
        if not file.is_file():
            findings.add("missing file", f"the file {file} is missing", file=file)
            sound = False
            continue
        try:
            why = _what_is_wrong(file)
            found = file_digest(file, digests[name]) if name in digests else None
        except OSError as error:
            why, found = f"cannot be read: {error}", None
        if why is not None:
            findings.add("unreadable file", f"{file} {why}", file=file)
            sound = False
        if found is not None and found != digests[name]:
            text = f"{file} is not the published file: expected {digests[name]}, found {found}"
            findings.add("not the published file", text, file=file)
    return sound


def _what_is_wrong(file: Path) -> str | None:
    with file.open("rb") as stream:
        head = stream.read(16)
    if not head:
        return "is empty (0 bytes)"
    if head.lstrip()[:1] == b"<":
        return f"is a web page, not the data: it begins with {head[:12]!r}"
    if file.name.endswith("-ubyte"):
        return _wrong_idx(file, head)
    return _wrong_bz2(file, head) if file.suffix == ".bz2" else None


def _wrong_bz2(file: Path, head: bytes) -> str | None:
    if head[:3] != b"BZh":
        return f"is no bzip2 archive: it begins with {head[:4]!r}"
    try:
        with bz2.open(file) as stream:
            while stream.read(_BLOCK):
                pass
    except (EOFError, OSError) as error:
        return f"is a damaged archive: {error}"
    return None


def _wrong_idx(file: Path, head: bytes) -> str | None:
    """What is wrong with a file of MNIST's idx format: two zeros, a type (8: bytes), the number of dimensions, these
    as big-endian 32-bit numbers, then the bytes."""
    dimensions = 3 if "idx3" in file.name else 1
    if head[:4] != bytes((0, 0, 8, dimensions)) or len(head) < 4 + 4 * dimensions:
        return f"is no idx file of {dimensions} dimensions: it begins with {head[:4]!r}"
    shape = struct.unpack(f">{dimensions}I", head[4 : 4 + 4 * dimensions])
    expected = 4 + 4 * dimensions + math.prod(shape)
    found = file.stat().st_size
    if found == expected:
        return None
    told = " x ".join(map(str, shape))
    return f"is cut off or too long: its head tells {told}, that is {expected:,} bytes, the file has {found:,}"


def scan_classes(findings: Findings, folder: Path, split: str, known: Collection[str]) -> list[ImageRow]:
    """The images of `folder`, which holds one folder per class; `known` are the published names, empty for any."""
    rows: list[ImageRow] = []
    try:
        classes, beside = class_folders(folder)
    except OSError as error:
        findings.add("unreadable file", f"the folder {folder} cannot be read: {error}", split=split, file=folder)
        return rows
    if not classes:
        text = f"{folder} holds no folder: expected one folder of images per class"
        findings.add("missing class", text, split=split, file=folder)
    stray = list(beside)
    for each in classes:
        place, here = each.place, {"split": split, "label": each.place.name, "file": str(each.place)}
        if known and place.name not in known:
            findings.add("unknown class", f"{place} is no class of the published set", **here)
            continue
        if each.error is not None:
            findings.add("unreadable file", f"the folder {place} cannot be read: {each.error}", **here)
        elif not each.images:
            findings.add("empty class", f"the folder {place} holds no image", **here)
        stray += each.stray
        rows += [ImageRow(file, split, place.name) for file in each.images]
    if stray:
        note_stray(findings, stray, f"beside the images of {folder} (they are not read)", split)
    return rows


def note_stray(findings: Findings, stray: Sequence[Path], where: str, split: str) -> None:
    """Note files that no one reads."""
    files = "1 other file" if len(stray) == 1 else f"{len(stray):,} other files"
    findings.add("stray files", f"{files} {where}, such as {stray[0].name}", split=split, file=stray[0])


def scan_list(
    findings: Findings,
    listing: Path,
    folder: Path,
    split: str,
    read_label: Callable[[str, str], str],
    *,
    form: str = "path label",
    repeated: Kind = "listed twice",
) -> list[ImageRow]:
    """The images that the lines of a list name; the same line again is told, and is another row.

    Args:
        findings: Where malformed lines, unknown labels and files that are not there go.
        listing, folder, read_label, form: see `dynconv.data.walk.read_list`.
        split: The split that it lists.
        repeated: What it is when an image is listed twice under the same label.
    """
    rows: list[ImageRow] = []
    seen: set[ImageRow] = set()
    for found in read_list(listing, folder, read_label, form):
        if isinstance(found, ListProblem):
            findings.add(found.kind, found.text, split=split, label=found.label, file=found.file)
            continue
        row = ImageRow(found.path, split, found.label)
        if row in seen:
            text = f"{listing} lists the image {row.path} more than once"
            findings.add(repeated, text, split=split, label=row.label, file=row.path)
        seen.add(row)
        rows.append(row)
    return rows
