"""Figures of one calibrator's run, read back from what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from dynconv.plots.perturbation import Curve, Own, PerturbationPanel, save_perturbation
from dynconv.plots.prediction_panels import PredictionPanel, save_prediction_panels
from dynconv.plots.spectra import DomainSpectra, amplification, save_spectra


def test_differences_are_amplified_as_far_as_they_stay_within_grey() -> None:
    for largest, factor in ((0.5, 1), (0.26, 1), (0.25, 2), (0.1, 5), (0.05, 10), (0.004, 100), (0.9, 1), (0.0, 1)):
        assert amplification([np.zeros(3), np.array([0.0, -largest, 0.0])]) == factor, largest


def test_differences_and_spectra_share_their_scales(tmp_path: Path, drawn: list[Figure]) -> None:
    generator = np.random.default_rng(0)
    before = generator.uniform(0.2, 0.8, (2, 8, 8, 3))
    after = before.copy()
    after[1, 3, 4, 0] += 0.04
    spectra = generator.uniform(0, 7, (2, 8, 8))
    domain = DomainSpectra(
        "a", (before, after), (spectra, spectra / 2), (spectra[0], spectra[1]), (np.arange(5.0), np.ones(5))
    )
    save_spectra([domain], np.linspace(0, 0.5, 5), 0.25, tmp_path / "x.png", title="T")
    (figure,) = drawn
    pictures = [axis.get_images()[0] for axis in figure.axes if axis.get_images()]
    same, difference = (np.asarray(picture.get_array()) for picture in pictures[4:6])
    assert difference.shape == (8, 8, 3) and difference[3, 4, 0] == pytest.approx(0.5 + 10 * 0.04)
    assert (same == 0.5).all()
    assert "difference\n× 10" in {axis.get_ylabel() for axis in figure.axes}
    assert {picture.get_clim() for picture in pictures[6:10]} == {(0, spectra.max())}
    curves = next(axis for axis in figure.axes if axis.get_xlabel().startswith("frequency"))
    assert [np.asarray(line.get_ydata()).tolist() for line in curves.lines[:2]] == [[0, 1, 2, 3, 4], [1, 1, 1, 1, 1]]
    assert np.asarray(curves.lines[2].get_xdata()).tolist() == [0.25, 0.25]


def test_each_panel_has_its_matrix_and_its_examples(tmp_path: Path, drawn: list[Figure]) -> None:
    images = np.zeros((2, 4, 4, 3))
    panels = [
        [
            PredictionPanel(
                f"({name})", np.array([[3, 1], [0, place]]), images, np.array([0, 1]), np.array([0, 0]), np.ones(2)
            )
            for place, name in enumerate(row)
        ]
        for row in ("ab", "cd")
    ]
    save_prediction_panels(panels, ("ape", "bee"), tmp_path / "x.png", title="T")
    axes = drawn[0].axes
    titled = [axis for axis in axes if axis.get_title() in ("(a)", "(b)", "(c)", "(d)")]
    assert [axis.get_title() for axis in titled] == ["(a)", "(b)", "(c)", "(d)"]
    assert [text.get_text() for text in titled[1].texts] == ["75", "25", "100"], "per cent of the class"
    examples = [axis.get_title() for axis in axes if axis.get_title().startswith(("✗", "✓"))]
    assert examples == 4 * ["✓ ape (100 %)\n", "✗ ape (100 %)\nis bee"]


def test_the_calibrator_stands_at_its_size_and_oracles_are_dashed(tmp_path: Path, drawn: list[Figure]) -> None:
    curves = (Curve("one", (0.1, 0.2), (0.5, 0.25), False), Curve("two", (0.1, 0.2), (1.0, 0.75), True))
    panel = PerturbationPanel("a", 0.625, Own(0.15, 0.125, 0.25, 0.875), curves)
    save_perturbation([panel] * 4, tmp_path / "x.png", title="T")
    (figure,) = drawn
    axes = [axis for axis in figure.axes if axis.get_title()]
    assert len(axes) == 4 and axes[0].get_position().y0 > axes[3].get_position().y0, "three in a row"
    lines = axes[0].lines
    heights = [np.asarray(line.get_ydata()).tolist() for line in lines[:3]]
    assert heights == [[62.5, 62.5], [50, 25], [100, 75]]
    assert [line.get_linestyle() for line in lines[1:3]] == ["-", "--"]
    ((own, _, (whiskers,)),) = axes[0].containers
    assert (list(own.get_xdata()), list(own.get_ydata())) == ([0.15], [87.5])
    np.testing.assert_allclose(whiskers.get_segments()[0][:, 0], [0.125, 0.25])
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["0.1", "0.2"]


def test_an_image_that_the_calibrator_leaves_as_it_is_has_a_place(tmp_path: Path, drawn: list[Figure]) -> None:
    curves = (Curve("one", (0.1, 0.2), (0.5, 0.25), False),)
    panels = [
        PerturbationPanel("a", 0.5, Own(size, 0.0, largest, 0.75), curves) for size, largest in ((0.15, 0.25), (0, 0))
    ]
    save_perturbation(panels, tmp_path / "x.png", title="T")
    for axis, size in zip((axis for axis in drawn[0].axes if axis.get_title()), (0.15, 0.0), strict=True):
        ((own, _, (whiskers,)),) = axis.containers
        for x in (size, *whiskers.get_segments()[0][:, 0]):
            place, _ = axis.transAxes.inverted().transform(axis.transData.transform((x, 75)))
            assert 0 <= place <= 1, (size, x)
        assert list(own.get_xdata()) == [size]
        assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "0.1", "0.2"]
