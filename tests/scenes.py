"""Small driving scenes, in the layout of CamVid, that a network can learn."""

from __future__ import annotations

from pathlib import Path

from publishers_scenes import write_camvid
from rich.console import Console

from dynconv.engine.config import TrainConfig
from dynconv.engine.run_options import RunOptions
from dynconv.engine.train import train
from dynconv.methods import METHODS


def write_day_and_dusk(root: Path, images: int = 4, size: tuple[int, int] = (24, 32)) -> Path:
    """Write the domains `camvid_day` and `camvid_dusk`, a darker one, below the folder `root`; returns it."""
    write_camvid(root / "camvid_day", images, size, seed=0)
    write_camvid(root / "camvid_dusk", images, size, seed=1, dark=0.5)
    return root


def tiny_run(root: Path, method: str) -> Path:
    """Train `method` for two steps from day to dusk, whose scenes are below `root`; returns the run's folder, which is
    root/runs/METHOD."""
    own = METHODS[method].config_class(backbone="erfnet-encoder")
    options = RunOptions(
        protocol="camvid_day-camvid_dusk",
        data_root=root,
        image_size=(24, 32),
        max_steps=2,
        eval_every=1,
        batch_size=2,
        cache="none",
        device="cpu",
        out=root / "runs" / method,
    )
    return train(TrainConfig(method, options, own), console=Console(quiet=True)).path
