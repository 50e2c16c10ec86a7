"""Trained runs of a moment, shared by the tests of the whole report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_training import plan
from PIL import Image

from dynconv import cli

__all__ = ["plan"]

CLASSES = 3


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the domains one and two in data/, and in runs/ three finished runs, one without its checkpoints and
    one damaged."""
    root = tmp_path_factory.mktemp("trained")
    generator = np.random.default_rng(0)
    for domain in ("one", "two"):
        for label in range(CLASSES):
            folder = root / "data" / domain / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(8):
                image = generator.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                image[:, 10 * label : 10 * label + 10] += 100
                Image.fromarray(image).save(folder / f"{index}.png")
    data = ["--source", f"one={root / 'data' / 'one'}", "--target", f"two={root / 'data' / 'two'}"]
    short = ["--max-steps", "2", "--batch-size", "8", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        # The report draws the curves itself: half of what such a training takes.
        drawn = "dynconv.report.figures.training.save_training_figure"
        patch.setattr(drawn, lambda folders: folders[0].training_figure)
        for method, seed in (("source-only", 0), ("mcd", 0), ("mcd", 1)):
            out = root / "runs" / method / f"seed{seed}"
            assert cli.main(["train", method, *data, *short, "--seed", str(seed), "--out", str(out)]) == 0
    (root / "runs" / "mcd" / "seed1" / "checkpoints" / "last.pt").unlink()
    (root / "runs" / "damaged").mkdir()
    (root / "runs" / "damaged" / "config.yaml").write_text("method: alchemy\n")
    return root


@pytest.fixture(scope="session")
def reported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of the trained runs."""
    out = tmp_path_factory.mktemp("report")
    words = ["--out", str(out), "--device", "cpu", "--title", "A <title>"]
    assert cli.main(["report", str(trained / "runs"), *words]) == 0
    return out
