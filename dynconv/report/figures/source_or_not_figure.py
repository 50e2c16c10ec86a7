"""The figure, the table and the CSV file of Source-or-Not."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from dynconv.metrics.source_or_not import PAIRINGS, Share
from dynconv.plots.source_or_not import LayerAnswers, PairPanel, save_source_or_not
from dynconv.report.figures.source_or_not import Game, Round
from dynconv.report.figures.training import write_beside
from dynconv.report.table import percent

# Characters of a line below a panel.
LINE = 40


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
        LayerAnswers(layer.title, layer.constants, layer.game, layer.of_units.numpy(), layer.comparing, layer.which)
        for layer in game.layers
    ]
    panels = [_panel(each) for each in game.rounds(rounds, seed)]
    save_source_or_not(panels, layers, out, title=f"Source-or-Not of {game.title}", counts=game.counts)
    return [out, write_beside(out, source_or_not_csv(game))]


def source_or_not_table(game: Game) -> Table:
    """A line for each layer: how often the classifier is right from one of its units."""
    caption = (
        "right answers in %, chance is 50: means over the drawn units that are not constant, and 95 % intervals "
        "(Wilson) for other images, of these units. Game: are both images of one domain? "
        f"{game.counts}. The player calls the domain of either image by logistic regression on one unit's distribution "
        "over its places (where it has a single value on an image: on this, its distance from the median and that "
        "squared). Comparing: the same game by logistic regression on the differences of both images in these, learnt "
        f"from the training images paired in {PAIRINGS} ways. One image: how often its domain is rightly called"
    )
    table = Table(title=f"Source-or-Not of {game.title}", caption=caption)
    table.add_column("layer", overflow="fold")
    for head in ("places", "units", "game", "comparing", "one image"):
        table.add_column(head, justify="right")
    for number, layer in enumerate(game.layers, 1):
        shares = (_interval(share) for share in (layer.game, layer.comparing, layer.which))
        units = f"{len(layer.units)} of {layer.channels}"
        if layer.constant.any():
            units += f"\n{layer.constants}"
        table.add_row(f"{number}: {layer.name}\n({layer.kind})", f"{layer.places:,}", units, *shares)
    return table


def source_or_not_csv(game: Game) -> str:
    """A line for each layer; accuracies and the ends of their intervals (95 %) are shares of 1, and empty of a layer
    whose drawn units are all constant."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            *("layer", "name", "kind", "network", "source", "target"),
            *("channels", "units", "constant_units", "places", "pairs"),
            *("accuracy", "low", "high", "unit_std", "unit_min", "unit_max"),
            *("comparing_accuracy", "comparing_low", "comparing_high"),
            *("images", "image_accuracy", "image_low", "image_high"),
        ]
    )
    source, target = (side.name for side in game.sides)
    for number, layer in enumerate(game.layers, 1):
        alone = layer.of_units
        spread: tuple[float, ...] = ()
        if len(alone):
            # Of a single unit there is no deviation.
            spread = alone.std().item() if len(alone) > 1 else 0.0, alone.min().item(), alone.max().item()
        counts = layer.channels, len(layer.units), int(layer.constant.sum()), layer.places, len(game.pairs.same)
        table.writerow(
            [number, layer.name, layer.kind, game.watched.whose, source, target, *counts]
            + [*_cells(layer.game), *_cells(spread), *_cells(layer.comparing)]
            + [layer.called.shape[1], *_cells(layer.which)]
        )
    return text.getvalue()


def _cells(numbers: Sequence[float] | None) -> list[str]:
    """Three numbers, or as many empty cells."""
    return [f"{value:.6f}" for value in numbers] if numbers else [""] * 3


def _interval(share: Share | None) -> str:
    if share is None:
        return "—"
    # To whole per cent, outwards.
    return f"{percent(share.mean)}\n({math.floor(100 * share.low)}–{math.ceil(100 * share.high)})"


def _panel(one: Round) -> PairPanel:
    layer, _, unit = one.question.rpartition(", ")
    verdict = f"classifier: {'right' if one.classifier_right else 'wrong'}"
    layer, answer = (textwrap.fill(text, LINE, break_on_hyphens=False) for text in (layer, one.answer))
    return PairPanel(f"{layer}\n{unit}", one.values, one.limits, f"{answer}\n{verdict}")
