# Sourced by the scripts for GPU machines: sets `python` and PYTHONPATH from the path of a wheel, or from nothing.
# With a wheel, nothing is built and no network is needed: the packages of the machine's own Python are used, and
# tempa is unpacked beside them. Without one, .venv is prepared as for `make test`.
if [ -n "$1" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    # shellcheck disable=SC2086 # a pattern such as dist/*.whl may stand for the wheel
    python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" $1
    export PYTHONPATH=$site
    python=python3
else
    make .venv/ready
    python=$PWD/.venv/bin/python
fi
