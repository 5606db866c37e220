# Both commands work on a fresh machine with Python 3.11 or newer: they make .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test
quickstart: .venv/installed
	$(BIN)/bench run --method ppo,dpo

test: .venv/installed-test
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed tests/plugin/pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e '.[test]' ./tests/plugin
	touch $@
