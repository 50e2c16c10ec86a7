"""Source-or-Not in the terminal: a person plays, and the score is kept."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table
from rich.text import Text

from dynconv.metrics.source_or_not import shared_histogram
from dynconv.report.table import counted, percent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from dynconv.report.figures.source_or_not import Game, Round

BINS = 16
# Characters of the longest bar, and of the scale on which single values stand.
BAR, SCALE = 20, 56
EIGHTHS = " ▏▎▍▌▋▊▉█"
SAME, DIFFERENT, QUIT = "same", "different", "quit"
PROMPT = "same domain or different? [s/d/q] "


class Score(NamedTuple):
    """How a game went."""

    answered: tuple[Round, ...]
    right: tuple[bool, ...]
    """Of each of these, whether the person's answer was."""


def introduction(game: Game) -> str:
    """Two lines: what is played with, and what is seen."""
    run, domains = game.title.split("\n")
    return (
        f"Source-or-Not of {run}: {domains}.\n"
        "A unit is one channel of a layer, a place one position of its map. Of each of two test images you see how the "
        "activations of one unit spread over its places, or its only value: are both images of one domain?"
    )


def play_rounds(rounds: Sequence[Round], console: Console) -> Score:
    """Ask for every round, until all are answered or the person leaves: with q, at the end of the input, or by Ctrl-C.

    Args:
        rounds: What to ask for.
        console: Where to write; what is read is the standard input, a terminal or not.
    """
    answered: list[Round] = []
    right: list[bool] = []
    try:
        for number, one in enumerate(rounds, 1):
            console.print(f"\nround {number} of {len(rounds)}: {one.question}", markup=False, highlight=False)
            console.print(picture(one))
            answer = _ask(console)
            if answer == QUIT:
                break
            answered.append(one)
            right.append((answer == SAME) == one.same)
            verdict = "right" if right[-1] else "wrong"
            score = f"{sum(right)} of {len(right)}"
            console.print(f"{verdict}: {one.answer} ({score})", markup=False, highlight=False)
    except (EOFError, KeyboardInterrupt):
        console.print()
    return Score(tuple(answered), tuple(right))


def _ask(console: Console) -> str:
    while True:
        text = console.input(PROMPT, markup=False).strip().lower()
        for answer in (SAME, DIFFERENT, QUIT):
            if text and answer.startswith(text):
                return answer
        console.print(f"expected s (same), d (different) or q (quit), got {text!r}", markup=False, highlight=False)


def picture(one: Round) -> RenderableType:
    """Both histograms side by side over the same bins, the longest bar of all being the largest share of the places;
    of single values their places on the unit's range over many images."""
    if max(map(len, one.values)) == 1:
        return _scale(one)
    edges, shares = shared_histogram(one.values, BINS)
    table = Table(box=None, padding=(0, 1))
    table.add_column("activation", justify="right")
    for image in (1, 2):
        table.add_column(f"image {image}", min_width=BAR, no_wrap=True, style=_STYLES[image - 1])
        table.add_column("%", justify="right", min_width=5)
    largest = shares.max()
    for place, (first, second) in enumerate(shares.T):
        cells = [cell for share in (first, second) for cell in (bar(share / largest), _share(share))]
        table.add_row(f"{(edges[place] + edges[place + 1]) / 2:.3g}", *cells)
    return table


_STYLES = ("cyan", "yellow")


def bar(share: float) -> str:
    """A bar of `BAR` characters at 1, to an eighth of a character; what is not 0 shows."""
    eighths = round(8 * BAR * share)
    if share > 0:
        eighths = max(eighths, 1)
    whole, rest = divmod(eighths, 8)
    return EIGHTHS[8] * whole + (EIGHTHS[rest] if rest else "")


def _share(share: float) -> str:
    # "0.0" would say that there is nothing.
    return "" if share == 0 else "<0.1" if share < 0.001 else percent(share)


def _scale(one: Round) -> Text:
    low, high = one.limits
    text = Text()
    for image, values in enumerate(one.values):
        value = float(values[0])
        at = round((SCALE - 1) * (value - low) / (high - low))
        line = "·" * at + "█" + "·" * (SCALE - 1 - at)
        text.append(f"image {image + 1} {line} {value:.3g}\n", style=_STYLES[image])
    text.append(f"one value of each image, from {low:.3g} to {high:.3g}: the unit's range over all test images")
    return text


def score_table(score: Score) -> Table:
    """The person's score beside the classifier's at the same rounds and over all pairs, and chance."""
    total = len(score.right)
    caption = f"of {counted(total, 'round')} that you answered" if total else "you answered no round"
    table = Table(title="Source-or-Not", caption=caption)
    table.add_column("")
    table.add_column("right", justify="right")
    table.add_column("%", justify="right")
    if total:
        theirs = sum(one.classifier_right for one in score.answered)
        for who, right in (("you", sum(score.right)), ("classifier, the same rounds", theirs)):
            table.add_row(who, f"{right} of {total}", percent(right / total))
        # All have a share, for units that are constant are not asked for.
        over_all = fmean(share.mean for one in score.answered if (share := one.layer.game) is not None)
        table.add_row("classifier, all pairs and live units of these layers", "", percent(over_all))
    table.add_row("chance", "", percent(0.5))
    return table
