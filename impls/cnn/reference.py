"""The definition of a training step, in float64 and plain code, which every other file must agree with.

Each layer has a forward and a backward function; `step` combines them. Nothing here is fast.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from impls.activations import reference as family
from impls.cnn.architecture import KERNEL, RELU, Network, blocks, layers
from impls.cnn.networks import LEARNING_RATE, MOMENTUM, NORM_EPSILON, NORM_MOMENTUM, Array, Batch, initial_statistics

Arrays = dict[str, Array]


@dataclass
class State:
    """The state that a step changes: parameters, their velocities, and running statistics, by name."""

    parameters: Arrays
    velocities: Arrays
    statistics: Arrays


def initial_state(network: Network, parameters: Arrays) -> State:
    """Return the state before the first step: velocities of 0 and initial statistics."""
    velocities = {name: np.zeros_like(value) for name, value in parameters.items()}
    return State(dict(parameters), velocities, initial_statistics(network))


def step(network: Network, state: State, batch: Batch) -> float:
    """Run one step of SGD with momentum on the state, and return the loss before the update."""
    loss, gradients, statistics = loss_and_gradients(network, state, batch)
    state.statistics.update(statistics)
    for name, gradient in gradients.items():
        state.velocities[name] = MOMENTUM * state.velocities[name] + gradient
        state.parameters[name] = state.parameters[name] - LEARNING_RATE * state.velocities[name]
    return loss


def unseen(layer: str, activations: Array) -> None:
    """Ignore what an activation outputs: the default of `see`."""


def activation(network: Network) -> tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]:
    """Return the network's activation, and its gradient from the input."""
    if network.activation == RELU:
        return relu, relu_backward
    definition = getattr(family, network.activation)
    return definition.forward, definition.backward


def logits(network: Network, state: State, images: Array, see: Callable[[str, Array], None] = unseen) -> Array:
    """Return the logits at inference, (n, classes): with running statistics and without dropout.

    see(layer, activations): gets what each activation outputs, before any max-pool: (n, height, width, filters) of
    "conv1", (n, units) of "dense1".
    """
    p, y = state.parameters, images
    activate, _ = activation(network)
    for number, block in enumerate(blocks(network), 1):
        y = convolve(y, p[f"conv{number}.weight"], block.conv.padding)
        if block.conv.norm:
            mean, variance = (state.statistics[f"norm{number}.{name}"] for name in ("mean", "variance"))
            y = p[f"norm{number}.scale"] * (y - mean) / np.sqrt(variance + NORM_EPSILON) + p[f"norm{number}.shift"]
        else:
            y = y + p[f"conv{number}.bias"]
        see(f"conv{number}", y := activate(y))
        y = max_pool(y)[0] if block.conv.pool else y
    y = y.mean((1, 2)) if network.average else y.reshape(len(y), -1)
    for number, layer in enumerate(layers(network), 1):
        y = y @ p[f"dense{number}.weight"] + p[f"dense{number}.bias"]
        if layer.hidden:
            see(f"dense{number}", y := activate(y))
    return y


def loss_and_gradients(network: Network, state: State, batch: Batch) -> tuple[float, Arrays, Arrays]:
    """The loss, its gradient by each parameter, and the running statistics after this batch."""
    p = state.parameters
    activate, activate_backward = activation(network)
    gradients: Arrays = {}
    statistics: Arrays = {}

    # Inputs of each block, of its activation, of each dense layer, and of its activation.
    images, convolved = [batch.images], []
    norms: list[tuple[Array, ...]] = []
    winners: list[Array] = []
    for number, block in enumerate(blocks(network), 1):
        y = convolve(images[-1], p[f"conv{number}.weight"], block.conv.padding)
        if block.conv.norm:
            norms.append(normalise(y))
            statistics |= _running(state.statistics, number, y)
            y = p[f"norm{number}.scale"] * norms[-1][0] + p[f"norm{number}.shift"]
        else:
            norms.append(())
            y = y + p[f"conv{number}.bias"]
        convolved.append(y)
        y = activate(y)
        y, winner = max_pool(y) if block.conv.pool else (y, y[:0])
        winners.append(winner)
        images.append(y)
    last = images[-1]
    y = last.mean((1, 2)) if network.average else last.reshape(len(last), -1)

    inputs, sums = [], []
    for number, layer in enumerate(layers(network), 1):
        inputs.append(y)
        y = y @ p[f"dense{number}.weight"] + p[f"dense{number}.bias"]
        if layer.hidden:
            sums.append(y)
            y = activate(y) * batch.masks[number - 1]
    loss, grad = cross_entropy(y, batch.labels)

    for number, layer in reversed(list(enumerate(layers(network), 1))):
        if layer.hidden:
            grad = activate_backward(grad * batch.masks[number - 1], sums[number - 1])
        gradients[f"dense{number}.weight"] = inputs[number - 1].T @ grad
        gradients[f"dense{number}.bias"] = grad.sum(0)
        grad = grad @ p[f"dense{number}.weight"].T
    if network.average:
        grad = np.broadcast_to(grad[:, None, None, :] / (last.shape[1] * last.shape[2]), last.shape)
    else:
        grad = grad.reshape(last.shape)

    for number, block in reversed(list(enumerate(blocks(network), 1))):
        if block.conv.pool:
            grad = max_pool_backward(grad, winners[number - 1], convolved[number - 1].shape)
        grad = activate_backward(grad, convolved[number - 1])
        if block.conv.norm:
            normalised, deviation = norms[number - 1]
            gradients[f"norm{number}.scale"] = (grad * normalised).sum((0, 1, 2))
            gradients[f"norm{number}.shift"] = grad.sum((0, 1, 2))
            grad = normalise_backward(grad * p[f"norm{number}.scale"], normalised, deviation)
        else:
            gradients[f"conv{number}.bias"] = grad.sum((0, 1, 2))
        gradients[f"conv{number}.weight"] = convolve_backward_weight(grad, images[number - 1], block.conv.padding)
        if number > 1:
            grad = convolve_backward_image(grad, p[f"conv{number}.weight"], block.conv.padding)
    return loss, gradients, statistics


def convolve(image: Array, weight: Array, padding: int) -> Array:
    """Return the cross-correlation of (n, h, w, c) with (3, 3, c, f): (n, h', w', f)."""
    return np.tensordot(_windows(image, padding), weight.transpose(2, 0, 1, 3), 3)


def convolve_backward_weight(grad: Array, image: Array, padding: int) -> Array:
    """Return the weight gradient, (3, 3, c, f)."""
    return np.tensordot(_windows(image, padding), grad, ((0, 1, 2), (0, 1, 2))).transpose(1, 2, 0, 3)


def convolve_backward_image(grad: Array, weight: Array, padding: int) -> Array:
    """Return the image gradient: that of the result, convolved with the filters rotated by 180 degrees."""
    return convolve(grad, weight[::-1, ::-1].transpose(0, 1, 3, 2), KERNEL - 1 - padding)


def _windows(image: Array, padding: int) -> Array:
    """Return the 3 x 3 window of each output pixel, (n, h', w', c, 3, 3)."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, (KERNEL, KERNEL), (1, 2))


def relu(x: Array) -> Array:
    # This comparison passes NaN.
    return np.where(x <= 0, 0, x)


def relu_backward(grad: Array, x: Array) -> Array:
    return np.where(x > 0, grad, 0)


def max_pool(x: Array) -> tuple[Array, Array]:
    """Return the maximum of each 2 x 2 window and its position, the first of equals. Drops a last odd row or column."""
    n, height, width, channels = x.shape
    windows = x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, channels)
    windows = windows.transpose(0, 1, 3, 5, 2, 4).reshape(n, height // 2, width // 2, channels, 4)
    return windows.max(-1), windows.argmax(-1)


def max_pool_backward(grad: Array, winner: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient at the position of each maximum, 0 elsewhere."""
    n, height, width, channels = grad.shape
    windows = np.where(np.arange(4) == winner[..., None], grad[..., None], 0)
    windows = windows.reshape(n, height, width, channels, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    whole = np.zeros(shape, grad.dtype)
    whole[:, : 2 * height, : 2 * width] = windows.reshape(n, 2 * height, 2 * width, channels)
    return whole


def normalise(x: Array) -> tuple[Array, Array]:
    """Return x with mean 0 and variance 1 in each channel, and its standard deviation before.

    Source: Ioffe and Szegedy, "Batch normalization", ICML 2015.
    """
    deviation = np.sqrt(x.var((0, 1, 2)) + NORM_EPSILON)
    return (x - x.mean((0, 1, 2))) / deviation, deviation


def normalise_backward(grad: Array, normalised: Array, deviation: Array) -> Array:
    """Return the gradient of the input of `normalise`."""
    mean, along = grad.mean((0, 1, 2)), (grad * normalised).mean((0, 1, 2))
    return (grad - mean - normalised * along) / deviation


def _running(statistics: Arrays, number: int, x: Array) -> Arrays:
    """Return the running mean and the running sample variance, which divides by n - 1 as in torch."""
    batch = {"mean": x.mean((0, 1, 2)), "variance": x.var((0, 1, 2), ddof=1)}
    return {
        f"norm{number}.{name}": (1 - NORM_MOMENTUM) * statistics[f"norm{number}.{name}"] + NORM_MOMENTUM * value
        for name, value in batch.items()
    }


def cross_entropy(scores: Array, labels: Array) -> tuple[float, Array]:
    """Return the mean softmax cross-entropy and the gradient of the logits."""
    n = len(labels)
    shifted = scores - scores.max(1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    grad = np.exp(logarithms)
    grad[np.arange(n), labels] -= 1
    return -float(logarithms[np.arange(n), labels].mean()), grad / n
