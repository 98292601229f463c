# `make` lists the targets. Everything they install, download or cache lies in .venv/ of this folder.

# The interpreter .venv is made with: the first of these that is Python 3.11 or newer. Or: make PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PYTEST_ARGS ?=
# A process a core, each of a few GB; whoever is done takes over tests of the others. For one: PYTEST_ARGS="-n 0"
WORKERS := -n auto --maxprocesses 4 --dist worksteal

CACHE := $(CURDIR)/.venv/cache
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export UV_CACHE_DIR := $(CACHE)/uv
export PIP_CACHE_DIR := $(CACHE)/pip
export XDG_CACHE_HOME := $(CACHE)
export HF_HOME := $(CACHE)/huggingface
export KERAS_HOME := $(CACHE)/keras
export MPLCONFIGDIR := $(CACHE)/matplotlib
export NUMBA_CACHE_DIR := $(CACHE)/numba
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_PYTHON_DOWNLOADS := never
# TensorFlow only reads and augments photos here; its notices about CPU features would bury the run's own lines.
export TF_CPP_MIN_LOG_LEVEL ?= 2

RUN := .venv/bin/python
PIP := $(RUN) -m pip install --quiet
# uv is ten times faster; pip does where uv cannot be had or cannot reach the index.
# Compiled now, what is installed does not have to be at the first run's start, which would take half a minute.
install = { command -v uv >/dev/null && uv pip install --compile-bytecode --python $(RUN) $(1); } || $(PIP) $(1)

.PHONY: help demo test test-slow test-torch test-beam docs lint format lock clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        adapt the bundled CLIP to MiniPEDES; ends with runs/demo/report.html"
	@echo "make test        formatting, linter and tests      (PYTEST_ARGS='-k metrics' for some)"
	@echo "make test-slow   the tests that run for many minutes: several processes, kills, all meshes"
	@echo "make test-torch  the tests that need PyTorch, which it installs"
	@echo "make test-beam   the tests that need Apache Beam, in an environment of its own below .venv"
	@echo "make docs        the pages of docs/ as a site: site/index.html"
	@echo "make lint        formatting and linter only"
	@echo "make format      format and mend what the linter can mend"
	@echo "make lock        resolve requirements*.txt into *.lock again"
	@echo "make clean       remove .venv and caches; runs/ stays"

demo: .venv/.installed
	$(RUN) -m tpr_jax.main --config configs/dm_adapter.py --workdir runs/demo

test: lint
	$(RUN) -m pytest --timeout 900 -m "not torch and not slow" $(WORKERS) $(PYTEST_ARGS)

test-slow: .venv/.test-tools
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest --timeout 1800 -m "(slow or golden) and not torch" $(WORKERS) $(PYTEST_ARGS)

test-torch: .venv/.torch
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest --timeout 900 -m torch $(PYTEST_ARGS)

# Beam wants older versions of what is in .venv.
test-beam: .venv/.beam
	.venv/beam/bin/python -m pytest --timeout 900 tests/test_tfds_builders.py $(PYTEST_ARGS)

# The notice that this switches off says what requirements-docs.txt says.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "written to site/: open site/index.html in a browser"

lint: .venv/.test-tools
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

format: .venv/.test-tools
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock: .venv/.installed
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
		--custom-compile-command "make lock" requirements.txt -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate -c requirements.lock \
		--custom-compile-command "make lock" requirements-test.txt -o requirements-test.lock

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
	find tpr_jax tests configs -name __pycache__ -type d -prune -exec rm -rf {} +

# pip or uv write only below .venv; `make clean` undoes all of it.
.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one, or: make PYTHON=/path/to/python"; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv || uv venv --quiet --seed --python "$(PYTHON)" .venv \
		|| { echo "make: $(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

.venv/.installed: requirements.lock requirements.txt | .venv/bin/python
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(RUN) -m ensurepip >/dev/null
	@command -v uv >/dev/null || $(PIP) uv || echo "make: uv cannot be had; pip does, but takes minutes"
	@$(call install,-r requirements.lock) || { \
		echo "make: the exact versions do not fit this Python; taking what requirements.txt allows"; \
		$(call install,-r requirements.txt); }
	@touch $@

.venv/.test-tools: requirements-test.lock requirements-test.txt .venv/.installed
	@$(call install,-r requirements-test.lock) || { $(call install,-r requirements-test.txt); }
	@touch $@

.venv/.docs: requirements-docs.txt requirements.lock .venv/.installed
	@$(call install,-r requirements-docs.txt -c requirements.lock) || { $(call install,-r requirements-docs.txt); }
	@touch $@

# By pip and not by uv: pip follows the index settings of the machine, which often name a small build.
.venv/.torch: requirements-torch.txt .venv/.test-tools
	$(PIP) -r requirements-torch.txt
	@touch $@

.venv/.beam: requirements-beam.txt requirements-test.txt .venv/.installed
	@$(RUN) -m venv .venv/beam
	@{ command -v uv >/dev/null && uv pip install --python .venv/beam/bin/python -r requirements-beam.txt -r requirements-test.txt; } \
		|| .venv/beam/bin/python -m pip install --quiet -r requirements-beam.txt -r requirements-test.txt
	@touch $@
