# Every target makes what it needs under .venv/; PYTHON chooses the interpreter.
#
#   make test                       the tests, on one interpreter
#   make test PYTHON=python3.13 ARGS="-k labels"
#   make test-all                   the tests on 3.11 to 3.15 and without a compiler, as .ci/run does

PYTHON ?= $(shell .ci/find-python)
TAG := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV ?= .venv/$(TAG)
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help test test-servers test-browser test-conformance test-all demo lint format bench stress libraries cruel faults layout sanitize fuzz pprof clean

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@test -n "$(TAG)" || { echo "no CPython 3.11 or newer was found; say make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

## test      run the tests
# Editable, so that scripts and servers that the tests start from the tree find the same extension.
test: $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[test]"
	$(BIN)/pytest $(or $(ARGS),--ignore=tests/servers -m "not browser and not slow")

## test-servers   the adapters under real servers, from an example application to the upload
test-servers: $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[test,servers]"
	$(BIN)/pytest tests/servers $(ARGS)

## test-browser   the viewer in Debian's Chromium (apt-get install chromium), and the agent's slow tests
test-browser: $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[test]"
	$(BIN)/pytest tests/agent $(or $(ARGS),-m "browser or slow")

## test-conformance   what real receivers make of an upload: a Collector built from source, and others if named
# CONPROF_PYROSCOPE and CONPROF_PARCA name the binaries of a Pyroscope and a Parca, whose modules a
# module proxy may not have; the summary says which receiver was real.
test-conformance: $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[test]" "grpcio>=1.60"
	CONPROF_OTELCOL=$$(.ci/get-otelcol) $(BIN)/pytest -rs tests/conformance $(ARGS)

## test-all  run the tests on every interpreter from 3.11 to 3.15, portable engine and no compiler included
test-all:
	.ci/run

## demo      start a local agent and an example application, and open the viewer
demo: $(BIN)/python
	$(BIN)/python -m pip install --quiet ".[agent,django,flask,asgi]"
	$(BIN)/conprof demo $(ARGS)

## lint      ruff, mypy --strict, clang-format, and the extension with -Werror
lint: $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror conprof_core/_native/*.c conprof_core/_native/*.h
	rm -rf $(VENV)/werror
	CONPROF_WERROR=1 CONPROF_REQUIRE_NATIVE=1 $(BIN)/python -m pip install --quiet --no-deps --no-cache-dir --target $(VENV)/werror .

## format    rewrite the sources as lint wants them
format: $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i conprof_core/_native/*.c conprof_core/_native/*.h

## bench     accuracy, cost and weight of the profiler (benchmarks/README.md)
bench: $(BIN)/python
	$(BIN)/python -m pip install --quiet ".[test]"
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/weight.py
	$(BIN)/python benchmarks/cost.py

## stress    CPython's own tests with every type on, and 1000 signals a second
stress: $(BIN)/python
	$(BIN)/python -m pip install --quiet .
	$(BIN)/python tests/stress/run.py $(ARGS)

## libraries  tests of libraries in C (NumPy, pandas, lxml, gRPC, uvloop, gevent) with every type on
# In an environment of its own: what it installs, the other tests do without.
libraries: $(BIN)/python
	$(PYTHON) -m venv $(VENV)-libraries
	$(VENV)-libraries/bin/python -m pip install --quiet .
	$(VENV)-libraries/bin/python tests/stress/libraries.py $(ARGS)

## cruel     programs in hostile environments, each engine against none (ARGS=--quick: three minutes)
cruel: $(BIN)/python
	$(BIN)/python -m pip install --quiet .
	PYTHONPATH=tests $(BIN)/python -m cruel $(ARGS)

## faults    programs whose frames are unmapped and poisoned, walked after any instruction
faults: $(BIN)/python
	$(BIN)/python -m pip install --quiet . gevent
	$(BIN)/python tests/faults/run.py $(ARGS)

## layout    the extension built against headers of other layouts than this interpreter's
layout: $(BIN)/python
	$(BIN)/python -m pip install --quiet .
	$(BIN)/python tests/layout/run.py $(ARGS)

## sanitize  the extension under ASan with UBSan, and under TSan
sanitize:
	PYTHON=$(PYTHON) tests/native/sanitize $(ARGS)

## fuzz      the frame walker, the ring, the aggregator and the encoder with hostile input
fuzz: $(BIN)/python
	$(BIN)/python -m pip install --quiet opentelemetry-proto
	PYTHON=$(BIN)/python tests/native/fuzz $(ARGS)

## pprof     build google/pprof into the cache and print where it is
pprof:
	@.ci/get-pprof

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
