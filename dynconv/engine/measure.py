"""Measure a run's checkpoint after training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dynconv.data import load_domain
from dynconv.data.scenes.protocol import load_scene_domain
from dynconv.engine.evaluation import split_metrics
from dynconv.engine.loaded_run import LoadedRun, load_run
from dynconv.engine.loading import loading_progress, scene_options
from dynconv.engine.run_options import CheckpointName, Device, Precision
from dynconv.engine.scoring import evaluating
from dynconv.engine.segmentation import SceneScoring, evaluation_of, scene_metrics


def measure_run(
    path: Path,
    *,
    domain: str | None = None,
    checkpoint: CheckpointName = "last",
    data_root: Path | None = None,
    device: Device = "auto",
    precision: Precision | None = None,
) -> dict[str, Any]:
    """Metrics of a run's checkpoint, as `SPLIT/DOMAIN/METRIC`, with `run`, `checkpoint`, `step` and `config_hash`.

    Args:
        path: The run folder; it is not written to.
        domain: `NAME=DIR` or the name of a known domain: gives the figures `test/NAME/...` alone, and the run's own
            data are not needed. None: all that an evaluation during training measures.
        checkpoint: "last", or the one that a validator chose.
        data_root: Folder of the real data sets; None for the one of training.
        device, precision: Where and how to compute; None for the run's own precision.

    Raises:
        ValueError: No run or checkpoint there, a checkpoint of another configuration, data missing or with other
            classes, or a device that is not there.
    """
    loaded = load_run(path, checkpoint=checkpoint, device=device, precision=precision, data_root=data_root)
    config, method, scoring = loaded.config, loaded.method, loaded.scoring
    head = {"run": str(path), "checkpoint": checkpoint, "step": loaded.step, "config_hash": config.hash}
    if domain is None:
        training, held_out = loaded.domains()
        return head | evaluation_of(config, training, held_out, scoring).measure(method)
    if config.network_input.labels == "pixel":
        return head | _scene_domain(loaded, domain)
    other = load_domain(
        domain,
        classes=loaded.classes,
        class_choice=config.run.classes,
        data_root=loaded.root,
        image_size=config.network_input.image_size,
        cache=config.run.cache,
        skip_bad=config.run.skip_bad,
        on_progress=loading_progress(),
    )
    if other.test is None or len(other.test) == 0:
        raise ValueError(f"--domain {domain}: there is no image to measure on; give a folder or list that holds some")
    with evaluating(method):
        found = split_metrics(
            method,
            f"test/{other.name}",
            other.test,
            loaded.classes,
            scoring,
            by_class=True,
            ten_crop=config.run.ten_crop,
        )
    return head | found


def _scene_domain(loaded: LoadedRun, domain: str) -> dict[str, float]:
    """The figures of another domain of scenes, judged as the run's own are."""
    run = loaded.config.run
    options = dataclasses.replace(scene_options(loaded.config), size=loaded.image_size)
    other = load_scene_domain(domain, options, classes=loaded.classes, data_root=loaded.root)
    if other.test is None:
        raise ValueError(
            f"--domain {domain}: there is no scene with a label map to measure on; give a folder with trainannot or "
            "testannot"
        )
    scenes = SceneScoring(loaded.scoring, run.eval_window, run.full_resolution)
    with evaluating(loaded.method):
        return scene_metrics(loaded.method, f"test/{other.name}", other.test, loaded.classes, scenes, by_class=True)
