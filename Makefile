# Both commands work on a fresh machine with Python 3.11 or newer: they make .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test
quickstart: .venv/installed
	$(BIN)/bench run --method ppo,dpo

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed tests/plugin/pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e '.[test]' ./tests/plugin
	touch $@
