from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dynconv.data import DataError, Protocol, load_domain, load_protocol
from dynconv.data.image_sets import PDA_CLASSES

Make = Callable[..., Path]
LEVELS = {name: 40 * place for place, name in enumerate(("cat", "dog", "eel", "fox"))}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write `count` images per class below tmp_path/NAME; the grey level of each tells its class's name."""

    def write(name: str, classes: str = "cat dog", count: int = 5) -> Path:
        for label in classes.split():
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("L", (8, 8), LEVELS.get(label, 0)).save(folder / f"{index}.png")
        return tmp_path / name

    return write


def load(sources: Path | list[Path], target: Path, **options: Any) -> Protocol:
    paths = sources if isinstance(sources, list) else [sources]
    arguments = [f"s{index}={path}" for index, path in enumerate(paths)]
    return load_protocol(None, source=arguments, target=f"t={target}", image_size=8, **options)


def names_shown(protocol: Protocol) -> list[set[tuple[str, int]]]:
    """Per domain the pairs of a label's name and the grey level of its images."""
    found = []
    for domain in (*protocol.sources, protocol.target):
        levels = domain.train.images_at(torch.arange(len(domain.train)))[:, 0, 4, 4].tolist()
        labels = [domain.classes[label] for label in domain.train.labels.tolist()]
        found.append(set(zip(labels, levels, strict=True)))
    return found


def test_differing_classes_are_listed_for_every_domain(make: Make) -> None:
    one, two, three = make("a"), make("b", "cat dog fox"), make("c", "cat eel")
    with pytest.raises(DataError) as caught:
        load([one, two], three)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the classes of the domains differ:"
    assert lines[1] == f"  s0 ({one}, 2 classes) lacks eel, fox"
    assert lines[2] == f"  s1 ({two}, 3 classes) lacks eel"
    assert lines[3] == f"  t ({three}, 2 classes) lacks dog, fox"
    assert "--classes" not in lines[4], "they share one class only, and the target has one of its own"


def test_the_error_names_the_choices_that_would_do(make: Make) -> None:
    with pytest.raises(DataError, match="--classes common takes the 2 that all have$"):
        load(make("a"), make("b", "cat dog fox"))
    with pytest.raises(DataError, match="lacks none(.|\n)*takes the 2 .*; --classes partial lets the target lack"):
        load(make("c", "cat dog fox"), make("d"))


def test_names_that_differ_in_spelling_only_are_called_so(make: Make) -> None:
    with pytest.raises(DataError, match="upper and lower case, spaces, '-' and '_' only: rename"):
        load(make("a", "cat sea_dog"), make("b", "Cat sea-dog"))


def test_numbers_in_a_list_against_names_of_folders_say_what_to_write(make: Make) -> None:
    folder = make("a")
    listing = folder / "list.txt"
    listing.write_text("cat/0.png 1\ncat/1.png 1\ndog/0.png 5\n")
    with pytest.raises(DataError, match=r"labels of t are numbers and those of s0 are names \(cat, dog\).*write the"):
        load(make("b"), listing)
    with pytest.raises(DataError, match="labels of s0 are numbers"):
        load(listing, make("c"))


def test_numbers_from_one_and_with_gaps_are_names_like_others(make: Make) -> None:
    folder = make("a")
    listing = folder / "list.txt"
    listing.write_text(
        "".join(f"{name}/{index}.png {label}\n" for name, label in (("cat", 1), ("dog", 5)) for index in range(4))
    )
    target = folder / "target.txt"
    target.write_text(listing.read_text())
    protocol = load(listing, target)
    assert protocol.classes == ("1", "5")
    assert protocol.target.train.labels.tolist() == [0] * 4 + [1] * 4


def test_common_takes_the_classes_that_all_have_and_says_what_it_leaves_out(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = make("a", "cat dog eel"), make("b", "cat dog fox"), make("c", "dog cat", count=3)
    with caplog.at_level(logging.WARNING):
        protocol = load([one, two], three, class_choice="common")
    assert protocol.classes == ("cat", "dog")
    assert protocol.partial is None
    assert all(domain.classes == ("cat", "dog") for domain in protocol.sources)
    assert protocol.counts() == {
        "s0": {"train": 8, "test": 2},
        "s1": {"train": 8, "test": 2},
        "t": {"train": 6, "test": 6},
    }
    assert names_shown(protocol) == [{("cat", 0), ("dog", 40)}] * 3
    assert caplog.messages == [
        "s0: 5 images of classes that not all domains have are left out: eel",
        "s1: 5 images of classes that not all domains have are left out: fox",
    ]


def test_common_limits_published_splits_too(make: Make) -> None:
    source, target = make("a/train", "cat dog eel", count=3).parent, make("b", "dog eel fox")
    make("a/test", "cat dog eel", count=2)
    protocol = load(source, target, class_choice="common")
    assert protocol.counts()["s0"] == {"train": 6, "test": 4}
    assert names_shown(protocol) == [{("dog", 40), ("eel", 80)}] * 2
    test = protocol.sources[0].test
    assert test is not None
    assert test.labels.tolist() == [0, 0, 1, 1]


def test_common_needs_two_classes_and_images_in_every_split(make: Make) -> None:
    with pytest.raises(DataError, match="share only cat of their classes, expected two or more:\n  s0 .* lacks fox"):
        load(make("a", "cat dog"), make("b", "cat fox"), class_choice="common")
    with pytest.raises(DataError, match="share none of their classes"):
        load(make("c", "cat dog"), make("d", "eel fox"), class_choice="common")
    target = make("e/train", "cat dog fox").parent
    make("e/test", "fox")
    with pytest.raises(DataError, match="t: .* has no test image of the classes cat, dog"):
        load(make("f", "cat dog"), target, class_choice="common")


def test_partial_lets_the_target_lack_classes_and_keeps_the_places_of_the_others(make: Make) -> None:
    protocol = load([make("a", "cat dog eel"), make("b", "cat dog eel")], make("c", "cat eel"), class_choice="partial")
    assert protocol.classes == ("cat", "dog", "eel")
    assert protocol.partial == protocol.target_classes == (0, 2)
    assert names_shown(protocol)[-1] == {("cat", 0), ("eel", 80)}
    assert protocol.target.train.labels.unique().tolist() == [0, 2]


def test_partial_with_all_classes_there_is_as_any_other(make: Make) -> None:
    assert load(make("a"), make("b"), class_choice="partial").partial is None


def test_partial_wants_the_same_classes_in_all_sources_and_none_beside_them(make: Make) -> None:
    one, two, three = make("a", "cat dog"), make("b", "cat dog eel"), make("c", "cat dog fox")
    with pytest.raises(DataError, match="sources need the same classes(.|\n)*s0 .* lacks eel(.|\n)*--classes common"):
        load([one, two], make("d", "cat dog"), class_choice="partial")
    with pytest.raises(DataError, match="the target none beside them(.|\n)*s0 .* lacks fox"):
        load(one, three, class_choice="partial")


def test_a_choice_is_of_own_folders_and_known(make: Make) -> None:
    with pytest.raises(DataError, match="--classes common is for own folders .*embedded:optical has its published"):
        load_protocol("embedded:optical", class_choice="common")
    with pytest.raises(DataError, match="classes: expected one of same, common, partial, got 'both'"):
        load(make("a"), make("b"), class_choice="both")


def test_a_domain_to_evaluate_leaves_out_what_common_left_out(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    folder = make("a", "cat dog fox")
    with pytest.raises(DataError, match="does not know: fox"):
        load_domain(f"new={folder}", classes=("cat", "dog"), image_size=8)
    domain = load_domain(f"new={folder}", classes=("cat", "dog"), class_choice="common", image_size=8)
    assert domain.test is not None
    assert domain.test.labels.tolist() == [0] * 5 + [1] * 5
    assert "new: 5 images of classes" in caplog.text
    lacking = load_domain(f"new={make('b', 'dog')}", classes=("cat", "dog"), class_choice="common", image_size=8)
    assert lacking.test is not None
    assert lacking.test.labels.tolist() == [1] * 5


def test_own_folders_of_office31_with_a_list_of_ten_classes_are_its_partial_protocol(
    data_root: Path, tmp_path: Path
) -> None:
    amazon, webcam = (data_root / "office31" / name / "images" for name in ("amazon", "webcam"))
    listing = tmp_path / "ten.txt"
    images = sorted(path for name in PDA_CLASSES for path in (webcam / name).iterdir())
    listing.write_text("".join(f"{path} {path.parent.name}\n" for path in images))
    own = load(amazon, listing, class_choice="partial", memory_limit=0)
    named = load_protocol("office31:amazon-webcam@pda", data_root=data_root, image_size=8, memory_limit=0)
    assert own.classes == named.classes
    assert own.partial == named.partial
    assert torch.equal(own.target.train.labels, named.target.train.labels)
    assert torch.equal(own.sources[0].train.labels, named.sources[0].train.labels)
