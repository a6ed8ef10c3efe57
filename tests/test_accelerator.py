"""Test the detection of GPUs and the choice of builds, with a driver's library that is compiled here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.machine import software
from benchmarks.harness.machine.cuda_driver import Driver
from scripts.setup import accelerator, install_commit
from scripts.setup.accelerator import BUILDS

ROOT = Path(__file__).resolve().parents[1]
THIRTEEN, TWELVE = BUILDS
# The answer of cuDriverGetVersion, by release of the driver.
VERSIONS = {"470": 11040, "535": 12020, "570": 12080, "580": 13000, "595": 13020}
PRINTED = """
from benchmarks.harness.machine import cuda_driver, linux
from scripts.setup import accelerator
build = accelerator.machine_build()
print(build.cuda if build else None)
print(accelerator.described(cuda_driver.query()))
print(linux.gpu_driver())
print(linux.gpus())
print(cuda_driver.query().caches_bytes)
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The folder of a libcuda that answers what environment variables say."""
    if not shutil.which("gcc"):
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("stub_driver.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
    return folder


def on_machine(library: Path | str, version: int, count: int = 1, capability: int = 90, **variables: str) -> list[str]:
    """Return which CUDA a machine gets, the reason, what is recorded of its driver and its GPUs, and their caches."""
    stub = {"STUB_VERSION": str(version), "STUB_COUNT": str(count), "STUB_CAPABILITY": str(capability)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    process = subprocess.run(
        [sys.executable, "-c", PRINTED], cwd=ROOT, capture_output=True, text=True,
        env={**inherited, "LD_LIBRARY_PATH": str(library), **stub, **variables},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.parametrize(("release", "cuda"), [("470", None), ("535", 12), ("570", 12), ("580", 13), ("595", 13)])
def test_the_driver_is_asked_and_decides_which_builds_are_installed(release, cuda, library):
    chosen, reason, *_ = on_machine(library, VERSIONS[release])
    assert chosen == str(cuda)
    needs = "CPU builds: GPU 0 of PCI_BUS_ID, compute capability 9.0, needs an NVIDIA driver of version 525 or newer"
    assert reason.startswith(f"CUDA {cuda} builds for GPU 0 of PCI_BUS_ID" if cuda else needs)


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="/proc knows the driver of this machine")
def test_a_driver_that_is_not_in_proc_is_recorded(library):
    names = "GPU 0 of PCI_BUS_ID, GPU 1 of PCI_BUS_ID"
    assert on_machine(library, 12060, count=2)[2:] == ["CUDA 12.6", names, "(1000, 2000)"]
    assert on_machine(library, 12060, CUDA_DEVICE_ORDER="FASTEST_FIRST")[3] == "GPU 0 of FASTEST_FIRST"


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a driver")
def test_a_machine_without_a_driver_gets_cpu_builds(tmp_path):
    reason = "CPU builds: no NVIDIA driver (libcuda.so.1 is not installed)"
    assert on_machine(tmp_path, 0) == ["None", reason, "None", "none", "()"]


@pytest.mark.parametrize(
    ("count", "variables", "words"),
    [
        (0, {}, "the NVIDIA driver has no GPU"),
        (1, {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES hides every one"),
        (1, {"STUB_INIT": "100"}, "the NVIDIA driver has no GPU"),
        (1, {"STUB_INIT": "803"}, "cuInit returns 803"),
    ],
)
def test_a_driver_without_a_usable_gpu_is_explained(count, variables, words, library):
    chosen, reason, *_ = on_machine(library, 13000, count, **variables)
    assert chosen == "None"
    assert reason.startswith("CPU builds: ")
    assert words in reason


def test_a_library_that_crashes_is_explained(library, tmp_path):
    # It has none of the functions.
    subprocess.run(["gcc", "-shared", "-o", str(tmp_path / "libcuda.so.1"), "-xc", os.devnull], check=True)
    assert "asking the NVIDIA driver ended with code 1: AttributeError" in on_machine(tmp_path, 13000)[1]


@pytest.mark.parametrize(
    ("capability", "version", "build", "words"),
    [
        (70, 13000, TWELVE, "CUDA 12 builds"),
        (75, 13000, THIRTEEN, "CUDA 13 builds"),
        (75, 12020, TWELVE, "CUDA 12 builds"),
        (120, 12080, None, "needs an NVIDIA driver of version 580 or newer; this one supports CUDA 12.8"),
        (120, 13000, THIRTEEN, "CUDA 13 builds"),
        (35, 11040, None, "no CUDA builds have code for"),
    ],
)  # fmt: skip
def test_builds_have_code_for_the_first_gpu(capability, version, build, words):
    driver = Driver(version, ("a GPU", "another"), (capability, 90))
    assert accelerator.chosen(driver) is build
    assert words in accelerator.described(driver)


@pytest.mark.parametrize(
    ("build", "configured", "wheels"),
    [
        (None, False, accelerator.CPU_WHEELS),
        (TWELVE, False, "https://download.pytorch.org/whl/cu126"),
        (THIRTEEN, False, None),
        (None, True, None),
        (TWELVE, True, None),
        (THIRTEEN, True, None),
    ],
)
def test_pip_gets_the_index_of_the_builds_unless_it_has_sources(build, configured, wheels):
    variables = {"PIP_EXTRA_INDEX_URL": wheels} if wheels else {}
    assert accelerator.pip_environment(build, configured) == variables


@pytest.mark.parametrize("build", BUILDS, ids=["13", "12"])
def test_cuda_packages_are_of_one_cuda_and_pinned(build):
    packages = accelerator.cuda_requirements({"jax": "1.2.3"}, build)
    assert all("==" in package for package in packages)
    assert packages[:2] == [
        f"jax[cuda{build.cuda}]==1.2.3", f"numba-cuda[cu{build.cuda}]=={accelerator.NUMBA_CUDA}"
    ]  # fmt: skip
    # NVVM is a part of nvcc's package for CUDA 12.
    (toolkit,) = [package for package in packages if package.startswith("cuda-toolkit[")]
    assert {"nvcc", "nvrtc", *(["nvvm"] if build.cuda == 13 else [])} <= set(
        toolkit[13 : toolkit.index("]")].split(",")
    )
    assert any(package.startswith("nvidia-nvjitlink") for package in packages)


def test_without_a_gpu_only_what_tests_need_is_installed():
    assert accelerator.cuda_requirements({"jax": "1.2.3"}, None) == []
    without = accelerator.test_requirements({"jax": "1.2.3"}, None)
    assert f"numba-cuda=={accelerator.NUMBA_CUDA}" in without
    assert not any("[cu" in requirement for requirement in without)


def test_pip_sources_of_the_user_are_respected(monkeypatch, tmp_path):
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\ntimeout = 60\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    if "index-url" in listed or "find-links" in listed:
        pytest.skip("this machine configures pip for all users")
    assert not accelerator.sources_configured()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert accelerator.sources_configured()


def python_printing(folder: Path, text: str, code: int = 0) -> str:
    """A program in place of an environment's Python."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\necho '{text}'\necho '{text}' >&2\nexit {code}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("build", "printed", "words"),
    [
        (THIRTEEN, "13.0", None),
        (TWELVE, "12.6", None),
        (None, "None", None),
        (THIRTEEN, "None", "has torch for the CPU, this machine's GPU needs it for CUDA 13"),
        (THIRTEEN, "12.8", "has torch for CUDA 12.8"),
        (TWELVE, "13.0", "Set them to https://pypi.org/simple and https://download.pytorch.org/whl/cu126"),
    ],
)
def test_another_torch_than_the_gpu_needs_is_refused_with_the_cure(build, printed, words, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/of/this/user")
    python = python_printing(tmp_path, printed)
    if words is None:
        accelerator.require_torch(python, build)
        return
    with pytest.raises(SystemExit) as refused:
        accelerator.require_torch(python, build)
    message = str(refused.value)
    assert words in message
    assert "/of/this/user" in message
    assert "remove .asv/env" in message


def test_a_torch_that_cannot_be_imported_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"torch cannot be imported in .*python:\nno libcudart"):
        accelerator.require_torch(python_printing(tmp_path, "no libcudart", code=1), THIRTEEN)


@pytest.mark.skipif(accelerator.has_gpu(), reason="torch is a CUDA build")
def test_the_cpu_build_of_these_tests_is_refused_on_a_gpu():
    with pytest.raises(SystemExit, match="has torch for the CPU"):
        accelerator.require_torch(sys.executable, THIRTEEN)


def test_pip_check_names_what_is_missing(tmp_path, monkeypatch):
    metadata = tmp_path / "broken-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\nRequires-Dist: nowhere-to-be-found\n")
    assert "nowhere" not in accelerator.pip_check(sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "broken 1.0 requires nowhere-to-be-found, which is not installed" in accelerator.pip_check(sys.executable)


def test_installing_a_commit_checks_torch_last(monkeypatch, capsys):
    steps: list[str] = []
    monkeypatch.setattr(install_commit.subprocess, "run", lambda command, **_: steps.append(command[3]))
    monkeypatch.setattr(install_commit, "distributions", list)
    monkeypatch.setattr(accelerator, "require_torch", lambda python, build: steps.append("require torch"))
    monkeypatch.setattr(accelerator, "pip_check", lambda python: "a conflict")
    install_commit.main("a.whl")
    assert steps == ["install", "install", "require torch"]
    assert capsys.readouterr().out == "pip check: a conflict\n"


def test_jax_opens_a_context_on_the_first_gpu_only():
    code = """
from jax._src.xla_bridge import CUDA_VISIBLE_DEVICES
from benchmarks.harness.frameworks import driver
try:
    driver("jax").start("cuda")
finally:
    print(CUDA_VISIBLE_DEVICES.value)
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == "0\n", process.stderr


def test_the_choice_of_gpus_is_recorded(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert software.variables()["CUDA_VISIBLE_DEVICES"] == "1,0"
