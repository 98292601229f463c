# `make` lists the targets. Everything they install, download or cache lies in .venv/ of this folder.

# Another environment beside it, for another Python: make VENV=.venv313 PYTHON=python3.13 test
VENV ?= .venv
# The interpreter it is made with: the first of these that is Python 3.11 or newer. Or: make PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PYTEST_ARGS ?=
# A process a core, each of a few GB; whoever is done takes over tests of the others. For one: PYTEST_ARGS="-n 0"
WORKERS := -n auto --maxprocesses 4 --dist worksteal

CACHE := $(abspath $(VENV))/cache
export PATH := $(abspath $(VENV))/bin:$(PATH)
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

RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet
UV := $(VENV)/bin/uv
# uv is ten times faster; pip replaces it where uv is not available or cannot reach the index.
# Compiled now, what is installed does not have to be at the first run's start, which would take half a minute.
install = { test -x $(UV) && $(UV) pip install --quiet --compile-bytecode --python $(RUN) $(1); } || $(PIP) $(1)
# The exact versions of the lock $(1), each file as its hash says. Where no such version fits this Python or this
# machine, what the ranges $(2) allow. A file that is not the one that was locked ends it: it may be anybody's.
locked = { $(call install,--require-hashes -r $(1)); } 2>$(VENV)/install.log || { \
	cat $(VENV)/install.log >&2; \
	if grep -qiE "hash mismatch|not match the hashes|hashes are required" $(VENV)/install.log; then \
		echo "make: a file is not the one that $(1) names (see above): nothing was installed" >&2; exit 1; fi; \
	echo "make: the exact versions do not fit this Python; taking what $(2) allows"; \
	$(call install,$(2:%=-r %)); }

# An environment stays with the Python it was made with: another one is not used in silence.
ifneq (,$(filter command environment,$(firstword $(origin PYTHON))))
ifneq (,$(wildcard $(RUN)))
ifeq (,$(filter clean help,$(MAKECMDGOALS)))
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifneq ($(call version,$(PYTHON)),$(call version,$(RUN)))
$(error $(VENV) has Python $(call version,$(RUN)), and PYTHON=$(PYTHON) is another ($(call version,$(PYTHON))): \
	make one beside it, VENV=.venv-other, or remove it, make clean)
endif
endif
endif
endif

.PHONY: help demo test test-long test-slow test-torch test-beam docs lint format lock clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        adapt the bundled CLIP to MiniPEDES; ends with runs/demo/report.html"
	@echo "make test        formatting, linter, types, tests   (PYTEST_ARGS='-k metrics' for some)"
	@echo "make test-long   the tests that take long and guard something rare (tests/long.py)"
	@echo "make test-slow   the tests that run for many minutes: several processes, kills, all meshes"
	@echo "make test-torch  the tests that need PyTorch, which it installs"
	@echo "make test-beam   the tests that need Apache Beam, in an environment of its own below .venv"
	@echo "make docs        the pages of docs/ as a site: site/index.html"
	@echo "make lint        formatting, linter and types only"
	@echo "make format      format and fix what the linter can fix"
	@echo "make lock        resolve requirements*.txt into *.lock again"
	@echo "make clean       remove .venv and caches; runs/ stays"

demo: $(VENV)/.installed
	$(RUN) -m tpr_jax.main --config configs/dm_adapter.py --workdir runs/demo

test: lint
	$(RUN) -m pytest --timeout 900 -m "not torch and not slow and not long" $(WORKERS) $(PYTEST_ARGS)

test-long: $(VENV)/.test-tools
	$(RUN) -m pytest --timeout 900 -m "long and not torch and not slow" $(WORKERS) $(PYTEST_ARGS)

test-slow: $(VENV)/.test-tools
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest --timeout 1800 -m "(slow or golden or everywhere) and not torch" $(WORKERS) $(PYTEST_ARGS)

test-torch: $(VENV)/.torch
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest --timeout 900 -m torch $(WORKERS) $(PYTEST_ARGS)

# Beam wants older versions of what is in .venv.
test-beam: $(VENV)/.beam
	$(VENV)/beam/bin/python -m pytest --timeout 900 tests/data/tfds_builders/test_main.py $(PYTEST_ARGS)

# The notice that this switches off says what requirements-docs.txt says.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "written to site/: open site/index.html in a browser"

lint: $(VENV)/.test-tools
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m ty check --quiet --python $(VENV)

format: $(VENV)/.test-tools
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# One lock for Python 3.11 and newer: markers say which version is for which Python.
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock"
lock: $(VENV)/.installed
	$(COMPILE) requirements.txt requirements-tensorflow.txt -o requirements.lock
	$(COMPILE) -c requirements.lock requirements-test.txt -o requirements-test.lock
	$(COMPILE) -c requirements.lock requirements-docs.txt -o requirements-docs.lock
	$(COMPILE) requirements-uv.txt -o requirements-uv.lock

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find tpr_jax tests configs -name __pycache__ -type d -prune -exec rm -rf {} +

# pip or uv write only below $(VENV); `make clean` undoes all of it.
$(RUN):
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one, or: make PYTHON=/path/to/python"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || uv venv --quiet --seed --python "$(PYTHON)" $(VENV) \
		|| { echo "make: $(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.installed: requirements.lock requirements-uv.lock requirements.txt requirements-tensorflow.txt | $(RUN)
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(RUN) -m ensurepip >/dev/null
	@$(PIP) --require-hashes -r requirements-uv.lock || echo "make: uv is not available; pip takes minutes instead"
	@$(call locked,requirements.lock,requirements.txt requirements-tensorflow.txt)
	@touch $@

$(VENV)/.test-tools: requirements-test.lock requirements-test.txt $(VENV)/.installed
	@$(call locked,requirements-test.lock,requirements-test.txt)
	@touch $@

$(VENV)/.docs: requirements-docs.lock requirements-docs.txt $(VENV)/.installed
	@$(call locked,requirements-docs.lock,requirements-docs.txt)
	@touch $@

# By pip and not by uv: pip follows the index settings of the machine, which often name a small build; that has
# other hashes than the index's, so there are none here.
$(VENV)/.torch: requirements-torch.txt $(VENV)/.test-tools
	$(PIP) -r requirements-torch.txt
	@touch $@

$(VENV)/.beam: requirements-beam.txt requirements-test.txt $(VENV)/.installed
	@$(RUN) -m venv $(VENV)/beam
	@{ test -x $(UV) && $(UV) pip install --quiet --python $(VENV)/beam/bin/python -r requirements-beam.txt -r requirements-test.txt; } \
		|| $(VENV)/beam/bin/python -m pip install --quiet -r requirements-beam.txt -r requirements-test.txt
	@touch $@
