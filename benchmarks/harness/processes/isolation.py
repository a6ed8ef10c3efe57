"""Processes that measure, each with a deadline for every request. Every ending is a measurement; none ends the caller.

A worker runs only while it works on a request: between requests it is stopped, so that no thread of it disturbs others.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.case import Case, Settings, StepCase, to_axes
from benchmarks.harness.machine import memory, software
from benchmarks.harness.measurement import Measurement, from_json
from benchmarks.harness.quantities.dispatch import Needs

TAIL_CHARACTERS = 2000
# How a process ends that something else has killed, for memory perhaps.
KILLED = "killed by SIGKILL"
# Seconds that a request about a training step on a GPU has at least: it may compile dozens of kernels, or try many.
GPU_STEP_LIMIT_S = 600.0

# The answer of a worker, or the measurement of a case during which it ended.
Answer = dict[str, Any] | Measurement


@dataclass(frozen=True)
class Request:
    """A request about a case. do: a verb of `worker`. arguments: further fields."""

    do: str
    case: Case | None
    arguments: Mapping[str, Any]

    def line(self) -> bytes:
        """The request as a worker reads it."""
        case = {"case": self.case.name, "axes": to_axes(self.case), "side": self.case.side} if self.case else {}
        content = {"do": self.do, **case, **self.arguments}
        return (json.dumps(content) + "\n").encode()


@dataclass(frozen=True)
class Installation:
    """The interpreter of a process, with the frameworks, and the folder of its `impls`.

    folder: first on its import path. Without one, this process's own interpreter shares its import path; another one
    uses its own.
    """

    python: str = sys.executable
    folder: Path | None = None


# The installation of this process.
OWN = Installation()


class Worker:
    """A process that measures the cases of one framework.

    shared: the folder of the arrays that the workers of a block share. cache_dir: an empty folder for compiled code;
    None for the default. probe_best_s: the fastest probe of earlier processes, 0 without one.
    installation: what it measures.

    Raises OSError if the interpreter cannot be executed.
    """

    def __init__(
        self,
        needs: Needs,
        settings: Settings,
        shared: Path | None = None,
        cache_dir: Path | None = None,
        probe_best_s: float = 0.0,
        installation: Installation = OWN,
    ) -> None:
        self._needs, self._settings = needs, settings
        self._folder = tempfile.TemporaryDirectory(prefix="relu-bench-")
        self._output = Path(self._folder.name, "output.txt")
        self._killed_before = memory.killed_by_kernel()
        self._received = b""
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        start = {
            "benchmarks": str(Path(__file__).parents[2]),
            "framework": needs.framework,
            "device": needs.device,
            "threads": needs.threads or settings.threads,
            "cores": settings.threads,
            "shared": str(shared) if shared else None,
            "cache_dir": str(cache_dir) if cache_dir else None,
            "probe_best_s": probe_best_s,
            "requests": requests,
            "replies": replies,
        }
        path = Path(self._folder.name, "request.json")
        path.write_text(json.dumps(start))
        with self._output.open("wb") as sink:
            # -P keeps this folder off the import path, where its modules could shadow others.
            self._process = subprocess.Popen(
                [installation.python, "-P", str(Path(__file__).with_name("worker.py")), str(path)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**_environment(installation), software.CHECKOUT: software.checkout()},
                start_new_session=True,
                pass_fds=(requests, replies),
            )
        os.close(requests)
        os.close(replies)

    def send(self, request: Request) -> None:
        """Let the process run, and send it a request."""
        self._signal(signal.SIGCONT)
        self.limit_s = _limit_s(request.case, self._needs, self._settings)
        self._deadline_s = time.monotonic() + self.limit_s
        try:
            os.write(self._requests, request.line())
        except BrokenPipeError:
            # `receive` finds out how it ended.
            pass

    def ask(self, request: Request) -> Answer:
        """Send a request and wait for the answer."""
        self.send(request)
        while (answer := self.receive()) is None:
            select.select([self._replies], [], [], self.left_s)
        return answer

    def receive(self) -> Answer | None:
        """The answer, if it is complete; the process is then stopped. A measurement where it ended without one."""
        ended = False
        while not ended and select.select([self._replies], [], [], 0)[0]:
            part = os.read(self._replies, 2**20)
            self._received += part
            ended = not part
        if self._received.endswith(b"\n"):
            line, self._received = self._received, b""
            self._signal(signal.SIGSTOP)
            answer = json.loads(line)
            return from_json(answer["failure"]) if "failure" in answer else answer
        if ended:
            return self._ending(self._process.wait())
        return self._ending(None) if self.left_s <= 0 else None

    @property
    def left_s(self) -> float:
        """Seconds left for the request."""
        return max(0.0, self._deadline_s - time.monotonic())

    def fileno(self) -> int:
        """The file descriptor that is ready when an answer is."""
        return self._replies

    def close(self) -> None:
        """Kill the process and its children, as far as they still run."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for descriptor in (self._requests, self._replies):
            os.close(descriptor)
        self._folder.cleanup()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def _ending(self, code: int | None) -> Measurement:
        """The measurement of a case during which the process ended with this exit code; None: at its deadline."""
        output = self._output.read_bytes()[-4 * TAIL_CHARACTERS :]
        tail = output.decode(errors="replace")[-TAIL_CHARACTERS:]
        if code is None:
            return Measurement("timeout", f"still running after {self.limit_s:g} s", output_tail=tail)
        if code == -signal.SIGKILL and memory.killed_by_kernel() > self._killed_before:
            return Measurement("memory", "killed by the kernel, which had no memory left", output_tail=tail)
        if code < 0:
            return Measurement("crashed", f"killed by {_signal_name(-code)}", output_tail=tail)
        return Measurement("crashed", f"the process ended with code {code} and no result", output_tail=tail)


def together(workers: Sequence[Worker]) -> Iterator[Worker]:
    """Yield the workers whose answer has come, or whose time is over, as soon as one has; all of them run."""
    ready, _, _ = select.select(workers, [], [], min(worker.left_s for worker in workers))
    yield from (worker for worker in workers if worker in ready or worker.left_s <= 0)


def _limit_s(case: Case | None, needs: Needs, settings: Settings) -> float:
    """Seconds that a process may take for a request about a case."""
    is_gpu_step = needs.device == "cuda" and isinstance(case, StepCase)
    return max(settings.limit_s, GPU_STEP_LIMIT_S) if is_gpu_step else settings.limit_s


def _environment(installation: Installation) -> dict[str, str]:
    """The environment of a measuring process: with malloc's thresholds fixed, unless a person set them."""
    inherited = memory.ALLOCATOR | os.environ
    if installation.folder:
        return {**inherited, "PYTHONPATH": str(installation.folder)}
    if installation.python != sys.executable:
        return {name: value for name, value in inherited.items() if name != "PYTHONPATH"}
    return {**inherited, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have no name.
        return f"signal {number}"
