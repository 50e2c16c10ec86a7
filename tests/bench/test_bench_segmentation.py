"""The benchmark of segmentation networks end to end, on a DRN-26 of few channels."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from benchmark_rows import QUICK, measured
from segmentation_networks import make_narrow
from torch import Tensor

from dynconv.bench import bench_segmentation as bench
from dynconv.nn import DynamicConv2d

WORDS = [*QUICK, "--models", "drn26", "--image-size", "16", "32", "--no-memory"]
PROBLEM = bench.Problem("drn26", bench.TRAINING, 1, (16, 32), "fp32", 2, "cpu")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    make_narrow(monkeypatch)


@pytest.mark.usefixtures("quick_rates")
def test_every_row_is_complete_and_a_wrong_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(bench.main, tmp_path, *WORDS)
    kinds = [(mode, name) for mode in ("training step", "inference") for name in ("static", "dynconv")]
    assert [(row["mode"], row["provider"]) for row in rows] == kinds
    for row in rows:
        assert (row["op"], row["shape"], row["size"], row["status"]) == ("segmentation", "drn26", "16x32", "ok")
        assert all(float(row[name]) > 0 for name in ("p50_ms", "ratio_to_static", "images_per_s", "gflop"))
        assert float(row["error"]) < 1e-4
    # A step is three products where inference is one, but for the gradient of the images.
    assert 2.5 < float(rows[0]["gflop"]) / float(rows[2]["gflop"]) < 3
    forward = DynamicConv2d.forward
    monkeypatch.setattr(DynamicConv2d, "forward", lambda self, x, context=None: forward(self, x, context) * 1.01)
    rows = measured(bench.main, tmp_path, *WORDS, "--mode", "inference", code=1)
    assert [row["status"] for row in rows] == ["ok", "refused"] and "not timed" in rows[1]["note"]


def test_a_step_moves_the_bases_and_inference_nothing() -> None:
    # As the process that measures memory is told.
    arguments = json.loads(json.dumps(asdict(PROBLEM)))
    own = bench.prepare(arguments, "dynconv")
    assert moved(own) >= {"0.layer8.0.conv2.basis", "0.layer8.0.conv2.weight", "1.score.bias"}
    still = bench.prepare(arguments | {"mode": bench.INFERENCE}, "dynconv")
    assert moved(still) == set()
    assert still().shape == (1, 19, 16, 32) and not still().requires_grad
    assert still.standing_mb < own.standing_mb
    assert not any(isinstance(each, DynamicConv2d) for each in bench.prepared(PROBLEM, "static").model.modules())


def moved(own: bench.Training) -> set[str]:
    before: dict[str, Tensor] = {name: each.detach().clone() for name, each in own.model.named_parameters()}
    own()
    return {name for name, each in own.model.named_parameters() if not torch.equal(each, before[name])}


def test_wrong_use_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--models", "lenet-small"], "--models: unknown lenet-small; expected some of erfnet-encoder"),
        (["--image-size", "40", "64"], "--image-size: expected multiples of 32 for fcn8s, got 40 64"),
        (["--num-bases", "0"], "--num-bases: expected at least 1, got 0"),
        (["--mode", "forward"], "--mode: unknown forward"),
    ):
        assert bench.main(["--device", "cpu", *words]) == 2
        assert told in capsys.readouterr().err
