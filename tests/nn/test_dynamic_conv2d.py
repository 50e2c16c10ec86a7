from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from dynconv.nn import DynamicConv2d

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": (3, 5), "padding": (0, 2), "dilation": (2, 1)},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 5, "padding": "valid", "stride": (1, 2)},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular", "stride": 2},
    {"kernel_size": 3, "padding": "same", "padding_mode": "replicate"},
    {"kernel_size": 1},
]


def layer(*, seed: int = 0, **options: Any) -> DynamicConv2d:
    """A float64 layer whose branch says something else for each sample."""
    torch.manual_seed(seed)
    module = DynamicConv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3} | options).double()
    nn.init.normal_(module.branch.w1, std=4.0)
    nn.init.normal_(module.branch.w2, std=2.0)
    return module


def images(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def one_static_convolution_per_sample(module: DynamicConv2d, x: Tensor, pi: Tensor | None, s: Tensor | None) -> Tensor:
    """W_b = diag(s_b) W0 + sum_i pi_bi Phi_i, each in a plain nn.Conv2d with the layer's geometry."""
    static = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size,  # type: ignore[arg-type]
        module.stride,  # type: ignore[arg-type]
        module.padding,  # type: ignore[arg-type]
        module.dilation,  # type: ignore[arg-type]
        module.groups,
        module.bias is not None,
        module.padding_mode,
    ).double()
    rows = []
    for b in range(len(x)):
        weight = module.weight.detach().clone()
        if s is not None:
            weight *= s[b].view(-1, 1, 1, 1)
        if pi is not None and module.basis is not None:
            for i in range(module.num_bases):
                phi = module.basis[i * module.out_channels : (i + 1) * module.out_channels]
                if phi.shape[2:] == weight.shape[2:]:
                    weight += pi[b, i] * phi
                else:
                    weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] += pi[b, i] * phi[:, :, 0, 0]
        static.weight.data = weight
        if module.bias is not None and static.bias is not None:
            static.bias.data = module.bias.data
        rows.append(static(x[b : b + 1]))
    return torch.cat(rows)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize(("residual", "basis_kernel_size"), [("subspace", 1), ("subspace", None), ("combined", 1)])
@torch.no_grad()
def test_the_layer_is_one_convolution_per_sample(geometry: dict, residual: str, basis_kernel_size: int | None) -> None:
    module = layer(residual=residual, basis_kernel_size=basis_kernel_size, num_bases=3, **geometry)
    x = images(3, 4, 9, 8)
    pi, s = module.branch(x)
    assert (pi.max(0).values - pi.min(0).values).max() > 0.01
    torch.testing.assert_close(module(x), one_static_convolution_per_sample(module, x, pi, s), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_channel_attention_scales_the_static_convolution_by_one_plus_lambda() -> None:
    module = layer(residual="channel", padding=1)
    x = images(3, 4, 7, 7)
    z = F.relu(x.mean((2, 3)) @ module.branch.w1.T) @ module.branch.w2.T
    expected = (1 + torch.sigmoid(z))[:, :, None, None] * F.conv2d(x, module.weight, None, padding=1)
    torch.testing.assert_close(module(x), expected + module.bias.view(1, -1, 1, 1))
    assert module.basis is None
    assert module.num_bases == 0


@torch.no_grad()
def test_an_even_kernel_works_with_a_basis_of_its_size() -> None:
    module = layer(kernel_size=4, padding="same", basis_kernel_size=None, num_bases=2)
    x = images(2, 4, 7, 6)
    pi, s = module.branch(x)
    torch.testing.assert_close(module(x), one_static_convolution_per_sample(module, x, pi, s))
    assert module(x).shape == (2, 6, 7, 6)


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_and_single_batches_work_in_training(batch: int) -> None:
    module = layer(residual="combined", padding=1)
    y = module(images(batch, 4, 5, 5))
    assert y.shape == (batch, 6, 5, 5)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_every_parameter_gets_the_gradient_of_the_formula() -> None:
    module = layer(residual="combined", num_bases=2, padding=1)
    x = images(2, 4, 5, 5).requires_grad_()
    inputs = (x, *module.parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(dict(module.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(module, named, (x,))

    torch.autograd.gradcheck(run, inputs)


# Initial values.


@pytest.mark.parametrize(("basis_kernel_size", "taps"), [(1, 1), (None, 9)])
def test_from_scratch_each_basis_is_kaiming_normal_by_its_own_fan_out(basis_kernel_size: Any, taps: int) -> None:
    torch.manual_seed(0)
    module = DynamicConv2d(128, 64, 3, num_bases=4, basis_kernel_size=basis_kernel_size)
    assert module.basis is not None
    for phi in module.basis.unflatten(0, (4, 64)):
        assert phi.std().item() == pytest.approx((2 / (64 * taps)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("num_bases", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("options", [{}, {"residual": "combined", "scale_activation": "hard"}], ids=str)
@torch.no_grad()
def test_a_static_start_computes_what_the_static_convolution_does(num_bases: int, options: dict) -> None:
    static = nn.Conv2d(4, 6, 3, padding=1).double()
    module = DynamicConv2d.from_conv2d(static, num_bases=num_bases, **options)
    x = images(3, 4, 7, 7)
    torch.testing.assert_close(module(x), static(x), rtol=1e-13, atol=1e-13)
    if num_bases > 1:
        assert module.basis is not None and module.basis.abs().max() > 0.1
    random = DynamicConv2d.from_conv2d(static, num_bases=num_bases, start="random", **options)
    assert (random(x) - static(x)).abs().max() > 0.01


def test_from_a_static_start_the_bases_grow_apart_and_the_coefficients_learn_to_tell_samples_apart() -> None:
    torch.manual_seed(0)
    module = DynamicConv2d.from_conv2d(nn.Conv2d(4, 6, 3, padding=1).double())
    assert module.basis is not None
    start = module.basis.detach().clone()
    # Two kinds of samples, by the sign of their mean, that need opposite residuals: no static kernel fits both.
    sign = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64).view(-1, 1, 1, 1)
    x = images(8, 4, 6, 6) + sign
    with torch.no_grad():
        target = module(x) + sign * F.conv2d(x, images(6, 4, 1, 1, seed=2))
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = F.mse_loss(module(x), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    phi, before = (basis.detach().unflatten(0, (4, 6)).flatten(1) for basis in (module.basis, start))
    for i in range(4):
        for j in range(i):
            assert (phi[i] - phi[j]).norm() > 0.5 * phi[i].norm()
            # Equal steps would leave the bases the rigid set that they were drawn as; zero bases would stay one basis.
            assert (phi[i] - before[i] - phi[j] + before[j]).norm() > 0.1
    pi, _ = module.branch(x)
    assert (pi[0] - pi[1]).abs().max() > 0.5


@pytest.mark.parametrize("num_bases", [2, 3, 4])
def test_at_a_static_start_every_coefficient_gets_a_gradient_of_its_own(num_bases: int) -> None:
    torch.manual_seed(0)
    module = DynamicConv2d.from_conv2d(nn.Conv2d(4, 6, 3, padding=1).double(), num_bases=num_bases)
    (module(images(3, 4, 5, 5)) ** 2).sum().backward()
    rows = module.branch.w2.grad
    assert rows is not None
    assert all((rows[i] - rows[j]).norm() > 0.1 * rows.norm() for i in range(num_bases) for j in range(i))


@pytest.mark.parametrize("residual", ["channel", "combined"])
def test_a_sigmoid_scale_cannot_start_static_and_the_error_offers_the_hard_one(residual: str) -> None:
    with pytest.raises(ValueError, match=r"1 \+ sigmoid\(0\) = 1.5.*scale_activation='hard'"):
        DynamicConv2d.from_conv2d(nn.Conv2d(4, 6, 3), residual=residual)
    DynamicConv2d.from_conv2d(nn.Conv2d(4, 6, 3), residual=residual, start="random")


def test_reset_parameters_draws_everything_anew() -> None:
    module = DynamicConv2d(4, 6, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.reset_parameters()
    same = [name for name, value in module.state_dict().items() if torch.equal(value, before[name])]
    assert same == ["branch.temperature"]


# From and to static layers.


def test_from_conv2d_takes_over_parameters_geometry_device_dtype_and_mode() -> None:
    static = nn.Conv2d(4, 6, (3, 5), 2, (1, 2), (1, 2), 2, False, "reflect", dtype=torch.float64).eval()
    static.weight.requires_grad_(False)
    module = DynamicConv2d.from_conv2d(static)
    assert module.weight is static.weight
    assert module.bias is None
    assert not module.training
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}
    torch.testing.assert_close(module(images(2, 4, 9, 9)), static(images(2, 4, 9, 9)))


def test_from_conv2d_refuses_what_it_would_break() -> None:
    with pytest.raises(TypeError, match="must be an nn.Conv2d, got DynamicConv2d"):
        DynamicConv2d.from_conv2d(DynamicConv2d(4, 6, 3))
    hooked = nn.Conv2d(4, 6, 3)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="carries hooks"):
        DynamicConv2d.from_conv2d(hooked)
    normalised = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3))
    with pytest.raises(TypeError, match="must be an nn.Conv2d, got ParametrizedConv2d"):
        DynamicConv2d.from_conv2d(normalised)
    with pytest.raises(ValueError, match="start must be one of .*'zero'"):
        DynamicConv2d.from_conv2d(nn.Conv2d(4, 6, 3), start="zero")  # type: ignore[arg-type]


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("residual", ["subspace", "channel", "combined"])
def test_a_static_state_dict_loads_strictly_and_keeps_basis_and_branch(residual: str, assign: bool) -> None:
    static = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 3, bias=False))
    dynamic = nn.Sequential(
        DynamicConv2d(4, 6, 3, residual=residual),  # type: ignore[arg-type]
        nn.BatchNorm2d(6),
        DynamicConv2d(6, 2, 3, bias=False, residual=residual, temperature=3.0),  # type: ignore[arg-type]
    )
    before = {name: value.clone() for name, value in dynamic.state_dict().items()}
    given = static.state_dict()
    names = set(given)
    dynamic.load_state_dict(given, assign=assign)
    assert set(given) == names
    for name, value in dynamic.state_dict().items():
        torch.testing.assert_close(value, given.get(name, before[name]), rtol=0, atol=0)


@pytest.mark.parametrize("missing", ["0.basis", "0.branch.w1", "0.branch.temperature"])
def test_a_dynamic_state_dict_with_a_key_missing_is_refused(missing: str) -> None:
    model = nn.Sequential(DynamicConv2d(4, 6, 3))
    state = model.state_dict()
    del state[missing]
    with pytest.raises(RuntimeError, match=f'Missing key.*"{missing}"'):
        model.load_state_dict(state)


def test_a_state_dict_without_the_layer_reports_all_its_keys() -> None:
    result = nn.Sequential(DynamicConv2d(4, 6, 3)).load_state_dict({}, strict=False)
    assert set(result.missing_keys) >= {"0.weight", "0.bias", "0.basis", "0.branch.w1", "0.branch.w2"}


@pytest.mark.parametrize("copier", ["state_dict", "pickle", "deepcopy", "save"])
@torch.no_grad()
def test_a_dynamic_layer_round_trips(copier: str) -> None:
    module = layer(residual="combined", temperature=7.0, context_channels=3)
    if copier == "state_dict":
        other = layer(seed=5, residual="combined", context_channels=3)
        other.load_state_dict(module.state_dict())
    elif copier == "pickle":
        other = pickle.loads(pickle.dumps(module))
    elif copier == "deepcopy":
        other = copy.deepcopy(module)
    else:
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    x, context = images(2, 4, 5, 5), images(2, 3, 8, 8)
    torch.testing.assert_close(other(x, context), module(x, context), rtol=0, atol=0)
    assert other.weight.data_ptr() != module.weight.data_ptr()


# Context and coefficients.


@torch.no_grad()
def test_the_branch_reads_the_context_where_one_is_given() -> None:
    module = layer(context_channels=3)
    x, context = images(2, 4, 5, 5), images(2, 3, 11, 7)
    assert module.branch.w1.shape[1] == 3
    pi, _ = module.branch(context)
    torch.testing.assert_close(module(x, context), one_static_convolution_per_sample(module, x, pi, None))
    with pytest.raises(ValueError, match=r"context of 3 channels and the input has 4; pass it"):
        module(x)
    with pytest.raises(ValueError, match=r"context must have 3 channels, .*got shape \(2, 5, 3, 3\)"):
        module(x, images(2, 5, 3, 3))
    with pytest.raises(ValueError, match=r"x must have 4 channels, \(B, 4, H, W\); got shape \(2, 3, 11, 7\)"):
        module(context, context)


@torch.no_grad()
def test_coefficients_computed_elsewhere_replace_the_branch() -> None:
    x = images(2, 4, 5, 5)
    pi = torch.softmax(images(2, 4, seed=3), 1)
    s = images(2, 6, seed=4)
    for residual, given in [("subspace", pi), ("subspace", (pi, None)), ("channel", (None, s)), ("combined", (pi, s))]:
        module = layer(residual=residual)
        own = (given, None) if isinstance(given, Tensor) else given
        torch.testing.assert_close(
            module(x, coefficients=given), one_static_convolution_per_sample(module, x, own[0], own[1])
        )


@pytest.mark.parametrize(
    ("residual", "given", "message"),
    [
        ("subspace", (None, None), r"needs coefficients \(pi, s\) with pi \(B, 4\), got None"),
        ("subspace", (torch.ones(2, 4), torch.ones(2, 6)), r"with s None, got \(2, 6\)"),
        ("channel", torch.ones(2, 4), r"with pi None, got \(2, 4\)"),
        ("combined", torch.ones(2, 4), r"with s \(B, 6\), got None"),
    ],
)
def test_coefficients_that_do_not_fit_the_residual_are_refused(residual: Any, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicConv2d(4, 6, 3, residual=residual)(torch.ones(2, 4, 5, 5), coefficients=given)


def test_context_and_coefficients_together_are_refused() -> None:
    x = torch.ones(2, 4, 5, 5)
    with pytest.raises(ValueError, match="give one of them"):
        DynamicConv2d(4, 6, 3)(x, context=x, coefficients=torch.ones(2, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": "spatial"}, "residual must be one of .*'spatial'"),
        ({"num_bases": 0}, "num_bases must be >= 1 .*got 0"),
        ({"basis_kernel_size": 3}, "basis_kernel_size must be 1 or None .*got 3"),
        ({"kernel_size": 4}, r"\(4, 4\) is even.*basis_kernel_size=None"),
        ({"kernel_size": (3, 2)}, r"\(3, 2\) is even.*basis_kernel_size=None"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"scale_activation": "relu"}, "scale_activation must be one of"),
        ({"context_channels": 0}, "in_channels must be >= 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicConv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3} | options)


# Dtypes, layouts, compilation.


@torch.no_grad()
def test_bfloat16_layers_run_and_stay_near_float64() -> None:
    exact = layer(residual="combined", padding=1, temperature=1.3)
    module = copy.deepcopy(exact).to(torch.bfloat16)
    y = module(images(2, 4, 6, 6, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    reference = exact(images(2, 4, 6, 6))
    assert (y.double() - reference).norm() < 0.02 * reference.norm()


def test_autocast_runs_forward_and_backward_in_half_precision() -> None:
    module = layer(residual="combined", padding=1).float()
    x = images(2, 4, 6, 6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    y.float().pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())
    assert (y.detach() - module(x).detach()).norm() < 0.02 * module(x).detach().norm()


@pytest.mark.parametrize("basis_kernel_size", [1, None])
@torch.no_grad()
def test_channels_last_converts_every_kernel_and_comes_back_out(basis_kernel_size: Any) -> None:
    module = layer(padding=1, basis_kernel_size=basis_kernel_size)
    x = images(2, 4, 6, 6)
    expected = module(x)
    module = module.to(memory_format=torch.channels_last)
    assert module.basis is not None and module.basis.is_contiguous(memory_format=torch.channels_last)
    y = module(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("residual", ["subspace", "combined"])
def test_the_layer_compiles_as_one_graph_for_all_batch_sizes(residual: Any) -> None:
    module = layer(residual=residual, padding=1, padding_mode="reflect")
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for batch in (2, 3, 5):
        x = images(batch, 4, 6, 6)
        module.zero_grad()
        expected = module(x)
        expected.pow(2).sum().backward()
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        module.zero_grad()
        y = compiled(x)
        y.pow(2).sum().backward()
        torch.testing.assert_close(y, expected)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name])
    assert counter.frame_count == 1


def test_the_printed_layer_names_its_options() -> None:
    text = repr(DynamicConv2d(4, 6, 3, residual="combined", num_bases=3))
    assert "4, 6, kernel_size=(3, 3)" in text and "residual=combined, num_bases=3, basis_kernel=(1, 1)" in text


def test_one_image_without_a_batch_dimension_is_taken_as_nn_conv2d_takes_it() -> None:
    torch.manual_seed(0)
    layer = DynamicConv2d(3, 4, 3, padding=1, residual="combined", context_channels=5)
    x, context = torch.randn(3, 7, 6), torch.randn(5, 2, 2)
    y = layer(x, context)
    assert y.shape == (4, 7, 6)
    torch.testing.assert_close(y, layer(x[None], context[None])[0])


def test_a_layer_made_on_the_meta_device_is_whole_after_reset_parameters() -> None:
    with torch.device("meta"):
        layer = DynamicConv2d(3, 4, 3, temperature=2.5)
    layer = layer.to_empty(device="cpu")
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert layer.branch.temperature.item() == 2.5
    assert layer(torch.randn(2, 3, 5, 5)).isfinite().all()


@pytest.mark.parametrize("given", [(torch.ones(2, 4),), [torch.ones(2, 4), None], 3.0])
def test_coefficients_that_are_no_pair_are_refused(given: object) -> None:
    layer = DynamicConv2d(3, 4, 3, padding=1)
    with pytest.raises(ValueError, match=r"must be pi or a pair \(pi, s\)"):
        layer(torch.randn(2, 3, 5, 5), coefficients=given)


@pytest.mark.parametrize("name", ["num_bases", "reduction"])
def test_a_count_that_is_no_int_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an int, got 4.0"):
        DynamicConv2d(3, 4, 3, **{name: 4.0})
