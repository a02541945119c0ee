# make test | make test-demo | make test-core | make demo | make notebook | make lint | make docs | make clean. Each sets
# itself up on a machine with Python >= 3.11 and make.

# The newest interpreter that will do, pyenv's included; override with `make test PYTHON=/path/to/python`.
PYTHON ?= $(shell .ci/python)
# Extras of setup.cfg on top of those that are always installed: `make test EXTRAS=sm90`.
EXTRAS :=
VENV := .venv
BIN := $(VENV)/bin
comma := ,
READY := $(VENV)/.ready$(EXTRAS:%=-%)
DOCS_READY := $(VENV)/.ready-docs
NOTEBOOK_READY := $(VENV)/.ready-notebook
# The demo starts sooner without what only tests need.
DEMO_READY := $(VENV)/.ready-demo
# The oldest supported end has an environment of its own, without compilers for chips that are absent.
CORE_VENV := .venv-3.11
CORE_READY := $(CORE_VENV)/.ready

# Whole files, whose fixtures are made once, in the order of tests/conftest.py: long ones first.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

# What has to work on the oldest Python and JAX too: model, flow, kernels, resuming, loading, the command line.
CORE_TESTS := tests/model tests/flow \
  tests/pallas_kernels/gated_delta/test_reference.py tests/pallas_kernels/gated_delta/test_xla.py \
  tests/pallas_kernels/window_attention/test_reference.py tests/pallas_kernels/window_attention/test_xla.py \
  tests/training/test_resume.py tests/data_pipelines/test_loader.py tests/cli/test_main.py tests/test_namespace.py

export MUJOCO_GL ?= egl

.PHONY: test test-demo test-core demo notebook lint docs clean

# Most programs of tests run once, and code that LLVM does not optimize is there in half the time; test-core optimizes it.
test: export XLA_FLAGS += --xla_backend_optimization_level=0
test: $(READY)
	$(BIN)/python -m pytest $(WORKERS)

# The demo at lower numbers, as a user runs it.
test-demo: $(READY)
	$(BIN)/python -m pytest -m slow tests/demo/test_demo.py

test-core: $(CORE_READY)
	$(CORE_VENV)/bin/python -m pytest $(WORKERS) $(CORE_TESTS)

demo: $(DEMO_READY)
	$(BIN)/kairos demo

# Each .py there opens as a notebook, paired by jupytext.
notebook: $(NOTEBOOK_READY)
	$(BIN)/jupyter lab experiments/notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_READY)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

clean:
	rm -rf $(VENV) $(CORE_VENV) runs build dist *.egg-info
	find . -name __pycache__ -not -path "./.git/*" -prune -exec rm -rf {} +

$(READY): setup.cfg pyproject.toml .ci/setup
	.ci/setup "$(PYTHON)" $(VENV) test,lint,tpu$(EXTRAS:%=$(comma)%)
	touch $@

$(DOCS_READY): $(READY)
	.ci/setup $(BIN)/python $(VENV) docs
	touch $@

$(NOTEBOOK_READY): $(READY)
	.ci/setup $(BIN)/python $(VENV) notebook
	touch $@

$(DEMO_READY): setup.cfg pyproject.toml .ci/setup
	.ci/setup "$(PYTHON)" $(VENV)
	touch $@

$(CORE_READY): setup.cfg pyproject.toml .ci/setup
	.ci/setup "$(shell .ci/python 3.11)" $(CORE_VENV) test
	touch $@
