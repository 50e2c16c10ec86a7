"""The protocols that papers use, by name, with how many images of which set each of them takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dynconv.data import digit_five
from dynconv.data.image_sets import IMAGE_SETS, PDA_COUNTS
from dynconv.data.manifest import published
from dynconv.data.scenes.listing import SCENE_SETS
from dynconv.data.specs import parse_spec
from dynconv.data.variants import PAIRS, PAPERS, THINNED, Choice


@dataclass(frozen=True)
class KnownProtocol:
    """A protocol and what it takes.

    Attributes:
        name: What `--protocol` takes.
        sources, target: Its domains.
        variant: One of `dynconv.data.variants.VARIANTS`, or the class setting of driving scenes.
        counts: Domain to the images it takes of each published split: {"train": n, "test": m}, or {"all": n} where no
            test split is published (as a source such a set is divided 80/20; as the target it is both). "train" is
            left out of a set that is thinned out by class where its counts per class are not known.
        paper: Where the protocol, or else the set, is from; empty where the papers have no such.
    """

    name: str
    sources: tuple[str, ...]
    target: str
    variant: str
    counts: Mapping[str, Mapping[str, int]]
    paper: str


# Set -> (whether its protocols are pairs, all others to one, both, or one alone; its paper).
_IMAGE_PROTOCOLS = {
    "office31": ("pairs", "Office-31 (Saenko et al., 2010)"),
    "office-home": ("pairs", "Office-Home (Venkateswara et al., 2017)"),
    "domainnet": ("both", "M3SDA (Peng et al., 2019)"),
    "domainnet-cleaned": ("both", "M3SDA (Peng et al., 2019), the authors' cleaned lists"),
    "pacs": ("others to one", "PACS (Li et al., 2017)"),
    "visda2017": ("train-validation", "VisDA-2017 (Peng et al., 2017)"),
}
# Protocols of driving scenes; of settings with a name of their own all are listed.
_OWN_DIVISION = "CamVid's day and dusk, divided by this project"
_SCENE_PROTOCOLS = {
    "gta5-cityscapes": "CyCADA (Hoffman et al., 2018)",
    "synthia-cityscapes": "Zhang et al. (2017), 16 classes",
    "synthia-cityscapes@13": "Tsai et al. (2018), 13 classes",
    "synthia-cityscapes@19": "Cityscapes' 19 classes, three of which SYNTHIA hardly has",
    "synthia-cityscapes@22": "Zhang et al. (2017), SYNTHIA's 22 classes",
    "gta5+synthia-cityscapes": "19 classes, three of which SYNTHIA hardly has",
    "camvid_day-camvid_dusk": _OWN_DIVISION,
    "camvid_dusk-camvid_day": _OWN_DIVISION,
}


def known_protocols() -> list[KnownProtocol]:
    """All of them, digits first, scenes last. Nothing is read."""
    return [*_digits(), *_image_sets(), *map(protocol_named, _SCENE_PROTOCOLS)]


def protocol_named(spec: str) -> KnownProtocol:
    """Any protocol that `--protocol` takes, of the papers or not. Nothing is read.

    Raises:
        DataError: a malformed name, or an unknown domain or variant.
    """
    sources, target, variant = parse_spec(spec)
    prefix, _, member = target.partition(":")
    if target in SCENE_SETS:
        scenes = {name: SCENE_SETS[name].splits for name in (*sources, target)}
        return KnownProtocol(spec, sources, target, variant, scenes, _SCENE_PROTOCOLS.get(spec, ""))
    pair = f"{'+'.join(sources)}-{target}"
    of_images = prefix in IMAGE_SETS
    counts: dict[str, Mapping[str, int]] = {}
    for name in (*sources, target):
        facts = published(name)
        choice = Choice(name, variant, pair, "target" if name == target else "source")
        counts[name] = facts.splits if of_images else choice.counts(facts.splits, facts.per_class)
    if variant == "pda":
        counts[target] = {"all": PDA_COUNTS[member]}
    paper = PAPERS[variant] or (_IMAGE_PROTOCOLS[prefix][1] if of_images else "")
    return KnownProtocol(spec, sources, target, variant, counts, paper)


def _digits() -> Iterator[KnownProtocol]:
    for variant, pairs in PAIRS.items():
        for pair in pairs:
            yield protocol_named(f"{pair}@{variant}")
    for name in digit_five.SETS:
        yield protocol_named(f"{digit_five.PREFIX}:{name}")
    for pair in ("svhn-mnist", "mnist-usps"):
        for variant in THINNED:
            yield protocol_named(f"{pair}@{variant}")


def _image_sets() -> Iterator[KnownProtocol]:
    for prefix, (kind, _) in _IMAGE_PROTOCOLS.items():
        domains = tuple(IMAGE_SETS[prefix].folders)
        if kind in ("others to one", "both"):
            for target in domains:
                yield protocol_named(f"{prefix}:{target}")
        if kind in ("pairs", "both"):
            for pair in (f"{source}-{target}" for target in domains for source in domains if source != target):
                yield protocol_named(f"{prefix}:{pair}")
        if prefix == "office31":
            for pair in (f"{source}-{target}" for target in domains for source in domains if source != target):
                yield protocol_named(f"{prefix}:{pair}@pda")
        if kind == "train-validation":
            yield protocol_named(f"{prefix}:{kind}")
