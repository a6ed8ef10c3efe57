"""The type of the JSON files that `./scripts/profile` writes and the report reads. Imports msgspec only.

Like `scripts.claims.document` it accepts nothing else: no unknown field, no number that a figure cannot show, no text
with control characters. Change SCHEMA when a field changes its meaning or goes.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from scripts.claims.document import Label, Strict, Text, read_as

SCHEMA: Literal[2] = 2
# Beside the page of the report.
FOLDER = "profiles"
TRACE = ".trace.json"
MOST_IMAGES = 10**6
# More make no figure that can be read.
MOST_FILES = 40

Phase = Literal["forward", "loss", "backward", "update"]
Bytes = Annotated[int, Meta(ge=0, le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e9)]
# Part of a name of a file: no separator of folders, no dot at its start.
FileLabel = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.-]{0,79}(?![\s\S])")]


class Operator(Strict, frozen=True):
    """An operator of a step: the median of its time over steps. covers: the operations that it computes, if known."""

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


def file(network: str, row: str) -> str:
    """The name of the file of a row."""
    return f"{network}.{row}.json"


def trace_file(network: str, row: str) -> str:
    """The name of the trace beside it."""
    return f"{network}.{row}{TRACE}"


def of_folder(folder: Path) -> tuple[list[Profile], list[str]]:
    """The profiles in a folder, and a message for each file that cannot be read."""
    profiles, problems = [], []
    paths = sorted(path for path in folder.glob("*.json") if not path.name.endswith(TRACE))
    for path in paths[:MOST_FILES]:
        try:
            profiles.append(read_as(Profile, path))
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}; ./scripts/profile writes it again")
    if len(paths) > MOST_FILES:
        problems.append(f"{folder}: {len(paths)} profiles, of which {MOST_FILES} are read")
    return [profile for profile in profiles if profile], problems
