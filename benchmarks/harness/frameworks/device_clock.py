"""Device time of GPU calls, between two events that the device records."""

from collections.abc import Callable, Sequence
from typing import Any

# The host usually queues a call in less than QUEUING_S. Each try allows a multiple of that.
QUEUING_S, TRIES = 2e-4, (1, 4, 16)


def elapsed_s(
    event: Callable[[], Any],
    keep_busy: Callable[[float], None],
    function: Callable[..., Any],
    arguments: Callable[[], Sequence[tuple[Any, ...]]],
    meanwhile: Callable[[], None],
) -> float | None:
    """Seconds from the start of the first call to the end of the last; None if the host never was ahead of the device.

    event(): returns a new event with record, query, synchronize and elapsed_time, as in PyTorch and Numba.
    keep_busy(seconds): occupies an idle device. All calls are queued during that time; otherwise the result would
    include waits for the host. arguments(): returns the arguments of each call, new for each try.
    meanwhile(): is called once the device has started the calls.
    """
    for factor in TRIES:
        calls, start, end = arguments(), event(), event()
        keep_busy(factor * QUEUING_S * len(calls))
        start.record()
        for call in calls:
            function(*call)
        end.record()
        was_ahead = not start.query()
        start.synchronize()
        meanwhile()
        end.synchronize()
        if was_ahead:
            return start.elapsed_time(end) / 1e3
    return None
