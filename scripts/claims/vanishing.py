"""With sigmoid the gradient shrinks at least as 0.25 to the power of the depth; with ReLU it does not."""

from functools import partial
from typing import Any

import numpy as np

from impls.initialisation import he, xavier
from scripts.claims.claim import Claim
from scripts.claims.document import Panel, Result, result
from scripts.claims.figures import at_most, exact, ratio, within
from scripts.claims.networks import Array, Draw, Perceptrons, digits
from scripts.claims.pictures import curve, series

# Layers between the first and the last gradient that are compared, as in the note.
DEPTH = 10
SIZES = (64, *[128] * (DEPTH + 1), 10)
# The largest derivative of the sigmoid, at 0.
BOUND = 0.25
LARGE = 8
# "Passes through unchanged", of a layer's factor.
LOW, HIGH = 0.9, 1.1


def scaled_xavier(factor: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Xavier's weights times a factor."""
    return factor * xavier(shape, rng)


NETWORKS: dict[str, tuple[str, Draw]] = {
    "ReLU, He's weights": ("ReLU", he),
    "sigmoid, Xavier's weights": ("sigmoid", xavier),
    f"sigmoid, {LARGE} times Xavier's weights": ("sigmoid", partial(scaled_xavier, LARGE)),
}


def experiment(seeds: int) -> Result:
    """Compare the norms of the gradient by the sums of each hidden layer, at initialisation, on all digits."""
    norms, slopes = {}, {}
    for name, (activation, draw) in NETWORKS.items():
        found = [gradients(activation, draw, seed) for seed in range(seeds)]
        norms[name] = np.array([norm for norm, _ in found])
        slopes[name] = max(slope for _, slope in found)
    relu, small, large = (
        ratio(f"{name}: factor of a layer", (norm[:, 0] / norm[:, -1]) ** (1 / DEPTH)) for name, norm in norms.items()
    )
    names = list(NETWORKS)
    largest = exact("sigmoid, Xavier's weights: largest derivative", slopes[names[1]])
    through = ratio(
        f"sigmoid, Xavier's weights: factor of {DEPTH} layers", norms[names[1]][:, 0] / norms[names[1]][:, -1]
    )
    bound = exact(f"the bound, {BOUND:g} to the power of {DEPTH}", BOUND**DEPTH)
    return result(
        [largest, small, through, bound, large, relu],
        [at_most(small, BOUND), at_most(large, BOUND), within(relu, LOW, HIGH)],
        [_panel(norms)],
        "A layer multiplies the gradient by the derivative, which is at most 0.25 and less away from 0, and by the "
        "weights, which may make it larger again. So 0.25 to the power of the depth bounds the part of the "
        "derivatives; it is no equality, and no bound of the gradient.",
    )


def gradients(activation: str, draw: Draw, seed: int) -> tuple[list[float], float]:
    """The norm of the gradient by the sums of each hidden layer, first to last, and the largest derivative."""
    data = digits()
    networks = Perceptrons(SIZES, activation, draw, [seed])
    layers = networks.layers(data.images)
    deltas = networks.deltas(layers, data.labels)[:-1]
    slope = max(float(networks.activation.slope(y).max()) for y in layers[1:-1])
    return [float(np.linalg.norm(delta)) for delta in deltas], slope


def _panel(norms: dict[str, Any]) -> Panel:
    """The norms relative to that of the last hidden layer, over the layers between."""
    layers = list(range(DEPTH + 1))
    lines = [
        series(name, layers, [ratio("", norm[:, DEPTH - layer] / norm[:, -1]) for layer in layers])
        for name, norm in norms.items()
    ]
    bound = curve(f"{BOUND:g} to the power of the layers", layers, [BOUND**layer for layer in layers], "reference")
    return Panel("Gradient relative to the last hidden layer", "layers backwards", "norm", [*lines, bound], log_y=True)


CLAIM = Claim(
    "vanishing",
    "The gradient shrinks with sigmoid, not with ReLU",
    "For sigmoid, each layer multiplies the gradient by at most 0.25. After 10 layers: 0.25^10 = 0.000001. […] When "
    "the input is positive, the gradient passes through [ReLU] unchanged — multiplied by 1. No shrinking.",
    "Note 000, “The vanishing gradient problem”; note 002, “No vanishing gradient for positive values”. Measured for "
    "sigmoid and tanh by Glorot and Bengio, “Understanding the difficulty of training deep feedforward neural "
    "networks”, AISTATS 2010; for ReLU by He et al., “Delving deep into rectifiers”, ICCV 2015, section 2.2.",
    experiment,
)
