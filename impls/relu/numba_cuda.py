"""ReLU in Numba on CUDA, without fast-math: NaN and infinities follow the definition.

forward_out, _inplace         each thread issues four 16-byte loads before it uses the first
backward_out, _inplace        the same with a gradient; `saved` is the input or the output
backward_bits_out, _inplace   from packed bits, read as bytes that neighbouring threads share
roundtrip_inplace             forward and backward as a pair, both in place
roundtrip_bits_inplace        the same with packed bits, which it allocates: a thread packs eight elements into a byte

A block processes tiles of `THREADS * VECTORS` vectors of 16 bytes. Elements after the last whole tile, and arrays not
aligned to 16 bytes, are processed one element at a time. The grid has as many blocks as the device can hold at once;
blocks stride over the tiles. Indices have 64 bits, so any length works.

Arrays are C-contiguous device arrays of floats. Those of 16 bits (bfloat16 is that of `ml_dtypes`) are processed as
integers: ReLU needs their sign, and to tell NaN. Numba copies bfloat16 to the device as bits only:
`cuda.to_device(x.view("uint16")).view(x.dtype)`. Host arrays are refused, because Numba would silently copy them to the
device and back. There are no fresh forms: Numba allocates with `cudaMalloc`, which synchronises the device.
Calls return before the device has finished, as is usual on CUDA.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, from_dtype

from impls import cuda_kernels, cuda_vectors
from impls.relu import checks

Array = Any
Backward = Callable[[Array], Array]

DTYPES = ("float16", "bfloat16", "float32", "float64")
# Bits of infinity in dtypes of 16 bits; those of NaN are above it. The sign is the highest bit.
INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80}
SIGN = 0x8000
THREADS = 256
# 64 bytes in flight per thread, 64 KiB per multiprocessor; 8 TB/s at a latency of 0.8 us need 43 KiB (Little's law).
VECTORS = 4
# Blocks on each multiprocessor; this leaves 64 registers per thread.
BLOCKS_EACH = 4
# Kernels as they are launched, by kernel.
_SPECIALISED: dict[Any, Any] = {}


class Kernels(NamedTuple):
    """The kernels for one dtype. Their arguments are flat arrays and the number of whole tiles in each."""

    forward: Any
    backward: Any
    backward_bits: Any
    forward_bits: Any


def processed(dtype: str) -> str:
    """Return the dtype of the arrays that kernels for a dtype get."""
    return "uint16" if dtype in INFINITY else dtype


def tile_elements(dtype: str, threads: int | None = None) -> int:
    """Return the number of elements of a tile. threads: of a block, THREADS by default."""
    return (threads or THREADS) * VECTORS * cuda_vectors.lanes(processed(dtype))


def _signs(dtype: str) -> tuple[Any, Any]:
    """Return two device functions: is a value 0 or less, and is it above 0? NaN is neither.

    Of 16 bits, +0 is neither, too: forward kernels return it as it is.
    """
    if dtype not in INFINITY:
        zero = np.dtype(dtype).type(0)
        return cuda.jit(device=True)(lambda value: value <= zero), cuda.jit(device=True)(lambda value: value > zero)
    infinity = INFINITY[dtype]
    return (
        cuda.jit(device=True)(lambda value: SIGN <= value <= SIGN | infinity),
        cuda.jit(device=True)(lambda value: 0 < value <= infinity),
    )


@cache
def kernels(dtype: str) -> Kernels:
    """Return the kernels for arrays of a dtype. They are compiled at their first call."""
    is_blocked, is_positive = _signs(dtype)
    tile, dtype = tile_elements(dtype), processed(dtype)
    lanes, element = cuda_vectors.lanes(dtype), from_dtype(np.dtype(dtype))
    # Elements of a tile that a thread processes, and their bytes of packed bits.
    held = VECTORS * lanes
    groups = held // 8
    # A literal 0 is an integer, which would promote the selection to float64.
    zero = np.dtype(dtype).type(0)

    @cuda_kernels.kernel
    def forward(x, out, tiles):
        values = cuda.local.array(held, element)
        for tile_number in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
            first = tile_number * VECTORS * THREADS + cuda.threadIdx.x
            for k in range(VECTORS):
                cuda_vectors.load(values, k, x, first + k * THREADS)
            for k in range(held):
                values[k] = zero if is_blocked(values[k]) else values[k]
            for k in range(VECTORS):
                cuda_vectors.store(out, first + k * THREADS, values, k)
        for i in range(tiles * tile + cuda.grid(1), x.size, cuda.gridsize(1)):
            value = x[i]
            out[i] = zero if is_blocked(value) else value

    @cuda_kernels.kernel
    def backward(grad, saved, out, tiles):
        values, kept = cuda.local.array(held, element), cuda.local.array(held, element)
        for tile_number in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
            first = tile_number * VECTORS * THREADS + cuda.threadIdx.x
            for k in range(VECTORS):
                cuda_vectors.load(values, k, grad, first + k * THREADS)
                cuda_vectors.load(kept, k, saved, first + k * THREADS)
            for k in range(held):
                values[k] = values[k] if is_positive(kept[k]) else zero
            for k in range(VECTORS):
                cuda_vectors.store(out, first + k * THREADS, values, k)
        for i in range(tiles * tile + cuda.grid(1), grad.size, cuda.gridsize(1)):
            out[i] = grad[i] if is_positive(saved[i]) else zero

    @cuda_kernels.kernel
    def backward_bits(grad, saved, out, tiles):
        values = cuda.local.array(held, element)
        for tile_number in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
            first = tile_number * VECTORS * THREADS + cuda.threadIdx.x
            for k in range(VECTORS):
                cuda_vectors.load(values, k, grad, first + k * THREADS)
            for k in range(VECTORS):
                start = (first + k * THREADS) * lanes
                bits = saved[start // 8] >> (start % 8)
                for lane in range(lanes):
                    values[k * lanes + lane] = values[k * lanes + lane] if bits >> lane & 1 else zero
            for k in range(VECTORS):
                cuda_vectors.store(out, first + k * THREADS, values, k)
        for i in range(tiles * tile + cuda.grid(1), grad.size, cuda.gridsize(1)):
            out[i] = grad[i] if saved[i // 8] >> (i % 8) & 1 else zero

    @cuda_kernels.kernel
    def forward_bits(x, bits, out, tiles):
        # A thread processes all eight elements of a byte, because two threads must not write one byte.
        values, wide = cuda.local.array(held, element), 8 // lanes
        for tile_number in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
            first = tile_number * groups * THREADS + cuda.threadIdx.x
            for group in range(groups):
                for k in range(wide):
                    cuda_vectors.load(values, group * wide + k, x, (first + group * THREADS) * wide + k)
            for group in range(groups):
                kept = 0
                for k in range(8):
                    value = values[group * 8 + k]
                    kept |= (1 if is_positive(value) else 0) << k
                    values[group * 8 + k] = zero if is_blocked(value) else value
                bits[first + group * THREADS] = kept
            for group in range(groups):
                for k in range(wide):
                    cuda_vectors.store(out, (first + group * THREADS) * wide + k, values, group * wide + k)
        for byte in range(tiles * (tile // 8) + cuda.grid(1), bits.size, cuda.gridsize(1)):
            kept = 0
            for i in range(8 * byte, min(8 * byte + 8, x.size)):
                value = x[i]
                kept |= (1 if is_positive(value) else 0) << (i - 8 * byte)
                out[i] = zero if is_blocked(value) else value
            bits[byte] = kept

    return Kernels(forward, backward, backward_bits, forward_bits)


def forward_out(x: Array, out: Array) -> Array:
    aligned = require(x=x, out=out)
    return launch(kernels(str(x.dtype)).forward, aligned, x, out)


def forward_inplace(x: Array) -> Array:
    aligned = require(x=x)
    return launch(kernels(str(x.dtype)).forward, aligned, x, x)


def backward_out(grad: Array, saved: Array, out: Array) -> Array:
    aligned = require(grad=grad, saved=saved, out=out)
    return launch(kernels(str(grad.dtype)).backward, aligned, grad, saved, out)


def backward_inplace(grad: Array, saved: Array) -> Array:
    aligned = require(grad=grad, saved=saved)
    return launch(kernels(str(grad.dtype)).backward, aligned, grad, saved, grad)


def backward_bits_out(grad: Array, saved: Array, out: Array) -> Array:
    aligned = require(saved, grad=grad, out=out)
    return launch(kernels(str(grad.dtype)).backward_bits, aligned, grad, saved, out)


def backward_bits_inplace(grad: Array, saved: Array) -> Array:
    aligned = require(saved, grad=grad)
    return launch(kernels(str(grad.dtype)).backward_bits, aligned, grad, saved, grad)


def roundtrip_inplace(x: Array) -> tuple[Array, Backward]:
    y = forward_inplace(x)
    return y, partial(backward_inplace, saved=y)


def roundtrip_bits_inplace(x: Array) -> tuple[Array, Backward]:
    aligned = require(x=x)
    bits = cuda.device_array(((x.size + 7) // 8,), np.uint8)
    y = launch(kernels(str(x.dtype)).forward_bits, aligned, x, bits, x)
    return y, partial(backward_bits_inplace, saved=bits)


def launch(kernel: Any, aligned: bool, source: Array, *others: Array) -> Array:
    """Run a kernel on the arrays, of which the last one is the result. aligned: all are aligned to 16 bytes."""
    if source.size:
        tile = tile_elements(str(source.dtype))
        tiles = source.size // tile if aligned else 0
        run(kernel, block_count(source.size, tile), THREADS, source, *others, tiles)
    return others[-1]


def block_count(elements: int, tile: int) -> int:
    """Return the number of blocks that process so many elements: at most those that the device holds at once."""
    return min(-(-elements // tile), BLOCKS_EACH * multiprocessors())


def run(kernel: Any, blocks: int, threads: int, *arguments: Any) -> None:
    """Run a kernel on its arguments, of which arrays become flat."""
    flat = tuple(_flat(each) if hasattr(each, "ndim") else each for each in arguments)
    _specialised(kernel, flat)[blocks, threads](*flat)


def _flat(array: Array) -> Array:
    """Return an array in one dimension, as kernels get it; as it is where it can be, as a view takes microseconds."""
    flat = array if array.ndim == 1 else array.reshape(array.size)
    return flat.view(np.uint16) if str(array.dtype) in INFINITY else flat


def _specialised(kernel: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the kernel for arguments of these types, the only ones that it has.

    Numba would otherwise determine the types at each launch. This one accepts any arguments, so callers check them.
    """
    if kernel not in _SPECIALISED:
        _SPECIALISED[kernel] = kernel.specialize(*arguments)
    return _SPECIALISED[kernel]


@cache
def multiprocessors() -> int:
    """Return the number of multiprocessors of the current device; 1 in the simulator."""
    return cuda.get_current_device().MULTIPROCESSOR_COUNT if not cuda_vectors.SIMULATED else 1


def require(bits: Array | None = None, dtypes: tuple[str, ...] = DTYPES, **arrays: Array) -> bool:
    """Raise unless the arrays are contiguous, on the device, alike, and none overlaps the target in part.

    The target is `out` if there is one, otherwise the first array. bits: packed bits, the argument `saved`. dtypes: of
    the other arrays.
    Return True if all of them are aligned to 16 bytes. The address of each is read once, as that takes microseconds.
    """
    for name, array in arrays.items():
        require_on_device(name, array)
    checks.floating(dtypes, **arrays)
    (first_name, first), *others = arrays.items()
    for name, array in others:
        checks.alike(first, array, first_name, name)
    if bits is not None:
        require_on_device("saved", bits)
        checks.bits(first, bits)
        arrays["saved"] = bits
    target_name = "out" if "out" in arrays else first_name
    spans = {name: span(array) for name, array in arrays.items()}
    checks.separate(target_name, spans[target_name], **spans)
    return all(span[0] % cuda_vectors.BYTES == 0 for span in spans.values())


def require_on_device(name: str, array: Array) -> None:
    if not cuda.cudadrv.devicearray.is_cuda_ndarray(array):
        raise TypeError(
            f"{name}: {type(array).__name__} given, an array on the device needed; pass numba.cuda.to_device({name})"
        )
    if not array.is_c_contiguous():
        raise ValueError(f"{name}: strides {array.strides} given, a C-contiguous array needed")


def span(array: Array) -> checks.Span:
    start = cuda_vectors.address(array)
    return start, start + array.nbytes
