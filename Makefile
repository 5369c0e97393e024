# make demo   fit real galaxies; catalogue and pictures in demo_output/
# make test   all tests at reduced size (minutes); make quick: the fast ones (under a minute); make full: everything,
#             every notebook included; make notebooks keeps them executed in build/notebooks
# make lowest the default tests with the oldest versions of what is needed, in .venv-lowest
# make docs   the documentation, in build/docs/index.html
PYTHON ?= python3
BIN := .venv/bin
# a file to a process: its tests share what they have compiled
SPREAD := -n auto --dist loadfile

# (matplotlib 3.9 uses names of pyparsing that later ones warn of)
LOWEST := jax==0.7.0 jaxlib==0.7.0 numpy==2.0.0 astropy==6.1.0 matplotlib==3.9.0 optax==0.2.5 tqdm==4.66.0 \
	pyarrow==16.0.0 pyparsing==3.1.2

.PHONY: demo test quick full lowest lint types format bench notebooks docs clean

demo: .venv/installed
	$(BIN)/python notebooks/demo.py

test: .venv/installed-test
	$(BIN)/python -m pytest $(SPREAD) -m "not full"

quick: .venv/installed-test
	$(BIN)/python -m pytest $(SPREAD) -m "not full" tests/test_numerics.py tests/test_parameters.py tests/test_image.py \
		tests/test_linear.py tests/test_lm.py tests/test_layout.py tests/test_bad_input.py

full: .venv/installed-test types
	XLA_FLAGS= $(BIN)/python -m pytest $(SPREAD)

lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --editable . $(LOWEST) scipy galsim xarray "arviz<1" orbax-checkpoint pytest pytest-xdist
	.venv-lowest/bin/python -m pytest $(SPREAD) -m "not full" --ignore tests/test_recipes.py  # whose packages need newer

notebooks: .venv/installed-notebooks
	for notebook in notebooks/*.ipynb; do \
		$(BIN)/python -m jupyter nbconvert --to notebook --execute --output-dir build/notebooks $$notebook || exit 1; \
	done

docs: .venv/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-test
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-bench
	$(BIN)/python benchmarks/first_fit.py
	$(BIN)/python benchmarks/many_fits.py

.venv/created:
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-%: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv .venv-lowest build demo_output
