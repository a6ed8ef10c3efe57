"""Test that compiled GPU kernels follow the reference: NumPy executes their PTX (`tests/ptx.py`).

Tests call the rows' public functions on Numba's simulated arrays and on PyTorch's CPU tensors; only the launches are
replaced. They cover every row, alignment and tail, arrays of more than 2^33 elements, and training steps of the small
and of the measured networks.
"""

import importlib
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.truth import comparison
from impls.cnn.networks import initial_parameters, random_batch
from impls.cnn.numba_cuda import products
from impls.cnn.numba_cuda.step import Step
from impls.relu import triton_
from impls.variant import Variant
from scripts.training import parity
from scripts.verify.gpu_code import ARCHITECTURES
from tests import compiled, ptx
from tests.compiled import CompiledStep
from tests.conftest import cases
from tests.small import LAUNCH, SMALL
from tests.test_implementations import LENGTHS, check, host, special
from tests.test_kernels import WITHOUT

numba_cuda = importlib.import_module("impls.relu.numba_cuda")

ROOT = Path(__file__).resolve().parents[1]
# The tile of Numba's kernels for float32, and a length of several tiles with a tail.
TILE = numba_cuda.tile_elements("float32")
LONG = 5 * TILE + 13
# Element numbers, and so byte offsets, exceed 32 bits.
BEYOND = 2**33
# Linux reserves no memory before it is written; Python 3.12 adds the name to `mmap`.
MAP_NORESERVE = 0x4000
# More shared memory than any of Triton's kernels uses; the launch sets its size.
SHARED_BYTES = 2**15
FOLLOWED = 2


Program = Callable[[str, str], ptx.Program]


@pytest.fixture(scope="module")
def texts() -> dict[str, dict[str, str]]:
    """Return PTX by group and kernel, as `tests.compiled` names them."""
    environment = {name: value for name, value in os.environ.items() if name not in WITHOUT}
    process = subprocess.run(
        [sys.executable, "-m", "tests.compiled"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def programs(texts: dict[str, dict[str, str]]) -> Program:
    """Return a function that parses the PTX of a group and kernel."""
    return cache(lambda group, kernel: ptx.parse(texts[group][kernel]))


class Compiled:
    """A kernel with Numba's launch syntax: kernel[blocks, threads](*arguments)."""

    def __init__(self, program: ptx.Program) -> None:
        self.program = program

    def specialize(self, *arguments: Any) -> "Compiled":
        return self

    def __getitem__(self, launch: tuple[int, int]) -> Callable[..., None]:
        blocks, threads = launch
        return lambda *arguments: launched(self.program, (blocks,), threads, arguments)


def launched(
    program: ptx.Program, grid: tuple[int, ...], threads: int, arguments: Any, blocks: list[int] | None = None
) -> None:
    memory = ptx.Memory(list(_arrays(arguments)))
    ptx.Launch(program, grid, threads, list(ptx.numba_values(arguments)), memory, blocks).run()


def _arrays(arguments: Any) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from _arrays(argument)
        elif not isinstance(argument, int):
            yield argument


def numba_kernels(programs: Program, architecture: int) -> Callable[[str], Any]:
    """Return a replacement of `impls.relu.numba_cuda.kernels`."""
    names = numba_cuda.Kernels._fields
    return lambda dtype: numba_cuda.Kernels(
        *(Compiled(programs(f"numba {architecture}", f"relu.{name}.{dtype}")) for name in names)
    )


def on(*frameworks: str) -> Any:
    rows = cases(lambda row: row.framework in frameworks, device="cuda")
    return pytest.mark.parametrize(("row", "dtype"), rows)


@pytest.fixture(params=ARCHITECTURES)
def numba_compiled(request: Any, programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_cuda, "kernels", numba_kernels(programs, request.param))


@on("numba_cuda")
@pytest.mark.usefixtures("numba_compiled")
def test_numba_ptx_equals_the_reference(row: Variant, dtype: str) -> None:
    """Test arrays shorter than a tile, of several tiles with a tail, and not aligned to 16 bytes."""
    x, grad = special(row, dtype)
    for length in (*LENGTHS, LONG):
        check(row, dtype, np.resize(x, length), np.resize(grad, length))
    shifted = (lambda values: np.concatenate([values[:1], values]), lambda array: array[1:])
    check(row, dtype, np.resize(x, LONG), np.resize(grad, LONG), [shifted])


@pytest.fixture(params=[(architecture, config) for architecture in ARCHITECTURES for config in (0, -1)])
def triton_compiled(request: Any, programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, config = request.param
    chosen = triton_.CONFIGS[config]
    names = {kernel: name.removesuffix("_kernel") for name, kernel in vars(triton_).items() if name.endswith("_kernel")}

    def launch(kernel: Any, source: Any, *others: Any) -> Any:
        tensors, n = (source, *others), source.numel()
        if n:
            addresses = all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
            group = f"triton {architecture} {config} {addresses} {addresses and n % 16 == 0}"
            dtype = str(source.dtype).removeprefix("torch.")
            block = chosen.kwargs["BLOCK"]
            values = [*(tensor.data_ptr() for tensor in tensors), n, n.bit_length(), 0, 0]
            ptx.Launch(
                programs(group, f"triton.{names[kernel]}.{dtype}"), (-(-n // block),), 32 * chosen.num_warps, values,
                ptx.Memory(list(map(Bytes, tensors))), shared_bytes=SHARED_BYTES,
            ).run()  # fmt: skip
        return others[-1]

    monkeypatch.setattr(triton_, "launch", launch)


class Bytes:
    """The memory of a tensor with NumPy's array interface; NumPy lacks bfloat16."""

    def __init__(self, tensor: Any) -> None:
        self.nbytes = tensor.nbytes
        self.__array_interface__ = {"data": (tensor.data_ptr(), False)}


@on("triton")
@pytest.mark.usefixtures("triton_compiled")
def test_triton_ptx_equals_the_reference(row: Variant, dtype: str) -> None:
    x, grad = (values.astype(host(dtype)) for values in special(row, dtype))
    for length in (*LENGTHS, 2 * 4096, 4096 + 16, 4096 + 13):
        check(row, dtype, np.resize(x, length), np.resize(grad, length))
    shifted = (lambda values: np.concatenate([values[:1], values]), lambda array: array[1:])
    check(row, dtype, np.resize(x, 4096 + 13), np.resize(grad, 4096 + 13), [shifted])


def sparse(elements: int, dtype: str) -> np.ndarray:
    """Return zeros that occupy physical memory only where they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, elements * np.dtype(dtype).itemsize, flags=flags), dtype)


@pytest.mark.parametrize("name", numba_cuda.Kernels._fields)
def test_numba_indexes_more_than_2_to_the_32_elements(programs, name):
    """Check the first and the last whole tile, and the tail, which the first blocks process."""
    n = BEYOND + 3 * TILE + 13
    tiles = n // TILE
    x, grad, out = (sparse(n, "float32") for _ in range(3))
    bits = sparse(-(-n // 8), "uint8")
    ends = np.r_[0:TILE, (tiles - 1) * TILE : n]
    x[ends], grad[ends] = (values.astype("float32") for values in comparison.ordinary(len(ends)))
    packed = np.packbits(x[ends] > 0, bitorder="little")
    bytes_of_ends = np.r_[0 : TILE // 8, (tiles - 1) * TILE // 8 : -(-n // 8)]
    if name == "backward_bits":
        bits[bytes_of_ends] = packed
    arrays = {
        "forward": (x, out),
        "backward": (grad, x, out),
        "backward_bits": (grad, bits, out),
        "forward_bits": (x, bits, out),
    }
    program = programs("numba 90", f"relu.{name}.float32")
    launched(program, (tiles,), numba_cuda.THREADS, (*arrays[name], tiles), blocks=[0, tiles - 1])
    expected = np.maximum(x[ends], 0) if "forward" in name else np.where(x[ends] > 0, grad[ends], 0)
    np.testing.assert_array_equal(out[ends], expected)
    if name == "forward_bits":
        np.testing.assert_array_equal(bits[bytes_of_ends], packed)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ["forward", "backward", "backward_bits", "forward_bits"])
def test_triton_indexes_more_than_2_to_the_32_elements(programs, name, whole):
    """Check the last two blocks."""
    n = BEYOND + 4096 + (16 if whole else 13)
    block = triton_.CONFIGS[-1].kwargs["BLOCK"]
    x, grad, out = (sparse(n, "float32") for _ in range(3))
    bits = sparse(-(-n // 8), "uint8")
    blocks = -(-n // block)
    start = (blocks - 2) * block
    x[start:], grad[start:] = (values.astype("float32") for values in comparison.ordinary(n - start))
    packed = np.packbits(x[start:] > 0, bitorder="little")
    if name == "backward_bits":
        bits[start // 8 :] = packed
    arrays = {
        "forward": (x, out),
        "backward": (grad, x, out),
        "backward_bits": (grad, bits, out),
        "forward_bits": (x, bits, out),
    }[name]
    program = programs(f"triton 90 -1 True {whole}", f"triton.{name}.float32")
    values = [*map(ptx.address, arrays), n, n.bit_length(), 0, 0]
    threads, last = 32 * triton_.CONFIGS[-1].num_warps, [blocks - 2, blocks - 1]
    ptx.Launch(program, (blocks,), threads, values, ptx.Memory(arrays), last, SHARED_BYTES).run()
    expected = np.maximum(x[start:], 0) if "forward" in name else np.where(x[start:] > 0, grad[start:], 0)
    np.testing.assert_array_equal(out[start:], expected)
    if name == "forward_bits":
        np.testing.assert_array_equal(bits[start // 8 :], packed)


@pytest.mark.parametrize("tail", [0, 13])
@pytest.mark.parametrize(("name", "bytes_each"), [("forward", 8), ("backward", 12), ("forward_bits", 8 + 1 / 8)])
def test_each_element_is_moved_once(programs, name, bytes_each, tail):
    """The bytes moved by all threads of a launch exceed the arrays if two threads process one element."""
    n = 5 * TILE + tail
    arrays = [np.ones(n, np.float32), *(np.ones(n, np.float32) for _ in range(name == "backward"))]
    arrays += [np.empty(-(-n // 8), np.uint8)] if name == "forward_bits" else []
    arrays.append(np.empty(n, np.float32))
    program, memory = programs("numba 90", f"relu.{name}.float32"), ptx.Memory(arrays)
    values = list(ptx.numba_values([*arrays, n // TILE]))
    ptx.Launch(program, (2,), numba_cuda.THREADS, values, memory).run()
    assert memory.moved_bytes == sum(array.nbytes for array in arrays)
    assert memory.moved_bytes == pytest.approx(n * bytes_each, abs=1)


@pytest.fixture
def steps_compiled(programs: Program, monkeypatch: pytest.MonkeyPatch) -> Callable[[CompiledStep], Step]:
    """Return a function that makes a training step whose kernels run as PTX."""

    def make(case: CompiledStep) -> Step:
        def run(kernel: products.Kernel, *arguments: Any) -> None:
            program = programs(case.group, f"{case.network.name}.{kernel.name}.{case.dtype}")
            launched(program, kernel.blocks, kernel.threads, arguments)

        monkeypatch.setattr(products.Kernel, "__call__", run)
        return made(case)

    return make


def made(case: CompiledStep) -> Step:
    parameters, relu = initial_parameters(case.network), "inplace" if case.relu else "none"
    return Step(case.network, parameters, compiled.N, case.dtype, relu, case.launch)


WITH = [case for case in compiled.STEPS if case.relu]
LINEAR = [case for case in compiled.STEPS if not case.relu]


@pytest.mark.parametrize("case", WITH, ids=lambda case: case.group)
def test_a_step_follows_the_reference(case, steps_compiled):
    followed = FOLLOWED if case.launch.side == LAUNCH.side else 1
    deviations = parity.deviations(steps_compiled(case), case.network, compiled.N, followed)
    assert deviations.within(case.dtype), deviations


@pytest.mark.parametrize("case", LINEAR, ids=lambda case: case.group)
def test_a_step_without_relu_equals_the_simulated_one(case, steps_compiled):
    batch, losses = random_batch(case.network, compiled.N), []
    for stepper in (made(case), steps_compiled(case)):
        stored = stepper.put(batch)
        losses.append([float(stepper(stored)) for _ in range(FOLLOWED)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def copied(text: str, x: np.ndarray, out: np.ndarray, tiles: int = 1) -> None:
    launched(ptx.parse(text), (1,), numba_cuda.THREADS, (x, out, tiles))


def test_faulty_memory_accesses_are_detected(texts):
    forward = texts["numba 90"]["relu.forward.float32"]
    x, out = np.ones(TILE + 4, np.float32), np.zeros(TILE + 4, np.float32)
    copied(forward, x, out)
    with pytest.raises(ptx.Fault, match=r"16 bytes at 0x\w+ are not aligned: ld\.global.v4.f32"):
        copied(forward, x[1:], out[1:])
    with pytest.raises(ptx.Fault, match=r"16 bytes at 0x\w+ are in no array of the kernel: ld\.global.v4.f32"):
        copied(forward, x, out, tiles=2)
    with pytest.raises(ptx.Fault, match=r"are in no array of the kernel: st\.global"):
        copied(forward, x, out[:-1])


def test_unaligned_shared_memory_is_detected(texts):
    """Numba aligns shared memory to its elements, unless `impls.cuda_vectors.shared` requests more."""
    text = texts[CompiledStep(SMALL[0]).group]["plain.conv1.forward.float32"]
    assert text.count(".shared .align 16") == 1
    values = np.zeros(64, np.float32)
    for align in (16, 4):
        program = ptx.parse(text.replace(".shared .align 16", f".shared .align {align}"))
        arguments = ((values,), (values,), (values, values.view(np.uint8)))
        with pytest.raises(ptx.Fault, match="in no array" if align == 16 else "bytes at .* are not aligned: st.shared"):
            launched(program, (1, 1, 1), LAUNCH.side, arguments)


def test_wrong_and_unknown_instructions_are_detected(texts):
    forward = texts["numba 90"]["relu.forward.float32"]
    x, out = (values.astype("float32") for values in comparison.ordinary(TILE))
    copied(forward, x, out)
    np.testing.assert_array_equal(out, np.maximum(x, 0))
    copied(forward.replace("setp.le.f32", "setp.ge.f32", 1), x, out)
    assert (out != np.maximum(x, 0)).any()
    with pytest.raises(LookupError, match=r"no such instruction here: popc\.b32"):
        copied(forward.replace("setp.le.f32", "popc.b32", 1), x, out)
