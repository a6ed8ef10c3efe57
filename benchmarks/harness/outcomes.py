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
from statistics import median
from typing import Any, Literal

from benchmarks.harness.case import Case
from benchmarks.harness.provenance import AT_END

SCHEMA = 1

Status = Literal["ok", "wrong", "skipped", "timeout", "crashed", "error"]
# asv's terms: these are n/a, all others but "ok" are failures.
NOT_APPLICABLE = ("skipped",)


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    reason: one line for people, empty where all went well. value: bytes, or seconds (the
    median). samples_s, number: as asv wants them. details: circumstances, for the record.
    output_tail: the end of what the process printed.
    """

    status: Status
    reason: str = ""
    value: float | None = None
    samples_s: list[float] | None = None
    number: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    output_tail: str = ""


def pooled(parts: Sequence[Outcome]) -> Outcome:
    """One outcome of a case that several processes measured: all their samples, or the first failure."""
    failures = [part for part in parts if part.status != "ok"]
    if failures or len(parts) == 1:
        return (failures or parts)[0]
    samples_s = [sample for part in parts for sample in part.samples_s or ()]
    circumstances = [{"median_s": part.value, "number": part.number, **part.details} for part in parts]
    first, *_, last = [one.pop("provenance") for one in circumstances]
    end = {name: fact for name, fact in last.items() if name.endswith(AT_END)}
    return Outcome(
        "ok",
        value=median(samples_s),
        samples_s=samples_s,
        number=min(part.number or 1 for part in parts),
        details={"processes": circumstances, "provenance": {**first, **end}},
    )


def folder() -> Path:
    """Where outcomes are kept: .asv/outcomes below the folder of asv.conf.json."""
    root = os.environ.get("ASV_CONF_DIR") or Path(__file__).parents[2]
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
