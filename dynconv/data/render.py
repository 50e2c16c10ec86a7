"""Digits rendered from the fonts that matplotlib ships, in four styles. Everything is fixed by (style, part, seed)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from dynconv.data.errors import DataError

Array = np.ndarray[Any, Any]

SIZE = 32
# Strokes are drawn at twice the size and averaged 2 x 2, which smooths the edges that the affine map leaves.
_CANVAS = 2 * SIZE

# Families, not faces, are divided: a bold face of a family seen in training would make an easy test.
FONTS = {
    "train": (
        "DejaVuSans.ttf",
        "DejaVuSans-Bold.ttf",
        "DejaVuSans-Oblique.ttf",
        "DejaVuSansMono.ttf",
        "DejaVuSansMono-Bold.ttf",
        "DejaVuSerif.ttf",
        "DejaVuSerif-Bold.ttf",
        "DejaVuSerif-Italic.ttf",
        "STIXGeneral.ttf",
        "STIXGeneralBol.ttf",
        "STIXGeneralItalic.ttf",
        "STIXGeneralBolIta.ttf",
    ),
    # Computer Modern; cmmi10 is left out, its digits are old-style figures.
    "test": ("cmr10.ttf", "cmb10.ttf", "cmss10.ttf", "cmtt10.ttf", "cmti10.ttf"),
}
_PARTS = tuple(FONTS)


def render_split(style: str, part: str, count: int, seed: int) -> tuple[Array, Array]:
    """`count` images and labels, the ten digits equally often.

    Args:
        style: A key of `STYLES`.
        part: "train" or "test": which font families.
        count: Number of images.
        seed: Fixes every image, bit for bit (on one machine, with the same matplotlib, numpy and Pillow).

    Returns:
        Images, uint8 (count, 32, 32) for the grey styles and (count, 32, 32, 3) for the coloured ones, and labels,
        int64 (count,).
    """
    rng = np.random.default_rng([seed, tuple(STYLES).index(style), _PARTS.index(part)])
    labels = rng.permutation(np.arange(count) % 10)
    return STYLES[style](rng, labels, part), labels.astype(np.int64)


@cache
def _glyph(font_file: str, digit: int) -> Any:
    """One digit, upright and centred, as a grey PIL image of _CANVAS pixels a side."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / font_file
    if not path.is_file():
        raise DataError(f"embedded domains: the font {path} is missing: reinstall matplotlib with its data files")
    height = 0.62 * _CANVAS
    # The basic layout is in every build of Pillow; the other one (raqm) may shift a glyph.
    probe = ImageFont.truetype(str(path), size=100, layout_engine=ImageFont.Layout.BASIC)
    top, bottom = probe.getbbox("0")[1], probe.getbbox("0")[3]
    font = ImageFont.truetype(
        str(path), size=round(100 * height / (bottom - top)), layout_engine=ImageFont.Layout.BASIC
    )
    box = font.getbbox(str(digit))
    picture = Image.new("L", (_CANVAS, _CANVAS), 0)
    corner = ((_CANVAS - box[0] - box[2]) / 2, (_CANVAS - box[1] - box[3]) / 2)
    ImageDraw.Draw(picture).text(corner, str(digit), fill=255, font=font)
    return picture


def _place(glyph: Any, matrix: Array, shift: Array) -> Array:
    """`glyph` under x -> matrix (x - centre) + centre + shift: uint8 (_CANVAS, _CANVAS)."""
    from PIL import Image

    centre = np.full(2, (_CANVAS - 1) / 2)
    inverse = np.linalg.inv(matrix)
    offset = centre - inverse @ (centre + shift)
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    moved = glyph.transform(
        (_CANVAS, _CANVAS), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
    )
    return np.asarray(moved)


def _affine(rng: Generator) -> Array:
    angle = rng.uniform(-0.21, 0.21)  # 12 degrees
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = np.array([[1.0, rng.uniform(-0.2, 0.2)], [0.0, 1.0]])
    scale = np.diag(rng.uniform(0.8, 1.15) * rng.uniform(0.9, 1.1, size=2))
    matrix: Array = turn @ shear @ scale
    return matrix


def _strokes(rng: Generator, labels: Array, part: str, *, neighbours: bool = False) -> Array:
    """Each label's digit in a random font and pose, uint8 (N, _CANVAS, _CANVAS); with parts of others beside it."""
    fonts = FONTS[part]
    out = np.empty((len(labels), _CANVAS, _CANVAS), dtype=np.uint8)
    for index, label in enumerate(labels):
        font = fonts[rng.integers(len(fonts))]
        matrix, shift = _affine(rng), rng.uniform(-4, 4, size=2)
        out[index] = _place(_glyph(font, int(label)), matrix, shift)
        if neighbours:
            for side in (-1, 1):
                # 36 to 44 of 64 pixels away: the neighbour is cut by the image's edge and hardly touches the digit.
                beside = shift + np.array([side * rng.uniform(36, 44), rng.uniform(-3, 3)])
                other = _place(_glyph(font, int(rng.integers(10))), matrix, beside)
                np.maximum(out[index], other, out=out[index])
    return out


def _shrink(canvas: Array) -> Array:
    """(N, 64, 64) uint8 to (N, 32, 32) float64 in [0, 1], by the mean of each 2 x 2 block."""
    small: Array = canvas.reshape(len(canvas), SIZE, 2, SIZE, 2).mean(axis=(2, 4)) / 255
    return small


def _to_uint8(values: Array) -> Array:
    rounded: Array = np.rint(values.clip(0, 255)).astype(np.uint8)
    return rounded


def _blur(images: Array) -> Array:
    """The 3 x 3 binomial filter over axes 1 and 2."""
    for axis in (1, 2):
        pad = [(1, 1) if each == axis else (0, 0) for each in range(images.ndim)]
        padded = np.pad(images, pad, mode="edge")
        low, middle, high = (np.take(padded, np.arange(start, start + SIZE), axis=axis) for start in range(3))
        images = (low + 2 * middle + high) / 4
    return images


def _plain(rng: Generator, labels: Array, part: str) -> Array:
    return _to_uint8(255 * _shrink(_strokes(rng, labels, part)))


def _textured(rng: Generator, labels: Array, part: str) -> Array:
    # The rule by which MNIST-M was made (Ganin et al., 2016): the digit inverts what lies behind it.
    mask = _shrink(_strokes(rng, labels, part))[..., None]
    texture = np.stack([_texture(rng) for _ in labels])
    return _to_uint8(np.abs(texture - 255 * mask))


def _texture(rng: Generator) -> Array:
    """Stripes, checks, blobs or grain between two random colours: float64 (32, 32, 3) in [0, 255]."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi, size=2)
    along = math.cos(angle) * columns + math.sin(angle) * rows
    across = math.cos(angle) * rows - math.sin(angle) * columns
    wave = 2 * math.pi / rng.uniform(5, 14)
    kind = rng.integers(4)
    if kind == 0:
        pattern = 0.5 + 0.5 * np.sin(wave * along + phase[0])
    elif kind == 1:
        pattern = (np.sin(wave * along + phase[0]) * np.sin(wave * across + phase[1]) > 0).astype(np.float64)
    else:
        # Noise on a coarse grid (blobs) or on a fine one (grain), interpolated linearly along both axes.
        nodes = 6 if kind == 2 else 17
        places = np.linspace(0, nodes - 1, SIZE)
        grid = rng.uniform(0, 1, size=(nodes, nodes))
        half = np.stack([np.interp(places, np.arange(nodes), line) for line in grid])
        pattern = np.stack([np.interp(places, np.arange(nodes), line) for line in half.T], axis=1)
    colours = rng.uniform(0, 255, size=(2, 3))
    mixed: Array = colours[0] + pattern[..., None] * (colours[1] - colours[0])
    return mixed


def _coloured(rng: Generator, labels: Array, part: str) -> Array:
    mask = _shrink(_strokes(rng, labels, part, neighbours=True))[..., None]
    count = len(labels)
    ground = rng.uniform(30, 225, size=(count, 1, 1, 3))
    # Ink at least 60 grey levels from the ground, on the side where there is room.
    lightness = ground.mean(axis=-1, keepdims=True)
    direction = np.where(lightness > 127.5, -1.0, 1.0)
    ink = ground + direction * rng.uniform(60, 150, size=(count, 1, 1, 1)) + rng.uniform(-25, 25, size=ground.shape)
    ramp = np.linspace(-1, 1, SIZE)
    light = rng.uniform(-25, 25, size=(count, 1, 1, 1)) * ramp[None, :, None, None]
    light = light + rng.uniform(-25, 25, size=(count, 1, 1, 1)) * ramp[None, None, :, None]
    return _to_uint8(_blur(ground + mask * (ink - ground) + light) + rng.normal(0, 4, size=(count, SIZE, SIZE, 3)))


def _inverted(rng: Generator, labels: Array, part: str) -> Array:
    line = thin(_strokes(rng, labels, part) > 127)
    # The skeleton is one pixel of 64 wide; with its neighbours to the right and below, one pixel of 32.
    line[:, :, 1:] |= line[:, :, :-1]
    line[:, 1:, :] |= line[:, :-1, :]
    mask = _shrink(line.astype(np.uint8) * 255)
    count = len(labels)
    paper, ink = rng.uniform(200, 250, size=(count, 1, 1)), rng.uniform(0, 70, size=(count, 1, 1))
    return _to_uint8(paper + mask * (ink - paper) + rng.normal(0, 5, size=mask.shape))


def thin(shapes: Array) -> Array:
    """Skeletons of boolean images (N, H, W) by the parallel thinning of Zhang and Suen (1984): lines one pixel wide,
    connected where the shape was.
    """
    shapes = shapes.copy()
    while True:
        before = int(shapes.sum())
        for second in (False, True):
            n, ne, e, se, s, sw, w, nw = _neighbours(shapes)
            ring = (n, ne, e, se, s, sw, w, nw, n)
            total = sum(each.astype(np.uint8) for each in ring[:8])
            steps = sum((~ring[place] & ring[place + 1]).astype(np.uint8) for place in range(8))
            edges = ~((n & e & w) | (n & s & w)) if second else ~((n & e & s) | (e & s & w))
            shapes &= ~((total >= 2) & (total <= 6) & (steps == 1) & edges)
        if int(shapes.sum()) == before:
            return shapes


def _neighbours(shapes: Array) -> tuple[Array, ...]:
    """The eight neighbours of every pixel, clockwise from the one above; outside is empty."""
    height, width = shapes.shape[1:]
    padded = np.pad(shapes, ((0, 0), (1, 1), (1, 1)))
    offsets = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
    return tuple(padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in offsets)


STYLES: dict[str, Callable[[Generator, Array, str], Array]] = {
    "plain": _plain,
    "textured": _textured,
    "coloured": _coloured,
    "inverted": _inverted,
}
