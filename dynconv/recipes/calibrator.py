"""The baselines in Table 1 of the Calibrator (Ye et al., CVPR 2020) that are methods here."""

from __future__ import annotations

from dynconv.methods import CDANConfig, MCDConfig
from dynconv.recipes.base import Recipe, Row
from dynconv.recipes.estimate import estimate

BASELINES = Recipe(
    name="calibrator-baselines",
    source="the Calibrator, Table 1, its rows of CDAN and MCD, whose figures are those of their own papers, on one "
    "network (lenet-m3sda) with each method's own optimiser",
    tasks={"mnist-usps": "MNIST → USPS", "usps-mnist": "USPS → MNIST"},
    rows=(
        # 95.6 and 98.0 are the figures of CDAN+E in its own paper.
        Row(
            "CDAN+E",
            "cdan",
            CDANConfig(backbone="lenet-m3sda", bottleneck=0, hidden_features=500, entropy_conditioning=True),
            "CDAN",
        ),
        Row("MCD", "mcd", MCDConfig(backbone="lenet-m3sda"), "MCD"),
    ),
    # MCD trains its digits for at most 20,000 steps of 128 images.
    run={"max_steps": 20_000, "batch_size": 128},
    seeds=3,
    expected="the paper's: CDAN+E 95.6 and 98.0, MCD 93.8 and 95.7",
    cost=estimate(12, 15, "up to 9 PFLOP, bound by the number of steps"),
    needs="MNIST, USPS",
    published="calibrator-1",
)
