"""What the tests of `dynconv data check` share: small sets, what is told of them, a way to damage them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from dynconv.data.check import Checking, DomainCheck
from dynconv.data.check_names import check_domains
from dynconv.data.image_sets import IMAGE_SETS

WEBCAM = "office31/webcam/images"
CLIPART = "domainnet/clipart"
CLIPART_LISTS = "domainnet/original/clipart"
M_TRAIN = "mnist_m/mnist_m_train"


def write_classes(folder: Path, names: tuple[str, ...], count: int, file: str = "{}.jpg") -> None:
    """`count` images of noise in a folder for each class."""
    noise = np.random.default_rng(len(names))
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(noise.integers(0, 256, (9, 8, 3), dtype=np.uint8))
            image.save(folder / name / file.format(index))


def write_webcam_and_clipart(root: Path) -> None:
    """Two images of each class of Webcam; of three classes of DomainNet's clipart two to train and one to test on."""
    write_classes(root / WEBCAM, IMAGE_SETS["office31"].classes, 2)
    classes = IMAGE_SETS["domainnet"].classes[:3]
    write_classes(root / CLIPART, classes, 3, "clipart_{}.jpg")
    (root / "domainnet" / "original").mkdir()
    for split, indices in (("train", (0, 1)), ("test", (2,))):
        rows = [
            f"clipart/{name}/clipart_{index}.jpg {label}" for label, name in enumerate(classes) for index in indices
        ]
        (root / f"{CLIPART_LISTS}_{split}.txt").write_text("\n".join(rows) + "\n")


def by_digit(splits: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Images of each digit by split, where the labels are the digits in turn."""
    return {split: tuple(count // 10 + (digit < count % 10) for digit in range(10)) for split, count in splits.items()}


def check(name: str, root: Path, *, subset: bool = False) -> DomainCheck:
    (found,) = check_domains([name], root, Checking(subset=subset, threads=2, cache_dir=root.parent / "cache"))
    return found


def cut(file: str, size: int) -> Callable[[Path], None]:
    """What leaves the first `size` bytes of `file`."""

    def damage(root: Path) -> None:
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[:size])

    return damage
