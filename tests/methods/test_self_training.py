"""Self-training: which images are selected, as what, when, and what is learned of them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.methods import SelfTraining, SelfTrainingConfig, SourceOnly, SourceOnlyConfig
from dynconv.models import network
from dynconv.models.lenet import Stage

CLASSES = 3


def make(**fields: object) -> SelfTraining:
    torch.manual_seed(0)
    return SelfTraining(SelfTrainingConfig(**fields), CLASSES).double()


def scores(count: int = 90) -> Tensor:
    """Sure and unsure predictions, most of them of class 0."""
    found = 3 * torch.randn(count, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found[:, 0] += 1
    return found


def naive_probabilities(row: Tensor) -> list[float]:
    exponentials = [math.exp(value) for value in row.tolist()]
    return [value / sum(exponentials) for value in exponentials]


def after(method: SelfTraining, steps: int) -> SelfTraining:
    method.begin_step(steps - 1, 10_000)
    return method


def naive_selection(rows: Tensor, share: float | None, confidence: float = 0.8) -> dict[int, int]:
    """Place to class, by loops: above `confidence`, or the surest `share` of each class."""
    sure = [(max(p), p.index(max(p)), place) for place, p in enumerate(map(naive_probabilities, rows))]
    if share is None:
        return {place: label for probability, label, place in sure if probability > confidence}
    chosen = {}
    for index in range(CLASSES):
        members = sorted((-probability, place) for probability, label, place in sure if label == index)
        chosen |= {place: index for _, place in members[: math.ceil(share * len(members))]}
    return dict(sorted(chosen.items()))


@pytest.mark.parametrize("fields", [{}, {"confidence": 0.95}, {"selection": "class-balanced"}])
def test_the_selection_is_the_naive_one(fields: dict) -> None:
    rows = scores()
    share = 0.2 if "selection" in fields else None
    wanted = naive_selection(rows, share, fields.get("confidence", 0.8))
    found = after(make(**fields), 500).refresh(rows)
    assert found.changed and found.selection is not None and found.message is not None
    assert found.selection.indices.tolist() == list(wanted)
    assert found.selection.labels.tolist() == list(wanted.values())
    assert found.selection.probabilities is None
    counts = [list(wanted.values()).count(index) for index in range(CLASSES)]
    assert min(counts) > 0 and 0 < len(wanted) < len(rows)
    assert found.logs == {
        "selected/images": len(wanted),
        "selected/share": len(wanted) / len(rows),
        "selected/classes": CLASSES,
        "selected/smallest-class": min(counts),
        "selected/largest-class": max(counts),
    }
    assert f"{len(wanted)} of 90 target images, {min(counts)} to {max(counts)} in each of 3" in found.message


def test_the_share_of_each_class_grows_to_its_limit() -> None:
    method = make(selection="class-balanced", class_share=0.3, class_share_growth=0.2, class_share_limit=0.6,
                  selection_every=100, warmup_steps=100)  # fmt: skip
    rows = scores()
    for step, share in ((100, 0.3), (200, 0.5), (300, 0.6), (400, 0.6)):
        found = after(method, step).refresh(rows).selection
        assert found is not None and found.indices.tolist() == list(naive_selection(rows, share))


def test_soft_labels_are_the_probabilities_of_the_selected() -> None:
    rows = scores()
    found = after(make(pseudo_labels="soft"), 500).refresh(rows).selection
    assert found is not None and found.probabilities is not None
    wanted = torch.tensor([naive_probabilities(rows[place]) for place in found.indices.tolist()])
    torch.testing.assert_close(found.probabilities, wanted)


def test_the_first_selection_comes_after_the_warm_up_and_is_the_only_one_unless_repeated() -> None:
    once, again = make(warmup_steps=200), make(warmup_steps=200, selection_every=100)
    assert (once.refresh_interval(7), again.refresh_interval(7)) == (200, 100)
    assert once.notice == "pseudo labels: the first selection comes after step 200"
    assert not once.refresh_due() and not after(again, 100).refresh_due()
    for method in (once, again):
        assert after(method, 200).refresh_due() and method.refresh(scores()).changed
    assert not after(once, 400).refresh_due() and after(again, 400).refresh_due()
    # What was selected once is not selected again by a run that goes on.
    resumed = make(warmup_steps=200)
    resumed.load_state_dict(once.state_dict())
    assert not after(resumed, 600).refresh_due()


def test_a_run_that_ends_before_the_first_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps 500: the run has 500 steps, so nothing is ever selected; give"):
        make().check_run(max_steps=500, micro_batch=8)
    make().check_run(max_steps=501, micro_batch=8)


def test_where_nobody_is_sure_the_sources_are_all() -> None:
    found = after(make(), 500).refresh(torch.zeros(8, CLASSES))
    assert found.changed and found.selection is None
    assert found.logs["selected/images"] == 0
    assert found.message is not None and found.message.endswith("training goes on with the sources alone")
    assert after(make(), 500).refresh(torch.zeros(0, CLASSES)).selection is None


def selected(batch: Batch, soft: bool) -> Batch:
    probabilities = torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(2))
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    batch.target.pseudo_labels = torch.tensor([2, 0, 1, 1, 2, 0])
    batch.target.pseudo_probabilities = probabilities if soft else None
    return batch


@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_and_its_gradient_are_the_naive_ones(soft: bool, batch: Batch) -> None:
    batch = selected(batch, soft)
    method = make(pseudo_weight=0.7, normalisation_policy="separate").train()
    (update,) = method.updates(batch)
    head = method.heads[0]
    gradient, *_ = torch.autograd.grad(update.loss, [head.weight], retain_graph=True)

    other = make(pseudo_weight=0.7, normalisation_policy="separate").train()
    source, target = other.encode(batch)
    sums = [torch.zeros((), dtype=torch.float64) for _ in range(2)]
    for row, label in zip(other.heads[0](source), batch.source.labels.tolist(), strict=True):
        sums[0] = sums[0] - (row[label] - row.exp().sum().log()) / len(source)
    labels = torch.eye(CLASSES, dtype=torch.float64)[batch.target.pseudo_labels]
    weights = batch.target.pseudo_probabilities.double() if soft else labels
    for row, weight in zip(other.heads[0](target), weights, strict=True):
        for index in range(CLASSES):
            sums[1] = sums[1] - weight[index] * (row[index] - row.exp().sum().log()) / len(target)
    torch.testing.assert_close(update.loss, sums[0] + 0.7 * sums[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(update.logs["pseudo_cross_entropy"], sums[1].detach(), rtol=1e-9, atol=1e-9)
    wanted, *_ = torch.autograd.grad(sums[0] + 0.7 * sums[1], [other.heads[0].weight])
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-9)


def test_before_the_selection_it_is_source_only(batch: Batch) -> None:
    torch.manual_seed(0)
    plain = SourceOnly(SourceOnlyConfig(), CLASSES).double().train()
    method = make(normalisation_policy="source-only").train()
    ours, wanted = (next(each.updates(batch)).loss for each in (method, plain))
    assert torch.equal(ours, wanted)
    # Where the target belongs to the statistics, it does from the first step on.
    joint, shifted = make().train(), make().train()
    next(joint.updates(batch))
    batch.target.images += 1
    next(shifted.updates(batch))
    mean = "features.convolutions.1.running_mean"
    assert not torch.equal(joint.state_dict()[mean], shifted.state_dict()[mean])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence": 1.0}, "confidence: expected 0 to less than 1, got 1.0"),
        ({"warmup_steps": 0}, "warmup_steps: expected at least 1, got 0"),
        ({"pseudo_weight": 0.0}, "pseudo_weight: expected more than 0, got 0.0"),
        ({"warmup_steps": 250, "selection_every": 100}, "warmup_steps: 250 is no multiple of selection_every 100"),
        ({"class_share": 0.3}, "class_share: 0.3 contradicts selection 'confident'"),
        ({"selection": "class-balanced", "confidence": 0.9}, "confidence: 0.9 contradicts selection 'class-balanced'"),
        ({"selection": "class-balanced", "class_share": 1.5}, "class_share: expected at most 1, got 1.5"),
        (
            {"selection": "class-balanced", "class_share": 0.6},
            "class_share_limit: expected at least class_share = 0.6, got 0.5",
        ),
    ],
)
def test_contradictions_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfTrainingConfig(**fields)


def test_it_makes_the_target_surer_than_source_only_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # A LeNet of one convolution: a step takes a few milliseconds.
    monkeypatch.setitem(network._LENETS, "lenet-small", network._Layout((Stage(8, 5, 0, (4, 4, 0)),), (32,)))
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    images = F.interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    target, labels = 0.3 * images + 0.2, torch.from_numpy(data.target)
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(1200, (2, 60, 32), generator=generator)

    def unsureness(self_training: bool) -> float:
        torch.manual_seed(0)
        method = SelfTraining(SelfTrainingConfig(lr=3e-3, warmup_steps=30, selection="class-balanced"), 10)
        drawn = [
            Batch(SourceBatch(images[p], labels[p], 0 * p), TargetBatch(target[q], q))
            for p, q in zip(first, second, strict=True)
        ]
        optimisers = method.optimisers()
        method.train()
        for step, batch in enumerate(drawn):
            if step == 30 and self_training:
                with torch.no_grad():
                    found = method.eval().refresh(method.predict(target[:1200])).selection
                method.train()
                assert found is not None
            if step >= 30 and self_training:
                places = second[step] % len(found.indices)
                chosen = found.indices[places]
                batch.target = TargetBatch(target[chosen], chosen, found.labels[places])
            method.begin_step(step, 60)
            (update,) = method.updates(batch)
            for optimiser in optimisers.values():
                optimiser.zero_grad()
            update.loss.backward()
            for optimiser in optimisers.values():
                optimiser.step()
        with torch.no_grad():
            sure = method.eval().predict(target[1200:]).softmax(dim=1).max(dim=1).values
        return -sure.log().mean().item()

    on, off = unsureness(True), unsureness(False)
    # Seen: 0.50 and 1.95.
    assert on < 0.7 * off
