"""Linear layers without an activation function between them are one linear layer."""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise

import numpy as np

from impls.initialisation import he, xavier
from scripts.claims.claim import Claim
from scripts.claims.document import Panel, Result, result
from scripts.claims.figures import above, at_most, exact, mean
from scripts.claims.networks import Array
from scripts.claims.pictures import curve

SIZES = (64, 64, 10)
# Of the network whose curve is drawn, and of the one with a hundred layers.
CURVE_SIZES, DEEP_SIZES = (1, 8, 1), (64,) * 101
# Inputs that a single layer is fitted to, and as many others that judge it.
SAMPLES = 4096
# Sums of products of such integers are exact in float64.
LARGEST_INTEGER = 8
# Rounding: 2e-12 of the largest output. "Cannot be simplified": the best single layer leaves more.
MOST_ULPS, LEAST_PERCENT = 10_000, 1.0
# Weights (inputs, units) and biases (units,) of a layer.
Layer = tuple[Array, Array]
Activation = Callable[[Array], Array]


def experiment(seeds: int) -> Result:
    """Replace layers by one layer: multiplied out, and fitted by least squares where ReLU is between them."""
    generators = [np.random.default_rng(seed) for seed in range(seeds)]
    integers, two, deep = (
        exact(f"{name}: largest difference from one layer", max(of_each), "ulps")
        for name, of_each in (
            ("2 layers of integers", [difference_ulps(integer_layers(rng), integers_of(rng)) for rng in generators]),
            ("2 layers", [difference_ulps(random_layers(SIZES, rng), normal(SIZES[0], rng)) for rng in generators]),
            ("100 layers", [difference_ulps(random_layers(DEEP_SIZES, rng), normal(64, rng)) for rng in generators]),
        )
    )
    straight, bent = (
        mean(f"{name}: variance that the best single layer leaves", [left_percent(rng, f) for rng in generators], "%")
        for name, f in (("2 layers", identity), ("2 layers with ReLU", relu))
    )
    return result(
        [integers, two, deep, straight, bent],
        [at_most(integers, 0), at_most(two, MOST_ULPS), at_most(deep, MOST_ULPS), above(bent, LEAST_PERCENT)],
        [_panel()],
        "With integers no operation rounds, and both forms are equal in every bit; otherwise they differ by rounding. "
        "Ulps are those of the largest output: the distance to the next number in float64.",
    )


def identity(z: Array) -> Array:
    """No activation function."""
    return z


def relu(z: Array) -> Array:
    """max(0, z)."""
    return np.maximum(z, 0)


def random_layers(sizes: Sequence[int], rng: np.random.Generator) -> list[Layer]:
    """Layers with Xavier's weights and normal biases, float64."""
    return [(xavier(shape, rng), rng.standard_normal(shape[1])) for shape in pairwise(sizes)]


def integer_layers(rng: np.random.Generator) -> list[Layer]:
    """Two layers of small integers, float64."""
    return [(_integers(shape, rng), _integers(shape[1:], rng)) for shape in pairwise(SIZES)]


def integers_of(rng: np.random.Generator) -> Array:
    """Inputs that are small integers."""
    return _integers((SAMPLES, SIZES[0]), rng)


def normal(inputs: int, rng: np.random.Generator) -> Array:
    """Normally distributed inputs."""
    return rng.standard_normal((SAMPLES, inputs))


def _integers(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return rng.integers(-LARGEST_INTEGER, LARGEST_INTEGER, shape, endpoint=True).astype(np.float64)


def outputs(layers: Sequence[Layer], x: Array, activation: Activation = identity) -> Array:
    """The result of layers with an activation function between them."""
    *hidden, (weights, biases) = layers
    for inner, offset in hidden:
        x = activation(x @ inner + offset)
    return x @ weights + biases


def collapsed(layers: Sequence[Layer]) -> Layer:
    """The single layer that linear layers are: W3 = W1 W2 and b3 = b1 W2 + b2, from the first layer on."""
    return reduce(lambda one, other: (one[0] @ other[0], one[1] @ other[0] + other[1]), layers)


def difference_ulps(layers: Sequence[Layer], x: Array) -> float:
    """The largest difference between the layers and the single one, in ulps of the largest output."""
    expected = outputs(layers, x)
    return float(np.abs(outputs([collapsed(layers)], x) - expected).max() / np.spacing(np.abs(expected).max()))


def fitted(x: Array, y: Array) -> Layer:
    """The single layer with the least squared error."""
    solution = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    return solution[:-1], solution[-1]


def left_percent(rng: np.random.Generator, activation: Activation) -> float:
    """The share of the variance of two layers' outputs that the best single layer leaves, for other inputs."""
    layers = random_layers(SIZES, rng)
    x, other = normal(SIZES[0], rng), normal(SIZES[0], rng)
    best = fitted(x, outputs(layers, x, activation))
    expected = outputs(layers, other, activation)
    return float(100 * (outputs([best], other) - expected).var() / expected.var())


def _panel() -> Panel:
    """The output of a network of one input, with and without ReLU, and of the best single layers."""
    rng = np.random.default_rng(0)
    layers = [(he(shape, rng), rng.standard_normal(shape[1])) for shape in pairwise(CURVE_SIZES)]
    x = np.linspace(-3, 3, 121)[:, None]
    curves = {"two layers": identity, "two layers with ReLU": relu}
    lines = [curve(name, x[:, 0], outputs(layers, x, f)[:, 0].tolist()) for name, f in curves.items()]
    singles = {
        "one layer, multiplied out": collapsed(layers),
        "one layer, fitted to those with ReLU": fitted(x, outputs(layers, x, relu)),
    }
    lines += [
        curve(name, x[::6, 0], outputs([layer], x[::6])[:, 0].tolist(), "points") for name, layer in singles.items()
    ]
    return Panel("A network of one input and 8 units", "input", "output", lines)


CLAIM = Claim(
    "collapse",
    "Linear layers collapse into one",
    "z = W2 * (W1 * x + b1) + b2 = (W2 * W1) * x + (W2 * b1 + b2) = W3 * x + b3. Two layers collapse into one. […] 100 "
    "linear layers stacked together = 1 linear layer. […] z = W2 * relu(W1 * x + b1) + b2 cannot be simplified to "
    "W3 * x + b3.",
    "Note 000, “The problem: linearity” and “The fix: non-linearity”.",
    experiment,
)
