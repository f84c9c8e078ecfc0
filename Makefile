# Everything a newcomer needs: `make demo`, `make up`, `make test`. Each sets up what it uses.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
BROKER ?= tansu
PIP    := $(BIN)/python -m pip --disable-pip-version-check

SHELL       := bash
.SHELLFLAGS := -o pipefail -ec

.PHONY: help demo up test lint types bench clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.run  ## Start everything, upload sample files (FILES="…"), show the result, stop everything
	@$(BIN)/bucketline demo $(FILES)

up: $(VENV)/.run  ## Start everything and keep it running until Ctrl-C (BUCKETLINE_PORT, BUCKETLINE_API_KEY, BUCKETLINE_DATA)
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
	$(call install-locked,requirements.lock)
	@$(PIP) install --quiet --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml $(VENV)/.run
	@echo "installing what the tests need (once)"
	$(call install-locked,requirements-dev.lock)
	@touch $@

# On a terminal one line that counts: a line a package would be too much, and half a minute of nothing too little.
define install-locked
@total=$$(grep -c '^[^ #].*==' $(1)); n=0; \
PYTHONUNBUFFERED=1 $(PIP) install --require-hashes -r $(1) | while read -r what _; do \
	case $$what in \
		Collecting|Requirement) n=$$((n + 1)); now="$$n of $$total packages" ;; \
		Installing) now="unpacking, some seconds more" ;; \
		*) continue ;; \
	esac; \
	[ ! -t 1 ] || printf '\r\033[K  %s' "$$now"; \
done; \
[ ! -t 1 ] || printf '\r\033[K'
endef
