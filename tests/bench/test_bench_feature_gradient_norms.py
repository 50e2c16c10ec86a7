"""The benchmark of the feature-gradient norms end to end on tiny banks."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark_rows import QUICK, measured
from torch import Tensor

from dynconv.bench import bench_feature_gradient_norms as bench
from dynconv.bench import gradient_norms
from dynconv.bench.gradient_norms import PROVIDERS, Given, Spec
from dynconv.bench.machine import Rates

TINY = [*QUICK, "--num", "8", "--features", "5", "--hidden", "6", "--batch", "10"]
SPEC = Spec(14, 20, 12, 8, 3, 0.5, "gsda", "fp32", "forward+backward", "cpu")


@pytest.mark.usefixtures("quick_rates")
def test_every_row_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measured(bench.main, tmp_path, *TINY, "--no-memory")
    assert {(row["provider"], row["mode"], row["residual"]) for row in rows} == {
        (provider, mode, weights)
        for provider in ("static", "dynconv", "loop", "vmap")
        for mode in ("forward", "forward+backward")
        for weights in ("gsda", "dense")
    }
    for row in rows:
        assert (row["status"], row["op"], row["shape"]) == (
            "ok",
            "feature_gradient_norms",
            "8 x 5-6, 3 layers, dropout 0.5",
        ), row["note"]
        assert all(float(row[name]) > 0 for name in ("p50_ms", "ratio_to_static", "floor_ms", "gflop", "error"))
        assert float(row["error"]) < 1e-5
    assert "8 x 5-6" in capsys.readouterr().out


@pytest.mark.usefixtures("quick_rates")
@pytest.mark.parametrize("layers", ["1", "2"])
def test_other_depths_agree_too_and_memory_is_measured(tmp_path: Path, layers: str) -> None:
    words = ("--layers", layers, "--weights", "gsda", "--mode", "forward+backward", "--providers", "dynconv", "loop")
    rows = measured(bench.main, tmp_path, *TINY, *words)
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert all(float(row["peak_mb"]) >= float(row["peak_extra_mb"]) >= 0 for row in rows)


@pytest.mark.usefixtures("quick_rates")
@pytest.mark.parametrize("provider", ["static", "dynconv", "loop", "vmap"])
@pytest.mark.parametrize("part", ["result", "gradient"])
def test_a_provider_that_is_wrong_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, part: str
) -> None:
    right = PROVIDERS[provider]

    def wrong(given: Given) -> tuple[Tensor | None, Tensor, Tensor]:
        norms, logits, losses = right(given)
        if part == "result":
            return norms, logits, losses * 1.001
        return norms, logits, losses.detach() + 1.01 * (losses - losses.detach())

    monkeypatch.setitem(PROVIDERS, provider, wrong)
    words = ("--no-memory", "--weights", "gsda", "--providers", provider)
    status = {
        (row["provider"], row["mode"]): row["status"] for row in measured(bench.main, tmp_path, *TINY, *words, code=1)
    }
    assert status[provider, "forward+backward"] == "refused"
    assert status[provider, "forward"] == ("refused" if part == "result" else "ok")


def test_sample_weights_are_those_of_a_hierarchy() -> None:
    p = gradient_norms.sample_weights(SPEC, torch.Generator().manual_seed(0))
    groups = 14 // 6
    assert p.shape == (20, 14) and (p[:, 0] == 1).all()
    torch.testing.assert_close(p[:, 1 : 1 + groups].sum(dim=1), torch.ones(20))
    torch.testing.assert_close(p[:, 1 + groups :].sum(dim=1), torch.ones(20))
    assert ((p[:10] != 0).sum(dim=1) == 3).all() and (p[10:] > 0).all()
    dense = gradient_norms.sample_weights(replace(SPEC, weights="dense"), torch.Generator().manual_seed(0))
    assert (dense > 0).all()


def test_the_modules_are_the_bank_on_the_same_memory() -> None:
    given = gradient_norms.tensors(SPEC)
    given.bank.eval()
    for module in given.modules:
        module.eval()
    logits = torch.cat([module(given.features) for module in given.modules], dim=1)
    torch.testing.assert_close(logits, given.bank(given.features))
    assert given.modules[3][0].weight.data_ptr() == given.bank.weight_0[3].data_ptr()


def test_every_provider_draws_dropout_while_timed_and_none_while_checked() -> None:
    for name in ("static", "dynconv", "loop", "vmap"):
        step = gradient_norms.timed(SPEC, gradient_norms.tensors(SPEC), name)
        assert not torch.equal(step()[0][1], step()[0][1]), name
        assert gradient_norms.distance(SPEC, name)[0] < 1e-5


def test_the_floor_counts_products_of_pairs_that_count() -> None:
    rates = Rates(1e9, {"fp32": 1e9})
    weights = 12 * 8 + 8 * 8 + 8
    flops, moved, milliseconds = gradient_norms.floor(SPEC, "dynconv", 100, rates)
    assert flops == 8 * 100 * weights and moved == (4 + 8) * 14 * weights
    assert milliseconds == pytest.approx(1e3 * max(flops, 0) / 1e9)
    forward = replace(SPEC, mode="forward")
    assert gradient_norms.floor(forward, "static", 100, rates)[:2] == (2 * 14 * 20 * weights, 4 * 14 * weights)


def test_a_problem_beyond_the_memory_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vmap, loop, ours = (gradient_norms.least_bytes(SPEC, name) for name in ("vmap", "loop", "dynconv"))
    assert vmap > loop > ours
    monkeypatch.setattr(bench, "free_bytes", functools.partial(lambda limit, device: limit, 2000))
    monkeypatch.setattr("dynconv.bench.session.measure_rates", lambda *_: Rates(1e9, {"fp32": 1e9}))
    rows = measured(
        bench.main, tmp_path, *TINY, "--no-memory", "--weights", "gsda", "--mode", "forward", "--providers", "loop"
    )
    assert {row["status"] for row in rows} == {"skipped"} and "GB are free" in rows[0]["note"]


def test_wrong_use_is_answered_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--num", "3"], "--num: expected at least 4, got 3"),
        (["--layers", "0"], "--layers: expected at least 1, got 0"),
        (["--dropout", "1"], "--dropout: expected at least 0 and less than 1, got 1.0"),
        (["--weights", "sparse"], "--weights: unknown sparse; expected some of gsda, dense"),
        (["--providers", "ours"], "--providers: unknown ours"),
    ):
        assert bench.main([*QUICK, *words]) == 2
        assert message in capsys.readouterr().err
