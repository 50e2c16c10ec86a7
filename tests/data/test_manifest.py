from __future__ import annotations

from pathlib import Path

import pytest

from dynconv.data import DataError, known_domains, load_domain
from dynconv.data.catalogue import known_protocols
from dynconv.data.check_names import domains_of
from dynconv.data.manifest import needed, presence, published

# Counts that the publishers print, from their pages and papers; the loaders' tables are held against them.
PRINTED = {
    "mnist": (60000, 10000),
    "usps": (7291, 2007),
    "mnist_m": (59001, 9001),
    "svhn": (73257, 26032),
    "syn": (479400, 9553),
    "office31:amazon": (2817,),
    "office31:dslr": (498,),
    "office31:webcam": (795,),
    "office-home:art": (2427,),
    "office-home:clipart": (4365,),
    "office-home:product": (4439,),
    "office-home:real-world": (4357,),
    "visda2017:train": (152397,),
    "visda2017:validation": (55388,),
    "domainnet-cleaned:clipart": (33525, 14604),
    "domainnet-cleaned:sketch": (48212, 20916),
    "domainnet:infograph": (37087, 16114),
    "pacs:art_painting": (2048,),
    "pacs:sketch": (3929,),
}


@pytest.mark.parametrize("name", known_domains())
def test_every_known_domain_is_in_the_manifest_and_its_numbers_agree(name: str) -> None:
    facts = published(name)
    assert facts.domain == name
    assert set(facts.splits) in ({"train", "test"}, {"all"})
    assert len(set(facts.classes)) == len(facts.classes) > 1
    for split, counts in facts.per_class.items():
        assert len(counts) == len(facts.classes)
        assert sum(counts) == facts.splits[split]
    for file, digest in facts.digests.items():
        assert (file,) in needed(name)
        algorithm, _, digits = digest.partition(":")
        assert (algorithm, len(digits)) in {("md5", 32), ("sha256", 64)}
    for split, absent in facts.absent.items():
        assert split in facts.splits and set(absent) < set(facts.classes)
    assert len(facts.how_to_get) > 20 and facts.title


@pytest.mark.parametrize("name", PRINTED)
def test_the_counts_are_the_printed_ones(name: str) -> None:
    assert tuple(published(name).splits.values()) == PRINTED[name]


def test_instructions_name_the_folder_that_was_given() -> None:
    for name in ("mnist", "mnist_m", "office31:amazon", "domainnet:real", "digit-five:usps"):
        assert "/my/place" in published(name, Path("/my/place")).how_to_get


def test_an_unknown_name_is_answered_with_a_near_one() -> None:
    with pytest.raises(DataError, match="Did you mean 'usps'"):
        published("upsp")


def test_the_optical_digits_are_divided_in_these_counts(tmp_path: Path) -> None:
    facts = published("embedded:optical")
    domain = load_domain(facts.domain, classes=facts.classes, cache_dir=tmp_path, image_size=8)
    for split, part in (("train", domain.train), ("test", domain.test)):
        assert part is not None
        assert tuple(part.labels.bincount().tolist()) == facts.per_class[split]


def test_presence_is_told_from_the_files_that_are_needed(tmp_path: Path) -> None:
    assert presence("embedded:plain", None) == "generated"
    assert presence("usps", None) == presence("usps", tmp_path) == "missing"
    (tmp_path / "usps.bz2").touch()
    assert presence("usps", tmp_path) == "partly"
    (tmp_path / "usps.t.bz2").touch()
    assert presence("usps", tmp_path) == "present"
    # A list may lie in either of its places.
    (tmp_path / "domainnet" / "real").mkdir(parents=True)
    assert presence("domainnet-cleaned:real", tmp_path) == "partly"
    for split in ("train", "test"):
        (tmp_path / "domainnet" / f"real_{split}.txt").touch()
    assert presence("domainnet-cleaned:real", tmp_path) == "present"


def test_words_mean_domains_collections_and_protocols() -> None:
    assert domains_of("usps") == ("usps",)
    assert domains_of("office31") == ("office31:amazon", "office31:dslr", "office31:webcam")
    assert domains_of("mnist+usps-mnist_m") == ("mnist", "usps", "mnist_m")
    assert domains_of("office31:amazon-webcam@pda") == ("office31:amazon", "office31:webcam")
    # A domain before the protocol of that name: the other domains to this one.
    assert domains_of("office31:amazon") == ("office31:amazon",)
    assert domains_of("own=some/where") == ("own=some/where",)
    with pytest.raises(DataError, match="'moon' is no known domain .* no collection .* no protocol"):
        domains_of("moon")


def test_the_protocols_of_the_papers_are_of_known_domains_and_parse() -> None:
    for protocol in known_protocols():
        assert {*protocol.sources, protocol.target} == set(protocol.counts) <= set(known_domains())
        for name, counts in protocol.counts.items():
            assert set(counts) == set(published(name).splits)
