# Two commands set up a fresh machine: `make bench` and `make test`. Everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out

.PHONY: bench bench-cpu locked test test-slow test-pythons mutants house test-oracle test-cuda test-gpu confirm-gpu bench-gpu train-nano train-nano-dspark check smoke fuzz lock sbom wheel clean

# The marker is remade when the list of dependencies changes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	touch $@

# The same from the lock, hashes checked, the build backend's too: what continuous integration installs.
locked:
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-ci.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(VENV)/.installed $(VENV)/.test $(VENV)/.cuda

# llama.cpp is built here, never taken from pip's cache, and for AVX2 at most: a wheel that was built
# on another processor may hold instructions that this one lacks, and a build for this very one
# may use AMX where the system does not grant it (seen: illegal instruction).
$(VENV)/.oracle: $(VENV)/.test requirements-oracle.txt
	CMAKE_ARGS=-DGGML_NATIVE=OFF \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir \
	  "$$(grep '^llama-cpp-python' requirements-oracle.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-oracle.txt
	touch $@

$(VENV)/.cuda: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cuda-check]'
	touch $@

# The main job: a sweep of the bundled model from 2048 to 65536 tokens, and then what the project is
# about: the same model in all decode modes over fewer context lengths, compared in one plot. The
# second run is repeated once, so that the plot shows how far two runs of one mode lie apart.
bench: $(VENV)/.installed
	mkdir -p $(OUT)
	$(BIN)/ds4-bench --ctx-start 2048 --ctx-max 65536 \
	  --force --csv $(OUT)/bench.csv --parquet $(OUT)/bench.parquet --plot $(OUT)/bench.svg
	$(BIN)/ds4-bench --mode all --mtp-draft 2 --ctx-start 2048 --ctx-max 8192 --step-mul 2 \
	  --force --csv $(OUT)/modes.csv --parquet $(OUT)/modes.parquet --plot $(OUT)/modes.svg

# The CPU's products beside the memory's bandwidth, as tables for docs/measurements.md. Minutes, and
# worth something on an idle machine only; `ds4-bench peer` measures the whole engine.
bench-cpu: $(VENV)/.installed
	mkdir -p $(OUT)
	$(BIN)/python -m engine.ops.cpu.bench > $(OUT)/kernels.md
	cat $(OUT)/kernels.md

# No GPU, no network, no torch.
test: $(VENV)/.test
	$(BIN)/python -m pytest -q -n logical --dist loadfile \
	  -m 'not oracle and not peer and not slow and not cuda and not cudac and not gpu'

# Minutes each: more kills, more bits, more seeds. Nightly in continuous integration.
test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -m 'slow and not oracle and not peer and not cuda and not cudac and not gpu'

# The suite under every promised Python that this machine has, each in an environment of its own.
PYTHONS ?= python3.10 python3.11 python3.12 python3.13
test-pythons:
	@run=0; failed=; for name in $(PYTHONS); do \
	  python=$$(command -v $$name) && $$python -c '' 2>/dev/null || { echo "$$name: no such Python that starts, left out"; continue; }; \
	  echo "== $$($$python -V)"; run=$$((run + 1)); \
	  $(MAKE) --no-print-directory test PYTHON=$$python VENV=$(VENV)-$$name || failed="$$failed $$name"; \
	done; \
	[ $$run -gt 0 ] || { echo "expected one of $(PYTHONS), found none"; exit 1; }; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

# Sizes, circles and annotations of the source tree; tests/test_house.py holds the limits.
house: $(VENV)/.test
	$(BIN)/python -m tests.tools.house

# Small faults are planted one at a time and the nearest tests run; see tests/tools/mutants.py.
MUTANTS ?= 40
MUTANT_SEED ?= 1
mutants: $(VENV)/.test
	nice -n 10 $(BIN)/python -m tests.tools.mutants --sample $(MUTANTS) --seed $(MUTANT_SEED)

# Against implementations that we did not write: transformers on torch (CPU), llama.cpp.
test-oracle: $(VENV)/.oracle
	$(BIN)/python -m pytest -q -m 'oracle or peer'

# CUDA kernels without a GPU: run natively on this processor, and what the compilers make of them
# for both architectures, compared with tests/cuda/resources.json.
test-cuda: $(VENV)/.cuda
	$(BIN)/python -m pytest -q -m 'cuda and not slow and not gpu' -n logical --dist loadfile tests/cuda
	$(BIN)/python -m pytest -q -m cudac tests/cuda

# The same kernels on this machine's GPU, what only a GPU can show, and compute-sanitizer.
test-gpu: $(VENV)/.cuda
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cuda-sanitizer]'
	DS4_TEST_DEVICE=gpu $(BIN)/python -m pytest -q -m '(cuda or gpu) and not slow'

# What no simulation can prove, in the order of what is needed most; see docs/gpu.md.
confirm-gpu: $(VENV)/.cuda
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cuda-sanitizer]'
	$(BIN)/python -m tests.cuda.confirm --out $(OUT)/confirm

bench-gpu: $(VENV)/.cuda
	$(BIN)/ds4-bench gpu --out $(OUT)/gpu

$(VENV)/.train: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train]'
	touch $@

# The bundled model, anew: minutes on a GPU, hours on two cores; a stopped run goes on where it was.
NANO_TOKENS ?= 40e6
train-nano: $(VENV)/.train
	$(BIN)/python -m engine.training.train --tokens $(NANO_TOKENS) --out $(OUT)/nano \
	  $(if $(wildcard $(OUT)/nano/checkpoint.pt),--resume)
	$(BIN)/python -m engine.training.export $(OUT)/nano

# The bundled model's DSpark head, anew: about half an hour on two cores.
train-nano-dspark: $(VENV)/.train
	$(BIN)/python -m engine.training.dspark.train --out $(OUT)/nano-dspark \
	  $(if $(wildcard $(OUT)/nano-dspark/checkpoint.pt),--resume)
	$(BIN)/python -m engine.training.dspark.curve $(OUT)/nano-dspark/log.jsonl $(OUT)/nano-dspark/curve.svg
	$(BIN)/python -m engine.training.dspark.export $(OUT)/nano-dspark

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy engine ds4bench ds4eval
	$(BIN)/lint-imports --config importlinter.toml

smoke: $(VENV)/.installed
	mkdir -p $(OUT)
	$(BIN)/ds4-bench --ctx-start 256 --ctx-max 512 --step-incr 256 --gen-tokens 16 --force --csv $(OUT)/smoke.csv
	$(BIN)/ds4 -p "Say something." -n 16 --temp 0

# Coverage-guided fuzzing of the GGUF reader and of every reader of results and questions, a minute in all (3.0.0 is the
# last atheris with wheels for Python 3.11); any exception but the one kind of error is a finding.
fuzz: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-fuzz.lock
	$(BIN)/python tests/fuzz/fuzz_gguf.py -max_total_time=15
	$(BIN)/python tests/fuzz/fuzz_readers.py 45

lock: $(VENV)/.test
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.10 --generate-hashes --no-header \
	  --no-emit-index-url --extra test --extra check --extra nvml --extra cuda-check --extra build \
	  pyproject.toml -o requirements-ci.lock
	echo 'atheris==3.0.0' | $(BIN)/uv pip compile --universal --python-version 3.10 --generate-hashes \
	  --no-header --no-emit-index-url - -o requirements-fuzz.lock

# What the lock installs, in CycloneDX form.
sbom: $(VENV)/.test
	mkdir -p $(OUT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7'
	$(BIN)/cyclonedx-py requirements requirements-ci.lock --output-file $(OUT)/sbom.json

# The wheel, built twice: whoever builds the same commit gets the same bytes.
wheel: $(VENV)/.test
	rm -rf $(OUT)/wheel $(OUT)/wheel-again
	for folder in wheel wheel-again; do \
	  SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --quiet \
	    --disable-pip-version-check --no-deps --wheel-dir $(OUT)/$$folder . || exit 1; \
	done
	cmp $(OUT)/wheel/*.whl $(OUT)/wheel-again/*.whl
	sha256sum $(OUT)/wheel/*.whl

clean:
	rm -rf $(VENV) $(VENV)-python3.* $(OUT)
