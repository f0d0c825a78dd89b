# make demo       set up .venv, run the main analysis on the embedded model, print where its report lies
# make test       set up .venv and Chromium, run every test
# make check      lint, format and types; make format repairs the first two
# make coverage   the tests again, and which lines none of them ran
# make quantised  test weights in fp8 and int8 beside the packages that store them, in a folder of their own
# make notebooks  execute the notebooks on the embedded model, store their outputs, write each as a page
# make gallery    take the last demo's run into reports/shapes-sd3, which is committed
# make build      sdist and wheel, in dist/
#
# Stamp files make repeated calls quick. Variables: PYTHON=python3.12  VENV=/path/of/a/venv
# TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" keeps CUDA packages away on Linux.

SHELL   := /bin/bash
PYTHON  ?= python3
VENV    ?= .venv
TORCH   ?= torch==2.13.0
PIP     := $(VENV)/bin/python -m pip --disable-pip-version-check
OUT     ?= reports/massive_activations
GALLERY ?= reports/shapes-sd3
DEMO    ?= analyses/massive_activations.yaml

.PHONY: help demo test check quantised format coverage notebooks gallery build browser clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone: with it installed, no other package's request can choose another build.
$(VENV)/.torch: | $(VENV)/bin/python
	@echo "Installing torch …"
	@$(PIP) install -qq $(TORCH)
	@touch $@

$(VENV)/.core: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing dit_lens and what it needs …"
	@$(PIP) install -qq -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing dit_lens and its development tools …"
	@$(PIP) install -qq -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.core

# The command's last line is the path of the report.
demo: $(VENV)/.core
	$(VENV)/bin/dit-lens run $(DEMO) --out $(OUT)

browser:
	@.ci/install-chromium

test: $(VENV)/.dev browser
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# In a folder of their own: imported, these packages write to stderr in every process, and some need a GPU.
QUANTISED := build/quantised
$(QUANTISED)/.done: constraints.txt | $(VENV)/.dev
	@echo "Installing packages that quantise …"
	@$(PIP) install -qq --no-deps -c constraints.txt --target $(QUANTISED) torchao optimum-quanto gguf bitsandbytes ninja
	@touch $@

quantised: $(QUANTISED)/.done
	OMP_NUM_THREADS=1 PYTHONPATH=$(QUANTISED) $(VENV)/bin/python -m pytest tests/model/test_quantised.py $(ARGS)

# Takes twice the time of `make test`: Python traces every line. Fails below the share that pyproject.toml names.
coverage: $(VENV)/.dev browser
	$(VENV)/bin/coverage erase
	OMP_NUM_THREADS=1 $(VENV)/bin/coverage run -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)
	$(VENV)/bin/coverage combine -q
	$(VENV)/bin/coverage report

notebooks: $(VENV)/.dev browser
	$(VENV)/bin/python notebooks/build.py $(ARGS)

# What a report needs, and no cell or raw statistic: with it `dit-lens report` rebuilds the page.
gallery: $(VENV)/.core
	@grep -q '"status": "finished"' $(OUT)/run.json || { echo "$(OUT) holds no finished run: make demo"; exit 1; }
	rm -rf $(GALLERY) && mkdir -p $(GALLERY)
	cp -r $(addprefix $(OUT)/,run.json spec.yaml results.json channels.json tables images) $(GALLERY)/
	$(VENV)/bin/dit-lens report $(GALLERY)
	@size=$$(du -sm $(GALLERY) | cut -f1); echo "$$size MB"; [ "$$size" -le 15 ]

build: $(VENV)/.dev
	$(VENV)/bin/python -m build

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
