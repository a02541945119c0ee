# make test | make demo | make lint | make clean. Each sets itself up on a machine with Python >= 3.11 and make.

# The first interpreter that will do; override with `make test PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
# Extras of setup.cfg that tests can do without: `make test EXTRAS=sm90`.
EXTRAS :=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready$(EXTRAS:%=-%)

export MUJOCO_GL ?= egl

.PHONY: test demo lint clean

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

demo: $(READY)
	$(BIN)/kairos demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build dist *.egg-info
	find . -name __pycache__ -not -path "./.git/*" -prune -exec rm -rf {} +

$(READY): setup.cfg pyproject.toml .ci/setup
	.ci/setup "$(PYTHON)" $(VENV) $(EXTRAS)
	touch $@
