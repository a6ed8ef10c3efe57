"""Test the figures of a report: of a GPU, labels, and the choice of rows."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pytest
from selenium.webdriver.common.by import By

from benchmarks.harness.case import Case, DeviceLoopCase
from benchmarks.harness.measurement import DeviceTiming
from impls.catalog import variants
from impls.variant import DIRECTIONS
from scripts.report import drawing
from tests.browser import show, text
from tests.report.pages import build
from tests.synthetic import content, process, record, time, write, write_records

GPU = {"gpus": "A GPU 9000", "gpu_driver": "NVIDIA 999"}
THROTTLED = time("forward", "triton-cuda.out", 2**25)


@pytest.fixture(scope="module")
def gpu_page(tmp_path_factory):
    """A report of a GPU with device times of all rows but JAX's; one row is throttled, one impossible."""
    folder = tmp_path_factory.mktemp("gpu")
    numbers: dict[Case, float | None] = {}
    lines = []
    for n in (2**10, 2**15, 2**20, 2**25):
        copy_s = 2e-6 + 8 * n / 3e12
        numbers |= {DeviceLoopCase("time", f"{work}.torch", 4 * n): copy_s for work in ("copy", "scale")}
        numbers |= {DeviceLoopCase("time", "triad.torch", 4 * n): 2e-6 + 12 * n / 3e12}
        for number, row in enumerate(row for row in variants("relu") if row.device == "cuda"):
            case = time(row.direction, row.name, n)
            device_s = (1 + number / 40) * (2e-6 + row.required_traffic.algorithmic_bytes(n, 4) / 2.8e12)
            if case == time("backward", "torch-cuda.out", 2**25):
                device_s /= 2
            numbers[case] = device_s + 1e-5
            timing = DeviceTiming(device_s=None if row.framework == "jax" else device_s)
            throttled = 3 if case == THROTTLED else 0
            reason = "power cap throttled the GPU in 3 of 30 samples" if throttled else ""
            processes = [process(throttled=throttled, device=timing)]
            status = "unstable" if throttled else "ok"
            lines.append(record(case, status, reason, numbers[case], processes, GPU))
    write(folder / "results", content(numbers))
    write_records(folder / "outcomes", lines)
    return build(folder)


def test_gpu_figures_separate_device_time_and_host_latency(gpu_page):
    names = {path.name for path in gpu_page.glob("*-gpu-*.svg")}
    assert names == {
        f"{operator}.{direction}-float32-gpu-{kind}.svg"
        for operator, direction in product(["relu"], DIRECTIONS)
        for kind in ("device", "latency")
    }
    device_time, host_latency = (
        (gpu_page / f"relu.forward-float32-gpu-{kind}.svg").read_text() for kind in ("device", "latency")
    )
    # JAX has host latency only; the roofs are device times.
    assert ("roof: copy" in device_time, "jax-cuda" in device_time) == (True, False)
    assert ("roof: copy" in host_latency, "jax-cuda" in host_latency) == (False, True)


def test_gpu_table_shows_device_time_and_host_latency(gpu_page, browser):
    show(browser, gpu_page / "index.html")
    cells_of_rows = browser.execute_script("""
        const table = document.getElementById("gpu-rows");
        return Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => cell.textContent));
    """)
    rows = {(line[0], line[1], line[3]): line[5:] for line in cells_of_rows}
    # 4 MiB read and written at 2.8 TB/s and 2 µs, against 3 TB/s.
    assert rows["forward", "torch-cuda.fresh", "1,048,576"] == ["5 µs", "1,680", "96", "15 µs", "559", "32", "0"]
    assert rows["forward", "jax-cuda.fresh", "1,048,576"][:3] == ["–", "–", "–"]
    assert rows["backward", "torch-cuda.out", "33,554,432"] == ["impossible", "–", "–", "–", "–", "–", "0"]
    throttled = rows["forward", "triton-cuda.out", "33,554,432"]
    assert throttled[3].startswith("≈ ")
    assert throttled[-1] == "3"
    shown = text(browser)
    assert "A GPU 9000. Each row has two times, which no figure mixes: device time" in shown
    assert "Who is fastest forward on the GPU?" in shown
    assert "power cap throttled the GPU in 3 of 30 samples" in browser.page_source


def test_figures_are_drawn_with_text_that_can_be_read(opened, page):
    labels = opened.execute_script("return Array.from(document.querySelectorAll('figure svg'), (e) => e.ariaLabel)")
    # Throughput of three directions, memory, first calls.
    assert len(labels) == 5
    assert all(labels)
    sizes = opened.execute_script("return Array.from(document.querySelectorAll('text'), (e) => e.getBBox().height)")
    assert min(size for size in sizes if size) >= 11
    ids = opened.execute_script("return Array.from(document.querySelectorAll('[id]'), (e) => e.id)")
    assert len(ids) == len(set(ids))
    for figure in page.glob("*.svg"):
        assert figure.with_suffix(".png").stat().st_size > 1000


def test_rows_of_a_figure_can_be_chosen(opened):
    figure = "#figure-relu\\.forward-float32"
    others = opened.find_elements(By.CSS_SELECTOR, f"{figure} [data-row='numpy.out']")
    assert others
    assert not any(group.is_displayed() for group in others)
    box = opened.find_element(By.CSS_SELECTOR, "[data-figure='relu.forward-float32'] [value='numpy.out']")
    opened.execute_script("arguments[0].closest('details').open = true; arguments[0].click()", box)
    assert all(group.get_attribute("display") is None for group in others)
    opened.execute_script("arguments[0].click()", box)
    assert all(group.get_attribute("display") == "none" for group in others)


def test_labels_keep_their_distance_within_the_axis():
    figure, axis = plt.subplots(figsize=(4, 4))
    axis.set(yscale="log", ylim=(1, 100))
    ends = {"a": 1.0, "b": 1.01, "c": 98.0, "d": 99.0, "e": 10.0}
    heights = drawing.apart(ends, axis)
    plt.close(figure)
    places = sorted(axis.bbox.height * np.log(height) / np.log(100) for height in heights.values())
    assert min(np.diff(places)) > drawing.FONT_PX
    assert 0 <= places[0] <= places[-1] <= axis.bbox.height
    assert heights["a"] < heights["b"] < heights["e"] < heights["c"] < heights["d"]
    assert heights["e"] == pytest.approx(10)
