"""From the words of the command line to a `Protocol` of driving scenes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dynconv.data.base import Domain, Protocol
from dynconv.data.decode import read_picture
from dynconv.data.draws import uniform_draw
from dynconv.data.errors import DataError
from dynconv.data.files import Decoding, Skipped, remembered_unreadable
from dynconv.data.folders import SPLIT_SEED, parse_assignment
from dynconv.data.scenes.listing import SCENE_SETS, SceneListing, list_own, list_scenes
from dynconv.data.scenes.reading import LabelFormat, Scene
from dynconv.data.scenes.split import JUDGED, SceneFiles, SceneSplit
from dynconv.data.skip import left_out
from dynconv.data.specs import check_names, data_root_of, known_name, parse_spec, scene_setting
from dynconv.data.variants import DRAW_SEED

# The set whose images may be others in another style.
STYLISED = "gta5"
# Height and width of GTA5, SYNTHIA and Cityscapes in GAM (section 5.3), ADDA's segmentation and most that followed.
PUBLISHED_SIZE = (512, 1024)


@dataclass(frozen=True)
class SceneOptions:
    """How scenes are loaded.

    Attributes:
        decoding: Threads and cache.
        size: Height and width that all scenes are resized to; None for 512 x 1024 of the published sets, and for the
            size of the target's first image of any others.
        crop: Height and width of the random parts that are trained on; None for whole scenes.
        skip_bad: As in `load_protocol`.
        stylised: A folder of images to take in place of GTA5's originals.
    """

    decoding: Decoding
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    skip_bad: bool = False
    stylised: Path | None = None


def load_scene_protocol(
    spec: str | None,
    options: SceneOptions,
    *,
    source: Sequence[str] | None = None,
    target: str | None = None,
    data_root: Path | None = None,
    source_limit: int | None = None,
    target_limit: int | None = None,
    divide_target: bool = False,
) -> Protocol:
    """Load a named protocol of scenes, or one made of a user's own folders.

    Args:
        spec: `SOURCE[+SOURCE...]-TARGET[@CLASSES]` of the known domains: `gta5-cityscapes`, `synthia-cityscapes` (16
            classes), `synthia-cityscapes@13`, `camvid_day-camvid_dusk`. Exclusive with `source` and `target`.
        options: How they are loaded.
        source, target: `NAME=DIR` entries in CamVid's layout (`list_own`), or names of known domains.
        data_root: Where the publishers' files are (default: $DYNCONV_DATA).
        source_limit, target_limit: At most so many training scenes of each, drawn once and for all.
        divide_target: Divide a target without a published test split as a source, for a bound that is trained on its
            labels.

    Raises:
        DataError: Unknown names, missing or unreadable files, classes that differ, or a crop larger than the scenes.
    """
    setting = "default"
    if spec is not None:
        sources, goal, setting = parse_spec(spec)
        if goal not in SCENE_SETS:
            raise DataError(
                f"protocol {spec!r}: its images have one class each, and this network labels every pixel; give another "
                f"--backbone, or domains of {', '.join(SCENE_SETS)}"
            )
        listings = [_known(name, data_root, setting, options.stylised) for name in (*sources, goal)]
    elif source and target:
        classes = _classes_of(source, target)
        listings = [_listed(text, "--source", data_root, classes, options.stylised) for text in source]
        listings.append(_listed(target, "--target", data_root, classes, labelled=False))
        check_names([listing.name for listing in listings[:-1]], listings[-1].name, "--source/--target")
    else:
        raise DataError("no data chosen: give a protocol (gta5-cityscapes), or both --source and --target")
    if options.stylised is not None and all(listing.name != STYLISED for listing in listings[:-1]):
        raise DataError(
            f"--stylised {options.stylised} takes the place of {STYLISED}'s images, which is no source here"
        )
    goal_listing = listings[-1]
    for listing in listings:
        if listing.classes != goal_listing.classes:
            raise DataError(
                f"{listing.name} has the classes {', '.join(listing.classes)}, and {goal_listing.name} has "
                f"{', '.join(goal_listing.classes)}: they must be the same, in the same order"
                f"{_settings_of(listings)}"
            )
    options = replace(options, size=options.size or _size_of(goal_listing))
    loaded = []
    for place, listing in enumerate(listings):
        is_target = place == len(listings) - 1
        limit = target_limit if is_target else source_limit
        loaded.append(_load(listing, options, limit, divided=not is_target or divide_target))
    domains, skipped = zip(*loaded, strict=True)
    name = spec or f"{'+'.join(domain.name for domain in domains[:-1])}-{domains[-1].name}"
    return Protocol(name, domains[:-1], domains[-1], setting, skipped=tuple(each for rows in skipped for each in rows))


def load_scene_domain(
    spec: str, options: SceneOptions, *, classes: tuple[str, ...], data_root: Path | None = None
) -> Domain:
    """One domain to evaluate on: `NAME=DIR`, or the name of a known one. Without a published test split all its scenes
    are one.

    Raises:
        DataError: As `load_scene_protocol`, or its classes are not `classes`.
    """
    listing = _listed(spec, "--domain", data_root, classes)
    if listing.classes != classes:
        raise DataError(
            f"{spec} has the classes {', '.join(listing.classes)}; the network has {', '.join(classes)}, and they must "
            "be the same, in the same order"
        )
    options = replace(options, size=options.size or _size_of(listing))
    return _load(listing, options, None, divided=False)[0]


def _listed(
    text: str,
    argument: str,
    data_root: Path | None,
    classes: tuple[str, ...],
    stylised: Path | None = None,
    *,
    labelled: bool = True,
) -> SceneListing:
    """What an entry of the command line names; of a known set in the setting of `classes`, where it has that. Own
    scenes that are not `labelled` may go without label maps."""
    if _is_folder(text):
        return list_own(*parse_assignment(text, argument), labelled=labelled)
    name = _known_set(text, argument)
    fitting = [setting for setting, names in SCENE_SETS[name].settings.items() if names == classes]
    return _known(name, data_root, next(iter(fitting), "default"), stylised)


def _classes_of(sources: Sequence[str], target: str) -> tuple[str, ...]:
    """The classes that the known sets among entries of the command line are to have: those of the first own domain
    beside them, else of the setting that they share."""
    entries = [*((text, "--source") for text in sources), (target, "--target")]
    for text, argument in entries:
        if _is_folder(text):
            return list_own(*parse_assignment(text, argument), labelled=False).classes
    *names, goal = (_known_set(text, argument) for text, argument in entries)
    check_names(names, goal, "--source/--target")
    return SCENE_SETS[goal].settings[scene_setting(None, names, goal, "--source/--target")]


def _settings_of(listings: Sequence[SceneListing]) -> str:
    """The class settings of the first known set, for a message; empty where there is no choice."""
    for name in (listing.name for listing in listings if listing.name in SCENE_SETS):
        if len(settings := tuple(SCENE_SETS[name].settings)) > 1:
            return f". The classes of {name} are those of the settings {', '.join(settings)}, as in --protocol ...@16"
    return ""


def _is_folder(text: str) -> bool:
    return "=" in text or os.sep in text


def _known_set(text: str, argument: str) -> str:
    name = known_name(text, argument, f"{argument} NAME=DIR")
    if name not in SCENE_SETS:
        raise DataError(
            f"{argument} {text}: its images have one class each, and this network labels every pixel; give one of "
            f"{', '.join(SCENE_SETS)}, or another --backbone"
        )
    return name


def _known(name: str, data_root: Path | None, setting: str, stylised: Path | None) -> SceneListing:
    root = data_root_of(name, data_root)
    return list_scenes(name, root, classes=setting, stylised=stylised if name == STYLISED else None)


def _load(
    listing: SceneListing, options: SceneOptions, limit: int | None, *, divided: bool
) -> tuple[Domain, tuple[Skipped, ...]]:
    size = options.size or _size_of(listing)
    if divided and not listing.labelled:
        raise DataError(f"{listing.name}: {listing.place} has no label maps (trainannot), and is to be trained on them")
    if options.crop is not None and any(part > whole for part, whole in zip(options.crop, size, strict=True)):
        raise DataError(
            f"--crop-size {options.crop[0]} {options.crop[1]} is larger than the scenes of {listing.name}, {size[0]} x "
            f"{size[1]}; give a smaller one, or a larger --image-size"
        )

    # A target's training labels are never looked at, unless its training scenes are those that it is judged by.
    labelled = listing.labelled and (divided or listing.test is None)

    def files(scenes: Sequence[Scene], labels: LabelFormat | None) -> SceneFiles:
        return SceneFiles(listing.name, scenes, labels, size, options.decoding)

    of_train = listing.labels if labelled else None
    skipped: tuple[Skipped, ...] = ()
    if options.skip_bad:
        bad: dict[Path, str] = {}
        for scenes, labels in ((listing.train, of_train), (listing.test or (), listing.labels)):
            bad |= {scenes[place].image: why for place, why in remembered_unreadable(files(scenes, labels))}
        every = len(listing.train) + len(listing.test or ())
        skipped = left_out(listing.name, listing.place, bad, every)
        listing = _without(listing, bad)
    train, test = _divide(listing, divided)
    if limit is not None and limit < len(train):
        train = tuple(train[place] for place in uniform_draw(len(train), limit, DRAW_SEED).tolist())
    whole = None if test is None else SceneSplit.of(files(test, listing.labels), options.crop)
    if whole is not None and train == test:
        return Domain(listing.name, listing.classes, whole, whole), skipped
    return Domain(listing.name, listing.classes, SceneSplit.of(files(train, of_train), options.crop), whole), skipped


def _divide(listing: SceneListing, divided: bool) -> tuple[tuple[Scene, ...], tuple[Scene, ...] | None]:
    """Training and test scenes: as published, else all as both, or where `divided` with `JUDGED` or a fifth held out,
    whichever is less; without labels no test scenes."""
    scenes = listing.train
    if listing.test is not None:
        return scenes, listing.test
    if not divided:
        return scenes, scenes if listing.labelled else None
    held = min(JUDGED, len(scenes) // 5)
    if held == 0:
        raise DataError(
            f"{listing.name}: {len(scenes)} scenes below {listing.place}: none is left for a test split, a fifth of "
            "them; give five or more, or folders test and testannot"
        )
    order = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(SPLIT_SEED))
    chosen = set(order[:held].tolist())
    return (
        tuple(scene for place, scene in enumerate(scenes) if place not in chosen),
        tuple(scene for place, scene in enumerate(scenes) if place in chosen),
    )


def _without(listing: SceneListing, bad: dict[Path, str]) -> SceneListing:
    train, test = (
        None if scenes is None else tuple(scene for scene in scenes if scene.image not in bad)
        for scenes in (listing.train, listing.test)
    )
    if not train or test == ():
        raise DataError(
            f"{listing.name}: --skip-bad would leave no scene of a split: none of them below {listing.place} can be "
            f"read, such as {next(iter(bad.values()))}"
        )
    return replace(listing, train=train, test=test)


def _size_of(listing: SceneListing) -> tuple[int, int]:
    known = SCENE_SETS.get(listing.name)
    if known is not None and known.layout != "camvid":
        return PUBLISHED_SIZE
    height, width = read_picture(listing.train[0].image, listing.name, 3).shape[1:]
    return height, width
