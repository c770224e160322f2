#!/usr/bin/env bash
# Runs tests/gpu, then those that run every kernel on small shapes under compute-sanitizer where it is installed.
# Usage: scripts/gpu-test.sh [WHEEL]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/gpu-python.sh
. scripts/gpu-python.sh "${1:-}"

# Seconds for one test, and for one tool of the sanitizer, which slows kernels down a hundredfold.
test_s=120
tool_s=240

# Warnings fail tests elsewhere; here they may come from whatever versions the machine has.
options=(-W default -p no:benchmark)
if "$python" -c 'import pytest_timeout' 2>/dev/null; then
    options+=(--timeout "$test_s" --timeout-method thread)
fi
# Kernels are compiled as tests need them, which takes most of the time: on several processors where xdist is there.
workers=()
if "$python" -c 'import xdist' 2>/dev/null; then
    workers=(-n "$(($(nproc) < 16 ? ($(nproc) + 1) / 2 : 8))")
fi

status=0
"$python" -m pytest "${options[@]}" "${workers[@]}" tests/gpu || status=$?
if command -v compute-sanitizer >/dev/null && "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    for tool in memcheck racecheck synccheck; do
        echo "compute-sanitizer --tool $tool"
        # torch's own allocator would hide accesses between its blocks.
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "$tool_s" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" -m pytest -q "${options[@]}" -m sanitize tests/gpu || status=$?
    done
fi
exit "$status"
