"""Scenes beside their label maps and IoU by class, read back from the figures."""

from __future__ import annotations

import numpy as np
import pytest

from dynconv.plots.class_iou import ClassIoUs, class_iou_figure
from dynconv.plots.scenes import coloured, scenes_figure

CLASSES = ("road", "sky", "car", "sofa")
ROAD, SKY = (128, 64, 128), (70, 130, 180)


def test_label_maps_have_the_classes_colours_and_black_where_there_is_no_class() -> None:
    found = coloured(np.array([[0, 1], [255, 3]], dtype=np.uint8), CLASSES)
    assert found.dtype == np.uint8 and found.shape == (2, 2, 3)
    assert [tuple(colour) for colour in found.reshape(-1, 3)[:3]] == [ROAD, SKY, (0, 0, 0)]
    # A name that Cityscapes does not have is neither black nor another class's.
    assert tuple(found[1, 1]) not in {ROAD, SKY, (0, 0, 142), (0, 0, 0)}


def test_a_scene_is_a_row_of_image_and_label_maps_with_a_legend_of_what_is_in_them() -> None:
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    truth = np.zeros((2, 3, 4), dtype=np.uint8)
    after = truth.copy()
    after[1, 0, 0], truth[0, 0, 0] = 1, 255
    figure = scenes_figure(images, {"ground truth": truth, "after": after}, CLASSES, names=("a", "b"), title="dusk")
    pictures = [axis.images[0].get_array() for axis in figure.axes]
    assert len(pictures) == 6
    assert np.array_equal(pictures[3], images[1]) and np.array_equal(pictures[5], coloured(after, CLASSES)[1])
    # Smoothed, a label map would have colours of no class, and a photograph that is not has jagged edges.
    smoothed = [axis.images[0].get_interpolation() != "nearest" for axis in figure.axes]
    assert smoothed == [True, False, False] * 2
    assert [axis.get_title() for axis in figure.axes[:3]] == ["image", "ground truth", "after"]
    assert [figure.axes[place].get_xlabel() for place in (0, 3)] == ["a", "b"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["road", "sky", "no class"]
    shown = [tuple(round(255 * part) for part in patch.get_facecolor()[:3]) for patch in legend.get_patches()]
    assert shown == [ROAD, SKY, (0, 0, 0)]


def test_scenes_that_do_not_fit_are_refused() -> None:
    images = np.zeros((1, 3, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="images: expected at least one scene"):
        scenes_figure(images[:0], {}, CLASSES, names=(), title="")
    with pytest.raises(ValueError, match=r"label_maps: expected \(1, 3, 4\), got \(1, 3, 5\) of 'before'"):
        scenes_figure(images, {"before": np.zeros((1, 3, 5))}, CLASSES, names=("a",), title="")


def test_every_class_has_a_bar_for_each_network_that_knows_it() -> None:
    # The mean is the evaluation's own, of whatever classes that counts.
    ious = {"before": ClassIoUs(25.0, {"car": 10.0}), "after": ClassIoUs(60.0, {"road": 60.0, "car": 20.0})}
    figure = class_iou_figure(ious, CLASSES, title="x")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["road", "car"]
    before, after = axis.containers
    assert [bar.get_width() for bar in before] == [10.0] and [bar.get_width() for bar in after] == [60.0, 20.0]
    centres = [bar.get_y() + bar.get_height() / 2 for bar in (*after, *before)]
    # Beside each other within a class, and away from the next class's.
    assert centres[0] < 0.5 < centres[2] < centres[1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["before: mean 25.0", "after: mean 60.0"]
    with pytest.raises(ValueError, match="ious: expected at least one network"):
        class_iou_figure({"before": ClassIoUs(0.0, {})}, CLASSES, title="x")
    with pytest.raises(ValueError, match="classes: expected all that a network has, got none of car"):
        class_iou_figure(ious, ("road",), title="x")
