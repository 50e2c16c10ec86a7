"""DRT (Li et al., CVPR 2021) on smaller sets of images than the paper's DomainNet: Office-31 and PACS, with several
sources, in DomainNet's setting (`drt_domainnet`) but for the length of the runs.

DomainNet takes 81,000 steps of 64 + 64 images, which for Office-31's 3,600 would be 1,300 passes; these recipes have
5,000.
"""

from __future__ import annotations

from typing import Any

from dynconv.methods import DRTConfig, MCDConfig, SourceOnlyConfig
from dynconv.recipes.base import Recipe, Row, sweep
from dynconv.recipes.drt import GAME
from dynconv.recipes.drt_domainnet import DYNAMIC, RESNET, ROUTED, SCALED
from dynconv.recipes.estimate import estimate
from dynconv.recipes.office import OFFICE, SPLIT

_ORIENTATION = "no figures of the paper are for these images; its own table stands beside ours"
_RUN = {"max_steps": 5000, "batch_size": 64}
# 7.8 GMAC an image forward in ResNet-101 and 4.1 in ResNet-50, three times that with the backward pass: 6 and 3.1 TFLOP
# for a step of 128 images.
_WORK, _MINUTES = "30 PFLOP", 25
_OFFICE = {
    "office31:amazon+dslr-webcam": "A, D → W",
    "office31:amazon+webcam-dslr": "A, W → D",
    "office31:dslr+webcam-amazon": "D, W → A",
}
_PACS = {
    "pacs:photo": "→ photo",
    "pacs:art_painting": "→ art painting",
    "pacs:cartoon": "→ cartoon",
    "pacs:sketch": "→ sketch",
}


def _rows(network: dict[str, Any]) -> tuple[Row, ...]:
    """Kinds of residual, static and dynamic, with and without the MCD loss; `network` changes DomainNet's setting."""
    resnet, dynamic, routed = ({**fields, **network} for fields in (RESNET, DYNAMIC, ROUTED))
    return (
        Row("source-only", "source-only", SourceOnlyConfig(**resnet)),
        Row("source-only, dynamic", "source-only", SourceOnlyConfig(**routed), against="source-only"),
        Row("static", "mcd", MCDConfig(**resnet, **GAME), "static"),
        Row(
            "channel attention",
            "drt",
            DRTConfig(**dynamic, **GAME, **SCALED, residual="channel"),
            "Channel Attention",
            against="static",
        ),
        Row("subspace routing", "drt", DRTConfig(**dynamic, **GAME), "Subspace Routing", against="static"),
        Row(
            "combination",
            "drt",
            DRTConfig(**dynamic, **GAME, **SCALED, residual="combined"),
            "Combination",
            against="static",
        ),
    )


def _residuals(
    name: str, of: str, tasks: dict[str, str], needs: str, network: dict[str, Any], minutes: float, work: str
) -> Recipe:
    rows = _rows(network)
    return Recipe(
        name=name,
        source=f"stands in for DRT, tables 1 and 2 (kinds of residual, with and without the MCD loss), on {of} instead "
        f"of DomainNet{SPLIT}",
        tasks=tasks,
        rows=rows,
        run=_RUN,
        seeds=5,
        expected=_ORIENTATION,
        cost=estimate(5 * len(tasks) * len(rows), minutes, work),
        needs=f"{needs}, ImageNet weights",
        published="drt-1",
    )


OFFICE_RESIDUALS = _residuals(
    "drt-office31", "Office-31 with two sources, with ResNet-101", _OFFICE, "Office-31", {}, _MINUTES, _WORK
)
# With the smaller network, as PACS is mostly used.
PACS_RESIDUALS = _residuals(
    "drt-pacs", "PACS with three sources, with ResNet-50", _PACS, "PACS", {"backbone": "resnet50"}, 15, "16 PFLOP"
)
OFFICE_BASES = sweep(
    OFFICE_RESIDUALS,
    "drt-office31-bases",
    f"stands in for DRT, section 4.2 (number of bases), on Office-31 with two sources{SPLIT}",
    Row("DRT", "drt", DRTConfig(**DYNAMIC, **GAME)),
    {f"K = {number}": {"num_bases": number} for number in (2, 4, 6, 8)},
    estimate(75, _MINUTES, _WORK),
    published="drt-bases",
    above=Row("static", "mcd", MCDConfig(**RESNET, **GAME), "static"),
)
OFFICE_SINGLE = Recipe(
    name="drt-office31-single-source",
    source=f"stands in for DRT, Table 5 (one source at a time), on Office-31 instead of DomainNet{SPLIT}",
    tasks=OFFICE,
    rows=(
        Row("MCD", "mcd", MCDConfig(**RESNET, **GAME), "MCD"),
        Row("DRT", "drt", DRTConfig(**DYNAMIC, **GAME), "DRT"),
    ),
    run=_RUN,
    seeds=5,
    expected=_ORIENTATION,
    cost=estimate(60, _MINUTES, _WORK),
    needs="Office-31, ImageNet weights",
    baseline="MCD",
    groups={
        f"→ {letter}": tuple(task for task in OFFICE if task.endswith(f"-{domain}"))
        for domain, letter in (("amazon", "A"), ("dslr", "D"), ("webcam", "W"))
    },
    published="drt-5",
    published_best="drt-5-best",
)
