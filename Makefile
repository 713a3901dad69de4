# `make` sets everything up and runs the pipeline to a results table; `make test` sets everything up and tests.
PYTHON ?= python3
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
# The tests wait for servers and for time limits, so one more than there are cores.
WORKERS := $(shell echo $$(($(CORES) + 1)))

# make 3.81 does not search this for a recipe's own program, so recipes name paths; their children use it.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# DVC runs stages with the user's login shell, which may not understand them.
export SHELL := /bin/sh
# This checkout's code, even if .venv belongs to another.
export PYTHONPATH := $(CURDIR)/src
export MLFLOW_DISABLE_TELEMETRY := true
# A model from elsewhere may contain code.
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
# If it is set, every start compiles MLflow and PyTorch again.
export PYTHONDONTWRITEBYTECODE :=

# What names the data, as QUARTET_MNIST does: fetch looks there again.
NAMED := $(filter QUARTET_%,$(.VARIABLES))

COMPILE := --quiet --universal --python-version 3.10 --no-header --no-annotate
# torch pins these itself, for its CUDA builds alone.
CUDA := ^(cuda-|nvidia-|triton)

.PHONY: all setup setup-all setup-team study sweep lint test test-study test-team torture bench bench-peers bench-pipeline bench-predict bench-serve bench-study ui sync docs portability verify lock clean help

all: setup ## Set up, run the whole pipeline, print the results (the default)
	@.venv/bin/python -m quartet prepare
	@[ -s .dvc/tmp/rwlock ] || rm -f .dvc/tmp/rwlock # a dvc killed while writing it leaves it empty, and the next refuses it
	@$(if $(NAMED),.venv/bin/python -m quartet repro --force fetch)
	@.venv/bin/python -m quartet repro --jobs $(CORES)
	@.venv/bin/python -m quartet audit
	@.venv/bin/python -m quartet sync --missing
	@.venv/bin/python -m quartet results

# environment.py reads TORCH: make exports what its command line sets.
setup: ## Make .venv with the pinned packages and this project (TORCH=default: PyTorch's default build); name git's author if none
	@$(PYTHON) environment.py

setup-all: ## The same with what single commands need besides (Ray for make study)
	@$(PYTHON) environment.py study

setup-team: ## Set up, with what a team's storage and servers need besides (docs/team.md)
	@$(PYTHON) environment.py team

study: setup-all ## Train many seeds and judge the report's claims by them, on this machine or on the Ray cluster of RAY_ADDRESS (hours)
	@.venv/bin/python -m quartet prepare
	@.venv/bin/dvc repro study/dvc.yaml

sweep: setup-all ## Search for the best recipe of the trial on validation images, and confirm it on fresh seeds (many hours; goes on where it was)
	@.venv/bin/python -m quartet prepare
	@.venv/bin/dvc repro -q preprocess
	@.venv/bin/python -m quartet sweep

lint: setup-all ## Set up, then ruff and mypy
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

test: lint ## Set up, then ruff, mypy and pytest
	.venv/bin/pytest -q -n $(WORKERS) --dist loadgroup

test-study: setup-all ## The tests of the study that start clusters of Ray (5 minutes)
	.venv/bin/pytest -q -m cluster

test-team: setup ## The tests of a team's servers: PostgreSQL, MLflow with sign-in, SSH, S3 (5 minutes)
	@$(PYTHON) environment.py team tests/team
	.venv/bin/pytest -q -m team -n 2 --dist loadgroup tests/team

torture: setup ## Kill the pipeline 50 times on the sample, then disturb it 50 times; nothing may be lost or wrong (20 minutes)
	@.venv/bin/python tests/torture.py --kills 50 --disturb 50

bench: setup ## Measure speed and memory, write docs/benchmarks.md (other libraries too: make bench-peers first)
	@.venv/bin/python bench/bench.py

bench-peers: setup ## Make .venv-peers with the libraries that bench compares with
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r bench/peers-requirements.txt

bench-pipeline: setup ## Measure make on MNIST and each stage's memory in throw-away clones, write docs/benchmarks.md (8 minutes)
	@.venv/bin/python bench/pipeline.py

bench-predict: setup ## Measure how many photos of MNIST's test images are read right, write docs/model.md (needs results on MNIST)
	@.venv/bin/python bench/reading.py

bench-serve: setup ## Measure quartet serve and MLflow's server under load, write docs/benchmarks.md (needs results that are registered)
	@.venv/bin/python bench/serving.py

bench-study: setup-all ## Measure Ray's tasks against a training alone, write docs/benchmarks.md (2 minutes)
	@.venv/bin/python bench/tasks.py

ui: setup ## Serve MLflow's pages on the store that the pipeline writes to, and print their link
	@.venv/bin/python -m quartet ui

sync: setup ## Make MLflow agree with the models that DVC has
	@.venv/bin/python -m quartet sync

docs: setup ## Run the pipeline; publish its results in docs/, and a study's there and in README.md (MNIST only)
	@.venv/bin/python -m quartet publish --study # stage page shows the verdicts that are published
	@$(MAKE) --no-print-directory all
	@.venv/bin/python -m quartet publish

portability: setup ## Compare the bytes of a short run here and under emulated processors (needs qemu-user; 6 minutes)
	@.venv/bin/python -m quartet portability $(PROCESSORS)

verify: setup ## Run what is committed on MNIST in a temporary clone, and compare each output with the published one
	@.venv/bin/python -m quartet verify

lock: setup ## Pin all packages again in requirements.txt, and in those of study/, team/ and tests/team/ what these add
	.venv/bin/uv pip compile $(COMPILE) --group dev pyproject.toml | grep -v -E '$(CUDA)' > requirements.txt.part
	mv requirements.txt.part requirements.txt
	.venv/bin/uv pip compile $(COMPILE) --constraint requirements.txt --extra study pyproject.toml | grep -v -E '$(CUDA)' \
	  | grep -v -x -F -f requirements.txt > study/requirements.txt.part
	mv study/requirements.txt.part study/requirements.txt
	.venv/bin/uv pip compile $(COMPILE) --constraint requirements.txt --extra team pyproject.toml | grep -v -E '$(CUDA)' \
	  | grep -v -x -F -f requirements.txt > team/requirements.txt.part
	mv team/requirements.txt.part team/requirements.txt
	.venv/bin/uv pip compile $(COMPILE) --constraint requirements.txt --constraint team/requirements.txt --group team-tests pyproject.toml | grep -v -E '$(CUDA)' \
	  | grep -v -x -F -f requirements.txt -f team/requirements.txt > tests/team/requirements.txt.part
	mv tests/team/requirements.txt.part tests/team/requirements.txt

clean: ## Remove results, data, MLflow's store and .venv; keep DVC's cache and what is not the pipeline's
	@[ ! -x .venv/bin/python ] || .venv/bin/python -m quartet clean
	@[ ! -f .venv/ready.json ] || rm -rf .venv

help: ## Say what each target does
	@grep -h -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16
