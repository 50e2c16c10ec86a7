"""What is computed of features and predictions, against cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynconv.report.page import analysis, cache
from dynconv.report.page.analysis import Analysis, a_distance, domain_error, in_the_plane
from dynconv.report.page.cache import load, save


def an_analysis(**fields: Any) -> Analysis:
    """One of two classes and six points."""
    values: dict[str, Any] = {
        "step": 10,
        "classes": ("ape", "bee"),
        "confusion": np.array([[3, 1], [0, 4]]),
        "points": np.arange(12, dtype=np.float32).reshape(6, 2),
        "point_domains": np.array([0, 0, 0, 1, 1, 1]),
        "point_labels": np.array([0, 1, 0, 1, 0, 1]),
        "domains": ("one", "two"),
        "a_distance": 1.5,
        "a_error": 0.125,
        "samples": np.full((3, 4, 4, 3), 200, dtype=np.uint8),
        "sample_labels": np.array([0, 1, 0]),
        "sample_predictions": np.array([0, 1, 1]),
        "sample_confidences": np.array([0.5, 0.75, 1.0], dtype=np.float32),
        "random_samples": 2,
    }
    return Analysis(**values | fields)


def test_the_distance_is_2_for_domains_apart_and_about_0_for_one_domain() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(400, 5))
    is_target = np.arange(400) < 150
    assert abs(a_distance(domain_error(features, is_target))) < 0.4
    features[is_target, 2] += 50
    assert a_distance(domain_error(features, is_target)) == 2.0
    assert a_distance(0.25) == 1.0


def test_the_error_is_that_of_images_the_classifier_was_not_fitted_on() -> None:
    # More features than images: on what it was fitted on, the classifier never errs.
    features = np.random.default_rng(1).normal(size=(60, 200))
    assert domain_error(features, np.arange(60) % 2 == 0) > 0.25
    with pytest.raises(ValueError, match="4 images of each side, there are 3"):
        domain_error(features, np.arange(60) < 3)


def test_clouds_stay_apart_in_the_plane() -> None:
    generator = np.random.default_rng(0)
    far = np.concatenate([generator.normal(size=(30, 80)), generator.normal(size=(30, 80)) + 30])
    placed = in_the_plane(far)
    assert placed.shape == (60, 2) and placed.dtype == np.float32
    one, two = placed[:30], placed[30:]
    gap = np.linalg.norm(one.mean(axis=0) - two.mean(axis=0))
    assert gap > 2 * max(one.std(), two.std())
    with pytest.raises(ValueError, match="t-SNE needs 10 images or more, there are 9"):
        in_the_plane(far[:9])


def test_samples_are_drawn_at_random_and_then_sure_and_wrong() -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    predictions = (torch.arange(100) >= 90).long()
    confidences = torch.linspace(0.5, 1.0, 100)
    places, drawn = analysis._samples(labels, predictions, confidences)
    assert drawn == analysis.RANDOM_SAMPLES and len(set(places[:drawn].tolist())) == drawn
    assert places[drawn:].tolist() == [99, 98, 97, 96, 95, 94, 93, 92]
    none_wrong, drawn = analysis._samples(labels, labels, confidences)
    assert len(none_wrong) == drawn


def test_what_is_kept_comes_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "x.npz"
    made = an_analysis()
    save(made, path, "stamp")
    found = load(Analysis, path, "stamp")
    assert found is not None
    for name, value in vars(made).items():
        again = getattr(found, name)
        assert np.array_equal(again, value) and type(again) is type(value), name
    assert found.accuracy == 7 / 8
    assert [file.name for file in path.parent.iterdir()] == ["x.npz"]


def test_another_checkpoint_version_or_a_damaged_file_is_computed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    assert load(Analysis, path, "stamp") is None
    save(replace(an_analysis(), step=20), path, "stamp")
    assert load(Analysis, path, "another checkpoint") is None
    path.write_bytes(path.read_bytes()[:200])
    assert load(Analysis, path, "stamp") is None
    save(an_analysis(), path, "stamp")
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert load(Analysis, path, "stamp") is None
