# Two commands for a fresh machine with Python 3.11 or 3.12, git and make: `make repro` and `make test`.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: repro test gpu coverage pages trust lock audit site install

repro: install
	dvc repro

test: .venv/installed-dev
	ruff check
	ruff format --check
	mypy
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The tests that need a GPU; `make test` computes on the CPU, also where there is one.
gpu: .venv/installed-dev
	DGRL_GPU=1 pytest -m gpu

# The lines of the product that no test runs, and whether they are more than pyproject.toml allows. Apart from
# `make test`, which it would slow down: Python 3.11 has no cheap way to watch lines.
# The file is absolute, since tests run processes in other folders.
coverage: export COVERAGE_FILE = $(CURDIR)/build/coverage/data
coverage: .venv/installed-dev
	rm -rf build/coverage && mkdir -p build/coverage
	OMP_NUM_THREADS=1 coverage run --module pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
	coverage combine --quiet
	coverage report

# Every command of the README and of the pages, in their order; a quarter of an hour.
pages: .venv/installed-dev
	DGRL_PAGES=1 OMP_NUM_THREADS=1 pytest tests/test_commands.py

# Every fault, kill and damaged input that `make test` tries a sample of; an hour or two.
trust: .venv/installed-dev
	rm -rf .work/trust && mkdir -p .work/trust
	DGRL_TRUST=$(CURDIR)/.work/trust OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist worksteal \
		tests/test_faults.py tests/test_kills.py tests/test_fuzz_*.py; \
		status=$$?; python docs/reliability.py faults .work/trust; exit $$status

# Known vulnerabilities, a bill of materials (build/sbom.json, CycloneDX) and the licences; needs PyPI.
AUDIT = pip-audit --requirement constraints.txt --no-deps --disable-pip
audit: install
	pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[audit]'
	python docs/reliability.py licences
	mkdir -p build
	-$(AUDIT) --format cyclonedx-json --output build/sbom.json
	$(AUDIT) --strict

# The documentation as pages, in build/site.
site: .venv/installed-dev
	zensical build --strict

install: .venv/installed

# Every file is one of requirements.lock's by its SHA-256. basicsr comes last, without build isolation: its setup
# imports torch and would fetch a second one.
PIP = pip install --quiet --no-deps
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	sed '/^basicsr-fixed/,/[^\\]$$/d' requirements.lock > .venv/first.lock
	$(PIP) --require-hashes --requirement .venv/first.lock
	$(PIP) --require-hashes --no-build-isolation --requirement requirements.lock
	$(PIP) --no-build-isolation --editable .
	touch $@

# With Ray and what tests and checks need.
.venv/installed-dev: .venv/installed requirements-dev.lock
	$(PIP) --require-hashes --no-build-isolation --requirement requirements-dev.lock
	touch $@

# The files of constraints.txt's versions, for every platform, by their SHA-256; after a change of either.
LOCK = uv pip compile --quiet --generate-hashes --universal --python-version 3.11.7 --python .venv/bin/python \
	--no-build-isolation --no-header --no-annotate --constraint constraints.txt pyproject.toml -
lock: install
	pip install --quiet --constraint constraints.txt uv
	printf '%s\n' pip setuptools wheel | $(LOCK) --output-file requirements.lock
	printf '%s\n' pip setuptools wheel | $(LOCK) --extra dev --output-file requirements-dev.lock
