"""Make rows of four frameworks slower by a known share: part of the array is done twice.

Short calls and calls of JAX check numbers in a loop instead: there a second call on a part costs more than the part.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.processes.isolation import Installation
from benchmarks.harness.processes.pairs import BASE, HEAD, Comparison, Pair
from benchmarks.harness.timing.verdicts import Rule
from scripts.run.comparison import BUDGET_S, LIMIT_S

# Rows and the modules of `impls.relu` that hold them.
ROWS = {"numpy.out": "numpy_", "numba.out": "numba_cpu", "torch.out": "torch_", "jax.fresh": "jax_"}
# Arrays for which numbers are checked in every framework.
SHORT_ELEMENTS = 2**15
# Prints the seconds of checking one number.
CHECKING = """
from time import perf_counter_ns
best = 10**9
for _ in range(50):
    start = perf_counter_ns()
    for number in range(10_000):
        number < 10_000
    best = min(best, perf_counter_ns() - start)
print(best / 1e13)
"""
EXTRA = """
_honest_{name} = {name}
_CHECKS = {checks}


def {name}(x, *out):
    for number in range(_CHECKS.get(x.size if isinstance(x.size, int) else x.numel(), 0)):
        number < 10_000
    part = int({share} * x.shape[0]) if x.shape[0] not in _CHECKS else 0
    if part:
        _honest_{name}(x[:part], *(array[:part] for array in out))
    return _honest_{name}(x, *out)
"""


def cases(elements: Sequence[int]) -> list[OperatorCase]:
    """The cases of the rows that `add` makes slower, at some numbers of elements."""
    return [OperatorCase("time", "relu", "forward", row, each) for each in elements for row in ROWS]


def check_s(installation: Installation) -> float:
    """The seconds that an installation's Python takes to check one number."""
    command = [installation.python, "-c", CHECKING]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def add(folder: Path, share: float, seconds: Mapping[OperatorCase, float], check_s: float) -> None:
    """Make the rows in a folder that holds `impls` slower by a share. seconds: of a call without extra work."""
    for row, module in ROWS.items():
        checked = {
            case.elements: round(share * call_s / check_s)
            for case, call_s in seconds.items()
            if case.variant == row and (case.elements <= SHORT_ELEMENTS or row.startswith("jax"))
        }
        name = "forward" if row.endswith("fresh") else "forward_out"
        with (folder / "impls" / "relu" / f"{module}.py").open("a") as file:
            file.write(EXTRA.format(name=name, checks=checked, share=share))


class Pool(Comparison):
    """Pairs that all take part in a number of passes, whatever they show."""

    wanted = 0

    def _next(self) -> list[Pair]:
        return list(self.times) if len(self.passes) < self.wanted else []

    def call_s(self, pair: Pair) -> float:
        """The seconds of a call of base: the median over all rounds of all passes."""
        return median(base_s for rounds in self.measured(pair).passes.values() for base_s, _ in rounds)


def measured(folder: Path, base: Installation, head: Installation, pairs: Sequence[Pair], passes: int) -> Pool:
    """Measure a number of passes. folder: keeps them."""
    settings = Settings(BUDGET_S, LIMIT_S, len(os.sched_getaffinity(0)), 1)
    pool = Pool(pairs, [], settings, {BASE: base, HEAD: head}, folder, Rule(), 1e9, show=lambda text: None)
    pool.wanted = passes
    pool.measure()
    return pool
