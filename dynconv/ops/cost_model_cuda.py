"""Which way of computing a dynamic convolution is fastest on a GPU, estimated from metadata alone.

A roofline: each launch takes the longest of its DRAM traffic, its traffic of weights through the L2 cache and its
arithmetic. **Every constant, here and in `dynconv.ops.cost_shape_cuda`, is a data sheet's or an assumption, and every
cost computed; none was measured.** Where a choice was timed, `dynconv.kernels.tuning` overrides this one.
"""

from __future__ import annotations

import functools

from dynconv import backends
from dynconv.ops.cost_shape_cuda import Machine, Shape, describe
from dynconv.ops.problem import Problem

# Shares of the matrix rate that a tuned vendor kernel and a Triton implicit GEMM reach.
_VENDOR_EFFICIENCY = 0.75
_TRITON_EFFICIENCY = 0.55
# Element-by-element loads: 1,536 of some ten instructions each for a block of 2^16 operations keep a multiprocessor's
# four schedulers for 120 cycles, in which its matrix units do six such blocks; and they wait for the loads.
_RAGGED_EFFICIENCY = 0.1
# Of the CUDA cores' rate: a thread loads an operand from shared memory for every two fused multiply-adds.
_FMA_EFFICIENCY = 0.3
# cuDNN with a group per sample: public reports have it at a third of separate convolutions, in half types.
_GROUPED_EFFICIENCY = 0.25
# From the end of one kernel to the start of the next.
_LAUNCH = 2e-6
# Instructions of the CUDA cores per element of a mixed block and basis, or of dy*s: the sum's, and the conversions'.
_MIXING_INSTRUCTIONS = 1.5
# Rows and columns of a tile; rows of the form that shares a block of weights, and among how many samples.
_TILE_ROWS, _TILE_COLUMNS, _SHARED_ROWS, _SHARED_SAMPLES = 128, 128, 64, 4
# The smallest tile, which is what a small problem gets.
_SMALL_TILE = 64


def choose_cuda(problem: Problem, *, eager: bool = False, inference: bool = False) -> str:
    """Where forward and backward together cost least by estimate: an eager strategy, or unless ``eager`` "triton".

    With ``inference`` the forward alone counts. Loads element by element and float32 without TF32 go to the eager
    strategies, that is to the vendor: what Triton reaches there is no more than a guess.
    """
    shape = describe(problem)
    suits = not (eager or shape.is_ragged or shape.arithmetic == "float32")
    can_run_triton = suits and backends.triton_missing(problem.x.device) is None and not _triton_reasons(problem)
    return _choose_backend(shape, can_run_triton, inference)


def choose_forward(problem: Problem) -> str:
    """The Triton variant with the least estimate for the forward."""
    return _choose_variant(describe(problem), False)


def choose_gradient(problem: Problem) -> str:
    """The Triton variant with the least estimate for the input gradient."""
    return _choose_variant(describe(problem), True)


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
        """``products`` and ``mixed`` (blocks' elements) on multiprocessors, ``weights`` in elements through L2."""
        arithmetic = products / _triton_rate(shape, machine)
        arithmetic += mixed * _MIXING_INSTRUCTIONS / (machine.float32 / 2)
        return max(arithmetic / idle, dram / machine.dram, weights * size / machine.l2) + _LAUNCH

    # An in-place pass reads its target as well.
    residual_pass = source + 2 * target
    vendor = _vendor(shape, machine, idle)
    if gradient and shape.has_scale:
        # dy*s is written, and read again.
        vendor += 2 * source / machine.dram + _LAUNCH
    # In the kernels' own static part each block of columns multiplies its blocks of dy by s; where those hold rows of
    # several samples (linear), a block of s is loaded for each.
    scaled = static_product / (2 * min(_TILE_COLUMNS, columns)) if gradient and shape.has_scale else 0.0
    kernels = shape.batch * shape.static_elements if shape.has_weight else shape.batch * shape.basis_elements
    written = kernels * size / (machine.l2 if kernels * size < machine.l2_bytes / 2 else machine.dram)
    one_kernel = shape.static_elements if shape.has_weight else shape.basis_elements
    dynamic_product = static_product or residual_product
    costs = {
        "linear": launch(
            static_product + shape.num_bases * residual_product,
            source + target,
            packed * (static + basis),
            2 * scaled,
        ),
        "aggregated": launch(
            (static_product + residual_product) * padding,
            source + target,
            tiles * (static + basis),
            tiles * basis + padding * scaled,
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
    return {name: cost + _copies(shape, machine) for name, cost in costs.items()}


def parameter_cost(shape: Shape) -> float:
    """Seconds for the gradients of W0, s, Phi and pi, as `dynconv.ops.triton` computes them.

    Where a scale or a full basis needs each sample's product on all taps, W0's comes from it; else it is the vendor's.
    """
    machine = _machine(shape)
    dy = shape.batch * shape.pixels_out * shape.outputs * shape.element_size
    activations = shape.batch * shape.pixels_in * shape.inputs * shape.element_size + dy
    forms_all = shape.has_weight and (shape.has_scale or shape.basis_size == shape.kernel_size)
    taps = shape.taps if forms_all else shape.basis_taps
    # Multiply-adds per sample: each basis twice, W0 once for itself and once for s.
    contraction = shape.basis_elements * 2 * shape.num_bases
    contraction += 2 * shape.static_elements if shape.has_scale else 0
    cost = 0.0
    if taps:
        arithmetic = _product(shape, taps) / _triton_rate(shape, machine)
        arithmetic += shape.batch * contraction / (machine.float32 / 2)
        cost += max(arithmetic, activations / machine.dram) + 2 * _LAUNCH + _copies(shape, machine)
    if shape.has_weight and not forms_all:
        cost += static_cost(shape)
    # The kernels' gradients, copied to their kernels' layout.
    return cost + _copy(shape.relaid * shape.element_size, machine)


def static_cost(shape: Shape) -> float:
    """Seconds of the forward of torch's convolution by W0, or one basis, alone; its backward is taken for two."""
    machine = _machine(shape)
    return _vendor(shape, machine) + _vendor_copies(shape, machine)


def over_static(shape: Shape) -> tuple[float, float]:
    """The best Triton variants' cost over the static convolution's: of the forward, and of forward and backward."""
    forward, gradient = (min(_possible(shape, direction).values()) for direction in (False, True))
    static = static_cost(shape)
    return forward / static, (forward + gradient + parameter_cost(shape)) / (3 * static)


def eager_costs(shape: Shape) -> dict[str, float]:
    """Seconds of each eager strategy's forward; its backward is taken for twice that."""
    machine, size = _machine(shape), shape.element_size
    x = shape.batch * shape.pixels_in * shape.inputs
    y = shape.batch * shape.pixels_out * shape.outputs
    wide = max(4, size)

    def convolution(taps: int, efficiency: float = _VENDOR_EFFICIENCY, weights: int = 0) -> float:
        flops = _vendor_product(shape) * taps / shape.taps
        rate = efficiency * getattr(machine, shape.arithmetic)
        return max(flops / rate, (x + y + weights) * size / machine.dram) + _LAUNCH

    def passes(elements: float, width: float, launches: int) -> float:
        return elements * width / machine.dram + launches * _LAUNCH

    copies = _vendor_copies(shape, machine)
    static = static_cost(shape) if shape.has_weight else 0.0
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
        "loop": mixing
        + static_kernels
        + shape.batch * (5 * _LAUNCH)
        + convolution(shape.taps, weights=weights)
        + copies,
        "linear": static + shape.num_bases * (convolution(shape.basis_taps) + copies + passes(y, size + 2 * wide, 2)),
    }
    if shape.basis_taps <= 1:
        added = passes(x + 2 * y, size, 1) if shape.basis_taps else 0.0
        costs["split"] = static + (mixing if shape.basis_taps else 0.0) + added
    return costs


@functools.lru_cache(maxsize=4096)
def _choose_backend(shape: Shape, can_run_triton: bool, inference: bool) -> str:
    costs = {name: cost if inference else 3 * cost for name, cost in eager_costs(shape).items()}
    if can_run_triton:
        costs["triton"] = min(_possible(shape, False).values())
        if not inference:
            costs["triton"] += min(_possible(shape, True).values()) + parameter_cost(shape)
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


def _tiles(batch: int, pixels: int, rows: int) -> tuple[float, float]:
    """Tiles of one sample's pixels each, and how many times the pixels their rows are."""
    rows = rows if pixels > _SMALL_TILE else _SMALL_TILE
    tiles = max(1, -(-pixels // rows))
    return float(batch * tiles), tiles * rows / max(1, pixels)


def _small_tiles(shape: Shape, pixels: int, columns: int) -> float:
    """Programs of the smallest tiles: fewer than multiprocessors leave some of these idle."""
    return max(1.0, shape.batch * pixels / _SMALL_TILE) * -(-columns // _SMALL_TILE) * shape.groups


def _triton_rate(shape: Shape, machine: Machine) -> float:
    matrix_units = _RAGGED_EFFICIENCY if shape.is_ragged else _TRITON_EFFICIENCY
    efficiency = _FMA_EFFICIENCY if shape.arithmetic == "float32" else matrix_units
    return efficiency * getattr(machine, shape.arithmetic)


def _vendor(shape: Shape, machine: Machine, share: float = 1.0) -> float:
    """Seconds of torch's convolution, whatever the direction, on a share of the multiprocessors."""
    traffic = shape.batch * (shape.pixels_in * shape.inputs + shape.pixels_out * shape.outputs) * shape.element_size
    rate = _VENDOR_EFFICIENCY * getattr(machine, shape.arithmetic) * share
    return max(_vendor_product(shape) / rate, traffic / machine.dram) + _LAUNCH


def _copy(size: float, machine: Machine) -> float:
    """Seconds to lay ``size`` bytes out anew, 0 for none."""
    return 2 * size / machine.dram + _LAUNCH if size else 0.0


def _copies(shape: Shape, machine: Machine) -> float:
    """What a forward in channels_last copies: x to it, y from it, W0 and the basis to it. A gradient does just so."""
    x = 0 if shape.is_channels_last else shape.batch * shape.pixels_in * shape.inputs
    y = 0 if shape.gives_channels_last else shape.batch * shape.pixels_out * shape.outputs
    return sum(_copy(elements * shape.element_size, machine) for elements in (x, y, shape.relaid))


def _vendor_copies(shape: Shape, machine: Machine) -> float:
    """Those of cuDNN, which converts NCHW for matrix units too (NVIDIA, Convolutional Layers User's Guide)."""
    return 0.0 if shape.arithmetic == "float32" else _copies(shape, machine)


def _product(shape: Shape, taps: int) -> float:
    """Floating-point operations of a convolution on matrix units, whose blocks hold 16 channels at least."""
    inputs, outputs = (max(16, channels // shape.groups) for channels in (shape.inputs, shape.outputs))
    return 2.0 * shape.batch * shape.pixels_out * inputs * outputs * shape.groups * taps


def _vendor_product(shape: Shape) -> float:
    """Those of torch's convolution, which does not pad a depthwise one."""
    return 2.0 * shape.batch * shape.pixels_out * shape.inputs * shape.outputs / shape.groups * shape.taps
