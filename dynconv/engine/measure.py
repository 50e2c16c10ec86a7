"""Measure a run's checkpoint after training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from dynconv.data import load_domain, source_validation_split
from dynconv.engine.checkpoint import WEIGHTS, load_checkpoint
from dynconv.engine.config import Precision, load_config
from dynconv.engine.evaluation import Evaluation, Scoring, evaluating, split_metrics
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import load_domains, make_fabric
from dynconv.methods import METHODS


def measure_run(
    path: Path,
    *,
    domain: str | None = None,
    checkpoint: Literal["last", "source-val"] = "last",
    data_root: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision | None = None,
) -> dict[str, Any]:
    """Metrics of a run's checkpoint, as `SPLIT/DOMAIN/METRIC`, with `run`, `checkpoint`, `step` and `config_hash`.

    Args:
        path: The run folder; it is not written to.
        domain: `NAME=DIR` or the name of a known domain: gives the accuracies `test/NAME/...` alone, and the run's own
            data are not needed. None: all that an evaluation during training measures.
        checkpoint: "last" or "source-val".
        data_root: Folder of the real data sets; None for the one of training.
        device, precision: Where and how to compute; None for the run's own precision.

    Raises:
        ValueError: No run or checkpoint there, a checkpoint of another configuration, data missing or with other
            classes, or a device that is not there.
    """
    folder = RunFolder(path)
    if not folder.config.exists():
        raise ValueError(f"{path} is no run folder: there is no {folder.config}")
    config = load_config(folder.config, METHODS)
    root = data_root if data_root is not None else config.run.data_root
    run = dataclasses.replace(config.run, data_root=root, device=device, precision=precision or config.run.precision)
    fabric = make_fabric(run)
    weights = folder.checkpoint(checkpoint)
    state = load_checkpoint(weights, fabric.device, required=WEIGHTS)
    # Static weights load into a dynamic network, so that a foreign checkpoint would give figures.
    if state["config_hash"] != config.hash:
        raise ValueError(
            f"{weights} is of the configuration {state['config_hash']}, {folder.config} is {config.hash}: one of "
            "the two was edited or is of another run; put the run's own back"
        )
    classes = tuple(state["classes"])
    # The weights the training began with are in no need of being there: the checkpoint's take their place.
    method = METHODS[config.method](dataclasses.replace(config.options, weights="none"), len(classes))
    method.load_state_dict(state["method"])
    fabric.to_device(method)
    head = {"run": str(path), "checkpoint": checkpoint, "step": state["step"], "config_hash": state["config_hash"]}
    scoring = Scoring(fabric.device, fabric.autocast, config.network_input)
    if domain is None:
        training, held_out = source_validation_split(load_domains(dataclasses.replace(config, run=run)), run.seed)
        return head | Evaluation(training, held_out, scoring, run.ten_crop).measure(method)
    other = load_domain(domain, classes=classes, data_root=root, image_size=config.network_input.image_size)
    if other.test is None or len(other.test) == 0:
        raise ValueError(f"--domain {domain}: there is no image to measure on")
    with evaluating(method):
        found = split_metrics(
            method, f"test/{other.name}", other.test, classes, scoring, by_class=True, ten_crop=run.ten_crop
        )
    return head | found
