from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.data import DataError, Protocol, load_domain, load_protocol

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write `count` images per class below tmp_path/NAME; the grey level of each tells its class and number."""

    def write(name: str, classes: str = "cat dog", count: int = 5) -> Path:
        for place, label in enumerate(classes.split()):
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("L", (9, 7), 100 * place + index).save(folder / f"{index}.png")
        return tmp_path / name

    return write


def load(source: Path | list[Path], target: Path, **options: Any) -> Protocol:
    paths = source if isinstance(source, list) else [source]
    arguments = [f"s{index}={path}" for index, path in enumerate(paths)]
    return load_protocol(None, source=arguments, target=f"t={target}", image_size=8, **options)


def levels(images: torch.Tensor) -> list[int]:
    return sorted(images[:, 0, 4, 4].tolist())


def test_a_folder_per_class_becomes_labelled_images_of_the_size_asked_for(make: Make) -> None:
    protocol = load(make("a"), make("b"))
    (source,) = protocol.sources
    assert protocol.name == "s0-t"
    assert protocol.classes == source.classes == ("cat", "dog")
    assert source.train.images.shape[1:] == (3, 8, 8)
    for split in (source.train, source.test):
        assert split is not None
        assert torch.equal(split.images[:, 1, 4, 4] >= 100, split.labels == 1)


def test_a_source_without_a_test_split_is_divided_and_a_target_is_whole(make: Make) -> None:
    protocol = load(make("a"), make("b"))
    source, target = protocol.sources[0], protocol.target
    assert source.test is not None and target.test is not None
    assert [torch.bincount(split.labels).tolist() for split in (source.train, source.test)] == [[4, 4], [1, 1]]
    every = [*range(5), *range(100, 105)]
    assert sorted(levels(source.train.images) + levels(source.test.images)) == every
    assert levels(target.train.images) == levels(target.test.images) == every


def test_published_train_and_test_folders_are_kept_apart(make: Make) -> None:
    source, target = make("a/train", count=3).parent, make("b/train", count=4).parent
    make("a/test", count=2)
    make("b/test", classes="dog", count=1)
    protocol = load(source, target)
    assert protocol.counts() == {"s0": {"train": 6, "test": 4}, "t": {"train": 8, "test": 1}}
    assert protocol.target.test is not None
    assert protocol.target.test.labels.tolist() == [1]


def test_a_list_file_reads_paths_relative_to_itself(make: Make) -> None:
    folder = make("a", count=2)
    (folder / "with space.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    listing = folder / "list.txt"
    listing.write_text("cat/0.png cat\n\ndog/1.png dog\nwith space.png cat\ndog/0.png\tdog\n")
    protocol = load(make("b"), listing)
    assert levels(protocol.target.train.images) == [0, 0, 100, 101]
    assert torch.bincount(protocol.target.train.labels).tolist() == [2, 2]


def test_numeric_classes_are_sorted_as_numbers(make: Make) -> None:
    names = " ".join(str(number) for number in (0, 1, 2, 10))
    assert load(make("a", names, 2), make("b", names, 2)).classes == ("0", "1", "2", "10")


def test_colour_images_keep_their_colours_and_grey_ones_are_asked_for_by_channels(make: Make) -> None:
    folder = make("a")
    for file in folder.glob("*/*.png"):
        Image.new("RGB", (9, 9), (200, 100, 50)).save(file)
    assert load(folder, make("b")).sources[0].train.images[0, :, 3, 3].tolist() == [200, 100, 50]
    grey = load(folder, make("c"), channels=1).sources[0].train.images
    assert grey.shape[1:] == (1, 8, 8)
    assert int(grey[0, 0, 3, 3]) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_a_picture_is_shown_upright_as_its_exif_orientation_says(make: Make) -> None:
    folder = make("a", count=2)
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    for file in folder.glob("*/*.png"):
        Image.fromarray(pixels).save(file, exif=exif)
    image = load(folder, make("b")).sources[0].train.images[0, 0]
    assert (int(image[1, 4]), int(image[6, 4])) == (0, 255)


def test_limits_bound_the_training_splits_alone(make: Make) -> None:
    protocol = load(make("a", count=20), make("b", count=20), source_limit=6, target_limit=7)
    source, target = protocol.sources[0], protocol.target
    assert torch.bincount(source.train.labels).tolist() == [3, 3]
    assert protocol.counts() == {"s0": {"train": 6, "test": 8}, "t": {"train": 7, "test": 40}}
    assert target.test is not None
    assert set(levels(target.train.images)) <= set(levels(target.test.images))


def test_a_domain_to_evaluate_takes_the_networks_labels_and_may_lack_classes(make: Make) -> None:
    domain = load_domain(f"new={make('a', 'dog')}", classes=("bird", "cat", "dog"), image_size=8)
    assert domain.test is not None
    assert domain.test.labels.tolist() == [2] * 5
    with pytest.raises(DataError, match="classes that the network does not know: fox"):
        load_domain(f"new={make('b', 'dog fox')}", classes=("bird", "cat", "dog"), image_size=8)


def test_an_unreadable_image_is_named(make: Make) -> None:
    folder = make("a")
    (folder / "cat" / "3.png").write_bytes((folder / "cat" / "3.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"cat/3\.png cannot be read"):
        load(make("b"), folder)


def test_sixteen_bit_images_are_refused_by_name(make: Make) -> None:
    folder = make("a")
    Image.fromarray(np.full((8, 8), 4000, dtype=np.uint16)).save(folder / "cat" / "3.png")
    with pytest.raises(DataError, match=r"cat/3\.png has I;16 pixels"):
        load(make("b"), folder)


def test_malformed_places_say_what_is_wrong(make: Make, tmp_path: Path) -> None:
    good = make("good")
    (tmp_path / "hollow").mkdir()
    make("nested/images")
    make("half/train")
    (make("bare") / "empty").mkdir()
    make("extra/train")
    make("extra/test", "cat dog fox")
    lists = {
        "short.txt": "justone\n",
        "absent.txt": "good/cat/0.png cat\nnowhere.png dog\n",
        "blank.txt": "\n\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.png").write_bytes((good / "cat" / "0.png").read_bytes())
    expectations = {
        "missing": "missing does not exist",
        "hollow": "holds no folder",
        "nested": r"class folder .*nested/images holds no image",
        "half": "'train' but none called 'test'",
        "bare": r"bare/empty holds no image",
        "extra": "lacks: fox",
        "short.txt": r"short\.txt, line 1: expected",
        "absent.txt": r"1 of 2 images that .*absent\.txt lists are missing .*: nowhere\.png \(line 2\)$",
        "blank.txt": "lists no image",
        "binary.png": "no text file",
    }
    for name, message in expectations.items():
        with pytest.raises(DataError, match=message):
            load(good, tmp_path / name)


def test_a_single_class_and_single_images_are_refused(make: Make) -> None:
    with pytest.raises(DataError, match="one class only"):
        load(make("a", "cat"), make("b", "cat"))
    with pytest.raises(DataError, match="one image per class"):
        load(make("c", count=1), make("d"))


def test_arguments_of_another_form_and_repeated_names_are_refused(make: Make) -> None:
    one, two = make("a"), make("b")
    for source, target, message in [
        ([str(one)], f"t={two}", "--source: expected NAME=DIR"),
        ([f"s={one}"], f"={two}", "--target: expected NAME=DIR"),
        ([f"s/t={one}"], f"t={two}", "letters, digits"),
        ([f"s={one}", f"s={two}"], f"t={two}", "named twice among the sources: s"),
        ([f"s={one}"], f"s={two}", "target 's' is also a source"),
        ([f"s={one}"], f"t={two / '..' / one.name}", "the target t and the source s are the same, .*: its labels"),
    ]:
        with pytest.raises(DataError, match=message):
            load_protocol(None, source=source, target=target)


def test_a_folder_without_a_name_is_told_to_be_given_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make("a").parent)
    with pytest.raises(DataError, match="--source: 'a' is no known domain; .* needs a name: --source NAME=a$"):
        load_protocol(None, source=["a"], target="t=a")
    with pytest.raises(DataError, match="'a' is no known domain; .*: --source NAME=DIR --target NAME=DIR$"):
        load_protocol("a-mnist")


def test_files_that_are_not_read_are_told_once_with_what_is(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    source, target = make("a"), make("b")
    for place in ("a/cat/one.gif", "a/cat/two.GIF", "a/dog/three.gif", "a/dog/photo.heic", "a/dog/notes"):
        (source.parent / place).write_bytes(b"")
    (source / "dog" / "more").mkdir()
    # Beside the classes there may be a list, and hidden files are no one's.
    (source / "list.txt").write_text("cat/0.png cat")
    (source / "cat" / ".thumbs.db").write_bytes(b"")
    protocol = load(source, target)
    assert len(protocol.sources[0].train) == 8
    assert caplog.messages == [
        f"s0: passed over what is no image by its name in {source}: 3 .gif, 1 folder, 1 without a suffix, 1 .heic; "
        "read are .bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp"
    ]


def test_of_many_suffixes_the_most_common_are_told(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    source = make("a")
    for number in range(9):
        (source / "cat" / f"x.{number}").write_bytes(b"")
    (source / "cat" / "y.8").write_bytes(b"")
    load(source, make("b"))
    assert "in " + str(source) + ": 2 .8, 1 .0, " in caplog.text and ", 3 more suffixes; read" in caplog.text


def test_an_error_for_want_of_images_says_what_is_there(make: Make, tmp_path: Path) -> None:
    source = make("a")
    (source / "eel").mkdir()
    (source / "eel" / "1.gif").write_bytes(b"")
    with pytest.raises(DataError, match=r"eel holds no image .* No images by their names: 1 \.gif$"):
        load(source, make("b"))
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "1.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"flat holds no folder: .* No images by their names: 1 \.heic$"):
        load(make("c"), tmp_path / "flat")
