"""Implicit GEMM in Numba on CUDA: index functions supply the operands, which are never materialised.

A block of threads computes a tile of the result, one square or two of them, one below the other. In each turn it stores
a strip of either operand to shared memory, loads the next strips to registers, and each thread accumulates 4 x 4
elements of each square in registers. Two squares read fewer bytes for each multiply-add, where their blocks still
occupy the whole device. A long sum is split into parts to occupy it; the reader adds them in a fixed order, so results
are identical to the bit each time.

Kernels are compiled for each shape, so that index arithmetic uses constants. Arrays are flat. A matrix whose number of
columns is a multiple of four is accessed 16 bytes at a time (`impls.cuda_vectors`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, from_dtype, types

from impls import cuda_kernels, cuda_vectors
from impls.cuda_integers import quotient, remainder, unsigned

# Rows and columns of a square, and of a thread's part of it.
SIDE = 64
WINDOW = 4
SQUARE = WINDOW * WINDOW
# Most squares of a tile. Three would need more registers than two resident blocks have, and two in float64 more shared
# memory than a block has.
TALLEST = {"float32": 2, "float64": 1}
# Rows that tall tiles cover, as a multiple of those that squares cover: at most so many, since the rest is padding.
PADDING = 1.05
# Blocks resident on a multiprocessor at a time; this leaves 128 registers for each of 256 threads.
RESIDENT = 2
# Blocks that occupy a device of 128 multiprocessors.
BLOCKS = 128 * RESIDENT
# Least number of turns in a part of a sum.
TURNS = 4
# Terms of each sum in an iteration of the loop over them.
UNROLLED = 4


class Launch(NamedTuple):
    """How kernels are launched.

    side: rows of a square, 16, 32 or 64; small squares are for the simulator. blocks: that occupy the device.
    stream: 0 for the default one.
    """

    side: int = SIDE
    blocks: int = BLOCKS
    stream: Any = 0


@dataclass(frozen=True)
class Kernel:
    """A device function with its launch configuration. types: Numba types of its arguments."""

    name: str
    function: Any
    blocks: tuple[int, ...]
    threads: int
    types: tuple[Any, ...]
    stream: Any = 0

    @property
    def splits(self) -> int:
        """The number of parts of each sum of a product."""
        return self.blocks[-1]

    def __call__(self, *arguments: Any) -> None:
        self._launch(*arguments)

    @cached_property
    def _launch(self) -> Any:
        """The compiled function. With a signature, Numba does not determine the types of the arguments at each launch,
        which takes longer than most kernels.
        """
        compiled = cuda_kernels.kernel(self.function.py_func, types.void(*self.types))
        return compiled[self.blocks, self.threads, self.stream]


@dataclass(frozen=True)
class Operand:
    """An operand of a product.

    load(four, arrays, row, column): loads four neighbouring columns, 0 beyond the edges. arrays: dtypes of the arrays.
    along_sum: the sum runs over its columns; otherwise over its rows.
    """

    load: Any
    arrays: tuple[str, ...]
    along_sum: bool


class Tiling(NamedTuple):
    """Division of a product: squares of a tile, and the grid of blocks: tiles down, tiles across, parts of each sum."""

    squares: int
    grid: tuple[int, int, int]


class Maker:
    """Makes kernels for one dtype."""

    def __init__(self, dtype: str, launch: Launch) -> None:
        side = launch.side
        # The loss kernel's reduction halves the number of threads, so it is a power of two.
        if side not in (16, 32, 64):
            raise ValueError(f"side: {side} given, 16, 32 or 64 needed")
        self.dtype, (self.side, self.blocks, self.stream) = dtype, launch
        # The strip of one turn has four elements per thread.
        self.depth, self.threads = side // WINDOW, (side // WINDOW) ** 2
        self.element = from_dtype(np.dtype(dtype))
        # 16-byte accesses for four elements.
        self.accesses = WINDOW // cuda_vectors.lanes(dtype)
        # A literal 0 is an integer, and combining an integer with a float32 gives float64.
        self.zero, self.one = np.dtype(dtype).type(0), np.dtype(dtype).type(1)

    def kernel(self, name: str, function: Any, blocks: tuple[int, ...], *arguments: tuple[str, ...] | str) -> Kernel:
        """Make a kernel. arguments: for each, the dtype of an array or the dtypes of a tuple of arrays."""
        return Kernel(name, function, blocks, self.threads, tuple(map(_type_of, arguments)), self.stream)

    def loader(self, at: Any, wide: bool, sparse: bool = False, ones: tuple[int, int] = (0, -1)) -> Any:
        """Return the `load` of an operand whose elements are in arrays[0].

        at(row, column) -> (index, phase): the index of an element, or -1 for an element of 0.
        wide: four columns, from a multiple of four on, are neighbours in memory.
        sparse: an element is 0 unless arrays[1] holds its phase.
        ones: (rows, column): the first `rows` rows have a 1 in this column.
        """
        zero, one, accesses = self.zero, self.one, self.accesses
        rows_of_ones, column_of_ones = ones
        has_ones = rows_of_ones > 0

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
            if has_ones and row < rows_of_ones:
                for i in range(WINDOW):
                    if column + i == column_of_ones:
                        four[i] = one

        return load

    def matrix(self, rows: int, columns: int, ones: bool = False) -> Any:
        """Return the `load` of a row-major matrix; with `ones`, a column of ones follows its last column."""

        @cuda.jit(device=True)
        def at(row, column):
            return (row * columns + column if row < rows and column < columns else -1), 0

        return self.loader(at, columns % WINDOW == 0, ones=(rows, columns) if ones else (0, -1))

    def saver(self, columns: int) -> Any:
        """Return save(array, start, column, values, row).

        It stores the four values of `row` to columns of the array's row that begins at `start`.
        """
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

    def tiling(self, rows: int, columns: int, summed: int, split: bool) -> Tiling:
        """Return how a product is divided. split: its sums may be divided, too."""
        most = max(1, summed // (TURNS * self.depth)) if split else 1
        tallest, across = TALLEST[self.dtype], -(-columns // self.side)
        down = {squares: -(-rows // (self.side * squares)) for squares in (1, tallest)}
        is_tall = down[tallest] * across * most >= self.blocks and down[tallest] * tallest <= PADDING * down[1]
        squares = tallest if is_tall else 1
        blocks = down[squares] * across
        return Tiling(squares, (down[squares], across, max(1, min(self.blocks // blocks, most))))

    def finish_parts(self, rows: int, columns: int) -> Any:
        """Return the `finish` that stores sums unchanged in outputs[0], in parts of `padded` elements each."""
        save, size = self.saver(columns), padded(rows * columns)

        @cuda.jit(device=True)
        def finish(sums, outputs, row, column, part):
            for i in range(WINDOW):
                if row + i < rows and column < columns:
                    save(outputs[0], part * size + (row + i) * columns, column, sums, i)

        return finish

    def finish_gated(self, rows: int, columns: int, relu: bool, dropout: bool = False) -> Any:
        """Return the `finish` that stores a gradient in outputs[0] where outputs[1], a result of ReLU, is positive.

        dropout: multiply it by outputs[2], a dropout mask.
        """
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

    def product(
        self,
        name: str,
        sizes: tuple[int, int, int],
        left: Operand,
        right: Operand,
        finish: Any,
        outputs: tuple[str, ...],
        split: bool = False,
    ) -> Kernel:
        """Make a kernel whose arguments are three tuples: arrays of the left operand, of the right one, and outputs.

        sizes: rows, columns, and terms of each sum. split: each sum may be computed in parts.
        finish(sums, outputs, row, column, part): stores 4 x 4 elements of one part of the sums.
        """
        summed, (squares, grid) = sizes[-1], self.tiling(*sizes, split)
        side, depth, edge, accesses = self.side, self.depth, self.side // WINDOW, self.accesses
        element, zero, height = self.element, self.zero, squares * WINDOW
        sum_count, factor_count, square_vectors = squares * SQUARE, height + WINDOW, edge * accesses
        load_left, store_left, left_pitch = self._mover(left, squares)
        load_right, store_right, right_pitch = self._mover(right, 1)
        # Positions in shared memory count 16-byte vectors.
        right_strip = depth * left_pitch
        both = right_strip + depth * right_pitch
        elements = 2 * both * cuda_vectors.lanes(self.dtype)
        # Whole turns, so that no turn belongs to two parts.
        each = -(-summed // (grid[-1] * depth)) * depth

        @cuda.jit(device=True)
        def add_term(sums, factors, strips, at_left, at_right):
            for i in range(accesses):
                for square in range(squares):
                    at = at_left + square * square_vectors + i
                    cuda_vectors.load(factors, square * accesses + i, strips, at)
                cuda_vectors.load(factors, squares * accesses + i, strips, at_right + i)
            for i in range(height):
                for j in range(WINDOW):
                    sums[i * WINDOW + j] += factors[i] * factors[height + j]

        @cuda.jit
        def multiply(left_arrays, right_arrays, output_arrays):
            # Two buffers: threads that are still reading one do not delay those that fill the other.
            strips = cuda_vectors.shared(elements, element)
            sums, window = cuda.local.array(sum_count, element), cuda.local.array(SQUARE, element)
            factors = cuda.local.array(factor_count, element)
            next_left, next_right = cuda.local.array(height, element), cuda.local.array(WINDOW, element)
            thread, part = cuda.threadIdx.x, cuda.blockIdx.z
            row, column = cuda.blockIdx.x * side * squares, cuda.blockIdx.y * side
            y, x = quotient(thread, edge), remainder(thread, edge)
            for i in range(sum_count):
                sums[i] = zero
            first, end, buffer = part * each, min((part + 1) * each, summed), 0
            load_left(next_left, left_arrays, row, first, thread)
            load_right(next_right, right_arrays, column, first, thread)
            for turn in range(first, end, depth):
                store_left(strips, buffer, next_left, thread)
                store_right(strips, buffer + right_strip, next_right, thread)
                cuda.syncthreads()
                # The next turn's elements arrive while this turn computes.
                if turn + depth < end:
                    load_left(next_left, left_arrays, row, turn + depth, thread)
                    load_right(next_right, right_arrays, column, turn + depth, thread)
                at_left, at_right = buffer + y * accesses, buffer + right_strip + x * accesses
                # Written out, because libNVVM does not unroll Numba's loops for newer GPUs.
                for k in range(0, depth, UNROLLED):
                    add_term(sums, factors, strips, at_left + k * left_pitch, at_right + k * right_pitch)
                    add_term(sums, factors, strips, at_left + (k + 1) * left_pitch, at_right + (k + 1) * right_pitch)
                    add_term(sums, factors, strips, at_left + (k + 2) * left_pitch, at_right + (k + 2) * right_pitch)
                    add_term(sums, factors, strips, at_left + (k + 3) * left_pitch, at_right + (k + 3) * right_pitch)
                buffer = both - buffer
            for square in range(squares):
                for i in range(SQUARE):
                    window[i] = sums[square * SQUARE + i]
                finish(window, output_arrays, row + square * side + y * WINDOW, column + x * WINDOW, part)

        return self.kernel(name, multiply, grid, left.arrays, right.arrays, outputs)

    def _mover(self, operand: Operand, squares: int) -> tuple[Any, Any, int]:
        """Return two functions that move a thread's elements, four of each square, of a strip of an operand; and the
        pitch of the strip, which has a row for each of `depth` terms and a column for each row or column of the tile.

        load(values, arrays, first, turn, thread): from the operand's arrays; `first` is the first row or column of the
        tile. store(strips, start, values, thread): to shared memory from vector `start` on, rows `pitch` vectors apart.
        """
        load, along_sum, side, element, accesses = (
            operand.load,
            operand.along_sum,
            self.side,
            self.element,
            self.accesses,
        )
        down, edge, lanes = self.depth // WINDOW, side // WINDOW, cuda_vectors.lanes(self.dtype)
        # In 16-byte vectors; four more columns spread stores down a column over the banks.
        pitch = (squares * edge + 1) * accesses

        @cuda.jit(device=True)
        def load_along(values, arrays, first, turn, thread):
            row, k = quotient(thread, down), remainder(thread, down) * WINDOW
            four = cuda.local.array(WINDOW, element)
            for square in range(squares):
                load(four, arrays, first + square * side + row, turn + k)
                for i in range(WINDOW):
                    values[square * WINDOW + i] = four[i]

        @cuda.jit(device=True)
        def store_along(strips, start, values, thread):
            row, k = quotient(thread, down), remainder(thread, down) * WINDOW
            for square in range(squares):
                for i in range(WINDOW):
                    at = (start + (k + i) * pitch) * lanes + square * side + row
                    strips[unsigned(at)] = values[square * WINDOW + i]

        @cuda.jit(device=True)
        def load_across(values, arrays, first, turn, thread):
            k, column = quotient(thread, edge), remainder(thread, edge) * WINDOW
            four = cuda.local.array(WINDOW, element)
            for square in range(squares):
                load(four, arrays, turn + k, first + square * side + column)
                for i in range(WINDOW):
                    values[square * WINDOW + i] = four[i]

        @cuda.jit(device=True)
        def store_across(strips, start, values, thread):
            k, column = quotient(thread, edge), remainder(thread, edge)
            for square in range(squares):
                for i in range(accesses):
                    at = start + k * pitch + (square * edge + column) * accesses + i
                    cuda_vectors.store(strips, at, values, square * accesses + i)

        return (load_along, store_along, pitch) if along_sum else (load_across, store_across, pitch)

    def items(self, name: str, function: Any, count: int, *arguments: tuple[str, ...] | str) -> Kernel:
        """Make a kernel whose threads stride over `count` items."""
        return self.kernel(name, function, (min(4 * self.blocks, -(-count // self.threads)),), *arguments)


def padded(size: int) -> int:
    """Return `size` rounded up to a multiple of four elements, so that the next part is aligned to 16 bytes."""
    return -(-size // WINDOW) * WINDOW


def _type_of(argument: tuple[str, ...] | str) -> Any:
    if isinstance(argument, tuple):
        return types.BaseTuple.from_types([_type_of(dtype) for dtype in argument])
    return types.Array(from_dtype(np.dtype(argument)), 1, "C")
