"""Measure how the report's cost grows with the number of results: seconds, memory, and the size of the page.

python -m scripts.verify.report_scale [RESULTS ...]: with .venv/test. Makes results of several commits with ROUNDS
rounds each, and builds the report of each number of results in a process of its own.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import count, islice, product
from pathlib import Path

from benchmarks.harness.case import Case, OperatorCase
from benchmarks.harness.measurement import Process, Slice
from impls.catalog import VARIANTS
from impls.variant import DTYPES
from scripts.arguments import positive
from scripts.setup.pins import ROOT
from tests import synthetic

COUNTS = (1000, 5000, 25000)
ROUNDS = 20
SAMPLES = 3
ELEMENTS = (2**10, 2**15, 2**20, 2**25)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.report_scale", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("results", nargs="*", type=positive, default=COUNTS)
    print(f"{'results':>8} {'rounds':>8} {'seconds':>8} {'peak MB':>8} {'page MB':>8}")
    for results in parser.parse_args().results:
        with tempfile.TemporaryDirectory(prefix="relu-bench-scale-") as folder:
            _make(Path(folder), results)
            seconds, peak_bytes = _built(Path(folder))
            page_bytes = Path(folder, "out", "index.html").stat().st_size
        rounds = results * ROUNDS
        print(f"{results:8} {rounds:8} {seconds:8.1f} {peak_bytes / 1e6:8.0f} {page_bytes / 1e6:8.2f}", flush=True)
    return 0


def _make(folder: Path, results: int) -> None:
    """Write so many results, of as many commits as they need."""
    rows = [row for row in VARIANTS if row.device == "cpu"]
    cases = [
        OperatorCase("time", row.operator, row.direction, row.name, elements, dtype)
        for row, elements, dtype in product(rows, ELEMENTS, DTYPES)
        if dtype in row.dtypes
    ]
    every = ((number, case) for number in count() for case in cases)
    of_commits: dict[int, list[OperatorCase]] = {}
    for number, case in islice(every, results):
        of_commits.setdefault(number, []).append(case)
    for number, chosen in of_commits.items():
        commit, date_ms = f"{number:040x}", synthetic.DATE_MS + number * synthetic.DAY_MS
        numbers: dict[Case, float | None] = {case: 1e-9 * case.elements * random.uniform(0.2, 2) for case in chosen}
        synthetic.write(folder / "results", synthetic.content(numbers, commit, date_ms=date_ms, started_ms=date_ms))
        records = [
            synthetic.record(
                case, value=value, commit=commit, time_s=date_ms / 1000, interval=(0.98 * value, 1.02 * value),
                ratios={"fastest": synthetic.ratio(1.3, "numba.out")}, processes=[_process(value)],
                provenance={"fingerprint": "f"},
            )
            for case, value in numbers.items()
            if value
        ]  # fmt: skip
        synthetic.write_records(folder / "outcomes", records, f"box/{commit[:8]}.jsonl")


def _process(value: float) -> Process:
    slices = [Slice(number, [value * random.uniform(0.97, 1.05) for _ in range(SAMPLES)]) for number in range(ROUNDS)]
    return Process(number=7, slices=slices)


def _built(folder: Path) -> tuple[float, int]:
    """Build the report; return the seconds and the peak of resident bytes."""
    options = [f"--{name}={folder / name}" for name in ("results", "outcomes", "out")]
    start_s = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "scripts.report", *options], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the report failed; its message is above")
    return time.monotonic() - start_s, usage.ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
