# Loci: everything a person types. Each target is complete on a fresh Debian or Ubuntu.
.DEFAULT_GOAL := help
.PHONY: help build test demo bench format clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

build:  ## the library and the command line (build/release/cli/loci)
	@tools/setup release loci_program

test:  ## every test
	@tools/setup release
	@tools/test

demo: build  ## train a small language model with and without a memory, and compare them (DATA=DIR: your own text)
	@tools/demo $(DATA)

bench: build  ## how fast the operators are on this machine
	@build/release/cli/loci bench

format:  ## formats the sources as `make test` wants them
	@git ls-files '*.cpp' '*.h' | xargs .venv/bin/clang-format -i
	@.venv/bin/ruff check --quiet --fix . && .venv/bin/ruff format --quiet .

clean:  ## remove what was built (keeps .venv)
	@rm -rf build
