"""`dynconv bench`: its words, exit codes and messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmark_rows import QUICK, read

from dynconv import cli, commands, ending
from dynconv.bench import session

ROOT = Path(__file__).resolve().parents[2]


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that must end with code 2 and print nothing."""
    try:
        code = cli.main(["bench", *words])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "") and "Traceback" not in captured.err
    return " ".join(captured.err.replace("│", " ").split())


@pytest.mark.usefixtures("quick_rates")
def test_the_operator_is_a_word_and_dynamic_conv2d_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [*QUICK, "--shapes", "4-4@3k3", "--batch", "1", "--layout", "nchw", "--mode", "forward", "--no-memory"]
    for words, op in (
        ([], "dynamic_conv2d"),
        (["dynamic_conv2d"], "dynamic_conv2d"),
        (["coefficients"], "coefficients"),
    ):
        out = tmp_path / f"{len(words)}{op}.csv"
        assert cli.main(["bench", *words, *tiny, "--out", str(out)]) == 0
        assert {row["op"] for row in read(out)} == {op}
    capsys.readouterr()


def test_wrong_use_is_answered_with_code_2_and_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "dynamic_conv2d, coefficients, feature_gradient_norms, drt-step" in fails(capsys, "convolution")
    assert "expected one of r64" in fails(capsys, "--device", "cpu", "--shapes", "r1024")
    assert "--providers: unknown ours" in fails(capsys, "--device", "cpu", "--providers", "ours")
    assert "--layout: unknown nchv" in fails(capsys, "--device", "cpu", "--layout", "nchv")
    assert "--basis full" in fails(capsys, "--device", "cpu", "--residual", "mixture", "--basis", "1x1")
    for operation in ("dynamic_conv2d", "coefficients"):
        told = fails(capsys, operation, "--device", "cpu", "--batch", "8", "0")
        assert told == "dynconv: error: --batch: expected at least 1, got 0"
        assert "--num-bases: expected at least 1, got -1" in fails(capsys, operation, "--num-bases", "-1")
    assert (
        fails(capsys, "--budget", "-1") == "dynconv: error: --budget: expected a positive number of seconds, got -1.0"
    )
    assert "--residual: unknown mixture" in fails(capsys, "coefficients", "--residual", "mixture")
    assert "--models: unknown resnet18" in fails(capsys, "drt-step", "--models", "resnet18")
    for size in ("0", "1"):
        assert f"at least 2 images, got {size}" in fails(capsys, "drt-step", "--device", "cpu", "--batch", size)
    assert "--num-bases: expected at least 1, got 0" in fails(capsys, "drt-step", "--num-bases", "0")
    assert "--bogus" in fails(capsys, "drt-step", "--bogus")
    out = tmp_path / "kept.csv"
    out.write_text("measured with care")
    assert "--overwrite" in fails(capsys, "--out", str(out))
    assert out.read_text() == "measured with care"
    assert "is a folder" in fails(capsys, "--out", str(tmp_path), "--overwrite")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no GPU" in fails(capsys, "--device", "cuda")
    monkeypatch.setitem(ending.PACKAGES, "bench", ("torch", "not_a_package"))
    assert "pip install 'dynconv[bench]'" in fails(capsys)


@pytest.mark.parametrize("operation", ["dynamic_conv2d", "coefficients", "drt-step"])
def test_a_file_that_cannot_be_written_is_known_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("the rates were measured first")

    monkeypatch.setattr(session, "measure_rates", measured)
    (tmp_path / "file").touch()
    message = fails(capsys, operation, "--device", "cpu", "--out", str(tmp_path / "file" / "rows.csv"))
    assert "rows.csv cannot be written: " in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.usefixtures("quick_rates")
def test_a_disk_that_is_full_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*QUICK, "--shapes", "4-4@3k3", "--batch", "1", "--mode", "forward", "--layout", "nchw", "--no-memory"]
    message = fails(capsys, *words, "--providers", "static", "--out", "/dev/full", "--overwrite")
    assert "--out /dev/full cannot be written: No space left" in message


@pytest.mark.parametrize("operation", ["dynamic_conv2d", "coefficients", "drt-step"])
def test_an_interruption_before_the_first_row_leaves_the_files_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "measure_rates", interrupted)
    kept, new = tmp_path / "kept.csv", tmp_path / "new.csv"
    kept.write_text("measured with care")
    for out in (kept, new):
        assert cli.main(["bench", operation, "--device", "cpu", "--out", str(out), "--overwrite"]) == 130
        assert capsys.readouterr() == ("", "dynconv: interrupted; no row was written\n")
    assert kept.read_text() == "measured with care" and not new.exists()


def test_an_interruption_of_the_imports_says_nothing_of_checkpoints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.importlib, "import_module", interrupted)
    assert cli.main(["bench"]) == 130
    assert capsys.readouterr().err == "dynconv: interrupted; no row was written\n"


def test_help_names_the_operations_and_imports_no_torch() -> None:
    program = "import sys; from dynconv import cli; cli.main(['bench', '--help']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "drt-step" in result.stdout and result.stdout.endswith("False\n")


@pytest.mark.parametrize("name", ["compare", "plot"])
def test_the_readers_of_tables_run_as_modules(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", f"dynconv.bench.{name}", *["a.csv", "b.csv"][: 2 if name == "compare" else 1]]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and f"dynconv.bench.{name}: error: a.csv cannot be read" in result.stderr


@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="runs in a checkout")
def test_a_script_of_the_checkout_runs_by_its_path(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "compare.py"), "a.csv", "b.csv"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "a.csv cannot be read" in result.stderr
