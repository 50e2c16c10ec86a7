"""The tables of DRT (Li et al., CVPR 2021) on other images: Office-31 with ImageNet weights and, in the paper's own
setting, the three of Digit-Five's domains that are known here. What trains on a CPU is in `drt_small`.

DomainNet takes 94,000 steps of 64 + 64 images a run, which for Office-31's 3,600 would be 1,300 passes; its recipes
have 5,000.
"""

from __future__ import annotations

from typing import Any

from dynconv.methods import DANNConfig, DRTConfig, MCDConfig, SourceOnlyConfig
from dynconv.recipes.base import Recipe, Row, sweep
from dynconv.recipes.estimate import estimate
from dynconv.recipes.office import OFFICE, SPLIT

_ORIENTATION = "no figures of the paper are for these images; its own table stands beside ours"

# Section 4.1: SGD from 0.002, divided by ten after each third of 300 epochs, 25,000 images of a domain, a LeNet. Batch
# and network are those of M3SDA, whose protocol the paper follows.
_PAPER_DIGITS: dict[str, Any] = {
    "backbone": "lenet-m3sda",
    "optimiser": "sgd",
    "lr": 2e-3,
    "lr_schedule": "step",
}
_PAPER_RUN = {"epochs": 300, "batch_size": 128, "source_limit": 25_000, "target_limit": 25_000}
# What released DRT and the static network beside it have in common.
_GAME: dict[str, Any] = {"form": "reversal", "normalisation_policy": "joint", "discrepancy_weight": 50.0}

DIGIT_FIVE = Recipe(
    name="drt-digit-five",
    source="DRT, Table 3, in the paper's setting on those three domains of Digit-Five that are known here (SVHN and "
    "synthetic digits are not): two sources for each target instead of four",
    tasks={
        "mnist+usps-mnist_m": "MNIST, USPS → MNIST-M",
        "mnist_m+usps-mnist": "MNIST-M, USPS → MNIST",
        "mnist+mnist_m-usps": "MNIST, MNIST-M → USPS",
    },
    rows=(
        Row("source-only", "source-only", SourceOnlyConfig(**_PAPER_DIGITS), "Source Only"),
        Row(
            "DANN",
            "dann",
            DANNConfig(**_PAPER_DIGITS, bottleneck=0, nesterov=False, hidden_features=500),
            "DANN",
        ),
        Row("MCD", "mcd", MCDConfig(**_PAPER_DIGITS, **_GAME), "MCD"),
        Row("DRT", "drt", DRTConfig(**_PAPER_DIGITS, **_GAME), "DRT"),
    ),
    run=_PAPER_RUN,
    seeds=5,
    expected=_ORIENTATION,
    # 75 MMAC an image: 0.12 TFLOP for a step of 256 images, up to 188,000 steps.
    cost=estimate(60, 40, "up to 22 PFLOP, bound by the number of steps"),
    needs="MNIST, USPS, MNIST-M",
    published="drt-3",
)
SINGLE_DIGITS = Recipe(
    name="drt-single-source-digits",
    source="DRT, Table 5 (one source at a time), on every pair of three digit sets instead of DomainNet's six",
    tasks={
        "mnist-mnist_m": "MNIST → MNIST-M",
        "usps-mnist_m": "USPS → MNIST-M",
        "mnist_m-mnist": "MNIST-M → MNIST",
        "usps-mnist": "USPS → MNIST",
        "mnist-usps": "MNIST → USPS",
        "mnist_m-usps": "MNIST-M → USPS",
    },
    rows=(
        Row("MCD", "mcd", MCDConfig(**_PAPER_DIGITS, **_GAME), "MCD"),
        Row("DRT", "drt", DRTConfig(**_PAPER_DIGITS, **_GAME), "DRT"),
    ),
    run=_PAPER_RUN,
    seeds=5,
    expected=_ORIENTATION,
    cost=estimate(60, 20, "up to 6 PFLOP, bound by the number of steps"),
    needs="MNIST, USPS, MNIST-M",
    published="drt-5",
)

# Released DRT on DomainNet: new layers learn ten times as fast as those that ImageNet trained.
_RESNET: dict[str, Any] = {
    "backbone": "resnet101",
    "optimiser": "sgd",
    "lr": 1e-3,
    "head_lr_factor": 10.0,
    "lr_schedule": "step",
}
_DYNAMIC: dict[str, Any] = {**_RESNET, "residual_lr_factor": 10.0}
# A residual that starts at zero beside pretrained weights needs the scale that is 1 there.
_SCALED: dict[str, Any] = {"scale_activation": "hard"}
_RUN = {"max_steps": 5000, "batch_size": 64}
# 7.8 GMAC an image forward, three times that with the backward pass: 6 TFLOP for a step of 128 images.
_WORK, _MINUTES = "30 PFLOP", 25

OFFICE_RESIDUALS = Recipe(
    name="drt-office31",
    source="DRT, tables 1 and 2 (kinds of residual, with and without the MCD loss), on Office-31 with two sources "
    "instead of DomainNet with five" + SPLIT,
    tasks={
        "office31:amazon+dslr-webcam": "A, D → W",
        "office31:amazon+webcam-dslr": "A, W → D",
        "office31:dslr+webcam-amazon": "D, W → A",
    },
    rows=(
        Row("source-only", "source-only", SourceOnlyConfig(**_RESNET)),
        Row("source-only, dynamic", "drt", DRTConfig(**_DYNAMIC, loss="source-only")),
        Row("static", "mcd", MCDConfig(**_RESNET, **_GAME), "static"),
        Row(
            "channel attention",
            "drt",
            DRTConfig(**_DYNAMIC, **_GAME, **_SCALED, residual="channel"),
            "Channel Attention",
        ),
        Row("subspace routing", "drt", DRTConfig(**_DYNAMIC, **_GAME), "Subspace Routing"),
        Row("combination", "drt", DRTConfig(**_DYNAMIC, **_GAME, **_SCALED, residual="combined"), "Combination"),
    ),
    run=_RUN,
    seeds=5,
    expected=_ORIENTATION,
    cost=estimate(90, _MINUTES, _WORK),
    needs="Office-31, ImageNet weights",
    published="drt-1",
)
OFFICE_BASES = sweep(
    OFFICE_RESIDUALS,
    "drt-office31-bases",
    "DRT, section 4.2 (number of bases), on Office-31 with two sources" + SPLIT,
    Row("DRT", "drt", DRTConfig(**_DYNAMIC, **_GAME)),
    {f"K = {number}": {"num_bases": number} for number in (2, 4, 6, 8)},
    estimate(60, _MINUTES, _WORK),
    published="drt-bases",
)
OFFICE_SINGLE = Recipe(
    name="drt-office31-single-source",
    source="DRT, Table 5 (one source at a time), on Office-31 instead of DomainNet" + SPLIT,
    tasks=OFFICE,
    rows=(
        Row("MCD", "mcd", MCDConfig(**_RESNET, **_GAME), "MCD"),
        Row("DRT", "drt", DRTConfig(**_DYNAMIC, **_GAME), "DRT"),
    ),
    run=_RUN,
    seeds=5,
    expected=_ORIENTATION,
    cost=estimate(60, _MINUTES, _WORK),
    needs="Office-31, ImageNet weights",
    published="drt-5",
)
