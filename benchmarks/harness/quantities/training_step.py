"""The quantities of a training step: time in slices with its phases and ReLU's share, the first call, and bytes."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import isfinite, prod, sqrt
from time import perf_counter
from typing import Any

from benchmarks.harness import measurement
from benchmarks.harness.case import StepCase, Unsupported
from benchmarks.harness.frameworks import Driver, device_driver, step_driver
from benchmarks.harness.machine import gpu
from benchmarks.harness.measurement import Measurement, Process, Slice, StepTiming
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.timing.device import DeviceTimer
from benchmarks.harness.truth import training
from benchmarks.harness.truth.comparison import WrongResult
from benchmarks.harness.truth.shared import Shared
from impls.catalog import find_step
from impls.cnn import PHASES, operations
from impls.cnn.networks import NETWORKS, Batch, Network, initial_parameters, random_batch, repeated, saved_bytes, work
from impls.variant import ITEMSIZE_BYTES, StepVariant

# Batches that steps take in turn. Before the clock starts the first is checked, afterwards the others.
BATCHES = 3
# The reference takes seconds for so many images. Larger batches that are multiples repeat them, in random order.
LARGEST, DISTINCT = 256, 64
# A GPU's energy counter advances about every 0.1 s.
ENERGY_S = 2.0


def network_of(case: StepCase) -> Network:
    """The network of a case."""
    return NETWORKS[case.network]


def needed_bytes(case: StepCase) -> int:
    """Estimated memory of a case on the host: the reference keeps the most, in float64."""
    return _kept_bytes(case, _distinct(case), "float64")


def device_bytes(case: StepCase) -> int:
    """Estimated memory of a case on a GPU: its step, and that without ReLU, which keep less than the reference."""
    return _kept_bytes(case, case.batch, case.dtype)


def _kept_bytes(case: StepCase, images: int, dtype: str) -> int:
    """Bytes that the reference's step would keep for so many images, and those of the batches."""
    figures = work(network_of(case))
    kept = 4 * figures.activation_elements + 2 * figures.input_elements + figures.column_elements
    batches_elements = BATCHES * case.batch * prod(network_of(case).image)
    return (images * kept + batches_elements) * ITEMSIZE_BYTES[dtype]


class TimedStep:
    """A training step that is timed in slices on several batches in turn, checked before the first and after the last.

    Each slice also makes one step with marks, for its phases, and one of the same network without ReLU. A comparison
    needs neither, and its last check takes one of the batches.
    shared: holds the reference's results of the first step, which is the same for all rows.
    """

    def __init__(self, variant: StepVariant, case: StepCase, framework: Driver, core: Core, shared: Shared) -> None:
        self.case, self.shared = case, shared
        self.step, first = _built_with_batch(variant, case)
        self.arrays = [first, *(self.step.put(_batch(case, seed)) for seed in range(1, BATCHES))]
        self.is_compared = bool(case.side)
        self.without_relu = None if self.is_compared else _built(variant, case, "none")
        self.wait = framework.blocking(_nothing)
        self.device = gpu.Device() if variant.device == "cuda" else None
        self.timer = sampler.Timer(
            framework.blocking(self.step),
            sampler.in_turn([(arrays,) for arrays in self.arrays]),
            core,
            throttled_by=self.device.slowed_by if self.device else list,
            pace=sampler.BRIEF if self.is_compared else sampler.USUAL,
        )
        self.device_timer = self._device_timer(framework, self.device) if self.device else None
        self.deviations: list[float] = []
        self.phases_s: dict[str, list[float]] = {}
        self.relu_percent: list[float] = []

    def _device_timer(self, framework: Driver, device: gpu.Device) -> DeviceTimer:
        supply = sampler.in_turn([(arrays,) for arrays in self.arrays])
        return DeviceTimer(device_driver(framework), self.step, lambda calls: list(supply(calls)), device)

    def prepare(self) -> None:
        """Check the first step. Raises WrongResult."""
        self.deviations.append(_verify_first(self.case, self.step, self.arrays[0], self.shared))
        if self.without_relu:
            for each in (self.step, self.without_relu):
                _marked(each, self.arrays[0], self.wait)

    def slice(self, round_number: int) -> Slice:
        """One slice, and one round of phases and ReLU's share. Before it, on a GPU, a reading of device time."""
        start_s = perf_counter()
        if self.device_timer:
            self.device_timer.read()
        device_s = perf_counter() - start_s
        taken = self.timer.slice(round_number)
        if self.without_relu:
            self._mark(self.without_relu, round_number)
        return replace(taken, warmup_s=taken.warmup_s + device_s)

    def _mark(self, without_relu: Any, round_number: int) -> None:
        batch = self.arrays[round_number % len(self.arrays)]
        # Each goes first every other round.
        order = (self.step, without_relu) if round_number % 2 else (without_relu, self.step)
        marked = {each: _marked(each, batch, self.wait) for each in order}
        for phase, seconds in marked[self.step].items():
            if phase in PHASES:
                self.phases_s.setdefault(phase, []).append(seconds)
        share = 1 - marked[without_relu]["step"] / marked[self.step]["step"]
        self.relu_percent.append(100 * share)

    def finish(self) -> Process:
        """Measure energy, then check a step on each of the other batches, from the state that it has then.

        Raises WrongResult.
        """
        energy_j = self._energy_j(self.device) if self.device and not self.is_compared else None
        others = list(enumerate(self.arrays))[1:]
        for seed, arrays in random.sample(others, 1) if self.is_compared else others:
            self.deviations.append(_verify(self.case, self.step, arrays, seed))
        # The time of training that diverged means nothing.
        converged = self.without_relu and isfinite(float(self.without_relu(self.arrays[0])))
        return Process(
            number=self.timer.number or None,
            empty_call_s=sampler.empty_call_s((self.arrays[0],), self.timer.number or 1),
            device=self.device_timer.timing() if self.device_timer else None,
            step=StepTiming(max(self.deviations), self.phases_s, self.relu_percent if converged else [], energy_j),
        )

    def _energy_j(self, device: gpu.Device) -> float | None:
        """Joules of a step, of as many as fit ENERGY_S, one after the other."""
        self.wait()
        start_s, start_j, steps = perf_counter(), device.energy_j(), 0
        if start_j is None:
            return None
        while not steps or perf_counter() - start_s < ENERGY_S:
            for arrays in self.arrays:
                self.step(arrays)
            steps += len(self.arrays)
            self.wait()
        end_j = device.energy_j()
        return None if end_j is None else (end_j - start_j) / steps


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


def _saved_bytes(variant: StepVariant, case: StepCase, framework: Driver, shared: Shared) -> Measurement:
    """Bytes kept from the forward pass for the backward pass; by hand, those that the network's table predicts."""
    step, arrays = _built_with_batch(variant, case)
    _verify_first(case, step, arrays, shared)
    measured_bytes = step_driver(framework).step_saved_bytes(step, arrays)
    predicted_bytes = saved_bytes(network_of(case), case.batch, ITEMSIZE_BYTES[case.dtype])
    if variant.saved_model == "hand-written" and measured_bytes != predicted_bytes:
        raise WrongResult(f"saved bytes: {predicted_bytes} predicted, {measured_bytes} measured")
    return measurement.exact(measured_bytes)


def _peak_bytes(variant: StepVariant, case: StepCase, framework: Driver, shared: Shared) -> Measurement:
    """All bytes that training needs: parameters, velocities, images, saved values, gradients and working memory."""
    step, arrays = _built_with_batch(variant, case)
    _verify_first(case, step, arrays, shared)
    del step, arrays
    memory = step_driver(framework)
    peak_bytes = memory.step_peak_bytes(lambda: _built_with_batch(variant, case))
    return measurement.exact(peak_bytes, memory.step_allocated_bytes())


def _first_call(variant: StepVariant, case: StepCase, framework: Driver, shared: Shared) -> Measurement:
    """Seconds to build a step and make one, compilation included."""
    start_s = perf_counter()
    step, arrays = _built_with_batch(variant, case)
    framework.blocking(step)(arrays)
    first_s = perf_counter() - start_s
    _verify(case, step, arrays)
    return measurement.single(first_s)


def _built_with_batch(variant: StepVariant, case: StepCase) -> tuple[Any, Any]:
    step = _built(variant, case, variant.memory)
    return step, step.put(_batch(case))


def _built(variant: StepVariant, case: StepCase, relu: str) -> Any:
    """The step of a row. Raises Unsupported where its framework cannot make it here."""
    network = network_of(case)
    # Without ReLU, half the variance keeps the scale of what passes through the network.
    gain = sqrt(0.5) if relu == "none" else 1.0
    weights = {parameter.name for parameter in operations.parameters(network) if parameter.kind == "weight"}
    parameters = {
        name: gain * value if name in weights else value for name, value in initial_parameters(network).items()
    }
    try:
        return variant.load()(network, parameters, case.batch, case.dtype, relu)
    except NotImplementedError as error:
        raise Unsupported(str(error)) from error


def _distinct(case: StepCase) -> int:
    """The number of different images in a batch of a case."""
    return DISTINCT if case.batch > LARGEST and case.batch % DISTINCT == 0 else case.batch


def _sample(case: StepCase, seed: int) -> Batch:
    """The different images of a batch."""
    return random_batch(network_of(case), _distinct(case), seed)


def _batch(case: StepCase, seed: int = 0) -> Batch:
    sample = _sample(case, seed)
    times = case.batch // len(sample)
    return repeated(sample, times, seed) if times > 1 else sample


def _verify_first(case: StepCase, step: Any, arrays: Any, shared: Shared) -> float:
    """Check the first step, on the first batch."""
    batch, times = _sample(case, 0), case.batch // _distinct(case)
    wanted = training.expected_first(network_of(case), case.dtype, step.state(), batch, shared, times)
    return _verify(case, step, arrays, wanted=wanted)


def _verify(case: StepCase, step: Any, arrays: Any, seed: int = 0, wanted: training.Expected | None = None) -> float:
    """Check a step on the batch of a seed."""
    batch, precision = _sample(case, seed), find_step(case.variant).precision
    times = case.batch // len(batch)
    return training.verify(network_of(case), case.dtype, step, arrays, batch, wanted, precision, times)


# Quantities that are measured once, in one go.
SINGLE: dict[str, Callable[[StepVariant, StepCase, Driver, Shared], Measurement]] = {
    "first_call": _first_call,
    "saved_bytes": _saved_bytes,
    "peak_bytes": _peak_bytes,
}
