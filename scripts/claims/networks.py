"""Multilayer perceptrons in NumPy, many of them side by side, and the digits that they learn.

A run is a network with a seed, and where it trains, a learning rate of its own. Arrays have a first axis for runs:
weights (runs, inputs, units), activations (runs, n, units), float32.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[Any]
Draw = Callable[[tuple[int, ...], np.random.Generator], Array]
LEAK = np.float32(0.01)
ONE = np.float32(1)


@dataclass(frozen=True)
class Activation:
    """An activation function, and its derivative as a function of its value."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


ACTIVATIONS = {
    "ReLU": Activation(lambda z: np.maximum(z, 0), lambda y: y > 0),
    "leaky ReLU": Activation(lambda z: np.maximum(z, LEAK * z), lambda y: np.where(y > 0, ONE, LEAK)),
    "tanh": Activation(np.tanh, lambda y: 1 - y * y),
    "sigmoid": Activation(expit, lambda y: y * (1 - y)),
}


@dataclass(frozen=True)
class Digits:
    """Images (n, 64), float32 with mean 0 and standard deviation 1, and labels (n,), int64."""

    images: Array
    labels: Array


@cache
def digits() -> Digits:
    """scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = data.images.reshape(len(data.images), -1).astype(np.float32)
    return Digits((images - images.mean()) / images.std(), data.target.astype(np.int64))


def batches(seeds: Sequence[int], epoch: int, n: int, size: int) -> Iterator[Array]:
    """Positions of the samples in each batch of an epoch: (runs, size), another order for each seed.

    The samples that fill no batch are left out, others in each epoch.
    """
    orders = {seed: np.random.default_rng([seed, epoch]).permutation(n) for seed in set(seeds)}
    order = np.stack([orders[seed] for seed in seeds])
    for start in range(0, n - size + 1, size):
        yield order[:, start : start + size]


class Perceptrons:
    """Networks of one shape: dense layers with one activation function between them, and a softmax over the logits.

    sizes: inputs, units of each hidden layer, classes. draw(shape, rng): initial weights; biases start at 0.
    """

    def __init__(self, sizes: Sequence[int], activation: str, draw: Draw, seeds: Sequence[int]) -> None:
        self.activation = ACTIVATIONS[activation]
        generators = [np.random.default_rng(seed) for seed in seeds]
        self.weights = [
            np.stack([draw(shape, generator) for generator in generators]).astype(np.float32)
            for shape in pairwise(sizes)
        ]
        self.biases = [np.zeros((len(seeds), 1, units), np.float32) for units in sizes[1:]]
        self.velocities = [np.zeros_like(parameter) for parameter in self._parameters]

    @property
    def _parameters(self) -> list[Array]:
        return [*self.weights, *self.biases]

    def keep(self, runs: Array) -> None:
        """Go on with these runs only: a mask or positions."""
        self.weights, self.biases, self.velocities = (
            [array[runs] for array in arrays] for arrays in (self.weights, self.biases, self.velocities)
        )

    def layers(self, x: Array, runs: slice = slice(None)) -> list[Array]:
        """The input and the result of each layer, the logits last. x: (n, inputs), or (runs, n, inputs)."""
        *hidden, last = [
            (weights[runs], biases[runs]) for weights, biases in zip(self.weights, self.biases, strict=True)
        ]
        results = [x]
        for weights, biases in hidden:
            results.append(self.activation.value(results[-1] @ weights + biases))
        return [*results, results[-1] @ last[0] + last[1]]

    def deltas(self, layers: list[Array], labels: Array) -> list[Array]:
        """The gradient of the mean cross-entropy by the sums of each layer before its activation function.

        layers: of `layers`. labels: (n,), or (runs, n).
        """
        logits = layers[-1]
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        wanted = np.arange(logits.shape[-1]) == labels[..., None]
        deltas = [(shares - wanted) / np.float32(logits.shape[-2])]
        for weights, y in zip(self.weights[:0:-1], layers[-2:0:-1], strict=True):
            deltas.append(deltas[-1] @ weights.swapaxes(1, 2) * self.activation.slope(y))
        return deltas[::-1]

    def step(self, x: Array, labels: Array, rates: Array, momentum: float = 0.0) -> Array:
        """A step of stochastic gradient descent; returns the share that each run classified wrongly before it, (runs,).

        x: (runs, n, inputs). labels: (runs, n). rates: learning rates, (runs,), float32.
        """
        layers = self.layers(x)
        deltas = self.deltas(layers, labels)
        gradients = [y.swapaxes(1, 2) @ delta for y, delta in zip(layers, deltas, strict=False)]
        gradients += [delta.sum(1, keepdims=True) for delta in deltas]
        for parameter, velocity, gradient in zip(self._parameters, self.velocities, gradients, strict=True):
            velocity *= np.float32(momentum)
            velocity += gradient
            parameter -= rates[:, None, None] * velocity
        return _wrong(layers[-1], labels)

    def errors(self, data: Digits, runs: Iterable[int] | None = None) -> Array:
        """The share of samples that each run classifies wrongly, or each of some runs."""
        # One run after the other stays in the processor's caches.
        chosen = range(len(self.biases[0])) if runs is None else runs
        return np.array([_wrong(self.layers(data.images, slice(r, r + 1))[-1][0], data.labels) for r in chosen])


def _wrong(logits: Array, labels: Array) -> Array:
    return (logits.argmax(-1) != labels).mean(-1)


def trained(
    networks: Perceptrons, seeds: Sequence[int], rates: Array, epochs: int, size: int, momentum: float = 0.0
) -> Iterator[int]:
    """Train on the digits; yields the number of epochs so far, from 0 on. A run that diverges gives NaN."""
    data = digits()
    yield 0
    for epoch in range(epochs):
        for batch in batches(seeds, epoch, len(data.labels), size):
            with np.errstate(over="ignore", invalid="ignore"):
                networks.step(data.images[batch], data.labels[batch], rates, momentum)
        yield epoch + 1
