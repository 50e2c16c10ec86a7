"""The figure, the table and the CSV file of Source-or-Not."""

from __future__ import annotations

import csv
import io
import textwrap
from pathlib import Path

from rich.table import Table

from dynconv.metrics.source_or_not import PAIRINGS, Share
from dynconv.plots.source_or_not import LayerAnswers, PairPanel, save_source_or_not
from dynconv.report.figures import write_beside
from dynconv.report.source_or_not import Game, Round
from dynconv.report.source_or_not_images import count_of
from dynconv.report.table import counted, percent

# Characters of a line below a panel.
LINE = 46


def save_source_or_not_figure(game: Game, out: Path, *, rounds: int, seed: int) -> list[Path]:
    """Draw `rounds` pairs and the classifier's answers over the layers, and write the numbers beside them.

    Args:
        game: As the classifier played it.
        out: Image file to write; its suffix chooses the format. The numbers are beside it, with the suffix .csv.
        rounds: Pairs to draw.
        seed: Fixes them.

    Returns:
        Both files.

    Raises:
        ValueError: As `Game.rounds`; a file that cannot be written.
    """
    layers = [
        LayerAnswers(layer.name, layer.game, layer.of_units.numpy(), layer.comparing, layer.which)
        for layer in game.layers
    ]
    save_source_or_not([_panel(each) for each in game.rounds(rounds, seed)], layers, out, title=game.title)
    return [out, write_beside(out, source_or_not_csv(game))]


def source_or_not_table(game: Game) -> Table:
    """A line for each layer: how often the classifier is right from one of its units."""
    learnt = " and ".join(f"{count_of(side.learnt)} of {side.name}" for side in game.sides)
    caption = (
        "right answers in %, chance is 50: means over the units ± half an interval of 95 %. Game: are both images of "
        f"one domain? {counted(_pairs(game), 'pair')} of test images, each in one of them; the player calls the domain "
        "of either image by logistic regression on one unit's distribution over its places (where it has a single "
        f"value on an image, on this), learnt from training images ({learnt}). Comparing: the same game by logistic "
        f"regression on the differences of both distributions, learnt from these images paired in {PAIRINGS} ways. One "
        "image: how often its domain is rightly called"
    )
    table = Table(title=f"Source-or-Not of {game.title}", caption=caption)
    table.add_column("layer", overflow="fold")
    for head in ("places", "units", "game", "comparing", "one image"):
        table.add_column(head, justify="right")
    for number, layer in enumerate(game.layers, 1):
        shares = (_interval(share) for share in (layer.game, layer.comparing, layer.which))
        units = f"{len(layer.units)} of {layer.channels}"
        table.add_row(f"{number}: {layer.name}", f"{layer.places:,}", units, *shares)
    return table


def source_or_not_csv(game: Game) -> str:
    """A line for each layer; accuracies and the ends of their intervals (95 %) are shares of 1."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            *("layer", "name", "network", "source", "target", "channels", "units", "constant_units", "places", "pairs"),
            *("accuracy", "low", "high", "unit_std", "unit_min", "unit_max"),
            *("comparing_accuracy", "comparing_low", "comparing_high"),
            *("images", "image_accuracy", "image_low", "image_high"),
        ]
    )
    source, target = (side.name for side in game.sides)
    for number, layer in enumerate(game.layers, 1):
        alone = layer.of_units
        # Of a single unit there is no deviation.
        spread = alone.std().item() if len(alone) > 1 else 0.0
        numbers = (*layer.game, spread, alone.min().item(), alone.max().item(), *layer.comparing)
        counts = layer.channels, len(layer.units), int(layer.constant.sum()), layer.places, _pairs(game)
        table.writerow(
            [number, layer.name, game.watched.whose, source, target, *counts, *(f"{value:.6f}" for value in numbers)]
            + [layer.called.shape[1], *(f"{value:.6f}" for value in layer.which)]
        )
    return text.getvalue()


def _pairs(game: Game) -> int:
    return len(game.pairs.same)


def _interval(share: Share) -> str:
    # The longer half, where the other ends at 0 or 1.
    return f"{percent(share.mean)} ± {percent(max(share.high - share.mean, share.mean - share.low))}"


def _panel(one: Round) -> PairPanel:
    answer = f"{one.answer} (classifier: {'right' if one.classifier_right else 'wrong'})"
    lines = (textwrap.fill(text, LINE, break_on_hyphens=False) for text in (one.question, answer))
    return PairPanel(next(lines), one.values, one.limits, next(lines))
