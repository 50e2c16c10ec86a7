"""Source-or-Not, read back from what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from dynconv.metrics.source_or_not import Share
from dynconv.plots.source_or_not import LayerAnswers, PairPanel, save_source_or_not


def layer(name: str, game: float) -> LayerAnswers:
    game_share, others = Share(game, game - 0.125, game + 0.0625), (Share(0.5, 0.4, 0.6), Share(0.75, 0.7, 0.8))
    return LayerAnswers(name, "1 of 3 constant", game_share, np.array([game + 0.1, game - 0.1]), *others)


def draw(panels: list[PairPanel], layers: list[LayerAnswers], folder: Path) -> None:
    save_source_or_not(panels, layers, folder / "x.png", title="T", counts="20 pairs of 40 test images")


def panel(first: list[float], second: list[float]) -> PairPanel:
    values = np.array(first, dtype=np.float32), np.array(second, dtype=np.float32)
    return PairPanel("layer 1, a", values, (-2.0, 8.0), "one and two")


def test_panels_have_both_histograms_over_the_same_bins(tmp_path: Path, drawn: list[Figure]) -> None:
    draw([panel([0, 0, 0, 4], [2, 8, 8, 8])], [layer("a", 0.75)], tmp_path)
    axis = drawn[0].axes[0]
    first, second = axis.patches
    for found, values in ((first, [75, 0, 25, 0]), (second, [0, 25, 0, 75])):
        heights, edges, baseline = found.get_data()
        assert edges.tolist() == [0, 2, 4, 6, 8]
        # What is not there ends below a single place, 25 % of four.
        assert np.where(heights > baseline, heights, 0).tolist() == values and baseline == 12.5
    assert (first.get_fill(), second.get_fill()) == (True, False)
    assert axis.get_yscale() == "log" and axis.get_ylim()[0] == 12.5
    assert (axis.get_title(), axis.get_xlabel()) == ("layer 1, a", "one and two")
    assert axis.get_ylabel() == "share of places, %"
    legend = [text.get_text() for part in drawn[0].subfigs for each in part.legends for text in each.get_texts()]
    assert legend == ["image 1", "image 2"]


def test_single_values_stand_on_the_units_own_range(tmp_path: Path, drawn: list[Figure]) -> None:
    draw([panel([1.5], [3.0])], [layer("a", 0.75)], tmp_path)
    axis = drawn[0].axes[0]
    assert [np.asarray(line.get_xdata()).tolist() for line in axis.lines] == [[1.5, 1.5], [3, 3]]
    assert len({line.get_linestyle() for line in axis.lines}) == 2
    low, high = axis.get_xlim()
    assert (low, high) == pytest.approx((-2.3, 8.3))
    # No line runs through the words, and there are no places to have shares of.
    (words,) = axis.texts
    box = words.get_window_extent().transformed(axis.transAxes.inverted())
    assert "a single value of each image" in words.get_text() and axis.get_ylabel() == ""
    assert all(np.max(line.get_ydata()) < box.y0 and box.y1 < 1 for line in axis.lines)


def test_the_layers_have_their_shares_with_intervals_units_and_chance(tmp_path: Path, drawn: list[Figure]) -> None:
    layers = [layer(f"layer.{place}", share) for place, share in enumerate((0.75, 0.5, 0.625, 0.75, 0.75, 0.875))]
    draw([panel([0, 1], [2, 3])] * 7, layers, tmp_path)
    (figure,) = drawn
    chart = figure.axes[-1]
    assert sum(bool(axis.get_title()) for axis in figure.axes) == 7
    game, comparing, which = chart.containers
    assert list(game[0].get_ydata()) == [75, 50, 62.5, 75, 75, 87.5]
    whiskers = game[2][0].get_segments()[0]
    np.testing.assert_allclose(whiskers[:, 1], [62.5, 81.25])
    assert list(comparing[0].get_ydata()) == [50] * 6 and list(which[0].get_ydata()) == [75] * 6
    np.testing.assert_allclose(chart.collections[0].get_offsets()[:, 1], [65, 85])
    (chance,) = [line for line in chart.lines if line.get_label() == "chance"]
    assert list(chance.get_ydata()) == [50, 50]
    assert [text.get_text() for text in chart.get_xticklabels()] == [
        f"{n + 1}: layer.{n}\n1 of 3 constant" for n in range(6)
    ]
    labels = [text.get_text() for text in chart.get_legend().get_texts()]
    assert labels.count("the game, one unit") == 1 and len(labels) == 5


def test_the_figure_says_what_was_counted_and_what_whiskers_are(tmp_path: Path, drawn: list[Figure]) -> None:
    draw([panel([0, 1], [2, 3])], [layer("a", 0.75)], tmp_path)
    (figure,) = drawn
    words = " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")
    for expected in (
        "20 pairs of 40 test images",
        "whiskers 95 % intervals",
        "of these units",
        "by comparing: it sees",
    ):
        assert expected in words


def test_a_layer_whose_units_are_all_constant_is_named_and_has_no_number(tmp_path: Path, drawn: list[Figure]) -> None:
    dead = LayerAnswers("dead", "16 of 16 constant", None, np.zeros(0), None, None)
    draw([panel([0, 1], [2, 3])], [dead, layer("a", 0.75)], tmp_path)
    chart = drawn[0].axes[-1]
    assert [text.get_text() for text in chart.get_xticklabels()] == [
        "1: dead\n16 of 16 constant",
        "2: a\n1 of 3 constant",
    ]
    assert [len(container[0].get_xdata()) for container in chart.containers] == [1, 1, 1]
    assert all(round(container[0].get_xdata()[0]) == 1 for container in chart.containers)
    assert [text.get_text() for text in chart.get_legend().get_texts()].count("the game, one unit") == 1
