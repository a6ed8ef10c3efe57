"""A training step in NumPy, written by hand without autograd.

Each of these ideas is needed for the speed:

- Convolutions are matrix products of a few images at a time, which stay in cache: of columns (im2col) with few
  channels; of tiles (`winograd`) with many, in 16 multiplications where columns take 36.
- The four positions that a max-pool compares are stored one after the other (`phases`), so pooling compares four
  contiguous arrays. Positions that pooling drops are not computed.
- Bias and ReLU follow pooling, on a quarter of the elements: max(x) + b = max(x + b), and likewise for ReLU and other
  activations that never decrease. Batch norm precedes pooling, because its scale may be negative.
- Each thread takes a part of the batch through a layer, with BLAS on one thread; NumPy's loops release the GIL.
- Large arrays are allocated once. The position of a maximum is stored as a byte.

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

from impls.activations import numpy_ as family
from impls.cnn import operations, winograd
from impls.cnn.architecture import KERNEL, RELU, Network
from impls.cnn.networks import LEARNING_RATE, MOMENTUM, NORM_EPSILON, NORM_MOMENTUM, Array
from impls.cnn.reference import cross_entropy
from impls.cnn.workspace import Convolution, Dense, Framed, HandWritten, Named, parts


def build(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> "Step":
    return Step(network, parameters, n, dtype, relu)


class Scratch:
    """One thread's scratch memory for the largest chunk of any block, and its part of the gradients."""

    def __init__(
        self, convs: list[Convolution], shapes: dict[str, tuple[int, ...]], dtype: str, pools_first: bool
    ) -> None:
        convolved = max(conv.chunk * conv.rows * conv.conv.filters for conv in convs)
        tiled = [conv for conv in convs if conv.products > 1]
        self.columns = np.empty(max(conv.chunk * _columns_elements(conv) for conv in convs), dtype)
        self.convolved, self.grads = np.empty(convolved, dtype), np.empty(convolved, dtype)
        self.pooled, self.bytes_ = np.empty(convolved, dtype), np.empty((3, convolved), np.uint8)
        # The activated phases, which a pool behind the activation compares.
        self.activated = np.empty(0 if pools_first else convolved, dtype)
        self.products = np.empty(
            max((conv.chunk * 16 * conv.pixels * conv.conv.filters for conv in tiled), default=0), dtype
        )
        self.tile_rows = np.empty(max((conv.chunk * prod(_tile_rows(conv, 1)) for conv in tiled), default=0), dtype)
        self.ones = np.ones(max(conv.chunk * conv.rows for conv in convs), dtype)
        self.gradients = Named(shapes, dtype)
        # Gradients of the filters in the form that the products need: the sum of all chunks, and of one chunk.
        self.filters = {conv.name: np.zeros((conv.products, conv.inputs, conv.conv.filters), dtype) for conv in convs}
        self.of_chunk = np.empty(max(array.size for array in self.filters.values()), dtype)


class Step(HandWritten):
    """A step on n images with arrays of its own (`impls.cnn`): forward, loss, backward, update."""

    def __init__(self, network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> None:
        super().__init__(network, parameters, n, dtype, relu)
        self.parts = parts(n, min(n, len(os.sched_getaffinity(0))))
        # Parameters of each channel: biases, scales and shifts.
        shapes: dict[str, tuple[int, ...]] = {
            parameter.name: parameter.shape
            for parameter in operations.parameters(network)
            if parameter.operation.kind != "dense" and parameter.kind != "weight"
        }
        self.scratch = [Scratch(self.convs, shapes, dtype, self.pools_first) for _ in self.parts]
        self.filters: dict[str, Array] = {}
        self.threads = ThreadPoolExecutor(len(self.parts))
        is_relu = network.activation == RELU
        self.activate = _relu if is_relu else getattr(family, network.activation).out
        # From the input; that of ReLU takes the output.
        self.activate_backward = None if is_relu else getattr(family, f"{network.activation}_backward").out
        # Each thread calls BLAS for its part of the batch.
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
        self.dense_inputs = []
        for dense, mask in zip(self.dense, [*masks, None], strict=True):
            y = self._dense(dense, y, mask)
        return y

    def loss(self, scores: Array, given: Any) -> tuple[float, Array]:
        return cross_entropy(scores, given[1])

    def backward(self, grad: Array, given: Any) -> None:
        for scratch in self.scratch:
            for array in (scratch.gradients.vector, *scratch.filters.values()):
                array[...] = 0
        for dense, x, mask in reversed(list(zip(self.dense, self.dense_inputs, [*given[2], None], strict=True))):
            grad = self._dense_backward(dense, x, mask, grad)
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
        """Call a function on all chunks of the batch, one part of the batch per thread, and return its results."""

        def run(part: tuple[int, int], scratch: Scratch) -> list[Any]:
            starts = range(*part, conv.chunk)
            return [function(conv, slice(i, min(i + conv.chunk, part[1])), scratch) for i in starts]

        futures = [
            self.threads.submit(run, part, scratch)
            for part, scratch in zip(self.parts[1:], self.scratch[1:], strict=True)
        ]
        own = run(self.parts[0], self.scratch[0])
        return [result for results in (own, *(future.result() for future in futures)) for result in results]

    def _dense(self, dense: Dense, x: Array, mask: Array | None) -> Array:
        """Return the output of a dense layer, of a hidden one after dropout, and keep its input."""
        self.dense_inputs.append(x)
        np.matmul(x, self.parameters[f"{dense.name}.weight"], out=dense.target)
        dense.target += self.parameters[f"{dense.name}.bias"]
        if mask is None:
            return dense.output
        if self.activates:
            self.activate(dense.target, dense.output)
        return dense.output * mask

    def _dense_backward(self, dense: Dense, x: Array, mask: Array | None, grad: Array) -> Array:
        """Write the gradients of a dense layer's parameters, and return that of its input. Overwrites grad."""
        if mask is not None:
            grad *= mask
            if self.activate_backward and self.activates:
                self.activate_backward(grad, dense.target, grad)
            elif self.activates:
                grad *= dense.output > 0
        np.matmul(x.T, grad, out=self.memory.gradients[f"{dense.name}.weight"])
        np.sum(grad, 0, out=self.memory.gradients[f"{dense.name}.bias"])
        return grad @ self.parameters[f"{dense.name}.weight"].T

    # Forward pass of a chunk of images

    def _convolve(self, conv: Convolution, chunk: slice, scratch: Scratch, out: Array) -> None:
        columns, filters = self._columns(conv, chunk, scratch), self.filters[conv.name]
        if conv.products == 1:
            np.matmul(columns[0], filters[0], out=out)
            return
        products = _products(conv, chunk, scratch)
        np.matmul(columns, filters, out=products)
        winograd.outputs(products.reshape(4, 4, *products.shape[1:]), out.reshape(2, 2, *products.shape[1:]))

    def _columns(self, conv: Convolution, chunk: slice, scratch: Scratch) -> Array:
        """Return the left operand of the products, (products, rows, inputs)."""
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
        self._pool_and_activate(conv, chunk, scratch, convolved, self.parameters[f"{conv.name}.bias"])

    def _convolve_and_sum(self, conv: Convolution, chunk: slice, scratch: Scratch) -> tuple[int, Array, Array]:
        """Return the number of rows and, for each channel, their mean and sum of squared deviations."""
        convolved = _kept(conv, chunk)
        self._convolve(conv, chunk, scratch, convolved)
        ones, off = scratch.ones[: len(convolved)], _room(scratch.convolved, conv, chunk)
        mean = ones @ convolved
        mean /= len(convolved)
        np.subtract(convolved, mean, out=off)
        np.multiply(off, off, out=off)
        return len(convolved), mean, ones @ off

    def _normalise(self, conv: Convolution, moments: list[tuple[int, Array, Array]]) -> None:
        """Merge the moments into mean and standard deviation of the batch, and update the running statistics."""
        rows = sum(count for count, _, _ in moments)
        mean = np.sum([count * chunk_mean for count, chunk_mean, _ in moments], 0) / rows
        squares = np.sum([square + count * (chunk_mean - mean) ** 2 for count, chunk_mean, square in moments], 0)
        conv.mean, conv.deviation = mean, np.sqrt(squares / rows + NORM_EPSILON)
        for name, value in (("mean", mean), ("variance", squares / (rows - 1))):
            running = self.statistics[f"{conv.norm}.{name}"]
            running += NORM_MOMENTUM * (value - running)

    def _activate(self, conv: Convolution, chunk: slice, scratch: Scratch) -> None:
        normalised = _room(scratch.convolved, conv, chunk)
        factor = self.parameters[f"{conv.norm}.scale"] / conv.deviation
        np.multiply(_kept(conv, chunk), factor, out=normalised)
        shift = self.parameters[f"{conv.norm}.shift"] - conv.mean * factor
        self._pool_and_activate(conv, chunk, scratch, normalised, shift)

    def _pool_and_activate(self, conv: Convolution, chunk: slice, scratch: Scratch, rows: Array, shift: Array) -> None:
        """Add the shift that all phases share, pool them, apply the activation, and write the block's output."""
        output, target = conv.output.inside[chunk], conv.target.inside[chunk]
        if conv.winner is None:
            for phase, pixels in zip(
                rows.reshape(conv.phases, len(output), *conv.size, -1), _phases(conv, target), strict=True
            ):
                np.add(phase, shift, out=pixels)
        elif self.pools_first:
            largest = _pool(rows.reshape(conv.phases, *output.shape), conv.winner[chunk], scratch)
            np.add(largest, shift, out=target)
        else:
            phases = rows.reshape(conv.phases, *output.shape)
            phases += shift
            activated = scratch.activated[: rows.size].reshape(phases.shape)
            self.activate(phases, activated)
            output[...] = _pool(activated, conv.winner[chunk], scratch)
            for phase, pixels in enumerate(phases):
                np.copyto(target, pixels, where=conv.winner[chunk] == phase)
            return
        if self.activates:
            self.activate(target, output)

    # Backward pass of a chunk of images

    def _pool_backward(self, conv: Convolution, chunk: slice, scratch: Scratch) -> tuple[Array, Array]:
        """Return the gradient of the activation's input, (pixels, filters), and of each phase, (rows, filters)."""
        output = conv.output.inside[chunk]
        pooled = scratch.pooled[: output.size].reshape(output.shape)
        mask = scratch.bytes_[0, : output.size].reshape(output.shape).view(bool)
        grad, target = conv.output_grad.inside[chunk], conv.target.inside[chunk]
        if not self.activates:
            pooled[...] = grad
        elif self.activate_backward:
            self.activate_backward(grad, target, pooled)
        else:
            np.multiply(grad, np.greater(output, 0, out=mask), out=pooled)
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
        """Add the gradients of scale and shift."""
        pooled, grads = self._pool_backward(conv, chunk, scratch)
        off = _room(scratch.convolved, conv, chunk)
        np.subtract(_kept(conv, chunk), conv.mean, out=off)
        off *= grads
        shift, scale = (scratch.gradients[f"{conv.norm}.{name}"] for name in ("shift", "scale"))
        shift += scratch.ones[: len(pooled)] @ pooled
        scale += (scratch.ones[: len(off)] @ off) / conv.deviation

    def _normalise_backward(self, conv: Convolution) -> None:
        """Set the terms of the gradient of batch norm's input: factor * grad + slope * x + offset."""
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
        """Add the gradient of the filters; write the gradient of the image except in the first block."""
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
        # The columns are no longer needed: their gradient overwrites them.
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


def _relu(x: Array, out: Array) -> None:
    np.clip(x, 0, np.inf, out=out)


def _pool(phases: Array, winner: Array, scratch: Scratch) -> Array:
    """Overwrite the first of four phases with their maximum and return it; write its position to winner."""
    right, lower_right, lower = scratch.bytes_[:, : winner.size].reshape(3, *winner.shape)
    np.greater(phases[1], phases[0], out=right.view(bool))
    np.greater(phases[3], phases[2], out=lower_right.view(bool))
    np.maximum(phases[0], phases[1], out=phases[0])
    np.maximum(phases[2], phases[3], out=phases[2])
    np.greater(phases[2], phases[0], out=lower.view(bool))
    np.maximum(phases[0], phases[2], out=phases[0])
    # The phase of the maximum, without a branch: `right`, or 2 + `lower_right` if a lower one is larger.
    lower_right += 2
    lower_right -= right
    lower_right *= lower
    np.add(right, lower_right, out=winner)
    return phases[0]


def _phases(conv: Convolution, images: Array) -> list[Array]:
    """Return views of the pixels of each phase, (n, height, width, filters)."""
    step = conv.step
    return [images[:, a::step, b::step] for a in range(step) for b in range(step)]


def _columns_elements(conv: Convolution) -> int:
    """Return the number of elements of the columns of one image."""
    return conv.products * conv.product_rows * conv.inputs


def _products(conv: Convolution, chunk: slice, scratch: Scratch) -> Array:
    """Return scratch memory for the products of a chunk, (products, rows, filters)."""
    rows = (chunk.stop - chunk.start) * conv.product_rows
    return scratch.products[: conv.products * rows * conv.conv.filters].reshape(conv.products, rows, -1)


def _tiles(conv: Convolution, columns: Array) -> Array:
    """Return the columns as a view in the layout of `winograd`."""
    return columns.reshape(4, 4, -1, *conv.size, conv.inputs)


def _tile_rows(conv: Convolution, n: int) -> tuple[int, ...]:
    """Return the shape of the scratch memory that `winograd` needs."""
    height, width = conv.size
    return 4, n, height, 2 * width + 2, conv.inputs


def _tile_room(conv: Convolution, n: int, scratch: Scratch) -> Array:
    shape = _tile_rows(conv, n)
    return scratch.tile_rows[: prod(shape)].reshape(shape)


def _windows(conv: Convolution, frame: Array, run: int) -> Array:
    """Return a view of framed images by phase, (step, step, n, height, width, ...): of all windows, or of one offset.

    run: contiguous elements to take from each pixel on: its channels, or a row of a window; for a row the view has one
    more axis.
    """
    image_stride, row_stride, column_stride, item_stride = frame.strides
    shape: tuple[int, ...] = (conv.step, conv.step, len(frame), *conv.size, run)
    step_strides = conv.step * row_stride, conv.step * column_stride
    strides: tuple[int, ...] = (row_stride, column_stride, image_stride, *step_strides, item_stride)
    if run > frame.shape[3]:
        shape, strides = (*shape[:-1], KERNEL, run), (*strides[:-1], row_stride, item_stride)
    return as_strided(frame, shape, strides)


def _kept(conv: Convolution, chunk: slice) -> Array:
    """Return the convolution's result of a chunk, (rows, filters), which is saved for batch norm."""
    assert conv.convolved is not None
    return conv.convolved[chunk.start * conv.rows : chunk.stop * conv.rows]


def _room(memory: Array, conv: Convolution, chunk: slice) -> Array:
    """Return scratch memory for the rows of a chunk, (rows, filters)."""
    rows = (chunk.stop - chunk.start) * conv.rows
    return memory[: rows * conv.conv.filters].reshape(rows, -1)
