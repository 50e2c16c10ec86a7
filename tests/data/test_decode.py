from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dynconv.data import DataError
from dynconv.data.decode import decode, read_picture


def noise(height: int = 30, width: int = 40) -> Image.Image:
    """Coarse noise: JPEG keeps it, and no two corners are alike."""
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def written(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


def by_pillow(path: Path, mode: str = "RGB") -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert(mode))


def kinds(folder: Path) -> dict[str, Path]:
    """One file of each kind that a user's folder may hold."""
    picture = noise()
    palette = picture.quantize(16)
    grey = picture.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "JPEG": written(folder / "a.jpg", picture, quality=90),
        "progressive JPEG": written(folder / "b.jpg", picture, progressive=True),
        "JPEG turned by its EXIF": written(folder / "c.jpg", picture, exif=exif),
        "grey JPEG": written(folder / "d.jpg", grey),
        "CMYK JPEG": written(folder / "e.jpg", picture.convert("CMYK")),
        "PNG": written(folder / "f.png", picture),
        "palette": written(folder / "g.png", palette),
        "palette with transparency": written(folder / "h.png", palette, transparency=bytes(range(16))),
        "grey and alpha": written(folder / "i.png", picture.convert("LA")),
        "colour and alpha": written(folder / "j.png", picture.convert("RGBA")),
        "black and white": written(folder / "k.png", picture.convert("1")),
        "BMP": written(folder / "l.bmp", picture),
        "TIFF": written(folder / "m.tif", picture),
        "WebP": written(folder / "n.webp", picture, lossless=True),
        "a JPEG called PNG": written(folder / "o.png", picture, format="JPEG"),
        "one pixel": written(folder / "p.png", picture.crop((0, 0, 1, 1))),
        "one row": written(folder / "q.png", picture.crop((0, 0, 40, 1))),
    }


KINDS = [
    "JPEG", "progressive JPEG", "JPEG turned by its EXIF", "grey JPEG", "CMYK JPEG", "PNG", "palette",
    "palette with transparency", "grey and alpha", "colour and alpha", "black and white", "BMP", "TIFF", "WebP",
    "a JPEG called PNG", "one pixel", "one row",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_has_the_pixels_that_pillow_sees(kind: str, tmp_path: Path) -> None:
    path = kinds(tmp_path)[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture, grey = read_picture(path, "x", 3), read_picture(path, "x", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(picture.permute(1, 2, 0), by_pillow(path))
    if "transparency" not in kind:
        assert np.array_equal(grey[0], by_pillow(path, "L"))
    assert decode(path, "x", 16, 3).shape == (16, 16, 3)
    assert decode(path, "x", 16, 1).shape == (16, 16, 1)


def test_the_list_of_kinds_is_whole(tmp_path: Path) -> None:
    assert list(kinds(tmp_path)) == KINDS


@pytest.mark.parametrize(("size", "channels"), [(16, 3), (16, 1), (64, 3), (30, 3)])
def test_a_picture_is_squeezed_as_pillow_does_it_to_one_level(size: int, channels: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", noise())
    picture = Image.open(path).convert("RGB" if channels == 3 else "L")
    expected = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)
    difference = np.abs(decode(path, "x", size, channels).astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.02


def test_an_image_of_the_right_size_is_left_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", noise(16, 16))
    assert np.array_equal(decode(path, "x", 16, 3), by_pillow(path))


def damaged(path: Path, damage: str) -> Path:
    """The file `path`, which is not read again, damaged."""
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("<html>not found</html>")
    elif damage == "missing":
        path.unlink()
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "16 bit":
        Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(path, format="PNG")
    else:
        assert damage == "float"
        Image.fromarray(np.ones((20, 30), dtype=np.float32)).save(path, format="TIFF")
    return path


DAMAGES = {
    "empty": r"cannot be read: the file is empty \(0 bytes\)",
    "half": "cannot be read: .*[Tt]runcated",
    "text": "cannot be read: it is no image that Pillow knows",
    "missing": "cannot be read: .*No such file",
    "folder": "cannot be read: .*Is a directory",
    "16 bit": "has I;16 pixels: convert it to 8 bits per channel",
    "float": "has F pixels: convert it to 8 bits per channel",
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_is_named_with_the_reason(damage: str, kind: str, tmp_path: Path) -> None:
    path = damaged(kinds(tmp_path)[kind], damage)
    with pytest.raises(DataError, match=DAMAGES[damage]) as caught:
        decode(path, "amazon", 16, 3)
    assert str(caught.value).startswith("amazon: ")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "palette", "BMP", "TIFF", "WebP"])
def test_bytes_gone_wrong_give_an_image_or_a_data_error_and_nothing_else(kind: str, tmp_path: Path) -> None:
    content = kinds(tmp_path)[kind].read_bytes()
    random = np.random.default_rng(1)
    path, refused = tmp_path / "broken", 0
    for _ in range(60):
        broken = bytearray(content[: random.integers(1, len(content) + 1)] if random.random() < 0.5 else content)
        for place in random.integers(0, len(broken), random.integers(1, 20)):
            broken[place] = random.integers(256)
        path.write_bytes(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert decode(path, "x", 8, 3).shape == (8, 8, 3)
            except DataError:
                refused += 1
    assert refused > 10


def test_memory_that_is_not_there_is_not_the_images_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.png", noise())

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError):
        decode(path, "x", 8, 3)


def test_the_pixels_are_channels_last_and_may_be_written_to(tmp_path: Path) -> None:
    picture = read_picture(written(tmp_path / "a.png", noise()), "x", 3)
    assert picture[None].is_contiguous(memory_format=torch.channels_last), "torch resizes such three times as fast"
    assert picture.zero_().max() == 0
