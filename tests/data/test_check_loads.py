"""What `dynconv data check` calls sound is loaded, and what a loader stops at is told by the check."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checked_sets import write_classes
from publishers_files import write_digits

from dynconv.data import DataError, digits, load_domain, load_protocol
from dynconv.data.check import Checking
from dynconv.data.check_names import check_domains, domains_meant
from dynconv.data.folders import sorted_classes
from dynconv.data.image_sets import IMAGE_SETS
from dynconv.data.specs import known_domains

COUNTS = (30, 20)
M_LIST = "mnist_m/mnist_m_train_labels.txt"
NET_LIST = "domainnet/original/{}_train.txt"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """USPS and MNIST-M, two domains of DomainNet, and own folders a and b, as small as the published ones."""
    write_digits(tmp_path, COUNTS)
    splits = dict(zip(("train", "test"), COUNTS, strict=True))
    for name in ("usps", "mnist_m"):
        monkeypatch.setitem(digits.DIGIT_SETS, name, replace(digits.DIGIT_SETS[name], splits=splits, per_class={}))
    net = IMAGE_SETS["domainnet"]
    small = {"train": 4, "test": 2}
    known = replace(net, classes=net.classes[:2], splits={"clipart": small, "sketch": small})
    monkeypatch.setitem(IMAGE_SETS, "domainnet", known)
    for domain in ("clipart", "sketch"):
        write_classes(tmp_path / "domainnet" / domain, known.classes, 3, "{}.png")
        (tmp_path / "domainnet" / "original").mkdir(exist_ok=True)
        for split, indices in (("train", (0, 1)), ("test", (2,))):
            rows = [f"{domain}/{c}/{i}.png {label}\n" for label, c in enumerate(known.classes) for i in indices]
            (tmp_path / "domainnet" / "original" / f"{domain}_{split}.txt").write_text("".join(rows))
    for name in ("a", "b"):
        write_classes(tmp_path / name, ("x", "y"), 3, "{}.png")
    (tmp_path / "a.txt").write_text("".join(f"a/{c}/{index}.png {c}\n" for c in "xy" for index in range(3)))
    return tmp_path


def _edit(file: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text(change((root / file).read_text()), encoding="utf-8")


def _bom(file: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_bytes(codecs.BOM_UTF8 + (root / file).read_bytes())


def _tabs(text: str) -> str:
    return text.replace(" ", "\t")


def _first(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


def _deeper(root: Path) -> None:
    folder = root / "domainnet" / "clipart" / "aircraft_carrier"
    (folder / "sub").mkdir()
    (folder / "0.png").rename(folder / "sub" / "0.png")
    _edit(NET_LIST.format("clipart"), _first("carrier/0", "carrier/sub/0"))(root)


def _single(root: Path) -> None:
    for label in "xy":
        for index in (1, 2):
            (root / "a" / label / f"{index}.png").unlink()


def _hollow(root: Path) -> None:
    for split in ("train", "test"):
        (root / "a" / split).mkdir()


NET = "domainnet:sketch-clipart"
OWN, OWN_LIST = ("a={}/a", "b={}/b"), ("a={}/a.txt", "b={}/b")
LONG = "long/" + 5000 * "n" + ".png"

# What is done -> (a protocol, or own domains; the doing; whether that is sound).
CASES: dict[str, tuple[str | tuple[str, str], Callable[[Path], object], bool]] = {
    "MNIST-M as written": ("usps-mnist_m", lambda root: None, True),
    "blank lines at the end of MNIST-M's list": ("usps-mnist_m", _edit(M_LIST, lambda text: text + "\n  \n"), True),
    "tabs in MNIST-M's list": ("usps-mnist_m", _edit(M_LIST, _tabs), True),
    "a mark before MNIST-M's list": ("usps-mnist_m", _bom(M_LIST), True),
    "another script's digit in MNIST-M's list": ("usps-mnist_m", _edit(M_LIST, _first(" 3\n", " \u0663\n")), False),
    "values of USPS out of range": ("usps-mnist_m", lambda root: _usps(root, "7:", "7:-7 "), False),
    "an entry of USPS that is no number": ("usps-mnist_m", lambda root: _usps(root, "7:", "7:x "), False),
    "a label of USPS that is none": ("usps-mnist_m", lambda root: _usps(root, "1 ", "11 "), False),
    "DomainNet as written": (NET, lambda root: None, True),
    "tabs in DomainNet's list": (NET, _edit(NET_LIST.format("clipart"), _tabs), True),
    "a mark before DomainNet's list": (NET, _bom(NET_LIST.format("clipart")), True),
    "an image of DomainNet in a deeper folder": (NET, _deeper, False),
    "a row of another domain": (NET, _edit(NET_LIST.format("clipart"), _first("clipart/", "sketch/")), False),
    "a label of 5,000 digits": (NET, _edit(NET_LIST.format("clipart"), _first(" 1\n", f" {5000 * '1'}\n")), False),
    "another script's digit in DomainNet's list": (
        NET, _edit(NET_LIST.format("clipart"), _first(" 1\n", " \u0661\n")), False,
    ),
    "own folders": (OWN, lambda root: None, True),
    "a link that leads nowhere": (OWN, lambda root: (root / "a/x/9.png").symlink_to(root / "gone.png"), False),
    "a folder called an image": (OWN, lambda root: (root / "a/x/9.png").mkdir(), False),
    "files that are no images": (OWN, lambda root: (root / "a/x/Thumbs.db").write_text("x"), True),
    "other classes": (OWN, lambda root: write_classes(root / "a", ("z",), 3, "{}.png"), False),
    "one image per class": (
        OWN, _single, False,
    ),
    "a training split without classes": (OWN, _hollow, False),
    "an own list": (OWN_LIST, lambda root: None, True),
    "a mark before an own list": (OWN_LIST, _bom("a.txt"), True),
    "a row of an own list twice": (OWN_LIST, _edit("a.txt", lambda text: text + "a/x/0.png x\n"), True),
    "a name of 5,000 letters": (OWN_LIST, _edit("a.txt", lambda text: text + f"{LONG} x\n"), False),
    "a class of 5,000 digits": (OWN_LIST, _edit("a.txt", lambda text: text + f"a/x/0.png {5000 * '1'}\n"), False),
}  # fmt: skip


def _usps(root: Path, old: str, new: str) -> None:
    import bz2

    text = bz2.decompress((root / "usps.bz2").read_bytes()).decode()
    if old.endswith(":"):
        at = text.index(f" {old}") + 1
        end = text.index(" ", at)
        text = text[:at] + new.rstrip() + text[end:]
    else:
        text = new + text.partition(" ")[2]
    (root / "usps.bz2").write_bytes(bz2.compress(text.encode()))


@pytest.mark.parametrize("what", CASES)
def test_what_the_check_calls_sound_is_loaded_and_nothing_else(what: str, root: Path) -> None:
    chosen, damage, sound = CASES[what]
    damage(root)
    own = [] if isinstance(chosen, str) else [word.format(root) for word in chosen]
    words = domains_meant([chosen] if isinstance(chosen, str) else own, root)
    checks = check_domains(words, root, Checking(cache_dir=root / "cache"))
    assert all(check.sound for check in checks) == sound, [check.findings.kept for check in checks]

    def load() -> dict[str, dict[str, int]]:
        options = {"data_root": root, "cache_dir": root / "cache", "image_size": 8}
        if own:
            return load_protocol(None, source=own[:1], target=own[1], **options).counts()
        return load_protocol(str(chosen), **options).counts()

    if sound:
        # Without a published test split a target has all its images in both.
        found = load()
        for check in checks:
            each = found[check.name.partition(":")[2] or check.name]
            whole = each["train"] if each["train"] == each["test"] else sum(each.values())
            assert whole == sum(sum(counts.values()) for counts in check.counts.values())
    else:
        with pytest.raises(DataError):
            load()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("values of USPS out of range", "usps.bz2, line 1: expected values from -1 to 1, got -7"),
        ("an entry of USPS that is no number", 'usps.bz2, line 1: expected a label and 256 entries "1:VALUE"'),
        ("a label of USPS that is none", "usps.bz2, line 1: the label '11' is none of 1 to 10"),
        ("a row of another domain", "line 1: sketch/aircraft_carrier/0.png is an image of sketch: expected those of"),
        ("an image of DomainNet in a deeper folder", 'line 1: expected "DOMAIN/CLASS/IMAGE number", got the path'),
        ("one image per class", "there is one image per class: of a source, none would be left for a test split"),
    ],
)  # fmt: skip
def test_a_loader_and_the_check_say_the_same(what: str, words: str, root: Path) -> None:
    chosen, damage, _ = CASES[what]
    damage(root)
    names = domains_meant([chosen] if isinstance(chosen, str) else [word.format(root) for word in chosen], root)
    told = [line for check in check_domains(names, root, Checking()) for line in check.findings.lines(problems=True)]
    assert any(words in line for line in told), told
    if isinstance(chosen, str):
        with pytest.raises(DataError) as caught:
            load_protocol(chosen, data_root=root, cache_dir=root / "cache", image_size=8)
        assert words in str(caught.value)


def test_rows_that_are_listed_twice_are_told(root: Path) -> None:
    for file in (M_LIST, NET_LIST.format("clipart")):
        lines = (root / file).read_text().splitlines()
        # As many rows as published.
        (root / file).write_text("\n".join([*lines[:-1], lines[0]]) + "\n")
    for name in ("mnist_m", "domainnet:clipart"):
        (found,) = check_domains([name], root, Checking())
        assert any("lists the image " in line for line in found.findings.lines(problems=True))
        assert found.findings.counts["listed twice"] == 1 and not found.sound
    (found,) = check_domains(["mnist_m"], root, Checking(subset=True))
    assert found.sound and found.findings.counts["repeated rows"] == 1


def test_one_name_for_two_places_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="named twice, with another place each: a"):
        check_domains([f"a={root / 'a'}", f"a={root / 'b'}"], None, Checking())


def test_without_a_root_or_with_one_that_is_no_folder_nothing_is_looked_for(root: Path) -> None:
    with pytest.raises(DataError, match="no place to look: give the folder"):
        domains_meant((), None)
    with pytest.raises(DataError, match="gone is no folder"):
        domains_meant((), root / "gone")


def test_bad_images_of_mnist_m_are_skipped_and_named(root: Path) -> None:
    options = {"data_root": root, "cache_dir": root / "cache", "image_size": 8}
    whole = load_protocol("usps-mnist_m", skip_bad=True, **options)
    assert whole.skipped == ()
    (root / "mnist_m" / "mnist_m_train" / "00000013.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"00000013\.png is no 32 x 32 image .*--skip-bad"):
        load_protocol("usps-mnist_m", **options)
    for _ in range(2):  # the second time from the cache
        protocol = load_protocol("usps-mnist_m", skip_bad=True, **options)
        assert [each[:2] for each in protocol.skipped] == [("mnist_m", "mnist_m_train/00000013.png")]
        assert protocol.counts() == {"usps": {"train": 30, "test": 20}, "mnist_m": {"train": 29, "test": 20}}
        kept = [place for place in range(30) if place != 13]
        assert protocol.target.train.labels.tolist() == [place % 10 for place in kept]
        assert np.array_equal(protocol.target.train.images, whole.target.train.images[kept])
    with pytest.raises(DataError, match=r"00000013\.png"):
        load_domain("mnist_m", classes=digits.CLASSES, **options)
    domain = load_domain("mnist_m", classes=digits.CLASSES, skip_bad=True, **options)
    assert len(domain.train) == 29


def test_empty_classes_are_told_once_however_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = IMAGE_SETS["office31"]
    monkeypatch.setitem(IMAGE_SETS, "office31", replace(known, splits={"webcam": {"all": 2}}, per_class={}))
    for name in known.classes:
        (tmp_path / known.folders["webcam"] / name).mkdir(parents=True)
    write_classes(tmp_path / "more", ("mug",), 2, "{}.png")
    for file in (tmp_path / "more" / "mug").iterdir():
        file.rename(tmp_path / known.folders["webcam"] / "mug" / file.name)
    (found,) = check_domains(["office31:webcam"], tmp_path, Checking())
    assert found.findings.counts == {"empty class": 30}
    assert found.to_dict()["counts"] == {"all": {"mug": 2}}
    assert "office31:webcam" in known_domains()


def test_classes_that_are_numbers_are_sorted_as_such_and_endless_ones_are_words() -> None:
    assert sorted_classes(["10", "9", "1"]) == ("1", "9", "10")
    assert sorted_classes(["10", 5000 * "9", "1"]) == ("1", "10", 5000 * "9")
    assert sorted_classes(["10", "\u0663"]) == ("10", "\u0663")
