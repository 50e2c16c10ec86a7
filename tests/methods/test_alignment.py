"""Each method lowers what it calls the distance of the domains: real handwriting, with its alignment and without."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.losses import mean_norm, spectral_penalty
from dynconv.methods import GSDA, MCD, METHODS, Method
from dynconv.methods.adversarial import AdversarialMethod
from dynconv.models import DynamicSpec, Network, network
from dynconv.models.features import Features, WithBottleneck
from dynconv.models.lenet import Stage

TRAIN, STEPS = 1200, 60
# The classes of a target that lacks some of the source's.
SHARED = 5


class Case(NamedTuple):
    """A method, and the measure that its alignment lowers."""

    name: str
    measure: Callable[[Method, Batch], float]
    off: dict[str, Any]
    """What takes its alignment away."""
    on: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    """What it is trained with either way."""


class Digits(NamedTuple):
    """scikit-learn's 8 x 8 digits, brought to 32 x 32 in [-1, 1], and their labels."""

    images: Tensor
    labels: Tensor


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    images = F.interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    return Digits(images, torch.from_numpy(data.target))


class OneLayer(Features):
    """The 8 x 8 digits again, and one hidden layer: a step takes 2 ms, a fifth of what it takes with a convolution."""

    image_size, out_features = 32, 32

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * 8 * 8, 32), nn.BatchNorm1d(32))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).relu()


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hidden layer, or for a dynamic network a LeNet of one convolution."""
    monkeypatch.setitem(network._LENETS, "lenet-small", network._Layout((Stage(8, 5, 0, (4, 4, 0)),), (32,)))
    build = network.build

    def small(name: str, *, num_classes: int, dynamic: DynamicSpec | None, bottleneck: int, **options: Any) -> Network:
        made = build(name, num_classes=num_classes, dynamic=dynamic, bottleneck=bottleneck, **options)
        if dynamic is not None:
            return made
        features = WithBottleneck(OneLayer(), bottleneck) if bottleneck else OneLayer()
        head = functools.partial(nn.Linear, features.out_features, num_classes)
        return made._replace(features=features, make_head=head)

    monkeypatch.setattr("dynconv.methods.base.build", small)


def drawn(digits: Digits, chosen: Tensor, of_target: Tensor) -> Batch:
    """The target's images are white where the source's are black."""
    source = SourceBatch(digits.images[chosen], digits.labels[chosen], torch.zeros_like(chosen))
    return Batch(source, TargetBatch(-digits.images[of_target], of_target))


def batches(digits: Digits, target: Tensor) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    while True:
        chosen = torch.randint(TRAIN, (32,), generator=generator)
        yield drawn(digits, chosen, target[torch.randint(len(target), (32,), generator=generator)])


def train(method: Method, digits: Digits, target: Tensor) -> None:
    """As the engine does it, with the target's scores every ten steps for a method that asks for them."""
    optimisers = method.optimisers()
    for step, batch in zip(range(STEPS), batches(digits, target), strict=False):
        if step % 10 == 0 and method.refresh_interval(10):
            with torch.no_grad():
                method.refresh(method.eval().predict(-digits.images[target]))
        method.train().begin_step(step, STEPS)
        for update in method.updates(batch):
            for optimiser in optimisers.values():
                optimiser.zero_grad()
            update.loss.backward()
            for name in update.of:
                optimisers[name].step()


def told_apart(method: Method, batch: Batch) -> float:
    """By how much the discriminators' loss is below that of tossing coins. They learn as well without an alignment."""
    assert isinstance(method, AdversarialMethod)
    logs = method.alignment(method.encoded(batch), None).logs
    return method.discriminators.num * math.log(2) - float(logs["domain_loss"])


def out_of_step(method: Method, batch: Batch) -> float:
    """How far the gradients of GSDA's levels are from adding up, as a share of their size."""
    assert isinstance(method, GSDA)
    logs = method.alignment(method.encoded(batch), None).logs
    terms = [float(value) for name, value in logs.items() if name.startswith("synchronisation/")]
    return sum(terms) / float(logs["gradient/level-0"])


def disagreement(method: Method, batch: Batch) -> float:
    """How far the two classifiers differ on the target."""
    assert isinstance(method, MCD)
    return float(method.discrepancy(method.encode(batch)[1]))


def dominance(method: Method, batch: Batch) -> float:
    """The squares of the largest singular values."""
    return sum(float(spectral_penalty(features)) for features in method.encode(batch))


def smallness(method: Method, batch: Batch) -> float:
    """One over the smaller mean norm of both domains."""
    return 1 / min(float(mean_norm(features)) for features in method.encode(batch))


def off_radius(method: Method, batch: Batch) -> float:
    """How far the mean norms are from a radius of 8."""
    return max(abs(float(mean_norm(features)) - 8) for features in method.encode(batch))


GAME = {"hidden_features": 64, "bottleneck": 32, "dropout": 0.0, "num_layers": 2, "lr": 1e-3, "ramp": "none"}
NO_GAME = {"adversarial_weight": 0.0}
NO_GAP = {"discrepancy_weight": 0.0}
ALIGNED = {"source_sampling": "uniform", "target_sampling": "all"}
CASES = {
    "dann": Case("dann", told_apart, NO_GAME, fields=GAME),
    "mada": Case("mada", told_apart, NO_GAME, {"adversarial_weight": 3.0}, GAME | {"class_weight": 1.0}),
    "cdan": Case("cdan", told_apart, NO_GAME, fields=GAME),
    "cdan+e": Case("cdan", told_apart, NO_GAME, fields=GAME | {"entropy_conditioning": True}),
    "pada": Case("pada", told_apart, NO_GAME, fields=GAME | {"weights_every": 10}),
    "gsda": Case(
        "gsda", out_of_step, {"synchronisation": False}, {"beta": 10.0}, GAME | ALIGNED | {"num_groups": (3,)}
    ),
    "mcd": Case("mcd", disagreement, NO_GAP),
    "mcd, reversal": Case("mcd", disagreement, NO_GAP, {"reversal_weight": 4.0}, {"form": "reversal"}),
    "drt": Case("drt", disagreement, NO_GAP, {"discrepancy_weight": 4.0, "reversal_weight": 4.0}, {"num_bases": 2}),
    "safn": Case("afn", smallness, {"norm_weight": 0.0}, fields={"width": 32}),
    "hafn": Case("afn", off_radius, {"norm_weight": 0.0}, {"radius": 8.0}, {"width": 32, "form": "hard"}),
    "bsp": Case("bsp", dominance, {"spectral_weight": 0.0}, {"spectral_weight": 1e-3}, GAME),
    "bsp, its game": Case("bsp", told_apart, NO_GAME, fields=GAME | {"game": "dann"}),
}


def measured(case: Case, fields: dict[str, Any], digits: Digits) -> tuple[float, float]:
    """The measure before and after the training, on images that it did not see."""
    torch.manual_seed(0)
    kind = METHODS[case.name]
    given = {"lr": 3e-3, "optimiser": "adam", "lr_schedule": "constant", "normalisation_policy": "joint"}
    method = kind(kind.config_class(**given | case.fields | fields), num_classes=10)
    target = torch.arange(TRAIN)
    if case.name == "pada":
        target = target[digits.labels[:TRAIN] < SHARED]
    held_out = drawn(digits, torch.arange(TRAIN, 1500), torch.arange(1500, 1797))
    found = []
    for trains in (False, True):
        if trains:
            train(method, digits, target)
        with torch.no_grad():
            found.append(case.measure(method.eval(), held_out))
    return found[0], found[1]


@pytest.mark.parametrize("name", CASES)
def test_training_lowers_the_methods_own_measure(name: str, digits: Digits) -> None:
    case = CASES[name]
    before, aligned = measured(case, case.on, digits)
    unaltered, alone = measured(case, case.off, digits)
    assert before == unaltered
    # Seen: from less than nothing (the discriminators are fooled) to 0.6 of the measure without the alignment.
    assert aligned < 0.75 * alone
