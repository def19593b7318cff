#!/usr/bin/env bash
# On a host, in the checkout: an environment with this checkout's versions.
set -euo pipefail
cd "$(dirname "$0")/../.."
# TPU VMs come with Python 3.10, which is too old; uv brings another.
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --clear --python=3.11 .venv
python3 -m uv pip install --quiet --python=.venv/bin/python \
  --constraint=constraints.txt --editable='.[train,tpu]'
