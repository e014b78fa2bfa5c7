# `make demo` and `make test` need nothing first but Python 3.10+ on Debian or Ubuntu; both are fast the second time.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?=
# the system's own first: it is the one whose packages are sure to match; then the newest
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11 python3.10
JOBS   ?= 2

# Stamps: the environment as such, the package, the package with everything a developer needs.
CREATED   := $(VENV)/.created
INSTALLED := $(VENV)/.installed
DEVELOP   := $(VENV)/.develop
# any of these serves the studio's tests
BROWSERS  := chromium chromium-browser google-chrome

.PHONY: help demo test browser lint format large-files clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo
	@echo 'PYTHON=python3.12 picks the interpreter for .venv; JOBS=4 runs the tests in four processes.'

demo: $(INSTALLED) ## install into .venv, then turn the shipped drawings into out/demo.png
	$(BIN)/sis demo

# One thread per process: the processes are the parallelism, and tiny tensors only lose by more threads.
test: lint browser ## install into .venv, then run the linters and the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

browser: ## install Chromium where that can be done; the studio's tests in a browser are skipped without one
	@for name in "$${SIS_CHROMIUM:-}" $(BROWSERS); do \
		if command -v "$$name" >/dev/null; then exit 0; fi; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null \
			|| echo 'Chromium could not be installed: the tests that need a browser will be skipped' >&2; \
	else \
		echo 'No Chromium here (sudo apt-get install chromium): the tests that need a browser will be skipped' >&2; \
	fi

lint: $(DEVELOP) large-files ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEVELOP) ## let ruff fix and format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

large-files: ## fail if git holds a file over 8 MB, but for the weights of others that are named here
	@if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then \
		big=$$(git ls-files -z -- . ':!pretrained/hed/*.safetensors' | xargs -0 -r sh -c 'find "$$@" -maxdepth 0 -type f -size +8192k 2>/dev/null || true' find); \
		if [ -n "$$big" ]; then echo "over 8 MB, too large for git: $$big" >&2; exit 1; fi; \
	fi

clean: ## remove .venv, build leftovers and caches (keeps out/ and runs/)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@python=; \
	for candidate in $(or $(PYTHON),$(PYTHONS)); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'No Python 3.10 or newer found (looked for: $(or $(PYTHON),$(PYTHONS))).' \
			'Install one, or name it: make PYTHON=/path/to/python3' >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
		package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$$package"; \
		else \
			echo "$$python cannot make virtual environments; first run: sudo apt-get install $$package" >&2; exit 1; \
		fi; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV)
	@touch $@

$(INSTALLED): pyproject.toml setup.py | $(CREATED)
	@echo 'Installing into $(VENV): minutes the first time, since torch is a large download'
	$(BIN)/python -m pip install --no-input -e .
	@touch $@

$(DEVELOP): pyproject.toml setup.py | $(CREATED)
	@echo 'Installing into $(VENV): minutes the first time, since torch is a large download'
	$(BIN)/python -m pip install --no-input -e '.[dev]'
	@touch $(INSTALLED) $@
