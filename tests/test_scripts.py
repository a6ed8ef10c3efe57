"""Test profiles, selection of builds, storage of results, the record schema, scripts and workflows."""

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from asv.benchmarks import Benchmarks
from asv.config import Config

from benchmarks.harness import selection, series
from benchmarks.harness.case import ROOFS, LoopCase, OperatorCase, from_axes
from benchmarks.harness.measurement import DeviceTiming, Measurement, Process, Ratio, Slice, StepTiming
from benchmarks.harness.parameters import ARRAY_BYTES
from benchmarks.harness.processes import blocks, plan, records
from benchmarks.harness.profiles import COMPARED, FAMILY, PROFILES, cases
from benchmarks.harness.roofline import loops
from benchmarks.harness.series import asv_patterns
from impls.catalog import STEPS, VARIANTS, variants
from impls.cnn.networks import NETWORKS
from impls.cnn.rows import of_network
from scripts.setup import accelerator, environment, pins
from scripts.verify import drift, interleaving, repeatability
from tests.checkout import ROOT, Checkout

CPU_ROWS = {(row.direction, row.name) for row in variants("relu") if row.device == "cpu"}
CPU_STEPS = {row.name for row in STEPS if row.device == "cpu"}


def of_operators(profile: str, gpu: bool = False) -> list[OperatorCase]:
    """Return the cases of ReLU's rows in a profile."""
    measured = cases(PROFILES[profile], gpu=gpu, cores=2)
    return [case for case in measured if isinstance(case, OperatorCase) and case.operator == "relu"]


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
        rows = {row.name for row in of_network(NETWORKS[network])}
        measured = {c.variant for c in steps if c.network == network and c.quantity == "time"}
        assert measured == rows & CPU_STEPS - left_out


def test_smoke_measures_every_cpu_row_that_needs_no_compiler():
    needy = {(row.direction, row.name) for row in VARIANTS if row.needs}
    smoke = of_operators("smoke")
    assert {(case.direction, case.variant) for case in smoke} == CPU_ROWS - needy
    assert {case.dtype for case in smoke} == {"float32"}
    assert len({case.elements for case in smoke if case.quantity == "time"}) == 2


@pytest.mark.parametrize(("profile", "measured"), [("smoke", {"gelu", "sigmoid"}), ("core", set(FAMILY))])
def test_some_rows_of_the_family_are_measured(profile, measured):
    """Of each framework the warm times of one row."""
    family = [case for case in cases(PROFILES[profile], gpu=False, cores=2) if case.axes.get("operator") in FAMILY]
    assert {case.operator for case in family} == measured
    assert {case.quantity for case in family} == {"time"}
    assert {case.variant for case in family if case.operator == "gelu"} == set(COMPARED[:4])


def test_full_measures_every_row_of_the_family():
    family = [case for case in cases(PROFILES["full"], gpu=False, cores=2) if case.axes.get("operator") in FAMILY]
    rows = {
        (row.operator, row.direction, row.name) for row in VARIANTS if row.device == "cpu" and row.operator in FAMILY
    }
    assert {(case.operator, case.direction, case.variant) for case in family if case.quantity == "time"} == rows


def test_activations_share_blocks_in_which_relu_is_timed_too():
    family = [case for case in cases(PROFILES["core"], gpu=False, cores=2) if case.axes.get("operator") in FAMILY]
    (block,) = [block for block in blocks.of(family) if block.name == "operator-activations-forward-32768-float32-time"]
    assert {row.operator for row in block.rows} == set(FAMILY)
    assert {(row.operator, row.variant) for row in block.baselines} == {("relu", name) for name in COMPARED[:4]}
    assert not set(block.baselines) & set(block.answered)


def test_a_selected_activation_brings_no_other_one():
    selected = planned(r"GeluForward.track_time\('torch.out', 32768")
    assert {case.operator for case in selected} == {"gelu"}
    assert {case.variant for case in selected} == set(COMPARED[:4])


def test_cuda_rows_are_measured_where_there_is_a_gpu():
    on_gpu = {(case.direction, case.variant) for case in of_operators("core", gpu=True)}
    assert {(row.direction, row.name) for row in variants("relu") if row.device == "cuda"} <= on_gpu


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
    """Besides the loops of its rows, the matrix products of its training steps."""
    measured = [case for case in cases(PROFILES["smoke"], gpu=False, cores=2) if case.kind in ROOFS]
    streaming = [case for case in measured if case.kind == "loop"]
    assert {case.array_bytes for case in streaming} == {2**17, 2**22}
    assert {case.kind for case in measured} == {"loop", "product"}
    assert "fill" not in {loops.LOOPS[case.kernel].pattern.name for case in streaming}


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("profile", PROFILES)
def test_every_case_of_a_profile_is_a_parameter_of_asv(profile, gpu):
    for case in cases(PROFILES[profile], gpu, cores=2):
        benchmark = series.of(case).benchmark
        values = [case.axes[name] for name in benchmark.param_names]
        assert all(value in accepted for value, accepted in zip(values, benchmark.params, strict=True)), case


def test_core_measures_roof_curves_with_few_cases():
    measured = [case for case in cases(PROFILES["core"], gpu=False, cores=2) if case.kind in ROOFS]
    assert len(measured) == len(set(measured)) <= 80
    streaming = [case for case in measured if case.kind == "loop"]
    for loop in ("copy.all", "scale.all", "fill.all"):
        curve = sorted(c.array_bytes for c in streaming if c.kernel == loop and c.array_bytes >= 2**14)
        assert (curve[0], curve[-1]) == (2**14, 2**27)
        assert all(larger <= 4 * smaller for smaller, larger in itertools.pairwise(curve))


def test_full_measures_every_roof_but_small_non_temporal_ones():
    full = [case for case in cases(PROFILES["full"], gpu=False, cores=2) if case.kind == "loop"]
    left_out = set(itertools.product(loops.LOOPS, ARRAY_BYTES)) - {(c.kernel, c.array_bytes) for c in full}
    assert {loops.LOOPS[name].pattern.nontemporal for name, _ in left_out} == {True}
    assert max(array_bytes for _, array_bytes in left_out) < 2**20


def test_patterns_match_only_the_cases():
    chosen = [
        OperatorCase("time", "relu", "forward", "numpy.out", 1024, "float32"),
        LoopCase("time", "copy.one", 4096),
    ]
    everything = cases(PROFILES["full"], gpu=True, cores=2)
    matched = series.matching(everything, asv_patterns(chosen))
    assert sorted(matched, key=str) == sorted(chosen, key=str)


@pytest.mark.parametrize(
    "pattern", ["relu.Forward", r"track_time\('numpy.out', 1024", "Roof.*copy.all', 4096", "cnn", "^MnistCnn", ""]
)
def test_patterns_select_the_cases_that_asv_selects(pattern):
    everything = cases(PROFILES["core"], gpu=False, cores=2)
    discovered = [
        {"name": name, "params": [[repr(value) for value in values] for values in each.benchmark.params]}
        for name, each in series.SERIES.items()
    ]
    benchmarks = Benchmarks(SimpleNamespace(benchmark_dir="benchmarks"), discovered, [pattern])
    selected = {
        series.SERIES[name].case(parameters)
        for name, each in benchmarks.items()
        for position, parameters in enumerate(itertools.product(*each["params"]))
        if position in benchmarks.benchmark_selection[name]
    }
    assert set(series.matching(everything, [pattern])) == selected & set(everything)


def test_a_plan_holds_the_blocks_of_the_selected_rows():
    """All rows of these blocks, and no others; roofs only if they are selected themselves."""
    both = planned(r"track_time\('numpy.out', 1024")
    assert {block.name for block in blocks.of(both)} == {
        "operator-relu-forward-1024-float32-time",
        "operator-relu-backward-1024-float32-time",
    }
    assert {(case.direction, case.variant) for case in both} == {row for row in CPU_ROWS if row[0] != "roundtrip"}
    assert {case.kind for case in both} == {"operator"}
    (network,) = blocks.of(planned("MnistCnn.track_time.*numpy.fresh"))
    assert {case.variant for case in network.rows} == CPU_STEPS
    alone = {
        "Forward.track_transient_bytes.*numpy.out'": OperatorCase(
            "transient_bytes", "relu", "forward", "numpy.out", 2**20
        ),
        "Roof.track_time.*'copy.all', 4194304": LoopCase("time", "copy.all", 2**22),
    }
    assert {pattern: planned(pattern) for pattern in alone} == {pattern: [case] for pattern, case in alone.items()}
    assert planned("no such benchmark") == []


def planned(*patterns: str) -> list[Any]:
    return selection.chosen("core", patterns)


def test_without_patterns_the_whole_profile_is_planned():
    assert planned() == cases(PROFILES["core"], gpu=False, cores=len(os.sched_getaffinity(0)))


def test_a_plan_is_made_for_each_commit_and_kept(tmp_path):
    """An earlier commit may have other rows. A plan of ./scripts/bench is for one commit and stays as it is."""
    write_selection(tmp_path, "Forward.track_time.*numpy.out', 1024")
    first, second = (selection.plan_folder(tmp_path, commit * 40) for commit in "ab")
    assert first != second
    assert plan.planned(first) == plan.planned(second) == planned("Forward.track_time.*numpy.out', 1024")
    write_selection(tmp_path, "nothing")
    assert selection.plan_folder(tmp_path, "a" * 40) == first
    assert plan.planned(first)
    plan.write_plan(tmp_path, [LoopCase("time", "copy.all", 2**22)])
    assert selection.plan_folder(tmp_path, "a" * 40) == tmp_path


def write_selection(folder: Path, *patterns: str, profile: str = "core") -> None:
    (folder / selection.SELECTION).write_text(json.dumps({"profile": profile, "patterns": patterns}))


def test_planned_cases_are_found_in_the_plan(tmp_path):
    everything = cases(PROFILES["core"], gpu=True, cores=2)
    plan.write_plan(tmp_path, everything[::2])
    assert [case for case in everything if selection.is_planned(case, tmp_path)] == everything[::2]


def asv_process(folder: Path, arguments: str, code: str = "", **variables: str) -> subprocess.CompletedProcess:
    """Run code in a process in which asv has loaded the plugin, with runs below a folder.

    It prints the folder of the run, its selection, and the settings.
    """
    script = f"""
import json, os, signal, sys
from pathlib import Path
sys.argv = ["asv", *{arguments.split()!r}]
from asv.console import log
from scripts.setup import asv_plugin
log.enable()
asv_plugin.UNFINISHED = Path({str(folder)!r})
asv_plugin.setup()
run = os.environ.get("RELU_BENCH_PLAN")
selection = json.loads(Path(run, "selection.json").read_text()) if run else None
settings = [os.environ.get(f"RELU_BENCH_{{name}}") for name in ("BUDGET_S", "PASSES")]
print("\\n" + json.dumps([run, selection, settings]), flush=True)
{code}
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RELU_BENCH_")}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, env={**clean, **variables}, capture_output=True, text=True)


def printed(process: subprocess.CompletedProcess) -> tuple[str, dict[str, Any], list[str]]:
    return json.loads(process.stdout.splitlines()[-1])


def settings_of(profile: str) -> list[str]:
    return list(PROFILES[profile].environment().values())


@pytest.mark.parametrize(
    ("arguments", "variables", "profile", "patterns", "settings"),
    [
        ("run", {}, "core", [], {}),
        ("-v run HEAD^! --bench Forward -b cnn", {}, "core", ["Forward", "cnn"], {}),
        ("continuous main HEAD", {"RELU_BENCH_PROFILE": "smoke"}, "smoke", [], {}),
        ("run --quick", {"RELU_BENCH_PROFILE": "full"}, "full", [], {"budget_s": 0.01, "passes": 1}),
        ("run", {"RELU_BENCH_BUDGET_S": "7"}, "core", [], {"budget_s": 7}),
        ("run --quick", {"RELU_BENCH_PASSES": "9"}, "core", [], {"budget_s": 0.01, "passes": 9}),
    ],
)
def test_a_run_of_plain_asv_selects_a_profile(arguments, variables, profile, patterns, settings, tmp_path):
    process = asv_process(tmp_path, arguments, **variables)
    run, selected, (budget_s, passes) = printed(process)
    assert Path(run).parent == tmp_path
    assert selected == {"profile": profile, "patterns": patterns}
    expected = replace(PROFILES[profile], **settings)
    assert (float(budget_s), int(passes)) == (expected.budget_s, expected.passes)
    # asv has ended and saved its results.
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", ["check", "machine --yes", "publish"])
def test_commands_that_measure_nothing_have_no_plan(arguments, tmp_path):
    assert printed(asv_process(tmp_path, arguments)) == [None, None, [None, None]]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_the_environment_is_left_alone(tmp_path):
    write_selection(tmp_path)
    run, _, settings = printed(asv_process(tmp_path / "unused", "run", RELU_BENCH_PLAN=str(tmp_path)))
    assert (run, settings) == (str(tmp_path), [None, None])
    assert (tmp_path / selection.SELECTION).exists()


INTERRUPTED = """
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    # As asv ends when it is interrupted.
    sys.exit(1)
"""


@pytest.mark.parametrize("ending", [INTERRUPTED, "os.kill(os.getpid(), signal.SIGKILL)"], ids=["interrupted", "killed"])
def test_a_run_that_did_not_end_by_itself_is_continued(ending, tmp_path):
    process = asv_process(tmp_path, "run --bench Forward", ending)
    assert process.returncode != 0
    run, _, _ = printed(process)
    assert list(tmp_path.iterdir()) == [Path(run)]
    for other in ("run --bench Backward", "run --bench Forward --quick", "run --bench Forward --python=same"):
        assert printed(asv_process(tmp_path, other))[0] != run
    continued = asv_process(tmp_path, "run --bench Forward")
    assert printed(continued)[0] == run
    assert f"remove {run} to measure everything again" in continued.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_profile_is_explained():
    environment = {**os.environ, "RELU_BENCH_PROFILE": "medium"}
    process = subprocess.run(
        [sys.executable, "-m", "asv", "run", "HEAD^!"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 1
    message = " ".join((process.stdout + process.stderr).split())
    assert "RELU_BENCH_PROFILE: 'medium' given, one of smoke, core, full needed" in message
    assert "Traceback" not in message


def test_the_plugin_needs_nothing_but_asv():
    code = "import sys; sys.modules.update(dict.fromkeys(['numpy', 'msgspec', 'tqdm', 'pandas', 'numba'])); "
    process = subprocess.run(
        [sys.executable, "-c", f"{code} import scripts.setup.asv_plugin"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


def test_versions_are_pinned_once_and_tests_use_them():
    assert set(pins.frameworks()) >= {"numpy", "numba", "torch", "jax", "scipy", "threadpoolctl"}
    assert f"torch=={pins.frameworks()['torch']}" in environment.requirements("test")
    assert not any(line.startswith("torch") for line in environment.requirements("report"))


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_asv_makes_environments_with_the_python_that_runs_it(minor, monkeypatch):
    monkeypatch.setattr("asv.config.sys", SimpleNamespace(version_info=(3, minor, 1)))
    assert Config.load(str(ROOT / "asv.conf.json")).pythons == [f"3.{minor}"]


def test_an_old_python_is_refused_with_the_cure(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed, .*: run this in a virtual environment"):
        environment.main()


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
            10, 2, 0.5, 1e-7, [Slice(0, [1e-3, 2e-3], 0.1, False, 1e-5, 1, 1, ["power cap"], 3e-3, 2e-3)],
            DeviceTiming(5e-4, [5e-4], [0], ["power cap"], {"clock_mhz": 1500}),
            StepTiming(1e-6, {"forward": [5e-4]}, [-0.5, 7.0]),
        ),
        Process(),
    ]  # fmt: skip
    ratios = {"fastest": Ratio(1.5, 1.4, 1.6, "numpy.out")}
    case = OperatorCase("time", "relu", "forward", "numpy.out", 1024, "float32")
    for measurement in (
        Measurement("ok", "", 1e-3, (1e-4, 2e-3), [1e-3], 10, processes, ratios, provenance={"cores": 2}),
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
    lines[0]["measurement"]["processes"][0]["slices"][0]["round"] = "0"
    assert not matches(lines[0], schema, schema["$defs"])


@pytest.mark.parametrize("script", ["bench", "compare"])
def test_scripts_print_their_usage(script):
    process = subprocess.run(
        [sys.executable, "-m", f"scripts.run.{script}", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0
    assert f"usage: ./scripts/{script}" in process.stdout


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_on_tests_needs_no_environment(tmp_path, option):
    """A Python that installs nothing stands before the real one."""
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    process = subprocess.run(
        [ROOT / "scripts" / "test", option],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("usage: ./scripts/test")


def test_bench_warns_of_uncommitted_changes_and_skips_measured_cases(tmp_path):
    """Run the real asv on one case in an existing environment."""
    checkout = Checkout(tmp_path)
    commit = checkout.git("rev-parse", "HEAD")
    folder = tmp_path.with_name("plan")
    measured_case = OperatorCase("time", "relu", "forward", "numpy.out", 2**15)
    plan.write_plan(folder, [measured_case])
    variables = {"RELU_BENCH_PLAN": str(folder), "RELU_BENCH_PASSES": "2"}
    checkout.measure(*asv_patterns([measured_case]), **variables)
    checkout.append("README.md", "changed\n")
    script = f"""
import os
import platform
import scripts.run.bench as bench
from benchmarks.harness.case import OperatorCase
from benchmarks.harness.machine import provenance
here = provenance.expected_fingerprint(len(os.sched_getaffinity(0)))
assert not bench._done({commit!r}, platform.node(), "of another machine", {{}})
for passes in (1, 2, 3):
    print(bench._done({commit!r}, platform.node(), here, {{{measured_case!r}: passes}}) == {{{measured_case!r}}})
bench.warn_if_dirty()
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=checkout.folder, capture_output=True, text=True)
    assert process.stdout.splitlines() == ["True", "True", "False"], process.stderr
    assert "1 uncommitted changes" in process.stderr


def test_bench_plans_whatever_has_no_number(tmp_path):
    """Run bench with a program in place of asv, which keeps what it is given."""
    checkout, kept = Checkout(tmp_path / "checkout"), tmp_path / "kept.json"
    asv = f"""
import json, os, sys
from pathlib import Path
if "run" in sys.argv:
    names = ("RELU_BENCH_PROFILE", "RELU_BENCH_BUDGET_S", "RELU_BENCH_PASSES", "RELU_BENCH_PLAN")
    profile, budget_s, passes, run = (os.environ[name] for name in names)
    plan = json.loads(Path(run, "plan.json").read_text())
    Path({str(kept)!r}).write_text(json.dumps([profile, budget_s, passes, run, plan, sys.argv]))
"""
    script = f"import sys; from scripts.run import bench; bench.ASV = [sys.executable, '-c', {asv!r}]; bench.main()"
    command = [sys.executable, "-c", script, "--profile", "smoke"]
    process = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True)
    profile, budget_s, passes, run, written, arguments = json.loads(kept.read_text())
    selected = cases(PROFILES["smoke"], accelerator.has_gpu(), len(os.sched_getaffinity(0)))
    assert (profile, float(budget_s), int(passes)) == ("smoke", PROFILES["smoke"].budget_s, PROFILES["smoke"].passes)
    assert [from_axes(axes) for axes in written] == selected
    patterns = [arguments[position + 1] for position, word in enumerate(arguments) if word == "--bench"]
    everything = [*selected, *cases(PROFILES["full"], gpu=True, cores=2)]
    assert set(series.matching(everything, patterns)) == set(selected)
    # asv has saved what the folder held.
    assert not Path(run).exists(), process.stderr


def test_a_missing_case_is_measured_with_its_block():
    everything = cases(PROFILES["core"], gpu=False, cores=2)
    missing = OperatorCase("time", "relu", "forward", "numpy.out", 2**15)
    roof = LoopCase("time", "fill.all", 2**14)
    (block,) = [block for block in blocks.of(everything) if missing in block.rows]
    assert len(block.rows) > 2
    assert set(selection.with_blocks([missing, roof], everything)) == {*block.rows, roof}


def test_nightly_and_compare_without_arguments_print_their_usage():
    for script, word in (("nightly", "usage"), ("compare", "BASE is required")):
        process = subprocess.run([str(Path(ROOT, "scripts", script))], capture_output=True, text=True)
        assert process.returncode != 0
        assert word in process.stderr


def test_plain_asv_times_the_same_calls_twice():
    runs = repeatability.plain(r"\brelu forward numpy.out")
    assert sorted(runs.index) == ["'relu forward numpy.out', 1048576", "'relu forward numpy.out', 32768"]
    assert (runs[["first", "second"]] > 0).all(axis=None)
    assert (runs["percent"] >= 0).all()


def test_both_orders_of_measuring_give_a_time_of_each_row(capsys, monkeypatch):
    arguments = ["--runs", "2", "--variants", "numpy.out", "numba.out", "--elements", "1024"]
    monkeypatch.setattr(sys, "argv", ["interleaving", *arguments])
    monkeypatch.setattr(interleaving, "BUDGET_S", 0.02)
    assert interleaving.main() == 0
    lines = capsys.readouterr().out.splitlines()
    compared = {line.partition(" compared")[0].rpartition(" ")[0].strip(): line for line in lines}
    assert list(compared) == [f"{order}: {what}" for order in interleaving.ORDERS for what in ("times", "ratios")]
    # Two rows of one size, of which one has a ratio to the other.
    assert [int(line.partition(" compared")[0].rpartition(" ")[2]) for line in lines] == [2, 1, 2, 1]


def test_consecutive_runs_are_compared():
    runs = pd.DataFrame({"a": [1.0, 1.1, 1.1], "b": [2.0, 1.0, 1.5]})
    assert sorted(interleaving._apart(runs)) == pytest.approx([0.0, 10.0, 50.0, 50.0])


def test_a_window_has_the_median_of_the_best_samples(monkeypatch):
    samples = iter([[3.0, 1.0], [2.0, 2.0], [9.0, 5.0]])
    loop = SimpleNamespace(slice=lambda number: SimpleNamespace(samples_s=next(samples)))
    times_s = iter(range(5))
    monkeypatch.setattr(drift.time, "monotonic", lambda: next(times_s))
    # At 1, 2 and 3 s; the window, begun at 0 s, is over at 4 s.
    assert drift._window({"loop": loop}, 4) == {"loop": 2.0}
