"""Compile every shipped configuration of the Triton kernels, without a GPU, and read what the compiler made of it.

    python -m dynconv.bench.compile_kernels [--sm 80 90] [--quick] [--match PREFIX] [--csv FILE]

The committed table is bench/results/triton_resources.csv; --csv renews the rows of its file that were compiled.

One row per kernel: registers per thread, spilled bytes (stack and local memory), shared memory per program, loads of
single 16-bit elements, and which matrix unit it uses (mma, Hopper's wgmma, Blackwell's tcgen05). Exit code 1 if one
spills, needs more shared memory than a device of that kind has, or reads a 16-bit tensor with aligned channels element
by element; 2 under TRITON_INTERPRET, where there is nothing to compile. Rare launches (one channel, 64-bit offsets) are
compiled for one architecture.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dynconv.bench.kernel_cases import Build, Case, cases
from dynconv.kernels.layout import INTERPRETED

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
# Shared memory of a program in KiB. sm_86, sm_89 and sm_120 take the tiles of sm_80 and have 99.
SHARED_LIMIT = {80: 99, 90: 227, 100: 227}
MATRIX_UNITS = (("wgmma.mma_async", "wgmma"), ("tcgen05.mma", "tcgen05"), ("mma.sync", "mma"))
# Sizes that Triton makes constants where they are 1.
ONES = {"reduction", "columns", "outputs", "inputs", "out_channels", "in_channels"}
ONES |= {"rows", "left_stride", "hidden_stride"}
ONES |= {"source_stride_w", "out_stride_w", "x_stride_w", "dy_stride_w"}
# Scalar arguments that are no integers.
FLOATS = {"slope"}
SCALAR_LOAD = re.compile(r"ld\.global[.\w:]*\.b16")


@dataclass(frozen=True)
class Row(Case):
    """What the compiler made of a case."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    scalar_loads: int
    matrix_unit: str
    triton: str

    def fault(self) -> str:
        """What must not be in a shipped kernel, or nothing."""
        if self.shared_bytes > SHARED_LIMIT[self.sm] * 1024:
            return f"takes more than {SHARED_LIMIT[self.sm]} KiB of shared memory"
        if self.spill_bytes:
            return "spills"
        if self.launch != "one channel" and "ragged" not in self.kind and self.scalar_loads:
            return "reads a 16-bit tensor element by element"
        return ""


def compile_case(case: Case, build: Build) -> Row:
    """Compile for the case's device and read the resources."""
    constants, signature, attributes = dict(build.constants), {}, {}
    wide = case.launch == "wide offsets"
    if wide:
        constants["OFFSET"] = triton.language.int64
    for index, parameter in enumerate(build.function.params):
        name = parameter.name
        if case.launch == "one channel" and name in ONES and not parameter.do_not_specialize:
            constants[name] = 1
        if name in constants:
            signature[name] = "constexpr"
            continue
        pointer = name in build.dtypes
        integer = "i64" if wide and name.endswith("stride_b") else "i32"
        signature[name] = f"*{build.dtypes[name]}" if pointer else "fp32" if name in FLOATS else integer
        if pointer or (build.aligned and not parameter.do_not_specialize):
            attributes[(index,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(build.function, signature, constants, attributes),
        target=GPUTarget("cuda", case.sm, 32),
        options=build.options,
    )
    registers, spilled = resources(compiled.asm["cubin"])
    unit = next((unit for text, unit in MATRIX_UNITS if text in compiled.asm["ptx"]), "none")
    return Row(
        **asdict(case),
        registers=registers,
        spill_bytes=spilled,
        shared_bytes=compiled.metadata.shared,
        scalar_loads=len(SCALAR_LOAD.findall(compiled.asm["ptx"])),
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


def write_table(path: Path, rows: list[Row]) -> None:
    """Every shipped case in order: those just compiled, and of the others what the table held."""
    names = [field.name for field in fields(Row)]
    key_names = [field.name for field in fields(Case)]
    table = {}
    if path.exists():
        with path.open() as file:
            table = {tuple(row[name] for name in key_names): row for row in csv.DictReader(file)}
    table |= {tuple(str(getattr(row, name)) for name in key_names): asdict(row) for row in rows}
    shipped = [tuple(map(str, astuple(case))) for case, _ in cases(list(SHARED_LIMIT), quick=False)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table[key] for key in shipped if key in table)


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
    start = "KERNEL/KIND/DTYPE/PARTS/TILE/LAUNCH"
    parser.add_argument("--match", default="", help=f"only cases whose {start} starts with this")
    parser.add_argument("--csv", type=Path, help="renew these rows of this table as well")
    arguments = parser.parse_args()
    if INTERPRETED:
        parser.error("unset TRITON_INTERPRET: interpreted kernels are not compiled")
    names = [field.name for field in fields(Row)]
    print(*names, sep="\t")
    rows = []
    for case, build in cases(arguments.sm, arguments.quick):
        if "/".join(astuple(case)[:-1]).startswith(arguments.match):
            rows.append(compile_case(case, build))
            print(*astuple(rows[-1]), sep="\t", flush=True)
    if arguments.csv:
        write_table(arguments.csv, rows)
    failed = [row for row in rows if row.fault()]
    for row in failed:
        print(f"{row.fault()}: {row}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
