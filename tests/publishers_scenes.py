"""Small driving scenes in their publishers' layouts: GTA5, SYNTHIA-RAND-CITYSCAPES, Cityscapes and CamVid."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from dynconv.data.scenes.label_maps import CAMVID_11, CITYSCAPES_19, CITYSCAPES_IDS, SYNTHIA_22

Ids = NDArray[np.uint8]
IDS = {name: number for number, name in CITYSCAPES_IDS.items()}
TRAIN_IDS = {name: number for number, name in enumerate(CITYSCAPES_19)}
# What every scene shows, from the top downwards, and its colour; "void" has no class.
BANDS = {
    "sky": (90, 140, 220),
    "vegetation": (40, 130, 50),
    "car": (200, 40, 40),
    "road": (90, 90, 95),
    "void": (9, 9, 9),
}
# CamVid's scenes show these.
SKY, ROAD, TREE, CAR = (CAMVID_11.index(name) for name in ("sky", "road", "tree", "car"))
SHOWN = {SKY: (90, 140, 220), ROAD: (90, 90, 95), TREE: (40, 130, 50), CAR: (200, 40, 40)}
IGNORED = 11
# So many rows at the bottom and columns at the left have no class.
BORDER = 2


def scene(generator: np.random.Generator, size: tuple[int, int]) -> tuple[NDArray[np.uint8], list[str]]:
    """A picture uint8 (H, W, 3) of noisy bands in their colours, and the band of each of its rows."""
    height, width = size
    cuts = np.sort(generator.choice(np.arange(1, height), len(BANDS) - 1, replace=False))
    rows = [list(BANDS)[place] for place in np.searchsorted(cuts, np.arange(height), side="right")]
    colours = np.array([BANDS[row] for row in rows])[:, None]
    pixels = colours + generator.normal(0, 12, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8), rows


def ids_of(rows: list[str], width: int, known: dict[str, int], void: int = 0) -> Ids:
    """A label map (H, W) with the number of each row's band."""
    return np.repeat(np.array([known.get(row, void) for row in rows], dtype=np.uint8)[:, None], width, axis=1)


def write_gta5(place: Path, images: int = 6, size: tuple[int, int] = (38, 70), *, test: int = 0, seed: int = 0) -> Path:
    """Write images/NNNNN.png and labels/NNNNN.png, PNGs with a palette; with `test` also split.mat, whose last `test`
    scenes are for the test. The second scene is two pixels narrower, as some published ones are. Returns `place`."""
    generator = np.random.default_rng(seed)
    for number in range(1, images + 1):
        own = (size[0], size[1] - 2 * (number == 2))
        pixels, rows = scene(generator, own)
        labels = Image.fromarray(ids_of(rows, own[1], IDS), mode="P")
        labels.putpalette([value for index in range(256) for value in (index, 255 - index, index // 2)])
        for folder, image in (("images", Image.fromarray(pixels)), ("labels", labels)):
            (place / folder).mkdir(parents=True, exist_ok=True)
            image.save(place / folder / f"{number:05}.png")
    if test:
        numbers = np.arange(1, images + 1, dtype=np.uint16)[:, None]
        savemat(place / "split.mat", {"trainIds": numbers[:-test], "valIds": numbers[:0], "testIds": numbers[-test:]})
    return place


def write_stylised(place: Path, images: int = 6, size: tuple[int, int] = (24, 48), *, seed: int = 9) -> Path:
    """Write images called like those of `write_gta5`, in other colours and another size. Returns `place`."""
    generator = np.random.default_rng(seed)
    place.mkdir(parents=True, exist_ok=True)
    for number in range(1, images + 1):
        pixels, _ = scene(generator, size)
        Image.fromarray(255 - pixels).save(place / f"{number:05}.png")
    return place


def write_synthia(place: Path, images: int = 6, size: tuple[int, int] = (30, 50), *, seed: int = 1) -> Path:
    """Write RGB/NNNNNNN.png and GT/LABELS/NNNNNNN.png, whose 16 bits hold the class in red and an instance in green.
    Returns `place`."""
    generator = np.random.default_rng(seed)
    known = {name: number for number, name in enumerate(SYNTHIA_22, start=1)}
    for folder in ("RGB", "GT/LABELS"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        pixels, rows = scene(generator, size)
        Image.fromarray(pixels).save(place / "RGB" / f"{number:07}.png")
        labels = np.zeros((*size, 3), dtype=np.uint16)
        labels[..., 0] = ids_of(rows, size[1], known)
        labels[..., 1] = 300 + number
        write_png16(place / "GT" / "LABELS" / f"{number:07}.png", labels)
    return place


def write_cityscapes(
    place: Path, images: int = 6, size: tuple[int, int] = (32, 64), *, train_ids: bool = False, seed: int = 2
) -> Path:
    """Write leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY for train and val, with labelIds or labelTrainIds. Returns
    `place`."""
    generator = np.random.default_rng(seed)
    for split, city in (("train", "aachen"), ("val", "munster")):
        folders = [place / kind / split / city for kind in ("leftImg8bit", "gtFine")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for number in range(images):
            pixels, rows = scene(generator, size)
            stem = f"{city}_{number:06}_000019"
            Image.fromarray(pixels).save(folders[0] / f"{stem}_leftImg8bit.png")
            labels = ids_of(rows, size[1], TRAIN_IDS, 255) if train_ids else ids_of(rows, size[1], IDS)
            Image.fromarray(labels).save(folders[1] / f"{stem}_gtFine_label{'Train' * train_ids}Ids.png")
    return place


def write_camvid(
    folder: Path, images: int = 4, size: tuple[int, int] = (24, 32), seed: int = 0, *, dark: float = 1.0
) -> Path:
    """Write train/, trainannot/, test/, testannot/ and classes.txt: a domain in CamVid's layout, with its 11 classes.

    Each split has `images` scenes of `size` (H, W), called 0.png and so on: sky over road, a tree and a car, each of
    its own noisy colour times `dark`. Returns `folder`.
    """
    generator = np.random.default_rng(seed)
    height, width = size
    for split in ("train", "test"):
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for index in range(images):
            labels = np.full(size, SKY, dtype=np.uint8)
            labels[generator.integers(height // 3, height // 2) :] = ROAD
            left = int(generator.integers(0, width // 2))
            labels[height // 4 : height // 2, left : left + width // 4] = TREE
            left = int(generator.integers(0, width // 2))
            labels[height // 2 : 3 * height // 4, left : left + width // 3] = CAR
            pixels = generator.normal(0, 12, (*size, 3))
            for place, colour in SHOWN.items():
                pixels[labels == place] += colour
            labels[-BORDER:], labels[:, :BORDER] = IGNORED, IGNORED
            Image.fromarray((dark * pixels).clip(0, 255).astype(np.uint8)).save(folder / split / f"{index}.png")
            Image.fromarray(labels).save(folder / f"{split}annot" / f"{index}.png")
    lines = [*CAMVID_11, f"void({IGNORED}=ignore)"]
    (folder / "classes.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_png16(file: Path, values: NDArray[np.uint16]) -> None:
    """A PNG of uint16 (H, W, 3), which Pillow cannot write."""
    height, width, _ = values.shape
    lines = values.astype(">u2").reshape(height, -1).view(np.uint8)
    unfiltered = b"".join(b"\0" + line.tobytes() for line in lines)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(unfiltered)),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
