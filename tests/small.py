"""Small networks with every feature of the measured ones."""

from dataclasses import replace

from impls.cnn.networks import Conv, Dense, Network
from impls.cnn.numba_cuda.products import Launch

# Odd and even sizes; few channels, and enough channels to be computed in tiles.
SMALL = (
    Network("plain", (13, 11, 2), (Conv(16, pool=True), Conv(4, pool=True)), classes=3),
    Network(
        "normed", (8, 6, 1), (Conv(17, padding=1, norm=True, pool=True), Conv(5, padding=1, norm=True)),
        average=True, hidden=(Dense(6, dropout=0.5),), classes=4,
    ),
    Network(
        "tiled", (8, 8, 3), (Conv(16, padding=1, norm=True, pool=True), Conv(18, padding=1, norm=True)),
        average=True, hidden=(Dense(6, dropout=0.5),), classes=4,
    ),
)  # fmt: skip
# Each with another activation.
ACTIVATED = tuple(
    replace(network, name=f"{network.name}-{activation}", activation=activation)
    for network, activation in (
        (SMALL[0], "leaky_relu"), (SMALL[0], "gelu"), (SMALL[1], "gelu"), (SMALL[2], "silu"), (SMALL[1], "tanh"),
        (SMALL[0], "sigmoid"),
    )
)  # fmt: skip
# Its blocks neither pool nor normalise.
UNPOOLED = Network("unpooled", (6, 5, 1), (Conv(4, padding=1), Conv(3)), classes=3)
# Small squares, as the simulator runs every GPU thread as a Python thread; TALL makes tiles of two squares.
LAUNCH, TALL = Launch(side=16), Launch(side=16, blocks=1)
