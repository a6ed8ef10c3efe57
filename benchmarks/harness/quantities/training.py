"""In the measuring process: training steps of whole networks. `elements` of a case are images of a batch."""

from collections.abc import Callable
from itertools import pairwise
from math import isfinite, sqrt
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.frameworks import Driver, step_driver
from benchmarks.harness.machine import gpu, memory
from benchmarks.harness.processes import outcomes
from benchmarks.harness.processes.outcomes import Outcome
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth import comparison
from impls.catalog import ITEMSIZE_BYTES, StepVariant
from impls.cnn import PHASES, reference
from impls.cnn.networks import (
    LEARNING_RATE,
    MOMENTUM,
    NORM_MOMENTUM,
    STEP_OF,
    Batch,
    Network,
    initial_parameters,
    layers,
    random_batch,
    saved_bytes,
    work,
)

# Batches that steps take in turn, each of which is checked once before the clock starts.
BATCHES = 3
# Rounds of which phases and the share of ReLU are known at the least.
LEAST_ROUNDS = 20
# How far the loss, and gradients by the last layer, may be from the reference's, relatively: rounding, which a shorter
# mantissa anywhere exceeds (bfloat16, TF32, float16).
TOLERANCE = {"float32": 5e-5, "float64": 1e-9}
# The same for gradients through a ReLU or a max-pool. In float32 one near a tie decides otherwise, and a gradient is
# off by the share of that element: 0.7 % was seen of a batch of 64.
GRADIENT_TOLERANCE = {"float32": 2e-2, "float64": 1e-9}
# And for what a batch adds to running statistics; n in place of n - 1 is further off in batches up to 256.
STATISTIC_TOLERANCE = {"float32": 5e-5, "float64": 1e-9}
# An update is two roundings of each element.
UPDATE_ROUNDINGS = 4
# What is about zero has no relative error.
LEAST_NORM = 1e-3
# Nor do the loss and the last layer's gradients where all of a batch is learnt: they are differences of numbers near 1.
LEARNT_LOSS, LEARNT_NORM = 0.04, 0.1


def require(case: Case) -> None:
    """Raise memory.NotEnough where a case needs more than is free: the reference keeps the most, in float64."""
    found = work(STEP_OF[case.op])
    kept = 4 * found.relu_elements + 2 * found.input_elements + found.column_elements
    memory.require(case.elements * kept * ITEMSIZE_BYTES["float64"], memory.free_bytes())


def verify(network: Network, dtype: str, step: Any, given: Any, batch: Batch) -> float:
    """How far one step is off what the reference does from the same state: the largest relative error of an array.

    Raises comparison.WrongResult where loss, a gradient or statistics are beyond their tolerances, or parameters do not
    go by their velocities.
    """
    tolerance, last = TOLERANCE[dtype], f"dense{len(layers(network))}."
    before = step.state()
    state = reference.State(
        *({name: value.astype(np.float64) for name, value in part.items()} for part in vars(before).values())
    )
    loss, gradients, statistics = reference.loss_and_gradients(network, state, batch)
    found = float(step(given))
    error = abs(found - loss) / (abs(loss) + LEARNT_LOSS)
    # Written so that a NaN is wrong too.
    if not error <= tolerance:
        raise comparison.WrongResult(f"loss: {loss:.6g} expected, {found:.6g} found")
    after = step.state()
    errors = [error]
    for name, gradient in gradients.items():
        velocity = MOMENTUM * state.velocities[name] + gradient
        off = np.linalg.norm(after.velocities[name] - velocity)
        bound, least = (tolerance, LEARNT_NORM) if name.startswith(last) else (GRADIENT_TOLERANCE[dtype], LEAST_NORM)
        errors.append(_within(f"gradient of {name}", off, np.linalg.norm(gradient) + least, bound))
        _require_update(name, before.parameters[name], after.velocities[name], after.parameters[name])
    for name, statistic in statistics.items():
        off, spread = after.statistics[name] - statistic, statistics[f"{name.split('.')[0]}.variance"]
        scale = np.sqrt(spread) if name.endswith(".mean") else spread
        of_batch = np.linalg.norm(off) / NORM_MOMENTUM
        errors.append(_within(name, of_batch, np.linalg.norm(scale), STATISTIC_TOLERANCE[dtype]))
    return max(errors)


def _require_update(name: str, before: np.ndarray, velocity: np.ndarray, after: np.ndarray) -> None:
    """Raise comparison.WrongResult unless a parameter went by its velocity, to the rounding of each element."""
    change = LEARNING_RATE * velocity.astype(np.float64)
    room = UPDATE_ROUNDINGS * np.finfo(after.dtype).eps * (np.abs(before) + np.abs(change))
    # Written so that a NaN is wrong too.
    wrong = np.count_nonzero(~(np.abs(after - (before - change)) <= room))
    if wrong:
        raise comparison.WrongResult(f"update of {name}: {wrong} of {after.size} elements are wrong")


def _within(name: str, off: Any, norm: Any, tolerance: float) -> float:
    """What an array is off, by its norm, relatively."""
    if not off <= tolerance * norm:
        raise comparison.WrongResult(f"{name}: off by {off:.3g}, where {norm:.3g} is its norm")
    return float(off / norm)


def _checked(case: Case, step: Any, given: Any, batch: Batch) -> float:
    return verify(STEP_OF[case.op], case.dtype, step, given, batch)


def _time(variant: StepVariant, case: Case, framework: Driver, settings: Settings) -> Outcome:
    """Steps on several batches in turn, checked before and after from the state that they have then."""
    batches = [_batch(case, seed) for seed in range(BATCHES)]
    step, first = _made(variant, case)
    given = [first, *(step.put(batch) for batch in batches[1:])]
    deviations = [_checked(case, step, *pair) for pair in zip(given, batches, strict=True)]
    core = Core(settings.core_s, settings.threads if variant.threaded else 1)
    device = gpu.Device() if variant.device == "cuda" else None
    taken = sampler.sample(
        framework.blocking(step),
        sampler.in_turn([(one,) for one in given]),
        settings.budget_s,
        core,
        slowed_by=device.slowed_by if device else list,
    )
    state = {"gpu": device.state()} if device else {}
    deviations.append(_checked(case, step, given[0], batches[0]))
    without = _built(variant, case, "none")
    return outcomes.of_samples(
        taken,
        deviation=max(deviations),
        empty_call_s=sampler.empty_call_s((first,), taken.number),
        **state,
        **_composition(step, without, given, framework, settings.budget_s / 2),
    )


def _composition(
    step: Any, without: Any, given: list[Any], framework: Driver, budget_s: float
) -> dict[str, dict[str, float] | list[float] | None]:
    """Seconds of each phase that a step tells apart, and what percentage of a step its ReLUs take: an interval.

    without: a step of the same network without ReLU, which takes turns with the other. The interval is the one of 95 %
    for the median of the rounds.
    """
    wait = framework.blocking(_nothing)
    for one in (step, without):
        _marked(one, given[0], wait)
    phases: list[dict[str, float]] = []
    percent: list[float] = []
    start_s = perf_counter()
    while len(percent) < LEAST_ROUNDS or perf_counter() - start_s < budget_s:
        batch = given[len(percent) % len(given)]
        # Each is the first one every other round.
        order = (step, without) if len(percent) % 2 else (without, step)
        marked = {one: _marked(one, batch, wait) for one in order}
        phases.append(marked[step])
        percent.append(100 * (1 - marked[without]["step"] / marked[step]["step"]))
    # Where training without ReLU ran away, its time tells nothing.
    known = isfinite(float(without(given[0])))
    return {
        "phases_s": {name: median(one[name] for one in phases) for name in PHASES if name in phases[0]},
        "relu_percent": list(sampler.interval(percent)) if known else None,
    }


def _marked(step: Any, given: Any, wait: Callable[[], None]) -> dict[str, float]:
    """Seconds of a step, as "step", and of each phase that it marks."""
    ends = [("", perf_counter())]

    def mark(phase: str) -> None:
        wait()
        ends.append((phase, perf_counter()))

    step(given, mark)
    mark("")
    return {phase: end - start for (_, start), (phase, end) in pairwise(ends)} | {"step": ends[-1][1] - ends[0][1]}


def _nothing() -> None:
    pass


def _saved_bytes(variant: StepVariant, case: Case, framework: Driver, settings: Settings) -> Outcome:
    """What is kept from the forward pass for the backward pass; by hand, what the network table predicts."""
    step, given = _made(variant, case)
    _checked(case, step, given, _batch(case))
    measured = step_driver(framework).step_saved_bytes(step, given)
    predicted = saved_bytes(STEP_OF[case.op], case.elements, ITEMSIZE_BYTES[case.dtype])
    if variant.by_hand and measured != predicted:
        raise comparison.WrongResult(f"saved bytes: {predicted} predicted, {measured} measured")
    return Outcome("ok", value=measured)


def _peak_bytes(variant: StepVariant, case: Case, framework: Driver, settings: Settings) -> Outcome:
    """All that training needs: parameters, velocities, images, what is kept, gradients and working memory."""
    step, given = _made(variant, case)
    _checked(case, step, given, _batch(case))
    del step, given
    return Outcome("ok", value=step_driver(framework).step_peak_bytes(lambda: _made(variant, case)))


def _made(variant: StepVariant, case: Case) -> tuple[Any, Any]:
    step = _built(variant, case, variant.memory)
    return step, step.put(_batch(case))


def _built(variant: StepVariant, case: Case, relu: str) -> Any:
    network = STEP_OF[case.op]
    # Without ReLU half the variance keeps what goes through the network at its size.
    gain = sqrt(0.5) if relu == "none" else 1.0
    parameters = {
        name: gain * value if name.endswith(".weight") else value for name, value in initial_parameters(network).items()
    }
    return variant.load()(network, parameters, case.elements, case.dtype, relu)


def _batch(case: Case, seed: int = 0) -> Batch:
    return random_batch(STEP_OF[case.op], case.elements, seed)


def _first_call(variant: StepVariant, case: Case, framework: Driver, settings: Settings) -> Outcome:
    """Building a step and making one: what compiling costs."""
    start_s = perf_counter()
    step, given = _made(variant, case)
    framework.blocking(step)(given)
    first_s = perf_counter() - start_s
    _checked(case, step, given, _batch(case))
    return Outcome("ok", value=first_s, samples_s=[first_s], number=1)


QUANTITIES: dict[str, Callable[[StepVariant, Case, Driver, Settings], Outcome]] = {
    "time": _time,
    "first_call": _first_call,
    "saved_bytes": _saved_bytes,
    "peak_bytes": _peak_bytes,
}
