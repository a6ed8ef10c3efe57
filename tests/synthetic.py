"""Make result files in asv's format and the harness's records, for cases that are rare in real runs."""

import copy
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import series
from benchmarks.harness.case import Case, LoopCase, OperatorCase, to_axes
from benchmarks.harness.measurement import SCHEMA, Measurement, Process, Ratio, Slice
from benchmarks.harness.processes.records import Record
from benchmarks.harness.series import SERIES
from scripts.report import asv_files

COMMIT, LATER_COMMIT = "a" * 40, "b" * 40
ENV = "virtualenv-py3.11"
DATE_MS, DAY_MS = 1_700_000_000_000, 86_400_000
RESULT_COLUMNS = [
    "result", "params", "version", "started_at", "duration", "stats_ci_99_a", "stats_ci_99_b",
    "stats_q_25", "stats_q_75", "stats_number", "stats_repeat", "samples", "profile",
]  # fmt: skip


def time(direction: str, variant: str, elements: int = 2**20, dtype: str = "float32") -> OperatorCase:
    """Return the case of the time of a ReLU row."""
    return OperatorCase("time", "relu", direction, variant, elements, dtype)


def roof(kernel: str, array_bytes: int = 2**22) -> LoopCase:
    """Return the case of the time of a streaming loop."""
    return LoopCase("time", kernel, array_bytes)


def content(
    numbers: Mapping[Case, float | None],
    commit: str = COMMIT,
    env: str = ENV,
    date_ms: int = DATE_MS,
    started_ms: int = DATE_MS + DAY_MS,
) -> dict[str, Any]:
    """Return a result file with these numbers. None means that a case failed; other cases were not requested."""
    benchmarks: dict[str, dict[str, float | None]] = defaultdict(dict)
    for case, number in numbers.items():
        benchmarks[series.of(case).name][series.of(case).parameters(case)] = number
    return {
        "commit_hash": commit,
        "env_name": env,
        "date": date_ms,
        "params": {"machine": "box"},
        "python": "3.11",
        "requirements": {},
        "env_vars": {},
        "result_columns": RESULT_COLUMNS,
        "results": {
            name: benchmark(parameters(name), case_numbers, started_ms, asv_files.version(SERIES[name]))
            for name, case_numbers in benchmarks.items()
        },
        "durations": {},
        "version": 2,
    }


def benchmark(
    params: Sequence[Iterable[Any]], numbers: Mapping[str, float | None], started_ms: int, version: str
) -> list[Any]:
    """Return one benchmark of a result file. numbers: keyed by the parameters as asv writes them."""
    written = [[repr(value) for value in axis] for axis in params]
    result = [numbers.get(", ".join(combination), math.nan) for combination in itertools.product(*written)]

    def statistic(of: float, add: float = 0) -> list[float | None]:
        return [None if number is None or math.isnan(number) else number * of + add for number in result]

    statistics = (statistic(0.9), statistic(1.2), statistic(0.98), statistic(1.06), statistic(0, 7), statistic(0, 30))
    return [result, written, version, started_ms, 1.5, *statistics]


def parameters(name: str) -> Sequence[Iterable[Any]]:
    """Return the parameters of a benchmark, by asv's name."""
    return SERIES[name].benchmark.params


def write(results: Path, stored: Any, machine: str = "box", name: str | None = None) -> Path:
    """Write a result file, or anything else, below asv's results folder."""
    return _write(
        results / machine / (name or f"{stored['commit_hash'][:8]}-{stored['env_name']}.json"), json.dumps(stored)
    )


def process(rounds: int = 15, samples: int = 8, probes_s: Sequence[float | None] = (None,), **others: Any) -> Process:
    """Return a process that timed a case in so many rounds, with so many samples in each.

    probes_s: of the rounds, in turn. others: further fields of a `Process`, or of the `Slice` of the first round.
    """
    of_first = {name: others.pop(name) for name in Slice.__dataclass_fields__ if name in others}
    slices = [Slice(number, [1e-3] * samples, probe_s=probes_s[number % len(probes_s)]) for number in range(rounds)]
    return Process(number=7, slices=[replace(slices[0], **of_first), *slices[1:]], **others)


def ratio(value: float, to: str, spread: float = 0.01) -> Ratio:
    """Return a paired ratio with an interval of so much to each side."""
    return Ratio(value, value - spread, value + spread, to)


def record(
    case: Case,
    status: Any = "ok",
    reason: str = "",
    value: float | None = None,
    processes: Sequence[Process] = (),
    provenance: Mapping[str, Any] | None = None,
    interval: tuple[float, float] | None = None,
    ratios: Mapping[str, Ratio] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Return a record as JSON. others: further fields of a `Record`."""
    measurement = Measurement(
        status,
        reason,
        value=value,
        interval=interval,
        processes=list(processes),
        ratios=dict(ratios or {}),
        provenance=dict(provenance or {}),
    )
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "time_s": 1.0,
        "machine": "box",
        "commit": COMMIT,
        "env": ENV,
        "case": to_axes(case),
        "measurement": measurement,
        **others,
    }
    return json.loads(json.dumps(asdict(Record(**fields))))


def changed(line: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the record with another value at a path such as "case.elements"."""
    line = copy.deepcopy(line)
    *parents, last = path.split(".")
    part = line
    for name in parents:
        part = part[name]
    part[last] = value
    return line


def write_records(folder: Path, records: Iterable[Any], name: str = "box/aaaaaaaa.jsonl") -> Path:
    return _write(folder / name, "".join(json.dumps(line) + "\n" for line in records))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
