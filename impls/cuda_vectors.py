"""16-byte accesses in Numba's CUDA kernels, the widest that a thread has on every GPU.

Numba assumes only the alignment of one element, so its compiler never joins neighbouring accesses. `load` and `store`
declare the address a multiple of 16; LLVM then selects `ld.global.v4.f32`, `ld.shared.v2.f64` and so on. Kernels that
call them must guarantee the alignment: see `aligned`, and for shared memory `shared`.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, cuda, types
from numba.extending import intrinsic

BYTES = 16
# LLVM's address space of shared memory. Source: NVVM IR specification, "Address spaces".
SHARED_SPACE = 3
SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]


def lanes(dtype: str) -> int:
    """Return the number of elements in 16 bytes."""
    return BYTES // np.dtype(dtype).itemsize


def address(array: Any) -> int:
    """Return the address of a device array's first byte."""
    return array.__cuda_array_interface__["data"][0] if not SIMULATED else array.__array_interface__["data"][0]


def aligned(*arrays: Any) -> bool:
    """Return True if all device arrays are aligned to 16 bytes, as arrays that Numba allocates are."""
    return all(address(array) % BYTES == 0 for array in arrays)


def _vector(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Return a pointer to the 16-byte vector number `index` of a flat array."""
    # LLVM makes two accesses of eight numbers of 16 bits, one of four words.
    bits = max(array_type.dtype.bitwidth, 32)
    element = context.get_data_type(array_type.dtype) if bits == array_type.dtype.bitwidth else ir.IntType(bits)
    vector = ir.VectorType(element, BYTES * 8 // bits)
    start = context.make_array(array_type)(context, builder, array).data
    return builder.gep(builder.bitcast(start, vector.as_pointer()), [index])


def _flat_alike(first: Any, second: Any) -> bool:
    return first.ndim == second.ndim == 1 and first.dtype == second.dtype


@intrinsic
def _load(typing_context, into, slot, array, index):
    if not _flat_alike(into, array):
        raise TypeError(f"cuda_vectors.load: {into} and {array} given, two flat arrays of one dtype needed")

    def generate(context, builder, signature, arguments):
        to, number, source, position = arguments
        read = builder.load(_vector(context, builder, array, source, position), align=BYTES)
        builder.store(read, _vector(context, builder, into, to, number), align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(into, types.intp, array, types.intp), generate


@intrinsic
def _store(typing_context, array, index, values, slot):
    if not _flat_alike(array, values):
        raise TypeError(f"cuda_vectors.store: {array} and {values} given, two flat arrays of one dtype needed")

    def generate(context, builder, signature, arguments):
        target, position, source, number = arguments
        read = builder.load(_vector(context, builder, values, source, number), align=array.dtype.bitwidth // 8)
        builder.store(read, _vector(context, builder, array, target, position), align=BYTES)
        return context.get_dummy_value()

    return types.void(array, types.intp, values, types.intp), generate


@intrinsic(prefer_literal=True)
def _shared(typing_context, count, dtype):
    array = types.Array(dtype.dtype, 1, "C")

    def generate(context, builder, signature, arguments):
        element = context.get_data_type(array.dtype)
        name = builder.module.get_unique_name("aligned_shared")
        memory = ir.GlobalVariable(builder.module, ir.ArrayType(element, count.literal_value), name, SHARED_SPACE)
        memory.align, memory.initializer = BYTES, ir.Constant(memory.value_type, ir.Undefined)
        itemsize = array.dtype.bitwidth // 8
        shared_array = context.make_array(array)(context, builder)
        context.populate_array(
            shared_array,
            data=builder.addrspacecast(memory, element.as_pointer()),
            shape=[context.get_constant(types.intp, count.literal_value)],
            strides=[context.get_constant(types.intp, itemsize)],
            itemsize=context.get_constant(types.intp, itemsize),
            meminfo=None,
        )
        return shared_array._getvalue()

    return array(count, dtype), generate


def _simulated_load(into: Any, slot: int, array: Any, index: int) -> None:
    """Python version of `_load`, which checks alignment and bounds."""
    count = _checked_lanes(array, index)
    for lane in range(count):
        into[slot * count + lane] = array[index * count + lane]


def _simulated_store(array: Any, index: int, values: Any, slot: int) -> None:
    count = _checked_lanes(array, index)
    for lane in range(count):
        array[index * count + lane] = values[slot * count + lane]


@cuda.jit(device=True)
def _simulated_shared(count, dtype):
    # The simulator allocates one array per source line, so a kernel may call this once.
    return cuda.shared.array(count, dtype)


def _checked_lanes(array: Any, index: int) -> int:
    count = lanes(array.dtype)
    if not aligned(array):
        raise ValueError(f"array: address {address(array)} given, which is no multiple of 16")
    if index < 0 or (index + 1) * count > array.size:
        raise IndexError(f"index: vector {index} of {count} elements given, beyond an array of {array.size} elements")
    return count


# load(into, slot, array, index): copy the 16-byte vector number `index` of `array` to vector number `slot` of `into`.
# store(array, index, values, slot): copy vector number `slot` of `values` to vector number `index` of `array`.
# shared(count, dtype): return a flat array in shared memory, aligned to 16 bytes; once per kernel.
load: Any
store: Any
shared: Any
load, store, shared = (_simulated_load, _simulated_store, _simulated_shared) if SIMULATED else (_load, _store, _shared)
