"""Pictures of coefficients, read back from what was drawn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dynconv.plots import coefficients
from dynconv.plots.coefficients import MOST_CLASSES, OTHERS, Panel, save_coefficients, save_histograms
from dynconv.plots.palette import COLOURS

POINTS = np.arange(12, dtype=np.float32).reshape(6, 2)
PANEL = Panel("all layers", POINTS, 0.256, -0.125, 0.02, 0.25)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be written: to render 33 panels takes seconds."""
    figures: list[Figure] = []
    monkeypatch.setattr(coefficients, "write_figure", lambda figure, _: figures.append(figure))
    return figures


def draw(path: Path, panels: list[Panel], **changes: Any) -> None:
    given: dict[str, Any] = {
        "domains": np.array([0, 0, 1, 1, 2, 2]),
        "labels": np.array([0, 1, 0, 1, 0, 1]),
        "domain_names": ("one", "two", "three"),
        "classes": ("ape", "bee"),
        "title": "A run",
    }
    save_coefficients(panels, path=path, **given | changes)


def offsets(axis: Any) -> list[list[list[float]]]:
    return [part.get_offsets().tolist() for part in axis.collections]


def test_each_panel_is_drawn_by_domain_and_by_class(tmp_path: Path, drawn: list[Figure]) -> None:
    second = Panel("lower half", POINTS + 100, None, 0.5, 0.02, 0.25)
    draw(tmp_path / "x.png", [PANEL, second])
    by_domain, other, by_class, _ = drawn[0].axes
    assert offsets(by_domain) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]
    assert offsets(by_class) == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10, 11]]]
    assert offsets(other)[0] == [[100, 101], [102, 103]]
    assert by_domain.get_xlabel() == "silhouette by domain: +0.26" and by_class.get_xlabel().endswith("class: −0.12")
    assert other.get_xlabel() == "silhouette by domain: not defined"
    assert by_domain.get_title() == "all layers\nthat vary by 0.02 over the images"
    assert "not of the plane" in drawn[0].get_suptitle()
    assert not by_domain.get_xticks().size and not by_domain.get_yticks().size
    legends = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in drawn[0].axes[1::2]]
    assert legends == [["one", "two", "three\n(target)"], ["ape", "bee"]]
    colours = [to_hex(part.get_facecolor()[0]) for part in by_domain.collections]
    assert len(set(colours)) == 3 and colours[-1] == COLOURS[2]


def test_the_most_frequent_of_many_classes_have_looks_and_the_others_are_grey(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    # Every class once, and those from 30 on twice.
    labels = np.array([*range(50), *range(30, 50)])
    count = len(labels)
    panel = Panel("all", np.random.default_rng(0).random((count, 2)), 0.0, 0.0, 0.1, 0.25)
    draw(
        tmp_path / "x.png",
        [panel],
        domains=np.arange(count) % 3,
        labels=labels,
        classes=[f"class{label}" for label in range(50)],
    )
    by_class = drawn[0].axes[1]
    names = [text.get_text() for text in by_class.get_legend().get_texts()]
    assert names == ["30 others", *(f"class{label}" for label in range(30, 50))]
    assert to_hex(by_class.collections[0].get_facecolor()[0]) == OTHERS
    assert [len(part.get_offsets()) for part in by_class.collections] == [30] + [2] * MOST_CLASSES
    looks = [(to_hex(part.get_facecolor()[0]), part.get_paths()[0].vertices.tobytes()) for part in by_class.collections]
    assert len(set(looks[1:])) == MOST_CLASSES
    assert all(one[1] != other[1] for one, other in pairwise(looks[1:])), "neighbours differ in their shape"
    for colour, _ in looks[1:]:
        parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert max(parts) - min(parts) > 30, "no class is grey"


def test_coefficients_that_hardly_vary_are_told_as_such(tmp_path: Path, drawn: list[Figure]) -> None:
    draw(tmp_path / "x.png", [PANEL, Panel("lower half", POINTS, 0.5, 0.5, 2e-5, 0.25)])
    dynamic, static, _, other = drawn[0].axes
    assert not dynamic.texts
    told = "these coefficients hardly\ndepend on the image:\nstandard deviation 2e-05, of 1/K = 0.25"
    assert [text.get_text() for text in (*static.texts, *other.texts)] == [told, told]
    assert static.get_xlabel() == "silhouette by domain: +0.50"
    height = static.texts[0].get_window_extent().y0
    assert static.transData.transform(POINTS)[:, 1].max() < height, "no point is below the words"


def test_a_panel_without_points_says_why(tmp_path: Path, drawn: list[Figure]) -> None:
    draw(tmp_path / "x.png", [PANEL, Panel("lower half", None, 0.0, 0.0, 0.0, 0.25)])
    empty = drawn[0].axes[1]
    assert [text.get_text() for text in empty.texts] == ["the same for every image"] and not empty.collections
    # The legend is to the right of the last column, whatever is in it.
    assert [text.get_text() for text in empty.get_legend().get_texts()][0] == "one"


@pytest.mark.parametrize(("layers", "grid"), [(1, (1, 1)), (3, (1, 3)), (33, (6, 6))])
def test_each_layer_has_a_panel_with_a_curve_for_each_basis(
    layers: int, grid: tuple[int, int], tmp_path: Path, drawn: list[Figure]
) -> None:
    edges = np.linspace(0, 1, 5)
    counts = {f"layer{place}": np.arange(8).reshape(2, 4) + place for place in range(layers)}
    deviations = {layer: 0.0625 / place for place, layer in enumerate(counts, 1)}
    save_histograms(counts, edges, tmp_path / "x.png", deviations=deviations, title="A run")
    (figure,) = drawn
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == grid
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == [
        f"{place + 1}: layer{place}\nvary by {0.0625 / (place + 1):.2g} over the images" for place in range(layers)
    ]
    # Where curves coincide those below are wider, and show in the gaps.
    wide, narrow = shown[0].patches
    assert wide.get_linewidth() > narrow.get_linewidth() and wide.get_linestyle() != narrow.get_linestyle()
    assert [patch.get_data().values.tolist() for patch in shown[-1].patches] == counts[f"layer{layers - 1}"].tolist()
    assert all(axis.get_xlim() == (0, 1) for axis in shown)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["basis 1", "basis 2"]


def test_a_picture_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        draw(Path("/proc/x.png"), [PANEL])
    draw(tmp_path / "made" / "x.png", [PANEL])
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["x.png"]
