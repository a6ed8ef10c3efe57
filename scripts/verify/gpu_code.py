"""Compile the GPU kernels for several architectures, which needs no GPU, and check the generated code.

python -m scripts.verify.gpu_code [--architectures 80 90 100] [--json]: needs an environment with numba-cuda, NVIDIA's
libNVVM and Triton (.venv/test). Kernels of other activations than ReLU, and those of steps in float64, are compiled
for the first architecture only.
Fails if a kernel spills registers, computes in float64 although its arrays have another dtype (sums of slopes may),
calls a function, needs more registers than its launch allows, or moves more or fewer bytes per element than its row of
the catalog declares.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from impls.activations import rows as activations
from impls.catalog import OPERATORS, Key, find
from impls.cnn.networks import RELU_NETWORKS, Network
from impls.variant import ITEMSIZE_BYTES, Variant

ARCHITECTURES = (80, 90, 100)
# Those that libNVVM of CUDA 13 and Triton compile for.
SUPPORTED = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)
BATCH = 64
# Registers of a multiprocessor of each of these architectures.
REGISTERS = 65536
TRITON_POINTERS = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32", "float64": "*fp64"}
TRITON_SCALARS = {"n": "i64", "magnitude": "i32", "programs": "i32"}
_ACCESS = r"\b(ld|st)\.(?:\w+\.)*?{}\.(?:[\w:]+\.)*?(?:(v[248])\.)?[bfus](8|16|32|64)\b"
_GLOBAL, _SHARED = (re.compile(_ACCESS.format(space)) for space in ("global", "shared"))
_TARGET = re.compile(r"^\.target (sm_\w+)", re.MULTILINE)
_USED = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


@dataclass(frozen=True)
class Source:
    """A kernel's PTX for an architecture.

    threads: of a block. resident: blocks that its launch wants on a multiprocessor at a time.
    row: operator, direction and name of the row that declares its bytes.
    shared: threads that read the same byte of a packed mask, in one access of the warp.
    slope_loads: its widest loads that are of slopes, once in a thread. sums_in_float64: arrays of any dtype.
    """

    kernel: str
    architecture: int
    dtype: str
    ptx: str
    threads: int
    resident: int
    row: Key | None = None
    shared: int = 1
    slope_loads: int = 0
    sums_in_float64: bool = False


@dataclass(frozen=True)
class CompiledKernel:
    """Properties of a compiled kernel.

    registers: of a thread; most_registers: as its launch allows. load_bytes, store_bytes: size of its widest access to
    global memory. shared_bytes: size of its narrowest load from shared memory; 0 without one. element_bytes: bytes that
    its widest accesses and those of masks move for each stored element. declared_bytes: the same by the catalog; both
    are None for a kernel without a row. fma_percent: percentage of multiply-adds among the instructions of the
    innermost loop that has most of them; 0 without one.
    """

    kernel: str
    architecture: int
    registers: int
    most_registers: int
    spilled_bytes: int
    local_accesses: int
    float64_instructions: int
    calls: int
    load_bytes: int
    store_bytes: int
    shared_bytes: int
    element_bytes: float | None
    declared_bytes: float | None
    fma_percent: float

    @property
    def faults(self) -> list[str]:
        """A message for each failed check."""
        faults = {
            f"{self.spilled_bytes} bytes spilled": self.spilled_bytes,
            f"{self.local_accesses} accesses to local memory": self.local_accesses,
            f"{self.float64_instructions} instructions of float64": self.float64_instructions,
            f"{self.calls} calls": self.calls,
            f"{self.registers} registers, {self.most_registers} are left": self.registers > self.most_registers,
            f"{self.element_bytes} bytes an element, {self.declared_bytes} declared": self.element_bytes
            != self.declared_bytes,
        }
        return [text for text, failed in faults.items() if failed]


def main() -> int:
    options = _options()
    makers: list[Callable[..., Iterator[Source]]] = [
        *(partial(numba_step, network, BATCH, "float32") for network in RELU_NETWORKS.values()),
        numba_relu,
        triton_relu,
    ]
    # These would take too long for every architecture.
    once: list[Callable[..., Iterator[Source]]] = [
        *(partial(numba_step, network, BATCH, "float64") for network in RELU_NETWORKS.values()),
        *(partial(make, dtype) for make in (numba_activations, numba_prelu) for dtype in activations.DTYPES),
        triton_activations,
        triton_prelu,
    ]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(examined, make, options.architectures[:1]) for make in once]
        jobs += [pool.submit(examined, make, options.architectures) for make in makers]
        kernels = [kernel for job in jobs for kernel in job.result()]
    if options.json:
        print(json.dumps([asdict(kernel) for kernel in kernels]))
    else:
        _print(kernels)
    return int(any(kernel.faults for kernel in kernels))


def examined(make: Callable[..., Iterator[Source]], architectures: Sequence[int]) -> list[CompiledKernel]:
    """Return the properties of the kernels that `make` yields for each architecture."""
    return [examine(source) for architecture in architectures for source in make(architecture=architecture)]


def numba_relu(architecture: int) -> Iterator[Source]:
    """Yield ReLU's kernels in Numba, in each dtype."""
    from numba import from_dtype, types

    from impls import cuda_vectors
    from impls.relu import numba_cuda

    rows = {
        "forward": ("relu", "forward", "numba-cuda.out"),
        "backward": ("relu", "backward", "numba-cuda.out"),
        "backward_bits": ("relu", "backward", "numba-cuda-bits.out"),
    }
    for dtype in numba_cuda.DTYPES:
        element = from_dtype(np.dtype(numba_cuda.processed(dtype)))
        array, bits = types.Array(element, 1, "C"), types.Array(types.uint8, 1, "C")
        arguments = {
            "forward": (array, array),
            "backward": (array, array, array),
            "backward_bits": (array, bits, array),
            "forward_bits": (array, bits, array),
        }
        for name, kernel in numba_cuda.kernels(dtype)._asdict().items():
            yield Source(
                f"relu.{name}.{dtype}",
                architecture,
                dtype,
                _numba_ptx(kernel, (*arguments[name], types.int64), architecture),
                numba_cuda.THREADS,
                numba_cuda.BLOCKS_EACH,
                rows.get(name),
                # Neighbouring threads read bits of the same byte.
                shared=8 // cuda_vectors.lanes(element.name) if name == "backward_bits" else 1,
            )


def numba_activations(dtype: str, architecture: int) -> Iterator[Source]:
    """Yield the kernels of the other activations in Numba."""
    from numba import from_dtype, types

    from impls.activations import numba_cuda
    from impls.relu.numba_cuda import BLOCKS_EACH, THREADS

    array = types.Array(from_dtype(np.dtype(dtype)), 1, "C")
    for row, launcher in _launchers("numba_cuda"):
        is_forward = row.direction == "forward"
        kernel = (numba_cuda.forward_kernel if is_forward else numba_cuda.backward_kernel)(launcher.name, dtype)
        arrays = (array,) * (2 if is_forward else 3)
        # Exponentials in float64 need up to 90 registers, and spill if they get 64: two of four blocks fit.
        waiting = 2 if dtype == "float64" and not is_forward else 1
        yield Source(
            f"numba.{launcher.name}.{dtype}",
            architecture,
            dtype,
            _numba_ptx(kernel, (*arrays, types.int64), architecture),
            THREADS,
            BLOCKS_EACH // waiting,
            _key(row),
        )


def _launchers(framework: str) -> Iterator[tuple[Variant, Any]]:
    """Yield the rows of the other activations that write to a given buffer, and the objects that launch kernels."""
    for row in activations.ROWS:
        if row.framework == framework and row.memory == "out" and row.operator not in activations.PRELUS:
            function: Any = row.load()
            yield row, function.__self__


def numba_prelu(dtype: str, architecture: int) -> Iterator[Source]:
    """Yield the kernels of prelu in Numba, for the channels of its rows."""
    from numba import from_dtype, types

    from impls.activations import numba_cuda
    from impls.relu.numba_cuda import BLOCKS_EACH, THREADS

    array, sums = types.Array(from_dtype(np.dtype(dtype)), 1, "C"), types.Array(types.float64, 1, "C")
    kernels = {
        "forward": (numba_cuda.prelu_forward_kernel, (array, array, array, types.int64)),
        "backward": (numba_cuda.prelu_backward_kernel, (array, array, array, array, sums, types.int64)),
        "sum": (numba_cuda.prelu_sum_kernel, (sums, array)),
    }
    for operator, channels in _slopes().items():
        for name, (make, arguments) in kernels.items():
            is_sum = name == "sum"
            yield Source(
                f"numba.{operator}.{name}.{dtype}",
                architecture,
                dtype,
                _numba_ptx(make(dtype, channels), arguments, architecture),
                THREADS if is_sum else numba_cuda.prelu_threads(dtype, channels),
                1 if is_sum else BLOCKS_EACH,
                None if is_sum else (operator, name, "numba-cuda.out"),
                sums_in_float64=name != "forward",
            )


def _slopes() -> dict[str, int]:
    """Return the channels of prelu's operators."""
    return {name: np.size(OPERATORS[name].learnable[0].initial) for name in activations.PRELUS}


def _key(row: Variant) -> Key:
    return row.operator, row.direction, row.name


def numba_step(
    network: Network, n: int, dtype: str, relu: bool = True, launch: Any = None, *, architecture: int
) -> Iterator[Source]:
    """Yield the kernels that a training step launches (`impls.cnn.numba_cuda`). launch: a `products.Launch`."""
    from impls.cnn.numba_cuda import products

    for kernel in _step_kernels(network, n, dtype, relu, launch or products.Launch()):
        ptx = _numba_ptx(kernel.function, kernel.types, architecture)
        yield Source(
            f"{network.name}.{kernel.name}.{dtype}", architecture, dtype, ptx, kernel.threads, products.RESIDENT
        )


@cache
def _step_kernels(network: Network, n: int, dtype: str, relu: bool, launch: Any) -> tuple[Any, ...]:
    from impls.cnn.numba_cuda import step

    return tuple(step.Kernels(network, n, dtype, relu, launch).listed())


def _numba_ptx(kernel: Any, arguments: tuple[Any, ...], architecture: int) -> str:
    """Return the PTX of a Numba kernel."""
    (ptx,) = _lowered(kernel.py_func, arguments).get_asm_strs(cc=divmod(architecture, 10))
    return ptx


@cache
def _lowered(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Type a kernel and lower it to LLVM IR, once for all architectures; only libNVVM's output depends on them.

    This is `numba.cuda.compile` without its last step. The patch answers Numba's query for the device's architecture,
    which it makes for the functions that a kernel calls.
    """
    from numba.cuda import compiler, dispatcher

    cc = divmod(ARCHITECTURES[0], 10)
    with patch.object(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=cc)):
        library, _ = compiler._compile_pyfunc_with_fixup(function, arguments, device=False, abi="numba", cc=cc)
    return library


def triton_relu(architecture: int, config: Any = None, addresses: bool = True, length: bool = True) -> Iterator[Source]:
    """Yield ReLU's kernels in Triton, in each dtype.

    config: block size and warps; by default the last of `triton_.CONFIGS`. addresses, length: compile for addresses and
    an array length that are multiples of 16, as a launch specialises kernels.
    """
    from impls.relu import triton_

    kernels: dict[str, tuple[Any, tuple[str, ...], str | None, Key | None]] = {
        "forward": (triton_.forward_kernel, ("x", "out"), None, ("relu", "forward", "triton-cuda.out")),
        "backward": (
            triton_.backward_kernel,
            ("grad", "saved", "out"),
            None,
            ("relu", "backward", "triton-cuda.out"),
        ),
        "backward_bits": (
            triton_.backward_bits_kernel,
            ("grad", "saved", "out"),
            "saved",
            ("relu", "backward", "triton-cuda-bits.out"),
        ),
        "forward_bits": (triton_.forward_bits_kernel, ("x", "bits", "out"), "bits", None),
    }
    config = config or triton_.CONFIGS[-1]
    for dtype in triton_.DTYPES:
        for name, (kernel, pointers, mask, row) in kernels.items():
            types = {pointer: "*u8" if pointer == mask else TRITON_POINTERS[dtype] for pointer in pointers}
            divisible = (*(pointers if addresses else ()), *(("n",) if length else ()))
            ptx = _triton_ptx(kernel, types, {"BLOCK": config.kwargs["BLOCK"]}, divisible, config, architecture)
            yield Source(f"triton.{name}.{dtype}", architecture, dtype, ptx, 32 * config.num_warps, 2, row)


def triton_activations(architecture: int) -> Iterator[Source]:
    """Yield the kernels of the other activations in Triton, as for addresses and lengths that are multiples of 16."""
    from impls.activations import triton_
    from impls.relu.triton_ import CONFIGS

    config, (dtype,) = CONFIGS[-1], triton_.DTYPES
    for row, launcher in _launchers("triton"):
        is_forward = row.direction == "forward"
        kernel = triton_.forward_kernel if is_forward else triton_.backward_kernel
        types = dict.fromkeys(("x", "out") if is_forward else ("grad", "saved", "out"), TRITON_POINTERS[dtype])
        constants = {"FORMULA": launcher.formula, "BLOCK": config.kwargs["BLOCK"]}
        ptx = _triton_ptx(kernel, types, constants, (*types, "n"), config, architecture)
        name = f"triton.{launcher.formula.__name__}.{dtype}"
        yield Source(name, architecture, dtype, ptx, 32 * config.num_warps, 2, _key(row))


def triton_prelu(architecture: int) -> Iterator[Source]:
    """Yield the kernels of prelu in Triton, for the channels of its rows."""
    from impls.activations import triton_
    from impls.relu.triton_ import CONFIGS

    config, (dtype,) = CONFIGS[-1], triton_.DTYPES
    block, pointer, sums = config.kwargs["BLOCK"], TRITON_POINTERS[dtype], TRITON_POINTERS["float64"]
    forward = {"x": pointer, "slope": pointer, "out": pointer}
    backward = {"grad": pointer, "saved": pointer, "slope": pointer, "sums": sums, "out": pointer}
    kernels: dict[str, tuple[Any, dict[str, str], int]] = {
        "forward": (triton_.prelu_forward_kernel, forward, block),
        "backward": (triton_.prelu_backward_kernel, backward, block),
        "sum": (triton_.prelu_sum_kernel, {"sums": sums, "total": pointer}, triton_.SUMMED),
    }
    for operator, channels in _slopes().items():
        for name, (kernel, types, size) in kernels.items():
            constants = {"CHANNELS": channels, "BLOCK": size}
            divisible = (*types, "n") if name != "sum" else types
            yield Source(
                f"triton.{operator}.{name}.{dtype}",
                architecture,
                dtype,
                _triton_ptx(kernel, types, constants, divisible, config, architecture),
                32 * config.num_warps,
                2,
                None if name == "sum" else (operator, name, "triton-cuda.out"),
                # A slope for each channel of an access.
                slope_loads=int(channels > 1),
                sums_in_float64=name != "forward",
            )


def _triton_ptx(
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    divisible: Iterable[str],
    config: Any,
    architecture: int,
) -> str:
    """Return the PTX of a Triton kernel. divisible: arguments that are multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget

    names = kernel.arg_names
    given = {**TRITON_SCALARS, **types, **dict.fromkeys(constants, "constexpr")}
    source = triton.compiler.ASTSource(
        kernel.fn if isinstance(kernel, triton.runtime.Autotuner) else kernel,
        {name: given[name] for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"num_warps": config.num_warps}).asm["ptx"]


def examine(source: Source) -> CompiledKernel:
    """Return the properties of a kernel, from its PTX and the assembler's report."""
    registers, spilled_bytes = _assembled(source.ptx)
    accesses = _accesses(_GLOBAL, source.ptx)
    widest = {kind: max((size for other, size in accesses if other == kind), default=0) for kind in ("ld", "st")}
    shared = [size for kind, size in _accesses(_SHARED, source.ptx) if kind == "ld"]
    may_widen = source.dtype == "float64" or source.sums_in_float64
    return CompiledKernel(
        kernel=source.kernel,
        architecture=source.architecture,
        registers=registers,
        most_registers=min(255, REGISTERS // (source.threads * source.resident)),
        spilled_bytes=spilled_bytes,
        local_accesses=len(re.findall(r"\b(?:ld|st)\.local\b", source.ptx)),
        float64_instructions=0 if may_widen else len(re.findall(r"\.f64\b", source.ptx)),
        calls=len(re.findall(r"^\s*call\b", source.ptx, re.MULTILINE)),
        load_bytes=widest["ld"],
        store_bytes=widest["st"],
        shared_bytes=min(shared, default=0),
        element_bytes=_element_bytes(source, accesses, widest) if source.row else None,
        declared_bytes=_declared_bytes(source),
        fma_percent=_fma_percent(_innermost_loops(source.ptx)),
    )


def _innermost_loops(ptx: str) -> list[list[str]]:
    """Return the instructions of each loop that consists of one basic block."""
    found = []
    for label, block in re.findall(r"^(\$\w+):\n((?:(?!\$).*\n)*)", ptx, re.MULTILINE):
        instructions = [line.strip() for line in block.splitlines() if line.strip().endswith(";")]
        jumps = [number for number, text in enumerate(instructions) if re.search(rf"bra\s+{re.escape(label)};", text)]
        if jumps:
            found.append(instructions[: jumps[0] + 1])
    return found


def _fma_percent(loops: list[list[str]]) -> float:
    counts = [(sum(text.startswith("fma.") for text in loop), len(loop)) for loop in loops]
    multiply_adds, instructions = max(counts, default=(0, 1))
    return 100 * multiply_adds / instructions


def _accesses(pattern: re.Pattern[str], ptx: str) -> list[tuple[str, int]]:
    """Return each load ("ld") and store ("st") with its bytes."""
    matches = filter(None, map(pattern.search, ptx.splitlines()))
    return [(match[1], int(match[2][1:] if match[2] else 1) * int(match[3]) // 8) for match in matches]


def _element_bytes(source: Source, accesses: list[tuple[str, int]], widest: dict[str, int]) -> float:
    """Return the bytes that the main loop moves for each element that its widest stores write.

    Unrolling multiplies both. Narrower accesses belong to the tail, except those of masks.
    """
    stored = sum(size for kind, size in accesses if kind == "st" and size == widest["st"])
    loaded = sum(size for kind, size in accesses if kind == "ld" and size == widest["ld"])
    loaded -= source.slope_loads * widest["ld"]
    itemsize_bytes = ITEMSIZE_BYTES[source.dtype]
    narrow = [size for kind, size in accesses if kind == "ld" and size < widest["ld"]]
    # The tail loads one byte of a mask for each element.
    masks = max(0, narrow.count(1) - narrow.count(itemsize_bytes)) / source.shared
    return (stored + loaded + masks) / (stored / itemsize_bytes)


def _declared_bytes(source: Source) -> float | None:
    if not source.row:
        return None
    return find(*source.row).traffic.algorithmic_bytes(1, ITEMSIZE_BYTES[source.dtype])


def _assembled(ptx: str) -> tuple[int, int]:
    """Return the registers of a thread, and the bytes of its stack frame and spills.

    Raises RuntimeError if ptxas fails.
    """
    target = _TARGET.search(ptx)
    assert target
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx.rstrip("\0"))
        assembled = subprocess.run(
            [_assembler(), f"-arch={target[1]}", "-v", str(path), "-o", os.devnull],
            capture_output=True,
            text=True,
        )
    used, spilled = _USED.search(assembled.stderr), _SPILLED.search(assembled.stderr)
    if assembled.returncode or not used or not spilled:
        raise RuntimeError(f"ptxas failed: {assembled.stderr or assembled.stdout}")
    return int(used[1]), sum(map(int, spilled.groups()))


def _assembler() -> str:
    """Return the path of NVIDIA's assembler: Triton's, or the one on the PATH. Raises SystemExit if there is none."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    # The newer one also supports older architectures.
    for path in (str(folder / "ptxas-blackwell"), str(folder / "ptxas"), "ptxas"):
        if executable := shutil.which(path):
            return executable
    raise SystemExit("ptxas is missing: install triton, or NVIDIA's CUDA toolkit")


def _print(kernels: list[CompiledKernel]) -> None:
    print(
        f"{'kernel':<42} {'sm':>4} {'registers':>9} {'of':>4} {'spills':>6} {'load':>5} {'store':>5} "
        f"{'shared':>6} {'FMA %':>5} {'B/element':>9}"
    )
    for kernel in sorted(kernels, key=lambda kernel: (kernel.kernel, kernel.architecture)):
        moved = "" if kernel.element_bytes is None else f"{kernel.element_bytes:.3f}"
        print(
            f"{kernel.kernel:<42} {kernel.architecture:>4} {kernel.registers:>9} {kernel.most_registers:>4} "
            f"{kernel.spilled_bytes:>6} {kernel.load_bytes:>5} {kernel.store_bytes:>5} {kernel.shared_bytes:>6} "
            f"{kernel.fma_percent:>5.0f} {moved:>9}   {'; '.join(kernel.faults)}".rstrip()
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.gpu_code", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--architectures",
        type=int,
        nargs="+",
        choices=SUPPORTED,
        default=ARCHITECTURES,
        help="compute capabilities; kernels of other activations than ReLU: the first one (default: 80 90 100)",
    )
    parser.add_argument("--json", action="store_true", help="print the properties as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
