"""Small sets of every kind that `dynconv data check` knows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import pytest
from checked_sets import by_digit, write_webcam_and_clipart
from publishers_digits import write_svhn
from publishers_files import write_digits

from dynconv.data import digits
from dynconv.data.image_sets import IMAGE_SETS


@pytest.fixture(scope="session")
def whole_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST, USPS, MNIST-M, SVHN, Office-31's Webcam and DomainNet's clipart; not to be changed."""
    root = tmp_path_factory.mktemp("whole")
    write_digits(root, (60, 20))
    write_svhn(root, (24, 21))
    write_webcam_and_clipart(root)
    return root


@pytest.fixture
def sets(whole_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small sets, whose counts and digests are the published ones."""
    for name in ("mnist", "usps", "mnist_m", "svhn"):
        known = digits.DIGIT_SETS[name]
        splits = {"train": 24, "test": 21} if name == "svhn" else {"train": 60, "test": 20}
        files = known.files if name == "mnist" else ()
        sums = {file: f"md5:{md5((whole_sets / file).read_bytes()).hexdigest()}" for file in files}
        small = replace(known, splits=splits, per_class=by_digit(splits), digests=sums)
        monkeypatch.setitem(digits.DIGIT_SETS, name, small)
    office, net = IMAGE_SETS["office31"], IMAGE_SETS["domainnet"]
    monkeypatch.setitem(
        IMAGE_SETS,
        "office31",
        replace(office, splits={"webcam": {"all": 62}}, per_class={"webcam": {"all": (2,) * 31}}),
    )
    monkeypatch.setitem(
        IMAGE_SETS, "domainnet", replace(net, splits={"clipart": {"train": 6, "test": 3}}, classes=net.classes[:3])
    )
    shutil.copytree(whole_sets, tmp_path / "data")
    return tmp_path / "data"
