"""Write reports/index.html, the CSV tables and the figures (SVG) from asv's results and the outcome records.

python -m scripts.report [--machine NAME] [--commit HASH] [--fingerprint F] [--list]. The default is the run measured
last. The page is a single file that needs no network.
"""

import argparse
import base64
import csv
import hashlib
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from benchmarks.harness.case import AXES, SAMPLED, from_axes
from benchmarks.harness.measurement import UNKNOWN
from benchmarks.harness.parameters import FIRST_CALL_ELEMENTS
from benchmarks.harness.roofline.loops import ORDINARY
from impls.catalog import OPERATORS, STEPS, VARIANTS
from impls.cnn.networks import NETWORKS
from impls.variant import DIRECTIONS, DTYPES, Row, Semantics
from scripts.report import figures, fingerprints, metrics, results
from scripts.report.results import Run
from scripts.setup.pins import ROOT

TEMPLATES = Path(__file__).parent / "templates"
# Pairs of operator and direction, in the order of the page.
SUBJECTS = tuple((operator, direction) for operator in OPERATORS for direction in DIRECTIONS)
OPERATOR_COLUMNS = [
    *results.columns("operator"), *metrics.FACTS, "gb_per_s", "bus_gb_per_s",
    *(f"percent_of_{roof}{end}" for roof in ("roof", "bus") for end in ("", "_low", "_high")),
    "device_gb_per_s", "device_percent_of_roof", "impossible",
]  # fmt: skip
STEP_COLUMNS = [*results.columns("step"), *results.STEP_COLUMNS, *metrics.STEP_METRICS]
# A ratio whose interval is wider than this share of it is no tie, it is hardly known.
WIDE = 0.2
# Spreadsheets interpret text that starts with one of these as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Figure:
    """A figure of the page. file: name of its copy beside the page."""

    title: str
    file: str
    svg: str


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        loaded = results.load(options.results, options.outcomes)
        if options.list and not loaded.table.empty:
            print(_listed(loaded.table).to_string(index=False))
            return 0
        if loaded.table.empty:
            looked = "; ".join(loaded.problems) or "asv writes its results when a run ends, and none has ended"
            raise results.NoResults(f"no readable results: {looked}")
        run = choose(loaded.table, options.machine, options.commit, options.fingerprint)
    except (results.NoResults, LookupError) as error:
        print(f"report: {error.args[0]}", file=sys.stderr)
        return 1
    for problem in loaded.problems:
        print(f"report: skipped {problem}", file=sys.stderr)
    same_name = fingerprints.machines_named(loaded, run.machine)
    if len(same_name) > 1:
        print(f"report: {len(same_name)} different machines share the name {run.machine!r}", file=sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in build(loaded, run).items():
        # Names and reasons are foreign text and may be invalid Unicode.
        (options.out / name).write_text(content, encoding="utf-8", errors="replace")
    return 0


def choose(
    table: pd.DataFrame, machine: str | None = None, commit: str | None = None, fingerprint: str | None = None
) -> Run:
    """Return the run measured last, among those of a machine, commit (or its prefix) and fingerprint if given.

    Of several environments, the one with most rows; of several machines with one name, the one with the newest number.

    Raises LookupError, which lists the machines and commits that have results.
    """
    rows = table
    for column, requested in (("machine", machine), ("commit", commit), ("fingerprint", fingerprint)):
        if requested:
            rows = rows[rows[column].str.startswith(requested) if column == "commit" else rows[column] == requested]
    if rows.empty:
        listed = _listed(table).to_string(index=False)
        request = f"machine {machine!r}, commit {commit!r}, fingerprint {fingerprint!r}"
        raise LookupError(f"no results for {request}; there are:\n{listed}")
    newest = rows.sort_values("measured", na_position="first").iloc[-1]
    same = rows[(rows["machine"] == newest["machine"]) & (rows["commit"] == newest["commit"])]
    env = same["env"].mode()[0]
    numbers = same[(same["env"] == env) & same["value"].notna()].sort_values("measured")
    newest_fingerprint = UNKNOWN if numbers.empty else numbers["fingerprint"].iloc[-1]
    return Run(newest["machine"], newest_fingerprint, newest["commit"], env)


def build(loaded: results.Results, run: Run) -> dict[str, str]:
    """Return the files of the report of one run by name: the page, the tables and the figures."""
    table = run.rows(loaded.table)
    measured = metrics.with_metrics(table)
    steps = metrics.steps(table)
    provenance = fingerprints.facts(loaded, run.machine, run.fingerprint, run.commit)
    sections = {
        "throughput": _throughput_figures(measured, metrics.roofs(table), provenance),
        "gpu": _gpu_figures(measured, metrics.device_roofs(table)),
        "memory": _memory_figures(measured),
        "first_calls": _first_call_figures(measured),
        "steps": _step_figures(steps),
    }
    page = _page(loaded, run, table, measured, provenance, sections)
    svg_files = {figure.file: figure.svg for group in sections.values() for figure in group}
    return {
        "index.html": page,
        "results.csv": _quoted(measured[OPERATOR_COLUMNS]),
        "steps.csv": _quoted(steps[STEP_COLUMNS]),
        "steps-memory.csv": _quoted(metrics.step_memory(table).drop(columns=results.RUN)),
        **svg_files,
    }


def _page(
    loaded: results.Results,
    run: Run,
    table: pd.DataFrame,
    measured: pd.DataFrame,
    provenance: dict[str, Any],
    sections: dict[str, list[Figure]],
) -> str:
    rows = metrics.wide(measured)
    same_name = fingerprints.machines_named(loaded, run.machine)
    listed = _listed(loaded.table)
    other_runs = listed[(listed["machine"] != run.machine) | (listed["commit"] != run.commit[:8])]
    script = (TEMPLATES / "table.js").read_text()
    filters: dict[str, Callable[..., Any]] = {
        "time": time_text, "number": number_text, "bytes": figures.bytes_text,
        "ratio": ratio_text, "compared": comparison_text, "interval": interval_text, "tie": _is_tie,
    }  # fmt: skip
    return template("report.html.j2", **filters).render(
        choice=run,
        date=table["date"].max(),
        counts=table["status"].value_counts().to_dict(),
        headline=metrics.headline(measured).to_dict("records"),
        subjects=SUBJECTS,
        subject=figures.row_label,
        figures=sections,
        memory_rows=_memory_rows(measured),
        against_fresh=_against_fresh(measured),
        rows=rows[rows["value"].notna()].to_dict("records"),
        gpu_rows=measured[
            (measured["device"] == "cuda") & measured["value"].notna() & measured["quantity"].isin(["time", "cold"])
        ].to_dict("records"),
        unstable=_labelled(measured[measured["status"] == "unstable"]),
        unchecked=_unchecked(measured),
        scaling=_scaling(measured),
        impossible=measured[measured["impossible"]].to_dict("records"),
        roofs=metrics.roofs(table).to_dict("records"),
        kernels=ORDINARY,
        gemms=metrics.gemms(table).to_dict("records"),
        steps=metrics.steps(table).to_dict("records"),
        step_memory=metrics.step_memory(table).to_dict("records"),
        failures=_labelled(table[table["value"].isna()].sort_values(["status", *AXES])),
        not_run=_not_run(table, provenance.get("gpus")),
        semantics=_semantics(),
        provenance=provenance,
        facts=fingerprints.grouped(provenance),
        same_name=same_name if len(same_name) > 1 else [],
        differences=fingerprints.differences(same_name),
        machine=loaded.machines.get(run.machine, {}),
        other_runs=other_runs.to_dict("records"),
        problems=loaded.problems,
        impossible_percent=metrics.IMPOSSIBLE_PERCENT,
        wide_percent=100 * WIDE,
        script=jinja2.utils.markupsafe.Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """A template of a page, with filters; it escapes foreign text, and `image` embeds an SVG."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(image=_image, **filters)
    return environment.get_template(name)


def _image(svg: str) -> str:
    """Return the SVG as a data URI of an image, in which no script runs."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _labelled(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return the rows as records, each with the label of its case."""
    return [{**row, "label": from_axes(row).label} for row in table.to_dict("records")]


def time_text(seconds: float | None) -> str:
    """Format seconds with a suitable unit and three significant digits: "12.3 µs"; None and NaN as a dash."""
    if seconds is None or pd.isna(seconds):
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= scale or unit == "ns":
            return f"{number_text(seconds / scale)} {unit}"
    raise AssertionError


def number_text(value: float | None, digits: int = 3) -> str:
    """Format a number with the given significant digits and no exponent; None and NaN as a dash."""
    if value is None or pd.isna(value):
        return "–"
    return f"{float(f'{value:.{digits}g}'):,.12f}".rstrip("0").rstrip(".")


def ratio_text(row: Mapping[str, Any], name: str) -> str:
    """A paired ratio: "1.32", "= fastest" for a tie, "fastest" for the fastest itself; a dash where there is none.

    "≈ 1.32" has an interval that includes 1 and is WIDE.
    """
    ratio = row[f"{name}_ratio"]
    if pd.isna(ratio):
        return "–"
    if row[f"{name}_to"] == row["variant"]:
        return name
    if _is_tie(row, name):
        return f"= {name}"
    return f"{'≈ ' if _may_be_one(row, name) else ''}{number_text(ratio)}"


def comparison_text(row: Mapping[str, Any], name: str) -> str:
    """Format the interval of a paired ratio: "1.3 … 1.34 times numpy.out"; empty without a ratio."""
    other = row[f"{name}_to"]
    return f"{interval_text(row, name)} times {other}" if other not in ("", row["variant"]) else ""


def interval_text(row: Mapping[str, Any], name: str) -> str:
    """The ends of the interval of a ratio or percentage: "52.1 … 53"; empty where there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if pd.isna(low) else f"{number_text(low)} … {number_text(high)}"


def _is_tie(row: Mapping[str, Any], name: str) -> bool:
    """Return whether two times are the same as far as the interval of their ratio tells."""
    return _may_be_one(row, name) and row[f"{name}_high"] - row[f"{name}_low"] <= WIDE * row[f"{name}_ratio"]


def _may_be_one(row: Mapping[str, Any], name: str) -> bool:
    return bool(row[f"{name}_low"] <= 1 <= row[f"{name}_high"])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--machine", help="asv's name of the machine (default: the one measured last)")
    parser.add_argument("--commit", help="a commit, or its first characters (default: the one measured last)")
    parser.add_argument(
        "--fingerprint", help="which of several machines with one name (default: the one measured last)"
    )
    parser.add_argument("--list", action="store_true", help="list machines and commits that have results, and stop")
    parser.add_argument(
        "--results", type=Path, default=ROOT / ".asv" / "results", help="asv's results (default: %(default)s)"
    )
    parser.add_argument(
        "--outcomes", type=Path, default=ROOT / ".asv" / "outcomes", help="the outcome records (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "reports", help="where to write (default: %(default)s)")
    return parser.parse_args(arguments)


def _listed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the machines and commits that have results, the newest first."""
    groups = table.assign(commit=table["commit"].str[:8]).groupby(["machine", "commit"], as_index=False)
    listed = groups.agg(date=("date", "max"), measured=("measured", "max"), numbers=("value", "count"))
    return listed.sort_values("measured", ascending=False)


def _throughput_figures(measured: pd.DataFrame, roofs: pd.DataFrame, provenance: dict[str, Any]) -> list[Figure]:
    caches = provenance.get("caches_bytes")
    cache_sizes = {
        name: size
        for name, size in (caches if isinstance(caches, dict) else {}).items()
        if isinstance(size, int) and 0 < size < 2**63
    }
    times = metrics.numbered(measured, "time")
    times = times[times["device"] == "cpu"]
    groups = dict(iter(times.groupby(["operator", "direction", "dtype"])))
    return [
        Figure(
            f"{operator} {direction}, {dtype}",
            f"{operator}.{direction}-{dtype}.svg",
            figures.throughput(groups[operator, direction, dtype], roofs, cache_sizes),
        )
        for dtype in DTYPES
        for operator, direction in SUBJECTS
        if (operator, direction, dtype) in groups
    ]


def _gpu_figures(measured: pd.DataFrame, roofs: pd.DataFrame) -> list[Figure]:
    """Draw the GPU rows by device time and by host latency, in separate figures."""
    times = metrics.numbered(measured, "time")
    times = times[times["device"] == "cuda"]
    device_times = times.assign(value=times["device_s"], gb_per_s=times["device_gb_per_s"], low=nan, high=nan)
    kinds = (
        ("device", "device time", device_times[device_times["value"].notna()], roofs),
        # The roofs are device times: none of them applies.
        ("latency", "host latency", times, roofs[:0]),
    )
    return [
        Figure(
            f"{operator} {direction}, {dtype}: {title}",
            f"{operator}.{direction}-{dtype}-gpu-{name}.svg",
            figures.throughput(chosen, lines, {}),
        )
        for dtype in DTYPES
        for operator, direction in SUBJECTS
        for name, title, rows, lines in kinds
        if len(chosen := _of(rows[rows["dtype"] == dtype], operator, direction))
    ]


def _of(rows: pd.DataFrame, operator: str, direction: str) -> pd.DataFrame:
    return rows[(rows["operator"] == operator) & (rows["direction"] == direction)]


def _memory_size(measured: pd.DataFrame) -> int | None:
    sizes = measured[(measured["quantity"] == "transient_bytes") & (measured["dtype"] == "float32")]["elements"]
    return int(sizes.max()) if len(sizes) else None


def _memory_figures(measured: pd.DataFrame) -> list[Figure]:
    elements = _memory_size(measured)
    if elements is None:
        return []
    modes = metrics.modes(measured, "float32", elements)
    return [
        Figure(
            f"{operator} {direction}, {elements:,} float32 elements{where}",
            f"{operator}.{direction}-memory{name}.svg",
            figures.memory_against_time(chosen),
        )
        for device, where, name in (("cpu", "", ""), ("cuda", ", on the GPU", "-gpu"))
        for operator, direction in SUBJECTS
        if len(chosen := _of(modes[modes["device"] == device], operator, direction))
    ]


def _memory_rows(measured: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return measured bytes and those that the catalog predicts."""
    rows = measured[measured["quantity"].isin(["transient_bytes", "saved_bytes"]) & measured["value"].notna()]
    predicted = [
        row["row"].transient.bytes(row["elements"], row["array_bytes"] // row["elements"])
        if row["quantity"] == "transient_bytes"
        else row["row"].saved_size.bytes(row["elements"], row["array_bytes"] // row["elements"])
        for row in rows.to_dict("records")
    ]
    scratch = [row.transient.scratch for row in rows["row"]]
    return rows.assign(predicted=predicted, scratch=scratch).to_dict("records")


def _against_fresh(measured: pd.DataFrame) -> list[dict[str, Any]]:
    """An entry for each flavour and size in float32, with the rows of out and inplace that were compared with fresh."""
    rows = metrics.modes_against_fresh(measured)
    key = ["operator", "direction", "flavour", "elements"]
    groups = rows[rows["dtype"] == "float32"].groupby(key, sort=False)
    return [
        {"out": None, "inplace": None, **dict(zip(key, values, strict=True))}
        | {row["memory"]: row for row in group.to_dict("records")}
        for values, group in groups
    ]


def _first_call_figures(measured: pd.DataFrame) -> list[Figure]:
    rows = metrics.numbered(measured, "first_call")
    rows = rows[rows["dtype"] == "float32"]
    title = f"float32, {FIRST_CALL_ELEMENTS[0]:,} elements"
    return [] if rows.empty else [Figure(title, "first-call.svg", figures.first_calls(rows))]


def _step_figures(steps: pd.DataFrame) -> list[Figure]:
    """Draw the possible times by phase, a figure for each network and batch."""
    possible = steps[~steps["impossible"].astype(bool)]
    return [
        Figure(f"{network}, batch {batch}", f"cnn.{network}-{batch}.svg", figures.step_phases(rows))
        for (network, batch), rows in possible.groupby(["network", "batch"])
    ]


def _unchecked(measured: pd.DataFrame) -> int:
    """Count the times that were compared with no roof."""
    times = measured[measured["quantity"].isin(SAMPLED) & measured["value"].notna()]
    return int(times["percent_of_roof"].isna().sum())


def _scaling(measured: pd.DataFrame) -> list[dict[str, Any]]:
    """Return an entry for each variant and size, with times and efficiencies by number of threads."""
    rows, key = metrics.scaling(measured), [*metrics.ROW, "elements"]
    return [
        {**dict(zip(key, values, strict=True)), "threads": group.to_dict("records")}
        for values, group in rows.groupby(key, sort=False)
    ]


def _not_run(table: pd.DataFrame, gpus: str | None) -> list[dict[str, str]]:
    """Return the rows of the catalog that this run did not measure, with the reason."""
    measured = set(zip(table["operator"], table["direction"], table["network"], table["variant"], strict=True))
    rows: list[tuple[tuple[str, str, str], Row]] = [((row.operator, row.direction, ""), row) for row in VARIANTS]
    rows += [(("", "", network), row) for network in NETWORKS for row in STEPS]
    without_gpu = {"cuda": "not run: no CUDA device"} if gpus == "none" else {}
    return [
        {
            "subject": " ".join(filter(None, subject)),
            "variant": row.name,
            "reason": without_gpu.get(row.device, "not in the profile"),
        }
        for subject, row in rows
        if (*subject, row.name) not in measured
    ]


def _semantics() -> list[dict[str, Any]]:
    """Return each distinct behaviour with its variants: facts as (name, text, differs from the definition)."""
    grouped: dict[Semantics, list[str]] = {}
    for row in VARIANTS:
        if row.device == "cpu":
            grouped.setdefault(row.semantics, []).append(figures.row_label(row.operator, row.direction, row.name))
    default = vars(Semantics())
    return [
        {
            "variants": names,
            "facts": [(key, _fact(value), value != default[key]) for key, value in vars(semantics).items()],
        }
        for semantics, names in grouped.items()
    ]


def _fact(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def _quoted(table: pd.DataFrame) -> str:
    """Return a table as CSV, with text that looks like a formula escaped by an apostrophe."""
    table = table.copy()
    for column in table.select_dtypes(include=["object", "string"]):
        table[column] = [f"'{v}" if isinstance(v, str) and v.startswith(FORMULA_STARTS) else v for v in table[column]]
    # Quoting keeps a line break in a text from starting a row.
    return table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)


if __name__ == "__main__":
    sys.exit(main())
