"""The options of `dynconv data list`, `check`, `sample` and `bound`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dynconv.parsing import check_picture

DataRoot = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: $DYNCONV_DATA)")]


@dataclass(frozen=True)
class ListOptions:
    """List every known data set and protocol: counts, classes, what of them is here, and where to get the rest."""

    names: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="(default: a table of all)"),
    ] = ()
    """Domains (usps, office31:amazon), collections (office31) or protocols (mnist-usps@adda) to tell all about."""
    data_root: DataRoot = None
    """Folder of the real data sets. Without one nothing is looked for."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of tables."""


@dataclass(frozen=True)
class CheckOptions:
    """Hold data against what is published: files and their digests, counts per split and class, every image decoded.
    Exits with 2 where anything differs."""

    names: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="(default: all that is there)"),
    ] = ()
    """Domains (usps, office31:amazon), collections (office31), protocols (mnist-usps@adda), or NAME=DIR for your own
    folders and lists."""
    data_root: DataRoot = None
    """Folder of the real data sets."""
    subset: tyro.conf.FlagCreatePairsOff[bool] = False
    """Allow fewer images than published, and say so; all else must hold."""
    download: tyro.conf.FlagCreatePairsOff[bool] = False
    """Fetch what is missing of the NAMEs first, where torchvision can: mnist, usps and svhn. Of a set that lacks a file
    all are fetched, and what is there, damaged or not, is left alone."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of tables and lines."""

    def __post_init__(self) -> None:
        if self.download and not self.names:
            raise ValueError("--download: expected the NAMEs to fetch, such as mnist usps svhn, got none")
        if self.download and data_root_of(self.data_root) is None:
            raise ValueError("--download: no place to put it; give --data-root DIR or set DYNCONV_DATA")

    @property
    def download_to(self) -> Path | None:
        """The data root where something is to be fetched; None otherwise."""
        return data_root_of(self.data_root) if self.download else None


@dataclass(frozen=True)
class SampleOptions:
    """Draw training images of each class in a picture, domains side by side; of driving scenes, images and label maps,
    domains one above the other."""

    names: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="NAME [NAME ...]", help_behavior_hint="(required)"),
    ]
    """Domains (usps, office31:amazon), collections (office31), NAME=DIR, or one protocol (mnist-usps@adda): its sources
    and its target."""
    out: Annotated[Path, tyro.conf.arg(metavar="PNG")]
    """Picture to write; its suffix chooses the format."""
    per_class: Annotated[int, tyro.conf.arg(metavar="N")] = 4
    """Images of each class and domain; of driving scenes, of each domain."""
    most_classes: Annotated[int, tyro.conf.arg(metavar="N")] = 40
    """Classes shown; of more, so many are taken at even distances."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Fixes which images are drawn."""
    data_root: DataRoot = None
    """Folder of the real data sets."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("NAME: expected a domain, a collection, a protocol or NAME=DIR, got none")
        for name, value in (("per-class", self.per_class), ("most-classes", self.most_classes)):
            if value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        check_picture(self.out, "samples.png")


@dataclass(frozen=True)
class BoundOptions:
    """The best that a model of driving scenes can score if its classes come as often as the source's: GAM's oracle,
    from label files or manifests alone. The source's training images count, and the target's test images, which are
    what is judged; where no test split is published, all of them."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """gta5, synthia, cityscapes, camvid_day or camvid_dusk; NAME=DIR, your own in CamVid's layout; or a manifest's path
    (NAME.json)."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """One of the same."""
    classes: Annotated[
        str | None,
        tyro.conf.arg(metavar="22|19|16|13|11", help_behavior_hint="(default: those that training would take)"),
    ] = None
    """The classes that count; pixels of others are ignored."""
    data_root: DataRoot = None
    """Folder of the real data sets."""
    manifests: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: none are written)")
    ] = None
    """Write what was counted as DIR/NAME.json: manifests of pixels by class, to be given as SOURCE and TARGET."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of tables."""


def data_root_of(given: Path | None) -> Path | None:
    """The folder given, else $DYNCONV_DATA, else None."""
    named = os.environ.get("DYNCONV_DATA")
    return given.expanduser() if given is not None else Path(named) if named else None
