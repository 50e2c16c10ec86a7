"""DAN: the loss of its layers, and the kernel weights that follow what was seen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dynconv.data import Batch
from dynconv.losses import GaussianKernels, mk_mmd, optimal_weights, quadruple_terms, term_covariance
from dynconv.methods import DAN, DANConfig
from dynconv.methods.kernel_alignment import KernelMethod


def make(**fields: Any) -> DAN:
    torch.manual_seed(0)
    made = DAN(DANConfig(bottleneck=8, **fields), num_classes=3).double().train()
    made.optimisers()
    return made


def layers_of(made: KernelMethod, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    source, target = made.encode(batch)
    head = made.heads[0]
    return {"features": (source, target), "scores": (head(source), head(target))}


@pytest.mark.parametrize("layers", ["features+scores", "features", "scores"])
@pytest.mark.parametrize("estimator", ["linear", "unbiased"])
def test_the_loss_is_cross_entropy_and_the_weighted_mmd_of_the_layers(
    layers: str, estimator: Any, batch: Batch
) -> None:
    made = make(layers=layers, estimator=estimator, alignment_weight=3.0, num_kernels=5, kernel_factor=2.0)
    (update,) = made.updates(batch)
    assert update.of == ("features", "heads")
    found = layers_of(made, batch)
    kernels = GaussianKernels(5, 2.0, "median")
    each = {name: mk_mmd(*found[name], kernels=kernels, estimator=estimator) for name in layers.split("+")}
    learning = torch.nn.functional.cross_entropy(found["scores"][0], batch.source.labels)
    torch.testing.assert_close(update.loss, learning + 3 * sum(each.values()))
    assert {key for key in update.logs if "mmd" in key} == {f"mmd/{name}" for name in each}
    for name, mmd in each.items():
        torch.testing.assert_close(update.logs[f"mmd/{name}"], mmd.detach())


def test_the_released_code_is_a_choice_of_fields(batch: Batch) -> None:
    released = make(
        estimator="ring", bandwidth="mean", num_kernels=5, kernel_factor=2.0, kernel_weights="equal", layers="features",
        alignment_weight=5.0,
    )  # fmt: skip
    batch.target.images = batch.target.images[:4]
    (update,) = released.updates(batch)
    found = layers_of(released, batch)
    both = torch.cat(found["features"])
    distances = (both[:, None] - both[None]).square().sum(2)
    middle = distances.sum() / (8 * 7)
    kernel = sum(torch.exp(-distances / (middle * 2.0**power)) for power in range(-2, 3))
    mmd = 0.0
    for i in range(4):
        j = (i + 1) % 4
        mmd = mmd + (kernel[i, j] + kernel[4 + i, 4 + j] - kernel[i, 4 + j] - kernel[j, 4 + i]) / 4
    learning = torch.nn.functional.cross_entropy(found["scores"][0], batch.source.labels)
    torch.testing.assert_close(update.loss, learning + mmd)


def test_weights_are_solved_for_from_all_that_was_seen_since_the_last_time(batch: Batch) -> None:
    made = make(num_kernels=5, kernel_factor=4.0, weights_every=2, layers="features")
    made.begin_step(0, 9)
    assert made.kernel_weights.tolist() == [[pytest.approx(0.2)] * 5]
    other = copy.deepcopy(batch)
    other.target.images = other.target.images.flip(0) * 2
    terms = []
    for each in (batch, other):
        terms.append(quadruple_terms(*layers_of(made, each)["features"], kernels=made.config.kernels()))
        list(made.updates(each))
    mmd = torch.stack([part.mean(0) for part in terms]).mean(0)
    covariance = torch.stack([term_covariance(part) for part in terms]).mean(0)
    made.begin_step(1, 9)
    assert made.kernel_weights.std() == 0 and made.batches_seen == 2
    made.begin_step(2, 9)
    wanted = optimal_weights(mmd, covariance)
    assert wanted is not None and wanted.std() > 0.01
    torch.testing.assert_close(made.kernel_weights[0], wanted)
    assert made.batches_seen == 0 and made.mmd_sum.abs().sum() == made.covariance_sum.abs().sum() == 0
    # The next loss is that of the new mixture.
    (update,) = made.updates(batch)
    found = mk_mmd(*layers_of(made, batch)["features"], kernels=made.config.kernels(), weights=wanted)
    torch.testing.assert_close(update.logs["mmd/features"], found.detach())


def test_where_no_estimate_is_positive_the_weights_stay() -> None:
    made = make(num_kernels=3, layers="features", weights_every=1)
    made.kernel_weights.copy_(torch.tensor([[0.5, 0.3, 0.2]]))
    made.mmd_sum.fill_(-1.0)
    made.batches_seen.fill_(1)
    made.begin_step(1, 9)
    torch.testing.assert_close(made.kernel_weights[0], torch.tensor([0.5, 0.3, 0.2]).double())
    assert made.batches_seen == 0


def test_a_restored_method_has_the_weights_and_what_they_come_from(batch: Batch, train: Any) -> None:
    whole = make(num_kernels=5, kernel_factor=4.0, weights_every=2, optimiser="adam", lr_schedule="constant")
    train(whole, [batch] * 3, 3)
    restored = make(num_kernels=5, kernel_factor=4.0, weights_every=2, optimiser="adam", lr_schedule="constant")
    restored.load_state_dict(whole.state_dict())
    for made in (whole, restored):
        made.begin_step(4, 9)
    assert whole.kernel_weights.std() > 0 and torch.equal(whole.kernel_weights, restored.kernel_weights)


@pytest.mark.parametrize("fields", [{"kernel_weights": "equal"}, {"num_kernels": 1}])
def test_without_weights_to_learn_nothing_is_kept(fields: dict[str, Any], batch: Batch) -> None:
    made = make(**fields)
    assert not {"mmd_sum", "covariance_sum", "batches_seen"} & made.state_dict().keys()
    for step in range(3):
        made.begin_step(step, 3)
        list(made.updates(batch))
    assert made.kernel_weights.std(dim=1, correction=0).max() < 1e-12


def test_a_batch_too_small_for_a_quadruple_is_refused(batch: Batch) -> None:
    batch.target.images = batch.target.images[:1]
    with pytest.raises(ValueError, match="at least 2 of each, got 4 and 1; give a larger batch or fewer micro-batches"):
        next(make(kernel_weights="equal").updates(batch))


def test_defaults_are_those_of_the_paper() -> None:
    config = DANConfig()
    assert (config.num_kernels, config.kernel_factor**16, config.bandwidth) == (33, pytest.approx(2**8), "median")
    assert (config.estimator, config.kernel_weights, config.layers) == ("linear", "learned", "features+scores")
    assert (config.alignment_weight, config.ramp, config.normalisation_policy) == (1.0, "none", "joint")
    assert DAN.about.paper == "Long et al., ICML 2015"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alignment_weight": -1.0}, "alignment_weight: expected at least 0, got -1.0"),
        ({"num_kernels": 0}, "num_kernels: expected at least 1, got 0"),
        ({"kernel_factor": 0.0}, "kernel_factor: expected more than 0, got 0.0"),
        ({"num_kernels": 1, "kernel_factor": 2.0}, "kernel_factor: 2.0 contradicts num_kernels 1"),
        ({"weights_every": 0}, "weights_every: expected at least 1, got 0"),
        ({"kernel_weights": "equal", "weights_every": 9}, "weights_every: 9 contradicts kernel_weights 'equal'"),
        ({"num_kernels": 1, "weights_every": 9}, "weights_every: 9 contradicts num_kernels 1"),
        ({"alignment_weight": 0.0, "estimator": "ring"}, "estimator: ring contradicts alignment_weight 0"),
        ({"alignment_weight": 0.0, "layers": "scores"}, "layers: scores contradicts alignment_weight 0"),
        ({"alignment_weight": 0.0, "kernel_weights": "equal"}, "kernel_weights: equal contradicts alignment_weight 0"),
        ({"alignment_weight": 0.0, "weights_every": 9}, "weights_every: 9 contradicts alignment_weight 0"),
        ({"layers": "all"}, "layers: expected one of 'features.scores', 'features', 'scores', got 'all'"),
    ],
)
def test_contradicting_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DANConfig(**fields)
