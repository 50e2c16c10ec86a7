from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynconv.nn import DynamicConv2d

VARIANTS: list[dict[str, Any]] = [
    {"residual": "subspace"},
    {"residual": "subspace", "basis_kernel_size": None, "stride": 2},
    {"residual": "combined", "scale_activation": "hard", "padding_mode": "reflect"},
    {"residual": "channel"},
]


def model(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    layers = [DynamicConv2d(3, 8, 3, padding=1, **options), nn.ReLU(), DynamicConv2d(8, 4, 3, temperature=0.5)]
    network = nn.Sequential(*layers).eval()
    for layer in (network[0], network[2]):
        nn.init.normal_(layer.branch.w1, std=4.0)
        nn.init.normal_(layer.branch.w2, std=2.0)
    return network


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_an_exported_program_takes_any_batch(options: dict) -> None:
    network = model(**options)
    exported = torch.export.export(network, (images(2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for batch in (1, 2, 5):
        torch.testing.assert_close(exported.module()(images(batch)), network(images(batch)))
    assert not any("dynconv" in str(node.target) for node in exported.graph.nodes)


# An ONNX export takes 4 s; the default tier runs the variants that differ most.
ONNX_VARIANTS = [
    VARIANTS[0],
    VARIANTS[2],
    *(pytest.param(v, marks=pytest.mark.slow) for v in (VARIANTS[1], VARIANTS[3])),
]


@torch.no_grad()
@pytest.mark.parametrize("options", ONNX_VARIANTS, ids=str)
def test_an_onnx_file_takes_any_batch(options: dict, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install dynconv[export]")
    pytest.importorskip("onnxscript", reason="pip install dynconv[export]")
    network = model(**options)
    file = tmp_path / "model.onnx"
    batch_axis = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(network, (images(2),), file, dynamo=True, dynamic_shapes=batch_axis, verbose=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    for batch in (1, 2, 5):
        (actual,) = session.run(None, {name: images(batch).numpy()})
        torch.testing.assert_close(torch.from_numpy(actual), network(images(batch)), rtol=1e-4, atol=1e-5)
