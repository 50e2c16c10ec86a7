"""The ``dynconv`` operator namespace. Schemas are defined in Python, so that they exist without a native build."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

LIBRARY = torch.library.Library("dynconv", "DEF")


def no_double_backward(name: str, function: str) -> None:
    """Give the backward operator ``dynconv::name`` of ``function`` an autograd that says, in words, that it ends there.

    Without one, torch only warns and returns a gradient that is silently wrong.
    """

    def backward(ctx: object, *grads: object) -> None:
        raise RuntimeError(
            f"{function} has no double backward: its gradient was differentiated again (create_graph=True). "
            f'dynconv.functional.{function}(..., backend="reference") is differentiable any number of times.'
        )

    torch.library.register_autograd(f"dynconv::{name}", backward, lib=LIBRARY)


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether nothing but autograd is to see what is computed with these tensors: no compiler, no mode that watches
    operators (fake tensors), no batching of vmap or of autograd, no subclass of Tensor, no tensor without data. A
    profiler then sees the autograd.Function and the operators that it calls.

    Then an operator written in Python may be left out, and its autograd.Function called: each of the dispatcher's four
    ways between Python and C++ takes 10 us or more, where torch's own convolution of a small image takes 10.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and all(t is None or _is_plain(t) for t in tensors)
    )


def _is_plain(tensor: Tensor) -> bool:
    # Autograd batches gradients (is_grads_batched) in tensors of the old vmap, whose type is Tensor's own.
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not tensor.is_meta
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


def refuse_forward_mode(function: str, *tensors: Tensor | None) -> None:
    """RuntimeError where a tensor carries a tangent: the operators have none, and torch would take it for zero."""
    if forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise RuntimeError(
            f"{function} has no forward-mode derivative (jvp). "
            f'dynconv.functional.{function}(..., backend="reference") has one.'
        )
