"""torch's own checks of an operator (schema, fake, autograd, AOT dispatch) on every operator that dynconv registers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ops.cases import Case, tensors
from ops.discriminator_cases import Case as BankCase
from ops.discriminator_cases import make
from torch import Tensor

import dynconv.functional  # noqa: F401  defines the operators and loads the native ones
from dynconv import backends

OPERATORS = sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("dynconv::"))
GEOMETRY = ([1, 1], [1, 1], [1, 1], 2)
CASE = Case(groups=2, scale=True)


def branch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, w1, w2 and a temperature; 4 bases and 5 scales."""
    generator = torch.Generator().manual_seed(0)
    x, w1, w2 = (torch.randn(shape, generator=generator) for shape in ((3, 10, 7, 5), (6, 10), (9, 6)))
    return x, w1, w2, torch.tensor(0.7)


def convolution(learned: bool = False) -> dict[str, Tensor]:
    # Dense: opcheck copies what an operator mutates by its strides.
    given = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in tensors(CASE).items()}
    return {name: t.float().requires_grad_(learned) for name, t in given.items()}


def bank(learned: bool = False) -> tuple:
    """Features, weights, biases, masks and the active pairs of discriminators; the second layer has no bias."""
    # No void pairs: their rows of what is kept for the backward are never written, and opcheck compares them.
    given = make(BankCase(dropout=True), torch.float32).to(torch.float32)
    empty = torch.empty(0)
    biases = [given.biases[0], empty, given.biases[2]]
    tensors = (given.features, given.weights, biases, given.masks)
    if not learned:
        tensors = tuple(t.detach() if isinstance(t, Tensor) else [item.detach() for item in t] for t in tensors)
    return *tensors, (given.sample_weights != 0).t()


def feature_gradient_norms() -> tuple:
    # A workspace that keeps the first two discriminators' results and computes the others' again.
    return *bank(learned=True), 0.1, "all", True, 8000, "eager"


def feature_gradient_norms_backward() -> tuple:
    given, options = bank(), (0.1, "all", True, 8000, "eager")
    logits, gains, kept = torch.ops.dynconv.feature_gradient_norms(*given, *options)
    needs = (True, [True, False, True], [True, True, False])
    return torch.ones_like(logits), torch.ones_like(gains), gains, kept, *given, *options, *needs


def gradient() -> Tensor:
    return torch.randn(3, 6, 9, 7, generator=torch.Generator().manual_seed(2))


def coefficients_native_forward() -> tuple:
    *weights, temperature = branch()
    return (*(t.requires_grad_() for t in weights), temperature, 4, 0)


def coefficients_native_backward() -> tuple:
    x, w1, w2, temperature = branch()
    saved = torch.ops.dynconv.coefficients_native_forward(x, w1, w2, temperature, 4, 0)
    return None, torch.ones_like(saved[1]), *saved, w1, w2, temperature, 4, 0, 35, torch.bfloat16


def dynamic_conv2d() -> tuple:
    return *convolution(learned=True).values(), *GEOMETRY, "split", True


def dynamic_conv2d_backward() -> tuple:
    return gradient(), gradient(), *convolution().values(), *GEOMETRY, "split", [True, True, False, True, True, True]


def dynamic_conv2d_native_forward() -> tuple:
    return gradient(), *convolution().values(), *GEOMETRY


def dynamic_conv2d_native_backward() -> tuple:
    given = convolution()
    del given["bias"]
    outputs = {name: torch.empty_like(tensor) for name, tensor in given.items()}
    return *outputs.values(), gradient(), *given.values(), *GEOMETRY


ARGUMENTS: dict[str, Callable[[], tuple]] = {
    function.__name__: function
    for function in (
        coefficients_native_forward,
        coefficients_native_backward,
        dynamic_conv2d,
        dynamic_conv2d_backward,
        dynamic_conv2d_native_forward,
        dynamic_conv2d_native_backward,
        feature_gradient_norms,
        feature_gradient_norms_backward,
    )
}


def test_every_operator_has_arguments_here() -> None:
    assert {name.removeprefix("dynconv::") for name in OPERATORS} == ARGUMENTS.keys()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_opcheck(name: str) -> None:
    if "native" in name and backends.native_missing("cpu"):
        pytest.skip(f"no native operators for the CPU: {backends.native_missing('cpu')}")
    torch.library.opcheck(getattr(torch.ops.dynconv, name), ARGUMENTS[name]())
