"""The files of driving scenes in their publishers' layouts: which are found, how they are divided, and what is told
of those that are not as published."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from publishers_scenes import BANDS, write_camvid, write_cityscapes, write_gta5, write_stylised, write_synthia
from scipy.io import savemat

from dynconv.data.errors import DataError
from dynconv.data.scenes.label_maps import CAMVID_11, CITYSCAPES_13, CITYSCAPES_16, CITYSCAPES_19, IGNORE, SYNTHIA_22
from dynconv.data.scenes.listing import SCENE_SETS, SceneListing, is_own, list_own, list_scenes
from dynconv.data.scenes.reading import Scene, read_labels, read_scene

WRITERS = {"gta5": write_gta5, "synthia": write_synthia, "cityscapes": write_cityscapes}
SETTINGS = {"19": CITYSCAPES_19, "16": CITYSCAPES_16, "13": CITYSCAPES_13, "22": SYNTHIA_22}


def shown(listing: SceneListing, scene: Scene) -> list[str]:
    """The class of each row of a scene of bands, from the top downwards."""
    labels = read_labels(scene, listing.name, listing.labels)
    assert (labels == labels[:, :1]).all()
    return ["void" if index == IGNORE else listing.classes[index] for index in labels[:, 0]]


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *(("gta5", setting) for setting in ("default", "19", "16", "13")),
        *(("synthia", setting) for setting in ("default", "22", "19", "16", "13")),
        *(("cityscapes", setting) for setting in ("default", "22", "19", "16", "13")),
    ],
)
def test_each_layout_is_read_in_each_of_its_class_settings(name: str, setting: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, 3)
    listing = list_scenes(name, tmp_path, classes=setting)
    assert listing.classes == SETTINGS[{"synthia": "16"}.get(name, "19") if setting == "default" else setting]
    scenes = (*listing.train, *(listing.test or ()))
    assert len(scenes) == (6 if name == "cityscapes" else 3) and scenes[:3] == tuple(sorted(scenes[:3]))
    for scene in scenes:
        rows = shown(listing, scene)
        assert list(dict.fromkeys(rows)) == list(BANDS)
        # Each band is where its colour is: a file's label map is not another's.
        colours = read_scene(scene, name, listing.labels)[..., :3].mean(axis=1)
        expected = np.array([BANDS[row] for row in rows])
        assert np.abs(colours - expected).max() < 25


def test_gta5_is_divided_by_its_split_file_where_that_is(tmp_path: Path) -> None:
    write_gta5(tmp_path / "gta5", 6, test=2)
    listing = list_scenes("gta5", tmp_path)
    assert [scene.image.name for scene in listing.train] == ["00001.png", "00002.png", "00003.png", "00004.png"]
    assert listing.test is not None
    assert [scene.labels.name for scene in listing.test] == ["00005.png", "00006.png"]
    # A frame that it names and that is not there is left out.
    (tmp_path / "gta5" / "images" / "00002.png").unlink()
    assert list_scenes("gta5", tmp_path).counts() == {"train": 3, "test": 2}
    for number in (5, 6):
        (tmp_path / "gta5" / "images" / f"{number:05}.png").unlink()
    with pytest.raises(DataError, match=r"split\.mat names no training or no test frame that is there, such as 00001"):
        list_scenes("gta5", tmp_path)
    (tmp_path / "gta5" / "split.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(DataError, match=r"split\.mat cannot be read.*expected MATLAB's trainIds"):
        list_scenes("gta5", tmp_path)
    (tmp_path / "gta5" / "split.mat").unlink()
    assert list_scenes("gta5", tmp_path).counts() == {"all": 3}


def test_gta5s_split_file_may_hold_doubles(tmp_path: Path) -> None:
    place = write_gta5(tmp_path / "gta5", 3)
    numbers = {"trainIds": np.array([[1.0], [2.0]]), "valIds": np.zeros((0, 1)), "testIds": np.array([[3.0]])}
    savemat(place / "split.mat", numbers)
    assert list_scenes("gta5", tmp_path).counts() == {"train": 2, "test": 1}
    savemat(place / "split.mat", {**numbers, "testIds": np.array([[3.5]])})
    with pytest.raises(DataError, match=r"split\.mat cannot be read: 3\.5 is no frame's number"):
        list_scenes("gta5", tmp_path)


def test_odd_sizes_are_read_and_others_than_the_label_maps_refused(tmp_path: Path) -> None:
    listing = list_scenes("gta5", write_gta5(tmp_path / "gta5", 3).parent)
    shapes = [read_scene(scene, "gta5", listing.labels).shape for scene in listing.train]
    assert shapes == [(38, 70, 4), (38, 68, 4), (38, 70, 4)]
    shutil.copy(listing.train[0].image, listing.train[1].image)
    with pytest.raises(DataError, match=r"images/00002\.png has 70 x 38 pixels, its label map \S+labels/00002\.png 68"):
        read_scene(listing.train[1], "gta5", listing.labels)


def test_stylised_images_take_the_originals_places_and_keep_their_label_maps(tmp_path: Path) -> None:
    write_gta5(tmp_path / "gta5", 4)
    stylised = write_stylised(tmp_path / "stylised", 4)
    (stylised / "00003.png").unlink()
    Image.open(stylised / "00004.png").save(stylised / "00004.jpg")
    (stylised / "00004.png").unlink()
    listing = list_scenes("gta5", tmp_path, stylised=stylised)
    assert [scene.image.name for scene in listing.train] == ["00001.png", "00002.png", "00004.jpg"]
    plain = list_scenes("gta5", tmp_path)
    for scene, original in zip(listing.train, (plain.train[0], plain.train[1], plain.train[3]), strict=True):
        assert scene.labels == original.labels and scene.image.parent == stylised
        pixels = read_scene(scene, "gta5", listing.labels)
        assert pixels.shape == (24, 48, 4)
        expected = read_scene(original, "gta5", plain.labels, (24, 48))
        assert np.array_equal(pixels[..., 3], expected[..., 3])
    Image.open(stylised / "00001.png").save(stylised / "cat.png")
    with pytest.raises(DataError, match=r"1 of 4 stylised images have no label map of their name in .*cat\.png"):
        list_scenes("gta5", tmp_path, stylised=stylised)
    with pytest.raises(DataError, match="are for gta5, not for synthia"):
        list_scenes("synthia", tmp_path, stylised=stylised)


def test_cityscapes_train_ids_are_the_same_classes(tmp_path: Path) -> None:
    by_id = list_scenes("cityscapes", write_cityscapes(tmp_path / "ids" / "cityscapes", 2).parent, classes="13")
    place = write_cityscapes(tmp_path / "train_ids" / "cityscapes", 2, train_ids=True)
    by_train_id = list_scenes("cityscapes", place.parent, classes="13")
    assert by_train_id.train[0].labels.name == "aachen_000000_000019_gtFine_labelTrainIds.png"
    assert by_train_id.test is not None and by_train_id.test[0].image.parent.name == "munster"
    for one, other in zip(by_id.train, by_train_id.train, strict=True):
        assert np.array_equal(read_labels(one, "c", by_id.labels), read_labels(other, "c", by_train_id.labels))
    by_train_id.train[0].labels.unlink()
    # It is told when its turn comes.
    assert list_scenes("cityscapes", place.parent).labels.name == "Cityscapes' labelTrainIds"
    by_train_id.train[1].labels.unlink()
    with pytest.raises(DataError, match=r"no training image has a label map: expected \S+aachen_000000_000019_gtFine"):
        list_scenes("cityscapes", place.parent)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_missing_label_map_and_an_unknown_id_are_told_by_name(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, 2)
    listing = list_scenes(name, tmp_path)
    broken = Scene(listing.train[0].image, listing.train[0].labels.with_name("gone.png"))
    with pytest.raises(DataError, match=r"the label map \S+gone\.png of the image \S+ is missing"):
        read_scene(broken, name, listing.labels)
    if name != "synthia":
        Image.fromarray(np.full((4, 4), 77, dtype=np.uint8)).save(listing.train[1].labels)
        with pytest.raises(DataError, match=rf"{listing.train[1].labels.name} holds unknown ids: 77; "):
            read_scene(listing.train[1], name, listing.labels)


def test_other_numbers_than_published_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_synthia(tmp_path / "synthia", 2)
    with caplog.at_level(logging.WARNING):
        list_scenes("synthia", tmp_path)
    assert (
        "synthia: not the published number of scenes" in caplog.text and "all: expected 9,400, found 2" in caplog.text
    )
    caplog.clear()
    list_scenes("synthia", tmp_path, tell=False)
    assert not caplog.text


@pytest.mark.parametrize("name", SCENE_SETS)
def test_a_set_that_is_not_there_is_told_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    known = SCENE_SETS[name]
    with pytest.raises(DataError) as error:
        list_scenes(name, tmp_path)
    assert all(str(tmp_path / known.folder / folder) in str(error.value) for folder in known.needed)
    assert known.how_to_get in str(error.value)
    for folder in known.needed:
        (tmp_path / known.folder / folder).mkdir(parents=True)
    with pytest.raises(DataError, match="holds no"):
        list_scenes(name, tmp_path)
    with pytest.raises(DataError, match="has no setting of 12 classes; known: "):
        list_scenes(name, tmp_path, classes="12")


def test_own_scenes_are_read_in_camvids_layout(tmp_path: Path) -> None:
    place = write_camvid(tmp_path / "own", 3)
    assert is_own(place) and not is_own(place / "train")
    listing = list_own("mine", place)
    assert (listing.name, listing.classes, listing.counts()) == ("mine", CAMVID_11, {"train": 3, "test": 3})
    labels = read_labels(listing.train[0], "mine", listing.labels)
    written = np.array(Image.open(place / "trainannot" / "0.png"))
    assert np.array_equal(labels, np.where(written == 11, IGNORE, written))
    (place / "classes.txt").write_text("sky\nVoid\nroad\n")
    listing = list_own("mine", place)
    # The second number is ignored, and the third is the second class.
    assert listing.classes == ("sky", "road")
    assert listing.labels.indices == ((0, 0), (1, IGNORE), (2, 1), (255, IGNORE))
    shutil.rmtree(place / "test")
    with pytest.raises(DataError, match=r"testannot has no test beside it"):
        list_own("mine", place)
    shutil.rmtree(place / "testannot")
    assert list_own("mine", place).counts() == {"all": 3}


@pytest.mark.parametrize("text", ["", "\n\n", "sky\nvoid\n", "sky\nsky\n", "\n".join(map(str, range(255)))])
def test_a_class_file_that_names_no_classes_is_refused(text: str, tmp_path: Path) -> None:
    place = write_camvid(tmp_path / "own", 1)
    (place / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=r"own/classes\.txt: expected 2 to 254 different class names"):
        list_own("mine", place)


def test_an_empty_line_among_the_classes_is_refused_and_at_the_end_is_none(tmp_path: Path) -> None:
    place = write_camvid(tmp_path / "own", 1)
    (place / "classes.txt").write_text("sky\nroad\n\n \n")
    assert list_own("mine", place).labels.indices == ((0, 0), (1, 1), (255, IGNORE))
    # Without it the road would be what the label maps call 1.
    (place / "classes.txt").write_text("sky\n \nroad\n")
    with pytest.raises(DataError, match=r"own/classes\.txt: line 2 is empty: expected a name on each line"):
        list_own("mine", place)


def test_own_scenes_need_a_class_file_and_camvids_own_must_be_its_classes(tmp_path: Path) -> None:
    place = write_camvid(tmp_path / "camvid_day", 1)
    assert list_scenes("camvid_day", tmp_path).classes == CAMVID_11
    (place / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(DataError, match=r"classes\.txt: expected the classes sky, building, .*; got sky, road"):
        list_scenes("camvid_day", tmp_path)
    (place / "classes.txt").unlink()
    assert list_scenes("camvid_day", tmp_path).labels.indices[-2:] == ((11, IGNORE), (255, IGNORE))
    with pytest.raises(DataError, match=r"classes\.txt cannot be read.*one on a line"):
        list_own("mine", place)
    with pytest.raises(DataError, match="does not exist"):
        list_own("mine", tmp_path / "nowhere")


def test_the_real_camvid_is_read(data_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, counts in (("camvid_day", (305, 171)), ("camvid_dusk", (62, 62))):
        if not (data_root / name).is_dir():
            pytest.skip(f"{name} is not below {data_root}")
        listing = list_scenes(name, data_root)
        assert tuple(listing.counts().values()) == counts and not caplog.text
        scenes = np.stack([read_scene(scene, name, listing.labels) for scene in listing.train[::10]])
        assert scenes.shape[1:] == (120, 160, 4)
        # A camera behind a windscreen: the sky is above and the lightest, and the road is below.
        upper, lower = (
            np.bincount(half.ravel(), minlength=256)[:11].argmax() for half in np.split(scenes[..., 3], 2, 1)
        )
        assert listing.classes[lower] == "road" and listing.classes[upper] in ("sky", "building")
        light = {label: scenes[scenes[..., 3] == index][:, :3].mean() for index, label in enumerate(listing.classes)}
        assert max(light, key=lambda label: light[label]) == "sky"
