"""Which way of computing a dynamic convolution is fastest on these tensors, estimated from their metadata alone.

On a CPU, costs are in units of torch's static convolution in NCHW, forward + backward. Every strategy but *linear*
forms a kernel per sample, of which each element serves P = Hout * Wout pixels, so that surcharge falls as 1 / P. The
constants are measured (fp32, K = 4, AVX-512, torch 2.15); the committed tables of bench/results hold them to it.
"""

from __future__ import annotations

import torch

from dynconv import backends
from dynconv.ops import native
from dynconv.ops.cost_model_cuda import choose_cuda
from dynconv.ops.problem import Problem, is_channels_last

# *native* cost 0.78, 0.85, 1.0 and 1.0 with a 1x1 basis and 0.8, 0.96, 1.47 and 1.39 with a full one at P = 3136, 196,
# 49 and 64, in either memory format.
_NATIVE, _NATIVE_PER_PIXEL, _NATIVE_PER_PIXEL_FULL = 0.82, 10.0, 32.0
# One sample shares its kernel with no other: 5 / P more.
_NATIVE_ONE_SAMPLE = 5.0
# Its vectors hold up to 32 channels of one group. With 16 they are half empty and it still wins (1.45 against 1.5);
# with 8, 4, 3 or 1 it loses by 1.3 to 5 times.
_NATIVE_CHANNELS = 16
# *split* cost 1.13 to 1.2 in NCHW. In channels_last oneDNN's static convolution is faster: 0.67, 0.76, 0.88 and 1.12.
_SPLIT, _SPLIT_LAST, _SPLIT_LAST_PER_PIXEL = 1.16, 0.66, 20.0
# One sample in channels_last: 1.25, 1.38, 1.46 and 1.81 at P = 3136, 784, 196 and 49, where *native* costs 1.12, 1.25,
# 1.36 and 1.74.
_SPLIT_ONE_SAMPLE = 0.3
# bfloat16 without a processor's units for it: *native* costs 0.3 to 0.45 of a static convolution, *split* 1.1 to 1.3.
_SPLIT_BF16 = 2.5
# With groups, channels_last pixels are no matrix: 1.25. With one channel per group the matrix product is all overhead:
# 1.6, of a depthwise convolution 1.5 in NCHW and 2.2 in channels_last.
_SPLIT_LAST_GROUPS, _SPLIT_ONE_CHANNEL = 1.25, 1.6
# *loop* cost 1.13, 1.33, 2.4, 7.3, 2.1 and 4.5 at P = 3136, 784, 196, 49, 256 and 64.
_LOOP_PER_PIXEL = 250.0
# *aggregate* costs 1 + 200 / P while the batch's kernels stay in the cache (1.07 and 1.25 at 2.4 and 9.4 MB) and
# 1 + 800 / P beyond (4.7, 16.8, 4.7 and 15 at 38 MB and more).
_AGGREGATE_PER_PIXEL, _AGGREGATE_PER_PIXEL_UNCACHED, _CACHED_BYTES = 200.0, 800.0, 16 << 20
# What a small problem costs is calls, here in multiply-adds that one such core does meanwhile, 100 per ns: 60 us for a
# sample of the loop, or the chain of *aggregate* and *split*, 25 us for *native* (2 samples of 16 channels and 4 x 4
# pixels, forward + backward: 250 us, *split* 530, *aggregate* 630) or for each convolution of *linear*.
_CALLS, _NATIVE_CALLS, _LINEAR_CALLS = 6e6, 0.4, 2.5e6
# A depthwise convolution is all memory: it does fewer multiply-adds while a call is made, and its kernels are small
# beside its pixels. At P = 784 *native* cost 0.67 to 0.86, *aggregate* 1.2 in NCHW and 2.4 to 2.7 in channels_last; at
# P = 49 (960 channels, batch 16, NCHW) 0.97 and 1.55.
_DEPTHWISE_NATIVE, _DEPTHWISE_PER_PIXEL, _DEPTHWISE_CALLS = 0.65, 25.0, 0.05
# *linear* cost 5.1 to 6 with a full basis and K = 4: a tenth above its arithmetic, K + 1. Its backward computes the
# static convolution again for the gradient of a scale.
_LINEAR_PER_OUTPUT, _LINEAR_SCALE = 1.1, 0.3


def choose_strategy(problem: Problem, *, eager: bool = False, inference: bool = False) -> str:
    """The backend that is fastest by estimate: any that can run, or with ``eager`` one of the eager strategies.

    ``inference``: no backward follows, which matters on a GPU.
    """
    if problem.x.device.type != "cpu":
        return choose_cuda(problem, eager=eager, inference=inference)
    key = (*_key(problem), eager)
    choice = _CHOICES.get(key)
    if choice is None:
        costs = cpu_costs(problem)
        if eager or not _native_suits(problem):
            del costs["native"]
        if len(_CHOICES) >= _MOST_CHOICES:
            _CHOICES.clear()
        choice = _CHOICES[key] = min(costs, key=costs.__getitem__)
    return choice


# Asked for once, and where Dynamo, which does not trace the question, sees the answer.
_HAS_BF16_UNITS = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
# Weighing the strategies takes 20 us, looking a choice up 3.
_CHOICES: dict[tuple, str] = {}
_MOST_CHOICES = 4096


def _key(problem: Problem) -> tuple:
    """All that the costs look at."""
    x, weight, basis = problem.x, problem.weight, problem.basis
    return (
        x.shape,
        None if weight is None else weight.shape,
        None if basis is None else basis.shape,
        problem.num_bases,
        problem.scale is None,
        problem.geometry(),
        x.dtype,
        _reads_channels_last(problem),
    )


def _native_suits(problem: Problem) -> bool:
    """Whether *native* can run the problem, at a known cost: bfloat16 it multiplies in float32, and where oneDNN has a
    processor's units for bfloat16 nothing was measured but depthwise convolutions, which make no use of them."""
    left_to_units = problem.x.dtype == torch.bfloat16 and _HAS_BF16_UNITS and not _is_depthwise(problem)
    return not left_to_units and not native.reasons(problem)


def prefers_split(problem: Problem, *, eager: bool) -> bool:
    """Whether *split* is the choice at any batch size but one: what torch.compile can ask of a symbolic batch."""
    if not problem.residual_is_pointwise:
        return False
    if eager:
        return True
    if problem.x.device.type != "cpu":
        # Where the Triton kernels run, the batch decides.
        return backends.triton_missing(problem.x.device) is not None
    if not _native_suits(problem):
        return True
    pixels = problem.output_size[0] * problem.output_size[1]
    if problem.x.dtype == torch.bfloat16:
        return _narrow(problem)
    return _narrow(problem) or (_reads_channels_last(problem) and problem.groups == 1 and pixels >= 64)


def cpu_costs(problem: Problem) -> dict[str, float]:
    """The cost of every strategy that the basis allows, in units of the static convolution in NCHW."""
    batch, pixels = problem.x.shape[0], max(1, problem.output_size[0] * problem.output_size[1])
    elements = problem.out_channels * problem.static.shape[1] * problem.kernel_size[0] * problem.kernel_size[1]
    in_cache = batch * elements * problem.x.element_size() <= _CACHED_BYTES
    surcharge = _AGGREGATE_PER_PIXEL if in_cache else _AGGREGATE_PER_PIXEL_UNCACHED
    full = problem.basis is not None and problem.basis.shape[2:] == problem.kernel_size
    calls = _CALLS / (max(1, batch) * pixels * elements)
    outputs = problem.num_bases + (problem.weight is not None)
    in_native, native_surcharge = _NATIVE, _NATIVE_PER_PIXEL_FULL if full else _NATIVE_PER_PIXEL
    depthwise = _is_depthwise(problem)
    if depthwise:
        in_native, calls = _DEPTHWISE_NATIVE, _DEPTHWISE_CALLS * calls
        native_surcharge = surcharge = _DEPTHWISE_PER_PIXEL
    linear_calls = outputs * (_LINEAR_CALLS / _CALLS) * calls
    costs = {
        "native": in_native + native_surcharge / pixels + _NATIVE_CALLS * calls,
        "aggregate": 1 + surcharge / pixels + calls,
        "loop": 1 + _LOOP_PER_PIXEL / pixels + batch * calls,
        "linear": _LINEAR_PER_OUTPUT * outputs + (_LINEAR_SCALE if problem.scale is not None else 0) + linear_calls,
    }
    if batch == 1 and not depthwise:
        costs["native"] += _NATIVE_ONE_SAMPLE / pixels
    if _narrow(problem):
        costs["native"] *= 4
    if problem.residual_is_pointwise:
        split = _SPLIT
        if _reads_channels_last(problem):
            split = _SPLIT_LAST + _SPLIT_LAST_PER_PIXEL / pixels if problem.groups == 1 else _SPLIT_LAST_GROUPS
        if problem.static.shape[1] == 1:
            split = _SPLIT_ONE_CHANNEL
        if batch == 1 and _reads_channels_last(problem):
            split += _SPLIT_ONE_SAMPLE
        if problem.x.dtype == torch.bfloat16 and not depthwise:
            split *= _SPLIT_BF16
        # Without a basis it is a convolution and a multiplication.
        costs["split"] = split + (linear_calls if problem.basis is None else calls)
    return costs


def _is_depthwise(problem: Problem) -> bool:
    return problem.static.shape[1] == 1 and problem.out_channels == problem.groups


def _narrow(problem: Problem) -> bool:
    """Whether fewer channels than *native* needs lie side by side: of a group, or groups of one channel."""
    if _is_depthwise(problem):
        return problem.groups < _NATIVE_CHANNELS
    return min(problem.out_channels // problem.groups, problem.static.shape[1]) < _NATIVE_CHANNELS


def _reads_channels_last(problem: Problem) -> bool:
    return is_channels_last(problem.x) or is_channels_last(problem.static)
