"""The layers after the last block: global average, dense layers with dropout, and the loss."""

import math

import numpy as np
from numba import cuda

from impls.cnn.architecture import Layer
from impls.cnn.numba_cuda.products import Kernel, Maker, Operand, padded


class Dense:
    """The kernels of a dense layer. gated: its input is a result of ReLU. dropped: its input went through dropout."""

    def __init__(self, make: Maker, number: int, layer: Layer, n: int, relu: bool, gated: bool, dropped: bool) -> None:
        self.name, self.layer = f"dense{number}", layer
        inputs, units, dtype = layer.inputs, layer.units, make.dtype
        left = make.matrix(n, inputs, ones=True)
        weight, grad = make.matrix(inputs + 1, units), make.matrix(n, units)
        self.forward = make.product(
            f"{self.name}.forward",
            (n, units, inputs + 1),
            Operand(left, (dtype,), along_sum=True),
            Operand(weight, (dtype,), along_sum=False),
            make.finish_parts(n, units),
            (dtype,),
            split=True,
        )
        self.splits = self.forward.splits
        self.by_weight = make.product(
            f"{self.name}.by_weight",
            (inputs + 1, units, n),
            Operand(left, (dtype,), along_sum=False),
            Operand(grad, (dtype,), along_sum=False),
            make.finish_parts(inputs + 1, units),
            (dtype,),
        )
        self.by_input = make.product(
            f"{self.name}.by_input",
            (n, inputs, units),
            Operand(grad, (dtype,), along_sum=True),
            # Rows of the weight are columns of the result.
            Operand(make.matrix(inputs, units), (dtype,), along_sum=True),
            make.finish_gated(n, inputs, relu and gated, dropped),
            (dtype, dtype, dtype) if dropped else (dtype, dtype),
        )
        self.rectify = _rectify(make, self.name, n * units, self.splits, relu) if layer.hidden else None


def _rectify(make: Maker, name: str, size: int, splits: int, relu: bool) -> Kernel:
    """Make the kernel that sums a hidden layer's parts, applies ReLU, and multiplies by the dropout mask."""
    zero, step = make.zero, padded(size)

    @cuda.jit
    def kernel(parts, mask, output):
        for i in range(cuda.grid(1), size, cuda.gridsize(1)):
            value = zero
            for part in range(splits):
                value += parts[part * step + i]
            output[i] = (zero if relu and value <= zero else value) * mask[i]

    return make.items(f"{name}.rectify", kernel, size, *[make.dtype] * 3)


def cross_entropy(make: Maker, n: int, classes: int, splits: int) -> Kernel:
    """Make the kernel, of one block, that computes the loss and the logits' gradient from parts of the logits."""
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


def average(make: Maker, n: int, pixels: int, channels: int, relu: bool) -> tuple[Kernel, Kernel]:
    """Make the kernels of the mean over all pixels, and of its gradient where ReLU passed a pixel."""
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
