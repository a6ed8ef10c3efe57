"""Write recorded steps as a trace that Perfetto (ui.perfetto.dev) opens.

Source: Google, "Trace Event Format", 2016.
"""

import json
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

from scripts.profiling.memory import buffers
from scripts.profiling.memory.buffers import Recording
from scripts.profiling.spans import Recorded

MEMORY_PROCESS = 2
PROCESS, STEPS_THREAD, PHASES_THREAD, FIRST_THREAD = 1, 1, 2, 3
# Streams of a GPU, behind all threads of the host.
FIRST_STREAM = 1_000


def dumped(title: str, steps: Sequence[Recorded], memory: Recording | None = None, whole: str = "step") -> str:
    """The trace as JSON. title: names the process, for example by its row. whole: what was recorded, "step" or "call".

    memory: of another one, whose layers and bytes are a second process; left out without a clock.
    """
    origin_s = min(step.start_s for step in steps)
    events = [event for step in steps for event in _events(step, origin_s, whole)]
    threads = sorted({event["tid"] for event in events})
    named = {STEPS_THREAD: f"{whole}s", PHASES_THREAD: "phases"}
    names = [
        _metadata("process_name", 0, title),
        *(_metadata("thread_name", each, named.get(each) or _track(each)) for each in threads),
    ]
    if memory and memory.in_seconds:
        names.append(_metadata("process_name", 0, f"memory of another {whole}", MEMORY_PROCESS))
        events += _memory_events(memory)
    return json.dumps({"traceEvents": names + events, "displayTimeUnit": "ms"}, allow_nan=False)


def _memory_events(memory: Recording) -> Iterable[dict[str, Any]]:
    """Counters of the bytes of each kind, and the layer that runs."""
    origin_s = memory.places[0].start
    moments = buffers.curve(memory)
    for moment_s, live in moments:
        if moment_s < inf:
            at_us = round(1e6 * (moment_s - origin_s), 3)
            yield {"name": "live bytes", "ph": "C", "pid": MEMORY_PROCESS, "ts": at_us, "args": live}
    for place in memory.places:
        at_us = round(1e6 * (place.start - origin_s), 3)
        yield {"name": place.label, "ph": "i", "s": "p", "pid": MEMORY_PROCESS, "tid": 1, "ts": at_us}


def _events(step: Recorded, origin_s: float, whole: str) -> Iterable[dict[str, Any]]:
    def complete(name: str, category: str, start_s: float, end_s: float, thread: int, **facts: str) -> dict[str, Any]:
        return {
            "name": name, "cat": category, "ph": "X", "pid": PROCESS, "tid": thread,
            "ts": round(1e6 * (start_s - origin_s), 3), "dur": round(1e6 * (end_s - start_s), 3), "args": facts,
        }  # fmt: skip

    yield complete(whole, whole, step.start_s, step.end_s, STEPS_THREAD)
    before_s = step.start_s
    for phase, end_s in step.phases:
        yield complete(phase, "phase", before_s, end_s, PHASES_THREAD)
        before_s = end_s
    tracks = [(step.host, FIRST_THREAD), (step.spans, FIRST_STREAM if step.host else FIRST_THREAD)]
    for span, first in ((span, first) for spans, first in tracks for span in spans):
        name = f"{span.layer}: {span.kernel or span.operator}"
        facts = {"phase": span.phase, "layer": span.layer, "operator": span.operator, "covers": ", ".join(span.covers)}
        kind = "kernel" if first == FIRST_STREAM else "operator"
        yield complete(name, kind, span.start_s, span.end_s, first + span.thread, **facts)


def _track(thread: int) -> str:
    return f"GPU stream {thread - FIRST_STREAM}" if thread >= FIRST_STREAM else f"thread {thread - FIRST_THREAD}"


def _metadata(kind: str, thread: int, name: str, process: int = PROCESS) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
