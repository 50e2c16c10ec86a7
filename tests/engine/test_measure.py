from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from dynconv.engine.config import TrainConfig
from dynconv.engine.measure import measure_run
from dynconv.engine.train import train
from dynconv.methods import METHODS
from dynconv.models import build

Make = Callable[..., TrainConfig]


@pytest.mark.parametrize("checkpoint", ["last", "source-val", "label-free"])
def test_a_checkpoint_measures_as_it_did_in_training(
    checkpoint: str, tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    folder = train(make_config(tmp_path / "run", eval_every=1), console=quiet)
    before = sorted(path for path in folder.path.rglob("*"))
    metrics = measure_run(folder.path, checkpoint=checkpoint, device="cpu")
    expected = folder.read_done()["selected"][checkpoint]
    measured = {name: value for name, value in metrics.items() if "/" in name and name != "run"}
    assert measured == {name: value for name, value in expected.items() if "/" in name}
    assert metrics["step"] == expected["step"]
    assert sorted(path for path in folder.path.rglob("*")) == before


def test_another_domain_is_measured_without_the_runs_own_data(
    tmp_path: Path,
    tiny: type,
    make_config: Make,
    quiet: Console,
    domains: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("one", "two", "three"):
        shutil.copytree(domains / name, tmp_path / name)
    own = {"source": (f"one={tmp_path / 'one'}", f"two={tmp_path / 'two'}"), "target": f"three={tmp_path / 'three'}"}
    folder = train(make_config(tmp_path / "run", **own), console=quiet)
    for name in ("two", "three"):
        shutil.rmtree(tmp_path / name)
    shutil.rmtree(tmp_path / "one" / "class0")
    shutil.rmtree(tmp_path / "one" / "class1")
    # A network that says the training's third class: the only one left, which a labelling of its own would call the
    # first.
    monkeypatch.setattr(tiny, "predict", lambda self, images: torch.tensor([[0.0, 0.0, 1.0]]).expand(len(images), 3))
    metrics = measure_run(folder.path, domain=f"new={tmp_path / 'one'}", device="cpu")
    head = {"run", "checkpoint", "step", "config_hash"}
    names = ("accuracy", "class-mean-accuracy", "accuracy-of-class2")
    assert set(metrics) == head | {f"test/new/{name}" for name in names}
    assert all(metrics[f"test/new/{name}"] == 1.0 for name in names)
    whole = measure_run(folder.path, domain=f"new={domains / 'one'}", device="cpu")
    assert whole["test/new/accuracy"] == pytest.approx(1 / 3)


def test_the_weights_the_training_began_with_need_not_be_there(
    tmp_path: Path, make_config: Make, quiet: Console
) -> None:
    weights = tmp_path / "lenet.pth"
    torch.save(build("lenet-small", num_classes=3).features.state_dict(), weights)
    own = METHODS["source-only"].config_class(weights=str(weights))
    folder = train(make_config(tmp_path / "run", "source-only", own, max_steps=1), console=quiet)
    weights.unlink()
    assert measure_run(folder.path, device="cpu")["step"] == 1


def test_what_is_no_run_or_lacks_the_checkpoint_is_refused(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console, domains: Path
) -> None:
    with pytest.raises(ValueError, match="no run folder"):
        measure_run(tmp_path)
    folder = train(make_config(tmp_path / "run", max_steps=1), console=quiet)
    folder.checkpoint("source-val").unlink()
    with pytest.raises(ValueError, match="source-val.pt"):
        measure_run(folder.path, checkpoint="source-val", device="cpu")
    (tmp_path / "wrong" / "zebra").mkdir(parents=True)
    shutil.copy(domains / "one" / "class0" / "0.png", tmp_path / "wrong" / "zebra")
    with pytest.raises(ValueError, match="zebra"):
        measure_run(folder.path, domain=f"new={tmp_path / 'wrong'}", device="cpu")


@pytest.mark.parametrize("checkpoint", ["last", "source-val"])
def test_a_checkpoint_of_another_configuration_is_refused(
    checkpoint: str, tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    folder = train(make_config(tmp_path / "run", max_steps=1), console=quiet)
    other = train(make_config(tmp_path / "other", max_steps=1, seed=1), console=quiet)
    shutil.copy(other.checkpoint(checkpoint), folder.checkpoint(checkpoint))
    with pytest.raises(ValueError, match=f"{checkpoint}.pt is of the configuration .*config.yaml"):
        measure_run(folder.path, checkpoint=checkpoint, device="cpu")
