#!/usr/bin/env bash
# Everything that a session with a GPU should find out, in less than nine minutes and without a network:
#   benchmarks/gpu_check.sh OUT
# PYTHON names the interpreter; without it, the checkout's .venv if there is one, or else python3.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$here/../.venv/bin/python"
if [ -z "${PYTHON:-}" ] && [ -x "$venv" ]; then PYTHON="$venv"; fi
exec "${PYTHON:-python3}" "$here/gpu_check.py" "$@"
