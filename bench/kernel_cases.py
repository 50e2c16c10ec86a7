"""Every shipped configuration of the Triton kernels: what the launchers choose, as cases to be compiled."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import triton

from dynconv.kernels.bank_products import SUM_BLOCK, SUM_WARPS, bank_outer, bank_product, weighted_sum
from dynconv.kernels.bank_tiles import shipped_bank_tiles
from dynconv.kernels.basis_shared import basis_shared
from dynconv.kernels.contract import contract
from dynconv.kernels.implicit_gemm import implicit_gemm
from dynconv.kernels.materialise import BLOCK, MOST_BASES, SAMPLES, WARPS, materialise_kernel
from dynconv.kernels.parameter_tiles import ParameterTile, shipped_parameter_tiles
from dynconv.kernels.tiles import DEEP_MIXED, MOST_MIXED, REGISTERS, Tile, shipped_tiles

# Kind of tile and dtype, as choose_tile pairs them.
KINDS = (
    ("half", "bf16"),
    ("half", "fp16"),
    ("tf32", "fp32"),
    ("float32", "fp32"),
    ("ragged", "bf16"),
    ("ragged", "fp16"),
    ("ragged", "fp32"),
    ("ragged float32", "fp32"),
)
# By variant: the form of its kernel, and its parts, all of them first. Fewer parts take about as many registers, fp16
# as many as bf16: compiled for the widest tile alone, fp16 with all parts, and but for the linear form only where
# channels are multiples of 16. "N bases" are mixed in registers.
SHALLOW, DEEP = f"{MOST_MIXED['mixed']} bases", f"{DEEP_MIXED} bases"
VARIANTS = {
    "linear": ("linear", ("weight+scale+basis", "weight+basis", "basis")),
    "vendor-linear": ("linear", ("scale+basis",)),
    "aggregated": ("mixed", (f"weight+scale+{DEEP}", f"weight+scale+{SHALLOW}", f"weight+{DEEP}", DEEP)),
    "vendor-aggregated": ("mixed", (f"scale+{DEEP}", f"scale+{SHALLOW}")),
    "materialised": ("one sample", ("weight",)),
    "basis-shared": ("shared", (f"weight+scale+{MOST_MIXED['shared']} bases", f"weight+{MOST_MIXED['shared']} bases")),
}
# Discriminator banks: the product's epilogue, whether its weight is transposed, and the tensors that it takes; all but
# "plain" with leaky ReLU. For each order of the weight the longest epilogue is compiled for every tile, the others for
# the widest.
BANK_PRODUCTS = {
    "activate": (True, ("left", "weight", "bias", "words", "drop", "last", "out", "gated", "partial")),
    "activate plain": (True, ("left", "weight", "out")),
    "gate": (False, ("left", "weight", "words", "drop", "out")),
    "gate transposed": (True, ("left", "weight", "words", "drop", "out")),
    "scale": (False, ("left", "weight", "row_scale", "out")),
    "norm": (False, ("left", "weight", "partial")),
}
LONGEST = ("activate", "gate")
# Of a bank's tensors those that do not have its dtype.
BANK_DTYPES = {"words": "i32", "drop": "fp32", "row_scale": "fp32", "partial": "fp32"}
# The architecture of the rare launches.
RARE_SM = 90
# The pointers of a convolution's kernel.
POINTERS = ("source", "weight", "bias", "scale", "basis", "coefficients", "out")


@dataclass(frozen=True)
class Case:
    """One compilation: a kernel, the problem it is specialised for and the device.

    ``launch`` is "usual", "one channel" in source and output, or "wide offsets", of 64 bits.
    """

    kernel: str
    kind: str
    dtype: str
    parts: str
    tile: str
    launch: str
    sm: int


@dataclass(frozen=True)
class Build:
    """A case's jit function, its constexpr arguments (None for an absent part) and launch options.

    ``dtypes`` holds its pointer arguments; ``aligned`` says whether sizes and strides are multiples of 16.
    """

    function: triton.JITFunction
    constants: dict[str, object]
    dtypes: dict[str, str]
    options: dict[str, object]
    aligned: bool = True


def cases(architectures: list[int], quick: bool) -> Iterator[tuple[Case, Build]]:
    """Everything that the launchers choose; `quick` keeps the widest tile with all parts of a usual launch."""
    for sm in architectures:
        for direction, variant in itertools.product(("forward", "input_gradient"), VARIANTS):
            yield from convolution_cases(direction, variant, sm, quick)
        yield from materialise_cases(sm)
        yield from parameter_cases(sm, quick)
        yield from bank_cases(sm, quick)
        if sm == RARE_SM and not quick:
            yield from rare_cases(sm)


def rare_cases(sm: int) -> Iterator[tuple[Case, Build]]:
    """Each kernel on one channel, with the narrowest tile, and with 64-bit offsets, with the widest."""
    variants = ("linear", "aggregated", "materialised", "basis-shared")
    for direction, variant in itertools.product(("forward", "input_gradient"), variants):
        form, all_parts = VARIANTS[variant]
        bases = int(all_parts[0].split("+")[-1].split()[0]) if all_parts[0].endswith("bases") else 0
        for launch, kind in (("one channel", "ragged"), ("wide offsets", "half")):
            tiles = shipped_tiles(kind, sm, form, bases if form == "mixed" else 0)
            tile = tiles[0 if launch == "wide offsets" else -1]
            case = Case(f"{direction} {variant}", kind, "bf16", all_parts[0], tile_name(tile, form), launch, sm)
            yield case, convolution_build(case, form, tile, bases)
    for case, build in bank_cases(sm, quick=True):
        if (case.kind, case.dtype) in (("ragged", "bf16"), ("elementwise", "bf16")):
            yield replace(case, launch="one channel"), replace(build, aligned=False)
    elementwise, build = next(materialise_cases(sm))
    yield replace(elementwise, launch="one channel"), replace(build, aligned=False)
    for launch, kind in (("one channel", "ragged"), ("wide offsets", "half")):
        parameter_tiles = shipped_parameter_tiles(kind, sm)
        parameter_tile = parameter_tiles[0 if launch == "wide offsets" else -1]
        parts = f"weight+scale+{parameter_tile.bases} bases" if parameter_tile.bases else "weight+scale"
        name = "x".join(map(str, parameter_tile[:5]))
        case = Case("parameter_gradients", kind, "bf16", parts, name, launch, sm)
        yield case, parameter_build(case, parameter_tile, parameter_tile.bases)


def tile_name(tile: Tile, form: str) -> str:
    """The tile's numbers, as the table has them."""
    return "x".join(map(str, (*tile[:5], *([tile.samples] if form == "shared" else []))))


def convolution_cases(direction: str, variant: str, sm: int, quick: bool) -> Iterator[tuple[Case, Build]]:
    """The implicit GEMMs of one variant."""
    form, all_parts = VARIANTS[variant]
    if variant.startswith("vendor") and direction == "input_gradient":
        # s belongs to dy there, which the launcher scales for the vendor.
        all_parts = tuple(parts.removeprefix("scale+") for parts in all_parts)
    for kind, dtype in KINDS:
        plain = kind in ("half", "tf32") or form == "linear"
        for parts in all_parts if dtype != "fp16" and plain else all_parts[:1]:
            bases = int(parts.split("+")[-1].split()[0]) if parts.endswith("bases") else 0
            tiles = shipped_tiles(kind, sm, form, bases if form == "mixed" else 0)
            # The vendor's variants have the linear and the mixed kernel less its static part.
            every = parts == all_parts[0] and dtype != "fp16" and not quick and not variant.startswith("vendor")
            for tile in tiles if every else tiles[:1]:
                case = Case(f"{direction} {variant}", kind, dtype, parts, tile_name(tile, form), "usual", sm)
                yield case, convolution_build(case, form, tile, bases)
            if quick:
                break


def convolution_build(case: Case, form: str, tile: Tile, bases: int) -> Build:
    """The case's kernel, specialised as a launch on channels_last tensors would be."""
    direction, variant = case.kernel.split()
    constants: dict[str, object] = {
        "GRADIENT": direction == "input_gradient",
        "PRECISION": "tf32" if case.dtype == "fp32" and "float32" not in case.kind else "ieee",
        "WIDEN": False,
        "OFFSET": triton.language.int32,
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "BLOCK_K": tile.reduction,
    }
    if form == "shared":
        constants |= {"NUM_BASES": bases, "SAMPLES": tile.samples}
    else:
        vendor = variant.startswith("vendor")
        constants |= {"ACCUMULATE": vendor, "ONE_SAMPLE": form != "linear", "MIXED": bases}
    parts = case.parts.split("+")
    if not parts[-1].endswith(("basis", "bases")):
        constants |= {"basis": None, "coefficients": None}
    constants |= {name: None for name in ("weight", "scale") if name not in parts}
    if direction == "input_gradient":
        constants["bias"] = None
    options: dict[str, object] = {"num_warps": tile.warps, "num_stages": tile.stages}
    options |= {"maxnreg": REGISTERS, "enable_fp_fusion": True}
    dtypes = {name: "fp32" if name in ("scale", "coefficients") else case.dtype for name in POINTERS}
    function = basis_shared if form == "shared" else implicit_gemm
    return Build(function, constants, dtypes, options, aligned="ragged" not in case.kind)


def materialise_cases(sm: int) -> Iterator[tuple[Case, Build]]:
    """The kernel that writes per-sample weights."""
    for dtype, bases in itertools.product(("bf16", "fp32"), (DEEP_MIXED, MOST_BASES)):
        case = Case("materialise", "elementwise", dtype, f"weight+scale+{bases} bases", f"{BLOCK}x{WARPS}", "usual", sm)
        dtypes = {name: "fp32" if name in ("scale", "coefficients") else dtype for name in POINTERS if name != "source"}
        constants: dict[str, object] = {"NUM_BASES": bases, "SAMPLES": SAMPLES, "BLOCK": BLOCK}
        yield case, Build(materialise_kernel, constants, dtypes, {"num_warps": WARPS})


def parameter_cases(sm: int, quick: bool) -> Iterator[tuple[Case, Build]]:
    """The fused parameter gradient: every tile with the most bases that it carries, all gradients wanted.

    Of fewer bases the widest tile that carries them is listed, in bf16; a narrower one holds less.
    """
    for kind, dtype in KINDS:
        carried = -1
        for tile in shipped_parameter_tiles(kind, sm)[: 1 if quick else None]:
            fewest = carried + 1 if kind == "half" and dtype == "bf16" and tile.bases > carried else tile.bases
            carried = max(carried, tile.bases)
            for bases in range(fewest, tile.bases + 1):
                every = f"weight+scale+{bases} bases" if bases else "weight+scale"
                fewer = f"{bases} bases" if bases else "weight"
                for parts in (every, fewer) if kind == "half" and dtype == "bf16" else (every,):
                    case = Case("parameter_gradients", kind, dtype, parts, "x".join(map(str, tile[:5])), "usual", sm)
                    yield case, parameter_build(case, tile, bases)


def parameter_build(case: Case, tile: ParameterTile, bases: int) -> Build:
    """The case's kernel; its parts are the gradients wanted, "N bases" those of Phi and pi."""
    constants: dict[str, object] = {
        "BASES": bases,
        "PADDED": triton.next_power_of_2(max(1, bases)),
        "PRECISION": "tf32" if case.dtype == "fp32" and "float32" not in case.kind else "ieee",
        "WIDEN": False,
        "OFFSET": triton.language.int32,
        "BLOCK_N": tile.rows,
        "BLOCK_C": tile.columns,
        "BLOCK_P": tile.pixels,
    }
    parts = case.parts.split("+")
    absent = [] if "weight" in parts else ["dweight"]
    if "scale" not in parts:
        absent += ["scale", "dscale", "weight"]
    if not bases:
        absent += ["basis", "coefficients", "dbasis", "dcoefficients"]
    dtypes = dict.fromkeys(("dy", "x", "weight", "basis"), case.dtype)
    dtypes |= dict.fromkeys(("scale", "coefficients", "dweight", "dscale", "dbasis", "dcoefficients"), "fp32")
    options: dict[str, object] = {"num_warps": tile.warps, "num_stages": tile.stages}
    options |= {"maxnreg": REGISTERS, "enable_fp_fusion": True}
    constants |= dict.fromkeys(absent)
    return Build(contract, constants, dtypes, options, aligned="ragged" not in case.kind)


def bank_cases(sm: int, quick: bool) -> Iterator[tuple[Case, Build]]:
    """The products of discriminator banks, and their weighted sum."""
    for kind, dtype in KINDS:
        for parts, (transposed, tensors) in BANK_PRODUCTS.items():
            if dtype == "fp16" and parts not in LONGEST:
                continue
            tiles = shipped_bank_tiles("product", kind, sm)
            for tile in tiles if parts in LONGEST and dtype != "fp16" and not quick else tiles[:1]:
                constants = {"EPILOGUE": parts.split()[0], "TRANSPOSED": transposed, "LEAKY": "plain" not in parts}
                yield bank_case("bank_product", bank_product, kind, dtype, parts, tile, sm, constants, tensors)
        tiles = shipped_bank_tiles("outer", kind, sm)
        tensors = ("gates", "hidden", "direction", "out")
        for tile in tiles if dtype != "fp16" and not quick else tiles[:1]:
            yield bank_case("bank_outer", bank_outer, kind, dtype, "both", tile, sm, {}, tensors)
    sizes = dict(zip(("BLOCK_T", "BLOCK_N"), SUM_BLOCK, strict=True))
    for dtype, parts in itertools.product(("bf16", "fp32"), ("two", "one accumulated")):
        name = "x".join(map(str, (*SUM_BLOCK, SUM_WARPS)))
        case = Case("weighted_sum", "elementwise", dtype, parts, name, "usual", sm)
        dtypes = {"first": dtype, "first_weight": "fp32", "out": "fp32"}
        if parts == "two":
            dtypes |= {"second": dtype, "second_weight": "fp32", "out": dtype}
        absent: dict[str, object] = dict.fromkeys({"second", "second_weight"} - set(dtypes))
        # Neighbours' weights are neighbours in memory: those of samples, or where discriminators are summed over, of
        # results.
        absent["weight_stride_t" if parts == "two" else "weight_stride_b"] = 1
        summed: dict[str, object] = {"ACCUMULATE": parts != "two", **sizes, **absent}
        yield case, Build(weighted_sum, summed, dtypes, {"num_warps": SUM_WARPS, "enable_fp_fusion": True})


def bank_case(
    kernel: str,
    function: triton.JITFunction,
    kind: str,
    dtype: str,
    parts: str,
    tile: Tile,
    sm: int,
    constants: dict[str, object],
    tensors: tuple[str, ...],
) -> tuple[Case, Build]:
    """One product of a bank; of ``tensors``, those that it could take, the others are absent."""
    blocks = {"BLOCK_M": tile.rows, "BLOCK_N": tile.columns, "BLOCK_K": tile.reduction}
    precision = "tf32" if dtype == "fp32" and "float32" not in kind else "ieee"
    dtypes = {name: BANK_DTYPES.get(name, dtype) for name in tensors}
    if kernel == "bank_outer":
        dtypes |= dict.fromkeys(("grad_logits", "grad_gains", "amplitude"), "fp32")
    absent = dict.fromkeys({*BANK_PRODUCTS["activate"][1], "row_scale"} - set(tensors) if "weight" in tensors else ())
    constants = constants | blocks | absent | {"PRECISION": precision, "WIDEN": False}
    options: dict[str, object] = {"num_warps": tile.warps, "num_stages": tile.stages}
    options |= {"maxnreg": REGISTERS, "enable_fp_fusion": True}
    case = Case(kernel, kind, dtype, parts, tile_name(tile, "bank"), "usual", sm)
    return case, Build(function, constants, dtypes, options, aligned="ragged" not in kind)
