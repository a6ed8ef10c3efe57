"""Compare the times of two runs of one commit, row by row.

python -m scripts.verify.repeatability FIRST SECOND: the names that the runs were stored under, for example with
./scripts/bench --profile core --machine FIRST.
python -m scripts.verify.repeatability --plain: runs asv's own timing of the same calls (scripts/verify/plain/) twice
and compares these. Needs an environment with the frameworks and asv (.venv/test).
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.harness.case import AXES, ROOFS
from scripts.report import results
from scripts.setup.pins import ROOT

ROW = ["commit", "env", *AXES]
SHARES_PERCENT = (1, 3, 5, 10)
# The paired ratios of a record (measurement.Measurement.ratios) that are compared.
RATIOS = ("fastest", "fresh", "roof")


def main() -> int:
    options = _options()
    if options.plain:
        both = plain(options.only.pattern)
        failed = both["percent"].isna().sum()
        print(summary("asv's own timing", both["percent"].dropna()))
        if failed or both.empty:
            print(f"repeatability: {failed} of {len(both)} selected rows failed", file=sys.stderr)
        return int(failed > 0 or both.empty)
    try:
        table = results.load(ROOT / ".asv" / "results", ROOT / ".asv" / "outcomes").table
    except results.NoResults as error:
        print(f"repeatability: {error}", file=sys.stderr)
        return 1
    pairs = paired(table, options.first, options.second)
    if pairs.empty:
        names = ", ".join(sorted(table["machine"].unique()))
        print(f"repeatability: no commit was measured under both names; stored names: {names}", file=sys.stderr)
        return 1
    pairs = pairs[_row(pairs).str.contains(options.only)]
    print(summary("times", pairs["percent"]))
    print(summary("steady in both", pairs["percent"][pairs["steady"]]))
    print(summary("others", pairs["percent"][~pairs["steady"]]))
    for name in RATIOS:
        print(summary(f"ratios to {name}", pairs[f"{name}_percent"].dropna()))
    return 0


def summary(name: str, percent: pd.Series) -> str:
    """Return a line about differences in percent."""
    shares = ", ".join(f"{(percent > limit).mean():.0%} > {limit} %" for limit in SHARES_PERCENT)
    return f"{name:18} {len(percent):4} compared: median {percent.median():.1f} % apart; {shares}"


def paired(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return the times that both runs have: ROW, `percent` between the two, and `steady` if both are.

    fastest_percent and so on: between the paired ratios; NaN where the ratios are to different rows.
    """
    times = table[(table["quantity"] == "time") & table["value"].notna() & ~table["kind"].isin(ROOFS)]
    columns = [*ROW, "value", "status", *(f"{name}_{part}" for name in RATIOS for part in ("ratio", "to"))]
    runs = [times[times["machine"] == name][columns] for name in (first, second)]
    both = runs[0].merge(runs[1], on=ROW, suffixes=("_1", "_2"))
    both["percent"] = 100 * (both["value_2"] / both["value_1"] - 1).abs()
    for name in RATIOS:
        apart = 100 * (both[f"{name}_ratio_2"] / both[f"{name}_ratio_1"] - 1).abs()
        both[f"{name}_percent"] = apart.where(both[f"{name}_to_1"] == both[f"{name}_to_2"])
    both["steady"] = (both["status_1"] == "ok") & (both["status_2"] == "ok")
    return both


def _row(pairs: pd.DataFrame) -> pd.Series:
    """Return operator and direction, or network, followed by the name of the row."""
    subject = (pairs["operator"] + " " + pairs["direction"]).where(pairs["operator"] != "", pairs["network"])
    return subject + " " + pairs["variant"]


def plain(only: str) -> pd.DataFrame:
    """Return the medians of two runs of asv's own timing: `first`, `second`, and `percent` between them; NaN: failed.

    only: a regular expression for operator, direction and row.
    """
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_plain_run(Path(folder, name), only) for name in ("first", "second"))
    both = pd.DataFrame({"first": first, "second": second}, dtype="float64")
    both["percent"] = 100 * (both["second"] / both["first"] - 1).abs()
    return both


def _plain_run(folder: Path, only: str) -> dict[str, float | None]:
    """Return seconds by parameters of the selected calls; None for those that failed."""
    folder.mkdir()
    settings = {
        "version": 1,
        "repo": str(ROOT),
        "branches": ["HEAD"],
        "environment_type": "virtualenv",
        "benchmark_dir": str(ROOT / "scripts" / "verify" / "plain"),
        "results_dir": str(folder / "results"),
        "env_dir": str(folder / "env"),
    }
    (folder / "asv.conf.json").write_text(json.dumps(settings))
    command, environment = [sys.executable, "-m", "asv"], {**os.environ, "ASV_PYTHONPATH": str(ROOT)}
    machine = ["--machine", "plain"]
    subprocess.run([*command, "machine", "--yes", *machine], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    python = ["--environment", f"existing:{sys.executable}", "--set-commit-hash", head.stdout.strip()]
    # asv matches the pattern against the name and the parameters as it writes them.
    selection = ["--bench", rf"time_call\('.*(?:{only.removeprefix('^')})"]
    subprocess.run([*command, "run", *machine, *python, *selection], cwd=folder, env=environment, stdout=sys.stderr)
    paths = [path for path in (folder / "results" / "plain").glob("*.json") if path.name != "machine.json"]
    if not paths:
        return {}
    content = json.loads(paths[0].read_text())
    columns = dict(zip(content["result_columns"], content["results"]["time_relu.Relu.time_call"], strict=False))
    combinations = map(", ".join, itertools.product(*columns["params"]))
    # NaN: not selected.
    return {name: number for name, number in zip(combinations, columns["result"], strict=True) if number == number}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.repeatability", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("first", nargs="?", help="name of a run (./scripts/bench --machine)")
    parser.add_argument("second", nargs="?", help="name of the other run")
    parser.add_argument(
        "--only",
        type=re.compile,
        default="",
        help="regular expression for operator, direction and row, such as 'forward numpy' (default: all rows)",
    )
    parser.add_argument("--plain", action="store_true", help="run asv's own timing twice and compare these runs")
    options = parser.parse_args()
    if options.plain == bool(options.second) or options.plain == bool(options.first):
        parser.error("give either the names of two runs or --plain")
    return options


if __name__ == "__main__":
    sys.exit(main())
