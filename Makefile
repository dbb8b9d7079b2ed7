# Every target calls a script, most of them of the same name in scripts/. `make help` lists them.

PREFIX ?= /usr
DESTDIR ?=
export PREFIX DESTDIR
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$(printf '\t') read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

run: build ## set everything up, then run a container in a microVM
	@scripts/run

build: ## everything that `run` needs: system packages, programs, guest, demo image
	@scripts/build

test: build ## checks and the essential tests of every suite
	@scripts/test essential

test-all: build ## checks and all tests
	@scripts/test all

fuzz: build ## feed all readers of foreign bytes what nobody would send: CAISSON_FUZZ_MINUTES each
	@scripts/fuzz long

test-podman: build ## all tests with Podman on caisson-oci
	@scripts/test-podman

test-docker: build ## all tests with Docker, 20.10 on caisson-oci and a newer one on the shim
	@scripts/test-docker

test-library: build ## all tests of the npm library
	@scripts/test-library

test-faults: build ## the fault matrix: kill, stop and remove what a sandbox is made of
	@scripts/test-faults

lab: build ## boot the lab, a host with KVM under emulation, and show what it has
	@scripts/lab check

lab-shell: build ## a prompt in the lab
	@scripts/lab shell

test-lab: build ## the suites in the lab: KVM, vhost-vsock, Cloud Hypervisor
	@scripts/test-lab all

test-cri: build ## critest, and all our own tests of CRI pods
	@scripts/test-cri

check: ## formatting, types, lint, layers, clippy
	@scripts/check

fix: ## repair what `check` can repair by itself
	@scripts/fix

gen: ## generate src/gen from proto
	@scripts/gen

bench: build ## measure starts, execs, bytes, files, memory: build/bench/results.json, docs/benchmarks
	@scripts/bench

bench-lab: build ## measure in the lab what needs KVM and vhost-vsock: templates, memory
	@scripts/lab bench

bench-compare: ## measure this checkout and BASE=revision in turn, and print the ratios
	@scripts/bench-compare

agent: ## build the guest agent
	@scripts/agent

native: ## build the addon for Node
	@native/build.sh

guest: ## build the guest's kernel, initrd and image
	@scripts/guest

kernel: ## build the tuned guest kernel, which is then used (about five minutes)
	@scripts/kernel

install: build ## install below $(DESTDIR)$(PREFIX)
	@scripts/install

clean: ## remove build/; the cache stays
	@scripts/clean

.PHONY: help run build test test-all fuzz test-podman test-docker test-library test-faults lab lab-shell test-lab check fix gen bench bench-lab bench-compare agent native guest kernel install clean
