"""`dynconv data` of driving scenes: check, list, sample, and the bound by class frequencies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import fails
from PIL import Image
from publishers_scenes import write_camvid, write_cityscapes, write_gta5, write_synthia

from dynconv import cli
from dynconv.data.scenes.frequencies import ClassFrequencies, read_frequencies
from dynconv.data.scenes.label_maps import CITYSCAPES_16, CITYSCAPES_19

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DYNCONV_DATA", raising=False)
    monkeypatch.setenv("DYNCONV_CACHE", str(tmp_path / "cache"))
    write_gta5(tmp_path / "gta5", 3)
    write_synthia(tmp_path / "synthia", 3)
    write_cityscapes(tmp_path / "cityscapes", 3)
    write_camvid(tmp_path / "own", 3)
    return tmp_path


def prints(capsys: Capture, *args: object) -> str:
    capsys.readouterr()
    assert cli.main(["data", *map(str, args)]) == 0
    return " ".join(capsys.readouterr().out.split())


def bound(capsys: Capture, *args: object) -> dict[str, object]:
    return json.loads(prints(capsys, "bound", *args, "--json"))


def test_the_bound_of_two_sets_is_that_of_their_manifests(root: Path, capsys: Capture) -> None:
    at = ("--data-root", root)
    found = bound(capsys, "gta5", "cityscapes", *at, "--manifests", root / "m")
    assert list(found["iou-of"]) == list(CITYSCAPES_19) and found["images"] == {"source": 3, "target": 3}
    source, target = (read_frequencies(root / "m" / f"{name}.json") for name in ("gta5", "cityscapes"))
    shared = sum(
        min(have / sum(source.pixels), want / sum(target.pixels))
        for have, want in zip(source.pixels, target.pixels, strict=True)
    )
    assert found["pixel-accuracy"] == pytest.approx(shared) and 0 < shared < 1
    # The target's test images count, and its training images as a source's.
    assert bound(capsys, "cityscapes", "gta5", *at)["mean-iou"] != found["mean-iou"]
    assert bound(capsys, root / "m" / "gta5.json", root / "m" / "cityscapes.json") == found
    told = prints(capsys, "bound", "gta5", "cityscapes", *at)
    assert "GAM prints" in told and f"pixel accuracy {100 * shared:.1f} 82" in told
    assert "GAM prints" not in prints(capsys, "bound", "gta5", "cityscapes", "--classes", "16", *at)


def test_the_classes_of_the_bound_are_trainings_or_chosen(root: Path, capsys: Capture) -> None:
    at = ("--data-root", root)
    assert list(bound(capsys, "synthia", "cityscapes", *at)["iou-of"]) == list(CITYSCAPES_16)
    assert len(bound(capsys, "synthia", "cityscapes", "--classes", "13", *at)["iou-of"]) == 13
    own = f"mine={root / 'own'}"
    assert "choose with --classes (22, 19, 16, 13, 11)" in fails(capsys, "data", "bound", own, "gta5", *map(str, at))
    assert bound(capsys, own, own.replace("mine", "other"))["iou-of"].keys() >= {"sky", "signsymbol"}
    manifest = root / "m.json"
    ClassFrequencies("m", ("road", "sky"), (1, 1), 0, 1).write(manifest)
    told = fails(capsys, "data", "bound", str(manifest), "gta5", "--classes", "13", *map(str, at))
    assert "m: no pixels are counted of sidewalk" in told
    assert "--classes: expected one of 22, 19, 16, 13, 11, got '14'" in fails(
        capsys, "data", "bound", "gta5", "cityscapes", "--classes", "14"
    )
    assert "SOURCE: expected one of gta5, synthia, " in fails(capsys, "data", "bound", "usps", "gta5")
    told = fails(capsys, "data", "bound", "gta5", "gta5", "--manifests", str(root), *map(str, at))
    assert "--manifests: both would be" in told


def test_scenes_are_sampled_alone_or_as_a_protocol(root: Path, capsys: Capture) -> None:
    out, at = root / "scenes.png", ("--data-root", root, "--per-class", "2")
    assert str(out) in prints(capsys, "sample", "gta5+synthia-cityscapes@16", "--out", out, *at)
    tall = Image.open(out).size[1]
    assert str(out) in prints(capsys, "sample", f"mine={root / 'own'}", "--out", out, *at)
    assert Image.open(out).size[1] < tall
    told = fails(capsys, "data", "sample", "gta5", "embedded:plain", "--out", str(out), *map(str, at))
    assert "gta5 and embedded:plain: driving scenes and images of one class are drawn in two pictures" in told
    told = fails(capsys, "data", "sample", "gta5-cityscapes", "synthia", "--out", str(out), *map(str, at))
    assert "a protocol is drawn alone: give 'gta5-cityscapes'" in told


def test_scenes_are_checked_and_listed(root: Path, capsys: Capture) -> None:
    assert "nothing is wrong with mine" in prints(capsys, "check", f"mine={root / 'own'}")
    (root / "own" / "trainannot" / "1.png").unlink()
    assert cli.main(["data", "check", f"mine={root / 'own'}"]) == 2
    assert "trainannot/1.png of the image" in capsys.readouterr().out
    told = prints(capsys, "list", "synthia-cityscapes", "--data-root", root)
    assert "synthia SYNTHIA-RAND-CITYSCAPES present" in told and "9,400 (no published test split)" in told
    assert "class settings: 16 (the default), 22, 19, 13" in told and "synthia-cityscapes@13" in told
