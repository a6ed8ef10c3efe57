"""Which builds of torch and JAX this machine gets: the one place that decides between CPU and CUDA.

asv loads this module as a plugin and calls `setup`, so that plain `asv run` decides as the scripts
do. On a machine with an NVIDIA driver pip takes the CUDA builds; on any other, nothing of CUDA is
downloaded but a compiler, for tests. Standard library only.
"""

import os
import subprocess
import sys
from pathlib import Path

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
NUMBA_CUDA = "0.30.4"
# Of CUDA 13, as torch's own wheels are, which also bring Triton and pin NVIDIA's compiler. {jax} is the version that
# asv.conf.json pins.
CUDA_PACKAGES = ("jax[cuda13]=={jax}", f"numba-cuda[cu13]=={NUMBA_CUDA}", "nvidia-ml-py==13.615.71")
# What simulates GPU kernels and compiles them for the tests where there is no GPU: of CUDA its compiler alone, and it
# and Triton in the versions that a GPU machine gets with the CUDA build of torch.
SIMULATING_PACKAGES = (
    f"numba-cuda=={NUMBA_CUDA}",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-nvrtc==13.0.88",
    "triton==3.7.1",
)


def has_gpu() -> bool:
    """Whether an NVIDIA driver is loaded."""
    return Path("/proc/driver/nvidia/version").exists()


def pip_environment(gpu: bool, sources_configured: bool) -> dict[str, str]:
    """Variables for every pip call.

    PyPI's torch for Linux is the CUDA build, so a machine without a GPU also looks where the CPU
    builds are: of one version, pip prefers the one marked "+cpu". Someone who has told pip where to
    look has decided already.
    """
    return {} if gpu or sources_configured else {"PIP_EXTRA_INDEX_URL": CPU_WHEELS}


def cuda_requirements(pins: dict[str, str], gpu: bool) -> list[str]:
    """What a GPU machine installs beside the pinned packages."""
    return [package.format(**pins) for package in CUDA_PACKAGES] if gpu else []


def test_requirements(pins: dict[str, str], gpu: bool) -> list[str]:
    """What the tests of GPU kernels need, which run without a GPU too."""
    return cuda_requirements(pins, gpu) or list(SIMULATING_PACKAGES)


def sources_configured() -> bool:
    """Whether pip was told, by variable or configuration file, where to look for packages."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    return any(key in listed.stdout for key in ("index-url", "index_url", "find-links", "find_links"))


def setup() -> None:
    """Called by asv when it loads its plugins."""
    os.environ.update(pip_environment(has_gpu(), sources_configured()))
