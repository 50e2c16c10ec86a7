"""Parameters and multiply-adds: one layer by hand, the known totals, and the paper's network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dynconv.models import build
from dynconv.models.calibrator import Calibrator
from dynconv.models.cost import FORMS, costs_of_kinds, count_cost
from dynconv.nn import DynamicConv2d, to_dynamic

META = torch.device("meta")


def layer(**options: Any) -> DynamicConv2d:
    """Reads 4 channels of 9 x 7, gives 6 of 5 x 4 in two groups: W0 has 6 * 2 * 3 * 3 = 108 elements, P = 20."""
    return DynamicConv2d(4, 6, 3, stride=2, padding=1, groups=2, num_bases=3, **options)


IMAGE = torch.zeros(1, 4, 9, 7)


def test_one_layer_by_hand() -> None:
    cost = count_cost(layer(residual="combined", context_channels=64, reduction=8).to(META), *contexts())
    assert cost.static_macs == 20 * 108
    # The branch: 64 -> 8 -> 3 + 6 without biases; three 1x1 bases of 6 * 2 elements.
    assert cost.added_parameters == (8 * 64 + 9 * 8) + 3 * 12
    assert cost.parameters == 108 + 6 + cost.added_parameters
    assert (cost.pooling_macs, cost.branch_macs, cost.aggregation_macs) == (64 * 5 * 5, 8 * 64 + 9 * 8, 36)
    shared = 64 * 25 + 584
    assert cost.coefficient_macs == shared
    assert cost.added_macs("one-kernel") == shared + 36 + 108
    assert cost.added_macs("split") == shared + 36 + 20 * 12 + 20 * 6
    assert cost.added_macs("linear") == shared + 3 * (20 * 12 + 20 * 6) + 20 * 6


def contexts() -> tuple[torch.Tensor, torch.Tensor]:
    return IMAGE.to(META), torch.zeros(1, 64, 5, 5, device=META)


def test_full_bases_and_no_scale_and_no_basis() -> None:
    full = count_cost(layer(basis_kernel_size=None), IMAGE)
    assert (full.aggregation_macs, full.product_macs) == (3 * 108, 20 * 108)
    assert full.kernel_scale_macs == full.output_scale_macs == 0
    channel = count_cost(layer(residual="channel"), IMAGE)
    assert channel.aggregation_macs == channel.product_macs == channel.basis_macs == 0
    assert channel.added_macs("linear") == channel.added_macs("split") == channel.coefficient_macs + 6 * 20


def test_transposed_convolutions_by_hand_and_instance_norms_for_nothing() -> None:
    layers = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), nn.InstanceNorm2d(6, affine=True)
    )
    cost = count_cost(layers, IMAGE)
    # 63 places, and at each of them 4 channels times the 3 of their group times 3 x 3.
    assert cost.static_macs == 63 * 4 * 3 * 9
    assert cost.parameters == 4 * 3 * 9 + 6 + 12


def test_the_calibrator_beside_the_classifier_of_digits() -> None:
    # Section 5.3 of the Calibrator: 3.1 M parameters and 0.18 M more, 5.8 %.
    network = build("dtn", num_classes=10, weights="none")
    classifier = count_cost(nn.Sequential(network.features, network.make_head()), torch.zeros(1, 3, 32, 32))
    calibrator = count_cost(Calibrator(width=8, blocks=9), torch.zeros(1, 3, 32, 32))
    assert (calibrator.parameters, classifier.parameters) == (180_419, 3_133_962)
    assert round(100 * calibrator.parameters / classifier.parameters, 1) == 5.8
    # Per image: 7 x 7 at 32 x 32 in and out, four of 3 x 3 at half and at a quarter of the size, 18 between.
    outer, halves, quarters = 2 * 32**2 * 3 * 8 * 49, 2 * 16**2 * 8 * 16 * 9, 2 * 8**2 * 16 * 32 * 9
    assert calibrator.static_macs == outer + halves + quarters + 18 * 8**2 * 32 * 32 * 9


def test_given_coefficients_cost_no_branch() -> None:
    pi = torch.ones(1, 3)
    cost = count_cost(layer(), IMAGE, None, pi)
    assert cost.coefficient_macs == 0 and cost.aggregation_macs == 36


@pytest.mark.parametrize(
    ("name", "parameters", "macs"), [("resnet50", 25_557_032, 4.09), ("resnet101", 44_549_160, 7.80)]
)
def test_torchvisions_totals_with_their_classifier(name: str, parameters: int, macs: float) -> None:
    rows = costs_of_kinds(name, 1000)
    static = rows[0].cost
    assert static.parameters == parameters
    assert round(static.static_macs / 1e9, 2) == macs
    assert static.added_parameters == static.added_macs("linear") == static.added_macs("one-kernel") == 0


def test_the_papers_network() -> None:
    costs = {row.kind: row.cost for row in costs_of_kinds("resnet101")}
    paper = costs["subspace, K = 4"]
    # What the released network's bases and branches hold.
    assert paper.added_parameters == 11_603_664
    # Of width C: three blocks of 64, four of 128, 23 of 256, three of 512, and C^2 elements in each of four bases.
    assert paper.aggregation_macs == 4 * (3 * 64**2 + 4 * 128**2 + 23 * 256**2 + 3 * 512**2)
    percent = {form: 100 * paper.added_macs(form) / paper.static_macs for form in FORMS}
    assert 0.26 < percent["one-kernel"] < 0.27 and 5.6 < percent["split"] < 5.8 and 21.9 < percent["linear"] < 22.1


@pytest.mark.parametrize("name", ["lenet-m3sda", "resnet-small"])
def test_each_kind_counts_as_much_as_its_network_built(name: str) -> None:
    for _, dynamic, cost in costs_of_kinds(name):
        with META:
            network = build(name, num_classes=2, dynamic=dynamic, weights="none")
            images = torch.empty(1, 3, network.image_size, network.image_size)
        assert count_cost(network.features, images) == cost


def test_the_size_is_the_callers_only_where_the_network_has_none() -> None:
    small, large = (costs_of_kinds("erfnet-encoder", 19, size)[0].cost for size in ((64, 128), None))
    assert large.static_macs == 64 * small.static_macs and large.parameters == small.parameters
    with pytest.raises(ValueError, match=r"image_size: dtn takes images of 32 x 32, got \(64, 128\)"):
        costs_of_kinds("dtn", image_size=(64, 128))


def test_a_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 3)).eval())
    modes = [module.training for module in model.modules()]
    to_dynamic(model)
    count_cost(model, torch.zeros(1, 3, 8, 8))
    modes_now = [module.training for name, module in model.named_modules() if not name.endswith("branch")]
    assert modes_now == modes
    assert model[1].num_batches_tracked == 0
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("inputs", "got"), [((), "no tensor"), ((torch.zeros(2, 3, 8, 8),), r"\(2, 3, 8, 8\)")])
def test_a_batch_of_one_is_wanted(inputs: tuple[torch.Tensor, ...], got: str) -> None:
    with pytest.raises(ValueError, match=f"batch of one.*{got}"):
        count_cost(nn.Conv2d(3, 4, 3), *inputs)
