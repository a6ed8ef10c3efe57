"""Choose between the CPU and CUDA builds of torch and JAX for this machine; no other module does.

A machine with an NVIDIA GPU gets the newest CUDA builds that its driver can run. Any other machine downloads only a
CUDA compiler, for the tests. GPUs of other vendors are not supported. Standard library only.
"""

# A Python older than 3.10 gets as far as environment.main's error message.
from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.machine import cuda_driver
from benchmarks.harness.machine.cuda_driver import Driver

PYPI = "https://pypi.org/simple"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
# Needs NumPy below 2.5, where its import fails (np.row_stack is gone): https://github.com/NVIDIA/numba-cuda/issues/907
NUMBA_CUDA = "0.30.4"
NVML = "nvidia-ml-py==13.615.71"


@dataclass(frozen=True)
class Build:
    """The builds for one major version of CUDA.

    least: the CUDA version that the driver must support, as 13000 for 13.0. driver: the first release that does.
    capabilities: compute capabilities that torch has code for, as 75 for 7.5.
    wheels: the index of torch's builds, empty for PyPI. packages: installed beside the pinned ones; {jax}: version in
    asv.conf.json. They pin the compilers as one set, that of torch's CUDA: nvJitLink rejects what a newer NVVM made.
    """

    cuda: int
    least: int
    driver: int
    capabilities: range
    wheels: str
    packages: tuple[str, ...]


# Best first. torch's wheels for CUDA 12 also serve GPUs that CUDA 13 has dropped; any driver for CUDA 12 runs them
# (minor version compatibility). Sources: NVIDIA's CUDA Compatibility, RELEASE.md of PyTorch.
BUILDS = (
    Build(
        13, 13_000, 580, range(75, 1000), "",
        ("jax[cuda13]=={jax}", f"numba-cuda[cu13]=={NUMBA_CUDA}", NVML, "cuda-toolkit[crt,nvcc,nvrtc,nvvm]==13.0.3",
         "nvidia-nvjitlink==13.0.88"),
    ),
    Build(
        12, 12_000, 525, range(50, 100), "https://download.pytorch.org/whl/cu126",
        ("jax[cuda12]=={jax}", f"numba-cuda[cu12]=={NUMBA_CUDA}", NVML, "cuda-toolkit[nvcc,nvrtc]==12.6.3",
         "nvidia-nvjitlink-cu12==12.6.85"),
    ),
)  # fmt: skip
# Packages that simulate and compile GPU kernels for the tests on a machine without a GPU. CUDA's compiler and Triton
# have the versions that the CUDA build of torch brings.
SIMULATING_PACKAGES = (
    f"numba-cuda=={NUMBA_CUDA}",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-nvrtc==13.0.88",
    "triton==3.7.1",
)


def chosen(driver: Driver) -> Build | None:
    """Return the best builds for a driver and its first GPU; None for CPU builds."""
    return next((build for build in BUILDS if driver.version >= build.least and _fits(build, driver)), None)


def _fits(build: Build, driver: Driver) -> bool:
    # Every framework uses the first GPU.
    return any(capability in build.capabilities for capability in driver.capabilities[:1])


def machine_build() -> Build | None:
    """Return the builds for this machine; None for CPU builds."""
    return chosen(cuda_driver.query())


def has_gpu() -> bool:
    """Return whether this machine gets CUDA builds."""
    return machine_build() is not None


def described(driver: Driver) -> str:
    """Return which builds a machine gets, and why it gets no CUDA builds or what these would need."""
    if found := chosen(driver):
        return f"CUDA {found.cuda} builds for {driver.names[0]}"
    if driver.problem:
        return f"CPU builds: {driver.problem}"
    gpu = f"{driver.names[0]}, compute capability {driver.capabilities[0] / 10}"
    needed = [each.driver for each in BUILDS if _fits(each, driver)]
    if not needed:
        return f"CPU builds: no CUDA builds have code for {gpu}"
    return (
        f"CPU builds: {gpu}, needs an NVIDIA driver of version {min(needed)} or newer; "
        f"this one supports CUDA {driver.cuda} at most. Update it to measure the GPU"
    )


def pip_environment(build: Build | None, sources_configured: bool) -> dict[str, str]:
    """Return the environment variables for every pip call.

    PyPI's torch for Linux is the build for CUDA 13. Other machines therefore add the index of their builds; of equal
    versions, pip prefers the one marked "+cpu" or "+cu126". A user's own package sources take precedence.
    """
    wheels = build.wheels if build else CPU_WHEELS
    return {"PIP_EXTRA_INDEX_URL": wheels} if wheels and not sources_configured else {}


def cuda_requirements(pins: dict[str, str], build: Build | None) -> list[str]:
    """Return what a GPU machine installs beside the pinned packages."""
    return [package.format(**pins) for package in build.packages] if build else []


def test_requirements(pins: dict[str, str], build: Build | None) -> list[str]:
    """Return the packages that tests of GPU kernels need; they also run without a GPU."""
    return cuda_requirements(pins, build) or list(SIMULATING_PACKAGES)


def sources_configured() -> bool:
    """Return whether an environment variable or a configuration file sets pip's package sources."""
    return bool(_sources())


def _sources() -> Sequence[str]:
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    keys = ("index-url", "index_url", "find-links", "find_links")
    return [line for line in listed.splitlines() if any(key in line for key in keys)]


def require_torch(python: str, build: Build | None) -> None:
    """Raise SystemExit, with the cure, unless the torch of an environment is of the CUDA builds that a machine gets."""
    if build is None:
        return
    command = [python, "-c", "import torch; print(torch.version.cuda)"]
    completed = subprocess.run(command, capture_output=True, text=True)
    if completed.returncode:
        raise SystemExit(f"torch cannot be imported in {python}:\n{completed.stderr.strip()}")
    cuda = completed.stdout.strip()
    if cuda.partition(".")[0] == str(build.cuda):
        return
    given = "the CPU" if cuda == "None" else f"CUDA {cuda}"
    raise SystemExit(
        f"{python} has torch for {given}, this machine's GPU needs it for CUDA {build.cuda}. pip installs what its "
        f"package sources have: {'; '.join(_sources()) or 'only PyPI is configured'}. Set them to "
        f"{' and '.join(filter(None, (PYPI, build.wheels)))}, remove .asv/env, and run this again"
    )


def pip_check(python: str) -> str:
    """Return what `pip check` says of an environment: requirements of its packages that the others do not meet."""
    completed = subprocess.run(
        [python, "-m", "pip", "check", "--disable-pip-version-check"], capture_output=True, text=True
    )
    return (completed.stdout + completed.stderr).strip()
