# Everything a new user needs: `make quickstart`, `make test`, `make install`.
PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
FAISS ?= cpu
PIP_ARGS ?=
SERVE ?= 1
DATA ?=
REPORT ?=

.PHONY: install quickstart test check slow bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(CURDIR)/constraints.txt -e "$(CURDIR)[$(FAISS),test]"
	@touch $@

quickstart: install
	@cd $(CURDIR) && $(BIN)/retort quickstart $(if $(DATA),--data "$(DATA)") $(if $(REPORT),--report "$(REPORT)") $(if $(filter 0 no false,$(SERVE)),--no-serve)

check: install
	@cd $(CURDIR) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

test: check
	@cd $(CURDIR) && $(BIN)/python -m pytest -q -n 2 --dist loadfile

slow: install
	@cd $(CURDIR) && $(BIN)/python -m pytest -q -m slow

# The quick mode of every benchmark; they need ../shared/data, which is not part of the project.
bench: install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(CURDIR)/constraints.txt -e "$(CURDIR)[$(FAISS),test,bench]"
	@cd $(CURDIR) && for name in teaching tuning indexing; do $(BIN)/python benchmarks/$$name.py --quick || exit 1; done

clean:
	rm -rf $(VENV) $(CURDIR)/.retort
