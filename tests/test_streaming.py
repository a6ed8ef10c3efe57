"""Test the stores of ReLU in Numba on the CPU: non-temporal ones, and those in place.

`test_implementations.py` and `test_bad_input.py` also call these rows, with results that count as large.
"""

import platform
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit

from impls import caches
from impls.relu import numba_cpu, numba_streaming

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the instructions are those of x86-64")
ROOT = Path(__file__).resolve().parents[1]
GUARD = -7.0
LANES = numba_streaming.LINE_BYTES // 4
BLOCK = numba_streaming.BLOCK_BYTES // 4

Arrays = tuple[np.ndarray, ...]


def arguments(function: str, x: np.ndarray, grad: np.ndarray) -> Arrays:
    """The arguments of a function but for `out`."""
    saved = {"backward_out": (x,), "backward_bits_out": (np.packbits(x > 0, bitorder="little"),)}.get(function)
    return (x,) if saved is None else (grad, *saved)


def expected(function: str, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    return np.where((x > 0) | np.isnan(x), x, 0) if function == "forward_out" else np.where(x > 0, grad, 0)


FUNCTIONS = ("forward_out", "backward_out", "backward_bits_out")
every_function = pytest.mark.parametrize("function", FUNCTIONS)


def values(elements: int, dtype: str) -> Arrays:
    x, grad = np.random.default_rng(elements).standard_normal((2, elements)).astype(dtype)
    x[::5], grad[::7] = np.nan, np.inf
    return x, grad


@pytest.mark.usefixtures("large_results")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_function
def test_every_alignment_of_inputs_and_result(function: str, dtype: str) -> None:
    """The whole lines, the elements around them and nothing else are written, whatever arrays begin and end at."""
    lengths = (0, 1, LANES - 1, LANES, 2 * LANES + 1, numba_streaming.SPARE + 2 * LANES, BLOCK + 3 * LANES + 5)
    for length, start in product(lengths, range(LANES + 1)):
        x, grad = (np.concatenate([np.zeros(1, dtype), array])[1:] for array in values(length, dtype))
        whole = np.full(length + 2 * LANES + 1, GUARD, dtype)
        out = whole[start : start + length]
        getattr(numba_streaming, function)(*arguments(function, x, grad), out)
        np.testing.assert_array_equal(out, expected(function, x, grad))
        assert (whole[:start] == GUARD).all()
        assert (whole[start + length :] == GUARD).all()


@on_x86
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("function", "comparison"),
    [
        ("forward_out", r"\bv?cmp\w*p[sd]\b"),
        ("backward_out", r"\bv?cmp\w*p[sd]\b"),
        # Bits are compared, or moved to a mask register.
        ("backward_bits_out", r"\bv?pcmpeq[wdq]\b|\bkmov[bwd]\b"),
    ],
)
def test_lines_are_selected_by_vectors_and_stored_non_temporally(function: str, comparison: str, dtype: str) -> None:
    x, grad = values(100, dtype)
    kernel = getattr(numba_streaming, f"_{function.removesuffix('_out')}")
    compiled = njit(parallel=True)(kernel.py_func)
    compiled(*arguments(function, x, grad), np.empty_like(x))
    (assembly,) = compiled.inspect_asm().values()
    stores = re.findall(r"\bv?movnt(?:ps|pd|dq)\b", assembly)
    assert stores
    assert len(re.findall(comparison, assembly)) >= len(stores)
    assert "sfence" in assembly


@on_x86
@pytest.mark.parametrize("name", ["_forward_inplace", "_backward_inplace"])
def test_in_place_no_store_is_masked(name: str) -> None:
    """AMD's processors split masked stores of AVX into many operations."""
    compiled = njit(getattr(numba_cpu, name).py_func)
    compiled(*values(100, "float32")[: compiled.py_func.__code__.co_argcount])
    (assembly,) = compiled.inspect_asm().values()
    assert re.search(r"\bv?(max|and|cmp\w*)ps\b", assembly)
    assert not re.search(r"maskmov\w+\s+%\w+, %\w+, \S*\(", assembly)


@every_function
def test_small_results_are_left_to_ordinary_stores(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = function.replace("_out", "_threads_out")
    sizes = []

    def call(*arrays: Any) -> np.ndarray:
        sizes.append(arrays[-1].size)
        return arrays[-1]

    monkeypatch.setattr(numba_streaming, "LEAST_BYTES", 4 * 1000)
    monkeypatch.setattr(numba_cpu, ordinary, call)
    for elements in (999, 1000):
        x, grad = values(elements, "float32")
        getattr(numba_streaming, function)(*arguments(function, x, grad), np.empty_like(x))
    assert sizes == [999]


@pytest.mark.usefixtures("large_results")
@every_function
def test_a_result_between_elements_is_right(function: str) -> None:
    """Its elements never begin at a line."""
    x, grad = values(200, "float32")
    out = np.zeros(4 * 200 + 1, np.uint8)[1:].view(np.float32)
    getattr(numba_streaming, function)(*arguments(function, x, grad), out)
    np.testing.assert_array_equal(out, expected(function, x, grad))


@pytest.mark.usefixtures("large_results")
@every_function
def test_inputs_between_elements_are_right(function: str) -> None:
    x, grad = values(200, "float32")
    between = [np.concatenate([np.zeros(1, np.uint8), array.view(np.uint8)])[1:] for array in (x, grad)]
    arrays = arguments(function, *(array.view(np.float32) for array in between))
    np.testing.assert_array_equal(
        getattr(numba_streaming, function)(*arrays, np.empty_like(x)), expected(function, x, grad)
    )


@pytest.mark.usefixtures("large_results")
def test_bits_of_another_layout_and_a_bool_mask_are_refused() -> None:
    x, grad = values(200, "float32")
    bits, out = np.packbits(x > 0, bitorder="little"), np.full(200, GUARD, np.float32)
    with pytest.raises(ValueError, match="saved: strides"):
        numba_streaming.backward_bits_out(grad, np.repeat(bits, 2)[::2], out)
    with pytest.raises(TypeError, match="saved: dtype bool given, float32 needed"):
        numba_streaming.backward_out(grad, x > 0, out)
    assert (out == GUARD).all()


def cache(folder: Path, core: int, index: int, level: int, size: str, shared: str) -> None:
    path = folder / f"cpu{core}" / "cache" / f"index{index}"
    path.mkdir(parents=True)
    for name, text in (("level", str(level)), ("size", size), ("shared_cpu_list", shared)):
        (path / name).write_text(f"{text}\n")


def test_last_level_caches_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches.os, "sched_getaffinity", lambda _: {0, 1, 2})
    for core, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        cache(tmp_path, core, 0, 1, "32K", str(core))
        cache(tmp_path, core, 1, 3, "8192K", shared)
    assert caches.last_level_bytes(tmp_path) == 2 * 8192 * 1024


def test_caches_that_linux_does_not_report_have_a_usual_size(tmp_path: Path) -> None:
    assert caches.last_level_bytes(tmp_path) == caches.UNREPORTED_BYTES


BESIDE_AN_UNREADABLE_PAGE = """
import ctypes, mmap
import numpy as np
from impls.relu import numba_streaming

numba_streaming.LEAST_BYTES = 0
memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
pages = np.frombuffer(memory, np.uint8)
assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(pages.ctypes.data + mmap.PAGESIZE), mmap.PAGESIZE, 0)
for elements in range(1, 200):
    grad, out = np.ones((2, elements), np.float32)
    bits = pages[mmap.PAGESIZE - -(-elements // 8) : mmap.PAGESIZE]
    numba_streaming.backward_bits_out(grad, bits, out)
    assert (out == 0).all()
"""


def test_no_bits_beyond_the_last_are_read() -> None:
    completed = subprocess.run([sys.executable, "-c", BESIDE_AN_UNREADABLE_PAGE], cwd=ROOT, capture_output=True)
    assert completed.returncode == 0, completed.stderr.decode()
