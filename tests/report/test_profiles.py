"""Test the section that shows where the time of a step goes."""

import pytest

from benchmarks.harness.case import StepCase
from scripts.claims.document import write as write_document
from scripts.profiling import document
from scripts.profiling.document import Operator, Profile
from tests.report.pages import build
from tests.synthetic import content, record, write, write_records

OPERATORS = (
    Operator("forward", "conv1", "products", 2.0, ("conv1",)),
    Operator("forward", "conv2", "products", 1.0, ("conv2",)),
    Operator("backward", "conv2", "a <b>fused</b> operator", 6.0, ("conv2", "conv2.relu")),
    Operator("update", "update", "SGD", 0.5),
)


def profile(row, framework):
    return Profile(
        1, 0.0, "a processor", "abcdef12", "mnist_cnn", row, framework, 64, 30, 10.0, 9.8, 0.5, 500.0, list(OPERATORS)
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles")
    case = StepCase("time", "mnist_cnn", "numpy.inplace", 64)
    write(folder / "results", content({case: 0.01}))
    write_records(folder / "outcomes", [record(case, value=0.01)])
    out = build(folder)
    for row, framework in (("numpy.inplace", "numpy"), ("torch.inplace", "torch")):
        write_document(out / document.FOLDER / document.file("mnist_cnn", row), profile(row, framework))
    (out / document.FOLDER / "broken.json").write_text("{}")
    return build(folder)


def test_layers_of_all_frameworks_stand_side_by_side(page):
    figure = (page / "profile.mnist_cnn-64.svg").read_text()
    for text in ("forward conv1", "backward conv2", "update", "not explained", "numpy.inplace", "torch.inplace"):
        assert f">{text}<" in figure


def test_the_page_says_where_most_is_to_gain(page):
    html = (page / "index.html").read_text()
    section = html.partition('id="profiles"')[2].partition("<section")[0]
    # Of 10 ms a step: conv2's backward pass takes 6.
    assert "Furthest from the roof of matrix products: backward conv2" in section
    assert "a &lt;b&gt;fused&lt;/b&gt; operator" in section
    assert 'href="profiles/mnist_cnn.torch.inplace.trace.json"' in section
    assert section.count("<details>") == 3


def test_without_profiles_there_is_no_section(tmp_path):
    case = StepCase("time", "mnist_cnn", "numpy.inplace", 64)
    write(tmp_path / "results", content({case: 0.01}))
    write_records(tmp_path / "outcomes", [record(case, value=0.01)])
    assert 'id="profiles"' not in (build(tmp_path) / "index.html").read_text()
