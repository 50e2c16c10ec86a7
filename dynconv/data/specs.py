"""The names of domains and protocols: which there are, and what the words of the command line mean."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dynconv.data import digit_five, digits, embedded
from dynconv.data.errors import DataError
from dynconv.data.image_sets import IMAGE_SETS
from dynconv.data.scenes.listing import SCENE_SETS
from dynconv.data.variants import check_variant

EMBEDDED = "embedded"
# Domains whose names are PREFIX:NAME.
COLLECTIONS: dict[str, tuple[str, ...]] = {
    EMBEDDED: embedded.NAMES,
    digit_five.PREFIX: tuple(digit_five.SETS),
    **{prefix: tuple(known.folders) for prefix, known in IMAGE_SETS.items()},
}

# The variant of a protocol whose name has none, where that is not "full". M3SDA's release is for M3SDA's counts.
_DEFAULT_VARIANTS = {digit_five.PREFIX: "m3sda"}


def known_domains() -> tuple[str, ...]:
    """Names of all domains that need no NAME=DIR."""
    members = (f"{prefix}:{name}" for prefix, names in COLLECTIONS.items() for name in names)
    return (*digits.REAL, *members, *SCENE_SETS)


def parse_spec(spec: str) -> tuple[tuple[str, ...], str, str]:
    """A protocol's name to (sources, target, variant), domains of a collection with their prefix. The variant of
    driving scenes is their class setting ("19", "16", ...).

    Args:
        spec: SOURCE[+SOURCE...]-TARGET[@VARIANT], or COLLECTION:TARGET for all its other domains as sources.

    Raises:
        DataError: a malformed name, an unknown domain or variant (with the known ones), or a domain named twice.
    """
    body, at, variant = spec.partition("@")
    prefix, colon, rest = body.partition(":")
    prefix, body = (f"{prefix}:", rest) if colon and prefix in COLLECTIONS else ("", body)
    members = COLLECTIONS.get(prefix.removesuffix(":"), ())
    left, right = _divided(body, prefix)
    known = partial(known_name, where=f"protocol {spec!r}", own="--source NAME=DIR --target NAME=DIR")
    if prefix and (body in members or "-" not in body):
        goal = known(prefix + body)
        sources = tuple(prefix + name for name in members if prefix + name != goal)
    elif not left or not right:
        raise DataError(f"protocol {spec!r}: expected SOURCE[+SOURCE...]-TARGET[@VARIANT], such as {EXAMPLES}")
    else:
        sources = tuple(known(prefix + name) for name in left.split("+"))
        goal = known(prefix + right)
    check_names(sources, goal, f"protocol {spec!r}")
    if any(name in SCENE_SETS for name in (*sources, goal)):
        return sources, goal, scene_setting(variant if at else None, sources, goal, f"protocol {spec!r}")
    variant = variant if at else default_variant(goal)
    check_variant(variant, sources, goal, f"protocol {spec!r}")
    return sources, goal, variant


def scene_setting(setting: str | None, sources: Sequence[str], goal: str, where: str) -> str:
    """The class setting of a protocol of scenes: the given one if all its domains have it. Without one it is the
    first of the target's that they share, and 16 where SYNTHIA is the only source, which hardly shows the other three
    of 19.

    Args:
        setting: Its name, or None.
        sources, goal: Names of known domains.
        where: Where they were given, for the message.

    Raises:
        DataError: a domain is no set of scenes, they share no setting, or not the given one.
    """
    if other := [name for name in (*sources, goal) if name not in SCENE_SETS]:
        raise DataError(
            f"{where}: {other[0]} is no set of driving scenes, which have a class for every pixel; those are "
            f"{', '.join(SCENE_SETS)}"
        )
    shared = [each for each in SCENE_SETS[goal].settings if all(each in SCENE_SETS[name].settings for name in sources)]
    if not shared:
        raise DataError(f"{where}: {goal} has other classes than {', '.join(sources)}")
    if setting is None:
        return "16" if set(sources) == {"synthia"} else shared[0]
    if setting not in shared:
        raise DataError(f"{where}: unknown class setting {setting!r}; its domains share {', '.join(shared)}")
    return setting


def default_variant(name: str) -> str:
    """The variant of a domain whose name says none."""
    return _DEFAULT_VARIANTS.get(name.partition(":")[0], "full")


def _divided(body: str, prefix: str) -> tuple[str, str]:
    """`body` before and after the dash that divides sources from target: names may hold dashes of their own, so of
    several the one with the most known names beside it."""
    known = known_domains()
    places = [place for place, letter in enumerate(body) if letter == "-"]
    if not places:
        return body, ""

    def known_beside(place: int) -> int:
        return sum(prefix + name in known for name in (*body[:place].split("+"), body[place + 1 :]))

    best = max(places, key=known_beside)
    return body[:best], body[best + 1 :]


def known_name(name: str, where: str, own: str) -> str:
    """`name`, if it is a known domain; `where` it was given and how one's `own` images are, for the message."""
    known = known_domains()
    if name in known:
        return name
    if os.path.isdir(name):
        form = own.replace("DIR", name) if own.count("DIR") == 1 else own
        raise DataError(f"{where}: {name!r} is no known domain; a folder of your own needs a name: {form}")
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{where}: unknown domain {name!r}.{hint} Known: {', '.join(known)}. Your own images: {own}")


def check_names(sources: Sequence[str], target: str, where: str) -> None:
    """Raise a DataError where a source is named twice, or the target is one of them."""
    twice = sorted({name for name in sources if list(sources).count(name) > 1})
    if twice:
        raise DataError(f"{where}: named twice among the sources: {', '.join(twice)}")
    if target in sources:
        raise DataError(f"{where}: the target {target!r} is also a source")


def check_places(named: Sequence[tuple[str, Path | None]], where: str) -> None:
    """Raise a DataError where the target, the last of the names and places, is the folder or list of a source, with
    symbolic links followed: its labels would be trained on. Known domains, None, are told apart by name."""
    *sources, (goal, place) = named
    for name, other in sources:
        if place is not None and other is not None and place.resolve() == other.resolve():
            raise DataError(
                f"{where}: the target {goal} and the source {name} are the same, {place}: its labels would be trained "
                "on; give the images to adapt to"
            )


def data_root_of(name: str, data_root: Path | None) -> Path:
    """The folder of the data sets, for the set `name`: `data_root`, or else $DYNCONV_DATA.

    Raises:
        DataError: neither is given, or it is no folder.
    """
    root = data_root if data_root is not None else os.environ.get("DYNCONV_DATA")
    if not root:
        raise DataError(
            f"{name}: no place to look: give the folder of the data sets with --data-root, or set DYNCONV_DATA. "
            "Without any files, `embedded:optical` runs on the embedded domains"
        )
    if not Path(root).is_dir():
        raise DataError(f"{name}: the data root {root} is no folder (looked from {Path.cwd()})")
    return Path(root)


EXAMPLES = (
    "mnist-usps, mnist+usps-mnist_m, mnist-usps@adda, digit-five:mnist_m, office31:amazon-webcam, embedded:optical, "
    "gta5-cityscapes, synthia-cityscapes@13"
)
