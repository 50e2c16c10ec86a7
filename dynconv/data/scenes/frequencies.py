"""How often each class comes in the label maps of a split: counted once, kept in the cache folder, written as JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dynconv.data.cache import Arrays, cache_root, cached, fingerprint, one_at_a_time
from dynconv.data.errors import DataError
from dynconv.data.scenes.label_maps import IGNORE
from dynconv.data.scenes.listing import SceneListing
from dynconv.data.scenes.reading import Scene, read_labels
from dynconv.data.threads import reading_pool

Split = Literal["train", "test"]

# Label maps per file of the cache: a counting that is interrupted loses at most so many, ten seconds of GTA5's.
_CHUNK = 1024


@dataclass(frozen=True)
class ClassFrequencies:
    """Pixels by class of some label maps.

    Attributes:
        name: The domain's name.
        classes: Names of the classes.
        pixels: Pixels of each class.
        ignored: Pixels of no class.
        images: Label maps counted.
    """

    name: str
    classes: tuple[str, ...]
    pixels: tuple[int, ...]
    ignored: int
    images: int

    def of(self, classes: Sequence[str]) -> ClassFrequencies:
        """The same of `classes` alone, in their order; the pixels of other classes count as ignored.

        Raises:
            DataError: one of `classes` is not counted here.
        """
        if lacking := [each for each in classes if each not in self.classes]:
            raise DataError(
                f"{self.name}: no pixels are counted of {', '.join(lacking)}, only of {', '.join(self.classes)}"
            )
        pixels = tuple(self.pixels[self.classes.index(each)] for each in classes)
        ignored = self.ignored + sum(self.pixels) - sum(pixels)
        return ClassFrequencies(self.name, tuple(classes), pixels, ignored, self.images)

    def write(self, path: Path) -> None:
        """Write a manifest: JSON with the attributes as keys.

        Raises:
            DataError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(self), indent=2) + "\n")
        except OSError as error:
            raise DataError(f"the manifest {path} cannot be written: {error}") from error


def read_frequencies(path: Path) -> ClassFrequencies:
    """A manifest that `ClassFrequencies.write` wrote.

    Raises:
        DataError: it cannot be read, or is of another form.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the manifest {path} cannot be read: {error}") from error
    keys = ("name", "classes", "pixels", "ignored", "images")
    if not isinstance(found, dict) or set(found) != set(keys):
        raise DataError(f"the manifest {path}: expected a JSON object of {', '.join(keys)}")
    name, classes, pixels = found["name"], found["classes"], found["pixels"]
    if not isinstance(name, str) or not _list_of(str, classes) or not _list_of(int, pixels):
        raise DataError(f"the manifest {path}: expected a name, classes (a list of names) and pixels (of numbers)")
    numbers = (*pixels, found["ignored"], found["images"])
    if len(classes) != len(pixels) or len(set(classes)) != len(classes) or not all(map(_is_count, numbers)):
        raise DataError(
            f"the manifest {path}: expected one number of pixels for each of its different classes, 0 or more each, "
            f"got {len(classes)} classes and {len(pixels)} numbers"
        )
    return ClassFrequencies(name, tuple(classes), tuple(pixels), found["ignored"], found["images"])


def count_frequencies(
    listing: SceneListing,
    split: Split,
    *,
    threads: int = 1,
    cache_dir: Path | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ClassFrequencies:
    """Count the pixels of each class in the label files of a split, in these files' own size; no image is opened.

    What was counted is kept in the cache folder for as long as the files do not change, part by part, so that an
    interrupted counting goes on where it was.

    Args:
        listing: The files.
        split: "train" or "test"; where no test split is published each is all scenes.
        threads: Label files read at a time.
        cache_dir: The cache folder (default: $DYNCONV_CACHE or the user's).
        on_progress: Told the domain's name, and the scenes done and in all.

    Raises:
        DataError: a label file is missing, cannot be read, or holds an unknown id.
    """
    scenes = listing.test if split == "test" and listing.test is not None else listing.train
    root, total = cache_root(cache_dir), np.zeros(len(listing.classes) + 1, dtype=np.int64)
    with reading_pool(threads, "count") as pool:
        for start in range(0, len(scenes), _CHUNK):
            chunk = scenes[start : start + _CHUNK]
            files = fingerprint(scene.labels for scene in chunk)
            recipe = {"files": files, "labels": repr(listing.labels), "classes": list(listing.classes)}
            with one_at_a_time(root / f"frequencies-{listing.name}"):
                make = functools.partial(_count_all, pool, listing, chunk)
                total += cached(root, f"frequencies-{listing.name}", recipe, make)["pixels"]
            if on_progress is not None:
                on_progress(listing.name, start + len(chunk), len(scenes))
    *pixels, ignored = total.tolist()
    return ClassFrequencies(listing.name, listing.classes, tuple(pixels), ignored, len(scenes))


def _count_all(pool: ThreadPoolExecutor, listing: SceneListing, scenes: Sequence[Scene]) -> Arrays:
    """int64 (C + 1,): pixels of each class, and the ignored ones."""
    counts = np.stack(list(pool.map(functools.partial(_counted, listing), scenes)))
    return {"pixels": counts.sum(axis=0, dtype=np.int64)}


def _counted(listing: SceneListing, scene: Scene) -> np.ndarray[Any, Any]:
    counts = np.bincount(read_labels(scene, listing.name, listing.labels).ravel(), minlength=IGNORE + 1)
    return np.append(counts[: len(listing.classes)], counts[IGNORE])


def _list_of(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
