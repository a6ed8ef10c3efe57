"""Test which results a report shows: of which machine, commit and folder, and beside which others."""

import csv
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.harness.machine import provenance
from scripts.report import page as report
from scripts.report import results
from tests.checkout import ROOT
from tests.report.pages import PROVENANCE, REASON, SKIPPED, WRONG, build, main
from tests.synthetic import (
    COMMIT,
    DATE_MS,
    DAY_MS,
    ENV,
    LATER_COMMIT,
    content,
    record,
    time,
    write,
    write_records,
)


def test_list_names_machines_and_commits(measured, capsys):
    assert main(measured, "--list") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split()[:2] == ["box", LATER_COMMIT[:8]]
    assert {tuple(line.split()[:2]) for line in printed[1:]} == {
        ("box", LATER_COMMIT[:8]), ("box", COMMIT[:8]), ("den", COMMIT[:8]),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "commit", "chosen"),
    [
        (None, None, ("box", LATER_COMMIT)),
        ("den", None, ("den", COMMIT)),
        (None, "aaaa", ("box", COMMIT)),
        ("box", COMMIT, ("box", COMMIT)),
        ("den", "a", ("den", COMMIT)),
    ],
)
def test_chosen_machine_and_commit(measured, machine, commit, chosen):
    table = results.load(measured / "results", measured / "outcomes").table
    choice = report.choose(table, machine, commit)
    assert (choice.machine, choice.commit) == chosen


@pytest.mark.parametrize(
    "arguments", [("--machine", "nowhere"), ("--commit", "123"), ("--machine", "den", "--commit", "b")]
)
def test_unknown_choice_lists_the_available_ones(measured, capsys, tmp_path, arguments):
    assert main(measured, "--out", str(tmp_path / "out"), *arguments) == 1
    message = capsys.readouterr().err
    for expected in (arguments[1], "box", "den", LATER_COMMIT[:8], COMMIT[:8]):
        assert expected in message
    assert not (tmp_path / "out").exists()


def test_default_is_the_run_measured_last(tmp_path):
    numbers = {time("forward", "numpy.out"): 1.0}
    for machine, commit, date_ms, started_ms in [
        ("box", COMMIT, DATE_MS, DATE_MS + 5 * DAY_MS),
        ("den", COMMIT, DATE_MS, DATE_MS + 7 * DAY_MS),
        ("eel", LATER_COMMIT, DATE_MS + DAY_MS, DATE_MS + 6 * DAY_MS),
    ]:
        write(tmp_path / "results", content(numbers, commit, ENV, date_ms, started_ms), machine)
    table = results.load(tmp_path / "results", tmp_path / "outcomes").table
    assert report.choose(table) == results.Run("den", "unknown", COMMIT, ENV)
    assert report.choose(table, commit="b").machine == "eel"


def test_the_environment_with_the_most_numbers_is_shown(tmp_path):
    write(tmp_path / "results", content({time("forward", "numpy.out"): 1.0}, env="a-small"))
    write(tmp_path / "results", content({time("forward", "numpy.out"): 2.0, WRONG: 3.0}, env="b-large"))
    table = results.load(tmp_path / "results", tmp_path / "outcomes").table
    assert report.choose(table).env == "b-large"


def test_missing_results_name_the_folder_and_the_command(tmp_path, capsys):
    assert main(tmp_path, "--out", str(tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "results") in message
    assert "./scripts/bench" in message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def shared_name(tmp_path):
    """One commit measured in part on one machine, then on another of the same name."""
    numbers = {time("forward", "numpy.out"): 1e-3, time("forward", "numba.out"): 2e-3}
    write(tmp_path / "results", content(numbers))
    lines = [
        record(case, value=value, time_s=1e9 + 1e6 * value, provenance={**PROVENANCE, **facts})
        for (case, value), facts in zip(
            numbers.items(), [{"fingerprint": "0ld", "cpu": "An Old One"}, {"fingerprint": "new"}], strict=True
        )
    ]
    write_records(tmp_path / "outcomes", [*lines, record(WRONG, "wrong", REASON)])
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "shown", "left_out"),
    [((), "numba.out", "numpy.out"), (("--fingerprint", "0ld"), "numpy.out", "numba.out")],
    ids=["newest", "chosen"],
)
def test_machines_of_the_same_name_are_distinguished_by_fingerprint(shared_name, capsys, arguments, shown, left_out):
    out = build(shared_name, *arguments)
    with (out / "results.csv").open(newline="") as file:
        fingerprints = {line["variant"]: line["fingerprint"] for line in csv.DictReader(file) if line["value"]}
    assert fingerprints == {"numba.out": "new", "numpy.out": "0ld"}
    html = (out / "index.html").read_text()
    heat = html.partition('<section id="winners">')[2].partition("</section>")[0]
    assert (f"<td>{shown}</td>" in heat, f"<td>{left_out}</td>" in heat) == (True, False)
    assert "come from 2 different machines" in html
    assert "An Old One" in html
    assert "A Processor 9000" in html
    assert "2 different machines share the name 'box'" in capsys.readouterr().err


def test_all_provenance_of_the_machine_is_shown(tmp_path):
    case = time("forward", "numpy.out")
    facts = provenance.collect()
    write(tmp_path / "results", content({case: 1e-3}))
    write_records(tmp_path / "outcomes", [record(case, value=1e-3, provenance=facts)])
    html = (build(tmp_path) / "index.html").read_text()
    assert [name for name in facts if f"<td>{name.replace('_', ' ')}</td>" not in html] == []
    assert '<td class="differs">unknown</td>' in html
    assert "different machines" not in html


def test_skipped_cases_alone_are_shown(tmp_path):
    write_records(tmp_path / "outcomes", [record(SKIPPED, "skipped", "no CUDA device")])
    html = (build(tmp_path) / "index.html").read_text()
    assert "no CUDA device" in html
    assert "NaT" not in html


def test_times_without_statistics_are_shown(tmp_path):
    """asv leaves out the columns in which every value is missing."""
    stored = content({time("forward", "numpy.out"): 1e-3})
    stored["results"] = {name: row[:5] for name, row in stored["results"].items()}
    write(tmp_path / "results", stored)
    assert "1 ms" in (build(tmp_path) / "index.html").read_text()


def against_rows(html: str) -> dict[str, list[str]]:
    """The cells of the rows that two runs have in common, by the first."""
    table = html.partition('id="against-rows"')[2].partition("</table>")[0]
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in table.split("<tr>")[2:]]
    return {line[0]: line[1:] for line in lines}


def of_two_commits(folder: Path) -> None:
    """A later commit that is twice as fast in forward, and as fast in backward."""
    forward, backward = time("forward", "numpy.out"), time("backward", "torch.fresh")
    write(folder / "results", content({forward: 2e-3, backward: 1e-3}))
    write(folder / "results", content({forward: 1e-3, backward: 1e-3}, LATER_COMMIT, started_ms=DATE_MS + 9 * DAY_MS))


@pytest.mark.parametrize("named", [COMMIT[:7], "file"])
def test_another_run_is_shown_beside_it(tmp_path, named):
    of_two_commits(tmp_path)
    if named == "file":
        other = tmp_path / "other"
        write(other / "results", content({time("forward", "numpy.out"): 2e-3}, "c" * 40))
        named = str(build(other) / "results.parquet")
    html = (build(tmp_path, "--against", named) / "index.html").read_text()
    shown = against_rows(html)
    assert shown["relu forward numpy.out 1048576 float32 time"] == ["1 ms", "2 ms", "0.5", "apart"]
    assert "numpy <b>0.5</b> of 1 time" in html
    if len(shown) > 1:
        assert shown["relu backward torch.fresh 1048576 float32 time"] == ["1 ms", "1 ms", "1", "overlap"]


@pytest.mark.parametrize(
    ("named", "message"), [("nowhere", "no results for"), ("text.parquet", "is no results.parquet")]
)
def test_an_unknown_run_to_show_beside_is_refused(tmp_path, capsys, named, message):
    of_two_commits(tmp_path)
    (tmp_path / "text.parquet").write_text("text")
    path = tmp_path / named
    assert main(tmp_path, "--out", str(tmp_path / "out"), "--against", str(path) if path.exists() else named) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_of_several_folders_are_merged_and_conflicts_are_named(tmp_path, capsys):
    of_two_commits(tmp_path)
    other = tmp_path / "other"
    conflicting = {time("forward", "numpy.out"): 7e-3, time("forward", "jax.fresh"): 3e-3}
    write(other / "results", content(conflicting))
    write(other / "results", content({time("forward", "torch.out"): 4e-3}), "den")
    html = (build(tmp_path, "--merge", str(other)) / "index.html").read_text()
    conflict = "relu forward numpy.out 1048576 float32 time of box, aaaaaaaa: 0.007, where another folder has 0.002"
    assert f"{other}: {conflict}" in html
    assert conflict in capsys.readouterr().err
    assert "<td>2 ms" in html
    assert "<td>7 ms" not in html
    assert "<td>3 ms" in html
    assert "<td>den" in html


def test_watching_writes_the_report_again_when_results_change(tmp_path):
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "outcomes", "out")]
    watching = subprocess.Popen(
        [sys.executable, "-m", "scripts.report", "--watch", *folders],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert watching.stderr is not None
    ending = threading.Timer(120, watching.kill)
    ending.start()
    try:
        assert "nothing to report" in watching.stderr.readline()
        # A record whose number asv has not stored yet.
        case = time("forward", "numpy.out")
        write_records(tmp_path / "outcomes", [record(case, value=2e-3)])
        assert "index.html" in watching.stderr.readline()
        assert "<td>2 ms" in (tmp_path / "out" / "index.html").read_text()
        write(tmp_path / "results", content({case: 2e-3, time("forward", "torch.out"): 5e-3}))
        assert "index.html" in watching.stderr.readline()
        assert "<td>5 ms" in (tmp_path / "out" / "index.html").read_text()
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
        ending.cancel()
        watching.stderr.close()
