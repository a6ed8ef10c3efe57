"""Read asv's results into one tidy table.

asv keeps, below its results folder, benchmarks.json (what each benchmark is) and, for each machine,
machine.json and one file for each commit and environment. A result file holds, for each benchmark,
flat lists over the product of its parameters, the last one fastest: null is a failure, NaN was
skipped or not asked for. (asv, docs/source/dev.rst; api version 2.) Files that cannot be read are
passed over and named. Profiles inside result files are never opened: they are marshalled code.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from benchmarks.harness.case import UNITS
from benchmarks.harness.machine.provenance import UNKNOWN
from benchmarks.harness.processes import outcomes
from benchmarks.harness.timing.contention import SHARED
from impls.cnn import PHASES
from scripts.run.profiles import PARAMETERS, QUANTITY_AND_OP

RESULT_VERSION = 2
# More than this is no result of ours, and would take all memory.
LARGEST_BYTES = 256 * 2**20
MOST_CASES = 100_000
MOST_ELEMENTS = 2**48
LATEST_S = 2**37
# What foreign and damaged content may raise.
DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)
# machine: its name. fingerprint: which machine it was, of those that share the name. date: of the commit.
# measured: when the number was recorded, or, where no record has it, when asv started the benchmark.
# processes: how many a time is of. disturbed: how many of its samples were. shared: how many others do not count,
# as the core was shared meanwhile; core_s: the fastest loop that tells it (timing/contention.py). device_s: what
# a GPU takes by its own events, where `value` is what a user waits. slowed: samples while something slowed it.
COLUMNS = [
    "machine", "fingerprint", "commit", "date", "measured", "env", "quantity", "op", "variant", "elements", "dtype",
    "threads",
    "value", "low", "high", "q25", "q75", "number", "samples", "status", "reason",
    "processes", "disturbed", "shared", "core_s", "empty_call_s", "device_s", "slowed",
]  # fmt: skip
# What the table has of training steps besides: seconds of phases, and the interval of the percentage of a step that
# its ReLUs take.
RELU_SHARE = ["relu_percent_low", "relu_percent_high"]
STEP_COLUMNS = [*(f"{phase}_s" for phase in PHASES), *RELU_SHARE]
# What makes rows those of one run on one machine.
RUN = ["machine", "fingerprint", "commit", "env"]
# What makes a row one number.
KEY = ["machine", "commit", "env", "quantity", "op", "variant", "elements", "dtype", "threads"]
TYPES = {
    **dict.fromkeys(["value", "low", "high", "q25", "q75", "number", "samples"], "float64"),
    **dict.fromkeys(["processes", "disturbed", "shared", "core_s", "empty_call_s", *STEP_COLUMNS], "float64"),
    **dict.fromkeys(["device_s", "slowed"], "float64"),
    **dict.fromkeys(["date", "measured"], "datetime64[ms, UTC]"),
    **dict.fromkeys(["elements", "threads"], "int64"),
}
RECORD_TYPES = {
    **dict.fromkeys([*KEY, "status", "reason"], str),
    **dict.fromkeys(["elements", "threads"], int),
    "time_s": float,
}


class NoResults(Exception):
    """There is nothing to report; the message says where was looked and what to do."""


@dataclass
class Results:
    """Everything found: the table, the records of outcomes, asv's machine descriptions, and what could not be read.

    table: a row for each number, failure or skip, with COLUMNS and STEP_COLUMNS. outcomes: the records, by KEY, the
    newest last. problems: a line for each file passed over.
    """

    table: pd.DataFrame
    outcomes: pd.DataFrame
    machines: dict[str, dict[str, Any]]
    problems: list[str] = field(default_factory=list)


def load(results_folder: Path, outcomes_folder: Path) -> Results:
    """Read all that asv and the harness wrote.

    Raises NoResults where there is no number at all, not even a failed one.
    """
    problems: list[str] = []
    rows: list[dict[str, Any]] = []
    machines: dict[str, dict[str, Any]] = {}
    for path in sorted(results_folder.glob("*/*.json")):
        content = _read(path, problems)
        if content is None:
            continue
        if path.name == "machine.json":
            machines[path.parent.name] = content
            continue
        try:
            rows += list(_rows(path, content))
        except DAMAGE as error:
            problems.append(f"{path}: not a result of asv as known here ({type(error).__name__}: {error})")
    # The name of an environment that asv did not make is in its results alone.
    unnamed = {(row["machine"], row["commit"]): row["env"] for row in rows if row["env"].startswith("existing-")}
    records = _outcomes(outcomes_folder, unnamed, problems)
    if not rows and records.empty:
        looked = "; ".join(problems) or f"no result files in {results_folder}"
        raise NoResults(f"nothing to report: {looked}. Measure first: ./scripts/bench")
    return Results(_with_outcomes(_table(rows), records), records, machines, problems)


def _read(path: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"larger than {LARGEST_BYTES} bytes")
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path}: {error}")
        return None
    return content


def _table(rows: list[dict[Any, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*COLUMNS, *STEP_COLUMNS]).astype(TYPES)


def _rows(path: Path, content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if content.get("version") != RESULT_VERSION:
        raise ValueError(f"version {content.get('version')!r}, {RESULT_VERSION} needed")
    shared = {
        "machine": path.parent.name,
        "fingerprint": UNKNOWN,
        "commit": str(content["commit_hash"]),
        "date": _date(content["date"]),
        "env": str(content["env_name"]),
    }
    for name, row in content["results"].items():
        if name in QUANTITY_AND_OP and row is not None:
            yield from _benchmark_rows(name, dict(zip(content["result_columns"], row, strict=False)), shared)


def _benchmark_rows(name: str, columns: dict[str, Any], shared: dict[str, Any]) -> Iterator[dict[str, Any]]:
    quantity, op = QUANTITY_AND_OP[name]
    if math.prod(map(len, columns["params"])) > MOST_CASES:
        raise ValueError(f"{name}: more than {MOST_CASES} combinations of parameters")
    combinations = list(itertools.product(*columns["params"]))
    values = columns["result"] or [None] * len(combinations)
    started = _date(columns["started_at"]) if columns.get("started_at") else shared["date"]
    for position, (value, parameters) in enumerate(zip(values, combinations, strict=True)):
        if isinstance(value, float) and math.isnan(value):
            continue
        number = _finite(value)
        possible = number is not None and (number > 0 or (number == 0 and UNITS[quantity] == "bytes"))
        case = dict(zip(PARAMETERS[name], parameters, strict=True))
        yield {
            **shared,
            "measured": started,
            "quantity": quantity,
            "op": op,
            "variant": case["variant"].strip("'"),
            "elements": _elements(case["elements"]),
            "dtype": case.get("dtype", "float32").strip("'"),
            "threads": int(case.get("threads", 0)),
            "value": number if possible else None,
            "low": _low(_at(columns, "stats_ci_99_a", position), quantity),
            "high": _at(columns, "stats_ci_99_b", position),
            "q25": _at(columns, "stats_q_25", position),
            "q75": _at(columns, "stats_q_75", position),
            "number": _at(columns, "stats_number", position),
            "samples": _at(columns, "stats_repeat", position),
            "status": "ok" if possible else "failed",
            "reason": "",
        }


def _date(milliseconds: float) -> pd.Timestamp:
    return pd.Timestamp(datetime.fromtimestamp(int(milliseconds) // 1000, UTC))


def _elements(text: str) -> int:
    if not 0 < int(text) <= MOST_ELEMENTS:
        raise ValueError(f"{text} elements")
    return int(text)


def _low(low: float | None, quantity: str) -> float | None:
    """The lower end of an interval; an interval of asv that reaches below 0 s tells nothing of a time."""
    return None if low is not None and low <= 0 and UNITS[quantity] == "seconds" else low


def _at(columns: dict[str, Any], name: str, position: int) -> float | None:
    values = columns.get(name)
    return _finite(values[position]) if values else None


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _outcomes(folder: Path, unnamed: dict[tuple[str, str], str], problems: list[str]) -> pd.DataFrame:
    """All records, the newest last. unnamed: environments that they cannot name, by machine and commit."""
    records: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*/*.jsonl")):
        try:
            records += filter(_is_whole, outcomes.read(path))
        except DAMAGE as error:
            problems.append(f"{path}: {error}")
    for record in records:
        if record["env"] == UNKNOWN:
            record["env"] = unnamed.get((record["machine"], record["commit"]), UNKNOWN)
        record["fingerprint"] = str(facts(record).get("fingerprint", UNKNOWN))
    columns = [*KEY, "fingerprint", "time_s", "value", "status", "reason", "details", "output_tail"]
    return pd.DataFrame(records, columns=columns).sort_values("time_s", kind="stable").reset_index(drop=True)


def facts(record: dict[Any, Any]) -> dict[str, Any]:
    """What a record holds of the machine; empty where it holds nothing."""
    details = record.get("details")
    found = details.get("provenance") if isinstance(details, dict) else None
    return found if isinstance(found, dict) else {}


def _is_whole(record: dict[str, Any]) -> bool:
    typed = all(isinstance(record.get(name), kind) for name, kind in RECORD_TYPES.items())
    return typed and 0 < record["elements"] <= MOST_ELEMENTS and 0 < record["time_s"] < LATEST_S


def _with_outcomes(table: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """The table with what records add: which machine it was, why a case failed, and rows for what was skipped."""
    by_key: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for record in records.to_dict("records"):
        by_key.setdefault(tuple(record[k] for k in KEY), []).append(record)
    rows = [{**row, **_recorded(row, by_key.get(tuple(row[k] for k in KEY), []))} for row in table.to_dict("records")]
    known = {tuple(row[k] for k in KEY) for row in rows}
    dates = dict(zip(table["commit"], table["date"], strict=True))
    # asv stores nothing of what was skipped.
    skipped = [
        {**{k: newest[k] for k in [*KEY, "fingerprint", "status", "reason"]}, "date": dates.get(newest["commit"])}
        for key, (*_, newest) in by_key.items()
        if newest["status"] not in outcomes.MEASURED and key not in known
    ]
    return _with_shared_cores(_table([*rows, *skipped]))


def _with_shared_cores(table: pd.DataFrame) -> pd.DataFrame:
    """The table where times are unstable whose core was slower, all the time, than that of others in the same run."""
    fastest_s = table.groupby(RUN)["core_s"].transform("min")
    slow = (table["status"] == "ok") & (table["core_s"] > SHARED * fastest_s)
    table.loc[slow, ["status", "reason"]] = ["unstable", "the core was slower all the time than for other numbers"]
    return table


def _recorded(row: dict[Any, Any], records: list[dict[Any, Any]]) -> dict[str, Any]:
    """What the records of a case, the newest last, tell of its row."""
    if row["status"] == "failed":
        newest = records[-1] if records else {"status": "failed", "reason": "no record of the reason"}
        lost = {"status": "failed", "reason": "asv lost the result"}
        return lost if newest["status"] in outcomes.MEASURED else {k: newest[k] for k in ("status", "reason")}
    if records and records[-1]["status"] not in (*outcomes.MEASURED, *outcomes.NOT_APPLICABLE):
        # It had a number once, and has failed since.
        return {"value": None, **{k: records[-1][k] for k in ("status", "reason")}}
    # A run that was killed leaves records of numbers that asv never stored.
    same = [record for record in records if _close(record["value"], row["value"])]
    if not same:
        return _without_record(row)
    told = {k: same[-1][k] for k in ("fingerprint", "status", "reason")}
    return {**told, "measured": _date(1000 * same[-1]["time_s"]), **_circumstances(same[-1]["details"])}


def _without_record(row: dict[Any, Any]) -> dict[str, Any]:
    """What asv's own quartiles tell of a number whose record is lost."""
    spread = (row["q75"] or 0) - (row["q25"] or 0)
    if UNITS[row["quantity"]] == "seconds" and spread > outcomes.UNSTABLE * row["value"]:
        reason = f"quartiles lie at {row['q25']:.3g} and {row['q75']:.3g} s; no other record"
        return {"status": "unstable", "reason": reason}
    return {}


def _circumstances(details: Any) -> dict[str, Any]:
    """Of all processes: how many count, what became of their samples, and the largest time of an empty call."""
    processes = details.get("processes") if isinstance(details, dict) else None
    if not isinstance(processes, list) or not all(isinstance(process, dict) for process in processes):
        return {}
    empty = [_finite(process.get("empty_call_s")) or math.nan for process in processes]
    counted = [process for process in processes if process.get("counted", True)]
    core_s = [outcomes.core_s(process) or math.nan for process in counted]
    return {
        "processes": len(counted),
        "disturbed": _total(process.get("disturbed") for process in counted),
        "shared": _total(process.get("shared_s") for process in processes),
        "core_s": max(core_s, default=math.nan),
        "empty_call_s": max(empty, default=math.nan),
        "device_s": _middle(process.get("device_s") for process in counted),
        "slowed": _total(process.get("slowed") for process in counted),
        **{name: _middle(_end(process, end) for process in counted) for end, name in enumerate(RELU_SHARE)},
        **{f"{phase}_s": _middle(_phase_s(process, phase) for process in counted) for phase in PHASES},
    }


def _phase_s(process: dict[str, Any], phase: str) -> Any:
    phases = process.get("phases_s")
    return phases.get(phase) if isinstance(phases, dict) else None


def _end(process: dict[str, Any], end: int) -> Any:
    interval = process.get("relu_percent")
    return interval[end] if isinstance(interval, list) and len(interval) == len(RELU_SHARE) else None


def _middle(values: Iterable[Any]) -> float:
    """The median of those that are numbers."""
    known = [number for value in values if (number := _finite(value)) is not None]
    return median(known) if known else math.nan


def _total(lists: Iterable[Any]) -> int:
    return sum(len(one) for one in lists if isinstance(one, list))


def _close(recorded: Any, stored: float) -> bool:
    number = _finite(recorded)
    return number is not None and math.isclose(number, stored)
