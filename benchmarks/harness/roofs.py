"""What the memory of this machine can do: plain streaming loops in Numba, with the call overhead left out.

copy        out[i] = x[i]             reads 1, writes 1
add         out[i] = x[i] + y[i]      reads 2, writes 1
scale       x[i] *= s                 reads 1, writes 1, in place
accumulate  x[i] += y[i]              reads 2, writes 1, in place

Any single-pass ReLU has the traffic of one of these, or lies between two. Each thread keeps to
its own slice and passes over it many times within one call, so that starting threads costs
nothing and small slices stay in their core's cache. Stores are ordinary ones. Source: McCalpin,
"Memory bandwidth and machine balance in current high performance computers" (STREAM), 1995.
"""

import numpy as np
from numba import get_num_threads, njit, prange

# name: reads, writes, whether in place
KERNELS: dict[str, tuple[int, int, bool]] = {
    "copy": (1, 1, False),
    "add": (2, 1, False),
    "scale": (1, 1, True),
    "accumulate": (2, 1, True),
}
THREADS = ("one", "all")
VARIANTS = tuple(f"{kernel}.{threads}" for kernel in KERNELS for threads in THREADS)


@njit(parallel=True, cache=True)
def _copy(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a, b = _slice(out, part, slices), _slice(x, part, slices)
        for k in range(passes):
            # A changing sign keeps the compiler from doing the passes at once, or by memcpy.
            sign = np.float32(1 - 2 * (k % 2))
            for i in range(a.size):
                a[i] = b[i] * sign


@njit(parallel=True, cache=True)
def _add(out, x, y, passes, slices):  # type: ignore[no-untyped-def]
    for part in prange(slices):
        a, b, c = _slice(out, part, slices), _slice(x, part, slices), _slice(y, part, slices)
        for k in range(passes):
            sign = np.float32(1 - 2 * (k % 2))
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
            sign = np.float32(1 - 2 * (k % 2))
            for i in range(a.size):
                a[i] += b[i] * sign


@njit(cache=True)
def _slice(array, part, slices):  # type: ignore[no-untyped-def]
    return array[array.size * part // slices : array.size * (part + 1) // slices]


_COMPILED = {"copy": _copy, "add": _add, "scale": _scale, "accumulate": _accumulate}
# What out, x and y hold after an even or an odd number of passes over x = 1, y = 2, out = 0.
_AFTER = {
    "copy": {0: (-1, 1, 2), 1: (1, 1, 2)},
    "add": {0: (-1, 1, 2), 1: (3, 1, 2)},
    "scale": {0: (0, 1, 2), 1: (0, -1, 2)},
    "accumulate": {0: (0, 1, 2), 1: (0, 3, 2)},
}


def arrays(array_bytes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """out, x and y, float32, of `array_bytes` each, touched."""
    elements = array_bytes // 4
    return np.zeros(elements, np.float32), np.ones(elements, np.float32), np.full(elements, 2, np.float32)


def run(variant: str, streams: tuple[np.ndarray, np.ndarray, np.ndarray], passes: int) -> None:
    """Pass `passes` times over the streams with a kernel and thread count, as in "copy.all"."""
    kernel, threads = variant.split(".")
    _COMPILED[kernel](*streams, passes, get_num_threads() if threads == "all" else 1)


def check(variant: str, passes: int) -> None:
    """Raise RuntimeError where a kernel leaves out work: what it leaves in memory must be what the passes make."""
    kernel = variant.split(".")[0]
    for count in (passes, passes + 1):
        streams = arrays(4 * 1003)
        run(variant, streams, count)
        for stream, wanted in zip(streams, _AFTER[kernel][count % 2], strict=True):
            if not (stream == wanted).all():
                raise RuntimeError(f"roof {variant}: {count} passes left {stream[0]}, {wanted} needed")
