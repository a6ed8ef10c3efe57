"""The type of the JSON files that `./scripts/profile` writes and the report reads. Imports msgspec only.

Like `scripts.claims.document` it accepts nothing else: no unknown field, no number that a figure cannot show, no text
with control characters. Change SCHEMA when a field changes its meaning or goes.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from scripts.claims.document import Kind, Label, Strict, Text, read_as

SCHEMA: Literal[2] = 2
CALL_SCHEMA: Literal[1] = 1
# Beside the page of the report; in it, the folder of calls.
FOLDER, CALLS_FOLDER = "profiles", "operators"
TRACE = ".trace.json"
MOST_IMAGES = 10**6
# A call above it was faster than its roof at another moment, and says nothing.
MOST_PERCENT = 105.0
# More make no figure that can be read.
MOST_FILES = 40

Phase = Literal["forward", "loss", "backward", "update"]
Bytes = Annotated[int, Meta(ge=0, le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e9)]
# Part of a name of a file: no separator of folders, no dot at its start.
FileLabel = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}(?![\s\S])")]


class Operator(Strict, frozen=True):
    """An operator of a step or call: the median of its time. covers: the operations that it computes, if known."""

    phase: Phase
    layer: Label
    operator: Label
    ms: Milliseconds
    covers: Annotated[tuple[Label, ...], Meta(max_length=40)] = ()


class Bandwidth(Strict, frozen=True):
    """Bandwidth of copying arrays that fit a level of memory. up_to_bytes: of the arrays; without a limit in DRAM."""

    level: Label
    up_to_bytes: Bytes
    gb_per_s: Annotated[float, Meta(gt=0, le=1e9)]


class Roofs(Strict, frozen=True):
    """The limits of the machine, measured before the rows: NumPy's product of two large matrices, and copying.

    bandwidths: from the smallest cache on.
    """

    gemm_gflop_per_s: Annotated[float, Meta(gt=0, le=1e9)]
    bandwidths: Annotated[tuple[Bandwidth, ...], Meta(min_length=1, max_length=10)]


class Moment(Strict, frozen=True):
    """The bytes alive in a layer when they are most, by kind (`scripts.profiling.memory.buffers`)."""

    phase: Phase
    layer: Label
    state_bytes: Bytes
    input_bytes: Bytes
    saved_bytes: Bytes
    gradients_bytes: Bytes
    temporary_bytes: Bytes

    @property
    def total_bytes(self) -> int:
        """The sum of all kinds."""
        return self.state_bytes + self.input_bytes + self.saved_bytes + self.gradients_bytes + self.temporary_bytes


class Held(Strict, frozen=True):
    """A part of the bytes that are alive at the peak. name: where it comes from."""

    kind: Literal["state", "input", "saved", "gradients", "temporary"]
    name: Label
    size_bytes: Bytes


class Memory(Strict, frozen=True):
    """The bytes alive over a step, and the parts of their peak. measured_bytes: the peak as benchmarks measure it."""

    peak_bytes: Bytes
    measured_bytes: Bytes
    moments: Annotated[list[Moment], Meta(min_length=1, max_length=200)]
    at_peak: Annotated[list[Held], Meta(min_length=1, max_length=200)]

    def __post_init__(self) -> None:
        if max(moment.total_bytes for moment in self.moments) != self.peak_bytes:
            raise ValueError("moments: the highest is not the peak")
        if sum(part.size_bytes for part in self.at_peak) != self.peak_bytes:
            raise ValueError("at_peak: the parts do not add up to the peak")


class Counters(Strict, frozen=True):
    """Counts of the processor's events in a step without the profiler. missing: why there are none; empty with counts.

    Of user code in all threads.
    """

    missing: Text = ""
    cycles: Count = 0
    instructions: Count = 0
    cache_misses: Count = 0


class Profile(Strict, frozen=True):
    """The times of the operators of a row's step, and its memory.

    steps: number of profiled ones. step_ms: the median of these; unprofiled_ms: of others, without the profiler.
    unexplained_ms: the part of a profiled step that no operator explains.
    """

    schema: Literal[2]
    time_s: Annotated[float, Meta(ge=0, le=1e11)]
    machine: Label
    commit: Label
    network: FileLabel
    row: FileLabel
    framework: FileLabel
    batch: Annotated[int, Meta(ge=1, le=MOST_IMAGES)]
    steps: Annotated[int, Meta(ge=1, le=10**6)]
    step_ms: Milliseconds
    unprofiled_ms: Milliseconds
    unexplained_ms: Milliseconds
    counters: Counters
    roofs: Roofs
    operators: Annotated[list[Operator], Meta(max_length=1000)]
    memory: Memory


class Roof(Strict, frozen=True):
    """The streaming loops that have the required traffic of a call, at its size and in the same rounds.

    loops: their names. call_ms: the time of the call in these rounds. percent: 100 times the time of the loops by that
    of the call; low, high: its 95 % interval.
    """

    loops: Label
    call_ms: Annotated[float, Meta(gt=0, le=1e9)]
    percent: Annotated[float, Meta(gt=0, le=1e9)]
    low: Annotated[float, Meta(ge=0, le=1e9)]
    high: Annotated[float, Meta(ge=0, le=1e9)]

    @property
    def is_possible(self) -> bool:
        return self.percent <= MOST_PERCENT


class CallProfile(Strict, frozen=True):
    """The times of the operators of a row's call, and its memory.

    calls: number of profiled ones. call_ms: the median of these; unprofiled_ms: of others, without the profiler.
    flops: the fewest, one for each element of each result. moved_bytes: the required ones. roof: if there is one.
    transient_bytes: allocated during a call, at their peak, with results, without scratch memory of a constant size.
    saved_bytes: kept by a round trip for its backward half.
    """

    schema: Literal[1]
    time_s: Annotated[float, Meta(ge=0, le=1e11)]
    machine: Label
    commit: Label
    operator: FileLabel
    direction: Literal["forward", "backward", "roundtrip"]
    row: FileLabel
    framework: FileLabel
    elements: Annotated[int, Meta(ge=1, le=2**53)]
    dtype: FileLabel
    calls: Annotated[int, Meta(ge=1, le=10**6)]
    call_ms: Milliseconds
    unprofiled_ms: Milliseconds
    unexplained_ms: Milliseconds
    operators: Annotated[list[Operator], Meta(max_length=1000)]
    flops: Annotated[float, Meta(ge=0, le=1e30)]
    moved_bytes: Annotated[float, Meta(gt=0, le=1e30)]
    roof: Roof | None
    transient_bytes: Bytes
    saved_bytes: Bytes

    @property
    def intensity(self) -> float:
        """The fewest operations for each byte that is moved."""
        return self.flops / self.moved_bytes

    @property
    def overhead(self) -> float:
        """The share by which a profiled call takes longer."""
        return self.call_ms / self.unprofiled_ms - 1 if self.unprofiled_ms else 0.0


def file(network: str, row: str) -> str:
    """The name of the file of a row."""
    return f"{network}.{row}.json"


def file_of_call(profile: CallProfile) -> str:
    """The name of the file of an operator's row."""
    return f"{profile.operator}.{profile.direction}.{profile.row}.{profile.elements}.{profile.dtype}.json"


def trace_of(file: str) -> str:
    """The name of the trace beside a file."""
    return file.removesuffix(".json") + TRACE


def of_folder(folder: Path, kind: type[Kind]) -> tuple[list[Kind], list[str]]:
    """The profiles of steps or of calls in a folder, and a message for each file that cannot be read."""
    profiles, problems = [], []
    paths = sorted(path for path in folder.glob("*.json") if not path.name.endswith(TRACE))
    for path in paths[:MOST_FILES]:
        try:
            profiles.append(read_as(kind, path))
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}; ./scripts/profile writes it again")
    if len(paths) > MOST_FILES:
        problems.append(f"{folder}: {len(paths)} profiles, of which {MOST_FILES} are read")
    return [profile for profile in profiles if profile], problems
