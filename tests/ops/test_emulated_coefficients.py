"""The CUDA ``coefficients`` without a GPU: the kernels compiled as C++ and run by an emulation (cuda_on_cpu/)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import cpp_extension

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="runs in a checkout, which has the sources"),
]
FLAGS = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread"]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# As setup.py has it.
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"


def as_a_cpu_operator(text: str) -> str:
    """The source of the CUDA operator, registered for CPU tensors, whose device has the index 1."""
    changes = {"dynconv, CUDA, m": "dynconv, CPU, m", "tensor.is_cuda()": "tensor.is_cpu()"}
    for old, new in (*changes.items(), (".get_device_index()", ".is_cpu()")):
        assert old in text
        text = text.replace(old, new)
    return re.sub(r".*(DeviceGuard|stable/accelerator\.h).*\n", "", text)


def build(sources: Path, library: Path, compiler: str) -> None:
    source = sources / "cuda" / "coefficients.cpp"
    source.write_text(as_a_cpu_operator((sources / "cuda" / "coefficients.cu").read_text()))
    include = [f"-I{HERE / 'cuda_on_cpu'}", *(f"-isystem{path}" for path in cpp_extension.include_paths())]
    link = [*(f"-L{path}" for path in cpp_extension.library_paths()), "-lc10", "-ltorch", "-ltorch_cpu"]
    command = [compiler, *FLAGS, *WARNINGS, TARGET, *include, str(source), "-o", str(library), *link]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr


def test_the_cuda_kernels_pass_the_tests_of_the_operator_on_an_emulated_gpu(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    package = tmp_path / "dynconv"
    shutil.copytree(ROOT / "dynconv", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    build(tmp_path / "csrc", package / "_native_cpu.abi3.so", compiler)
    # -P: the root of the checkout stays off sys.path. Without the tests of the CPU's own threads.
    program = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    files = [str(HERE / f"test_{name}.py") for name in ("native_coefficients", "coefficients")]
    command = [sys.executable, "-P", "-c", program, "-q", *files, "-k", "not threads"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:]
    assert re.search(r"[1-9]\d\d passed", result.stdout), result.stdout[-6000:]
