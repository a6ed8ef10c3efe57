"""A 3 x 3 convolution with bias, max-pool and ReLU, and its gradients, each one tiled implicit GEMM.

Operands are read in place: the windows of a filter and the gradients of pooled images are never materialised. The four
rows of a thread are the four outputs that a max-pool compares, so max-pool and ReLU happen in registers.
"""

from typing import Any, NamedTuple

from numba import cuda

from impls.cnn.architecture import KERNEL, Block
from impls.cnn.numba_cuda.products import WINDOW, Kernel, Maker, Operand
from impls.cuda_integers import LIMIT, quotient, remainder

TAPS = KERNEL**2


class Geometry(NamedTuple):
    """Index functions of a block for n images, specialised for its sizes.

    rows: outputs of the convolution that pooling reads, in all images; the four that it compares are neighbours.
    The others are `at` functions of operands (`products.Maker.loader`). patches: the window of each row. gradient: the
    gradient of each row. gradient_patches: the gradients that reach each image pixel. turned: the weight by channels.
    """

    rows: int
    patches: Any
    gradient: Any
    gradient_patches: Any
    turned: Any


def geometry(block: Block, n: int, sparse: bool) -> Geometry:
    """Return the index functions. sparse: the gradient is of a pooled image, and belongs to one row of four.

    Raises ValueError where the number of a row or pixel does not fit 32 bits.
    """
    (height, width, channels), filters, padding = block.image, block.conv.filters, block.conv.padding
    step = 2 if block.conv.pool else 1
    phases, (high, wide) = step**2, block.output[:2]
    rows, pixels, group = n * high * wide * phases, n * height * width, phases if sparse else 1
    if max(rows, pixels) > LIMIT:
        most = LIMIT // max(high * wide * phases, height * width)
        raise ValueError(f"n: {n} images of {height} x {width} given, at most {most} have indices of 32 bits")

    @cuda.jit(device=True)
    def patches(row, column):
        if row >= rows or column >= TAPS * channels:
            return -1, 0
        tap, phase, pixel = quotient(column, channels), remainder(row, phases), quotient(row, phases)
        line, image = quotient(pixel, wide), quotient(pixel, wide * high)
        y = remainder(line, high) * step + quotient(phase, step) + quotient(tap, KERNEL) - padding
        x = remainder(pixel, wide) * step + remainder(phase, step) + remainder(tap, KERNEL) - padding
        if y < 0 or y >= height or x < 0 or x >= width:
            return -1, 0
        return ((image * height + y) * width + x) * channels + remainder(column, channels), 0

    @cuda.jit(device=True)
    def gradient(row, column):
        if row >= rows or column >= filters:
            return -1, 0
        return quotient(row, group) * filters + column, remainder(row, group)

    @cuda.jit(device=True)
    def gradient_patches(pixel, column):
        if pixel >= pixels or column >= TAPS * filters:
            return -1, 0
        tap = quotient(column, filters)
        line, image = quotient(pixel, width), quotient(pixel, width * height)
        y = remainder(line, height) + padding - quotient(tap, KERNEL)
        x = remainder(pixel, width) + padding - remainder(tap, KERNEL)
        if y < 0 or y >= high * step or x < 0 or x >= wide * step:
            return -1, 0
        row = (image * high + quotient(y, step)) * wide + quotient(x, step)
        phase = remainder(y, step) * step + remainder(x, step)
        return gradient(row * phases + phase, remainder(column, filters))

    @cuda.jit(device=True)
    def turned(channel, column):
        if channel >= channels or column >= TAPS * filters:
            return -1, 0
        tap = quotient(column, filters)
        return (tap * channels + channel) * filters + remainder(column, filters), 0

    return Geometry(rows, patches, gradient, gradient_patches, turned)


class Convolution:
    """The kernels of a block: forward, by_weight (parts of the weight and bias gradients) and by_image.

    by_weight and by_image read the gradient of the pooled output, where ReLU passed it, with the winners; before a
    batch norm, where there is no bias, they read the gradient of the convolution's result.
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
        self.by_weight = make.product(
            f"{self.name}.by_weight",
            sizes,
            Operand(seen, (dtype,), along_sum=False),
            Operand(make.loader(shape.gradient, filters % WINDOW == 0, sparse), grads, along_sum=False),
            make.finish_parts(*sizes[:2]),
            (dtype,),
            split=True,
        )
        self.splits = self.by_weight.splits
        # The first block needs no gradient of its images.
        self.by_image = _by_image(make, self.name, block, n, shape, grads, relu) if number > 1 else None


def _by_image(
    make: Maker, name: str, block: Block, n: int, shape: Geometry, grads: tuple[str, ...], relu: bool
) -> Kernel:
    """Make the kernel of the image gradient, where ReLU passed the image. Its outputs: the gradient, the image."""
    (height, width, channels), filters = block.image, block.conv.filters
    wide, pixels = filters % WINDOW == 0, n * height * width
    return make.product(
        f"{name}.by_image",
        (pixels, channels, TAPS * filters),
        Operand(make.loader(shape.gradient_patches, wide, sparse=len(grads) > 1), grads, along_sum=True),
        Operand(make.loader(shape.turned, wide), (make.dtype,), along_sum=True),
        make.finish_gated(pixels, channels, relu),
        (make.dtype, make.dtype),
    )


def _finish_forward(make: Maker, rows: int, block: Block, relu: bool) -> tuple[Any, tuple[str, ...]]:
    """Return the `finish` of a convolution and its outputs' dtypes: unchanged before a norm, else max-pool and ReLU."""
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
                    # This comparison passes NaN.
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
