# On a fresh machine with Python 3.10 to 3.13: `make workbench` starts the app, `make test` runs the whole suite.
# Both first make .venv, once; it is brought up to date when pyproject.toml or constraints.txt changes.

SHELL := bash
# dozens of processes import the same: what the first one compiles is kept for the others
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help workbench lab notebooks test test-full prime coverage check compat campaign bench wheel clean

VENV := .venv
PY := $(VENV)/bin/python
# written last, so that it only exists after a complete set-up; holds the folder that the set-up was made in
STAMP := $(VENV)/.complete
# with a thread each: two processes that spin for each other's threads are slower than one
test test-full prime coverage compat: export OMP_NUM_THREADS := 1
test test-full prime coverage compat: export NUMBA_NUM_THREADS := 1
WORKERS ?= auto
SIDE_BY_SIDE := -q --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 20
# what numba compiles is kept beside its source, and compiled before several processes would do it at once
PRIMED := $(VENV)/.primed
COMPILED := $(shell grep -rl --include='*.py' njit ouro)
PORT ?= $(or $(GRADIO_SERVER_PORT),7860)
PYTHONS := python3 python3.12 python3.11 python3.10 python3.13 python

# a moved checkout or a removed base Python makes an environment useless: forget the stamp, and it is made anew
$(shell [ ! -e $(STAMP) ] || { [ "$$(cat $(STAMP))" = "$(CURDIR)" ] && $(PY) -c "" 2>/dev/null; } || rm -f $(STAMP))

help:
	@echo "make workbench   start the app on http://127.0.0.1:$(PORT) (another port: make workbench PORT=8000)"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make notebooks   run them all again, in place (minutes)"
	@echo "make test        run the test suite, one way of everything (minutes)"
	@echo "make test-full   the same, every way of everything: families, methods, notebooks, themes, widths (twenty minutes)"
	@echo "make coverage    run it under coverage and store what it misses in results/coverage.json"
	@echo "make check       formatting, lint, types, layers"
	@echo "make compat      the oldest versions we promise: kernels compiled, core of the suite (downloads them; 10 minutes)"
	@echo "make campaign    damage files, folders and running jobs for ten minutes (longer: make campaign MINUTES=30)"
	@echo "make bench       check the scan backends against the reference, then time them"
	@echo "make wheel       build it, install it into an environment of its own, try it from another folder (minutes)"
	@echo "make clean       remove $(VENV), builds and caches"

workbench: $(STAMP)
	@echo "workbench: http://127.0.0.1:$(PORT)"
	@GRADIO_SERVER_PORT=$(PORT) $(PY) workbench/app.py

lab: $(STAMP)
	@$(PY) -m jupyterlab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

# without times of execution, so that a file only changes where its results do
notebooks: $(STAMP)
	$(PY) -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
	    --ExecutePreprocessor.timeout=1800 notebooks/*.ipynb

# FULL: folders of tests in which all ways of a thing are tested, not one
test: $(PRIMED)
	@$(PY) -m pytest $(SIDE_BY_SIDE) $(addprefix --full=,$(FULL))

test-full: $(PRIMED)
	@$(PY) -m pytest $(SIDE_BY_SIDE) --full=tests

prime: $(PRIMED)

$(PRIMED): $(STAMP) $(COMPILED)
	@$(PY) -m tests.prime
	@touch $@

coverage: $(PRIMED)
	@$(PY) -m tests.measure $(SIDE_BY_SIDE)

check: $(STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy ouro
	$(PY) -m pytest -q tests/test_layers.py

# where every range of pyproject.toml begins: the machine code of kernels against the same bounds, and the core of the suite;
# old packages use what newer ones beside them have deprecated, so their warnings are no errors here; Python 3.13 is younger than some
compat: $(STAMP)
	@mkdir -p .compat
	@$(PY) -c 'import re; from importlib.metadata import requires; print(*(re.sub(r"<[\d.]+,?", "", r).replace(">=", "==") for r in requires("ouro-workbench") if "extra ==" not in r), sep="\n")' > .compat/oldest.txt
	@[ -x .compat/bin/python ] || $(PY) -m venv .compat
	@.compat/bin/python -m pip install --quiet -c .compat/oldest.txt -e '.[lab,dev]'
	@.compat/bin/python -m ouro.kernels.audit > .compat/audit.json || { echo "complaints in .compat/audit.json" >&2; exit 1; }
	@.compat/bin/python -m pytest $(SIDE_BY_SIDE) -m "not slow" -o filterwarnings=ignore tests/ouro tests/kernels
	@echo "the oldest versions do: $$(tr '\n' ' ' < .compat/oldest.txt)"

# damage to whatever is read or running, for MINUTES from SEED; offenders are kept in out/offenders
campaign: $(STAMP)
	@$(PY) -m tests.campaign --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) --keep out/offenders

bench: $(STAMP)
	@$(VENV)/bin/ouro bench scan

# build/ would bring back modules that are gone, dist/ older versions
wheel: $(STAMP)
	@rm -rf build dist .wheel
	@$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .
	@$(PY) -m venv .wheel
	@.wheel/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	@$(PY) tests/installed.py .wheel/bin

clean:
	rm -rf $(VENV) .compat .wheel build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find ouro kernels workbench tests notebooks -name __pycache__ -prune -exec rm -rf {} +

# no stamp: a set-up never began or was interrupted, so start from nothing; an old stamp: bring up to date in place
$(STAMP): pyproject.toml constraints.txt
	@set -euo pipefail; \
	if [ ! -e $@ ] || [ ! -x $(PY) ]; then \
	    base=""; \
	    for candidate in $(PYTHONS); do \
	        if $$candidate -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then \
	            base=$$candidate; break; \
	        fi; \
	    done; \
	    [ -n "$$base" ] || { echo "error: no Python 3.10 to 3.13 found (tried: $(PYTHONS)); install one and run make again" >&2; exit 1; }; \
	    echo "set-up 1/3: $(VENV) with $$($$base --version)"; \
	    rm -rf $(VENV); \
	    $$base -m venv $(VENV) || { echo "error: $$base cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	else \
	    echo "set-up 1/3: $(VENV) is there, bringing it up to date"; \
	    rm -f $@; \
	fi; \
	export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONWARNINGS=ignore; \
	$(PY) -m pip install --quiet --upgrade 'pip>=24'; \
	echo "set-up 2/3: installing; the first time this takes some minutes (larger downloads are listed)"; \
	$(PY) -m pip install --progress-bar off -c constraints.txt -e '.[lab,dev]' \
	    | { grep --line-buffered -oE '(Downloading|Using cached) [^ ]+ \(([0-9]{2,}(\.[0-9]+)? M|[0-9.]+ G)B\)|Installing collected packages' || true; } ; \
	echo "$(CURDIR)" > $@; \
	echo "set-up 3/3: done"
