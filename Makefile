# Everything a newcomer needs: `make demo`, `make up`, `make test`. Each sets up what it uses.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
BROKER ?= tansu
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo up test lint types bench clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.run  ## Start everything, push sample files (FILES="…"), show what happened, stop everything
	@$(BIN)/bucketline demo $(FILES)

up: $(VENV)/.run  ## Start everything and keep it running until Ctrl-C (BUCKETLINE_PORT, BUCKETLINE_API_KEY)
	@exec $(BIN)/bucketline up

test: lint types  ## Lint, types and the whole suite against real servers (BROKER=kafka: on Apache Kafka)
	$(BIN)/python -m pytest --broker $(BROKER)

lint: $(VENV)/.dev  ## Style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

bench: $(VENV)/.dev  ## Throughput, latency and memory beside the raw limits of the parts
	$(BIN)/python -m tests.bench --broker $(BROKER)

clean:  ## Remove the environment and what the local stack keeps
	rm -rf $(VENV) .bucketline

$(VENV)/bin/python:
	@echo "making the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing what it runs on (once)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml $(VENV)/.run
	@echo "installing what the tests need (once)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
