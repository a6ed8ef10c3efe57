"""Parameters and batches of training steps, and what their `build` functions require.

`architecture` holds the networks and describes the layout of arrays, `operations` derives parameters, FLOPs and bytes.
"""

from dataclasses import dataclass, field
from math import prod

import numpy as np

from impls.cnn import architecture, operations
from impls.cnn.architecture import NETWORKS, RELU_NETWORKS, Conv, Dense, Network, blocks, layers
from impls.cnn.operations import (
    autograd_saved_bytes,
    fused_saved_bytes,
    inplace_bytes,
    parameter_shapes,
    saved_bytes,
    work,
)
from impls.initialisation import he

__all__ = [
    "DTYPES",
    "LEARNING_RATE",
    "MOMENTUM",
    "NETWORKS",
    "NORM_EPSILON",
    "NORM_MOMENTUM",
    "RELU_MODES",
    "RELU_NETWORKS",
    "Array",
    "Batch",
    "Conv",
    "Dense",
    "Network",
    "autograd_saved_bytes",
    "fused_saved_bytes",
    "initial_parameters",
    "initial_statistics",
    "inplace_bytes",
    "layers",
    "random_batch",
    "random_masks",
    "repeated",
    "require",
    "require_batch",
    "saved_bytes",
    "work",
]

Array = np.ndarray

# Batch norm and the update, as in torch: running = (1 - m) running + m batch, v = mu v + g, p = p - lr v.
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.1
LEARNING_RATE, MOMENTUM = 0.01, 0.9
# Dtypes of steps, and memory modes of their activations (`impls.cnn`).
DTYPES = ("float32", "float64")
RELU_MODES = ("fresh", "inplace", "none")


def initial_parameters(network: Network, seed: int = 0) -> dict[str, Array]:
    """Return He-normal weights (variance 2 / inputs of a unit), scales of 1, and zeros: float64, the same each time.

    Like the images, they are rounded to float32, so that steps of either dtype start from the same numbers.
    """
    rng = np.random.default_rng(seed)
    return {parameter.name: _initial(parameter, rng) for parameter in operations.parameters(network)}


def _initial(parameter: operations.Variable, rng: np.random.Generator) -> Array:
    shape = parameter.shape
    if parameter.kind == "weight":
        return _rounded_to_float32(he(shape, rng))
    return np.ones(shape) if parameter.kind == "scale" else np.zeros(shape)


def _rounded_to_float32(value: Array) -> Array:
    return value.astype(np.float32).astype(np.float64)


def initial_statistics(network: Network) -> dict[str, Array]:
    """Return running means of 0 and variances of 1, float64."""
    return {
        statistic.name: np.full(statistic.shape, float(statistic.kind == "variance"))
        for statistic in operations.statistics(network)
    }


@dataclass(frozen=True)
class Batch:
    """Training data of a step. images: (n, height, width, channels). labels: (n,), int64.

    masks: dropout masks (n, units), one for each hidden layer: 1 / (1 - dropout) for a unit that is kept, else 0.
    """

    images: Array
    labels: Array
    masks: tuple[Array, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.labels)


def require(
    network: Network,
    parameters: dict[str, Array],
    n: int,
    dtype: str,
    relu: str,
    accepted: tuple[str, ...] = RELU_MODES,
) -> None:
    """Raise ValueError unless a step can be built with these arguments.

    accepted: values of `relu` that the implementation supports; another activation than ReLU is never in place.
    """
    if network.activation != architecture.RELU:
        accepted = tuple(mode for mode in accepted if mode != "inplace")
    for name, value, choices in (("dtype", dtype, DTYPES), ("relu", relu, accepted)):
        if value not in choices:
            raise ValueError(f"{name}: {value!r} given, one of {', '.join(map(repr, choices))} needed")
    # The sample variance divides by the number of values minus 1.
    least = max((2 if b.conv.norm and prod(b.convolved[:2]) == 1 else 1 for b in blocks(network)), default=1)
    if not isinstance(n, int) or isinstance(n, bool) or n < least:
        raise ValueError(f"n: {n!r} given, a batch of at least {least} images needed, as an integer")
    shapes = parameter_shapes(network)
    for name in dict.fromkeys([*shapes, *parameters]):
        if name not in parameters:
            raise ValueError(f"parameters: {name} is missing, an array of shape {shapes[name]}")
        if name not in shapes:
            raise ValueError(f"parameters: {name} given, which {network.name} has not; it has {', '.join(shapes)}")
        if parameters[name].shape != shapes[name]:
            raise ValueError(f"parameters: {name} with shape {parameters[name].shape} given, {shapes[name]} needed")


def require_batch(network: Network, n: int, batch: Batch) -> None:
    """Raise ValueError unless the batch has n images of the network's size, with labels and dropout masks."""
    if len(batch) != n:
        raise ValueError(f"batch: {len(batch)} images given, {n} needed, for which this step was built")
    masks = [(n, dense.units) for dense in network.hidden]
    for name, shape, needed in (
        ("images", batch.images.shape, (n, *network.image)),
        ("labels", batch.labels.shape, (n,)),
        ("masks", [mask.shape for mask in batch.masks], masks),
    ):
        if shape != needed:
            raise ValueError(f"{name}: shape {shape} given, {needed} needed")
    if batch.labels.dtype.kind not in "iu" or batch.labels.min() < 0 or batch.labels.max() >= network.classes:
        raise ValueError(f"labels: integers from 0 to {network.classes - 1} needed")


def random_batch(network: Network, n: int, seed: int = 0) -> Batch:
    """Return n normally distributed images with labels and dropout masks: float64, the same each time."""
    rng = np.random.default_rng([seed, n])
    images = _rounded_to_float32(rng.standard_normal((n, *network.image)))
    labels = rng.integers(0, network.classes, n)
    return Batch(images, labels, random_masks(network, n, rng))


def repeated(batch: Batch, times: int, seed: int = 0) -> Batch:
    """Return each image of a batch, with its label and masks, so many times, in random order.

    Loss, gradients, means and variances of it are those of the batch.
    """
    order = np.random.default_rng([seed, len(batch), times]).permutation(np.repeat(np.arange(len(batch)), times))
    return Batch(batch.images[order], batch.labels[order], tuple(mask[order] for mask in batch.masks))


def random_masks(network: Network, n: int, rng: np.random.Generator) -> tuple[Array, ...]:
    """Return random dropout masks for n images, float64."""
    return tuple((rng.random((n, dense.units)) >= dense.dropout) / (1 - dense.dropout) for dense in network.hidden)
