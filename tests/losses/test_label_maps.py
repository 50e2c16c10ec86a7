"""Losses of label maps against sums over their pixels, written out, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dynconv.data.scenes import label_maps
from dynconv.losses import class_balance, classifier_discrepancy, conditional_entropy, cross_entropy
from dynconv.losses.cross_entropy import IGNORE
from dynconv.losses.rows import as_rows, by_pieces
from dynconv.metrics.segmentation import IGNORE as IGNORED_BY_METRICS

CLASSES = 3
PLACES = [(image, row, column) for image in range(2) for row in range(4) for column in range(5)]


def maps(seed: int) -> Tensor:
    return 3 * torch.randn(2, CLASSES, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def labels() -> Tensor:
    found = torch.randint(0, CLASSES, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    found[0, :3] = IGNORE
    found[1, 0, 2] = IGNORE
    return found


def probabilities(scores: list[float]) -> list[float]:
    total = sum(map(math.exp, scores))
    return [math.exp(score) / total for score in scores]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_cross_entropy_is_the_mean_over_the_pixels_that_have_a_class(
    smoothing: float, order: torch.memory_format, labels: Tensor
) -> None:
    scores = maps(0).contiguous(memory_format=order)
    losses = []
    for image, row, column in PLACES:
        if (label := int(labels[image, row, column])) == IGNORE:
            continue
        of_pixel = probabilities(scores[image, :, row, column].tolist())
        shares = [1 - smoothing if name == label else smoothing / (CLASSES - 1) for name in range(CLASSES)]
        losses.append(-sum(share * math.log(p) for share, p in zip(shares, of_pixel, strict=True)))
    assert len(losses) == 24
    found = cross_entropy(scores, labels, smoothing=smoothing)
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_pixels_without_a_class_have_no_gradient(labels: Tensor) -> None:
    scores = maps(0).requires_grad_()
    cross_entropy(scores, labels, smoothing=0.1).backward()
    assert scores.grad is not None
    touched = scores.grad.abs().sum(dim=1) > 0
    assert torch.equal(touched, labels != IGNORE)


def test_without_a_labelled_pixel_there_is_nothing_to_learn_and_no_nan() -> None:
    scores = maps(0).requires_grad_()
    loss = cross_entropy(scores, torch.full((2, 4, 5), IGNORE))
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None and not scores.grad.any()


def test_of_whole_images_255_is_a_class_like_any_other() -> None:
    scores = torch.randn(2, 345, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = -scores.log_softmax(dim=1)[:, [IGNORE, 3]].diagonal().mean()
    torch.testing.assert_close(cross_entropy(scores, torch.tensor([IGNORE, 3])), wanted)


def test_label_maps_of_another_size_are_refused(labels: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"expected \(B, C, H, W\) and \(B, H, W\), got \(2, 3, 4, 5\) and \(2, 4, 4\)"
    ):
        cross_entropy(maps(0), labels[:, :, :4])


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_discrepancy_is_the_mean_over_all_pixels_and_classes(distance: str) -> None:
    first, second = maps(0), maps(1)
    total = 0.0
    for image, row, column in PLACES:
        p, q = (probabilities(scores[image, :, row, column].tolist()) for scores in (first, second))
        total += sum(abs(a - b) if distance == "l1" else (a - b) ** 2 for a, b in zip(p, q, strict=True))
    found = classifier_discrepancy(first, second, distance=distance)
    assert float(found) == pytest.approx(total / (len(PLACES) * CLASSES), rel=1e-12)


def test_class_balance_and_entropy_take_pixels_for_samples() -> None:
    scores = maps(0)
    of_pixels = [probabilities(scores[image, :, row, column].tolist()) for image, row, column in PLACES]
    means = [sum(p[name] for p in of_pixels) / len(PLACES) for name in range(CLASSES)]
    wanted = -sum(math.log(mean + 1e-6) for mean in means) / CLASSES
    assert float(class_balance(scores)) == pytest.approx(wanted, rel=1e-12)
    entropies = torch.tensor([-sum(p * math.log(p) for p in row) for row in of_pixels], dtype=torch.float64)
    torch.testing.assert_close(conditional_entropy(scores), entropies.view(2, 4, 5))


def test_a_linear_layer_on_rows_is_a_1x1_convolution_on_maps() -> None:
    linear = nn.Linear(CLASSES, 7).double()
    convolution = nn.Conv2d(CLASSES, 7, 1).double()
    with torch.no_grad():
        convolution.weight.copy_(linear.weight[..., None, None])
        convolution.bias.copy_(linear.bias)
    torch.testing.assert_close(linear(as_rows(maps(0))), as_rows(convolution(maps(0))))
    # In channels_last, as networks have their maps, no number is copied.
    ordered = maps(0).contiguous(memory_format=torch.channels_last)
    assert as_rows(ordered).data_ptr() == ordered.data_ptr()
    matrix = maps(0)[:, :, 0, 0]
    assert as_rows(matrix) is matrix
    with pytest.raises(ValueError, match=r"expected a matrix \(B, C\) or maps \(B, C, h, w\), got \(2, 3, 4\)"):
        as_rows(maps(0)[..., 0])


def test_rows_in_pieces_are_all_rows_in_the_memory_of_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(CLASSES, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    rows = torch.randn(23, CLASSES, dtype=torch.float64, requires_grad=True)
    kept: list[int] = []

    def gradients() -> list[Tensor]:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.numel()) or saved, lambda x: x):
            loss = by_pieces(network, rows).pow(2).sum()
        return list(torch.autograd.grad(loss, (rows, *network.parameters())))

    network.eval()
    whole = gradients()
    assert sum(kept) > 23 * 8
    monkeypatch.setattr("dynconv.losses.rows.ROWS_AT_ONCE", 5)
    for found, wanted in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(found, wanted)
    assert sum(kept) <= 23 * (CLASSES + 2)
    with torch.no_grad():
        found = by_pieces(network, rows)
        torch.testing.assert_close(found, network(rows))
    # What dropout drew the first time it draws again: the outputs are linear in the last layer's parameters.
    network.train()
    found = by_pieces(network, rows)
    last = network[-1]
    weight, bias = torch.autograd.grad(found.sum(), (last.weight, last.bias))
    torch.testing.assert_close((weight * last.weight).sum() + (bias * last.bias).sum(), found.sum())


def test_what_is_ignored_has_one_number_everywhere() -> None:
    assert IGNORE == label_maps.IGNORE == IGNORED_BY_METRICS
