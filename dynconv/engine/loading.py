"""A run's domains, and what is told of loading them: how far it is, and which images were left out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

import torch

from dynconv.data import Protocol, Skipped, Split, load_protocol, source_validation_split
from dynconv.data.arrangements import supervised_by_target
from dynconv.data.few_labels import few_labelled
from dynconv.data.files import Decoding
from dynconv.data.scenes.protocol import SceneOptions, load_scene_protocol
from dynconv.distributed import is_main
from dynconv.engine.config import TrainConfig
from dynconv.engine.run_folder import RunFolder, write_atomically
from dynconv.methods import METHODS

# Seconds between two lines: what is read faster says nothing.
INTERVAL = 5.0


def loading_progress(line: Callable[[str], None] | None = None) -> Callable[[str, int, int], None]:
    """What to call with (what, done, total) of a pass over images; it says so every `INTERVAL` seconds.

    Args:
        line: Where a line goes; standard error by default. Of several processes the main one speaks.
    """
    began: dict[str, float] = {}
    told = line or (lambda text: print(text, file=sys.stderr))

    def progress(what: str, done: int, total: int) -> None:
        last = began.setdefault(what, time.monotonic())
        if is_main() and time.monotonic() - last >= INTERVAL:
            began[what] = time.monotonic()
            told(f"{what}: {done} of {total} images")

    return progress


def check_skipped(folder: RunFolder, skipped: Sequence[Skipped]) -> None:
    """Check that `skipped` are the images that the run in `folder` went without from its beginning, if it began.

    Raises:
        ValueError: They are others, or the record of them is damaged.
    """
    stored = read_skipped(folder)
    if stored is None:
        return
    old, new = ({(each.domain, each.path) for each in rows} for rows in (stored, skipped))
    if old == new:
        return
    changes = [f"{domain}/{path} cannot be read now" for domain, path in sorted(new - old)]
    changes += [f"{domain}/{path} can be read now" for domain, path in sorted(old - new)]
    more = f" and {len(changes) - 10} more" if len(changes) > 10 else ""
    raise ValueError(
        f"--skip-bad: the run in {folder.path} was trained on other images: {'; '.join(changes[:10])}{more}. Put the "
        "files back as they were, or start another run with another --out"
    )


def record_skipped(folder: RunFolder, skipped: Sequence[Skipped]) -> None:
    """Write the images that the run goes without to skipped.json, as a list of objects (domain, path, why)."""
    if is_main():
        write_atomically(folder.skipped, json.dumps([each._asdict() for each in skipped], indent=2) + "\n")


def read_skipped(folder: RunFolder) -> list[Skipped] | None:
    """The images that a run went without; None where it was not asked for.

    Raises:
        ValueError: The file is damaged.
    """
    if not folder.skipped.exists():
        return None
    try:
        return [Skipped(**each) for each in json.loads(folder.skipped.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{folder.skipped} is damaged: {error}; delete it: which images the run went without is then not checked"
        ) from error


def load_domains(config: TrainConfig) -> Protocol:
    """The domains that the options name, in the size that the backbone takes; of a bound that learns from the target's
    labels the target alone.

    Raises:
        DataError: As `load_protocol`.
        ValueError: Options of the sources, where the method has none but the target.
    """
    run = config.run
    bound = METHODS[config.method].supervised_by_target
    if bound and run.source_limit is not None:
        raise ValueError(
            f"--source-limit {run.source_limit}: {config.method} trains on the labelled target alone, not on the "
            "sources; give --target-limit, which bounds its training images"
        )
    if config.network_input.labels == "pixel":
        scenes = load_scene_protocol(
            run.protocol,
            scene_options(config),
            source=run.source,
            target=run.target,
            data_root=run.data_root,
            source_limit=run.source_limit,
            target_limit=run.target_limit,
            divide_target=bound,
        )
        check_sides(config, scenes)
        return supervised_by_target(scenes) if bound else scenes
    protocol = load_protocol(
        run.protocol,
        source=list(run.source) or None,
        target=run.target,
        class_choice=run.classes,
        data_root=run.data_root,
        image_size=config.network_input.image_size,
        source_limit=run.source_limit,
        target_limit=run.target_limit,
        threads=run.workers,
        cache=run.cache,
        skip_bad=run.skip_bad,
        on_progress=loading_progress(),
        divide_target=bound,
    )
    return supervised_by_target(protocol) if bound else protocol


def training_domains(config: TrainConfig, protocol: Protocol) -> tuple[Protocol, tuple[Split, ...]]:
    """`protocol`, of `load_domains`, with the training images that a run learns from, and for each source those held
    out for `source-val`.

    Raises:
        DataError: As `source_validation_split`, or as `few_labelled` of a bound that learns from a few labels.
    """
    if count := config.options.few_labels:
        return few_labelled(protocol, count, config.run.seed)
    return source_validation_split(protocol, config.run.seed)


def unlabelled_note(protocol: Protocol) -> str | None:
    """What whoever watches a run must know of a target without labels to measure by; None where it has some."""
    target = protocol.target
    if target.test is not None:
        return None
    return (
        f"target {target.name}: {len(target.train)} images without labels: no target accuracy, no oracle; label-free "
        "validators are measured"
    )


def repeated_note(protocol: Protocol, batch_size: int) -> str | None:
    """What whoever watches a run must know of batches that hold images more than once, for a domain has fewer than each
    takes of it; None where none has.

    Args:
        protocol: What is drawn from.
        batch_size: Images of the sources, which take turns, and images of the target, in a batch of all processes.
    """
    shares = [(source, -(-batch_size // len(protocol.sources))) for source in protocol.sources]
    small = {
        domain.name: f"{share} images of {domain.name}, which has {len(domain.train)} to train on"
        for domain, share in (*shares, (protocol.target, batch_size))
        if len(domain.train) < share
    }
    if not small:
        return None
    taken = " and ".join(small.values())
    return f"--batch-size {batch_size}: a batch takes {taken}; it holds some of them more than once"


def scene_options(config: TrainConfig) -> SceneOptions:
    """How a run's scenes are loaded."""
    run = config.run
    threads = torch.get_num_threads() if run.workers is None else run.workers
    # Scenes have a height and a width of their own, so that the side of the squares has no use.
    decoding = Decoding(0, threads=threads, cache=run.cache, on_progress=loading_progress())
    return SceneOptions(decoding, run.image_size, run.crop_size, run.skip_bad, run.stylised)


def check_sides(config: TrainConfig, protocol: Protocol) -> None:
    """Raise a ValueError where scenes, or their crops, have sides that the network does not take."""
    height, width = protocol.target.train.drawn_shape[1:]
    multiple = config.network_input.multiple
    if height % multiple or width % multiple:
        fitting = " ".join(str(max(side // multiple, 1) * multiple) for side in (height, width))
        raise ValueError(
            f"--image-size: scenes of {height} x {width} are trained on whole, and {config.options.backbone} takes "
            f"multiples of {multiple}: give --crop-size {fitting}, or another --image-size"
        )
