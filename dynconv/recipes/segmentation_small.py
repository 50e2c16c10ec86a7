"""Segmentation on real images in minutes of a CPU: CamVid by day and at dusk."""

from __future__ import annotations

from typing import Any

from dynconv.methods import ADDAConfig, CalibratorConfig, SourceOnlyConfig, TargetOnlyConfig
from dynconv.recipes.base import Recipe, Row
from dynconv.recipes.segmentation import ERFNET

RUN: dict[str, Any] = {
    "image_size": (120, 160),
    "max_steps": 400,
    "eval_every": 100,
    "batch_size": 8,
    "log_every": 50,
}
LEARNT: dict[str, Any] = {"backbone": "erfnet-encoder", **ERFNET}
SOURCE = Row("source-only", "source-only", SourceOnlyConfig(**LEARNT))
TARGET = Row("target-only (bound, sees target labels)", "target-only", TargetOnlyConfig(**LEARNT))
# On score maps, as in CyCADA's segmentation, with an encoder of the target's own, as in ADDA's paper, so that the
# source's figures are those of the row that it starts from. The encoder learns with 1e-5 (CyCADA's segmentation).
ADDA = ADDAConfig(**LEARNT, discriminates="logits", adaptation_lr_factor=0.02)
# The paper's bound and released code's size and discriminator for driving scenes, at 5 times the paper's learning rate
# for its 400 steps.
CALIBRATOR = CalibratorConfig(
    **LEARNT,
    width=4,
    epsilon=0.01,
    discriminators="feature",
    feature_input="logits",
    feature_hidden=(512, 256),
)
# Eq. 5 to 7 to the word, with patches an eighth of the image's height.
PAPER = CalibratorConfig(**LEARNT, width=4, epsilon=0.01, patch_size=16)

CAMVID = Recipe(
    name="camvid",
    source="stands in for GTA5 → Cityscapes (the Calibrator, Table 2; GAM, Table 3): CamVid's images by day and at "
    "dusk at 120 x 160 with 11 classes, ERFNet's encoder from scratch; ADDA and the Calibrator start from the network "
    "of source-only, which is the supervised network of the source, and take as many steps again",
    tasks={"camvid_day-camvid_dusk": "day → dusk"},
    rows=(
        SOURCE,
        TARGET,
        Row("ADDA", "adda", ADDA, starts_from="source-only"),
        Row("Calibrator, on scores", "calibrator", CALIBRATOR, starts_from="source-only"),
        Row("Calibrator, features and pixels", "calibrator", PAPER, starts_from="source-only"),
    ),
    run=RUN,
    seeds=2,
    scale="small",
    expected="measured here (seeds 0 and 1, mean IoU on the target): source-only 13.7, the bound 34.1, ADDA 19.5, the "
    "Calibrator 18.0 with the paper's discriminators (source 32.4 before, 31.6 after) and 17.3 on scores",
    cost="10 runs, 113 minutes of runs, two at a time on two busy CPU cores",
    needs="CamVid's images by day and at dusk",
    metric="mean-iou",
    baseline="source-only",
    bounds={"camvid_day-camvid_dusk": (59.6, 59.1, 73.5, 77.8)},
)
