"""Another timer for the same calls: pyperf, in processes of its own, with none of the harness's sampling.

python -m scripts.verify.independent OP VARIANT ELEMENTS DTYPE FASTEST [pyperf's own options]
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from time import perf_counter

import pyperf

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.frameworks import started
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth.bench import Bench
from impls.catalog import find

# Each with another layout of its memory, as in the harness; pyperf adds one that calibrates.
PROCESSES = 4
# Many short values rather than few long ones: a core is seldom free for long where it is shared.
VALUES = ("--values", "10", "--min-time", "0.01")
# So often is a value taken again, and so long waited, where the core is shared (timing/contention.py).
TRIES, WAIT_S = 10, 0.2


def median_s(case: Case, fastest_s: float) -> float:
    """Median seconds of a call as pyperf finds them, with the threads that the harness uses.

    fastest_s: the fastest loop (benchmarks/harness/timing/contention.py) seen on this machine.

    Raises RuntimeError with pyperf's words where it fails.
    """
    row = [case.op, case.variant, str(case.elements), case.dtype, str(fastest_s)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pyperf.json")
        options = ["--quiet", "--copy-env", "--processes", str(PROCESSES), *VALUES, "--output", str(file)]
        ended = subprocess.run(
            [sys.executable, "-m", "scripts.verify.independent", *row, *options], capture_output=True, text=True
        )
        if ended.returncode:
            raise RuntimeError(f"pyperf failed on {' '.join(row)}: {ended.stderr.strip()[-500:]}")
        return float(pyperf.Benchmark.load(str(file)).median())


def compare(times_s: Iterable[tuple[Case, float]], limit_percent: float) -> int:
    """Print each time beside pyperf's and their ratio; tell how many are further apart than the limit, or failed.

    Raises SystemExit where there is nothing to compare.

    times_s: cases with seconds, taken one by one, so that what is measured on demand alternates with pyperf.
    """
    print(f"{'operator':15} {'variant':28} {'elements':>9} {'dtype':9} {'suite':>12} {'pyperf':>12} {'ratio':>6}")
    apart: list[float] = []
    failed = 0
    core = Core()
    for case, ours_s in times_s:
        core.settle(WAIT_S)
        try:
            theirs_s = median_s(case, core.seen_s or 0.0)
        except RuntimeError as error:
            failed += 1
            print(error, flush=True)
            continue
        apart.append(100 * abs(ours_s / theirs_s - 1))
        print(
            f"{case.op:15} {case.variant:28} {case.elements:9} {case.dtype:9} "
            f"{ours_s * 1e6:9.2f} us {theirs_s * 1e6:9.2f} us {ours_s / theirs_s:6.3f}",
            flush=True,
        )
    if not apart:
        raise SystemExit("nothing could be compared")
    beyond = sum(percent > limit_percent for percent in apart)
    print(
        f"{len(apart)} compared: median {median(apart):.1f} % apart, worst {max(apart):.1f} %, "
        f"{beyond} beyond {limit_percent:g} %, {failed} failed"
    )
    return beyond + failed


def percent(text: str) -> float:
    """A limit as the command line has it. Raises ValueError where it is none, which a NaN would let anything pass."""
    if not 0 <= (value := float(text)) <= 100:
        raise ValueError(text)
    return value


def main() -> None:
    runner = pyperf.Runner(program_args=("-m", "scripts.verify.independent"), add_cmdline_args=_pass_on)
    runner.argparser.add_argument("op")
    runner.argparser.add_argument("variant")
    runner.argparser.add_argument("elements", type=int)
    runner.argparser.add_argument("dtype")
    runner.argparser.add_argument("fastest", type=float, help="seconds of the fastest loop (core.py), 0 where unknown")
    options = runner.parse_args()
    case = Case("time", options.op, options.variant, options.elements, options.dtype)
    name = f"{case.op} {case.variant} {case.elements} {case.dtype}"
    if not options.worker:
        # This process starts pyperf's workers, and only they import the framework.
        runner.bench_time_func(name, float)
        return
    row, threads = find(case.op, case.variant), Settings.from_environment().threads
    with started(row.framework, row.device, threads) as framework:
        bench = Bench(row, case, framework, row.load())
        core = Core(options.fastest, threads if row.threaded else 1)
        runner.bench_time_func(name, _seconds(bench, core))


def _pass_on(command: list[str], options: argparse.Namespace) -> None:
    """Tell pyperf's workers what to measure."""
    command += [options.op, options.variant, str(options.elements), options.dtype, str(options.fastest)]


def _seconds(bench: Bench, core: Core) -> Callable[[int], float]:
    """A function from a number of calls to the seconds that they take."""
    pool, masters, call = bench.pool(bench.pooled_calls), bench.masters(), bench.call

    def repeated(calls: int) -> float:
        arguments = pool[0]
        start_s = perf_counter()
        for _ in range(calls):
            call(*arguments)
        return perf_counter() - start_s

    def restored(calls: int) -> float:
        total_s = 0.0
        for first in range(0, calls, len(pool)):
            fresh = [bench.restored(arrays, masters) for arrays in pool][: calls - first]
            start_s = perf_counter()
            for arguments in fresh:
                call(*arguments)
            total_s += perf_counter() - start_s
        return total_s

    timed = restored if bench.consumed else repeated

    def undisturbed(calls: int) -> float:
        """Times on a core that is shared say nothing of the row: another timer would not find them again either."""
        for _ in range(TRIES):
            before_s = core.settle(WAIT_S)
            seconds = timed(calls)
            if core.is_free_at(max(before_s, core.loop_s())):
                break
        return seconds

    return undisturbed


if __name__ == "__main__":
    main()
