"""Install a commit's `impls` beside the frameworks of an environment of asv, so that several can be measured at once.

The environment is the one that asv itself measures in, or one like it with another version of a package. `impls` lies
in a folder of its own for each commit. All is kept below .asv and used again.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from asv import environment
from asv.config import Config
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from benchmarks.harness.processes.isolation import Installation
from scripts.setup import accelerator, install_commit
from scripts.setup.pins import ROOT

IMPLS = ROOT / ".asv" / "impls"
# Packages of an environment whose versions say nothing: this project's, and those that install others.
NOT_MEASURED = ("relu-bench-impls", "pip", "setuptools", "wheel")


class Unbuildable(Exception):
    """A side that cannot be installed; the message says which and why."""


@dataclass(frozen=True)
class Built:
    """An installation of a commit. packages: the versions in its environment by name."""

    commit: str
    installation: Installation
    packages: dict[str, str] = field(default_factory=dict)


def build(commit: str, requirement: str | None = None) -> Built:
    """Install a commit, in an environment with another version of a package if a requirement of pip is given.

    Raises Unbuildable.
    """
    env = _environment(requirement)
    python = env.find_executable("python")
    folder = IMPLS / f"{env.dir_name}-{commit[:12]}"
    if not folder.exists():
        _install_impls(commit, python, folder)
    packages = _packages(python)
    if requirement:
        _require(requirement, packages)
    return Built(commit, Installation(python, folder), packages)


def parsed(requirement: str) -> Requirement:
    """A requirement of pip such as "torch==2.12.0". Raises ValueError."""
    try:
        given = Requirement(requirement)
    except InvalidRequirement as error:
        raise ValueError(f"{requirement!r} given, a requirement such as torch==2.12.0 needed: {error}") from None
    if not given.specifier:
        raise ValueError(f"{requirement!r} given, a requirement with a version such as {given.name}==1.0 needed")
    return given


def _environment(requirement: str | None) -> environment.Environment:
    """asv's environment, with the packages that measuring needs. Raises Unbuildable."""
    os.environ.update(accelerator.pip_environment(accelerator.machine_build(), accelerator.sources_configured()))
    conf = Config.load(str(ROOT / "asv.conf.json"))
    if requirement:
        # A variable of its own makes it another environment than the one that asv measures in.
        conf.matrix["env"] = {"RELU_BENCH_WITH": [requirement]}
    env = next(iter(environment.get_environments(conf, None)), None)
    if env is None:
        raise Unbuildable(f"asv makes no environment with Python {', '.join(conf.pythons)}; pip install virtualenv")
    try:
        env.create()
        env.run_executable("python", ["-m", "pip", "install", *install_commit.packages()])
        if not requirement:
            accelerator.require_torch(env.find_executable("python"), accelerator.machine_build())
        else:
            env.run_executable("python", ["-m", "pip", "install", requirement])
    except Exception as error:
        output = f"{getattr(error, 'stdout', '')}\n{getattr(error, 'stderr', '')}".strip() or str(error)
        raise Unbuildable(f"asv cannot make the environment {env.name}: {_cause(output)}") from None
    return env


def _install_impls(commit: str, python: str, folder: Path) -> None:
    """Build `impls` of a commit and install it into a folder. Raises Unbuildable."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    IMPLS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=IMPLS) as temporary:
        source, target = Path(temporary, "source"), Path(temporary, "target")
        source.mkdir()
        # Python extracts archives safely from 3.11.4 on only; Debian 12 has 3.11.2.
        subprocess.run(["tar", "--extract", "--directory", str(source)], input=archive, check=True)
        options = ["--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--target", str(target)]
        pip = [python, "-m", "pip", "install", *options, str(source)]
        completed = subprocess.run(pip, capture_output=True, text=True)
        if completed.returncode:
            raise Unbuildable(f"{commit[:8]} does not build: {_cause(completed.stderr)}")
        shutil.move(target, folder)


def _cause(output: str) -> str:
    """The last line of a program's output that names an error, else the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no message"])[-1]


def _packages(python: str) -> dict[str, str]:
    """The version of each package of an environment, by its normalised name, without those that install others."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    pairs = (line.partition("==") for line in listed.splitlines())
    versions = {canonicalize_name(name): version for name, _, version in pairs}
    return {name: version for name, version in versions.items() if name not in NOT_MEASURED}


def _require(requirement: str, packages: dict[str, str]) -> None:
    """Raise Unbuildable where another package made pip install a version that was not asked for."""
    given = parsed(requirement)
    version = packages.get(canonicalize_name(given.name))
    if version is None or not given.specifier.contains(version, prereleases=True):
        raise Unbuildable(f"{requirement} asked for, {version or 'nothing'} installed: other packages exclude it")
