# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
STUDY ?= control quick
DATASET ?= digits
RESULTS ?= results
RECORD ?=
TARGET ?= h100
ARGS ?=
TEST_PROCESSES ?= 2

VENV := .venv
PEERS := .venv-peers
COMPILERS := .venv-compilers
RUN := @$(VENV)/bin/python
# Names of files reach a command as they are: by the environment, and in quotes for Hydra.
export RESULTS RECORD
RESULTS_DIR := "results_dir=\"$$RESULTS\""
.DEFAULT_GOAL := help
# With byte code on disk commands start in half the time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## Show this help
	@echo "Usage: make COMMAND [STUDY=\"control quick\"] [DATASET=digits] [RESULTS=results] [RECORD=FILE] [TARGET=h100] [ARGS=\"name=value ...\"]"
	@echo "ARGS are settings of the command, such as ARGS=\"dataset=mnist protocol.seeds=3\"."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run-sweep
run-sweep: $(VENV)/with-experiments ## Train the missing seeds of each STUDY in RESULTS, and write its tables
	@for study in $(STUDY); do \
		$(VENV)/bin/python scripts/sweep.py "study=$$study" $(RESULTS_DIR) $(ARGS) || exit; done

.PHONY: tables figures report
tables: ARGS += parts=[tables]
tables: report ## Rebuild only the tables, from the records in RESULTS and the published ones
figures: ARGS += parts=[figures]
figures: report ## Rebuild only the figures
report: $(VENV)/with-experiments ## Rebuild the tables, the figures and the page
	@for folder in "$$RESULTS" results/published; do \
		! ls "$$folder"/records/*.json >/dev/null 2>&1 || \
		$(VENV)/bin/python scripts/tables.py "results_dir=\"$$folder\"" $(ARGS) || exit; done

.PHONY: reproduce
reproduce: $(VENV)/with-experiments ## Repeat the run of RECORD and compare the metrics
	$(RUN) scripts/reproduce.py $(if $(RECORD),"$$RECORD") $(ARGS)

.PHONY: evaluate
evaluate: $(VENV)/with-experiments ## Compute the test metrics of RECORD again from its weights
	$(RUN) scripts/evaluate.py $(if $(RECORD),"$$RECORD") $(ARGS)

.PHONY: analyze
analyze: $(VENV)/with-experiments ## Measure the networks of RECORD from its weights
	$(RUN) scripts/analyze.py $(if $(RECORD),"$$RECORD") $(ARGS)

.PHONY: data
data: $(VENV)/with-experiments ## Prepare DATASET once for all later runs
	$(RUN) scripts/prepare_data.py "dataset=$(DATASET)" $(ARGS)

.PHONY: describe
describe: $(VENV)/with-experiments ## Write statistics and pictures of DATASET to RESULTS/data, print the cost of a network
	$(RUN) scripts/describe.py "dataset=$(DATASET)" $(RESULTS_DIR) $(ARGS)

.PHONY: benchmark
benchmark: $(VENV)/with-experiments ## Time training steps of ours and the peers side by side; ARGS=--quick checks for errors only
	$(RUN) scripts/benchmark.py $(RESULTS_DIR) $(ARGS)

.PHONY: peers
peers: $(PEERS)/with-peers ## Install PyTorch and TensorFlow for the benchmark, in an environment of their own

.PHONY: compile-for
compile-for: $(COMPILERS)/with-compilers ## Compile for TARGET (h100, a100, v5e, v6e), without having it, and count what programs cost
	@$(COMPILERS)/bin/python scripts/compile_for.py "target=$(TARGET)" $(RESULTS_DIR) $(ARGS)

.PHONY: check-device
check-device: $(VENV)/with-experiments ## Check and measure this GPU, TPU or CPU, in 3 minutes; ARGS=--quick checks for errors only
	$(RUN) scripts/check_device.py $(RESULTS_DIR) $(ARGS)

.PHONY: test
test: $(VENV)/with-test ## Run the tests, without the slow ones
	$(RUN) -m pytest -n $(TEST_PROCESSES) -m "not slow" $(ARGS)

.PHONY: test-all
test-all: $(VENV)/with-test ## Run all tests
	$(RUN) -m pytest -n $(TEST_PROCESSES) $(ARGS)

.PHONY: lint
lint: $(VENV)/with-dev ## Check style and types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

.PHONY: install
install: $(VENV)/with-experiments ## Create .venv with the layers and the pipeline, at the versions of constraints.txt

.PHONY: clean
clean: ## Remove environments and caches; keep results
	rm -rf $(VENV) $(PEERS) $(COMPILERS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# DIRECTORY/with-EXTRA: install the package with an extra, in editable mode, into an environment.
define install
@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
	--constraint constraints.txt --editable '.[$(@F:with-%=%)]'
@touch $@
endef

EXTRAS := experiments ray test dev
$(EXTRAS:%=$(VENV)/with-%): $(VENV)/created pyproject.toml constraints.txt
	$(install)

$(PEERS)/with-peers: $(PEERS)/created pyproject.toml constraints.txt
	$(install)

$(COMPILERS)/with-compilers: $(COMPILERS)/created pyproject.toml constraints.txt
	$(install)

$(VENV)/created $(PEERS)/created $(COMPILERS)/created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "error: lrlc_jax needs Python 3.11 to 3.13, such as: make PYTHON=python3.12" >&2; exit 2; }
	@echo "Creating $(@D) and installing the packages (once, a few minutes)" >&2
	@$(PYTHON) -m venv --clear $(@D)
	@touch $@
