"""Measure the largest error of each row of the activation family against the float64 reference, in ulps.

python -m scripts.verify.accuracy [--framework NAME ...] [--operator NAME ...]: with .venv/test. Inputs are special
values, the range in which functions saturate, and floats of every exponent and both signs; gradients are 1 and random.
Prints for each activation, direction and framework the error in float32 and float64, then, after "/", the same where
results smaller than their argument count in ulps of the argument, which hides what cancels. Fails where a row exceeds
what it declares.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from benchmarks.harness.case import OperatorCase
from benchmarks.harness.frameworks import driver, started
from benchmarks.harness.truth import comparison, operators
from benchmarks.harness.truth.calls import Calls
from impls.catalog import OPERATORS, VARIANTS
from impls.variant import Variant

# Floats that are spread over all bit patterns, and over the range of saturation.
PATTERNS, SATURATING = 2**16, 2**16
Errors = dict[str, tuple[float, float]]


def main() -> int:
    options = _options()
    if options.row_errors:
        print(json.dumps(of_framework(options.framework[0], options.operator)))
        return 0
    found = {framework: _in_own_process(framework, options.operator) for framework in options.framework}
    for framework, errors in found.items():
        print(f"\n{framework:40} {'float32':>22} {'float64':>22}")
        for name, by_dtype in errors.items():
            print(f"{name:40}" + "".join(f"{ulps:12.3g} /{floored:8.3g}" for ulps, floored in by_dtype.values()))
    exceeded = [
        f"{name}: {dtype} {max(found[row.framework][name][dtype]):.3g} ulps, {row.tolerance_ulps:g} declared"
        for row in rows(options.framework, options.operator)
        for name in [label(row)]
        for dtype in row.dtypes
        if found[row.framework][name][dtype][bool(row.tolerance_floor)] > row.tolerance_ulps
    ]
    print("\n".join(exceeded))
    return int(bool(exceeded))


def rows(frameworks: Iterable[str], names: Iterable[str]) -> list[Variant]:
    """The rows that are measured: on the CPU, one memory mode of each flavour."""
    chosen: dict[str, Variant] = {}
    for row in VARIANTS:
        if row.framework in frameworks and row.operator in names and row.device == "cpu":
            chosen.setdefault(label(row), row)
    return list(chosen.values())


def label(row: Variant) -> str:
    """The name of a row, without its memory mode."""
    return f"{row.operator} {row.direction} {row.flavour}"


def of_framework(framework: str, names: Iterable[str]) -> dict[str, Errors]:
    """By row and dtype, the largest error in ulps of the result, and in ulps of the argument where that is larger.

    A process may start only one framework, so call this once.
    """
    with started(framework, "cpu"):
        return {label(row): {dtype: worst(row, dtype) for dtype in row.dtypes} for row in rows([framework], names)}


def worst(row: Variant, dtype: str) -> tuple[float, float]:
    """The largest error of a row, in ulps of the result, and in ulps of the argument where that is larger."""
    case = OperatorCase("time", row.operator, row.direction, row.name, 1, dtype)
    calls = Calls(row, case, driver(row.framework), row.load())
    parts = [errors for x, grad in _inputs(row, dtype) for errors in _errors(calls, x, grad)]
    return max(errors[0] for errors in parts), max(errors[1] for errors in parts)


def _errors(calls: Calls, x: np.ndarray, grad: np.ndarray) -> Iterator[tuple[float, float]]:
    """Yield the largest errors of each result of one call."""
    row, dtype = calls.variant, calls.case.dtype
    inputs = calls.inputs(x, grad)
    results = calls.call(*calls.arrays(inputs))
    least, most, _ = comparison.LIMITS[dtype]
    expected = comparison.adjust(row, inputs.values, operators.expected(row, inputs.values))
    for result, wanted, argument in zip(
        results if isinstance(results, tuple) else (results,), expected, inputs.values, strict=False
    ):
        found = calls.framework.to_numpy(result)
        defined = np.isfinite(wanted) & (np.abs(wanted) <= most) & np.isfinite(argument)
        if row.semantics.gradient_at_nan == "any":
            defined &= ~np.isnan(inputs.values[0]) & ~np.isnan(inputs.values[-1])
        if row.semantics.flushes_subnormals:
            defined &= (np.abs(wanted) >= comparison.FLUSHED * least) | (wanted == 0)
        yield tuple(
            float(np.max(comparison.errors_ulps(found, wanted, dtype, argument, floor)[defined], initial=0))
            for floor in (0, 1)
        )  # type: ignore[misc]


def _inputs(row: Variant, dtype: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield inputs with gradients."""
    operator = OPERATORS[row.operator]
    saturates = operator.saturates or (-1.0, 1.0)
    yield comparison.special(dtype, saturates=saturates, largest=operator.largest)
    unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
    step = (2 ** (8 * unsigned.itemsize) - 1) // PATTERNS
    patterns = (np.arange(PATTERNS, dtype=np.uint64) * np.uint64(step)).astype(unsigned).view(dtype)
    patterns = patterns[np.abs(patterns) <= operator.largest]
    if row.semantics.flushes_subnormals:
        patterns = patterns[np.abs(patterns) >= comparison.LIMITS[dtype][0]]
    ends = 2 * max(map(abs, saturates))
    x = np.concatenate([patterns, np.linspace(-ends, ends, SATURATING).astype(dtype)])
    yield x, np.ones_like(x)
    yield x, np.random.default_rng(comparison.SEED).uniform(0.5, 2, x.size).astype(dtype)


def _in_own_process(framework: str, names: Iterable[str]) -> dict[str, Errors]:
    command = [sys.executable, "-m", "scripts.verify.accuracy", "--row-errors", "--framework", framework]
    completed = subprocess.run([*command, "--operator", *names], stdout=subprocess.PIPE, text=True)
    if completed.returncode:
        raise SystemExit(f"accuracy: {framework} failed; its message is above")
    return json.loads(completed.stdout)


def _options() -> argparse.Namespace:
    names = [name for name in OPERATORS if name != "relu"]
    frameworks = list(dict.fromkeys(row.framework for row in VARIANTS if row.device == "cpu"))
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.accuracy", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--framework", nargs="+", choices=frameworks, default=frameworks, help="(default: all)")
    parser.add_argument("--operator", nargs="+", choices=names, default=names, help="(default: all)")
    parser.add_argument("--row-errors", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
