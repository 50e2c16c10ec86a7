"""The examples run, and do what they print."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTED = ("condconv", "own_model", "segmentation", "timm_models")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples.{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_and_in_the_readme() -> None:
    assert tuple(sorted(path.stem for path in EXAMPLES.glob("*.py"))) == TESTED
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}.py`" in readme for name in TESTED)


def test_a_model_of_ones_own_learns(capsys: pytest.CaptureFixture[str]) -> None:
    losses = example("own_model").main()
    assert losses[-1] < 0.2 * losses[0]
    assert "per image 4 coefficients, which sum to 1.0, and 16 scales" in capsys.readouterr().out


def test_timms_models_start_as_they_were_and_train(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    assert max(example("timm_models").main(size=32)) < 1e-5
    text = capsys.readouterr().out
    # MobileNetV3 small: the stem and 11 blocks; EfficientNet-B0: the stem and 16.
    assert "mobilenetv3_small_100: 12 dynamic convolutions, 11 of them depthwise" in text
    assert "efficientnet_b0: 17 dynamic convolutions, 16 of them depthwise" in text


def test_a_segmentation_network_starts_as_it_was_and_trains(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    assert example("segmentation").main(size=32) < 1e-4
    text = capsys.readouterr().out
    # 16 Bottlenecks; three dilated 3x3 of the pyramid, the one after it, and none of the 1x1.
    assert "20 dynamic convolutions, 11 of them dilated, 4 in the head" in text
    assert "loss 1." in text


def test_the_twin_of_timms_condconv_gives_its_scores_and_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    scores, gradients = example("condconv").main(size=64)
    assert scores < 1e-5
    assert gradients < 1e-4
    # Three convolutions in each of the last eight blocks.
    assert "24 CondConv2d replaced" in capsys.readouterr().out
