"""Folders of translated images, and own sources beside known domains."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from dynconv.data import DataError, load_domain, load_protocol
from dynconv.data.check import Checking
from dynconv.data.check_names import check_own
from dynconv.data.draws import uniform_draw
from dynconv.data.folders import list_images
from dynconv.data.translated import read_translated, translated_name

Write = Callable[..., Path]
DIGITS = tuple("0123456789")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write small images of the given names below tmp_path/FOLDER; the grey level of each is its place."""

    def make(*names: str, folder: str = "fakes") -> Path:
        for place, name in enumerate(names):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), place).save(file)
        return tmp_path / folder

    return make


def digits_of(count: int) -> list[str]:
    return [f"{index % 10}_{index}_fake_B.png" for index in range(count)]


def test_the_published_layout_has_the_labels_of_its_names(write: Write) -> None:
    folder = write("7_10_fake_B.png", "7_9_fake_B.jpg", "0_3_fake_B.PNG", "10_1_fake_B.png")
    (folder / "stylised.json").write_text("{}")
    listing = list_images("s", folder)
    assert listing.classes == ("0", "7", "10")
    # By label and number, so that no file system decides the order.
    found = [(path.name, listing.classes[label]) for path, label in listing.train]
    assert found == [
        ("0_3_fake_B.PNG", "0"),
        ("10_1_fake_B.png", "10"),
        ("7_9_fake_B.jpg", "7"),
        ("7_10_fake_B.png", "7"),
    ]
    assert listing.test is None


def test_a_class_name_may_hold_what_parts_the_name(write: Write) -> None:
    folder = write(translated_name("desk_lamp", 4), translated_name("fake_B_2", 5), "bike_1_fake_B.png")
    assert list_images("s", folder).classes == ("bike", "desk_lamp", "fake_B_2")
    for label in ("a/b", "a\nb", "", ".a"):
        with pytest.raises(DataError, match=f"{re.escape(repr(label))} cannot be a part of a translated image's name"):
            translated_name(label, 0)


def test_one_direction_alone_is_read_whichever_it_is(write: Write) -> None:
    assert list_images("s", write("1_0_fake_A.png", "2_1_fake_A.png")).classes == ("1", "2")


def test_what_does_not_fit_is_counted_and_named(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    folder = write("1_0_fake_B.png", "2_1_fake_B.png", "1_0_real_A.png", "photo.jpg", "1_fake_B.png")
    (folder / "index.html").write_text("", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert len(list_images("s", folder).train) == 2
    assert "s: left out 3 of 5 images" in caplog.text
    assert "1_0_real_A.png, 1_fake_B.png, photo.jpg" in caplog.text
    assert f"s: passed over what is no image by its name in {folder}: 1 .html" in caplog.text


def test_mixed_layouts_are_refused(write: Write) -> None:
    both = write("1_0_fake_B.png", "2_1_fake_B.png", "cat/0.png", folder="both")
    with pytest.raises(DataError, match=r"s: .* holds 2 translated images .* and folders of images \(cat\)"):
        list_images("s", both)
    ways = write("1_0_fake_B.png", "1_0_fake_A.png", "2_1_fake_B.png", folder="ways")
    with pytest.raises(DataError, match=r"more than one direction \(1 of fake_A, 2 of fake_B\)"):
        list_images("s", ways)
    # A folder without an image is none of classes.
    (write("1_0_fake_B.png", folder="fine") / "web").mkdir()
    assert read_translated(write("1_0_fake_B.png", folder="fine")) is not None


def test_other_layouts_are_as_they_were(write: Write) -> None:
    folder = write("cat/0.png", "dog/0.png", "stray.png", folder="classes")
    assert read_translated(folder) is None
    assert list_images("s", folder).classes == ("cat", "dog")
    with pytest.raises(DataError, match="holds no folder: .* or translated images called LABEL_ID_fake_B.png"):
        list_images("s", write("0.png", folder="bare"))


def test_the_data_check_reads_the_layout(write: Write) -> None:
    folder = write("1_0_fake_B.png", "1_1_fake_B.png", "2_1_fake_B.png", "1_0_real_A.png")
    found = check_own(f"s={folder}", Checking())
    assert found.counts == {"all": {"1": 2, "2": 1}}
    assert found.findings.counts["stray files"] == 1
    mixed = check_own(f"s={write('1_0_fake_B.png', 'cat/0.png', folder='mixed')}", Checking())
    assert mixed.findings.counts["malformed layout"] == 1


def test_own_domains_stand_beside_a_known_one(write: Write) -> None:
    fakes = f"stylised={write(*digits_of(40))}"
    found = load_protocol(
        None, source=[fakes], target="embedded:optical", image_size=8, source_limit=20, target_limit=20
    )
    assert found.name == "stylised-optical"
    assert [domain.name for domain in (*found.sources, found.target)] == ["stylised", "optical"]
    assert found.classes == found.sources[0].classes == DIGITS
    optical = load_domain("embedded:optical", classes=DIGITS, image_size=8)
    assert optical.test is not None
    assert found.counts() == {
        "stylised": {"train": 20, "test": 10},
        "optical": {"train": 20, "test": len(optical.test)},
    }
    # A known target is drawn without a look at labels, a known source class by class.
    places = uniform_draw(len(optical.train), 20, 0)
    assert torch.equal(found.target.train.images_at(torch.arange(20)), optical.train.images_at(places))
    turned = load_protocol(None, source=["embedded:optical"], target=fakes, image_size=8, source_limit=30)
    assert torch.bincount(turned.sources[0].train.labels).tolist() == [3] * 10
    assert turned.counts()["stylised"] == {"train": 40, "test": 40}
    # The grey levels of the images tell which they are.
    levels = turned.target.train.images_at(torch.arange(40))[:, 0, 0, 0]
    assert torch.equal(levels.long() % 10, turned.target.train.labels)


def test_known_names_among_own_domains_are_checked(write: Write, tmp_path: Path) -> None:
    fakes = write(*digits_of(40))
    own = f"s={fakes}"
    with pytest.raises(DataError, match=r"--target: unknown domain 'embedded:optcal'.*Did you mean 'embedded:optical'"):
        load_protocol(None, source=[own], target="embedded:optcal", image_size=8)
    with pytest.raises(DataError, match="--classes common is for own folders: embedded:optical has"):
        load_protocol(None, source=[own], target="embedded:optical", class_choice="common", image_size=8)
    with pytest.raises(DataError, match=r"s \(.*, 2 classes\) lacks 0, "):
        few = write("1_0_fake_B.png", "2_0_fake_B.png", folder="few")
        load_protocol(None, source=[f"s={few}"], target="embedded:optical", image_size=8)
    with pytest.raises(DataError, match="the target 'optical' is also a source"):
        load_protocol(None, source=[f"optical={fakes}"], target="embedded:optical", image_size=8)
    # An empty data root: the known target is looked for there.
    with pytest.raises(DataError, match=r"usps: .*usps\.bz2"):
        load_protocol(None, source=[own], target="usps", image_size=8, data_root=tmp_path)
