"""Result files as asv writes them, and outcome records, for cases that real runs rarely hold."""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import cnn, relu, roofs
from benchmarks.harness.case import Case
from benchmarks.harness.processes import outcomes
from scripts.run.profiles import BENCHMARK_NAMES, asv_parameters

COMMIT, LATER_COMMIT = "a" * 40, "b" * 40
ENV = "virtualenv-py3.11"
DATE_MS, DAY_MS = 1_700_000_000_000, 86_400_000
RESULT_COLUMNS = [
    "result", "params", "version", "started_at", "duration", "stats_ci_99_a", "stats_ci_99_b",
    "stats_q_25", "stats_q_75", "stats_number", "stats_repeat", "samples", "profile",
]  # fmt: skip


def time(op: str, variant: str, elements: int = 2**20, dtype: str = "float32") -> Case:
    return Case("time", op, variant, elements, dtype)


def roof(kernel: str, array_bytes: int = 2**22) -> Case:
    return Case("time", "roof", kernel, array_bytes, "float32")


def content(
    numbers: Mapping[Case, float | None],
    commit: str = COMMIT,
    env: str = ENV,
    date_ms: int = DATE_MS,
    started_ms: int = DATE_MS + DAY_MS,
) -> dict[str, Any]:
    """Return a result file with these numbers. None means that a case failed; other cases were not asked for."""
    benchmarks: dict[str, dict[str, float | None]] = defaultdict(dict)
    for case, number in numbers.items():
        benchmarks[BENCHMARK_NAMES[case.quantity, case.op]][asv_parameters(case)] = number
    return {
        "commit_hash": commit,
        "env_name": env,
        "date": date_ms,
        "params": {"machine": "box"},
        "python": "3.11",
        "requirements": {},
        "env_vars": {},
        "result_columns": RESULT_COLUMNS,
        "results": {name: benchmark(parameters(name), some, started_ms) for name, some in benchmarks.items()},
        "durations": {},
        "version": 2,
    }


def benchmark(params: Sequence[Iterable[Any]], numbers: Mapping[str, float | None], started_ms: int) -> list[Any]:
    """Return one benchmark of a result file. numbers: keyed by the parameters as asv writes them."""
    written = [[repr(value) for value in axis] for axis in params]
    result = [numbers.get(", ".join(combination), math.nan) for combination in itertools.product(*written)]

    def statistic(of: float, add: float = 0) -> list[float | None]:
        return [None if number is None or math.isnan(number) else number * of + add for number in result]

    statistics = (statistic(0.9), statistic(1.2), statistic(0.98), statistic(1.06), statistic(0, 7), statistic(0, 30))
    return [result, written, "1", started_ms, 1.5, *statistics]


def parameters(name: str) -> Sequence[Iterable[Any]]:
    """Return the parameters of a benchmark, given asv's name for it."""
    module, benchmark, _ = name.split(".")
    return getattr({"cnn": cnn, "relu": relu, "roofs": roofs}[module], benchmark).params


def write(results: Path, stored: Any, machine: str = "box", name: str | None = None) -> Path:
    """Write a result file, or anything else, below asv's results folder."""
    return _write(
        results / machine / (name or f"{stored['commit_hash'][:8]}-{stored['env_name']}.json"), json.dumps(stored)
    )


def record(case: Case, status: str = "ok", reason: str = "", time_s: float = 1.0, **others: Any) -> dict[str, Any]:
    """Return one outcome as the harness records it."""
    return {
        "schema": outcomes.SCHEMA,
        "time_s": time_s,
        "machine": "box",
        "commit": COMMIT,
        "env": ENV,
        **asdict(case),
        "status": status,
        "reason": reason,
        "value": None,
        "number": None,
        "details": {},
        "output_tail": "",
        **others,
    }


def write_outcomes(folder: Path, records: Iterable[Any], name: str = "box/aaaaaaaa.jsonl") -> Path:
    return _write(folder / name, "".join(json.dumps(line) + "\n" for line in records))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
