"""The record of how each case ended: one JSON line each, appended, in .asv/outcomes/MACHINE/COMMIT.jsonl.

asv's results say what was measured; these say why something was not, and under which circumstances.
A reader skips a line that is torn, as a killed writer may leave one.
"""

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

from benchmarks.harness.case import Case
from benchmarks.harness.machine.provenance import AT_END
from benchmarks.harness.timing.contention import SHARED
from benchmarks.harness.timing.sampler import Samples

SCHEMA = 2

Status = Literal["ok", "unstable", "wrong", "skipped", "unsupported", "timeout", "memory", "crashed", "error"]
# These have a number.
MEASURED = ("ok", "unstable")
# This machine lacks something, or the framework does: in asv's terms n/a. All others are failures.
NOT_APPLICABLE = ("skipped", "unsupported")
# Quartiles of the samples, or medians of the processes, further apart than this share of the median.
UNSTABLE = 0.1
# More than this share of the samples was taken while a GPU was slower than it can be.
SLOWED = 0.1
# No loop of core.py is faster or slower.
LEAST_LOOP_S, MOST_LOOP_S = 1e-7, 1.0
# A process that is timed computes.
LEAST_CPU_SHARE = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    status: "ok"; "unstable": there is a number, and it varies; "wrong" result; "skipped": this machine
    lacks something; "unsupported": the framework does; "timeout"; out of "memory"; "crashed": by a
    signal or an exit; "error": an exception. reason: one line for people, empty where all went well.
    value: bytes, or seconds (the median). samples_s, number: as asv wants them. details:
    circumstances, for the record. output_tail: the end of what the process printed.
    """

    status: Status
    reason: str = ""
    value: float | None = None
    samples_s: list[float] | None = None
    number: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    output_tail: str = ""


def of_samples(taken: Samples, **circumstances: Any) -> Outcome:
    """The outcome of a time, with what the sampler tells and other circumstances."""
    told = {key: value for key, value in vars(taken).items() if key not in ("samples_s", "number")}
    return Outcome(
        "ok",
        value=median(taken.samples_s),
        samples_s=taken.samples_s,
        number=taken.number,
        details={**told, "samples": len(taken.samples_s), **circumstances},
    )


def pooled(parts: Sequence[Outcome]) -> Outcome:
    """One outcome of a time that several processes measured: all their samples, or the first failure."""
    failures = [part for part in parts if part.status != "ok"]
    if failures:
        return failures[0]
    loops_s = [loop_s for part in parts if (loop_s := core_s(part.details))]
    free = [part for part in parts if is_free(part, min(loops_s, default=float("inf")))]
    counted = free or parts
    samples_s = [sample for part in counted for sample in part.samples_s or ()]
    reason = (
        _variation(samples_s, [part.value or 0.0 for part in counted])
        or _absence(parts)
        or slowed(parts)
        or ("" if free else "the core was shared with other work all the time")
    )
    circumstances = [_circumstances(part, part in counted) for part in parts]
    provenance = [one.pop("provenance") for one in circumstances]
    end = {name: fact for name, fact in provenance[-1].items() if name.endswith(AT_END)}
    return Outcome(
        "unstable" if reason else "ok",
        reason,
        value=median(samples_s),
        samples_s=samples_s,
        number=min(part.number or 1 for part in parts),
        details={"processes": circumstances, "provenance": {**provenance[0], **end}},
    )


def _circumstances(part: Outcome, counted: bool) -> dict[str, Any]:
    """What a process tells of its part, which keeps samples that do not count."""
    shared_s = [*part.details.get("shared_s", ()), *(() if counted else part.samples_s or ())]
    return {
        "median_s": part.value,
        "number": part.number,
        **part.details,
        "counted": counted,
        "shared_s": shared_s,
    }


def is_free(part: Outcome, fastest_s: float) -> bool:
    """Whether a process had a core to itself, judged by its own loops (core.py) and the other processes'."""
    return part.details.get("free", True) and (core_s(part.details) or 0.0) <= SHARED * fastest_s


def core_s(details: dict[str, Any]) -> float | None:
    """The fastest loop (core.py) that a record tells of; None where it tells none that can be."""
    loop_s = details.get("core_s")
    return loop_s if isinstance(loop_s, float) and LEAST_LOOP_S < loop_s < MOST_LOOP_S else None


def _variation(samples_s: Sequence[float], medians_s: Sequence[float]) -> str:
    """Why the median of the samples is no steady number; empty where it is one."""
    low, _, high = quantiles(samples_s, n=4)
    if high - low > UNSTABLE * median(samples_s):
        return f"half of the samples lie further apart than {low:.3g} and {high:.3g} s"
    if max(medians_s) - min(medians_s) > UNSTABLE * median(samples_s):
        return f"medians of the processes lie between {min(medians_s):.3g} and {max(medians_s):.3g} s"
    return ""


def _absence(parts: Sequence[Outcome]) -> str:
    """Whether a process on the CPU did something else than compute; empty where it did not."""
    # While a GPU works, its host may well sleep.
    share = min((part.details.get("cpu_share", 1.0) for part in parts if "gpu" not in part.details), default=1.0)
    return f"asleep: the process used {share:.0%} of a core while it was timed" if share < LEAST_CPU_SHARE else ""


def slowed(parts: Sequence[Outcome]) -> str:
    """Whether a GPU was slower than it can be, behind many a sample; empty where it was not, or nobody tells."""
    waits = sum(len(part.samples_s or ()) for part in parts)
    own = sum(len(part.details.get("device_samples_s", ())) for part in parts)
    for kind, samples in (("", waits), ("device_", own)):
        marked = sum(len(part.details.get(f"{kind}slowed", ())) for part in parts)
        by = sorted({name for part in parts for name in part.details.get(f"{kind}slowed_by", ())})
        if marked > SLOWED * samples:
            return f"{', '.join(by)} slowed the GPU in {marked} of {samples} samples"
    return ""


def folder() -> Path:
    """Where outcomes are kept: .asv/outcomes below the folder of asv.conf.json."""
    root = os.environ.get("ASV_CONF_DIR") or Path(__file__).parents[3]
    return Path(os.environ.get("RELU_BENCH_OUTCOMES", Path(root) / ".asv" / "outcomes"))


def machine() -> str:
    """The name that results are kept under, as asv chooses it: the host's, or the one given."""
    return os.environ.get("RELU_BENCH_MACHINE") or platform.node()


def append(case: Case, outcome: Outcome, commit: str) -> None:
    """Add a line to the record of a commit on this machine.

    Samples are left out: asv keeps them.
    """
    record = {
        "schema": SCHEMA,
        "time_s": time.time(),
        "machine": machine(),
        "commit": commit,
        "env": os.environ.get("ASV_ENV_NAME", "unknown"),
        **asdict(case),
        **{key: value for key, value in asdict(outcome).items() if key != "samples_s"},
    }
    path = folder() / _safe(machine()) / f"{_safe(commit[:8])}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, allow_nan=False) + "\n"
    # One write to a file opened for appending: lines of concurrent writers do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of one file, oldest first."""
    with path.open("rb") as lines:
        yield from (record for record in map(parse, lines) if record)


def parse(line: bytes) -> dict[str, Any] | None:
    """The record in a line, or None where the line is torn or foreign."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or "unknown"
