from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynconv.data import DataError, known_domains, load_domain, load_protocol, parse_spec


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
        ("mnits-usps", "unknown domain 'mnits'.*Did you mean 'mnist'.*Known: mnist, usps, mnist_m, embedded:optical"),
        ("embedded:optcal", "Did you mean 'embedded:optical'"),
        ("plain-optical", "unknown domain 'plain'"),
        ("mnist+mnist-usps", "named twice among the sources: mnist"),
        ("mnist-mnist", "target 'mnist' is also a source"),
        ("mnist-usps@adad", "unknown variant 'adad'; known: full, adda, pda"),
        ("mnist-usps@pda", "'pda' is defined for the domains of office31 only"),
        ("office31:amazon-webcam@adda", "mnist-usps and usps-mnist only"),
        ("office31:amazon-webcma", "unknown domain 'office31:webcma'.*Did you mean 'office31:webcam'"),
        ("office-home:real-world-arts", "unknown domain 'office-home:arts'.*Did you mean 'office-home:art'"),
        ("office-home:art-art", "target 'office-home:art' is also a source"),
        ("amazon-webcam", "unknown domain 'amazon'"),
        ("office32:amazon-webcam", "unknown domain 'office32:amazon'.*Did you mean 'office31:amazon'"),
        ("office31:", "unknown domain 'office31:'"),
        ("mnist-usps@", "unknown variant ''"),
        ("mnist-mnist_m@adda", "mnist-usps and usps-mnist only"),
        ("embedded:optical@adda", "mnist-usps and usps-mnist only"),
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
    from dynconv.data.protocols import _bounded

    domain = load_domain("embedded:optical", classes=tuple("0123456789"), image_size=8)
    source, target = (_bounded(domain, 100, stratified=each) for each in (True, False))
    assert torch.bincount(source.train.labels).tolist() == [10] * 10
    assert torch.bincount(target.train.labels).tolist() != [10] * 10
    assert len(target.train) == 100
    assert source.test is domain.test
    assert _bounded(domain, 10**6, stratified=True) is domain


@pytest.mark.parametrize("spec", ["uspss", "embedded:optcal"])
def test_an_unknown_domain_is_answered_in_the_words_of_eval(spec: str) -> None:
    with pytest.raises(DataError, match="--domain: unknown domain .*Did you mean.*--domain NAME=DIR") as caught:
        load_domain(spec, classes=("0", "1"))
    assert "protocol" not in str(caught.value) and "--source" not in str(caught.value)
