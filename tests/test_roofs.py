"""Test the roofs: loops and their results, non-temporal stores, matrix products, and the comparison with C."""

import platform
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from numba import get_num_threads, njit

from benchmarks.harness.case import LoopCase, ProductCase, Settings
from benchmarks.harness.measurement import MEASURED
from benchmarks.harness.processes import plan
from benchmarks.harness.processes.blocks import LIBRARIES
from benchmarks.harness.roofline import loops, matmul, streaming
from benchmarks.harness.roofline.loops import LOOPS, PATTERNS
from benchmarks.harness.truth import comparison
from scripts.verify import stream

QUICK = Settings(budget_s=0.02, limit_s=600, threads=1, passes=1)
N = 21 * streaming.LANES
needs_c = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler: 'cc' is not on the PATH")


def random_streams(n: int = N) -> tuple[np.ndarray, ...]:
    """Return out, x and y, aligned, with distinct random values."""
    streams = streaming.arrays(4 * n)
    for seed, array in enumerate(streams):
        array[:] = np.random.default_rng(seed).standard_normal(n, np.float32)
    return streams


@pytest.mark.parametrize("slices", [1, 2, 5, 30])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_pass_computes_its_kernel(name, slices):
    """This includes more slices than cache lines."""
    out, x, y = random_streams()
    expected = {
        "fill": (np.ones_like(x), x, y),
        "copy": (x, x, y),
        "triad": (x + y, x, y),
        "scale": (out, -x, y),
        "accumulate": (out, x + y, y),
    }[PATTERNS[name].name]
    expected = [array.copy() for array in expected]
    streaming._COMPILED[name](out, x, y, 1, slices)
    for array, values in zip((out, x, y), expected, strict=True):
        np.testing.assert_array_equal(array, values)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the instructions are those of x86-64")
@pytest.mark.parametrize("name", PATTERNS)
def test_non_temporal_stores_are_only_in_kernels_named_nt(name):
    compiled = njit(parallel=True)(streaming._COMPILED[name].py_func)
    compiled(*streaming.arrays(4 * N), 1, 1)
    (assembly,) = compiled.inspect_asm().values()
    assert bool(re.search(r"\bv?movntps\b", assembly)) == PATTERNS[name].nontemporal


def test_loops_of_one_size_are_measured_in_one_block():
    cases = [LoopCase("time", variant, 2**16) for variant in LOOPS]
    measurements = plan.measured(cases, QUICK)
    assert {measurement.status for measurement in measurements.values()} <= set(MEASURED), measurements
    assert all(measurement.number > 1 for measurement in measurements.values())
    rounds = {tuple(taken.round for taken in found.processes[0].slices) for found in measurements.values()}
    assert len(rounds) == 1


def test_arrays_of_a_loop_begin_at_different_places_of_a_page():
    """A load waits for an earlier store to the same place of another page."""
    starts = [array.ctypes.data % streaming.PAGE_BYTES for array in streaming.arrays(2**16)]
    assert len(set(starts)) == 3


@pytest.mark.parametrize(
    "left_out",
    [
        lambda kernel, streams, passes: None,
        lambda kernel, streams, passes: kernel(*streams, passes - 1, 1),
        lambda kernel, streams, passes: kernel(*(array[: -streaming.LANES] for array in streams), passes, 1),
    ],
    ids=["everything", "a pass", "the last line"],
)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_roof_that_skips_work_is_refused(monkeypatch, name, left_out):
    kernel = streaming._COMPILED[name]
    streaming.check(f"{name}.one", passes=3)
    monkeypatch.setitem(
        streaming._COMPILED, name, lambda out, x, y, passes, slices: left_out(kernel, (out, x, y), passes)
    )
    with pytest.raises(RuntimeError, match=rf"roof {name}\.one"):
        streaming.check(f"{name}.one", passes=3)


@pytest.mark.parametrize(("variant", "slices"), [("copy.one", 1), ("copy-nt.all", get_num_threads())])
def test_each_thread_has_a_slice(monkeypatch, variant, slices):
    used_slices = []
    monkeypatch.setitem(
        streaming._COMPILED, LOOPS[variant].pattern.label, lambda *arguments: used_slices.append(arguments[-1])
    )
    streaming.run(variant, streaming.arrays(4 * N), 2)
    assert used_slices == [slices]


@pytest.mark.parametrize("lines", [1, 2, 21, 1024])
def test_arrays_and_slices_are_aligned_to_cache_lines_and_complete(lines):
    for array in streaming.arrays(lines * streaming.LINE_BYTES):
        assert (array.dtype, array.size) == (np.float32, lines * streaming.LANES)
        for slices in (1, 2, 3, 8):
            parts = [streaming._slice(array, part, slices) for part in range(slices)]
            assert sum(part.size for part in parts) == array.size
            assert all(part.ctypes.data % streaming.LINE_BYTES == 0 for part in parts if part.size)


@pytest.mark.parametrize("array_bytes", [4, 65])
def test_array_sizes_that_are_no_multiple_of_a_cache_line_are_refused(array_bytes):
    with pytest.raises(ValueError, match=f"array_bytes: {array_bytes} given, a multiple of 64 needed"):
        streaming.arrays(array_bytes)


def test_each_kernel_has_a_loop_and_an_expected_result():
    assert set(streaming._COMPILED) == set(PATTERNS)
    assert set(streaming._AFTER) == set(loops.ORDINARY)
    for name, pattern in PATTERNS.items():
        assert pattern.label == name
        assert replace(pattern, nontemporal=False) == loops.ORDINARY[pattern.name]


def test_bytes_of_a_pass_equal_those_of_stream():
    """McCalpin's STREAM, 8-byte elements: copy and scale move 16 bytes per iteration, add and triad 24."""
    assert {name: PATTERNS[ours].pass_bytes(8) for name, ours in stream.LIKE.items()} == {
        "copy": 16, "scale": 16, "add": 24, "triad": 24,
        "fill": 8, "scale-in-place": 16, "accumulate": 24, "fill-nt": 8, "copy-nt": 16, "triad-nt": 24,
    }  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES)
def test_products_are_checked_and_timed(library):
    case = ProductCase("time", library, 64)
    measurement = plan.measured([case], QUICK)[case]
    assert measurement.status in MEASURED, measurement
    (process,) = measurement.processes
    assert process.threads == QUICK.threads
    assert set(measurement.samples_s) <= {min(taken.samples_s) for taken in process.slices}
    assert measurement.value == np.median(measurement.samples_s) > 0


def test_unknown_library_of_a_product_is_named():
    case = ProductCase("time", "abacus", 64)
    measurement = plan.measured([case], QUICK)[case]
    assert measurement.status == "error"
    assert "abacus" in measurement.reason


def bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def in_reverse_order(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, ::-1] @ b[::-1]


@pytest.mark.parametrize("n", [1, 3, 512])
@pytest.mark.parametrize("product", [np.matmul, in_reverse_order])
def test_products_in_float32_are_accepted(n, product):
    a, b = matmul.matrices(n)
    matmul.check(product(a, b), a, b)


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
def test_wrong_products_are_refused(product):
    a, b = matmul.matrices(512)
    with pytest.raises(comparison.WrongResult, match=r"product of 512 x 512: element \(\d+, \d+\) is off by"):
        matmul.check(product(a, b), a, b)


@needs_c
def test_stream_compiles_and_times_every_loop(tmp_path):
    program = stream.compiled("cc", tmp_path)
    seconds = stream.theirs_s(program, 1, 2**20, passes=2)
    assert set(stream.LIKE) - {"fill-nt", "copy-nt", "triad-nt"} <= set(seconds) <= set(stream.LIKE)
    assert all(value > 0 for value in seconds.values())


@needs_c
def test_a_compile_error_shows_the_compiler_output(tmp_path, monkeypatch):
    broken = tmp_path / "broken.c"
    broken.write_text("int main(void) { return missing; }")
    monkeypatch.setattr(stream, "SOURCE", broken)
    with pytest.raises(SystemExit, match=r"cannot compile broken\.c[\s\S]*missing"):
        stream.compiled("cc", tmp_path)


def test_stream_is_skipped_without_a_compiler(monkeypatch, capsys):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert stream.main([]) == 0
    assert "no C compiler, 'no-such-compiler' is not on the PATH" in capsys.readouterr().out


@pytest.mark.parametrize(("memcpy", "ours", "gb_per_s"), [(False, "copy", 1.0), (True, "copy-nt", 2.0)])
def test_a_copy_by_memcpy_is_compared_with_the_faster_copy_loop(memcpy, ours, gb_per_s):
    (comparison,) = stream.compare({"copy": 1.0}, {"copy": 2.0, "copy-nt": 1.0}, 10**9, memcpy)
    assert comparison == stream.Comparison("copy", ours, 2.0, gb_per_s)


@pytest.mark.parametrize(("slower", "failed"), [(1.0, 0), (1.09, 0), (0.92, 0), (1.2, 1), (0.85, 1)])
def test_stream_fails_beyond_the_limit(monkeypatch, capsys, slower, failed):
    """The limit holds in both directions: C may be neither much slower nor much faster than a roof."""
    names = list(stream.LIKE)
    monkeypatch.setenv("CC", "true")
    monkeypatch.setattr(stream, "compiled", lambda compiler, folder: stream.Program(folder, True, memcpy=False))
    monkeypatch.setattr(stream, "theirs_s", lambda *_: dict.fromkeys(names, 1.0))
    monkeypatch.setattr(stream, "ours_s", lambda *_: dict.fromkeys(PATTERNS, 1.0) | {"triad": slower})
    assert stream.main(["--rounds", "1"]) == failed
    printed = capsys.readouterr().out
    assert f"{1 / slower:.3f}" in printed
    assert "beyond 10 %" in printed
