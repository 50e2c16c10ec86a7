"""The protocols that papers use, by name, with how many images of which set each of them takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dynconv.data import digit_five
from dynconv.data.image_sets import IMAGE_SETS, PDA_COUNTS
from dynconv.data.specs import parse_spec
from dynconv.data.variants import PAIRS, PAPERS, THINNED, Choice


@dataclass(frozen=True)
class KnownProtocol:
    """A protocol of the papers.

    Attributes:
        name: What `--protocol` takes.
        sources, target: Its domains.
        variant: One of `dynconv.data.variants.VARIANTS`.
        counts: Domain to the images it takes of each published split: {"train": n, "test": m}, or {"all": n} where no
            test split is published (as a source such a set is divided 80/20; as the target it is both).
        paper: Where the protocol, or else the set, is from.
    """

    name: str
    sources: tuple[str, ...]
    target: str
    variant: str
    counts: Mapping[str, Mapping[str, int]]
    paper: str


# Set -> (whether its protocols are pairs, all others to one, or both; its paper).
_IMAGE_PROTOCOLS = {
    "office31": ("pairs", "Office-31 (Saenko et al., 2010)"),
    "office-home": ("pairs", "Office-Home (Venkateswara et al., 2017)"),
    "domainnet": ("both", "M3SDA (Peng et al., 2019)"),
    "domainnet-cleaned": ("both", "M3SDA (Peng et al., 2019), the authors' cleaned lists"),
    "pacs": ("others to one", "PACS (Li et al., 2017)"),
}


def known_protocols() -> list[KnownProtocol]:
    """All of them, digits first. Nothing is read."""
    return [*_digits(), *_image_sets()]


def _digits() -> Iterator[KnownProtocol]:
    for variant, pairs in PAIRS.items():
        for pair in pairs:
            yield _of_digits(f"{pair}@{variant}")
    for name in digit_five.SETS:
        yield _of_digits(f"{digit_five.PREFIX}:{name}")
    for pair in ("svhn-mnist", "mnist-usps"):
        for variant in THINNED:
            yield _of_digits(f"{pair}@{variant}")


def _of_digits(spec: str) -> KnownProtocol:
    sources, target, variant = parse_spec(spec)
    pair = f"{'+'.join(sources)}-{target}"
    counts = {name: Choice(name, variant, pair, "source").counts() for name in sources}
    counts[target] = Choice(target, variant, pair, "target").counts()
    return KnownProtocol(spec, sources, target, variant, counts, PAPERS[variant])


def _image_sets() -> Iterator[KnownProtocol]:
    for prefix, (kind, paper) in _IMAGE_PROTOCOLS.items():
        domains = tuple(IMAGE_SETS[prefix].folders)
        if kind != "pairs":
            for target in domains:
                yield _of_images(f"{prefix}:{target}", paper)
        if kind != "others to one":
            for pair in (f"{source}-{target}" for target in domains for source in domains if source != target):
                yield _of_images(f"{prefix}:{pair}", paper)
        if prefix == "office31":
            for pair in (f"{source}-{target}" for target in domains for source in domains if source != target):
                yield _of_images(f"{prefix}:{pair}@pda", PAPERS["pda"])
    yield _of_images("visda2017:train-validation", "VisDA-2017 (Peng et al., 2017)")


def _of_images(spec: str, paper: str) -> KnownProtocol:
    sources, target, variant = parse_spec(spec)
    counts: dict[str, Mapping[str, int]] = {}
    for name in (*sources, target):
        prefix, _, domain = name.partition(":")
        counts[name] = IMAGE_SETS[prefix].splits[domain]
    if variant == "pda":
        counts[target] = {"all": PDA_COUNTS[target.partition(":")[2]]}
    return KnownProtocol(spec, sources, target, variant, counts, paper)
