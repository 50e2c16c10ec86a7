from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dynconv.data import DataError, ImageFiles, image_sets, load_domain, load_protocol
from dynconv.data.image_sets import IMAGE_SETS, PDA_CLASSES, PDA_COUNTS

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write `count` images per class of every domain of a set, in its layout, and publish these counts.

    The grey level of an image tells its class.
    """

    def make(name: str, count: int = 3, published: dict[str, int] | None = None) -> None:
        known = IMAGE_SETS[name]
        for folder in known.folders.values():
            for place, label in enumerate(known.classes):
                (tmp_path / folder / label).mkdir(parents=True)
                for index in range(count):
                    Image.new("RGB", (6, 5), (3 * place,) * 3).save(tmp_path / folder / label / f"{index}.jpg")
        counts = {**dict.fromkeys(known.folders, count * len(known.classes)), **(published or {})}
        splits = {domain: {"all": number} for domain, number in counts.items()}
        monkeypatch.setitem(IMAGE_SETS, name, replace(known, splits=splits))

    return make


@pytest.mark.parametrize(
    ("spec", "name", "classes"),
    [
        ("office31:amazon+dslr-webcam", "office31", 31),
        ("office-home:product-real-world", "office-home", 65),
        ("visda2017:train-validation", "visda2017", 12),
        ("pacs:photo", "pacs", 7),
    ],
)
def test_a_set_is_read_from_its_publishers_folders(
    write: Write, tmp_path: Path, spec: str, name: str, classes: int
) -> None:
    write(name, count=5)
    protocol = load_protocol(spec, data_root=tmp_path, image_size=8)
    assert protocol.name == spec
    assert len(protocol.classes) == classes
    assert protocol.classes == tuple(sorted(protocol.classes))
    assert protocol.target_classes == tuple(range(classes))
    source, target = protocol.sources[0], protocol.target
    assert source.test is not None and target.test is not None
    assert [len(split) for split in (source.train, source.test)] == [4 * classes, classes]
    assert len(target.train) == len(target.test) == 5 * classes
    for split in (source.train, source.test, target.test):
        levels = split.images_at(torch.arange(len(split)))[:, 0, 4, 4]
        assert int((levels.long() - 3 * split.labels).abs().max()) <= 1, "JPEG may be off by one"


def test_domains_are_called_by_their_own_names(write: Write, tmp_path: Path) -> None:
    write("office31")
    protocol = load_protocol("office31:dslr", data_root=tmp_path, image_size=8, source_limit=31, target_limit=40)
    assert protocol.counts() == {
        "amazon": {"train": 31, "test": 31},
        "webcam": {"train": 31, "test": 31},
        "dslr": {"train": 40, "test": 93},
    }


def test_other_counts_are_refused_with_those_of_every_domain(write: Write, tmp_path: Path) -> None:
    write("office31", published={"webcam": 795})
    with pytest.raises(DataError) as caught:
        load_protocol("office31:amazon-webcam", data_root=tmp_path)
    message = str(caught.value)
    assert "Office-31 is not the published set" in message
    assert "amazon: expected 93 images of 31 classes, found 93 of 31" in message
    assert "webcam: expected 795 images of 31 classes, found 93 of 31" in message
    assert "dslr" not in message
    assert "Saenko" in message and "--source NAME=DIR" in message


def test_missing_and_unknown_classes_are_named(write: Write, tmp_path: Path) -> None:
    write("visda2017")
    (tmp_path / "visda2017" / "train" / "bus").rename(tmp_path / "visda2017" / "train" / "coach")
    with pytest.raises(DataError, match="train: expected 36 .* missing classes: bus; unknown classes: coach"):
        load_protocol("visda2017:train-validation", data_root=tmp_path)


@pytest.mark.parametrize(
    ("spec", "folder", "publisher"),
    [
        ("office31:amazon-webcam", "office31/webcam/images", "domain_adaptation_images.tar.gz"),
        ("office-home:art-real-world", "OfficeHomeDataset_10072016/Real World", "OfficeHomeDataset_10072016.zip"),
        ("visda2017:train-validation", "visda2017/validation", "train.tar and validation.tar"),
        ("pacs:sketch-photo", "PACS/kfold/photo", "https://dali-dl.github.io/project_iccv2017.html"),
    ],
)
def test_missing_files_say_which_where_and_how_to_get_them(
    tmp_path: Path, spec: str, folder: str, publisher: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_protocol(spec, data_root=tmp_path)
    message = str(caught.value)
    assert f"{tmp_path / folder}" in message and publisher in message and "--data-root or DYNCONV_DATA" in message


def test_a_publishers_lists_beside_the_class_folders_are_no_classes(write: Write, tmp_path: Path) -> None:
    write("visda2017")
    write("pacs")
    (tmp_path / "visda2017" / "train" / "image_list.txt").write_text("aeroplane/0.jpg 0\n")
    (tmp_path / "PACS" / "kfold" / "art_painting_train_kfold.txt").write_text("art_painting/dog/0.jpg 1\n")
    (tmp_path / "PACS" / "kfold" / "photo" / "photo_test_kfold.txt").write_text("photo/dog/0.jpg 1\n")
    for spec in ("visda2017:train-validation", "pacs:art_painting-photo"):
        assert load_protocol(spec, data_root=tmp_path, image_size=8).classes


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_the_published_facts_agree_with_each_other(name: str) -> None:
    known = IMAGE_SETS[name]
    assert set(known.splits) == set(known.folders)
    assert len(set(known.classes)) == len(known.classes)
    for domain, splits in known.splits.items():
        assert set(splits) == ({"train", "test"} if known.lists else {"all"})
        for split, counts in known.per_class.get(domain, {}).items():
            assert len(counts) == len(known.classes)
            assert sum(counts) == splits[split]
    for splits in known.absent.values():
        assert {label for labels in splits.values() for label in labels} <= set(known.classes)


def test_partial_adaptation_keeps_ten_classes_of_the_target_at_their_places(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("office31", count=5)
    monkeypatch.setattr(image_sets, "PDA_COUNTS", {**PDA_COUNTS, "webcam": 50})
    protocol = load_protocol("office31:amazon-webcam@pda", data_root=tmp_path, image_size=8)
    assert protocol.variant == "pda"
    assert tuple(protocol.classes[place] for place in protocol.target_classes) == PDA_CLASSES
    assert len(protocol.classes) == 31
    target, source = protocol.target, protocol.sources[0]
    assert target.test is not None
    for split in (target.train, target.test):
        assert split.labels.unique().tolist() == list(protocol.target_classes)
        assert len(split) == 50
    assert source.train.labels.unique().numel() == 31
    with pytest.raises(DataError, match="dslr: the ten classes of partial adaptation hold 157 .* found 50"):
        load_protocol("office31:amazon-dslr@pda", data_root=tmp_path, image_size=8)


def test_a_set_that_does_not_fit_the_limit_stays_in_its_files(write: Write, tmp_path: Path) -> None:
    write("office31")
    protocol = load_protocol("office31:amazon-webcam", data_root=tmp_path, image_size=8, memory_limit=0)
    assert isinstance(protocol.sources[0].train.images, ImageFiles)
    assert isinstance(protocol.target.train.images, ImageFiles)


def test_one_domain_is_evaluated_on_all_its_images_if_the_network_has_its_classes(write: Write, tmp_path: Path) -> None:
    write("office31")
    known = IMAGE_SETS["office31"].classes
    domain = load_domain("office31:webcam", classes=known, data_root=tmp_path, image_size=8)
    assert domain.name == "webcam"
    assert domain.test is not None and len(domain.test) == 93
    with pytest.raises(DataError, match="the network has 0, 1"):
        load_domain("office31:webcam", classes=("0", "1"), data_root=tmp_path / "nowhere")


def test_the_published_office31_has_its_counts(data_root: Path) -> None:
    known = IMAGE_SETS["office31"]
    for listing in image_sets.list_image_set("office31", tuple(known.folders), data_root):
        labels = torch.tensor([label for _, label in listing.train])
        assert tuple(torch.bincount(labels).tolist()) == known.per_class[listing.name]["all"]
    protocol = load_protocol("office31:dslr-webcam", data_root=data_root, image_size=64)
    assert protocol.counts() == {"dslr": {"train": 399, "test": 99}, "webcam": {"train": 795, "test": 795}}
    for domain, count in PDA_COUNTS.items():
        source = "webcam" if domain == "amazon" else "amazon"
        partial = load_protocol(f"office31:{source}-{domain}@pda", data_root=data_root, image_size=8, memory_limit=0)
        assert partial.counts()[domain] == {"train": count, "test": count}
        assert torch.bincount(partial.target.train.labels, minlength=31).gt(0).sum() == 10
