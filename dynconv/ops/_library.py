"""The ``dynconv`` operator namespace. Schemas are defined in Python, so that they exist without a native build."""

import torch

LIBRARY = torch.library.Library("dynconv", "DEF")


def no_double_backward(name: str) -> None:
    """Give the backward operator ``dynconv::name`` an autograd that says, in words, that it ends there.

    Without one, torch only warns and returns a gradient that is silently wrong.
    """

    def backward(ctx: object, *grads: object) -> None:
        raise RuntimeError(
            f"dynconv.{name.removesuffix('_backward')} has no double backward: its gradient was differentiated again "
            '(create_graph=True). Use backend="reference", which is differentiable any number of times.'
        )

    torch.library.register_autograd(f"dynconv::{name}", backward, lib=LIBRARY)
