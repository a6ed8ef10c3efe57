"""The quantities of a training step: time with its phases and ReLU's share, the first call, and bytes."""

from collections.abc import Callable
from itertools import pairwise
from math import isfinite, sqrt
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.harness import measurement
from benchmarks.harness.case import Settings, StepCase
from benchmarks.harness.frameworks import Driver, step_driver
from benchmarks.harness.machine import gpu, memory
from benchmarks.harness.measurement import DeviceTiming, Measurement, StepTiming
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth import training
from benchmarks.harness.truth.comparison import WrongResult
from impls.cnn import PHASES, operations
from impls.cnn.networks import NETWORKS, Batch, Network, initial_parameters, random_batch, saved_bytes, work
from impls.variant import ITEMSIZE_BYTES, StepVariant

# Batches that steps take in turn; each is checked once before the clock starts.
BATCHES = 3
# Rounds behind the phases and ReLU's share, at least.
LEAST_ROUNDS = 20


def network_of(case: StepCase) -> Network:
    """The network of a case."""
    return NETWORKS[case.network]


def require(case: StepCase) -> None:
    """Raise NotEnough where a case needs more memory than is free: the reference keeps the most, in float64."""
    figures = work(network_of(case))
    kept = 4 * figures.relu_elements + 2 * figures.input_elements + figures.column_elements
    memory.require(case.batch * kept * ITEMSIZE_BYTES["float64"], memory.free_bytes())


def _time(variant: StepVariant, case: StepCase, framework: Driver, settings: Settings) -> Measurement:
    """Steps on several batches in turn, checked before and after from the state that they have then."""
    batches = [_batch(case, seed) for seed in range(BATCHES)]
    step, first = _built_with_batch(variant, case)
    arrays = [first, *(step.put(batch) for batch in batches[1:])]
    deviations = [_verify(case, step, *pair) for pair in zip(arrays, batches, strict=True)]
    core = Core(settings.probe_best_s, settings.threads if variant.threaded else 1)
    device = gpu.Device() if variant.device == "cuda" else None
    samples = sampler.sample(
        framework.blocking(step),
        sampler.in_turn([(batch_arrays,) for batch_arrays in arrays]),
        settings.budget_s,
        core,
        throttled_by=device.slowed_by if device else list,
    )
    # A step has no device time of its own.
    timing = DeviceTiming(state=device.state()) if device else None
    deviations.append(_verify(case, step, arrays[0], batches[0]))
    without_relu = _built(variant, case, "none")
    phases_s, relu_percent = _composition(step, without_relu, arrays, framework, settings.budget_s / 2)
    return measurement.of(
        samples,
        timing,
        StepTiming(max(deviations), phases_s, relu_percent),
        empty_call_s=sampler.empty_call_s((first,), samples.number),
    )


def _composition(
    step: Any, without_relu: Any, arrays: list[Any], framework: Driver, budget_s: float
) -> tuple[dict[str, float], tuple[float, float] | None]:
    """Seconds of each phase that a step marks, and the 95 % interval of the percentage that its ReLUs take.

    without_relu: a step of the same network without ReLU, which takes turns with the other. The interval is that of
    the median of the rounds; None where training without ReLU diverged, as its time means nothing then.
    """
    wait = framework.blocking(_nothing)
    for each in (step, without_relu):
        _marked(each, arrays[0], wait)
    phases: list[dict[str, float]] = []
    percent: list[float] = []
    start_s = perf_counter()
    while len(percent) < LEAST_ROUNDS or perf_counter() - start_s < budget_s:
        batch = arrays[len(percent) % len(arrays)]
        # Each goes first every other round.
        order = (step, without_relu) if len(percent) % 2 else (without_relu, step)
        marked = {each: _marked(each, batch, wait) for each in order}
        phases.append(marked[step])
        percent.append(100 * (1 - marked[without_relu]["step"] / marked[step]["step"]))
    converged = isfinite(float(without_relu(arrays[0])))
    phases_s = {name: median(marks[name] for marks in phases) for name in PHASES if name in phases[0]}
    return phases_s, sampler.interval(percent) if converged else None


def _marked(step: Any, arrays: Any, wait: Callable[[], None]) -> dict[str, float]:
    """Seconds of a step, as "step", and of each phase that it marks."""
    ends = [("", perf_counter())]

    def mark(phase: str) -> None:
        wait()
        ends.append((phase, perf_counter()))

    step(arrays, mark)
    mark("")
    return {phase: end - start for (_, start), (phase, end) in pairwise(ends)} | {"step": ends[-1][1] - ends[0][1]}


def _nothing() -> None:
    pass


def _saved_bytes(variant: StepVariant, case: StepCase, framework: Driver, settings: Settings) -> Measurement:
    """Bytes kept from the forward pass for the backward pass; by hand, those that the network's table predicts."""
    step, arrays = _built_with_batch(variant, case)
    _verify(case, step, arrays, _batch(case))
    measured_bytes = step_driver(framework).step_saved_bytes(step, arrays)
    predicted_bytes = saved_bytes(network_of(case), case.batch, ITEMSIZE_BYTES[case.dtype])
    if variant.saved_model == "hand-written" and measured_bytes != predicted_bytes:
        raise WrongResult(f"saved bytes: {predicted_bytes} predicted, {measured_bytes} measured")
    return measurement.exact(measured_bytes)


def _peak_bytes(variant: StepVariant, case: StepCase, framework: Driver, settings: Settings) -> Measurement:
    """All bytes that training needs: parameters, velocities, images, saved values, gradients and working memory."""
    step, arrays = _built_with_batch(variant, case)
    _verify(case, step, arrays, _batch(case))
    del step, arrays
    return measurement.exact(step_driver(framework).step_peak_bytes(lambda: _built_with_batch(variant, case)))


def _first_call(variant: StepVariant, case: StepCase, framework: Driver, settings: Settings) -> Measurement:
    """Seconds to build a step and make one, compilation included."""
    start_s = perf_counter()
    step, arrays = _built_with_batch(variant, case)
    framework.blocking(step)(arrays)
    first_s = perf_counter() - start_s
    _verify(case, step, arrays, _batch(case))
    return measurement.single(first_s)


def _built_with_batch(variant: StepVariant, case: StepCase) -> tuple[Any, Any]:
    step = _built(variant, case, variant.memory)
    return step, step.put(_batch(case))


def _built(variant: StepVariant, case: StepCase, relu: str) -> Any:
    network = network_of(case)
    # Without ReLU, half the variance keeps the scale of what passes through the network.
    gain = sqrt(0.5) if relu == "none" else 1.0
    weights = {parameter.name for parameter in operations.parameters(network) if parameter.kind == "weight"}
    parameters = {
        name: gain * value if name in weights else value for name, value in initial_parameters(network).items()
    }
    return variant.load()(network, parameters, case.batch, case.dtype, relu)


def _batch(case: StepCase, seed: int = 0) -> Batch:
    return random_batch(network_of(case), case.batch, seed)


def _verify(case: StepCase, step: Any, arrays: Any, batch: Batch) -> float:
    return training.verify(network_of(case), case.dtype, step, arrays, batch)


QUANTITIES: dict[str, Callable[[StepVariant, StepCase, Driver, Settings], Measurement]] = {
    "time": _time,
    "first_call": _first_call,
    "saved_bytes": _saved_bytes,
    "peak_bytes": _peak_bytes,
}
