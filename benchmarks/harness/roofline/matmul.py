"""Operands and check of the matrix product that measures this machine's arithmetic."""

import numpy as np

from benchmarks.harness.truth import comparison

CHECKED_ROWS = 8


def matrices(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two n x n float32 matrices, the same in every call."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, n), np.float32), rng.standard_normal((n, n), np.float32)


def check(product: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Raise WrongResult unless some rows of `product`, first and last among them, are those of a @ b in float32.

    An element may be off by sqrt(n) eps times the sum of the absolute values of its terms. Float32 sums in any order
    meet this bound; products of fewer bits do not. Source: Higham and Mary, "A new approach to
    probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019.
    """
    n = len(a)
    rows = np.unique(np.linspace(0, n - 1, CHECKED_ROWS).astype(int))
    left, right = a[rows].astype(np.float64), b.astype(np.float64)
    error = np.abs(product[rows] - left @ right)
    allowed = np.sqrt(n) * np.finfo(np.float32).eps * (np.abs(left) @ np.abs(right))
    # NaN fails this comparison.
    wrong = ~(error <= allowed)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise comparison.WrongResult(
            f"product of {n} x {n}: element ({rows[row]}, {column}) is off by {error[row, column]:.3g}, "
            f"{allowed[row, column]:.3g} allowed; {wrong.sum()} of {wrong.size} elements are wrong"
        )
