"""Memory of results that is used again: a fresh result in it costs no page faults.

The system maps pages on their first access, and clears them, which takes longer than ReLU itself. malloc keeps the
memory of freed arrays up to its mmap threshold (glibc: at most 32 MiB) and returns that of larger ones to the system.
The arena keeps the memory of one freed result of each size, for the MOST_KEPT sizes freed last. To hand it out takes
microseconds, so it is for large results.

tracemalloc counts the memory of a result while the result exists, as for any allocator; it does not count what the
arena keeps.
"""

import ctypes
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_KEPT = 4

# Python/C API, "tracemalloc C API"; the domain is that of NumPy's arrays.
_track, _untrack = ctypes.pythonapi.PyTraceMalloc_Track, ctypes.pythonapi.PyTraceMalloc_Untrack
_track.argtypes = (ctypes.c_uint, ctypes.c_size_t, ctypes.c_size_t)
_untrack.argtypes = (ctypes.c_uint, ctypes.c_size_t)
_DOMAIN = np.lib.tracemalloc_domain


class _Block:
    """Memory for results of one size."""

    def __init__(self, size_bytes: int) -> None:
        self.memory = np.empty(size_bytes, np.uint8)
        self.interface = self.memory.__array_interface__
        self.address, _ = self.interface["data"]
        self.size_bytes = size_bytes


class _Loan:
    """The owner of the memory of a result, to which every view of the result refers; it ends with the last of them.

    The result itself may end before its views: NumPy makes them refer to the owner of the memory.
    """

    __slots__ = ("__array_interface__", "block")

    def __init__(self, block: _Block) -> None:
        self.block, self.__array_interface__ = block, block.interface
        _track(_DOMAIN, block.address, block.size_bytes)

    def __del__(self) -> None:
        _untrack(_DOMAIN, self.block.address)
        _kept[self.block.size_bytes] = self.block
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)


# By bytes.
_kept: OrderedDict[int, _Block] = OrderedDict()


def empty_like(x: Array) -> Array:
    """A C-contiguous array of the shape and dtype of x, not initialised; in kept memory if there is any of its size."""
    block = _kept.pop(x.nbytes, None) or _Block(x.nbytes)
    return np.asarray(_Loan(block)).view(x.dtype).reshape(x.shape)
