"""Native build of dynconv: optional, explicit, never silent.

``DYNCONV_BUILD`` says what to build:

====  ==================================================================================================
auto  (default) what this machine can build; what it left out, and why, is in ``build_record.json``
none  nothing: the Python and Triton code alone
cpu   the CPU operators and ``dynconv._host``; fails where it cannot
cuda  the same and the CUDA operators; fails where it cannot (needs nvcc, but no GPU)
====  ==================================================================================================

torch is no build requirement (an isolated build would fetch a second one), so native builds want
``pip install --no-build-isolation .`` in an environment that has torch, ninja and pybind11.

``DYNCONV_SANITIZE=1`` builds the CPU operators with AddressSanitizer and UndefinedBehaviorSanitizer (`make sanitize`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, OptionError

ROOT = Path(__file__).resolve().parent
MODES = ("auto", "none", "cpu", "cuda")
# Ampere, Hopper, Blackwell; what comes later runs the PTX of the last.
DEFAULT_CUDA_ARCHITECTURES = ("8.0", "9.0", "10.0")
# The oldest torch whose stable ABI the libraries need: one build serves that torch and every later one.
TORCH_TARGET_VERSION = "0x020a000000000000"
OLDEST_TORCH = (2, 10)
# Peak of one compiler process on these sources, measured 0.6 GB (C++) and 1.3 GB (nvcc).
BYTES_PER_JOB = 2 << 30
PARTS = {
    "_host": ["csrc/host/host.cpp"],
    "_native_cpu": [
        "csrc/cpu/coefficients.cpp",
        "csrc/cpu/dynamic_conv2d.cpp",
        "csrc/cpu/dynamic_conv2d_product.cpp",
        "csrc/cpu/dynamic_conv2d_gradient.cpp",
        "csrc/cpu/dynamic_conv2d_depthwise.cpp",
        # One for each instruction set.
        "csrc/cpu/dynamic_conv2d_baseline.cpp",
        "csrc/cpu/dynamic_conv2d_avx2.cpp",
        "csrc/cpu/dynamic_conv2d_avx512.cpp",
    ],
    "_native_cuda": ["csrc/cuda/coefficients.cu"],
}
DEPENDS = [
    "csrc/coefficients.h",
    "csrc/cpu/dynamic_conv2d.h",
    "csrc/cpu/dynamic_conv2d_kernels.h",
    "csrc/cpu/dynamic_conv2d_kernels.inc",
    "csrc/cuda/launch.cuh",
    "csrc/cuda/pool.cuh",
]
RECORD = "build_record.json"


def build_mode() -> str:
    mode = os.environ.get("DYNCONV_BUILD", "auto")
    if mode not in MODES:
        raise OptionError(f"DYNCONV_BUILD={mode!r}: expected one of {', '.join(MODES)}")
    return mode


MODE = build_mode()
# For `make sanitize`; the last of two -O and -g counts.
SANITIZE = os.environ.get("DYNCONV_SANITIZE") == "1"
SANITIZERS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def cuda_home() -> Path | None:
    """The CUDA toolkit: CUDA_HOME, CUDA_PATH, or the one whose nvcc is on PATH."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            return Path(os.environ[name])
    nvcc = shutil.which("nvcc")
    return Path(nvcc).resolve().parent.parent if nvcc else None


def why_not_native() -> str | None:
    """Why no native code at all can be built here, or None. Imports nothing: it also runs where there is nothing."""
    for module in ("torch", "ninja", "pybind11"):
        if find_spec(module) is None:
            return (
                f"the build found no {module} (pip builds in an environment of its own by default): "
                "pip install torch ninja pybind11, then pip install --no-build-isolation"
            )
    installed = version("torch")
    if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) < OLDEST_TORCH:
        return f"torch {installed} is older than {'.'.join(map(str, OLDEST_TORCH))}"
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler!r} was not found; install one or point CXX at it"
    return None


def why_not_cuda() -> str | None:
    """Why the CUDA operators cannot be built here although the CPU ones can, or None."""
    home = cuda_home()
    if home is None:
        return "no nvcc: CUDA_HOME is not set and nvcc is not on PATH (make cuda-build brings one)"
    if not (home / "bin" / "nvcc").exists():
        return f"no nvcc at {home / 'bin' / 'nvcc'}"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    release = re.search(r"release (\d+)\.", subprocess.check_output([home / "bin" / "nvcc", "--version"], text=True))
    if release and release[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc of CUDA {release[1]} does not go with a torch for CUDA {torch.version.cuda}"
    return None


def cuda_architectures() -> str:
    """TORCH_CUDA_ARCH_LIST, or the default list cut to what this nvcc knows."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return os.environ["TORCH_CUDA_ARCH_LIST"]
    nvcc = Path(str(cuda_home())) / "bin" / "nvcc"
    known = subprocess.check_output([nvcc, "--list-gpu-arch"], text=True).split()
    chosen = [arch for arch in DEFAULT_CUDA_ARCHITECTURES if f"compute_{arch.replace('.', '')}" in known]
    if not chosen:
        raise CompileError(f"{nvcc} knows none of {DEFAULT_CUDA_ARCHITECTURES}; set TORCH_CUDA_ARCH_LIST")
    return ";".join(chosen) + "+PTX"


def available_bytes() -> int:
    """Free memory, or one job's worth where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return BYTES_PER_JOB


@dataclass
class Record:
    """What was built, what was left out, and why: shipped as ``dynconv/build_record.json``."""

    mode: str
    built: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, package: Path) -> Path:
        package.mkdir(parents=True, exist_ok=True)
        path = package / RECORD
        path.write_text(json.dumps(self.__dict__, indent=2) + "\n")
        return path


def remove_stale(package: Path) -> None:
    """Delete the native files of an earlier build: whatever lies beside the package would be loaded, or packed."""
    for part in PARTS:
        for path in package.glob(f"{part}*.so"):
            path.unlink()


class BuildPython(build_py):
    """Also packs a record for a build that compiles nothing."""

    def run(self) -> None:
        super().run()
        package = ROOT / "dynconv" if self.editable_mode else Path(self.build_lib) / "dynconv"
        if MODE == "none":
            remove_stale(package)
            reason = "DYNCONV_BUILD=none"
            Record(MODE, left_out=dict.fromkeys(PARTS, reason)).write(package)


class BuildNative(build_ext):
    """Builds each part by torch's ninja build; a part that fails stops a strict mode and is recorded by ``auto``."""

    def run(self) -> None:
        package = Path(self.build_lib).resolve() / "dynconv"
        remove_stale(package)
        self.outputs: list[Path] = []
        self.record = Record(MODE)
        # Ninja may choose more jobs than memory bears: each one that is killed fails the build without a word.
        os.environ.setdefault("MAX_JOBS", str(max(1, min(os.cpu_count() or 1, available_bytes() // BYTES_PER_JOB))))
        missing = self.missing()
        # Before the first compiler starts: a strict mode that cannot end well fails at once.
        for part, reason in missing.items():
            self.leave_out(part, reason)
        for part in PARTS:
            if part not in missing and (reason := self.attempt(part)):
                self.leave_out(part, reason)
        self.outputs.append(self.record.write(package))
        if self.editable_mode or self.inplace:
            self.install_in_place()

    def missing(self) -> dict[str, str]:
        """Each part that need not be tried, with the reason."""
        if reason := why_not_native():
            return dict.fromkeys(PARTS, reason)
        reason = "DYNCONV_BUILD=cpu" if MODE == "cpu" else why_not_cuda()
        return {"_native_cuda": reason} if reason else {}

    def attempt(self, part: str) -> str | None:
        try:
            self.build_part(part)
        # torch reports a failed compilation as RuntimeError, a bad architecture list as ValueError.
        except (CompileError, RuntimeError, ValueError, OSError) as error:
            return f"the build failed: {error}"
        return None

    def leave_out(self, part: str, reason: str) -> None:
        needed = MODE == "cuda" or (MODE == "cpu" and part != "_native_cuda")
        if needed:
            raise CompileError(f"DYNCONV_BUILD={MODE}: cannot build dynconv.{part}: {reason}")
        self.record.left_out[part] = reason
        # What the mode itself leaves out was asked for.
        if reason != f"DYNCONV_BUILD={MODE}":
            self.warn(f"leaving out dynconv.{part}: {reason}")

    def build_part(self, part: str) -> None:
        if part == "_native_cuda":
            # Read when torch.utils.cpp_extension is imported, and when it composes nvcc's flags.
            os.environ["CUDA_HOME"] = str(cuda_home())
            os.environ["TORCH_CUDA_ARCH_LIST"] = cuda_architectures()
        from torch.utils.cpp_extension import BuildExtension

        extension, placeholders = self.extension(part), self.distribution.ext_modules
        command = BuildExtension(self.distribution)
        for name in ("build_lib", "build_temp", "debug", "plat_name"):
            setattr(command, name, getattr(self, name))
        self.distribution.ext_modules = [extension]
        try:
            command.ensure_finalized()
            command.run()
        finally:
            self.distribution.ext_modules = placeholders
        built = Path(command.build_lib).resolve() / command.get_ext_filename(extension.name)
        self.outputs.append(built)
        self.record.built[part] = built.name

    def extension(self, part: str) -> Extension:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths

        flags = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden"]
        warnings = ["-Wall", "-Wextra"]
        stable = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
        options: dict[str, Any] = {"depends": DEPENDS}
        name, sources = f"dynconv.{part}", PARTS[part]
        self.record.environment["torch"] = torch.__version__
        if part == "_host":
            import pybind11

            wants_cuda = "_native_cuda" not in self.missing()
            facts = {
                "DYNCONV_BUILT_WITH_TORCH": torch.__version__,
                "DYNCONV_BUILT_WITH_CUDA": torch.version.cuda if wants_cuda else "none",
                "DYNCONV_CUDA_ARCHITECTURES": cuda_architectures() if wants_cuda else "none",
            }
            macros = [f"-D{key}={value}" for key, value in facts.items()]
            compile_args = flags + warnings + macros
            return Extension(name, sources, [pybind11.get_include()], extra_compile_args=compile_args, **options)
        device = "cuda" if part == "_native_cuda" else "cpu"
        # The headers of torch as system headers: their warnings are not ours to mend.
        system = [argument for path in include_paths(device) for argument in ("-isystem", path)]
        options |= {"library_dirs": library_paths(device), "libraries": ["c10", "torch", "torch_cpu"]}
        if part == "_native_cpu":
            compile_args = flags + warnings + stable + system
            if SANITIZE:
                compile_args += SANITIZERS
                options["extra_link_args"] = SANITIZERS
            return Extension(name, sources, extra_compile_args=compile_args, py_limited_api=True, **options)
        self.record.environment["cuda_architectures"] = os.environ["TORCH_CUDA_ARCH_LIST"]
        options["libraries"] += ["cudart", "c10_cuda", "torch_cuda"]
        host = "-Xcompiler=" + ",".join(["-fvisibility=hidden", *warnings])
        nvcc = ["-O3", "-std=c++20", host, "-DUSE_CUDA", "-Xptxas=-v", *stable, *system]
        compile_args = {"cxx": flags + stable + system, "nvcc": nvcc}
        return Extension(name, sources, extra_compile_args=compile_args, py_limited_api=True, **options)

    def install_in_place(self) -> None:
        source = ROOT / "dynconv"
        remove_stale(source)
        self.in_place = {str(path): str(source / path.name) for path in self.outputs}
        for built, target in self.in_place.items():
            # A running process may have the old file mapped: a new file, never an overwritten one.
            Path(target).unlink(missing_ok=True)
            shutil.copy2(built, target)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in getattr(self, "outputs", [])]

    def get_output_mapping(self) -> dict[str, str]:
        return getattr(self, "in_place", {})


# Folders of the root that are packages of dynconv; a checkout also has links to them, which setuptools would find.
LINKED = {"dynconv.kernels": "kernels", "dynconv.bench": "bench"}
packages = [name for name in find_packages(include=["dynconv", "dynconv.*"]) if not name.startswith(tuple(LINKED))]
setup(
    packages=[*packages, *LINKED],
    package_dir=LINKED,
    # Their presence tells setuptools that the wheel is for one platform; BuildNative decides what becomes of them.
    ext_modules=[] if MODE == "none" else [Extension(f"dynconv.{part}", sources) for part, sources in PARTS.items()],
    cmdclass={"build_py": BuildPython, "build_ext": BuildNative},
)
