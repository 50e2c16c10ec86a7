"""What is drawn of a run, read back from the figure itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dynconv.plots.training import save_training, save_trainings

STEPS = range(50, 1001, 50)


def gsda_rows(levels: int = 3, scale: float = 1.0) -> list[dict[str, Any]]:
    """Rows of a run with `levels` levels of discriminators."""
    rows = []
    for step in STEPS:
        row: dict[str, Any] = {"step": step, "epoch": step / 20, "seconds": 0.1, "loss": 9.0, "cross_entropy": 1.5}
        for level in reversed(range(levels)):
            row[f"gradient/level-{level}"] = scale * (level + 1)
            row[f"discriminator/accuracy-level-{level}"] = 0.75
        row |= {f"synchronisation/level-{level}": scale * 0.5 for level in range(levels - 1)}
        if step % 200 == 0:
            row |= {"selected/share": step / 1000, "selected/classes": 3.0}
        rows.append(row)
    return rows


def result_rows(
    classes: tuple[str, ...] = ("ape", "bee"), last: tuple[float, ...] = (0.25, 0.75)
) -> list[dict[str, Any]]:
    rows = []
    for step in (500, 1000):
        row: dict[str, Any] = {"step": step, "source-val/a/accuracy": 0.8, "source-val/b/accuracy": 0.6}
        row |= {"target-test/c/accuracy": 0.5, "target-test/c/class-mean-accuracy": 0.1}
        row |= {f"target-test/c/accuracy-of-{name}": step / 1000 * v for name, v in zip(classes, last, strict=True)}
        rows.append(row)
    return rows


def curves(figure: Figure, title: str) -> dict[str, tuple[list[float], list[float]]]:
    """Label to steps and values of the panel of this title; the panel's line of chance aside."""
    axis = next(axis for axis in figure.axes if axis.get_title().endswith(title))
    lines = [line for line in axis.get_lines() if line.get_label() != "chance"]
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


def titles(figure: Figure) -> list[str]:
    return [title for axis in figure.axes if (title := axis.get_title())]


def test_every_kind_of_log_has_its_panel_with_its_own_numbers(tmp_path: Path, drawn: list[Figure]) -> None:
    path = tmp_path / "made" / "training.png"
    save_training(gsda_rows(), result_rows(), path, title="a run")
    (figure,) = drawn
    assert titles(figure) == [
        "Gradient magnitude of each level",
        "Differences between the levels' gradients",
        "Losses and weights",
        "Accuracy of the discriminators",
        "Target images chosen by their pseudo label",
        "Accuracy, mean over the domains of a split",
        "Accuracy per target class (labels used only to look)",
    ]
    gradient = curves(figure, "Gradient magnitude of each level")
    assert {label: values for label, (_, values) in gradient.items()} == {
        "domain": [1.0] * 20, "groups": [2.0] * 20, "classes": [3.0] * 20,
    }  # fmt: skip
    assert gradient["domain"][0] == list(STEPS)
    assert list(curves(figure, "Differences between the levels' gradients")) == ["domain - groups", "groups - classes"]
    # The sum of the losses is left out where its parts are there.
    assert list(curves(figure, "Losses and weights")) == ["cross_entropy"]
    assert set(curves(figure, "discriminators")) == {"domain", "groups", "classes"}
    assert curves(figure, "discriminators")["groups"][1] == [75.0] * 20
    assert curves(figure, "pseudo label") == {"share": ([200, 400, 600, 800, 1000], [20, 40, 60, 80, 100])}
    accuracy = curves(figure, "domains of a split")
    assert accuracy["source-val (held out)"] == ([500, 1000], [pytest.approx(70), pytest.approx(70)])
    assert accuracy["target-test (labels used only to look)"] == ([500, 1000], [50.0, 50.0])
    assert figure.get_suptitle() == "a run"
    with Image.open(path) as picture:
        assert picture.width > 1000
    assert [file.name for file in path.parent.iterdir()] == ["training.png"]


def test_the_map_of_the_classes_has_the_best_at_the_end_first(tmp_path: Path, drawn: list[Figure]) -> None:
    save_training([], result_rows(), tmp_path / "x.png")
    (axis,) = [axis for axis in drawn[0].axes if "per target class" in axis.get_title()]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["bee", "ape"]
    assert axis.images[0].get_array().tolist() == [[37.5, 75.0], [12.5, 25.0]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["500", "1000"]
    many = tuple(f"class{index}" for index in range(100))
    save_training([], result_rows(many, (0.5,) * 100), tmp_path / "x.png")
    (axis,) = [axis for axis in drawn[1].axes if "per target class" in axis.get_title()]
    assert len(axis.get_yticks()) == 0 and "100 classes" in axis.get_ylabel()


def test_what_a_run_did_not_log_has_no_panel(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{"step": step, "epoch": 1.0, "seconds": 1.0, "loss": 1.0, "class-weights/largest": 2.0} for step in (1, 2)]
    save_training(rows, [], tmp_path / "x.png")
    assert titles(drawn[0]) == ["Losses and weights", "class-weights"]
    assert list(curves(drawn[0], "Losses and weights")) == ["loss"], "alone it is what there is"
    with pytest.raises(ValueError, match="nothing to draw"):
        save_training([], [], tmp_path / "x.png")


def test_a_level_between_is_named_by_its_depth_where_there_are_several(tmp_path: Path, drawn: list[Figure]) -> None:
    save_training(gsda_rows(levels=4), [], tmp_path / "x.png")
    gradient = curves(drawn[0], "Gradient magnitude of each level")
    assert list(gradient) == ["domain", "groups, level 1", "groups, level 2", "classes"]
    save_training(gsda_rows(levels=1), [], tmp_path / "x.png")
    assert list(curves(drawn[1], "Gradient magnitude of each level")) == ["domain"]


def test_wide_values_get_a_logarithmic_axis_and_shares_never(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = gsda_rows()
    rows[0] |= {"gradient/level-0": 1e-3, "discriminator/accuracy-level-0": 1e-3}
    save_training(rows, [], tmp_path / "x.png")
    scales = {axis.get_title(): axis.get_yscale() for axis in drawn[0].axes}
    gradient = "Gradient magnitude of each level"
    assert scales[gradient] == "log"
    assert scales["Differences between the levels' gradients"] == "linear"
    assert scales["Accuracy of the discriminators"] == "linear"
    rows[0]["gradient/level-0"] = -1.0
    save_training(rows, [], tmp_path / "x.png")
    assert {axis.get_title(): axis.get_yscale() for axis in drawn[1].axes}[
        "Gradient magnitude of each level"
    ] == "linear"


def test_runs_stand_beside_each_other_on_one_scale(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = {
        "weak": (gsda_rows(), result_rows(("ape", "bee"), (0.9, 0.1))),
        "strong": (gsda_rows(scale=100.0), result_rows(("bee", "cow"), (0.5, 0.3))),
        "bare": ([{"step": 1, "loss": 1.0}], []),
    }
    save_trainings(runs, tmp_path / "x.png")
    (figure,) = drawn
    axes = {axis.get_title(): axis for axis in figure.axes}
    weak, strong = (axes[f"{name}\nGradient magnitude of each level"] for name in ("weak", "strong"))
    assert weak.get_ylim() == strong.get_ylim() and weak.get_yscale() == strong.get_yscale() == "log"
    assert [title for title in axes if title.startswith("bare")] == ["bare\nLosses and weights"]
    # One order of the classes for all, and an empty line for a class that a run has not.
    maps = [axis for title, axis in axes.items() if "per target class" in title]
    for axis in maps:
        assert [label.get_text() for label in axis.get_yticklabels()] == ["ape", "bee", "cow"]
    assert maps[1].images[0].get_array().mask.tolist() == [[True, True], [False, False], [False, False]]


def test_of_label_maps_the_mean_iou_and_the_ious_of_the_classes_are_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    rows: list[dict[str, Any]] = []
    for step, value in ((500, 0.25), (1000, 0.5)):
        row = {"step": step, "source-val/a/mean-iou": value, "source-val/a/pixel-accuracy": 0.9}
        rows.append(row | {"target-test/c/iou-of-traffic light": value / 2})
    # A class that the truth does not have: it was predicted in one evaluation.
    rows[1]["target-test/c/iou-of-train"] = 0.0
    save_training([], rows, tmp_path / "x.png")
    (figure,) = drawn
    title = "Mean IoU, mean over the domains of a split"
    assert titles(figure) == [title, "IoU per target class (labels used only to look)"]
    assert curves(figure, title) == {"source-val (held out)": ([500, 1000], [25.0, 50.0])}
    classes = next(axis for axis in figure.axes if axis.images)
    assert [label.get_text() for label in classes.get_yticklabels()] == ["traffic light", "train"]
    values = classes.images[0].get_array()
    assert values[0].tolist() == [12.5, 25.0] and values[1, 1] == 0 and not np.isfinite(values[1].filled(np.nan)[0])
    assert "IoU, %" in [axis.get_ylabel() for axis in figure.axes]
