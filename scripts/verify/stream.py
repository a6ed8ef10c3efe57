"""Compare the streaming loops of the roofs with STREAM in C, compiled when this runs.

python -m scripts.verify.stream [--array-bytes N] [--rounds 3] [--limit 10]: needs an environment with Numba
(.venv/test). Each round measures both in new processes, with one thread and with all. GB/s count bytes as STREAM does:
those read and written, without lines fetched before a store. Times are lower quartiles of all samples. STREAM's best
pass is unrepeatable on a virtual machine, where some passes are twice as fast; the median includes disturbances.
Fails if a loop differs from its C counterpart by more than the limit (percent). Compares nothing without a C compiler.
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
from statistics import median, quantiles

from tqdm import tqdm

from benchmarks.harness.case import LoopCase, Settings
from benchmarks.harness.machine import threads
from benchmarks.harness.measurement import MEASURED
from benchmarks.harness.parameters import ARRAY_BYTES
from benchmarks.harness.processes import plan
from benchmarks.harness.roofline.loops import PATTERNS
from scripts.arguments import percent

SOURCE = Path(__file__).with_suffix(".c")
BUDGET_S = 0.2
PASSES = 20
# Loops of stream.c and the roofs with the same reads, writes and stores. STREAM's scale is out of place, as a copy.
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
    """A compiled stream.c. openmp: it can use several threads. memcpy: its copy calls memcpy."""

    path: Path
    openmp: bool
    memcpy: bool


@dataclass(frozen=True)
class Comparison:
    """A loop of stream.c and its counterpart among ours, in GB/s."""

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
        print(f"nothing compared: no C compiler, {compiler!r} is not on the PATH (set CC to name another)")
        return 0
    with tempfile.TemporaryDirectory(prefix="relu-bench-stream-") as folder:
        program = compiled(compiler, Path(folder))
        counts = sorted({1, Settings.from_environment().threads if program.openmp else 1})
        rounds = {count: _in_turn(program, count, options) for count in counts}
    print(_circumstances(compiler, program, options.array_bytes))
    print(f"{'threads':>7}  {'C':15} {'ours':11} {'ours GB/s':>9} {'C GB/s':>9} {'ratio':>6}")
    for count, comparisons in rounds.items():
        for comparison in comparisons:
            speeds = f"{comparison.ours_gb_per_s:9.2f} {comparison.theirs_gb_per_s:9.2f} {comparison.ratio:6.3f}"
            print(f"{count:7}  {comparison.theirs:15} {comparison.ours:11} {speeds}")
    differences_percent = [
        100 * abs(comparison.ratio - 1) for comparisons in rounds.values() for comparison in comparisons
    ]
    beyond = sum(percent > options.limit for percent in differences_percent)
    print(
        f"{len(differences_percent)} comparisons: worst {max(differences_percent):.1f} % apart, "
        f"{beyond} beyond {options.limit:g} %"
    )
    return int(beyond > 0)


def compiled(compiler: str, folder: Path) -> Program:
    """Compile stream.c into the folder, with OpenMP if the compiler supports it.

    Raises SystemExit with the compiler's message if it cannot be compiled.
    """
    path = folder / "stream"
    for openmp in (["-fopenmp"], []):
        command = [compiler, "-O3", "-march=native", *openmp, str(SOURCE)]
        completed = subprocess.run([*command, "-o", str(path)], capture_output=True, text=True)
        if completed.returncode == 0:
            assembly = subprocess.run([*command, "-S", "-o", "-"], capture_output=True, text=True, check=True).stdout
            return Program(path, bool(openmp), memcpy="memcpy" in assembly or "memmove" in assembly)
    raise SystemExit(f"{compiler} cannot compile {SOURCE.name}:\n{completed.stderr}")


def theirs_s(program: Program, count: int, array_bytes: int, passes: int = PASSES) -> dict[str, float]:
    """Return seconds of a pass, lower quartile, of each loop of stream.c by name. count: threads."""
    command = [str(program.path), str(array_bytes // 4), str(passes)]
    # Use the same cores as our loops, so that a disturbance of one core slows both.
    limit = partial(threads.limit, count)
    printed = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=limit).stdout
    return {name: float(seconds) for name, seconds in map(str.split, printed.splitlines())}


def ours_s(count: int, array_bytes: int) -> dict[str, float]:
    """Return seconds of a pass, lower quartile, of each of our loops by name. count: threads.

    Raises SystemExit if one cannot be measured.
    """
    cases = {name: LoopCase("time", f"{name}.all", array_bytes) for name in PATTERNS}
    measurements = plan.measured(list(cases.values()), Settings(BUDGET_S, threads=count, passes=1))
    quartiles_s = {}
    for name, case in cases.items():
        measurement = measurements[case]
        if measurement.status not in MEASURED:
            raise SystemExit(f"{name}: {measurement.status}: {measurement.reason}")
        slices = [taken for process in measurement.processes for taken in process.slices]
        quartiles_s[name] = quantiles([sample_s for taken in slices for sample_s in taken.samples_s])[0]
    return quartiles_s


def compare(theirs: dict[str, float], ours: dict[str, float], array_bytes: int, memcpy: bool) -> list[Comparison]:
    """Compare each loop of stream.c with ours, given the seconds of a pass over arrays of `array_bytes`.

    memcpy: the copy of stream.c calls memcpy, which may use non-temporal stores; our faster copy then counts.
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
    return {name: median(times_s[name] for times_s in rounds) for name in rounds[0]}


def _circumstances(compiler: str, program: Program, array_bytes: int) -> str:
    copy = "a call of memcpy, which may use non-temporal stores" if program.memcpy else "a loop"
    openmp = "with OpenMP" if program.openmp else "without OpenMP, so one thread"
    return f"arrays of {array_bytes:,} bytes; {compiler} {openmp}; its copy is {copy}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.stream", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--array-bytes",
        type=int,
        choices=ARRAY_BYTES,
        default=max(ARRAY_BYTES),
        metavar="N",
        help="bytes of each of the three arrays, a power of two (default: %(default)s); use sizes beyond the caches, "
        "because stream.c alternates its loops and starts the threads in every pass",
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: %(default)s)")
    parser.add_argument(
        "--limit", type=percent, default=10.0, help="accepted difference from C in percent (default: %(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
