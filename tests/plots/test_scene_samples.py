"""The picture of driving scenes and their label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from publishers_scenes import write_camvid, write_gta5

from dynconv.data.scenes.label_maps import CAMVID_11, palette_of
from dynconv.data.scenes.listing import list_own, list_scenes
from dynconv.data.scenes.reading import read_scene
from dynconv.plots.scene_samples import _drawn, save_scene_samples


def _pixels(path: Path, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of that colour."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return np.argwhere((picture == colour).all(axis=2))


def test_label_maps_stand_in_their_colours_below_the_images_and_in_the_legend(tmp_path: Path) -> None:
    listing = list_own("mine", write_camvid(tmp_path / "own", 3))
    path = tmp_path / "made" / "scenes.png"
    save_scene_samples([("source mine", listing)], path, count=2)
    colours = dict(zip(CAMVID_11, palette_of(CAMVID_11), strict=True))
    rows = {label: _pixels(path, colours[label]) for label in CAMVID_11}
    legend = rows["fence"][:, 0].min()
    # The fence is in no scene, the sky and the road are in all, the sky being above.
    sky, road = (rows[label][rows[label][:, 0] < legend - 20] for label in ("sky", "road"))
    assert len(sky) and len(road) and sky[:, 0].mean() < road[:, 0].mean()
    assert all(len(each) for each in rows.values())
    assert np.ptp(sky[:, 1]) > 300, "two scenes beside each other"


def test_the_seed_draws_the_scenes_and_large_ones_are_thinned(tmp_path: Path) -> None:
    listing = list_own("mine", write_camvid(tmp_path / "own", 8))
    first, again, other = (_drawn(listing, 2, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    large = list_own("large", write_camvid(tmp_path / "large", 1, size=(40, 800)))
    (scene,) = _drawn(large, 3, 0)
    assert np.array_equal(scene, read_scene(large.train[0], "large", large.labels)[::3, ::3])


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    mine = list_own("mine", write_camvid(tmp_path / "own", 1))
    gta5 = list_scenes("gta5", write_gta5(tmp_path / "gta5", 2).parent)
    with pytest.raises(ValueError, match="expected at least one, got none"):
        save_scene_samples([], tmp_path / "x.png")
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        save_scene_samples([("mine", mine)], tmp_path / "x.png", count=0)
    with pytest.raises(ValueError, match="gta5 has other classes than mine"):
        save_scene_samples([("mine", mine), ("gta5", gta5)], tmp_path / "x.png")
