"""Test that memory of results is used again only once no view of it is left, and that it is counted and bounded."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from impls.arena import Arena

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def arena() -> Arena:
    return Arena(most_kept=4)


def like(elements: int) -> np.ndarray:
    return np.zeros(elements, np.float32)


def test_results_have_the_shape_and_dtype_of_the_argument(arena):
    for x in (np.zeros((3, 5)), np.zeros((3, 5), np.float16).T, np.zeros(()), np.zeros((0, 2), np.float32)):
        y = arena.empty_like(x)
        assert (y.shape, y.dtype, y.flags.c_contiguous, y.flags.writeable) == (x.shape, x.dtype, True, True)


def test_memory_is_used_again_after_the_last_view(arena):
    result = arena.empty_like(like(1000))
    address, view = result.ctypes.data, result[100:200][::2]
    view[:] = 5
    del result
    others = [arena.empty_like(like(1000)) for _ in range(3)]
    for other in others:
        assert not np.shares_memory(other, view)
        other[:] = 1
    assert (view == 5).all()
    del view
    others += [arena.empty_like(like(1000)) for _ in range(2)]
    addresses = [array.ctypes.data for array in others]
    assert addresses.index(address) == 3
    assert len(set(addresses)) == len(others)


def test_other_sizes_get_other_memory(arena):
    address = arena.empty_like(like(1000)).ctypes.data
    assert arena.empty_like(like(999)).ctypes.data != address
    assert arena.empty_like(np.zeros(500)).ctypes.data == address


def test_little_is_kept(arena):
    for elements in range(1000, 1010):
        results = [arena.empty_like(like(elements)) for _ in range(3)]
        del results
    assert list(arena.kept) == [4 * elements for elements in range(1006, 1010)]


def test_tracemalloc_counts_results_and_not_what_is_kept(arena):
    x = like(2**20)
    arena.empty_like(x)
    tracemalloc.start()
    try:
        for _ in range(2):
            before, _ = tracemalloc.get_traced_memory()
            result = arena.empty_like(x)
            during, _ = tracemalloc.get_traced_memory()
            del result
            after, _ = tracemalloc.get_traced_memory()
            # Some objects of Python's own.
            assert 0 <= during - before - x.nbytes < 4096
            assert abs(after - before) < 4096
    finally:
        tracemalloc.stop()


# Python empties modules that were imported later first.
OUTLIVING = """
import numpy
import impls.arena
numpy.module, numpy.result = impls.arena, impls.arena.Arena().empty_like(numpy.ones(9))
"""


def test_a_result_may_outlive_the_module():
    process = subprocess.run([sys.executable, "-c", OUTLIVING], cwd=ROOT, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
