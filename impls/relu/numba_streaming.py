"""ReLU in Numba on all threads, with non-temporal stores for results that do not fit the last-level cache.

forward_out         y into `out`
forward_arena       y into memory of a freed result, if there is (`impls.arena`)
backward_out        from the saved input or output
backward_bits_out   from packed bits, eight elements a byte

An ordinary store fetches the line that it overwrites from memory; a non-temporal store (x86-64: vmovntps, vmovntpd,
vmovntdq) writes whole lines past the caches and fetches nothing. It pays only where the result would leave the cache
anyway: results smaller than LEAST_BYTES go to `numba_cpu`. In place it saves nothing, as reading fetches the line.

Stores begin at a line of `out`; elements before the first and after the last whole line are stored one by one.
NaN and infinities follow the definition. Arrays are those of `numba_cpu`. The loops that measure roofs have an
intrinsic of their own: they must run beside the `impls` of any commit. Source: Intel, "64 and IA-32 Architectures
Optimization Reference Manual", chapter "Optimizing cache usage".
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from impls.arena import Arena
from impls.caches import last_level_bytes
from impls.relu import checks, numba_cpu
from impls.relu.numba_checks import (
    FLOAT32,
    call,
    contiguous,
    require_backward,
    require_backward_bits,
    require_forward,
)

Array = NDArray[Any]

# Bytes of a result from which on stores are non-temporal. The input takes the other half of the cache, so the beginning
# of a larger result has left it when a reader comes: python -m scripts.verify.streaming --by-size.
LEAST_BYTES = last_level_bytes() // 2

LINE_BYTES = 64
# How far ahead x or grad is prefetched, by trial of 256 to 4096 bytes.
AHEAD_BYTES = 512
# Bytes that a thread stores at a time; a multiple of LINE_BYTES.
BLOCK_BYTES = 256 * 1024
# Elements at the end of an array that no whole line includes: bits are read 32 at a time.
SPARE = 32


def _load(builder: ir.IRBuilder, data: ir.Value, start: ir.Value, i: ir.Value, kind: ir.Type) -> ir.Value:
    """Return the value of LLVM's type `kind` that begins at element start + i."""
    return builder.load(_pointer(builder, data, builder.add(start, i), kind), align=1)


def _load_bits(builder: ir.IRBuilder, data: ir.Value, start: ir.Value, i: ir.Value, vector: ir.Type) -> ir.Value:
    """Return packed bits from number start + i on, one for each element of a vector. i: a multiple of 8.

    The shift does not depend on i, so LLVM moves it out of a loop over i.
    """
    word = ir.IntType(32)
    loaded = _load(builder, data, builder.lshr(start, start.type(3)), builder.lshr(i, i.type(3)), word)
    shifted = builder.lshr(loaded, builder.trunc(builder.and_(start, start.type(7)), word))
    bits = builder.trunc(shifted, ir.IntType(vector.count))
    return builder.bitcast(bits, ir.VectorType(ir.IntType(1), vector.count))


def _pointer(builder: ir.IRBuilder, data: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Prefetch a line to read into all caches. Source: LLVM Language Reference, `llvm.prefetch`."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    prefetch = builder.module.declare_intrinsic(
        "llvm.prefetch", (byte,), ir.FunctionType(ir.VoidType(), (byte, word, word, word))
    )
    to_read, to_all_caches, data = word(0), word(3), word(1)
    builder.call(prefetch, (builder.bitcast(address, byte), to_read, to_all_caches, data))


def _zeros(vector: ir.Type) -> ir.Value:
    return ir.Constant(vector, [0.0] * vector.count)


def _streamed(kept: Callable[..., ir.Value], load_saved: Callable[..., ir.Value] = _load) -> Any:
    """Return an intrinsic (out, values, saved, start, i) that stores a line of `out`: values where kept, 0 elsewhere.

    kept(builder, line of saved): returns LLVM code for a vector of bits. out, values, saved: flat arrays of one
    floating dtype; `saved` is uint8 if load_saved is _load_bits. start + i: the first element of the line, where `out`
    must be aligned to LINE_BYTES. The store is non-temporal. LLVM splits the line where vectors are shorter, and uses
    ordinary stores on a processor without non-temporal ones.
    """

    @intrinsic
    def store_line(typing_context, out, values, saved, start, i):
        needed = types.uint8 if load_saved is _load_bits else out.dtype
        if not isinstance(out.dtype, types.Float) or values.dtype != out.dtype or saved.dtype != needed:
            return None

        def generate(context, builder, signature, arguments):
            *arrays, first, index = arguments
            vector = ir.VectorType(context.get_data_type(out.dtype), LINE_BYTES * 8 // out.dtype.bitwidth)
            to, source, mask = (
                context.make_array(kind)(context, builder, array).data
                for kind, array in zip((out, values, saved), arrays, strict=True)
            )
            ahead = index.type(AHEAD_BYTES * 8 // out.dtype.bitwidth)
            _prefetch(builder, builder.gep(source, [builder.add(builder.add(first, index), ahead)]))
            is_kept = kept(builder, load_saved(builder, mask, first, index, vector))
            line = builder.select(is_kept, _load(builder, source, first, index, vector), _zeros(vector))
            store = builder.store(line, _pointer(builder, to, builder.add(first, index), vector), align=LINE_BYTES)
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return types.void(out, values, saved, types.intp, types.intp), generate

    return store_line


# Unordered: true of NaN, which forward passes.
_store_rectified = _streamed(lambda builder, x: builder.fcmp_unordered(">", x, _zeros(x.type)))
_store_where_positive = _streamed(lambda builder, saved: builder.fcmp_ordered(">", saved, _zeros(saved.type)))
_store_by_bits = _streamed(lambda builder, bits: bits, _load_bits)


def _fence(typing_context):
    """Make the non-temporal stores of this thread visible before what it stores next; LLVM does not."""

    def generate(context, builder, signature, arguments):
        if builder.module.triple.startswith("x86_64"):
            kind = ir.FunctionType(ir.VoidType(), ())
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse.sfence", (), kind), ())
        else:
            builder.fence("release")
        return context.get_dummy_value()

    return types.void(), generate


fence: Any = intrinsic(_fence)


@njit(cache=True)
def _itemsize(out: Array) -> int:
    """Bytes of an element: a constant for LLVM, as `out.itemsize` is not, so that lines have a fixed distance."""
    return 4 if out.dtype == FLOAT32 else 8


@njit(cache=True)
def _bounds(out: Array) -> tuple[int, int]:
    """The first element of the first whole line of a flat array, and the first element after the last one."""
    lanes = LINE_BYTES // _itemsize(out)
    start = min(out.size, -out.ctypes.data % LINE_BYTES // _itemsize(out))
    return start, start + max(0, out.size - start - SPARE) // lanes * lanes


@njit(cache=True)
def _blocks(out: Array) -> int:
    """The number of blocks of whole lines."""
    start, stop = _bounds(out)
    return -(-(stop - start) * _itemsize(out) // BLOCK_BYTES)


@njit(cache=True)
def _block(out: Array, block: int) -> tuple[int, range]:
    """The first element of a block, and the distance of each of its lines from it in elements."""
    start, stop = _bounds(out)
    elements = BLOCK_BYTES // _itemsize(out)
    first = start + block * elements
    return first, range(0, min(elements, stop - first), LINE_BYTES // _itemsize(out))


@njit(cache=True)
def _edges(out: Array) -> tuple[range, range]:
    """The elements before and after the whole lines."""
    start, stop = _bounds(out)
    return range(start), range(stop, out.size)


@njit(cache=True, parallel=True)
def _forward(x: Array, out: Array) -> None:
    require_forward(x, out)
    source, target = x.reshape(x.size), out.reshape(out.size)
    for block in prange(_blocks(target)):
        start, lines = _block(target, block)
        for i in lines:
            _store_rectified(target, source, source, start, i)
        fence()
    for edge in _edges(target):
        for i in edge:
            value = source[i]
            target[i] = value if value > 0 or value != value else 0


@njit(cache=True, parallel=True)
def _backward(grad: Array, saved: Array, out: Array) -> None:
    require_backward(grad, saved, out)
    gradient, kept, target = grad.reshape(grad.size), saved.reshape(saved.size), out.reshape(out.size)
    for block in prange(_blocks(target)):
        start, lines = _block(target, block)
        for i in lines:
            _store_where_positive(target, gradient, kept, start, i)
        fence()
    for edge in _edges(target):
        for i in edge:
            target[i] = gradient[i] if kept[i] > 0 else 0


@njit(cache=True, parallel=True)
def _backward_bits(grad: Array, saved: Array, out: Array) -> None:
    require_backward_bits(grad, saved, out)
    gradient, bits, target = grad.reshape(grad.size), saved.reshape(saved.size), out.reshape(out.size)
    for block in prange(_blocks(target)):
        start, lines = _block(target, block)
        for i in lines:
            _store_by_bits(target, gradient, bits, start, i)
        fence()
    for edge in _edges(target):
        for i in edge:
            target[i] = gradient[i] if (bits[i // 8] >> (i % 8)) & 1 else 0


_results = Arena()


def _is_streamed(out: Array) -> bool:
    # Elements that lie across their natural alignment never fill a line.
    return out.nbytes >= LEAST_BYTES and out.flags.aligned


def forward_out(x: Array, out: Array) -> Array:
    if not _is_streamed(out):
        return numba_cpu.forward_threads_out(x, out)
    call(_forward, x, out)
    return out


def forward_arena(x: Array) -> Array:
    x = contiguous(x)
    return forward_out(x, _results.empty_like(x))


def backward_out(grad: Array, saved: Array, out: Array) -> Array:
    if saved.dtype != grad.dtype:
        checks.alike(grad, saved, "grad", "saved")
    if not _is_streamed(out):
        return numba_cpu.backward_threads_out(grad, saved, out)
    call(_backward, grad, saved, out)
    return out


def backward_bits_out(grad: Array, saved: Array, out: Array) -> Array:
    if not _is_streamed(out):
        return numba_cpu.backward_bits_threads_out(grad, saved, out)
    call(_backward_bits, grad, saved, out)
    return out
