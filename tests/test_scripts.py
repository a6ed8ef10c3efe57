"""Test profiles, selection of builds, storage of results, the record schema, scripts and workflows."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import roofs
from benchmarks.harness.case import ROOFS, LoopCase, OperatorCase
from benchmarks.harness.measurement import (
    DeviceTiming,
    Measurement,
    Process,
    RoofTiming,
    Sampling,
    StepTiming,
)
from benchmarks.harness.processes import records
from benchmarks.harness.roofline import loops
from impls.catalog import STEPS, VARIANTS
from impls.cnn.networks import NETWORKS
from scripts.run import series
from scripts.run.profiles import PROFILES, cases
from scripts.run.series import asv_patterns
from scripts.setup import accelerator, environment, pins
from scripts.verify import repeatability
from tests.checkout import ROOT, Checkout

CPU_ROWS = {(row.direction, row.name) for row in VARIANTS if row.device == "cpu"}
CPU_STEPS = {row.name for row in STEPS if row.device == "cpu"}


def of_operators(profile: str, gpu: bool = False) -> list[OperatorCase]:
    """Return the cases of a profile that are neither roofs nor training steps."""
    measured = cases(PROFILES[profile], gpu=gpu, cores=2)
    return [case for case in measured if isinstance(case, OperatorCase)]


@pytest.mark.parametrize("profile", ["core", "full"])
def test_profile_measures_every_cpu_row(profile):
    assert {(case.direction, case.variant) for case in of_operators(profile) if case.quantity == "time"} == CPU_ROWS


@pytest.mark.parametrize(
    ("profile", "networks", "needy"),
    [("smoke", {"mnist_cnn"}, False), ("core", set(NETWORKS), True), ("full", set(NETWORKS), True)],
)
def test_profile_measures_every_training_step(profile, networks, needy):
    steps = [case for case in cases(PROFILES[profile], gpu=False, cores=2) if case.kind == "step"]
    assert {case.network for case in steps} == networks
    left_out = set() if needy else {row.name for row in STEPS if row.needs}
    for network in networks:
        assert {c.variant for c in steps if c.network == network and c.quantity == "time"} == CPU_STEPS - left_out


def test_smoke_measures_every_cpu_row_that_needs_no_compiler():
    needy = {(row.direction, row.name) for row in VARIANTS if row.needs}
    smoke = of_operators("smoke")
    assert {(case.direction, case.variant) for case in smoke} == CPU_ROWS - needy
    assert {case.dtype for case in smoke} == {"float32"}
    assert len({case.elements for case in smoke if case.quantity == "time"}) == 2


def test_cuda_rows_are_measured_where_there_is_a_gpu():
    on_gpu = {(case.direction, case.variant) for case in of_operators("core", gpu=True)}
    assert {(row.direction, row.name) for row in VARIANTS if row.device == "cuda"} <= on_gpu


@pytest.mark.parametrize("profile", PROFILES)
def test_every_time_has_its_roofs(profile):
    """The profile has every loop of a percentage, with one thread and all; non-temporal stores from 1 MiB on."""
    measured = cases(PROFILES[profile], gpu=False, cores=2)
    loops = {(case.kernel, case.array_bytes) for case in measured if case.kind == "loop"}
    sizes = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
    times = [case for case in of_operators(profile) if case.quantity == "time"]
    for array_bytes in {case.elements * sizes[case.dtype] for case in times}:
        names = ["copy", "triad", "scale", "accumulate"] + ["copy-nt", "triad-nt"] * (array_bytes >= 2**20)
        assert {(f"{name}.{threads}", array_bytes) for name in names for threads in ("one", "all")} <= loops


def test_smoke_measures_no_other_roofs():
    measured = [case for case in cases(PROFILES["smoke"], gpu=False, cores=2) if case.kind in ROOFS]
    assert {case.array_bytes for case in measured} == {2**17, 2**22}
    assert {case.kind for case in measured} == {"loop"}
    assert "fill" not in {loops.LOOPS[case.kernel].pattern.name for case in measured}


def test_core_measures_roof_curves_with_few_cases():
    measured = [case for case in cases(PROFILES["core"], gpu=False, cores=2) if case.kind in ROOFS]
    assert len(measured) == len(set(measured)) <= 72
    streaming = [case for case in measured if case.kind == "loop"]
    for loop in ("copy.all", "scale.all", "fill.all"):
        curve = sorted(c.array_bytes for c in streaming if c.kernel == loop and c.array_bytes >= 2**14)
        assert (curve[0], curve[-1]) == (2**14, 2**27)
        assert all(larger <= 4 * smaller for smaller, larger in itertools.pairwise(curve))


def test_full_measures_every_roof_but_small_non_temporal_ones():
    full = [case for case in cases(PROFILES["full"], gpu=False, cores=2) if case.kind == "loop"]
    left_out = set(itertools.product(loops.LOOPS, roofs.ARRAY_BYTES)) - {(c.kernel, c.array_bytes) for c in full}
    assert {loops.LOOPS[name].pattern.nontemporal for name, _ in left_out} == {True}
    assert max(array_bytes for _, array_bytes in left_out) < 2**20


def test_patterns_match_only_the_cases():
    chosen = [
        OperatorCase("time", "relu", "forward", "numpy.out", 1024, "float32"),
        LoopCase("time", "copy.one", 4096),
    ]
    everything = cases(PROFILES["full"], gpu=True, cores=2)
    names = {case: f"{series.of(case).name}({series.of(case).parameters(case)})" for case in everything}
    patterns = [re.compile(pattern) for pattern in asv_patterns(chosen)]
    matched = [case for case, name in names.items() if any(pattern.search(name) for pattern in patterns)]
    assert sorted(matched, key=str) == sorted(chosen, key=str)


@pytest.mark.parametrize(
    ("gpu", "configured", "variables"),
    [
        (False, False, {"PIP_EXTRA_INDEX_URL": accelerator.CPU_WHEELS}),
        (False, True, {}),
        (True, False, {}),
        (True, True, {}),
    ],
)
def test_pip_environment_depends_on_gpu_and_configuration(gpu, configured, variables):
    assert accelerator.pip_environment(gpu, configured) == variables


def test_cuda_packages_are_of_the_pinned_version_and_only_for_a_gpu():
    jax, numba, _ = accelerator.cuda_requirements({"jax": "1.2.3"}, gpu=True)
    assert (jax, numba) == ("jax[cuda13]==1.2.3", f"numba-cuda[cu13]=={accelerator.NUMBA_CUDA}")
    assert accelerator.cuda_requirements({"jax": "1.2.3"}, gpu=False) == []
    without = accelerator.test_requirements({"jax": "1.2.3"}, gpu=False)
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


def test_versions_are_pinned_once_and_tests_use_them():
    assert set(pins.frameworks()) >= {"numpy", "numba", "torch", "jax", "scipy", "threadpoolctl"}
    assert f"torch=={pins.frameworks()['torch']}" in environment.requirements("test")
    assert not any(line.startswith("torch") for line in environment.requirements("report"))


@pytest.fixture
def checkout(tmp_path):
    """A checkout with its own remote."""
    checkout = Checkout(tmp_path / "checkout")
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "remote.git")], check=True)
    checkout.git("remote", "add", "origin", str(tmp_path / "remote.git"))
    checkout.git("push", "--quiet", "origin", "main")
    return checkout


def store(checkout: Checkout, action: str) -> None:
    command = [sys.executable, "-m", "scripts.run.store", action]
    subprocess.run(command, cwd=checkout.folder, check=True)


def test_results_are_stored_on_a_separate_branch(checkout):
    first, second = (checkout.folder / ".asv/results/vm" / name for name in ("one.json", "two.json"))
    first.parent.mkdir(parents=True)
    store(checkout, "restore")
    first.write_text("1")
    store(checkout, "save")
    first.unlink()
    store(checkout, "restore")
    assert first.read_text() == "1"
    second.write_text("2")
    store(checkout, "save")
    store(checkout, "save")
    files = checkout.git("ls-tree", "-r", "--name-only", "origin/results").splitlines()
    assert files == ["results/vm/one.json", "results/vm/two.json"]
    # The initial empty commit, and one for each save with new results.
    assert checkout.git("rev-list", "--count", "origin/results") == "3"
    assert checkout.git("branch", "--show-current") == "main"
    assert checkout.changed() == set()
    assert checkout.git("worktree", "list").count("\n") == 0


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_run_existing_scripts(workflow):
    text = workflow.read_text()
    commands = re.findall(r"- run: (\S+)", text)
    assert commands
    for command in commands:
        assert (ROOT / command).is_file(), command
        assert (ROOT / command).stat().st_mode & 0o111, f"{command} cannot be executed"
    by_hand = text.splitlines()[0].split("By hand: ")[1].split()[0]
    assert (ROOT / by_hand).is_file()
    # Text of a pull request must not enter a command.
    assert not re.search(r"run:.*\$\{\{", text)
    assert "pull_request_target" not in text


def matches(value: Any, schema: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Return whether a JSON value has the form of a JSON Schema; objects must have no other properties."""
    if not schema:
        return True
    if "$ref" in schema:
        return matches(value, definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return any(matches(value, choice, definitions) for choice in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "object" and "properties" in schema:
        properties = schema["properties"]
        return (
            isinstance(value, dict)
            and set(schema.get("required", ())) <= set(value) <= set(properties)
            and all(matches(item, properties[name], definitions) for name, item in value.items())
        )
    if schema["type"] == "object":
        items = schema.get("additionalProperties", {})
        return isinstance(value, dict) and all(matches(item, items, definitions) for item in value.values())
    if schema["type"] == "array":
        if not isinstance(value, list):
            return False
        schemas = schema.get("prefixItems", [schema.get("items", {})] * len(value))
        return len(value) == len(schemas) and all(
            matches(item, part, definitions) for item, part in zip(value, schemas, strict=True)
        )
    types = {"string": str, "boolean": bool, "null": type(None), "integer": int, "number": (int, float)}
    return isinstance(value, types[schema["type"]]) and (schema["type"] == "boolean" or not isinstance(value, bool))


def test_record_lines_match_the_printed_schema(tmp_path, monkeypatch):
    monkeypatch.setenv("RELU_BENCH_OUTCOMES", str(tmp_path))
    processes = [
        Process(
            1e-3, 10, True, 2, 0.5, Sampling(samples=30, smt_contended_s=[2e-3], probe_s=1e-5, preempted=[3]),
            DeviceTiming(5e-4, [5e-4], [0], ["power cap"], {"clock_mhz": 1500}),
            StepTiming(1e-6, {"forward": 5e-4}, (-0.5, 7.0)), RoofTiming(30, 1e-3, 2e-3, 1e-5),
        ),
        Process(value=4096),
    ]  # fmt: skip
    case = OperatorCase("time", "relu", "forward", "numpy.out", 1024, "float32")
    for measurement in (
        Measurement("ok", value=1e-3, samples_s=[1e-3], number=10, processes=processes, provenance={"cores": 2}),
        Measurement("crashed", "signal 9", output_tail="killed"),
    ):
        records.append(case, measurement, "a" * 40)
    (path,) = tmp_path.glob("*/*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    printed = subprocess.run(
        [sys.executable, "-m", "scripts.report.schema"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    schema = json.loads(printed.stdout)
    assert [matches(line, schema, schema["$defs"]) for line in lines] == [True, True]
    assert not matches({**lines[0], "unknown": 1}, schema, schema["$defs"])
    lines[0]["measurement"]["processes"][0]["sampling"]["samples"] = "30"
    assert not matches(lines[0], schema, schema["$defs"])


@pytest.mark.parametrize("script", ["bench", "compare"])
def test_scripts_print_their_usage(script):
    process = subprocess.run(
        [sys.executable, "-m", f"scripts.run.{script}", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0
    assert f"usage: ./scripts/{script}" in process.stdout


def test_bench_warns_of_uncommitted_changes_and_skips_measured_cases(tmp_path):
    """Run the real asv on one case in an existing environment."""
    checkout = Checkout(tmp_path)
    commit = checkout.git("rev-parse", "HEAD")
    checkout.measure(r"Forward\.track_time\('numpy.out', 32768, 'float32'\)")
    checkout.append("README.md", "changed\n")
    script = f"""
import os
import platform
import scripts.run.bench as bench
from benchmarks.harness.machine import provenance
here = provenance.expected_fingerprint(len(os.sched_getaffinity(0)))
assert not bench._done({commit!r}, platform.node(), "of another machine", 1)
for processes in (1, 2, 4):
    done = bench._done({commit!r}, platform.node(), here, processes)
    print(sorted((c.quantity, c.variant, c.elements) for c in done))
bench._warn_if_dirty()
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=checkout.folder, capture_output=True, text=True)
    # Two processes measured it (the default of asv and of the harness), or three where each was SMT contended.
    measured_case = "[('time', 'numpy.out', 32768)]"
    assert process.stdout.splitlines() == [measured_case, measured_case, "[]"], process.stderr
    assert "1 uncommitted changes" in process.stderr


def test_nightly_and_compare_without_arguments_print_their_usage():
    for script, word in (("nightly", "usage"), ("compare", "required")):
        process = subprocess.run([str(Path(ROOT, "scripts", script))], capture_output=True, text=True)
        assert process.returncode != 0
        assert word in process.stderr


def test_plain_asv_times_the_same_calls_twice():
    runs = repeatability.plain("relu forward numpy.out")
    assert sorted(runs.index) == ["'relu forward numpy.out', 1048576", "'relu forward numpy.out', 32768"]
    assert (runs[["first", "second"]] > 0).all(axis=None)
    assert (runs["percent"] >= 0).all()
