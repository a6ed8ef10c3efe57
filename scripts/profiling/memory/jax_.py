"""Memory of steps in JAX: the buffers of XLA's plan of the program, in the order of its schedule.

The plan gives each buffer its place in one block of temporary memory, which is allocated for the whole step. A buffer
is alive from its instruction to the last one that reads it, or until another takes its place. What no buffer uses at
the moment when most are alive is shown as "gaps in the plan". The plan has no clock: an instruction has the time at
which the profiler saw it start in another step; one that it did not see, or that overtook others, follows the one
before.
Source: `hlo.proto` of XLA (`HloModuleProto`, `BufferAssignmentProto`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import jax

from scripts.profiling.jax_ import Instruction, parse, starts_s
from scripts.profiling.memory.buffers import Buffer, Kind, Place, Recording, kind_of, place_at

# Instructions that pass on buffers of their operands.
FORWARDING = ("bitcast", "tuple", "get-tuple-element", "optimization-barrier", "while", "conditional", "call")
# Between two instructions, so that their order shows: the resolution of a trace.
LEAST_S = 1e-9
# Name and kind of the arguments.
STATE: tuple[str, Kind] = ("parameters, velocities", "state")
BATCH: tuple[str, Kind] = ("batch", "input")
# A field of a message: its number, and an integer or bytes.
Field = tuple[int, int | bytes]
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class Scheduled:
    """An instruction of the program in the order of its schedule."""

    identifier: int
    name: str
    opcode: str
    operands: tuple[int, ...]


@dataclass(frozen=True)
class Assigned:
    """A buffer of the plan: the instruction that defines it, and its bytes of an allocation."""

    instruction: int
    allocation: int
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Allocation:
    """Memory that the program or its caller allocates. parameter: the argument that it holds; None if none."""

    index: int
    size_bytes: int
    parameter: int | None
    is_result: bool
    is_constant: bool
    is_thread_local: bool


def record(build: Callable[[], Any], batch: Any) -> Recording:
    """Record a `Step` that `build` returns, from its compiled program."""
    step = build()
    arrays = step.put(batch)
    compiled = step.step.lower(step.arrays, *arrays).compile()
    (module,) = compiled.runtime_executable().hlo_modules()
    schedule = scheduled(module.as_serialized_hlo_module_proto())
    allocations, assigned = plan(compiled.memory_analysis().serialized_buffer_assignment_proto)
    instructions = parse(compiled.as_text())
    states = len(jax.tree.leaves(step.arrays))
    places = _places(schedule, instructions)
    buffers = [
        Buffer(*(BATCH if each.parameter >= states else STATE), each.size_bytes, -inf, inf)
        for each in allocations
        if each.parameter is not None
    ]
    for each in allocations:
        if each.is_result and each.parameter is None:
            buffers.append(Buffer("results", "temporary", each.size_bytes, -inf, inf))
        elif each.parameter is None and not each.is_constant and not each.is_thread_local:
            inside = [
                _named(buffer, places)
                for buffer in _lifetimes([one for one in assigned if one.allocation == each.index], schedule)
            ]
            used_bytes = max(live for _, live in _live(inside))
            buffers += [*inside, Buffer("gaps in the plan", "temporary", each.size_bytes - used_bytes, -inf, inf)]
    step(arrays)
    return timed(Recording(tuple(buffers), places, in_seconds=False), schedule, starts_s(lambda: step(arrays)))


def timed(recording: Recording, schedule: Sequence[Scheduled], starts_s: Mapping[str, float]) -> Recording:
    """The recording with seconds instead of positions in the schedule, in the same order.

    starts_s: of instructions by name; without any, the recording stays as it is.
    """
    if not starts_s:
        return recording
    before_s, moments_s = min(starts_s.values()), []
    for each in schedule:
        before_s = max(before_s + LEAST_S, starts_s.get(each.name, before_s))
        moments_s.append(before_s)
    moments_s.append(before_s + LEAST_S)

    def seconds(moment: float) -> float:
        return moments_s[int(moment)] if isfinite(moment) else moment

    return Recording(
        tuple(replace(each, start=seconds(each.start), end=seconds(each.end)) for each in recording.buffers),
        tuple(replace(each, start=seconds(each.start)) for each in recording.places),
        in_seconds=True,
    )


def _places(schedule: Sequence[Scheduled], instructions: dict[str, Instruction]) -> tuple[Place, ...]:
    """The place of each instruction that computes; data that is only passed on belongs to the place before."""
    found = [
        Place(instructions[each.name].phase, instructions[each.name].layer, moment)
        for moment, each in enumerate(schedule)
        if each.opcode not in (*FORWARDING, "parameter", "constant") and each.name in instructions
    ]
    return (replace(found[0], start=0), *found[1:])


def _lifetimes(assigned: Sequence[Assigned], schedule: Sequence[Scheduled]) -> list[Buffer]:
    """The lifetimes of the buffers of an allocation, which have no name yet."""
    position = {each.identifier: moment for moment, each in enumerate(schedule)}
    last = _last_reads(schedule)
    ordered = sorted((each for each in assigned if each.instruction in position), key=lambda a: position[a.instruction])
    found = []
    for number, each in enumerate(ordered):
        start = position[each.instruction]
        # Another takes the place of one that is read for the last time by the same instruction.
        taken = [position[later.instruction] for later in ordered[number + 1 :] if _overlap(each, later)]
        end = min([last.get(each.instruction, start) + 1, *taken])
        found.append(Buffer("", "temporary", each.size_bytes, start, end))
    return found


def _overlap(one: Assigned, other: Assigned) -> bool:
    return one.offset < other.offset + other.size_bytes and other.offset < one.offset + one.size_bytes


def _last_reads(schedule: Sequence[Scheduled]) -> dict[int, int]:
    """For each instruction the position of the last one that reads what it defines, directly or passed on."""
    origins: dict[int, set[int]] = {}
    last: dict[int, int] = {}
    for moment, each in enumerate(schedule):
        read = {origin for operand in each.operands for origin in origins.get(operand, ())}
        last.update(dict.fromkeys(read, moment))
        origins[each.identifier] = {each.identifier} | (read if each.opcode in FORWARDING else set())
    return last


def _named(buffer: Buffer, places: Sequence[Place]) -> Buffer:
    place = place_at(places, buffer.start)
    assert place is not None
    kind: Kind = kind_of(places, buffer.start, buffer.end - 1)
    return replace(buffer, name=place.label, kind=kind)


def _live(buffers: Iterable[Buffer]) -> Iterator[tuple[float, int]]:
    """Yield each moment at which bytes change, and the bytes alive from then on."""
    changes: dict[float, int] = defaultdict(int)
    for buffer in buffers:
        changes[buffer.start] += buffer.size_bytes
        changes[buffer.end] -= buffer.size_bytes
    live = 0
    for moment in sorted(changes):
        live += changes[moment]
        yield moment, live


def scheduled(module: bytes) -> list[Scheduled]:
    """The instructions of the entry computation of a serialised `HloModuleProto`, in the order of its schedule."""
    fields = list(_fields(module))
    entry = _integer(fields, 6)
    computation = next(c for c in (list(_fields(c)) for c in _messages(fields, 3)) if _integer(c, 5) == entry)
    instructions = {}
    for message in _messages(computation, 2):
        inner = list(_fields(message))
        identifier = _integer(inner, 35)
        operands = tuple(value for each in _messages(inner, 36) for value in _varints(each))
        instructions[identifier] = Scheduled(identifier, _text(inner, 1), _text(inner, 2), operands)
    for sequence in _messages(list(_fields(_messages(fields, 7)[0])), 1):
        key, order = list(_fields(sequence)), list[int]()
        for each in _messages(list(_fields(_messages(key, 2)[0])), 1):
            order += _varints(each)
        if _integer(key, 1) == entry:
            return [instructions[identifier] for identifier in order]
    raise LookupError("the program has no schedule")


def plan(assignment: bytes) -> tuple[list[Allocation], list[Assigned]]:
    """The allocations of a serialised `BufferAssignmentProto`, and the buffers in them."""
    fields = list(_fields(assignment))
    defined = {}
    for message in _messages(fields, 1):
        inner = list(_fields(message))
        defined[_integer(inner, 1)] = _integer(list(_fields(_messages(inner, 3)[0])), 4)
    allocations, assigned = [], []
    for message in _messages(fields, 3):
        inner = list(_fields(message))
        index = _integer(inner, 1)
        parameter = _integer(inner, 6) if _integer(inner, 5) else None
        allocations.append(
            Allocation(index, _integer(inner, 2), parameter, *(bool(_integer(inner, each)) for each in (7, 12, 3)))
        )
        for part in _messages(inner, 9):
            of_part = list(_fields(part))
            buffer, offset, size_bytes = (_integer(of_part, number) for number in (1, 2, 3))
            assigned.append(Assigned(defined[buffer], index, offset, size_bytes))
    return allocations, assigned


def _fields(message: bytes) -> Iterator[Field]:
    """Yield the fields of a serialised message of Protocol Buffers."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(wire)
        if size is None:
            size, at = _varint(message, at)
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of variable length, and the position behind it."""
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        shift += 7
        at += 1
        if message[at - 1] < 128:
            return value, at


def _varints(packed: bytes) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _integer(fields: Iterable[Field], number: int) -> int:
    """The value of an integer field; 0, its default, where the message lacks it."""
    return next((value for each, value in fields if each == number and isinstance(value, int)), 0)


def _messages(fields: Iterable[Field], number: int) -> list[bytes]:
    return [value for each, value in fields if each == number and isinstance(value, bytes)]


def _text(fields: Iterable[Field], number: int) -> str:
    return next((value.decode() for value in _messages(fields, number)), "")
