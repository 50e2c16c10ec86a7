"""The tables of GSDA (Hu et al., CVPR 2020).

What the paper leaves open is as released CDAN has it: SGD with Nesterov momentum, 36 + 36 images, a bottleneck of 256,
the inverse schedule, ten times the pretrained layers' learning rate for new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from dynconv.methods import (
    CDANConfig,
    DANNConfig,
    GSDAConfig,
    MADAConfig,
    MCDConfig,
    MethodConfig,
    PADAConfig,
    SourceOnlyConfig,
)
from dynconv.methods.adversarial import AdversarialConfig
from dynconv.recipes.base import Recipe, Row
from dynconv.recipes.estimate import estimate
from dynconv.recipes.office import OFFICE, SPLIT

_HOME = {
    f"office-home:{source}-{target}": f"{_head} → {_tail}"
    for (source, _head), (target, _tail) in permutations(
        {"art": "Ar", "clipart": "Cl", "product": "Pr", "real-world": "Rw"}.items(), 2
    )
}
_VISDA = {"visda2017:train-validation": "synthetic → real"}
RUN = {"max_steps": 10_000, "batch_size": 36}
RESNET: dict[str, Any] = {"backbone": "resnet50"}
# 4.1 GMAC an image forward, three times that with the backward pass: 1.8 TFLOP for a step of 72 images.
WORK = "18 PFLOP"
MINUTES = 30


def like_adversarial(config: type[MethodConfig], **fields: Any) -> MethodConfig:
    """A method without discriminators, with the optimiser, schedule and bottleneck of those that have some."""
    like = AdversarialConfig()
    names = ("bottleneck", "optimiser", "nesterov", "lr", "pretrained_lr_factor", "lr_schedule")
    return config(**{name: getattr(like, name) for name in names} | fields)


def ablation_rows(shared: dict[str, Any], *, cite: bool) -> tuple[Row, ...]:
    """The four rows of Table 1, held against the paper's where `cite` says so. The choice of images is on in all of
    them."""
    groups = {name: shared[name] for name in ("num_groups",) if name in shared}
    plain = {name: value for name, value in shared.items() if name not in groups}
    steps: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("global", "Glb", {"levels": "global", "synchronisation": False}),
        ("+ class", "Glb + Cls", {"levels": "class", "synchronisation": False}),
        ("+ group", "Glb + Cls + Grp", {"levels": "group", "synchronisation": False, **groups}),
        ("+ synchronisation", "Glb + Cls + Grp + Grad Sync", {"levels": "group", **groups}),
    )
    return tuple(
        Row(label, "gsda", GSDAConfig(**plain, **fields), paper if cite else None) for label, paper, fields in steps
    )


TABLE_1 = Recipe(
    name="gsda-ablation",
    source="GSDA, Table 1 (Office-31)" + SPLIT,
    tasks=OFFICE,
    rows=ablation_rows(RESNET, cite=True),
    run=RUN,
    seeds=3,
    expected="the paper's: 83.7, 85.6, 87.0 and 89.7 on average",
    cost=estimate(72, MINUTES, WORK),
    needs="Office-31, ImageNet weights",
    ablation=True,
    published="gsda-1",
)


def _comparison(
    name: str,
    source: str,
    data: str,
    tasks: dict[str, str],
    gsda: dict[str, Any],
    published: str,
    cites: Sequence[str],
    expected: str,
    metric: str = "accuracy",
) -> Recipe:
    """GSDA beside its baselines on one backbone and schedule; `cites` names those rows that the paper has."""
    rows = {
        "source-only": ("source-only", like_adversarial(SourceOnlyConfig, **RESNET), "ResNet50"),
        "DANN": ("dann", DANNConfig(**RESNET), "DANN"),
        "MADA": ("mada", MADAConfig(**RESNET), "MADA"),
        "MCD": ("mcd", like_adversarial(MCDConfig, **RESNET), "MCDDA"),
        "CDAN": ("cdan", CDANConfig(**RESNET), ""),
        # The figures printed for CDAN are those of CDAN+E in its own paper.
        "CDAN+E": ("cdan", CDANConfig(**RESNET, entropy_conditioning=True), "CDAN"),
        "GSDA": ("gsda", GSDAConfig(**RESNET, **gsda), "GSDA"),
    }
    return Recipe(
        name=name,
        source=source,
        tasks=tasks,
        rows=tuple(
            Row(label, method, options, paper if paper in cites else None)
            for label, (method, options, paper) in rows.items()
        ),
        run=RUN,
        seeds=3,
        expected=expected,
        cost=estimate(3 * len(tasks) * len(rows), MINUTES, WORK),
        needs=f"{data}, ImageNet weights",
        metric=metric,
        published=published,
    )


TABLE_2 = _comparison(
    "gsda-office31",
    "GSDA, Table 2 (Office-31)" + SPLIT,
    "Office-31",
    OFFICE,
    {},
    "gsda-2",
    ("ResNet50", "DANN", "MADA", "MCDDA", "CDAN", "GSDA"),
    "the paper's: from 76.1 (source-only) to 89.7 (GSDA) on average",
)
TABLE_3 = _comparison(
    "gsda-office-home",
    "GSDA, Table 3 (Office-Home)" + SPLIT,
    "Office-Home",
    _HOME,
    {"num_groups": (13,)},
    "gsda-3",
    ("ResNet50", "DANN", "CDAN", "GSDA"),
    "the paper's: from 46.1 (source-only) to 70.3 (GSDA) on average",
)
TABLE_4 = _comparison(
    "gsda-visda",
    "GSDA, Table 4 (VisDA-2017); the mean of its twelve classes is 82.5, the average it prints 81.5" + SPLIT,
    "VisDA-2017",
    _VISDA,
    {"num_groups": (4,), "entropy_weight": 0.2, "beta": 10.0},
    "gsda-4",
    ("ResNet50", "DANN", "GSDA"),
    "the paper's means over the classes: from 55.3 (source-only) to 82.5 (GSDA)",
    metric="class-mean-accuracy",
)

PARTIAL = Recipe(
    name="gsda-partial",
    source="GSDA, section 3.1: Office-31, 31 classes to 10; its table is in a supplement that is not at hand" + SPLIT,
    tasks={f"{task}@pda": label for task, label in OFFICE.items()},
    rows=(
        Row("source-only", "source-only", like_adversarial(SourceOnlyConfig, **RESNET)),
        Row("DANN", "dann", DANNConfig(**RESNET)),
        Row("PADA", "pada", PADAConfig(**RESNET)),
        Row("GSDA", "gsda", GSDAConfig(**RESNET, entropy_weight=0.2, beta=10.0)),
    ),
    run=RUN,
    seeds=3,
    # Its own paper, measured on ten crops; released code that other libraries ship comes to 93.8.
    expected="PADA 92.7 on average as its own paper says (ten crops); GSDA's figures are not at hand",
    cost=estimate(72, MINUTES, WORK),
    needs="Office-31, ImageNet weights",
)
