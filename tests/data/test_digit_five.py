from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from publishers_digits import digits, one_hot, pictures, write_digit_five
from scipy.io import loadmat, savemat

from dynconv.data import DataError, Domain, Protocol, load_domain, load_protocol, source_validation_split
from dynconv.data import digits as registry
from dynconv.data.digit_files import checked_images, checked_labels
from dynconv.data.variants import M3SDA, Take

DIGITS = tuple("0123456789")
NAMES = ("mnist", "mnist_m", "usps", "svhn", "syn")
FILES = {
    "mnist": "mnist_data.mat",
    "mnist_m": "mnistm_with_label.mat",
    "usps": "usps_28x28.mat",
    "svhn": "svhn_train_32x32.mat",
    "syn": "syn_number.mat",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The release with 24 and 21 images of every set, of which 20 and 15 are drawn."""
    place = tmp_path / "data"
    write_digit_five(place)
    for name, known in registry.DIGIT_SETS.items():
        if name.startswith("digit-five:"):
            small = replace(known, splits={"train": 24, "test": 21})
            monkeypatch.setitem(registry.DIGIT_SETS, name, small)
            monkeypatch.setitem(M3SDA, name, Take(repeats=4) if name.endswith("usps") else Take(20, 15))
    return place


def load(spec: str, root: Path, **options: int) -> Protocol:
    return load_protocol(spec, data_root=root, cache_dir=root.parent / "cache", **options)


def load_one(name: str, root: Path, **options: int) -> Domain:
    return load_domain(f"digit-five:{name}", classes=DIGITS, data_root=root, cache_dir=root.parent / "cache", **options)


@pytest.mark.parametrize("name", NAMES)
def test_the_release_is_read_value_for_value(name: str, root: Path) -> None:
    whole = load(f"digit-five:{'usps' if name == 'mnist' else 'mnist'}-{name}@full", root, image_size=28)
    domain = whole.target
    assert domain.name == name and whole.variant == "full"
    assert domain.test is not None
    for split, count in ((domain.train, 24), (domain.test, 21)):
        assert split.labels.tolist() == digits(count).tolist()
        side = 28 if name in ("mnist_m", "usps") else 32
        stored = pictures(count, side, 1 if name in ("mnist", "usps") else 3).transpose(0, 3, 1, 2)
        if side == 28:
            assert split.images_at(torch.arange(count)).equal(torch.from_numpy(stored).expand(-1, 3, -1, -1))
    if name not in ("mnist_m", "usps"):
        large = load(f"digit-five:usps-{name}@full", root, image_size=32).target.train
        stored = pictures(24, 32, 1 if name == "mnist" else 3).transpose(0, 3, 1, 2)
        assert large.images_at(torch.arange(24)).equal(torch.from_numpy(stored.copy()).expand(-1, 3, -1, -1))


def test_a_target_alone_takes_the_other_four_with_m3sdas_counts(root: Path) -> None:
    protocol = load("digit-five:mnist_m", root)
    assert protocol.variant == "m3sda"
    assert [source.name for source in protocol.sources] == ["mnist", "usps", "svhn", "syn"]
    drawn = {"train": 20, "test": 15}
    assert protocol.counts() == {
        **dict.fromkeys(("mnist", "svhn", "syn"), drawn),
        "usps": {"train": 96, "test": 21},
        "mnist_m": drawn,
    }
    assert load("digit-five:svhn-mnist@m3sda", root).counts() == {"svhn": drawn, "mnist": drawn}


def test_every_image_of_usps_is_there_four_times(root: Path) -> None:
    usps = load("digit-five:mnist_m", root).sources[1].train
    once = usps.images_at(torch.arange(24))
    for copy in range(1, 4):
        assert usps.images_at(torch.arange(24 * copy, 24 * (copy + 1))).equal(once)
    assert usps.labels.reshape(4, 24).unique(dim=0).shape[0] == 1
    assert once.flatten(1).unique(dim=0).shape[0] == 24


def test_no_copy_of_a_held_out_image_of_usps_stays_in_training(root: Path) -> None:
    for _ in range(2):  # the second time from the cache
        protocol = load("digit-five:mnist_m", root)
        smaller, held = source_validation_split(protocol, seed=0)
        kept, out = (
            {tuple(image.flatten().tolist()) for image in split.images_at(torch.arange(len(split)))}
            for split in (smaller.sources[1].train, held[1])
        )
        assert len(held[1]) == len(out) == 10, "one of each digit"
        assert len(kept) == 14 and not kept & out
        assert len(smaller.sources[1].train) == 4 * 14


def test_a_limit_below_the_images_of_usps_takes_none_twice(root: Path) -> None:
    usps = load("digit-five:mnist_m", root, source_limit=20).sources[1].train
    assert len(usps) == 20
    assert usps.images_at(torch.arange(20)).flatten(1).unique(dim=0).shape[0] == 20


@pytest.mark.parametrize("limit", [24, 25, 40, 50, 71, 95, 96, 97])
def test_a_limit_above_the_images_of_usps_takes_every_one_before_any_again(limit: int, root: Path) -> None:
    usps = load("digit-five:mnist_m", root, source_limit=limit).sources[1].train
    assert len(usps) == min(limit, 96)
    assert usps.origins is not None or limit == 24
    origins = torch.arange(24) if usps.origins is None else usps.origins
    times = origins.bincount()
    assert len(times) == 24 and times.max() - times.min() <= 1
    # What is beside whole sets has each digit once before any twice, where it is so many.
    if (rest := limit % 24) >= 10 and limit < 96:
        assert set(usps.labels[-rest:].tolist()) == set(range(10))


def test_the_drawing_is_the_same_from_the_cache_and_in_every_role(root: Path) -> None:
    first, again = (load("digit-five:mnist_m", root) for _ in range(2))
    assert len(list((root.parent / "cache").iterdir())) == 5
    load("digit-five:syn", root)
    assert len(list((root.parent / "cache").iterdir())) == 5, "the same drawing in another role"
    elsewhere = load_protocol("digit-five:mnist", data_root=root, cache_dir=root.parent / "other")
    for protocol in (again, elsewhere):
        domains = {domain.name: domain for domain in (*protocol.sources, protocol.target)}
        for domain in (*first.sources, first.target):
            other = domains[domain.name]
            assert domain.test is not None and other.test is not None
            for mine, theirs in ((domain.train, other.train), (domain.test, other.test)):
                assert mine.labels.equal(theirs.labels)
                everything = torch.arange(len(mine))
                assert mine.images_at(everything).equal(theirs.images_at(everything))


def test_one_domain_is_evaluated_on_the_protocols_test_images(root: Path) -> None:
    drawn = load("digit-five:mnist_m", root).target.test
    alone = load_one("mnist_m", root).test
    assert drawn is not None and alone is not None
    assert len(alone) == 15 and alone.labels.equal(drawn.labels)


def test_changed_files_are_drawn_again(root: Path) -> None:
    before = load_one("syn", root).train
    path = root / "Digit-Five" / "syn_number.mat"
    content = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    savemat(path, {**content, "train_data": 255 - content["train_data"]})
    after = load_one("syn", root).train
    everything = torch.arange(20)
    assert after.images_at(everything).equal(255 - before.images_at(everything))


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_named_with_a_way_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_one(name, tmp_path)
    folder = tmp_path / "Digit-Five"
    for words in (f"Digit-Five/{FILES[name]}", "M3SDA", "drive.google.com", str(folder), "--data-root"):
        assert words in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_an_error_that_names_it(name: str, share: float, root: Path) -> None:
    path = root / "Digit-Five" / FILES[name]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=f"digit-five:{name}: .*{FILES[name]}"):
        load_one(name, root)


@pytest.mark.parametrize("name", NAMES)
def test_another_file_or_other_variables_are_refused(name: str, root: Path) -> None:
    path = root / "Digit-Five" / FILES[name]
    path.write_text("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>" + " " * 500)
    with pytest.raises(DataError, match=f"{FILES[name]} cannot be read as a MATLAB file"):
        load_one(name, root)
    savemat(path, {"images": np.zeros(3), "y_train": np.zeros(3)})
    with pytest.raises(DataError, match=r"expected the variables .* not among images, y_train"):
        load_one(name, root)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mnist", {"train_32": pictures(24, 28, 1)[..., 0]}, r"train_32: expected numbers \(N, 32, 32\), got .*28, 28"),
        ("mnist", {"train_32": np.zeros((24, 32, 32))}, "expected values from 0 to 255, got 0 to 0"),
        ("mnist", {"test_32": np.full((21, 32, 32), 0.5)}, "expected values from 0 to 255, got 0.5 to 0.5"),
        ("mnist", {"label_train": one_hot(digits(23))}, r"expected 24 labels, .* got \(23, 10\)"),
        ("mnist_m", {"label_test": np.ones((21, 10))}, "row 1 of the one-hot labels"),
        ("mnist_m", {"train": pictures(24, 28, 1)}, r"expected numbers \(N, 28, 28, 3\)"),
        ("syn", {"train_label": np.full((24, 1), 11)}, "label 1 is 11: expected a digit"),
        ("syn", {"train_label": np.array([[0], [10]] * 12)}, "expected 0 or 10 for the digit 0, got both"),
        ("syn", {"train_label": np.array(["three"] * 24)}, "expected numbers, got <U5"),
        ("usps", {"dataset": np.zeros((2, 2))}, "expected 2 x 2 cells"),
        ("svhn", {"X": np.zeros((32, 32, 24), dtype=np.uint8)}, r"X: expected \(32, 32, 3, N\)"),
    ],
)
def test_wrong_shapes_values_and_labels_are_refused(
    name: str, change: dict[str, np.ndarray], message: str, root: Path
) -> None:
    path = root / "Digit-Five" / FILES[name]
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    savemat(path, {**content, **change})
    with pytest.raises(DataError, match=f"digit-five:{name}: .*{FILES[name]}.*{message}"):
        load_one(name, root)


def test_another_number_of_images_than_released_is_refused(root: Path) -> None:
    path = root / "Digit-Five" / "syn_number.mat"
    content = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    savemat(path, {**content, "train_data": pictures(10, 32), "train_label": digits(10)[:, None]})
    with pytest.raises(DataError, match="'m3sda' has the counts of M3SDA.*train: expected 24, found 10"):
        load("digit-five:mnist_m", root)
    assert len(load("digit-five:mnist-syn@full", root).target.train) == 10


def test_labels_are_read_in_each_of_their_forms() -> None:
    expected = [3, 0, 9]
    for form in (
        np.array([[3], [10], [9]], dtype=np.uint8),
        np.array([[3.0, 0.0, 9.0]]),
        np.array([3, 0, 9]),
        one_hot(np.array(expected)),
    ):
        labels = checked_labels(form, 3, "here")
        assert labels.tolist() == expected and labels.dtype == np.int64
    for wrong in (np.array([3.5, 1, 2]), np.array([-1, 1, 2]), np.array([np.nan, 1, 2]), np.array([[3, 1], [2, 4]])):
        with pytest.raises(DataError, match="here: "):
            checked_labels(wrong, 3, "here")


def test_values_of_images_are_scaled_to_their_white_and_held_to_it() -> None:
    grey = np.array([[0.0, 0.25], [0.5, 1.0]])[None]
    assert checked_images(grey, (2, 2), "here", white=1).tolist() == [[[0, 64], [128, 255]]]
    assert checked_images(grey * 255, (2, 2), "here").tolist() == [[[0, 64], [128, 255]]]
    for wrong in (grey - 0.1, grey * 300, grey * np.nan):
        with pytest.raises(DataError, match="here: expected values from 0 to 1"):
            checked_images(wrong, (2, 2), "here", white=1)
    for shape in ((0, 2, 2), (1, 2, 3), (2, 2)):
        with pytest.raises(DataError, match=r"here: expected numbers \(N, 2, 2\)"):
            checked_images(np.ones(shape), (2, 2), "here")
