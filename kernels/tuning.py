"""Measured choices of variant and tile, opt-in: without `enabled` or DYNCONV_AUTOTUNE=1 nothing is timed or looked up.

    with tuning.enabled():                  # or DYNCONV_AUTOTUNE=1 in the environment
        model(images).sum().backward()      # each new shape times its candidates, once

Choices are kept in a JSON file, by default in the user's cache directory (DYNCONV_CACHE names another), and later
processes that enable tuning take them from there without timing. A key holds all that a time depends on: the device,
the versions of dynconv, torch and triton, the direction, dtype, layouts and shape.

The forward's and the input gradient's variants and tiles are tuned. Those of the parameters' gradients are not: their
tiles are always chosen by size (`dynconv.kernels.parameter_tiles`).
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.runtime.errors import OutOfResources

from dynconv import __version__
from dynconv.kernels.tiles import Tile, tiles_to_time
from dynconv.kernels.variants import FORMS, VARIANTS, Pair, variant_reasons

FORMAT = "dynconv tuning 1"
_LOGGER = logging.getLogger("dynconv")


class Choice(NamedTuple):
    """A variant, and its tile where that is not the one chosen by size."""

    variant: str
    tile: Tile | None = None


class TuningFile:
    """Choices by key, read at construction, written whole at each new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.choices = _read(path)
        self._lock = threading.Lock()
        # Keys of which no candidate could run: this process times them once, and writes nothing.
        self._hopeless: set[str] = set()

    def kept(self, key: str, candidates: Sequence[Choice]) -> Choice | None:
        """The choice kept for ``key``, if it is a candidate."""
        found = self.choices.get(key)
        return found if found in candidates else None

    def choose(self, key: str, candidates: Sequence[Choice], seconds: Callable[[Choice], float]) -> Choice | None:
        """The choice kept for ``key``, else the candidate with the least ``seconds``; None where none is finite."""
        with self._lock:
            kept = self.kept(key, candidates)
            if kept is not None or key in self._hopeless:
                return kept
            times = [seconds(candidate) for candidate in candidates]
            if min(times, default=math.inf) == math.inf:
                self._hopeless.add(key)
                return None
            best = candidates[times.index(min(times))]
            # Another process may have tuned other shapes meanwhile.
            self.choices |= _read(self.path) | {key: best}
            _write(self.path, self.choices)
            return best


def default_path() -> Path:
    """DYNCONV_CACHE/tuning.json, or that of the user's cache directory."""
    folder = os.environ.get("DYNCONV_CACHE")
    if folder:
        return Path(folder) / "tuning.json"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynconv" / "tuning.json"


_active: list[TuningFile] = []
_of_environment: TuningFile | None = None


@contextmanager
def enabled(path: str | os.PathLike[str] | None = None) -> Iterator[TuningFile]:
    """Within the block, the Triton backend measures what it has no choice for, and keeps it in ``path``.

    It holds for the whole process, for autograd runs a backward in threads of its own.
    """
    file = TuningFile(default_path() if path is None else Path(path))
    _active.append(file)
    try:
        yield file
    finally:
        _active.remove(file)


def active() -> TuningFile | None:
    """The choices to use and to add to, or None where tuning is off."""
    global _of_environment
    if _active:
        return _active[-1]
    if os.environ.get("DYNCONV_AUTOTUNE") != "1":
        return None
    if _of_environment is None or _of_environment.path != default_path():
        _of_environment = TuningFile(default_path())
    return _of_environment


def choose(
    device: torch.device,
    problem: str,
    default: Choice,
    candidates: Callable[[], Sequence[Choice]],
    run: Callable[[Choice], object],
) -> Choice:
    """``default`` where tuning is off; else what is kept for ``problem`` on ``device``, or the fastest candidate.

    A candidate for which memory or the multiprocessor's resources do not suffice is passed over, and logged. While a
    CUDA graph is captured nothing can be timed: what is not kept is ``default`` then.
    """
    file = active()
    if file is None:
        return default
    key = _key(device, problem)

    def time_of(choice: Choice) -> float:
        try:
            return seconds(device, lambda: run(choice))
        except (torch.OutOfMemoryError, OutOfResources) as error:
            _LOGGER.warning("tuning passes over %s for %s: %s", choice, key, error)
            return math.inf

    found = file.kept(key, candidates()) if _is_capturing(device) else file.choose(key, candidates(), time_of)
    return default if found is None else found


def _is_capturing(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    # Streams are current per device.
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def candidates(
    kind: str,
    columns: int,
    reduction: int,
    capability: int,
    weight_size: Pair | None,
    basis_size: Pair | None,
    has_scale: bool,
    num_bases: int,
) -> list[Choice]:
    """Every variant that can run the problem, with each tile that could be chosen for so many columns and channels.

    Arguments as for `dynconv.kernels.variants.variant_reasons` and `dynconv.kernels.tiles.choose_tile`; ``columns`` and
    ``reduction`` are those of one group.
    """
    found = []
    for variant, form in FORMS.items():
        if variant_reasons(variant, weight_size, basis_size, has_scale, num_bases):
            continue
        bases = num_bases if form == "mixed" else 0
        tiles = tiles_to_time(kind, columns, reduction, capability, form=form, bases=bases)
        found += [Choice(variant, tile) for tile in tiles]
    return found


def seconds(device: torch.device, run: Callable[[], object]) -> float:
    """The median time of ``run`` on a GPU, its compilation aside; under the interpreter that of one run."""
    if device.type == "cuda":
        # do_bench's events and its buffer that clears the L2 cache are the current device's.
        with torch.cuda.device(device):
            return triton.testing.do_bench(run, return_mode="median") / 1e3
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _key(device: torch.device, problem: str) -> str:
    """What a time depends on, as text."""
    name, capability = "interpreter", "none"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    versions = f"dynconv {__version__} | torch {torch.__version__} | triton {triton.__version__}"
    return f"{name} | {capability} | {versions} | {problem}"


def _read(path: Path) -> dict[str, Choice]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        return {name: _choice(entry) for name, entry in content["choices"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _LOGGER.warning("%s holds no tuning choices and is ignored (%s); the next choice replaces it", path, error)
        return {}


def _choice(entry: dict[str, object]) -> Choice:
    variant, tile = entry["variant"], entry["tile"]
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}")
    if tile is None:
        return Choice(variant)
    if not isinstance(tile, list) or len(tile) != len(Tile._fields) or not all(isinstance(n, int) for n in tile):
        raise ValueError(f"a tile is {len(Tile._fields)} numbers; got {tile!r}")
    return Choice(variant, Tile(*tile))


def _write(path: Path, choices: dict[str, Choice]) -> None:
    """Atomically: a reader sees the old file or the new one. Where it cannot be written, this process still has it."""
    entries = {name: {"variant": choice.variant, "tile": choice.tile} for name, choice in sorted(choices.items())}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                json.dump({"format": FORMAT, "choices": entries}, file, indent=1)
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        _LOGGER.warning("tuning choices cannot be kept in %s (%s); other processes will time them again", path, error)
