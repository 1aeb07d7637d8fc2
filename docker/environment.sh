#!/bin/sh
# Makes .venv from a lock file with hashes: with uv where it is installed, else with venv and pip.
# Usage: PYTHON=python3 environment.sh requirements.lock
set -eu
lock=$1
python=${PYTHON:-python3}

fail() {
    echo "jitaccess: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "$python was not found. Install Python 3.11, 3.12 or 3.13, or say which: make up PYTHON=/path/to/python3."
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
    fail "Python 3.11, 3.12 or 3.13 is needed; $python is $("$python" --version 2>&1). Say which to use: make up PYTHON=/path/to/python3."
command -v git >/dev/null 2>&1 || fail "git was not found. Install it (for example: apt-get install git)."

echo "Making the environment in .venv from $lock (about a minute the first time)."
if command -v uv >/dev/null 2>&1; then
    [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
    uv pip install --quiet --python .venv/bin/python --require-hashes -r "$lock"
    uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
else
    [ -x .venv/bin/pip ] || "$python" -m venv .venv 2>/dev/null ||
        fail "$python cannot make environments. Install its venv module (for example: apt-get install python3-venv)."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
fi
