"""Time the calls of a row with pyperf, in separate processes and without the harness's sampling.

python -m scripts.verify.independent OPERATOR DIRECTION VARIANT ELEMENTS DTYPE PROBE_BEST_S [pyperf's own options]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter

import pyperf

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.frameworks import started
from benchmarks.harness.machine.memory import ALLOCATOR
from benchmarks.harness.quantities import operator_row
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth.calls import Calls
from impls.catalog import find

# Each process has a different memory layout, as in the harness. pyperf adds a process for calibration.
PROCESSES = 4
# Many short values instead of few long ones, because uncontended periods of a core are short.
VALUES = ("--values", "10", "--min-time", "0.01")
# Attempts at a value that SMT contention slows, and the longest wait before each attempt.
TRIES, WAIT_S = 10, 0.2


def median_s(case: OperatorCase, probe_best_s: float) -> float:
    """Return the median seconds of a call measured with pyperf, with the number of threads that the harness uses.

    probe_best_s: the fastest probe of a core measured on this machine (`timing.contention`).

    Raises RuntimeError with pyperf's message if it fails.
    """
    row = [case.operator, case.direction, case.variant, str(case.elements), case.dtype, str(probe_best_s)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pyperf.json")
        options = ["--quiet", "--copy-env", "--processes", str(PROCESSES), *VALUES, "--output", str(file)]
        completed = subprocess.run(
            [sys.executable, "-m", "scripts.verify.independent", *row, *options],
            capture_output=True,
            text=True,
            env=ALLOCATOR | os.environ,
        )
        if completed.returncode:
            raise RuntimeError(f"pyperf failed on {' '.join(row)}: {completed.stderr.strip()[-500:]}")
        return float(pyperf.Benchmark.load(str(file)).median())


HEAD = f"{'row':44} {'elements':>9} {'dtype':9} {'suite':>12} {'pyperf':>12} {'ratio':>6}"


def line(case: OperatorCase, ours_s: float, theirs_s: float) -> str:
    """A line below HEAD: both times of a case and their ratio."""
    return (
        f"{f'{case.operator} {case.direction} {case.variant}':44} {case.elements:9} {case.dtype:9} "
        f"{ours_s * 1e6:9.2f} us {theirs_s * 1e6:9.2f} us {ours_s / theirs_s:6.3f}"
    )


def median_or_none(case: OperatorCase) -> float | None:
    """The median seconds measured with pyperf; None, and its message on standard output, where it fails."""
    core = Core()
    core.settle(WAIT_S)
    try:
        return median_s(case, core.probe_s or 0.0)
    except RuntimeError as error:
        print(error, flush=True)
        return None


def compare(times_s: Iterable[tuple[OperatorCase, float]], limit_percent: float) -> int:
    """Print each time, pyperf's time and their ratio; return the number that differ by more than the limit or failed.

    times_s: cases with seconds.

    Raises SystemExit if there is nothing to compare.
    """
    print(HEAD)
    pairs = [(case, ours_s, median_or_none(case)) for case, ours_s in times_s]
    differences_percent: list[float] = []
    for case, ours_s, theirs_s in pairs:
        if theirs_s is not None:
            differences_percent.append(100 * abs(ours_s / theirs_s - 1))
            print(line(case, ours_s, theirs_s), flush=True)
    if not differences_percent:
        raise SystemExit("nothing could be compared")
    failed = len(pairs) - len(differences_percent)
    beyond = sum(percent > limit_percent for percent in differences_percent)
    print(
        f"{len(differences_percent)} compared: median {median(differences_percent):.1f} % apart, "
        f"worst {max(differences_percent):.1f} %, "
        f"{beyond} beyond {limit_percent:g} %, {failed} failed"
    )
    return beyond + failed


def main() -> None:
    runner = pyperf.Runner(program_args=("-m", "scripts.verify.independent"), add_cmdline_args=_pass_on)
    runner.argparser.prog = "python -m scripts.verify.independent"
    for axis in ("operator", "direction", "variant"):
        runner.argparser.add_argument(axis)
    runner.argparser.add_argument("elements", type=int)
    runner.argparser.add_argument("dtype")
    runner.argparser.add_argument(
        "probe_best_s", type=float, help="the fastest probe of a core in seconds, 0 if unknown"
    )
    options = runner.parse_args()
    case = OperatorCase("time", options.operator, options.direction, options.variant, options.elements, options.dtype)
    if not options.worker:
        # This process starts pyperf's workers, and only they import the framework.
        runner.bench_time_func(case.label, float)
        return
    row, threads = find(case.operator, case.direction, case.variant), Settings.from_environment().threads
    with started(row.framework, row.device, threads) as framework:
        calls = Calls(row, case, framework, row.load())
        core = Core(options.probe_best_s, threads if row.threaded else 1)
        runner.bench_time_func(case.label, _seconds(calls, core))


def _pass_on(command: list[str], options: argparse.Namespace) -> None:
    """Pass the arguments on to pyperf's workers."""
    command += [options.operator, options.direction, options.variant]
    command += [str(options.elements), options.dtype, str(options.probe_best_s)]


def _seconds(calls: Calls, core: Core) -> Callable[[int], float]:
    """Return a function that makes a number of calls and returns their seconds."""
    # Each value is measured in another place in memory, as in the harness.
    places = cycle([calls.pool(calls.pooled_calls, place) for place in range(operator_row.places(calls))])
    pristine, call = calls.pristine(), calls.call

    def repeated(count: int) -> float:
        arguments = next(places)[0]
        # The arguments are in no cache yet.
        call(*arguments)
        start_s = perf_counter()
        for _ in range(count):
            call(*arguments)
        return perf_counter() - start_s

    def restored(count: int) -> float:
        pool, total_s = next(places), 0.0
        for first in range(0, count, len(pool)):
            fresh = [calls.restored(arrays, pristine) for arrays in pool][: count - first]
            start_s = perf_counter()
            for arguments in fresh:
                call(*arguments)
            total_s += perf_counter() - start_s
        return total_s

    timed = restored if calls.mutated_args else repeated

    def uncontended(count: int) -> float:
        """Repeat under SMT contention, whose times no other timer would reproduce."""
        for _ in range(TRIES):
            before_s = core.settle(WAIT_S)
            seconds = timed(count)
            if core.is_uncontended(max(before_s, core.probe())):
                break
        return seconds

    return uncontended


if __name__ == "__main__":
    main()
