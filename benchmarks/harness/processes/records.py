"""The record of every measured case: one JSON line each, appended to .asv/outcomes/MACHINE/COMMIT.jsonl.

asv's results hold the numbers; records say why there is none, and under which circumstances a number was measured.
A reader skips a line that is torn, as a killed writer may leave one, and a record of another schema.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from benchmarks.harness.case import Case, from_axes, to_axes
from benchmarks.harness.measurement import SCHEMA, UNKNOWN, Measurement


@dataclass(frozen=True)
class Record:
    """One line: a measurement of a case, without its samples, which asv keeps.

    time_s: when it was written, in seconds since 1970. machine, commit, env: as asv names them.
    case: values of `case.AXES`. samples_digest: of the samples that asv was given; empty where there were none.
    """

    schema: int
    time_s: float
    machine: str
    commit: str
    env: str
    case: dict[str, str | int]
    measurement: Measurement
    samples_digest: str = ""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the machine that measured it."""
        return str(self.measurement.provenance.get("fingerprint", UNKNOWN))


def folder() -> Path:
    """Return the folder of the records: .asv/outcomes below the folder of asv.conf.json."""
    root = os.environ.get("ASV_CONF_DIR") or Path(__file__).parents[3]
    return Path(os.environ.get("RELU_BENCH_OUTCOMES", Path(root) / ".asv" / "outcomes"))


def machine() -> str:
    """The name that results are kept under, as asv chooses it: the host's, or the one given."""
    return os.environ.get("RELU_BENCH_MACHINE") or platform.node()


def append(case: Case, measurement: Measurement, commit: str) -> None:
    """Add a line to the record of a commit on this machine."""
    record = Record(
        schema=SCHEMA,
        time_s=time.time(),
        machine=machine(),
        commit=commit,
        env=os.environ.get("ASV_ENV_NAME", UNKNOWN),
        case=to_axes(case),
        measurement=measurement,
        samples_digest=measurement.samples_digest,
    )
    content = asdict(record)
    content["measurement"]["samples_s"] = None
    path = folder() / _safe(machine()) / f"{_safe(commit[:8])}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A reason may quote a name of a file that is no Unicode.
    line = (json.dumps(content, allow_nan=False, ensure_ascii=False) + "\n").encode(errors="replace")
    # One write to a file opened for appending: lines of concurrent writers do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def read(path: Path) -> Iterator[Record]:
    """The records of one file, oldest first."""
    with path.open("rb") as lines:
        yield from (record for record in map(parse, lines) if record)


def parse(line: bytes) -> Record | None:
    """The record in a line; None where the line is torn or foreign, or of another schema."""
    try:
        record = msgspec.json.decode(line, type=Record)
        record = replace(record, case=to_axes(from_axes(record.case)))
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
        return None
    return record if record.schema == SCHEMA else None


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or UNKNOWN
