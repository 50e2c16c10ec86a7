"""Five digit domains that need no file: a stand-in for Digit-Five (which is MNIST, MNIST-M, USPS, SVHN and Synthetic
Digits), not any of its sets. `optical` is real handwriting (scikit-learn's optical digits); the other four are rendered
from the fonts that matplotlib ships.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dynconv.data.arrays import to_split
from dynconv.data.base import Domain
from dynconv.data.cache import Arrays, cached
from dynconv.data.digits import CLASSES
from dynconv.data.draws import stratified_hold_out
from dynconv.data.errors import DataError

NAMES = ("optical", "plain", "textured", "coloured", "inverted")

# Rises with every change of what is rendered: it is part of the cache's key.
GENERATOR_VERSION = 1
SEED = 0
TRAIN_COUNT = 2000
TEST_COUNT = 500


def load_embedded(name: str, *, cache_dir: Path, image_size: int, channels: int, seed: int = SEED) -> Domain:
    """One of `NAMES`. Rendered domains have 2,000 training and 500 test images, in fonts of other families.

    Raises:
        DataError: scikit-learn, matplotlib or Pillow is missing (they come with the `train` extra).
    """
    try:
        arrays = _optical() if name == "optical" else _rendered(name, cache_dir, seed)
    except ImportError as error:
        raise DataError(f'embedded:{name} needs {error.name}: pip install "dynconv[train]"') from error
    train, test = (
        to_split(arrays[f"{part}_images"], arrays[f"{part}_labels"], image_size=image_size, channels=channels)
        for part in ("train", "test")
    )
    return Domain(name, CLASSES, train, test)


def _optical() -> Arrays:
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey: np.ndarray[Any, Any] = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    kept, held = (part.numpy() for part in stratified_hold_out(torch.from_numpy(labels.astype(np.int64)), SEED))
    return {
        "train_images": grey[kept],
        "train_labels": labels[kept],
        "test_images": grey[held],
        "test_labels": labels[held],
    }


def _rendered(name: str, cache_dir: Path, seed: int) -> Arrays:
    import matplotlib
    import PIL

    from dynconv.data.render import render_split

    def make() -> Arrays:
        arrays: Arrays = {}
        for part, count in (("train", TRAIN_COUNT), ("test", TEST_COUNT)):
            arrays[f"{part}_images"], arrays[f"{part}_labels"] = render_split(name, part, count, seed)
        return arrays

    recipe = {
        "set": f"embedded:{name}",
        "generator": GENERATOR_VERSION,
        "seed": seed,
        "counts": [TRAIN_COUNT, TEST_COUNT],
        # The fonts come with the one, their rasteriser with the other.
        "matplotlib": matplotlib.__version__,
        "pillow": PIL.__version__,
    }
    return cached(cache_dir, f"embedded-{name}", recipe, make)
