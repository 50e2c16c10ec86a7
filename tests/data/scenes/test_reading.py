"""One scene: what of its two files becomes pixels, and what of them is refused, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from publishers_scenes import write_png16

from dynconv.data.errors import DataError
from dynconv.data.scenes.label_maps import IGNORE
from dynconv.data.scenes.reading import LabelFormat, Scene, read_labels, read_scene

# 5 and 9 are classes, 0 and 255 none, all others unknown.
LABELS = LabelFormat("the test's format", ((0, IGNORE), (5, 0), (9, 1), (255, IGNORE)))
SIZE = (6, 10)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Noise above a label map whose left half is 5, right half 9, with a border of 0 and a corner of 255."""
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    numbers = np.full(SIZE, 5, dtype=np.uint8)
    numbers[:, 5:], numbers[0], numbers[5, 9] = 9, 0, 255
    Image.fromarray(numbers).save(tmp_path / "a_labels.png")
    return Scene(tmp_path / "a.png", tmp_path / "a_labels.png")


def test_a_scene_is_its_colours_and_last_its_class_indices(scene: Scene) -> None:
    pixels = read_scene(scene, "x", LABELS)
    assert (pixels.shape, pixels.dtype) == ((*SIZE, 4), np.uint8)
    assert np.array_equal(pixels[..., :3], np.array(Image.open(scene.image)))
    expected = np.repeat([[0] * 5 + [1] * 5], SIZE[0], axis=0)
    expected[0], expected[5, 9] = IGNORE, IGNORE
    assert np.array_equal(pixels[..., 3], expected)
    assert np.array_equal(read_labels(scene, "x", LABELS), expected)


def test_an_image_is_resized_smoothly_and_its_label_map_to_the_nearest_pixel(scene: Scene) -> None:
    whole, small = read_scene(scene, "x", LABELS), read_scene(scene, "x", LABELS, (2, 4))
    image = torch.from_numpy(whole[..., :3].copy()).permute(2, 0, 1)[None].float()
    expected = F.interpolate(image, (2, 4), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    assert np.abs(small[..., :3] - expected.numpy()).max() <= 1
    # The pixels at whose centres, 1.5 and 4.5 of 6 and 1.25, 3.75, ... of 10, those of the small map are.
    assert np.array_equal(small[..., 3], whole[[1, 4]][:, [1, 3, 6, 8], 3])
    assert set(np.unique(read_scene(scene, "x", LABELS, (13, 27))[..., 3])) == {0, 1, IGNORE}


@pytest.mark.parametrize("size", [(4, 4), (16, 14), (12, 20)])
def test_a_resized_label_map_lies_on_its_image(scene: Scene, size: tuple[int, int]) -> None:
    numbers = np.random.default_rng(1).choice(np.array([5, 9], dtype=np.uint8), SIZE)
    seen = []
    for mirrored in (numbers, numbers[::-1, ::-1]):
        Image.fromarray(mirrored.copy()).save(scene.labels)
        seen.append(read_scene(scene, "x", LABELS, size)[..., 3])
    # Neither is nearer to one border than to the other.
    assert np.array_equal(seen[0], seen[1][::-1, ::-1])
    # An edge between two colours is where the edge between their classes is.
    halves = np.where(np.arange(SIZE[1]) < 7, 5, 9).astype(np.uint8)[None].repeat(SIZE[0], axis=0)
    Image.fromarray(halves).save(scene.labels)
    Image.fromarray(np.where(halves[..., None] == 9, 255, 0).astype(np.uint8).repeat(3, axis=2)).save(scene.image)
    found = read_scene(scene, "x", LABELS, size)
    assert np.array_equal(found[..., 0] > 127, found[..., 3] == 1)


def test_a_palette_counts_by_its_places_and_a_jpeg_is_an_image_too(scene: Scene) -> None:
    expected = read_labels(scene, "x", LABELS)
    labels = Image.fromarray(np.array(Image.open(scene.labels)), mode="P")
    labels.putpalette([200, 10, 10] * 256)
    labels.save(scene.labels)
    image = scene.image.with_suffix(".jpg")
    Image.open(scene.image).save(image, quality=95)
    found = read_scene(Scene(image, scene.labels), "x", LABELS)
    assert np.array_equal(found[..., 3], expected)
    assert found[..., :3].std() > 20


def test_of_16_bits_the_red_channel_counts(scene: Scene) -> None:
    numbers = np.array(Image.open(scene.labels)).astype(np.uint16)
    labels = LabelFormat("of 16 bits", (*LABELS.indices, (300, 2)), channel="red16")
    values = np.stack((numbers, numbers + 1, np.full_like(numbers, 40_000)), axis=-1)
    values[2, 2, 0] = 300
    write_png16(scene.labels, values)
    expected = LABELS.table[numbers].astype(np.uint8)
    expected[2, 2] = 2
    assert np.array_equal(read_labels(scene, "x", labels), expected)
    values[4, 4, 0] = 65_535
    write_png16(scene.labels, values)
    with pytest.raises(DataError, match=r"a_labels\.png holds unknown ids: 65535; of 16 bits has 0, 5, 9, 255, 300"):
        read_labels(scene, "x", labels)


def _save(what: np.ndarray) -> Callable[[Path], None]:
    return lambda file: Image.fromarray(what).save(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"^x: the label map \S+a_labels\.png of the image \S+a\.png is missing$"),
        (lambda file: file.write_bytes(b""), r"a_labels\.png cannot be read: the file is empty"),
        (lambda file: file.write_bytes(b"<html>"), r"a_labels\.png cannot be read: it is no image"),
        (lambda file: file.write_bytes(file.read_bytes()[:60]), r"a_labels\.png cannot be read"),
        (_save(np.zeros((6, 9), np.uint8)), r"a\.png has 10 x 6 pixels, its label map \S+a_labels\.png 9 x 6: expect"),
        (_save(np.full(SIZE, 7, np.uint8)), r"a_labels\.png holds unknown ids: 7; the test's format has 0, 5, 9, 255"),
        (_save(np.arange(60, dtype=np.uint8).reshape(SIZE)), r"unknown ids: 1, 2, 3, 4, 6, .*, 14 and 45 more;"),
        (_save(np.zeros((*SIZE, 3), np.uint8)), r"a_labels\.png is neither grey nor .* it is PNG of RGB pixels"),
        (_save(np.zeros(SIZE, np.uint16)), r"a_labels\.png is neither grey nor .* it is PNG of I;16"),
    ],
)
def test_what_is_wrong_with_a_label_map_is_told_with_its_file(
    scene: Scene, damage: Callable[[Path], None], message: str
) -> None:
    damage(scene.labels)
    with pytest.raises(DataError, match=message):
        read_scene(scene, "x", LABELS)


def test_8_bits_are_refused_where_16_are_expected(scene: Scene) -> None:
    labels = LabelFormat("SYNTHIA", LABELS.indices, channel="red16")
    for values in (np.full((*SIZE, 3), 5, np.uint8), np.full(SIZE, 5, np.uint16)):
        Image.fromarray(values).save(scene.labels)
        with pytest.raises(DataError, match=r"a_labels\.png is no PNG of 16-bit red, green and blue, as SYNTHIA is"):
            read_labels(scene, "x", labels)


def test_what_is_wrong_with_an_image_is_told_with_its_file(scene: Scene) -> None:
    Image.fromarray(np.full((*SIZE, 3), (1, 2, 3), dtype=np.uint8)).save(scene.image)
    with pytest.raises(DataError, match=r"^x: the image \S+a\.png is of one colour, \(1, 2, 3\)$"):
        read_scene(scene, "x", LABELS)
    scene.image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^x: the image \S+a\.png cannot be read"):
        read_scene(scene, "x", LABELS)


def test_label_maps_take_the_size_of_images_that_were_made_from_the_publishers(scene: Scene) -> None:
    numbers = np.array(Image.open(scene.labels))
    Image.fromarray(np.kron(numbers, np.ones((2, 2), dtype=np.uint8))).save(scene.labels)
    labels = LabelFormat(LABELS.name, LABELS.indices, as_image=True)
    found = read_scene(scene, "x", labels)
    assert found.shape == (*SIZE, 4)
    assert np.array_equal(found[..., 3], LABELS.table[numbers])
    assert read_labels(scene, "x", labels).shape == (12, 20)
