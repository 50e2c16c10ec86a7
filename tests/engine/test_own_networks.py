"""Runs of methods with networks for each source (M3SDA) or each domain (ADDA): made, stopped, resumed, opened again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from same_run import assert_same_run, call_at_step

from dynconv.engine.config import TrainConfig
from dynconv.engine.export import export_run
from dynconv.engine.loaded_run import load_run
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import make_fabric, open_folder, prepare, train
from dynconv.methods import ADDA, M3SDA, METHODS

Make = Callable[..., TrainConfig]
OPTIONS = {
    "cyclegan": {"width": 2, "blocks": 1, "discriminator_width": 4, "pool_size": 20},
    "adda": {"hidden_features": 8, "pretrain": 0.5},
    "m3sda": {"discrepancy_steps": 1, "prediction": "weighted"},
}


def config(make_config: Make, out: Path, method: str, **fields: object) -> TrainConfig:
    own = METHODS[method].config_class(**OPTIONS.get(method, {}) | fields)
    return make_config(out, method, own, max_steps=6, eval_every=2, checkpoint_every=1)


def prepared(config: TrainConfig) -> Run:
    return prepare(config, open_folder(config), make_fabric(config.run))


def kill_at(run: Run, step: int, console: Console) -> None:
    def kill() -> None:
        raise RuntimeError("killed")

    call_at_step(run, step, kill)
    with pytest.raises(RuntimeError, match="killed"):
        run.fit(console)


# ADDA's adaptation begins with step 3: before, at and after it. CycleGAN's pool is full by then; that its state goes on
# is in the default tier too (tests/methods/test_method.py).
@pytest.mark.parametrize(
    ("method", "steps"),
    [("adda", (2, 3, 4)), ("m3sda", (3,)), pytest.param("cyclegan", (3,), marks=pytest.mark.slow)],
)
def test_a_run_killed_and_resumed_ends_bit_identical(
    method: str, steps: tuple[int, ...], make_config: Make, tmp_path: Path, quiet: Console
) -> None:
    whole = train(config(make_config, tmp_path / "whole", method), console=quiet)
    for step in steps:
        broken = config(make_config, tmp_path / f"broken{step}", method)
        kill_at(prepared(broken), step, quiet)
        run = prepared(broken)
        assert run.step == step
        run.fit(quiet)
        assert_same_run(whole, RunFolder(broken.out), logs=False)


def test_m3sda_has_classifiers_for_each_source_and_is_opened_again(
    make_config: Make, tmp_path: Path, quiet: Console
) -> None:
    folder = train(config(make_config, tmp_path / "run", "m3sda"), console=quiet)
    loaded = load_run(folder.path, device="cpu")
    assert isinstance(loaded.method, M3SDA)
    assert loaded.method.num_sources == 2 and len(loaded.method.heads) == 4
    assert loaded.method.nearness is not None and bool((loaded.method.nearness.distances > 0).all())
    # Checked against the network as it is written.
    assert export_run(loaded, tmp_path / "exported", "torch").file.exists()


def test_adda_takes_up_a_finished_run_and_leaves_its_source_as_it_was(
    make_config: Make, tmp_path: Path, quiet: Console
) -> None:
    trained = train(config(make_config, tmp_path / "source", "source-only"), console=quiet)
    own = {"pretrain": 0.5, "source_checkpoint": str(trained.last)}
    adapted = train(config(make_config, tmp_path / "adda", "adda", **own), console=quiet)
    last = trained.rows()[-1]
    rows = adapted.rows()
    assert len(rows) == 4
    for row in rows:
        for name in ("source-val/one/accuracy", "source-val/two/accuracy"):
            assert row[name] == last[name]
    assert rows[0]["target-test/three/accuracy"] == last["target-test/three/accuracy"]
    # The run can be opened without the checkpoint that it began with.
    trained.last.unlink()
    loaded = load_run(adapted.path, device="cpu")
    assert export_run(loaded, tmp_path / "exported", "torch").file.exists()
    method = loaded.method
    assert isinstance(method, ADDA) and method.encoders is not None
    pairs = zip(method.encoders.source.parameters(), method.encoders.target.parameters(), strict=True)
    assert not any(torch.equal(source, target) for source, target in pairs)
