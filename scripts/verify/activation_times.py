"""Time the activation functions beside ReLU at sizes from the first cache to memory.

python -m scripts.verify.activation_times [--operators gelu tanh] [--frameworks numba] [--directions forward]
[--elements 1024 1048576] [--budget 0.4]: needs an environment with the frameworks (.venv/test). Of each framework the
row that the report compares, in float32: ns an element, and the ratio to ReLU's row of the same name in the same rounds
with its 95 % interval. "~" marks an unstable time. All of it takes more than an hour. Fails if a row has no time.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.harness.case import Case, OperatorCase, Settings
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.parameters import ELEMENTS
from benchmarks.harness.processes import plan
from benchmarks.harness.processes.answers import BASELINE
from benchmarks.harness.profiles import COMPARED, FAMILY
from impls.catalog import VARIANTS, find
from scripts.arguments import positive, seconds

FRAMEWORKS = ("numpy", "numba", "torch", "jax")
DIRECTIONS = ("forward", "backward")
DTYPE = "float32"
WIDTH = 32


def main() -> int:
    options = _options()
    compared = [find(BASELINE, "forward", name) for name in COMPARED]
    rows = [row.name for row in compared if row.device == "cpu" and row.framework in options.frameworks]
    settings = replace(Settings.from_environment(), budget_s=options.budget)
    failed = False
    for row in rows:
        for direction in options.directions:
            cases = {
                (operator, elements): OperatorCase("time", operator, direction, row, elements, DTYPE)
                for operator in (each.operator for each in VARIANTS if (each.direction, each.name) == (direction, row))
                if operator in options.operators
                for elements in options.elements
            }
            found = plan.measured(list(cases.values()), settings, with_roofs=True)
            print("\n".join(table(f"{direction} {row}", cases, found)), flush=True)
            failed = failed or any(each.value is None for each in found.values())
    return int(failed)


def table(title: str, cases: Mapping[tuple[str, int], Case], found: Mapping[Case, Measurement]) -> Iterator[str]:
    """Yield a line for each operator, with a column for each size."""
    sizes = sorted({elements for _, elements in cases})
    yield f"\n{title:28}" + "".join(f"{f'{elements:,} elements':>{WIDTH}}" for elements in sizes)
    for operator in dict.fromkeys(operator for operator, _ in cases):
        times = [found[cases[operator, elements]] for elements in sizes]
        yield f"{operator:28}" + "".join(
            f"{_cell(time, elements):>{WIDTH}}" for time, elements in zip(times, sizes, strict=True)
        )
        for time, elements in zip(times, sizes, strict=True):
            if time.value is None:
                yield f"  {elements:,} elements: {time.status}: {time.reason}"


def _cell(time: Measurement, elements: int) -> str:
    """ns an element, and the ratio to ReLU."""
    if time.value is None:
        return time.status
    taken = f"{'' if time.status == 'ok' else '~'}{1e9 * time.value / elements:.3f} ns"
    ratio = time.ratios.get(BASELINE)
    return f"{taken} {ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f})" if ratio else taken


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.activation_times", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--operators", nargs="+", choices=FAMILY, default=FAMILY, metavar="OPERATOR", help="by default all"
    )
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS, help="by default all")
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=DIRECTIONS, help="by default both")
    parser.add_argument(
        "--elements",
        nargs="+",
        type=positive,
        default=ELEMENTS,
        metavar="N",
        help="of an array, by default those of asv",
    )
    parser.add_argument(
        "--budget", type=seconds, default=0.4, metavar="TIME", help="to time a row in (default: %(default)s s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
