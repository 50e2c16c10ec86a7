from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from dynconv.nn import DynamicConv2d, to_dynamic

torchvision = pytest.importorskip("torchvision", reason="the conversion of torchvision's ResNets")
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet  # noqa: E402  # after the skip


def resnet(block: type[nn.Module], seed: int = 0) -> ResNet:
    """A narrow float64 ResNet with one block a stage, in eval mode and with norms that do something."""
    torch.manual_seed(seed)
    width = {"width_per_group": 8} if block is Bottleneck else {}
    model = ResNet(block, [1, 1, 1, 1], num_classes=5, **width).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def images(batch: int = 2, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 5, padding=2)]
    return nn.Sequential(*layers).double()


def dynamic_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)]


# torchvision's ResNets.


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"residual": "combined", "scale_activation": "hard"}], ids=str)
@pytest.mark.parametrize("block", [Bottleneck, BasicBlock])
def test_a_converted_resnet_computes_what_it_computed_before(block: type[nn.Module], options: dict) -> None:
    model = resnet(block)
    expected = model(images())
    assert to_dynamic(model, **options) is model
    torch.testing.assert_close(model(images()), expected, rtol=1e-12, atol=1e-12)


def test_the_3x3_of_each_bottleneck_is_converted_and_both_of_each_basic_block() -> None:
    stages = [f"layer{i}.0" for i in (1, 2, 3, 4)]
    assert dynamic_names(to_dynamic(resnet(Bottleneck))) == [f"{stage}.conv2" for stage in stages]
    both = [f"{stage}.{conv}" for stage in stages for conv in ("conv1", "conv2")]
    assert dynamic_names(to_dynamic(resnet(BasicBlock))) == both


def test_resnet101_gets_33_dynamic_layers_whose_branches_read_the_blocks_input() -> None:
    with torch.device("meta"):
        model = to_dynamic(torchvision.models.resnet101())
    layers = [module for module in model.modules() if isinstance(module, DynamicConv2d)]
    assert len(layers) == 33
    # The first block reads the stem's 64 channels, each later one four times its own width.
    assert [layer.context_channels for layer in layers[:5]] == [64, 256, 256, 256, 512]
    assert layers[-1].branch.w1.shape == (2048 // 16, 2048)


@torch.no_grad()
@pytest.mark.parametrize("block", [Bottleneck, BasicBlock])
def test_the_branch_of_conv2_reads_the_blocks_input(block: type[nn.Module]) -> None:
    model = to_dynamic(resnet(block), start="random")
    for stage in ("layer1", "layer2"):
        inner = model.get_submodule(f"{stage}.0")
        seen: dict[str, Tensor] = {}
        inner.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(block=args[0]))
        inner.conv2.branch.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(branch=args[0]))
        model(images())
        assert seen["branch"] is seen["block"]


@torch.no_grad()
def test_a_random_start_changes_the_output() -> None:
    model = resnet(Bottleneck)
    expected = model(images())
    assert (to_dynamic(model, start="random")(images()) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_only_blocks_whose_conv2_was_converted_hand_it_a_context() -> None:
    model = resnet(Bottleneck)
    expected = model(images())
    to_dynamic(model, ["layer1.0.conv1", "layer2.0.conv2"])
    assert [type(model.get_submodule(f"layer{i}.0")) is Bottleneck for i in (1, 2, 3)] == [True, False, True]
    torch.testing.assert_close(model(images()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [Bottleneck, BasicBlock])
def test_a_second_call_converts_what_the_first_left_of_the_blocks_and_no_stem(block: type[nn.Module]) -> None:
    model = to_dynamic(resnet(block), ["layer1.0.conv2"])
    if block is BasicBlock:
        to_dynamic(model, ["layer[234].0.conv2"])
    to_dynamic(model)
    assert dynamic_names(model) == dynamic_names(to_dynamic(resnet(block)))
    with pytest.raises(ValueError, match="no convolution matched.*conv1"):
        to_dynamic(model)


@torch.no_grad()
def test_a_converted_block_is_its_layers_put_together_by_hand() -> None:
    model = to_dynamic(resnet(Bottleneck), start="random")
    block = model.layer2[0]
    x = torch.randn(2, 256, 8, 8, dtype=torch.float64).relu()
    y = torch.relu(block.bn1(block.conv1(x)))
    y = torch.relu(block.bn2(block.conv2(y, coefficients=block.conv2.branch(x))))
    y = block.bn3(block.conv3(y))
    torch.testing.assert_close(block(x), torch.relu(y + block.downsample(x)))
    assert isinstance(block, Bottleneck)


@torch.no_grad()
@pytest.mark.parametrize("block", [Bottleneck, BasicBlock])
def test_a_static_resnets_state_dict_loads_and_a_dynamic_ones_round_trips(block: type[nn.Module]) -> None:
    static, x = resnet(block, seed=3), images()
    model = to_dynamic(resnet(block))
    model.load_state_dict(static.state_dict())
    torch.testing.assert_close(model(x), static(x), rtol=1e-12, atol=1e-12)
    trained, other = to_dynamic(resnet(block, seed=4), start="random"), to_dynamic(resnet(block))
    other.load_state_dict(trained.state_dict())
    torch.testing.assert_close(other(x), trained(x), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("copier", ["deepcopy", "save"])
def test_a_converted_resnet_can_be_copied_and_saved_whole(copier: str) -> None:
    model = to_dynamic(resnet(Bottleneck), start="random")
    expected = model(images())
    if copier == "deepcopy":
        other = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    for parameter in model.parameters():
        parameter.zero_()
    torch.testing.assert_close(other(images()), expected, rtol=0, atol=0)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(x).pow(2).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_a_converted_block_compiles_as_one_graph_for_all_batch_sizes_and_trains() -> None:
    torch.manual_seed(0)
    block = Bottleneck(8, 4, downsample=nn.Conv2d(8, 16, 1)).double().eval()
    to_dynamic(block, start="random")
    assert dynamic_names(block) == ["conv2"]
    inputs = [torch.randn(batch, 8, 6, 6, dtype=torch.float64) for batch in (3, 2)]
    expected = [gradients(block, x) for x in inputs]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=counter)
    frames = []
    for x, wanted in zip(inputs, expected, strict=True):
        block.zero_grad()
        compiled(x).pow(2).sum().backward()
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(parameter.grad, wanted[name])
        frames.append(counter.frame_count)
    assert frames[0] == frames[1]


def test_a_converted_resnet_trains_under_ddp_and_under_checkpointing() -> None:
    model = to_dynamic(resnet(Bottleneck), start="random")
    expected = gradients(model, images())
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        replica = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
        actual = gradients(replica, images())
    finally:
        torch.distributed.destroy_process_group()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[f"module.{name}"], gradient)
    block, x = model.layer1[0], torch.randn(2, 64, 8, 8, dtype=torch.float64, requires_grad=True)
    (plain,) = torch.autograd.grad(block(x).pow(2).sum(), x)
    checkpointed = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(checkpointed.pow(2).sum(), x)[0], plain)


@torch.no_grad()
def test_a_block_of_another_class_reads_its_convolutions_own_input() -> None:
    class Custom(Bottleneck):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv3(self.conv2(self.conv1(x))).relu()

    model = resnet(Custom)
    expected = model(images())
    to_dynamic(model, ["layer*.conv2"])
    torch.testing.assert_close(model(images()), expected)
    assert model.layer2[0].conv2.context_channels == model.layer2[0].conv2.in_channels
    assert type(model.layer2[0]) is Custom


# Any model.


@torch.no_grad()
def test_elsewhere_every_convolution_larger_than_1x1_is_converted() -> None:
    model, x = small_model(), images()
    expected = model(x)
    assert dynamic_names(to_dynamic(model)) == ["0", "3"]
    torch.testing.assert_close(model(x), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("where", "converted"),
    [
        (lambda name, conv: conv.in_channels == 4, ["2", "3"]),
        (["0", "2"], ["0", "2"]),
        ("[03]", ["0", "3"]),
        (["*"], ["0", "2", "3"]),
    ],
)
def test_where_chooses_by_predicate_or_pattern(where: Any, converted: list[str]) -> None:
    assert dynamic_names(to_dynamic(small_model(), where)) == converted


def test_options_reach_the_layers_and_parameters_mode_and_dtype_are_kept() -> None:
    model = small_model().eval()
    model[0].weight.requires_grad_(False)
    weight, bias = model[0].weight, model[0].bias
    options: dict[str, Any] = {"num_bases": 3, "basis_kernel_size": None, "temperature": 5.0}
    to_dynamic(model, ["0"], residual="combined", scale_activation="hard", **options)
    layer = model[0]
    assert layer.weight is weight and layer.bias is bias and not layer.weight.requires_grad
    assert not layer.training
    assert layer.basis.shape == (3 * 4, 3, 3, 3) and layer.basis.dtype == torch.float64
    assert layer.branch.temperature == 5.0 and layer.branch.scale_activation == "hard"
    assert layer.branch.num_scales == 4
    wide = to_dynamic(nn.Sequential(nn.Conv2d(32, 4, 3)), reduction=2)
    assert wide[0].branch.w1.shape == (16, 32)


@torch.no_grad()
def test_a_subclass_with_a_forward_of_its_own_stays_as_it_is() -> None:
    class PadsItself(nn.Conv2d):  # as timm's Conv2dSame does
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))

    torch.manual_seed(0)
    model = nn.Sequential(PadsItself(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4)).double()
    expected = model(images())
    assert dynamic_names(to_dynamic(model)) == ["1"]
    torch.testing.assert_close(model(images()), expected, rtol=1e-13, atol=1e-13)
    with pytest.raises(ValueError, match="'0' matches no nn.Conv2d"):
        to_dynamic(model, ["0"])


@torch.no_grad()
def test_a_convolution_in_two_places_stays_one_module() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1).double()
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(nn.ReLU(), shared)})
    to_dynamic(model, ["b.1"])
    assert isinstance(model["a"][0], DynamicConv2d)
    assert model["a"][0] is model["b"][1]


def test_weights_shared_between_convolutions_stay_shared() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].weight
    to_dynamic(model)
    assert model[1].weight is model[0].weight
    assert model[1].basis is not model[0].basis


def test_a_convolution_shared_between_different_contexts_is_refused() -> None:
    model = resnet(Bottleneck)
    model.layer2[0].conv2 = model.layer1[0].conv2
    with pytest.raises(ValueError, match=r"layer1.0.conv2: shared between places whose contexts differ"):
        to_dynamic(model)


@pytest.mark.parametrize(
    ("model", "where", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), None, "no convolution matched.*has no plain nn.Conv2d"),
        (nn.Sequential(nn.Conv2d(2, 2, 1)), None, "plain nn.Conv2d are: 0. Kernels of 1x1 are taken only where named"),
        (nn.Sequential(nn.Conv2d(2, 2, 4)), None, "nor even ones .basis_kernel_size=None converts those"),
        (nn.Sequential(nn.Conv2d(2, 2, 3)), lambda name, conv: False, "no convolution matched"),
        (nn.Sequential(nn.Conv2d(2, 2, 3)), [], "no convolution matched"),
        (nn.Sequential(nn.Conv2d(2, 2, 3)), ["0", "conv9"], "'conv9' matches no nn.Conv2d"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()), ["1"], "'1' matches no nn.Conv2d. '1' is a ReLU. The model's"),
        (nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 3))), "0", "'0' is a Sequential; '0.[*]' matches what is in it"),
        (nn.Sequential(DynamicConv2d(2, 2, 3)), None, "no convolution matched.*1 convolution is dynamic already"),
        (nn.Conv2d(2, 2, 3), None, "use DynamicConv2d.from_conv2d"),
    ],
)
def test_a_request_that_converts_nothing_is_refused(model: nn.Module, where: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_dynamic(model, where)


def test_a_converted_resnet_tells_what_was_converted_and_what_its_default_leaves() -> None:
    with pytest.raises(ValueError, match="8 convolutions are dynamic already. Of torchvision's ResNets only the 3x3"):
        to_dynamic(to_dynamic(resnet(BasicBlock)))


@pytest.mark.parametrize("where", [0, [0], nn.Conv2d, nn.Conv2d(2, 2, 3), [nn.Conv2d(2, 2, 3)]], ids=str)
def test_a_where_that_is_neither_names_nor_a_function_is_refused(where: Any) -> None:
    with pytest.raises(TypeError, match=r"where must be a function \(name, conv\).*plain nn.Conv2d are: 0, 2, 3"):
        to_dynamic(small_model(), where)


@pytest.mark.parametrize(
    ("model", "given"),
    [(torchvision.models.resnet18, "function resnet18"), (nn.Sequential, "type Sequential"), ({}, "dict")],
)
def test_a_model_that_is_no_module_is_refused(model: Any, given: str) -> None:
    with pytest.raises(TypeError, match=f"model must be an nn.Module, got {given}.$"):
        to_dynamic(model)


def test_a_static_state_dict_does_not_stand_in_for_a_residual_on_the_meta_device() -> None:
    static = nn.Sequential(nn.Conv2d(3, 4, 3))
    with torch.device("meta"):
        model = to_dynamic(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(RuntimeError, match='Missing key.*"0.basis"'):
        model.load_state_dict(static.state_dict(), assign=True)
    model.load_state_dict(to_dynamic(static).state_dict(), assign=True)
    assert not any(value.is_meta for value in model.state_dict().values())


def test_a_model_stays_as_it_was_where_one_convolution_does_not_fit() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 4)))
    with pytest.raises(ValueError, match=r"to_dynamic: 1.0: .*\(4, 4\) is even"):
        to_dynamic(model, ["*"])
    assert not dynamic_names(model)
    with pytest.raises(ValueError, match="scale_activation='hard'"):
        to_dynamic(model, ["0"], residual="channel")
    with pytest.raises(TypeError, match="num_bases must be an int, got True"):
        to_dynamic(model, ["0"], num_bases=True)
    assert not dynamic_names(model)


def test_by_default_even_kernels_stay_static_beside_a_1x1_basis() -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 4, 3, padding=1))

    converted = to_dynamic(model())
    assert type(converted[0]) is nn.Conv2d and isinstance(converted[1], DynamicConv2d)
    assert isinstance(to_dynamic(model(), basis_kernel_size=None)[0], DynamicConv2d)
    with pytest.raises(ValueError, match="even"):
        to_dynamic(model(), where=["0"])
