"""Small driving scenes, in the layout of CamVid, that a network can learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dynconv import cli
from dynconv.data.scenes.label_maps import CAMVID_11

SKY, ROAD, TREE, CAR = (CAMVID_11.index(name) for name in ("sky", "road", "tree", "car"))
SHOWN = {SKY: (90, 140, 220), ROAD: (90, 90, 95), TREE: (40, 130, 50), CAR: (200, 40, 40)}
IGNORED = 11
# So many rows at the bottom and columns at the left have no class.
BORDER = 2


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


def write_day_and_dusk(root: Path, images: int = 4, size: tuple[int, int] = (24, 32)) -> Path:
    """Write the domains `camvid_day` and `camvid_dusk`, a darker one, below the folder `root`; returns it."""
    write_camvid(root / "camvid_day", images, size, seed=0)
    write_camvid(root / "camvid_dusk", images, size, seed=1, dark=0.5)
    return root


def tiny_run(root: Path, method: str, *words: str) -> Path:
    """Train `method` for two steps from day to dusk, whose scenes are below `root`; returns the run's folder, which is
    root/runs/METHOD."""
    out = root / "runs" / method
    data = ["--protocol", "camvid_day-camvid_dusk", "--data-root", str(root), "--image-size", "24", "32"]
    short = ["--max-steps", "2", "--eval-every", "1", "--batch-size", "2", "--cache", "none", "--device", "cpu"]
    assert cli.main(["train", method, *data, *short, "--backbone", "erfnet-encoder", "--out", str(out), *words]) == 0
    return out
