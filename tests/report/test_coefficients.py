"""The coefficients of a trained network: their order, their numbers, whose images they are of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bright_folders import CLASSES, write_bright_folders
from command_line import fails
from sklearn.metrics import silhouette_score
from torch import nn

from dynconv import cli
from dynconv.engine.loaded_run import LoadedRun, load_run
from dynconv.engine.run_folder import RunFolder
from dynconv.methods import METHODS
from dynconv.models import domain_norms
from dynconv.nn import DynamicConv2d
from dynconv.report.figures import coefficients
from dynconv.report.figures.coefficients import (
    Coefficients,
    collect,
    histograms,
    layer_statistics,
    parts,
    save_coefficient_figures,
    silhouette,
    silhouettes,
)

# Of the domains, whose images are dark, bright and between.
BRIGHTNESS = {"dark": 20, "bright": 200, "grey": 110}
PER_CLASS = 6
SHORT = ["--max-steps", "1", "--batch-size", "8", "--device", "cpu", "--num-bases", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("data")
    write_bright_folders(root, BRIGHTNESS, per_class=PER_CLASS, noise=20)
    dark, bright, grey = (f"{name}={root / name}" for name in BRIGHTNESS)
    return ["--source", dark, bright, "--target", grey]


@pytest.fixture(scope="module")
def run(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DRT run of a step."""
    out = tmp_path_factory.mktemp("runs") / "drt"
    assert cli.main(["train", "drt", *data, *SHORT, "--out", str(out)]) == 0
    return out


@pytest.fixture
def loaded(run: Path) -> LoadedRun:
    return load_run(run, device="cpu")


def some(vectors: np.ndarray[Any, Any], layers: dict[str, int], domains: list[int] | None = None) -> Coefficients:
    count = len(vectors)
    of = np.arange(count) % 2 if domains is None else np.array(domains)
    return Coefficients(vectors, layers, of, np.arange(count) // 2 % 2, ("one", "two"), ("ape", "bee"))


@torch.no_grad()
def test_vectors_are_of_every_domains_test_images_by_layer_and_by_image(loaded: LoadedRun) -> None:
    found = collect(loaded, 100)
    assert found.domain_names == ("dark", "bright", "grey") and found.classes == ("class0", "class1")
    assert np.bincount(found.domains).tolist() == [CLASSES * PER_CLASS] * 3
    protocol, _ = loaded.domains()
    place = 0
    for domain in (*protocol.sources, protocol.target):
        assert domain.test is not None
        images = domain.test.images_at(torch.arange(len(domain.test))).float() / 127.5 - 1
        expected, x = [], images.contiguous(memory_format=torch.channels_last)
        for layer in loaded.method.features.convolutions:
            if isinstance(layer, DynamicConv2d):
                expected.append(layer.branch(x)[0])
            x = layer(x)
        rows = slice(place, place + len(images))
        np.testing.assert_allclose(found.vectors[rows], torch.cat(expected, 1).double(), atol=1e-6)
        assert np.ptp(found.vectors[rows], axis=0).max() > 1e-7
        assert found.labels[rows].tolist() == domain.test.labels.tolist()
        place += len(images)
    assert list(found.layers.values()) == [3, 3, 3] and list(found.layers) == list(found.by_layer())
    fewer = collect(loaded, 4)
    assert np.bincount(fewer.domains).tolist() == [4, 4, 4] and set(fewer.labels[:4]) == {0, 1}


def test_images_held_out_stand_in_for_a_source_without_a_test_split(
    loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, held_out = loaded.domains()
    sources = (replace(protocol.sources[0], test=None), *protocol.sources[1:])
    monkeypatch.setattr(LoadedRun, "domains", lambda _: (replace(protocol, sources=sources), held_out))
    found = collect(loaded, 100)
    assert np.bincount(found.domains).tolist() == [len(held_out[0]), 12, 12] and len(held_out[0]) not in (0, 12)
    target = replace(protocol.target, test=None)
    monkeypatch.setattr(LoadedRun, "domains", lambda _: (replace(protocol, target=target), held_out))
    with pytest.raises(ValueError, match="grey has no test images with labels"):
        collect(loaded, 100)


@torch.no_grad()
def test_coefficients_that_follow_the_domain_have_a_silhouette_near_1(loaded: LoadedRun) -> None:
    first = next(m for m in loaded.method.features.modules() if isinstance(m, DynamicConv2d))
    # Hidden units that see how bright the image is, and how dark; the bases choose between them.
    first.branch.w1.zero_()
    first.branch.w1[0], first.branch.w1[1] = 1.0, -1.0
    first.branch.w2.zero_()
    first.branch.w2[0, 0], first.branch.w2[1, 1] = 20.0, 20.0
    scores = silhouettes(collect(loaded, 100))
    by_domain, by_class = scores["low"]["domain"], scores["low"]["class"]
    assert by_domain is not None and by_class is not None
    assert by_domain > 0.95 and by_class < 0.1


def test_each_domain_passes_through_its_own_encoder(loaded: LoadedRun) -> None:
    adda = METHODS["adda"]
    torch.manual_seed(0)
    method = adda.for_task(adda.config_class(residual="subspace", num_bases=3), CLASSES, 2).eval()
    loaded = replace(loaded, method=method)
    before = collect(loaded, 100)
    assert list(before.layers) == ["convolutions.0", "convolutions.4", "convolutions.8"]
    for module in method.features.get_submodule("target").modules():
        if isinstance(module, DynamicConv2d):
            nn.init.zeros_(module.branch.w2)
    after = collect(loaded, 100)
    is_target = after.domains == 2
    assert np.allclose(after.vectors[is_target], 1 / 3, atol=1e-7)
    assert not np.allclose(before.vectors[is_target], 1 / 3, atol=1e-7)
    assert np.array_equal(after.vectors[~is_target], before.vectors[~is_target])


@torch.no_grad()
def test_each_domain_is_normalised_by_its_own_statistics(loaded: LoadedRun) -> None:
    drt = METHODS["drt"]
    torch.manual_seed(0)
    method = drt.for_task(drt.config_class(normalisation_policy="domain-specific", num_bases=3), CLASSES, 2).eval()
    loaded = replace(loaded, method=method)
    before = collect(loaded, 100)
    for norm in domain_norms(method.features):
        norm.target.running_mean += 5
    after = collect(loaded, 100)
    is_target = after.domains == 2
    assert np.array_equal(after.vectors[~is_target], before.vectors[~is_target])
    # The first layer is before any normalisation.
    assert np.array_equal(after.vectors[:, :3], before.vectors[:, :3])
    assert (after.vectors[is_target, 3:] != before.vectors[is_target, 3:]).any(axis=1).all()


def test_silhouettes_are_those_of_the_vectors() -> None:
    generator = np.random.default_rng(0)
    found = some(generator.random((20, 6)), {"a": 2, "b": 2, "c": 2})
    expected = {
        part: {
            "domain": silhouette_score(found.vectors[:, columns], found.domains),
            "class": silhouette_score(found.vectors[:, columns], found.labels),
        }
        for part, columns in (("all", slice(None)), ("low", slice(2)), ("high", slice(2, 6)))
    }
    assert silhouettes(found) == expected
    assert len({expected[part]["domain"] for part in expected}) == 3
    assert silhouette(found.vectors, np.zeros(20)) is None, "one group"
    assert silhouette(found.vectors, np.arange(20)) is None, "groups of one"


def test_the_middle_layer_of_an_odd_number_is_of_the_upper_half() -> None:
    assert parts({"a": 2, "b": 3, "c": 4, "d": 5}) == {"all": slice(0, 14), "low": slice(0, 5), "high": slice(5, 14)}
    assert parts({"a": 2, "b": 3, "c": 4}) == {"all": slice(0, 9), "low": slice(0, 2), "high": slice(2, 9)}
    assert parts({"a": 2}) == {"all": slice(0, 2)}
    resnet = parts({str(layer): 4 for layer in range(33)})
    assert resnet["low"] == slice(0, 64) and resnet["high"] == slice(64, 132)


def test_a_layers_numbers_are_by_domain() -> None:
    vectors = np.array([[0.5, 0.5, 1.0, 0.0], [0.25, 0.75, 1.0, 0.0], [0.5, 0.5, 0.0, 1.0], [0.75, 0.25, 1.0, 0.0]])
    numbers = layer_statistics(some(vectors, {"a": 2, "b": 2}))
    assert list(numbers) == ["a", "b"]
    assert numbers["a"]["mean"] == {"one": [0.5, 0.5], "two": [0.5, 0.5]}
    assert numbers["a"]["std"] == {"one": [0.0, 0.0], "two": [0.25, 0.25]}
    assert numbers["b"]["mean"] == {"one": [0.5, 0.5], "two": [1.0, 0.0]}
    assert numbers["a"]["most_entropy"] == math.log(2) == pytest.approx(numbers["a"]["entropy"]["one"])
    assert numbers["a"]["entropy"]["two"] == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert numbers["b"]["entropy"] == {"one": 0.0, "two": 0.0}, "one basis alone is chosen"


def test_every_image_is_counted_once_for_each_basis() -> None:
    vectors = np.random.default_rng(0).dirichlet([1.0, 2.0, 3.0], 50)
    found = some(np.concatenate([vectors, vectors[:, :2]], axis=1), {"a": 3, "b": 2})
    counts, edges = histograms(found)
    assert {layer: rows.shape for layer, rows in counts.items()} == {"a": (3, 40), "b": (2, 40)}
    assert all(rows.sum(axis=1).tolist() == [50] * len(rows) for rows in counts.values())
    assert edges[0] <= vectors.min() and vectors.max() <= edges[-1]
    assert counts["a"][0].tolist() == np.histogram(vectors[:, 0], edges)[0].tolist() == counts["b"][0].tolist()
    # All the same, and on the grid of the edges: the bins still have a width.
    for value in (0.25, 0.29, 1.0):
        counts, edges = histograms(some(np.full((8, 4), value), {"a": 4}))
        assert counts["a"].sum(axis=1).tolist() == [8] * 4 and edges[-1] > edges[0]


def test_plot_writes_pictures_and_numbers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["plot", "coefficients", str(run), "--points", "6", "--device", "cpu"]) == 0
    files = [run / name for name in ("coefficients.png", "coefficients-histograms.png", "coefficients.json")]
    assert capsys.readouterr().out.split() == list(map(str, files))
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[:2])
    numbers = json.loads(files[2].read_text())
    assert numbers["images"] == {"dark": 6, "bright": 6, "grey": 6} and numbers["target"] == "grey"
    assert (numbers["checkpoint"], numbers["step"]) == ("last", 1)
    found = collect(load_run(run, device="cpu"), 6)
    assert numbers["silhouette"] == silhouettes(found) and numbers["layers"] == layer_statistics(found)
    assert numbers["deviation"]["low"] == pytest.approx(found.vectors[:, :3].std(axis=0).mean())
    assert not list(run.glob(".*")) and not list(run.glob("*.tmp")), "what was written beside its place is gone"


def test_out_names_all_three_files(run: Path, tmp_path: Path) -> None:
    files = save_coefficient_figures(run, tmp_path / "made" / "x.svg", points=4, device="cpu")
    assert [file.name for file in files] == ["x.svg", "x-histograms.svg", "x.json"]
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted(file.name for file in files)
    words = files[0].read_text()
    assert "silhouette by domain" in words and "not of the plane" in words


def test_layers_that_tell_no_images_apart_have_no_plane(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels: list[Any] = []
    monkeypatch.setattr(coefficients, "save_coefficients", lambda drawn, *_, **__: panels.extend(drawn))
    vectors = np.random.default_rng(0).random((12, 6))
    vectors[:, :2] = 0.25
    monkeypatch.setattr(coefficients, "collect", lambda *_: some(vectors, {"a": 2, "b": 2, "c": 2}))
    save_coefficient_figures(run, tmp_path / "x.png", points=6, device="cpu")
    assert [panel.points is None for panel in panels] == [False, True, False]
    assert panels[1].deviation == 0.0 and panels[1].by_domain == 0.0
    assert [panel.uniform for panel in panels] == [0.5] * 3
    flagged = json.loads((tmp_path / "x.json").read_text())["hardly_dynamic"]
    assert flagged == {"all": False, "low": True, "high": False}


@pytest.mark.parametrize(
    ("method", "options", "told"),
    [
        ("source-only", {}, "drt is a run of a static network; plot one .* --residual subspace or combined"),
        ("drt", {"residual": "channel"}, "drt is a run of channel attention alone, which has scales"),
    ],
)
def test_networks_without_coefficients_are_refused_in_words(
    loaded: LoadedRun, method: str, options: dict[str, Any], told: str
) -> None:
    kind = METHODS[method]
    other = replace(loaded, method=kind.for_task(kind.config_class(**options), CLASSES, 2).eval())
    with pytest.raises(ValueError, match=told):
        collect(other, 100)


def test_wrong_use_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = ("plot", "coefficients")
    assert "for a single RUN, got 2" in fails(capsys, *plot, str(run), str(run), "--out", str(tmp_path / "x.png"))
    assert "--points must be at least 1" in fails(capsys, *plot, str(run), "--points", "0")
    out = fails(capsys, *plot, str(run), "--out", str(tmp_path / "x.json"))
    assert "x.json: expected a suffix of" in out and "give a file such as coefficients.png" in out
    assert "no run folder" in fails(capsys, *plot, str(tmp_path))
    assert "t-SNE needs 10 images or more, there are 3" in fails(capsys, *plot, str(run), "--points", "1")
    RunFolder(tmp_path).config.write_bytes(RunFolder(run).config.read_bytes())
    assert "last.pt" in fails(capsys, *plot, str(tmp_path))
