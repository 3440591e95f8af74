# make demo [DATA=path/to/archive.zip]   the main job, from nothing to a report
# make ship DATA=path/to/archive.zip [EXTERNAL=path/to/another.zip]   train the model that comes with the package, and put it there
# make test                              the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo ship test lint check clean help

help:
	@grep -E '^# make' Makefile | cut -c3-

demo: $(STAMP)
	@$(BIN)/tumorscope demo $(if $(DATA),--data "$(DATA)")

ship: $(STAMP)
	@$(BIN)/tumorscope train region_lite --data "$(DATA)" --protocol patient-cv --runs runs/ship --resume && \
	  $(BIN)/tumorscope train region_lite --data "$(DATA)" --protocol all --runs runs/ship --resume && \
	  $(BIN)/tumorscope export runs/ship/region_lite-all-s0 --data "$(DATA)" \
	    $$(for one in official clean picture-cv patient-cv; do run=runs/ship/region_lite-$$one-s0; \
	      test -f $$run/predictions.csv && echo --scores $$run; done) \
	    $(if $(EXTERNAL),--external "$(EXTERNAL)") --out packages/region_lite && cp packages/region_lite/* src/tumorscope/package/shipped/ && \
	  cp packages/region_lite-reliability.svg docs/how-to/

test: $(STAMP)
	@start=$$(date +%s); $(BIN)/python -m pytest -q -n 2 $(ARGS) && echo "make test took $$(( $$(date +%s) - start )) s"

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

check: lint test

$(STAMP): pyproject.toml constraints.txt
	@start=$$(date +%s); $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tumorscope needs Python 3.11 or later; say which: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }; \
	  test -d $(VENV) || $(PYTHON) -m venv $(VENV) && \
	  echo "Installing into $(VENV) (torch is large; some minutes at first)" && \
	  $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,transfer,audit,tune,medical,fetch,dev]' && \
	  touch $(STAMP) && echo "installing took $$(( $$(date +%s) - start )) s"

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
