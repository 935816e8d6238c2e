# Every command of the project. It needs Python 3.11 or later and make; each target builds the environment it runs in.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Passed on to the command a target runs, as in: make test ARGS="-k breaker"
ARGS =

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
COMPAT := compat-3.12 compat-3.13

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format-check lint types wheel bench mutants format compat $(COMPAT) clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

# `venv` on an existing environment repairs it, so an interrupted installation heals with the next run.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed-demo

# A small part of the above, so that whoever wants to see the demo first does not wait for the rest.
$(VENV)/.installed-demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python $(PIP_INSTALL) --editable '.[bench]'
	@touch $@

demo: $(VENV)/.installed-demo ## watch the patterns at work
	$(BIN)/python -m examples.demo $(ARGS)

test: $(VENV)/.installed ## run the test suite
	$(BIN)/python -m pytest $(ARGS)

# The suite comes last, so its summary line is what closes the output.
check: format-check lint types wheel ## everything that has to hold before a commit
	$(BIN)/python -m pytest --quiet --cov --cov-report=term $(ARGS)

format-check: $(VENV)/.installed
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# By way of the sdist, so that both are known to be complete; first in an environment that has nothing else, then under
# the whole suite, in a folder where the source tree is not.
wheel: $(VENV)/.installed ## build the wheel, check it in a clean environment, and run the suite on it
	rm -rf dist build .venv-wheel
	$(BIN)/python -m build -qq --outdir dist .
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python $(PIP_INSTALL) dist/*.whl
	.venv-wheel/bin/python -I tests/wheel_check.py dist/*.whl --installed
	.venv-wheel/bin/python $(PIP_INSTALL) "$$(echo dist/*.whl)[dev]"
	mkdir -p build/suite
	cp -R tests examples benchmarks pyproject.toml Makefile *.md LICENSE build/suite
	cd build/suite && ../../.venv-wheel/bin/python -m pytest --quiet -p no:cacheprovider

bench: $(VENV)/.installed-bench ## measure against what else one might pick
	$(BIN)/python -m benchmarks $(ARGS)

mutants: $(VENV)/.installed ## break the code one branch at a time: some test has to notice
	$(BIN)/python -m tests.mutants $(ARGS)

format: $(VENV)/.installed ## format the code and mend what can be mended
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

compat: $(COMPAT) ## run the test suite on every other supported Python that is installed

# The newest release that pyenv lists, else the one on the path.
$(COMPAT): compat-%: pyproject.toml
	@release=$$(pyenv versions --bare 2>/dev/null | grep -E '^ *$*\.[0-9]+$$' | sort -t. -k3,3n | tail -n 1 | tr -d ' '); \
	if [ -n "$$release" ]; then python=$$(pyenv prefix "$$release")/bin/python; else python=python$*; fi; \
	if ! "$$python" -c '' 2>/dev/null; then echo "Python $* is not installed: skipped"; exit 0; fi; \
	set -e; env=.venv-$*; \
	if [ ! -e $$env/.installed ] || [ pyproject.toml -nt $$env/.installed ]; then \
		"$$python" -m venv $$env; \
		$$env/bin/python $(PIP_INSTALL) --editable '.[dev]'; \
		touch $$env/.installed; \
	fi; \
	echo "Python $*"; $$env/bin/python -m pytest -p no:cacheprovider $(ARGS)

clean: ## remove everything these targets create
	rm -rf $(VENV) .venv-* dist build .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
