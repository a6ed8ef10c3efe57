"""Show where the time and the memory of a training step go: tables, and a trace that Perfetto opens.

./scripts/profile [ROW ...] [--network mnist_cnn] [--batch 64] [--steps 30]: rows of training steps, by default those
of one flavour of each framework. Writes two files for each row to reports/profiles: NETWORK.ROW.trace.json for
ui.perfetto.dev or chrome://tracing, and NETWORK.ROW.json, from which the report lays the layers of all frameworks side
by side. Each row runs in a process of its own; one that fails does not stop the others. Exit code: 0; 1 if a row
failed; 2 for arguments that are not accepted; 130 after Ctrl-C.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks.harness.machine import linux, software
from impls.catalog import find_step
from impls.cnn import rows as cnn
from impls.cnn.architecture import NETWORKS, RELU, Network
from impls.variant import StepVariant
from scripts.arguments import positive
from scripts.claims.document import printable, write, write_bytes
from scripts.profiling import counters, document, layers, roofs, trace
from scripts.profiling.document import Counters, Held, Memory, Moment, Operator, Profile
from scripts.profiling.memory import buffers
from scripts.profiling.memory.buffers import Recording
from scripts.profiling.spans import Recorded, covered, medians_s, unexplained_s
from scripts.setup.pins import ROOT

RECORDERS = ("numpy", "numba", "torch", "jax")
# A flavour of each framework: of ReLU networks, and of those whose activation cannot work in place.
OF_RELU = (
    *(f"{flavour}.{memory}" for flavour in ("numpy", "numba", "torch") for memory in ("fresh", "inplace")),
    "jax-patches.fresh",
)
OF_OTHERS = ("numpy.fresh", "numba.fresh", "torch.fresh", "jax-patches.fresh")
WARM_UP = 5
# The first steps under a profiler take longer.
PROFILED_WARM_UP = 2
INTERRUPTED = 130
# The likely cause of a signal that ends a process.
KILLED = {9: ", as where the machine lacks memory"}
# Steps in a trace; more make it large and show nothing new.
TRACED = 5


@dataclass(frozen=True)
class Profiled:
    """A row's profile, and what it was made from: the recorded steps, and the memory of another step."""

    profile: Profile
    steps: list[Recorded]
    memory: Recording


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    possible = [row.name for row in rows_of(options.network)]
    default = OF_RELU if NETWORKS[options.network].activation == RELU else OF_OTHERS
    names = list(dict.fromkeys(options.rows or default))
    for name in names:
        if name not in possible:
            known = f"{options.network} has {', '.join(possible)}"
            print(f"profile: ROW: {name!r} given; of rows that can be profiled, {known}", file=sys.stderr)
            return 2
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.out).close()
    except OSError as error:
        print(f"profile: --out: {options.out} given, a folder to write to needed: {error.strerror}", file=sys.stderr)
        return 2
    try:
        if options.roofs:
            return _one(find_step(names[0]), options)
        measured = document.Roofs(roofs.gemm_gflop_per_s(), roofs.bandwidths())
        return max([_in_own_process(name, measured, options) for name in names])
    except KeyboardInterrupt:
        return INTERRUPTED


def rows_of(network: str) -> list[StepVariant]:
    """The rows of a network that can be profiled."""
    return [row for row in cnn.of_network(NETWORKS[network]) if row.device == "cpu" and row.framework in RECORDERS]


def _in_own_process(name: str, measured: document.Roofs, options: argparse.Namespace) -> int:
    """Profile a row in a process of its own; return 0, or 1 where it failed."""
    command = [sys.executable, "-m", "scripts.profiling", name, "--network", options.network]
    command += ["--roofs", msgspec.json.encode(measured).decode()]
    command += ["--batch", str(options.batch), "--steps", str(options.steps), "--out", str(options.out.absolute())]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code < 0:
        print(f"profile: {name}: its process was ended by signal {-code}{KILLED.get(-code, '')}", file=sys.stderr)
    return int(code != 0)


def _one(row: StepVariant, options: argparse.Namespace) -> int:
    """Profile a row in this process, print its table and write its files."""
    try:
        found = profiled(row, options.network, options.batch, options.steps, options.roofs)
        print(text(found.profile))
        title = f"{options.network}, {row.name}, batch {options.batch}"
        traced = options.out / document.trace_file(options.network, row.name)
        write_bytes(traced, trace.dumped(title, found.steps[:TRACED], found.memory).encode())
        write(options.out / document.file(options.network, row.name), found.profile)
        print(f"{traced}\n", flush=True)
    except Exception as error:
        print(f"profile: {row.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def profiled(row: StepVariant, network: str, batch: int, count: int, measured: document.Roofs) -> Profiled:
    """Profile steps of a row. This process must not have imported its framework.

    Raises whatever its framework raises, for example where the machine lacks memory.
    """
    # Its profiler prints to standard error otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from benchmarks.harness.frameworks import started, step_driver
    from impls.cnn.networks import initial_parameters, random_batch

    given = NETWORKS[network]
    given_batch = random_batch(given, batch)

    def build() -> Any:
        return row.load()(given, initial_parameters(given), batch, "float32", row.memory)

    with started(row.framework, row.device, len(os.sched_getaffinity(0))) as framework:
        step = build()
        arrays = step.put(given_batch)
        for _ in range(WARM_UP):
            step(arrays)
        unprofiled_s = _seconds(step, arrays, count)
        steps = _record(row.framework, step, arrays, given, PROFILED_WARM_UP + count)[PROFILED_WARM_UP:]
        unprofiled_s += _seconds(step, arrays, count)
        counted = _counters(step, arrays, count)
        del step, arrays
        recording = _memory_recording(row.framework, build, given_batch, given)

        def make() -> tuple[Any, Any]:
            step = build()
            return step, step.put(given_batch)

        measured_bytes = step_driver(framework).step_peak_bytes(make)
    cpu = printable(f"{linux.cpu()}, {len(os.sched_getaffinity(0))} cores", 100)
    commit, _, state = software.checkout().partition(" ")
    covers = covered(steps)
    operators = [
        Operator(phase, printable(layer, 100), printable(operator, 100), 1e3 * seconds, covers[key])  # type: ignore[arg-type]
        for key, seconds in medians_s(steps).items()
        for phase, layer, operator in [key]
    ]
    profile = Profile(
        document.SCHEMA, time.time(), cpu, f"{commit[:8]} {state}".strip(), network, row.name, row.framework, batch,
        len(steps), 1e3 * median(each.seconds for each in steps), 1e3 * median(unprofiled_s),
        1e3 * unexplained_s(steps), counted, measured, operators, _memory(recording, measured_bytes),
    )  # fmt: skip
    return Profiled(profile, steps, recording)


def _memory(recording: Recording, measured_bytes: int) -> Memory:
    """The bytes alive over a step as the document holds them."""
    moments = [
        Moment(phase, printable(layer, 100), *(live[kind] for kind in buffers.KINDS))  # type: ignore[arg-type]
        for (phase, layer), live in buffers.by_place(recording).items()
    ]
    at_peak = [
        Held(kind, printable(name, 100), size_bytes) for (kind, name), size_bytes in buffers.at_peak(recording).items()
    ]
    return Memory(recording.peak_bytes, measured_bytes, moments, at_peak)


def _record(framework: str, step: Any, arrays: Any, network: Any, count: int) -> list[Recorded]:
    """Record steps with the framework's recorder, which imports it."""
    if framework == "torch":
        from scripts.profiling import torch_

        return torch_.record(step, arrays, network, count)
    if framework == "jax":
        from scripts.profiling import jax_

        return jax_.record(step, arrays, network, count)
    from scripts.profiling import handwritten

    return handwritten.record(step, arrays, network, count, framework)


def _memory_recording(framework: str, build: Callable[[], Any], batch: Any, network: Network) -> Recording:
    """Record the memory of a step with the framework's recorder."""
    if framework == "torch":
        from scripts.profiling.memory import torch_

        return torch_.record(build, batch, network)
    if framework == "jax":
        from scripts.profiling.memory import jax_

        return jax_.record(build, batch)
    from scripts.profiling.memory import handwritten

    return handwritten.record(build, batch, network, framework)


def _counters(step: Any, arrays: Any, count: int) -> Counters:
    """Count events of the processor in steps without a profiler."""
    try:
        found = counters.counted(lambda: _seconds(step, arrays, count))
    except OSError as error:
        return Counters(missing=printable(str(error), 100))
    return Counters(cycles=found["cycles"] // count, instructions=found["instructions"] // count,
                    cache_misses=found["cache misses"] // count)  # fmt: skip


def _seconds(step: Any, arrays: Any, count: int) -> list[float]:
    """Seconds of steps without a profiler."""
    found = []
    for _ in range(count):
        start_s = time.perf_counter()
        step(arrays)
        found.append(time.perf_counter() - start_s)
    return found


def text(profile: Profile) -> str:
    """A profile for the terminal."""
    network = NETWORKS[profile.network]
    overhead = profile.step_ms / profile.unprofiled_ms - 1
    lines = [
        f"{profile.network}, batch {profile.batch}, {profile.row}: {profile.step_ms:.2f} ms a step, median of "
        f"{profile.steps}; {profile.unprofiled_ms:.2f} ms without the profiler ({overhead:+.1%})",
        f"{'phase':9} {'layer':8} {'operator':44} {'ms':>8} {'share':>6}  computes",
    ]
    lines += [
        f"{each.phase:9} {each.layer:8} {each.operator[:44]:44} {each.ms:8.3f} {each.ms / profile.step_ms:6.1%}  "
        f"{', '.join(each.covers)}".rstrip()
        for each in sorted(profile.operators, key=lambda each: -each.ms)
        if each.ms >= profile.step_ms / 1000
    ]
    lines.append(f"{'':9} {'':8} {'not explained':44} {profile.unexplained_ms:8.3f} "
                 f"{profile.unexplained_ms / profile.step_ms:6.1%}")  # fmt: skip
    lines.append("Operators below 0.1 % are left out. Medians need not add up to the median of the step.")
    reached = ", ".join(f"{each.gb_per_s:.0f} GB/s in {each.level}" for each in profile.roofs.bandwidths)
    lines.append(f"Roofs: {profile.roofs.gemm_gflop_per_s:.0f} GFLOP/s of matrix products in NumPy; copying {reached}.")
    counted = profile.counters
    lines.append(
        f"Counters of the processor: not available here (perf events: {counted.missing})."
        if counted.missing
        else f"A step takes {counted.cycles:,} cycles and {counted.instructions:,} instructions of user code in all "
        f"threads, and misses the last cache {counted.cache_misses:,} times."
    )
    lines.append("Furthest from their roof:")
    for each in layers.most_to_gain(profile, network):
        times = f"{each.ms:.2f} ms, {each.least_ms:.2f} at the roof of {each.roof}"
        lines.append(f"  {each.phase} {each.layer}: {each.to_gain_ms:.2f} ms to gain ({times})")
    return "\n".join([*lines, *_memory_lines(profile.memory)])


def _memory_lines(memory: Memory) -> list[str]:
    highest = max(memory.moments, key=lambda moment: moment.total_bytes)
    place = buffers.Place(highest.phase, highest.layer, 0).label
    return [
        f"Most bytes are alive in {place}: {memory.peak_bytes:,}; measured by benchmarks: {memory.measured_bytes:,}.",
        *(f"  {part.size_bytes:>13,}  {part.kind}: {part.name}" for part in memory.at_peak if part.size_bytes),
    ]


def _folder(text: str) -> Path:
    """Parse the path of a folder. Raises argparse.ArgumentTypeError."""
    if not text:
        raise argparse.ArgumentTypeError("'' given, a folder needed")
    return Path(text)


def _roofs(text: str) -> document.Roofs:
    return msgspec.json.decode(text, type=document.Roofs)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/profile", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="of training steps (default: of each framework)")
    parser.add_argument("--network", choices=NETWORKS, default="mnist_cnn", help="(default: %(default)s)")
    parser.add_argument("--batch", type=positive, default=64, help="(default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=30, help="steps to profile (default: %(default)s)")
    parser.add_argument(
        "--out", type=_folder, default=ROOT / "reports" / document.FOLDER, help="where to write (default: %(default)s)"
    )
    # Set for the process of one row.
    parser.add_argument("--roofs", type=_roofs, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.batch > document.MOST_IMAGES:
        parser.error(f"argument --batch: {options.batch} given, at most {document.MOST_IMAGES:,} accepted")
    return options


if __name__ == "__main__":
    sys.exit(main())
