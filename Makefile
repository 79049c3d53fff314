.DEFAULT_GOAL := help
SHELL := /bin/bash
export OMP_NUM_THREADS ?= 1
export DO_NOT_TRACK = true
export MLFLOW_DISABLE_TELEMETRY = true
export RAY_USAGE_STATS_ENABLED = 0
PYTHON ?= python3.11
UV_VERSION = 0.13.8
RUN = .venv/bin/python -m

help: ## this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 12

setup: .venv/ready ## install the packages of the lock file into .venv, each checked by its hash

.venv/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet uv==$(UV_VERSION)
	.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## the whole loop on the shipped restaurants, with the local profile
	.venv/bin/evermodel demo

check: lint ## lint, and the tests that start no Ray, pipeline, server or slow process: for each edit
	$(RUN) pytest tests -n 2 -m "not (ray or kfp or server or process or slow)"

test: setup ## all tests
	$(RUN) pytest tests -n 2

lint: setup ## format, lint, types, import contracts
	$(RUN) ruff format --check . && $(RUN) ruff check . && $(RUN) mypy && .venv/bin/lint-imports

bench: setup ## measure the claims of docs/benchmarks.md, each against a peer in the same run
	$(RUN) benchmarks

pipelines: setup ## compile the pipelines to IR YAML
	$(RUN) pipelines compile --out pipelines/compiled

lock: ## resolve the lock files again, with the newest versions
	.venv/bin/uv pip compile pyproject.toml --extra kafka --extra redis --extra k8s --group dev --generate-hashes --python-version 3.11 --quiet --upgrade -o requirements.lock && docker/lock.sh

images: ## build both images (docker, podman or buildah); prints NAME@DIGEST of each
	@docker/build.sh

manifests: setup ## the chart: lint, unit tests, schemas, security of the rendered pods (needs helm)
	$(RUN) pytest tests/manifests -ra

cluster: ## how to get a cluster for `make e2e`
	@echo "export KUBECONFIG of any Kubernetes with KubeRay 1.6 and enforced NetworkPolicies; on a laptop: kind create cluster --config k8s/kind.yaml (see k8s/README.md)"

e2e: setup ## the cluster tests on KUBECONFIG, with the images of EVERMODEL_CONTROL_IMAGE and EVERMODEL_RAY_IMAGE
	EVERMODEL_E2E=1 $(RUN) pytest tests/e2e $(if $(E2E),-k test_e2e_$(E2E)) -v

.PHONY: help setup demo check test lint bench pipelines lock images manifests cluster e2e
