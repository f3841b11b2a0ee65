# The two commands: `make demo` and `make test`. Both set up .venv first, and both run again without reinstalling.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test test-unit test-slow check docs setup clean bench-fingerprints bench-protocol bench-gateway bench-tracing bench-robustness bench-gpu bench-curves bench-deviation bench-control bench-alignment

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]' --group dev
	touch $@

demo: $(STAMP)
	$(BIN)/loyal demo

test: test-unit test-slow

# Many tests start a Python of their own: where compiled files may not be kept, each compiles anew.
test-unit test-slow: export PYTHONDONTWRITEBYTECODE =

# The order of the files stays: by their number of tests, the slowest would come last, on one core.
test-unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu'

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m 'slow and not gpu'

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_exports.py tests/test_docs.py tests/test_house.py

docs: $(STAMP)
	$(BIN)/python docs/generate.py

bench-fingerprints: $(STAMP)
	$(BIN)/python benchmarks/fingerprints.py

bench-protocol: $(STAMP)
	$(BIN)/python benchmarks/protocol.py
	$(BIN)/python benchmarks/permission_route.py
	$(BIN)/python benchmarks/fuzz.py
	$(BIN)/python benchmarks/simulation.py

bench-gateway: $(STAMP)
	$(BIN)/python benchmarks/gateway.py

bench-tracing: $(STAMP)
	$(BIN)/python benchmarks/tracing.py

bench-deviation: $(STAMP)
	$(BIN)/python benchmarks/deviation.py

# Hours on a CPU; it goes on where it was stopped. RUN='--suite quick' takes 25 minutes on two cores.
bench-robustness: $(STAMP)
	$(BIN)/python benchmarks/robustness.py $(RUN)

# Hours as well, and it goes on too; out/curves/report.html is the page.
bench-curves: $(STAMP)
	$(BIN)/python benchmarks/curves.py $(RUN)

# Hours on a CPU; it goes on where it was stopped. RUN='--only tasks' (half an hour) takes less.
bench-control: $(STAMP)
	$(BIN)/python benchmarks/control.py $(RUN)

# Hours on a CPU, the cheapest rows first; it goes on too. RUN='--quick' or '--only NAME' takes less.
# Its first run fetches 1.1 GB: the model by whose states keep rates are measured.
bench-alignment: $(STAMP)
	$(BIN)/python benchmarks/alignment.py --judge-probe qwen2.5-coder-1.5b-instruct $(RUN)

# An 8B-shaped Llama with random weights; needs one GPU of 120 GB, and says so where there is none.
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache .hypothesis
