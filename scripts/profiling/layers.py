"""The nominal work of each layer of a step, and its distance from the roof that limits it.

A layer needs at least the time of its operations at the speed of matrix products, and that of its bytes at the
bandwidth of copying as many. Bytes are those that a layer moves if it is one fused operator: its input, its output and
its parameters, and their gradients.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

from impls.cnn import operations
from impls.cnn.architecture import ACTIVATIONS, Network
from scripts.profiling.document import Bandwidth, Profile
from scripts.profiling.spans import layer_of

# A phase and a layer.
Place = tuple[str, str]


ITEMSIZE_BYTES = 4
# Passes over the parameters of an update: it reads parameters, velocities and gradients, and writes the first two.
UPDATE_PASSES = 5


@dataclass(frozen=True)
class Layer:
    """A layer in one phase. flops, moved_bytes: its nominal work; 0 where it has none.

    product_ms, memory_ms: the time of its operations and of its bytes at their roofs.
    """

    phase: str
    layer: str
    ms: float
    flops: float = 0.0
    moved_bytes: float = 0.0
    product_ms: float = 0.0
    memory_ms: float = 0.0

    @property
    def least_ms(self) -> float:
        """The time at the roof that limits the layer; 0 without nominal work."""
        return max(self.product_ms, self.memory_ms)

    @property
    def roof(self) -> str:
        """The roof that limits the layer."""
        return "products" if self.product_ms >= self.memory_ms else "memory"

    @property
    def to_gain_ms(self) -> float:
        """Distance from the roof."""
        return max(0.0, self.ms - self.least_ms)

    @property
    def percent_of_roof(self) -> float:
        """100 times the time at the roof by the time; 0 without nominal work. Winograd may exceed 100."""
        return 100 * self.least_ms / self.ms if self.ms else 0.0


def flops(network: Network, batch: int) -> dict[Place, float]:
    """The nominal operations of each layer, by phase: backward takes twice those of forward, but for the images."""
    found: dict[Place, float] = defaultdict(float)
    for number, operation in enumerate(operations.operations(network)):
        layer = layer_of(operation.name)
        found["forward", layer] += batch * operation.flops
        found["backward", layer] += batch * operation.flops * (2 if number else 1)
    return found


def moved_bytes(network: Network, batch: int) -> dict[Place, float]:
    """The bytes of each layer, by phase, in float32.

    Backward reads the gradient of the output, the input, the output (from which activations and pools follow) and the
    parameters, and writes the gradients of the input, but for the images, and of the parameters.
    """
    found: dict[Place, float] = {}
    learned = 0
    for layer, sequence in groupby(operations.operations(network), lambda operation: layer_of(operation.name)):
        first, *_, last = group if len(group := list(sequence)) > 1 else (group[0], group[0])
        of_input, of_output = batch * first.input.elements, batch * last.output.elements
        of_parameters = sum(prod(shape) for operation in group for shape in operation.parameters.values())
        learned += of_parameters
        found["forward", layer] = of_input + of_output + of_parameters
        of_input_grad = of_input if first.input.name != "images" else 0
        found["backward", layer] = of_input + of_input_grad + 2 * of_output + 2 * of_parameters
    # Logits are read, and their gradient is written.
    del found["backward", "loss"]
    found["loss", "loss"] = 2 * found.pop(("forward", "loss"))
    found["update", "update"] = UPDATE_PASSES * learned
    return {place: ITEMSIZE_BYTES * elements for place, elements in found.items()}


def bandwidth(bandwidths: Sequence[Bandwidth], working_set_bytes: float) -> float:
    """GB/s of the smallest level of memory that holds a working set."""
    return next(
        (each.gb_per_s for each in bandwidths if working_set_bytes <= each.up_to_bytes), bandwidths[-1].gb_per_s
    )


def places(network: Network) -> list[Place]:
    """The layers of a network in the order in which a step computes them."""
    layers = list(dict.fromkeys(layer_of(operation.name) for operation in operations.operations(network)))
    names = [layer for layer in layers if layer not in ("loss", "average")]
    return [
        *(("forward", layer) for layer in names),
        ("loss", "loss"),
        *(("backward", layer) for layer in reversed(names)),
        ("update", "update"),
    ]


def of_profile(profile: Profile, network: Network) -> list[Layer]:
    """The layers of a profile in the order of `places`, then what belongs to none, by phase."""
    ms: Mapping[Place, float] = defaultdict(float)
    for operator in profile.operators:
        ms[operator.phase, operator.layer] += operator.ms  # type: ignore[index]
    known = [place for place in places(network) if place in ms]
    rest = [place for place in ms if place not in known]
    return [_layer(place, ms[place], profile, network) for place in (*known, *rest)]


def _layer(place: Place, ms: float, profile: Profile, network: Network) -> Layer:
    work = flops(network, profile.batch).get(place, 0.0)
    size_bytes = moved_bytes(network, profile.batch).get(place, 0.0)
    gb_per_s = bandwidth(profile.roofs.bandwidths, size_bytes)
    product_ms = work / profile.roofs.gemm_gflop_per_s / 1e6
    return Layer(*place, ms, work, size_bytes, product_ms, size_bytes / gb_per_s / 1e6)


def most_to_gain(profile: Profile, network: Network, count: int = 3) -> list[Layer]:
    """The layers with nominal work that are furthest from their roof, in milliseconds."""
    layers = [layer for layer in of_profile(profile, network) if layer.least_ms]
    return sorted(layers, key=lambda layer: -layer.to_gain_ms)[:count]


def activation_ms(profile: Profile) -> tuple[float, float]:
    """Milliseconds of the operators that compute activations alone, and of those that fuse them with others."""
    alone = fused = 0.0
    for operator in profile.operators:
        of_activations = [name.rpartition(".")[2] in ACTIVATIONS for name in operator.covers]
        if of_activations and all(of_activations):
            alone += operator.ms
        elif any(of_activations):
            fused += operator.ms
    return alone, fused
