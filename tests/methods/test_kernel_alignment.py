"""DAN, JAN and DRT with MMD bring real handwriting and the same, paler, together; training alone takes it apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.losses import GaussianKernels, jmmd, mk_mmd
from dynconv.methods import METHODS, Method
from dynconv.models import network
from dynconv.models.lenet import Stage

TRAIN, STEPS = 1200, 40


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor]:
    """scikit-learn's digits in [-1, 1], the same paler (the target domain), and labels."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    images = F.interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    return images, 0.3 * images + 0.2, torch.from_numpy(data.target)


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A LeNet of one convolution, whose step takes a few milliseconds."""
    layout = network._Layout((Stage(8, 5, 0, (4, 4, 0)),), (32,))
    monkeypatch.setitem(network._LENETS, "lenet-small", layout)


def batches(source: Tensor, target: Tensor, labels: Tensor) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    while True:
        first, second = torch.randint(TRAIN, (2, 24), generator=generator)
        yield Batch(
            SourceBatch(source[first], labels[first], torch.zeros_like(first)), TargetBatch(target[second], second)
        )


def layers(method: Method, images: Tensor) -> list[Tensor]:
    features = method.features(images)
    return [features, method.scores(features).softmax(dim=1)]


def mmd_of_features(method: Method, source: Tensor, target: Tensor) -> float:
    first, second = layers(method, source)[0], layers(method, target)[0]
    return float(mk_mmd(first, second, kernels=GaussianKernels(), estimator="unbiased"))


def jmmd_of_both(method: Method, source: Tensor, target: Tensor) -> float:
    kernels = [GaussianKernels(1, 1.0)] * 2
    return float(jmmd(layers(method, source), layers(method, target), kernels=kernels, estimator="unbiased"))


FULL = {"ramp": "none"}
MMD = {"loss": "mmd", "num_bases": 2}


@pytest.mark.parametrize(
    ("name", "measure", "off", "cases"),
    [
        (
            "dan",
            mmd_of_features,
            {"alignment_weight": 0.0},
            [{"weights_every": 10}, {"estimator": "unbiased", "kernel_weights": "equal"}],
        ),
        ("jan", jmmd_of_both, {"alignment_weight": 0.0}, [FULL, FULL | {"adversarial": True}]),
        ("drt", mmd_of_features, MMD | {"discrepancy_weight": 0.0}, [MMD | {"discrepancy_weight": 1.0}]),
    ],
)
def test_training_brings_the_domains_together(
    name: str,
    measure: Callable[[Method, Tensor, Tensor], float],
    off: dict[str, Any],
    cases: list[dict[str, Any]],
    digits: tuple[Tensor, Tensor, Tensor],
    train: Callable,
) -> None:
    # Images that training did not see, different ones of each domain.
    unseen = digits[0][TRAIN:1500], digits[1][1500:]
    common: dict[str, Any] = {"optimiser": "adam", "lr": 3e-3, "lr_schedule": "constant"}

    def measured(fields: dict[str, Any]) -> tuple[float, float]:
        """Before the training and after it."""
        torch.manual_seed(0)
        method = METHODS[name](METHODS[name].config_class(**common, **fields), num_classes=10)
        with torch.no_grad():
            before = measure(method.eval(), *unseen)
        train(method, batches(*digits), STEPS)
        with torch.no_grad():
            return before, measure(method.eval(), *unseen)

    _, without = measured(off)
    for fields in cases:
        before, after = measured(fields)
        # Seen: a tenth to two fifths of the lesser of the two.
        assert after < 0.5 * min(before, without)
