"""Products of matrices in Numba on CUDA whose factors nobody makes: a function says where their elements are.

A block of threads has a square of the result. Turn by turn it brings a strip of either factor to shared memory, and
each thread adds up 4 x 4 elements in registers. A long sum is cut into parts, so that all of a device has work;
whoever reads them adds them up, in the same order each time: results are the same to the bit.

Kernels are compiled for each shape, so that indices are multiplications by constants. Arrays are flat; where a matrix
has a multiple of four columns, accesses are of 16 bytes (`impls.cuda_vectors`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda, from_dtype, types

from impls import cuda_vectors

# Rows and columns of a block's square, and of what a thread has of it.
SIDE = 64
WINDOW = 4
SQUARE = WINDOW * WINDOW
# So many blocks keep the multiprocessors of a large device busy.
BLOCKS = 256
# Blocks that are to be on a multiprocessor at a time: that leaves 128 registers to each of 256 threads.
RESIDENT = 2
# A part of a sum takes so many turns at the least.
TURNS = 4


@dataclass(frozen=True)
class Kernel:
    """A function for the device with its launch. types: of its arguments, as Numba names them."""

    name: str
    function: Any
    blocks: tuple[int, ...]
    threads: int
    types: tuple[Any, ...]

    def __call__(self, *arguments: Any) -> None:
        self.function[self.blocks, self.threads](*arguments)


@dataclass(frozen=True)
class Operand:
    """A factor of a product.

    load(four, arrays, row, column): four neighbouring columns of it, 0 beyond its edges. arrays: their dtypes.
    along_sum: whether its columns are what is summed over; else its rows are.
    """

    load: Any
    arrays: tuple[str, ...]
    along_sum: bool


class Maker:
    """Makes kernels for one dtype. side: of squares, 16, 32 or 64; small ones are for a simulator."""

    def __init__(self, dtype: str, side: int = SIDE) -> None:
        # Threads are halved until one is left.
        if side not in (16, 32, 64):
            raise ValueError(f"side: {side} given, 16, 32 or 64 needed")
        self.dtype, self.side = dtype, side
        # One turn's strips are four elements a thread.
        self.depth, self.threads = side // WINDOW, (side // WINDOW) ** 2
        # Four columns more spread what is stored down a column over the banks.
        self.pitch = side + WINDOW
        self.element = from_dtype(np.dtype(dtype))
        # Accesses that four elements take.
        self.accesses = WINDOW // cuda_vectors.lanes(dtype)
        # A plain 0 is an integer, and so are sums and products with it, until they meet a float32: then float64.
        self.zero, self.one = np.dtype(dtype).type(0), np.dtype(dtype).type(1)

    def kernel(self, name: str, function: Any, blocks: tuple[int, ...], *arguments: tuple[str, ...] | str) -> Kernel:
        """arguments: the dtype of an array, or those of a tuple of arrays."""
        return Kernel(name, function, blocks, self.threads, tuple(map(_type_of, arguments)))

    def loader(self, at: Any, wide: bool, sparse: bool = False, ones: tuple[int, int] = (0, -1)) -> Any:
        """The `load` of an operand whose elements are in arrays[0].

        at(row, column) -> (index, phase): where an element is, or -1 where it is 0. wide: whether four columns, from a
        multiple of four on, are neighbours in memory. sparse: whether an element is 0 where arrays[1] does not hold
        its phase. ones: so many rows have a 1 in this column.
        """
        zero, one, accesses = self.zero, self.one, self.accesses
        rows_of_ones, column_of_ones = ones

        @cuda.jit(device=True)
        def load(four, arrays, row, column):
            for i in range(WINDOW):
                four[i] = zero
            if wide:
                index, phase = at(row, column)
                if index >= 0:
                    for k in range(accesses):
                        cuda_vectors.load(four, k, arrays[0], index * accesses // WINDOW + k)
                    if sparse:
                        for i in range(WINDOW):
                            four[i] = four[i] if arrays[1][index + i] == phase else zero
            else:
                for i in range(WINDOW):
                    index, phase = at(row, column + i)
                    if index >= 0:
                        four[i] = arrays[0][index]
                        if sparse:
                            four[i] = four[i] if arrays[1][index] == phase else zero
            for i in range(WINDOW):
                if row < rows_of_ones and column + i == column_of_ones:
                    four[i] = one

        return load

    def matrix(self, rows: int, columns: int, ones: bool = False) -> Any:
        """The `load` of a matrix that is there, by rows; with a column of ones behind it if so asked."""

        @cuda.jit(device=True)
        def at(row, column):
            return (row * columns + column if row < rows and column < columns else -1), 0

        return self.loader(at, columns % WINDOW == 0, ones=(rows, columns) if ones else (0, -1))

    def saver(self, columns: int) -> Any:
        """save(array, start, column, values, row): values' row of four, to columns of the array's row at `start`."""
        wide, accesses = columns % WINDOW == 0, self.accesses

        @cuda.jit(device=True)
        def save(array, start, column, values, row):
            if wide:
                for k in range(accesses):
                    cuda_vectors.store(array, (start + column) * accesses // WINDOW + k, values, row * accesses + k)
            else:
                for i in range(WINDOW):
                    if column + i < columns:
                        array[start + column + i] = values[row * WINDOW + i]

        return save

    def splits(self, rows: int, columns: int, summed: int) -> int:
        """Into how many parts a sum is cut."""
        squares = -(-rows // self.side) * -(-columns // self.side)
        return max(1, min(BLOCKS // squares, summed // (TURNS * self.depth)))

    def finish_parts(self, rows: int, columns: int) -> Any:
        """What becomes of elements: they stay as they are, in outputs[0], part after part of `padded` elements."""
        save, size = self.saver(columns), padded(rows * columns)

        @cuda.jit(device=True)
        def finish(sums, outputs, row, column, part):
            for i in range(WINDOW):
                if row + i < rows and column < columns:
                    save(outputs[0], part * size + (row + i) * columns, column, sums, i)

        return finish

    def finish_gated(self, rows: int, columns: int, relu: bool, dropout: bool = False) -> Any:
        """A gradient to outputs[0] where outputs[1], a result of ReLU, is positive; times outputs[2], of a dropout."""
        element, zero, at, save = self.element, self.zero, self.matrix(rows, columns), self.saver(columns)

        @cuda.jit(device=True)
        def finish(sums, outputs, row, column, part):
            four = cuda.local.array(WINDOW, element)
            for i in range(WINDOW):
                if row + i < rows and column < columns:
                    if dropout:
                        at(four, (outputs[2],), row + i, column)
                        for j in range(WINDOW):
                            sums[i * WINDOW + j] *= four[j]
                    if relu:
                        at(four, (outputs[1],), row + i, column)
                        for j in range(WINDOW):
                            sums[i * WINDOW + j] = sums[i * WINDOW + j] if four[j] > zero else zero
                    save(outputs[0], (row + i) * columns, column, sums, i)

        return finish

    def adder(self, size: int, splits: int) -> Any:
        """add(total, parts, item): four elements, added up over all parts of an array."""
        element, zero, accesses, step = self.element, self.zero, self.accesses, padded(size) // WINDOW

        @cuda.jit(device=True)
        def add(total, parts, item):
            four = cuda.local.array(WINDOW, element)
            for i in range(WINDOW):
                total[i] = zero
            for part in range(splits):
                for k in range(accesses):
                    cuda_vectors.load(four, k, parts, (part * step + item) * accesses + k)
                for i in range(WINDOW):
                    total[i] += four[i]

        return add

    def product(
        self,
        name: str,
        sizes: tuple[int, int, int],
        left: Operand,
        right: Operand,
        finish: Any,
        outputs: tuple[str, ...],
        splits: int = 1,
    ) -> Kernel:
        """A kernel that takes the arrays of either factor, and the outputs: three tuples.

        sizes: rows, columns, and over how much an element is summed. finish(sums, outputs, row, column, part): what
        becomes of 4 x 4 elements, of one part of their sums.
        """
        rows, columns, summed = sizes
        side, depth, pitch, across = self.side, self.depth, self.pitch, self.side // WINDOW
        element, zero, accesses = self.element, self.zero, self.accesses
        strip = self.depth * self.pitch
        both = 2 * strip
        fetch_left, fetch_right = self._fetcher(left), self._fetcher(right)
        # Whole turns, so that no two parts have one in common.
        each = -(-summed // (splits * depth)) * depth

        @cuda.jit
        def multiply(left_arrays, right_arrays, output_arrays):
            strips = cuda_vectors.shared(both, element)
            left_strip, right_strip = strips[:strip], strips[strip:]
            sums = cuda.local.array(SQUARE, element)
            of_left = cuda.local.array(WINDOW, element)
            of_right = cuda.local.array(WINDOW, element)
            thread, part = cuda.threadIdx.x, cuda.blockIdx.z
            row, column = cuda.blockIdx.x * side, cuda.blockIdx.y * side
            y, x = thread // across * WINDOW, thread % across * WINDOW
            for i in range(SQUARE):
                sums[i] = zero
            for turn in range(part * each, min((part + 1) * each, summed), depth):
                fetch_left(left_strip, left_arrays, row, turn, thread)
                fetch_right(right_strip, right_arrays, column, turn, thread)
                cuda.syncthreads()
                for k in range(depth):
                    for i in range(accesses):
                        cuda_vectors.load(of_left, i, left_strip, (k * pitch + y) * accesses // WINDOW + i)
                        cuda_vectors.load(of_right, i, right_strip, (k * pitch + x) * accesses // WINDOW + i)
                    for i in range(WINDOW):
                        for j in range(WINDOW):
                            sums[i * WINDOW + j] += of_left[i] * of_right[j]
                # Before the next turn overwrites what a slower thread still reads.
                cuda.syncthreads()
            finish(sums, output_arrays, row + y, column + x, part)

        grid = -(-rows // side), -(-columns // side), splits
        return self.kernel(name, multiply, grid, left.arrays, right.arrays, outputs)

    def _fetcher(self, operand: Operand) -> Any:
        """What brings one turn's strip of an operand to shared memory: (depth, side), flat, its rows `pitch` apart."""
        load, along_sum, element, pitch = operand.load, operand.along_sum, self.element, self.pitch
        accesses = self.accesses
        down, across = self.depth // WINDOW, self.side // WINDOW

        @cuda.jit(device=True)
        def fetch(strip, arrays, first, turn, thread):
            four = cuda.local.array(WINDOW, element)
            if along_sum:
                row, k = thread // down, thread % down * WINDOW
                load(four, arrays, first + row, turn + k)
                for i in range(WINDOW):
                    strip[(k + i) * pitch + row] = four[i]
            else:
                k, column = thread // across, thread % across * WINDOW
                load(four, arrays, turn + k, first + column)
                for i in range(accesses):
                    cuda_vectors.store(strip, (k * pitch + column) * accesses // WINDOW + i, four, i)

        return fetch

    def items(self, name: str, function: Any, count: int, *arguments: tuple[str, ...] | str) -> Kernel:
        """A kernel whose threads stride over `count` items."""
        return self.kernel(name, function, (min(4 * BLOCKS, -(-count // self.threads)),), *arguments)


def padded(size: int) -> int:
    """A multiple of four elements, so that what lies behind begins at a multiple of 16 bytes."""
    return -(-size // WINDOW) * WINDOW


def _type_of(argument: tuple[str, ...] | str) -> Any:
    if isinstance(argument, tuple):
        return types.BaseTuple.from_types([_type_of(dtype) for dtype in argument])
    return types.Array(from_dtype(np.dtype(argument)), 1, "C")
