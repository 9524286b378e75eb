# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Needed: Python 3.11 or later (PYTHON=python3.12 make demo chooses one), and make.
PYTHON ?= python3
BIN := .venv/bin
# Only what is imported is compiled to bytecode, once: all of it takes longer than the tests of a folder.
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test clean

demo: .venv/demo.stamp
	$(BIN)/openclef demo --out runs/demo

test: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --dist loadfile

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "openclef needs Python 3.11 or later; set PYTHON, e.g. PYTHON=python3.12 make demo" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing openclef into .venv (about 2 GB, some minutes)"
	$(PIP) --editable '.[text]'
	@touch $@

.venv/test.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing openclef and its test tools into .venv (about 2 GB, some minutes)"
	$(PIP) --editable '.[text,dev]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
