# The same commands locally and in CI. `make` alone lists them.
#
#   make simulate ARGS="data=tcga_blca data.root=FOLDER"   overrides for flower-simulate
#   make test ARGS="-k survival"                           options for pytest
#   make test PYTHON=/path/to/python3.12                   another Python for the venv
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
#       a torch without CUDA: on Linux the one from PyPI brings gigabytes of it. Read only when the venv is made.
#
# Every command first makes the venv, if it is not there or pyproject.toml or constraints.txt changed since.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
# Where it is exported, each pytest worker and each process that a test starts compiles every source anew.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=
# The embedded example: a strong planted risk, so that a minute or two of training shows it.
DEMO := data.synthetic.num_patients=600 data.synthetic.effect=2 federation=adamw federation.num_rounds=15 \
  training.batch_size=16 threads=1 'methods=[federated,pooled]'
# More workers than this cost more in imports of torch than they bring.
PYTEST_WORKERS ?= 4

# Those whose private names tests/*/test_flower_contract.py holds; the last one is the pin.
FLOWER_VERSIONS := 1.41.0 1.42.0

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One torch thread for each pytest worker: two workers with two threads each on two cores are slower than one.
# Tests stay in their order until a worker has none left: what a file's tests share is then made once, not in each worker.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses $(PYTEST_WORKERS) --dist worksteal

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'More on ARGS, PYTHON and TORCH_INDEX at the top of the Makefile.'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Python 3.11 or newer is needed; "$(PYTHON)" is older or not there. Name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[dev,docs]'
	@touch $@

.PHONY: install
install: $(READY) ## make the venv with everything for development

.PHONY: simulate
simulate: $(READY) ## train the embedded example federation on this machine; says where the results are
	$(BIN)/flower-simulate $(or $(ARGS),$(DEMO))

.PHONY: test
test: $(READY) ## the fast tests, one to three minutes on two cores
	$(PYTEST) $(ARGS)

.PHONY: coverage
coverage: $(READY) ## the fast tests, and the share of the lines of memamba_core that they run
	$(PYTEST) --cov --cov-report=term $(ARGS)

.PHONY: test-ci
test-ci: $(READY) ## the short slow tests that CI runs as well
	$(PYTEST) -m ci_slow $(ARGS)

.PHONY: test-slow
test-slow: $(READY) ## all slow tests
	$(PYTEST) -m 'slow or ci_slow' $(ARGS)

FUZZ_SECONDS ?= 600
.PHONY: test-fuzz
test-fuzz: $(READY) ## readers of files on damaged bytes; FUZZ_SECONDS for each reader, 600 by default
	MEMAMBA_FUZZ_SECONDS=$(FUZZ_SECONDS) $(PYTEST) -m 'slow or not slow' tests/fuzz $(ARGS)

.PHONY: test-faults
test-faults: $(READY) ## coordinator and sites as real processes that are killed, missing, full or hostile
	$(PYTEST) --dist loadfile -m 'slow or ci_slow' \
	  tests/coordinator tests/site tests/system/test_mutual_tls.py $(ARGS)

.PHONY: test-containers
test-containers: $(READY) ## build the image and run a federation in containers, with podman
	$(BIN)/pytest -m containers --capture=no $(ARGS)

.PHONY: test-hosts
test-hosts: $(READY) ## a federation over lines that are slow, lose packets and break; as root
	$(BIN)/pytest -m hosts --capture=no $(ARGS)

# Each version in a venv of its own. Everything else, this project included, comes from $(VENV) through a .pth file.
.PHONY: test-flower
test-flower: $(READY) ## the contract with Flower's private names, on every supported version of Flower
	@for version in $(FLOWER_VERSIONS); do \
	  venv=build/flower-$$version; echo "flwr $$version"; \
	  rm -rf $$venv; $(BIN)/python -m venv --without-pip $$venv; \
	  $(BIN)/python -m pip --python $$venv/bin/python install --quiet --no-deps flwr==$$version; \
	  $(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	    > $$(echo $$venv/lib/python*/site-packages)/shared.pth; \
	  OMP_NUM_THREADS=1 $$venv/bin/python -m pytest -m '' -p no:cacheprovider \
	    tests/coordinator/test_flower_contract.py tests/coordinator/test_grid.py \
	    tests/coordinator/test_patient_superlink.py tests/site/test_flower_contract.py $(ARGS); \
	done

.PHONY: test-gpu
test-gpu: $(READY) ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu $(ARGS)

.PHONY: lint
lint: $(READY) ## ruff: rules and format; how the project speaks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/docs/check_voice.py

.PHONY: types
types: $(READY) ## mypy, strict
	$(BIN)/mypy

.PHONY: imports
imports: $(READY) ## import-linter: who may import whom
	$(BIN)/lint-imports

.PHONY: reference
reference: $(READY) ## write the schemas and pages of docs/reference that are made from the code
	$(BIN)/python -m simulation.schemas
	$(BIN)/python docs/generator

.PHONY: notebook
notebook: $(READY) ## execute the tutorial notebook and store its outputs
	$(BIN)/python docs/generator/notebook.py

.PHONY: docs
docs: $(READY) ## build the documentation into build/docs, strictly and without a network
	$(BIN)/python docs/generator --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: check
check: lint types imports test ## all that must pass before a commit

.PHONY: bench
bench: $(READY) ## speed of scan, block and model, ten minutes; ARGS=--write also into docs/results/benchmarks.md
	@$(BIN)/python -c 'import mambapy' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]' || \
	  echo 'mambapy could not be installed: measured without it' >&2
	$(BIN)/python benchmarks/scan_speed.py $(ARGS)

.PHONY: bench-gpu
bench-gpu: $(READY) ## speed of the scans for a GPU, and what is built of them; ARGS=--write also into docs/results/benchmarks_gpu.md
	$(BIN)/python benchmarks/gpu_speed.py $(ARGS)

.PHONY: bench-federation
bench-federation: $(READY) ## the cost of federating, and baselines; the studies of docs/results/survival.md: see benchmarks/README.md
	$(BIN)/python benchmarks/federation_overhead.py
	$(BIN)/python benchmarks/baselines.py $(ARGS)

# In an environment without pip, build tools and packages for development.
.PHONY: sbom
sbom: $(READY) ## list all run-time packages and their licences as CycloneDX: dist/sbom.cdx.json
	@$(BIN)/python -c 'import cyclonedx_py' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[sbom]'
	rm -rf build/sbom
	$(BIN)/python -m venv --without-pip build/sbom
	$(BIN)/python -m pip --python build/sbom/bin/python install --quiet --constraint constraints.txt \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) .
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/sbom.cdx.json build/sbom/bin/python

.PHONY: clean
clean: ## remove the venv, caches and builds; results in outputs/ stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
