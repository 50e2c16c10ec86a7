"""One image file to a square of bytes.

Pillow decodes and torch resizes, on bytes. From a JPEG of 500 x 375 and 94 KB to a square of 256 that takes 2.9 ms of a
core where Pillow alone takes 3.6: torch's antialiased resizing is three times as fast, and differs from Pillow's in one
value of 500, by one level. torchvision's decoder (the same libjpeg-turbo, the same pixels) would save another 0.4 ms,
but is deprecated since 0.29. JPEG's own reduction while decoding (Pillow's `draft`) is not used: with twice the side
left to resize from, it does nothing below 1024 x 1024 pixels, and with less it changes values by up to 2 levels.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv.data.errors import DataError


def decode(path: Path, name: str, size: int, channels: int) -> np.ndarray[Any, Any]:
    """The image in `path`, upright by its EXIF and squeezed to `size` x `size`: uint8 (size, size, channels).

    Bilinear with antialiasing, rounded back to bytes. Alpha is dropped; a palette becomes its colours.

    Args:
        path: The file.
        name: The domain, for messages.
        size: Side of the square.
        channels: 3, or 1 for grey.

    Raises:
        DataError: the file cannot be read, or has more than 8 bits per channel.
    """
    picture = read_picture(path, name, channels)
    if picture.shape[1:] != (size, size):
        picture = F.interpolate(picture[None], (size, size), mode="bilinear", antialias=True)[0]
    return picture.permute(1, 2, 0).numpy()


def read_picture(path: Path, name: str, channels: int) -> Tensor:
    """The image in `path` in its own size, uint8 (channels, H, W), channels last in memory.

    Raises:
        DataError: as `decode`.
    """
    from PIL import UnidentifiedImageError

    try:
        return _pixels(path.read_bytes(), channels)
    except DataError as error:
        raise DataError(f"{name}: the image {path} {error}") from None
    except MemoryError:
        # The machine's fault, not the file's.
        raise
    except UnidentifiedImageError as error:
        # Its own words name an object in memory.
        raise DataError(f"{name}: the image {path} cannot be read: it is no image that Pillow knows") from error
    except Exception as error:
        # What a damaged file makes of Pillow's parsers is listed nowhere: beside OSError, ValueError and SyntaxError
        # there are struct.error, IndexError, TypeError, zlib.error and others.
        raise DataError(f"{name}: the image {path} cannot be read: {str(error) or type(error).__name__}") from error


def _pixels(content: bytes, channels: int) -> Tensor:
    from PIL import Image, ImageOps

    if not content:
        raise DataError("cannot be read: the file is empty (0 bytes)")
    wanted = "L" if channels == 1 else "RGB"
    with Image.open(io.BytesIO(content)) as picture:
        if picture.mode.startswith(("I", "F")):
            raise DataError(f"has {picture.mode} pixels: convert it to 8 bits per channel")
        # In place, and converted only where it must be: two copies less, a tenth of the time.
        ImageOps.exif_transpose(picture, in_place=True)
        upright: Image.Image = picture
        if upright.mode == "P" and isinstance(upright.info.get("transparency"), bytes):
            # Straight to RGB the colours are the same, with a warning for each image.
            upright = upright.convert("RGBA")
        if upright.mode != wanted:
            upright = upright.convert(wanted)
        # A copy, for Pillow's own memory must not be written to.
        array = np.array(upright).reshape(upright.height, upright.width, channels)
    return torch.from_numpy(array).permute(2, 0, 1)
