"""Convolutional networks as data, with the shapes of their blocks and dense layers. Imports no framework.

A network is a sequence of blocks

    convolution 3 x 3 -> [batch norm] -> activation -> [max-pool 2 x 2]

followed by a global average or a flattening, hidden dense layers (dense -> activation -> dropout), and a dense layer
that outputs the logits. A convolution before a batch norm has no bias, because the norm subtracts it again.

MEASURED holds those that are measured; add another by writing its row. They are ReLU networks, and mnist_cnn with each
of the other ACTIVATIONS.

Arrays are channels-last: images (n, height, width, channels), convolution weights (row, column, in, out), dense
weights (in, out).
"""

from dataclasses import dataclass, replace
from math import prod

Shape = tuple[int, ...]

KERNEL = 3
RELU = "relu"
# Activations of networks; those besides ReLU are operators of `impls.activations`.
ACTIVATIONS = (RELU, "leaky_relu", "gelu", "silu", "tanh", "sigmoid")
# These never decrease, so that a max-pool may precede them.
MONOTONE = (RELU, "leaky_relu", "tanh", "sigmoid")


@dataclass(frozen=True)
class Conv:
    """A block: a convolution to `filters` channels, the activation, and optionally batch norm and max-pooling."""

    filters: int
    padding: int = 0
    norm: bool = False
    pool: bool = False


@dataclass(frozen=True)
class Dense:
    """A hidden dense layer with its activation. dropout: the fraction of its outputs that dropout sets to 0."""

    units: int
    dropout: float = 0.0


@dataclass(frozen=True)
class Network:
    """An architecture. image: height, width, channels. average: global average instead of flattening.

    activation: one of ACTIVATIONS, the same in all layers.
    """

    name: str
    image: tuple[int, int, int]
    convs: tuple[Conv, ...]
    average: bool = False
    hidden: tuple[Dense, ...] = ()
    classes: int = 10
    activation: str = RELU

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown activation, sizes below 1, and dropout that is no fraction."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation: {self.activation!r} given; {', '.join(ACTIVATIONS)} are accepted")
        if not self.convs:
            raise ValueError(f"{self.name}: convs: none given, at least one needed")
        sizes = {"filters": [conv.filters for conv in self.convs], "units": [dense.units for dense in self.hidden]}
        for name, values in (*sizes.items(), ("classes", [self.classes]), ("image", self.image)):
            if min(values, default=1) < 1:
                raise ValueError(f"{self.name}: {name}: {min(values)} given, at least 1 needed")
        for dense in self.hidden:
            if not 0 <= dense.dropout < 1:
                raise ValueError(f"{self.name}: dropout: {dense.dropout} given, at least 0 and less than 1 needed")


@dataclass(frozen=True)
class Block:
    """A block with the shapes of one image: its input `image`, the convolution's result, and its output after pooling.

    used: the part of `convolved` that pooling reads; it drops a last odd row or column.
    """

    conv: Conv
    image: Shape
    convolved: Shape
    used: Shape
    output: Shape


@dataclass(frozen=True)
class Layer:
    """A dense layer with its sizes. Only hidden layers have an activation and dropout."""

    inputs: int
    units: int
    hidden: bool


def blocks(network: Network) -> list[Block]:
    """Return the blocks with their shapes, first to last.

    Raises ValueError if an image becomes too small, padding exceeds the reach of a filter, or pooling would drop pixels
    that a batch norm has counted.
    """
    sized: list[Block] = []
    image: Shape = network.image
    for conv in network.convs:
        height, width = (size + 2 * conv.padding - KERNEL + 1 for size in image[:2])
        step = 2 if conv.pool else 1
        output = (height // step, width // step, conv.filters)
        if not 0 <= conv.padding < KERNEL:
            raise ValueError(f"{network.name}: padding {conv.padding} given, 0 to {KERNEL - 1} needed")
        if min(output) < 1:
            raise ValueError(f"{network.name}: an image of {image[0]} x {image[1]} is too small for block {conv}")
        if conv.norm and (height % step or width % step):
            raise ValueError(f"{network.name}: pooling behind batch norm needs even sizes, not {height} x {width}")
        used = (step * output[0], step * output[1], conv.filters)
        sized.append(Block(conv, image, (height, width, conv.filters), used, output))
        image = output
    return sized


def layers(network: Network) -> list[Layer]:
    """Return the dense layers with their sizes, first to last; the last one outputs the logits."""
    last = blocks(network)[-1].output
    inputs = last[-1] if network.average else prod(last)
    sized: list[Layer] = []
    for dense in network.hidden:
        sized.append(Layer(inputs, dense.units, hidden=True))
        inputs = dense.units
    return [*sized, Layer(inputs, network.classes, hidden=False)]


MNIST_CNN = Network("mnist_cnn", (28, 28, 1), (Conv(32, pool=True), Conv(64, pool=True)))
MEASURED = (
    MNIST_CNN,
    Network(
        "convnet_relu",
        (32, 32, 3),
        (
            Conv(64, padding=1, norm=True, pool=True),
            Conv(128, padding=1, norm=True, pool=True),
            Conv(256, padding=1, norm=True),
        ),
        average=True,
        hidden=(Dense(128, dropout=0.5),),
    ),
    *(
        replace(MNIST_CNN, name=f"{MNIST_CNN.name}_{activation}", activation=activation)
        for activation in ACTIVATIONS
        if activation != RELU
    ),
)
NETWORKS = {network.name: network for network in MEASURED}
RELU_NETWORKS = {name: network for name, network in NETWORKS.items() if network.activation == RELU}


def with_relu(network: Network) -> Network | None:
    """Return the measured network that differs in its activation only, with ReLU; None where there is none."""
    for other in RELU_NETWORKS.values():
        if replace(network, name=other.name, activation=RELU) == other:
            return other
    return None
