"""Spans of steps in JAX, from its profiler: the instructions of the compiled program.

The program's text gives each instruction the path of the operation that it comes from, with the layer's named scope; a
fusion has the paths of all that it fuses. JAX writes jvp(...) around the scope of a forward pass that is
differentiated, and transpose(...) around that of a backward pass.
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from impls.cnn.architecture import Network
from scripts.profiling.spans import OTHER, Recorded, Span, layer_of

STEP = "relu-bench:step"
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
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(count):
                with jax.profiler.TraceAnnotation(STEP):
                    step(arrays)
        (path,) = Path(folder).glob("**/*.xplane.pb")
        return _recorded(jax.profiler.ProfileData.from_file(str(path)), instructions)


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
    steps: list[tuple[float, float]] = []
    spans: list[Span] = []
    for thread, (name, start_s, end_s) in _events(data):
        if name == STEP:
            steps.append((start_s, end_s))
        elif name in instructions:
            found = instructions[name]
            operator = _NUMBER.sub("", name).replace("_", " ")
            spans.append(Span(operator, found.phase, found.layer, start_s, end_s, thread, found.covers))
    return [
        Recorded(start_s, end_s, tuple(span for span in spans if start_s <= span.start_s < end_s))
        for start_s, end_s in sorted(steps)
    ]


def _events(data: Any) -> Iterator[tuple[int, tuple[str, float, float]]]:
    """Yield the events of all threads of the host, with a number for each thread."""
    lines = [line for plane in data.planes if plane.name.startswith("/host:") for line in plane.lines]
    for thread, line in enumerate(lines):
        for event in line.events:
            start_s = event.start_ns / 1e9
            yield thread, (event.name, start_s, start_s + event.duration_ns / 1e9)
