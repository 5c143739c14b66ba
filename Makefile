# Two commands for a fresh machine with Python 3.11 or 3.12, git and make: `make repro` and `make test`.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: repro test install

repro: install
	dvc repro

test: .venv/installed-dev
	ruff check
	ruff format --check
	mypy
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile

install: .venv/installed

# torch first, and no build isolation: basicsr's setup imports torch and would fetch a second one.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	pip install --quiet --constraint constraints.txt pip setuptools wheel
	pip install --quiet --constraint constraints.txt torch torchvision numpy
	pip install --quiet --constraint constraints.txt --no-build-isolation --editable .
	touch $@

# With Ray and what tests and checks need.
.venv/installed-dev: .venv/installed
	pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@
