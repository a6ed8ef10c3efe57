"""Test profiles of training steps: attribution of time, the spans of each framework, the trace, the command."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from impls.cnn import numpy_
from impls.cnn.architecture import NETWORKS
from impls.cnn.networks import initial_parameters, random_batch
from scripts.claims.document import write
from scripts.profiling import command, counters, document, handwritten, layers, spans, trace
from scripts.profiling import steps as profiled_steps
from scripts.profiling.document import Bandwidth, Counters, Held, Memory, Moment, Operator, Profile, Roofs
from scripts.profiling.spans import Recorded, Span
from tests.checkout import ROOT
from tests.conftest import needs_compiler
from tests.small import ACTIVATED, SMALL

STEPS = 4
ROOFS = Roofs(50.0, (Bandwidth("L2", 2**20, 100.0), Bandwidth("DRAM", 2**53, 10.0)))
MEMORY = Memory(7, 7, [Moment("forward", "conv1", 1, 2, 4, 0, 0)], [Held("saved", "forward conv1", 7)])
BUILDERS = {"numpy": "numpy_:build", "numba": "numba_cpu:build", "torch": "torch_:build", "jax": "jax_:build"}
frameworks = pytest.mark.parametrize("framework", BUILDERS)


def built(framework, network, n):
    module, function = BUILDERS[framework].split(":")
    relu = "fresh" if framework == "jax" or network.activation != "relu" else "inplace"
    step = getattr(import_module(f"impls.cnn.{module}"), function)(
        network, initial_parameters(network), n, "float32", relu
    )
    return step, step.put(random_batch(network, n))


def recorded(framework, network, n=4, count=STEPS):
    step, arrays = built(framework, network, n)
    step(arrays)
    return step, profiled_steps.record(framework, step, arrays, network, count)


@st.composite
def steps(draw):
    """Draw steps of nested spans on a few threads, within a second."""
    drawn = []
    for thread in range(draw(st.integers(1, 3))):
        places = [(0.0, 1.0)]
        for number in range(draw(st.integers(0, 5))):
            low, high = places[draw(st.integers(0, len(places) - 1))]
            inner = sorted(draw(st.floats(low, high)) for _ in range(2))
            if any(a < inner[1] and inner[0] < b and (a, b) != (low, high) and a >= low for a, b in places[1:]):
                continue
            places.append(tuple(inner))
            drawn.append(Span(f"{thread}-{number}", "forward", "conv1", *inner, thread))
    return Recorded(0.0, 1.0, tuple(drawn))


@given(steps())
def test_attributed_time_is_the_time_in_which_a_span_is_open(step):
    inside = np.zeros(10000, bool)
    centres = (np.arange(len(inside)) + 0.5) / len(inside)
    for span in step.spans:
        inside |= (span.start_s <= centres) & (centres < span.end_s)
    assert sum(spans.attributed_s(step).values()) == pytest.approx(inside.mean(), abs=len(step.spans) / len(inside))


def test_time_belongs_to_the_innermost_span_and_is_shared_by_threads():
    outer, inner = Span("outer", "forward", "conv1", 0, 10), Span("inner", "forward", "conv1", 2, 4)
    other = Span("other", "forward", "conv2", 8, 12, thread=1)
    found = spans.attributed_s(Recorded(0, 20, (outer, inner, other)))
    assert found == {outer.key: 2 + 4 + 1, inner.key: 2, other.key: 1 + 2}
    assert spans.unexplained_s([Recorded(0, 20, (outer, inner, other))]) == 8


@frameworks
@pytest.mark.parametrize("network", [*SMALL[:2], ACTIVATED[2]], ids=lambda network: network.name)
def test_operators_explain_the_layers_of_a_step(framework, network):
    _, steps = recorded(framework, network)
    assert len(steps) == STEPS
    for step in steps:
        found = spans.attributed_s(step)
        assert 0 < sum(found.values()) <= step.seconds * (1 + 1e-9)
        measured = {(phase, layer) for phase, layer, _ in found}
        # XLA may fuse a whole layer of these small networks into another one.
        missing = set(layers.places(network)) - measured
        assert not missing if framework != "jax" else len(missing) <= len(layers.places(network)) // 2


@frameworks
def test_operators_and_the_time_in_which_none_runs_are_the_step(framework):
    _, steps = recorded(framework, NETWORKS["mnist_cnn"], n=16)
    for step in steps:
        moments = np.linspace(step.start_s, step.end_s, 100_000)
        idle = np.ones(len(moments), bool)
        for span in step.spans:
            idle &= (moments < span.start_s) | (moments >= span.end_s)
        explained_s = sum(spans.attributed_s(step).values())
        assert explained_s + idle.mean() * step.seconds == pytest.approx(step.seconds, rel=0.02)
        assert spans.unexplained_s([step]) == pytest.approx(idle.mean() * step.seconds, abs=0.02 * step.seconds)


@pytest.mark.parametrize("framework", ["numpy", "numba"])
def test_a_recorded_step_is_left_as_it_was(framework):
    network = SMALL[1]
    step, arrays = built(framework, network, 4)
    step(arrays)
    members = set(vars(step))
    handwritten.record(step, arrays, network, 1, framework)
    assert set(vars(step)) == members
    other, same = built(framework, network, 4)
    for _ in range(2):
        other(same)
    for name, value in step.state().parameters.items():
        np.testing.assert_array_equal(value, other.state().parameters[name])


def test_hooks_of_a_torch_step_are_removed():
    step, _ = recorded("torch", SMALL[1], count=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in step.net.modules())


def test_a_planted_slow_layer_is_the_first_of_the_list(monkeypatch):
    """The work of conv2's backward pass, many times."""
    once = numpy_.Step._multiply_backward

    def often(self, conv, chunk, scratch, grads):
        kept = grads.copy()
        for _ in range(12 if conv.name == "conv2" else 1):
            grads[...] = kept
            once(self, conv, chunk, scratch, grads)

    monkeypatch.setattr(numpy_.Step, "_multiply_backward", often)
    network = NETWORKS["mnist_cnn"]
    _, steps = recorded("numpy", network, n=16)
    profile = profile_of(steps)
    (first, *_) = layers.most_to_gain(profile, network)
    assert (first.phase, first.layer) == ("backward", "conv2")


def profile_of(steps, **changes):
    operators = [Operator(*key, 1e3 * seconds) for key, seconds in spans.medians_s(steps).items()]
    seconds = float(np.median([step.seconds for step in steps]))
    whole = Profile(
        document.SCHEMA, 0.0, "a processor", "abcdef12", "mnist_cnn", "numpy.inplace", "numpy", 16, len(steps),
        1e3 * seconds, 1e3 * seconds, 1e3 * max(0.0, spans.unexplained_s(steps)), Counters(), ROOFS, operators, MEMORY,
    )  # fmt: skip
    return replace(whole, **changes) if changes else whole


@frameworks
def test_a_trace_has_the_form_that_viewers_read(framework):
    _, steps = recorded(framework, SMALL[1])
    loaded = json.loads(trace.dumped("a row", steps))
    events = loaded["traceEvents"]
    assert Counter(event["ph"] for event in events).keys() == {"M", "X"}
    complete = [event for event in events if event["ph"] == "X"]
    assert all({"name", "cat", "pid", "tid", "ts", "dur"} <= event.keys() for event in complete)
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in complete)
    whole = [event for event in complete if event["cat"] == "step"]
    assert len(whole) == STEPS
    for event in complete:
        assert any(step["ts"] - 1 <= event["ts"] <= step["ts"] + step["dur"] + 1 for step in whole), event
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert named == {event["tid"] for event in complete}


def test_flops_of_layers_add_up_to_those_of_the_step():
    from impls.cnn.networks import work

    for network in (*SMALL, *NETWORKS.values()):
        figures = work(network)
        assert sum(layers.flops(network, 3).values()) == 3 * (figures.forward_flops + figures.backward_flops)


def test_a_layer_is_held_against_the_roof_that_limits_it():
    """By hand: conv1 of a small network, forward, and the update."""
    network, batch = NETWORKS["mnist_cnn"], 2
    assert layers.flops(network, batch)["forward", "conv1"] == batch * 2 * 26 * 26 * 32 * 9
    elements = batch * (28 * 28 + 13 * 13 * 32) + 9 * 32 + 32
    assert layers.moved_bytes(network, batch)["forward", "conv1"] == 4 * elements
    assert layers.moved_bytes(network, batch)["update", "update"] == 4 * 5 * 34826
    operators = [Operator("forward", "conv1", "products", 1.0), Operator("update", "update", "SGD", 1.0)]
    profile = profile_of([Recorded(0.0, 1.0, ())], batch=batch, operators=operators)
    conv1, update = layers.of_profile(profile, network)
    assert (conv1.roof, update.roof) == ("products", "memory")
    assert conv1.least_ms == pytest.approx(1e3 * batch * 2 * 26 * 26 * 32 * 9 / 50e9)
    assert update.least_ms == pytest.approx(1e3 * 4 * 5 * 34826 / 100e9)


def busy_cpu(seconds):
    """Run until this thread has used this processor time."""
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def test_events_are_counted_in_all_threads():
    """By an event that Linux counts itself: nanoseconds that threads run."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy_cpu, 0).result()
        try:
            found = counters.counted(
                lambda: [pool.submit(busy_cpu, 0.05).result(), busy_cpu(0.05)], {"clock": (counters.SOFTWARE, 1)}
            )
        except OSError as error:
            pytest.skip(f"no perf events: {error}")
    assert found["clock"] >= 0.09e9


def test_an_event_that_linux_does_not_offer_is_an_error():
    with pytest.raises(OSError, match=r"Errno \d+"):
        counters.counted(lambda: None, {"unknown": (99, 99)})


def test_operators_of_activations_are_counted_alone_or_fused():
    operators = [
        Operator("forward", "conv1", "relu", 1.0, ("conv1.relu",)),
        Operator("backward", "conv1", "fusion", 2.0, ("conv1", "conv1.relu")),
        Operator("forward", "conv1", "products", 4.0, ("conv1",)),
    ]
    assert layers.activation_ms(profile_of([Recorded(0.0, 1.0, ())], operators=operators)) == (1.0, 2.0)


def test_the_command_writes_a_table_and_a_trace(tmp_path, capfd):
    arguments = ["numpy.inplace", "torch.inplace", "--batch", "4", "--steps", "3", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    printed = capfd.readouterr().out
    assert "mnist_cnn, batch 4, numpy.inplace:" in printed
    assert "Furthest from their roof:" in printed
    assert "Most bytes are alive in " in printed
    profiles, problems = document.of_folder(tmp_path, Profile)
    assert not problems
    assert {profile.row for profile in profiles} == {"numpy.inplace", "torch.inplace"}
    for profile in profiles:
        assert (tmp_path / document.trace_of(document.file(profile.network, profile.row))).exists()
        assert profile.steps == 3
        assert profile.unprofiled_ms > 0
        assert profile.memory.peak_bytes > 0
    assert not list(tmp_path.glob(".*"))


def test_rows_that_cannot_be_profiled_are_named(capsys):
    assert command.main(["numpy.inplace", "numpy.faster"]) == 2
    assert (
        "ROW: 'numpy.faster' given; of rows that can be profiled, mnist_cnn has numpy.fresh," in capsys.readouterr().err
    )


def test_a_network_with_another_activation_has_fewer_rows(capsys):
    assert command.main(["numpy.inplace", "--network", "mnist_cnn_gelu"]) == 2
    assert "mnist_cnn_gelu has numpy.fresh, numba.fresh, torch.fresh, jax-patches.fresh" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_refused_before_measuring(tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("")
    assert command.main(["numpy.inplace", "--out", str(taken)]) == 2
    assert f"--out: {taken} given, a folder to write to needed: " in capsys.readouterr().err


def test_an_interrupted_command_leaves_no_folder(tmp_path, monkeypatch):
    def interrupted(command, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.main(["numpy.inplace", "--out", str(tmp_path / "new" / "profiles")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "printed"), [([], "profile: interrupted\n"), (["--limits", "null"], "")], ids=str
)
def test_an_interruption_of_the_imports_is_one_line(tmp_path, arguments, printed):
    """Ctrl-C while a package is imported. The process of a row is silent, as that which started it prints the line."""
    # A shell has the commands that it runs in the background ignore the signal, and their children inherit that.
    heeding = "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (tmp_path / "msgspec.py").write_text(f"{heeding}os.kill(os.getpid(), signal.SIGINT)\n")
    process = subprocess.run(
        [sys.executable, "-m", "scripts.profiling", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (130, printed)


def test_a_row_that_fails_does_not_stop_the_others(tmp_path, capfd, monkeypatch):
    """Of two processes the first is killed."""
    run = subprocess.run

    def killed(command, **options):
        name = command[3]
        return run(["sh", "-c", "kill -9 $$"] if name == "numpy.fresh" else command, **options)

    monkeypatch.setattr(subprocess, "run", killed)
    arguments = ["numpy.fresh", "numpy.inplace", "--batch", "2", "--steps", "1", "--out", str(tmp_path)]
    assert command.main(arguments) == 1
    assert "profile: numpy.fresh: its process was ended by signal 9" in capfd.readouterr().err
    assert [profile.row for profile in document.of_folder(tmp_path, Profile)[0]] == ["numpy.inplace"]


def test_a_batch_that_no_file_can_hold_is_refused_before_measuring(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(["numpy.inplace", "--batch", "1000001", "--out", str(tmp_path)])
    assert exit_.value.code == 2
    assert "--batch: 1000001 given, at most 1,000,000 accepted" in capsys.readouterr().err


@needs_compiler
def test_phases_of_a_compiled_step_are_those_that_it_marks(tmp_path):
    assert command.main(["torch-compile.inplace", "--batch", "2", "--steps", "2", "--out", str(tmp_path)]) == 0
    ((profile,), _) = document.of_folder(tmp_path, Profile)
    phases = {each.operator: each.phase for each in profile.operators}
    assert phases["CompiledFunctionBackward"] == "backward"
    assert {name for name, phase in phases.items() if phase == "update"} == {"Optimizer.step#SGD.step"}


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'{"schema": 1}',
        b'{"schema": 2}',
        b'{"schema": 3}',
    ],
)
def test_a_broken_profile_is_named_and_the_rest_is_read(tmp_path, content):
    _, steps = recorded("numpy", NETWORKS["mnist_cnn"], count=1)
    write(tmp_path / document.file("mnist_cnn", "numpy.inplace"), profile_of(steps))
    (tmp_path / "broken.json").write_bytes(content)
    profiles, problems = document.of_folder(tmp_path, Profile)
    assert len(profiles) == 1
    assert len(problems) == 1
    assert "broken.json" in problems[0]
