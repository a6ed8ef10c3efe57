"""Compare a commit with an equal one, again and again: every row that is called changed is a false alarm.

python -m scripts.verify.false_alarms [--runs 20] [--noise] [options of ./scripts/compare]: with .venv/report. Each run
adds a line to reports/false-alarms.jsonl, from which the totals are taken, so a series may be measured in parts. Fails
if more than 1 in 1,000 verdicts is a false alarm, or if more than 1 in 20 runs has one.
"""

import argparse
import json
import multiprocessing
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.arguments import positive
from scripts.report.comparison import NOT_MEASURED
from scripts.run.bench import git
from scripts.run.comparison import REPORTS
from scripts.run.store import IDENTITY
from scripts.setup.pins import ROOT

RUNS = REPORTS / "false-alarms.jsonl"
# Series of runs, by whether they were measured beside noise.
KINDS = {"quiet": False, "beside noise": True}
FALSE = ("slower", "faster", "larger", "smaller")
MOST_ROWS, MOST_RUNS = 1 / 1000, 1 / 20
# Seconds for which the noise computes and rests, at most.
BURST_S = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.false_alarms", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--runs", type=positive, default=20, help="(default: %(default)s)")
    parser.add_argument("--noise", action="store_true", help="beside a process that computes in bursts")
    parser.add_argument("--totals", action="store_true", help="measure nothing, print the totals so far")
    options, others = parser.parse_known_args()
    for number in range(0 if options.totals else options.runs):
        with _noise() if options.noise else _quiet():
            line = _run(others) | {"noise": options.noise}
        with RUNS.open("a") as sink:
            sink.write(json.dumps(line) + "\n")
        print(f"run {number + 1} of {options.runs}: {line}", flush=True)
    lines = [json.loads(line) for line in RUNS.read_text().splitlines()]
    return max(_totals(name, [line for line in lines if line["noise"] == noise]) for name, noise in KINDS.items())


def _run(options: list[str]) -> dict[str, object]:
    """Compare HEAD with an empty commit on top of it; return the verdicts on times, false alarms, and seconds.

    Raises CalledProcessError if it could not be measured.
    """
    start_s = time.monotonic()
    # A commit of its own has an installation of its own.
    empty = git(*IDENTITY, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "empty")
    command = [sys.executable, "-m", "scripts.run.compare", "HEAD", empty, *options]
    code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    # Few passes fit into the time beside noise, which also is code 2.
    if code not in (0, 1, NOT_MEASURED):
        raise subprocess.CalledProcessError(code, command)
    content = json.loads((REPORTS / "comparison.json").read_text())
    rows = content["rows"]
    return {
        "options": options,
        "code": code,
        "seconds": round(time.monotonic() - start_s),
        "passes": content["passes"],
        "verdicts": Counter(row["verdict"] for row in rows if row["unit"] == "seconds"),
        "false": [[row["label"], row["verdict"], row["ratio"]] for row in rows if row["verdict"] in FALSE],
    }


def _totals(name: str, lines: list[dict]) -> int:
    """Print the totals of some runs; return 1 if there are too many false alarms, else 0."""
    if not lines:
        return 0
    verdicts: Counter[str] = Counter()
    for line in lines:
        verdicts.update(line["verdicts"])
    rows, false = sum(verdicts.values()), sum(len(line["false"]) for line in lines)
    runs = sum(bool(line["false"]) for line in lines)
    print(f"{name}: {false} false alarms in {rows} verdicts, in {runs} of {len(lines)} runs; {dict(verdicts)}")
    return int(false > MOST_ROWS * rows or runs > max(1, MOST_RUNS * len(lines)))


@contextmanager
def _noise() -> Iterator[None]:
    """Compute in another process meanwhile."""
    process = multiprocessing.Process(target=_compute_in_bursts, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


@contextmanager
def _quiet() -> Iterator[None]:
    yield


def _compute_in_bursts() -> None:
    while True:
        end_s = time.monotonic() + random.uniform(0, BURST_S)
        while time.monotonic() < end_s:
            sum(range(10_000))
        time.sleep(random.uniform(0, BURST_S))


if __name__ == "__main__":
    sys.exit(main())
