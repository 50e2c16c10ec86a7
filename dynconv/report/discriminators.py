"""What each discriminator of a run of GAM costs, counted on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from dynconv.methods.gam import GAMConfig
from dynconv.report.collect import FoundRun
from dynconv.report.model import Block, Line, Missing, Table

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


def discriminator_costs(options: GAMConfig, num_classes: int, size: tuple[int, int] | None) -> DiscriminatorCosts:
    """Count a method's discriminators and its network on the meta device: no weights are read or made.

    Args:
        options: Its configuration.
        num_classes: Of its task.
        size: Height and width of the training images of a network for label maps; None for others, which have their
            own.

    Raises:
        ValueError: The configuration describes no such method, or the network does not take images of the size.
    """
    import torch
    from torch import nn

    from dynconv.methods.gam import GAM
    from dynconv.models import weights_left_out
    from dynconv.models.cost import count_cost

    with torch.device("meta"), weights_left_out():
        made = GAM(options, num_classes)
        side = made.image_size
        height, width = (side, side) if side else size or (0, 0)
        shapes = made.tap_shapes((height, width))
        encoders: Any = made.features
        network = count_cost(nn.Sequential(encoders.target, *made.target_heads), torch.empty(1, 3, height, width))
    taps = []
    banks: list[Any] = list(made.discriminators)
    for tap, bank in zip(made.tap_names, banks, strict=True):
        channels, *places = shapes[tap]
        weights = sum(weight.numel() for weight in bank.weights)
        parameters = sum(parameter.numel() for parameter in bank.parameters())
        # A linear layer on each place, as a 1x1 convolution has it.
        taps.append(TapCost(tap, channels, prod(places), parameters, prod(places) * weights))
    macs = network.static_macs + network.added_macs("one-kernel")
    return DiscriminatorCosts(tuple(taps), (height, width), network.parameters, macs)


def discriminators_block(run: FoundRun) -> Block | None:
    """The cost of each discriminator of a run as a table, or why there is none; None for a method that has none of
    single layers. The number of classes, and the size of scenes, are those of the run's last checkpoint."""
    options = run.config.options
    if not isinstance(options, GAMConfig):
        return None
    try:
        num_classes, size = _task_of(run.folder.last)
        if run.config.network_input.labels == "pixel":
            size = run.config.run.crop_size or size
        return discriminators_table(discriminator_costs(options, num_classes, size))
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


def discriminators_table(found: DiscriminatorCosts) -> Table:
    """A line for each tap, one for all of them, and one for the network that they are taken from."""

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
    network = f"for comparison: one of both networks at {found.size[0]} x {found.size[1]}"
    lines.append(line(network, None, None, found.parameters, found.macs, None, kind="reference"))
    return Table(
        TITLE,
        ("tap", "channels", "places", "parameters", "multiply-adds, M", "activations, bytes"),
        tuple(lines),
        (
            "For one image. Multiply-adds are those of a forward pass over all places; a step of the adaptation passes "
            "both domains through each discriminator for its own loss, and the target once more for the network's. "
            "Activations are what the tap gives of an image of each domain, in float32: the networks compute them "
            "anyway, and they are held, not copied, until both losses are taken.",
        ),
    )
