"""Classes and confidences of unlabelled images: a folder of them to a table."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor

from dynconv.data import DataError, ImageFiles, Split
from dynconv.data.decode import decode
from dynconv.data.files import Decoding
from dynconv.data.protocols import MARGINS
from dynconv.data.threads import read_ahead
from dynconv.engine.durable import put_in_place, temporary_of
from dynconv.engine.find_images import find_images
from dynconv.engine.loaded_run import LoadedRun
from dynconv.engine.scoring import CROPS, evaluating

STANDARD_OUTPUT = Path("-")
# Where no terminal shows a bar, so many lines tell how far it is.
PROGRESS_LINES = 10


class Prediction(NamedTuple):
    """What the network says of one image."""

    name: str
    """The image's path, relative to the folder asked for."""
    classes: tuple[str, ...]
    """The likeliest classes, the first one first; none where the image could not be read."""
    probabilities: tuple[float, ...]
    """Of these classes: softmax of the scores of `Method.predict`."""
    error: str = ""
    """Why the image could not be read."""


def predict_images(
    loaded: LoadedRun,
    place: Path,
    out: Path,
    *,
    top: int = 1,
    batch_size: int | None = None,
    image_size: tuple[int, int] | None = None,
    console: Console | None = None,
) -> tuple[int, int]:
    """Write a CSV table of the predictions on the images of `place`: path, class, confidence, and error.

    Args:
        loaded: The run. Images are prepared as its evaluation prepares those of `NAME=DIR`, ten crops included.
        place: What `find_images` takes.
        out: The table: a file that appears when it is whole, or "-" for standard output, a pipe or a device, row by
            row.
        top: Classes per image; those after the first are in columns `class_2`, `confidence_2` and so on.
        batch_size: Images, or crops of them, that are read and scored at a time; None for what is quick at their size.
        image_size: Of networks that label every pixel alone.
        console: Where progress and unreadable images are told; standard error by default.

    Returns:
        Images that could not be read (named on `console`, with a row of empty class), and images in all.

    Raises:
        ValueError: No image there, `top` or `image_size` that does not fit, a score that is not finite, or `out` that
            cannot be written; there is no table then.
    """
    if image_size is not None:
        size = loaded.scoring.network_input.image_size
        raise ValueError(
            f"--image-size {image_size[0]} {image_size[1]}: the run's network takes images of {size} x {size} alone; "
            "leave it out"
        )
    root, names = find_images(place)
    rows = predictions(loaded, root, names, top=top, batch_size=batch_size)
    console = console or Console(stderr=True)
    unread = 0
    with _table(out) as file, counting(console, len(names)) as count:
        writer = csv.writer(file, lineterminator="\n")
        more = [f"{word}_{number}" for number in range(2, top + 1) for word in ("class", "confidence")]
        writer.writerow(["path", "class", "confidence", *more, "error"])
        for done, prediction in enumerate(rows, start=1):
            pairs = zip(prediction.classes, prediction.probabilities, strict=True)
            cells = [cell for name, value in pairs for cell in (name, f"{value:.6g}")] or [""] * (2 * top)
            writer.writerow([prediction.name, *cells, prediction.error])
            if prediction.error:
                unread += 1
                console.print(prediction.error, markup=False, highlight=False, soft_wrap=True)
            count(done)
    return unread, len(names)


def predictions(
    loaded: LoadedRun, root: Path, names: Sequence[str], *, top: int = 1, batch_size: int | None = None
) -> Iterator[Prediction]:
    """The `top` likeliest classes of each image `root`/name, in order; two batches are held at a time.

    Raises:
        ValueError: `top` is not 1 to the number of classes; when its turn comes, a score that is not finite.
    """
    if not 1 <= top <= len(loaded.classes):
        raise ValueError(f"--top: expected 1 to {len(loaded.classes)}, the number of classes, got {top}")
    scoring = dataclasses.replace(loaded.scoring, batch_size=batch_size or loaded.scoring.batch_size)
    return _predictions(dataclasses.replace(loaded, scoring=scoring), root, names, top)


def _predictions(loaded: LoadedRun, root: Path, names: Sequence[str], top: int) -> Iterator[Prediction]:
    scoring, ten_crop = loaded.scoring, loaded.config.run.ten_crop
    size = scoring.network_input.image_size
    stored = MARGINS.get(size, size)
    side = None if stored == size else size
    read = functools.partial(_read, root, decoding=Decoding(stored, threads=torch.get_num_threads()))
    length = max(scoring.chunk // CROPS, 1) if ten_crop else scoring.chunk
    chunks = [names[start : start + length] for start in range(0, len(names), length)]
    with evaluating(loaded.method), loaded.method.evaluating_domain("target"):
        for chunk, (images, errors) in zip(chunks, read_ahead(read, chunks, "predict"), strict=True):
            rows: Iterator[Prediction] = iter(())
            if len(images):
                # The labels are never looked at.
                split = Split(images, torch.zeros(len(images), dtype=torch.int64), side)
                batches = scoring.batches(loaded.method, split, ten_crop=ten_crop)
                readable = [name for name, error in zip(chunk, errors, strict=True) if not error]
                rows = _named(torch.cat([scores for scores, _ in batches]), readable, loaded.classes, top)
            for name, error in zip(chunk, errors, strict=True):
                yield Prediction(name, (), (), error) if error else next(rows)


def _named(scores: Tensor, names: Sequence[str], classes: Sequence[str], top: int) -> Iterator[Prediction]:
    if not scores.isfinite().all():
        worst = int((~scores.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"the network's scores of {names[worst]} are not finite: the run diverged")
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top]
    probabilities = scores.double().softmax(dim=1).gather(1, order)
    for name, places, values in zip(names, order.tolist(), probabilities.tolist(), strict=True):
        yield Prediction(name, tuple(classes[place] for place in places), tuple(values))


def _read(root: Path, names: Sequence[str], *, decoding: Decoding) -> tuple[Tensor, list[str]]:
    """The images that can be read, uint8 (n, 3, H, W), and for each name what is wrong with it, or nothing."""
    files = ImageFiles("predict", [root / name for name in names], decoding)
    try:
        return files.images_at(torch.arange(len(files))), [""] * len(files)
    except DataError:
        pass
    # Again one by one, to learn which ones it was; the others are not lost. `ImageFiles` adds advice for a training.
    images, errors = [], []
    for path in files.paths:
        try:
            pixels = decode(path, files.name, decoding.size, decoding.channels)
            images.append(torch.from_numpy(pixels).permute(2, 0, 1)[None])
            errors.append("")
        except DataError as error:
            errors.append(str(error))
    empty = torch.empty((0, *files.shape[1:]), dtype=torch.uint8)
    return torch.cat([empty, *images]), errors


@contextlib.contextmanager
def _table(out: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `out` when the context ends well; standard output, a pipe or a device, which
    are written to as they are."""
    # Names that are not UTF-8 on the disk keep their bytes.
    if out == STANDARD_OUTPUT:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield sys.stdout
        sys.stdout.flush()
        return
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give the name of a CSV file in it")
    # A rename would put a file in the place of a pipe, of a device (/dev/stdout, /dev/null), or of a link.
    as_it_is = out.exists() and not out.is_file()
    out = out.resolve() if out.is_symlink() and not as_it_is else out
    temporary = out if as_it_is else temporary_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from error
    try:
        with file:
            yield file
            file.flush()
            if not as_it_is:
                os.fsync(file.fileno())
        if not as_it_is:
            put_in_place(temporary, out)
    except BrokenPipeError:
        # Of the progress, not of the table.
        raise
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from error
    finally:
        if not as_it_is:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def counting(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """What to call with the number of images done: a bar on a terminal, plain lines elsewhere."""
    if console.is_terminal:
        with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.update(task, completed=done)
        return

    def line(done: int) -> None:
        if done * PROGRESS_LINES // total > (done - 1) * PROGRESS_LINES // total:
            console.print(f"{done}/{total} images", markup=False, highlight=False, soft_wrap=True)

    yield line
