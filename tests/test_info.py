"""``dynconv info``: each backend is available, or missing with the reason."""

from __future__ import annotations

import pytest
import torch

import dynconv
from dynconv import backends, info


def test_every_backend_of_every_operator_is_listed() -> None:
    found = info.info()["backends"]
    assert set(found) == {"dynamic_conv2d", "coefficients"}
    assert {"eager", "triton", "reference"} <= set(found["dynamic_conv2d"])
    assert {"eager", "native (cpu)", "native (cuda)", "reference"} == set(found["coefficients"])
    assert found["coefficients"]["native (cpu)"] is None or backends.native_missing("cpu")


def test_what_was_not_built_and_what_cannot_run_is_shown_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"mode": "auto", "built": {}, "left_out": {"_native_cpu": "no compiler"}}
    monkeypatch.setattr(backends, "build_record", lambda: record)
    monkeypatch.setattr(backends, "native_missing", lambda device: f"none for {device}")
    info.main()
    printed = capsys.readouterr().out
    assert dynconv.__version__ in printed and "DYNCONV_BUILD  auto" in printed
    assert "_native_cpu    left out: no compiler" in printed
    assert "native (cpu)   missing: none for cpu" in printed
    assert "native (cuda)  missing: none for cuda" in printed


def test_operators_for_a_gpu_are_missing_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "native_missing", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in str(info.info()["backends"]["coefficients"]["native (cuda)"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert info.info()["backends"]["coefficients"]["native (cuda)"] is None
