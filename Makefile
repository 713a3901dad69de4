# `make` sets everything up and runs the pipeline to a results table; `make test` sets everything up and tests.
PYTHON ?= python3
PACKAGES := .venv/packages
READY := .venv/ready
PAGE := http://127.0.0.1:5000/\#/experiments/1/runs?workflowType=machine_learning
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# This checkout's code, also if .venv is another's.
export PYTHONPATH := $(CURDIR)/src
export MLFLOW_DISABLE_TELEMETRY := true
# If it were set, every start would compile MLflow and PyTorch again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: all setup test torture bench bench-peers bench-pipeline ui sync docs portability verify lock clean help

all: setup ## Set up, run the whole pipeline, print the results (the default)
	@python -m quartet prepare
	@[ -s .dvc/tmp/rwlock ] || rm -f .dvc/tmp/rwlock # a dvc killed while writing it leaves it empty, and the next refuses it
	@$(if $(QUARTET_MNIST),dvc repro --single-item --force fetch)
	@python -m quartet repro --jobs $(CORES)
	@python -m quartet audit
	@echo; cat stages/plot/results.md
	@echo 'Next: make ui               compare the runs in MLflow, at $(PAGE)'
	@echo '      . .venv/bin/activate  then: dvc exp run -S bn=true; dvc metrics show; dvc plots show'
	@grep -q '"data": "mnist"' data/raw/source.json || \
	  echo '      QUARTET_MNIST=<directory or URL of its four files> make: this was sample data, now MNIST'

setup: $(READY) ## Make .venv with the pinned packages and this project; give this repository a git identity if it has none
	@git config user.name >/dev/null || { git config user.name mnist-quartet; \
	  echo 'setup: git has no user.name: set to "mnist-quartet" in this repository, since dvc exp run needs one'; }
	@git config user.email >/dev/null || { git config user.email mnist-quartet@localhost; \
	  echo 'setup: git has no user.email: set to "mnist-quartet@localhost" in this repository'; }

# --no-compile: Python compiles what is imported when it is; compiling all of it takes a minute.
$(PACKAGES): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "setup: Python 3.10 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@echo 'setup: installing the packages of requirements.txt into .venv (a minute or two)'
	@$(PYTHON) -m venv --clear .venv
	@python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@touch $@

$(READY): $(PACKAGES) pyproject.toml
	@python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

test: setup ## Set up, then ruff, mypy and pytest
	ruff check
	ruff format --check
	mypy
	pytest -q -n $(CORES) --dist loadgroup

torture: setup ## Kill the pipeline 50 times on the sample, then disturb it 50 times; nothing may be lost or false (20 minutes)
	@PYTHONPATH="$(CURDIR)/src:tests" python tests/torture.py --kills 50 --disturb 50

bench: setup ## Measure speed and memory, write bench/results.md (other libraries too: make bench-peers first)
	@python bench/bench.py

bench-peers: setup ## Make .venv-peers with the libraries that bench compares with
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r bench/peers-requirements.txt

bench-pipeline: setup ## Measure make on MNIST and each stage's memory in a throw-away clone, write bench/pipeline.md (8 minutes)
	@python bench/pipeline.py

ui: setup ## Open MLflow's pages on http://127.0.0.1:5000
	@echo 'The runs will be at $(PAGE) (half a minute to start; Ctrl-C ends it)'
	@mlflow ui --host 127.0.0.1

sync: setup ## Make MLflow agree with the models that DVC has
	@python -m quartet sync

docs: all ## Run the pipeline and publish its results in docs/ and README.md (MNIST only)
	@python -m quartet publish

portability: setup ## Compare the bytes of a short run here and under emulated processors (needs qemu-user; 6 minutes)
	@python -m quartet portability $(PROCESSORS)

verify: setup ## Run what is committed on MNIST in a temporary clone, and compare each output with the published one
	@python -m quartet verify

lock: setup ## Pin all packages again in requirements.txt (needs uv)
	uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate --group dev pyproject.toml \
	  | grep -v -E '^(cuda-|nvidia-|triton)' > requirements.txt.part # torch pins these itself, for its CUDA builds alone
	mv requirements.txt.part requirements.txt

clean: ## Remove results, data, MLflow's store and .venv; keep DVC's cache
	rm -rf .venv .checkpoints dvc_plots mlflow.db* .mypy_cache .ruff_cache
	find data stages mlruns -mindepth 1 ! -name .gitignore -delete

help: ## Say what each target does
	@grep -h -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16
