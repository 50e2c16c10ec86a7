"""What whoever watches a training sees."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from dynconv.engine.progress import ProgressDisplay

MEANS = {"loss": 2.5, "cross_entropy": 2.0, "adversarial_weight": 0.5, "loss/domain_loss": 1.25, "gradient/norm": 9.0}


def shown(*, terminal: bool, width: int) -> str:
    """All that a run of two steps of 4,000 writes, without what moves the cursor."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    with ProgressDisplay(console, start=0, max_steps=4000) as progress:
        progress.losses(2, 0.25, MEANS)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_of_any_width_shows_count_rate_time_and_every_loss(width: int) -> None:
    text = shown(terminal=True, width=width)
    last = text[text.rindex("2/4000") :]
    assert re.search(r"[\d.]+ steps/s  ETA (\d+ days?, )?\d+:\d\d:\d\d", last)
    for words in ("epoch 0.25", "loss 2.5", "cross_entropy 2", "adversarial_weight 0.5", "domain_loss 1.25"):
        # A line may end between a name and its value.
        assert all(word in last for word in words.split()), words
    assert "\u2026" not in last and "gradient" not in last
    assert max(map(len, text.splitlines())) <= width


def test_without_a_terminal_it_is_one_line() -> None:
    (line,) = shown(terminal=False, width=80).splitlines()
    assert line.startswith(
        "step 2/4000  epoch 0.25  loss 2.5  cross_entropy 2  adversarial_weight 0.5  domain_loss 1.25"
    )
    assert re.search(r"  [\d.]+ steps/s  ETA .*\d$", line)
