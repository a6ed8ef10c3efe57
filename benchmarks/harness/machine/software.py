"""What the software tells of itself: Python, packages, libraries, variables, and the commit of the harness."""

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

PACKAGES = ("numpy", "numba", "llvmlite", "torch", "jax", "jaxlib", "asv_runner")
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
)  # fmt: skip
LIBRARIES = re.compile(
    r"/(lib(?:\w*openblas\w*|mkl_rt|mkl_core|blis|gomp|iomp5|omp|tbb|jemalloc|tcmalloc|mimalloc)\b[^/\n]*)$", re.M
)
NOT_IMPORTED = "not imported"
# How the parent of a measuring process tells it of the checkout.
CHECKOUT = "RELU_BENCH_CHECKOUT"


def told_by(module: str, tell: Callable[[Any], Any]) -> Any:
    """What an imported module says of itself; none is imported for it, as that takes seconds and starts threads."""
    return tell(sys.modules[module]) if module in sys.modules else NOT_IMPORTED


@cache
def packages() -> dict[str, str]:
    """The version of each package that is measured, or measures."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def variables() -> dict[str, str] | str:
    """The variables that make a difference, those that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ} or "none set"


def libraries() -> str:
    """Libraries for linear algebra, threads and memory that are loaded into this process."""
    return " ".join(sorted(set(LIBRARIES.findall(text("/proc/self/maps"))))) or "none"


def numpy_simd() -> str:
    """The vector instructions that NumPy has code for and found here."""
    return told_by("numpy", lambda numpy: " ".join(numpy.show_config(mode="dicts")["SIMD Extensions"]["found"]))


def numpy_build() -> str:
    """The compiler of NumPy."""
    return told_by("numpy", lambda numpy: _named(numpy.show_config(mode="dicts")["Compilers"]["c"]))


def numpy_blas() -> str:
    """The library that NumPy was built to use for linear algebra."""
    return told_by("numpy", lambda numpy: _named(numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]))


def _named(part: dict[str, Any]) -> str:
    return f"{part['name']} {part['version']}"


def torch_parallel() -> str:
    """What PyTorch's threads are of: "OpenMP"."""
    return told_by("torch", lambda torch: torch.__config__.parallel_info().rpartition("backend:")[2].strip())


def digest(content: str) -> str:
    """Twelve hexadecimal digits that tell contents apart."""
    return sha256(content.encode()).hexdigest()[:12]


@cache
def checkout() -> str:
    """The commit of the folder that the harness is in, and whether it was changed since: "74781bf… clean"."""
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--", "."]
    try:
        asked = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    except OSError:
        return ""
    header = "# branch.oid "
    commits = [line.removeprefix(header) for line in asked.stdout.splitlines() if line.startswith(header)]
    changes = [line for line in asked.stdout.splitlines() if not line.startswith("#")]
    return f"{commits[0]} {'changed' if changes else 'clean'}" if commits else ""
