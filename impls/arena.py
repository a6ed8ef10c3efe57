"""Memory of results that is used again: a fresh result in it costs no page faults.

The system maps pages on their first access, and clears them, which takes longer than ReLU itself. malloc keeps the
memory of freed arrays up to its mmap threshold (glibc: at most 32 MiB) and returns that of larger ones to the system.
An arena keeps the memory of one freed result of each size. To hand it out takes microseconds, so it is for large
results.

tracemalloc counts the memory of a result while the result exists, as for any allocator; it does not count what an
arena keeps.
"""

import ctypes
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Python/C API, "tracemalloc C API".
_track, _untrack = ctypes.pythonapi.PyTraceMalloc_Track, ctypes.pythonapi.PyTraceMalloc_Untrack
_track.argtypes = (ctypes.c_uint, ctypes.c_size_t, ctypes.c_size_t)
_untrack.argtypes = (ctypes.c_uint, ctypes.c_size_t)


class Arena:
    """Hands out arrays, and keeps the memory of one freed array of each size, for the `most_kept` sizes freed last."""

    def __init__(self, most_kept: int = 4) -> None:
        self.most_kept = most_kept
        # By bytes.
        self.kept: OrderedDict[int, _Block] = OrderedDict()

    def empty_like(self, x: Array) -> Array:
        """A C-contiguous array of the shape and dtype of x, not initialised; in kept memory if there is any."""
        block = self.kept.pop(x.nbytes, None) or _Block(x.nbytes)
        return np.asarray(_Loan(block, self)).view(x.dtype).reshape(x.shape)

    def take_back(self, block: "_Block") -> None:
        """Keep a block for later arrays."""
        self.kept[block.size_bytes] = block
        while len(self.kept) > self.most_kept:
            self.kept.popitem(last=False)


class _Block:
    """Memory for arrays of one size."""

    def __init__(self, size_bytes: int) -> None:
        self.memory = np.empty(size_bytes, np.uint8)
        self.interface = self.memory.__array_interface__
        self.size_bytes = size_bytes
        address, _ = self.interface["data"]
        # In the domain of NumPy's arrays, which has counted this block: each byte counts once.
        self.trace = np.lib.tracemalloc_domain, address
        self.untrack = _untrack


class _Loan:
    """The owner of the memory of an array, to which every view of the array refers; it ends with the last of them.

    The array itself may end before its views: NumPy makes them refer to the owner of the memory.
    """

    __slots__ = ("__array_interface__", "arena", "block")

    def __init__(self, block: _Block, arena: Arena) -> None:
        self.__array_interface__, self.arena, self.block = block.interface, arena, block
        _track(*block.trace, block.size_bytes)

    # Without global variables, which are gone when Python shuts down.
    def __del__(self) -> None:
        self.block.untrack(*self.block.trace)
        self.arena.take_back(self.block)
