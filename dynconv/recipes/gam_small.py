"""GAM beside what it is compared with, on the real digits and scenes at hand and in minutes of a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dynconv.methods import GAMConfig, GaussianConfig
from dynconv.recipes import segmentation_small as scenes
from dynconv.recipes.base import Recipe, Row, sweep
from dynconv.recipes.gam import BACKBONE, LAMBDAS, MISMATCHED, PLACES, WHICH_LAYERS, digit_rows, source_row

# The paper has 10,000 (released code) and 20,000.
SOURCE_STEPS = 1_000
ADAPTATION_STEPS = 2_000
SWEEP_STEPS = 600
# The paper's 500 of 20,000.
DISCRIMINATOR_STEPS = 100
RUN: dict[str, Any] = {"max_steps": ADAPTATION_STEPS, "eval_every": 250, "batch_size": 128, "log_every": 50}
GAM = GAMConfig(**BACKBONE, discriminator_steps=DISCRIMINATOR_STEPS)
RELEASED_DRIFT = "GAM, drift as released"
_ROWS = (
    *digit_rows(GAM, SOURCE_STEPS),
    # Of the sum over all weights the regulariser holds the network where the source's is; so does the paper not, whose
    # two rows of GAM are alike.
    Row(
        RELEASED_DRIFT,
        "gam",
        dataclasses.replace(GAM, drift="mean", drift_weight=1.0),
        starts_from="no adaptation",
    ),
)
_SHORT = (
    f"with {SOURCE_STEPS:,} steps of the source and {ADAPTATION_STEPS:,} of the adaptation (10,000 and 20,000 there)"
)


DIGITS = Recipe(
    name="gam-digits",
    source=f"GAM, Table 1, on whole sets and the paper's network (lenet-gam), {_SHORT}; SVHN → MNIST is not at hand. "
    "Gaussian matching alone is not in the table; all that adapts starts from one network",
    tasks={"mnist-usps@cycada": "MNIST → USPS", "usps-mnist@cycada": "USPS → MNIST"},
    # Without the bound, which adapts nothing.
    rows=tuple(row for row in _ROWS if row.method != "target-only"),
    run=RUN,
    seeds=3,
    scale="small",
    expected="measured here: 78.5 and 61.8 without adaptation, ADDA 89.1 and 95.5, GAM 92.3 and 90.3 without and 88.2 "
    "and 79.3 with its regulariser (the paper, with ten times the steps: 95.6 and 97.8, 95.7 and 98.0)",
    cost="42 runs, of which 38 were run here: 96 minutes of runs, two at a time on two busy CPU cores",
    needs="MNIST, USPS",
    baseline="no adaptation",
    published="gam-1",
)
MISMATCH_DIGITS = Recipe(
    name="gam-mismatch-digits",
    source=f"GAM, Table 2, the rows of MNIST and USPS: half of each odd or even digit is removed; {_SHORT}",
    tasks={task: head for task, head in MISMATCHED.items() if task.startswith("mnist-usps")},
    rows=tuple(DIGITS.row(label) for label in ("no adaptation", "GAM", RELEASED_DRIFT)),
    run=RUN,
    seeds=1,
    scale="small",
    expected="measured here: 80.0, 78.0, 80.4 and 80.4 without adaptation, GAM 86.4, 83.6, 89.3 and 89.9",
    cost="12 runs, of which 8 were run here: 18 minutes of runs, two at a time on two busy CPU cores",
    needs="MNIST, USPS",
    baseline="no adaptation",
    published="gam-2",
)


def _swept(name: str, source: str, values: dict[str, dict[str, Any]], run_here: int, expected: str) -> Recipe:
    recipe = dataclasses.replace(DIGITS, seeds=1, run={**RUN, "max_steps": SWEEP_STEPS})
    runs = len(recipe.tasks) * (1 + len(values)) * recipe.seeds
    cost = f"{runs} runs, of which {run_here} were run here: about a minute each, two at a time on two busy CPU cores"
    words = f"GAM, {source}; {SWEEP_STEPS:,} steps of the adaptation"
    above = source_row(SOURCE_STEPS, None)
    return sweep(recipe, name, words, DIGITS.row("GAM"), values, cost, above=above, expected=expected)


POSITIONS_DIGITS = _swept(
    "gam-positions-digits",
    WHICH_LAYERS,
    PLACES,
    5,
    "measured here (USPS → MNIST): 66.8 of the second convolution, 69.7 of the penultimate layer, 78.0 of the scores, "
    "78.0 of the last two",
)
LAMBDA_DIGITS = _swept(
    "gam-lambda-digits",
    "section 5: the weight lambda of eq. 3 (1 in gam-digits)",
    LAMBDAS,
    7,
    "measured here (USPS → MNIST): 67.8, 69.2, 76.1, 78.7, 78.0 and 79.2 in this order",
)


def _changed(label: str, of: str, run: Mapping[str, Any] | None = None, **fields: Any) -> Row:
    """A row of gam-digits with other fields of its method or its run."""
    row = DIGITS.row(of)
    options = dataclasses.replace(row.options, **fields)
    return dataclasses.replace(row, label=label, options=options, cites=None, run=run or row.run)


CAUSES_DIGITS = dataclasses.replace(
    DIGITS,
    name="gam-causes-digits",
    source="GAM, what might keep gam-digits from the paper's figures: one change at a time from its row "
    f'"{RELEASED_DRIFT}", and, where the drift is that from the matched network, from its row "GAM"',
    rows=(
        source_row(SOURCE_STEPS, None),
        _changed("both discriminators from the first step", RELEASED_DRIFT, order="jointly"),
        _changed("without the Gaussian start", RELEASED_DRIFT, gaussian_start=False),
        # Which changes the weights at once, so that the sum over all of them begins far from 0 in the row "GAM".
        _changed("the drift from the matched network", "GAM", drift_from="start"),
        _changed("three times the iterations", RELEASED_DRIFT, {"max_steps": 3 * ADAPTATION_STEPS}),
    ),
    seeds=1,
    expected="measured here, MNIST → USPS and USPS → MNIST, seed 0: 93.0 and 86.9 with both discriminators from the "
    "first step, 93.0 and 95.0 without the Gaussian start, 88.0 and 78.2 with the drift from the matched network, 91.1 "
    "and 92.9 with three times the iterations",
    cost="10 runs: 54 minutes of runs, two at a time on two busy CPU cores",
    published=None,
)

# As ADDA's there: an encoder that learns with 1e-5. The paper's 500 steps of the discriminators alone would be more
# than the 200 of a run.
CAMVID_GAM = GAMConfig(**scenes.LEARNT, adaptation_lr_factor=0.02, discriminator_steps=50)
# Of ADDA's two losses the regulariser has 20 times the weight of the game, as in GAM's own of 2 and 0.1: Adam's steps
# depend on their ratio alone.
CAMVID_ADDA = dataclasses.replace(scenes.ADDA, drift_weight=20.0)
# Half of the source's 400.
_STARTS: dict[str, Any] = {"starts_from": scenes.SOURCE.label, "run": {"max_steps": 200}}

CAMVID = Recipe(
    name="gam-camvid",
    source="stands in for GTA5 → Cityscapes (GAM, Table 3): CamVid's images by day and at dusk at 120 x 160 with 11 "
    "classes, ERFNet's encoder from scratch; all that adapts starts from the network of source-only and takes 200 "
    "steps, Gaussian matching one. The mean drift is in the released code's form, but not with its weight, which "
    "is 1 beside the game's 0.5 there and 2 beside 0.1 here",
    tasks={"camvid_day-camvid_dusk": "day → dusk"},
    rows=(
        scenes.SOURCE,
        Row("Gaussian matching", "gaussian", GaussianConfig(**scenes.LEARNT), **{**_STARTS, "run": {"max_steps": 1}}),
        Row("ADDA", "adda", scenes.ADDA, **_STARTS),
        Row("ADDA + regularisation", "adda", CAMVID_ADDA, **_STARTS),
        Row("GAM without regularisation", "gam", dataclasses.replace(CAMVID_GAM, drift_weight=0.0), **_STARTS),
        Row("GAM", "gam", CAMVID_GAM, **_STARTS),
        Row("GAM, mean drift", "gam", dataclasses.replace(CAMVID_GAM, drift="mean"), **_STARTS),
    ),
    run=scenes.RUN,
    seeds=scenes.CAMVID.seeds,
    scale="small",
    expected="measured here (seed 0, mean IoU on the target): source-only 14.2, Gaussian matching 19.9, ADDA 19.1, GAM "
    "19.1, without its regulariser 16.0",
    cost="14 runs, of which 6 were run here: 24 minutes of runs, two at a time on two busy CPU cores",
    needs=scenes.CAMVID.needs,
    metric="mean-iou",
    baseline=scenes.SOURCE.label,
    bounds=scenes.CAMVID.bounds,
)
