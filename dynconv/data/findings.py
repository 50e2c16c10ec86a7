"""What `dynconv data check` finds: each finding one line in words, bounded in number, and never the last."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# The first of each kind are told in full; a set with 50,000 missing files would bury everything else.
MOST_PER_KIND = 20

Kind = Literal[
    "no such data",
    "missing file",
    "not the published file",
    "unreadable file",
    "list that lacks files",
    "malformed line",
    "malformed layout",
    "unknown label",
    "missing class",
    "unknown class",
    "empty class",
    "wrong count",
    "too few images",
    "too many images",
    "no test split",
    "listed twice",
    "unreadable image",
    "wrong image size",
    "scene of one colour",
    "subset",
    "other classes",
    "stray files",
    "repeated rows",
    "one colour",
    "copies",
    "copies with other labels",
    "other sizes",
    "no labels",
]
# What is told and is no damage: publishers ship such sets.
NOTES: frozenset[Kind] = frozenset(
    {
        "subset",
        "stray files",
        "repeated rows",
        "one colour",
        "copies",
        "copies with other labels",
        "other sizes",
        "no labels",
    }
)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as published, or worth a note.

    Attributes:
        kind: What sort of thing; `NOTES` are no damage.
        domain: The domain's name.
        text: What was expected, what was found, and in which file, in words.
        split: "train", "test", "all" where there is no test split, or empty where it is of no split.
        label: The class, or empty.
        file: The file or folder, or empty.
    """

    kind: Kind
    domain: str
    text: str
    split: str = ""
    label: str = ""
    file: str = ""

    @property
    def problem(self) -> bool:
        return self.kind not in NOTES

    def line(self) -> str:
        """The finding as a sentence that begins with set, split and class."""
        split = "" if self.split == "all" else self.split
        parts = (self.domain, split, f"class {self.label}" if self.label else "")
        return f"{', '.join(part for part in parts if part)}: {self.text}"


@dataclass
class Findings:
    """The findings of one domain, in the order they were made.

    Attributes:
        domain: The domain's name.
        kept: At most `MOST_PER_KIND` of each kind.
        counts: How many there were of each kind.
        labels: The classes told under each kind, those not kept included.
    """

    domain: str
    kept: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    labels: defaultdict[Kind, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, kind: Kind, text: str, *, split: str = "", label: str = "", file: object = "") -> None:
        self.counts[kind] += 1
        if label:
            self.labels[kind].add(label)
        if self.counts[kind] <= MOST_PER_KIND:
            self.kept.append(Finding(kind, self.domain, text, split, label, str(file)))

    @property
    def problems(self) -> int:
        """Findings that are no notes, those not kept included."""
        return sum(count for kind, count in self.counts.items() if kind not in NOTES)

    def lines(self, *, problems: bool) -> list[str]:
        """The kept problems, or the kept notes, kind after kind; a kind that was cut ends with how many more there
        were."""
        lines = []
        for kind, count in self.counts.items():
            if (kind not in NOTES) == problems:
                lines += [finding.line() for finding in self.kept if finding.kind == kind]
                lines += [f"{self.domain}: and {count - MOST_PER_KIND:,} more: {kind}"] * (count > MOST_PER_KIND)
        return lines

    def to_dict(self) -> dict[str, Any]:
        return {
            "problems": self.problems,
            "kinds": dict(self.counts),
            "findings": [{**asdict(finding), "problem": finding.problem} for finding in self.kept],
        }
