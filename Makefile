# Two commands do everything on a machine with Python, git and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo bench bench-training fuzz test test-faults lint format docs dist sbom licences wheelhouse setup clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    synthetic hospitals, federation, report (four to five minutes on 2 cores)"
	@echo "make test    the test suite"
	@echo "make test-faults  whole federations, and what breaks in them (Linux, root; iproute2)"
	@echo "make fuzz    5,000 mutated DICOM files (FUZZ_CASES, FUZZ_SEED)"
	@echo "make bench   speed and memory beside named baselines"
	@echo "make bench-training  of these head, training and loader; rewrites docs/results/performance.md"
	@echo "make docs    the documentation as a site, in build/docs"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make dist    wheel and sdist, in dist"
	@echo "make sbom    what an installation holds (CycloneDX), and its licences; fails for a copyleft one"
	@echo "make wheelhouse  everything that an installation without internet needs, in build/wheelhouse"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned packages into $(VENV); this takes some minutes the first time."
	$(BIN)/python -m pip install --quiet "pip==25.3"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: setup
	$(BIN)/nc-medfl demo --out demo-run

# Most tests wait for processes of their own: two at a time take little more than half the time. A file's tests stay
# together, since they share what it makes.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
test: setup
	$(BIN)/python -m pytest $(WORKERS) -m "not faults"

test-faults: setup
	$(BIN)/python -m pytest $(WORKERS) -m faults --timeout 3000

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: setup
	FUZZ_CASES=$${FUZZ_CASES:-5000} FUZZ_SEED=$${FUZZ_SEED:-1000} $(BIN)/python -m pytest tests/data/dicom/test_fuzz.py

bench: bench-training
	$(BIN)/python benchmarks/prepare.py --json build/bench-prepare.json --csv build/bench-prepare.csv
	$(BIN)/python benchmarks/aggregator.py --json build/bench-aggregator.json --csv build/bench-aggregator.csv
	$(BIN)/python benchmarks/transfer.py --json build/bench-transfer.json --csv build/bench-transfer.csv
	$(BIN)/python benchmarks/flare_overhead.py --json build/bench-flare.json --csv build/bench-flare.csv
	$(BIN)/python benchmarks/memory_rounds.py --json build/bench-memory.json --csv build/bench-memory.csv
	$(BIN)/python benchmarks/wire.py --json build/bench-wire.json --csv build/bench-wire.csv
	$(BIN)/python benchmarks/metrics.py --json build/bench-metrics.json --csv build/bench-metrics.csv
	$(BIN)/python benchmarks/coverage.py --json build/bench-coverage.json --csv build/bench-coverage.csv

bench-training: setup
	mkdir -p build
	$(BIN)/python benchmarks/head.py --json build/bench-head.json --csv build/bench-head.csv
	$(BIN)/python benchmarks/training.py --json build/bench-training.json --csv build/bench-training.csv
	$(BIN)/python benchmarks/loader.py --json build/bench-loader.json --csv build/bench-loader.csv
	$(BIN)/python benchmarks/timing.py build/bench-head.csv build/bench-training.csv build/bench-loader.csv

docs: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/mkdocs build --strict --quiet --config-file .mkdocs.yml

dist: setup
	rm -rf build/lib build/bdist* dist
	$(BIN)/python -c "import setuptools.build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')" >/dev/null
	@ls -1 dist/*

# The tool has an environment of its own: what it needs is no part of what it lists.
SBOM_TOOL := cyclonedx-bom==7.5.0
sbom licences: setup
	mkdir -p build
	test -x build/sbom-tool/bin/cyclonedx-py || { $(PYTHON) -m venv build/sbom-tool && \
	  build/sbom-tool/bin/pip install --quiet "$(SBOM_TOOL)"; }
	build/sbom-tool/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible \
	  -o build/sbom-environment.json
	$(BIN)/python .ci/licences.py build/sbom-environment.json build/sbom.json build/licences.csv

# WHEELHOUSE_ARGS: for pip download, such as --platform manylinux_2_28_x86_64 --python-version 3.12 --only-binary=:all:
wheelhouse: dist
	rm -rf build/wheelhouse && mkdir -p build/wheelhouse
	cp dist/*.whl constraints.txt build/wheelhouse/
	$(BIN)/python -m pip download --quiet --constraint constraints.txt --dest build/wheelhouse $(WHEELHOUSE_ARGS) \
	  "pip==25.3" setuptools "$$(ls dist/*.whl)"
	cd build/wheelhouse && find . -type f ! -name 'SHA256SUMS*' -exec sha256sum {} + | sort -k 2 >SHA256SUMS.new
	mv build/wheelhouse/SHA256SUMS.new build/wheelhouse/SHA256SUMS
	@echo "build/wheelhouse: $$(ls build/wheelhouse/*.whl | wc -l) wheels. There: pip install --no-index --find-links wheelhouse nc_medfl"

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
