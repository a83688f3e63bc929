# Every target sets up what it needs in .venv, once, and again only when pyproject.toml has changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: lab demo test notebooks lint bench evidence

lab: .venv/ready  ## open JupyterLab at the first notebook
	$(BIN)/jupyter lab notebooks/00-start-here.ipynb

demo: .venv/ready  ## run the first notebook without a browser and print its final table
	@$(BIN)/python tools/notebooks.py demo notebooks/00-start-here.ipynb

test: .venv/ready-to-test lint  ## run the whole test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: .venv/ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

notebooks: .venv/ready-to-test  ## run all notebooks and commit-ready their outputs
	$(BIN)/python tools/notebooks.py link notebooks/*.ipynb
	$(BIN)/python tools/notebooks.py refresh notebooks/*.ipynb
	$(BIN)/ruff format -q notebooks

bench: .venv/ready-to-bench  ## measure, and write benchmarks/RESULTS.md; on a quiet machine, half an hour
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/meta_gradient.py

evidence: .venv/ready  ## make the tables of studies/evidence; some hours, and it goes on from where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python studies/evidence.py

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/ready-to-test: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,peers]'
	touch $@

.venv/ready-to-bench: .venv/ready-to-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@
