"""Operators are left out where nothing but autograd would see them, and only there; the results are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dynconv import backends
from dynconv.functional import coefficients, dynamic_conv2d
from dynconv.ops import _library


class Seen(TorchDispatchMode):
    """Which operators of dynconv run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "dynconv":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


class Marked(Tensor):
    """A subclass without behaviour of its own."""


def tensors(requires_grad: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 6, 5), (8, 4, 3, 3), (8,), (3, 8), (16, 4, 1, 1), (3, 2)]
    return [torch.randn(shape, generator=generator).requires_grad_(requires_grad) for shape in shapes]


def convolve(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, basis: Tensor, pi: Tensor) -> Tensor:
    return dynamic_conv2d(x, weight, bias, scale=scale, basis=basis, coefficients=pi, padding=1)


def branch(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    pi, scale = coefficients(x, w1, w2, num_bases=3, num_scales=2)
    assert pi is not None and scale is not None
    return torch.cat([pi, scale], dim=1)


def branch_tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(s, generator=generator).requires_grad_() for s in ((3, 4, 6, 5), (7, 4), (5, 7))]


FUNCTIONS = pytest.mark.parametrize(("function", "given"), [(convolve, tensors), (branch, branch_tensors)])
BACKENDS = [
    "auto",
    "split",
    "aggregate",
    "loop",
    "linear",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(bool(backends.native_missing("cpu")), reason=str(backends.native_missing("cpu"))),
    ),
]
Function, Given = Callable[..., Tensor], Callable[[], list[Tensor]]


def results(function: Function, given: list[Tensor]) -> list[Tensor]:
    y = function(*given)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), given)]


@FUNCTIONS
def test_both_ways_give_the_same_bits(function: Function, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = [], []
    for plain in (True, False):
        for module in ("dynamic_conv2d", "coefficients"):
            monkeypatch.setattr(f"dynconv.ops.{module}.is_plain", lambda *_, plain=plain: asked.append(plain) or plain)
        found.append(results(function, given()))
    # Forward and backward; eager coefficients have no operator.
    assert asked == ([] if function is branch and backends.native_missing("cpu") else [True, True, False, False])
    for ours, theirs in zip(*found, strict=True):
        assert ours.equal(theirs) and ours.stride() == theirs.stride()


def test_a_mode_that_watches_operators_sees_them() -> None:
    with Seen() as seen:
        results(convolve, tensors())
    assert seen.names[0] == "dynamic_conv2d" and "dynamic_conv2d_backward" in seen.names
    with torch.no_grad(), Seen() as seen:
        convolve(*tensors(requires_grad=False))
    assert seen.names[0] == "dynamic_conv2d"
    # One that begins with the backward sees that.
    y = convolve(*tensors())
    with Seen() as seen:
        y.sum().backward()
    assert seen.names[0] == "dynamic_conv2d_backward"


@FUNCTIONS
def test_what_has_no_data_is_described(function: Function, given: Given) -> None:
    expected = function(*given())
    with FakeTensorMode() as mode:
        fake = function(*(mode.from_tensor(t) for t in given()))
    meta = function(*(t.detach().to("meta") for t in given()))
    assert isinstance(fake, FakeTensor) and fake.shape == meta.shape == expected.shape and meta.is_meta


@FUNCTIONS
def test_a_default_device_is_not_taken_for_the_tensors_own(function: Function, given: Given) -> None:
    expected = results(function, given())
    arguments = given()
    with torch.device("meta"):
        found = results(function, arguments)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.equal(theirs)


def test_is_plain_knows_who_watches() -> None:
    plain = torch.ones(2)
    assert _library.is_plain(plain, None, torch.nn.Parameter(plain))
    assert not _library.is_plain(plain, plain.as_subclass(Marked))
    assert not _library.is_plain(plain.to("meta"))
    with Seen():
        assert not _library.is_plain(plain)
    with torch.device("cpu"):
        assert not _library.is_plain(plain)
    found = []
    torch.func.vmap(lambda t: found.append(_library.is_plain(plain)) or t)(plain)
    assert found == [False]


@FUNCTIONS
def test_saved_tensors_are_autograds_own(function: Function, given: Given) -> None:
    """They can be recomputed, are freed after one backward, and must not have changed until then."""
    expected = results(function, given())
    arguments = given()
    y = checkpoint(function, *arguments, use_reentrant=False)
    for ours, theirs in zip(torch.autograd.grad(y.square().sum(), arguments), expected[1:], strict=True):
        assert ours.equal(theirs)
    y = function(*given())
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    arguments = given()
    y = function(*arguments)
    with torch.no_grad():
        arguments[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@FUNCTIONS
def test_gradients_may_be_batched(function: Function, given: Given) -> None:
    arguments = given()
    y = function(*arguments)
    grads = torch.randn((4, *y.shape), generator=torch.Generator().manual_seed(2))
    batched = torch.autograd.grad(y, arguments, grads, retain_graph=True, is_grads_batched=True)
    for index, grad in enumerate(grads):
        for ours, theirs in zip(torch.autograd.grad(y, arguments, grad, retain_graph=True), batched, strict=True):
            torch.testing.assert_close(ours, theirs[index], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_results_and_gradients_may_be_changed_in_place(backend: str, batch: int) -> None:
    """As a convolution's may: by an inplace activation, or, of a call without gradients, by what has some."""
    x, weight, bias, scale, basis, pi = tensors()
    x, scale, pi = (t.detach()[:batch].requires_grad_() for t in (x, scale, pi))
    arguments = [x, weight, bias, scale, basis, pi]

    def run() -> Tensor:
        options = {"scale": scale, "basis": basis, "coefficients": pi}
        return dynamic_conv2d(x, weight, bias, padding=1, backend=backend, **options)

    y = run()
    expected = torch.autograd.grad(y.relu().sum(), arguments)
    found = torch.autograd.grad(run().relu_().sum(), arguments)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.equal(theirs) and not ours._is_view()
        ours.detach_()
    with torch.no_grad():
        y = run()
    y.add_(bias[:, None, None]).sum().backward()
    assert bias.grad is not None and bias.grad.eq(batch * 30).all()
