"""The benchmark of GSDA's training step end to end on tiny discriminators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_rows import QUICK, measured
from torch import Tensor

from dynconv.bench import bench_gsda_step as bench
from dynconv.methods import GSDA

TINY = [*QUICK, "--models", "lenet-small", "--batch", "4", "--hidden", "6", "--bottleneck", "5"]
STEP = bench.Step("lenet-small", "digits", 3, 6, 5, "cpu")


@pytest.mark.usefixtures("quick_rates")
def test_every_row_is_complete(tmp_path: Path) -> None:
    rows = measured(bench.main, tmp_path, *TINY)
    assert [row["provider"] for row in rows] == ["static", "plain", "dynconv", "loop"]
    for row in rows:
        assert (row["op"], row["shape"], row["status"]) == ("gsda-step", "lenet-small, digits, 14 x 5-6", "ok"), row[
            "note"
        ]
        assert all(float(row[name]) > 0 for name in ("p50_ms", "ratio_to_static", "images_per_s"))
        assert float(row["peak_mb"]) >= float(row["peak_extra_mb"]) >= 0
    assert all(float(row["error"]) < 1e-2 for row in rows[2:])


@pytest.mark.usefixtures("quick_rates")
def test_a_step_whose_norms_are_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = GSDA.judge

    def doubled(self: GSDA, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        norms, logits, losses = judge(self, *arguments)
        return 2 * norms, logits, losses

    monkeypatch.setattr(GSDA, "judge", doubled)
    rows = measured(bench.main, tmp_path, *TINY, "--no-memory", code=1)
    assert [row["status"] for row in rows] == ["ok", "ok", "refused", "ok"]
    assert "is off the oracle" in rows[2]["note"]


def test_the_loop_holds_the_same_discriminators_as_modules_of_their_own() -> None:
    stacked, separate = (bench.training(STEP, name).method for name in ("dynconv", "loop"))
    modules = separate.discriminators
    assert isinstance(modules, bench.Separate)
    assert len(modules) == 14
    for method in (stacked, separate):
        method.eval()
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(modules(features), stacked.discriminators(features))


def test_a_step_moves_every_group() -> None:
    own = bench.training(STEP, "dynconv")
    before = {name: value.clone() for name, value in own.method.state_dict().items()}
    own()
    after = own.method.state_dict()
    for part in ("features.", "heads.", "discriminators."):
        assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith(part)), part
