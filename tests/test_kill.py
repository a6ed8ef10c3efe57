"""Test kill -9 at random moments: all files stay readable, and no finished measurement is repeated.

RELU_BENCH_TEST_KILLS: number of kills in each test (default 4).
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.measurement import MEASURED
from benchmarks.harness.processes import plan
from benchmarks.harness.processes.journal import Journal
from benchmarks.harness.series import asv_patterns
from scripts.report import results
from tests.checkout import Checkout

KILLS = int(os.environ.get("RELU_BENCH_TEST_KILLS", "4"))
VARIANTS = ("numpy.out", "numpy.inplace", "numpy-clip.out")
CASES = [OperatorCase("time", "relu", "forward", name, 2**15, "float32") for name in VARIANTS]


def workers() -> list[int]:
    """Return the measuring processes that this process has started."""
    listed = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "processes/worker.py"], capture_output=True)
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.parametrize("attempt", range(KILLS))
def test_killing_a_measuring_process_costs_no_case(attempt):
    measurements = {}
    settings = Settings(0.5, 600, 1, passes=1)
    runner = threading.Thread(target=lambda: measurements.update(plan.measured(CASES, settings)))
    runner.start()
    time.sleep(random.uniform(0.0, 1.5))
    for process in workers():
        os.kill(process, signal.SIGKILL)
    runner.join()
    assert {measurements[case].status for case in CASES} <= set(MEASURED)


def test_killing_the_runner_loses_at_most_the_running_round(tmp_path):
    checkout = Checkout(tmp_path / "checkout")
    checkout.asv("machine", "--yes")
    folder = tmp_path / "unfinished"
    plan.write_plan(folder, CASES)
    variables = {plan.VARIABLE: str(folder), "RELU_BENCH_BUDGET_S": "1.0", "RELU_BENCH_PASSES": "2"}
    for _ in range(KILLS):
        before = kept(folder)
        process = checkout.start(*asv_patterns(CASES), **variables)
        time.sleep(random.uniform(0.5, 6.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after = kept(folder)
        changed = {path.name for path, content in before.items() if not after[path].startswith(content)}
        assert changed == set()
        assert not readable(checkout).problems
    completed = checkout.measure(*asv_patterns(CASES), **variables)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    (journal,) = folder.glob("*/*.jsonl")
    rounds = Journal(journal).processes(CASES[0])
    # No round is measured twice.
    for _, process, _ in rounds:
        numbers = [taken.round for taken in process.slices]
        assert numbers == sorted(set(numbers))
    assert [number for number, _, _ in rounds] == [0, 1]
    table = readable(checkout).table
    assert set(table["variant"]) == set(VARIANTS)
    assert table["value"].notna().all()


def kept(folder: Path) -> dict[Path, bytes]:
    """Return all journals and measurements below a folder."""
    return {path: path.read_bytes() for path in folder.glob("*/*.json*")}


def readable(checkout):
    """Load all that asv and the harness wrote, after setting damaged result files aside as ./scripts/bench does."""
    script = "import scripts.run.bench as bench; bench._set_damaged_aside()"
    subprocess.run([sys.executable, "-c", script], cwd=checkout.folder, check=True, capture_output=True)
    try:
        return results.load(checkout.folder / ".asv/results", checkout.folder / ".asv/outcomes")
    except results.NoResults:
        return results.Results(results.tidy([]), [], {})
