"""Test the report in a real browser, with and without JavaScript, from synthetic and from hostile results."""

import csv
import io
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from benchmarks.harness.case import Case, DeviceLoopCase, OperatorCase, ProductCase, StepCase
from benchmarks.harness.machine import provenance
from benchmarks.harness.measurement import DeviceTiming, Ratio, StepTiming
from benchmarks.harness.roofline.loops import ORDINARY
from benchmarks.harness.timing import intervals
from impls.catalog import OPERATORS, VARIANTS, find, variants
from impls.variant import DIRECTIONS
from scripts.report import drawing, metrics, results
from scripts.report import page as report
from scripts.report.rendering import FOLDER
from scripts.report.sections import answers as answers_section
from scripts.report.text import bytes_text, number_text, time_text
from tests.browser import NoBrowser, assert_harmless, chromium, show, text, wait_until_ready
from tests.checkout import ROOT
from tests.hostile import COMBINED, FORMULAS, WITH_RECORDS, WITHOUT_RECORDS, Attack
from tests.synthetic import (
    COMMIT,
    DATE_MS,
    DAY_MS,
    ENV,
    LATER_COMMIT,
    changed,
    content,
    process,
    ratio,
    record,
    roof,
    time,
    write,
    write_records,
)

CPU_ROWS = [row for row in VARIANTS if row.device == "cpu"]
WRONG, SKIPPED = time("backward", "numpy.out"), time("forward", "torch-cuda.fresh")
FRESH, IMPOSSIBLE = time("forward", "numpy.fresh"), time("forward", "numpy.inplace")
REASON = "3 of 1048576 elements are wrong; the first is number 7"
# Times of every row, from milliseconds to seconds, and of some rows at a smaller size, from microseconds.
TIMES = {
    time(row.direction, row.name, 2**20, dtype): 1e-3 * 1.06**position
    for position, (row, dtype) in enumerate(
        (row, dtype)
        for row in CPU_ROWS
        for dtype in (row.dtypes if row.direction == "forward" and row.framework == "numpy" else ["float32"])
    )
} | {
    time(row.direction, row.name, 2**10): 1e-6 * number
    for number, row in enumerate(variants("relu", "forward")[:12], 1)
}
TIMES |= {FRESH: 1e-3, WRONG: None, IMPOSSIBLE: 1e-7}
# By framework, the ratios to FRESH of rows of ReLU forward: of itself, a tie, slower, and hardly known.
AGAINST_FASTEST = {
    "numpy": Ratio(1.0, 1.0, 1.0, "numpy.fresh"), "numba": Ratio(1.01, 0.99, 1.02, "numpy.fresh"),
    "torch": Ratio(1.32, 1.3, 1.34, "numpy.fresh"), "jax": Ratio(1.1, 0.5, 3.0, "numpy.fresh"),
}  # fmt: skip
OTHERS = {
    **{roof(f"{kernel}.all"): 1e-5 for kernel in ORDINARY},
    OperatorCase("transient_bytes", "relu", "forward", "numpy.fresh", 2**20, "float32"): 2**22,
    OperatorCase("transient_bytes", "relu", "forward", "numpy.out", 2**20, "float32"): 0,
    OperatorCase("first_call", "relu", "forward", "numba.out", 2**10, "float32"): 1.5,
    ProductCase("time", "torch", 2048): 0.1,
}
PROVENANCE = {"cpu": "A Processor 9000", "cores_usable": 6, "caches_bytes": {"L1d": 2**15, "L2": 2**20}}


def compared() -> Iterator[dict[str, Any]]:
    """Yield records of ReLU forward in float32 with ratios to the fastest row, the fresh mode, and the roof."""
    for case, seconds in TIMES.items():
        row = find(case.operator, case.direction, case.variant)
        if (case.operator, case.direction, case.elements, case.dtype) == ("relu", "forward", 2**20, "float32"):
            ratios = {"roof": Ratio(100.0, 80.0, 125.0, "copy.all"), "fastest": AGAINST_FASTEST[row.framework]}
            if row.memory != "fresh":
                of_mode = {"out": ratio(0.5, f"{row.flavour}.fresh"), "inplace": ratio(1.0, f"{row.flavour}.fresh")}
                ratios["fresh"] = of_mode[row.memory]
            if case == IMPOSSIBLE:
                ratios["roof"] = Ratio(0.01, 0.005, 0.02, "scale.all")
            processes = [process(20, preempted=12), process(12)]
            interval = (0.9 * seconds, 1.2 * seconds)
            yield record(
                case, value=seconds, commit=LATER_COMMIT, processes=processes, interval=interval, ratios=ratios,
                provenance=PROVENANCE,
            )  # fmt: skip


def build(folder: Path, *arguments: str) -> Path:
    """Write the report of the results in a folder and return its path."""
    assert main(folder, "--out", str(folder / "out"), *arguments) == 0
    return folder / "out"


def main(folder: Path, *arguments: str) -> int:
    return report.main(["--results", str(folder / "results"), "--outcomes", str(folder / "outcomes"), *arguments])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report from results of two machines and two commits; it shows the commit measured last."""
    folder = tmp_path_factory.mktemp("report")
    last = content({**TIMES, **OTHERS}, LATER_COMMIT, date_ms=DATE_MS + DAY_MS, started_ms=DATE_MS + 9 * DAY_MS)
    write(folder / "results", last)
    write(folder / "results", content({time("forward", "numpy.out"): 5.0}))
    write(folder / "results", content({time("forward", "torch.out"): 6.0}, started_ms=DATE_MS), "den")
    lines = [
        record(WRONG, "wrong", REASON, commit=LATER_COMMIT),
        record(SKIPPED, "skipped", "no CUDA device", commit=LATER_COMMIT),
        *compared(),
        record(time("forward", "numpy.out"), provenance={"cpu": "Of Another Commit"}, time_s=9.0),
    ]
    write_records(folder / "outcomes", lines)
    return build(folder)


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
        numbers |= {DeviceLoopCase("time", work, 4 * n): copy_s for work in ("copy", "scale")}
        for number, row in enumerate(row for row in VARIANTS if row.device == "cuda"):
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
        for operator, direction in product(OPERATORS, DIRECTIONS)
        for kind in ("device", "latency")
    }
    device_time, host_latency = (
        (gpu_page / f"relu.forward-float32-gpu-{kind}.svg").read_text() for kind in ("device", "latency")
    )
    # JAX has host latency only; the roofs are device times.
    assert ("roof: copy" in device_time, "jax-cuda" in device_time) == (True, False)
    assert ("roof: copy" in host_latency, "jax-cuda" in host_latency) == (False, True)


def test_gpu_table_shows_device_time_and_host_latency(gpu_page, tmp_path):
    with chromium(tmp_path / "profile") as browser:
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


@contextmanager
def started(profile: Path, **preferences: Any) -> Iterator[webdriver.Chrome]:
    """A browser, where there is one."""
    try:
        with chromium(profile, **preferences) as opened:
            yield opened
    except NoBrowser as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def still_browser(tmp_path_factory):
    """A browser with JavaScript disabled."""
    preferences = {"profile.managed_default_content_settings.javascript": 2}
    with started(tmp_path_factory.mktemp("profile"), **preferences) as opened:
        yield opened


@pytest.fixture
def opened(browser, page):
    show(browser, page / "index.html")
    return browser


def rows(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """Return the visible rows of the table of everything, by column head."""
    return browser.execute_script("""
        const table = document.getElementById("results");
        const heads = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent);
        return Array.from(table.tBodies[0].rows).filter((row) => !row.hidden && row.className !== "detail").map(
            (row) => Object.fromEntries(heads.map((head, i) => [head, row.cells[i].textContent.trim()])));
    """)


def times(browser: webdriver.Chrome) -> dict[Case, dict[str, Any]]:
    """The visible rows of times of the run that the page shows, by case."""
    return {
        case(row): row
        for row in rows(browser)
        if row["quantity"] == "time"
        and row["commit"] == LATER_COMMIT[:8]
        and "," not in row["operator"]
        and row["memory"]
    }


def cells(browser: webdriver.Chrome, table: str) -> list[list[str]]:
    """The cells of a table, by its id."""
    return browser.execute_script(
        """return Array.from(document.getElementById(arguments[0]).tBodies[0].rows,
            (row) => Array.from(row.cells, (cell) => cell.textContent));""",
        table,
    )


def case(row: dict[str, Any]) -> Case:
    """Return the case of a row of the page."""
    return time(row["operator"], row["variant"], int(row["size"].replace(",", "")), row["dtype"])


def seconds(text: str) -> float:
    """The inverse of `page.time_text`: seconds of "1.5 ms"; NaN for "impossible"."""
    if text == "impossible":
        return float("nan")
    number, unit = text.removeprefix("≈ ").split()
    return float(number.replace(",", "")) * {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]


def test_page_opens_from_disk_without_console_messages(opened):
    assert opened.title == "ReLU on box"
    assert opened.get_log("browser") == []


def test_page_makes_no_network_requests(opened, page):
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert urls, "the log of the browser's requests is empty"
    assert urls == {(page / "index.html").as_uri()}
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    html = (page / "index.html").read_text()
    assert not re.findall(r"""(?:src|href|action|srcset|data)\s*=\s*["']?(?!#|data:)[^"'>]*//""", html)
    assert not re.findall(r"@import|url\((?!#)", html)


def test_every_number_is_in_the_table(opened):
    shown = {case: seconds(row["value"]) for case, row in times(opened).items() if row["value"] != "–"}
    assert shown == {
        case: pytest.approx(float("nan") if case == IMPOSSIBLE else number, rel=0.006, nan_ok=True)
        for case, number in TIMES.items()
        if number is not None
    }
    assert {(case.direction, case.variant) for case in shown} == {(row.direction, row.name) for row in CPU_ROWS} - {
        (WRONG.direction, WRONG.variant)
    }


def test_every_column_is_explained(opened):
    heads = opened.execute_script("return Array.from(document.querySelectorAll('#results th'), (e) => e.textContent)")
    terms = opened.execute_script("return Array.from(document.querySelectorAll('#columns dt'), (e) => e.textContent)")
    assert set(heads) <= set(", ".join(terms).split(", "))


def test_explained_columns_of_the_csv_exist(opened):
    names = opened.execute_script("return Array.from(document.querySelectorAll('#columns code'), (e) => e.textContent)")
    assert {"value", "percent_of_roof"} <= set(names)
    assert set(names) <= {*results.COLUMNS, *results.STEP_COLUMNS, *metrics.JOINED}


def test_metrics_are_shown_beside_the_time(opened):
    row = times(opened)[FRESH]
    # 8 MiB in a millisecond; the loops take a hundredth of the time.
    assert (row["GB/s"], row["% of roof"], row["interval"]) == ("8.39", "1", "900 µs … 1.2 ms")


def test_an_opened_row_shows_rounds_circumstances_and_the_command(opened):
    line = next(
        line
        for line in opened.find_elements(By.CSS_SELECTOR, "#results tbody tr")
        if case_of_line(opened, line) == FRESH
    )
    opened.execute_script("arguments[0].click()", line)
    detail = opened.find_element(By.CSS_SELECTOR, "tr.detail")
    shown = detail.get_attribute("textContent")
    # Of 256 samples 12 were preempted; 12 MiB on the bus in a millisecond; of 32 rounds 2 do not count.
    for fact in ("passes: 2", "rounds: 32", "contended: 2", "preempted: 12", "samples: 256", "bus gb per s: 12.58"):
        assert fact in shown
    assert "one thread; one ufunc" in shown
    command = detail.find_element(By.TAG_NAME, "pre").text
    profile, *words, pattern = shlex.split(command)
    assert [profile, *words] == ["RELU_BENCH_PROFILE=smoke", "asv", "run", f"{LATER_COMMIT[:8]}^!", "--bench"]
    assert re.search(pattern, "relu.Forward.track_time('numpy.fresh', 1048576, 'float32')")
    assert len(detail.find_elements(By.CSS_SELECTOR, "svg circle")) == 32
    line.send_keys(Keys.ENTER)
    assert not opened.find_elements(By.CSS_SELECTOR, "tr.detail")


def case_of_line(browser: webdriver.Chrome, line: Any) -> Case | None:
    """The case of a line of the table; None where it is no time of a row."""
    heads = browser.execute_script("return Array.from(document.querySelectorAll('#results th'), (e) => e.textContent)")
    row = dict(
        zip(
            heads,
            [cell.get_attribute("textContent").strip() for cell in line.find_elements(By.TAG_NAME, "td")],
            strict=True,
        )
    )
    of_run = row["quantity"] == "time" and row["memory"] and row["commit"] == LATER_COMMIT[:8]
    return case(row) if of_run else None


def test_an_opened_row_shows_the_source_of_its_implementation(tmp_path, browser):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    write(tmp_path / "results", content({FRESH: 1e-3}, commit))
    show(browser, build(tmp_path) / "index.html")
    browser.find_element(By.CSS_SELECTOR, "#results tbody tr").send_keys(Keys.ENTER)
    source = text(browser, "tr.detail pre.source")
    assert source.startswith("# impls/relu/numpy_.py\ndef forward(x")
    assert "np.maximum" in source


def test_rows_are_compared_with_the_fastest_row(opened):
    shown = {
        case.variant: row["fastest"]
        for case, row in times(opened).items()
        if case.elements == 2**20 and case.direction == "forward" and case.dtype == "float32"
    }
    assert shown["numpy.fresh"] == "fastest"
    assert shown["numba.out"] == "= fastest"
    assert shown["torch.out"] == "1.32"
    assert shown["jax.fresh"] == "≈ 1.1"
    # Impossible; without a record.
    assert shown["numpy.inplace"] == "–"
    assert times(opened)[time("backward", "numpy.fresh")]["fastest"] == "–"


def test_heat_table_shows_the_chosen_measure(opened):
    def cell(variant: str) -> str:
        (line,) = (line for line in cells_of_heat() if line[1] == variant)
        return line[-1]

    def cells_of_heat() -> list[list[str]]:
        return opened.execute_script("""
            const rows = document.querySelector(".heat:not([hidden]) tbody").rows;
            return Array.from(rows, (row) => Array.from(row.cells, (cell) => cell.textContent));
        """)

    def choose(control: str, option: str) -> None:
        opened.execute_script(
            """const control = document.getElementById(arguments[0]);
            control.value = Array.from(control.options).find((each) => each.text === arguments[1]).value;
            control.dispatchEvent(new Event("input"));""",
            control,
            option,
        )

    assert [cell(name) for name in ("numpy.fresh", "numba.out", "torch.out")] == ["fastest", "= fastest", "1.32"]
    assert cell("numpy.inplace") == "impossible"
    choose("heat-measure", "time")
    assert cell("numpy.fresh") == "1 ms"
    choose("heat-measure", "GB/s")
    assert cell("numpy.fresh") == "8.39"
    choose("heat-measure", "% of roof")
    assert cell("numpy.fresh") == "1"
    choose("heat-measure", "ratio to a row")
    choose("heat-baseline", "numpy.out")
    expected = TIMES[FRESH] / TIMES[time("forward", "numpy.out")]
    assert float(cell("numpy.fresh")) == pytest.approx(expected, rel=0.01)
    choose("heat-table", "backward, float32")
    assert "numpy-where.fresh" in {line[1] for line in cells_of_heat()}


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


def test_modes_are_compared_with_fresh(opened):
    modes = {line[1]: line for line in cells(opened, "against-fresh")}
    half, tie = "0.5 (0.49 … 0.51)", "= fresh (0.99 … 1.01)"
    assert modes["numba"] == ["forward", "numba", "1,048,576", half, tie]
    # In place is impossible.
    assert modes["numpy"] == ["forward", "numpy", "1,048,576", half, "–"]


def test_times_that_were_compared_with_no_roof_are_counted(opened):
    forward = [case for case in TIMES if case.operator == "relu" and case.direction == "forward"]
    checked = [case for case in forward if (case.elements, case.dtype) == (2**20, "float32")]
    unchecked = sum(seconds is not None for seconds in TIMES.values()) - len(checked)
    assert f"{unchecked} times were compared with no roof" in text(opened)


def test_impossible_rows_show_no_bandwidth(opened):
    row = times(opened)[IMPOSSIBLE]
    assert (row["value"], row["interval"], row["GB/s"]) == ("impossible", "–", "–")
    # 8 MiB in 0.1 µs.
    assert "83,900" not in text(opened, "main")
    assert "relu forward numpy.inplace 1048576 float32 time: 100 ns, 10,000 % of roof" in text(opened)


def test_roofs_are_shown(opened):
    head, *lines = opened.execute_script("""
        const table = document.querySelector("#roofs");
        return Array.from(table.rows, (row) => Array.from(row.cells, (cell) => cell.textContent).join(" "));
    """)
    assert head == "array fill copy triad scale in place accumulate in place"
    # 4 MiB per array in 10 µs.
    assert lines == ["4 MiB 419 839 1,260 839 1,260"]
    assert "torch 172 (n = 2,048)" in text(opened)


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


@pytest.mark.parametrize(
    ("interval", "shown"),
    [((2.0, 4.0), "<b>3 %</b> (2 … 4)"), ((-1.0, 4.0), "at most <b>4 %</b>"), ((-4.0, -1.0), None)],
)
def test_no_share_below_0_is_an_answer(interval, shown):
    low, high = interval
    row = {
        "relu_percent": 3.0, "relu_percent_low": low, "relu_percent_high": high, "impossible": False, "device": "cpu",
        "value": 1.0, "network": "mnist_cnn", "batch": 64, "variant": "numpy.fresh",
    }  # fmt: skip
    found = [answer.text.lower() for answer in answers_section._relu_share(pd.DataFrame([row]))]
    assert found == ([f"{shown} of mnist_cnn in numpy.fresh."] if shown else [])


def test_answers_name_the_fastest_rows_and_what_others_take(opened):
    answers = dict(
        zip(*(opened.execute_script(
            "return Array.from(document.querySelectorAll(arguments[0]), (e) => e.textContent)", f".answers {tag}"
        ) for tag in ("dt", "dd")), strict=True)
    )  # fmt: skip
    forward = answers["Who is fastest forward?"]
    assert forward.startswith("numpy.fresh: 1 ms for 1,048,576 float32 elements (900 µs … 1.2 ms). ")
    assert "numba.fresh is as fast (0.99 … 1.02)" in forward
    assert "torch.fresh takes 1.32 times as long (1.3 … 1.34)" in forward
    # The data do not tell.
    assert "as long" not in answers["Who is fastest backward?"]
    assert "numpy.fresh reaches 1 % (0.8 … 1.25)" in answers["How far from the limit?"]
    assert "50 % (49 … 51) in numpy" in answers["What does a fresh result cost?"]
    assert "It allocates 4 bytes per element less." in answers["What does a fresh result cost?"]
    assert "1.5 s (numba.out)" in answers["Does compiling pay?"]
    assert "What is ReLU's share of a step?" not in answers
    for link in opened.find_elements(By.CSS_SELECTOR, ".answers a"):
        assert opened.find_elements(By.CSS_SELECTOR, link.get_attribute("hash"))


def test_failures_are_listed_with_their_reasons(opened):
    assert cells(opened, "failures") == [
        ["skipped", "relu forward torch-cuda.fresh 1048576 float32 time", "no CUDA device"],
        ["wrong", "relu backward numpy.out 1048576 float32 time", REASON],
    ]


@pytest.mark.parametrize("width", [400, 1300])
def test_page_fits_the_window(opened, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_page_shows_machine_commit_and_other_runs(opened):
    assert "A Processor 9000, 6 cores" in text(opened, "header")
    assert f"Commit {LATER_COMMIT[:8]} of 2023-11-15" in text(opened, "header")
    assert "Of Another Commit" not in text(opened)
    assert sorted(cells(opened, "others")) == [
        ["box", COMMIT[:8], "2023-11-14", "1 numbers"], ["den", COMMIT[:8], "2023-11-14", "1 numbers"],
    ]  # fmt: skip


def test_history_shows_the_change_since_the_commit_before(opened):
    (line,) = cells(opened, "series")
    assert line[0] == "relu forward numpy.out 1048576 float32 time"
    assert line[2] == "5 s"
    assert line[-1] == "apart"
    assert opened.find_elements(By.CSS_SELECTOR, "#series svg polyline")


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_the_page(opened, scheme):
    emulate(opened, scheme)
    try:
        luminances = opened.execute_script("""
            const numbers = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
            const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
            const luminance = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
            const body = getComputedStyle(document.body);
            const label = getComputedStyle(document.querySelector("figure svg text"));
            return [body.backgroundColor, body.color, label.fill].map((c) => luminance(numbers(c)));
        """)
    finally:
        emulate(opened, "")
    page, *inks = luminances
    assert (page > 0.5) == (scheme == "light")
    for ink in inks:
        assert (max(page, ink) + 0.05) / (min(page, ink) + 0.05) > 7


def emulate(browser: webdriver.Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_print_shows_all_rows_and_no_controls(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not opened.find_element(By.ID, "controls").is_displayed()
        assert not opened.find_element(By.TAG_NAME, "nav").is_displayed()
        cut_off = opened.execute_script("""
            const scrolls = Array.from(document.querySelectorAll("#everything .scroll"));
            return scrolls.filter((e) => getComputedStyle(e).overflowY !== "visible").length;
        """)
        assert cut_off == 0
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_script_is_small():
    assert (FOLDER / "report.js").stat().st_size <= 60_000


def click_head(browser: webdriver.Chrome, head: str) -> None:
    (button,) = (b for b in browser.find_elements(By.CSS_SELECTOR, "#results th button") if text_of(b) == head)
    browser.execute_script("arguments[0].click()", button)


def text_of(element: Any) -> str:
    return element.get_attribute("textContent")


def test_values_sort_by_number_with_missing_ones_last(opened):
    opened.find_element(By.CSS_SELECTOR, "[data-filter=quantity]").send_keys("time")
    for descending, aria_sort in ((False, "ascending"), (True, "descending")):
        click_head(opened, "value")
        # Of an impossible row, the number is hidden; its place is not.
        shown = [row["value"] for row in rows(opened) if row["value"] != "impossible"]
        numbers = [seconds(value) for value in shown if value != "–"]
        assert numbers == sorted(numbers, reverse=descending)
        assert shown[len(numbers) :] == ["–"] * (len(shown) - len(numbers))
        heads = opened.find_elements(By.CSS_SELECTOR, "[aria-sort]")
        assert [head.get_attribute("aria-sort") for head in heads] == [aria_sort]


@pytest.mark.parametrize("head", ["operator", "dtype"])
def test_text_columns_sort_alphabetically(opened, head):
    before = [row[head] for row in rows(opened)]
    click_head(opened, head)
    assert [row[head] for row in rows(opened)] == sorted(before)
    click_head(opened, head)
    assert [row[head] for row in rows(opened)] == sorted(before, reverse=True)


def test_filters_show_matching_rows_and_the_address_keeps_them(opened):
    all_rows = rows(opened)
    count = opened.find_element(By.ID, "count")
    assert text_of(count) == f"{len(all_rows)} of {len(all_rows)} rows"
    framework = opened.find_element(By.CSS_SELECTOR, "[data-filter=framework]")
    options = [text_of(option) for option in framework.find_elements(By.TAG_NAME, "option")]
    assert options == ["all", "numpy", "numba", "torch", "jax"]
    # Keys send the event "input", as a user's choice does; Selenium's Select sends only "change".
    framework.send_keys("numba")
    numba = rows(opened)
    assert {row["variant"].partition(".")[0].partition("-")[0] for row in numba} == {"numba"}
    assert text_of(count) == f"{len(numba)} of {len(all_rows)} rows"
    search = opened.find_element(By.ID, "search")
    search.send_keys("INPLACE")
    numba_inplace = [row for row in numba if "inplace" in "".join(row.values())]
    assert 0 < len(numba_inplace) < len(numba)
    assert rows(opened) == numba_inplace
    click_head(opened, "value")
    click_head(opened, "value")
    kept = rows(opened)
    address = opened.current_url
    assert address.endswith("#everything&framework=numba&search=INPLACE&sort=value&descending=1")
    opened.get("about:blank")
    opened.get(address)
    wait_until_ready(opened)
    assert rows(opened) == kept
    opened.execute_script("document.getElementById('reset').click()")
    assert rows(opened) == all_rows
    assert "everything" not in opened.current_url


def test_table_is_complete_without_javascript(opened, still_browser, page):
    show(still_browser, page / "index.html", ready=False)
    assert text(still_browser, "#count") == "", "JavaScript ran"
    assert rows(still_browser) == rows(opened)
    assert not still_browser.find_element(By.ID, "controls").is_displayed()
    assert still_browser.get_log("browser") == []


def test_csv_contains_the_same_numbers(page):
    with (page / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    times = {
        time(line["direction"], line["variant"], int(line["elements"]), line["dtype"]): float(line["value"] or "nan")
        for line in lines
        if line["quantity"] == "time"
        and line["kind"] == "operator"
        and line["status"] != "skipped"
        and line["commit"] == LATER_COMMIT
    }
    assert times == {case: pytest.approx(number, nan_ok=True) for case, number in TIMES.items() if number} | {
        WRONG: pytest.approx(float("nan"), nan_ok=True)
    }
    assert [line["reason"] for line in lines if line["status"] == "wrong"] == [REASON]
    assert [line["variant"] for line in lines if line["impossible"] == "True"] == [IMPOSSIBLE.variant]


@pytest.fixture
def attack(tmp_path):
    """Files in which every text from outside is hostile."""
    COMBINED.write(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:Tight layout not applied")
@pytest.mark.parametrize("places", [WITH_RECORDS, WITHOUT_RECORDS], ids=["records", "no records"])
def test_hostile_text_is_shown_as_text(attack, browser, places):
    if places == WITHOUT_RECORDS:
        shutil.rmtree(attack / "outcomes")
    out = build(attack, "--machine", COMBINED.name)
    show(browser, out / "index.html")
    assert_harmless(browser)
    assert browser.title == f"ReLU on {COMBINED.name}"
    shown = text(browser)
    assert [place for place in places if COMBINED.text(place) not in shown] == []
    assert f"{COMBINED.name}.json: not a JSON object" in shown
    assert FORMULAS[0] in shown
    for line in browser.find_elements(By.CSS_SELECTOR, "#results tbody tr"):
        browser.execute_script("arguments[0].click()", line)
    assert_harmless(browser)


@pytest.mark.filterwarnings("ignore:Tight layout not applied")
def test_hostile_text_is_harmless_in_figures(attack, browser):
    drawn = sorted(build(attack, "--machine", COMBINED.name).glob("*.svg"))
    assert any(COMBINED.text("cache") in "".join(ElementTree.parse(path).getroot().itertext()) for path in drawn)
    for path in drawn:
        assert not [e for e in ElementTree.parse(path).iter() if e.tag.endswith("script") or "onload" in e.attrib]
        browser.get(path.as_uri())
        assert browser.execute_script("return window.hacked") is None


@pytest.mark.filterwarnings("ignore:Glyph")
def test_control_characters_are_replaced_in_figures(tmp_path):
    Attack("\0\x1b").write(tmp_path)
    drawn = sorted(build(tmp_path, "--machine", "\x1b").glob("*.svg"))
    assert any("\ufffd\ufffd(cache)" in "".join(ElementTree.parse(path).getroot().itertext()) for path in drawn)


def test_content_security_policy_blocks_injected_scripts(opened, tmp_path):
    """The policy is the second defence after escaping; the attack succeeds on a page without a policy."""
    attack = """
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked=1'>");
        const script = document.createElement("script");
        script.textContent = "window.hacked=1";
        document.body.append(script);
        setTimeout(arguments[0], 100);
    """
    opened.execute_async_script(attack)
    assert opened.execute_script("return window.hacked") is None
    (tmp_path / "open.html").write_text("<!DOCTYPE html><body>")
    show(opened, tmp_path / "open.html", ready=False)
    opened.execute_async_script(attack)
    assert opened.execute_script("return window.hacked") == 1


def test_csv_contains_no_formulas(attack):
    text = (build(attack, "--machine", FORMULAS[0]) / "results.csv").read_bytes().decode()
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {f"'{formula}" for formula in FORMULAS[:6]} | set(FORMULAS[6:]) <= {line["reason"] for line in lines}
    assert f"'{FORMULAS[0]}" in {line["machine"] for line in lines}
    assert not [cell for line in lines for cell in line.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize(
    "provenance", ["text", ["list"], 7, {"caches_bytes": "unknown"}, {"caches_bytes": {"L1d": None}}]
)
def test_foreign_provenance_raises_no_exception(tmp_path, provenance):
    write(tmp_path / "results", content({time("forward", "numpy.out"): 1e-3}))
    line = changed(record(time("forward", "numpy.out")), "measurement.provenance", provenance)
    write_records(tmp_path / "outcomes", [line])
    assert "processor unknown" in (build(tmp_path) / "index.html").read_text()


def test_text_with_a_lone_surrogate_is_written(tmp_path):
    write(tmp_path / "results", content({WRONG: None}, env="undecodable \ud800"), name="stored.json")
    out = build(tmp_path)
    assert "undecodable" in (out / "index.html").read_text()
    assert "undecodable" in (out / "results.csv").read_text()


def test_times_without_statistics_are_shown(tmp_path):
    """asv leaves out the columns in which every value is missing."""
    stored = content({time("forward", "numpy.out"): 1e-3})
    stored["results"] = {name: row[:5] for name, row in stored["results"].items()}
    write(tmp_path / "results", stored)
    assert "1 ms" in (build(tmp_path) / "index.html").read_text()


@pytest.fixture
def shared_name(tmp_path):
    """One commit measured in part on one machine, then on another of the same name."""
    numbers = {time("forward", "numpy.out"): 1e-3, time("forward", "numba.out"): 2e-3}
    write(tmp_path / "results", content(numbers))
    lines = [
        record(case, value=value, time_s=1e9 + 1e6 * value, provenance={**PROVENANCE, **facts})
        for (case, value), facts in zip(
            numbers.items(), [{"fingerprint": "0ld", "cpu": "An Old One"}, {"fingerprint": "new"}], strict=True
        )
    ]
    write_records(tmp_path / "outcomes", [*lines, record(WRONG, "wrong", REASON)])
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "shown", "left_out"),
    [((), "numba.out", "numpy.out"), (("--fingerprint", "0ld"), "numpy.out", "numba.out")],
    ids=["newest", "chosen"],
)
def test_machines_of_the_same_name_are_distinguished_by_fingerprint(shared_name, capsys, arguments, shown, left_out):
    out = build(shared_name, *arguments)
    with (out / "results.csv").open(newline="") as file:
        fingerprints = {line["variant"]: line["fingerprint"] for line in csv.DictReader(file) if line["value"]}
    assert fingerprints == {"numba.out": "new", "numpy.out": "0ld"}
    html = (out / "index.html").read_text()
    heat = html.partition('<section id="winners">')[2].partition("</section>")[0]
    assert (f"<td>{shown}</td>" in heat, f"<td>{left_out}</td>" in heat) == (True, False)
    assert "come from 2 different machines" in html
    assert "An Old One" in html
    assert "A Processor 9000" in html
    assert "2 different machines share the name 'box'" in capsys.readouterr().err


def test_all_provenance_of_the_machine_is_shown(tmp_path):
    case = time("forward", "numpy.out")
    facts = provenance.collect()
    write(tmp_path / "results", content({case: 1e-3}))
    write_records(tmp_path / "outcomes", [record(case, value=1e-3, provenance=facts)])
    html = (build(tmp_path) / "index.html").read_text()
    assert [name for name in facts if f"<td>{name.replace('_', ' ')}</td>" not in html] == []
    assert '<td class="differs">unknown</td>' in html
    assert "different machines" not in html


def test_skipped_cases_alone_are_shown(tmp_path):
    write_records(tmp_path / "outcomes", [record(SKIPPED, "skipped", "no CUDA device")])
    html = (build(tmp_path) / "index.html").read_text()
    assert "no CUDA device" in html
    assert "NaT" not in html


def test_list_names_machines_and_commits(page, capsys):
    assert main(page.parent, "--list") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split()[:2] == ["box", LATER_COMMIT[:8]]
    assert {tuple(line.split()[:2]) for line in printed[1:]} == {
        ("box", LATER_COMMIT[:8]), ("box", COMMIT[:8]), ("den", COMMIT[:8]),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "commit", "chosen"),
    [
        (None, None, ("box", LATER_COMMIT)),
        ("den", None, ("den", COMMIT)),
        (None, "aaaa", ("box", COMMIT)),
        ("box", COMMIT, ("box", COMMIT)),
        ("den", "a", ("den", COMMIT)),
    ],
)
def test_chosen_machine_and_commit(page, machine, commit, chosen):
    table = results.load(page.parent / "results", page.parent / "outcomes").table
    choice = report.choose(table, machine, commit)
    assert (choice.machine, choice.commit) == chosen


def test_default_is_the_run_measured_last(tmp_path):
    numbers = {time("forward", "numpy.out"): 1.0}
    for machine, commit, date_ms, started_ms in [
        ("box", COMMIT, DATE_MS, DATE_MS + 5 * DAY_MS),
        ("den", COMMIT, DATE_MS, DATE_MS + 7 * DAY_MS),
        ("eel", LATER_COMMIT, DATE_MS + DAY_MS, DATE_MS + 6 * DAY_MS),
    ]:
        write(tmp_path / "results", content(numbers, commit, ENV, date_ms, started_ms), machine)
    table = results.load(tmp_path / "results", tmp_path / "outcomes").table
    assert report.choose(table) == results.Run("den", "unknown", COMMIT, ENV)
    assert report.choose(table, commit="b").machine == "eel"


def test_the_environment_with_the_most_numbers_is_shown(tmp_path):
    write(tmp_path / "results", content({time("forward", "numpy.out"): 1.0}, env="a-small"))
    write(tmp_path / "results", content({time("forward", "numpy.out"): 2.0, WRONG: 3.0}, env="b-large"))
    table = results.load(tmp_path / "results", tmp_path / "outcomes").table
    assert report.choose(table).env == "b-large"


@pytest.mark.parametrize(
    "arguments", [("--machine", "nowhere"), ("--commit", "123"), ("--machine", "den", "--commit", "b")]
)
def test_unknown_choice_lists_the_available_ones(page, capsys, tmp_path, arguments):
    assert main(page.parent, "--out", str(tmp_path / "out"), *arguments) == 1
    message = capsys.readouterr().err
    for expected in (arguments[1], "box", "den", LATER_COMMIT[:8], COMMIT[:8]):
        assert expected in message
    assert not (tmp_path / "out").exists()


def test_missing_results_name_the_folder_and_the_command(tmp_path, capsys):
    assert main(tmp_path, "--out", str(tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "results") in message
    assert "./scripts/bench" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1 s"), (123.4, "123 s"), (12345, "12,300 s"), (0.0123, "12.3 ms"), (1e-3, "1 ms"),
        (9.996e-4, "1,000 µs"), (1.5e-6, "1.5 µs"), (2e-9, "2 ns"), (1e-10, "0.1 ns"),
        (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_time_text(value, text):
    assert time_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.388608, "8.39"), (1234.5, "1,230"), (0.000012345, "0.0000123"), (0, "0"), (123456789, "123,000,000"),
        (100, "100"), (2.5e15, "2,500,000,000,000,000"), (-1.5, "-1.5"), (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_number_text(value, text):
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(512, "512 B"), (1000, "1000 B"), (2**22, "4 MiB"), (3 * 2**29, "1.5 GiB"), (2**41, "2048 GiB")]
)
def test_bytes_text(value, text):
    assert bytes_text(value) == text


def test_training_steps_are_shown_with_phases_and_memory(tmp_path):
    numbers = {
        StepCase("time", "mnist_cnn", "numpy.inplace", 64): 0.016,
        StepCase("time", "mnist_cnn", "jax.fresh", 64): 0.032,
        StepCase("time", "mnist_cnn", "torch.fresh", 64): 1e-6,
        ProductCase("time", "torch", 2048): 0.1,
        StepCase("first_call", "mnist_cnn", "jax.fresh", 16): 2.5,
        **{
            StepCase(quantity, "mnist_cnn", f"torch.{memory}", 16): value
            for quantity, memory, value in (
                ("saved_bytes", "fresh", 4_000_000.0),
                ("saved_bytes", "inplace", 4_000_000.0),
                ("peak_bytes", "fresh", 9_000_000.0),
                ("peak_bytes", "inplace", 6_750_000.0),
            )
        },
    }
    # Seconds of phases in three rounds; the second pass is slower.
    phases = {"forward": 6e-3, "loss": 1e-3, "backward": 8e-3, "update": 1e-3}
    passes = [
        StepTiming(1e-6, {name: [scale * seconds for scale in scales] for name, seconds in phases.items()}, share)
        for scales, share in (((1, 1.1, 2), [-0.5, 3.0, 7.25]), ((1.1, 1.2), [3.0, 4.0]))
    ]
    of_numpy = {"fastest": ratio(1.0, "numpy.inplace", 0), "fresh": ratio(0.9, "numpy.fresh")}
    of_numpy["roof"] = Ratio(4.0, 3.2, 5.0, "torch")
    write(tmp_path / "results", content(numbers))
    lines = [
        record(
            StepCase("time", "mnist_cnn", "numpy.inplace", 64), value=0.016, interval=(0.015, 0.017), ratios=of_numpy,
            processes=[process(step=step) for step in passes],
        ),
        record(
            StepCase("time", "mnist_cnn", "jax.fresh", 64), value=0.032,
            ratios={"fastest": ratio(2.0, "numpy.inplace")},
        ),
        record(
            StepCase("time", "mnist_cnn", "torch.fresh", 64), value=1e-6,
            ratios={"roof": Ratio(0.01, 0.005, 0.02, "torch"), "fastest": ratio(1.0, "torch.fresh")},
        ),
    ]  # fmt: skip
    write_records(tmp_path / "outcomes", lines)
    out = build(tmp_path)
    page = (out / "index.html").read_text()
    lines = re.findall(r"<tr><td>mnist_cnn</td>(.*?)</tr>", page)
    cells = {row[0]: row for row in (re.findall(r"<td[^>]*>(.*?)</td>", line) for line in lines)}
    share = intervals.of([step.relu_percent for step in passes])
    shown = f"{number_text(share.low, 2)} … {number_text(share.high, 2)}"
    assert cells["numpy.inplace"][1:7] == ["64", "16 ms", "15 ms … 17 ms", "fastest", "0.9", "4,000"]
    assert cells["numpy.inplace"][8:14] == ["25", "6.6 ms", "1.1 ms", "8.8 ms", "1.1 ms", shown]
    assert 'title="20 … 31.2">25<' in page
    assert 'title="1.99 … 2.01 times numpy.inplace">2<' in page
    assert cells["jax.fresh"][4:6] == ["2", "–"]
    assert cells["jax.fresh"][8:15] == ["–", *["–"] * 4, "– … –", "2.5 s"]
    assert cells["torch.fresh"][2] == "impossible"
    assert cells["torch.fresh"][8] == "10,000"
    assert {len(cells[name]) for name in ("numpy.inplace", "jax.fresh", "torch.fresh")} == {16}
    assert cells["torch"][2:9] == ["4,000,000", "4,000,000", "3,276,548", "9,000,000", "6,750,000", "2,250,000", "–"]
    assert "mnist_cnn in torch: <b>2.146 MiB</b> of 8.583 MiB (25 %), 0 B of what is saved for backward." in page
    assert f"<b>{number_text(share.value, 2)} %</b> ({shown}) of mnist_cnn in numpy.inplace." in page
    assert (out / "cnn.mnist_cnn-64.svg").exists()
    table = {
        row["variant"]: row
        for row in csv.DictReader(io.StringIO((out / "results.csv").read_text()))
        if row["quantity"] == "time"
    }
    assert float(table["numpy.inplace"]["backward_s"]) == pytest.approx(0.0088)
    assert table["jax.fresh"]["backward_s"] == ""


def against_rows(html: str) -> dict[str, list[str]]:
    """The cells of the rows that two runs have in common, by the first."""
    table = html.partition('id="against-rows"')[2].partition("</table>")[0]
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in table.split("<tr>")[2:]]
    return {line[0]: line[1:] for line in lines}


def of_two_commits(folder: Path) -> None:
    """A later commit that is twice as fast in forward, and as fast in backward."""
    forward, backward = time("forward", "numpy.out"), time("backward", "torch.fresh")
    write(folder / "results", content({forward: 2e-3, backward: 1e-3}))
    write(folder / "results", content({forward: 1e-3, backward: 1e-3}, LATER_COMMIT, started_ms=DATE_MS + 9 * DAY_MS))


@pytest.mark.parametrize("named", [COMMIT[:7], "file"])
def test_another_run_is_shown_beside_it(tmp_path, named):
    of_two_commits(tmp_path)
    if named == "file":
        other = tmp_path / "other"
        write(other / "results", content({time("forward", "numpy.out"): 2e-3}, "c" * 40))
        named = str(build(other) / "results.parquet")
    html = (build(tmp_path, "--against", named) / "index.html").read_text()
    shown = against_rows(html)
    assert shown["relu forward numpy.out 1048576 float32 time"] == ["1 ms", "2 ms", "0.5", "apart"]
    assert "numpy <b>0.5</b> of 1 time" in html
    if len(shown) > 1:
        assert shown["relu backward torch.fresh 1048576 float32 time"] == ["1 ms", "1 ms", "1", "overlap"]


@pytest.mark.parametrize(
    ("named", "message"), [("nowhere", "no results for"), ("text.parquet", "is no results.parquet")]
)
def test_an_unknown_run_to_show_beside_is_refused(tmp_path, capsys, named, message):
    of_two_commits(tmp_path)
    (tmp_path / "text.parquet").write_text("text")
    path = tmp_path / named
    assert main(tmp_path, "--out", str(tmp_path / "out"), "--against", str(path) if path.exists() else named) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_of_several_folders_are_merged_and_conflicts_are_named(tmp_path, capsys):
    of_two_commits(tmp_path)
    other = tmp_path / "other"
    conflicting = {time("forward", "numpy.out"): 7e-3, time("forward", "jax.fresh"): 3e-3}
    write(other / "results", content(conflicting))
    write(other / "results", content({time("forward", "torch.out"): 4e-3}), "den")
    html = (build(tmp_path, "--merge", str(other)) / "index.html").read_text()
    conflict = "relu forward numpy.out 1048576 float32 time of box, aaaaaaaa: 0.007, where another folder has 0.002"
    assert f"{other}: {conflict}" in html
    assert conflict in capsys.readouterr().err
    assert "<td>2 ms" in html
    assert "<td>7 ms" not in html
    assert "<td>3 ms" in html
    assert "<td>den" in html


def test_watching_writes_the_report_again_when_results_change(tmp_path):
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "outcomes", "out")]
    watching = subprocess.Popen(
        [sys.executable, "-m", "scripts.report", "--watch", *folders],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert watching.stderr is not None
    ending = threading.Timer(120, watching.kill)
    ending.start()
    try:
        assert "nothing to report" in watching.stderr.readline()
        # A record whose number asv has not stored yet.
        case = time("forward", "numpy.out")
        write_records(tmp_path / "outcomes", [record(case, value=2e-3)])
        assert "index.html" in watching.stderr.readline()
        assert "<td>2 ms" in (tmp_path / "out" / "index.html").read_text()
        write(tmp_path / "results", content({case: 2e-3, time("forward", "torch.out"): 5e-3}))
        assert "index.html" in watching.stderr.readline()
        assert "<td>5 ms" in (tmp_path / "out" / "index.html").read_text()
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
        ending.cancel()
        watching.stderr.close()


def test_an_impossible_time_is_in_no_history_and_shows_no_bandwidth_when_opened(tmp_path, browser):
    write(tmp_path / "results", content({IMPOSSIBLE: 1e-3, FRESH: 1e-3}))
    later = content({IMPOSSIBLE: 1e-7, FRESH: 1e-3}, LATER_COMMIT, date_ms=DATE_MS + DAY_MS)
    write(tmp_path / "results", later)
    roof_ratio = {"roof": Ratio(0.01, 0.005, 0.02, "scale.all")}
    about = {"commit": LATER_COMMIT, "interval": (0.9e-7, 1.1e-7), "ratios": roof_ratio}
    write_records(tmp_path / "outcomes", [record(IMPOSSIBLE, value=1e-7, processes=[process()], **about)])
    show(browser, build(tmp_path, "--commit", "b") / "index.html")
    assert "numpy.inplace" not in text(browser, "#history")
    assert "numpy.inplace" not in text(browser, "#answers")
    line = next(
        line for line in browser.find_elements(By.CSS_SELECTOR, "#results tbody tr") if "impossible" in text_of(line)
    )
    line.send_keys(Keys.ENTER)
    shown = text(browser, "tr.detail")
    assert "rounds: 15" in shown
    assert "bus gb per s" not in shown
    assert "low: " not in shown
