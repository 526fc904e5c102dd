# Each target first installs the locked versions into .venv if needed.

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
INSTALLED := $(VENV)/.installed

# The build of torch in the image: `cpu`, or of a version of CUDA such as `cu130`.
TORCH_BACKEND ?= cpu

# MLflow's default store, independent of the current folder.
MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db

# 0 leaves the compilation of modules to their first import.
export UV_COMPILE_BYTECODE ?= 1

.PHONY: help run ui test check lint types layers docs bench format generate lock wheel image hooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv==$(UV_VERSION)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(INSTALLED)

run: export MLFLOW_TRACKING_URI := $(MLFLOW_TRACKING_URI)
run: export PATH := $(BIN):$(PATH)
run: $(INSTALLED) ## train on the sample digits and register the model
	mlflow run . --env-manager=local --experiment-name digits -P learning_rate=0.01 -P warmup_steps=90 -P weight_decay=0.0005 -P label_smoothing=0.1 -P register_as=digits
	@echo
	@echo "Open the run in MLflow:  make ui"
	@echo "Serve the model:         MLFLOW_TRACKING_URI=$(MLFLOW_TRACKING_URI) $(BIN)/mlflow models serve -m models:/digits/1 --env-manager local"

ui: export MLFLOW_TRACKING_URI := $(MLFLOW_TRACKING_URI)
ui: $(INSTALLED) ## serve MLflow's UI on the runs made here, at a prepared view
	$(BIN)/trialrun ui

test: $(INSTALLED) ## run the tests
	$(BIN)/pytest -n auto --dist worksteal

check: lint types layers docs test ## check format, lint, types and layers; build the docs; run the tests

lint: $(INSTALLED) ## check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED) ## check types
	$(BIN)/mypy

layers: $(INSTALLED) ## check the direction of imports
	$(BIN)/lint-imports

docs: $(INSTALLED) ## build the pages of docs/ into site/; a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(INSTALLED) ## measure training speed against the machine's limit and other trainers
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.peers $(if $(TIMM_TRAIN),--timm-train $(TIMM_TRAIN))

format: $(INSTALLED) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(INSTALLED) ## write the files that follow from the code: MLproject, conda.yaml, README's table, keyword types, docs/reference
	$(BIN)/python -m scripts.project_files

lock: $(INSTALLED) ## resolve all versions again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
		--all-extras --output-file requirements.lock --upgrade pyproject.toml scripts/lock-constraints.txt

wheel: $(INSTALLED) ## build the wheel and the source distribution into dist
	$(BIN)/python -m build --no-isolation

image: ## build the container image; TORCH_BACKEND=cu130 for NVIDIA GPUs
	docker build --tag trialrun --build-arg TORCH_BACKEND=$(TORCH_BACKEND) .

hooks: $(INSTALLED) ## let git run the checks before each commit
	$(BIN)/pre-commit install

clean: ## delete .venv, dist, site and the runs made here
	rm -rf $(VENV) dist site mlruns mlflow.db*
