"""Test ./scripts/compare with real commits, and the forms of its result."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest

from benchmarks.harness.case import OperatorCase, to_axes
from benchmarks.harness.measurement import exact
from benchmarks.harness.processes.pairs import Pair
from scripts.report import comparison as report
from scripts.report import schema
from scripts.report.comparison import Compared, Result, Side
from scripts.run import bisect, compare, comparison, imports, installations
from tests.checkout import ROOT, Checkout
from tests.test_scripts import matches

NUMPY = "impls/relu/numpy_.py"
TWICE = """
_once = forward_out


def forward_out(x: Array, out: Array) -> Array:
    _once(x, out)
    return _once(x, out)
"""
WRONG = """
def forward_out(x: Array, out: Array) -> Array:
    out[...] = x
    return out
"""
# Runs compare with this Python in place of asv's environment, whose installation takes minutes.
COMPARE = """
import sys
from scripts.run import bisect, compare, installations

class Existing:
    dir_name = "existing"
    def find_executable(self, name):
        return sys.executable

installations._environment = lambda requirement: Existing()
bisect.COMMAND = [sys.executable, __file__]
sys.exit(compare.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def commits(tmp_path_factory):
    """A repository with four commits: the first, one that changes nothing that is measured, one slower, one broken."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    named = {"first": checkout.git("rev-parse", "HEAD")}
    checkout.append("README.md", "\nchanged\n")
    named["same"] = checkout.commit("change the README")
    checkout.append(NUMPY, TWICE)
    rows = checkout.folder / "impls" / "relu" / "rows.py"
    rows.write_text(rows.read_text().replace('flavour("numpy-multiply"', 'flavour("numpy-product"'))
    assert "numpy-product" in rows.read_text()
    named["slower"] = checkout.commit("work twice, and rename a row")
    checkout.append("pyproject.toml", "\n[broken\n")
    named["broken"] = checkout.commit("break the build")
    checkout.git("checkout", "--quiet", named["same"])
    return checkout, named


def start(checkout, *arguments, **variables):
    script = checkout.folder.with_name("compare_here.py")
    script.write_text(COMPARE)
    # A shell has the commands that it runs in the background ignore SIGINT, and their children inherit that.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=checkout.folder, env={**os.environ, "PYTHONPATH": str(checkout.folder), **variables},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heeding,
    )  # fmt: skip


def run(checkout, *arguments, **variables):
    """The exit code, standard output, and standard error of compare."""
    process = start(checkout, *arguments, **variables)
    out, error = process.communicate(timeout=600)
    return process.returncode, out, error


def written(checkout):
    return report.from_json((checkout.folder / "reports" / "comparison.json").read_bytes())


def verdicts(checkout):
    return {row.label: row.verdict for row in written(checkout).rows}


def test_a_slower_row_is_found_and_rows_of_one_commit_are_named(commits, tmp_path):
    checkout, named = commits
    summary = tmp_path / "summary.md"
    only = "relu forward numpy(-multiply|-product)?.(out|fresh) 32768 float32 time"
    arguments = (named["first"], named["slower"], "--only", only, "--budget", "120")
    code, out, error = run(checkout, *arguments, GITHUB_STEP_SUMMARY=str(summary))
    assert code == 1, error
    found = verdicts(checkout)
    assert found["relu forward numpy.out 32768 float32 time"] == "slower"
    assert found["relu forward numpy.fresh 32768 float32 time"] in ("same", "inconclusive")
    assert found["relu forward numpy-multiply.fresh 32768 float32 time"] == "gone"
    assert found["relu forward numpy-product.fresh 32768 float32 time"] == "new"
    assert out.splitlines()[1].startswith("slower")
    assert "| slower |" in summary.read_text()
    assert written(checkout).base.commit == named["first"]
    # It is over: nothing is left to be continued.
    assert not list((checkout.folder / ".asv" / "comparisons").iterdir())


def test_only_rows_whose_code_differs_are_compared_with_controls_beside_them(commits):
    checkout, named = commits
    code, _, error = run(checkout, named["same"], named["slower"], "--changed", "--budget", "0.1")
    # One pass gives no verdict.
    assert code == 2, error
    found = written(checkout)
    timed = [row for row in found.rows if row.unit == "seconds" and row.verdict not in ("new", "gone")]
    changed = [row for row in timed if not row.control]
    assert {str(row.head_case["variant"]).partition(".")[0].partition("-")[0] for row in changed} == {"numpy"}
    # Training steps and other activations of NumPy are controls: their files are the same.
    controls = [row.head_case for row in timed if row.control]
    assert {case["kind"] for case in controls} == {"step", "operator"}
    assert "relu" not in {case.get("operator") for case in controls}


def test_nothing_is_compared_where_no_code_differs(commits):
    checkout, named = commits
    code, _, error = run(checkout, named["first"], named["same"], "--changed")
    assert (code, "No row's code differs." in error) == (0, True)


def test_a_commit_that_does_not_build_is_named(commits):
    checkout, named = commits
    code, _, error = run(checkout, named["first"], named["broken"])
    assert code == 2
    assert f"{named['broken'][:8]} does not build" in error


def test_a_commit_whose_catalog_cannot_be_read_is_named(commits):
    checkout, named = commits
    checkout.git("checkout", "--quiet", "-b", "old")
    (checkout.folder / "impls" / "catalog.py").write_text("ROWS = ()\n")
    old = checkout.commit("another catalog")
    checkout.git("checkout", "--quiet", named["same"])
    code, _, error = run(checkout, old, named["same"])
    assert code == 2, error
    assert f"the rows of {old} cannot be read by today's instruments: ImportError" in error


def test_two_rows_are_compared(commits):
    checkout, _ = commits
    code, _, error = run(checkout, "--rows", "numpy.out", "numpy-where.fresh", "--budget", "0.1")
    assert code in (0, 1), error
    labels = [row.label for row in written(checkout).rows]
    assert any(label.endswith("numpy-where.fresh 32768 float32 time, against numpy.out") for label in labels)


def test_rows_that_do_not_exist_are_named(commits):
    code, _, error = run(commits[0], "--rows", "numpy.out", "numpy.typo")
    assert code == 2
    assert "'numpy.out' and 'numpy.typo' are not two rows of one operator; there are: " in error


def test_an_interrupted_comparison_shows_what_is_known_and_continues(commits):
    checkout, named = commits
    arguments = (named["first"], named["same"], "--only", "relu forward numpy.out 32768 float32 time", "--budget", "60")
    process = start(checkout, *arguments)
    folder = checkout.folder / ".asv" / "comparisons"
    end_s = time.monotonic() + 300
    while not list(folder.glob("*/passes.json")):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Interrupted" in out
    assert "interrupted; this is known so far" in error
    before = len(json.loads(next(iter(folder.glob("*/passes.json"))).read_text()))
    code, _, error = run(checkout, *arguments)
    assert code == 0, error
    assert "continuing the comparison that was interrupted" in error
    assert written(checkout).passes > before
    assert not written(checkout).interrupted


def test_a_second_comparison_in_a_checkout_is_refused(commits):
    checkout, named = commits
    with (checkout.folder / ".asv" / "comparison.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, error = run(checkout, named["first"], named["same"], "--only", "forward numpy.out 32768")
    assert (code, "Another comparison is being measured" in error) == (2, True)


def test_bisection_finds_the_first_slow_commit(commits):
    checkout, named = commits
    checkout.git("checkout", "--quiet", "-b", "line", named["first"])
    for number in range(3):
        checkout.append("impls/relu/reference.py", f"# {number}\n")
        last = checkout.commit(f"comment {number}")
        if number == 1:
            checkout.append(NUMPY, TWICE)
            guilty = checkout.commit("work twice")
    checkout.git("checkout", "--quiet", named["same"])
    options = ("--only", "relu forward numpy.out 32768 float32 time", "--budget", "120")
    code, out, error = run(checkout, "--bisect", named["first"], last, *options)
    assert code == 0, error
    assert out.splitlines()[-1] == f"first commit that is slower or larger: {guilty[:7]} work twice"


@pytest.mark.parametrize("guilty", range(9))
def test_bisection_of_any_commit(guilty):
    names = [str(number) for number in range(9)]
    asked: list[str] = []

    def is_bad(commit: str) -> bool:
        asked.append(commit)
        return int(commit) >= guilty

    assert bisect.search(names, is_bad) == (str(guilty), [])
    assert len(asked) <= 4


def test_bisection_names_commits_that_cannot_be_decided():
    names = [str(number) for number in range(9)]
    found = bisect.search(names, lambda commit: None if commit in "45" else int(commit) >= 4)
    assert found == ("6", ["4", "5"])


def test_imports_are_followed(tmp_path):
    files = {
        "impls/__init__.py": "", "impls/a/__init__.py": "", "impls/a/one.py": "from impls.a import two\nimport numpy",
        "impls/a/two.py": "from .three import name", "impls/a/three.py": "name = 1", "impls/a/other.py": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = imports.code("impls.a.one", tmp_path)
    assert set(found) == {"impls", "impls.a", "impls.a.one", "impls.a.two", "impls.a.three"}
    (tmp_path / "impls/a/three.py").write_text("name = 1  # a comment")
    assert imports.code("impls.a.one", tmp_path) == found
    (tmp_path / "impls/a/three.py").write_text("name = 2")
    assert imports.code("impls.a.one", tmp_path) != found


def test_modules_that_differ_are_told_from_those_that_do_not(tmp_path):
    for name, text in (("base", "x = 1"), ("head", "x = 2")):
        folder = tmp_path / name / "impls"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "reference.py").write_text(text)
        (folder / "other.py").write_text("y = 1")
    folders = [tmp_path / "base", tmp_path / "head"]
    assert imports.differing(["impls.reference", "impls.other"], folders) == {"impls.reference"}


def test_an_error_of_ours_does_not_mean_slower(capsys):
    with pytest.raises(SystemExit) as stopped, comparison.exit_codes():
        raise RuntimeError("a bug")
    assert stopped.value.code == 2
    assert "a bug" in capsys.readouterr().err


def test_code_that_does_not_parse_is_compared_as_text(tmp_path):
    (tmp_path / "impls").mkdir()
    (tmp_path / "impls" / "__init__.py").touch()
    (tmp_path / "impls" / "one.py").write_text("def (")
    assert imports.code("impls.one", tmp_path)["impls.one"] == "def ("


@pytest.mark.parametrize(
    ("ratio", "width", "bad"), [(1.0, 0.01, False), (2.0, 0.01, True), (1.4, 0.2, None), (1.1, 0.2, False)]
)
def test_bisection_asks_which_end_a_commit_is_nearer_to(ratio, width, bad):
    """The bad commit takes twice as long; +10 % with a wide interval is still nearer to the good one."""
    assert bisect._is_bad(row("slower", 2.0), row("inconclusive", ratio, width)) is bad
    assert bisect._is_bad(row("slower", 2.0), None) is None


def test_code_of_every_row_is_found():
    from impls.catalog import STEPS, VARIANTS

    for row in (*VARIANTS, *STEPS):
        module = row.function.partition(":")[0]
        assert module in imports.code(module, ROOT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "BASE is required, or one of --with, --rows and --bisect"),
        (["a", "b", "c"], "3 commits given, at most 2 needed here"),
        (["a", "--budget", "soon"], "'soon' given, a time such as 90s, 10m or 1h needed"),
        (["a", "--threshold", "-1"], "'-1' given, a number from 0 to 100 needed"),
        (["a", "--only", "("], "'(' given, a regular expression needed"),
        (["--with", "torch"], "'torch' given, a requirement with a version such as torch==1.0 needed"),
        (["--with", "torch=2"], "'torch=2' given, a requirement such as torch==2.12.0 needed"),
    ],
)
def test_bad_arguments_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_commit_is_named(capsys):
    assert compare.main(["no-such-commit"]) == 2
    assert "'no-such-commit' given, a commit of this repository needed" in capsys.readouterr().err


def test_a_version_that_other_packages_exclude_is_refused():
    with pytest.raises(installations.Unbuildable, match="numpy<2 asked for"):
        installations._require("numpy<2", {"numpy": "2.4.6"})
    installations._require("numpy<3", {"numpy": "2.4.6"})


AXES = to_axes(OperatorCase("time", "relu", "forward", "numpy.out", 1024))
HOSTILE = "<img src=x onerror=alert(1)> | `a` *b* [c](d)\nnew line"


def row(verdict, ratio=None, width=0.01, **values):
    ends = {"low": ratio * (1 - width), "high": ratio * (1 + width), "visible": 0.021} if ratio else {}
    passes = [[(1e-3, 1e-3 * ratio), (1e-3, 1.01e-3 * ratio)]] * 5 if ratio else []
    defaults = {"base": 1e-3, "head": 1e-3 * ratio} if ratio else {}
    return Compared(
        f"row {verdict}", AXES, AXES, "seconds", verdict, ratio=ratio, passes=passes, **ends, **defaults | values
    )


def result(*rows, **values):
    sides = [
        Side(name, letter * 40, {"numpy": version})
        for name, letter, version in (("main", "a", "1"), ("HEAD", "b", "2"))
    ]
    defaults = {
        "schema": 1, "time_s": 1e9, "machine": "box", "fingerprint": "f00", "base": sides[0], "head": sides[1],
        "profile": "smoke", "threshold": 0.03, "budget_s": 60.0, "spent_s": 50.0, "passes": 5,
        "interrupted": False, "disturbed": False,
    }  # fmt: skip
    return Result(**defaults | values, rows=list(rows))


EVERY = result(
    row("same", 1.001), row("slower", 1.05), row("faster", 0.8), row("inconclusive", 1.02, 0.2),
    row("wrong", reason="bad"), row("failed", reason="crashed"), row("new"), row("gone"),
    replace(row("larger", 2.0), unit="bytes", base=1024, head=2048, passes=[]),
    replace(row("slower", 3.0), label="most"),
)  # fmt: skip


def test_the_table_begins_with_what_matters_and_the_largest_change():
    lines = report.table(EVERY).splitlines()
    assert [line.split()[0] for line in lines[1:11]] == [
        "wrong", "failed", "slower", "slower", "larger", "faster", "inconclusive", "gone", "new", "same",
    ]  # fmt: skip
    assert "most" in lines[3]
    assert "+5.0 %" in lines[4]
    assert "+4.0 … +6.0 %" in lines[4]
    assert "2.1 %" in lines[4]


def test_the_plot_in_text_marks_the_interval_the_value_and_what_lies_outside():
    middle = report.COLUMNS // 2
    same = report.plot(row("same", 1.0, 0.05))
    assert len(same) == report.COLUMNS
    assert same[middle] == "●"
    assert same.count("─") >= 8
    assert report.plot(row("slower", 3.0))[-1] == ">"
    assert report.plot(row("faster", 0.3))[0] == "<"
    assert report.plot(row("new")).strip() == "│"
    # No bytes against some.
    assert report.plot(Compared("a", AXES, AXES, "bytes", "smaller", base=64, head=0, ratio=0.0))[0] == "<"


@pytest.mark.parametrize(
    ("rows", "strict", "code"),
    [
        ([row("same", 1.0), row("faster", 0.9), row("new"), row("gone")], True, 0),
        ([row("slower", 1.1), row("failed")], False, 1),
        ([row("larger", 1.1)], False, 1),
        ([row("wrong"), row("same", 1.0)], False, 2),
        ([row("failed"), row("inconclusive", 1.0)], True, 2),
        ([row("inconclusive", 1.0)], True, 3),
        ([row("inconclusive", 1.0)], False, 0),
        # The budget was too small for a verdict.
        ([replace(row("inconclusive", 1.0), passes=[[(1.0, 1.0)]] * 4)], False, 2),
    ],
)
def test_exit_codes(rows, strict, code):
    assert report.exit_code(result(*rows), strict) == code


def test_a_disturbed_comparison_could_not_be_measured():
    assert report.exit_code(result(row("inconclusive", 1.1), disturbed=True)) == 2


SIDE = comparison.Side("main", "a" * 40, sys.executable, str(ROOT), {})
PLAN = comparison.Plan(SIDE, SIDE, "smoke", 0.03, 60.0, 1, [], [], [], [], [], [])


def test_a_plan_comes_back_from_json():
    case = OperatorCase("time", "relu", "forward", "numpy.out", 1024)
    plan = replace(PLAN, times=[(case, case)], controls=[case], other_truth=[case])
    assert comparison.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("base", "head", "verdict"),
    [
        ([4096], [4096], "same"),
        ([0, 1232], [1232], "same"),
        ([4096] * 4, [8192] * 4, "larger"),
        ([64] * 4, [0] * 4, "smaller"),
        # numpy-threads allocates a working buffer that is not the same in each call.
        ([100408, 98016, 100408, 100408], [65920, 65920, 65920, 65920], "inconclusive"),
        ([], [4096], "inconclusive"),
    ],
)
def test_bytes_are_compared_exactly(base, head, verdict):
    case = OperatorCase("transient_bytes", "relu", "forward", "numpy.out", 1024)
    found = {"base": base, "head": head}

    class Measured:
        def bytes_of(self, case):
            return [exact(value) for value in found[case.side]]

    assert comparison._of_bytes(Pair.of(case, case), Measured(), PLAN).verdict == verdict


def test_json_matches_the_printed_schema_and_comes_back():
    printed = schema.comparison_schema()
    content = json.loads(report.to_json(EVERY))
    assert matches(content, printed, printed["$defs"])
    assert not matches({**content, "unknown": 1}, printed, printed["$defs"])
    assert report.from_json(report.to_json(EVERY)) == EVERY


def test_foreign_text_is_no_markup():
    hostile = result(replace(row("slower", 1.1, reason=HOSTILE), label=HOSTILE), row("same", 1.0))
    hostile = replace(hostile, head=replace(hostile.head, name=HOSTILE))
    text = report.markdown(hostile)
    assert "<img" not in text
    assert not re.search(r"(?<!\\)\[c", text)
    # Each row is one line.
    assert sum(line.startswith("| slower") for line in text.splitlines()) == 1
    assert "<img src=x" not in report.page(hostile)


def test_the_page_shows_all_rows_and_passes():
    page = report.page(EVERY)
    for compared in EVERY.rows:
        assert compared.label in page
    assert page.count("<figure>") == 1
    assert "1,024 bytes" in page
    assert "nothing was compared" in report.page(result())


@pytest.mark.parametrize(
    ("taking_part", "selected", "budget_s"), [(128, 128, 480), (36, 128, 135), (1, 128, 120), (0, 0, 120)]
)
def test_a_part_of_the_rows_gets_a_part_of_the_time(taking_part, selected, budget_s):
    assert compare.default_budget_s(taking_part, selected) == budget_s


def test_rows_that_are_judged_by_another_truth_are_counted():
    sentence = "1 rows are judged by another reference"
    assert any(line.startswith(sentence) for line in report.sentences(result(row("same", 1.0, other_truth=True))))
    assert not any("another reference" in line for line in report.sentences(EVERY))


def test_in_a_disturbed_comparison_nothing_is_called_slower():
    control = comparison._undecided(row("slower", 1.1, control=True))
    assert (control.verdict, control.reason) == ("inconclusive", "slower, though its code is the same on both sides")
    changed = comparison._undecided(row("faster", 0.9))
    assert (changed.verdict, changed.reason) == ("inconclusive", "faster, but so are rows whose code is the same")


def test_packages_that_differ_are_named():
    assert "Packages: numpy 1 -> 2." in report.sentences(EVERY)
