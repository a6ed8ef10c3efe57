"""Read asv's results and the harness's records into one tidy table.

asv's results are the source of every number. A record belongs to a number if both have the same digest of samples. If
one of them has no digest, both must have exactly the same value.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from benchmarks.harness.case import AXES, INTEGER_AXES, KINDS, TEXT_AXES, UNITS
from benchmarks.harness.measurement import (
    MEASURED,
    NOT_APPLICABLE,
    SMT_CONTENDED,
    UNKNOWN,
    UNSTABLE,
    Process,
)
from benchmarks.harness.processes import records
from benchmarks.harness.processes.records import Record
from impls.cnn import PHASES
from scripts.report import asv_files

# Records from after the year 6000 are damaged.
LATEST_S = 2**37


@dataclass(frozen=True)
class Run:
    """One commit measured in one environment on one machine, whose name others may share: hence its fingerprint."""

    machine: str
    fingerprint: str
    commit: str
    env: str

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of this run, and those without a number, which have no fingerprint."""
        same = (table["machine"] == self.machine) & (table["commit"] == self.commit) & (table["env"] == self.env)
        return table[same & ((table["fingerprint"] == self.fingerprint) | table["value"].isna())]


# The columns that tell runs apart: a key of every metric.
RUN = [item.name for item in fields(Run)]
# The columns that tell numbers apart before their machine is known.
KEY = ["machine", "commit", "env", *AXES]
# date: of the commit. measured: when the number was recorded, or, without a record, when asv started the benchmark.
# low, high: asv's 99 % interval. processes: those that count. preempted: samples of theirs with a context switch or
# stolen time. smt_contended: samples that do not count. probe_s: the slowest process's fastest probe. empty_call_s: the
# largest. device_s: device time, where `value` is host latency. throttled: samples while a GPU was throttled.
COLUMNS = [
    *RUN, "date", "measured", *AXES,
    "value", "low", "high", "q25", "q75", "number", "samples", "status", "reason",
    "processes", "preempted", "smt_contended", "probe_s", "empty_call_s", "device_s", "throttled",
]  # fmt: skip
RELU_SHARE = ["relu_percent_low", "relu_percent_high"]
# Further columns of training steps: seconds of phases, and the interval of the percentage that ReLUs take.
STEP_COLUMNS = [*(f"{phase}_s" for phase in PHASES), *RELU_SHARE]
DATES = ["date", "measured"]
# All other columns are numbers.
TEXTS = [*RUN, *TEXT_AXES, "status", "reason"]
TYPES = {
    **{name: "float64" for name in [*COLUMNS, *STEP_COLUMNS] if name not in TEXTS},
    **dict.fromkeys(DATES, "datetime64[ms, UTC]"),
    **dict.fromkeys(INTEGER_AXES, "int64"),
}


class NoResults(Exception):
    """There is nothing to report; the message names the folder that was read and what to do."""


@dataclass
class Results:
    """All results, from every machine and commit.

    table: a row for each number, failure or skip, with COLUMNS and STEP_COLUMNS. records: the newest last.
    machines: asv's description of each machine, by name. problems: a line for each file that could not be read.
    """

    table: pd.DataFrame
    records: list[Record]
    machines: dict[str, dict[str, Any]]
    problems: list[str] = field(default_factory=list)


def load(results_folder: Path, outcomes_folder: Path) -> Results:
    """Read the results of asv and the records of the harness.

    Raises NoResults where there is no number at all, not even a failed one.
    """
    problems: list[str] = []
    rows: list[dict[str, Any]] = []
    machines: dict[str, dict[str, Any]] = {}
    for path in sorted(results_folder.glob("*/*.json")):
        content = asv_files.read(path, problems)
        if content is None:
            continue
        if path.name == "machine.json":
            machines[path.parent.name] = content
            continue
        try:
            rows += list(asv_files.rows(path, content))
        except asv_files.DAMAGE as error:
            problems.append(f"{path}: not a result of asv as known here ({type(error).__name__}: {error})")
    # Records cannot name an environment that asv did not make; results can.
    unnamed = {(row["machine"], row["commit"]): row["env"] for row in rows if row["env"].startswith("existing-")}
    all_records = _records(outcomes_folder, problems)
    if not rows and not all_records:
        looked = "; ".join(problems) or f"no result files in {results_folder}"
        raise NoResults(f"nothing to report: {looked}. Measure first: ./scripts/bench")
    return Results(_joined(rows, all_records, unnamed), all_records, machines, problems)


def columns(kind: str) -> list[str]:
    """COLUMNS for cases of one kind: without `kind` and the axes of the others."""
    own = {item.name for item in fields(KINDS[kind])}
    return [name for name in COLUMNS if name not in AXES or name in own]


def tidy(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A table with COLUMNS and STEP_COLUMNS in their types."""
    return pd.DataFrame(list(rows), columns=[*COLUMNS, *STEP_COLUMNS]).astype(TYPES)


def _records(folder: Path, problems: list[str]) -> list[Record]:
    """All records, the newest last."""
    all_records: list[Record] = []
    for path in sorted(folder.glob("*/*.jsonl")):
        try:
            all_records += filter(_is_possible, records.read(path))
        except asv_files.DAMAGE as error:
            problems.append(f"{path}: {error}")
    return sorted(all_records, key=lambda record: record.time_s)


def _is_possible(record: Record) -> bool:
    try:
        asv_files.sized(record.case)
    except asv_files.DAMAGE:
        return False
    return 0 < record.time_s < LATEST_S


def _joined(rows: list[dict[str, Any]], all_records: list[Record], unnamed: dict[tuple[str, str], str]) -> pd.DataFrame:
    """Return the table: numbers and failures, joined with their records, and skipped cases.

    unnamed: by machine and commit, the environments that records cannot name.
    """
    by_key: dict[tuple[Any, ...], list[tuple[Record, dict[str, Any]]]] = {}
    for record in all_records:
        env = unnamed.get((record.machine, record.commit), UNKNOWN) if record.env == UNKNOWN else record.env
        key = {"machine": record.machine, "commit": record.commit, "env": env, **record.case}
        by_key.setdefault(tuple(key[name] for name in KEY), []).append((record, key))
    matched = [
        {**row, **_recorded(row, [record for record, _ in by_key.get(tuple(row[name] for name in KEY), [])])}
        for row in rows
    ]
    known = {tuple(row[name] for name in KEY) for row in rows}
    dates = {row["commit"]: row["date"] for row in rows}
    # asv stores nothing of a skipped case.
    skipped = [
        {
            **newest_key,
            "fingerprint": newest.fingerprint,
            "status": newest.measurement.status,
            "reason": newest.measurement.reason,
            "date": dates.get(newest.commit),
        }
        for key, (*_, (newest, newest_key)) in by_key.items()
        if newest.measurement.status not in MEASURED and key not in known
    ]
    return _with_contended_cores(tidy([*matched, *skipped]))


def _with_contended_cores(table: pd.DataFrame) -> pd.DataFrame:
    """Mark times as unstable whose core was slower, all the time, than the core of others in the same run."""
    fastest_s = table.groupby(RUN)["probe_s"].transform("min")
    slow = (table["status"] == "ok") & (table["probe_s"] > SMT_CONTENDED * fastest_s)
    table.loc[slow, ["status", "reason"]] = ["unstable", "the core was slower all the time than for other numbers"]
    return table


def _recorded(row: dict[str, Any], same_case: list[Record]) -> dict[str, Any]:
    """Return the columns that the records of a case, the newest last, add to its row."""
    newest = same_case[-1].measurement if same_case else None
    if row["status"] == "failed":
        if newest is None:
            return {"status": "failed", "reason": "no record of the reason"}
        lost = {"status": "failed", "reason": "asv lost the result"}
        return lost if newest.status in MEASURED else {"status": newest.status, "reason": newest.reason}
    if newest and newest.status not in (*MEASURED, *NOT_APPLICABLE):
        # The case has failed since asv stored its number.
        return {"value": None, "status": newest.status, "reason": newest.reason}
    # A run that was killed leaves records of numbers that asv never stored.
    own = [record for record in same_case if _belongs(record, row)]
    if not own:
        return _without_record(row)
    record = own[-1]
    return {
        "fingerprint": record.fingerprint,
        "status": record.measurement.status,
        "reason": record.measurement.reason,
        "measured": asv_files.date(1000 * record.time_s),
        **_circumstances(record.measurement.processes),
    }


def _belongs(record: Record, row: dict[str, Any]) -> bool:
    """Return whether a record belongs to the number that asv stored."""
    if record.samples_digest and row["samples_digest"]:
        return record.samples_digest == row["samples_digest"]
    return record.measurement.value == row["value"]


def _without_record(row: dict[str, Any]) -> dict[str, Any]:
    """Judge a number without a record by asv's own quartiles."""
    low, high = row["q25"], row["q75"]
    if low is None or high is None or UNITS[row["quantity"]] != "seconds":
        return {}
    if high - low > UNSTABLE * row["value"]:
        reason = f"quartiles lie at {low:.3g} and {high:.3g} s; no other record"
        return {"status": "unstable", "reason": reason}
    return {}


def _circumstances(processes: list[Process]) -> dict[str, Any]:
    """Circumstances of a sampled time: of the processes that count; samples set aside and empty calls of all."""
    if not any(process.sampling for process in processes):
        return {}
    counted = [process for process in processes if process.counted]
    samplings = [process.sampling for process in counted if process.sampling]
    every = [process.sampling for process in processes if process.sampling]
    steps = [process.step for process in counted if process.step]
    intervals = [step.relu_percent for step in steps if step.relu_percent]
    return {
        "processes": len(counted),
        "preempted": sum(len(sampling.preempted) for sampling in samplings),
        "smt_contended": sum(len(sampling.smt_contended_s) for sampling in every),
        "probe_s": _reduced(max, (process.probe_s for process in counted)),
        "empty_call_s": _reduced(max, (sampling.empty_call_s for sampling in every)),
        "device_s": _reduced(median, (process.device.device_s for process in counted if process.device)),
        "throttled": sum(len(sampling.throttled) for sampling in samplings),
        **{name: _reduced(median, (interval[end] for interval in intervals)) for end, name in enumerate(RELU_SHARE)},
        **{f"{phase}_s": _reduced(median, (step.phases_s.get(phase) for step in steps)) for phase in PHASES},
    }


def _reduced(reduce: Any, values: Iterable[float | None]) -> float:
    """The maximum or median of the values that are numbers; NaN of none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(reduce(known)) if known else math.nan
