"""The build: what is packed where, and that a mode which cannot do its work says so."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"_host", "_native_cpu", "_native_cuda"}
SOURCES = ("bench", "csrc", "dynconv", "kernels", "pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE")

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="runs in a checkout, which has setup.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a build reads, without the files that one here may have left."""
    tree = tmp_path / "tree"
    tree.mkdir()
    leave = shutil.ignore_patterns("__pycache__", "*.so", "build_record.json")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=leave)
        else:
            shutil.copy(ROOT / name, tree / name)
    (tree / "README.md").write_text("# dynconv\n")
    return tree


def python(tree: Path, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in ``tree``, with no variable that steers a build but those given."""
    steering = ("DYNCONV_BUILD", "CXX", "CC", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "PYTHONPATH")
    clean = {name: value for name, value in os.environ.items() if name not in steering}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=tree, env=clean | environment, check=check, capture_output=True, text=True)


def build_native(tree: Path, *, check: bool = True, **environment: str) -> tuple[int, str, dict]:
    """Exit status, output and record of ``build_ext``."""
    command = ("setup.py", "build_ext", "--build-lib", "built", "--build-temp", "objects")
    result = python(tree, *command, check=check, **environment)
    record = tree / "built" / "dynconv" / "build_record.json"
    facts = json.loads(record.read_text()) if record.is_file() else {}
    return result.returncode, result.stdout + result.stderr, facts


def hook(tree: Path, name: str) -> Path:
    """What a hook of the build backend makes, without native code, as ``pip`` calls it."""
    program = f"import setuptools.build_meta as b; print('made', b.{name}('made'))"
    (tree / "made").mkdir()
    output = python(tree, "-c", program, DYNCONV_BUILD="none").stdout
    return tree / "made" / output.rsplit("made ", 1)[1].strip()


def where_imports_lead(tree: Path, site: Path) -> dict[str, str | None]:
    """Where an interpreter whose only packages are those of ``site`` finds ``dynconv.kernels`` and ``kernels``."""
    program = (
        "import importlib.util as u, json, site, sys; site.addsitedir(sys.argv[1])\n"
        "specs = {name: u.find_spec(name) for name in ('dynconv', 'dynconv.kernels', 'kernels')}\n"
        "print(json.dumps({name: spec and spec.origin for name, spec in specs.items()}))"
    )
    # -S: the packages of this interpreter stay out; -P: so does the folder it runs in.
    elsewhere = tree / "made"
    return json.loads(python(elsewhere, "-S", "-P", "-c", program, str(site)).stdout)


def test_a_wheel_has_the_kernels_as_a_package_of_dynconv_and_no_global_one(tree: Path) -> None:
    # A source distribution leaves the links out, and with them setuptools would find the packages by itself.
    for name in ("bench", "kernels"):
        (tree / "dynconv" / name).unlink()
    wheel = hook(tree, "build_wheel")
    assert wheel.name.endswith("-py3-none-any.whl")
    site = tree / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(site)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"dynconv"}
    assert {"dynconv/kernels/__init__.py", "dynconv/kernels/dynamic_conv2d.py", "dynconv/py.typed"} <= names
    bench = {"__init__.py", "README.md", "bench_dynamic_conv2d.py", "compare.py", "plot.py"}
    assert {f"dynconv/bench/{name}" for name in bench} <= names
    assert {"dynconv/report/page/page.css", "dynconv/report/page/page.html.jinja"} <= names
    assert not {name for name in names if name.endswith((".so", ".cpp", ".cu"))}
    found = where_imports_lead(tree, site)
    assert found["dynconv.kernels"] == str(site / "dynconv" / "kernels" / "__init__.py")
    assert found["kernels"] is None
    record = json.loads((site / "dynconv" / "build_record.json").read_text())
    assert record["mode"] == "none" and set(record["left_out"]) == PARTS


def test_an_editable_install_has_the_kernels_as_a_package_of_dynconv_and_no_global_one(tree: Path) -> None:
    wheel = hook(tree, "build_editable")
    site = tree / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    found = where_imports_lead(tree, site)
    assert found["dynconv"] == str(tree / "dynconv" / "__init__.py")
    assert found["dynconv.kernels"] == str(tree / "dynconv" / "kernels" / "__init__.py")
    assert os.path.samefile(str(found["dynconv.kernels"]), tree / "kernels" / "__init__.py")
    assert found["kernels"] is None
    assert json.loads((tree / "dynconv" / "build_record.json").read_text())["mode"] == "none"


def test_a_source_distribution_has_the_native_sources_and_the_kernels_once(tree: Path) -> None:
    with tarfile.open(hook(tree, "build_sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"csrc/cpu/coefficients.cpp", "csrc/cuda/coefficients.cu", "csrc/coefficients.h", "setup.py"} <= names
    assert {"kernels/dynamic_conv2d.py", "bench/bench_dynamic_conv2d.py", "bench/README.md"} <= names
    assert not {name for name in names if name.startswith(("dynconv/kernels", "dynconv/bench"))}


def test_a_build_of_nothing_deletes_the_libraries_of_an_earlier_one(tree: Path) -> None:
    stale = tree / "dynconv" / "_native_cuda.abi3.so"
    stale.touch()
    hook(tree, "build_editable")
    assert not stale.exists()


def test_an_unknown_build_mode_is_refused_with_the_known_ones(tree: Path) -> None:
    code, output, _ = build_native(tree, check=False, DYNCONV_BUILD="bogus")
    assert code != 0
    assert "DYNCONV_BUILD='bogus': expected one of auto, none, cpu, cuda" in output


@pytest.mark.parametrize("mode", ["cpu", "cuda"])
def test_a_strict_mode_fails_without_a_compiler_and_names_it(tree: Path, mode: str) -> None:
    code, output, record = build_native(tree, check=False, DYNCONV_BUILD=mode, CXX="/nonexistent/c++")
    assert code != 0 and not record
    assert f"DYNCONV_BUILD={mode}: cannot build dynconv._host" in output
    assert "the C++ compiler '/nonexistent/c++' was not found" in output


def test_auto_goes_on_without_a_compiler_and_records_why(tree: Path) -> None:
    stale = tree / "built" / "dynconv" / "_native_cpu.abi3.so"
    stale.parent.mkdir(parents=True)
    stale.touch()
    code, output, record = build_native(tree, DYNCONV_BUILD="auto", CXX="/nonexistent/c++")
    reason = "the C++ compiler '/nonexistent/c++' was not found; install one or point CXX at it"
    assert code == 0 and record["mode"] == "auto" and record["built"] == {}
    assert record["left_out"] == dict.fromkeys(PARTS, reason)
    assert reason in output
    assert not stale.exists(), "a library of an earlier build would be packed with this one"


def test_cuda_fails_without_nvcc_before_anything_is_compiled(tree: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler, whose absence would be reported first")
    code, output, record = build_native(tree, check=False, DYNCONV_BUILD="cuda", CXX=compiler, CUDA_HOME="/nonexistent")
    assert code != 0 and not record and not (tree / "objects").exists()
    assert "DYNCONV_BUILD=cuda: cannot build dynconv._native_cuda" in output
    assert "no nvcc at /nonexistent/bin/nvcc" in output


@pytest.mark.parametrize(("mode", "succeeds"), [("auto", True), ("cpu", False)])
def test_a_compilation_that_fails_is_recorded_by_auto_and_stops_cpu(tree: Path, mode: str, succeeds: bool) -> None:
    for source in tree.glob("csrc/*/*.c*"):
        source.write_text("#error a source that does not compile\n")
    environment = {"DYNCONV_BUILD": mode, "CUDA_HOME": "/nonexistent"}
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler, whose absence would be reported first")
    code, output, record = build_native(tree, check=False, **environment)
    assert (code == 0) is succeeds
    assert "a source that does not compile" in output
    if succeeds:
        assert record["built"] == {} and "the build failed" in record["left_out"]["_native_cpu"]
    else:
        assert "DYNCONV_BUILD=cpu: cannot build dynconv._host: the build failed" in output


@pytest.mark.slow
def test_a_strict_cpu_build_makes_the_operators_and_the_host_module(tree: Path) -> None:
    code, output, record = build_native(tree, DYNCONV_BUILD="cpu")
    assert code == 0 and set(record["built"]) == {"_host", "_native_cpu"}
    assert record["left_out"] == {"_native_cuda": "DYNCONV_BUILD=cpu"}
    assert "warning:" not in output
    for name in record["built"].values():
        assert (tree / "built" / "dynconv" / name).stat().st_size > 0


def test_the_host_module_tells_how_the_build_was_made() -> None:
    from dynconv import backends

    if "_host" not in backends.build_record().get("built", {}):
        pytest.skip("dynconv was installed without a native build")
    host = importlib.import_module("dynconv._host")
    facts = host.build_info()
    assert facts["compiler"].split()[0] in ("gcc", "clang", "msvc")
    assert facts["torch"] == backends.build_record()["environment"]["torch"]
    assert (facts["cuda"] == "none") == ("_native_cuda" not in backends.build_record()["built"])
    assert facts["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert all(isinstance(name, str) for name in host.cpu_capabilities())


def test_the_tests_do_not_see_the_kernels_as_a_global_package() -> None:
    found = importlib.util.find_spec("kernels")
    # tests/kernels may be found as a namespace package; the folder at the root must not be.
    places = list(found.submodule_search_locations or []) if found else []
    assert str(ROOT / "kernels") not in places, "run plain `pytest`: `python -m pytest` puts the root on sys.path"


@pytest.mark.parametrize("statement", ["import kernels.dynamic_conv2d", "from kernels import dynamic_conv2d"])
def test_ruff_bans_importing_the_kernels_as_a_global_package(statement: str) -> None:
    ruff = shutil.which("ruff", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if ruff is None:
        pytest.skip("ruff is not installed (pip install 'dynconv[dev]')")
    command = [ruff, "check", "--no-cache", "--stdin-filename", str(ROOT / "dynconv" / "x.py"), "-"]
    result = subprocess.run(command, input=statement + "\n", cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "TID251" in result.stdout
