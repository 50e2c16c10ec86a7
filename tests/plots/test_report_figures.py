"""The figures of a report, read back from what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dynconv.plots.confusion import save_confusion
from dynconv.plots.embedding import save_embedding
from dynconv.plots.palette import COLOURS, colour, colours, marker, save_png
from dynconv.plots.predictions import save_predictions
from dynconv.plots.trade_off import Change, save_trade_off


def texts(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_seventy_classes_have_looks_of_their_own() -> None:
    assert len(set(COLOURS)) == 10
    assert len({(colour(index), marker(index)) for index in range(70)}) == 70


def test_curves_take_the_palette_within_the_context_only(tmp_path: Path) -> None:
    with colours():
        inside = Figure().subplots().plot([0, 1])[0].get_color()
    assert inside == COLOURS[0] != Figure().subplots().plot([0, 1])[0].get_color()


def test_a_picture_is_small_and_keeps_its_colours(tmp_path: Path) -> None:
    figure = Figure(figsize=(4, 3))
    figure.subplots().fill_between([0, 1], [1, 1], color=COLOURS[2])
    path = tmp_path / "made" / "x.png"
    save_png(figure, path)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    wanted = [int(COLOURS[2][place : place + 2], 16) for place in (1, 3, 5)]
    assert (np.abs(pixels - np.array(wanted)).max(axis=1) <= 2).mean() > 0.3
    assert [file.name for file in path.parent.iterdir()] == ["x.png"]


def test_the_confusion_is_in_per_cent_of_each_class(tmp_path: Path, drawn: list[Figure]) -> None:
    counts = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    save_confusion(counts, ("ape", "bee", "cow"), tmp_path / "x.png")
    axis = drawn[0].axes[0]
    shares = axis.images[0].get_array()
    assert shares[:2].tolist() == [[75, 25, 0], [0, 100, 0]]
    assert shares.mask[2].all(), "a class without images has no share"
    assert texts(axis) == ["75", "25", "100"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ape", "bee", "cow"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("prediction", "class")
    many = np.eye(100, dtype=np.int64)
    save_confusion(many, [f"class{index}" for index in range(100)], tmp_path / "y.png")
    assert texts(drawn[1].axes[0]) == []


def test_points_are_coloured_by_domain_and_by_class(tmp_path: Path, drawn: list[Figure]) -> None:
    points = np.array([[0.0, 0.0], [1, 1], [2, 2], [3, 3]], dtype=np.float32)
    domains, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    save_embedding(
        points, domains, labels, domain_names=("one", "two"), classes=("ape", "bee"), path=tmp_path / "x.png"
    )
    by_domain, by_class = drawn[0].axes
    source, target = by_domain.collections
    assert source.get_offsets().tolist() == [[0, 0], [1, 1]] and target.get_offsets().tolist() == [[2, 2], [3, 3]]
    assert [text.get_text() for text in by_domain.get_legend().get_texts()] == ["one (source)", "two (target)"]
    assert [part.get_offsets().tolist() for part in by_class.collections] == [[[0, 0], [2, 2]], [[1, 1], [3, 3]]]
    # The names stand where the target's points are.
    assert {text.get_text(): text.get_position() for text in by_class.texts} == {"ape": (2, 2), "bee": (3, 3)}


def embedded(classes: Sequence[str], path: Path, *, labelled: bool = True) -> None:
    """Classes of which each has a point of the source on a ring, and one of the target at the middle of it."""
    count = len(classes)
    angles = 2 * np.pi * np.arange(count) / count
    ring = 10 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.concatenate([ring, np.zeros((count, 2))]).astype(np.float32)
    labels = np.concatenate([np.arange(count), np.arange(count) if labelled else np.full(count, -1)])
    domains = np.repeat([0, 1], count)
    save_embedding(points, domains, labels, domain_names=("one", "two"), classes=classes, path=path)


def test_names_of_classes_in_one_place_can_be_read(tmp_path: Path, drawn: list[Figure]) -> None:
    classes = [f"a class called {index}" for index in range(11)] + ["a name that is far too long to be shown whole"]
    embedded(classes, tmp_path / "x.png")
    axis = drawn[0].axes[1]
    drawn[0].draw_without_rendering()
    boxes = [text.get_bbox_patch().get_window_extent() for text in axis.texts]
    assert len(boxes) == 12 and all(len(text.get_text()) <= 24 for text in axis.texts)
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    frame = axis.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    assert all(frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    assert all(tuple(text.xy) == (0, 0) for text in axis.texts), "what each line leads to"
    assert not drawn[0].legends


@pytest.mark.parametrize(("count", "labelled"), [(13, True), (65, True), (3, False)])
def test_more_classes_or_those_of_no_target_label_stand_in_a_legend(
    tmp_path: Path, drawn: list[Figure], count: int, labelled: bool
) -> None:
    classes = [f"class{index}" for index in range(count)]
    embedded(classes, tmp_path / "x.png", labelled=labelled)
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == classes
    assert not texts(drawn[0].axes[1])
    drawn[0].draw_without_rendering()
    box = legend.get_window_extent()
    assert box.x0 >= drawn[0].axes[1].get_window_extent().x1 and box.y0 >= 0


def test_more_classes_than_can_be_told_apart_have_no_legend(tmp_path: Path, drawn: list[Figure]) -> None:
    embedded([f"class{index}" for index in range(71)], tmp_path / "x.png")
    assert not drawn[0].legends
    assert drawn[0].axes[1].get_title() == "by class (71, some of which look alike)"


def test_wrong_samples_are_marked_and_tell_their_class(tmp_path: Path, drawn: list[Figure]) -> None:
    images = np.zeros((11, 4, 4, 3), dtype=np.uint8)
    labels = np.array([0] * 11)
    predictions = np.array([0] * 9 + [1] * 2)
    save_predictions(
        images, labels, predictions, np.full(11, 0.75), classes=("ape", "bee"), drawn=10, path=tmp_path / "x.png"
    )
    shown = [axis.get_title() for axis in drawn[0].axes if axis.images]
    assert shown == ["✓ ape (75 %)\n"] * 9 + ["✗ bee (75 %)\nis ape"] * 2
    parts = {part.get_suptitle(): len(part.axes) for part in drawn[0].subfigs}
    assert parts == {"drawn at random": 16, "wrong, the surest first": 8}
    save_predictions(
        images[:3], labels[:3], labels[:3], np.ones(3), classes=("ape", "bee"), drawn=3, path=tmp_path / "y.png"
    )
    assert [part.get_suptitle() for part in drawn[1].subfigs] == ["drawn at random"], "nothing is wrong"


def test_each_run_has_a_point_and_an_arrow_where_its_start_is_known(tmp_path: Path, drawn: list[Figure]) -> None:
    changes = [Change("mcd", "a-b", (90.0, 70.0), (95.0, 50.0)), Change("drt", "b-a", (91.0, 75.0))]
    save_trade_off(changes, tmp_path / "x.png")
    (axis,) = drawn[0].axes
    assert [arrow._posA_posB for arrow in axis.patches] == [[(95.0, 50.0), (90.0, 70.0)]]
    placed = [part.get_offsets().tolist()[0] for part in axis.collections]
    assert placed == [[95.0, 50.0], [90.0, 70.0], [91.0, 75.0]]
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["mcd", "drt", "a-b", "b-a"]
    far = Change("drt", "b-a", (91.0, 75.0), (10.0, 10.0), untrained=True)
    save_trade_off([changes[0], far], tmp_path / "z.png")
    (axis,) = drawn[1].axes
    assert len(axis.patches) == 2 and axis.get_xlim()[0] > 80, "chance is far away and makes no room for itself"
    with pytest.raises(ValueError, match="at least one run"):
        save_trade_off([], tmp_path / "y.png")
