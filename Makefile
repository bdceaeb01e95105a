# Every target installs what it needs into .venv and .venv-legacy; Python 3.11 or newer, make and a C compiler are enough.
#   make demo   train, evaluate and quantize a network
#   make test   all tests, on the newest stack, on JAX and on TensorFlow 2.15
#   make docs   the documentation site, in build/site
#   make check  format, lint and the fast tests; changes nothing outside the checkout
#   make bench  the ratios of the main benchmarks, beside those of docs/results/ratios.json (benchmarks/ratios.py --record)
#   make test-exhaustive  the proofs that `make test` gives on small networks, on all large ones
PYTHON ?= python3
# For the TensorFlow 2.15 stack; empty: the first of 3.11, 3.10 and 3.9 that runs.
LEGACY_PYTHON ?=
# Number of parallel test processes.
JOBS ?= 2
DATA ?= digits
OUT ?= demo-out
# Modules are compiled when they are first imported: compiling all of them takes about 110 s.
PIP = pip install --quiet --disable-pip-version-check --no-compile
PYTEST = -m pytest -n $(JOBS) --dist worksteal --durations=25
# What the JAX and the TensorFlow 2.15 stack repeat: tests that depend on Keras' version or backend.
REPEATED = -m "every_stack and not exhaustive"

.PHONY: demo docs test test-newest test-jax test-legacy test-exhaustive bench check lint clean

demo: .venv/ready
	.venv/bin/python examples/demo.py --data=$(DATA) --out=$(OUT)

# The last lines say which tests were skipped because an installation failed, and why.
test: lint test-newest test-jax test-legacy
	@cat .venv/skipped/*.txt 2>/dev/null || true

test-newest: .venv/ready .venv/debian .venv/web .venv/beam
	.venv/bin/python $(PYTEST)

test-jax: .venv/ready
	KERAS_BACKEND=jax JAX_PLATFORMS=cpu .venv/bin/python $(PYTEST) tests/keras_effnet $(REPEATED)

test-legacy: .venv-legacy/ready
	if test -e $<; then .venv-legacy/bin/python $(PYTEST) tests/keras_effnet tests/tpu_train tests/test_doctests.py tests/test_quiet_commands.py $(REPEATED); fi

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

# Run it after a change of how networks are built, loaded or ported.
test-exhaustive: .venv/ready .venv-legacy/ready
	.venv/bin/python $(PYTEST) -m exhaustive
	if test -e .venv-legacy/ready; then .venv-legacy/bin/python $(PYTEST) tests/keras_effnet -m "exhaustive and every_stack"; fi

# On an idle machine; see benchmarks/ratios.py.
bench: .venv/ready
	.venv/bin/python benchmarks/ratios.py

check: lint
	.venv/bin/python $(PYTEST) -m "not slow and not exhaustive"

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .

.venv/ready: setup.py requirements/newest.txt requirements/torch.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/$(PIP) -c requirements/newest.txt -e ".[tflite,plan,lite-weights,hub,onnx,wandb,mlflow,search,demo,test,docs]"
	.venv/bin/$(PIP) -c requirements/newest.txt -c requirements/torch.txt torch
	.venv/bin/$(PIP) -c requirements/torch.txt --no-deps torchvision timm efficientnet_pytorch efficientnet_lite_pytorch
	touch $@

# The optional installations succeed even where the network refuses them; see requirements/optional.sh.
.venv/debian: | .venv/ready
	requirements/optional.sh debian

.venv/web: examples/web/package.json examples/web/package-lock.json | .venv/debian
	requirements/optional.sh web

.venv/beam: requirements/optional.sh | .venv/ready
	requirements/optional.sh beam

.venv-legacy/ready: setup.py requirements/legacy.txt
	LEGACY_PYTHON=$(LEGACY_PYTHON) requirements/optional.sh legacy

clean:
	rm -rf .venv .venv-legacy .venv-beam build *.egg-info examples/web/node_modules
