"""Test that the wheel contains every module of the package, and that each can be imported from it alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.checkout import ROOT, Checkout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the work tree, built as asv.conf.json builds it; building leaves files."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = Checkout(folder / "tree")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    process = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    folder = wheel.with_suffix("")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def modules(folder: Path) -> set[str]:
    """Return the names of the modules below `impls` in a folder."""
    paths = (path.relative_to(folder).with_suffix("") for path in (folder / "impls").rglob("*.py"))
    return {".".join(path.parts).removesuffix(".__init__") for path in paths}


def test_the_wheel_contains_every_module_and_no_other_package(unpacked):
    assert modules(unpacked) == modules(ROOT)
    assert {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")} == {"impls"}


@pytest.mark.parametrize("name", sorted(modules(ROOT)))
def test_a_module_can_be_imported_from_the_wheel_alone(imported, name):
    assert imported[name] == "imported"


@pytest.fixture(scope="module")
def imported(unpacked: Path) -> dict[str, str]:
    """For every module: "imported", or the exception. One process imports all of them from the unpacked wheel."""
    script = f"""
import importlib
from pathlib import Path
for name in {sorted(modules(ROOT))!r}:
    try:
        path = Path(importlib.import_module(name).__file__)
        print(name, "imported" if path.is_relative_to({str(unpacked)!r}) else path, sep="\\t")
    except Exception as error:
        print(name, repr(error).replace("\\n", " "), sep="\\t")
"""
    process = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=unpacked.parent,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return dict(line.split("\t") for line in process.stdout.splitlines())
