"""A training step in Numba, written by hand: loops around BLAS matrix products.

It uses the ideas of `numpy_`, and these, which need compiled loops:

- The affine map, max-pool with its positions, and the activation are one loop over a convolution's result while it is
  in cache; so are their gradients.
- A thread takes its part of the batch through a whole block, with BLAS on one thread: each block has one or two
  parallel regions.
- The image gradient is accumulated window by window, 3 c elements at a time.

`np.dot` in compiled code calls the BLAS that comes with SciPy. All loops are in this file, because Numba's cache
ignores changes in other files; the formulas of other activations than ReLU come from `impls.activations`. After
changing one of those, delete `impls/cnn/__pycache__`.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg.blas  # noqa: F401, the BLAS of np.dot; load it before its threads are limited
from numba import get_num_threads, njit, prange
from numba.extending import overload
from threadpoolctl import threadpool_limits

from impls.activations import numba_cpu as family
from impls.activations.vector_math import INLINED, inlined
from impls.cnn.architecture import ACTIVATIONS, MONOTONE, RELU, Network
from impls.cnn.networks import LEARNING_RATE, MOMENTUM, NORM_EPSILON, NORM_MOMENTUM, Array
from impls.cnn.workspace import Convolution, Dense, Framed, HandWritten, parts


def build(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> "Step":
    return Step(network, parameters, n, dtype, relu)


class Step(HandWritten):
    """A step on n images with arrays of its own (`impls.cnn`): forward, loss, backward, update."""

    def __init__(self, network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> None:
        super().__init__(network, parameters, n, dtype, relu)
        self.parts = np.array(parts(n, min(n, get_num_threads())))
        self.scratch = [self._scratch(conv) for conv in self.convs]
        self.filters: dict[str, Array] = {}
        self.activation = TYPES[network.activation](self.activates)
        self.logits_grad = np.zeros_like(self.dense[-1].output)
        # Each thread calls BLAS for its part of the batch.
        threadpool_limits(1, "blas")

    def _scratch(self, conv: Convolution) -> tuple[Array, ...]:
        """Return scratch arrays, one of each kind per thread.

        They hold columns, products, results, gradients of the filters (all products, and one) and two sums per filter.
        """
        rows, filters = conv.chunk * conv.product_rows, conv.conv.filters
        shapes = (
            (conv.products, rows, conv.inputs),
            (conv.products, rows if conv.products > 1 else 0, filters),
            (conv.chunk * conv.rows, filters),
            (conv.products, conv.inputs, filters),
            (conv.inputs, filters),
            (2, filters),
        )
        return tuple(np.zeros((len(self.parts), *shape), self.dtype) for shape in shapes)

    def forward(self, given: Any) -> Array:
        images, _, masks = given
        Framed(self.convs[0].frame, self.convs[0].padding).inside[...] = images
        for conv, scratch in zip(self.convs, self.scratch, strict=True):
            self._convolution(conv, *scratch)
        last = self.memory.last
        y = last.mean((1, 2)) if self.network.average else last.reshape(self.n, -1)
        self.dense_inputs = []
        for dense, mask in zip(self.dense, [*masks, None], strict=True):
            y = self._dense(dense, y, mask)
        return y

    def _dense(self, dense: Dense, x: Array, mask: Array | None) -> Array:
        """Return the output of a dense layer, of a hidden one after dropout, and keep its input."""
        self.dense_inputs.append(x)
        bias = self.parameters[f"{dense.name}.bias"]
        np.dot(x, self.parameters[f"{dense.name}.weight"], out=dense.target)
        if mask is None:
            dense.target += bias
            return dense.output
        dropped = np.empty_like(dense.output)
        _activate_and_drop(dense.target, bias, mask, self.activation, dense.output, dropped)
        return dropped

    def _dense_backward(self, dense: Dense, x: Array, mask: Array | None, grad: Array) -> Array:
        """Write the gradients of a dense layer's parameters, and return that of its input. Overwrites grad."""
        if mask is not None:
            saved = dense.output if self.takes_output else dense.target
            _activate_and_drop_backward(grad, mask, self.activation, saved)
        np.dot(x.T, grad, out=self.memory.gradients[f"{dense.name}.weight"])
        np.sum(grad, 0, out=self.memory.gradients[f"{dense.name}.bias"])
        return np.dot(grad, self.parameters[f"{dense.name}.weight"].T)

    def _convolution(
        self, conv: Convolution, columns: Array, products: Array, convolved: Array, *others: Array
    ) -> None:
        filters = self.filters[conv.name] = conv.filters(self.parameters[f"{conv.name}.weight"])
        convolve = (conv.frame, filters, *_geometry(conv), self.parts, conv.chunk, columns, products)
        activate = (*conv.output, *conv.target, _winner(conv), self.activation)
        if conv.convolved is None:
            ones = np.ones(conv.conv.filters, self.dtype)
            _convolve_and_activate(*convolve, convolved, ones, self.parameters[f"{conv.name}.bias"], *activate)
            return
        moments = np.zeros((len(self.parts), 2, conv.conv.filters))
        _convolve_and_sum(*convolve, conv.convolved, moments)
        self._normalise(conv, moments)
        factor = self.parameters[f"{conv.norm}.scale"] / conv.deviation
        shift = self.parameters[f"{conv.norm}.shift"] - conv.mean * factor
        _activate_all(conv.convolved, conv.step, *conv.size, self.parts, factor, shift, *activate)

    def _normalise(self, conv: Convolution, moments: Array) -> None:
        """Merge the threads' moments into mean and standard deviation, and update the running statistics."""
        counts = ((self.parts[:, 1] - self.parts[:, 0]) * conv.rows)[:, None]
        means, squares = moments[:, 0], moments[:, 1]
        mean = (counts * means).sum(0) / counts.sum()
        squares = (squares + counts * (means - mean) ** 2).sum(0)
        conv.mean = mean.astype(self.dtype)
        conv.deviation = np.sqrt(squares / counts.sum() + NORM_EPSILON).astype(self.dtype)
        for name, value in (("mean", mean), ("variance", squares / (counts.sum() - 1))):
            running = self.statistics[f"{conv.norm}.{name}"]
            running += NORM_MOMENTUM * (value - running)

    def loss(self, scores: Array, given: Any) -> tuple[float, Array]:
        return _cross_entropy(scores, given[1], self.logits_grad), self.logits_grad

    def backward(self, grad: Array, given: Any) -> None:
        for dense, x, mask in reversed(list(zip(self.dense, self.dense_inputs, [*given[2], None], strict=True))):
            grad = self._dense_backward(dense, x, mask, grad)
        last_grad = self.memory.last_grad
        if self.network.average:
            last_grad[...] = (grad / (last_grad.shape[1] * last_grad.shape[2]))[:, None, None, :]
        else:
            last_grad[...] = grad.reshape(last_grad.shape)
        for conv, scratch in reversed(list(zip(self.convs, self.scratch, strict=True))):
            self._convolution_backward(conv, *scratch)

    def _convolution_backward(
        self,
        conv: Convolution,
        columns: Array,
        products: Array,
        grads: Array,
        by_filters: Array,
        room: Array,
        sums: Array,
    ) -> None:
        saved = conv.output if self.takes_output else conv.target
        activated = (*saved, *conv.output_grad, _winner(conv), self.activation)
        filters = conv.conv.filters
        factor, slope, offset = (
            np.ones(filters, self.dtype),
            np.zeros(filters, self.dtype),
            np.zeros(filters, self.dtype),
        )
        # Without batch norm nothing is saved, and this empty array is not read.
        kept = np.empty((0, filters), self.dtype) if conv.convolved is None else conv.convolved
        if conv.convolved is not None:
            _sum_backward(kept, conv.mean, conv.step, *conv.size, self.parts, *activated, sums)
            shift, along = sums.sum(0)
            scale = along / conv.deviation
            self.memory.gradients[f"{conv.norm}.shift"][...] = shift
            self.memory.gradients[f"{conv.norm}.scale"][...] = scale
            factor = self.parameters[f"{conv.norm}.scale"] / conv.deviation
            slope = -factor * scale / (self.n * conv.rows * conv.deviation)
            offset = -factor * shift / (self.n * conv.rows) - slope * conv.mean
        _convolve_backward(
            conv.frame, self.filters[conv.name], *_geometry(conv), self.parts, conv.chunk, columns, products,
            kept, factor, slope, offset, *activated, grads, by_filters, room, sums, conv.frame_grad,
        )  # fmt: skip
        self.memory.gradients[f"{conv.name}.weight"][...] = conv.filters_backward(by_filters.sum(0))
        if conv.convolved is None:
            np.sum(sums[:, 0], 0, out=self.memory.gradients[f"{conv.name}.bias"])

    def update(self) -> None:
        _update(self.parameters.vector, self.memory.velocities.vector, self.memory.gradients.vector)


def _geometry(conv: Convolution) -> tuple[int, int, int, int]:
    """Return the step of the windows within a phase, the height and width of a phase, and the channels."""
    return conv.step, *conv.size, conv.frame.shape[3]


def _winner(conv: Convolution) -> Array:
    return np.empty((0, *conv.size, conv.conv.filters), np.uint8) if conv.winner is None else conv.winner


# Activations

# Python's error model tests each division for 0, and LLVM vectorises no loop with such a test.
OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy"}


# Each activation is a type, so that Numba compiles a version of the loops for each. active: False leaves it out.
class Relu(NamedTuple):
    active: bool


class LeakyRelu(NamedTuple):
    active: bool


class Gelu(NamedTuple):
    active: bool


class Silu(NamedTuple):
    active: bool


class Tanh(NamedTuple):
    active: bool


class Sigmoid(NamedTuple):
    active: bool


@inlined
def _relu(x):
    zero = type(x)(0)
    # This comparison passes NaN.
    return zero if x <= zero else x


@inlined
def _relu_backward(grad, y):
    return grad if y > 0 else type(grad)(0)


TYPES: dict[str, type[Any]] = {
    "relu": Relu,
    "leaky_relu": LeakyRelu,
    "gelu": Gelu,
    "silu": Silu,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
}
# The function, and the gradient from what is saved: of ReLU the output, of the others the input.
FORMULAS = {
    TYPES[name]: (_relu, _relu_backward)
    if name == RELU
    else (getattr(family, name), getattr(family, f"{name}_backward"))
    for name in ACTIVATIONS
}
POOLED_FIRST = tuple(TYPES[name] for name in MONOTONE)


def _apply(activation: Any, x: Any) -> Any:
    """The activation of x, in compiled code."""
    raise NotImplementedError


def _pool(
    activation: Any,
    rows: Array,
    pixel: int,
    pixels: int,
    factor: Array,
    shift: Array,
    before: Array,
    winner: Array,
    after: Array,
    values: Array,
) -> None:
    """Max-pool the four phases of a pixel, in compiled code; the activation precedes it if it may decrease.

    Writes the activation's input at each maximum, the position of the maximum, and the output. values: room for the
    phases.
    """
    raise NotImplementedError


def _gradient(activation: Any, grad: Any, saved: Any) -> Any:
    """The gradient of the activation's input."""
    raise NotImplementedError


@overload(_apply, jit_options=INLINED)
def _choose_apply(activation, x):
    formula, _ = FORMULAS[activation.instance_class]
    return lambda activation, x: formula(x) if activation.active else x


@overload(_pool, jit_options=INLINED)
def _choose_pool(activation, rows, pixel, pixels, factor, shift, before, winner, after, values):
    pool = _pool_then_activate if activation.instance_class in POOLED_FIRST else _activate_then_pool
    return lambda activation, rows, pixel, pixels, factor, shift, before, winner, after, values: pool(
        activation, rows, pixel, pixels, factor, shift, before, winner, after, values
    )


@overload(_gradient, jit_options=INLINED)
def _choose_gradient(activation, grad, saved):
    _, formula = FORMULAS[activation.instance_class]
    return lambda activation, grad, saved: formula(grad, saved) if activation.active else grad


# Forward


@njit(parallel=True, **OPTIONS)
def _convolve_and_activate(
    frame, filters, step, height, width, channels, parts, chunk, columns, products, convolved, factor, shift,
    output, padding, target, target_padding, winner, activation,
):  # fmt: skip
    rows = step * step * height * width
    for worker in prange(len(parts)):
        first, last = parts[worker, 0], parts[worker, 1]
        for start in range(first, last, chunk):
            stop = min(start + chunk, last)
            result = convolved[worker, : (stop - start) * rows]
            _convolve(
                frame, filters, step, height, width, channels, start, stop, columns[worker], products[worker], result
            )
            for image in range(start, stop):
                own = result[(image - start) * rows : (image - start + 1) * rows]
                _activate(
                    own, image, step, height, width, factor, shift,
                    output, padding, target, target_padding, winner, activation,
                )  # fmt: skip


@njit(parallel=True, **OPTIONS)
def _activate_all(
    convolved, step, height, width, parts, factor, shift, output, padding, target, target_padding, winner, activation
):  # fmt: skip
    rows = step * step * height * width
    for worker in prange(len(parts)):
        for image in range(parts[worker, 0], parts[worker, 1]):
            own = convolved[image * rows : (image + 1) * rows]
            _activate(
                own, image, step, height, width, factor, shift,
                output, padding, target, target_padding, winner, activation,
            )  # fmt: skip


@njit(**OPTIONS)
def _activate(
    rows, image, step, height, width, factor, shift, output, padding, target, target_padding, winner, activation
):  # fmt: skip
    """Apply the affine map, the maximum of the phases if they are pooled, and the activation to one image."""
    pixels, filters = height * width, rows.shape[1]
    values = np.empty((4, filters), rows.dtype)
    for y in range(height):
        for x in range(width):
            pixel = y * width + x
            if len(winner):
                before = target[image, y + target_padding, x + target_padding]
                after = output[image, y + padding, x + padding]
                won = winner[image, y, x]
                _pool(activation, rows, pixel, pixels, factor, shift, before, won, after, values)
                continue
            for phase in range(step * step):
                own_y, own_x = step * y + phase // step, step * x + phase % step
                before = target[image, own_y + target_padding, own_x + target_padding]
                for f in range(filters):
                    before[f] = rows[phase * pixels + pixel, f] * factor[f] + shift[f]
                _apply_to_all(activation, before, output[image, own_y + padding, own_x + padding])


@inlined
def _pool_then_activate(activation, rows, pixel, pixels, factor, shift, before, winner, after, values):
    for f in range(len(before)):
        largest, position = rows[pixel, f] * factor[f] + shift[f], 0
        for phase in range(1, 4):
            value = rows[phase * pixels + pixel, f] * factor[f] + shift[f]
            wins = (value > largest) | (value != value)
            position = phase if wins else position
            largest = value if wins else largest
        before[f], winner[f] = largest, position
    _apply_to_all(activation, before, after)


@inlined
def _activate_then_pool(activation, rows, pixel, pixels, factor, shift, before, winner, after, values):
    # One loop for each phase, which LLVM vectorises.
    for phase in range(4):
        for f in range(len(before)):
            values[phase, f] = _apply(activation, rows[phase * pixels + pixel, f] * factor[f] + shift[f])
    for f in range(len(before)):
        largest, position = values[0, f], 0
        for phase in range(1, 4):
            value = values[phase, f]
            wins = (value > largest) | (value != value)
            position = phase if wins else position
            largest = value if wins else largest
        after[f], winner[f] = largest, position
    for f in range(len(before)):
        before[f] = rows[winner[f] * pixels + pixel, f] * factor[f] + shift[f]


@njit(**OPTIONS)
def _apply_to_all(activation, before, after):
    for f in range(len(before)):
        after[f] = _apply(activation, before[f])


@njit(**OPTIONS)
def _activate_and_drop(z, bias, mask, activation, output, dropped):
    for i in range(z.shape[0]):
        for f in range(z.shape[1]):
            z[i, f] += bias[f]
            output[i, f] = _apply(activation, z[i, f])
            dropped[i, f] = output[i, f] * mask[i, f]


@njit(parallel=True, cache=True)
def _convolve_and_sum(
    frame, filters, step, height, width, channels, parts, chunk, columns, products, convolved, moments
):  # fmt: skip
    """moments: (workers, 2, filters), the mean of each worker's rows and the sum of their squared deviations."""
    rows = step * step * height * width
    for worker in prange(len(parts)):
        first, last = parts[worker, 0], parts[worker, 1]
        for start in range(first, last, chunk):
            stop = min(start + chunk, last)
            result = convolved[start * rows : stop * rows]
            _convolve(
                frame, filters, step, height, width, channels, start, stop, columns[worker], products[worker], result
            )
            _merge(moments[worker], (start - first) * rows, result)


@njit(cache=True)
def _convolve(frame, filters, step, height, width, channels, start, stop, columns, products, out):
    """Convolve images [start, stop) by one product of window columns or 16 of tiles, by image, then by phase."""
    if len(filters) == 1:
        operand = columns[0, : len(out)]
        _gather(frame, start, stop, step, height, width, channels, operand)
        np.dot(operand, filters[0], out)
        return
    rows = (stop - start) * height * width
    _gather_tiles(frame, start, stop, height, width, columns)
    for product in range(16):
        np.dot(columns[product, :rows], filters[product], products[product, :rows])
    _outputs(products, height, width, out)


@njit(cache=True)
def _gather(frame, start, stop, step, height, width, channels, columns):
    """Copy the 3 x 3 windows of images [start, stop), phase after phase, to rows of 9 * channels elements."""
    run, row = 3 * channels, 0
    lines = frame.reshape((frame.shape[0], frame.shape[1], frame.shape[2] * channels))
    for image in range(start, stop):
        for a in range(step):
            for b in range(step):
                for y in range(height):
                    for x in range(width):
                        first = (step * x + b) * channels
                        for i in range(3):
                            line = lines[image, step * y + a + i]
                            for k in range(run):
                                columns[row, i * run + k] = line[first + k]
                        row += 1


# Rows of B^T (`winograd`): a pixel plus or minus another.
FIRST, OTHER, SIGN = (0, 1, 2, 1), (2, 2, 1, 3), (-1, 1, -1, -1)


@njit(cache=True)
def _gather_tiles(frame, start, stop, height, width, tiles):
    """Write B^T d B of the 4 x 4 tiles of images [start, stop), (16, tiles, channels): B^T d of a tile row first."""
    channels, number = frame.shape[3], frame.dtype.type
    used = (2 * width + 2) * channels
    lines = frame.reshape((frame.shape[0], frame.shape[1], frame.shape[2] * channels))
    half = np.empty((4, 2 * width + 2, channels), frame.dtype)
    row = 0
    for image in range(start, stop):
        for y in range(height):
            for i in range(4):
                first, other = lines[image, 2 * y + FIRST[i], :used], lines[image, 2 * y + OTHER[i], :used]
                _add_signed(first, other, number(SIGN[i]), half[i].reshape(used))
            for x in range(width):
                for i in range(4):
                    for j in range(4):
                        first, other = half[i, 2 * x + FIRST[j]], half[i, 2 * x + OTHER[j]]
                        _add_signed(first, other, number(SIGN[j]), tiles[4 * i + j, row])
                row += 1


@njit(cache=True)
def _add_signed(first, other, sign, out):
    for k in range(len(out)):
        out[k] = first[k] + sign * other[k]


@njit(cache=True)
def _outputs(products, height, width, rows):
    """Write A^T m A: (16, tiles, filters) to four rows per tile, phase after phase, one row of tiles at a time."""
    run = width * rows.shape[1]
    source = products.reshape((16, products.shape[1] // width, run))
    phases = rows.reshape((len(rows) // (4 * height * width), 4, height, run))
    half = np.empty((2, 4, run), rows.dtype)
    for image in range(len(phases)):
        for y in range(height):
            line, out = image * height + y, phases[image, :, y]
            for i in range(4):
                _outputs_of_four(
                    source[4 * i, line], source[4 * i + 1, line], source[4 * i + 2, line], source[4 * i + 3, line],
                    half[0, i], half[1, i],
                )  # fmt: skip
            for b in range(2):
                _outputs_of_four(half[b, 0], half[b, 1], half[b, 2], half[b, 3], out[b], out[2 + b])


@njit(cache=True)
def _outputs_of_four(m0, m1, m2, m3, first, second):
    for f in range(len(first)):
        first[f] = m0[f] + m1[f] + m2[f]
    for f in range(len(first)):
        second[f] = m1[f] - m2[f] - m3[f]


@njit(cache=True)
def _merge(moments, count, rows):
    """Merge the rows' moments into those of `count` rows. Source: Chan, Golub and LeVeque, 1983."""
    n, filters = rows.shape
    mean, squares = np.zeros(filters, rows.dtype), np.zeros(filters, rows.dtype)
    for row in range(n):
        for f in range(filters):
            mean[f] += rows[row, f]
    mean /= n
    for row in range(n):
        for f in range(filters):
            squares[f] += (rows[row, f] - mean[f]) ** 2
    for f in range(filters):
        difference = mean[f] - moments[0, f]
        moments[1, f] += squares[f] + difference * difference * count * n / (count + n)
        moments[0, f] += difference * n / (count + n)


@njit(cache=True)
def _cross_entropy(scores, labels, grad):
    """Return the mean softmax cross-entropy, and write the gradient of the logits to `grad`."""
    n, classes = scores.shape
    loss = 0.0
    for i in range(n):
        largest = scores[i].max()
        total = 0.0
        for c in range(classes):
            grad[i, c] = np.exp(scores[i, c] - largest)
            total += grad[i, c]
        loss += np.log(total) - (scores[i, labels[i]] - largest)
        for c in range(classes):
            grad[i, c] = (grad[i, c] / total - (c == labels[i])) / n
    return loss / n


# Backward


@njit(**OPTIONS)
def _activate_and_drop_backward(grad, mask, activation, saved):
    for i in range(grad.shape[0]):
        for f in range(grad.shape[1]):
            grad[i, f] = _gradient(activation, grad[i, f] * mask[i, f], saved[i, f])


@njit(**OPTIONS)
def _activate_backward(
    image, step, height, width, saved, saved_padding, output_grad, padding, winner, activation, grads
):  # fmt: skip
    """Write the gradient of the input of max-pool and activation for one image, phase after phase.

    Behind a max-pool, output_grad becomes the gradient of the activation's input.
    """
    pixels, filters, zero = height * width, grads.shape[1], grads.dtype.type(0)
    for y in range(height):
        for x in range(width):
            pixel = y * width + x
            if len(winner):
                grad, kept = (
                    output_grad[image, y + padding, x + padding],
                    saved[image, y + saved_padding, x + saved_padding],
                )
                won = winner[image, y, x]
                for f in range(filters):
                    grad[f] = _gradient(activation, grad[f], kept[f])
                for phase in range(4):
                    target = grads[phase * pixels + pixel]
                    for f in range(filters):
                        target[f] = grad[f] if won[f] == phase else zero
                continue
            for phase in range(step * step):
                own_y, own_x = step * y + phase // step, step * x + phase % step
                grad, kept = (
                    output_grad[image, own_y + padding, own_x + padding],
                    saved[image, own_y + saved_padding, own_x + saved_padding],
                )
                target = grads[phase * pixels + pixel]
                for f in range(filters):
                    target[f] = _gradient(activation, grad[f], kept[f])


@njit(parallel=True, **OPTIONS)
def _sum_backward(
    convolved, mean, step, height, width, parts, saved, saved_padding, output_grad, padding, winner, activation, sums
):  # fmt: skip
    """sums: (workers, 2, filters), of the gradient, and of the gradient times x - mean."""
    pixels, filters = height * width, convolved.shape[1]
    rows = step * step * pixels
    pooled = len(winner) > 0
    for worker in prange(len(parts)):
        sums[worker] = 0
        plain, along = sums[worker, 0], sums[worker, 1]
        for image in range(parts[worker, 0], parts[worker, 1]):
            for y in range(height):
                for x in range(width):
                    row = image * rows + y * width + x
                    for phase in range(1 if pooled else step * step):
                        own_y, own_x = (y, x) if pooled else (step * y + phase // step, step * x + phase % step)
                        kept = saved[image, own_y + saved_padding, own_x + saved_padding]
                        pixel_grad = output_grad[image, own_y + padding, own_x + padding]
                        for f in range(filters):
                            grad = _gradient(activation, pixel_grad[f], kept[f])
                            chosen = winner[image, y, x, f] if pooled else phase
                            plain[f] += grad
                            along[f] += grad * (convolved[row + chosen * pixels, f] - mean[f])


@njit(parallel=True, **OPTIONS)
def _convolve_backward(
    frame, filters, step, height, width, channels, parts, chunk, columns, products, kept, factor, slope, offset,
    saved, saved_padding, output_grad, padding, winner, activation, grads, by_filters, room, sums, frame_grad,
):  # fmt: skip
    """Write each worker's gradients of the filters and, without batch norm, of the bias (sums[:, 0]), and `frame_grad`.

    A frame_grad of no images is left out.
    """
    rows = step * step * height * width
    for worker in prange(len(parts)):
        first, last = parts[worker, 0], parts[worker, 1]
        by_filters[worker] = 0
        if len(kept) == 0:
            sums[worker] = 0
        for start in range(first, last, chunk):
            stop = min(start + chunk, last)
            chunk_grads = grads[worker, : (stop - start) * rows]
            for image in range(start, stop):
                own = chunk_grads[(image - start) * rows : (image - start + 1) * rows]
                _activate_backward(
                    image, step, height, width, saved, saved_padding, output_grad, padding, winner, activation, own
                )
            if len(kept):
                _normalise_backward(chunk_grads, kept[start * rows : stop * rows], factor, slope, offset)
            else:
                _add_rows(chunk_grads, sums[worker, 0])
            _multiply_backward(
                frame, filters, step, height, width, channels, start, stop, columns[worker], products[worker],
                chunk_grads, by_filters[worker], room[worker], frame_grad,
            )  # fmt: skip


@njit(cache=True)
def _multiply_backward(
    frame, filters, step, height, width, channels, start, stop, columns, products,
    grads, by_filters, room, frame_grad,
):  # fmt: skip
    """Add the filter gradients of images [start, stop), and write `frame_grad` unless it has no images."""
    if len(filters) == 1:
        operand = columns[0, : len(grads)]
        _gather(frame, start, stop, step, height, width, channels, operand)
        np.dot(operand.T, grads, room)
        _add(room, by_filters[0])
        if len(frame_grad):
            np.dot(grads, filters[0].T, operand)
            _scatter(operand, start, stop, step, height, width, channels, frame_grad)
        return
    rows = (stop - start) * height * width
    _gather_tiles(frame, start, stop, height, width, columns)
    _outputs_backward(grads, height, width, products)
    for product in range(16):
        operand, grad = columns[product, :rows], products[product, :rows]
        np.dot(operand.T, grad, room)
        _add(room, by_filters[product])
        if len(frame_grad):
            np.dot(grad, filters[product].T, operand)
    if len(frame_grad):
        _scatter_tiles(columns, start, stop, height, width, frame_grad)


@njit(cache=True)
def _add(array, total):
    for i in range(array.shape[0]):
        for f in range(array.shape[1]):
            total[i, f] += array[i, f]


@njit(cache=True)
def _outputs_backward(rows, height, width, products):
    """Write the gradient of the products: four rows per tile, phase after phase, to (16, tiles, filters)."""
    run = width * rows.shape[1]
    phases = rows.reshape((len(rows) // (4 * height * width), 4, height, run))
    target = products.reshape((16, products.shape[1] // width, run))
    half = np.empty((4, 2, run), rows.dtype)
    for image in range(len(phases)):
        for y in range(height):
            line, source = image * height + y, phases[image, :, y]
            for b in range(2):
                _outputs_of_four_backward(source[b], source[2 + b], half[0, b], half[1, b], half[2, b], half[3, b])
            for i in range(4):
                _outputs_of_four_backward(
                    half[i, 0], half[i, 1],
                    target[4 * i, line], target[4 * i + 1, line], target[4 * i + 2, line], target[4 * i + 3, line],
                )  # fmt: skip


@njit(cache=True)
def _outputs_of_four_backward(first, second, m0, m1, m2, m3):
    for f in range(len(first)):
        m0[f] = first[f]
    for f in range(len(first)):
        m1[f] = first[f] + second[f]
    for f in range(len(first)):
        m2[f] = first[f] - second[f]
    for f in range(len(first)):
        m3[f] = -second[f]


@njit(cache=True)
def _scatter_tiles(tiles, start, stop, height, width, frame_grad):
    """Write the frame's gradient: B t B^T of each tile, summed where tiles overlap; B t of a tile row first."""
    channels = frame_grad.shape[3]
    run = width * channels
    source = tiles.reshape((16, tiles.shape[1] // width, run))
    half = np.empty((4, 4, width, channels), tiles.dtype)
    frame_grad[start:stop] = 0
    for image in range(start, stop):
        for y in range(height):
            line = (image - start) * height + y
            for j in range(4):
                _fold(
                    source[j, line], source[4 + j, line], source[8 + j, line], source[12 + j, line],
                    half[0, j].reshape(run), half[1, j].reshape(run), half[2, j].reshape(run), half[3, j].reshape(run),
                )  # fmt: skip
            for i in range(4):
                target = frame_grad[image, 2 * y + i]
                for x in range(width):
                    _fold_and_add(
                        half[i, 0, x], half[i, 1, x], half[i, 2, x], half[i, 3, x],
                        target[2 * x], target[2 * x + 1], target[2 * x + 2], target[2 * x + 3],
                    )  # fmt: skip


@njit(cache=True)
def _fold(t0, t1, t2, t3, p0, p1, p2, p3):
    """Write B t: the gradients of four pixels from those of the four transformed ones."""
    for k in range(len(t0)):
        p0[k] = t0[k]
    for k in range(len(t0)):
        p1[k] = t1[k] - t2[k] + t3[k]
    for k in range(len(t0)):
        p2[k] = t1[k] + t2[k] - t0[k]
    for k in range(len(t0)):
        p3[k] = -t3[k]


@njit(cache=True)
def _fold_and_add(t0, t1, t2, t3, p0, p1, p2, p3):
    for k in range(len(t0)):
        p0[k] += t0[k]
    for k in range(len(t0)):
        p1[k] += t1[k] - t2[k] + t3[k]
    for k in range(len(t0)):
        p2[k] += t1[k] + t2[k] - t0[k]
    for k in range(len(t0)):
        p3[k] -= t3[k]


@njit(cache=True)
def _normalise_backward(grads, kept, factor, slope, offset):
    for row in range(grads.shape[0]):
        for f in range(grads.shape[1]):
            grads[row, f] = factor[f] * grads[row, f] + slope[f] * kept[row, f] + offset[f]


@njit(cache=True)
def _add_rows(rows, total):
    for row in range(rows.shape[0]):
        for f in range(rows.shape[1]):
            total[f] += rows[row, f]


@njit(cache=True)
def _scatter(columns, start, stop, step, height, width, channels, frame_grad):
    """Sum the windows' elements back into images [start, stop): the transpose of `_gather`."""
    run, row = 3 * channels, 0
    frame_grad[start:stop] = 0
    lines = frame_grad.reshape((frame_grad.shape[0], frame_grad.shape[1], frame_grad.shape[2] * channels))
    for image in range(start, stop):
        for a in range(step):
            for b in range(step):
                for y in range(height):
                    for x in range(width):
                        first = (step * x + b) * channels
                        for i in range(3):
                            line = lines[image, step * y + a + i]
                            for k in range(run):
                                line[first + k] += columns[row, i * run + k]
                        row += 1


@njit(parallel=True, cache=True)
def _update(parameters, velocities, gradients):
    for i in prange(len(parameters)):
        velocities[i] = MOMENTUM * velocities[i] + gradients[i]
        parameters[i] -= LEARNING_RATE * velocities[i]
