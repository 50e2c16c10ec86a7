"""The page on several devices: its commands are what the command line takes, and its figures follow from the code."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dynconv.data.domainnet import CLEANED
from dynconv.data.files import MEMORY_LIMIT
from dynconv.engine.options import parse_train
from dynconv.methods import METHODS, DRTConfig

PAGE = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
NAMES = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


def test_its_commands_are_what_the_command_line_takes() -> None:
    block = PAGE.split("```")[1].replace("\\\n", " ")
    names, commands = {}, []
    for line in block.splitlines():
        name, equals, value = line.partition('="')
        if equals:
            names[f"${name}"] = value.rstrip('"')
        elif "dynconv train drt" in line:
            for name, value in names.items():
                line = line.replace(name, value)
            commands.append(shlex.split(line.partition("dynconv train drt")[2], comments=True))
    configs = [parse_train("drt", words) for words in commands]
    assert [config.run.batch_size for config in configs] == [64, 64 * 8, 64 * 32]
    assert {config.run.protocol for config in configs} == {"domainnet-cleaned:sketch"}


def test_what_is_sent_follows_from_the_network() -> None:
    with torch.device("meta"):
        method = METHODS["drt"].for_task(DRTConfig(backbone="resnet101", weights="none"), 345, 5)
    features, heads = (sum(4 * p.numel() for p in part.parameters()) / 1e6 for part in (method.features, method.heads))
    norms = [module.num_features for module in method.modules() if isinstance(module, _BatchNorm)]
    sent = features + heads
    gathered = 2 * 4 * sum(norms) / 1e6
    for figure in (
        f"{sent / 4:.1f} million parameters",
        f"in float32: {sent:.0f} MB",
        f"450 GB/s each way | {2 * 7 / 8 * sent:.0f} MB | {2 * 7 / 8 * sent / 450:.1f} ms",
        f"8 cards of 400 Gbit/s | {2 * 31 / 32 * sent / 8:.0f} MB | {2 * 31 / 32 * sent / 8 / 50:.1f} ms",
        f"one card of 100 Gbit/s | {2 * 31 / 32 * sent:.0f} MB | {2 * 31 / 32 * sent / 12.5:.0f} ms",
        f"the classifiers ({heads:.1f} MB), and the features four times, so {5 * features + 2 * heads:.0f} MB",
        f"each of {len(norms)} layers with {sum(norms):,} channels",
        f"{gathered:.2f} MB from each: {7 * gathered:.1f} MB on 8 GPUs, {31 * gathered:.0f} MB on 32",
        f"{2 * 31 / 32 * gathered:.1f} MB through every GPU",
        f"{2 * len(norms)} exchanges",
        f"momentum in float32 take {3 * sent:.0f} MB, and what is sent {sent:.0f} MB more",
    ):
        assert figure in TEXT, figure


def test_what_is_read_and_how_long_it_takes_follows_from_the_counts() -> None:
    train, test = (sum(CLEANED[name][part] for name in NAMES) for part in ("train", "test"))
    decoded = 256 * 256 * 3
    left = round(0.8 * CLEANED["real"]["train"], -2)
    steps, steps_of_32 = (math.ceil(left * 5 / images) for images in (64, 32 * 64))
    for figure in (
        f"{train:,} training images among {train + test:,}",
        f"1 GiB at 256 x 256 ({MEMORY_LIMIT // decoded:,} images)",
        f"the training images into {train * decoded / 1e9:.0f} GB and those for measuring into "
        f"{test * decoded / 1e9:.0f}",
        f"a step reads {128 * decoded / 1e6:.0f} MB per GPU, {8 * 128 * decoded / 1e6:.0f} MB for the node",
        f"Real's {CLEANED['real']['train']:,} training images",
        f"{steps:,} steps of 64, or {steps_of_32} steps on 32 GPUs",
        f"{round(15 * steps, -3):,} steps on one GPU, {15 * steps * 0.015 / 60:.0f} minutes at 15 ms each",
        f"{15 * steps_of_32:,} on 32, which at 20 ms (15, the link's 1 and the exchanges' 4) are "
        f"{15 * steps_of_32 * 0.02:.0f} seconds",
    ):
        assert figure in TEXT, figure
