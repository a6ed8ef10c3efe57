"""Choose between the CPU and CUDA builds of torch and JAX for this machine; no other module does.

A machine with an NVIDIA driver gets the CUDA builds. Any other machine downloads only a CUDA compiler, for the tests.
Standard library only.
"""

import subprocess
import sys
from pathlib import Path

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
NUMBA_CUDA = "0.30.4"
# For CUDA 13, like torch's wheels, which also bring Triton and pin NVIDIA's compiler. {jax}: version in asv.conf.json.
CUDA_PACKAGES = ("jax[cuda13]=={jax}", f"numba-cuda[cu13]=={NUMBA_CUDA}", "nvidia-ml-py==13.615.71")
# Packages that simulate and compile GPU kernels for the tests on a machine without a GPU. CUDA's compiler and Triton
# have the versions that the CUDA build of torch brings.
SIMULATING_PACKAGES = (
    f"numba-cuda=={NUMBA_CUDA}",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-nvrtc==13.0.88",
    "triton==3.7.1",
)


def has_gpu() -> bool:
    """Return whether an NVIDIA driver is loaded."""
    return Path("/proc/driver/nvidia/version").exists()


def pip_environment(gpu: bool, sources_configured: bool) -> dict[str, str]:
    """Return the environment variables for every pip call.

    PyPI's torch for Linux is the CUDA build. A machine without a GPU therefore adds the index of the CPU builds; of
    equal versions, pip prefers the one marked "+cpu". A user's own package sources take precedence.
    """
    return {} if gpu or sources_configured else {"PIP_EXTRA_INDEX_URL": CPU_WHEELS}


def cuda_requirements(pins: dict[str, str], gpu: bool) -> list[str]:
    """Return what a GPU machine installs beside the pinned packages."""
    return [package.format(**pins) for package in CUDA_PACKAGES] if gpu else []


def test_requirements(pins: dict[str, str], gpu: bool) -> list[str]:
    """Return the packages that tests of GPU kernels need; they also run without a GPU."""
    return cuda_requirements(pins, gpu) or list(SIMULATING_PACKAGES)


def sources_configured() -> bool:
    """Return whether an environment variable or a configuration file sets pip's package sources."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    return any(key in listed.stdout for key in ("index-url", "index_url", "find-links", "find_links"))
