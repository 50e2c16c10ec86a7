"""A few images in each publisher's layout, with as many classes as there are."""

from __future__ import annotations

import bz2
import os
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from dynconv.data.image_sets import IMAGE_SETS, PDA_CLASSES, ImageSet

PER_CLASS = 3


def write_digits(root: Path, counts: tuple[int, int] = (60, 20)) -> None:
    """MNIST, USPS and MNIST-M: noise, the labels in turn."""
    noise = np.random.default_rng(0)
    (root / "MNIST" / "raw").mkdir(parents=True)
    for stem, part, usps, count in zip(
        ("train", "t10k"), ("train", "test"), ("usps.bz2", "usps.t.bz2"), counts, strict=True
    ):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = noise.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
            (root / "MNIST" / "raw" / f"{stem}-{kind}-ubyte").write_bytes(head + array.tobytes())
        values = noise.uniform(-1, 1, (count, 256))
        lines = (
            f"{label + 1} " + " ".join(f"{place}:{value:.4f}" for place, value in enumerate(row, start=1))
            for label, row in zip(labels, values, strict=True)
        )
        (root / usps).write_bytes(bz2.compress(("\n".join(lines) + "\n").encode()))
        folder = root / "mnist_m" / f"mnist_m_{part}"
        folder.mkdir(parents=True)
        for index in range(count):
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index:08d}.png")
        rows = (f"{index:08d}.png {label}" for index, label in enumerate(labels))
        (root / "mnist_m" / f"mnist_m_{part}_labels.txt").write_text("\n".join(rows) + "\n")


def write_image_sets(root: Path) -> dict[str, ImageSet]:
    """`PER_CLASS` images of every class and domain of every set; returns the sets with these counts as published."""
    noise = np.random.default_rng(0)
    small = write_domainnet(root)
    for name, known in IMAGE_SETS.items():
        if name in small:
            continue
        for folder in known.folders.values():
            for label in known.classes:
                (root / folder / label).mkdir(parents=True)
                for index in range(PER_CLASS):
                    image = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                    image.save(root / folder / label / f"{index}.jpg")
        each = {"all": (PER_CLASS,) * len(known.classes)}
        small[name] = replace(
            known,
            splits=dict.fromkeys(known.folders, {"all": PER_CLASS * len(known.classes)}),
            per_class=dict.fromkeys(known.folders, each),
        )
    return small


def write_domainnet(root: Path, train: int = 2, test: int = 1) -> dict[str, ImageSet]:
    """DomainNet's folders with one picture under every name, `train` + `test` of each class in the lists of both
    versions; the cleaned lists lack what the published ones lack. Returns both sets with these counts as published."""
    picture = root / "picture.jpg"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(picture)
    versions = {"original": IMAGE_SETS["domainnet"], "cleaned": IMAGE_SETS["domainnet-cleaned"]}
    lines: dict[tuple[str, str], dict[str, list[str]]] = {}
    for domain, folder in versions["original"].folders.items():
        for label, name in enumerate(versions["original"].classes):
            (root / folder / name).mkdir(parents=True)
            for index in range(train + test):
                path = f"{domain}/{name}/{domain}_{label + 1:03}_{index + 1:06}.jpg"
                # 6,210 images of their own would take seconds to write.
                os.link(picture, root / "domainnet" / path)
                split = "train" if index < train else "test"
                for version, known in versions.items():
                    if name not in known.absent.get(domain, {}).get(split, ()):
                        lines.setdefault((version, domain), {}).setdefault(split, []).append(f"{path} {label}")
    for (version, domain), splits in lines.items():
        for split, rows in splits.items():
            (root / "domainnet" / version).mkdir(exist_ok=True)
            (root / "domainnet" / version / f"{domain}_{split}.txt").write_text("\n".join(rows) + "\n")
    return {
        name: replace(
            IMAGE_SETS[name],
            splits={
                domain: {split: len(rows) for split, rows in lines[version, domain].items()}
                for domain in IMAGE_SETS[name].folders
            },
        )
        for version, name in (("original", "domainnet"), ("cleaned", "domainnet-cleaned"))
    }


def partial_counts(published: Mapping[str, int]) -> dict[str, int]:
    """The images of the ten classes of partial adaptation, by domain."""
    return dict.fromkeys(published, PER_CLASS * len(PDA_CLASSES))
