"""Shared fixtures: the real data sets, figures, and the device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Triton reads this when a kernel is decorated, so it stands before anything imports dynconv.kernels.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The real data sets; the tests that need them skip, with the reason, where there are none."""
    root = os.environ.get("DYNCONV_DATA")
    if not root:
        pytest.skip("real data sets: DYNCONV_DATA is not set (see README, Data)")
    path = Path(root)
    if not path.is_dir():
        pytest.fail(f"DYNCONV_DATA={root} is not a folder")
    return path


@pytest.fixture(scope="session")
def scene_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of calibrator on small driving scenes, two steps, the second of the calibrator; `scenes.tiny_run` tells
    where its data lie."""
    from scenes import tiny_run, write_day_and_dusk

    return tiny_run(write_day_and_dusk(tmp_path_factory.mktemp("scenes")), "calibrator")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, as objects, so that a test reads what was drawn."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A browser that was not there is said aloud: what only a browser can see was not looked at."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "NO CHROMIUM" in str(report.longrepr)]
    if skipped:
        terminalreporter.section("NO CHROMIUM: THE REPORT WAS NOT OPENED IN A BROWSER", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests were skipped: {skipped[0].longrepr[2]}")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where a test computes: the parameter "cpu" proves its body on any machine, "cuda" runs with `-m gpu`."""
    # `-m slow` also selects what is slow and needs a GPU.
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture
def exact_float32() -> Iterator[None]:
    """float32 matrix products without TF32, whatever a test before allowed."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    yield
    torch.backends.cuda.matmul.fp32_precision = before
