"""He's weights keep the variance of activations over many layers of ReLU, Xavier's do not."""

import numpy as np

from impls.initialisation import he, xavier
from scripts.claims.claim import Claim
from scripts.claims.document import Panel, Result, result
from scripts.claims.figures import below, ratio, within
from scripts.claims.networks import Array, Draw
from scripts.claims.pictures import reference, series

LAYERS, UNITS, SAMPLES = 30, 512, 256
# "Keeps": within a factor of two.
FACTOR = 2.0


def experiment(seeds: int, keeping: Draw = he, losing: Draw = xavier) -> Result:
    """Compare the variance of the sums before ReLU in the last layer with that in the first."""
    variances = {
        name: np.array([variances_of(draw, seed) for seed in range(seeds)])
        for name, draw in (("He's weights", keeping), ("Xavier's weights", losing))
    }
    whole = {
        name: ratio(f"{name}: variance in layer {LAYERS} by that in layer 1", of_layers[:, -1] / of_layers[:, 0])
        for name, of_layers in variances.items()
    }
    each = [
        ratio(f"{name}: factor of a layer", (of_layers[:, -1] / of_layers[:, 0]) ** (1 / (LAYERS - 1)))
        for name, of_layers in variances.items()
    ]
    kept, lost = whole.values()
    layers = list(range(1, LAYERS + 1))
    lines = [
        series(name, layers, [ratio("", of_layers[:, layer - 1] / of_layers[:, 0]) for layer in layers])
        for name, of_layers in variances.items()
    ]
    return result(
        [kept, lost, *each],
        [within(kept, 1 / FACTOR, FACTOR), below(lost, 1 / FACTOR)],
        [
            Panel(
                "Variance before ReLU", "layer", "relative to layer 1", [*lines, reference("1", layers, 1)], log_y=True
            )
        ],
        f"Dense layers of {UNITS} units. ReLU halves the second moment, and weights of variance 2 / inputs double it. "
        "Xavier's have variance 1 / inputs in such layers, so each layer halves the variance.",
    )


def variances_of(draw: Draw, seed: int) -> list[float]:
    """The variance of the sums before ReLU in each layer, for normally distributed inputs."""
    generator = np.random.default_rng(seed)
    y: Array = generator.standard_normal((SAMPLES, UNITS)).astype(np.float32)
    variances = []
    for _ in range(LAYERS):
        z = y @ draw((UNITS, UNITS), generator).astype(np.float32)
        variances.append(float(z.var()))
        y = np.maximum(z, 0)
    return variances


CLAIM = Claim(
    "variance",
    "He's weights keep the variance",
    "After ReLU, half the values are zeroed, so the output variance is approximately halved. To compensate and "
    "maintain Var(output) ≈ Var(input), He initialization sets [the variance of weights to] 2 / n_in. The factor of 2 "
    "(instead of 1 in Xavier initialization) accounts for ReLU zeroing ~50% of activations.",
    "Note 002, “Weight initialization: He (Kaiming)”; He et al., “Delving deep into rectifiers”, ICCV 2015, section "
    "2.2 and figure 3 (30 layers); Glorot and Bengio, AISTATS 2010, section 4.2.1.",
    experiment,
)
