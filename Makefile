# `make` lists the targets. Everything that they install, download or cache is in .venv/ of this folder.

# To use a separate environment, for another Python: make VENV=.venv313 PYTHON=python3.13 test
VENV ?= .venv
# The interpreter of the environment: the first of these that is Python 3.11 or newer. Or: make PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PYTEST_ARGS ?=
# One process more than cores (tests/conftest.py), with a few GB each; idle ones take over tests from others. To use one: PYTEST_ARGS="-n 0"
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
# TensorFlow only feeds the batches here; its notices about CPU features would bury the output of the run.
export TF_CPP_MIN_LOG_LEVEL ?= 2

RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet
UV := $(VENV)/bin/uv
# uv is ten times faster; pip replaces it if uv is not available or cannot reach the index.
# Bytecode is compiled during installation: at the start of the first run, it would take half a minute. .ci/run sets
# BYTECODE to nothing, because its many processes import only some of these files.
BYTECODE ?= --compile-bytecode
install = { test -x $(UV) && $(UV) pip install --quiet $(BYTECODE) --python $(RUN) $(1); } || $(PIP) $(1)
# Installs the exact versions of the lock $(1) and verifies their hashes. If a version does not fit this Python or
# machine, installs what the ranges $(2) allow. A file with another hash is an error, because it is not trusted.
locked = { $(call install,--require-hashes -r $(1)); } 2>$(VENV)/install.log || { \
	cat $(VENV)/install.log >&2; \
	if grep -qiE "hash mismatch|not match the hashes|hashes are required" $(VENV)/install.log; then \
		echo "make: a file does not match its hash in $(1) (see above): nothing was installed" >&2; exit 1; fi; \
	echo "make: the exact versions do not fit this Python; installing what $(2) allows"; \
	$(call install,$(2:%=-r %)); }

# An environment keeps the Python that it was created with: another PYTHON is an error.
ifneq (,$(filter command environment,$(firstword $(origin PYTHON))))
ifneq (,$(wildcard $(RUN)))
ifeq (,$(filter clean help,$(MAKECMDGOALS)))
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifneq ($(call version,$(PYTHON)),$(call version,$(RUN)))
$(error $(VENV) has Python $(call version,$(RUN)), but PYTHON=$(PYTHON) is another one ($(call version,$(PYTHON))): \
	create another one with VENV=.venv-other, or remove it with make clean)
endif
endif
endif
endif

.PHONY: help demo test test-long test-slow test-torch test-beam docs lint format lock clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        adapt the bundled CLIP to MiniPEDES; ends with runs/demo/report.html"
	@echo "make test        formatting, linter, types, tests   (PYTEST_ARGS='-k metrics' for some)"
	@echo "make test-long   the tests that take long and cover rare cases (tests/long.py)"
	@echo "make test-slow   the tests that run for many minutes: several processes, kills, meshes"
	@echo "make test-torch  the tests that need PyTorch, which it installs"
	@echo "make test-beam   the tests that need Apache Beam, in a separate environment below .venv"
	@echo "make docs        the pages of docs/ as a site: site/index.html"
	@echo "make lint        formatting, linter and types only"
	@echo "make format      format and fix what the linter can fix"
	@echo "make lock        resolve requirements*.txt into *.lock again"
	@echo "make clean       remove .venv and caches; runs/ stays"

demo: $(VENV)/.installed
	$(RUN) -m tpr_jax.main --config configs/dm_adapter.py --workdir runs/demo

# .ci/run sets MARKS to run the long tests with the quick ones and those with PyTorch with the slow ones: they share what
# is compiled, and no core waits between the two.
test: MARKS = not torch and not slow and not long
test: lint
	$(RUN) -m pytest --timeout 900 -m "$(MARKS)" $(WORKERS) $(PYTEST_ARGS)

test-long: $(VENV)/.test-tools
	$(RUN) -m pytest --timeout 900 -m "long and not torch and not slow" $(WORKERS) $(PYTEST_ARGS)

test-slow: MARKS = (slow or golden or everywhere and not long) and not torch
test-slow: $(VENV)/.test-tools
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest --timeout 1800 -m "$(MARKS)" $(WORKERS) $(PYTEST_ARGS)

test-torch: MARKS = torch
test-torch: $(VENV)/.torch
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest --timeout 1800 -m "$(MARKS)" $(WORKERS) $(PYTEST_ARGS)

# Beam requires older versions of packages in .venv.
test-beam: $(VENV)/.beam
	$(VENV)/beam/bin/python -m pytest --timeout 900 tests/data/tfds_builders/test_main.py $(PYTEST_ARGS)

# The notice that this disables is explained in requirements-docs.txt.
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

# One lock for Python 3.11 and newer; markers select the versions for each Python.
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

# pip and uv write only below $(VENV); `make clean` removes all of it.
$(RUN):
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one, or: make PYTHON=/path/to/python"; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || uv venv --quiet --seed --python "$(PYTHON)" $(VENV) \
		|| { echo "make: $(PYTHON) cannot create environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

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

# Uses pip instead of uv: pip follows the index settings of the machine, which often select a small build. Its hashes
# differ from those on PyPI, so they are not checked.
$(VENV)/.torch: requirements-torch.txt $(VENV)/.test-tools
	$(PIP) -r requirements-torch.txt
	@touch $@

$(VENV)/.beam: requirements-beam.txt requirements-test.txt $(VENV)/.installed
	@$(RUN) -m venv $(VENV)/beam
	@{ test -x $(UV) && $(UV) pip install --quiet --python $(VENV)/beam/bin/python -r requirements-beam.txt -r requirements-test.txt; } \
		|| $(VENV)/beam/bin/python -m pip install --quiet -r requirements-beam.txt -r requirements-test.txt
	@touch $@
