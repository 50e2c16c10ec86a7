"""What the cost model of a GPU looks at: the rates of the machine, and the metadata of a problem."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

from dynconv.ops.problem import Pair, Problem, is_channels_last


class Machine(NamedTuple):
    """Rates of a GPU, in units per second; the default is an H200."""

    multiprocessors: int = 132
    # Bytes. The L2 cache: 590 to 1510 MB of re-read weights were estimated at 107 to 275 us.
    dram: float = 4.3e12
    l2: float = 5.5e12
    l2_bytes: float = 50e6
    # Floating-point operations of matrix units, and of the CUDA cores.
    half: float = 790e12
    tf32: float = 395e12
    float32: float = 67e12

    def scaled(self, multiprocessors: int) -> Machine:
        """A GPU of the same kind with another number of multiprocessors."""
        share = multiprocessors / self.multiprocessors
        return Machine(multiprocessors, *(rate * share for rate in self[1:]))


class Shape(NamedTuple):
    """All that the model looks at."""

    batch: int
    inputs: int
    outputs: int
    pixels_in: int
    pixels_out: int
    kernel_size: Pair
    basis_size: Pair | None
    num_bases: int
    groups: int
    element_size: int
    # "half", "tf32" or "float32", the attribute of `Machine` that holds its matrix rate.
    arithmetic: str
    has_weight: bool
    has_scale: bool
    # x, and y, which is so where x or the static kernel is.
    is_channels_last: bool
    gives_channels_last: bool
    # Elements of W0 and the basis that each call lays out anew, channels innermost.
    relaid: int
    # Whether the kernels load element by element: `dynconv.kernels.layout.kind`.
    is_ragged: bool
    multiprocessors: int

    @property
    def taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def basis_taps(self) -> int:
        """0 where there is no basis."""
        return 0 if self.basis_size is None else self.basis_size[0] * self.basis_size[1]

    @property
    def static_elements(self) -> int:
        return self.outputs * (self.inputs // self.groups) * self.taps

    @property
    def basis_elements(self) -> int:
        """Of one basis."""
        return self.outputs * (self.inputs // self.groups) * self.basis_taps


def describe(problem: Problem) -> Shape:
    """The problem's metadata, on its device or, where it is on none that has multiprocessors, on an H200."""
    x, weight, basis = problem.x, problem.weight, problem.basis
    allowed = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]  # missing in torch's stubs
    channels_last = is_channels_last(x)
    # What `dynconv.kernels.layout.kind` looks at in a tensor that is read in place; an allocation itself is aligned.
    offsets = (x.storage_offset() * x.element_size(), x.stride(0), x.stride(2), x.stride(3))
    # The properties of the problem cost 20 us; looked up by these, they cost them once per shape.
    return _shape(
        x.shape,
        None if weight is None else weight.shape,
        None if basis is None else basis.shape,
        0 if problem.coefficients is None else problem.coefficients.shape[1],
        *problem.geometry(),
        x.dtype,
        allowed and x.dtype == torch.float32,
        problem.scale is not None,
        channels_last,
        channels_last or is_channels_last(problem.static),
        weight is None or weight.is_contiguous(memory_format=torch.channels_last),
        basis is None or basis.is_contiguous(memory_format=torch.channels_last),
        x.stride(1) == 1 and any(offset % 16 for offset in offsets),
        x.device,
    )


@functools.lru_cache(maxsize=4096)
def _shape(
    x: torch.Size,
    weight: torch.Size | None,
    basis: torch.Size | None,
    num_bases: int,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    dtype: torch.dtype,
    is_tf32: bool,
    has_scale: bool,
    channels_last: bool,
    gives_channels_last: bool,
    weight_is_dense: bool,
    basis_is_dense: bool,
    is_view_ragged: bool,
    device: torch.device,
) -> Shape:
    kernel = weight if weight is not None else basis
    if kernel is None:
        raise ValueError("dynamic_conv2d needs weight, basis or both; got neither.")
    rows, columns = (
        (x[2 + i] + 2 * padding[i] - dilation[i] * (kernel[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    is_half = dtype in (torch.bfloat16, torch.float16)
    outputs = kernel[0] if weight is not None else kernel[0] // num_bases
    copied = [size for size, is_dense in ((weight, weight_is_dense), (basis, basis_is_dense)) if size and not is_dense]
    return Shape(
        batch=x[0],
        inputs=x[1],
        outputs=outputs,
        pixels_in=x[2] * x[3],
        pixels_out=rows * columns,
        kernel_size=(kernel[2], kernel[3]),
        basis_size=None if basis is None else (basis[2], basis[3]),
        num_bases=num_bases,
        groups=groups,
        element_size=dtype.itemsize,
        arithmetic="half" if is_half else "tf32" if is_tf32 else "float32",
        has_weight=weight is not None,
        has_scale=has_scale,
        is_channels_last=channels_last,
        gives_channels_last=gives_channels_last,
        relaid=sum(math.prod(size) for size in copied),
        is_ragged=is_view_ragged or any(channels // groups % 16 for channels in (x[1], outputs)),
        multiprocessors=_multiprocessors(device),
    )


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return Machine().multiprocessors
    return torch.cuda.get_device_properties(device).multi_processor_count
