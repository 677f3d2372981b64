# The two commands that matter: `sudo make run` and `sudo make test`. Both install what is missing.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv/bin
SOURCES := otel_connect tests tools

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.PHONY: setup
setup: ## install what `run` needs: distribution packages, the environment, tracefs
	@tools/setup.sh run

.PHONY: setup-tests
setup-tests: ## install what `test` needs besides
	@tools/setup.sh test

.PHONY: run
run: setup ## watch every TCP connect attempt of this host (ARGS="--duration 10" …)
	@exec $(VENV)/otel-connect run $(ARGS)

.PHONY: demo
demo: ## make a handful of attempts with different ends, to look at in `make run`
	@/usr/bin/python3 tools/demo.py

.PHONY: check
check: setup-tests ## format, lint and types, without tests
	@$(VENV)/ruff format --check -q $(SOURCES)
	@$(VENV)/ruff check -q $(SOURCES)
	@$(VENV)/clang-format --dry-run -Werror probes/*.c probes/*.h
	@$(VENV)/mypy --no-error-summary $(SOURCES)

TESTS ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: test
test: check ## every check and every test (TESTS="tests/unit -k outcome" for some)
	@OTEL_CONNECT_COLLECTOR="$$(tests/collector/build.sh)" $(VENV)/python -m pytest $(TESTS)

# The tests with a long form; each can be named alone: make soak SOAK=tests/fault/test_kills.py
SOAK ?= tests/fault/test_outage.py tests/fault/test_kills.py tests/fault/test_agent.py \
	tests/kernel/test_floods.py tests/kernel/test_rates.py tests/kernel/test_random_attempts.py \
	tests/unit/test_many_workloads.py tests/unit/test_lookups.py tests/plugin/test_forks.py tests/plugin/test_processes.py

.PHONY: soak
soak: setup-tests mutants ## the long forms of the tests (about 40 minutes); writes what came of them into docs/reliability.md
	@OTEL_CONNECT_SOAK=1 OTEL_CONNECT_COLLECTOR="$$(tests/collector/build.sh)" $(VENV)/python -m pytest $(SOAK)

.PHONY: mutants
mutants: setup-tests ## change the deciding modules in one place at a time: their tests have to notice (about 10 minutes)
	@$(VENV)/python -m tests.mutation $(MUTANTS)

.PHONY: test-kernels
test-kernels: setup-tests ## boot Debian's kernels in emulated machines and check the agent there (about 20 minutes)
	@tests/kernels/run.sh $(KERNELS)

.PHONY: conformance
conformance: setup-tests ## write docs/conformance.md of what this kernel shows (about a minute)
	@$(VENV)/python -m tests.conformance

.PHONY: bench
bench: setup-tests ## what the probes cost and how fast the pipeline is, as ratios within one run
	@$(VENV)/python -m tests.bench

.PHONY: pictures
pictures: setup-tests ## draw the pictures of docs/dashboards.md anew, of a scene of four minutes
	@$(VENV)/python -m tests.pictures

.PHONY: lock
lock: ## resolve the locked dependencies anew
	@tools/lock.sh

.PHONY: format
format: setup-tests ## format everything
	@$(VENV)/ruff format -q $(SOURCES)
	@$(VENV)/ruff check -q --fix $(SOURCES)
	@$(VENV)/clang-format -i probes/*.c probes/*.h

.PHONY: clean
clean: ## remove the environment and what tools leave behind
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
