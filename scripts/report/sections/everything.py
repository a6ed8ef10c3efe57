"""All results of all runs: a table, and the data that the page's script reads to sort, filter and open its rows."""

import base64
import gzip
import json
import re
import shlex
from array import array
from collections.abc import Sequence
from typing import Any

import pandas as pd

from benchmarks.harness import series
from benchmarks.harness.case import UNITS, Case, from_axes
from benchmarks.harness.profiles import PROFILES, VARIABLE
from benchmarks.harness.profiles import cases as of_profile
from impls.catalog import STEPS, VARIANTS
from impls.variant import Row
from scripts.report import sources
from scripts.report.results import PROFILE, ROUNDS
from scripts.report.section import Context, Section, rendered
from scripts.report.text import bytes_text, number_text, ratio_text, row_label, time_text

NAME, TITLE = "everything", "Everything"
# Rounds of a row that the page draws.
MOST_ROUNDS = 60
# Columns by which the page filters, and those by which it sorts as numbers.
FILTERS = ("machine", "commit", "framework", "device", "operator", "memory", "dtype", "size", "quantity", "outcome")
NUMBERS = {
    "size": "size_number", "value": "value", "interval": "value", "fastest": "fastest_ratio", "GB/s": "gb_per_s",
    "% of roof": "percent",
}  # fmt: skip
# Circumstances that an opened row shows, with their names in the table of results.
CIRCUMSTANCES = (
    "measured", "machine", "fingerprint", "commit", "env", "passes", "rounds", "contended", "samples", "preempted",
    "steady", "probe_s", "empty_call_s", "number", "low", "high", "q25", "q75", "bus_gb_per_s", "percent_of_bus",
    "device_s", "throttled",
)  # fmt: skip
# Of these, counts, with the column that has the number of all, and their labels.
COUNTS = {"contended": "rounds", "preempted": "samples"}
LABELS = {"contended": "rounds left out for a busy hyperthread", "preempted": "preempted samples"}
FROM_TIME = ("low", "high", "q25", "q75", "bus_gb_per_s", "percent_of_bus", "device_s")
EMPTY = "–"


def section(context: Context) -> Section:
    """The section of all runs."""
    table = shown(context)
    lines = _lines(table)
    return rendered(
        NAME,
        TITLE,
        heads=list(lines),
        numeric=[head for head in lines if head in NUMBERS],
        lines=list(zip(*lines.values(), strict=True)),
        filters=FILTERS,
        data=packed(_data(context, table)),
    )


def shown(context: Context) -> pd.DataFrame:
    """All rows of the tidy table, in its order, with metrics and facts of the catalog, and texts to filter by."""
    table = context.tidy
    facts: dict[tuple[str, str, str], Row] = {
        **{(row.operator, row.direction, row.name): row for row in VARIANTS},
        **{("", "", row.name): row for row in STEPS},
    }
    rows = [facts.get(key) for key in zip(table["operator"], table["direction"], table["variant"], strict=True)]
    own = {name: [getattr(row, name) if row else "" for row in rows] for name in ("framework", "device", "memory")}
    notes = [note or (row.notes if row else "") for note, row in zip(table["notes"], rows, strict=True)]
    functions = [row.function if row else "" for row in rows]
    return table.assign(
        **own,
        notes=notes,
        function=functions,
        subject=[_subject(row) for row in table.to_dict("records")],
        size=[_size(row) for row in table.to_dict("records")],
        size_number=table[["elements", "batch", "array_bytes", "n"]].max(axis=1),
        percent=table["percent_of_roof"].fillna(table["percent_of_gemm"]),
        outcome=table["status"].mask(table["impossible"], "impossible"),
    )


def packed(data: Any) -> str:
    """Data as compressed JSON in base64: text that no browser interprets."""
    return base64.b64encode(gzip.compress(json.dumps(data, allow_nan=False).encode(), mtime=0)).decode()


def _subject(row: dict[Any, Any]) -> str:
    """The subject of a row: its operator and direction, its network, or its kind of roof."""
    return row_label(row["operator"], row["direction"]) or row["network"] or row["kind"].replace("_", " ")


def _size(row: dict[Any, Any]) -> str:
    if row["elements"]:
        threads = f", {row['threads']} threads" if row["threads"] else ""
        return f"{row['elements']:,}{threads}"
    if row["batch"]:
        return f"batch {row['batch']}"
    return bytes_text(row["array_bytes"]) if row["array_bytes"] else f"n {row['n']:,}"


def _lines(table: pd.DataFrame) -> dict[str, list[str]]:
    """The cells of the table, by column."""
    records = table.to_dict("records")
    one_run = table[["machine", "commit"]].drop_duplicates().shape[0] == 1
    runs = {} if one_run else {"machine": list(table["machine"]), "commit": list(table["commit"].str[:8])}
    return runs | {
        "operator": list(table["subject"]),
        "variant": [row["variant"] or row["kernel"] or row["library"] for row in records],
        "memory": list(table["memory"]),
        "dtype": list(table["dtype"]),
        "size": list(table["size"]),
        "quantity": list(table["quantity"]),
        "value": [_value(row, "value") for row in records],
        "interval": [_interval(row) for row in records],
        "fastest": [EMPTY if row["impossible"] else ratio_text(row, "fastest") for row in records],
        "GB/s": [EMPTY if row["impossible"] else number_text(row["gb_per_s"]) for row in records],
        "% of roof": [number_text(row["percent"], 2) for row in records],
        "outcome": list(table["outcome"]),
    }


def _value(row: dict[Any, Any], name: str) -> str:
    if row["impossible"]:
        return "impossible"
    value = row[name]
    if pd.isna(value):
        return EMPTY
    text = time_text(value) if UNITS.get(row["quantity"]) != "bytes" else f"{value:,.0f} B"
    return f"≈ {text}" if row["status"] == "unstable" else text


def _interval(row: dict[Any, Any]) -> str:
    if row["impossible"] or pd.isna(row["low"]):
        return EMPTY
    return f"{time_text(row['low'])} … {time_text(row['high'])}"


def _data(context: Context, table: pd.DataFrame) -> dict[str, Any]:
    """Data for the script besides the table: columns by name, and the sources of functions."""
    cases = [from_axes(row) for row in table.to_dict("records")]
    # Of an impossible time, nothing that follows from it is shown.
    possible = table.assign(**{name: table[name].where(~table["impossible"]) for name in FROM_TIME})
    own_commit = table["commit"] == context.run.commit
    functions = sorted(set(table.loc[own_commit, "function"]) - {""})
    code = sources.of(context.run.commit, functions)
    position = {function: i for i, function in enumerate(functions)}
    of_rows = [
        position.get(function, -1) if own else -1 for function, own in zip(table["function"], own_commit, strict=True)
    ]
    return {
        "numbers": {head: _numbers(table[column]) for head, column in NUMBERS.items()},
        "filters": {
            name: list(
                table["subject" if name == "operator" else name].astype(str).str[: 8 if name == "commit" else None]
            )
            for name in FILTERS
        },
        "heat": {
            "time": [_value(row, "value") for row in table.to_dict("records")],
            "gb_per_s": [number_text(value) for value in table["gb_per_s"]],
            "percent": [number_text(value, 2) for value in table["percent_of_roof"]],
        },
        "variant": list(table["variant"]),
        "circumstances": _circumstances(possible),
        "reason": list(table["reason"]),
        "notes": list(table["notes"]),
        "rounds": [_rounds(*pair) for pair in zip(table[ROUNDS], table["value"], strict=True)],
        "commands": _commands(cases, list(table["commit"]), list(table[PROFILE])),
        "source": of_rows,
        "sources": code,
    }


def _numbers(column: pd.Series) -> list[float | None]:
    return [None if pd.isna(value) else float(f"{value:.6g}") for value in column]


def _circumstances(table: pd.DataFrame) -> dict[str, list[str | float | None]]:
    """The values of CIRCUMSTANCES, by their labels."""
    values = {name: _values(table[name]) for name in CIRCUMSTANCES}
    values |= {name: _counts(table[name], table[whole]) for name, whole in COUNTS.items()}
    return {LABELS.get(name, name.replace("_", " ")): shown for name, shown in values.items()}


def _values(column: pd.Series) -> list[str | float | None]:
    """The values of a column, rounded; texts for dates."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return [None if pd.isna(value) else value.strftime("%Y-%m-%d %H:%M") for value in column]
    if pd.api.types.is_numeric_dtype(column):
        return [None if pd.isna(value) else float(f"{value:.4g}") for value in column]
    return list(column.astype(str))


def _counts(column: pd.Series, whole: pd.Series) -> list[str | float | None]:
    """The values of a column of counts as texts, such as "12 of 256"."""
    pairs = zip(column, whole, strict=True)
    return [None if pd.isna(count) else f"{count:,.0f} of {most:,.0f}" for count, most in pairs]


def _rounds(rounds_s: Any, value: float) -> list[int]:
    """The times of rounds in thousandths of the value, some of many; empty where they are not known."""
    if not isinstance(rounds_s, array) or not value > 0:
        return []
    step = max(1, -(-len(rounds_s) // MOST_ROUNDS))
    return [round(1000 * min(seconds / value, 100.0)) for seconds in rounds_s[::step]]


def _commands(cases: Sequence[Case], commits: Sequence[str], measured: Sequence[str]) -> list[str]:
    """For each case, the command that measures it again, with what it is compared with; empty where there is none.

    measured: the profiles that were measured. A command names it if it holds the case, else the smallest that does.
    """
    cores = max(1, *_threads(cases))
    holding = {name: set(of_profile(profile, gpu=True, cores=cores)) for name, profile in PROFILES.items()}
    names = [
        next((name for name in (own, *PROFILES) if case in holding.get(name, ())), "")
        for case, own in zip(cases, measured, strict=True)
    ]
    return [
        f"{VARIABLE}={name} asv run {commit[:8]}^! --bench {shlex.quote(_pattern(case))}" if name else ""
        for case, commit, name in zip(cases, commits, names, strict=True)
    ]


def _pattern(case: Case) -> str:
    """The regular expression that asv's --bench needs to select a case."""
    return f"^{re.escape(series.of(case).name_of(case))}$"


def _threads(cases: Sequence[Case]) -> list[int]:
    return [case.axes.get("threads", 0) for case in cases] or [1]
