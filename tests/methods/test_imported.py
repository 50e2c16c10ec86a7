"""A published network as a method: which of its scores are taken, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_scenes import CLASSES, TinyScenes, draw, use_tiny
from torch import nn

from dynconv.data.scenes.label_maps import CITYSCAPES_19
from dynconv.methods import Imported, ImportedConfig
from dynconv.models.weights import weights_left_out


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of a network that scores void, c, a, b."""
    use_tiny(monkeypatch)
    torch.manual_seed(0)
    scores = nn.Conv2d(6, 4, 1)
    state = TinyScenes().state_dict() | {f"encoder.output_conv.{k}": v for k, v in scores.state_dict().items()}
    torch.save(state, tmp_path / "tiny.pth")
    return str(tmp_path / "tiny.pth")


def make(weights: str, classes: tuple[str, ...] = ("void", "c", "a", "b"), **fields: object) -> Imported:
    return Imported(
        ImportedConfig(backbone="erfnet-encoder", weights=weights, weight_classes=classes, **fields), CLASSES
    ).eval()


def test_the_runs_classes_are_chosen_by_name(weights: str) -> None:
    made = make(weights)
    made.check_classes(("a", "b", "c"))
    state = torch.load(weights, weights_only=True)
    published = TinyScenes().eval()
    published.load_state_dict({name: value for name, value in state.items() if not name.startswith("encoder.")})
    scenes = draw(2, 0, dtype=torch.float32).target.images
    with torch.no_grad():
        low = nn.functional.conv2d(
            published(scenes), state["encoder.output_conv.weight"], state["encoder.output_conv.bias"]
        )
        torch.testing.assert_close(made.heads[0].low(made.features(scenes)), low[:, [2, 3, 1]])
    assert made.notice == "the scores of 3 classes came with the weights; left out: those of void"


def test_it_trains_nothing_and_has_one_step(weights: str) -> None:
    made = make(weights)
    made.check_run(max_steps=1, micro_batch=2)
    with pytest.raises(ValueError, match="max_steps: imported trains nothing and has one step, got 5; give --max-ste"):
        made.check_run(max_steps=5, micro_batch=2)
    assert list(made.updates(draw(2, 0))) == []


def test_numbers_stand_for_published_orders() -> None:
    config = ImportedConfig(weight_classes=("19", "ignore"))
    assert config.file_classes == (*CITYSCAPES_19, "ignore")
    assert ImportedConfig(weight_classes=("7", "a")).file_classes == ("7", "a")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight_classes": ("a", "b", "a", "b")}, "weight_classes: a, b stand there more than once"),
        ({"weight_classes": ("19", "road")}, "weight_classes: road stand there more than once"),
        ({"bottleneck": 8}, "bottleneck: 8 contradicts imported, whose classifier is the file's"),
        ({"normalisation_policy": "adabn"}, "'adabn' normalises target images .* choose one of 'source-only'"),
    ],
)
def test_what_it_has_no_use_for_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImportedConfig(**{"backbone": "lenet-small", **fields})


def test_a_file_and_its_classes_are_asked_for(weights: str) -> None:
    for given, message in (("none", "got 'none'; give the FILE"), ("auto", "got 'auto'; give the FILE")):
        with pytest.raises(ValueError, match=message):
            make(given)
    with pytest.raises(ValueError, match="weight_classes: name the classes of the file in the order of its scores"):
        make(weights, ())


def test_classes_that_do_not_fit_are_named(weights: str) -> None:
    with pytest.raises(ValueError, match=r"3 are named \(c, a, b\), and score.weight in the file, \(4, 6, 1, 1\), sco"):
        make(weights, ("c", "a", "b")).check_classes(("a", "b", "c"))
    message = r"the run's classes b, d are not among them \(not of the run: void, c, B\); call each class"
    with pytest.raises(ValueError, match=message):
        make(weights, ("void", "c", "a", "B")).check_classes(("a", "b", "d"))


def test_from_a_checkpoint_it_is_built_without_the_file(weights: str, tmp_path: Path) -> None:
    with weights_left_out():
        made = make(str(tmp_path / "gone.pth"))
    assert made.notice is None
