"""``dynconv info``: each backend is available, or missing with the reason."""

from __future__ import annotations

import pytest

import dynconv
from dynconv import backends, info


def test_every_backend_of_every_operator_is_listed() -> None:
    found = info.info()["backends"]
    assert set(found) == {"dynamic_conv2d", "coefficients"}
    assert {"eager", "triton", "reference"} <= set(found["dynamic_conv2d"])
    assert {"eager", "native (cpu)", "native (cuda)", "reference"} == set(found["coefficients"])
    assert found["coefficients"]["native (cpu)"] is None or backends.native_missing("cpu")


def test_a_part_that_was_not_built_is_shown_with_the_reason_of_the_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"mode": "auto", "built": {}, "left_out": {"_native_cpu": "no compiler", "_native_cuda": "no nvcc"}}
    monkeypatch.setattr(backends, "build_record", lambda: record)
    monkeypatch.setattr(backends, "native_missing", lambda device: f"none for {device}")
    info.main()
    printed = capsys.readouterr().out
    assert dynconv.__version__ in printed and "auto" in printed
    assert "_native_cpu    left out: no compiler" in printed
    assert "native (cpu)   missing: no compiler" in printed
    assert "native (cuda)  missing: no nvcc" in printed


def test_a_library_that_was_built_and_does_not_load_is_shown_with_that_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = {"mode": "cuda", "built": {"_native_cuda": "_native_cuda.abi3.so"}, "left_out": {}}
    monkeypatch.setattr(backends, "build_record", lambda: record)
    monkeypatch.setattr(backends, "native_missing", lambda device: f"{device} does not load")
    assert info.info()["backends"]["coefficients"]["native (cuda)"] == "cuda does not load"
