# Loci: everything a person types. Each target is complete on a fresh Debian or Ubuntu.
.DEFAULT_GOAL := help
.PHONY: help build test demo bench clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

build:  ## the library, the command line (build/release/cli/loci) and the tests
	@tools/setup release

test: build  ## every test
	@tools/test

demo: build  ## train a small language model with and without a memory, and compare them (DATA=DIR: your own text)
	@tools/demo $(DATA)

bench: build  ## how fast the operators are on this machine
	@build/release/cli/loci bench

clean:  ## remove what was built (keeps .venv)
	@rm -rf build
