"""The benchmark of the loader on a few images, and what its rows rest on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmark_rows import QUICK, measured
from PIL import Image

from dynconv.bench import bench_loader as bench
from dynconv.data import ImageFiles
from dynconv.data.stored import StoredImages

TINY = [*QUICK, "--quick", "--images", "4", "--batch", "2", "--models", "lenet-small", "--workers", "0"]


@pytest.mark.usefixtures("quick_rates")
def test_every_row_is_complete(tmp_path: Path) -> None:
    rows = measured(bench.main, tmp_path, *TINY)
    assert [(row["mode"], row["provider"]) for row in rows] == [
        *((bench.BATCHES, f"{cache}, 1 threads") for cache in ("memory", "disk", "none")),
        (bench.BATCHES, "DataLoader, 0 workers"),
        (bench.DEVICE, "none, 1 threads, prefetch 0"),
        (bench.DEVICE, "none, 1 threads, prefetch 2"),
        (bench.STEP, "lenet-small"),
    ]
    for row in rows:
        assert (row["op"], row["status"]) == ("loader", "ok"), row["note"]
        assert all(float(row[name]) > 0 for name in ("p50_ms", "images_per_s"))
        assert row["batch"] == ("4" if row["mode"] == bench.STEP else "12")
    assert {row["error"] for row in rows[:3]} == {"0"}


@pytest.mark.usefixtures("quick_rates")
def test_a_cache_that_gives_other_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_stored = StoredImages.read

    def inverted(self: StoredImages, index: int, out: bench.np.ndarray) -> None:
        read_stored(self, index, out)
        out ^= 1

    monkeypatch.setattr(StoredImages, "read", inverted)
    rows = measured(bench.main, tmp_path, *TINY, "--caches", "disk", "none", code=1)
    assert [row["status"] for row in rows] == ["refused", *["ok"] * 5]
    assert "a batch is off the oracle" in rows[0]["note"]


def test_the_images_are_as_large_as_photographs(tmp_path: Path) -> None:
    source, target = bench.write_images(tmp_path, 3)
    files = [*source.rglob("*.jpg"), *target.rglob("*.jpg")]
    assert len(files) == 6 and len({file.read_bytes() for file in files}) == 6
    for file in files:
        assert 70_000 < file.stat().st_size < 160_000
        with Image.open(file) as picture:
            assert picture.size == (500, 375)


def test_a_stretch_reads_each_batch_anew_and_ends_with_nothing_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = bench.write_images(tmp_path, 5)
    protocol = bench.load_protocol(
        None, source=[f"s={source}"], target=f"t={target}", image_size=224, cache="none", threads=1
    )
    decoded: list[int] = []
    images_at = ImageFiles.images_at

    def counting(self: ImageFiles, indices: torch.Tensor) -> torch.Tensor:
        decoded.append(indices.numel())
        return images_at(self, indices)

    monkeypatch.setattr(ImageFiles, "images_at", counting)
    own = bench.Stretch(protocol, bench.Options(batch=2, quick=True), torch.device("cpu"))
    first = own()
    assert first.shape == (4, 3, 224, 224)
    assert own.images == sum(decoded) == 12
    assert torch.equal(own(), first)
    assert own.images * 2 == sum(decoded)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--caches", "auto"], "--caches: unknown auto"),
        (["--models", "vgg16"], "--models: unknown vgg16"),
        (["--decoders", "0"], "--decoders: expected at least 1, got 0"),
        (["--images", "3"], "--images: expected at least 4, got 3"),
        (["--batch", "0"], "--batch: expected at least 1, got 0"),
        (["--workers", "-1"], "--workers: expected at least 0, got -1"),
    ],
)
def test_wrong_use_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--device", "cpu", *words]) == 2
    assert message in capsys.readouterr().err
