"""The streaming loops of `loops` in Numba, without call overhead.

Each thread passes over its own slice many times within one call. This amortises the start of the threads, and small
slices stay in the cache of their core.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import get_num_threads, njit, prange, types
from numba.extending import intrinsic

from benchmarks.harness.roofline.loops import LOOPS

LINE_BYTES = 64
PAGE_BYTES = 4096
# float32 elements in a cache line, and in the vectors of non-temporal stores.
LANES = LINE_BYTES // 4
_INDEX = ir.IntType(32)
_LINE = ir.VectorType(ir.FloatType(), LANES)


@njit(cache=True)
def _slice(array, part, slices):  # type: ignore[no-untyped-def]
    """Return a slice of whole lines: no two threads write to one line, and slices are aligned like their array."""
    lines = array.size // LANES
    return array[lines * part // slices * LANES : lines * (part + 1) // slices * LANES]


@njit(cache=True)
def _sign(k):  # type: ignore[no-untyped-def]
    """Return 1 or -1. The alternation keeps the compiler from merging passes or calling memcpy."""
    return np.float32(1 - 2 * (k % 2))


@njit(parallel=True, cache=True)
def _fill(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a = _slice(out, part, slices)
        for k in range(passes):
            sign = _sign(k)
            for i in range(a.size):
                a[i] = sign


@njit(parallel=True, cache=True)
def _copy(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a, b = _slice(out, part, slices), _slice(x, part, slices)
        for k in range(passes):
            sign = _sign(k)
            for i in range(a.size):
                a[i] = b[i] * sign


@njit(parallel=True, cache=True)
def _triad(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a, b, c = _slice(out, part, slices), _slice(x, part, slices), _slice(y, part, slices)
        for k in range(passes):
            sign = _sign(k)
            for i in range(a.size):
                a[i] = b[i] + c[i] * sign


@njit(parallel=True, cache=True)
def _scale(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a = _slice(x, part, slices)
        for _ in range(passes):
            for i in range(a.size):
                a[i] *= np.float32(-1)


@njit(parallel=True, cache=True)
def _accumulate(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a, b = _slice(x, part, slices), _slice(y, part, slices)
        for k in range(passes):
            sign = _sign(k)
            for i in range(a.size):
                a[i] += b[i] * sign


def _streamed(value: Callable[..., Any]) -> Any:
    """Return an intrinsic (out, x, y, s, start) that stores `value` non-temporally into the line of `out` at `start`.

    value(builder, x, y, s): returns LLVM code for the line, from the same lines of x and y and from s in every lane.
    The arrays must be float32 and aligned to LINE_BYTES, and `start` a multiple of LANES. LLVM splits the line on a
    processor with narrower vectors, and uses an ordinary store on one without non-temporal stores. No fence is needed:
    on x86-64 only other threads could see these stores late, and the locked instructions that end a parallel region
    drain them first.
    """

    @intrinsic
    def store_line(typing_context, out, x, y, s, start):  # type: ignore[no-untyped-def]
        signature = types.void(out, x, y, s, start)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            *arrays, scalar, index = arguments
            to, *sources = [
                _line(builder, context.make_array(kind)(context, builder, array).data, index)
                for kind, array in zip(signature.args, arrays, strict=False)
            ]
            x_line, y_line = (builder.load(source, align=LINE_BYTES, typ=_LINE) for source in sources)
            store = builder.store(value(builder, x_line, y_line, _spread(builder, scalar)), to, align=LINE_BYTES)
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_INDEX, 1)]))
            return context.get_dummy_value()

        return signature, generate

    return store_line


def _line(builder: ir.IRBuilder, data: ir.Value, index: ir.Value) -> ir.Value:
    """Return a pointer to the line of an array that begins with element `index`."""
    return builder.bitcast(builder.gep(data, [index]), _LINE.as_pointer())


def _spread(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    """Return a vector with the scalar in every lane."""
    first = builder.insert_element(ir.Constant(_LINE, ir.Undefined), scalar, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_INDEX, LANES), 0))


_fill_line = _streamed(lambda builder, x, y, s: s)
_copy_line = _streamed(lambda builder, x, y, s: builder.fmul(x, s))
_triad_line = _streamed(lambda builder, x, y, s: builder.fadd(x, builder.fmul(y, s)))


@njit(parallel=True, cache=True)
def _fill_nt(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a = _slice(out, part, slices)
        for k in range(passes):
            sign = _sign(k)
            for i in range(0, a.size, LANES):
                _fill_line(a, a, a, sign, i)


@njit(parallel=True, cache=True)
def _copy_nt(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a, b = _slice(out, part, slices), _slice(x, part, slices)
        for k in range(passes):
            sign = _sign(k)
            for i in range(0, a.size, LANES):
                _copy_line(a, b, b, sign, i)


@njit(parallel=True, cache=True)
def _triad_nt(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a, b, c = _slice(out, part, slices), _slice(x, part, slices), _slice(y, part, slices)
        for k in range(passes):
            sign = _sign(k)
            for i in range(0, a.size, LANES):
                _triad_line(a, b, c, sign, i)


_COMPILED = {
    "fill": _fill,
    "copy": _copy,
    "triad": _triad,
    "scale": _scale,
    "accumulate": _accumulate,
    "fill-nt": _fill_nt,
    "copy-nt": _copy_nt,
    "triad-nt": _triad_nt,
}
# Values of out, x and y after an even or an odd number of passes over out = 0, x = 3, y = 2.
_AFTER = {
    "fill": {0: (-1, 3, 2), 1: (1, 3, 2)},
    "copy": {0: (-3, 3, 2), 1: (3, 3, 2)},
    "triad": {0: (1, 3, 2), 1: (5, 3, 2)},
    "scale": {0: (0, 3, 2), 1: (0, -3, 2)},
    "accumulate": {0: (0, 3, 2), 1: (0, 5, 2)},
}


def arrays(array_bytes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Allocate and touch out, x and y: float32, of `array_bytes` each, aligned to LINE_BYTES.

    They begin at different places of a page: a load waits for an earlier store to the same place of another page.

    Raises ValueError if `array_bytes` is not a multiple of LINE_BYTES.
    """
    if array_bytes % LINE_BYTES:
        raise ValueError(f"array_bytes: {array_bytes} given, a multiple of {LINE_BYTES} needed")
    return tuple(_placed(array_bytes // 4, value, position) for position, value in enumerate((0, 3, 2)))  # type: ignore[return-value]


def _placed(elements: int, value: float, position: int) -> np.ndarray:
    """An array that begins `position` thirds of a page after the start of a page, to whole lines."""
    spare = np.empty(elements + PAGE_BYTES // 2, np.float32)
    start_bytes = position * (PAGE_BYTES // 3 // LINE_BYTES * LINE_BYTES)
    first = (start_bytes - spare.ctypes.data) % PAGE_BYTES // 4
    array = spare[first : first + elements]
    array[:] = value
    return array


def run(name: str, streams: tuple[np.ndarray, np.ndarray, np.ndarray], passes: int) -> None:
    """Run `passes` passes of a loop of `loops.LOOPS`, such as "copy.all", over the result of `arrays`."""
    loop = LOOPS[name]
    slices = get_num_threads() if loop.threads == "all" else 1
    _COMPILED[loop.pattern.label](*streams, passes, slices)


def check(name: str, passes: int) -> None:
    """Raise RuntimeError if a loop omits work: compare the arrays with their values after the passes."""
    for count in (passes, passes + 1):
        # 63 lines: of thread counts up to 9, only 1, 3, 7 and 9 divide them evenly.
        streams = arrays(63 * LINE_BYTES)
        run(name, streams, count)
        for stream, expected in zip(streams, _AFTER[LOOPS[name].pattern.name][count % 2], strict=True):
            wrong = stream[stream != expected]
            if wrong.size:
                raise RuntimeError(f"roof {name}: {count} passes left {wrong[0]}, {expected} needed")
