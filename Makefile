# Two commands on a fresh machine with Python >= 3.11: `make demo` and `make test`.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := runs/demo

.PHONY: coverage demo docs mutants quality test test-other-cpus test-lowest lint types browser install dist-check licences clean

install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip uninstall --quiet --yes mlp-mixer 2>/dev/null || true  # the name of earlier checkouts
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Train on scikit-learn's digits, evaluate on held-out images, predict a few, and write the report.
demo: install
	$(BIN)/mlp-mixer train digits --out $(DEMO) --overwrite
	$(BIN)/mlp-mixer evaluate $(DEMO) --data digits
	$(BIN)/mlp-mixer data sample digits --out $(DEMO)/samples --count 8 --overwrite
	$(BIN)/mlp-mixer predict $(DEMO) $(DEMO)/samples/*.png
	$(BIN)/mlp-mixer report $(DEMO)
	@echo "Open $(DEMO)/report.html in a browser."

test: lint types browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal  # one thread each: two processes share the cores

# The documentation site, with every warning an error: docs/_build/html/index.html.
docs: install
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html in a browser."

# The numeric tests under other instruction sets, as on other processors: sums are added in another order there.
NUMERIC := tests/unit/models tests/unit/evaluation tests/unit/inference tests/unit/training tests/unit/weights \
  tests/unit/runtime tests/unit/kernels tests/unit/images tests/unit/exporting tests/unit/compat tests/unit/analysis \
  tests/conformance tests/parity
OTHER_CPUS := ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=AVX2 \
  MKL_ENABLE_INSTRUCTIONS=SSE4_2
test-other-cpus: install
	@for setting in $(OTHER_CPUS); do echo "== $$setting"; \
	  env $$setting OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(NUMERIC) || exit 1; done

# The suite on the lowest versions that pyproject.toml allows, in an environment of its own. What those find
# deprecated in the newest versions of their own dependencies is no matter of ours.
LOWEST ?= .venv-lowest
test-lowest:
	$(PYTHON) tools/lowest.py $(LOWEST).txt
	test -d $(LOWEST) || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary --only-binary av \
	  -c $(LOWEST).txt -e '.[dev]'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist worksteal -W ignore::DeprecationWarning -W ignore::FutureWarning

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vulture

# What docs/quality.md reports. Coverage takes the suite's time and half of it again, mutants more than an hour.
quality: coverage mutants

$(VENV)/.quality: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,quality]'
	@touch $@

coverage: $(VENV)/.quality  # on a full disk coverage cannot write either, and says so where the test looks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --cov --cov-report=term \
	  --deselect tests/unit/test_files.py::test_full_disk_for_real

mutants: $(VENV)/.quality
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

types: install
	$(BIN)/mypy

browser: install  # for tests/browser: one that is there, Playwright's own, or Debian's; and what `export --to web` needs
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(BIN)/playwright install chromium \
	  || (apt-get update -qq && apt-get install -y -qq chromium)
	-@$(BIN)/python -c 'from mlp_mixer.exporting.web import find_runtime; find_runtime()' 2>/dev/null

# Two builds with the same bytes; wheel and sdist in fresh environments, offline, with a read-only home.
dist-check: install
	$(BIN)/python tools/dist_check.py dist

licences: install
	$(BIN)/python tools/licences.py

clean:
	rm -rf $(VENV) $(LOWEST) $(LOWEST).txt build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis docs/_build docs/generated
