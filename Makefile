# Every target sets up what it needs in .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
# Small networks run fastest on one thread a process; many threads on few cores wait for each other.
export OMP_NUM_THREADS ?= 1
export GOMP_SPINCOUNT ?= 0
# A process of tests per core; each takes about a gigabyte.
PARALLEL ?= -n auto --maxprocesses 4

.PHONY: demo test test-long gpu check fix bench docs smoke clean

demo: .venv/demo.stamp  ## A learned world at work: a policy trained in imagination meets the real CartPole
	$(BIN)/wm-vec demo --out out/demo.png

test: .venv/dev.stamp  ## The tests, about five minutes on two cores
	$(BIN)/python -m pytest -q -m "not long and not gpu" $(PARALLEL)

test-long: .venv/dev.stamp  ## The long proofs
	$(BIN)/python -m pytest -q -m long

gpu:  ## Tests and figures on this machine's GPU, by $(PYTHON) as it is; writes benchmarks/results/gpu.json
	PYTHONPATH=$(CURDIR):$(CURDIR)/kernels$(addprefix :,$(PYTHONPATH)) $(PYTHON) -m benchmarks.gpu

check: .venv/dev.stamp  ## Lint, types and import layers; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

fix: .venv/dev.stamp  ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/dev.stamp  ## Throughput; writes benchmarks/results/ and docs/benchmarks.md
	$(BIN)/python -m benchmarks.step_throughput
	$(BIN)/python -m benchmarks.callable_throughput
	$(BIN)/python -m benchmarks.cleanrl_throughput
	$(BIN)/python -m benchmarks.torchrl_throughput
	$(BIN)/python -m benchmarks.report

docs: .venv/dev.stamp  ## API pages into out/docs
	$(BIN)/pdoc -d google -o out/docs wm_vec wm_kernels

smoke: .venv/dev.stamp  ## Build the wheel and use it outside the checkout
	$(BIN)/python tests/smoke/wheel.py

clean:  ## Remove what the other targets made
	rm -rf .venv out build dist *.egg-info

.venv/demo.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[plot]'
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@ .venv/demo.stamp
