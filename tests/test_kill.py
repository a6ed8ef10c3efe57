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

import pytest

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.processes import isolation, plan
from scripts.report import results
from tests.checkout import Checkout

KILLS = int(os.environ.get("RELU_BENCH_TEST_KILLS", "4"))
VARIANTS = ("numpy.out", "numpy.inplace", "numpy-clip.out")
CASES = [OperatorCase("time", "relu", "forward", name, 2**15, "float32") for name in VARIANTS]


@pytest.mark.parametrize("attempt", range(KILLS))
def test_killing_a_measuring_process_ends_only_its_case(attempt):
    measurements = []
    runner = threading.Thread(target=lambda: measurements.extend(isolation.run(CASES, Settings(0.3, 600, 1))))
    runner.start()
    time.sleep(random.uniform(0.0, 1.0))
    killed = (
        subprocess.run(["pkill", "-KILL", "-P", str(os.getpid()), "-f", "harness/processes/child.py"]).returncode == 0
    )
    runner.join()
    statuses = [measurement.status for measurement in measurements]
    if killed and statuses != ["ok"] * len(CASES):
        assert statuses == ["ok"] * (len(measurements) - 1) + ["crashed"]
        assert measurements[-1].reason == "killed by SIGKILL"
    else:
        assert statuses == ["ok"] * len(CASES)


def test_killing_the_runner_loses_at_most_the_running_measurement(tmp_path):
    checkout = Checkout(tmp_path / "checkout")
    checkout.asv("machine", "--yes")
    plan_folder = tmp_path / "unfinished"
    plan_folder.mkdir()
    plan.write_plan(plan_folder, CASES)
    pattern = rf"Forward\.track_time\('({'|'.join(VARIANTS)})', 32768, 'float32'\)"
    variables = {plan.VARIABLE: str(plan_folder), "RELU_BENCH_BUDGET_S": "0.6"}
    for _ in range(KILLS):
        before = {path.name: path.read_bytes() for path in plan_folder.glob("*-time-*.json")}
        process = checkout.start(pattern, **variables)
        time.sleep(random.uniform(0.5, 6.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after = {path.name: path.read_bytes() for path in plan_folder.glob("*-time-*.json")}
        assert before.items() <= after.items()
        assert not readable(checkout).problems
    completed = checkout.measure(pattern, **variables)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    table = readable(checkout).table
    assert set(table["variant"]) == set(VARIANTS)
    assert table["value"].notna().all()


def readable(checkout):
    """Load all that asv and the harness wrote, after setting damaged result files aside as ./scripts/bench does."""
    script = "import scripts.run.bench as bench; bench._set_damaged_aside()"
    subprocess.run([sys.executable, "-c", script], cwd=checkout.folder, check=True, capture_output=True)
    try:
        return results.load(checkout.folder / ".asv/results", checkout.folder / ".asv/outcomes")
    except results.NoResults:
        return results.Results(results.tidy([]), [], {})
