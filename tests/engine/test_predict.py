"""`dynconv predict` as a user has it."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fails
from PIL import Image

from dynconv import cli
from dynconv.data import ImageFiles, normalise
from dynconv.engine.find_images import find_images
from dynconv.engine.loaded_run import load_run
from dynconv.engine.predict import predictions
from dynconv.methods import Method

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("runs") / "run")
    data = ["--source", f"one={domains / 'one'}", "--target", f"two={domains / 'two'}"]
    words = ["--max-steps", "8", "--batch-size", "12", "--device", "cpu", "--out", out, "--lr", "1e-3"]
    assert cli.main(["train", "source-only", *data, *words]) == 0
    return out


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_table_agrees_with_the_accuracy_of_eval(run: str, domains: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "new" / "table.csv"
    capsys.readouterr()
    assert cli.main(["predict", run, str(domains / "three"), "--out", str(out), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines()[-1] == "60/60 images"
    rows = table(out)
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 60 and len({row["class"] for row in rows}) > 1
    right = sum(row["class"] == row["path"].partition("/")[0] for row in rows)
    words = ["--domain", f"three={domains / 'three'}", "--json", "--device", "cpu"]
    assert cli.main(["eval", run, *words]) == 0
    assert right / 60 == json.loads(capsys.readouterr().out)["test/three/accuracy"]
    assert [file.name for file in out.parent.iterdir()] == ["table.csv"]


def test_confidence_is_the_softmax_of_the_networks_scores(run: str, domains: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    words = ["--out", str(out), "--top", "3", "--batch-size", "7", "--device", "cpu"]
    assert cli.main(["predict", run, str(domains / "three"), *words]) == 0
    rows = table(out)
    loaded = load_run(Path(run), device="cpu")
    pixels = [np.asarray(Image.open(domains / "three" / row["path"])) for row in rows]
    with torch.no_grad():
        scores = loaded.method.predict(normalise(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)))
    values, places = scores.softmax(dim=1).sort(dim=1, descending=True)
    for row, value, place in zip(rows, values, places, strict=True):
        assert ",".join(row) == "path,class,confidence,class_2,confidence_2,class_3,confidence_3,error"
        assert [row[name] for name in ("class", "class_2", "class_3")] == [loaded.classes[p] for p in place]
        found = [float(row[name]) for name in ("confidence", "confidence_2", "confidence_3")]
        assert found == pytest.approx(value.tolist(), rel=1e-4)


@pytest.fixture
def odd(domains: Path, tmp_path: Path) -> Path:
    """Images of all kinds in folders of all kinds."""
    folder = tmp_path / "odd images"
    (folder / "a b" / "größe").mkdir(parents=True)
    image = Image.open(domains / "three" / "class0" / "0.png")
    image.save(folder / "a b" / "größe" / "x y.PNG")
    image.convert("L").save(folder / "grey.png")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("1").save(folder / "bits.png")
    image.resize((301, 7)).save(folder / "wide.jpg")
    image.resize((1, 1)).save(folder / "one pixel.webp")
    shutil.copy(os.fsencode(folder / "alpha.png"), os.fsencode(folder) + b"/\xff.png")
    (folder / ".hidden").mkdir()
    image.save(folder / ".hidden" / "no.png")
    image.save(folder / ".no.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "a b" / "up").symlink_to(folder)
    return folder


READABLE = 8


def test_images_of_all_kinds_have_their_rows(run: str, odd: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert cli.main(["predict", run, str(odd), "--out", str(out), "--device", "cpu"]) == 0
    rows = {row["path"]: row for row in table(out)}
    assert len(rows) == READABLE
    assert all(row["class"] and not row["error"] for row in rows.values())
    assert "a b/größe/x y.PNG" in rows and "\udcff.png" in rows
    same = ("a b/größe/x y.PNG", "alpha.png", "\udcff.png")
    assert len({rows[name]["confidence"] for name in same}) == 1


def test_what_is_no_image_by_its_name_is_told(
    run: str, odd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.gif", "a b/b.GIF", "a b/c"):
        (odd / name).write_text("no image")
    assert cli.main(["predict", run, str(odd), "--out", str(tmp_path / "table.csv"), "--device", "cpu"]) == 0
    (told,) = (record.getMessage() for record in caplog.records if "passed over" in record.getMessage())
    assert told.startswith(
        f"predict: passed over what is no image by its name in {odd}: 2 .gif, 1 without a suffix, 1 .txt; "
    )


def test_an_unreadable_image_costs_its_row_alone(run: str, odd: Path, tmp_path: Path, capsys: Capture) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    assert cli.main(["predict", run, str(odd), "--out", str(good), "--device", "cpu"]) == 0
    (odd / "broken.png").write_text("no image")
    (odd / "cut.png").write_bytes((odd / "grey.png").read_bytes()[:100])
    Image.fromarray(np.full((32, 32), 40000, dtype=np.uint16)).save(odd / "deep.png")
    broken = {"broken.png": "no image that Pillow knows", "cut.png": "cannot be read", "deep.png": "8 bits per channel"}
    words = ["--batch-size", "4", "--device", "cpu", "--top", "2"]
    message = fails(capsys, "predict", run, str(odd), "--out", str(bad), *words)
    assert "3 of 11 images could not be read" in message
    rows = {row["path"]: row for row in table(bad)}
    assert len(rows) == READABLE + 3
    for name, why in broken.items():
        assert str(odd / name) in message
        assert why in rows[name]["error"] and "train" not in rows[name]["error"]
        assert {rows[name][column] for column in ("class", "confidence", "class_2", "confidence_2")} == {""}
    for row in table(good):
        assert rows[row["path"]]["class"] == row["class"]
        assert float(rows[row["path"]]["confidence"]) == pytest.approx(float(row["confidence"]), rel=1e-4)


def test_a_list_of_paths_with_and_without_labels(run: str, odd: Path, tmp_path: Path, capsys: Capture) -> None:
    listed = odd / "list.txt"
    lines = ("wide.jpg 3", "", "  a b/größe/x y.PNG", "grey.png", "a b/größe/x y.PNG cat", "wide.jpg")
    listed.write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "table.csv"
    assert cli.main(["predict", run, str(listed), "--out", str(out), "--device", "cpu"]) == 0
    names = ["wide.jpg", "a b/größe/x y.PNG", "grey.png", "a b/größe/x y.PNG", "wide.jpg"]
    assert [row["path"] for row in table(out)] == names
    listed.write_text("wide.jpg\ngone.png 1\n", encoding="utf-8")
    assert "gone.png cannot be read" in fails(capsys, "predict", run, str(listed), "--out", str(out), "--device", "cpu")
    assert [(row["path"], bool(row["class"])) for row in table(out)] == [("wide.jpg", True), ("gone.png", False)]
    assert cli.main(["predict", run, str(odd / "grey.png"), "--out", str(out), "--device", "cpu"]) == 0
    assert [row["path"] for row in table(out)] == ["grey.png"]


def test_standard_output_has_the_table_alone(run: str, odd: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert cli.main(["predict", run, str(odd / "a b"), "--out", "-", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "path,class,confidence,error"
    assert len(lines) == 2 and lines[1].startswith("größe/x y.PNG,class")


def test_what_does_not_fit_is_refused_in_words(run: str, odd: Path, tmp_path: Path, capsys: Capture) -> None:
    out = ["--out", str(tmp_path / "table.csv"), "--device", "cpu"]
    images = str(odd)
    assert "no run folder" in fails(capsys, "predict", images, images, *out)
    assert "does not exist (looked from" in fails(capsys, "predict", run, str(odd / "none"), *out)
    (tmp_path / "empty" / "below").mkdir(parents=True)
    assert "holds no image (.bmp" in fails(capsys, "predict", run, str(tmp_path / "empty"), *out)
    (tmp_path / "empty" / "below" / "a.gif").touch()
    assert fails(capsys, "predict", run, str(tmp_path / "empty"), *out).endswith("a folder below it; it holds 1 .gif")
    (tmp_path / "nothing.txt").write_text("\n")
    assert "lists no image" in fails(capsys, "predict", run, str(tmp_path / "nothing.txt"), *out)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in fails(capsys, "predict", run, str(tmp_path / "bytes"), *out)
    assert "expected 1 to 3, the number of classes, got 4" in fails(capsys, "predict", run, images, *out, "--top", "4")
    assert "--top must be at least 1" in fails(capsys, "predict", run, images, *out, "--top", "0")
    assert "--batch-size must be at least 1" in fails(capsys, "predict", run, images, *out, "--batch-size", "0")
    assert "--out" in fails(capsys, "predict", run, images, "--device", "cpu")
    assert not (tmp_path / "table.csv").exists()
    for place in (str(odd), "/proc/x/table.csv", "/dev/null/x"):
        why = "is a folder" if place == str(odd) else "cannot be written"
        assert why in fails(capsys, "predict", run, images, "--out", place, "--device", "cpu")


def test_a_run_without_that_checkpoint_is_refused_and_one_without_its_end_is_not(
    run: str, domains: Path, tmp_path: Path, capsys: Capture
) -> None:
    loaded = load_run(Path(run), device="cpu")
    out = str(tmp_path / "table.csv")
    words = ["predict", run, str(domains / "three" / "class0"), "--out", out, "--device", "cpu"]
    for file in (loaded.folder.done, loaded.folder.checkpoint("source-val")):
        file.rename(file.with_suffix(".away"))
    try:
        assert cli.main(words) == 0
        assert "source-val.pt" in fails(capsys, *words, "--checkpoint", "source-val")
    finally:
        for file in (loaded.folder.done, loaded.folder.checkpoint("source-val")):
            file.with_suffix(".away").rename(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this platform")
def test_a_pipe_and_a_link_stay_what_they_are(run: str, odd: Path, tmp_path: Path) -> None:
    table_of = tmp_path / "table.csv"
    link, pipe = tmp_path / "link.csv", tmp_path / "pipe"
    link.symlink_to(table_of)
    os.mkfifo(pipe)
    # Open at both ends before the command is: a table of this size waits in the pipe.
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for out in (link, pipe):
            cli.main(["predict", run, str(odd), "--out", str(out), "--device", "cpu"])
        assert link.is_symlink() and pipe.is_fifo()
        assert os.read(end, 2**16) == table_of.read_bytes() != b""
    finally:
        os.close(end)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_table_is_whole_or_the_one_before(
    run: str, domains: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "table.csv"
    out.write_text("before")
    predict = Method.predict

    def broken(self: Method, images: torch.Tensor) -> torch.Tensor:
        # The seventh of the last ten images alone.
        scores = predict(self, images).clone()
        if len(images) == 10:
            scores[6, 1] = float("inf")
        return scores

    monkeypatch.setattr(Method, "predict", broken)
    place, names = find_images(domains / "three")
    words = ["--out", str(out), "--device", "cpu", "--batch-size", "50"]
    message = fails(capsys, "predict", run, str(domains / "three"), *words)
    assert len(names) == 60 and (place / names[56]).is_file()
    assert f"the network's scores of {names[56]} are not finite" in message
    assert out.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_two_batches_at_most_are_read_ahead(run: str, domains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    images_at = ImageFiles.images_at

    def counted(self: ImageFiles, indices: torch.Tensor) -> torch.Tensor:
        read.append(len(indices))
        return images_at(self, indices)

    monkeypatch.setattr(ImageFiles, "images_at", counted)
    loaded = load_run(Path(run), device="cpu")
    rows = predictions(loaded, *find_images(domains / "three"), batch_size=5)
    for expected in (10, 10, 10, 10, 10, 15):
        next(rows)
        assert sum(read) <= expected
    assert len(list(rows)) == 54 and sum(read) == 60


@pytest.mark.parametrize("command", ["predict", "export"])
def test_help_tells_the_options(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"usage: dynconv {command}" in text and "--out" in text and "--checkpoint" in text


@pytest.mark.slow
def test_margins_and_ten_crops_are_those_of_eval(domains: Path, tmp_path: Path, capsys: Capture) -> None:
    run, out, place = str(tmp_path / "run"), tmp_path / "table.csv", tmp_path / "images"
    for label in range(3):
        (place / f"class{label}").mkdir(parents=True)
        for index in range(4):
            source = domains / "three" / f"class{label}" / f"{index}.png"
            Image.open(source).resize((90, 60)).save(place / f"class{label}" / f"{index}.png")
    shutil.copytree(place, tmp_path / "copy")
    # Few images, for each evaluation takes ten crops of all of them.
    data = ["--source", f"one={tmp_path / 'copy'}", "--target", f"two={place}"]
    words = ["--max-steps", "2", "--eval-every", "2", "--batch-size", "4", "--device", "cpu", "--out", run]
    network = ["--backbone", "resnet50", "--weights", "none", "--ten-crop", "--lr", "1e-3"]
    assert cli.main(["train", "source-only", *data, *words, *network]) == 0
    assert cli.main(["predict", run, str(place), "--out", str(out), "--top", "3", "--device", "cpu"]) == 0
    loaded = load_run(Path(run), device="cpu")
    from dynconv.data import load_domain
    from dynconv.engine.loaded_run import dump

    domain = load_domain(f"x={place}", classes=loaded.classes, image_size=224)
    assert domain.test is not None and domain.test.side == 224
    expected = dump(loaded, domain.test).scores.softmax(dim=1)
    for row, values in zip(table(out), expected, strict=True):
        found = {row[f"class{n}"]: row[f"confidence{n}"] for n in ("", "_2", "_3")}
        assert [float(found[name]) for name in loaded.classes] == pytest.approx(values.tolist(), rel=1e-3)
    centre = dataclasses.replace(loaded.config.run, ten_crop=False)
    object.__setattr__(loaded.config, "run", centre)
    other = dump(loaded, domain.test).scores.softmax(dim=1)
    assert not torch.allclose(other, expected, rtol=1e-3)
