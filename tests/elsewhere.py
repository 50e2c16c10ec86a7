"""A device that is a label: its tensors are computed on the CPU, and refused where they meet the CPU's, as a GPU's are.

What is made on the wrong device, or read by the host without a copy, is so found on a machine without a GPU. The label
is torch's "lazy", whose backward pass runs in the calling thread and of which nothing else is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("lazy", 0)
# These take tensors of both devices on a GPU, too: copies, and places that are looked up.
MIXING = {"aten::_to_copy", "aten::copy_", "aten::_foreach_copy_", "aten::index", "aten::index_put_"}
MIXING |= {"aten::index_put", "aten::_index_put_impl_"}


class MixedDevices(RuntimeError):  # noqa: N818 - reads as what happened
    """An operation got tensors with dimensions of both devices."""


class Elsewhere(Tensor):
    """A tensor that says it is on `ELSEWHERE`; `inner` holds its values, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=ELSEWHERE,
        )  # fmt: skip
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    # What torch answers past the dispatcher.
    def tolist(self) -> Any:
        return self.inner.tolist()

    def new_tensor(self, values: Any, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(values, dtype=dtype or self.dtype).to(self.device)

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU; its results are elsewhere where it is asked for, or where a tensor it takes is."""
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = [tensor for tensor in given if isinstance(tensor, Elsewhere)]
    here = [tensor for tensor in given if not isinstance(tensor, Elsewhere)]
    # A tensor of one number may be of either device.
    if there and func._schema.name not in MIXING and any(tensor.dim() > 0 for tensor in here):
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (there, here)]
        raise MixedDevices(f"{func}: {shapes[0]} elsewhere, {shapes[1]} on the CPU")
    asked = kwargs.get("device")
    is_there = bool(there) if asked is None else torch.device(asked).type == ELSEWHERE.type
    kwargs = {**kwargs, **({} if asked is None else {"device": torch.device("cpu")})}
    inner_args, inner_kwargs = tree_map(lambda v: v.inner if isinstance(v, Elsewhere) else v, (args, kwargs))
    known = {id(tensor.inner): tensor for tensor in there}

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in known:
            # In place; or, of a copy to the CPU that copied nothing, a copy after all.
            return known[id(value)] if is_there else value.clone()
        return value if any(value is tensor for tensor in here) or not is_there else Elsewhere(value)

    return tree_map(placed, func(*inner_args, **inner_kwargs))


class _Mode(TorchDispatchMode):
    """Makes tensors elsewhere that none of their arguments is."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Generator(torch.Generator):
    """One of the CPU, whatever device is asked for."""

    def __new__(cls, device: object = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")


def _copied(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`make` on the CPU, and then a copy: these functions go past the dispatcher."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        found = make(*args, **kwargs)
        return found if device is None else found.to(device)

    return made


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Within the context tensors and modules can be moved to `ELSEWHERE`."""
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled

    def no_autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return contextlib.nullcontext() if device_type == ELSEWHERE.type else autocast(device_type, *args, **kwargs)

    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("tensor", "as_tensor", "triu_indices"):
                patch.setattr(torch, name, _copied(getattr(torch, name)))
            patch.setattr(torch, "Generator", _Generator)
            patch.setattr(torch, "autocast", no_autocast)
            patch.setattr(torch, "is_autocast_enabled", lambda kind=None: kind != ELSEWHERE.type and is_enabled())
            with _Mode():
                yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
