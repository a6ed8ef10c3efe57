"""Run cases in a fresh process with a deadline. Every ending is a measurement; a case never ends the caller."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.harness.case import Case, Settings, to_json
from benchmarks.harness.machine import memory, software
from benchmarks.harness.measurement import Measurement, from_json
from benchmarks.harness.measurement import to_json as measurement_to_json

TAIL_CHARACTERS = 2000


def run(
    cases: Sequence[Case], settings: Settings, paths: Sequence[Path] = (), python: str = sys.executable
) -> list[Measurement]:
    """Measure cases one after the other in one process of their own, and return their measurements.

    paths: a file for each measurement, written as soon as its case ends, so that it survives if a process is killed.
    python: the interpreter of that process. This process's own shares its import path; another one uses its own, so
    `impls` and the frameworks must be installed there.

    A case that ends the process has the last measurement; the cases after it have none. The process and all
    that it started are killed when a case takes longer than `settings.limit_s`.

    Raises OSError if `python` cannot be executed.
    """
    with tempfile.TemporaryDirectory(prefix="relu-bench-") as name:
        folder = Path(name)
        paths = paths or [folder / f"{number}.json" for number in range(len(cases))]
        requests = [{**to_json(case, settings), "path": str(path)} for case, path in zip(cases, paths, strict=True)]
        killed_before = memory.killed_by_kernel()
        # The process writes a byte after each case.
        progress, done = os.pipe()
        request = {"benchmarks": str(Path(__file__).parents[2]), "done": done, "requests": requests}
        (folder / "request.json").write_text(json.dumps(request))
        with (folder / "output.txt").open("wb") as sink:
            # -P keeps this folder off the import path, where its modules could shadow others.
            process = subprocess.Popen(
                [python, "-P", str(Path(__file__).with_name("child.py")), str(folder / "request.json")],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**_environment(python), software.CHECKOUT: software.checkout()},
                start_new_session=True,
                pass_fds=(done,),
            )
            os.close(done)
            code = _wait(process, progress, settings.limit_s)
        tail = (folder / "output.txt").read_bytes()[-4 * TAIL_CHARACTERS :].decode(errors="replace")[-TAIL_CHARACTERS:]
        measurements = read_first(paths)
        if len(measurements) < len(cases):
            write(paths[len(measurements)], interrupted := _interrupted(code, settings, tail, killed_before))
            measurements.append(interrupted)
        return measurements


def _environment(python: str) -> dict[str, str]:
    """The environment of a measuring process: with this process's import path if it has the same interpreter."""
    if python != sys.executable:
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def write(path: Path, measurement: Measurement) -> None:
    """Write a measurement to a file, which then exists completely or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(measurement_to_json(measurement)))
    os.replace(partial, path)


def read(path: Path) -> Measurement | None:
    """The measurement that `write` wrote to a file; None if it is missing or damaged."""
    try:
        return from_json(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def read_first(paths: Iterable[Path]) -> list[Measurement]:
    """The measurements in these files, up to the first file that holds none."""
    measurements: list[Measurement] = []
    for path in paths:
        if (measurement := read(path)) is None:
            break
        measurements.append(measurement)
    return measurements


def _wait(process: subprocess.Popen, progress: int, limit_s: float) -> int | None:
    """The exit code, or None if a case takes longer than the limit. Sleeps meanwhile: polling would cost CPU time."""
    handle = os.pidfd_open(process.pid)
    watched = [handle, progress]
    try:
        while ready := select.select(watched, [], [], limit_s)[0]:
            if handle in ready:
                return process.wait()
            if not os.read(progress, 1):
                watched = [handle]
        return None
    finally:
        os.close(handle)
        os.close(progress)
        _kill_session(process)


def _interrupted(code: int | None, settings: Settings, tail: str, killed_before: int) -> Measurement:
    """The measurement of a case during which its process ended with this exit code; None: at its deadline."""
    if code is None:
        return Measurement("timeout", f"still running after {settings.limit_s:g} s", output_tail=tail)
    if code == -signal.SIGKILL and memory.killed_by_kernel() > killed_before:
        return Measurement("memory", "killed by the kernel, which had no memory left", output_tail=tail)
    if code < 0:
        return Measurement("crashed", f"killed by {_signal(-code)}", output_tail=tail)
    return Measurement("crashed", f"the process ended with code {code} and no result", output_tail=tail)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have no name.
        return f"signal {number}"


def _kill_session(process: subprocess.Popen) -> None:
    """Kill the process and its children, as far as they still run, and reap it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
