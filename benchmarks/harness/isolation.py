"""Run cases in a fresh process with a deadline. Every ending is an outcome: the caller never dies of a case."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import memory, software
from benchmarks.harness.case import Case, Settings, to_json
from benchmarks.harness.outcomes import Outcome

TAIL_CHARACTERS = 2000


def run(cases: Sequence[Case], settings: Settings) -> list[Outcome]:
    """The outcomes of the first cases of a list, measured one after the other in one process of their own.

    Where a case ends that process, its outcome is the last one of the result, and the cases behind
    it have none. The process sees the import path of this one. It and all that it started are
    killed when one case takes longer than `settings.limit_s`.
    """
    with tempfile.TemporaryDirectory(prefix="relu-bench-") as name:
        folder = Path(name)
        pythonpath = os.pathsep.join(entry for entry in sys.path if entry)
        requests = [to_json(case, settings) for case in cases]
        killed_before = memory.killed_by_kernel()
        # The process writes a byte for each case that it is done with.
        progress, done = os.pipe()
        request = {"folder": name, "benchmarks": str(Path(__file__).parents[1]), "done": done, "requests": requests}
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
        outcomes = [
            Outcome(**json.loads((folder / f"{number}.json").read_text()))
            for number in range(len(cases))
            if (folder / f"{number}.json").exists()
        ]
        return (
            outcomes if len(outcomes) == len(cases) else [*outcomes, _broken_off(code, settings, tail, killed_before)]
        )


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


def _broken_off(code: int | None, settings: Settings, tail: str, killed_before: int) -> Outcome:
    if code is None:
        return Outcome("timeout", f"still running after {settings.limit_s:g} s", output_tail=tail)
    if code == -signal.SIGKILL and memory.killed_by_kernel() > killed_before:
        return Outcome("memory", "killed by the kernel, which had no memory left", output_tail=tail)
    if code < 0:
        return Outcome("crashed", f"killed by {signal.Signals(-code).name}", output_tail=tail)
    return Outcome("crashed", f"the process ended with code {code} and no result", output_tail=tail)


def _kill_session(process: subprocess.Popen) -> None:
    """End what is left of the process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
