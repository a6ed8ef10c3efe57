"""Sums of the parts of an array, such as a weight's gradient, in a fixed order."""

from typing import Any

from numba import cuda

from impls import cuda_vectors
from impls.cnn.numba_cuda.products import WINDOW, Kernel, Maker, padded
from impls.cuda_integers import quotient, remainder

# Most threads that add parts of the same elements.
MOST_TOGETHER = 16


def sum_of_parts(make: Maker, name: str, size: int, splits: int, finish: Any, count: int) -> Kernel:
    """Make a kernel that adds all parts of an array; its arguments are the parts and a tuple of `count` arrays.

    size: elements of a part, without its padding. splits: number of parts.
    finish(total, arrays, item): uses the sum of four elements, those from 4 * item on.
    Where there are fewer elements than threads on the device, several threads add parts of the same elements.
    """
    element, zero, accesses, items = make.element, make.zero, make.accesses, padded(size) // WINDOW
    together = 1
    while 2 * together <= min(splits, MOST_TOGETHER) and items * together < make.blocks * make.threads:
        together *= 2
    elements, each = make.threads * WINDOW, make.threads // together

    @cuda.jit
    def kernel(parts, arrays):
        sums = cuda_vectors.shared(elements, element)
        total, four = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        thread = cuda.threadIdx.x
        item, first = cuda.blockIdx.x * each + remainder(thread, each), quotient(thread, each)
        for i in range(WINDOW):
            total[i] = zero
        if item < items:
            for part in range(first, splits, together):
                for k in range(accesses):
                    cuda_vectors.load(four, k, parts, (part * items + item) * accesses + k)
                for i in range(WINDOW):
                    total[i] += four[i]
        # Each turn, the upper half of the threads that are left gives its sums to the lower half.
        half = together // 2
        while half:
            for k in range(accesses):
                cuda_vectors.store(sums, thread * accesses + k, total, k)
            cuda.syncthreads()
            if first < half:
                for k in range(accesses):
                    cuda_vectors.load(four, k, sums, (thread + half * each) * accesses + k)
                for i in range(WINDOW):
                    total[i] += four[i]
            half //= 2
        if first == 0 and item < items:
            finish(total, arrays, item)

    return make.kernel(name, kernel, (-(-items // each),), make.dtype, (make.dtype,) * count)
