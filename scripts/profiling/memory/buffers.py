"""Arrays that are alive for a part of a step, and the bytes alive at each layer.

Kinds: "state": parameters, velocities and running statistics. "input": the batch. "saved": allocated in the forward
pass or by the loss, and alive in the backward pass. "gradients": of the parameters. "temporary": all others.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["state", "input", "saved", "gradients", "temporary"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Buffer:
    """Memory that is alive from `start` until before `end`. name: where it comes from."""

    name: str
    kind: Kind
    size_bytes: int
    start: float
    end: float


@dataclass(frozen=True)
class Place:
    """A layer in one phase, which runs from `start` until the next place starts."""

    phase: str
    layer: str
    start: float

    @property
    def label(self) -> str:
        """Phase and layer; once where both are the same."""
        return self.phase if self.phase == self.layer else f"{self.phase} {self.layer}"


@dataclass(frozen=True)
class Recording:
    """The buffers of a step, and its places in their order. in_seconds: the unit of all moments, else instructions."""

    buffers: tuple[Buffer, ...]
    places: tuple[Place, ...]
    in_seconds: bool

    @property
    def peak_bytes(self) -> int:
        """The most bytes that are alive at a time."""
        return max(sum(live.values()) for _, live in curve(self))


Live = dict[Kind, int]


def curve(recording: Recording) -> list[tuple[float, Live]]:
    """The bytes of each kind that are alive from each moment on, at the start of the step and where they change."""
    first = recording.places[0].start
    changes: dict[float, Live] = defaultdict(lambda: defaultdict(int))
    for buffer in recording.buffers:
        if buffer.end > first and buffer.end > buffer.start:
            changes[max(first, buffer.start)][buffer.kind] += buffer.size_bytes
            changes[buffer.end][buffer.kind] -= buffer.size_bytes
    changes[first]
    live: Live = dict.fromkeys(KINDS, 0)
    found = []
    for moment in sorted(changes):
        live = {kind: live[kind] + changes[moment][kind] for kind in KINDS}
        found.append((moment, live))
    return found


def by_place(recording: Recording) -> dict[tuple[str, str], Live]:
    """For each phase and layer, the bytes of each kind at the moment when most are alive there."""
    most: dict[tuple[str, str], Live] = {}
    moments = curve(recording)
    ends = [*(place.start for place in recording.places[1:]), float("inf")]
    for place, end in zip(recording.places, ends, strict=True):
        before = [live for moment, live in moments if moment <= place.start][-1]
        inside = [live for moment, live in moments if place.start < moment < end]
        key = place.phase, place.layer
        most[key] = max([before, *inside, most.get(key, before)], key=lambda live: sum(live.values()))
    return most


def at_peak(recording: Recording) -> dict[tuple[Kind, str], int]:
    """Bytes by kind and name at the first moment when most are alive, the largest first."""
    moment, _ = max(curve(recording), key=lambda each: (sum(each[1].values()), -each[0]))
    first = recording.places[0].start
    return summed(buffer for buffer in recording.buffers if max(first, buffer.start) <= moment < buffer.end)


def summed(buffers: Iterable[Buffer]) -> dict[tuple[Kind, str], int]:
    """Bytes of buffers by kind and name, the largest first."""
    found: dict[tuple[Kind, str], int] = defaultdict(int)
    for buffer in buffers:
        found[buffer.kind, buffer.name] += buffer.size_bytes
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def place_at(places: Sequence[Place], moment: float) -> Place | None:
    """The place that runs at a moment; None before the first."""
    started = [place for place in places if place.start <= moment]
    return started[-1] if started else None


def kind_of(places: Sequence[Place], start: float, end: float) -> Kind:
    """The kind of a buffer that is allocated during a step, by the phases in which it is alive.

    An array that is allocated by the backward pass and outlives it is a gradient.
    """
    allocated, freed = place_at(places, start), place_at(places, end)
    phases = allocated.phase if allocated else "", freed.phase if freed else ""
    if phases[0] in ("forward", "loss") and phases[1] in ("backward", "update"):
        return "saved"
    return "gradients" if phases == ("backward", "update") else "temporary"
