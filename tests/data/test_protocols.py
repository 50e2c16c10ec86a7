from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dynconv.data import DataError, known_domains, load_domain, load_protocol, parse_spec
from dynconv.data.catalogue import known_protocols


def test_a_name_gives_sources_target_and_variant() -> None:
    assert parse_spec("mnist-usps") == (("mnist",), "usps", "full")
    assert parse_spec("mnist+usps-mnist_m") == (("mnist", "usps"), "mnist_m", "full")
    assert parse_spec("usps-mnist@adda") == (("usps",), "mnist", "adda")
    assert parse_spec("embedded:plain+inverted-optical") == (
        ("embedded:plain", "embedded:inverted"),
        "embedded:optical",
        "full",
    )
    both = ("office31:amazon", "office31:dslr")
    assert parse_spec("office31:amazon+dslr-webcam") == (both, "office31:webcam", "full")
    assert parse_spec("office31:amazon-webcam@pda") == (("office31:amazon",), "office31:webcam", "pda")
    assert parse_spec("visda2017:train-validation") == (("visda2017:train",), "visda2017:validation", "full")


def test_names_with_dashes_of_their_own_are_told_from_the_dash_between() -> None:
    real, art, product = (f"office-home:{name}" for name in ("real-world", "art", "product"))
    assert parse_spec("office-home:art-real-world") == ((art,), real, "full")
    assert parse_spec("office-home:real-world-art") == ((real,), art, "full")
    assert parse_spec("office-home:product+real-world-art") == ((product, real), art, "full")
    assert parse_spec("office-home:real-world")[:2] == ((art, "office-home:clipart", product), real)


def test_a_target_alone_takes_the_rest_of_its_collection() -> None:
    assert parse_spec("office31:dslr") == (("office31:amazon", "office31:webcam"), "office31:dslr", "full")


def test_digit_five_is_for_m3sdas_counts_unless_another_variant_is_named() -> None:
    sources, target, variant = parse_spec("digit-five:mnist_m")
    assert sources == tuple(f"digit-five:{name}" for name in ("mnist", "usps", "svhn", "syn"))
    assert (target, variant) == ("digit-five:mnist_m", "m3sda")
    assert parse_spec("digit-five:svhn-mnist") == (("digit-five:svhn",), "digit-five:mnist", "m3sda")
    assert parse_spec("digit-five:mnist_m@full")[2] == "full"
    assert parse_spec("mnist+usps+svhn+syn-mnist_m@m3sda")[2] == "m3sda"
    assert parse_spec("embedded:optical@odd-source")[2] == "odd-source"


def test_an_embedded_target_alone_takes_the_other_four_as_sources() -> None:
    sources, target, _ = parse_spec("embedded:optical")
    assert target == "embedded:optical"
    assert sources == tuple(f"embedded:{name}" for name in ("plain", "textured", "coloured", "inverted"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnist", "expected SOURCE"),
        ("-usps", "expected SOURCE"),
        ("", "expected SOURCE"),
        ("mnist+-usps", "unknown domain ''"),
        (
            "mnits-usps",
            "unknown domain 'mnits'.*Did you mean 'mnist'.*Known: mnist, usps, mnist_m, svhn, syn, embedded:opt",
        ),
        ("embedded:optcal", "Did you mean 'embedded:optical'"),
        ("plain-optical", "unknown domain 'plain'"),
        ("mnist+mnist-usps", "named twice among the sources: mnist"),
        ("mnist-mnist", "target 'mnist' is also a source"),
        ("mnist-usps@adad", "unknown variant 'adad'; known: full, adda, cycada, mcd, m3sda, odd-source"),
        ("mnist-usps@pda", "'pda' is defined for the domains of office31 only"),
        ("office31:amazon-webcam@adda", "mnist-usps, usps-mnist and svhn-mnist only"),
        ("office31:amazon-webcma", "unknown domain 'office31:webcma'.*Did you mean 'office31:webcam'"),
        ("office-home:real-world-arts", "unknown domain 'office-home:arts'.*Did you mean 'office-home:art'"),
        ("office-home:art-art", "target 'office-home:art' is also a source"),
        ("amazon-webcam", "unknown domain 'amazon'"),
        ("office32:amazon-webcam", "unknown domain 'office32:amazon'.*Did you mean 'office31:amazon'"),
        ("office31:", "unknown domain 'office31:'"),
        ("mnist-usps@", "unknown variant ''"),
        ("mnist-mnist_m@adda", "mnist-usps, usps-mnist and svhn-mnist only"),
        ("mnist+usps-mnist_m@cycada", "'cycada' is defined for mnist-usps, usps-mnist and svhn-mnist only"),
        ("mnist-svhn@mcd", "'mcd' is defined for mnist-usps, usps-mnist and svhn-mnist only"),
        (
            "office31:amazon-webcam@m3sda",
            "mnist, usps, mnist_m, svhn, syn and digit-five only, not for office31:amazon",
        ),
        ("embedded:optical@m3sda", "not for embedded:plain"),
        ("office31:amazon-webcam@odd-target", "digits only, not for office31:amazon"),
        ("digit-five:mnistm", "unknown domain 'digit-five:mnistm'.*Did you mean 'digit-five:mnist_?m?'"),
        ("embedded:optical@adda", "mnist-usps, usps-mnist and svhn-mnist only"),
    ],
)
def test_a_wrong_name_says_what_is_known(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_spec(spec)


def test_contradicting_or_absent_arguments_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DYNCONV_DATA", raising=False)
    with pytest.raises(DataError, match="exclude each other"):
        load_protocol("mnist-usps", source=["a=b"])
    with pytest.raises(DataError, match="no data chosen"):
        load_protocol(None)
    with pytest.raises(DataError, match="no data chosen"):
        load_protocol(None, source=["a=b"])
    with pytest.raises(DataError, match="--data-root, or set DYNCONV_DATA"):
        load_protocol("mnist-usps")
    with pytest.raises(DataError, match="is no folder"):
        load_protocol("mnist-usps", data_root=tmp_path / "nowhere")
    with pytest.raises(DataError, match="image_size: expected 1 or more, got 0"):
        load_protocol("embedded:optical", image_size=0)
    with pytest.raises(DataError, match="source_limit: expected 1 or more, got 0"):
        load_protocol("embedded:optical", source_limit=0)
    with pytest.raises(DataError, match="target_limit: expected 1 or more, got -3"):
        load_protocol("embedded:optical", target_limit=-3)
    with pytest.raises(DataError, match="channels: expected 1 or 3, got 2"):
        load_protocol("embedded:optical", channels=2)


def test_a_known_domain_to_evaluate_needs_the_networks_classes() -> None:
    digits = tuple("0123456789")
    assert load_domain("embedded:optical", classes=digits).name == "optical"
    with pytest.raises(DataError, match="the network has cat, dog"):
        load_domain("embedded:optical", classes=("cat", "dog"))
    with pytest.raises(DataError, match="unknown domain"):
        load_domain("nothing", classes=digits)
    assert "embedded:optical" in known_domains()


def test_an_embedded_limit_keeps_the_classes_shares_for_a_source_and_ignores_labels_for_a_target(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"cache_dir": tmp_path, "image_size": 8}
    whole = load_protocol("embedded:plain-optical", **options)
    limited = load_protocol("embedded:plain-optical", source_limit=100, target_limit=100, **options)
    source, target = limited.sources[0], limited.target
    assert torch.bincount(source.train.labels).tolist() == [10] * 10
    assert torch.bincount(target.train.labels).tolist() != [10] * 10
    assert len(target.train) == 100
    assert target.test is not None and whole.target.test is not None
    assert len(target.test) == len(whole.target.test)
    assert load_protocol("embedded:plain-optical", source_limit=10**6, **options).counts() == whole.counts()
    thin = load_protocol("embedded:plain-optical@even-source", **options).sources[0].train.labels
    assert torch.bincount(thin).tolist() == [100, 200] * 5


def test_the_papers_protocols_are_names_that_load_protocol_knows() -> None:
    known = known_protocols()
    names = [each.name for each in known]
    assert len(set(names)) == len(names)
    for each in known:
        assert parse_spec(each.name) == (each.sources, each.target, each.variant)
        assert set(each.counts) == {*each.sources, each.target}
        assert each.paper
    for start, count in (
        ("digit-five:", 5),
        ("office31:", 12),
        ("office-home:", 12),
        ("visda2017:", 1),
        ("domainnet:", 36),
        ("domainnet-cleaned:", 36),
        ("pacs:", 4),
    ):
        assert sum(name.startswith(start) for name in names) == count


@pytest.mark.parametrize(
    ("name", "domain", "counts"),
    [
        ("mnist-usps@adda", "mnist", {"train": 2000, "test": 10000}),
        ("usps-mnist@mcd", "usps", {"train": 1800, "test": 2007}),
        ("svhn-mnist@cycada", "svhn", {"train": 73257, "test": 26032}),
        ("digit-five:syn", "digit-five:usps", {"train": 29752, "test": 1860}),
        ("digit-five:usps", "digit-five:svhn", {"train": 25000, "test": 9000}),
        ("mnist-usps@odd-target", "usps", {"train": 5538, "test": 2007}),
        ("mnist-usps@odd-target", "mnist", {"train": 60000, "test": 10000}),
        ("office31:amazon-webcam@pda", "office31:webcam", {"all": 295}),
        ("office31:amazon-webcam@pda", "office31:amazon", {"all": 2817}),
        ("domainnet-cleaned:clipart", "domainnet-cleaned:sketch", {"train": 48212, "test": 20916}),
    ],
)
def test_the_papers_protocols_have_their_counts(name: str, domain: str, counts: dict[str, int]) -> None:
    (known,) = (each for each in known_protocols() if each.name == name)
    assert dict(known.counts[domain]) == counts


@pytest.mark.parametrize("spec", ["uspss", "embedded:optcal"])
def test_an_unknown_domain_is_answered_in_the_words_of_eval(spec: str) -> None:
    with pytest.raises(DataError, match="--domain: unknown domain .*Did you mean.*--domain NAME=DIR") as caught:
        load_domain(spec, classes=("0", "1"))
    assert "protocol" not in str(caught.value) and "--source" not in str(caught.value)
