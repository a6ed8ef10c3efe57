"""The measurement of a case: how it ended, its number, and the circumstances of each process.

The JSON form of a `Measurement` has the version SCHEMA; it is the dataclasses below, field for field
(`python -m scripts.report.schema` prints it as JSON Schema). Change SCHEMA when a field changes its meaning or goes.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from statistics import median, quantiles
from typing import Any, Literal

import msgspec

SCHEMA = 3

Status = Literal["ok", "unstable", "wrong", "skipped", "unsupported", "timeout", "memory", "crashed", "error"]
# Endings with a number.
MEASURED = ("ok", "unstable")
# The machine or the framework lacks something: n/a in asv's terms. All other endings without a number are failures.
NOT_APPLICABLE = ("skipped", "unsupported")
# A time is unstable where quartiles of its samples, or medians of its processes, are further apart than this share.
UNSTABLE = 0.1
# A GPU's time is unstable where more than this share of its samples was taken while the GPU was throttled.
THROTTLED = 0.1
# A probe outside these limits is damaged.
SHORTEST_PROBE_S, LONGEST_PROBE_S = 1e-7, 1.0
# A probe this much longer than the fastest ran on a core whose other hyperthread was busy. Another layout of memory
# makes a probe a tenth longer, a busy hyperthread more than a half.
SMT_CONTENDED = 1.25
# A process that is timed computes.
LEAST_CPU_SHARE = 0.5
UNKNOWN = "unknown"
# Facts of a provenance that move while a case is measured end with one of these.
AT_START, AT_END = "_at_start", "_at_end"


@dataclass(frozen=True)
class Sampling:
    """How one process took its samples.

    samples: how many count. smt_contended_s: samples that do not count, as the other hyperthread of the core was busy.
    uncontended: enough other samples were taken; otherwise all count.
    probe_s: the fastest probe of the core (`timing.contention`); None where a probe shows nothing.
    stopped: "interval" (that of the median is below 1 %), "budget", "count", or "mixed" of several placements.
    steady: warm-up ended with two windows that agree. warmup_s: its length.
    preempted: positions of samples during which a thread was switched out or the hypervisor took time.
    throttled: positions of samples after which a GPU was throttled. throttled_by: the reasons.
    cpu_share: CPU time of the process by wall time, while it was timed and restored its arguments.
    placement_medians_s: the median of each placement in memory. steal_s: time that the hypervisor took meanwhile.
    empty_call_s: the time of an empty call, which every time contains.
    """

    samples: int
    uncontended: bool = True
    smt_contended_s: list[float] = field(default_factory=list)
    probe_s: float | None = None
    stopped: str = ""
    steady: bool = True
    warmup_s: float = 0.0
    preempted: list[int] = field(default_factory=list)
    throttled: list[int] = field(default_factory=list)
    throttled_by: list[str] = field(default_factory=list)
    cpu_share: float = 1.0
    placement_medians_s: list[float] = field(default_factory=list)
    steal_s: float = 0.0
    empty_call_s: float | None = None


@dataclass(frozen=True)
class Samples:
    """Seconds per call of each sample that counts, calls per sample (at least), and how they were taken."""

    samples_s: list[float]
    number: int
    sampling: Sampling


@dataclass(frozen=True)
class DeviceTiming:
    """Device time by the GPU's events, and the GPU's state while it worked.

    device_s: median device time of a call; None where the host never was ahead of the GPU. samples_s: of each round.
    throttled: positions of rounds in which it was throttled. throttled_by: the reasons.
    state: clocks, temperature and power (`machine.gpu`).
    """

    device_s: float | None = None
    samples_s: list[float] = field(default_factory=list)
    throttled: list[int] = field(default_factory=list)
    throttled_by: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepTiming:
    """Error, phases and ReLU's share of a training step.

    deviation: the largest relative error of an array against the reference.
    phases_s: seconds of each phase that the step marks.
    relu_percent: 95 % interval of ReLU's share of the step; None where the network without ReLU diverged.
    """

    deviation: float
    phases_s: dict[str, float] = field(default_factory=dict)
    relu_percent: tuple[float, float] | None = None


@dataclass(frozen=True)
class RoofTiming:
    """The samples behind the best one of a roof: how many, their lower quartile and median, and the fastest probe."""

    samples: int
    quartile_s: float
    median_s: float
    probe_s: float | None = None


@dataclass(frozen=True)
class Process:
    """The result of one process and its circumstances.

    value: its own median or bytes. number: calls in a sample. counted: whether its samples are in the result.
    threads: read back from the framework. import_s: seconds to import the framework and load the row.
    """

    value: int | float | None = None
    number: int | None = None
    counted: bool = True
    threads: int | None = None
    import_s: float | None = None
    sampling: Sampling | None = None
    device: DeviceTiming | None = None
    step: StepTiming | None = None
    roof: RoofTiming | None = None

    @property
    def probe_s(self) -> float | None:
        """The fastest probe of this process that can be believed."""
        source = self.sampling or self.roof
        probe_s = source.probe_s if source else None
        return probe_s if probe_s is not None and SHORTEST_PROBE_S < probe_s < LONGEST_PROBE_S else None

    def is_uncontended(self, probe_best_s: float) -> bool:
        """Return whether it had a core to itself, judged by its own probes and the fastest probe of all processes."""
        enough = self.sampling.uncontended if self.sampling else True
        return enough and (self.probe_s or 0.0) <= SMT_CONTENDED * probe_best_s


@dataclass(frozen=True)
class Measurement:
    """How a case ended.

    status: "ok"; "unstable": there is a number, and it varies; "wrong" result; "skipped": this machine lacks
    something; "unsupported": the framework does; "timeout"; out of "memory"; "crashed": by a signal or an exit;
    "error": an exception. reason: one line for people, empty where all went well.
    value: bytes, or seconds (the median). samples_s, number: as asv wants them; None for bytes.
    processes: those that ended with a number. provenance: facts about machine and software.
    output_tail: the end of what a failed process printed.
    """

    status: Status
    reason: str = ""
    value: int | float | None = None
    samples_s: list[float] | None = None
    number: int | None = None
    processes: list[Process] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    output_tail: str = ""

    @property
    def samples_digest(self) -> str:
        """A digest of the samples, which tells a record from those of other runs of the case; empty without samples."""
        return digest_of(self.samples_s) if self.samples_s else ""

    @property
    def probe_s(self) -> float | None:
        """The fastest probe of all processes."""
        return min((process.probe_s for process in self.processes if process.probe_s), default=None)


def to_json(measurement: Measurement) -> dict[str, Any]:
    """The JSON form."""
    return asdict(measurement)


def from_json(content: Any) -> Measurement:
    """The inverse of `to_json`. Raises ValueError (msgspec.ValidationError) that names the field."""
    return msgspec.convert(content, Measurement)


def digest_of(samples_s: Sequence[float]) -> str:
    """Twelve hexadecimal digits of samples as JSON writes them."""
    return sha256(json.dumps(list(samples_s)).encode()).hexdigest()[:12]


def exact(value: int) -> Measurement:
    """A number that does not vary: bytes."""
    return Measurement("ok", value=value, processes=[Process(value=value)])


def single(seconds: float) -> Measurement:
    """A time that is measured once."""
    return Measurement("ok", value=seconds, samples_s=[seconds], number=1, processes=[Process(value=seconds, number=1)])


def of(
    samples: Samples, device: DeviceTiming | None = None, step: StepTiming | None = None, **circumstances: Any
) -> Measurement:
    """The median of samples that one process took. circumstances: further fields of their `Sampling`."""
    value = median(samples.samples_s)
    sampling = replace(samples.sampling, **circumstances)
    process = Process(value=value, number=samples.number, sampling=sampling, device=device, step=step)
    return Measurement("ok", value=value, samples_s=samples.samples_s, number=samples.number, processes=[process])


def best(
    samples_s: Sequence[float], number: int, threads: int, probe_s: float | None, device: DeviceTiming | None = None
) -> Measurement:
    """The best of the samples of a roof. threads: read back from the framework."""
    roof = RoofTiming(len(samples_s), quantiles(samples_s, n=4)[0], median(samples_s), probe_s)
    best_s = min(samples_s)
    process = Process(value=best_s, number=number, threads=threads, roof=roof, device=device)
    return Measurement("ok", value=best_s, samples_s=[best_s], number=number, processes=[process])


def pooled(parts: Sequence[Measurement]) -> Measurement:
    """One time of several processes: the median of all samples that count, or the first failure."""
    failures = [part for part in parts if part.status != "ok"]
    if failures:
        return failures[0]
    probe_best_s = min((part.probe_s for part in parts if part.probe_s), default=float("inf"))
    uncontended = [part for part in parts if all(process.is_uncontended(probe_best_s) for process in part.processes)]
    counted = uncontended or parts
    samples_s = [sample for part in counted for sample in part.samples_s or ()]
    processes = [_counted(process, part, part in counted) for part in parts for process in part.processes]
    reason = (
        _variation(samples_s, [part.value or 0.0 for part in counted])
        or _absence(processes)
        or throttled(parts)
        or ("" if uncontended else "the other hyperthread of the core was busy all the time")
    )
    last = {name: fact for name, fact in parts[-1].provenance.items() if name.endswith(AT_END)}
    return Measurement(
        "unstable" if reason else "ok",
        reason,
        value=median(samples_s),
        samples_s=samples_s,
        number=min(part.number or 1 for part in parts),
        processes=processes,
        provenance={**parts[0].provenance, **last},
    )


def _counted(process: Process, part: Measurement, counted: bool) -> Process:
    """The process, marked; samples that do not count are kept as smt_contended_s."""
    if counted or process.sampling is None:
        return replace(process, counted=counted)
    aside_s = [*process.sampling.smt_contended_s, *(part.samples_s or ())]
    return replace(process, counted=False, sampling=replace(process.sampling, smt_contended_s=aside_s))


def _variation(samples_s: Sequence[float], medians_s: Sequence[float]) -> str:
    """Why the median of the samples is not steady; empty where it is."""
    low, _, high = quantiles(samples_s, n=4)
    if high - low > UNSTABLE * median(samples_s):
        return f"half of the samples lie further apart than {low:.3g} and {high:.3g} s"
    if max(medians_s) - min(medians_s) > UNSTABLE * median(samples_s):
        return f"medians of the processes lie between {min(medians_s):.3g} and {max(medians_s):.3g} s"
    return ""


def _absence(processes: Sequence[Process]) -> str:
    """Why a process on the CPU did not compute; empty where all did."""
    # While a GPU works, its host may well sleep.
    shares = [process.sampling.cpu_share for process in processes if process.sampling and not process.device]
    share = min(shares, default=1.0)
    return f"asleep: the process used {share:.0%} of a core while it was timed" if share < LEAST_CPU_SHARE else ""


def throttled(parts: Sequence[Measurement]) -> str:
    """Describe what throttled a GPU during too many samples; empty if nothing did or the driver does not report it."""
    processes = [process for part in parts for process in part.processes]
    hosts = [process.sampling for process in processes if process.sampling]
    devices = [process.device for process in processes if process.device]
    latency = sum(len(part.samples_s or ()) for part in parts), hosts
    device_time = sum(len(timing.samples_s) for timing in devices), devices
    for samples, timings in (latency, device_time):
        marked = sum(len(timing.throttled) for timing in timings)
        reasons = sorted({reason for timing in timings for reason in timing.throttled_by})
        if marked > THROTTLED * samples:
            return f"{', '.join(reasons)} throttled the GPU in {marked} of {samples} samples"
    return ""
