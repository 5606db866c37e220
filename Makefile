# Both commands work on a fresh machine with Python 3.11 or newer: they make .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin
# the example of somebody else's plugin, in a folder that tests alone look into: no `bench` outside them lists it
PLUGIN := .venv/test-plugin

.PHONY: quickstart test dev docs wheel
quickstart: .venv/installed
	$(BIN)/bench run --method ppo,dpo

test: .venv/installed-test $(PLUGIN)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH="$(CURDIR)/$(PLUGIN)" OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=15

dev: .venv/installed-test $(PLUGIN)/installed

docs: .venv/installed-test
	$(BIN)/sphinx-build -q -W --keep-going -E docs build/docs

wheel: .venv/installed-test # from a copy of what git knows, so that nothing else is packed
	rm -rf build/wheel && mkdir -p build/wheel dist
	git archive HEAD | tar -x -C build/wheel
	$(BIN)/pip wheel -q --no-deps --no-build-isolation -w dist build/wheel

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@

$(PLUGIN)/installed: .venv/installed $(wildcard tests/plugin/*.py) tests/plugin/pyproject.toml
	$(BIN)/pip install -q --no-deps --upgrade --target $(PLUGIN) ./tests/plugin
	touch $@
