"""The method of Gaussian matching: it learns the source as source-only does, and its last step is the matching."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_scenes import CLASSES, draw, use_tiny

from dynconv.data import Batch
from dynconv.methods import Gaussian, GaussianConfig, SourceOnly, SourceOnlyConfig
from dynconv.models import matched_layers


def make(**fields: object) -> Gaussian:
    torch.manual_seed(0)
    return Gaussian(GaussianConfig(**fields), 3).double()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normalisation_policy": "joint"}, "'joint' normalises target images in training, and gaussian matching's"),
        ({"normalisation_policy": "adabn"}, "'adabn' normalises target .* choose one of 'source-only', 'frozen'"),
        ({"statistics_images": -1}, "statistics_images: expected at least 0, got -1"),
        ({"layers": "last"}, "layers: expected one of 'hidden', 'all', got 'last'"),
    ],
)
def test_what_it_has_no_use_for_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianConfig(**fields)


def test_it_learns_as_source_only_in_all_steps_but_the_last(batch: Batch, train: Callable) -> None:
    torch.manual_seed(0)
    plain = SourceOnly(SourceOnlyConfig(), 3).double()
    own, wanted = ([float(update.loss.detach()) for update in train(m, [batch] * 3, 3)] for m in (make(), plain))
    assert len(wanted) == 3 and own == wanted[:2]


def test_the_matching_is_the_last_step_of_a_run_and_the_only_one_of_a_trained_network(tmp_path: Path) -> None:
    made = make()
    assert made.matching_step(10) == 9
    made.check_run(max_steps=2, micro_batch=4)
    with pytest.raises(ValueError, match="in a run of 1 nothing learns the source; give more steps"):
        made.check_run(max_steps=1, micro_batch=4)
    path = tmp_path / "last.pt"
    source = SourceOnly(SourceOnlyConfig(), 3)
    config = {"method": "source-only"}
    torch.save({"classes": ["a", "b", "c"], "config": config, "method": source.state_dict()}, path)
    # The weights that run began with say how its images were normalised, and are not read.
    started = make(source_checkpoint=str(path))
    for key, value in source.state_dict().items():
        torch.testing.assert_close(started.state_dict()[key], value.double() if value.is_floating_point() else value)
    started.check_classes(("a", "b", "c"))
    with pytest.raises(ValueError, match="its classes are a, b, c, and this run's are a, b"):
        started.check_classes(("a", "b"))
    started.check_run(max_steps=1, micro_batch=4)
    with pytest.raises(ValueError, match="is the matching alone and has one step, got 2; give --max-steps 1"):
        started.check_run(max_steps=2, micro_batch=4)


@torch.no_grad()
@pytest.mark.parametrize("layers", ["hidden", "all"])
def test_it_matches_features_and_where_asked_the_scores(layers: str, batch: Batch) -> None:
    made = make(norm="none", bottleneck=5, layers=layers).eval()
    source, target = batch.source.images, batch.target.images
    of_source = made.predict(source)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    found = made.match(lambda: iter(source.split(3)), lambda: iter(target.split(4)))
    # Of four layers with ReLU, the bottleneck and the classifier.
    assert found.logs["matching/layers"] == (6 if layers == "all" else 4)
    assert found.logs["matching/channels"] == 24 + 48 + 64 + 128 + (5 + 3 if layers == "all" else 0)
    assert found.logs["matching/unscaled"] == 0 and "without variance" not in found.message
    assert made.state_dict().keys() == before.keys()
    moved = not torch.equal(made.state_dict()["heads.0.weight"], before["heads.0.weight"])
    assert moved is (layers == "all")
    mean = made.predict(target).mean(0)
    assert torch.allclose(mean, of_source.mean(0), rtol=0, atol=1e-10) is (layers == "all")


@torch.no_grad()
def test_it_matches_a_network_that_labels_every_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    torch.manual_seed(0)
    made = Gaussian(GaussianConfig(backbone="erfnet-encoder"), CLASSES).double().eval()
    scenes = draw(3, 0)
    assert list(matched_layers(made, scenes.target.images)) == ["features.layers.1", "features.layers.4"]
    maps = made.features(scenes.source.images)
    with torch.no_grad():
        made.match(lambda: iter(scenes.source.images.split(2)), lambda: iter([scenes.target.images]))
    seen = []
    made.features.layers[4].register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    assert made.predict(scenes.target.images).shape == (3, CLASSES, 16, 24)
    # Before the ReLU the maps have the moments of the source's; behind it they are as close as both are Gaussian.
    assert float((seen[0].relu().mean() - maps.mean()).abs()) < 0.1 * float(maps.mean())
