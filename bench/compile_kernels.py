"""Compile every shipped configuration of the Triton kernels, without a GPU, and read what the compiler made of it.

    python bench/compile_kernels.py [--sm 80 90] [--quick] [--match PREFIX] [--csv bench/results/triton_resources.csv]

One row per kernel: registers per thread, spilled bytes (stack and local memory), shared memory per program, and which
matrix unit it uses (mma, Hopper's wgmma, Blackwell's tcgen05). Exit code 1 if one spills or needs more shared memory
than a device of that kind has, 2 under TRITON_INTERPRET, where there is nothing to compile.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dynconv.kernels import dynamic_conv2d as kernels
from dynconv.kernels.tiles import REGISTERS, Tile, shipped_tiles

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
# Shared memory of a program in KiB. sm_86, sm_89 and sm_120 take the tiles of sm_80 and have 99.
SHARED_LIMIT = {80: 99, 90: 227, 100: 227}
KERNELS = ("forward", "input_gradient")
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
ALL_PARTS = "weight+scale+basis"
# Fewer parts take about as many registers, fp16 as many as bf16: compiled for the widest tile alone.
FEWER_PARTS = ("weight+basis", "basis")
MATRIX_UNITS = (("wgmma.mma_async", "wgmma"), ("tcgen05.mma", "tcgen05"), ("mma.sync", "mma"))


@dataclass(frozen=True)
class Case:
    """One compilation: a kernel, the problem it is specialised for and the device."""

    kernel: str
    kind: str
    dtype: str
    parts: str
    tile: str
    sm: int


@dataclass(frozen=True)
class Row(Case):
    """What the compiler made of a case."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    matrix_unit: str
    triton: str


def cases(architectures: list[int], quick: bool) -> Iterator[tuple[Case, Tile]]:
    """Every tile that the launchers choose, in both directions; `quick` keeps the widest of each kind."""
    for sm, kernel, (kind, dtype) in itertools.product(architectures, KERNELS, KINDS):
        for parts in (ALL_PARTS, *FEWER_PARTS):
            tiles = shipped_tiles(kind, sm)
            every = parts == ALL_PARTS and dtype != "fp16" and not quick
            for tile in tiles if every else tiles[:1]:
                yield Case(kernel, kind, dtype, parts, "x".join(map(str, tile[:5])), sm), tile
            if quick:
                break


def compile_case(case: Case, tile: Tile) -> Row:
    """The case's kernel, specialised as a launch on channels_last tensors would be."""
    precision = "tf32" if case.dtype == "fp32" and "float32" not in case.kind else "ieee"
    constants: dict[str, object] = {
        "GRADIENT": case.kernel == "input_gradient",
        "PRECISION": precision,
        "WIDEN": False,
        "OFFSET": triton.language.int32,
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "BLOCK_K": tile.reduction,
        "out_stride_c": 1,
    }
    parts = case.parts.split("+")
    absent = {name for name in ("weight", "scale", "basis") if name not in parts}
    if "basis" in absent:
        absent.add("coefficients")
    if case.kernel == "input_gradient":
        absent.add("bias")
    constants |= dict.fromkeys(absent)
    signature, attributes = {}, {}
    for index, parameter in enumerate(kernels._linear.params):
        name = parameter.name
        if name in constants:
            signature[name] = "constexpr"
            continue
        pointer = name in ("source", "weight", "bias", "scale", "basis", "coefficients", "out")
        aligned = pointer or not parameter.do_not_specialize
        if pointer:
            signature[name] = "*fp32" if name in ("scale", "coefficients") else f"*{case.dtype}"
        else:
            signature[name] = "i32"
        if aligned and (pointer or "ragged" not in case.kind):
            attributes[(index,)] = [["tt.divisibility", 16]]
    options = {
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "maxnreg": REGISTERS,
        "enable_fp_fusion": True,
    }
    compiled = triton.compile(
        ASTSource(kernels._linear, signature, constants, attributes),
        target=GPUTarget("cuda", case.sm, 32),
        options=options,
    )
    registers, spilled = resources(compiled.asm["cubin"])
    unit = next((unit for text, unit in MATRIX_UNITS if text in compiled.asm["ptx"]), "none")
    return Row(
        **asdict(case),
        registers=registers,
        spill_bytes=spilled,
        shared_bytes=compiled.metadata.shared,
        matrix_unit=unit,
        triton=triton.__version__,
    )


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers per thread, and bytes of stack and local memory, of the one kernel in a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {text!r}")
    return int(found[1]), int(found[2]) + int(found[3])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sm",
        type=int,
        nargs="+",
        default=list(SHARED_LIMIT),
        choices=SHARED_LIMIT,
        help="compute capabilities, times ten",
    )
    parser.add_argument("--quick", action="store_true", help="the widest tile of each kind with all parts only")
    parser.add_argument("--match", default="", help="only cases whose KERNEL/KIND/DTYPE/PARTS/TILE starts with this")
    parser.add_argument("--csv", type=Path, help="write the rows here as well")
    arguments = parser.parse_args()
    if kernels.INTERPRETED:
        parser.error("unset TRITON_INTERPRET: interpreted kernels are not compiled")
    names = [field.name for field in fields(Row)]
    print(*names, sep="\t")
    rows = []
    for case, tile in cases(arguments.sm, arguments.quick):
        if "/".join((case.kernel, case.kind, case.dtype, case.parts, case.tile)).startswith(arguments.match):
            rows.append(compile_case(case, tile))
            print(*astuple(rows[-1]), sep="\t", flush=True)
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows(map(astuple, rows))
    failed = [row for row in rows if row.spill_bytes or row.shared_bytes > SHARED_LIMIT[row.sm] * 1024]
    for row in failed:
        print(f"spills, or takes more than {SHARED_LIMIT[row.sm]} KiB of shared memory: {row}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
