"""Real asv runs: wrong rows get no number and a reason, broken ones stop nobody, and the road ends in a report."""

import json
import re

import pytest

from tests.checkout import Checkout

# Each is wrong in one way; the reason must say which.
BAD_ROWS = {
    "gradient_one_at_zero": ("relu.backward", "wrong", "are wrong"),
    "drops_nan": ("relu.forward", "wrong", "nan needed"),
    "last_element_not_written": ("relu.forward", "wrong", "1 of"),
    "returns_before_the_work": ("relu.forward", "wrong", "(still changed|are wrong)"),
    "changes_its_input": ("relu.forward", "wrong", "argument number 1 was changed"),
    "wrong_after_a_while": ("relu.forward", "wrong", "are wrong"),
    "left_out_where_it_is_done": ("relu.forward", "wrong", "are wrong"),
    "remembered_by_identity": ("relu.forward", "wrong", "are wrong"),
    "one_buffer_for_all_results": ("relu.forward", "wrong", "overwritten by the next call"),
    "another_dtype": ("relu.forward", "wrong", "dtype float16, float32 needed"),
    "half_the_mantissa": ("relu.forward", "wrong", "are wrong"),
    "flushes_small_numbers": ("relu.forward", "wrong", "are wrong"),
    "raises": ("relu.forward", "error", "ZeroDivisionError"),
    "dies": ("relu.forward", "crashed", "SIGSEGV"),
    "exits": ("relu.forward", "crashed", "code 3"),
    "hangs": ("relu.forward", "timeout", "still running after 4 s"),
    "needs_what_is_not_installed": ("relu.forward", "skipped", "not installed: a_package_that_is_nowhere"),
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
def returns_before_the_work(x, out):
    def work():
        time.sleep(0.005)
        np.maximum(x, 0, out=out)
    threading.Thread(target=work).start()
    return out
def changes_its_input(x, out):
    np.maximum(x, 0, out=out)
    x[:] = out
    return out
def wrong_after_a_while(x, out):
    global calls
    calls += 1
    return np.maximum(x, 0 if calls < 10 else 1, out=out)
def left_out_where_it_is_done(x, out):
    return np.maximum(x, 0, out=out) if out[0] == -7 else out
memory = {}
def remembered_by_identity(x):
    if id(x) not in memory:
        memory[id(x)] = x, np.maximum(x, 0)
    return memory[id(x)][1].copy()
def one_buffer_for_all_results(x):
    return np.maximum(x, 0, out=memory.setdefault(x.shape, np.empty_like(x)))
def another_dtype(x): return np.maximum(x, 0).astype(np.float16)
def half_the_mantissa(x, out):
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
def needs_what_is_not_installed(x, out): import a_package_that_is_nowhere
"""


FRESH = ("gradient_one_at_zero", "remembered_by_identity", "one_buffer_for_all_results", "another_dtype")


def mode(name):
    return "fresh" if name in FRESH else "out"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    checkout = Checkout(tmp_path_factory.mktemp("suite"))
    checkout.append("impls/relu/bad.py", BAD_FUNCTIONS)
    rows = [
        f'Variant("{name}.{mode(name)}", "{op}", "numpy", "impls.relu.bad:{name}", "{mode(name)}", FORWARD, "false", '
        f'saves={"output" if op == "relu.backward" else "none"!r}, dtypes=("float32",)),'
        for name, (op, _, _) in BAD_ROWS.items()
    ]
    checkout.append("impls/catalog.py", "\nVARIANTS += (\n    " + "\n    ".join(rows) + "\n)\n")
    checkout.commit("rows that are wrong")
    names = "|".join([*BAD_ROWS, "numpy", "torch-cuda", "numba-threads"])
    pattern = rf"(Forward|Backward)\.track_time\('({names})\.(out|fresh)', 32768, 'float32'\)"
    checkout.run = checkout.measure(pattern, RELU_BENCH_LIMIT_S="4")
    assert checkout.report().returncode == 0
    return checkout


def value(checkout, op, variant):
    """What asv stored for a case: a number, None for a failure, NaN for a skip."""
    (path,) = [p for p in (checkout.folder / ".asv/results").glob("*/*.json") if p.name != "machine.json"]
    content = json.loads(path.read_text())
    row = dict(zip(content["result_columns"], content["results"][f"relu.{op}.track_time"], strict=False))
    variants, elements, dtypes = row["params"]
    index = (variants.index(repr(variant)) * len(elements) + elements.index("32768")) * len(dtypes) + dtypes.index(
        "'float32'"
    )
    return row["result"][index]


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_gets_no_number_and_a_reason(checkout, name):
    op, status, reason = BAD_ROWS[name]
    variant = f"{name}.{mode(name)}"
    (outcome,) = [o for o in checkout.outcomes() if o["variant"] == variant]
    assert outcome["status"] == status
    assert re.search(reason, outcome["reason"])
    stored = value(checkout, op.removeprefix("relu.").capitalize(), variant)
    assert stored != stored if status == "skipped" else stored is None
    assert outcome["reason"] in checkout.folder.joinpath("reports/results.csv").read_text() or status == "skipped"


def test_bad_rows_stop_no_others(checkout):
    assert checkout.run.returncode == 2
    assert 0 < value(checkout, "Forward", "numpy.out") < 1
    assert 0 < value(checkout, "Forward", "numba-threads.out") < 1
    assert 0 < value(checkout, "Backward", "numpy.fresh") < 1


def test_what_cannot_run_here_says_why(checkout):
    (outcome,) = [o for o in checkout.outcomes() if o["op"] == "relu.forward" and o["variant"] == "torch-cuda.fresh"]
    if outcome["status"] == "ok":
        pytest.skip("this machine has a CUDA device")
    assert outcome["status"] == "skipped"
    assert "no CUDA device" in outcome["reason"]
    stored = value(checkout, "Forward", "torch-cuda.fresh")
    assert stored != stored


def test_samples_reach_asv_as_a_timing(checkout):
    """asv must go on treating samples that a track benchmark returns as a timing: median, interval, quartiles."""
    (path,) = [p for p in (checkout.folder / ".asv/results").glob("*/*.json") if p.name != "machine.json"]
    content = json.loads(path.read_text())
    row = dict(zip(content["result_columns"], content["results"]["relu.Forward.track_time"], strict=False))
    taken = [i for i, samples in enumerate(row["samples"]) if samples]
    assert taken
    for i in taken:
        ordered = sorted(row["samples"][i])
        assert ordered[0] <= row["stats_q_25"][i] * 1.0001
        assert ordered[0] <= row["result"][i] <= ordered[-1]
        assert row["stats_number"][i] >= 1
    benchmarks = json.loads((path.parents[1] / "benchmarks.json").read_text())
    assert benchmarks["relu.Forward.track_time"]["unit"] == "seconds"


def test_asv_check_and_publish_work(checkout):
    checked = checkout.asv("check", "--python=same")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    published = checkout.asv("publish")
    assert published.returncode == 0, published.stdout + published.stderr
    assert (checkout.folder / ".asv/html/graphs").is_dir()
