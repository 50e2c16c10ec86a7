from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from publishers_files import write_domainnet

from dynconv.data import DataError, ImageFiles, load_domain, load_protocol, parse_spec
from dynconv.data.domainnet import CLASSES, DOMAINS
from dynconv.data.image_sets import IMAGE_SETS, list_image_set


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All classes and domains, two training images and one test image of each; known as the published counts."""
    place = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name, known in write_domainnet(place).items():
            patch.setitem(IMAGE_SETS, name, known)
        yield place


@pytest.fixture
def painting_list(root: Path) -> Iterator[Path]:
    """The cleaned training list of paintings, put back after a test that spoils it."""
    file = root / "domainnet" / "cleaned" / "painting_train.txt"
    text = file.read_text()
    yield file
    file.write_text(text)


def read_painting(root: Path) -> None:
    list_image_set("domainnet-cleaned", ("painting",), root)


def test_the_classes_are_numbered_as_in_the_publishers_lists() -> None:
    assert len(set(CLASSES)) == 345
    assert [CLASSES.index(name) for name in ("aircraft_carrier", "syringe", "t-shirt", "zigzag")] == [0, 300, 327, 344]


def test_the_published_counts_are_those_of_the_publishers_page() -> None:
    original = (48837, 53201, 75759, 172500, 175327, 70386)
    cleaned = (48129, 51605, 72266, 172500, 172947, 69128)
    for name, counts in (("domainnet", original), ("domainnet-cleaned", cleaned)):
        assert IMAGE_SETS[name].counts == dict(zip(DOMAINS, counts, strict=True))


def test_one_domain_is_the_target_of_the_other_five_and_every_pair_has_a_name() -> None:
    sources, target, _ = parse_spec("domainnet:clipart")
    assert target == "domainnet:clipart"
    assert sources == tuple(f"domainnet:{name}" for name in DOMAINS[1:])
    for collection in ("domainnet", "domainnet-cleaned"):
        pairs = {(a, b) for a in DOMAINS for b in DOMAINS if a != b}
        assert len(pairs) == 30
        for a, b in pairs:
            assert parse_spec(f"{collection}:{a}-{b}")[:2] == ((f"{collection}:{a}",), f"{collection}:{b}")


def test_the_published_lists_divide_sources_and_target_alike(root: Path) -> None:
    protocol = load_protocol("domainnet:sketch-clipart", data_root=root, image_size=8, memory_limit=0)
    assert protocol.counts() == {name: {"train": 690, "test": 345} for name in ("sketch", "clipart")}
    assert protocol.classes == CLASSES
    for domain in (*protocol.sources, protocol.target):
        assert domain.test is not None
        assert domain.train.labels.tolist() == [label for label in range(345) for _ in range(2)]
        assert domain.test.labels.tolist() == list(range(345))
        images = domain.test.images
        assert isinstance(images, ImageFiles)
        assert {path.parent.parent.name for path in images.paths} == {domain.name}


def test_every_label_is_that_of_its_folder(root: Path) -> None:
    for name in ("domainnet", "domainnet-cleaned"):
        for listing in list_image_set(name, DOMAINS, root):
            assert listing.test is not None
            for path, label in (*listing.train, *listing.test):
                assert (path.parent.name, path.parent.parent.name) == (CLASSES[label], listing.name)


def test_the_cleaned_lists_may_lack_what_they_are_known_to_lack(root: Path) -> None:
    (painting,) = list_image_set("domainnet-cleaned", ("painting",), root)
    assert painting.test is not None
    found = [{label for _, label in rows} for rows in (painting.train, painting.test)]
    assert [set(range(345)) - labels for labels in found] == [{CLASSES.index("t-shirt")}, {CLASSES.index("syringe")}]
    (original,) = list_image_set("domainnet", ("painting",), root)
    assert {label for _, label in original.train} == set(range(345))


def test_lists_may_lie_beside_the_folders_and_are_told_apart_by_their_counts(root: Path, tmp_path: Path) -> None:
    (tmp_path / "domainnet").mkdir()
    (tmp_path / "domainnet" / "painting").symlink_to(root / "domainnet" / "painting")
    for split in ("train", "test"):
        text = (root / "domainnet" / "cleaned" / f"painting_{split}.txt").read_text()
        (tmp_path / "domainnet" / f"painting_{split}.txt").write_text(text)
    (listing,) = list_image_set("domainnet-cleaned", ("painting",), tmp_path)
    assert len(listing.train) == 688
    with pytest.raises(DataError) as caught:
        list_image_set("domainnet", ("painting",), tmp_path)
    message = str(caught.value)
    assert "painting: expected 690 training and 345 test images, found lists of 688 training and 344 test" in message
    assert "those of DomainNet (cleaned lists): read them as domainnet-cleaned:painting" in message
    assert "the train list lacks t-shirt" in message


def test_missing_folders_and_lists_say_which_where_and_how_to_get_them(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_protocol("domainnet-cleaned:real-sketch", data_root=tmp_path)
    message = str(caught.value)
    place = tmp_path / "domainnet"
    assert f"not found below {tmp_path}: domainnet/real, domainnet/sketch, " in message
    assert "domainnet/cleaned/real_train.txt or domainnet/real_train.txt" in message
    assert f"Expected layout: {place / 'real'}/CLASS/IMAGE" in message
    assert "https://ai.bu.edu/M3SDA" in message and "put the lists in domainnet/cleaned" in message
    assert "clipart" not in message.split("To get it")[0]


def test_a_list_that_lost_a_class_says_which(root: Path, painting_list: Path) -> None:
    rows = painting_list.read_text().splitlines()
    painting_list.write_text("\n".join(row for row in rows if not row.endswith(" 7")) + "\n")
    with pytest.raises(DataError, match="expected 688 training .* found lists of 686 .*; the train list lacks anvil"):
        read_painting(root)


def test_spoilt_lists_name_the_line(root: Path, painting_list: Path) -> None:
    text = painting_list.read_text()
    for spoilt, message in [
        (text.replace(" 0\n", "\n", 1), 'line 1: expected "DOMAIN/CLASS/IMAGE number", got'),
        (text.replace(" 1\n", " one\n", 1), "line 3: the label 'one' is no class: expected 0 to 344"),
        (text.replace(" 1\n", " 345\n", 1), "line 3: the label '345' is no class: expected 0 to 344"),
        (text.replace(" 1\n", " 2\n", 1), "line 3: .* has the label 2, which is alarm_clock"),
        ("\n", "lists no image"),
        (text.replace("_000001", "_900001", 2), "2 of 688 images that .* lists are missing .*: painting/aircraft"),
    ]:
        painting_list.write_text(spoilt)
        with pytest.raises(DataError, match=message):
            read_painting(root)
    painting_list.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match="is no text file"):
        read_painting(root)


def test_a_domain_is_evaluated_on_its_test_list(root: Path) -> None:
    domain = load_domain("domainnet:real", classes=CLASSES, data_root=root, image_size=8, memory_limit=0)
    assert domain.test is not None
    assert len(domain.test) == 345
