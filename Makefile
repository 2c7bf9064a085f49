# Every target makes its own environment first, in .venv, with the versions that requirements.lock pins.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup test test-slow lint ablation lab bench

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "wsrl-kit needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1): make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "this Python can't make virtual environments: install python3-venv (Debian, Ubuntu: sudo apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@echo 'installing into .venv, a few minutes'
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@

# Where Python may not keep compiled modules, every process that a test starts would compile the kit anew.
test test-slow: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)
	$(BIN)/pytest -n auto --dist loadfile -m 'not slow'

test-slow: $(STAMP)
	$(BIN)/pytest -n auto --dist loadfile -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

ablation: $(STAMP) runs/data/random.pkl
	$(BIN)/wsrl-kit ablation --offline_data_path=runs/data --out runs/ablation

# The last of the three files that collecting writes.
runs/data/random.pkl: | $(STAMP)
	$(BIN)/wsrl-kit collect --out runs/data

lab: $(STAMP)
	$(BIN)/wsrl-kit lab

# The kit and its peers, in an environment of their own.
BENCH := .venv-bench/bin

bench: .venv-bench/.installed
	for name in replay learner end_to_end; do $(BENCH)/python benchmarks/$$name.py || exit 1; done

.venv-bench/.installed: pyproject.toml requirements.lock benchmarks/peers.txt
	$(PYTHON) -m venv .venv-bench
	@echo 'installing the peers into .venv-bench, some minutes'
	$(BENCH)/pip install --quiet --disable-pip-version-check -c requirements.lock -r benchmarks/peers.txt -e .
	@touch $@
