# `make quickstart` and `make test` need Python 3.11+ and nothing else.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: quickstart test lint peers bench clean

quickstart: .venv/train
	JAX_PLATFORMS=cpu $(PY) -m train configs/quickstart.py

test: lint
	$(PY) -m pytest

lint: .venv/test
	.venv/bin/ruff check
	.venv/bin/mypy

# Against PyTorch, hundreds of MB; `make test` runs these, too, where it finds it.
peers: .venv/peers
	$(PY) -m pytest -rP tests/test_torch.py

bench: .venv/train
	$(PY) -m benchmarks.decompositions

clean:
	rm -rf .venv runs

.venv/train: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --editable '.[train]'
	touch $@

.venv/test: .venv/train
	$(PY) -m pip install --quiet --editable '.[test]'
	touch $@

.venv/peers: .venv/test
	$(PY) -m pip install --quiet --editable '.[peers]'
	touch $@
