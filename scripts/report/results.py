"""Read asv's results and the harness's records into one tidy table.

asv's results are the source of every number. A record belongs to a number if both have the same digest of samples. If
one of them has no digest, both must have exactly the same value.
"""

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pandas as pd

from benchmarks.harness.case import AXES, INTEGER_AXES, KINDS, TEXT_AXES, from_axes
from benchmarks.harness.measurement import MEASURED, NOT_APPLICABLE, UNKNOWN, Measurement, Process, Ratio, StepTiming
from benchmarks.harness.processes import records
from benchmarks.harness.processes.records import Record
from benchmarks.harness.timing import intervals
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
        return table[self.mask(table)]

    def mask(self, table: pd.DataFrame) -> pd.Series:
        """Which rows `rows` returns."""
        same = (table["machine"] == self.machine) & (table["commit"] == self.commit) & (table["env"] == self.env)
        return same & ((table["fingerprint"] == self.fingerprint) | table["value"].isna())


# The columns that tell runs apart: a key of every metric.
RUN = [item.name for item in fields(Run)]
# The columns that tell numbers apart before their machine is known.
KEY = ["machine", "commit", "env", *AXES]
# The paired ratios of `Measurement.ratios`; of each the value, its 95 % interval, and what the time is relative to.
RATIOS = ("fastest", "roof", "bus", "fresh", "relu")
RATIO_NUMBERS = [f"{name}_{part}" for name in RATIOS for part in ("ratio", "low", "high")]
RATIO_TEXTS = [f"{name}_to" for name in RATIOS]
# date: of the commit. measured: when the number was recorded, or, without a record, when asv started the benchmark.
# low, high: the 95 % interval of the value. q25, q75: quartiles of the rounds that count. passes: processes that
# measured it. rounds: in all passes. contended: rounds that do not count, as the core's other hyperthread was busy.
# samples: of all rounds. preempted: those with a context switch or stolen time. steady: the share of rounds whose
# warm-up ended steady. probe_s: the slowest pass's fastest probe. empty_call_s: the largest. device_s: device time,
# where `value` is host latency. throttled: samples while a GPU was throttled.
COLUMNS = [
    *RUN, "date", "measured", *AXES,
    "value", "low", "high", "q25", "q75", "number", "status", "reason",
    "passes", "rounds", "contended", "samples", "preempted", "steady", "probe_s", "empty_call_s", "device_s",
    "throttled", *RATIO_NUMBERS, *RATIO_TEXTS,
]  # fmt: skip
RELU_SHARE = ["relu_percent", "relu_percent_low", "relu_percent_high"]
# Of training steps on a GPU: joules, and of a peak the bytes of the allocator's blocks. Earlier files lack these.
OF_GPU_STEPS = ["energy_j", "allocated_bytes"]
# Further columns of training steps: seconds of phases, and the percentage that ReLUs take, with its 95 % interval.
STEP_COLUMNS = [*(f"{phase}_s" for phase in PHASES), *RELU_SHARE, *OF_GPU_STEPS]
# The times of all rounds, and the name of the profile that was measured, or empty: no file of a report has them.
ROUNDS, PROFILE = "rounds_s", "profile"
DATES = ["date", "measured"]
# All other columns are numbers.
TEXTS = [*RUN, *TEXT_AXES, "status", "reason", *RATIO_TEXTS]
TYPES = {
    **{name: "float64" for name in [*COLUMNS, *STEP_COLUMNS] if name not in TEXTS},
    **dict.fromkeys(DATES, "datetime64[ms, UTC]"),
    **dict.fromkeys(INTEGER_AXES, "int64"),
    **dict.fromkeys([*RATIO_TEXTS, ROUNDS, PROFILE], "object"),
}


class NoResults(Exception):
    """There is nothing to report; the message names the folder that was read and what to do."""


@dataclass
class Results:
    """All results, from every machine and commit.

    table: a row for each number, failure or skip, with COLUMNS, STEP_COLUMNS, ROUNDS and PROFILE. records: the
    newest last, without their processes, which the table sums up.
    machines: asv's description of each machine, by name. problems: a line for each file that was left out, or a part
    of it.
    """

    table: pd.DataFrame
    records: list[Record]
    machines: dict[str, dict[str, Any]]
    problems: list[str] = field(default_factory=list)


def load(results_folder: Path, outcomes_folder: Path, unsaved: bool = False) -> Results:
    """Read the results of asv and the records of the harness.

    unsaved: take numbers also from records that asv has not stored, as it stores them when a run ends.
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
            rows += asv_files.rows(path, content, problems)
        except asv_files.DAMAGE as error:
            problems.append(f"{path}: not a result of asv as known here ({type(error).__name__}: {error})")
    # Records cannot name an environment that asv did not make; results can.
    unnamed = {(row["machine"], row["commit"]): row["env"] for row in rows if row["env"].startswith("existing-")}
    recorded = _recorded(outcomes_folder, problems)
    if not rows and not recorded:
        looked = "; ".join(problems) or f"no result files in {results_folder}"
        raise NoResults(f"nothing to report: {looked}. Measure first: ./scripts/bench")
    table = _joined(rows, recorded, unnamed, unsaved)
    return Results(table, [each.record for each in recorded], machines, problems)


def merged(parts: Mapping[str, Results]) -> Results:
    """Several results as one: every number once. parts: by name, which problems start with.

    Two numbers of one case and run conflict: the one of the first part stays, and a problem names the other.
    """
    problems = [f"{name}: {problem}" for name, part in parts.items() for problem in part.problems]
    machines: dict[str, dict[str, Any]] = {}
    tables: list[pd.DataFrame] = []
    known: dict[tuple[Any, ...], float] = {}
    for name, part in parts.items():
        machines = {**part.machines, **machines}
        keys = [tuple(row) for row in part.table[[*RUN, *AXES]].itertuples(index=False)]
        new = [key not in known for key in keys]
        numbers = dict(zip(keys, part.table["value"], strict=True))
        problems += [
            f"{name}: {from_axes(dict(zip(AXES, key[len(RUN) :], strict=True))).label} of {key[0]}, {key[2][:8]}: "
            f"{value:g}, where another folder has {known[key]:g}"
            for key, value in numbers.items()
            if key in known and value != known[key] and value == value
        ]
        known = {**numbers, **known}
        tables.append(part.table[new])
    records = sorted((record for part in parts.values() for record in part.records), key=lambda each: each.time_s)
    return Results(pd.concat(tables, ignore_index=True).astype(TYPES), records, machines, problems)


def from_parquet(path: Path) -> Results:
    """The results in a results.parquet of a report, without records.

    Raises NoResults, which says what is wrong with the file.
    """
    columns = [*COLUMNS, *STEP_COLUMNS]
    try:
        table = pd.read_parquet(path)
        lacking = dict.fromkeys(set(OF_GPU_STEPS) - set(table.columns), float("nan"))
        table = table.assign(**lacking)[columns].astype({name: TYPES.get(name, "str") for name in columns})
    except (*asv_files.DAMAGE, ImportError) as error:
        raise NoResults(f"{path} is no results.parquet of a report: {error}") from None
    return Results(table.assign(**{ROUNDS: None, PROFILE: ""}), [], {})


def columns(kind: str) -> list[str]:
    """COLUMNS for cases of one kind: without `kind` and the axes of the others."""
    own = {item.name for item in fields(KINDS[kind])}
    return [name for name in COLUMNS if name not in AXES or name in own]


def tidy(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A table with COLUMNS, STEP_COLUMNS, ROUNDS and PROFILE in their types."""
    rows = [{name: _valid(value) for name, value in row.items()} for row in rows]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *STEP_COLUMNS, ROUNDS, PROFILE]).astype(TYPES)
    return table.fillna(dict.fromkeys([*RATIO_TEXTS, PROFILE], ""))


def _valid(value: Any) -> Any:
    """Foreign text without what is no Unicode."""
    return value.encode(errors="replace").decode() if isinstance(value, str) and not value.isascii() else value


@dataclass(frozen=True)
class _Recorded:
    """A record without its processes, and what these add to a row: the columns of `_circumstances`."""

    record: Record
    circumstances: dict[str, Any]


def _recorded(folder: Path, problems: list[str]) -> list[_Recorded]:
    """All records, the newest last."""
    recorded: list[_Recorded] = []
    for path in sorted(folder.glob("*/*.jsonl")):
        try:
            recorded += map(_summed_up, filter(_is_possible, records.read(path)))
        except asv_files.DAMAGE as error:
            problems.append(f"{path}: {error}")
    return sorted(recorded, key=lambda each: each.record.time_s)


def _summed_up(record: Record) -> _Recorded:
    # The samples of years of records would fill the memory.
    without_processes = replace(record, measurement=replace(record.measurement, processes=[]))
    return _Recorded(without_processes, _circumstances(record.measurement.processes))


def _is_possible(record: Record) -> bool:
    try:
        asv_files.sized(record.case)
    except asv_files.DAMAGE:
        return False
    return 0 < record.time_s < LATEST_S


def _joined(
    rows: list[dict[str, Any]], recorded: list[_Recorded], unnamed: dict[tuple[str, str], str], unsaved: bool
) -> pd.DataFrame:
    """Return the table: numbers and failures, joined with their records, and skipped cases.

    unnamed: by machine and commit, the environments that records cannot name. unsaved: also numbers without a row.
    """
    by_key: dict[tuple[Any, ...], list[_Recorded]] = {}
    for each in recorded:
        record = each.record
        env = unnamed.get((record.machine, record.commit), UNKNOWN) if record.env == UNKNOWN else record.env
        by_key.setdefault((record.machine, record.commit, env, *(record.case[axis] for axis in AXES)), []).append(each)
    matched = [{**row, **_columns(row, by_key.get(tuple(row[name] for name in KEY), []))} for row in rows]
    known = {tuple(row[name] for name in KEY) for row in rows}
    dates = {row["commit"]: row["date"] for row in rows}
    # asv stores nothing of a skipped case.
    skipped = [
        {
            **dict(zip(KEY, key, strict=True)),
            "fingerprint": newest.record.fingerprint,
            "status": newest.record.measurement.status,
            "reason": newest.record.measurement.reason,
            "date": dates.get(newest.record.commit),
        }
        for key, (*_, newest) in by_key.items()
        if newest.record.measurement.status not in MEASURED and key not in known
    ]
    return tidy([*matched, *skipped, *(_unsaved(by_key, known) if unsaved else ())])


def _unsaved(
    by_key: Mapping[tuple[Any, ...], Sequence[_Recorded]], known: Collection[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each newest record with a number that asv has not stored."""
    for key, (*_, newest) in by_key.items():
        measurement = newest.record.measurement
        if measurement.status in MEASURED and key not in known:
            yield {**dict(zip(KEY, key, strict=True)), "value": measurement.value, **_recorded_columns(newest)}


def _columns(row: dict[str, Any], same_case: list[_Recorded]) -> dict[str, Any]:
    """Return the columns that the records of a case, the newest last, add to its row."""
    newest = same_case[-1].record.measurement if same_case else None
    if row["status"] == "failed":
        if newest is None:
            return {"status": "failed", "reason": "no record of the reason"}
        lost = {"status": "failed", "reason": "asv lost the result"}
        return lost if newest.status in MEASURED else {"status": newest.status, "reason": newest.reason}
    if newest and newest.status not in (*MEASURED, *NOT_APPLICABLE):
        # The case has failed since asv stored its number.
        return {"value": None, "status": newest.status, "reason": newest.reason}
    # A run that was killed leaves records of numbers that asv never stored.
    own = [each for each in same_case if _belongs(each.record, row)]
    if not own:
        return {}
    circumstances = own[-1].circumstances
    contended = (
        {"contended": circumstances["rounds"] - row["counted"]} if "rounds" in circumstances and row["counted"] else {}
    )
    return {**_recorded_columns(own[-1]), **contended}


def _recorded_columns(recorded: _Recorded) -> dict[str, Any]:
    """Return the columns that a record adds to the row of its number."""
    record = recorded.record
    return {
        "fingerprint": record.fingerprint,
        "status": record.measurement.status,
        "reason": record.measurement.reason,
        "measured": asv_files.date(1000 * record.time_s),
        PROFILE: str(record.measurement.provenance.get(PROFILE, "")),
        **_interval(record.measurement),
        **_ratios(record.measurement.ratios),
        **recorded.circumstances,
    }


def _belongs(record: Record, row: dict[str, Any]) -> bool:
    """Return whether a record belongs to the number that asv stored."""
    if record.samples_digest and row["samples_digest"]:
        return record.samples_digest == row["samples_digest"]
    return record.measurement.value == row["value"]


def _interval(measurement: Measurement) -> dict[str, float]:
    """The 95 % interval of a value, if it has a possible one."""
    value, (low, high) = measurement.value, measurement.interval or (0.0, 0.0)
    return {"low": low, "high": high} if value is not None and 0 < low <= value <= high else {}


def _ratios(ratios: Mapping[str, Ratio]) -> dict[str, Any]:
    """The columns of the possible ones of RATIOS."""
    return {
        f"{name}_{part}": value
        for name, ratio in ratios.items()
        if name in RATIOS and 0 < ratio.low <= ratio.value <= ratio.high
        for part, value in (("ratio", ratio.value), ("low", ratio.low), ("high", ratio.high), ("to", ratio.to))
    }


def _circumstances(processes: Sequence[Process]) -> dict[str, Any]:
    """The circumstances of a time that was measured in rounds, and of bytes what the allocator adds."""
    slices = [taken for process in processes for taken in process.slices]
    if not slices:
        return {"allocated_bytes": _reduced(max, (process.allocated_bytes for process in processes))}
    steps = [process.step for process in processes if process.step]
    return {
        "passes": sum(bool(process.slices) for process in processes),
        "rounds": len(slices),
        "samples": sum(len(taken.samples_s) for taken in slices),
        "preempted": sum(taken.preempted for taken in slices),
        "steady": fmean(taken.steady for taken in slices),
        "probe_s": _reduced(max, (_reduced(min, (taken.probe_s for taken in each.slices)) for each in processes)),
        "empty_call_s": _reduced(max, (process.empty_call_s for process in processes)),
        "device_s": _reduced(median, (process.device.device_s for process in processes if process.device)),
        "throttled": sum(taken.throttled for taken in slices),
        ROUNDS: array("d", (median(taken.samples_s) for taken in slices if taken.samples_s)),
        "energy_j": _reduced(median, (step.energy_j for step in steps)),
        **_relu_share(steps),
        **{f"{phase}_s": _reduced(median, _rounds(phase, steps)) for phase in PHASES},
    }


def _relu_share(steps: Sequence[StepTiming]) -> dict[str, float]:
    """The percentage of a step that its ReLUs take: the median of all rounds, and its interval."""
    passes = [step.relu_percent for step in steps if step.relu_percent]
    if not passes:
        return {}
    share = intervals.of(passes)
    return dict(zip(RELU_SHARE, (share.value, share.low, share.high), strict=True))


def _rounds(phase: str, steps: Sequence[StepTiming]) -> list[float]:
    """Seconds of a phase in all rounds of all passes."""
    return [seconds for step in steps for seconds in step.phases_s.get(phase, ())]


def _reduced(reduce: Callable[[list[float]], float], values: Iterable[float | None]) -> float | None:
    """The values that are known, reduced to one; None of none."""
    known = [value for value in values if value is not None]
    return reduce(known) if known else None
