# `make demo` and `make test` set themselves up: a virtual environment in .venv, the dependencies by pip, the native CPU build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NATIVE := $(wildcard csrc/*.h csrc/*/*.cpp csrc/*/*.h csrc/*/*.cu csrc/*/*.cuh)
SAY := @printf '==> %s\n'

# The environment is stale when the metadata or the native code changed, and when it was made elsewhere or by another Python.
STATE := $(CURDIR) $(shell $(PYTHON) --version 2>&1)
ifneq ($(STATE),$(shell cat $(READY) 2>/dev/null))
.PHONY: $(READY)
endif

.PHONY: help demo test docs cuda-build sanitize sanitize-gpu clean

help:
	@echo 'make demo        train source-only, MCD and DRT on embedded digits and print one table'
	@echo 'make test        ruff, mypy and the default tier of the tests; brings Chromium by apt where that is there and permitted'
	@echo 'make docs        build the documentation into docs/_build/html: tutorials, guides, API reference'
	@echo 'make cuda-build  bring nvcc by pip, compile and link the CUDA operators (needs no GPU)'
	@echo 'make sanitize    the tests of the CPU operators under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make sanitize-gpu  the GPU tests under compute-sanitizer (needs a GPU and make cuda-build)'
	@echo 'make clean       remove the environment and everything built'
	@echo 'PYTHON=...       the interpreter the environment is made from (3.11 or newer; now $(PYTHON))'

$(READY): pyproject.toml setup.py $(NATIVE)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"dynconv needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}: set PYTHON=...")'
	@[ "$$(cat $(READY) 2>/dev/null)" = "$(STATE)" ] && $(BIN)/python -c '' 2>/dev/null || \
		{ printf '==> %s\n' 'making the environment in $(VENV)'; $(PYTHON) -m venv --clear $(VENV); }
	$(SAY) 'installing torch and the build tools (the first time a download of up to 3 GB, minutes)'
	@$(BIN)/pip install --quiet --disable-pip-version-check 'torch>=2.10' 'setuptools>=77' wheel ninja 'pybind11>=3.0'
	$(SAY) 'installing dynconv with its dependencies and the native CPU build'
	@DYNCONV_BUILD=cpu $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[train,dev,export]'
	@printf '%s\n' '$(STATE)' > $@

demo: $(READY)
	@$(BIN)/python -m dynconv.demo

test: $(READY)
	$(SAY) 'ruff'
	@$(BIN)/ruff check .
	$(SAY) 'mypy'
	@$(BIN)/mypy
	@bash tests/install_browser.sh
	$(SAY) 'pytest, two files at a time'
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

docs: $(READY)
	$(SAY) 'installing what builds the documentation'
	@$(BIN)/pip install --quiet --disable-pip-version-check 'furo>=2024.8' 'myst-parser>=4' 'sphinx>=8'
	@$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	$(SAY) 'open docs/_build/html/index.html'

cuda-build: $(READY)
	@VENV=$(VENV) bash csrc/cuda/build.sh

sanitize: $(READY)
	@PYTHON=$(CURDIR)/$(BIN)/python bash csrc/cpu/sanitize.sh

sanitize-gpu: $(READY)
	@PYTHON=$(CURDIR)/$(BIN)/python bash csrc/cuda/sanitize.sh

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f dynconv/_host*.so dynconv/_native*.so dynconv/build_record.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
