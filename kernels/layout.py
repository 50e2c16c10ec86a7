"""What the launchers share: which tensors the kernels take, how these must lie in memory, how they are multiplied."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Elements that 32-bit offsets span.
NARROW_REACH = 2**31
# A quarter of that: positions run past a sample's and a weight's end by padding, dilation and one tile.
LIMIT = 2**29
# As it stood when the kernels were decorated, which happens at their import.
INTERPRETED = bool(triton.knobs.runtime.interpret)


def reasons(
    x: Tensor,
    weight: Tensor | None,
    basis: Tensor | None,
    scale: Tensor | None,
    coefficients: Tensor | None,
    groups: int,
) -> list[str]:
    """Why the kernels cannot run these tensors, one sentence each; empty where they can."""
    found = []
    for name, tensor in {"weight": weight, "basis": basis, "scale": scale, "coefficients": coefficients}.items():
        if tensor is not None and tensor.device != x.device:
            found.append(f"{name} is on {tensor.device}, x on {x.device}")
    found += own_reasons("x", x)
    for name, tensor in {"weight": weight, "basis": basis}.items():
        if tensor is None:
            continue
        if tensor.dtype != x.dtype:
            found.append(f"{name} has dtype {tensor.dtype}, x has {x.dtype}")
        if tensor.shape[1] * groups != x.shape[1]:
            found.append(f"{name} has {tensor.shape[1]} channels for each of {groups} groups, x {x.shape[1]} in all")
        if tensor.numel() >= LIMIT:
            found.append(f"{name} has {tensor.numel()} elements; the kernels take fewer than {LIMIT}")
    if x.shape[2] * x.shape[3] >= LIMIT:
        found.append(f"x has {x.shape[2] * x.shape[3]} pixels a sample; the kernels take fewer than {LIMIT}")
    return found


def own_reasons(name: str, tensor: Tensor) -> list[str]:
    """Why the kernels cannot run on a tensor's device or in its dtype; ``name`` is what messages call it."""
    found = []
    if tensor.device.type == "cpu" and not INTERPRETED:
        found.append(
            f"{name} is on the CPU, where Triton runs only with TRITON_INTERPRET=1 set before its first import"
        )
    elif tensor.device.type not in ("cpu", "cuda"):
        found.append(f"{name} is on {tensor.device}; the kernels run on CUDA devices")
    elif tensor.device.type == "cuda" and not INTERPRETED and capability(tensor) < 80:
        found.append(f"{tensor.device} has compute capability {capability(tensor) / 10}; the kernels need 8.0")
    if tensor.dtype == torch.float64:
        found.append("float64 runs on the eager path: the kernels sum in float32")
    elif tensor.dtype not in DTYPES:
        found.append(
            f"{name} has dtype {tensor.dtype}; the kernels take {', '.join(map(str, DTYPES))} and sum in float32"
        )
    return found


def capability(tensor: Tensor) -> int:
    """The device's compute capability times ten, as the tiles see it; 80 for the interpreter, which any tile suits."""
    if tensor.device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(tensor.device)
    # sm_120 has neither wgmma nor tcgen05, and 99 KiB of shared memory: it takes the tiles of sm_80.
    return 80 if major == 12 else 10 * major + minor


def precision(dtype: torch.dtype) -> str:
    """tl.dot's ``input_precision``: "tf32" for float32 where torch allows it."""
    # The switch of torch's own convolutions, so that a dynamic one is as fast and as exact as the static one beside it.
    # The older `allow_tf32` cannot be read once this one was set.
    allowed = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]  # missing in torch's stubs
    return "tf32" if allowed and dtype == torch.float32 else "ieee"


def widen(dtype: torch.dtype) -> bool:
    """Whether tl.dot needs float32 operands: Triton 3.9's interpreter would multiply bfloat16's bit patterns."""
    return INTERPRETED and dtype == torch.bfloat16


def static_kernel(weight: Tensor | None, basis: Tensor | None) -> Tensor:
    """The tensor that sets the kernel's size: W0, or where there is none the basis."""
    if weight is not None:
        return weight
    if basis is None:
        raise ValueError("dynamic_conv2d needs weight, basis or both; got neither.")
    return basis


def size(kernel: Tensor | None) -> tuple[int, int] | None:
    """(height, width) of an optional kernel."""
    return None if kernel is None else (kernel.shape[2], kernel.shape[3])


def channels_innermost(tensor: Tensor) -> Tensor:
    """The tensor itself where neighbouring channels are neighbours in memory, else a channels_last copy.

    The copy is one pass; reading NCHW in place would make every load of the kernel, one per tap and basis, uncoalesced.
    """
    if tensor.shape[1] == 1 or tensor.stride(1) == 1:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def dense(weight: Tensor | None) -> Tensor | None:
    """(Cout, Cin, kh, kw) stored as (Cout, kh, kw, Cin): a block of the reduction is one contiguous read per column."""
    return None if weight is None else weight.contiguous(memory_format=torch.channels_last)


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """A dense copy of an optional tensor, or itself."""
    return None if tensor is None else tensor.contiguous()


def empty_output(size: tuple[int, ...], source: Tensor) -> Tensor:
    """An output, always channels_last: into NCHW each element would be a store of its own, with an address of its own.

    Those addresses spill 48 to 688 bytes a thread; the operator's copy to NCHW is one pass.
    """
    return torch.empty(size, dtype=source.dtype, device=source.device, memory_format=torch.channels_last)


def sample_span(tensor: Tensor) -> int:
    """Elements from the first to the last of one sample, channels innermost, whatever the order of the other axes."""
    return tensor.stride(2) * tensor.shape[2] + tensor.stride(3) * tensor.shape[3] + tensor.shape[1]


def kind(source: Tensor, reduction: int, columns: int) -> str:
    """The `arithmetic` of a convolution over ``source``, in place, with channels per group."""
    strides = (source.stride(axis) for axis in (0, 2, 3))
    return arithmetic(source.dtype, precision(source.dtype), reduction, columns, source.data_ptr(), *strides)


def arithmetic(dtype: torch.dtype, input_precision: str, *numbers: int) -> str:
    """Which tiles suit: by arithmetic, and whether 16 elements at a time can be loaded as one (Triton's own test).

    ``numbers`` are the sizes, strides and addresses that decide it; ``input_precision`` is tl.dot's.
    """
    ragged = any(number % 16 for number in numbers)
    if dtype == torch.float32 and input_precision == "ieee":
        return "ragged float32" if ragged else "float32"
    return "ragged" if ragged else "tf32" if dtype == torch.float32 else "half"
