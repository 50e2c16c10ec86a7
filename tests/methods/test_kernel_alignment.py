"""DAN, JAN and DRT with MMD bring real handwriting and the same, paler, together; training alone takes it apart. And
what they do with several sources and small batches."""

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
from dynconv.methods import DAN, METHODS, DANConfig, Method
from dynconv.methods.kernel_alignment import mixed_order
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
        ("drt", mmd_of_features, MMD | {"mmd_weight": 0.0}, [MMD]),
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


def in_turns() -> Batch:
    """8 images of two sources in turns, far apart, and 8 of the target between them."""
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn(2, 8, 3, 32, 32, dtype=torch.float64, generator=generator)
    domains = torch.arange(8) % 2
    source += (2 * domains - 1)[:, None, None, None]
    return Batch(SourceBatch(source, torch.arange(8) % 3, domains), TargetBatch(target, torch.arange(8)))


@pytest.mark.parametrize(
    ("name", "fields", "log", "estimator"),
    [
        ("dan", {"layers": "features", "kernel_weights": "equal"}, "mmd/features", "estimator"),
        ("dan", {"layers": "features", "kernel_weights": "equal", "estimator": "ring"}, "mmd/features", "estimator"),
        ("jan", {"layers": "features"}, "jmmd", "estimator"),
        ("drt", MMD, "mmd", "mmd_estimator"),
    ],
)
def test_of_several_sources_the_estimate_is_on_average_that_of_all_pairs(
    name: str, fields: dict[str, Any], log: str, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estimates(steps: int, **more: Any) -> Tensor:
        torch.manual_seed(0)
        method = METHODS[name](METHODS[name].config_class(**{**fields, **more}), num_classes=3).double().train()
        batch = in_turns()
        with torch.no_grad():
            source, target = method.encode(batch)
        found = []
        for step in range(steps):
            # The target's own order is random in a run.
            monkeypatch.setattr(method, "encode", lambda _: (source, target[torch.randperm(8)]))
            method.begin_step(step, steps)
            (update,) = method.updates(batch)
            found.append(update.logs[log])
        return torch.stack(found)

    (wanted,) = estimates(1, **{estimator: "unbiased"})
    found = estimates(200)
    error = found.std() / len(found) ** 0.5
    # Neighbours as they stand are 20 errors away, and less than 0.
    assert abs(found.mean() - wanted) < 3 * error


def test_the_kernel_weights_are_learned_from_the_order_that_the_loss_has() -> None:
    torch.manual_seed(0)
    method = DAN(DANConfig(layers="features"), num_classes=3).double().train()
    batch = in_turns()
    for step in range(2):
        method.begin_step(step, 2)
        (update,) = method.updates(batch)
        torch.testing.assert_close(method.mmd_sum.mean(), update.logs["mmd/features"], rtol=1e-6, atol=0)
        method.mmd_sum.zero_()


def test_the_order_is_that_of_the_batch_where_there_is_one_source() -> None:
    for source in (0, 1):
        assert torch.equal(mixed_order(torch.full((9,), source), 5), torch.arange(9))
    orders = [mixed_order(torch.arange(9) % 2, seed).tolist() for seed in (5, 5, 6)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(9)) != orders[0]


@pytest.mark.parametrize(
    ("name", "fields", "least", "message"),
    [
        ("dan", {}, 4, "kernel_weights 'learned' takes at least 4 images of each domain in a micro-batch, got 3; give"),
        ("dan", {"num_kernels": 1}, 2, "estimator 'linear' takes at least 2 images of each domain"),
        ("dan", {"kernel_weights": "equal", "estimator": "biased"}, 1, None),
        ("jan", {"estimator": "ring"}, 2, "estimator 'ring' takes at least 2 images of each domain"),
        ("drt", MMD | {"mmd_estimator": "unbiased"}, 2, "mmd_estimator 'unbiased' takes at least 2 images"),
        ("drt", {}, 1, None),
    ],
)
def test_a_micro_batch_without_pairs_is_refused_before_the_run(
    name: str, fields: dict[str, Any], least: int, message: str | None
) -> None:
    method = METHODS[name](METHODS[name].config_class(norm="none", **fields), num_classes=3).double().train()
    method.check_run(max_steps=9, micro_batch=least)
    batch = in_turns()
    # So many do.
    small = Batch(
        SourceBatch(batch.source.images[:least], batch.source.labels[:least], batch.source.domains[:least]),
        batch.target.part(slice(least)),
    )
    assert all(update.loss.isfinite() for update in method.updates(small))
    if message is not None:
        with pytest.raises(ValueError, match=message):
            method.check_run(max_steps=9, micro_batch=least - 1)
