"""Test the progress bar of an asv run: counts of records, the end of asv's processes, and runs without measurements."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

from benchmarks.harness.case import OperatorCase
from benchmarks.harness.measurement import Measurement, Slice
from benchmarks.harness.processes.journal import Journal
from scripts.run import progress
from scripts.setup.pins import ROOT

CASE = OperatorCase("time", "relu", "forward", "numpy.out", 2**10)
RECORD = f"""
from benchmarks.harness.case import OperatorCase
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.processes import records
print("· Building for virtualenv")
records.append({CASE!r}, {Measurement("timeout", "too slow")!r}, "0123456789")
"""


def test_new_records_are_counted(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress, "POLL_S", 0.1)
    folder, log = tmp_path / "outcomes", tmp_path / "missing" / "logs" / "asv.log"
    environment = progress.environment(RELU_BENCH_OUTCOMES=str(folder))
    command = [sys.executable, "-c", RECORD]
    assert progress.run(command, log, 3, folder, environment, ROOT, tmp_path) == 0
    printed = capfd.readouterr().err
    assert f"{CASE.label}: timeout: too slow" in printed
    assert "| 1/3 [" in printed
    # Records of earlier runs do not count.
    assert progress.run([sys.executable, "-c", "exit(3)"], log, 3, folder, environment, ROOT, tmp_path) == 3
    assert "| 1/3 [" not in capfd.readouterr().err


def test_the_bar_shows_preparation_by_asv(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress, "POLL_S", 0.1)
    monkeypatch.setattr(progress, "FILE_S", 0.2)
    command = [sys.executable, "-c", "import time; print('·· Installing requirements', flush=True); time.sleep(1)"]
    progress.run(command, tmp_path / "asv.log", 1, tmp_path / "outcomes", os.environ, tmp_path, tmp_path)
    assert "asv prepares: Installing requirements" in capfd.readouterr().err


def test_the_bar_shows_the_block_that_is_measured(tmp_path, monkeypatch, capfd):
    """Its cases leave no record until it is done. Journals of an earlier run do not show."""
    monkeypatch.setattr(progress, "POLL_S", 0.1)
    monkeypatch.setattr(progress, "FILE_S", 0.2)
    (tmp_path / "env").mkdir()
    old, new = Journal(tmp_path / "env" / "old.jsonl"), Journal(tmp_path / "env" / "relu-forward.jsonl")
    old.round(0, {})
    command = [sys.executable, "-c", "import time; time.sleep(2)"]
    writer = threading.Timer(1, lambda: [new.round(0, {CASE: Slice(number, [1.0])}) for number in range(3)])
    writer.start()
    progress.run(command, tmp_path / "asv.log", 1, tmp_path / "outcomes", os.environ, tmp_path, tmp_path)
    printed = capfd.readouterr().err
    assert "asv prepares: " in printed
    assert "relu-forward: 3 rounds" in printed
    assert "old:" not in printed


def test_asv_ends_its_processes_when_the_run_is_interrupted(tmp_path):
    """Only the runner gets the signal, as from `kill -INT`; a terminal would send it to asv too."""
    asv = "import time\nprint('started', flush=True)\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('ended')"
    script = f"""
import sys
from pathlib import Path
from scripts.run import progress
progress.END_S = 0.5
folder = Path({str(tmp_path)!r})
progress.run([sys.executable, "-c", {asv!r}], folder / "asv.log", 1, folder / "outcomes", {{}}, folder, folder)
"""
    # A shell has the commands that it runs in the background ignore the signal, and their children inherit that.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    runner = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL, preexec_fn=heeding)
    log = tmp_path / "asv.log"
    while runner.poll() is None and not (log.exists() and "started" in log.read_text()):
        time.sleep(0.1)
    runner.send_signal(signal.SIGINT)
    runner.wait(30)
    assert log.read_text().split() == ["started", "ended"]
