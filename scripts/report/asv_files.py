"""Read the files that asv keeps below its results folder: the numbers of one commit in one environment.

For each machine, asv keeps machine.json and one result file for each commit and environment. A result file holds, for
each benchmark, flat lists over the product of its parameters, the last one fastest: null is a failure, NaN was skipped
or not selected. Source: asv, docs/source/dev.rst, api version 2. Profiles inside result files are never opened: they
are marshalled code.
"""

import itertools
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.harness.case import INTEGER_AXES, SIZES, UNITS, to_axes
from benchmarks.harness.measurement import UNKNOWN, digest_of
from benchmarks.harness.series import METHOD, SERIES, Series

RESULT_VERSION = 2
# A larger file is no result of ours, and would take all memory.
LARGEST_BYTES = 256 * 2**20
MOST_CASES = 100_000
LARGEST_SIZE = 2**48
# Exceptions that foreign and damaged content may raise.
DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)


def read(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """Read a JSON object; None, and a line in `problems`, if the file holds none."""
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


def rows(path: Path, content: dict[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    """The numbers and failures of a result file as rows, with the digest of their samples and `counted`, their number.

    Benchmarks that measured in another way than today's, by their versions, are left out, with a line in `problems`;
    so is a file without numbers.
    Raises one of DAMAGE if the file is no result file of asv.
    """
    if content.get("version") != RESULT_VERSION:
        raise ValueError(f"version {content.get('version')!r}, {RESULT_VERSION} needed")
    run = {
        "machine": path.parent.name,
        "fingerprint": UNKNOWN,
        "commit": str(content["commit_hash"]),
        "env": str(content["env_name"]),
        "date": date(content["date"]),
    }
    stored = {
        name: dict(zip(content["result_columns"], row, strict=False))
        for name, row in content["results"].items()
        if name in SERIES and row is not None
    }
    other = [name for name, columns in stored.items() if columns.get("version") != version(SERIES[name])]
    found = [
        row for name, columns in stored.items() if name not in other for row in _series_rows(SERIES[name], columns, run)
    ]
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        problems.append(f"{path}: numbers of {other[0]}{more}, of another version of the benchmark than today's")
    elif not found:
        problems.append(f"{path}: no numbers of today's benchmarks")
    return found


def version(series: Series) -> str:
    """The version of a benchmark, as asv stores it with the numbers: of the method, else of the class."""
    method = getattr(series.benchmark, METHOD + series.quantity)
    return str(getattr(method, "version", series.benchmark.version))


def _series_rows(series: Series, columns: dict[str, Any], run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if math.prod(map(len, columns["params"])) > MOST_CASES:
        raise ValueError(f"{series.name}: more than {MOST_CASES} combinations of parameters")
    combinations = list(itertools.product(*columns["params"]))
    values = columns["result"] or [None] * len(combinations)
    started = date(columns["started_at"]) if columns.get("started_at") else run["date"]
    for position, (value, parameters) in enumerate(zip(values, combinations, strict=True)):
        if isinstance(value, float) and math.isnan(value):
            continue
        case = series.case(parameters)
        number = _finite(value)
        possible = number is not None and (number > 0 or (number == 0 and UNITS[case.quantity] == "bytes"))
        yield {
            **run,
            "measured": started,
            **sized(to_axes(case)),
            "value": number if possible else None,
            "q25": _number_at(columns, "stats_q_25", position),
            "q75": _number_at(columns, "stats_q_75", position),
            "number": _number_at(columns, "stats_number", position),
            "counted": _number_at(columns, "stats_repeat", position),
            "samples_digest": _digest(_at(columns, "samples", position)),
            "status": "ok" if possible else "failed",
            "reason": "",
        }


def sized(axes: dict[str, Any]) -> dict[str, Any]:
    """Return the axes. Raises ValueError if a size is impossible, or there is none."""
    for name in SIZES:
        if name in INTEGER_AXES and not 0 <= axes[name] <= LARGEST_SIZE:
            raise ValueError(f"{axes[name]} {name}")
    if not any(axes[name] for name in SIZES if name in INTEGER_AXES):
        raise ValueError("no size")
    return axes


def date(milliseconds: float) -> pd.Timestamp:
    """Convert milliseconds since 1970 to a date."""
    return pd.Timestamp(datetime.fromtimestamp(int(milliseconds) // 1000, UTC))


def _at(columns: dict[str, Any], name: str, position: int) -> Any:
    values = columns.get(name)
    return values[position] if values else None


def _number_at(columns: dict[str, Any], name: str, position: int) -> float | None:
    return _finite(_at(columns, name, position))


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _digest(samples_s: Any) -> str:
    return digest_of(samples_s) if isinstance(samples_s, list) and samples_s else ""
