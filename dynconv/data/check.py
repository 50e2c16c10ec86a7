"""Data held against what is published: every file opened, every image decoded, every difference told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynconv.data import digits, embedded
from dynconv.data.cache import cache_root
from dynconv.data.check_files import check_data_files, note_stray, scan_classes, scan_list
from dynconv.data.check_images import ImageRow, check_image_arrays, check_image_files, note_copies
from dynconv.data.digit_files import MNIST_M_FORM, read_digit
from dynconv.data.errors import DataError
from dynconv.data.findings import Findings, Kind
from dynconv.data.image_sets import IMAGE_SETS
from dynconv.data.manifest import Published, needed, presence, published
from dynconv.data.published_lists import FORM, class_of
from dynconv.data.specs import EMBEDDED

Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class DomainCheck:
    """What was found of one domain.

    Attributes:
        name: The domain's name.
        title: Its set's name in prose; empty for a user's own images.
        place: Where it was looked for.
        splits: Images by split, as published; empty for a user's own images.
        classes: The classes, in the order of their labels.
        counts: Images found, by split and class.
        findings: Problems and notes.
        how_to_get: Where the published files are; empty for a user's own images.
        uncompared: Neither digests nor counts per class are published, so that its pixels and labels could be others.
        images: Images found by split, where `counts` are those that show a class, and an image shows several.
    """

    name: str
    title: str
    place: Path
    splits: Mapping[str, int]
    classes: tuple[str, ...]
    counts: Counts
    findings: Findings
    how_to_get: str = ""
    uncompared: bool = False
    images: Mapping[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return self.findings.problems == 0

    def found(self, split: str) -> int:
        """Images found of a split."""
        return self.images.get(split, sum(self.counts.get(split, {}).values()))

    def to_dict(self) -> dict[str, Any]:
        return {
            "domain": self.name,
            "title": self.title,
            "place": str(self.place),
            "sound": self.sound,
            "published": dict(self.splits),
            "compared": bool(self.title) and not self.uncompared,
            "counts": {
                split: {label: each[label] for label in self.classes if label in each}
                for split, each in self.counts.items()
            },
            **({"images": dict(self.images)} if self.images else {}),
            **self.findings.to_dict(),
        }


@dataclass(frozen=True)
class Checking:
    """How a check is done.

    Attributes:
        subset: Take fewer images than published as a note.
        threads: Image files decoded at a time.
        cache_dir: Where parsed and generated domains are kept (see `dynconv.data.cache.cache_root`).
        on_progress: Called with the domain's name and the numbers of its images that are done and of all.
    """

    subset: bool = False
    threads: int = 1
    cache_dir: Path | None = None
    on_progress: Callable[[str, int, int], None] = field(default=lambda name, done, total: None)

    def images(self, findings: Findings, rows: Sequence[ImageRow], size: tuple[int, int] | None = None) -> None:
        def tell(done: int, total: int) -> None:
            self.on_progress(findings.domain, done, total)

        check_image_files(findings, rows, threads=self.threads, size=size, on_progress=tell)


def check_known(name: str, data_root: Path | None, how: Checking) -> DomainCheck:
    """A known domain held against its published facts.

    Raises:
        DataError: no such domain.
    """
    facts, findings = published(name, data_root), Findings(name)
    root = Path() if data_root is None else data_root
    counts: Counts = {}
    if presence(name, data_root) == "missing":
        wanted = ", ".join(" or ".join(places) for places in needed(name))
        findings.add("no such data", f"not found below {root}: {wanted}")
    elif name == "mnist_m":
        rows = _mnist_m_rows(findings, root, how.subset)
        how.images(findings, rows, size=(32, 32))
        counts = counted(rows)
    elif name in digits.DIGIT_SETS:
        counts = _check_digits(findings, facts, root, how)
    elif name.startswith(f"{EMBEDDED}:"):
        counts = _check_embedded(findings, facts, how)
    else:
        rows = _image_set_rows(findings, name, root)
        how.images(findings, rows)
        counts = counted(rows)
    _compare(findings, facts, counts, how.subset)
    uncompared = not facts.per_class and not facts.digests
    return DomainCheck(
        name, facts.title, root, facts.splits, facts.classes, counts, findings, facts.how_to_get, uncompared
    )


def _check_digits(findings: Findings, facts: Published, root: Path, how: Checking) -> Counts:
    """A set of digits whose images lie together in a few files."""
    if not check_data_files(findings, root, digits.DIGIT_SETS[facts.domain].files, facts.digests):
        return {}
    try:
        # USPS may come from the cache, which knows its files by size and time: their checksums were verified above.
        arrays = digits.read_digits(facts.domain, root, cache_root(how.cache_dir))
    except DataError as error:
        findings.add("unreadable file", str(error).partition("\n")[0].removeprefix(f"{facts.domain}: "))
        return {}
    counts, seen = {}, []
    for split in facts.splits:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if len(images) != len(labels):
            text = f"{len(images):,} images and {len(labels):,} labels"
            findings.add("wrong count", text, split=split)
            continue
        names = [str(label) for label in labels.tolist()]
        for index in [index for index, label in enumerate(names) if label not in facts.classes]:
            text = f"label {index:,} of the {split} split is {names[index]}, expected 0 to {len(facts.classes) - 1}"
            findings.add("unknown label", text, split=split)
        counts[split] = dict(Counter(label for label in names if label in facts.classes))
        seen += check_image_arrays(findings, split, images, names)
        how.on_progress(facts.domain, len(seen), sum(facts.splits.values()))
    note_copies(findings, seen)
    return counts


def _check_embedded(findings: Findings, facts: Published, how: Checking) -> Counts:
    member = facts.domain.partition(":")[2]
    domain = embedded.load_embedded(member, cache_dir=cache_root(how.cache_dir), image_size=32, channels=3)
    labels = {"train": domain.train.labels, "test": None if domain.test is None else domain.test.labels}
    return {
        split: dict(Counter(facts.classes[label] for label in each.tolist()))
        for split, each in labels.items()
        if each is not None
    }


def _mnist_m_rows(findings: Findings, root: Path, subset: bool) -> list[ImageRow]:
    rows: list[ImageRow] = []
    for split in ("train", "test"):
        name = f"mnist_m/mnist_m_{split}_labels.txt"
        folder = root / "mnist_m" / f"mnist_m_{split}"
        if not check_data_files(findings, root, (name,), {}):
            continue
        repeated: Kind = "repeated rows" if subset else "listed twice"
        listed = scan_list(findings, root / name, folder, split, read_digit, form=MNIST_M_FORM, repeated=repeated)
        rows += listed
        named = {row.path for row in listed}
        if stray := [file for file in sorted(folder.glob("*.png")) if file not in named]:
            note_stray(findings, stray, f"in {folder} that {name} does not list", split)
    return rows


def _image_set_rows(findings: Findings, name: str, root: Path) -> list[ImageRow]:
    collection, _, domain = name.partition(":")
    known = IMAGE_SETS[collection]
    folder = root / known.folders[domain]
    if not folder.is_dir():
        findings.add("missing file", f"the folder {folder} is missing", file=folder)
        return []
    if not known.lists:
        return scan_classes(findings, folder, "all", known.classes)

    def read_label(path: str, label: str) -> str:
        return class_of(path, label, domain, known.classes)

    rows: list[ImageRow] = []
    for split, places in known.lists[domain].items():
        file = known.find_list(domain, split, root)
        if file is None:
            text = f"the list of the split is missing: {' or '.join(str(root / place) for place in places)}"
            findings.add("missing file", text, split=split)
        else:
            rows += scan_list(findings, file, root / known.base, split, read_label, form=FORM)
    return rows


def counted(rows: Sequence[ImageRow]) -> Counts:
    """Images by split and class."""
    counts: Counts = {}
    for row in rows:
        counts.setdefault(row.split, {}).setdefault(row.label, 0)
        counts[row.split][row.label] += 1
    return counts


def _compare(findings: Findings, facts: Published, counts: Counts, subset: bool) -> None:
    """Add what differs from the published counts, split by split and class by class."""
    for split, expected in facts.splits.items():
        if split not in counts:
            continue
        found = sum(counts[split].values())
        if found < expected and subset:
            findings.add("subset", f"{found:,} of {expected:,} images: a subset", split=split)
        elif found != expected:
            text = f"expected {expected:,} images, found {found:,}"
            findings.add(_other_count(found, expected), text, split=split)
        # An empty folder was told as such.
        told = findings.labels["empty class"]
        per_class = facts.per_class.get(split, ())
        for place, label in enumerate(facts.classes):
            each = counts[split].get(label, 0)
            if label in told or (each == 0 and label in facts.absent.get(split, ())):
                continue
            if each == 0:
                findings.add("missing class", "no image of this class", split=split, label=label)
            elif per_class and each != per_class[place] and not (subset and each < per_class[place]):
                text = f"expected {per_class[place]:,} images, found {each:,}"
                findings.add(_other_count(each, per_class[place]), text, split=split, label=label)


def _other_count(found: int, expected: int) -> Kind:
    return "too few images" if found < expected else "too many images"
