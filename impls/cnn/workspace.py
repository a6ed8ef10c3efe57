"""Shared parts of handwritten steps (`numpy_`, `numba_cpu`): preallocated memory, and the order of a step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from impls.cnn import unmarked, winograd
from impls.cnn.architecture import KERNEL, MONOTONE, RELU, Block, Layer, Network, blocks, layers
from impls.cnn.networks import Array, Batch, initial_statistics, require, require_batch
from impls.cnn.operations import parameter_shapes
from impls.cnn.reference import State

# Bytes that matrix products read and write at a time. More would not fit into a core's caches; less makes the products
# small. Times differ little between 1 and 8 MiB.
CHUNK_BYTES = 2 * 1024 * 1024
# With fewer channels, the products of tiles are too narrow to pay.
WINOGRAD_CHANNELS = 16


class Named:
    """Named arrays that are views of one vector, so that an update takes few calls."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
        ends = np.cumsum([prod(shape) for shape in shapes.values()])
        self.vector = np.zeros(ends[-1], dtype)
        parts = np.split(self.vector, ends[:-1])
        self.arrays = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def copies(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self.arrays.items()}


class Framed(NamedTuple):
    """Images (n, height, width, channels) in a frame of `padding` pixels on each side."""

    frame: Array
    padding: int

    @property
    def inside(self) -> Array:
        height, width = (size - self.padding for size in self.frame.shape[1:3])
        return self.frame[:, self.padding : height, self.padding : width]


class Convolution:
    """The arrays of a block for n images, and how they are divided into chunks.

    frame: the input images, framed by zeros. frame_grad: their gradient, with no images in the first block.
    output, output_grad: the block's output, which is the next block's input, and its gradient.
    target: the array that holds the input of the activation, behind a max-pool that of each maximum: its own memory, or
    the output.
    convolved: the convolution's result, saved for batch norm. winner: the phase of each maximum.
    phases: the positions in each window of `step` x `step` outputs, which a max-pool compares. Each phase is an image
    of `size` (height, width). rows: the pixels of one image, phase after phase.
    products: the number of matrix products of a convolution, each with `product_rows` rows an image and `inputs`
    columns: 1 for columns of 3 x 3 pixels, 16 for tiles (`winograd`).
    """

    def __init__(self, number: int, block: Block, n: int, dtype: str) -> None:
        self.name, self.norm, self.conv, self.padding = f"conv{number}", f"norm{number}", block.conv, block.conv.padding
        height, width, channels = block.image
        self.frame = np.zeros((n, height + 2 * self.padding, width + 2 * self.padding, channels), dtype)
        # The first block needs no gradient of its images.
        self.frame_grad = np.zeros_like(self.frame) if number > 1 else self.frame[:0]
        even = block.used[0] % 2 == block.used[1] % 2 == 0
        self.products = 16 if channels >= WINOGRAD_CHANNELS and even else 1
        self.step = 2 if block.conv.pool or self.products == 16 else 1
        self.size = block.used[0] // self.step, block.used[1] // self.step
        self.phases, self.pixels = self.step**2, prod(self.size)
        self.rows = self.phases * self.pixels
        self.product_rows, self.inputs = (
            (self.pixels, channels) if self.products == 16 else (self.rows, KERNEL**2 * channels)
        )
        image_bytes = self.products * self.product_rows * (self.inputs + block.conv.filters) * self.frame.itemsize
        self.chunk = min(n, max(1, CHUNK_BYTES // image_bytes))
        self.convolved = np.zeros((n * self.rows, block.conv.filters), dtype) if block.conv.norm else None
        self.winner = np.zeros((n, *block.output), np.uint8) if block.conv.pool else None
        # Set by the workspace.
        self.output = self.output_grad = self.target = Framed(self.frame, 0)
        # Batch norm's mean and standard deviation of each channel, from the last forward pass.
        self.mean = self.deviation = np.zeros(block.conv.filters, dtype)

    def filters(self, weight: Array) -> Array:
        """Return the weight in the form that the matrix products need, (products, inputs, filters)."""
        return winograd.filters(weight) if self.products > 1 else weight.reshape(1, self.inputs, -1)

    def filters_backward(self, grad: Array) -> Array:
        """Return the weight gradient, (3, 3, channels, filters), from that of `filters`."""
        return (
            winograd.filters_backward(grad) if self.products > 1 else grad.reshape(KERNEL, KERNEL, -1, grad.shape[-1])
        )


class Dense:
    """The arrays of a dense layer for n images; for a hidden layer, before (target) and after its activation."""

    def __init__(self, number: int, layer: Layer, n: int, dtype: str, relu: str) -> None:
        self.name, self.hidden = f"dense{number}", layer.hidden
        self.output = np.zeros((n, layer.units), dtype)
        self.target = np.zeros_like(self.output) if layer.hidden and relu == "fresh" else self.output


class Workspace:
    """All arrays of a step on n images.

    relu: as in `impls.cnn`; with "fresh", the input of each activation has its own memory.
    last, last_grad: the output of the last block, and its gradient.
    """

    def __init__(self, network: Network, n: int, dtype: str, relu: str) -> None:
        shapes = parameter_shapes(network)
        self.parameters, self.velocities, self.gradients = (Named(shapes, dtype) for _ in range(3))
        self.convs = [Convolution(number, block, n, dtype) for number, block in enumerate(blocks(network), 1)]
        self.last = np.zeros((n, *blocks(network)[-1].output), dtype)
        self.last_grad = np.zeros_like(self.last)
        inputs = [(conv.frame, conv.frame_grad, conv.padding) for conv in self.convs[1:]]
        for conv, (frame, grad, padding) in zip(self.convs, [*inputs, (self.last, self.last_grad, 0)], strict=True):
            conv.output, conv.output_grad = Framed(frame, padding), Framed(grad, padding)
            own = Framed(np.zeros(conv.output.inside.shape, dtype), 0) if relu == "fresh" else None
            conv.target = own or conv.output
        self.dense = [Dense(number, layer, n, dtype, relu) for number, layer in enumerate(layers(network), 1)]


class HandWritten(ABC):
    """Base class of handwritten steps (`impls.cnn`).

    activates: whether activations are applied. takes_output: whether their gradients take the output (ReLU), not the
    input. pools_first: whether max-pools precede them, which is the same for functions that never decrease.
    dense_inputs: inputs of dense layers in the last forward pass.
    """

    def __init__(self, network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> None:
        require(network, parameters, n, dtype, relu)
        self.network, self.n, self.dtype, self.activates = network, n, np.dtype(dtype), relu != "none"
        self.takes_output = network.activation == RELU
        self.pools_first = network.activation in MONOTONE or not self.activates
        self.memory = Workspace(network, n, dtype, relu)
        self.parameters, self.convs, self.dense = self.memory.parameters, self.memory.convs, self.memory.dense
        for name, value in parameters.items():
            self.parameters[name][...] = value
        self.statistics = {name: value.astype(dtype) for name, value in initial_statistics(network).items()}
        self.dense_inputs: list[Array] = []

    def put(self, batch: Batch) -> Any:
        require_batch(self.network, self.n, batch)
        masks = [mask.astype(self.dtype) for mask in batch.masks]
        return batch.images.astype(self.dtype), batch.labels.astype(np.int64), masks

    def __call__(self, given: Any, mark: Callable[[str], None] = unmarked) -> float:
        scores = self.forward(given)
        mark("forward")
        loss, grad = self.loss(scores, given)
        mark("loss")
        self.backward(grad, given)
        mark("backward")
        self.update()
        mark("update")
        return loss

    @abstractmethod
    def forward(self, given: Any) -> Array:
        """Return the logits, (n, classes)."""

    @abstractmethod
    def loss(self, scores: Array, given: Any) -> tuple[float, Array]:
        """Return the loss and the gradient of the logits."""

    @abstractmethod
    def backward(self, grad: Array, given: Any) -> None:
        """Compute the gradients of all parameters."""

    @abstractmethod
    def update(self) -> None:
        """Update the velocities, then the parameters."""

    def state(self) -> State:
        statistics = {name: value.copy() for name, value in self.statistics.items()}
        return State(self.parameters.copies(), self.memory.velocities.copies(), statistics)

    def saved(self) -> list[Array]:
        """Return the arrays that the forward pass wrote and the backward pass reads, without parameters and filters."""
        arrays: list[Array] = [conv.frame for conv in self.convs]
        arrays += [conv.winner for conv in self.convs if conv.winner is not None]
        for conv in self.convs:
            arrays += [] if conv.convolved is None else [conv.convolved, conv.mean, conv.deviation]
        hidden = [dense for dense in self.dense if dense.hidden]
        if self.takes_output:
            arrays += [self.memory.last, *(dense.output for dense in hidden)]
        else:
            arrays += [conv.target.frame for conv in self.convs] + [dense.target for dense in hidden]
            arrays += [] if self.network.average else [self.memory.last]
        # Without a global average the first dense input is a view of the last block's output.
        return arrays + [x for x in self.dense_inputs if x.base is not self.memory.last]


def parts(n: int, workers: int) -> list[tuple[int, int]]:
    """Return the range of images, (start, stop), of each worker's part of a batch."""
    return [(n * i // workers, n * (i + 1) // workers) for i in range(workers)]
