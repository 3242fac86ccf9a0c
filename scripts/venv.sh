#!/bin/sh
# Makes the virtual environment $1 and installs edgec into it, editable, with all extras.
set -eu
venv=$1

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    python=
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.13 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "setup: no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3.11" >&2
        exit 1
    fi
    echo "setup: virtual environment in $venv ($("$python" --version))"
    if ! "$python" -m venv "$venv" >"$venv.log" 2>&1; then
        cat "$venv.log" >&2
        rm -rf "$venv" "$venv.log"
        echo "setup: $python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
    rm -f "$venv.log"
fi

echo "setup: installing edgec and what it needs (once; torch is large)"
"$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
    --editable '.[bench,compile,dev,serve]'
