"""Label maps of unlabelled images: a folder of them to a folder of PNGs."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from torch import Tensor

from dynconv.data import DataError
from dynconv.data.decode import read_picture
from dynconv.data.scenes.label_maps import palette_of
from dynconv.data.scenes.reading import resized
from dynconv.data.threads import read_ahead
from dynconv.engine.durable import put_in_place, temporary_of
from dynconv.engine.find_images import find_images
from dynconv.engine.loaded_run import LoadedRun, seen_size
from dynconv.engine.options import PredictOptions
from dynconv.engine.predict import STANDARD_OUTPUT, counting
from dynconv.engine.run_folder import write_atomically
from dynconv.engine.scoring import evaluating
from dynconv.engine.segmentation import SceneScoring
from dynconv.metrics.segmentation import IGNORE

FACTS = "predictions.json"
Size = tuple[int, int]


def predict_scenes(loaded: LoadedRun, options: PredictOptions, console: Console | None = None) -> tuple[int, int]:
    """Write the label map of every image of `options.images`, in the image's own size, and `FACTS`.

    A label map is a PNG with a palette: each pixel holds the place of its class in `FACTS`' `classes`, and is shown in
    the class's colour. It has the image's name with the suffix .png, and takes the place of a file of that name that is
    none of what is read here. The network sees the image at the size that it was trained at
    (window by window where the run is judged so), and its scores are enlarged to the image's size before the class is
    chosen; of the enlarged scores a band is held at a time.

    Args:
        loaded: A run of segmentation.
        options: The images, the folder to write, and the size; `top` and `batch_size` have no use here.
        console: Where progress and unreadable images are told; standard error by default.

    Returns:
        Images that could not be read (named on `console` and in `FACTS`, without a label map), and images in all.

    Raises:
        ValueError: Options that do not fit, no image there, two images of one name, a file that would be written over
            one that is read, a score that is not finite, or a file that cannot be written.
    """
    out, size = options.out, _check(loaded, options)
    root, names = find_images(options.images)
    files = _label_files(names)
    _check_apart(out, options.images, root, files)
    console = console or Console(stderr=True)
    facts: list[dict[str, str]] = []
    try:
        with counting(console, len(names)) as count:
            for done, (name, found) in enumerate(zip(names, _label_maps(loaded, root, names, size), strict=True), 1):
                if isinstance(found, str):
                    facts.append({"image": name, "error": found})
                    console.print(found, markup=False, highlight=False, soft_wrap=True)
                else:
                    facts.append({"image": name, "label_map": files[name]})
                    _write_map(found, loaded.classes, out / files[name])
                count(done)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / FACTS, json.dumps(_facts(loaded, size, facts), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from error
    return sum("error" in each for each in facts), len(names)


def _check(loaded: LoadedRun, options: PredictOptions) -> Size:
    """The size that the network is to see images at. ValueError for options that do not fit a run of segmentation."""
    what = "the run is of segmentation, and each image gets a label map"
    if options.out == STANDARD_OUTPUT or options.out.is_file() or options.out.suffix.lower() == ".csv":
        raise ValueError(f"--out {options.out}: {what}; give a folder for them, not a file")
    for flag, value, default in (("top", options.top, 1), ("batch-size", options.batch_size, None)):
        if value != default:
            raise ValueError(f"--{flag} {value}: {what}, one at a time; leave it out")
    return seen_size(loaded, options.image_size)


def _label_files(names: Sequence[str]) -> dict[str, str]:
    """Image to label map, both relative to their folders."""
    files: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name in names:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"{name} lies outside of the list's own folder, so that its label map has no place in --out"
            )
        files[name] = path.with_suffix(".png").as_posix()
        if owners.setdefault(files[name], name) != name:
            raise ValueError(f"{owners[files[name]]} and {name} would both get the label map {files[name]}; rename one")
    return files


def _check_apart(out: Path, place: Path, root: Path, files: Mapping[str, str]) -> None:
    """Raise a ValueError where `files`, image below `root` to label map below `out`, would take the place of what is
    read, or be read by the next call."""
    if place.is_dir() and out.resolve().is_relative_to(place.resolve()):
        raise ValueError(
            f"--out {out} lies in {place}: the label maps would be images of the next call; give a folder elsewhere"
        )
    read = [root / name for name in files]
    if place.is_file():
        read.append(place)
    # A rename puts a file in the place of a link, not of what the link leads to: both are to stay.
    taken = {where: path for path in read for where in (path.resolve(), _resting(path))}
    for path in (*(out / file for file in files.values()), out / FACTS):
        if (image := taken.get(_resting(path))) is not None:
            raise ValueError(
                f"--out {out}: {path} would be written over {image}, which is read; give a folder elsewhere"
            )


def _resting(path: Path) -> Path:
    """Where a file lies that may be a link: of its folder links are followed."""
    return path.parent.resolve() / path.name


def _label_maps(loaded: LoadedRun, root: Path, names: Sequence[str], size: Size) -> Iterator[Tensor | str]:
    """Of each image its label map uint8 (H, W), or what is wrong with it; two images are held at a time."""
    scenes = SceneScoring(loaded.scoring, loaded.config.run.eval_window)
    read = functools.partial(_read, root, size)
    with evaluating(loaded.method), loaded.method.evaluating_domain("target"):
        for name, found in zip(names, read_ahead(read, names, "predict"), strict=True):
            if isinstance(found, str):
                yield found
                continue
            image, own = found
            (label_map,) = scenes.label_maps(loaded.method.predict, image[None], own).cpu()
            if (label_map == IGNORE).any():
                raise ValueError(f"the network's scores of {name} are not finite: the run diverged")
            yield label_map


def _read(root: Path, size: Size, name: str) -> tuple[Tensor, Size] | str:
    """The image uint8 (3, *size) and its own height and width, or what is wrong with it."""
    try:
        picture = read_picture(root / name, "predict", 3)
    except DataError as error:
        return str(error)
    return resized(picture, *size), (picture.shape[1], picture.shape[2])


def _write_map(label_map: Tensor, classes: Sequence[str], path: Path) -> None:
    picture = Image.fromarray(label_map.numpy())
    picture.putpalette([part for colour in palette_of(classes) for part in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    with temporary.open("wb") as file:
        picture.save(file, format="png")
        file.flush()
        os.fsync(file.fileno())
    put_in_place(temporary, path)


def _facts(loaded: LoadedRun, size: Size, images: list[dict[str, str]]) -> dict[str, Any]:
    window = loaded.config.run.eval_window
    return {
        "run": str(loaded.folder.path),
        "checkpoint": loaded.checkpoint,
        "step": loaded.step,
        "config_hash": loaded.config.hash,
        "classes": list(loaded.classes),
        "palette": [list(colour) for colour in palette_of(loaded.classes)],
        "image_size": list(size),
        "eval_window": None if window is None else list(window),
        "images": images,
    }
