"""Convolutional networks as data, and what follows from it: shapes, parameters, FLOPs and bytes.

A network is a row of NETWORKS; a third one is added by writing its row. Each is a sequence of blocks

    convolution 3 x 3 -> [batch norm] -> ReLU -> [max-pool 2 x 2]

then a global average or a flattening, hidden dense layers (dense -> ReLU -> [dropout]), and a dense layer
whose outputs are the logits of a softmax cross-entropy. A convolution before a batch norm has no bias, as
the norm takes it out again.

Arrays are channels-last: images (n, height, width, channels), convolution weights (row, column, in, out),
dense weights (in, out).
"""

from dataclasses import dataclass, field
from math import prod, sqrt

import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]

KERNEL = 3
# Batch norm and the update, as in torch: running = (1 - m) running + m batch, v = mu v + g, p = p - lr v.
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.1
LEARNING_RATE, MOMENTUM = 0.01, 0.9
# What steps can be built for, and what becomes of their ReLUs (`impls.cnn`).
DTYPES = ("float32", "float64")
RELU = ("fresh", "inplace", "none")


@dataclass(frozen=True)
class Conv:
    """A block: convolution to so many filters, ReLU, and what else it has."""

    filters: int
    padding: int = 0
    norm: bool = False
    pool: bool = False


@dataclass(frozen=True)
class Dense:
    """A hidden dense layer with its ReLU, and the share of its outputs that dropout takes out."""

    units: int
    dropout: float = 0.0


@dataclass(frozen=True)
class Network:
    """An architecture. image: height, width, channels. average: global average rather than flattening."""

    name: str
    image: tuple[int, int, int]
    convs: tuple[Conv, ...]
    average: bool = False
    hidden: tuple[Dense, ...] = ()
    classes: int = 10


NETWORKS = {
    network.name: network
    for network in (
        Network("mnist_cnn", (28, 28, 1), (Conv(32, pool=True), Conv(64, pool=True))),
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
    )
}

# As benchmarks and results call a training step of each.
STEP_OF = {f"cnn.{name}": network for name, network in NETWORKS.items()}


@dataclass(frozen=True)
class Block:
    """A convolution with its shapes, without the batch: image (given), conv and output (after pooling).

    Where pooling drops a last odd row or column, `used` is the part of `conv` that it looks at.
    """

    conv: Conv
    image: Shape
    convolved: Shape
    used: Shape
    output: Shape


@dataclass(frozen=True)
class Layer:
    """A dense layer with its sizes; ReLU and dropout only behind hidden ones."""

    inputs: int
    units: int
    hidden: bool


def blocks(network: Network) -> list[Block]:
    """The convolutions with their shapes, first to last.

    Raises ValueError where an image becomes too small, padding is more than a filter reaches, or pooling drops what a
    batch norm has counted.
    """
    found: list[Block] = []
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
        found.append(Block(conv, image, (height, width, conv.filters), used, output))
        image = output
    return found


def layers(network: Network) -> list[Layer]:
    """The dense layers with their sizes, the one that gives the logits last."""
    last = blocks(network)[-1].output
    inputs = last[-1] if network.average else prod(last)
    found: list[Layer] = []
    for dense in network.hidden:
        found.append(Layer(inputs, dense.units, hidden=True))
        inputs = dense.units
    return [*found, Layer(inputs, network.classes, hidden=False)]


def parameter_shapes(network: Network) -> dict[str, Shape]:
    """Names and shapes of all that is learnt, in the order of the forward pass."""
    shapes: dict[str, Shape] = {}
    for number, block in enumerate(blocks(network), 1):
        shapes[f"conv{number}.weight"] = (KERNEL, KERNEL, block.image[-1], block.conv.filters)
        if block.conv.norm:
            shapes[f"norm{number}.scale"] = shapes[f"norm{number}.shift"] = (block.conv.filters,)
        else:
            shapes[f"conv{number}.bias"] = (block.conv.filters,)
    for number, layer in enumerate(layers(network), 1):
        shapes[f"dense{number}.weight"] = (layer.inputs, layer.units)
        shapes[f"dense{number}.bias"] = (layer.units,)
    return shapes


def statistic_shapes(network: Network) -> dict[str, Shape]:
    """Names and shapes of the running statistics of the batch norms."""
    return {
        f"norm{number}.{name}": (block.conv.filters,)
        for number, block in enumerate(blocks(network), 1)
        if block.conv.norm
        for name in ("mean", "variance")
    }


def initial_parameters(network: Network, seed: int = 0) -> dict[str, Array]:
    """He-normal weights (variance 2 / inputs of a unit), scales of 1, and zeros: float64, the same each time.

    They fit float32, as images do, so that steps of either dtype start from the same numbers.

    Source: He et al., "Delving deep into rectifiers", ICCV 2015, section 2.2.
    """
    rng = np.random.default_rng(seed)
    return {name: _initial(name, shape, rng) for name, shape in parameter_shapes(network).items()}


def _initial(name: str, shape: Shape, rng: np.random.Generator) -> Array:
    if name.endswith(".weight"):
        return _fit_float32(rng.standard_normal(shape) * sqrt(2 / prod(shape[:-1])))
    return np.ones(shape) if name.endswith(".scale") else np.zeros(shape)


def _fit_float32(value: Array) -> Array:
    return value.astype(np.float32).astype(np.float64)


def initial_statistics(network: Network) -> dict[str, Array]:
    """Running means of 0 and variances of 1."""
    shapes = statistic_shapes(network)
    return {name: np.full(shape, float(name.endswith(".variance"))) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Batch:
    """What a step learns from. images: (n, height, width, channels). labels: (n,), int64.

    masks: for each hidden layer (n, units), 1 / (1 - dropout) where a unit is kept and 0 where not.
    """

    images: Array
    labels: Array
    masks: tuple[Array, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.labels)


def require(
    network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, accepted: tuple[str, ...] = RELU
) -> None:
    """Raise ValueError where no step can be built for this."""
    for name, given, known in (("dtype", dtype, DTYPES), ("relu", relu, accepted)):
        if given not in known:
            raise ValueError(f"{name}: {given!r} given, one of {', '.join(map(repr, known))} needed")
    # The variance of a sample has one degree of freedom less than there are values.
    least = max((2 if b.conv.norm and prod(b.convolved[:2]) == 1 else 1 for b in blocks(network)), default=1)
    if not isinstance(n, int) or n < least:
        raise ValueError(f"n: {n} given, a batch of at least {least} needed")
    shapes = parameter_shapes(network)
    found = {name: array.shape for name, array in parameters.items()}
    for parameter in shapes.keys() | found.keys():
        if found.get(parameter) != shapes.get(parameter):
            raise ValueError(
                f"parameters: {parameter} with shape {found.get(parameter)} given, {shapes.get(parameter)} needed"
            )


def require_batch(network: Network, n: int, batch: Batch) -> None:
    """Raise ValueError where a batch is not n images of this network with a label and masks for each."""
    if len(batch) != n:
        raise ValueError(f"batch: {len(batch)} images given, {n} needed, for which this step was built")
    masks = [(n, dense.units) for dense in network.hidden]
    for name, given, needed in (
        ("images", batch.images.shape, (n, *network.image)),
        ("labels", batch.labels.shape, (n,)),
        ("masks", [mask.shape for mask in batch.masks], masks),
    ):
        if given != needed:
            raise ValueError(f"{name}: shape {given} given, {needed} needed")
    if batch.labels.dtype.kind not in "iu" or batch.labels.min() < 0 or batch.labels.max() >= network.classes:
        raise ValueError(f"labels: integers from 0 to {network.classes - 1} needed")


def random_batch(network: Network, n: int, seed: int = 0) -> Batch:
    """A batch of normally distributed images with labels and dropout masks, float64, the same each time."""
    rng = np.random.default_rng([seed, n])
    images = _fit_float32(rng.standard_normal((n, *network.image)))
    labels = rng.integers(0, network.classes, n)
    return Batch(images, labels, random_masks(network, n, rng))


def random_masks(network: Network, n: int, rng: np.random.Generator) -> tuple[Array, ...]:
    """Dropout masks for a batch."""
    return tuple((rng.random((n, dense.units)) >= dense.dropout) / (1 - dense.dropout) for dense in network.hidden)


def saved_bytes(network: Network, n: int, itemsize_bytes: int) -> int:
    """What a step on n images that is written by hand keeps from its forward pass for its backward pass.

    Of each block its images in their frame, a byte for each element that a max-pool gives, and for batch norm what
    was convolved, with mean and deviation; what the last block gives; of a dense layer its input, where that is no
    view, and a hidden one's output. ReLU adds nothing to that, fresh or in place: its result is the next one's input.
    """
    elements, bytes_ = 0, 0
    for block in blocks(network):
        height, width, channels = block.image
        elements += n * (height + 2 * block.conv.padding) * (width + 2 * block.conv.padding) * channels
        bytes_ += n * prod(block.output) if block.conv.pool else 0
        elements += n * prod(block.convolved) + 2 * block.conv.filters if block.conv.norm else 0
    elements += n * prod(blocks(network)[-1].output)
    elements += n * blocks(network)[-1].conv.filters if network.average else 0
    elements += sum(2 * n * layer.units for layer in layers(network) if layer.hidden)
    return elements * itemsize_bytes + bytes_


def fused_saved_bytes(network: Network, n: int, itemsize_bytes: int) -> int:
    """The same of a step whose convolutions read images without a frame, and dense layers drop out in registers.

    Of each block what it gives, and a byte for each element of that where it pools; for batch norm what was convolved,
    with mean and deviation; the images given; what dense layers are given, where that is no block's output, and masks.
    """
    elements, bytes_ = n * prod(network.image), 0
    for block in blocks(network):
        elements += n * prod(block.output)
        bytes_ += n * prod(block.output) if block.conv.pool else 0
        elements += n * prod(block.convolved) + 2 * block.conv.filters if block.conv.norm else 0
    elements += n * blocks(network)[-1].conv.filters if network.average else 0
    elements += sum(2 * n * layer.units for layer in layers(network) if layer.hidden)
    return elements * itemsize_bytes + bytes_


def autograd_saved_bytes(network: Network, n: int, itemsize_bytes: int) -> int:
    """What eager PyTorch's autograd keeps of a step on n images, parameters left out, whether ReLU is in place or not.

    Of each block the images given, the result of ReLU, for a batch norm what was convolved, with mean and deviation,
    and of a max-pool 8 bytes for each element that it gives, its position; of a global average what it gives; of a
    hidden layer the result of ReLU, the mask and their product; logarithms of the softmax, labels, and a number.
    """
    elements, bytes_ = n * prod(network.image), 0
    for block in blocks(network):
        elements += n * prod(block.convolved)
        elements += n * prod(block.convolved) + 2 * block.conv.filters if block.conv.norm else 0
        # A global average does not keep what it is given.
        kept = block.conv.pool and not (network.average and block == blocks(network)[-1])
        elements += n * prod(block.output) if kept else 0
        bytes_ += 8 * n * prod(block.output) if block.conv.pool else 0
    elements += n * blocks(network)[-1].conv.filters if network.average else 0
    elements += sum(3 * n * layer.units for layer in layers(network) if layer.hidden)
    return (elements + n * network.classes + 1) * itemsize_bytes + bytes_ + 8 * n


def inplace_bytes(network: Network, n: int, itemsize_bytes: int) -> int:
    """What ReLU in place spares such a step: the memory for the input of each ReLU, after pooling."""
    pooled = sum(prod(block.output) for block in blocks(network))
    return n * (pooled + sum(layer.units for layer in layers(network) if layer.hidden)) * itemsize_bytes


@dataclass(frozen=True)
class Work:
    """What one image costs, nominally: whatever an implementation fuses or leaves out, these are the figures.

    forward_flops, backward_flops: of convolutions and dense layers, two for each multiplication with
    its addition; no gradient for the images. least_flops: of both, where convolutions take 16 multiplications for 36
    (`winograd`) and leave out what pooling drops. relu_elements: that go through a ReLU as the network is
    drawn. input_elements: of a block's image, which its weight gradient needs. pool_elements: that
    max-pools give. column_elements: of the column matrices of im2col.
    """

    forward_flops: int
    backward_flops: int
    least_flops: float
    relu_elements: int
    input_elements: int
    pool_elements: int
    column_elements: int


def work(network: Network) -> Work:
    """What one image costs."""
    convs = [(2 * prod(b.convolved) * KERNEL**2 * b.image[-1]) for b in blocks(network)]
    denses = [2 * layer.inputs * layer.units for layer in layers(network)]
    flops = [*convs, *denses]
    least = [16 / 36 * 2 * prod(b.used) * KERNEL**2 * b.image[-1] for b in blocks(network)]
    return Work(
        forward_flops=sum(flops),
        backward_flops=2 * sum(flops) - flops[0],
        least_flops=3 * sum([*least, *denses]) - least[0],
        relu_elements=sum(prod(b.convolved) for b in blocks(network)) + sum(d.units for d in network.hidden),
        input_elements=sum(prod(b.image) for b in blocks(network)),
        pool_elements=sum(prod(b.output) for b in blocks(network) if b.conv.pool),
        column_elements=sum(prod(b.convolved[:2]) * KERNEL**2 * b.image[-1] for b in blocks(network)),
    )
