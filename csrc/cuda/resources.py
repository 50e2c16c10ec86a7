"""Architectures and register use of a CUDA library; exits 1 where a kernel spills or a library holds no machine code.

Usage: ``python resources.py LIBRARY``. The ``cuobjdump`` is the one in Triton's wheel.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import triton


def cuobjdump(*arguments: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def main(library: str) -> int:
    """Print one line per architecture of ``library``."""
    kernels: dict[str, list[tuple[int, int]]] = defaultdict(list)
    architecture = ""
    for line in cuobjdump("--dump-resource-usage", library).splitlines():
        if found := re.search(r"arch = (sm_\w+)", line):
            architecture = found[1]
        elif found := re.search(r"REG:(\d+) STACK:(\d+)", line):
            kernels[architecture].append((int(found[1]), int(found[2])))
    ptx = sorted(set(re.findall(r"\.(sm_\w+)\.ptx", cuobjdump("--list-ptx", library))))
    for name, uses in sorted(kernels.items()):
        spilled = sum(stack > 0 for _, stack in uses)
        most = max(registers for registers, _ in uses)
        print(f"{name}: {len(uses)} kernels, at most {most} registers, {spilled} with a stack frame")
    print(f"PTX for later architectures: {', '.join(ptx) or 'none'}")
    return 0 if kernels and all(stack == 0 for uses in kernels.values() for _, stack in uses) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
