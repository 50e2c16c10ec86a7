"""What `dynconv data list` prints: every known set, what of it is here, and the protocols of the papers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dynconv.data.catalogue import KnownProtocol, known_protocols, protocol_named
from dynconv.data.check_names import domains_of
from dynconv.data.errors import DataError
from dynconv.data.manifest import Published, needed, presence, published
from dynconv.data.specs import COLLECTIONS, known_domains

STYLES = {"present": "green", "partly": "yellow", "missing": "red", "generated": "cyan"}


def list_tables(data_root: Path | None) -> Group:
    """One line per domain, then one per protocol; those of an image set are one line for all its domains."""
    table = Table(title="data sets" if data_root is None else f"data sets below {data_root}", box=SIMPLE_HEAD)
    for name in ("name", "set"):
        table.add_column(name, overflow="fold")
    table.add_column("here", no_wrap=True)
    for name in ("train", "test", "classes"):
        table.add_column(name, justify="right", no_wrap=True)
    titles: dict[str, None] = {}
    for name in known_domains():
        facts = published(name)
        if facts.title in titles:
            title = ""
        else:
            titles[facts.title], title = None, facts.title
        here = _here(name, data_root)
        train, test = _split_cells(facts.splits)
        table.add_row(name, title, here, train, test, str(len(facts.classes)))
    table.caption = "one number for both: no published test split. `dynconv data list NAME` tells where a set is from"
    return Group(table, protocol_table(known_protocols(), folded=True))


def protocol_table(protocols: Sequence[KnownProtocol], *, folded: bool) -> Table:
    """One line per protocol; `folded`: those of one collection, variant and number of sources in one line."""
    table = Table(title="protocols of the papers" if folded else "protocols", box=SIMPLE_HEAD)
    table.add_column("--protocol", overflow="fold", min_width=34)
    table.add_column("sources: train / test", overflow="fold")
    table.add_column("target: train / test", overflow="fold")
    table.add_column("paper", overflow="fold")
    groups = Counter(_group(each) for each in protocols)
    for each in protocols:
        key = _group(each)
        if not folded or ":" not in each.name or 0 < groups[key] < 3:
            sources = "\n".join(_member(each, name) for name in each.sources)
            table.add_row(each.name, sources, _member(each, each.target), each.paper)
        elif key in groups:
            prefix, several, variant, paper = key
            alike = [other for other in protocols if _group(other) == key]
            form = f"{prefix}:{'' if several else 'SOURCE-'}TARGET{variant}"
            as_source = {name: _member(other, name) for other in alike for name in other.sources}
            as_target = {other.target: _member(other, other.target) for other in alike}
            members = [f"{prefix}:{member}" for member in COLLECTIONS[prefix]]
            what = "all but the target of" if several else "one of"
            table.add_row(
                f"{form}  ({groups.pop(key)})",
                "\n".join((what, *map(as_source.__getitem__, members))),
                "\n".join(("each of", *map(as_target.__getitem__, members))),
                paper,
            )
    return table


def list_details(words: Sequence[str], data_root: Path | None) -> Group:
    """All about the domains that `words` mean, and the protocols that they or the words name.

    Raises:
        DataError: a word is no domain, collection or protocol.
    """
    names = _domains(words)
    parts: list[RenderableType] = []
    classes: tuple[str, ...] = ()
    for name in names:
        facts = published(name, data_root)
        parts.append(_details(facts, data_root, same_classes=facts.classes == classes and not facts.per_class))
        classes = facts.classes
    if protocols := _of(words, names):
        parts.append(protocol_table(protocols, folded=False))
    return Group(*parts)


def list_dict(words: Sequence[str], data_root: Path | None) -> dict[str, Any]:
    """The same for machines. Raises as `list_details`."""
    names = _domains(words) or list(known_domains())
    domains = [
        {
            **asdict(published(name, data_root)),
            "here": None if data_root is None and needed(name) else presence(name, data_root),
            "needs": [" or ".join(places) for places in needed(name)],
        }
        for name in names
    ]
    protocols = _of(words, names) if words else known_protocols()
    return {
        "data_root": None if data_root is None else str(data_root),
        "domains": domains,
        "protocols": [asdict(protocol) for protocol in protocols],
    }


def _domains(words: Sequence[str]) -> list[str]:
    if own := [word for word in words if "=" in word]:
        raise DataError(
            f"{own[0]!r}: data list tells of known sets; NAME=DIR, your own images, is for `dynconv data check` and "
            "`dynconv data sample`"
        )
    return list(dict.fromkeys(name for word in words for name in domains_of(word)))


def _of(words: Sequence[str], names: Sequence[str]) -> list[KnownProtocol]:
    """The protocols that `words` name, with all variants of those named without one; else those of domains of `names`
    alone; else those whose target is one."""
    known = known_protocols()
    asked: dict[str, KnownProtocol] = {}
    for word in words:
        if word not in known_domains() and word not in COLLECTIONS:
            variants = [each for each in known if each.name.partition("@")[0] == word]
            asked |= {each.name: each for each in (protocol_named(word), *variants)}
    if asked:
        return list(asked.values())
    found = [each for each in known if {*each.sources, each.target} <= set(names)]
    return found or [each for each in known if each.target in names]


def _details(facts: Published, data_root: Path | None, *, same_classes: bool) -> Text:
    lines = Text()
    lines.append(f"{facts.domain}", style="bold").append(f"  {facts.title}  ").append(_here(facts.domain, data_root))
    splits = ", ".join(f"{count:,} {split}" for split, count in facts.splits.items() if split != "all")
    lines.append(f"\n  images: {splits or '{:,} (no published test split)'.format(facts.splits['all'])}")
    lines.append(f"\n  {len(facts.classes)} classes")
    if not facts.per_class:
        lines.append(" as above" if same_classes else f": {', '.join(facts.classes)}")
    for split, counts in facts.per_class.items():
        each = ", ".join(f"{label} ({count:,})" for label, count in zip(facts.classes, counts, strict=True))
        lines.append(f"\n  {split} by class: {each}" if split != "all" else f": {each}")
    for split, absent in facts.absent.items():
        lines.append(f"\n  published without: {', '.join(absent)} ({split})")
    if len(facts.settings) > 1:
        default, *others = facts.settings
        lines.append(f"\n  class settings: {', '.join((f'{default} (the default)', *others))}")
    for places in needed(facts.domain):
        found = data_root is not None and any((data_root / place).exists() for place in places)
        digest = f" ({facts.digests[places[0]]})" if places[0] in facts.digests else ""
        state = "" if data_root is None else ": there" if found else ": missing"
        lines.append(f"\n  needs {' or '.join(places)}{digest}{state}")
    lines.append(f"\n  to get it: {facts.how_to_get}\n")
    return lines


def _here(name: str, data_root: Path | None) -> Text:
    if data_root is None and needed(name):
        return Text("not looked for")
    state = presence(name, data_root)
    return Text(state, style=STYLES[state])


def _split_cells(splits: Mapping[str, int]) -> tuple[str, str]:
    if "all" in splits:
        return f"{splits['all']:,}", ""
    return f"{splits['train']:,}", f"{splits['test']:,}"


def _member(protocol: KnownProtocol, name: str) -> str:
    known = protocol.counts[name]
    splits = ("all",) if "all" in known else ("train", "test")
    counts = " / ".join(f"{known[split]:,}" if split in known else "unknown" for split in splits)
    return f"{name.rpartition(':')[2]} {counts}"


def _group(protocol: KnownProtocol) -> tuple[str, bool, str, str]:
    prefix = protocol.name.partition(":")[0]
    _, at, variant = protocol.name.partition("@")
    return prefix, len(protocol.sources) > 1, f"{at}{variant}", protocol.paper
