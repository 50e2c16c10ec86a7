"""GTA5 to Cityscapes: the Calibrator's Table 2, and what GAM's tables 3 and 4 (`gam_scenes`) share with it.

Of what the papers leave open: all scenes are resized to Cityscapes' 1024 x 2048, of which training takes random parts
(1024 x 512 pixels in GAM, 768 x 768 in released CyCADA and Calibrator), mirrored by chance, and are judged whole at the
size of the label files. The papers' networks begin with ImageNet's weights, or ADDA and the Calibrator with a released
network of GTA5; here all begin from scratch, and `dynconv train --weights FILE` reads what is at hand. The rows of a
table take as many steps each.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from dynconv.methods import ADDAConfig, CalibratorConfig, MCDConfig, SourceOnlyConfig, TargetOnlyConfig
from dynconv.recipes.base import Recipe, Row
from dynconv.recipes.estimate import estimate

SCENES: dict[str, Any] = {
    "image_size": (1024, 2048),
    "full_resolution": True,
    # 8.4 MB a scene in that size: 210 GB of GTA5.
    "cache": "none",
    "eval_every": 5_000,
}
Backbone = Literal["erfnet-encoder", "fcn8s", "drn26"]
FROM_SCRATCH = "networks from scratch, where the paper's begin with ImageNet's weights"

# Released CyCADA: SGD with a momentum of 0.9, 1e-3 and 5e-4 learns its networks of GTA5.
_SGD: dict[str, Any] = {"optimiser": "sgd", "lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}
# Released ERFNet: Adam and a learning rate that falls by a power of 0.9.
ERFNET: dict[str, Any] = {"lr": 5e-4, "weight_decay": 1e-4, "lr_schedule": "poly", "lr_power": 0.9}
# What each network learns with; the last is GAM's, without ERFNet's decoder.
LEARNT: dict[Backbone, dict[str, Any]] = {
    "drn26": {"backbone": "drn26", **_SGD},
    "fcn8s": {"backbone": "fcn8s", **_SGD},
    "erfnet-encoder": {"backbone": "erfnet-encoder", **ERFNET},
}


def cycada(backbone: Backbone) -> ADDAConfig:
    """CyCADA's feature part on driving scenes, as released: one encoder for both domains goes on learning the source,
    and steps against a discriminator of scores that is right more often than 0.6. The discriminator's width is ADDA's.
    """
    return ADDAConfig(
        backbone=backbone,
        weight_sharing="shared",
        discriminates="logits",
        score_maps="full",
        gate=0.6,
        adversarial_weight=0.1,
        optimiser="sgd",
        lr=1e-5,
        momentum=0.99,
        weight_decay=5e-4,
        discriminator_lr_factor=1.0,
    )


def mcd(backbone: Backbone) -> MCDConfig:
    """The paper's three steps, with the optimiser of the other rows on that network."""
    return MCDConfig(**LEARNT[backbone])


# Section 4 and 5.2: Adam at 1e-4, a bound of 0.01, M_s and pixels for the discriminators; released code: patches of 64.
CALIBRATOR: dict[str, Any] = {"width": 4, "epsilon": 0.01, "patch_size": 64}
# Released code: a discriminator of score maps, dropout before its last layer (there of a feature at all places of an
# image, here of each place's own), a source of less weight, more decay.
AS_RELEASED: dict[str, Any] = {
    **CALIBRATOR,
    "form": "nonnegative",
    "calibrator_dropout": 0.05,
    "feature_input": "logits",
    "score_maps": "full",
    "feature_hidden": (512, 256),
    "feature_dropout": 0.5,
    "source_weight": 0.2,
    "lr": 2e-4,
    "weight_decay": 5e-3,
}

_SOURCE = Row("source-only", "source-only", SourceOnlyConfig(**LEARNT["drn26"]), "Source only")
_TARGET = Row("target-only (bound, sees target labels)", "target-only", TargetOnlyConfig(**LEARNT["drn26"]), "Target")
_OF_SOURCE: dict[str, Any] = {"starts_from": "source-only"}
# 6 images of each domain, 0.2 TMAC a forward pass: 7 TFLOP a step with one backward pass, 40 with MCD's three steps.
_WORK = "140 PFLOP of source-only to 790 of MCD"

TABLE_2 = Recipe(
    name="calibrator-table2",
    source="the Calibrator, Table 2: GTA5 → Cityscapes on DRN-26, source-only and the bound as there, and what adapts "
    "GTA5's own images (calibrator-table2-stylised has those in Cityscapes' style, as the paper); ADDA is CyCADA's "
    f"feature part, MCD is not in the table; {FROM_SCRATCH}",
    tasks={"gta5-cityscapes": "GTA5 → Cityscapes"},
    rows=(
        _SOURCE,
        _TARGET,
        Row("ADDA as in CyCADA", "adda", cycada("drn26"), **_OF_SOURCE),
        Row("MCD", "mcd", mcd("drn26")),
        Row("Calibrator", "calibrator", CalibratorConfig(backbone="drn26", **CALIBRATOR), **_OF_SOURCE),
        Row("Calibrator as released", "calibrator", CalibratorConfig(backbone="drn26", **AS_RELEASED), **_OF_SOURCE),
    ),
    # Section 4: batches of 6; released code: 20,000 steps, parts of 768 x 768.
    run={**SCENES, "crop_size": (768, 768), "max_steps": 20_000, "batch_size": 6},
    seeds=1,
    expected="below the paper's mean IoU of 21.7 for source-only and 67.4 for the bound, whose network began with "
    "ImageNet's weights",
    cost=estimate(6, 180, _WORK),
    needs="GTA5, Cityscapes",
    metric="mean-iou",
    baseline="source-only",
    published="calibrator-2-overall",
)
TABLE_2_STYLISED = dataclasses.replace(
    TABLE_2,
    name="calibrator-table2-stylised",
    source="the Calibrator, Table 2, as the paper has it: GTA5's images in Cityscapes' style are the source of DRN-26, "
    f"and CyCADA's feature part and the Calibrator start from that network; {FROM_SCRATCH}",
    rows=(
        dataclasses.replace(_SOURCE, cites=None),
        Row("CyCADA", "adda", cycada("drn26"), "CyCADA", **_OF_SOURCE),
        Row("Calibrator", "calibrator", CalibratorConfig(backbone="drn26", **CALIBRATOR), "Ours", **_OF_SOURCE),
        Row(
            "Calibrator as released",
            "calibrator",
            CalibratorConfig(backbone="drn26", **AS_RELEASED),
            "Ours",
            **_OF_SOURCE,
        ),
    ),
    expected="below the paper's mean IoU of 39.5 for CyCADA and 40.5 for the Calibrator, whose network began with "
    "ImageNet's weights",
    cost=estimate(4, 120, "from 140 PFLOP of source-only"),
    needs="GTA5, Cityscapes, GTA5's images in Cityscapes' style under their own names in DATA/gta5_stylised",
    stylised="gta5_stylised",
)
