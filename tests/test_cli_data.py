"""`dynconv data list | check | sample`: what they print, their exit codes, and their picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import fails
from PIL import Image

from dynconv import cli, usage

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNCONV_DATA", raising=False)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of two classes of one colour each (a little noise on it), four images of each."""
    root = tmp_path_factory.mktemp("own")
    noise = np.random.default_rng(0)
    for domain, blue in (("day", 40), ("night", 200)):
        for label, red in (("cat", 40), ("dog", 200)):
            (root / domain / label).mkdir(parents=True)
            for index in range(4):
                pixels = noise.integers(0, 9, (96, 96, 3)) + np.array((red, 100, blue))
                Image.fromarray(pixels.astype(np.uint8)).save(root / domain / label / f"{index}.png")
    return root


def prints(capsys: Capture, *args: str) -> str:
    capsys.readouterr()
    assert cli.main(["data", *args]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_actions_are_told_and_others_refused(capsys: Capture) -> None:
    assert "usage: dynconv data list [NAME ...] | check" in prints(capsys, "--help")
    assert "expected an ACTION first, one of list, check, sample, bound; got 'get'" in fails(capsys, "data", "get")
    assert cli.main(["data"]) == 2
    assert "data ACTION" in usage.USAGE


@pytest.mark.parametrize("action", ["list", "check", "sample"])
def test_help_names_the_arguments_and_their_defaults(
    action: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", action, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert out.startswith(f"usage: dynconv data {action} [-h]") and "NAME ...]" in out
    assert "--data-root DIR" in out and "(default: $DYNCONV_DATA)" in out
    for leak in ("(default: )", "None", "STR", "INT"):
        assert leak not in out


def test_list_tells_every_set_and_protocol_without_data(capsys: Capture) -> None:
    out = prints(capsys, "list")
    for words in (
        "mnist MNIST not looked for 60,000 10,000 10",
        "embedded:plain Digits rendered from fonts generated 2,000 500 10",
        "office31:amazon Office-31 not looked for 2,817 31",
        "mnist-usps@adda mnist 2,000 / 10,000 usps 1,800 / 2,007 ADDA (Tzeng et al., 2017)",
        "domainnet:SOURCE-TARGET (30)",
        # Counts as a source, and as the target.
        "digit-five:TARGET (5) all but the target of each of M3SDA",
        "usps 29,752 / 1,860 usps 29,752 / 1,860",
        "webcam 795 webcam 295",
    ):
        assert words in out


def test_list_tells_what_is_there(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "usps.bz2").touch()
    out = prints(capsys, "list", "--data-root", str(tmp_path))
    assert "usps USPS partly 7,291 2,007 10" in out and "mnist MNIST missing" in out


def test_list_tells_all_about_what_is_named(capsys: Capture, tmp_path: Path) -> None:
    out = prints(capsys, "list", "office31", "--data-root", str(tmp_path))
    for words in (
        "images: 498 (no published test split)",
        "31 classes: back_pack (12), bike (21)",
        "needs office31/webcam/images: missing",
        f"unpack it in a folder office31 (below {tmp_path})",
        "office31:amazon-webcam@pda amazon 2,817 webcam 295 PADA",
    ):
        assert words in out
    # A command to copy stays on its line.
    told = prints(capsys, "list", "mnist", "--data-root", str(tmp_path))
    assert f"to get it: dynconv data check mnist --data-root {tmp_path} --download" in told
    out = prints(capsys, "list", "svhn-mnist@odd-source")
    assert "svhn 53,512 / 26,032" in out and "@even-source" not in out
    assert "'moon' is no known domain" in fails(capsys, "data", "list", "moon")
    assert "NAME=DIR, your own images, is for `dynconv data check`" in fails(capsys, "data", "list", f"a={tmp_path}")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("usps-mnist@odd-source", "usps 5,538 / 2,007 mnist 60,000 / 10,000 GAM (Huang et al., 2018), Table 2"),
        ("mnist-usps@full", "mnist 60,000 / 10,000 usps 7,291 / 2,007"),
        ("mnist-mnist_m@odd-target", "mnist 60,000 / 10,000 mnist_m unknown / 9,001 GAM (Huang et al., 2018), Table 2"),
        (
            "embedded:plain-optical@even-source",
            "plain 1,500 / 500 optical 1,438 / 359 GAM (Huang et al., 2018), Table 2",
        ),
        ("office31:dslr-webcam@pda", "dslr 498 webcam 295 PADA (Cao et al., 2018)"),
    ],
)
def test_list_counts_whatever_protocol_is_named_and_no_other(name: str, row: str, capsys: Capture) -> None:
    assert prints(capsys, "list", name).partition("paper ")[2].endswith(f" {name} {row}")


def test_list_tells_the_variants_of_a_protocol_named_without_one(capsys: Capture) -> None:
    out = prints(capsys, "list", "svhn-mnist")
    assert "svhn-mnist svhn 73,257 / 26,032 mnist 60,000 / 10,000 svhn-mnist@adda" in out
    assert "svhn-mnist@even-source" in out and "mnist-usps" not in out


def test_list_speaks_to_machines(capsys: Capture) -> None:
    assert cli.main(["data", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    by_name = {entry["domain"]: entry for entry in told["domains"]}
    assert by_name["usps"]["splits"] == {"train": 7291, "test": 2007} and by_name["usps"]["here"] is None
    assert by_name["embedded:plain"]["here"] == "generated"
    assert len({protocol["name"] for protocol in told["protocols"]}) == len(told["protocols"]) > 100


def test_check_counts_what_is_sound(capsys: Capture, own: Path) -> None:
    out = prints(capsys, "check", f"day={own / 'day'}", f"night={own / 'night'}", "embedded:optical")
    assert "day all 8 2 of 2 4 0 0" in out
    assert "embedded:optical train 1,438 1,438 10 of 10 139 to 146 0 0" in out
    assert "cat 4 4" in out
    assert out.endswith("nothing is wrong with day, night, embedded:optical")


def test_check_exits_with_2_and_says_what_is_wrong(capsys: Capture, own: Path, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.png").write_bytes((own / "day" / "dog" / "1.png").read_bytes()[:900])
    assert cli.main(["data", "check", f"x={tmp_path}", f"day={own / 'day'}"]) == 2
    captured = capsys.readouterr()
    assert f"problems:\n  x, class cat: the folder {tmp_path / 'cat'} holds no image\n" in captured.out
    assert f"the image {tmp_path / 'dog' / '1.png'} cannot be read: " in captured.out
    assert captured.err == "dynconv: error: 5 problems in x (1 of 2 checked)\n"
    assert cli.main(["data", "check", f"x={tmp_path}", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert not told["sound"] and told["domains"][0]["problems"] == 4
    assert {finding["kind"] for finding in told["domains"][0]["findings"] if finding["problem"]} == {
        "empty class", "unreadable image", "missing class", "no test split",
    }  # fmt: skip


def test_check_of_what_is_missing_says_how_to_get_it(capsys: Capture, tmp_path: Path) -> None:
    assert cli.main(["data", "check", "usps", "--data-root", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert f"usps: not found below {tmp_path}: usps.bz2, usps.t.bz2" in out
    assert f"to get USPS: dynconv data check usps --data-root {tmp_path} --download" in out
    assert "no known data set lies below" in fails(capsys, "data", "check", "--data-root", str(tmp_path))
    assert "--data-root, or set DYNCONV_DATA" in fails(capsys, "data", "check", "usps")


def test_the_hint_at_subsets_stands_where_images_are_fewer(capsys: Capture, tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "mnist_m" / f"mnist_m_{split}"
        folder.mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (32, 32), (index, 0, split == "test")).save(folder / f"{index}.png")
        rows = "".join(f"{index}.png {index}\n" for index in range(10))
        (tmp_path / "mnist_m" / f"mnist_m_{split}_labels.txt").write_text(rows)
    root = ["--data-root", str(tmp_path)]
    assert cli.main(["data", "check", "mnist_m", *root]) == 2
    captured = capsys.readouterr()
    assert "mnist_m, train: expected 59,001 images, found 10" in captured.out
    assert "fewer images than published are allowed by --subset" in captured.err
    assert "mnist_m, test: 10 of 9,001 images: a subset" in prints(capsys, "check", "mnist_m", "--subset", *root)


def _colours(path: Path, red: int, blue: int) -> np.ndarray:
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    found: np.ndarray = np.argwhere((np.abs(picture - (red + 4, 104, blue + 4)) < 12).all(axis=2))
    return found


def test_sample_draws_classes_below_each_other_and_domains_beside_each_other(
    capsys: Capture, own: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "samples.png"
    names = [f"day={own / 'day'}", f"night={own / 'night'}"]
    assert prints(capsys, "sample", *names, "--out", str(out), "--per-class", "3") == str(out)
    cat_day, dog_day = _colours(out, 40, 40), _colours(out, 200, 40)
    cat_night = _colours(out, 40, 200)
    assert cat_day[:, 0].max() < dog_day[:, 0].min()
    assert cat_day[:, 1].max() < cat_night[:, 1].min()
    assert len(cat_day) == pytest.approx(len(cat_night), rel=0.05)
    one = tmp_path / "one.png"
    prints(capsys, "sample", names[0], "--out", str(one), "--per-class", "1", "--most-classes", "1")
    assert len(_colours(one, 40, 40)) == pytest.approx(len(cat_day) / 3, rel=0.1)
    assert len(_colours(one, 200, 40)) == 0


def test_sample_draws_the_same_images_for_the_same_seed(capsys: Capture, tmp_path: Path) -> None:
    pictures = []
    for seed in ("0", "0", "1"):
        out = tmp_path / "x.png"
        prints(capsys, "sample", "embedded:optical", "--out", str(out), "--per-class", "2", "--seed", seed)
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_sample_refuses_what_cannot_be_drawn(capsys: Capture, own: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "x.png")
    day = f"day={own / 'day'}"
    assert "other classes than day" in fails(capsys, "data", "sample", day, "embedded:optical", "--out", out)
    assert "a protocol is drawn alone" in fails(capsys, "data", "sample", "embedded:optical-plain", day, "--out", out)
    assert "--per-class must be at least 1, got 0" in fails(
        capsys, "data", "sample", day, "--out", out, "--per-class", "0"
    )
    assert "is a folder" in fails(capsys, "data", "sample", day, "--out", str(tmp_path))
    for name in ("x.foo", "x"):
        # Before anything is looked for.
        message = fails(capsys, "data", "sample", f"day={tmp_path / 'absent'}", "--out", str(tmp_path / name))
        assert f"{name}: expected a suffix of " in message and "png" in message
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "x.png", Path("/proc/none/x.png")):
        assert f"--out {place} cannot be written: " in fails(capsys, "data", "sample", day, "--out", str(place))
    assert not (tmp_path / "x.png").exists()


def test_sample_shows_no_more_columns_than_the_largest_class_fills(capsys: Capture, own: Path, tmp_path: Path) -> None:
    pictures = []
    for count in ("4", "100000000"):
        out = tmp_path / "x.png"
        prints(capsys, "sample", f"day={own / 'day'}", "--out", str(out), "--per-class", count)
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]


def test_sample_of_a_protocol_draws_what_training_sees(data_root: Path, capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    prints(capsys, "sample", "office31:webcam-dslr@pda", "--data-root", str(data_root), "--out", str(out))
    with Image.open(out) as picture:
        assert picture.height > picture.width
