"""The roofs: loops that do their work, stores that are what their names say, and products."""

import platform
import re
from dataclasses import replace

import numpy as np
import pytest
from numba import get_num_threads, njit

from benchmarks.harness import gemm, isolation, kernels, roofs, truth
from benchmarks.harness.case import Case, Settings
from benchmarks.harness.kernels import KERNELS
from benchmarks.roofs import LIBRARIES

QUICK = Settings(budget_s=0.02, limit_s=60, threads=1)
N = 21 * roofs.LANES


def random_streams(n: int = N) -> tuple[np.ndarray, ...]:
    """out, x and y, aligned, with values that tell their places."""
    streams = roofs.arrays(4 * n)
    for seed, array in enumerate(streams):
        array[:] = np.random.default_rng(seed).standard_normal(n, np.float32)
    return streams


@pytest.mark.parametrize("slices", [1, 2, 5, 30])
@pytest.mark.parametrize("name", KERNELS)
def test_a_pass_computes_what_its_kernel_says(name, slices):
    """With more slices than lines, too."""
    out, x, y = random_streams()
    wanted = {
        "fill": (np.ones_like(x), x, y),
        "copy": (x, x, y),
        "triad": (x + y, x, y),
        "scale": (out, -x, y),
        "accumulate": (out, x + y, y),
    }[kernels.ordinary(name)]
    wanted = [array.copy() for array in wanted]
    roofs._COMPILED[name](out, x, y, 1, slices)
    for array, values in zip((out, x, y), wanted, strict=True):
        np.testing.assert_array_equal(array, values)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the instructions are those of x86-64")
@pytest.mark.parametrize("name", KERNELS)
def test_streaming_stores_are_in_the_kernels_that_are_named_for_them(name):
    compiled = njit(parallel=True)(roofs._COMPILED[name].py_func)
    compiled(*roofs.arrays(4 * N), 1, 1)
    (assembly,) = compiled.inspect_asm().values()
    assert bool(re.search(r"\bv?movntps\b", assembly)) == KERNELS[name].streaming


def test_all_roofs_answer_in_one_process():
    cases = [Case("time", "roof", variant, 2**16, "float32") for variant in kernels.VARIANTS]
    found = isolation.run(cases, QUICK)
    assert [outcome.status for outcome in found] == ["ok"] * len(cases), found
    assert all(outcome.number > 1 for outcome in found)


@pytest.mark.parametrize(
    "left_out",
    [
        lambda kernel, streams, passes: None,
        lambda kernel, streams, passes: kernel(*streams, passes - 1, 1),
        lambda kernel, streams, passes: kernel(*(array[: -roofs.LANES] for array in streams), passes, 1),
    ],
    ids=["everything", "a pass", "the last line"],
)
@pytest.mark.parametrize("name", KERNELS)
def test_a_roof_that_leaves_out_work_is_refused(monkeypatch, name, left_out):
    kernel = roofs._COMPILED[name]
    roofs.check(f"{name}.one", passes=3)
    monkeypatch.setitem(roofs._COMPILED, name, lambda out, x, y, passes, slices: left_out(kernel, (out, x, y), passes))
    with pytest.raises(RuntimeError, match=rf"roof {name}\.one"):
        roofs.check(f"{name}.one", passes=3)


@pytest.mark.parametrize(("variant", "slices"), [("copy.one", 1), ("copy-nt.all", get_num_threads())])
def test_a_slice_for_each_thread(monkeypatch, variant, slices):
    taken = []
    monkeypatch.setitem(roofs._COMPILED, kernels.kernel_of(variant), lambda *arguments: taken.append(arguments[-1]))
    roofs.run(variant, roofs.arrays(4 * N), 2)
    assert taken == [slices]


@pytest.mark.parametrize("lines", [1, 2, 21, 1024])
def test_arrays_and_their_slices_begin_with_a_line_and_cover_everything(lines):
    for array in roofs.arrays(lines * roofs.LINE_BYTES):
        assert (array.dtype, array.size) == (np.float32, lines * roofs.LANES)
        for slices in (1, 2, 3, 8):
            parts = [roofs._slice(array, part, slices) for part in range(slices)]
            assert sum(part.size for part in parts) == array.size
            assert all(part.ctypes.data % roofs.LINE_BYTES == 0 for part in parts if part.size)


@pytest.mark.parametrize("array_bytes", [4, 65])
def test_arrays_of_parts_of_lines_are_refused(array_bytes):
    with pytest.raises(ValueError, match=f"array_bytes: {array_bytes} given, a multiple of 64 needed"):
        roofs.arrays(array_bytes)


def test_each_kernel_has_a_loop_and_what_it_leaves():
    assert set(roofs._COMPILED) == set(KERNELS)
    assert set(roofs._AFTER) == set(kernels.ORDINARY)
    for name, kernel in KERNELS.items():
        assert replace(kernel, streaming=False) == kernels.ORDINARY[kernels.ordinary(f"{name}.all")]


@pytest.mark.parametrize("library", LIBRARIES)
def test_products_are_checked_and_timed(library):
    (outcome,) = isolation.run([Case("time", "gemm", library, 64, "float32")], QUICK)
    assert outcome.status == "ok", outcome
    assert outcome.value == min(outcome.samples_s) > 0


def test_product_of_a_library_that_is_not_there_is_named():
    (outcome,) = isolation.run([Case("time", "gemm", "abacus", 64, "float32")], QUICK)
    assert outcome.status == "error"
    assert "abacus" in outcome.reason


def bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def in_another_order(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, ::-1] @ b[::-1]


@pytest.mark.parametrize("n", [1, 3, 512])
@pytest.mark.parametrize("product", [np.matmul, in_another_order])
def test_products_in_float32_are_right(n, product):
    a, b = gemm.matrices(n)
    gemm.check(product(a, b), a, b)


@pytest.mark.parametrize(
    "product",
    [
        lambda a, b: b @ a,
        lambda a, b: bfloat16(a) @ bfloat16(b),
        lambda a, b: np.full_like(a, np.nan),
        lambda a, b: np.concatenate([(a @ b)[:-1], np.zeros_like(a[:1])]),
    ],
    ids=["the other way round", "half the bits", "nan", "without the last row"],
)
def test_other_products_are_wrong(product):
    a, b = gemm.matrices(512)
    with pytest.raises(truth.WrongResult, match=r"product of 512 x 512: element \(\d+, \d+\) is off by"):
        gemm.check(product(a, b), a, b)
