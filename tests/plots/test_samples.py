from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.data import Domain, ImageFiles, Split
from dynconv.data.files import Decoding
from dynconv.plots.class_samples import save_class_samples
from dynconv.plots.samples import _one_per_class, save_samples


def make_domain(name: str, colour: tuple[int, int, int], with_test: bool = True) -> Domain:
    images = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(12, 3, 8, 8).contiguous()
    split = Split(images, torch.arange(12) % 3)
    return Domain(name, ("a", "b", "c"), split, split if with_test else None)


def test_the_picture_shows_every_domain_in_its_colours_top_to_bottom(tmp_path: Path) -> None:
    path = tmp_path / "made" / "samples.png"
    save_samples([make_domain("red", (250, 0, 0)), make_domain("blue", (0, 0, 250), with_test=False)], path)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    rows = {
        name: np.argwhere((np.abs(picture - colour) < 12).all(axis=2))[:, 0]
        for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250)))
    }
    assert rows["red"].max() < rows["blue"].min()
    # Two rows (train and test) against one, ten squares in each.
    assert rows["red"].size == pytest.approx(2 * rows["blue"].size, rel=0.1)
    assert [file.name for file in path.parent.iterdir()] == ["samples.png"]


def test_columns_run_through_the_classes_without_repeating_an_image() -> None:
    split = make_domain("x", (0, 0, 0)).train
    chosen = _one_per_class(split, 3, 14, seed=0)
    shown = [index for index in chosen if index is not None]
    assert chosen[12:] == [None, None], "four images per class, twelve in all"
    assert sorted(shown) == list(range(12))
    assert [int(split.labels[index]) for index in shown] == [0, 1, 2] * 4


def test_an_empty_request_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="domains"):
        save_samples([], tmp_path / "x.png")
    with pytest.raises(ValueError, match="columns"):
        save_samples([make_domain("x", (0, 0, 0))], tmp_path / "x.png", columns=0)


def test_a_picture_too_large_to_draw_is_refused_before_an_image_is_read(tmp_path: Path) -> None:
    labels = torch.zeros(2000, dtype=torch.int64)
    many = Split(ImageFiles("x", [tmp_path / "absent.png"] * 2000, Decoding(8)), labels)
    with pytest.raises(ValueError, match=r"pixels is too large to draw: take fewer images \(--per-class\)"):
        save_class_samples([("x", Domain("x", ("a", "b"), many, None))], tmp_path / "x.png", per_class=2000)


def test_images_are_read_from_their_files(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (8, 8), (250, 0, 0)).save(tmp_path / f"{index}.png")
    files = ImageFiles("red", [tmp_path / f"{index}.png" for index in range(3)], Decoding(8))
    save_samples([Domain("red", ("a", "b", "c"), Split(files, torch.arange(3), 4), None)], tmp_path / "out.png")
    picture = np.asarray(Image.open(tmp_path / "out.png").convert("RGB")).astype(int)
    assert (np.abs(picture - (250, 0, 0)) < 12).all(axis=2).sum() > 1000
