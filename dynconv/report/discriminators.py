"""What each discriminator of a run of GAM or ADDA costs, counted on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from dynconv.methods.adda import ADDAConfig
from dynconv.methods.gam import GAMConfig
from dynconv.report.collect import FoundRun
from dynconv.report.page.document import Block, Line, Missing, Table

TITLE = "Cost of the discriminators"
# Bytes of a number in float32.
WIDE = 4


@dataclass(frozen=True)
class TapCost:
    """A tap and its discriminator, for one image."""

    tap: str
    channels: int
    places: int
    """Of the tap's maps; 1 of features without any."""
    parameters: int
    """Of the discriminator."""
    macs: int
    """Multiply-adds of the discriminator's forward pass over all places of one image."""

    @property
    def activations(self) -> int:
        """Bytes of what the tap gives of one image of the source and of one of the target, in float32."""
        return 2 * WIDE * self.channels * self.places


@dataclass(frozen=True)
class DiscriminatorCosts:
    """The discriminators of a run beside one of its two networks."""

    taps: tuple[TapCost, ...]
    size: tuple[int, int]
    """Height and width of the training images."""
    parameters: int
    """Of one network, its classifier included."""
    macs: int
    """Of its forward pass of one image."""


def discriminator_costs(
    options: GAMConfig | ADDAConfig, num_classes: int, size: tuple[int, int] | None
) -> DiscriminatorCosts:
    """Count a method's discriminators and its network on the meta device: no weights are read or made.

    Args:
        options: Its configuration. The one tap of ADDA is called "features", or "scores".
        num_classes: Of its task.
        size: Height and width of the training images of a network for label maps; None for others, which have their
            own.

    Raises:
        ValueError: The configuration describes no such method, or the network does not take images of the size.
    """
    import torch
    from torch import nn

    from dynconv.methods.adda import ADDA
    from dynconv.methods.gam import GAM
    from dynconv.models.cost import count_cost
    from dynconv.models.taps import SCORES
    from dynconv.models.weights import weights_left_out

    # Tap, channels, places and discriminator.
    seen: list[tuple[str, int, int, Any]]
    with torch.device("meta"), weights_left_out():
        made = GAM(options, num_classes) if isinstance(options, GAMConfig) else ADDA(options, num_classes)
        side = made.image_size
        height, width = (side, side) if side else size or (0, 0)
        image = torch.empty(1, 3, height, width)
        if isinstance(made, GAM):
            shapes = made.tap_shapes((height, width))
            banks = zip(made.tap_names, made.discriminators, strict=True)
            seen = [(tap, shapes[tap][0], prod(shapes[tap][1:]), bank) for tap, bank in banks]
            heads = made.target_heads
        else:
            # Batch normalisation in training wants more than one image.
            rows = made.eval().discriminated(made.features(image))
            tap = SCORES if made.config.discriminates == "logits" else "features"
            seen = [(tap, rows.shape[1], rows.shape[0], made.discriminators)]
            heads = made.heads
        encoder = made.features if made.encoders is None else made.encoders.target
        network = count_cost(nn.Sequential(encoder, *heads), image)
    taps = []
    for tap, channels, places, bank in seen:
        weights = sum(weight.numel() for weight in bank.weights)
        parameters = sum(parameter.numel() for parameter in bank.parameters())
        # A linear layer on each place, as a 1x1 convolution has it.
        taps.append(TapCost(tap, channels, places, parameters, places * weights))
    macs = network.static_macs + network.added_macs("one-kernel")
    return DiscriminatorCosts(tuple(taps), (height, width), network.parameters, macs)


def discriminators_block(run: FoundRun) -> Block | None:
    """The cost of each discriminator of a run as a table, or why there is none; None for another method than GAM and
    ADDA. The number of classes, and the size of scenes, are those of the run's last checkpoint."""
    options = run.config.options
    if not isinstance(options, GAMConfig | ADDAConfig):
        return None
    try:
        num_classes, size = _task_of(run.folder.last)
        if run.config.network_input.labels == "pixel":
            size = run.config.run.crop_size or size
        costs = discriminator_costs(options, num_classes, size)
        # As long as it was asked to be, or by its epochs came out.
        steps = run.config.run.max_steps or (run.step if run.done is not None else None)
        return discriminators_table(costs, options, channels_last=run.config.run.channels_last, max_steps=steps)
    except ValueError as error:
        return Missing(TITLE, str(error))


def _task_of(checkpoint: Path) -> tuple[int, tuple[int, int]]:
    """How many classes a checkpoint's run has, and the height and width of its images; no tensor is read.

    Raises:
        ValueError: It is not there, was cut off, or lacks one of the two.
    """
    import torch

    from dynconv.engine.checkpoint import UnusableCheckpoint, step_of

    if not checkpoint.is_file():
        raise ValueError(f"there is no checkpoint {checkpoint}, which tells the number of classes")
    # Whether it is whole.
    step_of(checkpoint)
    state = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    if missing := [name for name in ("classes", "image_size") if name not in state]:
        raise UnusableCheckpoint(checkpoint, f"lacks {' and '.join(missing)}")
    height, width = state["image_size"]
    return len(state["classes"]), (height, width)


def discriminators_table(
    found: DiscriminatorCosts,
    options: GAMConfig | ADDAConfig,
    *,
    channels_last: bool = True,
    max_steps: int | None = None,
) -> Table:
    """A line for each tap, one for all of them, and one for the network that they are taken from; what a step makes of
    them by the method's `options`, the run's `channels_last` and its steps, None where these are not known."""

    def line(name: str, *counts: int | None, **kind: Any) -> Line:
        channels, places, parameters, macs, activations = counts
        texts = ["" if count is None else f"{count:,}" for count in (channels, places, parameters, activations)]
        # Of networks for scenes these are in the thousands of millions.
        texts.insert(3, "" if macs is None else f"{macs / 1e6:,.2f}")
        return Line((name, *texts), **kind)

    taps = found.taps
    lines = [line(tap.tap, tap.channels, tap.places, tap.parameters, tap.macs, tap.activations) for tap in taps]
    parameters, macs, activations = (
        sum(getattr(tap, name) for tap in taps) for name in ("parameters", "macs", "activations")
    )
    lines.append(line("all", None, None, parameters, macs, activations, first=True))
    which = "one of both networks" if options.has_two_encoders else "the network"
    network = f"for comparison: {which} at {found.size[0]} x {found.size[1]}"
    lines.append(line(network, None, None, found.parameters, found.macs, None, kind="reference"))
    return Table(
        TITLE,
        ("tap", "channels", "places", "parameters", "multiply-adds, M", "activations, bytes"),
        tuple(lines),
        (" ".join(_sentences(found, options, channels_last, max_steps)),),
    )


def _sentences(
    found: DiscriminatorCosts, options: GAMConfig | ADDAConfig, channels_last: bool, max_steps: int | None
) -> list[str]:
    """How a step of the adaptation uses what is counted."""
    gam = isinstance(options, GAMConfig)
    # ADDA passes both for its own loss and for the encoder's, whatever the form of that.
    again = "the target" if gam and options.mapping == "inverted" else "both"
    told = [
        "For one image. Multiply-adds are those of a forward pass over all places; a step of the adaptation passes "
        f"both domains through {'each' if gam else 'the'} discriminator for its own loss, and {again} once more for "
        "the network's."
    ]
    one_by_one = isinstance(options, GAMConfig) and options.joins == "one-by-one" and len(found.taps) > 1
    if one_by_one:
        told.append("They join in one by one, so that only the last part of the adaptation passes through all of them.")
    alone = options.discriminator_steps
    if isinstance(options, GAMConfig) and max_steps is not None:
        adapting = max_steps - options.adaptation_begins(max_steps)
        alone = options.steps_alone(adapting // len(found.taps) if one_by_one else adapting)
    if alone:
        steps = f"The first {alone} steps of {'each part' if one_by_one else 'the adaptation'}"
        told.append(f"{steps} are without the second pass: nothing else learns.")
    held = "Activations are what the tap gives of an image of each domain, in float32: the networks compute them anyway"
    if not gam:
        return [*told, f"{held}, and the discriminator sees a copy of both in one."]
    copied = not channels_last and any(tap.places > 1 for tap in found.taps)
    until = "are held until both losses are taken"
    if copied:
        return [*told, f"{held}, and {until}, those of maps beside a copy, for channels_last is false."]
    return [*told, f"{held}, and {until}, not copied."]
