# Each target sets up what it needs: the environment is .venv, made with PYTHON (3.10 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-web test-gpu test-docker faults lint bench clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.10 to 3.13 is needed: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv || \
		{ rm -rf .venv; echo "no environment could be made: install Python's venv (python3-venv), or give PYTHON=..."; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# ASR=whisper measures word errors; ASR_MODEL=... is a folder, or another model of that kind.
demo: $(STAMP)
	$(BIN)/python -m egs.tts.VALLE.demo $(if $(ASR),--asr "$(ASR)") $(if $(ASR_MODEL),--asr_model "$(ASR_MODEL)")

# TESTS="tests/models ..." runs these alone, and TEST_WORKERS=0 runs all tests in one process.
TEST_WORKERS ?= 2
test: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile \
		--no-loadscope-reorder $(TESTS)

# The page in Debian's chromium, without a screen.
test-web: $(STAMP)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		{ echo "a browser is needed: apt-get install chromium chromium-driver"; exit 1; }
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m browser tests/web

# What only a GPU shows; make test runs it, too, where there is one. GPU_TESTS_DEVICE=cpu tests the tests without one.
test-gpu: $(STAMP)
	@test "$(GPU_TESTS_DEVICE)" = cpu || $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || \
		{ echo "a GPU that torch can use is needed"; exit 1; }
	GPU_TESTS_DEVICE=$(or $(GPU_TESTS_DEVICE),cuda) $(BIN)/python -m pytest -m gpu tests/gpu

# What the Dockerfile installs, in a new environment of PYTHON's version, without Docker.
test-docker: $(STAMP)
	$(BIN)/python -m pytest -m docker tests/test_docker.py

faults: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.support.faults

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# In the surroundings that run.sh makes.
bench: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=10000 MALLOC_MMAP_THRESHOLD_=1073741824 \
		MALLOC_TRIM_THRESHOLD_=4294967296 $(BIN)/python -m bins.bench

clean:
	rm -rf .venv *.egg-info
