"""Methods and runs on a device that is a label: nothing is made on, or read from, the wrong one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from elsewhere import ELSEWHERE, Elsewhere, MixedDevices, elsewhere
from engine import test_distributed as distributed
from engine.test_cuda_runs import FAMILIES, finite, of_family, steps_on
from lightning.fabric import Fabric
from rich.console import Console
from torch import nn

from dynconv.engine import train as engine
from dynconv.engine.config import TrainConfig
from dynconv.engine.run_options import RunOptions

# The others take a minute together.
QUICK = ("gsda", "dan", "adda")
CASES = [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in distributed.CASES]


def test_tensors_of_both_devices_are_refused_as_on_a_gpu() -> None:
    with elsewhere():
        there = torch.arange(3.0, device=ELSEWHERE).requires_grad_()
        with pytest.raises(MixedDevices, match=r"aten.add.Tensor: \[\(3,\)\] elsewhere, \[\(3,\)\] on the CPU"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.detach().numpy()
        # A number may be of either, and so may places that are looked up.
        (there * torch.tensor(2.0))[torch.tensor([0, 2])].sum().backward()
        assert there.grad is not None and there.grad.device == ELSEWHERE and there.grad.tolist() == [2.0, 0.0, 2.0]
        layer = nn.Linear(3, 2).to(ELSEWHERE)
        assert isinstance(layer(there), Elsewhere) and not isinstance(layer(there).cpu(), Elsewhere)


@pytest.mark.parametrize("case", CASES)
def test_a_method_takes_the_same_steps_elsewhere(case: str) -> None:
    expected = distributed.train(case, 0, 1)
    with elsewhere():
        found = steps_on(ELSEWHERE, case, accelerator="cpu")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_goes_from_end_to_end_elsewhere(
    family: str, tmp_path: Path, make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    class There(Fabric):
        @property
        def device(self) -> torch.device:
            return ELSEWHERE

        def to_device(self, obj: nn.Module) -> nn.Module:
            return obj.to(ELSEWHERE)

    def make_fabric(run: RunOptions) -> Fabric:
        return There(accelerator="cpu", devices=1)

    monkeypatch.setattr(engine, "make_fabric", make_fabric)
    with elsewhere():
        finite(engine.train(of_family(make_config, tmp_path / "run", family, "cpu"), console=Console(quiet=True)))
