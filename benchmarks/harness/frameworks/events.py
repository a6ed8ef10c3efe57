"""Seconds that a GPU takes for calls in a row, between two of its own events."""

from collections.abc import Callable, Sequence
from typing import Any

# A call takes the host less than this, most of the time; where it takes more, so much more that is tried.
QUEUING_S, TRIES = 2e-4, (1, 4, 16)


def elapsed_s(
    event: Callable[[], Any],
    keep_busy: Callable[[float], None],
    function: Callable[..., Any],
    arguments: Callable[[], Sequence[tuple[Any, ...]]],
    meanwhile: Callable[[], None],
) -> float | None:
    """Seconds from the first call's start to the last one's end; None where the host never was ahead of the device.

    event(): a new one, with record, query, synchronize and elapsed_time as PyTorch and Numba have them.
    keep_busy(seconds): gives an idle device something to do for so long. All calls are queued meanwhile, or what the
    device waits for the host would be in its time. arguments(): those of each call, made anew for each try.
    meanwhile(): is called when the device has begun with the calls.
    """
    for factor in TRIES:
        given, start, end = arguments(), event(), event()
        keep_busy(factor * QUEUING_S * len(given))
        start.record()
        for call in given:
            function(*call)
        end.record()
        was_ahead = not start.query()
        start.synchronize()
        meanwhile()
        end.synchronize()
        if was_ahead:
            return start.elapsed_time(end) / 1e3
    return None
