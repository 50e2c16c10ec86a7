"""Curves and sweeps of several runs, read back from what was drawn."""

from __future__ import annotations

from math import isnan, nan
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dynconv.plots import curves, sweep
from dynconv.plots.curves import save_curves
from dynconv.plots.sweep import save_sweep


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_seeds_are_thin_lines_around_their_mean_and_panels_share_the_steps(tmp_path: Path, drawn: list[Figure]) -> None:
    seeds = (((0, 70.0), (50, 90.0)), ((0, 72.0), (50, 80.0)))
    two = curves.Curve("with", 1, seeds, ((0, 71.0), (50, 85.0)), 25)
    one = curves.Curve("without", 0, (((50, 40.0),),), ((50, 40.0),))
    # As long as that no marker is drawn, and with a hole.
    logged = tuple((step, nan if step == 30 else (step / 10) ** 5) for step in range(10, 51))
    drift = curves.Curve("with", 1, (logged,), logged, 25, (40,))
    panels = [curves.Panel("a-b", "accuracy, %", (two, one)), curves.Panel("drift", "squared", (drift,))]
    save_curves([panels, [curves.Panel("c-d", "accuracy, %", (one,))]], tmp_path / "x.png")
    (figure,) = drawn
    first, second, third = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["a-b", "drift", "c-d"]
    assert first.get_shared_x_axes().joined(first, second) and not first.get_shared_x_axes().joined(first, third)
    lines = {tuple(map(tuple, line.get_xydata().tolist())): line.get_linewidth() for line in first.get_lines()}
    mean = lines.pop(two.mean)
    assert all(lines[points] < mean for points in seeds)
    assert {line.get_color() for line in first.get_lines() if line.get_label() == "with"} == {
        line.get_color() for line in second.get_lines() if line.get_label() == "with"
    }
    # The adaptation's begin is drawn in the panels of those that have one.
    begun = [any(list(line.get_xdata()) == [25, 25] for line in axis.get_lines()) for axis in figure.axes]
    assert begun == [True, True, False]
    assert (first.get_yscale(), second.get_yscale()) == ("linear", "log")
    assert legend(figure) == ["with", "without", "adaptation begins", "another discriminator joins in"]
    # The legend has the look of the upper panel.
    assert [line.get_marker() for line in figure.legends[0].get_lines()][:2] == ["s", "o"]
    assert any(list(line.get_xdata()) == [40, 40] for line in second.get_lines())
    (holed,) = [line for line in second.get_lines() if line.get_label() == "with"]
    assert [step for step, value in holed.get_xydata().tolist() if isnan(value)] == [30]
    with pytest.raises(ValueError, match="at least one task"):
        save_curves([[]], tmp_path / "y.png")


def test_a_level_goes_through_all_steps(tmp_path: Path, drawn: list[Figure]) -> None:
    seeds = (((0, 1.0), (1, 50.0)), ((0, 1.0), (1, 60.0)))
    level = curves.Curve("matched", 0, seeds, ((0, 1.0), (1, 55.0)), level=True)
    other = curves.Curve("with", 1, (((0, 1.0), (50, 9.0)),), ((0, 1.0), (50, 9.0)))
    save_curves([[curves.Panel("a-b", "accuracy, %", (level, other))]], tmp_path / "x.png")
    across = [line for line in drawn[0].axes[0].get_lines() if list(line.get_xdata()) == [0, 1]]
    assert {list(line.get_ydata())[0] for line in across} == {50, 55, 60} and legend(drawn[0]) == ["matched", "with"]


def test_seeds_without_a_common_step_are_drawn_without_a_mean(tmp_path: Path, drawn: list[Figure]) -> None:
    apart = curves.Curve("apart", 0, (((10, 1.0), (20, 2.0)), ((15, 1.0), (25, 2.0))), ())
    save_curves([[curves.Panel("a-b", "accuracy, %", (apart,))]], tmp_path / "x.png")
    assert len(drawn[0].axes[0].get_lines()) == 2 and legend(drawn[0]) == ["apart"]


def swept(values: tuple[float | str, ...], tmp_path: Path, levels: tuple[sweep.Level, ...] = ()) -> None:
    places = tuple(range(len(values)))
    deviations = (None, 2.0, *[None] * (len(values) - 2))
    curve = sweep.Curve("a-b", 0, 0, places, tuple(80.0 + place for place in places), deviations)
    save_sweep([curve], levels, values, tmp_path / "x.png", axis_label="lambda", words="accuracy, %")


def test_numbers_stand_where_they_are_and_words_side_by_side(tmp_path: Path, drawn: list[Figure]) -> None:
    swept((0.01, 0.1, 1.0), tmp_path, (sweep.Level("a-b, source-only", 0, 1, 70.0),))
    swept((0.0, 0.5, 2.0), tmp_path)
    swept((0.5, 1.0, 5.0), tmp_path)
    swept((0.0, 0.01, 1.0), tmp_path)
    swept(("default", "4", "scores"), tmp_path)
    axes = [figure.axes[0] for figure in drawn]
    assert [axis.get_xscale() for axis in axes] == ["log", "linear", "linear", "linear", "linear"]
    xs = [axis.containers[0].lines[0].get_xdata().tolist() for axis in axes]
    assert xs == [[0.01, 0.1, 1.0], [0.0, 0.5, 2.0], [0.5, 1.0, 5.0], [0, 1, 2], [0, 1, 2]]
    ticks = [[text.get_text() for text in axis.get_xticklabels()] for axis in axes]
    assert (
        ticks[0] == ["0.01", "0.1", "1"] and ticks[3] == ["0", "0.01", "1"] and ticks[4] == ["default", "4", "scores"]
    )
    (segments,) = axes[0].containers[0].lines[2]
    assert [part[:, 1].tolist() for part in segments.get_segments()] == [[80, 80], [79, 83], [82, 82]]
    assert any(list(line.get_ydata()) == [70.0, 70.0] for line in axes[0].get_lines())
    assert legend(drawn[0]) == ["a-b", "a-b, source-only: 70.0"]
    assert drawn[0].legends[0].get_title().get_text() == "whiskers: standard deviation over seeds"
    with pytest.raises(ValueError, match="at least one"):
        save_sweep([], [], (), tmp_path / "y.png", axis_label="", words="")
