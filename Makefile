# One entry point, for people and for CI. A new machine needs Rust, Python >= 3.10, gcc and make.

SHELL := bash
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
PY := $(VENV)/bin/python
EXTENSION := python/meteora_rs/_native.abi3.so
RUST_SOURCES := $(shell find rust cuda -name fuzz -prune -o -type f \( -name '*.rs' -o -name '*.toml' -o -name '*.cu*' -o -name '*.h' \) -print)
SECONDS_PER_TARGET ?= 300
SOAK_SECONDS ?= 3600
FUZZ_RUNS ?= 1000000
PYTEST_ARGS ?=
BENCH_ARGS ?=
DEMO_ARGS ?=

# Sanitizers need a target by name, or they would be built into build scripts as well.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

# The same interpreter for maturin, clippy and the tests: otherwise each rebuilds PyO3 for its own.
export PYO3_PYTHON := $(CURDIR)/$(PY)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
unexport PYTHONHOME

# MAKE_TERMOUT is set where make writes to a terminal (GNU make 4.1 and later).
ifeq ($(NO_COLOR)$(if $(MAKE_TERMOUT),,plain),)
  BLUE := \033[1;36m
  OFF := \033[0m
endif
comma := ,
step = @printf '$(BLUE)==> %s$(OFF)\n' "$(1)"

.PHONY: help env demo test test-rust test-python check check-rust check-python bench bench-hot soak loom miri tsan asan fuzz-plain fuzz fuzz-short clean

help: ## this list
	@printf 'meteora-rs: make <target>\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nStart with `make demo`. Each target brings the environment up to date first and can be repeated.\n'

# --- environment: three stamps, so that a repeat does only what changed -------------------------------------

$(VENV)/.stamp-uv:
	$(call step,Creating the Python environment in $(VENV))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python 3.10 or later is needed; PYTHON=/path/to/python3 names another."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "The venv module is missing (Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(VENV)/.stamp-requirements: requirements-dev.txt $(VENV)/.stamp-uv
	$(call step,Installing the packages of requirements-dev.txt (the first time: some 3 GB))
	@$(VENV)/bin/uv pip install --requirement requirements-dev.txt
	@touch $@

$(EXTENSION): $(RUST_SOURCES) Cargo.toml pyproject.toml $(VENV)/.stamp-requirements
	$(call step,Building the extension (release; incremental))
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust first (rustup)."; exit 1; }
	@$(VENV)/bin/maturin develop --release --uv
	@touch $@

env: $(EXTENSION) ## the environment in .venv, with the extension built and installed
	@echo "Environment ready: $(PY) -c 'import meteora_rs'"

# --- what people run ----------------------------------------------------------------------------------------

demo: env ## routed text from four adapters on a small model (fetched once)
	$(call step,Running the demo)
	@$(PY) -m meteora_rs.cli demo $(DEMO_ARGS)

test: ## every test, Rust and Python, with a summary
	@$(MAKE) --no-print-directory env
	@$(MAKE) --no-print-directory test-rust
	@$(MAKE) --no-print-directory fuzz-short
	@$(MAKE) --no-print-directory test-python
	$(call step,Summary)
	@awk '/^test result:/ { passed += $$4; failed += $$6; ignored += $$8 } \
	  END { printf "cargo test: %d passed, %d failed, %d ignored\n", passed, failed, ignored }' target/test-rust.log
	@printf 'pytest: %s\n' "$$(tail -n 1 target/test-python.log | tr -d '=')"

test-rust: $(VENV)/.stamp-requirements ## the Rust tests alone
	$(call step,Rust tests)
	@mkdir -p target
# The boundary crate has no tests of its own (pytest covers it), and would need a linkable libpython.
	@set -o pipefail; cargo test --workspace --exclude meteora-python 2>&1 | tee target/test-rust.log

test-python: env ## the Python tests alone (PYTEST_ARGS="-k name")
	$(call step,Python tests)
	@mkdir -p target
	@set -o pipefail; $(PY) -m pytest $(PYTEST_ARGS) 2>&1 | tee target/test-python.log

check: env check-rust check-python ## format, lints, types, stubs; warnings are errors

check-rust: $(VENV)/.stamp-requirements
	$(call step,cargo fmt)
	@cargo fmt --all --check
	$(call step,cargo clippy)
	@cargo clippy --workspace --all-targets -- -D warnings

check-python: env
	$(call step,ruff)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	$(call step,mypy --strict)
	@$(VENV)/bin/mypy --strict
	$(call step,The stubs against the binary)
	@$(PY) -m mypy.stubtest meteora_rs._native

bench: env ## speed as ratios to the base and peers, in one run (some minutes)
	$(call step,Benchmarks)
	@$(PY) -m meteora_rs.cli bench $(BENCH_ARGS)

bench-hot: env ## what loads cost those who run, PEFT beside us (some minutes)
	$(call step,Benchmarks of hot loading)
	@$(PY) -m benchmarks.hot $(BENCH_ARGS)

soak: env ## everything at once on a tiny model, every answer checked (SOAK_SECONDS=3600)
	$(call step,Soaking for $(SOAK_SECONDS) s, then 10$(comma)000 loads and unloads)
	@cd tests && SOAK_SECONDS=$(SOAK_SECONDS) $(CURDIR)/$(PY) -m soak

loom: $(VENV)/.stamp-requirements ## the registry under every order of events of two threads, and three with few preemptions
	$(call step,Loom)
	@RUSTFLAGS='--cfg loom' cargo test --release --package meteora-core --test loom \
	  --target-dir target/loom

tsan: $(VENV)/.stamp-requirements ## all tests of the core under ThreadSanitizer (needs nightly with rust-src)
	$(call step,ThreadSanitizer)
	@RUSTFLAGS='-Zsanitizer=thread' cargo +nightly test -Zbuild-std --target $(HOST) --target-dir target/tsan \
	  --package meteora-core --lib --tests

asan: $(VENV)/.stamp-requirements ## the kernels and parsers under AddressSanitizer (needs nightly)
	$(call step,AddressSanitizer)
	@RUSTFLAGS='-Zsanitizer=address' cargo +nightly test --target $(HOST) --target-dir target/asan --package meteora-core

miri: $(VENV)/.stamp-requirements ## the registry, packing, parsing and the host tier's memory under miri (needs nightly with miri; kernels take it hours)
	$(call step,Miri)
	@export MIRIFLAGS='-Zmiri-disable-isolation'; miri="cargo +nightly miri test --target-dir target/miri -p meteora-core"; \
	  $$miri --lib -- tiers transpose pack rows json; $$miri --test tiers -- host::rows host::new_gates; $$miri --test registry -- capacity in_place places rules

fuzz-plain: ## the fuzz targets without cargo-fuzz, under AddressSanitizer (FUZZ_RUNS=1000000; needs nightly)
	$(call step,$(FUZZ_RUNS) runs of each fuzz target)
	@cd rust/core/fuzz && RUSTFLAGS='-Zsanitizer=address' cargo +nightly run --release --target $(HOST) \
	  --no-default-features --example plain -- $(FUZZ_RUNS)

fuzz: ## fuzz every parser (SECONDS_PER_TARGET=300; needs cargo-fuzz and a C++ compiler)
	$(call step,Fuzzing each target for $(SECONDS_PER_TARGET) s)
	@cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked"; exit 1; }
# RUSTC_BOOTSTRAP lets a stable toolchain pass the sanitizer flags, so that no nightly is needed.
	@cd rust/core && for target in $$(cargo fuzz list); do \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run "$$target" -- -max_total_time=$(SECONDS_PER_TARGET) -rss_limit_mb=2048; done

fuzz-short: ## ten seconds for each fuzz target, where cargo-fuzz is installed
	@if [ -d rust/core/fuzz ] && cargo fuzz --version >/dev/null 2>&1; \
	  then $(MAKE) --no-print-directory fuzz SECONDS_PER_TARGET=10; \
	  else echo "Fuzzing skipped: cargo-fuzz is not installed."; fi

clean: ## removes the environment and everything built (the model's cache stays)
	$(call step,Removing $(VENV) and what was built)
	@rm -rf $(VENV) target $(EXTENSION) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find python tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
