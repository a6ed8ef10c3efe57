"""Test profiles of operators' calls: the spans of each framework, the roof, the command."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks import driver
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.truth import operators
from benchmarks.harness.truth.calls import Calls
from impls.catalog import VARIANTS
from impls.catalog import find as find_row
from impls.variant import ITEMSIZE_BYTES, OBJECTS_BYTES, SCRATCH_BYTES
from scripts.profiling import array_calls, calls, command, document, roofs, spans
from scripts.profiling.document import CallProfile, Roof

ELEMENTS, CALLS = 2**14, 3
# A round trip of each framework, and the operators that must be seen in its halves.
ROUNDTRIPS = {
    "relu.roundtrip.numpy.fresh": {("forward", "maximum"), ("backward", "greater"), ("backward", "multiply")},
    "relu.roundtrip.numba-threads.fresh": {("forward", "roundtrip_threads"), ("backward", "roundtrip_threads")},
    "relu.roundtrip.torch-autograd.fresh": {("forward", "relu"), ("backward", "ReluBackward0")},
    "relu.roundtrip.torch.inplace": {("forward", "relu_"), ("backward", "threshold_backward")},
    "relu.roundtrip.jax-vjp.fresh": {("forward", "broadcast maximum fusion"), ("backward", "broadcast select fusion")},
    "gelu.roundtrip.jax-vjp.fresh": set(),
}
OTHERS = (
    "relu.forward.numba.out",
    "relu.backward.torch.inplace",
    "relu.backward.jax.inplace",
    "prelu.backward.jax.fresh",
)


def recorded(name, count=CALLS):
    row = calls.find(name)
    made = Calls(row, calls.case_of(row, ELEMENTS, "float32"), driver(row.framework), row.load())
    arrays, pristine = made.make(), made.pristine()
    return calls.record(row, made.function, lambda: made.restored(arrays, pristine), count)


@pytest.mark.parametrize("name", [*ROUNDTRIPS, *OTHERS])
def test_operators_and_the_time_in_which_none_runs_are_the_call(name):
    found = recorded(name)
    assert len(found) == CALLS
    operator, direction, *_ = name.split(".")
    for call in found:
        phases = [phase for phase, _ in call.phases]
        assert phases == (["forward", "backward"] if direction == "roundtrip" else [direction])
        assert {span.phase for span in call.spans} == set(phases)
        assert {span.layer for span in call.spans} == {operator}
        moments = np.linspace(call.start_s, call.end_s, 100_000)
        idle = np.ones(len(moments), bool)
        for span in call.spans:
            assert call.start_s <= span.start_s <= span.end_s
            idle &= (moments < span.start_s) | (moments >= span.end_s)
        explained_s = sum(spans.attributed_s(call).values())
        assert explained_s > 0
        assert explained_s + idle.mean() * call.seconds == pytest.approx(call.seconds, rel=0.02)


@pytest.mark.parametrize("name", [name for name, seen in ROUNDTRIPS.items() if seen])
def test_operators_belong_to_their_half_of_a_round_trip(name):
    for call in recorded(name):
        assert ROUNDTRIPS[name] <= {(span.phase, span.operator) for span in call.spans}


NUMPY_ROWS = [row for row in VARIANTS if row.framework == "numpy" and row.direction != "roundtrip"]


@pytest.mark.parametrize("row", NUMPY_ROWS, ids=calls.name)
def test_a_call_with_arrays_that_report_computes_the_same(row):
    """Also for rows that write into their arguments."""
    made = Calls(row, calls.case_of(row, ELEMENTS, "float32"), driver("numpy"), row.load())
    reporting = array_calls.reporting(lambda name, function: function())
    results = [made.function(*arguments) for arguments in (made.make(), [each.view(reporting) for each in made.make()])]
    # Gradients of learnable parameters are a result besides.
    plain, seen = (result if isinstance(result, tuple) else (result,) for result in results)
    for one, other in zip(plain, seen, strict=True):
        np.testing.assert_array_equal(one, np.asarray(other))


def test_numpy_functions_operators_and_methods_are_seen_once_each():
    names = []
    reporting = array_calls.reporting(lambda name, function: names.append(name) or function())
    x = np.arange(-4, 4.0).view(reporting)
    y = np.where(x > 0, x, 0)
    y[2:].clip(0, 1, out=y[2:])
    y += x.sum()
    assert names == ["greater", "where", "clip", "add.reduce", "add"]


def test_a_planted_slow_function_is_the_first_of_the_list():
    def slow(x, out):
        for _ in range(50):
            np.exp(x, out=out)
        return np.maximum(x, 0, out=out)

    x, out = np.ones(ELEMENTS, np.float32), np.empty(ELEMENTS, np.float32)
    row = find_row("relu", "forward", "numpy.out")
    medians = spans.medians_s(calls.record(row, slow, lambda: [x, out], 20))
    assert max(medians, key=medians.__getitem__) == ("forward", "relu", "exp")


def test_the_roof_of_a_row_is_measured_with_it():
    roof = roofs.streaming(calls.find("relu.forward.numpy.out"), 2**16, "float32")
    assert roof.loops.startswith("copy")
    assert roof.call_ms > 0
    assert 0 < roof.low <= roof.percent <= roof.high


def test_a_row_on_a_gpu_and_parts_of_cache_lines_have_no_roof():
    assert roofs.streaming(calls.find("relu.forward.torch-cuda.out"), 2**16, "float32") is None
    assert roofs.streaming(calls.find("relu.forward.numpy.out"), 5000, "float32") is None


def test_a_row_without_a_time_has_no_roof(monkeypatch):
    monkeypatch.setattr(roofs.plan, "measured", lambda cases, *_, **__: {cases[0]: Measurement("wrong", "2 differ")})
    with pytest.raises(Unavailable, match="wrong: 2 differ"):
        roofs.streaming(calls.find("relu.forward.numpy.out"), 2**16, "float32")


def memory_of_a_call(name):
    row = calls.find(name)
    made = Calls(row, calls.case_of(row, ELEMENTS, "float32"), driver(row.framework), row.load())
    return calls.memory_recording(row, made.function, made.make)


@pytest.mark.parametrize(
    "name",
    [
        "relu.roundtrip.torch-autograd.fresh",
        "gelu.forward.torch.fresh",
        "relu.backward.numba.out",
        "relu.roundtrip.numpy.fresh",
        "relu.backward.numpy-where.fresh",
    ],
)
def test_the_highest_moment_of_a_call_is_what_its_row_declares(name):
    # tracemalloc counts allocations of every thread, of which this process may have many.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        recording = pool.submit(memory_of_a_call, name).result()
    row = calls.find(name)
    arguments_bytes = 4 * ELEMENTS * (operators.input_count(row) + (row.memory == "out"))
    transient_bytes, declared_bytes = recording.peak_bytes - arguments_bytes, row.transient.bytes(ELEMENTS, 4)
    tolerance_bytes = 0 if row.framework == "torch" else OBJECTS_BYTES
    scratch_bytes = SCRATCH_BYTES if row.transient.scratch else 0
    assert declared_bytes - tolerance_bytes <= transient_bytes <= declared_bytes + tolerance_bytes + scratch_bytes
    phases = ("forward", "backward") if row.direction == "roundtrip" else (row.direction,)
    assert {(place.phase, place.layer) for place in recording.places} == {(phase, row.operator) for phase in phases}


def profile(roof):
    return CallProfile(
        document.CALL_SCHEMA, 0.0, "a processor", "abcdef12", "relu", "forward", "numpy.out", "numpy", 1000, "float32",
        20, 2.0, 2.0, 0.0, [], 1000.0, 8000.0, roof, 0, 0,
    )  # fmt: skip


def test_a_percentage_that_cannot_be_right_is_not_shown():
    assert "reaches 50 % (45 to 55) of the speed of copy.all" in calls.text(profile(Roof("copy.all", 2.0, 50, 45, 55)))
    assert "%" not in calls.text(profile(Roof("copy.all", 2.0, 110, 106, 114))).partition("FLOP/byte")[2]
    assert "./scripts/gpu_check" in calls.text(profile(None))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_command_writes_a_table_and_a_trace_of_a_call(tmp_path, capfd, dtype):
    names = ["relu.roundtrip.numpy.fresh", "gelu.backward.torch.out"]
    arguments = [*names, "--elements", "5000", "--dtype", dtype, "--steps", "3", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    assert f"relu roundtrip numpy.fresh, 5,000 elements of {dtype}:" in capfd.readouterr().out
    folder = tmp_path / document.CALLS_FOLDER
    found, problems = document.of_folder(folder, CallProfile)
    assert not problems
    of_torch, of_numpy = found
    assert (of_torch.operator, of_torch.row) == ("gelu", "torch.out")
    array_bytes = 5000 * ITEMSIZE_BYTES[dtype]
    # x, y, and then grad, y and the gradient of x.
    assert (of_numpy.moved_bytes, of_numpy.flops) == (5 * array_bytes, 10_000)
    assert of_numpy.saved_bytes == array_bytes
    assert of_numpy.transient_bytes >= 2 * array_bytes
    assert {each.operator for each in of_numpy.operators} >= {"maximum", "greater", "multiply"}
    events = json.loads((folder / f"relu.roundtrip.numpy.fresh.5000.{dtype}.trace.json").read_text())["traceEvents"]
    assert {"call", "relu: maximum", "relu: multiply", "forward", "backward", "live bytes"} <= {
        event["name"] for event in events
    }
    assert not list(tmp_path.glob("**/.*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("relu", "ROW: 'relu' given; a direction needed, one of forward, backward, roundtrip"),
        ("relu.forward.numpy.faster", "no variant 'numpy.faster' of relu forward; there are: numpy.fresh,"),
        ("relu.forward.torch-cuda.out", "no CUDA device"),
        ("rely.forward.numpy.out", "of operators, such as relu.forward.numpy.out"),
    ],
)
def test_rows_of_operators_that_cannot_be_profiled_are_named(name, message, capsys):
    assert command.main([name]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["relu.forward.numpy.out", "--dtype", "bfloat16"], "numpy has no bfloat16 here"),
        (["relu.forward.numpy.out", "--elements", str(10**13)], "GB are free; not started"),
        (["prelu_channels.forward.numpy.out", "--elements", "3"], "--elements: 3 given; prelu_channels."),
    ],
)
def test_options_that_a_row_cannot_have_are_refused_before_measuring(arguments, message, capsys):
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["numpy.inplace", "--dtype", "float64"], "--dtype: float64 given, but no ROW is of an operator"),
        (["relu.forward.numpy.out", "--batch", "8"], "--batch: 8 given, but no ROW is of a training step"),
    ],
)
def test_options_of_the_other_kind_of_row_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
