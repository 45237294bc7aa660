# Each target does its own set-up; only Python 3.11+, make and the package index are needed.
PYTHON ?= python3
VENV := .venv
# `make EXTRAS=regtest,tui,paths,dev …` tests the optional path engines too (numpy, scipy, ortools: 380 MB).
EXTRAS ?= regtest,tui,dev
comma := ,
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))
RUN := $(VENV)/bin/python

.PHONY: demo test peers interop bench soak check clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

# `make demo TOR=1`: onion to onion, over a private Tor network on this machine.
demo: $(READY)
	$(RUN) -m node.demo $(if $(TOR),--tor)

# tests/tor runs in one process, since its tests share one Tor network.
test: $(READY)
	$(RUN) -m pytest -n 2 --ignore=tests/tor $(PYTEST_ARGS)
	$(if $(PYTEST_ARGS),,$(RUN) -m pytest tests/tor)

peers: $(READY)
	$(RUN) -m tests.interop build

# LND, LDK and Electrum against our node, and our node on btcd. The first time LND is built, which takes ten minutes on two cores.
interop: peers
	$(RUN) -m pytest -n 2 --dist loadfile tests/interop $(PYTEST_ARGS)

bench: $(READY)
	$(RUN) -m tests.bench

soak: $(READY)
	LNP_HYPOTHESIS=soak $(RUN) -m pytest -n 2 tests/node tests/protocol tests/signer tests/simulation tests/whole $(PYTEST_ARGS)
	LNP_HYPOTHESIS=soak $(RUN) -m pytest tests/tor

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) out build *.egg-info
