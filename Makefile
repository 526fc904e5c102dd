# Every target makes its own environment first: nothing has to be installed by hand.

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
INSTALLED := $(VENV)/.installed

# MLflow's default store, but the same one from whatever folder it is used.
MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db

.PHONY: run ui test check bench format generate lock clean

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv==$(UV_VERSION)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(INSTALLED)

run: export MLFLOW_TRACKING_URI := $(MLFLOW_TRACKING_URI)
run: export PATH := $(BIN):$(PATH)
run: $(INSTALLED) ## train on the sample digits and register the model
	mlflow run . --env-manager=local --experiment-name digits -P learning_rate=0.01 -P warmup_steps=90 -P weight_decay=0.0005 -P label_smoothing=0.1 -P register_as=digits
	@echo
	@echo "Look at the run:    make ui"
	@echo "Serve the model:    MLFLOW_TRACKING_URI=$(MLFLOW_TRACKING_URI) $(BIN)/mlflow models serve -m models:/digits/1 --env-manager local"

ui: $(INSTALLED) ## MLflow's pages on what was run here
	$(BIN)/mlflow ui --backend-store-uri $(MLFLOW_TRACKING_URI)

test: $(INSTALLED) ## the tests
	$(BIN)/pytest -n auto

check: $(INSTALLED) ## format, lint, types, layers, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto

bench: $(INSTALLED) ## training speed: over the machine's limit, and over other trainers
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.peers $(if $(TIMM_TRAIN),--timm-train $(TIMM_TRAIN))

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(INSTALLED) ## MLproject, conda.yaml and README's table, out of the configuration
	$(BIN)/python -m scripts.project_files

lock: $(INSTALLED) ## every version anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
		--extra dev --output-file requirements.lock --upgrade pyproject.toml scripts/lock-constraints.txt

clean:
	rm -rf $(VENV) mlruns mlflow.db*
