from __future__ import annotations

import bz2
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from publishers_digits import pictures, write_svhn, write_syn

from dynconv.data import DataError, Domain, Protocol, load_domain, load_protocol, variants
from dynconv.data.cache import cache_root
from dynconv.data.digits import DIGIT_SETS, REAL, read_digits
from dynconv.data.variants import THINNED, Take, thinned

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
    write_svhn(place, (12, 11))
    write_syn(place, (12, 11))
    return place


@pytest.fixture
def published(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small files, known as the published ones; ADDA takes 5 images of MNIST and 4 of USPS, M3SDA 6 and 5."""
    for name, known in REAL.items():
        monkeypatch.setitem(DIGIT_SETS, name, replace(known, splits={"train": 12, "test": 11}))
        monkeypatch.setitem(variants.M3SDA, name, Take(repeats=4) if name == "usps" else Take(6, 5))
    sampled = {"mnist": Take(train=5), "usps": Take(train=4)}
    for variant in ("adda", "mcd"):
        pairs = {**variants.PAIRS[variant], "mnist-usps": sampled, "usps-mnist": sampled}
        monkeypatch.setitem(variants.PAIRS, variant, pairs)
    return root


def load(name: str, root: Path, **options: int) -> Domain:
    return load_domain(name, classes=DIGITS, data_root=root, cache_dir=root.parent / "cache", **options)


def load_pair(spec: str, root: Path, **options: int) -> Protocol:
    return load_protocol(spec, data_root=root, cache_dir=root.parent / "cache", **options)


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


@pytest.mark.parametrize("name", ["svhn", "syn"])
def test_stacks_are_read_value_for_value_with_ten_as_zero(name: str, root: Path) -> None:
    for limited in (False, True, True):  # the third time what was drawn is in the cache
        domain = load_pair(f"mnist-{name}", root, **({"target_limit": 11} if limited else {})).target
        assert domain.test is not None
        assert domain.test.labels.tolist() == [n % 10 for n in range(11)]
        expected = torch.from_numpy(pictures(11, 32).transpose(0, 3, 1, 2).copy())
        assert domain.test.images_at(torch.arange(11)).equal(expected)
        assert domain.test.images.is_contiguous()  # type: ignore[union-attr]
        assert len(domain.train) == (11 if limited else 12)


def test_what_is_drawn_of_a_stack_is_cached_and_the_whole_is_not(root: Path) -> None:
    load("svhn", root)
    assert not list((root.parent / "cache").glob("svhn*"))
    small = load_pair("svhn-mnist", root, source_limit=10).sources[0]
    (file,) = (root.parent / "cache").glob("svhn*")
    with np.load(file) as stored:
        assert stored["train_images"].shape == (10, 32, 32, 3)
    for spec in ("svhn-mnist@odd-source", "svhn-mnist@even-source", "mnist-svhn"):
        load_pair(spec, root, source_limit=10, target_limit=10)
    assert len(list((root.parent / "cache").glob("svhn*"))) == 4, "each drawing has its own"
    everything = pictures(12, 32).transpose(0, 3, 1, 2)
    for image, label in zip(small.train.images_at(torch.arange(10)), small.train.labels, strict=True):
        (place,) = np.flatnonzero((everything == image.numpy()).all(axis=(1, 2, 3)))
        assert place % 10 == label


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


@pytest.mark.parametrize(
    ("name", "first", "how"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte", "data check mnist --data-root {root} --download"),
        ("usps", "usps.bz2", "data check usps --data-root {root} --download"),
        ("mnist_m", "mnist_m_train_labels.txt", "mnist_m.tar.gz"),
        ("svhn", "train_32x32.mat", "data check svhn --data-root {root} --download"),
        ("syn", "SynthDigits/synth_train_32x32.mat", "SynthDigits.zip at http://yaroslav.ganin.net"),
    ],
)
def test_missing_files_are_named_with_the_layout_and_a_way_to_get_them(
    name: str, first: str, how: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    for words in (str(tmp_path), first, how.format(root=str(tmp_path)), "--data-root", "DYNCONV_DATA"):
        assert words in str(caught.value)


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


@pytest.mark.parametrize("name", ["svhn", "syn"])
def test_a_damaged_stack_is_an_error_that_names_the_file(name: str, root: Path) -> None:
    path = root / DIGIT_SETS[name].files[1]
    whole = path.read_bytes()
    unreadable = "cannot be read as a MATLAB file"
    for content, message in (
        (whole[: len(whole) // 2], "y is not among X .it may be cut short"),
        (whole[:-3], unreadable),
        (whole[:100], unreadable),
        (b"<html>not found</html>" + b" " * 300, unreadable),
        (b"", unreadable),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"(?s){name}: .*{path.name}.*{message}.*fetch it again: .*{path.parent}"):
            load(name, root)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("mnist-usps@adda", "mnist"),
        ("svhn-mnist@cycada", "svhn"),
        ("usps-mnist@mcd", "usps"),
        ("mnist-syn@m3sda", "mnist"),
    ],
)
def test_a_variant_with_counts_refuses_another_set_than_the_published(spec: str, found: str, root: Path) -> None:
    train, test = REAL[found].splits.values()
    with pytest.raises(
        DataError, match=rf"{found}: .*train: expected {train}, found 12; test: expected {test}, found 11"
    ):
        load_pair(spec, root)


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ("mnist-usps@adda", ((5, 11), (4, 11))),
        ("usps-mnist@adda", ((4, 11), (5, 11))),
        ("svhn-mnist@adda", ((12, 11), (12, 11))),
        ("mnist-usps@cycada", ((12, 11), (12, 11))),
        ("usps-mnist@mcd", ((4, 11), (5, 11))),
        ("svhn-mnist@mcd", ((12, 11), (12, 11))),
        ("mnist+usps+svhn+syn-mnist_m@m3sda", ((6, 5), (48, 11), (6, 5), (6, 5), (6, 5))),
    ],
)
def test_a_variant_draws_its_own_number_of_each_set(
    spec: str, counts: tuple[tuple[int, int], ...], published: Path
) -> None:
    drawn = load_pair(spec, published)
    assert drawn.variant == spec.partition("@")[2]
    assert [tuple(splits.values()) for splits in drawn.counts().values()] == list(counts)


def test_half_of_the_odd_or_even_digits_are_removed_from_one_sides_training_images(root: Path) -> None:
    whole = [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    for variant, side, left in (
        ("odd-source", 0, [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("even-source", 0, [1, 2, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("odd-target", 1, [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("even-target", 1, [1, 2, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("without-odd-source", 0, [2, 0, 1, 0, 1, 0, 1, 0, 1, 0]),
        ("without-even-target", 1, [0, 2, 0, 1, 0, 1, 0, 1, 0, 1]),
    ):
        protocol = load_pair(f"svhn-usps@{variant}", root)
        sides = (protocol.sources[0], protocol.target)
        for place, domain in enumerate(sides):
            counts = torch.bincount(domain.train.labels, minlength=10).tolist()
            assert counts == (left if place == side else whole)
            assert domain.test is not None and len(domain.test) == 11


def test_of_each_thinned_digit_half_stays_rounded_up_and_the_drawing_is_fixed() -> None:
    labels = torch.arange(10).repeat_interleave(torch.arange(1, 11))
    for parity, variant in enumerate(("even-source", "odd-source")):
        kept = thinned(labels, THINNED[variant])
        expected = [count - count // 2 if digit % 2 == parity else count for digit, count in enumerate(range(1, 11))]
        assert torch.bincount(labels[kept]).tolist() == expected
        assert kept.equal(thinned(labels, THINNED[variant])) and kept.equal(kept.sort().values)
    nines = kept[labels[kept] == 9]
    assert not nines.equal(nines[0] + torch.arange(5)), "the first of each digit, not a drawing"


def test_a_limit_holds_within_a_variant(published: Path) -> None:
    assert len(load_pair("mnist-usps@m3sda", published, target_limit=7).target.train) == 7
    assert len(load_pair("mnist-usps@m3sda", published, target_limit=40).target.train) == 40
    assert len(load_pair("usps-mnist@adda", published, target_limit=3).target.train) == 3
    assert len(load_pair("svhn-mnist@odd-source", published, source_limit=10).sources[0].train) == 10


def test_real_digits_have_the_published_counts_and_fixed_subsets(data_root: Path) -> None:
    def load_mnist_usps(variant: str, limit: int | None = None) -> dict[str, dict[str, int]]:
        protocol = load_protocol(f"mnist-usps{variant}", data_root=data_root, source_limit=limit, image_size=16)
        return protocol.counts()

    assert load_mnist_usps("") == {"mnist": {"train": 60000, "test": 10000}, "usps": {"train": 7291, "test": 2007}}
    assert load_mnist_usps("@adda") == {"mnist": {"train": 2000, "test": 10000}, "usps": {"train": 1800, "test": 2007}}
    assert load_mnist_usps("@cycada") == load_mnist_usps("")
    assert load_mnist_usps("@mcd") == load_mnist_usps("@adda")
    assert load_mnist_usps("@m3sda") == {
        "mnist": {"train": 25000, "test": 9000},
        "usps": {"train": 29164, "test": 2007},
    }
    assert load_mnist_usps("@odd-source")["mnist"] == {"train": 44748, "test": 10000}
    assert load_mnist_usps("@without-odd-source")["mnist"] == {"train": 29492, "test": 10000}
    assert load_mnist_usps("", 500)["mnist"]["train"] == 500


def test_real_mnist_and_usps_are_what_is_published(data_root: Path) -> None:
    for name in ("mnist", "usps"):
        known = REAL[name]
        arrays = read_digits(name, data_root, cache_root(None))
        for part, count in known.splits.items():
            assert np.bincount(arrays[f"{part}_labels"]).tolist() == list(known.per_class[part])
            assert len(arrays[f"{part}_images"]) == count
        for file, digest in known.digests.items():
            assert digest == f"md5:{hashlib.md5((data_root / file).read_bytes()).hexdigest()}"


def test_a_part_of_mnist_m_is_used_as_it_is_but_not_under_m3sdas_name(data_root: Path) -> None:
    whole = load_protocol("usps-mnist_m", data_root=data_root, image_size=8)
    part = whole.counts()["mnist_m"]
    if part == dict(REAL["mnist_m"].splits):
        assert load_protocol("usps-mnist_m@m3sda", data_root=data_root).counts()["mnist_m"]["train"] == 25000
        return
    with pytest.raises(DataError, match=f"mnist_m: .*expected 59001, found {part['train']}"):
        load_protocol("usps-mnist_m@m3sda", data_root=data_root)


@pytest.mark.parametrize("name", DIGIT_SETS)
def test_published_facts_agree_with_each_other(name: str) -> None:
    known = DIGIT_SETS[name]
    assert set(known.splits) == {"train", "test"}
    for part, each in known.per_class.items():
        assert len(each) == 10 and sum(each) == known.splits[part]
    assert set(known.digests) <= set(known.files)
    assert all(digest.startswith("md5:") and len(digest) == 36 for digest in known.digests.values())


def test_real_mnist_and_usps_are_white_digits_on_black(data_root: Path) -> None:
    for name in ("mnist", "usps"):
        images = load_domain(name, classes=DIGITS, data_root=data_root, image_size=16).train.images[:, 0].double()
        border = torch.cat([images[:, 0], images[:, -1]]).mean()
        assert float(border) < 60 < 255 * 0.6 < float(images.amax(dim=(1, 2)).mean())
