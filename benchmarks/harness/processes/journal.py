"""The journal of a block: one JSON line for each round, failure and finished case, so that a killed run loses a round.

A reader skips a line that is torn, as a killed writer may leave one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness.case import Case
from benchmarks.harness.measurement import LONGEST_PROBE_S, SHORTEST_PROBE_S, Measurement, Process, Slice


@dataclass
class Pass:
    """The slices and processes of one pass over a block, by the name of the case.

    finished: the processes, with their provenance, whose cases were checked at the end.
    """

    slices: dict[str, list[Slice]] = field(default_factory=dict)
    finished: dict[str, tuple[Process, dict[str, Any]]] = field(default_factory=dict)


class _Line(msgspec.Struct, omit_defaults=True):
    """A line. number: of the pass. slices: those of a round. failure: how a case ended without a number.

    again: names of cases whose slices so far do not count.
    """

    number: int
    slices: dict[str, Slice] = {}
    failure: dict[str, Measurement] = {}
    finished: dict[str, tuple[Process, dict[str, Any]]] = {}
    again: list[str] = []


class Journal:
    """A block's journal in a file. passes: by number. failures: by the name of the case; the first one counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.passes: dict[int, Pass] = {}
        self.failures: dict[str, Measurement] = {}
        content = path.read_bytes() if path.exists() else b""
        # Ends a line that is torn, so that the next one is not lost with it.
        self._before = b"" if not content or content.endswith(b"\n") else b"\n"
        for line in content.splitlines():
            try:
                self._add(msgspec.json.decode(line, type=_Line))
            except msgspec.DecodeError:
                continue

    def round(self, number: int, slices: Mapping[Case, Slice]) -> None:
        """Add a round of a pass."""
        self._write(_Line(number, slices={case.name: taken for case, taken in slices.items()}))

    def fail(self, number: int, case: Case, failure: Measurement) -> None:
        """Add how a case ended without a number; it takes no part in later rounds."""
        # Foreign text may be invalid Unicode.
        failure = replace(failure, reason=_valid(failure.reason), output_tail=_valid(failure.output_tail))
        self._write(_Line(number, failure={case.name: failure}))

    def again(self, number: int, case: Case) -> None:
        """Forget the slices of a case in a pass, which were not checked at the end; it is measured once more."""
        self._write(_Line(number, again=[case.name]))

    def finish(self, number: int, case: Case, process: Process, provenance: dict[str, Any]) -> None:
        """Add the process of a case that was checked at the end of a pass."""
        self._write(_Line(number, finished={case.name: (process, provenance)}))

    def is_complete(self, number: int, cases: Iterable[Case]) -> bool:
        """Return whether each case was checked at the end of a pass, or has failed."""
        return all(case.name in self.failures or case.name in self.pass_(number).finished for case in cases)

    def pass_(self, number: int) -> Pass:
        """The pass with a number; an empty one if it has not begun."""
        return self.passes.setdefault(number, Pass())

    def processes(self, case: Case) -> list[tuple[int, Process, dict[str, Any]]]:
        """For each pass that measured a case: its number, the process with its slices, and the provenance."""
        return [
            (number, replace(of_pass.finished[case.name][0], slices=slices), of_pass.finished[case.name][1])
            for number, of_pass in sorted(self.passes.items())
            if case.name in of_pass.finished and (slices := of_pass.slices.get(case.name, []))
        ]

    @property
    def probe_best_s(self) -> float:
        """The fastest probe of a core in any round."""
        slices = (taken for of_pass in self.passes.values() for part in of_pass.slices.values() for taken in part)
        probes_s = (taken.probe_s for taken in slices if taken.probe_s)
        return min((probe_s for probe_s in probes_s if SHORTEST_PROBE_S < probe_s < LONGEST_PROBE_S), default=inf)

    def _write(self, line: _Line) -> None:
        self._add(line)
        with self._path.open("ab") as sink:
            # One write, so that a killed process leaves at most the last line torn.
            sink.write(self._before + msgspec.json.encode(line) + b"\n")
            self._before = b""

    def _add(self, line: _Line) -> None:
        of_pass = self.pass_(line.number)
        for name, taken in line.slices.items():
            of_pass.slices.setdefault(name, []).append(taken)
        for name, failure in line.failure.items():
            self.failures.setdefault(name, failure)
        of_pass.finished.update(line.finished)
        for name in line.again:
            of_pass.slices.pop(name, None)


def _valid(text: str) -> str:
    return text.encode(errors="replace").decode()
