"""Test real asv runs: wrong rows get a reason and no number, broken rows stop no others, and a report is written."""

import json
import re
from dataclasses import dataclass
from math import isnan

import pytest

from benchmarks.harness.case import OperatorCase
from benchmarks.harness.measurement import LEAST_CPU_SHARE
from benchmarks.harness.processes import plan
from benchmarks.harness.series import asv_patterns
from tests.checkout import Checkout, was_contended
from tests.conftest import needs_two_cores


@dataclass(frozen=True)
class Bad:
    """A faulty row. status and reason are the expected ones; reason is a regular expression."""

    status: str
    reason: str
    direction: str = "forward"
    memory: str = "out"
    framework: str = "numpy"
    quantity: str = "time"
    more: str = ""

    def case(self, name):
        return OperatorCase(self.quantity, "relu", self.direction, f"{name}.{self.memory}", 2**15)


BAD_ROWS = {
    "gradient_one_at_zero": Bad(
        "wrong", "are wrong", direction="backward", memory="fresh", more='saved_for_backward="output"'
    ),
    "drops_nan": Bad("wrong", "nan needed"),
    "identity": Bad("wrong", "are wrong", memory="fresh"),
    "skips_odd_elements": Bad("wrong", "-7.0, .* needed"),
    "last_element_not_written": Bad("wrong", "1 of"),
    "returns_before_computing": Bad("wrong", "(still changed|are wrong)"),
    "changes_its_input": Bad("wrong", "argument number 1 was changed"),
    "wrong_after_ten_calls": Bad("wrong", "are wrong"),
    "computes_once_per_output": Bad("wrong", "-7.0, .* needed"),
    "skips_written_outputs": Bad("wrong", "are wrong"),
    "caches_by_identity": Bad("wrong", "are wrong", memory="fresh"),
    "reuses_one_result": Bad("wrong", "overwritten by the next call", memory="fresh"),
    "returns_another_dtype": Bad("wrong", "dtype float16, float32 needed", memory="fresh"),
    "computes_in_float16": Bad("wrong", "are wrong"),
    "clears_mantissa_bits": Bad("wrong", "are wrong"),
    "wrong_on_large_arrays": Bad("wrong", "nan needed"),
    "leaves_a_part_to_a_thread": Bad("wrong", "(still changed|are wrong)"),
    "checks_sixteen_elements": Bad("wrong", "are wrong"),
    "ring_of_two": Bad("wrong", "overwritten by the next call", memory="fresh"),
    "flushes_small_numbers": Bad("wrong", "are wrong"),
    # On a busy machine its times may also vary too much, which takes precedence.
    "sleeps": Bad("unstable", "asleep: the process used .* of a core|lie (further apart than|between)"),
    "sets_one_thread": Bad("error", r"ThreadMismatch: threads: \d+ asked, numba uses 1", framework="numba"),
    "understates_its_bytes": Bad("wrong", "0 declared, 131072 measured", quantity="transient_bytes"),
    "overstates_its_bytes": Bad(
        "wrong",
        "262144 declared, 131072 measured",
        memory="fresh",
        quantity="transient_bytes",
        more="temporary=Size(arrays=1)",
    ),
    "raises": Bad("error", "ZeroDivisionError"),
    "dies": Bad("crashed", "SIGSEGV"),
    "exits": Bad("crashed", "code 3"),
    "hangs": Bad("timeout", "still running after 3 s"),
    "takes_all_memory": Bad("memory", "MemoryError"),
    "imports_a_missing_package": Bad("skipped", "not installed: a_package_that_is_nowhere"),
}
GOOD = {
    name: OperatorCase("time", "relu", direction, variant, 2**15)
    for name, direction, variant in (
        ("numpy", "forward", "numpy.out"),
        ("backward", "backward", "numpy.fresh"),
        ("numba", "forward", "numba-threads.out"),
        ("cuda", "forward", "torch-cuda.fresh"),
    )
}
BAD_FUNCTIONS = """
import os, signal, sys, threading, time
import numpy as np

calls = 0

def gradient_one_at_zero(grad, saved): return np.where(saved >= 0, grad, 0)
def drops_nan(x, out): return np.fmax(x, 0, out=out)
def last_element_not_written(x, out):
    np.maximum(x[:-1], 0, out=out[:-1])
    return out
def returns_before_computing(x, out):
    def work():
        time.sleep(0.1)
        np.maximum(x, 0, out=out)
    threading.Thread(target=work).start()
    return out
def changes_its_input(x, out):
    np.maximum(x, 0, out=out)
    x[:] = out
    return out
def wrong_after_ten_calls(x, out):
    global calls
    calls += 1
    return np.maximum(x, 0 if calls < 10 else 1, out=out)
def skips_written_outputs(x, out):
    return np.maximum(x, 0, out=out) if out[0] == -7 else out
memory = {}
def caches_by_identity(x):
    if id(x) not in memory:
        memory[id(x)] = x, np.maximum(x, 0)
    return memory[id(x)][1].copy()
def reuses_one_result(x):
    return np.maximum(x, 0, out=memory.setdefault(x.shape, np.empty_like(x)))
def returns_another_dtype(x): return np.maximum(x, 0).astype(np.float16)
def identity(x): return x
def skips_odd_elements(x, out):
    np.maximum(x[::2], 0, out=out[::2])
    return out
def computes_once_per_output(x, out):
    if out.ctypes.data not in memory:
        memory[out.ctypes.data] = out, np.maximum(x, 0, out=out)
    return out
def wrong_on_large_arrays(x, out): return (np.fmax if x.size > 4096 else np.maximum)(x, 0, out=out)
def leaves_a_part_to_a_thread(x, out):
    part = slice(2 * x.size // 3, x.size - 64)
    late = threading.Thread(target=lambda: (time.sleep(0.1), np.maximum(x[part], 0, out=out[part])))
    np.maximum(x[: part.start], 0, out=out[: part.start])
    np.maximum(x[part.stop :], 0, out=out[part.stop :])
    late.start()
    return out
def checks_sixteen_elements(x, out):
    some = slice(None, None, x.size // 16)
    return out if np.array_equal(out[some], np.maximum(x[some], 0)) else np.maximum(x, 0, out=out)
rings = {}
def ring_of_two(x):
    ring = rings.setdefault(x.shape, [])
    ring.append(ring.pop(0) if len(ring) > 1 else np.empty_like(x))
    return np.maximum(x, 0, out=ring[-1])
def computes_in_float16(x, out):
    out[:] = np.maximum(x.astype(np.float16), 0)
    return out
def sleeps(x, out):
    time.sleep(0.01)
    return np.maximum(x, 0, out=out)
def sets_one_thread(x, out):
    import numba
    numba.set_num_threads(1)
    return np.maximum(x, 0, out=out)
def understates_its_bytes(x, out):
    out[:] = np.maximum(x, 0)
    return out
def overstates_its_bytes(x): return np.maximum(x, 0)
def takes_all_memory(x, out): return np.empty(2**50)
def clears_mantissa_bits(x, out):
    np.maximum(x, 0, out=out)
    out.view(np.uint32)[:] &= np.uint32(0xFFFFE000)
    return out
def flushes_small_numbers(x, out):
    np.maximum(x, 0, out=out)
    out[out < 1e-8] = 0
    return out
def raises(x, out): return 1 / 0
def dies(x, out): os.kill(os.getpid(), signal.SIGSEGV)
def exits(x, out): os._exit(3)
def hangs(x, out): time.sleep(3600)
def imports_a_missing_package(x, out): import a_package_that_is_nowhere
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    checkout = Checkout(tmp_path_factory.mktemp("suite"))
    checkout.append("impls/relu/bad.py", BAD_FUNCTIONS)
    rows = [
        f'Variant("{name}", "{bad.memory}", "{bad.framework}", "impls.relu.bad:{name}", "false", '
        f'operator="relu", direction="{bad.direction}", '
        f'dtypes=("float32",), {bad.more}),'
        for name, bad in BAD_ROWS.items()
    ]
    checkout.append(
        "impls/catalog.py", "\nfrom impls.variant import Size\n\nVARIANTS += (\n    " + "\n    ".join(rows) + "\n)\n"
    )
    checkout.commit("rows that are wrong")
    cases = {name: bad.case(name) for name, bad in BAD_ROWS.items()}
    # A busy machine may reach the short time limit; only the row that hangs has it.
    checkout.hung = measure(checkout, [cases.pop("hangs")], RELU_BENCH_LIMIT_S="3")
    checkout.run = measure(checkout, [*cases.values(), *GOOD.values()])
    assert checkout.report().returncode == 0
    return checkout


def measure(checkout, cases, **variables):
    """Measure some cases together, as ./scripts/bench does."""
    folder = checkout.folder.with_name(f"plan-{len(cases)}")
    plan.write_plan(folder, cases)
    return checkout.measure(*asv_patterns(cases), RELU_BENCH_PLAN=str(folder), **variables)


def value(checkout, quantity, direction, variant, dtype="float32"):
    """Return the value that asv stored for a case: a number, None for a failure, NaN for a skip."""
    (path,) = [p for p in (checkout.folder / ".asv/results").glob("*/*.json") if p.name != "machine.json"]
    content = json.loads(path.read_text())
    name = f"relu.{direction.capitalize()}.track_{quantity}"
    row = dict(zip(content["result_columns"], content["results"][name], strict=False))
    variants, elements, dtypes = row["params"]
    position = variants.index(repr(variant)) * len(elements) + elements.index("32768")
    return row["result"][position * len(dtypes) + dtypes.index(repr(dtype))]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[needs_two_cores] if name == "sets_one_thread" else []) for name in BAD_ROWS],
)
def test_faulty_row_has_its_status_and_reason(checkout, name):
    bad = BAD_ROWS[name]
    variant = f"{name}.{bad.memory}"
    (record,) = [
        candidate
        for candidate in checkout.records()
        if (candidate.case["variant"], candidate.case["quantity"]) == (variant, bad.quantity)
    ]
    assert record.measurement.status == bad.status
    assert re.search(bad.reason, record.measurement.reason)
    stored = value(checkout, bad.quantity, bad.direction, variant)
    if bad.status == "unstable":
        assert stored > 0
        slices = [taken for process in record.measurement.processes for taken in process.slices]
        assert sum(taken.cpu_s for taken in slices) < LEAST_CPU_SHARE * sum(taken.busy_s for taken in slices)
    else:
        # asv: NaN is n/a, null a failure.
        assert stored != stored if bad.status == "skipped" else stored is None
    assert (
        record.measurement.reason in checkout.folder.joinpath("reports/results.csv").read_text()
        or bad.status == "skipped"
    )


def test_faulty_rows_do_not_stop_others(checkout):
    assert checkout.run.returncode == 2
    assert value(checkout, "time", "forward", "numpy.out") > 0
    assert value(checkout, "time", "forward", "numba-threads.out") > 0
    assert value(checkout, "time", "backward", "numpy.fresh") > 0


def test_cuda_row_is_skipped_with_a_reason(checkout):
    (record,) = [
        candidate
        for candidate in checkout.records()
        if (candidate.case["quantity"], candidate.case["direction"], candidate.case["variant"])
        == ("time", "forward", "torch-cuda.fresh")
    ]
    if record.measurement.status == "ok":
        pytest.skip("this machine has a CUDA device")
    assert record.measurement.status == "skipped"
    assert "no CUDA device" in record.measurement.reason
    stored = value(checkout, "time", "forward", "torch-cuda.fresh")
    assert stored != stored


def test_asv_computes_statistics_of_the_samples(checkout):
    """asv treats the samples that a track benchmark returns as a timing: median, interval, quartiles."""
    (path,) = [p for p in (checkout.folder / ".asv/results").glob("*/*.json") if p.name != "machine.json"]
    content = json.loads(path.read_text())
    row = dict(zip(content["result_columns"], content["results"]["relu.Forward.track_time"], strict=False))
    sampled = [i for i, samples in enumerate(row["samples"]) if samples]
    assert sampled
    for i in sampled:
        ordered = sorted(row["samples"][i])
        assert ordered[0] <= row["stats_q_25"][i] * 1.0001
        assert ordered[0] <= row["result"][i] <= ordered[-1]
        assert row["stats_number"][i] >= 1
    benchmarks = json.loads((path.parents[1] / "benchmarks.json").read_text())
    assert benchmarks["relu.Forward.track_time"]["unit"] == "seconds"
    # Those of bytes and of times differ in one class.
    names = ("relu.Forward.track_time", "relu.Forward.track_transient_bytes", "roofs.Roof.track_time")
    assert [benchmarks[name]["version"] for name in names] == ["2", "1", "3"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A checkout with NumPy's rows alone, whose measuring processes leave a file."""
    checkout = Checkout(tmp_path_factory.mktemp("plain"))
    checkout.append("impls/catalog.py", "\nVARIANTS = tuple(row for row in VARIANTS if row.framework == 'numpy')\n")
    worker = checkout.folder / "benchmarks/harness/processes/worker.py"
    checkout.started = checkout.folder.with_name("started")
    # In its main function, because asv imports every module of the benchmarks.
    head = "def main(request_path: str) -> None:\n"
    assert head in worker.read_text()
    worker.write_text(worker.read_text().replace(head, f"{head}    Path({str(checkout.started)!r}).touch()\n"))
    checkout.commit("rows of NumPy")
    return checkout


def test_plain_asv_measures_the_selected_cases_of_a_profile(plain):
    """In the block of their rivals and roofs; asv stores n/a for other cases, which leave no record."""
    run = plain.measure(r"relu\.Forward\.track_time\('numpy.out', 32768, 'float(32|64)'\)")
    assert run.returncode == 0, run.stdout + run.stderr
    (record,) = plain.records()
    assert (record.case["variant"], record.case["dtype"]) == ("numpy.out", "float32")
    assert record.measurement.provenance["profile"] == "core"
    roofs = set() if was_contended(record.measurement) else {"roof", "bus"}
    assert {"fastest", "fresh"} | roofs <= record.measurement.ratios.keys()
    assert value(plain, "time", "forward", "numpy.out") > 0
    assert isnan(value(plain, "time", "forward", "numpy.out", "float64"))
    assert list((plain.folder / ".asv/unfinished").iterdir()) == []
    assert plain.started.exists()


def test_a_case_outside_the_profile_starts_no_process(plain):
    plain.started.unlink(missing_ok=True)
    before = plain.records()
    run = plain.measure("relu.Forward.track_time.*numpy.out', 1024", RELU_BENCH_PROFILE="smoke")
    assert run.returncode == 0, run.stdout + run.stderr
    assert plain.records() == before
    assert not plain.started.exists()


def test_asv_check_and_publish_succeed(checkout):
    checked = checkout.asv("check", "--python=same")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    published = checkout.asv("publish")
    assert published.returncode == 0, published.stdout + published.stderr
    assert (checkout.folder / ".asv/html/graphs").is_dir()
