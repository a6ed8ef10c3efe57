"""Run cases in a fresh process with a deadline. Every ending is an outcome: the caller never dies of a case."""

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


def run(cases: Sequence[Case], settings: Settings, paths: Sequence[Path] = ()) -> list[Measurement]:
    """The outcomes of the first cases of a list, measured one after the other in one process of their own.

    paths: files for the outcomes, each written when its case has ended, whoever is killed then. Where
    a case ends that process, its outcome is the last one of the result, and the cases behind it have
    none. The process sees the import path of this one. It and all that it started are killed when one
    case takes longer than `settings.limit_s`.
    """
    with tempfile.TemporaryDirectory(prefix="relu-bench-") as name:
        folder = Path(name)
        pythonpath = os.pathsep.join(entry for entry in sys.path if entry)
        paths = paths or [folder / f"{number}.json" for number in range(len(cases))]
        requests = [{**to_json(case, settings), "path": str(path)} for case, path in zip(cases, paths, strict=True)]
        killed_before = memory.killed_by_kernel()
        # The process writes a byte for each case that it is done with.
        progress, done = os.pipe()
        request = {"benchmarks": str(Path(__file__).parents[2]), "done": done, "requests": requests}
        (folder / "request.json").write_text(json.dumps(request))
        with (folder / "output.txt").open("wb") as sink:
            # -P keeps this file's folder off the path, where its modules could shadow others.
            process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("child.py")), str(folder / "request.json")],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": pythonpath, software.CHECKOUT: software.checkout()},
                start_new_session=True,
                pass_fds=(done,),
            )
            os.close(done)
            code = _wait(process, progress, settings.limit_s)
        tail = (folder / "output.txt").read_bytes()[-4 * TAIL_CHARACTERS :].decode(errors="replace")[-TAIL_CHARACTERS:]
        outcomes = read_first(paths)
        if len(outcomes) < len(cases):
            write(paths[len(outcomes)], broken_off := _broken_off(code, settings, tail, killed_before))
            outcomes.append(broken_off)
        return outcomes


def write(path: Path, outcome: Measurement) -> None:
    """Keep an outcome in a file, which is there as a whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(measurement_to_json(outcome)))
    os.replace(partial, path)


def read(path: Path) -> Measurement | None:
    """What `write` kept; None where there is nothing, or it is damaged."""
    try:
        return from_json(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def read_first(paths: Iterable[Path]) -> list[Measurement]:
    """The outcomes in some files, up to the first that holds none."""
    outcomes: list[Measurement] = []
    for path in paths:
        if (outcome := read(path)) is None:
            break
        outcomes.append(outcome)
    return outcomes


def _wait(process: subprocess.Popen, progress: int, limit_s: float) -> int | None:
    """The exit code, or None where a case takes longer than the limit; asleep meanwhile, as polling would disturb."""
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


def _broken_off(code: int | None, settings: Settings, tail: str, killed_before: int) -> Measurement:
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
        # Real-time signals have no names.
        return f"signal {number}"


def _kill_session(process: subprocess.Popen) -> None:
    """End what is left of the process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
