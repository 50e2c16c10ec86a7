"""Office-31, Office-Home, VisDA-2017, DomainNet and PACS as their publishers ship them, held against the published
counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dynconv.data import class_counts, domainnet
from dynconv.data.errors import DataError
from dynconv.data.folders import Listing, list_classes
from dynconv.data.published_lists import read_published_list


@dataclass(frozen=True)
class ImageSet:
    """A published set of domains that share their classes.

    Attributes:
        title: Its name in prose.
        folders: Domain to the folder, below the data root, that holds one folder per class.
        splits: Domain to the number of its images by split, as published: `{"all": n}` where there is no test split,
            else `{"train": n, "test": m}`.
        classes: Names of the class folders: their places are the labels. Sorted, or in the order of the lists.
        how_to_get: Publisher and where to click.
        per_class: Domain and split to the images of each class, in the order of `classes`; empty where not known.
        lists: Domain and split to the places, below the data root, where the publisher's list of that split may be (the
            first that is there is read); empty where the folders say it all.
        base: The folder, below the data root, that the lists' paths are relative to.
        absent: Domain and split to the classes that the published list really lacks.
    """

    title: str
    folders: Mapping[str, str]
    splits: Mapping[str, Mapping[str, int]]
    classes: tuple[str, ...]
    how_to_get: str
    per_class: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    lists: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    base: str = ""
    absent: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Domain to the number of all its images, as published."""
        return {domain: sum(splits.values()) for domain, splits in self.splits.items()}

    def find_list(self, domain: str, split: str, data_root: Path) -> Path | None:
        """The publisher's list of a split, or None where none of its places holds one."""
        places = (data_root / place for place in self.lists[domain][split])
        return next((place for place in places if place.is_file()), None)


def _whole(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    return {domain: {"all": count} for domain, count in counts.items()}


def _whole_classes(counts: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {domain: {"all": each} for domain, each in counts.items()}


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
        _whole({"amazon": 2817, "dslr": 498, "webcam": 795}),
        tuple(_OFFICE31_CLASSES.split()),
        "the authors of Adapting Visual Category Models to New Domains (Saenko et al., ECCV 2010) publish it as "
        "domain_adaptation_images.tar.gz, linked from https://faculty.cc.gatech.edu/~judy/domainadapt/; unpack it in "
        "a folder office31",
        _whole_classes(class_counts.OFFICE31),
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
        _whole({"art": 2427, "clipart": 4365, "product": 4439, "real-world": 4357}),
        tuple(_OFFICE_HOME_CLASSES.split()),
        "its authors (Venkateswara et al., CVPR 2017) publish OfficeHomeDataset_10072016.zip at "
        "https://www.hemanthdv.org/officeHomeDataset.html; follow the download link there and unpack it",
    ),
    "visda2017": ImageSet(
        "VisDA-2017",
        {domain: f"visda2017/{domain}" for domain in ("train", "validation")},
        # "train" and "validation" are domains here: synthetic and real images.
        _whole({"train": 152397, "validation": 55388}),
        tuple(_VISDA_CLASSES.split()),
        "the organisers of the challenge (Peng et al., 2017) publish train.tar and validation.tar of the "
        "classification track, linked from https://github.com/VisionLearningGroup/taskcv-2017-public; unpack both in "
        "a folder visda2017",
        _whole_classes(class_counts.VISDA2017),
    ),
    "domainnet": ImageSet(
        "DomainNet",
        {domain: f"domainnet/{domain}" for domain in domainnet.DOMAINS},
        domainnet.ORIGINAL,
        domainnet.CLASSES,
        domainnet.how_to_get("original"),
        lists=domainnet.lists_of("original"),
        base="domainnet",
    ),
    "domainnet-cleaned": ImageSet(
        "DomainNet (cleaned lists)",
        {domain: f"domainnet/{domain}" for domain in domainnet.DOMAINS},
        domainnet.CLEANED,
        domainnet.CLASSES,
        domainnet.how_to_get("cleaned"),
        lists=domainnet.lists_of("cleaned"),
        base="domainnet",
        absent=domainnet.CLEANED_ABSENT,
    ),
    # All images of a domain, as adaptation uses them. The publisher's kfold lists, which divide them for domain
    # generalisation (90 % to train on, 10 % to select by), are not read: they may lie beside the folders.
    "pacs": ImageSet(
        "PACS",
        {domain: f"PACS/kfold/{domain}" for domain in class_counts.PACS},
        _whole({domain: sum(counts) for domain, counts in class_counts.PACS.items()}),
        ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
        "its authors (Li et al., ICCV 2017) link it from https://dali-dl.github.io/project_iccv2017.html; the folder "
        "of raw images there has a folder kfold with art_painting, cartoon, photo and sketch: put it in a folder PACS",
        _whole_classes(class_counts.PACS),
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
        DataError: a folder, a list or an image of a list is missing (it says which, where, and how to get it), or
            classes or counts differ from the published ones (it says expected and found of every domain asked for).
    """
    known = IMAGE_SETS[name]
    _check_places(known, domains, data_root)
    if known.lists:
        listings = [_read_lists(known, domain, data_root) for domain in domains]
        _check_lists(known, listings)
    else:
        listings = [list_classes(domain, data_root / known.folders[domain]) for domain in domains]
        _check(known, listings)
    if partial:
        listings[-1] = _limited(listings[-1])
    return listings


def _check_places(known: ImageSet, domains: tuple[str, ...], data_root: Path) -> None:
    places = [known.folders[domain] for domain in domains]
    missing = [place for place in places if not (data_root / place).is_dir()]
    layout = [f"{data_root / place}/CLASS/IMAGE" for place in places]
    for domain in domains if known.lists else ():
        for split, (first, *_) in known.lists[domain].items():
            layout.append(str(data_root / first))
            if known.find_list(domain, split, data_root) is None:
                missing.append(" or ".join(known.lists[domain][split]))
    if missing:
        raise DataError(
            f"{known.title}: not found below {data_root}: {', '.join(missing)}.\n"
            f"Expected layout: {', '.join(layout)}.\n"
            f"To get it: {known.how_to_get} (below {data_root}).\n"
            "Then give the folder with --data-root or DYNCONV_DATA."
        )


def _read_lists(known: ImageSet, domain: str, data_root: Path) -> Listing:
    rows = {}
    for split in ("train", "test"):
        file = known.find_list(domain, split, data_root)
        if file is None:
            raise DataError(f"{domain}: the list of its {split} split is gone")
        rows[split] = read_published_list(domain, file, data_root / known.base, known.classes)
    return Listing(domain, data_root / known.folders[domain], known.classes, rows["train"], rows["test"])


def _check_lists(known: ImageSet, listings: list[Listing]) -> None:
    lines, differs = [], False
    for listing in listings:
        expected = known.splits[listing.name]
        rows = {"train": listing.train, "test": listing.test or ()}
        found = {split: len(each) for split, each in rows.items()}
        line = f"{listing.name}: expected {_both(expected)} images, found lists of {_both(found)}"
        for other, its in IMAGE_SETS.items():
            if (
                its.base == known.base
                and its.lists
                and its is not known
                and found == its.splits[listing.name] != expected
            ):
                line += f" (those of {its.title}: read them as {other}:{listing.name})"
        for split, each in rows.items():
            present = {label for _, label in each}
            accepted = known.absent.get(listing.name, {}).get(split, ())
            lacking = [
                name for label, name in enumerate(known.classes) if label not in present and name not in accepted
            ]
            if lacking and found != expected:
                line += f"; the {split} list lacks {', '.join(lacking[:12])}" + ", ..." * (len(lacking) > 12)
        lines.append(line)
        differs = differs or found != expected
    if differs:
        raise DataError(_other_set(known, lines))


def _both(counts: Mapping[str, int]) -> str:
    return f"{counts['train']} training and {counts['test']} test"


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
        raise DataError(_other_set(known, lines))


def _other_set(known: ImageSet, lines: list[str]) -> str:
    found = "\n  ".join(lines)
    return (
        f"{known.title} is not the published set:\n  {found}\nTo get it: {known.how_to_get}.\n"
        "Other images are used with --source NAME=DIR --target NAME=DIR."
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
