"""Show what a short call of ReLU forward costs, and which part of the call takes the time.

python -m scripts.verify.call_overhead [--rounds 30] [--budget 2]: needs an environment with the frameworks
(.venv/test). The harness times the rows at 2^10 float32 elements in the same rounds; the first table has their ratios
to PyTorch's row of the same memory mode. JAX has no out form.

The second table takes each call apart. A framework has a process of its own, in which functions that do more and more
are timed in the same rounds, in a random order and then in the reverse; a part is the difference between two of them:

call            an empty Python function with the row's arguments, and in JAX the harness's wait for its result
dispatch        the library's bare function at 1 element; of Numba, a compiled function that is empty
compiled checks `numba_checks` in compiled code
loop            Numba's bare compiled function at 1 element; with threads, waking them
checks          the row at 1 element: what it adds to the bare function. JAX checks while it traces, so its row is bare
work            the row at 2^10 elements instead of 1

Each number is the median over rounds with its 95 % interval. Bare functions and rows are checked before they are timed.
"""

import argparse
import random
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from statistics import median
from typing import Any

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.frameworks import Driver, started
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.processes import plan
from benchmarks.harness.quantities.operator_row import TimedRow
from benchmarks.harness.timing import intervals
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.timing.intervals import Interval
from benchmarks.harness.truth.calls import Calls
from impls.catalog import variants
from impls.variant import Variant
from scripts.arguments import positive, seconds
from scripts.training.steps import paired_ratio

FLAVOURS = ("numpy", "numba", "numba-threads", "torch", "jax")
BASELINE = "torch"
MEMORY = ("out", "inplace")
ELEMENTS, DTYPE = 2**10, "float32"
ROWS = tuple(
    row
    for memory in MEMORY
    for row in variants("relu", "forward")
    if row.device == "cpu" and row.flavour in FLAVOURS and row.memory == memory
)

# Functions by memory mode.
Forms = dict[str, Callable[..., Any]]


@dataclass(frozen=True)
class Rung:
    """A function with the arguments of a row. part: what it does that the rung before it does not.

    computes: whether it returns ReLU.
    """

    part: str
    function: Callable[..., Any]
    elements: int = 1
    computes: bool = True


def main() -> int:
    options = _options()
    settings = replace(Settings.from_environment(), budget_s=options.budget)
    measured = plan.measured([_case(row, ELEMENTS) for row in ROWS], settings)
    compare({row: measured[_case(row, ELEMENTS)] for row in ROWS})
    print(f"\n{'row':22} {'part':16} {'ns':>9}   95 % interval")
    for framework in dict.fromkeys(row.framework for row in ROWS):
        rows = [row for row in ROWS if row.framework == framework]
        # A process drives one framework.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            found = process.submit(of_rows, rows, options.rounds, settings.threads).result()
        for (name, part), added_s in found.items():
            print(f"{name:22} {part:16} {_ns(added_s)}", flush=True)
    return int(any(each.value is None for each in measured.values()))


def compare(measured: dict[Variant, Measurement]) -> None:
    """Print the time of each row, and its ratio to the baseline's row of its memory mode."""
    print(f"relu forward, {ELEMENTS} elements of {DTYPE}\n{'row':22} {'ns':>9}   ratio to {BASELINE}, 95 % interval")
    baselines = {row.memory: found for row, found in measured.items() if row.flavour == BASELINE}
    for row, found in measured.items():
        baseline = baselines[row.memory]
        if found.value is None or baseline.value is None:
            print(f"{row.name:22} {found.status}: {found.reason}")
            continue
        ratio = paired_ratio(found, baseline)
        print(f"{row.name:22} {1e9 * found.value:9.0f}   {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")


def of_rows(rows: Sequence[Variant], rounds: int, threads: int) -> dict[tuple[str, str], Interval]:
    """Start the framework of some rows and return the seconds of each part of their calls, by row and part."""
    # PyTorch's driver copies what it is given.
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    with started(rows[0].framework, threads=threads) as driver:
        cores = {threaded: Core(threads=threads if threaded else 1) for threaded in (False, True)}
        return {
            (row.name, part): added_s
            for row in rows
            for part, added_s in parts(row, ladder(row), driver, cores[row.threaded], rounds).items()
        }


def parts(row: Variant, rungs: Sequence[Rung], driver: Driver, core: Core, rounds: int) -> dict[str, Interval]:
    """The seconds that each rung takes longer than the one before it, in the same rounds, and those of the last."""
    timed = [TimedRow(Calls(row, _case(row, rung.elements), driver, rung.function), core) for rung in rungs]
    for rung, each in zip(rungs, timed, strict=True):
        if rung.computes:
            each.prepare()
    timers = [each.timers[0] for each in timed]
    order = list(range(len(rungs)))
    taken_s: list[list[float]] = []
    for number in range(rounds):
        if number % 2:
            order.reverse()
        else:
            random.shuffle(order)
        of_round = {position: median(timers[position].slice(number).samples_s) for position in order}
        taken_s.append([0.0, *(of_round[position] for position in range(len(rungs)))])
    added_s = zip(*([after - before for before, after in pairwise(each)] for each in taken_s), strict=True)
    found = {rung.part: intervals.of([values]) for rung, values in zip(rungs, added_s, strict=True)}
    return {**found, "all": intervals.of([[each[-1] for each in taken_s]])}


def ladder(row: Variant) -> list[Rung]:
    """The functions that take a row's call apart, from an empty one to the row itself."""
    bare = {"numpy": _numpy, "numba": _numba, "torch": _torch, "jax": _jax}[row.framework](row)
    function = row.load()
    of_row = [Rung("checks", function)] if function is not bare[-1].function else []
    empty: Forms = {"out": lambda x, out: out, "inplace": lambda x: x}
    return [Rung("call", empty[row.memory], computes=False), *bare, *of_row, Rung("work", function, ELEMENTS)]


def _numpy(row: Variant) -> list[Rung]:
    import numpy as np

    forms: Forms = {"out": lambda x, out: np.maximum(x, 0, out=out), "inplace": lambda x: np.maximum(x, 0, out=x)}
    return [Rung("dispatch", forms[row.memory])]


def _torch(row: Variant) -> list[Rung]:
    import torch

    forms: Forms = {"out": lambda x, out: torch.clamp_min(x, 0, out=out), "inplace": lambda x: torch.relu_(x)}
    return [Rung("dispatch", forms[row.memory])]


def _jax(row: Variant) -> list[Rung]:
    return [Rung("dispatch", row.load())]


def _numba(row: Variant) -> list[Rung]:
    from numba import njit

    from impls.relu import numba_cpu
    from impls.relu.numba_checks import require_forward

    compiled: Any = njit
    of_x = compiled(lambda x: None), compiled(lambda x: require_forward(x, x)), numba_cpu._forward_inplace
    of_both = compiled(lambda x, out: None), require_forward, numba_cpu._forward
    of_threads = *of_both[:2], numba_cpu._forward_threads
    forms: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "numba.out": (_into, of_both),
        "numba.inplace": (_over, of_x),
        "numba-threads.out": (_into, of_threads),
        "numba-threads.inplace": (_over_twice, of_threads),
    }
    call, (nothing, checking, kernel) = forms[row.name]
    return [
        Rung("dispatch", call(nothing), computes=False),
        Rung("compiled checks", call(checking), computes=False),
        Rung("loop", call(kernel)),
    ]


def _into(kernel: Callable[..., None]) -> Callable[..., Any]:
    def function(x: Any, out: Any) -> Any:
        kernel(x, out)
        return out

    return function


def _over(kernel: Callable[..., None]) -> Callable[..., Any]:
    def function(x: Any) -> Any:
        kernel(x)
        return x

    return function


def _over_twice(kernel: Callable[..., None]) -> Callable[..., Any]:
    """A call in place of a function that takes a result: x is both."""
    return _over(lambda x: kernel(x, x))


def _case(row: Variant, elements: int) -> OperatorCase:
    return OperatorCase("time", row.operator, row.direction, row.name, elements, DTYPE)


def _ns(found: Interval) -> str:
    return f"{1e9 * found.value:9.0f}   {1e9 * found.low:.0f} to {1e9 * found.high:.0f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.call_overhead", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--rounds", type=positive, default=30, help="of the parts (default: %(default)s)")
    parser.add_argument(
        "--budget", type=seconds, default=2.0, metavar="TIME", help="to time a row in (default: %(default)s s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
