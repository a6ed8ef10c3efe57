"""Test the section that compares the other activations with ReLU."""

import pytest

from benchmarks.harness.case import OperatorCase, StepCase
from benchmarks.harness.measurement import Ratio
from tests.report.pages import build
from tests.synthetic import content, record, write, write_records

SIZES = (2**15, 2**20)
VARIANTS = ("numpy.out", "numba-threads.out", "torch.out", "jax.fresh")
# Times of ReLU's rows.
RATIOS = {"gelu": 8.0, "sigmoid": 4.0, "tanh": 3.0}
# The same of training steps; 0 is ReLU's own.
STEP_RATIOS = {"relu": 0.0, "gelu": 2.0, "tanh": 1.25}
IMPOSSIBLE = OperatorCase("time", "tanh", "forward", "torch.out", 2**20)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of three activations beside ReLU; one time cannot be right."""
    folder = tmp_path_factory.mktemp("activations")
    numbers, lines = {}, []
    for name, ratio in RATIOS.items():
        for direction in ("forward", "backward"):
            for variant in VARIANTS:
                for elements in SIZES:
                    case = OperatorCase("time", name, direction, variant, elements)
                    numbers[case] = value = 1e-10 * ratio * elements
                    ratios = {"relu": Ratio(ratio, 0.9 * ratio, 1.1 * ratio, variant)}
                    if case == IMPOSSIBLE:
                        ratios["roof"] = Ratio(0.01, 0.005, 0.02, "copy.all")
                    lines.append(record(case, value=value, ratios=ratios))
    for activation, ratio in STEP_RATIOS.items():
        network = f"mnist_cnn_{activation}" if ratio else "mnist_cnn"
        for quantity, value in (("time", 0.01 * (ratio or 1)), ("saved_bytes", 100.0), ("peak_bytes", 1000.0)):
            case = StepCase(quantity, network, "numba.fresh", 64)
            numbers[case] = value
            ratios = {"relu": Ratio(ratio, 0.95 * ratio, 1.05 * ratio, "numba.fresh")} if ratio else {}
            lines.append(record(case, value=value, ratios=ratios if quantity == "time" else {}))
    write(folder / "results", content(numbers))
    write_records(folder / "outcomes", lines)
    return build(folder)


def test_the_page_answers_whether_relu_is_cheaper(page):
    html = (page / "index.html").read_text()
    answer = html.partition("Is ReLU cheaper than functions with exponentials?")[2].partition("</li>")[0][:900]
    assert "from 3 times (tanh, 2.7 … 3.3)" in answer
    assert "8 times</b> (gelu, 7.2 … 8.8) in numpy.out" in answer
    # The impossible time of tanh in PyTorch has no ratio: the next one is the lowest.
    assert "from 4 times (sigmoid, 3.6 … 4.4)" in answer


def test_figures_show_ratios_and_errors_of_each_framework(page):
    for name in ("activations.forward", "activations.backward", "activations.accuracy"):
        text = (page / f"{name}.svg").read_text()
        assert all(f">{variant}<" in text for variant in VARIANTS), name
        assert text.count(">gelu<") == len(VARIANTS)
    assert (page / "activations.forward.svg").read_text().count(">tanh<") == len(VARIANTS)


def test_the_table_gives_errors_times_and_ratios(page):
    html = (page / "index.html").read_text()
    table = html.partition('id="activations-table"')[2].partition("</table>")[0]
    assert table.count("<tr") == 1 + 2 * len(RATIOS) * len(VARIANTS)
    row = table.partition("<td>gelu forward</td><td>torch.out</td>")[2].partition("</tr>")[0]
    assert row.count('<td class="n">0.8</td>') == len(SIZES)
    # Errors of PyTorch's gelu count in ulps of the argument.
    assert row.startswith('<td class="n">10*</td>')


def test_the_page_says_which_activations_can_work_in_place(page):
    text = (page / "index.html").read_text().partition("can work in place if")[2].partition("</p>")[0]
    yes, no = text.split(": yes.")
    assert "sigmoid" in yes
    assert "gelu" in no


def test_training_steps_are_compared_with_relu(page):
    html = (page / "index.html").read_text()
    assert "a training step of mnist_cnn takes <b>2 times</b> (gelu, 1.9 … 2.1) in numba.fresh" in html
    table = html.partition('id="activations-steps"')[2].partition("</table>")[0]
    rows = [row.partition("</tr>")[0] for row in table.split("<tr")[2:]]
    assert [next(name for name in STEP_RATIOS if f"<td>{name}</td>" in row) for row in rows] == ["relu", "gelu", "tanh"]
    assert "1.25 (1.19 … 1.31)" in rows[2]
    assert all('<td class="n">1,000</td>' in row for row in rows)
    assert ">gelu<" in (page / "activations.training.svg").read_text()
    # The section on steps shows ReLU's networks.
    assert "mnist_cnn_gelu" not in html.partition('id="step-table"')[2].partition("</table>")[0]
