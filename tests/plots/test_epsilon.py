"""Accuracy over the bound of the perturbation, read back from what was drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dynconv.plots.epsilon import Curve, Panel, save_epsilon


def test_far_bounds_are_drawn_in_logarithms_and_the_classifier_is_a_line(tmp_path: Path, drawn: list[Figure]) -> None:
    target = Curve("target", 0, False, (0.01, 0.4), (72.0, 85.0), (None, 7.0), 70.5)
    save_epsilon([Panel("a-b", (target,))], tmp_path / "x.png", axis_label="epsilon", note="whiskers")
    (axis,) = drawn[0].axes
    assert axis.get_xscale() == "log" and axis.get_title() == "a-b"
    (bars,) = axis.containers
    assert bars.lines[0].get_xydata().tolist() == [[0.01, 72.0], [0.4, 85.0]]
    (segments,) = bars.lines[2]
    assert [part[:, 1].tolist() for part in segments.get_segments()] == [[72.0, 72.0], [78.0, 92.0]]
    assert any(list(line.get_ydata()) == [70.5, 70.5] for line in axis.lines)
    labels = {text.get_text() for text in axis.get_legend().get_texts()}
    assert labels == {"target", "target, no calibrator: 70.5"} and drawn[0].get_supxlabel() == "whiskers"
    near = Curve("source", 0, True, (0.0, 0.4), (72.0, 85.0), (None, None), None)
    save_epsilon([Panel("a-b", (near,))], tmp_path / "y.png", axis_label="bound", note="")
    assert drawn[1].axes[0].get_xscale() == "linear" and not drawn[1].get_supxlabel()
    with pytest.raises(ValueError, match="at least one task"):
        save_epsilon([], tmp_path / "z.png", axis_label="", note="")
