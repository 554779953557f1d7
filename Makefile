# From a bare checkout with only python3:
#   make demo           the main job on the embedded default: digits, LeNet-300-100, half of the labels noisy
#   make demo-distill   a student distilled from a dense and a pruned teacher, beside the vanilla one
#   make demo-ablation  a grid: two label noises, two λ, without and with a dense teacher
#   make test           lint, types and the test suite
#   make test-mutants   how many of mutmut's deliberate faults in the pure rooms their tests catch (5 minutes)
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo demo-distill demo-ablation test lint test-all test-mutants ui clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@echo "installing into .venv (torch is large: about 5 minutes the first time)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	@mkdir -p results
	$(BIN)/python sweeps/lambda_opt.py --json results/lambda_opt.json

demo-distill: $(STAMP)
	@mkdir -p results
	$(BIN)/python sweeps/distill.py --teacher-model-options hidden1=1000 hidden2=300 \
		--teacher-with weight_decay=0.0178 --json results/distill.json

demo-ablation: $(STAMP)
	@mkdir -p results
	$(BIN)/python sweeps/ablation.py --vary label_noise=0.2,0.5 --vary weight_decay=1e-4,0.0178 \
		--vary teacher=none,dense --teacher-with weight_decay=0.0178 --json results/ablation.json

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sdd_core sweeps cluster analysis
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-all: lint
	$(BIN)/pytest -n 2 --dist loadfile

test-mutants: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	rm -rf mutants
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2  # a forked process cannot use its parent's threads
	$(BIN)/python -m tests.mutants

ui: $(STAMP)
	$(BIN)/python -m mlflow ui --backend-store-uri sqlite:///mlflow.db

clean:
	rm -rf .venv
