"""Test the steps that are found in a history of results."""

import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.harness.case import to_axes
from scripts.report import asv_files, history, results
from tests.synthetic import DATE_MS, DAY_MS, ENV, content, time, write

OUT, FRESH = time("forward", "numpy.out"), time("forward", "numpy.fresh")
COMMITS = 60


def commit(number):
    return f"{number:040d}"


def table(values, fingerprints=("f00",)):
    """A table of results, one commit a day, by each machine in turn."""
    rows = [
        {
            "machine": "box", "fingerprint": fingerprints[number % len(fingerprints)], "commit": commit(number),
            "env": ENV, "date": asv_files.date(DATE_MS + number * DAY_MS),
            "measured": asv_files.date(DATE_MS + number * DAY_MS), **to_axes(OUT), "value": value, "status": "ok",
        }
        for number, value in enumerate(values)
    ]  # fmt: skip
    return results.tidy(rows)


def noisy(generator, steps=()):
    """A series of times with a coefficient of variation of 1 %. steps: commits from which on it takes 5 % longer."""
    level = np.ones(COMMITS)
    for start in steps:
        level[start:] *= 1.05
    return (1e-3 * level * np.exp(generator.normal(0, 0.01, COMMITS))).tolist()


def test_a_step_of_5_percent_is_found_near_its_commit_in_nine_of_ten_histories():
    generator, found = np.random.default_rng(1), 0
    for _ in range(40):
        start = int(generator.integers(10, 50))
        steps = list(history.steps(table(noisy(generator, [start])), 3.0))
        found += any(abs(int(step.new) - start) <= 5 and step.change_percent > 3 for step in steps)
    assert found >= 36


def test_flat_histories_have_at_most_one_step_in_ten():
    generator = np.random.default_rng(2)
    assert sum(len(list(history.steps(table(noisy(generator)), 3.0))) for _ in range(40)) <= 4


def test_a_step_names_the_commits_around_it_and_the_comparison_that_confirms_it():
    (step,) = history.steps(table([1e-3] * 10 + [1.1e-3] * 10), 3.0)
    assert (step.old, step.new) == (commit(9), commit(10))
    assert step.change_percent == pytest.approx(10)
    text = history.listed([step])
    assert f"+10.0 %  {OUT.label}  on box (f00)" in text
    assert f"./scripts/compare 00000000 00000000 --profile smoke --only '^{re.escape(OUT.label)}$'" in text
    assert history.listed([]) == "no steps"


def test_a_step_that_no_comparison_measures_has_no_command():
    cold = replace(OUT, quantity="cold")
    assert history.listed([history.Step("box", "f00", cold, "a" * 40, "b" * 40, 1.0, 2.0)]).count("\n") == 0


def test_a_step_from_no_bytes_is_infinite():
    grown = history.Step("box", "f00", replace(OUT, quantity="transient_bytes"), "a" * 40, "b" * 40, 0.0, 64.0)
    assert "+inf %" in history.listed([grown])


def test_machines_of_one_name_have_histories_of_their_own():
    """Two machines that alternate, one of them twice as fast, have no step."""
    alternating = [1e-3, 2e-3] * 15
    assert list(history.steps(table(alternating, ("f00", "f01")), 3.0)) == []


def test_a_single_outlier_is_no_step():
    values = [1e-3] * 30
    values[14] = 2e-3
    assert list(history.steps(table(values), 3.0)) == []


def test_the_command_lists_the_steps_of_stored_results(tmp_path, capsys, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    for number in range(12):
        numbers = {OUT: 1e-3 if number < 6 else 2e-3, FRESH: 1e-3}
        name = commit(number)[::-1]
        write(tmp_path / "results", content(numbers, name, date_ms=DATE_MS + number * DAY_MS))
    folders = ["--results", str(tmp_path / "results"), "--outcomes", str(tmp_path / "outcomes")]
    assert history.main(folders) == 0
    assert "+100.0 %" in capsys.readouterr().out
    assert "+100.0 %" in summary.read_text()
    assert history.main([*folders, "--machine", "other"]) == 0
    assert "no steps" in capsys.readouterr().out


def test_the_command_without_results_says_so(tmp_path, capsys):
    assert history.main(["--results", str(tmp_path), "--outcomes", str(tmp_path)]) == 1
    assert "nothing to report" in capsys.readouterr().err
