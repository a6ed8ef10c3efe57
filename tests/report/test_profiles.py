"""Test the section that shows where the time of a step goes."""

import pytest

from benchmarks.harness.case import StepCase
from scripts.claims.document import write as write_document
from scripts.profiling import document
from scripts.profiling.document import (
    Bandwidth,
    CallProfile,
    Counters,
    Held,
    Memory,
    Moment,
    Operator,
    Profile,
    Roof,
    Roofs,
)
from tests.report.pages import build
from tests.synthetic import content, record, write, write_records

OPERATORS = (
    Operator("forward", "conv1", "products", 2.0, ("conv1",)),
    Operator("forward", "conv2", "products", 1.0, ("conv2",)),
    Operator("backward", "conv2", "a <b>fused</b> operator", 6.0, ("conv2", "conv2.relu")),
    Operator("update", "update", "SGD", 0.5),
)
ROOFS = Roofs(500.0, (Bandwidth("L2", 2**20, 100.0), Bandwidth("DRAM", 2**53, 10.0)))
COUNTERS = Counters(cycles=30_000_000, instructions=60_000_000, cache_misses=1_234)
MEMORY = Memory(
    17_000_000, 17_000_064, [Moment("backward", "conv1", 1_000_000, 0, 6_000_000, 0, 10_000_000)],
    [Held("saved", "forward conv1", 6_000_000), Held("temporary", "an <i>array</i>", 11_000_000)],
)  # fmt: skip


def profile(row, framework):
    return Profile(
        document.SCHEMA, 0.0, "a processor", "abcdef12", "mnist_cnn", row, framework, 64, 30, 10.0, 9.8, 0.5,
        COUNTERS, ROOFS, list(OPERATORS), MEMORY,
    )  # fmt: skip


# Of the second the percentage cannot be right.
CALLS = [
    CallProfile(
        document.CALL_SCHEMA, 0.0, "a processor", "abcdef12", "relu", "backward", row, "numpy", 1_000_000, "float32",
        20, 2.2, 2.0, 0.4, [Operator("backward", "relu", "mul<b>tiply", 1.1)], 1e6, 12e6,
        Roof("triad.all", 2.0, percent, percent - 5, percent + 5), 4_000_000, 0,
    )
    for row, percent in (("numpy.out", 45), ("numpy-bool.out", 120))
]  # fmt: skip


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
    for each in CALLS:
        write_document(out / document.FOLDER / document.CALLS_FOLDER / document.file_of_call(each), each)
    return build(folder)


def test_layers_of_all_frameworks_stand_side_by_side(page):
    figure = (page / "profile.mnist_cnn-64.svg").read_text()
    for text in ("forward conv1", "backward conv2", "update", "not explained", "numpy.inplace", "torch.inplace"):
        assert f">{text}<" in figure


def test_the_page_says_where_most_is_to_gain(page):
    html = (page / "index.html").read_text()
    section = html.partition('id="profiles"')[2].partition("<section")[0]
    # Of 10 ms a step: conv2's backward pass takes 6.
    assert "Furthest from their roof: backward conv2" in section
    assert "a &lt;b&gt;fused&lt;/b&gt; operator" in section
    assert 'href="profiles/mnist_cnn.torch.inplace.trace.json"' in section
    assert section.count("<details>") == 3


def test_memory_is_drawn_by_kind_and_taken_apart_at_its_peak(page):
    figure = (page / "profile.mnist_cnn-64-memory.svg").read_text()
    for text in ("saved", "temporary", "numpy.inplace: 17.0 MB", "torch.inplace: 17.0 MB", "backward conv1"):
        assert f">{text}<" in figure
    html = (page / "index.html").read_text()
    assert "Alive at the peak: 17,000,000 bytes; as the benchmark of the step measures it: 17,000,064." in html
    assert "an &lt;i&gt;array&lt;/i&gt;" in html


def test_counters_of_the_processor_are_shown(page):
    assert "30,000,000 cycles and 60,000,000 instructions" in (page / "index.html").read_text()


def test_layers_stand_below_the_roofs(page):
    figure = (page / "profile.mnist_cnn-64-roofline.svg").read_text()
    for text in ("matrix products 500 GFLOP/s", "L2 100 GB/s", "DRAM 10 GB/s", "torch.inplace backward"):
        assert f">{text}<" in figure


def test_points_of_the_roofline_name_their_layers(page):
    figure = (page / "profile.mnist_cnn-64-roofline.svg").read_text()
    for layer in ("forward conv1", "forward conv2", "backward conv2"):
        # One label for both rows, one above the other.
        assert figure.count(f">{layer}<") == 1
    # 2 ms of 64 images, 26 x 26 x 32 outputs of 9 products.
    gflop_per_s = 64 * 2 * 26 * 26 * 32 * 9 / 2e-3 / 1e9
    assert f"<title>torch.inplace, forward conv1: 2 ms, {gflop_per_s:.3g} GFLOP/s</title>" in figure
    # Titles are within what they name; points only have some.
    assert figure.count("<title>") == 2 * 3


def test_the_share_of_the_activation_is_shown_as_far_as_operators_tell(page):
    html = (page / "index.html").read_text()
    assert (
        "relu: operators that compute nothing else take 0 % of the step, those that fuse it with other work 60 %"
        in html
    )


def test_calls_of_operators_are_rows_of_a_table(page):
    section = (page / "index.html").read_text().partition('id="profiles"')[2].partition("<section")[0]
    (line,) = (line for line in section.splitlines() if "relu backward numpy.out" in line)
    # The call takes 2 ms, under the profiler 2.2.
    for text in (
        "1,000,000", "<td>float32</td>", ">+10.0 %<", "mul&lt;b&gt;tiply 1.1 (50 %)", ">12,000,000<", ">0.0833<",
        ">45 (40 … 50)<", "triad.all", ">4,000,000<", ">abcdef12, a processor<",
        'href="profiles/operators/relu.backward.numpy.out.1000000.float32.trace.json"',
    ):  # fmt: skip
        assert text in line
    (above,) = (line for line in section.splitlines() if "relu backward numpy-bool.out" in line)
    assert ">120 " not in above


def test_without_profiles_there_is_no_section(tmp_path):
    case = StepCase("time", "mnist_cnn", "numpy.inplace", 64)
    write(tmp_path / "results", content({case: 0.01}))
    write_records(tmp_path / "outcomes", [record(case, value=0.01)])
    assert 'id="profiles"' not in (build(tmp_path) / "index.html").read_text()
