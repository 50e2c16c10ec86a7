"""Which way of computing a dynamic convolution is fastest on a GPU, estimated from metadata alone.

A roofline: each launch takes the longest of its DRAM traffic, its traffic of weights through the L2 cache and its
arithmetic. **Every constant here is a data sheet's or an assumption, and every cost computed; none was measured.**
Where a choice was timed, `dynconv.kernels.tuning` overrides this one.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from dynconv import backends
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
    is_channels_last: bool
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


# Shares of the matrix rate that a tuned vendor kernel and a Triton implicit GEMM reach.
_VENDOR_EFFICIENCY = 0.75
_TRITON_EFFICIENCY = 0.55
# cuDNN with a group per sample: public reports have it at a third of separate convolutions, in half types.
_GROUPED_EFFICIENCY = 0.25
# From the end of one kernel to the start of the next.
_LAUNCH = 2e-6
# Instructions of the CUDA cores per element of a mixed block and basis: the sum's, and the conversions'.
_MIXING_INSTRUCTIONS = 1.5
# Rows of a tile; those of the form that shares a block of weights, and among how many samples.
_TILE_ROWS, _SHARED_ROWS, _SHARED_SAMPLES = 128, 64, 4
# The smallest tile, which is what a small problem gets.
_SMALL_TILE = 64


def choose_cuda(problem: Problem, *, eager: bool = False) -> str:
    """Where forward and backward together cost least by estimate: an eager strategy, or unless ``eager`` "triton"."""
    shape = describe(problem)
    can_run_triton = not eager and backends.triton_missing(problem.x.device) is None and not _triton_reasons(problem)
    return _choose_backend(shape, can_run_triton)


def choose_forward(problem: Problem) -> str:
    """The Triton variant with the least estimate for the forward."""
    return _choose_variant(describe(problem), False)


def choose_gradient(problem: Problem) -> str:
    """The Triton variant with the least estimate for the input gradient."""
    return _choose_variant(describe(problem), True)


def describe(problem: Problem) -> Shape:
    """The problem's metadata, on its device or, where it is on none that has multiprocessors, on an H200."""
    x, weight, basis = problem.x, problem.weight, problem.basis
    allowed = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]  # missing in torch's stubs
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
        is_channels_last(x),
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
    device: torch.device,
) -> Shape:
    kernel = weight if weight is not None else basis
    if kernel is None:
        raise ValueError("dynamic_conv2d needs weight, basis or both; got neither.")
    rows, columns = (
        (x[2 + i] + 2 * padding[i] - dilation[i] * (kernel[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    is_half = dtype in (torch.bfloat16, torch.float16)
    return Shape(
        batch=x[0],
        inputs=x[1],
        outputs=kernel[0] if weight is not None else kernel[0] // num_bases,
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
        multiprocessors=_multiprocessors(device),
    )


def forward_costs(shape: Shape) -> dict[str, float]:
    """Seconds of each Triton variant's forward, those that cannot run included."""
    return _costs(shape, gradient=False)


def gradient_costs(shape: Shape) -> dict[str, float]:
    """Seconds of each Triton variant's input gradient."""
    return _costs(shape, gradient=True)


def _costs(shape: Shape, gradient: bool) -> dict[str, float]:
    machine, size = _machine(shape), shape.element_size
    pixels = shape.pixels_in if gradient else shape.pixels_out
    source = shape.batch * (shape.pixels_out * shape.outputs if gradient else shape.pixels_in * shape.inputs) * size
    target = shape.batch * (shape.pixels_in * shape.inputs if gradient else shape.pixels_out * shape.outputs) * size
    columns = (shape.inputs if gradient else shape.outputs) // shape.groups
    static = shape.static_elements if shape.has_weight else 0
    basis = shape.basis_elements * shape.num_bases
    # Tiles of pixels: packed across samples, and of one sample each.
    packed = shape.batch * pixels / _TILE_ROWS
    tiles, padding = _tiles(shape.batch, pixels, _TILE_ROWS)
    shared_tiles, shared_padding = _tiles(shape.batch, pixels, _SHARED_ROWS)
    static_product = _product(shape, shape.taps) if shape.has_weight else 0.0
    residual_product = _product(shape, shape.basis_taps)
    idle = min(1.0, _small_tiles(shape, pixels, columns) / machine.multiprocessors)

    def launch(products: float, dram: float, weights: float, mixed: float = 0.0) -> float:
        """``products`` and ``mixed`` (blocks' elements) on the multiprocessors, ``weights`` in elements through L2."""
        arithmetic = products / (_TRITON_EFFICIENCY * getattr(machine, shape.arithmetic))
        arithmetic += mixed * _MIXING_INSTRUCTIONS / (machine.float32 / 2)
        return max(arithmetic / idle, dram / machine.dram, weights * size / machine.l2) + _LAUNCH

    # An in-place pass reads its target as well.
    residual_pass = source + 2 * target
    vendor = max(
        _vendor_product(shape) / (_VENDOR_EFFICIENCY * getattr(machine, shape.arithmetic) * idle),
        (source + target) / machine.dram,
    )
    vendor += _LAUNCH
    if gradient and shape.has_scale:
        # dy*s, which the kernels' own static part forms in registers.
        vendor += 2 * source / machine.dram + _LAUNCH
    kernels = shape.batch * shape.static_elements if shape.has_weight else shape.batch * shape.basis_elements
    written = kernels * size / (machine.l2 if kernels * size < machine.l2_bytes / 2 else machine.dram)
    one_kernel = shape.static_elements if shape.has_weight else shape.basis_elements
    dynamic_product = static_product or residual_product
    costs = {
        "linear": launch(
            static_product + shape.num_bases * residual_product, source + target, packed * (static + basis)
        ),
        "aggregated": launch(
            (static_product + residual_product) * padding, source + target, tiles * (static + basis), tiles * basis
        ),
        "materialised": 2 * written + _LAUNCH + launch(dynamic_product * padding, source + target, tiles * one_kernel),
        "basis-shared": launch(
            dynamic_product * shared_padding,
            source + target,
            shared_tiles / _SHARED_SAMPLES * (static + basis),
            shared_tiles * (static + basis),
        ),
    }
    linear_residual = launch(shape.num_bases * residual_product, residual_pass, packed * basis)
    aggregated_residual = launch(residual_product * padding, residual_pass, tiles * basis, tiles * basis)
    costs |= {"vendor-linear": vendor + linear_residual, "vendor-aggregated": vendor + aggregated_residual}
    if not shape.is_channels_last:
        # The source is copied to channels_last by all; what the vendor wrote is copied back.
        costs = {
            name: cost + _LAUNCH + 2 * (source + name.startswith("vendor") * target) / machine.dram
            for name, cost in costs.items()
        }
    return costs


def parameter_cost(shape: Shape) -> float:
    """Seconds for the gradients of W0, s, Phi and pi, as `dynconv.ops.triton` computes them.

    Where a scale or a full basis needs each sample's product on all taps, W0's comes from it; else it is the vendor's.
    """
    machine = _machine(shape)
    rate = getattr(machine, shape.arithmetic)
    dy = shape.batch * shape.pixels_out * shape.outputs * shape.element_size
    activations = shape.batch * shape.pixels_in * shape.inputs * shape.element_size + dy
    forms_all = shape.has_weight and (shape.has_scale or shape.basis_size == shape.kernel_size)
    taps = shape.taps if forms_all else shape.basis_taps
    # Multiply-adds per sample: each basis twice, W0 once for itself and once for s.
    contraction = shape.basis_elements * 2 * shape.num_bases
    contraction += 2 * shape.static_elements if shape.has_scale else 0
    cost = 0.0
    if taps:
        arithmetic = _product(shape, taps) / (_TRITON_EFFICIENCY * rate)
        arithmetic += shape.batch * contraction / (machine.float32 / 2)
        cost += max(arithmetic, activations / machine.dram) + 2 * _LAUNCH
    if shape.has_weight and not forms_all:
        cost += max(_vendor_product(shape) / (_VENDOR_EFFICIENCY * rate), activations / machine.dram) + _LAUNCH
    return cost


def eager_costs(shape: Shape) -> dict[str, float]:
    """Seconds of each eager strategy's forward; its backward is taken for twice that."""
    machine, size = _machine(shape), shape.element_size
    rate = getattr(machine, shape.arithmetic)
    x = shape.batch * shape.pixels_in * shape.inputs
    y = shape.batch * shape.pixels_out * shape.outputs
    wide = max(4, size)

    def convolution(taps: int, efficiency: float = _VENDOR_EFFICIENCY, weights: int = 0) -> float:
        flops = _vendor_product(shape) * taps / shape.taps
        return max(flops / (efficiency * rate), (x + y + weights) * size / machine.dram) + _LAUNCH

    def passes(elements: float, width: float, launches: int) -> float:
        return elements * width / machine.dram + launches * _LAUNCH

    static = convolution(shape.taps) if shape.has_weight else 0.0
    if shape.has_scale:
        static += passes(y, 2 * size, 1)
    weights = shape.batch * (shape.static_elements if shape.has_weight else shape.basis_elements)
    mixing = passes(shape.batch * shape.basis_elements, 2 * wide + size, 3)
    static_kernels = passes(weights, 3 * wide + size, 3) if shape.has_weight else 0.0
    is_depthwise = shape.inputs == shape.groups
    # A depthwise convolution stays one with a group per sample and channel, which torch runs at memory speed.
    grouped = convolution(shape.taps, _VENDOR_EFFICIENCY if is_depthwise else _GROUPED_EFFICIENCY, weights)
    if shape.is_channels_last:
        # Samples become channels: a copy of x and one of y.
        grouped += passes(x + y, 2 * size, 2)
    costs = {
        "aggregate": mixing + static_kernels + grouped,
        "loop": mixing + static_kernels + shape.batch * (5 * _LAUNCH) + convolution(shape.taps, weights=weights),
        "linear": static + shape.num_bases * (convolution(shape.basis_taps) + passes(y, size + 2 * wide, 2)),
    }
    if shape.basis_taps <= 1:
        added = passes(x + 2 * y, size, 1) if shape.basis_taps else 0.0
        costs["split"] = static + (mixing if shape.basis_taps else 0.0) + added
    return costs


@functools.lru_cache(maxsize=4096)
def _choose_backend(shape: Shape, can_run_triton: bool) -> str:
    costs = {name: 3 * cost for name, cost in eager_costs(shape).items()}
    if can_run_triton:
        directions = (_possible(shape, gradient) for gradient in (False, True))
        costs["triton"] = sum(min(direction.values()) for direction in directions) + parameter_cost(shape)
    return min(costs, key=costs.__getitem__)


@functools.lru_cache(maxsize=4096)
def _choose_variant(shape: Shape, gradient: bool) -> str:
    costs = _possible(shape, gradient)
    return min(costs, key=costs.__getitem__)


def _possible(shape: Shape, gradient: bool) -> dict[str, float]:
    """The costs of the variants that can run the problem."""
    # Imported here: where triton is missing, nothing asks for a variant.
    from dynconv.kernels.variants import variant_reasons

    weight_size = shape.kernel_size if shape.has_weight else None
    parts = (weight_size, shape.basis_size, shape.has_scale, shape.num_bases)
    return {name: cost for name, cost in _costs(shape, gradient).items() if not variant_reasons(name, *parts)}


def _triton_reasons(problem: Problem) -> list[str]:
    from dynconv.kernels import layout

    parts = (problem.x, problem.weight, problem.basis, problem.scale, problem.coefficients)
    return layout.reasons(*parts, problem.groups)


def _machine(shape: Shape) -> Machine:
    machine = Machine()
    return machine if shape.multiprocessors == machine.multiprocessors else machine.scaled(shape.multiprocessors)


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return Machine().multiprocessors
    return torch.cuda.get_device_properties(device).multi_processor_count


def _tiles(batch: int, pixels: int, rows: int) -> tuple[float, float]:
    """Tiles of one sample's pixels each, and how many times the pixels their rows are."""
    rows = rows if pixels > _SMALL_TILE else _SMALL_TILE
    tiles = max(1, -(-pixels // rows))
    return float(batch * tiles), tiles * rows / max(1, pixels)


def _small_tiles(shape: Shape, pixels: int, columns: int) -> float:
    """Programs of the smallest tiles: fewer than multiprocessors leave some of these idle."""
    return max(1.0, shape.batch * pixels / _SMALL_TILE) * -(-columns // _SMALL_TILE) * shape.groups


def _product(shape: Shape, taps: int) -> float:
    """Floating-point operations of a convolution on matrix units, whose blocks hold 16 channels at least."""
    inputs, outputs = (max(16, channels // shape.groups) for channels in (shape.inputs, shape.outputs))
    return 2.0 * shape.batch * shape.pixels_out * inputs * outputs * shape.groups * taps


def _vendor_product(shape: Shape) -> float:
    """Those of torch's convolution, which does not pad a depthwise one."""
    return 2.0 * shape.batch * shape.pixels_out * shape.inputs * shape.outputs / shape.groups * shape.taps
