#!/usr/bin/env bash
# Runs tests/gpu, then the same kernels on small shapes under compute-sanitizer where it is installed.
# Usage: scripts/gpu-test.sh [WHEEL]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/gpu-python.sh
. scripts/gpu-python.sh "${1:-}"

"$python" -m pytest tests/gpu
if command -v compute-sanitizer >/dev/null && "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    for tool in memcheck racecheck synccheck; do
        echo "compute-sanitizer --tool $tool"
        # torch's own allocator would hide accesses between its blocks.
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" -m pytest -q tests/gpu -k 'equal_the_reference and (33-72 or 33-1001)'
    done
fi
