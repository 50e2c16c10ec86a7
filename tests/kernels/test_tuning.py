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

from triton.runtime.errors import OutOfResources  # noqa: E402

import dynconv  # noqa: E402
from dynconv import backends, functional  # noqa: E402
from dynconv.kernels import tuning, variants  # noqa: E402
from dynconv.kernels.tiles import TILES, Tile, choose_tile, tiles_to_time  # noqa: E402
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


def test_candidates_are_the_tiles_of_the_variants_that_can_run() -> None:
    found = tuning.candidates("half", 128, 64, 90, (3, 3), (1, 1), False, 4)
    assert {choice.variant for choice in found} == set(variants.VARIANTS) - {"basis-shared"}
    tiles = [choice.tile for choice in found if choice.variant == "aggregated"]
    assert tiles == tiles_to_time("half", 128, 64, 90, form="mixed", bases=4)
    narrow = tuning.candidates("half", 20, 16, 90, (3, 3), (3, 3), False, 4)
    assert all(choice.tile.columns <= 32 and choice.tile.reduction == 16 for choice in narrow if "linear" in choice[0])
    assert {choice.variant for choice in narrow} == set(variants.VARIANTS)
    assert len(set(found)) == len(found) and len(set(narrow)) == len(narrow)


@pytest.mark.parametrize("form", TILES)
@pytest.mark.parametrize("kind", ["half", "tf32", "ragged float32"])
def test_the_tiles_to_time_are_exactly_those_that_can_be_chosen(form: str, kind: str) -> None:
    for capability in (80, 90):
        for columns in (10, 32, 64, 512):
            for reduction in (3, 16, 512):
                chosen = {
                    choose_tile(kind, rows, columns, reduction, 1, capability, form=form, pieces=pieces)
                    for rows in (1, 49, 70, 200, 3136, 10**5, 10**6)
                    for pieces in ((1,) if form == "linear" else (1, 64))
                }
                assert set(tiles_to_time(kind, columns, reduction, capability, form=form)) == chosen


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), OutOfResources(200, 99, "shared memory")])
def test_a_candidate_without_room_is_passed_over(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[Choice] = []

    def run(choice: Choice) -> None:
        ran.append(choice)
        if choice in full:
            raise error

    monkeypatch.setattr(tuning, "seconds", lambda device, timed: timed() or SECONDS[ran[-1]])
    full = [CANDIDATES[1]]
    with tuning.enabled() as file:
        assert tuning.choose(DEVICE, "one", Choice("linear"), lambda: CANDIDATES, run) == CANDIDATES[2]
        assert "tuning passes over" in caplog.text and str(error) in caplog.text
        ran.clear()
        full = CANDIDATES
        for _ in range(2):
            # Nothing is worth keeping, and the search is not repeated.
            assert tuning.choose(DEVICE, "none", Choice("split"), lambda: CANDIDATES, run) == Choice("split")
        assert ran == CANDIDATES and len(file.choices) == 1


def test_an_error_of_another_kind_is_not_hidden() -> None:
    def run(choice: Choice) -> None:
        raise RuntimeError("a defect")

    with tuning.enabled(), pytest.raises(RuntimeError, match="a defect"):
        tuning.choose(DEVICE, "one", Choice("linear"), lambda: CANDIDATES, run)


def test_under_capture_only_what_is_kept_and_still_a_candidate_is_taken(
    timed: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose_among(candidates: list[Choice]) -> Choice:
        return tuning.choose(DEVICE, "a problem", Choice("linear"), lambda: candidates, lambda choice: choice)

    with tuning.enabled():
        choose()
        timed.clear()
        monkeypatch.setattr(tuning, "_is_capturing", lambda device: True)
        assert choose_among(CANDIDATES) == CANDIDATES[1]
        assert choose_among(CANDIDATES[::2]) == Choice("linear") == choose("another problem")
    assert timed == []


def test_a_write_that_fails_leaves_no_file_behind(
    timed: list[Choice], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(tuning.os, "replace", refuse)
    with tuning.enabled(tmp_path / "choices.json"):
        assert choose() == CANDIDATES[1]
    assert "no space left on device" in caplog.text and list(tmp_path.iterdir()) == []


@interpreted
def test_a_key_names_the_package_and_the_kernels_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "seconds", lambda device, run: 1.0)
    x, weight = torch.randn(2, 4, 3, 3), torch.randn(5, 4, 3, 3)
    with tuning.enabled() as file:
        for given in (weight, weight.contiguous(memory_format=torch.channels_last)):
            functional.dynamic_conv2d(x, given, scale=torch.rand(2, 5), backend="triton")
    assert len(file.choices) == 2 and all(f"dynconv {dynconv.__version__} |" in key for key in file.choices)


@pytest.mark.gpu
def test_candidates_are_timed_on_a_gpu_and_kept_for_a_captured_graph() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, basis, coefficients = (
        torch.randn(size, generator=generator).to("cuda", torch.bfloat16).requires_grad_()
        for size in ((4, 16, 7, 7), (16, 16, 3, 3), (32, 16, 3, 3), (4, 2))
    )

    def step(backend: str) -> tuple[torch.Tensor, torch.Tensor]:
        y = functional.dynamic_conv2d(x, weight, basis=basis, coefficients=coefficients, padding=1, backend=backend)
        return y.detach(), torch.autograd.grad(y, x, torch.ones_like(y))[0]

    with tuning.enabled() as file:
        found = step("triton")
        kept = dict(file.choices)
        assert sorted(key.split(" | ")[5].split()[0] for key in kept) == ["choose_forward", "choose_gradient"]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step("triton")
        graph.replay()
        assert file.choices == kept
    for got, again, expected in zip(found, captured, step("reference"), strict=True):
        torch.testing.assert_close(got, expected, rtol=3e-2, atol=0.2)
        torch.testing.assert_close(again, got, rtol=3e-2, atol=0.2)


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
