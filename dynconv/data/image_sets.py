"""Office-31, Office-Home and VisDA-2017 as their publishers ship them, held against the published counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dynconv.data.errors import DataError
from dynconv.data.folders import Listing, list_classes


@dataclass(frozen=True)
class ImageSet:
    """A published set of domains that share their classes.

    Attributes:
        title: Its name in prose.
        folders: Domain to the folder, below the data root, that holds one folder per class.
        counts: Domain to the number of its images, as published.
        classes: Names of the class folders, sorted: their places are the labels.
        how_to_get: Publisher and where to click.
    """

    title: str
    folders: Mapping[str, str]
    counts: Mapping[str, int]
    classes: tuple[str, ...]
    how_to_get: str


# The ten classes that Office-31 shares with Caltech-256: the target of PADA (Cao et al., ECCV 2018) and of partial
# adaptation after it.
PDA_CLASSES = (
    "back_pack",
    "bike",
    "calculator",
    "headphones",
    "keyboard",
    "laptop_computer",
    "monitor",
    "mouse",
    "mug",
    "projector",
)
PDA_COUNTS = {"amazon": 958, "dslr": 157, "webcam": 295}

_OFFICE31_CLASSES = (
    "back_pack bike bike_helmet bookcase bottle calculator desk_chair desk_lamp desktop_computer file_cabinet "
    "headphones keyboard laptop_computer letter_tray mobile_phone monitor mouse mug paper_notebook pen phone printer "
    "projector punchers ring_binder ruler scissors speaker stapler tape_dispenser trash_can"
)
_OFFICE_HOME_CLASSES = (
    "Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards Computer Couch "
    "Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder Fork Glasses Hammer Helmet "
    "Kettle Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug Notebook Oven Pan Paper_Clip Pen Pencil "
    "Postit_Notes Printer Push_Pin Radio Refrigerator Ruler Scissors Screwdriver Shelf Sink Sneakers Soda Speaker "
    "Spoon TV Table Telephone ToothBrush Toys Trash_Can Webcam"
)
_VISDA_CLASSES = "aeroplane bicycle bus car horse knife motorcycle person plant skateboard train truck"

IMAGE_SETS = {
    "office31": ImageSet(
        "Office-31",
        {domain: f"office31/{domain}/images" for domain in ("amazon", "dslr", "webcam")},
        {"amazon": 2817, "dslr": 498, "webcam": 795},
        tuple(_OFFICE31_CLASSES.split()),
        "the authors of Adapting Visual Category Models to New Domains (Saenko et al., ECCV 2010) publish it as "
        "domain_adaptation_images.tar.gz, linked from https://faculty.cc.gatech.edu/~judy/domainadapt/; unpack it in "
        "a folder office31",
    ),
    "office-home": ImageSet(
        "Office-Home",
        {
            domain: f"OfficeHomeDataset_10072016/{folder}"
            for domain, folder in (
                ("art", "Art"),
                ("clipart", "Clipart"),
                ("product", "Product"),
                ("real-world", "Real World"),
            )
        },
        {"art": 2427, "clipart": 4365, "product": 4439, "real-world": 4357},
        tuple(_OFFICE_HOME_CLASSES.split()),
        "its authors (Venkateswara et al., CVPR 2017) publish OfficeHomeDataset_10072016.zip at "
        "https://www.hemanthdv.org/officeHomeDataset.html; follow the download link there and unpack it",
    ),
    "visda2017": ImageSet(
        "VisDA-2017",
        {domain: f"visda2017/{domain}" for domain in ("train", "validation")},
        {"train": 152397, "validation": 55388},
        tuple(_VISDA_CLASSES.split()),
        "the organisers of the challenge (Peng et al., 2017) publish train.tar and validation.tar of the "
        "classification track, linked from https://github.com/VisionLearningGroup/taskcv-2017-public; unpack both in "
        "a folder visda2017",
    ),
}


def list_image_set(name: str, domains: tuple[str, ...], data_root: Path, *, partial: bool = False) -> list[Listing]:
    """The images of some domains of one set, found and counted, none opened.

    Args:
        name: One of `IMAGE_SETS`.
        domains: Which of its domains, the target last.
        data_root: The folder that holds the sets.
        partial: Limit the last one to `PDA_CLASSES` (Office-31 only); labels keep their places among all classes.

    Raises:
        DataError: a folder is missing (it says which, where, and how to get it), or classes or counts differ from the
            published ones (it says expected and found of every domain asked for).
    """
    known = IMAGE_SETS[name]
    places = {domain: data_root / known.folders[domain] for domain in domains}
    if missing := [str(place) for place in places.values() if not place.is_dir()]:
        raise DataError(
            f"{known.title}: not found: {', '.join(missing)}.\n"
            f"Expected layout: {', '.join(f'{place}/CLASS/IMAGE' for place in places.values())}.\n"
            f"To get it: {known.how_to_get} (below {data_root}).\n"
            "Then give the folder with --data-root or DYNCONV_DATA."
        )
    listings = [list_classes(domain, place) for domain, place in places.items()]
    _check(known, listings)
    if partial:
        listings[-1] = _limited(listings[-1])
    return listings


def _check(known: ImageSet, listings: list[Listing]) -> None:
    lines, differs = [], False
    for listing in listings:
        expected, found = known.counts[listing.name], len(listing.train)
        lacking = [name for name in known.classes if name not in listing.classes]
        extra = [name for name in listing.classes if name not in known.classes]
        line = f"{listing.name}: expected {expected} images of {len(known.classes)} classes, found {found} of "
        line += f"{len(listing.classes)} below {listing.place}"
        line += f"; missing classes: {', '.join(lacking)}" if lacking else ""
        line += f"; unknown classes: {', '.join(extra)}" if extra else ""
        lines.append(line)
        differs = differs or bool(lacking or extra) or found != expected
    if differs:
        raise DataError(
            f"{known.title} is not the published set:\n  "
            + "\n  ".join(lines)
            + f"\nTo get it: {known.how_to_get}.\nOther images are used with --source NAME=DIR --target NAME=DIR."
        )


def _limited(listing: Listing) -> Listing:
    shared = {listing.classes.index(name) for name in PDA_CLASSES}
    train = tuple((path, label) for path, label in listing.train if label in shared)
    if len(train) != PDA_COUNTS[listing.name]:
        raise DataError(
            f"{listing.name}: the ten classes of partial adaptation hold {PDA_COUNTS[listing.name]} images as "
            f"published, found {len(train)} below {listing.place}"
        )
    return replace(listing, train=train)
