#!/bin/sh
# Puts the peers (DoWhy, ChiRho) into an environment of their own: sh benchmarks/peers.sh [directory, benchmarks/.peers unless told]
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-"$here/.peers"}
"${PYTHON:-python3.11}" -m venv "$target"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
"$target/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/peers.txt"
"$target/bin/python" -m pip list --disable-pip-version-check | grep -i -E '^(dowhy|chirho) '
