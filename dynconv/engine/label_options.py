"""Which options of a run are for networks that label whole images, and which for those that label every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynconv.engine.selection import VALIDATOR
from dynconv.methods import METHODS
from dynconv.methods.checks import check_segmentation

if TYPE_CHECKING:
    from dynconv.engine.config import TrainConfig

# Heights and widths of driving scenes, and of parts of them.
SIZES = ("image_size", "crop_size", "eval_window")
OF_IMAGES = ("ten_crop", "pseudo_labels_from", "classes")
OF_SCENES = (*SIZES, "full_resolution", "stylised")


def check_label_options(config: TrainConfig) -> None:
    """Raise a ValueError where options are for the other kind of network, or do not fit one that labels every pixel."""
    run, backbone, network = config.run, config.options.backbone, config.network_input
    of_pixels = network.labels == "pixel"
    for name in OF_IMAGES if of_pixels else OF_SCENES:
        if (value := getattr(run, name)) != getattr(type(run), name):
            what = "labels every pixel" if of_pixels else "labels whole images"
            raise ValueError(f"{_flag(name)} {_words(value)}: {backbone} {what} and has no use for it; leave it out")
    if not of_pixels:
        return
    check_segmentation(METHODS[config.method], config.options)
    if run.validator == "deep-embedded-validation":
        raise ValueError(
            f"--validator {run.validator} weights whole images; {backbone} labels every pixel: choose another one, "
            f"such as {VALIDATOR}"
        )
    if run.augmentation == "crop-flip" and run.crop_size is None:
        raise ValueError("--augmentation crop-flip: give the size of the crops with --crop-size H W")
    for name in ("crop_size", "eval_window"):
        if (size := getattr(run, name)) is None:
            continue
        if any(side % network.multiple for side in size):
            raise ValueError(f"{_flag(name)} {_words(size)}: {backbone} takes multiples of {network.multiple}")
        # Of the methods that look at patches. Later, it would end a run at its first evaluation of the adaptation.
        if (patch := getattr(config.options, "patch_size", 0)) > min(size):
            raise ValueError(f"patch_size: expected at most {min(size)} with {_flag(name)} {_words(size)}, got {patch}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _words(value: Any) -> str:
    """As it is typed."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
