"""What GSDA leaves open or sets by hand, one table each on Office-31: weights, groups, samplers, form of the game."""

from __future__ import annotations

from typing import Any

from dynconv.recipes.base import Recipe, sweep
from dynconv.recipes.estimate import estimate
from dynconv.recipes.gsda import MINUTES, RUN, TABLE_1, WORK
from dynconv.recipes.office import SPLIT

_FULL = TABLE_1.rows[-1]
_IMAGES = RUN["batch_size"]

# Classes of Office-31 in windows of eight, the last three of each also the first of the next: 31 classes count round.
_OVERLAPPING = str([sorted((5 * window + place) % 31 for place in range(8)) for window in range(6)])


def _sweep(name: str, source: str, values: dict[str, dict[str, Any]]) -> Recipe:
    cost = estimate(len(TABLE_1.tasks) * len(values) * TABLE_1.seeds, MINUTES, WORK)
    return sweep(TABLE_1, name, f"GSDA, {source}{SPLIT}", _FULL, values, cost)


ALPHA = _sweep(
    "gsda-alpha",
    "section 3.1: the weight of the target's entropy (0.02 in the paper)",
    {f"alpha = {value:g}": {"entropy_weight": value} for value in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)},
)
BETA = _sweep(
    "gsda-beta",
    "section 3.1: the weight of the synchronisation (1 in the paper)",
    {f"beta = {value:g}": {"beta": value} for value in (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)},
)
GROUPS = _sweep(
    "gsda-groups",
    "section 3.1: the number of groups (6 in the paper), and deeper hierarchies",
    {
        f"groups = {', '.join(map(str, value))}": {"num_groups": value}
        for value in ((2,), (4,), (6,), (10,), (15,), (3, 9), (2, 6, 15))
    },
)
HIERARCHY = _sweep(
    "gsda-hierarchy",
    "section 2.2: what it names as possible, hierarchies of other depths and groups that overlap (random groups and "
    "three levels in the paper)",
    {
        "two levels": {"levels": "class"},
        "three levels": {},
        "four levels": {"num_groups": (3, 9)},
        "six levels": {"num_groups": (2, 4, 8, 16)},
        "overlapping groups": {"groups": _OVERLAPPING},
    },
)
SAMPLERS = _sweep(
    "gsda-samplers",
    "section 3.1: source classes drawn equally often, and target images with a confident pseudo label alone (the paper "
    "has both, and states no threshold)",
    {
        "both": {},
        "source uniform": {"source_sampling": "uniform"},
        "target all": {"target_sampling": "all"},
        "neither": {"source_sampling": "uniform", "target_sampling": "all"},
        "confidence = 0.5": {"confidence": 0.5},
        "confidence = 0.9": {"confidence": 0.9},
    },
)
CHOICES = _sweep(
    "gsda-choices",
    "equations 6 to 17: turns or reversal, losses per sample or summed, a ramp, and whose batch statistics",
    {
        "alternating": {},
        "reversal": {"form": "reversal"},
        "ramp": {"ramp": "sigmoid"},
        "reversal, ramp": {"form": "reversal", "ramp": "sigmoid"},
        # Of 36 images of each domain: the cross entropy's gradient is 36 times as long, the game's 72 times.
        f"summed, learning rate / {_IMAGES}": {"loss_reduction": "sum", "lr": _FULL.options.lr / _IMAGES},
        "separate batch statistics": {"normalisation_policy": "separate"},
    },
)
