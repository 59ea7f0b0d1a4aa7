# make demo    the whole flow on bundled data, in under 3 minutes after the install
# make test    the whole test suite, style and types included
# make lint    style, types and import rules only
# make docs    the site, into site/
#
# Each sets up .venv first, once, against constraints.txt.

PYTHON ?= python3
# PyPI's Linux wheel of torch carries gigabytes of CUDA; PyTorch's own index has the CPU build. Only torch itself is
# looked for there. Set it empty to take whatever pip finds elsewhere.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint format docs lock clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.ready
	$(BIN)/paretune demo

# Two processes of one thread each: threads of several processes on the same cores wait for each other.
test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.ready-dev
	$(BIN)/python -m mkdocs build --strict

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "paretune needs Python 3.11 or newer, and $(PYTHON) is older or missing: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(PIP) --no-deps --retries 2 --timeout 60 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.ready: $(VENV)/.torch pyproject.toml
	$(PIP) -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) -e '.[dev]'
	@touch $@

# After a change of dependencies: write what is installed now as the versions that everyone gets.
lock:
	$(BIN)/python -m pip freeze --exclude-editable | grep -v '^#' | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf site dist build
