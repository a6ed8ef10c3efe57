"""Spans of steps and calls in JAX, from its profiler: the instructions of the compiled programs.

The program's text gives each instruction the path of the operation that it comes from, with the layer's named scope; a
fusion has the paths of all that it fuses. JAX writes jvp(...) around the scope of a forward pass that is
differentiated, and transpose(...) around that of a backward pass.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from benchmarks.harness.frameworks.jax_events import GPU, HOST, events, profiled, seconds
from impls.cnn.architecture import Network
from impls.variant import DIRECTIONS
from scripts.profiling.spans import OTHER, Recorded, Span, layer_of

STEP, HALF = "relu-bench:step", "relu-bench:half:"
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ", re.MULTILINE)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_CALLS = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_PATH = re.compile(r'op_name="([^"]*)"')
_SCOPE = re.compile(r"\b(conv\d+|norm\d+|dense\d+|loss|update)(?:\.(\w+))?\b")
# Numbers that XLA adds to names.
_NUMBER = re.compile(r"(\.\d+)+(\.clone)?$")


@dataclass(frozen=True)
class Instruction:
    """An instruction of the program: its phase and layer, and the operations that it computes."""

    phase: str
    layer: str
    covers: tuple[str, ...]


def record(step: Any, arrays: Any, network: Network, count: int) -> list[Recorded]:
    """Record steps of a `Step` in JAX."""
    instructions = parse(step.step.lower(step.arrays, *arrays).compile().as_text())

    def run() -> None:
        for _ in range(count):
            with jax.profiler.TraceAnnotation(STEP):
                step(arrays)

    return _recorded(profiled(run), instructions)


def record_calls(
    call: Callable[..., Any], supply: Callable[[], Sequence[Any]], layer: str, count: int
) -> list[Recorded]:
    """Record calls of an operator (`scripts.profiling.calls.Call`). layer: its name.

    Each half is waited for, so that the instructions that run during it are its own.
    """

    def half(phase: str, function: Callable[..., Any], *arguments: Any) -> Any:
        with jax.profiler.TraceAnnotation(HALF + phase):
            return jax.block_until_ready(function(*arguments))

    def run() -> None:
        for _ in range(count):
            arguments = supply()
            with jax.profiler.TraceAnnotation(STEP):
                call(half, arguments)

    return _recorded_calls(profiled(run), layer)


def starts_s(run: Callable[[], object]) -> dict[str, float]:
    """When each instruction first starts during `run()`, by name."""
    found: dict[str, float] = {}
    for _, event, name in _instruction_events(profiled(run)):
        start_s, _ = seconds(event)
        found[name] = min(start_s, found.get(name, start_s))
    return found


def parse(text: str) -> dict[str, Instruction]:
    """The instructions of a compiled program, by name."""
    bodies = {match[1]: match[2] for match in _COMPUTATION.finditer(text)}
    return {
        match[1]: _instruction(line, bodies)
        for body in bodies.values()
        for line in body.splitlines()
        if (match := _INSTRUCTION.match(line))
    }


def _instruction(line: str, bodies: dict[str, str]) -> Instruction:
    own = _PATH.search(line)
    called = _CALLS.search(line)
    inner = _PATH.findall(bodies.get(called[1], "")) if called else []
    # The path of a fusion is that of its last operation.
    path = own[1] if own else (inner[-1] if inner else "")
    scope = _SCOPE.search(path)
    layer = layer_of(scope[0]) if scope else OTHER
    covers = dict.fromkeys(found[0] for each in (path, *inner) if (found := _SCOPE.search(each)))
    return Instruction(_phase(path, layer), layer, tuple(covers))


def _phase(path: str, layer: str) -> str:
    if layer == "update":
        return "update"
    if "transpose(" in path:
        return "backward"
    return "loss" if layer == "loss" else "forward"


def _recorded(data: Any, instructions: dict[str, Instruction]) -> list[Recorded]:
    spans: list[Span] = []
    for thread, event, name in _instruction_events(data):
        if name in instructions:
            found = instructions[name]
            spans.append(Span(_operator(name), found.phase, found.layer, *seconds(event), thread, found.covers))
    return [
        Recorded(start_s, end_s, tuple(span for span in spans if start_s <= span.start_s < end_s))
        for start_s, end_s in _ranges(data, STEP)
    ]


def _recorded_calls(data: Any, layer: str) -> list[Recorded]:
    halves = sorted(
        ((phase, *times) for phase in DIRECTIONS for times in _ranges(data, HALF + phase)), key=lambda half: half[1]
    )
    instructions = list(_instruction_events(data))

    def recorded(start_s: float, end_s: float) -> Recorded:
        own = [half for half in halves if start_s <= half[1] < end_s]
        spans = tuple(
            Span(_operator(name), phase, layer, *seconds(event), thread, (layer,))
            for phase, half_start_s, half_end_s in own
            for thread, event, name in instructions
            if half_start_s <= seconds(event)[0] < half_end_s
        )
        return Recorded(start_s, end_s, spans, tuple((phase, half_end_s) for phase, _, half_end_s in own))

    return [recorded(*times) for times in _ranges(data, STEP)]


def _ranges(data: Any, name: str) -> list[tuple[float, float]]:
    """Start and end of the ranges with a name, in their order."""
    return sorted(seconds(event) for _, event in events(data, HOST) if event.name == name)


def _instruction_events(data: Any) -> Iterator[tuple[int, Any, str]]:
    """Yield the events of instructions, each with its thread and name: those of a GPU, if it has some, or of the host.

    A kernel of a GPU has a name of its own besides.
    """
    for device in (GPU, HOST):
        found = [
            (thread, event, name)
            for thread, event in events(data, device)
            if (name := next((str(value) for key, value in event.stats if key == "hlo_op"), ""))
        ]
        if found:
            yield from found
            return


def _operator(instruction: str) -> str:
    return _NUMBER.sub("", instruction).replace("_", " ")
