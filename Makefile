# `make demo` and `make test` need nothing but a Debian or Ubuntu machine: they set up the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
OUT ?= out/demo
VENV := .venv/bin
export PYTHON

# The targets use the ROS 2 wheels in .venv, the same on every machine. Python paths and libraries of
# a sourced ROS distribution would be mixed with them, so they are kept out; to use the distribution,
# build the package with colcon.
unexport PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
unexport ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION ROS_PACKAGE_PATH RMW_IMPLEMENTATION
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE VIRTUAL_ENV
ifdef AMENT_PREFIX_PATH
unexport LD_LIBRARY_PATH
endif

.PHONY: help setup demo test test-all bench reliability docs clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: ## system libraries, .venv and wheels; nothing when they are there
	@scripts/setup.sh

demo: setup ## results, MCAP and report in OUT (out/demo); RECORDING=path takes yours
	@$(VENV)/robot-perception demo $(if $(RECORDING),"$(RECORDING)") --out "$(OUT)"

test: setup ## linters, types, and all tests but the slow ones, with coverage
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy robot_perception
	@$(VENV)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

test-all: ## all tests, the slow ones too
	@$(MAKE) --no-print-directory test PYTEST_ARGS="-m 'slow or not slow' $(PYTEST_ARGS)"

bench: setup ## all benchmarks
	@shopt -s nullglob; for b in benchmarks/*.py; do echo "== $$b"; $(VENV)/python "$$b" || exit 1; done

reliability: setup ## all fault tests at length, fuzzing and an hour's soak; writes docs/reliability.md
	@$(VENV)/python benchmarks/reliability/run.py $(RELIABILITY_ARGS)

docs: setup ## the reference of the Python modules, in out/docs/api (installs pdoc)
	@$(VENV)/python -m pip install --quiet --disable-pip-version-check 'pdoc>=15'
	@$(VENV)/python -m pdoc --docformat markdown --no-show-source --output-directory out/docs/api \
		robot_perception.core robot_perception.wire robot_perception.pipeline
	@echo "reference: out/docs/api/index.html"

clean: ## what was built and written, but not .venv
	rm -rf build install log out *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
