"""Test the examples of the tutorials: each computed by the suite's implementations in every framework."""

import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch

from scripts.claims import command, document, examples, note_002, pictures
from scripts.claims.frameworks import FRAMEWORKS, relu, relu_backward, ulps
from scripts.report.sections import examples as section

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=FRAMEWORKS)


@each_framework
def test_relu_and_its_derivative(framework):
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert relu(framework, x).tolist() == [0, 0, 0, 1, 2]
    assert examples.derivative(framework, x).tolist() == [0, 0, 0, 1, 1]


@each_framework
def test_the_neuron_gives_1_69_and_the_1_49_of_the_note_with_another_bias(framework):
    output = examples.neuron_output(framework)
    assert output.dtype == np.float32
    assert ulps(output, np.array([1.69]), 1.69) <= examples.MOST_ULPS
    assert ulps(output, np.array([examples.NOTED]), 1.49) > 1e6
    with_minus = examples.neuron_output(framework, bias=-0.1)
    assert ulps(with_minus, np.array([examples.NOTED]), 1.49) <= examples.MOST_ULPS


def test_a_sum_below_0_gives_0():
    assert examples.neuron_output("numpy", bias=-2.0).tolist() == [0]


@each_framework
def test_the_dosage_network_is_effective_near_a_medium_dosage_only(framework):
    x = np.linspace(0, 1, 1001)
    found = examples.dosage_steps(framework, x)
    output = found[examples.OUT]
    expected = np.maximum(0, -40.8 * np.maximum(0, 1.7 * x - 0.85) + 2.7 * 12.6 * x - 16)
    assert output.dtype == np.float32
    # The largest number on the way is 40.8 * 0.85.
    assert ulps(output, expected, 40.8 * 0.85) <= examples.MOST_ULPS
    assert (found[examples.TOP][0], found[examples.SHIFTED][0]) == (np.float32(-0.85), -16)
    assert x[output.argmax()] == 0.5
    assert output.max() == pytest.approx(1.01, abs=1e-5)
    assert x[output > 0][[0, -1]] == pytest.approx([16 / 34.02, 0.5 + 1.01 / 35.34], abs=1e-3)


@each_framework
def test_the_tensor_behind_the_first_convolution(framework):
    x = examples.convolved()
    grad = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    y, by_input = relu(framework, x), relu_backward(framework, grad, x)
    assert y.shape == by_input.shape == (32, 26, 26)
    assert np.array_equal(y, np.maximum(0, x))
    assert np.array_equal(by_input, grad * (x > 0))
    assert 0.3 < (y == 0).mean() < 0.7


@pytest.mark.parametrize("dead", [(), (7,), (0, 3, 250)])
def test_the_function_of_the_note_finds_the_same_dead_neurons(monkeypatch, dead):
    monkeypatch.setattr(note_002, "DEAD_UNITS", dead)
    model = note_002.perceptron()
    batches = list(torch.from_numpy(np.random.default_rng(0).standard_normal((512, 784)).astype("float32")).split(100))
    with redirect_stdout(StringIO()) as printed:
        counted = note_002.detect_dead_neurons(model, batches)
    assert counted == (len(dead), 384)
    assert f"1: {len(dead)}/256 dead neurons" in printed.getvalue()
    assert note_002.health.dead_units(model, batches)["1"].dead == list(dead)


def test_the_network_of_the_note_and_of_the_suite_are_the_same():
    found = note_002.convnet(0)
    assert [part.text for part in found.parts if not part.holds] == []
    figures = {figure.name: figure.value for figure in found.figures}
    assert figures["parameters of ConvNetReLU"] - figures["parameters of convnet_relu"] == 64 + 128 + 256
    assert {f"suite in {name}: loss, difference from float64" for name in FRAMEWORKS} <= set(figures)


def test_another_parameter_gives_another_loss():
    network, batch = note_002.CONVNET, note_002.without_dropout(note_002.random_batch(note_002.CONVNET, 4))
    images = torch.from_numpy(batch.images.transpose(0, 3, 1, 2).astype("float32"))
    losses = []
    for shift in (0.0, 0.5):
        parameters = note_002.initial_parameters(network)
        parameters["norm3.shift"][...] = shift
        step = note_002.find_step("torch.fresh").load()(network, parameters, 4, "float32", "fresh")
        losses.append((note_002.loss_of(note_002.of_note(step), images, batch), float(step(step.put(batch)))))
    assert losses[0][0] == pytest.approx(losses[0][1], rel=1e-6)
    assert losses[1][0] == pytest.approx(losses[1][1], rel=1e-6)
    assert abs(losses[1][0] - losses[0][0]) > 1e-3


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the command writes, without ConvNetReLU, which other tests compute."""
    folder = tmp_path_factory.mktemp("examples")
    names = [each.name for each in examples.ALL if each.name != "convnet"]
    assert examples.main(["--only", *names, "--out", str(folder)]) == 0
    return folder


def test_the_command_writes_and_draws_the_examples(written):
    found = document.read(written / "examples.json")
    verdicts = {entry.name: entry.result.verdict for entry in found.entries}
    assert verdicts == {
        "function": "holds", "neuron": "holds in part", "dosage": "holds", "tensor": "holds", "dead-neurons": "holds"
    }  # fmt: skip
    assert {path.name for path in written.glob("*.svg")} == {f"examples.{name}.svg" for name in verdicts}
    steps = (written / "examples.dosage.svg").read_text()
    assert [name for name in examples.LINES if f">{name}<" not in steps] == []
    assert "12.6 and 0 are those of the video" in json.dumps(document.to_json(found).decode())


def test_the_section_shows_the_examples(written):
    html = str(section.of_document("examples", "Examples", document.read(written / "examples.json")).html)
    for shown in ("Note 003", "The note has an error", '<td class="n">1.69</td>', "Holds in part"):
        assert shown in html


def test_each_example_says_where_it_is_from():
    assert {example.origin.partition(",")[0] for example in examples.ALL} == {f"Note 00{number}" for number in range(4)}
    entry = command.measured(examples.ALL[0], 0)
    assert pictures.drawn(document.EXAMPLES, entry).name == "examples.function"
