#!/usr/bin/env bash
# Runs tests/gpu, then the same kernels on small shapes under compute-sanitizer where it is installed.
# Usage: scripts/gpu-test.sh [WHEEL]. With a wheel, nothing is built and no network is needed: the packages of the
# machine's own Python are used, and tempa is unpacked beside them. Without one, .venv is prepared as for `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
wheel=${1:-}

if [ -n "$wheel" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheel"
    export PYTHONPATH=$site
    python=python3
else
    make .venv/ready
    python=.venv/bin/python
fi

"$python" -m pytest tests/gpu
if command -v compute-sanitizer >/dev/null && "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    for tool in memcheck racecheck synccheck; do
        echo "compute-sanitizer --tool $tool"
        # torch's own allocator would hide accesses between its blocks.
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" -m pytest -q tests/gpu -k 'equal_the_reference and (33-72 or 33-1001)'
    done
fi
