"""Runs of a method on a dynamic network: stopped and resumed, opened again, exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from same_run import whole_and_stopped

from dynconv.engine.config import TrainConfig
from dynconv.engine.export import export_run
from dynconv.engine.loaded_run import load_run
from dynconv.methods import ADDA, ADDAConfig
from dynconv.models import dynamic_parameters
from dynconv.nn import DynamicConv2d


def test_adda_on_a_dynamic_network_stopped_resumed_and_exported(
    make_config: Callable[..., TrainConfig], tmp_path: Path, quiet: Console
) -> None:
    fields = {"hidden_features": 8, "residual": "combined", "num_bases": 2, "temperature": 2.0}
    fields |= {"residual_lr_factor": 5.0}
    # The adaptation begins with step 3.
    whole, _ = whole_and_stopped(
        lambda name: make_config(tmp_path / name, "adda", ADDAConfig(**fields), max_steps=6, eval_every=2), 4, quiet
    )
    loaded = load_run(whole.path, device="cpu")
    method = loaded.method
    assert isinstance(method, ADDA) and method.encoders is not None
    layers = [layer for layer in method.encoders.target.modules() if isinstance(layer, DynamicConv2d)]
    assert len(layers) == 3 and all(float(layer.branch.temperature) == 2 for layer in layers)
    pairs = zip(dynamic_parameters(method.encoders.source), dynamic_parameters(method.encoders.target), strict=True)
    assert not any(torch.equal(source, target) for source, target in pairs)
    # Held against the network as it is written, for several batch sizes.
    assert export_run(loaded, tmp_path / "exported", "torch").file.exists()
