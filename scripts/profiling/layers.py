"""The nominal work of each layer of a step, and its distance from the roof of matrix products."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from impls.cnn import operations
from impls.cnn.architecture import Network
from scripts.profiling.document import Profile
from scripts.profiling.spans import layer_of

# A phase and a layer.
Place = tuple[str, str]


@dataclass(frozen=True)
class Layer:
    """A layer in one phase. least_ms: time of its nominal operations at the roof, 0 without any."""

    phase: str
    layer: str
    ms: float
    least_ms: float

    @property
    def to_gain_ms(self) -> float:
        """Distance from the roof."""
        return max(0.0, self.ms - self.least_ms)

    @property
    def percent_of_roof(self) -> float:
        """100 times the time at the roof by the time; 0 without nominal operations. Winograd may exceed 100."""
        return 100 * self.least_ms / self.ms if self.ms else 0.0


def flops(network: Network, batch: int) -> dict[Place, float]:
    """The nominal operations of each layer, by phase: backward takes twice those of forward, but for the images."""
    found: dict[Place, float] = defaultdict(float)
    for number, operation in enumerate(operations.operations(network)):
        layer = layer_of(operation.name)
        found["forward", layer] += batch * operation.flops
        found["backward", layer] += batch * operation.flops * (2 if number else 1)
    return found


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
    work = flops(network, profile.batch)
    known = [place for place in places(network) if place in ms]
    rest = [place for place in ms if place not in known]
    return [
        Layer(phase, layer, ms[phase, layer], work.get((phase, layer), 0.0) / profile.gemm_gflop_per_s / 1e6)
        for phase, layer in (*known, *rest)
    ]


def most_to_gain(profile: Profile, network: Network, count: int = 3) -> list[Layer]:
    """The layers with nominal operations that are furthest from the roof, in milliseconds."""
    layers = [layer for layer in of_profile(profile, network) if layer.least_ms]
    return sorted(layers, key=lambda layer: -layer.to_gain_ms)[:count]
