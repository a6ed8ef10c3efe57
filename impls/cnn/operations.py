"""The operations of a network in order, and the parameters, FLOPs and bytes that follow from them.

`operations` walks a network once; every other function here reads the list that it returns.

Bytes saved for the backward pass: a table says which tensors each kind of operation keeps, and a tensor that several
operations keep counts once. The tables are BY_HAND (`numpy_`, `numba_cpu`), FUSED (`numba_cuda`) and AUTOGRAD (eager
PyTorch).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from impls.cnn.architecture import ACTIVATIONS, KERNEL, RELU, Network, Shape, blocks, layers

# Multiplications of Winograd's algorithm for 2 x 2 outputs, and of the plain sums (`winograd`).
WINOGRAD_RATIO = 16 / 36


@dataclass(frozen=True)
class Tensor:
    """An array of the forward pass, with its shape for one image."""

    name: str
    shape: Shape

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Operation:
    """An operation of the forward pass.

    kind: "conv", "norm", an activation's name, "pool", "average", "dense", "dropout" or "loss".
    parameters, statistics: shapes of what it learns and of its running statistics, by kind (`Variable`).
    flops: for one image, 2 for each multiplication with its addition.
    least_flops: the same with Winograd's algorithm, without outputs that pooling drops.
    padding: pixels of zeros on each side of its input.
    """

    kind: str
    name: str
    input: Tensor
    output: Tensor
    parameters: Mapping[str, Shape] = field(default_factory=dict)
    statistics: Mapping[str, Shape] = field(default_factory=dict)
    flops: int = 0
    least_flops: float = 0
    padding: int = 0


@dataclass(frozen=True)
class Variable:
    """A parameter of an operation, or a running statistic.

    kind: "weight", "bias", "scale" or "shift"; "mean" or "variance" of a statistic.
    """

    kind: str
    shape: Shape
    operation: Operation

    @property
    def name(self) -> str:
        return f"{self.operation.name}.{self.kind}"


def operations(network: Network, pool_first: bool = False) -> list[Operation]:
    """Return the operations of a network in the order of the forward pass.

    pool_first: max-pool before the activation, of which only the inputs that win are kept; otherwise as `architecture`
    lists them.
    Raises ValueError as `blocks` does.
    """
    sequence: list[Operation] = []
    activation = network.activation

    def append(kind: str, name: str, shape: Shape, **properties: Any) -> None:
        source = sequence[-1].output if sequence else Tensor("images", network.image)
        sequence.append(Operation(kind, name, source, Tensor(name, shape), **properties))

    for number, block in enumerate(blocks(network), 1):
        conv, channels, name = block.conv, (block.conv.filters,), f"conv{number}"
        weight = (KERNEL, KERNEL, block.image[-1], conv.filters)
        append(
            "conv", name, block.convolved, padding=block.conv.padding,
            parameters={"weight": weight} | ({} if conv.norm else {"bias": channels}),
            flops=2 * prod(block.convolved) * KERNEL**2 * block.image[-1],
            least_flops=WINOGRAD_RATIO * 2 * prod(block.used) * KERNEL**2 * block.image[-1],
        )  # fmt: skip
        if conv.norm:
            append(
                "norm", f"norm{number}", block.convolved,
                parameters={"scale": channels, "shift": channels}, statistics={"mean": channels, "variance": channels},
            )  # fmt: skip
        if not pool_first:
            append(activation, f"{name}.{activation}", block.convolved)
        if conv.pool:
            append("pool", f"{name}.pool", block.output)
        if pool_first:
            append(activation, f"{name}.{activation}", block.output)
    if network.average:
        append("average", "average", block.output[-1:])
    for number, layer in enumerate(layers(network), 1):
        name, units = f"dense{number}", (layer.units,)
        flops = 2 * layer.inputs * layer.units
        append(
            "dense", name, units, flops=flops, least_flops=flops,
            parameters={"weight": (layer.inputs, layer.units), "bias": units},
        )  # fmt: skip
        if layer.hidden:
            append(activation, f"{name}.{activation}", units)
            append("dropout", f"{name}.dropout", units)
    append("loss", "loss", ())
    return sequence


def parameters(network: Network) -> list[Variable]:
    """Return all parameters in the order of the forward pass; the last is of the last dense layer."""
    return [
        Variable(kind, shape, operation)
        for operation in operations(network)
        for kind, shape in operation.parameters.items()
    ]


def statistics(network: Network) -> list[Variable]:
    """Return the running statistics of the batch norms in the order of the forward pass."""
    return [
        Variable(kind, shape, operation)
        for operation in operations(network)
        for kind, shape in operation.statistics.items()
    ]


def parameter_shapes(network: Network) -> dict[str, Shape]:
    """Return names and shapes of all parameters, in the order of the forward pass."""
    return {parameter.name: parameter.shape for parameter in parameters(network)}


# Saved tensors: the name of the array, and its bytes for n images and the item size of the step's dtype.
Saved = Callable[[Operation, int, int], tuple[str, int]]


def _input(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    return operation.input.name, n * operation.input.elements * itemsize


def _framed_input(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    """The input with its padding."""
    height, width, channels = operation.input.shape
    pixels = (height + 2 * operation.padding) * (width + 2 * operation.padding)
    return operation.input.name, n * pixels * channels * itemsize


def _output(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    return operation.output.name, n * operation.output.elements * itemsize


def _moments(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    """Mean and standard deviation of each channel."""
    return f"{operation.name}.moments", 2 * operation.output.shape[-1] * itemsize


def _winners(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    """The position of each maximum in its window, a byte each."""
    return f"{operation.name}.winners", n * operation.output.elements


def _indices(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    """The index of each maximum, 8 bytes each."""
    return f"{operation.name}.indices", 8 * n * operation.output.elements


def _mask(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    return f"{operation.name}.mask", n * operation.output.elements * itemsize


def _log_softmax(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    return "log_softmax", n * operation.input.elements * itemsize


def _labels(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    return "labels", 8 * n


def _total_weight(operation: Operation, n: int, itemsize: int) -> tuple[str, int]:
    """A number by which the loss divides."""
    return "total_weight", itemsize


# The tensors that each kind of operation keeps for its backward pass, parameters left out. Of activations by hand, only
# ReLU takes its output.
BY_HAND: Mapping[str, tuple[Saved, ...]] = {
    **dict.fromkeys(ACTIVATIONS, (_input,)),
    "conv": (_framed_input,),
    "norm": (_input, _moments),
    "pool": (_winners,),
    RELU: (_output,),
    "dense": (_input,),
}
# ReLU only. Convolutions read images without a frame, and dense layers apply ReLU and dropout in registers.
FUSED: Mapping[str, tuple[Saved, ...]] = {
    "conv": (_input,),
    "norm": (_input, _moments),
    "pool": (_winners,),
    "average": (_input,),
    "dense": (_input,),
    "dropout": (_mask,),
}
AUTOGRAD: Mapping[str, tuple[Saved, ...]] = {
    **dict.fromkeys(("leaky_relu", "gelu", "silu"), (_input,)),
    **dict.fromkeys((RELU, "tanh", "sigmoid"), (_output,)),
    "conv": (_input,),
    "norm": (_input, _moments),
    "pool": (_input, _indices),
    "dense": (_input,),
    "dropout": (_input, _mask),
    "loss": (_log_softmax, _labels, _total_weight),
}


def _saved_bytes(sequence: list[Operation], keeps: Mapping[str, tuple[Saved, ...]], n: int, itemsize_bytes: int) -> int:
    """Return the bytes of all tensors kept. A tensor kept with and without its frame exists once, framed."""
    sizes: dict[str, int] = {}
    for operation in sequence:
        for saved in keeps.get(operation.kind, ()):
            name, size_bytes = saved(operation, n, itemsize_bytes)
            sizes[name] = max(size_bytes, sizes.get(name, 0))
    return sum(sizes.values())


def saved_bytes(network: Network, n: int, itemsize_bytes: int) -> int:
    """Return the bytes that a handwritten step on n images saves for its backward pass.

    ReLU adds none, fresh or in place: its result is the next operation's input. Other activations add their inputs.
    """
    return _saved_bytes(operations(network, pool_first=True), BY_HAND, n, itemsize_bytes)


def fused_saved_bytes(network: Network, n: int, itemsize_bytes: int) -> int:
    """Return the bytes that the fused step of `numba_cuda` on n images saves for its backward pass."""
    return _saved_bytes(operations(network, pool_first=True), FUSED, n, itemsize_bytes)


def autograd_saved_bytes(network: Network, n: int, itemsize_bytes: int) -> int:
    """Return the bytes that eager PyTorch's autograd saves for a step on n images, parameters left out.

    They are the same with ReLU in place.
    """
    return _saved_bytes(operations(network), AUTOGRAD, n, itemsize_bytes)


def inplace_bytes(network: Network, n: int, itemsize_bytes: int) -> int:
    """Return the bytes that ReLU in place saves a handwritten step: the input of each ReLU, after pooling."""
    sequence = operations(network, pool_first=True)
    return n * sum(operation.input.elements for operation in sequence if operation.kind == RELU) * itemsize_bytes


@dataclass(frozen=True)
class Work:
    """Nominal costs of one image, whatever an implementation fuses or leaves out.

    forward_flops, backward_flops: of convolutions and dense layers, 2 for each multiplication with its addition; there
    is no gradient for the images.
    least_flops: of both passes, where convolutions take 16 multiplications for 36 (`winograd`) and skip outputs that
    pooling drops.
    activation_elements: elements through the activations in the order of the architecture.
    input_elements: elements of the blocks' inputs, which the weight gradients need.
    pool_elements: outputs of max-pools.
    column_elements: elements of the column matrices of im2col.
    """

    forward_flops: int
    backward_flops: int
    least_flops: float
    activation_elements: int
    input_elements: int
    pool_elements: int
    column_elements: int


def work(network: Network) -> Work:
    """Return the nominal costs of one image."""
    sequence = operations(network)
    first, convs = sequence[0], [operation for operation in sequence if operation.kind == "conv"]
    forward_flops = sum(operation.flops for operation in sequence)
    return Work(
        forward_flops=forward_flops,
        backward_flops=2 * forward_flops - first.flops,
        least_flops=3 * sum(operation.least_flops for operation in sequence) - first.least_flops,
        activation_elements=sum(operation.output.elements for operation in sequence if operation.kind in ACTIVATIONS),
        input_elements=sum(conv.input.elements for conv in convs),
        pool_elements=sum(operation.output.elements for operation in sequence if operation.kind == "pool"),
        column_elements=sum(prod(conv.output.shape[:2]) * KERNEL**2 * conv.input.shape[-1] for conv in convs),
    )
