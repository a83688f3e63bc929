# Every target sets up what it needs in .venv, once, and again only when pyproject.toml has changed.
PYTHON ?= python3
BIN := .venv/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# Processes that run the tests; each computes with one thread, and some only wait for others.
WORKERS ?= 3

.PHONY: lab demo test test-quick test-stored thorough oldest classroom gpu notebooks student teacher kit pages docs pictures lint release wheel binder bench evidence

lab: .venv/ready  ## open JupyterLab at the first notebook
	$(BIN)/jupyter lab notebooks/00-start-here.ipynb

demo: .venv/ready  ## run the first notebook without a browser and print its final table
	@$(BIN)/python tools/notebooks.py demo notebooks/00-start-here.ipynb

test: .venv/ready-to-test lint  ## run the test suite, without what takes more than a few seconds each: a quarter of an hour
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(PYTEST_ARGS)

test-quick: .venv/ready-to-test  ## run the core of that: two minutes
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" @tests/core.txt $(PYTEST_ARGS)

test-stored: .venv/ready-to-test  ## see that what is stored comes out again: notebooks, evidence, README; a quarter of an hour
	$(BIN)/python -m pytest -n $(WORKERS) -m slow tests/notebooks/test_notebooks.py tests/test_evidence.py tests/test_few_shots_study.py tests/test_readme.py $(PYTEST_ARGS)

thorough: .venv/ready-to-test lint  ## run all tests, also in a browser, with Flower, for five seeds, alone in a folder: an hour and a half
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

oldest: .venv-oldest/ready  ## run the core of the suite on the oldest versions that pyproject.toml admits; Python 3.11
	.venv-oldest/bin/python -m pytest -n $(WORKERS) -W ignore::DeprecationWarning -W ignore::FutureWarning @tests/core.txt $(PYTEST_ARGS)

lint: .venv/ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/english.py

notebooks: .venv/ready-to-test  ## run all notebooks and commit-ready their outputs
	$(BIN)/python tools/notebooks.py link notebooks/*.ipynb
	$(BIN)/python tools/notebooks.py refresh notebooks/*.ipynb
	$(BIN)/ruff format -q notebooks
	$(BIN)/python tools/notebooks.py index notebooks/*.ipynb

student: .venv/ready-to-test  ## the notebooks without outputs and without what is to be found out, in build/student
	$(BIN)/python tools/editions.py student notebooks/*.ipynb

teacher: .venv/ready-to-test  ## the notebooks with an answer below every question, in build/teacher
	$(BIN)/python tools/editions.py teacher notebooks/*.ipynb

kit: .venv/ready-to-test  ## slides, a handout, the answers and the exercises for nbgrader, in build/kit
	$(BIN)/python tools/kit.py notebooks/*.ipynb

pages: .venv/ready-to-test  ## the notebooks as HTML, in build/html
	$(BIN)/python tools/notebooks.py html notebooks/*.ipynb

docs: .venv/ready-to-test  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pictures: .venv/ready-to-test  ## redraw the pictures in README and CONTRIBUTING
	$(BIN)/python tools/pictures.py

release: .venv/ready-to-test  ## build sdist and wheel into dist/
	$(BIN)/python -m build --no-isolation

wheel:  ## install the wheel of dist/ in an environment of its own, build/wheel, and run it there
	rm -rf build/wheel && $(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build/wheel && printf 'model: softmax\nrounds: 2\n' > quick.yaml && bin/python -m gmfl_lite run quick.yaml && bin/gmfl-lite --version

binder: .venv/ready-to-test  ## build the image that mybinder.org would; needs Docker
	$(BIN)/jupyter-repo2docker --no-run .

bench: .venv/ready-to-bench  ## measure, and write benchmarks/RESULTS.md; on a quiet machine, half an hour
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/meta_gradient.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/own_models.py
	$(BIN)/python benchmarks/waiting.py
	$(BIN)/python benchmarks/points.py
	$(BIN)/python benchmarks/neighbours.py

classroom: .venv/ready  ## measure a class of 1, 4 and 8 students on this machine, for docs/server.md; half an hour, nobody else on it
	$(BIN)/python -W ignore benchmarks/classroom.py

gpu: .venv/ready  ## compare a GPU with the CPU, time it, and write the page benchmarks/GPU-here.md; five minutes
	$(BIN)/python -m gmfl_lite gpu-check --page benchmarks/GPU-here.md

evidence: .venv/ready  ## make the tables of studies/; some hours, and it continues where it was stopped
	$(BIN)/python studies/evidence.py
	$(BIN)/python studies/few_shots.py map
	$(BIN)/python studies/few_shots.py few-shots
	$(BIN)/python studies/confirm.py
	$(BIN)/python studies/why.py

.venv/ready: pyproject.toml
	@echo 'setting up .venv: once, for some minutes, most of them for PyTorch ...'
	@$(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null || { rm -rf .venv && \
		{ $(PYTHON) -c '$(NEW_ENOUGH)' || { echo "$(PYTHON) must be Python 3.11 or later: make PYTHON=python3.12 …"; false; }; } && \
		$(PYTHON) -m venv .venv; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebooks]'
	@touch $@

.venv/ready-to-test: .venv/ready
	@echo 'setting up what the tests need ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,peers,dask,flower]'
	touch $@

.venv/ready-to-bench: .venv/ready-to-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

.venv-oldest/ready: pyproject.toml
	@rm -rf .venv-oldest && $(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	@.venv-oldest/bin/uv pip install --quiet --python .venv-oldest --resolution lowest-direct \
		--requirements pyproject.toml --extra core-test
	@.venv-oldest/bin/uv pip install --quiet --python .venv-oldest --no-deps --editable .
	@.venv-oldest/bin/uv pip list --python .venv-oldest
	@touch $@
