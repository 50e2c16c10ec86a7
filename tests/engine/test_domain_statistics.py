"""Networks that normalise each domain by statistics of its own, in a whole run: trained, stopped, measured, opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from same_run import whole_and_stopped
from torch import Tensor, nn

from dynconv.data import Split
from dynconv.engine import evaluation
from dynconv.engine.checkpoint import load_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import LoadedRun, dump, load_run
from dynconv.engine.measure import measure_run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import train
from dynconv.methods import DANNConfig, SourceOnlyConfig
from dynconv.models import build

Make = Callable[..., TrainConfig]
TARGET_MEAN = "features.convolutions.1.target.running_mean"


def options(policy: str) -> DANNConfig:
    return DANNConfig(normalisation_policy=policy, hidden_features=8, bottleneck=0)


def accuracy(loaded: LoadedRun, split: Split, domain: str) -> float:
    found = dump(loaded, split, domain=domain)
    return (found.scores.argmax(dim=1) == found.labels).float().mean().item()


@pytest.mark.parametrize("policy", ["domain-specific", "adabn"])
def test_a_stopped_run_ends_bit_identical_and_is_measured_as_in_training(
    policy: str, tmp_path: Path, make_config: Make, quiet: Console
) -> None:
    def config(name: str) -> TrainConfig:
        return make_config(tmp_path / name, "dann", options(policy))

    # Between two evaluations: the target's statistics in the checkpoint are those of an earlier step.
    whole, _ = whole_and_stopped(config, 5, quiet)

    row = whole.rows()[-1]
    measured = measure_run(whole.path, device="cpu")
    names = [name for name in row if "/" in name]
    assert len(names) > 8 and {name: measured[name] for name in names} == {name: row[name] for name in names}

    loaded = load_run(whole.path, device="cpu")
    protocol, held_out = loaded.domains()
    assert accuracy(loaded, protocol.target.test, "target") == pytest.approx(row["target-test/three/accuracy"])
    assert accuracy(loaded, held_out[0], "source") == pytest.approx(row["source-val/one/accuracy"])
    apart = [dump(loaded, held_out[0], domain=domain).scores for domain in ("source", "target")]
    assert (apart[0] - apart[1]).abs().max() > 0.01


def test_every_evaluation_takes_the_targets_statistics_from_its_training_images(
    tmp_path: Path, make_config: Make, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.Evaluation, "unlabelled", 7)
    folder = train(make_config(tmp_path / "run", "dann", options("adabn"), eval_every=6), console=quiet)
    loaded = load_run(folder.path, device="cpu")
    train_split = loaded.domains()[0].target.train
    state = load_checkpoint(folder.last)
    assert state["step"] == 12

    @torch.no_grad()
    def mean(places: list[int]) -> Tensor:
        images = torch.cat(list(loaded.scoring.images(train_split.subset(torch.tensor(places)))))
        return loaded.method.features.convolutions[0](images).mean((0, 2, 3))

    torch.testing.assert_close(state["method"][TARGET_MEAN], mean([0, 10, 20, 30, 39, 49, 59]))
    assert not torch.allclose(state["method"][TARGET_MEAN], mean(list(range(60))))


def test_a_run_with_frozen_statistics_is_opened_without_the_weights_it_began_with(
    tmp_path: Path, make_config: Make, quiet: Console
) -> None:
    features = build("lenet-small", num_classes=3).features
    for layer in features.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.fill_(0.25)
    weights = tmp_path / "weights.pt"
    torch.save(features.state_dict(), weights)
    own = SourceOnlyConfig(normalisation_policy="frozen", weights=str(weights), lr=1e-3)
    folder: RunFolder = train(make_config(tmp_path / "run", "source-only", own), console=quiet)
    weights.unlink()
    loaded = load_run(folder.path, device="cpu")
    norms = [layer for layer in loaded.method.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 4
    for norm in norms:
        assert (norm.running_mean == 0.25).all() and (norm.running_var == 1).all()
        assert (norm.weight != 1).any()
    measured = measure_run(folder.path, device="cpu")
    assert measured["target-test/three/accuracy"] == folder.rows()[-1]["target-test/three/accuracy"]
