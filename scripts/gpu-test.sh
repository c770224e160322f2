#!/usr/bin/env bash
# Runs tests/gpu, then those that run every kernel on small shapes under compute-sanitizer where it is installed.
# Usage: scripts/gpu-test.sh [WHEEL] [STEPS...]; steps are tests, memcheck, racecheck, synccheck, and by default all.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/gpu-python.sh
. scripts/gpu-python.sh "${1:-}"
shift || true
steps=("$@")
[ "$#" -gt 0 ] || steps=(tests memcheck racecheck synccheck)

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
for step in "${steps[@]}"; do
    echo "$step"
    case $step in
        tests)
            "$python" -m pytest "${options[@]}" "${workers[@]}" tests/gpu || status=$?
            ;;
        memcheck | racecheck | synccheck)
            if ! command -v compute-sanitizer >/dev/null; then
                echo "compute-sanitizer is not installed"
            elif "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
                # torch's own allocator would hide accesses between its blocks.
                PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "$tool_s" compute-sanitizer --tool "$step" \
                    --error-exitcode 1 "$python" -m pytest -q "${options[@]}" -m sanitize tests/gpu || status=$?
            fi
            ;;
        *)
            echo "unknown step $step; choose from tests, memcheck, racecheck, synccheck" >&2
            exit 2
            ;;
    esac
done
exit "$status"
