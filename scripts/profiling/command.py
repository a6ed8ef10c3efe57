"""Show where the time and the memory of a training step or an operator's call go, in tables and in a trace.

./scripts/profile [ROW ...] [--network mnist_cnn] [--batch 64] [--elements 1048576] [--dtype float32] [--steps 30]
ROW: of training steps, as numpy.inplace, or of an operator, as relu.forward.numpy.out; by default steps of one flavour
of each framework. Writes two files for each row to reports/profiles: a trace for Perfetto (ui.perfetto.dev), and a
table, from which the report lays the layers of all frameworks side by side, and lists the operators. Each row runs in a
process of its own; one that fails does not stop the others. Exit code: 0; 1 if a row failed; 2 for arguments that are
not accepted; 130 after Ctrl-C.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.harness.case import Unavailable, Unsupported
from benchmarks.harness.machine import memory
from benchmarks.harness.quantities.dispatch import needed_bytes, require
from benchmarks.harness.truth import operators
from impls.catalog import find_step
from impls.cnn.architecture import NETWORKS, RELU
from impls.variant import DTYPES, StepVariant, Variant
from scripts.arguments import positive
from scripts.claims.document import Strict, write, write_bytes
from scripts.profiling import INTERRUPTED, calls, document, roofs, steps, trace
from scripts.setup.pins import ROOT

# A flavour of each framework: of ReLU networks, and of those whose activation cannot work in place.
OF_RELU = (
    *(f"{flavour}.{memory}" for flavour in ("numpy", "numba", "torch") for memory in ("fresh", "inplace")),
    "jax-patches.fresh",
)
OF_OTHERS = ("numpy.fresh", "numba.fresh", "torch.fresh", "jax-patches.fresh")
# The options of each kind of row, with their defaults.
OF_STEPS = {"network": "mnist_cnn", "batch": 64}
OF_CALLS = {"elements": 2**20, "dtype": "float32"}
# The likely cause of a signal that ends a process.
KILLED = {9: ", as where the machine lacks memory"}
# Steps or calls in a trace; more make it large and show nothing new.
TRACED = 5


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    default = OF_RELU if NETWORKS[options.network].activation == RELU else OF_OTHERS
    try:
        rows = {name: _row(name, options) for name in options.rows or default}
        for name, row in rows.items():
            if options.nvtx and not (isinstance(row, StepVariant) and row.device == "cuda"):
                raise ValueError(f"--nvtx: {name} given, training steps on a GPU accepted, such as torch-cuda.inplace")
        _require_writable(options.out)
    except ValueError as error:
        print(f"profile: {error}", file=sys.stderr)
        return 2
    if options.limits:
        ((name, row),) = rows.items()
        return _one(name, row, options)
    # Those of steps are measured once for each device.
    of_device: dict[str, document.Roofs] = {}
    return max([_in_own_process(name, row, of_device, options) for name, row in rows.items()])


def _row(name: str, options: argparse.Namespace) -> StepVariant | Variant:
    """The row with a name. Raises ValueError for one that cannot be profiled here."""
    if not calls.is_name(name):
        possible = [row.name for row in steps.rows_of(options.network)]
        if name not in possible:
            known = f"{options.network} has {', '.join(possible)}; of operators, such as relu.forward.numpy.out"
            raise ValueError(f"ROW: {name!r} given; of rows that can be profiled, {known}")
        step = find_step(name)
        _require(name, step, "float32")
        return step
    try:
        row = calls.find(name)
        _require(name, row, options.dtype)
        memory.require(needed_bytes(calls.case_of(row, options.elements, options.dtype)), memory.free_bytes())
    except (LookupError, memory.NotEnough) as error:
        raise ValueError(f"ROW: {name!r} given; {error.args[0]}") from None
    if options.elements < operators.channels(row):
        least = operators.channels(row)
        raise ValueError(f"--elements: {options.elements} given; {name} needs {least}, one of each channel")
    return row


def _require(name: str, row: StepVariant | Variant, dtype: str) -> None:
    """Raise ValueError for a row that cannot run here."""
    try:
        require(row, dtype)
    except (Unavailable, Unsupported) as error:
        raise ValueError(f"ROW: {name!r} given; {error.args[0]}") from None


def _require_writable(folder: Path) -> None:
    """Raise ValueError unless files can be written to a folder, which need not exist and is not created."""
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise ValueError(f"--out: {folder} given, a folder to write to needed: {error.strerror}") from None


def _in_own_process(
    name: str, row: StepVariant | Variant, of_device: dict[str, document.Roofs], options: argparse.Namespace
) -> int:
    """Profile a row in a process of its own; return 0, or 1 where it failed. of_device: roofs that are known."""
    limits: document.Roofs | document.Roof | None
    try:
        if options.nvtx:
            limits = None
        elif isinstance(row, StepVariant):
            if row.device not in of_device:
                of_device[row.device] = roofs.on_cpu() if row.device == "cpu" else roofs.on_gpu()
            limits = of_device[row.device]
        else:
            limits = roofs.streaming(row, options.elements, options.dtype)
    except Unavailable as error:
        print(f"profile: {name}: its roof cannot be measured: {error}", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "scripts.profiling", name, "--limits", msgspec.json.encode(limits).decode()]
    command += ["--nvtx"] if options.nvtx else []
    command += ["--steps", str(options.steps), "--out", str(options.out.absolute())]
    for option in OF_STEPS if isinstance(row, StepVariant) else OF_CALLS:
        command += [f"--{option}", str(getattr(options, option))]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code < 0:
        print(f"profile: {name}: its process was ended by signal {-code}{KILLED.get(-code, '')}", file=sys.stderr)
    return int(code != 0)


def _one(name: str, row: StepVariant | Variant, options: argparse.Namespace) -> int:
    """Profile a row in this process, print its table and write its files."""
    # Its profiler prints to standard error otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        if options.nvtx:
            assert isinstance(row, StepVariant)
            steps.run_with_ranges(row, options.network, options.batch, options.steps)
            print(f"{name}: {options.steps} steps with ranges of NVTX", flush=True)
        else:
            traced = _step(row, options) if isinstance(row, StepVariant) else _call(row, options)
            print(f"{traced}\n", flush=True)
    except Exception as error:
        print(f"profile: {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _step(row: StepVariant, options: argparse.Namespace) -> Path:
    """Profile steps of a row; return the path of the trace."""
    measured = msgspec.json.decode(options.limits, type=document.Roofs)
    found = steps.profiled(row, options.network, options.batch, options.steps, measured)
    print(steps.text(found.profile))
    title = f"{options.network}, {row.name}, batch {options.batch}"
    traced = trace.dumped(title, found.steps[:TRACED], found.memory)
    return _write(options.out, document.file(options.network, row.name), found.profile, traced)


def _call(row: Variant, options: argparse.Namespace) -> Path:
    """Profile calls of a row; return the path of the trace."""
    roof = msgspec.json.decode(options.limits, type=document.Roof | None)
    found = calls.profiled(row, options.elements, options.dtype, options.steps, roof)
    print(calls.text(found.profile))
    title = f"{calls.name(row)}, {found.profile.elements:,} elements of {options.dtype}"
    folder = options.out / document.CALLS_FOLDER
    traced = trace.dumped(title, found.calls[:TRACED], found.memory, "call")
    return _write(folder, document.file_of_call(found.profile), found.profile, traced)


def _write(folder: Path, file: str, profile: Strict, traced: str) -> Path:
    """Write a profile and its trace; return the path of the trace."""
    path = folder / document.trace_of(file)
    write_bytes(path, traced.encode())
    write(folder / file, profile)
    return path


def _folder(text: str) -> Path:
    """Parse the path of a folder. Raises argparse.ArgumentTypeError."""
    if not text:
        raise argparse.ArgumentTypeError("'' given, a folder needed")
    return Path(text)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/profile", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "rows", nargs="*", metavar="ROW",
        help="of training steps, as numpy.inplace (default: of each framework), or of an operator, as "
        "relu.forward.numpy.out",
    )  # fmt: skip
    parser.add_argument("--network", choices=NETWORKS, help=f"of steps (default: {OF_STEPS['network']})")
    parser.add_argument("--batch", type=positive, help=f"of steps (default: {OF_STEPS['batch']})")
    parser.add_argument("--elements", type=positive, help=f"of operators (default: {OF_CALLS['elements']})")
    parser.add_argument("--dtype", choices=DTYPES, help=f"of operators (default: {OF_CALLS['dtype']})")
    parser.add_argument("--steps", type=positive, default=30, help="steps or calls to profile (default: %(default)s)")
    parser.add_argument(
        "--nvtx", action="store_true",
        help="make steps with ranges of NVTX, under Nsight's tools, instead of profiling them; write nothing",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=_folder, default=ROOT / "reports" / document.FOLDER, help="where to write (default: %(default)s)"
    )
    # Set for the process of one row: the document.Roofs of a step, the document.Roof of a call.
    parser.add_argument("--limits", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    are_calls = [calls.is_name(name) for name in options.rows] or [False]
    for defaults, is_used, kind in (
        (OF_STEPS, not all(are_calls), "a training step"),
        (OF_CALLS, any(are_calls), "an operator"),
    ):
        for option, default in defaults.items():
            if getattr(options, option) is None:
                setattr(options, option, default)
            elif not is_used:
                parser.error(f"argument --{option}: {getattr(options, option)} given, but no ROW is of {kind}")
    if options.batch > document.MOST_IMAGES:
        parser.error(f"argument --batch: {options.batch} given, at most {document.MOST_IMAGES:,} accepted")
    return options
