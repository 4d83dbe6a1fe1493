# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
STUDY ?= quick
DATASET ?= digits
RESULTS ?= results
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@echo "Usage: make TARGET [STUDY=quick] [DATASET=digits] [RESULTS=results] [RECORD=file] [ARGS=\"dataset=mnist protocol.seeds=3\"]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run-sweep
run-sweep: $(VENV)/installed ## Train every run of STUDY that has no record in RESULTS, write its tables
	@$(BIN)/python scripts/sweep.py study=$(STUDY) results_dir=$(RESULTS) $(ARGS)

.PHONY: reproduce
reproduce: $(VENV)/installed ## Run what RECORD says again and compare; ARGS say where its data lie
	@$(BIN)/python scripts/reproduce.py $(RECORD) $(ARGS)

.PHONY: data
data: $(VENV)/installed ## Prepare DATASET once for every later run; ARGS say where it lies
	@$(BIN)/python scripts/prepare_data.py dataset=$(DATASET) $(ARGS)

.PHONY: describe
describe: $(VENV)/installed ## Statistics and pictures of DATASET, in RESULTS/data
	@$(BIN)/python scripts/describe.py dataset=$(DATASET) results_dir=$(RESULTS) $(ARGS)

.PHONY: tables
tables: $(VENV)/installed ## Rebuild tables and figures from the records: yours, if any, and the published ones
	@if ls $(RESULTS)/records/*.json >/dev/null 2>&1; then \
		$(BIN)/python scripts/tables.py results_dir=$(RESULTS) $(ARGS) || exit $$?; fi
	@$(BIN)/python scripts/tables.py results_dir=results/published $(ARGS)

.PHONY: test
test: $(VENV)/installed-test ## Run the tests, without the slow ones
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not slow" $(ARGS)

.PHONY: test-all
test-all: $(VENV)/installed-test ## Run all tests
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) $(ARGS)

TEST_PROCESSES ?= 2

.PHONY: lint
lint: $(VENV)/installed-dev ## Check style and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

.PHONY: benchmark
benchmark: $(VENV)/installed ## Measure ours and the peers, in turn, beside the convolution; ARGS=--quick for errors
	@$(BIN)/python scripts/benchmark.py results_dir=$(RESULTS) $(ARGS)

.PHONY: peers
peers: $(PEERS)/installed ## Install PyTorch and TensorFlow, for `make benchmark` to compare with, in an environment of their own

.PHONY: install
install: $(VENV)/installed ## Make .venv with the pinned versions of everything that is needed

.PHONY: clean
clean: ## Remove .venv, .venv-peers and caches; results stay
	rm -rf $(VENV) $(PEERS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# $(call install,EXTRAS): the package in editable mode, at the versions of constraints.txt, in the
# environment that the target lies in.
define install
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.$(1)'
	@touch $@
endef

%/made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "error: lrlc_jax needs Python 3.11 to 3.13; name one: make PYTHON=python3.12" >&2; exit 2; }
	@echo "Making $(@D) and installing into it (once, a few minutes)" >&2
	@$(PYTHON) -m venv --clear $(@D)
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml constraints.txt
	$(call install,)

$(VENV)/installed-test: $(VENV)/installed
	$(call install,[test])

$(VENV)/installed-dev: $(VENV)/installed
	$(call install,[dev])

$(PEERS)/installed: $(PEERS)/made pyproject.toml constraints.txt
	$(call install,[peers])
