"""Check the performance of compiled GPU kernels from their machine code; compiling needs no GPU."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from impls.activations.rows import ACTIVATIONS, PRELUS
from impls.cnn.networks import RELU_NETWORKS
from scripts.verify import gpu_code
from scripts.verify.gpu_code import CompiledKernel, Source

ROOT = Path(__file__).resolve().parents[1]
# Variables that enable the simulator and the interpreter, which compile nothing.
WITHOUT = ("NUMBA_ENABLE_CUDASIM", "TRITON_INTERPRET")
# Kernels whose rows are shorter than 16 bytes (logits), or whose threads process one element each.
NARROW = ("dense2", "mnist_cnn.dense1", "loss", "statistics", "average", "rectify", ".sum.")
PRODUCT = re.compile(r"\.(conv|dense)\d\.(forward|by_weight|by_image|by_input)\.")
# Formulas of the other activations, and the dtypes that they are compiled in.
FORMULAS = {each.name for each in ACTIVATIONS} | {
    each.gradient(saved) for each in ACTIVATIONS for saved in ("input", each.saved)
}
COMPILED = (("numba", "float32"), ("numba", "float64"), ("triton", "float32"))
# Kernels that reduce columns in shared memory, from which each thread stores one sum.
NARROW_STORES = ("moments", "sums")


@pytest.fixture(scope="module")
def without_simulator() -> dict[str, str]:
    """Return the environment of a process that compiles kernels."""
    return {name: value for name, value in os.environ.items() if name not in WITHOUT}


@pytest.fixture(scope="module")
def kernels(without_simulator: dict[str, str]) -> list[CompiledKernel]:
    process = subprocess.run(
        [sys.executable, "-m", "scripts.verify.gpu_code", "--json"],
        cwd=ROOT,
        env=without_simulator,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return [CompiledKernel(**kernel) for kernel in json.loads(process.stdout)]


def test_every_kernel_is_compiled_for_every_architecture(kernels):
    names = {kernel.kernel for kernel in kernels}
    slopes = {f"{name}.{kind}" for name in PRELUS for kind in ("forward", "backward", "sum")}
    family = {f"{framework}.{name}.{dtype}" for framework, dtype in COMPILED for name in FORMULAS | slopes}
    steps_in_float64 = {name for name in names if name.partition(".")[0] in RELU_NETWORKS and name.endswith("float64")}
    assert family < names
    assert {(kernel.kernel, kernel.architecture) for kernel in kernels} == {
        (name, architecture)
        for name in names
        for architecture in gpu_code.ARCHITECTURES[: 1 if name in family | steps_in_float64 else None]
    }
    for expected in (
        "relu.forward_bits.float64",
        "triton.backward_bits.bfloat16",
        "convnet_relu.norm3.backward.float32",
    ):
        assert expected in names
    assert "convnet_relu.conv1.by_image.float32" not in names


def test_kernels_have_no_faults(kernels):
    assert [(kernel.kernel, kernel.architecture, kernel.faults) for kernel in kernels if kernel.faults] == []


def test_global_memory_accesses_are_16_bytes_wide(kernels):
    for kernel in kernels:
        if not any(part in kernel.kernel for part in NARROW):
            assert kernel.load_bytes == 16, kernel
            assert kernel.store_bytes == 16 or any(part in kernel.kernel for part in NARROW_STORES), kernel


def test_products_read_shared_memory_16_bytes_at_a_time(kernels):
    products = [kernel for kernel in kernels if PRODUCT.search(kernel.kernel)]
    # Each layer has three products; the first has two, as its images have no gradient. In float64 for one architecture.
    assert len(products) == (len(gpu_code.ARCHITECTURES) + 1) * (3 * 3 - 1 + 5 * 3 - 1)
    assert {kernel.shared_bytes for kernel in products} == {16}


def test_products_compute_little_else_than_multiply_adds(kernels):
    """Per term of 16 sums: two 16-byte loads in float32, four in float64, and a share of the loop's end."""
    for kernel in kernels:
        if PRODUCT.search(kernel.kernel):
            assert kernel.fma_percent > (80 if kernel.kernel.endswith("float32") else 70), kernel


def test_bytes_per_element_equal_those_of_the_catalog(kernels):
    declared = {kernel.kernel: kernel.declared_bytes for kernel in kernels if kernel.declared_bytes is not None}
    assert declared["relu.forward.float32"] == 8
    assert declared["relu.backward_bits.float32"] == declared["triton.backward_bits.float32"] == 8.125
    assert declared["numba.gelu_backward.float64"] == 24
    assert declared["triton.gelu.float32"] == 8
    assert declared["numba.prelu_channels.backward.float32"] == declared["triton.prelu.backward.float32"] == 12
    assert len(declared) == 3 * (4 + 4) + len(COMPILED) * (len(FORMULAS) + 2 * len(PRELUS))


def test_kernels_run_the_code_that_is_checked(without_simulator):
    """Numba would optimise it again at link time, where NVIDIA's nvJitLink is installed."""
    script = """
from unittest.mock import DEFAULT, patch
from numba import types
from numba.cuda import decorators, dispatcher
from impls import cuda_kernels
def empty():
    pass
with patch.object(decorators, "_have_nvjitlink", lambda: True), patch.multiple(
    dispatcher.CUDADispatcher, compile=DEFAULT, disable_compile=DEFAULT
):
    for made in (cuda_kernels.kernel(empty), cuda_kernels.kernel(empty, types.void())):
        print(made.targetoptions["lto"], type(made).__name__)
"""
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=without_simulator, capture_output=True, text=True
    )
    assert process.stdout.split() == ["False", "CUDADispatcher"] * 2, process.stderr[-2000:]


KERNEL = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry kernel(.param .u64 x, .param .u64 out) {{
    .reg .b64 %rd<3>;
    .reg .f32 %f<5>;
    .reg .b64 %d<2>;
    .reg .pred %p<2>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [out];
    {body}
    ret;
}}
"""
COPY = "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1]; \n st.global.v4.f32 [%rd2], {%f1, %f2, %f3, %f4};"
TWICE = f"{COPY}\n {COPY}"
BYTE_BY_BYTE = "ld.global.f32 %f1, [%rd1];\n st.global.f32 [%rd2], %f1;"
LOOP = f"""{COPY}
$before:
$loop:
    fma.rn.f32 %f1, %f1, %f2, %f3;
    fma.rn.f32 %f4, %f1, %f2, %f3;
    add.u64 %rd1, %rd1, 4;
    setp.lt.u64 %p1, %rd1, %rd2;
    @%p1 bra $loop;
$short:
    fma.rn.f32 %f1, %f1, %f2, %f3;
    @%p1 bra $short;
    st.global.v4.f32 [%rd2], {{%f1, %f2, %f3, %f4}};
"""
WIDENED = (
    f"{COPY}\n cvt.f64.f32 %d1, %f1;\n cvt.rn.f32.f64 %f1, %d1;\n st.global.v4.f32 [%rd2], {{%f1, %f2, %f3, %f4}};"
)


def source(body: str, **changes: Any) -> Source:
    default = Source("a kernel", 90, "float32", KERNEL.format(body=body), 256, 4, ("relu", "forward", "numba-cuda.out"))
    return replace(default, **changes)


def test_copy_kernels_have_no_fault():
    for body in (COPY, TWICE):
        kernel = gpu_code.examine(source(body))
        assert (kernel.faults, kernel.load_bytes, kernel.store_bytes, kernel.element_bytes) == ([], 16, 16, 8)
        assert kernel.fma_percent == 0
    assert gpu_code.examine(source(BYTE_BY_BYTE)).load_bytes == 4


def test_multiply_adds_of_a_loop_are_counted():
    assert gpu_code.examine(source(LOOP)).fma_percent == 40


@pytest.mark.parametrize(
    ("kernel_source", "fault"),
    [
        (source(WIDENED), "2 instructions of float64"),
        (source(COPY, row=("relu", "backward", "numba-cuda.out")), "8.0 bytes an element, 12 declared"),
        (source(COPY, threads=1024, resident=64), "registers, 1 are left"),
        (source(f"{COPY}\n st.local.f32 [%rd2], %f1;"), "1 accesses to local memory"),
    ],
)
def test_a_fault_is_named(kernel_source, fault):
    assert any(fault in text for text in gpu_code.examine(kernel_source).faults), gpu_code.examine(kernel_source)
