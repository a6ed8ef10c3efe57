"""Activations of the networks in `impls.cnn` for the parameters of a training step, whichever framework trained them.

The float64 reference computes them, so that steps of all frameworks are observed alike. What a step itself computes
differs from that by its rounding.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from impls.cnn import reference
from impls.cnn.networks import Array, Network
from impls.health.units import Units, counted, totals

# Images that are observed at a time: their activations fit into memory, whatever the number of images.
PART = 64


# Arrays have no single truth, so comparing two is not offered.
@dataclass(frozen=True, eq=False)
class Activations:
    """Outputs of a layer's ReLU over a data set, summed up. total, squares: sums of all values and of their squares."""

    units: Units
    total: float
    squares: float

    @property
    def values(self) -> int:
        """The number of values: samples, times pixels of a channel, times units."""
        return self.units.values * len(self.units.active)

    @property
    def mean(self) -> float:
        """The mean of all values."""
        return self.total / self.values

    @property
    def std(self) -> float:
        """The standard deviation of all values, which divides by their number."""
        # By rounding, the variance of equal values may be below 0.
        return sqrt(max(self.squares / self.values - self.mean**2, 0.0))

    @property
    def dead_share(self) -> float:
        """The share of units that were never active."""
        return len(self.units.dead) / len(self.units.active)

    def __add__(self, other: "Activations") -> "Activations":
        """The activations over both data sets. Raises ValueError for another number of units."""
        return Activations(self.units + other.units, self.total + other.total, self.squares + other.squares)


def observed(network: Network, state: reference.State, images: Array) -> dict[str, Activations]:
    """The activations of each ReLU layer over all images at inference, before any max-pool: "conv1", ..., "dense1", ...

    images: (n, height, width, channels). state: of a step (`impls.cnn`), or of the reference.

    Raises ValueError where there is no image.
    """
    return totals(_layers(network, state, images[start : start + PART]) for start in range(0, len(images), PART))


def _layers(network: Network, state: reference.State, images: Array) -> dict[str, Activations]:
    layers: dict[str, Activations] = {}

    def see(layer: str, y: Array) -> None:
        layers[layer] = Activations(counted(y), float(y.sum()), float(np.vdot(y, y)))

    reference.logits(network, state, images, see)
    return layers
