"""One driving scene: an image file and its label map, read into one array of bytes."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynconv.data.decode import read_picture
from dynconv.data.errors import DataError
from dynconv.data.findings import Kind
from dynconv.data.scenes.label_maps import IGNORE

# A PNG's bits per channel and kind of colour stand behind its signature, a chunk's length and name, and two sizes.
_PNG_DEPTH, _PNG_COLOUR, _PNG_RGB = 24, 25, 2
# Of many unknown ids the first are told.
_TOLD = 12
# How label maps are resized (torchvision's InterpolationMode): by the centres of pixels, as bilinear resizing goes. Its
# plain "nearest" takes the upper left one and moves the map by half a pixel of its new size.
LABELS_RESIZED = "nearest-exact"


class SceneError(DataError):
    """What is wrong with one scene.

    Attributes:
        kind: In the words of `dynconv data check` (see `dynconv.data.findings`).
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


class Scene(NamedTuple):
    """An image file and the file of its label map."""

    image: Path
    labels: Path


@dataclass(frozen=True)
class LabelFormat:
    """How a publisher's label file becomes class indices.

    Attributes:
        name: What the files are, for messages.
        indices: Pairs of a number in the file and what it becomes: a class's index, or `IGNORE`. Any other number is
            an error.
        channel: "index": 8 bits, grey or with a palette, whose colours are not looked at. "red16": the first channel
            of 16-bit red, green and blue (the last one as OpenCV reads it).
        as_image: Bring a label map to the size of its image, where that is another: for images that were made from
            the publisher's at another size. Otherwise two sizes are an error.
    """

    name: str
    indices: tuple[tuple[int, int], ...]
    channel: Literal["index", "red16"] = "index"
    as_image: bool = False

    @functools.cached_property
    def table(self) -> np.ndarray[Any, Any]:
        """int16 (65536,): number to index, -1 for the unknown ones."""
        table = np.full(2**16, -1, dtype=np.int16)
        for number, index in self.indices:
            table[number] = index
        return table


def ids_to(classes: Sequence[str], names: Mapping[int, str], ignored: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """`LabelFormat.indices` of a publisher's numbers: `names` says what they mean, and those whose name is not among
    `classes` are ignored, as `ignored` are."""
    indices = {number: classes.index(name) if name in classes else IGNORE for number, name in names.items()}
    return tuple(sorted({**dict.fromkeys(ignored, IGNORE), **indices}.items()))


def read_scene(
    scene: Scene, name: str, labels: LabelFormat | None, size: tuple[int, int] | None = None
) -> np.ndarray[Any, Any]:
    """A scene as uint8 (H, W, 4): red, green, blue, and the class index or `IGNORE`.

    Args:
        scene: Its files.
        name: The domain, for messages.
        labels: What the label file holds. None: it is not looked at, and no pixel has a class.
        size: Height and width that the scene is resized to: the image bilinearly with antialiasing, the label map to
            the nearest pixel. None: as the files are.

    Raises:
        DataError: a file is missing or cannot be read, the two have different sizes, the label file holds an unknown
            id, or the image is of one colour (GTA5 has such frames).
    """
    indices = None if labels is None else torch.from_numpy(read_labels(scene, name, labels))
    image = read_picture(scene.image, name, 3)
    found = (image.shape[1], image.shape[2])
    expected = found if indices is None else (indices.shape[0], indices.shape[1])
    if labels is not None and found != expected and not labels.as_image:
        raise SceneError(
            "wrong image size",
            f"{name}: the image {scene.image} has {found[1]} x {found[0]} pixels, its label map {scene.labels} "
            f"{expected[1]} x {expected[0]}: expected the same",
        )
    if bool((image == image[:, :1, :1]).all()):
        colour = tuple(image[:, 0, 0].tolist())
        raise SceneError("scene of one colour", f"{name}: the image {scene.image} is of one colour, {colour}")
    height, width = found if size is None else size
    pixels = np.empty((height, width, 4), dtype=np.uint8)
    pixels[..., :3] = resized(image, height, width).permute(1, 2, 0).numpy()
    pixels[..., 3] = IGNORE if indices is None else resized(indices, height, width, nearest=True).numpy()
    return pixels


def read_labels(scene: Scene, name: str, labels: LabelFormat) -> np.ndarray[Any, Any]:
    """A scene's label map in the size of its file: uint8 (H, W), class indices and `IGNORE`.

    Raises:
        DataError: the file is missing, cannot be read, is of another kind, or holds an unknown id.
    """
    try:
        numbers = _numbers(scene.labels.read_bytes(), labels)
    except FileNotFoundError:
        text = f"{name}: the label map {scene.labels} of the image {scene.image} is missing"
        raise SceneError("missing file", text) from None
    except DataError as error:
        raise DataError(f"{name}: the label map {scene.labels} {error}") from None
    except MemoryError:
        # The machine's fault, not the file's.
        raise
    except Exception as error:
        # As in `read_picture`: what a damaged file makes of Pillow's parsers is listed nowhere.
        raise DataError(
            f"{name}: the label map {scene.labels} cannot be read: {error or type(error).__name__}"
        ) from error
    indices = labels.table[numbers]
    if indices.min(initial=0) < 0:
        unknown = np.unique(numbers[indices < 0]).tolist()
        told = ", ".join(map(str, unknown[:_TOLD])) + f" and {len(unknown) - _TOLD} more" * (len(unknown) > _TOLD)
        known = ", ".join(str(number) for number, _ in labels.indices)
        text = f"{name}: the label map {scene.labels} holds unknown ids: {told}; {labels.name} has {known}"
        raise SceneError("unknown label", text)
    return indices.astype(np.uint8)


def resized(plane: Tensor, height: int, width: int, *, nearest: bool = False) -> Tensor:
    """uint8 (..., h, w) to (..., height, width): bilinearly with antialiasing, or to the nearest pixel; both by the
    centres of pixels."""
    if tuple(plane.shape[-2:]) == (height, width):
        return plane
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    mode = InterpolationMode(LABELS_RESIZED) if nearest else InterpolationMode.BILINEAR
    # It takes three dimensions at least.
    return resize(plane[None], [height, width], interpolation=mode, antialias=True)[0]


def _numbers(content: bytes, labels: LabelFormat) -> np.ndarray[Any, Any]:
    """The numbers in a label file: uint8 or uint16 (H, W)."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise DataError("cannot be read: the file is empty (0 bytes)")
    try:
        picture = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise DataError("cannot be read: it is no image that Pillow knows") from None
    with picture:
        if labels.channel == "red16":
            if picture.format != "PNG" or (content[_PNG_DEPTH], content[_PNG_COLOUR]) != (16, _PNG_RGB):
                raise DataError(f"is no PNG of 16-bit red, green and blue, as {labels.name} is: {_kind(picture)}")
            return _red16(content)
        if picture.mode not in ("L", "P"):
            raise DataError(f"is neither grey nor has a palette, of 8 bits, as {labels.name} is: {_kind(picture)}")
        return np.array(picture)


def _kind(picture: Any) -> str:
    return f"it is {picture.format} of {picture.mode} pixels"


def _red16(content: bytes) -> np.ndarray[Any, Any]:
    """The red channel of a PNG of 16 bits: uint16 (H, W).

    Pillow keeps the upper byte of each number. Told that the bytes are in the other order it keeps the lower one, so
    two readings give both, without torchvision's decoder, which is deprecated since 0.29.
    """
    from PIL import Image

    halves = []
    for order in ("RGB;16B", "RGB;16L"):
        with Image.open(io.BytesIO(content)) as picture:
            picture.tile = [tile._replace(args=order) for tile in picture.tile]
            halves.append(np.array(picture)[..., 0].astype(np.uint16))
    upper, lower = halves
    return upper * 256 + lower
