"""Batch norm with the max-pool and ReLU after it, and its gradients: sums by filter, then one pass each."""

import math
from typing import Any

import numpy as np
from numba import cuda

from impls import cuda_vectors
from impls.cnn.architecture import Block
from impls.cnn.networks import NORM_EPSILON, NORM_MOMENTUM
from impls.cnn.numba_cuda.convolution import geometry
from impls.cnn.numba_cuda.parts import sum_of_parts
from impls.cnn.numba_cuda.products import TURNS, WINDOW, Kernel, Maker, padded


class Norm:
    """The kernels of a batch norm with the max-pool and ReLU after it.

    moments, statistics: sums by filter, then mean, 1 / deviation and running statistics.
    forward: from the convolution's result to the block's output.
    sums: sums by filter of the gradient times the normalised values, and of the gradient.
    totals: from the `splits` parts of moments or of sums to their totals, (2, filters).
    backward: the gradient of the convolution's result, which it overwrites.
    """

    def __init__(self, make: Maker, number: int, block: Block, n: int, relu: bool) -> None:
        self.name = f"norm{number}"
        filters, dtype = block.conv.filters, make.dtype
        shape = geometry(block, n, sparse=block.conv.pool)
        grads = (dtype, "uint8") if block.conv.pool else (dtype,)
        self.splits = _splits(make, shape.rows, filters)
        by_row, of_filter = make.matrix(shape.rows, filters), make.matrix(2, filters)
        grad_by_row = make.loader(shape.gradient, filters % WINDOW == 0, sparse=block.conv.pool)
        sizes = shape.rows, filters, self.splits
        add_moments = _moments(make, filters, by_row)
        add_gradients = _gradient_sums(make, by_row, grad_by_row, of_filter)
        self.moments = _column_sums(make, f"{self.name}.moments", sizes, add_moments, (dtype,))
        self.statistics = _statistics(make, self.name, shape.rows, filters)
        self.forward = _normalise(make, self.name, shape.rows, block, by_row, of_filter, relu)
        self.sums = _column_sums(make, f"{self.name}.sums", sizes, add_gradients, grads)
        self.totals = _totals(make, self.name, filters, self.splits)
        self.backward = _normalise_backward(make, self.name, shape.rows, filters, by_row, grad_by_row, of_filter, grads)


def _splits(make: Maker, rows: int, columns: int) -> int:
    """Return the number of parts of each sum by column: as many as occupy the device with some rows for each thread."""
    edge = make.side // WINDOW
    return max(1, min(make.blocks // -(-columns // make.side), rows // (TURNS * edge)))


def _column_sums(make: Maker, name: str, sizes: tuple[int, int, int], add: Any, grads: tuple[str, ...]) -> Kernel:
    """Make a kernel that computes two sums by column.

    sizes: rows, columns, and parts of each sum.
    Its arguments: (convolved,), the gradient, (kept,), and the result, parts of (2, columns).
    add(first, second, convolved, grads, kept, row, column): adds the terms of four columns of a row.
    """
    element, zero, side, threads, (rows, columns, splits) = make.element, make.zero, make.side, make.threads, sizes
    across, each, size = make.side // WINDOW, -(-rows // splits), padded(2 * columns)

    @cuda.jit
    def kernel(convolved, grads, kept, parts):
        first_strip = cuda.shared.array((across, side), element)
        second_strip = cuda.shared.array((across, side), element)
        first = cuda.local.array(WINDOW, element)
        second = cuda.local.array(WINDOW, element)
        thread, part, start = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.x * side
        y, x = thread // across, thread % across * WINDOW
        for i in range(WINDOW):
            first[i] = zero
            second[i] = zero
        for row in range(part * each + y, min((part + 1) * each, rows), across):
            add(first, second, convolved, grads, kept, row, start + x)
        for i in range(WINDOW):
            first_strip[y, x + i] = first[i]
            second_strip[y, x + i] = second[i]
        cuda.syncthreads()
        for column in range(thread, side, threads):
            if start + column < columns:
                total, other = zero, zero
                for i in range(across):
                    total += first_strip[i, column]
                    other += second_strip[i, column]
                parts[part * size + start + column] = total
                parts[part * size + columns + start + column] = other

    single = (make.dtype,)
    return make.kernel(name, kernel, (-(-columns // side), splits), single, grads, single, make.dtype)


def _moments(make: Maker, filters: int, by_row: Any) -> Any:
    """Return the `add` of x - s and its square, where s is the running mean, to limit cancellation.

    kept: the running means.
    """
    element, of_filter = make.element, make.matrix(1, filters)

    @cuda.jit(device=True)
    def add(first, second, convolved, grads, kept, row, column):
        four, origin = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        by_row(four, convolved, row, column)
        of_filter(origin, kept, 0, column)
        for i in range(WINDOW):
            value = four[i] - origin[i]
            first[i] += value
            second[i] += value * value

    return add


def _gradient_sums(make: Maker, by_row: Any, grad_by_row: Any, of_filter: Any) -> Any:
    """Return the `add` of the gradient times the normalised values, and of the gradient."""
    element = make.element

    @cuda.jit(device=True)
    def add(first, second, convolved, grads, kept, row, column):
        four, grad = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        mean, inverse = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        by_row(four, convolved, row, column)
        grad_by_row(grad, grads, row, column)
        of_filter(mean, kept, 0, column)
        of_filter(inverse, kept, 1, column)
        for i in range(WINDOW):
            first[i] += grad[i] * (four[i] - mean[i]) * inverse[i]
            second[i] += grad[i]

    return add


def _statistics(make: Maker, name: str, rows: int, filters: int) -> Kernel:
    """Make the kernel from totals of `_moments` to (2, filters) of mean and 1 / deviation, and running statistics."""
    kind, zero, one = np.dtype(make.dtype).type, make.zero, make.one
    share, unbiased, epsilon = kind(1 / rows), kind(rows / (rows - 1)), kind(NORM_EPSILON)
    keep, momentum = kind(1 - NORM_MOMENTUM), kind(NORM_MOMENTUM)

    @cuda.jit
    def kernel(totals, kept, running_mean, running_variance):
        for f in range(cuda.grid(1), filters, cuda.gridsize(1)):
            first = totals[f] * share
            mean = running_mean[f] + first
            variance = totals[filters + f] * share - first * first
            variance = zero if variance < zero else variance
            kept[f], kept[filters + f] = mean, one / math.sqrt(variance + epsilon)
            running_mean[f] = keep * running_mean[f] + momentum * mean
            running_variance[f] = keep * running_variance[f] + momentum * variance * unbiased

    return make.items(f"{name}.statistics", kernel, filters, *[make.dtype] * 4)


def _normalise(make: Maker, name: str, rows: int, block: Block, by_row: Any, of_filter: Any, relu: bool) -> Kernel:
    """Make the kernel of batch norm, max-pool and ReLU.

    Its arguments: (convolved,), (kept,), (scale and shift,), output, winners.
    """
    filters, zero, element = block.conv.filters, make.zero, make.element
    groups, phases = -(-filters // WINDOW), 4 if block.conv.pool else 1
    save, items = make.saver(filters), rows // phases * groups

    @cuda.jit
    def kernel(convolved, kept, weights, output, winners):
        four, best = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        mean, inverse = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        scale, shift = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            pixel, column = item // groups, item % groups * WINDOW
            of_filter(mean, kept, 0, column)
            of_filter(inverse, kept, 1, column)
            of_filter(scale, weights, 0, column)
            of_filter(shift, weights, 1, column)
            for phase in range(phases):
                by_row(four, convolved, pixel * phases + phase, column)
                for i in range(WINDOW):
                    value = scale[i] * ((four[i] - mean[i]) * inverse[i]) + shift[i]
                    if phase == 0 or value > best[i] or value != value:
                        best[i] = value
                        if phases > 1 and column + i < filters:
                            winners[pixel * filters + column + i] = phase
            for i in range(WINDOW):
                best[i] = zero if relu and best[i] <= zero else best[i]
            save(output, pixel * filters, column, best, 0)

    dtype = make.dtype
    return make.items(f"{name}.forward", kernel, items, (dtype,), (dtype,), (dtype,), dtype, "uint8")


def _normalise_backward(
    make: Maker, name: str, rows: int, filters: int, by_row: Any, grad_by_row: Any, of_filter: Any, grads: Any
) -> Kernel:
    """Make the kernel that overwrites the convolution's result by its gradient.

    Its arguments: (convolved,), the gradient, (kept,), (scale and shift,), (totals,).
    """
    element, share = make.element, np.dtype(make.dtype).type(1 / rows)
    groups, save = -(-filters // WINDOW), make.saver(filters)

    @cuda.jit
    def kernel(convolved, grads, kept, weights, totals):
        four, grad = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        mean, inverse = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        scale = cuda.local.array(WINDOW, element)
        along, level = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        for item in range(cuda.grid(1), rows * groups, cuda.gridsize(1)):
            row, column = item // groups, item % groups * WINDOW
            of_filter(mean, kept, 0, column)
            of_filter(inverse, kept, 1, column)
            of_filter(scale, weights, 0, column)
            of_filter(along, totals, 0, column)
            of_filter(level, totals, 1, column)
            by_row(four, convolved, row, column)
            grad_by_row(grad, grads, row, column)
            for i in range(WINDOW):
                normalised = (four[i] - mean[i]) * inverse[i]
                centred = grad[i] - share * level[i] - normalised * (share * along[i])
                four[i] = scale[i] * inverse[i] * centred
            save(convolved[0], row * filters, column, four, 0)

    single = (make.dtype,)
    return make.items(f"{name}.backward", kernel, rows * groups, single, grads, single, single, single)


def _totals(make: Maker, name: str, filters: int, splits: int) -> Kernel:
    """Make the kernel that sums the parts of two sums by filter; its arguments: parts, (total,), both padded."""
    accesses = make.accesses

    @cuda.jit(device=True)
    def finish(total, arrays, item):
        for k in range(accesses):
            cuda_vectors.store(arrays[0], item * accesses + k, total, k)

    return sum_of_parts(make, f"{name}.totals", 2 * filters, splits, finish, 1)
