from __future__ import annotations

import bz2
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.data import DataError, Domain, load_domain, load_protocol, protocols

DIGITS = tuple("0123456789")


def write_mnist(root: Path, counts: tuple[int, int] = (12, 11)) -> None:
    """Image n of grey level n, label n mod 10, in the idx files of the publisher."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in zip(("train", "t10k"), counts, strict=True):
        images = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28).reshape(count, 28, 28)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
            (raw / f"{stem}-{kind}-ubyte").write_bytes(header + array.tobytes())


def write_usps(root: Path, counts: tuple[int, int] = (12, 11)) -> None:
    """Image n of value n / 20 in [-1, 1], label n mod 10 (written as 1 to 10), in libsvm's text."""
    for name, count in zip(("usps.bz2", "usps.t.bz2"), counts, strict=True):
        rows = [f"{n % 10 + 1} " + " ".join(f"{place + 1}:{n / 20:.6f}" for place in range(256)) for n in range(count)]
        (root / name).write_bytes(bz2.compress(("\n".join(rows) + "\n").encode()))


def write_mnist_m(root: Path, counts: tuple[int, int] = (12, 11)) -> None:
    """Image n of colour (n, 2n, 255), label n mod 10."""
    for part, count in zip(("train", "test"), counts, strict=True):
        folder = root / "mnist_m" / f"mnist_m_{part}"
        folder.mkdir(parents=True)
        rows = []
        for n in range(count):
            Image.new("RGB", (32, 32), (n, 2 * n, 255)).save(folder / f"{n:08d}.png")
            rows.append(f"{n:08d}.png {n % 10}")
        (root / "mnist_m" / f"mnist_m_{part}_labels.txt").write_text("\n".join(rows) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    write_mnist(place)
    write_usps(place)
    write_mnist_m(place)
    return place


def load(name: str, root: Path, **options: int) -> Domain:
    return load_domain(name, classes=DIGITS, data_root=root, cache_dir=root.parent / "cache", **options)


def colours(domain: Domain) -> list[list[int]]:
    rows: list[list[int]] = domain.train.images[:, :, 7, 9].tolist()
    return rows


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist", [[n] * 3 for n in range(12)]),
        ("usps", [[int((n / 20 + 1) / 2 * 255)] * 3 for n in range(12)]),
        ("mnist_m", [[n, 2 * n, 255] for n in range(12)]),
    ],
)
def test_the_publishers_files_are_read_value_for_value(name: str, expected: list[list[int]], root: Path) -> None:
    for _ in range(2):  # the second time from the cache, where the set has one
        domain = load(name, root)
        assert domain.test is not None
        assert domain.classes == DIGITS
        assert domain.train.images.shape == (12, 3, 32, 32)
        assert domain.test.images.shape == (11, 3, 32, 32)
        assert colours(domain) == expected
        assert domain.train.labels.tolist() == [n % 10 for n in range(12)]
        assert domain.test.labels.tolist() == [n % 10 for n in range(11)]


def test_changed_files_are_read_again(root: Path) -> None:
    load("mnist_m", root)
    load("usps", root)
    Image.new("RGB", (32, 32), (9, 8, 7)).save(root / "mnist_m" / "mnist_m_train" / "00000003.png")
    assert colours(load("mnist_m", root))[3] == [9, 8, 7]
    write_usps(root, (10, 11))
    assert len(load("usps", root).train) == 10


def test_resizing_is_antialiased_and_keeps_the_mean(root: Path) -> None:
    raw = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    stripes = np.zeros((12, 28, 28), dtype=np.uint8)
    stripes[:, :, ::2] = 200
    raw.write_bytes(raw.read_bytes()[:16] + stripes.tobytes())
    small = load("mnist", root, image_size=4).train.images
    assert small.shape == (12, 3, 4, 4)
    inner = small[..., 1:-1, 1:-1]
    # Without antialiasing every output pixel falls on one input pixel: 0 or 200.
    assert int((inner.to(torch.int64) - 100).abs().max()) <= 5


def test_one_channel_is_the_luma_of_a_colour_set_and_the_grey_of_a_grey_one(root: Path) -> None:
    colour = load("mnist_m", root, channels=1)
    assert colours(colour) == [[round(0.2989 * n + 0.587 * 2 * n + 0.114 * 255)] for n in range(12)]
    assert colours(load("mnist", root, channels=1)) == [[n] for n in range(12)]


@pytest.mark.parametrize("name", ["mnist", "usps", "mnist_m"])
def test_missing_files_are_named_with_the_layout_and_a_way_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    message = str(caught.value)
    first = {"mnist": "MNIST/raw/train-images-idx3-ubyte", "usps": "usps.bz2", "mnist_m": "mnist_m_train_labels.txt"}
    how = {"mnist": "import MNIST", "usps": "import USPS", "mnist_m": "mnist_m.tar.gz"}
    for words in (str(tmp_path), first[name], how[name], "--data-root", "DYNCONV_DATA"):
        assert words in message


def test_damaged_files_are_an_error_that_names_the_set_and_the_place(root: Path) -> None:
    raw = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    raw.write_bytes(raw.read_bytes()[:1000])
    (root / "usps.bz2").write_bytes(b"not an archive")
    (root / "mnist_m" / "mnist_m_train" / "00000003.png").write_bytes(b"not a picture")
    for name, message in (("mnist", "cannot be read"), ("usps", "cannot be read"), ("mnist_m", r"00000003\.png")):
        with pytest.raises(DataError, match=f"{name}: .*{message}"):
            load(name, root)


@pytest.mark.parametrize("size", [(1, 1), (28, 28)])
def test_an_image_of_mnist_m_of_another_size_is_refused(size: tuple[int, int], root: Path) -> None:
    Image.new("RGB", size).save(root / "mnist_m" / "mnist_m_train" / "00000003.png")
    with pytest.raises(DataError, match=rf"00000003\.png.*{size[0]} x {size[1]}"):
        load("mnist_m", root)


def test_a_wrong_list_of_mnist_m_is_an_error_that_names_the_line_or_the_file(root: Path) -> None:
    listing = root / "mnist_m" / "mnist_m_train_labels.txt"
    rows = listing.read_text()
    for text, message in (
        (rows + "00000000.png 11\n", "line 13"),
        (rows + "00000000.png\n", "line 13"),
        (rows + "00000099.png 1\n", r"1 of 13 images .*00000099\.png"),
        ("", "lists no image"),
    ):
        listing.write_text(text)
        with pytest.raises(DataError, match=message):
            load("mnist_m", root)


def test_the_adda_variant_refuses_sets_that_are_too_small(root: Path) -> None:
    with pytest.raises(DataError, match="draws 2000 training images, there are 12"):
        load_protocol("mnist-usps@adda", data_root=root, cache_dir=root.parent / "cache")


def test_the_adda_variant_draws_its_own_number_of_each_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "ADDA_COUNTS", {"mnist": 5, "usps": 4})
    for spec, counts in (("mnist-usps", (5, 4)), ("usps-mnist", (4, 5))):
        drawn = load_protocol(f"{spec}@adda", data_root=root, cache_dir=root.parent / "cache")
        assert drawn.variant == "adda"
        assert (len(drawn.sources[0].train), len(drawn.target.train)) == counts
        assert drawn.target.test is not None and len(drawn.target.test) == 11


def test_real_digits_have_the_published_counts_and_fixed_subsets(data_root: Path) -> None:
    def load_mnist_usps(variant: str, limit: int | None = None) -> dict[str, dict[str, int]]:
        protocol = load_protocol(f"mnist-usps{variant}", data_root=data_root, source_limit=limit, image_size=16)
        return protocol.counts()

    assert load_mnist_usps("") == {"mnist": {"train": 60000, "test": 10000}, "usps": {"train": 7291, "test": 2007}}
    assert load_mnist_usps("@adda") == {"mnist": {"train": 2000, "test": 10000}, "usps": {"train": 1800, "test": 2007}}
    assert load_mnist_usps("", 500)["mnist"]["train"] == 500


def test_real_mnist_and_usps_are_white_digits_on_black(data_root: Path) -> None:
    for name in ("mnist", "usps"):
        images = load_domain(name, classes=DIGITS, data_root=data_root, image_size=16).train.images[:, 0].double()
        border = torch.cat([images[:, 0], images[:, -1]]).mean()
        assert float(border) < 60 < 255 * 0.6 < float(images.amax(dim=(1, 2)).mean())
