"""Run our streaming loops and a C STREAM, compiled on the spot, in turn, and compare the times.

python -m scripts.verify.stream [--array-bytes N] [--rounds 3] [--limit 10]: run by an environment that has Numba
(.venv/test). Each round measures in new processes, with one thread and with all. GB/s count what STREAM
counts: bytes read and written, none fetched before a store. Times are lower quartiles: the best, which STREAM
takes, is luck on a virtual machine, where passes of twice the speed come and go; the median shows every disturbance.
Fails where ours is further than the limit (percent) from C; where there is no C compiler, says so and compares nothing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from tqdm import tqdm

from benchmarks import roofs
from benchmarks.harness.case import LoopCase, Settings
from benchmarks.harness.machine import threads
from benchmarks.harness.processes import isolation
from benchmarks.harness.roofline.loops import PATTERNS

SOURCE = Path(__file__).with_suffix(".c")
BUDGET_S = 0.2
PASSES = 20
# Loops of stream.c, and those of ours with the same reads, writes and stores. STREAM's scale is out of place: a copy.
LIKE = {
    "fill": "fill",
    "copy": "copy",
    "scale": "copy",
    "add": "triad",
    "triad": "triad",
    "scale-in-place": "scale",
    "accumulate": "accumulate",
    "fill-nt": "fill-nt",
    "copy-nt": "copy-nt",
    "triad-nt": "triad-nt",
}


@dataclass(frozen=True)
class Program:
    """A compiled stream.c. openmp: whether it can use several threads. memcpy: whether its copy is a call of that."""

    path: Path
    openmp: bool
    memcpy: bool


@dataclass(frozen=True)
class Comparison:
    """A loop of stream.c and the one of ours that is like it, in GB/s."""

    theirs: str
    ours: str
    theirs_gb_per_s: float
    ours_gb_per_s: float

    @property
    def ratio(self) -> float:
        return self.ours_gb_per_s / self.theirs_gb_per_s


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    compiler = os.environ.get("CC", "cc")
    if not shutil.which(compiler):
        print(f"nothing compared: no C compiler, {compiler!r} is not on the PATH (CC names another)")
        return 0
    with tempfile.TemporaryDirectory(prefix="relu-bench-stream-") as folder:
        program = compiled(compiler, Path(folder))
        counts = sorted({1, Settings.from_environment().threads if program.openmp else 1})
        found = {count: _in_turn(program, count, options) for count in counts}
    print(_circumstances(compiler, program, options.array_bytes))
    print(f"{'threads':>7}  {'C':15} {'ours':11} {'ours GB/s':>9} {'C GB/s':>9} {'ratio':>6}")
    for count, comparisons in found.items():
        for one in comparisons:
            speeds = f"{one.ours_gb_per_s:9.2f} {one.theirs_gb_per_s:9.2f} {one.ratio:6.3f}"
            print(f"{count:7}  {one.theirs:15} {one.ours:11} {speeds}")
    off = [abs(one.ratio - 1) * 100 for comparisons in found.values() for one in comparisons]
    beyond = sum(percent > options.limit for percent in off)
    print(f"{len(off)} comparisons: worst {max(off):.1f} % apart, {beyond} beyond {options.limit:g} %")
    return int(beyond > 0)


def compiled(compiler: str, folder: Path) -> Program:
    """stream.c, compiled into the folder, with OpenMP where the compiler has it.

    Raises SystemExit with the compiler's message where it cannot be compiled.
    """
    path = folder / "stream"
    for openmp in (["-fopenmp"], []):
        command = [compiler, "-O3", "-march=native", *openmp, str(SOURCE)]
        ended = subprocess.run([*command, "-o", str(path)], capture_output=True, text=True)
        if ended.returncode == 0:
            assembly = subprocess.run([*command, "-S", "-o", "-"], capture_output=True, text=True, check=True).stdout
            return Program(path, bool(openmp), memcpy="memcpy" in assembly or "memmove" in assembly)
    raise SystemExit(f"{compiler} cannot compile {SOURCE.name}:\n{ended.stderr}")


def theirs_s(program: Program, count: int, array_bytes: int, passes: int = PASSES) -> dict[str, float]:
    """Seconds of a pass, lower quartile, of each loop of stream.c with `count` threads, by its name."""
    command = [str(program.path), str(array_bytes // 4), str(passes)]
    # On the cores that ours have, so that a disturbance of one core slows both.
    kept = partial(threads.limit, count)
    printed = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=kept).stdout
    return {name: float(seconds) for name, seconds in map(str.split, printed.splitlines())}


def ours_s(count: int, array_bytes: int) -> dict[str, float]:
    """Seconds of a pass, lower quartile, of each of our loops with `count` threads, by its name.

    Raises SystemExit where one cannot be measured.
    """
    cases = [LoopCase("time", f"{name}.all", array_bytes) for name in PATTERNS]
    found = {}
    for name, measurement in zip(PATTERNS, isolation.run(cases, Settings(BUDGET_S, threads=count)), strict=False):
        if measurement.status != "ok":
            raise SystemExit(f"{name}: {measurement.status}: {measurement.reason}")
        (process,) = measurement.processes
        assert process.roof
        found[name] = process.roof.quartile_s
    return found


def compare(theirs: dict[str, float], ours: dict[str, float], array_bytes: int, memcpy: bool) -> list[Comparison]:
    """Each loop of stream.c beside ours, from the seconds of a pass over arrays of `array_bytes`.

    memcpy: whether the copy of stream.c is one; as that may choose streaming stores, our faster copy counts.
    """
    like = LIKE | ({"copy": min("copy", "copy-nt", key=ours.__getitem__)} if memcpy else {})
    return [
        Comparison(
            name,
            like[name],
            PATTERNS[like[name]].pass_bytes(array_bytes) / seconds / 1e9,
            PATTERNS[like[name]].pass_bytes(array_bytes) / ours[like[name]] / 1e9,
        )
        for name, seconds in theirs.items()
    ]


def _in_turn(program: Program, count: int, options: argparse.Namespace) -> list[Comparison]:
    theirs, ours = [], []
    for _ in tqdm(range(options.rounds), unit="round", desc=f"{count} threads", file=sys.stderr):
        theirs.append(theirs_s(program, count, options.array_bytes))
        ours.append(ours_s(count, options.array_bytes))
    return compare(_medians(theirs), _medians(ours), options.array_bytes, program.memcpy)


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(found[name] for found in rounds) for name in rounds[0]}


def _circumstances(compiler: str, program: Program, array_bytes: int) -> str:
    copy = "a call of memcpy, which may use streaming stores" if program.memcpy else "a loop"
    openmp = "with OpenMP" if program.openmp else "without OpenMP, so one thread"
    return f"arrays of {array_bytes:,} bytes; {compiler} {openmp}; its copy is {copy}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.stream", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--array-bytes",
        type=int,
        choices=roofs.ARRAY_BYTES,
        default=max(roofs.ARRAY_BYTES),
        metavar="N",
        help="bytes of each of the three arrays, a power of two (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each takes its turn (default: %(default)s)")
    parser.add_argument(
        "--limit", type=float, default=10.0, help="percent that ours may be off by (default: %(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
