# Two commands matter: `make demo` and `make test`. Both work from a fresh clone with nothing but Python 3.11 or 3.12.
VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
# A machine without a GPU does not need torch's CUDA libraries: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test quick soak export files check constraints clean

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made settings.ini constraints.txt setup.py pyproject.toml
	@echo "Installing torch, then the library and what it needs (several minutes the first time)"
	@$(PIP) setuptools wheel
	@$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.installed
	@echo "Installing what the tests need"
	@$(PIP) --no-build-isolation --editable ".[dev]"
	@touch $@

demo: $(VENV)/.installed  ## the whole lifecycle on built-in data with the built-in model
	@test -f demo/settings.ini || $(BIN)/llmops init demo
	@cd demo && ../$(BIN)/llmops run -p policy=demo -p method=lora

test: $(VENV)/.tools  ## everything: library notebooks, templates, lessons, command line, house checks
	@$(BIN)/python -m pytest

quick: $(VENV)/.tools  ## what takes seconds
	@$(BIN)/python -m pytest -m "not slow"

soak: $(VENV)/.tools  ## every fault as often as a night allows (hours): LLMOPS_SEED=8 make soak for other random numbers
	@LLMOPS_FAULTS=nightly $(BIN)/python -m pytest tests/faults tests/test_audit.py tests/test_governance.py tests/test_roles.py tests/test_security.py tests/test_subjects.py

export: $(VENV)/.tools  ## notebooks -> library, README.md and environment.yml
	@$(BIN)/nbdev-clean --fname nbs
	@$(BIN)/nbdev-clean --fname templates
	@$(BIN)/python tools/make_files.py

check: $(VENV)/.tools  ## the style checks of CI
	@$(BIN)/ruff check llmops_nb tests tools benchmarks
	@$(BIN)/python -m pytest tests/test_house.py

constraints: $(VENV)/.tools  ## write constraints.txt from what is installed
	@{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' | grep -v ' @ '; } > constraints.new && mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) demo build *.egg-info
