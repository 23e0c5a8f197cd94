# make quickstart: set up and run the whole job on the simulated example
# make test:       set up and run every check
# make test-quick: set up and run the tests that are not marked slow
# make test-scipy: the same with the transforms of scipy
# make coverage:   the same with coverage
# make docs:       build the site in docs/_build/html; warnings are errors
# make generated:  write the files again that are made from the code
# make release:    build, check and describe the files of a release in dist/
# make pictures:   make the pictures of the documentation again
PYTHON ?= python3
VENV ?= .venv
# PyTorch without CUDA, with which tests compare; they are skipped where there is no such version for this Python.
TORCH ?= torch==2.13.0+cpu
BIN = $(VENV)/bin

.PHONY: quickstart test test-quick test-scipy coverage lint docs generated pictures release clean

quickstart: $(VENV)/.installed
	$(BIN)/lucidcube run configs/quickstart.yaml

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n auto --dist worksteal

test-quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not slurm"

test-scipy: $(VENV)/.dev
	LUCIDCUBE_FFT=scipy $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not slurm"

coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not slurm" --cov --cov-report=term

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --builder html docs docs/_build/html

generated: $(VENV)/.dev
	$(BIN)/lucidcube config template > configs/full.yaml
	$(BIN)/lucidcube stages --markdown > docs/stages.md

pictures: $(VENV)/.dev
	$(BIN)/python docs/before_after.py
	$(BIN)/python docs/stage_pictures.py
	$(BIN)/python docs/example_pictures.py

# The files of a release, the audit of what a user gets with them, and a list of it (SBOM), in dist/.
release:
	rm -rf dist build/release
	$(PYTHON) -m venv build/release/tools
	build/release/tools/bin/python -m pip install --quiet build twine pip-audit cyclonedx-bom
	build/release/tools/bin/python -m build
	build/release/tools/bin/twine check --strict dist/*
	$(PYTHON) -m venv build/release/user
	build/release/user/bin/python -m pip install --quiet "$$(ls dist/*.whl)[all]"
	build/release/tools/bin/cyclonedx-py environment build/release/user/bin/python --pyproject pyproject.toml \
		--output-reproducible --output-format JSON --output-file dist/sbom.cdx.json
	build/release/tools/bin/pip-audit --strict --path \
		"$$(build/release/user/bin/python -c 'import site; print(site.getsitepackages()[0])')"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --retries 0 --timeout 20 \
		--extra-index-url https://download.pytorch.org/whl/cpu "$(TORCH)" || echo "no PyTorch: its tests are skipped"
	touch $@

clean:
	rm -rf docs/_build docs/stages docs/reference/functions out build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache
