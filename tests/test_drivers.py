"""Test drivers: required and optional members, and starting a framework."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.case import OperatorCase, StepCase, Unsupported, to_axes
from benchmarks.harness.frameworks import DeviceDriver, Driver, StepDriver, device_driver, driver, step_driver
from benchmarks.harness.frameworks.numba_cuda_ import NumbaCudaDriver
from benchmarks.harness.frameworks.numpy_ import NumpyDriver
from benchmarks.harness.frameworks.torch_ import TorchDriver
from benchmarks.harness.measurement import from_json
from benchmarks.harness.processes.worker import Server
from benchmarks.harness.quantities import dispatch, operator_row, training_step
from benchmarks.harness.truth.calls import Calls
from benchmarks.harness.truth.shared import Shared
from impls.catalog import STEPS, VARIANTS, find, find_step
from tests.recipes.python_driver import PythonDriver

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = sorted({row.framework for row in VARIANTS})


def in_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_of_the_catalog_has_a_driver(framework):
    assert isinstance(driver(framework), Driver)


def test_no_driver_imports_its_framework_before_it_is_started():
    code = f"""
import sys
from benchmarks.harness.frameworks import driver
for framework in {FRAMEWORKS}:
    driver(framework)
print({{"numba", "torch", "jax", "triton"}} & set(sys.modules))
"""
    process = in_new_process(code)
    assert process.stdout.strip() == "set()", process.stderr


def test_drivers_of_gpu_rows_and_steps_implement_their_interfaces():
    for row in VARIANTS:
        assert row.device != "cuda" or isinstance(driver(row.framework), DeviceDriver), row.name
    for step in STEPS:
        assert isinstance(driver(step.framework), StepDriver), step.name
        assert step.device != "cuda" or isinstance(driver(step.framework), DeviceDriver), step.name


def test_a_driver_without_a_member_cannot_be_instantiated():
    class Incomplete(PythonDriver):
        saved_bytes = Driver.saved_bytes

    with pytest.raises(TypeError, match="saved_bytes"):
        Incomplete()


def test_accessors_return_the_driver_or_name_missing_members():
    torch, cuda, numpy, python = TorchDriver(), NumbaCudaDriver(), NumpyDriver(), PythonDriver()
    assert device_driver(torch) is step_driver(torch) is torch
    assert device_driver(cuda) is step_driver(cuda) is cuda
    assert step_driver(numpy) is numpy
    with pytest.raises(Unsupported, match="NumpyDriver is no DeviceDriver: it has neither device_s nor free_bytes"):
        device_driver(numpy)
    with pytest.raises(Unsupported, match="PythonDriver is no StepDriver: it has neither step_saved_bytes nor"):
        step_driver(python)


@pytest.mark.parametrize("quantity", ["saved_bytes", "peak_bytes"])
def test_memory_of_steps_is_unsupported_without_step_members(quantity):
    row, case = find_step("numpy.inplace"), StepCase(quantity, "mnist_cnn", "numpy.inplace", 2)
    with pytest.raises(Unsupported, match="PythonDriver is no StepDriver"):
        training_step.SINGLE[quantity](row, case, PythonDriver(), Shared())


def test_device_time_is_unsupported_without_device_members():
    row = find("relu", "forward", "numpy.out")
    calls = Calls(
        row, OperatorCase("time", row.operator, row.direction, row.name, 2**10, "float32"), NumpyDriver(), row.load()
    )
    with pytest.raises(Unsupported, match="NumpyDriver is no DeviceDriver"):
        operator_row._device_timer(calls, None, calls.pool(1), {}, 1)


def test_unsupported_members_give_an_unsupported_measurement(monkeypatch):
    def unsupported(*_):
        return device_driver(NumpyDriver())

    monkeypatch.setattr(dispatch, "timed", unsupported)
    start = {"framework": "numpy", "device": "cpu", "threads": None, "cache_dir": None, "shared": None}
    case = OperatorCase("time", "relu", "forward", "numpy.out", 8)
    server = Server(start | {"cores": 1, "probe_best_s": 1.0})
    answer = server.answer({"do": "prepare", "case": case.name, "axes": to_axes(case), "side": ""})
    measurement = from_json(json.loads(answer)["failure"])
    assert (measurement.status, measurement.value) == ("unsupported", None)
    assert measurement.reason.startswith("NumpyDriver is no DeviceDriver")


def test_a_number_that_json_has_no_form_for_is_an_error_of_the_case():
    server = Server({"benchmarks": ""})
    server._slice = lambda _: {"slice": float("nan")}
    failure = from_json(json.loads(server.answer({"do": "slice"}))["failure"])
    assert failure.status == "error"
    assert "JSON" in failure.reason


def test_a_missing_driver_is_named():
    with pytest.raises(LookupError, match=r"no driver for 'abacus': .*/frameworks/abacus_\.py is missing"):
        driver("abacus")


STARTED = """
import os, sys
from benchmarks.harness.frameworks import started
with started("numba", threads=1, compile_cache_dir="/nowhere") as framework:
    print(len(os.sched_getaffinity(0)), framework.threads(), "numba" in sys.modules)
    print(*(os.environ[name] for name in ("OMP_NUM_THREADS", "NUMBA_CACHE_DIR", "CUDA_DEVICE_ORDER")))
    {body}
"""


def test_a_started_framework_has_its_threads_and_environment():
    process = in_new_process(STARTED.format(body="pass"), CUDA_DEVICE_ORDER="FASTEST_FIRST")
    assert process.stdout.splitlines() == ["1 1 True", "1 /nowhere FASTEST_FIRST"], process.stderr


def test_threads_are_checked_after_the_start_and_at_the_end():
    changed_later = in_new_process(STARTED.format(body="framework.threads = lambda: 3"))
    assert "ThreadMismatch: threads: 1 asked, numba uses 3" in changed_later.stderr
    code = """
from benchmarks.harness.frameworks import driver, started
driver("torch").threads = lambda: 7
with started("torch", threads=1):
    print("started")
"""
    at_once = in_new_process(code)
    assert at_once.stdout == ""
    assert "ThreadMismatch: threads: 1 asked, torch uses 7" in at_once.stderr


def test_an_error_of_the_caller_is_not_replaced():
    body = "framework.threads = lambda: 3; raise KeyError('own')"
    process = in_new_process(STARTED.format(body=body))
    assert process.stderr.strip().endswith("KeyError: 'own'")


def test_more_threads_than_cores_are_refused_before_the_import():
    code = """
import sys
from benchmarks.harness.frameworks import started
try:
    started("torch", threads=4096).__enter__()
finally:
    print("torch" in sys.modules)
"""
    process = in_new_process(code)
    assert process.stdout.strip() == "False"
    assert "Unavailable: 4096 threads asked" in process.stderr


def test_the_example_driver_stores_values():
    python = PythonDriver()
    array = python.array(np.array([1.0, -2.0]), "float64")
    assert python.dtype(array) == "float64"
    assert python.to_numpy(array).tolist() == [1.0, -2.0]
