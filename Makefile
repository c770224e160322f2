# Every target prepares what it needs: the virtual environment .venv, Rust when it is missing, the built package.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test soak lint bench wheel gpu-test gpu-bench
.NOTPARALLEL:

# The interpreter that makes the environment; words passed on to the demo, to pytest and to the benches.
PYTHON ?= python3
ARGS ?=
# A wheel built elsewhere, for `gpu-test` and `gpu-bench` on a machine without Rust.
WHEEL ?=

READY := .venv/ready
SOURCES := pyproject.toml Cargo.toml Cargo.lock scripts/setup.sh \
	$(shell find rust -path '*/src/*.rs' -o -name Cargo.toml)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(READY)  ## the whole story: raw text to five models and a report, 6 to 7 minutes on two cores
	@tempa demo $(ARGS)

test: lint  ## lint, then the Rust and the Python tests
	cargo test --locked --quiet
	python -m pytest $(ARGS)

soak: $(READY)  ## ten million random operations on the KV manager, minutes
	cargo test --locked --release --package tempa-core --lib kv::tests::soak -- --ignored

lint: $(READY)  ## formatting, clippy, ruff, strict types, stubs against the built module
	cargo fmt --all --check
	cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	ruff check
	ruff format --check
	mypy
	python -m mypy.stubtest tempa._core --allowlist scripts/stubtest-allowlist

bench: $(READY)  ## time tempa beside its peers and write docs/numbers.md (an idle machine, please)
	python -m pytest benches $(ARGS)
	python benches/report.py

wheel: $(READY)  ## one abi3 wheel for CPython 3.11 and later in dist/
	maturin build --release --locked --out dist

gpu-test:  ## GPU tests, then compute-sanitizer; WHEEL=dist/tempa-....whl tests a wheel built elsewhere
	@scripts/gpu-test.sh "$(WHEEL)" $(ARGS)

gpu-bench:  ## kernels on a GPU beside its ceilings and their peers, 9 minutes; ARGS=--help says more
	@scripts/gpu-bench.sh "$(WHEEL)" $(ARGS)

$(READY): $(SOURCES)
	@scripts/setup.sh "$(PYTHON)"
	@touch $@
