"""Test the loader: files of asv and the harness become rows; foreign files raise no exception."""

import contextlib
import copy
import itertools
import json
import math
import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from asv.results import Results as AsvResults
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness import measurement, series
from benchmarks.harness.case import Case, OperatorCase, StepCase, from_axes
from benchmarks.harness.machine import provenance
from benchmarks.harness.measurement import SCHEMA, DeviceTiming, Measurement, StepTiming
from benchmarks.harness.processes import plan, records
from benchmarks.harness.series import SERIES
from benchmarks.harness.timing import intervals
from impls.cnn import PHASES
from scripts.report import asv_files, metrics, results
from tests.checkout import Checkout, was_contended
from tests.synthetic import (
    COMMIT,
    DATE_MS,
    ENV,
    LATER_COMMIT,
    RESULT_COLUMNS,
    benchmark,
    changed,
    content,
    parameters,
    process,
    ratio,
    record,
    roof,
    time,
    write,
    write_records,
)

FORWARD, BACKWARD = time("forward", "numpy.out"), time("backward", "numpy.inplace")
FORWARD_NAME = "relu.Forward.track_time"


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "results", tmp_path / "outcomes"


def only_row(folders: tuple[Path, Path]) -> dict[str, Any]:
    (row,) = results.load(*folders).table.to_dict("records")
    return row


def status_and_reason(folders: tuple[Path, Path]) -> dict[tuple[str, ...], tuple[str, str]]:
    table = results.load(*folders).table
    return {(r.machine, r.env, r.direction): (r.status, r.reason) for r in table.itertuples()}


def test_a_number_becomes_a_row_with_all_columns(folders):
    write(folders[0], content({FORWARD: 2e-3}))
    ratios = {"fastest": ratio(1.5, "numba.out"), "roof": ratio(2.0, "copy.all"), "bus": ratio(1.25, "scale.one")}
    step = StepTiming(1e-6, {phase: [3e-4, 4e-4, 9e-4] for phase in PHASES}, [-1.0, 2.0, 12.5], 0.25)
    first = process(
        20, preempted=2, throttled=3, steady=False, probes_s=[1.1e-5, 1.4e-5], empty_call_s=3e-8,
        device=DeviceTiming(device_s=1e-3), step=step,
    )  # fmt: skip
    second = process(12, preempted=1, probes_s=[1.3e-5, 1.0e-5], empty_call_s=4e-8, device=DeviceTiming(device_s=3e-3))
    line = record(
        FORWARD, value=2e-3, time_s=1_700_086_400.0, processes=[first, second], interval=(1.9e-3, 2.2e-3),
        ratios=ratios, provenance={"profile": "core"},
    )  # fmt: skip
    write_records(folders[1], [line])
    share = intervals.of([step.relu_percent])
    row = only_row(folders)
    parts = ("ratio", "low", "high")
    absent = ["allocated_bytes", *(f"{to}_{part}" for to in ("fresh", "relu") for part in parts)]
    nothing = {name: row.pop(name) for name in absent}
    assert all(map(math.isnan, nothing.values()))
    assert row == {
        "machine": "box", "fingerprint": "unknown", "commit": COMMIT, "env": ENV,
        "date": pd.Timestamp("2023-11-14 22:13:20Z"), "measured": pd.Timestamp("2023-11-15 22:13:20Z"),
        "kind": "operator", "quantity": "time", "operator": "relu", "direction": "forward", "variant": "numpy.out",
        "elements": 2**20, "dtype": "float32", "threads": 0,
        "network": "", "batch": 0, "kernel": "", "array_bytes": 0, "library": "", "n": 0,
        "value": 2e-3, "low": 1.9e-3, "high": 2.2e-3, "q25": 0.98 * 2e-3, "q75": 1.06 * 2e-3,
        "number": 7, "status": "ok", "reason": "",
        # Of 32 rounds, asv has 30; a round has 8 samples.
        "passes": 2, "rounds": 32, "contended": 2, "samples": 256, "preempted": 3, "steady": 31 / 32,
        "probe_s": 1.1e-5, "empty_call_s": 4e-8, "device_s": 2e-3, "throttled": 3,
        "fastest_ratio": 1.5, "fastest_low": 1.49, "fastest_high": 1.51, "fastest_to": "numba.out",
        "roof_ratio": 2.0, "roof_low": 1.99, "roof_high": 2.01, "roof_to": "copy.all",
        "bus_ratio": 1.25, "bus_low": 1.24, "bus_high": 1.26, "bus_to": "scale.one", "fresh_to": "",
        "relu_to": "",
        "forward_s": 4e-4, "loss_s": 4e-4, "backward_s": 4e-4, "update_s": 4e-4,
        "relu_percent": 2.0, "relu_percent_low": share.low, "relu_percent_high": share.high,
        "energy_j": 0.25, results.ROUNDS: array("d", [1e-3] * 32), results.PROFILE: "core",
    }  # fmt: skip


def test_a_number_without_a_record_has_no_circumstances(folders):
    write(folders[0], content({FORWARD: 2e-3}))
    row = only_row(folders)
    assert (row["value"], row["status"], row["reason"], row["fingerprint"]) == (2e-3, "ok", "", "unknown")
    unknown = ["low", "high", "passes", "rounds", "contended", "samples", "preempted", *results.RATIO_NUMBERS]
    assert all(math.isnan(row[name]) for name in unknown)
    assert {row[name] for name in results.RATIO_TEXTS} == {""}


@pytest.mark.parametrize("schema", [2, 3, SCHEMA + 1])
def test_a_record_of_another_schema_counts_as_none(folders, schema):
    write(folders[0], content({FORWARD: 2e-3, BACKWARD: None}))
    lines = [
        record(
            FORWARD, "unstable", "varies", value=2e-3, processes=[process()], ratios={"roof": ratio(2.0, "copy.all")}
        ),
        record(BACKWARD, "wrong", "differs"),
    ]
    write_records(folders[1], [changed(line, "schema", schema) for line in lines])
    assert status_and_reason(folders) == {
        ("box", ENV, "forward"): ("ok", ""),
        ("box", ENV, "backward"): ("failed", "no record of the reason"),
    }
    assert results.load(*folders).table[["rounds", "roof_ratio"]].isna().all(axis=None)


def test_numbers_of_other_versions_of_benchmarks_are_left_out(folders):
    """A benchmark that measures in another way than before has a new version."""
    stored = content({FORWARD: 1.0, time("forward", "numpy.out", 2**10): 2.0, BACKWARD: 3.0, roof("copy.one"): 4.0})
    version = RESULT_COLUMNS.index("version")
    for name in (FORWARD_NAME, "relu.Backward.track_time"):
        stored["results"][name][version] = "0"
    path = write(folders[0], stored)
    loaded = results.load(*folders)
    assert loaded.table["value"].tolist() == [4.0]
    (problem,) = loaded.problems
    assert str(path) in problem
    assert f"{FORWARD_NAME} and 1 more" in problem


def test_results_of_other_versions_alone_are_nothing_to_report(folders):
    stored = content({FORWARD: 1.0})
    stored["results"][FORWARD_NAME][RESULT_COLUMNS.index("version")] = "0"
    write(folders[0], stored)
    with pytest.raises(results.NoResults, match=FORWARD_NAME):
        results.load(*folders)


def test_phases_and_the_share_of_relu_are_medians_of_all_rounds(folders):
    case = StepCase("time", "mnist_cnn", "torch.fresh", 64)
    write(folders[0], content({case: 2e-3}))
    passes = [
        StepTiming(1e-6, {"forward": [1e-3, 2e-3, 3e-3]}, [10.0, 11.0, 12.0]),
        StepTiming(1e-6, {"forward": [9e-3, 8e-3]}, [20.0, 21.0]),
        # Here the network without ReLU diverged.
        StepTiming(1e-6, {"forward": [7e-3, 6e-3]}, []),
    ]
    write_records(folders[1], [record(case, value=2e-3, processes=[process(step=step) for step in passes])])
    row = only_row(folders)
    assert row["forward_s"] == 6e-3
    assert math.isnan(row["loss_s"])
    share = intervals.of([[10.0, 11.0, 12.0], [20.0, 21.0]])
    assert [row[name] for name in results.RELU_SHARE] == [share.value, share.low, share.high]
    # Passes differ more than their rounds.
    assert (share.value, share.low, share.high) == (12.0, pytest.approx(11, abs=1), pytest.approx(20.5, abs=1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("measurement.interval", [-1e-3, 3e-3]), ("measurement.interval", [3e-3, 1e-3]),
        ("measurement.interval", [2.1e-3, 3e-3]), ("measurement.ratios.roof.low", 0.0),
        ("measurement.ratios.roof.value", 9.0),
    ],
)  # fmt: skip
def test_impossible_intervals_are_left_out(folders, path, value):
    write(folders[0], content({FORWARD: 2e-3}))
    line = record(FORWARD, value=2e-3, interval=(1.9e-3, 2.2e-3), ratios={"roof": ratio(2.0, "copy.all")})
    write_records(folders[1], [changed(line, path, value)])
    row = only_row(folders)
    of_value, of_ratio = ["low", "high"], ["roof_ratio", "roof_low", "roof_high"]
    missing, kept = (of_value, of_ratio) if "interval" in path else (of_ratio, of_value)
    assert all(math.isnan(row[name]) for name in missing)
    assert all(row[name] > 0 for name in kept)


def test_each_number_is_matched_to_its_parameters(folders):
    sizes_and_dtypes = itertools.product((2**10, 2**20), ("float16", "float64"))
    numbers: dict[Case, float | None] = {
        time("forward", "numpy.out", elements, dtype): 1.0 + position
        for position, (elements, dtype) in enumerate(sizes_and_dtypes)
    }
    numbers |= {roof("triad.all", 4096): 8.0, roof("copy.one"): 9.0}
    write(folders[0], content(numbers))
    rows = results.load(*folders).table.to_dict("records")
    assert {from_axes(row): row["value"] for row in rows} == numbers


@pytest.mark.parametrize("name", SERIES)
def test_every_benchmark_is_read(folders, name):
    case = SERIES[name].case([repr(next(iter(axis))) for axis in parameters(name)])
    write(folders[0], content({case: 3.0}))
    row = only_row(folders)
    assert row["value"] == 3.0
    assert from_axes(row) == case


def test_unstable_number_keeps_its_status_and_reason(folders):
    write(folders[0], content({FORWARD: 2e-3}))
    reason = "its 95 % interval is 50 % wide: 1 to 3 s"
    write_records(folders[1], [record(FORWARD, "unstable", reason, value=2e-3)])
    row = only_row(folders)
    assert (row["value"], row["status"]) == (2e-3, "unstable")
    assert row["reason"] == reason


def test_failure_has_the_recorded_reason(folders):
    write(folders[0], content({FORWARD: None}))
    write_records(folders[1], [record(FORWARD, "wrong", "3 of 9 elements are wrong")])
    row = only_row(folders)
    assert (row["status"], row["reason"]) == ("wrong", "3 of 9 elements are wrong")
    assert pd.isna(row["value"])


def test_failure_without_a_record_has_a_default_reason(folders):
    write(folders[0], content({FORWARD: None, BACKWARD: None}))
    write_records(folders[1], [record(BACKWARD, "ok")])
    assert status_and_reason(folders) == {
        ("box", ENV, "forward"): ("failed", "no record of the reason"),
        ("box", ENV, "backward"): ("failed", "asv lost the result"),
    }


def test_benchmark_without_results_has_a_failure_for_each_case(folders):
    stored = content({FORWARD: None})
    params = stored["results"][FORWARD_NAME][1]
    stored["results"][FORWARD_NAME] = [None, *stored["results"][FORWARD_NAME][1:5]]
    write(folders[0], stored)
    write_records(folders[1], [record(FORWARD, "timeout", "still running")])
    table = results.load(*folders).table
    assert len(table) == len(params[0]) * len(params[1]) * len(params[2])
    assert set(table["status"]) == {"failed", "timeout"}
    assert table.loc[table["status"] == "timeout", "variant"].tolist() == ["numpy.out"]


@pytest.mark.parametrize("value", [float("inf"), "0.1", [1], -1e-3, 0])
def test_invalid_time_is_a_failure(folders, value):
    stored = content({FORWARD: 2e-3})
    stored["results"][FORWARD_NAME][0] = [value if v == 2e-3 else v for v in stored["results"][FORWARD_NAME][0]]
    write(folders[0], stored)
    row = only_row(folders)
    assert row["status"] == "failed"
    assert pd.isna(row["value"])


def test_zero_bytes_are_a_valid_value(folders):
    write(folders[0], content({OperatorCase("transient_bytes", "relu", "forward", "numpy.out", 2**20, "float32"): 0}))
    row = only_row(folders)
    assert (row["status"], row["value"]) == ("ok", 0)


def test_machines_commits_and_environments_stay_apart(folders):
    for number, (machine, commit, env) in enumerate(itertools.product(("box", "den"), (COMMIT, LATER_COMMIT), "xy")):
        write(folders[0], content({FORWARD: 1.0 + number}, commit=commit, env=env), machine)
    table = results.load(*folders).table
    assert {(r.machine, r.commit[0], r.env): r.value for r in table.itertuples()} == {
        ("box", "a", "x"): 1, ("box", "a", "y"): 2, ("box", "b", "x"): 3, ("box", "b", "y"): 4,
        ("den", "a", "x"): 5, ("den", "a", "y"): 6, ("den", "b", "x"): 7, ("den", "b", "y"): 8,
    }  # fmt: skip


def test_reasons_are_matched_by_machine(folders):
    for machine in ("box", "den"):
        write(folders[0], content({FORWARD: None}), machine)
        lines = [record(FORWARD, "wrong", f"seen on {machine}", machine=machine)]
        write_records(folders[1], lines, f"{machine}/aaaaaaaa.jsonl")
    assert status_and_reason(folders) == {
        ("box", ENV, "forward"): ("wrong", "seen on box"),
        ("den", ENV, "forward"): ("wrong", "seen on den"),
    }


def test_records_without_an_environment_are_matched_by_machine_and_commit(folders):
    for machine in ("box", "den"):
        existing = f"existing-py_{machine}"
        write(folders[0], content({FORWARD: None}, env=existing), machine)
        # A second environment, created by asv; its records carry its name.
        write(folders[0], content({BACKWARD: 1.0}, env="virtualenv-py3.11"), machine)
        lines = [record(FORWARD, "error", f"raised on {machine}", machine=machine, env="unknown")]
        write_records(folders[1], lines, f"{machine}/aaaaaaaa.jsonl")
    statuses = status_and_reason(folders)
    assert statuses["box", "existing-py_box", "forward"] == ("error", "raised on box")
    assert statuses["den", "existing-py_den", "forward"] == ("error", "raised on den")
    assert len(statuses) == 4


def test_a_skipped_case_becomes_a_row(folders):
    write(folders[0], content({BACKWARD: 1.0}))
    write_records(folders[1], [record(FORWARD, "skipped", "no CUDA device"), record(BACKWARD, "ok")])
    loaded = results.load(*folders)
    assert status_and_reason(folders)["box", ENV, "forward"] == ("skipped", "no CUDA device")
    assert len(loaded.table) == 2
    assert loaded.table["date"].nunique() == 1


def test_a_record_whose_number_asv_did_not_save_makes_no_row(folders):
    """A killed run leaves the record without the result file."""
    write(folders[0], content({BACKWARD: 1.0}))
    write_records(folders[1], [record(FORWARD, "ok", value=1.0)])
    assert status_and_reason(folders) == {("box", ENV, "backward"): ("ok", "")}


def test_a_later_failure_replaces_an_earlier_number(folders):
    write(folders[0], content({FORWARD: 1.0}))
    lines = [record(FORWARD, value=1.0, time_s=1.0), record(FORWARD, "wrong", "a race", time_s=2.0)]
    write_records(folders[1], lines)
    row = only_row(folders)
    assert pd.isna(row["value"])
    assert (row["status"], row["reason"]) == ("wrong", "a race")


def test_a_number_is_matched_to_the_machine_that_measured_it(folders):
    """A later killed run, whose numbers asv never stored, and another machine of the same name do not match."""
    write(folders[0], content({FORWARD: 1.0, BACKWARD: 2.0}))
    first, second = ({"fingerprint": name} for name in ("first", "second"))
    lines = [
        record(FORWARD, value=1.0, provenance=first, time_s=10.0),
        record(FORWARD, value=1.5, provenance=second, time_s=20.0),
        record(BACKWARD, value=2.0, provenance=first, time_s=10.0),
        record(BACKWARD, value=2.0, provenance=second, time_s=20.0),
    ]
    write_records(folders[1], lines)
    table = results.load(*folders).table.set_index("direction")
    assert table["fingerprint"].to_dict() == {"forward": "first", "backward": "second"}
    assert table.loc["forward", "measured"] == pd.Timestamp(10, unit="s", tz="UTC")


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_newest_record_counts(folders, newest_first):
    write(folders[0], content({FORWARD: None}))
    lines = [record(FORWARD, "timeout", "old", time_s=10.0), record(FORWARD, "crashed", "new", time_s=20.5)]
    write_records(folders[1], lines[::-1] if newest_first else lines)
    assert status_and_reason(folders)["box", ENV, "forward"] == ("crashed", "new")


def test_a_torn_last_line_does_not_affect_other_lines(folders):
    write(folders[0], content({FORWARD: None}))
    path = write_records(folders[1], [record(FORWARD, "crashed", "died"), record(BACKWARD, "wrong", "torn")])
    path.write_bytes(path.read_bytes()[:-40])
    assert status_and_reason(folders) == {("box", ENV, "forward"): ("crashed", "died")}


def test_a_record_is_matched_to_its_stored_samples(folders):
    """Two runs may measure the same median."""
    stored = content({FORWARD: 2e-3})
    samples = [[1e-3, 2e-3, 3e-3] if value == 2e-3 else None for value in stored["results"][FORWARD_NAME][0]]
    row = stored["results"][FORWARD_NAME]
    row += [None] * (len(RESULT_COLUMNS) - len(row))
    row[RESULT_COLUMNS.index("samples")] = samples
    write(folders[0], stored)
    own, other = (Measurement("ok", samples_s=values).samples_digest for values in ([1e-3, 2e-3, 3e-3], [2e-3] * 3))
    lines = [
        record(FORWARD, "unstable", "its own", value=2e-3, samples_digest=own, time_s=1.0),
        record(FORWARD, "ok", "another", value=2e-3, samples_digest=other, time_s=2.0),
    ]
    write_records(folders[1], lines)
    row = only_row(folders)
    assert (row["status"], row["reason"]) == ("unstable", "its own")


def test_a_number_is_not_matched_to_a_record_with_a_close_value(folders):
    write(folders[0], content({FORWARD: 2e-3}))
    write_records(
        folders[1], [record(FORWARD, "ok", "close", value=2e-3 * (1 + 1e-12), provenance={"fingerprint": "f"})]
    )
    assert only_row(folders)["fingerprint"] == "unknown"


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[1, 2]", b"null", b"\xff\xfe\x00", b"[" * 100_000, b'{"schema": 4, "case": {}}',
        *(
            json.dumps(changed(record(FORWARD, "wrong", "foreign"), path, value)).encode()
            for path, value in [
                ("case.elements", [1]), ("case.elements", 10**400), ("case.elements", "one"), ("case.elements", 0),
                ("time_s", "now"), ("time_s", None), ("machine", {"a": 1}), ("commit", ["a"]), ("case.dtype", None),
                ("case.kind", "x"), ("measurement.status", 5), ("measurement.status", "fine"),
                ("measurement.reason", ["x"]), ("measurement.value", float("nan")),
                ("measurement.processes", [{"slices": "x"}]), ("measurement.ratios", {"roof": 2.0}), ("schema", None),
            ]
        ),
    ],
)  # fmt: skip
def test_foreign_record_is_ignored(folders, line):
    write(folders[0], content({FORWARD: None}))
    write_records(folders[1], [], "den/foreign.jsonl").write_bytes(line + b"\n")
    write_records(folders[1], [record(FORWARD, "crashed", "died")])
    assert status_and_reason(folders) == {("box", ENV, "forward"): ("crashed", "died")}


def test_a_reason_that_is_no_unicode_is_recorded(folders, monkeypatch):
    """A message of the system quotes the name of a file as it is."""
    monkeypatch.setenv("RELU_BENCH_OUTCOMES", str(folders[1]))
    monkeypatch.setenv("RELU_BENCH_MACHINE", "box")
    records.append(FORWARD, Measurement("error", "no file \udcff.so"), COMMIT)
    (path,) = folders[1].glob("*/*.jsonl")
    (read,) = records.read(path)
    assert read.measurement.reason == "no file ?.so"


DROP = object()


def _put(document: Any, path: tuple[Any, ...], value: Any) -> None:
    *parents, last = path
    for key in parents:
        document = document[key]
    if value is DROP:
        del document[last]
    else:
        document[last] = value


def _changed(*path: Any, value: Any) -> bytes:
    stored = content({FORWARD: 1.0})
    _put(stored, path, value)
    return json.dumps(stored).encode()


FOREIGN = {
    "empty": b"",
    "blank": b" \n",
    "truncated": json.dumps(content({FORWARD: 1.0})).encode()[:-300],
    "list": b"[1, 2, 3]",
    "number": b"7",
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
    "deep and closed": b'{"results": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no keys": b"{}",
    "older version": _changed("version", value=1),
    "version of another type": _changed("version", value=[2]),
    "date far away": _changed("date", value=10**300),
    "date beyond the calendar": _changed("date", value=10**15),
    "infinite date": _changed("date", value=float("inf")),
    "date of another type": _changed("date", value={}),
    "results of another type": _changed("results", value=[1, 2]),
    "row of another type": _changed("results", FORWARD_NAME, value=5),
    "row without parameters": _changed("results", FORWARD_NAME, value=[[1.0]]),
    "parameters of another type": _changed("results", FORWARD_NAME, 1, value=[[1], [2], [3]]),
    "parameters that are code": _changed("results", FORWARD_NAME, 1, value=[["exit()"], ["exit()"], ["1+"]]),
    "too few parameters": _changed("results", FORWARD_NAME, 1, value=[["'numpy.out'"]]),
    "too many parameters": _changed("results", FORWARD_NAME, 1, value=[["1"]] * 4),
    "no elements": _changed("results", FORWARD_NAME, value=[[1.0], [["'numpy.out'"], ["0"], ["'float32'"]]]),
    "too many elements": _changed("results", FORWARD_NAME, value=[[1.0], [["'a'"], ["9" * 40], ["'float32'"]]]),
    "combinations without end": _changed("results", FORWARD_NAME, value=[None, [["1"] * 1000] * 9]),
    "fewer numbers than parameters": _changed("results", FORWARD_NAME, 0, value=[1.0]),
    "statistics too short": _changed("results", FORWARD_NAME, RESULT_COLUMNS.index("stats_q_25"), value=[1.0]),
    "number without end": _changed("results", FORWARD_NAME, 0, value=[10**400] * 2000),
    "columns of another type": _changed("result_columns", value=7),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_is_reported_and_ignored(folders, name):
    write(folders[0], content({FORWARD: 1.0}))
    path = write(folders[0], None, "den", "foreign.json")
    path.write_bytes(FOREIGN[name])
    loaded = results.load(*folders)
    assert loaded.table["value"].tolist() == [1.0]
    (problem,) = loaded.problems
    assert str(path) in problem


def test_folders_with_names_of_files_are_reported_and_ignored(folders):
    write(folders[0], content({FORWARD: 1.0}))
    paths = [folders[0] / "box" / "folder.json", folders[1] / "box" / "folder.jsonl"]
    for path in paths:
        path.mkdir(parents=True)
    loaded = results.load(*folders)
    assert len(loaded.table) == 1
    assert all(any(str(path) in problem for problem in loaded.problems) for path in paths)


def test_foreign_benchmarks_and_machine_descriptions_make_no_rows(folders):
    stored = content({FORWARD: 1.0})
    stored["results"] |= {"other.time_it": [[2.0], [["1"]]], "relu.Forward.time_it": None, "": 5}
    write(folders[0], stored)
    write(folders[0], {"machine": "box", "cpu": "a processor"}, name="machine.json")
    write(folders[0].parent, {"relu.Forward.track_time": {}}, "results", "benchmarks.json")
    loaded = results.load(*folders)
    assert loaded.table["value"].tolist() == [1.0]
    assert loaded.machines == {"box": {"machine": "box", "cpu": "a processor"}}
    assert loaded.problems == []


@pytest.mark.parametrize("exist", [False, True])
def test_missing_results_raise_and_name_the_command(folders, exist):
    for folder in folders:
        (folder / "box").mkdir(parents=True) if exist else None
    with pytest.raises(results.NoResults, match=r"no result files in .*results.*\./scripts/bench"):
        results.load(*folders)


def test_unreadable_results_are_named_in_the_error(folders):
    path = write(folders[0], [], name="foreign.json")
    with pytest.raises(results.NoResults) as raised:
        results.load(*folders)
    assert str(path) in str(raised.value)
    assert "./scripts/bench" in str(raised.value)


SMALL_PARAMS = [["numpy.out", "numpy.inplace"], [2**10, 2**20], ["float32"]]
SMALL_FORWARD = benchmark(
    SMALL_PARAMS, {"'numpy.out', 1024, 'float32'": 1e-6, "'numpy.inplace', 1024, 'float32'": None}, DATE_MS,
    asv_files.version(SERIES[FORWARD_NAME]),
)  # fmt: skip
SMALL_ROOF = benchmark(
    [["copy.one", "scale.all"], [4096]], {"'copy.one', 4096": 1e-7, "'scale.all', 4096": 1e-7}, DATE_MS,
    asv_files.version(SERIES["roofs.Roof.track_time"]),
)  # fmt: skip
SMALL = {
    "file": {**content({}), "results": {FORWARD_NAME: SMALL_FORWARD, "roofs.Roof.track_time": SMALL_ROOF}},
    "machine": {"machine": "box", "cpu": "a processor", "version": 1},
    "outcomes": [
        record(time("forward", "numpy.inplace", 2**10), "wrong", "differs"),
        record(time("forward", "torch.out"), "skipped", "not installed", env="unknown"),
        record(
            time("forward", "numpy.out", 2**10), value=1e-6, interval=(9e-7, 1.1e-6),
            ratios={"fastest": ratio(1.0, "numpy.out"), "roof": ratio(1.2, "copy.one"), "bus": ratio(1.1, "copy.one")},
            processes=[process(1, 2, step=StepTiming(1e-6, {"forward": [1e-3]}, [1.0, 2.0]))],
        ),
    ],
}  # fmt: skip
ODD_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        [10**400, 2**63, 0, "1024", "'numpy.out'", "'float32'", "9" * 5000, "-" * 5000, "\ud800", "2", "ok"]
    ),
)
ODD = st.recursive(ODD_LEAVES, lambda part: st.lists(part) | st.dictionaries(st.text(), part), max_leaves=6)


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each part of a JSON document below its root."""
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from _places(part, (*path, key))


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(list(_places(SMALL))), st.just(DROP) | ODD), min_size=1, max_size=4))
def test_damaged_files_give_rows_or_no_results(changes):
    """Dropped or replaced parts give rows, from which metrics can be computed, or NoResults."""
    damaged: dict[str, Any] = copy.deepcopy(SMALL)
    for path, value in changes:
        # An earlier change may have removed the place.
        with contextlib.suppress(LookupError, TypeError):
            _put(damaged, path, value)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "results", damaged.get("file"), name="file.json")
        write(folder / "results", damaged.get("machine"), name="machine.json")
        lines = damaged.get("outcomes")
        write_records(folder / "outcomes", lines if isinstance(lines, list) else [lines])
        try:
            loaded = results.load(folder / "results", folder / "outcomes")
        except results.NoResults:
            return
        metrics.headline(metrics.with_metrics(loaded.table))
        assert loaded.table["status"].isin(measurement.MEASURED).any() or loaded.table["value"].isna().all()


RAISES = "\ndef raises(x, out):\n    return 1 / 0\n"
RAISES_ROW = """
VARIANTS += (
    Variant("raises", "out", "numpy", "impls.relu.bad:raises", "raises", operator="relu", direction="forward"),
)
"""
MEASURED = [
    *(
        OperatorCase(quantity, "relu", "forward", variant, 2**15)
        for quantity in ("time", "transient_bytes")
        for variant in ("numpy.out", "numpy.fresh", "raises.out", "torch-cuda.fresh")
    ),
    roof("copy.one", 2**17),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A checkout in which asv measured a few cases, one of which raises."""
    checkout = Checkout(tmp_path_factory.mktemp("measured"))
    checkout.append("impls/relu/bad.py", RAISES)
    checkout.append("impls/catalog.py", RAISES_ROW)
    checkout.commit("a row that raises")
    folder = checkout.folder / ".asv" / "plan"
    plan.write_plan(folder, MEASURED)
    run = checkout.measure("|".join(series.asv_patterns(MEASURED)), RELU_BENCH_PLAN=str(folder), RELU_BENCH_PASSES="2")
    assert run.returncode == 2, run.stdout[-2000:] + run.stderr[-2000:]
    return checkout


def stored_by(checkout: Checkout) -> Path:
    (path,) = (path for path in checkout.folder.glob(".asv/results/*/*.json") if path.name != "machine.json")
    return path


def test_numbers_equal_those_of_the_asv_reader(measured):
    """Compare asv's reader with ours: values, quartiles, counts."""
    asv_results = AsvResults.load(str(stored_by(measured)))
    fields = ("q_25", "q_75", "number")
    expected = {}
    for name in asv_results.get_all_result_keys():
        params = asv_results.get_result_params(name)
        values, stats = asv_results.get_result_value(name, params), asv_results.get_result_stats(name, params)
        for combination, value, stat in zip(itertools.product(*params), values, stats, strict=True):
            # Cases that were not requested and skipped cases are NaN.
            if value is None or value == value:
                expected[name, *combination] = [value, *((stat or {}).get(field) for field in fields)]
    assert len(expected) >= 7
    table = results.load(measured.folder / ".asv/results", measured.folder / ".asv/outcomes").table
    columns = ["value", "q25", "q75", "number"]
    ours = {}
    for r in table[table["status"] != "skipped"].to_dict("records"):
        case = from_axes(r)
        ours[series.of(case).name, *series.of(case).parameters(case).split(", ")] = [
            None if pd.isna(r[c]) else r[c] for c in columns
        ]
    assert ours == expected


def test_reasons_of_a_real_run_are_loaded(measured):
    table = results.load(measured.folder / ".asv/results", measured.folder / ".asv/outcomes").table
    (fingerprint,) = set(table.loc[table["status"] == "ok", "fingerprint"])
    assert fingerprint == provenance.expected_fingerprint(len(os.sched_getaffinity(0)))
    times = table[table["quantity"] == "time"].set_index("variant")
    assert times.loc["raises.out", "status"] == "error"
    assert "ZeroDivisionError" in times.loc["raises.out", "reason"]
    assert times.loc["numpy.out", "status"] in measurement.MEASURED
    if times.loc["torch-cuda.fresh", "status"] in measurement.MEASURED:
        pytest.skip("this machine has a CUDA device")
    assert times.loc["torch-cuda.fresh", "status"] == "skipped"
    assert times.loc["torch-cuda.fresh", "env"] == times.loc["numpy.out", "env"]


def test_circumstances_and_ratios_of_a_real_run_are_loaded(measured):
    loaded = results.load(measured.folder / ".asv/results", measured.folder / ".asv/outcomes")
    assert loaded.problems == []
    table = loaded.table[loaded.table["quantity"] == "time"].set_index("variant")
    contended = any(was_contended(record.measurement) for record in measured.records())
    out, fresh = table.loc["numpy.out"], table.loc["numpy.fresh"]
    assert {out["fastest_to"], fresh["fastest_to"]} == {min(out, fresh, key=lambda row: row["value"]).name}
    assert out["fresh_to"] == "numpy.fresh"
    assert out["fresh_low"] <= out["fresh_ratio"] <= out["fresh_high"]
    for row in (out, fresh):
        assert row["low"] <= row["value"] <= row["high"]
        assert row["rounds"] > row["passes"] == 2
        assert 0 <= row["contended"] < row["rounds"]
        assert row["samples"] >= row["preempted"] >= 0
        assert contended or row["roof_to"].startswith("copy")


def test_synthetic_files_have_the_structure_of_real_ones(measured):
    real = json.loads(stored_by(measured).read_text())
    ours = content({FORWARD: 1.0})
    assert set(ours) == set(real)
    assert ours["result_columns"] == real["result_columns"]
    assert {name: type(value) for name, value in ours.items()} == {name: type(real[name]) for name in ours}
    assert ours["results"][FORWARD_NAME][1][1:] == real["results"][FORWARD_NAME][1][1:]
    (line, *_) = next(measured.folder.glob(".asv/outcomes/*/*.jsonl")).read_text().splitlines()
    assert set(record(FORWARD)) == set(json.loads(line))
