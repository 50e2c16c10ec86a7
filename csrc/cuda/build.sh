#!/usr/bin/env bash
# Compiles and links the CUDA operators without a GPU and without a system toolkit: nvcc comes by pip, in the release that
# this environment's torch was built for. VENV names the environment.
set -euo pipefail
bin=$PWD/${VENV:?set VENV to the virtual environment}/bin
say() { printf '==> %s\n' "$1"; }

cuda=$("$bin/python" -c 'import torch; print(torch.version.cuda or "")')
if [ -z "$cuda" ]; then
  echo 'this torch is built without CUDA: install one with CUDA into the environment first' >&2
  exit 1
fi
say "installing nvcc of CUDA $cuda"
"$bin/pip" install --quiet --disable-pip-version-check "cuda-toolkit[nvcc,cudart,cccl]==$cuda.*"
site=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
CUDA_HOME=$site/nvidia/cu${cuda%%.*}
if [ ! -x "$CUDA_HOME/bin/nvcc" ]; then
  echo "no nvcc at $CUDA_HOME/bin/nvcc: the wheels of CUDA $cuda are laid out in another way (this needs CUDA 13 or newer)" >&2
  exit 1
fi

# The wheel holds libcudart.so.13 alone; the linker looks for libcudart.so.
link=$PWD/$VENV/cuda-link
mkdir -p "$link"
ln -sf "$CUDA_HOME"/lib/libcudart.so.* "$link/libcudart.so"

say 'compiling and linking the CUDA operators (two minutes)'
export CUDA_HOME
LIBRARY_PATH="$link${LIBRARY_PATH:+:$LIBRARY_PATH}" DYNCONV_BUILD=cuda \
  "$bin/pip" install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
"$bin/python" csrc/cuda/resources.py dynconv/_native_cuda*.so
