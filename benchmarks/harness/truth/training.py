"""Check one training step against the float64 reference from the same state."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np

from benchmarks.harness.truth.comparison import WrongResult
from benchmarks.harness.truth.shared import Shared
from impls.cnn import operations, reference
from impls.cnn.architecture import blocks, layers
from impls.cnn.networks import LEARNING_RATE, MOMENTUM, NORM_MOMENTUM, Batch, Network
from impls.variant import Precision

# A gradient has ties explained by EXPLAINED times the largest change of it, among MOST_CHANGES changes of parameters.
MOST_CHANGES, EXPLAINED = 16, 2
# Unit roundoff of the factors of products: half the distance from 1 to the next number, 2^-t for a mantissa of t bits.
ROUNDOFF: dict[Precision, float] = {"tf32": 2**-11, "float16": 2**-11, "bfloat16": 2**-8}
# A product rounds its two factors and its result. Sums in float32 add nothing to that.
PRODUCT_ROUNDINGS = 3
# An update is two roundings of each element.
UPDATE_ROUNDINGS = 4
# Floors of norms, as values near zero have no relative error.
LEAST_NORM = 1e-3
# Floors for the loss and the last layer's gradients where a batch is learnt: they are differences of numbers near 1.
LEARNT_LOSS, LEARNT_NORM = 0.04, 0.1


@dataclass(frozen=True)
class Tolerance:
    """The largest relative errors of a step, by the norms of arrays.

    direct: of the loss, and of gradients of the last layer. tied: of gradients through a ReLU or a max-pool, unless
    ties explain the error (`Ties`). statistic: of the batch's part of running statistics. change: the share by which
    parameters change to see the effect of ties; 0: the step decides as the reference does.
    """

    direct: float
    tied: float
    statistic: float
    change: float


# direct: rounding, which a shorter mantissa anywhere (bfloat16, TF32, float16) exceeds. tied: where a batch is learnt,
# gradients are differences of numbers near 1: an error of 0.6 % was seen that ties do not explain. statistic: n for
# n - 1 is further off in batches up to 256. change: a few roundings.
TOLERANCES = {
    "float32": Tolerance(direct=5e-5, tied=2e-2, statistic=5e-5, change=8 * 2**-23),
    "float64": Tolerance(direct=1e-9, tied=1e-9, statistic=1e-9, change=0.0),
}


def tolerance(network: Network, dtype: str, precision: Precision = "") -> Tolerance:
    """The tolerance of a step with arrays of a dtype; with products of a lower precision, it follows from that.

    With unit roundoff u, a product is off by up to 3 u (PRODUCT_ROUNDINGS). direct: the sum of all products from the
    images to the logits. statistic: of one product; those before it are averaged over a batch's pixels. change: two
    roundings, with a variance of 4/3 u^2, stand for the three of a product, 3 times 1/3 u^2.

    tied: an element that is off by 2 u of the standard deviation decides otherwise with a probability of 2 u, at the
    density of a normal distribution near 0, and takes a whole term of the gradient with it. Half of the elements have
    such a term, so that one activation changes a squared norm by 4 u, and all of them by 4 u each: 2 sqrt(number * u).
    """
    if not precision:
        return TOLERANCES[dtype]
    u, products = ROUNDOFF[precision], len(blocks(network)) + len(layers(network))
    return Tolerance(
        direct=PRODUCT_ROUNDINGS * products * u,
        tied=2 * sqrt((products - 1) * u),
        statistic=PRODUCT_ROUNDINGS * u,
        change=2 * u,
    )


@dataclass(frozen=True)
class Expected:
    """The reference's results of one step: the loss, and the gradients and statistics by name."""

    loss: float
    gradients: Mapping[str, np.ndarray]
    statistics: Mapping[str, np.ndarray]


def expected(network: Network, state: reference.State, batch: Batch, times: int = 1) -> Expected:
    """One step of the reference in float64 from a state of any dtype, on a batch that is repeated so many times."""
    before = _wide(state)
    loss, gradients, statistics = reference.loss_and_gradients(network, before, batch)
    for number, block in enumerate(blocks(network), 1):
        if block.conv.norm and times > 1:
            # The sample variance divides by the number of values minus 1.
            name, values = f"norm{number}.variance", len(batch) * prod(block.convolved[:2])
            decayed = (1 - NORM_MOMENTUM) * before.statistics[name]
            factor = times * (values - 1) / (times * values - 1)
            statistics[name] = decayed + factor * (statistics[name] - decayed)
    return Expected(float(loss), gradients, statistics)


def expected_first(
    network: Network, dtype: str, state: reference.State, batch: Batch, shared: Shared, times: int = 1
) -> Expected:
    """The same from the state that all rows of a network start from, computed once for all processes."""

    gradients = [parameter.name for parameter in operations.parameters(network)]
    statistics = [statistic.name for statistic in operations.statistics(network)]

    def make() -> list[np.ndarray]:
        first = expected(network, state, batch, times)
        return [
            np.array(first.loss),
            *(first.gradients[name] for name in gradients),
            *(first.statistics[name] for name in statistics),
        ]

    loss, *arrays = shared.arrays(f"first-step-{network.name}-{times * len(batch)}-{dtype}", make)
    return Expected(
        float(loss),
        dict(zip(gradients, arrays, strict=False)),
        dict(zip(statistics, arrays[len(gradients) :], strict=True)),
    )


def _wide(state: reference.State) -> reference.State:
    return reference.State(
        *({name: value.astype(np.float64) for name, value in part.items()} for part in vars(state).values())
    )


class Ties:
    """The effect of ties on the gradients of a step: a ReLU or a max-pool near a tie may decide either way.

    Where a batch is learnt, few images have a gradient left, and one such element changes it by several percent: up to
    7 % was seen in a batch of 64. The reference shows it too, when its parameters change by a few roundings.
    """

    def __init__(self, network: Network, change: float, state: reference.State, batch: Batch, wanted: Expected) -> None:
        self.network, self.change, self.state, self.batch, self.wanted = network, change, state, batch, wanted
        self._largest: dict[str, float] = dict.fromkeys(wanted.gradients, 0.0)
        self._changes = 0

    def explain(self, name: str, off: float) -> bool:
        """Return whether ties explain that a gradient is off by so much."""
        while not off <= EXPLAINED * self._largest[name] and self._changes < MOST_CHANGES:
            self._change()
        return off <= EXPLAINED * self._largest[name]

    def _change(self) -> None:
        """Change all parameters by up to a share and see how much each gradient changes."""
        generator = np.random.default_rng(self._changes)
        self._changes += 1
        changed = _wide(self.state)
        for name, value in changed.parameters.items():
            changed.parameters[name] = value * (1 + self.change * generator.uniform(-1, 1, value.shape))
        for name, gradient in expected(self.network, changed, self.batch).gradients.items():
            apart = float(np.linalg.norm(gradient - self.wanted.gradients[name]))
            self._largest[name] = max(self._largest[name], apart)


def verify(
    network: Network,
    dtype: str,
    step: Any,
    arrays: Any,
    batch: Batch,
    wanted: Expected | None = None,
    precision: Precision = "",
    times: int = 1,
) -> float:
    """Make one step and return the largest relative error of an array against the reference from the same state.

    arrays: what `step.put` returned for the batch, repeated so many times. wanted: what the reference expects, computed
    here if it is not given. precision: of the step's products (`StepVariant`).
    Raises WrongResult where the loss, a gradient or statistics are beyond their tolerances, or parameters do not
    follow their velocities.
    """
    most, learned = tolerance(network, dtype, precision), operations.parameters(network)
    of_last_layer = {parameter.name for parameter in learned if parameter.operation == learned[-1].operation}
    before = step.state()
    wanted = wanted or expected(network, before, batch, times)
    loss, gradients, statistics = wanted.loss, wanted.gradients, wanted.statistics
    step_loss = float(step(arrays))
    error = abs(step_loss - loss) / (abs(loss) + LEARNT_LOSS)
    # Written so that a NaN is wrong too.
    if not error <= most.direct:
        raise WrongResult(f"loss: {loss:.6g} expected, {step_loss:.6g} found")
    after = step.state()
    errors = [error]
    ties = Ties(network, most.change, before, batch, wanted)
    for name, gradient in gradients.items():
        velocity = MOMENTUM * before.velocities[name].astype(np.float64) + gradient
        off = float(np.linalg.norm(after.velocities[name] - velocity))
        bound, floor = (most.direct, LEARNT_NORM) if name in of_last_layer else (most.tied, LEAST_NORM)
        norm = np.linalg.norm(gradient) + floor
        may_be_tied = most.change > 0 and name not in of_last_layer
        if may_be_tied and not off <= bound * norm and ties.explain(name, off):
            bound = np.inf
        errors.append(_require_within(f"gradient of {name}", off, norm, bound))
        _require_update(name, before.parameters[name], after.velocities[name], after.parameters[name])
    for statistic in operations.statistics(network):
        name, variance = statistic.name, statistics[f"{statistic.operation.name}.variance"]
        scale = np.sqrt(variance) if statistic.kind == "mean" else variance
        of_batch = np.linalg.norm(after.statistics[name] - statistics[name]) / NORM_MOMENTUM
        errors.append(_require_within(name, of_batch, np.linalg.norm(scale), most.statistic))
    return max(errors)


def _require_update(name: str, before: np.ndarray, velocity: np.ndarray, after: np.ndarray) -> None:
    """Raise WrongResult unless a parameter followed its velocity, to the rounding of each element."""
    change = LEARNING_RATE * velocity.astype(np.float64)
    room = UPDATE_ROUNDINGS * np.finfo(after.dtype).eps * (np.abs(before) + np.abs(change))
    # Written so that a NaN is wrong too.
    wrong = np.count_nonzero(~(np.abs(after - (before - change)) <= room))
    if wrong:
        raise WrongResult(f"update of {name}: {wrong} of {after.size} elements are wrong")


def _require_within(name: str, off: Any, norm: Any, tolerance: float) -> float:
    """Return the relative error of an array by its norm; raise WrongResult beyond the tolerance."""
    if not off <= tolerance * norm:
        raise WrongResult(f"{name}: off by {off:.3g}, where {norm:.3g} is its norm")
    return float(off / norm)
