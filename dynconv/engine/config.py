"""What a run is: the options every method shares, the method's own options, and the hash that identifies both."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from dynconv.engine.label_options import check_label_options
from dynconv.engine.plain_values import from_plain, to_plain
from dynconv.engine.run_options import RunOptions
from dynconv.methods import METHODS
from dynconv.models import NetworkInput, input_of

# Of driving scenes from the sources, and as many from the target (the Calibrator, section 4; released ERFNet).
SCENES_PER_STEP = 6

# These say where and how a run is computed or stored, not what it computes: a run may be resumed with other values.
NOT_IDENTITY = (
    "data_root",
    # `pseudo_labels_of` has its place: what lies in the folder counts, not where that is.
    "pseudo_labels_from",
    "out",
    "config",
    "resume",
    "device",
    "devices",
    "channels_last",
    "compile",
    "workers",
    "prefetch",
    "cache",
    "checkpoint_every",
    "log_every",
)
# These belong to one command, not to the run that it starts.
NOT_STORED = ("out", "config", "resume", "devices")


@dataclass(frozen=True)
class TrainConfig:
    """One run: the method's name, the shared options and the method's own options (its config dataclass)."""

    method: str
    run: RunOptions
    options: Any

    def __post_init__(self) -> None:
        if self.run.batch_size is None:
            # A number from here on: a default that changes must not change what a configuration means.
            object.__setattr__(self, "run", dataclasses.replace(self.run, batch_size=self.batch_size))
        if self.run.pseudo_labels_from is not None and self.run.pseudo_labels_of is None:
            described = _pseudo_labels_of(self.run.pseudo_labels_from, self.out)
            object.__setattr__(self, "run", dataclasses.replace(self.run, pseudo_labels_of=described))
        check_label_options(self)
        size = self.network_input.image_size
        if self.run.ten_crop and size != 224:
            raise ValueError(f"--ten-crop is for images of 224 x 224; {self.options.backbone} takes {size} x {size}")

    @property
    def batch_size(self) -> int:
        """--batch-size, or the method's default, or `SCENES_PER_STEP`."""
        pixels = self.network_input.labels == "pixel"
        return self.run.batch_size or (SCENES_PER_STEP if pixels else METHODS[self.method].default_batch_size)

    @property
    def network_input(self) -> NetworkInput:
        """Size and normalisation of the images of the method's backbone."""
        own = self.options
        return input_of(own.backbone, own.weights, own.image_norm)

    @property
    def augmentation(self) -> Literal["none", "flip", "crop-flip"]:
        """--augmentation, with "auto" made one of the others by what the images are."""
        if self.run.augmentation != "auto":
            return self.run.augmentation
        if self.network_input.labels == "pixel":
            return "flip" if self.run.crop_size is None else "crop-flip"
        return "none" if self.network_input.image_size <= 32 else "crop-flip"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.yaml: shared options on top, the method's own under its name."""
        run = {k: to_plain(v) for k, v in dataclasses.asdict(self.run).items() if k not in NOT_STORED}
        return {"method": self.method, **run, self.method: to_plain(dataclasses.asdict(self.options))}

    def identity(self) -> dict[str, Any]:
        """What decides the results; two configurations with the same identity are the same run."""
        return {"method": self.method, **_identity(self.method, self.run, self.options)}

    def mismatches(self, stored: Mapping[str, Any]) -> list[str]:
        """Lines "field: stored -> here" for each field of another identity, `stored`, that differs from this one's.

        A field that `stored` lacks was added after it was written, and is taken at its default.
        """
        return differences({**self._defaults(), **stored}, self.identity())

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of what `identity()` has beside the defaults.

        A field at its default is left out, so a field that is added later leaves the hashes of older runs alone. The
        price: were a default changed, a run of the old default would have the same hash in its rows as one of the new.
        So two runs are compared by their config.yaml, which has every field as it was (`claim`), or by the identity in
        their checkpoints (`mismatches`), and a recipe does not take a run for its own by the hash in its rows but by
        that of its config.yaml, which then counts the old value among what differs.
        """
        defaults = self._defaults()
        given = {k: v for k, v in self.identity().items() if k not in defaults or defaults[k] != v}
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]

    def described(self) -> str:
        """What another run that learns from this one's pseudo labels keeps of it: see `RunOptions.pseudo_labels_of`."""
        run = dataclasses.replace(
            self.run, protocol=None, source=(), target=None, seed=0, pseudo_labels_of=self.run.pseudo_labels_kind
        )
        return f"{self.method} {dataclasses.replace(self, run=run).hash} {self.hash}"

    def _defaults(self) -> dict[str, Any]:
        # Without the batch size, which is the method's, and a number in every configuration.
        found = _identity(self.method, RunOptions(), type(self.options)())
        return {name: value for name, value in found.items() if name != "batch_size"}

    @property
    def out(self) -> Path:
        """The run folder: --out, or a name made of task, method and seed."""
        if self.run.out is not None:
            return self.run.out
        name = self.run.task.replace(":", "-").replace("/", "-")
        return Path("runs") / f"{name}_{self.method}_seed{self.run.seed}"

    def to_yaml(self) -> str:
        """The text of config.yaml."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def load_config(path: Path) -> TrainConfig:
    """Read a config.yaml.

    Raises ValueError where the file is missing or unreadable, names an unknown method or field, or lacks the method.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("method"), str):
        raise ValueError(f"{path} is not a run's configuration: expected a mapping with the key 'method'")
    method = plain.pop("method")
    if method not in METHODS:
        raise ValueError(f"{path}: unknown method {method!r}; known: {', '.join(sorted(METHODS))}")
    own = plain.pop(method, {}) or {}
    return TrainConfig(
        method=method,
        run=from_plain(RunOptions, plain, path),
        options=from_plain(METHODS[method].config_class, own, path),
    )


def _pseudo_labels_of(path: Path, out: Path) -> str | None:
    """`TrainConfig.described` of the run in `path`; where that is gone, what the run in `out` kept of it when it began,
    if it began; else None. ValueError where the run in `path` has a configuration that cannot be read."""
    if (config := path / "config.yaml").exists():
        try:
            return load_config(config).described()
        except ValueError as error:
            # YAML's own words have several lines.
            raise ValueError(
                f"--pseudo-labels-from {path}: {' '.join(str(error).split())}; put that run's config.yaml back as it "
                "was, or give another finished run"
            ) from error
    try:
        # As plain values: `load_config` of a run whose other run is gone would ask here again.
        plain = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        # Nothing there, or what `claim` will speak of.
        return None
    kept = plain.get("pseudo_labels_of") if isinstance(plain, dict) else None
    return kept if isinstance(kept, str) and plain.get("pseudo_labels_from") == str(path) else None


def _identity(method: str, run: RunOptions, options: Any) -> dict[str, Any]:
    """The fields that decide the results: the shared ones, and the method's own after its name."""
    shared = {k: to_plain(v) for k, v in dataclasses.asdict(run).items() if k not in (*NOT_IDENTITY, *NOT_STORED)}
    shared["stylised"] = run.style
    return {**shared, **{f"{method}.{k}": to_plain(v) for k, v in dataclasses.asdict(options).items()}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines "field: old -> new" for each field of two identities that differs."""
    keys = [*old, *(k for k in new if k not in old)]
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys if old.get(k) != new.get(k)]
