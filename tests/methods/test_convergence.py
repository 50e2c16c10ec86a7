"""Short trainings on real handwriting: scikit-learn's 8 x 8 digits, brought to 32 x 32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.methods import METHODS

TRAIN = 1200


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Images in [-1, 1], the same paler (the target domain), and labels."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    images = F.interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    return images, 0.3 * images + 0.2, torch.from_numpy(data.target)


def batches(images: Tensor, target: Tensor, labels: Tensor) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    while True:
        first, second = torch.randint(TRAIN, (2, 32), generator=generator)
        source = SourceBatch(images[first], labels[first], torch.zeros_like(first))
        yield Batch(source, TargetBatch(target[second], second))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("source-only", {}),
        ("drt", {"loss": "source-only"}),
        ("mcd", {"form": "reversal", "normalisation_policy": "joint"}),
        ("drt", {"discrepancy_weight": 1.0}),
    ],
)
def test_forty_steps_learn_digits(
    name: str, fields: dict, digits: tuple[Tensor, Tensor, Tensor], train: Callable
) -> None:
    torch.manual_seed(0)
    kind = METHODS[name]
    method = kind(kind.config_class(optimiser="adam", lr=1e-3, lr_schedule="constant", **fields), num_classes=10)
    train(method, batches(*digits), 40)
    method.eval()
    images, _, labels = (part[TRAIN:] for part in digits)
    with torch.no_grad():
        accuracy = (method.predict(images).argmax(dim=1) == labels).double().mean().item()
    # Seen: 0.93 to 0.94; a linear classifier of the same pixels comes to 0.90 in as many steps.
    assert accuracy > 0.9
