"""`dynconv data check`: when it hints at --subset, and what it says it could not compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynconv import cli
from dynconv.data.check import DomainCheck
from dynconv.data.findings import Findings
from dynconv.data.image_sets import IMAGE_SETS
from dynconv.report.datasets.check import sound_lines

Capture = pytest.CaptureFixture[str]


def test_the_hint_at_subsets_stands_where_it_helps_alone(capsys: Capture, tmp_path: Path) -> None:
    webcam = tmp_path / "office31" / "webcam" / "images"
    for label in IMAGE_SETS["office31"].classes:
        (webcam / label).mkdir(parents=True)
        Image.fromarray(np.random.default_rng(len(label)).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            webcam / label / "0.png"
        )
    command = ["data", "check", "office31:webcam", "--data-root", str(tmp_path)]

    def told() -> str:
        assert cli.main(command) == 2
        return capsys.readouterr().err

    assert "fewer images than published are allowed by --subset" in told()
    (webcam / "mug" / "1.png").write_bytes(b"")
    assert "--subset" not in told()
    (webcam / "mug" / "1.png").unlink()
    (webcam / "mug" / "0.png").unlink()
    assert "--subset" not in told()


def test_what_could_not_be_compared_and_every_set_to_get_is_named(capsys: Capture, tmp_path: Path) -> None:
    missing = ["digit-five:usps", "digit-five:syn"]
    assert cli.main(["data", "check", *missing, "--data-root", str(tmp_path)]) == 2
    assert "to get USPS in Digit-Five, Synthetic Digits in Digit-Five: the authors" in capsys.readouterr().out
    facts = {"place": tmp_path, "splits": {}, "classes": (), "counts": {}}
    sound = [
        DomainCheck("usps", "USPS", findings=Findings("usps"), **facts),
        DomainCheck("syn", "Synthetic Digits", findings=Findings("syn"), uncompared=True, **facts),
    ]
    first, second = sound_lines(sound)
    assert first == "nothing is wrong with usps, syn"
    assert second.startswith("not compared") and second.endswith("of syn")
    assert sound_lines(sound[:1]) == ["nothing is wrong with usps"]
