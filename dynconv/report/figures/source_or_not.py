"""Source-or-Not (GAM, section 5.1, Fig. 3): how well a run's units tell the domains apart, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dynconv.engine.loading import loading_progress
from dynconv.engine.segmentation import evaluation_of
from dynconv.metrics.source_or_not import (
    Array,
    Distributions,
    Pairs,
    call_domains,
    compare,
    disjoint_pairs,
    distributions,
    joined,
    several_pairings,
)
from dynconv.models.taps import SCORES
from dynconv.report.figures.activations import Watched, Whose
from dynconv.report.figures.source_or_not_images import Side, count_of, two_sides
from dynconv.report.figures.source_or_not_layers import PlayedLayer

if TYPE_CHECKING:
    from torch import Tensor

    from dynconv.data import Protocol, Split
    from dynconv.engine.loaded_run import LoadedRun

# Of each domain, to learn from and again to be judged by: 200 images keep the interval of a share below 7 points, and
# scenes are dearer.
IMAGES, SCENES = 200, 40


@dataclass(frozen=True)
class Game:
    """The game with a run, as the classifier played it."""

    watched: Watched
    sides: tuple[Side, Side]
    """The source and the target."""
    pairs: Pairs
    """Those that were judged: places among the judged images, the source's first."""
    layers: tuple[PlayedLayer, ...]
    """From the images to the scores."""

    @property
    def counts(self) -> str:
        """The questions that were asked, and the images behind them, in words."""
        learnt = " and ".join(f"{count_of(side.learnt)} of {side.name}" for side in self.sides)
        pairs, images = len(self.pairs.same), len(self.pairs.images())
        return f"{pairs} pairs of {images} test images, each in one of them; learnt from training images ({learnt})"

    @property
    def title(self) -> str:
        """The run as the figure calls it, with the folder above it, and what was looked at."""
        loaded = self.watched.loaded
        run = Path(*loaded.folder.path.resolve().parts[-2:])
        source, target = (side.name for side in self.sides)
        name = f"{run}, checkpoint {loaded.checkpoint} (step {loaded.step})"
        return f"{name}\n{source} (source) and {target} (target), {self.watched.described()}"

    def image(self, place: int) -> tuple[Side, Split]:
        """The judged image at `place`, alone, and whose it is."""
        for side in self.sides:
            for split in side.judged:
                if place < len(split):
                    return side, split.subset(torch.tensor([place]))
                place -= len(split)
        raise IndexError("place: there are not so many judged images")

    def rounds(self, count: int, seed: int) -> list[Round]:
        """Draw `count` pairs: a layer, a unit of it and a judged pair, each at random. Units that are constant are not
        drawn (a choice of ours): there the player could but guess. No unit comes again before all had their turn.

        Raises:
            ValueError: All units are constant.
        """
        layers = [(number, layer) for number, layer in enumerate(self.layers, 1) if len(layer.live)]
        if not layers:
            raise ValueError(
                f"{self.watched.loaded.folder.path}: every unit that was drawn gives the same value on all images, so "
                "that there is nothing to tell them apart by; give more --units, or another --checkpoint"
            )
        generator = torch.Generator().manual_seed(seed)

        def one_of(number: int) -> int:
            return int(torch.randint(number, (), generator=generator))

        drawn: list[Round] = []
        left: list[tuple[int, PlayedLayer, list[int]]] = []
        for _ in range(count):
            left = [each for each in left if each[2]] or [(*each, each[1].live.tolist()) for each in layers]
            number, layer, units = left[one_of(len(left))]
            unit = units.pop(one_of(len(units)))
            pair = one_of(len(self.pairs.same))
            images = [self.image(int(each[pair])) for each in (self.pairs.first, self.pairs.second)]
            first, second = (self._values(layer, unit, side, image) for side, image in images)
            names = images[0][0].name, images[1][0].name
            right = bool(layer.right[unit, pair])
            drawn.append(Round(layer, number, unit, (first, second), names, bool(self.pairs.same[pair]), right))
        return drawn

    def _values(self, layer: PlayedLayer, unit: int, side: Side, image: Split) -> Array:
        (found,) = self.watched.activations(image, side.domain)
        return found[layer.name][0, int(layer.units[unit])].cpu().numpy()


@dataclass(frozen=True)
class Round:
    """One pair of images, as it is drawn or asked for."""

    layer: PlayedLayer
    number: int
    """Of the layer, counted from 1."""
    unit: int
    """Place in `layer.units`."""
    values: tuple[Array, Array]
    """float32 (places,) of each image."""
    names: tuple[str, str]
    """Their domains: the answer."""
    same: bool
    classifier_right: bool
    """Whether the classifier's answer to this very question was right."""

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value of the unit on any judged image."""
        low, high = self.layer.limits[self.unit].tolist()
        return low, high

    @property
    def question(self) -> str:
        """What is looked at."""
        place = f"unit {int(self.layer.units[self.unit]) + 1} of {self.layer.channels}"
        return f"layer {self.number}, {self.layer.title}, {place}"

    @property
    def answer(self) -> str:
        """The answer in words."""
        first, second = self.names
        return f"{first} and {second}, {'the same domain' if self.same else 'different domains'}"


def play_game(
    loaded: LoadedRun,
    *,
    images: int | None = None,
    units: int,
    seed: int,
    whose: Whose = "source",
    line: Callable[[str], None] | None = None,
) -> Game:
    """Let the classifier play with random units of every layer (`dynconv.models.taps.layer_names`).

    It learns from training images and is judged by pairs of others, each of which is in one pair; no class is looked
    at. Of the activations their quantiles are kept, chunk by chunk.

    Args:
        loaded: The run.
        images: Of each domain, to learn from and again to be judged by, at most; None for 200, of scenes 40.
        units: Of each layer, at most.
        seed: Fixes units and pairs.
        whose: "source": all images go through the source's network where the method keeps one; "own": each through that
            of its domain, of calibrator behind the calibrator.
        line: Told every few seconds how far it is; None for standard error.

    Raises:
        ValueError: A bound that learns from the target alone, too few images, or data missing.
        NonFiniteError: An activation is not finite.
    """
    if images is None:
        images = IMAGES if loaded.config.network_input.labels == "image" else SCENES
    protocol, held_out = _domains(loaded)
    watched = Watched(loaded, evaluation_of(loaded.config, protocol, held_out, loaded.scoring), whose)
    sides = two_sides(protocol, held_out, images)
    generator = torch.Generator().manual_seed(seed)
    channels = _channels(watched, sides[0])
    chosen = {name: torch.randperm(of, generator=generator)[:units].sort().values for name, of in channels.items()}
    learnt_sources, learnt_targets = (count_of(side.learnt) for side in sides)
    judged_sources, judged_targets = (count_of(side.judged) for side in sides)
    learnt_pairs = several_pairings(learnt_sources, learnt_targets, generator)
    pairs = disjoint_pairs(judged_sources, judged_targets, generator)
    learnt = _summarised(watched, chosen, [(side, side.learnt, "training") for side in sides], line)
    judged = _summarised(watched, chosen, [(side, side.judged, "test") for side in sides], line)
    truth, in_pairs = torch.arange(judged_sources + judged_targets) < judged_sources, pairs.images()
    layers, kinds = [], watched.kinds()
    for name, drawn in chosen.items():
        given, asked = learnt[name], judged[name]
        called, right, compared = [], [], []
        for unit in range(len(drawn)):
            learn, judge = given.of_unit(unit), asked.of_unit(unit)
            calls = call_domains(learn, learnt_sources, judge)
            # Of those in pairs there are as many of either side, so that chance is one half here too.
            called.append((calls == truth)[in_pairs])
            right.append((calls[pairs.first] == calls[pairs.second]) == pairs.same)
            compared.append(compare(learn, learnt_pairs, judge, pairs) == pairs.same)
        limits = torch.stack([asked.quantiles.amin(dim=(0, 2)), asked.quantiles.amax(dim=(0, 2))], dim=1)
        layers.append(
            PlayedLayer(
                name=name,
                kind=kinds[name],
                channels=channels[name],
                units=drawn,
                places=asked.places,
                constant=asked.constant(),
                called=torch.stack(called),
                right=torch.stack(right),
                compared=torch.stack(compared),
                limits=limits,
            )
        )
    return Game(watched, sides, pairs, tuple(layers))


def _domains(loaded: LoadedRun) -> tuple[Protocol, tuple[Split, ...]]:
    if loaded.method.supervised_by_target:
        raise ValueError(
            f"RUN {loaded.folder.path} is a run of {loaded.config.method}, which learns from the target's labels and "
            "has no source: there are no two domains to tell apart; give a run of source-only or of an adaptation"
        )
    return loaded.domains()


def _channels(watched: Watched, side: Side) -> dict[str, int]:
    """Units of each layer, from the images to the scores."""
    found = next(watched.activations(side.learnt[0].subset(torch.tensor([0])), side.domain))
    return {name: values.shape[1] for name, values in found.items()}


def _summarised(
    watched: Watched,
    chosen: dict[str, Tensor],
    parts: Sequence[tuple[Side, Sequence[Split], str]],
    line: Callable[[str], None] | None,
) -> dict[str, Distributions]:
    """Of each layer the distributions of its `chosen` units on all images of `parts`, in order."""
    found: dict[str, list[Distributions]] = {name: [] for name in chosen}
    progress = loading_progress(line)
    for side, splits, what in parts:
        done = 0
        for layers in (layers for split in splits for layers in watched.activations(split, side.domain)):
            for name, values in layers.items():
                found[name].append(distributions(values[:, chosen[name].to(values.device)]))
            done += len(layers[SCORES])
            progress(f"source-or-not: {what} images of {side.name}", done, count_of(splits))
    return {name: joined(each) for name, each in found.items()}
