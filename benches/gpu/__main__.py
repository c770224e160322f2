"""The command behind `make gpu-bench`."""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path

import torch

from gpu import ceilings, supervise, tables, worker
from gpu.record import Record, file_name
from gpu.rig import GpuRig
from gpu.sections import SECTIONS

RESULTS = Path(__file__).resolve().parents[1] / "results"
BUDGET_S = 500.0
EPILOG = """examples:
  make gpu-bench                                 everything, within 9 minutes
  make gpu-bench ARGS="--quick"                  a few cases of every section
  make gpu-bench ARGS="--only decode"            one section, measured again; the others stay in the file
  make gpu-bench WHEEL=dist/tempa-....whl        a wheel built elsewhere, on a machine without Rust or network

First come the device and its ceilings: what it reaches when it copies, reads and multiplies. Then each case:
ours, then every peer that is installed, checked against each other before they are timed. "FAIL" is a wrong
result or an error of ours, and makes the exit status 1; the rest goes on. Times are medians with the 10th and
90th percentile. Every row is written to the JSON file at once, and `python benches/report.py` turns the file
into a section of docs/numbers.md.

sections: """


def main() -> int:
    arguments = _parser().parse_args()
    names = arguments.only or list(SECTIONS)
    if not torch.cuda.is_available():
        print(
            "torch sees no CUDA device; the cases are tested without one by `pytest tests/bench`",
            file=sys.stderr,
        )
        return 2
    path = arguments.out or RESULTS / file_name(torch.cuda.get_device_name())
    if arguments.begun is not None:
        record = Record.read(path)
        options = {"is_quick": arguments.quick, "begun": arguments.begun, "budget_s": arguments.budget}
        return 0 if worker.work(GpuRig(), record, path, names, **options) else worker.BROKEN
    _begin(path, names, keeps_others=bool(arguments.only))
    options = ["--out", str(path), "--budget", str(arguments.budget), "--begun", str(time.time())]
    options += ["--quick"] * arguments.quick + ["--only", *names]
    is_whole = supervise.run([sys.executable, "-m", "gpu", *options], path)
    record = Record.read(path)
    print(f"\n{tables.summary(record)}\nwritten to {path}")
    return int(bool(record.failures) or not is_whole)


def _begin(path: Path, names: list[str], *, keeps_others: bool) -> None:
    """A file with the device and, of an earlier run, the sections that are not measured again."""
    kept = Record.read(path).rows if keeps_others and path.exists() else []
    rows = [row for row in kept if row.section not in names]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    Record(machine=ceilings.describe(), rows=rows, date=today).write(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make gpu-bench",
        description="Times tempa's kernels on a GPU beside its ceilings and beside their peers.",
        epilog=EPILOG + ", ".join(SECTIONS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), metavar="NAME", help="these sections; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="a few cases of every section")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_S, metavar="S", help="seconds for all sections"
    )
    parser.add_argument("--out", type=Path, help="the JSON file; benches/results/gpu-DEVICE.json by default")
    # Given by the supervisor to the process that measures: when the run began.
    parser.add_argument("--begun", type=float, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
