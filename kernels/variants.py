"""The ways in which the kernels compute a forward or an input gradient, and what each of them takes.

==================  ==================================================================================================
linear              one launch; the static part and each conv(x, Phi_i) summed apart, pixels packed across samples
aggregated          one launch; tiles of one sample, sum_i pi_bi Phi_i formed in registers
materialised        two launches; every sample's kernel written to memory, then one implicit GEMM
basis-shared        one launch; a full basis, whose blocks several samples of a program share
vendor-linear       the static part by torch's convolution, the residual in linear form added in place
vendor-aggregated   the same with the aggregated residual
==================  ==================================================================================================

Which of them suits a shape is `dynconv.ops.cost_model_cuda`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dynconv.kernels.materialise import MOST_BASES
from dynconv.kernels.tiles import MOST_MIXED

Pair = tuple[int, int]

# And the form of the kernel of each (dynconv.kernels.tiles).
FORMS = {
    "linear": "linear",
    "aggregated": "mixed",
    "materialised": "one sample",
    "basis-shared": "shared",
    "vendor-linear": "linear",
    "vendor-aggregated": "mixed",
}
VARIANTS = tuple(FORMS)
_MOST_BASES = {
    "aggregated": MOST_MIXED["mixed"],
    "vendor-aggregated": MOST_MIXED["mixed"],
    "basis-shared": MOST_MIXED["shared"],
    "materialised": MOST_BASES,
}

_forced: list[str] = []


def variant_reasons(
    variant: str, weight_size: Pair | None, basis_size: Pair | None, has_scale: bool, num_bases: int
) -> list[str]:
    """Why ``variant`` cannot run a problem that the kernels take, one sentence each; empty where it can.

    ``weight_size`` and ``basis_size`` are the kernels' (height, width), None where there is no such kernel.
    """
    if variant not in VARIANTS:
        return [f"there is no such variant; there are {', '.join(VARIANTS)}"]
    found = []
    if variant.startswith("vendor") and weight_size is None:
        found.append("it computes the static part apart, and there is none")
    if basis_size is None and variant in ("aggregated", "basis-shared", "vendor-aggregated"):
        found.append("it mixes bases, and there are none")
    if basis_size is None and not has_scale and variant == "materialised":
        found.append("without a basis and a scale every sample has the same kernel")
    if num_bases > _MOST_BASES.get(variant, num_bases):
        found.append(f"it mixes up to {_MOST_BASES[variant]} bases in registers, and there are {num_bases}")
    if variant == "basis-shared" and None not in (weight_size, basis_size) and weight_size != basis_size:
        found.append(f"its basis has the kernel's size {weight_size}; got {basis_size}")
    return found


@contextmanager
def forced(variant: str) -> Iterator[None]:
    """Within the block, the operator's Triton backend runs ``variant``, and raises where that cannot be.

    For benchmarks and tests. It holds for the whole process, for autograd runs a backward in threads of its own.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}.")
    _forced.append(variant)
    try:
        yield
    finally:
        _forced.pop()


def forced_variant() -> str | None:
    """The variant that the innermost `forced` asks for."""
    return _forced[-1] if _forced else None
