#!/usr/bin/env bash
# Prepares .venv: the Python packages, Rust when it is missing, and tempa itself, editable and in release mode.
# Usage: scripts/setup.sh PYTHON. Everything it installs is inside .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed and '$python' is not; name one, for example: make PYTHON=python3.12"

if [ ! -x .venv/bin/python ]; then
    say "creating .venv"
    "$python" -m venv .venv
fi
export PATH="$PWD/.venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1

# Asked to run, not only looked for: rustup's proxies exist even where no toolchain is set up.
if ! cargo --version >/dev/null 2>&1; then
    say "cargo is missing: fetching Rust into .venv"
    log=.venv/rust.log
    {
        pip install --quiet --retries 0 --timeout 15 puccinialin &&
            python -m puccinialin --location .venv/rust --info-json .venv/rust.json &&
            RUSTUP_HOME=$PWD/.venv/rust/rustup CARGO_HOME=$PWD/.venv/rust/cargo \
                .venv/rust/cargo/bin/rustup component add clippy rustfmt
    } >"$log" 2>&1 ||
        fail "cargo is missing and could not be fetched ($log says why): install Rust 1.89 or newer with rustup and run make again"
    ln -sf "$PWD"/.venv/rust/rustup/toolchains/*/bin/* .venv/bin/
fi

if ! command -v maturin >/dev/null || [ ! -e .venv/ready ]; then
    say "installing Python packages (torch is large: minutes on the first run)"
fi
# The build runs in .venv itself, so a later rebuild needs no network.
pip install --quiet 'maturin>=1.9.4,<2'
pip install --quiet --no-build-isolation --editable '.[test]'
say "ready"
