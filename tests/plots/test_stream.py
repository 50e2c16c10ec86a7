"""Accuracy over time, read back from what was drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dynconv.plots.stream import save_stream


def test_the_figure_shows_each_batch_the_mean_so_far_and_the_domain(tmp_path: Path, drawn: list[Figure]) -> None:
    domains = ["a", "a", "b", "a"]
    save_stream(domains, {"one": [1.0, 0.5, 0.0, 0.5], "two": [1.0] * 4}, tmp_path / "x.png")
    lines, band = drawn[0].axes
    assert [list(line.get_ydata()) for line in lines.lines][:2] == [[100, 50, 0, 50], [100, 75, 50, 50]]
    assert [text.get_text() for text in lines.get_legend().get_texts()] == [
        "one: 50.0 % in the end",
        "two: 100.0 % in the end",
    ]
    spans = [(part.get_x(), part.get_width(), part.get_facecolor()) for part in band.patches]
    assert [span[:2] for span in spans] == [(0.5, 2), (2.5, 1), (3.5, 1)]
    assert spans[0][2] == spans[2][2] != spans[1][2]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "b"]
    with pytest.raises(ValueError, match="at least one batch"):
        save_stream([], {}, tmp_path / "y.png")
