"""`dynconv data bound`: how well a model can do whose classes come as often as the source's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dynconv.data.errors import DataError
from dynconv.data.folders import parse_assignment
from dynconv.data.scenes.frequencies import ClassFrequencies, Split, count_frequencies, read_frequencies
from dynconv.data.scenes.label_maps import CLASS_SETTINGS
from dynconv.data.scenes.listing import SCENE_SETS, list_own, list_scenes
from dynconv.data.specs import data_root_of, parse_spec
from dynconv.metrics.frequency_bound import FrequencyBound, frequency_bound

MANIFEST = ".json"
# GAM (Huang et al., ECCV 2018), Table 3, "Oracle (source distribution)": pixel accuracy, class accuracy, mean IoU.
GAM_PRINTED = {("gta5", "cityscapes"): (82, 72, 55)}
# Of a set with a published test split, the source's training images are learnt from and the target's test images are
# what is judged.
SPLITS: dict[str, Split] = {"source": "train", "target": "test"}


class Bound(NamedTuple):
    """The bound of a pair, and what it is of."""

    source: ClassFrequencies
    target: ClassFrequencies
    bound: FrequencyBound

    def to_dict(self) -> dict[str, Any]:
        bound = self.bound
        return {
            "source": self.source.name,
            "target": self.target.name,
            "mean-iou": bound.mean_iou,
            "frequency-weighted-iou": bound.frequency_weighted_iou,
            "pixel-accuracy": bound.pixel_accuracy,
            "class-accuracy": bound.class_accuracy,
            "iou-of": dict(zip(self.source.classes, bound.iou_of, strict=True)),
            "images": {"source": self.source.images, "target": self.target.images},
        }


def bound_of(
    source: str,
    target: str,
    data_root: Path | None,
    *,
    setting: str | None = None,
    threads: int = 1,
    cache_dir: Path | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Bound:
    """The bound of two domains; label files are counted where they are not yet, images are not opened.

    Args:
        source, target: Each a known set of driving scenes, NAME=DIR (CamVid's layout), or the path of a manifest
            (`.json`, see `dynconv.data.scenes.frequencies`). The source's training images and the target's test images
            count; where no test split is published, all of them.
        data_root: The folder of the data sets.
        setting: "22", "19", "16", "13" or "11" classes. None: what training would take of two known sets; else both
            must have the same classes.
        threads, cache_dir, on_progress: as in `count_frequencies`.

    Raises:
        DataError: files that are missing or wrong, or classes that differ.
    """
    words = {"source": source, "target": target}
    if setting is not None and setting not in CLASS_SETTINGS:
        raise DataError(f"--classes: expected one of {', '.join(CLASS_SETTINGS)}, got {setting!r}")
    if setting is None and source in SCENE_SETS and target in SCENE_SETS and source != target:
        setting = parse_spec(f"{source}-{target}")[2]
    found: dict[str, ClassFrequencies] = {}
    for role, word in words.items():
        if word.endswith(MANIFEST) and "=" not in word:
            found[role] = read_frequencies(Path(word).expanduser())
            continue
        if word in SCENE_SETS:
            listing = list_scenes(word, data_root_of(word, data_root), classes=setting or "default")
        elif "=" in word:
            listing = list_own(*parse_assignment(word, role.upper()))
        else:
            raise DataError(
                f"{role.upper()}: expected one of {', '.join(SCENE_SETS)}, NAME=DIR, or a manifest ({MANIFEST}); got "
                f"{word!r}"
            )
        options: dict[str, Any] = {"threads": threads, "cache_dir": cache_dir, "on_progress": on_progress}
        found[role] = count_frequencies(listing, SPLITS[role], **options)
    classes = found["target"].classes if setting is None else CLASS_SETTINGS[setting]
    if setting is None and set(classes) != set(found["source"].classes):
        raise DataError(
            f"{source} has the classes {', '.join(found['source'].classes)}; {target} has {', '.join(classes)}: choose "
            f"with --classes ({', '.join(CLASS_SETTINGS)})"
        )
    have, want = (found[role].of(classes) for role in words)
    try:
        return Bound(have, want, frequency_bound(have.pixels, want.pixels))
    except ValueError as error:
        raise DataError(f"{source}, {target}: {error}") from error


def bound_tables(found: Bound) -> Group:
    """Shares and IoU by class, then the means, beside what GAM prints of the pair."""
    source, target, bound = found
    table = Table(title=f"bound of {source.name} -> {target.name}", box=SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for name in (f"% of {source.name}", f"% of {target.name}", "IoU at most"):
        table.add_column(name, justify="right")
    for label, have, want, iou in zip(source.classes, source.pixels, target.pixels, bound.iou_of, strict=True):
        shares = (_percent(have / sum(source.pixels), 2), _percent(want / sum(target.pixels), 2))
        table.add_row(label, *shares, "-" if iou is None else _percent(iou))
    means = Table(title="at most", box=SIMPLE_HEAD)
    printed = GAM_PRINTED.get((source.name, target.name)) if len(source.classes) == 19 else None
    for name in ("measure", "bound", *(("GAM prints",) if printed else ())):
        means.add_column(name, justify="left" if name == "measure" else "right")
    rows = {
        "pixel accuracy": bound.pixel_accuracy,
        "class accuracy": bound.class_accuracy,
        "mean IoU": bound.mean_iou,
        "frequency-weighted IoU": bound.frequency_weighted_iou,
    }
    for place, (name, value) in enumerate(rows.items()):
        beside = () if printed is None else (str(printed[place]) if place < len(printed) else "",)
        means.add_row(name, _percent(value), *beside)
    parts: list[RenderableType] = [table, means, Text(_counted(found))]
    return Group(*parts)


def _counted(found: Bound) -> str:
    told = [
        f"{role} {each.name}: {each.images:,} label maps, {sum(each.pixels):,} pixels and {each.ignored:,} of no class"
        for role, each in (("source", found.source), ("target", found.target))
    ]
    return "; ".join(told) + ". The target's labels were read for this bound; no method sees them."


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"
