"""Compare two orders of measuring the same rows in the same time: one row after the other, and all in rounds.

python -m scripts.verify.interleaving: needs an environment with the frameworks (.venv/test). Makes runs in both orders,
in random turn, each with new processes, and prints how far consecutive runs of an order are apart: their times, and the
ratios of each row to the first one of its size. Takes about 20 s per run.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.harness.case import Case, OperatorCase, Settings
from benchmarks.harness.processes import answers, blocks, rounds
from benchmarks.harness.processes.blocks import Block
from benchmarks.harness.processes.journal import Journal
from scripts.arguments import positive
from scripts.verify.repeatability import summary

VARIANTS = ("numpy.out", "numpy-clip.out", "numba.out", "numba-threads.out", "torch.out")
ELEMENTS = (2**15, 2**20, 2**24)
# Budget of a row in a run.
BUDGET_S = 0.5


def main() -> int:
    options = _options()
    cases = [OperatorCase("time", "relu", "forward", name, n) for n in options.elements for name in options.variants]
    settings = replace(Settings.from_environment(), budget_s=BUDGET_S, passes=1)
    runs: dict[str, list[dict[Case, list[float]]]] = {name: [] for name in ORDERS}
    for number in range(options.runs):
        for name in random.sample(list(ORDERS), len(ORDERS)):
            print(f"run {number + 1} of {options.runs}, {name}", file=sys.stderr, flush=True)
            runs[name].append(_run(ORDERS[name](cases), settings))
    for name, of_order in runs.items():
        times = pd.DataFrame([{case: np.median(values) for case, values in run.items()} for run in of_order])
        ratios = pd.DataFrame([_ratios(run, options.variants[0]) for run in of_order])
        print(summary(f"{name}: times", _apart(times)))
        print(summary(f"{name}: ratios", _apart(ratios)))
    return 0


def _one_after_the_other(cases: Sequence[Case]) -> list[list[Block]]:
    return [[Block("alone", case.name, (case,), ())] for case in cases]


def _in_rounds(cases: Sequence[Case]) -> list[list[Block]]:
    return [blocks.of(cases, with_roofs=False)]


# Each order as a list of steps; the blocks of a step are measured together.
ORDERS: dict[str, Callable[[Sequence[Case]], list[list[Block]]]] = {
    "one after the other": _one_after_the_other,
    "in rounds": _in_rounds,
}


def _run(turns: Sequence[Sequence[Block]], settings: Settings) -> dict[Case, list[float]]:
    """Measure with new processes; return the seconds of each case in each of its rounds."""
    with tempfile.TemporaryDirectory() as folder, rounds.Crew(settings, None) as crew:
        journals = {block: Journal(Path(folder, block.name)) for turn in turns for block in turn}
        for turn in turns:
            rounds.measure(turn, 0, crew, journals.__getitem__)
    return {
        case: list(answers.counted(case, [journal]).values())
        for block, journal in journals.items()
        for case in block.rows
    }


def _ratios(run: dict[Case, list[float]], first: str) -> dict[Case, float]:
    """The median ratio of each row to the first one of its size, in rounds with the same number."""
    firsts = {case.axes["elements"]: values for case, values in run.items() if case.axes["variant"] == first}
    return {
        case: float(np.median([a / b for a, b in zip(values, firsts[case.axes["elements"]], strict=False)]))
        for case, values in run.items()
        if case.axes["variant"] != first
    }


def _apart(runs: pd.DataFrame) -> pd.Series:
    """The differences between consecutive runs in percent; runs are rows, cases columns."""
    return pd.Series(100 * (runs / runs.shift() - 1).abs().iloc[1:].to_numpy().ravel())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.interleaving", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--runs", type=positive, default=10, help="runs in each order (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="rows of relu forward (default: %(default)s)")
    parser.add_argument(
        "--elements", type=positive, nargs="+", default=ELEMENTS, help="array sizes (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
