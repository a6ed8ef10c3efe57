"""A training step in JAX: one compiled program with donated state, so that the new state reuses its memory.

build           `lax.conv_general_dilated`, channels-last
build_patches   each convolution as the product of a column matrix, made of nine slices, and the weight; its gradients
                are products too, where XLA's own gradients of a convolution are slow on a CPU

Batch norms and products have hand-written gradients, which read and write fewer arrays than JAX's.

Named scopes tell profilers which layer an operation belongs to; they cost nothing.

XLA decides what is written in place, so "fresh" and "inplace" do not differ: `relu` is "fresh" or "none". A step is
one program, so it marks no phases.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from impls.activations import jax_ as family
from impls.cnn import unmarked
from impls.cnn.architecture import KERNEL, RELU, Network, blocks, layers
from impls.cnn.networks import (
    LEARNING_RATE,
    MOMENTUM,
    NORM_EPSILON,
    NORM_MOMENTUM,
    Array,
    Batch,
    initial_statistics,
    require,
    require_batch,
)
from impls.cnn.reference import State

Arrays = dict[str, jax.Array]
Convolve = Callable[[jax.Array, jax.Array, int], jax.Array]

# Axes of a channel's elements, and positions in a filter.
PIXELS = (0, 1, 2)
TAPS = [(i, j) for i in range(KERNEL) for j in range(KERNEL)]


def build(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> "Step":
    return Step(network, parameters, n, dtype, relu, convolve)


def build_patches(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> "Step":
    return Step(network, parameters, n, dtype, relu, convolve_patches)


class Step:
    """A step on the default device (`impls.cnn`)."""

    def __init__(
        self, network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, convolution: Convolve
    ) -> None:
        require(network, parameters, n, dtype, relu, ("fresh", "none"))
        if dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise ValueError("dtype: 'float64' given, for which JAX needs jax_enable_x64")
        self.network, self.n, self.dtype = network, n, dtype
        statistics = initial_statistics(network)
        velocities = {name: np.zeros_like(value) for name, value in parameters.items()}
        # Copy: on the CPU a JAX array may alias NumPy's memory, which donation would overwrite.
        self.arrays = jax.tree.map(
            lambda value: jnp.array(value, dtype, copy=True), (parameters, velocities, statistics)
        )
        self.loss_of = partial(_loss, network, convolution, _activation(network, relu))
        self.step = jax.jit(partial(_step, self.loss_of), donate_argnums=0)

    def put(self, batch: Batch) -> Any:
        require_batch(self.network, self.n, batch)
        masks = tuple(jnp.array(mask, self.dtype, copy=True) for mask in batch.masks)
        images = jnp.array(batch.images, self.dtype, copy=True)
        return images, jnp.array(batch.labels.astype(np.int64), copy=True), masks

    def __call__(self, given: Any, mark: Callable[[str], None] = unmarked) -> jax.Array:
        self.arrays, loss = self.step(self.arrays, *given)
        return jax.block_until_ready((self.arrays, loss))[1]

    def state(self) -> State:
        return State(*jax.tree.map(np.array, self.arrays))


def _activation(network: Network, relu: str) -> Callable[[jax.Array], jax.Array]:
    if relu == "none":
        return lambda x: x
    return jax.nn.relu if network.activation == RELU else getattr(family, network.activation).function


def _step(
    loss_of: Callable[..., tuple[jax.Array, Arrays]],
    arrays: tuple[Arrays, Arrays, Arrays],
    images: jax.Array,
    labels: jax.Array,
    masks: tuple[jax.Array, ...],
) -> tuple[tuple[Arrays, Arrays, Arrays], jax.Array]:
    parameters, velocities, statistics = arrays
    (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(
        parameters, statistics, images, labels, masks
    )
    with jax.named_scope("update"):
        velocities = jax.tree.map(lambda velocity, gradient: MOMENTUM * velocity + gradient, velocities, gradients)
        parameters = jax.tree.map(lambda value, velocity: value - LEARNING_RATE * velocity, parameters, velocities)
    return (parameters, velocities, statistics), loss


def _loss(
    network: Network,
    convolution: Convolve,
    activate: Callable[[jax.Array], jax.Array],
    parameters: Arrays,
    statistics: Arrays,
    images: jax.Array,
    labels: jax.Array,
    masks: tuple[jax.Array, ...],
) -> tuple[jax.Array, Arrays]:
    """Return the loss and the running statistics after this batch."""
    y, after = images, {}
    for number, block in enumerate(blocks(network), 1):
        with jax.named_scope(f"conv{number}"):
            y = convolution(y, parameters[f"conv{number}.weight"], block.conv.padding)
            y = y if block.conv.norm else y + parameters[f"conv{number}.bias"]
        if block.conv.norm:
            with jax.named_scope(f"norm{number}"):
                y, mean, variance = normalise(y, parameters[f"norm{number}.scale"], parameters[f"norm{number}.shift"])
                rows = y.size // y.shape[-1]
                after[f"norm{number}.mean"] = _running(statistics[f"norm{number}.mean"], mean)
                after[f"norm{number}.variance"] = _running(
                    statistics[f"norm{number}.variance"], variance * rows / (rows - 1)
                )
        with jax.named_scope(f"conv{number}.{network.activation}"):
            y = activate(y)
        if block.conv.pool:
            with jax.named_scope(f"conv{number}.pool"):
                y = max_pool(y)
    with jax.named_scope("average"):
        y = y.mean((1, 2)) if network.average else y.reshape(len(y), -1)
    for number, layer in enumerate(layers(network), 1):
        with jax.named_scope(f"dense{number}"):
            y = y @ parameters[f"dense{number}.weight"] + parameters[f"dense{number}.bias"]
        if layer.hidden:
            with jax.named_scope(f"dense{number}.{network.activation}"):
                y = activate(y) * masks[number - 1]
    with jax.named_scope("loss"):
        logarithms = jax.nn.log_softmax(y)
        return -jnp.take_along_axis(logarithms, labels[:, None], 1).mean(), after


def _running(statistic: jax.Array, value: jax.Array) -> jax.Array:
    return (1 - NORM_MOMENTUM) * statistic + NORM_MOMENTUM * value


@jax.custom_vjp
def normalise(x: jax.Array, scale: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the batch norm of (n, h, w, c), and mean and variance of each channel, which have no gradient.

    The backward pass reads x and the result's gradient twice. JAX's own also differentiates the mean and the variance,
    and XLA writes further arrays of their size for it.
    """
    return _normalise_forward(x, scale, shift)[0]


def _normalise_forward(
    x: jax.Array, scale: jax.Array, shift: jax.Array
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Any]:
    mean, variance = x.mean(PIXELS), x.var(PIXELS)
    reciprocal = lax.rsqrt(variance + NORM_EPSILON)
    return ((x - mean) * (scale * reciprocal) + shift, mean, variance), (x, mean, reciprocal, scale)


def _normalise_backward(kept: Any, grads: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, reciprocal, scale = kept
    grad, rows = grads[0], x.size // x.shape[-1]
    shift_grad = grad.sum(PIXELS)
    scale_grad = (grad * (x - mean)).sum(PIXELS) * reciprocal
    x_grad = scale * reciprocal * (grad - shift_grad / rows - (x - mean) * (reciprocal * scale_grad / rows))
    return x_grad, scale_grad, shift_grad


normalise.defvjp(_normalise_forward, _normalise_backward)


def convolve(image: jax.Array, weight: jax.Array, padding: int) -> jax.Array:
    """Return the cross-correlation of (n, h, w, c) with (3, 3, c, f)."""
    return lax.conv_general_dilated(
        image, weight, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_patches(image: jax.Array, weight: jax.Array, padding: int) -> jax.Array:
    """Compute `convolve` as a matrix product; its gradients are products too.

    JAX's own gradient for the weight would transpose the result's gradient first, which XLA computes a second time.
    """
    return _patches_forward(image, weight, padding)[0]


def _patches_forward(image: jax.Array, weight: jax.Array, padding: int) -> tuple[jax.Array, Any]:
    framed = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = (size - KERNEL + 1 for size in framed.shape[1:3])
    slices = [framed[:, i : i + height, j : j + width] for i, j in TAPS]
    # As a matrix: XLA would transpose an array of four dimensions before the product for the weight's gradient.
    columns = jnp.concatenate(slices, -1).reshape(-1, weight[..., 0].size)
    filters = weight.shape[-1]
    y = (columns @ weight.reshape(-1, filters)).reshape(-1, height, width, filters)
    # The backward pass needs only the shape of the image.
    return y, (columns, weight, image[:0])


def _patches_backward(padding: int, kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    columns, weight, empty = kept
    *pixels, filters = grad.shape
    rows_grad = grad.reshape(-1, filters)
    weight_grad = (columns.T @ rows_grad).reshape(weight.shape)
    slices_grad = (rows_grad @ weight.reshape(-1, filters).T).reshape(*pixels, len(TAPS), -1)
    framed_grad = jnp.zeros((), grad.dtype)
    for number, (i, j) in enumerate(TAPS):
        frame = ((0, 0), (i, KERNEL - 1 - i), (j, KERNEL - 1 - j), (0, 0))
        framed_grad += jnp.pad(slices_grad[:, :, :, number], frame)
    height, width = empty.shape[1:3]
    return framed_grad[:, padding : padding + height, padding : padding + width], weight_grad


convolve_patches.defvjp(_patches_forward, _patches_backward)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Return the maximum of each 2 x 2 window; a last odd row or column is dropped.

    JAX's gradient of a maximum selects the elements equal to it. XLA may compute those elements twice with different
    roundings, so that none is equal and the gradient is lost. This function saves the position instead, as a byte. It
    does not use `jnp.max`, which may lose NaN on a CPU.
    """
    return _max_pool_forward(x)[0]


def _windows(x: jax.Array) -> jax.Array:
    """Return the 2 x 2 windows, (n, height, width, 4, channels)."""
    n, height, width, channels = x.shape
    used = x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, channels)
    return used.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // 2, width // 2, 4, channels)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    windows = _windows(x)
    positions = lax.broadcasted_iota(jnp.uint8, windows.shape, 3)
    start = np.array(-np.inf, x.dtype), np.uint8(0)
    largest, winner = lax.reduce((windows, positions), start, _larger, (3,))
    # The backward pass needs only the shape of x.
    return largest, (winner, x[:0])


def _larger(left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Return the larger of two values, each with its position; the first of equal ones; NaN before numbers."""
    (x, x_position), (y, y_position) = left, right
    is_left = (x > y) | jnp.isnan(x)
    is_first = is_left | ((x == y) & (x_position < y_position))
    return jnp.where(is_left, x, y), jnp.where(is_first, x_position, y_position)


def _max_pool_backward(kept: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array]:
    winner, empty = kept
    n, height, width, channels = grad.shape
    chosen = winner[:, :, :, None] == jnp.arange(4, dtype=jnp.uint8)[:, None]
    windows = jnp.where(chosen, grad[:, :, :, None], 0).reshape(n, height, width, 2, 2, channels)
    whole = windows.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * height, 2 * width, channels)
    odd = [(0, size - 2 * half) for size, half in zip(empty.shape[1:3], (height, width), strict=True)]
    return (jnp.pad(whole, ((0, 0), *odd, (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
