"""Write recorded steps as a trace that Perfetto (ui.perfetto.dev) and Chrome (chrome://tracing) open.

Source: Google, "Trace Event Format", 2016.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from scripts.profiling.spans import Recorded

PROCESS, STEPS_THREAD, PHASES_THREAD, FIRST_THREAD = 1, 1, 2, 3


def dumped(title: str, steps: Sequence[Recorded]) -> str:
    """The trace as JSON. title: names the process, for example by its row."""
    origin_s = min(step.start_s for step in steps)
    events = [event for step in steps for event in _events(step, origin_s)]
    threads = sorted({event["tid"] for event in events})
    named = {STEPS_THREAD: "steps", PHASES_THREAD: "phases"}
    names = [
        _metadata("process_name", 0, title),
        *(_metadata("thread_name", each, named.get(each, f"thread {each - FIRST_THREAD}")) for each in threads),
    ]
    return json.dumps({"traceEvents": names + events, "displayTimeUnit": "ms"}, allow_nan=False)


def _events(step: Recorded, origin_s: float) -> Iterable[dict[str, Any]]:
    def complete(name: str, category: str, start_s: float, end_s: float, thread: int, **facts: str) -> dict[str, Any]:
        return {
            "name": name, "cat": category, "ph": "X", "pid": PROCESS, "tid": thread,
            "ts": round(1e6 * (start_s - origin_s), 3), "dur": round(1e6 * (end_s - start_s), 3), "args": facts,
        }  # fmt: skip

    yield complete("step", "step", step.start_s, step.end_s, STEPS_THREAD)
    before_s = step.start_s
    for phase, end_s in step.phases:
        yield complete(phase, "phase", before_s, end_s, PHASES_THREAD)
        before_s = end_s
    for span in step.spans:
        name = f"{span.layer}: {span.operator}"
        facts = {"phase": span.phase, "layer": span.layer, "operator": span.operator, "covers": ", ".join(span.covers)}
        yield complete(name, "operator", span.start_s, span.end_s, FIRST_THREAD + span.thread, **facts)


def _metadata(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": PROCESS, "tid": thread, "args": {"name": name}}
