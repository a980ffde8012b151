# `make help` lists what there is. Everything installs itself into .venv first.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,14))' 2>/dev/null && { echo $$p; break; }; done)
EXTRAS ?= dev
RUN := .venv/bin/python
STAMP := .venv/.installed-$(EXTRAS)
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test test-slow lint format reproduce evaluate-paperdoll bench bench-sd15 bench-train bench-gpu clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

setup: $(STAMP) ## make .venv and install the package with its tools

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "likeness needs Python 3.11, 3.12 or 3.13 (Hydra 1.3 does not start on 3.14); found: $$(python3 --version 2>&1)." >&2; \
		echo "Install one of them, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.4'
	.venv/bin/uv pip install --quiet --python .venv/bin/python -e '.[$(EXTRAS)]'
	@rm -f .venv/.installed-* && touch $@

demo: $(STAMP) ## fine-tune tuki on the embedded model, edit it three ways, write the report
	$(RUN) train.py subject=tuki
	$(RUN) sweep.py -m hydra.sweep.dir=outputs/demo edit=local,global,reweight
	$(RUN) -m likeness.study.overview outputs/demo --photos embedded:tuki
	@echo "Open outputs/demo/report.html and outputs/demo/overview.png"

test: $(STAMP) ## the tests (about 5 minutes on 2 cores)
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test-slow: $(STAMP) ## every test, also the slow ones
	$(RUN) -m pytest -m 'not gpu'

lint: $(STAMP) ## ruff check and format check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format: $(STAMP) ## ruff format and safe fixes
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

reproduce: $(STAMP) ## run all experiments, the figures first, and rewrite the tables of experiments/ and README.md
	$(RUN) -m likeness.reproduce

evaluate-paperdoll: $(STAMP) ## measure the embedded model and rewrite its card
	$(RUN) -m likeness.paperdoll.evaluate

bench: $(STAMP) ## Prompt-to-Prompt against plain sampling
	$(RUN) -m likeness.prompt_to_prompt.benchmark --many
	$(RUN) -m likeness.study.benchmark

bench-sd15: $(STAMP) ## the same at Stable Diffusion 1.5's dimensions; on a GPU: ARGS="--device cuda --dtype bfloat16 --steps 50"
	$(RUN) -m likeness.prompt_to_prompt.benchmark --shape sd15 $(or $(ARGS),--pairs 5 --steps 2)

bench-train: $(STAMP) ## fine-tuning against an uncached loop; ARGS="--shape sd15 --memory" and the like
	$(RUN) -m likeness.study.training_benchmark $(or $(ARGS),--entry train.py)

bench-gpu: $(STAMP) ## fine-tuning on a GPU at Stable Diffusion 1.5's dimensions, every way: rates, memory, share of its peak
	$(RUN) -m likeness.study.training_table --device cuda $(ARGS)

clean: ## remove outputs/ (asks nothing)
	rm -rf outputs
