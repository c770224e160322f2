#!/usr/bin/env bash
# Times the kernels on the GPU of this machine and writes benches/results/gpu-DEVICE.json.
# Usage: scripts/gpu-bench.sh [WHEEL] [OPTIONS...]; `make gpu-bench ARGS=--help` lists the options.
set -euo pipefail
cd "$(dirname "$0")/.."
wheel=${1:-}
shift || true
# shellcheck source=scripts/gpu-python.sh
. scripts/gpu-python.sh "$wheel"
PYTHONPATH=benches${PYTHONPATH:+:$PYTHONPATH} "$python" -m gpu "$@"
