"""Self-training from a finished run: the target images that its network is sure of join the sources of a new run (DRT,
Li et al., CVPR 2021, section 4.3: "confidence greater than 0.8").

The new network starts anew and learns the pseudo-labelled images as it learns any source. They are one more domain,
whose turn comes as often as every other source's (one source image in five beside four sources); they are augmented
and, where domains are normalised apart, normalised as the sources are, and `source_limit` does not bound them. A method
that tells its sources apart, such as M3SDA, counts one more, and an epoch lasts until each of them was seen too. They
have no test split and are in no measure: `source-val`, `source-test` and the validators know the labelled sources only.
The target stays as it is: all its images, without labels. A method that selects target images itself goes on doing so.

They are chosen among this run's training images of the target, however the other run drew its own, as a network sees
them outside training: the centre crop, or ten crops where the other run judges by these. The confidence is the softmax
of `Method.predict`, as in `dynconv predict`; of MCD's and DRT's two classifiers that of the sum of their scores. The
labels are predicted once and written to pseudo_labels.json: a run that goes on reads them there and does without the
other run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from dynconv.data import Domain, Split, parse_spec
from dynconv.data.base import UNLABELLED
from dynconv.distributed import gather_rows, my_share, world_size
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import LoadedRun, load_run
from dynconv.engine.pseudo_label_file import START_OVER, PseudoLabels, read_pseudo_labels
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.engine.scoring import evaluating
from dynconv.methods import METHODS


def check_pseudo_labels(config: TrainConfig) -> None:
    """Check that the run can have pseudo labels, if it is to have them, before anything is loaded.

    Raises:
        ValueError: A method without sources, or a run that is to learn from itself.
    """
    path = config.run.pseudo_labels_from
    if path is None:
        return
    if METHODS[config.method].supervised_by_target:
        raise ValueError(
            f"--pseudo-labels-from {path}: {config.method} is a bound: it trains on the target's labels and on no "
            "source that pseudo labels could join; leave the option out, or choose another method"
        )
    if path.expanduser().resolve() == config.out.expanduser().resolve():
        raise ValueError(
            f"--pseudo-labels-from {path} is the folder of this very run; give it another folder with --out"
        )


def pseudo_labels(config: TrainConfig, folder: RunFolder, target: Domain, fabric: Fabric) -> PseudoLabels | None:
    """The run's pseudo labels: those in its folder, or new ones, which are not written yet; None where it has none.

    Every process calls this, and all get the same.

    Args:
        config: The run.
        folder: Its folder, which may not exist yet.
        target: Its target. Of the labels only `PseudoLabels.oracle_accuracy` is made.
        fabric: Where to compute.

    Raises:
        ValueError: The other run is missing, unfinished, of another target, of other classes or images, or sure of
            none of them; or the folder's file is missing, damaged or of another run.
        DataError: An image cannot be read.
    """
    run = config.run
    if run.pseudo_labels_from is None:
        return None
    found = read_pseudo_labels(folder)
    if found is None:
        if folder.last.exists():
            raise ValueError(
                f"{folder.pseudo_labels} is missing, and the run has trained on what was in it; {START_OVER}"
            )
        return _predicted(config, run.pseudo_labels_from, target, fabric)
    expected = {
        "of": run.pseudo_labels_of,
        "threshold": run.pseudo_confidence,
        "checkpoint": run.pseudo_checkpoint,
        "target": target.name,
        "images": len(target.train),
        "classes": target.classes,
    }
    if other := [f"{k}: {getattr(found, k)!r} -> {v!r}" for k, v in expected.items() if getattr(found, k) != v]:
        raise ValueError(
            f"{folder.pseudo_labels} is not this run's (there -> here): {'; '.join(other)}; put the target's images "
            f"back as they were, or {START_OVER}"
        )
    return found


def guessed(scores: Tensor) -> tuple[Tensor, Tensor]:
    """How sure scores (B, num_classes) are of their class, and which it is.

    Returns:
        Highest probabilities float64 (B,), not a number where a score is not finite; classes int64 (B,).
    """
    confidences, labels = scores.double().softmax(dim=1).max(dim=1)
    return confidences.where(scores.isfinite().all(dim=1), torch.nan), labels


def select(confidences: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Which images a network is surer of than `threshold`, and as what.

    Args:
        confidences: float64 (N,), as `guessed` gives them.
        labels: int64 (N,), the classes.
        threshold: The highest probability must be greater; one that equals it is not enough.

    Returns:
        Places int64 (n,), ascending; classes int64 (n,); probabilities float64 (n,); on the CPU.

    Raises:
        ValueError: A score was not finite, or no image is sure enough.
    """
    if not confidences.isfinite().all():
        raise ValueError("its scores of the target's images are not finite: it diverged")
    confidences, labels = confidences.cpu(), labels.cpu()
    chosen = torch.nonzero(confidences > threshold).flatten()
    if chosen.numel() == 0:
        raise ValueError(
            f"--pseudo-confidence {threshold:g}: it is so sure of none of the target's {len(labels)} images; its "
            f"highest confidence is {float(confidences.max()):.4f}. Give a lower threshold, or another run"
        )
    return chosen, labels[chosen], confidences[chosen]


def _predicted(config: TrainConfig, path: Path, target: Domain, fabric: Fabric) -> PseudoLabels:
    run, loaded = config.run, _other_run(config, path, target)
    fabric.to_device(loaded.method)
    try:
        found = _guesses(loaded, target.train, fabric.device)
        indices, labels, confidences = select(*found, run.pseudo_confidence)
    except ValueError as error:
        raise ValueError(f"--pseudo-labels-from {path}: {error}") from error
    return PseudoLabels(
        of=loaded.config.described(),
        checkpoint=run.pseudo_checkpoint,
        threshold=run.pseudo_confidence,
        target=target.name,
        images=len(target.train),
        classes=target.classes,
        indices=indices,
        labels=labels,
        confidences=confidences,
        oracle_accuracy=_share_of_right(labels, target.train.labels[indices]),
    )


def _share_of_right(labels: Tensor, truth: Tensor) -> float | None:
    """None where the truth is not known."""
    return None if bool((truth == UNLABELLED).any()) else float((truth == labels).double().mean())


def _other_run(config: TrainConfig, path: Path, target: Domain) -> LoadedRun:
    """The run in `path`, at the checkpoint asked for.

    Raises:
        ValueError: It is not there, not finished, or does not fit this run.
    """
    run, option = config.run, f"--pseudo-labels-from {path}"
    folder = RunFolder(path)
    if not folder.config.exists():
        raise ValueError(f"{option}: there is no run (no {folder.config.name}); give the folder of a finished one")
    if folder.read_done() is None:
        raise ValueError(f"{option}: that run is not finished; the command that began it goes on with it")
    try:
        loaded = load_run(path, checkpoint=run.pseudo_checkpoint, device=run.device)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
    mine, other = _target_of(run), _target_of(loaded.config.run)
    if mine != other:
        raise ValueError(
            f"{option}: that run is of the target {other}, this one of {mine}; give a run of the same target, or this "
            "one the target of that run (of an own domain the same NAME and the same DIR)"
        )
    if loaded.classes != target.classes:
        raise ValueError(
            f"{option}: that run tells {len(loaded.classes)} classes apart ({_few(loaded.classes)}), this one "
            f"{len(target.classes)} ({_few(target.classes)}); give one of the same classes"
        )
    sizes = [each.network_input.image_size for each in (loaded.config, config)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{option}: that run's {loaded.config.options.backbone} takes images of {sizes[0]} x {sizes[0]}, this "
            f"one's {config.options.backbone} of {sizes[1]} x {sizes[1]}; give one of the same size"
        )
    if loaded.config.described() != run.pseudo_labels_of:
        raise ValueError(
            f"{option}: it holds the run {loaded.config.described()!r} now, and this run was configured for "
            f"{run.pseudo_labels_of!r}; put that one back, or name the option again to take this one"
        )
    return loaded


def _target_of(run: RunOptions) -> str:
    """The target as a known domain's name, or NAME=DIR with symbolic links followed."""
    if run.protocol is None:
        name, equals, place = str(run.target).partition("=")
        if not equals:
            return name
        return f"{name}={Path(place).expanduser().resolve()}"
    return parse_spec(run.protocol)[1]


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _guesses(loaded: LoadedRun, split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """What `guessed` makes of every image's scores, on every process, each of which computes its share."""
    scoring = dataclasses.replace(loaded.scoring, device=device)
    part = split if world_size() == 1 else split.subset(my_share(len(split)))
    # Of a process without a share.
    found = [guessed(torch.empty(0, len(loaded.classes), device=device))]
    with evaluating(loaded.method), loaded.method.evaluating_domain("target"):
        batches = scoring.batches(loaded.method, part, ten_crop=loaded.config.run.ten_crop)
        # Not the scores of all: a million images of 345 classes have more than a gigabyte of them.
        found += [guessed(scores) for scores, _ in batches]
    confidences, labels = (gather_rows(torch.cat(rows), len(split)) for rows in zip(*found, strict=True))
    return confidences, labels
