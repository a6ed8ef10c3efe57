"""A training step written by hand in Numba on CUDA, in memory that is allocated once.

- Each convolution and dense layer, and each of their gradients, is one tiled product (`products`) that reads its
  factors where they are: the 3 x 3 pixels around each pixel, and gradients of pooled images, are never in memory.
- The four rows of a thread are the four outputs that a max-pool compares, so max-pool and ReLU happen in registers:
  what a convolution gives before them is written only for batch norm, which needs all of it.
- Bias is one more row of the weight, against a column of ones; the gradients by both are one product.
- The gradient by an image is written only where ReLU let the image pass; a pooled one is read at its winner.
- Long sums are cut into parts, which the update adds up: results are the same to the bit each time.

ReLU is always in place, in registers: `relu` is "inplace" or "none". Calls return when the loss is on the host.
"""

import math
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from impls import vectors
from impls.cnn import unmarked
from impls.cnn.networks import (
    KERNEL,
    LEARNING_RATE,
    MOMENTUM,
    NORM_EPSILON,
    NORM_MOMENTUM,
    Array,
    Batch,
    Block,
    Layer,
    Network,
    blocks,
    initial_statistics,
    layers,
    parameter_shapes,
    require,
    require_batch,
)
from impls.cnn.products import SIDE, WINDOW, Kernel, Maker, Operand, padded
from impls.cnn.reference import State

TAPS = KERNEL**2
# Into how many parts the sums of a batch norm are cut.
NORM_PARTS = 32


def build(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> "Step":
    return Step(network, parameters, n, dtype, relu)


class Geometry(NamedTuple):
    """Device functions that know the sizes of a block, for n images.

    rows: outputs of the convolution that pooling looks at, in all images; the four that it compares are neighbours.
    patches, gradient, gradient_patches, turned: `at` of operands (`products.Maker.loader`): what a filter sees at each
    row; the gradient at each row; the gradients that each pixel of the image is reached by; the weight by channels.
    """

    rows: int
    patches: Any
    gradient: Any
    gradient_patches: Any
    turned: Any


def geometry(block: Block, n: int, sparse: bool) -> Geometry:
    """sparse: whether the gradient is of what was pooled, and belongs to one row of four."""
    (height, width, channels), filters, padding = block.image, block.conv.filters, block.conv.padding
    step = 2 if block.conv.pool else 1
    phases, (high, wide) = step**2, block.output[:2]
    rows, group = n * high * wide * phases, phases if sparse else 1

    @cuda.jit(device=True)
    def patches(row, column):
        if row >= rows or column >= TAPS * channels:
            return -1, 0
        tap, phase, pixel = column // channels, row % phases, row // phases
        y = pixel // wide % high * step + phase // step + tap // KERNEL - padding
        x = pixel % wide * step + phase % step + tap % KERNEL - padding
        if y < 0 or y >= height or x < 0 or x >= width:
            return -1, 0
        return ((pixel // (wide * high) * height + y) * width + x) * channels + column % channels, 0

    @cuda.jit(device=True)
    def gradient(row, column):
        if row >= rows or column >= filters:
            return -1, 0
        return row // group * filters + column, row % group

    @cuda.jit(device=True)
    def gradient_patches(pixel, column):
        if pixel >= n * height * width or column >= TAPS * filters:
            return -1, 0
        tap = column // filters
        y = pixel // width % height + padding - tap // KERNEL
        x = pixel % width + padding - tap % KERNEL
        if y < 0 or y >= high * step or x < 0 or x >= wide * step:
            return -1, 0
        row = (pixel // (width * height) * high + y // step) * wide + x // step
        return gradient(row * phases + y % step * step + x % step, column % filters)

    @cuda.jit(device=True)
    def turned(channel, column):
        if channel >= channels or column >= TAPS * filters:
            return -1, 0
        return (column // filters * channels + channel) * filters + column % filters, 0

    return Geometry(rows, patches, gradient, gradient_patches, turned)


class Convolution:
    """The kernels of a block: its output, the parts of the gradients by weight and bias, and that by its image.

    by_weight and by_image take the gradient by what is pooled, where ReLU let it pass, with the winners; before a norm,
    which has no bias, that by what was convolved.
    """

    def __init__(self, make: Maker, number: int, block: Block, n: int, relu: bool) -> None:
        self.name, self.block = f"conv{number}", block
        channels, filters, dtype = block.image[-1], block.conv.filters, make.dtype
        sparse = block.conv.pool and not block.conv.norm
        shape = geometry(block, n, sparse)
        inputs, ones = TAPS * channels, not block.conv.norm
        seen = make.loader(shape.patches, channels % WINDOW == 0, ones=(shape.rows, inputs) if ones else (0, -1))
        grads = (dtype, "uint8") if sparse else (dtype,)
        of_weight = make.matrix(inputs + ones, filters)

        finish, outputs = _finish_forward(make, shape.rows, block, relu)
        self.forward = make.product(
            f"{self.name}.forward",
            (shape.rows, filters, inputs + ones),
            Operand(seen, (dtype,), along_sum=True),
            Operand(of_weight, (dtype,), along_sum=False),
            finish,
            outputs,
        )
        sizes = inputs + ones, filters, shape.rows
        self.splits = make.splits(*sizes)
        self.by_weight = make.product(
            f"{self.name}.by_weight",
            sizes,
            Operand(seen, (dtype,), along_sum=False),
            Operand(make.loader(shape.gradient, filters % WINDOW == 0, sparse), grads, along_sum=False),
            make.finish_parts(*sizes[:2]),
            (dtype,),
            self.splits,
        )
        # The images of the first block have no gradient.
        self.by_image = _by_image(make, self.name, block, n, shape, grads, relu) if number > 1 else None


def _by_image(
    make: Maker, name: str, block: Block, n: int, shape: Geometry, grads: tuple[str, ...], relu: bool
) -> Kernel:
    """The gradient by a block's image, where ReLU let it pass: outputs and image."""
    (height, width, channels), filters = block.image, block.conv.filters
    wide, pixels = filters % WINDOW == 0, n * height * width
    return make.product(
        f"{name}.by_image",
        (pixels, channels, TAPS * filters),
        Operand(make.loader(shape.gradient_patches, wide, sparse=len(grads) > 1), grads, along_sum=True),
        Operand(make.loader(shape.turned, wide), (make.dtype,), along_sum=True),
        finish_gated(make, pixels, channels, relu),
        (make.dtype, make.dtype),
    )


def _finish_forward(make: Maker, rows: int, block: Block, relu: bool) -> tuple[Any, tuple[str, ...]]:
    """What becomes of what a convolution gives: for a norm it stays; else ReLU after pooling, with the winners."""
    filters, zero = block.conv.filters, make.zero
    save = make.saver(filters)
    if block.conv.norm:
        return make.finish_parts(rows, filters), (make.dtype,)

    @cuda.jit(device=True)
    def finish_pooled(sums, outputs, row, column, part):
        if row < rows and column < filters:
            for j in range(WINDOW):
                largest, winner = sums[j], 0
                for i in range(1, WINDOW):
                    value = sums[i * WINDOW + j]
                    # A NaN passes.
                    if value > largest or value != value:
                        largest, winner = value, i
                sums[j] = zero if relu and largest <= zero else largest
                if column + j < filters:
                    outputs[1][row // WINDOW * filters + column + j] = winner
            save(outputs[0], row // WINDOW * filters, column, sums, 0)

    @cuda.jit(device=True)
    def finish_plain(sums, outputs, row, column, part):
        for i in range(WINDOW):
            if row + i < rows and column < filters:
                for j in range(i * WINDOW, (i + 1) * WINDOW):
                    sums[j] = zero if relu and sums[j] <= zero else sums[j]
                save(outputs[0], (row + i) * filters, column, sums, i)

    return (finish_pooled, (make.dtype, "uint8")) if block.conv.pool else (finish_plain, (make.dtype,))


def finish_gated(make: Maker, rows: int, columns: int, relu: bool, dropout: bool = False) -> Any:
    """A gradient to outputs[0] where outputs[1], a result of ReLU, is positive; times outputs[2], a dropout mask."""
    zero, save = make.zero, make.saver(columns)

    @cuda.jit(device=True)
    def finish(sums, outputs, row, column, part):
        for i in range(WINDOW):
            if row + i < rows and column < columns:
                start = (row + i) * columns
                for j in range(WINDOW):
                    if column + j < columns:
                        value = sums[i * WINDOW + j]
                        if dropout:
                            value *= outputs[2][start + column + j]
                        sums[i * WINDOW + j] = value if not relu or outputs[1][start + column + j] > zero else zero
                save(outputs[0], start, column, sums, i)

    return finish


class Norm:
    """The kernels of a batch norm with the ReLU and the max-pool behind it.

    moments, statistics: sums by filter, then mean, 1 / deviation and running statistics. forward: what was convolved
    to the block's output. sums, totals: of the gradient times what was normalised, and of the gradient, by filter.
    backward: the gradient by what was convolved, over it.
    """

    def __init__(self, make: Maker, number: int, block: Block, n: int, relu: bool) -> None:
        self.name = f"norm{number}"
        filters, dtype = block.conv.filters, make.dtype
        shape = geometry(block, n, sparse=block.conv.pool)
        grads = (dtype, "uint8") if block.conv.pool else (dtype,)
        by_row, of_filter = make.matrix(shape.rows, filters), make.matrix(2, filters)
        grad_by_row = make.loader(shape.gradient, filters % WINDOW == 0, sparse=block.conv.pool)
        self.moments = _column_sums(
            make, f"{self.name}.moments", shape.rows, filters, _moments(make, filters, by_row), (dtype,)
        )
        self.statistics = _statistics(make, self.name, shape.rows, filters)
        self.forward = _normalise(make, self.name, shape.rows, block, by_row, of_filter, relu)
        add = _gradient_sums(make, by_row, grad_by_row, of_filter)
        self.sums = _column_sums(make, f"{self.name}.sums", shape.rows, filters, add, grads)
        self.totals = _sum_of_parts(make, f"{self.name}.totals", 2 * filters, NORM_PARTS)
        self.backward = _normalise_backward(make, self.name, shape.rows, filters, by_row, grad_by_row, of_filter, grads)


def _column_sums(make: Maker, name: str, rows: int, columns: int, add: Any, grads: tuple[str, ...]) -> Kernel:
    """A kernel that sums two things by column: (convolved,), the gradient, (kept,), and parts of (2, columns).

    add(first, second, convolved, grads, kept, row, column): adds those of four columns of a row.
    """
    element, zero, side, threads = make.element, make.zero, make.side, make.threads
    across, each, size = make.side // WINDOW, -(-rows // NORM_PARTS), padded(2 * columns)

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

    one = (make.dtype,)
    return make.kernel(name, kernel, (-(-columns // side), NORM_PARTS), one, grads, one, make.dtype)


def _moments(make: Maker, filters: int, by_row: Any) -> Any:
    """x - s and its square, where s is the running mean: near the mean, so that little is lost by taking s off again.

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
    """The gradient times what was normalised, and the gradient."""
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
    """From the parts of `_moments` to (2, filters) of mean and 1 / deviation, and running mean and variance."""
    kind, zero, one, size = np.dtype(make.dtype).type, make.zero, make.one, padded(2 * filters)
    share, unbiased, epsilon = kind(1 / rows), kind(rows / (rows - 1)), kind(NORM_EPSILON)
    keep, momentum = kind(1 - NORM_MOMENTUM), kind(NORM_MOMENTUM)

    @cuda.jit
    def kernel(parts, kept, running_mean, running_variance):
        for f in range(cuda.grid(1), filters, cuda.gridsize(1)):
            first, second = zero, zero
            for part in range(NORM_PARTS):
                first += parts[part * size + f]
                second += parts[part * size + filters + f]
            first *= share
            mean = running_mean[f] + first
            variance = second * share - first * first
            variance = zero if variance < zero else variance
            kept[f], kept[filters + f] = mean, one / math.sqrt(variance + epsilon)
            running_mean[f] = keep * running_mean[f] + momentum * mean
            running_variance[f] = keep * running_variance[f] + momentum * variance * unbiased

    return make.items(f"{name}.statistics", kernel, filters, *[make.dtype] * 4)


def _normalise(make: Maker, name: str, rows: int, block: Block, by_row: Any, of_filter: Any, relu: bool) -> Kernel:
    """Batch norm, max-pool and ReLU: (convolved,), (kept,), (scale and shift,), output, winner."""
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
    """(convolved,), the gradient, (kept,), (scale and shift,), (totals,): the gradient, over what was convolved."""
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

    one = (make.dtype,)
    return make.items(f"{name}.backward", kernel, rows * groups, one, grads, one, one, one)


def _adder(make: Maker, size: int, splits: int) -> Any:
    """add(total, parts, item): four elements, added up over all parts of an array."""
    element, zero, accesses, step = make.element, make.zero, make.accesses, padded(size) // WINDOW

    @cuda.jit(device=True)
    def add(total, parts, item):
        four = cuda.local.array(WINDOW, element)
        for i in range(WINDOW):
            total[i] = zero
        for part in range(splits):
            for k in range(accesses):
                vectors.load(four, k, parts, (part * step + item) * accesses + k)
            for i in range(WINDOW):
                total[i] += four[i]

    return add


def _sum_of_parts(make: Maker, name: str, size: int, splits: int) -> Kernel:
    """Parts to their sum, both padded."""
    element, accesses, add, items = make.element, make.accesses, _adder(make, size, splits), padded(size) // WINDOW

    @cuda.jit
    def kernel(parts, total):
        four = cuda.local.array(WINDOW, element)
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            add(four, parts, item)
            for k in range(accesses):
                vectors.store(total, item * accesses + k, four, k)

    return make.items(name, kernel, items, make.dtype, make.dtype)


class Dense:
    """The kernels of a dense layer. gated: whether its input is a result of ReLU; dropped: with dropout behind it."""

    def __init__(self, make: Maker, number: int, layer: Layer, n: int, relu: bool, gated: bool, dropped: bool) -> None:
        self.name, self.layer = f"dense{number}", layer
        inputs, units, dtype = layer.inputs, layer.units, make.dtype
        given = make.matrix(n, inputs, ones=True)
        weight, grad = make.matrix(inputs + 1, units), make.matrix(n, units)
        sizes = n, units, inputs + 1
        self.splits = make.splits(*sizes)
        self.forward = make.product(
            f"{self.name}.forward",
            sizes,
            Operand(given, (dtype,), along_sum=True),
            Operand(weight, (dtype,), along_sum=False),
            make.finish_parts(n, units),
            (dtype,),
            self.splits,
        )
        self.by_weight = make.product(
            f"{self.name}.by_weight",
            (inputs + 1, units, n),
            Operand(given, (dtype,), along_sum=False),
            Operand(grad, (dtype,), along_sum=False),
            make.finish_parts(inputs + 1, units),
            (dtype,),
        )
        self.by_input = make.product(
            f"{self.name}.by_input",
            (n, inputs, units),
            Operand(grad, (dtype,), along_sum=True),
            # By rows of the weight, which are the columns of the result.
            Operand(make.matrix(inputs, units), (dtype,), along_sum=True),
            finish_gated(make, n, inputs, relu and gated, dropped),
            (dtype, dtype, dtype) if dropped else (dtype, dtype),
        )
        self.rectify = _rectify(make, self.name, n * units, self.splits, relu) if layer.hidden else None


def _rectify(make: Maker, name: str, size: int, splits: int, relu: bool) -> Kernel:
    """The sum of a hidden layer's parts, its ReLU, times the dropout mask."""
    zero, step = make.zero, padded(size)

    @cuda.jit
    def kernel(parts, mask, output):
        for i in range(cuda.grid(1), size, cuda.gridsize(1)):
            value = zero
            for part in range(splits):
                value += parts[part * step + i]
            output[i] = (zero if relu and value <= zero else value) * mask[i]

    return make.items(f"{name}.rectify", kernel, size, *[make.dtype] * 3)


def _cross_entropy(make: Maker, n: int, classes: int, splits: int) -> Kernel:
    """From the parts of the logits and the labels to the gradient by the logits, and the loss. One block."""
    kind, zero, one, threads, element = np.dtype(make.dtype).type, make.zero, make.one, make.threads, make.element
    share, step = kind(1 / n), padded(n * classes)

    @cuda.jit
    def kernel(parts, labels, grad, loss):
        losses = cuda.shared.array(threads, element)
        thread, mine = cuda.threadIdx.x, zero
        for image in range(thread, n, threads):
            start = image * classes
            largest = zero
            for k in range(start, start + classes):
                score = zero
                for part in range(splits):
                    score += parts[part * step + k]
                grad[k] = score
                largest = score if k == start or score > largest else largest
            total = zero
            for k in range(start, start + classes):
                total += math.exp(grad[k] - largest)
            correct = start + labels[image]
            mine += (math.log(total) - (grad[correct] - largest)) * share
            for k in range(start, start + classes):
                grad[k] = (math.exp(grad[k] - largest) / total - (one if k == correct else zero)) * share
        losses[thread] = mine
        half = threads // 2
        while half:
            cuda.syncthreads()
            if thread < half:
                losses[thread] += losses[thread + half]
            half //= 2
        if thread == 0:
            loss[0] = losses[0]

    return make.kernel("loss", kernel, (1,), make.dtype, "int64", make.dtype, make.dtype)


def _average(make: Maker, n: int, pixels: int, channels: int, relu: bool) -> tuple[Kernel, Kernel]:
    """The mean over all pixels, and its gradient where ReLU let a pixel pass."""
    zero, share = make.zero, np.dtype(make.dtype).type(1 / pixels)

    @cuda.jit
    def forward(last, average):
        for i in range(cuda.grid(1), n * channels, cuda.gridsize(1)):
            start, value = i // channels * pixels * channels + i % channels, zero
            for pixel in range(pixels):
                value += last[start + pixel * channels]
            average[i] = value * share

    @cuda.jit
    def backward(average_grad, last, last_grad):
        for i in range(cuda.grid(1), n * pixels * channels, cuda.gridsize(1)):
            value = average_grad[i // (pixels * channels) * channels + i % channels] * share
            last_grad[i] = value if not relu or last[i] > zero else zero

    dtype = make.dtype
    return (
        make.items("average.forward", forward, n * channels, dtype, dtype),
        make.items("average.backward", backward, n * pixels * channels, dtype, dtype, dtype),
    )


def _update(make: Maker, name: str, size: int, splits: int) -> Kernel:
    """The sum of the parts of a gradient, momentum, then the parameters; all padded."""
    kind, element, accesses = np.dtype(make.dtype).type, make.element, make.accesses
    momentum, rate = kind(MOMENTUM), kind(LEARNING_RATE)
    add, items = _adder(make, size, splits), padded(size) // WINDOW

    @cuda.jit
    def kernel(parts, velocities, parameters):
        gradient = cuda.local.array(WINDOW, element)
        velocity, parameter = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            add(gradient, parts, item)
            for k in range(accesses):
                vectors.load(velocity, k, velocities, item * accesses + k)
                vectors.load(parameter, k, parameters, item * accesses + k)
            for i in range(WINDOW):
                velocity[i] = momentum * velocity[i] + gradient[i]
                parameter[i] -= rate * velocity[i]
            for k in range(accesses):
                vectors.store(velocities, item * accesses + k, velocity, k)
                vectors.store(parameters, item * accesses + k, parameter, k)

    return make.items(f"{name}.update", kernel, items, *[make.dtype] * 3)


class Kernels:
    """All kernels of a step on n images. They know no memory, and are compiled at their first call."""

    def __init__(self, network: Network, n: int, dtype: str, relu: bool, side: int = SIDE) -> None:
        make = Maker(dtype, side)
        made, dense = blocks(network), layers(network)
        self.convs = [Convolution(make, number, block, n, relu) for number, block in enumerate(made, 1)]
        self.norms = [
            Norm(make, number, block, n, relu) if block.conv.norm else None for number, block in enumerate(made, 1)
        ]
        height, width, channels = made[-1].output
        self.average = _average(make, n, height * width, channels, relu) if network.average else None
        self.dense = [
            Dense(make, number, layer, n, relu, gated=number > 1 or not network.average, dropped=number > 1)
            for number, layer in enumerate(dense, 1)
        ]
        self.loss = _cross_entropy(make, n, network.classes, self.dense[-1].splits)
        splits = {one.name: one.splits for one in self.convs}
        splits |= {norm.name: NORM_PARTS for norm in self.norms if norm}
        # A layer sums its gradients over no more than the images.
        self.splits = splits | {layer.name: 1 for layer in self.dense}
        self.sizes = {
            group: sum(prod(shape) for name, shape in parameter_shapes(network).items() if name.startswith(f"{group}."))
            for group in self.splits
        }
        self.updates = {group: _update(make, group, self.sizes[group], self.splits[group]) for group in self.splits}

    def listed(self) -> list[Kernel]:
        """Every kernel that a step launches."""
        found = [self.loss, *self.updates.values(), *(self.average or ())]
        for owner in (*self.convs, *filter(None, self.norms), *self.dense):
            found += [one for one in vars(owner).values() if isinstance(one, Kernel)]
        return found


class Step:
    """A step on the current device (`impls.cnn`). side: of the squares of products."""

    def __init__(
        self, network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, side: int = SIDE
    ) -> None:
        require(network, parameters, n, dtype, relu, ("inplace", "none"))
        self.network, self.n, self.dtype = network, n, np.dtype(dtype)
        self.kernels = Kernels(network, n, dtype, relu != "none", side)
        self.shapes = parameter_shapes(network)
        self.parameters = {group: self._grouped(group, parameters) for group in self.kernels.sizes}
        nothing = {name: np.zeros(shape) for name, shape in self.shapes.items()}
        self.velocities = {group: self._grouped(group, nothing) for group in self.kernels.sizes}
        self.parts = {
            # What pads a part is added up with it.
            group: cuda.to_device(np.zeros(splits * padded(self.kernels.sizes[group]), dtype))
            for group, splits in self.kernels.splits.items()
        }
        self.statistics = {
            name: cuda.to_device(value.astype(dtype)) for name, value in initial_statistics(network).items()
        }
        self._allocate()
        self.given: Any = None

    def _allocate(self) -> None:
        """What a step writes. inputs: of dense layers; the first one's is the last block's output, or its average."""
        n, found = self.n, blocks(self.network)
        self.outputs = [self._empty(n * prod(block.output)) for block in found]
        self.output_grads = [self._empty(n * prod(block.output)) for block in found]
        self.winners = [
            cuda.device_array(n * prod(block.output) if block.conv.pool else 1, np.uint8) for block in found
        ]
        norms = [block.conv.filters if block.conv.norm else 0 for block in found]
        self.convolved = [self._empty(n * prod(b.used) if f else 0) for b, f in zip(found, norms, strict=True)]
        self.kept = [self._empty(padded(2 * filters)) for filters in norms]
        self.totals = [self._empty(padded(2 * filters)) for filters in norms]
        dense = layers(self.network)
        self.scores = [
            self._empty(kernels.splits * padded(n * layer.units))
            for kernels, layer in zip(self.kernels.dense, dense, strict=True)
        ]
        first = self._empty(n * dense[0].inputs) if self.network.average else self.outputs[-1]
        self.inputs = [first, *(self._empty(n * layer.units) for layer in dense if layer.hidden)]
        first_grad = self._empty(n * dense[0].inputs) if self.network.average else self.output_grads[-1]
        self.input_grads = [first_grad, *(self._empty(n * layer.units) for layer in dense if layer.hidden)]
        self.logits_grad, self.loss = self._empty(n * self.network.classes), self._empty(1)

    def _empty(self, size: int) -> Any:
        return cuda.device_array(size, self.dtype)

    def _grouped(self, group: str, values: dict[str, Array]) -> Any:
        """The arrays of a layer behind each other, on the device."""
        whole = np.zeros(padded(self.kernels.sizes[group]), self.dtype)
        flat = np.concatenate([values[name].ravel() for name in self.shapes if name.startswith(f"{group}.")])
        whole[: flat.size] = flat
        return cuda.to_device(whole)

    def put(self, batch: Batch) -> Any:
        require_batch(self.network, self.n, batch)
        masks = [cuda.to_device(mask.ravel().astype(self.dtype)) for mask in batch.masks]
        images = cuda.to_device(batch.images.ravel().astype(self.dtype))
        return images, cuda.to_device(batch.labels.astype(np.int64)), masks

    def __call__(self, given: Any, mark: Callable[[str], None] = unmarked) -> float:
        self.forward(given)
        mark("forward")
        self.kernels.loss(self.scores[-1], given[1], self.logits_grad, self.loss)
        mark("loss")
        self.backward(given)
        mark("backward")
        for group, update in self.kernels.updates.items():
            update(self.parts[group], self.velocities[group], self.parameters[group])
        mark("update")
        return float(self.loss.copy_to_host()[0])

    def forward(self, given: Any) -> None:
        """To the parts of the logits."""
        self.given, (image, _, masks) = given, given
        for i, (conv, norm) in enumerate(zip(self.kernels.convs, self.kernels.norms, strict=True)):
            weight, output = self.parameters[conv.name], self.outputs[i]
            if norm:
                conv.forward((image,), (weight,), (self.convolved[i],))
                self._normalise(i, norm)
            else:
                outputs = (output, self.winners[i]) if conv.block.conv.pool else (output,)
                conv.forward((image,), (weight,), outputs)
            image = output
        if self.kernels.average:
            self.kernels.average[0](image, self.inputs[0])
        for i, dense in enumerate(self.kernels.dense):
            dense.forward((self.inputs[i],), (self.parameters[dense.name],), (self.scores[i],))
            if dense.rectify:
                dense.rectify(self.scores[i], masks[i], self.inputs[i + 1])

    def _normalise(self, i: int, norm: Norm) -> None:
        convolved, kept, parts = (self.convolved[i],), (self.kept[i],), self.parts[norm.name]
        mean, variance = (self.statistics[f"{norm.name}.{name}"] for name in ("mean", "variance"))
        norm.moments(convolved, convolved, (mean,), parts)
        norm.statistics(parts, self.kept[i], mean, variance)
        norm.forward(convolved, kept, (self.parameters[norm.name],), self.outputs[i], self.winners[i])

    def backward(self, given: Any) -> None:
        """To the parts of all gradients."""
        image, _, masks = given
        grad = self.logits_grad
        for i, dense in reversed(list(enumerate(self.kernels.dense))):
            x, x_grad = self.inputs[i], self.input_grads[i]
            dense.by_weight((x,), (grad,), (self.parts[dense.name],))
            outputs = (x_grad, x, masks[i - 1]) if i else (x_grad, x)
            dense.by_input((grad,), (self.parameters[dense.name],), outputs)
            grad = x_grad
        if self.kernels.average:
            self.kernels.average[1](grad, self.outputs[-1], self.output_grads[-1])
        for i, (conv, norm) in reversed(list(enumerate(zip(self.kernels.convs, self.kernels.norms, strict=True)))):
            pooled = conv.block.conv.pool
            grads = (self.output_grads[i], self.winners[i]) if pooled else (self.output_grads[i],)
            if norm:
                grads = self._normalise_backward(i, norm, grads)
            before = self.outputs[i - 1] if i else image
            conv.by_weight((before,), grads, (self.parts[conv.name],))
            if conv.by_image:
                conv.by_image(grads, (self.parameters[conv.name],), (self.output_grads[i - 1], before))

    def _normalise_backward(self, i: int, norm: Norm, grads: Any) -> Any:
        convolved, kept, parts = (self.convolved[i],), (self.kept[i],), self.parts[norm.name]
        norm.sums(convolved, grads, kept, parts)
        norm.totals(parts, self.totals[i])
        norm.backward(convolved, grads, kept, (self.parameters[norm.name],), (self.totals[i],))
        return convolved

    def state(self) -> State:
        statistics = {name: value.copy_to_host() for name, value in self.statistics.items()}
        return State(self._named(self.parameters), self._named(self.velocities), statistics)

    def _named(self, groups: dict[str, Any]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for group, array in groups.items():
            whole, start = array.copy_to_host(), 0
            for name, shape in self.shapes.items():
                if name.startswith(f"{group}."):
                    found[name] = whole[start : start + prod(shape)].reshape(shape).copy()
                    start += prod(shape)
        return {name: found[name] for name in self.shapes}

    def saved(self) -> list[Any]:
        """The arrays that the forward pass wrote, or was given, and the backward pass reads; no parameters."""
        norms = [self.statistics.get(f"norm{number}.mean") for number in range(1, len(self.kept) + 1)]
        kept = [array for array in self.convolved if array.size]
        kept += [array[: 2 * norm.size] for array, norm in zip(self.kept, norms, strict=True) if norm is not None]
        winners = [w for w, conv in zip(self.winners, self.kernels.convs, strict=True) if conv.block.conv.pool]
        inputs = self.inputs if self.network.average else self.inputs[1:]
        return [self.given[0], *self.outputs, *winners, *kept, *inputs, *self.given[2]]
