"""A training step in NumPy, written by hand: no autograd.

The ideas, each of which the speed needs:

- Convolutions are matrix products, of a few images at a time, which stay in cache: of columns (im2col) where there are
  few channels, of tiles where there are many (`winograd`), which takes 16 multiplications where columns take 36.
- The four positions that a max-pool compares come one after the other (`phases`), so that pooling compares four
  contiguous arrays; positions that pooling drops are not computed.
- Bias and ReLU come after pooling, where a quarter of the elements is left: max(x) + b = max(x + b), and the same
  for ReLU. Batch norm comes before, as its scale may be negative.
- Each thread takes a part of the batch through a layer, with BLAS on one thread: NumPy's loops let go of the GIL.
- Large arrays are allocated once. Which of four elements was largest is a byte.

Source of im2col: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document
processing", 2006; of merging moments: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from threadpoolctl import threadpool_limits

from impls.cnn import winograd
from impls.cnn.architecture import KERNEL, Network
from impls.cnn.networks import LEARNING_RATE, MOMENTUM, NORM_EPSILON, NORM_MOMENTUM, Array
from impls.cnn.operations import parameter_shapes
from impls.cnn.reference import cross_entropy
from impls.cnn.workspace import Convolution, Framed, HandWritten, Named, parts


def build(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> "Step":
    return Step(network, parameters, n, dtype, relu)


class Scratch:
    """Where one thread computes: memory for the largest chunk of any block, and its share of the gradients."""

    def __init__(self, convs: list[Convolution], shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
        convolved = max(conv.chunk * conv.rows * conv.conv.filters for conv in convs)
        tiled = [conv for conv in convs if conv.products > 1]
        self.columns = np.empty(max(conv.chunk * _columns_elements(conv) for conv in convs), dtype)
        self.convolved, self.grads = np.empty(convolved, dtype), np.empty(convolved, dtype)
        self.pooled, self.bytes_ = np.empty(convolved, dtype), np.empty((3, convolved), np.uint8)
        self.products = np.empty(
            max((conv.chunk * 16 * conv.pixels * conv.conv.filters for conv in tiled), default=0), dtype
        )
        self.tile_rows = np.empty(max((conv.chunk * prod(_tile_rows(conv, 1)) for conv in tiled), default=0), dtype)
        self.ones = np.ones(max(conv.chunk * conv.rows for conv in convs), dtype)
        self.gradients = Named(shapes, dtype)
        # By the filters as the products take them: of all chunks, and of one.
        self.filters = {conv.name: np.zeros((conv.products, conv.inputs, conv.conv.filters), dtype) for conv in convs}
        self.of_chunk = np.empty(max(array.size for array in self.filters.values()), dtype)


class Step(HandWritten):
    """A step on n images with arrays of its own (`impls.cnn`): forward, loss, backward, update."""

    def __init__(self, network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> None:
        super().__init__(network, parameters, n, dtype, relu)
        self.parts = parts(n, min(n, len(os.sched_getaffinity(0))))
        # Of convolutions, those of a filter: biases, scales and shifts.
        shapes: dict[str, tuple[int, ...]] = {
            name: shape
            for name, shape in parameter_shapes(network).items()
            if not name.startswith("dense") and len(shape) == 1
        }
        self.scratch = [Scratch(self.convs, shapes, dtype) for _ in self.parts]
        self.filters: dict[str, Array] = {}
        self.threads = ThreadPoolExecutor(len(self.parts))
        # Each thread calls BLAS for its own part of the batch.
        threadpool_limits(1, "blas")

    def forward(self, given: Any) -> Array:
        images, _, masks = given
        Framed(self.convs[0].frame, self.convs[0].padding).inside[...] = images
        self.filters = {conv.name: conv.filters(self.parameters[f"{conv.name}.weight"]) for conv in self.convs}
        for conv in self.convs:
            if conv.conv.norm:
                self._normalise(conv, self._each(conv, self._convolve_and_sum))
                self._each(conv, self._activate)
            else:
                self._each(conv, self._convolve_and_activate)
        last = self.memory.last
        y = last.mean((1, 2)) if self.network.average else last.reshape(self.n, -1)
        self.dense_inputs = [y]
        for dense, mask in zip(self.dense, [*masks, None], strict=True):
            np.matmul(y, self.parameters[f"{dense.name}.weight"], out=dense.before_relu)
            dense.before_relu += self.parameters[f"{dense.name}.bias"]
            if dense.hidden:
                if self.rectifies:
                    np.clip(dense.before_relu, 0, np.inf, out=dense.output)
                y = dense.output * mask
                self.dense_inputs.append(y)
        return self.dense[-1].output

    def loss(self, scores: Array, given: Any) -> tuple[float, Array]:
        return cross_entropy(scores, given[1])

    def backward(self, grad: Array, given: Any) -> None:
        for scratch in self.scratch:
            for array in (scratch.gradients.vector, *scratch.filters.values()):
                array[...] = 0
        for dense, x, mask in reversed(list(zip(self.dense, self.dense_inputs, [*given[2], None], strict=True))):
            if dense.hidden:
                grad *= mask
                if self.rectifies:
                    grad *= dense.output > 0
            np.matmul(x.T, grad, out=self.memory.gradients[f"{dense.name}.weight"])
            np.sum(grad, 0, out=self.memory.gradients[f"{dense.name}.bias"])
            grad = grad @ self.parameters[f"{dense.name}.weight"].T
        last_grad = self.memory.last_grad
        if self.network.average:
            last_grad[...] = (grad / prod(last_grad.shape[1:3]))[:, None, None, :]
        else:
            last_grad[...] = grad.reshape(last_grad.shape)
        for conv in reversed(self.convs):
            if conv.conv.norm:
                self._each(conv, self._sum_backward)
                self._normalise_backward(conv)
                self._each(conv, self._convolve_backward_normalised)
            else:
                self._each(conv, self._convolve_backward)
        for name in self.scratch[0].gradients.arrays:
            self.memory.gradients[name][...] = sum(scratch.gradients[name] for scratch in self.scratch)
        for conv in self.convs:
            by_filters = np.sum([scratch.filters[conv.name] for scratch in self.scratch], 0)
            self.memory.gradients[f"{conv.name}.weight"][...] = conv.filters_backward(by_filters)

    def update(self) -> None:
        velocities, change = self.memory.velocities.vector, self.memory.gradients.vector
        velocities *= MOMENTUM
        velocities += change
        np.multiply(velocities, LEARNING_RATE, out=change)
        self.parameters.vector -= change

    def _each(self, conv: Convolution, function: Callable[[Convolution, slice, Scratch], Any]) -> list[Any]:
        """The results of a function of all chunks of the batch, each thread with its part."""

        def run(part: tuple[int, int], scratch: Scratch) -> list[Any]:
            starts = range(*part, conv.chunk)
            return [function(conv, slice(i, min(i + conv.chunk, part[1])), scratch) for i in starts]

        waiting = [
            self.threads.submit(run, part, scratch)
            for part, scratch in zip(self.parts[1:], self.scratch[1:], strict=True)
        ]
        own = run(self.parts[0], self.scratch[0])
        return [result for results in (own, *(one.result() for one in waiting)) for result in results]

    # Forward, of a chunk of images

    def _convolve(self, conv: Convolution, chunk: slice, scratch: Scratch, out: Array) -> None:
        columns, filters = self._columns(conv, chunk, scratch), self.filters[conv.name]
        if conv.products == 1:
            np.matmul(columns[0], filters[0], out=out)
            return
        products = _products(conv, chunk, scratch)
        np.matmul(columns, filters, out=products)
        winograd.outputs(products.reshape(4, 4, *products.shape[1:]), out.reshape(2, 2, *products.shape[1:]))

    def _columns(self, conv: Convolution, chunk: slice, scratch: Scratch) -> Array:
        """What is multiplied by the filters, (products, rows, inputs)."""
        frame = conv.frame[chunk]
        columns = scratch.columns[: len(frame) * _columns_elements(conv)].reshape(conv.products, -1, conv.inputs)
        if conv.products == 1:
            windows = _windows(conv, frame, KERNEL * frame.shape[3])
            np.copyto(columns.reshape(windows.shape), windows)
        else:
            winograd.tiles(frame, _tiles(conv, columns), _tile_room(conv, len(frame), scratch))
        return columns

    def _convolve_and_activate(self, conv: Convolution, chunk: slice, scratch: Scratch) -> None:
        convolved = _room(scratch.convolved, conv, chunk)
        self._convolve(conv, chunk, scratch, convolved)
        self._pool_and_rectify(conv, chunk, scratch, convolved, self.parameters[f"{conv.name}.bias"])

    def _convolve_and_sum(self, conv: Convolution, chunk: slice, scratch: Scratch) -> tuple[int, Array, Array]:
        """Rows, their mean, and the sum of the squares of what they are off it, by channel."""
        convolved = _kept(conv, chunk)
        self._convolve(conv, chunk, scratch, convolved)
        ones, off = scratch.ones[: len(convolved)], _room(scratch.convolved, conv, chunk)
        mean = ones @ convolved
        mean /= len(convolved)
        np.subtract(convolved, mean, out=off)
        np.multiply(off, off, out=off)
        return len(convolved), mean, ones @ off

    def _normalise(self, conv: Convolution, moments: list[tuple[int, Array, Array]]) -> None:
        """Mean and deviation of the batch, and the running statistics."""
        rows = sum(count for count, _, _ in moments)
        mean = np.sum([count * one for count, one, _ in moments], 0) / rows
        squares = np.sum([square + count * (one - mean) ** 2 for count, one, square in moments], 0)
        conv.mean, conv.deviation = mean, np.sqrt(squares / rows + NORM_EPSILON)
        for name, value in (("mean", mean), ("variance", squares / (rows - 1))):
            running = self.statistics[f"{conv.norm}.{name}"]
            running += NORM_MOMENTUM * (value - running)

    def _activate(self, conv: Convolution, chunk: slice, scratch: Scratch) -> None:
        normalised = _room(scratch.convolved, conv, chunk)
        factor = self.parameters[f"{conv.norm}.scale"] / conv.deviation
        np.multiply(_kept(conv, chunk), factor, out=normalised)
        shift = self.parameters[f"{conv.norm}.shift"] - conv.mean * factor
        self._pool_and_rectify(conv, chunk, scratch, normalised, shift)

    def _pool_and_rectify(self, conv: Convolution, chunk: slice, scratch: Scratch, rows: Array, shift: Array) -> None:
        """Largest of the phases, shift (the same for all of them) and ReLU, to the block's output."""
        output, target = conv.output.inside[chunk], conv.target.inside[chunk]
        if conv.winner is None:
            for phase, pixels in zip(
                rows.reshape(conv.phases, len(output), *conv.size, -1), _phases(conv, target), strict=True
            ):
                np.add(phase, shift, out=pixels)
        else:
            phases = rows.reshape(conv.phases, *output.shape)
            right, lower_right, lower = scratch.bytes_[:, : output.size].reshape(3, *output.shape)
            np.greater(phases[1], phases[0], out=right.view(bool))
            np.greater(phases[3], phases[2], out=lower_right.view(bool))
            np.maximum(phases[0], phases[1], out=phases[0])
            np.maximum(phases[2], phases[3], out=phases[2])
            np.greater(phases[2], phases[0], out=lower.view(bool))
            np.maximum(phases[0], phases[2], out=phases[0])
            np.add(phases[0], shift, out=target)
            # The phase: right, or where a lower one is larger 2 + lower_right, without a branch.
            lower_right += 2
            lower_right -= right
            lower_right *= lower
            np.add(right, lower_right, out=conv.winner[chunk])
        if self.rectifies:
            np.clip(target, 0, np.inf, out=output)

    # Backward, of a chunk of images

    def _pool_backward(self, conv: Convolution, chunk: slice, scratch: Scratch) -> tuple[Array, Array]:
        """The gradient by what ReLU was given, (pixels, filters), and by each phase, (rows, filters)."""
        output = conv.output.inside[chunk]
        pooled = scratch.pooled[: output.size].reshape(output.shape)
        mask = scratch.bytes_[0, : output.size].reshape(output.shape).view(bool)
        if self.rectifies:
            np.multiply(conv.output_grad.inside[chunk], np.greater(output, 0, out=mask), out=pooled)
        else:
            pooled[...] = conv.output_grad.inside[chunk]
        grads = _room(scratch.grads, conv, chunk)
        phases = grads.reshape(conv.phases, len(output), *conv.size, -1)
        if conv.winner is None:
            for grad, pixels in zip(phases, _phases(conv, pooled), strict=True):
                grad[...] = pixels
        else:
            for phase, grad in enumerate(phases):
                np.multiply(pooled, np.equal(conv.winner[chunk], phase, out=mask), out=grad)
        return pooled.reshape(-1, conv.conv.filters), grads

    def _convolve_backward(self, conv: Convolution, chunk: slice, scratch: Scratch) -> None:
        pooled, grads = self._pool_backward(conv, chunk, scratch)
        bias = scratch.gradients[f"{conv.name}.bias"]
        bias += scratch.ones[: len(pooled)] @ pooled
        self._multiply_backward(conv, chunk, scratch, grads)

    def _sum_backward(self, conv: Convolution, chunk: slice, scratch: Scratch) -> None:
        """The gradients by scale and shift."""
        pooled, grads = self._pool_backward(conv, chunk, scratch)
        off = _room(scratch.convolved, conv, chunk)
        np.subtract(_kept(conv, chunk), conv.mean, out=off)
        off *= grads
        shift, scale = (scratch.gradients[f"{conv.norm}.{name}"] for name in ("shift", "scale"))
        shift += scratch.ones[: len(pooled)] @ pooled
        scale += (scratch.ones[: len(off)] @ off) / conv.deviation

    def _normalise_backward(self, conv: Convolution) -> None:
        """The terms of the gradient by what was normalised: factor grad + slope x + offset."""
        rows = self.n * conv.rows
        shift, scale = (
            sum(scratch.gradients[f"{conv.norm}.{name}"] for scratch in self.scratch) for name in ("shift", "scale")
        )
        factor = self.parameters[f"{conv.norm}.scale"] / conv.deviation
        slope = -factor * scale / (rows * conv.deviation)
        self.terms = factor, slope, -factor * shift / rows - slope * conv.mean

    def _convolve_backward_normalised(self, conv: Convolution, chunk: slice, scratch: Scratch) -> None:
        _, grads = self._pool_backward(conv, chunk, scratch)
        (factor, slope, offset), along = self.terms, _room(scratch.convolved, conv, chunk)
        np.multiply(_kept(conv, chunk), slope, out=along)
        along += offset
        grads *= factor
        grads += along
        self._multiply_backward(conv, chunk, scratch, grads)

    def _multiply_backward(self, conv: Convolution, chunk: slice, scratch: Scratch, grads: Array) -> None:
        """The gradients by the filters and, but for the first block, by the image."""
        columns, filters = self._columns(conv, chunk, scratch), self.filters[conv.name]
        products = grads[None]
        if conv.products > 1:
            products = _products(conv, chunk, scratch)
            winograd.outputs_backward(
                grads.reshape(2, 2, *products.shape[1:]), products.reshape(4, 4, *products.shape[1:])
            )
        by_filters = scratch.filters[conv.name]
        of_chunk = scratch.of_chunk[: by_filters.size].reshape(by_filters.shape)
        by_filters += np.matmul(columns.transpose(0, 2, 1), products, out=of_chunk)
        if not len(conv.frame_grad):
            return
        # The columns are no longer needed: their gradient takes their place.
        np.matmul(products, filters.transpose(0, 2, 1), out=columns)
        frame = conv.frame_grad[chunk]
        if conv.products > 1:
            winograd.tiles_backward(_tiles(conv, columns), frame, _tile_room(conv, len(frame), scratch))
            return
        frame[...] = 0
        for i in range(KERNEL):
            for j in range(KERNEL):
                windows = _windows(conv, frame[:, i:, j:], frame.shape[3])
                windows += columns.reshape(*windows.shape[:-1], KERNEL, KERNEL, -1)[..., i, j, :]


def _phases(conv: Convolution, images: Array) -> list[Array]:
    """Views of the pixels (n, height, width, filters) of each phase."""
    step = conv.step
    return [images[:, a::step, b::step] for a in range(step) for b in range(step)]


def _columns_elements(conv: Convolution) -> int:
    """Of one image."""
    return conv.products * conv.product_rows * conv.inputs


def _products(conv: Convolution, chunk: slice, scratch: Scratch) -> Array:
    """Scratch memory for the products of a chunk, (products, rows, filters)."""
    rows = (chunk.stop - chunk.start) * conv.product_rows
    return scratch.products[: conv.products * rows * conv.conv.filters].reshape(conv.products, rows, -1)


def _tiles(conv: Convolution, columns: Array) -> Array:
    """Columns as `winograd` has them."""
    return columns.reshape(4, 4, -1, *conv.size, conv.inputs)


def _tile_rows(conv: Convolution, n: int) -> tuple[int, ...]:
    """The shape of what `winograd` needs room for."""
    height, width = conv.size
    return 4, n, height, 2 * width + 2, conv.inputs


def _tile_room(conv: Convolution, n: int, scratch: Scratch) -> Array:
    shape = _tile_rows(conv, n)
    return scratch.tile_rows[: prod(shape)].reshape(shape)


def _windows(conv: Convolution, frame: Array, run: int) -> Array:
    """Views of framed images, phase after phase, (2, 2, n, height, width, ...): of all windows, or of one offset.

    run: contiguous elements to take from each pixel on: its channels, or a row of a window, for which the view
    has one axis more.
    """
    of_image, of_row, of_column, of_item = frame.strides
    shape: tuple[int, ...] = (conv.step, conv.step, len(frame), *conv.size, run)
    strides: tuple[int, ...] = (of_row, of_column, of_image, conv.step * of_row, conv.step * of_column, of_item)
    if run > frame.shape[3]:
        shape, strides = (*shape[:-1], KERNEL, run), (*strides[:-1], of_row, of_item)
    return as_strided(frame, shape, strides)


def _kept(conv: Convolution, chunk: slice) -> Array:
    """What was convolved of a chunk, (rows, filters), where it is kept for batch norm."""
    assert conv.convolved is not None
    return conv.convolved[chunk.start * conv.rows : chunk.stop * conv.rows]


def _room(memory: Array, conv: Convolution, chunk: slice) -> Array:
    """Scratch memory for the rows of a chunk, (rows, filters)."""
    rows = (chunk.stop - chunk.start) * conv.rows
    return memory[: rows * conv.conv.filters].reshape(rows, -1)
