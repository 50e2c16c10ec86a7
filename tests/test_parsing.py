"""What --help and the refusals of the commands say, read as a user reads them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dynconv import cli
from dynconv.parsing import parse_options

Capture = pytest.CaptureFixture[str]

COMMANDS = {
    "eval": "eval [-h] [OPTIONS] RUN",
    "predict": "predict [-h] [OPTIONS] RUN DIR",
    "export": "export [-h] [OPTIONS] RUN",
    "plot training": "plot training [-h] RUN [RUN ...] [--out PNG]",
    "runs": "runs [-h] [DIR] [--json]",
    "report": "report [-h] [OPTIONS] RUN [RUN ...]",
    "reproduce drt-digits": "reproduce [-h] [OPTIONS] [TABLE]",
}


def words(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def stops(capsys: Capture, *args: str) -> tuple[object, str, str]:
    """Exit code, standard output and standard error of a command that ends before it does anything."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(list(args))
    captured = capsys.readouterr()
    return stop.value.code, words(captured.out), words(captured.err)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_arguments_and_their_defaults(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, out, err = stops(capsys, *command.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: dynconv {COMMANDS[command]}")
    for leak in ("(default: )", "None", "STR", "INT"):
        assert leak not in out


def test_arguments_before_help_stay_in_it(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert stops(capsys, "predict", "run", "images", "-h") == stops(capsys, "predict", "--help")


def test_help_tells_what_is_optional_and_what_an_option_takes(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert "[DIR] The folder that holds the runs, at any depth. (default: runs)" in stops(capsys, "runs", "--help")[1]
    assert "RUN [RUN ...] The run folders. (required)" in stops(capsys, "plot", "training", "--help")[1]
    assert "--precision {32-true,bf16-mixed,16-mixed}" in stops(capsys, "predict", "--help")[1]
    out = stops(capsys, "reproduce", "drt-digits", "--help")[1]
    assert "--tasks TASK [TASK ...] Only these protocols. (default: all)" in out
    assert "--rows ROW [ROW ...] Only these rows, by their labels. (default: all)" in out
    assert "--gpus GPU [GPU ...]" in out and "--threads N" in out and "[TABLE] The table's name" in out


REFUSED = {
    "predict run images --out x --top 0": "--top must be at least 1, got 0",
    "plot scenes run --images 51": (
        "--images must be at most 50, a row of the figure each, got 51; `dynconv predict` writes the label maps of any "
        "number of images"
    ),
    "plot training": "RUN: expected at least one run folder, got none",
    "report": "RUN: expected at least one run folder, or a folder that holds some; got none",
    "reproduce drt-digits --seeds 0": "--seeds must be at least 1, got 0",
    "reproduce drt-digits --dry-run --report-only": (
        "--report-only and --dry-run contradict each other: give one of the two"
    ),
}


@pytest.mark.parametrize("command", REFUSED)
def test_what_contradicts_itself_is_refused_in_the_words_of_the_command_line(command: str, capsys: Capture) -> None:
    assert stops(capsys, *command.split()) == (2, "", f"dynconv: error: {REFUSED[command]}")


def test_a_table_that_is_not_known_is_refused_with_those_that_are(capsys: Capture) -> None:
    code, out, err = stops(capsys, "reproduce", "drt-digit")
    assert (code, out) == (2, "")
    assert err.startswith("dynconv: error: TABLE: no table is called 'drt-digit' (did you mean drt-digits or ")
    assert err.endswith("; `dynconv reproduce` lists them")


@dataclass(frozen=True)
class Options:
    """Words for the help."""

    number: int = 1
    """How many."""

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("--number must not be negative")


def test_options_are_read_and_what_tyro_refuses_has_code_2(capsys: Capture) -> None:
    assert parse_options(Options, "x", ["--number", "3"]) == Options(3)
    for wrong in (["--number", "many"], ["--numbr", "3"], ["--number", "-1"]):
        with pytest.raises(SystemExit) as stop:
            parse_options(Options, "x", wrong)
        captured = capsys.readouterr()
        assert (stop.value.code, captured.out) == (2, "")
        assert "--number" in captured.err
