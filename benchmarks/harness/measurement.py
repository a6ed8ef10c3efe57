"""The measurement of a case: how it ended, its number, and the circumstances of each pass.

The JSON form of a `Measurement` has the version SCHEMA; it is the dataclasses below, field for field
(`python -m scripts.report.schema` prints it as JSON Schema). Change SCHEMA when a field changes its meaning or goes.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Literal

import msgspec

SCHEMA = 4

Status = Literal["ok", "unstable", "wrong", "skipped", "unsupported", "timeout", "memory", "crashed", "error"]
# Endings with a number.
MEASURED = ("ok", "unstable")
# The machine or the framework lacks something: n/a in asv's terms. All other endings without a number are failures.
NOT_APPLICABLE = ("skipped", "unsupported")
# A time is unstable where its 95 % interval is wider than this share of it.
UNSTABLE = 0.05
# A GPU's time is unstable where more than this share of its samples was taken while the GPU was throttled.
THROTTLED = 0.1
# A probe outside these limits is damaged.
SHORTEST_PROBE_S, LONGEST_PROBE_S = 1e-7, 1.0
# A probe this much longer than the fastest ran on a core whose other hyperthread was busy. Another layout of memory
# makes a probe a tenth longer, a busy hyperthread more than a half.
SMT_CONTENDED = 1.25
# Rounds on an uncontended core that are enough to leave the others out.
LEAST_SHARE = 0.5
# A process that is timed computes.
LEAST_CPU_SHARE = 0.5
UNKNOWN = "unknown"
# Facts of a provenance that move while a case is measured end with one of these.
AT_START, AT_END = "_at_start", "_at_end"


@dataclass(frozen=True)
class Slice:
    """The samples of a case in one round of its block.

    round: its number in the pass. samples_s: seconds per call of each sample. warmup_s: time of the calls before them.
    steady: warm-up ended with two samples that agree. probe_s: the slowest probe of the core around the samples
    (`timing.contention`); None where a probe shows nothing. preempted: samples during which a thread was switched out
    or the hypervisor took time. throttled: samples after which a GPU was throttled, and throttled_by the reasons.
    busy_s, cpu_s: wall and CPU time of the samples and of restoring their arguments.
    """

    round: int
    samples_s: list[float]
    warmup_s: float = 0.0
    steady: bool = True
    probe_s: float | None = None
    preempted: int = 0
    throttled: int = 0
    throttled_by: list[str] = field(default_factory=list)
    busy_s: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True)
class DeviceTiming:
    """Device time by the GPU's events, in JAX by its profiler, and the GPU's state while it worked.

    device_s: median device time of a call; None where it is unknown, as where the host never was ahead of the GPU.
    samples_s: readings, at most one of each round. throttled: indices of readings during which the GPU was throttled,
    and throttled_by the reasons.
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
    phases_s: seconds of each phase that the step marks, one of each round.
    relu_percent: ReLU's share of the step in each round; empty where the network without ReLU diverged.
    energy_j: joules that the GPU's board takes for a step, its idle power included; None where it does not report them.
    """

    deviation: float
    phases_s: dict[str, list[float]] = field(default_factory=dict)
    relu_percent: list[float] = field(default_factory=list)
    energy_j: float | None = None


@dataclass(frozen=True)
class Process:
    """The slices of a case that one process took, and their circumstances.

    number: calls in a sample, as last counted. threads: read back from the framework. import_s: seconds to import the
    framework and the row. empty_call_s: the time of an empty call, which every time contains.
    allocated_bytes: of a peak of requested bytes, the peak of the allocator's blocks; None where it reports none.
    """

    number: int | None = None
    threads: int | None = None
    import_s: float | None = None
    empty_call_s: float | None = None
    slices: list[Slice] = field(default_factory=list)
    device: DeviceTiming | None = None
    step: StepTiming | None = None
    allocated_bytes: int | None = None


@dataclass(frozen=True)
class Ratio:
    """A time relative to another one of the same rounds: the median of the rounds' ratios, and its 95 % interval.

    to: what it is relative to: a row, or the roof's loops.
    """

    value: float
    low: float
    high: float
    to: str


@dataclass(frozen=True)
class Measurement:
    """How a case ended.

    status: "ok"; "unstable": there is a number, and it varies; "wrong" result; "skipped": this machine lacks
    something; "unsupported": the framework does; "timeout"; out of "memory"; "crashed": by a signal or an exit;
    "error": an exception. reason: one line for people, empty where all went well.
    value: bytes, or seconds: the median over all rounds. interval: its 95 % interval. samples_s, number: the time of
    each round that counts, and calls per sample, as asv wants them; None for bytes.
    processes: one of each pass, in order. ratios: "fastest", to the fastest row of the block; "roof", to the streaming
    loops or matrix products of the same traffic; "bus", to the loop that moved most bytes per second; "fresh", in place
    to fresh.
    provenance: facts about machine and software. output_tail: the end of what a failed process printed.
    """

    status: Status
    reason: str = ""
    value: int | float | None = None
    interval: tuple[float, float] | None = None
    samples_s: list[float] | None = None
    number: int | None = None
    processes: list[Process] = field(default_factory=list)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    output_tail: str = ""

    @property
    def samples_digest(self) -> str:
        """A digest of the samples, which tells a record from those of other runs of the case; empty without samples."""
        return digest_of(self.samples_s) if self.samples_s else ""


def to_json(measurement: Measurement) -> dict[str, Any]:
    """The JSON form."""
    return asdict(measurement)


def from_json(content: Any) -> Measurement:
    """The inverse of `to_json`. Raises ValueError (msgspec.ValidationError) that names the field."""
    return msgspec.convert(content, Measurement)


def digest_of(samples_s: Sequence[float]) -> str:
    """Twelve hexadecimal digits of samples as JSON writes them."""
    return sha256(json.dumps(list(samples_s)).encode()).hexdigest()[:12]


def exact(value: int, allocated_bytes: int | None = None) -> Measurement:
    """A number that does not vary: bytes."""
    return Measurement("ok", value=value, processes=[Process(allocated_bytes=allocated_bytes)])


def single(seconds: float) -> Measurement:
    """A time that is measured once."""
    return Measurement("ok", value=seconds, samples_s=[seconds], number=1, processes=[Process(number=1)])
