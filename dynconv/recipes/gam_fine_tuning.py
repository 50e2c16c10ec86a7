"""How many labelled target images GAM is worth (section 5.4, Fig. 6): its network and the one without transfer,
fine-tuned on more and more of them. `dynconv plot fine-tuning` draws these runs.

The paper names neither its steps nor its optimiser there; here all numbers of images take as many steps, with what
learnt the source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from dynconv.methods import TargetOnlyConfig
from dynconv.recipes import gam_scenes, gam_small
from dynconv.recipes import segmentation_small as scenes
from dynconv.recipes.base import Recipe, Row
from dynconv.recipes.estimate import estimate
from dynconv.recipes.segmentation import LEARNT

# Cityscapes' 2,975 training scenes but the 500 that are held out for source-val.
COUNTS = (10, 20, 30, 60, 100, 200, 500, 2475)
STEPS = 2_000
# Of the 62 training scenes at dusk 12 are held out.
CAMVID_COUNTS = (5, 10, 20, 40)
CAMVID_STEPS = 80


def _fine_tuned(
    none: Row, gam: Row, counts: Sequence[int], learnt: dict[str, Any], run: dict[str, Any]
) -> tuple[Row, ...]:
    """Both starts, and for each number of labelled images a row from either, of which the second is held against the
    first."""
    rows = [dataclasses.replace(none, cites=None), dataclasses.replace(gam, cites=None, against=none.label)]
    for count in counts:
        options, plain = TargetOnlyConfig(**learnt, labelled_images=count), f"{count} labelled, no transfer"
        rows.append(Row(plain, "target-only", options, starts_from=none.label, run=run))
        rows.append(
            Row(f"{count} labelled, GAM", "target-only", options, starts_from=gam.label, against=plain, run=run)
        )
    return tuple(rows)


CITYSCAPES = Recipe(
    name="gam-fine-tuning",
    source="GAM, Fig. 6 and section 5.4: GTA5 → Cityscapes on ERFNet's encoder, the networks without transfer and with "
    f"GAM of gam-table3, fine-tuned on labelled scenes of Cityscapes in {STEPS:,} steps; the paper gives no figure in "
    "print but what it reads from its own",
    tasks=gam_scenes.TABLE_3.tasks,
    rows=_fine_tuned(
        gam_scenes.TABLE_3.row("ERFNet, no transfer"),
        gam_scenes.TABLE_3.row("ERFNet, GAM"),
        COUNTS,
        LEARNT["erfnet-encoder"],
        {"max_steps": STEPS, "eval_every": STEPS},
    ),
    run=gam_scenes.TABLE_3.run,
    seeds=1,
    expected="not measured; the paper: 30 to 60 labelled images without transfer do as well as GAM without labels, and "
    "with labels GAM's network is 2 to 3 points above",
    cost=estimate(2 + 2 * len(COUNTS), 6, "from 3 PFLOP of fine-tuning to 100 of GAM"),
    needs="GTA5, Cityscapes",
    metric="mean-iou",
)
CAMVID = Recipe(
    name="gam-fine-tuning-camvid",
    source="stands in for GAM, Fig. 6 and section 5.4: CamVid by day and at dusk as in gam-camvid, whose networks "
    f"without transfer and with GAM are fine-tuned on labelled scenes at dusk in {CAMVID_STEPS} steps",
    tasks=gam_small.CAMVID.tasks,
    rows=_fine_tuned(
        gam_small.CAMVID.row(scenes.SOURCE.label),
        gam_small.CAMVID.row("GAM"),
        CAMVID_COUNTS,
        scenes.LEARNT,
        {"max_steps": CAMVID_STEPS, "eval_every": CAMVID_STEPS},
    ),
    run=gam_small.CAMVID.run,
    seeds=gam_small.CAMVID.seeds,
    scale="small",
    expected="measured here (seed 0): 31.4, 33.5, 34.3 and 34.8 from the network without transfer, 31.8, 33.8, 34.3 "
    "and 34.5 from GAM's",
    cost="20 runs, of which 10 were run here, two of them those of gam-camvid: 15 minutes of runs, two at a time on "
    "two busy CPU cores",
    needs=gam_small.CAMVID.needs,
    metric="mean-iou",
)
