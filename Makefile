# Start here: `make demo`, `make up`, `make test`. Each target installs what it needs.

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

test: lint types  ## Lint, types and all tests against real servers (BROKER=kafka: with Apache Kafka)
	$(BIN)/python -m pytest -n auto tests/unit tests/deploy
	$(BIN)/python -m pytest --broker $(BROKER) --ignore tests/unit --ignore tests/deploy

lint: $(VENV)/.dev  ## Check style, format and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.dev  ## Check types with mypy
	$(BIN)/mypy

bench: $(VENV)/.dev  ## Measure against peers and the limits of the servers (PEERS=plain,celery,taskiq ROWS=comparison,latency,…)
	$(BIN)/python -m tests.bench --broker $(BROKER) --peers "$(PEERS)" --rows "$(ROWS)"

clean:  ## Remove the virtual environment and the data of the local stack
	rm -rf $(VENV) .bucketline

$(VENV)/bin/python:
	@echo "creating the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing dependencies (once)"
	$(call install-locked,requirements.lock)
	@$(PIP) install --quiet --no-deps -e .
	@touch $@

$(VENV)/.dev: tests/requirements-dev.lock pyproject.toml $(VENV)/.run
	@echo "installing development dependencies (once)"
	$(call install-locked,tests/requirements-dev.lock)
	@touch $@

# A terminal shows one line with a counter while pip is running.
define install-locked
@total=$$(grep -c '^[^ #].*==' $(1)); n=0; \
PYTHONUNBUFFERED=1 $(PIP) install --require-hashes -r $(1) | while read -r what _; do \
	case $$what in \
		Collecting|Requirement) n=$$((n + 1)); now="$$n of $$total packages" ;; \
		Installing) now="unpacking" ;; \
		*) continue ;; \
	esac; \
	[ ! -t 1 ] || printf '\r\033[K  %s' "$$now"; \
done; \
[ ! -t 1 ] || printf '\r\033[K'
endef
