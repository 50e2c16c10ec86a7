"""The bars of Fig. 2, read back from what was drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dynconv.plots.degradation import Bars, Panel, save_degradation
from dynconv.plots.palette import COLOURS

STATIC = Bars("mcd, static", 0, (-2.0, -1.0, 0.5), (0.25, 0.5, 0.75), -0.83, 0.31)
DYNAMIC = Bars("drt, subspace", 1, (-0.5, 0.25, 1.0), (None, None, None), 0.25, None)


def test_bars_stand_at_their_source_with_their_number_and_whisker(tmp_path: Path, drawn: list[Figure]) -> None:
    save_degradation([Panel("a+b+c-d", ("a", "b", "c"), (STATIC, DYNAMIC))], tmp_path / "x.png")
    (axis,) = drawn[0].axes
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers if hasattr(bars, "patches")]
    assert heights == [[-2.0, -1.0, 0.5], [-0.5, 0.25, 1.0]]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axis.patches]
    assert [round(middle) for middle in middles] == [0, 1, 2, 0, 1, 2]
    assert all(one < other for one, other in zip(middles[:3], middles[3:], strict=True))
    assert [text.get_text() for text in axis.texts] == ["−2.0", "−1.0", "+0.5", "−0.5", "+0.2", "+1.0"]
    # Beyond the whisker, on the side of the bar.
    assert [text.xy[1] for text in axis.texts] == [-2.25, -1.5, 1.25, -0.5, 0.25, 1.0]
    whiskers = [segments.get_segments()[0][:, 1].tolist() for segments in axis.collections]
    assert whiskers == [[-2.25, -1.75], [-1.5, -0.5], [-0.25, 1.25]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b", "c"]
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == ["mcd, static: average −0.8 ± 0.3", "drt, subspace: average +0.2"]
    assert axis.get_title() == "a+b+c-d" and "\n" not in axis.get_ylabel()
    assert drawn[0].get_supxlabel().startswith("whiskers and ±: standard error")
    assert any(list(line.get_ydata()) == [0, 0] for line in axis.lines), "the line at zero"


def test_a_kind_has_its_colour_in_every_task(tmp_path: Path, drawn: list[Figure]) -> None:
    panels = [
        Panel("a-d", ("a",), (Bars("one", 0, (1.0,), (None,), 1.0, None), Bars("two", 1, (2.0,), (None,), 2.0, None))),
        Panel("b-d", ("b",), (Bars("two", 1, (3.0,), (None,), 3.0, None),)),
    ]
    save_degradation(panels, tmp_path / "x.pdf")
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    first, second = drawn[0].axes
    assert [to_hex(bar.get_facecolor()) for bar in first.patches] == list(COLOURS[:2])
    assert [to_hex(bar.get_facecolor()) for bar in second.patches] == [COLOURS[1]]
    assert first.get_title() == "a-d" and not drawn[0].get_supxlabel(), "no whiskers, no word of them"
    with pytest.raises(ValueError, match="at least one task"):
        save_degradation([], tmp_path / "y.png")
