"""What chooses, skips, installs and tells where a GPU's rows are concerned, on a machine that has none.

What needs the machine to have a driver is told so by a test that reads other files; no framework is pretended.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import gpu, machine, outcomes
from benchmarks.harness.case import Case
from benchmarks.harness.frameworks.numba_cuda_ import Live
from benchmarks.harness.outcomes import Outcome
from impls.catalog import VARIANTS
from scripts import gpu_check, metrics
from tests.synthetic import time
from tests.test_kernels import WITHOUT
from tests.test_metrics import ROOFS, only_row

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = sorted({row.framework for row in VARIANTS if row.device == "cuda"})
START = "from benchmarks.harness.frameworks import driver; driver({!r}).start('cuda')"

pytestmark = pytest.mark.skipif(machine.gpu_driver() is not None, reason="this machine has an NVIDIA driver")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that simulates no GPU, unless it is told to."""
    clean = {name: value for name, value in os.environ.items() if name not in WITHOUT}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize("hidden", [{}, {"CUDA_VISIBLE_DEVICES": ""}], ids=["no device", "hidden"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_driver_without_a_device_is_told_from_a_failure(framework, hidden):
    """The framework is asked, as where a driver is loaded that has no device."""
    told = python("-c", START.format(framework), **hidden)
    last = told.stderr.strip().splitlines()[-1]
    assert last.startswith("benchmarks.harness.case.Unavailable: "), told.stderr
    assert "no CUDA device" in last or "no cuda device" in last, last


@pytest.mark.parametrize(
    ("framework", "variable"), [("numba_cuda", "NUMBA_ENABLE_CUDASIM"), ("triton", "TRITON_INTERPRET")]
)
def test_what_is_simulated_gets_no_number(framework, variable):
    told = python("-c", START.format(framework), **{variable: "1"})
    assert f"Unavailable: {variable} is set" in told.stderr


def test_the_check_says_what_is_lacking_in_its_first_line_and_imports_no_framework():
    code = "import sys; from scripts import gpu_check; code = gpu_check.main(); "
    told = python("-c", f"{code} print(sorted({{'torch', 'numba', 'jax', 'triton'}} & set(sys.modules)), code)")
    first, last = told.stdout.splitlines()
    assert first.startswith("gpu_check: no NVIDIA driver is loaded")
    assert last == "[] 2"
    shell = subprocess.run([ROOT / "scripts" / "gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert (shell.returncode, shell.stdout.splitlines()) == (2, [first])


@pytest.mark.parametrize(
    ("loaded", "names", "visible", "words"),
    [
        (None, "none", None, "no NVIDIA driver"),
        ("Kernel Module  580.65.06", "", None, "no device"),
        ("Kernel Module  580.65.06", "NVIDIA H200", "", "CUDA_VISIBLE_DEVICES is ''"),
        ("Kernel Module  580.65.06", "NVIDIA H200", "-1", "CUDA_VISIBLE_DEVICES is '-1'"),
        ("Kernel Module  550.54.15", "NVIDIA H200", None, "the NVIDIA driver is 550"),
        ("Kernel Module  580.65.06", "NVIDIA H200", "1,0", ""),
        ("Kernel Module  580.65.06", "NVIDIA H200", None, ""),
    ],
)
def test_what_is_lacking(loaded, names, visible, words, monkeypatch):
    monkeypatch.setattr(machine, "gpu_driver", lambda: loaded)
    monkeypatch.setattr(machine, "gpus", lambda: names)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    told = list(gpu_check.lacks())
    assert (words in told[0]) if words else told == []


def test_nothing_is_known_of_a_gpu_that_is_not_there():
    assert gpu.state() == {}
    assert gpu.bandwidth_gb_per_s() is None


def test_what_slows_a_device_is_named():
    assert gpu.slowed_by(0x0) == gpu.slowed_by(0x1) == []
    assert gpu.slowed_by(0x44) == ["power cap", "hardware thermal limit"]


def part(**details) -> Outcome:
    samples_s = [1.0] * 10
    return Outcome("ok", value=1.0, samples_s=samples_s, number=1, details={"provenance": {}, **details})


def test_a_time_of_a_slowed_device_is_unstable():
    free, slowed = (part(gpu={"slowed_by": by}) for by in ([], ["power cap"]))
    assert outcomes.pooled([free, free]).status == "ok"
    found = outcomes.pooled([free, slowed])
    assert (found.status, found.reason) == ("unstable", "the GPU was slowed by power cap")


def test_live_bytes_have_a_peak():
    live = Live()
    live.add(100)
    assert live.restart() == 100
    for size in (50, -50, 20):
        live.add(size)
    assert (live.now_bytes, live.peak_bytes) == (120, 150)


def test_rows_of_a_gpu_are_held_against_its_own_copy():
    copy = Case("time", "device", "copy", 4 * 2**20, "float32")
    forward = only_row({**ROOFS, copy: 1e-5, time("relu.forward", "triton-cuda.out"): 2e-5})
    assert forward["percent_of_roof"] == pytest.approx(50)
    # Three arrays for the two of a copy.
    backward = only_row({**ROOFS, copy: 1e-5, time("relu.backward", "numba-cuda.out"): 1.5e-5})
    assert backward["percent_of_roof"] == pytest.approx(100)
    too_fast = only_row({**ROOFS, copy: 1e-5, time("relu.forward", "torch-cuda.out"): 0.9e-5})
    assert too_fast["impossible"]


def test_products_of_a_device_are_no_roof_of_the_processor():
    from tests.test_metrics import table

    device, library = (Case("time", op, name, 1000, "float32") for op, name in (("device", "gemm"), ("gemm", "torch")))
    found = table({device: 1e-3, library: 1e-1})
    assert metrics.gemms(found)["library"].tolist() == ["torch"]
    assert metrics.gemms(found, "device")["gflop_per_s"].tolist() == [pytest.approx(2000)]
