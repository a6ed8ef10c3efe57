"""Answer asv, which asks for one case at a time, from blocks that are measured together.

With RELU_BENCH_PLAN set to a folder, plan.json there lists the cases of the run. The first case of a sweep has all its
blocks measured, in several passes; the others are answered at once. All is kept in the folder as soon as it is known: a
run that is killed loses the round in progress, and the next one with that folder continues from there. Without a plan,
each case is measured by itself.
"""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.case import ROOFS, Case, Settings, Unavailable, from_axes, to_axes
from benchmarks.harness.measurement import UNKNOWN, Measurement, from_json, to_json
from benchmarks.harness.processes import answers, blocks, rounds
from benchmarks.harness.processes.blocks import Block
from benchmarks.harness.processes.isolation import Request, Worker
from benchmarks.harness.processes.journal import Journal
from benchmarks.harness.quantities import dispatch
from benchmarks.harness.truth import shared as shared_arrays

VARIABLE = "RELU_BENCH_PLAN"
# Blocks that take turns share arrays at the same time, as do all cases that are measured in one go.
LEAST_SHARED_BYTES = 2**32


def write_plan(folder: Path, cases: Iterable[Case]) -> None:
    """Write the cases of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", [to_axes(case) for case in cases])


def planned(folder: Path) -> list[Case]:
    """The cases of a run. Raises OSError where there is no plan."""
    return [from_axes(axes) for axes in json.loads((folder / "plan.json").read_text())]


def measurement(case: Case, settings: Settings, folder: Path, commit: str) -> Measurement:
    """The measurement of a planned case: one left by an earlier case, or a new one."""
    root = folder / f"{os.environ.get('ASV_ENV_NAME', UNKNOWN)}-{commit[:8]}"
    root.mkdir(exist_ok=True)
    return Run(planned(folder), settings, root).answer(case)


def measured(cases: Sequence[Case], settings: Settings, with_roofs: bool = False) -> dict[Case, Measurement]:
    """The measurements of some cases, in blocks of these alone. with_roofs: and of the roofs of their traffic."""
    with tempfile.TemporaryDirectory(prefix="relu-bench-plan-") as folder:
        run = Run(cases, settings, Path(folder), with_roofs)
        return {case: run.answer(case) for case in cases}


class Run:
    """The cases of a run, and what a folder holds of their measurements."""

    def __init__(self, cases: Sequence[Case], settings: Settings, folder: Path, with_roofs: bool = True) -> None:
        self.cases, self.settings, self.folder = cases, settings, folder
        self.blocks = blocks.of(cases, with_roofs)

    def answer(self, case: Case) -> Measurement:
        """The measurement of a case, measured now if it is not yet, with all that is measured with it."""
        try:
            dispatch.needs(case)
        except Unavailable as error:
            return Measurement("skipped", str(error))
        if not case.varies:
            return self._read(case) or self._single(case)
        is_roof = case.kind in ROOFS
        # A roof may be in several blocks.
        if not is_roof and (known := self._read(case)):
            return known
        holding = [block for block in self.blocks if case in block.answered]
        for sweep in dict.fromkeys(block.sweep for block in holding):
            self._sweep([block for block in self.blocks if block.sweep == sweep and not self._is_answered(block)])
        if is_roof:
            return answers.of_case(case, [self._journal(block) for block in holding])
        found = self._read(case)
        assert found is not None
        return found

    def _is_answered(self, block: Block) -> bool:
        """Return whether the answers of a block are kept."""
        return all(self._path(case).exists() for case in block.rows or block.roofs)

    def _sweep(self, sweep: Sequence[Block]) -> None:
        """Make the passes over blocks of a sweep that are missing, and keep the answers."""
        missing = [
            [
                block
                for block in sweep
                if number < block.passes(self.settings.passes)
                and not self._journal(block).is_complete(number, block.cases)
            ]
            for number in range(self.settings.passes)
        ]
        if any(missing):
            self._make(missing)
        for block in sweep:
            for case, found in answers.of_block(block, self._journal(block)).items():
                self._keep(case, found)

    def _make(self, passes: Sequence[Sequence[Block]]) -> None:
        """Make passes over blocks, each with new processes."""
        probe_best_s = 0.0
        with shared_folder(block.cases for todo in passes for block in todo) as shared:
            for number, todo in enumerate(passes):
                with rounds.Crew(self.settings, shared, probe_best_s) as crew:
                    rounds.measure(random.sample(todo, len(todo)), number, crew, self._journal)
                    probe_best_s = crew.probe_best_s

    def _single(self, case: Case) -> Measurement:
        """Measure a case in one go."""
        if case.quantity == "first_call":
            self._keep(case, self._first_call(case))
        else:
            cases = self._with(case)
            with shared_folder([each] for each in cases) as shared, rounds.Crew(self.settings, shared) as crew:
                for each, measured in rounds.single(cases, crew):
                    self._keep(each, measured)
        found = self._read(case)
        assert found is not None
        return found

    def _first_call(self, case: Case) -> Measurement:
        """Measure a first call, in a process of its own and without compiled code from earlier ones."""
        with tempfile.TemporaryDirectory(prefix="relu-bench-cache-") as cache:
            worker = Worker(dispatch.needs(case), self.settings, cache_dir=Path(cache))
            try:
                answer = worker.ask(Request("single", case, {}))
            finally:
                worker.close()
        return answer if isinstance(answer, Measurement) else from_json(answer["measurement"])

    def _with(self, case: Case) -> list[Case]:
        """A case and all that are measured with it: those of all bytes."""
        others = [other for other in self.cases if not other.varies and other.quantity != "first_call"]
        return [
            case,
            *(other for other in others if other != case and dispatch.is_available(other) and not self._read(other)),
        ]

    def _journal(self, block: Block) -> Journal:
        return Journal(self.folder / f"{block.name}.jsonl")

    def _path(self, case: Case) -> Path:
        return self.folder / f"{case.name}.json"

    def _keep(self, case: Case, found: Measurement) -> None:
        write_json(self._path(case), to_json(found))

    def _read(self, case: Case) -> Measurement | None:
        try:
            return from_json(json.loads(self._path(case).read_text()))
        except (OSError, ValueError):
            return None


@contextmanager
def shared_folder(blocks: Iterable[Iterable[Case]]) -> Iterator[Path]:
    """A folder for the arrays that processes share, in memory where there is room for those of the largest block."""
    largest_bytes = max((dispatch.shared_bytes(filter(dispatch.is_available, cases)) for cases in blocks), default=0)
    memory = shared_arrays.SHARED_MEMORY
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > max(LEAST_SHARED_BYTES, largest_bytes)
    parent = memory if has_room else Path(tempfile.gettempdir())
    for left in parent.glob("relu-bench-shared-*"):
        # A killed run leaves its folder behind.
        if not Path("/proc", left.name.rpartition("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"relu-bench-shared-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, which then exists completely or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)
