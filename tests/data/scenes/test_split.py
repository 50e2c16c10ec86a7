"""Splits of scenes: images and label maps that stay together whatever is done to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from publishers_scenes import write_camvid, write_cityscapes, write_gta5, write_synthia

from dynconv.data import DataError, DomainBatches, source_validation_split
from dynconv.data.files import Decoding
from dynconv.data.scenes import reading
from dynconv.data.scenes.label_maps import CITYSCAPES_16, CITYSCAPES_19, SYNTHIA_22
from dynconv.data.scenes.protocol import SceneOptions, load_scene_domain, load_scene_protocol
from dynconv.data.scenes.split import SceneSplit

SIZE = (24, 32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_camvid(folder / "day", images=7, size=SIZE)
    write_camvid(folder / "dusk", images=5, size=SIZE, seed=1)
    return folder


def options(crop: tuple[int, int] | None = None, **fields: object) -> SceneOptions:
    return SceneOptions(Decoding(0, cache="memory"), crop=crop, **fields)  # type: ignore[arg-type]  # any field


def split_of(root: Path, crop: tuple[int, int] | None = None) -> SceneSplit:
    protocol = load_scene_protocol(None, options(crop), source=[f"a={root / 'day'}"], target=f"b={root / 'dusk'}")
    found = protocol.sources[0].train
    assert isinstance(found, SceneSplit)
    return found


def told_by_colour(images: torch.Tensor) -> torch.Tensor:
    """Where an image is sky, by its colour: (B, H, W)."""
    return (images[:, 2].int() - images[:, 0].int()) > 65


def test_a_split_gives_images_with_their_maps(root: Path) -> None:
    split = split_of(root)
    places = torch.tensor([4, 1])
    images, labels = split.labelled_at(places)
    assert images.shape == (2, 3, *SIZE) and labels.shape == (2, *SIZE)
    assert images.dtype == labels.dtype == torch.uint8
    assert torch.equal(split.images_at(places), images)
    assert torch.equal(split.label_maps_at(places), labels)
    part = split.subset(places)
    assert torch.equal(part.labelled_at(torch.tensor([0, 1]))[1], labels)
    assert torch.equal(part.files.native_labels([1])[0], labels[1])
    assert len(part) == 2 and split.label_shape == SIZE


@pytest.mark.parametrize(("crop", "augmentation"), [(None, "flip"), ((16, 24), "crop-flip"), ((16, 24), "none")])
def test_images_and_maps_are_cropped_and_mirrored_together(
    root: Path, crop: tuple[int, int] | None, augmentation: str
) -> None:
    split = split_of(root, crop)
    every = torch.arange(len(split)).repeat(8)
    generator = np.random.default_rng(0)
    images, labels = split.drawn_at(every, augmentation, generator, (0, len(every)))  # type: ignore[arg-type]
    assert labels.shape[1:] == images.shape[2:] == (crop or SIZE)
    known = labels != 255
    # The colours are noisy; of maps that were moved otherwise than their images a tenth would differ.
    assert (told_by_colour(images) == (labels == 0))[known].float().mean() > 0.999
    plain, _ = split.labelled_at(every)
    if augmentation == "flip":
        flipped = [torch.equal(image, other.flip(-1)) for image, other in zip(images, plain, strict=True)]
        same = [torch.equal(image, other) for image, other in zip(images, plain, strict=True)]
        assert all(a != b for a, b in zip(flipped, same, strict=True)) and 10 < sum(flipped) < 46
    if augmentation == "crop-flip":
        # Of one scene, drawn eight times, hardly two parts are the same.
        assert len({image.numpy().tobytes() for image in images[:: len(split)]}) > 4
    if augmentation == "none":
        assert torch.equal(images, plain[:, :, 4:20, 4:28])


def test_processes_draw_the_parts_of_one_batch(root: Path) -> None:
    def batches(**share: int) -> DomainBatches:
        protocol = load_scene_protocol(
            None, options((16, 24)), source=[f"a={root / 'day'}"], target=f"b={root / 'dusk'}"
        )
        return DomainBatches(protocol, batch_size=4, seed=3, augmentation="crop-flip", **share)

    whole = batches()
    parts = [batches(rank=rank, world_size=2) for rank in (0, 1)]
    for _ in range(3):
        one, halves = next(whole), [next(part) for part in parts]
        assert one.source.labels.dtype == torch.int64
        assert one.source.labels.shape == (4, 16, 24) and one.source.images.shape == (4, 3, 16, 24)
        assert torch.equal(one.source.labels, torch.cat([half.source.labels for half in halves]))
        assert torch.equal(one.source.images, torch.cat([half.source.images for half in halves]))
        assert torch.equal(one.target.images, torch.cat([half.target.images for half in halves]))


def test_scenes_are_held_out_for_validation_and_none_is_lost(root: Path) -> None:
    protocol = load_scene_protocol(None, options(), source=[f"a={root / 'day'}"], target=f"b={root / 'dusk'}")
    training, (held_out,) = source_validation_split(protocol, seed=0)
    kept = training.sources[0].train
    assert isinstance(kept, SceneSplit) and isinstance(held_out, SceneSplit)
    assert sorted([*kept.files.paths, *held_out.files.paths]) == sorted(split_of(root).files.paths)
    assert len(held_out) == 1


def test_without_a_test_split_a_source_is_divided_and_a_target_is_whole(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        place = write_camvid(tmp_path / name, images=10, size=SIZE)
        for folder in ("test", "testannot"):
            for file in (place / folder).iterdir():
                file.unlink()
            (place / folder).rmdir()
    protocol = load_scene_protocol(None, options(), source=[f"a={tmp_path / 'a'}"], target=f"b={tmp_path / 'b'}")
    assert protocol.counts() == {"a": {"train": 8, "test": 2}, "b": {"train": 10, "test": 10}}
    assert protocol.target.train is protocol.target.test
    limited = load_scene_protocol(
        None, options(), source=[f"a={tmp_path / 'a'}"], target=f"b={tmp_path / 'b'}", source_limit=3, target_limit=4
    )
    assert limited.counts() == {"a": {"train": 3, "test": 2}, "b": {"train": 4, "test": 10}}


def test_domains_of_other_classes_are_refused(root: Path, tmp_path: Path) -> None:
    other = write_camvid(tmp_path / "other", images=2, size=SIZE)
    lines = (other / "classes.txt").read_text().splitlines()
    (other / "classes.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(DataError, match="a has the classes sky, .* and b has .*same, in the same order"):
        load_scene_protocol(None, options(), source=[f"a={root / 'day'}"], target=f"b={other}")
    with pytest.raises(DataError, match="the network has x, y"):
        load_scene_domain(f"b={other}", options(), classes=("x", "y"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GTA5, SYNTHIA and Cityscapes, and a folder of scenes for each list of classes."""
    place = tmp_path_factory.mktemp("sets")
    for name, write in (("gta5", write_gta5), ("synthia", write_synthia), ("cityscapes", write_cityscapes)):
        write(place / name, 5)
    for name, classes in (("own22", SYNTHIA_22), ("own2", ("sky", "road"))):
        lines = [*classes, *["void"] * (12 - len(classes))]
        (write_camvid(place / name, images=5, size=SIZE) / "classes.txt").write_text("\n".join(lines))
    return place


@pytest.mark.parametrize(
    ("source", "target", "classes"),
    [
        (("gta5",), "cityscapes", CITYSCAPES_19),
        (("synthia",), "cityscapes", CITYSCAPES_16),
        # Whichever is named first, the classes are those of `--protocol gta5+synthia-cityscapes`.
        (("gta5", "synthia"), "cityscapes", CITYSCAPES_19),
        (("synthia", "gta5"), "cityscapes", CITYSCAPES_19),
        # Own scenes have the classes that they have.
        (("synthia", "own22"), "cityscapes", SYNTHIA_22),
        (("synthia",), "own22", SYNTHIA_22),
    ],
)
def test_known_sets_are_loaded_in_a_setting_that_all_share(
    source: tuple[str, ...], target: str, classes: tuple[str, ...], sets: Path
) -> None:
    *sources, goal = (f"{name}={sets / name}" if name.startswith("own") else name for name in (*source, target))
    protocol = load_scene_protocol(None, options(size=(8, 16)), source=sources, target=goal, data_root=sets)
    assert {domain.classes for domain in (*protocol.sources, protocol.target)} == {classes}


def test_known_sets_without_a_common_setting_are_refused(root: Path, sets: Path) -> None:
    with pytest.raises(DataError, match=r"gta5 are those of the settings 19, 16, 13, as in --protocol \.\.\.@16"):
        load_scene_protocol(None, options(), source=["gta5"], target=f"own={sets / 'own2'}", data_root=sets)
    with pytest.raises(DataError, match="--source/--target: cityscapes has other classes than camvid_day"):
        load_scene_protocol(None, options(), source=["camvid_day"], target="cityscapes", data_root=sets)
    with pytest.raises(DataError, match="--source/--target: the target 'gta5' is also a source"):
        load_scene_protocol(None, options(), source=["gta5"], target="gta5", data_root=sets)


def test_scenes_that_are_kept_resized_in_another_way_are_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = split_of(root).files
    before = files.recipe()
    monkeypatch.setattr(reading, "LABELS_RESIZED", "nearest")
    assert files.recipe() != before


def test_an_unknown_name_or_a_set_of_images_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="usps: its images have one class each"):
        load_scene_protocol(None, options(), source=[f"a={root / 'day'}"], target="usps")
    with pytest.raises(DataError, match="'mnist-usps': its images have one class each"):
        load_scene_protocol("mnist-usps", options())
    with pytest.raises(DataError, match="--stylised .* takes the place of gta5's images"):
        load_scene_protocol(None, options(stylised=root), source=[f"a={root / 'day'}"], target=f"b={root / 'dusk'}")
