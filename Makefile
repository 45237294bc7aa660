# Each target does its own set-up; only Python 3.11+, make and the package index are needed.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python

.PHONY: demo test bench soak check clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[regtest,dev]'
	touch $@

demo: $(READY)
	$(RUN) -m node.demo

test: $(READY)
	$(RUN) -m pytest -n 2 $(PYTEST_ARGS)

bench: $(READY)
	$(RUN) -m tests.bench

soak: $(READY)
	LNP_HYPOTHESIS=soak $(RUN) -m pytest -n 2 tests/node/channel tests/protocol tests/whole $(PYTEST_ARGS)

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) out build *.egg-info
