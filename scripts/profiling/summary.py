"""Parts that profiles of steps and of calls share: times without a profiler, the operators, machine and commit."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.harness.machine import linux, software
from scripts.claims.document import LONGEST_LABEL, printable
from scripts.profiling.document import Operator
from scripts.profiling.spans import Recorded, covered, medians_s

WARM_UP = 5
# The first steps or calls under a profiler take longer.
PROFILED_WARM_UP = 2


def seconds(call: Callable[..., Any], supply: Callable[[], Sequence[Any]], count: int) -> list[float]:
    """Seconds of calls without a profiler. supply: returns the arguments of the next one."""
    found = []
    for _ in range(count):
        arguments = supply()
        start_s = time.perf_counter()
        call(*arguments)
        found.append(time.perf_counter() - start_s)
    return found


def operators(recorded: Sequence[Recorded]) -> list[Operator]:
    """The operators of recorded steps or calls."""
    covers = covered(recorded)
    return [
        Operator(phase, _label(layer), _label(operator), 1e3 * seconds, covers[phase, layer, operator])  # type: ignore[arg-type]
        for (phase, layer, operator), seconds in medians_s(recorded).items()
    ]


def machine() -> str:
    """The processor, and the number of cores that this process may use."""
    return _label(f"{linux.cpu()}, {len(os.sched_getaffinity(0))} cores")


def commit() -> str:
    """The abbreviated commit of the checkout, and whether files were changed; empty without git."""
    found, _, state = software.checkout().partition(" ")
    return f"{found[:8]} {state}".strip()


def lines(found: Sequence[Operator], whole_ms: float, unexplained_ms: float) -> Iterator[str]:
    """Yield a table of operators for the terminal, without those that take less than a thousandth of the whole."""
    yield f"{'phase':9} {'layer':8} {'operator':44} {'ms':>8} {'share':>6}  computes"
    for each in sorted(found, key=lambda each: -each.ms):
        if each.ms >= whole_ms / 1000:
            yield (
                f"{each.phase:9} {each.layer[:8]:8} {each.operator[:44]:44} {each.ms:8.3f} {each.ms / whole_ms:6.1%}  "
                f"{', '.join(each.covers)}"
            ).rstrip()
    yield f"{'':9} {'':8} {'not explained':44} {unexplained_ms:8.3f} {unexplained_ms / whole_ms:6.1%}"


def _label(text: str) -> str:
    return printable(text, LONGEST_LABEL)
