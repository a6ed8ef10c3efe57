"""What the GPU kernels become: each compiled for several architectures, which takes no GPU, and looked at.

python -m scripts.verify.gpu_code [--architectures 80 90 100] [--json]: run by an environment that has numba-cuda,
NVIDIA's libNVVM and Triton (.venv/test). Fails where a kernel keeps registers in memory, computes in float64 though its
arrays are float32, calls a function, needs more registers than its launch leaves it, or moves other bytes an element
than its row of the catalog declares.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from impls.catalog import find
from impls.cnn.networks import DTYPES, NETWORKS, Network
from impls.variant import ITEMSIZE_BYTES

ARCHITECTURES = (80, 90, 100)
BATCH = 64
# Of a multiprocessor of each of these architectures.
REGISTERS = 65536
_ACCESS = r"\b(ld|st)\.(?:\w+\.)*?{}\.(?:[\w:]+\.)*?(?:(v[248])\.)?[bfus](8|16|32|64)\b"
_GLOBAL, _SHARED = (re.compile(_ACCESS.format(space)) for space in ("global", "shared"))
_TARGET = re.compile(r"^\.target (sm_\w+)", re.MULTILINE)
_USED = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


@dataclass(frozen=True)
class Source:
    """A kernel's PTX for an architecture. row: direction and name of the row of ReLU where its bytes are declared.

    resident: blocks that its launch wants on a multiprocessor at a time. shared: elements of a packed mask for which
    one byte is read more than once, in one access of the warp: how many times.
    """

    kernel: str
    architecture: int
    dtype: str
    ptx: str
    threads: int
    resident: int
    row: tuple[str, str] | None = None
    shared: int = 1


@dataclass(frozen=True)
class Found:
    """What a kernel became. load_bytes, store_bytes: of its widest accesses to global memory. shared_bytes: of its
    narrowest load of shared memory, 0 where it has none. element_bytes: that its widest accesses, and those of masks,
    move for each element it stores.
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

    @property
    def faults(self) -> list[str]:
        """What is wrong with it, in words."""
        wrong = {
            f"{self.spilled_bytes} bytes spilled": self.spilled_bytes,
            f"{self.local_accesses} accesses to local memory": self.local_accesses,
            f"{self.float64_instructions} instructions of float64": self.float64_instructions,
            f"{self.calls} calls": self.calls,
            f"{self.registers} registers, {self.most_registers} are left": self.registers > self.most_registers,
            f"{self.element_bytes} bytes an element, {self.declared_bytes} declared": self.element_bytes
            != self.declared_bytes,
        }
        return [text for text, is_wrong in wrong.items() if is_wrong]


def main() -> int:
    options = _options()
    makers: list[Callable[..., Iterator[Source]]] = [
        *(partial(numba_step, network, BATCH, dtype) for network, dtype in product(NETWORKS.values(), DTYPES)),
        numba_relu,
        triton_relu,
    ]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(looked_at, make, tuple(options.architectures)) for make in makers]
        found = [one for job in jobs for one in job.result()]
    if options.json:
        print(json.dumps([asdict(one) for one in found]))
    else:
        _print(found)
    return int(any(one.faults for one in found))


def looked_at(make: Callable[..., Iterator[Source]], architectures: Sequence[int]) -> list[Found]:
    """Examine the kernels that `make` yields for each architecture."""
    return [look_at(source) for architecture in architectures for source in make(architecture=architecture)]


def numba_relu(architecture: int) -> Iterator[Source]:
    """ReLU in Numba, in each dtype."""
    import numpy as np
    from numba import from_dtype, types

    from impls import cuda_vectors
    from impls.relu import numba_cuda

    names = {
        "forward": (1, ("forward", "numba-cuda.out")),
        "backward": (2, ("backward", "numba-cuda.out")),
        "backward_bits": (1, ("backward", "numba-cuda-bits.out")),
        "forward_bits": (1, None),
    }
    for dtype in numba_cuda.DTYPES:
        array, bits = types.Array(from_dtype(np.dtype(dtype)), 1, "C"), types.Array(types.uint8, 1, "C")
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
                names[name][1],
                # Neighbouring threads have parts of one byte.
                shared=8 // cuda_vectors.lanes(dtype) if name == "backward_bits" else 1,
            )


def numba_step(
    network: Network, n: int, dtype: str, relu: bool = True, side: int | None = None, *, architecture: int
) -> Iterator[Source]:
    """What a training step launches (`impls.cnn.numba_cuda`)."""
    from impls.cnn.numba_cuda import products

    for kernel in _step_kernels(network, n, dtype, relu, side or products.SIDE):
        ptx = _numba_ptx(kernel.function, kernel.types, architecture)
        yield Source(
            f"{network.name}.{kernel.name}.{dtype}", architecture, dtype, ptx, kernel.threads, products.RESIDENT
        )


@cache
def _step_kernels(network: Network, n: int, dtype: str, relu: bool, side: int) -> tuple[Any, ...]:
    from impls.cnn.numba_cuda import step

    return tuple(step.Kernels(network, n, dtype, relu, side).listed())


def _numba_ptx(kernel: Any, arguments: tuple[Any, ...], architecture: int) -> str:
    """PTX of a Numba kernel."""
    (ptx,) = _lowered(kernel.py_func, arguments).get_asm_strs(cc=divmod(architecture, 10))
    return ptx


@cache
def _lowered(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Type a kernel and lower it to LLVM IR, once for all architectures; only libNVVM's part depends on them.

    This is `numba.cuda.compile` without its last step. Numba would ask the device for the architecture of the functions
    that a kernel calls.
    """
    from numba.cuda import compiler, dispatcher

    cc = divmod(ARCHITECTURES[0], 10)
    with patch.object(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=cc)):
        library, _ = compiler._compile_pyfunc_with_fixup(function, arguments, device=False, abi="numba", cc=cc)
    return library


def triton_relu(architecture: int, config: Any = None, addresses: bool = True, length: bool = True) -> Iterator[Source]:
    """ReLU in Triton, in each dtype. addresses, length: whether they are multiples of 16, as a launch asks."""
    import triton
    from triton.backends.compiler import GPUTarget

    from impls.relu import triton_

    kernels = {
        "forward": (triton_.forward_kernel, ("x", "out"), ("forward", "triton-cuda.out")),
        "backward": (triton_.backward_kernel, ("grad", "saved", "out"), ("backward", "triton-cuda.out")),
        "backward_bits": (
            triton_.backward_bits_kernel,
            ("grad", "saved", "out"),
            ("backward", "triton-cuda-bits.out"),
        ),
        "forward_bits": (triton_.forward_bits_kernel, ("x", "bits", "out"), None),
    }
    short = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}
    target, chosen = GPUTarget("cuda", architecture, 32), config or triton_.CONFIGS[-1]
    for dtype in triton_.DTYPES:
        for name, (kernel, pointers, row) in kernels.items():
            pointed = {
                p: "*u8" if p == "bits" or (p == "saved" and "bits" in name) else f"*{short[dtype]}" for p in pointers
            }
            signature = {**pointed, "n": "i64", "magnitude": "i32", "BLOCK": "constexpr"}
            names = list(signature)
            known = (*(pointers if addresses else ()), *(("n",) if length else ()))
            source = triton.compiler.ASTSource(
                kernel.fn,
                signature,
                {(names.index("BLOCK"),): chosen.kwargs["BLOCK"]},
                {(names.index(p),): [["tt.divisibility", 16]] for p in known},
            )
            compiled = triton.compile(source, target=target, options={"num_warps": chosen.num_warps})
            threads = 32 * chosen.num_warps
            yield Source(f"triton.{name}.{dtype}", architecture, dtype, compiled.asm["ptx"], threads, 2, row)


def look_at(source: Source) -> Found:
    """Assemble a kernel, and read its PTX and what the assembler says."""
    registers, spilled_bytes = _assembled(source.ptx)
    accesses = _accesses(_GLOBAL, source.ptx)
    widest = {kind: max((size for found, size in accesses if found == kind), default=0) for kind in ("ld", "st")}
    shared = [size for kind, size in _accesses(_SHARED, source.ptx) if kind == "ld"]
    is_float64 = source.dtype == "float64"
    return Found(
        kernel=source.kernel,
        architecture=source.architecture,
        registers=registers,
        most_registers=min(255, REGISTERS // (source.threads * source.resident)),
        spilled_bytes=spilled_bytes,
        local_accesses=len(re.findall(r"\b(?:ld|st)\.local\b", source.ptx)),
        float64_instructions=0 if is_float64 else len(re.findall(r"\.f64\b", source.ptx)),
        calls=len(re.findall(r"^\s*call\b", source.ptx, re.MULTILINE)),
        load_bytes=widest["ld"],
        store_bytes=widest["st"],
        shared_bytes=min(shared, default=0),
        element_bytes=_element_bytes(source, accesses, widest) if source.row else None,
        declared_bytes=_declared_bytes(source),
    )


def _accesses(pattern: re.Pattern[str], ptx: str) -> list[tuple[str, int]]:
    """Each load ("ld") and store ("st") with its bytes."""
    found = filter(None, map(pattern.search, ptx.splitlines()))
    return [(one[1], int(one[2][1:] if one[2] else 1) * int(one[3]) // 8) for one in found]


def _element_bytes(source: Source, accesses: list[tuple[str, int]], widest: dict[str, int]) -> float:
    """Bytes of the main loop's accesses, by those elements that its widest stores write.

    Unrolling multiplies both. What is narrower than the widest is the tail's, but for a mask.
    """
    stored = sum(size for kind, size in accesses if kind == "st" and size == widest["st"])
    loaded = sum(size for kind, size in accesses if kind == "ld" and size == widest["ld"])
    itemsize_bytes = ITEMSIZE_BYTES[source.dtype]
    narrow = [size for kind, size in accesses if kind == "ld" and size < widest["ld"]]
    # The tail has one byte of a mask for each element.
    masks = max(0, narrow.count(1) - narrow.count(itemsize_bytes)) / source.shared
    return (stored + loaded + masks) / (stored / itemsize_bytes)


def _declared_bytes(source: Source) -> float | None:
    if not source.row:
        return None
    return find("relu", *source.row).traffic.algorithmic_bytes(1, ITEMSIZE_BYTES[source.dtype])


def _assembled(ptx: str) -> tuple[int, int]:
    """Registers a thread, and bytes of registers that are kept in memory."""
    target = _TARGET.search(ptx)
    assert target
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx.rstrip("\0"))
        told = subprocess.run(
            [_assembler(), f"-arch={target[1]}", "-v", str(path), "-o", os.devnull],
            capture_output=True,
            text=True,
        )
    used, spilled = _USED.search(told.stderr), _SPILLED.search(told.stderr)
    if told.returncode or not used or not spilled:
        raise RuntimeError(f"ptxas failed: {told.stderr or told.stdout}")
    return int(used[1]), sum(map(int, spilled.groups()))


def _assembler() -> str:
    """NVIDIA's assembler, of those that Triton brings, or on the PATH."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    # The newer one also takes older architectures.
    for path in (str(folder / "ptxas-blackwell"), str(folder / "ptxas"), "ptxas"):
        if found := shutil.which(path):
            return found
    raise SystemExit("ptxas is missing: install triton, or NVIDIA's CUDA toolkit")


def _print(found: list[Found]) -> None:
    print(
        f"{'kernel':<42} {'sm':>4} {'registers':>9} {'of':>4} {'spills':>6} {'load':>5} {'store':>5} "
        f"{'shared':>6} {'B/element':>9}"
    )
    for one in sorted(found, key=lambda one: (one.kernel, one.architecture)):
        moved = "" if one.element_bytes is None else f"{one.element_bytes:.3f}"
        print(
            f"{one.kernel:<42} {one.architecture:>4} {one.registers:>9} {one.most_registers:>4} "
            f"{one.spilled_bytes:>6} {one.load_bytes:>5} {one.store_bytes:>5} {one.shared_bytes:>6} {moved:>9}"
            f"   {'; '.join(one.faults)}".rstrip()
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.gpu_code", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--architectures", type=int, nargs="+", default=ARCHITECTURES, help="compute capabilities (default: 80 90 100)"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
