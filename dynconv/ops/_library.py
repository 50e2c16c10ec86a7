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


def refuse_forward_mode(function: str, *tensors: Tensor | None) -> None:
    """RuntimeError where a tensor carries a tangent: the operators have none, and torch would take it for zero."""
    if forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise RuntimeError(
            f"{function} has no forward-mode derivative (jvp). "
            f'dynconv.functional.{function}(..., backend="reference") has one.'
        )
