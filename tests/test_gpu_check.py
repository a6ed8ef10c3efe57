"""Test ./scripts/gpu_check with simulated measurements, on a machine without a GPU."""

import json
import platform
import re
import subprocess
import sys
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import pytest

from benchmarks.harness.case import DeviceLoopCase, OperatorCase
from benchmarks.harness.machine import cuda_driver, linux, provenance, software
from benchmarks.harness.machine.cuda_driver import Driver
from benchmarks.harness.measurement import UNKNOWN, DeviceTiming, Measurement, Process
from benchmarks.harness.quantities import dispatch
from impls.catalog import STEPS, VARIANTS, find, variants
from impls.cnn.architecture import RELU_NETWORKS
from scripts.report import metrics
from scripts.verify import gpu_check, gpu_document
from tests.test_gpu import python
from tests.test_metrics import table

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = sorted({row.framework for row in VARIANTS if row.device == "cuda"})
pytestmark = pytest.mark.skipif(linux.gpu_driver() is not None, reason="this machine has an NVIDIA driver")
ROW = find("relu", "forward", "numpy.out")


def test_gpu_check_reports_a_missing_driver_and_imports_no_framework():
    code = "import sys; from scripts.verify import gpu_check; code = gpu_check.main(); "
    process = python("-c", f"{code} print(sorted({{'torch', 'numba', 'jax', 'triton'}} & set(sys.modules)), code)")
    first_line, last_line = process.stdout.splitlines()
    assert first_line.startswith("gpu_check: no NVIDIA driver")
    assert last_line == "[] 2"
    shell = subprocess.run([ROOT / "scripts" / "gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert (shell.returncode, shell.stdout.splitlines()) == (2, [first_line])


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (Driver(problem="no NVIDIA driver"), "no NVIDIA driver: there is nothing to run"),
        (Driver(13000, problem="CUDA_VISIBLE_DEVICES hides every one"), "hides every one: there is nothing to run"),
        (Driver(11040, ("A100",), (80,)), "needs an NVIDIA driver of version 525 or newer"),
        (Driver(12080, ("B200",), (100,)), "needs an NVIDIA driver of version 580 or newer"),
        (Driver(12080, ("H200",), (90,)), ""),
        (Driver(13000, ("H200", "H200"), (90, 90)), ""),
    ],
)
def test_gpu_check_reports_missing_requirements(driver, words, monkeypatch):
    monkeypatch.setattr(cuda_driver, "query", lambda: driver)
    reasons = [*gpu_check.lacks(), *gpu_check.without_builds()]
    assert (words in reasons[0]) if words else reasons == []
    assert len(reasons) == bool(words)


def test_gpu_check_measures_rows_as_asv_does():
    """Measure on the CPU, which has no events; a failing size does not stop the others."""
    cases = [OperatorCase("time", ROW.operator, ROW.direction, ROW.name, n, "float32") for n in (2**40, 2**10)]
    measurements = gpu_check.measured(cases, budget_s=0.02)
    failed, good = (gpu_check.operator_time(ROW, case, measurements[case], {"copy": 1e-6}) for case in cases)
    assert isnan(failed.latency_s)
    assert failed.remark.startswith("memory: needs")
    assert good.latency_s > 0
    assert (good.used_s, good.moved_bytes) == (good.latency_s, 2 * 4 * 2**10)
    assert " by latency" in gpu_check.operator_line(good, 1000)
    assert good.roof_s == 1e-6


def test_gpu_check_takes_the_roofs_of_the_report():
    times_s = {"copy.torch": 2.0, "copy.triton": 3.0, "scale.torch": 1.0, "triad.torch": 4.0, "accumulate.torch": 5.0}
    roofs = {DeviceLoopCase("time", name, 2**22): Measurement("ok", value=s) for name, s in times_s.items()}
    roofs[DeviceLoopCase("time", "triad.triton", 2**22)] = Measurement("skipped", "not installed: triton")
    found = gpu_check.fastest_s(roofs)
    assert found == {"copy": 2, "scale": 1, "triad": 4, "accumulate": 4}
    reported = metrics.device_roofs(table({roof: each.value for roof, each in roofs.items() if each.value}))
    assert found == reported[list(found)].iloc[0].to_dict()
    # Each suffices by itself.
    assert gpu_check.fastest_s(dict([*roofs.items()][2:3])) == {"scale": 1}
    assert gpu_check.fastest_s(dict([*roofs.items()][:2])) == {"copy": 2, "scale": 2}


def check_time(framework, subject, latency_s, device_s=nan, size=2**28, remark="", roof_s=1e-3):
    name = f"{framework}-cuda.out"
    return gpu_document.Time(framework, subject, name, size, latency_s, device_s, 8 * size, roof_s, remark)


def test_gpu_check_table_compares_rows_with_the_roof_and_the_datasheet():
    line = gpu_check.operator_line(check_time("triton", "forward", 2e-3, 1.25e-3), 4000)
    operator, row, elements, latency, device, gb_per_s, roof, sheet = line.split()
    assert (operator, row, elements) == ("forward", "triton-cuda.out", str(2**28))
    assert (latency, device, gb_per_s, roof, sheet) == ("2000.0", "1250.0", "1718", "80.0", "42.9")
    assert len(gpu_check.operator_head().split("elements")[0]) < line.index("2000.0")


def test_gpu_check_targets_are_met_or_missed():
    times = [
        check_time("numba_cuda", "forward", 2e-3, 1e-3 / 0.925),
        check_time("numba_cuda", "backward", 2e-3, 1e-3 / 0.915),
        check_time("triton", "forward", 2e-3, 1e-3 / 0.925),
        # A bandwidth target counts only device time at the largest size; without it the target is missed.
        check_time("triton", "backward", 1e-3),
        check_time("triton", "backward", 2e-5, 1e-5, size=2**20, roof_s=1e-5),
    ]
    targets = gpu_check.operator_targets(times, FRAMEWORKS)
    assert [target.met for target in targets] == [True, False, True, False, True]
    assert str(targets[1]).endswith("91.5 % of the roof at 268435456 elements, at least 92: missed")
    # Without a framework or the largest size, only completeness is a target.
    assert [target.met for target in gpu_check.operator_targets(times, ["numba_cuda"])] == [True, False, True]
    assert [target.met for target in gpu_check.operator_targets(times[-1:], FRAMEWORKS)] == [True]
    failed = check_time("jax", "forward", nan, size=2**20, remark="error: no")
    assert str(gpu_check.operator_targets([times[-1], failed], FRAMEWORKS)[-1]) == "1 of 2 times measured: missed"
    # Without a roof, as where torch is not installed, its targets are not judged.
    without = [replace(time, roof_s=nan) for time in times]
    assert [target.met for target in gpu_check.operator_targets(without, FRAMEWORKS)] == [*4 * [None], True]
    assert str(gpu_check.operator_targets(without, FRAMEWORKS)[0]) == (
        "numba_cuda forward: no roof was measured at 268435456 elements: not judged"
    )
    # PyTorch's rows are reported only.
    foreign = check_time("torch", "forward", nan, size=2**20)
    assert str(gpu_check.operator_targets([times[-1], foreign], FRAMEWORKS)[-1]) == "1 of 1 times measured: met"


def test_gpu_check_compares_steps_with_the_fastest_of_torch():
    network = "mnist_cnn"
    times = [
        check_time(*row, size=gpu_check.BATCH)
        for row in (("torch", network, 2e-3), ("torch", network, 1e-3), ("numba_cuda", network, 2.9e-3))
    ]
    assert [target.met for target in gpu_check.step_targets(times, FRAMEWORKS)] == [True, True]
    assert "2.90 x torch" in list(gpu_check.step_lines(times))[-1]
    # Of rows with products of float32.
    low = replace(check_time("torch", network, 1e-6, size=gpu_check.BATCH), precision="bfloat16")
    # And of the batch that targets are for.
    large = check_time("torch", network, 1e-6, size=4096)
    assert [target.met for target in gpu_check.step_targets([*times, low, large], FRAMEWORKS)] == [True, True]
    assert [target.met for target in gpu_check.step_targets([large], FRAMEWORKS)] == [True]
    slow = [*times[:2], check_time("numba_cuda", network, 3.1e-3, size=gpu_check.BATCH)]
    assert [target.met for target in gpu_check.step_targets(slow, FRAMEWORKS)] == [False, True]
    assert [target.met for target in gpu_check.step_targets(times[:2], FRAMEWORKS)] == [False, True]
    assert [target.met for target in gpu_check.step_targets(times[2:], ["numba_cuda"])] == [True]
    # PyTorch's rows have failed, or all but those of another precision.
    for failed in ([], [low], [check_time("torch", network, nan, size=gpu_check.BATCH)]):
        not_judged, complete = gpu_check.step_targets([times[2], *failed], FRAMEWORKS)
        assert str(not_judged) == "numba_cuda mnist_cnn: torch has no time in float32: not judged"
        assert complete.met


def test_a_target_that_is_not_judged_does_not_fail_gpu_check():
    targets = [gpu_document.Target("a", True), gpu_document.Target("b", None)]
    check = gpu_document.Check({"gpus": "none"}, nan, targets=targets)
    assert (check.failed, check.missed) == (0, [])
    assert "<li>b: not judged</li>" in check.page()
    check.targets.append(gpu_document.Target("c", False))
    assert (check.failed, check.missed) == (1, check.targets[2:])
    assert '<li class="differs">c: missed</li>' in check.page()


def test_gpu_check_covers_every_gpu_row():
    for operator in ("relu", "gelu"):
        of_gpu = [row for row in variants(operator) if row.device == "cuda"]
        assert gpu_check.operator_rows([operator], FRAMEWORKS) == of_gpu
    triton = gpu_check.operator_rows(["relu", "gelu"], ["triton"])
    assert {(row.operator, row.framework) for row in triton} == {("relu", "triton"), ("gelu", "triton")}
    steps = {(network, row.name) for network, row in gpu_check.step_rows(FRAMEWORKS)}
    relu_steps = {(network, row.name) for network in RELU_NETWORKS for row in STEPS if row.device == "cuda"}
    assert steps >= relu_steps
    assert {name for _, name in steps - relu_steps} == {"torch-cuda.fresh", "jax-patches-cuda.fresh"}
    assert {row.framework for _, row in gpu_check.step_rows(["numba_cuda"])} == {"numba_cuda"}


def test_gpu_check_reports_what_an_environment_lacks(monkeypatch):
    monkeypatch.setitem(gpu_check.FRAMEWORKS, "jax", "jax_of_nobody")
    monkeypatch.setattr(gpu_check, "NEEDED", ("numpy", "scipy_of_nobody"))
    monkeypatch.setattr(gpu_check, "LEAST_PYTHON", (99, 0))
    assert list(gpu_check.uninstalled(["jax", "torch"])) == [
        f"this is Python {platform.python_version()}; 99.0 or newer is needed",
        "scipy_of_nobody is not installed: pip install scipy_of_nobody",
        "jax is not installed: install it, or leave it out of --frameworks",
    ]
    (message,) = gpu_check.unknown(["relu", "relo"])
    assert message.startswith("--operators: 'relo' given; those with GPU rows are relu, ")


def test_the_readme_names_all_packages_that_gpu_check_needs():
    """Among them those of the frameworks, whose names have hyphens."""
    readme = (ROOT / "README.md").read_text()
    needed = readme[readme.index("An environment that exists needs") :].split("\n\n")[0]
    packages = {*gpu_check.NEEDED, *(name.replace("_", "-") for name in gpu_check.FRAMEWORKS), "nvidia-ml-py"}
    assert packages <= set(re.findall(r"[\w-]+", needed))


def check_main(monkeypatch, folder, *arguments, failing=()):
    """Run gpu_check with simulated measurements and nothing lacking; return its exit code, cases and document.

    failing: frameworks whose rows are wrong in bfloat16. A process knows only the framework that it has imported.
    """
    measured_cases = []
    facts = dict.fromkeys(("torch_cuda", "torch_cudnn", "jax_backend", "numba_target"), software.NOT_IMPORTED)
    known = {
        "torch": {"torch_cuda": "13.0", "torch_cudnn": 91002},
        "triton": {"torch_cuda": "13.0", "torch_cudnn": UNKNOWN},
        "jax": {"jax_backend": "gpu"},
    }

    def measured(cases, budget_s=1.0, with_roofs=False):
        measured_cases.extend(cases)
        good = Measurement("ok", value=1.0, processes=[Process(number=1, device=DeviceTiming(device_s=1e-6))])
        return {
            case: Measurement("wrong", "no")
            if case.axes.get("dtype") == "bfloat16" and case.variant.startswith(failing)
            else replace(good, provenance=facts | known.get(dispatch.needs(case).framework, {}))
            for case in cases
        }

    monkeypatch.setattr(gpu_check, "lacks", lambda: iter(()))
    monkeypatch.setattr(gpu_check, "measured", measured)
    monkeypatch.setattr(provenance, "collect", lambda: {"gpus": "none", "gpu_driver": "none", **facts})
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(folder / "found"), *arguments])
    code = gpu_check.main()
    return code, measured_cases, json.loads((folder / "found.json").read_text())


def test_gpu_check_fails_if_a_row_is_wrong(monkeypatch, capsys, tmp_path):
    code, measured_cases, _ = check_main(monkeypatch, tmp_path, "--parts", "truth")
    assert code == 0
    rows = [(row.direction, row) for row in gpu_check.operator_rows(["relu"], FRAMEWORKS)]
    rows += gpu_check.step_rows(FRAMEWORKS)
    subjects = [case.direction if isinstance(case, OperatorCase) else case.network for case in measured_cases]
    assert {(subject, case.variant, case.dtype) for subject, case in zip(subjects, measured_cases, strict=True)} == {
        (subject, row.name, dtype) for subject, row in rows for dtype in row.dtypes
    }
    code, _, found = check_main(monkeypatch, tmp_path, "--parts", "truth", failing=("triton", "torch"))
    assert code == 1
    wrong = sum("bfloat16" in row.dtypes and row.framework == "triton" for _, row in rows)
    assert f"{wrong} rows wrong, 0 of 0 targets missed" in capsys.readouterr().out
    # PyTorch's are reported, and do not fail the check.
    code, _, found = check_main(monkeypatch, tmp_path, "--parts", "truth", failing=("torch",))
    assert code == 0
    assert {failure["counts"] for failure in found["failures"]} == {False}
    # All device times are equal, and so are all host latencies, so no target is missed.
    code, _, _ = check_main(monkeypatch, tmp_path, "--parts", "operators", "steps")
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "0 rows wrong, 0 of 7 targets missed" in printed


@pytest.mark.parametrize("part", gpu_check.PARTS)
def test_gpu_check_writes_what_the_measuring_processes_know(part, monkeypatch, tmp_path):
    _, _, found = check_main(monkeypatch, tmp_path, "--parts", part, "--frameworks", "torch", "numba_cuda", "triton")
    page = (tmp_path / "found.html").read_text()
    for name, fact in (("torch_cuda", "13.0"), ("torch_cudnn", 91002), ("jax_backend", software.NOT_IMPORTED)):
        assert found["facts"][name] == fact
        assert f"<td>{name.replace('_', ' ')}</td><td>{fact}</td>" in page
    assert found["facts"]["gpus"] == "none"


@pytest.mark.parametrize(("spec", "words"), [(None, "pip install nvidia-ml-py"), ("found", "datasheet: nan GB/s")])
def test_gpu_check_names_the_package_that_reads_the_state_of_a_gpu(spec, words, monkeypatch, capsys, tmp_path):
    find_spec = gpu_check.importlib.util.find_spec
    monkeypatch.setattr(
        gpu_check.importlib.util, "find_spec", lambda name: spec if name == "pynvml" else find_spec(name)
    )
    code, _, _ = check_main(monkeypatch, tmp_path, "--parts", "steps", "--frameworks", "triton")
    assert code == 0
    assert words in capsys.readouterr().out.splitlines()[1]


def test_gpu_check_runs_a_part_of_the_rows(monkeypatch, tmp_path):
    selection = ("--frameworks", "triton", "--operators", "gelu", "--elements", "1024", "--budget", "2s")
    code, measured_cases, found = check_main(monkeypatch, tmp_path, "--parts", "operators", *selection)
    rows = [case for case in measured_cases if isinstance(case, OperatorCase)]
    assert {(case.operator, case.elements, case.variant.split("-")[0]) for case in rows} == {("gelu", 1024, "triton")}
    assert code == 0
    assert found["facts"]["options"].endswith("--budget 2s")
    assert {time["subject"] for time in found["operators"]} == {"roof", *(f"gelu {row.direction}" for row in rows)}
    page = (tmp_path / "found.html").read_text()
    assert "Complete parts: operators" in page
    assert page.count("<td>gelu forward</td>") == sum(case.direction == "forward" for case in rows)


def test_gpu_check_measures_steps_in_the_batches_given(monkeypatch, capsys, tmp_path):
    selection = ("--parts", "steps", "--frameworks", "numba_cuda", "--batches", "64", "1024")
    code, measured_cases, found = check_main(monkeypatch, tmp_path, *selection)
    assert code == 0
    assert {case.batch for case in measured_cases} == {time["size"] for time in found["steps"]} == {64, 1024}
    assert "no target of time" not in capsys.readouterr().out
    check_main(monkeypatch, tmp_path, *selection[:-2], "1024")
    assert "no target of time applies: they are for batches of 64" in capsys.readouterr().out


def test_gpu_check_keeps_the_parts_before_an_interrupt(monkeypatch, tmp_path):
    def interrupted(check, options):
        raise KeyboardInterrupt

    monkeypatch.setitem(gpu_check.PARTS, "steps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_main(monkeypatch, tmp_path, "--parts", "operators", "steps")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["finished"] == ["operators"]
    assert len(found["operators"]) > len(gpu_check.ELEMENTS)
    # NaN is no JSON: a roof has no host latency.
    assert found["operators"][0]["latency_s"] is None
