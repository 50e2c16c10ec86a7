"""Folders of images whose domains differ in brightness and whose classes in the half that is lighter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 2


def write_bright_folders(root: Path, brightness: Mapping[str, int], *, per_class: int, noise: int) -> None:
    """ROOT/DOMAIN/train and test, of both classes `per_class` images of 32 x 32: `brightness` of each domain, and
    uniform noise below `noise`."""
    generator = np.random.default_rng(0)
    for domain, level in brightness.items():
        for part in ("train", "test"):
            for label in range(CLASSES):
                folder = root / domain / part / f"class{label}"
                folder.mkdir(parents=True)
                for index in range(per_class):
                    image = generator.integers(0, noise, (32, 32, 3), dtype=np.uint8) + np.uint8(level)
                    image[:, 16 * label : 16 * label + 16] += 20
                    Image.fromarray(image).save(folder / f"{index}.png")
