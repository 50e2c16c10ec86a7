"""Which eager strategy computes a dynamic convolution fastest, from its shapes alone.

Costs are in units of the static convolution of the same shape. Every strategy but *linear* reads B kernels of its own,
and each kernel element serves P = Hout * Wout pixels, so the surcharge of forming kernels falls as 1 / P.
"""

from __future__ import annotations

from dynconv.ops.problem import Problem

# Forward + backward of trials in torch 2.13, fp32, K = 4, two AVX-512 cores, ratios to the static convolution: *loop*
# cost 1.13, 1.33, 2.4, 7.3, 2.1 and 4.5 at P = 3136, 784, 196, 49, 256 and 64: 1 + 250 / P plus the calls below.
_LOOP_PER_PIXEL = 250.0
# *aggregate* costs 1 + 200 / P while the batch's kernels stay in the cache (1.07 and 1.25 at 2.4 and 9.4 MB) and
# 1 + 800 / P beyond (4.7, 16.8, 4.7 and 15 at 38 MB and more).
_AGGREGATE_PER_PIXEL, _AGGREGATE_PER_PIXEL_UNCACHED, _CACHED_BYTES = 200.0, 800.0, 16 << 20
# A sample of the loop costs 60 us of calls, in which one such core does 6 million multiply-adds.
_LOOP_CALLS = 6e6
# *linear* cost 5.1 to 6 with a full basis and K = 4: a tenth above its arithmetic, K + 1.
_LINEAR_PER_OUTPUT = 1.1
# On a GPU a loop over samples is launches, and kernels formed for the batch stream through memory: aggregating pays
# where K * P is above this. Computed from an H200's roofline, not measured.
_GPU_AGGREGATE_PIXELS = 370


def choose_strategy(problem: Problem) -> str:
    """``"split"``, ``"aggregate"``, ``"loop"`` or ``"linear"``: the fastest by estimate for these shapes."""
    if problem.residual_is_pointwise and problem.x.shape[0] != 1:
        return "split"
    return min(_full_costs(problem).items(), key=lambda item: item[1])[0]


def _full_costs(problem: Problem) -> dict[str, float]:
    """Cost of each strategy with a full basis, in units of the static convolution."""
    batch, pixels = problem.x.shape[0], max(1, problem.output_size[0] * problem.output_size[1])
    elements = problem.out_channels * problem.static.shape[1] * problem.kernel_size[0] * problem.kernel_size[1]
    if problem.x.device.type != "cpu":
        aggregate_pays = batch == 1 or problem.num_bases * pixels > _GPU_AGGREGATE_PIXELS
        return {"aggregate": 0.0 if aggregate_pays else 2.0, "linear": 1.0}
    in_cache = batch * elements * problem.x.element_size() <= _CACHED_BYTES
    surcharge = _AGGREGATE_PER_PIXEL if in_cache else _AGGREGATE_PER_PIXEL_UNCACHED
    return {
        "aggregate": 1 + surcharge / pixels,
        "loop": 1 + _LOOP_PER_PIXEL / pixels + _LOOP_CALLS / (pixels * elements),
        "linear": _LINEAR_PER_OUTPUT * (problem.num_bases + (problem.weight is not None)),
    }
