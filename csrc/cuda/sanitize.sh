#!/usr/bin/env bash
# Runs the GPU tests, and those of the Triton kernels that run on whatever device there is, under compute-sanitizer:
# memcheck (reads and writes out of bounds) and racecheck (races in shared memory). Without a GPU, or without the CUDA
# operators, it fails. PYTHON names the environment's interpreter; further arguments go to pytest.
set -euo pipefail
python=${PYTHON:?set PYTHON to the interpreter of the environment}
bin=$(dirname "$python")
say() { printf '==> %s\n' "$1"; }

if ! "$python" -P -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo 'make sanitize-gpu needs a CUDA device, and torch finds none here: nothing was checked' >&2
  exit 1
fi
if ! reason=$("$python" -P -c 'import sys, dynconv.functional
from dynconv import backends
sys.exit(backends.native_missing("cuda"))' 2>&1); then
  echo "make sanitize-gpu needs the CUDA operators (make cuda-build): $reason" >&2
  exit 1
fi

tool=$(command -v compute-sanitizer || true)
if [ -z "$tool" ]; then
  cuda=$("$python" -P -c 'import torch; print(torch.version.cuda)')
  say "installing compute-sanitizer of CUDA $cuda"
  "$bin/pip" install --quiet --disable-pip-version-check "cuda-toolkit[sanitizer]==$cuda.*"
  site=$("$python" -P -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  tool=$site/nvidia/cu${cuda%%.*}/bin/compute-sanitizer
fi
if [ ! -x "$tool" ]; then
  echo "no compute-sanitizer on PATH or at $tool: nothing was checked" >&2
  exit 1
fi

# PYTORCH_NO_CUDA_MEMORY_CACHING: each tensor is an allocation of its own, so that a read beyond it is seen. A CUDA
# graph cannot be captured that way, nor peak memory be counted; the tests of these run with the caching allocator.
check() {
  say "$1"
  shift
  "$tool" --error-exitcode 86 --print-limit 20 "$@"
}
cd "$(dirname "$0")/../.."
operators=(tests/ops tests/kernels tests/nn)
cached='graph or workspace_bounds'
# Inductor's kernels are not ours.
check 'memcheck' --tool memcheck env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
  "$bin/pytest" -q -m gpu -k "not ($cached or inductor)" "$@" "${operators[@]}"
check 'memcheck, CUDA graphs and peak memory' --tool memcheck \
  "$bin/pytest" -q -m gpu -k "$cached" "$@" "${operators[@]}"
# Of the engine's runs those whose networks and discriminators go through the operators.
check 'memcheck, runs' --tool memcheck \
  "$bin/pytest" -q -m gpu -k 'family_trains_and and (drt or gsda)' "$@" tests/engine
# These are not marked gpu: on a machine without one they run in Triton's interpreter.
check 'memcheck, kernels' --tool memcheck env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
  "$bin/pytest" -q -m 'not slow and not gpu' "$@" tests/kernels
# Elsewhere only the vendor's kernels run, whose races are not ours; large tensors race no otherwise than small ones.
check 'racecheck' --tool racecheck \
  "$bin/pytest" -q -m gpu -k 'not beyond_32_bits and not eager and not inductor' "$@" tests/ops tests/kernels
check 'racecheck, kernels' --tool racecheck "$bin/pytest" -q -m 'not slow and not gpu' "$@" tests/kernels
