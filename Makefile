# Everything here sets itself up: Python 3.11 or newer, make and a C compiler are enough.
#   make demo   trains, evaluates and quantizes a network, and shows what came out
#   make test   the whole test suite, on both supported stacks
#   make check  format, lint and the fast tests
PYTHON ?= python3
# tensorflow-addons' stack needs Python 3.9, 3.10 or 3.11.
LEGACY_PYTHON ?= $(firstword $(foreach v,3.11 3.10 3.9,$(shell command -v python$(v))))
# Tests that run at once.
JOBS ?= 2
DATA ?= digits
OUT ?= demo-out
PIP = pip install --quiet --disable-pip-version-check
# Debian's side of the tests of MediaPipe and of the web page: graphics, the browser's driver, a browser, a font.
DEBIAN = libegl1 libgles2 libgl1 libatomic1 chromium fonts-liberation

.PHONY: demo test test-newest test-jax test-legacy check lint clean

demo: .venv/ready
	.venv/bin/python examples/demo.py --data=$(DATA) --out=$(OUT)

test: lint test-newest test-jax test-legacy

test-newest: .venv/ready .venv/clients
	.venv/bin/python -m pytest -n $(JOBS) --dist worksteal

test-jax: .venv/ready
	KERAS_BACKEND=jax JAX_PLATFORMS=cpu .venv/bin/python -m pytest -n $(JOBS) --dist worksteal tests/keras_effnet -m "not slow"

test-legacy: .venv-legacy/ready
	.venv-legacy/bin/python -m pytest -n $(JOBS) --dist worksteal tests/keras_effnet tests/tpu_train -m "not slow"

check: lint .venv/clients
	.venv/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .

.venv/ready: setup.py requirements/newest.txt requirements/torch.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/$(PIP) -c requirements/newest.txt -e ".[tflite,plan,test]"
	.venv/bin/$(PIP) -c requirements/newest.txt -c requirements/torch.txt torch huggingface_hub
	.venv/bin/$(PIP) -c requirements/torch.txt --no-deps torchvision timm
	touch $@

# Where Debian's packages cannot be installed, the tests that need them are skipped and say this line.
.venv/clients: .venv/ready examples/web/package.json examples/web/package-lock.json
	@dpkg -s $(DEBIAN) >/dev/null 2>&1 \
	|| { test "$$(id -u)" = 0 && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEBIAN) >/dev/null; } \
	|| echo "Tests of MediaPipe and of the web page will be skipped. For them, as root: apt-get install -y --no-install-recommends $(DEBIAN)"
	PATH="$(CURDIR)/.venv/bin:$$PATH" npm ci --prefix examples/web --no-audit --no-fund --loglevel=error
	touch $@

.venv-legacy/ready: setup.py requirements/legacy.txt
	@test -n "$(LEGACY_PYTHON)" || { echo "The TensorFlow 2.15 stack needs Python 3.9, 3.10 or 3.11: install one, or name it with make LEGACY_PYTHON=..."; exit 1; }
	$(LEGACY_PYTHON) -m venv .venv-legacy
	.venv-legacy/bin/$(PIP) -c requirements/legacy.txt -e ".[addons]" pytest pytest-xdist scikit-learn
	touch $@

clean:
	rm -rf .venv .venv-legacy build *.egg-info examples/web/node_modules
