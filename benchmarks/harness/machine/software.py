"""Read what the software reports about itself: packages, libraries, variables, and the commit of the harness."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.harness.machine.linux import text

PACKAGES = (
    "numpy", "numba", "llvmlite", "torch", "jax", "jaxlib", "asv_runner", "triton", "numba-cuda", "cuda-bindings",
    "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cudnn", "nvidia-cublas",
)  # fmt: skip
# NVIDIA's packages for one version of CUDA have names with one of these endings.
CUDA_ENDINGS = ("", "-cu13", "-cu12")
# An allow-list: a whole environment would hold secrets.
VARIABLES = (
    "OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_PLACES", "OMP_PROC_BIND", "OMP_SCHEDULE", "OMP_WAIT_POLICY",
    "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "KMP_AFFINITY", "KMP_BLOCKTIME",
    "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "MKL_NUM_THREADS", "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS",
    "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_PERTURB_", "GLIBC_TUNABLES", "PYTHONMALLOC", "PYTHONOPTIMIZE",
    "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES", "NUMPY_MADVISE_HUGEPAGE",
    "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT",
    "ATEN_CPU_CAPABILITY", "THP_MEM_ALLOC_ENABLE", "TORCHINDUCTOR_MAX_AUTOTUNE", "XLA_FLAGS",
    "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "PYTORCH_CUDA_ALLOC_CONF",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "JAX_DEFAULT_MATMUL_PRECISION",
)  # fmt: skip
ALLOCATORS = re.compile(r"/(lib(?:jemalloc|tcmalloc|mimalloc)\b[^/\n]*)$", re.M)
NOT_IMPORTED = "not imported"
# The variable by which the parent of a measuring process passes it the state of the checkout.
CHECKOUT = "RELU_BENCH_CHECKOUT"


def from_module(module: str, read: Callable[[Any], Any]) -> Any:
    """Return `read` of an imported module, else NOT_IMPORTED: an import would take seconds and start threads."""
    return read(sys.modules[module]) if module in sys.modules else NOT_IMPORTED


@cache
def packages() -> dict[str, str]:
    """The version of each package that is measured or measures."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    endings = CUDA_ENDINGS if package.startswith("nvidia-") else ("",)
    return next(filter(None, (_installed(package + ending) for ending in endings)), "not installed")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def variables() -> dict[str, str] | str:
    """The environment variables that affect speed and are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ} or "none set"


def libraries() -> dict[str, str] | str:
    """Libraries loaded into this process, by file name: BLAS and OpenMP with their settings, and memory allocators.

    Such as {"libopenblas.so.0": "openblas 0.3.31, 2 threads, pthreads, SkylakeX"}. Never raises, imports no framework.
    """
    return dict(sorted((_thread_pools() | _allocators()).items())) or "none"


def _thread_pools() -> dict[str, str]:
    # A commit under test may lack threadpoolctl, and its calls into the libraries may fail in many ways.
    try:
        from threadpoolctl import threadpool_info

        return {Path(pool["filepath"]).name: _described(pool) for pool in threadpool_info()}
    except Exception:
        return {}


def _described(pool: dict[str, Any]) -> str:
    name = " ".join(filter(None, (pool["internal_api"], pool.get("version"))))
    return ", ".join(
        filter(None, (name, f"{pool['num_threads']} threads", pool.get("threading_layer"), pool.get("architecture")))
    )


def _allocators() -> dict[str, str]:
    try:
        return dict.fromkeys(ALLOCATORS.findall(text("/proc/self/maps")), "memory allocator")
    except (OSError, ValueError):
        return {}


def numpy_simd() -> str:
    """The vector extensions of this processor that NumPy has code for."""
    return from_module("numpy", lambda numpy: " ".join(numpy.show_config(mode="dicts")["SIMD Extensions"]["found"]))


def numpy_build() -> str:
    """The compiler that built NumPy, with its version."""
    return from_module("numpy", lambda numpy: _named(numpy.show_config(mode="dicts")["Compilers"]["c"]))


def numpy_blas() -> str:
    """The BLAS library that NumPy was built for, with its version."""
    return from_module("numpy", lambda numpy: _named(numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]))


def _named(part: dict[str, Any]) -> str:
    return f"{part['name']} {part['version']}"


def torch_parallel() -> str:
    """PyTorch's threading backend, such as "OpenMP"."""
    return from_module("torch", lambda torch: torch.__config__.parallel_info().rpartition("backend:")[2].strip())


def torch_tf32() -> str:
    """The products of float32 matrices and the convolutions that PyTorch may compute in TF32, or "none"."""
    names = {"matmul": lambda torch: torch.backends.cuda.matmul, "cudnn": lambda torch: torch.backends.cudnn}
    return from_module(
        "torch", lambda torch: " ".join(name for name, of in names.items() if of(torch).allow_tf32) or "none"
    )


def digest(content: str) -> str:
    """First twelve hexadecimal digits of the content's SHA-256."""
    return sha256(content.encode()).hexdigest()[:12]


@cache
def checkout() -> str:
    """Commit and state of the folder that holds the harness, as "74781bf… clean" or "… changed"; empty without git."""
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--", "."]
    try:
        status = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    except OSError:
        return ""
    header = "# branch.oid "
    commits = [line.removeprefix(header) for line in status.stdout.splitlines() if line.startswith(header)]
    changes = [line for line in status.stdout.splitlines() if not line.startswith("#")]
    return f"{commits[0]} {'changed' if changes else 'clean'}" if commits else ""
