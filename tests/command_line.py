"""Commands in this process, for tests."""

from __future__ import annotations

import pytest

from dynconv import cli


def fails(capsys: pytest.CaptureFixture[str], *args: str, code: int = 2) -> str:
    """The message of a command that must end with `code` and print nothing to standard output."""
    capsys.readouterr()
    try:
        found = cli.main(list(args))
    except SystemExit as stop:
        found = stop.code
    captured = capsys.readouterr()
    assert (found, captured.out) == (code, "")
    assert "Traceback" not in captured.err
    return " ".join(captured.err.replace("│", " ").split())
