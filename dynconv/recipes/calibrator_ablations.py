"""What the Calibrator's parts, size and bound are worth, one table each, around the setting of `calibrator-digits`.

The first two rows are those of `calibrator-digits`, and all others start from the first one's classifier. One `--out`
for several of these recipes, and for that one, trains these two once; OUT/table.md and OUT/table.csv are the last
call's.
"""

from __future__ import annotations

from typing import Any

from dynconv.methods import CalibratorConfig
from dynconv.recipes.base import Recipe, Row, sweep
from dynconv.recipes.calibrator_small import DIGITS

# Of one run on one of two CPU cores, by those of calibrator-digits.
_MINUTES = 5.0


def _row(method: str) -> Row:
    return next(row for row in DIGITS.rows if row.method == method)


_SOURCE, _OURS = _row("source-only"), _row("calibrator")


def _defaults(*names: str) -> dict[str, Any]:
    """Fields that a row has no use for."""
    return {name: getattr(CalibratorConfig, name) for name in names}


_FEATURES_ONLY = {"discriminators": "feature", **_defaults("pixel_hidden", "patch", "patch_size", "shuffle")}
_PIXELS_ONLY = {"discriminators": "pixel", **_defaults("feature_input", "feature_hidden", "feature_dropout")}
_NO_PATCH = {"patch": False, **_defaults("patch_size")}


def _ablation(name: str, source: str, values: dict[str, dict[str, Any]], minutes: float = _MINUTES) -> Recipe:
    runs = len(DIGITS.tasks) * (2 + len(values)) * DIGITS.seeds
    hours = runs * minutes / 60
    cost = f"not run here; estimate: {runs} runs, {hours:.0f} hours of one CPU core, two at a time on two"
    rows = {_OURS.label: {}, **values}
    return sweep(
        DIGITS,
        f"calibrator-{name}",
        f"the Calibrator, {source}",
        _OURS,
        rows,
        cost,
        above=_SOURCE,
        baseline=_OURS.label,
        expected="not run here; the paper gives no figures of this",
    )


def _others(field: str, word: str, *values: float) -> dict[str, dict[str, Any]]:
    """Rows of the values that the setting itself has not."""
    own = getattr(_OURS.options, field)
    return {f"{word} = {value:g}": {field: value} for value in values if value != own}


def _own(field: str) -> str:
    return f"{getattr(_OURS.options, field):g} in the row {_OURS.label}"


GROUPS = _ablation(
    "groups",
    "section 3.2: discriminators that tell apart source, target, calibrated source and calibrated target, or source "
    "and calibrated images alone",
    {"two groups": {"groups": 2}},
)
DISCRIMINATORS = _ablation(
    "discriminators",
    "section 3.2: discriminators of features and of pixels, or one of them",
    {"features only": _FEATURES_ONLY, "pixels only": _PIXELS_ONLY},
)
TRICKS = _ablation(
    "tricks",
    "section 3.2: what keeps the pixel discriminator from overfitting, random patches and shuffled pixels",
    {
        "no shuffle": {"shuffle": False},
        "no patch": _NO_PATCH,
        "neither": {"shuffle": False, **_NO_PATCH},
    },
)
WIDTH = _ablation(
    "width",
    f"section 3.2 (a narrower calibrator overfits less): channels of its first layer, {_own('width')}",
    _others("width", "width", 4, 8, 16),
    1.5 * _MINUTES,
)
DEPTH = _ablation(
    "depth",
    f"section 3.2 (a larger calibrator is not simply better): residual blocks, {_own('blocks')}",
    _others("blocks", "blocks", 3, 6, 9),
)
EPSILON = _ablation(
    "epsilon",
    f"section 5.2 and its appendix: the L-infinity bound of the perturbation, {_own('epsilon')}; `dynconv plot "
    "epsilon` draws accuracy against it",
    _others("epsilon", "epsilon", 0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
)
FORM = _ablation(
    "form",
    "section 3.1: a perturbation of both signs, or the released code's, which only brightens and cannot start as none, "
    "with the same bound",
    {"nonnegative": {"form": "nonnegative", **_defaults("start")}},
)

ABLATIONS = (GROUPS, DISCRIMINATORS, TRICKS, WIDTH, DEPTH, EPSILON, FORM)
