"""The type of the JSON files that `./scripts/profile` writes and the report reads. Imports msgspec only.

Like `scripts.claims.document` it accepts nothing else: no unknown field, no number that a figure cannot show, no text
with control characters. Change SCHEMA when a field changes its meaning or goes.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from scripts.claims.document import Label, Strict, read_as

SCHEMA: Literal[1] = 1
# Beside the page of the report.
FOLDER = "profiles"
TRACE = ".trace.json"
# More make no figure that can be read.
MOST_FILES = 40

Phase = Literal["forward", "loss", "backward", "update"]
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


class Profile(Strict, frozen=True):
    """The times of the operators of a row's step.

    steps: number of profiled ones. step_ms: the median of these; unprofiled_ms: of others, without the profiler.
    unexplained_ms: the part of a profiled step that no operator explains. gemm_gflop_per_s: of NumPy's product of two
    large matrices in the same process.
    """

    schema: Literal[1]
    time_s: Annotated[float, Meta(ge=0, le=1e11)]
    machine: Label
    commit: Label
    network: FileLabel
    row: FileLabel
    framework: FileLabel
    batch: Annotated[int, Meta(ge=1, le=10**6)]
    steps: Annotated[int, Meta(ge=1, le=10**6)]
    step_ms: Milliseconds
    unprofiled_ms: Milliseconds
    unexplained_ms: Milliseconds
    gemm_gflop_per_s: Annotated[float, Meta(gt=0, le=1e9)]
    operators: Annotated[list[Operator], Meta(max_length=1000)]


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
            problems.append(f"{path}: {error}")
    if len(paths) > MOST_FILES:
        problems.append(f"{folder}: {len(paths)} profiles, of which {MOST_FILES} are read")
    return [profile for profile in profiles if profile], problems
