"""Measured choices: off by default, timed once, kept on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton kernels need triton")

from dynconv import backends, functional  # noqa: E402
from dynconv.kernels import tuning, variants  # noqa: E402
from dynconv.kernels.tiles import Tile, shipped_tiles  # noqa: E402
from dynconv.kernels.tuning import Choice, TuningFile  # noqa: E402

DEVICE = torch.device("cpu")
WITHOUT_INTERPRETER = backends.triton_missing(DEVICE)
interpreted = pytest.mark.skipif(WITHOUT_INTERPRETER is not None, reason=str(WITHOUT_INTERPRETER))
CANDIDATES = [Choice("linear"), Choice("materialised", Tile(64, 64, 32, 4, 3)), Choice("aggregated")]
SECONDS = dict(zip(CANDIDATES, (3.0, 1.0, 2.0), strict=True))


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DYNCONV_AUTOTUNE", raising=False)
    monkeypatch.setenv("DYNCONV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Choice]:
    """The choices that were timed; a fake clock, under which materialised is the fastest."""
    found: list[Choice] = []

    def seconds(device: torch.device, run: Callable[[], Choice]) -> float:
        found.append(run())
        return SECONDS.get(found[-1], 9.0)

    monkeypatch.setattr(tuning, "seconds", seconds)
    return found


def choose(problem: str = "a problem") -> Choice:
    return tuning.choose(DEVICE, problem, Choice("linear"), lambda: CANDIDATES, lambda choice: choice)


def test_nothing_is_timed_or_read_unless_asked_for(timed: list[Choice]) -> None:
    path = tuning.default_path()
    path.parent.mkdir(parents=True)
    path.write_text("not even JSON")
    assert choose() == Choice("linear")
    assert timed == [] and tuning.active() is None


def test_the_fastest_candidate_is_kept_and_timed_once(timed: list[Choice]) -> None:
    with tuning.enabled() as file:
        assert choose() == CANDIDATES[1]
        assert choose() == CANDIDATES[1]
        assert choose("another problem") == CANDIDATES[1]
    assert timed == 2 * CANDIDATES
    assert file.path == tuning.default_path()
    assert tuning.active() is None


def test_the_environment_asks_for_it_as_well(timed: list[Choice], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNCONV_AUTOTUNE", "1")
    assert choose() == CANDIDATES[1] and timed == CANDIDATES


def test_another_object_reads_the_choice_without_timing(timed: list[Choice], tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    with tuning.enabled(path):
        choose()
    timed.clear()
    with tuning.enabled(path):
        assert choose() == CANDIDATES[1]
    assert timed == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["choices.json"]


def test_another_process_reads_the_choice_without_timing(timed: list[Choice]) -> None:
    with tuning.enabled():
        choose()
    program = (
        "import torch\n"
        "from dynconv.kernels import tuning\n"
        "from dynconv.kernels.tuning import Choice\n"
        "from dynconv.kernels.tiles import Tile\n"
        f"candidates = {CANDIDATES!r}\n"
        "def run(choice): raise SystemExit('timed')\n"
        "print(tuning.choose(torch.device('cpu'), 'a problem', Choice('linear'), lambda: candidates, run))\n"
    )
    environment = os.environ | {"DYNCONV_AUTOTUNE": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == repr(CANDIDATES[1]), done.stderr


def test_choices_of_two_writers_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    first, second = TuningFile(path), TuningFile(path)
    first.choose("one", CANDIDATES, SECONDS.__getitem__)
    second.choose("two", CANDIDATES, SECONDS.__getitem__)
    assert set(TuningFile(path).choices) == {"one", "two"}


def test_a_kept_choice_that_is_no_longer_a_candidate_is_timed_again(timed: list[Choice], tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    file = TuningFile(path)
    file.choose("problem", CANDIDATES, SECONDS.__getitem__)
    assert file.choose("problem", CANDIDATES[::2], SECONDS.__getitem__) == CANDIDATES[2]


FOREIGN = {
    "torn": '{"format": "dynconv tuning 1", "choi',
    "of another program": '{"hello": 1}',
    "a list": "[]",
    "another format": '{"format": "dynconv tuning 0", "choices": {}}',
    "an unknown variant": '{"format": "dynconv tuning 1", "choices": {"k": {"variant": "fft", "tile": null}}}',
    "a short tile": '{"format": "dynconv tuning 1", "choices": {"k": {"variant": "linear", "tile": [1, 2]}}}',
    "no choice": '{"format": "dynconv tuning 1", "choices": {"k": 3}}',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_file_that_holds_no_choices_is_reported_and_replaced(
    content: str, timed: list[Choice], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "choices.json"
    path.write_text(content)
    with tuning.enabled(path):
        assert f"{path} holds no tuning choices and is ignored" in caplog.text
        assert choose() == CANDIDATES[1]
    assert json.loads(path.read_text())["format"] == tuning.FORMAT
    assert len(TuningFile(path).choices) == 1


def test_a_folder_that_cannot_be_written_is_reported(
    timed: list[Choice], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with tuning.enabled(tmp_path / "file" / "choices.json"):
        assert choose() == CANDIDATES[1] == choose()
    assert "cannot be kept" in caplog.text and timed == CANDIDATES


def test_candidates_are_the_shipped_tiles_of_the_variants_that_can_run() -> None:
    found = tuning.candidates("half", 128, 90, (3, 3), (1, 1), False, 4)
    assert {choice.variant for choice in found} == set(variants.VARIANTS) - {"basis-shared"}
    tiles = [choice.tile for choice in found if choice.variant == "aggregated"]
    assert tiles == shipped_tiles("half", 90, "mixed", 4)
    narrow = tuning.candidates("half", 20, 90, (3, 3), (3, 3), False, 4)
    assert all(choice.tile.columns <= 32 for choice in narrow if choice.variant == "linear")
    assert {choice.variant for choice in narrow} == set(variants.VARIANTS)


@interpreted
def test_the_operator_runs_the_tuned_variant(timed: list[Choice], monkeypatch: pytest.MonkeyPatch) -> None:
    from dynconv.kernels import dynamic_conv2d as kernels

    ran: list[str] = []
    launch = kernels.forward

    def forward(*arguments, **options):
        ran.append(options["variant"])
        return launch(*arguments, **options)

    def seconds(device: torch.device, run: Callable[[], torch.Tensor]) -> float:
        run()
        return {"vendor-linear": 1.0}.get(ran[-1], 2.0)

    monkeypatch.setattr(kernels, "forward", forward)
    monkeypatch.setattr(tuning, "seconds", seconds)
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator) for size in ((2, 3, 2, 2), (4, 3, 1, 1)))
    scale = torch.rand(2, 4, generator=generator)
    expected = functional.dynamic_conv2d(x, weight, scale=scale, backend="reference")
    with tuning.enabled():
        y = functional.dynamic_conv2d(x, weight, scale=scale, backend="triton")
        # Channel attention: every variant that mixes no bases was timed, the fastest of them then run.
        assert set(ran) == {"linear", "materialised", "vendor-linear"} and ran[-1] == "vendor-linear"
        torch.testing.assert_close(y, expected)
        ran.clear()
        functional.dynamic_conv2d(x, weight, scale=scale, backend="triton")
    assert ran == ["vendor-linear"]
